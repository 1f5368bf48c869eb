/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx512.h
 *	  What the files of the tables in vq_kernels_avx512.c share.  See vq_kernels.h
 *	  for what each operation does.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_KERNELS_AVX512_H
#define VQ_KERNELS_AVX512_H

#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

VQ_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

static inline __m512
add_square(__m512 sum, __m512 diff)
{
	return _mm512_fmadd_ps(diff, diff, sum);
}

VQ_TARGET_END

#endif							/* __x86_64__ */

/* The first n < 16 lanes, as a mask */
static inline uint16_t
first_lanes(size_t n)
{
	return (uint16_t) ((1u << n) - 1);
}

/* vq_kernels_avx512_pq.c */
extern void vq_avx512_pq_encode(const float *x, const float *codebook, size_t m, size_t dsub,
								size_t ksub, uint8_t *codes);
extern void vq_avx512_pq_lut(const float *q, const float *codebook, size_t m, size_t dsub,
							 size_t ksub, float *lut);
extern void vq_avx512_lut_ranges(const float *lut, size_t m, size_t ksub, uint8_t *bytes);
extern void vq_avx512_lut_bytes(const float *lut, size_t m, size_t ksub, float per_step, uint8_t *bytes);

/* vq_kernels_avx512_scan.c */
extern void vq_avx512_scan4(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
							uint32_t sums[VQ_BLOCK_LANES]);
extern void vq_avx512_scan8(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
							uint32_t sums[VQ_BLOCK_LANES]);
extern uint32_t vq_avx512_bound(const float *a, const uint16_t *s, const uint8_t *e,
								const uint32_t *sums, size_t n, const VqBound *list, float ceiling, float *low);

/* vq_kernels_avx512_vbmi.c: VQ_CPU_AVX512_VBMI */
extern void vq_avx512_scan4_vbmi(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
								 uint32_t sums[VQ_BLOCK_LANES]);
extern void vq_avx512_project_i8(const float *x, size_t dim, const int8_t *panels, const float *steps,
								 size_t npanels, float *out);

/* vq_kernels_avx512_vnni.c: VQ_CPU_AVX512_VNNI */
extern float vq_avx512_quantise_u8(const float *x, const float *origin, size_t dim, uint8_t *out);
extern void vq_avx512_scores_u8(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns,
								float *scores);

/* vq_kernels_avx512_amx.c: VQ_CPU_AVX512_AMX */
extern void vq_avx512_scores_u8_amx(const uint8_t *rows, const float *steps, size_t nrows,
									const VqColumns *columns, float *scores);

#endif							/* VQ_KERNELS_AVX512_H */
