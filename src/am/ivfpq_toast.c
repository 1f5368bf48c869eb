/*-------------------------------------------------------------------------
 *
 * ivfpq_toast.c
 *	  Vectors that are stored out of line.
 *
 * To get such a value the server opens the TOAST table and its indexes, looks for the
 * value's chunks, reads each, and closes all again; nobody can ask for one that
 * is wanted later.  A search, which gets some thirty, keeps them open: it finds out
 * from the index where the chunks of a value are, asks for those pages, and
 * reads them when it is the value's turn.
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
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/toast_internals.h"
#include "am/ivfpq_search.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "base/vqpg_compat.h"

/* Columns of every TOAST table */
#define CHUNK_ID		1
#define CHUNK_SEQ		2
#define CHUNK_DATA		3

struct IvfpqToast
{
	Relation	table;
	Relation   *indexes;
	int			nindexes;
	bool		is_heap;		/* the table's access method is the built-in one */
	VqToastSnapshot snapshot;
	IndexScanDesc scan;
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
	char	   *value;			/* the last one read */
	Size		allocated;
};

IvfpqToast *
ivfpq_toast_begin(Relation heap)
{
	IvfpqToast *toast = palloc0(sizeof(IvfpqToast));
	int			valid;

	toast->table = table_open(heap->rd_rel->reltoastrelid, AccessShareLock);
	valid = toast_open_indexes(toast->table, AccessShareLock, &toast->indexes, &toast->nindexes);
	toast->is_heap = toast->table->rd_tableam == GetHeapamTableAmRoutine();
	VQ_TOAST_SNAPSHOT_INIT(&toast->snapshot);
	toast->scan = VQ_INDEX_BEGINSCAN(toast->table, toast->indexes[valid], VQ_TOAST_SNAPSHOT(&toast->snapshot), 1);
	toast->fetch = VQ_FETCH_BEGIN(toast->table);
	toast->slot = table_slot_create(toast->table, NULL);
	return toast;
}

bool
ivfpq_toast_find(IvfpqToast *toast, Datum value, IvfpqToastValue *found)
{
	const struct varlena *stored = (const struct varlena *) DatumGetPointer(value);
	uint32		nfound = 0;
	ScanKeyData key;
	ItemPointer tid;

	if (!VARATT_IS_EXTERNAL_ONDISK(stored))
		return false;
	VARATT_EXTERNAL_GET_POINTER(found->pointer, stored);
	found->nchunks = (VARATT_EXTERNAL_GET_EXTSIZE(found->pointer) + TOAST_MAX_CHUNK_SIZE - 1) / TOAST_MAX_CHUNK_SIZE;
	if (found->pointer.va_toastrelid != RelationGetRelid(toast->table) || found->nchunks > IVFPQ_MAX_CHUNKS)
		return false;

	ScanKeyInit(&key, CHUNK_ID, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(found->pointer.va_valueid));
	index_rescan(toast->scan, &key, 1, NULL, 0);

	/* to the end, where the scan lets go of its page; more entries than chunks are of a value that was there before */
	while ((tid = index_getnext_tid(toast->scan, ForwardScanDirection)) != NULL)
	{
		if (nfound < found->nchunks)
			found->tids[nfound] = *tid;
		nfound++;
	}
	return nfound == found->nchunks;
}

void
ivfpq_toast_approach(IvfpqToast *toast, const IvfpqToastValue *value, bool asks_system)
{
	BlockNumber last = InvalidBlockNumber;

	if (!toast->is_heap || RelationUsesLocalBuffers(toast->table))
		return;
	for (uint32 i = 0; i < value->nchunks; i++)
	{
		ItemPointerData tid = value->tids[i];

		if (ItemPointerGetBlockNumber(&tid) != last)
			ivfpq_touch_row_page(toast->table, &tid, asks_system);
		last = ItemPointerGetBlockNumber(&tid);
	}
}

/* The bytes of chunk i, of which there are to be so many; NULL if that is not what is there */
static const char *
read_chunk(IvfpqToast *toast, const IvfpqToastValue *value, uint32 i, Size nbytes)
{
	ItemPointerData tid = value->tids[i];
	bool		call_again = false;
	bool		all_dead = false;
	bool		is_null[3];
	Oid			id;
	uint32		seq;
	const struct varlena *chunk;

	if (toast->is_heap)
		(void) ivfpq_pin_for_fetch(toast->fetch, &tid);
	if (!table_index_fetch_tuple(toast->fetch, &tid, VQ_TOAST_SNAPSHOT(&toast->snapshot), toast->slot,
								 &call_again, &all_dead))
		return NULL;
	id = DatumGetObjectId(slot_getattr(toast->slot, CHUNK_ID, &is_null[0]));
	seq = DatumGetInt32(slot_getattr(toast->slot, CHUNK_SEQ, &is_null[1]));
	chunk = (const struct varlena *) DatumGetPointer(slot_getattr(toast->slot, CHUNK_DATA, &is_null[2]));
	if (is_null[0] || is_null[1] || is_null[2] || id != value->pointer.va_valueid || seq != i ||
		VARATT_IS_EXTERNAL(chunk) || VARATT_IS_COMPRESSED(chunk) || VARSIZE_ANY_EXHDR(chunk) != nbytes)
		return NULL;
	return VARDATA_ANY(chunk);
}

bool
ivfpq_toast_read(IvfpqToast *toast, const IvfpqToastValue *value, Datum *read)
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
	for (uint32 i = 0; i < value->nchunks; i++)
	{
		Size		start = (Size) i * TOAST_MAX_CHUNK_SIZE;
		Size		chunk_bytes = Min(TOAST_MAX_CHUNK_SIZE, nbytes - start);
		const char *chunk = read_chunk(toast, value, i, chunk_bytes);

		if (chunk == NULL)
			return false;
		memcpy(toast->value + VARHDRSZ + start, chunk, chunk_bytes);
	}
	if (VARATT_EXTERNAL_IS_COMPRESSED(value->pointer))
		SET_VARSIZE_COMPRESSED(toast->value, VARHDRSZ + nbytes);
	else
		SET_VARSIZE(toast->value, VARHDRSZ + nbytes);
	*read = PointerGetDatum(toast->value);
	return true;
}

void
ivfpq_toast_pause(IvfpqToast *toast)
{
	ExecClearTuple(toast->slot);
	table_index_fetch_reset(toast->fetch);
	if (toast->is_heap)
		ivfpq_unpin_for_fetch(toast->fetch);
}

void
ivfpq_toast_end(IvfpqToast *toast)
{
	ExecDropSingleTupleTableSlot(toast->slot);
	table_index_fetch_end(toast->fetch);
	index_endscan(toast->scan);
	toast_close_indexes(toast->indexes, toast->nindexes, AccessShareLock);
	table_close(toast->table, AccessShareLock);
}
