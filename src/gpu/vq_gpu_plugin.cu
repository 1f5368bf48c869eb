/*-------------------------------------------------------------------------
 *
 * vq_gpu_plugin.cu
 *	  The one function that vqpg_cuda.so exports.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu/vq_gpu_device.cuh"

#include <string.h>

static_assert(sizeof(VqFactors) == 8, "factors cross the interface as they are");
static_assert(sizeof(VqPq) == 20, "so does the shape of codes");

extern "C" __attribute__((visibility("default"))) void
vq_gpu_interface(VqGpuInterface *interface, size_t bytes)
{
	VqGpuInterface filled;

	memset(&filled, 0, sizeof(filled));
	filled.abi_version = VQ_GPU_ABI_VERSION;
	filled.bytes = (uint32_t) sizeof(filled);
	filled.name = "cuda";
	filled.devices = vq_gpu_devices;
	filled.open = vq_gpu_open;
	filled.close = vq_gpu_close;
	filled.describe = vq_gpu_describe;
	filled.sample_begin = vq_gpu_sample_begin;
	filled.sample_add = vq_gpu_sample_add;
	filled.sample_end = vq_gpu_sample_end;
	filled.kmeans_step = vq_gpu_kmeans_step;
	filled.pq_train = vq_gpu_pq_train;
	filled.encode_begin = vq_gpu_encode_begin;
	filled.encode_acquire = vq_gpu_encode_acquire;
	filled.encode_submit = vq_gpu_encode_submit;
	filled.encode_collect = vq_gpu_encode_collect;
	filled.encode_release = vq_gpu_encode_release;
	filled.encode_end = vq_gpu_encode_end;
	filled.memory = vq_gpu_memory;
	memcpy(interface, &filled, bytes < sizeof(filled) ? bytes : sizeof(filled));
}
