/*-------------------------------------------------------------------------
 *
 * test_vq_rng.c
 *	  What the generator draws is part of the disk format.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include "kernels/vq_rng.h"

#include <inttypes.h>

static void
test_rng_draws_the_published_splitmix64_sequence(void)
{
	static const struct
	{
		uint64_t	seed;
		uint64_t	draws[3];
	}			cases[] = {
		{0, {UINT64_C(0xE220A8397B1DCDAF), UINT64_C(0x6E789E6AA1B965F4), UINT64_C(0x06C45D188009454F)}},
		{1234567, {UINT64_C(6457827717110365317), UINT64_C(3203168211198807973), UINT64_C(9817491932198370423)}},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		VqRng		rng;

		vq_rng_seed(&rng, cases[i].seed);
		for (size_t draw = 0; draw < 3; draw++)
		{
			uint64_t	got = vq_rng_next(&rng);

			CHECK(got == cases[i].draws[draw],
				  "seed %" PRIu64 " draw %zu: got %" PRIu64 ", want %" PRIu64,
				  cases[i].seed, draw, got, cases[i].draws[draw]);
		}
	}
}

/* floor(draw * n / 2^64) of the sequence above, worked out with big integers */
static void
test_rng_below_takes_the_high_half_of_the_product(void)
{
	static const struct
	{
		uint64_t	n;
		uint64_t	want;		/* from the first draw of seed 0 */
	}			cases[] = {
		{1, 0},
		{2, 1},
		{10, 8},
		{1000, 883},
		{UINT64_C(1000000007), UINT64_C(883310814)},
		{UINT64_C(0xFFFFFFFFFFFFFFFF), UINT64_C(0xE220A8397B1DCDAE)},
		{UINT64_C(0x123456789ABCDEF1), UINT64_C(0x101486D7B6D5BEED)},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		VqRng		rng;
		uint64_t	got;

		vq_rng_seed(&rng, 0);
		got = vq_rng_below(&rng, cases[i].n);
		CHECK(got == cases[i].want, "below %" PRIu64 ": got %" PRIu64 ", want %" PRIu64,
			  cases[i].n, got, cases[i].want);
	}
}

static void
test_rng_below_reaches_every_value_evenly(void)
{
	size_t		counts[10] = {0};
	VqRng		rng;

	vq_rng_seed(&rng, 1);
	for (size_t i = 0; i < 100000; i++)
	{
		uint64_t	value = vq_rng_below(&rng, 10);

		CHECK(value < 10, "got %" PRIu64, value);
		counts[value < 10 ? value : 0]++;
	}

	/* The standard error of each count is 95 */
	for (size_t value = 0; value < 10; value++)
		CHECK(counts[value] > 9500 && counts[value] < 10500, "%zu of value %zu", counts[value], value);
}

static void
test_rng_double_is_uniform_below_one(void)
{
	double		sum = 0;
	double		square_sum = 0;
	VqRng		rng;

	vq_rng_seed(&rng, 2);
	for (size_t i = 0; i < 100000; i++)
	{
		double		value = vq_rng_double(&rng);

		CHECK(value >= 0 && value < 1, "got %.17g", value);
		sum += value;
		square_sum += value * value;
	}
	CHECK(sum > 49500 && sum < 50500, "sum %g, want about 50000", sum);
	CHECK(square_sum > 32900 && square_sum < 33800, "sum of squares %g, want about 33333", square_sum);
}

static void
test_rng_double_draws_the_same_everywhere(void)
{
	VqRng		rng;
	double		got;

	vq_rng_seed(&rng, 0);
	got = vq_rng_double(&rng);
	CHECK(got == (double) (UINT64_C(0xE220A8397B1DCDAF) >> 11) / 9007199254740992.0, "got %.17g", got);
}

void
suite_vq_rng(void)
{
	RUN_TEST(test_rng_draws_the_published_splitmix64_sequence);
	RUN_TEST(test_rng_below_takes_the_high_half_of_the_product);
	RUN_TEST(test_rng_below_reaches_every_value_evenly);
	RUN_TEST(test_rng_double_is_uniform_below_one);
	RUN_TEST(test_rng_double_draws_the_same_everywhere);
}
