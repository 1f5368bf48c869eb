/*-------------------------------------------------------------------------
 *
 * cuda_bf16.h
 *	  BF16 on the CPU, see cuda_runtime.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EMULATED_CUDA_BF16_H
#define EMULATED_CUDA_BF16_H

#include "cuda_runtime.h"

struct __nv_bfloat16 { uint16_t bits; };

/* To the nearest, ties to even; the value is finite */
static inline __nv_bfloat16
__float2bfloat16_rn(float value)
{
	uint32_t	bits = __float_as_uint(value);

	return __nv_bfloat16{(uint16_t) ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

#endif							/* EMULATED_CUDA_BF16_H */
