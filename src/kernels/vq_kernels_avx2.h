/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx2.h
 *	  What the files of the table in vq_kernels_avx2.c share.  See vq_kernels.h
 *	  for what each operation does.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_KERNELS_AVX2_H
#define VQ_KERNELS_AVX2_H

#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

VQ_TARGET_BEGIN("avx2,fma,f16c")

static inline __m128i
load_8_bytes(const void *p)
{
	return _mm_loadl_epi64((const __m128i *) p);
}

static inline __m256
add_square(__m256 sum, __m256 diff)
{
	return _mm256_fmadd_ps(diff, diff, sum);
}

VQ_TARGET_END

#endif							/* __x86_64__ */

/* vq_kernels_avx2_pq.c */
extern void vq_avx2_pq_encode(const float *x, const float *codebook, size_t m, size_t dsub,
							  size_t ksub, uint8_t *codes);
extern void vq_avx2_pq_lut(const float *q, const float *codebook, size_t m, size_t dsub,
						   size_t ksub, float *lut);
extern void vq_avx2_lut_ranges(const float *lut, size_t m, size_t ksub, uint8_t *bytes);
extern void vq_avx2_lut_bytes(const float *lut, size_t m, size_t ksub, float per_step, uint8_t *bytes);

/* vq_kernels_avx2_scan.c */
extern void vq_avx2_scan4(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
						  uint32_t sums[VQ_BLOCK_LANES]);
extern void vq_avx2_scan8(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
						  uint32_t sums[VQ_BLOCK_LANES]);
extern uint32_t vq_avx2_bound(const float *a, const uint16_t *s, const uint8_t *e,
							  const uint32_t *sums, size_t n, const VqBound *list, float ceiling, float *low);

/* vq_kernels_avx2_u8.c */
extern float vq_avx2_quantise_u8(const float *x, const float *origin, size_t dim, uint8_t *out);
extern void vq_avx2_scores_u8(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns,
							  float *scores);
extern void vq_avx2_largest_two(const float *scores, size_t nrows, size_t ncolumns, uint32_t (*at)[2]);

#endif							/* VQ_KERNELS_AVX2_H */
