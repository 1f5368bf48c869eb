/*-------------------------------------------------------------------------
 *
 * ivfpq_coarse.c
 *	  The lists of an index, nearest first.
 *
 * Centroids are searched as rows are.  Their groups take the place of lists: the
 * codes in the nearest groups, against the centres of these, give a lower bound
 * of each centroid, and they are compared exactly in order of that bound, only
 * as far as the next list needs.  The nearest 80 of ten thousand lists of 300
 * dimensions cost 100 centres, a quarter of the codes (.2 MB), and a hundred
 * centroids instead of 3 MB of them.  With few lists all centroids are compared
 * at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_search.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

#define INITIAL_HEAP		128

/* How many centroids before its turn one is fetched into the caches */
#define ROWS_AHEAD			4

/*
 * Groups opened: so many, and for the root of as many groups as could hold the
 * lists expected.  Of word vectors and SIFT in 8,000 lists these had .99 of the
 * nearest 16 to 400; what is missed are the farther ones of them.
 */
#define GROUPS_OPENED		10
#define GROUPS_PER_ROOT		14

/*
 * Bounds held at first, for each list that is expected to be taken: some are
 * thrown out as others come, and more lists are compared than taken.
 */
#define BOUNDS_PER_LIST		12
#define MIN_BOUNDS			256

/* When more lists are wanted than expected, or bounds are used up: so many times as many */
#define GROWTH				4

/* A walk over the blocks of centroid codes */
typedef struct CodeWalk
{
	IvfpqCoarse *coarse;
	uint32		next_group;		/* the one after that of bound */
	VqBound		bound;
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
	VqPool	   *pool = &coarse->pool;

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
								coarse->epsilon, &walk->bound);
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

static void
allocate_pool(IvfpqCoarse *coarse, size_t capacity)
{
	memset(&coarse->pool, 0, sizeof(VqPool));
	coarse->pool.capacity = capacity;
	coarse->pool.items = palloc_extended(capacity * sizeof(VqItem), MCXT_ALLOC_HUGE);
}

/* The nearest groups: so many of them, and as many as have the lists expected */
static void
open_groups(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	double		lists_per_group = (double) model->meta.nlists / model->meta.ngroups;
	size_t		wanted = GROUPS_OPENED + GROUPS_PER_ROOT * sqrt(coarse->expected / lists_per_group);
	uint32		nlists = 0;
	const VqItem *item;

	while ((coarse->groups.next < wanted || nlists < coarse->expected) &&
		   (item = vq_select_take(&coarse->groups)) != NULL)
	{
		uint32		left = model->group_lists[item->id_high + 1] - model->group_lists[item->id_high];
		uint32	   *waiting = coarse->waiting + model->group_blocks[item->id_high];

		nlists += left;
		for (; left >= VQ_BLOCK_LANES; left -= VQ_BLOCK_LANES)
			*waiting++ = PG_UINT32_MAX;
		if (left > 0)
			*waiting = (1U << left) - 1;
	}
}

static bool
has_closed_groups(const IvfpqCoarse *coarse)
{
	return coarse->groups.next < coarse->groups.nitems;
}

/* Bounds of the lists in the nearest groups, those of the lists expected at least */
static void
find_bounds(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	CodeWalk	walk = {.coarse = coarse};
	size_t		capacity = Max(MIN_BOUNDS, (size_t) coarse->expected * BOUNDS_PER_LIST);

	open_groups(coarse);
	allocate_pool(coarse, Min(capacity, Max(MIN_BOUNDS, model->meta.nlists)));
	ivfpq_chunks_walk(coarse->index, model->meta.coarse_code_start,
					  vq_block_bytes(&model->coarse_shape, VQ_BLOCK_LANES),
					  model->group_blocks[model->meta.ngroups], coarse->waiting, bounds_of_blocks, &walk);
	vq_select_init(&coarse->select, coarse->pool.items, coarse->pool.nitems);
}

/* Bounds of more lists */
static void
find_more_bounds(IvfpqCoarse *coarse)
{
	coarse->expected = Min(coarse->expected, coarse->model->meta.nlists / GROWTH + 1) * GROWTH;
	pfree(coarse->pool.items);
	find_bounds(coarse);
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

/* Exact values of all lists */
static void
compare_all(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	uint32		nlists = model->meta.nlists;

	allocate_pool(coarse, nlists);
	coarse->distance_sq = palloc0(nlists * sizeof(float));
	coarse->norm_sq = palloc0(nlists * sizeof(float));
	if (model->meta.codec != IVFPQ_CODEC_NONE)
		ivfpq_model_distances(coarse->index, model, coarse->query->q_model, 0, nlists,
							  coarse->distance_sq, coarse->norm_sq);
	for (uint32 i = 0; i < nlists; i++)
	{
		VqItem	   *item = &coarse->pool.items[i];

		memset(item, 0, sizeof(VqItem));
		item->id_high = i;
		if (model->meta.codec != IVFPQ_CODEC_NONE)
			item->key = vq_codec_list_value(&model->codec, coarse->query,
											coarse->distance_sq[i], coarse->norm_sq[i]);
	}
	coarse->pool.nitems = nlists;
	vq_select_init(&coarse->select, coarse->pool.items, nlists);
}

void
ivfpq_coarse_begin(IvfpqCoarse *coarse, Relation index, const IvfpqModel *model,
				   const VqQuery *query, uint32 expected, float epsilon)
{
	memset(coarse, 0, sizeof(IvfpqCoarse));
	coarse->index = index;
	coarse->model = model;
	coarse->query = query;
	coarse->epsilon = epsilon;
	coarse->is_coded = model->coarse_shape.m > 0;
	coarse->expected = expected;
	if (coarse->is_coded)
	{
		begin_groups(coarse);
		find_bounds(coarse);
		coarse->allocated = INITIAL_HEAP;
		coarse->heap = palloc(coarse->allocated * sizeof(IvfpqNearList));
	}
	else
		compare_all(coarse);
}

/* Nearer first, the lower number first of equals */
static bool
is_nearer(const IvfpqNearList *a, const IvfpqNearList *b)
{
	if (a->value != b->value)
		return a->value < b->value;
	return a->list_no < b->list_no;
}

static void
swap_lists(IvfpqNearList *a, IvfpqNearList *b)
{
	IvfpqNearList t = *a;

	*a = *b;
	*b = t;
}

/* Compare a list exactly, and put it on the heap */
static void
compare_list(IvfpqCoarse *coarse, uint32 list_no)
{
	IvfpqNearList list = {.list_no = list_no};
	size_t		i;

	ivfpq_model_distances(coarse->index, coarse->model, coarse->query->q_model, list_no, 1,
						  &list.distance_sq, &list.norm_sq);
	list.value = vq_codec_list_value(&coarse->model->codec, coarse->query,
									 list.distance_sq, list.norm_sq);
	if (coarse->nheap == coarse->allocated)
	{
		coarse->allocated *= 2;
		coarse->heap = repalloc(coarse->heap, coarse->allocated * sizeof(IvfpqNearList));
	}
	i = coarse->nheap++;
	coarse->heap[i] = list;
	while (i > 0 && is_nearer(&coarse->heap[i], &coarse->heap[(i - 1) / 2]))
	{
		swap_lists(&coarse->heap[i], &coarse->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
}

static void
take_from_heap(IvfpqCoarse *coarse, IvfpqNearList *list)
{
	size_t		i = 0;

	*list = coarse->heap[0];
	coarse->heap[0] = coarse->heap[--coarse->nheap];
	for (;;)
	{
		size_t		nearest = i;

		for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < coarse->nheap; child++)
			if (is_nearer(&coarse->heap[child], &coarse->heap[nearest]))
				nearest = child;
		if (nearest == i)
			return;
		swap_lists(&coarse->heap[i], &coarse->heap[nearest]);
		i = nearest;
	}
}

/* The smallest bound that is left, or NULL */
static const VqItem *
next_bound(IvfpqCoarse *coarse)
{
	const VqItem *item = vq_select_peek(&coarse->select);

	while (item == NULL && (coarse->pool.has_cut || has_closed_groups(coarse)))
	{
		find_more_bounds(coarse);
		item = vq_select_peek(&coarse->select);
	}
	return item;
}

/* Compare lists until it is clear which is the next */
static bool
next_coded(IvfpqCoarse *coarse, IvfpqNearList *list)
{
	const VqItem *item;

	if (coarse->ntaken == coarse->expected && has_closed_groups(coarse))
		find_more_bounds(coarse);
	item = next_bound(coarse);
	while (item != NULL && (coarse->nheap == 0 || coarse->heap[0].value > item->key))
	{
		const VqItem *ahead = vq_select_ahead(&coarse->select, ROWS_AHEAD);

		if (ahead)
			ivfpq_rows_touch(coarse->index, &coarse->model->meta, list_of(coarse, ahead));
		compare_list(coarse, list_of(coarse, item));
		coarse->waiting[item->id_high / VQ_BLOCK_LANES] &= ~(1U << item->id_high % VQ_BLOCK_LANES);
		vq_select_take(&coarse->select);
		item = next_bound(coarse);
	}
	if (coarse->nheap == 0)
		return false;
	take_from_heap(coarse, list);
	coarse->ntaken++;
	return true;
}

/* The values of all are known */
static bool
next_compared(IvfpqCoarse *coarse, IvfpqNearList *list)
{
	const VqItem *item = vq_select_take(&coarse->select);

	if (item == NULL)
		return false;
	list->list_no = item->id_high;
	list->value = item->key;
	list->distance_sq = coarse->distance_sq[list->list_no];
	list->norm_sq = coarse->norm_sq[list->list_no];
	return true;
}

bool
ivfpq_coarse_next(IvfpqCoarse *coarse, IvfpqNearList *list)
{
	return coarse->is_coded ? next_coded(coarse, list) : next_compared(coarse, list);
}
