/*-------------------------------------------------------------------------
 *
 * gpu_bench.c
 *	  Time of each stage of training and encoding with the GPU plug-in.
 *
 *		gpu_bench LIBRARY [--ceilings FILE] [--csv FILE] [--scale SHARE]
 *				  [--products auto|f32|tf32|bf16] [--case N] [--no-tiles]
 *
 * Seconds are of a clock on the host, around calls that return when the device
 * has finished; k-means and encoding after some that warmed up.  Stages:
 *
 *		load			the sample, by one thread, through memory that is pinned for it
 *		kmeans			all steps of a build's k-means, sums brought home
 *		update			new centroids and balancing on the host, for all of them
 *		codebook		pq_train
 *		encode_begin	the sample freed, batches and the model made
 *		encode			all rows, copied into batches by one thread
 *		encode_device	the same batches without that copy: what the device and
 *						the bus take
 *
 * tflops counts the products (2 x rows x lists x dim), gbs the bytes of the
 * rows that cross the bus.  bound is the time that the ceilings of
 * gpu_ceilings allow for the larger of the two, ratio is seconds over it.
 * --scale 0.01 takes that share of the rows.  --case N runs one case, from 0.
 *
 * After each case one step with different tiles of products, which is how the
 * size of a tile is chosen; not with --no-tiles.
 *
 * The last line is about the case that has goals: open, load, kmeans, update,
 * codebook, encode_begin and encode together, of all of its rows.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/vq_codec.h"

#define CODEBOOK_ITERATIONS 12
#define SAMPLE_ROWS_PER_LIST 64
#define TRAIN_ROWS_PER_CODE 256
#define BATCH_ROWS 65536
#define SEED 42

static const struct
{
	size_t		nrows;
	size_t		dim;
	size_t		nlists;
	size_t		m;
	size_t		nbits;
	bool		is_projected;
}			cases[] = {
	{1000000, 300, 4096, 86, 4, true},	/* codes as CREATE INDEX makes them by default */
	{1000000, 300, 4096, 75, 8, false},
	{5000000, 300, 10000, 86, 4, true},
	{1000000, 1536, 4096, 768, 4, false},
	{1000000, 1536, 4096, 384, 4, true},	/* on 768 directions */
};

/* The one with goals, and seconds for all of it: what it shall take, and what it might */
#define GOAL_CASE 2
#define GOAL_SECONDS 10.0
#define BEST_SECONDS 3.0

#define NCASES (sizeof(cases) / sizeof(cases[0]))

static const char *const product_names[] = {"auto", "f32", "tf32", "bf16"};

static VqGpuInterface gpu_interface;
static FILE *csv;
static VqGpuProducts products;
static double scale = 1;

/* Of GOAL_CASE; 0 if it has not been run */
static double training_seconds;
static double encoding_seconds;

/* Ceilings; 0 where nobody measured */
static char device_name[128] = "unknown";
static double peak_tflops[4];	/* by VqGpuProducts */
static double h2d_gbs;

static void
read_ceilings(const char *name)
{
	FILE	   *file = fopen(name, "r");
	char		line[256];
	char		value[200];

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
	{
		if (sscanf(line, "device,%127[^\n]", device_name) == 1)
			continue;
		if (sscanf(line, "f32_tflops,%199s", value) == 1)
			peak_tflops[VQ_GPU_PRODUCTS_F32] = atof(value);
		if (sscanf(line, "tf32_tflops,%199s", value) == 1)
			peak_tflops[VQ_GPU_PRODUCTS_TF32] = atof(value);
		if (sscanf(line, "bf16_tflops,%199s", value) == 1)
			peak_tflops[VQ_GPU_PRODUCTS_BF16] = atof(value);
		if (sscanf(line, "h2d_gbs,%199s", value) == 1)
			h2d_gbs = atof(value);
		printf("%s", line);
	}
	if (file != NULL)
		fclose(file);
	else
		printf("no ceilings: %s cannot be read\n", name);

	/* What the plug-in takes by itself */
	peak_tflops[VQ_GPU_PRODUCTS_AUTO] = peak_tflops[VQ_GPU_PRODUCTS_TF32] > 0 ?
		peak_tflops[VQ_GPU_PRODUCTS_TF32] : peak_tflops[VQ_GPU_PRODUCTS_F32];
}

/* One line; flop and bytes are 0 where they do not count */
static void
report(size_t nrows, size_t dim, size_t nlists, size_t nbits, const char *stage, double seconds,
	   double flop, double bytes)
{
	double		tflops = flop / seconds / 1e12;
	double		gbs = bytes / seconds / 1e9;
	double		compute = peak_tflops[products] > 0 ? flop / peak_tflops[products] / 1e12 : 0;
	double		copy = h2d_gbs > 0 ? bytes / h2d_gbs / 1e9 : 0;
	double		bound = compute > copy ? compute : copy;

	printf("%8zu x %4zu, %5zu lists, %zu bits, %-4s  %-14s %9.4f s %8.1f TFLOP/s %7.2f GB/s", nrows, dim, nlists,
		   nbits, product_names[products], stage, seconds, tflops, gbs);
	if (bound > 0)
		printf("  bound %8.4f s, x %.2f", bound, seconds / bound);
	putchar('\n');
	fflush(stdout);
	if (csv != NULL)
	{
		fprintf(csv, "%s,%zu,%zu,%zu,%zu,%s,%s,%.6f,%.2f,%.3f,%.6f,%.3f\n", device_name, nrows, dim, nlists, nbits,
				product_names[products], stage, seconds, tflops, gbs, bound, bound > 0 ? seconds / bound : 0);
		fflush(csv);
	}
}

static VqGpu *
open_gpu(uint64_t product_bytes)
{
	VqGpuOptions options;
	VqGpuError	error;
	VqGpu	   *gpu;

	memset(&options, 0, sizeof(options));
	options.device = VQ_GPU_ALL_DEVICES;
	options.products = products;
	options.product_bytes = product_bytes;
	data_must(gpu_interface.open(&options, &gpu, &error), &error, "open");
	return gpu;
}

static void
load_sample(VqGpu *gpu, const float *rows, size_t nrows, size_t dim, size_t nlists)
{
	VqGpuError	error;
	size_t		nresident;

	data_must(gpu_interface.sample_begin(gpu, dim, nrows, nlists, &nresident, &error), &error, "sample_begin");
	data_must(gpu_interface.sample_add(gpu, rows, nrows, &error), &error, "sample_add");
	if (nresident < nrows)
		printf("only %zu of %zu rows of the sample are resident\n", nresident, nrows);
}

static void
copy_to_batch(VqGpuBatch *batch, const float *rows, size_t dim)
{
	for (size_t i = 0; i < batch->nrows; i++)
		memcpy(batch->rows + i * batch->stride, rows + i * dim, dim * sizeof(float));
}

/* Wait for the next batch; how many rows it has, 0 if none is under way */
static size_t
collect(VqGpu *gpu)
{
	VqGpuBatch *batch;
	size_t		nrows;
	VqGpuError	error;

	data_must(gpu_interface.encode_collect(gpu, &batch, &error), &error, "encode_collect");
	if (batch == NULL)
		return 0;
	nrows = batch->nrows;
	gpu_interface.encode_release(gpu, batch);
	return nrows;
}

/* The first rows through batches until all of these are full: of real rows, as zeros would be faster */
static void
fill_batches(VqGpu *gpu, const float *rows, size_t nrows, size_t dim)
{
	VqGpuBatch *batch;
	VqGpuError	error;

	for (;;)
	{
		data_must(gpu_interface.encode_acquire(gpu, &batch, &error), &error, "encode_acquire");
		if (batch == NULL)
			break;
		batch->nrows = nrows < batch->capacity ? nrows : batch->capacity;
		copy_to_batch(batch, rows, dim);
		data_must(gpu_interface.encode_submit(gpu, batch, &error), &error, "encode_submit");
	}
	while (collect(gpu) > 0)
		;
}

/* All rows through batches; without with_copy as if each were in its batch already.  Seconds */
static double
encode(VqGpu *gpu, const float *rows, size_t nrows, size_t dim, bool with_copy)
{
	size_t		first = 0;
	size_t		collected = 0;
	double		start = data_now();
	VqGpuError	error;

	while (collected < nrows)
	{
		VqGpuBatch *batch = NULL;

		if (first < nrows)
			data_must(gpu_interface.encode_acquire(gpu, &batch, &error), &error, "encode_acquire");
		if (batch == NULL)
		{
			collected += collect(gpu);
			continue;
		}
		batch->nrows = nrows - first < batch->capacity ? nrows - first : batch->capacity;
		if (with_copy)
			copy_to_batch(batch, rows + first * dim, dim);
		first += batch->nrows;
		data_must(gpu_interface.encode_submit(gpu, batch, &error), &error, "encode_submit");
	}
	return data_now() - start;
}

/* One step, after one that warmed up */
static double
time_step(VqGpu *gpu, size_t nrows, size_t dim, size_t nlists, const float *centroids)
{
	VqKmeansSums sums = {.ncentroids = nlists, .dim = dim};
	VqGpuError	error;
	double		start = 0;

	sums.sums = data_alloc(nlists * dim, sizeof(double));
	sums.counts = data_alloc(nlists, sizeof(uint64_t));
	for (int run = 0; run < 2; run++)
	{
		start = data_now();
		data_must(gpu_interface.kmeans_step(gpu, 0, nrows, centroids, nlists, &sums, NULL, NULL, &error), &error,
				  "kmeans_step");
	}
	free(sums.sums);
	free(sums.counts);
	return data_now() - start;
}

static void
bench_tiles(const float *rows, size_t nrows, size_t dim, size_t nlists, size_t nbits)
{
	static const size_t megabytes[] = {48, 96, 192, 384, 768, 1536};

	for (size_t i = 0; i < sizeof(megabytes) / sizeof(megabytes[0]); i++)
	{
		VqGpu	   *gpu = open_gpu((uint64_t) megabytes[i] << 20);
		char		stage[32];

		snprintf(stage, sizeof(stage), "tile_%zu_mb", megabytes[i]);
		load_sample(gpu, rows, nrows, dim, nlists);
		report(nrows, dim, nlists, nbits, stage, time_step(gpu, nrows, dim, nlists, rows),
			   2.0 * (double) nrows * (double) nlists * (double) dim, 0);
		gpu_interface.close(gpu);
	}
}

static bool
is_same_rows(size_t a, size_t b)
{
	return cases[a].nrows == cases[b].nrows && cases[a].dim == cases[b].dim;
}

static void
bench_case(size_t number, const float *rows, bool with_tiles)
{
	size_t		nrows = (size_t) ((double) cases[number].nrows * scale);
	size_t		dim = cases[number].dim;
	size_t		nlists = cases[number].nlists;
	size_t		nbits = cases[number].nbits;
	size_t		nsample = nlists * SAMPLE_ROWS_PER_LIST;
	size_t		ntrain = TRAIN_ROWS_PER_CODE << nbits;
	DataTraining training;
	double		start;
	double		open_seconds;
	double		load_seconds;
	double		codebook_seconds;
	double		begin_seconds;
	double		encode_seconds;
	double		mse;
	float	   *centroids;
	float	   *codebook;
	void	   *image = NULL;
	VqCodec		codec;
	VqGpuModel	model;
	VqGpuError	error;
	VqGpu	   *gpu;

	if (nlists * 10 > nrows)
		nlists = nrows / 10 + 1;
	nsample = nsample < nrows ? nsample : nrows;
	ntrain = ntrain < nsample ? ntrain : nsample;
	centroids = data_alloc(nlists * dim, sizeof(float));
	memset(&model, 0, sizeof(model));
	model.metric = VQ_METRIC_L2;
	vq_codec_init(&codec, dim, cases[number].m, nbits, cases[number].is_projected);
	model.dim = dim;
	model.pq = codec.pq;
	model.error_scale = codec.error_scale;
	if (codec.is_projected)
	{
		image = data_projection(dim, codec.pq.dim, SEED, &codec.projection);
		model.projection = &codec.projection;
	}
	codebook = data_alloc(vq_pq_codebook_floats(&model.pq), sizeof(float));

	start = data_now();
	gpu = open_gpu(0);
	open_seconds = data_now() - start;
	report(nrows, dim, nlists, nbits, "open", open_seconds, 0, 0);
	start = data_now();
	load_sample(gpu, rows, nsample, dim, nlists);
	load_seconds = data_now() - start;
	report(nrows, dim, nlists, nbits, "load", load_seconds, 0, (double) nsample * (double) dim * 4);
	(void) time_step(gpu, nsample / 10 + 1, dim, nlists, rows);
	data_train_centroids(&gpu_interface, gpu, rows, nsample, dim, nlists, SEED, centroids, &training);
	report(nrows, dim, nlists, nbits, "kmeans", training.step_seconds,
		   2.0 * (double) training.nsteps * (double) nsample * (double) nlists * (double) dim, 0);
	report(nrows, dim, nlists, nbits, "update", training.update_seconds, 0, 0);
	start = data_now();
	data_must(gpu_interface.pq_train(gpu, &model.pq, model.projection, centroids, nlists, ntrain,
									 CODEBOOK_ITERATIONS, SEED, codebook, &mse, &error), &error, "pq_train");
	codebook_seconds = data_now() - start;
	report(nrows, dim, nlists, nbits, "codebook", codebook_seconds, 0, 0);
	model.ncentroids = nlists;
	model.centroids = centroids;
	model.codebook = codebook;
	start = data_now();
	data_must(gpu_interface.encode_begin(gpu, &model, BATCH_ROWS, &error), &error, "encode_begin");
	begin_seconds = data_now() - start;
	report(nrows, dim, nlists, nbits, "encode_begin", begin_seconds, 0, 0);
	fill_batches(gpu, rows, nrows, dim);
	encode_seconds = encode(gpu, rows, nrows, dim, true);
	report(nrows, dim, nlists, nbits, "encode", encode_seconds,
		   2.0 * (double) nrows * (double) nlists * (double) dim, (double) nrows * (double) dim * 4);
	report(nrows, dim, nlists, nbits, "encode_device", encode(gpu, rows, nrows, dim, false),
		   2.0 * (double) nrows * (double) nlists * (double) dim, (double) nrows * (double) dim * 4);
	gpu_interface.close(gpu);
	if (number == GOAL_CASE)
	{
		training_seconds = open_seconds + load_seconds + training.step_seconds + training.update_seconds +
			codebook_seconds;
		encoding_seconds = begin_seconds + encode_seconds;
	}
	if (with_tiles)
		bench_tiles(rows, nsample, dim, nlists, nbits);
	free(centroids);
	free(codebook);
	free(image);
}

static void
report_goals(void)
{
	double		seconds = training_seconds + encoding_seconds;

	if (seconds <= 0)
		return;
	printf("%zu x %zu, %zu lists, on %s: training %.2f s, encoding %.2f s, together %.2f s",
		   (size_t) ((double) cases[GOAL_CASE].nrows * scale), cases[GOAL_CASE].dim, cases[GOAL_CASE].nlists,
		   device_name, training_seconds, encoding_seconds, seconds);
	if (scale < 1)
		printf("; goals are for all rows\n");
	else
		printf("; goal of %.0f s %s, of %.0f s %s\n", GOAL_SECONDS, seconds <= GOAL_SECONDS ? "met" : "MISSED",
			   BEST_SECONDS, seconds <= BEST_SECONDS ? "met" : "missed");
}

int
main(int argc, char **argv)
{
	const char *csv_name = NULL;
	const char *ceilings_name = NULL;
	bool		with_tiles = true;
	size_t		only = NCASES;
	float	   *rows = NULL;
	VqGpuError	error;

	for (int i = 2; i < argc; i++)
	{
		const char *value = i + 1 < argc ? argv[i + 1] : "";

		if (strcmp(argv[i], "--no-tiles") == 0)
		{
			with_tiles = false;
			continue;
		}
		i++;
		if (strcmp(argv[i - 1], "--ceilings") == 0)
			ceilings_name = value;
		else if (strcmp(argv[i - 1], "--csv") == 0)
			csv_name = value;
		else if (strcmp(argv[i - 1], "--scale") == 0)
			scale = atof(value);
		else if (strcmp(argv[i - 1], "--case") == 0)
			only = (size_t) atoi(value);
		else if (strcmp(argv[i - 1], "--products") == 0)
		{
			for (int p = 0; p < 4; p++)
				if (strcmp(value, product_names[p]) == 0)
					products = (VqGpuProducts) p;
		}
		else
			argc = 1;
	}
	if (argc < 2)
	{
		fprintf(stderr, "usage: %s LIBRARY [options]; they are described in gpu_bench.c\n", argv[0]);
		return 2;
	}
	data_must(vq_gpu_load(argv[1], &gpu_interface, &error), &error, "load");
	if (ceilings_name != NULL)
		read_ceilings(ceilings_name);
	if (csv_name != NULL)
	{
		csv = fopen(csv_name, "w");
		if (csv == NULL)
		{
			fprintf(stderr, "cannot write %s\n", csv_name);
			return 2;
		}
		fprintf(csv, "device,rows,dim,lists,nbits,products,stage,seconds,tflops,gbs,bound_seconds,ratio\n");
	}
	for (size_t number = 0; number < NCASES; number++)
	{
		if (only < NCASES && only != number)
			continue;
		if (rows == NULL || !is_same_rows(number, number - 1))
		{
			size_t		nrows = (size_t) ((double) cases[number].nrows * scale);

			free(rows);
			rows = data_alloc(nrows * cases[number].dim, sizeof(float));
			data_fill(rows, nrows, cases[number].dim, SEED);
		}
		bench_case(number, rows, with_tiles && !(number > 0 && is_same_rows(number, number - 1)));
	}
	free(rows);
	if (csv != NULL)
		fclose(csv);
	report_goals();
	return 0;
}
