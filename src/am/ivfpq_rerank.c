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
 * Rows whose vectors are out of line are fetched some candidates before their turn, so that
 * the pages of several vectors are on their way at once (ivfpq_toast.c).
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

/* A row that was fetched before its turn */
typedef struct ReadyRow
{
	ItemPointerData tid;		/* as the index has it; invalid if there is none */
	IvfpqRowFate fate;			/* IVFPQ_ROW_COMPARED if it is to be */
	IvfpqToastValue value;		/* then, its vector */
} ReadyRow;

struct IvfpqReranker
{
	MemoryContext context;
	VqMetric	metric;
	VqDatumKind datum_kind;		/* of the indexed value */
	Snapshot	snapshot;
	IndexFetchTableData *fetch;
	bool		is_heap;		/* the table's access method is the built-in one */
	bool		may_look;		/* for where its pages are: they are in shared buffers */
	bool		may_ask;		/* for pages, as far as effective_io_concurrency goes */
	TupleTableSlot *slot;
	IvfpqFilter *filter;		/* NULL if there is none */
	IvfpqReturned *returned;	/* likewise */
	const ScanKeyData *query;	/* the distance key */
	float		passing;		/* share of the last rows that it has let pass */
	AttrNumber	attno;			/* of the indexed column, or 0 */
	MemoryContext row_context;	/* reset for each row */

	/* where vectors are out of line */
	bool		may_be_out_of_line;
	bool		is_out_of_line; /* that of the last row looked at */
	IvfpqToast *toast;			/* NULL before there was one */
	int			nready;
	int			next_ready;		/* place of the next, the oldest if all are taken */
	ReadyRow	ready[IVFPQ_MAX_READY];

	/* only for an expression index */
	IndexInfo  *info;
	EState	   *estate;
};

IvfpqReranker *
ivfpq_rerank_begin(IndexScanDesc scan, VqMetric metric, bool is_out_of_line)
{
	IvfpqReranker *reranker = palloc0(sizeof(IvfpqReranker));
	Relation	index = scan->indexRelation;

	reranker->context = CurrentMemoryContext;
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
	reranker->returned = ivfpq_returned_of(scan);
	reranker->query = &scan->orderByData[0];
	reranker->attno = index->rd_index->indkey.values[0];
	reranker->row_context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq row",
												  ALLOCSET_DEFAULT_SIZES);
	if (reranker->attno == 0)
	{
		reranker->info = BuildIndexInfo(index);
		reranker->info->ii_NumIndexAttrs = reranker->info->ii_NumIndexKeyAttrs = 1;
		reranker->info->ii_Expressions = list_make1(linitial(reranker->info->ii_Expressions));
		reranker->info->ii_ExpressionsState = ivfpq_expressions_of(scan);
		reranker->estate = CreateExecutorState();
		GetPerTupleExprContext(reranker->estate)->ecxt_scantuple = reranker->slot;
	}
	reranker->may_be_out_of_line = reranker->attno != 0;
	reranker->is_out_of_line = is_out_of_line && reranker->may_be_out_of_line;
	ivfpq_rerank_clear(reranker);
	return reranker;
}

void
ivfpq_rerank_clear(IvfpqReranker *reranker)
{
	reranker->passing = 1.0f;
	reranker->nready = 0;
	reranker->next_ready = 0;
}

bool
ivfpq_rerank_is_out_of_line(const IvfpqReranker *reranker)
{
	return reranker->is_out_of_line;
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

/* Fetch a row into the slot and try the query's conditions; IVFPQ_ROW_COMPARED if it is to be compared */
static IvfpqRowFate
fetch_row(IvfpqReranker *reranker, ItemPointer tid)
{
	ItemPointerData row = *tid; /* overwritten with that of the row's version */
	bool		call_again = false;
	bool		all_dead = false;
	bool		passes;

	if (reranker->is_heap)
		(void) ivfpq_pin_for_fetch(reranker->fetch, tid);
	if (!table_index_fetch_tuple(reranker->fetch, &row, reranker->snapshot, reranker->slot,
								 &call_again, &all_dead))
		return IVFPQ_ROW_UNSEEN;
	if (reranker->filter == NULL)
		return IVFPQ_ROW_COMPARED;
	passes = ivfpq_filter_passes(reranker->filter, reranker->slot);
	reranker->passing += (passes - reranker->passing) / PASSING_WINDOW;
	return passes ? IVFPQ_ROW_COMPARED : IVFPQ_ROW_FILTERED;
}

/* The TOAST table, opened if it was not; NULL if vectors that are there are the server's business */
static IvfpqToast *
open_toast(IvfpqReranker *reranker)
{
	if (reranker->toast == NULL && reranker->may_be_out_of_line)
	{
		MemoryContext old = MemoryContextSwitchTo(reranker->context);

		reranker->toast = ivfpq_toast_begin(reranker->fetch->rel);
		MemoryContextSwitchTo(old);
		reranker->may_be_out_of_line = reranker->toast != NULL;
	}
	return reranker->toast;
}

/* Where the vector of the row in the slot is, if that is out of line; chunk_tid is what its entry says of that */
static bool
find_out_of_line(IvfpqReranker *reranker, Datum value, const ItemPointerData *chunk_tid, IvfpqToastValue *found)
{
	reranker->is_out_of_line = VARATT_IS_EXTERNAL_ONDISK((struct varlena *) DatumGetPointer(value)) &&
		open_toast(reranker) != NULL;
	return reranker->is_out_of_line && ivfpq_toast_find(reranker->toast, value, chunk_tid, found);
}

/* The indexed value of the row in the slot; false if it is NULL */
static bool
value_of_row(IvfpqReranker *reranker, Datum *value)
{
	bool		isnull;
	ItemPointerData unknown;
	IvfpqToastValue found;

	*value = indexed_value(reranker, &isnull);
	if (isnull)
		return false;
	ItemPointerSetInvalid(&unknown);
	if (find_out_of_line(reranker, *value, &unknown, &found))
		(void) ivfpq_toast_read(reranker->toast, &found, value);
	return true;
}

/* What the operator gives, where the executor is going to ask and would have to get the vector once more */
static double
operator_distance(const IvfpqReranker *reranker, Datum value)
{
	IvfpqReturned *returned = reranker->returned;

	if (returned == NULL || !reranker->is_out_of_line)
		return NAN;
	return DatumGetFloat8(FunctionCall2Coll(&returned->function, returned->collation, value,
											reranker->query->sk_argument));
}

/* False if the value has not as many dimensions as the query */
static bool
compare(IvfpqReranker *reranker, const VqVector *query, Datum value, IvfpqResult *result, uint64 *fingerprint)
{
	MemoryContext old = MemoryContextSwitchTo(reranker->row_context);
	VqVector	vector;
	bool		is_like = true;

	vq_datum_open(value, reranker->datum_kind, &vector);
	is_like = vector.dim == query->dim;
	if (is_like)
	{
		result->distance = exact_distance(reranker, query, &vector);
		result->returned = operator_distance(reranker, value);
		if (unlikely(fingerprint != NULL))
			*fingerprint = hash_bytes_extended((const unsigned char *) vector.x, vector.dim * sizeof(float), 0);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(reranker->row_context);
	return is_like;
}

/* What is kept of a row, or NULL */
static ReadyRow *
ready_row(IvfpqReranker *reranker, ItemPointer tid)
{
	for (int i = 0; i < reranker->nready; i++)
		if (ItemPointerIsValid(&reranker->ready[i].tid) && ItemPointerEquals(&reranker->ready[i].tid, tid))
			return &reranker->ready[i];
	return NULL;
}

/* Fetch a row before its turn, and have the pages of its vector on their way */
static void
make_ready(IvfpqReranker *reranker, ItemPointer tid, const ItemPointerData *chunk_tid)
{
	ReadyRow   *row = &reranker->ready[reranker->next_ready];
	bool		isnull;
	Datum		value;

	if (ready_row(reranker, tid) != NULL)
		return;
	ItemPointerSetInvalid(&row->tid);
	row->fate = fetch_row(reranker, tid);
	if (row->fate == IVFPQ_ROW_COMPARED)
	{
		value = indexed_value(reranker, &isnull);
		if (isnull)
			row->fate = IVFPQ_ROW_UNSEEN;
		else if (find_out_of_line(reranker, value, chunk_tid, &row->value))
			ivfpq_toast_approach(reranker->toast, &row->value, reranker->may_ask && ivfpq_reads_wait());
		else
		{
			ExecClearTuple(reranker->slot);
			return;
		}
	}
	ExecClearTuple(reranker->slot);
	row->tid = *tid;
	reranker->nready = Max(reranker->nready, reranker->next_ready + 1);
	reranker->next_ready = (reranker->next_ready + 1) % IVFPQ_MAX_READY;
}

/* The steps before the last */
static void
approach_row(IvfpqReranker *reranker, IvfpqApproach step, Relation table, ItemPointer tid, bool is_whole)
{
	switch (step)
	{
		case IVFPQ_APPROACH_GUESS:
			ivfpq_touch_row_guess(table, tid);
			break;
		case IVFPQ_APPROACH_BUFFER:
			ivfpq_touch_row_buffer(table, tid);
			break;
		case IVFPQ_APPROACH_PAGE:
			ivfpq_touch_row_page(table, tid, reranker->may_ask && ivfpq_reads_wait());
			break;
		case IVFPQ_APPROACH_ROW:
			ivfpq_touch_row(table, tid, is_whole);
			break;
		case IVFPQ_APPROACH_VALUE:
			break;
	}
}

void
ivfpq_rerank_approach(IvfpqReranker *reranker, IvfpqApproach step, const VqItem *item)
{
	ItemPointerData tid;
	ItemPointerData chunk_tid;

	if (!reranker->may_look || item == NULL)
		return;
	ivfpq_item_tid(item, &tid);
	ivfpq_item_chunk_tid(item, &chunk_tid);
	if (step == IVFPQ_APPROACH_VALUE)
	{
		make_ready(reranker, &tid, &chunk_tid);
		return;
	}
	approach_row(reranker, step, reranker->fetch->rel, &tid, reranker->passing >= WHOLE_ROW_SHARE);
	if (ItemPointerIsValid(&chunk_tid) && reranker->passing >= WHOLE_ROW_SHARE && open_toast(reranker) != NULL &&
		ivfpq_toast_has(reranker->toast, &chunk_tid))
		approach_row(reranker, step, ivfpq_toast_table(reranker->toast), &chunk_tid, true);
}

IvfpqRowFate
ivfpq_rerank(IvfpqReranker *reranker, const VqVector *query, IvfpqResult *result, uint64 *fingerprint)
{
	ReadyRow   *ready = ready_row(reranker, &result->tid);
	IvfpqRowFate fate = IVFPQ_ROW_COMPARED;
	bool		is_read = false;
	Datum		value;

	if (ready)
	{
		ItemPointerSetInvalid(&ready->tid);
		fate = ready->fate;
		if (fate == IVFPQ_ROW_COMPARED)
			is_read = ivfpq_toast_read(reranker->toast, &ready->value, &value);
	}
	if (fate == IVFPQ_ROW_COMPARED && !is_read)
	{
		fate = fetch_row(reranker, &result->tid);
		if (fate == IVFPQ_ROW_COMPARED)
			is_read = value_of_row(reranker, &value);
	}
	if (fate == IVFPQ_ROW_COMPARED && !(is_read && compare(reranker, query, value, result, fingerprint)))
		fate = IVFPQ_ROW_UNSEEN;
	if (fate == IVFPQ_ROW_FILTERED)
		ivfpq_filter_count(reranker->filter);
	ExecClearTuple(reranker->slot);
	return fate;
}

void
ivfpq_rerank_pause(IvfpqReranker *reranker, IndexScanDesc scan)
{
	ExecClearTuple(reranker->slot);
	table_index_fetch_reset(reranker->fetch);
	if (reranker->toast)
		ivfpq_toast_pause(reranker->toast);
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
	if (reranker->toast)
		ivfpq_toast_end(reranker->toast);
	if (reranker->estate)
		FreeExecutorState(reranker->estate);
}
