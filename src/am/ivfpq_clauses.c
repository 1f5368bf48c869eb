/*-------------------------------------------------------------------------
 *
 * ivfpq_clauses.c
 *	  Conditions on attributes, for paths that the server does not think of.
 *
 * The server gives its own paths of a search the conditions that its operator
 * classes know.  Those that ivfpq_paths.c makes get them here: comparisons of a
 * column with what is the same for all rows, and with any value of an array; whether it is NULL;
 * a column of truth values by itself; and whether a value is in an array that the column has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq_planner.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "base/vqpg_compat.h"

/* What an operator compares, the indexed side first */
typedef struct Comparison
{
	Oid			operator;
	Oid			collation;
	Node	   *column;
	Node	   *value;
} Comparison;

static bool
read_comparison(Expr *clause, Comparison *comparison)
{
	if (IsA(clause, OpExpr) && list_length(((OpExpr *) clause)->args) == 2)
	{
		OpExpr	   *op = (OpExpr *) clause;

		*comparison = (Comparison) {op->opno, op->inputcollid, linitial(op->args), lsecond(op->args)};
		return true;
	}
	if (IsA(clause, ScalarArrayOpExpr) && ((ScalarArrayOpExpr *) clause)->useOr)
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;

		*comparison = (Comparison) {op->opno, op->inputcollid, linitial(op->args), lsecond(op->args)};
		return true;
	}
	return false;
}

/* Whether an operator is one of those of an index's column, and its other side the same for all rows */
static bool
is_of_column(PlannerInfo *root, IndexOptInfo *info, int column, const Comparison *comparison)
{
	Oid			collation = info->indexcollations[column];

	return match_index_to_operand(comparison->column, column, info) &&
		op_in_opfamily(comparison->operator, info->opfamily[column]) &&
		(!OidIsValid(collation) || collation == comparison->collation) &&
		!bms_is_member(info->rel->relid, pull_varnos(root, comparison->value)) &&
		!contain_volatile_functions(comparison->value);
}

/* For a column of truth values, or its negation, a comparison with true or false; NULL for all else */
static Expr *
truth_as_comparison(IndexOptInfo *info, int column, Node *clause)
{
	bool		wanted = true;

	if (info->opcintype[column] != BOOLOID || !op_in_opfamily(BooleanEqualOperator, info->opfamily[column]))
		return NULL;
	if (is_notclause(clause))
	{
		wanted = false;
		clause = (Node *) get_notclausearg(clause);
	}
	else if (IsA(clause, BooleanTest) &&
			 (((BooleanTest *) clause)->booltesttype == IS_TRUE || ((BooleanTest *) clause)->booltesttype == IS_FALSE))
	{
		wanted = ((BooleanTest *) clause)->booltesttype == IS_TRUE;
		clause = (Node *) ((BooleanTest *) clause)->arg;
	}
	if (!match_index_to_operand(clause, column, info))
		return NULL;
	return make_opclause(BooleanEqualOperator, BOOLOID, false, (Expr *) clause, (Expr *) makeBoolConst(wanted, false),
						 InvalidOid, InvalidOid);
}

/* For value = ANY (column) a condition that is true of no fewer rows, column @> ARRAY[value]; NULL for all else */
static Expr *
member_as_contained(PlannerInfo *root, IndexOptInfo *info, int column, Expr *clause)
{
	ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;
	Oid			operator = get_opfamily_member(info->opfamily[column], info->opcintype[column], info->opcintype[column],
											   IVFPQ_CONTAINS_STRATEGY);
	ArrayExpr  *array;
	Comparison	comparison;

	if (!IsA(op, ScalarArrayOpExpr) || !op->useOr || !OidIsValid(operator))
		return NULL;
	array = makeNode(ArrayExpr);
	array->array_typeid = exprType(lsecond(op->args));
	array->element_typeid = get_element_type(array->array_typeid);
	array->array_collid = exprCollation(linitial(op->args));
	array->elements = list_make1(copyObject(linitial(op->args)));
	array->location = -1;
	comparison = (Comparison) {operator, op->inputcollid, lsecond(op->args), (Node *) array};
	if (exprType(linitial(op->args)) != array->element_typeid ||
		lookup_type_cache(array->element_typeid, TYPECACHE_EQ_OPR)->eq_opr != op->opno ||
		!is_of_column(root, info, column, &comparison))
		return NULL;
	return make_opclause(operator, BOOLOID, false, copyObject(lsecond(op->args)),
						 (Expr *) eval_const_expressions(root, (Node *) array), InvalidOid, op->inputcollid);
}

/* A condition as one of an index's column; NULL if it is none */
static IndexClause *
clause_of_column(PlannerInfo *root, IndexOptInfo *info, int column, RestrictInfo *condition)
{
	Comparison	comparison;
	IndexClause *clause;
	RestrictInfo *qual = condition;
	Expr	   *truth = truth_as_comparison(info, column, (Node *) condition->clause);
	Expr	   *contained = member_as_contained(root, info, column, condition->clause);

	if (IsA(condition->clause, NullTest))
	{
		const NullTest *test = (const NullTest *) condition->clause;

		if (test->argisrow || !match_index_to_operand((Node *) test->arg, column, info))
			return NULL;
	}
	else if (truth != NULL)
		qual = make_simple_restrictinfo(root, truth);
	else if (contained != NULL)
		qual = make_simple_restrictinfo(root, contained);
	else if (!read_comparison(condition->clause, &comparison))
		return NULL;
	else if (!is_of_column(root, info, column, &comparison))
	{
		Node	   *column_side = comparison.value;

		if (!IsA(condition->clause, OpExpr))
			return NULL;
		comparison.value = comparison.column;
		comparison.column = column_side;
		comparison.operator = get_commutator(comparison.operator);
		if (!OidIsValid(comparison.operator) || !is_of_column(root, info, column, &comparison))
			return NULL;
		qual = commute_restrictinfo(condition, comparison.operator);
	}
	clause = makeNode(IndexClause);
	clause->rinfo = condition;
	clause->indexquals = list_make1(qual);
	clause->lossy = contained != NULL;
	clause->indexcol = column;
	return clause;
}

List *
ivfpq_attribute_clauses(PlannerInfo *root, IndexOptInfo *info)
{
	List	   *clauses = NIL;

	for (int column = 1; column < info->nkeycolumns; column++)
	{
		ListCell   *cell;

		foreach(cell, info->indrestrictinfo)
		{
			RestrictInfo *condition = lfirst_node(RestrictInfo, cell);
			IndexClause *clause;

			if (condition->pseudoconstant || !restriction_is_securely_promotable(condition, info->rel))
				continue;
			clause = clause_of_column(root, info, column, condition);
			if (clause != NULL)
				clauses = lappend(clauses, clause);
		}
	}
	return clauses;
}

bool
ivfpq_server_has_clauses(const List *clauses)
{
	ListCell   *cell;

	foreach(cell, clauses)
	{
		const Expr *clause = lfirst_node(IndexClause, cell)->rinfo->clause;

		if (lfirst_node(IndexClause, cell)->lossy ||
			(IsA(clause, ScalarArrayOpExpr) && VQ_LOSES_ORDER_BY_ARRAYS) ||
			(!IsA(clause, OpExpr) && !IsA(clause, ScalarArrayOpExpr) && !IsA(clause, NullTest) && VQ_KNOWS_NO_TRUTH))
			return false;
	}
	return true;
}
