/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx2.c
 *	  The operations for x86-64 processors with AVX2 and FMA, but for the
 *	  scoring of codes, which is in vq_kernels_avx2_scan.c.
 *
 * Registers name their lanes: f32x8 is eight floats.  There are 16 registers,
 * which is why l2sq of rows takes four rows with two sums each and no more.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/vq_cpu.h"
#include "kernels/vq_kernels_avx2.h"

/* Eight entries from tail_mask + 8 - n have the first n lanes set */
static const int32_t tail_mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

VQ_TARGET_BEGIN("avx2,fma,f16c")

static inline __m256
load_tail_f32(const float *p, size_t n)
{
	__m256i		mask = _mm256_loadu_si256((const __m256i *) (tail_mask + 8 - n));

	return _mm256_maskload_ps(p, mask);
}

/* Eight bytes of which the first n < 8 are read and the rest are zero */
static inline __m128i
load_tail_i8(const int8_t *p, size_t n)
{
	uint64_t	bytes = 0;
	size_t		at = 0;

	if (n & 4)
	{
		uint32_t	part;

		memcpy(&part, p, 4);
		bytes = part;
		at = 4;
	}
	if (n & 2)
	{
		uint16_t	part;

		memcpy(&part, p + at, 2);
		bytes |= (uint64_t) part << (8 * at);
		at += 2;
	}
	if (n & 1)
		bytes |= (uint64_t) (uint8_t) p[at] << (8 * at);
	return _mm_cvtsi64_si128((long long) bytes);
}

static inline float
sum_f32x8(__m256 v)
{
	__m128		sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

	sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
	sum = _mm_add_ss(sum, _mm_movehdup_ps(sum));
	return _mm_cvtss_f32(sum);
}

static inline __m256
add_square(__m256 sum, __m256 diff)
{
	return _mm256_fmadd_ps(diff, diff, sum);
}

static float
l2sq_f32(const float *a, const float *b, size_t dim)
{
	__m256		sum0 = _mm256_setzero_ps();
	__m256		sum1 = sum0;
	__m256		sum2 = sum0;
	__m256		sum3 = sum0;
	size_t		i = 0;

	for (; i + 32 <= dim; i += 32)
	{
		sum0 = add_square(sum0, _mm256_sub_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
		sum1 = add_square(sum1, _mm256_sub_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8)));
		sum2 = add_square(sum2, _mm256_sub_ps(_mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(b + i + 16)));
		sum3 = add_square(sum3, _mm256_sub_ps(_mm256_loadu_ps(a + i + 24), _mm256_loadu_ps(b + i + 24)));
	}
	for (; i + 8 <= dim; i += 8)
		sum0 = add_square(sum0, _mm256_sub_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
	if (i < dim)
		sum1 = add_square(sum1, _mm256_sub_ps(load_tail_f32(a + i, dim - i), load_tail_f32(b + i, dim - i)));
	return sum_f32x8(_mm256_add_ps(_mm256_add_ps(sum0, sum1), _mm256_add_ps(sum2, sum3)));
}

static float
ip_f32(const float *a, const float *b, size_t dim)
{
	__m256		sum0 = _mm256_setzero_ps();
	__m256		sum1 = sum0;
	__m256		sum2 = sum0;
	__m256		sum3 = sum0;
	size_t		i = 0;

	for (; i + 32 <= dim; i += 32)
	{
		sum0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), sum0);
		sum1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), sum1);
		sum2 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(b + i + 16), sum2);
		sum3 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 24), _mm256_loadu_ps(b + i + 24), sum3);
	}
	for (; i + 8 <= dim; i += 8)
		sum0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), sum0);
	if (i < dim)
		sum1 = _mm256_fmadd_ps(load_tail_f32(a + i, dim - i), load_tail_f32(b + i, dim - i), sum1);
	return sum_f32x8(_mm256_add_ps(_mm256_add_ps(sum0, sum1), _mm256_add_ps(sum2, sum3)));
}

static void
ip_norms_f32(const float *a, const float *b, size_t dim, float out[3])
{
	__m256		ab0 = _mm256_setzero_ps();
	__m256		aa0 = ab0;
	__m256		bb0 = ab0;
	__m256		ab1 = ab0;
	__m256		aa1 = ab0;
	__m256		bb1 = ab0;
	size_t		i = 0;

	for (; i + 16 <= dim; i += 16)
	{
		__m256		a0 = _mm256_loadu_ps(a + i);
		__m256		b0 = _mm256_loadu_ps(b + i);
		__m256		a1 = _mm256_loadu_ps(a + i + 8);
		__m256		b1 = _mm256_loadu_ps(b + i + 8);

		ab0 = _mm256_fmadd_ps(a0, b0, ab0);
		aa0 = _mm256_fmadd_ps(a0, a0, aa0);
		bb0 = _mm256_fmadd_ps(b0, b0, bb0);
		ab1 = _mm256_fmadd_ps(a1, b1, ab1);
		aa1 = _mm256_fmadd_ps(a1, a1, aa1);
		bb1 = _mm256_fmadd_ps(b1, b1, bb1);
	}
	for (; i < dim; i += 8)
	{
		size_t		n = dim - i < 8 ? dim - i : 8;
		__m256		a0 = load_tail_f32(a + i, n);
		__m256		b0 = load_tail_f32(b + i, n);

		ab0 = _mm256_fmadd_ps(a0, b0, ab0);
		aa0 = _mm256_fmadd_ps(a0, a0, aa0);
		bb0 = _mm256_fmadd_ps(b0, b0, bb0);
	}
	out[0] = sum_f32x8(_mm256_add_ps(ab0, ab1));
	out[1] = sum_f32x8(_mm256_add_ps(aa0, aa1));
	out[2] = sum_f32x8(_mm256_add_ps(bb0, bb1));
}

static void
f16_to_f32(const uint16_t *x, size_t n, float *out)
{
	size_t		i = 0;

	for (; i + 8 <= n; i += 8)
		_mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (x + i))));
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
		const float *r0 = (const float *) (row_at(rows, stride, row_no) + 1);
		const float *r1 = (const float *) (row_at(rows, stride, row_no + 1) + 1);
		const float *r2 = (const float *) (row_at(rows, stride, row_no + 2) + 1);
		const float *r3 = (const float *) (row_at(rows, stride, row_no + 3) + 1);
		__m256		sum00 = _mm256_setzero_ps();
		__m256		sum01 = sum00;
		__m256		sum10 = sum00;
		__m256		sum11 = sum00;
		__m256		sum20 = sum00;
		__m256		sum21 = sum00;
		__m256		sum30 = sum00;
		__m256		sum31 = sum00;
		size_t		i = 0;

		for (; i + 16 <= dim; i += 16)
		{
			__m256		q0 = _mm256_loadu_ps(q + i);
			__m256		q1 = _mm256_loadu_ps(q + i + 8);

			sum00 = add_square(sum00, _mm256_sub_ps(q0, _mm256_loadu_ps(r0 + i)));
			sum10 = add_square(sum10, _mm256_sub_ps(q0, _mm256_loadu_ps(r1 + i)));
			sum20 = add_square(sum20, _mm256_sub_ps(q0, _mm256_loadu_ps(r2 + i)));
			sum30 = add_square(sum30, _mm256_sub_ps(q0, _mm256_loadu_ps(r3 + i)));
			sum01 = add_square(sum01, _mm256_sub_ps(q1, _mm256_loadu_ps(r0 + i + 8)));
			sum11 = add_square(sum11, _mm256_sub_ps(q1, _mm256_loadu_ps(r1 + i + 8)));
			sum21 = add_square(sum21, _mm256_sub_ps(q1, _mm256_loadu_ps(r2 + i + 8)));
			sum31 = add_square(sum31, _mm256_sub_ps(q1, _mm256_loadu_ps(r3 + i + 8)));
		}
		for (; i < dim; i += 8)
		{
			size_t		n = dim - i < 8 ? dim - i : 8;
			__m256		q0 = load_tail_f32(q + i, n);

			sum00 = add_square(sum00, _mm256_sub_ps(q0, load_tail_f32(r0 + i, n)));
			sum10 = add_square(sum10, _mm256_sub_ps(q0, load_tail_f32(r1 + i, n)));
			sum20 = add_square(sum20, _mm256_sub_ps(q0, load_tail_f32(r2 + i, n)));
			sum30 = add_square(sum30, _mm256_sub_ps(q0, load_tail_f32(r3 + i, n)));
		}
		out[row_no] = sum_f32x8(_mm256_add_ps(sum00, sum01));
		out[row_no + 1] = sum_f32x8(_mm256_add_ps(sum10, sum11));
		out[row_no + 2] = sum_f32x8(_mm256_add_ps(sum20, sum21));
		out[row_no + 3] = sum_f32x8(_mm256_add_ps(sum30, sum31));
	}
	for (; row_no < nrows; row_no++)
		out[row_no] = l2sq_f32(q, (const float *) (row_at(rows, stride, row_no) + 1), dim);
}

/* q - scale * bytes, of which the low eight count */
static inline __m256
diff_i8(__m256 q, __m256 scale, __m128i bytes)
{
	return _mm256_fnmadd_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), q);
}

static float
l2sq_row_i8(const float *q, size_t dim, const VqRowHeader *row)
{
	const int8_t *bytes = (const int8_t *) (row + 1);
	__m256		scale = _mm256_set1_ps(row->scale);
	__m256		sum0 = _mm256_setzero_ps();
	__m256		sum1 = sum0;
	__m256		sum2 = sum0;
	__m256		sum3 = sum0;
	size_t		i = 0;

	for (; i + 32 <= dim; i += 32)
	{
		sum0 = add_square(sum0, diff_i8(_mm256_loadu_ps(q + i), scale, load_8_bytes(bytes + i)));
		sum1 = add_square(sum1, diff_i8(_mm256_loadu_ps(q + i + 8), scale, load_8_bytes(bytes + i + 8)));
		sum2 = add_square(sum2, diff_i8(_mm256_loadu_ps(q + i + 16), scale, load_8_bytes(bytes + i + 16)));
		sum3 = add_square(sum3, diff_i8(_mm256_loadu_ps(q + i + 24), scale, load_8_bytes(bytes + i + 24)));
	}
	for (; i + 8 <= dim; i += 8)
		sum0 = add_square(sum0, diff_i8(_mm256_loadu_ps(q + i), scale, load_8_bytes(bytes + i)));
	if (i < dim)
		sum1 = add_square(sum1, diff_i8(load_tail_f32(q + i, dim - i), scale,
										load_tail_i8(bytes + i, dim - i)));
	return sum_f32x8(_mm256_add_ps(_mm256_add_ps(sum0, sum1), _mm256_add_ps(sum2, sum3)));
}

/* Widening the bytes is most of the work here: nothing to share between rows */
static void
l2sq_rows_i8(const float *q, size_t dim, const void *rows, size_t stride,
			 size_t nrows, float *out)
{
	for (size_t i = 0; i < nrows; i++)
		out[i] = l2sq_row_i8(q, dim, row_at(rows, stride, i));
}

static inline __m256
widen_i8x8(const int8_t *bytes)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) bytes)));
}

/* Sums of two panels, which share each value of x; the other three registers hide latency */
static inline void
project_panels(const float *x, size_t dim, const int8_t *panel, const int8_t *next, const float *steps, float *out)
{
	__m256		sum0 = _mm256_setzero_ps();
	__m256		sum1 = sum0;
	__m256		sum2 = sum0;
	__m256		sum3 = sum0;

	for (size_t i = 0; i < dim; i++)
	{
		__m256		value = _mm256_broadcast_ss(x + i);

		sum0 = _mm256_fmadd_ps(value, widen_i8x8(panel + i * VQ_PANEL_COLUMNS), sum0);
		sum1 = _mm256_fmadd_ps(value, widen_i8x8(panel + i * VQ_PANEL_COLUMNS + 8), sum1);
		if (next)
		{
			sum2 = _mm256_fmadd_ps(value, widen_i8x8(next + i * VQ_PANEL_COLUMNS), sum2);
			sum3 = _mm256_fmadd_ps(value, widen_i8x8(next + i * VQ_PANEL_COLUMNS + 8), sum3);
		}
	}
	_mm256_storeu_ps(out, _mm256_mul_ps(sum0, _mm256_loadu_ps(steps)));
	_mm256_storeu_ps(out + 8, _mm256_mul_ps(sum1, _mm256_loadu_ps(steps + 8)));
	if (next)
	{
		_mm256_storeu_ps(out + 16, _mm256_mul_ps(sum2, _mm256_loadu_ps(steps + 16)));
		_mm256_storeu_ps(out + 24, _mm256_mul_ps(sum3, _mm256_loadu_ps(steps + 24)));
	}
}

static void
project_i8(const float *x, size_t dim, const int8_t *panels, const float *steps, size_t npanels, float *out)
{
	size_t		panel_bytes = dim * VQ_PANEL_COLUMNS;
	size_t		p = 0;

	for (; p + 2 <= npanels; p += 2)
		project_panels(x, dim, panels + p * panel_bytes, panels + (p + 1) * panel_bytes,
					   steps + p * VQ_PANEL_COLUMNS, out + p * VQ_PANEL_COLUMNS);
	if (p < npanels)
		project_panels(x, dim, panels + p * panel_bytes, NULL, steps + p * VQ_PANEL_COLUMNS, out + p * VQ_PANEL_COLUMNS);
}

/* Transform of the eight lanes of a register, not scaled */
static inline __m256
fwht_f32x8(__m256 v)
{
	const __m256 signs1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
	const __m256 signs2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
	const __m256 signs4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);

	/* The partner's value, plus or minus one's own */
	v = _mm256_fmadd_ps(v, signs1, _mm256_permute_ps(v, 0xB1));
	v = _mm256_fmadd_ps(v, signs2, _mm256_permute_ps(v, 0x4E));
	return _mm256_fmadd_ps(v, signs4, _mm256_permute2f128_ps(v, v, 0x01));
}

static inline void
butterfly(__m256 *a, __m256 *b)
{
	__m256		sum = _mm256_add_ps(*a, *b);

	*b = _mm256_sub_ps(*a, *b);
	*a = sum;
}

static inline void
butterflies_of_4(__m256 *a, __m256 *b, __m256 *c, __m256 *d)
{
	butterfly(a, b);
	butterfly(c, d);
	butterfly(a, c);
	butterfly(b, d);
}

static inline __m256
load_scaled(const float *p, __m256 scale)
{
	return _mm256_mul_ps(_mm256_loadu_ps(p), scale);
}

/* Scale and transform 64 floats, held in eight registers */
static inline void
fwht_64(float *x, __m256 scale)
{
	__m256		v0 = fwht_f32x8(load_scaled(x, scale));
	__m256		v1 = fwht_f32x8(load_scaled(x + 8, scale));
	__m256		v2 = fwht_f32x8(load_scaled(x + 16, scale));
	__m256		v3 = fwht_f32x8(load_scaled(x + 24, scale));
	__m256		v4 = fwht_f32x8(load_scaled(x + 32, scale));
	__m256		v5 = fwht_f32x8(load_scaled(x + 40, scale));
	__m256		v6 = fwht_f32x8(load_scaled(x + 48, scale));
	__m256		v7 = fwht_f32x8(load_scaled(x + 56, scale));

	butterflies_of_4(&v0, &v1, &v2, &v3);
	butterflies_of_4(&v4, &v5, &v6, &v7);
	butterfly(&v0, &v4);
	butterfly(&v1, &v5);
	butterfly(&v2, &v6);
	butterfly(&v3, &v7);

	_mm256_storeu_ps(x, v0);
	_mm256_storeu_ps(x + 8, v1);
	_mm256_storeu_ps(x + 16, v2);
	_mm256_storeu_ps(x + 24, v3);
	_mm256_storeu_ps(x + 32, v4);
	_mm256_storeu_ps(x + 40, v5);
	_mm256_storeu_ps(x + 48, v6);
	_mm256_storeu_ps(x + 56, v7);
}

/* The stage between elements half apart; half is a multiple of 8 */
static inline void
fwht_stage(float *x, size_t n, size_t half)
{
	for (size_t start = 0; start < n; start += 2 * half)
		for (size_t i = start; i < start + half; i += 8)
		{
			__m256		a = _mm256_loadu_ps(x + i);
			__m256		b = _mm256_loadu_ps(x + i + half);

			butterfly(&a, &b);
			_mm256_storeu_ps(x + i, a);
			_mm256_storeu_ps(x + i + half, b);
		}
}

/* The stages half and 2 * half in one pass over memory */
static inline void
fwht_two_stages(float *x, size_t n, size_t half)
{
	for (size_t start = 0; start < n; start += 4 * half)
		for (size_t i = start; i < start + half; i += 8)
		{
			__m256		a = _mm256_loadu_ps(x + i);
			__m256		b = _mm256_loadu_ps(x + i + half);
			__m256		c = _mm256_loadu_ps(x + i + 2 * half);
			__m256		d = _mm256_loadu_ps(x + i + 3 * half);

			butterflies_of_4(&a, &b, &c, &d);
			_mm256_storeu_ps(x + i, a);
			_mm256_storeu_ps(x + i + half, b);
			_mm256_storeu_ps(x + i + 2 * half, c);
			_mm256_storeu_ps(x + i + 3 * half, d);
		}
}

static void
fwht(float *x, size_t n)
{
	__m256		scale = _mm256_set1_ps(1.0f / sqrtf((float) n));
	size_t		half;

	if (n < 8)
	{
		vq_kernels_scalar.fwht(x, n);
		return;
	}
	if (n < 64)
	{
		for (size_t i = 0; i < n; i += 8)
			_mm256_storeu_ps(x + i, fwht_f32x8(load_scaled(x + i, scale)));
		half = 8;
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

/* Squared distances of dsub floats to eight centroids that are ksub apart */
static inline __m256
distances_f32x8(const float *x, const float *centroids, size_t dsub, size_t ksub)
{
	__m256		sum = _mm256_setzero_ps();

	for (size_t d = 0; d < dsub; d++)
		sum = add_square(sum, _mm256_sub_ps(_mm256_broadcast_ss(x + d),
											_mm256_loadu_ps(centroids + d * ksub)));
	return sum;
}

/* First of 16 lanes that equals the minimum; NaNs never do, and give 15 */
static inline uint8_t
first_equal(__m256 low, __m256 high, __m256 minimum)
{
	uint32_t	low_mask = (uint32_t) _mm256_movemask_ps(_mm256_cmp_ps(low, minimum, _CMP_EQ_OQ));
	uint32_t	high_mask = (uint32_t) _mm256_movemask_ps(_mm256_cmp_ps(high, minimum, _CMP_EQ_OQ));

	return (uint8_t) __builtin_ctz(low_mask | (high_mask << 8) | 0x8000);
}

/* The minimum of 16 lanes, in all lanes of the result */
static inline __m256
minimum_of_16(__m256 low, __m256 high)
{
	__m256		v = _mm256_min_ps(low, high);

	v = _mm256_min_ps(v, _mm256_permute2f128_ps(v, v, 0x01));
	v = _mm256_min_ps(v, _mm256_permute_ps(v, 0x4E));
	return _mm256_min_ps(v, _mm256_permute_ps(v, 0xB1));
}

/*
 * Four sub-quantisers at a time: their minima are taken together, by a
 * transposition that ends with one of them in each lane of a 128-bit half.
 */
static inline void
encode_16(const float *x, const float *codebook, size_t m, size_t dsub, uint8_t *codes)
{
	size_t		step = dsub * 16;
	size_t		j = 0;

	for (; j + 4 <= m; j += 4)
	{
		const float *c = codebook + j * step;
		const float *xj = x + j * dsub;
		__m256		low0 = distances_f32x8(xj, c, dsub, 16);
		__m256		high0 = distances_f32x8(xj, c + 8, dsub, 16);
		__m256		low1 = distances_f32x8(xj + dsub, c + step, dsub, 16);
		__m256		high1 = distances_f32x8(xj + dsub, c + step + 8, dsub, 16);
		__m256		low2 = distances_f32x8(xj + 2 * dsub, c + 2 * step, dsub, 16);
		__m256		high2 = distances_f32x8(xj + 2 * dsub, c + 2 * step + 8, dsub, 16);
		__m256		low3 = distances_f32x8(xj + 3 * dsub, c + 3 * step, dsub, 16);
		__m256		high3 = distances_f32x8(xj + 3 * dsub, c + 3 * step + 8, dsub, 16);
		__m256		min0 = _mm256_min_ps(low0, high0);
		__m256		min1 = _mm256_min_ps(low1, high1);
		__m256		min2 = _mm256_min_ps(low2, high2);
		__m256		min3 = _mm256_min_ps(low3, high3);
		__m256		min01 = _mm256_min_ps(_mm256_unpacklo_ps(min0, min1), _mm256_unpackhi_ps(min0, min1));
		__m256		min23 = _mm256_min_ps(_mm256_unpacklo_ps(min2, min3), _mm256_unpackhi_ps(min2, min3));
		__m256		minima = _mm256_min_ps(_mm256_shuffle_ps(min01, min23, 0x44),
										   _mm256_shuffle_ps(min01, min23, 0xEE));

		minima = _mm256_min_ps(minima, _mm256_permute2f128_ps(minima, minima, 0x01));
		codes[j] = first_equal(low0, high0, _mm256_permute_ps(minima, 0x00));
		codes[j + 1] = first_equal(low1, high1, _mm256_permute_ps(minima, 0x55));
		codes[j + 2] = first_equal(low2, high2, _mm256_permute_ps(minima, 0xAA));
		codes[j + 3] = first_equal(low3, high3, _mm256_permute_ps(minima, 0xFF));
	}
	for (; j < m; j++)
	{
		__m256		low = distances_f32x8(x + j * dsub, codebook + j * step, dsub, 16);
		__m256		high = distances_f32x8(x + j * dsub, codebook + j * step + 8, dsub, 16);

		codes[j] = first_equal(low, high, minimum_of_16(low, high));
	}
}

/*
 * Each lane remembers its smallest distance and the first group of eight that
 * had it; the lanes are compared at the end.
 */
static inline uint8_t
nearest_of_256(const float *x, const float *centroids, size_t dsub)
{
	__m256		best = _mm256_set1_ps(INFINITY);
	__m256i		best_k = _mm256_setzero_si256();
	__m256i		k = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
	float		distances[8];
	int32_t		ks[8];
	size_t		nearest = 0;

	for (size_t group = 0; group < 32; group += 4)
	{
		const float *c = centroids + group * 8;
		__m256		d0 = _mm256_setzero_ps();
		__m256		d1 = d0;
		__m256		d2 = d0;
		__m256		d3 = d0;
		__m256		less;

		for (size_t d = 0; d < dsub; d++, c += 256)
		{
			__m256		xd = _mm256_broadcast_ss(x + d);

			d0 = add_square(d0, _mm256_sub_ps(xd, _mm256_loadu_ps(c)));
			d1 = add_square(d1, _mm256_sub_ps(xd, _mm256_loadu_ps(c + 8)));
			d2 = add_square(d2, _mm256_sub_ps(xd, _mm256_loadu_ps(c + 16)));
			d3 = add_square(d3, _mm256_sub_ps(xd, _mm256_loadu_ps(c + 24)));
		}

		less = _mm256_cmp_ps(d0, best, _CMP_LT_OQ);
		best = _mm256_blendv_ps(best, d0, less);
		best_k = _mm256_blendv_epi8(best_k, k, _mm256_castps_si256(less));
		k = _mm256_add_epi32(k, _mm256_set1_epi32(8));

		less = _mm256_cmp_ps(d1, best, _CMP_LT_OQ);
		best = _mm256_blendv_ps(best, d1, less);
		best_k = _mm256_blendv_epi8(best_k, k, _mm256_castps_si256(less));
		k = _mm256_add_epi32(k, _mm256_set1_epi32(8));

		less = _mm256_cmp_ps(d2, best, _CMP_LT_OQ);
		best = _mm256_blendv_ps(best, d2, less);
		best_k = _mm256_blendv_epi8(best_k, k, _mm256_castps_si256(less));
		k = _mm256_add_epi32(k, _mm256_set1_epi32(8));

		less = _mm256_cmp_ps(d3, best, _CMP_LT_OQ);
		best = _mm256_blendv_ps(best, d3, less);
		best_k = _mm256_blendv_epi8(best_k, k, _mm256_castps_si256(less));
		k = _mm256_add_epi32(k, _mm256_set1_epi32(8));
	}

	_mm256_storeu_ps(distances, best);
	_mm256_storeu_si256((__m256i *) ks, best_k);
	for (size_t lane = 1; lane < 8; lane++)
		if (distances[lane] < distances[nearest] ||
			(distances[lane] == distances[nearest] && ks[lane] < ks[nearest]))
			nearest = lane;
	return (uint8_t) ks[nearest];
}

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
		for (size_t k = 0; k < ksub; k += 16)
		{
			const float *c = codebook + j * dsub * ksub + k;
			__m256		sum0 = _mm256_setzero_ps();
			__m256		sum1 = sum0;

			for (size_t d = 0; d < dsub; d++, c += ksub)
			{
				__m256		qd = _mm256_broadcast_ss(q + j * dsub + d);

				sum0 = _mm256_fmadd_ps(qd, _mm256_loadu_ps(c), sum0);
				sum1 = _mm256_fmadd_ps(qd, _mm256_loadu_ps(c + 8), sum1);
			}
			_mm256_storeu_ps(lut + j * ksub + k, sum0);
			_mm256_storeu_ps(lut + j * ksub + k + 8, sum1);
		}
	}
}

/* The smaller or the larger numbers */
static inline __m256
extreme(__m256 a, __m256 b, bool is_largest)
{
	return is_largest ? _mm256_max_ps(a, b) : _mm256_min_ps(a, b);
}

/* Of two lanes at a time: a, b, a, b, in each half */
static inline __m256
extreme_of_pairs(__m256 a, __m256 b, bool is_largest)
{
	return extreme(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), is_largest);
}

/* The least or the largest of four registers' lanes, in their order, in each half */
static inline __m256
extreme_of_halves(const __m256 rows[4], bool is_largest)
{
	__m256d		ab = _mm256_castps_pd(extreme_of_pairs(rows[0], rows[1], is_largest));
	__m256d		cd = _mm256_castps_pd(extreme_of_pairs(rows[2], rows[3], is_largest));

	return extreme(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)), _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)),
				  is_largest);
}

/* That of eight registers' lanes, in their order */
static inline __m256
extreme_of_rows(const __m256 rows[8], bool is_largest)
{
	__m256		first = extreme_of_halves(rows, is_largest);
	__m256		second = extreme_of_halves(rows + 4, is_largest);

	return extreme(_mm256_permute2f128_ps(first, second, 0x20), _mm256_permute2f128_ps(first, second, 0x31),
				  is_largest);
}

static void
lut_ranges(const float *lut, size_t m, size_t ksub, uint8_t *bytes)
{
	for (size_t first = 0; first < m; first += 8)
	{
		size_t		nrows = m - first < 8 ? m - first : 8;
		__m256		lows[8];
		__m256		highs[8];
		float		ranges[2][8];

		for (size_t i = 0; i < 8; i++)
		{
			const float *entries = lut + (first + (i < nrows ? i : 0)) * ksub;

			lows[i] = highs[i] = _mm256_loadu_ps(entries);
			for (size_t k = 8; k < ksub; k += 8)
			{
				lows[i] = _mm256_min_ps(lows[i], _mm256_loadu_ps(entries + k));
				highs[i] = _mm256_max_ps(highs[i], _mm256_loadu_ps(entries + k));
			}
		}
		_mm256_storeu_ps(ranges[0], extreme_of_rows(lows, false));
		_mm256_storeu_ps(ranges[1], extreme_of_rows(highs, true));
		for (size_t i = 0; i < nrows; i++)
		{
			memcpy(bytes + (first + i) * ksub, &ranges[0][i], sizeof(float));
			memcpy(bytes + (first + i) * ksub + sizeof(float), &ranges[1][i], sizeof(float));
		}
	}
}

static void
lut_bytes(const float *lut, size_t m, size_t ksub, float per_step, uint8_t *bytes)
{
	__m256		factor = _mm256_set1_ps(per_step);

	for (size_t j = 0; j < m; j++)
	{
		__m256		low;
		float		least;

		memcpy(&least, bytes + j * ksub, sizeof(least));
		low = _mm256_set1_ps(least);
		for (size_t i = j * ksub; i < (j + 1) * ksub; i += 16)
		{
			__m256		steps0 = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(lut + i), low), factor);
			__m256		steps1 = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(lut + i + 8), low), factor);
			__m256i		words = _mm256_packus_epi32(_mm256_cvtps_epi32(steps0), _mm256_cvtps_epi32(steps1));

			/* in the order that packing halves has mixed */
			words = _mm256_permute4x64_epi64(words, 0xD8);
			_mm_storeu_si128((__m128i *) (bytes + i),
							 _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
		}
	}
}

VQ_TARGET_END

const VqKernels vq_kernels_avx2 = {
	.name = "avx2",
	.required_features = VQ_CPU_AVX2,
	.is_u8_fast = true,
	.l2sq_f32 = l2sq_f32,
	.ip_f32 = ip_f32,
	.ip_norms_f32 = ip_norms_f32,
	.f16_to_f32 = f16_to_f32,
	.l2sq_rows_f32 = l2sq_rows_f32,
	.l2sq_rows_i8 = l2sq_rows_i8,
	.project_i8 = project_i8,
	.fwht = fwht,
	.pq_encode = pq_encode,
	.pq_lut = pq_lut,
	.lut_ranges = lut_ranges,
	.lut_bytes = lut_bytes,
	.scan4 = vq_avx2_scan4,
	.scan8 = vq_avx2_scan8,
	.bound = vq_avx2_bound,
	.quantise_u8 = vq_avx2_quantise_u8,
	.scores_u8 = vq_avx2_scores_u8,
	.largest_two = vq_avx2_largest_two,
};

#endif							/* __x86_64__ */
