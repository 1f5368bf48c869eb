/*-------------------------------------------------------------------------
 *
 * test_vq_attribute.c
 *	  Conditions on attributes let pass the slots that they should, by comparing
 *	  each value by itself.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/vq_attribute.h"
#include "kernels/vq_rng.h"

#define MAX_VALUES	40

static const VqBlockShape shape = {.nattributes = 3, .attribute_bytes = {4, 8, 4}};

static const int64_t limits[] = {INT64_MIN, INT64_MIN + 1, INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX - 1,
INT32_MAX, (int64_t) INT32_MAX + 1, INT64_MAX - 1, INT64_MAX};

#define NLIMITS	(sizeof(limits) / sizeof(limits[0]))

/* A few small numbers, so that many are equal, and now and then a limit */
static int64_t
random_value(VqRng *rng)
{
	if (vq_rng_below(rng, 8) == 0)
		return limits[vq_rng_below(rng, NLIMITS)];
	return (int64_t) vq_rng_below(rng, 60) - 30;
}

static void *
random_block(VqRng *rng, size_t capacity)
{
	void	   *block = malloc(vq_block_bytes(&shape, capacity));

	if (block == NULL)
		abort();
	vq_block_init(block, &shape, 0, capacity);
	for (size_t slot = 0; slot < capacity; slot++)
	{
		int64_t		values[] = {random_value(rng), random_value(rng), random_value(rng)};

		vq_block_put_attributes(block, &shape, slot, values);
	}
	return block;
}

static int
compare(const void *a, const void *b)
{
	int64_t		left = *(const int64_t *) a;
	int64_t		right = *(const int64_t *) b;

	return (left > right) - (left < right);
}

static void
random_condition(VqRng *rng, VqCondition *condition, int64_t values[MAX_VALUES])
{
	condition->attribute = (uint32_t) vq_rng_below(rng, shape.nattributes);
	condition->low = random_value(rng);
	condition->high = random_value(rng);
	condition->nvalues = 0;
	condition->values = NULL;
	condition->are_sets = false;
	if (vq_rng_below(rng, 2) == 0)
		return;
	condition->nvalues = 1 + vq_rng_below(rng, MAX_VALUES);
	for (size_t i = 0; i < condition->nvalues; i++)
		values[i] = random_value(rng);
	qsort(values, condition->nvalues, sizeof(int64_t), compare);
	condition->values = values;
	condition->are_sets = vq_rng_below(rng, 3) == 0;
	if (condition->are_sets)
		return;
	condition->low = values[0];
	condition->high = values[condition->nvalues - 1];
}

static bool
passes(const VqCondition *condition, int64_t value)
{
	if (value < condition->low || value > condition->high)
		return false;
	for (size_t i = 0; i < condition->nvalues; i++)
		if (condition->are_sets ? (condition->values[i] & value) == condition->values[i] : condition->values[i] == value)
			return true;
	return condition->nvalues == 0;
}

static void
test_slots_pass_that_pass_all_conditions(void)
{
	VqRng		rng;
	size_t		npassed = 0;

	vq_rng_seed(&rng, 2);
	for (size_t turn = 0; turn < 20000; turn++)
	{
		size_t		capacity = VQ_CAPACITY_STEP * (1 + vq_rng_below(&rng, VQ_BLOCK_LANES / VQ_CAPACITY_STEP));
		void	   *block = random_block(&rng, capacity);
		VqCondition conditions[2];
		int64_t		values[2][MAX_VALUES];
		size_t		nconditions = vq_rng_below(&rng, 3);
		uint32_t	got;

		for (size_t i = 0; i < nconditions; i++)
			random_condition(&rng, &conditions[i], values[i]);
		got = vq_attributes_pass(block, &shape, conditions, nconditions);
		for (size_t slot = 0; slot < VQ_BLOCK_LANES; slot++)
		{
			bool		want = slot < capacity;

			for (size_t i = 0; i < nconditions && want; i++)
				want = passes(&conditions[i], vq_block_attribute(block, &shape, slot, conditions[i].attribute));
			npassed += want;
			CHECK((got >> slot & 1) == want, "turn %zu slot %zu of %zu: got %u, want %d", turn, slot, capacity,
				  got >> slot & 1, want);
		}
		free(block);
	}
	CHECK(npassed > 20000, "only %zu passed", npassed);
}

static void
test_numbers_that_do_not_fit_are_cut_and_null_is_kept_apart(void)
{
	const int64_t wanted[][3] = {
		/* number, kept in 4 bytes, kept in 8 */
		{INT64_MIN, INT32_MIN + 1, INT64_MIN + 1},
		{INT32_MIN, INT32_MIN + 1, INT32_MIN},
		{INT32_MIN + 1, INT32_MIN + 1, INT32_MIN + 1},
		{0, 0, 0},
		{INT32_MAX, INT32_MAX, INT32_MAX},
		{(int64_t) INT32_MAX + 1, INT32_MAX, (int64_t) INT32_MAX + 1},
		{INT64_MAX, INT32_MAX, INT64_MAX},
	};

	CHECK(vq_attribute_null(&shape, 0) == INT32_MIN, "got %lld", (long long) vq_attribute_null(&shape, 0));
	CHECK(vq_attribute_null(&shape, 1) == INT64_MIN, "got %lld", (long long) vq_attribute_null(&shape, 1));
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		for (size_t attribute = 0; attribute < 2; attribute++)
		{
			int64_t		got = vq_attribute_fit(&shape, attribute, wanted[i][0]);

			CHECK(got == wanted[i][1 + attribute], "%lld in attribute %zu: got %lld", (long long) wanted[i][0],
				  attribute, (long long) got);
		}
}

void
suite_vq_attribute(void)
{
	RUN_TEST(test_slots_pass_that_pass_all_conditions);
	RUN_TEST(test_numbers_that_do_not_fit_are_cut_and_null_is_kept_apart);
}
