/*-------------------------------------------------------------------------
 *
 * vq_datum.h
 *	  The one place that knows the SQL types vectors come in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_DATUM_H
#define VQ_DATUM_H

#include "postgres.h"

/* How a type keeps its numbers */
typedef enum VqDatumKind
{
	VQ_DATUM_ARRAY,				/* of numbers of any kind */
	VQ_DATUM_VECTOR,			/* as pgvector's vector does */
	VQ_DATUM_HALFVEC			/* as its halfvec */
} VqDatumKind;

/*
 * A vector taken out of a Datum.  x points into the (detoasted) Datum where the
 * type allows it, else to memory of its own; vq_datum_free releases what was
 * allocated, and nothing of the Datum.
 */
typedef struct VqVector
{
	const float *x;				/* float[dim] */
	int			dim;			/* 1 .. VQ_MAX_DIM */
	void	   *detoasted;		/* palloc'd, or NULL */
	float	   *converted;		/* palloc'd, or NULL */
} VqVector;

/* Whether it is a real[], double precision[], numeric[] or array of integers */
extern bool vq_datum_is_array(Oid type);

/*
 * Read a value of this kind.  ERROR with detail and hint for more than one
 * dimension of array, NULL elements, NaN, infinity, values beyond real, no
 * elements, or more than VQ_MAX_DIM.
 */
extern void vq_datum_read(Datum value, VqDatumKind kind, VqVector *vector);

/*
 * The same, but for the ERROR about NaN and infinity, which check reports.  A
 * distance (below) that is finite is between vectors that are, so whoever
 * computes one need not look at every number twice.
 */
extern void vq_datum_open(Datum value, VqDatumKind kind, VqVector *vector);
extern void vq_datum_check(const VqVector *vector);
extern void vq_datum_free(VqVector *vector);

/* Dimensions, or 0 if vq_datum_read would raise an ERROR */
extern int	vq_datum_dim(Datum value, VqDatumKind kind);

/* Whether it has no direction: all its numbers are 0 */
extern bool vq_datum_is_zero(const VqVector *vector);

/* A real[] Datum of these floats, palloc'd */
extern Datum vq_datum_make(const float *x, int dim);

/*
 * Distances as operators return them; float32 kernels, float64 where those overflow or vanish.
 * Not finite if a vector is not.
 */
extern double vq_l2_distance_squared(const float *a, const float *b, int dim);
extern double vq_inner_product(const float *a, const float *b, int dim);

/* In [0, 2]; NaN if either is a zero vector */
extern double vq_cosine_distance(const float *a, const float *b, int dim);

#endif							/* VQ_DATUM_H */
