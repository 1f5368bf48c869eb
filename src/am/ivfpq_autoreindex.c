/*-------------------------------------------------------------------------
 *
 * ivfpq_autoreindex.c
 *	  Rebuilding indexes that have outgrown their build, in a background worker.
 *
 * An index that a migration made on an empty table is right but slow, and its
 * user waits for nobody to tell.  VACUUM, which sees it grow, starts a worker that
 * runs REINDEX INDEX CONCURRENTLY, the server's own way to a new index that stops
 * neither searches nor writes.
 *
 * One worker works in a database, and one more may wait for it.  It looks at all
 * indexes of the database: so a VACUUM of many tables need not find a process for
 * each, and none is forgotten.  The worker
 *
 * - waits for the end of the VACUUM, of all transactions that use the table, and of
 *	 all snapshots of the database, without asking for a lock: REINDEX CONCURRENTLY waits
 *	 for those while it holds locks, when it has built, and an autovacuum that somebody
 *	 waits for is cancelled;
 * - gives way: who waits for a lock of ours, ALTER TABLE say, has the rest of the world
 *	 behind him, so he may cancel us as he would an autovacuum, and so may DROP DATABASE
 *	 (be_automatic); and of a deadlock it is we who are the victim (look_for_deadlocks);
 * - leaves nothing behind: a REINDEX CONCURRENTLY that fails leaves an invalid
 *	 index that inserts go on writing to, and so does a crash.  Whoever has left one,
 *	 the worker drops it.
 *
 * The next VACUUM tries again what has failed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "am/ivfpq.h"
#include "base/vq_guc.h"
#include "base/vqpg_compat.h"

/* Rows from which on an index should be trained, and how much more than those of the build (bench/README.md) */
#define OUTGROWN_ROWS	10000
#define OUTGROWN_TIMES	4

/* How long the worker waits for those who use a table, seconds, and when it builds for any lock, milliseconds */
#define QUIET_TIMEOUT	3600
#define LOCK_TIMEOUT_MS	"600000"

/* What the worker's locks stand for: it works, and it waits for the one that works */
#define LOCK_WORKING	1
#define LOCK_WAITING	2

typedef enum CandidateState
{
	CANDIDATE_NEW,				/* not looked at yet */
	CANDIDATE_OUTGROWN,			/* to be rebuilt when its users have ended */
	CANDIDATE_LEFT,				/* what a REINDEX has left of it is to be dropped when its users have ended */
	CANDIDATE_DONE
} CandidateState;

typedef struct Candidate
{
	CandidateState state;
	Oid			heap;
	Oid			index;
	Oid			file;			/* pg_class.relfilenode: an index with another one has been rebuilt */
	char	   *name;			/* of the index: a rebuild takes it to another Oid */
	char	   *quoted;			/* with its schema */
	List	   *users;			/* VirtualTransactionId: who used the table, or had a snapshot, when it was looked at */
	int			waited;			/* rounds, a second each */
	List	   *leftovers;		/* quoted: invalid indexes that a REINDEX CONCURRENTLY of this one has left */
} Candidate;

extern PGDLLEXPORT void ivfpq_autoreindex_main(Datum arg);

/* What outlives transactions of the worker */
static MemoryContext worker_context;

/* Entries of an index, until they are enough */
typedef struct EntryCount
{
	VqBlockShape shape;
	double		count;
	double		enough;
} EntryCount;

static bool
count_entries(BlockNumber blkno, uint16 offset, void *block, void *arg)
{
	EntryCount *entries = arg;

	for (size_t slot = 0; slot < ((VqBlockHeader *) block)->used; slot++)
		entries->count += vq_block_is_live(block, &entries->shape, slot);
	return entries->count < entries->enough;
}

double
ivfpq_outgrown(Relation index, double nrows, IvfpqMetaPageData *meta)
{
	EntryCount	entries = {0};
	double		row_bytes;
	double		room;

	if (nrows < OUTGROWN_ROWS)
		return 0;
	ivfpq_meta_read(index, meta);
	entries.shape = ivfpq_block_shape(meta);
	entries.enough = meta->codec == IVFPQ_CODEC_NONE ? OUTGROWN_ROWS :
		Max(OUTGROWN_ROWS, (double) OUTGROWN_TIMES * meta->build_rows);

	/*
	 * What is in the table is too much for a partial index, or where many rows are NULL, and so
	 * may be what there is room for: an index that is taken for outgrown by mistake would be rebuilt for ever.
	 */
	row_bytes = (double) vq_block_bytes(&entries.shape, VQ_BLOCK_LANES) / VQ_BLOCK_LANES;
	room = (RelationGetNumberOfBlocks(index) - meta->list_start) * (IVFPQ_PAGE_BYTES / row_bytes);
	nrows = Min(nrows, room);
	if (nrows < entries.enough)
		return 0;
	ivfpq_inspect_blocks(index, meta, count_entries, &entries);
	return entries.count < entries.enough ? 0 : nrows;
}

/* A worker cannot see tables of a session, nor can all others be reindexed concurrently */
static bool
may_rebuild(Relation index)
{
	const Form_pg_index form = index->rd_index;

	return ivfpq_autoreindex && ivfpq_options(index)->autoreindex &&
		index->rd_rel->relpersistence != RELPERSISTENCE_TEMP &&
		form->indisvalid && !form->indisexclusion;
}

/*
 * What a worker's lock stands for.  Locks of a session's own kind last through errors of
 * transactions; those of the server and of users have other tags.
 */
static LOCKTAG
worker_lock(uint16 what)
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
	LOCKTAG		waiting = worker_lock(LOCK_WAITING);
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

	if (!may_rebuild(index) || !IsUnderPostmaster)
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

static void
show_index(void *arg)
{
	errcontext("automatic reindex of index %s", ((const Candidate *) arg)->quoted);
}

/* Log an error, and end its transaction; in PG_CATCH */
static void
recover(void)
{
	HOLD_INTERRUPTS();
	EmitErrorReport();
	AbortOutOfAnyTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(worker_context);
}

/*
 * While a lock is waited for look for deadlocks again and again, and not only once: who reads the table
 * while we wait for others, and wants to alter it then, waits for us, and we for him.  He will not
 * look before deadlock_timeout has passed.
 */
static void
look_for_deadlocks(bool enable)
{
	static TimeoutId timeout = MAX_TIMEOUTS;
	int			interval = Max(DeadlockTimeout / 3, 1);

	if (timeout == MAX_TIMEOUTS)
		timeout = RegisterTimeout(USER_TIMEOUT, CheckDeadLockAlert);
	if (enable)
		enable_timeout_every(timeout, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), interval), interval);
	else
		disable_timeout(timeout, false);
}

/* Run a command that has transactions of its own.  An error is logged, and makes it false. */
static bool
run_command(const char *verb, const char *name, Candidate *candidate)
{
	ErrorContextCallback callback = {.callback = show_index,.arg = candidate,.previous = error_context_stack};
	volatile bool done = false;

	error_context_stack = &callback;
	look_for_deadlocks(true);
	PG_TRY();
	{
		PlannedStmt *statement = makeNode(PlannedStmt);
		char	   *command = psprintf("%s %s", verb, name);
		Portal		portal;

		statement->commandType = CMD_UTILITY;
		statement->canSetTag = true;
		statement->utilityStmt = linitial_node(RawStmt, pg_parse_query(command))->stmt;

		debug_query_string = command;
		pgstat_report_activity(STATE_RUNNING, command);
		StartTransactionCommand();
		MemoryContextSwitchTo(worker_context);	/* the command has transactions of its own */

		/* a portal, as event triggers want one for the snapshots of what they do */
		portal = CreatePortal("", true, true);
		portal->visible = false;
		PortalDefineQuery(portal, NULL, command, CreateCommandTag(statement->utilityStmt), list_make1(statement), NULL);
		PortalStart(portal, NULL, 0, InvalidSnapshot);
		VQ_PORTAL_RUN(portal, None_Receiver);
		PortalDrop(portal, false);
		CommitTransactionCommand();
		done = true;
	}
	PG_CATCH();
	{
		recover();
	}
	PG_END_TRY();
	look_for_deadlocks(false);
	QueryCancelPending = false; /* whoever has waited, does not any more */
	error_context_stack = callback.previous;
	debug_query_string = NULL;
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(worker_context);
	return done;
}

/* Whether a name is one that REINDEX CONCURRENTLY gives what it makes of an index, or has made anew: "..._ccnew1" */
static bool
is_leftover_name(const char *name, const char *index)
{
	const char *label = name + strlen(name);

	while (label > name && isdigit((unsigned char) label[-1]))
		label--;
	label -= strlen("ccnew");
	return label > name && (strncmp(label, "ccnew", 5) == 0 || strncmp(label, "ccold", 5) == 0) &&
		strcmp(name, makeObjectName(index, NULL, label)) == 0;
}

static char *
quoted_name(Oid relation)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), get_rel_name(relation));
}

/* Whether REINDEX CONCURRENTLY has left an index of a table that is locked.  It is not opened: its own lock may be taken. */
static bool
is_leftover(Oid index, const Candidate *candidate)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	bool		is_valid = HeapTupleIsValid(tuple) && ((Form_pg_index) GETSTRUCT(tuple))->indisvalid;
	HeapTuple	class_tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(index));
	bool		is_ours = false;

	if (HeapTupleIsValid(class_tuple))
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(class_tuple);

		is_ours = form->relam == get_index_am_oid("ivfpq", true) &&
			is_leftover_name(NameStr(form->relname), candidate->name);
		ReleaseSysCache(class_tuple);
	}
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return is_ours && !is_valid;
}

/*
 * Look for what REINDEX CONCURRENTLY has left of a candidate, among all indexes of its table:
 * those that are neither valid nor live any more, too.  In a transaction.
 */
static void
find_leftovers(Candidate *candidate)
{
	Relation	pg_index = table_open(IndexRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	candidate->leftovers = NIL;
	ScanKeyInit(&key, Anum_pg_index_indrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(candidate->heap));
	scan = systable_beginscan(pg_index, IndexIndrelidIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			index = ((Form_pg_index) GETSTRUCT(tuple))->indexrelid;

		if (is_leftover(index, candidate))
			candidate->leftovers = lappend(candidate->leftovers, quoted_name(index));
	}
	systable_endscan(scan);
	table_close(pg_index, AccessShareLock);
}

bool
ivfpq_has_leftovers(Relation index)
{
	Candidate	candidate = {
		.heap = index->rd_index->indrelid,
		.index = RelationGetRelid(index),
		.name = RelationGetRelationName(index)
	};

	find_leftovers(&candidate);
	return candidate.leftovers != NIL;
}

static void
drop_leftovers(Candidate *candidate)
{
	ListCell   *cell;

	foreach(cell, candidate->leftovers)
		(void) run_command("DROP INDEX CONCURRENTLY", lfirst(cell), candidate);
}

static void
add_users(Candidate *candidate, const VirtualTransactionId *users, int count)
{
	for (int i = 0; i < count; i++)
	{
		VirtualTransactionId *user = palloc(sizeof(VirtualTransactionId));

		*user = users[i];
		candidate->users = lappend(candidate->users, user);
	}
}

/* Who uses the table of a candidate now is to be waited for, and who has a snapshot */
static void
note_users(Candidate *candidate)
{
	const VirtualTransactionId *users;
	int			count;
	LOCKTAG		tag;

	candidate->users = NIL;
	SET_LOCKTAG_RELATION(tag, MyDatabaseId, candidate->heap);
	users = GetLockConflicts(&tag, AccessExclusiveLock, &count);
	add_users(candidate, users, count);
	users = GetCurrentVirtualXIDs(InvalidTransactionId, true, false, PROC_IS_AUTOVACUUM | PROC_IN_VACUUM, &count);
	add_users(candidate, users, count);
	candidate->waited = 0;
}

static bool
have_users_ended(const Candidate *candidate)
{
	ListCell   *cell;

	foreach(cell, candidate->users)
	{
		if (!VirtualXactLock(*(VirtualTransactionId *) lfirst(cell), false))
			return false;
	}
	return true;
}

/* Learn the names of an index, which may have changed.  False if it is gone.  In a transaction. */
static bool
find_names(Candidate *candidate)
{
	candidate->name = get_rel_name(candidate->index);
	if (candidate->name != NULL)
		candidate->quoted = quoted_name(candidate->index);
	return candidate->name != NULL;
}

/*
 * Whether an index that may be rebuilt has outgrown its build, and as which file.  False if it, or its
 * table, is gone.  In a transaction, with locks on both.
 */
static bool
has_outgrown(const Candidate *candidate, Oid *file)
{
	Relation	heap = try_table_open(candidate->heap, NoLock);
	Relation	index = heap != NULL ? try_relation_open(candidate->index, NoLock) : NULL;
	bool		result = false;

	if (index != NULL && may_rebuild(index))
	{
		IvfpqMetaPageData meta;
		BlockNumber npages;
		double		nrows;
		double		all_visible;

		estimate_rel_size(heap, NULL, &npages, &nrows, &all_visible);
		result = ivfpq_outgrown(index, nrows, &meta) > 0;
		*file = index->rd_rel->relfilenode;
	}
	if (index != NULL)
		relation_close(index, NoLock);
	if (heap != NULL)
		table_close(heap, NoLock);
	return result;
}

/* See what there is to do for a new candidate.  It stays new if its locks are not to be had.  In a transaction. */
static void
look_at(Candidate *candidate)
{
	if (!ConditionalLockRelationOid(candidate->heap, AccessShareLock) ||
		!ConditionalLockRelationOid(candidate->index, AccessShareLock))
		return;
	candidate->state = CANDIDATE_DONE;
	if (!find_names(candidate))
		return;
	find_leftovers(candidate);
	if (has_outgrown(candidate, &candidate->file))
		candidate->state = CANDIDATE_OUTGROWN;
	else if (candidate->leftovers != NIL)
		candidate->state = CANDIDATE_LEFT;
	if (candidate->state != CANDIDATE_DONE)
		note_users(candidate);
}

/*
 * Whether the table of a candidate is free, which no REINDEX CONCURRENTLY at work leaves it,
 * and who used it has ended.  In a transaction, with the lock that REINDEX takes.
 */
static bool
is_free(Candidate *candidate)
{
	return have_users_ended(candidate) && ConditionalLockRelationOid(candidate->heap, ShareUpdateExclusiveLock);
}

/* Whether a candidate is still what it was when it was looked at, but for its name.  As is_free. */
static bool
is_still_wanted(Candidate *candidate)
{
	Oid			file = InvalidOid;

	return ConditionalLockRelationOid(candidate->index, AccessShareLock) && find_names(candidate) &&
		has_outgrown(candidate, &file) && file == candidate->file;
}

static void
rebuild(Candidate *candidate)
{
	if (run_command("REINDEX INDEX CONCURRENTLY", candidate->quoted, candidate))
	{
		ereport(LOG,
				(errmsg("index %s has been rebuilt, as it had outgrown its build", candidate->quoted)));
		candidate->state = CANDIDATE_DONE;
	}
	else
	{
		candidate->state = CANDIDATE_LEFT;
		note_users(candidate);
	}
}

/* What can be done for a candidate without waiting */
static void
try_candidate(Candidate *candidate)
{
	bool		may_begin = false;

	StartTransactionCommand();
	MemoryContextSwitchTo(worker_context);
	if (candidate->state == CANDIDATE_NEW)
		look_at(candidate);
	else if (is_free(candidate))
	{
		may_begin = candidate->state == CANDIDATE_LEFT || is_still_wanted(candidate);
		if (may_begin)
			find_leftovers(candidate);
		else
			candidate->state = CANDIDATE_DONE;
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker_context);

	if (may_begin)
	{
		drop_leftovers(candidate);
		if (candidate->state == CANDIDATE_OUTGROWN)
			rebuild(candidate);
		else
			candidate->state = CANDIDATE_DONE;
	}
	else if (++candidate->waited > QUIET_TIMEOUT)
		candidate->state = CANDIDATE_DONE;
}

/* An error, of an index that is damaged say, ends the work on one candidate only */
static void
advance(Candidate *candidate)
{
	PG_TRY();
	{
		try_candidate(candidate);
	}
	PG_CATCH();
	{
		recover();
		candidate->state = CANDIDATE_DONE;
	}
	PG_END_TRY();
}

/* All indexes of the database that are ours */
static List *
find_candidates(void)
{
	List	   *candidates = NIL;
	Relation	pg_class;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			am;

	StartTransactionCommand();
	MemoryContextSwitchTo(worker_context);
	am = get_index_am_oid("ivfpq", true);
	pg_class = table_open(RelationRelationId, AccessShareLock);
	scan = systable_beginscan(pg_class, InvalidOid, false, NULL, 0, NULL);
	while (OidIsValid(am) && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

		if (form->relkind == RELKIND_INDEX && form->relam == am)
		{
			Candidate  *candidate = palloc0(sizeof(Candidate));

			candidate->index = form->oid;
			candidate->heap = IndexGetRelation(form->oid, true);
			if (OidIsValid(candidate->heap))
				candidates = lappend(candidates, candidate);
		}
	}
	systable_endscan(scan);
	table_close(pg_class, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker_context);
	return candidates;
}

static void
sleep_a_second(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Become the only worker of the database that works; false if one waits for that, which will see all that we would */
static bool
begin_work(void)
{
	LOCKTAG		working = worker_lock(LOCK_WORKING);
	LOCKTAG		waiting = worker_lock(LOCK_WAITING);

	if (LockAcquire(&waiting, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;

	/* not in the queue, as who waits for a worker cancels it */
	while (LockAcquire(&working, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		sleep_a_second();
	LockRelease(&waiting, ExclusiveLock, true);
	return true;
}

/*
 * Have this process taken for one that does maintenance without being asked: the server
 * cancels it for whoever has waited for a lock of its for deadlock_timeout (ProcSleep), and
 * ends it for who drops the database (CountOtherDBBackends).  CREATE INDEX CONCURRENTLY
 * elsewhere does not wait for our snapshots either, which matter to it only if an expression
 * of our index reads other tables, and those that are immutable do not.
 */
static void
be_automatic(void)
{
	LWLockAcquire(ProcArrayLock, LW_EXCLUSIVE);
	MyProc->statusFlags |= PROC_IS_AUTOVACUUM;
	ProcGlobal->statusFlags[MyProc->pgxactoff] = MyProc->statusFlags;
	LWLockRelease(ProcArrayLock);
}

static void
set_option(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

void
ivfpq_autoreindex_main(Datum arg)
{
	List	   *candidates;
	ListCell   *cell;
	bool		is_done = false;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, StatementCancelHandler);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, BGWORKER_BYPASS_ALLOWCONN);
	worker_context = AllocSetContextCreate(TopMemoryContext, "ivfpq reindex", ALLOCSET_DEFAULT_SIZES);
	be_automatic();

	/* as autovacuum does */
	set_option("search_path", "");
	set_option("default_transaction_isolation", "read committed");
	set_option("default_transaction_read_only", "off");
	set_option("synchronous_commit", "local");
#if PG_VERSION_NUM >= 170000
	set_option("transaction_timeout", "0");
#endif
	set_option("lock_timeout", LOCK_TIMEOUT_MS);
	set_option("log_lock_waits", "off");	/* it would say so each time that it looks */
	if (!begin_work())
		return;

	candidates = find_candidates();
	while (!is_done)
	{
		is_done = true;
		foreach(cell, candidates)
		{
			Candidate  *candidate = lfirst(cell);

			if (candidate->state != CANDIDATE_DONE)
				advance(candidate);
			is_done = is_done && candidate->state == CANDIDATE_DONE;
		}
		if (!is_done)
			sleep_a_second();
	}
}
