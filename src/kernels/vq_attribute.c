/*-------------------------------------------------------------------------
 *
 * vq_attribute.c
 *	  Conditions on the attributes that a block keeps with its entries.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_attribute.h"

#include <string.h>

/* Values that are compared one after the other; of more the right one is looked for by halves */
#define FEW_VALUES	8

/* Slots whose values are from low to high.  Few are where few pass: then eight are looked at together. */
static uint32_t
within32(const uint8_t *values, size_t capacity, int32_t low, int32_t high)
{
	uint32_t	pass = 0;

	for (size_t i = 0; i < capacity; i += VQ_CAPACITY_STEP)
	{
		int32_t		step[VQ_CAPACITY_STEP];
		uint32_t	any = 0;

		memcpy(step, values + i * sizeof(int32_t), sizeof(step));
		for (size_t j = 0; j < VQ_CAPACITY_STEP; j++)
			any |= (step[j] >= low) & (step[j] <= high);
		for (size_t j = 0; any != 0 && j < VQ_CAPACITY_STEP; j++)
			pass |= (uint32_t) ((step[j] >= low) & (step[j] <= high)) << (i + j);
	}
	return pass;
}

static uint32_t
within64(const uint8_t *values, size_t capacity, int64_t low, int64_t high)
{
	uint32_t	pass = 0;

	for (size_t i = 0; i < capacity; i++)
	{
		int64_t		value;

		memcpy(&value, values + i * sizeof(value), sizeof(value));
		pass |= (uint32_t) ((value >= low) & (value <= high)) << i;
	}
	return pass;
}

/* Slots whose values are from low to high */
static uint32_t
within(const void *block, const VqBlockShape *shape, size_t attribute, int64_t low, int64_t high)
{
	size_t		capacity = ((const VqBlockHeader *) block)->capacity;
	const uint8_t *values = vq_block_attributes(block, shape, attribute);

	if (shape->attribute_bytes[attribute] == sizeof(int64_t))
		return within64(values, capacity, low, high);
	if (high < INT32_MIN || low > INT32_MAX)
		return 0;
	low = low < INT32_MIN ? INT32_MIN : low;
	high = high > INT32_MAX ? INT32_MAX : high;
	return within32(values, capacity, (int32_t) low, (int32_t) high);
}

static bool
is_among(const VqCondition *condition, int64_t value)
{
	size_t		first = 0;
	size_t		end = condition->nvalues;

	while (first < end)
	{
		size_t		middle = first + (end - first) / 2;

		if (condition->values[middle] < value)
			first = middle + 1;
		else
			end = middle;
	}
	return first < condition->nvalues && condition->values[first] == value;
}

/* Those of the slots in pass whose values have all bits of one of the condition's */
static uint32_t
containing(const void *block, const VqBlockShape *shape, const VqCondition *condition, uint32_t pass)
{
	uint32_t	found = 0;

	for (uint32_t left = pass; left != 0; left &= left - 1)
	{
		size_t		slot = (size_t) __builtin_ctz(left);
		int64_t		value = vq_block_attribute(block, shape, slot, condition->attribute);
		bool		contains = false;

		for (size_t i = 0; i < condition->nvalues && !contains; i++)
			contains = (condition->values[i] & ~value) == 0;
		found |= (uint32_t) contains << slot;
	}
	return found;
}

/* Those of the slots in pass whose values are among the condition's */
static uint32_t
among(const void *block, const VqBlockShape *shape, const VqCondition *condition, uint32_t pass)
{
	uint32_t	found = 0;

	if (condition->nvalues <= FEW_VALUES)
	{
		for (size_t i = 0; i < condition->nvalues; i++)
			found |= within(block, shape, condition->attribute, condition->values[i], condition->values[i]);
		return found & pass;
	}
	for (uint32_t left = pass; left != 0; left &= left - 1)
	{
		size_t		slot = (size_t) __builtin_ctz(left);

		if (is_among(condition, vq_block_attribute(block, shape, slot, condition->attribute)))
			found |= (uint32_t) 1 << slot;
	}
	return found;
}

uint32_t
vq_attributes_pass(const void *block, const VqBlockShape *shape, const VqCondition *conditions, size_t nconditions)
{
	uint32_t	pass = UINT32_MAX >> (VQ_BLOCK_LANES - ((const VqBlockHeader *) block)->capacity);

	for (size_t i = 0; i < nconditions && pass != 0; i++)
	{
		const VqCondition *condition = &conditions[i];

		pass &= within(block, shape, condition->attribute, condition->low, condition->high);
		if (condition->nvalues > 0 && condition->are_sets)
			pass = containing(block, shape, condition, pass);
		else if (condition->nvalues > 0)
			pass = among(block, shape, condition, pass);
	}
	return pass;
}
