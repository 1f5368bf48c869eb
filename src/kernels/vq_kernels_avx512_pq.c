/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx512_pq.c
 *	  Codes of product quantisers and their look-up tables, for x86-64 processors
 *	  with AVX-512.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <math.h>

#include "kernels/vq_kernels_avx512.h"

VQ_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

/* Squared distances of dsub floats to 16 centroids */
static inline __m512
distances_f32x16(const float *x, const float *centroids, size_t dsub)
{
	__m512		sum = _mm512_setzero_ps();

	for (size_t d = 0; d < dsub; d++)
		sum = add_square(sum, _mm512_sub_ps(_mm512_set1_ps(x[d]), _mm512_loadu_ps(centroids + d * 16)));
	return sum;
}

/* First lane that equals the minimum; NaNs never do, and give 15 */
static inline uint8_t
first_equal(__m512 distances, __m512 minimum)
{
	uint32_t	mask = _mm512_cmp_ps_mask(distances, minimum, _CMP_EQ_OQ);

	return (uint8_t) __builtin_ctz(mask | 0x8000);
}

/*
 * Four sub-quantisers at a time: their minima are taken together, by a
 * transposition that ends with one of them in each lane of every 128 bits.
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
		__m512		d0 = distances_f32x16(xj, c, dsub);
		__m512		d1 = distances_f32x16(xj + dsub, c + step, dsub);
		__m512		d2 = distances_f32x16(xj + 2 * dsub, c + 2 * step, dsub);
		__m512		d3 = distances_f32x16(xj + 3 * dsub, c + 3 * step, dsub);
		__m512		min01 = _mm512_min_ps(_mm512_unpacklo_ps(d0, d1), _mm512_unpackhi_ps(d0, d1));
		__m512		min23 = _mm512_min_ps(_mm512_unpacklo_ps(d2, d3), _mm512_unpackhi_ps(d2, d3));
		__m512		minima = _mm512_min_ps(_mm512_shuffle_ps(min01, min23, 0x44),
										   _mm512_shuffle_ps(min01, min23, 0xEE));

		minima = _mm512_min_ps(minima, _mm512_shuffle_f32x4(minima, minima, 0x4E));
		minima = _mm512_min_ps(minima, _mm512_shuffle_f32x4(minima, minima, 0xB1));
		codes[j] = first_equal(d0, _mm512_permute_ps(minima, 0x00));
		codes[j + 1] = first_equal(d1, _mm512_permute_ps(minima, 0x55));
		codes[j + 2] = first_equal(d2, _mm512_permute_ps(minima, 0xAA));
		codes[j + 3] = first_equal(d3, _mm512_permute_ps(minima, 0xFF));
	}
	for (; j < m; j++)
	{
		__m512		distances = distances_f32x16(x + j * dsub, codebook + j * step, dsub);

		codes[j] = first_equal(distances, _mm512_set1_ps(_mm512_reduce_min_ps(distances)));
	}
}

/* Each lane's smallest distance so far, and the k that had it first */
typedef struct Nearest
{
	__m512		distance;
	__m512i		k;
} Nearest;

static inline void
keep_nearer(Nearest *nearest, __m512 distances, size_t first_k)
{
	const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	__mmask16	less = _mm512_cmp_ps_mask(distances, nearest->distance, _CMP_LT_OQ);

	nearest->distance = _mm512_mask_mov_ps(nearest->distance, less, distances);
	nearest->k = _mm512_mask_add_epi32(nearest->k, less, lanes, _mm512_set1_epi32((int) first_k));
}

static inline uint8_t
nearest_of_256(const float *x, const float *centroids, size_t dsub)
{
	Nearest		nearest = {_mm512_set1_ps(INFINITY), _mm512_setzero_si512()};
	__mmask16	is_nearest;

	for (size_t k = 0; k < 256; k += 64)
	{
		const float *c = centroids + k;
		__m512		d0 = _mm512_setzero_ps();
		__m512		d1 = d0;
		__m512		d2 = d0;
		__m512		d3 = d0;

		for (size_t d = 0; d < dsub; d++, c += 256)
		{
			__m512		xd = _mm512_set1_ps(x[d]);

			d0 = add_square(d0, _mm512_sub_ps(xd, _mm512_loadu_ps(c)));
			d1 = add_square(d1, _mm512_sub_ps(xd, _mm512_loadu_ps(c + 16)));
			d2 = add_square(d2, _mm512_sub_ps(xd, _mm512_loadu_ps(c + 32)));
			d3 = add_square(d3, _mm512_sub_ps(xd, _mm512_loadu_ps(c + 48)));
		}
		keep_nearer(&nearest, d0, k);
		keep_nearer(&nearest, d1, k + 16);
		keep_nearer(&nearest, d2, k + 32);
		keep_nearer(&nearest, d3, k + 48);
	}

	is_nearest = _mm512_cmp_ps_mask(nearest.distance, _mm512_set1_ps(_mm512_reduce_min_ps(nearest.distance)), _CMP_EQ_OQ);
	return (uint8_t) _mm512_mask_reduce_min_epu32(is_nearest, nearest.k);
}

void
vq_avx512_pq_encode(const float *x, const float *codebook, size_t m, size_t dsub,
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

VQ_TARGET_END

/* Tables of sixteen entries take no longer in registers of half the size, and less where those are not aligned */
void
vq_avx512_pq_lut(const float *q, const float *codebook, size_t m, size_t dsub, size_t ksub, float *lut)
{
	vq_kernels_avx2.pq_lut(q, codebook, m, dsub, ksub, lut);
}

void
vq_avx512_lut_ranges(const float *lut, size_t m, size_t ksub, uint8_t *bytes)
{
	vq_kernels_avx2.lut_ranges(lut, m, ksub, bytes);
}

void
vq_avx512_lut_bytes(const float *lut, size_t m, size_t ksub, float per_step, uint8_t *bytes)
{
	vq_kernels_avx2.lut_bytes(lut, m, ksub, per_step, bytes);
}

#endif							/* __x86_64__ */
