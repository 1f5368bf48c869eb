/*-------------------------------------------------------------------------
 *
 * vq_kmeans.h
 *	  k-means (Lloyd 1982) as steps over chunks, for coarse centroids.
 *
 * The caller owns the loops over chunks and iterations, so it can check for
 * interrupts, report progress and share the work between processes:
 *
 *		choose initial centroids (distinct random rows)
 *		repeat
 *			vq_kmeans_norms
 *			for each chunk: vq_kmeans_assign, vq_kmeans_accumulate (or _move, of sums that stay)
 *			vq_kmeans_update
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_KMEANS_H
#define VQ_KMEANS_H

#include "kernels/vq_blas.h"
#include "kernels/vq_rng.h"

/* Running sums of one iteration; sums is double[ncentroids][dim] to be exact enough at any size */
typedef struct VqKmeansSums
{
	size_t		ncentroids;
	size_t		dim;
	double	   *sums;			/* [ncentroids][dim] */
	uint64_t   *counts;			/* [ncentroids] */
	double		error;			/* sum of squared distances to the centroid */
} VqKmeansSums;

/* norms[j] = |centroid_j|^2 / 2 */
extern void vq_kmeans_norms(const VqKernels *kernels, const float *centroids, size_t ncentroids,
							size_t dim, float *norms);

/* Floats of workspace that vq_kmeans_assign needs for nrows rows at a time */
extern size_t vq_kmeans_assign_floats(size_t nrows, size_t ncentroids);

/*----------
 * labels[i] = the nearest of ncentroids to rows_i (lowest on a tie), and
 * distances[i] = |rows_i - centroid|^2, recomputed from differences; distances
 * may be NULL.  rows is float[nrows][dim], norms from vq_kmeans_norms.
 * Products by blas.
 *----------
 */
extern void vq_kmeans_assign(const VqKernels *kernels, const VqBlas *blas,
							 const float *rows, size_t nrows,
							 const float *centroids, const float *norms, size_t ncentroids,
							 size_t dim, float *work, uint32_t *labels, float *distances);

/* Zero the sums before an iteration */
extern void vq_kmeans_clear(VqKmeansSums *sums);

/* Add a chunk of labelled rows; distances may be NULL */
extern void vq_kmeans_accumulate(const VqKernels *kernels, VqKmeansSums *sums, const float *rows, size_t nrows,
								 const uint32_t *labels, const float *distances);

/* Of a row that is in no sum yet */
#define VQ_NO_LABEL UINT32_MAX

/*
 * Rows go from the sums of the labels that they had to those of the labels that they have; such with the same label are
 * not read.  What additions and subtractions leave by rounding goes with the last row of a label.
 */
extern void vq_kmeans_move(const VqKernels *kernels, VqKmeansSums *sums, const float *rows, size_t nrows,
						   const uint32_t *before, const uint32_t *after);

/*
 * Centroids := means.  A centroid without rows is reseeded beside the most
 * crowded one: both get that mean, moved apart by a relative 1/1024 in random
 * directions, and share its count (as FAISS splits clusters).  Returns how
 * many were reseeded.  Changes sums->counts, and uses sums->sums as workspace.
 * Without any rows, centroids stay as they are.
 */
extern size_t vq_kmeans_update(VqKmeansSums *sums, VqRng *rng, float *centroids);

/*----------
 * Centroids of more equal counts: tiny ones are given up, crowded ones split.
 *
 * sizes are all ncentroids of them, sorted with vq_kmeans_compare_sizes.  While
 * the smallest has less than .33 of the average and the largest more than
 * twice, the smallest is put beside the largest as vq_kmeans_update does it,
 * and both are done with.  Returns how many: the centroid of sizes[i] now
 * shares the rows of that of sizes[ncentroids - 1 - i].  Nothing is done if
 * these would be less than 1 % of all: that would not pay.
 *----------
 */
typedef struct VqKmeansSize
{
	uint64_t	count;
	uint32_t	centroid;
} VqKmeansSize;

/* For qsort: fewest rows first, of equals the lower number */
extern int	vq_kmeans_compare_sizes(const void *a, const void *b);
extern size_t vq_kmeans_balance(const VqKmeansSize *sizes, size_t ncentroids, size_t dim,
								VqRng *rng, float *centroids);

/*
 * centre, float[dim] := the mean of points, float[npoints][dim], without those that are
 * many times as far from it as half of the points are: one of these would move it
 * so far that, seen from there, all others were alike.  work is float[2 * npoints].
 * Zero without points.
 */
extern void vq_kmeans_centre(const VqKernels *kernels, const float *points, size_t npoints, size_t dim,
							 float *work, float *centre);

/* Sum over lists of (count/total)^2 times the number of lists: 1 when balanced */
extern double vq_kmeans_imbalance(const uint64_t *counts, size_t ncentroids);

#endif							/* VQ_KMEANS_H */
