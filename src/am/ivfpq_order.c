/*-------------------------------------------------------------------------
 *
 * ivfpq_order.c
 *	  Putting the order of a search right, where a query ends.
 *
 * Rows of a search are not quite in the order that its path promises
 * (ivfpq_scan.c).  So what a LIMIT has let through, mostly a few rows, is sorted,
 * and before it is ranked, where a query wants the ranks of its nearest rows, by whose
 * distance or rank it is sorted.
 * Without a LIMIT, who asked for the order has to live with it (needs_true_order in
 * ivfpq_cost.c says who does), but not a query around this one that groups, joins,
 * numbers or sorts by the distance: the promise is taken back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq_planner.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planner.h"

static create_upper_paths_hook_type next_hook;

static bool
is_search(const Path *path)
{
	return IsA(path, IndexPath) && ((const IndexPath *) path)->indexorderbys != NIL &&
		((const IndexPath *) path)->indexinfo->amcostestimate == ivfpqcostestimate;
}

/* The inputs of a path from which it takes the order of its rows */
static List *
ordered_inputs(const Path *path)
{
	switch (nodeTag(path))
	{
		case T_AppendPath:
			return ((const AppendPath *) path)->subpaths;
		case T_MergeAppendPath:
			return ((const MergeAppendPath *) path)->subpaths;
		case T_NestPath:
			{
				const JoinPath *join = (const JoinPath *) path;

				/* of a join with one row it is that of the search for this row (ivfpq_paths.c) */
				return is_search(join->innerjoinpath) ? list_make2(join->outerjoinpath, join->innerjoinpath) :
					list_make1(join->outerjoinpath);
			}
		case T_SubqueryScanPath:
			return list_make1(((const SubqueryScanPath *) path)->subpath);
		case T_ProjectionPath:
			return list_make1(((const ProjectionPath *) path)->subpath);
		case T_ProjectSetPath:
			return list_make1(((const ProjectSetPath *) path)->subpath);
		case T_IncrementalSortPath:
			return list_make1(((const IncrementalSortPath *) path)->spath.subpath);
		case T_WindowAggPath:
			return list_make1(((const WindowAggPath *) path)->subpath);
		case T_GatherMergePath:
			return list_make1(((const GatherMergePath *) path)->subpath);
		case T_LockRowsPath:
			return list_make1(((const LockRowsPath *) path)->subpath);
		case T_LimitPath:
			return list_make1(((const LimitPath *) path)->subpath);
		default:
			return NIL;
	}
}

/* Whether the order of a path's rows is that of a search, through what keeps it */
static bool
is_search_order(const Path *path)
{
	ListCell   *cell;

	if (path == NULL || path->pathkeys == NIL)
		return false;
	if (is_search(path))
		return true;
	foreach(cell, ordered_inputs(path))
		if (is_search_order(lfirst(cell)))
			return true;
	return false;
}

/* End the searches below a path where no row passes the query's conditions on the distance any more */
static void
bound_searches(PlannerInfo *root, Path *path)
{
	ListCell   *cell;

	if (is_search(path))
		ivfpq_bound_search(root, (IndexPath *) path);

	/* a window looks at rows that no LIMIT above it asks for */
	if (IsA(path, WindowAggPath) && ivfpq_rows_ranked(root) == NULL)
		return;
	if (IsA(path, SubqueryScanPath))
		root = path->parent->subroot;
	foreach(cell, ordered_inputs(path))
		bound_searches(root, lfirst(cell));
}

/*
 * The rows of a path in order.  There is no other way to that, so enable_sort does not
 * matter: its penalty would make a cheap query one that is worth compiling.
 */
static Path *
sorted(PlannerInfo *root, RelOptInfo *rel, Path *path, List *pathkeys)
{
	Path	   *sort = (Path *) create_sort_path(root, rel, path, pathkeys, -1.0);

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
unpromised(PlannerInfo *root, Path *path)
{
	Path	   *result = (Path *) create_projection_path(root, path->parent, path, path->pathtarget);

	result->pathkeys = NIL;
	return result;
}

/* Whether rows are locked on the way to a LIMIT */
static bool
are_locked(const Path *path)
{
	ListCell   *cell;

	if (IsA(path, LockRowsPath))
		return true;
	foreach(cell, ordered_inputs(path))
		if (are_locked(lfirst(cell)))
			return true;
	return false;
}

/*
 * A path that gives other columns of its rows, computed from what it reads; NULL if what it
 * reads has been computed from volatile functions
 */
static Path *
with_target(PlannerInfo *root, Path *path, PathTarget *target)
{
	Path	   *result = NULL;

	switch (nodeTag(path))
	{
		case T_ProjectionPath:
			return with_target(root, ((ProjectionPath *) path)->subpath, target);
		case T_IndexPath:
			result = (Path *) makeNode(IndexPath);
			*(IndexPath *) result = *(IndexPath *) path;
			break;
		case T_NestPath:
			result = (Path *) makeNode(NestPath);
			*(NestPath *) result = *(NestPath *) path;
			break;
		case T_LimitPath:
			{
				/* the OFFSET of a query without a LIMIT, which has been put above what was postponed until after a sort */
				Path	   *input = with_target(root, ((LimitPath *) path)->subpath, target);

				if (input == NULL)
					return NULL;
				result = (Path *) makeNode(LimitPath);
				*(LimitPath *) result = *(LimitPath *) path;
				((LimitPath *) result)->subpath = input;
				break;
			}
		default:
			if (contain_volatile_functions((Node *) path->pathtarget->exprs))
				return NULL;
			return (Path *) create_projection_path(root, path->parent, path, target);
	}
	result->pathtarget = target;
	return result;
}

/*
 * The first rows of a search, of which a query that builds on it wants no more, in order.
 * What the server computes after a sort is computed after this one (make_sort_input_target
 * in planner.c: volatile functions, and what is dear).  NULL if that cannot be.
 */
static Path *
first_sorted(PlannerInfo *root, Path *search, Node *rows, int64 estimate, List *pathkeys)
{
	PathTarget *target = search->pathtarget;
	PathTarget *before = root->upper_targets[UPPERREL_WINDOW];
	bool		is_postponed = target == root->upper_targets[UPPERREL_FINAL] && before != NULL && before != target;
	Path	   *path = is_postponed ? with_target(root, search, before) : search;

	if (path == NULL)
		return NULL;
	path = (Path *) create_limit_path(root, path->parent, path, NULL, rows, LIMIT_OPTION_COUNT, 0, estimate);
	path = sorted(root, path->parent, path, pathkeys);
	return is_postponed ? (Path *) create_projection_path(root, path->parent, path, target) : path;
}

/* The node below projections */
static Path *
below_projections(Path *path)
{
	while (IsA(path, ProjectionPath))
		path = ((ProjectionPath *) path)->subpath;
	return path;
}

/* A copy of a path from a LIMIT down to the window or subquery below it, which gets another input */
static Path *
with_input(const Path *path, Path *input)
{
	Path	   *result;

#define COPY_WITH_INPUT(Type, new_subpath) \
	do { \
		Type	   *copy = makeNode(Type); \
\
		*copy = *(const Type *) path; \
		copy->subpath = (new_subpath); \
		input = copy->subpath; \
		result = (Path *) copy; \
	} while (0)

	switch (nodeTag(path))
	{
		case T_LimitPath:
			COPY_WITH_INPUT(LimitPath, with_input(copy->subpath, input));
			break;
		case T_ProjectionPath:
			COPY_WITH_INPUT(ProjectionPath, with_input(copy->subpath, input));
			break;
		case T_WindowAggPath:
			COPY_WITH_INPUT(WindowAggPath, input);
			break;
		default:
			COPY_WITH_INPUT(SubqueryScanPath, input);
			break;
	}
#undef COPY_WITH_INPUT
	result->rows = Min(result->rows, input->rows);
	result->startup_cost = input->startup_cost;
	result->total_cost = input->total_cost + input->rows * cpu_tuple_cost;
	return result;
}

/*
 * Of a query that wants the first ranks of a search, from a window or the LIMIT above it: rank its first rows, in their
 * order, instead of all as they come; NULL if it is none
 */
static Path *
mended_ranks(PlannerInfo *root, Path *ranks)
{
	Path	   *path = below_projections(IsA(ranks, LimitPath) ? ((LimitPath *) ranks)->subpath : ranks);
	Node	   *rows;
	Path	   *first;

	if (!IsA(path, WindowAggPath) || !is_search_order(path))
		return NULL;
	rows = ivfpq_rows_ranked(root);
	if (rows == NULL)
		return NULL;
	first = first_sorted(root, ((WindowAggPath *) path)->subpath, rows, ivfpq_rows_estimated(root, rows), root->window_pathkeys);
	return first ? with_input(ranks, first) : NULL;
}

/*
 * Of a query whose LIMIT is around a subquery that has the ORDER BY: the first rows of that,
 * in their order; NULL if it is none
 */
static Path *
mended_subquery(PlannerInfo *root, LimitPath *limit, int64 estimate)
{
	Path	   *path = below_projections(limit->subpath);
	Node	   *rows = ivfpq_rows_of_limit(root->parse);
	Path	   *search;
	Path	   *first;
	PlannerInfo *subroot;

	/* not what this query computes and that one could not */
	if (!IsA(path, SubqueryScanPath) || path->parent->baserestrictinfo != NIL || rows == NULL ||
		ivfpq_is_of_one_level(rows))
		return NULL;

	/* its order was taken back when it was planned */
	subroot = path->parent->subroot;
	search = ((SubqueryScanPath *) path)->subpath;
	if (!IsA(search, ProjectionPath) || search->pathkeys != NIL || subroot->sort_pathkeys == NIL ||
		subroot->parse->hasTargetSRFs || !is_search_order(((ProjectionPath *) search)->subpath))
		return NULL;
	first = first_sorted(subroot, search, rows, estimate, subroot->sort_pathkeys);
	return first ? with_input(&limit->path, first) : NULL;
}

/* Of a query that has the ORDER BY and the LIMIT: the first rows in their order; NULL if it is none */
static Path *
mended_search(PlannerInfo *root, RelOptInfo *rel, LimitPath *limit, int64 estimate)
{
	Node	   *rows = ivfpq_rows_of_limit(root->parse);
	Path	   *first = NULL;
	LimitPath  *copy;

	/* rows that a function has made of one row would not stay in their order */
	if (root->parse->hasTargetSRFs || !is_search_order(limit->subpath))
		return NULL;
	if (rows != NULL && contain_volatile_functions((Node *) root->processed_tlist))
		first = first_sorted(root, limit->subpath, rows, estimate, root->sort_pathkeys);
	if (first == NULL)
		return sorted(root, rel, &limit->path, root->sort_pathkeys);
	copy = makeNode(LimitPath);
	*copy = *limit;
	copy->subpath = first;
	copy->path.startup_cost = first->startup_cost;
	copy->path.total_cost = first->total_cost;
	return &copy->path;
}

/*
 * The rows that a LIMIT lets through, in order; NULL if they are not those of a search.
 * Not where rows are locked: who updates the row that a cursor is at (WHERE CURRENT OF) would
 * meet the one that was locked last, as a sort has read all.
 */
static Path *
mended_limit(PlannerInfo *root, RelOptInfo *rel, LimitPath *limit, const FinalPathExtraData *extra)
{
	int64		estimate = extra->count_est > 0 ? extra->count_est + Max(extra->offset_est, 0) : 0;
	Path	   *result;

	if (are_locked(&limit->path))
		return NULL;
	result = mended_ranks(root, &limit->path);
	if (result == NULL)
		result = root->sort_pathkeys != NIL ? mended_search(root, rel, limit, estimate) :
			mended_subquery(root, limit, estimate);
	return result;
}

/* Rows that are ranked in the order of a search, as rows in the order of their ranks, where a query wants the first of these */
static void
add_ranked(PlannerInfo *root, const RelOptInfo *input_rel, RelOptInfo *output_rel)
{
	ListCell   *cell;

	if (!ivfpq_is_sorted_by_rank(root) || ivfpq_rows_ranked(root) == NULL)
		return;
	foreach(cell, input_rel->pathlist)
	{
		Path	   *path = lfirst(cell);

		if (!IsA(below_projections(path), WindowAggPath) || !is_search_order(path))
			continue;
		path = (Path *) create_projection_path(root, output_rel, path, root->upper_targets[UPPERREL_ORDERED]);
		path->pathkeys = root->sort_pathkeys;
		add_path(output_rel, path);
	}
}

static void
mend_order(PlannerInfo *root, UpperRelationKind stage, RelOptInfo *input_rel, RelOptInfo *output_rel, void *extra)
{
	ListCell   *cell;

	if (next_hook)
		next_hook(root, stage, input_rel, output_rel, extra);
	if (stage == UPPERREL_ORDERED)
		add_ranked(root, input_rel, output_rel);
	if (stage != UPPERREL_FINAL)
		return;
	foreach(cell, output_rel->pathlist)
	{
		Path	   *path = lfirst(cell);
		Path	   *mended = NULL;

		if (IsA(path, LimitPath) && ((LimitPath *) path)->limitCount != NULL)
		{
			bound_searches(root, path);
			mended = mended_limit(root, output_rel, (LimitPath *) path, extra);
		}
		else if (root->parse->hasWindowFuncs)
		{
			bound_searches(root, path);
			mended = mended_ranks(root, path);
		}
		if (mended == NULL && root->parent_root != NULL && is_search_order(path))
			mended = unpromised(root, path);
		if (mended)
			lfirst(cell) = mended;
	}
}

void
ivfpq_init_order(void)
{
	next_hook = create_upper_paths_hook;
	create_upper_paths_hook = mend_order;
}
