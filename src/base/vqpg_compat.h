/*-------------------------------------------------------------------------
 *
 * vqpg_compat.h
 *	  The differences between PostgreSQL 15 to 19 that the code meets.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQPG_COMPAT_H
#define VQPG_COMPAT_H

#include "postgres.h"

#include "utils/rel.h"
#include "utils/snapshot.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* for vq_is_not_null */
#if PG_VERSION_NUM < 170000
#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "utils/syscache.h"
#endif

/* PG_WAIT_EXTENSION, which up to 18 comes with pgstat.h */
#if PG_VERSION_NUM >= 190000
#include "utils/wait_classes.h"
#endif

#if PG_VERSION_NUM >= 180000
#define VQ_VACUUM_DELAY()		vacuum_delay_point(false)
#define VQ_COUNT_SEARCH(scan) \
	do { \
		if ((scan)->instrument) \
			(scan)->instrument->nsearches++; \
	} while (0)
#else
#define VQ_VACUUM_DELAY()		vacuum_delay_point()
#define VQ_COUNT_SEARCH(scan)	((void) 0)
#endif

/* What it costs to sort all of what an input has, whose order is no matter */
#if PG_VERSION_NUM >= 180000
#define VQ_COST_SORT(path, root, input_cost, rows, width) \
	cost_sort((path), (root), NIL, 0, (input_cost), (rows), (width), 0.0, work_mem, -1.0)
#else
#define VQ_COST_SORT(path, root, input_cost, rows, width) \
	cost_sort((path), (root), NIL, (input_cost), (rows), (width), 0.0, work_mem, -1.0)
#endif

#if PG_VERSION_NUM >= 170000
#define VQ_NO_PROC_NUMBER		INVALID_PROC_NUMBER
#else
#define VQ_NO_PROC_NUMBER		InvalidBackendId
#endif

#if PG_VERSION_NUM >= 190000
#define VQ_FETCH_BEGIN(rel)		table_index_fetch_begin((rel), SO_NONE)
#define VQ_BEGINSCAN_PARALLEL(rel, scan)	table_beginscan_parallel((rel), (scan), SO_NONE)
#define VQ_TUPDESC_DONE(desc)	TupleDescFinalize(desc)
#else
#define VQ_FETCH_BEGIN(rel)		table_index_fetch_begin(rel)
#define VQ_BEGINSCAN_PARALLEL(rel, scan)	table_beginscan_parallel((rel), (scan))
#define VQ_TUPDESC_DONE(desc)	((void) 0)
#endif

/* A scan of the index of a TOAST table, and the snapshot that sees its chunks */
#if PG_VERSION_NUM >= 190000
#define VQ_INDEX_BEGINSCAN(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, NULL, nkeys, 0, SO_NONE)
#elif PG_VERSION_NUM >= 180000
#define VQ_INDEX_BEGINSCAN(rel, index, snapshot, nkeys)	index_beginscan(rel, index, snapshot, NULL, nkeys, 0)
#else
#define VQ_INDEX_BEGINSCAN(rel, index, snapshot, nkeys)	index_beginscan(rel, index, snapshot, nkeys, 0)
#endif

#if PG_VERSION_NUM >= 180000
typedef struct SnapshotData *VqToastSnapshot;
#define VQ_TOAST_SNAPSHOT_INIT(snapshot)	((void) (*(snapshot) = get_toast_snapshot()))
#define VQ_TOAST_SNAPSHOT(snapshot)	(*(snapshot))
#else
typedef struct SnapshotData VqToastSnapshot;
#define VQ_TOAST_SNAPSHOT_INIT(snapshot)	init_toast_snapshot(snapshot)
#define VQ_TOAST_SNAPSHOT(snapshot)	(snapshot)
#endif

/*
 * A heap's fetch handle (IndexFetchHeapData) in which somebody else pins a page: from
 * 19 on it knows its block, and the page of the visibility map, which pruning may set
 */
#if PG_VERSION_NUM >= 190000
#define VQ_FETCH_SET_BLOCK(fetch, blkno)	((void) ((fetch)->xs_blk = (blkno)))
#define VQ_FETCH_PRUNE(fetch) \
	heap_page_prune_opt((fetch)->xs_base.rel, (fetch)->xs_cbuf, &(fetch)->xs_vmbuffer, \
						((fetch)->xs_base.flags & SO_HINT_REL_READ_ONLY) != 0)
#else
#define VQ_FETCH_SET_BLOCK(fetch, blkno)	((void) 0)
#define VQ_FETCH_PRUNE(fetch)	heap_page_prune_opt((fetch)->xs_base.rel, (fetch)->xs_cbuf)
#endif

/* The hook that sees what the planner has read of a relation, its parameters, and the Oid of the relation */
#if PG_VERSION_NUM >= 190000
#include "optimizer/pathnode.h"
typedef build_simple_rel_hook_type VqRelationHook;
#define VQ_RELATION_HOOK		build_simple_rel_hook
#define VQ_RELATION_HOOK_PARAMETERS	PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte
#define VQ_RELATION_HOOK_ARGUMENTS	root, rel, rte
#define VQ_RELATION_HOOK_OID	(rte->relid)
#else
#include "optimizer/plancat.h"
typedef get_relation_info_hook_type VqRelationHook;
#define VQ_RELATION_HOOK		get_relation_info_hook
#define VQ_RELATION_HOOK_PARAMETERS	PlannerInfo *root, Oid relation, bool is_parent, RelOptInfo *rel
#define VQ_RELATION_HOOK_ARGUMENTS	root, relation, is_parent, rel
#define VQ_RELATION_HOOK_OID	relation
#endif

/* Run a portal to its end */
#if PG_VERSION_NUM >= 180000
#define VQ_PORTAL_RUN(portal, receiver) \
	((void) PortalRun(portal, FETCH_ALL, true, receiver, receiver, NULL))
#else
#define VQ_PORTAL_RUN(portal, receiver) \
	((void) PortalRun(portal, FETCH_ALL, true, true, receiver, receiver, NULL))
#endif

/* A function that does not return, written before its prototype */
#if PG_VERSION_NUM < 180000
#define pg_noreturn				pg_attribute_noreturn()
#endif

/* Identity of a relation's file: what a rebuild changes */
#if PG_VERSION_NUM >= 160000
typedef RelFileLocator VqLocator;
#define VQ_LOCATOR(rel)			((rel)->rd_locator)
#define VQ_LOCATOR_EQUALS(a, b)	RelFileLocatorEquals(a, b)
#define VQ_INIT_BUFFER_TAG(tag, rel, blkno)	InitBufferTag(tag, &(rel)->rd_locator, MAIN_FORKNUM, blkno)
#else
typedef RelFileNode VqLocator;
#define VQ_LOCATOR(rel)			((rel)->rd_node)
#define VQ_LOCATOR_EQUALS(a, b)	RelFileNodeEquals(a, b)
#define VQ_INIT_BUFFER_TAG(tag, rel, blkno)	INIT_BUFFERTAG(*(tag), (rel)->rd_node, MAIN_FORKNUM, blkno)
#endif

/* Up to 16, old_snapshot_threshold lets vacuum remove what an old snapshot sees: then a scan fails */
#if PG_VERSION_NUM >= 170000
#define VQ_TEST_OLD_SNAPSHOT(snapshot, rel, page)	((void) (snapshot))
#else
#define VQ_TEST_OLD_SNAPSHOT(snapshot, rel, page)	TestForOldSnapshot(snapshot, rel, page)
#endif

/* Up to 16 this is declared in postmaster/autovacuum.h, from 17 on in miscadmin.h */
#if PG_VERSION_NUM >= 170000
#define VQ_IS_AUTOVACUUM()	AmAutoVacuumWorkerProcess()
#else
#define VQ_IS_AUTOVACUUM()	IsAutoVacuumWorkerProcess()
#endif

/* From 17 on a timeout of the transaction is pending until interrupts are served, as cancels are */
#if PG_VERSION_NUM >= 170000
#define VQ_TRANSACTION_TIMED_OUT()	(TransactionTimeoutPending != 0)
#else
#define VQ_TRANSACTION_TIMED_OUT()	false
#endif

/* As another user: what is named without a schema is not looked for where the caller says.  Ends with the GUC nest level. */
#if PG_VERSION_NUM >= 170000
#define VQ_RESTRICT_SEARCH_PATH()	RestrictSearchPath()
#else
#define VQ_RESTRICT_SEARCH_PATH() \
	((void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false))
#endif

/* Next value of a sort of int8 */
#if PG_VERSION_NUM >= 160000
#define VQ_TUPLESORT_GETDATUM(sort, value, is_null) \
	tuplesort_getdatum(sort, true, false, value, is_null, NULL)
#else
#define VQ_TUPLESORT_GETDATUM(sort, value, is_null) \
	tuplesort_getdatum(sort, true, value, is_null, NULL)
#endif

/* Is a column of a table, and not an index expression (attno 0), NOT NULL?  Up to 16 its rel does not say so. */
#if PG_VERSION_NUM >= 170000
#define VQ_IS_NOT_NULL(relid, rel, attno)	((attno) > 0 && bms_is_member(attno, (rel)->notnullattnums))
#else
#define VQ_IS_NOT_NULL(relid, rel, attno)	((attno) > 0 && vq_is_not_null(relid, attno))

static inline bool
vq_is_not_null(Oid relid, int attno)
{
	HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(attno));
	bool		result = HeapTupleIsValid(tuple) && ((Form_pg_attribute) GETSTRUCT(tuple))->attnotnull;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}
#endif

/* Does a unique index say that a relation has one row at most, by the query's own conditions? */
#if PG_VERSION_NUM >= 190000
#define VQ_IS_UNIQUE(root, rel)	relation_has_unique_index_for(root, rel, NIL, NULL)
#else
#define VQ_IS_UNIQUE(root, rel)	relation_has_unique_index_for(root, rel, NIL, NIL, NIL)
#endif

/* May the present user call a function? */
#if PG_VERSION_NUM >= 160000
#define VQ_MAY_EXECUTE(function) \
	(object_aclcheck(ProcedureRelationId, function, GetUserId(), ACL_EXECUTE) == ACLCHECK_OK)
#else
#define VQ_MAY_EXECUTE(function) \
	(pg_proc_aclcheck(function, GetUserId(), ACL_EXECUTE) == ACLCHECK_OK)
#endif

/* Start costing a nested loop */
#if PG_VERSION_NUM >= 190000
#define VQ_INITIAL_COST_NESTLOOP(root, workspace, jointype, outer, inner, extra) \
	initial_cost_nestloop(root, workspace, jointype, PGS_NESTLOOP_PLAIN, outer, inner, extra)
#else
#define VQ_INITIAL_COST_NESTLOOP(root, workspace, jointype, outer, inner, extra) \
	initial_cost_nestloop(root, workspace, jointype, outer, inner, extra)
#endif

/*
 * Does the server take a path for unordered in which a column after the first is compared with the values of an
 * array, whatever the access method?
 */
#define VQ_LOSES_ORDER_BY_ARRAYS	(PG_VERSION_NUM < 170000)

/* Is a truth value no condition on a column of an index of an extension's access method? */
#define VQ_KNOWS_NO_TRUTH	(PG_VERSION_NUM < 160000)

/* Is a path key one of a descending order? */
#if PG_VERSION_NUM >= 180000
#define VQ_IS_DESCENDING(key)	((key)->pk_cmptype == COMPARE_GT)
#else
#define VQ_IS_DESCENDING(key)	((key)->pk_strategy == BTGreaterStrategyNumber)
#endif

/* The members of an equivalence class, those for children of a partitioned table with their own columns */
#if PG_VERSION_NUM >= 180000
#define VqClassMembers			EquivalenceMemberIterator
#define VQ_CLASS_MEMBERS_BEGIN(members, class, relids)	setup_eclass_member_iterator(members, class, relids)
#define VQ_CLASS_MEMBERS_NEXT(members)	eclass_member_iterator_next(members)
#else
typedef struct VqClassMembers
{
	struct List *list;
	int			next;
} VqClassMembers;
#define VQ_CLASS_MEMBERS_BEGIN(members, class, relids) \
	(*(members) = (VqClassMembers) {.list = (class)->ec_members})
#define VQ_CLASS_MEMBERS_NEXT(members) \
	((members)->next < list_length((members)->list) ? \
	 (EquivalenceMember *) list_nth((members)->list, (members)->next++) : NULL)
#endif

#endif							/* VQPG_COMPAT_H */
