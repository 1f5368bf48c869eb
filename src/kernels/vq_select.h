/*-------------------------------------------------------------------------
 *
 * vq_select.h
 *	  The smallest of many, one at a time, without sorting what is never
 *	  asked for.
 *
 * Incremental quicksort (Paredes & Navarro, ALENEX 2006): taking the k
 * smallest of n costs O(n + k log k) expected, and k need not be known.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_SELECT_H
#define VQ_SELECT_H

#include <math.h>

#include "kernels/vq_rng.h"

/* A candidate: order by key, then by id, so that the order is total.  The note is the caller's. */
typedef struct VqItem
{
	float		key;			/* never NaN; minus infinity is allowed */
	uint32_t	id_high;
	uint16_t	id_low;
	uint16_t	note_low;
	uint32_t	note_high;
} VqItem;

static inline bool
vq_item_less(const VqItem *a, const VqItem *b)
{
	if (a->key != b->key)
		return a->key < b->key;
	if (a->id_high != b->id_high)
		return a->id_high < b->id_high;
	return a->id_low < b->id_low;
}

/*
 * The smallest of a stream of items, in a bounded array: about half of a full
 * array, that of the larger ones, is thrown out, and from then on whatever is
 * larger than the largest that was kept, the cut.  So all items up to the cut
 * are in the pool, which is at least a quarter of its capacity.
 */
typedef struct VqPool
{
	VqItem	   *items;			/* the caller's array, in no order */
	size_t		nitems;
	size_t		capacity;		/* 8 or more */
	bool		has_cut;		/* items above cut were thrown out */
	VqItem		cut;
} VqPool;

/*
 * Throw out the larger items of a pool of more than most, so that between least
 * and most are left; 1 <= least < most.  Those thrown out stay in the array, behind the others.
 */
extern void vq_pool_keep(VqPool *pool, size_t least, size_t most);

/* Of a full pool, about half */
extern void vq_pool_cut(VqPool *pool);

static inline void
vq_pool_add(VqPool *pool, VqItem item)
{
	if (pool->nitems == pool->capacity)
		vq_pool_cut(pool);
	if (!pool->has_cut || item.key < pool->cut.key || vq_item_less(&item, &pool->cut))
	{
		VqItem	   *place = &pool->items[pool->nitems++];

		/* Field by field: a copy of the whole would wait for the fields to be stored */
		place->key = item.key;
		place->id_high = item.id_high;
		place->id_low = item.id_low;
		place->note_low = item.note_low;
		place->note_high = item.note_high;
	}
}

/* Items with a larger key than this need not be added */
static inline float
vq_pool_ceiling(const VqPool *pool)
{
	return pool->has_cut ? pool->cut.key : INFINITY;
}

#define VQ_SELECT_STACK 128

typedef struct VqSelect
{
	VqItem	   *items;			/* the caller's array, reordered in place */
	size_t		nitems;
	size_t		next;			/* items before this one have been taken */
	size_t		sorted;			/* items before this one are where they belong */
	size_t		depth;			/* pivots on the stack */
	size_t		pivots[VQ_SELECT_STACK];
	VqRng		rng;
} VqSelect;

/* Start over an array of nitems, which stays the caller's */
extern void vq_select_init(VqSelect *select, VqItem *items, size_t nitems);

/*
 * The smallest item not yet taken, or NULL when all are.  Peek leaves it, take
 * removes it; the pointer is good until the next call.
 */
extern const VqItem *vq_select_peek(VqSelect *select);
extern const VqItem *vq_select_take(VqSelect *select);

/* The item that will be the smallest after so many more have been taken, or NULL */
extern const VqItem *vq_select_ahead(VqSelect *select, size_t ahead);

#endif							/* VQ_SELECT_H */
