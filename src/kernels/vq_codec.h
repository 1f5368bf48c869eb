/*-------------------------------------------------------------------------
 *
 * vq_codec.h
 *	  From a vector to a code with its factors, and from a query to the lower
 *	  bound of its distance to every coded vector.
 *
 * Spaces.  A vector of the user is x.  The codec works in "model space":
 *
 *		L2		x' = s R (x - mean)			value = s^2 |q - x|^2
 *		IP		x' = s R x					value = -(s / |q|) <q, x>
 *		cosine	x' = R (x / |x| - mean)		value = 2 (1 - cos(q, x)) = |q - x|^2
 *
 * where R is the rotation, mean the mean of the training sample (zero for IP)
 * and s a power of two that brings the sample to unit size, so that float32
 * and the small factors below suit data of any magnitude.  Centroids,
 * residuals and bounds live there.  For IP the query is q' = R q / |q|.
 *
 * Codes live in "code space": either model space itself or, with a projection
 * (vq_project.h) on the directions in which residuals vary most, fewer dimensions,
 * y = P x'.  <P x', r^> = <x', P^T r^>, so a code stands for P^T r^, which has nothing
 * in the directions that P leaves out.  Below, r^ means that.  The bound is right for
 * any P, as it is made from what the code misses of the whole r; the better P suits
 * the data, the tighter it is.  Rows of P are orthonormal but for rounding, for which
 * E has a margin.
 *
 * Codes stand for directions: what is coded is r / |r|, of r = x' - c, the residual
 * against the centroid of its list.  Lengths of residuals differ, within a set by
 * factors, and a codebook made for one length would suit few of them (of word vectors
 * the error is a seventh smaller than of codes of r itself).
 *
 * Estimator.  With r^ the decoded code, a = <r,r^> / |r|^2 and w = r^ - a r (which is
 * orthogonal to r), the estimate of Gao & Long (RaBitQ, SIGMOD 2024, section
 * 3.2), carried from binary to product-quantised codes, is
 *
 *		est = B(q, list) + A - S L,		L = <q', r^> from the look-up table
 *		low = est - epsilon E |q' - c|
 *
 *				 B				S		A							E
 *		L2, cos	 |q' - c|^2		2 / a	|r|^2 + S <c, r^>			2 |w| / (a sqrt(d - 1))
 *		IP		 -<q', c>		1 / a	<c, w> / a					|w| / (a sqrt(d - 1))
 *
 * The error of est is <q' - c, w> times S: w is a random direction orthogonal
 * to r, so it has mean 0 and a standard error of at most E |q' - c|.  With a
 * projection w is not random: what it leaves out are directions in which q' - c is
 * short for the nearest vectors, but the fewer count, the longer q' - c is in the
 * rest.  So E is multiplied with error_scale, which training measures (1 without a
 * projection).
 *
 * Stored, S is rounded to 16 bits first and A is made from the rounded S, so
 * the rounding acts on <q' - c, r^> only; A is rounded down by 2^-20 of its
 * terms, and E up to its 8 bits with the rounding of S included.
 *
 * A code that says too little of its vector (the squared cosine of r and r^ at most
 * 1/8, or E above the one below; noise around a centroid does this) is left out of the
 * estimate, and
 * the sphere around the centroid gives a bound that is certain for epsilon
 * from 1 on:
 *
 *						S		A			E
 *		L2, cos			0		|r|^2		2 |r|
 *		IP				0		-<c, r>		|r|
 *
 * A vector that neither can stand for (not finite in model space, E over its
 * range) gets A = -infinity, S = E = 0: its bound is minus infinity, so it is
 * always compared exactly.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_CODEC_H
#define VQ_CODEC_H

#include "kernels/vq_block.h"
#include "kernels/vq_pq.h"
#include "kernels/vq_project.h"
#include "kernels/vq_rotate.h"

typedef struct VqCodec
{
	VqMetric	metric;
	VqRotation	rotation;
	uint32_t	dim;			/* of the vectors and of model space */
	bool		is_projected;
	VqPq		pq;				/* pq.dim is the dimension of code space */
	float		scale;			/* s, a power of two */
	const float *signs;			/* of the rotation, vq_rotate_sign_bytes */
	const float *mean;			/* float[dim] */
	VqProjection projection;	/* if is_projected */
	float		error_scale;	/* of E, positive: see above */
	const float *codebook;		/* float[m][dsub][ksub] */
} VqCodec;

/*
 * Set dim, is_projected, error_scale to 1, and pq.  Code space has dim dimensions or,
 * if it is projected, m times nbits / 2: two bits of a code for each, or more bits
 * where there are not so many dimensions.  VQ_BAD_ARGUMENT as for vq_pq_init.
 */
extern VqStatus vq_codec_init(VqCodec *codec, size_t dim, size_t m, size_t nbits, bool is_projected);

/* Floats of a vector in code space, with padding that functions may write to */
static inline size_t
vq_codec_code_floats(const VqCodec *codec)
{
	return vq_project_floats((size_t) codec->pq.m * codec->pq.dsub);
}

/* x_code, float[vq_codec_code_floats] := x_model in code space, zero behind its dimensions */
extern void vq_codec_to_codes(const VqKernels *kernels, const VqCodec *codec,
							  const float *x_model, float *x_code);

/*
 * x_model := x in model space, float[dim].  VQ_ZERO_VECTOR for cosine of a
 * zero vector; VQ_NOT_FINITE if the result is not finite or longer than 2^40
 * (x_model is then all zero).  x and x_model may be the same.
 */
extern VqStatus vq_codec_transform(const VqKernels *kernels, const VqCodec *codec,
								   const float *x, float *x_model);

/* The reverse: the vector (for cosine, its direction) that x_model stands for; in place allowed */
extern void vq_codec_restore(const VqKernels *kernels, const VqCodec *codec,
							 const float *x_model, float *x);

/* x := x / |x|, float[dim], as residuals are before they are coded; zero stays zero */
extern void vq_codec_direction(const VqKernels *kernels, float *x, size_t dim);

/* Floats of workspace for vq_codec_encode */
extern size_t vq_codec_encode_floats(const VqCodec *codec);

/*
 * Code and factors of x_model (from vq_codec_transform) against the centroid
 * of its list, float[dim] both, and both in code space, float[pq.dim] (which are the
 * same without a projection).  codes is uint8_t[m].  Never fails: what cannot
 * be coded is marked to be always compared exactly.
 */
extern void vq_codec_encode(const VqKernels *kernels, const VqCodec *codec,
							const float *x_model, const float *centroid,
							const float *x_code, const float *centroid_code,
							float *work, uint8_t *codes, VqFactors *factors);

/*
 * x_model, float[dim] := what codes stand for, with the centroid; work is
 * float[vq_codec_code_floats].  The length of the residual is what factors tell of it;
 * where they tell nothing, as codes do not, x_model is the centroid.
 */
extern void vq_codec_decode(const VqKernels *kernels, const VqCodec *codec, const uint8_t *codes,
							const VqFactors *factors, const float *centroid,
							float *work, float *x_model);

/* Factors of a vector that is to be compared exactly, whatever the query */
extern void vq_codec_encode_exact(VqFactors *factors);

/* 8-bit float of E, rounded up; 0 stays 0.  VQ_BAD_ARGUMENT above the range. */
extern VqStatus vq_codec_pack_e(float e, uint8_t *packed);
extern float vq_codec_unpack_e(uint8_t packed);

/* A query, ready to score blocks.  Buffers are the caller's. */
typedef struct VqQuery
{
	float	   *q_model;		/* float[dim], q' */
	float	   *q_code;			/* float[vq_codec_code_floats], q' in code space */
	float	   *lut_floats;		/* float[m][ksub] */
	uint8_t    *lut;			/* uint8_t[m][ksub] */
	VqLutScale	lut_scale;
	float		q_norm_sq;		/* |q'|^2 */
	double		unit;			/* exact value in model space = unit * (squared L2, negative IP or cosine distance) */
} VqQuery;

/*
 * Fill a query from q, float[dim].  VQ_ZERO_VECTOR for a zero query under IP or
 * cosine, VQ_NOT_FINITE when q is out of the model's range: the caller then
 * compares every row exactly.
 */
extern VqStatus vq_codec_query(const VqKernels *kernels, const VqCodec *codec,
							   const float *q, VqQuery *query);

/*
 * The second half of vq_codec_query, for a q_model that another codec of the
 * same space has made: q_code, length and tables.
 */
extern void vq_codec_query_tables(const VqKernels *kernels, const VqCodec *codec, VqQuery *query);

/*
 * The order in which lists are probed, and B of the table above: from
 * distance_sq = |q' - c|^2 and centroid_norm_sq = |c|^2.  Of inner products
 * it is less by what float32 may have lost of these.
 */
extern float vq_codec_list_value(const VqCodec *codec, const VqQuery *query,
								 float distance_sq, float centroid_norm_sq);

/* Bound parameters of one list */
extern void vq_codec_list_bound(const VqCodec *codec, const VqQuery *query,
								float distance_sq, float centroid_norm_sq,
								float epsilon, VqBound *bound);

#endif							/* VQ_CODEC_H */
