/*-------------------------------------------------------------------------
 *
 * ivfpq_spread.c
 *	  How many lists one query should read, where many are to read so many in the mean.
 *
 * Some queries have one list near them and the others far off, others are between
 * many that are about as far away, and have their neighbours in more of them.  How the
 * distances of its lists grow tells before anything is scored (Li, Zhang, Andersen
 * & He, "Improving approximate nearest neighbor search through learned adaptive early
 * termination", SIGMOD 2020, have it among what their trees learn from).  One ratio is
 * enough: of the distance of the list of some rank and that of the nearest.  A query reads
 *
 *		nprobe * exp(-power * (log(ratio) - mean))
 *
 * lists, and the build finds the power with which its queries read the fewest for the same recall.
 * On SIFT, word vectors and a million synthetic rows that is a fifth to a third fewer codes scored, at
 * .9 to .995, and half as many queries are far below the recall of all (bench/README.md).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_train.h"

/* A query reads at most so many times as many lists as the mean, and at least one in as many */
#define MOST_TIMES			4.0

/* No ratio of distances is taken to be more: that to a list whose centroid is the query would be */
#define LARGEST_LOG_RATIO	5.0

/* Powers tried, in steps; the data sets above have 2 to 5 */
#define LARGEST_POWER		8.0
#define POWER_STEP			0.5

/* It is to save so much of the lists, and so many queries are to have neighbours: else it may be chance */
#define LEAST_GAIN			0.02
#define LEAST_QUERIES		100

/* Ranks are powers of 2 from 4 on, the last one that is at most this part of the lists that .975 takes */
#define LEAST_RANK			4
#define PART_OF_NPROBE		0.75

/*
 * Of the rows that a search may miss, so large a part may be in lists that it reads: bounds of codes fail for some, and
 * codes of centroids for some lists (.003 and .001 of a million at .95).  With a tenth, four of six data sets had
 * .970 to .974 where .975 was wanted.
 */
#define MISSED_IN_LISTS		0.2

/* Those of ivfpq_recalls by which powers are judged: .9 to .99 */
#define FIRST_JUDGE			3
#define LAST_JUDGE			6

#define LAST				(IVFPQ_NRECALLS - 1)

StaticAssertDecl(LAST_JUDGE < IVFPQ_NRECALLS, "powers are judged by what is measured");

double
ivfpq_list_distance(VqMetric metric, double distance_sq, double query_norm_sq, double centroid_norm_sq)
{
	double		norms;

	if (metric != VQ_METRIC_IP)
		return sqrt(distance_sq);

	/* of inner products it is the angle that says how near: that of the lists in the order of these */
	norms = sqrt(query_norm_sq * centroid_norm_sq);
	if (!(norms > 0))
		return 1.0;
	return sqrt(Max(0.0, 1.0 - (query_norm_sq + centroid_norm_sq - distance_sq) / (2 * norms)));
}

static double
log_ratio(double nearest, double other)
{
	if (!(other > 0))
		return 0.0;
	return nearest > 0 ? Min(log(other / nearest), LARGEST_LOG_RATIO) : LARGEST_LOG_RATIO;
}

static double
times_mean(double ratio, double mean, double power)
{
	return Max(1.0 / MOST_TIMES, Min(exp(-power * (ratio - mean)), MOST_TIMES));
}

uint32
ivfpq_spread_nprobe(const IvfpqSpread *spread, uint32 nlists, uint32 nprobe, double nearest, double other)
{
	double		lists;

	/* all means all */
	if (spread->rank == 0 || nprobe >= nlists)
		return nprobe;
	lists = rint(nprobe * times_mean(log_ratio(nearest, other), spread->mean, spread->power));
	return (uint32) Max(1.0, Min(lists, nlists));
}

/*----------
 * What a build finds out
 *----------
 */

void
ivfpq_spread_measure(VqMetric metric, const float *values, const float *norms_sq, double query_norm_sq,
					 uint32 nlists, VqItem *items, float *distances)
{
	VqSelect	select;
	uint32		rank = 1;

	for (uint32 j = 0; j < nlists; j++)
		items[j] = (VqItem) {.key = values[j], .id_high = j};
	vq_select_init(&select, items, nlists);
	for (int i = 0; i < IVFPQ_SPREAD_RANKS; i++)
	{
		const VqItem *item = rank <= nlists ? vq_select_ahead(&select, rank - 1) : NULL;

		if (item == NULL)
			return;
		distances[i] = ivfpq_list_distance(metric, metric == VQ_METRIC_IP ?
										   query_norm_sq + norms_sq[item->id_high] + 2 * item->key : item->key,
										   query_norm_sq, norms_sq ? norms_sq[item->id_high] : 0);
		rank = i == 0 ? LEAST_RANK : rank * 2;
	}
}

static int
compare_double(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/* Ranks of neighbours, and how their queries' distances grow */
typedef struct Spreads
{
	const uint64 *ranks;		/* [nqueries][nneighbours], 0 where there is none */
	const double *ratios;		/* [nqueries], logarithms */
	size_t		nqueries;
	size_t		nneighbours;
	double	   *needed;			/* [nqueries * nneighbours], work space */
} Spreads;

static bool
has_neighbours(const Spreads *spreads, size_t query)
{
	return spreads->ranks[query * spreads->nneighbours] > 0;
}

/* The mean with which queries read as many lists as the mean of all: the smaller, the fewer they read */
static double
find_mean(const Spreads *spreads, double power)
{
	double		mean = 0.0;

	for (int i = 0; i < 30 && power > 0; i++)
	{
		double		sum = 0.0;
		size_t		count = 0;

		for (size_t q = 0; q < spreads->nqueries; q++)
		{
			if (!has_neighbours(spreads, q))
				continue;
			sum += times_mean(spreads->ratios[q], mean, power);
			count++;
		}
		mean -= log(sum / count) / power;
	}
	return mean;
}

/* Lists in the mean, for each of ivfpq_recalls */
static void
find_nprobes(const Spreads *spreads, double mean, double power, double *nprobes)
{
	size_t		count = 0;

	for (size_t q = 0; q < spreads->nqueries; q++)
	{
		const uint64 *ranks = spreads->ranks + q * spreads->nneighbours;
		double		times = times_mean(spreads->ratios[q], mean, power);

		for (size_t i = 0; i < spreads->nneighbours; i++)
			if (ranks[i] > 0)
				spreads->needed[count++] = ranks[i] / times;
	}
	qsort(spreads->needed, count, sizeof(double), compare_double);
	for (int i = 0; i < IVFPQ_NRECALLS; i++)
	{
		double		share = 1.0 - (1.0 - ivfpq_recalls[i]) * (1.0 - MISSED_IN_LISTS);

		nprobes[i] = count == 0 ? 1 : spreads->needed[Min(count - 1, (size_t) (count * share))];
	}

	/*
	 * The last one hangs on two or three neighbours.  Lists and the share that they miss are powers of each other, more or
	 * less, so from .995 to .999 it takes at least as many times as many as from .95 to .99.
	 */
	nprobes[LAST] = Max(nprobes[LAST], nprobes[LAST - 1] * nprobes[LAST - 2] / nprobes[LAST - 4]);
}

static double
lists_read(const double *nprobes)
{
	double		sum = 0.0;

	for (int i = FIRST_JUDGE; i <= LAST_JUDGE; i++)
		sum += log(nprobes[i]) / (LAST_JUDGE - FIRST_JUDGE + 1);
	return sum;
}

/* The largest rank of which distances were measured, below that limit; its place among them */
static int
place_of_rank(double limit, uint32 *rank)
{
	int			place = 1;

	*rank = LEAST_RANK;
	while (place + 1 < IVFPQ_SPREAD_RANKS && *rank * 2 <= limit)
	{
		*rank *= 2;
		place++;
	}
	return place;
}

void
ivfpq_spread_choose(const uint64 *ranks, size_t nqueries, size_t nneighbours, const float *distances,
					uint32 nlists, IvfpqSpread *spread, uint32 *nprobes)
{
	double	   *ratios = ivfpq_alloc_array(nqueries, sizeof(double));
	Spreads		spreads = {
		.ranks = ranks, .ratios = ratios, .nqueries = nqueries, .nneighbours = nneighbours,
		.needed = ivfpq_alloc_array(nqueries * nneighbours, sizeof(double))
	};
	size_t		nasked = 0;
	double		chosen[IVFPQ_NRECALLS];
	double		least;
	uint32		rank;
	int			place;

	memset(ratios, 0, nqueries * sizeof(double));
	find_nprobes(&spreads, 0.0, 0.0, chosen);
	least = lists_read(chosen) + log(1.0 - LEAST_GAIN);
	place = place_of_rank(chosen[LAST_JUDGE - 1] * PART_OF_NPROBE, &rank);
	for (size_t q = 0; q < nqueries; q++)
	{
		ratios[q] = log_ratio(distances[q * IVFPQ_SPREAD_RANKS], distances[q * IVFPQ_SPREAD_RANKS + place]);
		nasked += has_neighbours(&spreads, q);
	}
	memset(spread, 0, sizeof(IvfpqSpread));
	for (double power = POWER_STEP; power <= LARGEST_POWER && nasked >= LEAST_QUERIES && rank <= nlists / 2; power += POWER_STEP)
	{
		double		mean = find_mean(&spreads, power);
		double		found[IVFPQ_NRECALLS];

		find_nprobes(&spreads, mean, power, found);
		if (lists_read(found) < least)
		{
			least = lists_read(found);
			*spread = (IvfpqSpread) {.rank = rank, .mean = mean, .power = power};
			memcpy(chosen, found, sizeof(chosen));
		}
	}
	for (int i = 0; i < IVFPQ_NRECALLS; i++)
		nprobes[i] = (uint32) Min(Max(rint(chosen[i]), 1), nlists);
	pfree(spreads.needed);
	pfree(ratios);
}
