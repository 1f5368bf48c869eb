/*-------------------------------------------------------------------------
 *
 * gpu_data.c
 *	  Data from a seed, time, and training with the plug-in.
 *
 *-------------------------------------------------------------------------
 */
#define _POSIX_C_SOURCE 200809L

#include "gpu_data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NCLUSTERS 1000

void *
data_alloc(size_t count, size_t size)
{
	void	   *address = calloc(count > 0 ? count : 1, size);

	if (address == NULL)
	{
		fprintf(stderr, "out of memory: %zu x %zu bytes\n", count, size);
		exit(2);
	}
	return address;
}

/* Nearly normal, from the four quarters of one draw: mean 0, variance 1 */
static inline float
noise(VqRng *rng)
{
	uint64_t	bits = vq_rng_next(rng);
	float		sum = (float) (bits & 0xFFFF) + (float) (bits >> 16 & 0xFFFF) +
		(float) (bits >> 32 & 0xFFFF) + (float) (bits >> 48);

	return (sum - 2 * 65535.0f) * (1.7320508f / 65535.0f);
}

void
data_fill(float *rows, size_t nrows, size_t dim, uint64_t seed)
{
	float	   *centres = data_alloc(NCLUSTERS * dim, sizeof(float));
	float	   *spreads = data_alloc(dim, sizeof(float));
	VqRng		rng;

	vq_rng_seed(&rng, 77);
	for (size_t d = 0; d < dim; d++)
		spreads[d] = (float) (sqrt(1.0 / (double) dim) * (0.3 + 1.2 * (double) (dim - d) / (double) dim));
	for (size_t i = 0; i < NCLUSTERS * dim; i++)
		centres[i] = noise(&rng) * spreads[i % dim];
	vq_rng_seed(&rng, seed);
	for (size_t i = 0; i < nrows; i++)
	{
		const float *centre = centres + vq_rng_below(&rng, NCLUSTERS) * dim;

		for (size_t d = 0; d < dim; d++)
			rows[i * dim + d] = centre[d] + 0.7f * spreads[d] * noise(&rng);
	}
	free(centres);
	free(spreads);
}

double
data_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

void
data_must(VqGpuStatus status, const VqGpuError *error, const char *what)
{
	if (status == VQ_GPU_OK)
		return;
	fprintf(stderr, "%s: %s: %s\n", what, vq_gpu_status_name(status), error->message);
	exit(2);
}

double
data_train_centroids(const VqGpuInterface *interface, VqGpu *gpu, const float *rows, size_t nrows,
					 size_t dim, size_t ncentroids, size_t niter, uint64_t seed,
					 float *centroids, double *step_seconds, double *update_seconds)
{
	VqKmeansSums sums = {.ncentroids = ncentroids, .dim = dim};
	VqGpuError	error;
	VqRng		rng;
	double		last_error = 0;

	sums.sums = data_alloc(ncentroids * dim, sizeof(double));
	sums.counts = data_alloc(ncentroids, sizeof(uint64_t));
	vq_rng_seed(&rng, seed);
	for (size_t j = 0; j < ncentroids; j++)
		memcpy(centroids + j * dim, rows + vq_rng_below(&rng, nrows) * dim, dim * sizeof(float));
	for (size_t iteration = 0; iteration < niter; iteration++)
	{
		double		start = data_now();
		double		middle;

		data_must(interface->kmeans_step(gpu, 0, nrows, centroids, ncentroids, &sums, NULL, NULL, &error),
				  &error, "k-means");
		middle = data_now();
		last_error = sums.error / (double) nrows;
		vq_kmeans_update(&sums, &rng, centroids);
		*step_seconds += middle - start;
		*update_seconds += data_now() - middle;
	}
	free(sums.sums);
	free(sums.counts);
	return last_error;
}
