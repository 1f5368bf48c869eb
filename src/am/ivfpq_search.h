/*-------------------------------------------------------------------------
 *
 * ivfpq_search.h
 *	  The parts of a scan: finding the nearest lists, scoring a batch of them,
 *	  keeping candidates and results in work_mem, and fetching rows for their
 *	  exact distances.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_SEARCH_H
#define IVFPQ_SEARCH_H

#include "am/ivfpq.h"
#include "am/ivfpq_toast.h"
#include "kernels/vq_select.h"
#include "utils/tuplesort.h"

#include "base/vq_datum.h"

/*----------
 * ivfpq_coarse.c: lists in the order of their value for the query (see
 * vq_codec_list_value).
 *----------
 */
typedef struct IvfpqNearList
{
	uint32		list_no;
	float		distance_sq;	/* |q - centroid|^2 */
	float		norm_sq;		/* |centroid|^2 */
	IvfpqDirEntry entry;
} IvfpqNearList;

typedef struct IvfpqCoarse
{
	Relation	index;
	const IvfpqModel *model;
	const VqQuery *query;
	bool		is_coded;
	uint32		expected;		/* lists that may be taken before others are compared */
	uint32		ntaken;

	/* compared exactly: nearest first, by id_high, the place in the arrays */
	uint32		ncompared;
	VqSelect	select;
	VqItem	   *items;
	uint32	   *list_nos;
	float	   *distance_sq;
	float	   *norm_sq;
	IvfpqDirEntry *entries;
	uint32	   *places;			/* of their codes, if coded: block and slot in one number */

	/* if coded */
	VqQuery		tables;			/* of the coarse codec */
	VqSelect	groups;			/* not yet opened, nearest first; id_high is the group */
	float	   *group_distance_sq;	/* of all groups */
	float	   *group_norm_sq;
	uint32		nopen;			/* groups */
	uint32	   *open;			/* they, nearest first, */
	IvfpqRun   *runs;			/* and the blocks of their lists' codes */
	uint32		nopened;		/* lists in them */
	uint32	   *waiting;		/* a word for each block of codes, a bit for each list in an
								 * open group that has not been taken */
	uint32	   *chosen;			/* the same; 0 but while lists are found */
} IvfpqCoarse;

/*
 * Memory comes from the current context; q_model and q_norm_sq of query are
 * set.  Returns how many lists the query should read: nprobe, or, where that is the mean of all queries, what
 * the distances of its lists say.  Taking more takes longer, no more.
 */
extern uint32 ivfpq_coarse_begin(IvfpqCoarse *coarse, Relation index, const IvfpqModel *model,
								 const VqQuery *query, uint32 nprobe, bool is_mean);

/* The next list, or false after the last */
extern bool ivfpq_coarse_next(IvfpqCoarse *coarse, IvfpqNearList *list);

/*
 * For a build: the share of the lists nearest to each of nrows rows in model space, every
 * stride floats, that a search of nprobe lists for it would compare by these codes of centroids.
 * Those are the nearest quarter of nprobe, as of the others any code misses some.  Of model,
 * nlists, ngroups, coarse, coarse_shape, group_lists and group_blocks are set; centroids
 * is float[nlists + ngroups][dim], with the centres of groups behind.
 */
extern double ivfpq_coarse_share(const IvfpqModel *model, const char *blocks, const float *centroids,
								 const float *rows, size_t stride, size_t nrows, uint32 nprobe);

/* A list to be scored */
typedef struct IvfpqProbe
{
	uint32		list_no;
	IvfpqDirEntry entry;
	VqBound		bound;
	bool		has_floor;		/* its items up to floor have been handed out */
	VqItem		floor;
} IvfpqProbe;

/* Lists whose candidates come out in one order */
typedef struct IvfpqBatch
{
	Relation	index;
	const IvfpqModel *model;
	const VqQuery *query;
	Snapshot	snapshot;
	const VqKernels *kernels;	/* the same for all passes: others round otherwise */
	const VqCondition *conditions;	/* on attributes: entries that do not pass are no candidates */
	uint32		nconditions;
	bool		skips_codes;	/* so few entries pass that the codes of most blocks are not looked at */
	uint32		nlists;
	uint32		allocated;
	IvfpqProbe *lists;
} IvfpqBatch;

/* ivfpq_ahead.c: the lists of a batch on their way to the processor's caches */
typedef struct IvfpqAhead
{
	const IvfpqBatch *batch;
	uint32		next_list;		/* of the batch */
	bool		is_done;
	BlockNumber page;
	uint32		npages;			/* of the list, this one included */
	size_t		offset;			/* in the page */
	size_t		nbytes;			/* of the list, at most */
	const char *start;			/* of the page, NULL if it is not known where it is */
} IvfpqAhead;

/* From first_list on; nothing is fetched yet */
extern void ivfpq_ahead_begin(IvfpqAhead *ahead, const IvfpqBatch *batch, uint32 first_list);

/* One page more */
extern void ivfpq_ahead_fetch(IvfpqAhead *ahead);

/* ivfpq_candidates.c */

/*
 * Candidates of a batch in order of their bound.  Few of many are ever asked
 * for, so only those of the smallest bounds are held: a comparison with the
 * largest of them throws out most codes before anything is known of them but
 * their bound.  When those held are used up, the batch is scored again for
 * several times as many, at most half of work_mem.  Nothing is lost and nothing
 * comes twice, as (bound, tid) is a total order and each list remembers how
 * far its items have been handed out.
 */
typedef struct IvfpqCandidates
{
	MemoryContext context;
	VqPool		pool;
	size_t		allocated;		/* items that there is memory for */
	VqSelect	select;
	bool		has_taken;
	VqItem		taken;			/* the last item handed out, if has_taken */
	bool		is_fresh;		/* none was handed out since codes were scored */
	int64		nentries;		/* seen, each list the first time */
	int64		nscored;		/* of these the codes that were scored, as the entry passes the conditions */
} IvfpqCandidates;

extern void ivfpq_batch_init(IvfpqBatch *batch, Relation index, const IvfpqModel *model,
							 const VqQuery *query, Snapshot snapshot);

/* Room for one more list; its list_no, entry and bound are to be set */
extern IvfpqProbe *ivfpq_batch_add(IvfpqBatch *batch);

extern void ivfpq_candidates_init(IvfpqCandidates *candidates, MemoryContext context);

/* Forget everything but the memory; about so many are going to be asked for */
extern void ivfpq_candidates_clear(IvfpqCandidates *candidates, size_t expected);

/* Score the lists of a batch from first_list on, which are new to it, and merge their items in */
extern void ivfpq_candidates_add(IvfpqCandidates *candidates, IvfpqBatch *batch, uint32 first_list);

/* The candidate of the smallest bound, or NULL; skip takes it off */
extern const VqItem *ivfpq_candidates_peek(IvfpqCandidates *candidates, IvfpqBatch *batch);
extern void ivfpq_candidates_skip(IvfpqCandidates *candidates);

/* What is likely to be handed out after so many more, or NULL */
static inline const VqItem *
ivfpq_candidates_ahead(IvfpqCandidates *candidates, size_t ahead)
{
	return vq_select_ahead(&candidates->select, ahead);
}

static inline void
ivfpq_item_tid(const VqItem *item, ItemPointer tid)
{
	ItemPointerSet(tid, item->id_high, item->id_low);
}

/* Of the first chunk of its vector; invalid if that is not known */
static inline void
ivfpq_item_chunk_tid(const VqItem *item, ItemPointer tid)
{
	ItemPointerSet(tid, item->note_high, item->note_low);
}

/*----------
 * ivfpq_results.c: rows with their exact distances, nearest first.
 *
 * A heap, while half of work_mem holds it.  Beyond that the rest of the batch
 * goes through a tuplesort, which can spill to disk, and nothing comes out
 * before everything is in.  That happens only where bounds say nothing: in an
 * index without codes that has outgrown its purpose.
 *----------
 */
typedef struct IvfpqResult
{
	double		distance;
	double		returned;		/* what the operator gives (IvfpqReturned), NaN if that is not known */
	ItemPointerData tid;
	bool		is_assumed;		/* the row has not been fetched: it is taken to be a copy of one that was */
} IvfpqResult;

#define IVFPQ_MAX_EXPECTED	64

typedef struct IvfpqResults
{
	MemoryContext context;
	IvfpqResult *heap;			/* binary heap, nearest at 0 */
	size_t		nresults;
	size_t		allocated;
	size_t		capacity;		/* what half of work_mem holds */
	size_t		review_from;	/* rows under review, in heap behind its results */
	size_t		review_to;
	size_t		nexpected;
	size_t		nnearest;		/* at most as many as expected */
	double		nearest[IVFPQ_MAX_EXPECTED];	/* their distances, ascending; also of those taken off */
	Tuplesortstate *sort;		/* NULL while the heap suffices */
	bool		is_sorted;		/* the sort is complete and being read */
	bool		has_current;
	IvfpqResult current;		/* read from the sort, not yet taken */
	TupleTableSlot *sort_in;
	TupleTableSlot *sort_out;
} IvfpqResults;

extern void ivfpq_results_init(IvfpqResults *results, MemoryContext context);
extern void ivfpq_results_add(IvfpqResults *results, const IvfpqResult *result);

/* Whether one more stays in the heap */
extern bool ivfpq_results_have_room(const IvfpqResults *results);

/*
 * Nearest result, or NULL if there is none or it cannot be told before the
 * batch is complete.  Valid until the next call.
 */
extern const IvfpqResult *ivfpq_results_peek(IvfpqResults *results, bool is_complete);

/* Whether they are in the tuplesort, to which nothing can be added once it is read */
static inline bool
ivfpq_results_are_spilled(const IvfpqResults *results)
{
	return results->sort != NULL;
}

/*
 * Of how many rows, at most IVFPQ_MAX_EXPECTED, ivfpq_results_ceiling tells the
 * greatest distance; 0 for none.  For the rows added from now on, until they are cleared.
 */
extern void ivfpq_results_expect(IvfpqResults *results, size_t nexpected);

/* The distance of the last of as many rows as expected; infinity before there are so many, or for none */
static inline double
ivfpq_results_ceiling(const IvfpqResults *results)
{
	return results->nexpected > 0 && results->nnearest == results->nexpected ?
		results->nearest[results->nnearest - 1] : INFINITY;
}

/*
 * Take off all rows that are assumed to be copies, one after the other until there is none (false), unless they have
 * spilled.  Each may be added before the next one is taken off.
 */
extern void ivfpq_results_begin_review(IvfpqResults *results);
extern bool ivfpq_results_review(IvfpqResults *results, IvfpqResult *result);

/* Take off what peek has just returned */
extern void ivfpq_results_take(IvfpqResults *results, IvfpqResult *result);
extern void ivfpq_results_clear(IvfpqResults *results);

/*----------
 * ivfpq_copies.c: rows that are taken for copies of those compared.
 *
 * Copies of a vector have the same code, and so the same bound.  Where many rows of one bound
 * have been compared in succession, and all had the same vector, as many more of that bound are taken to be as
 * far, and are fetched only when it is their turn to be returned; then one more is compared, and so on:
 * else all of a thousand copies would be compared before one is returned.  Vectors that differ can have
 * the same code and bound as well: when one turns up, rows taken for copies are to be fetched after all.
 *----------
 */
#define IVFPQ_COPIES_COMPARED	16

typedef struct IvfpqCopies
{
	float		key;			/* bound of the last row compared, NaN before there is one */
	double		distance;		/* its distance */
	uint64		fingerprint;	/* of its vector, 0 if the one before had another bound */
	uint32		ncompared;		/* rows of this bound and vector, one after the other */
	uint32		nassumed;		/* rows taken for copies since the last one was compared; the caller counts them */
} IvfpqCopies;

/* Whether a row of this bound is taken to be as far as the last one compared */
static inline bool
ivfpq_is_copy(const IvfpqCopies *copies, float key)
{
	return unlikely(copies->ncompared >= IVFPQ_COPIES_COMPARED) && key == copies->key &&
		copies->nassumed < copies->ncompared;
}

/* What a row that was compared says of those with the same bound: true if those taken for copies may be none */
extern bool ivfpq_copies_note(IvfpqCopies *copies, float key, uint64 fingerprint, double distance);

/* ivfpq_filter.c */
typedef struct IvfpqFilter IvfpqFilter;

/* Whether a plan may hide rows from some of its conditions: not looked up before somebody asks */
typedef enum IvfpqHiding
{
	IVFPQ_HIDING_UNKNOWN,
	IVFPQ_HIDING,
	IVFPQ_NOT_HIDING
} IvfpqHiding;

/*
 * The conditions to be tried on the rows of a search, for as long as its plan; NULL if there are none.  hiding is one
 * of all searches of a plan.
 */
extern IvfpqFilter *ivfpq_filter_make(struct IndexScanState *node, IvfpqHiding *hiding);

/* Whether the numbers of rows that pass tell of rows that the user is not to know of.  filter may be NULL. */
extern bool ivfpq_filter_is_secret(const IvfpqFilter *filter);

/* False if the conditions discard the row.  True does not mean that they do not. */
extern bool ivfpq_filter_passes(IvfpqFilter *filter, TupleTableSlot *slot);

/* Tell EXPLAIN of a row that the conditions have discarded */
extern void ivfpq_filter_count(IvfpqFilter *filter);

/*----------
 * ivfpq_executor.c: what a search is told when its plan is started; NULL if it is told nothing
 *----------
 */
extern IvfpqFilter *ivfpq_filter_of(IndexScanDesc scan);

/* The executor computes distances of the rows returned */
typedef struct IvfpqReturned
{
	FmgrInfo	function;		/* of the operator: its arguments are the indexed value and the query's */
	Oid			collation;
	double		distance;		/* what it gives for the row returned last, NaN if the executor is to call it */
} IvfpqReturned;

extern IvfpqReturned *ivfpq_returned_of(IndexScanDesc scan);

/* The expression of the indexed vector, ready to be evaluated; NIL if it is told nothing */
extern List *ivfpq_expressions_of(IndexScanDesc scan);

/* ivfpq_rerank.c */
typedef struct IvfpqReranker IvfpqReranker;

/*
 * Memory comes from the current context; the scan's heap and snapshot are set.  What is expected of
 * vectors, that they are stored out of line, the first one compared corrects.
 */
extern IvfpqReranker *ivfpq_rerank_begin(IndexScanDesc scan, VqMetric metric, bool is_out_of_line);

/* The scan has another query: forget what rows were like for the one before */
extern void ivfpq_rerank_clear(IvfpqReranker *reranker);

/* Whether rows have their vectors out of line, as far as has been seen: then IVFPQ_APPROACH_VALUE pays */
extern bool ivfpq_rerank_is_out_of_line(const IvfpqReranker *reranker);

/*
 * A row comes into the processor's caches step by step, each some candidates
 * after the one before: where its page was last, what tells whether it is still
 * there, the page, which is asked of the system where reads have to wait
 * (ivfpq_reads_wait), the row, and the pages of its vector where this is stored out of
 * line.  Of that, if the entry says where it is, the first chunk comes with the row.  item may be NULL.  The last step
 * fetches the row and tries the conditions, and keeps what comes of that for the last IVFPQ_MAX_READY rows.
 */
typedef enum IvfpqApproach
{
	IVFPQ_APPROACH_GUESS,
	IVFPQ_APPROACH_BUFFER,
	IVFPQ_APPROACH_PAGE,
	IVFPQ_APPROACH_ROW,
	IVFPQ_APPROACH_VALUE
} IvfpqApproach;

#define IVFPQ_MAX_READY		9

extern void ivfpq_rerank_approach(IvfpqReranker *reranker, IvfpqApproach step, const VqItem *item);

typedef enum IvfpqRowFate
{
	IVFPQ_ROW_UNSEEN,			/* the snapshot sees no row there, or none with a vector */
	IVFPQ_ROW_FILTERED,			/* the query's conditions discard it */
	IVFPQ_ROW_COMPARED
} IvfpqRowFate;

/*
 * Distance of the indexed value of the row of result->tid, by the scan's snapshot: squared for
 * L2, else as the operator gives it; what this gives, if the executor is going to ask and it is dear to say;
 * and if fingerprint is not NULL, a hash of the value.
 */
extern IvfpqRowFate ivfpq_rerank(IvfpqReranker *reranker, const VqVector *query, IvfpqResult *result,
								 uint64 *fingerprint);

/*
 * Let go of pins before control goes back to the executor.  With scan, it fetches
 * the row of xs_heaptid next: let it find the page pinned.
 */
extern void ivfpq_rerank_pause(IvfpqReranker *reranker, IndexScanDesc scan);
extern void ivfpq_rerank_end(IvfpqReranker *reranker);

#endif							/* IVFPQ_SEARCH_H */
