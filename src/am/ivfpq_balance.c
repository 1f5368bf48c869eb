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
#include "miscadmin.h"

/* Of the average length: a list below the first is given up while there is one above the second */
#define TINY		0.33
#define CROWDED		2.0

/* Nothing is done for a smaller part of the lists than this: it would not pay */
#define MIN_PART	0.01

/* How far the halves of a list start from its middle, relative to its coordinates */
#define SPLIT_STEP	(1.0f / 1024)

typedef struct ListSize
{
	uint64		count;
	uint32		list_no;
} ListSize;

static int
compare_sizes(const void *a, const void *b)
{
	const ListSize *x = a;
	const ListSize *y = b;

	if (x->count != y->count)
		return x->count < y->count ? -1 : 1;
	return (x->list_no > y->list_no) - (x->list_no < y->list_no);
}

/* Put list other beside list_no, of which it gets a half: on which side of the middle is chance */
static void
split_list(IvfpqLists *lists, uint32 list_no, uint32 other, VqRng *rng)
{
	float	   *middle = lists->centroids + list_no * lists->dim;
	float	   *half = lists->centroids + other * lists->dim;

	for (size_t d = 0; d < lists->dim; d++)
	{
		float		step = vq_rng_below(rng, 2) == 0 ? SPLIT_STEP : -SPLIT_STEP;

		half[d] = middle[d] * (1 - step);
		middle[d] *= 1 + step;
	}
}

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
	ListSize   *sizes = palloc_extended(nlists * sizeof(ListSize), MCXT_ALLOC_HUGE);
	uint32	   *groups = palloc_extended(nlists * sizeof(uint32), MCXT_ALLOC_HUGE);
	uint64		total = 0;
	uint32		nsplit = 0;
	double		average;

	for (uint32 j = 0; j < nlists; j++)
	{
		sizes[j] = (ListSize) {.count = counts[j], .list_no = j};
		total += counts[j];
	}
	average = (double) total / nlists;
	qsort(sizes, nlists, sizeof(ListSize), compare_sizes);
	for (uint32 g = 0; g < lists->ngroups; g++)
		for (uint32 j = lists->starts[g]; j < lists->starts[g + 1]; j++)
			groups[j] = g;

	while (nsplit < nlists / 2 && sizes[nsplit].count < TINY * average &&
		   sizes[nlists - 1 - nsplit].count > CROWDED * average)
		nsplit++;
	if (nsplit < nlists * MIN_PART)
		nsplit = 0;
	for (uint32 i = 0; i < nsplit; i++)
	{
		uint32		tiny = sizes[i].list_no;
		uint32		crowded = sizes[nlists - 1 - i].list_no;

		split_list(lists, crowded, tiny, rng);
		groups[tiny] = groups[crowded];
	}
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
