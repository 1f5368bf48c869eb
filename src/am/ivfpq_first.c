/*-------------------------------------------------------------------------
 *
 * ivfpq_first.c
 *	  How many of its first rows a query wants.
 *
 * Those of its LIMIT, and those of a condition on their number, which the query around it has:
 * WHERE n <= 10, with n the row_number() of a window in the order of a distance.  The server
 * stops such a window (a run condition), but does not tell its planner that few rows are wanted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "am/ivfpq_planner.h"
#include "catalog/pg_opfamily_d.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "optimizer/tlist.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "base/vqpg_compat.h"

/* Of the rows of a query, the part that is supposed to be wanted where the number is not known: as the server does of a LIMIT */
#define UNKNOWN_FRACTION	0.1

static VqRelationHook next_hook;

static Node *
make_int8(int64 value)
{
	return (Node *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(value), false, FLOAT8PASSBYVAL);
}

/* LEAST or GREATEST (which pass over NULL) or COALESCE of a number of rows and another */
static Node *
least(Node *rows, int64 other)
{
	MinMaxExpr *result = makeNode(MinMaxExpr);

	result->minmaxtype = INT8OID;
	result->op = IS_LEAST;
	result->args = list_make2(rows, make_int8(other));
	result->location = -1;
	return (Node *) result;
}

static Node *
greatest(Node *rows, int64 other)
{
	MinMaxExpr *result = (MinMaxExpr *) least(rows, other);

	result->op = IS_GREATEST;
	return (Node *) result;
}

static Node *
coalesce(Node *rows, int64 other)
{
	CoalesceExpr *result = makeNode(CoalesceExpr);

	result->coalescetype = INT8OID;
	result->args = list_make2(rows, make_int8(other));
	result->location = -1;
	return (Node *) result;
}

Node *
ivfpq_rows_of_limit(const Query *query)
{
	const int64 most = PG_INT64_MAX / 2;	/* of which a sum of two is a number as well */
	Node	   *count = query->limitCount;
	Node	   *offset = query->limitOffset;

	if (count == NULL || query->limitOption != LIMIT_OPTION_COUNT ||
		contain_volatile_functions(count) || contain_volatile_functions(offset))
		return NULL;
	if (offset == NULL)
		return count;
	return eval_const_expressions(NULL, (Node *)
								  makeFuncExpr(F_INT8PL, INT8OID,
											   list_make2(least(count, most), least(coalesce(offset, 0), most)),
											   InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL));
}

static bool
is_of_one_level(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param))
		return ((Param *) node)->paramkind != PARAM_EXTERN;
	return IsA(node, SubPlan) || expression_tree_walker(node, is_of_one_level, arg);
}

bool
ivfpq_is_of_one_level(Node *node)
{
	return is_of_one_level(node, NULL);
}

/* The greatest row_number() that passes a comparison with a value, if the number is on its left or right; NULL if none is */
static Node *
greatest_number(Oid operator, bool is_left, Node *value)
{
	int			strategy = get_op_opfamily_strategy(operator, INTEGER_BTREE_FAM_OID);

	if (is_left ? strategy != BTLessStrategyNumber && strategy != BTLessEqualStrategyNumber :
		strategy != BTGreaterStrategyNumber && strategy != BTGreaterEqualStrategyNumber)
		return NULL;
	if (is_of_one_level(value, NULL) || contain_volatile_functions(value))
		return NULL;
	switch (exprType(value))
	{
		case INT8OID:
			break;
		case INT4OID:
			value = (Node *) makeFuncExpr(F_INT8_INT4, INT8OID, list_make1(value), InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
			break;
		case INT2OID:
			value = (Node *) makeFuncExpr(F_INT8_INT2, INT8OID, list_make1(value), InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
			break;
		default:
			return NULL;
	}

	/* of NULL and less than one none, which a LIMIT says by 0; one row more than < lets through does not matter */
	return eval_const_expressions(NULL, greatest(coalesce(value, 0), 0));
}

static bool
is_row_number(const Node *node)
{
	return IsA(node, WindowFunc) && ((const WindowFunc *) node)->winfnoid == F_ROW_NUMBER;
}

#if PG_VERSION_NUM >= 170000

/* The rows that the run conditions of a row_number() let through, into a Node * that is NULL as long as none is found */
static bool
find_rows(Node *node, void *arg)
{
	Node	  **rows = arg;
	ListCell   *cell;

	if (node == NULL)
		return false;
	if (!IsA(node, WindowFunc))
		return expression_tree_walker(node, find_rows, arg);
	if (is_row_number(node))
		foreach(cell, ((WindowFunc *) node)->runCondition)
		{
			const WindowFuncRunCondition *condition = lfirst_node(WindowFuncRunCondition, cell);

			if (*rows == NULL)
				*rows = greatest_number(condition->opno, condition->wfunc_left, (Node *) condition->arg);
		}
	return *rows != NULL;
}

/* How many rows the conditions around a query let through of its window, which is its only one; NULL if there are none on numbers */
static Node *
rows_of_number(const PlannerInfo *root)
{
	Node	   *rows = NULL;

	(void) find_rows((Node *) root->processed_tlist, &rows);
	return rows;
}
#else
static Node *
rows_of_number(const PlannerInfo *root)
{
	ListCell   *cell;

	foreach(cell, linitial_node(WindowClause, root->parse->windowClause)->runCondition)
	{
		const OpExpr *condition = lfirst_node(OpExpr, cell);
		bool		is_left = is_row_number(linitial(condition->args));
		Node	   *rows = NULL;

		if (is_left || is_row_number(lsecond(condition->args)))
			rows = greatest_number(condition->opno, is_left, is_left ? lsecond(condition->args) : linitial(condition->args));
		if (rows)
			return rows;
	}
	return NULL;
}
#endif

static bool
is_other_window_function(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, WindowFunc))
	{
		Oid			function = ((WindowFunc *) node)->winfnoid;

		return function != F_ROW_NUMBER && function != F_RANK_ && function != F_DENSE_RANK_;
	}
	return expression_tree_walker(node, is_other_window_function, arg);
}

/* Has a query one window, of all rows, of which it wants nothing but ranks? */
static bool
has_ranks(const PlannerInfo *root)
{
	const Query *query = root->parse;

	return list_length(query->windowClause) == 1 &&
		linitial_node(WindowClause, query->windowClause)->partitionClause == NIL &&
		!query->hasTargetSRFs && !is_other_window_function((Node *) root->processed_tlist, NULL);
}

bool
ivfpq_is_sorted_by_rank(const PlannerInfo *root)
{
	const Query *query = root->parse;
	const WindowFunc *rank;

	if (query->sortClause == NIL || root->sort_pathkeys == NIL || VQ_IS_DESCENDING(linitial_node(PathKey, root->sort_pathkeys)))
		return false;
	rank = (const WindowFunc *) get_sortgroupclause_expr(linitial_node(SortGroupClause, query->sortClause),
														 root->processed_tlist);
	return IsA(rank, WindowFunc) && (list_length(query->sortClause) == 1 || rank->winfnoid == F_ROW_NUMBER);
}

Node *
ivfpq_rows_ranked(const PlannerInfo *root)
{
	Node	   *rows;

	if (!has_ranks(root) || root->window_pathkeys == NIL ||
		(root->sort_pathkeys != NIL && compare_pathkeys(root->window_pathkeys, root->sort_pathkeys) != PATHKEYS_EQUAL &&
		 !ivfpq_is_sorted_by_rank(root)))
		return NULL;
	rows = ivfpq_rows_of_limit(root->parse);
	return rows ? rows : rows_of_number(root);
}

bool
ivfpq_is_limited(const PlannerInfo *root)
{
	const Const *limit = (const Const *) root->parse->limitCount;

	if (limit == NULL)
		return root->parse->hasWindowFuncs && ivfpq_rows_ranked(root) != NULL;
	return !(IsA(limit, Const) && limit->constisnull);	/* LIMIT ALL */
}

/* Are the numbers in a query's only window those of its rows as they come? */
static bool
numbers_rows_as_they_come(const PlannerInfo *root)
{
	return has_ranks(root) && linitial_node(WindowClause, root->parse->windowClause)->orderClause == NIL;
}

bool
ivfpq_wants_first(const PlannerInfo *root)
{
	/* all rows, which is a search only for who has disabled the other ways, at a price of its own (least_total in ivfpq_cost.c) */
	if (root->tuple_fraction == 0 && !ivfpq_is_limited(root))
		return !enable_seqscan || !enable_sort;

	/* the server hands a query's share of rows on to the one in its FROM, where it can, and gives one to EXISTS and NOT IN, too */
	while (!ivfpq_is_limited(root))
	{
		const PlannerInfo *around = root->parent_root;

		/* a cursor's */
		if (around == NULL)
			return true;

		/* those are planned before the relations of the query around them */
		if (around->simple_rel_array == NULL)
			return false;
		if (around->parse->hasWindowFuncs && !numbers_rows_as_they_come(around))
			return false;
		root = around;
	}
	return true;
}

int64
ivfpq_rows_estimated(PlannerInfo *root, Node *rows)
{
	const Const *estimate = (const Const *) estimate_expression_value(root, rows);

	return IsA(estimate, Const) && !estimate->constisnull ? Max(1, DatumGetInt64(estimate->constvalue)) : -1;
}

static bool
has_search_index(const RelOptInfo *rel)
{
	ListCell   *cell;

	foreach(cell, rel->indexlist)
		if (lfirst_node(IndexOptInfo, cell)->amcostestimate == ivfpqcostestimate)
			return true;
	return false;
}

/*
 * Keep paths that are cheap to begin with, where a query wants few of its rows by their number: as soon as the server has read
 * what there is of a table that may be searched, as it asks for the query's share of rows whenever it makes a relation
 */
static void
want_first_rows(VQ_RELATION_HOOK_PARAMETERS)
{
	Node	   *rows;

	if (next_hook)
		next_hook(VQ_RELATION_HOOK_ARGUMENTS);
	if (root->tuple_fraction > 0 || !root->parse->hasWindowFuncs || !has_search_index(rel) || !has_ranks(root))
		return;
	rows = rows_of_number(root);
	if (rows)
	{
		int64		estimate = ivfpq_rows_estimated(root, rows);

		root->tuple_fraction = estimate > 0 ? estimate : UNKNOWN_FRACTION;
	}
}

void
ivfpq_init_first(void)
{
	next_hook = VQ_RELATION_HOOK;
	VQ_RELATION_HOOK = want_first_rows;
}
