/*-------------------------------------------------------------------------
 *
 * test_vq_spread.c
 *	  Queries read as many lists as they need: in the mean what was said, and
 *	  fewer in all where distances tell.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include "kernels/vq_rng.h"
#include "kernels/vq_spread.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NQUERIES		600
#define NNEIGHBOURS		10
#define NLISTS			5000

/* Ranks of neighbours' lists, and how far lists are from their queries */
typedef struct Fixture
{
	uint64_t   *ranks;
	float	   *distances;
	void	   *work;
	VqSpread	spread;
	uint32_t	nprobes[VQ_NRECALLS];
} Fixture;

/*
 * Neighbours are in lists of ranks whose logarithms are uniform, about 1 to 55 for a query of ratio 1.  Of a query
 * with another ratio of distances (1.1 to 2.7, the same for all ranks) they are in ratio^power times fewer.
 */
static void
fixture_open(Fixture *fixture, double power)
{
	VqRng		rng;

	vq_rng_seed(&rng, 5);
	fixture->ranks = malloc(NQUERIES * NNEIGHBOURS * sizeof(uint64_t));
	fixture->distances = malloc(NQUERIES * VQ_SPREAD_RANKS * sizeof(float));
	fixture->work = malloc(vq_spread_work_bytes(NQUERIES, NNEIGHBOURS));
	for (size_t q = 0; q < NQUERIES; q++)
	{
		double		ratio = exp(0.1 + 0.9 * vq_rng_double(&rng));

		fixture->distances[q * VQ_SPREAD_RANKS] = 3;
		for (size_t i = 1; i < VQ_SPREAD_RANKS; i++)
			fixture->distances[q * VQ_SPREAD_RANKS + i] = (float) (3 * ratio);
		for (size_t n = 0; n < NNEIGHBOURS; n++)
			fixture->ranks[q * NNEIGHBOURS + n] =
				1 + (uint64_t) (200 * exp(4 * vq_rng_double(&rng) - 4) * pow(ratio / 1.7, -power));
	}
}

static void
fixture_close(Fixture *fixture)
{
	free(fixture->ranks);
	free(fixture->distances);
	free(fixture->work);
}

static void
choose(Fixture *fixture, size_t nqueries, uint32_t nlists)
{
	vq_spread_choose(fixture->ranks, nqueries, NNEIGHBOURS, fixture->distances, nlists, fixture->work, &fixture->spread,
					 fixture->nprobes);
}

/* The share of neighbours that queries find, and the lists that they read, in the mean */
static double
found(const Fixture *fixture, uint32_t nprobe, double *lists)
{
	size_t		nfound = 0;

	*lists = 0;
	for (size_t q = 0; q < NQUERIES; q++)
	{
		uint32_t	own = vq_spread_nprobe(&fixture->spread, NLISTS, nprobe, fixture->distances[q * VQ_SPREAD_RANKS],
										   fixture->distances[q * VQ_SPREAD_RANKS + 1]);

		*lists += own / (double) NQUERIES;
		for (size_t n = 0; n < NNEIGHBOURS; n++)
			nfound += fixture->ranks[q * NNEIGHBOURS + n] <= own;
	}
	return nfound / (double) (NQUERIES * NNEIGHBOURS);
}

/* What is missed in lists that are read is allowed for, a fifth of all that is */
static void
check_recalls(const Fixture *fixture, const char *what)
{
	for (int i = 0; i < VQ_NRECALLS - 1; i++)
	{
		double		lists;
		double		share = found(fixture, fixture->nprobes[i], &lists);
		double		wanted = 1 - 0.8 * (1 - vq_recalls[i]);

		CHECK(fabs(share - wanted) < 0.01, "%s: at %g found %g, want %g", what, vq_recalls[i], share, wanted);
		CHECK(fabs(lists / fixture->nprobes[i] - 1) < 0.1, "%s: at %g %g lists are read, want %u", what, vq_recalls[i], lists,
			  fixture->nprobes[i]);
		CHECK(fixture->nprobes[i] <= fixture->nprobes[i + 1], "%s: %u lists at %g, then %u", what, fixture->nprobes[i],
			  vq_recalls[i], fixture->nprobes[i + 1]);
	}
}

static void
test_a_power_is_found_where_distances_tell(void)
{
	for (double power = 1.0; power < 5; power += 1.5)
	{
		Fixture		fixture;
		VqSpread	own;
		double		lists;
		double		lists_alike = 0;
		double		share;

		fixture_open(&fixture, power);
		choose(&fixture, NQUERIES, NLISTS);
		CHECK(fixture.spread.rank >= 4, "power %g: rank %u", power, fixture.spread.rank);
		CHECK(fabs(fixture.spread.power - power) <= 1, "power %g: found %g", power, fixture.spread.power);
		check_recalls(&fixture, "with a power");

		/* it is worth it: as many lists for all find less */
		own = fixture.spread;
		share = found(&fixture, fixture.nprobes[5], &lists);
		fixture.spread.rank = 0;
		for (uint32_t nprobe = 1; nprobe < NLISTS && found(&fixture, nprobe, &lists_alike) < share; nprobe++)
			;
		CHECK(lists < 0.97 * lists_alike, "power %g: %g lists, %g if all read as many", own.power, lists, lists_alike);
		fixture_close(&fixture);
	}
}

static void
test_all_read_as_many_where_distances_tell_nothing(void)
{
	Fixture		fixture;

	fixture_open(&fixture, 0);
	choose(&fixture, NQUERIES, NLISTS);
	CHECK(fixture.spread.rank == 0, "rank %u, power %g", fixture.spread.rank, fixture.spread.power);
	check_recalls(&fixture, "without a power");
	CHECK(vq_spread_nprobe(&fixture.spread, NLISTS, 77, 1, 9) == 77, "%u lists", vq_spread_nprobe(&fixture.spread, NLISTS, 77, 1, 9));
	fixture_close(&fixture);
}

static void
test_few_queries_find_no_power(void)
{
	Fixture		fixture;

	fixture_open(&fixture, 3);
	choose(&fixture, 99, NLISTS);
	CHECK(fixture.spread.rank == 0, "rank %u of 99 queries", fixture.spread.rank);
	choose(&fixture, 100, NLISTS);
	CHECK(fixture.spread.rank > 0, "no rank of 100 queries");

	/* those without neighbours do not count */
	for (size_t q = 90; q < NQUERIES; q++)
		memset(fixture.ranks + q * NNEIGHBOURS, 0, NNEIGHBOURS * sizeof(uint64_t));
	choose(&fixture, NQUERIES, NLISTS);
	CHECK(fixture.spread.rank == 0, "rank %u of 90 queries with neighbours", fixture.spread.rank);
	fixture_close(&fixture);
}

static void
test_no_neighbours_take_one_list(void)
{
	Fixture		fixture;

	fixture_open(&fixture, 2);
	memset(fixture.ranks, 0, NQUERIES * NNEIGHBOURS * sizeof(uint64_t));
	choose(&fixture, NQUERIES, NLISTS);
	for (int i = 0; i < VQ_NRECALLS; i++)
		CHECK(fixture.nprobes[i] == 1, "%u lists", fixture.nprobes[i]);
	choose(&fixture, 0, NLISTS);
	CHECK(fixture.nprobes[3] == 1 && fixture.spread.rank == 0, "%u lists, rank %u", fixture.nprobes[3], fixture.spread.rank);
	fixture_close(&fixture);
}

/* From .995 to .999 it takes as many times as many lists as from .95 to .99, whatever a few neighbours say */
static void
test_the_last_recall_goes_on_from_those_before(void)
{
	Fixture		fixture;

	fixture_open(&fixture, 0);
	choose(&fixture, NQUERIES, NLISTS);
	CHECK(fixture.nprobes[8] + 2.0 >= (double) fixture.nprobes[7] * fixture.nprobes[6] / fixture.nprobes[4], "%u, after %u, %u and %u",
		  fixture.nprobes[8], fixture.nprobes[7], fixture.nprobes[6], fixture.nprobes[4]);
	CHECK(fixture.nprobes[8] > fixture.nprobes[7], "%u after %u", fixture.nprobes[8], fixture.nprobes[7]);
	choose(&fixture, NQUERIES, fixture.nprobes[7]);
	CHECK(fixture.nprobes[8] == fixture.nprobes[7], "%u of %u lists", fixture.nprobes[8], fixture.nprobes[7]);
	fixture_close(&fixture);
}

static void
test_no_query_reads_four_times_the_mean_nor_less_than_a_fourth(void)
{
	VqSpread	spread = {.rank = 8, .mean = 0.5f, .power = 4};

	CHECK(vq_spread_nprobe(&spread, NLISTS, 100, 1, exp(0.5)) == 100, "%u lists in the mean",
		  vq_spread_nprobe(&spread, NLISTS, 100, 1, exp(0.5)));
	CHECK(vq_spread_nprobe(&spread, NLISTS, 100, 1, exp(0.25)) == (uint32_t) rint(100 * exp(1)), "%u lists",
		  vq_spread_nprobe(&spread, NLISTS, 100, 1, exp(0.25)));
	CHECK(vq_spread_nprobe(&spread, NLISTS, 100, 1, 1) == 400, "%u lists", vq_spread_nprobe(&spread, NLISTS, 100, 1, 1));
	CHECK(vq_spread_nprobe(&spread, NLISTS, 100, 1, 10) == 25, "%u lists", vq_spread_nprobe(&spread, NLISTS, 100, 1, 10));

	/* the centroid is the query, or all are */
	CHECK(vq_spread_nprobe(&spread, NLISTS, 100, 0, 1) == 25, "%u lists", vq_spread_nprobe(&spread, NLISTS, 100, 0, 1));
	CHECK(vq_spread_nprobe(&spread, NLISTS, 100, 0, 0) == 400, "%u lists", vq_spread_nprobe(&spread, NLISTS, 100, 0, 0));

	/* one at least, and no more than there are; all means all */
	CHECK(vq_spread_nprobe(&spread, NLISTS, 1, 1, 10) == 1, "%u lists", vq_spread_nprobe(&spread, NLISTS, 1, 1, 10));
	CHECK(vq_spread_nprobe(&spread, 250, 100, 1, 1) == 250, "%u lists", vq_spread_nprobe(&spread, 250, 100, 1, 1));
	CHECK(vq_spread_nprobe(&spread, 100, 100, 1, 10) == 100, "%u lists", vq_spread_nprobe(&spread, 100, 100, 1, 10));
}

static void
test_recalls_between_take_lists_between(void)
{
	static const uint32_t nprobes[VQ_NRECALLS] = {2, 5, 10, 20, 40, 80, 160, 320, 1000};
	uint32_t	last = 1;

	for (int i = 0; i < VQ_NRECALLS; i++)
		CHECK(vq_recall_nprobe(nprobes, vq_recalls[i]) == nprobes[i], "%g takes %u", vq_recalls[i],
			  vq_recall_nprobe(nprobes, vq_recalls[i]));
	for (double recall = 0.4; recall <= 0.9999; recall += 0.0007)
	{
		uint32_t	nprobe = vq_recall_nprobe(nprobes, recall);

		CHECK(nprobe >= last && nprobe <= 1000, "%g takes %u after %u", recall, nprobe, last);
		last = nprobe;
	}

	/* a straight line of logarithms: half as many are missed from .9 to .95, so .93 is half the way, nearly */
	CHECK(abs((int) vq_recall_nprobe(nprobes, 1 - 0.1 / sqrt(2)) - 28) <= 1, "%u lists", vq_recall_nprobe(nprobes, 1 - 0.1 / sqrt(2)));
}

static void
test_distances_of_ranks_are_measured(void)
{
	enum {n = 700};
	float		values[n];
	float		norms_sq[n];
	VqItem		items[n];
	float		distances[VQ_SPREAD_RANKS];

	/* squares of 1, 2, 3 ..., in another order */
	for (uint32_t j = 0; j < n; j++)
	{
		float		distance = (float) (j * 37 % n + 1);

		values[j] = distance * distance;
		norms_sq[j] = 1;
	}
	memset(distances, 0, sizeof(distances));
	vq_spread_measure(VQ_METRIC_L2, values, NULL, 1, n, items, distances);
	CHECK(distances[0] == 1, "the nearest: %g", distances[0]);
	for (int i = 1; i < VQ_SPREAD_RANKS - 1; i++)
		CHECK(fabs(distances[i] - (2 << i)) < 1e-3, "rank %d: %g", 2 << i, distances[i]);
	CHECK(distances[VQ_SPREAD_RANKS - 1] == 0, "rank 1,024 of 700: %g", distances[VQ_SPREAD_RANKS - 1]);

	/* of inner products it is the root of 1 - cosine that counts: of vectors of length one, from 1 down */
	for (uint32_t j = 0; j < n; j++)
		values[j] = -1 + (float) (j * 37 % n) / n;
	vq_spread_measure(VQ_METRIC_IP, values, norms_sq, 1, n, items, distances);
	CHECK(distances[0] < 1e-3, "the nearest: %g", distances[0]);
	for (int i = 1; i < VQ_SPREAD_RANKS - 1; i++)
		CHECK(fabs(distances[i] - sqrt(((2 << i) - 1) / (double) n)) < 1e-3, "rank %d: %g", 2 << i, distances[i]);
	CHECK(vq_list_distance(VQ_METRIC_IP, 5, 0, 5) == 1, "of a query of zeroes: %g", vq_list_distance(VQ_METRIC_IP, 5, 0, 5));

	/* squares that a vector 10^8 times as long leaves nothing of, whatever their last bits say */
	for (int bits = -3; bits <= 3; bits++)
		CHECK(vq_list_distance(VQ_METRIC_IP, 1e16 * (1 + bits * 1e-7), 1, 1e16) == 1, "of one of immense length: %g",
			  vq_list_distance(VQ_METRIC_IP, 1e16 * (1 + bits * 1e-7), 1, 1e16));
	CHECK(fabs(vq_list_distance(VQ_METRIC_IP, 1e6 + 1 - 2e3, 1, 1e6)) < 1e-3, "of the same direction: %g",
		  vq_list_distance(VQ_METRIC_IP, 1e6 + 1 - 2e3, 1, 1e6));
	CHECK(vq_list_distance(VQ_METRIC_COSINE, 9, 1, 1) == 3, "from its square: %g", vq_list_distance(VQ_METRIC_COSINE, 9, 1, 1));
}

void
suite_vq_spread(void)
{
	RUN_TEST(test_a_power_is_found_where_distances_tell);
	RUN_TEST(test_all_read_as_many_where_distances_tell_nothing);
	RUN_TEST(test_few_queries_find_no_power);
	RUN_TEST(test_no_neighbours_take_one_list);
	RUN_TEST(test_the_last_recall_goes_on_from_those_before);
	RUN_TEST(test_no_query_reads_four_times_the_mean_nor_less_than_a_fourth);
	RUN_TEST(test_recalls_between_take_lists_between);
	RUN_TEST(test_distances_of_ranks_are_measured);
}
