/*-------------------------------------------------------------------------
 *
 * vq_kernels_neon.h
 *	  What the files of the table in vq_kernels_neon.c share.  See vq_kernels.h
 *	  for what each operation does.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_KERNELS_NEON_H
#define VQ_KERNELS_NEON_H

#include "kernels/vq_kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>

static inline float32x4_t
add_square(float32x4_t sum, float32x4_t diff)
{
	return vfmaq_f32(sum, diff, diff);
}

#endif							/* __aarch64__ */

/* Before loops over constants: once unrolled, arrays live in registers */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* With sizes that are constants where it is called */
#define TEMPLATE static inline __attribute__((always_inline))

/* vq_kernels_neon_pq.c */
extern void vq_neon_pq_encode(const float *x, const float *codebook, size_t m, size_t dsub,
							  size_t ksub, uint8_t *codes);
extern void vq_neon_pq_lut(const float *q, const float *codebook, size_t m, size_t dsub,
						   size_t ksub, float *lut);
extern void vq_neon_lut_ranges(const float *lut, size_t m, size_t ksub, uint8_t *bytes);
extern void vq_neon_lut_bytes(const float *lut, size_t m, size_t ksub, float per_step, uint8_t *bytes);

/* vq_kernels_neon_scan.c */
extern void vq_neon_scan4(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
						  uint32_t sums[VQ_BLOCK_LANES]);
extern void vq_neon_scan8(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
						  uint32_t sums[VQ_BLOCK_LANES]);
extern uint32_t vq_neon_bound(const float *a, const uint16_t *s, const uint8_t *e,
							  const uint32_t *sums, size_t n, const VqBound *list, float ceiling, float *low);

/* vq_kernels_neon_dotprod.c; only scores_u8 needs more than the baseline */
extern float vq_neon_quantise_u8(const float *x, const float *origin, size_t dim, uint8_t *out);
extern void vq_neon_scores_u8(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns,
							  float *scores);
extern void vq_neon_largest_two(const float *scores, size_t nrows, size_t ncolumns, uint32_t (*at)[2]);

#endif							/* VQ_KERNELS_NEON_H */
