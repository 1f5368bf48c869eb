/*-------------------------------------------------------------------------
 *
 * ivfpq_results.c
 *	  Rows whose exact distances are known, nearest first, within work_mem.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_search.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/vqpg_compat.h"

#define MIN_CAPACITY		1024

void
ivfpq_results_init(IvfpqResults *results, MemoryContext context)
{
	memset(results, 0, sizeof(IvfpqResults));
	results->context = context;
}

/* Nearer first; the lower TID first of equals, so that the order is total */
static bool
is_nearer(const IvfpqResult *a, const IvfpqResult *b)
{
	if (a->distance != b->distance)
		return a->distance < b->distance;
	return ItemPointerCompare((ItemPointer) &a->tid, (ItemPointer) &b->tid) < 0;
}

static void
swap_results(IvfpqResult *a, IvfpqResult *b)
{
	IvfpqResult t = *a;

	*a = *b;
	*b = t;
}

/* Sorts as an integer: block number, then offset, and the flag at the end */
static int64
row_to_int64(const IvfpqResult *result)
{
	return (((int64) ItemPointerGetBlockNumberNoCheck(&result->tid) << 16 |
			 ItemPointerGetOffsetNumberNoCheck(&result->tid)) << 1) | result->is_assumed;
}

static void
row_from_int64(int64 row, IvfpqResult *result)
{
	ItemPointerSet(&result->tid, (BlockNumber) (row >> 17), (OffsetNumber) (row >> 1 & 0xFFFF));
	result->is_assumed = row & 1;
}

static void
begin_sort(IvfpqResults *results)
{
	AttrNumber	columns[2] = {1, 2};
	Oid			operators[2] = {Float8LessOperator, Int8LessOperator};
	Oid			collations[2] = {InvalidOid, InvalidOid};
	bool		nulls_first[2] = {false, false};
	MemoryContext old = MemoryContextSwitchTo(results->context);

	if (results->sort_in == NULL)
	{
		TupleDesc	desc = CreateTemplateTupleDesc(2);

		TupleDescInitEntry(desc, 1, "distance", FLOAT8OID, -1, 0);
		TupleDescInitEntry(desc, 2, "row", INT8OID, -1, 0);
		VQ_TUPDESC_DONE(desc);
		results->sort_in = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
		results->sort_out = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	}
	results->sort = tuplesort_begin_heap(results->sort_in->tts_tupleDescriptor, 2, columns, operators,
										 collations, nulls_first, Max(work_mem / 2, 64), NULL,
										 TUPLESORT_NONE);
	results->is_sorted = false;
	results->has_current = false;
	MemoryContextSwitchTo(old);
}

static void
put_into_sort(IvfpqResults *results, const IvfpqResult *result)
{
	TupleTableSlot *slot = results->sort_in;

	ExecClearTuple(slot);
	slot->tts_values[0] = Float8GetDatum(result->distance);
	slot->tts_values[1] = Int64GetDatum(row_to_int64(result));
	slot->tts_isnull[0] = false;
	slot->tts_isnull[1] = false;
	ExecStoreVirtualTuple(slot);
	tuplesort_puttupleslot(results->sort, slot);
}

static void
read_from_sort(IvfpqResults *results)
{
	bool		isnull;

	results->has_current = tuplesort_gettupleslot(results->sort, true, false, results->sort_out, NULL);
	if (!results->has_current)
	{
		tuplesort_end(results->sort);
		results->sort = NULL;
		return;
	}
	results->current.returned = NAN;
	results->current.distance = DatumGetFloat8(slot_getattr(results->sort_out, 1, &isnull));
	row_from_int64(DatumGetInt64(slot_getattr(results->sort_out, 2, &isnull)), &results->current);
}

static void
put_into_heap(IvfpqResults *results, const IvfpqResult *result)
{
	size_t		i = results->nresults++;

	results->heap[i] = *result;
	while (i > 0 && is_nearer(&results->heap[i], &results->heap[(i - 1) / 2]))
	{
		swap_results(&results->heap[i], &results->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
}

static void
take_from_heap(IvfpqResults *results)
{
	size_t		i = 0;

	results->heap[0] = results->heap[--results->nresults];
	for (;;)
	{
		size_t		nearest = i;

		for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < results->nresults; child++)
			if (is_nearer(&results->heap[child], &results->heap[nearest]))
				nearest = child;
		if (nearest == i)
			return;
		swap_results(&results->heap[i], &results->heap[nearest]);
		i = nearest;
	}
}

void
ivfpq_results_expect(IvfpqResults *results, size_t nexpected)
{
	results->nexpected = nexpected <= IVFPQ_MAX_EXPECTED ? nexpected : 0;
	results->nnearest = 0;
}

/* Keep the distance if it is one of the least */
static inline void
lower_ceiling(IvfpqResults *results, double distance)
{
	size_t		i;

	if (!(distance < ivfpq_results_ceiling(results)) || results->nexpected == 0)
		return;
	i = results->nnearest < results->nexpected ? results->nnearest++ : results->nnearest - 1;
	for (; i > 0 && results->nearest[i - 1] > distance; i--)
		results->nearest[i] = results->nearest[i - 1];
	results->nearest[i] = distance;
}

static size_t
heap_capacity(void)
{
	return Max(MIN_CAPACITY, (size_t) work_mem * 1024 / 2 / sizeof(IvfpqResult));
}

bool
ivfpq_results_have_room(const IvfpqResults *results)
{
	return results->sort == NULL && results->nresults < heap_capacity();
}

void
ivfpq_results_add(IvfpqResults *results, const IvfpqResult *result)
{
	lower_ceiling(results, result->distance);
	results->capacity = heap_capacity();
	if (!ivfpq_results_have_room(results) && results->sort == NULL)
	{
		begin_sort(results);
		while (results->nresults > 0)
			put_into_sort(results, &results->heap[--results->nresults]);
	}
	if (results->sort)
	{
		put_into_sort(results, result);
		return;
	}
	if (results->nresults == results->allocated)
	{
		results->allocated = Min(results->capacity, Max(64, 2 * results->allocated));
		if (results->heap == NULL)
			results->heap = MemoryContextAllocHuge(results->context, results->allocated * sizeof(IvfpqResult));
		else
			results->heap = repalloc_huge(results->heap, results->allocated * sizeof(IvfpqResult));
	}
	put_into_heap(results, result);
}

const IvfpqResult *
ivfpq_results_peek(IvfpqResults *results, bool is_complete)
{
	if (results->sort == NULL)
		return results->nresults > 0 ? &results->heap[0] : NULL;
	if (!is_complete)
		return NULL;
	if (!results->is_sorted)
	{
		tuplesort_performsort(results->sort);
		results->is_sorted = true;
	}
	if (!results->has_current)
		read_from_sort(results);
	return results->has_current ? &results->current : NULL;
}

void
ivfpq_results_take(IvfpqResults *results, IvfpqResult *result)
{
	if (results->sort)
	{
		*result = results->current;
		results->has_current = false;
	}
	else
	{
		*result = results->heap[0];
		take_from_heap(results);
	}
}

/* They are put behind the heap, and taken from there in order, so that there is always room for the last one taken */
void
ivfpq_results_begin_review(IvfpqResults *results)
{
	size_t		count = results->nresults;
	size_t		kept = 0;

	results->review_from = results->review_to = 0;
	if (results->sort)
		return;
	for (size_t i = 0; i < count; i++)
		if (!results->heap[i].is_assumed)
			swap_results(&results->heap[kept++], &results->heap[i]);
	results->nresults = 0;
	for (size_t i = 0; i < kept; i++)
	{
		IvfpqResult result = results->heap[i];

		put_into_heap(results, &result);
	}
	results->review_from = kept;
	results->review_to = count;
}

bool
ivfpq_results_review(IvfpqResults *results, IvfpqResult *result)
{
	if (results->review_from >= results->review_to)
		return false;
	*result = results->heap[results->review_from++];
	return true;
}

void
ivfpq_results_clear(IvfpqResults *results)
{
	if (results->sort)
		tuplesort_end(results->sort);
	results->sort = NULL;
	results->has_current = false;
	results->nresults = 0;
	results->nnearest = 0;
}
