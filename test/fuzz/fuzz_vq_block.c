/*-------------------------------------------------------------------------
 *
 * fuzz_vq_block.c
 *	  Hostile bytes as a block: vq_block_validate may be given anything, and
 *	  what it accepts must be safe to read and to write.
 *
 *		clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc \
 *			test/fuzz/fuzz_vq_block.c src/kernels/vq_block.c \
 *			src/kernels/vq_cpu.c src/kernels/vq_kernels*.c -lm
 *
 * Input: four bytes that choose the shape and the alignment, then the block.
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/vq_attribute.h"
#include "kernels/vq_block.h"

#define NLISTS 256

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool condition)
{
	if (!condition)
		abort();
}

static void *
allocate(size_t nbytes)
{
	void	   *p = malloc(nbytes > 0 ? nbytes : 1);

	require(p != NULL);
	return p;
}

/* Read all there is; tables must agree with each other and with single codes */
static void
read_codes(const uint8_t *block, const VqBlockShape *shape, size_t capacity)
{
	size_t		ksub = (size_t) 1 << shape->nbits;
	uint8_t    *lut = allocate(shape->m * ksub);
	uint8_t    *codes = allocate(shape->m);
	uint32_t	want[VQ_BLOCK_LANES] = {0};
	VqBound		bound = {1.0f, -0.5f, 0.001f, 1.0f};

	for (size_t i = 0; i < shape->m * ksub; i++)
		lut[i] = (uint8_t) (i * 167 + i / 256);
	for (size_t slot = 0; slot < capacity; slot++)
	{
		VqFactors	factors;

		vq_block_get(block, shape, slot, &factors, codes);
		require(factors.a == vq_block_a(block, shape)[slot]);
		require(factors.s == vq_block_s(block, shape)[slot]);
		require(factors.e == vq_block_e(block, shape)[slot]);
		require(!isnan(factors.a) && factors.a < INFINITY);
		for (size_t j = 0; j < shape->m; j++)
		{
			require(codes[j] < ksub);
			want[slot] += lut[j * ksub + codes[j]];
		}
	}

	for (size_t t = 0; vq_kernels_all[t] != NULL; t++)
	{
		const VqKernels *kernels = vq_kernels_all[t];
		uint32_t	sums[VQ_BLOCK_LANES];
		float		low[VQ_BLOCK_LANES];

		if (!vq_kernels_supported(kernels))
			continue;
		vq_block_sums(kernels, block, shape, lut, sums);
		require(memcmp(sums, want, capacity * sizeof(uint32_t)) == 0);

		/* A bound that is NaN would break the order of candidates */
		kernels->bound(vq_block_a(block, shape), vq_block_s(block, shape), vq_block_e(block, shape),
					   sums, capacity, &bound, INFINITY, low);
		for (size_t slot = 0; slot < capacity; slot++)
			require(!isnan(low[slot]) && low[slot] < INFINITY);
	}
	free(lut);
	free(codes);
}

/* A condition that all values pass, and one of the value of a slot, which that slot passes */
static void
read_attributes(const uint8_t *block, const VqBlockShape *shape, size_t capacity)
{
	for (uint32_t i = 0; i < shape->nattributes; i++)
	{
		VqCondition all = {.attribute = i, .low = INT64_MIN, .high = INT64_MAX};

		require(vq_attributes_pass(block, shape, &all, 1) == UINT32_MAX >> (VQ_BLOCK_LANES - capacity));
		for (size_t slot = 0; slot < capacity; slot++)
		{
			int64_t		value = vq_block_attribute(block, shape, slot, i);
			VqCondition one = {.attribute = i, .low = value, .high = value};

			require(vq_attributes_pass(block, shape, &one, 1) >> slot & 1);
		}
	}
}

/* Fill a free slot and empty it again */
static void
write_slot(uint8_t *block, const VqBlockShape *shape, size_t capacity)
{
	const uint8_t tid[VQ_TID_BYTES] = {1, 2, 3, 4, 5, 6};
	VqFactors	factors = {0.5f, 6, 7};
	uint8_t    *codes = allocate(shape->m);
	uint8_t    *got = allocate(shape->m);
	size_t		slot = vq_block_free_slot(block, shape);

	for (size_t j = 0; j < shape->m; j++)
		codes[j] = (uint8_t) ((j * 7 + 3) % ((size_t) 1 << shape->nbits));
	if (slot < capacity)
	{
		require(!vq_block_is_live(block, shape, slot));
		vq_block_put(block, shape, slot, tid, &factors, codes);
		require(vq_block_is_live(block, shape, slot));
		require(((const VqBlockHeader *) block)->used > slot);
		require(memcmp(vq_block_tid(block, shape, slot), tid, VQ_TID_BYTES) == 0);
		vq_block_put_chunk_tid(block, shape, slot, tid);
		require(!shape->has_chunk_tids || memcmp(vq_block_chunk_tid(block, shape, slot), tid, VQ_TID_BYTES) == 0);
		if (shape->nbits > 0)
		{
			vq_block_get(block, shape, slot, &factors, got);
			require(factors.a == 0.5f && factors.s == 6 && factors.e == 7);
			require(memcmp(codes, got, shape->m) == 0);
		}
		vq_block_clear(block, shape, slot);
		require(vq_block_free_slot(block, shape) == slot);
	}
	free(codes);
	free(got);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	VqBlockShape shape = {0};
	size_t		offset;
	uint8_t    *bytes;
	uint8_t    *block;
	size_t		capacity;
	VqStatus	status;
	const char *reason = NULL;

	if (size < 4)
		return 0;
	if (data[0] % 3 > 0)
	{
		shape.nbits = data[0] % 3 == 1 ? 4 : 8;
		shape.m = 1 + (data[1] | (uint32_t) (data[2] & 3) << 8);
	}
	shape.nattributes = data[2] >> 4 & 3;
	for (size_t i = 0; i < shape.nattributes; i++)
		shape.attribute_bytes[i] = data[2] >> 6 & 1 ? 8 : 4;
	offset = data[3] % 4;
	shape.has_chunk_tids = data[3] >> 2 & 1;
	data += 4;
	size -= 4;

	/* Exactly as many bytes as it is told of, at any alignment */
	bytes = allocate(offset + size);
	if (size > 0)
		memcpy(bytes + offset, data, size);
	status = vq_block_validate(bytes + offset, size, &shape, NLISTS, &reason);
	free(bytes);
	if (status != VQ_OK)
	{
		require(status == VQ_BAD_FORMAT && reason != NULL);
		return 0;
	}

	/* Accepted: a page would hold it at an aligned offset */
	capacity = data[offsetof(VqBlockHeader, capacity)];
	require(vq_block_bytes(&shape, capacity) <= size);
	size = vq_block_bytes(&shape, capacity);
	block = allocate(size);
	memcpy(block, data, size);

	for (size_t slot = 0; slot < capacity; slot++)
	{
		const uint8_t *tid = vq_block_tid(block, &shape, slot);

		require(vq_block_is_live(block, &shape, slot) == (tid[4] != 0 || tid[5] != 0));
	}
	if (shape.nbits > 0)
		read_codes(block, &shape, capacity);
	else
		require(vq_block_a(block, &shape) == NULL && vq_block_codes(block, &shape) == NULL);
	read_attributes(block, &shape, capacity);
	write_slot(block, &shape, capacity);
	require(vq_block_validate(block, size, &shape, NLISTS, &reason) == VQ_OK);
	free(block);
	return 0;
}
