/*-------------------------------------------------------------------------
 *
 * vq_panels.h
 *	  Centroids in bytes, and the nearest of them.
 *
 * What vq_kmeans_assign does with products of a library, for processors whose
 * kernel table has is_u8_fast.  Products of bytes choose two candidates for each
 * row, and differences in float32 choose between those (but for vq_panels_assign where it is in doubt).
 *
 * Rows and centroids are rounded after the mean of the centroids is taken off
 * both, each to steps of a 63rd of its largest value: what all centroids have in
 * common tells nothing about which is nearest, and would make the steps larger.
 *
 * A row's scores, label and distance depend on no other row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_PANELS_H
#define VQ_PANELS_H

#include <math.h>

#include "kernels/vq_kernels.h"

typedef struct VqPanels
{
	size_t		ncentroids;
	size_t		dim;
	const float *centroids;		/* [ncentroids][dim], the caller's */
	bool		takes_frame;	/* rows in bytes as vq_panels_move has them, and not about origin */

	/* in the memory given by the caller */
	const float *origin;		/* [dim], mean of the centroids, but for those far from all others */
	const float *squares;		/* [ncolumns], |centroid - origin|^2 of what is in panels */
	VqColumns	columns;		/* offsets are squares / 2, infinity beyond the centroids */
} VqPanels;

/* ncentroids, made up to a multiple of VQ_PANEL_COLUMNS */
extern size_t vq_panels_columns(size_t ncentroids);

/* Bytes of memory for one VqPanels, a multiple of 4 */
extern size_t vq_panels_bytes(size_t ncentroids, size_t dim);

/*
 * Fill in panels from centroids, float[ncentroids][dim], which stay where they
 * are as long as panels are used.  memory is aligned to 4 bytes.
 */
extern void vq_panels_pack(const VqKernels *kernels, const float *centroids, size_t ncentroids,
						   size_t dim, void *memory, VqPanels *panels);

/* The same about this origin, float[dim], for rows that are rounded once and compared with centroids that move */
extern void vq_panels_pack_about(const VqKernels *kernels, const float *origin, const float *centroids, size_t ncentroids,
								 size_t dim, void *memory, VqPanels *panels);

/*
 * From here on panels take rows that are rounded about frame, float[dim], so that
 * rows are rounded once for panels with several origins: what the origins differ by
 * goes to the offsets.  Panels far from frame, relative to how far their centroids are
 * from each other, go on with their own origin: steps of such rows would be too coarse
 * for them.  work is float[2][dim].
 */
extern void vq_panels_move(const VqKernels *kernels, VqPanels *panels, const float *frame, float *work);

/* Bytes of workspace for the functions below, for so many centroids or fewer, whatever the number of rows */
extern size_t vq_panels_work_bytes(size_t ncentroids, size_t dim);

/* Bytes of a row that is rounded */
extern size_t vq_panels_row_bytes(size_t dim);

/* rows, float[nrows][dim], about origin to bytes, uint8_t[nrows][vq_panels_row_bytes(dim)], and steps[nrows] */
extern void vq_panels_round(const VqKernels *kernels, const float *origin, const float *rows, size_t nrows, size_t dim,
							uint8_t *bytes, float *steps);

/*----------
 * scores[i][j] is the larger the nearer centroid j is to row i: minus half of
 * the squared distance of the rounded vectors, plus a summand of the row's own.
 * Rounding moves each value by 1/126 of the largest of its vector, at most.
 * scores is float[nrows][vq_panels_columns(ncentroids)]; columns without a
 * centroid have minus infinity.  rows is float[nrows][dim].
 *----------
 */
extern void vq_panels_scores(const VqKernels *kernels, const VqPanels *panels,
							 const float *rows, size_t nrows, void *work, float *scores);

/*
 * labels[i] = the nearer of the two centroids with the largest scores (the
 * lower one on a tie), and distances[i] = |row - centroid|^2 from differences.
 * Rows as above; ncentroids is not 0.
 */
extern void vq_panels_assign(const VqKernels *kernels, const VqPanels *panels,
							 const float *rows, size_t nrows,
							 void *work, uint32_t *labels, float *distances);

/* Rows, and what vq_panels_round has made of them with some origin */
typedef struct VqRoundedRows
{
	const float *rows;			/* [][dim] */
	const uint8_t *bytes;
	const float *steps;
} VqRoundedRows;

/*
 * The same for rows that were rounded about the origin of panels; squares[i] = |row - origin|^2.  The two candidates are
 * compared only if rounding may have chosen the wrong one; otherwise the row in floats is not read, and
 * its distance is that of the rounded vectors, or nearly so.
 */
extern void vq_panels_label(const VqKernels *kernels, const VqPanels *panels, const VqRoundedRows *rows, const float *squares,
							size_t nrows, void *work, uint32_t *labels, float *distances);

/* The nearest two so far of a row's centroids: labels, squared distances but for rounding, and the variance of that */
typedef struct VqNearest
{
	uint32_t	labels[2];
	float		distances[2];
	float		variances[2];
} VqNearest;

/* Before the first call of vq_panels_nearest */
#define VQ_NEAREST_INIT ((VqNearest) {{0, 0}, {INFINITY, INFINITY}, {0, 0}})

/*
 * For centroids in several panels, which were moved to one frame: nearest[r] takes those
 * of panels that are nearer, centroid j under the label first_label + j, for each of some
 * rows: r = row_nos[i] is the number of the row, and squares[i] = |row - origin|^2.
 */
extern void vq_panels_nearest(const VqKernels *kernels, const VqPanels *panels, uint32_t first_label,
							  const VqRoundedRows *rows, const uint32_t *row_nos, const float *squares, size_t nrows,
							  void *work, VqNearest *nearest);

/*
 * labels[i] = the nearer of nearest[i] (the lower one on a tie), 0 where there is none, and distances[i], as vq_panels_label
 * has them; rows is float[nrows][dim], centroids float[][dim] by label.
 */
extern void vq_panels_decide(const VqKernels *kernels, const float *centroids, size_t dim,
							 const float *rows, size_t nrows, const VqNearest *nearest,
							 uint32_t *labels, float *distances);

#endif							/* VQ_PANELS_H */
