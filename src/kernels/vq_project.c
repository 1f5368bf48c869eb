/*-------------------------------------------------------------------------
 *
 * vq_project.c
 *	  Projections in bytes, and the order of their directions.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_project.h"
#include "kernels/vq_rotate.h"

#include <math.h>
#include <string.h>

#define LARGEST_BYTE 127.0f

/*
 * Directions in bytes are not quite orthonormal.  Their values are off by
 * step / sqrt(12), which moves |P^T y|^2 by twice the product of P^T y with a vector
 * whose values are as small, times |y|: a standard error of .58 steps.
 */
#define DEFECT_STEPS 2

/* Where value i of a direction is in the panels */
static size_t
place_of(size_t dim, size_t direction, size_t i)
{
	return (direction / VQ_PANEL_COLUMNS * dim + i) * VQ_PANEL_COLUMNS + direction % VQ_PANEL_COLUMNS;
}

void
vq_project_pack(const float *directions, size_t dim, size_t ndirections, void *image)
{
	size_t		ncolumns = vq_project_floats(ndirections);
	float	   *steps = image;
	int8_t	   *panels = (int8_t *) (steps + ncolumns);

	memset(image, 0, vq_project_bytes(dim, ndirections));
	for (size_t j = 0; j < ndirections; j++)
	{
		const float *direction = directions + j * dim;
		float		largest = 0;

		for (size_t i = 0; i < dim; i++)
			largest = fmaxf(largest, fabsf(direction[i]));
		steps[j] = largest / LARGEST_BYTE;
		for (size_t i = 0; i < dim && steps[j] > 0; i++)
			panels[place_of(dim, j, i)] =
				(int8_t) fmaxf(-LARGEST_BYTE, fminf(LARGEST_BYTE, rintf(direction[i] / steps[j])));
	}
}

VqStatus
vq_project_open(VqProjection *projection, size_t dim, size_t ndirections, const void *image)
{
	size_t		ncolumns = vq_project_floats(ndirections);

	projection->dim = dim;
	projection->ndirections = ndirections;
	projection->steps = image;
	projection->panels = (const int8_t *) (projection->steps + ncolumns);
	projection->defect = 0;
	for (size_t j = 0; j < ncolumns; j++)
	{
		if (!(projection->steps[j] >= 0 && isfinite(projection->steps[j])))
			return VQ_BAD_FORMAT;
		projection->defect = fmaxf(projection->defect, DEFECT_STEPS * projection->steps[j]);
	}
	return VQ_OK;
}

void
vq_project(const VqKernels *kernels, const VqProjection *projection, const float *x, float *y)
{
	kernels->project_i8(x, projection->dim, projection->panels, projection->steps,
						vq_project_floats(projection->ndirections) / VQ_PANEL_COLUMNS, y);
}

void
vq_project_unpack(const VqProjection *projection, float *directions)
{
	size_t		dim = projection->dim;

	for (size_t j = 0; j < projection->ndirections; j++)
		for (size_t i = 0; i < dim; i++)
			directions[j * dim + i] = projection->steps[j] * projection->panels[place_of(dim, j, i)];
}

void
vq_project_back(const VqProjection *projection, const float *y, float *x)
{
	size_t		dim = projection->dim;

	for (size_t j = 0; j < projection->ndirections; j++)
	{
		float		factor = y[j] * projection->steps[j];

		for (size_t i = 0; i < dim; i++)
			x[i] += factor * projection->panels[place_of(dim, j, i)];
	}
}

/* How many directions are mixed */
static size_t
mixed(size_t m, size_t dsub)
{
	return (m * dsub + 1) / 2;
}

size_t
vq_project_arrange_floats(size_t m, size_t dsub)
{
	return mixed(m, dsub) + vq_rotate_sign_bytes(mixed(m, dsub)) / sizeof(float);
}

void
vq_project_arrange(const VqKernels *kernels, uint64_t seed, float *vectors, size_t dim,
				   size_t m, size_t dsub, float *work, float *directions)
{
	size_t		nmixed = mixed(m, dsub);
	float	   *signs = work + nmixed;

	vq_rotate_signs(seed, nmixed, signs);
	for (size_t i = 0; i < dim; i++)
	{
		for (size_t j = 0; j < nmixed; j++)
			work[j] = vectors[j * dim + i];
		vq_rotate(kernels, signs, nmixed, work);
		for (size_t j = 0; j < nmixed; j++)
			vectors[j * dim + i] = work[j];
	}

	/* one round forwards, the next one backwards */
	for (size_t t = 0; t < dsub; t++)
		for (size_t j = 0; j < m; j++)
			memcpy(directions + (j * dsub + t) * dim, vectors + (t * m + (t % 2 == 0 ? j : m - 1 - j)) * dim,
				   dim * sizeof(float));
}
