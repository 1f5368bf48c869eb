/*-------------------------------------------------------------------------
 *
 * ivfpq_build.c
 *	  ambuild: sample, train, encode, write.
 *
 * The leader plans (ivfpq_plan.c) and launches workers (ivfpq_parallel.c).  All
 * of them then run ivfpq_build_member as a team (ivfpq_team.h): each takes its
 * share of the sample (ivfpq_sample.c), all train the same model
 * (ivfpq_cluster.c, ivfpq_train.c) and share the scan of the table
 * (ivfpq_encode.c).  Pages are written by the leader alone.  Without workers it
 * is a team of one.
 *
 * With a GPU (ivfpq_gpu.h) the leader makes lists and codebook on the device, from
 * the rows of all members, which share the rest of the training as ever; and it
 * encodes its part of the table there, while workers encode theirs with the same
 * model.  When the device fails, what it was doing is done again without it.
 *
 * A table that is empty or small is not trained on nothing: its index is one
 * list without codes, and every row is compared exactly.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_build.h"
#include "am/ivfpq_search.h"
#include "commands/progress.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/backend_progress.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/vq_guc.h"
#include "base/vqpg_compat.h"

/* Rows of the sample that judge codes of centroids, and what these are to find of the lists near them */
#define JUDGING_ROWS			128
#define MIN_FOUND_LISTS			0.985

/* The part of a sample that may be held out for queries: more where it trains lists only at first */
#define MOST_HELD				(1.0 / 16)
#define MOST_HELD_BESIDE_STREAM	(1.0 / 4)

/* One in so many lists is about what searches want by default, which is not known yet then */
#define LISTS_PER_PROBE			100

/* Bytes may stand for centroids if rounding adds no more than this to the error of residuals */
#define MAX_ROUNDING			0.01

/* The leader begins a phase; other members may call it too */
static void
begin_phase(IvfpqBuild *build, int64 phase)
{
	const int	counters[] = {
		PROGRESS_CREATEIDX_TUPLES_TOTAL, PROGRESS_CREATEIDX_TUPLES_DONE,
		PROGRESS_SCAN_BLOCKS_TOTAL, PROGRESS_SCAN_BLOCKS_DONE, PROGRESS_CREATEIDX_SUBPHASE
	};
	const int64 values[lengthof(counters)] = {0, 0, 0, 0, phase};
	TimestampTz now = GetCurrentTimestamp();

	if (!ivfpq_team_is_leader(&build->team))
		return;
	if (build->phase != 0)
	{
		long		ms = TimestampDifferenceMilliseconds(build->phase_start, now);

		build->meta.build_ms[build->phase - IVFPQ_PHASE_SAMPLING] = (uint32) ms;
		ereport(DEBUG1,
				(errmsg_internal("index \"%s\": %s took %ld ms", RelationGetRelationName(build->index),
								 ivfpqbuildphasename(build->phase), ms)));
	}
	build->phase = phase;
	build->phase_start = now;
	if (phase != 0)
		pgstat_progress_update_multi_param(lengthof(counters), counters, values);
}

/*----------
 * Training
 *----------
 */

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

/* Whether searches that ask codes of centroids for lists would find those they want */
static bool
finds_lists(const IvfpqBuild *build, const VqCodec *codec, const VqBlockShape *shape, const char *blocks)
{
	const IvfpqLists *lists = &build->lists;
	const IvfpqSample *sample = &build->sample;
	size_t		nrows = Min(JUDGING_ROWS, sample->nrows);
	size_t		stride = nrows > 0 ? sample->nrows / nrows * lists->dim : 0;
	uint32		nprobe = build->options->nprobe > 0 ? build->options->nprobe : lists->nlists / LISTS_PER_PROBE;
	uint32	   *group_blocks = palloc((lists->ngroups + 1) * sizeof(uint32));
	IvfpqModel	model = {
		.meta = build->meta, .coarse = *codec, .coarse_shape = *shape,
		.group_lists = lists->starts, .group_blocks = group_blocks
	};
	double		share;

	/* the leader's part of a team's sample can be empty: then nothing speaks against them */
	if (nrows == 0)
		return true;
	group_blocks[0] = 0;
	for (uint32 g = 0; g < lists->ngroups; g++)
		group_blocks[g + 1] = group_blocks[g] +
			(lists->starts[g + 1] - lists->starts[g] + VQ_BLOCK_LANES - 1) / VQ_BLOCK_LANES;
	share = ivfpq_coarse_share(&model, blocks, lists->centroids, sample->rows, stride, nrows,
							   Max(1, Min(nprobe, lists->nlists)));
	ereport(DEBUG1,
			(errmsg_internal("index \"%s\": by codes of centroids searches find %.3f of the lists they want",
							 RelationGetRelationName(build->index), share)));
	pfree(group_blocks);
	return share >= MIN_FOUND_LISTS;
}

/* Codes of the centroids, if they have groups, for searches; if these would do without */
static void
train_coarse(IvfpqBuild *build)
{
	IvfpqMetaPageData *meta = &build->meta;
	VqBlockShape shape = {.m = ivfpq_plan_coarse_m(meta->dim), .nbits = IVFPQ_COARSE_NBITS};
	VqCodec		codec = {0};
	size_t		codebook_bytes;
	float	   *codebook;

	if (meta->ngroups == 0)
		return;
	if (vq_codec_init(&codec, meta->dim, shape.m, shape.nbits, false) != VQ_OK)
		elog(ERROR, "unexpected centroid codes: %u dimensions, m %u", meta->dim, shape.m);
	codec.metric = meta->metric;
	codebook_bytes = vq_pq_codebook_floats(&codec.pq) * sizeof(float);
	codebook = palloc(codebook_bytes);
	codec.codebook = codebook;
	ivfpq_train_coarse(build->trainers, &codec.pq, &build->lists, codebook);
	if (build->writer)
	{
		uint32		nblocks;
		char	   *blocks = ivfpq_train_coarse_codes(&codec, &shape, &build->lists, &nblocks);

		if (finds_lists(build, &codec, &shape, blocks))
		{
			meta->coarse_m = shape.m;
			meta->coarse_codebook_start = ivfpq_array_write(build->index, MAIN_FORKNUM, codebook, codebook_bytes);
			meta->coarse_code_start =
				ivfpq_chunks_write(build->index, MAIN_FORKNUM, blocks, vq_block_bytes(&shape, VQ_BLOCK_LANES),
								   nblocks);
		}
		pfree(blocks);
	}
	pfree(codebook);
}

static void
begin_codec(IvfpqBuild *build)
{
	VqCodec    *codec = &build->codec;
	uint32		dim = build->meta.dim;
	float	   *signs = palloc(vq_rotate_sign_bytes(dim));

	if (vq_codec_init(codec, dim, build->plan.shape.m, build->plan.shape.nbits, build->plan.is_projected) != VQ_OK)
		elog(ERROR, "unexpected code parameters: %u dimensions, m %u, nbits %u",
			 dim, build->plan.shape.m, build->plan.shape.nbits);
	codec->metric = build->meta.metric;
	codec->rotation = build->options->rotation == IVFPQ_ROTATION_NONE ? VQ_ROTATION_NONE : VQ_ROTATION_HADAMARD;
	vq_rotate_signs(build->meta.seed, dim, signs);
	codec->signs = signs;
	if (codec->is_projected)
		build->projection = palloc(vq_project_bytes(dim, codec->pq.dim));
	build->mean = palloc(dim * sizeof(float));
}

/*
 * Write mean, centroids and groups; afterwards all members have the centroids as
 * they were stored, which is what rows are assigned to and coded against
 */
static void
write_centroids(IvfpqBuild *build)
{
	IvfpqMetaPageData *meta = &build->meta;
	IvfpqLists *lists = &build->lists;
	uint32		nrows;

	if (lists->nlists >= IVFPQ_MIN_CODED_LISTS)
	{
		ivfpq_train_centres(lists);
		meta->ngroups = lists->ngroups;
	}
	nrows = lists->nlists + meta->ngroups;
	meta->centroid_kind = choose_centroid_kind(lists->centroids, nrows, meta->dim, build->sample.error);
	if (build->writer)
	{
		meta->mean_start = ivfpq_array_write(build->index, MAIN_FORKNUM, build->mean, meta->dim * sizeof(float));
		meta->centroid_start = ivfpq_rows_write(build->index, MAIN_FORKNUM, meta->dim, meta->centroid_kind,
												lists->centroids, nrows);
		if (meta->ngroups > 0)
			meta->group_start = ivfpq_array_write(build->index, MAIN_FORKNUM, lists->starts,
												  (meta->ngroups + 1) * sizeof(uint32));
	}
	else
		memset(lists->centroids, 0, (size_t) nrows * meta->dim * sizeof(float));
	ivfpq_team_sum_f32(build->trainers, lists->centroids, (size_t) nrows * meta->dim);
}

/* Take the image of the projection into use */
static void
open_projection(IvfpqBuild *build)
{
	if (vq_project_open(&build->codec.projection, build->meta.dim, build->codec.pq.dim, build->projection) != VQ_OK)
		elog(ERROR, "unexpected steps of a projection");
}

/* A codec as there is, for codes without a projection */
static void
code_all_dimensions(IvfpqBuild *build)
{
	VqCodec		codec = build->codec;

	ivfpq_plan_all_dimensions(build);
	if (vq_codec_init(&codec, codec.dim, build->plan.shape.m, build->plan.shape.nbits, false) != VQ_OK)
		elog(ERROR, "unexpected code parameters: %u dimensions, m %u, nbits %u",
			 codec.dim, build->plan.shape.m, build->plan.shape.nbits);
	build->codec = codec;
	pfree(build->projection);
	build->projection = NULL;
}

static void
train_projection(IvfpqBuild *build)
{
	const VqCodec *codec = &build->codec;

	if (!codec->is_projected)
		return;
	if (!ivfpq_train_projection(build->trainers, &build->sample, &build->lists, &codec->pq, build->projection))
	{
		code_all_dimensions(build);
		return;
	}
	open_projection(build);
	if (build->writer)
		build->meta.projection_start = ivfpq_array_write(build->index, MAIN_FORKNUM, build->projection,
														 vq_project_bytes(codec->dim, codec->pq.dim));
}

static void
train(IvfpqBuild *build)
{
	IvfpqTeam  *team = build->trainers;
	IvfpqMetaPageData *meta = &build->meta;
	VqCodec    *codec = &build->codec;
	IvfpqLists *lists = &build->lists;
	IvfpqGpu   *gpu = build->gpu;
	IvfpqStream stream = {.read = ivfpq_sample_stream, .source = build,
		.total_rows = build->plan.stream_rows, .most_rows = build->plan.stream_batch};
	bool		gpu_made_lists;
	size_t		codebook_bytes;
	IvfpqPairs	pairs = {0};

	ivfpq_sample_take(build);
	if (build->sample.total_rows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the rows of table \"%s\" have gone while index \"%s\" was built",
						RelationGetRelationName(build->heap), RelationGetRelationName(build->index)),
				 errdetail("There were about %.0f.", build->plan.estimated_rows),
				 errhint("Build the index again.")));
	begin_codec(build);
	ivfpq_train_space(team, &build->sample, build->plan.nlists, codec, build->mean);
	meta->train_rows = build->sample.total_rows;
	ivfpq_sample_hold(team, &build->sample, build->sample.total_rows > 2 * build->plan.nlists ? build->plan.nqueries : 0,
					  build->plan.stream_rows > 0 ? MOST_HELD_BESIDE_STREAM : MOST_HELD);

	begin_phase(build, IVFPQ_PHASE_CLUSTERING);
	lists->dim = meta->dim;
	lists->nlists = Max(1, Min(build->plan.nlists, build->sample.total_rows));
	lists->centroids = palloc_extended(mul_size(lists->nlists, meta->dim * sizeof(float)), MCXT_ALLOC_HUGE);
	ivfpq_train_lists(team, gpu, &build->sample, build->plan.stream_rows > 0 ? &stream : NULL, lists);
	gpu_made_lists = ivfpq_gpu_is_open(gpu);

	meta->codec = IVFPQ_CODEC_PQ;
	meta->nlists = lists->nlists;
	meta->nbits = build->plan.shape.nbits;
	meta->rotation = codec->rotation;
	meta->scale = codec->scale;
	write_centroids(build);
	ivfpq_choose_queries(team, &build->sample, build->plan.nqueries, &build->queries);
	if (codec->is_projected)
		ivfpq_find_pairs(team, &build->sample, meta->metric, lists, &build->queries, &pairs);

	begin_phase(build, IVFPQ_PHASE_TRAINING_CODES);
	train_coarse(build);
	train_projection(build);
	meta->m = build->plan.shape.m;
	codebook_bytes = vq_pq_codebook_floats(&codec->pq) * sizeof(float);
	build->codebook = palloc_extended(codebook_bytes, MCXT_ALLOC_HUGE);
	ivfpq_train_codebook(team, gpu, &build->sample, codec, lists, build->codebook);
	codec->codebook = build->codebook;
	if (codec->is_projected)
		codec->error_scale = ivfpq_train_error_scale(team, codec, lists, &pairs);
	if (pairs.queries)
	{
		pfree(pairs.neighbours);
		pfree(pairs.lists);
	}
	meta->error_scale = codec->error_scale;
	if (gpu_made_lists)
		snprintf(meta->trained_on, IVFPQ_TRAINER_LEN, "%.50s%s", ivfpq_gpu_name(gpu),
				 ivfpq_gpu_is_open(gpu) ? "" : ", then cpu");
	else
		strlcpy(meta->trained_on, "cpu", IVFPQ_TRAINER_LEN);
	ivfpq_gpu_sample_end(gpu);
	if (build->writer)
		meta->codebook_start = ivfpq_array_write(build->index, MAIN_FORKNUM, build->codebook, codebook_bytes);
	pfree(build->sample.rows);
	pfree(build->sample.labels);
}

/* What the leader has trained, to the others; they have zeroes, so the sums are the leader's */
static void
share_model(IvfpqBuild *build)
{
	IvfpqTeam  *team = &build->team;
	IvfpqLists *lists = &build->lists;
	size_t		dim = build->meta.dim;
	bool		is_leader = ivfpq_team_is_leader(team);
	uint64		sizes[] = {lists->nlists, lists->ngroups, build->codec.is_projected, build->queries.count};
	uint64	   *starts;
	size_t		codebook_floats;

	ivfpq_team_sum_u64(team, sizes, lengthof(sizes));
	if (!is_leader)
	{
		if (sizes[2] == 0)
			ivfpq_plan_all_dimensions(build);
		begin_codec(build);
	}
	codebook_floats = vq_pq_codebook_floats(&build->codec.pq);
	if (!is_leader)
	{
		const int	flags = MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO;

		lists->dim = dim;
		lists->nlists = sizes[0];
		lists->ngroups = sizes[1];
		lists->centroids = palloc_extended(mul_size(lists->nlists, dim * sizeof(float)), flags);
		lists->starts = palloc0((lists->ngroups + 1) * sizeof(uint32));
		build->queries.count = sizes[3];
		build->queries.rows = palloc_extended(Max(sizes[3], 1) * dim * sizeof(float), flags);
		build->codebook = palloc_extended(codebook_floats * sizeof(float), flags);
		memset(build->mean, 0, dim * sizeof(float));
		build->codec.error_scale = 0;
		build->codec.mean = build->mean;
		build->codec.codebook = build->codebook;
	}
	starts = palloc0((lists->ngroups + 1) * sizeof(uint64));
	for (uint32 g = 0; g <= lists->ngroups && lists->ngroups > 0; g++)
		starts[g] = lists->starts[g];
	ivfpq_team_sum_u64(team, starts, lists->ngroups + 1);
	for (uint32 g = 0; g <= lists->ngroups && lists->ngroups > 0; g++)
		lists->starts[g] = starts[g];
	pfree(starts);
	ivfpq_team_sum_f32(team, lists->centroids, lists->nlists * dim);
	ivfpq_team_sum_f32(team, build->queries.rows, build->queries.count * dim);
	ivfpq_team_sum_f32(team, build->mean, dim);
	ivfpq_team_sum_f32(team, build->codebook, codebook_floats);
	ivfpq_team_sum_f32(team, &build->codec.scale, 1);
	ivfpq_team_sum_f32(team, &build->codec.error_scale, 1);
	if (build->codec.is_projected)
	{
		ivfpq_share_projection(team, dim, &build->codec.pq, build->projection);
		open_projection(build);
	}
}

void
ivfpq_build_member(IvfpqBuild *build)
{
	build->trainers = build->plan.leader_trains ? &build->alone : &build->team;
	if (ivfpq_team_is_leader(&build->team) || !build->plan.leader_trains)
		train(build);
	if (build->plan.leader_trains)
		share_model(build);
	begin_phase(build, IVFPQ_PHASE_ENCODING);
	ivfpq_encode_table(build);
}

static void
build_as_team(IvfpqBuild *build)
{
	int			nworkers = ivfpq_plan_workers(build->heap, build->index);
	int			team_size;

	team_size = ivfpq_parallel_launch(build, ivfpq_plan_team_size(build, nworkers + 1) - 1);
	ereport(DEBUG1,
			(errmsg_internal("index \"%s\" is built by a team of %d",
							 RelationGetRelationName(build->index), team_size)));
	ivfpq_plan_lists(build, team_size);
	ivfpq_parallel_begin(build, team_size);
	ivfpq_build_member(build);

	ereport(DEBUG1,
			(errmsg_internal("index \"%s\": %u lists are read in the mean, by the distance of list %u to the power of %g",
							 RelationGetRelationName(build->index), vq_recall_nprobe(build->meta.nprobes, VQ_DEFAULT_RECALL),
							 build->meta.spread.rank, build->meta.spread.power)));
	begin_phase(build, IVFPQ_PHASE_WRITING);
	ivfpq_encode_write(build);
	ivfpq_parallel_end(build);
}

static void
close_gpu(int code, Datum build)
{
	ivfpq_gpu_close(((IvfpqBuild *) DatumGetPointer(build))->gpu);
}

static void
build_coded(IvfpqBuild *build)
{
	ivfpq_plan_codes(build);
	build->gpu = ivfpq_gpu_open(RelationGetRelationName(build->index), build->plan.estimated_rows, build->meta.dim);

	/* whatever ends the build, and be it the end of the session */
	PG_ENSURE_ERROR_CLEANUP(close_gpu, PointerGetDatum(build));
	{
		build_as_team(build);
	}
	PG_END_ENSURE_ERROR_CLEANUP(close_gpu, PointerGetDatum(build));
	ivfpq_gpu_close(build->gpu);
}

/*----------
 * Without codes
 *----------
 */

static void
write_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	IvfpqBuild *build = arg;
	MemoryContext old = MemoryContextSwitchTo(build->row_context);
	VqVector	vector;

	if (ivfpq_build_read(build, values, isnull, alive, &vector))
	{
		int64		attributes[VQ_MAX_ATTRIBUTES];
		IvfpqEntry	entry = {.tid = *tid, .attributes = attributes};

		ivfpq_attributes_of(index, &build->plan.shape, values, isnull, attributes);
		MemoryContextSwitchTo(build->context);
		ivfpq_writer_add(build->writer, 0, &entry);
		build->meta.build_rows++;
	}
	else if (!isnull[0] && alive && !build->info->ii_Concurrent)
		build->meta.zero_vectors++; /* see ivfpq_encode.c */
	MemoryContextSwitchTo(old);
	MemoryContextReset(build->row_context);
}

static void
build_uncoded(IvfpqBuild *build)
{
	/* or the REINDEX that will be advised would fail */
	ivfpq_plan_check_m(build);
	begin_phase(build, IVFPQ_PHASE_WRITING);
	ivfpq_writer_directory(build->writer, &build->plan.shape, 1);
	build->heap_tuples = table_index_build_scan(build->heap, build->index, build->info, true, true,
												write_row, build, NULL);
	ivfpq_build_end_reading(build);
}

/*----------
 * Entry points
 *----------
 */

static void
init_meta(IvfpqMetaPageData *meta, Relation index)
{
	int			dims = ivfpq_options(index)->dims;

	memset(meta, 0, sizeof(IvfpqMetaPageData));
	meta->magic = IVFPQ_MAGIC;
	ivfpq_attributes_define(index, meta);
	meta->format_version = IVFPQ_FORMAT_VERSION;
	if (!pg_strong_random(&meta->build_id, sizeof(meta->build_id)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random build identifier")));
	meta->seed = IVFPQ_SEED;
	meta->dim = ivfpq_declared_dim(index);
	if (dims > 0 && (uint32) dims != meta->dim)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("storage parameter \"dims\" contradicts the type of the column"),
				 errdetail("The parameter is %d, and the column's vectors have %u dimensions.", dims, meta->dim),
				 errhint("Leave out the parameter.")));
	meta->nlists = 1;
	meta->metric = ivfpq_metric(index);
	meta->scale = 1.0f;
	meta->mean_start = InvalidBlockNumber;
	meta->centroid_start = InvalidBlockNumber;
	meta->group_start = InvalidBlockNumber;
	meta->coarse_codebook_start = InvalidBlockNumber;
	meta->coarse_code_start = InvalidBlockNumber;
	meta->projection_start = InvalidBlockNumber;
	meta->codebook_start = InvalidBlockNumber;
	for (int i = 0; i < IVFPQ_NRECALLS; i++)
		meta->nprobes[i] = 1;
	meta->imbalance = 1.0f;
	meta->error_scale = 1.0f;
}

void
ivfpq_build_init(IvfpqBuild *build, Relation heap, Relation index, IndexInfo *info)
{
	memset(build, 0, sizeof(IvfpqBuild));
	build->heap = heap;
	build->index = index;
	build->info = info;
	build->context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq build", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(build->context);
	build->row_context = AllocSetContextCreate(build->context, "ivfpq build row", ALLOCSET_DEFAULT_SIZES);
	build->options = ivfpq_options(index);
	build->datum_kind = ivfpq_datum_kind(index, index->rd_opcintype[0]);
	build->attno = info->ii_IndexAttrNumbers[0];
	build->team.size = 1;
	build->alone.size = 1;
	ivfpq_blas_begin_build();
}

IndexBuildResult *
ivfpqbuild(Relation heap, Relation index, IndexInfo *info)
{
	IndexBuildResult *result = palloc(sizeof(IndexBuildResult));
	MemoryContext old = CurrentMemoryContext;
	IvfpqMetaPageData meta;
	IvfpqBuild	build;
	bool		is_coded;

	init_meta(&meta, index);
	ivfpq_build_init(&build, heap, index, info);
	build.meta = meta;
	build.writer = ivfpq_writer_begin(index, MAIN_FORKNUM);

	begin_phase(&build, IVFPQ_PHASE_SAMPLING);
	ivfpq_sample_estimate(&build);
	is_coded = build.plan.estimated_rows >= ivfpq_coded_rows(build.options);
	build.meta.has_chunk_tids &= is_coded;
	build.plan.shape = ivfpq_block_shape(&build.meta);
	if (is_coded)
		build_coded(&build);
	else
		build_uncoded(&build);
	ivfpq_writer_close(build.writer, &build.meta);
	begin_phase(&build, 0);
	ivfpq_writer_finish(build.writer, &build.meta);

	result->heap_tuples = build.heap_tuples;
	result->index_tuples = build.meta.build_rows;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(build.context);
	return result;
}

void
ivfpqbuildempty(Relation index)
{
	IvfpqWriter *writer = ivfpq_writer_begin(index, INIT_FORKNUM);
	VqBlockShape shape;
	IvfpqMetaPageData meta;

	init_meta(&meta, index);
	shape = ivfpq_block_shape(&meta);
	ivfpq_writer_directory(writer, &shape, 1);
	ivfpq_writer_close(writer, &meta);
	ivfpq_writer_finish(writer, &meta);
}
