/*-------------------------------------------------------------------------
 *
 * ivfpq_writer.c
 *	  The pages of a new index, written in the order of the file.
 *
 * The build calls, in this order: ivfpq_writer_begin (metapage), the array
 * functions (mean, codebook, centroids), ivfpq_writer_directory, then
 * ivfpq_writer_add for every entry in order of list_no,
 * ivfpq_writer_close and ivfpq_writer_finish.
 *
 * Nobody else sees the file before the build commits, so pages are filled in
 * shared buffers without WAL, and the last two functions log the whole fork as
 * full-page images, the metapage at the end.  An init fork is logged even though its relation is not:
 * recovery copies it over the main fork, and only full images of it are
 * flushed when they are replayed.
 *
 * Entries are staged until they fill a block.  A block takes what room its
 * page has left, in steps of VQ_CAPACITY_STEP slots, and a list goes on where
 * the one before it ended, so the only slots that stay empty are up to seven
 * at the end of each list and what does not fit the end of a page.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xloginsert.h"
#include "am/ivfpq.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

struct IvfpqWriter
{
	Relation	index;
	ForkNumber	fork;
	VqBlockShape shape;
	uint32		nlists;
	BlockNumber directory_start;
	IvfpqDirEntry *directory;	/* [nlists] */

	/* entries that have no block yet, all of list_no */
	uint32		list_no;
	size_t		nstaged;
	uint8	   *staged_tids;	/* [VQ_BLOCK_LANES][VQ_TID_BYTES] */
	VqFactors  *staged_factors; /* [VQ_BLOCK_LANES] */
	uint8	   *staged_codes;	/* [VQ_BLOCK_LANES][m] */
	int64	   *staged_attributes;	/* [VQ_BLOCK_LANES][nattributes] */
	ItemPointerData *staged_chunk_tids;	/* [VQ_BLOCK_LANES] */

	/*
	 * The page being filled, in private memory so that no buffer lock is held
	 * while the caller gets the next entry, and the number it will have.
	 */
	Page		page;
	BlockNumber blkno;
	bool		page_open;
	VqBlockHeader *last_block;	/* in it, of the list being written */
};

IvfpqWriter *
ivfpq_writer_begin(Relation index, ForkNumber fork)
{
	IvfpqWriter *writer = palloc0(sizeof(IvfpqWriter));
	Buffer		buffer;

	writer->index = index;
	writer->fork = fork;

	/* the metapage is filled at the end, when everything is known */
	buffer = ivfpq_extend(index, fork);
	if (BufferGetBlockNumber(buffer) != IVFPQ_METAPAGE_BLKNO)
		elog(ERROR, "index \"%s\" already contains data", RelationGetRelationName(index));
	ivfpq_page_init(BufferGetPage(buffer), IVFPQ_PAGE_META);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	return writer;
}

void
ivfpq_writer_directory(IvfpqWriter *writer, const VqBlockShape *shape, uint32 nlists)
{
	writer->shape = *shape;
	writer->nlists = nlists;
	writer->directory = MemoryContextAllocHuge(CurrentMemoryContext,
											   (Size) nlists * sizeof(IvfpqDirEntry));
	for (uint32 i = 0; i < nlists; i++)
	{
		IvfpqDirEntry *entry = &writer->directory[i];

		memset(entry, 0, sizeof(IvfpqDirEntry));
		entry->head_page = InvalidBlockNumber;
		entry->hint_page = InvalidBlockNumber;
	}

	/* reserve its pages: they come before the lists that they describe */
	writer->directory_start = InvalidBlockNumber;
	for (uint32 first = 0; first < nlists; first += IVFPQ_DIR_ENTRIES_PER_PAGE)
	{
		Buffer		buffer = ivfpq_extend(writer->index, writer->fork);

		if (writer->directory_start == InvalidBlockNumber)
			writer->directory_start = BufferGetBlockNumber(buffer);
		ivfpq_page_init(BufferGetPage(buffer), IVFPQ_PAGE_DIRECTORY);
		MarkBufferDirty(buffer);
		UnlockReleaseBuffer(buffer);
	}

	writer->page = palloc(BLCKSZ);
	writer->blkno = RelationGetNumberOfBlocksInFork(writer->index, writer->fork);
	writer->staged_tids = palloc(VQ_BLOCK_LANES * VQ_TID_BYTES);
	writer->staged_factors = palloc(VQ_BLOCK_LANES * sizeof(VqFactors));
	writer->staged_codes = palloc(VQ_BLOCK_LANES * Max(shape->m, 1));
	writer->staged_chunk_tids = palloc(VQ_BLOCK_LANES * sizeof(ItemPointerData));
	writer->staged_attributes = palloc(VQ_BLOCK_LANES * Max(shape->nattributes, 1) * sizeof(int64));
}

/* Append the page that was filled to the file */
static void
close_page(IvfpqWriter *writer)
{
	Buffer		buffer;

	if (!writer->page_open)
		return;
	buffer = ivfpq_extend(writer->index, writer->fork);
	if (BufferGetBlockNumber(buffer) != writer->blkno)
		elog(ERROR, "unexpected block %u instead of %u", BufferGetBlockNumber(buffer), writer->blkno);
	memcpy(BufferGetPage(buffer), writer->page, BLCKSZ);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	writer->blkno++;
	writer->page_open = false;
}

/* Begin a page; the list being written goes on in it */
static void
next_page(IvfpqWriter *writer)
{
	if (writer->last_block)
	{
		writer->last_block->next_page = writer->blkno + 1;
		writer->last_block->next_offset = IVFPQ_CONTENTS_OFFSET;
		writer->last_block = NULL;
	}
	close_page(writer);
	ivfpq_page_init(writer->page, IVFPQ_PAGE_LIST);
	writer->page_open = true;
	CHECK_FOR_INTERRUPTS();
}

/* Write the first count staged entries as one block of this capacity */
static void
write_block(IvfpqWriter *writer, size_t capacity, size_t count)
{
	PageHeader	header = (PageHeader) writer->page;
	BlockNumber blkno = writer->blkno;
	uint16		offset = header->pd_lower;
	char	   *block = (char *) writer->page + offset;
	IvfpqDirEntry *entry = &writer->directory[writer->list_no];
	uint32		m = writer->shape.m;
	uint32		nattributes = writer->shape.nattributes;
	size_t		left = writer->nstaged - count;

	vq_block_init(block, &writer->shape, writer->list_no, capacity);
	header->pd_lower += vq_block_bytes(&writer->shape, capacity);
	for (size_t i = 0; i < count; i++)
	{
		vq_block_put(block, &writer->shape, i, writer->staged_tids + i * VQ_TID_BYTES,
					 &writer->staged_factors[i], writer->staged_codes + i * m);
		vq_block_put_attributes(block, &writer->shape, i, writer->staged_attributes + i * nattributes);
		vq_block_put_chunk_tid(block, &writer->shape, i, (const uint8 *) &writer->staged_chunk_tids[i]);
	}

	if (writer->last_block)
	{
		writer->last_block->next_page = blkno;
		writer->last_block->next_offset = offset;
	}
	writer->last_block = (VqBlockHeader *) block;

	if (entry->head_page == InvalidBlockNumber)
	{
		entry->head_page = blkno;
		entry->head_offset = offset;
	}
	entry->hint_page = blkno;
	entry->hint_offset = offset;
	entry->nblocks++;
	entry->build_pages = blkno - entry->head_page + 1;

	memmove(writer->staged_tids, writer->staged_tids + count * VQ_TID_BYTES, left * VQ_TID_BYTES);
	memmove(writer->staged_factors, writer->staged_factors + count, left * sizeof(VqFactors));
	memmove(writer->staged_codes, writer->staged_codes + count * m, left * m);
	memmove(writer->staged_attributes, writer->staged_attributes + count * nattributes,
			left * nattributes * sizeof(int64));
	memmove(writer->staged_chunk_tids, writer->staged_chunk_tids + count, left * sizeof(ItemPointerData));
	writer->nstaged = left;
}

/* Write staged entries until at most keep of them are left */
static void
flush_staged(IvfpqWriter *writer, size_t keep)
{
	while (writer->nstaged > keep)
	{
		size_t		wanted = TYPEALIGN(VQ_CAPACITY_STEP, writer->nstaged);
		size_t		room = writer->page_open ? ivfpq_block_room(&writer->shape, writer->page) : 0;
		size_t		capacity = Min(wanted, room);

		if (capacity == 0)
			next_page(writer);
		else
			write_block(writer, capacity, Min(writer->nstaged, capacity));
	}
}

void
ivfpq_writer_add(IvfpqWriter *writer, uint32 list_no, const IvfpqEntry *entry)
{
	if (list_no != writer->list_no)
	{
		if (list_no < writer->list_no || list_no >= writer->nlists)
			elog(ERROR, "list %u came after list %u of %u", list_no, writer->list_no, writer->nlists);
		flush_staged(writer, 0);
		writer->list_no = list_no;
		writer->last_block = NULL;
	}
	memcpy(writer->staged_tids + writer->nstaged * VQ_TID_BYTES, &entry->tid, VQ_TID_BYTES);
	if (entry->factors)
	{
		writer->staged_factors[writer->nstaged] = *entry->factors;
		memcpy(writer->staged_codes + writer->nstaged * writer->shape.m, entry->codes, writer->shape.m);
	}
	memcpy(writer->staged_attributes + writer->nstaged * writer->shape.nattributes, entry->attributes,
		   writer->shape.nattributes * sizeof(int64));
	writer->staged_chunk_tids[writer->nstaged] = entry->chunk_tid;
	writer->nstaged++;
	flush_staged(writer, VQ_BLOCK_LANES - 1);
}

static void
write_directory(IvfpqWriter *writer)
{
	for (uint32 first = 0; first < writer->nlists; first += IVFPQ_DIR_ENTRIES_PER_PAGE)
	{
		uint32		count = Min(IVFPQ_DIR_ENTRIES_PER_PAGE, writer->nlists - first);
		BlockNumber blkno = writer->directory_start + first / IVFPQ_DIR_ENTRIES_PER_PAGE;
		Buffer		buffer = ReadBufferExtended(writer->index, writer->fork, blkno, RBM_NORMAL, NULL);
		Page		page;

		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		page = BufferGetPage(buffer);
		memcpy(ivfpq_page_directory(page), writer->directory + first, count * sizeof(IvfpqDirEntry));
		((PageHeader) page)->pd_lower = IVFPQ_CONTENTS_OFFSET + count * sizeof(IvfpqDirEntry);
		MarkBufferDirty(buffer);
		UnlockReleaseBuffer(buffer);
	}
}

static void
log_pages(const IvfpqWriter *writer, BlockNumber first, BlockNumber end)
{
	if (RelationNeedsWAL(writer->index) || writer->fork == INIT_FORKNUM)
		log_newpage_range(writer->index, writer->fork, first, end, true);
}

void
ivfpq_writer_close(IvfpqWriter *writer, IvfpqMetaPageData *meta)
{
	flush_staged(writer, 0);
	close_page(writer);
	write_directory(writer);
	meta->directory_start = writer->directory_start;
	meta->list_start = writer->directory_start +
		(writer->nlists + IVFPQ_DIR_ENTRIES_PER_PAGE - 1) / IVFPQ_DIR_ENTRIES_PER_PAGE;
	log_pages(writer, IVFPQ_METAPAGE_BLKNO + 1,
			  RelationGetNumberOfBlocksInFork(writer->index, writer->fork));

	pfree(writer->directory);
	pfree(writer->page);
	pfree(writer->staged_tids);
	pfree(writer->staged_factors);
	pfree(writer->staged_codes);
	pfree(writer->staged_attributes);
	pfree(writer->staged_chunk_tids);
}

void
ivfpq_writer_finish(IvfpqWriter *writer, const IvfpqMetaPageData *meta)
{
	Buffer		buffer = ReadBufferExtended(writer->index, writer->fork, IVFPQ_METAPAGE_BLKNO,
											RBM_NORMAL, NULL);

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	ivfpq_meta_fill(BufferGetPage(buffer), meta);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	log_pages(writer, IVFPQ_METAPAGE_BLKNO, IVFPQ_METAPAGE_BLKNO + 1);
	pfree(writer);
}
