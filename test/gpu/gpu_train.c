/*-------------------------------------------------------------------------
 *
 * gpu_train.c
 *	  Train a model, and write it to a file.
 *
 *		gpu_train LIBRARY IN OUT.model [--lists N] [--m N] [--nbits 4|8]
 *				  [--metric l2|ip|cosine] [--rotation hadamard|none]
 *				  [--rows N] [--products auto|f32|tf32|bf16] [--projection no|yes]
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
 * With --projection, codes are of the directions in which residuals vary most, as
 * many as vq_codec_init says, by the server's rule (ivfpq_project.c).  The
 * eigenvectors are found by Jacobi's method here, which needs no library and
 * for more than 500 dimensions a minute or more; and errors are not scaled.
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
#define COVARIANCE_ROWS_PER_DIMENSION 32

/* Of Jacobi's method; it has done enough when what is off the diagonal is less than that part */
#define MAX_SWEEPS 30
#define SMALLEST_PART 1e-12

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
	bool		is_projected;
} Options;

/* Mean and scale as vq_codec.h defines them, and all rows to model space; returns how many have a place there */
static size_t
to_model_space(GpuModel *model, float *rows, size_t nrows)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");
	VqCodec    *codec = &model->codec;
	float	   *mean = model->mean;
	size_t		dim = codec->dim;
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

/*----------
 * Projection
 *----------
 */

/* Sums of the products of all pairs of values of directions of residuals of the sample's first rows, double[dim][dim] */
static double *
residual_products(const VqGpuInterface *interface, VqGpu *gpu, const GpuModel *model, const float *rows, size_t nrows)
{
	size_t		dim = model->codec.dim;
	uint32_t   *labels = data_alloc(nrows, sizeof(uint32_t));
	float	   *residual = data_alloc(dim, sizeof(float));
	double	   *sums = data_alloc(dim * dim, sizeof(double));
	VqGpuError	error;

	data_must(interface->kmeans_step(gpu, 0, nrows, model->centroids, model->nlists, NULL, labels, NULL, &error),
			  &error, "kmeans_step");
	for (size_t i = 0; i < nrows; i++)
	{
		for (size_t d = 0; d < dim; d++)
			residual[d] = rows[i * dim + d] - model->centroids[labels[i] * dim + d];
		vq_codec_direction(vq_kernels_by_name("auto"), residual, dim);
		for (size_t d = 0; d < dim; d++)
			for (size_t e = 0; e < dim; e++)
				sums[d * dim + e] += (double) residual[d] * residual[e];
	}
	free(labels);
	free(residual);
	return sums;
}

/* Turn rows p and q of a matrix of n columns by the angle of that cosine and sine */
static void
turn(double *matrix, size_t n, size_t p, size_t q, double cosine, double sine)
{
	for (size_t i = 0; i < n; i++)
	{
		double		x = matrix[p * n + i];
		double		y = matrix[q * n + i];

		matrix[p * n + i] = cosine * x - sine * y;
		matrix[q * n + i] = sine * x + cosine * y;
	}
}

/* Make element (p, q) of a zero */
static void
turn_away(double *a, size_t n, size_t p, size_t q, double *vectors)
{
	double		ratio = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
	double		tangent = copysign(1, ratio) / (fabs(ratio) + sqrt(ratio * ratio + 1));
	double		cosine = 1 / sqrt(tangent * tangent + 1);
	double		sine = tangent * cosine;

	/* From both sides: rows, then columns */
	turn(a, n, p, q, cosine, sine);
	for (size_t i = 0; i < n; i++)
	{
		double		x = a[i * n + p];
		double		y = a[i * n + q];

		a[i * n + p] = cosine * x - sine * y;
		a[i * n + q] = sine * x + cosine * y;
	}
	turn(vectors, n, p, q, cosine, sine);
}

/* The diagonal of a := eigenvalues, rows of vectors := their eigenvectors; both double[n][n], a is symmetric */
static void
find_eigenvectors(double *a, size_t n, double *vectors)
{
	double		trace = 0;
	double		rest = INFINITY;

	memset(vectors, 0, n * n * sizeof(double));
	for (size_t i = 0; i < n; i++)
	{
		vectors[i * n + i] = 1;
		trace += a[i * n + i];
	}
	for (int sweep = 0; sweep < MAX_SWEEPS && rest > SMALLEST_PART * trace; sweep++)
	{
		rest = 0;
		for (size_t p = 0; p < n; p++)
			for (size_t q = p + 1; q < n; q++)
			{
				double		off = fabs(a[p * n + q]);

				rest = fmax(rest, off);
				if (off > SMALLEST_PART * trace)
					turn_away(a, n, p, q, vectors);
			}
	}
}

/* A variance and its direction */
typedef struct Variance
{
	double		value;
	size_t		row;			/* of the eigenvectors */
} Variance;

static int
compare_variances(const void *a, const void *b)
{
	const Variance *x = a;
	const Variance *y = b;

	return (x->value < y->value) - (x->value > y->value);
}

static void
train_projection(const VqGpuInterface *interface, VqGpu *gpu, GpuModel *model, const float *rows, size_t nrows)
{
	const VqPq *pq = &model->codec.pq;
	size_t		dim = model->codec.dim;
	size_t		wanted = COVARIANCE_ROWS_PER_DIMENSION * dim;
	double	   *products = residual_products(interface, gpu, model, rows, nrows < wanted ? nrows : wanted);
	double	   *eigenvectors = data_alloc(dim * dim, sizeof(double));
	Variance   *sorted = data_alloc(dim, sizeof(Variance));
	float	   *vectors = data_alloc(pq->dim * dim, sizeof(float));
	float	   *directions = data_alloc(pq->dim * dim, sizeof(float));
	float	   *work = data_alloc(vq_project_arrange_floats(pq->m, pq->dsub), sizeof(float));

	find_eigenvectors(products, dim, eigenvectors);
	for (size_t i = 0; i < dim; i++)
		sorted[i] = (Variance) {.value = products[i * dim + i],.row = i};
	qsort(sorted, dim, sizeof(Variance), compare_variances);
	for (size_t i = 0; i < pq->dim; i++)
		for (size_t d = 0; d < dim; d++)
			vectors[i * dim + d] = (float) eigenvectors[sorted[i].row * dim + d];
	vq_project_arrange(vq_kernels_by_name("auto"), SEED, vectors, dim, pq->m, pq->dsub, work, directions);
	vq_project_pack(directions, dim, pq->dim, model->image);
	model_open_projection(model);
	free(products);
	free(eigenvectors);
	free(sorted);
	free(vectors);
	free(directions);
	free(work);
}

/*----------
 * Model
 *----------
 */

/* Of 4 bits for two dimensions, or 8 for four; with a projection half as many */
static size_t
default_m(const Options *options, size_t dim)
{
	size_t		m = (dim + 1) / (options->nbits == 8 ? 4 : 2);

	return options->is_projected && m > 1 ? m / 2 : m;
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
	if (vq_codec_init(&model.codec, dim, options->m > 0 ? options->m : default_m(options, dim), options->nbits,
					  options->is_projected) != VQ_OK)
		data_die(options->in, "--m and --nbits do not fit the vectors");
	model.codec.metric = options->metric;
	model.codec.rotation = options->rotation;
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
	if (options->is_projected)
		train_projection(interface, gpu, &model, rows, nrows);
	data_must(interface->pq_train(gpu, pq, options->is_projected ? &model.codec.projection : NULL, model.centroids,
								  model.nlists, ntrain, CODEBOOK_ITERATIONS, SEED, model.codebook, &mse, &error),
			  &error, "pq_train");
	printf("%s: %zu rows of %zu dimensions, %zu lists, %u x %u bits of %u dimensions: %.3f s, %zu steps; "
		   "mean squared distance %.6f, of codes %.6f\n",
		   interface->describe(gpu), nrows, dim, model.nlists, pq->m, pq->nbits, pq->dim, data_now() - start,
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
	static const char *const answers[] = {"no", "yes", NULL};
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
		else if (strcmp(argv[i], "--projection") == 0)
			options.is_projected = choose(value, answers) == 1;
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
