/*-------------------------------------------------------------------------
 *
 * test_vq_codec.c
 *	  The estimate is right on average, the bound holds as often as it says,
 *	  and vectors that codes cannot stand for are bounded all the same.
 *
 * What is claimed of codes holds in every code space, unless a comment says why
 * not: model space itself, random directions, and those in which residuals vary
 * most.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include "kernels/vq_codec.h"
#include "kernels/vq_kmeans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What codes stand for residuals in */
typedef enum Space
{
	SPACE_MODEL,				/* model space: no projection */
	SPACE_RANDOM,				/* random orthonormal directions */
	SPACE_LEARNED				/* the directions in which the residuals of the rows vary most */
} Space;

static const struct
{
	const char *name;
	Space		space;
	VqMetric	metric;
}			kinds[] = {
	{"l2", SPACE_MODEL, VQ_METRIC_L2},
	{"ip", SPACE_MODEL, VQ_METRIC_IP},
	{"cosine", SPACE_MODEL, VQ_METRIC_COSINE},
	{"l2, random directions", SPACE_RANDOM, VQ_METRIC_L2},
	{"ip, random directions", SPACE_RANDOM, VQ_METRIC_IP},
	{"cosine, random directions", SPACE_RANDOM, VQ_METRIC_COSINE},
	{"l2, learned directions", SPACE_LEARNED, VQ_METRIC_L2},
	{"ip, learned directions", SPACE_LEARNED, VQ_METRIC_IP},
};

#define NKINDS (sizeof(kinds) / sizeof(kinds[0]))

/* Rounds of the search for directions: these need not be the very best */
#define LEARNING_ROUNDS 2

/* A model, and rows coded with it, as an index would hold them */
typedef struct Fixture
{
	const VqKernels *kernels;
	VqCodec		codec;
	Space		space;
	size_t		nrows;
	size_t		nlists;
	size_t		dim;
	float	   *rows;			/* as a user has them */
	float	   *row_models;
	float	   *mean;
	float	   *signs;
	void	   *image;			/* of the projection */
	float	   *codebook;
	float	   *centroids;
	float	   *norms;
	float	   *row_code;
	float	   *centroid_code;
	float	   *work;
	uint32_t   *labels;
	uint8_t    *codes;
	VqFactors  *factors;
	VqQuery		query;
} Fixture;

static float
random_gaussian(VqRng *rng)
{
	double		radius = sqrt(-2 * log(1 - vq_rng_double(rng)));

	return (float) (radius * cos(6.283185307179586 * vq_rng_double(rng)));
}

/*
 * Vectors of a mixture of eight gaussians, not centred at the origin, whose standard
 * deviation falls from 1 to least_spread by dimension.
 */
static void
fill_gaussians(uint64_t seed, size_t nrows, size_t dim, double magnitude, double least_spread, float *rows)
{
	float	   *centres = malloc(8 * dim * sizeof(float));
	VqRng		rng;

	vq_rng_seed(&rng, 77);
	for (size_t i = 0; i < 8 * dim; i++)
		centres[i] = random_gaussian(&rng) + 0.3f;
	vq_rng_seed(&rng, seed);
	for (size_t i = 0; i < nrows; i++)
	{
		const float *centre = centres + vq_rng_below(&rng, 8) * dim;

		for (size_t t = 0; t < dim; t++)
		{
			double		spread = least_spread + (1 - least_spread) * (double) (dim - t) / (double) dim;

			rows[i * dim + t] = (float) (magnitude * (centre[t] + spread * random_gaussian(&rng)));
		}
	}
	free(centres);
}

static void
fill_mixture(uint64_t seed, size_t nrows, size_t dim, double magnitude, float *rows)
{
	fill_gaussians(seed, nrows, dim, magnitude, 0.2, rows);
}

/* Allocate, and fill in all of the codec but what training gives */
static void
fixture_open(Fixture *fixture, size_t kind, size_t nrows, size_t nlists, size_t dim, size_t m, size_t nbits)
{
	VqCodec    *codec = &fixture->codec;
	size_t		code_floats;
	size_t		lut_entries;

	memset(fixture, 0, sizeof(*fixture));
	fixture->kernels = vq_kernels_by_name("auto");
	fixture->space = kinds[kind].space;
	fixture->nrows = nrows;
	fixture->nlists = nlists;
	fixture->dim = dim;
	codec->metric = kinds[kind].metric;
	codec->rotation = VQ_ROTATION_HADAMARD;
	codec->scale = 1;
	CHECK(vq_codec_init(codec, dim, m, nbits, kinds[kind].space != SPACE_MODEL) == VQ_OK, "dim %zu m %zu", dim, m);
	code_floats = vq_codec_code_floats(codec);
	lut_entries = (size_t) codec->pq.m * codec->pq.ksub;

	fixture->rows = calloc(nrows * dim, sizeof(float));
	fixture->row_models = calloc(nrows * dim, sizeof(float));
	fixture->mean = calloc(dim, sizeof(float));
	fixture->signs = malloc(vq_rotate_sign_bytes(dim));
	fixture->image = malloc(vq_project_bytes(dim, codec->pq.dim));
	fixture->codebook = calloc(vq_pq_codebook_floats(&codec->pq), sizeof(float));
	fixture->centroids = calloc(nlists * dim, sizeof(float));
	fixture->norms = malloc(nlists * sizeof(float));
	fixture->row_code = malloc(code_floats * sizeof(float));
	fixture->centroid_code = malloc(code_floats * sizeof(float));
	fixture->work = malloc(vq_codec_encode_floats(codec) * sizeof(float));
	fixture->labels = calloc(nrows, sizeof(uint32_t));
	fixture->codes = malloc(nrows * m);
	fixture->factors = malloc(nrows * sizeof(VqFactors));
	fixture->query.q_model = malloc(dim * sizeof(float));
	fixture->query.q_code = malloc(code_floats * sizeof(float));
	fixture->query.lut_floats = malloc(lut_entries * sizeof(float));
	fixture->query.lut = malloc(lut_entries);

	vq_rotate_signs(5, dim, fixture->signs);
	codec->signs = fixture->signs;
	codec->mean = fixture->mean;
	codec->codebook = fixture->codebook;
}

static void
fixture_close(Fixture *fixture)
{
	free(fixture->rows);
	free(fixture->row_models);
	free(fixture->mean);
	free(fixture->signs);
	free(fixture->image);
	free(fixture->codebook);
	free(fixture->centroids);
	free(fixture->norms);
	free(fixture->row_code);
	free(fixture->centroid_code);
	free(fixture->work);
	free(fixture->labels);
	free(fixture->codes);
	free(fixture->factors);
	free(fixture->query.q_model);
	free(fixture->query.q_code);
	free(fixture->query.lut_floats);
	free(fixture->query.lut);
}

/* Mean and scale of the rows, as a build sets them */
static void
train_space(Fixture *fixture)
{
	size_t		dim = fixture->dim;
	double	   *sums = calloc(dim, sizeof(double));
	double		size = 0;

	for (size_t i = 0; i < fixture->nrows * dim; i++)
		sums[i % dim] += fixture->rows[i];
	if (fixture->codec.metric == VQ_METRIC_COSINE)
	{
		memset(sums, 0, dim * sizeof(double));
		for (size_t i = 0; i < fixture->nrows; i++)
		{
			double		norm = 0;

			for (size_t t = 0; t < dim; t++)
				norm += (double) fixture->rows[i * dim + t] * fixture->rows[i * dim + t];
			for (size_t t = 0; t < dim && norm > 0; t++)
				sums[t] += fixture->rows[i * dim + t] / sqrt(norm);
		}
	}
	for (size_t t = 0; t < dim && fixture->codec.metric != VQ_METRIC_IP; t++)
		fixture->mean[t] = (float) (sums[t] / (double) fixture->nrows);
	for (size_t i = 0; i < fixture->nrows * dim; i++)
	{
		double		difference = (double) fixture->rows[i] - fixture->mean[i % dim];

		size += difference * difference / (double) fixture->nrows;
	}
	if (fixture->codec.metric != VQ_METRIC_COSINE && size > 0)
		fixture->codec.scale = (float) exp2(-floor(log2(size) / 2));
	free(sums);
}

/* Lists by a few iterations of k-means, from the first rows */
static void
train_lists(Fixture *fixture, size_t niter)
{
	size_t		dim = fixture->dim;
	float	   *work = malloc(vq_kmeans_assign_floats(fixture->nrows, fixture->nlists) * sizeof(float));
	VqKmeansSums sums = {fixture->nlists, dim, NULL, NULL, 0};
	VqRng		rng;

	sums.sums = malloc(fixture->nlists * dim * sizeof(double));
	sums.counts = malloc(fixture->nlists * sizeof(uint64_t));
	memcpy(fixture->centroids, fixture->row_models, fixture->nlists * dim * sizeof(float));
	vq_rng_seed(&rng, 6);
	for (size_t iteration = 0; iteration <= niter; iteration++)
	{
		vq_kmeans_norms(fixture->kernels, fixture->centroids, fixture->nlists, dim, fixture->norms);
		vq_kmeans_assign(fixture->kernels, &vq_blas_builtin, fixture->row_models, fixture->nrows,
						 fixture->centroids, fixture->norms, fixture->nlists, dim, work,
						 fixture->labels, NULL);
		if (iteration == niter)
			break;
		vq_kmeans_clear(&sums);
		vq_kmeans_accumulate(fixture->kernels, &sums, fixture->row_models, fixture->nrows, fixture->labels, NULL);
		vq_kmeans_update(&sums, &rng, fixture->centroids);
	}
	free(work);
	free(sums.sums);
	free(sums.counts);
}

static double
double_norm_sq(const double *x, size_t dim)
{
	double		sum = 0;

	for (size_t t = 0; t < dim; t++)
		sum += x[t] * x[t];
	return sum;
}

/* Make rows of double[nrows][dim] orthonormal, one after the other; what is left of one may be nothing: zero */
static void
make_orthonormal(double *rows, size_t nrows, size_t dim)
{
	for (size_t i = 0; i < nrows; i++)
	{
		double	   *row = rows + i * dim;
		double		first_sq = double_norm_sq(row, dim);
		double		old_sq;
		double		new_sq = first_sq;

		/* What rounding leaves of the others is large to a short rest, so that is treated again */
		do
		{
			old_sq = new_sq;
			for (size_t other = 0; other < i; other++)
			{
				const double *before = rows + other * dim;
				double		product = 0;

				for (size_t t = 0; t < dim; t++)
					product += row[t] * before[t];
				for (size_t t = 0; t < dim; t++)
					row[t] -= product * before[t];
			}
			new_sq = double_norm_sq(row, dim);
		} while (new_sq < 0.01 * old_sq && new_sq > 1e-20 * first_sq);
		for (size_t t = 0; t < dim; t++)
			row[t] = new_sq > 1e-20 * first_sq ? row[t] / sqrt(new_sq) : 0;
	}
}

/* Sums of products of the coordinates of residuals, double[dim][dim] */
static double *
residual_covariance(const Fixture *fixture)
{
	size_t		dim = fixture->dim;
	double	   *covariance = calloc(dim * dim, sizeof(double));
	double	   *residual = malloc(dim * sizeof(double));

	for (size_t i = 0; i < fixture->nrows; i++)
	{
		const float *centroid = fixture->centroids + fixture->labels[i] * dim;

		for (size_t t = 0; t < dim; t++)
			residual[t] = (double) fixture->row_models[i * dim + t] - centroid[t];
		for (size_t t = 0; t < dim; t++)
			for (size_t other = 0; other <= t; other++)
				covariance[t * dim + other] += residual[t] * residual[other];
	}
	for (size_t t = 0; t < dim; t++)
		for (size_t other = 0; other < t; other++)
			covariance[other * dim + t] = covariance[t * dim + other];
	free(residual);
	return covariance;
}

/* rows := rows times a symmetric matrix */
static void
multiply_by_matrix(double *rows, size_t nrows, size_t dim, const double *matrix)
{
	double	   *product = malloc(dim * sizeof(double));

	for (size_t i = 0; i < nrows; i++)
	{
		double	   *row = rows + i * dim;

		memset(product, 0, dim * sizeof(double));
		for (size_t t = 0; t < dim; t++)
			for (size_t other = 0; other < dim; other++)
				product[other] += row[t] * matrix[t * dim + other];
		memcpy(row, product, dim * sizeof(double));
	}
	free(product);
}

/* Put directions, float[pq.dim][dim], into the codec */
static void
set_projection(Fixture *fixture, const float *directions)
{
	size_t		ndirections = fixture->codec.pq.dim;

	vq_project_pack(directions, fixture->dim, ndirections, fixture->image);
	CHECK(vq_project_open(&fixture->codec.projection, fixture->dim, ndirections, fixture->image) == VQ_OK,
		  "projection refused");
}

/* Random directions, turned towards those of the largest variance if these are to be learned */
static void
train_projection(Fixture *fixture)
{
	const VqPq *pq = &fixture->codec.pq;
	size_t		dim = fixture->dim;
	size_t		ndirections = pq->dim;
	double	   *basis = malloc(ndirections * dim * sizeof(double));
	float	   *vectors = malloc(ndirections * dim * sizeof(float));
	float	   *directions = malloc(ndirections * dim * sizeof(float));
	float	   *work = malloc(vq_project_arrange_floats(pq->m, pq->dsub) * sizeof(float));
	VqRng		rng;

	vq_rng_seed(&rng, 7);
	for (size_t i = 0; i < ndirections * dim; i++)
		basis[i] = random_gaussian(&rng);
	make_orthonormal(basis, ndirections, dim);
	if (fixture->space == SPACE_LEARNED)
	{
		double	   *covariance = residual_covariance(fixture);

		for (size_t round = 0; round < LEARNING_ROUNDS; round++)
		{
			multiply_by_matrix(basis, ndirections, dim, covariance);
			make_orthonormal(basis, ndirections, dim);
		}
		free(covariance);
	}
	for (size_t i = 0; i < ndirections * dim; i++)
		vectors[i] = (float) basis[i];
	vq_project_arrange(fixture->kernels, 8, vectors, dim, pq->m, pq->dsub, work, directions);
	set_projection(fixture, directions);
	free(basis);
	free(vectors);
	free(directions);
	free(work);
}

static void
train_codebook(Fixture *fixture, size_t niter)
{
	const VqPq *pq = &fixture->codec.pq;
	size_t		dim = fixture->dim;
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	float	   *residual = malloc(dim * sizeof(float));
	float	   *residuals = calloc(fixture->nrows * padded_dim, sizeof(float));
	double	   *sums = malloc(vq_pq_sums_doubles(pq) * sizeof(double));
	uint8_t    *codes = malloc(pq->m);

	for (size_t i = 0; i < fixture->nrows; i++)
	{
		for (size_t t = 0; t < dim; t++)
			residual[t] = fixture->row_models[i * dim + t] - fixture->centroids[fixture->labels[i] * dim + t];
		vq_codec_direction(fixture->kernels, residual, dim);
		vq_codec_to_codes(fixture->kernels, &fixture->codec, residual, fixture->row_code);
		memcpy(residuals + i * padded_dim, fixture->row_code, padded_dim * sizeof(float));
	}
	vq_pq_train(fixture->kernels, pq, residuals, fixture->nrows, niter, 9, sums, codes, fixture->codebook);
	free(residual);
	free(residuals);
	free(sums);
	free(codes);
}

/* Code of a vector of model space against any centroid, in the place of row */
static void
encode_as(Fixture *fixture, const float *x_model, const float *centroid, size_t row)
{
	vq_codec_to_codes(fixture->kernels, &fixture->codec, x_model, fixture->row_code);
	vq_codec_to_codes(fixture->kernels, &fixture->codec, centroid, fixture->centroid_code);
	vq_codec_encode(fixture->kernels, &fixture->codec, x_model, centroid, fixture->row_code, fixture->centroid_code,
					fixture->work, fixture->codes + row * fixture->codec.pq.m, &fixture->factors[row]);
}

static void
encode_rows(Fixture *fixture)
{
	for (size_t i = 0; i < fixture->nrows; i++)
		encode_as(fixture, fixture->row_models + i * fixture->dim,
				  fixture->centroids + fixture->labels[i] * fixture->dim, i);
}

/* Train on the rows of the fixture and code them all */
static void
fixture_train(Fixture *fixture)
{
	train_space(fixture);
	for (size_t i = 0; i < fixture->nrows; i++)
		vq_codec_transform(fixture->kernels, &fixture->codec, fixture->rows + i * fixture->dim,
						   fixture->row_models + i * fixture->dim);
	train_lists(fixture, 3);
	if (fixture->codec.is_projected)
		train_projection(fixture);
	train_codebook(fixture, 4);
	encode_rows(fixture);
}

/* What unit promises: the exact value in model space, from the user's vectors */
static double
exact_value(const Fixture *fixture, const float *q, const float *x)
{
	double		squared = 0;
	double		product = 0;
	double		q_norm_sq = 0;
	double		x_norm_sq = 0;

	for (size_t t = 0; t < fixture->dim; t++)
	{
		squared += ((double) q[t] - x[t]) * ((double) q[t] - x[t]);
		product += (double) q[t] * x[t];
		q_norm_sq += (double) q[t] * q[t];
		x_norm_sq += (double) x[t] * x[t];
	}
	if (fixture->codec.metric == VQ_METRIC_L2)
		return fixture->query.unit * squared;
	if (fixture->codec.metric == VQ_METRIC_IP)
		return fixture->query.unit * -product;
	return fixture->query.unit * (1 - product / sqrt(q_norm_sq * x_norm_sq));
}

/* Parameters of a list for the query at hand */
typedef struct ListView
{
	float		distance_sq;
	float		norm_sq;
	float		value;
} ListView;

static ListView
view_list(const Fixture *fixture, const float *centroid)
{
	ListView	view;

	view.distance_sq = fixture->kernels->l2sq_f32(fixture->query.q_model, centroid, fixture->dim);
	view.norm_sq = fixture->kernels->ip_f32(centroid, centroid, fixture->dim);
	view.value = vq_codec_list_value(&fixture->codec, &fixture->query, view.distance_sq, view.norm_sq);
	return view;
}

/* The estimate, with the table of floats */
static double
estimate(const Fixture *fixture, const ListView *view, size_t row)
{
	const VqPq *pq = &fixture->codec.pq;
	const uint8_t *codes = fixture->codes + row * pq->m;
	double		sum = 0;

	for (size_t j = 0; j < pq->m; j++)
		sum += fixture->query.lut_floats[j * pq->ksub + codes[j]];
	return view->value + fixture->factors[row].a - fixture->factors[row].s / VQ_S_ONE * sum;
}

/* The lower bound, as a scan gets it: table of bytes, kernel of the bound */
static float
lower_bound(const Fixture *fixture, const ListView *view, size_t row, float epsilon)
{
	const VqPq *pq = &fixture->codec.pq;
	const uint8_t *codes = fixture->codes + row * pq->m;
	float		a[VQ_CAPACITY_STEP] = {0};
	uint16_t	s[VQ_CAPACITY_STEP] = {0};
	uint8_t		e[VQ_CAPACITY_STEP] = {0};
	uint32_t	sums[VQ_CAPACITY_STEP] = {0};
	float		low[VQ_CAPACITY_STEP];
	VqBound		bound;

	for (size_t j = 0; j < pq->m; j++)
		sums[0] += fixture->query.lut[j * pq->ksub + codes[j]];
	a[0] = fixture->factors[row].a;
	s[0] = fixture->factors[row].s;
	e[0] = fixture->factors[row].e;
	vq_codec_list_bound(&fixture->codec, &fixture->query, view->distance_sq, view->norm_sq, epsilon, &bound);
	fixture->kernels->bound(a, s, e, sums, VQ_CAPACITY_STEP, &bound, INFINITY, low);
	return low[0];
}

/* How often the bound of a row is above its exact value, over all rows and the queries given */
static double
share_of_broken_bounds(Fixture *fixture, const float *queries, size_t nqueries, float epsilon)
{
	size_t		nbroken = 0;

	for (size_t i = 0; i < nqueries; i++)
	{
		const float *q = queries + i * fixture->dim;
		ListView	views[32];

		CHECK(vq_codec_query(fixture->kernels, &fixture->codec, q, &fixture->query) == VQ_OK, "query %zu", i);
		for (size_t list = 0; list < fixture->nlists; list++)
			views[list] = view_list(fixture, fixture->centroids + list * fixture->dim);
		for (size_t row = 0; row < fixture->nrows; row++)
		{
			float		low = lower_bound(fixture, &views[fixture->labels[row]], row, epsilon);
			double		exact = exact_value(fixture, q, fixture->rows + row * fixture->dim);

			/* The exact value is of double vectors, the model's of float ones */
			nbroken += !(low <= exact + 1e-6 * fabs(exact) + 1e-9);
		}
	}
	return (double) nbroken / (double) (nqueries * fixture->nrows);
}

static const struct
{
	size_t		dim;
	size_t		m;
	size_t		nbits;
}			shapes[] = {
	{1, 1, 4}, {1, 1, 8},
	{2, 1, 4}, {2, 2, 8},
	{3, 2, 4}, {3, 1, 8},
	{17, 9, 4}, {17, 5, 8},
	{128, 64, 4}, {128, 43, 4}, {128, 32, 8},
	{300, 75, 4}, {300, 40, 8},
};

#define NSHAPES (sizeof(shapes) / sizeof(shapes[0]))

static void
check_shares(size_t kind, size_t shape)
{
	size_t		dim = shapes[shape].dim;
	Fixture		fixture;
	float	   *queries = malloc(8 * dim * sizeof(float));
	double		share;

	/*
	 * Errors in directions that were chosen for how rows vary are as random as
	 * others only if all directions are alike.
	 */
	double		least_spread = kinds[kind].space == SPACE_LEARNED ? 1 : 0.2;

	fixture_open(&fixture, kind, 400, 8, dim, shapes[shape].m, shapes[shape].nbits);
	fill_gaussians(21, 400, dim, 1, least_spread, fixture.rows);
	fill_gaussians(22, 8, dim, 1, least_spread, queries);
	fixture_train(&fixture);
	share = share_of_broken_bounds(&fixture, queries, 8, 2);
	CHECK(share <= 0.05, "%s dim %zu m %zu nbits %zu: %g of the bounds at epsilon 2 are broken",
		  kinds[kind].name, dim, shapes[shape].m, shapes[shape].nbits, share);
	share = share_of_broken_bounds(&fixture, queries, 8, 6);
	CHECK(share <= 0.0005, "%s dim %zu m %zu nbits %zu: %g of the bounds at epsilon 6 are broken",
		  kinds[kind].name, dim, shapes[shape].m, shapes[shape].nbits, share);
	free(queries);
	fixture_close(&fixture);
}

static void
test_bound_holds_as_often_as_epsilon_says(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
		for (size_t shape = 0; shape < NSHAPES; shape++)
			check_shares(kind, shape);
}

/*
 * The mean is over rotations: for one rotation, the errors of a vector against
 * neighbouring queries have a common part.  So each trial draws its own signs,
 * a query, a vector and a centroid between them, and keeps the codebook.
 */
static void
check_estimates(size_t kind, size_t shape)
{
	size_t		dim = shapes[shape].dim;
	Fixture		fixture;
	float	   *vectors = malloc(2 * dim * sizeof(float));
	float	   *centroid;
	double		sum = 0;
	double		square_sum = 0;
	size_t		ntrials = 0;

	fixture_open(&fixture, kind, 400, 8, dim, shapes[shape].m, shapes[shape].nbits);
	fill_mixture(23, 400, dim, 1, fixture.rows);
	fixture_train(&fixture);
	centroid = fixture.centroids;
	for (size_t trial = 0; trial < 300; trial++)
	{
		const float *x = vectors;
		const float *q = vectors + dim;
		ListView	view;
		double		error_unit;
		double		error;

		fill_mixture(1000 + trial, 2, dim, 1, vectors);
		vq_rotate_signs(trial, dim, fixture.signs);
		CHECK(vq_codec_transform(fixture.kernels, &fixture.codec, x, fixture.row_models) == VQ_OK,
			  "trial %zu", trial);
		CHECK(vq_codec_query(fixture.kernels, &fixture.codec, q, &fixture.query) == VQ_OK,
			  "trial %zu", trial);
		for (size_t t = 0; t < dim; t++)
			centroid[t] = 0.6f * fixture.row_models[t] + 0.1f * fixture.query.q_model[t];
		encode_as(&fixture, fixture.row_models, centroid, 0);
		if (fixture.factors[0].s == 0)
			continue;
		view = view_list(&fixture, centroid);
		error_unit = vq_codec_unpack_e(fixture.factors[0].e) * sqrt((double) view.distance_sq);
		error = (estimate(&fixture, &view, 0) - exact_value(&fixture, q, x)) / error_unit;
		sum += error;
		square_sum += error * error;
		ntrials++;
	}
	CHECK(ntrials > 290, "only %zu codes say something", ntrials);
	CHECK(fabs(sum / (double) ntrials) < 4 * sqrt(square_sum) / (double) ntrials,
		  "%s dim %zu m %zu nbits %zu: mean error is %g of E, its standard error %g",
		  kinds[kind].name, dim, shapes[shape].m, shapes[shape].nbits,
		  sum / (double) ntrials, sqrt(square_sum) / (double) ntrials);

	/* E is the standard error if nothing of q' - c lies along r, and too large otherwise */
	CHECK(sqrt(square_sum / (double) ntrials) < 1.15 && sqrt(square_sum / (double) ntrials) > 0.4,
		  "%s dim %zu m %zu nbits %zu: errors are %g of E",
		  kinds[kind].name, dim, shapes[shape].m, shapes[shape].nbits,
		  sqrt(square_sum / (double) ntrials));
	free(vectors);
	fixture_close(&fixture);
}

static void
test_estimate_is_unbiased_over_rotations(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
		for (size_t shape = 0; shape < NSHAPES; shape++)
		{
			/*
			 * Nothing is random in one dimension, and of few the mean square says little.
			 * To vectors that are rotated anew, learned directions are random ones.
			 */
			if (shapes[shape].dim >= 17 && kinds[kind].space != SPACE_LEARNED)
				check_estimates(kind, shape);
		}
}

/*
 * A query that is a row must find it: its bound is at most the exact value.  Of the
 * errors, w has no part in this (but under inner product, where q' is of length 1,
 * wherever the row is), and E leaves room for that of the table.  Codes of fewer rows
 * than centroids are exact, so that E is nothing: then it is epsilon standard errors of
 * the table that are left, and four of them are enough.
 */
static void
check_duplicates(size_t kind, size_t shape)
{
	size_t		dim = shapes[shape].dim;
	Fixture		fixture;
	size_t		nbroken[2] = {0, 0};	/* at epsilon 2, and at 4 */

	fixture_open(&fixture, kind, 100, 8, dim, shapes[shape].m, shapes[shape].nbits);
	fill_mixture(24, 100, dim, 1, fixture.rows);
	fixture_train(&fixture);
	for (size_t i = 0; i < 100; i++)
	{
		const float *q = fixture.rows + i * dim;
		double		exact;
		ListView	view;

		vq_codec_query(fixture.kernels, &fixture.codec, q, &fixture.query);
		view = view_list(&fixture, fixture.centroids + fixture.labels[i] * dim);
		exact = exact_value(&fixture, q, q);
		for (size_t n = 0; n < 2; n++)
			nbroken[n] += !(lower_bound(&fixture, &view, i, n == 0 ? 2 : 4) <= exact + 1e-9);
	}
	CHECK(nbroken[0] <= (shapes[shape].nbits == 8 || kinds[kind].metric == VQ_METRIC_IP ? 5 : 0) && nbroken[1] == 0,
		  "%s dim %zu m %zu nbits %zu: %zu of 100 bounds are broken at epsilon 2, %zu at 4",
		  kinds[kind].name, dim, shapes[shape].m, shapes[shape].nbits, nbroken[0], nbroken[1]);
	fixture_close(&fixture);
}

static void
test_bound_of_exact_duplicates_holds(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
		for (size_t shape = 0; shape < NSHAPES; shape++)
			check_duplicates(kind, shape);
}

/* Vectors in the very place of their centroid need no code: S and E are 0 */
static void
test_vector_at_its_centroid_is_estimated_exactly(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;
		float		queries[5 * 17];

		fixture_open(&fixture, kind, 200, 4, 17, 9, 4);
		fill_mixture(25, 200, 17, 1, fixture.rows);
		fill_mixture(26, 5, 17, 1, queries);
		fixture_train(&fixture);
		memcpy(fixture.centroids, fixture.row_models, 17 * sizeof(float));
		fixture.labels[0] = 0;
		encode_rows(&fixture);
		CHECK(fixture.factors[0].s == 0 && fixture.factors[0].e == 0, "s %u e %u",
			  fixture.factors[0].s, fixture.factors[0].e);
		for (size_t i = 0; i < 5; i++)
		{
			const float *q = queries + i * 17;
			ListView	view;
			double		want;

			vq_codec_query(fixture.kernels, &fixture.codec, q, &fixture.query);
			view = view_list(&fixture, fixture.centroids);
			want = exact_value(&fixture, q, fixture.rows);
			CHECK(fabs(estimate(&fixture, &view, 0) - want) < 4e-6, "%s: got %g, want %g",
				  kinds[kind].name, estimate(&fixture, &view, 0), want);
			CHECK(lower_bound(&fixture, &view, 0, 2) <= want + 1e-9, "%s: bound is broken",
				  kinds[kind].name);
		}
		fixture_close(&fixture);
	}
}

/*
 * Residuals from 1 down to where their squares vanish: codes stop meaning
 * anything on the way, the bound never breaks, and it gets tight.
 */
static void
test_bound_holds_for_tiny_residuals(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;
		float		queries[6 * 30];

		fixture_open(&fixture, kind, 200, 4, 30, 15, 4);
		fill_mixture(27, 200, 30, 1, fixture.rows);
		fill_mixture(28, 6, 30, 1, queries);
		fixture_train(&fixture);
		memset(fixture.mean, 0, 30 * sizeof(float));
		memset(fixture.centroids, 0, 30 * sizeof(float));
		fixture.codec.rotation = VQ_ROTATION_NONE;
		fixture.codec.scale = 1;
		for (int exponent = 0; exponent > -45; exponent--)
		{
			float	   *x = fixture.row_models;

			for (size_t t = 0; t < 30; t++)
				x[t] = fixture.rows[t] * powf(10, (float) exponent);
			encode_as(&fixture, x, fixture.centroids, 0);
			for (size_t i = 0; i < 7; i++)
			{
				const float *q = i < 6 ? queries + i * 30 : x;
				ListView	view;
				double		want = 0;
				double		low;

				if (vq_codec_query(fixture.kernels, &fixture.codec, q, &fixture.query) != VQ_OK)
					continue;
				view = view_list(&fixture, fixture.centroids);
				for (size_t t = 0; t < 30; t++)
				{
					double		coordinate = fixture.query.q_model[t];

					if (kinds[kind].metric == VQ_METRIC_IP)
						want -= coordinate * x[t];
					else
						want += (coordinate - x[t]) * (coordinate - x[t]);
				}
				low = lower_bound(&fixture, &view, 0, 6);
				CHECK(low <= want + 1e-30, "%s 1e%d query %zu: bound %g, exact %g",
					  kinds[kind].name, exponent, i, low, want);
				if (exponent <= -10 && i < 6)
					CHECK(low >= want - 1e-5 * (1 + view.distance_sq), "%s 1e%d query %zu: bound %g is far from %g",
						  kinds[kind].name, exponent, i, low, want);
			}
		}
		fixture_close(&fixture);
	}
}

/* A codebook of zeros says nothing of any vector; the sphere bounds them */
static void
test_bound_holds_with_an_empty_codebook(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;
		float		queries[8 * 17];
		double		share;

		fixture_open(&fixture, kind, 200, 4, 17, 9, 4);
		fill_mixture(29, 200, 17, 1, fixture.rows);
		fill_mixture(30, 8, 17, 1, queries);
		fixture_train(&fixture);
		memset(fixture.codebook, 0, vq_pq_codebook_floats(&fixture.codec.pq) * sizeof(float));
		encode_rows(&fixture);
		for (size_t i = 0; i < fixture.nrows; i++)
			CHECK(fixture.factors[i].s == 0 && isfinite(fixture.factors[i].a), "row %zu: s %u a %g",
				  i, fixture.factors[i].s, fixture.factors[i].a);
		share = share_of_broken_bounds(&fixture, queries, 8, 1);
		CHECK(share == 0, "%s: %g of the bounds are broken", kinds[kind].name, share);
		fixture_close(&fixture);
	}
}

static void
test_bound_holds_when_all_rows_are_equal(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;
		float		queries[8 * 17];
		double		share;

		fixture_open(&fixture, kind, 100, 4, 17, 9, 4);
		fill_mixture(31, 1, 17, 1, fixture.rows);
		for (size_t i = 1; i < 100; i++)
			memcpy(fixture.rows + i * 17, fixture.rows, 17 * sizeof(float));
		fill_mixture(32, 7, 17, 1, queries);
		memcpy(queries + 7 * 17, fixture.rows, 17 * sizeof(float));
		fixture_train(&fixture);
		share = share_of_broken_bounds(&fixture, queries, 8, 2);
		CHECK(share == 0, "%s: %g of the bounds are broken", kinds[kind].name, share);
		fixture_close(&fixture);
	}
}

/* Squares of such vectors leave float32 in either direction */
static void
test_bound_holds_at_any_magnitude(void)
{
	static const double magnitudes[] = {1e-30, 1e-12, 1e12, 1e30};

	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		for (size_t i = 0; i < sizeof(magnitudes) / sizeof(magnitudes[0]); i++)
		{
			Fixture		fixture;
			float		queries[8 * 17];
			double		share;

			fixture_open(&fixture, kind, 300, 8, 17, 9, 4);
			fill_mixture(33, 300, 17, magnitudes[i], fixture.rows);
			fill_mixture(34, 8, 17, magnitudes[i], queries);
			fixture_train(&fixture);
			for (size_t row = 0; row < fixture.nrows; row++)
				CHECK(isfinite(fixture.factors[row].a), "%s %g row %zu is not coded",
					  kinds[kind].name, magnitudes[i], row);
			share = share_of_broken_bounds(&fixture, queries, 8, 2);
			CHECK(share <= 0.05, "%s %g: %g of the bounds are broken",
				  kinds[kind].name, magnitudes[i], share);
			share = share_of_broken_bounds(&fixture, queries, 8, 6);
			CHECK(share <= 0.0005, "%s %g: %g of the bounds at epsilon 6 are broken",
				  kinds[kind].name, magnitudes[i], share);
			fixture_close(&fixture);
		}
	}
}

static void
test_transform_refuses_what_the_model_cannot_hold(void)
{
	static const float zeros[17] = {0};
	Fixture		fixture;

	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		bool		is_l2 = kinds[kind].metric == VQ_METRIC_L2;
		float		x[17];
		float		model[17];
		VqStatus	status;

		fixture_open(&fixture, kind, 100, 4, 17, 9, 4);
		fill_mixture(35, 100, 17, 1, fixture.rows);
		fixture_train(&fixture);

		status = vq_codec_transform(fixture.kernels, &fixture.codec, zeros, model);
		CHECK(status == (kinds[kind].metric == VQ_METRIC_COSINE ? VQ_ZERO_VECTOR : VQ_OK),
			  "%s: status %d of a zero vector", kinds[kind].name, (int) status);
		status = vq_codec_query(fixture.kernels, &fixture.codec, zeros, &fixture.query);
		CHECK(status == (is_l2 ? VQ_OK : VQ_ZERO_VECTOR),
			  "%s: status %d of a zero query", kinds[kind].name, (int) status);

		for (size_t t = 0; t < 17; t++)
			x[t] = t % 2 == 0 ? 3e38f : -3e38f;
		status = vq_codec_transform(fixture.kernels, &fixture.codec, x, model);
		CHECK(status == (kinds[kind].metric == VQ_METRIC_COSINE ? VQ_OK : VQ_NOT_FINITE),
			  "%s: status %d of a huge vector", kinds[kind].name, (int) status);
		CHECK(status == VQ_OK || memcmp(model, zeros, sizeof(model)) == 0,
			  "%s: a vector that was refused is not zero", kinds[kind].name);
		status = vq_codec_query(fixture.kernels, &fixture.codec, x, &fixture.query);
		CHECK(status == (is_l2 ? VQ_NOT_FINITE : VQ_OK),
			  "%s: status %d of a huge query", kinds[kind].name, (int) status);

		memcpy(x, fixture.rows, sizeof(x));
		x[3] = NAN;
		status = vq_codec_transform(fixture.kernels, &fixture.codec, x, model);
		CHECK(status == VQ_NOT_FINITE, "%s: status %d of a vector with NaN", kinds[kind].name, (int) status);
		status = vq_codec_query(fixture.kernels, &fixture.codec, x, &fixture.query);
		CHECK(status == VQ_NOT_FINITE, "%s: status %d of a query with NaN", kinds[kind].name, (int) status);
		x[3] = INFINITY;
		status = vq_codec_transform(fixture.kernels, &fixture.codec, x, model);
		CHECK(status == VQ_NOT_FINITE, "%s: status %d of a vector with infinity", kinds[kind].name, (int) status);

		/* The smallest there is still has a direction */
		memset(x, 0, sizeof(x));
		x[5] = 1e-45f;
		status = vq_codec_transform(fixture.kernels, &fixture.codec, x, model);
		CHECK(status == VQ_OK, "%s: status %d of a tiny vector", kinds[kind].name, (int) status);
		fixture_close(&fixture);
	}
}

/* A zero row under L2 and inner product is a row as any other */
static void
test_bound_holds_for_a_zero_row(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;
		float		queries[8 * 17];
		double		share;

		if (kinds[kind].metric == VQ_METRIC_COSINE)
			continue;
		fixture_open(&fixture, kind, 100, 4, 17, 9, 4);
		fill_mixture(36, 100, 17, 1, fixture.rows);
		memset(fixture.rows + 50 * 17, 0, 17 * sizeof(float));
		fill_mixture(37, 8, 17, 1, queries);
		fixture_train(&fixture);
		memmove(fixture.rows, fixture.rows + 50 * 17, 17 * sizeof(float));
		memmove(fixture.codes, fixture.codes + 50 * 9, 9);
		fixture.factors[0] = fixture.factors[50];
		fixture.labels[0] = fixture.labels[50];
		fixture.nrows = 1;
		share = share_of_broken_bounds(&fixture, queries, 8, 4);
		CHECK(share == 0, "%s: %g of the bounds are broken", kinds[kind].name, share);
		fixture_close(&fixture);
	}
}

static void
test_restore_undoes_transform(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		for (size_t shape = 0; shape < NSHAPES; shape++)
		{
			size_t		dim = shapes[shape].dim;
			Fixture		fixture;
			float	   *restored = malloc(dim * sizeof(float));
			double		worst = 0;

			fixture_open(&fixture, kind, 50, 4, dim, shapes[shape].m, shapes[shape].nbits);
			fill_mixture(38, 50, dim, 100, fixture.rows);
			train_space(&fixture);
			for (size_t i = 0; i < 50; i++)
			{
				const float *x = fixture.rows + i * dim;
				double		norm = 1;

				/* Once between two arrays, once in place */
				vq_codec_transform(fixture.kernels, &fixture.codec, x, fixture.row_models);
				vq_codec_restore(fixture.kernels, &fixture.codec, fixture.row_models, restored);
				memcpy(fixture.row_models, x, dim * sizeof(float));
				vq_codec_transform(fixture.kernels, &fixture.codec, fixture.row_models, fixture.row_models);
				vq_codec_restore(fixture.kernels, &fixture.codec, fixture.row_models, fixture.row_models);
				CHECK(memcmp(restored, fixture.row_models, dim * sizeof(float)) == 0, "in place differs");

				if (kinds[kind].metric == VQ_METRIC_COSINE)
					norm = sqrt((double) fixture.kernels->ip_f32(x, x, dim));
				for (size_t t = 0; t < dim; t++)
					worst = fmax(worst, fabs(restored[t] - x[t] / norm) * norm);
			}
			CHECK(worst < 100 * 3e-6 * sqrt((double) dim), "%s dim %zu: largest difference %g",
				  kinds[kind].name, dim, worst);
			free(restored);
			fixture_close(&fixture);
		}
	}
}

/* Value i of direction j, as the image has it */
static double
direction_value(const VqProjection *projection, size_t j, size_t i)
{
	const int8_t *panel = projection->panels + j / VQ_PANEL_COLUMNS * projection->dim * VQ_PANEL_COLUMNS;

	return (double) projection->steps[j] * panel[i * VQ_PANEL_COLUMNS + j % VQ_PANEL_COLUMNS];
}

/* r^ in model space, in doubles, from what the codes of a row are in the codebook */
static void
decode_in_doubles(const Fixture *fixture, size_t row, double *decoded)
{
	const VqCodec *codec = &fixture->codec;
	const VqPq *pq = &codec->pq;

	memset(decoded, 0, fixture->dim * sizeof(double));
	for (size_t t = 0; t < pq->dim; t++)
	{
		uint8_t		code = fixture->codes[row * pq->m + t / pq->dsub];
		double		value = fixture->codebook[t * pq->ksub + code];

		if (!codec->is_projected)
			decoded[t] = value;
		for (size_t i = 0; i < fixture->dim && codec->is_projected; i++)
			decoded[i] += value * direction_value(&codec->projection, t, i);
	}
}

/* Everything a decoded code says must be what the table says of the query */
static void
test_table_agrees_with_decoded_codes(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;
		double		decoded[17];
		float		q[17];

		fixture_open(&fixture, kind, 200, 4, 17, 6, 4);
		fill_mixture(39, 200, 17, 1, fixture.rows);
		fill_mixture(40, 1, 17, 1, q);
		fixture_train(&fixture);
		CHECK(vq_codec_query(fixture.kernels, &fixture.codec, q, &fixture.query) == VQ_OK, "query failed");
		for (size_t t = fixture.codec.pq.dim; t < vq_codec_code_floats(&fixture.codec); t++)
			CHECK(fixture.query.q_code[t] == 0, "%s: padding is %g", kinds[kind].name, fixture.query.q_code[t]);
		for (size_t i = 0; i < 200; i++)
		{
			const uint8_t *codes = fixture.codes + i * 6;
			double		sum = 0;
			double		want = 0;

			decode_in_doubles(&fixture, i, decoded);
			for (size_t t = 0; t < 17; t++)
				want += fixture.query.q_model[t] * decoded[t];
			for (size_t j = 0; j < 6; j++)
				sum += fixture.query.lut_floats[j * 16 + codes[j]];
			CHECK(fabs(sum - want) < 1e-5, "%s row %zu: got %g, want %g", kinds[kind].name, i, sum, want);
		}
		fixture_close(&fixture);
	}
}

/* One index may be built by one table of kernels and searched by another */
static void
test_tables_of_kernels_agree_on_factors(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;
		VqFactors	want[100];
		size_t		ncodes_differ = 0;

		fixture_open(&fixture, kind, 100, 4, 33, 17, 4);
		fill_mixture(41, 100, 33, 1, fixture.rows);
		fixture_train(&fixture);
		memcpy(want, fixture.factors, sizeof(want));
		for (size_t table = 0; vq_kernels_all[table] != NULL; table++)
		{
			uint8_t		codes[100 * 17];

			if (!vq_kernels_supported(vq_kernels_all[table]))
				continue;
			memcpy(codes, fixture.codes, sizeof(codes));
			fixture.kernels = vq_kernels_all[table];
			encode_rows(&fixture);
			for (size_t i = 0; i < 100; i++)
			{
				int			s_differs = abs((int) fixture.factors[i].s - (int) want[i].s);

				/* On a tie within rounding, tables may choose differently */
				if (memcmp(codes + i * 17, fixture.codes + i * 17, 17) != 0)
					ncodes_differ++;
				else
					CHECK(fabsf(fixture.factors[i].a - want[i].a) < 1e-5f + s_differs / VQ_S_ONE &&
						  s_differs <= 1 && abs((int) fixture.factors[i].e - (int) want[i].e) <= 1,
						  "table %s row %zu: a %g s %u e %u, want a %g s %u e %u", fixture.kernels->name, i,
						  fixture.factors[i].a, fixture.factors[i].s, fixture.factors[i].e,
						  want[i].a, want[i].s, want[i].e);
			}
		}
		CHECK(ncodes_differ <= 2, "%zu codes differ", ncodes_differ);
		fixture_close(&fixture);
	}
}

static void
test_decode_is_the_centroid_and_what_the_codes_stand_for(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;
		double		want[33];
		float		got[33];

		fixture_open(&fixture, kind, 100, 4, 33, 11, 4);
		fill_mixture(46, 100, 33, 1, fixture.rows);
		fixture_train(&fixture);
		for (size_t row = 0; row < 100; row++)
		{
			const float *centroid = fixture.centroids + fixture.labels[row] * 33;
			double		length = fixture.factors[row].s / 4096.0 / (fixture.codec.metric == VQ_METRIC_IP ? 1 : 2);
			double		code_sq = 0;

			decode_in_doubles(&fixture, row, want);
			for (size_t t = 0; t < fixture.codec.pq.dim; t++)
			{
				double		value = fixture.codebook[t * 16 + fixture.codes[row * 11 + t / fixture.codec.pq.dsub]];

				code_sq += value * value;
			}
			vq_codec_decode(fixture.kernels, &fixture.codec, fixture.codes + row * 11, &fixture.factors[row],
							centroid, fixture.row_code, got);
			for (size_t t = 0; t < 33; t++)
			{
				want[t] = centroid[t] + length * code_sq * want[t];
				CHECK(fabs(got[t] - want[t]) < 1e-5, "%s row %zu dimension %zu: got %g, want %g",
					  kinds[kind].name, row, t, got[t], want[t]);
			}
		}
		fixture_close(&fixture);
	}
}

/* Exact value in model space of the query at hand and a vector of model space */
static double
exact_model_value(const Fixture *fixture, const float *x_model)
{
	double		value = 0;

	for (size_t t = 0; t < fixture->dim; t++)
	{
		double		coordinate = fixture->query.q_model[t];

		if (fixture->codec.metric == VQ_METRIC_IP)
			value -= coordinate * x_model[t];
		else
			value += (coordinate - x_model[t]) * (coordinate - x_model[t]);
	}
	return value;
}

/*
 * The worst query of all: from the centroid, it lies in the direction of the error
 * of the code, against it.  Nothing of the error is random then, and a bound that
 * has the whole of it, not what is left of it in sqrt(dim - 1) directions, must hold.
 * Of the table of floats: what bytes add is no part of this.
 */
static void
check_worst_queries(size_t kind, size_t shape)
{
	size_t		dim = shapes[shape].dim;
	float		epsilon = sqrtf(dim > 1 ? (float) dim - 1 : 1);
	Fixture		fixture;
	double	   *decoded = malloc(dim * sizeof(double));
	size_t		nbroken = 0;

	fixture_open(&fixture, kind, 100, 4, dim, shapes[shape].m, shapes[shape].nbits);
	fill_mixture(47, 100, dim, 1, fixture.rows);
	fixture_train(&fixture);
	for (size_t row = 0; row < 100; row++)
	{
		const float *x = fixture.row_models + row * dim;
		const float *centroid = fixture.centroids + fixture.labels[row] * dim;
		double		product = 0;
		double		norm_sq = 0;
		double		reach;
		ListView	view;

		decode_in_doubles(&fixture, row, decoded);
		for (size_t t = 0; t < dim; t++)
		{
			product += ((double) x[t] - centroid[t]) * decoded[t];
			norm_sq += ((double) x[t] - centroid[t]) * ((double) x[t] - centroid[t]);
		}
		for (size_t t = 0; t < dim; t++)
		{
			double		residual = (double) x[t] - centroid[t];

			fixture.query.q_model[t] = (float) (centroid[t] - (decoded[t] - product / norm_sq * residual));
		}
		vq_codec_query_tables(fixture.kernels, &fixture.codec, &fixture.query);
		view = view_list(&fixture, centroid);
		reach = epsilon * vq_codec_unpack_e(fixture.factors[row].e) * sqrt((double) view.distance_sq);
		nbroken += !(estimate(&fixture, &view, row) - reach <= exact_model_value(&fixture, x) + 1e-5);
	}
	CHECK(nbroken == 0, "%s dim %zu m %zu nbits %zu: %zu of 100 bounds are broken",
		  kinds[kind].name, dim, shapes[shape].m, shapes[shape].nbits, nbroken);
	free(decoded);
	fixture_close(&fixture);
}

static void
test_bound_with_the_whole_error_holds_for_the_worst_query(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
		for (size_t shape = 0; shape < NSHAPES; shape++)
			check_worst_queries(kind, shape);
}

/*
 * Codes know nothing of a residual in a direction that the projection leaves out.
 * The sphere around the centroid bounds it, and is certain from epsilon 1 on.
 */
static void
test_bound_holds_for_residuals_in_directions_left_out(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;

		if (kinds[kind].space == SPACE_MODEL)
			continue;
		fixture_open(&fixture, kind, 200, 4, 17, 9, 4);
		fill_mixture(48, 200, 17, 1, fixture.rows);
		fixture_train(&fixture);
		CHECK(fixture.codec.pq.dim == 9, "%u directions", fixture.codec.pq.dim);

		for (size_t row = 0; row < 20; row++)
		{
			const float *centroid = fixture.centroids + fixture.labels[row] * 17;
			double		left_out[10 * 17];

			/* The last is what is left of a row without the directions, as the image has them */
			for (size_t i = 0; i < 9 * 17; i++)
				left_out[i] = direction_value(&fixture.codec.projection, i / 17, i % 17);
			for (size_t t = 0; t < 17; t++)
				left_out[9 * 17 + t] = fixture.rows[row * 17 + t];
			make_orthonormal(left_out, 10, 17);
			for (double length = 1e-3; length < 10; length *= 10)
			{
				float		x[17];

				for (size_t t = 0; t < 17; t++)
					x[t] = (float) (centroid[t] + length * left_out[9 * 17 + t]);
				encode_as(&fixture, x, centroid, row);
				CHECK(fixture.factors[row].s == 0, "%s row %zu length %g: s is %u", kinds[kind].name, row, length,
					  fixture.factors[row].s);

				/* Queries on the same line: before the centroid, at the row, behind it */
				for (double at = -2; at <= 2; at += 0.5)
				{
					ListView	view;
					float		low;
					double		want;

					for (size_t t = 0; t < 17; t++)
						fixture.query.q_model[t] = (float) (centroid[t] + at * length * left_out[9 * 17 + t]);
					vq_codec_query_tables(fixture.kernels, &fixture.codec, &fixture.query);
					view = view_list(&fixture, centroid);
					low = lower_bound(&fixture, &view, row, 1);
					want = exact_model_value(&fixture, x);
					CHECK(low <= want + 1e-7, "%s row %zu length %g query at %g: bound %g, exact %g",
						  kinds[kind].name, row, length, at, low, want);
				}
			}
		}
		fixture_close(&fixture);
	}
}

/*
 * The nearer vectors are to their centroid, the less float32 has of their residuals;
 * in code space these are differences of projections, which are rounded once more.
 */
static void
test_bound_holds_for_rows_close_to_a_distant_centroid(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;

		fixture_open(&fixture, kind, 100, 4, 128, 43, 4);
		fill_mixture(49, 100, 128, 1, fixture.rows);
		fixture_train(&fixture);
		for (int exponent = 0; exponent >= -8; exponent--)
		{
			for (size_t row = 0; row < 100; row++)
			{
				const float *centroid = fixture.centroids + fixture.labels[row] * 128;
				float		x[128];

				for (size_t t = 0; t < 128; t++)
					x[t] = centroid[t] + powf(10, (float) exponent) * (fixture.row_models[row * 128 + t] - centroid[t]);
				encode_as(&fixture, x, centroid, row);
				for (double at = -4; at <= 4; at++)
				{
					ListView	view;
					double		want;
					float		low;

					/* At the row, and further out on the same line */
					for (size_t t = 0; t < 128; t++)
						fixture.query.q_model[t] = (float) (centroid[t] + at * ((double) x[t] - centroid[t]));
					vq_codec_query_tables(fixture.kernels, &fixture.codec, &fixture.query);
					view = view_list(&fixture, centroid);
					low = lower_bound(&fixture, &view, row, 4);
					want = exact_model_value(&fixture, x);
					CHECK(low <= want + 1e-9 * fabs(want), "%s row %zu 1e%d query at %g: bound %.9g, exact %.9g",
						  kinds[kind].name, row, exponent, at, low, want);
				}
			}
		}
		fixture_close(&fixture);
	}
}

/* As far as eight bits can say it; the sphere needs no scale, and is taken as soon as it is better */
static void
test_error_scale_multiplies_e(void)
{
	for (size_t kind = 0; kind < NKINDS; kind++)
	{
		Fixture		fixture;
		VqFactors	before[100];
		size_t		ncoded = 0;

		fixture_open(&fixture, kind, 100, 4, 128, 43, 4);
		fill_mixture(50, 100, 128, 1, fixture.rows);
		fixture_train(&fixture);
		memcpy(before, fixture.factors, sizeof(before));
		fixture.codec.error_scale = 3;
		encode_rows(&fixture);
		for (size_t i = 0; i < 100; i++)
		{
			double		ratio = vq_codec_unpack_e(fixture.factors[i].e) / vq_codec_unpack_e(before[i].e);

			if (fixture.factors[i].s == 0)
				continue;
			ncoded++;
			CHECK(fixture.factors[i].s == before[i].s && fixture.factors[i].a == before[i].a,
				  "%s row %zu: s %u a %g, before %u and %g", kinds[kind].name, i, fixture.factors[i].s,
				  fixture.factors[i].a, before[i].s, before[i].a);
			CHECK(ratio >= 3 / 1.13 && ratio <= 3 * 1.13, "%s row %zu: E grew by %g", kinds[kind].name, i, ratio);
		}
		CHECK(ncoded > 50, "%s: only %zu codes are left", kinds[kind].name, ncoded);

		fixture.codec.error_scale = 1000;
		encode_rows(&fixture);
		for (size_t i = 0; i < 100; i++)
			CHECK(fixture.factors[i].s == 0, "%s row %zu: s is %u, though E is nowhere near", kinds[kind].name, i,
				  fixture.factors[i].s);
		fixture_close(&fixture);
	}
}

/* With the axes as directions, code space is model space but for the rounding of a byte's value */
static void
test_projection_on_all_axes_changes_nothing(void)
{
	static const struct
	{
		size_t		dim;
		size_t		m;
		size_t		nbits;
	}			square_shapes[] = {{1, 1, 4}, {2, 1, 4}, {18, 9, 4}, {16, 4, 8}, {128, 64, 4}};

	for (size_t kind = 0; kind < 3; kind++)
	{
		for (size_t shape = 0; shape < sizeof(square_shapes) / sizeof(square_shapes[0]); shape++)
		{
			size_t		dim = square_shapes[shape].dim;
			size_t		m = square_shapes[shape].m;
			Fixture		fixture;
			VqPq		pq;
			VqFactors	want[100];
			uint8_t    *codes = malloc(100 * m);
			float	   *axes = calloc(dim * dim, sizeof(float));
			size_t		ndiffer = 0;

			fixture_open(&fixture, kind, 100, 4, dim, m, square_shapes[shape].nbits);
			fill_mixture(51, 100, dim, 1, fixture.rows);
			fixture_train(&fixture);
			memcpy(want, fixture.factors, sizeof(want));
			memcpy(codes, fixture.codes, 100 * m);
			pq = fixture.codec.pq;
			for (size_t t = 0; t < dim; t++)
				axes[t * dim + t] = 1;

			/* The work of a projection is longer.  That axes are orthonormal in bytes as well, an image cannot know */
			CHECK(vq_codec_init(&fixture.codec, dim, m, square_shapes[shape].nbits, true) == VQ_OK, "dim %zu", dim);
			CHECK(memcmp(&pq, &fixture.codec.pq, sizeof(pq)) == 0, "dim %zu: another quantiser", dim);
			free(fixture.work);
			fixture.work = malloc(vq_codec_encode_floats(&fixture.codec) * sizeof(float));
			set_projection(&fixture, axes);
			fixture.codec.projection.defect = 0;
			encode_rows(&fixture);
			for (size_t i = 0; i < 100; i++)
			{
				const VqFactors *got = &fixture.factors[i];
				float		got_e = vq_codec_unpack_e(got->e);
				float		want_e = vq_codec_unpack_e(want[i].e);

				/* On a tie within rounding, codes may differ */
				if (memcmp(codes + i * m, fixture.codes + i * m, m) != 0)
				{
					ndiffer++;
					continue;
				}

				/* Where codes are exact, E is what rounding makes of nothing */
				CHECK(fabsf(got->a - want[i].a) <= 1e-5f * (1 + fabsf(want[i].a)) &&
					  abs((int) got->s - (int) want[i].s) <= 1 && fabsf(got_e - want_e) <= 0.13f * want_e + 0.005f,
					  "%s dim %zu row %zu: a %g s %u e %u, want a %g s %u e %u", kinds[kind].name, dim, i,
					  got->a, got->s, got->e, want[i].a, want[i].s, want[i].e);
			}

			/* Directions of one dimension are two points, with residuals of nothing but rounding */
			CHECK(ndiffer <= 2 || dim == 1, "%s dim %zu: %zu codes differ", kinds[kind].name, dim, ndiffer);
			free(codes);
			free(axes);
			fixture_close(&fixture);
		}
	}
}

static void
test_code_space_has_two_bits_for_a_dimension(void)
{
	static const struct
	{
		size_t		dim;
		size_t		m;
		size_t		nbits;
		bool		is_projected;
		size_t		code_dim;	/* 0: refused */
		size_t		dsub;
	}			expected[] = {
		{300, 75, 4, true, 150, 2}, {300, 75, 8, true, 300, 4}, {300, 40, 8, true, 160, 4},
		{300, 75, 4, false, 300, 4}, {300, 40, 8, false, 300, 8},
		{300, 150, 4, true, 300, 2}, {300, 151, 4, true, 151, 1}, {300, 300, 8, true, 300, 1},
		{300, 1, 8, true, 4, 4}, {300, 1, 4, true, 2, 2},
		{1, 1, 4, true, 1, 1}, {2, 1, 8, true, 2, 2}, {3, 1, 8, true, 3, 3}, {3, 2, 4, true, 2, 1},
		{17, 9, 4, true, 9, 1}, {17, 9, 4, false, 17, 2}, {17, 5, 8, true, 15, 3},
		{VQ_MAX_DIM, VQ_MAX_DIM, 4, true, VQ_MAX_DIM, 1}, {VQ_MAX_DIM, 1, 4, true, 2, 2},
		{0, 1, 4, true, 0, 0}, {0, 0, 4, true, 0, 0}, {10, 0, 4, true, 0, 0}, {10, 11, 4, true, 0, 0},
		{10, 5, 0, true, 0, 0}, {10, 5, 2, true, 0, 0}, {10, 5, 5, true, 0, 0}, {10, 5, 16, true, 0, 0},
		{VQ_MAX_DIM + 1, 10, 4, true, 0, 0}, {SIZE_MAX, 10, 4, true, 0, 0}, {10, SIZE_MAX, 4, true, 0, 0},
		{VQ_MAX_DIM + 1, 10, 4, false, 0, 0}, {10, 11, 4, false, 0, 0}, {10, 5, 5, false, 0, 0},
	};

	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
	{
		VqCodec		codec = {.error_scale = -1};
		VqStatus	status = vq_codec_init(&codec, expected[i].dim, expected[i].m, expected[i].nbits, expected[i].is_projected);

		if (expected[i].code_dim == 0)
		{
			CHECK(status == VQ_BAD_ARGUMENT, "dim %zu m %zu nbits %zu: status %d", expected[i].dim, expected[i].m,
				  expected[i].nbits, (int) status);
			continue;
		}
		CHECK(status == VQ_OK && codec.pq.dim == expected[i].code_dim && codec.pq.dsub == expected[i].dsub &&
			  codec.pq.m == expected[i].m && codec.pq.ksub == 1U << expected[i].nbits,
			  "dim %zu m %zu nbits %zu: status %d dim %u m %u dsub %u ksub %u", expected[i].dim, expected[i].m,
			  expected[i].nbits, (int) status, codec.pq.dim, codec.pq.m, codec.pq.dsub, codec.pq.ksub);
		CHECK(codec.dim == expected[i].dim && codec.is_projected == expected[i].is_projected && codec.error_scale == 1,
			  "dim %u, error scale %g", codec.dim, codec.error_scale);
		CHECK(vq_codec_code_floats(&codec) >= (size_t) codec.pq.m * codec.pq.dsub &&
			  vq_codec_code_floats(&codec) % VQ_PANEL_COLUMNS == 0, "%zu floats", vq_codec_code_floats(&codec));
	}
}

static void
test_exact_factors_are_below_everything(void)
{
	Fixture		fixture;
	float		q[17];
	ListView	view;

	fixture_open(&fixture, 0, 100, 4, 17, 9, 4);
	fill_mixture(42, 100, 17, 1, fixture.rows);
	fill_mixture(43, 1, 17, 1, q);
	fixture_train(&fixture);
	vq_codec_encode_exact(&fixture.factors[0]);
	vq_codec_query(fixture.kernels, &fixture.codec, q, &fixture.query);
	view = view_list(&fixture, fixture.centroids);
	CHECK(lower_bound(&fixture, &view, 0, 2) == -INFINITY, "got %g", lower_bound(&fixture, &view, 0, 2));

	/* A residual whose E is out of range becomes one of these */
	for (size_t t = 0; t < 17; t++)
		fixture.row_models[t] = 1e6f;
	memset(fixture.codebook, 0, vq_pq_codebook_floats(&fixture.codec.pq) * sizeof(float));
	encode_as(&fixture, fixture.row_models, fixture.centroids, 0);
	CHECK(fixture.factors[0].a == -INFINITY && fixture.factors[0].s == 0 && fixture.factors[0].e == 0,
		  "a %g s %u e %u", fixture.factors[0].a, fixture.factors[0].s, fixture.factors[0].e);
	fixture_close(&fixture);
}

static void
test_packed_e_is_the_next_above(void)
{
	uint8_t		packed;
	VqRng		rng;

	CHECK(vq_codec_unpack_e(0) == 0, "got %g", vq_codec_unpack_e(0));
	CHECK(vq_codec_unpack_e(255) == 240, "got %g", vq_codec_unpack_e(255));
	for (unsigned byte = 0; byte < 256; byte++)
	{
		float		e = vq_codec_unpack_e((uint8_t) byte);

		CHECK(vq_codec_pack_e(e, &packed) == VQ_OK && packed == byte, "%u comes back as %u", byte, packed);
		if (byte > 0)
			CHECK(e > vq_codec_unpack_e((uint8_t) (byte - 1)), "%u is not above the one before", byte);
	}
	vq_rng_seed(&rng, 44);
	for (size_t i = 0; i < 10000; i++)
	{
		float		e = (float) exp2(vq_rng_double(&rng) * 150 - 142.1);

		CHECK(vq_codec_pack_e(e, &packed) == VQ_OK, "%g was refused", e);
		CHECK(vq_codec_unpack_e(packed) >= e, "%g was rounded down to %g", e, vq_codec_unpack_e(packed));
		CHECK(packed > 0 && vq_codec_unpack_e((uint8_t) (packed - 1)) < e, "%g was rounded up too far", e);
	}
	CHECK(vq_codec_pack_e(1e-45f, &packed) == VQ_OK && packed == 1, "packed is %u", packed);
	CHECK(vq_codec_pack_e(240.01f, &packed) == VQ_BAD_ARGUMENT, "240.01 was taken");
	CHECK(vq_codec_pack_e(-1, &packed) == VQ_BAD_ARGUMENT, "-1 was taken");
	CHECK(vq_codec_pack_e(NAN, &packed) == VQ_BAD_ARGUMENT, "NaN was taken");
	CHECK(vq_codec_pack_e(INFINITY, &packed) == VQ_BAD_ARGUMENT, "infinity was taken");
}

void
suite_vq_codec(void)
{
	RUN_TEST(test_bound_holds_as_often_as_epsilon_says);
	RUN_TEST(test_estimate_is_unbiased_over_rotations);
	RUN_TEST(test_bound_of_exact_duplicates_holds);
	RUN_TEST(test_vector_at_its_centroid_is_estimated_exactly);
	RUN_TEST(test_bound_holds_for_tiny_residuals);
	RUN_TEST(test_bound_holds_with_an_empty_codebook);
	RUN_TEST(test_bound_holds_when_all_rows_are_equal);
	RUN_TEST(test_bound_holds_at_any_magnitude);
	RUN_TEST(test_transform_refuses_what_the_model_cannot_hold);
	RUN_TEST(test_bound_holds_for_a_zero_row);
	RUN_TEST(test_restore_undoes_transform);
	RUN_TEST(test_table_agrees_with_decoded_codes);
	RUN_TEST(test_tables_of_kernels_agree_on_factors);
	RUN_TEST(test_decode_is_the_centroid_and_what_the_codes_stand_for);
	RUN_TEST(test_bound_with_the_whole_error_holds_for_the_worst_query);
	RUN_TEST(test_bound_holds_for_residuals_in_directions_left_out);
	RUN_TEST(test_bound_holds_for_rows_close_to_a_distant_centroid);
	RUN_TEST(test_error_scale_multiplies_e);
	RUN_TEST(test_projection_on_all_axes_changes_nothing);
	RUN_TEST(test_code_space_has_two_bits_for_a_dimension);
	RUN_TEST(test_exact_factors_are_below_everything);
	RUN_TEST(test_packed_e_is_the_next_above);
}
