/*-------------------------------------------------------------------------
 *
 * vq_gpu_pq.cu
 *	  Codes of residuals, and the training of their codebook.
 *
 * Points are kept transposed, a row for each dimension: neighbouring threads
 * have neighbouring points, so every read is a whole line, whatever the number
 * of dimensions of a sub-quantiser.
 *
 * Training is vq_pq_train: the device codes all points and adds them up, the
 * host makes the centroids, by the same functions as on the CPU.  So codebooks
 * differ from the CPU's by rounding only, as long as no point is equally near
 * to two centroids.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu/vq_gpu_device.cuh"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILE 32					/* of a transposition */
#define CODE_THREADS 256		/* points of a block that codes */
#define GROUP 16				/* centroids compared at a time; divides ksub */

/* Floats of codebook that a block keeps */
#define WHOLE_FLOATS 8192
#define PART_DIMS 32

#define SUM_THREADS 256
#define SUM_DIMS 4				/* dimensions that a thread adds up in one pass */
#define SUM_CODES 4096			/* codes of a block at a time */
#define MAX_SLICES 32			/* partial sums of each centroid */

#define PIECE_ROWS 16384		/* residuals that are sent at a time */

/*----------
 * Kernels
 *----------
 */

__global__ static void
transpose_kernel(const float *rows, size_t stride, uint32_t nrows, uint32_t dim,
				 uint32_t npoints, size_t ld, float *points)
{
	__shared__ float tile[TILE][TILE + 1];
	uint32_t	first_row = blockIdx.x * TILE;
	uint32_t	first_dim = blockIdx.y * TILE;
	uint32_t	d = first_dim + threadIdx.x;
	uint32_t	row = first_row + threadIdx.x;

	for (uint32_t y = threadIdx.y; y < TILE; y += blockDim.y)
	{
		uint32_t	from = first_row + y;

		tile[y][threadIdx.x] = from < nrows && d < dim ? rows[from * stride + d] : 0;
	}
	__syncthreads();
	for (uint32_t y = threadIdx.y; y < TILE; y += blockDim.y)
	{
		if (row < nrows && first_dim + y < npoints)
			points[(first_dim + y) * ld + row] = tile[threadIdx.x][y];
	}
}

VqGpuStatus
vq_gpu_transpose(VqGpuState *device, const float *rows, size_t stride, size_t nrows,
				 size_t dim, size_t npoints, size_t ld, float *points)
{
	dim3		blocks((unsigned) vq_gpu_divide_up(nrows, TILE), (unsigned) vq_gpu_divide_up(npoints, TILE));
	dim3		threads(TILE, 8);

	transpose_kernel<<<blocks, threads, 0, device->compute>>>
		(rows, stride, (uint32_t) nrows, (uint32_t) dim, (uint32_t) npoints, ld, points);
	LAUNCHED(device->gpu, "transpose_kernel");
	return VQ_GPU_OK;
}

/*
 * codes[j][i] = the nearest of ksub centroids of sub-quantiser j to point i,
 * the lowest on a tie.  Block (x, j) has CODE_THREADS points, one a thread, which
 * compares its point with GROUP centroids at a time, kept in registers.  The
 * codebook is in shared memory: whole if it fits,
 * else GROUP centroids and PART_DIMS dimensions at a time.
 */
template<bool is_whole>
__global__ static void
codes_kernel(const float *points, size_t ld, uint32_t nrows, const float *codebook,
			 uint32_t dsub, uint32_t ksub, uint8_t *codes)
{
	extern __shared__ float4 shared_part[];
	float	   *part = (float *) shared_part;
	uint32_t	i = blockIdx.x * CODE_THREADS + threadIdx.x;
	uint32_t	j = blockIdx.y;
	bool		is_row = i < nrows;
	const float *point = points + (size_t) j * dsub * ld + (is_row ? i : 0);
	const float *centroids = codebook + (size_t) j * dsub * ksub;
	float		least = INFINITY;
	uint32_t	nearest = 0;

	if (is_whole)
	{
		for (uint32_t t = threadIdx.x; t < dsub * ksub; t += CODE_THREADS)
			part[t] = centroids[t];
		__syncthreads();
	}
	for (uint32_t first = 0; first < ksub; first += GROUP)
	{
		float		sums[GROUP] = {0};

		for (uint32_t first_dim = 0; first_dim < dsub; first_dim += PART_DIMS)
		{
			uint32_t	ndims = min(dsub - first_dim, (uint32_t) PART_DIMS);

			if (!is_whole)
			{
				__syncthreads();
				for (uint32_t t = threadIdx.x; t < ndims * GROUP; t += CODE_THREADS)
					part[t] = centroids[(first_dim + t / GROUP) * ksub + first + t % GROUP];
				__syncthreads();
			}
			for (uint32_t d = 0; d < ndims; d++)
			{
				float		x = point[(first_dim + d) * ld];
				const float4 *c = (const float4 *)
					(is_whole ? part + (first_dim + d) * ksub + first : part + d * GROUP);

#pragma unroll
				for (int k = 0; k < GROUP; k += 4)
				{
					float4		four = c[k / 4];
					float		diff0 = x - four.x;
					float		diff1 = x - four.y;
					float		diff2 = x - four.z;
					float		diff3 = x - four.w;

					sums[k] = fmaf(diff0, diff0, sums[k]);
					sums[k + 1] = fmaf(diff1, diff1, sums[k + 1]);
					sums[k + 2] = fmaf(diff2, diff2, sums[k + 2]);
					sums[k + 3] = fmaf(diff3, diff3, sums[k + 3]);
				}
			}
		}
#pragma unroll
		for (int k = 0; k < GROUP; k++)
		{
			if (sums[k] < least)
			{
				least = sums[k];
				nearest = first + k;
			}
		}
	}
	if (is_row)
		codes[(size_t) j * ld + i] = (uint8_t) nearest;
}

VqGpuStatus
vq_gpu_codes(VqGpuState *device, const float *points, size_t ld, size_t nrows,
			 const float *codebook, size_t nsub, size_t dsub, size_t ksub,
			 uint8_t *codes)
{
	dim3		blocks((unsigned) vq_gpu_divide_up(nrows, CODE_THREADS), (unsigned) nsub);
	size_t		whole_bytes = dsub * ksub * sizeof(float);
	size_t		part_bytes = PART_DIMS * GROUP * sizeof(float);

	if (dsub * ksub <= WHOLE_FLOATS)
		codes_kernel<true><<<blocks, CODE_THREADS, whole_bytes, device->compute>>>
			(points, ld, (uint32_t) nrows, codebook, (uint32_t) dsub, (uint32_t) ksub, codes);
	else
		codes_kernel<false><<<blocks, CODE_THREADS, part_bytes, device->compute>>>
			(points, ld, (uint32_t) nrows, codebook, (uint32_t) dsub, (uint32_t) ksub, codes);
	LAUNCHED(device->gpu, "codes_kernel");
	return VQ_GPU_OK;
}

/* Sum over the lanes that share a code, in order; valid in lane 0.  All threads of the block call it. */
__device__ static inline double
sum_over_lanes(double value, uint32_t nlanes, uint32_t ksub, double *parts)
{
	double		total = 0;

	__syncthreads();
	parts[threadIdx.x] = value;
	__syncthreads();
	if (threadIdx.x < ksub)
		for (uint32_t lane = 0; lane < nlanes; lane++)
			total += parts[lane * ksub + threadIdx.x];
	return total;
}

/*
 * What vq_pq_accumulate adds up for each code, of one slice of the points and
 * one sub-quantiser a block: the sum of each coordinate, of the squared error,
 * and the number of points.  A thread looks for one code; where there are
 * fewer codes than threads, several share a code, point by point in turn, and
 * add up in order at the end.
 *
 * sums is double[nslices][nsub][ksub][dsub + 2].
 */
__global__ static void
sum_codes_kernel(const float *points, size_t ld, uint32_t nrows, const uint8_t *codes,
				 const float *codebook, uint32_t dsub, uint32_t ksub, double *sums)
{
	__shared__ uint8_t slice_codes[SUM_CODES];
	__shared__ double parts[SUM_THREADS];
	uint32_t	slice = blockIdx.x;
	uint32_t	j = blockIdx.y;
	uint32_t	nsub = gridDim.y;
	uint32_t	start = (uint32_t) ((uint64_t) nrows * slice / gridDim.x);
	uint32_t	end = (uint32_t) ((uint64_t) nrows * (slice + 1) / gridDim.x);
	uint32_t	code = threadIdx.x % ksub;
	uint32_t	lane = threadIdx.x / ksub;
	uint32_t	nlanes = SUM_THREADS / ksub;
	double	   *own = sums + (((size_t) slice * nsub + j) * ksub + code) * (dsub + 2);
	double		error = 0;
	double		count = 0;
	double		total;

	for (uint32_t first_dim = 0; first_dim < dsub; first_dim += SUM_DIMS)
	{
		const float *x = points + ((size_t) j * dsub + first_dim) * ld;
		uint32_t	ndims = min(dsub - first_dim, (uint32_t) SUM_DIMS);
		float		centroid[SUM_DIMS];
		double		sum[SUM_DIMS] = {0};

#pragma unroll
		for (uint32_t d = 0; d < SUM_DIMS; d++)
			centroid[d] = d < ndims ? codebook[((size_t) j * dsub + first_dim + d) * ksub + code] : 0;

		for (uint32_t first = start; first < end; first += SUM_CODES)
		{
			uint32_t	n = min(end - first, (uint32_t) SUM_CODES);

			__syncthreads();
			for (uint32_t i = threadIdx.x; i < n; i += SUM_THREADS)
				slice_codes[i] = codes[(size_t) j * ld + first + i];
			__syncthreads();
			for (uint32_t i = lane; i < n; i += nlanes)
			{
				if (slice_codes[i] != code)
					continue;
#pragma unroll
				for (uint32_t d = 0; d < SUM_DIMS; d++)
				{
					if (d < ndims)
					{
						float		value = x[d * ld + first + i];
						double		difference = (double) value - centroid[d];

						sum[d] += value;
						error += difference * difference;
					}
				}
				if (first_dim == 0)
					count++;
			}
		}

#pragma unroll
		for (uint32_t d = 0; d < SUM_DIMS; d++)
		{
			if (d >= ndims)
				break;
			total = sum_over_lanes(sum[d], nlanes, ksub, parts);
			if (lane == 0)
				own[first_dim + d] = total;
		}
	}
	total = sum_over_lanes(error, nlanes, ksub, parts);
	if (lane == 0)
		own[dsub] = total;
	total = sum_over_lanes(count, nlanes, ksub, parts);
	if (lane == 0)
		own[dsub + 1] = total;
}

/* sums[0][i] := sum over slices of sums[slice][i] */
__global__ static void
add_slices_kernel(double *sums, size_t count, uint32_t nslices)
{
	size_t		i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;
	double		sum = 0;

	if (i >= count)
		return;
	for (uint32_t slice = 0; slice < nslices; slice++)
		sum += sums[slice * count + i];
	sums[i] = sum;
}

/*----------
 * Training
 *----------
 */

/*
 * The first device trains.  Sub-quantisers are handled in groups, as many at a
 * time as memory allows: all of them, as a rule.
 */
struct Training
{
	VqGpuState *device;
	const VqPq *pq;
	const float *residuals;		/* [ntrain][m * dsub], on the host */
	size_t		ntrain;
	uint32_t	nslices;
	size_t		piece_rows;		/* rows that are sent at a time */
	size_t		group;			/* sub-quantisers in memory at a time */

	/* on the device, of one group */
	float	   *rows;			/* [piece_rows][group * dsub] */
	float	   *points;			/* [group * dsub][ntrain] */
	float	   *codebook;		/* [group][dsub][ksub] */
	uint8_t    *codes;			/* [group][ntrain] */
	double	   *sums;			/* [nslices][group][ksub][dsub + 2] */
};

static size_t
slices_of(size_t ntrain)
{
	return vq_gpu_max(1, vq_gpu_min(MAX_SLICES, ntrain / SUM_CODES * 2));
}

/* Device bytes for nsub sub-quantisers */
static size_t
training_bytes(const Training *training, size_t nsub)
{
	const VqPq *pq = training->pq;
	size_t		per_sub = (training->ntrain + training->piece_rows) * pq->dsub * sizeof(float) + training->ntrain +
		(size_t) pq->dsub * pq->ksub * sizeof(float) +
		(size_t) training->nslices * pq->ksub * (pq->dsub + 2) * sizeof(double);

	return nsub * per_sub + 4096;
}

static VqGpuStatus
alloc_training(Training *training)
{
	VqGpuState *device = training->device;
	const VqPq *pq = training->pq;
	size_t		n = training->ntrain;
	size_t		group = training->group;

	TRY(vq_gpu_alloc(device, SCOPE_PQ, training->piece_rows * group * pq->dsub, &training->rows));
	TRY(vq_gpu_alloc(device, SCOPE_PQ, n * group * pq->dsub, &training->points));
	TRY(vq_gpu_alloc(device, SCOPE_PQ, group * pq->dsub * pq->ksub, &training->codebook));
	TRY(vq_gpu_alloc(device, SCOPE_PQ, n * group, &training->codes));
	TRY(vq_gpu_alloc(device, SCOPE_PQ, training->nslices * group * pq->ksub * (pq->dsub + 2), &training->sums));
	return VQ_GPU_OK;
}

/* For groups as large as there is memory for: others may have taken some meanwhile */
static VqGpuStatus
alloc_groups(Training *training)
{
	VqGpuState *device = training->device;
	VqGpuStatus status;

	training->group = training->pq->m;
	for (;;)
	{
		TRY(vq_gpu_look_at_memory(device));
		while (training->group > 1 && training_bytes(training, training->group) > vq_gpu_left(device))
			training->group = vq_gpu_divide_up(training->group, 2);
		status = alloc_training(training);
		if (status != VQ_GPU_NO_MEMORY || training->group == 1)
			return status;
		vq_gpu_free_scope(device->gpu, SCOPE_PQ);
		training->group = vq_gpu_divide_up(training->group, 2);
	}
}

/* Send the columns of nsub sub-quantisers, and transpose them */
static VqGpuStatus
send_points(Training *training, size_t first_sub, size_t nsub)
{
	VqGpuState *device = training->device;
	VqGpu	   *gpu = device->gpu;
	const VqPq *pq = training->pq;
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	size_t		width = nsub * pq->dsub;

	for (size_t first = 0; first < training->ntrain; first += training->piece_rows)
	{
		size_t		n = vq_gpu_min(training->piece_rows, training->ntrain - first);
		const float *from = training->residuals + first * padded_dim + first_sub * pq->dsub;

		if (width == padded_dim)
			CUDA(gpu, cudaMemcpyAsync(training->rows, from, n * width * sizeof(float),
									  cudaMemcpyHostToDevice, device->compute));
		else
			CUDA(gpu, cudaMemcpy2DAsync(training->rows, width * sizeof(float), from, padded_dim * sizeof(float),
										width * sizeof(float), n, cudaMemcpyHostToDevice, device->compute));
		TRY(vq_gpu_transpose(device, training->rows, width, n, width, width,
							 training->ntrain, training->points + first));
		TRY(vq_gpu_wait_stream(device, device->compute));
	}
	return VQ_GPU_OK;
}

/* Code all points of nsub sub-quantisers and add them up; codebook and sums are their parts, on the host */
static VqGpuStatus
sum_points(Training *training, size_t nsub, const float *codebook, double *sums)
{
	VqGpuState *device = training->device;
	VqGpu	   *gpu = device->gpu;
	const VqPq *pq = training->pq;
	size_t		n = training->ntrain;
	size_t		nsums = nsub * pq->ksub * (pq->dsub + 2);
	dim3		blocks(training->nslices, (unsigned) nsub);

	CUDA(gpu, cudaMemcpyAsync(training->codebook, codebook, nsub * pq->dsub * pq->ksub * sizeof(float),
							  cudaMemcpyHostToDevice, device->compute));
	TRY(vq_gpu_codes(device, training->points, n, n, training->codebook, nsub, pq->dsub, pq->ksub, training->codes));
	sum_codes_kernel<<<blocks, SUM_THREADS, 0, device->compute>>>
		(training->points, n, (uint32_t) n, training->codes, training->codebook, pq->dsub, pq->ksub, training->sums);
	LAUNCHED(gpu, "sum_codes_kernel");
	add_slices_kernel<<<(unsigned) vq_gpu_divide_up(nsums, 256), 256, 0, device->compute>>>
		(training->sums, nsums, training->nslices);
	LAUNCHED(gpu, "add_slices_kernel");
	TRY(vq_gpu_wait_stream(device, device->compute));
	CUDA(gpu, cudaMemcpy(sums, training->sums, nsums * sizeof(double), cudaMemcpyDeviceToHost));
	return VQ_GPU_OK;
}

/* The loop of vq_pq_train; sums is workspace, double[vq_pq_sums_doubles] */
static VqGpuStatus
train_codebook(Training *training, size_t niter, uint64_t seed, double *sums, float *codebook, double *error)
{
	const VqPq *pq = training->pq;
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	size_t		sub_sums = pq->ksub * ((size_t) pq->dsub + 2);
	size_t		sub_floats = (size_t) pq->dsub * pq->ksub;
	size_t		nmoved = 0;
	double		last_error = INFINITY;
	VqRng		rng;

	for (size_t j = 0; j < pq->m; j++)
		for (size_t k = 0; k < pq->ksub; k++)
			vq_pq_set_centroid(pq, j, k, training->residuals +
							   vq_pq_first_row(pq, training->ntrain, seed, j, k) * padded_dim, codebook);
	vq_rng_seed(&rng, seed);
	for (size_t iteration = 0; iteration < niter; iteration++)
	{
		for (size_t first = 0; first < pq->m; first += training->group)
		{
			size_t		nsub = vq_gpu_min(training->group, pq->m - first);

			TRY(vq_gpu_stop_requested(training->device->gpu));
			if (iteration == 0 || training->group < pq->m)
				TRY(send_points(training, first, nsub));
			TRY(sum_points(training, nsub, codebook + first * sub_floats, sums + first * sub_sums));
		}
		*error = vq_pq_error(pq, sums);
		if (nmoved == 0 && *error >= last_error * (1 - VQ_PQ_TRAIN_GAIN))
			break;
		last_error = *error;
		nmoved = vq_pq_update(pq, &rng, sums, codebook);
	}
	return VQ_GPU_OK;
}

static VqGpuStatus
train_on_device(VqGpu *gpu, const VqPq *pq, const float *residuals, size_t ntrain, size_t niter, uint64_t seed,
				float *codebook, double *error)
{
	Training	training;
	double	   *sums;
	VqGpuStatus status;

	memset(&training, 0, sizeof(training));
	training.device = &gpu->devices[0];
	training.pq = pq;
	training.residuals = residuals;
	training.ntrain = ntrain;
	training.nslices = (uint32_t) slices_of(ntrain);
	training.piece_rows = vq_gpu_min(ntrain, PIECE_ROWS);
	sums = (double *) malloc(vq_pq_sums_doubles(pq) * sizeof(double));
	if (sums == NULL)
		return vq_gpu_fail(gpu->error, VQ_GPU_NO_MEMORY, "out of memory on the host");
	status = alloc_groups(&training);
	if (status == VQ_GPU_OK)
		status = train_codebook(&training, niter, seed, sums, codebook, error);
	free(sums);
	vq_gpu_free_scope(gpu, SCOPE_PQ);
	return status;
}

static VqGpuStatus
pq_train(VqGpu *gpu, const VqPq *pq, const VqProjection *projection, const float *centroids, size_t ncentroids,
		 size_t ntrain, size_t niter, uint64_t seed, float *codebook, double *mse)
{
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	float	   *residuals;
	double		error = 0;
	VqGpuStatus status;

	if (!gpu->has_sample || !vq_gpu_fits(pq, gpu->dim, projection) ||
		ncentroids < 1 || ncentroids > gpu->max_centroids || ntrain > gpu->added_rows || ntrain > UINT32_MAX / 2)
		return vq_gpu_fail(gpu->error, VQ_GPU_BAD_ARGUMENT,
						   "codes of %u x %u bits for %u dimensions%s, trained on %zu rows of %zu", pq->m, pq->nbits,
						   pq->dim, projection != NULL ? " of a projection" : "", ntrain,
						   gpu->has_sample ? gpu->added_rows : 0);
	if (mse != NULL)
		*mse = 0;
	memset(codebook, 0, vq_pq_codebook_floats(pq) * sizeof(float));
	if (ntrain == 0)
		return VQ_GPU_OK;
	residuals = (float *) malloc(ntrain * padded_dim * sizeof(float));
	if (residuals == NULL)
		return vq_gpu_fail(gpu->error, VQ_GPU_NO_MEMORY, "could not allocate %zu MB on the host for residuals",
						   (ntrain * padded_dim * sizeof(float) >> 20) + 1);
	status = vq_gpu_residuals(gpu, pq, projection, centroids, ncentroids, ntrain, residuals);
	if (status == VQ_GPU_OK)
		status = train_on_device(gpu, pq, residuals, ntrain, niter, seed, codebook, &error);
	free(residuals);
	if (status == VQ_GPU_OK && mse != NULL)
		*mse = error / (double) ntrain;
	return status;
}

VqGpuStatus
vq_gpu_pq_train(VqGpu *gpu, const VqPq *pq, const VqProjection *projection,
				const float *centroids, size_t ncentroids, size_t ntrain, size_t niter, uint64_t seed,
				float *codebook, double *mse, VqGpuError *error)
{
	TRY(vq_gpu_begin(gpu, error));
	return vq_gpu_finish(gpu, pq_train(gpu, pq, projection, centroids, ncentroids, ntrain, niter, seed,
									   codebook, mse));
}
