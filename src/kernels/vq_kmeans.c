/*-------------------------------------------------------------------------
 *
 * vq_kmeans.c
 *	  The steps of k-means.
 *
 * The nearest centroid is the one with the largest <x,c> - |c|^2 / 2, so the
 * work is one product of matrices.  That form cancels where x is close to c:
 * good enough to choose by, not to report, which is why distances are computed
 * again from differences.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kmeans.h"

#include <math.h>
#include <string.h>

#define LANES 16

/*
 * Centroids that rows are compared with at a time: their products stay in the
 * cache, whatever the number of centroids.
 */
#define TILE_CENTROIDS 1024

/* How far apart the halves of a split centroid start */
#define SPLIT_STEP (1.0f / 1024)

/* Of vq_kmeans_balance, relative to the average count and to the number of centroids */
#define TINY 0.33
#define CROWDED 2.0
#define MIN_PART 0.01

/* A point is far if it is so many times as far as half of them are, at most */
#define FAR_POINT 8

void
vq_kmeans_norms(const VqKernels *kernels, const float *centroids, size_t ncentroids,
				size_t dim, float *norms)
{
	for (size_t j = 0; j < ncentroids; j++)
		norms[j] = kernels->ip_f32(centroids + j * dim, centroids + j * dim, dim) / 2;
}

static size_t
tile_of(size_t ncentroids)
{
	return ncentroids < TILE_CENTROIDS ? ncentroids : TILE_CENTROIDS;
}

size_t
vq_kmeans_assign_floats(size_t nrows, size_t ncentroids)
{
	return nrows * (tile_of(ncentroids) + 1);
}

/*
 * Index of the largest products[j] - norms[j], the lowest on a tie, and in
 * *winner_value how large it is.  Each lane
 * keeps the best of its own indexes; lanes are compared at the end.  The index
 * is chosen by a mask because gcc vectorises no choice that it takes for a
 * branch.
 */
static uint32_t
best_centroid(const float *restrict products, const float *restrict norms, size_t ncentroids,
			  float *winner_value)
{
	float		best[LANES];
	uint32_t	best_at[LANES];
	float		winner = -INFINITY;
	uint32_t	winner_at = 0;
	size_t		j = 0;

	for (size_t lane = 0; lane < LANES; lane++)
	{
		best[lane] = -INFINITY;
		best_at[lane] = 0;
	}
	for (; j + LANES <= ncentroids; j += LANES)
	{
		for (size_t lane = 0; lane < LANES; lane++)
		{
			float		value = products[j + lane] - norms[j + lane];
			uint32_t	is_better = 0 - (uint32_t) (value > best[lane]);

			best_at[lane] = ((uint32_t) j & is_better) | (best_at[lane] & ~is_better);
			best[lane] = value > best[lane] ? value : best[lane];
		}
	}
	for (size_t lane = 0; lane < LANES; lane++)
	{
		uint32_t	at = best_at[lane] + (uint32_t) lane;

		if (best[lane] > winner || (best[lane] == winner && at < winner_at))
		{
			winner = best[lane];
			winner_at = at;
		}
	}
	for (; j < ncentroids; j++)
	{
		float		value = products[j] - norms[j];

		if (value > winner)
		{
			winner = value;
			winner_at = (uint32_t) j;
		}
	}
	*winner_value = winner;
	return winner_at;
}

void
vq_kmeans_assign(const VqKernels *kernels, const VqBlas *blas,
				 const float *rows, size_t nrows,
				 const float *centroids, const float *norms, size_t ncentroids,
				 size_t dim, float *work, uint32_t *labels, float *distances)
{
	size_t		tile = tile_of(ncentroids);
	float	   *best = work + nrows * tile;

	for (size_t first = 0; first < ncentroids; first += tile)
	{
		size_t		count = ncentroids - first < tile ? ncentroids - first : tile;

		blas->products(nrows, count, dim, rows, centroids + first * dim, work);
		for (size_t i = 0; i < nrows; i++)
		{
			float		value;
			uint32_t	label = best_centroid(work + i * count, norms + first, count, &value);

			if (first == 0 || value > best[i])
			{
				best[i] = value;
				labels[i] = (uint32_t) first + label;
			}
		}
	}
	if (distances == NULL)
		return;
	for (size_t i = 0; i < nrows; i++)
		distances[i] = kernels->l2sq_f32(rows + i * dim, centroids + labels[i] * dim, dim);
}

void
vq_kmeans_clear(VqKmeansSums *sums)
{
	memset(sums->sums, 0, sums->ncentroids * sums->dim * sizeof(double));
	memset(sums->counts, 0, sums->ncentroids * sizeof(uint64_t));
	sums->error = 0;
}

void
vq_kmeans_accumulate(const VqKernels *kernels, VqKmeansSums *sums, const float *rows, size_t nrows,
					 const uint32_t *labels, const float *distances)
{
	for (size_t i = 0; i < nrows; i++)
	{
		kernels->add_f64(sums->sums + labels[i] * sums->dim, rows + i * sums->dim, 1.0, sums->dim);
		sums->counts[labels[i]]++;
	}
	if (distances == NULL)
		return;
	for (size_t i = 0; i < nrows; i++)
		sums->error += distances[i];
}

void
vq_kmeans_move(const VqKernels *kernels, VqKmeansSums *sums, const float *rows, size_t nrows,
			   const uint32_t *before, const uint32_t *after)
{
	for (size_t i = 0; i < nrows; i++)
	{
		const float *row = rows + i * sums->dim;

		if (before[i] == after[i])
			continue;
		if (before[i] != VQ_NO_LABEL)
		{
			double	   *sum = sums->sums + before[i] * sums->dim;

			if (--sums->counts[before[i]] > 0)
				kernels->add_f64(sum, row, -1.0, sums->dim);
			else
				memset(sum, 0, sums->dim * sizeof(double));
		}
		kernels->add_f64(sums->sums + after[i] * sums->dim, row, 1.0, sums->dim);
		sums->counts[after[i]]++;
	}
}

/*
 * A heap of centroid numbers with the most crowded on top; between equals the
 * lower number wins, so that the order is total.  The numbers are kept as
 * doubles because they live in the workspace that the sums have left.
 */
static bool
is_more_crowded(const uint64_t *counts, double a, double b)
{
	uint64_t	count_a = counts[(size_t) a];
	uint64_t	count_b = counts[(size_t) b];

	return count_a > count_b || (count_a == count_b && a < b);
}

static void
crowd_sift_down(double *heap, size_t nheap, const uint64_t *counts, size_t root)
{
	double		item = heap[root];

	for (;;)
	{
		size_t		child = 2 * root + 1;

		if (child >= nheap)
			break;
		if (child + 1 < nheap && is_more_crowded(counts, heap[child + 1], heap[child]))
			child++;
		if (!is_more_crowded(counts, heap[child], item))
			break;
		heap[root] = heap[child];
		root = child;
	}
	heap[root] = item;
}

static void
crowd_push(double *heap, size_t nheap, const uint64_t *counts, double item)
{
	size_t		hole = nheap;

	while (hole > 0 && is_more_crowded(counts, item, heap[(hole - 1) / 2]))
	{
		heap[hole] = heap[(hole - 1) / 2];
		hole = (hole - 1) / 2;
	}
	heap[hole] = item;
}

/*
 * Give the empty centroid half of the crowded one.  Directions are drawn anew
 * for each split: with fixed ones, a centroid that is split often would leave
 * all its parts on one line.
 */
static void
split_centroid(VqRng *rng, size_t dim, float *crowded, float *empty)
{
	uint64_t	bits = 0;

	for (size_t i = 0; i < dim; i++)
	{
		float		step = crowded[i] * SPLIT_STEP;

		if (i % 64 == 0)
			bits = vq_rng_next(rng);
		if (bits & 1)
			step = -step;
		bits >>= 1;
		empty[i] = crowded[i] - step;
		crowded[i] += step;
	}
}

static size_t
reseed_empty(VqKmeansSums *sums, VqRng *rng, float *centroids)
{
	uint64_t   *counts = sums->counts;
	double	   *heap = sums->sums;	/* at least one double per centroid */
	size_t		nheap = 0;
	size_t		nreseeded = 0;

	for (size_t j = 0; j < sums->ncentroids; j++)
	{
		if (counts[j] > 0)
			heap[nheap++] = (double) j;
	}
	if (nheap == 0)
		return 0;
	for (size_t root = nheap / 2; root-- > 0;)
		crowd_sift_down(heap, nheap, counts, root);

	for (size_t j = 0; j < sums->ncentroids; j++)
	{
		size_t		crowded = (size_t) heap[0];

		if (counts[j] > 0)
			continue;
		split_centroid(rng, sums->dim, centroids + crowded * sums->dim, centroids + j * sums->dim);
		nreseeded++;

		/* A single row cannot be shared; its copies stay empty */
		counts[j] = counts[crowded] / 2;
		if (counts[j] == 0)
			continue;
		counts[crowded] -= counts[j];
		crowd_sift_down(heap, nheap, counts, 0);
		crowd_push(heap, nheap++, counts, (double) j);
	}
	return nreseeded;
}

size_t
vq_kmeans_update(VqKmeansSums *sums, VqRng *rng, float *centroids)
{
	size_t		nempty = 0;

	for (size_t j = 0; j < sums->ncentroids; j++)
	{
		const double *sum = sums->sums + j * sums->dim;
		float	   *centroid = centroids + j * sums->dim;

		if (sums->counts[j] == 0)
			nempty++;
		else
		{
			double		share = 1.0 / (double) sums->counts[j];

			for (size_t i = 0; i < sums->dim; i++)
				centroid[i] = (float) (sum[i] * share);
		}
	}
	return nempty > 0 ? reseed_empty(sums, rng, centroids) : 0;
}

int
vq_kmeans_compare_sizes(const void *a, const void *b)
{
	const VqKmeansSize *x = a;
	const VqKmeansSize *y = b;

	if (x->count != y->count)
		return x->count < y->count ? -1 : 1;
	return (x->centroid > y->centroid) - (x->centroid < y->centroid);
}

size_t
vq_kmeans_balance(const VqKmeansSize *sizes, size_t ncentroids, size_t dim, VqRng *rng, float *centroids)
{
	uint64_t	total = 0;
	size_t		nsplit = 0;
	double		average;

	for (size_t i = 0; i < ncentroids; i++)
		total += sizes[i].count;
	average = (double) total / (double) ncentroids;
	while (nsplit < ncentroids / 2 && (double) sizes[nsplit].count < TINY * average &&
		   (double) sizes[ncentroids - 1 - nsplit].count > CROWDED * average)
		nsplit++;
	if ((double) nsplit < (double) ncentroids * MIN_PART)
		return 0;
	for (size_t i = 0; i < nsplit; i++)
		split_centroid(rng, dim, centroids + sizes[ncentroids - 1 - i].centroid * dim,
					   centroids + sizes[i].centroid * dim);
	return nsplit;
}

double
vq_kmeans_imbalance(const uint64_t *counts, size_t ncentroids)
{
	double		total = 0;
	double		squares = 0;

	for (size_t j = 0; j < ncentroids; j++)
	{
		total += (double) counts[j];
		squares += (double) counts[j] * (double) counts[j];
	}
	return total > 0 ? squares / total / total * (double) ncentroids : 1;
}

/* The value that half of them do not exceed, by Hoare's selection; changes their order */
static float
median(float *values, size_t n)
{
	size_t		low = 0;
	size_t		high = n - 1;
	size_t		wanted = (n - 1) / 2;

	while (low < high)
	{
		float		pivot = values[low + (high - low) / 2];
		float		t;
		size_t		i = low;
		size_t		j = high;

		for (;;)
		{
			while (values[i] < pivot)
				i++;
			while (pivot < values[j])
				j--;
			if (i >= j)
				break;
			t = values[i];
			values[i++] = values[j];
			values[j--] = t;
		}
		if (wanted <= j)
			high = j;
		else
			low = j + 1;
	}
	return values[wanted];
}

/* Mean of the points with a finite distance */
static void
mean_of_near(const float *points, size_t npoints, size_t dim, const float *distances, float *mean)
{
	size_t		nnear = 0;

	for (size_t j = 0; j < npoints; j++)
		nnear += isfinite(distances[j]) != 0;
	memset(mean, 0, dim * sizeof(float));
	for (size_t j = 0; j < npoints; j++)
	{
		float		share = isfinite(distances[j]) ? 1.0f / (float) nnear : 0;

		for (size_t i = 0; i < dim && share > 0; i++)
			mean[i] += points[j * dim + i] * share;
	}
}

void
vq_kmeans_centre(const VqKernels *kernels, const float *points, size_t npoints, size_t dim,
				 float *work, float *centre)
{
	float	   *distances = work;
	float	   *near = work + npoints;
	bool		is_done = npoints == 0;

	memset(distances, 0, npoints * sizeof(float));
	mean_of_near(points, npoints, dim, distances, centre);
	while (!is_done)
	{
		size_t		nnear = 0;
		float		limit;

		for (size_t j = 0; j < npoints; j++)
		{
			if (isfinite(distances[j]))
				distances[j] = sqrtf(kernels->l2sq_f32(points + j * dim, centre, dim));
			if (isfinite(distances[j]))
				near[nnear++] = distances[j];
		}
		if (nnear == 0)
			return;
		limit = FAR_POINT * median(near, nnear);
		is_done = true;
		for (size_t j = 0; j < npoints; j++)
			if (isfinite(distances[j]) && distances[j] > limit)
			{
				distances[j] = INFINITY;
				is_done = false;
			}
		if (!is_done)
			mean_of_near(points, npoints, dim, distances, centre);
	}
}
