/*-------------------------------------------------------------------------
 *
 * test_vq_rotate.c
 *	  The rotation keeps lengths and angles, comes back, and spreads.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include "kernels/vq_rotate.h"

#include "kernels/vq_rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const size_t dims[] = {
	1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 100, 127, 128, 129, 255, 300, 384, 511, 784, 1000, 1536,
};

#define NDIMS (sizeof(dims) / sizeof(dims[0]))
#define MAX_TEST_DIM 1536

static float *
new_signs(uint64_t seed, size_t dim)
{
	float	   *signs = malloc(vq_rotate_sign_bytes(dim));

	vq_rotate_signs(seed, dim, signs);
	return signs;
}

static void
fill_random(VqRng *rng, float *x, size_t dim)
{
	for (size_t i = 0; i < dim; i++)
		x[i] = (float) (vq_rng_double(rng) * 2 - 1);
}

static double
inner_product(const float *a, const float *b, size_t dim)
{
	double		sum = 0;

	for (size_t i = 0; i < dim; i++)
		sum += (double) a[i] * b[i];
	return sum;
}

static void
test_signs_are_drawn_the_same_everywhere(void)
{
	/* The top bits of the splitmix64 sequence of seed 0 */
	static const float want[] = {-1, 1, 1, -1, 1, 1};
	float	   *signs = new_signs(0, 2);

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		CHECK(signs[i] == want[i], "sign %zu: got %g, want %g", i, signs[i], want[i]);
	free(signs);
}

static void
test_rotation_keeps_lengths_and_angles(void)
{
	for (size_t table = 0; vq_kernels_all[table] != NULL; table++)
	{
		const VqKernels *kernels = vq_kernels_all[table];
		VqRng		rng;

		if (!vq_kernels_supported(kernels))
			continue;
		vq_rng_seed(&rng, 3);
		for (size_t i = 0; i < NDIMS; i++)
		{
			size_t		dim = dims[i];
			float	   *signs = new_signs(7, dim);
			float		x[MAX_TEST_DIM];
			float		y[MAX_TEST_DIM];
			double		want[3];
			double		got[3];
			double		tolerance;

			fill_random(&rng, x, dim);
			fill_random(&rng, y, dim);
			want[0] = inner_product(x, x, dim);
			want[1] = inner_product(y, y, dim);
			want[2] = inner_product(x, y, dim);
			vq_rotate(kernels, signs, dim, x);
			vq_rotate(kernels, signs, dim, y);
			got[0] = inner_product(x, x, dim);
			got[1] = inner_product(y, y, dim);
			got[2] = inner_product(x, y, dim);
			tolerance = 4e-6 * sqrt(want[0] * want[1]) + 4e-6 * want[0] + 4e-6 * want[1];
			for (size_t product = 0; product < 3; product++)
				CHECK(fabs(got[product] - want[product]) <= tolerance,
					  "table %s dim %zu product %zu: got %.9g, want %.9g",
					  kernels->name, dim, product, got[product], want[product]);
			free(signs);
		}
	}
}

static void
test_rotation_back_gives_the_vector_again(void)
{
	for (size_t table = 0; vq_kernels_all[table] != NULL; table++)
	{
		const VqKernels *kernels = vq_kernels_all[table];
		VqRng		rng;

		if (!vq_kernels_supported(kernels))
			continue;
		vq_rng_seed(&rng, 4);
		for (size_t i = 0; i < NDIMS; i++)
		{
			size_t		dim = dims[i];
			float	   *signs = new_signs(8, dim);
			float		x[MAX_TEST_DIM];
			float		y[MAX_TEST_DIM];
			float		worst = 0;

			fill_random(&rng, x, dim);
			memcpy(y, x, dim * sizeof(float));
			vq_rotate(kernels, signs, dim, y);
			vq_rotate_back(kernels, signs, dim, y);
			for (size_t k = 0; k < dim; k++)
				worst = fmaxf(worst, fabsf(x[k] - y[k]));
			CHECK(worst < 5e-6f, "table %s dim %zu: largest difference %g", kernels->name, dim, worst);
			free(signs);
		}
	}
}

/* A random direction has coordinates of 1/sqrt(d); one of six times that is rarer than 1e-8 */
static void
test_rotation_spreads_a_single_coordinate(void)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");

	for (size_t i = 0; i < NDIMS; i++)
	{
		size_t		dim = dims[i];
		float	   *signs = new_signs(9, dim);
		float		limit = 7 / sqrtf((float) dim);

		for (size_t hot = 0; hot < dim; hot += 1 + dim / 50)
		{
			float		x[MAX_TEST_DIM] = {0};
			float		largest = 0;

			x[hot] = 1;
			vq_rotate(kernels, signs, dim, x);
			for (size_t k = 0; k < dim; k++)
				largest = fmaxf(largest, fabsf(x[k]));
			CHECK(largest <= limit, "dim %zu coordinate %zu: largest %g, limit %g", dim, hot, largest, limit);
		}
		free(signs);
	}
}

/*
 * Where all variance is in a few dimensions in front, as in embeddings sorted
 * by importance, every tenth of the rotated dimensions gets its share of it.
 * The windows alone fail this for 255 and 1000 dimensions.
 */
static void
test_rotation_evens_out_variance(void)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");

	for (size_t i = 0; i < NDIMS; i++)
	{
		size_t		dim = dims[i];
		float	   *signs;
		double		shares[10] = {0};
		size_t		nhot = dim / 8;

		if (dim < 100)
			continue;
		signs = new_signs(10, dim);
		for (size_t hot = 0; hot < nhot; hot++)
		{
			float		x[MAX_TEST_DIM] = {0};

			x[hot] = 1;
			vq_rotate(kernels, signs, dim, x);
			for (size_t k = 0; k < dim; k++)
				shares[k * 10 / dim] += (double) x[k] * x[k] / (double) nhot;
		}
		for (size_t tenth = 0; tenth < 10; tenth++)
			CHECK(shares[tenth] > 0.06 && shares[tenth] < 0.15,
				  "dim %zu tenth %zu: share %g, want about 0.1", dim, tenth, shares[tenth]);
		free(signs);
	}
}

void
suite_vq_rotate(void)
{
	RUN_TEST(test_signs_are_drawn_the_same_everywhere);
	RUN_TEST(test_rotation_keeps_lengths_and_angles);
	RUN_TEST(test_rotation_back_gives_the_vector_again);
	RUN_TEST(test_rotation_spreads_a_single_coordinate);
	RUN_TEST(test_rotation_evens_out_variance);
}
