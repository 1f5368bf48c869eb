/*-------------------------------------------------------------------------
 *
 * ivfpq_encode.c
 *	  From the rows of the table to entries in the order of lists.
 *
 * The members of the team share one scan of the table.  Each assigns and
 * encodes rows in batches and sorts its entries; the leader merges and writes
 * them.  The order is that of list and TID, so it does not depend on who met
 * which row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "am/ivfpq_build.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/progress.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/backend_progress.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"
#include "base/vqpg_compat.h"

/* Rows transformed and assigned together */
#define BATCH_ROWS				4096

/* Of what a member may use, at most 1 / BATCH_PART for a batch, and for the sort at least this many kB */
#define BATCH_PART				8
#define MIN_SORT_KB				1024

typedef struct EncodeState
{
	IvfpqBuild *build;
	size_t		capacity;		/* of a batch */
	size_t		nrows;
	float	   *rows;			/* [capacity][dim], in model space */
	ItemPointerData *tids;
	bool	   *is_exact;		/* out of the model's range */
	uint32	   *labels;
	float	   *distances;
	IvfpqAssigner *assigner;
	float	   *work;
	uint8	   *codes;			/* [m] */
	uint64	   *list_rows;		/* [nlists] */
	uint64		zero_vectors;
	Tuplesortstate *sort;
	TupleTableSlot *slot;
	bytea	   *payload;		/* VqFactors and packed codes of one row */
} EncodeState;

/* Sort key: list, then TID, so that the order does not depend on anything else */
static int64
sort_key(uint32 list_no, ItemPointer tid)
{
	return ((int64) list_no << 44) |
		((int64) ItemPointerGetBlockNumber(tid) << 12) | ItemPointerGetOffsetNumber(tid);
}

StaticAssertDecl(MaxOffsetNumber < (1 << 12), "offset numbers have 12 bits in sort keys");
StaticAssertDecl(IVFPQ_MAX_LISTS <= (1 << 19), "list numbers have 19 bits in sort keys");

static size_t
payload_bytes(const VqBlockShape *shape)
{
	return VARHDRSZ + sizeof(VqFactors) + vq_code_bytes(shape);
}

static void
pack_codes(const VqBlockShape *shape, const uint8 *codes, uint8 *packed)
{
	if (shape->nbits == 8)
		memcpy(packed, codes, shape->m);
	else
		for (uint32 j = 0; j < shape->m; j += 2)
			packed[j / 2] = codes[j] | (j + 1 < shape->m ? codes[j + 1] << 4 : 0);
}

static void
unpack_codes(const VqBlockShape *shape, const uint8 *packed, uint8 *codes)
{
	if (shape->nbits == 8)
		memcpy(codes, packed, shape->m);
	else
		for (uint32 j = 0; j < shape->m; j++)
			codes[j] = j % 2 == 0 ? packed[j / 2] & 15 : packed[j / 2] >> 4;
}

static TupleDesc
sort_desc(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(2);

	TupleDescInitEntry(desc, 1, "key", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 2, "payload", BYTEAOID, -1, 0);
	VQ_TUPDESC_DONE(desc);
	return desc;
}

static Tuplesortstate *
begin_sort(TupleDesc desc, size_t bytes, SortCoordinate coordinate)
{
	AttrNumber	columns[1] = {1};
	Oid			operators[1] = {Int8LessOperator};
	Oid			collations[1] = {InvalidOid};
	bool		nulls_first[1] = {false};

	return tuplesort_begin_heap(desc, 1, columns, operators, collations, nulls_first,
								(int) Max(bytes / 1024, MIN_SORT_KB), coordinate, TUPLESORT_NONE);
}

/* Assign and encode the rows of the batch, and hand them to the sort */
static void
flush_batch(EncodeState *state)
{
	IvfpqBuild *build = state->build;
	const VqBlockShape *shape = &build->plan.shape;
	uint32		dim = build->meta.dim;

	ivfpq_assign(state->assigner, state->rows, state->nrows, state->labels, state->distances);
	for (size_t i = 0; i < state->nrows; i++)
	{
		uint32		list_no = state->labels[i];
		VqFactors	factors;

		vq_codec_encode(vq_kernels, &build->codec, state->rows + i * dim,
						build->lists.centroids + (size_t) list_no * dim, state->work,
						state->codes, &factors);
		if (state->is_exact[i])
			vq_codec_encode_exact(&factors);
		memcpy(VARDATA(state->payload), &factors, sizeof(VqFactors));
		pack_codes(shape, state->codes, (uint8 *) VARDATA(state->payload) + sizeof(VqFactors));
		CHECK_FOR_INTERRUPTS();

		ExecClearTuple(state->slot);
		state->slot->tts_values[0] = Int64GetDatum(sort_key(list_no, &state->tids[i]));
		state->slot->tts_values[1] = PointerGetDatum(state->payload);
		state->slot->tts_isnull[0] = false;
		state->slot->tts_isnull[1] = false;
		ExecStoreVirtualTuple(state->slot);
		tuplesort_puttupleslot(state->sort, state->slot);
		state->list_rows[list_no]++;
	}
	state->nrows = 0;
}

static void
encode_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	EncodeState *state = arg;
	IvfpqBuild *build = state->build;
	MemoryContext old = MemoryContextSwitchTo(build->row_context);
	VqVector	vector;

	if (ivfpq_build_read(build, values, isnull, &vector))
	{
		size_t		i = state->nrows++;

		state->tids[i] = *tid;
		state->is_exact[i] = vq_codec_transform(vq_kernels, &build->codec, vector.x,
												state->rows + i * build->meta.dim) != VQ_OK;
		if (state->nrows == state->capacity)
			flush_batch(state);
	}
	else if (!isnull[0])
		state->zero_vectors++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(build->row_context);
}

static size_t
batch_rows(const IvfpqBuild *build, size_t limit)
{
	return Max(32, Min(BATCH_ROWS, limit / BATCH_PART / (build->meta.dim * sizeof(float))));
}

size_t
ivfpq_encode_bytes(const IvfpqBuild *build, uint32 nlists)
{
	size_t		row_bytes = build->meta.dim * sizeof(float);

	/* sums are gone by now, but what was freed need not be given back by malloc: so count them */
	return nlists * (build->meta.dim * (sizeof(float) + sizeof(double)) + sizeof(uint64)) +
		ivfpq_assigner_bytes(nlists, build->meta.dim) +
		batch_rows(build, (size_t) maintenance_work_mem * 1024) * row_bytes;
}

static void
begin_encoding(EncodeState *state)
{
	IvfpqBuild *build = state->build;
	const VqBlockShape *shape = &build->plan.shape;
	size_t		row_bytes = build->meta.dim * sizeof(float);
	uint32		nlists = build->lists.nlists;
	size_t		limit = build->plan.member_bytes;
	size_t		used = ivfpq_encode_bytes(build, nlists);
	TupleDesc	desc = sort_desc();
	SortCoordinate coordinate = NULL;

	state->capacity = batch_rows(build, limit);
	state->rows = palloc_extended(state->capacity * row_bytes, MCXT_ALLOC_HUGE);
	state->tids = palloc(state->capacity * sizeof(ItemPointerData));
	state->is_exact = palloc(state->capacity * sizeof(bool));
	state->labels = palloc(state->capacity * sizeof(uint32));
	state->distances = palloc(state->capacity * sizeof(float));
	state->assigner = ivfpq_assigner_create(&build->lists, IVFPQ_FINAL_GROUPS);
	state->work = palloc(vq_codec_encode_floats(&build->codec) * sizeof(float));
	state->codes = palloc(shape->m);
	state->list_rows = palloc0(nlists * sizeof(uint64));
	state->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	state->payload = palloc0(payload_bytes(shape));
	SET_VARSIZE(state->payload, payload_bytes(shape));

	if (build->shared_sort)
	{
		coordinate = palloc0(sizeof(SortCoordinateData));
		coordinate->isWorker = true;
		coordinate->nParticipants = -1;
		coordinate->sharedsort = build->shared_sort;
	}
	state->sort = begin_sort(desc, limit > used ? limit - used : 0, coordinate);
}

/* Counts of this member to counts of the team; afterwards all have sorted their part */
static void
add_up_counts(EncodeState *state)
{
	IvfpqBuild *build = state->build;
	IvfpqTeam  *team = &build->team;
	uint64		counts[] = {state->zero_vectors, build->info->ii_BrokenHotChain};

	ivfpq_team_sum_u64(team, state->list_rows, build->lists.nlists);
	ivfpq_team_sum_u64(team, counts, lengthof(counts));
	ivfpq_team_sum_f64(team, &build->heap_tuples, 1);

	/*
	 * CREATE INDEX CONCURRENTLY brings rows without an entry again when it
	 * validates the index: zero vectors are counted then, by ivfpqinsert.
	 */
	if (!build->info->ii_Concurrent)
		build->meta.zero_vectors = counts[0];
	build->info->ii_BrokenHotChain = counts[1] > 0;
	build->meta.build_rows = 0;
	for (uint32 i = 0; i < build->lists.nlists; i++)
		build->meta.build_rows += state->list_rows[i];
	build->meta.imbalance = vq_kmeans_imbalance(state->list_rows, build->lists.nlists);
}

void
ivfpq_encode_table(IvfpqBuild *build)
{
	/* what is allocated here goes with it, but for the sort of a team of one */
	MemoryContext context = AllocSetContextCreate(build->context, "ivfpq encoding", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EncodeState state = {.build = build};
	TableScanDesc scan = NULL;

	begin_encoding(&state);
	if (build->parallel_scan)
		scan = VQ_BEGINSCAN_PARALLEL(build->heap, build->parallel_scan);
	build->heap_tuples = table_index_build_scan(build->heap, build->index, build->info, true,
												ivfpq_team_is_leader(&build->team),
												encode_row, &state, scan);
	flush_batch(&state);
	tuplesort_performsort(state.sort);
	add_up_counts(&state);
	MemoryContextSwitchTo(old);
	if (build->shared_sort)
	{
		tuplesort_end(state.sort);
		MemoryContextDelete(context);
		return;
	}
	ivfpq_assigner_free(state.assigner);
	pfree(state.rows);
	build->sort = state.sort;
}

void
ivfpq_encode_write(IvfpqBuild *build)
{
	TupleDesc	desc = sort_desc();
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	uint8	   *codes = palloc(build->plan.shape.m);
	Tuplesortstate *sort = build->sort;
	size_t		limit = (size_t) maintenance_work_mem * 1024;
	size_t		used = ivfpq_encode_bytes(build, build->lists.nlists);

	ivfpq_writer_directory(build->writer, &build->plan.shape, build->lists.nlists);
	pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_TOTAL, (int64) build->meta.build_rows);
	if (build->shared_sort)
	{
		SortCoordinate coordinate = palloc0(sizeof(SortCoordinateData));

		/* the workers have ended, or are about to: their memory is the leader's */
		coordinate->isWorker = false;
		coordinate->nParticipants = build->team.size;
		coordinate->sharedsort = build->shared_sort;
		sort = begin_sort(desc, limit > used ? limit - used : 0, coordinate);
		tuplesort_performsort(sort);
	}
	for (int64 written = 1; tuplesort_gettupleslot(sort, true, false, slot, NULL); written++)
	{
		bool		isnull;
		int64		key = DatumGetInt64(slot_getattr(slot, 1, &isnull));
		char	   *payload = VARDATA_ANY(DatumGetPointer(slot_getattr(slot, 2, &isnull)));
		ItemPointerData tid;
		VqFactors	factors;

		ItemPointerSet(&tid, (BlockNumber) (key >> 12), (OffsetNumber) (key & 0xFFF));
		memcpy(&factors, payload, sizeof(VqFactors));
		unpack_codes(&build->plan.shape, (uint8 *) payload + sizeof(VqFactors), codes);
		ivfpq_writer_add(build->writer, (uint32) (key >> 44), &tid, &factors, codes);
		if (written % 1024 == 0)
		{
			pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, written);
			CHECK_FOR_INTERRUPTS();
		}
	}
	pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, (int64) build->meta.build_rows);
	tuplesort_end(sort);
}
