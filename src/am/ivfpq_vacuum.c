/*-------------------------------------------------------------------------
 *
 * ivfpq_vacuum.c
 *	  ambulkdelete and amvacuumcleanup.
 *
 * The walk over the pages is ivfpq_list_vacuum's.  It visits every live entry
 * exactly once, whatever the callback says: the validation of CREATE INDEX
 * CONCURRENTLY passes a callback that only takes notes, and inserts again
 * whatever it was not shown.
 *
 * ambulkdelete may run in a worker of a parallel VACUUM: nothing is kept between
 * calls but the statistics.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq.h"
#include "miscadmin.h"
#include "postmaster/autovacuum.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"

IndexBulkDeleteResult *
ivfpqbulkdelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats,
				IndexBulkDeleteCallback callback, void *state)
{
	if (stats == NULL)
		stats = palloc0(sizeof(IndexBulkDeleteResult));

	/*
	 * VACUUM calls once for every batch of dead rows that fits its memory.
	 * All passes together removed tuples_removed; the last one alone knows
	 * how many entries remain.
	 */
	stats->num_index_tuples = 0;
	stats->estimated_count = false;

	ivfpq_list_vacuum(info, ivfpq_model_get(info->index, CurrentMemoryContext),
					  stats, callback, state);
	return stats;
}

/*
 * Whether the index has taken its dimension from a row, and no row that it
 * knows of has a vector now.  Zero vectors that it left out may still be there.
 */
static bool
has_idle_dim(Relation index)
{
	IvfpqMetaPageData meta;

	ivfpq_meta_read(index, &meta);
	if (!ivfpq_dim_is_from_row(index, &meta) || meta.zero_vectors > 0)
		return false;
	return ivfpq_inspect_entries(index, &meta, 1) == 0;
}

/*
 * Let an empty index take another dimension.  An insert may have read the
 * present one and not have written its entry yet; but it holds a lock on the
 * index from before until after that.  So the index must be seen to be empty
 * under a lock that no insert allows.  We do not wait for it, nor does anybody
 * wait long for us, as hardly any index needs a second look, and that is without
 * VACUUM's delays.
 */
static void
forget_idle_dim(Relation index)
{
	bool		may_delay = VacuumCostActive;

	if (!has_idle_dim(index) || !ConditionalLockRelation(index, ShareLock))
		return;
	VacuumCostActive = false;	/* which VACUUM sets when it begins, and clears when it fails */
	if (has_idle_dim(index))
		ivfpq_meta_forget_dim(index);
	VacuumCostActive = may_delay;
	UnlockRelation(index, ShareLock);
}

/*
 * An index made before its rows came, or most of them, is right but slow, and nobody who
 * searches is told.  VACUUM sees it grow, has it rebuilt, and says so; autovacuum tells the
 * server's log.
 */
static void
report_outgrown(const IndexVacuumInfo *info, const IndexBulkDeleteResult *stats)
{
	Relation	index = info->index;
	int			level = VQ_IS_AUTOVACUUM() ? LOG : NOTICE;
	IvfpqMetaPageData meta;
	double		nrows;
	IvfpqAutoreindex started;

	/* what a REINDEX CONCURRENTLY has left is to be dropped, and not to be advised on */
	if (!index->rd_index->indisvalid)
		return;
	nrows = ivfpq_outgrown(index, stats->num_index_tuples, &meta);

	/*
	 * An estimate may be none, or from before the rows came: VACUUM that finds all pages but one
	 * all-visible keeps the old one, and from 19 on it is enough to have read them.  Then by entries.
	 */
	if (nrows == 0 && stats->estimated_count && info->estimated_count)
		nrows = ivfpq_outgrown(index, INFINITY, &meta);
	if (nrows == 0)
	{
		if (ivfpq_has_leftovers(index))
			(void) ivfpq_autoreindex_start(index);
		return;
	}
	started = ivfpq_autoreindex_start(index);
	ereport(level,
			(meta.codec == IVFPQ_CODEC_NONE ?
			 errmsg("index \"%s\" is not trained: its searches compare each of about %.0f rows",
					RelationGetRelationName(index), nrows) :
			 errmsg("index \"%s\" has outgrown its %u lists: it has about %.0f rows",
					RelationGetRelationName(index), meta.nlists, nrows),
			 meta.codec == IVFPQ_CODEC_NONE ?
			 errdetail("It was built on " UINT64_FORMAT " rows, too few to train on.", meta.build_rows) :
			 errdetail("It was built on " UINT64_FORMAT " rows.", meta.build_rows),
			 started == IVFPQ_AUTOREINDEX_STARTED ?
			 errhint("A background worker rebuilds it after this VACUUM. If it cannot, the server's log says why.") :
			 started == IVFPQ_AUTOREINDEX_NO_WORKER ?
			 errhint("Use REINDEX INDEX CONCURRENTLY to train it on the rows that are there now, or "
					 "increase \"max_worker_processes\" so that VACUUM finds a background worker for it.") :
			 errhint("Use REINDEX INDEX CONCURRENTLY to train it on the rows that are there now.")));
}

IndexBulkDeleteResult *
ivfpqvacuumcleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
	if (info->analyze_only)
		return stats;

	if (stats == NULL)
	{
		/*
		 * No row had died, so nobody walked the lists, and this is no reason
		 * to.  The table has as many rows or more: some may be NULL, zero
		 * vectors, or outside a partial index.
		 */
		stats = palloc0(sizeof(IndexBulkDeleteResult));
		stats->num_index_tuples = info->num_heap_tuples;
		stats->estimated_count = true;
	}

	forget_idle_dim(info->index);
	stats->num_pages = RelationGetNumberOfBlocks(info->index);
	report_outgrown(info, stats);
	return stats;
}
