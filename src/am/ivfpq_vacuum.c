/*-------------------------------------------------------------------------
 *
 * ivfpq_vacuum.c
 *	  ambulkdelete and amvacuumcleanup.
 *
 * The walk over the pages is ivfpq_list_vacuum's.  It visits every live entry
 * exactly once, whatever the callback says: the validation of CREATE INDEX
 * CONCURRENTLY passes a callback that only takes notes, and inserts again
 * whatever it was not shown.
 *
 * Both functions may run in a worker of a parallel VACUUM: they keep nothing
 * between calls but the statistics.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq.h"
#include "storage/bufmgr.h"

IndexBulkDeleteResult *
ivfpqbulkdelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats,
				IndexBulkDeleteCallback callback, void *state)
{
	if (stats == NULL)
		stats = palloc0(sizeof(IndexBulkDeleteResult));

	/*
	 * VACUUM calls once for every batch of dead rows that fits its memory.
	 * All passes together removed tuples_removed; the last one alone knows
	 * how many entries remain.
	 */
	stats->num_index_tuples = 0;
	stats->estimated_count = false;

	ivfpq_list_vacuum(info, ivfpq_model_get(info->index, CurrentMemoryContext),
					  stats, callback, state);
	return stats;
}

IndexBulkDeleteResult *
ivfpqvacuumcleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
	if (info->analyze_only)
		return stats;

	if (stats == NULL)
	{
		/*
		 * No row had died, so nobody walked the lists, and this is no reason
		 * to.  The table has as many rows or more: some may be NULL, zero
		 * vectors, or outside a partial index.
		 */
		stats = palloc0(sizeof(IndexBulkDeleteResult));
		stats->num_index_tuples = info->num_heap_tuples;
		stats->estimated_count = true;
	}

	stats->num_pages = RelationGetNumberOfBlocks(info->index);
	return stats;
}
