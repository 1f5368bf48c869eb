/*-------------------------------------------------------------------------
 *
 * ivfpq_paths.c
 *	  Paths of searches that the server does not think of.
 *
 * The server has a path for ORDER BY distance, where the distance is between a column and what
 * is the same for the whole query, and nothing else is to be ordered.  Here are others, for:
 *
 *	- an order that is computed from a distance, as 1 - distance, descending
 *	  (ivfpq_distance.c);
 *	- an order with further keys, as distance, id: rows of equal distance are sorted, and not
 *	  all (the server knows of that from 17 on);
 *	- the distance to a row of another relation that has no more than one;
 *	- a distance beside a condition on an attribute that compares it with the values of an
 *	  array, or is a truth value (the server has paths of both from 17 and 16 on), or looks for a
 *	  value in an array that the column has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq_planner.h"
#include "nodes/makefuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "parser/parsetree.h"

#include "base/vqpg_compat.h"

static set_rel_pathlist_hook_type next_rel_hook;
static set_join_pathlist_hook_type next_join_hook;

/* Is what an index is on never NULL in the rows of a search? */
static bool
is_never_null(Oid relid, const IndexPath *search)
{
	const IndexOptInfo *info = search->indexinfo;
	const ParamPathInfo *param = search->path.param_info;
	NullTest   *not_null = makeNode(NullTest);

	not_null->arg = copyObject(linitial_node(TargetEntry, info->indextlist)->expr);
	not_null->nulltesttype = IS_NOT_NULL;
	not_null->location = -1;
	return VQ_IS_NOT_NULL(relid, info->rel, info->indexkeys[0]) ||
		predicate_implied_by(list_make1(not_null), info->rel->baserestrictinfo, false) ||
		(param != NULL && predicate_implied_by(list_make1(not_null), param->ppi_clauses, false));
}

/*
 * The searches of a table that find its rows in a query's order, or in the order of its first key; those that
 * need a row of other relations too, if there are some.
 */
static List *
searches_in_order(PlannerInfo *root, RelOptInfo *rel, Relids others)
{
	const RangeTblEntry *rte = planner_rt_fetch(rel->relid, root);
	PathKey    *key = linitial_node(PathKey, root->query_pathkeys);
	List	   *searches = NIL;
	ListCell   *cell;

	if (rte->rtekind != RTE_RELATION || rte->inh || rte->tablesample || !bms_is_empty(rel->lateral_relids) ||
		IS_DUMMY_REL(rel))
		return NIL;
	foreach(cell, rel->indexlist)
	{
		IndexOptInfo *info = lfirst_node(IndexOptInfo, cell);
		List	   *clauses;
		OpExpr	   *distance;
		IndexPath  *search;

		if (info->amcostestimate != ivfpqcostestimate || (info->indpred != NIL && !info->predOK))
			continue;
		clauses = ivfpq_attribute_clauses(root, info);
		distance = ivfpq_distance_of_order(root, info, key, bms_union(rel->relids, others),
										   others == NULL && list_length(root->query_pathkeys) == 1 &&
										   ivfpq_server_has_clauses(clauses));

		if (distance == NULL)
			continue;
		if (others != NULL)
		{
			/* the relation keeps it, longer than a genetic search of the order of joins keeps its memory */
			MemoryContext old = MemoryContextSwitchTo(root->planner_cxt);

			(void) get_baserel_parampathinfo(root, rel, others);
			MemoryContextSwitchTo(old);
		}
		search = create_index_path(root, info, clauses, list_make1(distance), list_make1_int(0), list_make1(key),
								   ForwardScanDirection, false, others, 1.0, false);

		/* rows whose vector is NULL are not in the index, so they must not be wanted first */
		if (!key->pk_nulls_first || is_never_null(rte->relid, search))
			searches = lappend(searches, search);
	}
	return searches;
}

static void
add_searches(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	ListCell   *cell;

	if (next_rel_hook)
		next_rel_hook(root, rel, rti, rte);
	if (root->query_pathkeys == NIL)
		return;
	foreach(cell, searches_in_order(root, rel, NULL))
		add_path(rel, lfirst(cell));
}

static bool has_one_row(PlannerInfo *root, RelOptInfo *rel);

/* Is the result of a query, which has been planned, one row at most? */
static bool
query_has_one_row(PlannerInfo *root)
{
	const Query *query = root->parse;
	const Const *count = (const Const *) query->limitCount;
	int			relid;

	if (query->commandType != CMD_SELECT || query->setOperations != NULL || query->hasTargetSRFs)
		return false;
	if (count != NULL && IsA(count, Const) && !count->constisnull && DatumGetInt64(count->constvalue) <= 1 &&
		query->limitOption == LIMIT_OPTION_COUNT)
		return true;

	/* each of them has a row of its own */
	if (query->groupingSets != NIL)
		return false;
	if (query->hasAggs)
		return query->groupClause == NIL;

	/* one without FROM has no relation */
	if (bms_is_empty(root->all_baserels))
		return true;
	return bms_get_singleton_member(root->all_baserels, &relid) && has_one_row(root, root->simple_rel_array[relid]);
}

/* The plan of a common table expression; NULL if it is recursive, or not known */
static PlannerInfo *
planner_of_cte(PlannerInfo *root, const RangeTblEntry *rte)
{
	int			n = 0;
	ListCell   *cell;

	if (rte->self_reference)
		return NULL;
	for (Index level = rte->ctelevelsup; level > 0 && root; level--)
		root = root->parent_root;
	if (root == NULL)
		return NULL;
	foreach(cell, root->parse->cteList)
	{
		const CommonTableExpr *cte = lfirst_node(CommonTableExpr, cell);
		int			plan_id = n < list_length(root->cte_plan_ids) ? list_nth_int(root->cte_plan_ids, n) : 0;

		if (strcmp(cte->ctename, rte->ctename) == 0)
			return plan_id > 0 && !cte->cterecursive ? list_nth(root->glob->subroots, plan_id - 1) : NULL;
		n++;
	}
	return NULL;
}

/* Has a relation one row at most? */
static bool
has_one_row(PlannerInfo *root, RelOptInfo *rel)
{
	const RangeTblEntry *rte = planner_rt_fetch(rel->relid, root);
	PlannerInfo *subroot;

	switch (rte->rtekind)
	{
		case RTE_RELATION:
			return !rte->inh && VQ_IS_UNIQUE(root, rel);
		case RTE_RESULT:
			return true;
		case RTE_SUBQUERY:
			return rel->subroot != NULL && query_has_one_row(rel->subroot);
		case RTE_CTE:
			subroot = planner_of_cte(root, rte);
			return subroot != NULL && query_has_one_row(subroot);
		default:
			return false;
	}
}

/*
 * FROM items, queries WHERE queries.id = 5 ORDER BY items.embedding <-> queries.embedding: for one
 * row on one side, the other comes in the order of its search for it.
 */
static void
add_joins(PlannerInfo *root, RelOptInfo *joinrel, RelOptInfo *outerrel, RelOptInfo *innerrel,
		  JoinType jointype, JoinPathExtraData *extra)
{
	Path	   *outer = outerrel->cheapest_total_path;
	List	   *searches;
	ListCell   *cell;

	if (next_join_hook)
		next_join_hook(root, joinrel, outerrel, innerrel, jointype, extra);
	if (jointype != JOIN_INNER || root->query_pathkeys == NIL || outerrel->reloptkind != RELOPT_BASEREL ||
		innerrel->reloptkind != RELOPT_BASEREL || outer == NULL || outer->param_info != NULL)
		return;
	searches = searches_in_order(root, innerrel, outerrel->relids);
	if (searches == NIL || !has_one_row(root, outerrel))
		return;
	foreach(cell, searches)
	{
		IndexPath  *search = lfirst_node(IndexPath, cell);
		JoinCostWorkspace workspace;

		VQ_INITIAL_COST_NESTLOOP(root, &workspace, jointype, outer, &search->path, extra);
		add_path(joinrel, (Path *) create_nestloop_path(root, joinrel, jointype, &workspace, extra, outer,
														&search->path, extra->restrictlist, search->path.pathkeys,
														NULL));
	}
}

void
ivfpq_init_paths(void)
{
	next_rel_hook = set_rel_pathlist_hook;
	set_rel_pathlist_hook = add_searches;
	next_join_hook = set_join_pathlist_hook;
	set_join_pathlist_hook = add_joins;
}
