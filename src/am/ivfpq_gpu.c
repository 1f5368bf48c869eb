/*-------------------------------------------------------------------------
 *
 * ivfpq_gpu.c
 *	  GPUs in a build: opened by its leader, closed whatever happens, and done
 *	  without when they fail.
 *
 * The plug-in prints nothing and raises nothing; what it returns becomes a
 * message here.  It is closed before the message is made, so that an error
 * leaves nothing on the device.  While it waits for the device, it
 * asks should_stop again and again, which is how a cancel reaches it; interrupts are
 * served between its calls as usual.
 *
 * No other process of the server opens the plug-in: neither the postmaster,
 * which would hand its threads and files on to every backend, nor workers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>

#include "access/parallel.h"
#include "am/ivfpq_gpu.h"
#include "miscadmin.h"
#include "storage/procsignal.h"

#include "base/vq_guc.h"
#include "base/vqpg_compat.h"
#include "gpu/vq_gpu_loader.h"

/*
 * "auto" leaves it alone for fewer numbers than this: the CPU has built the
 * index before the driver has started.
 */
#define MIN_FLOATS		3e7

/* Rows handed over between two looks for interrupts */
#define SAMPLE_ROWS		65536

/*
 * How the plug-in deals out what it may take of a device (src/gpu/README.md): work takes half, or what centroids, their
 * sums and products take if that is more, and a sample has a part of what is left
 */
#define WORK_PART			0.5
#define PRODUCTS_PART		0.125
#define CENTROID_BYTES		16	/* for each of their numbers */
#define SAMPLE_PART			0.875

/* Names the plug-in to take, or its folder: for tests, see src/gpu/README.md */
#define LIBRARY_VARIABLE	"VQPG_GPU_LIBRARY"

struct IvfpqGpu
{
	VqGpuInterface interface;
	VqGpu	   *handle;			/* NULL if it is no longer open */
	bool		is_required;
	double		memory;			/* bytes that may be taken */
	size_t		dim;
	size_t		wanted_rows;	/* of the sample */
	size_t		sample_rows;	/* of those, taken */
	char	   *index_name;
	char		name[IVFPQ_TRAINER_LEN];
};

/*----------
 * The plug-in
 *----------
 */

/* In the environment of the server, which only those may change who run it */
static const char *
chosen_library(void)
{
	const char *chosen = getenv(LIBRARY_VARIABLE);

	return chosen != NULL && chosen[0] != '\0' ? chosen : NULL;
}

/* The one chosen, or beside vqpg.so */
static bool
find_library(char *path, size_t path_bytes)
{
	const char *chosen = chosen_library();
	Dl_info		info;

	if (chosen)
		return strlcpy(path, chosen, path_bytes) < path_bytes;
	if (dladdr((void *) &vq_kernels, &info) == 0 || info.dli_fname == NULL ||
		strlcpy(path, info.dli_fname, path_bytes) >= path_bytes)
		return false;
	get_parent_directory(path);
	if (path[0] == '\0')
		strlcpy(path, ".", path_bytes);
	return true;
}

static bool
has_driver(void)
{
	sigset_t	all_signals;
	sigset_t	old_signals;
	void	   *driver;

	/* as vq_gpu_load does: threads that a library starts are not to run our handlers */
	sigfillset(&all_signals);
	pthread_sigmask(SIG_BLOCK, &all_signals, &old_signals);
	driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
	if (driver)
		dlclose(driver);
	pthread_sigmask(SIG_SETMASK, &old_signals, NULL);
	return driver != NULL;
}

VqGpuStatus
ivfpq_gpu_load(VqGpuInterface *interface, VqGpuError *error)
{
	char		path[MAXPGPATH];

	Assert(!IsParallelWorker());
	memset(interface, 0, sizeof(*interface));

	/* the plug-in brings cuBLAS with it: 60 MB and a moment for nothing where there is no driver */
	if (!chosen_library() && !has_driver())
	{
		strlcpy(error->message, "no NVIDIA driver is installed on this machine", sizeof(error->message));
		return VQ_GPU_NO_DEVICE;
	}
	if (!find_library(path, sizeof(path)))
	{
		strlcpy(error->message, "the folder of the library \"vqpg\" could not be found", sizeof(error->message));
		return VQ_GPU_NO_LIBRARY;
	}
	return vq_gpu_load(path, interface, error);
}

/*
 * Do what all processes are asked to do, and waited for (DROP DATABASE waits until all have closed files): an iteration
 * may take many seconds.  False if there is an error; it comes again where interrupts are served.
 */
static bool
absorb_barrier(void)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool is_done = true;

	PG_TRY();
	{
		ProcessProcSignalBarrier();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		FlushErrorState();
		is_done = false;
	}
	PG_END_TRY();
	return is_done;
}

/* No interrupt is served here, and no error leaves it: the plug-in has to return first */
static bool
should_stop(void *arg)
{
	if (!InterruptPending)
		return false;
	return (ProcSignalBarrierPending && !absorb_barrier()) ||
		QueryCancelPending || ProcDiePending || VQ_TRANSACTION_TIMED_OUT();
}

static int
error_code(VqGpuStatus status)
{
	switch (status)
	{
		case VQ_GPU_NO_LIBRARY:
			return ERRCODE_UNDEFINED_FILE;
		case VQ_GPU_NO_DEVICE:
			return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
		case VQ_GPU_NO_MEMORY:
			return ERRCODE_OUT_OF_MEMORY;
		case VQ_GPU_BAD_ARGUMENT:
			return ERRCODE_INTERNAL_ERROR;
		default:
			return ERRCODE_SYSTEM_ERROR;
	}
}

static void
report(const IvfpqGpu *gpu, int level, VqGpuStatus status, const VqGpuError *error)
{
	if (level == ERROR)
		ereport(ERROR,
				(errcode(error_code(status)),
				 errmsg("could not use a GPU to build index \"%s\"", gpu->index_name),
				 errdetail("Reason: %s.", error->message),
				 errhint("Set \"ivfpq.gpu\" to \"auto\" or \"off\" to build it on the CPU.")));
	ereport(level,
			(errcode(error_code(status)),
			 errmsg("could not use a GPU to build index \"%s\", using the CPU instead", gpu->index_name),
			 errdetail("Reason: %s.", error->message)));
}

/* Did a call succeed?  If not, close the device and say why; false. */
static bool
succeeds(IvfpqGpu *gpu, VqGpuStatus status, const VqGpuError *error)
{
	if (status == VQ_GPU_OK)
		return true;
	ivfpq_gpu_close(gpu);
	CHECK_FOR_INTERRUPTS();
	report(gpu, gpu->is_required ? ERROR : WARNING, status, error);
	return false;
}

/*----------
 * Open and close
 *----------
 */

/* Does this machine have a device, whatever can be done with it? */
static bool
has_device(const VqGpuInterface *interface, VqGpuStatus status)
{
	VqGpuError	error;
	size_t		ndevices = 0;

	if (interface->devices == NULL)
		return false;
	return status != VQ_GPU_NO_DEVICE ||
		(interface->devices(NULL, 0, &ndevices, &error) == VQ_GPU_OK && ndevices > 0);
}

IvfpqGpu *
ivfpq_gpu_open(const char *index_name, double nrows, size_t dim)
{
	VqGpuOptions options = {.device = ivfpq_gpu_device,.should_stop = should_stop};
	IvfpqGpu   *gpu;
	VqGpuStatus status;
	VqGpuError	error;

	if (ivfpq_gpu == VQ_USE_GPU_OFF || (ivfpq_gpu == VQ_USE_GPU_AUTO && nrows * dim < MIN_FLOATS))
		return NULL;
	gpu = palloc0(sizeof(IvfpqGpu));
	gpu->is_required = ivfpq_gpu == VQ_USE_GPU_ON;
	gpu->index_name = pstrdup(index_name);

	status = ivfpq_gpu_load(&gpu->interface, &error);
	if (status == VQ_GPU_OK)
		status = gpu->interface.open(&options, &gpu->handle, &error);
	if (status == VQ_GPU_OK)
	{
		strlcpy(gpu->name, gpu->interface.describe(gpu->handle), sizeof(gpu->name));
		gpu->memory = gpu->interface.memory(gpu->handle);
		return gpu;
	}

	/* that a machine has no GPU is nothing to warn of */
	gpu->handle = NULL;
	CHECK_FOR_INTERRUPTS();
	report(gpu, gpu->is_required ? ERROR : has_device(&gpu->interface, status) ? WARNING : DEBUG1, status, &error);
	return NULL;
}

void
ivfpq_gpu_close(IvfpqGpu *gpu)
{
	VqGpu	   *handle;

	if (!ivfpq_gpu_is_open(gpu))
		return;
	handle = gpu->handle;
	gpu->handle = NULL;
	gpu->interface.close(handle);
}

bool
ivfpq_gpu_is_open(const IvfpqGpu *gpu)
{
	return gpu != NULL && gpu->handle != NULL;
}

const char *
ivfpq_gpu_name(const IvfpqGpu *gpu)
{
	return gpu->name;
}

/*----------
 * Training
 *----------
 */

size_t
ivfpq_gpu_sample_room(const IvfpqGpu *gpu, size_t nlists, size_t dim)
{
	double		work = Max(gpu->memory * WORK_PART,
						   gpu->memory * PRODUCTS_PART + (double) nlists * dim * CENTROID_BYTES);

	return (size_t) (Max(0, gpu->memory - work) * SAMPLE_PART);
}

size_t
ivfpq_gpu_sample_rows(const IvfpqGpu *gpu)
{
	return gpu->sample_rows;
}

/* Of a sample of the team, as many rows as all have, or as the device can hold */
static bool
begin_sample(IvfpqTeam *team, IvfpqGpu *gpu, const IvfpqSample *sample, size_t max_centroids)
{
	VqGpuError	error;
	size_t		nresident;

	if (!ivfpq_gpu_is_open(gpu) ||
		!succeeds(gpu, gpu->interface.sample_begin(gpu->handle, sample->dim, sample->total_rows, max_centroids,
												   &nresident, &error), &error))
		return false;
	gpu->dim = sample->dim;
	gpu->sample_rows = 0;
	gpu->wanted_rows = team->size == 1 ? sample->total_rows : nresident;
	if (gpu->wanted_rows >= Min(sample->total_rows, max_centroids * IVFPQ_TRAIN_ROWS_PER_LIST))
		return true;
	snprintf(error.message, sizeof(error.message), "the device has memory for %zu rows of a sample of " UINT64_FORMAT,
			 nresident, sample->total_rows);
	return succeeds(gpu, VQ_GPU_NO_MEMORY, &error);
}

/* IvfpqTakeRows; arg is an IvfpqGpu, open or not */
static void
take_rows(void *arg, const float *rows, size_t nrows)
{
	IvfpqGpu   *gpu = arg;
	VqGpuError	error;

	nrows = Min(nrows, gpu->wanted_rows - gpu->sample_rows);
	while (nrows > 0 && ivfpq_gpu_is_open(gpu))
	{
		size_t		count = Min(nrows, SAMPLE_ROWS);

		CHECK_FOR_INTERRUPTS();
		if (!succeeds(gpu, gpu->interface.sample_add(gpu->handle, rows, count, &error), &error))
			return;
		rows += count * gpu->dim;
		nrows -= count;
		gpu->sample_rows += count;
	}
}

bool
ivfpq_gpu_sample_begin(IvfpqTeam *team, IvfpqGpu *gpu, const IvfpqSample *sample, size_t max_centroids)
{
	if (!ivfpq_team_ask_leader(team, ivfpq_team_is_leader(team) && begin_sample(team, gpu, sample, max_centroids)))
		return false;
	ivfpq_team_bring_rows(team, sample->rows, sample->nrows, sample->dim, take_rows, gpu);
	return ivfpq_team_ask_leader(team, ivfpq_gpu_is_open(gpu));
}

void
ivfpq_gpu_sample_end(IvfpqGpu *gpu)
{
	if (ivfpq_gpu_is_open(gpu))
		gpu->interface.sample_end(gpu->handle);
}

bool
ivfpq_gpu_kmeans_step(IvfpqGpu *gpu, const IvfpqLists *lists, VqKmeansSums *sums)
{
	VqGpuError	error;

	if (!ivfpq_gpu_is_open(gpu))
		return false;
	CHECK_FOR_INTERRUPTS();
	return succeeds(gpu, gpu->interface.kmeans_step(gpu->handle, 0, gpu->sample_rows, lists->centroids, lists->nlists,
													sums, NULL, NULL, &error), &error);
}

bool
ivfpq_gpu_train_codebook(IvfpqGpu *gpu, const VqCodec *codec, const IvfpqLists *lists,
						 size_t ntrain, size_t niter, float *codebook)
{
	const VqProjection *projection = codec->is_projected ? &codec->projection : NULL;
	VqGpuError	error;

	if (!ivfpq_gpu_is_open(gpu))
		return false;
	CHECK_FOR_INTERRUPTS();
	return succeeds(gpu, gpu->interface.pq_train(gpu->handle, &codec->pq, projection, lists->centroids, lists->nlists,
												 ntrain, niter, IVFPQ_SEED, codebook, NULL, &error), &error);
}

/*----------
 * Encoding
 *----------
 */

bool
ivfpq_gpu_encode_begin(IvfpqGpu *gpu, const VqCodec *codec, const IvfpqLists *lists, size_t batch_rows)
{
	VqGpuModel	model = {
		.metric = codec->metric,
		.dim = codec->dim,
		.pq = codec->pq,
		.projection = codec->is_projected ? &codec->projection : NULL,
		.error_scale = codec->error_scale,
		.ncentroids = lists->nlists,
		.centroids = lists->centroids,
		.codebook = codec->codebook
	};
	VqGpuError	error;

	return ivfpq_gpu_is_open(gpu) &&
		succeeds(gpu, gpu->interface.encode_begin(gpu->handle, &model, batch_rows, &error), &error);
}

bool
ivfpq_gpu_encode_acquire(IvfpqGpu *gpu, VqGpuBatch **batch)
{
	VqGpuError	error;

	*batch = NULL;
	return ivfpq_gpu_is_open(gpu) && succeeds(gpu, gpu->interface.encode_acquire(gpu->handle, batch, &error), &error);
}

bool
ivfpq_gpu_encode_submit(IvfpqGpu *gpu, VqGpuBatch *batch)
{
	VqGpuError	error;

	return ivfpq_gpu_is_open(gpu) && succeeds(gpu, gpu->interface.encode_submit(gpu->handle, batch, &error), &error);
}

bool
ivfpq_gpu_encode_collect(IvfpqGpu *gpu, VqGpuBatch **batch)
{
	VqGpuError	error;

	*batch = NULL;
	return ivfpq_gpu_is_open(gpu) && succeeds(gpu, gpu->interface.encode_collect(gpu->handle, batch, &error), &error);
}

void
ivfpq_gpu_encode_release(IvfpqGpu *gpu, VqGpuBatch *batch)
{
	if (ivfpq_gpu_is_open(gpu))
		gpu->interface.encode_release(gpu->handle, batch);
}
