/*-------------------------------------------------------------------------
 *
 * test_vq_select.c
 *	  Taking the smallest, one by one, agrees with sorting.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include "kernels/vq_select.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int
compare_items(const void *a, const void *b)
{
	if (vq_item_less(a, b))
		return -1;
	return vq_item_less(b, a) ? 1 : 0;
}

/* Ways to fill an array of items; ids are distinct but for "same ids" */
typedef enum Filling
{
	FILL_RANDOM,
	FILL_EQUAL_KEYS,
	FILL_SAME_IDS,
	FILL_MANY_MINUS_INFINITY,
	FILL_FEW_KEYS,
	FILL_SORTED,
	FILL_REVERSED,
	FILL_ORGAN_PIPE,
	NFILLINGS
} Filling;

static const char *const filling_names[NFILLINGS] = {
	"random", "equal keys", "same ids", "many minus infinity", "few keys", "sorted", "reversed",
	"organ pipe",
};

static void
fill_items(Filling filling, VqRng *rng, VqItem *items, size_t nitems)
{
	for (size_t i = 0; i < nitems; i++)
	{
		/* An odd multiplier makes ids a permutation, so their order differs from that of i */
		uint64_t	id = filling == FILL_SAME_IDS ? 1 : (i + 1) * UINT64_C(0x9E3779B97F4A7C15);

		items[i].id_high = (uint32_t) (id >> 32);
		items[i].id_low = (uint16_t) id;
		items[i].note_high = items[i].id_high + 1;
		items[i].note_low = (uint16_t) (items[i].id_low + 1);
		switch (filling)
		{
			case FILL_EQUAL_KEYS:
			case FILL_SAME_IDS:
				items[i].key = 1;
				break;
			case FILL_MANY_MINUS_INFINITY:
				items[i].key = vq_rng_below(rng, 10) < 9 ? -INFINITY : (float) vq_rng_double(rng);
				break;
			case FILL_FEW_KEYS:
				items[i].key = (float) vq_rng_below(rng, 5);
				break;
			case FILL_SORTED:
				items[i].key = (float) i;
				break;
			case FILL_REVERSED:
				items[i].key = -(float) i;
				break;
			case FILL_ORGAN_PIPE:
				items[i].key = (float) (i < nitems / 2 ? i : nitems - i);
				break;
			default:
				items[i].key = (float) (vq_rng_double(rng) - 0.5);
				break;
		}
	}
}

static const size_t sizes[] = {0, 1, 2, 3, 15, 16, 17, 18, 100, 511, 512, 513, 5000};

#define NSIZES (sizeof(sizes) / sizeof(sizes[0]))
#define MAX_ITEMS 5000

static void
test_take_gives_items_in_sorted_order_with_their_notes(void)
{
	VqItem	   *items = malloc(MAX_ITEMS * sizeof(VqItem));
	VqItem	   *want = malloc(MAX_ITEMS * sizeof(VqItem));
	VqRng		rng;

	vq_rng_seed(&rng, 1);
	for (int filling = 0; filling < NFILLINGS; filling++)
	{
		for (size_t size = 0; size < NSIZES; size++)
		{
			size_t		nitems = sizes[size];
			VqSelect	select;
			size_t		nwrong = 0;

			fill_items((Filling) filling, &rng, items, nitems);
			memcpy(want, items, nitems * sizeof(VqItem));
			qsort(want, nitems, sizeof(VqItem), compare_items);
			vq_select_init(&select, items, nitems);
			for (size_t i = 0; i < nitems; i++)
			{
				const VqItem *peeked = vq_select_peek(&select);
				const VqItem *taken = vq_select_take(&select);

				if (taken == NULL || peeked != taken || compare_items(taken, &want[i]) != 0 ||
					taken->note_high != (uint32_t) (taken->id_high + 1) || taken->note_low != (uint16_t) (taken->id_low + 1))
					nwrong++;
			}
			CHECK(nwrong == 0, "%s, %zu items: %zu out of order", filling_names[filling], nitems, nwrong);
			CHECK(vq_select_peek(&select) == NULL && vq_select_take(&select) == NULL,
				  "%s, %zu items: more came out than went in", filling_names[filling], nitems);
		}
	}
	free(items);
	free(want);
}

/* As a caller does that keeps a batch: the rest is left for later, whole */
static void
test_untaken_items_stay_behind_the_taken(void)
{
	VqItem	   *items = malloc(MAX_ITEMS * sizeof(VqItem));
	VqItem	   *want = malloc(MAX_ITEMS * sizeof(VqItem));
	VqSelect	select;
	VqRng		rng;

	vq_rng_seed(&rng, 2);
	fill_items(FILL_RANDOM, &rng, items, MAX_ITEMS);
	memcpy(want, items, MAX_ITEMS * sizeof(VqItem));
	qsort(want, MAX_ITEMS, sizeof(VqItem), compare_items);
	vq_select_init(&select, items, MAX_ITEMS);
	for (size_t i = 0; i < 40; i++)
		vq_select_take(&select);
	CHECK(select.next == 40, "next is %zu, want 40", select.next);
	qsort(items + 40, MAX_ITEMS - 40, sizeof(VqItem), compare_items);
	CHECK(memcmp(items, want, MAX_ITEMS * sizeof(VqItem)) == 0, "items were lost or doubled");
	free(items);
	free(want);
}

/* A stack this deep comes up with probability zero, so it is made */
static void
test_take_survives_a_full_stack(void)
{
	VqItem	   *items = malloc(MAX_ITEMS * sizeof(VqItem));
	VqItem	   *want = malloc(MAX_ITEMS * sizeof(VqItem));
	VqSelect	select;
	VqRng		rng;
	size_t		nwrong = 0;

	vq_rng_seed(&rng, 3);
	fill_items(FILL_RANDOM, &rng, items, MAX_ITEMS);
	memcpy(want, items, MAX_ITEMS * sizeof(VqItem));
	qsort(want, MAX_ITEMS, sizeof(VqItem), compare_items);

	/* Pivots in their places, the last ones of the array, nearest on top */
	memcpy(items, want, MAX_ITEMS * sizeof(VqItem));
	for (size_t i = MAX_ITEMS - VQ_SELECT_STACK; i > 1; i--)
	{
		VqItem	   *other = &items[vq_rng_below(&rng, i)];
		VqItem		held = *other;

		*other = items[i - 1];
		items[i - 1] = held;
	}
	vq_select_init(&select, items, MAX_ITEMS);
	for (size_t i = 0; i < VQ_SELECT_STACK; i++)
		select.pivots[select.depth++] = MAX_ITEMS - 1 - i;
	for (size_t i = 0; i < MAX_ITEMS; i++)
	{
		const VqItem *taken = vq_select_take(&select);

		if (taken == NULL || compare_items(taken, &want[i]) != 0)
			nwrong++;
	}
	CHECK(nwrong == 0, "%zu out of order", nwrong);
	free(items);
	free(want);
}

static void
test_looking_ahead_shows_what_will_be_taken(void)
{
	VqItem	   *items = malloc(MAX_ITEMS * sizeof(VqItem));
	VqItem	   *want = malloc(MAX_ITEMS * sizeof(VqItem));
	VqRng		rng;

	vq_rng_seed(&rng, 4);
	for (int filling = 0; filling < NFILLINGS; filling++)
	{
		for (size_t size = 0; size < NSIZES; size++)
		{
			size_t		nitems = sizes[size];
			VqSelect	select;
			size_t		nwrong = 0;

			fill_items((Filling) filling, &rng, items, nitems);
			memcpy(want, items, nitems * sizeof(VqItem));
			qsort(want, nitems, sizeof(VqItem), compare_items);
			vq_select_init(&select, items, nitems);
			for (size_t i = 0; i < nitems; i++)
			{
				size_t		ahead = vq_rng_below(&rng, 40);
				const VqItem *seen = vq_select_ahead(&select, ahead);

				if (i + ahead >= nitems ? seen != NULL : compare_items(seen, &want[i + ahead]) != 0)
					nwrong++;
				if (compare_items(vq_select_take(&select), &want[i]) != 0)
					nwrong++;
			}
			CHECK(nwrong == 0, "%s, %zu items: %zu out of order", filling_names[filling], nitems, nwrong);
		}
	}
	free(items);
	free(want);
}

/* Every item up to the cut is in the pool, once, and nothing else; larger ones were thrown out */
static void
test_pool_keeps_the_smallest(void)
{
	VqItem	   *items = malloc(MAX_ITEMS * sizeof(VqItem));
	VqRng		rng;

	vq_rng_seed(&rng, 5);
	for (int filling = 0; filling < NFILLINGS; filling++)
	{
		if (filling == FILL_SAME_IDS)
			continue;
		for (size_t size = 0; size < NSIZES; size++)
		{
			for (size_t capacity = 8; capacity <= 2048; capacity = capacity * 3 / 2)
			{
				size_t		nitems = sizes[size];
				VqPool		pool = {.items = malloc(capacity * sizeof(VqItem)), .capacity = capacity};

				fill_items((Filling) filling, &rng, items, nitems);
				for (size_t i = 0; i < nitems; i++)
					vq_pool_add(&pool, items[i]);
				qsort(items, nitems, sizeof(VqItem), compare_items);
				qsort(pool.items, pool.nitems, sizeof(VqItem), compare_items);

				CHECK(pool.has_cut == (nitems > capacity), "%s, %zu items, capacity %zu: cut is %d",
					  filling_names[filling], nitems, capacity, pool.has_cut);
				CHECK(memcmp(pool.items, items, pool.nitems * sizeof(VqItem)) == 0,
					  "%s, %zu items, capacity %zu: not the smallest", filling_names[filling], nitems, capacity);
				if (pool.has_cut)
				{
					CHECK(pool.nitems >= capacity / 4, "%s, %zu items, capacity %zu: only %zu were kept",
						  filling_names[filling], nitems, capacity, pool.nitems);
					CHECK(compare_items(&pool.cut, &pool.items[pool.nitems - 1]) == 0,
						  "%s, %zu items, capacity %zu: the largest is not the cut",
						  filling_names[filling], nitems, capacity);
				}
				else
					CHECK(pool.nitems == nitems, "%s, %zu items, capacity %zu: %zu were kept",
						  filling_names[filling], nitems, capacity, pool.nitems);
				free(pool.items);
			}
		}
	}
	free(items);
}

/* The smallest items are left, as many as were asked for, and a pool of no more is left alone */
static void
test_pool_keeps_as_many_as_asked_for(void)
{
	VqItem	   *items = malloc(MAX_ITEMS * sizeof(VqItem));
	VqItem	   *kept = malloc(MAX_ITEMS * sizeof(VqItem));
	VqRng		rng;

	vq_rng_seed(&rng, 6);
	for (int filling = 0; filling < NFILLINGS; filling++)
	{
		for (size_t size = 0; size < NSIZES; size++)
		{
			for (size_t least = 1; least <= 2048; least = least * 3 / 2 + 1)
			{
				size_t		nitems = sizes[size];
				size_t		most = least + least / 8 + 1;
				VqPool		pool = {.items = kept, .nitems = nitems, .capacity = nitems};

				fill_items((Filling) filling, &rng, items, nitems);
				memcpy(kept, items, nitems * sizeof(VqItem));
				vq_pool_keep(&pool, least, most);
				qsort(items, nitems, sizeof(VqItem), compare_items);
				qsort(kept, pool.nitems, sizeof(VqItem), compare_items);

				CHECK(pool.has_cut == (nitems > most), "%s, %zu items, %zu to %zu: cut is %d",
					  filling_names[filling], nitems, least, most, pool.has_cut);
				CHECK(nitems <= most ? pool.nitems == nitems : pool.nitems >= least && pool.nitems <= most,
					  "%s, %zu items, %zu to %zu: %zu were kept",
					  filling_names[filling], nitems, least, most, pool.nitems);
				CHECK(memcmp(kept, items, pool.nitems * sizeof(VqItem)) == 0,
					  "%s, %zu items, %zu to %zu: not the smallest", filling_names[filling], nitems, least, most);
			}
		}
	}
	free(items);
	free(kept);
}

void
suite_vq_select(void)
{
	RUN_TEST(test_take_gives_items_in_sorted_order_with_their_notes);
	RUN_TEST(test_untaken_items_stay_behind_the_taken);
	RUN_TEST(test_take_survives_a_full_stack);
	RUN_TEST(test_looking_ahead_shows_what_will_be_taken);
	RUN_TEST(test_pool_keeps_the_smallest);
	RUN_TEST(test_pool_keeps_as_many_as_asked_for);
}
