/*-------------------------------------------------------------------------
 *
 * vq_rng.h
 *	  Own random numbers: what they draw ends up on disk (rotation signs,
 *	  initial centroids), so they must never change with a library.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_RNG_H
#define VQ_RNG_H

#include "kernels/vq_base.h"

/* splitmix64 (Steele, Lea & Flood, OOPSLA 2014): any seed is a good one */
typedef struct VqRng
{
	uint64_t	state;
} VqRng;

extern void vq_rng_seed(VqRng *rng, uint64_t seed);
extern uint64_t vq_rng_next(VqRng *rng);

/* Uniform in [0, n), without modulo bias that matters; n > 0 */
extern uint64_t vq_rng_below(VqRng *rng, uint64_t n);

/* Uniform in [0, 1) */
extern double vq_rng_double(VqRng *rng);

#endif							/* VQ_RNG_H */
