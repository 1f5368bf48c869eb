/*-------------------------------------------------------------------------
 *
 * vq_pq.h
 *	  Product quantiser (Jegou, Douze & Schmid, PAMI 2011): the training of
 *	  one sub-quantiser, decoding, and the quantised look-up table.  Encoding
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

/* Bytes of workspace, aligned as for double, for training one sub-quantiser on nrows rows */
extern size_t vq_pq_train_bytes(const VqPq *pq, size_t nrows);

/*----------
 * Train sub-quantiser j by k-means over rows (float[nrows][m * dsub], padded
 * residuals; only columns j * dsub .. are read), writing its
 * float[dsub][ksub] part of codebook.  niter iterations at most; stops early
 * when the error falls by less than 1/1000.  Works with fewer distinct points
 * than ksub (then some centroids repeat) and with nrows = 0 (all zero).
 * Deterministic for a seed and data.  Bounded time: nrows * ksub * dsub *
 * niter; call it per sub-quantiser and look for interrupts in between.
 *----------
 */
extern void vq_pq_train_sub(const VqKernels *kernels, const VqPq *pq, size_t j,
							const float *rows, size_t nrows, size_t niter, uint64_t seed,
							void *work, float *codebook);

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
 * many independent roundings, plus what float32 costs.
 *----------
 */
typedef struct VqLutScale
{
	float		bias;
	float		step;
	float		error;
} VqLutScale;

extern void vq_pq_quantise_lut(const VqPq *pq, const float *lut, uint8_t *bytes, VqLutScale *scale);

#endif							/* VQ_PQ_H */
