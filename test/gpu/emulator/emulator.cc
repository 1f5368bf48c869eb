/*-------------------------------------------------------------------------
 *
 * emulator.cc
 *	  Streams, coroutines and products behind the emulated headers; see
 *	  cuda_runtime.h.
 *
 *-------------------------------------------------------------------------
 */
#include "cublas_v2.h"

#include <setjmp.h>
#include <stdio.h>
#include <ucontext.h>

#include <deque>
#include <map>
#include <set>
#include <vector>

#define MAX_THREADS 1024
#define STACK_BYTES 65536

dim3 emulated_thread;
dim3 emulated_block;
dim3 emulated_block_size;
dim3 emulated_grid_size;
float4 emulated_shared[65536 / sizeof(float4)];

/*----------
 * Streams and events
 *----------
 */

struct EmulatedEvent
{
	uint64_t	recorded = 0;	/* how often it was put into a stream */
	uint64_t	reached = 0;	/* and how often a stream has come to it */
};

struct Operation
{
	std::function<void()> work;
	EmulatedEvent *awaited = nullptr;
	uint64_t	count = 0;		/* wait until awaited->reached is this */
};

struct EmulatedStream
{
	std::deque<Operation> operations;
};

struct EmulatedCublas
{
	cudaStream_t stream;
};

static std::set<EmulatedStream *> streams;
static std::map<const char *, size_t> pinned;
static std::map<const char *, size_t> on_device;
static size_t used_bytes;
static uint64_t random_state = 88172645463325252u;
static int current_device;
static std::set<int> in_use;	/* devices that have one */
static cudaError_t last_error;
static size_t noperations;		/* since the first context */
static bool is_lost;			/* until the device is reset */

static size_t
number_from(const char *name, size_t otherwise)
{
	const char *value = getenv(name);

	return value != NULL ? strtoul(value, NULL, 10) : otherwise;
}

/*
 * What a call returns, "not ready" too, is the last error until somebody asks for it.
 * Calls but for allocations do what they do also when the device is lost, and say that it is.
 */
static cudaError_t
say(cudaError_t error)
{
	if (is_lost)
		error = cudaErrorIllegalAddress;
	if (error != cudaSuccess)
		last_error = error;
	return error;
}

static uint64_t
draw()
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static bool
can_run(const EmulatedStream *stream)
{
	if (stream->operations.empty())
		return false;
	const Operation &next = stream->operations.front();

	return next.awaited == nullptr || next.awaited->reached >= next.count;
}

/* Run one operation of some stream; false if none can */
static bool
run_one()
{
	std::vector<EmulatedStream *> ready;

	for (EmulatedStream *stream : streams)
		if (can_run(stream))
			ready.push_back(stream);
	if (ready.empty())
		return false;
	EmulatedStream *chosen = ready[draw() % ready.size()];
	Operation	operation = chosen->operations.front();

	chosen->operations.pop_front();
	if (operation.work)
		operation.work();
	return true;
}

static void
run_some()
{
	for (uint64_t n = draw() % 4; n > 0 && run_one(); n--)
		;
}

void
emulated_enqueue(cudaStream_t stream, std::function<void()> work)
{
	Operation	operation;

	is_lost = is_lost || noperations++ >= number_from("EMULATED_LOST_AFTER", SIZE_MAX);
	(void) say(cudaSuccess);
	operation.work = work;
	stream->operations.push_back(operation);
	if (draw() % 8 == 0)
		run_some();
}

cudaError_t
cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
	*stream = new EmulatedStream;
	streams.insert(*stream);
	return say(cudaSuccess);
}

cudaError_t
cudaStreamDestroy(cudaStream_t stream)
{
	while (!stream->operations.empty() && run_one())
		;
	streams.erase(stream);
	delete stream;
	return say(cudaSuccess);
}

cudaError_t
cudaStreamQuery(cudaStream_t stream)
{
	run_some();
	return say(stream->operations.empty() ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t
cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
	Operation	operation;

	operation.awaited = event;
	operation.count = event->recorded;
	stream->operations.push_back(operation);
	return say(cudaSuccess);
}

cudaError_t
cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
	*event = new EmulatedEvent;
	return say(cudaSuccess);
}

cudaError_t
cudaEventDestroy(cudaEvent_t event)
{
	cudaDeviceSynchronize();
	delete event;
	return say(cudaSuccess);
}

cudaError_t
cudaEventQuery(cudaEvent_t event)
{
	run_some();
	return say(event->reached == event->recorded ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t
cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
	uint64_t	number = ++event->recorded;

	emulated_enqueue(stream, [=] { event->reached = number; });
	return say(cudaSuccess);
}

cudaError_t
cudaDeviceSynchronize()
{
	while (run_one())
		;
	return say(cudaSuccess);
}

/*----------
 * Memory
 *----------
 */

static size_t
total_memory()
{
	return number_from("EMULATED_MEMORY_MB", 2048) << 20;
}

static size_t
free_memory()
{
	size_t		taken = (number_from("EMULATED_TAKEN_MB", 0) << 20) + used_bytes;

	return total_memory() - min(taken, total_memory());
}

static cudaError_t
allocate(void **address, size_t bytes, std::map<const char *, size_t> &known)
{
	*address = is_lost ? NULL : aligned_alloc(256, (bytes + 255) / 256 * 256);
	if (*address == NULL)
		return say(cudaErrorMemoryAllocation);
	memset(*address, 0xA5, bytes);
	known[(const char *) *address] = bytes;
	return say(cudaSuccess);
}

cudaError_t
cudaMalloc(void **address, size_t bytes)
{
	if (bytes > free_memory() || bytes >> 20 >= number_from("EMULATED_LARGEST_MB", SIZE_MAX))
		return say(cudaErrorMemoryAllocation);
	cudaError_t result = allocate(address, bytes, on_device);

	if (result == cudaSuccess)
		used_bytes += bytes;
	return result;
}

cudaError_t
cudaHostAlloc(void **address, size_t bytes, unsigned)
{
	return allocate(address, bytes, pinned);
}

cudaError_t
cudaFree(void *address)
{
	cudaDeviceSynchronize();
	used_bytes -= on_device.at((const char *) address);
	on_device.erase((const char *) address);
	free(address);
	return say(cudaSuccess);
}

cudaError_t
cudaFreeHost(void *address)
{
	cudaDeviceSynchronize();
	pinned.erase((const char *) address);
	free(address);
	return say(cudaSuccess);
}

/* Whether a range lies in one allocation */
static bool
is_in(const std::map<const char *, size_t> &known, const void *address, size_t bytes)
{
	auto		after = known.upper_bound((const char *) address);

	if (after == known.begin())
		return false;
	--after;
	return (const char *) address + bytes <= after->first + after->second;
}

/* The device's side must be the device's; a copy over the end of an allocation ends the program */
static bool
is_async(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
	const void *device = kind == cudaMemcpyHostToDevice ? to : from;
	const void *host = kind == cudaMemcpyHostToDevice ? from : to;

	if (bytes > 0 && !is_in(on_device, device, bytes))
	{
		fprintf(stderr, "a copy of %zu bytes leaves the device's memory\n", bytes);
		abort();
	}
	return is_in(pinned, host, bytes);
}

cudaError_t
cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
	bool		async = is_async(to, from, bytes, kind);

	if (!async && kind == cudaMemcpyHostToDevice)
	{
		/* Taken from there before the call returns, written in its turn */
		std::vector<char> staged((const char *) from, (const char *) from + bytes);

		emulated_enqueue(stream, [=] { memcpy(to, staged.data(), bytes); });
		return say(cudaSuccess);
	}
	emulated_enqueue(stream, [=] { memcpy(to, from, bytes); });
	while (!async && !stream->operations.empty())
		run_one();
	return say(cudaSuccess);
}

cudaError_t
cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
				  size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
	for (size_t i = 0; i < height; i++)
		cudaMemcpyAsync((char *) to + i * to_pitch, (const char *) from + i * from_pitch, width, kind, stream);
	return say(cudaSuccess);
}

/* The default stream waits for nobody that was made not to block */
cudaError_t
cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
	(void) is_async(to, from, bytes, kind);
	memcpy(to, from, bytes);
	return say(cudaSuccess);
}

cudaError_t
cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
	emulated_enqueue(stream, [=] { memset(to, value, bytes); });
	return say(cudaSuccess);
}

/*----------
 * Devices
 *----------
 */

/* An error of before comes back, and the device is current all the same */
cudaError_t
cudaSetDevice(int device)
{
	if ((size_t) device == number_from("EMULATED_BROKEN_DEVICE", SIZE_MAX))
		return say(cudaErrorDevicesUnavailable);
	if (in_use.empty())
		noperations = 0;
	in_use.insert(device);
	current_device = device;
	return say(cudaSuccess);
}

cudaError_t
cudaGetDevice(int *device)
{
	*device = current_device;
	return cudaSuccess;
}

cudaError_t
cudaGetDeviceCount(int *count)
{
	*count = (int) number_from("EMULATED_DEVICES", 1);
	return say(cudaSuccess);
}

cudaError_t
cudaDriverGetVersion(int *version)
{
	*version = CUDART_VERSION;
	return say(cudaSuccess);
}

cudaError_t
cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
	if ((size_t) device == number_from("EMULATED_BROKEN_DEVICE", SIZE_MAX))
		return say(cudaErrorDevicesUnavailable);
	memset(properties, 0, sizeof(*properties));
	strcpy(properties->name, "emulated device");
	properties->totalGlobalMem = total_memory();
	properties->major = 8;
	properties->multiProcessorCount = 4;
	properties->l2CacheSize = 1 << 20;
	return say(cudaSuccess);
}

cudaError_t
cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
	*total_bytes = total_memory();
	*free_bytes = free_memory();
	return say(cudaSuccess);
}

cudaError_t
cudaDeviceReset()
{
	in_use.erase(current_device);
	is_lost = false;
	last_error = cudaSuccess;
	return cudaSuccess;
}

cudaError_t
cudaGetLastError()
{
	cudaError_t error = last_error;

	last_error = is_lost ? cudaErrorIllegalAddress : cudaSuccess;
	return error;
}

const char *
cudaGetErrorString(cudaError_t error)
{
	switch (error)
	{
		case cudaErrorMemoryAllocation:
			return "out of memory";
		case cudaErrorDevicesUnavailable:
			return "all CUDA-capable devices are busy or unavailable";
		case cudaErrorIllegalAddress:
			return "an illegal memory access was encountered";
		default:
			return "some error";
	}
}

static int
get_device(int *device, int ordinal)
{
	*device = ordinal;
	return 0;
}

static int
get_context_state(int device, unsigned *flags, int *active)
{
	*flags = 0;
	*active = in_use.count(device) > 0;
	return 0;
}

void *
emulated_dlopen(const char *, int)
{
	return &in_use;
}

void *
emulated_dlsym(void *, const char *name)
{
	return strcmp(name, "cuDeviceGet") == 0 ? (void *) get_device :
		strcmp(name, "cuDevicePrimaryCtxGetState") == 0 ? (void *) get_context_state : NULL;
}

int
emulated_dlclose(void *)
{
	return 0;
}

/*----------
 * Kernels
 *----------
 */

/*
 * A coroutine runs one thread of a block after the other, for as long as the
 * process lives.  It is entered as a context once; from then on jumps are
 * faster, as they leave the mask of signals alone.
 */
static ucontext_t contexts[MAX_THREADS];
static jmp_buf scheduler;
static jmp_buf places[MAX_THREADS];
static bool is_started[MAX_THREADS];
static bool is_finished[MAX_THREADS];
static char *stacks;
static unsigned current;
static const std::function<void()> *running;

/* Two places per thread: one is read while the other is written */
static uint32_t shuffled[2][MAX_THREADS];
static unsigned nshuffles[MAX_THREADS];

void
emulated_yield()
{
	if (_setjmp(places[current]) == 0)
		_longjmp(scheduler, 1);
}

static void
run_threads()
{
	for (;;)
	{
		(*running) ();
		is_finished[current] = true;
		emulated_yield();
	}
}

/* Let a thread run up to its next yield */
static void
resume(unsigned thread)
{
	current = thread;
	if (_setjmp(scheduler) != 0)
		return;
	if (is_started[thread])
		_longjmp(places[thread], 1);
	is_started[thread] = true;
	getcontext(&contexts[thread]);
	contexts[thread].uc_stack.ss_sp = stacks + (size_t) thread * STACK_BYTES;
	contexts[thread].uc_stack.ss_size = STACK_BYTES;
	contexts[thread].uc_link = NULL;
	makecontext(&contexts[thread], run_threads, 0);
	setcontext(&contexts[thread]);
}

uint32_t
emulated_shuffle(uint32_t bits, int offset)
{
	unsigned	self = current;
	unsigned	place = nshuffles[self]++ % 2;

	shuffled[place][self] = bits;
	emulated_yield();
	return shuffled[place][self ^ (unsigned) offset];
}

static void
run_block(dim3 block)
{
	unsigned	nthreads = block.x * block.y * block.z;
	bool		is_running = true;

	for (unsigned t = 0; t < nthreads; t++)
	{
		is_finished[t] = false;
		nshuffles[t] = 0;
	}
	while (is_running)
	{
		is_running = false;
		for (unsigned t = 0; t < nthreads; t++)
		{
			if (is_finished[t])
				continue;
			is_running = true;
			emulated_thread = dim3(t % block.x, t / block.x % block.y, t / block.x / block.y);
			resume(t);
		}
	}
}

void
emulated_run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel)
{
	if (stacks == NULL)
		stacks = (char *) malloc((size_t) MAX_THREADS * STACK_BYTES);
	if (grid.x == 0 || grid.y == 0 || grid.y > 65535 || grid.z != 1 || shared_bytes > 48 * 1024 ||
		block.x * block.y * block.z == 0 || block.x * block.y * block.z > MAX_THREADS)
	{
		fprintf(stderr, "a kernel cannot be started with %u x %u blocks of %u x %u threads\n",
				grid.x, grid.y, block.x, block.y);
		abort();
	}
	running = &kernel;
	emulated_block_size = block;
	emulated_grid_size = grid;
	for (unsigned y = 0; y < grid.y; y++)
		for (unsigned x = 0; x < grid.x; x++)
		{
			emulated_block = dim3(x, y, 0);
			memset(emulated_shared, 0xA5, shared_bytes);
			run_block(block);
		}
}

/*----------
 * cuBLAS
 *----------
 */

cublasStatus_t
cublasCreate(cublasHandle_t *handle)
{
	*handle = new EmulatedCublas;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasDestroy(cublasHandle_t handle)
{
	delete handle;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
	handle->stream = stream;
	return CUBLAS_STATUS_SUCCESS;
}

const char *
cublasGetStatusString(cublasStatus_t)
{
	return "some error";
}

/* An operand as the product sees it: TF32 has the upper 19 bits of a float */
static float
operand(const void *values, cudaDataType type, cublasComputeType_t compute, size_t i)
{
	if (type == CUDA_R_16BF)
		return __uint_as_float((uint32_t) ((const uint16_t *) values)[i] << 16);
	if (compute == CUBLAS_COMPUTE_32F_FAST_TF32)
		return __uint_as_float(__float_as_uint(((const float *) values)[i]) & 0xFFFFE000u);
	return ((const float *) values)[i];
}

/* Column-major, a transposed */
cublasStatus_t
cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
			 int m, int n, int k, const void *, const void *a, cudaDataType type_a, int lda,
			 const void *b, cudaDataType type_b, int ldb, const void *,
			 void *c, cudaDataType type_c, int ldc, cublasComputeType_t compute, int)
{
	if (op_a != CUBLAS_OP_T || op_b != CUBLAS_OP_N || type_c != CUDA_R_32F || m < 1 || n < 1 || k < 1 ||
		lda < k || ldb < k || ldc < m)
		return CUBLAS_STATUS_INVALID_VALUE;
	emulated_enqueue(handle->stream, [=]
	{
		std::vector<float> a_values((size_t) m * k);
		std::vector<float> b_values(k);

		for (int i = 0; i < m; i++)
			for (int t = 0; t < k; t++)
				a_values[(size_t) i * k + t] = operand(a, type_a, compute, (size_t) i * lda + t);
		for (int j = 0; j < n; j++)
		{
			for (int t = 0; t < k; t++)
				b_values[t] = operand(b, type_b, compute, (size_t) j * ldb + t);
			for (int i = 0; i < m; i++)
			{
				const float *row = &a_values[(size_t) i * k];
				float		sum = 0;

				for (int t = 0; t < k; t++)
					sum += row[t] * b_values[t];
				((float *) c)[(size_t) j * ldc + i] = sum;
			}
		}
	});
	return CUBLAS_STATUS_SUCCESS;
}
