/*-------------------------------------------------------------------------
 *
 * ivfpq_list.c
 *	  Inverted lists as chains of blocks, and the directory of them.
 *
 * A list starts at its directory entry's head and goes from block to block by
 * the next pointers.  Next always points further on in the file: to a higher
 * page, or a higher offset in the same page.  So a chain cannot loop, a scan
 * of all pages in order meets a list's blocks in order, and everything that
 * locks two list pages locks the lower one first.
 *
 * Locks.  Readers lock one page at a time.  An insert that must add a block
 * holds the list's last page, then the page where the block goes (never a
 * lower one), then the directory page; nothing that holds a directory page
 * waits for a list page.  Replay locks the pages of a record in the same order,
 * and readers never hold two, so a standby cannot deadlock.
 *
 * Blocks never move, pages are never unlinked, and a slot changes from one
 * entry to another only by way of vacuum, when no snapshot can see the old
 * one: a scan neither misses nor doubles a row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/generic_xlog.h"
#include "am/ivfpq.h"
#include "commands/progress.h"
#include "commands/vacuum.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/backend_progress.h"

#include "base/vqpg_compat.h"

/* A list of this many blocks does not share new pages with others */
#define LONG_LIST_BLOCKS	32

/* Where a block is */
typedef struct BlockPlace
{
	BlockNumber page;
	uint16		offset;
} BlockPlace;

static BlockNumber
directory_block(const IvfpqMetaPageData *meta, uint32 list_no)
{
	return meta->directory_start + list_no / IVFPQ_DIR_ENTRIES_PER_PAGE;
}

/* The entry of a list in its directory page */
static IvfpqDirEntry *
directory_entry(Page page, uint32 list_no)
{
	return ivfpq_page_directory(page) + list_no % IVFPQ_DIR_ENTRIES_PER_PAGE;
}

/* A locked page of the directory has all entries that belong there: a change would lose those behind its end */
static void
check_directory(Relation index, Buffer buffer, const IvfpqMetaPageData *meta)
{
	BlockNumber blkno = BufferGetBlockNumber(buffer);
	uint32		first = (blkno - meta->directory_start) * IVFPQ_DIR_ENTRIES_PER_PAGE;
	size_t		end = IVFPQ_CONTENTS_OFFSET +
		Min(meta->nlists - first, IVFPQ_DIR_ENTRIES_PER_PAGE) * sizeof(IvfpqDirEntry);

	ivfpq_page_check(index, buffer, IVFPQ_PAGE_DIRECTORY);
	if (((PageHeader) BufferGetPage(buffer))->pd_lower != end)
		ivfpq_report_corrupted(index, blkno, psprintf("The directory ends at %u, not at %zu.",
													  ((PageHeader) BufferGetPage(buffer))->pd_lower, end));
}

void
ivfpq_list_entries(Relation index, const IvfpqMetaPageData *meta, const uint32 *list_nos, uint32 nlists,
				   IvfpqDirEntry *entries)
{
	uint32		i = 0;

	while (i < nlists)
	{
		BlockNumber blkno = directory_block(meta, list_nos[i]);
		Buffer		buffer = ivfpq_read_buffer(index, blkno);

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		check_directory(index, buffer, meta);
		for (; i < nlists && directory_block(meta, list_nos[i]) == blkno; i++)
			entries[i] = *directory_entry(BufferGetPage(buffer), list_nos[i]);
		UnlockReleaseBuffer(buffer);
	}
}

/* The block at an offset of a locked list page, checked before it is believed */
static VqBlockHeader *
block_at(Relation index, Buffer buffer, Page page, const IvfpqModel *model,
		 uint32 list_no, uint16 offset)
{
	uint32		end = ((PageHeader) page)->pd_lower;
	BlockNumber blkno = BufferGetBlockNumber(buffer);
	VqBlockHeader *block = (VqBlockHeader *) ((char *) page + offset);

	if (offset < IVFPQ_CONTENTS_OFFSET || offset % 4 != 0 ||
		offset + sizeof(VqBlockHeader) > end)
		ivfpq_report_corrupted(index, blkno,
							   psprintf("A block is said to be at offset %u, but contents are from %zu to %u.",
										offset, (size_t) IVFPQ_CONTENTS_OFFSET, end));
	if (block->list_no != list_no)
		ivfpq_report_corrupted(index, blkno,
							   psprintf("The block at offset %u is of list %u, not of list %u.",
										offset, block->list_no, list_no));
	if (block->capacity == 0 || block->capacity > VQ_BLOCK_LANES ||
		block->capacity % VQ_CAPACITY_STEP != 0 || block->used > block->capacity ||
		offset + vq_block_bytes(&model->shape, block->capacity) > end)
		ivfpq_report_corrupted(index, blkno,
							   psprintf("The block at offset %u has %u of %u slots in use, and contents end at %u.",
										offset, block->used, block->capacity, end));
	if (block->next_page != VQ_NO_PAGE &&
		(block->next_page < blkno || (block->next_page == blkno && block->next_offset <= offset)))
		ivfpq_report_corrupted(index, blkno,
							   psprintf("The block at offset %u is followed by one at offset %u of block %u.",
										offset, block->next_offset, block->next_page));
	return block;
}

/* ERROR if a list goes on beyond the end of the file, which the server would report as an error of its own */
static inline void
check_page_exists(Relation index, const IvfpqModel *model, uint32 list_no, BlockNumber blkno)
{
	if (likely(blkno < *model->nblocks))
		return;
	*model->nblocks = RelationGetNumberOfBlocks(index);
	if (blkno >= *model->nblocks)
		ivfpq_report_corrupted(index, directory_block(&model->meta, list_no),
							   psprintf("List %u is said to be in block %u, too, of %u blocks.",
										list_no, blkno, *model->nblocks));
}

uint64
ivfpq_list_walk(Relation index, const IvfpqModel *model, const IvfpqDirEntry *entry, uint32 list_no,
				Snapshot snapshot, IvfpqPageCallback visit_page, IvfpqBlockCallback visit_block, void *arg)
{
	BlockPlace	place = {entry->head_page, entry->head_offset};
	uint64		npages = 0;

	while (place.page != InvalidBlockNumber)
	{
		Buffer		buffer;
		BlockNumber blkno = place.page;

		check_page_exists(index, model, list_no, blkno);
		buffer = ivfpq_read_buffer(index, blkno);

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		ivfpq_page_check(index, buffer, IVFPQ_PAGE_LIST);
		VQ_TEST_OLD_SNAPSHOT(snapshot, index, BufferGetPage(buffer));
		visit_page(arg);
		while (place.page == blkno)
		{
			VqBlockHeader *block = block_at(index, buffer, BufferGetPage(buffer), model,
											list_no, place.offset);

			visit_block(block, arg);
			place.page = block->next_page;
			place.offset = block->next_offset;
		}
		UnlockReleaseBuffer(buffer);
		npages++;
		CHECK_FOR_INTERRUPTS();
	}
	return npages;
}

void
ivfpq_list_prefetch(Relation index, const IvfpqDirEntry *entry, uint32 max_pages)
{
	if (entry->head_page != InvalidBlockNumber)
		for (uint32 i = 0; i < Min(entry->build_pages, max_pages); i++)
			PrefetchBuffer(index, MAIN_FORKNUM, entry->head_page + i);
}

/*
 * Set the hint of a list, unless somebody else has changed it meanwhile: then
 * that one knows better (a vacuum that has found room further to the front).
 */
static void
move_hint(Relation index, const IvfpqMetaPageData *meta, uint32 list_no,
		  const IvfpqDirEntry *seen, BlockPlace place)
{
	Buffer		buffer = ReadBuffer(index, directory_block(meta, list_no));
	IvfpqDirEntry *entry;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	check_directory(index, buffer, meta);
	entry = directory_entry(BufferGetPage(buffer), list_no);
	if (entry->hint_page == seen->hint_page && entry->hint_offset == seen->hint_offset)
	{
		GenericXLogState *state = GenericXLogStart(index);
		Page		page = GenericXLogRegisterBuffer(state, buffer, 0);

		entry = directory_entry(page, list_no);
		entry->hint_page = place.page;
		entry->hint_offset = place.offset;
		GenericXLogFinish(state);
	}
	UnlockReleaseBuffer(buffer);
}

/*
 * Look for a free slot from the hint on.  Returns true if the entry was put
 * into one.  Otherwise *tail is the list's last block, and its page is
 * returned in *tail_buffer, pinned and exclusively locked; InvalidBuffer if the
 * list has no block at all.
 */
static bool
insert_into_room(Relation index, const IvfpqModel *model, uint32 list_no, const IvfpqDirEntry *entry,
				 const IvfpqEntry *new_entry, BlockPlace *tail, Buffer *tail_buffer)
{
	BlockPlace	place = {entry->hint_page, entry->hint_offset};

	*tail_buffer = InvalidBuffer;
	while (place.page != InvalidBlockNumber)
	{
		Buffer		buffer;
		Page		page;
		BlockNumber blkno = place.page;

		check_page_exists(index, model, list_no, blkno);
		buffer = ReadBuffer(index, blkno);
		page = BufferGetPage(buffer);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		ivfpq_page_check(index, buffer, IVFPQ_PAGE_LIST);
		while (place.page == blkno)
		{
			VqBlockHeader *block = block_at(index, buffer, page, model, list_no, place.offset);
			size_t		slot = vq_block_free_slot(block, &model->shape);

			if (slot < block->capacity)
			{
				GenericXLogState *state = GenericXLogStart(index);

				page = GenericXLogRegisterBuffer(state, buffer, 0);
				ivfpq_block_put((char *) page + place.offset, &model->shape, slot, new_entry);
				GenericXLogFinish(state);
				UnlockReleaseBuffer(buffer);

				/* spare the next insert the full pages that this one walked over */
				if (blkno != entry->hint_page)
					move_hint(index, &model->meta, list_no, entry, place);
				return true;
			}
			*tail = place;
			place.page = block->next_page;
			place.offset = block->next_offset;
		}
		if (place.page == InvalidBlockNumber)
			*tail_buffer = buffer;
		else
			UnlockReleaseBuffer(buffer);
		CHECK_FOR_INTERRUPTS();
	}
	return false;
}

size_t
ivfpq_block_room(const VqBlockShape *shape, Page page)
{
	size_t		capacity = VQ_BLOCK_LANES;

	while (capacity > 0 && vq_block_bytes(shape, capacity) > PageGetExactFreeSpace(page))
		capacity -= VQ_CAPACITY_STEP;
	return capacity;
}

/*
 * A page with room for a new block, exclusively locked: the list's own last
 * page, else the last page of the file (where short lists share what one of
 * them began), else a new one.  A list of many pages gets new pages of its
 * own, so that what is scanned together stays together.  tail_buffer is locked
 * by the caller; only pages behind it are considered.
 */
static Buffer
find_room(Relation index, const IvfpqModel *model, const IvfpqDirEntry *entry,
		  Buffer tail_buffer, bool *is_new)
{
	BlockNumber last = RelationGetNumberOfBlocks(index) - 1;
	Buffer		buffer;

	*is_new = false;
	if (BufferIsValid(tail_buffer) &&
		ivfpq_block_room(&model->shape, BufferGetPage(tail_buffer)) > 0)
		return tail_buffer;

	if (entry->nblocks < LONG_LIST_BLOCKS && last >= model->meta.list_start &&
		(!BufferIsValid(tail_buffer) || last > BufferGetBlockNumber(tail_buffer)))
	{
		buffer = ReadBuffer(index, last);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);

		/* left by a crash between extending the file and logging its page */
		if (PageIsNew(BufferGetPage(buffer)))
		{
			*is_new = true;
			return buffer;
		}
		ivfpq_page_check(index, buffer, IVFPQ_PAGE_LIST);
		if (ivfpq_block_room(&model->shape, BufferGetPage(buffer)) > 0)
			return buffer;
		UnlockReleaseBuffer(buffer);
	}
	*is_new = true;
	return ivfpq_extend(index, MAIN_FORKNUM);
}

/*
 * Add a block with the entry in it behind tail, in one WAL record with the
 * link to it and the hint.  Releases tail_buffer.  False, with nothing done,
 * if the list had no block when its entry was read but has one now.
 */
static bool
insert_with_new_block(Relation index, const IvfpqModel *model, uint32 list_no, const IvfpqDirEntry *entry,
					  const IvfpqEntry *new_entry, BlockPlace tail, Buffer tail_buffer)
{
	const VqBlockShape *shape = &model->shape;
	bool		is_new;
	Buffer		buffer = find_room(index, model, entry, tail_buffer, &is_new);
	BlockNumber blkno = BufferGetBlockNumber(buffer);
	Buffer		dir_buffer = ReadBuffer(index, directory_block(&model->meta, list_no));
	bool		raced;

	LockBuffer(dir_buffer, BUFFER_LOCK_EXCLUSIVE);
	check_directory(index, dir_buffer, &model->meta);
	raced = !BufferIsValid(tail_buffer) &&
		directory_entry(BufferGetPage(dir_buffer), list_no)->head_page != InvalidBlockNumber;

	if (!raced)
	{
		GenericXLogState *state = GenericXLogStart(index);
		Page		tail_page = NULL;
		Page		page;
		IvfpqDirEntry *dir_entry;
		VqBlockHeader *block;
		size_t		capacity;
		uint16		offset;

		if (BufferIsValid(tail_buffer))
			tail_page = GenericXLogRegisterBuffer(state, tail_buffer, 0);
		if (buffer == tail_buffer)
			page = tail_page;
		else
			page = GenericXLogRegisterBuffer(state, buffer, is_new ? GENERIC_XLOG_FULL_IMAGE : 0);
		dir_entry = directory_entry(GenericXLogRegisterBuffer(state, dir_buffer, 0), list_no);

		if (is_new)
			ivfpq_page_init(page, IVFPQ_PAGE_LIST);
		capacity = ivfpq_block_room(shape, page);
		offset = ((PageHeader) page)->pd_lower;
		block = (VqBlockHeader *) ((char *) page + offset);
		vq_block_init(block, shape, list_no, capacity);
		ivfpq_block_put(block, shape, 0, new_entry);
		((PageHeader) page)->pd_lower += vq_block_bytes(shape, capacity);

		if (tail_page)
		{
			block = (VqBlockHeader *) ((char *) tail_page + tail.offset);
			block->next_page = blkno;
			block->next_offset = offset;
		}
		else
		{
			dir_entry->head_page = blkno;
			dir_entry->head_offset = offset;
		}
		dir_entry->nblocks++;
		if (dir_entry->hint_page == entry->hint_page && dir_entry->hint_offset == entry->hint_offset)
		{
			dir_entry->hint_page = blkno;
			dir_entry->hint_offset = offset;
		}
		GenericXLogFinish(state);
	}

	UnlockReleaseBuffer(dir_buffer);
	if (buffer != tail_buffer)
		UnlockReleaseBuffer(buffer);
	if (BufferIsValid(tail_buffer))
		UnlockReleaseBuffer(tail_buffer);
	return !raced;
}

void
ivfpq_list_insert(Relation index, const IvfpqModel *model, uint32 list_no, const IvfpqEntry *new_entry)
{
	for (;;)
	{
		IvfpqDirEntry entry;
		BlockPlace	tail = {InvalidBlockNumber, 0};
		Buffer		tail_buffer;

		CHECK_FOR_INTERRUPTS();
		ivfpq_list_entries(index, &model->meta, &list_no, 1, &entry);
		if ((entry.head_page == InvalidBlockNumber) != (entry.hint_page == InvalidBlockNumber))
			ivfpq_report_corrupted(index, directory_block(&model->meta, list_no),
								   psprintf("List %u has its first block at (%u,%u), and a hint to (%u,%u).", list_no,
											entry.head_page, entry.head_offset, entry.hint_page, entry.hint_offset));
		if (insert_into_room(index, model, list_no, &entry, new_entry, &tail, &tail_buffer))
			return;
		if (insert_with_new_block(index, model, list_no, &entry, new_entry, tail, tail_buffer))
			return;
	}
}

/* Whether a block comes before another in the file */
static bool
is_before(BlockPlace a, BlockPlace b)
{
	return a.page < b.page || (a.page == b.page && a.offset < b.offset);
}

/*
 * Clear the slots of one list page whose rows are dead, and lower the places
 * of the lists that have a free slot in it.  The page is exclusively locked.
 */
static void
vacuum_page(Relation index, const IvfpqModel *model, Buffer buffer, BlockPlace *first_free,
			IndexBulkDeleteResult *stats, IndexBulkDeleteCallback callback, void *callback_state)
{
	const VqBlockShape *shape = &model->shape;
	Page		page = BufferGetPage(buffer);
	BlockPlace	place = {BufferGetBlockNumber(buffer), IVFPQ_CONTENTS_OFFSET};
	GenericXLogState *state = NULL;
	Page		image = NULL;

	while (place.offset < ((PageHeader) page)->pd_lower)
	{
		uint32		list_no = ((VqBlockHeader *) ((char *) page + place.offset))->list_no;
		VqBlockHeader *block;
		bool		has_room;

		if (list_no >= model->meta.nlists)
			ivfpq_report_corrupted(index, place.page,
								   psprintf("The block at offset %u is of list %u, but there are %u lists.",
											place.offset, list_no, model->meta.nlists));
		block = block_at(index, buffer, page, model, list_no, place.offset);
		has_room = block->used < block->capacity;
		for (size_t slot = 0; slot < block->used; slot++)
		{
			ItemPointerData tid;

			if (!vq_block_is_live(block, shape, slot))
				has_room = true;
			else
			{
				memcpy(&tid, vq_block_tid(block, shape, slot), VQ_TID_BYTES);
				if (!callback(&tid, callback_state))
					stats->num_index_tuples++;
				else
				{
					if (state == NULL)
					{
						state = GenericXLogStart(index);
						image = GenericXLogRegisterBuffer(state, buffer, 0);
					}
					vq_block_clear((char *) image + place.offset, shape, slot);
					stats->tuples_removed++;
					has_room = true;
				}
			}
		}
		if (has_room && (first_free[list_no].page == InvalidBlockNumber ||
						 is_before(place, first_free[list_no])))
			first_free[list_no] = place;
		place.offset += vq_block_bytes(shape, block->capacity);
	}
	if (state)
		GenericXLogFinish(state);
}

/*
 * Point the lists of one directory page to their first free slots, where those
 * are before the present hint.
 */
static void
lower_hints(Relation index, const IvfpqModel *model, uint32 first_list, const BlockPlace *first_free)
{
	uint32		end = Min(first_list + IVFPQ_DIR_ENTRIES_PER_PAGE, model->meta.nlists);
	Buffer		buffer = ReadBuffer(index, directory_block(&model->meta, first_list));
	GenericXLogState *state = NULL;
	Page		image = NULL;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	check_directory(index, buffer, &model->meta);
	for (uint32 list_no = first_list; list_no < end; list_no++)
	{
		IvfpqDirEntry *entry = directory_entry(BufferGetPage(buffer), list_no);
		BlockPlace	hint = {entry->hint_page, entry->hint_offset};

		if (first_free[list_no].page == InvalidBlockNumber || !is_before(first_free[list_no], hint))
			continue;
		if (state == NULL)
		{
			state = GenericXLogStart(index);
			image = GenericXLogRegisterBuffer(state, buffer, 0);
		}
		entry = directory_entry(image, list_no);
		entry->hint_page = first_free[list_no].page;
		entry->hint_offset = first_free[list_no].offset;
	}
	if (state)
		GenericXLogFinish(state);
	UnlockReleaseBuffer(buffer);
}

void
ivfpq_list_vacuum(IndexVacuumInfo *info, const IvfpqModel *model, IndexBulkDeleteResult *stats,
				  IndexBulkDeleteCallback callback, void *callback_state)
{
	Relation	index = info->index;
	uint32		nlists = model->meta.nlists;
	BlockPlace *first_free = MemoryContextAllocHuge(CurrentMemoryContext, (Size) nlists * sizeof(BlockPlace));
	BlockNumber blkno = model->meta.list_start;
	BlockNumber nblocks;

	for (uint32 i = 0; i < nlists; i++)
		first_free[i].page = InvalidBlockNumber;

	/* entries that were there when we began are on pages that we come to */
	while (blkno < (nblocks = RelationGetNumberOfBlocks(index)))
	{
		if (info->report_progress)
			pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_TOTAL, nblocks);
		for (; blkno < nblocks; blkno++)
		{
			Buffer		buffer;

			VQ_VACUUM_DELAY();
			buffer = ReadBufferExtended(index, MAIN_FORKNUM, blkno, RBM_NORMAL, info->strategy);
			LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
			if (!PageIsNew(BufferGetPage(buffer)))
			{
				ivfpq_page_check(index, buffer, IVFPQ_PAGE_LIST);
				vacuum_page(index, model, buffer, first_free, stats, callback, callback_state);
			}
			UnlockReleaseBuffer(buffer);
			if (info->report_progress)
				pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_DONE, blkno + 1);
		}
	}

	for (uint32 first = 0; first < nlists; first += IVFPQ_DIR_ENTRIES_PER_PAGE)
		lower_hints(index, model, first, first_free);
	stats->num_pages = nblocks;
	pfree(first_free);
}
