/*-------------------------------------------------------------------------
 *
 * test_vq_neighbours.c
 *	  The neighbours that are kept are those of a comparison of all with all.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"
#include "tables.h"

#include "kernels/vq_neighbours.h"
#include "kernels/vq_rng.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Rows and queries, all in memory, and neighbours */
typedef struct Fixture
{
	const VqKernels *kernels;
	VqMetric	metric;
	size_t		nrows;
	size_t		nqueries;
	size_t		dim;
	float	   *rows;
	float	   *queries;
	uint32_t   *places;			/* 1000 + number of the row */
	bool	   *left_out;
	void	   *memory;
	VqNeighbours neighbours;
} Fixture;

static float
normal(VqRng *rng)
{
	double		sum = 0;

	for (int i = 0; i < 12; i++)
		sum += vq_rng_double(rng);
	return (float) (sum - 6);
}

static void
begin(Fixture *fixture)
{
	vq_neighbours_init(&fixture->neighbours, fixture->kernels, &vq_blas_builtin, fixture->metric, fixture->queries,
					   fixture->nqueries, fixture->dim, fixture->memory);
}

/* Every coordinate is shift plus something normal */
static void
fixture_open(Fixture *fixture, const VqKernels *kernels, VqMetric metric, size_t nrows, size_t nqueries, size_t dim, float shift)
{
	VqRng		rng;

	vq_rng_seed(&rng, 17);
	fixture->kernels = kernels;
	fixture->metric = metric;
	fixture->nrows = nrows;
	fixture->nqueries = nqueries;
	fixture->dim = dim;
	fixture->rows = malloc(nrows * dim * sizeof(float));
	fixture->queries = malloc(nqueries * dim * sizeof(float));
	fixture->places = malloc(nrows * sizeof(uint32_t));
	fixture->left_out = calloc(nrows, sizeof(bool));
	for (size_t i = 0; i < nrows * dim; i++)
		fixture->rows[i] = shift + normal(&rng);
	for (size_t i = 0; i < nqueries * dim; i++)
		fixture->queries[i] = shift + normal(&rng);
	for (size_t i = 0; i < nrows; i++)
		fixture->places[i] = (uint32_t) (1000 + i);
	fixture->memory = malloc(vq_neighbours_bytes(nqueries, dim));
	begin(fixture);
}

static void
fixture_close(Fixture *fixture)
{
	free(fixture->rows);
	free(fixture->queries);
	free(fixture->places);
	free(fixture->left_out);
	free(fixture->memory);
}

static void
offer(Fixture *fixture, size_t first, size_t count)
{
	vq_neighbours_offer(&fixture->neighbours, fixture->rows + first * fixture->dim, count, fixture->places + first,
						fixture->left_out + first);
}

static double
value_of(const Fixture *fixture, size_t query, size_t row)
{
	double		distance_sq = 0;
	double		product = 0;

	for (size_t i = 0; i < fixture->dim; i++)
	{
		double		q = fixture->queries[query * fixture->dim + i];
		double		x = fixture->rows[row * fixture->dim + i];

		distance_sq += (q - x) * (q - x);
		product += q * x;
	}
	return fixture->metric == VQ_METRIC_IP ? -product : distance_sq;
}

static int
compare_doubles(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/* Neighbours are rows at the distances of the nearest, by all rows that are not left out */
static void
check_neighbours(const Fixture *fixture, const char *what)
{
	double	   *values = malloc((fixture->nrows + VQ_NEIGHBOURS) * sizeof(double));

	for (size_t q = 0; q < fixture->nqueries; q++)
	{
		const VqNeighbour *nearest = vq_neighbours_of(&fixture->neighbours, q);
		double		scale = 0;
		size_t		n = 0;

		for (size_t i = 0; i < fixture->nrows; i++)
			if (!fixture->left_out[i])
				values[n++] = value_of(fixture, q, i);
		for (size_t i = 0; i < n; i++)
			scale = fmax(scale, fabs(values[i]));
		for (size_t i = 0; i < VQ_NEIGHBOURS; i++)
			values[n++] = INFINITY;
		qsort(values, n, sizeof(double), compare_doubles);
		for (size_t i = 0; i < VQ_NEIGHBOURS; i++)
		{
			if (isinf(values[i]))
			{
				CHECK(isinf(nearest[i].value), "%s: query %zu has neighbour %zu", what, q, i);
				continue;
			}
			CHECK(fabs(nearest[i].value - values[i]) <= 1e-4 * scale, "%s: query %zu, neighbour %zu: got %g, want %g",
				  what, q, i, nearest[i].value, values[i]);
			CHECK(!isinf(nearest[i].value) && fabs(value_of(fixture, q, nearest[i].place - 1000) - values[i]) <= 1e-4 * scale,
				  "%s: query %zu, neighbour %zu is row %u", what, q, i, nearest[i].place);
		}
	}
	free(values);
}

/* Once a query has its neighbours, rows that are far are not compared with it */
static void
test_far_rows_are_not_compared(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;

		fixture_open(&fixture, table_at(t), VQ_METRIC_L2, 100, 20, 64, 0);
		offer(&fixture, 0, VQ_NEIGHBOURS - 1);
		for (size_t q = 0; q < 20; q++)
			CHECK(isinf(fixture.neighbours.margins[q]), "%s: nine neighbours leave no room", table_at(t)->name);
		offer(&fixture, VQ_NEIGHBOURS - 1, 50);
		for (size_t q = 0; q < 20; q++)
			CHECK(isfinite(fixture.neighbours.margins[q]), "%s: all rows are compared with query %zu", table_at(t)->name, q);
		fixture_close(&fixture);
	}
}

static const VqMetric metrics[] = {VQ_METRIC_L2, VQ_METRIC_IP, VQ_METRIC_COSINE};

static void
test_neighbours_are_the_nearest_of_all_rows(void)
{
	static const size_t shapes[][3] = {
		/* rows, queries, dim */
		{1, 1, 1}, {9, 3, 4}, {10, 16, 7}, {47, 15, 2}, {100, 17, 33}, {500, 100, 20}, {300, 48, 128}, {2000, 31, 12},
	};

	for (size_t t = 0; table_at(t) != NULL; t++)
		for (size_t m = 0; m < 3; m++)
			for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
			{
				Fixture		fixture;

				fixture_open(&fixture, table_at(t), metrics[m], shapes[i][0], shapes[i][1], shapes[i][2], 0);
				offer(&fixture, 0, fixture.nrows);
				check_neighbours(&fixture, table_at(t)->name);
				fixture_close(&fixture);
			}
}

/* What all rows and queries have in common makes steps of bytes no larger */
static void
test_vectors_far_from_zero_have_their_neighbours(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
		for (size_t m = 0; m < 3; m++)
		{
			Fixture		fixture;

			fixture_open(&fixture, table_at(t), metrics[m], 400, 20, 24, 50);
			offer(&fixture, 0, fixture.nrows);
			check_neighbours(&fixture, table_at(t)->name);
			fixture_close(&fixture);
		}
}

static void
test_it_does_not_matter_how_rows_come(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;
		VqNeighbour at_once[12 * VQ_NEIGHBOURS];

		fixture_open(&fixture, table_at(t), VQ_METRIC_L2, 600, 12, 40, 0);

		/* rows that are as near as others */
		for (size_t i = 300; i < 600; i++)
			memcpy(fixture.rows + i * 40, fixture.rows + (i - 300) * 40, 40 * sizeof(float));
		offer(&fixture, 0, fixture.nrows);
		check_neighbours(&fixture, table_at(t)->name);
		memcpy(at_once, fixture.neighbours.nearest, sizeof(at_once));
		for (size_t i = 1; i < 12 * VQ_NEIGHBOURS; i++)
			CHECK(i % VQ_NEIGHBOURS == 0 || at_once[i - 1].value < at_once[i].value || at_once[i - 1].place < at_once[i].place,
				  "%s: row %u before row %u, which is as near", table_at(t)->name, at_once[i - 1].place, at_once[i].place);
		begin(&fixture);
		for (size_t i = fixture.nrows; i-- > 0;)
			offer(&fixture, i, 1);
		for (size_t i = 0; i < 12 * VQ_NEIGHBOURS; i++)
			CHECK(fixture.neighbours.nearest[i].place == at_once[i].place, "%s: %zu: row %u, and %u before", table_at(t)->name, i,
				  fixture.neighbours.nearest[i].place, at_once[i].place);
		fixture_close(&fixture);
	}
}

static void
test_neighbours_of_parts_are_those_of_all(void)
{
	Fixture		fixture;
	VqNeighbour part[12 * VQ_NEIGHBOURS];

	fixture_open(&fixture, vq_kernels_all[0], VQ_METRIC_L2, 600, 12, 40, 0);
	fixture.kernels = table_at(0);
	begin(&fixture);
	offer(&fixture, 0, 251);
	memcpy(part, fixture.neighbours.nearest, sizeof(part));
	begin(&fixture);
	offer(&fixture, 251, 349);
	for (size_t i = 0; i < 12 * VQ_NEIGHBOURS; i++)
		(void) vq_neighbours_add(&fixture.neighbours, i / VQ_NEIGHBOURS, part[i]);
	check_neighbours(&fixture, "two parts");
	fixture_close(&fixture);
}

static void
test_copies_are_no_neighbours(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
		for (size_t m = 0; m < 3; m++)
		{
			Fixture		fixture;
			size_t		bytes = 30 * sizeof(float);

			fixture_open(&fixture, table_at(t), metrics[m], 200, 9, 30, 0);
			for (size_t q = 0; q < 9; q++)
				memcpy(fixture.queries + q * 30, fixture.rows + q * 20 * 30, bytes);
			memcpy(fixture.queries + 6 * 30, fixture.queries + 2 * 30, bytes);
			begin(&fixture);
			offer(&fixture, 0, fixture.nrows);
			for (size_t q = 0; q < 9; q++)
				for (size_t i = 0; i < VQ_NEIGHBOURS; i++)
				{
					VqNeighbour neighbour = vq_neighbours_of(&fixture.neighbours, q)[i];

					CHECK(isinf(neighbour.value) == (q == 6), "%s: query %zu, neighbour %zu: %g", table_at(t)->name, q, i,
						  neighbour.value);
					CHECK(q == 6 || neighbour.place != 1000 + q * 20, "%s: query %zu is its own neighbour", table_at(t)->name, q);
				}
			fixture_close(&fixture);
		}
}

static void
test_rows_that_are_left_out_are_no_neighbours(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;

		fixture_open(&fixture, table_at(t), VQ_METRIC_L2, 150, 5, 16, 0);
		for (size_t i = 3; i < 150; i += 7)
			fixture.left_out[i] = true;
		offer(&fixture, 0, fixture.nrows);
		check_neighbours(&fixture, table_at(t)->name);
		fixture_close(&fixture);
	}
}

static void
test_no_query_and_no_row_are_legal(void)
{
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		Fixture		fixture;

		fixture_open(&fixture, table_at(t), VQ_METRIC_L2, 3, 0, 8, 0);
		offer(&fixture, 0, 3);
		fixture_close(&fixture);
		fixture_open(&fixture, table_at(t), VQ_METRIC_L2, 3, 2, 8, 0);
		offer(&fixture, 0, 0);
		CHECK(isinf(vq_neighbours_of(&fixture.neighbours, 1)[0].value), "%s: a neighbour of no rows", table_at(t)->name);
		fixture_close(&fixture);
	}
}

void
suite_vq_neighbours(void)
{
	RUN_TEST(test_neighbours_are_the_nearest_of_all_rows);
	RUN_TEST(test_vectors_far_from_zero_have_their_neighbours);
	RUN_TEST(test_it_does_not_matter_how_rows_come);
	RUN_TEST(test_far_rows_are_not_compared);
	RUN_TEST(test_neighbours_of_parts_are_those_of_all);
	RUN_TEST(test_copies_are_no_neighbours);
	RUN_TEST(test_rows_that_are_left_out_are_no_neighbours);
	RUN_TEST(test_no_query_and_no_row_are_legal);
}
