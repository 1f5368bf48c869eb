/*-------------------------------------------------------------------------
 *
 * vq_gpu_sample.cu
 *	  The sample: which rows lie on the devices, and how the others get there.
 *
 * Rows are dealt out once: the first ones, as many as fit, lie on the devices,
 * the same number on each that has room for it; the rest stay with the caller
 * and are streamed, chunk by chunk in turn, through pinned buffers.  A chunk is
 * what a device handles in a fraction of a second, so that a request to stop
 * is heard.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu/vq_gpu_device.cuh"

#include <stdlib.h>
#include <string.h>

/* A chunk is not made smaller than this to save memory */
#define MIN_CHUNK_ROWS 256

/*----------
 * The plan
 *----------
 */

/* Bytes of everything but the resident rows */
static VqGpuStatus
workspace_bytes(VqGpuState *device, size_t chunk_rows, size_t *bytes)
{
	VqGpu	   *gpu = device->gpu;
	size_t		sum_bytes;

	TRY(vq_gpu_sums_bytes(device, chunk_rows, &sum_bytes));
	*bytes = vq_gpu_assign_bytes(device, gpu->stride, gpu->max_centroids, chunk_rows) + sum_bytes +
		VQ_GPU_SLOTS * chunk_rows * (gpu->stride * sizeof(float) + sizeof(uint32_t) + sizeof(float)) +
		16384;
	return VQ_GPU_OK;
}

static VqGpuStatus
alloc_slots(VqGpuState *device)
{
	VqGpu	   *gpu = device->gpu;
	size_t		rows = gpu->chunk_rows;

	TRY(vq_gpu_pin_rows(device, rows, gpu->dim, gpu->stride));
	for (int s = 0; s < VQ_GPU_SLOTS; s++)
	{
		VqGpuSlot  *slot = &device->slots[s];

		slot->is_pending = false;
		slot->batch.capacity = rows;
		TRY(vq_gpu_alloc_host(device, SCOPE_SAMPLE, rows, &slot->host_labels));
		TRY(vq_gpu_alloc_host(device, SCOPE_SAMPLE, rows, &slot->host_distances));
		TRY(vq_gpu_alloc(device, SCOPE_SAMPLE, rows * gpu->stride, &slot->rows));
		TRY(vq_gpu_alloc(device, SCOPE_SAMPLE, rows, &slot->labels));
		TRY(vq_gpu_alloc(device, SCOPE_SAMPLE, rows, &slot->distances));
	}
	return VQ_GPU_OK;
}

static VqGpuStatus
alloc_workspace(VqGpuState *device)
{
	VqGpu	   *gpu = device->gpu;

	TRY(alloc_slots(device));
	TRY(vq_gpu_assign_alloc(device, SCOPE_SAMPLE, gpu->dim, gpu->stride, gpu->max_centroids, gpu->chunk_rows,
							&device->centroids, &device->assign));
	return vq_gpu_sums_alloc(device);
}

/*
 * Memory for the rows that stay, of those left as many as this device is to have.  What
 * others take between a look at the memory and this makes them fewer.
 */
static VqGpuStatus
alloc_resident(VqGpuState *device, size_t nrows)
{
	VqGpu	   *gpu = device->gpu;
	size_t		row_bytes = gpu->stride * sizeof(float);
	VqGpuStatus status;

	for (;;)
	{
		size_t		room = vq_gpu_left(device);

		/* A little is kept back for the training of codes */
		device->resident_rows = vq_gpu_min(nrows, (room - room / 8) / row_bytes);
		status = vq_gpu_alloc(device, SCOPE_SAMPLE, device->resident_rows * gpu->stride, &device->resident);
		if (status != VQ_GPU_NO_MEMORY || device->resident_rows == 0)
			return status;
		TRY(vq_gpu_look_at_memory(device));
		nrows = device->resident_rows / 2;
	}
}

/*
 * Decide on the size of chunks, and on how many rows each device keeps.  Chunks
 * shrink until the workspace leaves at least half of the memory to rows, or
 * can shrink no more.
 */
static VqGpuStatus
plan_sample(VqGpu *gpu)
{
	size_t		left = gpu->sample_rows;

	gpu->chunk_rows = vq_gpu_chunk_rows(gpu->dim, gpu->stride, gpu->max_centroids,
										vq_gpu_max(gpu->sample_rows, 1));
	for (int d = 0; d < gpu->ndevices; d++)
	{
		VqGpuState *device = &gpu->devices[d];

		TRY(vq_gpu_look_at_memory(device));
		for (;;)
		{
			size_t		bytes;

			TRY(workspace_bytes(device, gpu->chunk_rows, &bytes));
			if (bytes <= device->budget / 2 || gpu->chunk_rows <= MIN_CHUNK_ROWS)
				break;
			gpu->chunk_rows = vq_gpu_max(gpu->chunk_rows / 2, MIN_CHUNK_ROWS);
		}
	}
	gpu->resident_rows = 0;
	for (int d = 0; d < gpu->ndevices; d++)
	{
		VqGpuState *device = &gpu->devices[d];
		size_t		share = vq_gpu_divide_up(left, (size_t) (gpu->ndevices - d));
		size_t		bytes;

		TRY(workspace_bytes(device, gpu->chunk_rows, &bytes));	/* once more: of the final size */
		TRY(alloc_workspace(device));
		device->resident_first = gpu->resident_rows;
		TRY(alloc_resident(device, share));
		gpu->resident_rows += device->resident_rows;
		left -= device->resident_rows;
	}
	return VQ_GPU_OK;
}

static VqGpuStatus
sample_begin(VqGpu *gpu, size_t dim, size_t nrows, size_t max_centroids)
{
	if (dim < 1 || dim > VQ_MAX_DIM || max_centroids < 1 || max_centroids > UINT32_MAX / 2 ||
		nrows > SIZE_MAX / sizeof(float) / VQ_MAX_DIM)
		return vq_gpu_fail(gpu->error, VQ_GPU_BAD_ARGUMENT,
						   "a sample of %zu rows of %zu dimensions for %zu centroids", nrows, dim, max_centroids);
	vq_gpu_encode_end(gpu);
	vq_gpu_sample_end(gpu);
	gpu->dim = dim;
	gpu->stride = vq_gpu_stride(gpu, dim);
	gpu->sample_rows = nrows;
	gpu->max_centroids = max_centroids;
	gpu->added_rows = 0;
	gpu->has_sample = true;
	return plan_sample(gpu);
}

VqGpuStatus
vq_gpu_sample_begin(VqGpu *gpu, size_t dim, size_t nrows, size_t max_centroids,
					size_t *nresident, VqGpuError *error)
{
	VqGpuStatus status;

	*nresident = 0;
	TRY(vq_gpu_begin(gpu, error));
	status = sample_begin(gpu, dim, nrows, max_centroids);
	if (status == VQ_GPU_OK)
		*nresident = gpu->resident_rows;
	return vq_gpu_finish(gpu, status);
}

void
vq_gpu_sample_end(VqGpu *gpu)
{
	vq_gpu_free_scope(gpu, SCOPE_SAMPLE);
	free(gpu->pieces);
	gpu->pieces = NULL;
	gpu->npieces = gpu->pieces_capacity = 0;
	gpu->has_sample = false;
}

/*----------
 * Rows
 *----------
 */

void
vq_gpu_copy_rows(const float *from, size_t nrows, size_t dim, size_t stride, float *to)
{
	if (dim == stride)
		memcpy(to, from, nrows * dim * sizeof(float));
	else
		for (size_t i = 0; i < nrows; i++)
			memcpy(to + i * stride, from + i * dim, dim * sizeof(float));
}

void
vq_gpu_copy_kept_rows(const VqGpu *gpu, size_t first_row, size_t nrows, float *to)
{
	size_t		low = 0;
	size_t		high = gpu->npieces;

	/* The last piece that begins at or before first_row */
	while (high - low > 1)
	{
		size_t		middle = low + (high - low) / 2;

		if (gpu->pieces[middle].first_row <= first_row)
			low = middle;
		else
			high = middle;
	}
	for (; nrows > 0; low++)
	{
		const VqGpuPiece *piece = &gpu->pieces[low];
		size_t		skipped = first_row - piece->first_row;
		size_t		n = vq_gpu_min(nrows, piece->nrows - skipped);

		vq_gpu_copy_rows(piece->rows + skipped * gpu->dim, n, gpu->dim, gpu->stride, to);
		to += n * gpu->stride;
		first_row += n;
		nrows -= n;
	}
}

/* Send rows to the device that keeps them, in chunks, while the next ones are prepared */
static VqGpuStatus
send_resident(VqGpuState *device, size_t place, const float *rows, size_t nrows)
{
	VqGpu	   *gpu = device->gpu;
	int			s = 0;

	TRY(vq_gpu_use(device));
	for (size_t first = 0; first < nrows; first += gpu->chunk_rows)
	{
		VqGpuSlot  *slot = &device->slots[s];
		size_t		n = vq_gpu_min(gpu->chunk_rows, nrows - first);

		TRY(vq_gpu_stop_requested(gpu));
		if (slot->is_pending)
			TRY(vq_gpu_wait(device, slot->copied_in));
		vq_gpu_copy_rows(rows + first * gpu->dim, n, gpu->dim, gpu->stride, slot->host_rows);
		CUDA(gpu, cudaMemcpyAsync(device->resident + (place + first) * gpu->stride, slot->host_rows,
								  n * gpu->stride * sizeof(float), cudaMemcpyHostToDevice, device->copy_in));
		CUDA(gpu, cudaEventRecord(slot->copied_in, device->copy_in));
		slot->is_pending = true;
		s = (s + 1) % VQ_GPU_SLOTS;
	}

	/* The buffers are used by other calls next */
	TRY(vq_gpu_wait_stream(device, device->copy_in));
	for (s = 0; s < VQ_GPU_SLOTS; s++)
		device->slots[s].is_pending = false;
	return VQ_GPU_OK;
}

static VqGpuStatus
keep_piece(VqGpu *gpu, const float *rows, size_t first_row, size_t nrows)
{
	if (gpu->npieces == gpu->pieces_capacity)
	{
		size_t		capacity = vq_gpu_max(16, 2 * gpu->pieces_capacity);
		VqGpuPiece *pieces = (VqGpuPiece *) realloc(gpu->pieces, capacity * sizeof(VqGpuPiece));

		if (pieces == NULL)
			return vq_gpu_fail(gpu->error, VQ_GPU_NO_MEMORY, "out of memory on the host");
		gpu->pieces = pieces;
		gpu->pieces_capacity = capacity;
	}
	gpu->pieces[gpu->npieces].rows = rows;
	gpu->pieces[gpu->npieces].first_row = first_row;
	gpu->pieces[gpu->npieces].nrows = nrows;
	gpu->npieces++;
	return VQ_GPU_OK;
}

static VqGpuStatus
sample_add(VqGpu *gpu, const float *rows, size_t nrows)
{
	if (!gpu->has_sample || nrows > gpu->sample_rows - gpu->added_rows)
		return vq_gpu_fail(gpu->error, VQ_GPU_BAD_ARGUMENT,
						   "%zu rows for a sample of %zu that has %zu", nrows,
						   gpu->has_sample ? gpu->sample_rows : 0, gpu->has_sample ? gpu->added_rows : 0);
	for (int d = 0; d < gpu->ndevices; d++)
	{
		VqGpuState *device = &gpu->devices[d];
		size_t		end = device->resident_first + device->resident_rows;
		size_t		n;

		if (nrows == 0 || gpu->added_rows >= end)
			continue;
		n = vq_gpu_min(nrows, end - gpu->added_rows);
		TRY(send_resident(device, gpu->added_rows - device->resident_first, rows, n));
		rows += n * gpu->dim;
		nrows -= n;
		gpu->added_rows += n;
	}
	if (nrows > 0)
	{
		TRY(keep_piece(gpu, rows, gpu->added_rows, nrows));
		gpu->added_rows += nrows;
	}
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_sample_add(VqGpu *gpu, const float *rows, size_t nrows, VqGpuError *error)
{
	TRY(vq_gpu_begin(gpu, error));
	return vq_gpu_finish(gpu, sample_add(gpu, rows, nrows));
}
