/*-------------------------------------------------------------------------
 *
 * ivfpq_check.c
 *	  Read-only proof that an index is what it should be.
 *
 * The checks, in this order:
 *
 *	- The metapage is sound, and the arrays and the directory follow it without
 *	  gap or overlap, up to the first list page.
 *	- Mean, codebooks, projection and centroid rows hold finite numbers, and
 *	  centroids have their codes.
 *	- Directory entries are sound.
 *	- Every list page is all zeroes or filled with sound blocks.
 *	- Every chain starts at its directory entry and visits blocks of its own
 *	  list only, in the order of the file; every block is on a chain.
 *	- No row of the table has two entries, and none lies beyond its end.
 *	- On request: every row that should be indexed has an entry.
 *	- On request: codes and attributes stand for their rows (ivfpq_check_codes.c).
 *
 * Chains ascend in the file, and so does the walk over the pages.  It keeps,
 * for each list, the place where its chain has to go on; a block of a list
 * is right if and only if it lies there.  So one sequential pass proves all of
 * it, in memory for one directory.
 *
 * On a primary the table and the index are locked against writers meanwhile,
 * as amcheck's bt_index_parent_check does.  A standby allows no such lock:
 * recovery writes while we look.  What changes then is little, as blocks
 * never move, chains only grow at their end, and one page is read at one
 * moment: a block may appear behind the end of a chain that we have passed.
 * Only what compares pages read at different moments has to be left out there,
 * counts of blocks and duplicates: a row can have been removed from one place
 * and its TID used again in another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "am/ivfpq.h"
#include "base/vq_datum.h"
#include "base/vqpg_compat.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "lib/bloomfilter.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"

/* Where the chain of a list goes on */
typedef struct ChainEnd
{
	BlockNumber page;			/* InvalidBlockNumber after the last block */
	uint16		offset;
	bool		hint_found;
	uint32		nblocks;		/* seen so far */
} ChainEnd;

typedef struct CheckState
{
	Relation	heap;
	Relation	index;
	bool		is_quiet;		/* nobody writes while we look */
	IvfpqMetaPageData meta;
	VqBlockShape shape;
	IvfpqDirEntry *directory;	/* [nlists] */
	ChainEnd   *chains;			/* [nlists] */
	Tuplesortstate *tids;		/* int8; NULL unless is_quiet */
	bloom_filter *filter;		/* of TIDs; NULL if not asked for */
} CheckState;

void
ivfpq_check_readable(Relation index)
{
	if (index->rd_rel->relkind != RELKIND_INDEX || index->rd_indam->ambuild != ivfpqbuild)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not an ivfpq index", RelationGetRelationName(index)),
				 index->rd_rel->relkind == RELKIND_PARTITIONED_INDEX ?
				 errhint("Name the index of a partition instead.") : 0));
	if (RELATION_IS_OTHER_TEMP(index))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot access temporary indexes of other sessions")));
	if (RecoveryInProgress() && !RelationNeedsWAL(index))
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot access index \"%s\" during recovery", RelationGetRelationName(index)),
				 errdetail("An unlogged index has no contents on a standby.")));
}


/* Whether a block could lie at this place of the file */
static bool
is_block_address(const CheckState *check, BlockNumber page, uint16 offset)
{
	return page >= check->meta.list_start && page != InvalidBlockNumber &&
		offset >= IVFPQ_CONTENTS_OFFSET && offset < BLCKSZ && offset % 4 == 0;
}

static void
check_directory(CheckState *check)
{
	uint32		nlists = check->meta.nlists;

	check->directory = MemoryContextAllocHuge(CurrentMemoryContext, nlists * sizeof(IvfpqDirEntry));
	check->chains = MemoryContextAllocHuge(CurrentMemoryContext, nlists * sizeof(ChainEnd));

	for (uint32 first = 0; first < nlists; first += IVFPQ_DIR_ENTRIES_PER_PAGE)
	{
		BlockNumber blkno = check->meta.directory_start + first / IVFPQ_DIR_ENTRIES_PER_PAGE;
		uint32		count = Min(IVFPQ_DIR_ENTRIES_PER_PAGE, nlists - first);
		PGAlignedBlock copy;

		ivfpq_inspect_page(check->index, blkno, IVFPQ_PAGE_DIRECTORY, NULL, &copy);
		if (((PageHeader) copy.data)->pd_lower != IVFPQ_CONTENTS_OFFSET + count * sizeof(IvfpqDirEntry))
			ivfpq_report_corrupted(check->index, blkno,
								   psprintf("Contents end at %u, but the page has %u directory entries.",
											((PageHeader) copy.data)->pd_lower, count));
		memcpy(check->directory + first, ivfpq_page_directory(copy.data), count * sizeof(IvfpqDirEntry));

		for (uint32 list_no = first; list_no < first + count; list_no++)
		{
			const IvfpqDirEntry *entry = &check->directory[list_no];
			ChainEnd   *chain = &check->chains[list_no];
			bool		is_empty = entry->head_page == InvalidBlockNumber;
			bool		has_hint = entry->hint_page != InvalidBlockNumber;

			if (is_empty != (entry->nblocks == 0) || is_empty != !has_hint ||
				(!is_empty && !is_block_address(check, entry->head_page, entry->head_offset)) ||
				(has_hint && !is_block_address(check, entry->hint_page, entry->hint_offset)))
				ivfpq_report_corrupted(check->index, blkno,
									   psprintf("List %u has %u blocks, head (%u,%u) and hint (%u,%u).",
												list_no, entry->nblocks,
												entry->head_page, entry->head_offset,
												entry->hint_page, entry->hint_offset));
			chain->page = entry->head_page;
			chain->offset = entry->head_offset;
			chain->hint_found = !has_hint;
			chain->nblocks = 0;
		}
	}
}

/* The same order as that of the TIDs */
static int64
tid_key(ItemPointer tid)
{
	return (int64) ItemPointerGetBlockNumberNoCheck(tid) << 16 | ItemPointerGetOffsetNumberNoCheck(tid);
}

static bool
check_block(BlockNumber blkno, uint16 offset, void *block, void *arg)
{
	CheckState *check = arg;
	const VqBlockHeader *header = block;
	uint32		list_no = header->list_no;
	const IvfpqDirEntry *entry = &check->directory[list_no];
	ChainEnd   *chain = &check->chains[list_no];
	bool		may_be_new = !check->is_quiet && chain->page == InvalidBlockNumber;

	if ((chain->page != blkno || chain->offset != offset) && !may_be_new)
		ivfpq_report_corrupted(check->index, blkno,
							   chain->page == InvalidBlockNumber ?
							   psprintf("The block at offset %u is of list %u, but not on its chain, which has ended.",
										offset, list_no) :
							   psprintf("The block at offset %u is of list %u, but its chain goes on at (%u,%u).",
										offset, list_no, chain->page, chain->offset));
	if (header->next_page != VQ_NO_PAGE &&
		(!is_block_address(check, header->next_page, header->next_offset) ||
		 header->next_page < blkno || (header->next_page == blkno && header->next_offset <= offset)))
		ivfpq_report_corrupted(check->index, blkno,
							   psprintf("The block at offset %u has its successor at (%u,%u), which does not come after it.",
										offset, header->next_page, header->next_offset));
	chain->page = header->next_page;
	chain->offset = header->next_offset;
	chain->nblocks++;
	chain->hint_found |= entry->hint_page == blkno && entry->hint_offset == offset;

	for (size_t slot = 0; slot < header->used; slot++)
	{
		ItemPointerData tid;
		int64		key;

		if (!vq_block_is_live(block, &check->shape, slot))
			continue;
		if (check->meta.dim == 0 && check->is_quiet)
			ivfpq_report_corrupted(check->index, IVFPQ_METAPAGE_BLKNO, "There are rows, but their dimension is not known.");
		memcpy(&tid, vq_block_tid(block, &check->shape, slot), VQ_TID_BYTES);
		key = tid_key(&tid);
		if (check->tids)
			tuplesort_putdatum(check->tids, Int64GetDatum(key), false);
		if (check->filter)
			bloom_add_element(check->filter, (unsigned char *) &key, sizeof(key));
	}
	return true;
}

static void
check_chain_ends(CheckState *check, BlockNumber nblocks)
{
	for (uint32 list_no = 0; list_no < check->meta.nlists; list_no++)
	{
		const IvfpqDirEntry *entry = &check->directory[list_no];
		const ChainEnd *chain = &check->chains[list_no];
		BlockNumber blkno = check->meta.directory_start + list_no / IVFPQ_DIR_ENTRIES_PER_PAGE;
		bool		may_be_new = !check->is_quiet && chain->page >= nblocks;

		if (chain->page != InvalidBlockNumber && !may_be_new)
			ivfpq_report_corrupted(check->index, blkno,
								   psprintf("The chain of list %u goes on at (%u,%u), where no block of it is.",
											list_no, chain->page, chain->offset));
		if (check->is_quiet && chain->nblocks != entry->nblocks)
			ivfpq_report_corrupted(check->index, blkno,
								   psprintf("List %u has %u blocks, but its directory entry says %u.",
											list_no, chain->nblocks, entry->nblocks));
		if (!chain->hint_found)
			ivfpq_report_corrupted(check->index, blkno,
								   psprintf("The hint of list %u is (%u,%u), where no block of it is.",
											list_no, entry->hint_page, entry->hint_offset));
	}
}

/* No TID twice, and none beyond the end of the table */
static void
check_tids(CheckState *check)
{
	BlockNumber heap_blocks = RelationGetNumberOfBlocks(check->heap);
	int64		previous = -1;
	Datum		value;
	bool		is_null;

	tuplesort_performsort(check->tids);
	while (VQ_TUPLESORT_GETDATUM(check->tids, &value, &is_null))
	{
		int64		key = DatumGetInt64(value);
		BlockNumber block = (BlockNumber) (key >> 16);
		OffsetNumber offset = (OffsetNumber) (key & 0xFFFF);

		if (key == previous)
			ereport(ERROR,
					(errcode(ERRCODE_INDEX_CORRUPTED),
					 errmsg("index \"%s\" contains a row twice", RelationGetRelationName(check->index)),
					 errdetail("There are two entries for the row at (%u,%u).", block, offset),
					 errhint("Please REINDEX it.")));
		if (block >= heap_blocks)
			ereport(ERROR,
					(errcode(ERRCODE_INDEX_CORRUPTED),
					 errmsg("index \"%s\" contains a row that does not exist",
							RelationGetRelationName(check->index)),
					 errdetail("There is an entry for the row at (%u,%u), but the table has %u blocks.",
							   block, offset, heap_blocks),
					 errhint("Please REINDEX it.")));
		previous = key;
		CHECK_FOR_INTERRUPTS();
	}
}

/* A row that has no entry is right only if none was made for it */
static bool
is_left_out(CheckState *check, Datum value)
{
	VqVector	vector;
	bool		is_zero;

	if (check->meta.metric != VQ_METRIC_COSINE)
		return false;
	vq_datum_read(value, ivfpq_datum_kind(check->index, check->index->rd_opcintype[0]), &vector);
	is_zero = vq_datum_is_zero(&vector);
	vq_datum_free(&vector);
	return is_zero;
}

static void
check_heap_row(Relation index, ItemPointer tid, Datum *values, bool *isnull,
			   bool tuple_is_alive, void *arg)
{
	CheckState *check = arg;
	int64		key = tid_key(tid);

	if (isnull[0] ||
		!bloom_lacks_element(check->filter, (unsigned char *) &key, sizeof(key)) ||
		is_left_out(check, values[0]))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("index \"%s\" lacks a row", RelationGetRelationName(index)),
			 errdetail("The row at (%u,%u) of table \"%s\" has no entry.",
					   ItemPointerGetBlockNumber(tid), ItemPointerGetOffsetNumber(tid),
					   RelationGetRelationName(check->heap)),
			 errhint("Please REINDEX it.")));
}

/*
 * The snapshot is older than the walk over the index: whatever it sees had its
 * entry by then.  Nothing can have removed that since, as rows visible to a
 * registered snapshot are not vacuumed, on a standby neither.
 */
static void
check_heap(CheckState *check, Snapshot snapshot)
{
	IndexInfo  *info = BuildIndexInfo(check->index);
	TableScanDesc scan = table_beginscan_strat(check->heap, snapshot, 0, NULL, true, true);

	/* take the rows of the snapshot, and do not wait for writers */
	info->ii_Concurrent = true;
	table_index_build_scan(check->heap, check->index, info, true, false,
						   check_heap_row, check, scan);
}

/*
 * An index may be younger than a snapshot that may not use it: rows of that
 * snapshot can be missing for a good reason.
 */
static void
check_snapshot_suits(Relation index, Snapshot snapshot)
{
	if (!IsolationUsesXactSnapshot())
		return;

	/* a primary does not wait for snapshots of its standbys when it makes an index CONCURRENTLY; one of them may be that primary now */
	if (snapshot->takenDuringRecovery ||
		(index->rd_index->indcheckxmin &&
		 !TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data), snapshot->xmin)))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("index \"%s\" cannot be checked in this transaction",
						RelationGetRelationName(index)),
				 errdetail("Its snapshot is older than the index, or may be."),
				 errhint("Check it in a transaction that is READ COMMITTED.")));
}

/* Slots that all list pages together could hold */
static int64
largest_entry_count(const CheckState *check)
{
	size_t		block_bytes = vq_block_bytes(&check->shape, VQ_CAPACITY_STEP);
	int64		list_pages = RelationGetNumberOfBlocks(check->index) - check->meta.list_start;

	return Max(list_pages, 1) * (IVFPQ_PAGE_BYTES / block_bytes * VQ_CAPACITY_STEP);
}

static void
check_open_index(Relation heap, Relation index, bool is_quiet, bool heap_all_indexed, bool codes)
{
	CheckState	check = {.heap = heap, .index = index, .is_quiet = is_quiet};
	Snapshot	snapshot = InvalidSnapshot;
	BlockNumber nblocks;

	ivfpq_meta_read(index, &check.meta);
	if (check.meta.metric != ivfpq_metric(index))
		ivfpq_report_corrupted(index, IVFPQ_METAPAGE_BLKNO,
							   psprintf("Metric %u is not that of the operator class.", check.meta.metric));
	ivfpq_attributes_check(index, &check.meta);
	check.shape = ivfpq_block_shape(&check.meta);

	if (heap_all_indexed || codes)
	{
		snapshot = RegisterSnapshot(GetTransactionSnapshot());
		check_snapshot_suits(index, snapshot);
	}
	if (heap_all_indexed)
		check.filter = bloom_create(largest_entry_count(&check), maintenance_work_mem,
									pg_prng_uint64(&pg_global_prng_state));
	if (check.is_quiet)
		check.tids = tuplesort_begin_datum(INT8OID, Int8LessOperator, InvalidOid, false,
										   maintenance_work_mem, NULL, TUPLESORT_NONE);

	ivfpq_check_model(index, &check.meta);
	check_directory(&check);
	nblocks = ivfpq_inspect_blocks(index, &check.meta, check_block, &check);
	check_chain_ends(&check, nblocks);
	if (check.tids)
	{
		check_tids(&check);
		tuplesort_end(check.tids);
	}
	if (heap_all_indexed)
	{
		check_heap(&check, snapshot);
		bloom_free(check.filter);
	}
	if (codes)
		ivfpq_check_codes(heap, index, &check.meta, snapshot);
	if (snapshot != InvalidSnapshot)
		UnregisterSnapshot(snapshot);
	pfree(check.directory);
	pfree(check.chains);
}

void
ivfpq_check_index(Oid index_oid, bool heap_all_indexed, bool codes)
{
	/* once: a standby may become a primary before the lock is had */
	bool		is_quiet = !RecoveryInProgress();
	LOCKMODE	lockmode = is_quiet ? ShareLock : AccessShareLock;
	Oid			heap_oid = IndexGetRelation(index_oid, true);
	Relation	heap = NULL;
	Relation	index;
	Oid			caller = InvalidOid;
	int			security_context = 0;
	int			guc_level = 0;

	/*
	 * The table first, as everybody locks them.  No table: let index_open say
	 * what is wrong.
	 */
	if (OidIsValid(heap_oid))
	{
		heap = table_open(heap_oid, lockmode);

		/* Expressions and predicates of the index run as its owner */
		GetUserIdAndSecContext(&caller, &security_context);
		SetUserIdAndSecContext(heap->rd_rel->relowner,
							   security_context | SECURITY_RESTRICTED_OPERATION);
		guc_level = NewGUCNestLevel();
		VQ_RESTRICT_SEARCH_PATH();
	}

	/* Between the two locks it may have been dropped, by REINDEX CONCURRENTLY say, and its OID used again */
	index = heap == NULL ? index_open(index_oid, lockmode) : try_relation_open(index_oid, lockmode);
	if (index == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("index with OID %u of table \"%s\" does not exist any more", index_oid, RelationGetRelationName(heap))));
	if (heap == NULL || heap_oid != IndexGetRelation(index_oid, false))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("could not open the table of index \"%s\"", RelationGetRelationName(index))));

	ivfpq_check_readable(index);
	if (!index->rd_index->indisvalid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot check index \"%s\"", RelationGetRelationName(index)),
				 errdetail("The index is not valid.")));
	check_open_index(heap, index, is_quiet, heap_all_indexed, codes);

	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(caller, security_context);
	index_close(index, lockmode);
	table_close(heap, lockmode);
}
