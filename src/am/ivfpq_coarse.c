/*-------------------------------------------------------------------------
 *
 * ivfpq_coarse.c
 *	  The lists of an index, nearest first.
 *
 * Centroids are searched as rows are: their codes give a lower bound of each,
 * and they are compared exactly in order of that bound, only as far as the
 * next list needs.  Ten thousand lists of 300 dimensions cost the reading of
 * 1 MB of codes and of a hundred centroids instead of 3 MB of centroids.  With
 * few lists all centroids are compared at once.
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
 * Bounds held at first, for each list that is expected to be taken: some are
 * thrown out as others come, and more lists are compared than taken.  When
 * they are used up, the codes are scored again for so many times as many.
 */
#define BOUNDS_PER_LIST		12
#define MIN_BOUNDS			256
#define GROWTH				8

/* A walk over the blocks of centroid codes */
typedef struct CodeWalk
{
	IvfpqCoarse *coarse;
	VqQuery		query;			/* the tables of the coarse codec */
	VqBound		bound;
	size_t		block_bytes;
} CodeWalk;

static void
bounds_of_blocks(uint32 first_block, uint32 nblocks, const char *blocks, void *arg)
{
	CodeWalk   *walk = arg;
	const VqBlockShape *shape = &walk->coarse->model->coarse_shape;
	uint32		nlists = walk->coarse->model->meta.nlists;
	VqPool	   *pool = &walk->coarse->pool;

	for (uint32 i = 0; i < nblocks; i++)
	{
		const char *block = blocks + i * walk->block_bytes;
		uint32		first = (first_block + i) * VQ_BLOCK_LANES;
		uint32_t	sums[VQ_BLOCK_LANES];
		float		low[VQ_BLOCK_LANES];
		uint32_t	is_near;

		vq_kernels->scan4(vq_block_codes(block, shape), VQ_BLOCK_LANES, walk->query.lut, shape->m, sums);
		is_near = vq_kernels->bound(vq_block_a(block, shape), vq_block_s(block, shape),
									vq_block_e(block, shape), sums, VQ_BLOCK_LANES, &walk->bound,
									vq_pool_ceiling(pool), low);
		if (nlists - first < VQ_BLOCK_LANES)
			is_near &= (1U << (nlists - first)) - 1;
		for (; is_near != 0; is_near &= is_near - 1)
		{
			int			j = pg_rightmost_one_pos32(is_near);
			VqItem		item = {.key = isnan(low[j]) ? -INFINITY : low[j], .id_high = first + j};

			if (!walk->coarse->has_floor || vq_item_less(&walk->coarse->floor, &item))
				vq_pool_add(pool, &item);
		}
	}
}

/* Lower bounds of lists, from their codes: the smallest ones above floor */
static void
score_codes(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	const VqCodec *codec = &model->coarse;
	const VqPq *pq = &codec->pq;
	CodeWalk	walk = {.coarse = coarse};

	walk.query.q_model = palloc(pq->m * pq->dsub * sizeof(float));
	walk.query.lut_floats = palloc(pq->m * pq->ksub * sizeof(float));
	walk.query.lut = palloc(pq->m * pq->ksub);
	memcpy(walk.query.q_model, coarse->query->q_model, pq->dim * sizeof(float));
	vq_codec_query_tables(vq_kernels, codec, &walk.query);

	/* residuals of centroids are against the origin */
	vq_codec_list_bound(codec, &walk.query, walk.query.q_norm_sq, 0.0f, coarse->epsilon, &walk.bound);
	walk.block_bytes = vq_block_bytes(&model->coarse_shape, VQ_BLOCK_LANES);
	ivfpq_chunks_walk(coarse->index, model->meta.coarse_code_start, walk.block_bytes,
					  (model->meta.nlists + VQ_BLOCK_LANES - 1) / VQ_BLOCK_LANES,
					  bounds_of_blocks, &walk);
	pfree(walk.query.q_model);
	pfree(walk.query.lut_floats);
	pfree(walk.query.lut);
	vq_select_init(&coarse->select, coarse->pool.items, coarse->pool.nitems);
}

/* Exact values of all lists */
static void
compare_all(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	uint32		nlists = model->meta.nlists;

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

static void
allocate_pool(IvfpqCoarse *coarse, size_t capacity)
{
	memset(&coarse->pool, 0, sizeof(VqPool));
	coarse->pool.capacity = capacity;
	coarse->pool.items = palloc_extended(capacity * sizeof(VqItem), MCXT_ALLOC_HUGE);
}

/* The smallest bound, or value, that is left, or NULL */
static const VqItem *
next_bound(IvfpqCoarse *coarse)
{
	const VqItem *item = vq_select_peek(&coarse->select);

	if (item == NULL && coarse->pool.has_cut)
	{
		size_t		capacity = coarse->pool.capacity * GROWTH;

		coarse->floor = coarse->pool.cut;
		coarse->has_floor = true;
		pfree(coarse->pool.items);
		allocate_pool(coarse, Min(capacity, Max(MIN_BOUNDS, coarse->model->meta.nlists)));
		score_codes(coarse);
		item = vq_select_peek(&coarse->select);
	}
	return item;
}

void
ivfpq_coarse_begin(IvfpqCoarse *coarse, Relation index, const IvfpqModel *model,
				   const VqQuery *query, uint32 expected, float epsilon)
{
	uint32		nlists = model->meta.nlists;

	memset(coarse, 0, sizeof(IvfpqCoarse));
	coarse->index = index;
	coarse->model = model;
	coarse->query = query;
	coarse->epsilon = epsilon;
	coarse->is_coded = model->coarse_shape.m > 0;
	if (coarse->is_coded)
	{
		allocate_pool(coarse, Min(Max(nlists, MIN_BOUNDS), Max(MIN_BOUNDS, (size_t) expected * BOUNDS_PER_LIST)));
		score_codes(coarse);
		coarse->allocated = INITIAL_HEAP;
		coarse->heap = palloc(coarse->allocated * sizeof(IvfpqNearList));
	}
	else
	{
		allocate_pool(coarse, nlists);
		compare_all(coarse);
	}
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

bool
ivfpq_coarse_next(IvfpqCoarse *coarse, IvfpqNearList *list)
{
	const VqItem *item = next_bound(coarse);

	if (!coarse->is_coded)
	{
		if (item == NULL)
			return false;
		list->list_no = item->id_high;
		list->value = item->key;
		list->distance_sq = coarse->distance_sq[list->list_no];
		list->norm_sq = coarse->norm_sq[list->list_no];
		vq_select_take(&coarse->select);
		return true;
	}

	while (item != NULL && (coarse->nheap == 0 || coarse->heap[0].value > item->key))
	{
		const VqItem *ahead = vq_select_ahead(&coarse->select, ROWS_AHEAD);

		if (ahead)
			ivfpq_rows_touch(coarse->index, &coarse->model->meta, ahead->id_high);
		compare_list(coarse, item->id_high);
		vq_select_take(&coarse->select);
		item = next_bound(coarse);
	}
	if (coarse->nheap == 0)
		return false;
	take_from_heap(coarse, list);
	return true;
}
