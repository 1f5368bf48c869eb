/*-------------------------------------------------------------------------
 *
 * ivfpq_rerank.c
 *	  Exact distances, from the rows of the table.
 *
 * Rows are fetched through the table's access method with the scan's own
 * snapshot, by a fetch handle and a slot of our own, so that the executor's
 * state is left alone.  For an expression index the expression is computed
 * anew: it is what the distances are about.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/relscan.h"
#include "access/tableam.h"
#include "am/ivfpq_search.h"
#include "catalog/index.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "utils/memutils.h"
#include "utils/spccache.h"

#include "base/vqpg_compat.h"

/*
 * Where a filter has let less than this share of about so many rows pass, only those bytes of a row are
 * brought into the processor's caches ahead that filters mostly want: the first ones and the last
 */
#define WHOLE_ROW_SHARE		0.25f
#define PASSING_WINDOW		8

struct IvfpqReranker
{
	VqMetric	metric;
	VqDatumKind datum_kind;		/* of the indexed value */
	Snapshot	snapshot;
	IndexFetchTableData *fetch;
	bool		is_heap;		/* the table's access method is the built-in one */
	bool		may_look;		/* for where its pages are: they are in shared buffers */
	bool		may_ask;		/* for pages, as far as effective_io_concurrency goes */
	TupleTableSlot *slot;
	IvfpqFilter *filter;		/* NULL if there is none */
	float		passing;		/* share of the last rows that it has let pass */
	AttrNumber	attno;			/* of the indexed column, or 0 */
	MemoryContext row_context;	/* reset for each row */

	/* only for an expression index */
	IndexInfo  *info;
	EState	   *estate;
};

IvfpqReranker *
ivfpq_rerank_begin(IndexScanDesc scan, VqMetric metric)
{
	IvfpqReranker *reranker = palloc0(sizeof(IvfpqReranker));
	Relation	index = scan->indexRelation;

	reranker->metric = metric;
	reranker->datum_kind = ivfpq_datum_kind(index, index->rd_opcintype[0]);
	reranker->snapshot = scan->xs_snapshot;
	reranker->fetch = VQ_FETCH_BEGIN(scan->heapRelation);
	reranker->is_heap = scan->heapRelation->rd_tableam == GetHeapamTableAmRoutine();
	reranker->may_look = reranker->is_heap && !RelationUsesLocalBuffers(scan->heapRelation);
	reranker->may_ask =
		get_tablespace_io_concurrency(scan->heapRelation->rd_rel->reltablespace) > 0;
	reranker->slot = table_slot_create(scan->heapRelation, NULL);
	reranker->filter = ivfpq_filter_of(scan);
	reranker->passing = 1.0f;
	reranker->attno = index->rd_index->indkey.values[0];
	reranker->row_context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq row",
												  ALLOCSET_DEFAULT_SIZES);
	if (reranker->attno == 0)
	{
		reranker->info = BuildIndexInfo(index);
		reranker->estate = CreateExecutorState();
		GetPerTupleExprContext(reranker->estate)->ecxt_scantuple = reranker->slot;
	}
	return reranker;
}

static Datum
indexed_value(IvfpqReranker *reranker, bool *isnull)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	if (reranker->attno != 0)
		return slot_getattr(reranker->slot, reranker->attno, isnull);

	ResetPerTupleExprContext(reranker->estate);
	FormIndexDatum(reranker->info, reranker->slot, reranker->estate, values, nulls);
	*isnull = nulls[0];
	return values[0];
}

static double
exact_distance(const IvfpqReranker *reranker, const VqVector *query, const VqVector *vector)
{
	double		distance = 0;

	switch (reranker->metric)
	{
		case VQ_METRIC_L2:
			distance = vq_l2_distance_squared(query->x, vector->x, query->dim);
			break;
		case VQ_METRIC_IP:
			distance = -vq_inner_product(query->x, vector->x, query->dim);
			break;
		case VQ_METRIC_COSINE:
			distance = vq_cosine_distance(query->x, vector->x, query->dim);
			break;
	}

	if (unlikely(!isfinite(distance)))
		vq_datum_check(vector);

	/* the cosine of a zero vector: as NULLS LAST and NaN sort, after all others */
	return isnan(distance) ? INFINITY : distance;
}

void
ivfpq_rerank_approach(IvfpqReranker *reranker, IvfpqApproach step, const VqItem *item)
{
	Relation	heap = reranker->fetch->rel;
	ItemPointerData tid;

	if (!reranker->may_look || item == NULL)
		return;
	ivfpq_item_tid(item, &tid);
	switch (step)
	{
		case IVFPQ_APPROACH_GUESS:
			ivfpq_touch_row_guess(heap, &tid);
			break;
		case IVFPQ_APPROACH_BUFFER:
			ivfpq_touch_row_buffer(heap, &tid);
			break;
		case IVFPQ_APPROACH_PAGE:
			ivfpq_touch_row_page(heap, &tid, reranker->may_ask && ivfpq_reads_wait());
			break;
		case IVFPQ_APPROACH_ROW:
			ivfpq_touch_row(heap, &tid, reranker->passing >= WHOLE_ROW_SHARE);
			break;
	}
}

IvfpqRowFate
ivfpq_rerank(IvfpqReranker *reranker, const VqVector *query, ItemPointer tid, double *distance, uint64 *fingerprint)
{
	ItemPointerData row = *tid; /* overwritten with that of the row's version */
	bool		call_again = false;
	bool		all_dead = false;
	bool		isnull = true;
	Datum		value;

	if (reranker->is_heap)
		(void) ivfpq_pin_for_fetch(reranker->fetch, tid);
	if (!table_index_fetch_tuple(reranker->fetch, &row, reranker->snapshot, reranker->slot,
								 &call_again, &all_dead))
		return IVFPQ_ROW_UNSEEN;
	if (reranker->filter)
	{
		bool		passes = ivfpq_filter_passes(reranker->filter, reranker->slot);

		reranker->passing += (passes - reranker->passing) / PASSING_WINDOW;
		if (!passes)
		{
			ExecClearTuple(reranker->slot);
			return IVFPQ_ROW_FILTERED;
		}
	}

	value = indexed_value(reranker, &isnull);
	if (!isnull)
	{
		MemoryContext old = MemoryContextSwitchTo(reranker->row_context);
		VqVector	vector;

		vq_datum_open(value, reranker->datum_kind, &vector);
		if (vector.dim == query->dim)
		{
			*distance = exact_distance(reranker, query, &vector);
			if (unlikely(fingerprint != NULL))
				*fingerprint = hash_bytes_extended((const unsigned char *) vector.x, vector.dim * sizeof(float), 0);
		}
		else
			isnull = true;
		MemoryContextSwitchTo(old);
		MemoryContextReset(reranker->row_context);
	}
	ExecClearTuple(reranker->slot);
	return isnull ? IVFPQ_ROW_UNSEEN : IVFPQ_ROW_COMPARED;
}

void
ivfpq_rerank_pause(IvfpqReranker *reranker, IndexScanDesc scan)
{
	ExecClearTuple(reranker->slot);
	table_index_fetch_reset(reranker->fetch);
	if (reranker->is_heap)
		ivfpq_unpin_for_fetch(reranker->fetch);

	/* not before our own pin is gone, as only the one who has the only pin may prune */
	if (scan && reranker->is_heap)
		ivfpq_pin_for_executor(scan->xs_heapfetch, &scan->xs_heaptid);
}

void
ivfpq_rerank_end(IvfpqReranker *reranker)
{
	ExecDropSingleTupleTableSlot(reranker->slot);
	table_index_fetch_end(reranker->fetch);
	if (reranker->estate)
		FreeExecutorState(reranker->estate);
}
