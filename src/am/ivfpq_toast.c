/*-------------------------------------------------------------------------
 *
 * ivfpq_toast.c
 *	  Vectors that are stored out of line.
 *
 * To get such a value the server opens the TOAST table and its indexes, looks for the
 * value's chunks, reads each, and closes all again; nobody can ask for one that
 * is wanted later.  A search, which gets some thirty, and a build, which gets all, keep them open, find out
 * where the chunks of a value are, and read them a page at a time.
 *
 * Entries of an index know where the first chunk of their row's vector is.  The others are
 * mostly behind it, in its page and the next ones.  A chunk tells whose it is, so a place is tried, and
 * where it is not right, as that of a value whose chunks were scattered, the index of the TOAST table is asked.
 *
 * What is not as expected is left to the server, which has its words for what may
 * be wrong.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "am/ivfpq_toast.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/vqpg_compat.h"

/* Columns of every TOAST table, and the first bytes of its rows */
#define CHUNK_ID		1
#define CHUNK_COLUMNS	3

typedef struct ChunkStart
{
	Oid			id;
	int32		seq;
} ChunkStart;

/* Chunks of full size that a page has room for */
#define CHUNKS_PER_PAGE	EXTERN_TUPLES_PER_PAGE

struct IvfpqToast
{
	Relation	table;
	BlockNumber nblocks;		/* at least so many; none goes away while the table is locked */
	VqToastSnapshot snapshot;
	Buffer		buffer;			/* pinned page, or InvalidBuffer */
	BlockNumber blkno;			/* its number */
	char	   *value;			/* the last one read */
	Size		allocated;

	/* opened when they are first needed */
	Relation   *indexes;		/* NULL before that */
	int			nindexes;
	IndexScanDesc scan;
};

IvfpqToast *
ivfpq_toast_begin(Relation heap)
{
	IvfpqToast *toast;
	Relation	table;
	TupleDesc	desc;

	if (!OidIsValid(heap->rd_rel->reltoastrelid))
		return NULL;
	table = table_open(heap->rd_rel->reltoastrelid, AccessShareLock);
	desc = RelationGetDescr(table);
	if (table->rd_tableam != GetHeapamTableAmRoutine() || desc->natts != CHUNK_COLUMNS ||
		TupleDescAttr(desc, CHUNK_ID - 1)->atttypid != OIDOID)
	{
		table_close(table, AccessShareLock);
		return NULL;
	}
	toast = palloc0(sizeof(IvfpqToast));
	toast->table = table;
	VQ_TOAST_SNAPSHOT_INIT(&toast->snapshot);
	return toast;
}

Relation
ivfpq_toast_table(const IvfpqToast *toast)
{
	return toast->table;
}

static bool
block_exists(IvfpqToast *toast, BlockNumber blkno)
{
	if (unlikely(blkno >= toast->nblocks))
		toast->nblocks = RelationGetNumberOfBlocks(toast->table);
	return blkno < toast->nblocks;
}

bool
ivfpq_toast_has(IvfpqToast *toast, const ItemPointerData *place)
{
	return block_exists(toast, ItemPointerGetBlockNumberNoCheck(place));
}

/* Have a page pinned; false if there is none of this number */
static bool
pin_page(IvfpqToast *toast, BlockNumber blkno)
{
	if (BufferIsValid(toast->buffer) && toast->blkno == blkno)
		return true;
	ivfpq_toast_pause(toast);
	if (!block_exists(toast, blkno))
		return false;
	toast->buffer = ivfpq_read_buffer(toast->table, blkno);
	toast->blkno = blkno;
	return true;
}

static Size
bytes_of_chunk(const IvfpqToastValue *value, uint32 i)
{
	return Min(TOAST_MAX_CHUNK_SIZE, VARATT_EXTERNAL_GET_EXTSIZE(value->pointer) - (Size) i * TOAST_MAX_CHUNK_SIZE);
}

/* The bytes of chunk i of a value, if that is what is at an offset of the pinned page, which is locked; else NULL */
static const char *
chunk_at(IvfpqToast *toast, OffsetNumber offset, const IvfpqToastValue *value, uint32 i)
{
	Page		page = BufferGetPage(toast->buffer);
	HeapTupleData row;
	ItemId		item;
	const char *start;
	const ChunkStart *fields;
	const struct varlena *chunk;

	if (offset < FirstOffsetNumber || offset > PageGetMaxOffsetNumber(page))
		return NULL;
	item = PageGetItemId(page, offset);
	if (!ItemIdIsNormal(item) || ItemIdGetLength(item) < SizeofHeapTupleHeader)
		return NULL;
	row.t_data = (HeapTupleHeader) PageGetItem(page, item);
	row.t_len = ItemIdGetLength(item);
	row.t_tableOid = RelationGetRelid(toast->table);
	ItemPointerSet(&row.t_self, toast->blkno, offset);
	if (HeapTupleHasNulls(&row) || HeapTupleHeaderGetNatts(row.t_data) != CHUNK_COLUMNS ||
		row.t_len < row.t_data->t_hoff + sizeof(ChunkStart) + VARHDRSZ)
		return NULL;

	start = (const char *) row.t_data + row.t_data->t_hoff;
	fields = (const ChunkStart *) start;
	chunk = (const struct varlena *) (start + sizeof(ChunkStart));
	if (fields->id != value->pointer.va_valueid || fields->seq != (int32) i ||
		VARATT_IS_EXTERNAL(chunk) || VARATT_IS_COMPRESSED(chunk) ||
		VARSIZE_ANY_EXHDR(chunk) != bytes_of_chunk(value, i) ||
		(const char *) chunk + VARSIZE_ANY(chunk) > (const char *) row.t_data + row.t_len ||
		!HeapTupleSatisfiesVisibility(&row, VQ_TOAST_SNAPSHOT(&toast->snapshot), toast->buffer))
		return NULL;
	return VARDATA_ANY(chunk);
}

/*
 * How many of a value's chunks, from the first on, are where its TIDs say, in the page of that one.  Their bytes
 * (chunks[0] those of the first) stay as long as the page is pinned.
 */
static uint32
chunks_in_page(IvfpqToast *toast, const IvfpqToastValue *value, uint32 first, const char **chunks)
{
	BlockNumber blkno = ItemPointerGetBlockNumberNoCheck(&value->tids[first]);
	uint32		count = 0;

	if (!pin_page(toast, blkno))
		return 0;
	LockBuffer(toast->buffer, BUFFER_LOCK_SHARE);
	for (uint32 i = first; i < value->nchunks && ItemPointerGetBlockNumberNoCheck(&value->tids[i]) == blkno; i++)
	{
		chunks[count] = chunk_at(toast, ItemPointerGetOffsetNumberNoCheck(&value->tids[i]), value, i);
		if (chunks[count] == NULL)
			break;
		count++;
	}
	LockBuffer(toast->buffer, BUFFER_LOCK_UNLOCK);
	return count;
}

/*
 * Where a value is if its first chunk is at this place.  Chunks that are not in that page are taken to follow in the
 * next ones, which is found out when they are read.
 */
static bool
find_by_place(IvfpqToast *toast, BlockNumber blkno, OffsetNumber offset, IvfpqToastValue *found)
{
	const char *chunks[IVFPQ_MAX_CHUNKS];
	uint32		count;

	for (uint32 i = 0; i < found->nchunks; i++)
		ItemPointerSet(&found->tids[i], blkno, offset + i);
	count = chunks_in_page(toast, found, 0, chunks);
	for (uint32 i = 0; i < count; i++)
		ivfpq_touch(chunks[i], bytes_of_chunk(found, i));
	for (uint32 i = count; i < found->nchunks; i++)
		ItemPointerSet(&found->tids[i], blkno + 1 + (i - count) / CHUNKS_PER_PAGE,
					   FirstOffsetNumber + (i - count) % CHUNKS_PER_PAGE);
	found->is_guess = count < found->nchunks;
	return count > 0;
}

/* Whether a place is behind all there is in its page, which has just been looked at: then the next one may be meant */
static bool
is_behind_page(const IvfpqToast *toast, const ItemPointerData *place)
{
	return BufferIsValid(toast->buffer) && toast->blkno == ItemPointerGetBlockNumber(place) &&
		ItemPointerGetOffsetNumber(place) > PageGetMaxOffsetNumber(BufferGetPage(toast->buffer));
}

/* Where a value is, by the index */
static bool
find_by_index(IvfpqToast *toast, IvfpqToastValue *found)
{
	uint32		nfound = 0;
	ScanKeyData key;
	ItemPointer tid;

	if (toast->indexes == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(toast));
		int			valid = toast_open_indexes(toast->table, AccessShareLock, &toast->indexes, &toast->nindexes);

		toast->scan = VQ_INDEX_BEGINSCAN(toast->table, toast->indexes[valid], VQ_TOAST_SNAPSHOT(&toast->snapshot), 1);
		MemoryContextSwitchTo(old);
	}
	ScanKeyInit(&key, CHUNK_ID, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(found->pointer.va_valueid));
	index_rescan(toast->scan, &key, 1, NULL, 0);

	/* to the end, where the scan lets go of its page; more entries than chunks are of a value that was there before */
	while ((tid = index_getnext_tid(toast->scan, ForwardScanDirection)) != NULL)
	{
		if (nfound < found->nchunks)
			found->tids[nfound] = *tid;
		nfound++;
	}
	found->is_guess = false;
	return nfound == found->nchunks;
}

bool
ivfpq_toast_find(IvfpqToast *toast, Datum value, const ItemPointerData *place, IvfpqToastValue *found)
{
	const struct varlena *stored = (const struct varlena *) DatumGetPointer(value);

	if (!VARATT_IS_EXTERNAL_ONDISK(stored))
		return false;
	VARATT_EXTERNAL_GET_POINTER(found->pointer, stored);
	found->nchunks = (VARATT_EXTERNAL_GET_EXTSIZE(found->pointer) + TOAST_MAX_CHUNK_SIZE - 1) / TOAST_MAX_CHUNK_SIZE;
	if (found->pointer.va_toastrelid != RelationGetRelid(toast->table) ||
		found->nchunks == 0 || found->nchunks > IVFPQ_MAX_CHUNKS)
		return false;
	if (ItemPointerIsValid(place) &&
		(find_by_place(toast, ItemPointerGetBlockNumber(place), ItemPointerGetOffsetNumber(place), found) ||
		 (is_behind_page(toast, place) &&
		  find_by_place(toast, ItemPointerGetBlockNumber(place) + 1, FirstOffsetNumber, found))))
		return true;
	return find_by_index(toast, found);
}

void
ivfpq_toast_after(const IvfpqToastValue *value, ItemPointer place)
{
	const ItemPointerData *last = &value->tids[value->nchunks - 1];

	ItemPointerSet(place, ItemPointerGetBlockNumberNoCheck(last), ItemPointerGetOffsetNumberNoCheck(last) + 1);
}

void
ivfpq_toast_approach(IvfpqToast *toast, const IvfpqToastValue *value, bool asks_system)
{
	BlockNumber last = BufferIsValid(toast->buffer) ? toast->blkno : InvalidBlockNumber;

	if (RelationUsesLocalBuffers(toast->table))
		return;
	for (uint32 i = 0; i < value->nchunks; i++)
	{
		ItemPointerData tid = value->tids[i];
		BlockNumber blkno = ItemPointerGetBlockNumberNoCheck(&tid);

		if (blkno != last && block_exists(toast, blkno))
			ivfpq_touch_row_page(toast->table, &tid, asks_system);
		last = blkno;
	}
}

/* Copy its chunks to the toast's value; false if one of them is not there */
static bool
read_chunks(IvfpqToast *toast, const IvfpqToastValue *value)
{
	char	   *to = toast->value + VARHDRSZ;

	for (uint32 i = 0; i < value->nchunks;)
	{
		const char *chunks[IVFPQ_MAX_CHUNKS];
		uint32		count = chunks_in_page(toast, value, i, chunks);

		if (count == 0)
			return false;
		for (uint32 j = 0; j < count; j++, i++)
		{
			memcpy(to, chunks[j], bytes_of_chunk(value, i));
			to += bytes_of_chunk(value, i);
		}
	}
	return true;
}

bool
ivfpq_toast_read(IvfpqToast *toast, IvfpqToastValue *value, Datum *read)
{
	Size		nbytes = VARATT_EXTERNAL_GET_EXTSIZE(value->pointer);

	if (toast->allocated < VARHDRSZ + nbytes)
	{
		MemoryContext context = GetMemoryChunkContext(toast);

		if (toast->value)
			pfree(toast->value);
		toast->allocated = 0;
		toast->value = MemoryContextAlloc(context, VARHDRSZ + nbytes);
		toast->allocated = VARHDRSZ + nbytes;
	}
	if (!read_chunks(toast, value) &&
		!(value->is_guess && find_by_index(toast, value) && read_chunks(toast, value)))
		return false;
	if (VARATT_EXTERNAL_IS_COMPRESSED(value->pointer))
		SET_VARSIZE_COMPRESSED(toast->value, VARHDRSZ + nbytes);
	else
		SET_VARSIZE(toast->value, VARHDRSZ + nbytes);
	*read = PointerGetDatum(toast->value);
	return true;
}

/* The value of a column of a row as the table has it, if that is out of line: copied to stored */
static bool
stored_value(Relation heap, ItemPointer tid, AttrNumber attno, char stored[TOAST_POINTER_SIZE])
{
	Buffer		buffer = ivfpq_read_buffer(heap, ItemPointerGetBlockNumber(tid));
	Page		page = BufferGetPage(buffer);
	OffsetNumber offset = ItemPointerGetOffsetNumber(tid);
	bool		is_found = false;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	if (offset <= PageGetMaxOffsetNumber(page) && ItemIdIsNormal(PageGetItemId(page, offset)))
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleData row = {.t_len = ItemIdGetLength(item), .t_self = *tid, .t_tableOid = RelationGetRelid(heap),
			.t_data = (HeapTupleHeader) PageGetItem(page, item)};
		bool		isnull;
		Datum		value = heap_getattr(&row, attno, RelationGetDescr(heap), &isnull);

		is_found = !isnull && VARATT_IS_EXTERNAL_ONDISK((struct varlena *) DatumGetPointer(value));
		if (is_found)
			memcpy(stored, DatumGetPointer(value), TOAST_POINTER_SIZE);
	}
	UnlockReleaseBuffer(buffer);
	return is_found;
}

void
ivfpq_toast_of_row(Relation heap, ItemPointer tid, AttrNumber attno, ItemPointer after, ItemPointer chunk_tid)
{
	char		stored[TOAST_POINTER_SIZE];
	IvfpqToastValue found;
	IvfpqToast *toast;

	ItemPointerSetInvalid(chunk_tid);
	if (heap->rd_tableam != GetHeapamTableAmRoutine() || !stored_value(heap, tid, attno, stored))
		return;
	toast = ivfpq_toast_begin(heap);
	if (toast == NULL)
		return;
	if (ivfpq_toast_find(toast, PointerGetDatum(stored), after, &found))
	{
		*chunk_tid = found.tids[0];
		ivfpq_toast_after(&found, after);
	}
	ivfpq_toast_end(toast);
}

void
ivfpq_toast_pause(IvfpqToast *toast)
{
	if (BufferIsValid(toast->buffer))
		ReleaseBuffer(toast->buffer);
	toast->buffer = InvalidBuffer;
}

void
ivfpq_toast_end(IvfpqToast *toast)
{
	ivfpq_toast_pause(toast);
	if (toast->indexes)
	{
		index_endscan(toast->scan);
		toast_close_indexes(toast->indexes, toast->nindexes, AccessShareLock);
	}
	table_close(toast->table, AccessShareLock);
	if (toast->value)
		pfree(toast->value);
	pfree(toast);
}
