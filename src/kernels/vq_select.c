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

#define SORT_BELOW		16		/* segments up to this are sorted by insertion */
#define LONG_SEGMENT	512		/* and from this on, pivots are aimed */
#define SAMPLE_SIZE		32
#define LOW_SHARE		8		/* aim at one in this many */

/* What pivots are drawn with; any constant will do */
#define PIVOT_SEED		UINT64_C(0x766567707169)

static void
swap_items(VqItem *a, VqItem *b)
{
	VqItem		held = *a;

	*a = *b;
	*b = held;
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
 * position: none before it is larger, none behind it smaller.  Both scans stop
 * at items equal to the pivot, so equal items end up on both sides evenly.
 */
static size_t
split(VqItem *items, size_t nitems, size_t pivot_at)
{
	VqItem		pivot = items[pivot_at];
	size_t		front = 0;
	size_t		back = nitems;

	swap_items(&items[0], &items[pivot_at]);
	for (;;)
	{
		do
			front++;
		while (front < nitems && vq_item_less(&items[front], &pivot));

		/* stops at items[0], the pivot, at the latest */
		do
			back--;
		while (vq_item_less(&pivot, &items[back]));

		if (front >= back)
			break;
		swap_items(&items[front], &items[back]);
	}
	swap_items(&items[0], &items[back]);
	return back;
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

/* Bring the smallest item that is left, or a few more, to its final place */
static void
sort_more(VqSelect *select)
{
	for (;;)
	{
		VqItem	   *items = select->items + select->next;
		size_t		end = select->depth > 0 ? select->pivots[select->depth - 1] : select->nitems;
		size_t		nitems = end - select->next;
		size_t		wanted;

		if (nitems <= SORT_BELOW || select->depth == VQ_SELECT_STACK)
		{
			if (nitems <= SORT_BELOW)
				insertion_sort(items, nitems);
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
		wanted = select->next < nitems / LOW_SHARE ? nitems / LOW_SHARE : nitems / 2;
		select->pivots[select->depth++] = select->next +
			split(items, nitems, choose_pivot(items, nitems, wanted, &select->rng));
	}
}

const VqItem *
vq_select_peek(VqSelect *select)
{
	if (select->next >= select->nitems)
		return NULL;
	if (select->next >= select->sorted)
		sort_more(select);
	return &select->items[select->next];
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
vq_select_partition(VqItem *items, size_t nitems, size_t nsmallest)
{
	VqRng		rng;

	vq_rng_seed(&rng, PIVOT_SEED);
	while (nitems > SORT_BELOW)
	{
		size_t		place = split(items, nitems, choose_pivot(items, nitems, nsmallest, &rng));

		if (place == nsmallest || place + 1 == nsmallest)
			return;
		if (place > nsmallest)
			nitems = place;
		else
		{
			items += place + 1;
			nitems -= place + 1;
			nsmallest -= place + 1;
		}
	}
	insertion_sort(items, nitems);
}
