/*-------------------------------------------------------------------------
 *
 * ivfpq_planner.h
 *	  What the files that help the planner promise each other: ivfpq_cost.c,
 *	  _order.c, _paths.c, _distance.c, _clauses.c and _filter.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_PLANNER_H
#define IVFPQ_PLANNER_H

#include "am/ivfpq.h"
#include "nodes/pathnodes.h"

/*----------
 * ivfpq_order.c
 *----------
 */

/*
 * Whether a query wants no more of its window than the ranks of the rows that its LIMIT lets
 * through, in the order of both: those are right if these rows are in order first, which they are made
 */
extern bool ivfpq_ranks_limited(const PlannerInfo *root);

/*----------
 * ivfpq_distance.c
 *----------
 */

/* Give the path of a search the query's conditions on its distance, as search keys */
extern void ivfpq_bound_search(PlannerInfo *root, IndexPath *path);

/*
 * The distance whose order is that of a sort key, which compares an index's column with nothing but what these
 * relations, its own among them, know; NULL if there is none, or if is_known_to_server and it is just the distance.
 */
extern OpExpr *ivfpq_distance_of_order(PlannerInfo *root, IndexOptInfo *info, const PathKey *key, Relids relids,
									   bool is_known_to_server);

/*----------
 * ivfpq_clauses.c
 *----------
 */

/* The conditions of a query that a search by this index can try on attributes, as IndexClause, in the order of columns */
extern List *ivfpq_attribute_clauses(PlannerInfo *root, IndexOptInfo *info);

/* Whether the server has them all in its path of the same order, if it has one */
extern bool ivfpq_server_has_clauses(const List *clauses);

/*----------
 * ivfpq_filter.c
 *----------
 */

/*
 * Of the rows that a search looks at, the share whose distances it computes: others its query's conditions discard.
 * Those on attributes are not among these: a search does not look at rows that they discard.
 */
extern Selectivity ivfpq_filter_selectivity(PlannerInfo *root, const IndexPath *path);

#endif							/* IVFPQ_PLANNER_H */
