/*-------------------------------------------------------------------------
 *
 * vq_block.c
 *	  The bytes of a block: up to 32 entries of one inverted list.
 *
 * The layout is drawn in vq_block.h; block_offsets is its only other home.
 * The functions trust the header of the block they are given: whoever reads a
 * block from a page passes it through vq_block_validate first.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_block.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static_assert(sizeof(VqBlockHeader) == 12, "block layout is on disk");
static_assert(offsetof(VqBlockHeader, next_page) == 4, "block layout is on disk");
static_assert(offsetof(VqBlockHeader, next_offset) == 8, "block layout is on disk");
static_assert(offsetof(VqBlockHeader, capacity) == 10, "block layout is on disk");
static_assert(offsetof(VqBlockHeader, used) == 11, "block layout is on disk");

/* Byte offsets of the parts of a block; those of absent parts mean nothing */
typedef struct BlockOffsets
{
	size_t		a;
	size_t		s;
	size_t		tids;
	size_t		e;
	size_t		codes;
	size_t		chunk_tids;
	size_t		end;
} BlockOffsets;

static const uint8_t invalid_tid[VQ_TID_BYTES] = {0xFF, 0xFF, 0xFF, 0xFF, 0, 0};

static inline bool
is_coded(const VqBlockShape *shape)
{
	return shape->nbits != 0;
}

/* Bytes that the codes of one sub-quantiser take in a block */
static inline size_t
code_row_bytes(const VqBlockShape *shape, size_t capacity)
{
	return shape->nbits == 4 ? capacity / 2 : capacity;
}

/* Bytes of an entry's attributes before this one */
static inline size_t
bytes_of_attributes(const VqBlockShape *shape, size_t nattributes)
{
	size_t		nbytes = 0;

	for (size_t i = 0; i < nattributes; i++)
		nbytes += shape->attribute_bytes[i];
	return nbytes;
}

static inline BlockOffsets
block_offsets(const VqBlockShape *shape, size_t capacity)
{
	BlockOffsets offsets = {0};

	offsets.tids = sizeof(VqBlockHeader) + bytes_of_attributes(shape, shape->nattributes) * capacity;
	offsets.end = offsets.tids + capacity * VQ_TID_BYTES;
	if (is_coded(shape))
	{
		offsets.a = offsets.tids;
		offsets.s = offsets.a + capacity * sizeof(float);
		offsets.tids = offsets.s + capacity * sizeof(uint16_t);
		offsets.e = offsets.tids + capacity * VQ_TID_BYTES;
		offsets.codes = offsets.e + capacity;
		offsets.end = offsets.codes + shape->m * code_row_bytes(shape, capacity);
	}
	offsets.chunk_tids = offsets.end;
	if (shape->has_chunk_tids)
		offsets.end += capacity * VQ_TID_BYTES;
	return offsets;
}

static inline size_t
block_capacity(const void *block)
{
	return ((const VqBlockHeader *) block)->capacity;
}

static inline const uint8_t *
const_tid(const void *block, const VqBlockShape *shape, size_t slot)
{
	return (const uint8_t *) block +
		block_offsets(shape, block_capacity(block)).tids + slot * VQ_TID_BYTES;
}

size_t
vq_code_bytes(const VqBlockShape *shape)
{
	return shape->nbits == 4 ? ((size_t) shape->m + 1) / 2 : shape->m;
}

size_t
vq_block_attribute_bytes(const VqBlockShape *shape)
{
	return bytes_of_attributes(shape, shape->nattributes);
}

size_t
vq_block_bytes(const VqBlockShape *shape, size_t capacity)
{
	/* Capacities are multiples of 8, so every part is a multiple of 4 */
	return block_offsets(shape, capacity).end;
}

void
vq_block_init(void *block, const VqBlockShape *shape, uint32_t list_no, size_t capacity)
{
	VqBlockHeader *header = block;

	memset(block, 0, vq_block_bytes(shape, capacity));
	header->list_no = list_no;
	header->next_page = VQ_NO_PAGE;
	header->capacity = (uint8_t) capacity;
	for (size_t slot = 0; slot < capacity; slot++)
	{
		vq_block_clear(block, shape, slot);
		vq_block_put_chunk_tid(block, shape, slot, invalid_tid);
	}
}

uint8_t *
vq_block_tid(void *block, const VqBlockShape *shape, size_t slot)
{
	return (uint8_t *) block +
		block_offsets(shape, block_capacity(block)).tids + slot * VQ_TID_BYTES;
}

const float *
vq_block_a(const void *block, const VqBlockShape *shape)
{
	if (!is_coded(shape))
		return NULL;
	return (const float *) ((const char *) block +
							block_offsets(shape, block_capacity(block)).a);
}

const uint16_t *
vq_block_s(const void *block, const VqBlockShape *shape)
{
	if (!is_coded(shape))
		return NULL;
	return (const uint16_t *) ((const char *) block +
							   block_offsets(shape, block_capacity(block)).s);
}

const uint8_t *
vq_block_e(const void *block, const VqBlockShape *shape)
{
	if (!is_coded(shape))
		return NULL;
	return (const uint8_t *) block + block_offsets(shape, block_capacity(block)).e;
}

const uint8_t *
vq_block_codes(const void *block, const VqBlockShape *shape)
{
	if (!is_coded(shape))
		return NULL;
	return (const uint8_t *) block + block_offsets(shape, block_capacity(block)).codes;
}

bool
vq_block_is_live(const void *block, const VqBlockShape *shape, size_t slot)
{
	/* ip_posid follows the two halves of the block number */
	const uint8_t *tid = const_tid(block, shape, slot);

	return tid[4] != 0 || tid[5] != 0;
}

size_t
vq_block_free_slot(const void *block, const VqBlockShape *shape)
{
	size_t		capacity = block_capacity(block);
	size_t		slot = 0;

	while (slot < capacity && vq_block_is_live(block, shape, slot))
		slot++;
	return slot;
}

void
vq_block_put(void *block, const VqBlockShape *shape, size_t slot,
			 const uint8_t *tid, const VqFactors *factors, const uint8_t *codes)
{
	VqBlockHeader *header = block;
	size_t		capacity = header->capacity;
	BlockOffsets offsets = block_offsets(shape, capacity);
	uint8_t    *bytes = block;

	if (is_coded(shape))
	{
		size_t		row_bytes = code_row_bytes(shape, capacity);
		uint8_t    *row = bytes + offsets.codes;

		memcpy(bytes + offsets.a + slot * sizeof(float), &factors->a, sizeof(float));
		memcpy(bytes + offsets.s + slot * sizeof(uint16_t), &factors->s, sizeof(uint16_t));
		bytes[offsets.e + slot] = factors->e;

		if (shape->nbits == 8)
		{
			for (size_t j = 0; j < shape->m; j++)
				row[j * row_bytes + slot] = codes[j];
		}
		else if (slot < row_bytes)
		{
			for (size_t j = 0; j < shape->m; j++)
			{
				uint8_t    *byte = row + j * row_bytes + slot;

				*byte = (uint8_t) ((*byte & 0xF0) | (codes[j] & 0x0F));
			}
		}
		else
		{
			for (size_t j = 0; j < shape->m; j++)
			{
				uint8_t    *byte = row + j * row_bytes + (slot - row_bytes);

				*byte = (uint8_t) ((*byte & 0x0F) | (codes[j] << 4));
			}
		}
	}

	memcpy(bytes + offsets.tids + slot * VQ_TID_BYTES, tid, VQ_TID_BYTES);
	if (header->used <= slot)
		header->used = (uint8_t) (slot + 1);
}

void
vq_block_get(const void *block, const VqBlockShape *shape, size_t slot,
			 VqFactors *factors, uint8_t *codes)
{
	size_t		capacity = block_capacity(block);
	size_t		row_bytes = code_row_bytes(shape, capacity);
	const uint8_t *row = vq_block_codes(block, shape);

	factors->a = vq_block_a(block, shape)[slot];
	factors->s = vq_block_s(block, shape)[slot];
	factors->e = vq_block_e(block, shape)[slot];

	if (shape->nbits == 8)
	{
		for (size_t j = 0; j < shape->m; j++)
			codes[j] = row[j * row_bytes + slot];
	}
	else if (slot < row_bytes)
	{
		for (size_t j = 0; j < shape->m; j++)
			codes[j] = row[j * row_bytes + slot] & 0x0F;
	}
	else
	{
		for (size_t j = 0; j < shape->m; j++)
			codes[j] = row[j * row_bytes + (slot - row_bytes)] >> 4;
	}
}

const uint8_t *
vq_block_attributes(const void *block, const VqBlockShape *shape, size_t attribute)
{
	return (const uint8_t *) block + sizeof(VqBlockHeader) + bytes_of_attributes(shape, attribute) * block_capacity(block);
}

void
vq_block_put_attributes(void *block, const VqBlockShape *shape, size_t slot, const int64_t *values)
{
	for (size_t i = 0; i < shape->nattributes; i++)
	{
		size_t		nbytes = shape->attribute_bytes[i];
		uint8_t    *to = (uint8_t *) vq_block_attributes(block, shape, i) + slot * nbytes;
		int64_t		value = vq_block_fit(shape, i, values[i]);
		int32_t		narrow = (int32_t) value;

		memcpy(to, nbytes == sizeof(narrow) ? (const void *) &narrow : &value, nbytes);
	}
}

int64_t
vq_block_attribute(const void *block, const VqBlockShape *shape, size_t slot, size_t attribute)
{
	size_t		nbytes = shape->attribute_bytes[attribute];
	const uint8_t *from = vq_block_attributes(block, shape, attribute) + slot * nbytes;
	int64_t		value;
	int32_t		narrow;

	if (nbytes == sizeof(narrow))
	{
		memcpy(&narrow, from, sizeof(narrow));
		return narrow;
	}
	memcpy(&value, from, sizeof(value));
	return value;
}

void
vq_block_put_chunk_tid(void *block, const VqBlockShape *shape, size_t slot, const uint8_t *tid)
{
	if (shape->has_chunk_tids)
		memcpy((uint8_t *) vq_block_chunk_tid(block, shape, slot), tid, VQ_TID_BYTES);
}

const uint8_t *
vq_block_chunk_tid(const void *block, const VqBlockShape *shape, size_t slot)
{
	if (!shape->has_chunk_tids)
		return NULL;
	return (const uint8_t *) block + block_offsets(shape, block_capacity(block)).chunk_tids + slot * VQ_TID_BYTES;
}

void
vq_block_clear(void *block, const VqBlockShape *shape, size_t slot)
{
	memcpy(vq_block_tid(block, shape, slot), invalid_tid, VQ_TID_BYTES);
}

void
vq_block_sums(const VqKernels *kernels, const void *block, const VqBlockShape *shape,
			  const uint8_t *lut, uint32_t sums[VQ_BLOCK_LANES])
{
	const uint8_t *codes = vq_block_codes(block, shape);

	if (shape->nbits == 8)
		kernels->scan8(codes, block_capacity(block), lut, shape->m, sums);
	else
		kernels->scan4(codes, block_capacity(block), lut, shape->m, sums);
}

VqStatus
vq_block_validate(const void *block, size_t available, const VqBlockShape *shape,
				  uint32_t nlists, const char **reason)
{
	VqBlockHeader header;

	if (available < sizeof(header))
	{
		*reason = "block header does not fit";
		return VQ_BAD_FORMAT;
	}
	memcpy(&header, block, sizeof(header));

	if (header.capacity == 0 || header.capacity > VQ_BLOCK_LANES ||
		header.capacity % VQ_CAPACITY_STEP != 0)
	{
		*reason = "block capacity is not one that exists";
		return VQ_BAD_FORMAT;
	}
	if (header.used > header.capacity)
	{
		*reason = "more slots are used than the block has";
		return VQ_BAD_FORMAT;
	}
	if (available < vq_block_bytes(shape, header.capacity))
	{
		*reason = "block does not fit";
		return VQ_BAD_FORMAT;
	}
	if (header.list_no >= nlists)
	{
		*reason = "list number is out of range";
		return VQ_BAD_FORMAT;
	}
	if (header.next_page != VQ_NO_PAGE && header.next_offset % 4 != 0)
	{
		*reason = "offset of the next block is not aligned";
		return VQ_BAD_FORMAT;
	}

	/*
	 * S and E are finite whatever their bits are.  A may be minus infinity,
	 * but neither plus infinity nor NaN, which compares as false.
	 */
	if (is_coded(shape))
	{
		const char *factors = (const char *) block + block_offsets(shape, header.capacity).a;

		for (size_t i = 0; i < header.capacity; i++)
		{
			float		a;

			memcpy(&a, factors + i * sizeof(a), sizeof(a));
			if (!(a < INFINITY))
			{
				*reason = "factor A is not a number";
				return VQ_BAD_FORMAT;
			}
		}
	}
	return VQ_OK;
}
