/*-------------------------------------------------------------------------
 *
 * vq_gpu_cluster.h
 *	  The k-means of a build on a device: what happens between its steps.
 *
 *		centroids := the first rows of the sample, which are in random order
 *		vq_gpu_cluster_begin
 *		do kmeans_step, for sums
 *		while vq_gpu_cluster_next
 *
 * Steps go on until they no longer pay.  Then centroids of very unequal counts
 * are balanced, up to twice, and a few more steps follow, the same number after
 * each time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_GPU_CLUSTER_H
#define VQ_GPU_CLUSTER_H

#include "kernels/vq_kmeans.h"

/* At most, if nothing is balanced */
#define VQ_GPU_CLUSTER_STEPS	19

typedef struct VqGpuClustering
{
	int			left;			/* steps to do, if nothing is balanced */
	int			nbalanced;		/* times */
	double		error;			/* sum of squared distances in the last step */
} VqGpuClustering;

extern void vq_gpu_cluster_begin(VqGpuClustering *clustering);

/*
 * From the sums of a step over the whole sample to the centroids of the next,
 * float[ncentroids][dim].  False after the last.  Changes sums; sizes is
 * workspace for all centroids.
 */
extern bool vq_gpu_cluster_next(VqGpuClustering *clustering, VqKmeansSums *sums, VqKmeansSize *sizes,
								VqRng *rng, float *centroids);

#endif							/* VQ_GPU_CLUSTER_H */
