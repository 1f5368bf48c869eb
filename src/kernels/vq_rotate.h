/*-------------------------------------------------------------------------
 *
 * vq_rotate.h
 *	  Structured random rotation: sign flips and Walsh-Hadamard transforms.
 *
 * Each of VQ_ROTATE_ROUNDS rounds transforms two overlapping power-of-two
 * windows, one at the front and one at the end, which together cover every
 * dimension.  Random signs are flipped before each transform: without those
 * in between, two windows that are one dimension apart nearly undo each other.
 * Between rounds, the first and the second half are crossed: the windows of
 * 1,000 dimensions share no more than 24, too few to even out what one half has
 * and the other lacks.  Orthogonal, O(d log d), nothing stored but a seed.  It spreads variance evenly over sub-quantisers, and makes the error
 * of a code behave like noise, which the bound of vq_codec.h needs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_ROTATE_H
#define VQ_ROTATE_H

#include "kernels/vq_kernels.h"

#define VQ_ROTATE_ROUNDS	3

typedef enum VqRotation
{
	VQ_ROTATION_NONE = 0,
	VQ_ROTATION_HADAMARD = 1
} VqRotation;

/* Bytes of signs that vq_rotate_signs fills for dim dimensions */
extern size_t vq_rotate_sign_bytes(size_t dim);

/*
 * Draw the signs of all rounds from a seed: float[VQ_ROTATE_ROUNDS][2][window],
 * each 1 or -1, where window is the largest power of two not above dim.  Floats
 * rather than bits, as every row of a build is multiplied by them.
 */
extern void vq_rotate_signs(uint64_t seed, size_t dim, float *signs);

/* x := R x and x := R^T x, in place, x is float[dim] */
extern void vq_rotate(const VqKernels *kernels, const float *signs, size_t dim, float *x);
extern void vq_rotate_back(const VqKernels *kernels, const float *signs, size_t dim, float *x);

#endif							/* VQ_ROTATE_H */
