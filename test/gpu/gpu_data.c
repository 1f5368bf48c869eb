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

#include "gpu/vq_gpu_cluster.h"

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

void *
data_projection(size_t dim, size_t ndirections, uint64_t seed, VqProjection *projection)
{
	float	   *directions = data_alloc(ndirections * dim, sizeof(float));
	void	   *image = data_alloc(vq_project_bytes(dim, ndirections), 1);
	VqRng		rng;

	vq_rng_seed(&rng, seed);
	for (size_t j = 0; j < ndirections; j++)
	{
		float	   *direction = directions + j * dim;
		double		norm_sq = 0;

		for (size_t i = 0; i < dim; i++)
			direction[i] = noise(&rng);

		/* Less what it has of those before, one after the other, so that errors do not add up */
		for (size_t before = 0; before < j; before++)
		{
			const float *other = directions + before * dim;
			double		product = 0;

			for (size_t i = 0; i < dim; i++)
				product += (double) direction[i] * other[i];
			for (size_t i = 0; i < dim; i++)
				direction[i] -= (float) product * other[i];
		}
		for (size_t i = 0; i < dim; i++)
			norm_sq += (double) direction[i] * direction[i];
		for (size_t i = 0; i < dim; i++)
			direction[i] = (float) (direction[i] / sqrt(norm_sq));
	}
	vq_project_pack(directions, dim, ndirections, image);
	if (vq_project_open(projection, dim, ndirections, image) != VQ_OK)
		data_die("a projection", "cannot be made");
	free(directions);
	return image;
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

void
data_die(const char *name, const char *what)
{
	fprintf(stderr, "%s: %s\n", name, what);
	exit(2);
}

static float *
read_fvecs(const char *name, size_t max_rows, size_t *nrows, size_t *dim)
{
	FILE	   *file = fopen(name, "rb");
	int32_t		first_dim;
	size_t		row_bytes;
	size_t		available;
	float	   *rows;

	if (file == NULL || fread(&first_dim, sizeof(first_dim), 1, file) != 1 ||
		first_dim < 1 || first_dim > VQ_MAX_DIM || fseek(file, 0, SEEK_END) != 0)
		data_die(name, "cannot be read as .fvecs");
	row_bytes = sizeof(int32_t) + (size_t) first_dim * sizeof(float);
	available = (size_t) ftell(file) / row_bytes;
	*dim = (size_t) first_dim;
	*nrows = max_rows > 0 && max_rows < available ? max_rows : available;
	rows = data_alloc(*nrows * *dim, sizeof(float));
	for (size_t i = 0; i < *nrows; i++)
	{
		int32_t		row_dim;

		if (fseek(file, (long) (i * available / *nrows * row_bytes), SEEK_SET) != 0 ||
			fread(&row_dim, sizeof(row_dim), 1, file) != 1 || row_dim != first_dim ||
			fread(rows + i * *dim, sizeof(float), *dim, file) != *dim)
			data_die(name, "ends early, or has rows of different lengths");
	}
	fclose(file);
	return rows;
}

float *
data_read(const char *name, size_t max_rows, size_t *nrows, size_t *dim)
{
	unsigned long long seed = 1;
	int			length = 0;
	float	   *rows;

	if (sscanf(name, "%zux%zu%n:%llu%n", nrows, dim, &length, &seed, &length) < 2 || name[length] != '\0')
		return read_fvecs(name, max_rows, nrows, dim);
	if (*dim < 1 || *dim > VQ_MAX_DIM)
		data_die(name, "has a number of dimensions that is out of range");
	if (max_rows > 0 && max_rows < *nrows)
		*nrows = max_rows;
	rows = data_alloc(*nrows * *dim, sizeof(float));
	data_fill(rows, *nrows, *dim, seed);
	return rows;
}

void
data_shuffle(float *rows, size_t nrows, size_t dim, uint64_t seed)
{
	VqRng		rng;

	vq_rng_seed(&rng, seed);
	for (size_t i = nrows; i > 1; i--)
	{
		float	   *a = rows + (i - 1) * dim;
		float	   *b = rows + vq_rng_below(&rng, i) * dim;

		for (size_t d = 0; d < dim; d++)
		{
			float		t = a[d];

			a[d] = b[d];
			b[d] = t;
		}
	}
}

void
data_train_centroids(const VqGpuInterface *interface, VqGpu *gpu, const float *rows, size_t nrows,
					 size_t dim, size_t ncentroids, uint64_t seed, float *centroids,
					 DataTraining *training)
{
	VqKmeansSums sums = {.ncentroids = ncentroids, .dim = dim};
	VqKmeansSize *sizes = data_alloc(ncentroids, sizeof(VqKmeansSize));
	VqGpuClustering clustering;
	VqGpuError	error;
	VqRng		rng;
	bool		wants_more = true;

	sums.sums = data_alloc(ncentroids * dim, sizeof(double));
	sums.counts = data_alloc(ncentroids, sizeof(uint64_t));
	memset(training, 0, sizeof(*training));
	memcpy(centroids, rows, ncentroids * dim * sizeof(float));
	vq_rng_seed(&rng, seed);
	vq_gpu_cluster_begin(&clustering);
	while (wants_more)
	{
		double		start = data_now();
		double		middle;

		data_must(interface->kmeans_step(gpu, 0, nrows, centroids, ncentroids, &sums, NULL, NULL, &error),
				  &error, "k-means");
		middle = data_now();
		wants_more = vq_gpu_cluster_next(&clustering, &sums, sizes, &rng, centroids);
		training->step_seconds += middle - start;
		training->update_seconds += data_now() - middle;
		training->nsteps++;
	}
	training->mean_distance = clustering.error / (double) nrows;
	free(sums.sums);
	free(sums.counts);
	free(sizes);
}
