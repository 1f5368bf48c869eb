/*-------------------------------------------------------------------------
 *
 * ivfpq_balance.c
 *	  Lists of more equal length: tiny ones are given up, crowded ones split.
 *
 * A search reads whole lists, and comes to the crowded ones more often.  A list
 * of a few outlying rows serves next to no query; its rows do as well in a list
 * nearby, and its place halves a crowded list.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq_train.h"

void
ivfpq_balance_sort(IvfpqLists *lists, const uint32 *groups, float *work)
{
	size_t		dim = lists->dim;
	uint32		place = 0;

	memcpy(work, lists->centroids, lists->nlists * dim * sizeof(float));
	for (uint32 g = 0; g < lists->ngroups; g++)
	{
		lists->starts[g] = place;
		for (uint32 j = 0; j < lists->nlists; j++)
			if (groups[j] == g)
				memcpy(lists->centroids + place++ * dim, work + j * dim, dim * sizeof(float));
	}
	lists->starts[lists->ngroups] = place;
}

size_t
ivfpq_balance_lists(IvfpqLists *lists, const uint64 *counts, float *work, VqRng *rng)
{
	uint32		nlists = lists->nlists;
	VqKmeansSize *sizes = palloc_extended(nlists * sizeof(VqKmeansSize), MCXT_ALLOC_HUGE);
	uint32	   *groups = palloc_extended(nlists * sizeof(uint32), MCXT_ALLOC_HUGE);
	size_t		nsplit;

	for (uint32 j = 0; j < nlists; j++)
	{
		sizes[j].count = counts[j];
		sizes[j].centroid = j;
	}
	qsort(sizes, nlists, sizeof(VqKmeansSize), vq_kmeans_compare_sizes);
	for (uint32 g = 0; g < lists->ngroups; g++)
		for (uint32 j = lists->starts[g]; j < lists->starts[g + 1]; j++)
			groups[j] = g;

	nsplit = vq_kmeans_balance(sizes, nlists, lists->dim, rng, lists->centroids);
	for (size_t i = 0; i < nsplit; i++)
		groups[sizes[i].centroid] = groups[sizes[nlists - 1 - i].centroid];
	if (nsplit > 0 && lists->ngroups > 0)
		ivfpq_balance_sort(lists, groups, work);
	pfree(sizes);
	pfree(groups);
	return nsplit;
}

void
ivfpq_balance_groups(const uint64 *sizes, size_t ngroups, uint64 nrows, uint32 nlists, uint32 *allotted)
{
	uint32		total = 0;

	for (size_t g = 0; g < ngroups; g++)
	{
		allotted[g] = sizes[g] == 0 ? 0 : Max(1, (uint32) ((double) nlists * sizes[g] / nrows));
		total += allotted[g];
	}
	while (total != nlists)
	{
		size_t		chosen = 0;
		double		most = -1.0;

		/* to the group with most rows per list, or from the one with fewest that can spare one */
		for (size_t g = 0; g < ngroups; g++)
		{
			double		size = sizes[g];
			double		merit = total < nlists ? size / (allotted[g] + 1) :
				allotted[g] > 1 ? (double) allotted[g] / size : -1.0;

			if (merit > most)
			{
				most = merit;
				chosen = g;
			}
		}
		if (total < nlists)
		{
			allotted[chosen]++;
			total++;
		}
		else
		{
			allotted[chosen]--;
			total--;
		}
	}
}
