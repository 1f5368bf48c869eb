/*-------------------------------------------------------------------------
 *
 * vq_blas.h
 *	  The linear algebra that training needs, behind pointers.
 *
 * The glue fills it from OpenBLAS, which it opens with dlopen in the backend
 * that builds (DESIGN: never linked, its thread pool would start in every
 * process).  Where OpenBLAS is missing, vq_blas_builtin does the same slower, but for
 * eigenvectors, without which an index has codes of another kind.
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

	/* c[i][j] += the same */
	void		(*add_products) (size_t rows, size_t cols, size_t dim,
								 const float *a, const float *b, float *c);

	/*
	 * Eigenvectors of a symmetric matrix, float[dim][dim], of which it reads one
	 * triangle: row i of a becomes the one that belongs to values[i], and values
	 * ascend.  work is float[vq_blas_eigen_floats(dim)], aligned as int too.  False if
	 * the iteration does not come to an end.  NULL where there is none.
	 */
	bool		(*eigenvectors) (size_t dim, float *a, float *values, float *work);
} VqBlas;

/* Work space of LAPACK's divide and conquer, in floats and integers, which have the same size */
static inline size_t
vq_blas_eigen_floats(size_t dim)
{
	return 1 + 6 * dim + 2 * dim * dim + 3 + 5 * dim;
}

extern const VqBlas vq_blas_builtin;

#endif							/* VQ_BLAS_H */
