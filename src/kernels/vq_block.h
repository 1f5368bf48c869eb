/*-------------------------------------------------------------------------
 *
 * vq_block.h
 *	  The bytes of a block: up to 32 entries of one inverted list.
 *
 * A block is the unit in which a list grows.  Blocks of different lists share
 * a page, so that ten thousand short lists do not cost ten thousand half-empty
 * pages.  A block never moves and never changes its capacity; entries of it
 * are only ever written into slots whose TID is invalid, and taken out by
 * making the TID invalid.
 *
 *		OFFSET			 SIZE	 FIELD
 *		0				 12		 VqBlockHeader
 *		12				 ...	 values of each attribute, int32_t[C] or int64_t[C]
 *		F				 4 C	 A, float[C]			(coded lists only)
 *		F + 4 C			 2 C	 S, uint16_t[C]			(coded lists only)
 *		F + 6 C			 6 C	 TIDs, C times 6 bytes	(F when not coded)
 *		F + 12 C		 C		 E, uint8_t[C]			(coded lists only)
 *		F + 13 C		 ...	 codes					(coded lists only)
 *		...				 6 C	 chunk TIDs, C times 6 bytes	(where the shape has them)
 *
 * F is 12 and C times the bytes of an entry's attributes, which come first so that a search that needs
 * nothing else of most blocks reads what is together.  C is the capacity: 8, 16, 24 or 32.  Codes are transposed.  With nbits = 8,
 * row j has C bytes, byte i the code of slot i.  With nbits = 4, row j has
 * C / 2 bytes, byte i the code of slot i (low nibble) and of slot i + C / 2
 * (high nibble).  The scan kernels read them in place.  A chunk TID says where the vector of a row is,
 * which is stored out of line; it comes last, as a search wants it of few entries.
 * Numbers are in the byte order of the machine, as in all of PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_BLOCK_H
#define VQ_BLOCK_H

#include "kernels/vq_kernels.h"

#define VQ_TID_BYTES	6		/* an ItemPointerData */
#define VQ_NO_PAGE		UINT32_MAX	/* next_page of a list's last block */

typedef struct VqBlockHeader
{
	uint32_t	list_no;
	uint32_t	next_page;		/* page of the list's next block */
	uint16_t	next_offset;	/* and its byte offset in that page */
	uint8_t		capacity;
	uint8_t		used;			/* slots at or above this were never used */
} VqBlockHeader;

#define VQ_MAX_ATTRIBUTES	8

/* What all blocks of an index have in common */
typedef struct VqBlockShape
{
	uint32_t	m;				/* sub-quantisers, 0 if not coded */
	uint32_t	nbits;			/* 4, 8, or 0 if not coded */
	uint32_t	nattributes;	/* numbers kept with each entry, for the conditions of searches */
	uint8_t		attribute_bytes[VQ_MAX_ATTRIBUTES]; /* of each, 4 or 8 */
	bool		has_chunk_tids;
} VqBlockShape;

/* The three numbers kept beside a code, as stored */
typedef struct VqFactors
{
	float		a;
	uint16_t	s;
	uint8_t		e;
} VqFactors;

/* Bytes of one code when not transposed: m, or (m + 1) / 2 for 4 bits */
extern size_t vq_code_bytes(const VqBlockShape *shape);

/* Bytes of one entry's attributes */
extern size_t vq_block_attribute_bytes(const VqBlockShape *shape);

/* Bytes of a block of this capacity; always a multiple of 4 */
extern size_t vq_block_bytes(const VqBlockShape *shape, size_t capacity);

/* Writes header, invalid TIDs (all bytes as ip_posid 0 and block 0xFFFFFFFF), zero factors, codes and attributes */
extern void vq_block_init(void *block, const VqBlockShape *shape, uint32_t list_no, size_t capacity);

/* Pointers into a block; NULL for the arrays a block without codes lacks */
extern uint8_t *vq_block_tid(void *block, const VqBlockShape *shape, size_t slot);
extern const float *vq_block_a(const void *block, const VqBlockShape *shape);
extern const uint16_t *vq_block_s(const void *block, const VqBlockShape *shape);
extern const uint8_t *vq_block_e(const void *block, const VqBlockShape *shape);
extern const uint8_t *vq_block_codes(const void *block, const VqBlockShape *shape);

/* Whether a slot holds an entry: its TID's offset number is not 0 */
extern bool vq_block_is_live(const void *block, const VqBlockShape *shape, size_t slot);

/* First slot without an entry, or capacity if there is none */
extern size_t vq_block_free_slot(const void *block, const VqBlockShape *shape);

/*
 * Put an entry into a slot without one, and raise used over it.  codes is
 * uint8_t[m], one code each, and may be NULL (as may factors) when not coded.
 */
extern void vq_block_put(void *block, const VqBlockShape *shape, size_t slot,
						 const uint8_t *tid, const VqFactors *factors, const uint8_t *codes);

/* Read a slot's factors and codes (uint8_t[m]); coded blocks only */
extern void vq_block_get(const void *block, const VqBlockShape *shape, size_t slot,
						 VqFactors *factors, uint8_t *codes);

/*
 * Attributes of the entry in a slot.  What does not fit 4 bytes is cut to the nearest number that
 * does, by vq_block_fit.  Those of a slot that was never used are 0.
 */
extern void vq_block_put_attributes(void *block, const VqBlockShape *shape, size_t slot, const int64_t *values);
extern int64_t vq_block_attribute(const void *block, const VqBlockShape *shape, size_t slot, size_t attribute);

/* The values of an attribute, int32_t[capacity] or int64_t[capacity], aligned to 4 bytes */
extern const uint8_t *vq_block_attributes(const void *block, const VqBlockShape *shape, size_t attribute);

static inline int64_t
vq_block_fit(const VqBlockShape *shape, size_t attribute, int64_t value)
{
	if (shape->attribute_bytes[attribute] == sizeof(int64_t))
		return value;
	return value < INT32_MIN ? INT32_MIN : value > INT32_MAX ? INT32_MAX : value;
}

/* The chunk TID of a slot; NULL if the shape has none.  An entry that is put without one keeps that of the one before. */
extern void vq_block_put_chunk_tid(void *block, const VqBlockShape *shape, size_t slot, const uint8_t *tid);
extern const uint8_t *vq_block_chunk_tid(const void *block, const VqBlockShape *shape, size_t slot);

/* Take the entry out of a slot; its code stays as it was */
extern void vq_block_clear(void *block, const VqBlockShape *shape, size_t slot);

/* Table sums for the slots of a coded block, sums[i] for slot i < capacity */
extern void vq_block_sums(const VqKernels *kernels, const void *block, const VqBlockShape *shape,
						  const uint8_t *lut, uint32_t sums[VQ_BLOCK_LANES]);

/*
 * Whether the bytes at block, of which there are available, are a block that
 * the functions above can read without harm: capacity, used, size, list_no
 * below nlists, factors not NaN, a next pointer that is an end or a 4-aligned offset.
 * On VQ_BAD_FORMAT *reason is a short text for errdetail.  Any bytes at all
 * may be passed.
 */
extern VqStatus vq_block_validate(const void *block, size_t available, const VqBlockShape *shape,
								  uint32_t nlists, const char **reason);

#endif							/* VQ_BLOCK_H */
