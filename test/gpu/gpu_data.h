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

/*
 * A projection on directions that are orthonormal and have nothing to do with
 * any data; returns its image, to be freed
 */
extern void *data_projection(size_t dim, size_t ndirections, uint64_t seed, VqProjection *projection);

/*
 * Rows by name: an .fvecs file, or "ROWSxDIM" or "ROWSxDIM:SEED" for data_fill.
 * Of a file with more than max_rows (0: no limit) so many are taken, spread
 * over it.  Ends the program if that cannot be had.
 */
extern float *data_read(const char *name, size_t max_rows, size_t *nrows, size_t *dim);

/* Seconds on a clock that only goes forward */
extern double data_now(void);

/* End the program with what went wrong, unless VQ_GPU_OK */
extern void data_must(VqGpuStatus status, const VqGpuError *error, const char *what);

/* End the program with what is wrong with something */
extern _Noreturn void data_die(const char *name, const char *what);

/* Rows in random order, as the sample of a build is */
extern void data_shuffle(float *rows, size_t nrows, size_t dim, uint64_t seed);

/* What training took */
typedef struct DataTraining
{
	size_t		nsteps;
	double		step_seconds;	/* on the device */
	double		update_seconds; /* between the steps */
	double		mean_distance;	/* squared, in the last step */
} DataTraining;

/*
 * Centroids of the sample that has been added, as a build makes them
 * (vq_gpu_cluster.h): float[ncentroids][dim].  rows is the sample.
 */
extern void data_train_centroids(const VqGpuInterface *interface, VqGpu *gpu, const float *rows, size_t nrows,
								 size_t dim, size_t ncentroids, uint64_t seed, float *centroids,
								 DataTraining *training);

#endif							/* GPU_DATA_H */
