/*-------------------------------------------------------------------------
 *
 * vq_gpu_cluster.c
 *	  When a build's k-means on a device is done, and when it is balanced.
 *
 * Free of the server and of CUDA, so that programs which compare devices train
 * as CREATE INDEX does.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu/vq_gpu_cluster.h"

#include <math.h>
#include <stdlib.h>

#define LAST_STEPS	3			/* after the others, and after each balancing */
#define BALANCINGS	2			/* at most */
#define SETTLED		0.998		/* error, relative to the step before */

void
vq_gpu_cluster_begin(VqGpuClustering *clustering)
{
	clustering->left = VQ_GPU_CLUSTER_STEPS;
	clustering->nbalanced = 0;
	clustering->error = INFINITY;
}

static bool
balance(const VqKmeansSums *sums, VqKmeansSize *sizes, VqRng *rng, float *centroids)
{
	for (size_t j = 0; j < sums->ncentroids; j++)
	{
		sizes[j].count = sums->counts[j];
		sizes[j].centroid = (uint32_t) j;
	}
	qsort(sizes, sums->ncentroids, sizeof(VqKmeansSize), vq_kmeans_compare_sizes);
	return vq_kmeans_balance(sizes, sums->ncentroids, sums->dim, rng, centroids) > 0;
}

bool
vq_gpu_cluster_next(VqGpuClustering *clustering, VqKmeansSums *sums, VqKmeansSize *sizes,
					VqRng *rng, float *centroids)
{
	double		error = sums->error;
	size_t		nreseeded = vq_kmeans_update(sums, rng, centroids);

	clustering->left--;
	if (clustering->left > LAST_STEPS && nreseeded == 0 && error > clustering->error * SETTLED)
		clustering->left = LAST_STEPS;
	clustering->error = error;
	if (clustering->left <= LAST_STEPS && clustering->nbalanced < BALANCINGS &&
		balance(sums, sizes, rng, centroids))
	{
		clustering->left = LAST_STEPS;
		clustering->nbalanced++;
	}
	return clustering->left > 0;
}
