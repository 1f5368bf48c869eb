/*-------------------------------------------------------------------------
 *
 * vq_gpu_kmeans.cu
 *	  Steps of k-means over the sample on the devices.
 *
 * A step walks over the rows in chunks (vq_gpu_sample.cu).  Up to VQ_GPU_SLOTS
 * of them are under way at a device, so that copies and host work hide behind
 * computation.
 *
 * Sums.  The rows of a chunk are sorted by label (a stable sort), and each
 * centroid adds its rows up in that order, in double.  No atomics, so the same
 * input gives the same sums bit by bit, and nothing is lost when a few rows are
 * far longer than the others.  Where there are few centroids, each has several
 * partial sums, which are added in order at the end of the step.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu/vq_gpu_device.cuh"

#include <cub/device/device_radix_sort.cuh>

#include <string.h>

#define SUM_THREADS 128			/* dimensions of a block of add_rows_kernel */
#define MAX_SPLITS 64
#define BLOCKS_PER_MULTIPROCESSOR 8
#define ERROR_THREADS 1024

/*----------
 * Kernels
 *----------
 */

__global__ static void
count_up_kernel(uint32_t *numbers, uint32_t count)
{
	uint32_t	i = blockIdx.x * blockDim.x + threadIdx.x;

	if (i < count)
		numbers[i] = i;
}

/* starts[j] = how many of the sorted labels are below j, for j <= ncentroids */
__global__ static void
starts_kernel(const uint32_t *sorted_labels, uint32_t nrows, uint32_t ncentroids, uint32_t *starts)
{
	uint32_t	j = blockIdx.x * blockDim.x + threadIdx.x;
	uint32_t	low = 0;
	uint32_t	high = nrows;

	if (j > ncentroids)
		return;
	while (low < high)
	{
		uint32_t	middle = low + (high - low) / 2;

		if (sorted_labels[middle] < j)
			low = middle + 1;
		else
			high = middle;
	}
	starts[j] = low;
}

__global__ static void
add_counts_kernel(const uint32_t *starts, uint32_t ncentroids, uint64_t *counts)
{
	uint32_t	j = blockIdx.x * blockDim.x + threadIdx.x;

	if (j < ncentroids)
		counts[j] += starts[j + 1] - starts[j];
}

/*
 * Add the rows of a chunk to the sums of their centroids.  A block is one part
 * of one centroid's rows and SUM_THREADS of the dimensions; it alone writes
 * its place in sums, double[nsplits][ncentroids][dim].
 */
__global__ static void
add_rows_kernel(const float *rows, size_t stride, uint32_t dim, const uint32_t *sorted_rows,
				const uint32_t *starts, uint32_t ncentroids, uint32_t nsplits, double *sums)
{
	uint32_t	centroid = blockIdx.x / nsplits;
	uint32_t	split = blockIdx.x % nsplits;
	uint32_t	d = blockIdx.y * SUM_THREADS + threadIdx.x;
	uint32_t	start = starts[centroid];
	uint64_t	count = starts[centroid + 1] - start;
	uint32_t	i = start + (uint32_t) (count * split / nsplits);
	uint32_t	end = start + (uint32_t) (count * (split + 1) / nsplits);
	double		sum = 0;

	if (d >= dim || i == end)
		return;

	/* Four loads under way at a time, added in order */
	for (; i + 4 <= end; i += 4)
	{
		float		a = rows[sorted_rows[i] * stride + d];
		float		b = rows[sorted_rows[i + 1] * stride + d];
		float		c = rows[sorted_rows[i + 2] * stride + d];
		float		e = rows[sorted_rows[i + 3] * stride + d];

		sum += a;
		sum += b;
		sum += c;
		sum += e;
	}
	for (; i < end; i++)
		sum += rows[sorted_rows[i] * stride + d];
	sums[((size_t) split * ncentroids + centroid) * dim + d] += sum;
}

/* sums[0][i] := sum over splits of sums[split][i] */
__global__ static void
add_splits_kernel(double *sums, size_t count, uint32_t nsplits)
{
	size_t		i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;
	double		sum = 0;

	if (i >= count)
		return;
	for (uint32_t split = 0; split < nsplits; split++)
		sum += sums[split * count + i];
	sums[i] = sum;
}

/* *error += sum of distances; one block */
__global__ static void
add_error_kernel(const float *distances, uint32_t nrows, double *error)
{
	__shared__ double parts[ERROR_THREADS];
	double		sum = 0;

	for (uint32_t i = threadIdx.x; i < nrows; i += ERROR_THREADS)
		sum += distances[i];
	parts[threadIdx.x] = sum;
	for (uint32_t half = ERROR_THREADS / 2; half > 0; half /= 2)
	{
		__syncthreads();
		if (threadIdx.x < half)
			parts[threadIdx.x] += parts[threadIdx.x + half];
	}
	if (threadIdx.x == 0)
		*error += parts[0];
}

/*----------
 * Memory for sums
 *----------
 */

static cudaError_t
sort_labels(VqGpuState *device, void *work, size_t *work_bytes, const uint32_t *labels,
			size_t nrows, int nbits)
{
	return cub::DeviceRadixSort::SortPairs(work, *work_bytes, labels, device->sorted_labels,
										   device->row_numbers, device->sorted_rows, (int) nrows,
										   0, nbits, device->compute);
}

static size_t
sum_places(const VqGpuState *device, size_t max_centroids)
{
	size_t		blocks = (size_t) device->properties.multiProcessorCount * BLOCKS_PER_MULTIPROCESSOR;

	return vq_gpu_max(max_centroids, vq_gpu_min(max_centroids * MAX_SPLITS, blocks));
}

VqGpuStatus
vq_gpu_sums_bytes(VqGpuState *device, size_t chunk_rows, size_t *bytes)
{
	VqGpu	   *gpu = device->gpu;
	size_t		nc = gpu->max_centroids;
	size_t		sort_bytes = 0;

	TRY(vq_gpu_use(device));
	CUDA(gpu, sort_labels(device, NULL, &sort_bytes, NULL, chunk_rows, 32));
	device->sort_work_bytes = sort_bytes;
	*bytes = sum_places(device, nc) * gpu->dim * sizeof(double) + nc * (sizeof(uint64_t) + sizeof(uint32_t)) +
		chunk_rows * 3 * sizeof(uint32_t) + sort_bytes;
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_sums_alloc(VqGpuState *device)
{
	VqGpu	   *gpu = device->gpu;
	size_t		rows = gpu->chunk_rows;

	device->sum_places = sum_places(device, gpu->max_centroids);
	TRY(vq_gpu_alloc(device, SCOPE_SAMPLE, device->sum_places * gpu->dim, &device->sums));
	TRY(vq_gpu_alloc(device, SCOPE_SAMPLE, gpu->max_centroids, &device->counts));
	TRY(vq_gpu_alloc(device, SCOPE_SAMPLE, gpu->max_centroids + 1, &device->starts));
	TRY(vq_gpu_alloc(device, SCOPE_SAMPLE, 1, &device->error));
	TRY(vq_gpu_alloc(device, SCOPE_SAMPLE, rows, &device->row_numbers));
	TRY(vq_gpu_alloc(device, SCOPE_SAMPLE, rows, &device->sorted_rows));
	TRY(vq_gpu_alloc(device, SCOPE_SAMPLE, rows, &device->sorted_labels));
	TRY(vq_gpu_alloc_bytes(device, SCOPE_SAMPLE, device->sort_work_bytes, 1, false, &device->sort_work));
	count_up_kernel<<<(unsigned) vq_gpu_divide_up(rows, 256), 256, 0, device->compute>>>
		(device->row_numbers, (uint32_t) rows);
	LAUNCHED(gpu, "count_up_kernel");
	return VQ_GPU_OK;
}

/*----------
 * One step
 *----------
 */

/* What is left to do of a step, for one device */
struct Walk
{
	size_t		resident_next;	/* row of the sample */
	size_t		resident_end;
	size_t		kept_next;
	size_t		kept_end;
	int			turn;			/* slot of the next chunk */
};

struct Step
{
	size_t		first_row;
	size_t		nrows;
	size_t		ncentroids;
	int			label_bits;
	bool		wants_sums;
	uint32_t   *labels;
	float	   *distances;
};

static void
begin_walk(const VqGpu *gpu, int d, const Step *step, Walk *walk)
{
	const VqGpuState *device = &gpu->devices[d];
	size_t		end = step->first_row + step->nrows;

	walk->resident_next = vq_gpu_max(step->first_row, device->resident_first);
	walk->resident_end = vq_gpu_min(end, device->resident_first + device->resident_rows);
	walk->kept_next = vq_gpu_max(step->first_row, gpu->resident_rows) + (size_t) d * gpu->chunk_rows;
	walk->kept_end = end;
	walk->turn = 0;
}

/* The next chunk of a walk; *rows is NULL if it is with the caller.  False at the end. */
static bool
next_chunk(const VqGpu *gpu, int d, Walk *walk, size_t *first, size_t *nrows, const float **rows)
{
	const VqGpuState *device = &gpu->devices[d];

	if (walk->resident_next < walk->resident_end)
	{
		*first = walk->resident_next;
		*nrows = vq_gpu_min(gpu->chunk_rows, walk->resident_end - *first);
		*rows = device->resident + (*first - device->resident_first) * gpu->stride;
		walk->resident_next += *nrows;
		return true;
	}
	if (walk->kept_next < walk->kept_end)
	{
		*first = walk->kept_next;
		*nrows = vq_gpu_min(gpu->chunk_rows, walk->kept_end - *first);
		*rows = NULL;
		walk->kept_next += (size_t) gpu->ndevices * gpu->chunk_rows;
		return true;
	}
	return false;
}

static uint32_t
splits_of(const VqGpuState *device, size_t ncentroids)
{
	return (uint32_t) vq_gpu_max(1, vq_gpu_min(MAX_SPLITS, device->sum_places / ncentroids));
}

static VqGpuStatus
begin_device(VqGpuState *device, const float *centroids, const Step *step)
{
	VqGpu	   *gpu = device->gpu;
	size_t		nsums = (size_t) splits_of(device, step->ncentroids) * step->ncentroids * gpu->dim;

	for (int s = 0; s < VQ_GPU_SLOTS; s++)
		device->slots[s].is_pending = false;
	TRY(vq_gpu_set_centroids(device, &device->centroids, centroids, step->ncentroids));
	if (step->wants_sums)
	{
		CUDA(gpu, cudaMemsetAsync(device->sums, 0, nsums * sizeof(double), device->compute));
		CUDA(gpu, cudaMemsetAsync(device->counts, 0, step->ncentroids * sizeof(uint64_t), device->compute));
		CUDA(gpu, cudaMemsetAsync(device->error, 0, sizeof(double), device->compute));
	}
	return VQ_GPU_OK;
}

static VqGpuStatus
add_chunk(VqGpuState *device, const VqGpuSlot *slot, const float *rows, const Step *step)
{
	VqGpu	   *gpu = device->gpu;
	size_t		nc = step->ncentroids;
	uint32_t	nsplits = splits_of(device, nc);
	size_t		work_bytes = device->sort_work_bytes;
	dim3		blocks((unsigned) (nc * nsplits), (unsigned) vq_gpu_divide_up(gpu->dim, SUM_THREADS));

	CUDA(gpu, sort_labels(device, device->sort_work, &work_bytes, slot->labels, slot->nrows, step->label_bits));
	starts_kernel<<<(unsigned) vq_gpu_divide_up(nc + 1, 256), 256, 0, device->compute>>>
		(device->sorted_labels, (uint32_t) slot->nrows, (uint32_t) nc, device->starts);
	LAUNCHED(gpu, "starts_kernel");
	add_counts_kernel<<<(unsigned) vq_gpu_divide_up(nc, 256), 256, 0, device->compute>>>
		(device->starts, (uint32_t) nc, device->counts);
	LAUNCHED(gpu, "add_counts_kernel");
	add_rows_kernel<<<blocks, SUM_THREADS, 0, device->compute>>>
		(rows, gpu->stride, (uint32_t) gpu->dim, device->sorted_rows, device->starts,
		 (uint32_t) nc, nsplits, device->sums);
	LAUNCHED(gpu, "add_rows_kernel");
	add_error_kernel<<<1, ERROR_THREADS, 0, device->compute>>>
		(slot->distances, (uint32_t) slot->nrows, device->error);
	LAUNCHED(gpu, "add_error_kernel");
	return VQ_GPU_OK;
}

static VqGpuStatus
start_chunk(VqGpuState *device, VqGpuSlot *slot, size_t first, size_t nrows, const float *rows,
			const Step *step)
{
	VqGpu	   *gpu = device->gpu;

	TRY(vq_gpu_use(device));
	slot->first_row = first - step->first_row;
	slot->nrows = nrows;
	if (rows == NULL)
	{
		vq_gpu_copy_kept_rows(gpu, first, nrows, slot->host_rows);
		CUDA(gpu, cudaMemcpyAsync(slot->rows, slot->host_rows, nrows * gpu->stride * sizeof(float),
								  cudaMemcpyHostToDevice, device->copy_in));
		CUDA(gpu, cudaEventRecord(slot->copied_in, device->copy_in));
		CUDA(gpu, cudaStreamWaitEvent(device->compute, slot->copied_in, 0));
		rows = slot->rows;
	}
	TRY(vq_gpu_assign(device, &device->centroids, &device->assign, rows, nrows, slot->labels, slot->distances));
	if (step->wants_sums)
		TRY(add_chunk(device, slot, rows, step));
	CUDA(gpu, cudaEventRecord(slot->computed, device->compute));
	CUDA(gpu, cudaStreamWaitEvent(device->copy_out, slot->computed, 0));
	if (step->labels != NULL)
		CUDA(gpu, cudaMemcpyAsync(slot->host_labels, slot->labels, nrows * sizeof(uint32_t),
								  cudaMemcpyDeviceToHost, device->copy_out));
	if (step->distances != NULL)
		CUDA(gpu, cudaMemcpyAsync(slot->host_distances, slot->distances, nrows * sizeof(float),
								  cudaMemcpyDeviceToHost, device->copy_out));
	CUDA(gpu, cudaEventRecord(slot->done, device->copy_out));
	slot->is_pending = true;
	return VQ_GPU_OK;
}

static VqGpuStatus
finish_chunk(VqGpuState *device, VqGpuSlot *slot, const Step *step)
{
	if (!slot->is_pending)
		return VQ_GPU_OK;
	TRY(vq_gpu_wait(device, slot->done));
	slot->is_pending = false;
	if (step->labels != NULL)
		memcpy(step->labels + slot->first_row, slot->host_labels, slot->nrows * sizeof(uint32_t));
	if (step->distances != NULL)
		memcpy(step->distances + slot->first_row, slot->host_distances, slot->nrows * sizeof(float));
	return VQ_GPU_OK;
}

template<typename T>
static VqGpuStatus
start_piece(VqGpuState *device, VqGpuSlot *slot, const T *from, size_t count)
{
	CUDA(device->gpu, cudaMemcpyAsync(slot->host_piece, from, count * sizeof(T), cudaMemcpyDeviceToHost, device->compute));
	CUDA(device->gpu, cudaEventRecord(slot->done, device->compute));
	return VQ_GPU_OK;
}

/*
 * to[i] := from[i], or += if the sums of another device are there.  Pieces are copied
 * while the host is at the ones before; no chunk is under way.
 */
template<typename T>
static VqGpuStatus
bring_home(VqGpuState *device, const T *from, size_t count, bool is_first, T *to)
{
	const size_t piece = VQ_GPU_PIECE_BYTES / sizeof(T);
	const size_t ahead = VQ_GPU_SLOTS * piece;

	for (size_t first = 0; first < vq_gpu_min(count, ahead); first += piece)
		TRY(start_piece(device, &device->slots[first / piece], from + first, vq_gpu_min(piece, count - first)));
	for (size_t first = 0; first < count; first += piece)
	{
		VqGpuSlot  *slot = &device->slots[first / piece % VQ_GPU_SLOTS];
		const T    *arrived = (const T *) slot->host_piece;
		size_t		n = vq_gpu_min(piece, count - first);

		TRY(vq_gpu_wait(device, slot->done));
		if (is_first)
			memcpy(to + first, arrived, n * sizeof(T));
		else
			for (size_t i = 0; i < n; i++)
				to[first + i] += arrived[i];
		if (first + ahead < count)
			TRY(start_piece(device, slot, from + first + ahead, vq_gpu_min(piece, count - first - ahead)));
	}
	return VQ_GPU_OK;
}

/* Bring a device's sums home; the first device's are written, those of others added */
static VqGpuStatus
collect_sums(VqGpuState *device, const Step *step, bool is_first, VqKmeansSums *sums)
{
	size_t		nc = step->ncentroids;
	size_t		nsums = nc * device->gpu->dim;
	uint32_t	nsplits = splits_of(device, nc);

	TRY(vq_gpu_use(device));
	if (nsplits > 1)
	{
		add_splits_kernel<<<(unsigned) vq_gpu_divide_up(nsums, 256), 256, 0, device->compute>>>
			(device->sums, nsums, nsplits);
		LAUNCHED(device->gpu, "add_splits_kernel");
	}
	TRY(bring_home(device, device->sums, nsums, is_first, sums->sums));
	TRY(bring_home(device, device->counts, nc, is_first, sums->counts));
	return bring_home(device, device->error, 1, is_first, &sums->error);
}

static VqGpuStatus
kmeans_step(VqGpu *gpu, size_t first_row, size_t nrows, const float *centroids, size_t ncentroids,
			VqKmeansSums *sums, uint32_t *labels, float *distances)
{
	Step		step;
	Walk		walks[VQ_GPU_MAX_DEVICES];
	bool		is_busy = true;

	if (!gpu->has_sample || first_row > gpu->added_rows || nrows > gpu->added_rows - first_row ||
		ncentroids < 1 || ncentroids > gpu->max_centroids ||
		(sums != NULL && (sums->ncentroids != ncentroids || sums->dim != gpu->dim)))
		return vq_gpu_fail(gpu->error, VQ_GPU_BAD_ARGUMENT,
						   "a step over rows %zu to %zu and %zu centroids, of %zu and %zu", first_row,
						   first_row + nrows, ncentroids, gpu->has_sample ? gpu->added_rows : 0,
						   gpu->has_sample ? gpu->max_centroids : 0);
	step.first_row = first_row;
	step.nrows = nrows;
	step.ncentroids = ncentroids;
	step.wants_sums = sums != NULL;
	step.labels = labels;
	step.distances = distances;
	for (step.label_bits = 1; ((size_t) 1 << step.label_bits) < ncentroids; step.label_bits++)
		;

	for (int d = 0; d < gpu->ndevices; d++)
	{
		TRY(begin_device(&gpu->devices[d], centroids, &step));
		begin_walk(gpu, d, &step, &walks[d]);
	}
	while (is_busy)
	{
		is_busy = false;
		for (int d = 0; d < gpu->ndevices; d++)
		{
			VqGpuState *device = &gpu->devices[d];
			VqGpuSlot  *slot = &device->slots[walks[d].turn];
			size_t		first;
			size_t		count;
			const float *rows;

			if (!next_chunk(gpu, d, &walks[d], &first, &count, &rows))
				continue;
			is_busy = true;
			TRY(vq_gpu_stop_requested(gpu));
			TRY(finish_chunk(device, slot, &step));
			TRY(start_chunk(device, slot, first, count, rows, &step));
			walks[d].turn = (walks[d].turn + 1) % VQ_GPU_SLOTS;
		}
	}
	for (int d = 0; d < gpu->ndevices; d++)
		for (int s = 0; s < VQ_GPU_SLOTS; s++)
			TRY(finish_chunk(&gpu->devices[d], &gpu->devices[d].slots[s], &step));
	for (int d = 0; d < gpu->ndevices && sums != NULL; d++)
		TRY(collect_sums(&gpu->devices[d], &step, d == 0, sums));
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_kmeans_step(VqGpu *gpu, size_t first_row, size_t nrows, const float *centroids, size_t ncentroids,
				   VqKmeansSums *sums, uint32_t *labels, float *distances, VqGpuError *error)
{
	TRY(vq_gpu_begin(gpu, error));
	return vq_gpu_finish(gpu, kmeans_step(gpu, first_row, nrows, centroids, ncentroids, sums, labels, distances));
}
