/*-------------------------------------------------------------------------
 *
 * ivfpq_build.c
 *	  ambuild: sample, train, assign and encode, sort by list, write.
 *
 * Memory.  One plan is made from maintenance_work_mem before anything is
 * allocated.  While training it is shared by the centroids with their sums and
 * by the sample; afterwards by the centroids, one batch of rows and the sort.
 * Less memory means a smaller sample, or fewer lists, and one NOTICE.
 *
 * A table that is empty or small is not trained on nothing: its index is one
 * list without codes, and every row is compared exactly.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/tableam.h"
#include "am/ivfpq_train.h"
#include "catalog/index.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/progress.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "storage/bufmgr.h"
#include "utils/backend_progress.h"
#include "utils/memutils.h"
#include "utils/sampling.h"
#include "utils/tuplesort.h"

#include "base/vq_datum.h"
#include "base/vq_guc.h"
#include "base/vqpg_compat.h"

/* Blocks read to learn how many rows there are; more while they have fewer rows than that */
#define COUNTING_BLOCKS			300
#define COUNTED_ROWS			1000

/* lists = auto: LISTS_PER_ROOT * sqrt(rows), and so that a list has ROWS_PER_LIST rows or more */
#define LISTS_PER_ROOT			4.0
#define ROWS_PER_LIST			39
#define MAX_AUTO_LISTS			65536

/* train_rows = auto: per list */
#define TRAIN_ROWS_PER_LIST		64

/* Bytes may stand for centroids if rounding adds no more than this to the error of residuals */
#define MAX_ROUNDING			0.01

/*
 * Dimensions of a sub-quantiser of centroids.  They are few and compared
 * exactly in the end, so coarser codes than those of rows do.
 */
#define COARSE_DIMS				4

/* Rows transformed and assigned together */
#define BATCH_ROWS				4096

typedef struct BuildState
{
	Relation	heap;
	Relation	index;
	IndexInfo  *info;
	IvfpqOptions *options;
	MemoryContext context;		/* of everything below */
	MemoryContext row_context;	/* reset for each row */

	IvfpqMetaPageData meta;
	VqBlockShape shape;
	IvfpqWriter *writer;
	double		heap_tuples;

	/* sampling */
	double		estimated_rows;
	IvfpqSample sample;
	size_t		sample_capacity;
	uint64		sample_seen;
	VqRng		rng;

	/* the model, if trained */
	VqCodec		codec;
	float	   *mean;
	IvfpqLists	lists;
	float	   *codebook;

	/* encoding */
	size_t		batch_capacity;
	size_t		batch_rows;
	float	   *batch;			/* [batch_capacity][dim], in model space */
	ItemPointerData *batch_tids;
	bool	   *batch_is_exact; /* out of the model's range */
	uint32	   *batch_labels;
	float	   *batch_distances;
	IvfpqAssigner *assigner;
	float	   *encode_work;
	uint8	   *codes;
	uint64	   *list_rows;		/* [nlists] */
	Tuplesortstate *sort;
	TupleTableSlot *sort_in;
	TupleTableSlot *sort_out;
	bytea	   *payload;		/* VqFactors and codes of one row */
} BuildState;

static size_t
memory_limit(void)
{
	return (size_t) maintenance_work_mem * 1024;
}

/*
 * Count a row that was left out because it is a zero vector.  CREATE INDEX
 * CONCURRENTLY brings such rows again when it validates the index, because the
 * index has no entry for them: then they are counted by ivfpqinsert.
 */
static void
count_zero_vector(BuildState *state)
{
	if (!state->info->ii_Concurrent)
		state->meta.zero_vectors++;
}

/*
 * Read the indexed value of a row.  False for what an index leaves out: NULL,
 * and under cosine the zero vector.
 */
static bool
read_row(BuildState *state, Datum *values, bool *isnull, VqVector *vector)
{
	if (isnull[0])
		return false;
	vq_datum_read(values[0], state->index->rd_opcintype[0], vector);
	if (state->meta.dim == 0)
		state->meta.dim = vector->dim;
	ivfpq_check_dim(state->index, state->meta.dim, vector->dim);
	return state->meta.metric != VQ_METRIC_COSINE ||
		vq_inner_product(vector->x, vector->x, vector->dim) > 0;
}

/*----------
 * Sampling
 *----------
 */

static void
count_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	BuildState *state = arg;
	MemoryContext old = MemoryContextSwitchTo(state->row_context);
	VqVector	vector;

	if (read_row(state, values, isnull, &vector))
		state->sample_seen++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->row_context);
}

/* Reservoir sampling: after n rows each is in the sample with the same chance */
static void
sample_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	BuildState *state = arg;
	IvfpqSample *sample = &state->sample;
	MemoryContext old = MemoryContextSwitchTo(state->row_context);
	VqVector	vector;

	if (read_row(state, values, isnull, &vector))
	{
		size_t		place = sample->nrows;

		state->sample_seen++;
		if (place == state->sample_capacity)
			place = vq_rng_below(&state->rng, state->sample_seen);
		else
			sample->nrows++;
		if (place < state->sample_capacity)
			memcpy(sample->rows + place * sample->dim, vector.x, sample->dim * sizeof(float));
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->row_context);
}

/* Give the rows of up to max_blocks random blocks to a callback; returns the share of blocks read */
static double
scan_random_blocks(BuildState *state, BlockNumber max_blocks, IndexBuildCallback callback)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(state->heap);
	BlockSamplerData sampler;
	BlockNumber nread = 0;

	if (nblocks == 0)
		return 1.0;
	BlockSampler_Init(&sampler, nblocks, Min(nblocks, max_blocks), (uint32) IVFPQ_SEED);
	while (BlockSampler_HasMore(&sampler))
	{
		CHECK_FOR_INTERRUPTS();
		table_index_build_range_scan(state->heap, state->index, state->info, false, false, false,
									 BlockSampler_Next(&sampler), 1, callback, state, NULL);
		nread++;
	}
	return (double) nread / nblocks;
}

static void
estimate_rows(BuildState *state)
{
	BlockNumber max_blocks = COUNTING_BLOCKS;
	double		share;

	/* a partial index can have all its rows in a few blocks */
	for (;;)
	{
		state->sample_seen = 0;
		share = scan_random_blocks(state, max_blocks, count_row);
		if (state->sample_seen >= COUNTED_ROWS || share >= 1.0)
			break;
		max_blocks = max_blocks < MaxBlockNumber / 4 ? 4 * max_blocks : MaxBlockNumber;
	}
	state->estimated_rows = ceil(state->sample_seen / share);
}

/*----------
 * What to build
 *----------
 */

/*
 * Sub-quantisers of dsub dimensions, or of as many more as it takes that a
 * block of this capacity fits a page
 */
static uint32
fitting_m(uint32 dim, uint32 nbits, uint32 dsub, size_t capacity)
{
	VqBlockShape shape = {.m = (dim + dsub - 1) / dsub, .nbits = nbits};

	while (vq_block_bytes(&shape, capacity) > IVFPQ_PAGE_BYTES)
	{
		dsub++;
		shape.m = (dim + dsub - 1) / dsub;
	}
	return shape.m;
}

/* Two dimensions to a 4-bit sub-quantiser, and for the same bytes four to one of 8 bits */
static uint32
auto_m(uint32 dim, uint32 nbits)
{
	return fitting_m(dim, nbits, nbits == 8 ? 4 : 2, VQ_BLOCK_LANES / 2);
}

/* Settle m and nbits, from the options and the dimension */
static void
choose_codes(BuildState *state)
{
	uint32		dim = state->meta.dim;
	uint32		m = state->options->m;

	state->shape.nbits = state->options->nbits;
	state->shape.m = m > 0 ? m : auto_m(dim, state->shape.nbits);
	if (state->shape.m > dim)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of sub-quantisers must not exceed the number of dimensions"),
				 errdetail("Vectors have %u dimensions, and \"m\" is %u.", dim, m),
				 errhint("Choose \"m\" of at most %u, or 0 for %u.", dim, auto_m(dim, state->shape.nbits))));
	if (vq_block_bytes(&state->shape, VQ_BLOCK_LANES / 2) > IVFPQ_PAGE_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("codes of %zu bytes do not fit a page", vq_code_bytes(&state->shape)),
				 errdetail("\"m\" is %u and \"nbits\" is %u.", m, state->shape.nbits),
				 errhint("Choose \"m\" of at most %u, or 0 for %u.",
						 (uint32) ((IVFPQ_PAGE_BYTES - sizeof(VqBlockHeader)) / (VQ_BLOCK_LANES / 2) - 13) *
						 8 / state->shape.nbits,
						 auto_m(dim, state->shape.nbits))));
}

/* Settle the number of lists and of rows to train them on, within memory */
static void
choose_lists(BuildState *state, uint32 *nlists, size_t *train_rows)
{
	size_t		row_bytes = state->meta.dim * sizeof(float);
	size_t		dsub = (state->meta.dim + state->shape.m - 1) / state->shape.m;

	/* a row, its label, and its part in the training of a sub-quantiser */
	size_t		sample_row_bytes = row_bytes + sizeof(uint32) + dsub * sizeof(float) + 1;
	size_t		list_bytes = state->meta.dim * (sizeof(float) + sizeof(double)) + 64;
	size_t		reserved;
	size_t		limit;
	double		wanted_lists = state->options->lists;
	double		wanted_rows = state->options->train_rows;
	double		possible_rows;

	if (wanted_lists == 0)
		wanted_lists = Min(LISTS_PER_ROOT * sqrt(state->estimated_rows),
						   Min(state->estimated_rows / ROWS_PER_LIST, MAX_AUTO_LISTS));
	*nlists = Max(1, (uint32) Min(wanted_lists, state->estimated_rows));

	/* what is neither lists nor sample */
	reserved = ivfpq_assigner_bytes(*nlists, state->meta.dim) + 1024 * 1024;
	limit = Max(memory_limit(), 2 * reserved) - reserved;
	if (*nlists > limit / 2 / list_bytes)
		*nlists = Max(1, limit / 2 / list_bytes);

	if (wanted_rows == 0)
		wanted_rows = Max((double) *nlists * TRAIN_ROWS_PER_LIST,
						  (double) IVFPQ_ROWS_PER_CODE * (1 << state->shape.nbits));
	wanted_rows = Min(wanted_rows, state->estimated_rows);
	possible_rows = (limit - *nlists * list_bytes) / sample_row_bytes;
	*train_rows = Max(1, (size_t) Min(wanted_rows, possible_rows));
	*nlists = Min(*nlists, *train_rows);

	if (*nlists < (uint32) wanted_lists || *train_rows < (size_t) wanted_rows)
		ereport(NOTICE,
				(errmsg("index \"%s\" is trained with less than it could use",
						RelationGetRelationName(state->index)),
				 errdetail("%u lists are trained on %zu rows; %.0f lists and %.0f rows were wanted.",
						   *nlists, *train_rows, floor(wanted_lists), floor(wanted_rows)),
				 *nlists < (uint32) wanted_lists && wanted_lists > state->estimated_rows ?
				 errhint("The table has about %.0f rows.", state->estimated_rows) :
				 *nlists == (uint32) wanted_rows ?
				 errhint("Set \"train_rows\" to %.0f or more.", floor(wanted_lists)) :
				 errhint("Set \"maintenance_work_mem\" to %.0f MB or more.",
						 ceil((reserved + wanted_lists * list_bytes * 2 +
							   wanted_rows * sample_row_bytes) / (1024 * 1024)))));
}

static bool
is_worth_training(const BuildState *state)
{
	return state->estimated_rows >= IVFPQ_ROWS_PER_CODE * (1 << state->options->nbits);
}

/*----------
 * Training
 *----------
 */

static void
take_sample(BuildState *state, size_t train_rows)
{
	double		nblocks = RelationGetNumberOfBlocks(state->heap);
	double		rows_per_block = state->estimated_rows / Max(nblocks, 1);
	double		wanted_blocks = ceil(1.1 * train_rows / rows_per_block) + 8;

	state->sample.dim = state->meta.dim;
	state->sample.nrows = 0;
	state->sample.rows = MemoryContextAllocHuge(state->context,
												mul_size(train_rows, state->meta.dim * sizeof(float)));
	state->sample.labels = MemoryContextAllocHuge(state->context, train_rows * sizeof(uint32));
	state->sample_capacity = train_rows;
	state->sample_seen = 0;
	scan_random_blocks(state, (BlockNumber) Min(wanted_blocks, nblocks), sample_row);

	/* the rows of a partial index can be in few blocks, which were all missed */
	if (state->sample.nrows == 0)
		scan_random_blocks(state, (BlockNumber) nblocks, sample_row);
}

/* Whether bytes are good enough for centroids: their rounding against the residuals */
static uint8
choose_centroid_kind(const float *centroids, uint32 nlists, uint32 dim, double residual_error)
{
	double		rounding = 0.0;

	for (size_t j = 0; j < nlists; j++)
	{
		float		largest = 0.0f;

		for (uint32 d = 0; d < dim; d++)
			largest = Max(largest, fabsf(centroids[j * dim + d]));

		/* uniform error of one step, in each dimension */
		rounding += dim * (largest / 127.0) * (largest / 127.0) / 12.0;
	}
	return rounding / nlists <= MAX_ROUNDING * residual_error ? IVFPQ_CENTROID_I8 : IVFPQ_CENTROID_F32;
}

/* Codes of the centroids, for searches */
static void
train_coarse(BuildState *state)
{
	IvfpqMetaPageData *meta = &state->meta;
	VqBlockShape shape = {
		.m = fitting_m(meta->dim, IVFPQ_COARSE_NBITS, COARSE_DIMS, VQ_BLOCK_LANES),
		.nbits = IVFPQ_COARSE_NBITS
	};
	VqCodec		codec = {.metric = meta->metric};
	size_t		codebook_bytes;
	float	   *codebook;
	char	   *blocks;

	if (meta->nlists < IVFPQ_MIN_CODED_LISTS)
		return;
	if (vq_pq_init(&codec.pq, meta->dim, shape.m, shape.nbits) != VQ_OK)
		elog(ERROR, "unexpected centroid codes: %u dimensions, m %u", meta->dim, shape.m);
	codebook_bytes = vq_pq_codebook_floats(&codec.pq) * sizeof(float);
	codebook = palloc(codebook_bytes);
	codec.codebook = codebook;
	blocks = ivfpq_train_coarse(&codec, &shape, &state->lists, codebook);

	meta->coarse_m = shape.m;
	meta->coarse_codebook_start = ivfpq_array_write(state->index, MAIN_FORKNUM, codebook, codebook_bytes);
	meta->coarse_code_start =
		ivfpq_chunks_write(state->index, MAIN_FORKNUM, blocks, vq_block_bytes(&shape, VQ_BLOCK_LANES),
						   (meta->nlists + VQ_BLOCK_LANES - 1) / VQ_BLOCK_LANES);
	pfree(blocks);
	pfree(codebook);
}

static void
train(BuildState *state)
{
	IvfpqMetaPageData *meta = &state->meta;
	VqCodec    *codec = &state->codec;
	uint32		nlists;
	size_t		train_rows;
	float	   *signs;

	choose_codes(state);
	choose_lists(state, &nlists, &train_rows);
	take_sample(state, train_rows);
	if (state->sample.nrows == 0)
		elog(ERROR, "no rows to train on, although %.0f were expected", state->estimated_rows);

	codec->metric = meta->metric;
	codec->rotation = state->options->rotation;
	if (vq_pq_init(&codec->pq, meta->dim, state->shape.m, state->shape.nbits) != VQ_OK)
		elog(ERROR, "unexpected code parameters: %u dimensions, m %u, nbits %u",
			 meta->dim, state->shape.m, state->shape.nbits);
	signs = palloc(vq_rotate_sign_bytes(meta->dim));
	vq_rotate_signs(meta->seed, meta->dim, signs);
	codec->signs = signs;
	state->mean = palloc(meta->dim * sizeof(float));
	ivfpq_train_space(&state->sample, codec, state->mean);
	nlists = Max(1, Min(nlists, state->sample.nrows));

	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, IVFPQ_PHASE_CLUSTERING);
	state->lists.dim = meta->dim;
	state->lists.nlists = nlists;
	state->lists.centroids = MemoryContextAllocHuge(state->context,
											  mul_size(nlists, meta->dim * sizeof(float)));
	ivfpq_train_lists(&state->sample, &state->lists);

	meta->codec = IVFPQ_CODEC_PQ;
	meta->nlists = nlists;
	meta->m = state->shape.m;
	meta->nbits = state->shape.nbits;
	meta->rotation = codec->rotation;
	meta->scale = codec->scale;
	meta->train_rows = state->sample.nrows;
	meta->centroid_kind = choose_centroid_kind(state->lists.centroids, nlists, meta->dim, state->sample.error);
	strlcpy(meta->trained_on, "cpu", IVFPQ_TRAINER_LEN);
	meta->mean_start = ivfpq_array_write(state->index, MAIN_FORKNUM, state->mean, meta->dim * sizeof(float));
	meta->centroid_start = ivfpq_rows_write(state->index, MAIN_FORKNUM, meta->dim, meta->centroid_kind,
											state->lists.centroids, nlists);

	/* against the centroids as they were stored */
	ivfpq_train_assign(&state->sample, &state->lists);
	meta->nprobe = ivfpq_train_nprobe(&state->sample, meta->metric, &state->lists);

	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, IVFPQ_PHASE_TRAINING_CODES);
	train_coarse(state);
	state->codebook = palloc_extended(vq_pq_codebook_floats(&codec->pq) * sizeof(float), MCXT_ALLOC_HUGE);
	ivfpq_train_codebook(&state->sample, &codec->pq, &state->lists, state->codebook);
	codec->codebook = state->codebook;
	meta->codebook_start = ivfpq_array_write(state->index, MAIN_FORKNUM, state->codebook,
											 vq_pq_codebook_floats(&codec->pq) * sizeof(float));
	pfree(state->sample.rows);
	pfree(state->sample.labels);
}

/*----------
 * Encoding
 *----------
 */

/* Sort key: list, then TID, so that the order does not depend on anything else */
static int64
sort_key(uint32 list_no, ItemPointer tid)
{
	return ((int64) list_no << 44) |
		((int64) ItemPointerGetBlockNumber(tid) << 12) | ItemPointerGetOffsetNumber(tid);
}

StaticAssertDecl(MaxOffsetNumber < (1 << 12), "offset numbers have 12 bits in sort keys");
StaticAssertDecl(IVFPQ_MAX_LISTS <= (1 << 19), "list numbers have 19 bits in sort keys");

/* Assign and encode the rows of the batch, and hand them to the sort */
static void
flush_batch(BuildState *state)
{
	uint32		dim = state->meta.dim;

	ivfpq_assign(state->assigner, state->batch, state->batch_rows, state->batch_labels,
				 state->batch_distances);
	for (size_t i = 0; i < state->batch_rows; i++)
	{
		uint32		list_no = state->batch_labels[i];
		VqFactors	factors;
		TupleTableSlot *slot = state->sort_in;

		vq_codec_encode(vq_kernels, &state->codec, state->batch + i * dim,
						state->lists.centroids + (size_t) list_no * dim, state->encode_work,
						state->codes, &factors);
		if (state->batch_is_exact[i])
			vq_codec_encode_exact(&factors);
		memcpy(VARDATA(state->payload), &factors, sizeof(VqFactors));
		memcpy(VARDATA(state->payload) + sizeof(VqFactors), state->codes, state->shape.m);
		CHECK_FOR_INTERRUPTS();

		ExecClearTuple(slot);
		slot->tts_values[0] = Int64GetDatum(sort_key(list_no, &state->batch_tids[i]));
		slot->tts_values[1] = PointerGetDatum(state->payload);
		slot->tts_isnull[0] = false;
		slot->tts_isnull[1] = false;
		ExecStoreVirtualTuple(slot);
		tuplesort_puttupleslot(state->sort, slot);
		state->list_rows[list_no]++;
	}
	state->batch_rows = 0;
}

static void
encode_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	BuildState *state = arg;
	MemoryContext old = MemoryContextSwitchTo(state->row_context);
	VqVector	vector;

	if (read_row(state, values, isnull, &vector))
	{
		size_t		i = state->batch_rows++;

		state->batch_tids[i] = *tid;
		state->batch_is_exact[i] = vq_codec_transform(vq_kernels, &state->codec, vector.x,
													  state->batch + i * state->meta.dim) != VQ_OK;
		if (state->batch_rows == state->batch_capacity)
			flush_batch(state);
	}
	else if (!isnull[0])
		count_zero_vector(state);
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->row_context);
}

static void
begin_encoding(BuildState *state)
{
	uint32		dim = state->meta.dim;
	uint32		nlists = state->meta.nlists;
	size_t		used = nlists * dim * sizeof(float) + ivfpq_assigner_bytes(nlists, dim);
	size_t		sort_memory;
	AttrNumber	columns[1] = {1};
	Oid			operators[1] = {Int8LessOperator};
	Oid			collations[1] = {InvalidOid};
	bool		nulls_first[1] = {false};
	TupleDesc	desc = CreateTemplateTupleDesc(2);

	state->batch_capacity = Max(32, Min(BATCH_ROWS, memory_limit() / 8 / (dim * sizeof(float))));
	state->batch = palloc_extended(state->batch_capacity * dim * sizeof(float), MCXT_ALLOC_HUGE);
	state->batch_tids = palloc(state->batch_capacity * sizeof(ItemPointerData));
	state->batch_is_exact = palloc(state->batch_capacity * sizeof(bool));
	state->batch_labels = palloc(state->batch_capacity * sizeof(uint32));
	state->batch_distances = palloc(state->batch_capacity * sizeof(float));
	state->assigner = ivfpq_assigner_create(&state->lists);
	state->encode_work = palloc(vq_codec_encode_floats(&state->codec) * sizeof(float));
	state->codes = palloc(state->shape.m);
	state->list_rows = palloc0(nlists * sizeof(uint64));

	TupleDescInitEntry(desc, 1, "key", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 2, "payload", BYTEAOID, -1, 0);
	VQ_TUPDESC_DONE(desc);
	state->sort_in = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	state->sort_out = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	state->payload = palloc(VARHDRSZ + sizeof(VqFactors) + state->shape.m);
	SET_VARSIZE(state->payload, VARHDRSZ + sizeof(VqFactors) + state->shape.m);

	used += state->batch_capacity * dim * sizeof(float);
	sort_memory = memory_limit() > used ? memory_limit() - used : 0;
	state->sort = tuplesort_begin_heap(desc, 1, columns, operators, collations, nulls_first,
									   (int) Max(sort_memory / 1024, 1024), NULL, TUPLESORT_NONE);
}

/* Write sorted entries to their lists */
static void
write_lists(BuildState *state)
{
	ivfpq_writer_directory(state->writer, &state->shape, state->meta.nlists);
	pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_TOTAL, (int64) state->meta.build_rows);
	tuplesort_performsort(state->sort);
	for (int64 written = 1; tuplesort_gettupleslot(state->sort, true, false, state->sort_out, NULL); written++)
	{
		bool		isnull;
		int64		key = DatumGetInt64(slot_getattr(state->sort_out, 1, &isnull));
		char	   *payload = VARDATA_ANY(DatumGetPointer(slot_getattr(state->sort_out, 2, &isnull)));
		ItemPointerData tid;
		VqFactors	factors;

		ItemPointerSet(&tid, (BlockNumber) (key >> 12), (OffsetNumber) (key & 0xFFF));
		memcpy(&factors, payload, sizeof(VqFactors));
		ivfpq_writer_add(state->writer, (uint32) (key >> 44), &tid, &factors,
						 (uint8 *) payload + sizeof(VqFactors));
		if (written % 1024 == 0)
		{
			pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, written);
			CHECK_FOR_INTERRUPTS();
		}
	}
	tuplesort_end(state->sort);
}

static void
build_coded(BuildState *state)
{
	train(state);

	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, IVFPQ_PHASE_ENCODING);
	begin_encoding(state);
	state->heap_tuples = table_index_build_scan(state->heap, state->index, state->info, true, true,
												encode_row, state, NULL);
	flush_batch(state);
	for (uint32 i = 0; i < state->meta.nlists; i++)
		state->meta.build_rows += state->list_rows[i];
	state->meta.imbalance = vq_kmeans_imbalance(state->list_rows, state->meta.nlists);

	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, IVFPQ_PHASE_WRITING);
	write_lists(state);
}

/*----------
 * Without codes
 *----------
 */

static void
write_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	BuildState *state = arg;
	MemoryContext old = MemoryContextSwitchTo(state->row_context);
	VqVector	vector;

	if (read_row(state, values, isnull, &vector))
	{
		MemoryContextSwitchTo(state->context);
		ivfpq_writer_add(state->writer, 0, tid, NULL, NULL);
		state->meta.build_rows++;
	}
	else if (!isnull[0])
		count_zero_vector(state);
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->row_context);
}

static void
build_uncoded(BuildState *state)
{
	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, IVFPQ_PHASE_WRITING);
	ivfpq_writer_directory(state->writer, &state->shape, 1);
	state->heap_tuples = table_index_build_scan(state->heap, state->index, state->info, true, true,
												write_row, state, NULL);
}

/*----------
 * Entry points
 *----------
 */

static void
init_meta(IvfpqMetaPageData *meta, Relation index, const IvfpqOptions *options)
{
	memset(meta, 0, sizeof(IvfpqMetaPageData));
	meta->magic = IVFPQ_MAGIC;
	meta->format_version = IVFPQ_FORMAT_VERSION;
	if (!pg_strong_random(&meta->build_id, sizeof(meta->build_id)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random build identifier")));
	meta->seed = IVFPQ_SEED;
	meta->dim = options->dims;
	meta->nlists = 1;
	meta->metric = ivfpq_metric(index);
	meta->scale = 1.0f;
	meta->mean_start = InvalidBlockNumber;
	meta->centroid_start = InvalidBlockNumber;
	meta->coarse_codebook_start = InvalidBlockNumber;
	meta->coarse_code_start = InvalidBlockNumber;
	meta->codebook_start = InvalidBlockNumber;
	meta->nprobe = 1;
	meta->imbalance = 1.0f;
}

IndexBuildResult *
ivfpqbuild(Relation heap, Relation index, IndexInfo *info)
{
	IndexBuildResult *result = palloc(sizeof(IndexBuildResult));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq build",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	BuildState	state = {
		.heap = heap, .index = index, .info = info, .context = context,
		.options = ivfpq_options(index)
	};

	state.row_context = AllocSetContextCreate(context, "ivfpq build row", ALLOCSET_DEFAULT_SIZES);
	vq_rng_seed(&state.rng, IVFPQ_SEED);
	init_meta(&state.meta, index, state.options);
	state.writer = ivfpq_writer_begin(index, MAIN_FORKNUM);

	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, IVFPQ_PHASE_SAMPLING);
	estimate_rows(&state);
	if (is_worth_training(&state))
		build_coded(&state);
	else
		build_uncoded(&state);
	ivfpq_writer_finish(state.writer, &state.meta);

	result->heap_tuples = state.heap_tuples;
	result->index_tuples = state.meta.build_rows;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

void
ivfpqbuildempty(Relation index)
{
	IvfpqOptions *options = ivfpq_options(index);
	IvfpqWriter *writer = ivfpq_writer_begin(index, INIT_FORKNUM);
	VqBlockShape shape = {0, 0};
	IvfpqMetaPageData meta;

	init_meta(&meta, index, options);
	ivfpq_writer_directory(writer, &shape, 1);
	ivfpq_writer_finish(writer, &meta);
}
