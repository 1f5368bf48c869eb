/*-------------------------------------------------------------------------
 *
 * ivfpq_nprobe.c
 *	  How many lists a search should read, measured on the sample.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_train.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

#define PROBE_QUERIES			IVFPQ_PAIR_QUERIES
#define PROBE_NEIGHBOURS		10

/* What is nearer than this part of its length may be a copy of a query: rounding does not tell */
#define COPY_DISTANCE			1e-5f

/* Where there are more copies than that for each query, lists may be empty: so many rows of each are labelled to see */
#define MANY_COPIES				0.1
#define OCCUPYING_ROWS			32

const double ivfpq_recalls[IVFPQ_NRECALLS] = IVFPQ_RECALLS;

/* A near neighbour of a query, in the sample: its number among own rows, and then its list */
typedef struct Neighbour
{
	float		value;			/* distance, but for what depends on the query alone */
	uint32		place;
	float		list_value;		/* the same of the list as it were without the neighbour; NaN to take the list as it is */
	uint32		unused;
} Neighbour;

#define NEIGHBOUR_WORDS			2

StaticAssertDecl(sizeof(Neighbour) == NEIGHBOUR_WORDS * sizeof(uint64), "neighbours are handed round as integers");

/* Keep the nearest in order; places without one have value = infinity */
static void
add_neighbour(Neighbour *neighbours, Neighbour neighbour)
{
	int			i;

	if (!(neighbour.value < neighbours[PROBE_NEIGHBOURS - 1].value))
		return;
	for (i = PROBE_NEIGHBOURS - 1; i > 0 && neighbours[i - 1].value > neighbour.value; i--)
		neighbours[i] = neighbours[i - 1];
	neighbours[i] = neighbour;
}

/* Queries of the team: the member that has their row, and its number there */
typedef struct ProbeQueries
{
	size_t		count;
	float	   *rows;			/* [count][dim] */
	size_t		first_own;		/* those from own rows */
	size_t		nown;
	size_t	   *own_rows;		/* [nown], SIZE_MAX for one that has been held out */
	uint64		ncopies;		/* queries that are equal to others, and own rows equal to a query */
} ProbeQueries;

/*
 * Every member gives queries in proportion to its rows: those held out, and if there are too few of them, which
 * only a small table has, others
 */
static void
choose_queries(IvfpqTeam *team, const IvfpqSample *sample, ProbeQueries *queries)
{
	size_t		dim = sample->dim;
	uint64	   *counts = ivfpq_alloc_array(team->size, sizeof(uint64));
	size_t		nothers;

	queries->nown = Min(sample->nheld + sample->nrows,
						(size_t) ceil((double) PROBE_QUERIES * sample->nrows / Max(sample->total_rows, 1)));
	nothers = queries->nown - Min(queries->nown, sample->nheld);
	ivfpq_team_gather(team, queries->nown, counts);
	queries->count = 0;
	queries->first_own = 0;
	for (int i = 0; i < team->size; i++)
	{
		if (i == team->number)
			queries->first_own = queries->count;
		queries->count += counts[i];
	}
	queries->rows = MemoryContextAllocExtended(CurrentMemoryContext, Max(queries->count, 1) * dim * sizeof(float),
											   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	queries->own_rows = ivfpq_alloc_array(queries->nown, sizeof(size_t));
	for (size_t q = 0; q < queries->nown; q++)
	{
		size_t		own_row = q < nothers ? q * sample->nrows / nothers : SIZE_MAX;

		queries->own_rows[q] = own_row;
		memcpy(queries->rows + (queries->first_own + q) * dim,
			   q < nothers ? ivfpq_sample_row(sample, own_row) : sample->held + (q - nothers) * dim,
			   dim * sizeof(float));
	}
	ivfpq_team_sum_f32(team, queries->rows, queries->count * dim);
	pfree(counts);
}

static bool
is_query_row(const ProbeQueries *queries, size_t query, size_t own_row)
{
	return query >= queries->first_own && query - queries->first_own < queries->nown &&
		queries->own_rows[query - queries->first_own] == own_row;
}

/*
 * The value below which a row may be a copy of each query, float[count]: copies are
 * no neighbours, as they say nothing of where others are.  Infinity for a query that
 * is one itself, which has no neighbours.
 */
static float *
copy_values(const ProbeQueries *queries, VqMetric metric, size_t dim)
{
	float	   *values = ivfpq_alloc_array(queries->count, sizeof(float));

	for (size_t q = 0; q < queries->count; q++)
	{
		const float *row = queries->rows + q * dim;

		values[q] = metric == VQ_METRIC_IP ? -INFINITY :
			-vq_kernels->ip_f32(row, row, dim) * (1 - COPY_DISTANCE);
		for (size_t earlier = 0; earlier < q; earlier++)
			if (memcmp(queries->rows + earlier * dim, row, dim * sizeof(float)) == 0)
				values[q] = INFINITY;
	}
	return values;
}

/* Nearest neighbours of all queries among own rows */
static void
find_own_neighbours(IvfpqTeam *team, const IvfpqSample *sample, VqMetric metric,
					ProbeQueries *queries, Neighbour *neighbours)
{
	const VqBlas *blas = ivfpq_blas();
	size_t		dim = sample->dim;
	size_t		nqueries = queries->count;
	size_t		chunk = ivfpq_chunk_rows(nqueries, dim);
	float	   *products = ivfpq_alloc_array(chunk, nqueries * sizeof(float));
	float	   *copies = copy_values(queries, metric, dim);

	for (size_t q = 0; q < nqueries; q++)
		queries->ncopies += copies[q] == INFINITY;

	for (size_t first = 0; first < sample->nrows; first += chunk)
	{
		size_t		count = Min(chunk, sample->nrows - first);

		blas->products(count, nqueries, dim, ivfpq_sample_row(sample, first), queries->rows, products);
		for (size_t i = 0; i < count; i++)
		{
			const float *x = ivfpq_sample_row(sample, first + i);
			float		norm_sq = metric == VQ_METRIC_IP ? 0.0f : vq_kernels->ip_f32(x, x, dim);

			for (size_t q = 0; q < nqueries; q++)
			{
				float		value = norm_sq - (metric == VQ_METRIC_IP ? 1 : 2) * products[i * nqueries + q];
				Neighbour  *nearest = neighbours + q * PROBE_NEIGHBOURS;

				if (value >= nearest[PROBE_NEIGHBOURS - 1].value || is_query_row(queries, q, first + i))
					continue;
				if (copies[q] == INFINITY)
					continue;
				if (value > copies[q] || vq_kernels->l2sq_f32(x, queries->rows + q * dim, dim) > 0)
					add_neighbour(nearest, (Neighbour) {.value = value, .place = first + i, .list_value = NAN});
				else
					queries->ncopies++;
			}
		}
		ivfpq_team_progress(team, count);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(products);
	pfree(copies);
}

/*
 * Which lists have rows, as counts, uint64[nlists]: where there are many copies of a
 * vector there can be many lists that have its centroid and no row.  NULL if all are
 * thought to have.
 */
static uint64 *
count_occupying_rows(IvfpqTeam *team, const IvfpqSample *sample, const IvfpqLists *lists,
					 const ProbeQueries *queries)
{
	uint64		ncopies = queries->ncopies;
	size_t		nrows = Min(sample->nrows, OCCUPYING_ROWS * (size_t) lists->nlists / team->size + 1);
	uint64	   *counts;
	uint32	   *rows;

	ivfpq_team_sum_u64(team, &ncopies, 1);
	if (ncopies <= MANY_COPIES * queries->count)
		return NULL;
	counts = ivfpq_alloc_array(lists->nlists, sizeof(uint64));
	memset(counts, 0, lists->nlists * sizeof(uint64));
	rows = ivfpq_alloc_array(nrows, sizeof(uint32));
	for (size_t i = 0; i < nrows; i++)
		rows[i] = i * sample->nrows / nrows;	/* which may be sorted by groups */
	ivfpq_label(lists, sample->rows, rows, nrows, rows);
	for (size_t i = 0; i < nrows; i++)
		counts[rows[i]]++;
	ivfpq_team_sum_u64(team, counts, lists->nlists);
	pfree(rows);
	return counts;
}

/* From own rows to their lists */
static void
label_neighbours(const IvfpqSample *sample, const IvfpqLists *lists, size_t count, Neighbour *neighbours)
{
	uint32	   *places = ivfpq_alloc_array(count, sizeof(uint32));
	size_t		n = 0;

	for (size_t i = 0; i < count; i++)
		if (!isinf(neighbours[i].value))
			places[n++] = neighbours[i].place;
	ivfpq_label(lists, sample->rows, places, n, places);
	n = 0;
	for (size_t i = 0; i < count; i++)
		if (!isinf(neighbours[i].value))
			neighbours[i].place = places[n++];
	pfree(places);
}

/* What lists are ordered by, for a query */
static float
list_value(VqMetric metric, const float *query, const float *centroid, size_t dim)
{
	return metric == VQ_METRIC_IP ? -vq_kernels->ip_f32(query, centroid, dim) :
		vq_kernels->l2sq_f32(query, centroid, dim);
}

/* How many training rows of the team each list has, uint64[nlists] */
static uint64 *
count_training_rows(IvfpqTeam *team, const IvfpqSample *sample, const IvfpqLists *lists)
{
	uint64	   *counts = MemoryContextAllocZero(CurrentMemoryContext, lists->nlists * sizeof(uint64));
	uint32	   *labels = ivfpq_alloc_array(sample->nrows, sizeof(uint32));

	for (size_t i = 0; i < sample->nrows; i++)
		labels[i] = i;
	ivfpq_label(lists, sample->rows, labels, sample->nrows, labels);
	for (size_t i = 0; i < sample->nrows; i++)
		counts[labels[i]]++;
	ivfpq_team_sum_u64(team, counts, lists->nlists);
	pfree(labels);
	return counts;
}

/*
 * The list that a row would be in, and its value for a query, had the row not been trained with: what its list's
 * centroid would be without it is further from it, maybe further than the next.
 */
static void
leave_out(const IvfpqLists *lists, VqMetric metric, const uint64 *counts, const float *row, const float *query,
		  float *without, Neighbour *neighbour)
{
	size_t		dim = lists->dim;
	uint32		nearest[2] = {0, 0};
	float		distances[2] = {INFINITY, INFINITY};
	double		nrows;
	double		growth;
	const float *centroid;

	for (uint32 j = 0; j < lists->nlists; j++)
	{
		float		distance = vq_kernels->l2sq_f32(row, lists->centroids + j * dim, dim);
		int			i = distance < distances[0] ? 0 : 1;

		if (!(distance < distances[i]))
			continue;
		if (i == 0)
		{
			nearest[1] = nearest[0];
			distances[1] = distances[0];
		}
		nearest[i] = j;
		distances[i] = distance;
	}
	nrows = Max(counts[nearest[0]], 1);
	growth = nrows / Max(nrows - 1, 1);
	if (lists->nlists > 1 && (nrows == 1 || growth * growth * distances[0] > distances[1]))
	{
		neighbour->place = nearest[1];
		return;
	}
	centroid = lists->centroids + nearest[0] * dim;
	for (size_t d = 0; d < dim; d++)
		without[d] = nrows == 1 ? centroid[d] : (float) ((nrows * centroid[d] - row[d]) / (nrows - 1));
	neighbour->place = nearest[0];
	neighbour->list_value = list_value(metric, query, without, dim);
}

/* Of the nearest own neighbours of each query, whose rows these are, at most nnear */
static void
leave_out_neighbours(const IvfpqSample *sample, const IvfpqLists *lists, VqMetric metric, const uint64 *counts,
					 const ProbeQueries *queries, const uint32 *rows, size_t nnear, Neighbour *neighbours)
{
	size_t		dim = sample->dim;
	float	   *without = ivfpq_alloc_array(dim, sizeof(float));

	for (size_t q = 0; q < queries->count; q++)
	{
		for (size_t n = q * PROBE_NEIGHBOURS; n < q * PROBE_NEIGHBOURS + nnear; n++)
			if (!isinf(neighbours[n].value))
				leave_out(lists, metric, counts, ivfpq_sample_row(sample, rows[n]), queries->rows + q * dim,
						  without, &neighbours[n]);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(without);
}

static const Neighbour *
pair_neighbour(const Neighbour *neighbours, const IvfpqPairs *pairs, size_t pair)
{
	return neighbours + pair / pairs->nneighbours * PROBE_NEIGHBOURS + pair % pairs->nneighbours;
}

/* The nearest of own neighbours, as rows; afterwards, label_pairs adds their lists */
static void
keep_pairs(const IvfpqTeam *team, const IvfpqSample *sample, const ProbeQueries *queries,
		   const Neighbour *neighbours, IvfpqPairs *pairs)
{
	size_t		dim = sample->dim;
	size_t		npairs = queries->count * ivfpq_pair_neighbours(team->size);

	pairs->nqueries = queries->count;
	pairs->nneighbours = ivfpq_pair_neighbours(team->size);
	pairs->queries = queries->rows;
	pairs->neighbours = ivfpq_alloc_array(npairs, dim * sizeof(float));
	pairs->lists = ivfpq_alloc_array(npairs, sizeof(uint32));
	for (size_t i = 0; i < npairs; i++)
	{
		const Neighbour *neighbour = pair_neighbour(neighbours, pairs, i);

		if (!isinf(neighbour->value))
			memcpy(pairs->neighbours + i * dim, ivfpq_sample_row(sample, neighbour->place), dim * sizeof(float));
	}
}

static void
label_pairs(const Neighbour *neighbours, IvfpqPairs *pairs)
{
	for (size_t i = 0; i < pairs->nqueries * pairs->nneighbours; i++)
	{
		const Neighbour *neighbour = pair_neighbour(neighbours, pairs, i);

		pairs->lists[i] = isinf(neighbour->value) ? PG_UINT32_MAX : neighbour->place;
	}
}

/* From the neighbours that each member has found to those of the team */
static void
merge_neighbours(IvfpqTeam *team, size_t nqueries, Neighbour *neighbours)
{
	size_t		count = nqueries * PROBE_NEIGHBOURS;
	Neighbour  *all;

	if (team->size == 1)
		return;
	all = ivfpq_alloc_array(team->size, count * sizeof(Neighbour));
	memset(all, 0, team->size * count * sizeof(Neighbour));
	memcpy(all + team->number * count, neighbours, count * sizeof(Neighbour));
	ivfpq_team_sum_u64(team, (uint64 *) all, team->size * count * NEIGHBOUR_WORDS);
	for (int i = 0; i < team->size; i++)
	{
		if (i == team->number)
			continue;
		for (size_t n = 0; n < count; n++)
			add_neighbour(neighbours + n / PROBE_NEIGHBOURS * PROBE_NEIGHBOURS, all[i * count + n]);
	}
	pfree(all);
}

/*
 * Rows that are not in the sample stand for queries.  For each near neighbour of one, count
 * the lists with rows that would be probed before the neighbour's own; as many lists have a
 * share of neighbours as these counts say, and how they depend on the query (ivfpq_spread.c).
 * The sample is thinner than the table, so that its nearest few are as far away as the nearest
 * PROBE_NEIGHBOURS of the table; where it is thinner than that, the count errs on the safe side.
 * Lists that are trained on few rows are nearer to these than to other rows of the table.  So with fewer than is
 * usual a neighbour's list is taken as if the neighbour had not been there (leave one out): by a million rows of
 * 3, 9, 19, 25 and 32 to a list, aiming at .975, searches found .932, .963, .961, .965 and .975 without that, and
 * with it .989, .983, .974, .980 and .977.
 */
void
ivfpq_train_nprobes(IvfpqTeam *team, const IvfpqSample *all_rows, double table_rows, VqMetric metric,
					const IvfpqLists *lists, IvfpqPairs *pairs, IvfpqSpread *spread, uint32 *nprobes)
{
	const IvfpqSample part = ivfpq_sample_part(team, all_rows, lists->nlists);
	const IvfpqSample *sample = &part;
	size_t		nnear = (size_t) ceil(PROBE_NEIGHBOURS * Min(1.0, sample->total_rows / Max(table_rows, 1)));
	const float *centroids = lists->centroids;
	uint32		nlists = lists->nlists;
	size_t		dim = sample->dim;
	ProbeQueries queries = {0};
	Neighbour  *neighbours;
	bool		is_thin = all_rows->total_rows < (double) lists->nlists * IVFPQ_TRAIN_ROWS_PER_LIST;
	uint64	   *ranks;
	uint64	   *occupied;
	uint64	   *counts = NULL;
	uint32	   *rows = NULL;
	float	   *values = ivfpq_alloc_array(nlists, sizeof(float));
	float	   *norms_sq = metric == VQ_METRIC_IP ? ivfpq_alloc_array(nlists, sizeof(float)) : NULL;
	VqItem	   *items = ivfpq_alloc_array(nlists, sizeof(VqItem));
	float	   *distances;
	size_t		nplaces;

	choose_queries(team, sample, &queries);
	nplaces = queries.count * PROBE_NEIGHBOURS;
	neighbours = ivfpq_alloc_array(nplaces, sizeof(Neighbour));
	for (size_t n = 0; n < nplaces; n++)
		neighbours[n] = (Neighbour) {.value = INFINITY};
	find_own_neighbours(team, sample, metric, &queries, neighbours);
	if (pairs)
		keep_pairs(team, sample, &queries, neighbours, pairs);
	if (is_thin)
	{
		counts = count_training_rows(team, all_rows, lists);
		rows = ivfpq_alloc_array(nplaces, sizeof(uint32));
		for (size_t n = 0; n < nplaces; n++)
			rows[n] = neighbours[n].place;
	}
	label_neighbours(sample, lists, nplaces, neighbours);
	if (pairs)
		label_pairs(neighbours, pairs);
	if (is_thin)
	{
		leave_out_neighbours(sample, lists, metric, counts, &queries, rows, nnear, neighbours);
		pfree(counts);
		pfree(rows);
	}
	merge_neighbours(team, queries.count, neighbours);
	occupied = count_occupying_rows(team, sample, lists, &queries);

	/* how many lists are nearer than theirs; ranks + 1, as 0 is for no neighbour */
	ranks = MemoryContextAllocZero(CurrentMemoryContext, Max(nplaces, 1) * sizeof(uint64));
	distances = MemoryContextAllocZero(CurrentMemoryContext, Max(queries.count, 1) * IVFPQ_SPREAD_RANKS * sizeof(float));
	for (uint32 j = 0; norms_sq && j < nlists; j++)
		norms_sq[j] = vq_kernels->ip_f32(centroids + j * dim, centroids + j * dim, dim);
	for (size_t q = team->number; q < queries.count; q += team->size)
	{
		const float *query = queries.rows + q * dim;

		for (uint32 j = 0; j < nlists; j++)
			values[j] = list_value(metric, query, centroids + j * dim, dim);
		ivfpq_spread_measure(metric, values, norms_sq, vq_kernels->ip_f32(query, query, dim), nlists, items,
							 distances + q * IVFPQ_SPREAD_RANKS);
		for (size_t n = q * PROBE_NEIGHBOURS; n < q * PROBE_NEIGHBOURS + nnear; n++)
		{
			uint32		list = neighbours[n].place;
			float		own_value = neighbours[n].list_value;

			if (isinf(neighbours[n].value))
				continue;
			if (isnan(own_value))
				own_value = values[list];
			ranks[n] = 1;
			for (uint32 j = 0; j < nlists; j++)
				ranks[n] += values[j] < own_value && j != list && (occupied == NULL || occupied[j] > 0);
		}
		CHECK_FOR_INTERRUPTS();
	}
	ivfpq_team_sum_u64(team, ranks, nplaces);

	ivfpq_team_sum_f32(team, distances, queries.count * IVFPQ_SPREAD_RANKS);
	ivfpq_spread_choose(ranks, queries.count, PROBE_NEIGHBOURS, distances, nlists, spread, nprobes);
	if (pairs == NULL)
		pfree(queries.rows);
	pfree(queries.own_rows);
	pfree(neighbours);
	pfree(values);
	pfree(items);
	pfree(distances);
	pfree(ranks);
	if (norms_sq)
		pfree(norms_sq);
	if (occupied)
		pfree(occupied);
}

/* Lists and the share of neighbours that they miss are powers of each other, more or less: straight lines of logarithms */
uint32
ivfpq_recall_nprobe(const IvfpqMetaPageData *meta, double recall)
{
	int			i = 0;
	double		way;
	double		below;
	double		above;

	while (i < IVFPQ_NRECALLS - 2 && recall > ivfpq_recalls[i + 1])
		i++;
	below = meta->nprobes[i];
	above = meta->nprobes[i + 1];
	way = log((1.0 - ivfpq_recalls[i]) / (1.0 - recall)) / log((1.0 - ivfpq_recalls[i]) / (1.0 - ivfpq_recalls[i + 1]));
	return (uint32) rint(below * pow(above / below, Max(0.0, Min(way, 1.0))));
}
