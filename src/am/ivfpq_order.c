/*-------------------------------------------------------------------------
 *
 * ivfpq_order.c
 *	  Putting the order of a search right, where a query ends.
 *
 * Rows of a search are not quite in the order that its path promises
 * (ivfpq_scan.c).  So what a LIMIT has let through, mostly a few rows, is sorted.
 * Without a LIMIT, who asked for the order has to live with it (needs_true_order in
 * ivfpq_cost.c says who does), but not a query around this one that groups, joins,
 * numbers or sorts by the distance: the promise is taken back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq.h"
#include "nodes/pathnodes.h"
#include "optimizer/cost.h"
#include "optimizer/pathnode.h"
#include "optimizer/planner.h"

static create_upper_paths_hook_type next_hook;

static bool is_search_order(const Path *path);

static bool
is_any_search_order(const List *paths)
{
	ListCell   *cell;

	foreach(cell, paths)
		if (is_search_order(lfirst(cell)))
			return true;
	return false;
}

/* Whether the order of a path's rows is that of a search, through what keeps it */
static bool
is_search_order(const Path *path)
{
	if (path == NULL || path->pathkeys == NIL)
		return false;
	switch (nodeTag(path))
	{
		case T_IndexPath:
			return ((const IndexPath *) path)->indexorderbys != NIL &&
				((const IndexPath *) path)->indexinfo->amcostestimate == ivfpqcostestimate;
		case T_AppendPath:
			return is_any_search_order(((const AppendPath *) path)->subpaths);
		case T_MergeAppendPath:
			return is_any_search_order(((const MergeAppendPath *) path)->subpaths);
		case T_NestPath:
			return is_search_order(((const JoinPath *) path)->outerjoinpath);
		case T_SubqueryScanPath:
			return is_search_order(((const SubqueryScanPath *) path)->subpath);
		case T_ProjectionPath:
			return is_search_order(((const ProjectionPath *) path)->subpath);
		case T_ProjectSetPath:
			return is_search_order(((const ProjectSetPath *) path)->subpath);
		case T_IncrementalSortPath:
			return is_search_order(((const IncrementalSortPath *) path)->spath.subpath);
		case T_WindowAggPath:
			return is_search_order(((const WindowAggPath *) path)->subpath);
		case T_GatherMergePath:
			return is_search_order(((const GatherMergePath *) path)->subpath);
		case T_LimitPath:
			return is_search_order(((const LimitPath *) path)->subpath);
		default:
			return false;
	}
}

/*
 * The rows of a path in order.  There is no other way to that, so enable_sort does not
 * matter: its penalty would make a cheap query one that is worth compiling.
 */
static Path *
sorted(PlannerInfo *root, RelOptInfo *rel, Path *path)
{
	Path	   *sort = (Path *) create_sort_path(root, rel, path, root->sort_pathkeys, -1.0);

#if PG_VERSION_NUM >= 180000
	sort->disabled_nodes = path->disabled_nodes;
#else
	if (!enable_sort)
	{
		sort->startup_cost -= disable_cost;
		sort->total_cost -= disable_cost;
	}
#endif
	return sort;
}

/*
 * The rows of a path with nothing said of their order.  It goes on saying it itself:
 * plans of MergeAppend and the like are made from that.
 */
static Path *
unpromised(PlannerInfo *root, RelOptInfo *rel, Path *path)
{
	Path	   *result = (Path *) create_projection_path(root, rel, path, path->pathtarget);

	result->pathkeys = NIL;
	return result;
}

static void
mend_order(PlannerInfo *root, UpperRelationKind stage, RelOptInfo *input_rel, RelOptInfo *output_rel, void *extra)
{
	ListCell   *cell;

	if (next_hook)
		next_hook(root, stage, input_rel, output_rel, extra);
	if (stage != UPPERREL_FINAL)
		return;
	foreach(cell, output_rel->pathlist)
	{
		Path	   *path = lfirst(cell);

		if (!is_search_order(path))
			continue;
		if (IsA(path, LimitPath) && ((LimitPath *) path)->limitCount != NULL && root->sort_pathkeys != NIL)
			lfirst(cell) = sorted(root, output_rel, path);
		else if (root->parent_root != NULL)
			lfirst(cell) = unpromised(root, output_rel, path);
	}
}

void
ivfpq_init_planner(void)
{
	next_hook = create_upper_paths_hook;
	create_upper_paths_hook = mend_order;
}
