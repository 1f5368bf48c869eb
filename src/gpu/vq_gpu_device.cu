/*-------------------------------------------------------------------------
 *
 * vq_gpu_device.cu
 *	  Devices: listing, opening, memory, errors, waiting.
 *
 * Opening a device starts threads of the driver.  All signals are blocked
 * while that happens, so that these threads inherit the mask and no handler of
 * the caller ever runs in one of them.
 *
 * Closing resets a device that nobody in this process used before us: its
 * context holds hundreds of MB, and a backend can live for days after it has
 * built an index.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu/vq_gpu_device.cuh"

#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Oldest compute capability that there is code for */
#define MIN_CAPABILITY 75

/* Left to the driver and to others: a share, and at least this */
#define RESERVE_SHARE 16
#define RESERVE_BYTES ((size_t) 256 << 20)

/* Of several devices, one with less than this part of the memory of another is left out */
#define MIN_BUDGET_SHARE 4

/* Between two looks at a device; the first ones come at once */
#define EAGER_LOOKS 100
#define LOOK_NANOSECONDS 50000

/* A sentence for the caller; returns status */
VqGpuStatus
vq_gpu_fail(VqGpuError *error, VqGpuStatus status, const char *format, ...)
{
	va_list		arguments;

	va_start(arguments, format);
	vsnprintf(error->message, sizeof(error->message), format, arguments);
	va_end(arguments);
	return status;
}

VqGpuStatus
vq_gpu_check(VqGpu *gpu, cudaError_t result, const char *what)
{
	VqGpuStatus status = VQ_GPU_FAILED;

	if (result == cudaSuccess)
		return VQ_GPU_OK;
	if (result == cudaErrorMemoryAllocation)
		status = VQ_GPU_NO_MEMORY;

	/* Where a call ends is enough to find it; its arguments are not for users */
	return vq_gpu_fail(gpu->error, status, "%.*s: %s", (int) strcspn(what, "("), what,
					   cudaGetErrorString(result));
}

VqGpuStatus
vq_gpu_check_cublas(VqGpu *gpu, cublasStatus_t result, const char *what)
{
	if (result == CUBLAS_STATUS_SUCCESS)
		return VQ_GPU_OK;
	return vq_gpu_fail(gpu->error, result == CUBLAS_STATUS_ALLOC_FAILED ? VQ_GPU_NO_MEMORY : VQ_GPU_FAILED,
					   "%.*s: %s", (int) strcspn(what, "("), what, cublasGetStatusString(result));
}

/*----------
 * Entry points
 *----------
 */

static void release_devices(VqGpu *gpu);

VqGpuStatus
vq_gpu_begin(VqGpu *gpu, VqGpuError *error)
{
	error->message[0] = '\0';
	if (gpu->is_broken)
		return vq_gpu_fail(error, VQ_GPU_FAILED, "the device was given back after an earlier error");
	gpu->error = error;
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_finish(VqGpu *gpu, VqGpuStatus status)
{
	if (status != VQ_GPU_OK && status != VQ_GPU_BAD_ARGUMENT)
	{
		release_devices(gpu);
		gpu->is_broken = true;
	}
	gpu->error = NULL;
	return status;
}

/*----------
 * Memory
 *----------
 */

VqGpuStatus
vq_gpu_use(VqGpuState *device)
{
	CUDA(device->gpu, cudaSetDevice(device->index));
	return VQ_GPU_OK;
}

size_t
vq_gpu_left(const VqGpuState *device)
{
	return device->used < device->budget ? device->budget - device->used : 0;
}

VqGpuStatus
vq_gpu_look_at_memory(VqGpuState *device)
{
	size_t		free_bytes;
	size_t		total_bytes;
	size_t		reserve;

	TRY(vq_gpu_use(device));
	CUDA(device->gpu, cudaMemGetInfo(&free_bytes, &total_bytes));
	reserve = vq_gpu_min(free_bytes, vq_gpu_max(free_bytes / RESERVE_SHARE, RESERVE_BYTES));
	device->budget = vq_gpu_min(device->budget, device->used + free_bytes - reserve);
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_alloc_bytes(VqGpuState *device, VqGpuScope scope, size_t count, size_t size,
				   bool is_host, void **address)
{
	VqGpu	   *gpu = device->gpu;
	VqGpuAllocation *allocation;
	size_t		bytes;
	cudaError_t result;

	*address = NULL;
	if (count == 0)
		count = 1;
	if (count > SIZE_MAX / 2 / size)
		return vq_gpu_fail(gpu->error, VQ_GPU_NO_MEMORY, "an array of %zu elements is too large", count);
	bytes = (count * size + 255) / 256 * 256;
	if (!is_host && bytes > vq_gpu_left(device))
		return vq_gpu_fail(gpu->error, VQ_GPU_NO_MEMORY,
						   "device %d has %zu MB left for this, and %zu MB are needed",
						   device->index, vq_gpu_left(device) >> 20, (bytes >> 20) + 1);
	TRY(vq_gpu_use(device));
	allocation = (VqGpuAllocation *) malloc(sizeof(VqGpuAllocation));
	if (allocation == NULL)
		return vq_gpu_fail(gpu->error, VQ_GPU_NO_MEMORY, "out of memory on the host");
	if (is_host)
		result = cudaHostAlloc(&allocation->address, bytes, cudaHostAllocPortable);
	else
		result = cudaMalloc(&allocation->address, bytes);
	if (result != cudaSuccess)
	{
		free(allocation);
		(void) cudaGetLastError();
		if (result != cudaErrorMemoryAllocation)
			return vq_gpu_check(gpu, result, is_host ? "cudaHostAlloc" : "cudaMalloc");
		return vq_gpu_fail(gpu->error, VQ_GPU_NO_MEMORY, "could not allocate %zu MB of %s of device %d",
						   (bytes >> 20) + 1, is_host ? "pinned host memory" : "the memory", device->index);
	}
	allocation->bytes = bytes;
	allocation->is_host = is_host;
	allocation->next = device->allocations[scope];
	device->allocations[scope] = allocation;
	if (!is_host)
		device->used += bytes;
	*address = allocation->address;
	return VQ_GPU_OK;
}

/* Errors of the driver are ignored here: it may be one of them that brought us */
static void
free_device_scope(VqGpuState *device, VqGpuScope scope)
{
	VqGpuAllocation *allocation = device->allocations[scope];

	if (allocation == NULL)
		return;
	(void) cudaSetDevice(device->index);
	(void) cudaDeviceSynchronize();
	while (allocation != NULL)
	{
		VqGpuAllocation *next = allocation->next;

		if (allocation->is_host)
			(void) cudaFreeHost(allocation->address);
		else
		{
			(void) cudaFree(allocation->address);
			device->used -= allocation->bytes;
		}
		free(allocation);
		allocation = next;
	}
	device->allocations[scope] = NULL;
	(void) cudaGetLastError();
}

void
vq_gpu_free_scope(VqGpu *gpu, VqGpuScope scope)
{
	for (int d = 0; d < gpu->ndevices; d++)
		free_device_scope(&gpu->devices[d], scope);
}

VqGpuStatus
vq_gpu_pin_rows(VqGpuState *device, size_t nrows, size_t dim, size_t stride)
{
	if (nrows * stride > device->pinned_floats)
	{
		device->pinned_floats = 0;
		free_device_scope(device, SCOPE_DEVICE);
		for (int s = 0; s < VQ_GPU_SLOTS; s++)
		{
			VqGpuSlot  *slot = &device->slots[s];

			TRY(vq_gpu_alloc_host(device, SCOPE_DEVICE, nrows * stride, &slot->host_rows));
			TRY(vq_gpu_alloc_bytes(device, SCOPE_DEVICE, VQ_GPU_PIECE_BYTES, 1, true, &slot->host_piece));
		}
		device->pinned_floats = nrows * stride;
	}
	for (int s = 0; s < VQ_GPU_SLOTS && dim < stride; s++)
		for (size_t i = 0; i < nrows; i++)
			memset(device->slots[s].host_rows + i * stride + dim, 0, (stride - dim) * sizeof(float));
	return VQ_GPU_OK;
}

/*----------
 * Waiting
 *----------
 */

VqGpuStatus
vq_gpu_stop_requested(VqGpu *gpu)
{
	if (gpu->options.should_stop != NULL && gpu->options.should_stop(gpu->options.should_stop_arg))
		return vq_gpu_fail(gpu->error, VQ_GPU_STOPPED, "the work on the device was stopped on request");
	return VQ_GPU_OK;
}

static VqGpuStatus
look_again(VqGpu *gpu, int *looks)
{
	struct timespec pause = {0, LOOK_NANOSECONDS};

	TRY(vq_gpu_stop_requested(gpu));
	if (++*looks > EAGER_LOOKS)
		nanosleep(&pause, NULL);
	return VQ_GPU_OK;
}

/* Some runtimes keep "not ready" as the last error, which the next launch would be taken for */
static VqGpuStatus
waited(VqGpuState *device, cudaError_t result, int looks)
{
	if (looks > 0)
		(void) cudaGetLastError();
	return vq_gpu_check(device->gpu, result, "work on the device");
}

VqGpuStatus
vq_gpu_wait(VqGpuState *device, cudaEvent_t event)
{
	cudaError_t result;
	int			looks = 0;

	while ((result = cudaEventQuery(event)) == cudaErrorNotReady)
		TRY(look_again(device->gpu, &looks));
	return waited(device, result, looks);
}

VqGpuStatus
vq_gpu_wait_stream(VqGpuState *device, cudaStream_t stream)
{
	cudaError_t result;
	int			looks = 0;

	while ((result = cudaStreamQuery(stream)) == cudaErrorNotReady)
		TRY(look_again(device->gpu, &looks));
	return waited(device, result, looks);
}

/*----------
 * Listing and opening
 *----------
 */

/* Blocks all signals for as long as it lives */
class SignalsBlocked
{
public:
	SignalsBlocked()
	{
		sigset_t	all;

		sigfillset(&all);
		pthread_sigmask(SIG_BLOCK, &all, &old);
	}
	~SignalsBlocked()
	{
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}

private:
	sigset_t	old;
};

/*
 * Whether this process has a context on a device already.  The runtime cannot
 * tell, the driver can; it is loaded, as devices were counted before.
 */
static bool
has_context(int index)
{
	typedef int (*GetDevice) (int *device, int ordinal);
	typedef int (*GetState) (int device, unsigned int *flags, int *active);
	void	   *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
	GetDevice	get_device;
	GetState	get_state;
	unsigned int flags = 0;
	int			device = 0;
	int			active = 1;

	if (driver == NULL)
		return true;
	get_device = (GetDevice) dlsym(driver, "cuDeviceGet");
	get_state = (GetState) dlsym(driver, "cuDevicePrimaryCtxGetState");
	if (get_device == NULL || get_state == NULL ||
		get_device(&device, index) != 0 || get_state(device, &flags, &active) != 0)
		active = 1;
	dlclose(driver);
	return active != 0;
}

/* Make a device current; an error of earlier work may come back from that although it is */
static bool
make_current(int index)
{
	int			current = -1;

	(void) cudaSetDevice(index);
	return cudaGetDevice(&current) == cudaSuccess && current == index;
}

static VqGpuStatus
count_devices(int *count, VqGpuError *error)
{
	cudaError_t result = cudaGetDeviceCount(count);
	int			driver = 0;

	(void) cudaGetLastError();
	if (result == cudaSuccess && *count > 0)
		return VQ_GPU_OK;
	*count = 0;
	(void) cudaDriverGetVersion(&driver);
	if (result == cudaSuccess || result == cudaErrorNoDevice)
		return vq_gpu_fail(error, VQ_GPU_NO_DEVICE,
						   "the driver sees no CUDA device, or CUDA_VISIBLE_DEVICES hides all of them");
	if (driver == 0)
		return vq_gpu_fail(error, VQ_GPU_NO_DEVICE, "no NVIDIA driver is installed on this machine");
	if (result == cudaErrorInsufficientDriver)
		return vq_gpu_fail(error, VQ_GPU_NO_DEVICE,
						   "the NVIDIA driver supports CUDA %d.%d, and vqpg was built for CUDA %d.%d",
						   driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
	return vq_gpu_fail(error, VQ_GPU_NO_DEVICE, "the NVIDIA driver does not start: %s",
					   cudaGetErrorString(result));
}

VqGpuStatus
vq_gpu_devices(VqGpuDevice *devices, size_t capacity, size_t *ndevices, VqGpuError *error)
{
	SignalsBlocked blocked;
	int			count = 0;
	int			driver = 0;

	*ndevices = 0;
	error->message[0] = '\0';
	TRY(count_devices(&count, error));
	*ndevices = (size_t) count;
	(void) cudaDriverGetVersion(&driver);
	for (int i = 0; i < count && (size_t) i < capacity; i++)
	{
		VqGpuDevice *device = &devices[i];
		cudaDeviceProp properties;
		bool		is_ours = !has_context(i);
		bool		is_current;
		size_t		free_bytes = 0;
		size_t		total_bytes = 0;
		cudaError_t result = cudaGetDeviceProperties(&properties, i);

		memset(device, 0, sizeof(*device));
		device->index = i;
		if (result != cudaSuccess)
		{
			snprintf(device->name, sizeof(device->name), "unavailable: %.100s", cudaGetErrorString(result));
			(void) cudaGetLastError();
			continue;
		}
		snprintf(device->name, sizeof(device->name), "%.127s", properties.name);
		device->capability_major = (uint32_t) properties.major;
		device->capability_minor = (uint32_t) properties.minor;
		device->driver_version = (uint32_t) driver;
		device->multiprocessors = (uint32_t) properties.multiProcessorCount;
		device->total_bytes = properties.totalGlobalMem;
		is_current = make_current(i);
		if (is_current && cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess)
			device->free_bytes = free_bytes;

		/* else another one is current still, which an open handle may use */
		if (is_ours && is_current)
			(void) cudaDeviceReset();
		(void) cudaGetLastError();
	}
	return VQ_GPU_OK;
}

static VqGpuStatus
create_events(VqGpuState *device)
{
	for (int s = 0; s < VQ_GPU_SLOTS; s++)
	{
		VqGpuSlot  *slot = &device->slots[s];

		CUDA(device->gpu, cudaEventCreateWithFlags(&slot->copied_in, cudaEventDisableTiming));
		CUDA(device->gpu, cudaEventCreateWithFlags(&slot->computed, cudaEventDisableTiming));
		CUDA(device->gpu, cudaEventCreateWithFlags(&slot->done, cudaEventDisableTiming));
	}
	return VQ_GPU_OK;
}

static VqGpuStatus
open_device(VqGpu *gpu, VqGpuState *device)
{
	device->owns_context = !has_context(device->index);
	TRY(vq_gpu_use(device));
	device->is_entered = true;
	CUDA(gpu, cudaStreamCreateWithFlags(&device->copy_in, cudaStreamNonBlocking));
	CUDA(gpu, cudaStreamCreateWithFlags(&device->compute, cudaStreamNonBlocking));
	CUDA(gpu, cudaStreamCreateWithFlags(&device->copy_out, cudaStreamNonBlocking));
	TRY(create_events(device));
	CUBLAS(gpu, cublasCreate(&device->cublas));
	CUBLAS(gpu, cublasSetStream(device->cublas, device->compute));

	/* After all of that, which takes memory too */
	device->budget = gpu->options.memory_limit > 0 ? (size_t) gpu->options.memory_limit : SIZE_MAX;
	return vq_gpu_look_at_memory(device);
}

/* Fill the list of devices to use */
static VqGpuStatus
choose_devices(VqGpu *gpu)
{
	int			wanted = gpu->options.device;
	int			count;
	VqGpuStatus status = VQ_GPU_NO_DEVICE;

	TRY(count_devices(&count, gpu->error));
	if (wanted < VQ_GPU_ALL_DEVICES || wanted >= count)
		return vq_gpu_fail(gpu->error, VQ_GPU_NO_DEVICE, "there is no device %d, only %d to %d", wanted, 0, count - 1);
	for (int i = 0; i < count && gpu->ndevices < VQ_GPU_MAX_DEVICES; i++)
	{
		VqGpuState *device = &gpu->devices[gpu->ndevices];
		cudaDeviceProp *properties = &device->properties;

		if (wanted != VQ_GPU_ALL_DEVICES && wanted != i)
			continue;
		if (vq_gpu_check(gpu, cudaGetDeviceProperties(properties, i), "cudaGetDeviceProperties") != VQ_GPU_OK)
		{
			(void) cudaGetLastError();
			status = VQ_GPU_FAILED;
			continue;
		}
		if (properties->major * 10 + properties->minor < MIN_CAPABILITY)
		{
			(void) vq_gpu_fail(gpu->error, VQ_GPU_NO_DEVICE,
							   "device %d, %s, has compute capability %d.%d, and %d.%d is needed", i,
							   properties->name, properties->major, properties->minor,
							   MIN_CAPABILITY / 10, MIN_CAPABILITY % 10);
			continue;
		}
		device->gpu = gpu;
		device->index = i;
		device->has_tf32 = properties->major >= 8;
		gpu->ndevices++;
	}
	return gpu->ndevices > 0 ? VQ_GPU_OK : status;
}

/* Works on a device in any state between chosen and open */
static void
release_device(VqGpuState *device)
{
	bool		is_current;

	/* to make it current would make a context, or it could not be made so: then the next launch is not to hear of it */
	if (!device->is_entered)
	{
		(void) cudaGetLastError();
		return;
	}
	for (int scope = 0; scope < NSCOPES; scope++)
		free_device_scope(device, (VqGpuScope) scope);
	is_current = make_current(device->index);
	if (device->cublas != NULL)
		(void) cublasDestroy(device->cublas);
	for (int s = 0; s < VQ_GPU_SLOTS; s++)
	{
		VqGpuSlot  *slot = &device->slots[s];

		if (slot->copied_in != NULL)
			(void) cudaEventDestroy(slot->copied_in);
		if (slot->computed != NULL)
			(void) cudaEventDestroy(slot->computed);
		if (slot->done != NULL)
			(void) cudaEventDestroy(slot->done);
	}
	if (device->copy_in != NULL)
		(void) cudaStreamDestroy(device->copy_in);
	if (device->compute != NULL)
		(void) cudaStreamDestroy(device->compute);
	if (device->copy_out != NULL)
		(void) cudaStreamDestroy(device->copy_out);
	if (device->owns_context && is_current)
		(void) cudaDeviceReset();
	(void) cudaGetLastError();
}

static void
release_devices(VqGpu *gpu)
{
	for (int d = 0; d < gpu->ndevices; d++)
		release_device(&gpu->devices[d]);
	gpu->ndevices = 0;
	gpu->has_sample = false;
	gpu->is_encoding = false;
	free(gpu->pieces);
	gpu->pieces = NULL;
	gpu->npieces = gpu->pieces_capacity = 0;
}

/* Go on without one of the devices, none of which is in use yet */
static void
leave_out(VqGpu *gpu, int d)
{
	release_device(&gpu->devices[d]);
	gpu->ndevices--;
	memmove(&gpu->devices[d], &gpu->devices[d + 1], (size_t) (gpu->ndevices - d) * sizeof(VqGpuState));
	memset(&gpu->devices[gpu->ndevices], 0, sizeof(VqGpuState));
}

/*
 * One kind of products for all, or labels would depend on who computed them.  A device
 * that has none but float32 is not worth having all use that.
 */
static VqGpuStatus
choose_products(VqGpu *gpu)
{
	bool		has_tf32 = false;

	for (int d = 0; d < gpu->ndevices; d++)
		has_tf32 = has_tf32 || gpu->devices[d].has_tf32;
	gpu->products = gpu->options.products;
	if (gpu->products == VQ_GPU_PRODUCTS_AUTO)
		gpu->products = has_tf32 ? VQ_GPU_PRODUCTS_TF32 : VQ_GPU_PRODUCTS_F32;
	for (int d = 0; d < gpu->ndevices && gpu->products != VQ_GPU_PRODUCTS_F32;)
	{
		if (gpu->devices[d].has_tf32)
			d++;
		else if (has_tf32)
			leave_out(gpu, d);
		else
			return vq_gpu_fail(gpu->error, VQ_GPU_BAD_ARGUMENT, "%s has no products in TF32 or BF16",
							   gpu->devices[d].properties.name);
	}
	return VQ_GPU_OK;
}

/*
 * Of several devices those that can be opened will do, and have memory to speak of:
 * work is dealt out evenly, so one that others use would hold up the rest.
 */
static VqGpuStatus
open_devices(VqGpu *gpu)
{
	size_t		largest = 0;

	TRY(choose_devices(gpu));
	TRY(choose_products(gpu));
	for (int d = 0; d < gpu->ndevices;)
	{
		VqGpuStatus status = open_device(gpu, &gpu->devices[d]);

		if (status == VQ_GPU_OK)
			largest = vq_gpu_max(largest, gpu->devices[d++].budget);
		else if (gpu->ndevices > 1)
			leave_out(gpu, d);
		else
			return status;
	}
	for (int d = 0; d < gpu->ndevices;)
	{
		if (gpu->devices[d].budget < largest / MIN_BUDGET_SHARE)
			leave_out(gpu, d);
		else
			d++;
	}
	gpu->error->message[0] = '\0';	/* of devices that were left out */

	if (gpu->ndevices > 1)
		snprintf(gpu->description, sizeof(gpu->description), "%d x %.127s", gpu->ndevices,
				 gpu->devices[0].properties.name);
	else
		snprintf(gpu->description, sizeof(gpu->description), "%.127s", gpu->devices[0].properties.name);
	return VQ_GPU_OK;
}

VqGpuStatus
vq_gpu_open(const VqGpuOptions *options, VqGpu **gpu, VqGpuError *error)
{
	SignalsBlocked blocked;
	VqGpu	   *opened;
	VqGpuStatus status;

	*gpu = NULL;
	error->message[0] = '\0';
	opened = (VqGpu *) calloc(1, sizeof(VqGpu));
	if (opened == NULL)
		return vq_gpu_fail(error, VQ_GPU_NO_MEMORY, "out of memory on the host");
	opened->options = *options;
	opened->error = error;
	status = open_devices(opened);
	opened->error = NULL;
	if (status != VQ_GPU_OK)
	{
		vq_gpu_close(opened);
		return status;
	}
	*gpu = opened;
	return VQ_GPU_OK;
}

void
vq_gpu_close(VqGpu *gpu)
{
	if (gpu == NULL)
		return;
	release_devices(gpu);
	free(gpu);
}

const char *
vq_gpu_describe(const VqGpu *gpu)
{
	return gpu->description;
}

uint64_t
vq_gpu_memory(const VqGpu *gpu)
{
	size_t		most = 0;

	for (int d = 0; d < gpu->ndevices; d++)
		most = vq_gpu_max(most, gpu->devices[d].budget);
	return most;
}
