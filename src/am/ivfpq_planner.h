/*-------------------------------------------------------------------------
 *
 * ivfpq_planner.h
 *	  What the files that help the planner promise each other: ivfpq_cost.c,
 *	  _first.c, _order.c, _paths.c, _distance.c, _clauses.c and _filter.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_PLANNER_H
#define IVFPQ_PLANNER_H

#include "am/ivfpq.h"
#include "nodes/pathnodes.h"

/*----------
 * ivfpq_first.c
 *----------
 */

/*
 * How many rows a query's LIMIT and OFFSET look at, as an expression that may be computed
 * twice; NULL if it has no LIMIT, or there is no such expression
 */
extern Node *ivfpq_rows_of_limit(const Query *query);

/*
 * The same where a query wants no more of its window than the ranks of its first rows, in the order of both: those that its
 * LIMIT or a condition on their number lets through.  They are right if these rows are in order first, which they are made.
 */
extern Node *ivfpq_rows_ranked(const PlannerInfo *root);

/* Is there a LIMIT, which may turn out to be NULL later, or one of ranks? */
extern bool ivfpq_is_limited(const PlannerInfo *root);

/*
 * Whether a query wants its first rows alone: for a LIMIT of its own or of one that reads it in its order, or for a cursor.
 * Others want all rows, though it be to see if there is one, and a search leaves out those without a vector.
 */
extern bool ivfpq_wants_first(const PlannerInfo *root);

/* About how many rows an expression says, one at least; -1 if that is not known before it is computed */
extern int64 ivfpq_rows_estimated(PlannerInfo *root, Node *rows);

/*
 * Whether the first thing that a query sorts by is the rank in its only window, ascending, and the rest does not matter:
 * a window gives its rows in that order
 */
extern bool ivfpq_is_sorted_by_rank(const PlannerInfo *root);

/* Whether an expression is computed from what only its own level of the query knows */
extern bool ivfpq_is_of_one_level(Node *node);

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
