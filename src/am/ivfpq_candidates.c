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
#include "storage/itemptr.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

/* Below this many, a smaller work_mem is not obeyed: 48 kB */
#define MIN_CAPACITY		4096
#define INITIAL_ALLOCATION	4096
#define INITIAL_LISTS		64

/* How many lists, and pages of each, to ask for before their turn comes */
#define PREFETCH_LISTS		8
#define PREFETCH_PAGES		32

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
	batch->scratch = palloc(VQ_BLOCK_LANES * Max(model->shape.m, 1));
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

void
ivfpq_candidates_clear(IvfpqCandidates *candidates)
{
	candidates->nitems = 0;
	candidates->has_taken = false;
	candidates->has_cut = false;
	vq_select_init(&candidates->select, candidates->items, 0);
}

/* What the walk over one list needs */
typedef struct ScoreWalk
{
	IvfpqCandidates *candidates;
	const IvfpqBatch *batch;
	const IvfpqProbe *probe;
} ScoreWalk;

/*
 * Make room for one more item: by a larger array, or when there is no more
 * memory to be had, by leaving out the half with the larger bounds.
 */
static void
make_room(IvfpqCandidates *candidates)
{
	if (candidates->allocated < candidates->capacity)
	{
		candidates->allocated = Min(candidates->capacity,
									Max(INITIAL_ALLOCATION, 2 * candidates->allocated));
		if (candidates->items == NULL)
			candidates->items = MemoryContextAllocHuge(candidates->context,
													   candidates->allocated * sizeof(VqItem));
		else
			candidates->items = repalloc_huge(candidates->items,
											  candidates->allocated * sizeof(VqItem));
		return;
	}

	candidates->nitems /= 2;
	vq_select_partition(candidates->items, candidates->allocated, candidates->nitems);
	candidates->has_cut = true;
	candidates->cut = candidates->items[0];
	for (size_t i = 1; i < candidates->nitems; i++)
		if (vq_item_less(&candidates->cut, &candidates->items[i]))
			candidates->cut = candidates->items[i];
}

static void
add_item(IvfpqCandidates *candidates, const IvfpqProbe *probe, float key, const uint8_t *tid_bytes)
{
	ItemPointerData tid;
	VqItem		item;

	memcpy(&tid, tid_bytes, VQ_TID_BYTES);
	item.key = isnan(key) ? -INFINITY : key;
	item.id_high = ItemPointerGetBlockNumberNoCheck(&tid);
	item.id_mid = 0;
	item.id_low = ItemPointerGetOffsetNumberNoCheck(&tid);

	if (candidates->has_cut && vq_item_less(&candidates->cut, &item))
		return;
	if (probe->has_floor && !vq_item_less(&probe->floor, &item))
		return;
	if (candidates->nitems == candidates->allocated)
	{
		make_room(candidates);
		if (candidates->has_cut && vq_item_less(&candidates->cut, &item))
			return;
	}
	candidates->items[candidates->nitems++] = item;
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
	float		ceiling = candidates->has_cut ? candidates->cut.key : INFINITY;

	if (used == 0)
		return;
	if (shape->m > 0)
	{
		vq_block_sums(kernels, block, shape, walk->batch->query->lut, walk->batch->scratch, sums);
		kernels->bound(vq_block_a(block, shape), vq_block_s(block, shape), vq_block_e(block, shape),
					   sums, capacity, &walk->probe->bound, low);
	}
	else
		for (size_t i = 0; i < used; i++)
			low[i] = -INFINITY;

	for (size_t i = 0; i < used; i++)
		if (!(low[i] > ceiling) && vq_block_is_live(block, shape, i))
			add_item(candidates, walk->probe, low[i], tids + i * VQ_TID_BYTES);
	candidates->nscored += used;
}

/* Score lists and add their items to those held */
static void
collect(IvfpqCandidates *candidates, const IvfpqBatch *batch, uint32 first_list)
{
	ScoreWalk	walk = {.candidates = candidates, .batch = batch};
	int64		reads_before = pgBufferUsage.shared_blks_read;
	uint32		prefetched = 0;

	for (uint32 i = first_list; i < batch->nlists; i++)
	{
		/* asking for what is in shared buffers already would cost as much as reading it */
		if (pgBufferUsage.shared_blks_read > reads_before)
			for (prefetched = Max(prefetched, i + 1);
				 prefetched < Min(batch->nlists, i + 1 + PREFETCH_LISTS); prefetched++)
				ivfpq_list_prefetch(batch->index, &batch->lists[prefetched].entry, PREFETCH_PAGES);

		walk.probe = &batch->lists[i];
		ivfpq_list_walk(batch->index, batch->model, &walk.probe->entry, walk.probe->list_no,
						batch->snapshot, NULL, score_block, &walk);
	}
	vq_select_init(&candidates->select, candidates->items, candidates->nitems);
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
	size_t		next = candidates->select.next;

	candidates->capacity = Max(MIN_CAPACITY, (size_t) work_mem * 1024 / 2 / sizeof(VqItem));
	candidates->nscored = 0;
	if (candidates->has_taken)
		raise_floors(batch, first_list, &candidates->taken);
	candidates->nitems -= next;
	if (next > 0)
		memmove(candidates->items, candidates->items + next, candidates->nitems * sizeof(VqItem));
	collect(candidates, batch, first_list);
}

const VqItem *
ivfpq_candidates_peek(IvfpqCandidates *candidates, IvfpqBatch *batch)
{
	const VqItem *item = vq_select_peek(&candidates->select);

	while (item == NULL && candidates->has_cut)
	{
		int64		nscored = candidates->nscored;

		raise_floors(batch, batch->nlists, &candidates->cut);
		candidates->nitems = 0;
		candidates->has_cut = false;
		collect(candidates, batch, 0);
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
}
