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
 * With a GPU the leader hands its batches over and takes entries back later, in
 * the same order.  It keeps the rows until then: when the device fails, it
 * encodes them itself.
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

/* Rows transformed and assigned together, and brought to code space */
#define BATCH_ROWS				4096
#define PROJECTED_ROWS			256

/* Their centroids are fetched so many rows before their turn */
#define ROWS_AHEAD				2

/* What malloc keeps of what was freed, and cannot use */
#define UNUSED_BYTES			(3 * 1024 * 1024)

/* Of what a member may use, at most 1 / BATCH_PART for a batch, and for the sort at least this many kB */
#define BATCH_PART				8
#define MIN_SORT_KB				1024

/* Batches that a GPU has at once, and the one that is filled meanwhile */
#define GPU_BATCHES				4

typedef struct EncodeBatch
{
	size_t		nrows;
	float	   *rows;			/* [capacity][dim], in model space */
	ItemPointerData *tids;
	ItemPointerData *chunk_tids;
	bool	   *is_exact;		/* out of the model's range */
	int64	   *attributes;		/* [capacity][nattributes] */
} EncodeBatch;

typedef struct EncodeState
{
	IvfpqBuild *build;
	size_t		capacity;		/* of every batch */

	/* number n is in batches[n % nbatches]; those from ndone to nfilled are under way */
	int			nbatches;
	EncodeBatch batches[GPU_BATCHES];
	uint64		ndone;
	uint64		nfilled;
	size_t		limit;			/* rows for the one being filled, at most capacity */
	VqGpuBatch *gpu_batch;		/* where it will go, NULL without a GPU */

	uint32	   *labels;
	float	   *distances;
	IvfpqAssigner *assigner;
	VqNeighbours neighbours;	/* of the queries */
	void	   *neighbours_memory;
	const float *centroid_codes;	/* [nlists][pq.dim], centroids in code space */
	float	   *directions;		/* of the projection, if there is one */
	float	   *x_codes;		/* [PROJECTED_ROWS][pq.dim] */
	float	   *work;
	uint8	   *codes;			/* [m] */
	uint64	   *list_rows;		/* [nlists] */
	uint64		zero_vectors;
	Tuplesortstate *sort;
	TupleTableSlot *slot;
	bytea	   *payload;		/* PayloadStart, attributes and packed codes of one row */
} EncodeState;

/* What the sort has of each row, whatever the shape of entries */
typedef struct PayloadStart
{
	VqFactors	factors;
	ItemPointerData chunk_tid;
} PayloadStart;

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
	return VARHDRSZ + sizeof(PayloadStart) + shape->nattributes * sizeof(int64) + vq_code_bytes(shape);
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

static EncodeBatch *
batch_no(EncodeState *state, uint64 number)
{
	return &state->batches[number % state->nbatches];
}

/* Hand row i of a batch to the sort */
static void
put_entry(EncodeState *state, const EncodeBatch *batch, size_t i, uint32 list_no,
		  VqFactors factors, const uint8 *codes)
{
	const VqBlockShape *shape = &state->build->plan.shape;
	size_t		attribute_bytes = shape->nattributes * sizeof(int64);
	char	   *payload = VARDATA(state->payload);
	PayloadStart start = {.factors = factors, .chunk_tid = batch->chunk_tids[i]};

	if (batch->is_exact[i])
		vq_codec_encode_exact(&start.factors);
	memcpy(payload, &start, sizeof(PayloadStart));
	memcpy(payload + sizeof(PayloadStart), batch->attributes + i * shape->nattributes, attribute_bytes);
	pack_codes(shape, codes, (uint8 *) payload + sizeof(PayloadStart) + attribute_bytes);
	CHECK_FOR_INTERRUPTS();

	/* not of a heap, but perhaps of another access method */
	if (unlikely(ItemPointerGetOffsetNumber(&batch->tids[i]) > MaxOffsetNumber))
		elog(ERROR, "row (%u,%u) is beyond offset %d", ItemPointerGetBlockNumber(&batch->tids[i]),
			 ItemPointerGetOffsetNumber(&batch->tids[i]), (int) MaxOffsetNumber);
	ExecClearTuple(state->slot);
	state->slot->tts_values[0] = Int64GetDatum(sort_key(list_no, &batch->tids[i]));
	state->slot->tts_values[1] = PointerGetDatum(state->payload);
	state->slot->tts_isnull[0] = false;
	state->slot->tts_isnull[1] = false;
	ExecStoreVirtualTuple(state->slot);
	tuplesort_puttupleslot(state->sort, state->slot);
	state->list_rows[list_no]++;
}

/* Rows to code space, float[nrows][pq.dim] */
static void
project(const EncodeState *state, const float *rows, size_t nrows, float *codes)
{
	const VqCodec *codec = &state->build->codec;

	ivfpq_blas()->products(nrows, codec->pq.dim, codec->dim, rows, state->directions, codes);
}

/* The centroid of a row that is encoded soon to the processor's cache: it is hardly ever that of the row before */
static pg_attribute_always_inline void
touch_centroid(const EncodeState *state, size_t list_no)
{
	const IvfpqBuild *build = state->build;
	size_t		dim = build->meta.dim;
	size_t		code_dim = build->codec.pq.dim;

	ivfpq_touch(build->lists.centroids + list_no * dim, dim * sizeof(float));
	if (build->codec.is_projected)
		ivfpq_touch(state->centroid_codes + list_no * code_dim, code_dim * sizeof(float));
}

/* Assign and encode the rows of all batches that are filled and not done */
static void
encode_here(EncodeState *state)
{
	IvfpqBuild *build = state->build;
	const VqCodec *codec = &build->codec;
	size_t		dim = build->meta.dim;

	for (; state->ndone < state->nfilled; state->ndone++)
	{
		const EncodeBatch *batch = batch_no(state, state->ndone);

		ivfpq_assign(state->assigner, batch->rows, batch->nrows, state->labels, state->distances);
		vq_neighbours_offer(&state->neighbours, batch->rows, batch->nrows, state->labels, batch->is_exact);
		for (size_t i = 0; i < batch->nrows; i++)
		{
			size_t		place = i % PROJECTED_ROWS;
			size_t		list_no = state->labels[i];
			const float *x = batch->rows + i * dim;
			VqFactors	factors;

			if (i + ROWS_AHEAD < batch->nrows)
				touch_centroid(state, state->labels[i + ROWS_AHEAD]);
			if (codec->is_projected && place == 0)
				project(state, x, Min(PROJECTED_ROWS, batch->nrows - i), state->x_codes);
			vq_codec_encode(vq_kernels, codec, x, build->lists.centroids + list_no * dim,
							codec->is_projected ? state->x_codes + place * codec->pq.dim : x,
							state->centroid_codes + list_no * codec->pq.dim,
							state->work, state->codes, &factors);
			put_entry(state, batch, i, state->labels[i], factors, state->codes);
		}
	}
}

/* Take back what the GPU has encoded of the batch it has had longest */
static void
collect_batch(EncodeState *state)
{
	IvfpqGpu   *gpu = state->build->gpu;
	const EncodeBatch *batch = batch_no(state, state->ndone);
	uint32		m = state->build->plan.shape.m;
	VqGpuBatch *encoded;

	if (!ivfpq_gpu_encode_collect(gpu, &encoded))
	{
		encode_here(state);
		return;
	}
	if (state->ndone == state->nfilled || encoded == NULL || encoded->nrows != batch->nrows)
		elog(ERROR, "unexpected batch from the GPU plug-in");
	for (size_t i = 0; i < batch->nrows; i++)
	{
		if (encoded->labels[i] >= state->build->lists.nlists)
			elog(ERROR, "unexpected list %u from the GPU plug-in", encoded->labels[i]);
		put_entry(state, batch, i, encoded->labels[i], encoded->factors[i], encoded->codes + i * m);
	}
	vq_neighbours_offer(&state->neighbours, batch->rows, batch->nrows, encoded->labels, batch->is_exact);
	ivfpq_gpu_encode_release(gpu, encoded);
	state->ndone++;
}

/* Find room for the next batch, and on the GPU where there is one */
static void
begin_batch(EncodeState *state)
{
	IvfpqGpu   *gpu = state->build->gpu;

	state->gpu_batch = NULL;
	while (ivfpq_gpu_is_open(gpu) && state->gpu_batch == NULL)
	{
		if (state->nfilled - state->ndone < state->nbatches &&
			(!ivfpq_gpu_encode_acquire(gpu, &state->gpu_batch) || state->gpu_batch != NULL))
			break;
		collect_batch(state);
	}
	if (state->gpu_batch == NULL)
		encode_here(state);
	state->limit = state->gpu_batch ? Min(state->capacity, state->gpu_batch->capacity) : state->capacity;
	batch_no(state, state->nfilled)->nrows = 0;
}

/* The batch is full, or the last one: have it encoded */
static void
finish_batch(EncodeState *state)
{
	EncodeBatch *batch = batch_no(state, state->nfilled);
	size_t		dim = state->build->meta.dim;

	if (batch->nrows == 0)
		return;
	state->nfilled++;
	if (state->gpu_batch)
	{
		for (size_t i = 0; i < batch->nrows; i++)
			memcpy(state->gpu_batch->rows + i * state->gpu_batch->stride, batch->rows + i * dim, dim * sizeof(float));
		state->gpu_batch->nrows = batch->nrows;
		if (ivfpq_gpu_encode_submit(state->build->gpu, state->gpu_batch))
			return;
	}
	encode_here(state);
}

static void
encode_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	EncodeState *state = arg;
	IvfpqBuild *build = state->build;
	const VqBlockShape *shape = &build->plan.shape;
	MemoryContext old = MemoryContextSwitchTo(build->row_context);
	VqVector	vector;

	if (ivfpq_build_read(build, values, isnull, alive, &vector))
	{
		EncodeBatch *batch = batch_no(state, state->nfilled);
		size_t		i = batch->nrows++;

		batch->tids[i] = *tid;
		batch->chunk_tids[i] = build->chunk_tid;
		batch->is_exact[i] = vq_codec_transform(vq_kernels, &build->codec, vector.x,
												batch->rows + i * build->meta.dim) != VQ_OK;
		ivfpq_attributes_of(index, shape, values, isnull, batch->attributes + i * shape->nattributes);
		if (batch->nrows == state->limit)
		{
			finish_batch(state);
			begin_batch(state);
		}
	}
	else if (!isnull[0] && alive)
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
ivfpq_encode_bytes(const IvfpqBuild *build, uint32 nlists, size_t limit)
{
	const IvfpqBuildPlan *plan = &build->plan;
	size_t		dim = build->meta.dim;
	size_t		row_bytes = dim * sizeof(float);
	size_t		sum_bytes = nlists * dim * sizeof(double);
	size_t		other_bytes = ivfpq_assigner_bytes(nlists, dim) + ivfpq_plan_query_bytes(build) +
		batch_rows(build, limit) * row_bytes;
	VqCodec		codec;

	if (plan->is_projected && vq_codec_init(&codec, dim, plan->shape.m, plan->shape.nbits, true) == VQ_OK)
		other_bytes += (nlists + PROJECTED_ROWS + dim) * codec.pq.dim * sizeof(float);

	/* sums are gone by now, but what was freed need not be given back by malloc: it serves the rest, as far as that goes */
	return nlists * (row_bytes + sizeof(uint64)) + Max(sum_bytes, other_bytes) + UNUSED_BYTES;
}

/* What it takes to bring rows to code space, and centroids in it */
static void
begin_projection(EncodeState *state)
{
	const IvfpqLists *lists = &state->build->lists;
	const VqCodec *codec = &state->build->codec;
	float	   *centroid_codes;

	state->centroid_codes = lists->centroids;
	if (!codec->is_projected)
		return;
	state->directions = ivfpq_alloc_array(codec->pq.dim, codec->dim * sizeof(float));
	vq_project_unpack(&codec->projection, state->directions);
	state->x_codes = ivfpq_alloc_array(PROJECTED_ROWS, codec->pq.dim * sizeof(float));
	centroid_codes = ivfpq_alloc_array(lists->nlists, codec->pq.dim * sizeof(float));
	for (size_t first = 0; first < lists->nlists; first += PROJECTED_ROWS)
	{
		project(state, lists->centroids + first * codec->dim, Min(PROJECTED_ROWS, lists->nlists - first),
				centroid_codes + first * codec->pq.dim);
		CHECK_FOR_INTERRUPTS();
	}
	state->centroid_codes = centroid_codes;
}

static void
begin_encoding(EncodeState *state)
{
	IvfpqBuild *build = state->build;
	const VqBlockShape *shape = &build->plan.shape;
	size_t		row_bytes = build->meta.dim * sizeof(float);
	uint32		nlists = build->lists.nlists;
	size_t		limit = build->plan.member_bytes;
	size_t		used = ivfpq_encode_bytes(build, nlists, limit);
	TupleDesc	desc = sort_desc();
	SortCoordinate coordinate = NULL;

	state->capacity = batch_rows(build, ivfpq_gpu_is_open(build->gpu) ? limit / GPU_BATCHES : limit);
	state->nbatches = 1;
	if (ivfpq_gpu_encode_begin(build->gpu, &build->codec, &build->lists, state->capacity))
	{
		state->nbatches = GPU_BATCHES;
		used += (GPU_BATCHES - 1) * state->capacity * row_bytes;
	}
	for (int i = 0; i < state->nbatches; i++)
	{
		EncodeBatch *batch = &state->batches[i];

		batch->rows = palloc_extended(state->capacity * row_bytes, MCXT_ALLOC_HUGE);
		batch->tids = palloc(state->capacity * sizeof(ItemPointerData));
		batch->chunk_tids = palloc(state->capacity * sizeof(ItemPointerData));
		batch->is_exact = palloc(state->capacity * sizeof(bool));
		batch->attributes = palloc(state->capacity * Max(shape->nattributes, 1) * sizeof(int64));
	}
	state->labels = palloc(state->capacity * sizeof(uint32));
	state->distances = palloc(state->capacity * sizeof(float));
	state->assigner = ivfpq_assigner_create(&build->lists, IVFPQ_ASSIGNED_GROUPS);
	state->neighbours_memory = ivfpq_alloc_array(vq_neighbours_bytes(build->queries.count, build->meta.dim), 1);
	vq_neighbours_init(&state->neighbours, vq_kernels, ivfpq_blas(), build->meta.metric, build->queries.rows,
					   build->queries.count, build->meta.dim, state->neighbours_memory);
	begin_projection(state);
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

/* Counts of this member, list_rows among them, to counts of the team; afterwards all have sorted their part */
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
	VqSpread	spread;

	begin_encoding(&state);
	begin_batch(&state);
	if (build->parallel_scan)
		scan = VQ_BEGINSCAN_PARALLEL(build->heap, build->parallel_scan);
	build->heap_tuples = table_index_build_scan(build->heap, build->index, build->info, true,
												ivfpq_team_is_leader(&build->team),
												encode_row, &state, scan);
	ivfpq_build_end_reading(build);
	finish_batch(&state);
	while (state.ndone < state.nfilled)
		collect_batch(&state);
	ivfpq_gpu_close(build->gpu);
	tuplesort_performsort(state.sort);
	add_up_counts(&state);
	ivfpq_choose_nprobes(&build->team, build->meta.metric, &build->lists, state.list_rows, &build->queries, &state.neighbours,
						 &spread, build->meta.nprobes);
	build->meta.spread = (IvfpqSpread) {.rank = spread.rank, .mean = spread.mean, .power = spread.power};
	pfree(build->queries.rows);
	MemoryContextSwitchTo(old);
	if (build->shared_sort)
	{
		tuplesort_end(state.sort);
		MemoryContextDelete(context);
		return;
	}
	ivfpq_assigner_free(state.assigner);
	pfree(state.neighbours_memory);
	if (build->codec.is_projected)
		pfree(unconstify(float *, state.centroid_codes));
	for (int i = 0; i < state.nbatches; i++)
		pfree(state.batches[i].rows);
	build->sort = state.sort;
}

void
ivfpq_encode_write(IvfpqBuild *build)
{
	TupleDesc	desc = sort_desc();
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	const VqBlockShape *shape = &build->plan.shape;
	uint8	   *codes = palloc(shape->m);
	Tuplesortstate *sort = build->sort;
	size_t		limit = (size_t) maintenance_work_mem * 1024;
	size_t		used = ivfpq_encode_bytes(build, build->lists.nlists, build->plan.member_bytes) +
		build->lists.nlists * build->meta.dim * sizeof(double);

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
		PayloadStart start;
		int64		attributes[VQ_MAX_ATTRIBUTES];
		IvfpqEntry	entry = {.factors = &start.factors, .codes = codes, .attributes = attributes};

		ItemPointerSet(&entry.tid, (BlockNumber) (key >> 12), (OffsetNumber) (key & 0xFFF));
		memcpy(&start, payload, sizeof(PayloadStart));
		entry.chunk_tid = start.chunk_tid;
		memcpy(attributes, payload + sizeof(PayloadStart), shape->nattributes * sizeof(int64));
		unpack_codes(shape, (uint8 *) payload + sizeof(PayloadStart) + shape->nattributes * sizeof(int64), codes);
		ivfpq_writer_add(build->writer, (uint32) (key >> 44), &entry);
		if (written % 1024 == 0)
		{
			pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, written);
			CHECK_FOR_INTERRUPTS();
		}
	}
	pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, (int64) build->meta.build_rows);
	tuplesort_end(sort);
}
