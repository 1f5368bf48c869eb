/*-------------------------------------------------------------------------
 *
 * ivfpq_filter.c
 *	  The conditions of a query, tried on rows before their distances are computed.
 *
 * The executor tries them on what a scan returns, so a scan that knows nothing of them
 * computes the distance of each row that they discard, and most of a long vector's is
 * getting it from where it is stored out of line.  So each search is given the conditions
 * (ivfpq_executor.c).
 *
 * That may not show but in time.  The executor tries all conditions again; only those are tried here that
 * have no effects and cost little.  One that stands before another may be there to hide rows from it (row
 * security), so what stands behind one that is not tried has to be leakproof; and as leakproof ones may stand
 * before those that hide rows, counts of the rows that pass are a secret then, if the others are not tried.
 * They see the rows that the snapshot sees.  Conditions on attributes come first, as they do in the executor.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/sysattr.h"
#include "am/ivfpq_planner.h"
#include "am/ivfpq_search.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "executor/instrument.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* In operators.  Of rows looked at, some are never returned: a condition must not cost more than it spares. */
#define LARGEST_COST	10.5

struct IvfpqFilter
{
	PlanState  *node;
	ExprState  *qual;
	ExprContext *context;
	int			nvariable;
	AttrNumber *variable;		/* columns of variable length in it */
	bool		is_secret;
};

/*
 * Columns that the indexed vector is made of, as pull_varattnos numbers them; expressions are those of the index, of
 * which the vector has the first, about relation relid
 */
static Bitmapset *
columns_of_vector(AttrNumber attno, List *expressions, Index relid)
{
	Bitmapset  *columns = NULL;

	if (attno == 0)
		pull_varattnos(linitial(expressions), relid, &columns);
	else
		columns = bms_make_singleton(attno - FirstLowInvalidHeapAttributeNumber);

	/* all of the row */
	return bms_add_member(columns, 0 - FirstLowInvalidHeapAttributeNumber);
}

/* Whether to try a condition; if so its columns are added */
static bool
is_suitable(Node *clause, Index relid, const Bitmapset *vector, Bitmapset **columns)
{
	Bitmapset  *own = NULL;
	QualCost	cost;

	/* the vector itself is not read for that */
	if (IsA(clause, NullTest) && !((NullTest *) clause)->argisrow && IsA(((NullTest *) clause)->arg, Var))
		return true;
	if (contain_subplans(clause) || contain_volatile_functions(clause))
		return false;
	pull_varattnos(clause, relid, &own);
	if (bms_overlap(own, vector))
		return false;
	cost_qual_eval_node(&cost, clause, NULL);
	if (cost.per_tuple >= LARGEST_COST * cpu_operator_cost)
		return false;
	*columns = bms_add_members(*columns, own);
	return true;
}

static void
set_columns(IvfpqFilter *filter, TupleDesc desc, const Bitmapset *columns)
{
	int			member = -1;

	filter->variable = palloc(bms_num_members(columns) * sizeof(AttrNumber));
	while ((member = bms_next_member(columns, member)) >= 0)
	{
		AttrNumber	attno = member + FirstLowInvalidHeapAttributeNumber;

		if (attno > 0 && TupleDescAttr(desc, attno - 1)->attlen == -1)
			filter->variable[filter->nvariable++] = attno;
	}
}

/*
 * Whether there may be rows that a plan hides from some of its conditions: by a view that is a barrier, or by row
 * security, which partitions may have from their parent.
 */
static bool
hides_rows(const PlannedStmt *plan)
{
	ListCell   *cell;

	foreach(cell, plan->rtable)
	{
		const RangeTblEntry *entry = lfirst_node(RangeTblEntry, cell);
		HeapTuple	tuple;
		bool		has_row_security;

		if (entry->security_barrier)
			return true;
		if (entry->rtekind != RTE_RELATION)
			continue;
		tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(entry->relid));
		has_row_security = HeapTupleIsValid(tuple) && ((Form_pg_class) GETSTRUCT(tuple))->relrowsecurity;
		if (HeapTupleIsValid(tuple))
			ReleaseSysCache(tuple);
		if (has_row_security)
			return true;
	}
	return false;
}

/* The same, looked up once for all searches of a plan */
static bool
may_hide_rows(const PlannedStmt *plan, IvfpqHiding *hiding)
{
	if (*hiding == IVFPQ_HIDING_UNKNOWN)
		*hiding = hides_rows(plan) ? IVFPQ_HIDING : IVFPQ_NOT_HIDING;
	return *hiding == IVFPQ_HIDING;
}

/* Whether a search key is about the vector, not about an attribute */
static bool
is_about_vector(Node *key)
{
	Bitmapset  *columns = NULL;

	pull_varattnos(key, INDEX_VAR, &columns);
	return bms_is_member(1 - FirstLowInvalidHeapAttributeNumber, columns);
}

/* Whether search keys discard rows: by attributes, or by a threshold of the distance; a vector that is not NULL discards none */
static bool
has_discarding_keys(const IndexScan *plan)
{
	ListCell   *cell;

	foreach(cell, plan->indexqual)
	{
		if (!IsA(lfirst(cell), NullTest) || !is_about_vector(lfirst(cell)))
			return true;
	}
	return false;
}

/*
 * The conditions that are search keys of attributes, as they are about the row.  They let rows pass that they should not,
 * and the executor tries them before all others.
 */
static List *
conditions_on_attributes(const IndexScan *plan)
{
	List	   *conditions = NIL;
	ListCell   *key;
	ListCell   *original;

	forboth(key, plan->indexqual, original, plan->indexqualorig)
	{
		if (!is_about_vector(lfirst(key)))
			conditions = lappend(conditions, lfirst(original));
	}
	return conditions;
}

IvfpqFilter *
ivfpq_filter_make(IndexScanState *node, IvfpqHiding *hiding)
{
	PlanState  *state = &node->ss.ps;
	Relation	index = node->iss_RelationDesc;
	Bitmapset  *vector = columns_of_vector(index->rd_index->indkey.values[0], RelationGetIndexExpressions(index), 1);
	Bitmapset  *columns = NULL;
	List	   *conditions;
	List	   *clauses = NIL;
	bool		is_complete = true;
	bool		is_secret;
	IvfpqFilter *filter;
	ListCell   *cell;

	conditions = list_concat(conditions_on_attributes((IndexScan *) state->plan), state->plan->qual);
	foreach(cell, conditions)
	{
		if ((is_complete || !contain_leaked_vars(lfirst(cell))) &&
			is_suitable(lfirst(cell), ((Scan *) state->plan)->scanrelid, vector, &columns))
			clauses = lappend(clauses, lfirst(cell));
		else
			is_complete = false;
	}

	/* codes and rows are counted that pass the search keys, whatever the conditions say */
	is_secret = ((clauses != NIL && !is_complete) || has_discarding_keys((IndexScan *) state->plan)) &&
		may_hide_rows(state->state->es_plannedstmt, hiding);
	if (clauses == NIL && !is_secret)
		return NULL;

	filter = palloc0(sizeof(IvfpqFilter));
	filter->node = state;
	filter->qual = ExecInitQual(clauses, state);
	filter->context = CreateExprContext(state->state);
	filter->is_secret = is_secret;
	set_columns(filter, RelationGetDescr(node->ss.ss_currentRelation), columns);
	return filter;
}

bool
ivfpq_filter_passes(IvfpqFilter *filter, TupleTableSlot *slot)
{
	/* long values are as dear to get as the vector, and the executor would get them again */
	for (int i = 0; i < filter->nvariable; i++)
	{
		bool		isnull;
		struct varlena *value = (struct varlena *) DatumGetPointer(slot_getattr(slot, filter->variable[i], &isnull));

		if (!isnull && (VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value)))
			return true;
	}

	ResetExprContext(filter->context);
	filter->context->ecxt_scantuple = slot;
	return ExecQual(filter->qual, filter->context);
}

void
ivfpq_filter_count(IvfpqFilter *filter)
{
	InstrCountFiltered1(filter->node, 1);
}

/* Whether the search tries a condition as one on an attribute */
static bool
is_search_key(const IndexPath *path, const RestrictInfo *condition)
{
	ListCell   *cell;

	foreach(cell, path->indexclauses)
	{
		const IndexClause *clause = lfirst_node(IndexClause, cell);

		if (clause->rinfo == condition && clause->indexcol > 0)
			return true;
	}
	return false;
}

Selectivity
ivfpq_filter_selectivity(PlannerInfo *root, const IndexPath *path)
{
	const IndexOptInfo *info = path->indexinfo;
	Index		relid = info->rel->relid;
	Bitmapset  *vector = columns_of_vector(info->indexkeys[0], info->indexprs, relid);
	Bitmapset  *columns = NULL;
	List	   *clauses = NIL;
	ListCell   *cell;

	foreach(cell, info->indrestrictinfo)
		if (!is_search_key(path, lfirst_node(RestrictInfo, cell)) &&
			is_suitable((Node *) lfirst_node(RestrictInfo, cell)->clause, relid, vector, &columns))
			clauses = lappend(clauses, lfirst(cell));
	return clauselist_selectivity(root, clauses, 0, JOIN_INNER, NULL);
}

bool
ivfpq_filter_is_secret(const IvfpqFilter *filter)
{
	return filter != NULL && filter->is_secret;
}
