/*-------------------------------------------------------------------------
 *
 * vq_cpu.h
 *	  What the processor can do.  vq_cpu.c is the only file that asks it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_CPU_H
#define VQ_CPU_H

#include "kernels/vq_base.h"

#define VQ_CPU_AVX2			(1u << 0)	/* AVX2, FMA and F16C */
#define VQ_CPU_AVX512		(1u << 1)	/* AVX-512 F, BW, DQ and VL */
#define VQ_CPU_AVX512_VNNI	(1u << 2)	/* sums of products of bytes */
#define VQ_CPU_AVX512_VBMI	(1u << 3)	/* and byte permutes over registers */
#define VQ_CPU_AVX512_AMX	(1u << 4)	/* all that, and sums of products of tiles of bytes */
#define VQ_CPU_NEON			(1u << 5)
#define VQ_CPU_NEON_DOTPROD	(1u << 6)	/* sums of products of bytes */

/*
 * Features that the processor has and the operating system saves registers
 * for; those that a process must ask for first, it asks for.  Cheap after the
 * first call; safe from any thread.
 */
extern uint32_t vq_cpu_features(void);

#endif							/* VQ_CPU_H */
