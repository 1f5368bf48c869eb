/*-------------------------------------------------------------------------
 *
 * gpu_check.c
 *	  Does the GPU plug-in compute what src/kernels computes?
 *
 *		gpu_check LIBRARY [--small | --sanitized] [--device N] [--part I/N]
 *
 * Every function of the interface, over odd and usual sizes, for every kind of
 * products that the device has.  Where rounding may decide (which of two
 * centroids is nearer, which of two codes) another answer than the CPU's counts
 * as right if it is as good within the stated rounding, by distances in double.
 * --small leaves out the large sizes, and --sanitized more, for tools that slow everything down.
 * --part 0/4 checks a fourth of it, so that four processes share the work, most of
 * which is the CPU's; what takes the least comes first.
 *
 * The last line says "N passed, M failed"; the exit status is 0 if none failed.
 *
 *-------------------------------------------------------------------------
 */
#define _POSIX_C_SOURCE 200809L /* setenv */

#include "gpu_data.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/vq_codec.h"

#define NITER 6
#define ERROR_SCALE 1.3f		/* of a model with a projection */
#define SEED 1234

static int	npassed;
static int	nfailed;
static int	nbad;				/* checks that failed in the case that runs */
static double case_start;
static char case_name[256];
static bool is_small;
static bool is_sanitized;
static bool is_emulated;		/* whose faults are set by the environment */
static int	wanted_device;
static size_t nused = 1;		/* devices */
static unsigned part;			/* of nparts */
static unsigned nparts = 1;
static const VqKernels *kernels;
static VqGpuInterface gpu_interface;

/* Kinds of products, and how far a squared distance may be from the least, in |x||c| */
static const struct
{
	const char *name;
	VqGpuProducts products;
	double		tolerance;
}			kinds[] = {
	{"f32", VQ_GPU_PRODUCTS_F32, 1e-4},
	{"tf32", VQ_GPU_PRODUCTS_TF32, 1.0 / 128},
	{"bf16", VQ_GPU_PRODUCTS_BF16, 1.0 / 64},
};

#define NKINDS (sizeof(kinds) / sizeof(kinds[0]))

typedef struct Shape
{
	size_t		dim;
	size_t		nrows;
	size_t		nlists;
	size_t		m;
	size_t		nbits;
	bool		is_small;
	bool		is_projected;	/* on as many directions as vq_codec_init says */
} Shape;

static const Shape shapes[] = {
	{1, 1000, 1, 1, 4, true, false},
	{1, 700, 7, 1, 8, false, false},
	{3, 777, 7, 3, 4, true, false},
	{3, 5003, 7, 2, 8, false, false},
	{17, 2001, 33, 5, 4, true, false},
	{17, 999, 33, 17, 8, true, false},
	{40, 300, 3, 1, 8, true, false},	/* a sub-quantiser whose codebook fits no block */
	{64, 100, 300, 16, 4, true, false},	/* fewer rows than lists and than codes */
	{300, 10007, 4096, 150, 4, false, false},
	{300, 5003, 7, 75, 8, false, false},
	{300, 3001, 5000, 20, 8, false, false},	/* more than one tile of centroids */
	{784, 3001, 65, 392, 4, false, false},
	{784, 1501, 1, 49, 8, false, false},
	{1536, 2003, 4096, 96, 8, false, false},
	{1536, 1501, 100, 768, 4, false, false},
	{2000, 600, 5, 3, 4, false, false},	/* sub-quantisers whose codebook fits no block */
	{2000, 600, 5, 3, 8, false, false},
	{1, 1000, 3, 1, 8, true, true}, /* on the only direction there is */
	{3, 777, 7, 1, 4, true, true},	/* 2 directions */
	{17, 2001, 33, 5, 4, true, true},	/* 10 */
	{33, 1400, 5, 4, 8, true, true},	/* 16, the columns of a panel */
	{64, 100, 300, 16, 4, true, true},
	{200, 60, 3, 75, 4, true, true},	/* fewer rows than directions, 150 */
	{300, 10007, 4096, 75, 4, false, true}, /* 150 */
	{300, 5003, 7, 50, 8, false, true},
	{1536, 1003, 4096, 192, 8, false, true},
	{1536, 501, 100, 384, 4, false, true},
};

#define NSHAPES (sizeof(shapes) / sizeof(shapes[0]))

/*----------
 * Cases
 *----------
 */

static void
begin_case(const char *format,...)
{
	va_list		arguments;

	va_start(arguments, format);
	vsnprintf(case_name, sizeof(case_name), format, arguments);
	va_end(arguments);
	nbad = 0;
	case_start = data_now();
}

static void
end_case(void)
{
	if (nbad == 0)
		npassed++;
	else
		nfailed++;
	printf("%-6s %s (%.1f s)\n", nbad == 0 ? "ok" : "FAILED", case_name, data_now() - case_start);
	fflush(stdout);
}

/* Says what is wrong, up to ten times in a case */
static void
check(bool is_right, const char *format,...)
{
	va_list		arguments;

	if (is_right)
		return;
	if (nbad++ < 10)
	{
		printf("	%s: ", case_name);
		va_start(arguments, format);
		vprintf(format, arguments);
		va_end(arguments);
		putchar('\n');
	}
}

static bool
check_status(VqGpuStatus status, VqGpuStatus wanted, const VqGpuError *error, const char *what)
{
	check(status == wanted, "%s: %s instead of %s: %s", what, vq_gpu_status_name(status),
		  vq_gpu_status_name(wanted), error->message);
	return status == wanted;
}

static VqGpu *
open_device(int device, VqGpuProducts products, uint64_t memory_limit)
{
	VqGpuOptions options;
	VqGpuError	error;
	VqGpu	   *gpu;

	memset(&options, 0, sizeof(options));
	options.device = device;
	options.products = products;
	options.memory_limit = memory_limit;
	return check_status(gpu_interface.open(&options, &gpu, &error), VQ_GPU_OK, &error, "open") ? gpu : NULL;
}

static VqGpu *
open_gpu(VqGpuProducts products, uint64_t memory_limit)
{
	return open_device(wanted_device, products, memory_limit);
}

/*----------
 * Reference
 *----------
 */

static double
distance_of(const float *a, const float *b, size_t dim)
{
	double		sum = 0;

	for (size_t d = 0; d < dim; d++)
		sum += ((double) a[d] - b[d]) * ((double) a[d] - b[d]);
	return sum;
}

static double
product_of(const float *a, const float *b, size_t dim)
{
	double		sum = 0;

	for (size_t d = 0; d < dim; d++)
		sum += (double) a[d] * b[d];
	return sum;
}

/* Data of one shape, and what the CPU makes of it */
typedef struct Fixture
{
	Shape		shape;
	VqCodec		codec;			/* its codebook is the CPU's */
	VqPq		pq;
	void	   *image;			/* of the projection; NULL: none */
	float	   *directions;		/* the projection in floats, [dim][pq.dim] */
	float	   *centroids_code; /* [nlists][code_floats], in code space, by the CPU */
	float	   *work;			/* [code_floats] */
	size_t		code_floats;
	size_t		padded_dim;
	float	   *rows;
	float	   *centroids;
	uint32_t   *labels;			/* by the CPU */
	uint32_t   *gpu_labels;
	float	   *gpu_distances;
	VqKmeansSums sums;
	VqKmeansSums gpu_sums;
	float	   *residuals;		/* of those trained on, against the CPU's labels */
	size_t		ntrain;
	float	   *codebook;		/* by the CPU */
	float	   *gpu_codebook;
	double	   *pq_sums;
	uint8_t    *code;			/* [m] */

	/* of reference_code, where it has been asked for: of a row less the centroid of the label, of a centroid */
	double	   *row_codes;		/* [nrows][padded_dim] */
	uint32_t   *row_labels;		/* NO_LABEL: none yet */
	double	   *list_codes;		/* [nlists][padded_dim] */
	bool	   *are_list_codes;
} Fixture;

#define NO_LABEL UINT32_MAX

static void
alloc_sums(VqKmeansSums *sums, size_t ncentroids, size_t dim)
{
	sums->ncentroids = ncentroids;
	sums->dim = dim;
	sums->sums = data_alloc(ncentroids * dim, sizeof(double));
	sums->counts = data_alloc(ncentroids, sizeof(uint64_t));
	sums->error = 0;
}

static void
label_rows(Fixture *fixture)
{
	size_t		dim = fixture->shape.dim;
	size_t		nlists = fixture->shape.nlists;
	float	   *norms = data_alloc(nlists, sizeof(float));
	float	   *work = data_alloc(vq_kmeans_assign_floats(256, nlists), sizeof(float));

	vq_kmeans_norms(kernels, fixture->centroids, nlists, dim, norms);
	for (size_t first = 0; first < fixture->shape.nrows; first += 256)
	{
		size_t		n = fixture->shape.nrows - first < 256 ? fixture->shape.nrows - first : 256;

		vq_kmeans_assign(kernels, &vq_blas_builtin, fixture->rows + first * dim, n, fixture->centroids, norms,
						 nlists, dim, work, fixture->labels + first, NULL);
	}
	free(norms);
	free(work);
}

static void
train_on_cpu(Fixture *fixture)
{
	size_t		dim = fixture->shape.dim;
	float	   *residual = data_alloc(dim, sizeof(float));

	for (size_t i = 0; i < fixture->ntrain; i++)
	{
		size_t		row = (i * fixture->shape.nrows + fixture->ntrain - 1) / fixture->ntrain;
		const float *centroid = fixture->centroids + fixture->labels[row] * dim;

		for (size_t d = 0; d < dim; d++)
			residual[d] = fixture->rows[row * dim + d] - centroid[d];
		vq_codec_direction(kernels, residual, dim);
		vq_codec_to_codes(kernels, &fixture->codec, residual, fixture->work);
		memcpy(fixture->residuals + i * fixture->padded_dim, fixture->work, fixture->padded_dim * sizeof(float));
	}
	free(residual);
	vq_pq_train(kernels, &fixture->pq, fixture->residuals, fixture->ntrain, NITER, SEED,
				fixture->pq_sums, fixture->code, fixture->codebook);
}

/* The projection of a fixture, which has its codec */
static void
open_projection(Fixture *fixture)
{
	size_t		dim = fixture->shape.dim;
	VqProjection *projection = &fixture->codec.projection;
	float	   *unpacked;

	fixture->image = data_projection(dim, fixture->pq.dim, 5, projection);
	fixture->directions = data_alloc(fixture->pq.dim * dim, sizeof(float));
	unpacked = data_alloc(fixture->pq.dim * dim, sizeof(float));
	vq_project_unpack(projection, unpacked);
	for (size_t j = 0; j < fixture->pq.dim; j++)
		for (size_t d = 0; d < dim; d++)
			fixture->directions[d * fixture->pq.dim + j] = unpacked[j * dim + d];
	free(unpacked);
}

/* Centroids to code space, whenever they have changed */
static void
project_centroids(Fixture *fixture)
{
	for (size_t j = 0; j < fixture->shape.nlists; j++)
		vq_codec_to_codes(kernels, &fixture->codec, fixture->centroids + j * fixture->shape.dim,
						  fixture->centroids_code + j * fixture->code_floats);
}

/* are_equal: every row is one of the centroids */
static void
open_fixture(Fixture *fixture, const Shape *shape, bool are_equal)
{
	size_t		dim = shape->dim;

	memset(fixture, 0, sizeof(*fixture));
	fixture->shape = *shape;
	vq_codec_init(&fixture->codec, dim, shape->m, shape->nbits, shape->is_projected);
	fixture->pq = fixture->codec.pq;
	fixture->padded_dim = (size_t) fixture->pq.m * fixture->pq.dsub;
	fixture->code_floats = vq_codec_code_floats(&fixture->codec);
	fixture->work = data_alloc(fixture->code_floats, sizeof(float));
	fixture->centroids_code = data_alloc(shape->nlists * fixture->code_floats, sizeof(float));
	if (shape->is_projected)
		open_projection(fixture);
	fixture->ntrain = shape->nrows < 2500 ? shape->nrows : 2500;
	fixture->rows = data_alloc(shape->nrows * dim, sizeof(float));
	fixture->centroids = data_alloc(shape->nlists * dim, sizeof(float));
	fixture->labels = data_alloc(shape->nrows, sizeof(uint32_t));
	fixture->gpu_labels = data_alloc(shape->nrows, sizeof(uint32_t));
	fixture->gpu_distances = data_alloc(shape->nrows, sizeof(float));
	alloc_sums(&fixture->sums, shape->nlists, dim);
	alloc_sums(&fixture->gpu_sums, shape->nlists, dim);
	fixture->residuals = data_alloc(fixture->ntrain * fixture->padded_dim, sizeof(float));
	fixture->codebook = data_alloc(vq_pq_codebook_floats(&fixture->pq), sizeof(float));
	fixture->gpu_codebook = data_alloc(vq_pq_codebook_floats(&fixture->pq), sizeof(float));
	fixture->pq_sums = data_alloc(vq_pq_sums_doubles(&fixture->pq), sizeof(double));
	fixture->code = data_alloc(fixture->pq.m, 1);
	fixture->row_codes = data_alloc(shape->nrows * fixture->padded_dim, sizeof(double));
	fixture->row_labels = data_alloc(shape->nrows, sizeof(uint32_t));
	memset(fixture->row_labels, 0xFF, shape->nrows * sizeof(uint32_t));
	fixture->list_codes = data_alloc(shape->nlists * fixture->padded_dim, sizeof(double));
	fixture->are_list_codes = data_alloc(shape->nlists, sizeof(bool));
	data_fill(fixture->rows, shape->nrows, dim, 1);
	data_fill(fixture->centroids, shape->nlists, dim, 2);
	for (size_t i = 0; are_equal && i < shape->nrows; i++)
		memcpy(fixture->rows + i * dim, fixture->centroids + i % shape->nlists * dim, dim * sizeof(float));
	label_rows(fixture);
	train_on_cpu(fixture);
	project_centroids(fixture);
	fixture->codec.scale = 1;
	fixture->codec.codebook = fixture->codebook;
}

static void
close_fixture(Fixture *fixture)
{
	free(fixture->image);
	free(fixture->directions);
	free(fixture->centroids_code);
	free(fixture->work);
	free(fixture->rows);
	free(fixture->centroids);
	free(fixture->labels);
	free(fixture->gpu_labels);
	free(fixture->gpu_distances);
	free(fixture->sums.sums);
	free(fixture->sums.counts);
	free(fixture->gpu_sums.sums);
	free(fixture->gpu_sums.counts);
	free(fixture->residuals);
	free(fixture->codebook);
	free(fixture->gpu_codebook);
	free(fixture->pq_sums);
	free(fixture->code);
	free(fixture->row_codes);
	free(fixture->row_labels);
	free(fixture->list_codes);
	free(fixture->are_list_codes);
}

/*----------
 * Steps of k-means
 *----------
 */

/* Labels are the CPU's, or as good; distances are those to them */
static void
check_labels(const Fixture *fixture, const uint32_t *labels, const float *distances, double tolerance)
{
	size_t		dim = fixture->shape.dim;

	for (size_t i = 0; i < fixture->shape.nrows; i++)
	{
		const float *row = fixture->rows + i * dim;
		const float *centroid = fixture->centroids + labels[i] * dim;
		double		least;
		double		found;
		double		scale;

		if (labels[i] >= fixture->shape.nlists)
		{
			check(false, "row %zu: label %u of %zu", i, labels[i], fixture->shape.nlists);
			continue;
		}
		least = distance_of(row, fixture->centroids + fixture->labels[i] * dim, dim);
		found = distance_of(row, centroid, dim);

		/* Products choose the candidates, and distances in float32 between these */
		scale = tolerance * sqrt(product_of(row, row, dim) * product_of(centroid, centroid, dim)) + 1e-6 * least;
		check(found <= least + scale, "row %zu: label %u at %g, the CPU has %u at %g", i,
			  labels[i], found, fixture->labels[i], least);
		check(fabs(distances[i] - found) <= 1e-5 * found + 1e-30, "row %zu: distance %g instead of %g", i,
			  (double) distances[i], found);
	}
}

/* Sums are those of the labels that came with them */
static void
check_sums(Fixture *fixture)
{
	VqKmeansSums *want = &fixture->sums;
	const VqKmeansSums *got = &fixture->gpu_sums;
	size_t		dim = fixture->shape.dim;

	vq_kmeans_clear(want);
	vq_kmeans_accumulate(&vq_kernels_scalar, want, fixture->rows, fixture->shape.nrows, fixture->gpu_labels, fixture->gpu_distances);
	for (size_t j = 0; j < fixture->shape.nlists; j++)
	{
		check(got->counts[j] == want->counts[j], "centroid %zu has %llu rows instead of %llu", j,
			  (unsigned long long) got->counts[j], (unsigned long long) want->counts[j]);
		for (size_t d = 0; d < dim; d++)
		{
			double		difference = fabs(got->sums[j * dim + d] - want->sums[j * dim + d]);

			check(difference <= 1e-13 * (double) (want->counts[j] + 1) * 1e2, "sum %zu of centroid %zu: %.17g instead of %.17g",
				  d, j, got->sums[j * dim + d], want->sums[j * dim + d]);
		}
	}
	check(fabs(got->error - want->error) <= 1e-9 * want->error, "error %.17g instead of %.17g", got->error, want->error);
}

static bool
add_sample(VqGpu *gpu, const Fixture *fixture, size_t *nresident)
{
	size_t		dim = fixture->shape.dim;
	size_t		nrows = fixture->shape.nrows;
	size_t		piece = nrows / 3 + 1;
	VqGpuError	error;

	if (!check_status(gpu_interface.sample_begin(gpu, dim, nrows, fixture->shape.nlists, nresident, &error),
					  VQ_GPU_OK, &error, "sample_begin"))
		return false;
	for (size_t first = 0; first < nrows; first += piece)
		if (!check_status(gpu_interface.sample_add(gpu, fixture->rows + first * dim,
												   nrows - first < piece ? nrows - first : piece, &error),
						  VQ_GPU_OK, &error, "sample_add"))
			return false;
	return true;
}

static bool
step(VqGpu *gpu, Fixture *fixture)
{
	VqGpuError	error;

	memset(fixture->gpu_labels, 0xFF, fixture->shape.nrows * sizeof(uint32_t));
	memset(fixture->gpu_distances, 0xFF, fixture->shape.nrows * sizeof(float));
	return check_status(gpu_interface.kmeans_step(gpu, 0, fixture->shape.nrows, fixture->centroids,
												  fixture->shape.nlists, &fixture->gpu_sums, fixture->gpu_labels,
												  fixture->gpu_distances, &error),
						VQ_GPU_OK, &error, "kmeans_step");
}

static void
check_kmeans(VqGpu *gpu, Fixture *fixture, double tolerance)
{
	size_t		nsums = fixture->shape.nlists * fixture->shape.dim;
	size_t		first = fixture->shape.nrows / 3;
	size_t		n = fixture->shape.nrows / 2;
	uint32_t   *part = data_alloc(n, sizeof(uint32_t));
	VqGpuError	error;

	if (step(gpu, fixture))
	{
		check_labels(fixture, fixture->gpu_labels, fixture->gpu_distances, tolerance);
		check_sums(fixture);
		memcpy(fixture->sums.sums, fixture->gpu_sums.sums, nsums * sizeof(double));
		if (step(gpu, fixture))
			check(memcmp(fixture->sums.sums, fixture->gpu_sums.sums, nsums * sizeof(double)) == 0,
				  "the same step gave other sums");
		if (check_status(gpu_interface.kmeans_step(gpu, first, n, fixture->centroids, fixture->shape.nlists,
												   NULL, part, NULL, &error), VQ_GPU_OK, &error, "part of a step"))
		{
			size_t		nother = 0;

			/* Tiles begin elsewhere, so ties may fall otherwise */
			for (size_t i = 0; i < n; i++)
				nother += part[i] != fixture->gpu_labels[first + i];
			check(nother <= n / 100, "%zu of %zu rows have another label in a step over a part", nother, n);
		}
	}
	free(part);
}

/*----------
 * Codebook
 *----------
 */

static const VqProjection *
projection_of(const Fixture *fixture)
{
	return fixture->codec.is_projected ? &fixture->codec.projection : NULL;
}

static double
error_of(Fixture *fixture, const float *codebook)
{
	memset(fixture->pq_sums, 0, vq_pq_sums_doubles(&fixture->pq) * sizeof(double));
	vq_pq_accumulate(kernels, &fixture->pq, codebook, fixture->residuals, fixture->ntrain, fixture->code,
					 fixture->pq_sums);
	return vq_pq_error(&fixture->pq, fixture->pq_sums);
}

static void
check_codebook(VqGpu *gpu, Fixture *fixture)
{
	size_t		nfloats = vq_pq_codebook_floats(&fixture->pq);
	double		mse = -1;
	double		want;
	double		got;
	VqGpuError	error;

	memset(fixture->gpu_codebook, 0xFF, nfloats * sizeof(float));
	if (!check_status(gpu_interface.pq_train(gpu, &fixture->pq, projection_of(fixture), fixture->centroids,
											 fixture->shape.nlists, fixture->ntrain, NITER, SEED,
											 fixture->gpu_codebook, &mse, &error),
					  VQ_GPU_OK, &error, "pq_train"))
		return;
	for (size_t i = 0; i < nfloats; i++)
		check(isfinite(fixture->gpu_codebook[i]), "number %zu of the codebook is not finite", i);
	want = error_of(fixture, fixture->codebook);
	got = error_of(fixture, fixture->gpu_codebook);
	check(got <= 1.01 * want + 1e-12, "the codebook's error is %g, the CPU's is %g", got, want);
	check(mse * (double) fixture->ntrain >= 0.99 * got - 1e-12 && mse * (double) fixture->ntrain <= 1.1 * got + 1e-12,
		  "said to have an error of %g, has %g", mse * (double) fixture->ntrain, got);
}

/*----------
 * Codes and factors
 *----------
 */

/*
 * Vectors of model space, x less centroid (NULL: zero), to code space in double,
 * double[padded_dim].  The difference is rounded to float, as residuals are.
 */
static void
reference_code(const Fixture *fixture, const float *x, const float *centroid, double *code)
{
	size_t		dim = fixture->shape.dim;

	memset(code, 0, fixture->padded_dim * sizeof(double));
	for (size_t d = 0; d < dim; d++)
	{
		float		r = centroid != NULL ? x[d] - centroid[d] : x[d];

		if (fixture->directions == NULL)
			code[d] = r;
		for (size_t j = 0; j < fixture->pq.dim && fixture->directions != NULL; j++)
			code[j] += (double) fixture->directions[d * fixture->pq.dim + j] * r;
	}
}

/*
 * The same of a row less the centroid of a label, and of that centroid, made once: with a
 * projection they take longer than all else, and each kind of products and metric asks again
 */
static const double *
residual_code_of(Fixture *fixture, size_t row, uint32_t label)
{
	double	   *code = fixture->row_codes + row * fixture->padded_dim;
	size_t		dim = fixture->shape.dim;

	if (fixture->row_labels[row] != label)
		reference_code(fixture, fixture->rows + row * dim, fixture->centroids + label * dim, code);
	fixture->row_labels[row] = label;
	return code;
}

static const double *
centroid_code_of(Fixture *fixture, uint32_t label)
{
	double	   *code = fixture->list_codes + label * fixture->padded_dim;

	if (!fixture->are_list_codes[label])
		reference_code(fixture, fixture->centroids + label * fixture->shape.dim, NULL, code);
	fixture->are_list_codes[label] = true;
	return code;
}

/*
 * The factors of vq_codec.h in double, for the S that was chosen: what A and E
 * may be, given that their products are rounded.  |w|^2 is a difference, so
 * that its rounding is that of its terms.  E is NAN where S is wrong.
 * residual_code and centroid_code are of reference_code.
 */
static void
reference_factors(const Fixture *fixture, VqMetric metric, const float *row, const float *centroid,
				  const double *residual_code, const double *centroid_code, const uint8_t *codes, uint16_t stored_s,
				  double *a_low, double *a_high, double *e_low, double *e_high)
{
	const VqPq *pq = &fixture->pq;
	size_t		dim = fixture->shape.dim;
	bool		is_ip = metric == VQ_METRIC_IP;
	double		numerator = is_ip ? 1 : 2;
	double		rr = 0;
	double		rd = 0;
	double		dd = 0;
	double		cd = 0;
	double		cr = 0;
	double		cc = 0;
	double		cc_code = 0;
	double		s = stored_s / (double) VQ_S_ONE;
	double		slack;
	double		a;

	for (size_t d = 0; d < dim; d++)
	{
		double		r = row[d] - centroid[d];

		rr += r * r;
		cr += centroid[d] * r;
		cc += (double) centroid[d] * centroid[d];
	}
	for (size_t d = 0; d < pq->dim; d++)
	{
		double		decoded = fixture->codebook[d * pq->ksub + codes[d / pq->dsub]];

		rd += residual_code[d] * decoded;
		dd += decoded * decoded;
		cd += centroid_code[d] * decoded;
		cc_code += centroid_code[d] * centroid_code[d];
	}
	a = rr > 0 ? rd / rr : 0;
	slack = 4e-6 * ((is_ip ? sqrt(cc * rr) : rr) + s * sqrt(cc_code * dd)) + 1e-30;
	*a_high = (is_ip ? -cr : rr) + s * cd + slack / 8;
	*a_low = *a_high - slack;
	*e_low = numerator * sqrt(rr) * (1 - 1e-5);
	*e_high = numerator * sqrt(rr) * (1 + 1e-5);
	if (stored_s > 0)
	{
		double		exact = numerator / a;
		double		rounding = fabs(s - exact);
		double		unsure = 2e-6 * exact;
		double		root = sqrt(dim > 1 ? (double) dim - 1 : 1) / fixture->codec.error_scale;
		double		w = dd - a * rd > 0 ? dd - a * rd : 0;
		double		blur = 5 * FLT_EPSILON * dd;
		double		margin = 8 * FLT_EPSILON + (fixture->codec.is_projected ? fixture->codec.projection.defect : 0);
		double		less;
		double		more;

		/* The CPU subtracts projections, whose errors are of the lengths of row and centroid */
		if (fixture->codec.is_projected)
		{
			double		part = 2 * FLT_EPSILON * (sqrt(product_of(row, row, dim)) + sqrt(cc)) / sqrt(rr);

			blur += part * dd;
			unsure += part * exact;
		}
		less = fmax(0, w + margin * dd - blur);
		more = w + margin * dd + blur;
		*e_low = (exact - unsure) * sqrt(less) / root + (rounding - unsure) * a * sqrt(rr);
		*e_high = (exact + rounding + unsure) * sqrt(more) / root + (rounding + unsure) * a * sqrt(rr);
		if (rounding > 0.51 / VQ_S_ONE + unsure)
			*e_low = *e_high = NAN;
	}
}

/* E has 3 bits of mantissa and is rounded up */
static bool
is_packed_e(uint8_t packed, double e_low, double e_high)
{
	double		value = vq_codec_unpack_e(packed);

	return value >= e_low && value <= e_high * 1.125 + 3.0 / (1 << 26);
}

static void
check_batch(Fixture *fixture, VqMetric metric, const VqGpuBatch *batch, size_t first)
{
	const VqPq *pq = &fixture->pq;
	size_t		dim = fixture->shape.dim;
	VqCodec    *codec = &fixture->codec;
	float	   *work = data_alloc(vq_codec_encode_floats(codec), sizeof(float));
	size_t		nother_choices = 0;

	codec->metric = metric;

	for (size_t i = 0; i < batch->nrows; i++)
	{
		const float *row = fixture->rows + (first + i) * dim;
		const float *centroid = fixture->centroids + batch->labels[i] * dim;
		const uint8_t *codes = batch->codes + i * pq->m;
		const VqFactors *factors = batch->factors + i;
		const double *residual_code;
		const double *centroid_code;
		VqFactors	want;
		double		a_low;
		double		a_high;
		double		e_low;
		double		e_high;
		double		norm;
		double		size_sq = codec->is_projected ? 1 : 0;

		if (batch->labels[i] >= fixture->shape.nlists)
			continue;
		vq_codec_to_codes(kernels, codec, row, fixture->work);
		vq_codec_encode(kernels, codec, row, centroid, fixture->work,
						fixture->centroids_code + batch->labels[i] * fixture->code_floats, work, fixture->code, &want);
		residual_code = residual_code_of(fixture, first + i, batch->labels[i]);
		centroid_code = centroid_code_of(fixture, batch->labels[i]);

		/* Codes are of the residual's direction, which projected has errors of the length of the whole one */
		norm = sqrt(distance_of(row, centroid, dim));
		for (size_t j = 0; j < pq->m; j++)
		{
			double		got = 0;
			double		least = 0;

			for (size_t t = 0; t < pq->dsub; t++)
			{
				const float *column = fixture->codebook + (j * pq->dsub + t) * pq->ksub;
				double		r = norm > 0 ? residual_code[j * pq->dsub + t] / norm : 0;

				got += (r - column[codes[j]]) * (r - column[codes[j]]);
				least += (r - column[fixture->code[j]]) * (r - column[fixture->code[j]]);
			}
			check(got <= least * (1 + 1e-5) + 1e-6 * sqrt(least * size_sq) + 1e-12 * (1 + size_sq),
				  "row %zu: code %zu is %u at %g, the CPU has %u at %g", first + i, j, codes[j], got,
				  fixture->code[j], least);
		}
		if (isinf(want.a) || isinf(factors->a))
		{
			check(want.a == factors->a && want.s == factors->s && want.e == factors->e,
				  "row %zu: always compared exactly, or not", first + i);
			continue;
		}
		reference_factors(fixture, metric, row, centroid, residual_code, centroid_code, codes, factors->s,
						  &a_low, &a_high, &e_low, &e_high);
		check(factors->a >= a_low && factors->a <= a_high, "row %zu: A is %.9g, not in %.9g to %.9g", first + i,
			  (double) factors->a, a_low, a_high);
		check(is_packed_e(factors->e, e_low, e_high),
			  "row %zu: S is %u and E is %u = %g for %g to %g; the CPU has %u and %u", first + i, factors->s,
			  factors->e, (double) vq_codec_unpack_e(factors->e), e_low, e_high, want.s, want.e);
		nother_choices += (want.s == 0) != (factors->s == 0);
	}
	check(nother_choices <= batch->nrows / 200 + 1, "%zu of %zu rows use the sphere instead of the code, or the reverse",
		  nother_choices, batch->nrows);
	free(work);
}

static void
check_encoding(VqGpu *gpu, Fixture *fixture, VqMetric metric, double tolerance)
{
	size_t		dim = fixture->shape.dim;
	VqGpuModel	model = {
		.metric = metric,
		.dim = dim,
		.pq = fixture->pq,
		.projection = projection_of(fixture),
		.error_scale = fixture->codec.error_scale,
		.ncentroids = fixture->shape.nlists,
		.centroids = fixture->centroids,
		.codebook = fixture->codebook
	};
	size_t		nrows = fixture->shape.nrows;
	size_t		batch_rows = nrows > 997 ? 997 : nrows / 2 + 1;
	size_t		first = 0;
	size_t		collected = 0;
	VqGpuError	error;

	if (!check_status(gpu_interface.encode_begin(gpu, &model, batch_rows, &error), VQ_GPU_OK, &error, "encode_begin"))
		return;
	while (collected < nrows)
	{
		VqGpuBatch *batch = NULL;

		if (first < nrows &&
			!check_status(gpu_interface.encode_acquire(gpu, &batch, &error), VQ_GPU_OK, &error, "encode_acquire"))
			return;
		if (batch != NULL)
		{
			/* The last batch of a run is a short one, and so is every third */
			batch->nrows = first / batch_rows % 3 == 2 ? 100 : batch->capacity;
			batch->nrows = batch->nrows < batch->capacity ? batch->nrows : batch->capacity;
			batch->nrows = batch->nrows < nrows - first ? batch->nrows : nrows - first;
			batch->tag = fixture->rows + first * dim;
			for (size_t i = 0; i < batch->nrows; i++)
				memcpy(batch->rows + i * batch->stride, fixture->rows + (first + i) * dim, dim * sizeof(float));
			first += batch->nrows;
			if (!check_status(gpu_interface.encode_submit(gpu, batch, &error), VQ_GPU_OK, &error, "encode_submit"))
				return;
			continue;
		}
		if (!check_status(gpu_interface.encode_collect(gpu, &batch, &error), VQ_GPU_OK, &error, "encode_collect"))
			return;
		check(batch != NULL && batch->tag == fixture->rows + collected * dim, "batches came back in another order");
		if (batch == NULL)
			return;
		memcpy(fixture->gpu_labels + collected, batch->labels, batch->nrows * sizeof(uint32_t));
		memcpy(fixture->gpu_distances + collected, batch->distances, batch->nrows * sizeof(float));
		check_batch(fixture, metric, batch, collected);
		collected += batch->nrows;
		gpu_interface.encode_release(gpu, batch);
	}
	check_labels(fixture, fixture->gpu_labels, fixture->gpu_distances, tolerance);
	gpu_interface.encode_end(gpu);
}

/*----------
 * All of it, for a shape
 *----------
 */

static void
check_shape(const Shape *shape, bool are_equal)
{
	Fixture		fixture;

	open_fixture(&fixture, shape, are_equal);
	if (shape->is_projected)
		fixture.codec.error_scale = ERROR_SCALE;
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		size_t		nresident;
		VqGpu	   *gpu;

		/* A device without one of them refuses; that is tested in check_refusals */
		if (kinds[kind].products != VQ_GPU_PRODUCTS_F32)
		{
			VqGpuOptions options;
			VqGpuError	error;

			memset(&options, 0, sizeof(options));
			options.device = wanted_device;
			options.products = kinds[kind].products;
			if (gpu_interface.open(&options, &gpu, &error) == VQ_GPU_BAD_ARGUMENT)
			{
				printf("skip   %s: %s\n", kinds[kind].name, error.message);
				continue;
			}
			gpu_interface.close(gpu);
		}
		begin_case("%zu x %zu, %zu lists, m %zu x %zu bits of %u%s, %s", shape->nrows, shape->dim, shape->nlists,
				   shape->m, shape->nbits, fixture.pq.dim, are_equal ? ", no residuals" : "", kinds[kind].name);
		gpu = open_gpu(kinds[kind].products, 0);
		if (gpu != NULL && add_sample(gpu, &fixture, &nresident))
		{
			check_kmeans(gpu, &fixture, kinds[kind].tolerance);
			check_codebook(gpu, &fixture);
			check_encoding(gpu, &fixture, VQ_METRIC_L2, kinds[kind].tolerance);
			check_encoding(gpu, &fixture, VQ_METRIC_IP, kinds[kind].tolerance);
			if (shape->is_projected)
				check_encoding(gpu, &fixture, VQ_METRIC_COSINE, kinds[kind].tolerance);
		}
		gpu_interface.close(gpu);
		end_case();
	}
	close_fixture(&fixture);
}

/*----------
 * A sample larger than the memory
 *----------
 */

static void
check_streaming(bool is_projected)
{
	size_t		rows_per_device = is_sanitized ? 6007 : 30011;
	Shape		shape = {300, rows_per_device * nused, 16, 75, 4, true, is_projected};
	uint64_t	limit = (uint64_t) (is_sanitized ? 10 : 28) << 20;
	Fixture		fixture;
	size_t		nresident = 0;
	VqGpu	   *gpu;

	open_fixture(&fixture, &shape, false);
	begin_case("a sample of %zu MB in %zu x %zu MB of memory, codes of %u dimensions",
			   shape.nrows * shape.dim * sizeof(float) >> 20, nused, (size_t) (limit >> 20), fixture.pq.dim);
	gpu = open_gpu(VQ_GPU_PRODUCTS_F32, limit);
	if (gpu != NULL && add_sample(gpu, &fixture, &nresident))
	{
		check(nresident < shape.nrows, "all rows are resident");
		check_kmeans(gpu, &fixture, kinds[0].tolerance);
		check_codebook(gpu, &fixture);
	}
	gpu_interface.close(gpu);
	end_case();
	close_fixture(&fixture);
}

/* What a plan of memory says is what is taken: batches get smaller where it is little, and never fail where there is more */
static void
check_memory(bool is_projected)
{
	Shape		shape = {64, 2000, 100, 32, 4, true, is_projected};
	Fixture		fixture;
	bool		has_fitted = false;

	open_fixture(&fixture, &shape, false);
	begin_case("batches that fit into less memory fit into more, %s projection", is_projected ? "with a" : "no");
	for (uint64_t limit = 14000000; limit < 26000000; limit += is_sanitized ? 2000000 : 100000)
	{
		VqGpuModel	model = {
			.metric = VQ_METRIC_L2,
			.dim = shape.dim,
			.pq = fixture.pq,
			.projection = projection_of(&fixture),
			.error_scale = fixture.codec.error_scale,
			.ncentroids = shape.nlists,
			.centroids = fixture.centroids,
			.codebook = fixture.codebook
		};
		VqGpu	   *gpu = open_gpu(VQ_GPU_PRODUCTS_F32, limit);
		VqGpuError	error;

		if (gpu == NULL)
			break;
		if (gpu_interface.encode_begin(gpu, &model, 32768, &error) == VQ_GPU_OK)
			has_fitted = true;
		else
			check(!has_fitted, "not into %zu kB: %s", (size_t) (limit / 1000), error.message);
		gpu_interface.close(gpu);
	}
	check(has_fitted, "not into any");
	end_case();
	close_fixture(&fixture);
}

/*----------
 * Values
 *----------
 */

/* Rows of very different lengths, among them zero; the longest that model space allows */
static void
check_magnitudes(bool is_projected)
{
	static const float magnitudes[] = {0, 1e-30f, 1e-12f, 1e-3f, 1, 1e3f, 1e9f, 1e12f};
	Shape		shape = {33, 800, 5, 11, 4, true, is_projected};
	Fixture		fixture;
	size_t		nresident;
	VqGpu	   *gpu;

	open_fixture(&fixture, &shape, false);
	for (size_t i = 0; i < shape.nrows; i++)
		for (size_t d = 0; d < shape.dim; d++)
			fixture.rows[i * shape.dim + d] *= magnitudes[i % 8];
	memset(fixture.centroids, 0, shape.dim * sizeof(float));
	label_rows(&fixture);
	project_centroids(&fixture);
	begin_case("rows of lengths 0 to 1e12, codes of %u dimensions", fixture.pq.dim);
	gpu = open_gpu(VQ_GPU_PRODUCTS_F32, 0);
	if (gpu != NULL && add_sample(gpu, &fixture, &nresident) && step(gpu, &fixture))
	{
		check_labels(&fixture, fixture.gpu_labels, fixture.gpu_distances, 1e-5);
		check_encoding(gpu, &fixture, VQ_METRIC_L2, 1e-5);
		check_encoding(gpu, &fixture, VQ_METRIC_IP, 1e-5);
	}
	gpu_interface.close(gpu);
	end_case();
	close_fixture(&fixture);
}

/* Two centroids that are the same: the lower one */
static void
check_ties(void)
{
	Shape		shape = {48, 500, 500, 12, 4, true, false};
	Fixture		fixture;
	size_t		nresident;
	VqGpu	   *gpu;

	open_fixture(&fixture, &shape, true);
	memcpy(fixture.centroids + 250 * shape.dim, fixture.centroids, 250 * shape.dim * sizeof(float));
	begin_case("of equal centroids the lowest is taken");
	gpu = open_gpu(VQ_GPU_PRODUCTS_AUTO, 0);
	if (gpu != NULL && add_sample(gpu, &fixture, &nresident) && step(gpu, &fixture))
		for (size_t i = 0; i < 250; i++)
			check(fixture.gpu_labels[i] == i && fixture.gpu_distances[i] == 0, "row %zu: label %u at %g", i,
				  fixture.gpu_labels[i], (double) fixture.gpu_distances[i]);
	gpu_interface.close(gpu);
	end_case();
	close_fixture(&fixture);
}

/*----------
 * Refusals
 *----------
 */

static bool
always_stop(void *arg)
{
	++*(int *) arg;
	return true;
}

/* Parts of a model that are not for each other; the fixture has no projection, and its sample is there */
static void
check_refused_projections(VqGpu *gpu, Fixture *fixture)
{
	size_t		dim = fixture->shape.dim;
	size_t		nlists = fixture->shape.nlists;
	VqProjection narrow;
	VqProjection other;
	void	   *narrow_image = data_projection(dim, dim / 2, 1, &narrow);
	void	   *other_image = data_projection(dim + 1, dim, 1, &other);
	VqGpuModel	model = {
		.metric = VQ_METRIC_L2,
		.dim = dim,
		.pq = fixture->pq,
		.projection = &narrow,
		.error_scale = 1,
		.ncentroids = nlists,
		.centroids = fixture->centroids,
		.codebook = fixture->codebook
	};
	VqGpuError	error;

	check_status(gpu_interface.pq_train(gpu, &fixture->pq, &narrow, fixture->centroids, nlists, 100, 1, SEED,
										fixture->gpu_codebook, NULL, &error),
				 VQ_GPU_BAD_ARGUMENT, &error, "a codebook for more dimensions than there are directions");
	check_status(gpu_interface.pq_train(gpu, &fixture->pq, &other, fixture->centroids, nlists, 100, 1, SEED,
										fixture->gpu_codebook, NULL, &error),
				 VQ_GPU_BAD_ARGUMENT, &error, "a projection of other vectors");
	check_status(gpu_interface.encode_begin(gpu, &model, 100, &error), VQ_GPU_BAD_ARGUMENT, &error,
				 "codes of more dimensions than there are directions");
	model.projection = &other;
	check_status(gpu_interface.encode_begin(gpu, &model, 100, &error), VQ_GPU_BAD_ARGUMENT, &error,
				 "a model with a projection of other vectors");
	model.projection = NULL;
	model.dim = dim + 1;
	check_status(gpu_interface.encode_begin(gpu, &model, 100, &error), VQ_GPU_BAD_ARGUMENT, &error,
				 "codes of other vectors");
	model.dim = dim;
	model.error_scale = 0;
	check_status(gpu_interface.encode_begin(gpu, &model, 100, &error), VQ_GPU_BAD_ARGUMENT, &error,
				 "errors times zero");
	free(narrow_image);
	free(other_image);
}

/* After an error: a handle that is opened anew */
static void
check_works_again(Fixture *fixture)
{
	VqGpu	   *gpu = open_gpu(VQ_GPU_PRODUCTS_AUTO, 0);
	size_t		nresident;

	if (gpu != NULL && add_sample(gpu, fixture, &nresident))
		check_kmeans(gpu, fixture, kinds[1].tolerance);
	gpu_interface.close(gpu);
}

static void
check_refusals(void)
{
	Shape		shape = {20, 500, 10, 5, 4, true, false};
	VqGpuOptions options;
	VqGpuError	error;
	VqGpu	   *gpu;
	Fixture		fixture;
	size_t		nresident;
	int			asked = 0;

	open_fixture(&fixture, &shape, false);
	memset(&options, 0, sizeof(options));

	begin_case("a device that is not there is refused");
	options.device = 999;
	check_status(gpu_interface.open(&options, &gpu, &error), VQ_GPU_NO_DEVICE, &error, "open");
	check(gpu == NULL && strstr(error.message, "999") != NULL, "the reason is \"%s\"", error.message);
	end_case();

	begin_case("bad arguments lose nothing");
	gpu = open_gpu(VQ_GPU_PRODUCTS_AUTO, 0);
	if (gpu != NULL)
	{
		check_status(gpu_interface.sample_add(gpu, fixture.rows, 1, &error), VQ_GPU_BAD_ARGUMENT, &error,
					 "rows without a sample");
		check_status(gpu_interface.sample_begin(gpu, 0, 10, 10, &nresident, &error), VQ_GPU_BAD_ARGUMENT, &error,
					 "no dimensions");
		if (add_sample(gpu, &fixture, &nresident))
		{
			check_status(gpu_interface.sample_add(gpu, fixture.rows, 1, &error), VQ_GPU_BAD_ARGUMENT, &error,
						 "one row too many");
			check_status(gpu_interface.kmeans_step(gpu, 499, 2, fixture.centroids, 10, NULL, NULL, NULL, &error),
						 VQ_GPU_BAD_ARGUMENT, &error, "a step over the end");
			check_refused_projections(gpu, &fixture);
			check_kmeans(gpu, &fixture, kinds[1].tolerance);
		}
	}
	gpu_interface.close(gpu);
	end_case();

	begin_case("devices can be listed while one is open");
	options.device = wanted_device;
	if (check_status(gpu_interface.open(&options, &gpu, &error), VQ_GPU_OK, &error, "open"))
	{
		if (add_sample(gpu, &fixture, &nresident))
		{
			VqGpuDevice devices[16];
			size_t		ndevices;

			check_status(gpu_interface.devices(devices, 16, &ndevices, &error), VQ_GPU_OK, &error, "devices");
			check(ndevices > 0 && devices[0].free_bytes > 0 && devices[0].free_bytes <= devices[0].total_bytes,
				  "%zu devices", ndevices);
			check_kmeans(gpu, &fixture, kinds[1].tolerance);
		}
		gpu_interface.close(gpu);
	}
	end_case();

	begin_case("a request to stop is heard, and the device is given back");
	options.device = wanted_device;
	options.should_stop = always_stop;
	options.should_stop_arg = &asked;
	if (check_status(gpu_interface.open(&options, &gpu, &error), VQ_GPU_OK, &error, "open"))
	{
		VqGpuStatus status = gpu_interface.sample_begin(gpu, 20, 500, 10, &nresident, &error);

		if (status == VQ_GPU_OK)
			status = gpu_interface.sample_add(gpu, fixture.rows, 500, &error);
		if (status == VQ_GPU_OK)
			status = gpu_interface.kmeans_step(gpu, 0, 500, fixture.centroids, 10, NULL, fixture.gpu_labels, NULL, &error);
		check_status(status, VQ_GPU_STOPPED, &error, "a stopped run");
		check(asked > 0, "it was never asked");
		check_status(gpu_interface.sample_begin(gpu, 20, 500, 10, &nresident, &error), VQ_GPU_FAILED, &error,
					 "after that");
		gpu_interface.close(gpu);
	}
	end_case();

	begin_case("too little memory is reported, and the next try works");
	gpu = open_gpu(VQ_GPU_PRODUCTS_AUTO, (uint64_t) 1 << 20);
	if (gpu != NULL && strcmp(gpu_interface.name, "double") != 0)
		check_status(gpu_interface.sample_begin(gpu, 4000, 100, 10000, &nresident, &error), VQ_GPU_NO_MEMORY, &error,
					 "a sample in 1 MB");
	gpu_interface.close(gpu);
	check_works_again(&fixture);
	end_case();
	close_fixture(&fixture);
}

/*----------
 * Faults, of the emulator only
 *----------
 */

static void
set_number(const char *name, size_t number)
{
	char		text[32];

	snprintf(text, sizeof(text), "%zu", number);
	setenv(name, text, 1);
}

/* No other handle is open, which would keep the context */
static void
check_lost_device(void)
{
	Shape		shape = {20, 500, 10, 5, 4, true, false};
	Fixture		fixture;
	VqGpuOptions options;
	VqGpuError	error;
	VqGpu	   *gpu;
	size_t		nresident;
	size_t		noperations;
	bool		is_done = false;

	open_fixture(&fixture, &shape, false);
	memset(&options, 0, sizeof(options));
	options.device = wanted_device;
	begin_case("a device that is lost is reset, and can be opened again");
	for (noperations = 0; !is_done && noperations < 1000; noperations++)
	{
		VqGpuStatus status;

		if (!check_status(gpu_interface.open(&options, &gpu, &error), VQ_GPU_OK, &error, "open"))
			break;
		set_number("EMULATED_LOST_AFTER", noperations);
		status = gpu_interface.sample_begin(gpu, shape.dim, shape.nrows, shape.nlists, &nresident, &error);
		if (status == VQ_GPU_OK)
			status = gpu_interface.sample_add(gpu, fixture.rows, shape.nrows, &error);
		if (status == VQ_GPU_OK)
			status = gpu_interface.kmeans_step(gpu, 0, shape.nrows, fixture.centroids, shape.nlists, &fixture.gpu_sums,
											   NULL, NULL, &error);
		unsetenv("EMULATED_LOST_AFTER");
		is_done = status == VQ_GPU_OK;
		check(is_done || (status == VQ_GPU_FAILED && strstr(error.message, "illegal") != NULL),
			  "after %zu operations: %s, \"%s\"", noperations, vq_gpu_status_name(status), error.message);
		gpu_interface.close(gpu);
	}
	check(is_done && noperations > 10, "%zu operations", noperations);
	check_works_again(&fixture);
	end_case();
	close_fixture(&fixture);
}

/* Others take memory when the device is open already; is_known: it can be seen that they have */
static void
check_taken_memory(bool is_known)
{
	Shape		shape = {300, 60013, 16, 75, 4, true, false};
	const size_t reserve_mb = 256;
	const size_t chunk_mb = 64;
	VqGpuDevice device;
	size_t		ndevices;
	size_t		nresident = 0;
	VqGpuError	error;
	Fixture		fixture;
	VqGpu	   *gpu;

	open_fixture(&fixture, &shape, false);
	begin_case("where others have taken memory, %s, a sample is streamed", is_known ? "which can be seen" : "unseen");
	gpu = open_device(0, VQ_GPU_PRODUCTS_F32, 0);
	if (gpu != NULL && check_status(gpu_interface.devices(&device, 1, &ndevices, &error), VQ_GPU_OK, &error, "devices"))
	{
		if (is_known)
			set_number("EMULATED_TAKEN_MB", (size_t) (device.total_bytes >> 20) - reserve_mb - 28);
		else
			set_number("EMULATED_LARGEST_MB", chunk_mb + 1);
		if (add_sample(gpu, &fixture, &nresident))
		{
			check(nresident > 0 && nresident < shape.nrows, "%zu of %zu rows are resident", nresident, shape.nrows);
			check_kmeans(gpu, &fixture, kinds[0].tolerance);
			check_codebook(gpu, &fixture);
		}
		unsetenv("EMULATED_TAKEN_MB");
		unsetenv("EMULATED_LARGEST_MB");
	}
	gpu_interface.close(gpu);
	end_case();
	close_fixture(&fixture);
}

/* A further device, which does not answer */
static void
check_broken_device(void)
{
	const char *ndevices_before = getenv("EMULATED_DEVICES");
	size_t		broken = ndevices_before != NULL ? (size_t) atoi(ndevices_before) : 1;
	VqGpuDevice devices[16];
	size_t		ndevices = 0;
	VqGpuOptions options;
	VqGpuError	error;
	VqGpu	   *gpu;

	memset(&options, 0, sizeof(options));
	set_number("EMULATED_DEVICES", broken + 1);
	set_number("EMULATED_BROKEN_DEVICE", broken);
	begin_case("a device that does not answer is listed and left out");
	if (check_status(gpu_interface.devices(devices, 16, &ndevices, &error), VQ_GPU_OK, &error, "devices"))
		check(ndevices == broken + 1 && devices[0].free_bytes > 0 && devices[broken].free_bytes == 0 &&
			  devices[broken].index == (int) broken && strstr(devices[broken].name, "unavailable: ") != NULL,
			  "%zu devices, the last is \"%s\"", ndevices, devices[broken].name);
	options.device = VQ_GPU_ALL_DEVICES;
	if (check_status(gpu_interface.open(&options, &gpu, &error), VQ_GPU_OK, &error, "open all"))
		gpu_interface.close(gpu);
	options.device = (int) broken;
	check_status(gpu_interface.open(&options, &gpu, &error), VQ_GPU_FAILED, &error, "open that one");
	end_case();
	unsetenv("EMULATED_BROKEN_DEVICE");
	set_number("EMULATED_DEVICES", broken);
}

static void
list_devices(void)
{
	VqGpuDevice devices[16];
	VqGpuError	error;
	size_t		ndevices;
	VqGpuStatus status = gpu_interface.devices(devices, 16, &ndevices, &error);

	if (status != VQ_GPU_OK)
	{
		printf("%s: %s\n0 passed, 1 failed\n", vq_gpu_status_name(status), error.message);
		exit(1);
	}
	if (wanted_device == VQ_GPU_ALL_DEVICES)
		nused = ndevices;
	is_emulated = ndevices > 0 && strcmp(devices[0].name, "emulated device") == 0;
	for (size_t i = 0; i < ndevices && i < 16; i++)
		printf("device %d: %s, compute capability %u.%u, %u multiprocessors, %llu of %llu MB free, driver for CUDA %u.%u\n",
			   (int) devices[i].index, devices[i].name, devices[i].capability_major, devices[i].capability_minor,
			   devices[i].multiprocessors, (unsigned long long) devices[i].free_bytes >> 20,
			   (unsigned long long) devices[i].total_bytes >> 20, devices[i].driver_version / 1000,
			   devices[i].driver_version % 1000 / 10);
}

/*----------
 * What there is to check, dealt out
 *----------
 */

static void
check_one_shape(size_t number)
{
	check_shape(&shapes[number], false);
	if (shapes[number].dim <= 300 && shapes[number].nlists <= 300)
		check_shape(&shapes[number], true);
}

static void
check_values(size_t is_projected)
{
	if (!is_projected)
		check_ties();
	check_magnitudes(is_projected);
}

static void
check_a_stream(size_t is_projected)
{
	check_streaming(is_projected);
}

static void
check_a_memory(size_t is_projected)
{
	check_memory(is_projected);
}

typedef struct Task
{
	void		(*check) (size_t argument);
	size_t		argument;
	double		cost;			/* seconds, about */
} Task;

#define OPEN_SECONDS 0.1		/* of a handle */
#define PRODUCTS 2e10			/* a second, of a processor that has vectors of them */
#define DOUBLE_PRODUCTS 2e9		/* one at a time */

/* The CPU labels, trains and projects once, and codes for each kind and metric; two handles for each kind */
static double
cost_of(const Shape *shape)
{
	double		nrows = (double) shape->nrows;
	double		nlists = (double) shape->nlists;
	double		dim = (double) shape->dim;
	double		ntrain = fmin(nrows, 2500);
	double		ncodes = (double) (1 << shape->nbits);
	double		seconds = 2 * NKINDS * OPEN_SECONDS;

	seconds += nrows * nlists * dim / PRODUCTS;
	seconds += (NITER * ntrain + NKINDS * 2 * nrows) * dim * ncodes / PRODUCTS;
	if (shape->is_projected)
		seconds += (nrows + fmin(nrows, nlists)) * dim * dim / 2 / DOUBLE_PRODUCTS;
	return seconds;
}

static int
compare_costs(const void *a, const void *b)
{
	double		difference = ((const Task *) a)->cost - ((const Task *) b)->cost;

	return difference < 0 ? -1 : difference > 0;
}

/* The tasks of this run, the cheapest first: what is slow need not be waited for to see the most */
static size_t
list_tasks(Task *tasks)
{
	size_t		ntasks = 0;

	for (size_t i = 0; i < NSHAPES; i++)
		if (!is_small || shapes[i].is_small)
			tasks[ntasks++] = (Task) {check_one_shape, i, cost_of(&shapes[i])};
	for (size_t i = 0; i < 2; i++)
	{
		tasks[ntasks++] = (Task) {check_values, i, 2 * OPEN_SECONDS};
		tasks[ntasks++] = (Task) {check_a_stream, i, 1};
		tasks[ntasks++] = (Task) {check_a_memory, i, (is_sanitized ? 6 : 120) * OPEN_SECONDS / 2};
	}
	qsort(tasks, ntasks, sizeof(Task), compare_costs);
	return ntasks;
}

/* Of the tasks those of this part: the dearest is dealt first, each to the part that has the least */
static void
deal_tasks(const Task *tasks, size_t ntasks, bool *are_ours)
{
	double	   *loads = data_alloc(nparts, sizeof(double));

	for (size_t i = ntasks; i-- > 0;)
	{
		unsigned	least = 0;

		for (unsigned p = 1; p < nparts; p++)
			if (loads[p] < loads[least])
				least = p;
		loads[least] += tasks[i].cost;
		are_ours[i] = least == part;
	}
	free(loads);
}

int
main(int argc, char **argv)
{
	Task		tasks[NSHAPES + 6];
	bool		are_ours[NSHAPES + 6];
	size_t		ntasks;
	VqGpuError	error;
	VqGpu	   *first;

	wanted_device = VQ_GPU_ALL_DEVICES;
	for (int i = 2; i < argc; i++)
	{
		if (strcmp(argv[i], "--small") == 0)
			is_small = true;
		else if (strcmp(argv[i], "--sanitized") == 0)
			is_small = is_sanitized = true;
		else if (strcmp(argv[i], "--device") == 0 && i + 1 < argc)
			wanted_device = atoi(argv[++i]);
		else if (strcmp(argv[i], "--part") == 0 && i + 1 < argc &&
				 sscanf(argv[i + 1], "%u/%u", &part, &nparts) == 2 && part < nparts)
			i++;
		else
			argc = 1;
	}
	if (argc < 2)
	{
		fprintf(stderr, "usage: %s LIBRARY [--small | --sanitized] [--device N] [--part I/N]\n", argv[0]);
		return 2;
	}
	kernels = vq_kernels_by_name("auto");
	if (vq_gpu_load(argv[1], &gpu_interface, &error) != VQ_GPU_OK)
	{
		printf("%s\n0 passed, 1 failed\n", error.message);
		return 1;
	}
	printf("plug-in \"%s\", CPU kernels \"%s\"\n", gpu_interface.name, kernels->name);
	list_devices();

	/* While the device is open here, opening it again takes no start of the driver */
	first = open_gpu(VQ_GPU_PRODUCTS_AUTO, 0);
	ntasks = list_tasks(tasks);
	deal_tasks(tasks, ntasks, are_ours);
	for (size_t i = 0; i < ntasks; i++)
		if (are_ours[i])
			tasks[i].check(tasks[i].argument);
	gpu_interface.close(first);

	/* These give it back */
	if (part == nparts - 1)
		check_refusals();
	if (part == nparts - 1 && is_emulated)
	{
		check_lost_device();
		check_broken_device();
		check_taken_memory(true);
		check_taken_memory(false);
	}
	printf("%d passed, %d failed\n", npassed, nfailed);
	return nfailed > 0;
}
