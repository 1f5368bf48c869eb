/*-------------------------------------------------------------------------
 *
 * vq_gpu_assign.cu
 *	  The nearest centroid of each row.
 *
 * As on the CPU, the nearest is the one with the largest <x,c> - |c|^2 / 2, and
 * the work is one product of matrices, by cuBLAS.  It is computed in tiles:
 * row_tile rows by centroid_tile centroids are multiplied, and a kernel takes the
 * two best of each row from the tile before the next one overwrites it.  So
 * nrows x ncentroids products are never in memory.  Tiles that stay in the cache
 * would spare the way to memory, but are too small to keep a large device busy:
 * an H100 took 1.3 to 1.5 times as long with tiles of three quarters of its cache
 * as with the ten times larger ones that are the default.
 *
 * The products are rounded (TF32: 11 bits of significand, BF16: 8; sums in
 * float32), which is good enough to find candidates, not to choose between two
 * that are close.  That is why two are kept: their distances are computed
 * again in float32, from differences, and the nearer one wins, the lower
 * number on a tie.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu/vq_gpu_device.cuh"

#include <math.h>
#include <string.h>

#define BLOCK_WARPS 8			/* rows of a block, one per warp */

/* Tiles of products: bytes where the caller does not say, and of the memory at most */
#define PRODUCT_BYTES ((size_t) 384 << 20)
#define MAX_PRODUCT_SHARE 8
#define CENTROID_TILE 4096
#define MIN_ROW_TILE 64

/*
 * Of a chunk of a sample: rows, bytes, and multiplications that take a fraction of a second; with fewer dimensions
 * it is writing and reading their sums that takes as long
 */
#define MAX_CHUNK_ROWS ((size_t) 256 << 10)
#define MAX_CHUNK_BYTES ((size_t) 64 << 20)
#define MAX_CHUNK_PRODUCTS 5e11
#define MIN_CHUNK_DIM 128

/*
 * TF32 saves no time with so few dimensions, where writing the sums is what takes it; and lists lie so close to each
 * other there that rounding may put more than two of them before the nearest
 */
#define MAX_EXACT_DIM 32

/*----------
 * Sizes
 *----------
 */

size_t
vq_gpu_stride(const VqGpu *gpu, size_t dim)
{
	size_t		align = gpu->products == VQ_GPU_PRODUCTS_BF16 ? 8 : 4;

	return vq_gpu_divide_up(dim, align) * align;
}

size_t
vq_gpu_chunk_rows(size_t dim, size_t stride, size_t ncentroids, size_t wanted)
{
	size_t		rows = vq_gpu_min(wanted, MAX_CHUNK_ROWS);
	double		affordable = MAX_CHUNK_PRODUCTS / ((double) ncentroids * (double) vq_gpu_max(dim, MIN_CHUNK_DIM));

	rows = vq_gpu_min(rows, MAX_CHUNK_BYTES / (stride * sizeof(float)));
	if ((double) rows > affordable)
		rows = (size_t) affordable;
	return vq_gpu_max(rows, vq_gpu_min(wanted, MIN_ROW_TILE));
}

static void
choose_tiles(const VqGpuState *device, size_t ncentroids, size_t nrows, VqGpuAssignWork *work)
{
	size_t		bytes = (size_t) device->gpu->options.product_bytes;
	size_t		rows;

	if (bytes == 0)
		bytes = PRODUCT_BYTES;
	bytes = vq_gpu_min(bytes, device->budget / MAX_PRODUCT_SHARE);
	work->centroid_tile = vq_gpu_min(CENTROID_TILE, vq_gpu_divide_up(ncentroids, 4) * 4);
	rows = bytes / sizeof(float) / work->centroid_tile;
	work->row_tile = vq_gpu_min(vq_gpu_max(nrows, 1), vq_gpu_max(rows, MIN_ROW_TILE));
}

size_t
vq_gpu_assign_bytes(const VqGpuState *device, size_t stride, size_t ncentroids, size_t nrows)
{
	bool		is_bf16 = device->gpu->products == VQ_GPU_PRODUCTS_BF16;
	VqGpuAssignWork work;

	choose_tiles(device, ncentroids, nrows, &work);
	return ncentroids * (stride * (is_bf16 ? 6 : 4) + sizeof(float)) +
		work.row_tile * (work.centroid_tile * sizeof(float) + sizeof(VqGpuNearest) +
						 (is_bf16 ? stride * sizeof(__nv_bfloat16) : 0)) + 8192;
}

VqGpuStatus
vq_gpu_assign_alloc(VqGpuState *device, VqGpuScope scope, size_t dim, size_t stride,
					size_t ncentroids, size_t nrows, VqGpuCentroids *centroids,
					VqGpuAssignWork *work)
{
	bool		is_bf16 = device->gpu->products == VQ_GPU_PRODUCTS_BF16;

	memset(centroids, 0, sizeof(*centroids));
	memset(work, 0, sizeof(*work));
	choose_tiles(device, ncentroids, nrows, work);
	centroids->capacity = ncentroids;
	centroids->dim = dim;
	centroids->stride = stride;
	TRY(vq_gpu_alloc(device, scope, ncentroids * stride, &centroids->values));
	TRY(vq_gpu_alloc(device, scope, ncentroids + 4, &centroids->half_norms));
	TRY(vq_gpu_alloc(device, scope, work->row_tile * work->centroid_tile, &work->products));
	TRY(vq_gpu_alloc(device, scope, work->row_tile, &work->nearest));
	if (is_bf16)
	{
		TRY(vq_gpu_alloc(device, scope, ncentroids * stride, &centroids->values_bf16));
		TRY(vq_gpu_alloc(device, scope, work->row_tile * stride, &work->rows_bf16));
	}

	/* The last columns of a tile may be no centroid's: read, but never chosen */
	CUDA(device->gpu, cudaMemsetAsync(work->products, 0,
									  work->row_tile * work->centroid_tile * sizeof(float),
									  device->compute));
	return VQ_GPU_OK;
}

/*----------
 * Centroids
 *----------
 */

/*
 * half_norms[j] = |centroid_j|^2 / 2, a warp each; infinity from ncentroids on,
 * up to the next multiple of 4, so that these are never the best
 */
__global__ static void
half_norms_kernel(const float *centroids, size_t stride, uint32_t ncentroids, float *half_norms)
{
	uint32_t	j = blockIdx.x * BLOCK_WARPS + threadIdx.x / VQ_GPU_WARP;
	uint32_t	lane = threadIdx.x % VQ_GPU_WARP;
	float		sum = 0;

	if (j >= (ncentroids + 3) / 4 * 4)
		return;
	if (j < ncentroids)
	{
		const float *c = centroids + j * stride;

		for (size_t d = lane; d < stride; d += VQ_GPU_WARP)
			sum = fmaf(c[d], c[d], sum);
		sum = vq_gpu_sum_over_warp(sum) / 2;
	}
	else
		sum = INFINITY;
	if (lane == 0)
		half_norms[j] = sum;
}

__global__ static void
to_bf16_kernel(const float *from, size_t count, __nv_bfloat16 *to)
{
	size_t		step = (size_t) gridDim.x * blockDim.x;

	for (size_t i = (size_t) blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
		to[i] = __float2bfloat16_rn(from[i]);
}

static VqGpuStatus
to_bf16(VqGpuState *device, const float *from, size_t count, __nv_bfloat16 *to)
{
	size_t		blocks = vq_gpu_min(vq_gpu_divide_up(count, 256), 8192);

	if (count == 0)
		return VQ_GPU_OK;
	to_bf16_kernel<<<(unsigned) blocks, 256, 0, device->compute>>>(from, count, to);
	LAUNCHED(device->gpu, "to_bf16_kernel");
	return VQ_GPU_OK;
}

/* They go through the pinned rows of the slots in turn, piece by piece */
static VqGpuStatus
send_centroids(VqGpuState *device, const VqGpuCentroids *centroids, const float *values)
{
	VqGpu	   *gpu = device->gpu;
	size_t		dim = centroids->dim;
	size_t		stride = centroids->stride;
	size_t		piece = vq_gpu_min(device->slots[0].batch.capacity,
								   vq_gpu_max(VQ_GPU_PIECE_BYTES / (stride * sizeof(float)), 1));
	int			s = 0;

	for (size_t first = 0; first < centroids->count; first += piece)
	{
		VqGpuSlot  *slot = &device->slots[s];
		size_t		n = vq_gpu_min(piece, centroids->count - first);

		if (first >= VQ_GPU_SLOTS * piece)
			TRY(vq_gpu_wait(device, slot->copied_in));
		vq_gpu_copy_rows(values + first * dim, n, dim, stride, slot->host_rows);
		CUDA(gpu, cudaMemcpyAsync(centroids->values + first * stride, slot->host_rows,
								  n * stride * sizeof(float), cudaMemcpyHostToDevice, device->compute));
		CUDA(gpu, cudaEventRecord(slot->copied_in, device->compute));
		s = (s + 1) % VQ_GPU_SLOTS;
	}

	/* The buffers are used by others next */
	return vq_gpu_wait_stream(device, device->compute);
}

VqGpuStatus
vq_gpu_set_centroids(VqGpuState *device, VqGpuCentroids *centroids, const float *values, size_t count)
{
	VqGpu	   *gpu = device->gpu;
	size_t		stride = centroids->stride;
	unsigned	blocks = (unsigned) vq_gpu_divide_up(count + 3, BLOCK_WARPS);

	TRY(vq_gpu_use(device));
	centroids->count = count;
	TRY(send_centroids(device, centroids, values));
	half_norms_kernel<<<blocks, BLOCK_WARPS * VQ_GPU_WARP, 0, device->compute>>>
		(centroids->values, stride, (uint32_t) count, centroids->half_norms);
	LAUNCHED(gpu, "half_norms_kernel");
	if (centroids->values_bf16 != NULL)
		TRY(to_bf16(device, centroids->values, count * stride, centroids->values_bf16));
	return VQ_GPU_OK;
}

/*----------
 * Assignment
 *----------
 */

__device__ static inline bool
is_better(float value, uint32_t label, float other, uint32_t other_label)
{
	return value > other || (value == other && label < other_label);
}

/* Put a candidate among the two best */
__device__ static inline void
add_candidate(VqGpuNearest *best, float value, uint32_t label)
{
	if (!is_better(value, label, best->value[1], best->label[1]))
		return;
	if (is_better(value, label, best->value[0], best->label[0]))
	{
		best->value[1] = best->value[0];
		best->label[1] = best->label[0];
		best->value[0] = value;
		best->label[0] = label;
	}
	else
	{
		best->value[1] = value;
		best->label[1] = label;
	}
}

/*
 * The two best of each row within a tile, a warp per row; is_first says that
 * there is nothing to compare with from tiles before.  products is
 * float[nrows][ld], ld a multiple of 4; half_norms those of the tile's
 * centroids, of which the first has number first_centroid.
 *
 * A lane sees its columns in rising order, so that > keeps the lowest of equals.
 */
__global__ static void
nearest_kernel(const float *products, uint32_t ld, uint32_t nrows, const float *half_norms,
			   uint32_t first_centroid, bool is_first, VqGpuNearest *nearest)
{
	uint32_t	row = blockIdx.x * BLOCK_WARPS + threadIdx.x / VQ_GPU_WARP;
	uint32_t	lane = threadIdx.x % VQ_GPU_WARP;
	VqGpuNearest best = {{-INFINITY, -INFINITY}, {VQ_GPU_NO_LABEL, VQ_GPU_NO_LABEL}};

	if (row >= nrows)
		return;
	for (uint32_t column = lane * 4; column < ld; column += VQ_GPU_WARP * 4)
	{
		float4		product = *(const float4 *) (products + (size_t) row * ld + column);
		float4		norm = *(const float4 *) (half_norms + column);
		float		values[4] = {product.x - norm.x, product.y - norm.y, product.z - norm.z, product.w - norm.w};

#pragma unroll
		for (int i = 0; i < 4; i++)
		{
			uint32_t	label = first_centroid + column + i;

			if (values[i] > best.value[1])
			{
				bool		is_best = values[i] > best.value[0];

				best.value[1] = is_best ? best.value[0] : values[i];
				best.label[1] = is_best ? best.label[0] : label;
				best.value[0] = is_best ? values[i] : best.value[0];
				best.label[0] = is_best ? label : best.label[0];
			}
		}
	}
	for (int offset = VQ_GPU_WARP / 2; offset > 0; offset /= 2)
	{
		float		value0 = __shfl_xor_sync(0xFFFFFFFFu, best.value[0], offset);
		float		value1 = __shfl_xor_sync(0xFFFFFFFFu, best.value[1], offset);
		uint32_t	label0 = __shfl_xor_sync(0xFFFFFFFFu, best.label[0], offset);
		uint32_t	label1 = __shfl_xor_sync(0xFFFFFFFFu, best.label[1], offset);

		add_candidate(&best, value0, label0);
		add_candidate(&best, value1, label1);
	}
	if (lane == 0)
	{
		if (!is_first)
		{
			VqGpuNearest before = nearest[row];

			add_candidate(&best, before.value[0], before.label[0]);
			add_candidate(&best, before.value[1], before.label[1]);
		}
		nearest[row] = best;
	}
}

/* The nearer of the two candidates by distances in float32, a warp per row */
__global__ static void
decide_kernel(const VqGpuNearest *nearest, const float *rows, const float *centroids, size_t stride,
			  uint32_t nrows, uint32_t ncentroids, uint32_t *labels, float *distances)
{
	uint32_t	row = blockIdx.x * BLOCK_WARPS + threadIdx.x / VQ_GPU_WARP;
	uint32_t	lane = threadIdx.x % VQ_GPU_WARP;
	uint32_t	winner = 0;
	float		least = INFINITY;

	if (row >= nrows)
		return;
	for (int i = 0; i < 2; i++)
	{
		uint32_t	label = nearest[row].label[i];
		float		sum = 0;

		/* Values that are no numbers choose nothing; the first centroid stands in */
		if (label >= ncentroids && i == 0)
			label = 0;
		if (label >= ncentroids)
			continue;
		for (size_t d = lane; d < stride; d += VQ_GPU_WARP)
		{
			float		diff = rows[row * stride + d] - centroids[label * stride + d];

			sum = fmaf(diff, diff, sum);
		}
		sum = vq_gpu_sum_over_warp(sum);
		if (i == 0 || sum < least || (sum == least && label < winner))
		{
			least = sum;
			winner = label;
		}
	}
	if (lane == 0)
	{
		labels[row] = winner;
		distances[row] = least;
	}
}

/*
 * cuBLAS counts by columns, so its matrices are ours transposed: [stride][na]
 * transposed times [stride][nb] gives [ld][nb]
 */
VqGpuStatus
vq_gpu_multiply(VqGpuState *device, const void *a, size_t na, const void *b, size_t nb, size_t stride,
				cudaDataType type, cublasComputeType_t compute, float *out, size_t ld)
{
	float		one = 1;
	float		zero = 0;

	CUBLAS(device->gpu, cublasGemmEx(device->cublas, CUBLAS_OP_T, CUBLAS_OP_N,
									 (int) na, (int) nb, (int) stride,
									 &one, a, type, (int) stride,
									 b, type, (int) stride,
									 &zero, out, CUDA_R_32F, (int) ld,
									 compute, CUBLAS_GEMM_DEFAULT));
	return VQ_GPU_OK;
}

/* products := rows times the transposed centroids of a tile */
static VqGpuStatus
multiply(VqGpuState *device, const VqGpuCentroids *centroids, size_t first, size_t ncentroids,
		 const float *rows, size_t nrows, const VqGpuAssignWork *work, size_t ld)
{
	size_t		stride = centroids->stride;

	if (device->gpu->products == VQ_GPU_PRODUCTS_BF16)
		return vq_gpu_multiply(device, centroids->values_bf16 + first * stride, ncentroids, work->rows_bf16, nrows,
							   stride, CUDA_R_16BF, CUBLAS_COMPUTE_32F, work->products, ld);
	return vq_gpu_multiply(device, centroids->values + first * stride, ncentroids, rows, nrows, stride, CUDA_R_32F,
						   device->gpu->products == VQ_GPU_PRODUCTS_TF32 && stride > MAX_EXACT_DIM ?
						   CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, work->products, ld);
}

/* As many tiles as it takes, of about the same size: a small one at the end would keep few of the device's parts busy */
static size_t
even_tile(size_t nrows, size_t row_tile)
{
	size_t		rows = vq_gpu_divide_up(nrows, vq_gpu_max(vq_gpu_divide_up(nrows, row_tile), 1));

	return vq_gpu_min(row_tile, vq_gpu_divide_up(rows, MIN_ROW_TILE) * MIN_ROW_TILE);
}

VqGpuStatus
vq_gpu_assign(VqGpuState *device, const VqGpuCentroids *centroids, const VqGpuAssignWork *work,
			  const float *rows, size_t nrows, uint32_t *labels, float *distances)
{
	VqGpu	   *gpu = device->gpu;
	size_t		stride = centroids->stride;
	size_t		tile = even_tile(nrows, work->row_tile);

	for (size_t first_row = 0; first_row < nrows; first_row += tile)
	{
		size_t		n = vq_gpu_min(tile, nrows - first_row);
		unsigned	blocks = (unsigned) vq_gpu_divide_up(n, BLOCK_WARPS);
		const float *x = rows + first_row * stride;

		if (work->rows_bf16 != NULL)
			TRY(to_bf16(device, x, n * stride, work->rows_bf16));
		for (size_t first = 0; first < centroids->count; first += work->centroid_tile)
		{
			size_t		count = vq_gpu_min(work->centroid_tile, centroids->count - first);
			size_t		ld = vq_gpu_divide_up(count, 4) * 4;

			TRY(multiply(device, centroids, first, count, x, n, work, ld));
			nearest_kernel<<<blocks, BLOCK_WARPS * VQ_GPU_WARP, 0, device->compute>>>
				(work->products, (uint32_t) ld, (uint32_t) n, centroids->half_norms + first,
				 (uint32_t) first, first == 0, work->nearest);
			LAUNCHED(gpu, "nearest_kernel");
		}
		decide_kernel<<<blocks, BLOCK_WARPS * VQ_GPU_WARP, 0, device->compute>>>
			(work->nearest, x, centroids->values, stride, (uint32_t) n, (uint32_t) centroids->count,
			 labels + first_row, distances + first_row);
		LAUNCHED(gpu, "decide_kernel");
	}
	return VQ_GPU_OK;
}
