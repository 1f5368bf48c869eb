/*-------------------------------------------------------------------------
 *
 * vq_gpu_residuals.cu
 *	  Directions of residuals of the sample, which codebooks are trained on.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu/vq_gpu_device.cuh"

#include <string.h>

#define DIRECTION_WARPS 8		/* rows of a block, one per warp */

/* rows[i] = the resident row that is number i of those chosen, less first_resident */
__global__ static void
gather_kernel(const float *resident, size_t stride, uint64_t first_resident, uint64_t sample_rows,
			  uint64_t ntrain, uint64_t first, float *rows)
{
	uint64_t	i = first + blockIdx.x;
	uint64_t	from = (i * sample_rows + ntrain - 1) / ntrain - first_resident;

	for (size_t d = threadIdx.x; d < stride; d += blockDim.x)
		rows[blockIdx.x * stride + d] = resident[from * stride + d];
}

/*
 * rows := the directions of rows less their centroids (vq_codec_direction), in place,
 * a warp each; products[i] := |r|^2 and <c,r>, if it is not NULL
 */
__global__ static void
directions_kernel(float *rows, size_t stride, uint32_t nrows, const uint32_t *labels, const float *centroids,
				  double2 *products)
{
	uint32_t	i = blockIdx.x * DIRECTION_WARPS + threadIdx.x / VQ_GPU_WARP;
	uint32_t	lane = threadIdx.x % VQ_GPU_WARP;
	double		residual_sq = 0;
	double		centroid_residual = 0;
	double		norm;
	const float *centroid;
	float	   *row;

	if (i >= nrows)
		return;
	row = rows + i * stride;
	centroid = centroids + labels[i] * stride;
	for (size_t d = lane; d < stride; d += VQ_GPU_WARP)
	{
		float		c = centroid[d];
		float		r = row[d] - c;

		row[d] = r;
		residual_sq += (double) r * r;
		centroid_residual += (double) c * r;
	}
	residual_sq = vq_gpu_sum_over_warp(residual_sq);
	centroid_residual = vq_gpu_sum_over_warp(centroid_residual);
	if (lane == 0 && products != NULL)
		products[i] = make_double2(residual_sq, centroid_residual);
	norm = vq_gpu_length(residual_sq);
	if (norm > 0)
		for (size_t d = lane; d < stride; d += VQ_GPU_WARP)
			row[d] *= (float) (1 / norm);
}

VqGpuStatus
vq_gpu_directions(VqGpuState *device, float *rows, size_t stride, size_t nrows, const uint32_t *labels,
				  const float *centroids, double2 *products)
{
	directions_kernel<<<(unsigned) vq_gpu_divide_up(nrows, DIRECTION_WARPS), DIRECTION_WARPS * VQ_GPU_WARP, 0,
		device->compute>>> (rows, stride, (uint32_t) nrows, labels, centroids, products);
	LAUNCHED(device->gpu, "directions_kernel");
	return VQ_GPU_OK;
}

/* Rows of the sample to train on, and where they come from */
struct Choice
{
	size_t		nrows;			/* of the sample */
	size_t		ntrain;
};

static size_t
chosen_row(const Choice *choice, size_t i)
{
	return (i * choice->nrows + choice->ntrain - 1) / choice->ntrain;
}

/* The first of those chosen that is row or comes after it */
static size_t
first_chosen(const Choice *choice, size_t row)
{
	size_t		low = 0;
	size_t		high = choice->ntrain;

	while (low < high)
	{
		size_t		middle = low + (high - low) / 2;

		if (chosen_row(choice, middle) < row)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * The residuals in the rows of the first slot to the rows of the second, in code
 * space but of the same stride.  Directions go to the third, as many as fit at a
 * time, so that this needs no memory of its own, of which a sample leaves little.
 * has_directions: that has been called before, and nothing else since used the third.
 */
static VqGpuStatus
project_residuals(VqGpuState *device, const VqProjection *projection, size_t nrows, bool has_directions)
{
	VqGpu	   *gpu = device->gpu;
	VqGpuSlot  *from = &device->slots[0];
	VqGpuSlot  *to = &device->slots[1];
	VqGpuSlot  *part = &device->slots[2];

	for (size_t first = 0; first < projection->ndirections; first += gpu->chunk_rows)
	{
		size_t		n = vq_gpu_min(gpu->chunk_rows, projection->ndirections - first);

		if (!has_directions || n < projection->ndirections)
			TRY(vq_gpu_send_directions(device, part, projection, first, n, gpu->stride, part->rows));
		TRY(vq_gpu_project(device, part->rows, n, from->rows, nrows, gpu->stride, to->rows + first, gpu->stride));
	}
	return VQ_GPU_OK;
}

/*
 * Directions of the residuals of those chosen from .. to - 1, which a device has, or which the
 * caller keeps, into residuals, float[ntrain][padded_dim] on the host; in code
 * space.
 */
static VqGpuStatus
take_residuals(VqGpuState *device, const VqPq *pq, const VqProjection *projection, const Choice *choice,
			   size_t from, size_t to, bool is_resident, float *residuals)
{
	VqGpu	   *gpu = device->gpu;
	VqGpuSlot  *slot = &device->slots[0];
	const float *projected = projection != NULL ? device->slots[1].rows : slot->rows;
	size_t		row_bytes = gpu->stride * sizeof(float);
	size_t		code_bytes = pq->dim * sizeof(float);
	size_t		padded_dim = (size_t) pq->m * pq->dsub;

	TRY(vq_gpu_use(device));
	for (size_t first = from; first < to; first += gpu->chunk_rows)
	{
		size_t		n = vq_gpu_min(gpu->chunk_rows, to - first);

		if (is_resident)
		{
			gather_kernel<<<(unsigned) n, 128, 0, device->compute>>>
				(device->resident, gpu->stride, device->resident_first, choice->nrows, choice->ntrain,
				 first, slot->rows);
			LAUNCHED(gpu, "gather_kernel");
		}
		else
		{
			for (size_t i = 0; i < n; i++)
				vq_gpu_copy_kept_rows(gpu, chosen_row(choice, first + i), 1, slot->host_rows + i * gpu->stride);
			CUDA(gpu, cudaMemcpyAsync(slot->rows, slot->host_rows, n * row_bytes,
									  cudaMemcpyHostToDevice, device->compute));
		}
		TRY(vq_gpu_assign(device, &device->centroids, &device->assign, slot->rows, n,
						  slot->labels, slot->distances));
		TRY(vq_gpu_directions(device, slot->rows, gpu->stride, n, slot->labels, device->centroids.values, NULL));
		if (projection != NULL)
		{
			TRY(project_residuals(device, projection, n, first > from));
			CUDA(gpu, cudaMemcpy2DAsync(slot->host_rows, row_bytes, projected, row_bytes, code_bytes, n,
										cudaMemcpyDeviceToHost, device->compute));
		}
		else
			CUDA(gpu, cudaMemcpyAsync(slot->host_rows, projected, n * row_bytes,
									  cudaMemcpyDeviceToHost, device->compute));
		TRY(vq_gpu_wait_stream(device, device->compute));
		for (size_t i = 0; i < n; i++)
		{
			float	   *residual = residuals + (first + i) * padded_dim;

			memcpy(residual, slot->host_rows + i * gpu->stride, code_bytes);
			memset(residual + pq->dim, 0, (padded_dim - pq->dim) * sizeof(float));
		}
	}

	/*
	 * The padding of host_rows came back from the device as it went, zero, or
	 * was left alone
	 */
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_residuals(VqGpu *gpu, const VqPq *pq, const VqProjection *projection, const float *centroids,
				 size_t ncentroids, size_t ntrain, float *residuals)
{
	Choice		choice = {gpu->added_rows, ntrain};

	for (int d = 0; d < gpu->ndevices; d++)
	{
		VqGpuState *device = &gpu->devices[d];
		size_t		from = first_chosen(&choice, device->resident_first);
		size_t		to = first_chosen(&choice, device->resident_first + device->resident_rows);

		TRY(vq_gpu_set_centroids(device, &device->centroids, centroids, ncentroids));
		TRY(take_residuals(device, pq, projection, &choice, from, to, true, residuals));
	}
	return take_residuals(&gpu->devices[0], pq, projection, &choice, first_chosen(&choice, gpu->resident_rows),
						  choice.ntrain, false, residuals);
}
