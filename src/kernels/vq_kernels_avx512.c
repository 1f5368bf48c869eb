/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx512.c
 *	  The operations for x86-64 processors with AVX-512 F, BW, DQ and VL, but for
 *	  product quantisers (vq_kernels_avx512_pq.c) and the scoring of codes
 *	  (vq_kernels_avx512_scan.c), and the tables of those that have more.
 *
 * Registers name their lanes: f32x16 is sixteen floats.  What does not fill a
 * register is loaded under a mask, which reads no byte it leaves out.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>

#include "kernels/vq_cpu.h"
#include "kernels/vq_kernels_avx512.h"

VQ_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

static float
l2sq_f32(const float *a, const float *b, size_t dim)
{
	__m512		sum0 = _mm512_setzero_ps();
	__m512		sum1 = sum0;
	__m512		sum2 = sum0;
	__m512		sum3 = sum0;
	size_t		i = 0;

	for (; i + 64 <= dim; i += 64)
	{
		sum0 = add_square(sum0, _mm512_sub_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i)));
		sum1 = add_square(sum1, _mm512_sub_ps(_mm512_loadu_ps(a + i + 16), _mm512_loadu_ps(b + i + 16)));
		sum2 = add_square(sum2, _mm512_sub_ps(_mm512_loadu_ps(a + i + 32), _mm512_loadu_ps(b + i + 32)));
		sum3 = add_square(sum3, _mm512_sub_ps(_mm512_loadu_ps(a + i + 48), _mm512_loadu_ps(b + i + 48)));
	}
	for (; i + 16 <= dim; i += 16)
		sum0 = add_square(sum0, _mm512_sub_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i)));
	if (i < dim)
	{
		__mmask16	mask = first_lanes(dim - i);

		sum1 = add_square(sum1, _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, a + i),
											  _mm512_maskz_loadu_ps(mask, b + i)));
	}
	return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum0, sum1), _mm512_add_ps(sum2, sum3)));
}

static float
ip_f32(const float *a, const float *b, size_t dim)
{
	__m512		sum0 = _mm512_setzero_ps();
	__m512		sum1 = sum0;
	__m512		sum2 = sum0;
	__m512		sum3 = sum0;
	size_t		i = 0;

	for (; i + 64 <= dim; i += 64)
	{
		sum0 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), sum0);
		sum1 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16), _mm512_loadu_ps(b + i + 16), sum1);
		sum2 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 32), _mm512_loadu_ps(b + i + 32), sum2);
		sum3 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 48), _mm512_loadu_ps(b + i + 48), sum3);
	}
	for (; i + 16 <= dim; i += 16)
		sum0 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), sum0);
	if (i < dim)
	{
		__mmask16	mask = first_lanes(dim - i);

		sum1 = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + i),
							   _mm512_maskz_loadu_ps(mask, b + i), sum1);
	}
	return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum0, sum1), _mm512_add_ps(sum2, sum3)));
}

static void
add_f64(double *sums, const float *x, double factor, size_t dim)
{
	__m512d		factors = _mm512_set1_pd(factor);
	size_t		i = 0;

	for (; i + 8 <= dim; i += 8)
		_mm512_storeu_pd(sums + i, _mm512_fmadd_pd(_mm512_cvtps_pd(_mm256_loadu_ps(x + i)), factors,
												   _mm512_loadu_pd(sums + i)));
	for (; i < dim; i++)
		sums[i] += factor * x[i];
}

static void
ip_norms_f32(const float *a, const float *b, size_t dim, float out[3])
{
	__m512		ab0 = _mm512_setzero_ps();
	__m512		aa0 = ab0;
	__m512		bb0 = ab0;
	__m512		ab1 = ab0;
	__m512		aa1 = ab0;
	__m512		bb1 = ab0;
	size_t		i = 0;

	for (; i + 32 <= dim; i += 32)
	{
		__m512		a0 = _mm512_loadu_ps(a + i);
		__m512		b0 = _mm512_loadu_ps(b + i);
		__m512		a1 = _mm512_loadu_ps(a + i + 16);
		__m512		b1 = _mm512_loadu_ps(b + i + 16);

		ab0 = _mm512_fmadd_ps(a0, b0, ab0);
		aa0 = _mm512_fmadd_ps(a0, a0, aa0);
		bb0 = _mm512_fmadd_ps(b0, b0, bb0);
		ab1 = _mm512_fmadd_ps(a1, b1, ab1);
		aa1 = _mm512_fmadd_ps(a1, a1, aa1);
		bb1 = _mm512_fmadd_ps(b1, b1, bb1);
	}
	for (; i < dim; i += 16)
	{
		__mmask16	mask = dim - i < 16 ? first_lanes(dim - i) : 0xFFFF;
		__m512		a0 = _mm512_maskz_loadu_ps(mask, a + i);
		__m512		b0 = _mm512_maskz_loadu_ps(mask, b + i);

		ab0 = _mm512_fmadd_ps(a0, b0, ab0);
		aa0 = _mm512_fmadd_ps(a0, a0, aa0);
		bb0 = _mm512_fmadd_ps(b0, b0, bb0);
	}
	out[0] = _mm512_reduce_add_ps(_mm512_add_ps(ab0, ab1));
	out[1] = _mm512_reduce_add_ps(_mm512_add_ps(aa0, aa1));
	out[2] = _mm512_reduce_add_ps(_mm512_add_ps(bb0, bb1));
}

static void
f16_to_f32(const uint16_t *x, size_t n, float *out)
{
	size_t		i = 0;

	for (; i + 16 <= n; i += 16)
		_mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) (x + i))));
	if (i < n)
	{
		__mmask16	mask = first_lanes(n - i);

		_mm512_mask_storeu_ps(out + i, mask, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, x + i)));
	}
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
		__m512		sum00 = _mm512_setzero_ps();
		__m512		sum01 = sum00;
		__m512		sum10 = sum00;
		__m512		sum11 = sum00;
		__m512		sum20 = sum00;
		__m512		sum21 = sum00;
		__m512		sum30 = sum00;
		__m512		sum31 = sum00;
		size_t		i = 0;

		for (; i + 32 <= dim; i += 32)
		{
			__m512		q0 = _mm512_loadu_ps(q + i);
			__m512		q1 = _mm512_loadu_ps(q + i + 16);

			sum00 = add_square(sum00, _mm512_sub_ps(q0, _mm512_loadu_ps(r0 + i)));
			sum10 = add_square(sum10, _mm512_sub_ps(q0, _mm512_loadu_ps(r1 + i)));
			sum20 = add_square(sum20, _mm512_sub_ps(q0, _mm512_loadu_ps(r2 + i)));
			sum30 = add_square(sum30, _mm512_sub_ps(q0, _mm512_loadu_ps(r3 + i)));
			sum01 = add_square(sum01, _mm512_sub_ps(q1, _mm512_loadu_ps(r0 + i + 16)));
			sum11 = add_square(sum11, _mm512_sub_ps(q1, _mm512_loadu_ps(r1 + i + 16)));
			sum21 = add_square(sum21, _mm512_sub_ps(q1, _mm512_loadu_ps(r2 + i + 16)));
			sum31 = add_square(sum31, _mm512_sub_ps(q1, _mm512_loadu_ps(r3 + i + 16)));
		}
		for (; i < dim; i += 16)
		{
			__mmask16	mask = dim - i < 16 ? first_lanes(dim - i) : 0xFFFF;
			__m512		q0 = _mm512_maskz_loadu_ps(mask, q + i);

			sum00 = add_square(sum00, _mm512_sub_ps(q0, _mm512_maskz_loadu_ps(mask, r0 + i)));
			sum10 = add_square(sum10, _mm512_sub_ps(q0, _mm512_maskz_loadu_ps(mask, r1 + i)));
			sum20 = add_square(sum20, _mm512_sub_ps(q0, _mm512_maskz_loadu_ps(mask, r2 + i)));
			sum30 = add_square(sum30, _mm512_sub_ps(q0, _mm512_maskz_loadu_ps(mask, r3 + i)));
		}
		out[row_no] = _mm512_reduce_add_ps(_mm512_add_ps(sum00, sum01));
		out[row_no + 1] = _mm512_reduce_add_ps(_mm512_add_ps(sum10, sum11));
		out[row_no + 2] = _mm512_reduce_add_ps(_mm512_add_ps(sum20, sum21));
		out[row_no + 3] = _mm512_reduce_add_ps(_mm512_add_ps(sum30, sum31));
	}
	for (; row_no < nrows; row_no++)
		out[row_no] = l2sq_f32(q, (const float *) (row_at(rows, stride, row_no) + 1), dim);
}

/* q - scale * bytes */
static inline __m512
diff_i8(__m512 q, __m512 scale, __m128i bytes)
{
	return _mm512_fnmadd_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), q);
}

static inline __m128i
load_16_bytes(const void *p)
{
	return _mm_loadu_si128((const __m128i *) p);
}

static float
l2sq_row_i8(const float *q, size_t dim, const VqRowHeader *row)
{
	const int8_t *bytes = (const int8_t *) (row + 1);
	__m512		scale = _mm512_set1_ps(row->scale);
	__m512		sum0 = _mm512_setzero_ps();
	__m512		sum1 = sum0;
	__m512		sum2 = sum0;
	__m512		sum3 = sum0;
	size_t		i = 0;

	for (; i + 64 <= dim; i += 64)
	{
		sum0 = add_square(sum0, diff_i8(_mm512_loadu_ps(q + i), scale, load_16_bytes(bytes + i)));
		sum1 = add_square(sum1, diff_i8(_mm512_loadu_ps(q + i + 16), scale, load_16_bytes(bytes + i + 16)));
		sum2 = add_square(sum2, diff_i8(_mm512_loadu_ps(q + i + 32), scale, load_16_bytes(bytes + i + 32)));
		sum3 = add_square(sum3, diff_i8(_mm512_loadu_ps(q + i + 48), scale, load_16_bytes(bytes + i + 48)));
	}
	for (; i + 16 <= dim; i += 16)
		sum0 = add_square(sum0, diff_i8(_mm512_loadu_ps(q + i), scale, load_16_bytes(bytes + i)));
	if (i < dim)
	{
		__mmask16	mask = first_lanes(dim - i);

		sum1 = add_square(sum1, diff_i8(_mm512_maskz_loadu_ps(mask, q + i), scale,
										_mm_maskz_loadu_epi8(mask, bytes + i)));
	}
	return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum0, sum1), _mm512_add_ps(sum2, sum3)));
}

/* Widening the bytes is most of the work here: nothing to share between rows */
static void
l2sq_rows_i8(const float *q, size_t dim, const void *rows, size_t stride,
			 size_t nrows, float *out)
{
	for (size_t i = 0; i < nrows; i++)
		out[i] = l2sq_row_i8(q, dim, row_at(rows, stride, i));
}

/* Transform of the 16 lanes of a register, not scaled */
static inline __m512
fwht_f32x16(__m512 v)
{
	const __m512 signs1 = _mm512_setr_ps(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1);
	const __m512 signs2 = _mm512_setr_ps(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1);
	const __m512 signs4 = _mm512_setr_ps(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1);
	const __m512 signs8 = _mm512_setr_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);

	/* The partner's value, plus or minus one's own */
	v = _mm512_fmadd_ps(v, signs1, _mm512_permute_ps(v, 0xB1));
	v = _mm512_fmadd_ps(v, signs2, _mm512_permute_ps(v, 0x4E));
	v = _mm512_fmadd_ps(v, signs4, _mm512_shuffle_f32x4(v, v, 0xB1));
	return _mm512_fmadd_ps(v, signs8, _mm512_shuffle_f32x4(v, v, 0x4E));
}

static inline void
butterfly(__m512 *a, __m512 *b)
{
	__m512		sum = _mm512_add_ps(*a, *b);

	*b = _mm512_sub_ps(*a, *b);
	*a = sum;
}

static inline void
butterflies_of_4(__m512 *a, __m512 *b, __m512 *c, __m512 *d)
{
	butterfly(a, b);
	butterfly(c, d);
	butterfly(a, c);
	butterfly(b, d);
}

static inline __m512
load_scaled(const float *p, __m512 scale)
{
	return _mm512_mul_ps(_mm512_loadu_ps(p), scale);
}

/* Scale and transform 256 floats, held in sixteen registers */
static inline void
fwht_256(float *x, __m512 scale)
{
	__m512		v0 = fwht_f32x16(load_scaled(x, scale));
	__m512		v1 = fwht_f32x16(load_scaled(x + 16, scale));
	__m512		v2 = fwht_f32x16(load_scaled(x + 32, scale));
	__m512		v3 = fwht_f32x16(load_scaled(x + 48, scale));
	__m512		v4 = fwht_f32x16(load_scaled(x + 64, scale));
	__m512		v5 = fwht_f32x16(load_scaled(x + 80, scale));
	__m512		v6 = fwht_f32x16(load_scaled(x + 96, scale));
	__m512		v7 = fwht_f32x16(load_scaled(x + 112, scale));
	__m512		v8 = fwht_f32x16(load_scaled(x + 128, scale));
	__m512		v9 = fwht_f32x16(load_scaled(x + 144, scale));
	__m512		v10 = fwht_f32x16(load_scaled(x + 160, scale));
	__m512		v11 = fwht_f32x16(load_scaled(x + 176, scale));
	__m512		v12 = fwht_f32x16(load_scaled(x + 192, scale));
	__m512		v13 = fwht_f32x16(load_scaled(x + 208, scale));
	__m512		v14 = fwht_f32x16(load_scaled(x + 224, scale));
	__m512		v15 = fwht_f32x16(load_scaled(x + 240, scale));

	butterflies_of_4(&v0, &v1, &v2, &v3);
	butterflies_of_4(&v4, &v5, &v6, &v7);
	butterflies_of_4(&v8, &v9, &v10, &v11);
	butterflies_of_4(&v12, &v13, &v14, &v15);
	butterflies_of_4(&v0, &v4, &v8, &v12);
	butterflies_of_4(&v1, &v5, &v9, &v13);
	butterflies_of_4(&v2, &v6, &v10, &v14);
	butterflies_of_4(&v3, &v7, &v11, &v15);

	_mm512_storeu_ps(x, v0);
	_mm512_storeu_ps(x + 16, v1);
	_mm512_storeu_ps(x + 32, v2);
	_mm512_storeu_ps(x + 48, v3);
	_mm512_storeu_ps(x + 64, v4);
	_mm512_storeu_ps(x + 80, v5);
	_mm512_storeu_ps(x + 96, v6);
	_mm512_storeu_ps(x + 112, v7);
	_mm512_storeu_ps(x + 128, v8);
	_mm512_storeu_ps(x + 144, v9);
	_mm512_storeu_ps(x + 160, v10);
	_mm512_storeu_ps(x + 176, v11);
	_mm512_storeu_ps(x + 192, v12);
	_mm512_storeu_ps(x + 208, v13);
	_mm512_storeu_ps(x + 224, v14);
	_mm512_storeu_ps(x + 240, v15);
}

/* The stage between elements half apart; half is a multiple of 16 */
static inline void
fwht_stage(float *x, size_t n, size_t half)
{
	for (size_t start = 0; start < n; start += 2 * half)
		for (size_t i = start; i < start + half; i += 16)
		{
			__m512		a = _mm512_loadu_ps(x + i);
			__m512		b = _mm512_loadu_ps(x + i + half);

			butterfly(&a, &b);
			_mm512_storeu_ps(x + i, a);
			_mm512_storeu_ps(x + i + half, b);
		}
}

/* The stages half and 2 * half in one pass over memory */
static inline void
fwht_two_stages(float *x, size_t n, size_t half)
{
	for (size_t start = 0; start < n; start += 4 * half)
		for (size_t i = start; i < start + half; i += 16)
		{
			__m512		a = _mm512_loadu_ps(x + i);
			__m512		b = _mm512_loadu_ps(x + i + half);
			__m512		c = _mm512_loadu_ps(x + i + 2 * half);
			__m512		d = _mm512_loadu_ps(x + i + 3 * half);

			butterflies_of_4(&a, &b, &c, &d);
			_mm512_storeu_ps(x + i, a);
			_mm512_storeu_ps(x + i + half, b);
			_mm512_storeu_ps(x + i + 2 * half, c);
			_mm512_storeu_ps(x + i + 3 * half, d);
		}
}

static void
fwht(float *x, size_t n)
{
	__m512		scale = _mm512_set1_ps(1.0f / sqrtf((float) n));
	size_t		half = 256;

	/* Too short for sixteen registers, but eight narrower ones may do */
	if (n < 256)
	{
		vq_kernels_avx2.fwht(x, n);
		return;
	}
	for (size_t i = 0; i < n; i += 256)
		fwht_256(x + i, scale);
	for (; 4 * half <= n; half *= 4)
		fwht_two_stages(x, n, half);
	if (half < n)
		fwht_stage(x, n, half);
}

/* Up to 64 scores, minus infinity where there are fewer */
typedef struct Scores64
{
	__m512		part[4];
} Scores64;

static inline float
largest_of_64(const Scores64 *scores)
{
	return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(scores->part[0], scores->part[1]),
											  _mm512_max_ps(scores->part[2], scores->part[3])));
}

/* A bit for each score that equals value */
static inline uint64_t
equal_of_64(const Scores64 *scores, float value)
{
	__m512		v = _mm512_set1_ps(value);

	return (uint64_t) _mm512_cmp_ps_mask(scores->part[0], v, _CMP_EQ_OQ) |
		(uint64_t) _mm512_cmp_ps_mask(scores->part[1], v, _CMP_EQ_OQ) << 16 |
		(uint64_t) _mm512_cmp_ps_mask(scores->part[2], v, _CMP_EQ_OQ) << 32 |
		(uint64_t) _mm512_cmp_ps_mask(scores->part[3], v, _CMP_EQ_OQ) << 48;
}

static void
largest_two_of_row(const float *scores, size_t ncolumns, uint32_t at[2])
{
	const __m512 nothing = _mm512_set1_ps(-INFINITY);
	float		first = -INFINITY;
	float		second = -INFINITY;

	at[0] = 0;
	at[1] = 1;
	for (size_t j = 0; j < ncolumns; j += 64)
	{
		Scores64	s = {{_mm512_loadu_ps(scores + j),
			j + 16 < ncolumns ? _mm512_loadu_ps(scores + j + 16) : nothing,
			j + 32 < ncolumns ? _mm512_loadu_ps(scores + j + 32) : nothing,
		j + 48 < ncolumns ? _mm512_loadu_ps(scores + j + 48) : nothing}};
		float		largest = largest_of_64(&s);
		uint64_t	is_largest;
		uint32_t	largest_at;

		if (!(largest > second))
			continue;
		is_largest = equal_of_64(&s, largest);
		largest_at = (uint32_t) (j + (size_t) __builtin_ctzll(is_largest));
		is_largest &= 0 - is_largest;
		s.part[0] = _mm512_mask_mov_ps(s.part[0], (__mmask16) is_largest, nothing);
		s.part[1] = _mm512_mask_mov_ps(s.part[1], (__mmask16) (is_largest >> 16), nothing);
		s.part[2] = _mm512_mask_mov_ps(s.part[2], (__mmask16) (is_largest >> 32), nothing);
		s.part[3] = _mm512_mask_mov_ps(s.part[3], (__mmask16) (is_largest >> 48), nothing);
		if (largest > first)
		{
			second = first;
			at[1] = at[0];
			first = largest;
			at[0] = largest_at;
			largest = largest_of_64(&s);
			if (!(largest > second))
				continue;
			largest_at = (uint32_t) (j + (size_t) __builtin_ctzll(equal_of_64(&s, largest)));
		}
		second = largest;
		at[1] = largest_at;
	}

	/* column 0 is the only one above minus infinity */
	if (at[1] == at[0])
		at[1] = 1;
}

static void
largest_two(const float *scores, size_t nrows, size_t ncolumns, uint32_t (*at)[2])
{
	for (size_t i = 0; i < nrows; i++)
		largest_two_of_row(scores + i * ncolumns, ncolumns, at[i]);
}

VQ_TARGET_END

/* The operations of all AVX-512 processors, for the tables below */
#define AVX512_OPERATIONS \
	.l2sq_f32 = l2sq_f32, \
	.ip_f32 = ip_f32, \
	.ip_norms_f32 = ip_norms_f32, \
	.add_f64 = add_f64, \
	.f16_to_f32 = f16_to_f32, \
	.l2sq_rows_f32 = l2sq_rows_f32, \
	.l2sq_rows_i8 = l2sq_rows_i8, \
	.fwht = fwht, \
	.pq_encode = vq_avx512_pq_encode, \
	.pq_lut = vq_avx512_pq_lut, \
	.lut_ranges = vq_avx512_lut_ranges, \
	.lut_bytes = vq_avx512_lut_bytes, \
	.scan8 = vq_avx512_scan8, \
	.bound = vq_avx512_bound, \
	.largest_two = largest_two

/* Widening bytes takes as many instructions for sixteen as twice for eight */
static void
project_i8(const float *x, size_t dim, const int8_t *panels, const float *steps, size_t npanels, float *out)
{
	vq_kernels_avx2.project_i8(x, dim, panels, steps, npanels, out);
}

/* Builds multiply in float32: whether these outrun a library's AVX-512 has not been measured */
static float
quantise_u8(const float *x, const float *origin, size_t dim, uint8_t *out)
{
	return vq_kernels_avx2.quantise_u8(x, origin, dim, out);
}

static void
scores_u8(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns, float *scores)
{
	vq_kernels_avx2.scores_u8(rows, steps, nrows, columns, scores);
}

const VqKernels vq_kernels_avx512 = {
	.name = "avx512",
	.required_features = VQ_CPU_AVX2 | VQ_CPU_AVX512,
	AVX512_OPERATIONS,
	.project_i8 = project_i8,
	.scan4 = vq_avx512_scan4,
	.quantise_u8 = quantise_u8,
	.scores_u8 = scores_u8,
};

const VqKernels vq_kernels_avx512_vnni = {
	.name = "avx512_vnni",
	.required_features = VQ_CPU_AVX2 | VQ_CPU_AVX512 | VQ_CPU_AVX512_VNNI,
	.is_u8_fast = true,
	AVX512_OPERATIONS,
	.project_i8 = project_i8,
	.scan4 = vq_avx512_scan4,
	.quantise_u8 = vq_avx512_quantise_u8,
	.scores_u8 = vq_avx512_scores_u8,
};

const VqKernels vq_kernels_avx512_vbmi = {
	.name = "avx512_vbmi",
	.required_features = VQ_CPU_AVX2 | VQ_CPU_AVX512 | VQ_CPU_AVX512_VNNI | VQ_CPU_AVX512_VBMI,
	.is_u8_fast = true,
	AVX512_OPERATIONS,
	.project_i8 = vq_avx512_project_i8,
	.scan4 = vq_avx512_scan4_vbmi,
	.quantise_u8 = vq_avx512_quantise_u8,
	.scores_u8 = vq_avx512_scores_u8,
};

#if defined(VQ_HAVE_AMX)
const VqKernels vq_kernels_avx512_amx = {
	.name = "avx512_amx",
	.required_features = VQ_CPU_AVX2 | VQ_CPU_AVX512 | VQ_CPU_AVX512_VNNI | VQ_CPU_AVX512_VBMI | VQ_CPU_AVX512_AMX,
	.is_u8_fast = true,
	AVX512_OPERATIONS,
	.project_i8 = vq_avx512_project_i8,
	.scan4 = vq_avx512_scan4_vbmi,
	.quantise_u8 = vq_avx512_quantise_u8,
	.scores_u8 = vq_avx512_scores_u8_amx,
};
#endif

#endif							/* __x86_64__ */
