/*-------------------------------------------------------------------------
 *
 * ivfpq_candidates.c
 *	  Scores the lists of a batch and hands out candidates in order of their
 *	  bounds, within work_mem.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_search.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

/*
 * Items held at first, if nothing better is known, and how many times as many
 * after each pass over the batch that had to be repeated.  Below MIN_CAPACITY,
 * 64 kB, work_mem is not obeyed.
 */
#define FIRST_CAPACITY		256
#define GROWTH				8
#define MIN_CAPACITY		4096

/* Of those held some are thrown out as others come: hold this many times what is expected */
#define SPARE				4

#define INITIAL_LISTS		64

/* How many lists, and pages of each, to ask for before their turn comes */
#define PREFETCH_LISTS		8
#define PREFETCH_PAGES		32

/* How many pages before their turn to have codes fetched into the caches */
#define PAGES_AHEAD			3

void
ivfpq_batch_init(IvfpqBatch *batch, Relation index, const IvfpqModel *model,
				 const VqQuery *query, Snapshot snapshot)
{
	memset(batch, 0, sizeof(IvfpqBatch));
	batch->index = index;
	batch->model = model;
	batch->query = query;
	batch->snapshot = snapshot;
	batch->kernels = vq_kernels;
	batch->allocated = INITIAL_LISTS;
	batch->lists = palloc(INITIAL_LISTS * sizeof(IvfpqProbe));
}

IvfpqProbe *
ivfpq_batch_add(IvfpqBatch *batch)
{
	IvfpqProbe *probe;

	if (batch->nlists == batch->allocated)
	{
		batch->allocated *= 2;
		batch->lists = repalloc_huge(batch->lists, batch->allocated * sizeof(IvfpqProbe));
	}
	probe = &batch->lists[batch->nlists++];
	probe->has_floor = false;
	return probe;
}

void
ivfpq_candidates_init(IvfpqCandidates *candidates, MemoryContext context)
{
	memset(candidates, 0, sizeof(IvfpqCandidates));
	candidates->context = context;
}

/* Make room for so many items, within work_mem; the pool is empty */
static void
set_capacity(IvfpqCandidates *candidates, size_t wanted)
{
	size_t		most = Max(MIN_CAPACITY, (size_t) work_mem * 1024 / 2 / sizeof(VqItem));
	VqPool	   *pool = &candidates->pool;

	pool->capacity = Min(most, Max(FIRST_CAPACITY, wanted));
	if (pool->capacity > candidates->allocated)
	{
		if (pool->items)
			pfree(pool->items);
		candidates->allocated = 0;
		pool->items = MemoryContextAllocHuge(candidates->context, pool->capacity * sizeof(VqItem));
		candidates->allocated = pool->capacity;
	}
}

void
ivfpq_candidates_clear(IvfpqCandidates *candidates, size_t expected)
{
	candidates->pool.nitems = 0;
	candidates->pool.has_cut = false;
	candidates->has_taken = false;
	set_capacity(candidates, expected * SPARE);
	vq_select_init(&candidates->select, candidates->pool.items, 0);
}

/* What the walk over one list needs */
typedef struct ScoreWalk
{
	IvfpqCandidates *candidates;
	const IvfpqBatch *batch;
	const IvfpqProbe *probe;
	IvfpqAhead	ahead;
} ScoreWalk;

static void
add_item(VqPool *pool, Relation index, const IvfpqProbe *probe, float key, const uint8_t *tid_bytes,
		 const uint8_t *chunk_tid_bytes)
{
	ItemPointerData tid;
	ItemPointerData chunk_tid = {0};
	VqItem		item;

	memcpy(&tid, tid_bytes, VQ_TID_BYTES);
	item.key = isnan(key) ? -INFINITY : key;
	item.id_high = ItemPointerGetBlockNumberNoCheck(&tid);

	/* ReadBuffer takes that number for a wish to extend the table */
	if (unlikely(item.id_high == InvalidBlockNumber))
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\" contains a row that does not exist", RelationGetRelationName(index)),
				 errdetail("An entry of list %u points to no block of the table.", probe->list_no),
				 errhint("Please REINDEX it.")));
	item.id_low = ItemPointerGetOffsetNumberNoCheck(&tid);
	if (chunk_tid_bytes)
		memcpy(&chunk_tid, chunk_tid_bytes, VQ_TID_BYTES);
	item.note_high = ItemPointerGetBlockNumberNoCheck(&chunk_tid);
	item.note_low = ItemPointerGetOffsetNumberNoCheck(&chunk_tid);
	if (!probe->has_floor || vq_item_less(&probe->floor, &item))
		vq_pool_add(pool, item);
}

/* Score one block in place; its page is locked, so nothing here takes long */
static void
score_block(const void *block, void *arg)
{
	ScoreWalk  *walk = arg;
	const VqBlockShape *shape = &walk->batch->model->shape;
	const VqKernels *kernels = walk->batch->kernels;
	IvfpqCandidates *candidates = walk->candidates;
	size_t		used = ((const VqBlockHeader *) block)->used;
	size_t		capacity = ((const VqBlockHeader *) block)->capacity;
	const uint8_t *tids = vq_block_tid((void *) block, shape, 0);
	uint32_t	sums[VQ_BLOCK_LANES];
	float		low[VQ_BLOCK_LANES];
	uint32_t	passes = 0xFFFFFFFF;
	uint32_t	is_near = 0xFFFFFFFF;

	if (used == 0)
		return;
	passes >>= VQ_BLOCK_LANES - used;
	candidates->nentries += used;
	if (walk->batch->nconditions == 0)
		candidates->nscored += used;
	else
	{
		passes &= vq_attributes_pass(block, shape, walk->batch->conditions, walk->batch->nconditions);
		if (passes == 0)
			return;
		candidates->nscored += pg_popcount32(passes);
	}
	if (shape->m > 0)
	{
		vq_block_sums(kernels, block, shape, walk->batch->query->lut, sums);
		is_near = kernels->bound(vq_block_a(block, shape), vq_block_s(block, shape),
								 vq_block_e(block, shape), sums, capacity, &walk->probe->bound,
								 vq_pool_ceiling(&candidates->pool), low);
	}
	else
		for (size_t i = 0; i < used; i++)
			low[i] = -INFINITY;

	for (is_near &= passes; is_near != 0; is_near &= is_near - 1)
	{
		int			i = pg_rightmost_one_pos32(is_near);

		if (vq_block_is_live(block, shape, i))
			add_item(&candidates->pool, walk->batch->index, walk->probe, low[i], tids + i * VQ_TID_BYTES,
					 vq_block_chunk_tid(block, shape, i));
	}
}

/*
 * A page is locked: ask for one that comes later.  Asking before the lock would
 * have its atomic operations wait for what was asked for.
 */
static void
visit_page(void *arg)
{
	ivfpq_ahead_fetch(&((ScoreWalk *) arg)->ahead);
}

/* Score lists and add their items to those held */
static void
collect(IvfpqCandidates *candidates, const IvfpqBatch *batch, uint32 first_list)
{
	ScoreWalk	walk = {.candidates = candidates, .batch = batch};
	int64		reads_before = pgBufferUsage.shared_blks_read;
	uint32		prefetched = 0;

	ivfpq_ahead_begin(&walk.ahead, batch, first_list);
	for (int i = 0; i < PAGES_AHEAD; i++)
		ivfpq_ahead_fetch(&walk.ahead);
	for (uint32 i = first_list; i < batch->nlists; i++)
	{
		/* asking for what is in shared buffers already would cost as much as reading it */
		if (pgBufferUsage.shared_blks_read > reads_before && ivfpq_reads_wait() &&
			effective_io_concurrency > 0)
			for (prefetched = Max(prefetched, i + 1);
				 prefetched < Min(batch->nlists, i + 1 + PREFETCH_LISTS); prefetched++)
				ivfpq_list_prefetch(batch->index, &batch->lists[prefetched].entry, PREFETCH_PAGES);

		walk.probe = &batch->lists[i];
		ivfpq_list_walk(batch->index, batch->model, &walk.probe->entry, walk.probe->list_no,
						batch->snapshot, visit_page, score_block, &walk);
	}
	vq_select_init(&candidates->select, candidates->pool.items, candidates->pool.nitems);
	candidates->is_fresh = true;
}

/* Remember of lists that their items up to this one have been handed out */
static void
raise_floors(IvfpqBatch *batch, uint32 nlists, const VqItem *item)
{
	for (uint32 i = 0; i < nlists; i++)
	{
		IvfpqProbe *probe = &batch->lists[i];

		if (!probe->has_floor || vq_item_less(&probe->floor, item))
		{
			probe->has_floor = true;
			probe->floor = *item;
		}
	}
}

void
ivfpq_candidates_add(IvfpqCandidates *candidates, IvfpqBatch *batch, uint32 first_list)
{
	VqPool	   *pool = &candidates->pool;
	size_t		next = candidates->select.next;

	candidates->nentries = 0;
	candidates->nscored = 0;
	if (candidates->has_taken)
		raise_floors(batch, first_list, &candidates->taken);

	/* the floors say it now; of lists that join in from here on nothing has been handed out before the next one is */
	candidates->has_taken = false;
	pool->nitems -= next;
	if (next > 0)
		memmove(pool->items, pool->items + next, pool->nitems * sizeof(VqItem));
	collect(candidates, batch, first_list);
}

const VqItem *
ivfpq_candidates_peek(IvfpqCandidates *candidates, IvfpqBatch *batch)
{
	const VqItem *item = vq_select_peek(&candidates->select);

	while (item == NULL && candidates->pool.has_cut)
	{
		int64		nentries = candidates->nentries;
		int64		nscored = candidates->nscored;

		raise_floors(batch, batch->nlists, &candidates->pool.cut);
		candidates->pool.nitems = 0;
		candidates->pool.has_cut = false;
		set_capacity(candidates, candidates->pool.capacity * GROWTH);
		collect(candidates, batch, 0);
		candidates->nentries = nentries;
		candidates->nscored = nscored;
		item = vq_select_peek(&candidates->select);
	}
	return item;
}

void
ivfpq_candidates_skip(IvfpqCandidates *candidates)
{
	candidates->taken = *vq_select_take(&candidates->select);
	candidates->has_taken = true;
	candidates->is_fresh = false;
}
