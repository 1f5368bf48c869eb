/*-------------------------------------------------------------------------
 *
 * ivfpq_executor.c
 *	  What the executor and a search tell each other, beyond what the interface
 *	  of access methods has words for.
 *
 * When a plan is started, each search in it is given the conditions that it may try
 * (ivfpq_filter.c), and told of the places where the executor is going to compute the
 * distance of a row that it returns: for the Sort above, the user, a condition.  It has
 * computed that before, and the second time is dear where the vector is stored out of line.
 * So in these places a function of ours stands before the operator's: it returns what the
 * search has from the operator for the row returned last, which is the row that the executor is
 * at, and where the search has nothing it calls the operator.  Expressions that are compiled
 * (jit) are left alone.
 *
 * All hangs on the one field of a search's distance key that the server leaves to us:
 * sk_func is never called, nor its fn_extra used.  A search that was told nothing (the
 * executor rechecks a row of a concurrent update by plan nodes of its own) returns all
 * rows, as those of other access methods do, and their distances are computed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/relscan.h"
#include "am/ivfpq.h"
#include "am/ivfpq_search.h"
#include "catalog/pg_proc.h"
#include "executor/execExpr.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"

typedef struct Told
{
	IvfpqFilter *filter;
	IvfpqReturned *returned;
	List	   *expressions;	/* that of the vector, ready to be evaluated */
} Told;

static ExecutorStart_hook_type next_hook;

static const Told *
told(IndexScanDesc scan)
{
	static const Told nothing = {NULL, NULL, NIL};
	const Told *told = scan->orderByData[0].sk_func.fn_extra;

	return told ? told : &nothing;
}

IvfpqFilter *
ivfpq_filter_of(IndexScanDesc scan)
{
	return told(scan)->filter;
}

IvfpqReturned *
ivfpq_returned_of(IndexScanDesc scan)
{
	return told(scan)->returned;
}

List *
ivfpq_expressions_of(IndexScanDesc scan)
{
	return told(scan)->expressions;
}

/* Stands in for the operator's function */
static Datum
returned_distance(PG_FUNCTION_ARGS)
{
	FmgrInfo   *info = fcinfo->flinfo;
	IvfpqReturned *returned = info->fn_extra;
	Datum		distance;

	if (!isnan(returned->distance))
		PG_RETURN_FLOAT8(returned->distance);
	fcinfo->flinfo = &returned->function;
	distance = FunctionCallInvoke(fcinfo);
	fcinfo->flinfo = info;
	return distance;
}

/* Put ours in place of the operator's function wherever an expression computes the distance that a scan orders by */
static void
replace_distance(ExprState *expression, const OpExpr *distance, IvfpqReturned **returned)
{
	/* compiled code calls the operator's function, but with what we would have put beside it */
	if (expression == NULL || (expression->flags & EEO_FLAG_INTERPRETER_INITIALIZED) == 0)
		return;
	for (int i = 0; i < expression->steps_len; i++)
	{
		ExprEvalStep *step = &expression->steps[i];
		FmgrInfo   *info;

		switch (ExecEvalStepOp(expression, step))
		{
			case EEOP_FUNCEXPR:
			case EEOP_FUNCEXPR_STRICT:
#if PG_VERSION_NUM >= 180000
			case EEOP_FUNCEXPR_STRICT_1:
			case EEOP_FUNCEXPR_STRICT_2:
#endif
				break;
			default:
				continue;
		}
		info = step->d.func.finfo;
		if (!equal(info->fn_expr, distance) || info->fn_retset || func_volatile(info->fn_oid) == PROVOLATILE_VOLATILE)
			continue;
		if (*returned == NULL)
		{
			*returned = palloc0(sizeof(IvfpqReturned));
			(*returned)->distance = NAN;
			(*returned)->collation = step->d.func.fcinfo_data->fncollation;
			fmgr_info_copy(&(*returned)->function, info, CurrentMemoryContext);
		}
		info->fn_addr = returned_distance;
		info->fn_extra = *returned;
		step->d.func.fn_addr = returned_distance;
	}
}

static IvfpqReturned *
distances_returned(IndexScanState *node)
{
	const OpExpr *distance = linitial(((IndexScan *) node->ss.ps.plan)->indexorderbyorig);
	ProjectionInfo *projection = node->ss.ps.ps_ProjInfo;
	IvfpqReturned *returned = NULL;

	if (!IsA(distance, OpExpr))
		return NULL;
	replace_distance(node->ss.ps.qual, distance, &returned);
	replace_distance(node->indexqualorig, distance, &returned);
	replace_distance(projection ? &projection->pi_state : NULL, distance, &returned);
	return returned;
}

/* The expression of the vector, if it is one; others are not evaluated, which the user may not be allowed to */
static List *
vector_expression(IndexScanState *node)
{
	Relation	index = node->iss_RelationDesc;

	if (index->rd_index->indkey.values[0] != 0)
		return NIL;
	return ExecPrepareExprList(list_make1(linitial(RelationGetIndexExpressions(index))), node->ss.ps.state);
}

/* context: IvfpqHiding of the plan */
static bool
tell_searches(PlanState *state, void *context)
{
	if (IsA(state, IndexScanState))
	{
		IndexScanState *node = (IndexScanState *) state;

		/* once: scans of partitions share the state of a subplan, which is met at each of them */
		if (node->iss_NumOrderByKeys == 1 && node->iss_RelationDesc != NULL &&
			node->iss_RelationDesc->rd_indam->amgettuple == ivfpqgettuple &&
			node->iss_OrderByKeys[0].sk_func.fn_extra == NULL)
		{
			Told	   *told = palloc(sizeof(Told));

			told->filter = ivfpq_filter_make(node, context);
			told->returned = distances_returned(node);
			told->expressions = vector_expression(node);
			node->iss_OrderByKeys[0].sk_func.fn_extra = told;
		}
	}
	return planstate_tree_walker(state, tell_searches, context);
}

static void
start_executor(QueryDesc *query, int eflags)
{
	if (next_hook)
		next_hook(query, eflags);
	else
		standard_ExecutorStart(query, eflags);

	/* now, as who may call a function is asked for the role that starts the plan, not the one that fetches its rows */
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
	{
		MemoryContext old = MemoryContextSwitchTo(query->estate->es_query_cxt);
		IvfpqHiding hiding = IVFPQ_HIDING_UNKNOWN;

		(void) tell_searches(query->planstate, &hiding);
		MemoryContextSwitchTo(old);
	}
}

void
ivfpq_init_executor(void)
{
	next_hook = ExecutorStart_hook;
	ExecutorStart_hook = start_executor;
}
