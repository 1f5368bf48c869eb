/*-------------------------------------------------------------------------
 *
 * vq_pq.c
 *	  Product quantiser: training, decoding, and look-up tables of bytes.
 *
 * Inner loops run over a constant number of lanes because gcc vectorises, at
 * the -O2 that PGXS compiles with, only loops whose length it knows.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_pq.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define LANES 16				/* divides ksub */

/* Training stops when an iteration lowers the error by less than this share */
#define TRAIN_GAIN	0.001

VqStatus
vq_pq_init(VqPq *pq, size_t dim, size_t m, size_t nbits)
{
	if (dim < 1 || dim > VQ_MAX_DIM || m < 1 || m > dim || (nbits != 4 && nbits != 8))
		return VQ_BAD_ARGUMENT;
	pq->dim = (uint32_t) dim;
	pq->m = (uint32_t) m;
	pq->nbits = (uint32_t) nbits;
	pq->dsub = (uint32_t) ((dim + m - 1) / m);
	pq->ksub = (uint32_t) 1 << nbits;
	return VQ_OK;
}

size_t
vq_pq_codebook_floats(const VqPq *pq)
{
	return (size_t) pq->m * pq->dsub * pq->ksub;
}

/* Workspace of vq_pq_train_sub, in this order */
typedef struct TrainWork
{
	double	   *sums;			/* [ksub][dsub] */
	uint64_t   *counts;			/* [ksub] */
	float	   *points;			/* [nrows][dsub], the columns trained on */
	uint8_t    *codes;			/* [nrows] */
} TrainWork;

size_t
vq_pq_train_bytes(const VqPq *pq, size_t nrows)
{
	return (size_t) pq->ksub * pq->dsub * sizeof(double) +
		pq->ksub * sizeof(uint64_t) +
		nrows * pq->dsub * sizeof(float) +
		nrows;
}

static void
set_centroid(const VqPq *pq, float *centroids, size_t k, const float *point)
{
	for (size_t t = 0; t < pq->dsub; t++)
		centroids[t * pq->ksub + k] = point[t];
}

/*
 * Start from ksub different rows.  At most 256 are drawn, so looking through
 * those drawn before is cheap.  Fewer rows than that are all taken, in turn.
 */
static void
choose_centroids(const VqPq *pq, const float *points, size_t nrows, VqRng *rng, float *centroids)
{
	size_t		chosen[256];

	for (size_t k = 0; k < pq->ksub; k++)
	{
		bool		is_new = nrows <= pq->ksub;

		chosen[k] = k % nrows;
		while (!is_new)
		{
			chosen[k] = (size_t) vq_rng_below(rng, nrows);
			is_new = true;
			for (size_t before = 0; before < k; before++)
			{
				if (chosen[before] == chosen[k])
					is_new = false;
			}
		}
		set_centroid(pq, centroids, k, points + chosen[k] * pq->dsub);
	}
}

/* Code all points, sum them up by code, and return the sum of squared errors */
static double
assign_points(const VqKernels *kernels, const VqPq *pq, size_t nrows,
			  const float *centroids, const TrainWork *work)
{
	double		error = 0;

	memset(work->sums, 0, (size_t) pq->ksub * pq->dsub * sizeof(double));
	memset(work->counts, 0, pq->ksub * sizeof(uint64_t));
	for (size_t i = 0; i < nrows; i++)
	{
		const float *point = work->points + i * pq->dsub;
		uint8_t		code;
		double	   *sum;

		kernels->pq_encode(point, centroids, 1, pq->dsub, pq->ksub, &code);
		sum = work->sums + (size_t) code * pq->dsub;
		for (size_t t = 0; t < pq->dsub; t++)
		{
			double		difference = (double) point[t] - centroids[t * pq->ksub + code];

			sum[t] += point[t];
			error += difference * difference;
		}
		work->counts[code]++;
		work->codes[i] = code;
	}
	return error;
}

/*
 * Centroids := means.  One without points moves to a random point of the most
 * crowded, which then counts as shared; the error cannot rise by that.
 */
static void
move_centroids(const VqPq *pq, size_t nrows, VqRng *rng, float *centroids, const TrainWork *work)
{
	for (size_t k = 0; k < pq->ksub; k++)
	{
		if (work->counts[k] == 0)
			continue;
		for (size_t t = 0; t < pq->dsub; t++)
			centroids[t * pq->ksub + k] = (float) (work->sums[k * pq->dsub + t] / (double) work->counts[k]);
	}
	for (size_t k = 0; k < pq->ksub; k++)
	{
		size_t		crowded = 0;
		size_t		i;

		if (work->counts[k] != 0)
			continue;
		for (size_t other = 1; other < pq->ksub; other++)
		{
			if (work->counts[other] > work->counts[crowded])
				crowded = other;
		}

		/* Codes are those of the assignment, so a point of crowded exists */
		i = (size_t) vq_rng_below(rng, nrows);
		while (work->codes[i] != crowded)
			i = i + 1 < nrows ? i + 1 : 0;
		set_centroid(pq, centroids, k, work->points + i * pq->dsub);
		work->counts[crowded] -= work->counts[crowded] / 2;
	}
}

void
vq_pq_train_sub(const VqKernels *kernels, const VqPq *pq, size_t j,
				const float *rows, size_t nrows, size_t niter, uint64_t seed,
				void *work, float *codebook)
{
	float	   *centroids = codebook + j * pq->dsub * pq->ksub;
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	double		last_error = INFINITY;
	TrainWork	parts;
	VqRng		rng;

	if (nrows == 0)
	{
		memset(centroids, 0, (size_t) pq->dsub * pq->ksub * sizeof(float));
		return;
	}
	parts.sums = work;
	parts.counts = (uint64_t *) (parts.sums + (size_t) pq->ksub * pq->dsub);
	parts.points = (float *) (parts.counts + pq->ksub);
	parts.codes = (uint8_t *) (parts.points + nrows * pq->dsub);

	for (size_t i = 0; i < nrows; i++)
		memcpy(parts.points + i * pq->dsub, rows + i * padded_dim + j * pq->dsub,
			   pq->dsub * sizeof(float));

	/* Sub-quantisers must not all start from the same rows */
	vq_rng_seed(&rng, seed);
	vq_rng_seed(&rng, vq_rng_next(&rng) + j);
	choose_centroids(pq, parts.points, nrows, &rng, centroids);

	for (size_t iteration = 0; iteration < niter; iteration++)
	{
		double		error = assign_points(kernels, pq, nrows, centroids, &parts);

		if (error >= last_error * (1 - TRAIN_GAIN))
			break;
		last_error = error;
		move_centroids(pq, nrows, &rng, centroids, &parts);
	}
}

void
vq_pq_decode(const VqPq *pq, const float *codebook, const uint8_t *codes, float *x)
{
	size_t		dsub = pq->dsub;
	size_t		ksub = pq->ksub;

	for (size_t j = 0; j < pq->m; j++)
	{
		const float *column = codebook + j * dsub * ksub + codes[j];

		for (size_t t = 0; t < dsub; t++)
			x[j * dsub + t] = column[t * ksub];
	}
}

static inline float
smaller(float a, float b)
{
	return a < b ? a : b;
}

static inline float
larger(float a, float b)
{
	return a > b ? a : b;
}

/* Smallest and largest of ksub entries, in four chains so that none waits long for itself */
static void
find_range(const float *entries, size_t ksub, float *low, float *high)
{
	float		low0 = entries[0];
	float		low1 = entries[1];
	float		low2 = entries[2];
	float		low3 = entries[3];
	float		high0 = low0;
	float		high1 = low1;
	float		high2 = low2;
	float		high3 = low3;

	for (size_t k = 4; k < ksub; k += 4)
	{
		low0 = smaller(entries[k], low0);
		low1 = smaller(entries[k + 1], low1);
		low2 = smaller(entries[k + 2], low2);
		low3 = smaller(entries[k + 3], low3);
		high0 = larger(entries[k], high0);
		high1 = larger(entries[k + 1], high1);
		high2 = larger(entries[k + 2], high2);
		high3 = larger(entries[k + 3], high3);
	}
	*low = smaller(smaller(low0, low1), smaller(low2, low3));
	*high = larger(larger(high0, high1), larger(high2, high3));
}

/*
 * bytes := round((entries - low) * per_step), which lies in 0 to 255.  Adding
 * 1.5 * 2^23 leaves that integer in the lowest bits of the float: the same
 * on every machine, and defined even for values that are no numbers.
 */
static void
round_entries(const float *restrict entries, size_t ksub, float low, float per_step,
			  uint8_t *restrict bytes)
{
	for (size_t k = 0; k < ksub; k += LANES)
	{
		float		shifted[LANES];
		uint32_t	bits[LANES];

		for (size_t lane = 0; lane < LANES; lane++)
			shifted[lane] = (entries[k + lane] - low) * per_step + 12582912.0f;
		memcpy(bits, shifted, sizeof(bits));
		for (size_t lane = 0; lane < LANES; lane++)
			bytes[k + lane] = (uint8_t) bits[lane];
	}
}

void
vq_pq_quantise_lut(const VqPq *pq, const float *lut, uint8_t *bytes, VqLutScale *scale)
{
	size_t		ksub = pq->ksub;
	size_t		nvaried = 0;	/* sub-quantisers whose entries differ */
	float		widest = 0;
	double		bias = 0;
	double		largest = 0;	/* bound of the sums' magnitude */
	float		step;
	double		worst;
	double		typical;

	/* Until it gets its bytes, the place of each sub-quantiser keeps its low */
	for (size_t j = 0; j < pq->m; j++)
	{
		float		low;
		float		high;

		find_range(lut + j * ksub, ksub, &low, &high);
		memcpy(bytes + j * ksub, &low, sizeof(low));
		bias += low;
		largest += fabs(low) + ((double) high - low);
		if (high > low)
			nvaried++;
		if (high - low > widest)
			widest = high - low;
	}

	/* Of a step that is too small for its reciprocal, take the smallest that is not */
	step = widest / 255;
	if (widest > 0 && step < FLT_MIN)
		step = FLT_MIN;

	for (size_t j = 0; j < pq->m; j++)
	{
		float		low;

		memcpy(&low, bytes + j * ksub, sizeof(low));
		round_entries(lut + j * ksub, ksub, low, step > 0 ? 1 / step : 0, bytes + j * ksub);
	}

	/*
	 * Rounding to the nearest has a standard error of step / sqrt(12).  The
	 * last term covers bias, step and their use in float32.
	 */
	worst = step * 0.5 * (double) nvaried;
	typical = step * 4 * sqrt((double) nvaried / 12);
	scale->bias = (float) bias;
	scale->step = step;
	scale->error = (float) ((worst < typical ? worst : typical) + largest * FLT_EPSILON);
}
