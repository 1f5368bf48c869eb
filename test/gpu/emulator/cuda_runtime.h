/*-------------------------------------------------------------------------
 *
 * cuda_runtime.h
 *	  As much of CUDA as src/gpu uses, on the CPU, to test its kernels and its
 *	  host code on a machine without a GPU.  Not fast, and no proof that a
 *	  device does the same.
 *
 * Threads of a block are coroutines: each runs up to the next __syncthreads or
 * shuffle, then the next thread does.  A kernel uses one of the two.
 *
 * Streams are queues.  What is put into one waits until somebody asks or waits,
 * and then streams are drained in a random order, so that a missing dependency
 * between two streams, or a buffer that is used again too early, gives wrong
 * results.  Copies from memory that is not pinned happen at once, as CUDA
 * promises no less.
 *
 * EMULATED_DEVICES says how many devices there are, EMULATED_MEMORY_MB how much
 * memory they have, EMULATED_TAKEN_MB how much of it others have, EMULATED_LARGEST_MB
 * how much can be had at once.  New memory is filled with garbage.  After EMULATED_LOST_AFTER
 * operations of streams all calls fail, as after a fault of a kernel, until the
 * device is reset.  EMULATED_BROKEN_DEVICE is the number of one that does not answer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EMULATED_CUDA_RUNTIME_H
#define EMULATED_CUDA_RUNTIME_H

#include <dlfcn.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>

#define CUDART_VERSION 13000

#define __global__
#define __device__
#define __host__
#define __shared__ static

using std::min;
using std::max;
using std::isfinite;

struct dim3
{
	unsigned	x, y, z;
	dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) double2 { double x, y; };

static inline uint2
make_uint2(unsigned x, unsigned y)
{
	return uint2{x, y};
}

static inline double2
make_double2(double x, double y)
{
	return double2{x, y};
}

/* Of the coroutine that runs */
extern dim3 emulated_thread;
extern dim3 emulated_block;
extern dim3 emulated_block_size;
extern dim3 emulated_grid_size;
extern float4 emulated_shared[65536 / sizeof(float4)];
extern void emulated_yield();
extern uint32_t emulated_shuffle(uint32_t bits, int offset);

#define threadIdx emulated_thread
#define blockIdx emulated_block
#define blockDim emulated_block_size
#define gridDim emulated_grid_size

static inline void
__syncthreads()
{
	emulated_yield();
}

template<typename T>
static inline T
__shfl_xor_sync(unsigned, T value, int offset)
{
	uint32_t	words[sizeof(T) / 4];

	static_assert(sizeof(T) % 4 == 0, "words of 32 bits");
	memcpy(words, &value, sizeof(T));
	for (uint32_t &word : words)
		word = emulated_shuffle(word, offset);
	memcpy(&value, words, sizeof(T));
	return value;
}

static inline float
__uint_as_float(uint32_t bits)
{
	float		value;

	memcpy(&value, &bits, 4);
	return value;
}

static inline uint32_t
__float_as_uint(float value)
{
	uint32_t	bits;

	memcpy(&bits, &value, 4);
	return bits;
}

enum cudaError_t
{
	cudaSuccess = 0,
	cudaErrorInvalidValue = 1,
	cudaErrorMemoryAllocation = 2,
	cudaErrorInsufficientDriver = 35,
	cudaErrorDevicesUnavailable = 46,
	cudaErrorNoDevice = 100,
	cudaErrorNotReady = 600,
	cudaErrorIllegalAddress = 700
};

enum cudaMemcpyKind
{
	cudaMemcpyHostToDevice = 1,
	cudaMemcpyDeviceToHost = 2
};

enum
{
	cudaStreamNonBlocking = 1,
	cudaEventDisableTiming = 2,
	cudaHostAllocPortable = 1
};

typedef struct EmulatedStream *cudaStream_t;
typedef struct EmulatedEvent *cudaEvent_t;

struct cudaDeviceProp
{
	char		name[256];
	size_t		totalGlobalMem;
	int			major;
	int			minor;
	int			multiProcessorCount;
	int			l2CacheSize;
};

extern cudaError_t cudaSetDevice(int device);
extern cudaError_t cudaGetDevice(int *device);
extern cudaError_t cudaGetDeviceCount(int *count);
extern cudaError_t cudaDriverGetVersion(int *version);
extern cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
extern cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
extern cudaError_t cudaDeviceReset();
extern cudaError_t cudaDeviceSynchronize();
extern cudaError_t cudaGetLastError();
extern const char *cudaGetErrorString(cudaError_t error);
extern cudaError_t cudaMalloc(void **address, size_t bytes);
extern cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags);
extern cudaError_t cudaFree(void *address);
extern cudaError_t cudaFreeHost(void *address);
extern cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
extern cudaError_t cudaStreamDestroy(cudaStream_t stream);
extern cudaError_t cudaStreamQuery(cudaStream_t stream);
extern cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
extern cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
extern cudaError_t cudaEventDestroy(cudaEvent_t event);
extern cudaError_t cudaEventQuery(cudaEvent_t event);
extern cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
extern cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
extern cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
extern cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
									 size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream);
extern cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);

/* What is asked of the driver's library */
extern "C" void *emulated_dlopen(const char *name, int mode);
extern "C" void *emulated_dlsym(void *library, const char *name);
extern "C" int emulated_dlclose(void *library);

#define dlopen emulated_dlopen
#define dlsym emulated_dlsym
#define dlclose emulated_dlclose

/* Put work into a stream */
extern void emulated_enqueue(cudaStream_t stream, std::function<void()> work);

/* Run a kernel over a grid, now */
extern void emulated_run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel);

/* kernel<<<grid, block, shared_bytes, stream>>>(arguments...) */
template<typename... Parameters, typename... Arguments>
static inline void
emulated_launch(void (*kernel) (Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
				Arguments... arguments)
{
	emulated_enqueue(stream, [=]
	{
		emulated_run(grid, block, shared_bytes, [=] { kernel(static_cast<Parameters>(arguments)...); });
	});
}

#endif							/* EMULATED_CUDA_RUNTIME_H */
