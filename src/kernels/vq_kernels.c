/*-------------------------------------------------------------------------
 *
 * vq_kernels.c
 *	  The list of kernel tables, and how one is chosen.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#include <string.h>

#include "kernels/vq_cpu.h"

/* The scalar table requires nothing, so a search for "auto" ends there */
const VqKernels *const vq_kernels_all[] = {
#if defined(__x86_64__)
#if defined(VQ_HAVE_AMX)
	&vq_kernels_avx512_amx,
#endif
	&vq_kernels_avx512_vbmi,
	&vq_kernels_avx512_vnni,
	&vq_kernels_avx512,
	&vq_kernels_avx2,
#elif defined(__aarch64__)
	&vq_kernels_neon_dotprod,
	&vq_kernels_neon,
#endif
	&vq_kernels_scalar,
	NULL
};

bool
vq_kernels_supported(const VqKernels *kernels)
{
	return (kernels->required_features & ~vq_cpu_features()) == 0;
}

const VqKernels *
vq_kernels_by_name(const char *name)
{
	bool		any = strcmp(name, "auto") == 0;

	for (size_t i = 0; vq_kernels_all[i] != NULL; i++)
	{
		const VqKernels *kernels = vq_kernels_all[i];

		if ((any || strcmp(name, kernels->name) == 0) &&
			vq_kernels_supported(kernels))
			return kernels;
	}
	return NULL;
}
