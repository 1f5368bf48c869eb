/*-------------------------------------------------------------------------
 *
 * ivfpq_autoreindex_worker.c
 *	  Rebuilding indexes that have outgrown their build, in a background worker.
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
 *	 the worker drops it.  If the table has been rewritten since, for which we may have given way, it
 *	 is a valid one, which only who has made it can know to be left over.
 *
 * The next VACUUM tries again what has failed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "am/ivfpq_autoreindex.h"
#include "catalog/index.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timeout.h"

#include "base/vqpg_compat.h"

/*
 * How long the worker waits for those who use a table, and, when it has built, for any of those whom REINDEX waits for,
 * seconds.  What has been built is lost when that is over.
 */
#define QUIET_TIMEOUT	3600

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
	List	   *made;			/* Oids of the index and of those that its REINDEX has made, any of which may be left */
	List	   *leftovers;		/* quoted: what a REINDEX CONCURRENTLY of this one has left */
} Candidate;

/* What outlives transactions of the worker */
static MemoryContext worker_context;

/* Oids of what it has made */
static List *relations_made;
static object_access_hook_type next_object_access_hook;

/* The name of one that has not been looked at is not known */
static void
show_index(void *arg)
{
	const Candidate *candidate = arg;

	if (candidate->quoted)
		errcontext("automatic reindex of index %s", candidate->quoted);
	else
		errcontext("automatic reindex of the index with OID %u", candidate->index);
}

/* In the context of the worker, for what is to outlive the transaction */
static void
begin_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(worker_context);
}

/* object_access_hook */
static void
note_made(ObjectAccessType access, Oid class, Oid object, int sub_id, void *arg)
{
	if (next_object_access_hook)
		next_object_access_hook(access, class, object, sub_id, arg);
	if (access == OAT_POST_CREATE && class == RelationRelationId && sub_id == 0)
	{
		MemoryContext old = MemoryContextSwitchTo(worker_context);

		relations_made = lappend_oid(relations_made, object);
		MemoryContextSwitchTo(old);
	}
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
run_command(const char *verb, const char *name)
{
	volatile bool done = false;

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
		begin_transaction();
		pgstat_report_activity(STATE_RUNNING, command);

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
	debug_query_string = NULL;
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(worker_context);
	return done;
}

static void
drop_leftovers(const Candidate *candidate)
{
	ListCell   *cell;

	foreach(cell, candidate->leftovers)
		(void) run_command("DROP INDEX CONCURRENTLY", lfirst(cell));
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
		candidate->quoted = ivfpq_quoted_name(candidate->index);
	return candidate->name != NULL;
}

/*
 * Whether an index may be rebuilt, and has outgrown its build, and as which file.  False if it, or its
 * table, is gone.  In a transaction, with locks on both.
 */
static bool
has_outgrown(const Candidate *candidate, bool *may_rebuild, Oid *file)
{
	Relation	heap = try_table_open(candidate->heap, NoLock);
	Relation	index = heap != NULL ? try_relation_open(candidate->index, NoLock) : NULL;
	bool		result = false;

	*may_rebuild = index != NULL && ivfpq_may_rebuild(index);
	if (*may_rebuild)
	{
		IvfpqMetaPageData meta;

		/* by its entries: how many rows the table has is not known before VACUUM has ended */
		result = ivfpq_outgrown(index, INFINITY, &meta) > 0;
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
	bool		may_rebuild;
	bool		is_outgrown;

	if (!ConditionalLockRelationOid(candidate->heap, AccessShareLock) ||
		!ConditionalLockRelationOid(candidate->index, AccessShareLock))
		return;
	candidate->state = CANDIDATE_DONE;
	if (!find_names(candidate))
		return;
	is_outgrown = has_outgrown(candidate, &may_rebuild, &candidate->file);
	if (may_rebuild)
		candidate->leftovers = ivfpq_find_leftovers(candidate->heap, candidate->name, NIL);
	if (is_outgrown)
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

/* Whether a candidate is still what it was when it was looked at, but for its name.  In a transaction, with locks on both. */
static bool
is_still_wanted(Candidate *candidate)
{
	bool		may_rebuild;
	Oid			file = InvalidOid;

	return find_names(candidate) && has_outgrown(candidate, &may_rebuild, &file) && file == candidate->file;
}

/* Code of an index may have released our locks (pg_advisory_unlock_all).  False if another worker works now. */
static bool
is_still_working(void)
{
	LOCKTAG		working = ivfpq_worker_lock(IVFPQ_LOCK_WORKING);
	LockAcquireResult result = LockAcquire(&working, ExclusiveLock, true, true);

	if (result == LOCKACQUIRE_ALREADY_HELD || result == LOCKACQUIRE_ALREADY_CLEAR)
		LockRelease(&working, ExclusiveLock, true);
	return result != LOCKACQUIRE_NOT_AVAIL;
}

static void
rebuild(Candidate *candidate)
{
	relations_made = NIL;
	if (run_command("REINDEX INDEX CONCURRENTLY", candidate->quoted))
	{
		ereport(LOG,
				(errmsg("index %s has been rebuilt, as it had outgrown its build", candidate->quoted),
				 errhidecontext(true)));
		candidate->state = CANDIDATE_DONE;
	}
	else
	{
		candidate->state = CANDIDATE_LEFT;
		candidate->made = lappend_oid(relations_made, candidate->index);
		note_users(candidate);
	}
}

/* Those who use its table have been waited for long enough */
static void
give_up(Candidate *candidate)
{
	ereport(LOG,
			(candidate->state == CANDIDATE_NEW ? errmsg("an index has not been looked at") :
			 candidate->state == CANDIDATE_LEFT ? errmsg("what a REINDEX has left of index %s has not been dropped", candidate->quoted) :
			 errmsg("index %s has not been rebuilt, though it has outgrown its build", candidate->quoted),
			 errdetail("Its table has been used by a transaction, a snapshot or a lock for longer than %d minutes.", QUIET_TIMEOUT / 60),
			 errhint("End transactions that stay open; the next VACUUM tries again.")));
	candidate->state = CANDIDATE_DONE;
}

/* What can be done for a candidate without waiting */
static void
try_candidate(Candidate *candidate)
{
	bool		is_left = candidate->state == CANDIDATE_LEFT;
	bool		may_begin = false;

	begin_transaction();
	if (candidate->state == CANDIDATE_NEW)
		look_at(candidate);
	else if (is_free(candidate) && (is_left || ConditionalLockRelationOid(candidate->index, AccessShareLock)))
	{
		may_begin = is_left || is_still_wanted(candidate);
		if (may_begin)
			candidate->leftovers = ivfpq_find_leftovers(candidate->heap, candidate->name, candidate->made);
		else
			candidate->state = CANDIDATE_DONE;
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker_context);

	if (may_begin)
	{
		drop_leftovers(candidate);
		if (candidate->state == CANDIDATE_OUTGROWN && is_still_working())
			rebuild(candidate);
		else
			candidate->state = CANDIDATE_DONE;
	}
	else if (candidate->state != CANDIDATE_DONE && ++candidate->waited > QUIET_TIMEOUT)
		give_up(candidate);
}

/* An error, of an index that is damaged say, ends the work on one candidate only */
static void
advance(Candidate *candidate)
{
	ErrorContextCallback callback = {.callback = show_index,.arg = candidate,.previous = error_context_stack};

	error_context_stack = &callback;
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
	error_context_stack = callback.previous;
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

	begin_transaction();
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
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Become the only worker of the database that works; false if one waits for that, which will see all that we would */
static bool
begin_work(void)
{
	LOCKTAG		working = ivfpq_worker_lock(IVFPQ_LOCK_WORKING);
	LOCKTAG		waiting = ivfpq_worker_lock(IVFPQ_LOCK_WAITING);

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
	next_object_access_hook = object_access_hook;
	object_access_hook = note_made;

	/* as autovacuum does, but for the role, which a database may set and which needs not own what there is */
	set_option("role", "none");
	set_option("search_path", "");
	set_option("default_transaction_isolation", "read committed");
	set_option("default_transaction_read_only", "off");
	set_option("synchronous_commit", "local");
#if PG_VERSION_NUM >= 170000
	set_option("transaction_timeout", "0");
#endif
	set_option("lock_timeout", psprintf("%ds", QUIET_TIMEOUT));
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
