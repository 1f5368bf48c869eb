/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx2.c
 *	  The operations for x86-64 processors with AVX2 and FMA, but for product
 *	  quantisers (vq_kernels_avx2_pq.c), the scoring of codes (vq_kernels_avx2_scan.c)
 *	  and products of bytes (vq_kernels_avx2_u8.c).
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
add_f64(double *sums, const float *x, double factor, size_t dim)
{
	__m256d		factors = _mm256_set1_pd(factor);
	size_t		i = 0;

	for (; i + 8 <= dim; i += 8)
	{
		__m256		x8 = _mm256_loadu_ps(x + i);
		__m256d		low = _mm256_cvtps_pd(_mm256_castps256_ps128(x8));
		__m256d		high = _mm256_cvtps_pd(_mm256_extractf128_ps(x8, 1));

		_mm256_storeu_pd(sums + i, _mm256_fmadd_pd(low, factors, _mm256_loadu_pd(sums + i)));
		_mm256_storeu_pd(sums + i + 4, _mm256_fmadd_pd(high, factors, _mm256_loadu_pd(sums + i + 4)));
	}
	for (; i < dim; i++)
		sums[i] += factor * x[i];
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

VQ_TARGET_END

const VqKernels vq_kernels_avx2 = {
	.name = "avx2",
	.required_features = VQ_CPU_AVX2,
	.is_u8_fast = true,
	.l2sq_f32 = l2sq_f32,
	.ip_f32 = ip_f32,
	.ip_norms_f32 = ip_norms_f32,
	.add_f64 = add_f64,
	.f16_to_f32 = f16_to_f32,
	.l2sq_rows_f32 = l2sq_rows_f32,
	.l2sq_rows_i8 = l2sq_rows_i8,
	.project_i8 = project_i8,
	.fwht = fwht,
	.pq_encode = vq_avx2_pq_encode,
	.pq_lut = vq_avx2_pq_lut,
	.lut_ranges = vq_avx2_lut_ranges,
	.lut_bytes = vq_avx2_lut_bytes,
	.scan4 = vq_avx2_scan4,
	.scan8 = vq_avx2_scan8,
	.bound = vq_avx2_bound,
	.quantise_u8 = vq_avx2_quantise_u8,
	.scores_u8 = vq_avx2_scores_u8,
	.largest_two = vq_avx2_largest_two,
};

#endif							/* __x86_64__ */
