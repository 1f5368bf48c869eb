/*-------------------------------------------------------------------------
 *
 * ivfpq_distance.c
 *	  Conditions and orders that are computed from a distance.
 *
 * The server knows a search by its distance, ascending, and nothing else.  Two things
 * that queries say of a distance are as good as that, if one looks at them:
 *
 *	- WHERE distance < r beside the ORDER BY.  Rows come in the order of their distances,
 *	  so as soon as one does not pass, none will; the server would go on to the end of the
 *	  table for the rows that are missing to a LIMIT.  So a path of a search is given r as a search key,
 *	  under an operator of its own that is true of all rows, and the condition stays
 *	  where it is.  Only with a LIMIT: without one, all such rows are wanted, whatever
 *	  list they are in.
 *
 *	- ORDER BY 1 - distance DESC, by a similarity, is the order of distances
 *	  (ivfpq_paths.c makes paths of it).
 *
 * Either may be 1 - distance, -distance, 100 * (1 - distance) and the like: sums and
 * products with constants; an order also 1 / (1 + distance).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/stratnum.h"
#include "am/ivfpq_planner.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "base/vqpg_compat.h"

PG_FUNCTION_INFO_V1(ivfpq_may_be_within);

/*
 * A number that is put on the other side of a condition, as the 1 of 1 - distance > t, must
 * not be so large that the rounding of what comes of it matters (TERM_ROUNDING in ivfpq_scan.c)
 */
#define LARGEST_TERM	1000.0

/*----------
 * What is computed from a distance
 *----------
 */

/* The side of a condition, or the key of an order, that may be computed from a distance */
typedef struct Side
{
	Node	   *number;			/* what is left of it */
	bool		is_rising;		/* what it was at first, with the number */
	Node	   *bound;			/* of the number, by the other side of the condition; NULL of an order */
} Side;

/* Whether an expression is the same for all rows of an index's table, and may be computed once more */
static bool
is_known(PlannerInfo *root, const IndexOptInfo *info, Node *node)
{
	return !bms_overlap(pull_varnos(root, node), info->rel->relids) && !contain_volatile_functions(node) &&
		!contain_subplans(node);
}

/* The value of a constant that may be put on the other side, NaN of all else */
static double
term(const Node *node)
{
	const Const *number = (const Const *) node;
	double		value;

	if (node == NULL || !IsA(node, Const) || number->constisnull || number->consttype != FLOAT8OID)
		return NAN;
	value = DatumGetFloat8(number->constvalue);
	return fabs(value) <= LARGEST_TERM ? value : NAN;
}

/* A call of the function behind an index's distance as that operator, the column first; NULL if it is none */
static OpExpr *
operator_of_call(const IndexOptInfo *info, const FuncExpr *function)
{
	if (list_length(function->args) != 2)
		return NULL;
	for (int i = 0; i < 2; i++)
	{
		Expr	   *column = list_nth(function->args, i);
		Expr	   *query = list_nth(function->args, 1 - i);
		Oid			operator = get_opfamily_member(info->opfamily[0], info->opcintype[0], exprType((Node *) query),
												   IVFPQ_DISTANCE_STRATEGY);

		if (OidIsValid(operator) && get_opcode(operator) == function->funcid && exprType((Node *) column) == info->opcintype[0])
		{
			OpExpr	   *distance = (OpExpr *) make_opclause(operator, FLOAT8OID, false, copyObject(column), copyObject(query),
															InvalidOid, function->inputcollid);

			set_opfuncid(distance);
			return distance;
		}
	}
	return NULL;
}

/* The distance that an index orders by, with its column first; NULL if an expression is none */
static OpExpr *
distance_of_index(PlannerInfo *root, IndexOptInfo *info, Node *node, Oid sort_family)
{
	OpExpr	   *distance = IsA(node, FuncExpr) ? operator_of_call(info, (FuncExpr *) node) : (OpExpr *) node;

	if (distance == NULL || !IsA(distance, OpExpr) || list_length(distance->args) != 2)
		return NULL;
	if (match_index_to_operand(lsecond(distance->args), 0, info) && OidIsValid(get_commutator(distance->opno)))
	{
		distance = copyObject(distance);
		CommuteOpExpr(distance);
	}
	if (match_index_to_operand(linitial(distance->args), 0, info) && is_known(root, info, lsecond(distance->args)) &&
		get_op_opfamily_sortfamily(distance->opno, info->opfamily[0]) == sort_family)
		return distance;
	return NULL;
}

/* Whether a number is a constant above 0 more than a distance that is never negative, but for rounding */
static bool
is_positive(PlannerInfo *root, IndexOptInfo *info, Node *number, Oid sort_family)
{
	const OpExpr *op = (const OpExpr *) number;
	Oid			metric = get_opfamily_proc(info->opfamily[0], info->opcintype[0], info->opcintype[0], IVFPQ_METRIC_PROC);

	if (!IsA(op, OpExpr) || op->opfuncid != F_FLOAT8PL || !OidIsValid(metric) ||
		DatumGetInt32(OidFunctionCall0(metric)) == VQ_METRIC_IP)
		return false;
	for (int i = 0; i < 2; i++)
		if (term(list_nth(op->args, i)) >= 1 / LARGEST_TERM &&
			distance_of_index(root, info, list_nth(op->args, 1 - i), sort_family) != NULL)
			return true;
	return false;
}

/* A call of a function of the server, of one or two numbers */
static Node *
call(Oid function, Node *a, Node *b)
{
	return (Node *) makeFuncExpr(function, FLOAT8OID, b ? list_make2(a, b) : list_make1(a), InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
}

static Node *
float8_const(double value)
{
	return (Node *) makeConst(FLOAT8OID, -1, InvalidOid, sizeof(float8), Float8GetDatum(value), false, FLOAT8PASSBYVAL);
}

/*
 * A bound divided by a constant of at least 1 or at most -1, with no underflow: that would be an error, which the
 * query itself has not.  What this is off by is within TERM_ROUNDING.
 */
static Node *
quotient(Node *bound, Node *constant)
{
	return call(F_FLOAT8MI, call(F_FLOAT8DIV, call(F_FLOAT8PL, bound, float8_const(1)), constant),
				float8_const(1 / term(constant)));
}

/*
 * Undo the last thing done to a number; false if it is none that can be undone.  In a condition only if it
 * can be computed the other way round, with no error, whatever the bound.
 */
static bool
peel(PlannerInfo *root, IndexOptInfo *info, Side *side, Oid sort_family)
{
	const OpExpr *op = (const OpExpr *) side->number;
	Node	   *bound = side->bound;
	Node	   *a;
	Node	   *b;
	double		left;
	double		right;
	bool		is_rising = true;

	if (!IsA(op, OpExpr))
		return false;
	a = linitial(op->args);
	b = list_length(op->args) == 2 ? lsecond(op->args) : NULL;
	left = term(a);
	right = term(b);

	switch (op->opfuncid)
	{
		case F_FLOAT8UM:
			side->number = a;
			is_rising = false;
			if (bound)
				side->bound = call(F_FLOAT8UM, bound, NULL);
			break;
		case F_FLOAT8MI:
			if (isnan(left) && isnan(right))
				return false;
			side->number = isnan(left) ? a : b;
			is_rising = isnan(left);
			if (bound)
				side->bound = isnan(left) ? call(F_FLOAT8PL, bound, b) : call(F_FLOAT8MI, a, bound);
			break;
		case F_FLOAT8PL:
			if (isnan(left) && isnan(right))
				return false;
			side->number = isnan(left) ? a : b;
			if (bound)
				side->bound = call(F_FLOAT8MI, bound, isnan(left) ? b : a);
			break;
		case F_FLOAT8MUL:
			{
				double		factor = isnan(left) ? right : left;

				if (isnan(factor) || factor == 0 || (bound && fabs(factor) < 1))
					return false;
				side->number = isnan(left) ? a : b;
				is_rising = factor > 0;
				if (bound)
					side->bound = quotient(bound, isnan(left) ? b : a);
			}
			break;
		case F_FLOAT8DIV:
			if (bound)
				return false;
			if (!isnan(right) && right != 0)
			{
				side->number = a;
				is_rising = right > 0;
			}
			else if (!isnan(left) && left != 0 && is_positive(root, info, b, sort_family))
			{
				side->number = b;
				is_rising = left < 0;
			}
			else
				return false;
			break;
		default:
			return false;
	}
	if (!is_rising)
		side->is_rising = !side->is_rising;
	return true;
}

/*----------
 * Conditions
 *----------
 */

/* The distance at most that a condition lets pass; NULL if it is not about this distance, or sets no such limit */
static Node *
largest_distance(PlannerInfo *root, IndexOptInfo *info, const Expr *condition, const OpExpr *distance,
				 Oid sort_family)
{
	const OpExpr *comparison = (const OpExpr *) condition;
	Node	   *numbers[2];
	Side		side;
	int			strategy;
	bool		is_left_known;
	OpExpr	   *found;

	if (!IsA(condition, OpExpr) || list_length(comparison->args) != 2)
		return NULL;
	strategy = get_op_opfamily_strategy(comparison->opno, sort_family);
	if (strategy == InvalidStrategy || strategy == BTEqualStrategyNumber)
		return NULL;
	for (int i = 0; i < 2; i++)
	{
		numbers[i] = list_nth(comparison->args, i);
		if (exprType(numbers[i]) == FLOAT4OID)
			numbers[i] = call(F_FLOAT8_FLOAT4, numbers[i], NULL);
	}
	is_left_known = is_known(root, info, numbers[0]);
	if (is_left_known == is_known(root, info, numbers[1]))
		return NULL;

	side = (Side) {.number = numbers[is_left_known], .is_rising = true, .bound = numbers[!is_left_known]};
	while ((found = distance_of_index(root, info, side.number, sort_family)) == NULL)
		if (!peel(root, info, &side, sort_family))
			return NULL;
	if (!equal(found, distance) || side.is_rising != ((strategy < BTEqualStrategyNumber) != is_left_known))
		return NULL;
	return eval_const_expressions(root, side.bound);
}

/* Give a path those of these conditions that are on its distance */
static void
bound_by(PlannerInfo *root, IndexPath *path, const List *conditions)
{
	List	   *clauses = NIL;
	IndexOptInfo *info = path->indexinfo;
	OpExpr	   *distance = linitial_node(OpExpr, path->indexorderbys);
	Oid			sort_family = linitial_node(PathKey, path->path.pathkeys)->pk_opfamily;
	Oid			operator = get_opfamily_member(info->opfamily[0], info->opcintype[0], FLOAT8OID, IVFPQ_WITHIN_STRATEGY);
	ListCell   *cell;

	/* who may call the distance need not be allowed to call what stands behind the key */
	root->glob->dependsOnRole = true;
	if (!OidIsValid(operator) || !VQ_MAY_EXECUTE(get_opcode(operator)))
		return;
	foreach(cell, conditions)
	{
		RestrictInfo *condition = lfirst_node(RestrictInfo, cell);
		Node	   *bound = largest_distance(root, info, condition->clause, distance, sort_family);
		IndexClause *clause;
		Expr	   *within;

		if (bound == NULL)
			continue;
		within = make_opclause(operator, BOOLOID, false, copyObject(linitial(distance->args)), (Expr *) bound,
							   InvalidOid, InvalidOid);
		set_opfuncid((OpExpr *) within);
		clause = makeNode(IndexClause);
		clause->rinfo = condition;
		clause->indexquals = list_make1(make_simple_restrictinfo(root, within));
		clause->lossy = true;
		clauses = lappend(clauses, clause);
	}

	/* in the order of columns; other paths may share those that are there */
	path->indexclauses = list_concat(clauses, path->indexclauses);
}

void
ivfpq_bound_search(PlannerInfo *root, IndexPath *path)
{
	ListCell   *cell;

	/* other paths may be of the same search: once is enough */
	foreach(cell, path->indexclauses)
	{
		const IndexClause *clause = lfirst_node(IndexClause, cell);

		if (clause->indexcol == 0 && clause->lossy)
			return;
	}
	bound_by(root, path, path->indexinfo->indrestrictinfo);
	if (path->path.param_info)
		bound_by(root, path, path->path.param_info->ppi_clauses);
}

/* The operator of the search key: a row's own condition decides about it */
Datum
ivfpq_may_be_within(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}

/*----------
 * Orders
 *----------
 */

OpExpr *
ivfpq_distance_of_order(PlannerInfo *root, IndexOptInfo *info, const PathKey *key, Relids relids,
						bool is_known_to_server)
{
	EquivalenceMember *member;
	VqClassMembers members;

	if (key->pk_eclass->ec_has_volatile)
		return NULL;
	VQ_CLASS_MEMBERS_BEGIN(&members, key->pk_eclass, relids);
	while ((member = VQ_CLASS_MEMBERS_NEXT(&members)) != NULL)
	{
		Side		side = {.number = (Node *) member->em_expr, .is_rising = true};
		OpExpr	   *distance;

		if (!bms_equal(member->em_relids, relids))
			continue;
		do
			distance = distance_of_index(root, info, side.number, key->pk_opfamily);
		while (distance == NULL && peel(root, info, &side, key->pk_opfamily));
		if (distance != NULL && side.is_rising == !VQ_IS_DESCENDING(key) &&
			!(is_known_to_server && side.number == (Node *) member->em_expr && IsA(side.number, OpExpr) &&
			  !key->pk_nulls_first))
			return distance;
	}
	return NULL;
}
