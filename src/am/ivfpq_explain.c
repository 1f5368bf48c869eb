/*-------------------------------------------------------------------------
 *
 * ivfpq_explain.c
 *	  What EXPLAIN ANALYZE says of a search, where the server asks (from 18 on).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relscan.h"
#include "am/ivfpq.h"
#include "commands/explain.h"
#include "nodes/execnodes.h"

#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"

static explain_per_node_hook_type next_hook;

/* Sums over all searches of the node, as those of "Index Searches" are */
static void
explain_search(PlanState *state, List *ancestors, const char *relationship, const char *plan_name, ExplainState *es)
{
	IndexScanDesc scan = IsA(state, IndexScanState) ? ((IndexScanState *) state)->iss_ScanDesc : NULL;
	IvfpqScanStats stats;

	if (next_hook)
		next_hook(state, ancestors, relationship, plan_name, es);
	if (!es->analyze || scan == NULL || scan->indexRelation->rd_indam->amgettuple != ivfpqgettuple)
		return;
	ivfpq_scan_totals(scan, &stats);
	if (!stats.valid)
		return;
	ExplainPropertyInteger("Lists Probed", NULL, stats.lists_probed, es);
	ExplainPropertyInteger("Codes Scored", NULL, stats.codes_scored, es);
	ExplainPropertyInteger("Rows Compared", NULL, stats.candidates_reranked, es);
}

void
ivfpq_init_explain(void)
{
	next_hook = explain_per_node_hook;
	explain_per_node_hook = explain_search;
}

#else

void
ivfpq_init_explain(void)
{
}

#endif
