/*-------------------------------------------------------------------------
 *
 * tables.h
 *	  The kernel tables that this processor can run, one by one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TABLES_H
#define TABLES_H

#include "kernels/vq_kernels.h"

/* The n-th table that this processor can run, NULL after the last */
static inline const VqKernels *
table_at(size_t n)
{
	for (size_t i = 0; vq_kernels_all[i] != NULL; i++)
		if (vq_kernels_supported(vq_kernels_all[i]) && n-- == 0)
			return vq_kernels_all[i];
	return NULL;
}

#endif							/* TABLES_H */
