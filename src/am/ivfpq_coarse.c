/*-------------------------------------------------------------------------
 *
 * ivfpq_coarse.c
 *	  The lists of an index, nearest first.
 *
 * Centroids are searched as rows are.  Their groups take the place of lists: the
 * codes in the nearest groups, against the centres of these, give a lower bound
 * of each centroid, and a few more than are wanted are compared exactly, those of
 * the smallest bounds.  The nearest 80 of ten thousand lists of 300 dimensions
 * cost 100 centres, a quarter of the codes (.14 MB), and a hundred centroids
 * instead of 3 MB of them.  With few lists all centroids are compared.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_search.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

/* How many centroids before its turn one is fetched into the caches */
#define ROWS_AHEAD			4

/*
 * Groups opened: so many, and for the root of as many groups as could hold the
 * lists expected.  Of word vectors and SIFT in 8,000 lists about so many had .995
 * of the nearest 16 to 400 (simulated); searches of these and of a million
 * synthetic rows had the recall that all groups gave, within .001 at .95.  With 7
 * and 10 the million lost .015 of it.
 */
#define GROUPS_OPENED		12
#define GROUPS_PER_ROOT		17

/* How far to trust the codes of centroids, in standard errors: half as much made no difference */
#define CONFIDENCE			1.0f

/* Bounds held, for each that will be compared: some are thrown out as others come */
#define BOUNDS_PER_COMPARED	5

/*
 * Lists compared exactly, for each that may be taken, and some more.  Those of
 * the smallest bounds are.
 */
#define COMPARED_PER_LIST	1.25
#define COMPARED_MORE		16

/* When more lists are wanted than expected: so many times as many */
#define GROWTH				2

/* A walk over the blocks of centroid codes */
typedef struct CodeWalk
{
	IvfpqCoarse *coarse;
	uint32		next_group;		/* the one after that of bound */
	VqBound		bound;
	VqPool		pool;			/* of bounds; id_mid is the group, id_high the place of the code */
} CodeWalk;

/* The list of a bound, if coded */
static uint32
list_of(const IvfpqCoarse *coarse, const VqItem *item)
{
	const IvfpqModel *model = coarse->model;

	return model->group_lists[item->id_mid] + item->id_high - model->group_blocks[item->id_mid] * VQ_BLOCK_LANES;
}

static void
bounds_of_blocks(uint32 first_block, uint32 nblocks, const char *blocks, void *arg)
{
	CodeWalk   *walk = arg;
	IvfpqCoarse *coarse = walk->coarse;
	const IvfpqModel *model = coarse->model;
	const VqBlockShape *shape = &model->coarse_shape;
	size_t		block_bytes = vq_block_bytes(shape, VQ_BLOCK_LANES);
	VqPool	   *pool = &walk->pool;

	for (uint32 i = 0; i < nblocks; i++)
	{
		const char *block = blocks + i * block_bytes;
		uint32		block_no = first_block + i;
		uint32_t	sums[VQ_BLOCK_LANES];
		float		low[VQ_BLOCK_LANES];
		uint32_t	is_near;

		if (coarse->waiting[block_no] == 0)
			continue;
		if (model->group_blocks[walk->next_group] <= block_no)
		{
			uint32		g = walk->next_group;

			while (model->group_blocks[g + 1] <= block_no)
				g++;
			vq_codec_list_bound(&model->coarse, &coarse->tables, coarse->distance_sq[g], coarse->norm_sq[g],
								CONFIDENCE, &walk->bound);
			walk->next_group = g + 1;
		}
		vq_kernels->scan4(vq_block_codes(block, shape), VQ_BLOCK_LANES, coarse->tables.lut, shape->m, sums);
		is_near = vq_kernels->bound(vq_block_a(block, shape), vq_block_s(block, shape),
									vq_block_e(block, shape), sums, VQ_BLOCK_LANES, &walk->bound,
									vq_pool_ceiling(pool), low);
		for (is_near &= coarse->waiting[block_no]; is_near != 0; is_near &= is_near - 1)
		{
			int			j = pg_rightmost_one_pos32(is_near);
			VqItem		item = {
				.key = isnan(low[j]) ? -INFINITY : low[j],
				.id_mid = walk->next_group - 1,
				.id_high = block_no * VQ_BLOCK_LANES + j
			};

			vq_pool_add(pool, &item);
		}
	}
}

/* The nearest groups: so many of them, and as many as have the lists expected */
static void
open_groups(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	double		lists_per_group = (double) model->meta.nlists / model->meta.ngroups;
	size_t		wanted = GROUPS_OPENED + GROUPS_PER_ROOT * sqrt(coarse->expected / lists_per_group);
	const VqItem *item;

	while ((coarse->groups.next < wanted || coarse->nopened < coarse->expected) &&
		   (item = vq_select_take(&coarse->groups)) != NULL)
	{
		uint32		left = model->group_lists[item->id_high + 1] - model->group_lists[item->id_high];
		uint32	   *waiting = coarse->waiting + model->group_blocks[item->id_high];

		coarse->nopened += left;
		for (; left >= VQ_BLOCK_LANES; left -= VQ_BLOCK_LANES)
			*waiting++ = PG_UINT32_MAX;
		if (left > 0)
			*waiting = (1U << left) - 1;
	}
}

/* Room for so many lists that are compared */
static void
allocate_near(IvfpqCoarse *coarse, size_t count)
{
	if (coarse->near)
	{
		pfree(coarse->near);
		pfree(coarse->items);
	}
	coarse->near = palloc_extended(count * sizeof(IvfpqNearList), MCXT_ALLOC_HUGE);
	coarse->items = palloc_extended(count * sizeof(VqItem), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

/* Compare the lists of these bounds */
static void
compare_lists(IvfpqCoarse *coarse, const VqItem *bounds, size_t count)
{
	const IvfpqModel *model = coarse->model;

	allocate_near(coarse, count);
	for (size_t i = 0; i < count; i++)
	{
		IvfpqNearList *near = &coarse->near[i];

		if (i + ROWS_AHEAD < count)
			ivfpq_rows_touch(coarse->index, &model->meta, list_of(coarse, &bounds[i + ROWS_AHEAD]));
		near->list_no = list_of(coarse, &bounds[i]);
		near->place = bounds[i].id_high;
		ivfpq_model_distances(coarse->index, model, coarse->query->q_model, near->list_no, 1,
							  &near->distance_sq, &near->norm_sq);
		coarse->items[i].id_high = i;
		coarse->items[i].key = vq_codec_list_value(&model->codec, coarse->query,
												   near->distance_sq, near->norm_sq);
	}
	vq_select_init(&coarse->select, coarse->items, count);
}

/* Of the lists not yet taken, find those that come before expected are */
static void
find_lists(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	size_t		wanted = (coarse->expected - coarse->ntaken) * COMPARED_PER_LIST + COMPARED_MORE;
	CodeWalk	walk = {.coarse = coarse};

	open_groups(coarse);
	walk.pool.capacity = Min(wanted * BOUNDS_PER_COMPARED, model->meta.nlists);
	walk.pool.items = palloc_extended(walk.pool.capacity * sizeof(VqItem), MCXT_ALLOC_HUGE);
	ivfpq_chunks_walk(coarse->index, model->meta.coarse_code_start,
					  vq_block_bytes(&model->coarse_shape, VQ_BLOCK_LANES),
					  model->group_blocks[model->meta.ngroups], coarse->waiting, bounds_of_blocks, &walk);
	vq_pool_keep(&walk.pool, wanted, wanted + wanted / 8);
	compare_lists(coarse, walk.pool.items, walk.pool.nitems);
	pfree(walk.pool.items);
}

/* The groups of lists in the order of their centres, and the tables for their codes */
static void
begin_groups(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	const VqPq *pq = &model->coarse.pq;
	uint32		ngroups = model->meta.ngroups;
	VqItem	   *items = palloc0(ngroups * sizeof(VqItem));

	coarse->distance_sq = palloc(ngroups * sizeof(float));
	coarse->norm_sq = palloc(ngroups * sizeof(float));
	ivfpq_model_distances(coarse->index, model, coarse->query->q_model, model->meta.nlists, ngroups,
						  coarse->distance_sq, coarse->norm_sq);
	coarse->tables.q_model = palloc(pq->m * pq->dsub * sizeof(float));
	coarse->tables.lut_floats = palloc(pq->m * pq->ksub * sizeof(float));
	coarse->tables.lut = palloc(pq->m * pq->ksub);
	memcpy(coarse->tables.q_model, coarse->query->q_model, pq->dim * sizeof(float));
	vq_codec_query_tables(vq_kernels, &model->coarse, &coarse->tables);
	for (uint32 g = 0; g < ngroups; g++)
	{
		items[g].id_high = g;
		items[g].key = vq_codec_list_value(&model->coarse, &coarse->tables,
										   coarse->distance_sq[g], coarse->norm_sq[g]);
	}
	vq_select_init(&coarse->groups, items, ngroups);
	coarse->waiting = palloc0(model->group_blocks[ngroups] * sizeof(uint32));
}

/* Values of all lists */
static void
compare_all(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	bool		has_centroids = model->meta.codec != IVFPQ_CODEC_NONE;
	uint32		nlists = model->meta.nlists;
	float	   *distance_sq = palloc0(nlists * sizeof(float));
	float	   *norm_sq = palloc0(nlists * sizeof(float));

	if (has_centroids)
		ivfpq_model_distances(coarse->index, model, coarse->query->q_model, 0, nlists, distance_sq, norm_sq);
	allocate_near(coarse, nlists);
	for (uint32 i = 0; i < nlists; i++)
	{
		coarse->near[i] = (IvfpqNearList) {
			.list_no = i, .distance_sq = distance_sq[i], .norm_sq = norm_sq[i]
		};
		coarse->items[i].id_high = i;
		if (has_centroids)
			coarse->items[i].key = vq_codec_list_value(&model->codec, coarse->query,
													   distance_sq[i], norm_sq[i]);
	}
	coarse->expected = nlists;
	vq_select_init(&coarse->select, coarse->items, nlists);
	pfree(distance_sq);
	pfree(norm_sq);
}

void
ivfpq_coarse_begin(IvfpqCoarse *coarse, Relation index, const IvfpqModel *model,
				   const VqQuery *query, uint32 expected)
{
	memset(coarse, 0, sizeof(IvfpqCoarse));
	coarse->index = index;
	coarse->model = model;
	coarse->query = query;
	coarse->is_coded = model->coarse_shape.m > 0;
	coarse->expected = expected;
	if (coarse->is_coded)
	{
		begin_groups(coarse);
		find_lists(coarse);
	}
	else
		compare_all(coarse);
}

bool
ivfpq_coarse_next(IvfpqCoarse *coarse, IvfpqNearList *list)
{
	uint32		nlists = coarse->model->meta.nlists;
	const VqItem *item;

	if (coarse->ntaken == nlists)
		return false;
	if (coarse->ntaken == coarse->expected)
	{
		coarse->expected = Min(coarse->expected, nlists / GROWTH) * GROWTH;
		coarse->expected = Min(Max(coarse->expected, coarse->ntaken + 1), nlists);
		find_lists(coarse);
	}
	item = vq_select_take(&coarse->select);
	if (item == NULL)
		return false;
	*list = coarse->near[item->id_high];
	if (coarse->is_coded)
		coarse->waiting[list->place / VQ_BLOCK_LANES] &= ~(1U << list->place % VQ_BLOCK_LANES);
	coarse->ntaken++;
	return true;
}
