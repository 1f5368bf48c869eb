/*-------------------------------------------------------------------------
 *
 * vq_project.h
 *	  A projection of vectors to fewer dimensions, kept in bytes.
 *
 * Codes of an index stand for residuals in the directions in which these vary
 * most, not in all.  The directions are rows of an orthonormal matrix, each
 * rounded to bytes with a step of its own: they are for vectors that were spread
 * evenly over their coordinates (vq_rotate.h), so that no value of a direction
 * is much larger than the others, and the rounding turns a direction by less than
 * a hundredth.
 *
 * Of the eigenvectors of the residuals' covariance, those of the largest variances
 * are taken (two bits of a code for each, see vq_codec.h), and the first half of them
 * is mixed by a random rotation: the first few alone would have entries in a query's
 * look-up table that are far larger than all others, which then have few of its 256
 * steps.  A sub-quantiser gets directions from all parts of the order, so that all
 * have about the same product of variances, as optimised product quantisation wants
 * it (Ge, He, Ke & Sun, CVPR 2013, section 3.2).
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_PROJECT_H
#define VQ_PROJECT_H

#include "kernels/vq_kernels.h"

typedef struct VqProjection
{
	size_t		dim;			/* of what is projected */
	size_t		ndirections;	/* dimensions of the result */
	const float *steps;			/* [ndirections, rounded up to VQ_PANEL_COLUMNS], not negative */
	const int8_t *panels;		/* as project_i8 reads them */
	float		defect;			/* |P^T y|^2 is |y|^2 within this part of it, or nearly always */
} VqProjection;

/* Floats that vq_project writes: ndirections, rounded up to whole panels */
static inline size_t
vq_project_floats(size_t ndirections)
{
	return (ndirections + VQ_PANEL_COLUMNS - 1) / VQ_PANEL_COLUMNS * VQ_PANEL_COLUMNS;
}

/* Bytes of the image of a projection, as on disk: steps, then panels */
static inline size_t
vq_project_bytes(size_t dim, size_t ndirections)
{
	return vq_project_floats(ndirections) * (sizeof(float) + dim);
}

/* Directions, float[ndirections][dim] and finite, to an image, which is aligned as a float */
extern void vq_project_pack(const float *directions, size_t dim, size_t ndirections, void *image);

/* A projection that reads an image in place; VQ_BAD_FORMAT if a step is not finite or negative */
extern VqStatus vq_project_open(VqProjection *projection, size_t dim, size_t ndirections, const void *image);

/* y := the projection of x; x is float[dim], y is float[vq_project_floats], zero behind ndirections */
extern void vq_project(const VqKernels *kernels, const VqProjection *projection, const float *x, float *y);

/* directions, float[ndirections][dim], as the bytes have them: for products of many vectors at once */
extern void vq_project_unpack(const VqProjection *projection, float *directions);

/* x += the sum of the directions, each y_j times; y is float[ndirections], x is float[dim] */
extern void vq_project_back(const VqProjection *projection, const float *y, float *x);

/* Floats of workspace for vq_project_arrange */
extern size_t vq_project_arrange_floats(size_t m, size_t dsub);

/*
 * directions := vectors as m sub-quantisers of dsub dimensions each code them.  vectors
 * is float[m * dsub][dim], in descending order of variance, and its first half is
 * mixed, which changes it; directions is as large.
 */
extern void vq_project_arrange(const VqKernels *kernels, uint64_t seed, float *vectors, size_t dim,
							   size_t m, size_t dsub, float *work, float *directions);

#endif							/* VQ_PROJECT_H */
