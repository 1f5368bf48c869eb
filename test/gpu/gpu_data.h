/*-------------------------------------------------------------------------
 *
 * gpu_data.h
 *	  What the programs that run on a GPU share: data from a seed, time, and
 *	  the loops around the plug-in that a build has too.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GPU_DATA_H
#define GPU_DATA_H

#include "gpu/vq_gpu_loader.h"

/* Allocate, or end the program */
extern void *data_alloc(size_t count, size_t size);

/*
 * Rows of a mixture of 1,000 clusters, dimensions of unequal variance, about
 * unit length: float[nrows][dim].  The same seed gives the same rows; the
 * clusters are the same for every seed.
 */
extern void data_fill(float *rows, size_t nrows, size_t dim, uint64_t seed);

/* Seconds on a clock that only goes forward */
extern double data_now(void);

/* End the program with what went wrong, unless VQ_GPU_OK */
extern void data_must(VqGpuStatus status, const VqGpuError *error, const char *what);

/*
 * Centroids of the sample that has been added, by niter steps from random
 * rows: float[ncentroids][dim].  rows is the sample.  Seconds on the device and
 * in vq_kmeans_update are added to *step_seconds and *update_seconds.  Returns
 * the mean squared distance in the last step.
 */
extern double data_train_centroids(const VqGpuInterface *interface, VqGpu *gpu, const float *rows, size_t nrows,
								   size_t dim, size_t ncentroids, size_t niter, uint64_t seed,
								   float *centroids, double *step_seconds, double *update_seconds);

#endif							/* GPU_DATA_H */
