/*-------------------------------------------------------------------------
 *
 * vq_gpu_project.cu
 *	  Vectors of model space to code space, where codes have a projection.
 *
 * The matrix lies on the device as floats, a row for each direction, of the
 * stride that rows and centroids have: so projecting is a product of the kind
 * that assignment is made of.  Unlike those it is in float32 always, since codes
 * and factors are made of what comes out, and nothing looks at it again.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu/vq_gpu_device.cuh"

bool
vq_gpu_fits(const VqPq *pq, size_t dim, const VqProjection *projection)
{
	VqPq		checked;

	if (vq_pq_init(&checked, pq->dim, pq->m, pq->nbits) != VQ_OK ||
		checked.dsub != pq->dsub || checked.ksub != pq->ksub)
		return false;
	if (projection == NULL)
		return pq->dim == dim;
	return dim <= VQ_MAX_DIM && projection->dim == dim && projection->ndirections <= dim &&
		pq->dim == projection->ndirections && pq->dim == pq->m * pq->dsub;
}

/* Panels are as project_i8 of vq_kernels.h reads them */
VqGpuStatus
vq_gpu_send_directions(VqGpuState *device, VqGpuSlot *slot, const VqProjection *projection,
					   size_t first, size_t count, size_t stride, float *to)
{
	VqGpu	   *gpu = device->gpu;
	size_t		dim = projection->dim;
	size_t		piece = slot->batch.capacity;

	TRY(vq_gpu_use(device));
	for (size_t sent = 0; sent < count; sent += piece)
	{
		size_t		n = vq_gpu_min(piece, count - sent);

		for (size_t row = 0; row < n; row++)
		{
			size_t		j = first + sent + row;
			const int8_t *panel = projection->panels + j / VQ_PANEL_COLUMNS * dim * VQ_PANEL_COLUMNS;

			for (size_t i = 0; i < dim; i++)
				slot->host_rows[row * stride + i] = projection->steps[j] *
					panel[i * VQ_PANEL_COLUMNS + j % VQ_PANEL_COLUMNS];
		}
		CUDA(gpu, cudaMemcpyAsync(to + sent * stride, slot->host_rows, n * stride * sizeof(float),
								  cudaMemcpyHostToDevice, device->compute));
		TRY(vq_gpu_wait_stream(device, device->compute));
	}
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_project(VqGpuState *device, const float *a, size_t na, const float *b, size_t nb, size_t stride,
			   float *out, size_t ld)
{
	return vq_gpu_multiply(device, a, na, b, nb, stride, CUDA_R_32F, CUBLAS_COMPUTE_32F, out, ld);
}
