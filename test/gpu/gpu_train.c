/*-------------------------------------------------------------------------
 *
 * gpu_train.c
 *	  Train a model, and write it to a file.
 *
 *		gpu_train LIBRARY IN OUT.model [--lists N] [--m N] [--nbits 4|8]
 *				  [--metric l2|ip|cosine] [--rotation hadamard|none]
 *				  [--rows N] [--products auto|f32|tf32|bf16]
 *
 * IN is what data_read takes, OUT.model what gpu_model.h describes.  With the
 * stand-in as LIBRARY it is trained on the CPU; gpu_recall compares such models.
 *
 * Training is that of CREATE INDEX with a GPU: 64 rows a list (--rows), in
 * random order, to model space, k-means by vq_gpu_cluster.h, codebook by
 * pq_train.  What differs: rows come from all over the file instead of random
 * blocks of a table; the codebook has 256 rows for each code whatever
 * maintenance_work_mem and the size of sub-quantisers; lists are not numbered
 * by groups, which is for searches of a large index and not for what is found.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu_data.h"
#include "gpu_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED UINT64_C(0x7671706776710001)
#define CODEBOOK_ITERATIONS 12
#define TRAIN_ROWS_PER_CODE 256
#define TRAIN_ROWS_PER_LIST 64

typedef struct Options
{
	const char *in;
	const char *out;
	size_t		nlists;
	size_t		m;
	size_t		nbits;
	size_t		max_rows;
	VqMetric	metric;
	VqRotation	rotation;
	VqGpuProducts products;
} Options;

/* Mean and scale as vq_codec.h defines them, and all rows to model space; returns how many have a place there */
static size_t
to_model_space(GpuModel *model, float *rows, size_t nrows)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");
	VqCodec    *codec = &model->codec;
	float	   *mean = model->mean;
	size_t		dim = codec->pq.dim;
	double	   *sums = data_alloc(dim, sizeof(double));
	double		total = 0;
	size_t		kept = 0;
	int			exponent;

	for (size_t i = 0; i < nrows && codec->metric != VQ_METRIC_IP; i++)
	{
		double		length = 1;

		if (codec->metric == VQ_METRIC_COSINE)
			length = sqrt((double) kernels->ip_f32(rows + i * dim, rows + i * dim, dim));
		for (size_t d = 0; d < dim && length > 0; d++)
			sums[d] += rows[i * dim + d] / length;
	}
	for (size_t d = 0; d < dim; d++)
		mean[d] = (float) (sums[d] / (double) nrows);
	codec->scale = 1;
	for (size_t i = 0; i < nrows * dim && codec->metric != VQ_METRIC_COSINE; i++)
		total += ((double) rows[i] - mean[i % dim]) * ((double) rows[i] - mean[i % dim]);
	if (total > 0)
	{
		(void) frexp(sqrt(total / (double) nrows), &exponent);
		codec->scale = ldexpf(1, exponent > 120 ? -120 : exponent < -120 ? 120 : -exponent);
	}
	for (size_t i = 0; i < nrows; i++)
		if (vq_codec_transform(kernels, codec, rows + i * dim, rows + kept * dim) == VQ_OK)
			kept++;
	free(sums);
	return kept;
}

static void
train(const VqGpuInterface *interface, const Options *options)
{
	VqGpuOptions gpu_options;
	VqGpuError	error;
	VqGpu	   *gpu;
	GpuModel	model;
	VqPq	   *pq = &model.codec.pq;
	DataTraining training;
	size_t		nrows;
	size_t		dim;
	size_t		ntrain;
	size_t		nresident;
	double		start;
	double		mse;
	float	   *rows = data_read(options->in, options->max_rows, &nrows, &dim);

	memset(&model, 0, sizeof(model));
	model.codec.metric = options->metric;
	model.codec.rotation = options->rotation;
	if (vq_pq_init(pq, dim, options->m > 0 ? options->m : (dim + 1) / (options->nbits == 8 ? 4 : 2),
				   options->nbits) != VQ_OK)
		data_die(options->in, "--m and --nbits do not fit the vectors");
	model.nlists = options->nlists < nrows ? options->nlists : nrows;
	model.seed = SEED;
	model_alloc(&model);
	data_shuffle(rows, nrows, dim, SEED);
	nrows = to_model_space(&model, rows, nrows);
	if (nrows < model.nlists)
		data_die(options->in, "has fewer rows than lists that have a place in model space");
	ntrain = (size_t) TRAIN_ROWS_PER_CODE << options->nbits;
	ntrain = ntrain < nrows ? ntrain : nrows;

	memset(&gpu_options, 0, sizeof(gpu_options));
	gpu_options.device = VQ_GPU_ALL_DEVICES;
	gpu_options.products = options->products;
	start = data_now();
	data_must(interface->open(&gpu_options, &gpu, &error), &error, "open");
	data_must(interface->sample_begin(gpu, dim, nrows, model.nlists, &nresident, &error), &error, "sample_begin");
	data_must(interface->sample_add(gpu, rows, nrows, &error), &error, "sample_add");
	data_train_centroids(interface, gpu, rows, nrows, dim, model.nlists, SEED, model.centroids, &training);
	data_must(interface->pq_train(gpu, pq, model.centroids, model.nlists, ntrain, CODEBOOK_ITERATIONS, SEED,
								  model.codebook, &mse, &error), &error, "pq_train");
	printf("%s: %zu rows of %zu dimensions, %zu lists, %u x %u bits: %.3f s, %zu steps; "
		   "mean squared distance %.6f, of codes %.6f\n",
		   interface->describe(gpu), nrows, dim, model.nlists, pq->m, pq->nbits, data_now() - start,
		   training.nsteps, training.mean_distance, mse);
	interface->close(gpu);
	model_write(&model, options->out);
	model_free(&model);
	free(rows);
}

/* Number of a word in a list that ends with NULL */
static int
choose(const char *word, const char *const *words)
{
	for (int i = 0; words[i] != NULL; i++)
		if (strcmp(word, words[i]) == 0)
			return i;
	data_die(word, "is no value of this option");
	return 0;
}

int
main(int argc, char **argv)
{
	static const char *const metrics[] = {"", "l2", "ip", "cosine", NULL};
	static const char *const rotations[] = {"none", "hadamard", NULL};
	static const char *const kinds[] = {"auto", "f32", "tf32", "bf16", NULL};
	Options		options = {.nlists = 1000, .nbits = 4, .metric = VQ_METRIC_L2,
	.rotation = VQ_ROTATION_HADAMARD};
	VqGpuInterface interface;
	VqGpuError	error;

	if (argc < 4 || argc % 2 != 0)
	{
		fprintf(stderr, "usage: %s LIBRARY IN OUT.model [options]; they are described in gpu_train.c\n", argv[0]);
		return 2;
	}
	options.in = argv[2];
	options.out = argv[3];
	for (int i = 4; i < argc; i += 2)
	{
		const char *value = argv[i + 1];

		if (strcmp(argv[i], "--lists") == 0)
			options.nlists = strtoul(value, NULL, 10);
		else if (strcmp(argv[i], "--m") == 0)
			options.m = strtoul(value, NULL, 10);
		else if (strcmp(argv[i], "--nbits") == 0)
			options.nbits = strtoul(value, NULL, 10);
		else if (strcmp(argv[i], "--rows") == 0)
			options.max_rows = strtoul(value, NULL, 10);
		else if (strcmp(argv[i], "--metric") == 0)
			options.metric = (VqMetric) choose(value, metrics);
		else if (strcmp(argv[i], "--rotation") == 0)
			options.rotation = (VqRotation) choose(value, rotations);
		else if (strcmp(argv[i], "--products") == 0)
			options.products = (VqGpuProducts) choose(value, kinds);
		else
			data_die(argv[i], "is no option");
	}
	if (options.max_rows == 0)
		options.max_rows = TRAIN_ROWS_PER_LIST * options.nlists;
	if (options.nlists < 1)
		data_die(argv[0], "needs at least one list");
	data_must(vq_gpu_load(argv[1], &interface, &error), &error, "load");
	train(&interface, &options);
	return 0;
}
