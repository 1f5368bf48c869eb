/*-------------------------------------------------------------------------
 *
 * ivfpq_parallel.c
 *	  The parallel workers of a build: starting them, and what they run.
 *
 * Workers are launched before it is known how many there will be, so they wait
 * until the leader has counted those that came and has made its plan for them.
 * An error of a worker reaches the leader at its next look for interrupts, and
 * an error of the leader ends the workers with its transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "am/ivfpq_build.h"
#include "catalog/index.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/procsignal.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* What is where in the shared memory of a build */
#define KEY_SHARED			UINT64CONST(0x7671000000000001)
#define KEY_TEAM			UINT64CONST(0x7671000000000002)
#define KEY_SCAN			UINT64CONST(0x7671000000000003)
#define KEY_SORT			UINT64CONST(0x7671000000000004)
#define KEY_QUERY_TEXT		UINT64CONST(0x7671000000000005)
#define KEY_WAL_USAGE		UINT64CONST(0x7671000000000006)
#define KEY_BUFFER_USAGE	UINT64CONST(0x7671000000000007)

typedef struct BuildShared
{
	Oid			heap_oid;
	Oid			index_oid;
	bool		is_concurrent;
	IvfpqOptions options;		/* the leader's: ALTER INDEX may change those of an index that is built concurrently */

	/* written before the team begins */
	IvfpqBuildPlan plan;
	IvfpqMetaPageData meta;
} BuildShared;

struct IvfpqParallel
{
	ParallelContext *context;
	Snapshot	snapshot;
	BuildShared *shared;
	IvfpqTeamShared *team;
	WalUsage   *wal_usage;
	BufferUsage *buffer_usage;
};

PGDLLEXPORT void ivfpq_build_worker(dsm_segment *segment, shm_toc *toc);

/* Leave parallel mode */
static void
destroy(IvfpqParallel *parallel)
{
	DestroyParallelContext(parallel->context);
	if (IsMVCCSnapshot(parallel->snapshot))
		UnregisterSnapshot(parallel->snapshot);
	ExitParallelMode();
	pfree(parallel);
}

static void *
allocate(ParallelContext *context, uint64 key, Size bytes)
{
	void	   *place = shm_toc_allocate(context->toc, bytes);

	shm_toc_insert(context->toc, key, place);
	return place;
}

static void
estimate(ParallelContext *context, Size bytes)
{
	shm_toc_estimate_chunk(&context->estimator, bytes);
	shm_toc_estimate_keys(&context->estimator, 1);
}

int
ivfpq_parallel_launch(IvfpqBuild *build, int nworkers)
{
	IvfpqParallel *parallel;
	ParallelContext *context;
	Size		scan_bytes;
	Size		sort_bytes;
	Size		query_bytes = debug_query_string ? strlen(debug_query_string) + 1 : 0;

	if (nworkers <= 0)
		return 1;
	EnterParallelMode();
	parallel = palloc0(sizeof(IvfpqParallel));
	parallel->context = context = CreateParallelContext("$libdir/vqpg", "ivfpq_build_worker", nworkers);

	/* as the server's own builds: concurrent ones index what a snapshot sees */
	parallel->snapshot = build->info->ii_Concurrent ? RegisterSnapshot(GetTransactionSnapshot()) : SnapshotAny;

	scan_bytes = table_parallelscan_estimate(build->heap, parallel->snapshot);
	sort_bytes = tuplesort_estimate_shared(nworkers + 1);
	estimate(context, sizeof(BuildShared));
	estimate(context, ivfpq_team_bytes(nworkers + 1));
	estimate(context, scan_bytes);
	estimate(context, sort_bytes);
	estimate(context, mul_size(sizeof(WalUsage), nworkers));
	estimate(context, mul_size(sizeof(BufferUsage), nworkers));
	if (query_bytes > 0)
		estimate(context, query_bytes);
	InitializeParallelDSM(context);
	if (context->seg == NULL)
	{
		destroy(parallel);
		return 1;
	}

	parallel->shared = allocate(context, KEY_SHARED, sizeof(BuildShared));
	parallel->shared->heap_oid = RelationGetRelid(build->heap);
	parallel->shared->index_oid = RelationGetRelid(build->index);
	parallel->shared->is_concurrent = build->info->ii_Concurrent;
	parallel->shared->options = *build->options;
	parallel->team = allocate(context, KEY_TEAM, ivfpq_team_bytes(nworkers + 1));
	ivfpq_team_init(parallel->team, nworkers + 1);
	build->parallel_scan = allocate(context, KEY_SCAN, scan_bytes);
	table_parallelscan_initialize(build->heap, build->parallel_scan, parallel->snapshot);
	build->shared_sort = allocate(context, KEY_SORT, sort_bytes);
	tuplesort_initialize_shared(build->shared_sort, nworkers + 1, context->seg);
	parallel->wal_usage = allocate(context, KEY_WAL_USAGE, mul_size(sizeof(WalUsage), nworkers));
	parallel->buffer_usage = allocate(context, KEY_BUFFER_USAGE, mul_size(sizeof(BufferUsage), nworkers));
	if (query_bytes > 0)
		memcpy(allocate(context, KEY_QUERY_TEXT, query_bytes), debug_query_string, query_bytes);

	LaunchParallelWorkers(context);
	if (context->nworkers_launched == 0)
	{
		build->parallel_scan = NULL;
		build->shared_sort = NULL;
		WaitForParallelWorkersToFinish(context);
		destroy(parallel);
		return 1;
	}

	/* an ERROR if one of them cannot start; otherwise all of them will come */
	WaitForParallelWorkersToAttach(context);
	build->parallel = parallel;
	return context->nworkers_launched + 1;
}

void
ivfpq_parallel_begin(IvfpqBuild *build, int team_size)
{
	IvfpqParallel *parallel = build->parallel;

	if (parallel)
	{
		parallel->shared->plan = build->plan;
		parallel->shared->meta = build->meta;
	}
	ivfpq_team_begin(&build->team, parallel ? parallel->team : NULL, team_size);
}

void
ivfpq_parallel_end(IvfpqBuild *build)
{
	IvfpqParallel *parallel = build->parallel;

	if (parallel == NULL)
		return;
	WaitForParallelWorkersToFinish(parallel->context);
	for (int i = 0; i < parallel->context->nworkers_launched; i++)
		InstrAccumParallelQuery(&parallel->buffer_usage[i], &parallel->wal_usage[i]);
	destroy(parallel);
	build->parallel = NULL;
}

/*
 * A library may end the process without a word (OpenBLAS, and what it needs, where they find
 * no memory).  The server has the leader look for errors then before it closes the queue
 * that tells of it; have the leader look again, or it may wait for this member for ever.
 */
static void
wake_leader(int code, Datum arg)
{
	(void) SendProcSignal(MyBgworkerEntry->bgw_notify_pid, PROCSIG_PARALLEL_MESSAGE, VQ_NO_PROC_NUMBER);
}

void
ivfpq_build_worker(dsm_segment *segment, shm_toc *toc)
{
	BuildShared *shared = shm_toc_lookup(toc, KEY_SHARED, false);
	WalUsage   *wal_usage = shm_toc_lookup(toc, KEY_WAL_USAGE, false);
	BufferUsage *buffer_usage = shm_toc_lookup(toc, KEY_BUFFER_USAGE, false);
	LOCKMODE	heap_lock = shared->is_concurrent ? ShareUpdateExclusiveLock : ShareLock;
	LOCKMODE	index_lock = shared->is_concurrent ? RowExclusiveLock : AccessExclusiveLock;
	Relation	heap;
	Relation	index;
	IvfpqBuild	build;
	IndexInfo  *info;
	MemoryContext old = CurrentMemoryContext;

	on_shmem_exit(wake_leader, (Datum) 0);
	debug_query_string = shm_toc_lookup(toc, KEY_QUERY_TEXT, true);
	pgstat_report_activity(STATE_RUNNING, debug_query_string);

	/* the leader's locks, which members of its group do not conflict with */
	heap = table_open(shared->heap_oid, heap_lock);
	index = index_open(shared->index_oid, index_lock);
	info = BuildIndexInfo(index);
	info->ii_Concurrent = shared->is_concurrent;
	InstrStartParallelQuery();

	ivfpq_build_init(&build, heap, index, info);
	*build.options = shared->options;
	build.parallel_scan = shm_toc_lookup(toc, KEY_SCAN, false);
	build.shared_sort = shm_toc_lookup(toc, KEY_SORT, false);
	tuplesort_attach_shared(build.shared_sort, segment);
	ivfpq_team_join(&build.team, shm_toc_lookup(toc, KEY_TEAM, false), ParallelWorkerNumber + 1);
	build.plan = shared->plan;
	build.meta = shared->meta;
	ivfpq_build_member(&build);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(build.context);

	InstrEndParallelQuery(&buffer_usage[ParallelWorkerNumber], &wal_usage[ParallelWorkerNumber]);
	index_close(index, index_lock);
	table_close(heap, heap_lock);
}
