/*-------------------------------------------------------------------------
 *
 * ivfpq_inspect.c
 *	  Private copies of pages, for those who look at all of an index.
 *
 * A reader that means to report what it finds, and to fail when it finds the
 * wrong thing, cannot do so under a buffer lock.  It gets a copy of the page:
 * one share lock, one memcpy, and all the time in the world.  The pages are
 * read through a ring of buffers, so that the check of a large index does not
 * push everything else out of the cache.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq.h"
#include "commands/vacuum.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"

bool
ivfpq_inspect_page(Relation index, BlockNumber blkno, IvfpqPageKind kind,
				   BufferAccessStrategy strategy, PGAlignedBlock *copy)
{
	Buffer		buffer = ReadBufferExtended(index, MAIN_FORKNUM, blkno, RBM_NORMAL, strategy);
	bool		is_new;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	is_new = kind == IVFPQ_PAGE_LIST && PageIsNew(BufferGetPage(buffer));
	if (!is_new)
	{
		ivfpq_page_check(index, buffer, kind);
		memcpy(copy->data, BufferGetPage(buffer), BLCKSZ);
	}
	UnlockReleaseBuffer(buffer);
	VQ_VACUUM_DELAY();			/* VACUUM may be who looks; else it looks for interrupts alone */
	return !is_new;
}

/* ERROR if what the slots of a sound block say contradicts its header */
static void
check_slots(Relation index, BlockNumber blkno, size_t offset, void *block, const VqBlockShape *shape)
{
	const VqBlockHeader *header = block;

	for (size_t slot = 0; slot < header->capacity; slot++)
	{
		ItemPointerData tid;

		if (!vq_block_is_live(block, shape, slot))
			continue;
		if (slot >= header->used)
			ivfpq_report_corrupted(index, blkno,
								   psprintf("Slot %zu of the block at offset %zu holds an entry, but only %u were ever used.",
											slot, offset, header->used));
		memcpy(&tid, vq_block_tid(block, shape, slot), VQ_TID_BYTES);
		if (!BlockNumberIsValid(ItemPointerGetBlockNumberNoCheck(&tid)))
			ivfpq_report_corrupted(index, blkno,
								   psprintf("Slot %zu of the block at offset %zu points to no block of the table.",
											slot, offset));
	}
}

BlockNumber
ivfpq_inspect_blocks(Relation index, const IvfpqMetaPageData *meta,
					 IvfpqInspectCallback callback, void *arg)
{
	BufferAccessStrategy strategy = GetAccessStrategy(BAS_BULKREAD);
	BlockNumber nblocks = RelationGetNumberOfBlocks(index);
	VqBlockShape shape = ivfpq_block_shape(meta);
	PGAlignedBlock copy;

	for (BlockNumber blkno = meta->list_start; blkno < nblocks; blkno++)
	{
		size_t		offset = IVFPQ_CONTENTS_OFFSET;
		size_t		end;

		/* an insert that was cut short may have left a page of zeroes */
		if (!ivfpq_inspect_page(index, blkno, IVFPQ_PAGE_LIST, strategy, &copy))
			continue;

		end = ((PageHeader) copy.data)->pd_lower;
		while (offset < end)
		{
			char	   *block = copy.data + offset;
			const char *reason;

			if (vq_block_validate(block, end - offset, &shape, meta->nlists, &reason) != VQ_OK)
				ivfpq_report_corrupted(index, blkno,
									   psprintf("At offset %zu: %s.", offset, reason));
			check_slots(index, blkno, offset, block, &shape);
			if (!callback(blkno, (uint16) offset, block, arg))
			{
				FreeAccessStrategy(strategy);
				return nblocks;
			}
			offset += vq_block_bytes(&shape, ((VqBlockHeader *) block)->capacity);
		}
	}
	FreeAccessStrategy(strategy);
	return nblocks;
}

/* Entries, until there are enough */
typedef struct EntryCount
{
	VqBlockShape shape;
	double		count;
	double		enough;
} EntryCount;

static bool
count_entries(BlockNumber blkno, uint16 offset, void *block, void *arg)
{
	EntryCount *entries = arg;

	for (size_t slot = 0; slot < ((VqBlockHeader *) block)->used; slot++)
		entries->count += vq_block_is_live(block, &entries->shape, slot);
	return entries->count < entries->enough;
}

double
ivfpq_inspect_entries(Relation index, const IvfpqMetaPageData *meta, double enough)
{
	EntryCount	entries = {.shape = ivfpq_block_shape(meta), .enough = enough};

	ivfpq_inspect_blocks(index, meta, count_entries, &entries);
	return entries.count;
}
