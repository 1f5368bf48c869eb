/*-------------------------------------------------------------------------
 *
 * vq_select.c
 *	  Incremental quicksort, and the quickselect it is made of.
 *
 * The stack holds the positions of pivots that are in their final place, the
 * nearest on top.  The segment between the items already sorted and the top
 * of the stack is the one to look into next; nothing behind it can be smaller.
 *
 * The textbook picks pivots in the middle.  Here few items are ever taken of
 * very many, so the pivot of a long segment is aimed at its low end: that pass
 * moves few items, is easy to predict for the processor, and leaves little to
 * do for the next.  Once many have been taken, pivots go back to the middle,
 * because whoever took a tenth is likely to take the rest.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_select.h"

#include <assert.h>
#include <string.h>

static_assert(sizeof(VqItem) == 16, "items are moved in two pieces");

#define SORT_BELOW		32		/* segments up to this are sorted at once */
#define LANES			8		/* divides that */
#define LONG_SEGMENT	512		/* and from this on, pivots are aimed */
#define SAMPLE_SIZE		32
#define LOW_SHARE		8		/* aim at one in this many */

/* What pivots are drawn with; any constant will do */
#define PIVOT_SEED		UINT64_C(0x766567707169)

/* In the same two pieces each way: a load from two stores would wait for them */
static inline void
swap_items(VqItem *a, VqItem *b)
{
	uint64_t	first[2];
	uint64_t	second[2];

	memcpy(&first[0], a, 8);
	memcpy(&second[0], (char *) a + 8, 8);
	memcpy(&first[1], b, 8);
	memcpy(&second[1], (char *) b + 8, 8);
	memcpy(a, &first[1], 8);
	memcpy((char *) a + 8, &second[1], 8);
	memcpy(b, &first[0], 8);
	memcpy((char *) b + 8, &second[0], 8);
}

static void
insertion_sort(VqItem *items, size_t nitems)
{
	for (size_t i = 1; i < nitems; i++)
	{
		VqItem		item = items[i];
		size_t		hole = i;

		while (hole > 0 && vq_item_less(&item, &items[hole - 1]))
		{
			items[hole] = items[hole - 1];
			hole--;
		}
		items[hole] = item;
	}
}

/*
 * Up to SORT_BELOW items, without a branch that depends on how they compare: each
 * goes to the place that the number of smaller keys says.  If two say the same, as
 * their keys are equal, all are sorted by insertion.
 */
static void
sort_short(VqItem *items, size_t nitems)
{
	VqItem		copies[SORT_BELOW];
	float		keys[SORT_BELOW];
	uint32_t	places[SORT_BELOW];
	uint32_t	taken = 0;

	if (nitems < 2)
		return;
	for (size_t i = 0; i < nitems; i++)
		keys[i] = items[i].key;
	for (size_t i = nitems; i % LANES != 0; i++)
		keys[i] = INFINITY;
	for (size_t first = 0; first < nitems; first += LANES)
	{
		uint32_t	nsmaller[LANES] = {0};

		for (size_t i = 0; i < nitems; i++)
			for (size_t lane = 0; lane < LANES; lane++)
				nsmaller[lane] += keys[i] < keys[first + lane];
		memcpy(places + first, nsmaller, sizeof(nsmaller));
	}
	for (size_t i = 0; i < nitems; i++)
		taken |= UINT32_C(1) << places[i];
	if (taken != UINT32_MAX >> (SORT_BELOW - nitems))
	{
		insertion_sort(items, nitems);
		return;
	}
	memcpy(copies, items, nitems * sizeof(VqItem));
	for (size_t i = 0; i < nitems; i++)
		items[places[i]] = copies[i];
}

static void
sift_down(VqItem *items, size_t nitems, size_t root)
{
	VqItem		item = items[root];

	for (;;)
	{
		size_t		child = 2 * root + 1;

		if (child >= nitems)
			break;
		if (child + 1 < nitems && vq_item_less(&items[child], &items[child + 1]))
			child++;
		if (!vq_item_less(&item, &items[child]))
			break;
		items[root] = items[child];
		root = child;
	}
	items[root] = item;
}

static void
heap_sort(VqItem *items, size_t nitems)
{
	for (size_t root = nitems / 2; root-- > 0;)
		sift_down(items, nitems, root);
	for (size_t end = nitems; end-- > 1;)
	{
		swap_items(&items[0], &items[end]);
		sift_down(items, end, 0);
	}
}

/*
 * Position of a pivot of which about wanted of nitems are smaller: the item of
 * that rank in a random sample for long segments, the middle of three
 * otherwise.
 */
static size_t
choose_pivot(const VqItem *items, size_t nitems, size_t wanted, VqRng *rng)
{
	size_t		sample[SAMPLE_SIZE];
	size_t		nsample = nitems >= LONG_SEGMENT ? SAMPLE_SIZE : 3;
	size_t		rank = nitems >= LONG_SEGMENT ? (size_t) ((double) wanted / (double) nitems * SAMPLE_SIZE) : 1;

	for (size_t i = 0; i < nsample; i++)
	{
		size_t		position = (size_t) vq_rng_below(rng, nitems);
		size_t		hole = i;

		while (hole > 0 && vq_item_less(&items[position], &items[sample[hole - 1]]))
		{
			sample[hole] = sample[hole - 1];
			hole--;
		}
		sample[hole] = position;
	}
	return sample[rank < nsample ? rank : nsample - 1];
}

/*
 * Split 2 or more items around the one at pivot_at and return its final
 * position: all before it are smaller, none behind it is.  No branch depends
 * on how an item compares (Lomuto's scheme; Edelkamp & Weiss, ESA 2016, on why
 * that pays), but for keys that are equal, of which there are few, or many, but
 * seldom some.
 */
static size_t
split(VqItem *items, size_t nitems, size_t pivot_at)
{
	VqItem		pivot = items[pivot_at];
	size_t		nsmaller = 0;

	items[pivot_at] = items[nitems - 1];
	for (size_t i = 0; i < nitems - 1; i++)
	{
		bool		is_smaller = items[i].key < pivot.key;

		if (items[i].key == pivot.key)
			is_smaller = vq_item_less(&items[i], &pivot);
		swap_items(&items[i], &items[nsmaller]);
		nsmaller += is_smaller;
	}
	items[nitems - 1] = items[nsmaller];
	items[nsmaller] = pivot;
	return nsmaller;
}

void
vq_select_init(VqSelect *select, VqItem *items, size_t nitems)
{
	select->items = items;
	select->nitems = nitems;
	select->next = 0;
	select->sorted = 0;
	select->depth = 0;
	vq_rng_seed(&select->rng, PIVOT_SEED);
}

/* Bring the smallest item that is not in its final place, or a few more, there */
static void
sort_more(VqSelect *select)
{
	for (;;)
	{
		VqItem	   *items = select->items + select->sorted;
		size_t		end = select->depth > 0 ? select->pivots[select->depth - 1] : select->nitems;
		size_t		nitems = end - select->sorted;
		size_t		wanted;

		if (nitems <= SORT_BELOW || select->depth == VQ_SELECT_STACK)
		{
			if (nitems <= SORT_BELOW)
				sort_short(items, nitems);
			else
				heap_sort(items, nitems);

			/* The pivot that ends the segment is in its place as well */
			select->sorted = end;
			if (select->depth > 0)
			{
				select->sorted++;
				select->depth--;
			}
			return;
		}
		wanted = select->sorted < nitems / LOW_SHARE ? nitems / LOW_SHARE : nitems / 2;
		select->pivots[select->depth++] = select->sorted +
			split(items, nitems, choose_pivot(items, nitems, wanted, &select->rng));
	}
}

const VqItem *
vq_select_ahead(VqSelect *select, size_t ahead)
{
	size_t		place = select->next + ahead;

	if (place >= select->nitems)
		return NULL;
	while (select->sorted <= place)
		sort_more(select);
	return &select->items[place];
}

const VqItem *
vq_select_peek(VqSelect *select)
{
	return vq_select_ahead(select, 0);
}

const VqItem *
vq_select_take(VqSelect *select)
{
	const VqItem *item = vq_select_peek(select);

	if (item != NULL)
		select->next++;
	return item;
}

void
vq_pool_keep(VqPool *pool, size_t least, size_t most)
{
	size_t		begin = 0;
	size_t		end = pool->nitems;
	size_t		place;
	VqRng		rng;

	if (pool->nitems <= most)
		return;
	vq_rng_seed(&rng, PIVOT_SEED);
	for (;;)
	{
		VqItem	   *items = pool->items + begin;
		size_t		nitems = end - begin;

		if (nitems == 1)
			place = begin;
		else
			place = begin + split(items, nitems,
								  choose_pivot(items, nitems, (least + most) / 2 - begin, &rng));
		if (place + 1 >= least && place < most)
			break;
		if (place < least)
			begin = place + 1;
		else
			end = place;
	}
	pool->nitems = place + 1;
	pool->cut = pool->items[place];
	pool->has_cut = true;
}

void
vq_pool_cut(VqPool *pool)
{
	vq_pool_keep(pool, pool->capacity / 4, pool->capacity - pool->capacity / 4);
}
