/*-------------------------------------------------------------------------
 *
 * vq_kernels_neon.c
 *	  The operations for 64-bit Arm processors, but for product quantisers
 *	  (vq_kernels_neon_pq.c), the scoring of codes (vq_kernels_neon_scan.c) and
 *	  products of bytes (vq_kernels_neon_dotprod.c).
 *
 * Advanced SIMD as Armv8.0 has it, and so every such processor: no dot products
 * of bytes, no SVE.  It is in the compiler's baseline, hence no region for an
 * instruction set as in the files for x86-64.
 *
 * Registers name their lanes: f32x4 is four floats.  There are 32 of them, and
 * sums over many dimensions take eight or more: a multiply-add has a latency
 * of about four cycles, and large cores start two to four in each.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kernels/vq_cpu.h"
#include "kernels/vq_kernels_neon.h"

/* Four floats of which the first n, 1 to 3, are read and the rest are zero */
static inline float32x4_t
load_tail_f32(const float *p, size_t n)
{
	float32x4_t tail = vsetq_lane_f32(p[0], vdupq_n_f32(0), 0);

	if (n > 1)
		tail = vsetq_lane_f32(p[1], tail, 1);
	if (n > 2)
		tail = vsetq_lane_f32(p[2], tail, 2);
	return tail;
}

static inline float
sum_of_16_lanes(const float32x4_t sums[4])
{
	return vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3])));
}

TEMPLATE float32x4_t
add_terms(float32x4_t sum, float32x4_t a, float32x4_t b, bool is_l2sq)
{
	return is_l2sq ? add_square(sum, vsubq_f32(a, b)) : vfmaq_f32(sum, a, b);
}

TEMPLATE float
sum_of_terms(const float *a, const float *b, size_t dim, bool is_l2sq)
{
	float32x4_t sums[8];
	size_t		i = 0;

	UNROLL
	for (size_t k = 0; k < 8; k++)
		sums[k] = vdupq_n_f32(0);
	for (; i + 32 <= dim; i += 32)
	{
		UNROLL
		for (size_t k = 0; k < 8; k++)
			sums[k] = add_terms(sums[k], vld1q_f32(a + i + 4 * k), vld1q_f32(b + i + 4 * k), is_l2sq);
	}
	for (; i + 4 <= dim; i += 4)
		sums[0] = add_terms(sums[0], vld1q_f32(a + i), vld1q_f32(b + i), is_l2sq);
	if (i < dim)
		sums[1] = add_terms(sums[1], load_tail_f32(a + i, dim - i), load_tail_f32(b + i, dim - i), is_l2sq);
	return sum_of_16_lanes(sums) + sum_of_16_lanes(sums + 4);
}

static float
l2sq_f32(const float *a, const float *b, size_t dim)
{
	return sum_of_terms(a, b, dim, true);
}

static float
ip_f32(const float *a, const float *b, size_t dim)
{
	return sum_of_terms(a, b, dim, false);
}

static void
add_f64(double *sums, const float *x, double factor, size_t dim)
{
	float64x2_t factors = vdupq_n_f64(factor);
	size_t		i = 0;

	for (; i + 4 <= dim; i += 4)
	{
		float32x4_t x4 = vld1q_f32(x + i);

		vst1q_f64(sums + i, vfmaq_f64(vld1q_f64(sums + i), vcvt_f64_f32(vget_low_f32(x4)), factors));
		vst1q_f64(sums + i + 2, vfmaq_f64(vld1q_f64(sums + i + 2), vcvt_high_f64_f32(x4), factors));
	}
	for (; i < dim; i++)
		sums[i] += factor * x[i];
}

static void
ip_norms_f32(const float *a, const float *b, size_t dim, float out[3])
{
	float32x4_t ab[4];
	float32x4_t aa[4];
	float32x4_t bb[4];
	size_t		i = 0;

	UNROLL
	for (size_t k = 0; k < 4; k++)
		ab[k] = aa[k] = bb[k] = vdupq_n_f32(0);
	for (; i + 16 <= dim; i += 16)
	{
		UNROLL
		for (size_t k = 0; k < 4; k++)
		{
			float32x4_t ak = vld1q_f32(a + i + 4 * k);
			float32x4_t bk = vld1q_f32(b + i + 4 * k);

			ab[k] = vfmaq_f32(ab[k], ak, bk);
			aa[k] = vfmaq_f32(aa[k], ak, ak);
			bb[k] = vfmaq_f32(bb[k], bk, bk);
		}
	}
	for (; i < dim; i += 4)
	{
		float32x4_t a0 = dim - i < 4 ? load_tail_f32(a + i, dim - i) : vld1q_f32(a + i);
		float32x4_t b0 = dim - i < 4 ? load_tail_f32(b + i, dim - i) : vld1q_f32(b + i);

		ab[0] = vfmaq_f32(ab[0], a0, b0);
		aa[0] = vfmaq_f32(aa[0], a0, a0);
		bb[0] = vfmaq_f32(bb[0], b0, b0);
	}
	out[0] = sum_of_16_lanes(ab);
	out[1] = sum_of_16_lanes(aa);
	out[2] = sum_of_16_lanes(bb);
}

static void
f16_to_f32(const uint16_t *x, size_t n, float *out)
{
	size_t		i = 0;

	for (; i + 8 <= n; i += 8)
	{
		uint16x8_t	halves = vld1q_u16(x + i);

		vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(halves))));
		vst1q_f32(out + i + 4, vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(halves))));
	}
	vq_kernels_scalar.f16_to_f32(x + i, n - i, out + i);
}

static inline const VqRowHeader *
row_at(const void *rows, size_t stride, size_t i)
{
	return (const VqRowHeader *) ((const char *) rows + i * stride);
}

/* Four rows at a time, so that a register of q is loaded once for all */
static void
l2sq_rows_f32(const float *q, size_t dim, const void *rows, size_t stride,
			  size_t nrows, float *out)
{
	size_t		row_no = 0;

	for (; row_no + 4 <= nrows; row_no += 4)
	{
		const float *values[4];
		float32x4_t sums[8];	/* two of each row */
		size_t		i = 0;

		UNROLL
		for (size_t k = 0; k < 4; k++)
		{
			values[k] = (const float *) (row_at(rows, stride, row_no + k) + 1);
			sums[k] = sums[k + 4] = vdupq_n_f32(0);
		}
		for (; i + 8 <= dim; i += 8)
		{
			float32x4_t q0 = vld1q_f32(q + i);
			float32x4_t q1 = vld1q_f32(q + i + 4);

			UNROLL
			for (size_t k = 0; k < 4; k++)
			{
				sums[k] = add_square(sums[k], vsubq_f32(q0, vld1q_f32(values[k] + i)));
				sums[k + 4] = add_square(sums[k + 4], vsubq_f32(q1, vld1q_f32(values[k] + i + 4)));
			}
		}
		UNROLL
		for (size_t k = 0; k < 4; k++)
			out[row_no + k] = vaddvq_f32(vaddq_f32(sums[k], sums[k + 4]));
		for (size_t k = 0; k < 4 && i < dim; k++)
			out[row_no + k] += l2sq_f32(q + i, values[k] + i, dim - i);
	}
	for (; row_no < nrows; row_no++)
		out[row_no] = l2sq_f32(q, (const float *) (row_at(rows, stride, row_no) + 1), dim);
}

/*
 * Bytes 4 * quarter and up of 16 as floats.  A look-up moves each to the top of
 * a lane and clears the rest, as indices without an entry give zero; the
 * conversion divides by 2^24.  That is two instructions for four bytes, where
 * widening by steps takes two and a half, and those of the slower kind.
 */
static inline float32x4_t
floats_of_i8(uint8x16_t bytes, uint32_t quarter)
{
	uint32x4_t	indices = {0x00FFFFFF, 0x01FFFFFF, 0x02FFFFFF, 0x03FFFFFF};
	uint8x16_t	at_top;

	indices = vaddq_u32(indices, vdupq_n_u32(quarter << 26));
	at_top = vqtbl1q_u8(bytes, vreinterpretq_u8_u32(indices));
	return vcvtq_n_f32_s32(vreinterpretq_s32_u8(at_top), 24);
}

static float
l2sq_row_i8(const float *q, size_t dim, const VqRowHeader *row)
{
	const uint8_t *bytes = (const uint8_t *) (row + 1);
	float32x4_t scale = vdupq_n_f32(row->scale);
	float32x4_t sums[4];
	float		rest = 0;
	size_t		i = 0;

	UNROLL
	for (size_t k = 0; k < 4; k++)
		sums[k] = vdupq_n_f32(0);
	for (; i + 16 <= dim; i += 16)
	{
		uint8x16_t	bytes_i8x16 = vld1q_u8(bytes + i);

		UNROLL
		for (size_t k = 0; k < 4; k++)
			sums[k] = add_square(sums[k], vfmsq_f32(vld1q_f32(q + i + 4 * k), scale,
													floats_of_i8(bytes_i8x16, (uint32_t) k)));
	}
	for (; i + 4 <= dim; i += 4)
	{
		uint32_t	four_bytes;

		memcpy(&four_bytes, bytes + i, 4);
		sums[0] = add_square(sums[0], vfmsq_f32(vld1q_f32(q + i), scale,
												floats_of_i8(vreinterpretq_u8_u32(vdupq_n_u32(four_bytes)), 0)));
	}
	for (; i < dim; i++)
	{
		float		diff = q[i] - row->scale * (int8_t) bytes[i];

		rest += diff * diff;
	}
	return rest + sum_of_16_lanes(sums);
}

static void
l2sq_rows_i8(const float *q, size_t dim, const void *rows, size_t stride,
			 size_t nrows, float *out)
{
	for (size_t i = 0; i < nrows; i++)
		out[i] = l2sq_row_i8(q, dim, row_at(rows, stride, i));
}

static void
project_i8(const float *x, size_t dim, const int8_t *panels, const float *steps, size_t npanels, float *out)
{
	for (size_t p = 0; p < npanels; p++)
	{
		const int8_t *panel = panels + p * dim * VQ_PANEL_COLUMNS;
		float32x4_t sums[4] = {0};

		for (size_t i = 0; i < dim; i++)
		{
			int8x16_t	bytes = vld1q_s8(panel + i * VQ_PANEL_COLUMNS);
			int16x8_t	low = vmovl_s8(vget_low_s8(bytes));
			int16x8_t	high = vmovl_s8(vget_high_s8(bytes));

			sums[0] = vfmaq_n_f32(sums[0], vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), x[i]);
			sums[1] = vfmaq_n_f32(sums[1], vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))), x[i]);
			sums[2] = vfmaq_n_f32(sums[2], vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), x[i]);
			sums[3] = vfmaq_n_f32(sums[3], vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))), x[i]);
		}
		UNROLL
		for (size_t k = 0; k < 4; k++)
		{
			size_t		at = p * VQ_PANEL_COLUMNS + 4 * k;

			vst1q_f32(out + at, vmulq_f32(sums[k], vld1q_f32(steps + at)));
		}
	}
}

/* Transform of the four lanes of a register, not scaled */
static inline float32x4_t
fwht_f32x4(float32x4_t v)
{
	const float32x4_t signs1 = {1, -1, 1, -1};
	const float32x4_t signs2 = {1, 1, -1, -1};

	/* The partner's value, plus or minus one's own */
	v = vfmaq_f32(vrev64q_f32(v), v, signs1);
	return vfmaq_f32(vextq_f32(v, v, 2), v, signs2);
}

static inline void
butterfly(float32x4_t *a, float32x4_t *b)
{
	float32x4_t sum = vaddq_f32(*a, *b);

	*b = vsubq_f32(*a, *b);
	*a = sum;
}

/* Scale and transform 64 floats, held in sixteen registers */
static inline void
fwht_64(float *x, float scale)
{
	float32x4_t v[16];

	UNROLL
	for (size_t i = 0; i < 16; i++)
		v[i] = fwht_f32x4(vmulq_n_f32(vld1q_f32(x + 4 * i), scale));
	UNROLL
	for (size_t half = 1; half < 16; half *= 2)
	{
		UNROLL
		for (size_t i = 0; i < 16; i++)
			if ((i & half) == 0)
				butterfly(&v[i], &v[i + half]);
	}
	UNROLL
	for (size_t i = 0; i < 16; i++)
		vst1q_f32(x + 4 * i, v[i]);
}

/* The stage between elements half apart; half is a multiple of 4 */
static inline void
fwht_stage(float *x, size_t n, size_t half)
{
	for (size_t start = 0; start < n; start += 2 * half)
		for (size_t i = start; i < start + half; i += 4)
		{
			float32x4_t a = vld1q_f32(x + i);
			float32x4_t b = vld1q_f32(x + i + half);

			butterfly(&a, &b);
			vst1q_f32(x + i, a);
			vst1q_f32(x + i + half, b);
		}
}

/* The stages half and 2 * half in one pass over memory */
static inline void
fwht_two_stages(float *x, size_t n, size_t half)
{
	for (size_t start = 0; start < n; start += 4 * half)
		for (size_t i = start; i < start + half; i += 4)
		{
			float32x4_t a = vld1q_f32(x + i);
			float32x4_t b = vld1q_f32(x + i + half);
			float32x4_t c = vld1q_f32(x + i + 2 * half);
			float32x4_t d = vld1q_f32(x + i + 3 * half);

			butterfly(&a, &b);
			butterfly(&c, &d);
			butterfly(&a, &c);
			butterfly(&b, &d);
			vst1q_f32(x + i, a);
			vst1q_f32(x + i + half, b);
			vst1q_f32(x + i + 2 * half, c);
			vst1q_f32(x + i + 3 * half, d);
		}
}

static void
fwht(float *x, size_t n)
{
	float		scale = 1.0f / sqrtf((float) n);
	size_t		half;

	if (n < 4)
	{
		vq_kernels_scalar.fwht(x, n);
		return;
	}
	if (n < 64)
	{
		for (size_t i = 0; i < n; i += 4)
			vst1q_f32(x + i, fwht_f32x4(vmulq_n_f32(vld1q_f32(x + i), scale)));
		half = 4;
	}
	else
	{
		for (size_t i = 0; i < n; i += 64)
			fwht_64(x + i, scale);
		half = 64;
	}
	for (; 4 * half <= n; half *= 4)
		fwht_two_stages(x, n, half);
	if (half < n)
		fwht_stage(x, n, half);
}

/* The operations that the tables below have in common */
#define NEON_OPERATIONS \
	.l2sq_f32 = l2sq_f32, \
	.ip_f32 = ip_f32, \
	.ip_norms_f32 = ip_norms_f32, \
	.add_f64 = add_f64, \
	.f16_to_f32 = f16_to_f32, \
	.l2sq_rows_f32 = l2sq_rows_f32, \
	.l2sq_rows_i8 = l2sq_rows_i8, \
	.project_i8 = project_i8, \
	.fwht = fwht, \
	.pq_encode = vq_neon_pq_encode, \
	.pq_lut = vq_neon_pq_lut, \
	.lut_ranges = vq_neon_lut_ranges, \
	.lut_bytes = vq_neon_lut_bytes, \
	.scan4 = vq_neon_scan4, \
	.scan8 = vq_neon_scan8, \
	.bound = vq_neon_bound, \
	.quantise_u8 = vq_neon_quantise_u8, \
	.largest_two = vq_neon_largest_two

/* Baseline instructions have no products of bytes that outrun those of float32 */
static void
scores_u8(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns, float *scores)
{
	vq_kernels_scalar.scores_u8(rows, steps, nrows, columns, scores);
}

const VqKernels vq_kernels_neon = {
	.name = "neon",
	.required_features = VQ_CPU_NEON,
	NEON_OPERATIONS,
	.scores_u8 = scores_u8,
};

const VqKernels vq_kernels_neon_dotprod = {
	.name = "neon_dotprod",
	.required_features = VQ_CPU_NEON | VQ_CPU_NEON_DOTPROD,
	.is_u8_fast = true,
	NEON_OPERATIONS,
	.scores_u8 = vq_neon_scores_u8,
};

#endif							/* __aarch64__ */
