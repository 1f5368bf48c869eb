/*-------------------------------------------------------------------------
 *
 * ivfpq_neighbours.c
 *	  The nearest rows of a few hundred queries, while a build passes over rows.
 *
 * Each row is compared with all queries by products of bytes (vq_panels.h), or of a
 * library where the processor has no fast ones; those that may be near are compared
 * exactly.  So it costs a build a few hundredths of its time, and no further pass.
 *
 * Copies of a query are no neighbours, the query's own row among them: they say
 * nothing of where other rows are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_train.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

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

struct IvfpqNeighbours
{
	VqMetric	metric;
	size_t		dim;
	size_t		nqueries;
	const float *queries;		/* [nqueries][dim], the caller's */
	float	   *norms_sq;		/* [nqueries] */
	IvfpqNeighbour *nearest;	/* [nqueries][IVFPQ_NEIGHBOURS] */

	/*
	 * A row x may be nearer than the last neighbour of query q if scores[q] + margins[q] > limit_of(x).
	 * Scores are -|x - q|^2 / 2 + |x - origin|^2 / 2, for products of a library <x, q>.
	 */
	float	   *margins;		/* [ncolumns], minus infinity for what takes no neighbours */
	float		rounding;		/* of |x - origin|^2 and |q - origin|^2 each */

	VqPanels	panels;			/* of queries, if products of bytes are fast */
	bool		has_panels;
	const float *origin;		/* [dim] */
	size_t		ncolumns;
	void	   *memory;			/* of panels */
	void	   *work;
	float	   *scores;			/* [SCORED_ROWS][ncolumns] */
};

static IvfpqNeighbour *
nearest_of(const IvfpqNeighbours *neighbours, size_t query)
{
	return neighbours->nearest + query * IVFPQ_NEIGHBOURS;
}

const IvfpqNeighbour *
ivfpq_neighbours_of(const IvfpqNeighbours *neighbours, size_t query)
{
	return nearest_of(neighbours, query);
}

/* The margin of a query, by its last neighbour */
static void
set_margin(IvfpqNeighbours *neighbours, size_t query)
{
	const float *q = neighbours->queries + query * neighbours->dim;
	float		norm_sq = neighbours->norms_sq[query];
	float		last = nearest_of(neighbours, query)[IVFPQ_NEIGHBOURS - 1].value;
	float		margin = neighbours->metric == VQ_METRIC_IP ? last + norm_sq / 2 : last / 2;

	if (!neighbours->has_panels)
		margin -= norm_sq / 2;
	neighbours->margins[query] = margin +
		neighbours->rounding / 2 * vq_kernels->l2sq_f32(q, neighbours->origin, neighbours->dim);
}

static float
limit_of(const IvfpqNeighbours *neighbours, const float *row)
{
	size_t		dim = neighbours->dim;
	float		distance_sq = vq_kernels->l2sq_f32(row, neighbours->origin, dim);
	float		limit = distance_sq * (1 - neighbours->rounding) / 2;

	return neighbours->metric == VQ_METRIC_IP ? limit - vq_kernels->ip_f32(row, row, dim) / 2 : limit;
}

/* Queries that are equal to an earlier one take no neighbours */
static bool
is_copy(const IvfpqNeighbours *neighbours, size_t query)
{
	const float *queries = neighbours->queries;
	size_t		dim = neighbours->dim;

	for (size_t earlier = 0; earlier < query; earlier++)
		if (neighbours->norms_sq[earlier] == neighbours->norms_sq[query] &&
			memcmp(queries + earlier * dim, queries + query * dim, dim * sizeof(float)) == 0)
			return true;
	return false;
}

size_t
ivfpq_neighbours_bytes(size_t nqueries, size_t dim)
{
	size_t		ncolumns = vq_panels_columns(nqueries);

	return sizeof(IvfpqNeighbours) + nqueries * (IVFPQ_NEIGHBOURS * sizeof(IvfpqNeighbour) + sizeof(float)) +
		ncolumns * sizeof(float) + SCORED_ROWS * ncolumns * sizeof(float) + dim * sizeof(float) +
		vq_panels_bytes(nqueries, dim) + vq_panels_work_bytes(nqueries, dim);
}

IvfpqNeighbours *
ivfpq_neighbours_create(VqMetric metric, const float *queries, size_t nqueries, size_t dim)
{
	IvfpqNeighbours *neighbours = palloc0(sizeof(IvfpqNeighbours));

	neighbours->metric = metric;
	neighbours->dim = dim;
	neighbours->nqueries = nqueries;
	neighbours->queries = queries;
	neighbours->norms_sq = ivfpq_alloc_array(nqueries, sizeof(float));
	neighbours->nearest = ivfpq_alloc_array(nqueries * IVFPQ_NEIGHBOURS, sizeof(IvfpqNeighbour));
	neighbours->ncolumns = vq_panels_columns(nqueries);
	neighbours->margins = ivfpq_alloc_array(neighbours->ncolumns, sizeof(float));
	neighbours->scores = ivfpq_alloc_array(SCORED_ROWS, neighbours->ncolumns * sizeof(float));
	neighbours->has_panels = vq_kernels->is_u8_fast;
	if (neighbours->has_panels)
	{
		neighbours->memory = ivfpq_alloc_array(vq_panels_bytes(nqueries, dim), 1);
		neighbours->work = ivfpq_alloc_array(vq_panels_work_bytes(nqueries, dim), 1);
		vq_panels_pack(vq_kernels, queries, nqueries, dim, neighbours->memory, &neighbours->panels);
		neighbours->origin = neighbours->panels.origin;
		neighbours->rounding = BYTE_ROUNDING / sqrtf(dim);
	}
	else
	{
		neighbours->memory = MemoryContextAllocZero(CurrentMemoryContext, dim * sizeof(float));
		neighbours->origin = neighbours->memory;
		neighbours->ncolumns = nqueries;
		neighbours->rounding = FLOAT_ROUNDING;
	}
	for (size_t i = 0; i < nqueries * IVFPQ_NEIGHBOURS; i++)
		neighbours->nearest[i] = (IvfpqNeighbour) {.value = INFINITY};
	for (size_t q = 0; q < neighbours->ncolumns; q++)
		neighbours->margins[q] = -INFINITY;
	for (size_t q = 0; q < nqueries; q++)
	{
		neighbours->norms_sq[q] = vq_kernels->ip_f32(queries + q * dim, queries + q * dim, dim);
		if (!is_copy(neighbours, q))
			neighbours->margins[q] = INFINITY;
	}
	return neighbours;
}

void
ivfpq_neighbours_free(IvfpqNeighbours *neighbours)
{
	pfree(neighbours->norms_sq);
	pfree(neighbours->nearest);
	pfree(neighbours->margins);
	pfree(neighbours->scores);
	pfree(neighbours->memory);
	if (neighbours->work)
		pfree(neighbours->work);
	pfree(neighbours);
}

/* Keep the nearest in order, equally near ones by place; false for one that is not among them */
static bool
add_neighbour(IvfpqNeighbour *nearest, IvfpqNeighbour neighbour)
{
	int			i = IVFPQ_NEIGHBOURS;

	while (i > 0 && (neighbour.value < nearest[i - 1].value ||
					 (neighbour.value == nearest[i - 1].value && neighbour.place < nearest[i - 1].place)))
		i--;
	if (i == IVFPQ_NEIGHBOURS)
		return false;
	memmove(nearest + i + 1, nearest + i, (IVFPQ_NEIGHBOURS - 1 - i) * sizeof(IvfpqNeighbour));
	nearest[i] = neighbour;
	return true;
}

/* A row that may be near a query */
static void
compare(IvfpqNeighbours *neighbours, size_t query, const float *row, uint32 place)
{
	size_t		dim = neighbours->dim;
	const float *q = neighbours->queries + query * dim;
	float		distance_sq = vq_kernels->l2sq_f32(row, q, dim);
	float		value = neighbours->metric == VQ_METRIC_IP ? -vq_kernels->ip_f32(row, q, dim) : distance_sq;

	if (distance_sq > 0 && add_neighbour(nearest_of(neighbours, query), (IvfpqNeighbour) {value, place}))
		set_margin(neighbours, query);
}

/* One row, by its scores */
static void
offer_row(IvfpqNeighbours *neighbours, const float *row, const float *scores, uint32 place)
{
	const float *margins = neighbours->margins;
	float		limit = limit_of(neighbours, row);

	for (size_t first = 0; first < neighbours->nqueries; first += SIDE_BY_SIDE)
	{
		size_t		count = Min(SIDE_BY_SIDE, neighbours->ncolumns - first);
		int			any = 0;

		if (count == SIDE_BY_SIDE)
			for (size_t i = 0; i < SIDE_BY_SIDE; i++)
				any |= scores[first + i] + margins[first + i] > limit;
		else
			any = 1;
		if (likely(!any))
			continue;
		for (size_t q = first; q < first + count; q++)
			if (scores[q] + margins[q] > limit)
				compare(neighbours, q, row, place);
	}
}

void
ivfpq_neighbours_offer(IvfpqNeighbours *neighbours, const float *rows, size_t nrows, const uint32 *places,
					   const bool *left_out)
{
	size_t		dim = neighbours->dim;
	size_t		ncolumns = neighbours->ncolumns;

	if (neighbours->nqueries == 0)
		return;
	for (size_t first = 0; first < nrows; first += SCORED_ROWS)
	{
		const float *some = rows + first * dim;
		size_t		count = Min(SCORED_ROWS, nrows - first);

		if (neighbours->has_panels)
			vq_panels_scores(vq_kernels, &neighbours->panels, some, NULL, count, neighbours->work, neighbours->scores);
		else
			ivfpq_blas()->products(count, neighbours->nqueries, dim, some, neighbours->queries, neighbours->scores);
		for (size_t i = 0; i < count; i++)
			if (left_out == NULL || !left_out[first + i])
				offer_row(neighbours, some + i * dim, neighbours->scores + i * ncolumns, places[first + i]);
		CHECK_FOR_INTERRUPTS();
	}
}

StaticAssertDecl(sizeof(IvfpqNeighbour) == sizeof(uint64), "neighbours are handed round as integers");

void
ivfpq_neighbours_merge(IvfpqTeam *team, IvfpqNeighbours *neighbours)
{
	size_t		count = neighbours->nqueries * IVFPQ_NEIGHBOURS;
	IvfpqNeighbour *all;

	if (team->size == 1)
		return;
	all = ivfpq_alloc_array(team->size, Max(count, 1) * sizeof(IvfpqNeighbour));
	memset(all, 0, team->size * count * sizeof(IvfpqNeighbour));
	memcpy(all + team->number * count, neighbours->nearest, count * sizeof(IvfpqNeighbour));
	ivfpq_team_sum_u64(team, (uint64 *) all, team->size * count);
	for (int i = 0; i < team->size; i++)
		for (size_t n = 0; n < count && i != team->number; n++)
			(void) add_neighbour(nearest_of(neighbours, n / IVFPQ_NEIGHBOURS), all[i * count + n]);
	pfree(all);
}
