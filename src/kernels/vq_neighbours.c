/*-------------------------------------------------------------------------
 *
 * vq_neighbours.c
 *	  The nearest rows of some hundred queries, of rows that pass by.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_neighbours.h"

#include <math.h>
#include <string.h>

/* Rows whose scores are in the processor's cache together, and queries that are looked at with one branch */
#define SCORED_ROWS		48
#define SIDE_BY_SIDE	16

/*
 * Rounding to bytes moves a squared distance by about .065 / sqrt(dim) of the squared lengths (of each, |x| and |q|, the
 * half; steps are a 63rd of the largest of numbers that are about normal): four times that is compared exactly, so that
 * what is found hardly depends on the order of rows.  Products of a library are off by less than the other.
 */
#define BYTE_ROUNDING	0.26f
#define FLOAT_ROUNDING	1e-5f

size_t
vq_neighbours_bytes(size_t nqueries, size_t dim)
{
	size_t		ncolumns = vq_panels_columns(nqueries);

	return nqueries * (VQ_NEIGHBOURS * sizeof(VqNeighbour) + sizeof(float)) +
		(1 + SCORED_ROWS) * ncolumns * sizeof(float) + dim * sizeof(float) +
		vq_panels_bytes(nqueries, dim) + vq_panels_work_bytes(nqueries, dim);
}

/* The margin of a query, by its last neighbour */
static void
set_margin(VqNeighbours *neighbours, size_t query)
{
	const float *q = neighbours->queries + query * neighbours->dim;
	float		norm_sq = neighbours->norms_sq[query];
	float		last = vq_neighbours_of(neighbours, query)[VQ_NEIGHBOURS - 1].value;
	float		margin = neighbours->metric == VQ_METRIC_IP ? last + norm_sq / 2 : last / 2;

	if (!neighbours->kernels->is_u8_fast)
		margin -= norm_sq / 2;
	neighbours->margins[query] = margin +
		neighbours->rounding / 2 * neighbours->kernels->l2sq_f32(q, neighbours->origin, neighbours->dim);
}

static float
limit_of(const VqNeighbours *neighbours, const float *row)
{
	const VqKernels *kernels = neighbours->kernels;
	size_t		dim = neighbours->dim;
	float		limit = kernels->l2sq_f32(row, neighbours->origin, dim) * (1 - neighbours->rounding) / 2;

	return neighbours->metric == VQ_METRIC_IP ? limit - kernels->ip_f32(row, row, dim) / 2 : limit;
}

static bool
is_copy(const VqNeighbours *neighbours, size_t query)
{
	const float *queries = neighbours->queries;
	size_t		dim = neighbours->dim;

	for (size_t earlier = 0; earlier < query; earlier++)
		if (neighbours->norms_sq[earlier] == neighbours->norms_sq[query] &&
			memcmp(queries + earlier * dim, queries + query * dim, dim * sizeof(float)) == 0)
			return true;
	return false;
}

/* Panels of queries, or an origin of zeroes, which products of a library have */
static void
begin_scores(VqNeighbours *neighbours, char *memory)
{
	size_t		nqueries = neighbours->nqueries;
	size_t		dim = neighbours->dim;

	if (neighbours->kernels->is_u8_fast && nqueries > 0)
	{
		vq_panels_pack(neighbours->kernels, neighbours->queries, nqueries, dim, memory, &neighbours->panels);
		neighbours->origin = neighbours->panels.origin;
		neighbours->ncolumns = vq_panels_columns(nqueries);
		neighbours->rounding = BYTE_ROUNDING / sqrtf((float) dim);
		neighbours->work = memory + vq_panels_bytes(nqueries, dim);
		return;
	}
	memset(memory, 0, dim * sizeof(float));
	neighbours->origin = (const float *) memory;
	neighbours->ncolumns = nqueries;
	neighbours->rounding = FLOAT_ROUNDING;
	neighbours->work = NULL;
}

void
vq_neighbours_init(VqNeighbours *neighbours, const VqKernels *kernels, const VqBlas *blas, VqMetric metric,
				   const float *queries, size_t nqueries, size_t dim, void *memory)
{
	size_t		most_columns = vq_panels_columns(nqueries);

	neighbours->kernels = kernels;
	neighbours->blas = blas;
	neighbours->metric = metric;
	neighbours->dim = dim;
	neighbours->nqueries = nqueries;
	neighbours->queries = queries;
	neighbours->nearest = memory;
	neighbours->norms_sq = (float *) (neighbours->nearest + nqueries * VQ_NEIGHBOURS);
	neighbours->margins = neighbours->norms_sq + nqueries;
	neighbours->scores = neighbours->margins + most_columns;
	begin_scores(neighbours, (char *) (neighbours->scores + SCORED_ROWS * most_columns));

	for (size_t i = 0; i < nqueries * VQ_NEIGHBOURS; i++)
		neighbours->nearest[i] = (VqNeighbour) {INFINITY, 0};
	for (size_t q = 0; q < most_columns; q++)
		neighbours->margins[q] = -INFINITY;
	for (size_t q = 0; q < nqueries; q++)
	{
		neighbours->norms_sq[q] = kernels->ip_f32(queries + q * dim, queries + q * dim, dim);
		if (!is_copy(neighbours, q))
			neighbours->margins[q] = INFINITY;
	}
}

bool
vq_neighbours_add(VqNeighbours *neighbours, size_t query, VqNeighbour neighbour)
{
	VqNeighbour *nearest = neighbours->nearest + query * VQ_NEIGHBOURS;
	size_t		i = VQ_NEIGHBOURS;

	while (i > 0 && (neighbour.value < nearest[i - 1].value ||
					 (neighbour.value == nearest[i - 1].value && neighbour.place < nearest[i - 1].place)))
		i--;
	if (i == VQ_NEIGHBOURS)
		return false;
	memmove(nearest + i + 1, nearest + i, (VQ_NEIGHBOURS - 1 - i) * sizeof(VqNeighbour));
	nearest[i] = neighbour;
	set_margin(neighbours, query);
	return true;
}

/* A row that may be near a query */
static void
compare(VqNeighbours *neighbours, size_t query, const float *row, uint32_t place)
{
	size_t		dim = neighbours->dim;
	const float *q = neighbours->queries + query * dim;
	float		distance_sq = neighbours->kernels->l2sq_f32(row, q, dim);

	if (!(distance_sq > 0))
		return;
	(void) vq_neighbours_add(neighbours, query, (VqNeighbour) {
		neighbours->metric == VQ_METRIC_IP ? -neighbours->kernels->ip_f32(row, q, dim) : distance_sq, place
	});
}

/* Whether any of SIDE_BY_SIDE scores may be of a near query */
static bool
any_above(const float *scores, const float *margins, float limit)
{
	int			any = 0;

	for (size_t i = 0; i < SIDE_BY_SIDE; i++)
		any |= scores[i] + margins[i] > limit;
	return any != 0;
}

/* One row, by its scores */
static void
offer_row(VqNeighbours *neighbours, const float *row, const float *scores, uint32_t place)
{
	const float *margins = neighbours->margins;
	float		limit = limit_of(neighbours, row);

	for (size_t first = 0; first < neighbours->nqueries; first += SIDE_BY_SIDE)
	{
		size_t		end = first + SIDE_BY_SIDE;

		if (end > neighbours->nqueries)
			end = neighbours->nqueries;
		else if (!any_above(scores + first, margins + first, limit))
			continue;
		for (size_t q = first; q < end; q++)
			if (scores[q] + margins[q] > limit)
				compare(neighbours, q, row, place);
	}
}

void
vq_neighbours_offer(VqNeighbours *neighbours, const float *rows, size_t nrows, const uint32_t *places,
					const bool *left_out)
{
	size_t		dim = neighbours->dim;
	size_t		nqueries = neighbours->nqueries;

	if (nqueries == 0)
		return;
	for (size_t first = 0; first < nrows; first += SCORED_ROWS)
	{
		const float *some = rows + first * dim;
		size_t		count = nrows - first < SCORED_ROWS ? nrows - first : SCORED_ROWS;

		if (neighbours->kernels->is_u8_fast)
			vq_panels_scores(neighbours->kernels, &neighbours->panels, some, count, neighbours->work,
							 neighbours->scores);
		else
			neighbours->blas->products(count, nqueries, dim, some, neighbours->queries, neighbours->scores);
		for (size_t i = 0; i < count; i++)
			if (left_out == NULL || !left_out[first + i])
				offer_row(neighbours, some + i * dim, neighbours->scores + i * neighbours->ncolumns, places[first + i]);
	}
}
