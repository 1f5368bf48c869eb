/*-------------------------------------------------------------------------
 *
 * vq_blas.h
 *	  The one product of matrices that training needs, behind a pointer.
 *
 * The glue fills it from OpenBLAS, which it opens with dlopen in the backend
 * that builds (DESIGN: never linked, its thread pool would start in every
 * process).  Where OpenBLAS is missing, vq_blas_builtin does the same slower.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_BLAS_H
#define VQ_BLAS_H

#include "kernels/vq_kernels.h"

typedef struct VqBlas
{
	const char *name;

	/*
	 * c[i][j] = <a_i, b_j>: a is float[rows][dim], b is float[cols][dim], c is
	 * float[rows][cols].  Relative error as for ip_f32.
	 */
	void		(*products) (size_t rows, size_t cols, size_t dim,
							 const float *a, const float *b, float *c);
} VqBlas;

extern const VqBlas vq_blas_builtin;

#endif							/* VQ_BLAS_H */
