/*-------------------------------------------------------------------------
 *
 * vq_gpu_encode.cu
 *	  Batches of rows: assigned, coded, and given their factors.
 *
 * A batch goes through three streams, so that of three batches at a device one
 * is copied in, one is computed and one is copied out at the same time.  With
 * several devices, batches are dealt out in turn.
 *
 * Factors are those of vq_codec_encode, formula by formula.  The products they
 * are made of are summed up in double here: each thread has a whole row, and a
 * single chain of float32 would be less exact than the CPU's lanes, which the
 * margins of the bound are made for.
 *
 * Once they are labelled, the rows of a batch become the directions of their
 * residuals, in place, and their products in model space are kept.  A transposition
 * then brings a tile into the layout that codes are made from, or with a projection a
 * product of matrices, which brings it to code space as well.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu/vq_gpu_device.cuh"

#include <float.h>
#include <math.h>
#include <string.h>

#define TILE 32					/* of a transposition */
#define FACTOR_THREADS 128

/* Rows coded at a time */
#define MAX_ENCODE_TILE 32768
#define MAX_RESIDUAL_BYTES ((size_t) 64 << 20)
#define MIN_CAPACITY 32

/* Centroids brought to code space by one product */
#define CENTROIDS_AT_A_TIME ((size_t) 65536)

/* As in vq_codec.c */
#define MARGIN (8 * (double) FLT_EPSILON)
#define MIN_COSINE_SQ 0.125

enum
{
	BATCH_FREE,
	BATCH_ACQUIRED,
	BATCH_SUBMITTED,
	BATCH_COLLECTED
};

/*----------
 * Kernels
 *----------
 */

/* vq_codec_unpack_e */
__device__ static inline float
unpack_e(uint32_t packed)
{
	return __uint_as_float(packed << VQ_E_SHIFT) * ldexpf(1.0f, VQ_E_SCALE_LOG2);
}

/* vq_codec_pack_e; false above the range */
__device__ static inline bool
pack_e(float e, uint8_t *packed)
{
	uint32_t	bits;

	if (!(e >= 0 && e <= unpack_e(UINT8_MAX)))
		return false;
	bits = __float_as_uint(e * ldexpf(1.0f, -VQ_E_SCALE_LOG2));
	bits = (bits + ((1u << VQ_E_SHIFT) - 1)) >> VQ_E_SHIFT;
	if (unpack_e(bits) < e)
		bits++;
	*packed = (uint8_t) bits;
	return true;
}

/*
 * Factors of nrows rows, one a thread.  directions is float[m * dsub][ld], codes
 * uint8_t[m][ld], both of these rows.  Directions and centroids are in code space,
 * of code_dim dimensions, which may be a projection of model space, of dim; products
 * are those of vq_gpu_directions, half_norms of centroids in model space.
 */
__global__ static void
factors_kernel(const float *directions, const uint8_t *codes, size_t ld, uint32_t nrows,
			   const float *codebook, uint32_t code_dim, uint32_t m, uint32_t dsub, uint32_t ksub,
			   const uint32_t *labels, const float *centroids, size_t stride, const double2 *products,
			   const float *half_norms, uint32_t dim, float defect, float error_scale, bool is_ip, VqFactors *factors)
{
	uint32_t	i = blockIdx.x * FACTOR_THREADS + threadIdx.x;
	const float *centroid;
	double		fit = 0;		/* <r/|r|,r^> */
	double		code_sq = 0;
	double		centroid_code = 0;	/* <c,r^> */
	double		centroid_code_sq = 0;	/* |c|^2 in code space */
	double		centroid_sq;
	double		norm_sq;		/* |r|^2 */
	double		norm;
	double		numerator = is_ip ? 1 : 2;
	double		known;
	double		known_size;
	double		s = 0;
	double		e;
	float		packed_a;
	uint32_t	packed_s;
	uint8_t		packed_e;

	if (i >= nrows)
		return;
	centroid = centroids + labels[i] * stride;
	centroid_sq = 2 * (double) half_norms[labels[i]];
	for (uint32_t j = 0; j < m; j++)
	{
		const float *column = codebook + (size_t) j * dsub * ksub + codes[j * ld + i];

		for (uint32_t t = 0; t < dsub && j * dsub + t < code_dim; t++)
		{
			double		u = directions[(size_t) (j * dsub + t) * ld + i];
			double		decoded = column[t * ksub];
			double		c = centroid[j * dsub + t];

			fit += u * decoded;
			code_sq += decoded * decoded;
			centroid_code += c * decoded;
			centroid_code_sq += c * c;
		}
	}
	norm_sq = products[i].x;
	norm = vq_gpu_length(norm_sq);
	e = numerator * norm * (1 + MARGIN);

	if (fit > 0 && fit * fit > MIN_COSINE_SQ * code_sq)
	{
		double		exact_s = numerator * norm / fit;
		double		stored_s = floor(exact_s * VQ_S_ONE + 0.5) / VQ_S_ONE;
		double		rounding = fabs(stored_s - exact_s);
		double		error_norm_sq = code_sq - fit * fit;
		double		error_norm = sqrt((error_norm_sq > 0 ? error_norm_sq : 0) + (MARGIN + defect) * code_sq);
		double		estimate_e = error_scale * (exact_s + rounding) * error_norm /
			sqrt(dim > 1 ? (double) dim - 1 : 1.0) + rounding * fit;

		if (stored_s * VQ_S_ONE <= UINT16_MAX && estimate_e < e)
		{
			s = stored_s;
			e = estimate_e;
		}
	}

	if (is_ip)
	{
		known = -products[i].y;
		known_size = sqrt(centroid_sq) * norm;
	}
	else
		known = known_size = norm_sq;

	packed_s = (uint16_t) (s * VQ_S_ONE);
	packed_a = (float) (known + s * centroid_code -
						MARGIN * (known_size + s * sqrt(centroid_code_sq * code_sq)));
	if (!isfinite(packed_a) || !pack_e((float) e, &packed_e))
	{
		packed_a = -INFINITY;
		packed_s = 0;
		packed_e = 0;
	}

	/* As one word of eight bytes, the unused one zero */
	((uint2 *) factors)[i] = make_uint2(__float_as_uint(packed_a), packed_s | (uint32_t) packed_e << 16);
}

/* to[i][j] = from[j][i]; from is uint8_t[m][ld] */
__global__ static void
transpose_codes_kernel(const uint8_t *from, size_t ld, uint32_t nrows, uint32_t m, uint8_t *to)
{
	__shared__ uint8_t tile[TILE][TILE + 4];
	uint32_t	first_row = blockIdx.x * TILE;
	uint32_t	first_sub = blockIdx.y * TILE;

	for (uint32_t y = threadIdx.y; y < TILE; y += blockDim.y)
	{
		if (first_sub + y < m && first_row + threadIdx.x < nrows)
			tile[y][threadIdx.x] = from[(first_sub + y) * ld + first_row + threadIdx.x];
	}
	__syncthreads();
	for (uint32_t y = threadIdx.y; y < TILE; y += blockDim.y)
	{
		if (first_row + y < nrows && first_sub + threadIdx.x < m)
			to[(size_t) (first_row + y) * m + first_sub + threadIdx.x] = tile[threadIdx.x][y];
	}
}

/*----------
 * Begin and end
 *----------
 */

static size_t
tile_of(const VqPq *pq, size_t capacity)
{
	size_t		rows = MAX_RESIDUAL_BYTES / ((size_t) pq->m * pq->dsub * sizeof(float));

	return vq_gpu_min(capacity, vq_gpu_max(MIN_CAPACITY, vq_gpu_min(rows, MAX_ENCODE_TILE)));
}

static size_t
encode_bytes(const VqGpuState *device, const VqGpuModel *model, size_t stride, size_t capacity)
{
	const VqPq *pq = &model->pq;
	size_t		tile = tile_of(pq, capacity);
	size_t		row_bytes = stride * sizeof(float) + sizeof(uint32_t) + sizeof(float) + pq->m + sizeof(VqFactors);
	size_t		projection_bytes = 0;

	if (model->projection != NULL)
		projection_bytes = pq->dim * (stride + model->ncentroids) * sizeof(float);
	return vq_gpu_assign_bytes(device, stride, model->ncentroids, capacity) +
		vq_pq_codebook_floats(pq) * sizeof(float) +
		tile * ((size_t) pq->m * pq->dsub * sizeof(float) + pq->m + sizeof(double2)) +
		VQ_GPU_SLOTS * capacity * row_bytes + projection_bytes + 16384;
}

static VqGpuStatus
alloc_batch(VqGpuState *device, VqGpuSlot *slot, const VqPq *pq, size_t stride, size_t capacity)
{
	VqGpuBatch *batch = &slot->batch;

	TRY(vq_gpu_alloc_host(device, SCOPE_ENCODE, capacity, &slot->host_labels));
	TRY(vq_gpu_alloc_host(device, SCOPE_ENCODE, capacity, &slot->host_distances));
	TRY(vq_gpu_alloc_host(device, SCOPE_ENCODE, capacity * pq->m, &slot->host_codes));
	TRY(vq_gpu_alloc_host(device, SCOPE_ENCODE, capacity, &slot->host_factors));
	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, capacity * stride, &slot->rows));
	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, capacity, &slot->labels));
	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, capacity, &slot->distances));
	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, capacity * pq->m, &slot->codes));
	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, capacity, &slot->factors));

	memset(batch, 0, sizeof(*batch));
	batch->capacity = capacity;
	batch->stride = stride;
	batch->rows = slot->host_rows;
	batch->labels = slot->host_labels;
	batch->distances = slot->host_distances;
	batch->codes = slot->host_codes;
	batch->factors = slot->host_factors;
	slot->batch_state = BATCH_FREE;
	slot->is_pending = false;
	return VQ_GPU_OK;
}

/* What a projection needs; centroids are on the device */
static VqGpuStatus
begin_projection(VqGpuState *device, const VqGpuModel *model, size_t stride)
{
	size_t		code_dim = model->pq.dim;

	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, code_dim * stride, &device->directions));
	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, model->ncentroids * code_dim, &device->code_centroids));
	TRY(vq_gpu_send_directions(device, &device->slots[0], model->projection, 0, code_dim, stride,
							   device->directions));
	for (size_t first = 0; first < model->ncentroids; first += CENTROIDS_AT_A_TIME)
	{
		size_t		n = vq_gpu_min(CENTROIDS_AT_A_TIME, model->ncentroids - first);

		TRY(vq_gpu_stop_requested(device->gpu));
		TRY(vq_gpu_project(device, device->directions, code_dim, device->centroids.values + first * stride, n, stride,
						   device->code_centroids + first * code_dim, code_dim));
	}
	return VQ_GPU_OK;
}

static VqGpuStatus
begin_device(VqGpuState *device, const VqGpuModel *model, size_t stride, size_t capacity)
{
	VqGpu	   *gpu = device->gpu;
	const VqPq *pq = &model->pq;
	size_t		codebook_floats = vq_pq_codebook_floats(pq);

	TRY(vq_gpu_use(device));
	device->encode_tile = tile_of(pq, capacity);
	TRY(vq_gpu_pin_rows(device, capacity, model->dim, stride));
	for (int s = 0; s < VQ_GPU_SLOTS; s++)
		TRY(alloc_batch(device, &device->slots[s], pq, stride, capacity));
	TRY(vq_gpu_assign_alloc(device, SCOPE_ENCODE, model->dim, stride, model->ncentroids, capacity,
							&device->centroids, &device->assign));
	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, codebook_floats, &device->codebook));
	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, device->encode_tile * pq->m * pq->dsub, &device->residuals));
	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, device->encode_tile, &device->model_products));
	TRY(vq_gpu_alloc(device, SCOPE_ENCODE, device->encode_tile * pq->m, &device->codes));
	TRY(vq_gpu_set_centroids(device, &device->centroids, model->centroids, model->ncentroids));
	if (model->projection != NULL)
		TRY(begin_projection(device, model, stride));
	CUDA(gpu, cudaMemcpyAsync(device->codebook, model->codebook, codebook_floats * sizeof(float),
							  cudaMemcpyHostToDevice, device->compute));
	return vq_gpu_wait_stream(device, device->compute);
}

static VqGpuStatus
encode_begin(VqGpu *gpu, const VqGpuModel *model, size_t batch_rows)
{
	const VqPq *pq = &model->pq;
	size_t		stride;
	size_t		capacity;

	if (!vq_gpu_fits(pq, model->dim, model->projection) ||
		!(model->error_scale > 0 && isfinite(model->error_scale)) ||
		model->ncentroids < 1 || model->ncentroids > UINT32_MAX / 2 || batch_rows < 1)
		return vq_gpu_fail(gpu->error, VQ_GPU_BAD_ARGUMENT,
						   "codes of %u x %u bits for %u of %zu dimensions, errors times %g, "
						   "%zu centroids, batches of %zu rows", pq->m, pq->nbits, pq->dim, model->dim,
						   (double) model->error_scale, model->ncentroids, batch_rows);
	vq_gpu_sample_end(gpu);
	vq_gpu_encode_end(gpu);
	stride = vq_gpu_stride(gpu, model->dim);
	capacity = vq_gpu_chunk_rows(model->dim, stride, model->ncentroids, batch_rows);
	for (int d = 0; d < gpu->ndevices; d++)
	{
		VqGpuState *device = &gpu->devices[d];

		TRY(vq_gpu_look_at_memory(device));
		while (capacity > MIN_CAPACITY &&
			   encode_bytes(device, model, stride, capacity) > vq_gpu_left(device))
			capacity = vq_gpu_max(capacity / 2, MIN_CAPACITY);
	}
	for (int d = 0; d < gpu->ndevices; d++)
		TRY(begin_device(&gpu->devices[d], model, stride, capacity));
	gpu->metric = model->metric;
	gpu->model_dim = model->dim;
	gpu->pq = *pq;
	gpu->is_projected = model->projection != NULL;
	gpu->defect = model->projection ? model->projection->defect : 0;
	gpu->error_scale = model->error_scale;
	gpu->submitted = 0;
	gpu->collected = 0;
	gpu->is_encoding = true;
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_encode_begin(VqGpu *gpu, const VqGpuModel *model, size_t batch_rows, VqGpuError *error)
{
	TRY(vq_gpu_begin(gpu, error));
	return vq_gpu_finish(gpu, encode_begin(gpu, model, batch_rows));
}

void
vq_gpu_encode_end(VqGpu *gpu)
{
	vq_gpu_free_scope(gpu, SCOPE_ENCODE);
	gpu->is_encoding = false;
}

/*----------
 * Batches
 *----------
 */

/* The slot that a batch is part of, and its device; NULL if it is none of ours */
static VqGpuSlot *
slot_of(VqGpu *gpu, const VqGpuBatch *batch, VqGpuState **device)
{
	for (int d = 0; d < gpu->ndevices && gpu->is_encoding; d++)
		for (int s = 0; s < VQ_GPU_SLOTS; s++)
			if (batch == &gpu->devices[d].slots[s].batch)
			{
				*device = &gpu->devices[d];
				return &gpu->devices[d].slots[s];
			}
	return NULL;
}

/*
 * Batch number n uses slot n / ndevices of device n % ndevices, so devices get
 * the same number of batches, and the oldest one is never looked for.
 */
static VqGpuSlot *
slot_of_number(VqGpu *gpu, size_t number, VqGpuState **device)
{
	*device = &gpu->devices[number % (size_t) gpu->ndevices];
	return &(*device)->slots[number / (size_t) gpu->ndevices % VQ_GPU_SLOTS];
}

static VqGpuStatus
not_encoding(VqGpu *gpu)
{
	return vq_gpu_fail(gpu->error, VQ_GPU_BAD_ARGUMENT, "a batch that is not in the state for this call");
}

static VqGpuStatus
encode_acquire(VqGpu *gpu, VqGpuBatch **batch)
{
	VqGpuState *device;
	VqGpuSlot  *slot;

	if (!gpu->is_encoding)
		return not_encoding(gpu);
	TRY(vq_gpu_stop_requested(gpu));
	slot = slot_of_number(gpu, gpu->submitted, &device);
	if (slot->batch_state == BATCH_ACQUIRED)
		return not_encoding(gpu);
	if (slot->batch_state == BATCH_FREE)
	{
		slot->batch_state = BATCH_ACQUIRED;
		slot->batch.nrows = 0;
		*batch = &slot->batch;
	}
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_encode_acquire(VqGpu *gpu, VqGpuBatch **batch, VqGpuError *error)
{
	*batch = NULL;
	TRY(vq_gpu_begin(gpu, error));
	return vq_gpu_finish(gpu, encode_acquire(gpu, batch));
}

/* Directions of residuals, in code space, of n rows of a slot, which have labels; the rows are lost */
static VqGpuStatus
make_directions(VqGpuState *device, VqGpuSlot *slot, size_t first, size_t n)
{
	VqGpu	   *gpu = device->gpu;
	const VqPq *pq = &gpu->pq;
	size_t		stride = slot->batch.stride;
	size_t		ld = device->encode_tile;
	float	   *rows = slot->rows + first * stride;

	TRY(vq_gpu_directions(device, rows, stride, n, slot->labels + first, device->centroids.values,
						  device->model_products));
	if (gpu->is_projected)
		return vq_gpu_project(device, rows, n, device->directions, pq->dim, stride, device->residuals, ld);
	return vq_gpu_transpose(device, rows, stride, n, pq->dim, (size_t) pq->m * pq->dsub, ld, device->residuals);
}

/* Factors of the n rows whose directions and codes are there */
static VqGpuStatus
make_factors(VqGpuState *device, VqGpuSlot *slot, size_t first, size_t n)
{
	VqGpu	   *gpu = device->gpu;
	const VqPq *pq = &gpu->pq;
	const VqGpuCentroids *centroids = &device->centroids;

	factors_kernel<<<(unsigned) vq_gpu_divide_up(n, FACTOR_THREADS), FACTOR_THREADS, 0, device->compute>>>
		(device->residuals, device->codes, device->encode_tile, (uint32_t) n, device->codebook, pq->dim, pq->m,
		 pq->dsub, pq->ksub, slot->labels + first,
		 gpu->is_projected ? device->code_centroids : centroids->values,
		 gpu->is_projected ? (size_t) pq->dim : centroids->stride,
		 device->model_products, centroids->half_norms, (uint32_t) gpu->model_dim, gpu->defect, gpu->error_scale,
		 gpu->metric == VQ_METRIC_IP, slot->factors + first);
	LAUNCHED(gpu, "factors_kernel");
	return VQ_GPU_OK;
}

/* Codes and factors of labelled rows, tile by tile */
static VqGpuStatus
code_rows(VqGpuState *device, VqGpuSlot *slot)
{
	VqGpu	   *gpu = device->gpu;
	const VqPq *pq = &gpu->pq;
	size_t		ld = device->encode_tile;

	for (size_t first = 0; first < slot->nrows; first += ld)
	{
		size_t		n = vq_gpu_min(ld, slot->nrows - first);
		dim3		blocks((unsigned) vq_gpu_divide_up(n, TILE), (unsigned) vq_gpu_divide_up(pq->m, TILE));
		dim3		threads(TILE, 8);

		TRY(make_directions(device, slot, first, n));
		TRY(vq_gpu_codes(device, device->residuals, ld, n, device->codebook, pq->m, pq->dsub, pq->ksub,
						 device->codes));
		TRY(make_factors(device, slot, first, n));
		transpose_codes_kernel<<<blocks, threads, 0, device->compute>>>
			(device->codes, ld, (uint32_t) n, pq->m, slot->codes + first * pq->m);
		LAUNCHED(gpu, "transpose_codes_kernel");
	}
	return VQ_GPU_OK;
}

static VqGpuStatus
copy_out(VqGpuState *device, VqGpuSlot *slot)
{
	VqGpu	   *gpu = device->gpu;
	size_t		n = slot->nrows;

	CUDA(gpu, cudaMemcpyAsync(slot->host_labels, slot->labels, n * sizeof(uint32_t),
							  cudaMemcpyDeviceToHost, device->copy_out));
	CUDA(gpu, cudaMemcpyAsync(slot->host_distances, slot->distances, n * sizeof(float),
							  cudaMemcpyDeviceToHost, device->copy_out));
	CUDA(gpu, cudaMemcpyAsync(slot->host_codes, slot->codes, n * gpu->pq.m,
							  cudaMemcpyDeviceToHost, device->copy_out));
	CUDA(gpu, cudaMemcpyAsync(slot->host_factors, slot->factors, n * sizeof(VqFactors),
							  cudaMemcpyDeviceToHost, device->copy_out));
	return VQ_GPU_OK;
}

static VqGpuStatus
encode_submit(VqGpu *gpu, VqGpuBatch *batch)
{
	VqGpuState *device;
	VqGpuSlot  *slot = slot_of(gpu, batch, &device);

	if (slot == NULL || slot->batch_state != BATCH_ACQUIRED || batch->nrows < 1 || batch->nrows > batch->capacity)
		return not_encoding(gpu);
	TRY(vq_gpu_stop_requested(gpu));
	TRY(vq_gpu_use(device));
	slot->nrows = batch->nrows;
	CUDA(gpu, cudaMemcpyAsync(slot->rows, slot->host_rows, slot->nrows * batch->stride * sizeof(float),
							  cudaMemcpyHostToDevice, device->copy_in));
	CUDA(gpu, cudaEventRecord(slot->copied_in, device->copy_in));
	CUDA(gpu, cudaStreamWaitEvent(device->compute, slot->copied_in, 0));
	TRY(vq_gpu_assign(device, &device->centroids, &device->assign, slot->rows, slot->nrows,
					  slot->labels, slot->distances));
	TRY(code_rows(device, slot));
	CUDA(gpu, cudaEventRecord(slot->computed, device->compute));
	CUDA(gpu, cudaStreamWaitEvent(device->copy_out, slot->computed, 0));
	TRY(copy_out(device, slot));
	CUDA(gpu, cudaEventRecord(slot->done, device->copy_out));
	slot->batch_state = BATCH_SUBMITTED;
	gpu->submitted++;
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_encode_submit(VqGpu *gpu, VqGpuBatch *batch, VqGpuError *error)
{
	TRY(vq_gpu_begin(gpu, error));
	return vq_gpu_finish(gpu, encode_submit(gpu, batch));
}

static VqGpuStatus
encode_collect(VqGpu *gpu, VqGpuBatch **batch)
{
	VqGpuState *device;
	VqGpuSlot  *slot;

	if (!gpu->is_encoding)
		return not_encoding(gpu);
	if (gpu->collected == gpu->submitted)
		return VQ_GPU_OK;
	slot = slot_of_number(gpu, gpu->collected, &device);
	TRY(vq_gpu_wait(device, slot->done));
	slot->batch_state = BATCH_COLLECTED;
	gpu->collected++;
	*batch = &slot->batch;
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_encode_collect(VqGpu *gpu, VqGpuBatch **batch, VqGpuError *error)
{
	*batch = NULL;
	TRY(vq_gpu_begin(gpu, error));
	return vq_gpu_finish(gpu, encode_collect(gpu, batch));
}

void
vq_gpu_encode_release(VqGpu *gpu, VqGpuBatch *batch)
{
	VqGpuState *device;
	VqGpuSlot  *slot = slot_of(gpu, batch, &device);

	if (slot != NULL && (slot->batch_state == BATCH_COLLECTED || slot->batch_state == BATCH_ACQUIRED))
		slot->batch_state = BATCH_FREE;
}
