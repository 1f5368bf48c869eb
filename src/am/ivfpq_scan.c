/*-------------------------------------------------------------------------
 *
 * ivfpq_scan.c
 *	  Index scans in order of distance.
 *
 * A scan never learns the LIMIT, so it does no more than the next row needs:
 *
 *		take the nearest nprobe lists, score all their codes: (low, tid)
 *		until the executor has enough:
 *			fetch rows in order of low, compute their exact distances, until
 *				the smallest exact distance is not above the next low
 *			return that row
 *			now and then, and when nothing is left, take further lists
 *
 * An executor that goes on asking throws rows away, or wants many.  The rows it
 * wants are then farther off than those that nprobe is made for, and in more
 * lists.  So each time that the number of rows returned or discarded has doubled, a third as
 * many lists again join in, and their rows come in one order with those that
 * are still waiting.
 *
 * low is a bound that holds with the confidence that ivfpq.epsilon sets, so
 * rows come out in the order of their exact distances within a batch of lists.
 * ivfpq_candidates.c scores and keeps candidates, ivfpq_rerank.c fetches rows,
 * ivfpq_results.c keeps those; candidates and results stay within work_mem.
 *
 * Only MVCC snapshots are served: TIDs are copied out of the pages, no lock or
 * pin is held between calls, and a TID that vacuum has freed and an insert has
 * used again meanwhile is a row too new for the snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "access/relscan.h"
#include "am/ivfpq.h"
#include "am/ivfpq_search.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/vq_datum.h"
#include "base/vq_guc.h"
#include "base/vqpg_compat.h"

/*
 * Rows returned before further lists are taken, and how many as a share of
 * those so far.  Neighbours thin out: covering twice as many of them as well takes a third
 * as many lists again (bench/FINDINGS.md).  Where lists are few that can be too little: of 20,000 rows in
 * 512 lists, three of which are probed, the nearest thousand were found to .68.  So
 * there are to be so many codes for each row that may be returned before the next ones; half as many
 * where most of these rows are entries that do not pass the conditions on attributes (of 10 rows in 350,000 of
 * which one in a thousand passes, .996 were found in 661 lists, and with as many codes .999 in 2,072).  (To have the lists
 * of ten rows join in before the first one is returned found no more, of a million of which half pass .9817 and not .9810,
 * and took a quarter longer.)
 */
#define EXPAND_AFTER	20
#define EXPAND_BY		0.35
#define CODES_PER_ROW	10
#define CODES_PER_ENTRY	5

/*
 * How many rows before its turn a row is approached, in steps (ivfpq_search.h):
 * itself, its page, what tells where that is so many before the page, and where to
 * look for that so many before.  Where vectors are out of line, the row is fetched and its vector
 * asked for some candidates before its turn, and all else as many earlier.  A disk is asked for more pages at once, of those
 * that are likely to be needed (look_ahead): with ten rows wanted of a million,
 * a query read 43 pages of its table, and with 12 to 32 of them ahead 1,000 queries
 * after a restart took equally long; so they did with 8 to 16 vectors ahead, of which more
 * were read in vain.
 */
#define ROWS_AHEAD			3
#define PAGES_AHEAD			8
#define PAGES_AHEAD_OF_DISK	24
#define VALUES_AHEAD		3
#define VALUES_AHEAD_OF_DISK	8
#define BUFFERS_AHEAD		6
#define GUESSES_AHEAD		6

StaticAssertDecl(VALUES_AHEAD_OF_DISK < IVFPQ_MAX_READY && VALUES_AHEAD < IVFPQ_MAX_READY, "rows ahead are kept");

/*
 * How much farther rows are looked at than a condition says.  Distances of pgvector's operators are sums
 * of 32-bit floats, each of which may be off by half of its last bit, cosines by as much of 1; and the planner has computed
 * what is in a condition the other way round, with terms of up to a thousand (ivfpq_distance.c).
 */
#define FLOAT_ROUNDING(dim)	(1e-5 + (dim) * (FLT_EPSILON / 2))
#define TERM_ROUNDING		1e-12

typedef struct IvfpqScan
{
	MemoryContext context;		/* lives as long as the scan */
	MemoryContext query_context;	/* reset for each query of a rescan */
	IvfpqModel *model;

	bool		is_started;		/* the present query is prepared */
	bool		is_finished;

	/* the query */
	VqVector	vector;
	VqQuery		query;
	bool		is_exact_only;	/* the codec cannot bound distances to it */
	VqCondition *conditions;	/* on attributes */
	uint32		nconditions;
	double		least;			/* no distance is less: 0 where it is the square of one */
	double		largest;		/* rows farther than that are not wanted */

	/* as set when its first row was asked for: a cursor stays as it has begun */
	int			iterative_scan;
	float		epsilon;

	IvfpqCoarse coarse;
	uint32		nprobe;			/* lists at first: as many as this query should read */
	uint32		max_probes;
	int64		expand_at;		/* take further lists after this many rows */
	int64		nentries;		/* of lists probed, whether they pass the conditions or not */

	IvfpqBatch	batch;
	IvfpqCandidates candidates;
	IvfpqReranker *reranker;
	bool		asks_disk;		/* for pages of candidates ahead of their turn */
	uint32		npages_asked;	/* of the candidates to come */
	uint32		nvalues_asked;	/* the same, where vectors are out of line */
	IvfpqResults results;

	IvfpqCopies copies;
	double		last_distance;	/* of the last row returned */
	IvfpqScanStats stats;
	IvfpqScanStats before;		/* sums of the queries before */
} IvfpqScan;

IvfpqScanStats ivfpq_last_scan_stats;

IndexScanDesc
ivfpqbeginscan(Relation index, int nkeys, int norderbys)
{
	IndexScanDesc scan = RelationGetIndexScan(index, nkeys, norderbys);
	IvfpqScan  *state = palloc0(sizeof(IvfpqScan));

	state->context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq scan", ALLOCSET_DEFAULT_SIZES);
	state->query_context = AllocSetContextCreate(state->context, "ivfpq query", ALLOCSET_DEFAULT_SIZES);
	ivfpq_candidates_init(&state->candidates, state->context);
	ivfpq_results_init(&state->results, state->context);
	scan->opaque = state;
	return scan;
}

static void
add_stats(IvfpqScanStats *sum, const IvfpqScanStats *stats)
{
	sum->valid = stats->valid;
	sum->lists_probed += stats->lists_probed;
	sum->codes_scored += stats->codes_scored;
	sum->candidates_reranked += stats->candidates_reranked;
	sum->rows_returned += stats->rows_returned;
	sum->rows_filtered += stats->rows_filtered;
}

void
ivfpq_scan_totals(IndexScanDesc scan, IvfpqScanStats *totals)
{
	const IvfpqScan *state = scan->opaque;

	*totals = state->before;
	if (state->is_started)
		add_stats(totals, &state->stats);
}

/* Remember for the next query how many rows this one fetched; fewer than that come to be believed slowly */
static void
learn_from_query(IvfpqScan *state)
{
	if (state->is_started && state->model)
	{
		state->model->usual_reranks = Max((size_t) (state->stats.candidates_reranked + state->stats.rows_filtered),
										  state->model->usual_reranks / 4 * 3);
		state->model->usual_rows = Max(state->stats.rows_returned, state->model->usual_rows / 4 * 3);
		if (state->reranker)
			state->model->usually_out_of_line = ivfpq_rerank_is_out_of_line(state->reranker);
	}
}

void
ivfpqrescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys, int norderbys)
{
	IvfpqScan  *state = scan->opaque;

	if (orderbys && scan->numberOfOrderBys > 0)
		memmove(scan->orderByData, orderbys, scan->numberOfOrderBys * sizeof(ScanKeyData));
	if (keys && scan->numberOfKeys > 0)
		memmove(scan->keyData, keys, scan->numberOfKeys * sizeof(ScanKeyData));

	learn_from_query(state);
	if (state->is_started)
		add_stats(&state->before, &state->stats);
	ivfpq_results_clear(&state->results);
	MemoryContextReset(state->query_context);
	state->model = NULL;
	state->is_started = false;
	state->is_finished = false;
}

void
ivfpqendscan(IndexScanDesc scan)
{
	IvfpqScan  *state = scan->opaque;

	learn_from_query(state);
	ivfpq_results_clear(&state->results);
	if (state->reranker)
		ivfpq_rerank_end(state->reranker);
	MemoryContextDelete(state->context);
	pfree(state);
	scan->opaque = NULL;
}

/* What the planner never asks for, and what a corrupted catalog might */
static void
check_scan(IndexScanDesc scan)
{
	for (int i = 0; i < scan->numberOfKeys; i++)
		if (scan->keyData[i].sk_attno == 1 && !(scan->keyData[i].sk_flags & (SK_SEARCHNULL | SK_SEARCHNOTNULL)) &&
			(scan->keyData[i].sk_strategy != IVFPQ_WITHIN_STRATEGY || scan->keyData[i].sk_subtype != FLOAT8OID ||
			 (scan->keyData[i].sk_flags & SK_SEARCHARRAY)))
			elog(ERROR, "cannot scan index \"%s\" with search keys of strategy %d",
				 RelationGetRelationName(scan->indexRelation), scan->keyData[i].sk_strategy);
	if (scan->numberOfOrderBys != 1)
		elog(ERROR, "cannot scan index \"%s\" with %d distance keys",
			 RelationGetRelationName(scan->indexRelation), scan->numberOfOrderBys);
	if (!IsMVCCSnapshot(scan->xs_snapshot))
		elog(ERROR, "non-MVCC snapshots are not supported with index \"%s\"",
			 RelationGetRelationName(scan->indexRelation));
}

/* The vector of the distance key, in place where it can be: the key outlives the query.  False if it is NULL. */
static bool
read_query_vector(Relation index, ScanKey key, IvfpqScan *state)
{
	if (key->sk_flags & SK_ISNULL)
		return false;
	vq_datum_read(key->sk_argument,
				  ivfpq_datum_kind(index, OidIsValid(key->sk_subtype) ? key->sk_subtype : index->rd_opcintype[0]),
				  &state->vector);
	return true;
}

/*
 * The largest distance that the search keys of the vector let pass, as the reranker has it: squared for L2.  What is
 * nearly as far is decided about by the query's own condition.  False if no row can pass.
 */
static bool
read_largest_distance(IndexScanDesc scan, VqMetric metric, const VqVector *query, double *largest)
{
	double		limit = INFINITY;
	double		scale = 1.0;

	for (int i = 0; i < scan->numberOfKeys; i++)
	{
		const ScanKeyData *key = &scan->keyData[i];

		if (key->sk_attno != 1 || (key->sk_flags & SK_SEARCHNOTNULL))
			continue;
		if (key->sk_flags & SK_ISNULL)
			return false;

		/* NaN is larger than all others */
		if (!isnan(DatumGetFloat8(key->sk_argument)))
			limit = Min(limit, DatumGetFloat8(key->sk_argument));
	}

	/* inner products are off by so much of the lengths of both: rows are taken to be as long as the query */
	if (metric == VQ_METRIC_L2)
		scale = fabs(limit);
	else if (metric == VQ_METRIC_IP)
		scale = Max(fabs(limit), vq_inner_product(query->x, query->x, query->dim));
	if (!isinf(limit))
		limit += TERM_ROUNDING + FLOAT_ROUNDING(query->dim) * scale;
	if (limit == -INFINITY || (metric == VQ_METRIC_L2 && limit < 0))
		return false;
	*largest = metric == VQ_METRIC_L2 ? limit * limit : limit;
	return true;
}

/* Rotate the query and build its table */
static void
prepare_codec(IvfpqScan *state)
{
	const IvfpqModel *model = state->model;
	const VqPq *pq = &model->codec.pq;
	VqStatus	status;

	state->query.q_model = palloc0(model->meta.dim * sizeof(float));
	state->query.q_code = palloc(vq_codec_code_floats(&model->codec) * sizeof(float));
	state->query.lut_floats = palloc(pq->m * pq->ksub * sizeof(float));
	state->query.lut = palloc(pq->m * pq->ksub);
	status = vq_codec_query(vq_kernels, &model->codec, state->vector.x, &state->query);
	state->is_exact_only = status != VQ_OK;

	/* beyond the model's range even the order of lists is unknown: take them all */
	if (status == VQ_NOT_FINITE)
		state->nprobe = model->meta.nlists;
	if (status != VQ_OK)
	{
		memset(state->query.q_model, 0, model->meta.dim * sizeof(float));
		state->query.q_norm_sq = 0.0f;
	}
}

static void
start_query(IndexScanDesc scan, IvfpqScan *state)
{
	Relation	index = scan->indexRelation;
	MemoryContext old = MemoryContextSwitchTo(state->query_context);
	const IvfpqModel *model;
	bool		is_mean;

	check_scan(scan);
	pgstat_count_index_scan(index);
	VQ_COUNT_SEARCH(scan);
	ivfpq_reads_begin_search();
	memset(&state->stats, 0, sizeof(IvfpqScanStats));
	state->stats.valid = !ivfpq_filter_is_secret(ivfpq_filter_of(scan));
	state->last_distance = -INFINITY;
	state->copies = (IvfpqCopies) {.key = NAN};
	state->is_started = true;

	state->nentries = 0;
	state->model = ivfpq_model_get(index, state->query_context);
	model = state->model;
	ivfpq_attributes_check(index, &model->meta);
	if (!read_query_vector(index, &scan->orderByData[0], state) || model->meta.dim == 0 ||
		!read_largest_distance(scan, model->meta.metric, &state->vector, &state->largest) ||
		!ivfpq_attributes_wanted(scan, &model->shape, &state->conditions, &state->nconditions))
	{
		/* nothing is near NULL, nor less than it, and without a dimension there are no rows */
		state->is_finished = true;
		MemoryContextSwitchTo(old);
		return;
	}
	ivfpq_check_dim(index, model->meta.dim, state->vector.dim);

	state->nprobe = ivfpq_search_nprobe(index, &model->meta, &is_mean);
	if (model->meta.codec == IVFPQ_CODEC_NONE)
	{
		state->is_exact_only = true;
		state->query.unit = 1.0;
	}
	else
		prepare_codec(state);
	state->nprobe = ivfpq_coarse_begin(&state->coarse, index, model, &state->query, state->nprobe,
									   is_mean && !state->is_exact_only);

	state->least = model->meta.metric == VQ_METRIC_IP ? -INFINITY : 0.0;
	state->epsilon = ivfpq_epsilon;
	state->iterative_scan = ivfpq_iterative_scan;
	state->max_probes = state->nprobe;
	if (state->iterative_scan != VQ_ITERATIVE_OFF)
		state->max_probes = ivfpq_max_probes > 0 ?
			Max(state->nprobe, Min(ivfpq_max_probes, model->meta.nlists)) : model->meta.nlists;

	state->expand_at = EXPAND_AFTER;
	ivfpq_batch_init(&state->batch, index, model, &state->query, scan->xs_snapshot);
	state->batch.conditions = state->conditions;
	state->batch.nconditions = state->nconditions;
	ivfpq_candidates_clear(&state->candidates, model->usual_reranks);
	ivfpq_results_expect(&state->results, model->usual_rows);
	if (state->reranker == NULL)
	{
		MemoryContextSwitchTo(state->context);
		state->reranker = ivfpq_rerank_begin(scan, model->meta.metric,
											 model->shape.has_chunk_tids || model->usually_out_of_line);
	}
	else
		ivfpq_rerank_clear(state->reranker);
	MemoryContextSwitchTo(old);
}

/* Take the next lists, up to max_probes, and score them; false if there are none */
static bool
take_lists(IvfpqScan *state, uint32 count)
{
	IvfpqBatch *batch = &state->batch;
	uint32		first = batch->nlists;

	count = Min(count, state->max_probes - (uint32) state->stats.lists_probed);
	while (batch->nlists < first + count)
	{
		IvfpqProbe *probe;
		IvfpqNearList list;

		if (!ivfpq_coarse_next(&state->coarse, &list))
			break;
		if (list.entry.head_page == InvalidBlockNumber)
			continue;
		probe = ivfpq_batch_add(batch);
		probe->list_no = list.list_no;
		probe->entry = list.entry;
		if (state->is_exact_only)
			probe->bound = (VqBound) {.base = -INFINITY};
		else
			vq_codec_list_bound(&state->model->codec, &state->query,
								list.distance_sq, list.norm_sq, state->epsilon, &probe->bound);
	}
	if (batch->nlists == first)
		return false;

	batch->skips_codes = state->nconditions > 0 && state->stats.codes_scored * 2 * VQ_BLOCK_LANES < state->nentries;
	ivfpq_candidates_add(&state->candidates, batch, first);
	state->stats.lists_probed += batch->nlists - first;
	state->stats.codes_scored += state->candidates.nscored;
	state->nentries += state->candidates.nentries;
	return true;
}

/* Lists to join those probed, before as many rows as so far have been returned again */
static uint32
further_lists(const IvfpqScan *state)
{
	double		probed = state->stats.lists_probed;
	double		codes_per_list = Max(state->nentries / Max(probed, 1), 1);
	double		wanted_codes = (double) (state->nconditions > 0 ? CODES_PER_ENTRY : CODES_PER_ROW) * state->expand_at;

	return (uint32) ceil(Max(probed * EXPAND_BY,
							 Min(wanted_codes - state->nentries, PG_INT32_MAX) / codes_per_list));
}

/* Start over with further lists when those so far have no rows left */
static bool
next_batch(IvfpqScan *state)
{
	uint32		count = state->stats.lists_probed == 0 ? state->nprobe :
		Max(state->nprobe, (uint32) (state->stats.lists_probed * EXPAND_BY));

	state->batch.nlists = 0;
	ivfpq_candidates_clear(&state->candidates, state->model->usual_reranks);
	return take_lists(state, count);
}

/* A candidate to come, if it will be fetched as far as can be told: NULL from this bound on */
static const VqItem *
candidate_ahead(IvfpqScan *state, uint32 ahead, double ceiling)
{
	const VqItem *item = ivfpq_candidates_ahead(&state->candidates, ahead);

	return item && item->key <= ceiling ? item : NULL;
}

/*
 * One step towards the row whose turn is after so many more; towards all before it
 * as well if these are the first of a batch.
 */
static void
approach(IvfpqScan *state, IvfpqApproach step, uint32 ahead, double ceiling)
{
	for (uint32 i = state->candidates.is_fresh ? 0 : ahead; i <= ahead; i++)
		ivfpq_rerank_approach(state->reranker, step, candidate_ahead(state, i, ceiling));
}

/*
 * Have the next rows on their way, so that their fetch does not wait for memory,
 * nor for the disk: where reads wait, more of them are asked for at once.  Rows are
 * fetched up to the distance of the last one returned; until as many have been
 * returned as usual, that is expected to be at most the last of as many nearest.
 */
static void
look_ahead(IvfpqScan *state)
{
	bool		waits = ivfpq_reads_wait();
	uint32		values_ahead = !ivfpq_rerank_is_out_of_line(state->reranker) ? 0 :
		waits ? VALUES_AHEAD_OF_DISK : VALUES_AHEAD;
	uint32		pages_ahead = waits ? PAGES_AHEAD_OF_DISK : PAGES_AHEAD + values_ahead;
	double		ceiling = Min(state->largest, state->stats.rows_returned >= state->model->usual_rows ? INFINITY :
							  ivfpq_results_ceiling(&state->results)) * state->query.unit;
	const VqItem *item;

	approach(state, IVFPQ_APPROACH_GUESS, values_ahead + PAGES_AHEAD + BUFFERS_AHEAD + GUESSES_AHEAD, ceiling);
	approach(state, IVFPQ_APPROACH_BUFFER, values_ahead + PAGES_AHEAD + BUFFERS_AHEAD, ceiling);

	/* pages looked for before reads waited have not been asked for */
	if (state->candidates.is_fresh || waits != state->asks_disk)
		state->npages_asked = state->nvalues_asked = 0;
	state->asks_disk = waits;
	while (state->npages_asked <= pages_ahead &&
		   (item = candidate_ahead(state, state->npages_asked, ceiling)) != NULL)
	{
		ivfpq_rerank_approach(state->reranker, IVFPQ_APPROACH_PAGE, item);
		state->npages_asked++;
	}
	approach(state, IVFPQ_APPROACH_ROW, values_ahead + ROWS_AHEAD, ceiling);
	while (values_ahead > 0 && state->nvalues_asked <= values_ahead &&
		   (item = candidate_ahead(state, state->nvalues_asked, ceiling)) != NULL)
	{
		ivfpq_rerank_approach(state->reranker, IVFPQ_APPROACH_VALUE, item);
		state->nvalues_asked++;
	}
}

/* Distances of the row of result->tid; false if the snapshot sees no row there, or the query does not want it */
static bool
compare_row(IvfpqScan *state, IvfpqResult *result, uint64 *fingerprint)
{
	IvfpqRowFate fate = ivfpq_rerank(state->reranker, &state->vector, result, fingerprint);

	if (fate == IVFPQ_ROW_FILTERED)
		state->stats.rows_filtered++;
	else
		state->stats.candidates_reranked++;
	return fate == IVFPQ_ROW_COMPARED;
}

/* Compare the rows that were taken for copies after all.  Those that have spilled are compared when they are taken. */
static void
compare_assumed(IvfpqScan *state)
{
	IvfpqResult row;

	ivfpq_results_begin_review(&state->results);
	while (ivfpq_results_review(&state->results, &row))
	{
		CHECK_FOR_INTERRUPTS();
		row.is_assumed = false;
		if (compare_row(state, &row, NULL))
			ivfpq_results_add(&state->results, &row);
	}
}

/*
 * Rows behind a search that has these behind it which pass the conditions on attributes: among their entries
 * are as many others as among all entries so far
 */
static double
rows_behind(const IvfpqScan *state, double passing)
{
	if (state->nconditions == 0)
		return passing;
	return (passing + 1) * ((state->nentries + 1.0) / (state->stats.codes_scored + 1.0));
}

/*
 * Have further lists join in, if so many rows are behind the search.  Of those that the query's conditions
 * have discarded, as large a part is taken to be nearer than the row looked for as of those compared.
 */
static void
take_further_lists(IvfpqScan *state)
{
	const IvfpqScanStats *stats = &state->stats;
	double		share = (stats->rows_returned + 1.0) / (stats->candidates_reranked + 1.0);
	double		passing = stats->rows_returned + stats->rows_filtered * share + (stats->rows_filtered > 0);

	while (rows_behind(state, passing) >= state->expand_at && !ivfpq_results_are_spilled(&state->results))
	{
		state->expand_at *= 2;
		take_lists(state, further_lists(state));
	}
}

/*
 * Take off the nearest result.  False if it was taken to be a copy, and is no row or not
 * as far: then others may not be either.
 */
static bool
take_result(IvfpqScan *state, IvfpqResult *result)
{
	double		assumed;

	ivfpq_results_take(&state->results, result);
	if (likely(!result->is_assumed))
		return true;
	assumed = result->distance;
	if (!compare_row(state, result, NULL))
		return false;
	result->is_assumed = false;
	if (result->distance == assumed || ivfpq_results_are_spilled(&state->results))
		return true;
	compare_assumed(state);
	ivfpq_results_add(&state->results, result);
	return false;
}

/*
 * Fetch candidates until the nearest row is known.  False if the batch has no
 * rows left, or if those left are farther than wanted: then the search is finished.
 * Lists that have not been searched are taken to have no nearer ones, as they are when a LIMIT
 * has its rows.
 */
static bool
next_result(IvfpqScan *state, IvfpqResult *result)
{
	for (;;)
	{
		const VqItem *next;
		bool		is_beyond;
		const IvfpqResult *nearest;
		IvfpqResult row = {.returned = NAN};
		float		key;
		bool		is_copied;
		bool		may_be_copy;
		uint64		fingerprint = 0;

		CHECK_FOR_INTERRUPTS();
		if (rows_behind(state, state->stats.rows_returned + state->stats.rows_filtered) >= state->expand_at)
			take_further_lists(state);
		next = ivfpq_candidates_peek(&state->candidates, &state->batch);
		is_beyond = next != NULL && next->key > state->largest * state->query.unit;
		if (is_beyond)
			next = NULL;
		nearest = ivfpq_results_peek(&state->results, next == NULL);
		if (next == NULL && (nearest == NULL ? is_beyond : nearest->distance > state->largest && !nearest->is_assumed))
		{
			state->is_finished = true;
			return false;
		}
		if (nearest != NULL && (next == NULL || nearest->distance * state->query.unit <= Max(next->key, state->least)))
		{
			if (take_result(state, result))
				return true;
			continue;
		}
		if (next == NULL)
			return false;

		ivfpq_item_tid(next, &row.tid);
		key = next->key;
		is_copied = ivfpq_is_copy(&state->copies, key) && ivfpq_results_have_room(&state->results);
		may_be_copy = unlikely(key == state->copies.key) && !isinf(key);
		if (!is_copied)
			look_ahead(state);
		ivfpq_candidates_skip(&state->candidates);
		state->npages_asked = Max(state->npages_asked, 1) - 1;
		state->nvalues_asked = Max(state->nvalues_asked, 1) - 1;
		if (is_copied)
		{
			row.distance = state->copies.distance;
			row.is_assumed = true;
			ivfpq_results_add(&state->results, &row);
			state->copies.nassumed++;
		}
		else if (compare_row(state, &row, may_be_copy ? &fingerprint : NULL))
		{
			ivfpq_results_add(&state->results, &row);
			if (ivfpq_copies_note(&state->copies, key, fingerprint, row.distance))
				compare_assumed(state);
		}
	}
}

bool
ivfpqgettuple(IndexScanDesc scan, ScanDirection dir)
{
	IvfpqScan  *state = scan->opaque;
	IvfpqReturned *returned;
	MemoryContext old;
	bool		found = false;

	Assert(ScanDirectionIsForward(dir));
	if (!state->is_started)
		start_query(scan, state);

	returned = ivfpq_returned_of(scan);
	old = MemoryContextSwitchTo(state->query_context);
	while (!found && !state->is_finished)
	{
		IvfpqResult result;

		if (!next_result(state, &result))
		{
			if (!state->is_finished && !next_batch(state))
				state->is_finished = true;
		}
		else if (state->iterative_scan != VQ_ITERATIVE_STRICT || result.distance >= state->last_distance)
		{
			scan->xs_heaptid = result.tid;
			scan->xs_recheck = scan->numberOfKeys > 0;
			scan->xs_recheckorderby = false;
			state->last_distance = result.distance;
			if (returned)
				returned->distance = result.returned;
			state->stats.rows_returned++;
			found = true;
		}
	}
	if (state->reranker)
		ivfpq_rerank_pause(state->reranker, found ? scan : NULL);
	ivfpq_last_scan_stats = state->stats;
	MemoryContextSwitchTo(old);
	return found;
}
