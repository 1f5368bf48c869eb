/*-------------------------------------------------------------------------
 *
 * gpu_train.c
 *	  Train a model from a file of vectors, and write it to a file.
 *
 *		gpu_train LIBRARY IN.fvecs OUT.model [--lists N] [--m N] [--nbits 4|8]
 *				  [--metric l2|ip|cosine] [--rotation hadamard|none]
 *				  [--rows N] [--iterations N] [--products auto|f32|tf32|bf16]
 *
 * With the stand-in as LIBRARY it is trained on the CPU: that is how recall of
 * the two is compared without a server on the machine with the GPU.
 *
 * The file, numbers in the byte order of the machine:
 *
 *		OFFSET	SIZE	FIELD
 *		0		8		"VQMODEL1"
 *		8		4 x 6	dim, nlists, m, nbits, metric, rotation		uint32_t
 *		32		4		scale										float
 *		36		4		0
 *		40		8		seed of the rotation						uint64_t
 *		48		4 x		mean [dim], centroids [nlists][dim],
 *						codebook [m][dsub][ksub]					float
 *
 *-------------------------------------------------------------------------
 */
#include "gpu_data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/vq_codec.h"

#define SEED UINT64_C(0x7671706776710001)
#define CODEBOOK_ITERATIONS 12
#define TRAIN_ROWS_PER_CODE 256

typedef struct Options
{
	const char *in;
	const char *out;
	size_t		nlists;
	size_t		m;
	size_t		nbits;
	size_t		max_rows;
	size_t		iterations;
	VqMetric	metric;
	VqRotation	rotation;
	VqGpuProducts products;
} Options;

static void
die(const char *what, const char *name)
{
	fprintf(stderr, "%s: %s\n", name, what);
	exit(2);
}

/* Rows of an .fvecs file, spread over it if there are more than max_rows */
static float *
read_rows(const char *name, size_t max_rows, size_t *nrows, size_t *dim)
{
	FILE	   *file = fopen(name, "rb");
	int32_t		first_dim;
	long		file_bytes;
	size_t		row_bytes;
	size_t		available;
	float	   *rows;

	if (file == NULL || fread(&first_dim, sizeof(first_dim), 1, file) != 1 ||
		first_dim < 1 || first_dim > VQ_MAX_DIM || fseek(file, 0, SEEK_END) != 0)
		die("cannot be read as .fvecs", name);
	file_bytes = ftell(file);
	row_bytes = sizeof(int32_t) + (size_t) first_dim * sizeof(float);
	available = (size_t) file_bytes / row_bytes;
	*dim = (size_t) first_dim;
	*nrows = max_rows > 0 && max_rows < available ? max_rows : available;
	rows = data_alloc(*nrows * *dim, sizeof(float));
	for (size_t i = 0; i < *nrows; i++)
	{
		int32_t		row_dim;

		if (fseek(file, (long) (i * available / *nrows * row_bytes), SEEK_SET) != 0 ||
			fread(&row_dim, sizeof(row_dim), 1, file) != 1 || row_dim != first_dim ||
			fread(rows + i * *dim, sizeof(float), *dim, file) != *dim)
			die("ends early, or has rows of different lengths", name);
	}
	fclose(file);
	return rows;
}

/* Mean and scale as vq_codec.h defines them, and all rows to model space; returns how many have a place there */
static size_t
to_model_space(VqCodec *codec, float *mean, float *rows, size_t nrows)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");
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
	codec->mean = mean;
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
write_model(const Options *options, const VqCodec *codec, const float *mean, const float *centroids,
			const float *codebook)
{
	FILE	   *file = fopen(options->out, "wb");
	uint32_t	numbers[6] = {codec->pq.dim, (uint32_t) options->nlists, codec->pq.m, codec->pq.nbits,
	codec->metric, codec->rotation};
	float		scale[2] = {codec->scale, 0};
	uint64_t	seed = SEED;
	size_t		ncentroids = options->nlists * codec->pq.dim;
	size_t		ncodebook = vq_pq_codebook_floats(&codec->pq);

	if (file == NULL ||
		fwrite("VQMODEL1", 8, 1, file) != 1 ||
		fwrite(numbers, sizeof(numbers), 1, file) != 1 ||
		fwrite(scale, sizeof(scale), 1, file) != 1 ||
		fwrite(&seed, sizeof(seed), 1, file) != 1 ||
		fwrite(mean, sizeof(float), codec->pq.dim, file) != codec->pq.dim ||
		fwrite(centroids, sizeof(float), ncentroids, file) != ncentroids ||
		fwrite(codebook, sizeof(float), ncodebook, file) != ncodebook ||
		fclose(file) != 0)
		die("cannot be written", options->out);
}

static void
train(const VqGpuInterface *interface, Options *options)
{
	VqGpuOptions gpu_options;
	VqGpuError	error;
	VqGpu	   *gpu;
	VqCodec		codec;
	size_t		nrows;
	size_t		dim;
	size_t		ntrain;
	size_t		nresident;
	double		step_seconds = 0;
	double		update_seconds = 0;
	double		start;
	double		mse;
	double		mean_distance;
	float	   *rows = read_rows(options->in, options->max_rows, &nrows, &dim);
	float	   *mean = data_alloc(dim, sizeof(float));
	float	   *signs = data_alloc(vq_rotate_sign_bytes(dim), 1);
	float	   *centroids;
	float	   *codebook;

	memset(&codec, 0, sizeof(codec));
	codec.metric = options->metric;
	codec.rotation = options->rotation;
	if (vq_pq_init(&codec.pq, dim, options->m > 0 ? options->m : (dim + 1) / (options->nbits == 8 ? 4 : 2),
				   options->nbits) != VQ_OK)
		die("--m and --nbits do not fit the vectors", options->in);
	vq_rotate_signs(SEED, dim, signs);
	codec.signs = signs;
	nrows = to_model_space(&codec, mean, rows, nrows);
	options->nlists = options->nlists < nrows ? options->nlists : nrows;
	ntrain = (size_t) TRAIN_ROWS_PER_CODE << options->nbits;
	ntrain = ntrain < nrows ? ntrain : nrows;
	centroids = data_alloc(options->nlists * dim, sizeof(float));
	codebook = data_alloc(vq_pq_codebook_floats(&codec.pq), sizeof(float));

	memset(&gpu_options, 0, sizeof(gpu_options));
	gpu_options.device = VQ_GPU_ALL_DEVICES;
	gpu_options.products = options->products;
	start = data_now();
	data_must(interface->open(&gpu_options, &gpu, &error), &error, "open");
	data_must(interface->sample_begin(gpu, dim, nrows, options->nlists, &nresident, &error), &error, "sample_begin");
	data_must(interface->sample_add(gpu, rows, nrows, &error), &error, "sample_add");
	mean_distance = data_train_centroids(interface, gpu, rows, nrows, dim, options->nlists, options->iterations,
										 SEED, centroids, &step_seconds, &update_seconds);
	data_must(interface->pq_train(gpu, &codec.pq, centroids, options->nlists, ntrain, CODEBOOK_ITERATIONS, SEED,
								  codebook, &mse, &error), &error, "pq_train");
	printf("%s: %zu rows of %zu dimensions, %zu lists, %u x %zu bits: %.3f s; mean squared distance %.6f, of codes %.6f\n",
		   interface->describe(gpu), nrows, dim, options->nlists, codec.pq.m, options->nbits, data_now() - start,
		   mean_distance, mse);
	interface->close(gpu);
	codec.codebook = codebook;
	write_model(options, &codec, mean, centroids, codebook);
	free(rows);
	free(mean);
	free(signs);
	free(centroids);
	free(codebook);
}

/* Number of a word in a list that ends with NULL */
static int
choose(const char *word, const char *const *words)
{
	for (int i = 0; words[i] != NULL; i++)
		if (strcmp(word, words[i]) == 0)
			return i;
	die("is no value of this option", word);
	return 0;
}

int
main(int argc, char **argv)
{
	static const char *const metrics[] = {"", "l2", "ip", "cosine", NULL};
	static const char *const rotations[] = {"none", "hadamard", NULL};
	static const char *const kinds[] = {"auto", "f32", "tf32", "bf16", NULL};
	Options		options = {.nlists = 1000, .nbits = 4, .iterations = 10, .metric = VQ_METRIC_L2,
	.rotation = VQ_ROTATION_HADAMARD};
	VqGpuInterface interface;
	VqGpuError	error;

	if (argc < 4 || argc % 2 != 0)
	{
		fprintf(stderr, "usage: %s LIBRARY IN.fvecs OUT.model [options]; they are described in gpu_train.c\n", argv[0]);
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
		else if (strcmp(argv[i], "--iterations") == 0)
			options.iterations = strtoul(value, NULL, 10);
		else if (strcmp(argv[i], "--metric") == 0)
			options.metric = (VqMetric) choose(value, metrics);
		else if (strcmp(argv[i], "--rotation") == 0)
			options.rotation = (VqRotation) choose(value, rotations);
		else if (strcmp(argv[i], "--products") == 0)
			options.products = (VqGpuProducts) choose(value, kinds);
		else
			die("is no option", argv[i]);
	}
	if (options.nlists < 1)
		die("needs at least one list", argv[0]);
	data_must(vq_gpu_load(argv[1], &interface, &error), &error, "load");
	train(&interface, &options);
	return 0;
}
