/*-------------------------------------------------------------------------
 *
 * ivfpq_autoreindex.c
 *	  Which indexes have outgrown their build, and the start of a background worker that
 *	  rebuilds them.
 *
 * An index that a migration made on an empty table is right but slow, and its
 * user waits for nobody to tell.  VACUUM, which sees it grow, starts a worker that
 * runs REINDEX INDEX CONCURRENTLY, the server's own way to a new index that stops
 * neither searches nor writes.  What is here runs in VACUUM's process; the worker
 * (ivfpq_autoreindex_worker.c) asks again what is outgrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq_autoreindex.h"
#include "catalog/pg_am.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

/* Rows from which on an index should be trained, and how much more than those of the build (bench/FINDINGS.md) */
#define OUTGROWN_ROWS	10000
#define OUTGROWN_TIMES	4

double
ivfpq_outgrown(Relation index, double nrows, IvfpqMetaPageData *meta)
{
	VqBlockShape shape;
	double		enough;
	double		row_bytes;
	double		room;

	if (nrows < OUTGROWN_ROWS)
		return 0;
	ivfpq_meta_read(index, meta);
	shape = ivfpq_block_shape(meta);
	enough = meta->codec == IVFPQ_CODEC_NONE ? OUTGROWN_ROWS :
		Max(OUTGROWN_ROWS, (double) OUTGROWN_TIMES * meta->build_rows);

	/*
	 * What is in the table is too much for a partial index, or where many rows are NULL, and so
	 * may be what there is room for: an index that is taken for outgrown by mistake would be rebuilt for ever.
	 */
	row_bytes = (double) vq_block_bytes(&shape, VQ_BLOCK_LANES) / VQ_BLOCK_LANES;
	room = (RelationGetNumberOfBlocks(index) - meta->list_start) * (IVFPQ_PAGE_BYTES / row_bytes);
	nrows = Min(nrows, room);
	return nrows < enough || ivfpq_inspect_entries(index, meta, enough) < enough ? 0 : nrows;
}

/* A worker cannot see tables of a session, nor can all others be reindexed concurrently */
bool
ivfpq_may_rebuild(Relation index)
{
	const Form_pg_index form = index->rd_index;

	return ivfpq_autoreindex && ivfpq_options(index)->autoreindex &&
		index->rd_rel->relpersistence != RELPERSISTENCE_TEMP &&
		form->indisvalid && !form->indisexclusion;
}

/* The server's locks on objects are of another method, and what users lock (pg_advisory_lock) is no object */
LOCKTAG
ivfpq_worker_lock(uint16 what)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, AccessMethodRelationId, InvalidOid, what);
	tag.locktag_lockmethodid = USER_LOCKMETHOD;
	return tag;
}

/* Whether there is a worker in this database that has not looked at any index yet */
static bool
is_worker_coming(const BackgroundWorkerHandle *started)
{
	LOCKTAG		waiting = ivfpq_worker_lock(IVFPQ_LOCK_WAITING);
	pid_t		pid;

	if (started != NULL && GetBackgroundWorkerPid((BackgroundWorkerHandle *) started, &pid) == BGWH_NOT_YET_STARTED)
		return true;
	if (LockAcquire(&waiting, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&waiting, ExclusiveLock, true);
	return false;
}

IvfpqAutoreindex
ivfpq_autoreindex_start(Relation index)
{
	static BackgroundWorkerHandle *started = NULL;
	BackgroundWorker worker = {0};
	MemoryContext old;
	bool		is_registered;

	if (!ivfpq_may_rebuild(index) || !IsUnderPostmaster)
		return IVFPQ_AUTOREINDEX_OFF;
	if (is_worker_coming(started))
		return IVFPQ_AUTOREINDEX_STARTED;
	snprintf(worker.bgw_name, BGW_MAXLEN, "ivfpq reindex");
	snprintf(worker.bgw_type, BGW_MAXLEN, "ivfpq reindex");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "$libdir/vqpg");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "ivfpq_autoreindex_main");
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	if (started != NULL)
		pfree(started);
	old = MemoryContextSwitchTo(TopMemoryContext);
	started = NULL;
	is_registered = RegisterDynamicBackgroundWorker(&worker, &started);
	MemoryContextSwitchTo(old);
	return is_registered ? IVFPQ_AUTOREINDEX_STARTED : IVFPQ_AUTOREINDEX_NO_WORKER;
}
