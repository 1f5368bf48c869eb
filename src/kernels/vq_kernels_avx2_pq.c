/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx2_pq.c
 *	  Codes of product quantisers and their look-up tables, for x86-64 processors
 *	  with AVX2 and FMA.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <math.h>
#include <string.h>

#include "kernels/vq_kernels_avx2.h"

VQ_TARGET_BEGIN("avx2,fma,f16c")

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

void
vq_avx2_pq_encode(const float *x, const float *codebook, size_t m, size_t dsub,
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

void
vq_avx2_pq_lut(const float *q, const float *codebook, size_t m, size_t dsub,
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

void
vq_avx2_lut_ranges(const float *lut, size_t m, size_t ksub, uint8_t *bytes)
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

void
vq_avx2_lut_bytes(const float *lut, size_t m, size_t ksub, float per_step, uint8_t *bytes)
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

#endif							/* __x86_64__ */
