/*-------------------------------------------------------------------------
 *
 * test_vq_codec.c
 *	  The estimate is right on average, the bound holds as often as it says,
 *	  and vectors that codes cannot stand for are bounded all the same.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include "kernels/vq_codec.h"
#include "kernels/vq_kmeans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const VqMetric metrics[] = {VQ_METRIC_L2, VQ_METRIC_IP, VQ_METRIC_COSINE};
static const char *const metric_names[] = {"", "l2", "ip", "cosine"};

#define NMETRICS 3

/* A model, and rows coded with it, as an index would hold them */
typedef struct Fixture
{
	const VqKernels *kernels;
	VqCodec		codec;
	size_t		nrows;
	size_t		nlists;
	size_t		dim;
	float	   *rows;			/* as a user has them */
	float	   *row_models;
	float	   *mean;
	float	   *signs;
	float	   *codebook;
	float	   *centroids;
	float	   *norms;
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
 * Vectors of a mixture of eight gaussians of unequal variance by dimension, not
 * centred at the origin.
 */
static void
fill_mixture(uint64_t seed, size_t nrows, size_t dim, double magnitude, float *rows)
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
			double		spread = 0.2 + 0.8 * (double) (dim - t) / (double) dim;

			rows[i * dim + t] = (float) (magnitude * (centre[t] + spread * random_gaussian(&rng)));
		}
	}
	free(centres);
}

/* Allocate, and fill in all of the codec but what training gives */
static void
fixture_open(Fixture *fixture, VqMetric metric, size_t nrows, size_t nlists, size_t dim, size_t m, size_t nbits)
{
	VqCodec    *codec = &fixture->codec;
	size_t		padded_dim;
	size_t		lut_entries;

	memset(fixture, 0, sizeof(*fixture));
	fixture->kernels = vq_kernels_by_name("auto");
	fixture->nrows = nrows;
	fixture->nlists = nlists;
	fixture->dim = dim;
	codec->metric = metric;
	codec->rotation = VQ_ROTATION_HADAMARD;
	codec->scale = 1;
	CHECK(vq_pq_init(&codec->pq, dim, m, nbits) == VQ_OK, "dim %zu m %zu", dim, m);
	padded_dim = (size_t) codec->pq.m * codec->pq.dsub;
	lut_entries = (size_t) codec->pq.m * codec->pq.ksub;

	fixture->rows = calloc(nrows * dim, sizeof(float));
	fixture->row_models = calloc(nrows * dim, sizeof(float));
	fixture->mean = calloc(dim, sizeof(float));
	fixture->signs = malloc(vq_rotate_sign_bytes(dim));
	fixture->codebook = calloc(vq_pq_codebook_floats(&codec->pq), sizeof(float));
	fixture->centroids = calloc(nlists * dim, sizeof(float));
	fixture->norms = malloc(nlists * sizeof(float));
	fixture->work = malloc(vq_codec_encode_floats(codec) * sizeof(float));
	fixture->labels = calloc(nrows, sizeof(uint32_t));
	fixture->codes = malloc(nrows * m);
	fixture->factors = malloc(nrows * sizeof(VqFactors));
	fixture->query.q_model = malloc(padded_dim * sizeof(float));
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
	free(fixture->codebook);
	free(fixture->centroids);
	free(fixture->norms);
	free(fixture->work);
	free(fixture->labels);
	free(fixture->codes);
	free(fixture->factors);
	free(fixture->query.q_model);
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
		vq_kmeans_accumulate(&sums, fixture->row_models, fixture->nrows, fixture->labels, NULL);
		vq_kmeans_update(&sums, &rng, fixture->centroids);
	}
	free(work);
	free(sums.sums);
	free(sums.counts);
}

static void
train_codebook(Fixture *fixture, size_t niter)
{
	const VqPq *pq = &fixture->codec.pq;
	size_t		dim = fixture->dim;
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	float	   *residuals = calloc(fixture->nrows * padded_dim, sizeof(float));
	double	   *sums = malloc(vq_pq_sums_doubles(pq) * sizeof(double));
	uint8_t    *codes = malloc(pq->m);

	for (size_t i = 0; i < fixture->nrows; i++)
	{
		for (size_t t = 0; t < dim; t++)
			residuals[i * padded_dim + t] = fixture->row_models[i * dim + t] -
				fixture->centroids[fixture->labels[i] * dim + t];
	}
	vq_pq_train(fixture->kernels, pq, residuals, fixture->nrows, niter, 9, sums, codes, fixture->codebook);
	free(residuals);
	free(sums);
	free(codes);
}

static void
encode_rows(Fixture *fixture)
{
	for (size_t i = 0; i < fixture->nrows; i++)
		vq_codec_encode(fixture->kernels, &fixture->codec, fixture->row_models + i * fixture->dim,
						fixture->centroids + fixture->labels[i] * fixture->dim, fixture->work,
						fixture->codes + i * fixture->codec.pq.m, &fixture->factors[i]);
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
	{128, 64, 4}, {128, 32, 8},
	{300, 150, 4}, {300, 40, 8},
};

#define NSHAPES (sizeof(shapes) / sizeof(shapes[0]))

static void
test_bound_holds_as_often_as_epsilon_says(void)
{
	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		for (size_t shape = 0; shape < NSHAPES; shape++)
		{
			size_t		dim = shapes[shape].dim;
			Fixture		fixture;
			float	   *queries = malloc(8 * dim * sizeof(float));
			double		share;

			fixture_open(&fixture, metrics[metric], 400, 8, dim, shapes[shape].m, shapes[shape].nbits);
			fill_mixture(21, 400, dim, 1, fixture.rows);
			fill_mixture(22, 8, dim, 1, queries);
			fixture_train(&fixture);
			share = share_of_broken_bounds(&fixture, queries, 8, 2);
			CHECK(share <= 0.05, "%s dim %zu m %zu nbits %zu: %g of the bounds at epsilon 2 are broken",
				  metric_names[metrics[metric]], dim, shapes[shape].m, shapes[shape].nbits, share);
			share = share_of_broken_bounds(&fixture, queries, 8, 6);
			CHECK(share <= 0.0005, "%s dim %zu m %zu nbits %zu: %g of the bounds at epsilon 6 are broken",
				  metric_names[metrics[metric]], dim, shapes[shape].m, shapes[shape].nbits, share);
			free(queries);
			fixture_close(&fixture);
		}
	}
}

/*
 * The mean is over rotations: for one rotation, the errors of a vector against
 * neighbouring queries have a common part.  So each trial draws its own signs,
 * a query, a vector and a centroid between them, and keeps the codebook.
 */
static void
test_estimate_is_unbiased_over_rotations(void)
{
	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		for (size_t shape = 0; shape < NSHAPES; shape++)
		{
			size_t		dim = shapes[shape].dim;
			Fixture		fixture;
			float	   *vectors = malloc(2 * dim * sizeof(float));
			float	   *centroid;
			double		sum = 0;
			double		square_sum = 0;
			size_t		ntrials = 0;

			/* Nothing is random in one dimension, and of few the mean square says little */
			if (dim < 17)
			{
				free(vectors);
				continue;
			}
			fixture_open(&fixture, metrics[metric], 400, 8, dim, shapes[shape].m, shapes[shape].nbits);
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
				vq_codec_encode(fixture.kernels, &fixture.codec, fixture.row_models, centroid,
								fixture.work, fixture.codes, fixture.factors);
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
				  metric_names[metrics[metric]], dim, shapes[shape].m, shapes[shape].nbits,
				  sum / (double) ntrials, sqrt(square_sum) / (double) ntrials);

			/* E is the standard error if nothing of q' - c lies along r, and too large otherwise */
			CHECK(sqrt(square_sum / (double) ntrials) < 1.15 && sqrt(square_sum / (double) ntrials) > 0.4,
				  "%s dim %zu m %zu nbits %zu: errors are %g of E",
				  metric_names[metrics[metric]], dim, shapes[shape].m, shapes[shape].nbits,
				  sqrt(square_sum / (double) ntrials));
			free(vectors);
			fixture_close(&fixture);
		}
	}
}

/* A query that is a row must find it: its bound is at most the exact value */
static void
test_bound_of_exact_duplicates_holds(void)
{
	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		for (size_t shape = 0; shape < NSHAPES; shape++)
		{
			size_t		dim = shapes[shape].dim;
			Fixture		fixture;
			size_t		nbroken = 0;

			fixture_open(&fixture, metrics[metric], 200, 8, dim, shapes[shape].m, shapes[shape].nbits);
			fill_mixture(24, 200, dim, 1, fixture.rows);
			fixture_train(&fixture);
			for (size_t i = 0; i < 100; i++)
			{
				const float *q = fixture.rows + i * dim;
				ListView	view;

				vq_codec_query(fixture.kernels, &fixture.codec, q, &fixture.query);
				view = view_list(&fixture, fixture.centroids + fixture.labels[i] * dim);
				nbroken += !(lower_bound(&fixture, &view, i, 2) <= exact_value(&fixture, q, q) + 1e-9);
			}
			/* The error of the table is bounded to four standard errors, w is not part of it */
			CHECK(nbroken == 0, "%s dim %zu m %zu nbits %zu: %zu of 100 bounds are broken",
				  metric_names[metrics[metric]], dim, shapes[shape].m, shapes[shape].nbits, nbroken);
			fixture_close(&fixture);
		}
	}
}

/* Vectors in the very place of their centroid need no code: S and E are 0 */
static void
test_vector_at_its_centroid_is_estimated_exactly(void)
{
	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		Fixture		fixture;
		float		queries[5 * 17];

		fixture_open(&fixture, metrics[metric], 200, 4, 17, 9, 4);
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
				  metric_names[metrics[metric]], estimate(&fixture, &view, 0), want);
			CHECK(lower_bound(&fixture, &view, 0, 2) <= want + 1e-9, "%s: bound is broken",
				  metric_names[metrics[metric]]);
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
	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		Fixture		fixture;
		float		queries[6 * 30];

		fixture_open(&fixture, metrics[metric], 200, 4, 30, 15, 4);
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
			vq_codec_encode(fixture.kernels, &fixture.codec, x, fixture.centroids, fixture.work,
							fixture.codes, fixture.factors);
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

					if (metrics[metric] == VQ_METRIC_IP)
						want -= coordinate * x[t];
					else
						want += (coordinate - x[t]) * (coordinate - x[t]);
				}
				low = lower_bound(&fixture, &view, 0, 6);
				CHECK(low <= want + 1e-30, "%s 1e%d query %zu: bound %g, exact %g",
					  metric_names[metrics[metric]], exponent, i, low, want);
				if (exponent <= -10 && i < 6)
					CHECK(low >= want - 1e-5 * (1 + view.distance_sq), "%s 1e%d query %zu: bound %g is far from %g",
						  metric_names[metrics[metric]], exponent, i, low, want);
			}
		}
		fixture_close(&fixture);
	}
}

/* A codebook of zeros says nothing of any vector; the sphere bounds them */
static void
test_bound_holds_with_an_empty_codebook(void)
{
	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		Fixture		fixture;
		float		queries[8 * 17];
		double		share;

		fixture_open(&fixture, metrics[metric], 200, 4, 17, 9, 4);
		fill_mixture(29, 200, 17, 1, fixture.rows);
		fill_mixture(30, 8, 17, 1, queries);
		fixture_train(&fixture);
		memset(fixture.codebook, 0, vq_pq_codebook_floats(&fixture.codec.pq) * sizeof(float));
		encode_rows(&fixture);
		for (size_t i = 0; i < fixture.nrows; i++)
			CHECK(fixture.factors[i].s == 0 && isfinite(fixture.factors[i].a), "row %zu: s %u a %g",
				  i, fixture.factors[i].s, fixture.factors[i].a);
		share = share_of_broken_bounds(&fixture, queries, 8, 1);
		CHECK(share == 0, "%s: %g of the bounds are broken", metric_names[metrics[metric]], share);
		fixture_close(&fixture);
	}
}

static void
test_bound_holds_when_all_rows_are_equal(void)
{
	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		Fixture		fixture;
		float		queries[8 * 17];
		double		share;

		fixture_open(&fixture, metrics[metric], 100, 4, 17, 9, 4);
		fill_mixture(31, 1, 17, 1, fixture.rows);
		for (size_t i = 1; i < 100; i++)
			memcpy(fixture.rows + i * 17, fixture.rows, 17 * sizeof(float));
		fill_mixture(32, 7, 17, 1, queries);
		memcpy(queries + 7 * 17, fixture.rows, 17 * sizeof(float));
		fixture_train(&fixture);
		share = share_of_broken_bounds(&fixture, queries, 8, 2);
		CHECK(share == 0, "%s: %g of the bounds are broken", metric_names[metrics[metric]], share);
		fixture_close(&fixture);
	}
}

/* Squares of such vectors leave float32 in either direction */
static void
test_bound_holds_at_any_magnitude(void)
{
	static const double magnitudes[] = {1e-30, 1e-12, 1e12, 1e30};

	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		for (size_t i = 0; i < sizeof(magnitudes) / sizeof(magnitudes[0]); i++)
		{
			Fixture		fixture;
			float		queries[8 * 17];
			double		share;

			fixture_open(&fixture, metrics[metric], 300, 8, 17, 9, 4);
			fill_mixture(33, 300, 17, magnitudes[i], fixture.rows);
			fill_mixture(34, 8, 17, magnitudes[i], queries);
			fixture_train(&fixture);
			for (size_t row = 0; row < fixture.nrows; row++)
				CHECK(isfinite(fixture.factors[row].a), "%s %g row %zu is not coded",
					  metric_names[metrics[metric]], magnitudes[i], row);
			share = share_of_broken_bounds(&fixture, queries, 8, 2);
			CHECK(share <= 0.05, "%s %g: %g of the bounds are broken",
				  metric_names[metrics[metric]], magnitudes[i], share);
			share = share_of_broken_bounds(&fixture, queries, 8, 6);
			CHECK(share <= 0.0005, "%s %g: %g of the bounds at epsilon 6 are broken",
				  metric_names[metrics[metric]], magnitudes[i], share);
			fixture_close(&fixture);
		}
	}
}

static void
test_transform_refuses_what_the_model_cannot_hold(void)
{
	static const float zeros[17] = {0};
	Fixture		fixture;

	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		bool		is_l2 = metrics[metric] == VQ_METRIC_L2;
		float		x[17];
		float		model[17];
		VqStatus	status;

		fixture_open(&fixture, metrics[metric], 100, 4, 17, 9, 4);
		fill_mixture(35, 100, 17, 1, fixture.rows);
		fixture_train(&fixture);

		status = vq_codec_transform(fixture.kernels, &fixture.codec, zeros, model);
		CHECK(status == (metrics[metric] == VQ_METRIC_COSINE ? VQ_ZERO_VECTOR : VQ_OK),
			  "%s: status %d of a zero vector", metric_names[metrics[metric]], (int) status);
		status = vq_codec_query(fixture.kernels, &fixture.codec, zeros, &fixture.query);
		CHECK(status == (is_l2 ? VQ_OK : VQ_ZERO_VECTOR),
			  "%s: status %d of a zero query", metric_names[metrics[metric]], (int) status);

		for (size_t t = 0; t < 17; t++)
			x[t] = t % 2 == 0 ? 3e38f : -3e38f;
		status = vq_codec_transform(fixture.kernels, &fixture.codec, x, model);
		CHECK(status == (metrics[metric] == VQ_METRIC_COSINE ? VQ_OK : VQ_NOT_FINITE),
			  "%s: status %d of a huge vector", metric_names[metrics[metric]], (int) status);
		CHECK(status == VQ_OK || memcmp(model, zeros, sizeof(model)) == 0,
			  "%s: a vector that was refused is not zero", metric_names[metrics[metric]]);
		status = vq_codec_query(fixture.kernels, &fixture.codec, x, &fixture.query);
		CHECK(status == (is_l2 ? VQ_NOT_FINITE : VQ_OK),
			  "%s: status %d of a huge query", metric_names[metrics[metric]], (int) status);

		memcpy(x, fixture.rows, sizeof(x));
		x[3] = NAN;
		status = vq_codec_transform(fixture.kernels, &fixture.codec, x, model);
		CHECK(status == VQ_NOT_FINITE, "%s: status %d of a vector with NaN", metric_names[metrics[metric]], (int) status);
		status = vq_codec_query(fixture.kernels, &fixture.codec, x, &fixture.query);
		CHECK(status == VQ_NOT_FINITE, "%s: status %d of a query with NaN", metric_names[metrics[metric]], (int) status);
		x[3] = INFINITY;
		status = vq_codec_transform(fixture.kernels, &fixture.codec, x, model);
		CHECK(status == VQ_NOT_FINITE, "%s: status %d of a vector with infinity", metric_names[metrics[metric]], (int) status);

		/* The smallest there is still has a direction */
		memset(x, 0, sizeof(x));
		x[5] = 1e-45f;
		status = vq_codec_transform(fixture.kernels, &fixture.codec, x, model);
		CHECK(status == VQ_OK, "%s: status %d of a tiny vector", metric_names[metrics[metric]], (int) status);
		fixture_close(&fixture);
	}
}

/* A zero row under L2 and inner product is a row as any other */
static void
test_bound_holds_for_a_zero_row(void)
{
	for (size_t metric = 0; metric < 2; metric++)
	{
		Fixture		fixture;
		float		queries[8 * 17];
		double		share;

		fixture_open(&fixture, metrics[metric], 100, 4, 17, 9, 4);
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
		CHECK(share == 0, "%s: %g of the bounds are broken", metric_names[metrics[metric]], share);
		fixture_close(&fixture);
	}
}

static void
test_restore_undoes_transform(void)
{
	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		for (size_t shape = 0; shape < NSHAPES; shape++)
		{
			size_t		dim = shapes[shape].dim;
			Fixture		fixture;
			float	   *restored = malloc(dim * sizeof(float));
			double		worst = 0;

			fixture_open(&fixture, metrics[metric], 50, 4, dim, shapes[shape].m, shapes[shape].nbits);
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

				if (metrics[metric] == VQ_METRIC_COSINE)
					norm = sqrt((double) fixture.kernels->ip_f32(x, x, dim));
				for (size_t t = 0; t < dim; t++)
					worst = fmax(worst, fabs(restored[t] - x[t] / norm) * norm);
			}
			CHECK(worst < 100 * 3e-6 * sqrt((double) dim), "%s dim %zu: largest difference %g",
				  metric_names[metrics[metric]], dim, worst);
			free(restored);
			fixture_close(&fixture);
		}
	}
}

/* Everything a decoded code says must be what the table says of the query */
static void
test_table_agrees_with_decoded_codes(void)
{
	Fixture		fixture;
	float		decoded[18];
	float		q[17];

	fixture_open(&fixture, VQ_METRIC_L2, 200, 4, 17, 6, 4);
	fill_mixture(39, 200, 17, 1, fixture.rows);
	fill_mixture(40, 1, 17, 1, q);
	fixture_train(&fixture);
	CHECK(vq_codec_query(fixture.kernels, &fixture.codec, q, &fixture.query) == VQ_OK, "query failed");
	CHECK(fixture.query.q_model[17] == 0, "padding is %g", fixture.query.q_model[17]);
	for (size_t i = 0; i < 200; i++)
	{
		const uint8_t *codes = fixture.codes + i * 6;
		double		sum = 0;
		double		want;

		vq_pq_decode(&fixture.codec.pq, fixture.codebook, codes, decoded);
		want = fixture.kernels->ip_f32(fixture.query.q_model, decoded, 18);
		for (size_t j = 0; j < 6; j++)
			sum += fixture.query.lut_floats[j * 16 + codes[j]];
		CHECK(fabs(sum - want) < 1e-5, "row %zu: got %g, want %g", i, sum, want);
	}
	fixture_close(&fixture);
}

/* One index may be built by one table of kernels and searched by another */
static void
test_tables_of_kernels_agree_on_factors(void)
{
	for (size_t metric = 0; metric < NMETRICS; metric++)
	{
		Fixture		fixture;
		VqFactors	want[100];
		size_t		ncodes_differ = 0;

		fixture_open(&fixture, metrics[metric], 100, 4, 33, 17, 4);
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
				/* On a tie within rounding, tables may choose differently */
				if (memcmp(codes + i * 17, fixture.codes + i * 17, 17) != 0)
					ncodes_differ++;
				else
					CHECK(fabsf(fixture.factors[i].a - want[i].a) < 1e-5f &&
						  abs((int) fixture.factors[i].s - (int) want[i].s) <= 1 &&
						  abs((int) fixture.factors[i].e - (int) want[i].e) <= 1,
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
test_exact_factors_are_below_everything(void)
{
	Fixture		fixture;
	float		q[17];
	ListView	view;

	fixture_open(&fixture, VQ_METRIC_L2, 100, 4, 17, 9, 4);
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
	vq_codec_encode(fixture.kernels, &fixture.codec, fixture.row_models, fixture.centroids, fixture.work,
					fixture.codes, fixture.factors);
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
	RUN_TEST(test_exact_factors_are_below_everything);
	RUN_TEST(test_packed_e_is_the_next_above);
}
