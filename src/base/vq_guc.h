/*-------------------------------------------------------------------------
 *
 * vq_guc.h
 *	  Settings, and the kernels that one of them chooses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_GUC_H
#define VQ_GUC_H

#include "postgres.h"

#include "kernels/vq_kernels.h"

typedef enum VqIterativeScan
{
	VQ_ITERATIVE_OFF = 0,
	VQ_ITERATIVE_RELAXED = 1,
	VQ_ITERATIVE_STRICT = 2
} VqIterativeScan;

extern int	ivfpq_nprobe;		/* 0 = the index's own */
extern int	ivfpq_max_probes;	/* 0 = all lists */
extern int	ivfpq_iterative_scan;	/* VqIterativeScan */
extern double ivfpq_epsilon;	/* confidence of the re-rank bound, standard errors */

/* The table in use; never NULL after vq_guc_init */
extern const VqKernels *vq_kernels;

/*
 * Define every setting and choose kernels; once per process, from _PG_init.
 * max_lists is the most lists an index may have.
 */
extern void vq_guc_init(int max_lists);

#endif							/* VQ_GUC_H */
