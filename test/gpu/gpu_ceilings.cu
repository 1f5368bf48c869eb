/*-------------------------------------------------------------------------
 *
 * gpu_ceilings.cu
 *	  What the first device can do, measured: large products by cuBLAS, copies
 *	  within its memory, and copies from and to pinned memory of the host.
 *
 * Prints "name,value" lines for gpu_bench: TFLOP/s and GB/s (bytes read and
 * written, for the copy within the device), each the median of several runs.
 *
 *-------------------------------------------------------------------------
 */
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define RUNS 9

#define MUST(call) must((int) (call), #call)

static void
must(int result, const char *what)
{
	if (result == 0)
		return;
	fprintf(stderr, "%s: error %d\n", what, result);
	exit(2);
}

static cudaEvent_t start_event;
static cudaEvent_t stop_event;

/* Median milliseconds of work */
template<typename Work>
static double
time_of(Work work)
{
	std::vector<float> times;

	for (int run = 0; run < RUNS + 2; run++)
	{
		float		ms;

		MUST(cudaEventRecord(start_event));
		work();
		MUST(cudaEventRecord(stop_event));
		MUST(cudaEventSynchronize(stop_event));
		MUST(cudaEventElapsedTime(&ms, start_event, stop_event));
		if (run >= 2)
			times.push_back(ms);
	}
	std::sort(times.begin(), times.end());
	return times[times.size() / 2];
}

/* Numbers without a pattern: zeros cost less power, and so less time, than data */
__global__ static void
fill_kernel(float *values, __nv_bfloat16 *values_bf16, size_t count)
{
	size_t		i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;
	unsigned	bits = (unsigned) i * 2654435761u;

	if (i >= count)
		return;
	bits ^= bits >> 15;
	bits *= 2246822519u;
	bits ^= bits >> 13;
	values[i] = (float) bits / 4294967296.0f - 0.5f;
	values_bf16[i] = __float2bfloat16_rn(values[i]);
}

int
main()
{
	const int	n = 8192;
	const size_t count = (size_t) n * n;
	const size_t copy_bytes = (size_t) 1 << 30;
	const size_t host_bytes = (size_t) 256 << 20;
	const double flop = 2.0 * n * n * n;
	cudaDeviceProp properties;
	cublasHandle_t cublas;
	float	   *a;
	__nv_bfloat16 *a_bf16;
	float	   *c;
	char	   *from;
	char	   *to;
	void	   *host;
	float		one = 1;
	float		zero = 0;

	MUST(cudaGetDeviceProperties(&properties, 0));
	printf("device,%s\n", properties.name);
	MUST(cublasCreate(&cublas));
	MUST(cudaEventCreate(&start_event));
	MUST(cudaEventCreate(&stop_event));
	MUST(cudaMalloc(&a, count * sizeof(float)));
	MUST(cudaMalloc(&a_bf16, count * sizeof(__nv_bfloat16)));
	MUST(cudaMalloc(&c, count * sizeof(float)));
	fill_kernel<<<(unsigned) ((count + 255) / 256), 256>>>(a, a_bf16, count);
	MUST(cudaDeviceSynchronize());

	auto product = [&](const void *x, cudaDataType type, cublasComputeType_t compute)
	{
		return flop / 1e9 / time_of([&]
		{
			MUST(cublasGemmEx(cublas, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, x, type, n, x, type, n,
							  &zero, c, CUDA_R_32F, n, compute, CUBLAS_GEMM_DEFAULT));
		});
	};

	printf("f32_tflops,%.2f\n", product(a, CUDA_R_32F, CUBLAS_COMPUTE_32F));
	if (properties.major >= 8)
	{
		printf("tf32_tflops,%.2f\n", product(a, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32));
		printf("bf16_tflops,%.2f\n", product(a_bf16, CUDA_R_16BF, CUBLAS_COMPUTE_32F));
	}
	MUST(cudaMalloc(&from, copy_bytes));
	MUST(cudaMalloc(&to, copy_bytes));
	MUST(cudaMemset(from, 1, copy_bytes));
	MUST(cudaMallocHost(&host, host_bytes));
	printf("copy_gbs,%.1f\n", 2.0 * copy_bytes / 1e6 /
		   time_of([&] { MUST(cudaMemcpyAsync(to, from, copy_bytes, cudaMemcpyDeviceToDevice)); }));
	printf("h2d_gbs,%.1f\n", host_bytes / 1e6 /
		   time_of([&] { MUST(cudaMemcpyAsync(to, host, host_bytes, cudaMemcpyHostToDevice)); }));
	printf("d2h_gbs,%.1f\n", host_bytes / 1e6 /
		   time_of([&] { MUST(cudaMemcpyAsync(host, from, host_bytes, cudaMemcpyDeviceToHost)); }));
	return 0;
}
