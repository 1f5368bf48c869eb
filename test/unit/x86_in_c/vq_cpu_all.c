/*
 * In the place of src/kernels/vq_cpu.c: a processor that has everything that a
 * table of x86 wants.
 */
#include "kernels/vq_cpu.h"

uint32_t
vq_cpu_features(void)
{
	return VQ_CPU_AVX2 | VQ_CPU_AVX512 | VQ_CPU_AVX512_VNNI | VQ_CPU_AVX512_VBMI |
		VQ_CPU_AVX512_AMX;
}
