/*-------------------------------------------------------------------------
 *
 * test_vq_panels.c
 *	  The nearest of two candidates is the nearest of all, or nearly so, and
 *	  garbage chooses no centroid that does not exist.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"
#include "tables.h"

#include "kernels/vq_kmeans.h"
#include "kernels/vq_panels.h"
#include "kernels/vq_rng.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* How far distances may be off, as a share of them: from differences, and of rounded vectors */
#define EXACT	1e-5
#define ROUNDED 0.01

/* Rows and centroids, all in memory, and the results */
typedef struct Fixture
{
	const VqKernels *kernels;
	size_t		nrows;
	size_t		ncentroids;
	size_t		dim;
	float	   *rows;
	float	   *centroids;
	void	   *memory;
	void	   *work;
	uint32_t   *labels;
	float	   *distances;
	VqPanels	panels;
} Fixture;

/* Every coordinate is shift plus something in [-1, 1) */
static void
fixture_open(Fixture *fixture, const VqKernels *kernels, size_t nrows, size_t ncentroids, size_t dim, float shift)
{
	VqRng		rng;

	vq_rng_seed(&rng, 31);
	fixture->kernels = kernels;
	fixture->nrows = nrows;
	fixture->ncentroids = ncentroids;
	fixture->dim = dim;
	fixture->rows = malloc(nrows * dim * sizeof(float));
	fixture->centroids = malloc(ncentroids * dim * sizeof(float));
	for (size_t i = 0; i < nrows * dim; i++)
		fixture->rows[i] = shift + (float) (2 * vq_rng_double(&rng) - 1);
	for (size_t i = 0; i < ncentroids * dim; i++)
		fixture->centroids[i] = shift + (float) (2 * vq_rng_double(&rng) - 1);
	fixture->memory = malloc(vq_panels_bytes(ncentroids, dim));
	fixture->work = malloc(vq_panels_work_bytes(ncentroids, dim));
	fixture->labels = malloc(nrows * sizeof(uint32_t));
	fixture->distances = malloc(nrows * sizeof(float));
}

static void
fixture_close(Fixture *fixture)
{
	free(fixture->rows);
	free(fixture->centroids);
	free(fixture->memory);
	free(fixture->work);
	free(fixture->labels);
	free(fixture->distances);
}

static void
fixture_assign(Fixture *fixture)
{
	vq_panels_pack(fixture->kernels, fixture->centroids, fixture->ncentroids, fixture->dim, fixture->memory,
				   &fixture->panels);
	vq_panels_assign(fixture->kernels, &fixture->panels, fixture->rows, fixture->nrows, fixture->work,
					 fixture->labels, fixture->distances);
}

static double
distance_between(const Fixture *fixture, size_t row, size_t centroid)
{
	double		distance = 0;

	for (size_t i = 0; i < fixture->dim; i++)
	{
		double		difference = (double) fixture->rows[row * fixture->dim + i] -
			fixture->centroids[centroid * fixture->dim + i];

		distance += difference * difference;
	}
	return distance;
}

/* Distances are right to that share of them, and no more than a few rows miss their nearest centroid, by next to nothing */
static void
check_labels(const Fixture *fixture, const char *what, double precision)
{
	size_t		nwrong = 0;

	for (size_t i = 0; i < fixture->nrows; i++)
	{
		double		got;
		double		nearest = INFINITY;

		CHECK(fixture->labels[i] < fixture->ncentroids, "%s: row %zu has label %u", what, i, fixture->labels[i]);
		if (fixture->labels[i] >= fixture->ncentroids)
			continue;
		got = distance_between(fixture, i, fixture->labels[i]);
		for (size_t j = 0; j < fixture->ncentroids; j++)
			nearest = fmin(nearest, distance_between(fixture, i, j));
		CHECK(fabs(fixture->distances[i] - got) <= precision * got, "%s: row %zu: got %g, want %g",
			  what, i, fixture->distances[i], got);
		CHECK(got <= nearest * 1.02, "%s: row %zu: %g away, nearest %g", what, i, got, nearest);
		nwrong += got > nearest * (1 + 1e-6);
	}
	CHECK(nwrong * 100 <= fixture->nrows, "%s: %zu of %zu are not with the nearest", what, nwrong, fixture->nrows);
}

static void
test_panels_find_the_nearest_and_its_distance(void)
{
	static const size_t shapes[][3] = {
		/* rows, centroids, dim */
		{1, 1, 1}, {5, 1, 9}, {30, 2, 2}, {100, 15, 33}, {97, 16, 31}, {24, 17, 32}, {300, 48, 20},
		{200, 63, 64}, {130, 65, 7}, {50, 130, 300}, {60, 3000, 5},
	};

	for (size_t t = 0; table_at(t) != NULL; t++)
		for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		{
			Fixture		fixture;

			fixture_open(&fixture, table_at(t), shapes[i][0], shapes[i][1], shapes[i][2], 0);
			fixture_assign(&fixture);
			check_labels(&fixture, table_at(t)->name, EXACT);
			fixture_close(&fixture);
		}
}

/* Rows in bytes alone, about an origin that the centroids have left */
static void
test_rounded_rows_find_nearly_the_nearest(void)
{
	static const size_t shapes[][3] = {{1, 1, 1}, {130, 15, 33}, {200, 63, 64}, {300, 48, 20}, {50, 130, 300}};

	for (size_t t = 0; table_at(t) != NULL; t++)
		for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		{
			size_t		nrows = shapes[i][0];
			size_t		dim = shapes[i][2];
			uint8_t    *bytes = malloc(nrows * vq_panels_row_bytes(dim));
			float	   *steps = malloc(nrows * sizeof(float));
			float	   *squares = malloc(nrows * sizeof(float));
			float	   *origin = malloc(dim * sizeof(float));
			Fixture		fixture;

			fixture_open(&fixture, table_at(t), nrows, shapes[i][1], dim, 30);
			for (size_t d = 0; d < dim; d++)
				origin[d] = 30.25f;
			vq_panels_round(table_at(t), origin, fixture.rows, nrows, dim, bytes, steps);
			for (size_t r = 0; r < nrows; r++)
				squares[r] = vq_kernels_scalar.l2sq_f32(fixture.rows + r * dim, origin, dim);
			vq_panels_pack_about(table_at(t), origin, fixture.centroids, fixture.ncentroids, dim, fixture.memory,
								 &fixture.panels);
			vq_panels_label(table_at(t), &fixture.panels, &(VqRoundedRows) {fixture.rows, bytes, steps}, squares, nrows,
							fixture.work, fixture.labels, fixture.distances);
			for (size_t r = 0; r < nrows; r++)
			{
				double		got = distance_between(&fixture, r, fixture.labels[r]);
				double		nearest = INFINITY;

				for (size_t j = 0; j < fixture.ncentroids; j++)
					nearest = fmin(nearest, distance_between(&fixture, r, j));
				CHECK(got <= nearest + 0.01 * squares[r], "%s %zu: row %zu: %g away, nearest %g", table_at(t)->name, i, r,
					  got, nearest);
				CHECK(fabs(fixture.distances[r] - got) <= 0.02 * squares[r] + 1e-6, "%s %zu: row %zu: got %g, want %g",
					  table_at(t)->name, i, r, fixture.distances[r], got);
			}
			fixture_close(&fixture);
			free(bytes);
			free(steps);
			free(squares);
			free(origin);
		}
}

/* Rows nearly in the middle between all centroids: what rounding does to these moves one in twenty, if scores alone decide */
static void
test_exact_distances_decide_where_rounding_may_have(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		size_t		nrows = 1000;
		size_t		dim = 64;
		uint8_t    *bytes = malloc(nrows * vq_panels_row_bytes(dim));
		float	   *steps = malloc(nrows * sizeof(float));
		float	   *squares = malloc(nrows * sizeof(float));
		float	   *origin = calloc(dim, sizeof(float));
		size_t		nwrong = 0;
		Fixture		fixture;

		fixture_open(&fixture, table_at(t), nrows, 16, dim, 0);
		for (size_t i = 0; i < nrows * dim; i++)
			fixture.rows[i] *= 0.05f;
		vq_panels_round(table_at(t), origin, fixture.rows, nrows, dim, bytes, steps);
		for (size_t r = 0; r < nrows; r++)
			squares[r] = vq_kernels_scalar.l2sq_f32(fixture.rows + r * dim, origin, dim);
		vq_panels_pack_about(table_at(t), origin, fixture.centroids, fixture.ncentroids, dim, fixture.memory, &fixture.panels);
		vq_panels_label(table_at(t), &fixture.panels, &(VqRoundedRows) {fixture.rows, bytes, steps}, squares, nrows,
						fixture.work, fixture.labels, fixture.distances);
		for (size_t r = 0; r < nrows; r++)
		{
			double		got = distance_between(&fixture, r, fixture.labels[r]);

			for (size_t j = 0; j < fixture.ncentroids; j++)
				if (distance_between(&fixture, r, j) < got * (1 - 1e-6))
				{
					nwrong++;
					break;
				}
		}
		CHECK(nwrong * 100 <= nrows, "%s: %zu of %zu are not with the nearest", table_at(t)->name, nwrong, nrows);
		fixture_close(&fixture);
		free(bytes);
		free(steps);
		free(squares);
		free(origin);
	}
}

/* Rounded as they are, these would all be equal */
static void
test_what_centroids_have_in_common_costs_no_precision(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;

		fixture_open(&fixture, table_at(t), 200, 40, 16, 300);
		fixture_assign(&fixture);
		check_labels(&fixture, table_at(t)->name, EXACT);
		fixture_close(&fixture);
	}
}

static void
test_a_row_goes_where_it_goes_alone(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;
		uint32_t	labels[250];
		float		distances[250];

		fixture_open(&fixture, table_at(t), 250, 70, 50, 0);
		fixture_assign(&fixture);
		memcpy(labels, fixture.labels, sizeof(labels));
		memcpy(distances, fixture.distances, sizeof(distances));
		for (size_t i = 0; i < 240; i += 7)
		{
			size_t		count = 1 + i % 9;

			vq_panels_assign(fixture.kernels, &fixture.panels, fixture.rows + i * fixture.dim, count, fixture.work,
							 fixture.labels, fixture.distances);
			for (size_t k = 0; k < count; k++)
				CHECK(fixture.labels[k] == labels[i + k] && fixture.distances[k] == distances[i + k],
					  "%s: row %zu: %u at %g, want %u at %g", table_at(t)->name, i + k,
					  fixture.labels[k], fixture.distances[k], labels[i + k], distances[i + k]);
		}
		fixture_close(&fixture);
	}
}

static void
test_panels_take_the_lower_of_equal_centroids(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;

		fixture_open(&fixture, table_at(t), 40, 20, 10, 0);
		memcpy(fixture.centroids + 10 * 10, fixture.centroids, 10 * 10 * sizeof(float));
		fixture_assign(&fixture);
		for (size_t i = 0; i < fixture.nrows; i++)
			CHECK(fixture.labels[i] < 10, "%s: row %zu: got %u", table_at(t)->name, i, fixture.labels[i]);
		fixture_close(&fixture);
	}
}

static void
test_scores_order_centroids_by_distance(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;
		float	   *scores;
		size_t		ncolumns = vq_panels_columns(50);

		fixture_open(&fixture, table_at(t), 110, 50, 40, 0);
		scores = malloc(110 * ncolumns * sizeof(float));
		fixture_assign(&fixture);
		vq_panels_scores(fixture.kernels, &fixture.panels, fixture.rows, 110, fixture.work, scores);
		for (size_t i = 0; i < 110; i++)
		{
			const float *row_scores = scores + i * ncolumns;
			double		first = distance_between(&fixture, i, 0);

			for (size_t j = 1; j < 50; j++)
			{
				double		want = (first - distance_between(&fixture, i, j)) / 2;

				/* |row - origin| and |centroid - origin| are below sqrt(40) * 2 and sqrt(40) */
				CHECK(fabs(row_scores[j] - row_scores[0] - want) < 80.0 / 256, "%s: row %zu centroid %zu: got %g, want %g",
					  table_at(t)->name, i, j, row_scores[j] - row_scores[0], want);
			}
			for (size_t j = 50; j < ncolumns; j++)
				CHECK(row_scores[j] == -INFINITY, "%s: got %g", table_at(t)->name, row_scores[j]);
		}
		free(scores);
		fixture_close(&fixture);
	}
}

/*
 * By panels of so many centroids each, of some rows; all are rounded about the mean of the centroids and so much
 * in every coordinate.  Returns how many panels took rows that were.
 */
static size_t
fixture_decide(Fixture *fixture, size_t part, float away, const uint32_t *row_nos, size_t nrows)
{
	size_t		dim = fixture->dim;
	VqNearest  *nearest = malloc(fixture->nrows * sizeof(VqNearest));
	float	   *frame = malloc(dim * sizeof(float));
	float	   *work = malloc(2 * (fixture->ncentroids + dim) * sizeof(float));
	float	   *squares = malloc(nrows * sizeof(float));
	uint8_t    *bytes = malloc(fixture->nrows * vq_panels_row_bytes(dim));
	float	   *steps = malloc(fixture->nrows * sizeof(float));
	VqRoundedRows rounded = {fixture->rows, bytes, steps};
	size_t		ntake = 0;

	vq_kmeans_centre(fixture->kernels, fixture->centroids, fixture->ncentroids, dim, work, frame);
	for (size_t i = 0; i < dim; i++)
		frame[i] += away;
	vq_panels_round(fixture->kernels, frame, fixture->rows, fixture->nrows, dim, bytes, steps);
	for (size_t i = 0; i < fixture->nrows; i++)
		nearest[i] = VQ_NEAREST_INIT;
	for (size_t first = 0; first < fixture->ncentroids; first += part)
	{
		size_t		count = fixture->ncentroids - first < part ? fixture->ncentroids - first : part;

		vq_panels_pack(fixture->kernels, fixture->centroids + first * dim, count, dim, fixture->memory, &fixture->panels);
		vq_panels_move(fixture->kernels, &fixture->panels, frame, work);
		ntake += fixture->panels.takes_frame;
		for (size_t i = 0; i < nrows; i++)
			squares[i] = fixture->kernels->l2sq_f32(fixture->rows + row_nos[i] * dim, fixture->panels.origin, dim);
		vq_panels_nearest(fixture->kernels, &fixture->panels, (uint32_t) first, &rounded, row_nos, squares, nrows,
						  fixture->work, nearest);
	}
	vq_panels_decide(fixture->kernels, fixture->centroids, dim, fixture->rows, fixture->nrows, nearest,
					 fixture->labels, fixture->distances);
	free(nearest);
	free(frame);
	free(work);
	free(squares);
	free(bytes);
	free(steps);
	return ntake;
}

static const uint32_t *
all_rows(void)
{
	static uint32_t numbers[150];

	for (uint32_t i = 0; i < 150; i++)
		numbers[i] = i;
	return numbers;
}

static void
test_the_nearest_of_several_panels_is_found(void)
{
	static const size_t parts[] = {16, 70, 129};

	for (size_t t = 0; table_at(t) != NULL; t++)
		for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		{
			Fixture		fixture;
			size_t		npanels = (129 + parts[i] - 1) / parts[i];
			size_t		ntake;

			fixture_open(&fixture, table_at(t), 150, 129, 100, 3);
			ntake = fixture_decide(&fixture, parts[i], 0, all_rows(), 150);
			check_labels(&fixture, table_at(t)->name, ROUNDED);
			CHECK(ntake + (129 % parts[i] == 1) == npanels, "%s: %zu of %zu took the frame", table_at(t)->name, ntake,
				  npanels);

			/* of equal ones the lower, though they are in different panels, where no third one is as near but for rounding */
			memcpy(fixture.centroids + 100 * 100, fixture.centroids, 29 * 100 * sizeof(float));
			for (size_t k = 0; k < 150 * 100; k++)
				fixture.rows[k] = (fixture.rows[k] + fixture.centroids[k % (129 * 100)]) / 2;
			fixture_decide(&fixture, parts[i], 0, all_rows(), 150);
			for (size_t row = 0; row < 150; row++)
				CHECK(fixture.labels[row] < 100, "%s: row %zu: got %u", table_at(t)->name, row, fixture.labels[row]);
			fixture_close(&fixture);
		}
}

/* So it is where the squares of squared distances are beyond float32 */
static void
test_the_nearest_of_huge_centroids_is_found(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;

		fixture_open(&fixture, table_at(t), 150, 129, 100, 3);
		for (size_t k = 0; k < 150 * 100; k++)
			fixture.rows[k] *= 1e12f;
		for (size_t k = 0; k < 129 * 100; k++)
			fixture.centroids[k] *= 1e12f;
		fixture_decide(&fixture, 30, 0, all_rows(), 150);
		check_labels(&fixture, table_at(t)->name, ROUNDED);
		fixture_close(&fixture);
	}
}

/* What one panel has of its own does not count against rows that are rounded about another place */
static void
test_a_frame_beside_the_panels_changes_no_label(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;
		size_t		ntake;

		fixture_open(&fixture, table_at(t), 150, 129, 100, 3);
		ntake = fixture_decide(&fixture, 30, 1, all_rows(), 150);
		CHECK(ntake == 5, "%s: %zu of 5 took the frame", table_at(t)->name, ntake);
		check_labels(&fixture, table_at(t)->name, ROUNDED);
		ntake = fixture_decide(&fixture, 30, 1000, all_rows(), 150);
		CHECK(ntake == 0, "%s: %zu took a frame far away", table_at(t)->name, ntake);
		check_labels(&fixture, table_at(t)->name, ROUNDED);
		fixture_close(&fixture);
	}
}

static void
test_rows_that_are_not_named_have_no_nearest(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;
		uint32_t	row_nos[3] = {149, 20, 77};
		uint32_t	labels[150];

		fixture_open(&fixture, table_at(t), 150, 60, 12, 0);
		fixture_decide(&fixture, 25, 0, all_rows(), 150);
		memcpy(labels, fixture.labels, sizeof(labels));
		fixture_decide(&fixture, 25, 0, row_nos, 3);
		for (size_t row = 0; row < 150; row++)
		{
			bool		is_named = row == 149 || row == 20 || row == 77;

			CHECK(fixture.labels[row] == (is_named ? labels[row] : 0), "%s: row %zu: got %u", table_at(t)->name,
				  row, fixture.labels[row]);
		}
		fixture_close(&fixture);
	}
}

/* Panels of several sizes are used with the workspace of the largest */
static void
test_fewer_centroids_need_no_more_workspace(void)
{
	for (size_t dim = 1; dim <= VQ_MAX_DIM; dim = dim * 5 + 3)
		for (size_t ncentroids = 16; ncentroids < 5000; ncentroids += 16)
			CHECK(vq_panels_work_bytes(ncentroids, dim) >= vq_panels_work_bytes(ncentroids - 16, dim),
				  "%zu centroids of %zu dimensions need %zu bytes, sixteen fewer %zu", ncentroids, dim,
				  vq_panels_work_bytes(ncentroids, dim), vq_panels_work_bytes(ncentroids - 16, dim));
}

static void
test_garbage_chooses_a_centroid_that_exists(void)
{
	static const float values[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e30f, 1e-40f};

	for (size_t t = 0; table_at(t) != NULL; t++)
		for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
			for (size_t ncentroids = 1; ncentroids < 20; ncentroids += 6)
			{
				Fixture		fixture;

				fixture_open(&fixture, table_at(t), 30, ncentroids, 6, 0);
				for (size_t k = 0; k < 30 * 6; k += 5)
					fixture.rows[k] = values[i];
				if (i % 2 == 0)
					fixture.centroids[2] = values[i];
				fixture_assign(&fixture);
				for (size_t row = 0; row < 30; row++)
					CHECK(fixture.labels[row] < ncentroids, "%s: label %u of %zu", table_at(t)->name,
						  fixture.labels[row], ncentroids);
				fixture_decide(&fixture, 7, 0, all_rows(), 30);
				for (size_t row = 0; row < 30; row++)
					CHECK(fixture.labels[row] < ncentroids, "%s: label %u of %zu of several panels",
						  table_at(t)->name, fixture.labels[row], ncentroids);
				fixture_close(&fixture);
			}
}

void
suite_vq_panels(void)
{
	RUN_TEST(test_panels_find_the_nearest_and_its_distance);
	RUN_TEST(test_rounded_rows_find_nearly_the_nearest);
	RUN_TEST(test_exact_distances_decide_where_rounding_may_have);
	RUN_TEST(test_what_centroids_have_in_common_costs_no_precision);
	RUN_TEST(test_a_row_goes_where_it_goes_alone);
	RUN_TEST(test_panels_take_the_lower_of_equal_centroids);
	RUN_TEST(test_scores_order_centroids_by_distance);
	RUN_TEST(test_the_nearest_of_several_panels_is_found);
	RUN_TEST(test_the_nearest_of_huge_centroids_is_found);
	RUN_TEST(test_a_frame_beside_the_panels_changes_no_label);
	RUN_TEST(test_rows_that_are_not_named_have_no_nearest);
	RUN_TEST(test_fewer_centroids_need_no_more_workspace);
	RUN_TEST(test_garbage_chooses_a_centroid_that_exists);
}
