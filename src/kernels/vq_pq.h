/*-------------------------------------------------------------------------
 *
 * vq_pq.h
 *	  Product quantiser (Jegou, Douze & Schmid, PAMI 2011): training,
 *	  decoding, and the quantised look-up table.  Encoding
 *	  and the table of floats are in VqKernels.
 *
 * A vector of dim floats is padded with zeros to m * dsub.  The codebook is
 * float[m][dsub][ksub], ksub = 1 << nbits centroids per sub-quantiser.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_PQ_H
#define VQ_PQ_H

#include "kernels/vq_kernels.h"
#include "kernels/vq_rng.h"

typedef struct VqPq
{
	uint32_t	dim;			/* of the vectors, before padding */
	uint32_t	m;				/* sub-quantisers */
	uint32_t	nbits;			/* 4 or 8 */
	uint32_t	dsub;			/* ceil(dim / m) */
	uint32_t	ksub;			/* 1 << nbits */
} VqPq;

/*
 * Derive dsub and ksub.  VQ_BAD_ARGUMENT unless 1 <= dim <= VQ_MAX_DIM,
 * 1 <= m <= dim, nbits is 4 or 8.
 */
extern VqStatus vq_pq_init(VqPq *pq, size_t dim, size_t m, size_t nbits);

extern size_t vq_pq_codebook_floats(const VqPq *pq);

/*----------
 * Training by k-means, all sub-quantisers at once, as steps that the caller
 * repeats, so that it can check for interrupts and share rows out:
 *
 *		for each j, k: vq_pq_set_centroid from row vq_pq_first_row
 *		repeat
 *			clear sums
 *			for each chunk: vq_pq_accumulate
 *			stop if vq_pq_error has fallen by less than VQ_PQ_TRAIN_GAIN
 *			vq_pq_update
 *
 * rows is float[nrows][m * dsub], padded with zeros.  sums is
 * double[vq_pq_sums_doubles]; sums of different chunks may be added.
 *----------
 */
#define VQ_PQ_TRAIN_GAIN	0.001

extern size_t vq_pq_sums_doubles(const VqPq *pq);

/*
 * The row, of nrows > 0, that centroid k of sub-quantiser j starts from:
 * different ones while there are enough, from all parts of the rows
 */
extern size_t vq_pq_first_row(const VqPq *pq, size_t nrows, uint64_t seed, size_t j, size_t k);
extern void vq_pq_set_centroid(const VqPq *pq, size_t j, size_t k, const float *row, float *codebook);

/* Code rows, and add them to the sums of their codes; codes is workspace, uint8_t[m] */
extern void vq_pq_accumulate(const VqKernels *kernels, const VqPq *pq, const float *codebook,
							 const float *rows, size_t nrows, uint8_t *codes, double *sums);

/* Sum of squared errors, before the update */
extern double vq_pq_error(const VqPq *pq, const double *sums);

/*
 * Centroids := means.  One without rows is put beside the one of the largest
 * error, if there is any error.  Returns how many were.  Changes sums.
 */
extern size_t vq_pq_update(const VqPq *pq, VqRng *rng, double *sums, float *codebook);

/*
 * All of it, with at most niter iterations.  Works with fewer distinct points
 * than ksub (then some centroids mean nothing) and with nrows = 0 (all zero).
 * Deterministic for a seed and data.
 */
extern void vq_pq_train(const VqKernels *kernels, const VqPq *pq, const float *rows, size_t nrows,
						size_t niter, uint64_t seed, double *sums, uint8_t *codes, float *codebook);

/* x := the vector that codes (uint8_t[m]) stand for, float[m * dsub] */
extern void vq_pq_decode(const VqPq *pq, const float *codebook, const uint8_t *codes, float *x);

/*----------
 * Quantise a table of floats (float[m][ksub], from VqKernels.pq_lut) to bytes
 * with one step for all and a bias per sub-quantiser, so that
 *
 *		sum_j lut_j = bias + step * sum_j bytes_j,  within +- error
 *
 * error is the smaller of the worst case of this very table (half a step for
 * every sub-quantiser whose entries differ) and four standard errors of that
 * many independent roundings, plus slack.  deviation is one standard error; slack is
 * what float32 costs, and the worst case of sub-quantisers whose entries are within two steps.
 *----------
 */
typedef struct VqLutScale
{
	float		bias;
	float		step;
	float		error;
	float		deviation;
	float		slack;
} VqLutScale;

extern void vq_pq_quantise_lut(const VqKernels *kernels, const VqPq *pq, const float *lut,
							   uint8_t *bytes, VqLutScale *scale);

#endif							/* VQ_PQ_H */
