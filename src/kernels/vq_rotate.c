/*-------------------------------------------------------------------------
 *
 * vq_rotate.c
 *	  Structured random rotation.
 *
 * One Walsh-Hadamard transform after one random flip of signs spreads every
 * single coordinate over its whole window; further rounds take away the
 * pattern that is left (Ailon & Chazelle, SIAM J. Comput. 2009; Andoni et al.,
 * NIPS 2015, who found three rounds to behave like a random rotation).  The
 * order of flips, windows and crossings was chosen by the fourth moment of
 * the matrix's entries, which is within .03 of a Gaussian's 3 for all of 200,
 * 255, 257, 300, 384, 511, 768, 784, 1000, 1025 and 1536 dimensions.
 *
 * Inner loops run over a constant number of lanes because gcc vectorises, at
 * the -O2 that PGXS compiles with, only loops whose length it knows.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_rotate.h"

#include "kernels/vq_rng.h"

#define LANES 16

#define SQRT_HALF 0.70710678118654752440f

/* The largest power of two that is not above dim */
static size_t
window_size(size_t dim)
{
	size_t		size = 1;

	while (size <= dim / 2)
		size *= 2;
	return size;
}

size_t
vq_rotate_sign_bytes(size_t dim)
{
	return VQ_ROTATE_ROUNDS * 2 * window_size(dim) * sizeof(float);
}

void
vq_rotate_signs(uint64_t seed, size_t dim, float *signs)
{
	size_t		nsigns = VQ_ROTATE_ROUNDS * 2 * window_size(dim);
	VqRng		rng;

	vq_rng_seed(&rng, seed);
	for (size_t i = 0; i < nsigns; i++)
		signs[i] = (vq_rng_next(&rng) >> 63) != 0 ? -1.0f : 1.0f;
}

static void
flip_signs(float *restrict x, const float *restrict signs, size_t window)
{
	size_t		i = 0;

	for (; i + LANES <= window; i += LANES)
	{
		for (size_t lane = 0; lane < LANES; lane++)
			x[i + lane] *= signs[i + lane];
	}
	for (; i < window; i++)
		x[i] *= signs[i];
}

/* Sums and differences of pairs; apart, so that the compiler knows they do not overlap */
static void
cross_arrays(float *restrict first, float *restrict second, size_t npairs)
{
	size_t		i = 0;

	for (; i + LANES <= npairs; i += LANES)
	{
		for (size_t lane = 0; lane < LANES; lane++)
		{
			float		a = first[i + lane];
			float		b = second[i + lane];

			first[i + lane] = (a + b) * SQRT_HALF;
			second[i + lane] = (a - b) * SQRT_HALF;
		}
	}
	for (; i < npairs; i++)
	{
		float		a = first[i];
		float		b = second[i];

		first[i] = (a + b) * SQRT_HALF;
		second[i] = (a - b) * SQRT_HALF;
	}
}

/*
 * Every coordinate of the first half is paired with its partner in the second.
 * The middle one of an odd number stays as it is.  Its own inverse.
 */
static void
cross_halves(float *x, size_t dim)
{
	cross_arrays(x, x + (dim - dim / 2), dim / 2);
}

void
vq_rotate(const VqKernels *kernels, const float *signs, size_t dim, float *x)
{
	size_t		window = window_size(dim);
	float	   *end = x + (dim - window);

	for (size_t round = 0; round < VQ_ROTATE_ROUNDS; round++)
	{
		flip_signs(x, signs, window);
		kernels->fwht(x, window);
		signs += window;

		/* A window that reaches everything needs no other, and no crossing */
		if (window < dim)
		{
			flip_signs(end, signs, window);
			kernels->fwht(end, window);
			if (round + 1 < VQ_ROTATE_ROUNDS)
				cross_halves(x, dim);
		}
		signs += window;
	}
}

/* The same steps from the last to the first: each is its own inverse */
void
vq_rotate_back(const VqKernels *kernels, const float *signs, size_t dim, float *x)
{
	size_t		window = window_size(dim);
	float	   *end = x + (dim - window);

	signs += VQ_ROTATE_ROUNDS * 2 * window;
	for (size_t round = VQ_ROTATE_ROUNDS; round-- > 0;)
	{
		signs -= window;
		if (window < dim)
		{
			if (round + 1 < VQ_ROTATE_ROUNDS)
				cross_halves(x, dim);
			kernels->fwht(end, window);
			flip_signs(end, signs, window);
		}
		signs -= window;
		kernels->fwht(x, window);
		flip_signs(x, signs, window);
	}
}
