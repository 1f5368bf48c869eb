/*-------------------------------------------------------------------------
 *
 * ivfpq_nprobe.c
 *	  How many lists a search should read, measured by the build.
 *
 * Rows that are held out of the sample stand for queries.  While all rows pass
 * through the build on their way to their lists, the nearest to each query are
 * kept (kernels/vq_neighbours.h), so it is known which lists the neighbours of a query are in:
 * as many lists have a share of neighbours as there are nearer ones than those, and how
 * they depend on the query is for kernels/vq_spread.c to find out.
 *
 * A sample alone, which this was measured on before, tells less: its nearest rows are further away than
 * those of the table, and lists are nearer to rows that they were trained on than to
 * others.  Trained on 3, 9, 19, 25 and 32 rows a list, and aiming at .975, searches of a
 * million rows found .932, .963, .961, .965 and .975.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_train.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

/* With fewer than that held out, rows that have been trained on are queries too */
#define LEAST_QUERIES	200

/* Rows of the sample that are offered to queries together */
#define OFFERED_ROWS	1024

/* Queries that are compared with a list together, while its centroid is in the cache */
#define RANKED_QUERIES	8

/* Those held out, and if there are too few of them, which only a small table has, others: in proportion to own rows */
void
ivfpq_choose_queries(IvfpqTeam *team, const IvfpqSample *sample, size_t most, IvfpqQueries *queries)
{
	size_t		dim = sample->dim;
	uint64		nheld = sample->nheld;
	uint64		least = Min(LEAST_QUERIES, most);
	size_t		nown;
	size_t		nothers = 0;
	uint64	   *counts = ivfpq_alloc_array(team->size, sizeof(uint64));
	size_t		first = 0;

	ivfpq_team_sum_u64(team, &nheld, 1);
	if (nheld < least)
		nothers = (size_t) Min(sample->nrows, ceil((double) (least - nheld) * sample->nrows / Max(sample->total_rows, 1)));
	nown = nothers + sample->nheld;
	ivfpq_team_gather(team, nown, counts);
	queries->count = 0;
	for (int i = 0; i < team->size; i++)
	{
		if (i == team->number)
			first = queries->count;
		queries->count += counts[i];
	}
	queries->rows = MemoryContextAllocExtended(CurrentMemoryContext, Max(queries->count, 1) * dim * sizeof(float),
											   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (size_t q = 0; q < nown; q++)
		memcpy(queries->rows + (first + q) * dim,
			   q < nothers ? ivfpq_sample_row(sample, q * sample->nrows / nothers) : sample->held + (q - nothers) * dim,
			   dim * sizeof(float));
	ivfpq_team_sum_f32(team, queries->rows, queries->count * dim);
	pfree(counts);
}

void
ivfpq_find_pairs(IvfpqTeam *team, const IvfpqSample *all_rows, VqMetric metric, const IvfpqLists *lists,
				 const IvfpqQueries *queries, IvfpqPairs *pairs)
{
	const IvfpqSample sample = ivfpq_sample_part(team, all_rows, lists->nlists);
	size_t		dim = sample.dim;
	size_t		nqueries = Min(queries->count, IVFPQ_PAIR_QUERIES);
	void	   *memory = ivfpq_alloc_array(vq_neighbours_bytes(nqueries, dim), 1);
	VqNeighbours neighbours;
	uint32		places[OFFERED_ROWS];
	size_t		npairs;
	uint32	   *rows;
	size_t		n = 0;

	vq_neighbours_init(&neighbours, vq_kernels, ivfpq_blas(), metric, queries->rows, nqueries, dim, memory);
	ivfpq_team_progress_extend(team, sample.total_rows);
	for (size_t first = 0; first < sample.nrows; first += OFFERED_ROWS)
	{
		size_t		count = Min(OFFERED_ROWS, sample.nrows - first);

		for (size_t i = 0; i < count; i++)
			places[i] = first + i;
		vq_neighbours_offer(&neighbours, ivfpq_sample_row(&sample, first), count, places, NULL);
		ivfpq_team_progress(team, count);
		CHECK_FOR_INTERRUPTS();
	}

	pairs->nqueries = nqueries;
	pairs->queries = queries->rows;
	pairs->nneighbours = ivfpq_pair_neighbours(team->size);
	npairs = nqueries * pairs->nneighbours;
	pairs->neighbours = ivfpq_alloc_array(npairs, dim * sizeof(float));
	pairs->lists = ivfpq_alloc_array(npairs, sizeof(uint32));
	rows = ivfpq_alloc_array(npairs, sizeof(uint32));
	for (size_t i = 0; i < npairs; i++)
	{
		VqNeighbour neighbour = vq_neighbours_of(&neighbours, i / pairs->nneighbours)[i % pairs->nneighbours];

		pairs->lists[i] = isinf(neighbour.value) ? PG_UINT32_MAX : neighbour.place;
		if (isinf(neighbour.value))
			continue;
		memcpy(pairs->neighbours + i * dim, ivfpq_sample_row(&sample, neighbour.place), dim * sizeof(float));
		rows[n++] = neighbour.place;
	}

	/* from rows to their lists */
	ivfpq_label(lists, sample.rows, rows, n, rows);
	n = 0;
	for (size_t i = 0; i < npairs; i++)
		if (pairs->lists[i] != PG_UINT32_MAX)
			pairs->lists[i] = rows[n++];
	pfree(rows);
	pfree(memory);
}

StaticAssertDecl(sizeof(VqNeighbour) == sizeof(uint64), "neighbours are handed round as integers");

/* From the neighbours that each member has found to those of the team */
static void
merge_neighbours(IvfpqTeam *team, VqNeighbours *neighbours)
{
	size_t		count = neighbours->nqueries * VQ_NEIGHBOURS;
	VqNeighbour *all;

	if (team->size == 1)
		return;
	all = ivfpq_alloc_array(team->size, Max(count, 1) * sizeof(VqNeighbour));
	memset(all, 0, team->size * count * sizeof(VqNeighbour));
	memcpy(all + team->number * count, neighbours->nearest, count * sizeof(VqNeighbour));
	ivfpq_team_sum_u64(team, (uint64 *) all, team->size * count);
	for (int i = 0; i < team->size; i++)
		for (size_t n = 0; n < count && i != team->number; n++)
			(void) vq_neighbours_add(neighbours, n / VQ_NEIGHBOURS, all[i * count + n]);
	pfree(all);
}

/* What lists are ordered by, for a query */
static float
list_value(VqMetric metric, const float *query, const float *centroid, size_t dim)
{
	return metric == VQ_METRIC_IP ? -vq_kernels->ip_f32(query, centroid, dim) :
		vq_kernels->l2sq_f32(query, centroid, dim);
}

/* For the neighbours of a query, 1 + how many lists with rows are nearer than theirs; 0 stays for no neighbour */
static void
rank_neighbours(const VqNeighbour *nearest, const float *values, const uint64 *list_rows, uint32 nlists, uint64 *ranks)
{
	for (size_t n = 0; n < VQ_NEIGHBOURS && !isinf(nearest[n].value); n++)
	{
		uint32		list = nearest[n].place;

		ranks[n] = 1;
		for (uint32 j = 0; j < nlists; j++)
			ranks[n] += values[j] < values[list] && list_rows[j] > 0;
	}
}

void
ivfpq_choose_nprobes(IvfpqTeam *team, VqMetric metric, const IvfpqLists *lists, const uint64 *list_rows,
					 const IvfpqQueries *queries, VqNeighbours *neighbours, VqSpread *spread, uint32 *nprobes)
{
	const float *centroids = lists->centroids;
	uint32		nlists = lists->nlists;
	size_t		dim = lists->dim;
	size_t		nranks = queries->count * VQ_NEIGHBOURS;
	size_t		ndistances = queries->count * VQ_SPREAD_RANKS;
	uint64	   *ranks = MemoryContextAllocZero(CurrentMemoryContext, Max(nranks, 1) * sizeof(uint64));
	float	   *distances = MemoryContextAllocZero(CurrentMemoryContext, Max(ndistances, 1) * sizeof(float));
	float	   *values = ivfpq_alloc_array(nlists, RANKED_QUERIES * sizeof(float));
	float	   *norms_sq = metric == VQ_METRIC_IP ? ivfpq_alloc_array(nlists, sizeof(float)) : NULL;
	VqItem	   *items = ivfpq_alloc_array(nlists, sizeof(VqItem));
	void	   *work = ivfpq_alloc_array(vq_spread_work_bytes(queries->count, VQ_NEIGHBOURS), 1);

	merge_neighbours(team, neighbours);
	for (uint32 j = 0; norms_sq && j < nlists; j++)
		norms_sq[j] = vq_kernels->ip_f32(centroids + j * dim, centroids + j * dim, dim);
	for (size_t first = team->number * RANKED_QUERIES; first < queries->count; first += team->size * RANKED_QUERIES)
	{
		size_t		count = Min(RANKED_QUERIES, queries->count - first);

		for (uint32 j = 0; j < nlists; j++)
			for (size_t i = 0; i < count; i++)
				values[i * nlists + j] = list_value(metric, queries->rows + (first + i) * dim, centroids + j * dim, dim);
		for (size_t i = 0; i < count; i++)
		{
			size_t		q = first + i;
			const float *query = queries->rows + q * dim;

			vq_spread_measure(metric, values + i * nlists, norms_sq, vq_kernels->ip_f32(query, query, dim), nlists, items,
								 distances + q * VQ_SPREAD_RANKS);
			rank_neighbours(vq_neighbours_of(neighbours, q), values + i * nlists, list_rows, nlists,
							ranks + q * VQ_NEIGHBOURS);
		}
		CHECK_FOR_INTERRUPTS();
	}
	ivfpq_team_sum_u64(team, ranks, nranks);
	ivfpq_team_sum_f32(team, distances, ndistances);
	vq_spread_choose(ranks, queries->count, VQ_NEIGHBOURS, distances, nlists, work, spread, nprobes);
	pfree(ranks);
	pfree(distances);
	pfree(values);
	pfree(items);
	pfree(work);
	if (norms_sq)
		pfree(norms_sq);
}
