/*-------------------------------------------------------------------------
 *
 * ivfpq_buffer.c
 *	  Pins on the pages that searches read, without asking where they are.
 *
 * A search reads a hundred pages, each for less than a microsecond.  Finding
 * them in the table of shared buffers would cost as much as reading them: each
 * look-up locks a partition and misses the cache two or three times.  So every
 * backend remembers in which buffer it saw a page last, and asks whether it is
 * still there.
 *
 * What is remembered is a guess that the server checks (ReadRecentBuffer), so
 * collisions and outdated entries cost time only.  Pages of all indexes share a
 * memory, and those of all tables: 4 bytes for each shared buffer, 256 kB and 2 MB at
 * most, of which the system gives a backend what it uses.
 *
 * A guess also tells where a page is likely to be in memory before it is
 * needed, which is when the processor should be told to fetch it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "am/ivfpq.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bitutils.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"

#include "base/vqpg_compat.h"

#define MAX_TABLE_GUESSES	524288
#define MAX_INDEX_GUESSES	65536

/*
 * A read that takes so many microseconds has waited for a disk; a copy out of the
 * system's cache takes two or three, a solid-state disk eighty.
 */
#define SLOW_READ			25

/*
 * What says whether reads wait: each slow one counts for so much, up to a limit, and
 * each search takes some off.  One slow read every few searches is enough to stay
 * above what is needed, an odd one now and then is not.  The next hundred searches
 * after the last slow read believe that there will be more: where pages are asked
 * for in time, none is slow.
 */
#define SLOW_READ_COUNTS	64
#define SLOW_READS_MOST		512
#define SLOW_READS_NEEDED	128
#define SEARCH_TAKES_OFF	4

#define CACHE_LINE		64

/* Where pages were last seen */
typedef struct Guesses
{
	Buffer	   *buffers;		/* [mask + 1], 0 where nothing is known */
	uint32		mask;
} Guesses;

/* Apart, as the many pages of a table would push out the few of its index */
static Guesses table_guesses;
static Guesses index_guesses;

static int	slow_reads;			/* see SLOW_READ_COUNTS */

/* Where to remember the buffer of a page */
static inline Buffer *
guess_of(Relation rel, BlockNumber blkno)
{
	bool		is_index = rel->rd_rel->relkind == RELKIND_INDEX;
	Guesses    *guesses = is_index ? &index_guesses : &table_guesses;

	if (unlikely(guesses->buffers == NULL))
	{
		uint32		count = pg_nextpower2_32(Min(NBuffers, is_index ? MAX_INDEX_GUESSES : MAX_TABLE_GUESSES));

		/* not palloc0, which would touch all of it: many backends search once */
		guesses->buffers = calloc(count, sizeof(Buffer));
		if (guesses->buffers == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of memory"),
					 errdetail("Failed on request of size %zu.", count * sizeof(Buffer))));
		guesses->mask = count - 1;
	}
	return &guesses->buffers[(blkno + (uint32) RelationGetRelid(rel) * 0x9E3779B9) & guesses->mask];
}

/*
 * Tell the replacement strategy that the page is in use, as ReadBuffer does and
 * ReadRecentBuffer does from 19 on.  Whoever changes the state meanwhile may win.
 */
static inline void
count_use(Buffer buffer)
{
#if PG_VERSION_NUM < 190000
	pg_atomic_uint32 *state = &GetBufferDescriptor(buffer - 1)->state;
	uint32		seen = pg_atomic_read_u32(state);

	if (BUF_STATE_GET_USAGECOUNT(seen) < BM_MAX_USAGE_COUNT && (seen & BM_LOCKED) == 0)
		pg_atomic_compare_exchange_u32(state, &seen, seen + BUF_USAGECOUNT_ONE);
#endif
}

void
ivfpq_reads_begin_search(void)
{
	slow_reads = Max(slow_reads - SEARCH_TAKES_OFF, 0);
}

bool
ivfpq_reads_wait(void)
{
	return slow_reads >= SLOW_READS_NEEDED;
}

/* ReadBuffer, and note if that waits for a disk */
static Buffer
read_and_time(Relation rel, BlockNumber blkno)
{
	int64		reads_before = pgBufferUsage.shared_blks_read;
	instr_time	start;
	instr_time	duration;
	Buffer		buffer;

	INSTR_TIME_SET_CURRENT(start);
	buffer = ReadBuffer(rel, blkno);
	if (pgBufferUsage.shared_blks_read > reads_before)
	{
		INSTR_TIME_SET_CURRENT(duration);
		INSTR_TIME_SUBTRACT(duration, start);
		if (INSTR_TIME_GET_MICROSEC(duration) >= SLOW_READ)
			slow_reads = Min(slow_reads + SLOW_READ_COUNTS, SLOW_READS_MOST);
	}
	return buffer;
}

Buffer
ivfpq_read_buffer(Relation rel, BlockNumber blkno)
{
	Buffer	   *guess;

	/*
	 * Local buffers are few and found without locks.  And what is remembered are
	 * shared buffers, whose tags do not tell a temporary relation from a permanent
	 * one with the same file number.
	 */
	if (RelationUsesLocalBuffers(rel))
		return ReadBuffer(rel, blkno);

	guess = guess_of(rel, blkno);
	if (*guess > 0 && ReadRecentBuffer(VQ_LOCATOR(rel), MAIN_FORKNUM, blkno, *guess))
	{
		count_use(*guess);
		pgstat_count_buffer_read(rel);
		pgstat_count_buffer_hit(rel);
	}
	else
		*guess = read_and_time(rel, blkno);
	return *guess;
}

void
ivfpq_read_through_ring(Relation rel, BlockNumber blkno, BufferAccessStrategy ring)
{
	ReleaseBuffer(ReadBufferExtended(rel, MAIN_FORKNUM, blkno, RBM_NORMAL, ring));
}

const char *
ivfpq_guess_page(Relation rel, BlockNumber blkno)
{
	Buffer		guess;
	const char *page;

	if (RelationUsesLocalBuffers(rel))
		return NULL;
	guess = *guess_of(rel, blkno);
	if (guess <= 0)
		return NULL;
	page = (const char *) BufferGetPage(guess);
	__builtin_prefetch(GetBufferDescriptor(guess - 1), 1);
	__builtin_prefetch(page);
	__builtin_prefetch(page + BLCKSZ - 1);
	return page;
}

void
ivfpq_touch_page(Relation rel, BlockNumber blkno, size_t start, size_t nbytes)
{
	const char *page = ivfpq_guess_page(rel, blkno);

	if (page)
		ivfpq_touch(page + start, nbytes);
}

/* Where a row's line pointer is, if its page is where it is thought to be */
static inline ItemId
line_pointer(Page page, OffsetNumber offset)
{
	return (ItemId) ((char *) page + SizeOfPageHeaderData) + offset - 1;
}

void
ivfpq_touch_row_guess(Relation heap, ItemPointer tid)
{
	__builtin_prefetch(guess_of(heap, ItemPointerGetBlockNumber(tid)));
}

void
ivfpq_touch_row_buffer(Relation heap, ItemPointer tid)
{
	Buffer		guess = *guess_of(heap, ItemPointerGetBlockNumber(tid));

	if (guess > 0)
		__builtin_prefetch(GetBufferDescriptor(guess - 1), 1);
}

/* The shared buffer that has a page of the main fork, or InvalidBuffer; not pinned */
static Buffer
find_buffer(Relation rel, BlockNumber blkno)
{
	BufferTag	tag;
	uint32		hash;
	LWLock	   *lock;
	int			id;

	VQ_INIT_BUFFER_TAG(&tag, rel, blkno);
	hash = BufTableHashCode(&tag);
	lock = BufMappingPartitionLock(hash);
	LWLockAcquire(lock, LW_SHARED);
	id = BufTableLookup(&tag, hash);
	LWLockRelease(lock);
	return id < 0 ? InvalidBuffer : id + 1;
}

void
ivfpq_touch_row_page(Relation heap, ItemPointer tid, bool asks_system)
{
	BlockNumber blkno = ItemPointerGetBlockNumber(tid);
	Buffer	   *guess = guess_of(heap, blkno);

	if (*guess <= 0 || GetBufferDescriptor(*guess - 1)->tag.blockNum != blkno)
	{
		*guess = asks_system ? PrefetchBuffer(heap, MAIN_FORKNUM, blkno).recent_buffer :
			find_buffer(heap, blkno);
	}
	if (*guess > 0)
	{
		Page		page = BufferGetPage(*guess);

		__builtin_prefetch(GetBufferDescriptor(*guess - 1), 1);
		__builtin_prefetch(page);
		__builtin_prefetch(line_pointer(page, ItemPointerGetOffsetNumber(tid)));
	}
}

/*
 * Reads a line pointer of a page that is not pinned and may be another's by
 * now: it is believed only as far as to touch some bytes of that page.
 */
void
ivfpq_touch_row(Relation heap, ItemPointer tid, bool is_whole)
{
	Buffer		guess = *guess_of(heap, ItemPointerGetBlockNumber(tid));

	if (guess > 0 && ItemPointerGetOffsetNumber(tid) <= MaxHeapTuplesPerPage)
	{
		Page		page = BufferGetPage(guess);
		ItemIdData	item = *line_pointer(page, ItemPointerGetOffsetNumber(tid));
		size_t		start = ItemIdGetOffset(&item);
		size_t		end = Min(start + ItemIdGetLength(&item), BLCKSZ);
		size_t		head_end = is_whole ? end : Min(end, start + 2 * CACHE_LINE);

		for (size_t offset = start; offset < head_end; offset += CACHE_LINE)
			__builtin_prefetch((const char *) page + offset);
		if (head_end < end)
			__builtin_prefetch((const char *) page + end - 1);
	}
}

bool
ivfpq_pin_for_fetch(IndexFetchTableData *fetch, ItemPointer tid)
{
	IndexFetchHeapData *heap_fetch = (IndexFetchHeapData *) fetch;
	BlockNumber blkno = ItemPointerGetBlockNumber(tid);

	if (BufferIsValid(heap_fetch->xs_cbuf))
	{
		if (BufferGetBlockNumber(heap_fetch->xs_cbuf) == blkno)
			return false;
		ivfpq_unpin_for_fetch(fetch);
	}
	heap_fetch->xs_cbuf = ivfpq_read_buffer(fetch->rel, blkno);
	VQ_FETCH_SET_BLOCK(heap_fetch, blkno);
	return true;
}

void
ivfpq_unpin_for_fetch(IndexFetchTableData *fetch)
{
	IndexFetchHeapData *heap_fetch = (IndexFetchHeapData *) fetch;

	if (BufferIsValid(heap_fetch->xs_cbuf))
		ReleaseBuffer(heap_fetch->xs_cbuf);
	heap_fetch->xs_cbuf = InvalidBuffer;
	VQ_FETCH_SET_BLOCK(heap_fetch, InvalidBlockNumber);
}

void
ivfpq_pin_for_executor(IndexFetchTableData *fetch, ItemPointer tid)
{
	if (ivfpq_pin_for_fetch(fetch, tid))
		VQ_FETCH_PRUNE((IndexFetchHeapData *) fetch);
}
