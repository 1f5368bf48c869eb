/*-------------------------------------------------------------------------
 *
 * vq_kernels_neon.c
 *	  The operations for 64-bit Arm processors, but for the scoring of codes,
 *	  which is in vq_kernels_neon_scan.c.
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

static inline float32x4_t
add_square(float32x4_t sum, float32x4_t diff)
{
	return vfmaq_f32(sum, diff, diff);
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

/* Squared distances of dsub floats to sixteen centroids that are ksub apart */
TEMPLATE void
distances_to_16(const float *x, const float *centroids, size_t dsub, size_t ksub, float32x4_t distances[4])
{
	UNROLL
	for (size_t k = 0; k < 4; k++)
		distances[k] = vdupq_n_f32(0);
	for (size_t d = 0; d < dsub; d++)
	{
		float32x4_t xd = vdupq_n_f32(x[d]);

		UNROLL
		for (size_t k = 0; k < 4; k++)
			distances[k] = add_square(distances[k], vsubq_f32(xd, vld1q_f32(centroids + d * ksub + 4 * k)));
	}
}

static inline float32x4_t
minima_of_4(const float32x4_t v[4])
{
	return vminq_f32(vminq_f32(v[0], v[1]), vminq_f32(v[2], v[3]));
}

/* The numbers of the lanes, of sixteen, that equal the minimum; 255 for the others */
static inline uint8x16_t
lanes_equal_to(const float32x4_t v[4], float32x4_t minimum)
{
	const uint8x16_t lane_no = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	uint16x8_t	low = vuzp1q_u16(vreinterpretq_u16_u32(vceqq_f32(v[0], minimum)),
								 vreinterpretq_u16_u32(vceqq_f32(v[1], minimum)));
	uint16x8_t	high = vuzp1q_u16(vreinterpretq_u16_u32(vceqq_f32(v[2], minimum)),
								  vreinterpretq_u16_u32(vceqq_f32(v[3], minimum)));

	return vornq_u8(lane_no, vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high)));
}

/*
 * Four sub-quantisers at a time: pairwise minima of their distances, and then of
 * the lanes that have them, end with one sub-quantiser in each lane.  Where
 * there are NaNs no lane equals the minimum, and the code is 15.
 */
TEMPLATE void
encode_16(const float *x, const float *codebook, size_t m, size_t dsub, uint8_t *codes)
{
	size_t		step = dsub * 16;
	size_t		j = 0;

	for (; j + 4 <= m; j += 4)
	{
		const float *c = codebook + j * step;
		const float *xj = x + j * dsub;
		float32x4_t v0[4];
		float32x4_t v1[4];
		float32x4_t v2[4];
		float32x4_t v3[4];
		float32x4_t minima;
		uint8x16_t	lanes;
		uint32_t	four_codes;

		distances_to_16(xj, c, dsub, 16, v0);
		distances_to_16(xj + dsub, c + step, dsub, 16, v1);
		distances_to_16(xj + 2 * dsub, c + 2 * step, dsub, 16, v2);
		distances_to_16(xj + 3 * dsub, c + 3 * step, dsub, 16, v3);
		minima = vpminq_f32(vpminq_f32(minima_of_4(v0), minima_of_4(v1)),
							vpminq_f32(minima_of_4(v2), minima_of_4(v3)));
		lanes = vpminq_u8(vpminq_u8(lanes_equal_to(v0, vdupq_laneq_f32(minima, 0)),
									lanes_equal_to(v1, vdupq_laneq_f32(minima, 1))),
						  vpminq_u8(lanes_equal_to(v2, vdupq_laneq_f32(minima, 2)),
									lanes_equal_to(v3, vdupq_laneq_f32(minima, 3))));
		lanes = vpminq_u8(lanes, lanes);
		lanes = vpminq_u8(lanes, lanes);
		four_codes = vgetq_lane_u32(vreinterpretq_u32_u8(lanes), 0) & 0x0F0F0F0F;
		memcpy(codes + j, &four_codes, 4);
	}
	for (; j < m; j++)
	{
		float32x4_t v[4];
		float32x4_t minimum;

		distances_to_16(x + j * dsub, codebook + j * step, dsub, 16, v);
		minimum = vdupq_n_f32(vminvq_f32(minima_of_4(v)));
		codes[j] = vminvq_u8(lanes_equal_to(v, minimum)) & 15;
	}
}

/*
 * Each of sixteen lanes remembers its smallest distance and the first group of
 * sixteen that had it; the lanes are compared at the end.
 */
static inline uint8_t
nearest_of_256(const float *x, const float *centroids, size_t dsub)
{
	const uint32x4_t lane_no = {0, 1, 2, 3};
	float32x4_t best[4];
	uint32x4_t	best_group[4];
	float32x4_t minimum;
	uint32x4_t	nearest = vdupq_n_u32(255);

	UNROLL
	for (size_t k = 0; k < 4; k++)
	{
		best[k] = vdupq_n_f32(INFINITY);
		best_group[k] = vdupq_n_u32(0);
	}
	for (uint32_t group = 0; group < 256; group += 16)
	{
		float32x4_t distances[4];

		distances_to_16(x, centroids + group, dsub, 256, distances);
		UNROLL
		for (size_t k = 0; k < 4; k++)
		{
			uint32x4_t	is_less = vcltq_f32(distances[k], best[k]);

			best[k] = vbslq_f32(is_less, distances[k], best[k]);
			best_group[k] = vbslq_u32(is_less, vdupq_n_u32(group), best_group[k]);
		}
	}

	minimum = vdupq_n_f32(vminvq_f32(minima_of_4(best)));
	UNROLL
	for (size_t k = 0; k < 4; k++)
	{
		uint32x4_t	centroid_no = vaddq_u32(best_group[k], vaddq_u32(lane_no, vdupq_n_u32((uint32_t) (4 * k))));

		nearest = vminq_u32(nearest, vornq_u32(centroid_no, vceqq_f32(best[k], minimum)));
	}
	return (uint8_t) vminvq_u32(nearest);
}

/* Two and three dimensions of a sub-quantiser, the defaults, have code of their own */
static void
pq_encode(const float *x, const float *codebook, size_t m, size_t dsub,
		  size_t ksub, uint8_t *codes)
{
	if (ksub == 256)
	{
		for (size_t j = 0; j < m; j++)
			codes[j] = nearest_of_256(x + j * dsub, codebook + j * dsub * 256, dsub);
	}
	else if (dsub == 2)
		encode_16(x, codebook, m, 2, codes);
	else if (dsub == 3)
		encode_16(x, codebook, m, 3, codes);
	else
		encode_16(x, codebook, m, dsub, codes);
}

static void
pq_lut(const float *q, const float *codebook, size_t m, size_t dsub,
	   size_t ksub, float *lut)
{
	for (size_t j = 0; j < m; j++)
	{
		/* ksub is a multiple of 16 */
		for (size_t first = 0; first < ksub; first += 16)
		{
			const float *c = codebook + j * dsub * ksub + first;
			float32x4_t sums[4];

			UNROLL
			for (size_t k = 0; k < 4; k++)
				sums[k] = vdupq_n_f32(0);
			for (size_t d = 0; d < dsub; d++, c += ksub)
			{
				UNROLL
				for (size_t k = 0; k < 4; k++)
					sums[k] = vfmaq_n_f32(sums[k], vld1q_f32(c + 4 * k), q[j * dsub + d]);
			}
			UNROLL
			for (size_t k = 0; k < 4; k++)
				vst1q_f32(lut + j * ksub + first + 4 * k, sums[k]);
		}
	}
}

static void
lut_ranges(const float *lut, size_t m, size_t ksub, uint8_t *bytes)
{
	for (size_t j = 0; j < m; j++)
	{
		const float *entries = lut + j * ksub;
		float32x4_t low = vld1q_f32(entries);
		float32x4_t high = low;
		float		range[2];

		for (size_t k = 4; k < ksub; k += 4)
		{
			low = vminq_f32(low, vld1q_f32(entries + k));
			high = vmaxq_f32(high, vld1q_f32(entries + k));
		}
		range[0] = vminvq_f32(low);
		range[1] = vmaxvq_f32(high);
		memcpy(bytes + j * ksub, range, sizeof(range));
	}
}

static inline uint16x4_t
round_4(const float *entries, float32x4_t low, float per_step)
{
	return vmovn_u32(vcvtnq_u32_f32(vmulq_n_f32(vsubq_f32(vld1q_f32(entries), low), per_step)));
}

static void
lut_bytes(const float *lut, size_t m, size_t ksub, float per_step, uint8_t *bytes)
{
	for (size_t j = 0; j < m; j++)
	{
		float32x4_t low;
		float		least;

		memcpy(&least, bytes + j * ksub, sizeof(least));
		low = vdupq_n_f32(least);
		for (size_t i = j * ksub; i < (j + 1) * ksub; i += 8)
			vst1_u8(bytes + i, vmovn_u16(vcombine_u16(round_4(lut + i, low, per_step),
													  round_4(lut + i + 4, low, per_step))));
	}
}

/* The operations above and those of vq_kernels_neon_scan.c, for the tables below */
#define NEON_OPERATIONS \
	.l2sq_f32 = l2sq_f32, \
	.ip_f32 = ip_f32, \
	.ip_norms_f32 = ip_norms_f32, \
	.f16_to_f32 = f16_to_f32, \
	.l2sq_rows_f32 = l2sq_rows_f32, \
	.l2sq_rows_i8 = l2sq_rows_i8, \
	.project_i8 = project_i8, \
	.fwht = fwht, \
	.pq_encode = pq_encode, \
	.pq_lut = pq_lut, \
	.lut_ranges = lut_ranges, \
	.lut_bytes = lut_bytes, \
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
