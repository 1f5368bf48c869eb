/*-------------------------------------------------------------------------
 *
 * ivfpq_project.c
 *	  The directions that codes stand for: those in which residuals vary most.
 *
 * Residuals of real vectors vary in a part of their directions and little in the
 * rest.  Codes that give all of them the same bits waste most.  So the covariance
 * of residuals is found from a part of the sample, and of its eigenvectors the first
 * few, two bits of the code for each, are what is coded (kernels/vq_project.h).  At
 * equal bytes the error of a code is smaller by a third (SIFT, word vectors), or by
 * far more (MNIST).  Where residuals vary in all directions nearly alike, what is left
 * out costs more than that brings; the eigenvalues tell, and there is no projection.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "am/ivfpq_train.h"
#include "miscadmin.h"

#include "base/vq_guc.h"

/* Rows for each dimension: eigenvalues of as many random rows would lie within a third of each other */
#define COVARIANCE_ROWS		32

/* Residuals multiplied at once */
#define CHUNK_ROWS			256

/* A projection must leave this part of the error that codes of all dimensions have in as many bytes */
#define MAX_ERROR_PART		0.85

/* Bytes handed round at once */
#define SHARED_BYTES		8192

/*
 * Of near neighbours, this part should keep a bound of CALIBRATED_EPSILON standard
 * errors, as normal errors would in both directions.  Within limits, as the pairs are
 * few and queries may be unlike rows.
 */
#define CALIBRATED_EPSILON	2.0
#define CALIBRATED_PART		0.99
#define MIN_ERROR_SCALE		0.75
#define MAX_ERROR_SCALE		4.0
#define MIN_PAIRS			200

/* Of a histogram of errors in standard errors */
#define ERROR_BINS			1024
#define BINS_PER_ERROR		64

/*
 * Sum over some rows of the team of the products of all pairs of values of the
 * directions of their residuals, float[dim][dim]
 */
static float *
residual_products(IvfpqTeam *team, const IvfpqSample *sample, const IvfpqLists *lists)
{
	size_t		dim = sample->dim;
	double		part = Min(1.0, (double) COVARIANCE_ROWS * dim / Max(sample->total_rows, 1));
	size_t		nrows = (size_t) ceil(part * sample->nrows);
	uint32	   *row_nos = ivfpq_alloc_array(nrows, sizeof(uint32));
	uint32	   *labels = ivfpq_alloc_array(nrows, sizeof(uint32));
	float	   *columns = ivfpq_alloc_array(CHUNK_ROWS, dim * sizeof(float));
	float	   *residual = palloc(dim * sizeof(float));
	float	   *products = ivfpq_alloc_array(dim, dim * sizeof(float));

	for (size_t i = 0; i < nrows; i++)
		row_nos[i] = i * sample->nrows / nrows;
	ivfpq_label(lists, sample->rows, row_nos, nrows, labels);
	memset(products, 0, dim * dim * sizeof(float));
	for (size_t first = 0; first < nrows; first += CHUNK_ROWS)
	{
		size_t		count = Min(CHUNK_ROWS, nrows - first);

		for (size_t i = 0; i < count; i++)
		{
			const float *x = ivfpq_sample_row(sample, row_nos[first + i]);
			const float *centroid = lists->centroids + (size_t) labels[first + i] * dim;

			for (size_t d = 0; d < dim; d++)
				residual[d] = x[d] - centroid[d];
			vq_codec_direction(vq_kernels, residual, dim);
			for (size_t d = 0; d < dim; d++)
				columns[d * count + i] = residual[d];
		}
		ivfpq_blas()->add_products(dim, dim, count, columns, columns, products);
		CHECK_FOR_INTERRUPTS();
	}
	ivfpq_team_sum_f32(team, products, dim * dim);
	pfree(row_nos);
	pfree(labels);
	pfree(columns);
	pfree(residual);
	return products;
}

/*
 * Mean squared error of codes of so many bits a dimension, relative to what they
 * stand for.  Of normal data, half a bit to two bits: within an eighth for 4-bit
 * codes, a third too much at most for those of 8 bits
 */
static double
code_error(double bits)
{
	return exp2(-1.5 * bits);
}

/*
 * Do codes of the directions of the last, largest values err less than codes of all
 * dimensions would?  What is left out is all error.
 */
static bool
is_worthwhile(const float *values, size_t dim, const VqPq *pq)
{
	double		bits = (double) pq->m * pq->nbits;
	double		all = 0;
	double		left_out = 0;
	double		error;

	for (size_t i = 0; i < dim; i++)
	{
		all += Max(values[i], 0);
		if (i < dim - pq->dim)
			left_out += Max(values[i], 0);
	}
	left_out /= Max(all, FLT_MIN);
	error = left_out + (1 - left_out) * code_error(bits / pq->dim);
	ereport(DEBUG1,
			(errmsg_internal("codes of %u of %zu directions leave out %.3f of the variance: "
							 "error %.3f, %.3f for all directions",
							 pq->dim, dim, left_out, error, code_error(bits / dim))));
	return error <= MAX_ERROR_PART * code_error(bits / dim);
}

/* The image of the projection, from those products, which it frees; false if there should be none */
static bool
make_projection(float *products, size_t dim, const VqPq *pq, void *image)
{
	size_t		ndirections = pq->dim;
	float	   *values = ivfpq_alloc_array(dim, sizeof(float));
	float	   *work = ivfpq_alloc_array(vq_blas_eigen_floats(dim), sizeof(float));
	float	   *vectors = products;
	float	   *largest;
	float	   *directions;
	bool		is_wanted;

	if (!ivfpq_blas()->eigenvectors(dim, vectors, values, work))
		elog(ERROR, "eigenvectors of %zu dimensions were not found", dim);
	pfree(work);
	is_wanted = is_worthwhile(values, dim, pq);
	pfree(values);
	if (!is_wanted)
	{
		pfree(vectors);
		return false;
	}

	/* those of the largest values are the last ones */
	largest = ivfpq_alloc_array(ndirections, dim * sizeof(float));
	for (size_t i = 0; i < ndirections; i++)
		memcpy(largest + i * dim, vectors + (dim - 1 - i) * dim, dim * sizeof(float));
	pfree(vectors);
	directions = ivfpq_alloc_array(ndirections, dim * sizeof(float));
	work = ivfpq_alloc_array(vq_project_arrange_floats(pq->m, pq->dsub), sizeof(float));
	vq_project_arrange(vq_kernels, IVFPQ_SEED, largest, dim, pq->m, pq->dsub, work, directions);
	vq_project_pack(directions, dim, ndirections, image);
	pfree(work);
	pfree(largest);
	pfree(directions);
	return true;
}

bool
ivfpq_train_projection(IvfpqTeam *team, const IvfpqSample *sample, const IvfpqLists *lists, const VqPq *pq,
					   void *image)
{
	float	   *products = residual_products(team, sample, lists);
	bool		is_made = false;

	Assert(pq->dim == pq->m * pq->dsub);
	if (ivfpq_team_is_leader(team))
		is_made = make_projection(products, sample->dim, pq, image);
	else
		pfree(products);
	if (!ivfpq_team_ask_leader(team, is_made))
		return false;
	ivfpq_share_projection(team, sample->dim, pq, image);
	return true;
}

/* Each byte as a number, as sums are of these, and zero but for the leader's */
void
ivfpq_share_projection(IvfpqTeam *team, size_t dim, const VqPq *pq, void *image)
{
	size_t		nbytes = vq_project_bytes(dim, pq->dim);
	uint8	   *bytes = image;
	uint64		values[SHARED_BYTES];

	for (size_t first = 0; first < nbytes && team->size > 1; first += SHARED_BYTES)
	{
		size_t		count = Min(SHARED_BYTES, nbytes - first);

		for (size_t i = 0; i < count; i++)
			values[i] = ivfpq_team_is_leader(team) ? bytes[first + i] : 0;
		ivfpq_team_sum_u64(team, values, count);
		for (size_t i = 0; i < count; i++)
			bytes[first + i] = (uint8) values[i];
	}
}

size_t
ivfpq_projection_bytes(size_t dim, int team_size)
{
	size_t		chunk = CHUNK_ROWS * dim * sizeof(float);
	size_t		pairs = ivfpq_pair_neighbours(team_size) * IVFPQ_PAIR_QUERIES * dim * sizeof(float);
	size_t		matrix = dim * dim * sizeof(float);

	return team_size * (chunk + pairs + matrix) + 2 * matrix;
}

/*----------
 * Errors of the bound
 *----------
 */

/* What it takes to judge pairs, of a metric whose values are squared distances */
typedef struct Judge
{
	const VqCodec *codec;
	const float *q;				/* the query in model space */
	float	   *q_code;
	float	   *x_code;
	float	   *centroid_code;
	float	   *decoded;
	float	   *work;
	uint8	   *codes;
} Judge;

/*
 * By how many standard errors the estimate of the distance from judge's query to x
 * is too large; NaN if the bound of x is no estimate
 */
static double
estimate_error(const Judge *judge, const float *x, const float *centroid)
{
	const VqCodec *codec = judge->codec;
	double		distance_sq = vq_kernels->l2sq_f32(judge->q, centroid, codec->dim);
	double		exact = vq_kernels->l2sq_f32(judge->q, x, codec->dim);
	double		estimate;
	VqFactors	factors;

	vq_codec_to_codes(vq_kernels, codec, x, judge->x_code);
	vq_codec_to_codes(vq_kernels, codec, centroid, judge->centroid_code);
	vq_codec_encode(vq_kernels, codec, x, centroid, judge->x_code, judge->centroid_code,
					judge->work, judge->codes, &factors);
	if (factors.s == 0 || factors.e == 0)
		return NAN;
	vq_pq_decode(&codec->pq, codec->codebook, judge->codes, judge->decoded);
	estimate = distance_sq + factors.a -
		factors.s / VQ_S_ONE * vq_kernels->ip_f32(judge->q_code, judge->decoded, codec->pq.dim);
	return (estimate - exact) / (vq_codec_unpack_e(factors.e) * sqrt(distance_sq));
}

float
ivfpq_train_error_scale(IvfpqTeam *team, const VqCodec *codec, const IvfpqLists *lists, const IvfpqPairs *pairs)
{
	size_t		dim = codec->dim;
	size_t		code_floats = vq_codec_code_floats(codec);
	float	   *buffer = ivfpq_alloc_array(4 * code_floats + vq_codec_encode_floats(codec), sizeof(float));
	Judge		judge = {
		.codec = codec, .q_code = buffer, .x_code = buffer + code_floats,
		.centroid_code = buffer + 2 * code_floats, .decoded = buffer + 3 * code_floats,
		.work = buffer + 4 * code_floats, .codes = palloc(codec->pq.m)
	};
	uint64	   *bins = palloc0(ERROR_BINS * sizeof(uint64));	/* errors below 0 to the first, all large ones to the last */
	uint64		npairs = 0;
	uint64		below = 0;
	int			bin = 0;

	Assert(codec->metric != VQ_METRIC_IP);
	for (size_t q = 0; q < pairs->nqueries; q++)
	{
		judge.q = pairs->queries + q * dim;
		vq_codec_to_codes(vq_kernels, codec, judge.q, judge.q_code);
		for (size_t i = q * pairs->nneighbours; i < (q + 1) * pairs->nneighbours; i++)
		{
			double		error;

			if (pairs->lists[i] == PG_UINT32_MAX)
				continue;
			error = estimate_error(&judge, pairs->neighbours + i * dim, lists->centroids + pairs->lists[i] * dim);
			if (isfinite(error))
				bins[(int) Max(0.0, Min(error * BINS_PER_ERROR, ERROR_BINS - 1))]++;
		}
		CHECK_FOR_INTERRUPTS();
	}
	ivfpq_team_sum_u64(team, bins, ERROR_BINS);
	for (int i = 0; i < ERROR_BINS; i++)
		npairs += bins[i];
	while (bin < ERROR_BINS - 1 && below + bins[bin] < CALIBRATED_PART * npairs)
		below += bins[bin++];
	pfree(buffer);
	pfree(judge.codes);
	pfree(bins);
	if (npairs < MIN_PAIRS)
		return 1.0f;
	return Max(MIN_ERROR_SCALE, Min(MAX_ERROR_SCALE, (bin + 1) / (double) BINS_PER_ERROR / CALIBRATED_EPSILON));
}
