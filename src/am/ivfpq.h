/*-------------------------------------------------------------------------
 *
 * ivfpq.h
 *	  The access method's private contract: states and prototypes, grouped by
 *	  the file that defines them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_H
#define IVFPQ_H

#include "postgres.h"

#include "access/amapi.h"
#include "access/genam.h"
#include "access/relscan.h"
#include "nodes/execnodes.h"
#include "storage/buf.h"
#include "storage/itemptr.h"
#include "utils/rel.h"

#include "am/ivfpq_page.h"
#include "base/vq_datum.h"
#include "base/vqpg_compat.h"
#include "kernels/vq_attribute.h"
#include "kernels/vq_block.h"
#include "kernels/vq_codec.h"
#include "kernels/vq_spread.h"

/*
 * Strategies and support functions of a class.  The second strategy is for search keys that only the
 * planner makes (ivfpq_distance.c): the distance is to be at most that, or the search may end.
 *
 * Columns after the first are attributes.  Strategies of their classes are those of B-trees, then && and @>.  The third
 * support function, of a value, gives the number that stands for it: int4 or int8, which is the same for equal
 * values, of other types too (but for the extension's own of dates and times, which ivfpq_datetime.c converts), and does not descend as values ascend if the class has one of <, <=, >= and >.  If the class has && or @> it has bits that each element of a value sets, and is
 * not negative; and a value of one element is an array of it.
 */
#define IVFPQ_DISTANCE_STRATEGY		1
#define IVFPQ_WITHIN_STRATEGY		2	/* (type of the class, float8) returns bool, always true */
#define IVFPQ_OVERLAPS_STRATEGY		6
#define IVFPQ_CONTAINS_STRATEGY		7
#define IVFPQ_METRIC_PROC			1	/* () returns int4: a VqMetric */
#define IVFPQ_DATUM_PROC			2	/* () returns int4: a VqDatumKind; arrays without it */
#define IVFPQ_ATTRIBUTE_PROC		3	/* (type of the class) returns int4 or int8 */
#define IVFPQ_NUM_PROCS				3

#define IVFPQ_MAX_LISTS				262144
#define IVFPQ_MAX_TRAIN_ROWS		(256 * IVFPQ_MAX_LISTS)

/* An index is trained if there are at least this many rows for each value of a code (ivfpq_coded_rows) */
#define IVFPQ_ROWS_PER_CODE			32

/* Centroids are coded too, from this many lists on, with codes of this kind */
#define IVFPQ_MIN_CODED_LISTS		256
#define IVFPQ_COARSE_NBITS			4

/* A row goes to the nearest list in so many groups */
#define IVFPQ_ASSIGNED_GROUPS		8

/* Reloptions, as parsed by ivfpqoptions */
typedef struct IvfpqOptions
{
	int32		vl_len_;		/* varlena header (do not touch directly!) */
	int			lists;			/* 0 = auto */
	int			m;				/* 0 = auto */
	int			nbits;
	int			rotation;		/* VqRotation */
	int			dims;			/* 0 = from the data */
	int			train_rows;		/* 0 = auto */
	int			nprobe;			/* 0 = auto */
	bool		autoreindex;	/* VACUUM may have it rebuilt */
} IvfpqOptions;

/* Phases of CREATE INDEX, for pg_stat_progress_create_index and the metapage's build_ms */
#define IVFPQ_PHASE_SAMPLING		2
#define IVFPQ_PHASE_CLUSTERING		3
#define IVFPQ_PHASE_TRAINING_CODES	4
#define IVFPQ_PHASE_ENCODING		5
#define IVFPQ_PHASE_WRITING			6

StaticAssertDecl(IVFPQ_PHASE_WRITING - IVFPQ_PHASE_SAMPLING + 1 == IVFPQ_BUILD_PHASES,
				 "the metapage has the time of each phase");

/* Values of the storage parameter "rotation" */
typedef enum IvfpqRotation
{
	IVFPQ_ROTATION_NONE,
	IVFPQ_ROTATION_HADAMARD,
	IVFPQ_ROTATION_LEARNED		/* that one, and codes of the directions in which residuals vary most */
} IvfpqRotation;

/* An index is trained from so many rows on */
static inline int
ivfpq_coded_rows(const IvfpqOptions *options)
{
	return IVFPQ_ROWS_PER_CODE << options->nbits;
}

/* The blocks of an index's lists */
static inline VqBlockShape
ivfpq_block_shape(const IvfpqMetaPageData *meta)
{
	VqBlockShape shape = {.m = meta->m, .nbits = meta->nbits, .nattributes = meta->nattributes,
		.has_chunk_tids = meta->has_chunk_tids != 0};

	for (uint32 i = 0; i < shape.nattributes; i++)
		shape.attribute_bytes[i] = meta->wide_attributes >> i & 1 ? sizeof(int64) : sizeof(int32);
	return shape;
}

/* Are codes those of a projection? */
static inline bool
ivfpq_is_projected(const IvfpqMetaPageData *meta)
{
	return meta->projection_start != InvalidBlockNumber;
}

/* ivfpq_handler.c */
extern char *ivfpqbuildphasename(int64 phase);
extern IvfpqOptions *ivfpq_options(Relation index);	/* defaults if none are set; palloc'd */
extern VqMetric ivfpq_metric(Relation index);

/* How a value of this type is read, the index's own or that of a query to it; ERROR if it cannot be */
extern VqDatumKind ivfpq_datum_kind(Relation index, Oid type);

/* Dimensions known before there is a row, from vector(dim) or the storage parameter; else 0 */
extern uint32 ivfpq_declared_dim(Relation index);

/*
 * Lists that a search reads, and those if ivfpq.nprobe did not say so: the storage parameter, else as many as ivfpq.recall
 * takes in the mean (*by_recall)
 */
extern uint32 ivfpq_search_nprobe(Relation index, const IvfpqMetaPageData *meta, bool *by_recall);
extern uint32 ivfpq_default_nprobe(Relation index, const IvfpqMetaPageData *meta, bool *by_recall);
extern void ivfpq_init_reloptions(void);	/* once per process, from _PG_init */

/* ivfpq_first.c, ivfpq_order.c and ivfpq_paths.c (ivfpq_planner.h has the rest of them) */
extern void ivfpq_init_first(void); /* once per process, from _PG_init */
extern void ivfpq_init_order(void); /* once per process, from _PG_init */
extern void ivfpq_init_paths(void); /* likewise */
extern void ivfpq_init_executor(void);	/* likewise */
extern void ivfpq_init_explain(void);	/* likewise */

/* ivfpq_validate.c */
extern bool ivfpqvalidate(Oid opclassoid);

/* ivfpq_cost.c */
extern void ivfpqcostestimate(struct PlannerInfo *root, struct IndexPath *path, double loop_count,
							  Cost *startup, Cost *total, Selectivity *selectivity,
							  double *correlation, double *pages);

/* ivfpq_build.c */
extern IndexBuildResult *ivfpqbuild(Relation heap, Relation index, IndexInfo *info);
extern void ivfpqbuildempty(Relation index);

/* ivfpq_insert.c */
extern bool ivfpqinsert(Relation index, Datum *values, bool *isnull, ItemPointer tid,
						Relation heap, IndexUniqueCheck check_unique,
						bool index_unchanged, IndexInfo *info);

/* ivfpq_vacuum.c */
extern IndexBulkDeleteResult *ivfpqbulkdelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats,
											  IndexBulkDeleteCallback callback, void *state);
extern IndexBulkDeleteResult *ivfpqvacuumcleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats);

/* ivfpq_autoreindex.c (ivfpq_autoreindex.h has the rest of it) */
typedef enum IvfpqAutoreindex
{
	IVFPQ_AUTOREINDEX_STARTED,
	IVFPQ_AUTOREINDEX_OFF,		/* by a setting, or as this index cannot be */
	IVFPQ_AUTOREINDEX_NO_WORKER	/* max_worker_processes are busy */
} IvfpqAutoreindex;

/*
 * How many rows an index has of which nrows are expected, which partial indexes have not; 0 if
 * it was built on about as many, or few.  Fills *meta unless nrows are few.
 */
extern double ivfpq_outgrown(Relation index, double nrows, IvfpqMetaPageData *meta);

/* Start a background worker that rebuilds this index, drops leftovers, and sees to others of the database */
extern IvfpqAutoreindex ivfpq_autoreindex_start(Relation index);

/* ivfpq_leftovers.c */

/* Whether REINDEX CONCURRENTLY of this index, by whomever, has left another that is not valid */
extern bool ivfpq_has_leftovers(Relation index);

/* ivfpq_scan.c */
extern IndexScanDesc ivfpqbeginscan(Relation index, int nkeys, int norderbys);
extern void ivfpqrescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys, int norderbys);
extern bool ivfpqgettuple(IndexScanDesc scan, ScanDirection dir);
extern void ivfpqendscan(IndexScanDesc scan);

/* What this backend's last ivfpq scan did */
typedef struct IvfpqScanStats
{
	bool		valid;			/* false until there was one, or if nobody is to know (ivfpq_filter.c) */
	int64		lists_probed;
	int64		codes_scored;
	int64		candidates_reranked;
	int64		rows_returned;
	int64		rows_filtered;	/* not compared, as the query's conditions discard them */
} IvfpqScanStats;

extern IvfpqScanStats ivfpq_last_scan_stats;

/* What all searches of a scan so far did; not valid if there was none, or nobody is to know */
extern void ivfpq_scan_totals(IndexScanDesc scan, IvfpqScanStats *totals);

/*----------
 * ivfpq_model.c: what a search or an insert needs besides the pages, cached
 * per backend in memory of its own, keyed by relfilenode and build_id
 * (rd_amcache is freed under us by any relcache message).  Centroids are not
 * in it: they are read from shared buffers.
 *----------
 */
typedef struct IvfpqModel
{
	IvfpqMetaPageData meta;		/* of the last ivfpq_model_get; only dim and zero_vectors can change */
	VqBlockShape shape;
	VqCodec		codec;			/* valid if meta.codec is not NONE */
	VqBlockShape coarse_shape;	/* m is 0 if centroids are not coded */
	VqCodec		coarse;			/* of centroids, against the centres of their groups */
	const uint32 *group_lists;	/* [ngroups + 1], first list of each group */
	const uint32 *group_blocks; /* [ngroups + 1], its first block of centroid codes */
	size_t		usual_reranks;	/* rows that recent searches of this backend fetched */
	int64		usual_rows;		/* and returned */
	bool		usually_out_of_line;	/* as their vectors were stored */
	BlockNumber *nblocks;		/* of the file when it was last asked, and no fewer now */
} IvfpqModel;

/*
 * The model of an index, loaded if it is not cached.  It stays valid until
 * owner is reset or deleted, an error included.
 */
extern IvfpqModel *ivfpq_model_get(Relation index, MemoryContext owner);

/*
 * First list of each group, and its first block of centroid codes; both are
 * uint32[ngroups + 1], and end with the number of all.  Of an index with groups.
 */
extern void ivfpq_groups_read(Relation index, const IvfpqMetaPageData *meta, uint32 *lists, uint32 *blocks);

/* The projection of a codec that has one; image is of vq_project_bytes, and stays its memory */
extern void ivfpq_projection_read(Relation index, const IvfpqMetaPageData *meta, VqCodec *codec, void *image);

/*
 * distance_sq[i] = |q - centroid|^2 and norm_sq[i] = |centroid|^2 of nlists
 * lists from first_list on; q is float[dim] in model space.  After the last list
 * come the centres of groups, as if they were lists.  Locks one page at a time.
 */
extern void ivfpq_model_distances(Relation index, const IvfpqModel *model, const float *q,
								  uint32 first_list, uint32 nlists,
								  float *distance_sq, float *norm_sq);

/* The same of some lists, whose numbers ascend */
extern void ivfpq_model_distances_of(Relation index, const IvfpqModel *model, const float *q,
									 const uint32 *list_nos, uint32 nlists,
									 float *distance_sq, float *norm_sq);

/* Centroid of one list, float[dim] */
extern void ivfpq_model_centroid(Relation index, const IvfpqModel *model, uint32 list_no, float *centroid);

/* ERROR unless a vector has as many dimensions as those of the index, which must have its metapage */
extern void ivfpq_check_dim(Relation index, uint32 index_dim, int dim);

/* That ERROR; whether its hint tells how an index without rows gets another dimension */
pg_noreturn extern void ivfpq_report_dim(Relation index, uint32 index_dim, int dim, bool may_be_outdated);

/* Whether the dimension is that of the index's first row, rather than trained on or asked for */
extern bool ivfpq_dim_is_from_row(Relation index, const IvfpqMetaPageData *meta);

StaticAssertDecl(IVFPQ_NRECALLS == VQ_NRECALLS, "the metapage has an nprobe for each of vq_recalls");

/* How queries of this index differ */
static inline VqSpread
ivfpq_spread(const IvfpqMetaPageData *meta)
{
	return (VqSpread) {.rank = meta->spread.rank, .mean = meta->spread.mean, .power = meta->spread.power};
}

/*----------
 * Pages: the only callers of the buffer manager and of WAL.
 *----------
 */

/* ivfpq_meta.c */

/* Read and check the metapage; ERROR if it is not one */
extern void ivfpq_meta_read(Relation index, IvfpqMetaPageData *meta);

/* Fix the dimension of an index that has none yet; returns the one in force */
extern uint32 ivfpq_meta_set_dim(Relation index, uint32 dim);

/* Undo that.  The caller has locked out all inserts, and seen that the index holds nothing. */
extern void ivfpq_meta_forget_dim(Relation index);

/* Count a row that was left out because it is a zero vector */
extern void ivfpq_meta_count_zero_vector(Relation index);

/* Fill a fresh page of this kind, and write the metapage's contents into it */
extern void ivfpq_page_init(Page page, IvfpqPageKind kind);
extern void ivfpq_meta_fill(Page page, const IvfpqMetaPageData *meta);

/* ERROR with ERRCODE_INDEX_CORRUPTED unless the page is of this kind */
extern void ivfpq_page_check(Relation index, Buffer buffer, IvfpqPageKind kind);
pg_noreturn extern void ivfpq_report_corrupted(Relation index, BlockNumber blkno, const char *detail);

/* Append a page to a fork; returns its pinned buffer, exclusively locked */
extern Buffer ivfpq_extend(Relation index, ForkNumber fork);

/* ivfpq_buffer.c */

/* ReadBuffer of a page of the main fork that this backend is likely to have read before */
extern Buffer ivfpq_read_buffer(Relation rel, BlockNumber blkno);

/* Have a page in shared buffers, in one of this ring if it was not there; not pinned */
extern void ivfpq_read_through_ring(Relation rel, BlockNumber blkno, BufferAccessStrategy ring);

/*
 * Whether reads of pages that were not in shared buffers have lately waited for a
 * disk.  Where the system has these pages in its cache, asking for them ahead only
 * costs: a system call for each, of which many are never needed.
 */
extern bool ivfpq_reads_wait(void);

/* A search begins: earlier reads count for a little less */
extern void ivfpq_reads_begin_search(void);

/*
 * Have the processor fetch bytes that will be read soon, to the second level
 * cache: asked for the first level, it takes fewer requests at a time.
 */
static inline void
ivfpq_touch(const void *start, size_t nbytes)
{
	for (size_t i = 0; i < nbytes; i += 64)
		__builtin_prefetch((const char *) start + i, 0, 2);
}

/*
 * Where a page is likely to be, or NULL: only to be touched.  What a pin and
 * ivfpq_page_check read has been touched.
 */
extern const char *ivfpq_guess_page(Relation rel, BlockNumber blkno);

/* Touch a part of a page, if it is known where it is */
extern void ivfpq_touch_page(Relation rel, BlockNumber blkno, size_t start, size_t nbytes);

/*
 * The same for a row of a heap (no other table access method), in four steps
 * some time apart: in which buffer its page was last; what tells whether it still
 * is; the page, which the system may be asked to read if it is not; and the row
 * itself, or only its start and end.
 */
extern void ivfpq_touch_row_guess(Relation heap, ItemPointer tid);
extern void ivfpq_touch_row_buffer(Relation heap, ItemPointer tid);
extern void ivfpq_touch_row_page(Relation heap, ItemPointer tid, bool asks_system);
extern void ivfpq_touch_row(Relation heap, ItemPointer tid, bool is_whole);

/*
 * Pin the page of a row for the next table_index_fetch_tuple from a heap, which
 * then need not look for it; false if it was pinned already.  That of the executor
 * would also prune a page that it comes to.
 */
extern bool ivfpq_pin_for_fetch(IndexFetchTableData *fetch, ItemPointer tid);
extern void ivfpq_pin_for_executor(IndexFetchTableData *fetch, ItemPointer tid);

/* The reverse; table_index_fetch_reset no longer does that from 19 on */
extern void ivfpq_unpin_for_fetch(IndexFetchTableData *fetch);

/* ivfpq_array.c */

/* Where centroid rows are: several to a page, or one over several pages */
typedef struct IvfpqRowLayout
{
	uint32		rows_per_page;	/* 1 or more; 1 when rows are split */
	uint32		parts;			/* pages per row, 1 or more */
	uint32		part_dims;		/* values per part (the last may have fewer) */
	uint32		stride;			/* bytes from row to row in a page */
} IvfpqRowLayout;

extern void ivfpq_row_layout(uint32 dim, uint8 centroid_kind, IvfpqRowLayout *layout);
extern BlockNumber ivfpq_row_pages(const IvfpqRowLayout *layout, uint32 nrows);

/* Write nbytes to new pages at the end of the fork; returns the first block */
extern BlockNumber ivfpq_array_write(Relation index, ForkNumber fork, const void *bytes, size_t nbytes);
extern void ivfpq_array_read(Relation index, BlockNumber start, size_t nbytes, void *bytes);

/*
 * Write float[nrows][dim] centroids as rows of a kind, and replace them by what
 * the rows now stand for (rounding of bytes), so that codes are made against
 * what searches will read.
 */
extern BlockNumber ivfpq_rows_write(Relation index, ForkNumber fork, uint32 dim, uint8 centroid_kind,
									float *centroids, uint32 nrows);

/*
 * Call with each page of the rows, share-locked: rows first_row .. first_row +
 * nrows - 1 of which rows points to part part.
 */
typedef void (*IvfpqRowsCallback) (uint32 first_row, uint32 nrows, uint32 part, const char *rows, void *arg);
extern void ivfpq_rows_walk(Relation index, const IvfpqMetaPageData *meta, uint32 first_row, uint32 nrows,
							IvfpqRowsCallback callback, void *arg);

/* The same for some rows, given in ascending order; first_row is the place in this array */
extern void ivfpq_rows_visit(Relation index, const IvfpqMetaPageData *meta, const uint32 *rows, uint32 nrows,
							 IvfpqRowsCallback callback, void *arg);

/*
 * Chunks of bytes that are never split between pages, such as the blocks of
 * centroid codes.  The callback gets each page's chunks of each run, share-locked,
 * run after run.
 */
typedef struct IvfpqRun
{
	uint32		first;			/* chunk */
	uint32		count;
} IvfpqRun;

typedef void (*IvfpqChunksCallback) (uint32 run, uint32 first_chunk, uint32 nchunks, const char *chunks, void *arg);
extern BlockNumber ivfpq_chunks_write(Relation index, ForkNumber fork, const char *chunks,
									  size_t chunk_bytes, uint32 nchunks);
extern void ivfpq_chunks_walk(Relation index, BlockNumber start, size_t chunk_bytes,
							  const IvfpqRun *runs, uint32 nruns, IvfpqChunksCallback callback, void *arg);

/* ivfpq_attributes.c: the columns after the first, as numbers that are kept with entries */

/* How many an index's definition has, and which are of 8 bytes; ERROR unless the first column, and it alone, is a vector */
extern void ivfpq_attributes_define(Relation index, IvfpqMetaPageData *meta);

/* ERROR unless the attributes of the pages are those of the definition */
extern void ivfpq_attributes_check(Relation index, const IvfpqMetaPageData *meta);

/* The numbers of a row, int64[nattributes], from the values of all columns of the index */
extern void ivfpq_attributes_of(Relation index, const VqBlockShape *shape, const Datum *values, const bool *isnull,
								int64 *numbers);

/* What the search keys ask of attributes, palloc'd; false if no row can pass */
extern bool ivfpq_attributes_wanted(IndexScanDesc scan, const VqBlockShape *shape,
									VqCondition **conditions, uint32 *nconditions);

/* Numbers, palloc'd as they come; all zero to begin with */
typedef struct IvfpqNumbers
{
	int64	   *values;
	size_t		count;
	size_t		room;
} IvfpqNumbers;

extern void ivfpq_numbers_add(IvfpqNumbers *numbers, int64 number);

/* ivfpq_datetime.c: conditions between different types of dates and times, whose numbers are days or microseconds */
extern bool ivfpq_is_datetime(Oid type);

/*
 * Add the numbers that values of a column have which may equal a value of another type, given by its number: what is
 * less than that is less than the greatest of them, and what is greater than the least.  For a date between
 * two midnights it is the one before or, to be rounded up, the one after.
 */
extern void ivfpq_datetime_numbers(int64 number, Oid type, Oid column_type, bool round_up, IvfpqNumbers *numbers);

/* ivfpq_list.c */

/* One entry to be put into a list */
typedef struct IvfpqEntry
{
	ItemPointerData tid;
	const VqFactors *factors;	/* NULL for an index without codes */
	const uint8 *codes;			/* likewise */
	const int64 *attributes;	/* [nattributes] */
	ItemPointerData chunk_tid;	/* of the first chunk of the row's vector in the TOAST table, invalid if not known */
} IvfpqEntry;

/* Put an entry into a slot of a block of the index */
static inline void
ivfpq_block_put(void *block, const VqBlockShape *shape, size_t slot, const IvfpqEntry *entry)
{
	vq_block_put(block, shape, slot, (const uint8 *) &entry->tid, entry->factors, entry->codes);
	vq_block_put_attributes(block, shape, slot, entry->attributes);
	vq_block_put_chunk_tid(block, shape, slot, (const uint8 *) &entry->chunk_tid);
}

/* Read the directory entries of lists, whose numbers ascend */
extern void ivfpq_list_entries(Relation index, const IvfpqMetaPageData *meta, const uint32 *list_nos, uint32 nlists,
							   IvfpqDirEntry *entries);

/*
 * Visit the blocks of a list in order.  visit_block gets the block in place,
 * visit_page is called before the first of each page.  The page is share-locked:
 * they must neither keep the pointer nor do anything that can take long or
 * fail.  No lock is held between pages.  ERROR if a page may have lost what
 * snapshot sees (old_snapshot_threshold).  Returns the pages visited.
 */
typedef void (*IvfpqPageCallback) (void *arg);
typedef void (*IvfpqBlockCallback) (const void *block, void *arg);
extern uint64 ivfpq_list_walk(Relation index, const IvfpqModel *model, const IvfpqDirEntry *entry,
							  uint32 list_no, Snapshot snapshot, IvfpqPageCallback visit_page,
							  IvfpqBlockCallback visit_block, void *arg);

/* Capacity of the largest block that fits the free part of a page, or 0 */
extern size_t ivfpq_block_room(const VqBlockShape *shape, Page page);

/* Start reading the first pages of a list that will be walked soon */
extern void ivfpq_list_prefetch(Relation index, const IvfpqDirEntry *entry, uint32 max_pages);

/*
 * Put one entry into a list.  Caller holds no buffer lock.  One WAL record for
 * the slot; when the list has no room, one that links and initialises a block.
 */
extern void ivfpq_list_insert(Relation index, const IvfpqModel *model, uint32 list_no, const IvfpqEntry *entry);

/*
 * Take every entry for which the callback says so out of its list, visiting
 * every entry once, in the order of pages.
 */
extern void ivfpq_list_vacuum(IndexVacuumInfo *info, const IvfpqModel *model,
							  IndexBulkDeleteResult *stats,
							  IndexBulkDeleteCallback callback, void *state);

/* ivfpq_writer.c: the lists of a new index, written page after page in order of list_no */
typedef struct IvfpqWriter IvfpqWriter;

/* Start the file: its metapage, to be filled at the end */
extern IvfpqWriter *ivfpq_writer_begin(Relation index, ForkNumber fork);

/* Reserve the directory, after the arrays and before the first entry */
extern void ivfpq_writer_directory(IvfpqWriter *writer, const VqBlockShape *shape, uint32 nlists);

extern void ivfpq_writer_add(IvfpqWriter *writer, uint32 list_no, const IvfpqEntry *entry);

/* Write the directory, log all pages but the metapage, and fill in meta's directory_start and list_start */
extern void ivfpq_writer_close(IvfpqWriter *writer, IvfpqMetaPageData *meta);

/* Write and log the metapage */
extern void ivfpq_writer_finish(IvfpqWriter *writer, const IvfpqMetaPageData *meta);

/*----------
 * ivfpq_inspect.c: copies of pages, for those who look at all of an index
 *----------
 */

/*
 * Copy a page of the main fork, checked to be of this kind.  False, and no
 * copy, for a list page that is all zeroes, as a crash may leave it.
 */
extern bool ivfpq_inspect_page(Relation index, BlockNumber blkno, IvfpqPageKind kind,
							   BufferAccessStrategy strategy, PGAlignedBlock *copy);

/*
 * Visit every block of every list in the order of the file, each in a private
 * copy of its page and proven sound: blocks fill their page without a gap and
 * pass vq_block_validate, and no slot holds an entry above used.  The callback
 * may take long, fail, or return false to end the walk.  Returns the size of
 * the index in pages; what was added since is not visited.
 */
typedef bool (*IvfpqInspectCallback) (BlockNumber blkno, uint16 offset, void *block, void *arg);
extern BlockNumber ivfpq_inspect_blocks(Relation index, const IvfpqMetaPageData *meta,
										IvfpqInspectCallback callback, void *arg);

/* How many entries there are; no more are looked for when there are enough */
extern double ivfpq_inspect_entries(Relation index, const IvfpqMetaPageData *meta, double enough);

/* ivfpq_check.c */

/* ERROR unless this is an ivfpq index whose main fork this session can read */
extern void ivfpq_check_readable(Relation index);

/* ERROR on any broken invariant of the index with this OID */
extern void ivfpq_check_index(Oid index_oid, bool heap_all_indexed, bool codes);

/* ivfpq_check_model.c: ERROR unless arrays fill the file up to the lists without a gap, and hold what they should */
extern void ivfpq_check_model(Relation index, const IvfpqMetaPageData *meta);

/* ivfpq_check_codes.c: ERROR if the code of a row that the snapshot sees does not stand for it */
extern void ivfpq_check_codes(Relation heap, Relation index, const IvfpqMetaPageData *meta, Snapshot snapshot);

#endif							/* IVFPQ_H */
