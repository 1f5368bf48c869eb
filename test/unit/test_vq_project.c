/*-------------------------------------------------------------------------
 *
 * test_vq_project.c
 *	  Images of projections say what the directions said, projections in bytes
 *	  are what doubles make of the same bytes, and sub-quantisers get directions
 *	  that are worth about the same.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include "kernels/vq_project.h"
#include "kernels/vq_rng.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Around every limit of a loop over dimensions, or over panels of 16 directions */
static const size_t dims[] = {1, 2, 3, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 300};

#define NDIMS	(sizeof(dims) / sizeof(dims[0]))
#define NCOUNTS 34

/* Numbers of directions: 1 to 33, and many */
static size_t
count_at(size_t i)
{
	return i + 1 < NCOUNTS ? i + 1 : 150;
}

/* Floats in [-1, 1) */
static float *
random_floats(VqRng *rng, size_t n)
{
	float	   *p = malloc(n * sizeof(float));

	for (size_t i = 0; i < n; i++)
		p[i] = (float) (2 * vq_rng_double(rng) - 1);
	return p;
}

/* An image of random directions, of unit length, in a buffer of exactly its size */
typedef struct Image
{
	size_t		dim;
	size_t		ndirections;
	float	   *directions;
	void	   *bytes;
	VqProjection projection;
} Image;

static Image
open_image(VqRng *rng, size_t dim, size_t ndirections)
{
	Image		image = {.dim = dim, .ndirections = ndirections};

	image.directions = random_floats(rng, dim * ndirections);
	for (size_t j = 0; j < ndirections; j++)
	{
		double		norm_sq = 0;

		for (size_t i = 0; i < dim; i++)
			norm_sq += (double) image.directions[j * dim + i] * image.directions[j * dim + i];
		for (size_t i = 0; i < dim; i++)
			image.directions[j * dim + i] /= (float) sqrt(norm_sq);
	}
	image.bytes = malloc(vq_project_bytes(dim, ndirections));
	vq_project_pack(image.directions, dim, ndirections, image.bytes);
	CHECK(vq_project_open(&image.projection, dim, ndirections, image.bytes) == VQ_OK,
		  "dim %zu, %zu directions: refused", dim, ndirections);
	return image;
}

static void
close_image(Image *image)
{
	free(image->directions);
	free(image->bytes);
}

/* Value i of a direction, as the image has it */
static double
value_of(const VqProjection *projection, size_t j, size_t i)
{
	const int8_t *panel = projection->panels + j / VQ_PANEL_COLUMNS * projection->dim * VQ_PANEL_COLUMNS;

	return (double) projection->steps[j] * panel[i * VQ_PANEL_COLUMNS + j % VQ_PANEL_COLUMNS];
}

static void
test_image_has_directions_within_half_a_step(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 1);
	for (size_t d = 0; d < NDIMS; d++)
	{
		for (size_t c = 0; c < NCOUNTS; c++)
		{
			Image		image = open_image(&rng, dims[d], count_at(c));
			double		worst = 0;

			for (size_t j = 0; j < image.ndirections; j++)
				for (size_t i = 0; i < image.dim; i++)
				{
					double		difference = value_of(&image.projection, j, i) - image.directions[j * image.dim + i];

					worst = fmax(worst, fabs(difference) / image.projection.steps[j]);
				}
			CHECK(worst <= 0.5 + 1e-4, "dim %zu, %zu directions: %g steps off", image.dim, image.ndirections, worst);

			/* What fills the last panel is nothing */
			for (size_t j = image.ndirections; j < vq_project_floats(image.ndirections); j++)
				for (size_t i = 0; i < image.dim; i++)
					CHECK(image.projection.steps[j] == 0 && value_of(&image.projection, j, i) == 0,
						  "dim %zu, %zu directions: there is a direction %zu", image.dim, image.ndirections, j);
			close_image(&image);
		}
	}
}

static void
test_unpacked_directions_are_those_of_the_bytes(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 6);
	for (size_t d = 0; d < NDIMS; d++)
	{
		for (size_t c = 0; c < NCOUNTS; c++)
		{
			Image		image = open_image(&rng, dims[d], count_at(c));
			float	   *got = malloc(image.dim * image.ndirections * sizeof(float));
			size_t		nwrong = 0;

			vq_project_unpack(&image.projection, got);
			for (size_t i = 0; i < image.dim * image.ndirections; i++)
				nwrong += got[i] != (float) value_of(&image.projection, i / image.dim, i % image.dim);
			CHECK(nwrong == 0, "dim %zu, %zu directions: %zu values are wrong", image.dim, image.ndirections, nwrong);
			free(got);
			close_image(&image);
		}
	}
}

static void
test_zero_direction_projects_to_zero(void)
{
	/* The second is too small for a step */
	float		directions[3 * 5] = {0, 0, 0, 0, 0, 1e-45f, 0, 0, 0, 0, 1, 2, 3, 4, 5};
	float		x[5] = {1, -1, 1, -1, 1e30f};
	void	   *bytes = malloc(vq_project_bytes(5, 3));
	VqProjection projection;

	vq_project_pack(directions, 5, 3, bytes);
	CHECK(vq_project_open(&projection, 5, 3, bytes) == VQ_OK, "refused");
	for (size_t t = 0; vq_kernels_all[t] != NULL; t++)
	{
		float		y[VQ_PANEL_COLUMNS];

		if (!vq_kernels_supported(vq_kernels_all[t]))
			continue;
		vq_project(vq_kernels_all[t], &projection, x, y);
		CHECK(y[0] == 0 && y[1] == 0, "%s: got %g and %g", vq_kernels_all[t]->name, y[0], y[1]);
		CHECK(fabs(y[2] - 5e30) < 1e25, "%s: got %g", vq_kernels_all[t]->name, y[2]);
	}
	free(bytes);
}

static void
test_image_with_a_bad_step_is_refused(void)
{
	static const float bad_steps[] = {NAN, -1, -FLT_MIN, INFINITY, -INFINITY};
	VqRng		rng;
	Image		image;
	float	   *steps;

	vq_rng_seed(&rng, 2);
	image = open_image(&rng, 7, 20);
	steps = image.bytes;

	/* Steps of columns without a direction are read like the others */
	for (size_t j = 0; j < vq_project_floats(20); j++)
	{
		float		step = steps[j];

		for (size_t i = 0; i < sizeof(bad_steps) / sizeof(bad_steps[0]); i++)
		{
			VqStatus	status;

			steps[j] = bad_steps[i];
			status = vq_project_open(&image.projection, 7, 20, image.bytes);
			CHECK(status == VQ_BAD_FORMAT, "step %zu is %g: status %d", j, bad_steps[i], (int) status);
		}
		steps[j] = step;
	}
	CHECK(vq_project_open(&image.projection, 7, 20, image.bytes) == VQ_OK, "refused");
	close_image(&image);
}

static void
check_projection(const VqKernels *kernels, const Image *image, const float *x)
{
	size_t		nfloats = vq_project_floats(image->ndirections);
	float	   *y = malloc(nfloats * sizeof(float));

	memset(y, 255, nfloats * sizeof(float));
	vq_project(kernels, &image->projection, x, y);
	for (size_t j = 0; j < image->ndirections; j++)
	{
		double		want = 0;
		double		exact = 0;
		double		abs_sum = 0;
		double		x_sum = 0;

		for (size_t i = 0; i < image->dim; i++)
		{
			double		term = x[i] * value_of(&image->projection, j, i);

			want += term;
			abs_sum += fabs(term);
			exact += (double) x[i] * image->directions[j * image->dim + i];
			x_sum += fabs(x[i]);
		}
		CHECK(fabs(y[j] - want) <= (double) (image->dim + 2) * FLT_EPSILON * abs_sum,
			  "%s dim %zu direction %zu of %zu: got %.9g, want %.9g", kernels->name, image->dim, j,
			  image->ndirections, y[j], want);
		CHECK(fabs(y[j] - exact) <= 0.501 * image->projection.steps[j] * x_sum + 1e-5,
			  "%s dim %zu direction %zu of %zu: got %.9g, without bytes %.9g", kernels->name, image->dim, j,
			  image->ndirections, y[j], exact);
	}
	for (size_t j = image->ndirections; j < nfloats; j++)
		CHECK(y[j] == 0, "%s dim %zu, %zu directions: %g behind them", kernels->name, image->dim,
			  image->ndirections, y[j]);
	free(y);
}

static void
test_projection_agrees_with_doubles(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 3);
	for (size_t d = 0; d < NDIMS; d++)
	{
		for (size_t c = 0; c < NCOUNTS; c++)
		{
			Image		image = open_image(&rng, dims[d], count_at(c));
			float	   *x = random_floats(&rng, dims[d]);

			for (size_t t = 0; vq_kernels_all[t] != NULL; t++)
			{
				if (vq_kernels_supported(vq_kernels_all[t]))
					check_projection(vq_kernels_all[t], &image, x);
			}
			free(x);
			close_image(&image);
		}
	}
}

/* <P x, y> = <x, P^T y>, whatever the two */
static void
test_back_projection_is_the_transpose(void)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");
	VqRng		rng;

	vq_rng_seed(&rng, 4);
	for (size_t d = 0; d < NDIMS; d++)
	{
		for (size_t c = 0; c < NCOUNTS; c++)
		{
			Image		image = open_image(&rng, dims[d], count_at(c));
			float	   *x = random_floats(&rng, image.dim);
			float	   *y = random_floats(&rng, image.ndirections);
			float	   *back = random_floats(&rng, image.dim);
			float	   *before = malloc(image.dim * sizeof(float));
			float	   *projected = malloc(vq_project_floats(image.ndirections) * sizeof(float));
			double		got = 0;
			double		want = 0;
			double		abs_sum = 0;

			memcpy(before, back, image.dim * sizeof(float));
			vq_project(kernels, &image.projection, x, projected);
			vq_project_back(&image.projection, y, back);
			for (size_t j = 0; j < image.ndirections; j++)
			{
				want += (double) projected[j] * y[j];
				abs_sum += fabs((double) projected[j] * y[j]);
			}
			for (size_t i = 0; i < image.dim; i++)
			{
				got += x[i] * ((double) back[i] - before[i]);
				abs_sum += fabs((double) x[i] * back[i]) + fabs((double) x[i] * before[i]);
			}
			CHECK(fabs(got - want) <= (double) (image.dim + image.ndirections) * FLT_EPSILON * abs_sum,
				  "dim %zu, %zu directions: got %.9g, want %.9g", image.dim, image.ndirections, got, want);
			free(x);
			free(y);
			free(back);
			free(before);
			free(projected);
			close_image(&image);
		}
	}
}

static const struct
{
	size_t		m;
	size_t		dsub;
}			arrangements[] = {
	{1, 1}, {1, 2}, {1, 3}, {1, 4}, {2, 1}, {2, 2}, {3, 4}, {7, 3}, {33, 1}, {43, 2}, {40, 4},
};

#define NARRANGEMENTS (sizeof(arrangements) / sizeof(arrangements[0]))

/* vectors and directions in buffers of exactly their size, and the vectors as they were */
typedef struct Arrangement
{
	size_t		m;
	size_t		dsub;
	size_t		n;
	size_t		dim;
	float	   *before;
	float	   *vectors;
	float	   *directions;
} Arrangement;

/* Of the first n axes of dim dimensions */
static Arrangement
arrange_axes(const VqKernels *kernels, size_t m, size_t dsub, size_t dim)
{
	Arrangement result = {.m = m, .dsub = dsub, .n = m * dsub, .dim = dim};
	float	   *work = malloc(vq_project_arrange_floats(m, dsub) * sizeof(float));

	result.before = calloc(result.n * dim, sizeof(float));
	result.vectors = malloc(result.n * dim * sizeof(float));
	result.directions = malloc(result.n * dim * sizeof(float));
	for (size_t i = 0; i < result.n; i++)
		result.before[i * dim + i] = 1;
	memcpy(result.vectors, result.before, result.n * dim * sizeof(float));
	vq_project_arrange(kernels, 5, result.vectors, dim, m, dsub, work, result.directions);
	free(work);
	return result;
}

static void
close_arrangement(Arrangement *arrangement)
{
	free(arrangement->before);
	free(arrangement->vectors);
	free(arrangement->directions);
}

static bool
is_same_row(const float *a, const float *b, size_t dim)
{
	return memcmp(a, b, dim * sizeof(float)) == 0;
}

/* The number of the vector that is a direction, and n if it is none of them */
static size_t
vector_of(const Arrangement *arrangement, size_t direction)
{
	size_t		dim = arrangement->dim;
	size_t		i = 0;

	while (i < arrangement->n && !is_same_row(arrangement->directions + direction * dim, arrangement->vectors + i * dim, dim))
		i++;
	return i;
}

static void
test_every_vector_is_arranged_once(void)
{
	for (size_t a = 0; a < NARRANGEMENTS; a++)
	{
		size_t		n = arrangements[a].m * arrangements[a].dsub;
		Arrangement arrangement = arrange_axes(vq_kernels_by_name("auto"), arrangements[a].m, arrangements[a].dsub, n + 3);
		size_t	   *times = calloc(n + 1, sizeof(size_t));

		for (size_t j = 0; j < n; j++)
			times[vector_of(&arrangement, j)]++;
		CHECK(times[n] == 0, "%zu x %zu: %zu directions are no vector", arrangement.m, arrangement.dsub, times[n]);
		for (size_t i = 0; i < n; i++)
			CHECK(times[i] == 1, "%zu x %zu: vector %zu is %zu directions", arrangement.m, arrangement.dsub, i, times[i]);
		free(times);
		close_arrangement(&arrangement);
	}
}

/* So that codes stand for the same space, and products of P keep lengths */
static void
test_arranged_directions_stay_orthonormal(void)
{
	for (size_t table = 0; vq_kernels_all[table] != NULL; table++)
	{
		if (!vq_kernels_supported(vq_kernels_all[table]))
			continue;
		for (size_t a = 0; a < NARRANGEMENTS; a++)
		{
			size_t		n = arrangements[a].m * arrangements[a].dsub;
			Arrangement arrangement = arrange_axes(vq_kernels_all[table], arrangements[a].m, arrangements[a].dsub, n + 3);
			double		worst = 0;

			for (size_t i = 0; i < n; i++)
				for (size_t j = 0; j <= i; j++)
				{
					double		product = 0;

					for (size_t t = 0; t < arrangement.dim; t++)
						product += (double) arrangement.directions[i * arrangement.dim + t] *
							arrangement.directions[j * arrangement.dim + t];
					worst = fmax(worst, fabs(product - (i == j)));
				}
			CHECK(worst < 1e-5, "%s %zu x %zu: a product is off by %g", vq_kernels_all[table]->name,
				  arrangement.m, arrangement.dsub, worst);
			close_arrangement(&arrangement);
		}
	}
}

static void
test_first_half_is_mixed_with_itself_and_the_second_not_at_all(void)
{
	for (size_t a = 0; a < NARRANGEMENTS; a++)
	{
		size_t		n = arrangements[a].m * arrangements[a].dsub;
		size_t		nmixed = (n + 1) / 2;
		Arrangement arrangement = arrange_axes(vq_kernels_by_name("auto"), arrangements[a].m, arrangements[a].dsub, n + 3);

		for (size_t i = 0; i < n; i++)
		{
			const float *vector = arrangement.vectors + i * arrangement.dim;
			float		largest = 0;

			if (i >= nmixed)
			{
				CHECK(is_same_row(vector, arrangement.before + i * arrangement.dim, arrangement.dim),
					  "%zu x %zu: vector %zu has changed", arrangement.m, arrangement.dsub, i);
				continue;
			}
			for (size_t t = 0; t < arrangement.dim; t++)
			{
				if (t >= nmixed)
					CHECK(vector[t] == 0, "%zu x %zu: vector %zu has %g of axis %zu", arrangement.m, arrangement.dsub,
						  i, vector[t], t);
				largest = fmaxf(largest, fabsf(vector[t]));
			}
			CHECK(nmixed < 16 || largest < 0.9f, "%zu x %zu: vector %zu is %g of one axis", arrangement.m,
				  arrangement.dsub, i, largest);
		}
		close_arrangement(&arrangement);
	}
}

/*
 * With variances that fall by equal factors, the product of a sub-quantiser is told by
 * the sum of the numbers of its vectors: equal for an even number of them, and
 * otherwise within what the last one may be off.
 */
static void
test_sub_quantisers_get_vectors_from_all_parts_of_the_order(void)
{
	for (size_t a = 0; a < NARRANGEMENTS; a++)
	{
		size_t		m = arrangements[a].m;
		size_t		dsub = arrangements[a].dsub;
		Arrangement arrangement = arrange_axes(vq_kernels_by_name("auto"), m, dsub, m * dsub + 3);
		size_t		least = SIZE_MAX;
		size_t		largest = 0;

		for (size_t j = 0; j < m; j++)
		{
			size_t		sum = 0;

			for (size_t t = 0; t < dsub; t++)
			{
				size_t		i = vector_of(&arrangement, j * dsub + t);

				CHECK(i / m == t, "%zu x %zu: dimension %zu of sub-quantiser %zu is vector %zu", m, dsub, t, j, i);
				sum += i;
			}
			least = sum < least ? sum : least;
			largest = sum > largest ? sum : largest;
		}
		CHECK(largest - least <= (dsub % 2 == 0 ? 0 : m - 1), "%zu x %zu: sums are from %zu to %zu", m, dsub, least, largest);
		close_arrangement(&arrangement);
	}
}

/* An index is to be the same wherever it is built, but for the last bits of floats */
static void
test_tables_of_kernels_mix_vectors_alike(void)
{
	Arrangement want = arrange_axes(&vq_kernels_scalar, 43, 2, 90);

	for (size_t table = 0; vq_kernels_all[table] != NULL; table++)
	{
		Arrangement got;

		if (!vq_kernels_supported(vq_kernels_all[table]))
			continue;
		got = arrange_axes(vq_kernels_all[table], 43, 2, 90);
		for (size_t i = 0; i < 86 * 90; i++)
			CHECK(fabsf(got.directions[i] - want.directions[i]) < 1e-5f, "%s: got %g, want %g at %zu",
				  vq_kernels_all[table]->name, got.directions[i], want.directions[i], i);
		close_arrangement(&got);
	}
	close_arrangement(&want);
}

void
suite_vq_project(void)
{
	RUN_TEST(test_image_has_directions_within_half_a_step);
	RUN_TEST(test_unpacked_directions_are_those_of_the_bytes);
	RUN_TEST(test_zero_direction_projects_to_zero);
	RUN_TEST(test_image_with_a_bad_step_is_refused);
	RUN_TEST(test_projection_agrees_with_doubles);
	RUN_TEST(test_back_projection_is_the_transpose);
	RUN_TEST(test_every_vector_is_arranged_once);
	RUN_TEST(test_arranged_directions_stay_orthonormal);
	RUN_TEST(test_first_half_is_mixed_with_itself_and_the_second_not_at_all);
	RUN_TEST(test_sub_quantisers_get_vectors_from_all_parts_of_the_order);
	RUN_TEST(test_tables_of_kernels_mix_vectors_alike);
}
