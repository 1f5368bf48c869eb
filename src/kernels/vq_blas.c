/*-------------------------------------------------------------------------
 *
 * vq_blas.c
 *	  Products of matrices where OpenBLAS is missing.
 *
 * Blocks of columns are small enough to stay in the cache while all rows pass
 * by; of these, four columns at a time share each value read from a row.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_blas.h"

#define LANES			8		/* partial sums per product, so that they fill registers */
#define COLUMNS			4
#define BLOCK_FLOATS	4096	/* floats of b that are kept in the cache */

/* out[j] = <a, b_j> for COLUMNS rows of b */
static void
four_products(const float *restrict a, const float *restrict b, size_t dim, float *restrict out)
{
	float		sums[COLUMNS][LANES] = {{0}};
	size_t		i = 0;

	for (; i + LANES <= dim; i += LANES)
	{
		for (size_t lane = 0; lane < LANES; lane++)
		{
			sums[0][lane] += a[i + lane] * b[i + lane];
			sums[1][lane] += a[i + lane] * b[dim + i + lane];
			sums[2][lane] += a[i + lane] * b[2 * dim + i + lane];
			sums[3][lane] += a[i + lane] * b[3 * dim + i + lane];
		}
	}
	for (; i < dim; i++)
	{
		for (size_t j = 0; j < COLUMNS; j++)
			sums[j][0] += a[i] * b[j * dim + i];
	}
	for (size_t j = 0; j < COLUMNS; j++)
		out[j] = ((sums[j][0] + sums[j][1]) + (sums[j][2] + sums[j][3])) +
			((sums[j][4] + sums[j][5]) + (sums[j][6] + sums[j][7]));
}

static float
one_product(const float *a, const float *b, size_t dim)
{
	float		sums[LANES] = {0};
	size_t		i = 0;

	for (; i + LANES <= dim; i += LANES)
	{
		for (size_t lane = 0; lane < LANES; lane++)
			sums[lane] += a[i + lane] * b[i + lane];
	}
	for (; i < dim; i++)
		sums[0] += a[i] * b[i];
	return ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
		((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

static void
builtin_products(size_t rows, size_t cols, size_t dim,
				 const float *a, const float *b, float *c)
{
	size_t		block = BLOCK_FLOATS / (dim > 0 ? dim : 1) / COLUMNS * COLUMNS;

	if (block < COLUMNS)
		block = COLUMNS;
	for (size_t start = 0; start < cols; start += block)
	{
		size_t		end = cols - start < block ? cols : start + block;

		for (size_t i = 0; i < rows; i++)
		{
			size_t		j = start;

			for (; j + COLUMNS <= end; j += COLUMNS)
				four_products(a + i * dim, b + j * dim, dim, c + i * cols + j);
			for (; j < end; j++)
				c[i * cols + j] = one_product(a + i * dim, b + j * dim, dim);
		}
	}
}

/* For the member of a team that has no memory for the library that the others have: not fast */
static void
builtin_add_products(size_t rows, size_t cols, size_t dim,
					 const float *a, const float *b, float *c)
{
	for (size_t i = 0; i < rows; i++)
		for (size_t j = 0; j < cols; j++)
			c[i * cols + j] += one_product(a + i * dim, b + j * dim, dim);
}

const VqBlas vq_blas_builtin = {
	.name = "builtin", .products = builtin_products, .add_products = builtin_add_products
};
