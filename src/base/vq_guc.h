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

/* ivfpq.recall: what it is at first, and its limits */
#define VQ_DEFAULT_RECALL	0.975
#define VQ_LEAST_RECALL		0.5
#define VQ_MOST_RECALL		0.999

/* Whether a build uses a GPU */
typedef enum VqUseGpu
{
	VQ_USE_GPU_OFF = 0,
	VQ_USE_GPU_ON = 1,			/* or fails */
	VQ_USE_GPU_AUTO = 2			/* if there is one, and it pays */
} VqUseGpu;

extern int	ivfpq_nprobe;		/* 0 = the index's own */
extern double ivfpq_wanted_recall;		/* what a search aims at if nobody says how many lists */
extern int	ivfpq_max_probes;	/* 0 = all lists */
extern int	ivfpq_iterative_scan;	/* VqIterativeScan */
extern double ivfpq_epsilon;	/* confidence of the re-rank bound, standard errors */
extern int	ivfpq_gpu;			/* VqUseGpu */
extern int	ivfpq_gpu_device;	/* -1 = all */
extern bool ivfpq_autoreindex;	/* VACUUM has indexes rebuilt that have outgrown their build */

/* The table in use; never NULL after vq_guc_init */
extern const VqKernels *vq_kernels;

/*
 * Define every setting and choose kernels; once per process, from _PG_init.
 * max_lists is the most lists an index may have.
 */
extern void vq_guc_init(int max_lists);

#endif							/* VQ_GUC_H */
