/*-------------------------------------------------------------------------
 *
 * vq_neighbours.h
 *	  The nearest rows of some hundred queries, of rows that pass by.
 *
 * Each row is compared with all queries by products of bytes (vq_panels.h), or of a
 * library where the kernel table has no fast ones; those that may be near are compared
 * in float32.
 *
 * Copies of a query are no neighbours, the query's own row among them: they say
 * nothing of where other rows are.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_NEIGHBOURS_H
#define VQ_NEIGHBOURS_H

#include "kernels/vq_blas.h"
#include "kernels/vq_panels.h"

/* The nearest rows of each query that are kept */
#define VQ_NEIGHBOURS			10

typedef struct VqNeighbour
{
	float		value;			/* squared distance, or negative inner product; infinity for none */
	uint32_t	place;			/* what the row was offered with */
} VqNeighbour;

typedef struct VqNeighbours
{
	const VqKernels *kernels;
	const VqBlas *blas;
	VqMetric	metric;
	size_t		dim;
	size_t		nqueries;
	const float *queries;		/* [nqueries][dim], the caller's */

	/* the rest is in the memory given by the caller; the nearest of each query, in order, equal ones by place */
	VqNeighbour *nearest;		/* [nqueries][VQ_NEIGHBOURS] */
	float	   *norms_sq;		/* [nqueries] */

	/*
	 * A row x may be nearer than the last neighbour of query q if scores[q] + margins[q] > limit(x).
	 * Scores are -|x - q|^2 / 2 + |x - origin|^2 / 2, for products of a library <x, q>.
	 */
	float	   *margins;		/* [ncolumns], minus infinity for what takes no neighbours */
	float		rounding;		/* of |x - origin|^2 and |q - origin|^2 each */
	const float *origin;		/* [dim] */
	size_t		ncolumns;
	float	   *scores;			/* of some rows, [][ncolumns] */
	VqPanels	panels;			/* of queries, if the kernel table has fast products of bytes */
	void	   *work;
} VqNeighbours;

/* Bytes of memory for one VqNeighbours, whatever the kernel table */
extern size_t vq_neighbours_bytes(size_t nqueries, size_t dim);

/*
 * Without neighbours.  queries stay where they are, and of those that are equal only the first will get any; memory is aligned
 * to 8 bytes.
 */
extern void vq_neighbours_init(VqNeighbours *neighbours, const VqKernels *kernels, const VqBlas *blas, VqMetric metric,
							   const float *queries, size_t nqueries, size_t dim, void *memory);

/*
 * Keep those of rows, float[nrows][dim], that are among the nearest, with their places, uint32_t[nrows]; where
 * left_out[i] (bool[nrows], or NULL) row i is not looked at.  A row takes half a microsecond for 600 queries of 300 dimensions.
 */
extern void vq_neighbours_offer(VqNeighbours *neighbours, const float *rows, size_t nrows, const uint32_t *places,
								const bool *left_out);

/* One that was found elsewhere; false if it is not among the nearest */
extern bool vq_neighbours_add(VqNeighbours *neighbours, size_t query, VqNeighbour neighbour);

/* VQ_NEIGHBOURS of them, the nearest first */
static inline const VqNeighbour *
vq_neighbours_of(const VqNeighbours *neighbours, size_t query)
{
	return neighbours->nearest + query * VQ_NEIGHBOURS;
}

#endif							/* VQ_NEIGHBOURS_H */
