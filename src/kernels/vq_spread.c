/*-------------------------------------------------------------------------
 *
 * vq_spread.c
 *	  How many lists one query should read, where many are to read so many in the mean.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_spread.h"

#include <math.h>
#include <string.h>

const double vq_recalls[VQ_NRECALLS] = {0.5, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999};

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

/* Those of vq_recalls by which powers are judged: .9 to .99 */
#define FIRST_JUDGE			3
#define LAST_JUDGE			6

/* Of the sum of the squared lengths of two vectors, what their product is less than if the angle is not known */
#define UNKNOWN_ANGLE		1e-6

#define LAST				(VQ_NRECALLS - 1)

_Static_assert(LAST_JUDGE < VQ_NRECALLS, "powers are judged by what is measured");

double
vq_list_distance(VqMetric metric, double distance_sq, double query_norm_sq, double centroid_norm_sq)
{
	double		norms;

	if (metric != VQ_METRIC_IP)
		return sqrt(distance_sq);

	/*
	 * Of inner products it is the angle that says how near: that of the lists in the order of these.  Squares of float32 do not
	 * tell it where one vector is very much longer than the other.
	 */
	norms = sqrt(query_norm_sq * centroid_norm_sq);
	if (!(norms > UNKNOWN_ANGLE * (query_norm_sq + centroid_norm_sq)))
		return 1.0;
	return sqrt(fmax(0.0, 1.0 - (query_norm_sq + centroid_norm_sq - distance_sq) / (2 * norms)));
}

static double
log_ratio(double nearest, double other)
{
	if (!(other > 0))
		return 0.0;
	return nearest > 0 ? fmin(log(other / nearest), LARGEST_LOG_RATIO) : LARGEST_LOG_RATIO;
}

static double
times_mean(double ratio, double mean, double power)
{
	return fmax(1.0 / VQ_SPREAD_MOST_TIMES, fmin(exp(-power * (ratio - mean)), VQ_SPREAD_MOST_TIMES));
}

uint32_t
vq_spread_nprobe(const VqSpread *spread, uint32_t nlists, uint32_t nprobe, double nearest, double other)
{
	double		lists;

	/* all means all */
	if (spread->rank == 0 || nprobe >= nlists)
		return nprobe;
	lists = rint(nprobe * times_mean(log_ratio(nearest, other), spread->mean, spread->power));
	return (uint32_t) fmax(1.0, fmin(lists, nlists));
}

/* Lists and the share of rows that they miss are powers of each other, more or less: straight lines of logarithms */
uint32_t
vq_recall_nprobe(const uint32_t *nprobes, double recall)
{
	int			i = 0;
	double		way;
	double		below;
	double		above;

	while (i < VQ_NRECALLS - 2 && recall > vq_recalls[i + 1])
		i++;
	below = nprobes[i];
	above = nprobes[i + 1];
	way = log((1.0 - vq_recalls[i]) / (1.0 - recall)) / log((1.0 - vq_recalls[i]) / (1.0 - vq_recalls[i + 1]));
	return (uint32_t) rint(below * pow(above / below, fmax(0.0, fmin(way, 1.0))));
}

/*----------
 * What a build finds out
 *----------
 */

void
vq_spread_measure(VqMetric metric, const float *values, const float *norms_sq, double query_norm_sq,
					 uint32_t nlists, VqItem *items, float *distances)
{
	VqSelect	select;
	uint32_t		rank = 1;

	for (uint32_t j = 0; j < nlists; j++)
		items[j] = (VqItem) {.key = values[j], .id_high = j};
	vq_select_init(&select, items, nlists);
	for (int i = 0; i < VQ_SPREAD_RANKS; i++)
	{
		const VqItem *item = rank <= nlists ? vq_select_ahead(&select, rank - 1) : NULL;

		if (item == NULL)
			return;
		distances[i] = vq_list_distance(metric, metric == VQ_METRIC_IP ?
										   query_norm_sq + norms_sq[item->id_high] + 2 * item->key : item->key,
										   query_norm_sq, norms_sq ? norms_sq[item->id_high] : 0);
		rank = i == 0 ? LEAST_RANK : rank * 2;
	}
}

/* Ranks of neighbours, and how their queries' distances grow */
typedef struct Spreads
{
	const uint64_t *ranks;		/* [nqueries][nneighbours], 0 where there is none */
	const double *ratios;		/* [nqueries], logarithms */
	size_t		nqueries;
	size_t		nneighbours;
	VqItem	   *needed;			/* [nqueries * nneighbours], work space */
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

/* Lists in the mean, for each of vq_recalls */
static void
find_nprobes(const Spreads *spreads, double mean, double power, double *nprobes)
{
	size_t		count = 0;
	VqSelect	select;

	for (size_t q = 0; q < spreads->nqueries; q++)
	{
		const uint64_t *ranks = spreads->ranks + q * spreads->nneighbours;
		double		times = times_mean(spreads->ratios[q], mean, power);

		for (size_t i = 0; i < spreads->nneighbours; i++)
			if (ranks[i] > 0)
				spreads->needed[count++] = (VqItem) {.key = (float) (ranks[i] / times)};
	}
	vq_select_init(&select, spreads->needed, count);
	for (int i = 0; i < VQ_NRECALLS; i++)
	{
		double		share = 1.0 - (1.0 - vq_recalls[i]) * (1.0 - MISSED_IN_LISTS);

		size_t		place = (size_t) (count * share);

		nprobes[i] = count == 0 ? 1 : vq_select_ahead(&select, place < count ? place : count - 1)->key;
	}

	/*
	 * The last one hangs on two or three neighbours.  Lists and the share that they miss are powers of each other, more or
	 * less, so from .995 to .999 it takes at least as many times as many as from .95 to .99.
	 */
	nprobes[LAST] = fmax(nprobes[LAST], nprobes[LAST - 1] * nprobes[LAST - 2] / nprobes[LAST - 4]);
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
place_of_rank(double limit, uint32_t *rank)
{
	int			place = 1;

	*rank = LEAST_RANK;
	while (place + 1 < VQ_SPREAD_RANKS && *rank * 2 <= limit)
	{
		*rank *= 2;
		place++;
	}
	return place;
}

size_t
vq_spread_work_bytes(size_t nqueries, size_t nneighbours)
{
	return nqueries * (sizeof(double) + nneighbours * sizeof(VqItem));
}

void
vq_spread_choose(const uint64_t *ranks, size_t nqueries, size_t nneighbours, const float *distances,
				 uint32_t nlists, void *work, VqSpread *spread, uint32_t *nprobes)
{
	double	   *ratios = work;
	Spreads		spreads = {
		.ranks = ranks, .ratios = ratios, .nqueries = nqueries, .nneighbours = nneighbours,
		.needed = (VqItem *) (ratios + nqueries)
	};
	size_t		nasked = 0;
	double		chosen[VQ_NRECALLS];
	double		least;
	uint32_t		rank;
	int			place;

	memset(ratios, 0, nqueries * sizeof(double));
	find_nprobes(&spreads, 0.0, 0.0, chosen);
	least = lists_read(chosen) + log(1.0 - LEAST_GAIN);
	place = place_of_rank(chosen[LAST_JUDGE - 1] * PART_OF_NPROBE, &rank);
	for (size_t q = 0; q < nqueries; q++)
	{
		ratios[q] = log_ratio(distances[q * VQ_SPREAD_RANKS], distances[q * VQ_SPREAD_RANKS + place]);
		nasked += has_neighbours(&spreads, q);
	}
	memset(spread, 0, sizeof(VqSpread));
	for (double power = POWER_STEP; power <= LARGEST_POWER && nasked >= LEAST_QUERIES && rank <= nlists / 2; power += POWER_STEP)
	{
		double		mean = find_mean(&spreads, power);
		double		found[VQ_NRECALLS];

		find_nprobes(&spreads, mean, power, found);
		if (lists_read(found) < least)
		{
			least = lists_read(found);
			*spread = (VqSpread) {.rank = rank, .mean = mean, .power = power};
			memcpy(chosen, found, sizeof(chosen));
		}
	}
	for (int i = 0; i < VQ_NRECALLS; i++)
		nprobes[i] = (uint32_t) fmin(fmax(rint(chosen[i]), 1), nlists);
}
