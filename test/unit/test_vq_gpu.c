/*-------------------------------------------------------------------------
 *
 * test_vq_gpu.c
 *	  The GPU plug-in is found, or refused with a reason; and what its
 *	  interface promises holds of the stand-in that other tests use in its place.
 *
 * VQPG_GPU_FOLDER is the folder with the stand-in, under the plug-in's name.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE				/* dladdr */

#include "check.h"

#include "gpu/vq_gpu_cluster.h"
#include "gpu/vq_gpu_loader.h"
#include "kernels/vq_codec.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIM 10
#define NROWS 1000
#define NCENTROIDS 7
#define ERROR_SCALE 1.5f		/* of models with a projection */

static const char *
folder(void)
{
	const char *name = getenv("VQPG_GPU_FOLDER");

	return name != NULL ? name : ".build/unit/gpu";
}

/* What the stand-in shall do wrong from here on; NULL for nothing */
static void
set_fault(const char *fault)
{
	if (fault == NULL)
		unsetenv("VQPG_GPU_DOUBLE");
	else
		setenv("VQPG_GPU_DOUBLE", fault, 1);
}

static void
load(VqGpuInterface *interface)
{
	VqGpuError	error;
	VqGpuStatus status;

	set_fault(NULL);
	status = vq_gpu_load(folder(), interface, &error);
	CHECK(status == VQ_GPU_OK, "%s: %s", vq_gpu_status_name(status), error.message);
}

static void
check_refused(const char *path, const char *reason)
{
	VqGpuInterface interface;
	VqGpuError	error;
	VqGpuStatus status = vq_gpu_load(path, &interface, &error);

	CHECK(status == VQ_GPU_NO_LIBRARY, "%s: %s", path, vq_gpu_status_name(status));
	CHECK(strstr(error.message, reason) != NULL, "%s: the reason is \"%s\"", path, error.message);
	CHECK(interface.open == NULL && interface.abi_version == 0, "%s: something was filled in", path);
}

/*----------
 * The loader
 *----------
 */

static void
test_a_missing_library_is_named(void)
{
	check_refused("/nonexistent", "there is no file \"/nonexistent\"");
	check_refused("/tmp", "there is no file \"/tmp/" VQ_GPU_LIBRARY "\"");
}

static void
test_a_file_that_is_no_library_is_refused(void)
{
	char		name[] = "/tmp/test_vq_gpu.XXXXXX";
	int			file = mkstemp(name);

	CHECK(file >= 0 && write(file, "text", 4) == 4, "no temporary file");
	close(file);
	check_refused(name, "could not load");
	unlink(name);
}

static void
test_a_library_of_something_else_is_refused(void)
{
	Dl_info		info;
	double		(*function) (double) = sqrt;
	void	   *address;

	memcpy(&address, &function, sizeof(address));
	if (dladdr(address, &info) != 0 && strstr(info.dli_fname, ".so") != NULL)
		check_refused(info.dli_fname, "has no function " VQ_GPU_ENTRY);
}

static void
test_another_version_is_refused(void)
{
	set_fault("abi");
	check_refused(folder(), "has version 5 of the interface, and this vqpg wants version 4");
	set_fault("short");
	check_refused(folder(), "has an interface of");
	set_fault(NULL);
}

static void
test_a_name_that_is_too_long_is_refused(void)
{
	char		name[5000];

	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	check_refused(name, "too long");
}

static void
test_the_plugin_is_loaded_more_than_once(void)
{
	VqGpuInterface first;
	VqGpuInterface second;

	load(&first);
	load(&second);
	CHECK(strcmp(first.name, "double") == 0, "name is \"%s\"", first.name);
	CHECK(first.open == second.open, "two copies were loaded");
}

/*----------
 * Devices
 *----------
 */

static VqGpuOptions
default_options(void)
{
	VqGpuOptions options;

	memset(&options, 0, sizeof(options));
	options.device = VQ_GPU_ALL_DEVICES;
	return options;
}

static void
test_a_missing_device_has_a_reason(void)
{
	VqGpuInterface interface;
	VqGpuOptions options = default_options();
	VqGpuDevice devices[4];
	VqGpuError	error;
	VqGpuStatus status;
	VqGpu	   *gpu = (VqGpu *) &options;
	size_t		ndevices = 99;

	load(&interface);
	set_fault("none");
	status = interface.devices(devices, 4, &ndevices, &error);
	CHECK(status == VQ_GPU_NO_DEVICE && ndevices == 0, "%s, %zu devices", vq_gpu_status_name(status), ndevices);
	CHECK(strstr(error.message, "driver") != NULL, "the reason is \"%s\"", error.message);
	status = interface.open(&options, &gpu, &error);
	CHECK(status == VQ_GPU_NO_DEVICE && gpu == NULL, "%s", vq_gpu_status_name(status));
	CHECK(error.message[0] != '\0', "no reason");
	set_fault("open");
	status = interface.open(&options, &gpu, &error);
	CHECK(status == VQ_GPU_FAILED && gpu == NULL && error.message[0] != '\0', "%s", vq_gpu_status_name(status));
	set_fault(NULL);
	options.device = 7;
	status = interface.open(&options, &gpu, &error);
	CHECK(status == VQ_GPU_NO_DEVICE && gpu == NULL, "%s", vq_gpu_status_name(status));
	CHECK(strstr(error.message, "7") != NULL, "the reason is \"%s\"", error.message);
	interface.close(NULL);
}

static void
test_devices_are_listed(void)
{
	VqGpuInterface interface;
	VqGpuOptions options = default_options();
	VqGpuDevice devices[2];
	VqGpuError	error;
	VqGpu	   *gpu;
	size_t		ndevices = 0;

	load(&interface);
	CHECK(interface.devices(NULL, 0, &ndevices, &error) == VQ_GPU_OK && ndevices == 1, "%zu devices", ndevices);
	CHECK(interface.devices(devices, 2, &ndevices, &error) == VQ_GPU_OK, "%s", error.message);
	CHECK(devices[0].index == 0 && devices[0].name[0] != '\0', "name \"%s\"", devices[0].name);
	CHECK(devices[0].total_bytes >= devices[0].free_bytes, "more free than there is");
	CHECK(interface.open(&options, &gpu, &error) == VQ_GPU_OK, "%s", error.message);
	CHECK(interface.memory(gpu) > 0 && interface.memory(gpu) <= devices[0].free_bytes, "more to take than is free");
	interface.close(gpu);
}

/*----------
 * A whole run: sample, step, codebook, batches
 *----------
 */

typedef struct Run
{
	VqGpuInterface interface;
	VqGpu	   *gpu;
	VqGpuError	error;
	VqCodec		codec;			/* without metric; its codebook is the one below */
	void	   *image;			/* of its projection */
	float		rows[NROWS * DIM];
	float		centroids[NCENTROIDS * DIM];
	float	   *codebook;
	uint32_t	labels[NROWS];
	float		distances[NROWS];
	double		sums_values[NCENTROIDS * DIM];
	uint64_t	counts[NCENTROIDS];
	VqKmeansSums sums;
	size_t		nresident;
	double		mse;
	size_t		nencoded;
	uint8_t		codes[NROWS * DIM];
	VqFactors	factors[NROWS];
} Run;

/* Directions that mix two coordinates each, which are those of no other: orthonormal */
static void
run_open_projection(Run *run)
{
	size_t		ndirections = run->codec.pq.dim;
	float	   *directions = calloc(ndirections * DIM, sizeof(float));

	for (size_t j = 0; j < ndirections; j++)
	{
		directions[j * DIM + j] = 0.8f;
		directions[j * DIM + DIM - 1 - j] = j % 2 == 0 ? 0.6f : -0.6f;
	}
	run->image = malloc(vq_project_bytes(DIM, ndirections));
	vq_project_pack(directions, DIM, ndirections, run->image);
	CHECK(vq_project_open(&run->codec.projection, DIM, ndirections, run->image) == VQ_OK, "no projection");
	run->codec.error_scale = ERROR_SCALE;
	free(directions);
}

/* Codes of DIM dimensions, or with a projection of as many as vq_codec_init says for m */
static Run *
run_open_codes(const VqGpuOptions *options, size_t m, bool is_projected)
{
	Run		   *run = calloc(1, sizeof(Run));
	VqRng		rng;

	load(&run->interface);
	CHECK(run->interface.open(options, &run->gpu, &run->error) == VQ_GPU_OK, "%s", run->error.message);
	vq_rng_seed(&rng, 3);
	for (size_t i = 0; i < NROWS * DIM; i++)
		run->rows[i] = (float) (vq_rng_double(&rng) * 2 - 1);
	memcpy(run->centroids, run->rows, sizeof(run->centroids));
	CHECK(vq_codec_init(&run->codec, DIM, m, 4, is_projected) == VQ_OK, "no codes");
	if (is_projected)
		run_open_projection(run);
	run->codebook = calloc(vq_pq_codebook_floats(&run->codec.pq), sizeof(float));
	run->codec.scale = 1;
	run->codec.codebook = run->codebook;
	run->sums.ncentroids = NCENTROIDS;
	run->sums.dim = DIM;
	run->sums.sums = run->sums_values;
	run->sums.counts = run->counts;
	return run;
}

static Run *
run_open(const VqGpuOptions *options)
{
	return run_open_codes(options, 4, false);
}

static const VqProjection *
run_projection(const Run *run)
{
	return run->codec.is_projected ? &run->codec.projection : NULL;
}

static void
run_close(Run *run)
{
	run->interface.close(run->gpu);
	free(run->image);
	free(run->codebook);
	free(run);
}

#define TRY(call) \
	do { \
		VqGpuStatus try_status = (call); \
		if (try_status != VQ_GPU_OK) \
			return try_status; \
	} while (0)

static VqGpuStatus
run_train(Run *run)
{
	VqGpuInterface *interface = &run->interface;

	TRY(interface->sample_begin(run->gpu, DIM, NROWS, NCENTROIDS, &run->nresident, &run->error));
	for (size_t first = 0; first < NROWS; first += 77)
		TRY(interface->sample_add(run->gpu, run->rows + first * DIM, NROWS - first < 77 ? NROWS - first : 77,
								  &run->error));
	TRY(interface->kmeans_step(run->gpu, 0, NROWS, run->centroids, NCENTROIDS, &run->sums, run->labels,
							   run->distances, &run->error));
	return interface->pq_train(run->gpu, &run->codec.pq, run_projection(run), run->centroids, NCENTROIDS, 500, 5, 1,
							   run->codebook, &run->mse, &run->error);
}

static VqGpuStatus
run_collect(Run *run, bool *is_done)
{
	size_t		m = run->codec.pq.m;
	VqGpuBatch *batch;

	TRY(run->interface.encode_collect(run->gpu, &batch, &run->error));
	*is_done = batch == NULL;
	if (batch == NULL)
		return VQ_GPU_OK;
	CHECK(batch->tag == run->rows + run->nencoded * DIM, "batches came back in another order");
	memcpy(run->codes + run->nencoded * m, batch->codes, batch->nrows * m);
	memcpy(run->factors + run->nencoded, batch->factors, batch->nrows * sizeof(VqFactors));
	memcpy(run->labels + run->nencoded, batch->labels, batch->nrows * sizeof(uint32_t));
	run->nencoded += batch->nrows;
	run->interface.encode_release(run->gpu, batch);
	return VQ_GPU_OK;
}

static VqGpuStatus
run_encode(Run *run, VqMetric metric)
{
	VqGpuModel	model = {
		.metric = metric,
		.dim = DIM,
		.pq = run->codec.pq,
		.projection = run_projection(run),
		.error_scale = run->codec.error_scale,
		.ncentroids = NCENTROIDS,
		.centroids = run->centroids,
		.codebook = run->codebook
	};
	bool		is_done = false;

	run->nencoded = 0;
	TRY(run->interface.encode_begin(run->gpu, &model, 64, &run->error));
	for (size_t first = 0; first < NROWS;)
	{
		VqGpuBatch *batch;

		TRY(run->interface.encode_acquire(run->gpu, &batch, &run->error));
		if (batch == NULL)
		{
			TRY(run_collect(run, &is_done));
			continue;
		}
		batch->tag = run->rows + first * DIM;
		batch->nrows = NROWS - first < batch->capacity ? NROWS - first : batch->capacity;
		for (size_t i = 0; i < batch->nrows; i++)
			memcpy(batch->rows + i * batch->stride, run->rows + (first + i) * DIM, DIM * sizeof(float));
		first += batch->nrows;
		TRY(run->interface.encode_submit(run->gpu, batch, &run->error));
	}
	while (!is_done)
		TRY(run_collect(run, &is_done));
	return VQ_GPU_OK;
}

static void
test_rows_kept_by_the_caller_count_as_well(void)
{
	VqGpuOptions options = default_options();
	Run		   *whole = run_open(&options);
	Run		   *part;

	CHECK(run_train(whole) == VQ_GPU_OK, "%s", whole->error.message);
	CHECK(whole->nresident == NROWS, "%zu rows are resident", whole->nresident);
	options.memory_limit = 333 * DIM * sizeof(float);
	part = run_open(&options);
	CHECK(run_train(part) == VQ_GPU_OK, "%s", part->error.message);
	CHECK(part->nresident == 333, "%zu rows are resident", part->nresident);
	CHECK(memcmp(whole->labels, part->labels, sizeof(whole->labels)) == 0, "labels differ");
	CHECK(memcmp(whole->sums_values, part->sums_values, sizeof(whole->sums_values)) == 0, "sums differ");
	CHECK(memcmp(whole->codebook, part->codebook, vq_pq_codebook_floats(&whole->codec.pq) * sizeof(float)) == 0,
		  "codebooks differ");
	run_close(whole);
	run_close(part);
}

static void
test_a_part_of_the_sample_can_be_stepped_over(void)
{
	VqGpuOptions options = default_options();
	Run		   *run = run_open(&options);
	uint32_t	labels[100];
	float		distances[100];
	VqGpuStatus status;

	CHECK(run_train(run) == VQ_GPU_OK, "%s", run->error.message);
	status = run->interface.kmeans_step(run->gpu, 450, 100, run->centroids, NCENTROIDS, NULL, labels, distances,
										&run->error);
	CHECK(status == VQ_GPU_OK, "%s", run->error.message);
	CHECK(memcmp(labels, run->labels + 450, sizeof(labels)) == 0, "labels differ");
	CHECK(memcmp(distances, run->distances + 450, sizeof(distances)) == 0, "distances differ");
	run_close(run);
}

static void
check_codes(Run *run)
{
	static const VqMetric metrics[] = {VQ_METRIC_L2, VQ_METRIC_IP, VQ_METRIC_COSINE};
	const VqKernels *kernels = vq_kernels_by_name("auto");
	VqCodec    *codec = &run->codec;
	size_t		m = codec->pq.m;
	float	   *work = calloc(vq_codec_encode_floats(codec), sizeof(float));
	float	   *x_code = calloc(vq_codec_code_floats(codec), sizeof(float));
	float	   *centroid_code = calloc(vq_codec_code_floats(codec), sizeof(float));

	CHECK(run_train(run) == VQ_GPU_OK, "%s", run->error.message);
	for (size_t metric = 0; metric < 3; metric++)
	{
		size_t		nwrong = 0;
		size_t		ncoded = 0;

		codec->metric = metrics[metric];
		CHECK(run_encode(run, codec->metric) == VQ_GPU_OK, "%s", run->error.message);
		CHECK(run->nencoded == NROWS, "%zu rows came back", run->nencoded);
		for (size_t i = 0; i < NROWS; i++)
		{
			const float *centroid = run->centroids + run->labels[i] * DIM;
			uint8_t		codes[DIM];
			VqFactors	factors;

			vq_codec_to_codes(kernels, codec, run->rows + i * DIM, x_code);
			vq_codec_to_codes(kernels, codec, centroid, centroid_code);
			vq_codec_encode(kernels, codec, run->rows + i * DIM, centroid, x_code, centroid_code, work, codes, &factors);
			nwrong += memcmp(codes, run->codes + i * m, m) != 0 ||
				factors.a != run->factors[i].a || factors.s != run->factors[i].s || factors.e != run->factors[i].e;
			ncoded += factors.s > 0;
		}
		CHECK(nwrong == 0, "metric %zu: %zu rows are coded differently", metric, nwrong);
		CHECK(ncoded > NROWS / 2, "metric %zu: only %zu rows have a code that says something", metric, ncoded);
	}
	free(work);
	free(x_code);
	free(centroid_code);
}

static void
test_codes_are_those_of_the_codec(void)
{
	VqGpuOptions options = default_options();
	Run		   *run = run_open(&options);

	check_codes(run);
	run_close(run);
}

static void
test_projected_codes_are_those_of_the_codec(void)
{
	VqGpuOptions options = default_options();
	Run		   *run = run_open_codes(&options, 2, true);

	CHECK(run->codec.pq.dim == 4, "codes are of %u dimensions", run->codec.pq.dim);
	check_codes(run);
	run_close(run);
}

static void
test_a_codebook_is_trained_in_code_space(void)
{
	VqGpuOptions options = default_options();
	const VqKernels *kernels = vq_kernels_by_name("auto");
	Run		   *run = run_open_codes(&options, 2, true);
	const VqPq *pq = &run->codec.pq;
	float	   *residuals = calloc(500 * vq_codec_code_floats(&run->codec), sizeof(float));
	float	   *codebook = calloc(vq_pq_codebook_floats(pq), sizeof(float));
	double	   *sums = calloc(vq_pq_sums_doubles(pq), sizeof(double));
	uint8_t		codes[DIM];

	CHECK(run_train(run) == VQ_GPU_OK, "%s", run->error.message);
	for (size_t i = 0; i < 500; i++)
	{
		size_t		row = i * NROWS / 500;
		const float *centroid = run->centroids + run->labels[row] * DIM;
		float		residual[DIM];

		for (size_t d = 0; d < DIM; d++)
			residual[d] = run->rows[row * DIM + d] - centroid[d];
		vq_codec_direction(kernels, residual, DIM);

		/* what is written behind the directions is written over by the next row */
		vq_project(kernels, &run->codec.projection, residual, residuals + i * pq->dim);
	}
	vq_pq_train(kernels, pq, residuals, 500, 5, 1, sums, codes, codebook);
	CHECK(memcmp(codebook, run->codebook, vq_pq_codebook_floats(pq) * sizeof(float)) == 0, "codebooks differ");
	free(residuals);
	free(codebook);
	free(sums);
	run_close(run);
}

static void
test_a_failure_at_any_call_is_reported_and_final(void)
{
	VqGpuOptions options = default_options();
	size_t		nfailed = 0;
	bool		is_done = false;

	for (size_t ncalls = 0; !is_done && ncalls < 1000; ncalls++)
	{
		Run		   *run = run_open(&options);
		char		fault[32];
		VqGpuStatus status;

		snprintf(fault, sizeof(fault), "after %zu", ncalls);
		set_fault(fault);
		status = run_train(run);
		if (status == VQ_GPU_OK)
			status = run_encode(run, VQ_METRIC_L2);
		if (status == VQ_GPU_OK)
			is_done = true;
		else
		{
			nfailed++;
			CHECK(status == VQ_GPU_FAILED && strstr(run->error.message, "fell off the bus") != NULL,
				  "call %zu: %s, \"%s\"", ncalls, vq_gpu_status_name(status), run->error.message);
			set_fault(NULL);
			status = run->interface.sample_begin(run->gpu, DIM, NROWS, NCENTROIDS, &run->nresident, &run->error);
			CHECK(status == VQ_GPU_FAILED && strstr(run->error.message, "earlier error") != NULL,
				  "after call %zu: %s", ncalls, vq_gpu_status_name(status));
			run->interface.sample_end(run->gpu);
			run->interface.encode_end(run->gpu);
		}
		set_fault(NULL);
		run_close(run);
	}
	CHECK(is_done && nfailed > 20, "%zu calls failed", nfailed);
}

static void
test_out_of_memory_is_its_own_status(void)
{
	VqGpuOptions options = default_options();
	Run		   *run = run_open(&options);

	set_fault("memory");
	CHECK(run_train(run) == VQ_GPU_NO_MEMORY, "%s", run->error.message);
	CHECK(strstr(run->error.message, "MB") != NULL, "the reason is \"%s\"", run->error.message);
	set_fault(NULL);
	run_close(run);
	run = run_open(&options);
	CHECK(run_train(run) == VQ_GPU_OK, "%s", run->error.message);
	set_fault("memory");
	CHECK(run_encode(run, VQ_METRIC_L2) == VQ_GPU_NO_MEMORY, "%s", run->error.message);
	set_fault(NULL);
	run_close(run);
}

static void
test_a_projection_that_does_not_fit_is_refused(void)
{
	VqGpuOptions options = default_options();
	Run		   *run = run_open_codes(&options, 2, true);
	VqProjection fitting = run->codec.projection;

	CHECK(run_train(run) == VQ_GPU_OK, "%s", run->error.message);
	run->codec.projection.ndirections--;
	CHECK(run_train(run) == VQ_GPU_BAD_ARGUMENT, "trained with fewer directions than codes have");
	CHECK(run_encode(run, VQ_METRIC_L2) == VQ_GPU_BAD_ARGUMENT, "coded with fewer directions than codes have");
	run->codec.projection = fitting;
	run->codec.projection.dim--;
	CHECK(run_train(run) == VQ_GPU_BAD_ARGUMENT, "trained with a projection of other vectors");
	CHECK(run_encode(run, VQ_METRIC_L2) == VQ_GPU_BAD_ARGUMENT, "coded with a projection of other vectors");
	run->codec.projection = fitting;
	run->codec.is_projected = false;
	CHECK(run_train(run) == VQ_GPU_BAD_ARGUMENT, "trained without the projection");
	CHECK(run_encode(run, VQ_METRIC_L2) == VQ_GPU_BAD_ARGUMENT, "coded without the projection");
	run->codec.is_projected = true;
	run->codec.error_scale = 0;
	CHECK(run_encode(run, VQ_METRIC_L2) == VQ_GPU_BAD_ARGUMENT, "coded with errors that are no errors");
	run->codec.error_scale = 1;
	CHECK(run_train(run) == VQ_GPU_OK, "%s", run->error.message);
	CHECK(run_encode(run, VQ_METRIC_L2) == VQ_GPU_OK, "%s", run->error.message);
	run_close(run);
}

/* Says stop when it is asked for the n-th time */
static bool
stop_after(void *arg)
{
	int		   *left = arg;

	return --*left < 0;
}

static void
test_a_request_to_stop_is_heard(void)
{
	VqGpuOptions options = default_options();
	bool		is_done = false;

	for (int asked = 0; !is_done && asked < 1000; asked++)
	{
		int			left = asked;
		Run		   *run;
		VqGpuStatus status;

		options.should_stop = stop_after;
		options.should_stop_arg = &left;
		run = run_open(&options);
		status = run_train(run);
		if (status == VQ_GPU_OK)
			status = run_encode(run, VQ_METRIC_L2);
		is_done = status == VQ_GPU_OK;
		CHECK(is_done || status == VQ_GPU_STOPPED, "asked %d times: %s", asked, vq_gpu_status_name(status));
		run_close(run);
	}
	CHECK(is_done, "it never went through");
}

static void
test_a_call_that_hangs_is_stopped(void)
{
	VqGpuOptions options = default_options();
	int			left = 3;
	Run		   *run;

	options.should_stop = stop_after;
	options.should_stop_arg = &left;
	run = run_open(&options);
	set_fault("wait 2");
	CHECK(run_train(run) == VQ_GPU_STOPPED, "%s", run->error.message);
	set_fault(NULL);
	run_close(run);
}

static void
test_bad_arguments_lose_nothing(void)
{
	VqGpuOptions options = default_options();
	Run		   *run = run_open(&options);
	VqGpuInterface *interface = &run->interface;
	VqGpuBatch *batch;
	VqGpuStatus status;

	status = interface->sample_add(run->gpu, run->rows, 1, &run->error);
	CHECK(status == VQ_GPU_BAD_ARGUMENT, "rows without a sample: %s", vq_gpu_status_name(status));
	status = interface->encode_acquire(run->gpu, &batch, &run->error);
	CHECK(status == VQ_GPU_BAD_ARGUMENT && batch == NULL, "a batch without a model: %s", vq_gpu_status_name(status));
	CHECK(run_train(run) == VQ_GPU_OK, "%s", run->error.message);
	status = interface->sample_add(run->gpu, run->rows, 1, &run->error);
	CHECK(status == VQ_GPU_BAD_ARGUMENT, "one row too many: %s", vq_gpu_status_name(status));
	status = interface->kmeans_step(run->gpu, NROWS - 1, 2, run->centroids, NCENTROIDS, NULL, NULL, NULL, &run->error);
	CHECK(status == VQ_GPU_BAD_ARGUMENT, "a step over the end: %s", vq_gpu_status_name(status));
	status = interface->kmeans_step(run->gpu, 0, NROWS, run->centroids, NCENTROIDS + 1, NULL, NULL, NULL, &run->error);
	CHECK(status == VQ_GPU_BAD_ARGUMENT, "one centroid too many: %s", vq_gpu_status_name(status));
	status = interface->kmeans_step(run->gpu, 0, NROWS, run->centroids, NCENTROIDS, NULL, run->labels, NULL, &run->error);
	CHECK(status == VQ_GPU_OK, "the step after that: %s", run->error.message);
	run_close(run);
}

/*----------
 * Between the steps of k-means
 *----------
 */

/*
 * Steps that a clustering takes whose error falls by this share in each of the
 * first ones, and no more after those.  Of 100 centroids, the first and
 * the last have uneven counts in as many of the steps as that says.
 */
static size_t
count_steps(double share, size_t nfalling, size_t nuneven)
{
	double		sum_values[100];
	uint64_t	counts[100];
	float		centroids[100] = {0};
	VqKmeansSize sizes[100];
	VqKmeansSums sums = {.ncentroids = 100,.dim = 1,.sums = sum_values,.counts = counts,.error = 1000};
	VqGpuClustering clustering;
	VqRng		rng;
	size_t		nsteps = 0;
	bool		wants_more = true;

	vq_rng_seed(&rng, 1);
	vq_gpu_cluster_begin(&clustering);
	while (wants_more && nsteps < 1000)
	{
		for (size_t j = 0; j < 100; j++)
		{
			counts[j] = 100;
			sum_values[j] = (double) (100 * j);
		}
		counts[0] = nsteps < nuneven ? 1 : 100;
		counts[99] = nsteps < nuneven ? 1000 : 100;
		sums.error *= nsteps < nfalling ? 1 - share : 1;
		nsteps++;
		wants_more = vq_gpu_cluster_next(&clustering, &sums, sizes, &rng, centroids);
		CHECK(clustering.error == sums.error, "the error is %g", clustering.error);
	}
	return nsteps;
}

static void
test_clustering_ends_when_it_does_not_pay(void)
{
	CHECK(count_steps(0.1, 1000, 0) == VQ_GPU_CLUSTER_STEPS, "got %zu", count_steps(0.1, 1000, 0));
	CHECK(count_steps(0.001, 1000, 0) == 2 + 3, "got %zu", count_steps(0.001, 1000, 0));
	CHECK(count_steps(0.1, 6, 0) == 7 + 3, "got %zu", count_steps(0.1, 6, 0));
}

static void
test_clustering_goes_on_after_balancing(void)
{
	/* three more steps, counted from the last balancing; twice at most */
	CHECK(count_steps(0.1, 6, 7) == 7 + 3, "got %zu", count_steps(0.1, 6, 7));
	CHECK(count_steps(0.1, 6, 8) == 7 + 1 + 3, "got %zu", count_steps(0.1, 6, 8));
	CHECK(count_steps(0.1, 6, 1000) == 7 + 1 + 3, "got %zu", count_steps(0.1, 6, 1000));
	CHECK(count_steps(0.1, 1000, 1000) == 16 + 1 + 3, "got %zu", count_steps(0.1, 1000, 1000));
}

void
suite_vq_gpu(void)
{
	RUN_TEST(test_a_missing_library_is_named);
	RUN_TEST(test_a_file_that_is_no_library_is_refused);
	RUN_TEST(test_a_library_of_something_else_is_refused);
	RUN_TEST(test_another_version_is_refused);
	RUN_TEST(test_a_name_that_is_too_long_is_refused);
	RUN_TEST(test_the_plugin_is_loaded_more_than_once);
	RUN_TEST(test_a_missing_device_has_a_reason);
	RUN_TEST(test_devices_are_listed);
	RUN_TEST(test_rows_kept_by_the_caller_count_as_well);
	RUN_TEST(test_a_part_of_the_sample_can_be_stepped_over);
	RUN_TEST(test_codes_are_those_of_the_codec);
	RUN_TEST(test_projected_codes_are_those_of_the_codec);
	RUN_TEST(test_a_codebook_is_trained_in_code_space);
	RUN_TEST(test_a_projection_that_does_not_fit_is_refused);
	RUN_TEST(test_a_failure_at_any_call_is_reported_and_final);
	RUN_TEST(test_out_of_memory_is_its_own_status);
	RUN_TEST(test_a_request_to_stop_is_heard);
	RUN_TEST(test_a_call_that_hangs_is_stopped);
	RUN_TEST(test_bad_arguments_lose_nothing);
	RUN_TEST(test_clustering_ends_when_it_does_not_pay);
	RUN_TEST(test_clustering_goes_on_after_balancing);
}
