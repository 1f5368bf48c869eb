/*-------------------------------------------------------------------------
 *
 * ivfpq_autoreindex.c
 *	  Rebuilding an index that has outgrown its build, in a background worker.
 *
 * An index that a migration made on an empty table is right but slow, and its
 * user waits for nobody to tell.  VACUUM, which sees it grow, starts a worker that
 * runs REINDEX INDEX CONCURRENTLY, the server's own way to a new index that stops
 * neither searches nor writes.  The worker
 *
 * - waits for the end of the VACUUM, and of all transactions that use the table,
 *	 without asking for a lock: REINDEX CONCURRENTLY waits for those transactions while
 *	 it holds locks, and an autovacuum that somebody waits for is cancelled;
 * - gives way: a build ends with an error as soon as somebody waits for the
 *	 table's lock, ALTER TABLE say, and no other lock is waited for longer than
 *	 LOCK_WAIT_MAX, as who waits for us has the rest of the world behind him;
 * - leaves nothing behind: a REINDEX CONCURRENTLY that fails leaves an invalid
 *	 index that inserts go on writing to, and so does a crash.  The worker drops
 *	 its own after an error, and before it begins what is left of others.
 *
 * The next VACUUM tries again what has failed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "am/ivfpq.h"
#include "base/vq_guc.h"
#include "base/vqpg_compat.h"

/* How long the worker waits for others to end, seconds, and for any lock */
#define QUIET_TIMEOUT	600
#define LOCK_WAIT_MAX	"10s"

/* What a worker is told, in bgw_extra */
typedef struct Task
{
	Oid			database;
	Oid			heap;
	Oid			index;
	Oid			file;			/* pg_class.relfilenode: another one has been rebuilt */
} Task;

StaticAssertDecl(sizeof(Task) <= BGW_EXTRALEN, "a task fits into what a worker is told");

/* What is known by name: a rebuild takes it to another Oid.  In the memory context of run_task. */
typedef struct Names
{
	char	   *index;
	char	   *quoted;			/* with its schema */
	List	   *leftovers;		/* quoted: invalid indexes that a REINDEX CONCURRENTLY of this one has left */
} Names;

extern PGDLLEXPORT void ivfpq_autoreindex_main(Datum arg);

/* The table whose index this process rebuilds as long as nobody waits for it; else InvalidOid */
static Oid	table_to_yield = InvalidOid;

IvfpqAutoreindex
ivfpq_autoreindex_start(Relation index)
{
	const Form_pg_index form = index->rd_index;
	BackgroundWorker worker = {0};
	Task		task;

	/* a worker cannot see tables of a session, nor can these be reindexed concurrently */
	if (!ivfpq_autoreindex || !ivfpq_options(index)->autoreindex ||
		index->rd_rel->relpersistence == RELPERSISTENCE_TEMP ||
		!form->indisvalid || form->indisexclusion || !IsUnderPostmaster)
		return IVFPQ_AUTOREINDEX_OFF;
	task = (Task) {MyDatabaseId, form->indrelid, RelationGetRelid(index), index->rd_rel->relfilenode};

	snprintf(worker.bgw_name, BGW_MAXLEN, "ivfpq reindex of index %u", task.index);
	snprintf(worker.bgw_type, BGW_MAXLEN, "ivfpq reindex");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
#ifdef BGWORKER_INTERRUPTIBLE
	worker.bgw_flags |= BGWORKER_INTERRUPTIBLE; /* DROP DATABASE need not wait */
#endif
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "$libdir/vqpg");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "ivfpq_autoreindex_main");
	memcpy(worker.bgw_extra, &task, sizeof(task));
	return RegisterDynamicBackgroundWorker(&worker, NULL) ? IVFPQ_AUTOREINDEX_STARTED : IVFPQ_AUTOREINDEX_NO_WORKER;
}

void
ivfpq_autoreindex_yield(void)
{
	LOCKTAG		tag;

	if (!OidIsValid(table_to_yield))
		return;
	SET_LOCKTAG_RELATION(tag, MyDatabaseId, table_to_yield);
	if (LockHasWaiters(&tag, ShareUpdateExclusiveLock, false))
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("automatic reindex gives way to another command that waits for table \"%s\"",
						get_rel_name(table_to_yield))));
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

/*
 * Take the table's lock if it is free, which no REINDEX CONCURRENTLY at work leaves it,
 * and look for what such a one has left.  False if it is not free.  In a transaction.
 */
static bool
find_leftovers(const Task *task, MemoryContext context, Names *names)
{
	MemoryContext old;
	Relation	heap;
	ListCell   *cell;

	names->leftovers = NIL;
	if (!ConditionalLockRelationOid(task->heap, ShareUpdateExclusiveLock))
		return false;
	heap = try_table_open(task->heap, NoLock);
	if (heap == NULL)
		return true;
	old = MemoryContextSwitchTo(context);
	foreach(cell, RelationGetIndexList(heap))
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (!index->rd_index->indisvalid && index->rd_indam->ambuild == ivfpqbuild &&
			is_leftover_name(RelationGetRelationName(index), names->index))
			names->leftovers = lappend(names->leftovers, quoted_name(RelationGetRelid(index)));
		index_close(index, NoLock);
	}
	MemoryContextSwitchTo(old);
	table_close(heap, NoLock);
	return true;
}

/* The index as VACUUM saw it; false if it is gone or was rebuilt.  In a transaction. */
static bool
find_index(const Task *task, MemoryContext context, Names *names)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(task->index));
	bool		wanted = false;

	if (HeapTupleIsValid(tuple))
	{
		wanted = ((Form_pg_class) GETSTRUCT(tuple))->relfilenode == task->file;
		ReleaseSysCache(tuple);
	}
	if (wanted)
	{
		names->index = get_rel_name(task->index);
		names->quoted = quoted_name(task->index);
	}
	MemoryContextSwitchTo(old);
	return wanted;
}

/* Whether all these transactions have ended */
static bool
have_ended(const VirtualTransactionId *users, int nusers)
{
	for (int i = 0; i < nusers; i++)
	{
		if (!VirtualXactLock(users[i], false))
			return false;
	}
	return true;
}

/*
 * Wait until the transactions that use the table now have ended, and find the index, unless
 * its names are known, and leftovers.  False if it is gone, was rebuilt, or that takes longer
 * than QUIET_TIMEOUT.
 */
static bool
wait_for_table(const Task *task, MemoryContext context, Names *names)
{
	const bool	is_known = names->index != NULL;
	VirtualTransactionId *users;
	int			nusers;
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, task->heap);
	MemoryContextSwitchTo(context);
	users = GetLockConflicts(&tag, AccessExclusiveLock, &nusers);
	for (int waited = 0; waited < QUIET_TIMEOUT; waited++)
	{
		bool		wanted;
		bool		quiet;

		StartTransactionCommand();
		wanted = is_known || find_index(task, context, names);
		quiet = wanted && have_ended(users, nusers) && find_leftovers(task, context, names);
		CommitTransactionCommand();
		if (!wanted || quiet)
			return wanted;

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return false;
}

static void
show_index(void *arg)
{
	errcontext("automatic reindex of index %s", ((const Names *) arg)->quoted);
}

/* Run a command that has transactions of its own.  An error is logged, and makes it false. */
static bool
run_command(const char *verb, const char *name, Names *names, MemoryContext context)
{
	char	   *command;
	ErrorContextCallback callback = {.callback = show_index,.arg = names,.previous = error_context_stack};
	volatile bool done = false;

	error_context_stack = &callback;
	PG_TRY();
	{
		PlannedStmt *statement = makeNode(PlannedStmt);

		/* what is parsed, and what ProcessUtility makes, must outlive the transactions of the command */
		MemoryContextSwitchTo(context);
		command = psprintf("%s %s", verb, name);
		statement->commandType = CMD_UTILITY;
		statement->canSetTag = true;
		statement->utilityStmt = linitial_node(RawStmt, pg_parse_query(command))->stmt;

		debug_query_string = command;
		pgstat_report_activity(STATE_RUNNING, command);
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		MemoryContextSwitchTo(context);
		ProcessUtility(statement, command, false, PROCESS_UTILITY_TOPLEVEL, NULL, NULL, None_Receiver, NULL);
		if (ActiveSnapshotSet())
			PopActiveSnapshot();
		CommitTransactionCommand();
		done = true;
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
	debug_query_string = NULL;
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(context);
	return done;
}

static void
drop_leftovers(Names *names, MemoryContext context)
{
	ListCell   *cell;

	foreach(cell, names->leftovers)
		(void) run_command("DROP INDEX CONCURRENTLY", lfirst(cell), names, context);
}

static void
run_task(const Task *task)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "ivfpq reindex", ALLOCSET_DEFAULT_SIZES);
	Names		names = {0};

	/* REINDEX keeps what outlives its transactions below it */
	PortalContext = context;
	if (!wait_for_table(task, context, &names))
		return;
	drop_leftovers(&names, context);
	table_to_yield = task->heap;
	if (run_command("REINDEX INDEX CONCURRENTLY", names.quoted, &names, context))
	{
		ereport(LOG,
				(errmsg("index %s has been rebuilt, as it had outgrown its build", names.quoted)));
		return;
	}
	table_to_yield = InvalidOid;
	if (wait_for_table(task, context, &names))
		drop_leftovers(&names, context);
}

void
ivfpq_autoreindex_main(Datum arg)
{
	Task		task;
	LOCKTAG		tag;

	memcpy(&task, MyBgworkerEntry->bgw_extra, sizeof(task));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, StatementCancelHandler);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(task.database, InvalidOid, BGWORKER_BYPASS_ALLOWCONN);

	/* as autovacuum does; and nobody is to wait long for us */
	SetConfigOption("search_path", "", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", LOCK_WAIT_MAX, PGC_SUSET, PGC_S_OVERRIDE);
#if PG_VERSION_NUM >= 170000
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
#endif

	/* One worker for an index is enough: no relation is locked by such a tag, nor by users */
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, task.index, 1);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return;
	run_task(&task);
}
