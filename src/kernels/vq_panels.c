/*-------------------------------------------------------------------------
 *
 * vq_panels.c
 *	  Centroids in bfloat16, and the nearest of them.
 *
 * Rows are taken so many at a time that they and their scores stay in the
 * cache, and are rounded on their way there: they need not be gathered.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_panels.h"

#include <math.h>
#include <string.h>

/* Rows at a time: multiples of 24 fill the blocks of the kernels */
#define MIN_ROWS		24
#define MAX_ROWS		96

/* Scores that are kept in the cache */
#define MAX_SCORES		65536

size_t
vq_panels_columns(size_t ncentroids)
{
	return (ncentroids + VQ_PANEL_COLUMNS - 1) / VQ_PANEL_COLUMNS * VQ_PANEL_COLUMNS;
}

static size_t
pairs_of(size_t dim)
{
	return (dim + 1) / 2;
}

static size_t
rows_at_once(size_t ncentroids)
{
	size_t		rows = MAX_SCORES / (vq_panels_columns(ncentroids) + 1) / MIN_ROWS * MIN_ROWS;

	return rows < MIN_ROWS ? MIN_ROWS : rows > MAX_ROWS ? MAX_ROWS : rows;
}

size_t
vq_panels_bytes(size_t ncentroids, size_t dim)
{
	size_t		ncolumns = vq_panels_columns(ncentroids);

	/* and one centroid by itself */
	return dim * sizeof(float) + ncolumns * sizeof(float) + (ncolumns + 1) * pairs_of(dim) * sizeof(uint32_t);
}

static void
compute_mean(const float *centroids, size_t ncentroids, size_t dim, float *mean)
{
	float		share = ncentroids > 0 ? 1.0f / (float) ncentroids : 0;

	memset(mean, 0, dim * sizeof(float));
	for (size_t j = 0; j < ncentroids; j++)
		for (size_t i = 0; i < dim; i++)
			mean[i] += centroids[j * dim + i] * share;
}

static float
as_float(uint32_t bits)
{
	float		value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/*
 * Half of the squared length of the rounded centroid, not of the exact one: so
 * scores compare distances to what the products are taken with.
 */
static float
half_norm(const uint32_t *pairs, size_t npairs)
{
	double		sum = 0;

	for (size_t p = 0; p < npairs; p++)
	{
		double		low = as_float(pairs[p] << 16);
		double		high = as_float(pairs[p] & 0xFFFF0000);

		sum += low * low + high * high;
	}
	return (float) (sum / 2);
}

void
vq_panels_pack(const VqKernels *kernels, const float *centroids, size_t ncentroids,
			   size_t dim, void *memory, VqPanels *panels)
{
	size_t		ncolumns = vq_panels_columns(ncentroids);
	size_t		npairs = pairs_of(dim);
	uint32_t   *centroid;

	panels->ncentroids = ncentroids;
	panels->dim = dim;
	panels->centroids = centroids;
	panels->origin = memory;
	panels->offsets = panels->origin + dim;
	panels->panels = (uint32_t *) (panels->offsets + ncolumns);
	centroid = panels->panels + ncolumns * npairs;
	compute_mean(centroids, ncentroids, dim, panels->origin);
	for (size_t j = 0; j < ncolumns; j++)
	{
		uint32_t   *column = panels->panels + j / VQ_PANEL_COLUMNS * npairs * VQ_PANEL_COLUMNS + j % VQ_PANEL_COLUMNS;

		if (j < ncentroids)
			kernels->residual_bf16(centroids + j * dim, panels->origin, dim, centroid);
		else
			memset(centroid, 0, npairs * sizeof(uint32_t));
		for (size_t p = 0; p < npairs; p++)
			column[p * VQ_PANEL_COLUMNS] = centroid[p];
		panels->offsets[j] = j < ncentroids ? half_norm(centroid, npairs) : INFINITY;
	}
}

size_t
vq_panels_work_bytes(size_t ncentroids, size_t dim)
{
	return rows_at_once(ncentroids) *
		(pairs_of(dim) * sizeof(uint32_t) + vq_panels_columns(ncentroids) * sizeof(float));
}

static const float *
row_at(const VqPanels *panels, const float *rows, const uint32_t *row_nos, size_t i)
{
	return rows + (row_nos != NULL ? row_nos[i] : i) * panels->dim;
}

/* Scores of rows first to first + count, no more than rows_at_once */
static void
score_rows(const VqKernels *kernels, const VqPanels *panels, const float *rows, const uint32_t *row_nos,
		   size_t first, size_t count, uint32_t *work, float *scores)
{
	size_t		npairs = pairs_of(panels->dim);

	for (size_t i = 0; i < count; i++)
		kernels->residual_bf16(row_at(panels, rows, row_nos, first + i), panels->origin, panels->dim,
							   work + i * npairs);
	kernels->scores_bf16(work, count, npairs, panels->panels, panels->offsets,
						 vq_panels_columns(panels->ncentroids), scores);
}

void
vq_panels_scores(const VqKernels *kernels, const VqPanels *panels,
				 const float *rows, const uint32_t *row_nos, size_t nrows,
				 void *work, float *scores)
{
	size_t		step = rows_at_once(panels->ncentroids);

	for (size_t first = 0; first < nrows; first += step)
		score_rows(kernels, panels, rows, row_nos, first, nrows - first < step ? nrows - first : step,
				   work, scores + first * vq_panels_columns(panels->ncentroids));
}

/* The nearer of two centroids; NaNs may have chosen one that does not exist */
static void
compare_two(const VqKernels *kernels, const VqPanels *panels, const float *row, const uint32_t at[2],
			uint32_t *label, float *distance)
{
	uint32_t	one = at[0] < panels->ncentroids ? at[0] : 0;
	uint32_t	other = at[1] < panels->ncentroids ? at[1] : one;
	float		other_distance;

	*label = one;
	*distance = kernels->l2sq_f32(row, panels->centroids + one * panels->dim, panels->dim);
	if (other == one)
		return;
	other_distance = kernels->l2sq_f32(row, panels->centroids + other * panels->dim, panels->dim);
	if (other_distance < *distance || (other_distance == *distance && other < one))
	{
		*label = other;
		*distance = other_distance;
	}
}

void
vq_panels_assign(const VqKernels *kernels, const VqPanels *panels,
				 const float *rows, const uint32_t *row_nos, size_t nrows,
				 void *work, uint32_t *labels, float *distances)
{
	size_t		ncolumns = vq_panels_columns(panels->ncentroids);
	size_t		step = rows_at_once(panels->ncentroids);
	float	   *scores = (float *) ((uint32_t *) work + step * pairs_of(panels->dim));
	uint32_t	at[MAX_ROWS][2];

	for (size_t first = 0; first < nrows; first += step)
	{
		size_t		count = nrows - first < step ? nrows - first : step;

		score_rows(kernels, panels, rows, row_nos, first, count, work, scores);
		kernels->largest_two(scores, count, ncolumns, at);
		for (size_t i = 0; i < count; i++)
			compare_two(kernels, panels, row_at(panels, rows, row_nos, first + i), at[i],
						labels + first + i, distances + first + i);
	}
}
