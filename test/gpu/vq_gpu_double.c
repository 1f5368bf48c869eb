/*-------------------------------------------------------------------------
 *
 * vq_gpu_double.c
 *	  A stand-in for vqpg_cuda.so that computes with src/kernels, so that
 *	  whatever calls the plug-in can be tested on a machine without a GPU.
 *
 * It keeps the plug-in's promises: which rows it copies and which the caller
 * keeps, the order of batches, what is left after an error.  What it shall do
 * wrong is said by the environment variable VQPG_GPU_DOUBLE, read whenever a
 * function of the interface is called:
 *
 *		abi			say that the interface has another version
 *		short		say that the interface has fewer functions
 *		none		there is no device
 *		open		opening the device fails
 *		memory		the device has no memory for a sample, nor for a model
 *		small		the device says that it has nearly no memory
 *		few N		it has memory for N rows of a sample, although it says that it has more
 *		codebook	training a codebook fails
 *		after N		of the calls that can fail, since open, N succeed, and then
 *					one fails
 *		wait N		the same, but it waits until should_stop says so, ten
 *					seconds at most
 *
 * VQPG_GPU_DOUBLE_LOG names a file to which each process adds a line "open PID"
 * when it has opened the device, and "close PID" when it has closed it.
 *
 *-------------------------------------------------------------------------
 */
#define _POSIX_C_SOURCE 200809L

#include "gpu/vq_gpu.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/vq_codec.h"

#define NBATCHES 3
#define CHUNK_ROWS 256

typedef struct Piece
{
	const float *rows;
	size_t		nrows;
} Piece;

struct VqGpu
{
	VqGpuOptions options;
	const VqKernels *kernels;
	size_t		ncalls;			/* that can fail, since open */
	bool		is_broken;

	/* sample: what is copied, and what the caller keeps, in order */
	bool		has_sample;
	size_t		dim;
	size_t		planned_rows;
	size_t		added_rows;
	size_t		max_centroids;
	size_t		nresident;
	float	   *resident;
	Piece	   *pieces;
	size_t		npieces;

	/* model */
	bool		is_encoding;
	VqGpuModel	model;
	VqCodec		codec;
	float	   *centroids;
	float	   *code_centroids; /* [ncentroids][vq_codec_code_floats] */
	float	   *codebook;
	float	   *norms;
	void	   *directions;		/* image of the projection */
	VqGpuBatch	batches[NBATCHES];
	enum
	{
		BATCH_FREE, BATCH_ACQUIRED, BATCH_SUBMITTED, BATCH_COLLECTED
	}			states[NBATCHES];
	size_t		submitted;
	size_t		collected;
};

static VqGpuStatus
fail(VqGpuError *error, VqGpuStatus status, const char *format,...)
{
	va_list		arguments;

	va_start(arguments, format);
	vsnprintf(error->message, sizeof(error->message), format, arguments);
	va_end(arguments);
	return status;
}

/* Whether the fault asked for has this name; its number, if it has one, to *number */
static bool
fault_is(const char *name, size_t *number)
{
	const char *fault = getenv("VQPG_GPU_DOUBLE");
	size_t		length = strlen(name);

	if (fault == NULL || strncmp(fault, name, length) != 0)
		return false;
	if (number == NULL)
		return fault[length] == '\0';
	return sscanf(fault + length, " %zu", number) == 1;
}

static void
log_event(const char *event)
{
	const char *name = getenv("VQPG_GPU_DOUBLE_LOG");
	FILE	   *file = name != NULL ? fopen(name, "a") : NULL;

	if (file == NULL)
		return;
	fprintf(file, "%s %ld\n", event, (long) getpid());
	fclose(file);
}

static bool
should_stop(const VqGpu *gpu)
{
	return gpu->options.should_stop != NULL && gpu->options.should_stop(gpu->options.should_stop_arg);
}

/*----------
 * Entry and exit of every function that can fail
 *----------
 */

static void
release_sample(VqGpu *gpu)
{
	free(gpu->resident);
	free(gpu->pieces);
	gpu->resident = NULL;
	gpu->pieces = NULL;
	gpu->npieces = 0;
	gpu->has_sample = false;
}

static void
release_model(VqGpu *gpu)
{
	for (size_t i = 0; i < NBATCHES; i++)
	{
		VqGpuBatch *batch = &gpu->batches[i];

		free(batch->rows);
		free((void *) batch->labels);
		free((void *) batch->distances);
		free((void *) batch->codes);
		free((void *) batch->factors);
		memset(batch, 0, sizeof(*batch));
		gpu->states[i] = BATCH_FREE;
	}
	free(gpu->centroids);
	free(gpu->code_centroids);
	free(gpu->codebook);
	free(gpu->norms);
	free(gpu->directions);
	gpu->centroids = gpu->code_centroids = gpu->codebook = gpu->norms = NULL;
	gpu->directions = NULL;
	gpu->is_encoding = false;
}

static VqGpuStatus
finish(VqGpu *gpu, VqGpuStatus status)
{
	if (status != VQ_GPU_OK && status != VQ_GPU_BAD_ARGUMENT)
	{
		release_sample(gpu);
		release_model(gpu);
		gpu->is_broken = true;
	}
	return status;
}

static VqGpuStatus
begin(VqGpu *gpu, VqGpuError *error)
{
	struct timespec pause = {0, 1000000};
	size_t		number;

	error->message[0] = '\0';
	if (gpu->is_broken)
		return fail(error, VQ_GPU_FAILED, "the device was given back after an earlier error");
	if (fault_is("after", &number) && gpu->ncalls >= number)
		return finish(gpu, fail(error, VQ_GPU_FAILED, "the device fell off the bus after %zu calls", number));
	if (fault_is("wait", &number) && gpu->ncalls >= number)
	{
		for (int ms = 0; ms < 10000 && !should_stop(gpu); ms++)
			nanosleep(&pause, NULL);
		return finish(gpu, fail(error, should_stop(gpu) ? VQ_GPU_STOPPED : VQ_GPU_FAILED,
								"the work on the device was stopped on request"));
	}
	gpu->ncalls++;
	return VQ_GPU_OK;
}

/*----------
 * Devices
 *----------
 */

static VqGpuStatus
double_devices(VqGpuDevice *devices, size_t capacity, size_t *ndevices, VqGpuError *error)
{
	error->message[0] = '\0';
	*ndevices = 0;
	if (fault_is("none", NULL))
		return fail(error, VQ_GPU_NO_DEVICE, "no NVIDIA driver is installed on this machine");
	*ndevices = 1;
	if (capacity > 0)
	{
		memset(devices, 0, sizeof(*devices));
		snprintf(devices->name, sizeof(devices->name), "double");
		devices->capability_major = 1;
		devices->driver_version = 1000;
		devices->multiprocessors = 1;
		devices->total_bytes = (uint64_t) 1 << 30;
		devices->free_bytes = (uint64_t) 1 << 29;
	}
	return VQ_GPU_OK;
}

static VqGpuStatus
double_open(const VqGpuOptions *options, VqGpu **gpu, VqGpuError *error)
{
	*gpu = NULL;
	error->message[0] = '\0';
	if (fault_is("none", NULL))
		return fail(error, VQ_GPU_NO_DEVICE, "no NVIDIA driver is installed on this machine");
	if (options->device > 0 || options->device < VQ_GPU_ALL_DEVICES)
		return fail(error, VQ_GPU_NO_DEVICE, "there is no device %d, only 0 to 0", (int) options->device);
	if (fault_is("open", NULL))
		return fail(error, VQ_GPU_FAILED, "cudaSetDevice: all CUDA-capable devices are busy or unavailable");
	*gpu = calloc(1, sizeof(VqGpu));
	if (*gpu == NULL)
		return fail(error, VQ_GPU_NO_MEMORY, "out of memory on the host");
	(*gpu)->options = *options;
	(*gpu)->kernels = vq_kernels_by_name("auto");
	log_event("open");
	return VQ_GPU_OK;
}

static void
double_close(VqGpu *gpu)
{
	if (gpu == NULL)
		return;
	release_sample(gpu);
	release_model(gpu);
	free(gpu);
	log_event("close");
}

static const char *
double_describe(const VqGpu *gpu)
{
	(void) gpu;
	return "double";
}

static uint64_t
double_memory(const VqGpu *gpu)
{
	(void) gpu;
	return fault_is("small", NULL) ? 65536 : (uint64_t) 1 << 28;
}

/*----------
 * Sample
 *----------
 */

static VqGpuStatus
double_sample_begin(VqGpu *gpu, size_t dim, size_t nrows, size_t max_centroids, size_t *nresident,
					VqGpuError *error)
{
	VqGpuStatus status = begin(gpu, error);
	size_t		few;

	*nresident = 0;
	if (status != VQ_GPU_OK)
		return status;
	if (dim < 1 || dim > VQ_MAX_DIM || max_centroids < 1)
		return fail(error, VQ_GPU_BAD_ARGUMENT, "a sample of %zu rows of %zu dimensions for %zu centroids",
					nrows, dim, max_centroids);
	if (fault_is("memory", NULL))
		return finish(gpu, fail(error, VQ_GPU_NO_MEMORY, "device 0 has 0 MB left for this, and %zu MB are needed",
								(nrows * dim * sizeof(float) >> 20) + 1));
	release_sample(gpu);
	release_model(gpu);
	gpu->dim = dim;
	gpu->planned_rows = nrows;
	gpu->max_centroids = max_centroids;
	gpu->added_rows = 0;
	gpu->nresident = nrows;
	if (gpu->options.memory_limit > 0 && gpu->options.memory_limit / (dim * sizeof(float)) < nrows)
		gpu->nresident = (size_t) (gpu->options.memory_limit / (dim * sizeof(float)));
	if (fault_is("few", &few) && few < gpu->nresident)
		gpu->nresident = few;
	gpu->resident = malloc(gpu->nresident * dim * sizeof(float) + 1);
	if (gpu->resident == NULL)
		return finish(gpu, fail(error, VQ_GPU_NO_MEMORY, "out of memory on the host"));
	gpu->has_sample = true;
	*nresident = gpu->nresident;
	return VQ_GPU_OK;
}

static VqGpuStatus
double_sample_add(VqGpu *gpu, const float *rows, size_t nrows, VqGpuError *error)
{
	VqGpuStatus status = begin(gpu, error);
	size_t		ncopied = 0;

	if (status != VQ_GPU_OK)
		return status;
	if (!gpu->has_sample || nrows > gpu->planned_rows - gpu->added_rows)
		return fail(error, VQ_GPU_BAD_ARGUMENT, "%zu rows are too many for the sample", nrows);
	if (gpu->added_rows < gpu->nresident)
	{
		ncopied = gpu->nresident - gpu->added_rows;
		ncopied = ncopied < nrows ? ncopied : nrows;
		memcpy(gpu->resident + gpu->added_rows * gpu->dim, rows, ncopied * gpu->dim * sizeof(float));
	}
	if (ncopied < nrows)
	{
		Piece	   *pieces = realloc(gpu->pieces, (gpu->npieces + 1) * sizeof(Piece));

		if (pieces == NULL)
			return finish(gpu, fail(error, VQ_GPU_NO_MEMORY, "out of memory on the host"));
		gpu->pieces = pieces;
		pieces[gpu->npieces].rows = rows + ncopied * gpu->dim;
		pieces[gpu->npieces].nrows = nrows - ncopied;
		gpu->npieces++;
	}
	gpu->added_rows += nrows;
	return VQ_GPU_OK;
}

static void
double_sample_end(VqGpu *gpu)
{
	release_sample(gpu);
}

static const float *
sample_row(const VqGpu *gpu, size_t row)
{
	const Piece *piece = gpu->pieces;

	if (row < gpu->nresident)
		return gpu->resident + row * gpu->dim;
	for (row -= gpu->nresident; row >= piece->nrows; piece++)
		row -= piece->nrows;
	return piece->rows + row * gpu->dim;
}

/*----------
 * Training
 *----------
 */

/* Workspace to label CHUNK_ROWS rows */
typedef struct Labeller
{
	float	   *rows;
	float	   *work;
	float	   *norms;
	uint32_t   *labels;
	float	   *distances;
} Labeller;

static void
labeller_close(Labeller *labeller)
{
	free(labeller->rows);
	free(labeller->work);
	free(labeller->norms);
	free(labeller->labels);
	free(labeller->distances);
}

static bool
labeller_open(const VqGpu *gpu, const float *centroids, size_t ncentroids, Labeller *labeller)
{
	labeller->rows = malloc(CHUNK_ROWS * gpu->dim * sizeof(float));
	labeller->work = malloc(vq_kmeans_assign_floats(CHUNK_ROWS, ncentroids) * sizeof(float));
	labeller->norms = malloc(ncentroids * sizeof(float));
	labeller->labels = malloc(CHUNK_ROWS * sizeof(uint32_t));
	labeller->distances = malloc(CHUNK_ROWS * sizeof(float));
	if (labeller->rows == NULL || labeller->work == NULL || labeller->norms == NULL ||
		labeller->labels == NULL || labeller->distances == NULL)
	{
		labeller_close(labeller);
		return false;
	}
	vq_kmeans_norms(gpu->kernels, centroids, ncentroids, gpu->dim, labeller->norms);
	return true;
}

static void
label_chunk(const VqGpu *gpu, size_t first, size_t nrows, const float *centroids, size_t ncentroids,
			Labeller *labeller)
{
	for (size_t i = 0; i < nrows; i++)
		memcpy(labeller->rows + i * gpu->dim, sample_row(gpu, first + i), gpu->dim * sizeof(float));
	vq_kmeans_assign(gpu->kernels, &vq_blas_builtin, labeller->rows, nrows, centroids, labeller->norms,
					 ncentroids, gpu->dim, labeller->work, labeller->labels, labeller->distances);
}

static VqGpuStatus
double_kmeans_step(VqGpu *gpu, size_t first_row, size_t nrows, const float *centroids, size_t ncentroids,
				   VqKmeansSums *sums, uint32_t *labels, float *distances, VqGpuError *error)
{
	VqGpuStatus status = begin(gpu, error);
	Labeller	labeller;

	if (status != VQ_GPU_OK)
		return status;
	if (!gpu->has_sample || first_row > gpu->added_rows || nrows > gpu->added_rows - first_row ||
		ncentroids < 1 || ncentroids > gpu->max_centroids ||
		(sums != NULL && (sums->ncentroids != ncentroids || sums->dim != gpu->dim)))
		return fail(error, VQ_GPU_BAD_ARGUMENT, "a step over rows %zu to %zu and %zu centroids", first_row,
					first_row + nrows, ncentroids);
	if (!labeller_open(gpu, centroids, ncentroids, &labeller))
		return finish(gpu, fail(error, VQ_GPU_NO_MEMORY, "out of memory on the host"));
	if (sums != NULL)
		vq_kmeans_clear(sums);
	for (size_t first = 0; first < nrows && status == VQ_GPU_OK; first += CHUNK_ROWS)
	{
		size_t		n = nrows - first < CHUNK_ROWS ? nrows - first : CHUNK_ROWS;

		if (should_stop(gpu))
			status = fail(error, VQ_GPU_STOPPED, "the work on the device was stopped on request");
		label_chunk(gpu, first_row + first, n, centroids, ncentroids, &labeller);
		if (sums != NULL)
			vq_kmeans_accumulate(gpu->kernels, sums, labeller.rows, n, labeller.labels, labeller.distances);
		if (labels != NULL)
			memcpy(labels + first, labeller.labels, n * sizeof(uint32_t));
		if (distances != NULL)
			memcpy(distances + first, labeller.distances, n * sizeof(float));
	}
	labeller_close(&labeller);
	return finish(gpu, status);
}

/* Whether codes, vectors of that dimension and the projection (NULL: none) are for each other */
static bool
fits(const VqPq *pq, size_t dim, const VqProjection *projection)
{
	if (projection == NULL)
		return pq->dim == dim;
	return projection->dim == dim && projection->ndirections <= dim && pq->dim == projection->ndirections &&
		pq->dim == pq->m * pq->dsub;
}

/* Padded directions of the residuals of the rows to train on, in code space, float[ntrain][m * dsub] */
static bool
take_residuals(const VqGpu *gpu, const VqPq *pq, const VqProjection *projection, const float *centroids,
			   size_t ncentroids, size_t ntrain, float *residuals)
{
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	float	   *projected = malloc(vq_project_floats(pq->dim) * sizeof(float));
	Labeller	labeller;

	if (projected == NULL || !labeller_open(gpu, centroids, ncentroids, &labeller))
	{
		free(projected);
		return false;
	}
	for (size_t i = 0; i < ntrain; i++)
	{
		const float *centroid;
		const float *residual = labeller.rows;

		label_chunk(gpu, (i * gpu->added_rows + ntrain - 1) / ntrain, 1, centroids, ncentroids, &labeller);
		centroid = centroids + labeller.labels[0] * gpu->dim;
		for (size_t d = 0; d < gpu->dim; d++)
			labeller.rows[d] -= centroid[d];
		vq_codec_direction(gpu->kernels, labeller.rows, gpu->dim);
		if (projection != NULL)
		{
			vq_project(gpu->kernels, projection, labeller.rows, projected);
			residual = projected;
		}
		for (size_t d = 0; d < padded_dim; d++)
			residuals[i * padded_dim + d] = d < pq->dim ? residual[d] : 0;
	}
	free(projected);
	labeller_close(&labeller);
	return true;
}

static VqGpuStatus
double_pq_train(VqGpu *gpu, const VqPq *pq, const VqProjection *projection, const float *centroids,
				size_t ncentroids, size_t ntrain, size_t niter, uint64_t seed, float *codebook, double *mse,
				VqGpuError *error)
{
	VqGpuStatus status = begin(gpu, error);
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	float	   *residuals;
	double	   *sums;
	uint8_t    *codes;

	if (status != VQ_GPU_OK)
		return status;
	if (fault_is("codebook", NULL))
		return finish(gpu, fail(error, VQ_GPU_FAILED, "the device knows no codebooks"));
	if (!gpu->has_sample || !fits(pq, gpu->dim, projection) || ncentroids < 1 || ncentroids > gpu->max_centroids ||
		ntrain > gpu->added_rows)
		return fail(error, VQ_GPU_BAD_ARGUMENT, "codes for %u dimensions, trained on %zu rows", pq->dim, ntrain);
	residuals = malloc(ntrain * padded_dim * sizeof(float) + 1);
	sums = malloc(vq_pq_sums_doubles(pq) * sizeof(double));
	codes = malloc(pq->m);
	if (residuals == NULL || sums == NULL || codes == NULL ||
		!take_residuals(gpu, pq, projection, centroids, ncentroids, ntrain, residuals))
		status = fail(error, VQ_GPU_NO_MEMORY, "out of memory on the host");
	else if (should_stop(gpu))
		status = fail(error, VQ_GPU_STOPPED, "the work on the device was stopped on request");
	else
	{
		vq_pq_train(gpu->kernels, pq, residuals, ntrain, niter, seed, sums, codes, codebook);
		if (mse != NULL)
		{
			memset(sums, 0, vq_pq_sums_doubles(pq) * sizeof(double));
			vq_pq_accumulate(gpu->kernels, pq, codebook, residuals, ntrain, codes, sums);
			*mse = ntrain > 0 ? vq_pq_error(pq, sums) / (double) ntrain : 0;
		}
	}
	free(residuals);
	free(sums);
	free(codes);
	return finish(gpu, status);
}

/*----------
 * Encoding
 *----------
 */

/* Copy the model, with what follows from it; false if memory does not suffice */
static bool
copy_model(VqGpu *gpu, const VqGpuModel *model)
{
	const VqProjection *projection = model->projection;
	VqCodec    *codec = &gpu->codec;
	size_t		ncolumns = vq_project_floats(model->pq.dim);
	size_t		code_floats;

	gpu->dim = model->dim;
	gpu->model = *model;
	memset(codec, 0, sizeof(*codec));
	codec->metric = model->metric;
	codec->dim = (uint32_t) model->dim;
	codec->is_projected = projection != NULL;
	codec->pq = model->pq;
	codec->scale = 1;
	codec->error_scale = model->error_scale;
	code_floats = vq_codec_code_floats(codec);
	gpu->centroids = malloc(model->ncentroids * gpu->dim * sizeof(float));
	gpu->code_centroids = malloc(model->ncentroids * code_floats * sizeof(float));
	gpu->codebook = malloc(vq_pq_codebook_floats(&model->pq) * sizeof(float));
	gpu->norms = malloc(model->ncentroids * sizeof(float));
	if (projection != NULL)
		gpu->directions = malloc(vq_project_bytes(gpu->dim, model->pq.dim));
	if (gpu->centroids == NULL || gpu->code_centroids == NULL || gpu->codebook == NULL || gpu->norms == NULL ||
		(projection != NULL && gpu->directions == NULL))
		return false;
	memcpy(gpu->centroids, model->centroids, model->ncentroids * gpu->dim * sizeof(float));
	memcpy(gpu->codebook, model->codebook, vq_pq_codebook_floats(&model->pq) * sizeof(float));
	codec->codebook = gpu->codebook;
	if (projection != NULL)
	{
		memcpy(gpu->directions, projection->steps, ncolumns * sizeof(float));
		memcpy((float *) gpu->directions + ncolumns, projection->panels, ncolumns * gpu->dim);
		(void) vq_project_open(&codec->projection, gpu->dim, model->pq.dim, gpu->directions);
	}
	for (size_t i = 0; i < model->ncentroids; i++)
		vq_codec_to_codes(gpu->kernels, codec, gpu->centroids + i * gpu->dim, gpu->code_centroids + i * code_floats);
	vq_kmeans_norms(gpu->kernels, gpu->centroids, model->ncentroids, gpu->dim, gpu->norms);
	return true;
}

static VqGpuStatus
double_encode_begin(VqGpu *gpu, const VqGpuModel *model, size_t batch_rows, VqGpuError *error)
{
	VqGpuStatus status = begin(gpu, error);
	const VqPq *pq = &model->pq;
	size_t		capacity = batch_rows < 4096 ? batch_rows : 4096;
	bool		is_complete;

	if (status != VQ_GPU_OK)
		return status;
	if (!fits(pq, model->dim, model->projection) || !(model->error_scale > 0 && isfinite(model->error_scale)) ||
		model->ncentroids < 1 || batch_rows < 1)
		return fail(error, VQ_GPU_BAD_ARGUMENT,
					"codes for %u of %zu dimensions, errors times %g, %zu centroids, batches of %zu rows", pq->dim,
					model->dim, (double) model->error_scale, model->ncentroids, batch_rows);
	if (fault_is("memory", NULL))
		return finish(gpu, fail(error, VQ_GPU_NO_MEMORY, "could not allocate 1 MB of the memory of device 0"));
	release_sample(gpu);
	release_model(gpu);
	is_complete = copy_model(gpu, model);
	for (size_t i = 0; i < NBATCHES; i++)
	{
		VqGpuBatch *batch = &gpu->batches[i];

		batch->capacity = capacity;
		batch->stride = model->dim + i % 2; /* so that a caller who takes it for dim is found out */
		batch->rows = calloc(capacity * batch->stride, sizeof(float));
		batch->labels = malloc(capacity * sizeof(uint32_t));
		batch->distances = malloc(capacity * sizeof(float));
		batch->codes = malloc(capacity * pq->m);
		batch->factors = malloc(capacity * sizeof(VqFactors));
		is_complete = is_complete && batch->rows != NULL && batch->labels != NULL &&
			batch->distances != NULL && batch->codes != NULL && batch->factors != NULL;
	}
	if (!is_complete)
		return finish(gpu, fail(error, VQ_GPU_NO_MEMORY, "out of memory on the host"));
	gpu->submitted = 0;
	gpu->collected = 0;
	gpu->is_encoding = true;
	return VQ_GPU_OK;
}

static VqGpuStatus
wrong_state(VqGpuError *error)
{
	return fail(error, VQ_GPU_BAD_ARGUMENT, "a batch that is not in the state for this call");
}

static VqGpuStatus
double_encode_acquire(VqGpu *gpu, VqGpuBatch **batch, VqGpuError *error)
{
	VqGpuStatus status = begin(gpu, error);
	size_t		i = gpu->submitted % NBATCHES;

	*batch = NULL;
	if (status != VQ_GPU_OK)
		return status;
	if (!gpu->is_encoding || gpu->states[i] == BATCH_ACQUIRED)
		return wrong_state(error);
	if (should_stop(gpu))
		return finish(gpu, fail(error, VQ_GPU_STOPPED, "the work on the device was stopped on request"));
	if (gpu->states[i] == BATCH_FREE)
	{
		gpu->states[i] = BATCH_ACQUIRED;
		gpu->batches[i].nrows = 0;
		*batch = &gpu->batches[i];
	}
	return VQ_GPU_OK;
}

static bool
encode_batch(const VqGpu *gpu, const VqGpuBatch *batch)
{
	const VqCodec *codec = &gpu->codec;
	size_t		m = codec->pq.m;
	size_t		code_floats = vq_codec_code_floats(codec);
	float	   *assign_work = malloc(vq_kmeans_assign_floats(1, gpu->model.ncentroids) * sizeof(float));
	float	   *encode_work = malloc(vq_codec_encode_floats(codec) * sizeof(float));
	float	   *x_code = malloc(code_floats * sizeof(float));
	bool		is_complete = assign_work != NULL && encode_work != NULL && x_code != NULL;

	for (size_t i = 0; i < batch->nrows && is_complete; i++)
	{
		const float *row = batch->rows + i * batch->stride;
		uint32_t   *label = (uint32_t *) batch->labels + i;

		vq_kmeans_assign(gpu->kernels, &vq_blas_builtin, row, 1, gpu->centroids, gpu->norms,
						 gpu->model.ncentroids, gpu->dim, assign_work, label, (float *) batch->distances + i);
		vq_codec_to_codes(gpu->kernels, codec, row, x_code);
		vq_codec_encode(gpu->kernels, codec, row, gpu->centroids + *label * gpu->dim, x_code,
						gpu->code_centroids + *label * code_floats, encode_work,
						(uint8_t *) batch->codes + i * m, (VqFactors *) batch->factors + i);
	}
	free(assign_work);
	free(encode_work);
	free(x_code);
	return is_complete;
}

static VqGpuStatus
double_encode_submit(VqGpu *gpu, VqGpuBatch *batch, VqGpuError *error)
{
	VqGpuStatus status = begin(gpu, error);
	size_t		i = gpu->submitted % NBATCHES;

	if (status != VQ_GPU_OK)
		return status;
	if (!gpu->is_encoding || batch != &gpu->batches[i] || gpu->states[i] != BATCH_ACQUIRED ||
		batch->nrows < 1 || batch->nrows > batch->capacity)
		return wrong_state(error);
	if (!encode_batch(gpu, batch))
		return finish(gpu, fail(error, VQ_GPU_NO_MEMORY, "out of memory on the host"));
	gpu->states[i] = BATCH_SUBMITTED;
	gpu->submitted++;
	return VQ_GPU_OK;
}

static VqGpuStatus
double_encode_collect(VqGpu *gpu, VqGpuBatch **batch, VqGpuError *error)
{
	VqGpuStatus status = begin(gpu, error);
	size_t		i = gpu->collected % NBATCHES;

	*batch = NULL;
	if (status != VQ_GPU_OK)
		return status;
	if (!gpu->is_encoding)
		return wrong_state(error);
	if (gpu->collected == gpu->submitted)
		return VQ_GPU_OK;
	gpu->states[i] = BATCH_COLLECTED;
	gpu->collected++;
	*batch = &gpu->batches[i];
	return VQ_GPU_OK;
}

static void
double_encode_release(VqGpu *gpu, VqGpuBatch *batch)
{
	for (size_t i = 0; i < NBATCHES; i++)
		if (batch == &gpu->batches[i] && gpu->states[i] != BATCH_SUBMITTED)
			gpu->states[i] = BATCH_FREE;
}

static void
double_encode_end(VqGpu *gpu)
{
	release_model(gpu);
}

extern __attribute__((visibility("default"))) void vq_gpu_interface(VqGpuInterface *interface, size_t bytes);

void
vq_gpu_interface(VqGpuInterface *interface, size_t bytes)
{
	VqGpuInterface filled = {
		.abi_version = VQ_GPU_ABI_VERSION,
		.bytes = sizeof(VqGpuInterface),
		.name = "double",
		.devices = double_devices,
		.open = double_open,
		.close = double_close,
		.describe = double_describe,
		.sample_begin = double_sample_begin,
		.sample_add = double_sample_add,
		.sample_end = double_sample_end,
		.kmeans_step = double_kmeans_step,
		.pq_train = double_pq_train,
		.encode_begin = double_encode_begin,
		.encode_acquire = double_encode_acquire,
		.encode_submit = double_encode_submit,
		.encode_collect = double_encode_collect,
		.encode_release = double_encode_release,
		.encode_end = double_encode_end,
		.memory = double_memory
	};

	if (fault_is("abi", NULL))
		filled.abi_version++;
	if (fault_is("short", NULL))
		filled.bytes -= sizeof(void *);
	memcpy(interface, &filled, bytes < sizeof(filled) ? bytes : sizeof(filled));
}
