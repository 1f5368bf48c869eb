/*-------------------------------------------------------------------------
 *
 * vq_kernels.h
 *	  The table of operations that have one implementation per instruction
 *	  set, and how a table is chosen.
 *
 * Shapes are written as in C, row-major.  No pointer needs an alignment above
 * that of its type.  No operation reads or writes outside the shapes given,
 * and outputs overlap no input unless said otherwise.  Inputs are finite
 * unless said otherwise.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_KERNELS_H
#define VQ_KERNELS_H

#include "kernels/vq_base.h"

/*
 * Head of a stored centroid row, followed at once by dim values: int8_t for
 * rows of bytes (value = scale * byte), float for rows of floats (scale is 1).
 */
typedef struct VqRowHeader
{
	float		scale;
	float		norm_sq;		/* of the values that follow */
} VqRowHeader;

/*----------
 * What turns the integer sums of a block into lower bounds for one query and
 * one list:
 *
 *		low[i] = base + A[i]
 *				 - S[i] / VQ_S_ONE * (lut_bias + lut_step * sums[i])
 *				 - E[i] * reach
 *
 * A, S and E are the factors stored beside each code (vq_codec.h says how
 * they are made).  A of minus infinity gives minus infinity.
 *----------
 */
typedef struct VqBound
{
	float		base;			/* B(query, list), less the rounding margin */
	float		lut_bias;
	float		lut_step;
	float		reach;			/* epsilon * |q - c| */
} VqBound;

/* S is fixed point: 1.0 is stored as this */
#define VQ_S_ONE	4096.0f

/*
 * E is an unsigned 8-bit float, 5 bits of exponent and 3 of mantissa: the byte
 * shifted into place is the float, times 2^(VQ_E_EXP_SHIFT).  So byte e means
 * as_float(e << 20) * 2^(127 - 24); e = 0 means 0.
 */
#define VQ_E_SHIFT		20
#define VQ_E_SCALE_LOG2	103		/* 127 - 24: largest is 1.875 * 2^7 */
#define VQ_E_SMALL_UNIT	(1.0f / (1 << 26))	/* what 1 is worth below e = 8, where the float would be denormal */

/*
 * A vector in bytes: value = step * (byte - VQ_U8_ZERO), with a step of its own
 * that makes the largest value VQ_U8_LARGEST steps: four products of such bytes
 * can be added in 16 bits.  Below VQ_U8_SMALLEST, where a float has no room for the
 * inverse, values are zero.
 */
#define VQ_U8_ZERO		64
#define VQ_U8_LARGEST	63
#define VQ_U8_SMALLEST	1e-36f

/* Columns of scores_u8 and project_i8 that are stored side by side */
#define VQ_PANEL_COLUMNS	16

/* What scores_u8 multiplies rows with; a quad is four values that are next to each other */
typedef struct VqColumns
{
	size_t		ncolumns;		/* a multiple of VQ_PANEL_COLUMNS */
	size_t		nquads;			/* of a row and of a column */
	const int8_t *panels;		/* [ncolumns / 16][nquads][16][4], bytes less VQ_U8_ZERO */
	const int32_t *corrections; /* [ncolumns], -VQ_U8_ZERO times the sum of the column's values in panels */
	const float *steps;			/* [ncolumns] */
	const float *offsets;		/* [ncolumns], finite or plus infinity */
} VqColumns;

typedef struct VqKernels
{
	const char *name;
	uint32_t	required_features;	/* VQ_CPU_... bits, all of them needed */

	/* Whether products of bytes by this table outrun those of float32 by a library */
	bool		is_u8_fast;

	/*
	 * |a - b|^2 and <a,b> of float[dim] vectors, accumulated in float32 in
	 * several lanes: relative error at most dim * FLT_EPSILON of the sum of
	 * absolute terms.
	 */
	float		(*l2sq_f32) (const float *a, const float *b, size_t dim);
	float		(*ip_f32) (const float *a, const float *b, size_t dim);

	/* out[0] = <a,b>, out[1] = <a,a>, out[2] = <b,b>, same error */
	void		(*ip_norms_f32) (const float *a, const float *b, size_t dim, float out[3]);

	/* sums[i] += factor * x[i], in float64, rounded once or twice: so equal in all tables where factor is 1 or -1 */
	void		(*add_f64) (double *sums, const float *x, double factor, size_t dim);

	/*
	 * out[i] = the value of x[i], which is a float of 16 bits (IEEE 754
	 * binary16).  Exact; infinity stays infinity, and NaN becomes some NaN.
	 */
	void		(*f16_to_f32) (const uint16_t *x, size_t n, float *out);

	/*
	 * out[i] = |q - row_i|^2 for nrows rows of a VqRowHeader and dim values,
	 * stride bytes apart (a multiple of 4, rows aligned to 4).  Differences,
	 * not expanded squares: no cancellation.
	 */
	void		(*l2sq_rows_f32) (const float *q, size_t dim, const void *rows, size_t stride,
								  size_t nrows, float *out);
	void		(*l2sq_rows_i8) (const float *q, size_t dim, const void *rows, size_t stride,
								 size_t nrows, float *out);

	/*
	 * out[j] = steps[j] * sum over i of x[i] * panels[j / 16][i][j % 16], for
	 * 16 npanels columns: panels is int8_t[npanels][dim][VQ_PANEL_COLUMNS], x is
	 * float[dim], steps and out are float[16 * npanels].  Error at most dim *
	 * FLT_EPSILON of dim terms as large as the largest x[i] with a byte of 128.
	 */
	void		(*project_i8) (const float *x, size_t dim, const int8_t *panels, const float *steps,
							   size_t npanels, float *out);

	/*
	 * Fast Walsh-Hadamard transform in place, scaled by 1/sqrt(n) so that it
	 * keeps lengths and is its own inverse.  n is a power of two, 1 to 16384.
	 */
	void		(*fwht) (float *x, size_t n);

	/*----------
	 * Product quantiser.  codebook is float[m][dsub][ksub] (ksub innermost,
	 * one register of centroids at a time), ksub is 16 or 256, x and q are
	 * float[m * dsub].
	 *
	 * encode: codes[j] = the k that minimises |x_j - codebook_j,k|^2, the
	 *		   lowest k on a tie; codes is uint8_t[m].
	 * lut:	   lut[j][k] = <q_j, codebook_j,k>, float[m][ksub].
	 *
	 * Tables in bytes are made in two steps; bytes is uint8_t[m][ksub], and in
	 * between two floats are kept at the beginning of each of its rows.
	 *
	 * lut_ranges: the least and the largest of lut[j], to bytes[j].
	 * lut_bytes: bytes[j][k] = (lut[j][k] - the least of lut[j]) * per_step, rounded
	 *		   to the nearest integer, which must be in 0 to 255.  Float32 all the
	 *		   way, so that nearly half may go either way.
	 *----------
	 */
	void		(*pq_encode) (const float *x, const float *codebook, size_t m, size_t dsub,
							  size_t ksub, uint8_t *codes);
	void		(*pq_lut) (const float *q, const float *codebook, size_t m, size_t dsub,
						   size_t ksub, float *lut);
	void		(*lut_ranges) (const float *lut, size_t m, size_t ksub, uint8_t *bytes);
	void		(*lut_bytes) (const float *lut, size_t m, size_t ksub, float per_step, uint8_t *bytes);

	/*----------
	 * FastScan (Andre et al., VLDB 2015; Douze et al. 2024, section 5.3): sums
	 * of table entries for the n vectors of a block, exact integers; n is a
	 * multiple of VQ_CAPACITY_STEP, up to 32.
	 *
	 * scan4: codes is uint8_t[m][n / 2], byte i of row j holds the code of
	 *		  vector i in its low nibble and of vector i + n / 2 in its high
	 *		  one; lut is uint8_t[m][16].
	 * scan8: codes is uint8_t[m][n]; lut is uint8_t[m][256].
	 *
	 * sums[i] = sum over j of lut[j][code of vector i at j], for m up to 16000;
	 * sums[n] and up are undefined.
	 *----------
	 */
	void		(*scan4) (const uint8_t *codes, size_t n, const uint8_t *lut, size_t m, uint32_t sums[VQ_BLOCK_LANES]);
	void		(*scan8) (const uint8_t *codes, size_t n, const uint8_t *lut, size_t m, uint32_t sums[VQ_BLOCK_LANES]);

	/*
	 * The lower bounds described at VqBound; n is a multiple of
	 * VQ_CAPACITY_STEP, up to 32.  Tables agree within 1e-5 of the largest
	 * term.  Returns a mask with bit i set unless low[i] > ceiling: also for a
	 * low that is not a number.
	 */
	uint32_t	(*bound) (const float *a, const uint16_t *s, const uint8_t *e, const uint32_t *sums,
						  size_t n, const VqBound *bound, float ceiling, float *low);

	/*----------
	 * Products of vectors in bytes, to choose candidates by (vq_panels.h).
	 *
	 * quantise_u8: out = x - origin in bytes, rounded to the nearest, ties to
	 *		   even; returns the step.  x and origin are float[dim], out is
	 *		   uint8_t[(dim + 3) / 4 * 4], VQ_U8_ZERO where there is no value.
	 *		   Equal in all tables.
	 * scores_u8: scores[i][j] = <row_i, column_j> - offsets[j], the product of
	 *		   the values that the bytes stand for; rows is
	 *		   uint8_t[nrows][nquads * 4], steps is float[nrows], scores is
	 *		   float[nrows][ncolumns].  Values are VQ_U8_LARGEST steps at most,
	 *		   so that sums are exact, and the error is that of four operations
	 *		   on floats.  A score depends on its own row and column and on
	 *		   nothing else, bit by bit.
	 * largest_two: at[i][0] = the j with the largest scores[i][j], and at[i][1]
	 *		   that of the largest of the others, the lowest on a tie; scores is
	 *		   float[nrows][ncolumns], ncolumns is a multiple of 16 and not 0.
	 *----------
	 */
	float		(*quantise_u8) (const float *x, const float *origin, size_t dim, uint8_t *out);
	void		(*scores_u8) (const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns,
							  float *scores);
	void		(*largest_two) (const float *scores, size_t nrows, size_t ncolumns, uint32_t (*at)[2]);
} VqKernels;

/* The tables compiled in, best first; ends with "scalar", then NULL */
extern const VqKernels *const vq_kernels_all[];

/* True if the processor can run this table */
extern bool vq_kernels_supported(const VqKernels *kernels);

/*
 * The table with this name, or the best supported one for "auto".  NULL if
 * there is no such table or the processor cannot run it.
 */
extern const VqKernels *vq_kernels_by_name(const char *name);

extern const VqKernels vq_kernels_scalar;
#if defined(__x86_64__)
extern const VqKernels vq_kernels_avx2;
extern const VqKernels vq_kernels_avx512;
extern const VqKernels vq_kernels_avx512_vnni;
extern const VqKernels vq_kernels_avx512_vbmi;
#if defined(VQ_HAVE_AMX)
extern const VqKernels vq_kernels_avx512_amx;
#endif
#elif defined(__aarch64__)
extern const VqKernels vq_kernels_neon;
extern const VqKernels vq_kernels_neon_dotprod;
#endif

#endif							/* VQ_KERNELS_H */
