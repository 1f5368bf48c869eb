/*-------------------------------------------------------------------------
 *
 * ivfpq_ahead.c
 *	  Fetches the pages of lists into the processor's caches before their turn.
 *
 * Codes are read once per search and come from memory, not from a cache.  What
 * finds out by itself that memory is read in order stops at the end of each 4 kB
 * and knows nothing of the next list; asked page by page in time, and no more
 * than the second level cache has room for, memory delivers nearly twice as much.
 *
 * The build has put the blocks of a list one behind the other, which is where
 * they are expected.  Blocks that were added later are not fetched.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq_search.h"

/* Go on to where the rest of the list is, or the next list; false after the last */
static bool
enter_page(IvfpqAhead *ahead)
{
	const IvfpqBatch *batch = ahead->batch;

	while (ahead->npages == 0 || ahead->nbytes == 0)
	{
		const IvfpqDirEntry *entry;

		if (ahead->next_list == batch->nlists)
			return false;
		entry = &batch->lists[ahead->next_list++].entry;
		ahead->page = entry->head_page;
		ahead->npages = entry->build_pages;
		ahead->offset = Min(entry->head_offset, BLCKSZ - 1);
		ahead->nbytes = entry->nblocks * vq_block_bytes(&batch->model->shape, VQ_BLOCK_LANES);
	}
	ahead->start = ivfpq_guess_page(batch->index, ahead->page);
	return true;
}

void
ivfpq_ahead_begin(IvfpqAhead *ahead, const IvfpqBatch *batch, uint32 first_list)
{
	memset(ahead, 0, sizeof(IvfpqAhead));
	ahead->batch = batch;
	ahead->next_list = first_list;
	ahead->is_done = !enter_page(ahead);
}

/*
 * Only what tells whether a block has entries that pass the conditions, its attributes.  Blocks are taken to be
 * full ones, as all are but the last of a list and of a page.
 */
static void
touch_attributes(const char *start, size_t nbytes, const VqBlockShape *shape)
{
	size_t		block_bytes = vq_block_bytes(shape, VQ_BLOCK_LANES);
	size_t		needed_bytes = sizeof(VqBlockHeader) + vq_block_attribute_bytes(shape) * VQ_BLOCK_LANES;

	for (size_t first = 0; first < nbytes; first += block_bytes)
		ivfpq_touch(start + first, Min(nbytes - first, needed_bytes));
}

void
ivfpq_ahead_fetch(IvfpqAhead *ahead)
{
	size_t		nbytes = Min(ahead->nbytes, BLCKSZ - ahead->offset);

	if (ahead->is_done)
		return;
	if (ahead->start && ahead->batch->skips_codes)
		touch_attributes(ahead->start + ahead->offset, nbytes, &ahead->batch->model->shape);
	else if (ahead->start)
		ivfpq_touch(ahead->start + ahead->offset, nbytes);
	ahead->nbytes -= nbytes;
	ahead->offset = 0;
	ahead->page++;
	ahead->npages--;
	ahead->is_done = !enter_page(ahead);
}
