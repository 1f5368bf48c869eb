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

/* A table of bytes whose entries are within so many steps is rounded as it happens, not at random */
#define NARROW_STEPS 2

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

/* In sums, what belongs to one centroid: sums of coordinates, squared error, number of points */
static size_t
sums_stride(const VqPq *pq)
{
	return (size_t) pq->dsub + 2;
}

size_t
vq_pq_sums_doubles(const VqPq *pq)
{
	return (size_t) pq->m * pq->ksub * sums_stride(pq);
}

size_t
vq_pq_first_row(const VqPq *pq, size_t nrows, uint64_t seed, size_t j, size_t k)
{
	size_t		step = nrows / pq->ksub;
	VqRng		rng;

	if (step == 0)
		return k % nrows;

	/* Sub-quantisers must not all start from the same rows */
	vq_rng_seed(&rng, seed + j);
	return k * step + (size_t) vq_rng_below(&rng, step);
}

void
vq_pq_set_centroid(const VqPq *pq, size_t j, size_t k, const float *row, float *codebook)
{
	float	   *centroids = codebook + j * pq->dsub * pq->ksub;

	for (size_t t = 0; t < pq->dsub; t++)
		centroids[t * pq->ksub + k] = row[j * pq->dsub + t];
}

void
vq_pq_accumulate(const VqKernels *kernels, const VqPq *pq, const float *codebook,
				 const float *rows, size_t nrows, uint8_t *codes, double *sums)
{
	size_t		dsub = pq->dsub;
	size_t		ksub = pq->ksub;

	for (size_t i = 0; i < nrows; i++)
	{
		const float *row = rows + i * pq->m * dsub;

		kernels->pq_encode(row, codebook, pq->m, dsub, ksub, codes);
		for (size_t j = 0; j < pq->m; j++)
		{
			const float *centroid = codebook + j * dsub * ksub + codes[j];
			double	   *sum = sums + (j * ksub + codes[j]) * sums_stride(pq);

			for (size_t t = 0; t < dsub; t++)
			{
				double		difference = (double) row[j * dsub + t] - centroid[t * ksub];

				sum[t] += row[j * dsub + t];
				sum[dsub] += difference * difference;
			}
			sum[dsub + 1]++;
		}
	}
}

double
vq_pq_error(const VqPq *pq, const double *sums)
{
	double		error = 0;

	for (size_t i = 0; i < (size_t) pq->m * pq->ksub; i++)
		error += sums[i * sums_stride(pq) + pq->dsub];
	return error;
}

/*
 * Put centroid k beside the one of the largest error, as far from it as its
 * points are on average, and let the two share that error.  Without any error
 * there is nothing that k could do.
 */
static size_t
split_worst(const VqPq *pq, VqRng *rng, size_t k, float *centroids, double *sums)
{
	size_t		dsub = pq->dsub;
	size_t		stride = sums_stride(pq);
	size_t		worst = 0;
	uint64_t	bits = 0;
	double	   *sum;
	float		step;

	for (size_t other = 1; other < pq->ksub; other++)
	{
		if (sums[other * stride + dsub] > sums[worst * stride + dsub])
			worst = other;
	}
	sum = sums + worst * stride;
	if (!(sum[dsub] > 0))
		return 0;
	step = (float) sqrt(sum[dsub] / sum[dsub + 1] / (double) dsub);
	for (size_t t = 0; t < dsub; t++)
	{
		if (t % 64 == 0)
			bits = vq_rng_next(rng);
		centroids[t * pq->ksub + k] = centroids[t * pq->ksub + worst] + (bits & 1 ? step : -step);
		bits >>= 1;
	}
	sum[dsub] /= 4;
	return 1;
}

size_t
vq_pq_update(const VqPq *pq, VqRng *rng, double *sums, float *codebook)
{
	size_t		dsub = pq->dsub;
	size_t		ksub = pq->ksub;
	size_t		stride = sums_stride(pq);
	size_t		nmoved = 0;

	for (size_t j = 0; j < pq->m; j++)
	{
		float	   *centroids = codebook + j * dsub * ksub;
		double	   *own = sums + j * ksub * stride;

		for (size_t k = 0; k < ksub; k++)
		{
			const double *sum = own + k * stride;

			for (size_t t = 0; t < dsub && sum[dsub + 1] > 0; t++)
				centroids[t * ksub + k] = (float) (sum[t] / sum[dsub + 1]);
		}
		for (size_t k = 0; k < ksub; k++)
		{
			if (own[k * stride + dsub + 1] == 0)
				nmoved += split_worst(pq, rng, k, centroids, own);
		}
	}
	return nmoved;
}

void
vq_pq_train(const VqKernels *kernels, const VqPq *pq, const float *rows, size_t nrows,
			size_t niter, uint64_t seed, double *sums, uint8_t *codes, float *codebook)
{
	double		last_error = INFINITY;
	size_t		nmoved = 0;
	VqRng		rng;

	memset(codebook, 0, vq_pq_codebook_floats(pq) * sizeof(float));
	if (nrows == 0)
		return;
	for (size_t j = 0; j < pq->m; j++)
		for (size_t k = 0; k < pq->ksub; k++)
			vq_pq_set_centroid(pq, j, k, rows + vq_pq_first_row(pq, nrows, seed, j, k) * pq->m * pq->dsub,
							   codebook);
	vq_rng_seed(&rng, seed);
	for (size_t iteration = 0; iteration < niter; iteration++)
	{
		double		error;

		memset(sums, 0, vq_pq_sums_doubles(pq) * sizeof(double));
		vq_pq_accumulate(kernels, pq, codebook, rows, nrows, codes, sums);
		error = vq_pq_error(pq, sums);
		if (nmoved == 0 && error >= last_error * (1 - VQ_PQ_TRAIN_GAIN))
			break;
		last_error = error;
		nmoved = vq_pq_update(pq, &rng, sums, codebook);
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

void
vq_pq_quantise_lut(const VqKernels *kernels, const VqPq *pq, const float *lut,
				   uint8_t *bytes, VqLutScale *scale)
{
	size_t		nvaried = 0;	/* sub-quantisers whose entries differ */
	float		widest = 0;
	double		bias = 0;
	double		largest = 0;	/* bound of the sums' magnitude */
	float		step;
	double		worst;
	double		deviation;
	double		slack;

	kernels->lut_ranges(lut, pq->m, pq->ksub, bytes);
	for (size_t j = 0; j < pq->m; j++)
	{
		float		range[2];
		float		width;

		memcpy(range, bytes + j * pq->ksub, sizeof(range));
		width = range[1] - range[0];
		bias += range[0];
		largest += fabsf(range[0]) + (double) width;
		nvaried += width > 0;
		widest = width > widest ? width : widest;
	}

	/* Of a step that is too small for its reciprocal, take the smallest that is not */
	step = widest / 255;
	if (widest > 0 && step < FLT_MIN)
		step = FLT_MIN;

	/*
	 * Beside much wider ones narrow tables may all be rounded the same way where it matters, at their largest entries, which are
	 * those of the nearest rows: so that is taken at its worst.  Within half a step all bytes are 0, and stand for the middle.
	 */
	slack = 0;
	for (size_t j = 0; j < pq->m; j++)
	{
		float		range[2];
		double		width;

		memcpy(range, bytes + j * pq->ksub, sizeof(range));
		width = (double) range[1] - range[0];
		if (width <= 0 || width >= NARROW_STEPS * (double) step)
			continue;
		nvaried--;
		if (width < step * 0.499)
		{
			bias += width / 2;
			slack += width / 2;
		}
		else
			slack += step * 0.5;
	}
	kernels->lut_bytes(lut, pq->m, pq->ksub, step > 0 ? 1 / step : 0, bytes);

	/*
	 * Rounding to the nearest has a standard error of step / sqrt(12).  The
	 * last term covers bias, step and their use in float32.
	 */
	worst = step * 0.5 * (double) nvaried;
	deviation = step * sqrt((double) nvaried / 12);
	slack += largest * FLT_EPSILON;
	scale->bias = (float) bias;
	scale->step = step;
	scale->error = (float) ((worst < 4 * deviation ? worst : 4 * deviation) + slack);
	scale->deviation = (float) deviation;
	scale->slack = (float) slack;
}
