/*-------------------------------------------------------------------------
 *
 * vq_attribute.h
 *	  Conditions on the attributes that a block keeps with its entries.
 *
 * An attribute is a number that stands for the value of a column: itself, a
 * hash of it, or a set of bits, some for each of its elements.  The least number that
 * fits stands for NULL and for nothing else.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_ATTRIBUTE_H
#define VQ_ATTRIBUTE_H

#include "kernels/vq_block.h"

/* NULL, and the least number of all others */
static inline int64_t
vq_attribute_null(const VqBlockShape *shape, size_t attribute)
{
	return vq_block_fit(shape, attribute, INT64_MIN);
}

/* What a block keeps of a value that is not NULL */
static inline int64_t
vq_attribute_fit(const VqBlockShape *shape, size_t attribute, int64_t value)
{
	int64_t		null = vq_attribute_null(shape, attribute);

	value = vq_block_fit(shape, attribute, value);
	return value == null ? null + 1 : value;
}

/*
 * low <= attribute <= high, and if there are values, it is one of these, or if they are sets it has all bits
 * of one of these; nothing passes if low is above high
 */
typedef struct VqCondition
{
	uint32_t	attribute;
	int64_t		low;
	int64_t		high;
	size_t		nvalues;		/* 0 if any will do */
	const int64_t *values;		/* ascending, from low to high, unless they are sets */
	bool		are_sets;
} VqCondition;

/*
 * Bit i is set if the attributes of slot i pass all conditions; whether there is an entry in it,
 * or ever was, is not asked.  Bits from the block's capacity on are 0.
 */
extern uint32_t vq_attributes_pass(const void *block, const VqBlockShape *shape,
								   const VqCondition *conditions, size_t nconditions);

#endif							/* VQ_ATTRIBUTE_H */
