/*-------------------------------------------------------------------------
 *
 * ivfpq_sample.c
 *	  Random blocks of a table: how many rows there are, and a sample of them;
 *	  and bringing the sample in order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/heapam.h"
#include "am/ivfpq_build.h"
#include "catalog/index.h"
#include "commands/progress.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/shmem.h"
#include "utils/backend_progress.h"
#include "utils/memutils.h"
#include "utils/sampling.h"

#include "base/vq_guc.h"

/* Blocks read to learn how many rows there are; more while they have fewer rows than that */
#define COUNTING_BLOCKS			300
#define COUNTED_ROWS			1000
#define SPARE_COUNT				2.0	/* of a second look, times what the first says it takes */

/* Blocks read for a sample, relative to what its rows would fill */
#define SPARE_BLOCKS			1.1

typedef struct SampleState
{
	IvfpqBuild *build;
	size_t		capacity;
	uint64		nseen;			/* rows to be indexed in the blocks read */
	VqRng		rng;
} SampleState;

/*
 * The indexed value, as it is or, if it is out of line, read as ivfpq_toast.c does, which does not open and close the TOAST
 * table for each
 */
static Datum
read_out_of_line(IvfpqBuild *build, Datum value)
{
	IvfpqToastValue found;
	Datum		read;

	ItemPointerSetInvalid(&build->chunk_tid);
	if (build->attno == 0 || !VARATT_IS_EXTERNAL_ONDISK((struct varlena *) DatumGetPointer(value)))
		return value;
	if (build->toast == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(build->context);

		build->toast = ivfpq_toast_begin(build->heap);
		MemoryContextSwitchTo(old);
		if (build->toast == NULL)
		{
			build->attno = 0;
			return value;
		}
	}
	if (!ivfpq_toast_find(build->toast, value, &build->after, &found) ||
		!ivfpq_toast_read(build->toast, &found, &read))
		return value;
	build->chunk_tid = found.tids[0];
	build->nout_of_line++;
	ivfpq_toast_after(&found, &build->after);
	return read;
}

void
ivfpq_build_end_reading(IvfpqBuild *build)
{
	if (build->toast)
		ivfpq_toast_end(build->toast);
	build->toast = NULL;
}

bool
ivfpq_build_read(IvfpqBuild *build, Datum *values, bool *isnull, bool alive, VqVector *vector)
{
	if (isnull[0])
		return false;
	if (!alive)
	{
		int			dim = vq_datum_dim(values[0], build->datum_kind);

		if (build->meta.dim == 0 && build->takes_dead_dim && dim >= build->options->m)
			build->meta.dim = dim;
		if (dim == 0 || (uint32) dim != build->meta.dim)
		{
			build->info->ii_BrokenHotChain = true;
			return false;
		}
	}
	vq_datum_read(read_out_of_line(build, values[0]), build->datum_kind, vector);
	if (build->meta.dim == 0)
		build->meta.dim = vector->dim;
	if ((uint32) vector->dim != build->meta.dim)
		ivfpq_report_dim(build->index, build->meta.dim, vector->dim, false);
	return build->meta.metric != VQ_METRIC_COSINE || !vq_datum_is_zero(vector);
}

static void
count_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	SampleState *state = arg;
	MemoryContext old = MemoryContextSwitchTo(state->build->row_context);
	VqVector	vector;

	if (ivfpq_build_read(state->build, values, isnull, alive, &vector))
		state->nseen++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->build->row_context);
}

/*
 * Reservoir sampling: after n rows each is in the sample with the same chance.  Rows come in
 * the order of the table and go to places in random order, which labels have until there are any.
 */
static void
sample_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	SampleState *state = arg;
	IvfpqSample *sample = &state->build->sample;
	MemoryContext old = MemoryContextSwitchTo(state->build->row_context);
	VqVector	vector;

	if (ivfpq_build_read(state->build, values, isnull, alive, &vector))
	{
		size_t		place;

		state->nseen++;
		if (sample->nrows < state->capacity)
			place = sample->labels[sample->nrows++];
		else
			place = vq_rng_below(&state->rng, state->nseen);
		if (place < state->capacity)
			memcpy(sample->rows + place * sample->dim, vector.x, sample->dim * sizeof(float));
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->build->row_context);
}

/*
 * Give the rows of this member's part of up to max_blocks random blocks to a
 * callback: all members choose the same blocks, and take them in turn.  Returns the
 * share of the table's blocks that all read together.
 */
static double
scan_random_blocks(SampleState *state, BlockNumber max_blocks, int member, int nmembers,
				   IndexBuildCallback callback)
{
	IvfpqBuild *build = state->build;
	BlockNumber nblocks = build->plan.heap_blocks;
	BlockSamplerData sampler;
	BlockNumber nchosen = 0;
	BufferAccessStrategy ring = NULL;
	bool		was_broken = build->info->ii_BrokenHotChain;

	if (nblocks == 0)
		return 1.0;

	/*
	 * Each scan of a block reads a large table through a ring of buffers of its own, a new
	 * one every time.  So have the block read through one ring for all before.
	 */
	if (build->heap->rd_tableam == GetHeapamTableAmRoutine() && nblocks > NBuffers / 4 &&
		!RelationUsesLocalBuffers(build->heap))
		ring = GetAccessStrategy(BAS_BULKREAD);
	if (ivfpq_team_is_leader(&build->team))
		pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_TOTAL, Min(nblocks, max_blocks));
	BlockSampler_Init(&sampler, nblocks, Min(nblocks, max_blocks), (uint32) IVFPQ_SEED);
	while (BlockSampler_HasMore(&sampler))
	{
		BlockNumber blkno = BlockSampler_Next(&sampler);

		if (nchosen++ % nmembers != member)
			continue;
		CHECK_FOR_INTERRUPTS();
		if (ring)
			ivfpq_read_through_ring(build->heap, blkno, ring);
		table_index_build_range_scan(build->heap, build->index, build->info, false, false, false,
									 blkno, 1, callback, state, NULL);
		if (ivfpq_team_is_leader(&build->team))
			pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_DONE, nchosen);
	}
	if (ring)
		FreeAccessStrategy(ring);
	ivfpq_build_end_reading(build);

	/* what the scan of the whole table leaves out is what matters, when the dimension is known */
	build->info->ii_BrokenHotChain = was_broken;
	return (double) nchosen / nblocks;
}

void
ivfpq_sample_estimate(IvfpqBuild *build)
{
	SampleState state = {.build = build};
	BlockNumber max_blocks = COUNTING_BLOCKS;
	double		share;

	build->plan.heap_blocks = RelationGetNumberOfBlocks(build->heap);
	build->takes_dead_dim = false;

	/*
	 * Of a partial index few blocks may have rows, and all of them: look at more, then at all; and so where it
	 * decides whether there will be codes, as VACUUM goes by what the index has (ivfpq_outgrown)
	 */
	for (;;)
	{
		state.nseen = 0;
		build->nout_of_line = 0;
		share = scan_random_blocks(&state, max_blocks, 0, 1, count_row);

		/*
		 * Where all rows with a vector are dead, older snapshots that see them use an index
		 * all the same after a REINDEX, whatever ii_BrokenHotChain says.
		 */
		if (build->meta.dim == 0 && share >= 1.0 && !build->takes_dead_dim &&
			ReindexIsProcessingIndex(RelationGetRelid(build->index)))
		{
			build->takes_dead_dim = true;
			continue;
		}
		if (share >= 1.0 || (state.nseen >= COUNTED_ROWS && fabs(log2(state.nseen / share / ivfpq_coded_rows(build->options))) > 1.0))
			break;
		max_blocks = max_blocks == COUNTING_BLOCKS && state.nseen > 0 && state.nseen < COUNTED_ROWS ?
			(BlockNumber) Min(SPARE_COUNT * max_blocks * COUNTED_ROWS / state.nseen, build->plan.heap_blocks) :
			build->plan.heap_blocks;
	}
	build->plan.estimated_rows = ceil(state.nseen / share);
	build->meta.has_chunk_tids = 2 * build->nout_of_line > state.nseen;
}

/* Blocks that have so many rows, and a few more */
static BlockNumber
blocks_of_rows(const IvfpqBuild *build, double nrows)
{
	double		nblocks = build->plan.heap_blocks;
	double		rows_per_block = build->plan.estimated_rows / Max(nblocks, 1);

	return (BlockNumber) Min(ceil(SPARE_BLOCKS * nrows / rows_per_block) + 8, nblocks);
}

static void
choose_places(IvfpqSample *sample, size_t capacity, VqRng *rng)
{
	for (size_t i = 0; i < capacity; i++)
	{
		size_t		other = vq_rng_below(rng, i + 1);

		sample->labels[i] = sample->labels[other];
		sample->labels[other] = i;
	}
}

/* Where there were fewer rows than places: the last ones go to places left empty before them */
static void
close_gaps(IvfpqSample *sample, size_t capacity)
{
	const uint32 *places = sample->labels;
	size_t		last = 0;

	for (size_t i = sample->nrows; i < capacity; i++)
	{
		if (places[i] >= sample->nrows)
			continue;
		while (places[last] < sample->nrows)
			last++;
		memcpy(ivfpq_sample_row(sample, places[i]), ivfpq_sample_row(sample, places[last++]),
			   sample->dim * sizeof(float));
	}
}

void
ivfpq_sample_take(IvfpqBuild *build)
{
	IvfpqTeam  *team = build->trainers;
	IvfpqSample *sample = &build->sample;
	SampleState state = {.build = build};

	state.capacity = (build->plan.train_rows + team->size - 1) / team->size;
	vq_rng_seed(&state.rng, IVFPQ_SEED + team->number);
	sample->dim = build->meta.dim;
	sample->nrows = 0;
	sample->rows = MemoryContextAllocHuge(build->context,
										  mul_size(state.capacity, sample->dim * sizeof(float)));
	sample->labels = MemoryContextAllocHuge(build->context, mul_size(state.capacity, sizeof(uint32)));
	choose_places(sample, state.capacity, &state.rng);
	scan_random_blocks(&state, blocks_of_rows(build, build->plan.train_rows), team->number, team->size, sample_row);
	sample->total_rows = sample->nrows;
	ivfpq_team_sum_u64(team, &sample->total_rows, 1);

	/* the rows of a partial index can be in few blocks, which were all missed */
	if (sample->total_rows == 0)
	{
		scan_random_blocks(&state, build->plan.heap_blocks, team->number, team->size, sample_row);
		sample->total_rows = sample->nrows;
		ivfpq_team_sum_u64(team, &sample->total_rows, 1);
	}
	close_gaps(sample, state.capacity);
}

/* Rows of the table on their way to somebody else */
typedef struct StreamState
{
	SampleState state;			/* first, for scan_random_blocks */
	IvfpqTakeRows take;
	void	   *arg;
	float	   *rows;			/* [plan.stream_batch][dim] */
	size_t		nrows;
} StreamState;

static void
stream_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	StreamState *stream = arg;
	IvfpqBuild *build = stream->state.build;
	MemoryContext old = MemoryContextSwitchTo(build->row_context);
	size_t		dim = build->meta.dim;
	float	   *x = stream->rows + stream->nrows * dim;
	VqVector	vector;

	/* what is farther out than all rows of the sample would move the mean of a list too far */
	if (ivfpq_build_read(build, values, isnull, alive, &vector) &&
		vq_codec_transform(vq_kernels, &build->codec, vector.x, x) == VQ_OK &&
		vq_kernels->ip_f32(x, x, dim) <= build->sample.farthest_sq)
		stream->nrows++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(build->row_context);
	if (stream->nrows == build->plan.stream_batch)
	{
		stream->take(stream->arg, stream->rows, stream->nrows);
		stream->nrows = 0;
	}
}

void
ivfpq_sample_stream(void *source, IvfpqTakeRows take, void *arg)
{
	IvfpqBuild *build = source;
	StreamState stream = {.state = {.build = build}, .take = take, .arg = arg};

	stream.rows = ivfpq_alloc_array(build->plan.stream_batch, build->meta.dim * sizeof(float));
	scan_random_blocks(&stream.state, blocks_of_rows(build, build->plan.stream_rows),
					   build->trainers->number, build->trainers->size, stream_row);
	if (stream.nrows > 0)
		take(arg, stream.rows, stream.nrows);
	pfree(stream.rows);
}

/*----------
 * The order of rows
 *----------
 */

static void
swap_rows(IvfpqSample *sample, size_t i, size_t j)
{
	float	   *a = sample->rows + i * sample->dim;
	float	   *b = sample->rows + j * sample->dim;

	for (size_t d = 0; d < sample->dim; d++)
	{
		float		t = a[d];

		a[d] = b[d];
		b[d] = t;
	}
}

void
ivfpq_sample_hold(IvfpqTeam *team, IvfpqSample *sample, size_t wanted, double most)
{
	size_t		share = (size_t) ceil((double) wanted * sample->nrows / Max(sample->total_rows, 1));
	VqRng		rng;

	vq_rng_seed(&rng, IVFPQ_SEED + team->number);
	sample->nheld = Min(share, (size_t) (sample->nrows * most));
	for (size_t i = 0; i < sample->nheld; i++)
	{
		swap_rows(sample, sample->nrows - 1, vq_rng_below(&rng, sample->nrows));
		sample->nrows--;
	}
	sample->held = ivfpq_sample_row(sample, sample->nrows);
	sample->total_rows = sample->nrows;
	ivfpq_team_sum_u64(team, &sample->total_rows, 1);
}

IvfpqSample
ivfpq_sample_part(IvfpqTeam *team, const IvfpqSample *sample, uint32 nlists)
{
	double		wanted = Max((double) nlists * IVFPQ_TRAIN_ROWS_PER_LIST, IVFPQ_MIN_TRAIN_ROWS);
	IvfpqSample part = *sample;

	if (wanted < sample->total_rows)
		part.nrows = (size_t) ceil(wanted / sample->total_rows * sample->nrows);
	part.total_rows = part.nrows;
	ivfpq_team_sum_u64(team, &part.total_rows, 1);
	return part;
}

void
ivfpq_sample_sort(IvfpqSample *sample, size_t nlabels, size_t *starts)
{
	size_t	   *next = palloc_extended(Max(nlabels, 1) * sizeof(size_t), MCXT_ALLOC_HUGE);

	memset(starts, 0, (nlabels + 1) * sizeof(size_t));
	for (size_t i = 0; i < sample->nrows; i++)
		starts[sample->labels[i] + 1]++;
	for (size_t j = 0; j < nlabels; j++)
	{
		starts[j + 1] += starts[j];
		next[j] = starts[j];
	}
	for (size_t j = 0; j < nlabels; j++)
	{
		while (next[j] < starts[j + 1])
		{
			uint32		label = sample->labels[next[j]];

			if (label == j)
				next[j]++;
			else
			{
				size_t		place = next[label]++;

				swap_rows(sample, next[j], place);
				sample->labels[next[j]] = sample->labels[place];
				sample->labels[place] = label;
			}
		}
		CHECK_FOR_INTERRUPTS();
	}
	pfree(next);
}
