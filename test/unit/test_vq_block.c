/*-------------------------------------------------------------------------
 *
 * test_vq_block.c
 *	  The bytes of a block: what is put in comes out, sums are right for every
 *	  capacity, and damaged bytes are recognised.
 *
 * Blocks are allocated with exactly vq_block_bytes bytes, so the address
 * sanitizer sees an access outside of one.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/vq_block.h"
#include "kernels/vq_rng.h"

/* Odd and even m, both widths of codes, lists without codes, attributes of both widths, and chunk TIDs */
static const VqBlockShape shapes[] = {
	/* m, nbits, attributes, chunk TIDs */
	{0, 0, 0, {0}, false},
	{1, 4, 0, {0}, false},
	{2, 4, 0, {0}, false},
	{7, 4, 0, {0}, false},
	{150, 4, 0, {0}, false},
	{1, 8, 0, {0}, false},
	{3, 8, 0, {0}, false},
	{20, 8, 0, {0}, false},
	{0, 0, 1, {4}, false},
	{0, 0, 3, {4, 8, 4}, false},
	{7, 4, 1, {8}, false},
	{20, 8, 8, {4, 4, 8, 8, 4, 8, 4, 4}, false},
	{0, 0, 0, {0}, true},
	{7, 4, 0, {0}, true},
	{20, 8, 2, {4, 8}, true},
};

#define NSHAPES (sizeof(shapes) / sizeof(shapes[0]))

#define MAX_M	150
#define NLISTS	1000

/* Test of one shape and capacity */
typedef void (*ShapeTest) (VqRng *rng, const VqBlockShape *shape, size_t capacity);

static void
for_all_shapes(ShapeTest test)
{
	VqRng		rng;

	vq_rng_seed(&rng, 1);
	for (size_t i = 0; i < NSHAPES; i++)
		for (size_t capacity = 8; capacity <= VQ_BLOCK_LANES; capacity += VQ_CAPACITY_STEP)
			test(&rng, &shapes[i], capacity);
}

static void *
allocate(size_t nbytes)
{
	void	   *p = malloc(nbytes);

	if (p == NULL)
		abort();
	return p;
}

static void *
new_block(const VqBlockShape *shape, size_t capacity)
{
	size_t		nbytes = vq_block_bytes(shape, capacity);
	void	   *block = allocate(nbytes);

	memset(block, 0x5A, nbytes);
	vq_block_init(block, shape, 7, capacity);
	return block;
}

/* What a test expects in a slot */
typedef struct Entry
{
	uint8_t		tid[VQ_TID_BYTES];
	uint8_t		chunk_tid[VQ_TID_BYTES];
	VqFactors	factors;
	uint8_t		codes[MAX_M];
	int64_t		attributes[VQ_MAX_ATTRIBUTES];
} Entry;

static void
random_entry(VqRng *rng, const VqBlockShape *shape, Entry *entry)
{
	for (size_t i = 0; i < VQ_TID_BYTES; i++)
	{
		entry->tid[i] = (uint8_t) vq_rng_next(rng);
		entry->chunk_tid[i] = (uint8_t) vq_rng_next(rng);
	}
	entry->tid[4] |= 1;
	entry->factors.a = (float) vq_rng_double(rng);
	entry->factors.s = (uint16_t) vq_rng_next(rng);
	entry->factors.e = (uint8_t) vq_rng_next(rng);
	for (size_t j = 0; j < shape->m; j++)
		entry->codes[j] = (uint8_t) vq_rng_below(rng, (uint64_t) 1 << shape->nbits);
	for (size_t j = 0; j < shape->nattributes; j++)
		entry->attributes[j] = (int64_t) vq_rng_next(rng) >> (shape->attribute_bytes[j] == 4 ? 32 : 0);
}

static void
put_entry(void *block, const VqBlockShape *shape, size_t slot, const Entry *entry)
{
	if (shape->nbits == 0)
		vq_block_put(block, shape, slot, entry->tid, NULL, NULL);
	else
		vq_block_put(block, shape, slot, entry->tid, &entry->factors, entry->codes);
	vq_block_put_attributes(block, shape, slot, entry->attributes);
	vq_block_put_chunk_tid(block, shape, slot, entry->chunk_tid);
}

static void
check_code(const void *block, const VqBlockShape *shape, size_t slot, const Entry *want)
{
	VqFactors	factors;
	uint8_t    *codes;

	for (size_t j = 0; j < shape->nattributes; j++)
		CHECK(vq_block_attribute(block, shape, slot, j) == want->attributes[j], "slot %zu attribute %zu: got %lld, want %lld",
			  slot, j, (long long) vq_block_attribute(block, shape, slot, j), (long long) want->attributes[j]);
	if (shape->has_chunk_tids)
		CHECK(memcmp(vq_block_chunk_tid(block, shape, slot), want->chunk_tid, VQ_TID_BYTES) == 0, "slot %zu: chunk TID", slot);
	if (shape->nbits == 0)
		return;
	codes = allocate(shape->m);
	vq_block_get(block, shape, slot, &factors, codes);
	CHECK(factors.a == want->factors.a && factors.s == want->factors.s && factors.e == want->factors.e,
		  "m %u nbits %u slot %zu: got %g %u %u, want %g %u %u", shape->m, shape->nbits, slot,
		  factors.a, factors.s, factors.e, want->factors.a, want->factors.s, want->factors.e);
	CHECK(memcmp(codes, want->codes, shape->m) == 0,
		  "m %u nbits %u slot %zu: first code got %u, want %u", shape->m, shape->nbits, slot,
		  codes[0], want->codes[0]);
	free(codes);
}

static void
check_sizes(VqRng *rng, const VqBlockShape *shape, size_t capacity)
{
	size_t		bits_per_slot = 8 * VQ_TID_BYTES;
	size_t		want;

	(void) rng;
	if (shape->nbits > 0)
		bits_per_slot += 8 * (4 + 2 + 1) + shape->m * shape->nbits;
	for (size_t j = 0; j < shape->nattributes; j++)
		bits_per_slot += 8 * shape->attribute_bytes[j];
	if (shape->has_chunk_tids)
		bits_per_slot += 8 * VQ_TID_BYTES;
	want = 12 + capacity * bits_per_slot / 8;
	CHECK(vq_block_bytes(shape, capacity) == want, "m %u nbits %u capacity %zu: got %zu, want %zu",
		  shape->m, shape->nbits, capacity, vq_block_bytes(shape, capacity), want);
	CHECK(want % 4 == 0, "m %u nbits %u capacity %zu: %zu", shape->m, shape->nbits, capacity, want);
	CHECK(vq_code_bytes(shape) == (shape->m * shape->nbits + 7) / 8, "m %u nbits %u: got %zu",
		  shape->m, shape->nbits, vq_code_bytes(shape));
}

static void
test_sizes_are_those_of_the_layout(void)
{
	for_all_shapes(check_sizes);
}

static void
check_new_block(VqRng *rng, const VqBlockShape *shape, size_t capacity)
{
	uint8_t    *block = new_block(shape, capacity);
	const VqBlockHeader *header = (const VqBlockHeader *) block;
	const uint8_t *a = (const uint8_t *) vq_block_a(block, shape);
	const uint8_t *s = (const uint8_t *) vq_block_s(block, shape);
	size_t		first = 12 + capacity * vq_block_attribute_bytes(shape);
	size_t		end = vq_block_bytes(shape, capacity) - (shape->has_chunk_tids ? 6 * capacity : 0);

	(void) rng;
	CHECK(header->list_no == 7 && header->next_page == VQ_NO_PAGE && header->next_offset == 0 &&
		  header->capacity == capacity && header->used == 0,
		  "list_no %u next_page %u next_offset %u capacity %u used %u", header->list_no,
		  header->next_page, header->next_offset, header->capacity, header->used);
	CHECK(vq_block_free_slot(block, shape) == 0, "got %zu", vq_block_free_slot(block, shape));
	for (size_t slot = 0; slot < capacity; slot++)
	{
		CHECK(!vq_block_is_live(block, shape, slot), "slot %zu", slot);
		CHECK(memcmp(vq_block_tid(block, shape, slot), "\xFF\xFF\xFF\xFF\0\0", VQ_TID_BYTES) == 0, "slot %zu", slot);
		if (shape->has_chunk_tids)
			CHECK(vq_block_chunk_tid(block, shape, slot) == block + end + 6 * slot &&
				  memcmp(block + end + 6 * slot, "\xFF\xFF\xFF\xFF\0\0", VQ_TID_BYTES) == 0, "slot %zu: chunk TID", slot);
		else
			CHECK(vq_block_chunk_tid(block, shape, slot) == NULL, "slot %zu has a chunk TID", slot);
	}

	/* Where the arrays are, by the table in vq_block.h */
	if (shape->nattributes > 1)
		CHECK(vq_block_attributes(block, shape, 1) - vq_block_attributes(block, shape, 0) ==
			  (ptrdiff_t) capacity * shape->attribute_bytes[0], "second attribute");
	if (shape->nattributes > 0)
		CHECK(vq_block_attributes(block, shape, 0) ==
			  block + 12, "attributes");
	if (shape->nbits == 0)
	{
		CHECK(vq_block_tid(block, shape, 0) == block + first, "TIDs");
		CHECK(a == NULL && s == NULL && vq_block_e(block, shape) == NULL && vq_block_codes(block, shape) == NULL,
			  "a block without codes has arrays of them");
	}
	else
	{
		CHECK(a == block + first, "A at %td", a - block);
		CHECK(s == block + first + 4 * capacity, "S at %td", s - block);
		CHECK(vq_block_tid(block, shape, 1) == block + first + 6 * capacity + 6, "TIDs");
		CHECK(vq_block_e(block, shape) == block + first + 12 * capacity, "E at %td", vq_block_e(block, shape) - block);
		CHECK(vq_block_codes(block, shape) == block + first + 13 * capacity, "codes at %td",
			  vq_block_codes(block, shape) - block);
		for (size_t i = 12; i < end; i++)
			if (i < first + 6 * capacity || i >= first + 12 * capacity)
				CHECK(block[i] == 0, "byte %zu is %u", i, block[i]);
	}
	free(block);
}

static void
test_new_block_is_empty_and_laid_out_as_documented(void)
{
	for_all_shapes(check_new_block);
}

/* Fill in a random order, overwriting cleared slots, and look at every slot each time */
static void
check_put_and_get(VqRng *rng, const VqBlockShape *shape, size_t capacity)
{
	void	   *block = new_block(shape, capacity);
	const VqBlockHeader *header = block;
	Entry		entries[VQ_BLOCK_LANES];
	bool		is_live[VQ_BLOCK_LANES] = {false};
	bool		was_put[VQ_BLOCK_LANES] = {false};
	size_t		used = 0;

	for (size_t step = 0; step < 4 * capacity; step++)
	{
		size_t		slot = vq_rng_below(rng, capacity);
		size_t		first_free = 0;

		if (is_live[slot])
		{
			vq_block_clear(block, shape, slot);
			is_live[slot] = false;
		}
		else
		{
			random_entry(rng, shape, &entries[slot]);
			put_entry(block, shape, slot, &entries[slot]);
			is_live[slot] = was_put[slot] = true;
			if (slot >= used)
				used = slot + 1;
		}

		CHECK(header->used == used, "got %u, want %zu", header->used, used);
		for (size_t i = 0; i < capacity; i++)
		{
			CHECK(vq_block_is_live(block, shape, i) == is_live[i], "slot %zu, want %d", i, is_live[i]);
			if (is_live[i])
				CHECK(memcmp(vq_block_tid(block, shape, i), entries[i].tid, VQ_TID_BYTES) == 0, "slot %zu", i);
			if (was_put[i])
				check_code(block, shape, i, &entries[i]);
		}
		while (first_free < capacity && is_live[first_free])
			first_free++;
		CHECK(vq_block_free_slot(block, shape) == first_free, "got %zu, want %zu",
			  vq_block_free_slot(block, shape), first_free);
	}
	free(block);
}

static void
test_what_is_put_comes_out_and_neighbours_stay(void)
{
	for_all_shapes(check_put_and_get);
}

static void
check_full_block(VqRng *rng, const VqBlockShape *shape, size_t capacity)
{
	void	   *block = new_block(shape, capacity);
	Entry		entry;

	for (size_t slot = 0; slot < capacity; slot++)
	{
		CHECK(vq_block_free_slot(block, shape) == slot, "got %zu, want %zu", vq_block_free_slot(block, shape), slot);
		random_entry(rng, shape, &entry);
		put_entry(block, shape, slot, &entry);
	}
	CHECK(vq_block_free_slot(block, shape) == capacity, "got %zu", vq_block_free_slot(block, shape));
	free(block);
}

static void
test_full_block_has_no_free_slot(void)
{
	for_all_shapes(check_full_block);
}

static void
check_liveness(VqRng *rng, const VqBlockShape *shape, size_t capacity)
{
	void	   *block = new_block(shape, capacity);
	uint8_t    *tid = vq_block_tid(block, shape, capacity - 1);

	(void) rng;
	memcpy(tid, "\0\0\0\0\0\1", VQ_TID_BYTES);
	CHECK(vq_block_is_live(block, shape, capacity - 1), "high byte of the offset number alone");
	memcpy(tid, "\0\0\0\0\1\0", VQ_TID_BYTES);
	CHECK(vq_block_is_live(block, shape, capacity - 1), "low byte of the offset number alone");
	memcpy(tid, "\1\1\1\1\0\0", VQ_TID_BYTES);
	CHECK(!vq_block_is_live(block, shape, capacity - 1), "offset number 0");
	free(block);
}

static void
test_slot_is_live_when_its_offset_number_is_not_zero(void)
{
	for_all_shapes(check_liveness);
}

static void
check_sums(VqRng *rng, const VqBlockShape *shape, size_t capacity)
{
	size_t		ksub = (size_t) 1 << shape->nbits;
	size_t		lut_bytes = shape->m * ksub;
	void	   *block;
	uint8_t    *lut;
	uint32_t	want[VQ_BLOCK_LANES] = {0};

	if (shape->nbits == 0)
		return;
	block = new_block(shape, capacity);
	lut = allocate(lut_bytes);
	for (size_t i = 0; i < lut_bytes; i++)
		lut[i] = (uint8_t) vq_rng_next(rng);

	/* One slot stays empty: its code is zero */
	for (size_t slot = 0; slot < capacity; slot++)
	{
		Entry		entry = {0};

		if (slot != 3)
		{
			random_entry(rng, shape, &entry);
			put_entry(block, shape, slot, &entry);
		}
		for (size_t j = 0; j < shape->m; j++)
			want[slot] += lut[j * ksub + entry.codes[j]];
	}

	for (size_t t = 0; vq_kernels_all[t] != NULL; t++)
	{
		const VqKernels *kernels = vq_kernels_all[t];
		uint32_t	sums[VQ_BLOCK_LANES];

		if (!vq_kernels_supported(kernels))
			continue;
		vq_block_sums(kernels, block, shape, lut, sums);
		for (size_t slot = 0; slot < capacity; slot++)
			CHECK(sums[slot] == want[slot], "%s m %u nbits %u capacity %zu slot %zu: got %u, want %u",
				  kernels->name, shape->m, shape->nbits, capacity, slot, sums[slot], want[slot]);
	}
	free(block);
	free(lut);
}

static void
test_sums_are_exact_for_every_capacity(void)
{
	for_all_shapes(check_sums);
}

static void
expect_bad(const void *block, size_t available, const VqBlockShape *shape, const char *what)
{
	const char *reason = NULL;
	VqStatus	status = vq_block_validate(block, available, shape, NLISTS, &reason);

	CHECK(status == VQ_BAD_FORMAT && reason != NULL, "m %u nbits %u, %s: got %d",
		  shape->m, shape->nbits, what, status);
}

static void
expect_good(const void *block, size_t available, const VqBlockShape *shape, const char *what)
{
	const char *reason = "none";
	VqStatus	status = vq_block_validate(block, available, shape, NLISTS, &reason);

	CHECK(status == VQ_OK, "m %u nbits %u, %s: got %d, %s", shape->m, shape->nbits, what, status, reason);
}

static void
check_validate(VqRng *rng, const VqBlockShape *shape, size_t capacity)
{
	size_t		nbytes = vq_block_bytes(shape, capacity);
	uint8_t    *block = new_block(shape, capacity);
	uint8_t    *moved = allocate(nbytes + 1);
	VqBlockHeader *header = (VqBlockHeader *) block;
	VqBlockHeader good;
	Entry		entry;

	expect_good(block, nbytes, shape, "new");
	for (size_t slot = 0; slot < capacity; slot++)
	{
		random_entry(rng, shape, &entry);
		put_entry(block, shape, slot, &entry);
	}
	expect_good(block, nbytes, shape, "full");
	expect_good(block, nbytes + 8, shape, "with room behind");

	memcpy(moved + 1, block, nbytes);
	expect_good(moved + 1, nbytes, shape, "not aligned");

	/* Truncated, in a buffer that ends there */
	for (size_t available = 0; available < nbytes; available += available < 16 ? 1 : 37)
	{
		uint8_t    *truncated = allocate(available > 0 ? available : 1);

		memcpy(truncated, block, available);
		expect_bad(truncated, available, shape, "truncated");
		free(truncated);
	}
	expect_bad(block, nbytes - 1, shape, "one byte short");

	good = *header;
	header->used = (uint8_t) (capacity + 1);
	expect_bad(block, nbytes, shape, "used above capacity");
	*header = good;
	header->list_no = NLISTS;
	expect_bad(block, nbytes, shape, "list number");
	header->list_no = NLISTS - 1;
	expect_good(block, nbytes, shape, "last list");
	*header = good;
	for (size_t wrong = 0; wrong < 256; wrong++)
	{
		/* Smaller capacities are right only if used fits, and A may then lie elsewhere */
		if (wrong == 8 || wrong == 16 || wrong == 24 || wrong == 32)
			continue;
		header->capacity = (uint8_t) wrong;
		expect_bad(block, nbytes, shape, "capacity");
	}
	*header = good;
	for (uint16_t next_offset = 24; next_offset < 32; next_offset++)
	{
		header->next_page = 5;
		header->next_offset = next_offset;
		if (next_offset % 4 == 0)
			expect_good(block, nbytes, shape, "next offset");
		else
			expect_bad(block, nbytes, shape, "next offset");
	}
	*header = good;

	if (shape->nbits > 0)
	{
		static const float bad_factors[] = {NAN, -NAN, INFINITY};

		for (size_t slot = 0; slot < capacity; slot++)
		{
			uint8_t    *a = block + 12 + capacity * vq_block_attribute_bytes(shape) + slot * sizeof(float);
			float		minus_infinity = -INFINITY;

			for (size_t i = 0; i < sizeof(bad_factors) / sizeof(bad_factors[0]); i++)
			{
				memcpy(a, &bad_factors[i], sizeof(float));
				expect_bad(block, nbytes, shape, "factor A");
			}
			memcpy(a, &minus_infinity, sizeof(float));
			expect_good(block, nbytes, shape, "minus infinity");
		}
	}
	free(block);
	free(moved);
}

static void
test_validate_accepts_blocks_and_rejects_damaged_ones(void)
{
	for_all_shapes(check_validate);
}

void
suite_vq_block(void)
{
	RUN_TEST(test_sizes_are_those_of_the_layout);
	RUN_TEST(test_new_block_is_empty_and_laid_out_as_documented);
	RUN_TEST(test_what_is_put_comes_out_and_neighbours_stay);
	RUN_TEST(test_full_block_has_no_free_slot);
	RUN_TEST(test_slot_is_live_when_its_offset_number_is_not_zero);
	RUN_TEST(test_sums_are_exact_for_every_capacity);
	RUN_TEST(test_validate_accepts_blocks_and_rejects_damaged_ones);
}
