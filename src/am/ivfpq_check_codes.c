/*-------------------------------------------------------------------------
 *
 * ivfpq_check_codes.c
 *	  Proof that codes and attributes stand for the rows that they belong to.
 *
 * Each row that the snapshot sees is coded anew against the centroid of the list that
 * it is in.  Who made the code that is there, one worker or another, an insert or a
 * GPU, has rounded a little differently, so codes are not compared bit by bit:
 * the old code may be a little farther from the direction that is coded than the new one,
 * and factors of equal codes a little different.  Which list a row is in is not
 * judged: a code is as good in any, and a build knows ties.  Attributes are compared as they are.
 *
 * Rows are read in the order of the index, which is none of the table's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/tableam.h"
#include "am/ivfpq.h"
#include "base/vq_datum.h"
#include "base/vq_guc.h"
#include "base/vqpg_compat.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/*
 * How much farther from the residual's direction, which has length one, an old code may be;
 * rounding of vectors much longer than the residual comes to that
 */
#define WORST_ERROR			1.02
#define ERROR_ROUNDING		0.01
#define VECTOR_ROUNDING		4e-6
#define FACTOR_ROUNDING		1e-3
#define S_ROUNDING			2

typedef struct CodesCheck
{
	Relation	heap;
	Relation	index;
	Snapshot	snapshot;
	const IvfpqModel *model;
	VqDatumKind datum_kind;

	/* rows */
	IndexInfo  *info;
	EState	   *estate;
	TupleTableSlot *slot;
	IndexFetchTableData *fetch;
	MemoryContext row_context;

	/* the centroid of this list, in model space and in code space */
	uint32		list_no;
	float	   *centroid;
	float	   *centroid_code;

	float	   *x_model;
	float	   *x_code;
	float	   *direction;		/* of the residual, in code space */
	float	   *work;
	uint8	   *codes;
	uint8	   *new_codes;
} CodesCheck;

pg_noreturn static void
report_code(const CodesCheck *check, BlockNumber blkno, ItemPointer tid, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("index \"%s\" has an entry that does not stand for its row", RelationGetRelationName(check->index)),
			 errdetail("For the row at (%u,%u) of table \"%s\", in list %u, at block %u, %s.",
					   ItemPointerGetBlockNumber(tid), ItemPointerGetOffsetNumber(tid),
					   RelationGetRelationName(check->heap), check->list_no, blkno, problem),
			 errhint("Please REINDEX it.")));
}

/* The row's indexed values; false if the snapshot does not see it */
static bool
fetch_values(CodesCheck *check, ItemPointer tid, Datum *values, bool *nulls)
{
	ItemPointerData row = *tid; /* overwritten with that of the row's version */
	bool		call_again = false;
	bool		all_dead = false;

	if (!table_index_fetch_tuple(check->fetch, &row, check->snapshot, check->slot, &call_again, &all_dead))
		return false;
	FormIndexDatum(check->info, check->slot, check->estate, values, nulls);
	return true;
}

static void
check_attributes(CodesCheck *check, BlockNumber blkno, ItemPointer tid, const void *block, size_t slot,
				 const Datum *values, const bool *nulls)
{
	const VqBlockShape *shape = &check->model->shape;
	int64		numbers[VQ_MAX_ATTRIBUTES];

	ivfpq_attributes_of(check->index, shape, values, nulls, numbers);
	for (uint32 i = 0; i < shape->nattributes; i++)
		if (vq_block_attribute(block, shape, slot, i) != numbers[i])
			report_code(check, blkno, tid, psprintf("attribute %u is " INT64_FORMAT " and not " INT64_FORMAT, i + 1,
													vq_block_attribute(block, shape, slot, i), numbers[i]));
}

/* Distance of the residual's direction to what codes stand for */
static double
code_error(const CodesCheck *check, const uint8 *codes)
{
	const VqPq *pq = &check->model->codec.pq;

	vq_pq_decode(pq, check->model->codec.codebook, codes, check->work);
	return sqrt(vq_kernels->l2sq_f32(check->direction, check->work, pq->dim));
}

/* Whether codes that differ from the new ones could be those of the row, whose residual has this length */
static bool
are_codes_near(CodesCheck *check, double residual)
{
	const VqCodec *codec = &check->model->codec;
	double		lengths = sqrt(vq_kernels->ip_f32(check->x_model, check->x_model, codec->dim)) +
		sqrt(vq_kernels->ip_f32(check->centroid, check->centroid, codec->dim));

	if (!(residual > 0))
		return true;
	for (size_t i = 0; i < codec->pq.dim; i++)
		check->direction[i] = (float) ((check->x_code[i] - check->centroid_code[i]) / residual);
	return code_error(check, check->codes) <= WORST_ERROR * code_error(check, check->new_codes) +
		ERROR_ROUNDING + VECTOR_ROUNDING * lengths / residual;
}

/*
 * Whether S could be that of a row whose residual has this length.  It is left out where E for all of the residual is no
 * larger than with it, or it is out of range, either of which rounding may decide.
 */
static bool
is_s_near(const VqCodec *codec, const VqFactors *factors, const VqFactors *new_factors, double residual)
{
	int			larger = Max(factors->s, new_factors->s);

	if (factors->s > 0 && new_factors->s > 0)
		return abs(factors->s - new_factors->s) <= S_ROUNDING + larger * FACTOR_ROUNDING;
	return factors->s == new_factors->s || larger >= UINT16_MAX - S_ROUNDING ||
		vq_codec_unpack_e(Min(factors->e, new_factors->e)) >= (codec->metric == VQ_METRIC_IP ? 1 : 2) * residual * (1 - FACTOR_ROUNDING);
}

static void
check_code(CodesCheck *check, BlockNumber blkno, ItemPointer tid, const VqVector *vector, const VqFactors *factors)
{
	const VqCodec *codec = &check->model->codec;
	VqFactors	new_factors;
	double		residual;
	double		scale;

	if (vector->dim != (int) codec->dim)
		report_code(check, blkno, tid, psprintf("which has %d dimensions, there is one", vector->dim));

	/* what is always compared exactly is always right */
	if (vq_codec_transform(vq_kernels, codec, vector->x, check->x_model) != VQ_OK)
	{
		if (!isinf(factors->a))
			report_code(check, blkno, tid, "which no code can stand for, there is one");
		return;
	}
	vq_codec_to_codes(vq_kernels, codec, check->x_model, check->x_code);
	vq_codec_encode(vq_kernels, codec, check->x_model, check->centroid, check->x_code, check->centroid_code,
					check->work, check->new_codes, &new_factors);
	if (isinf(factors->a) || isinf(new_factors.a))
		return;

	residual = vq_kernels->l2sq_f32(check->x_model, check->centroid, codec->dim);
	if (memcmp(check->codes, check->new_codes, codec->pq.m) != 0)
	{
		if (!are_codes_near(check, sqrt(residual)))
			report_code(check, blkno, tid, "the code is another's");
		return;
	}
	if (!is_s_near(codec, factors, &new_factors, sqrt(residual)))
		report_code(check, blkno, tid, psprintf("factor S is %g and not %g", factors->s / VQ_S_ONE, new_factors.s / VQ_S_ONE));
	if (abs(factors->e - new_factors.e) > 1)
		report_code(check, blkno, tid, psprintf("factor E is %g and not %g", vq_codec_unpack_e(factors->e),
												vq_codec_unpack_e(new_factors.e)));
	if (factors->s != new_factors.s)
		return;

	/* A is made of the residual's length, and of the centroid */
	scale = residual + sqrt(residual * vq_kernels->ip_f32(check->centroid, check->centroid, codec->dim)) +
		fabs(new_factors.a);
	if (!(fabs((double) factors->a - new_factors.a) <= FACTOR_ROUNDING * scale))
		report_code(check, blkno, tid, psprintf("factor A is %g and not %g", factors->a, new_factors.a));
}

static void
read_centroid(CodesCheck *check, uint32 list_no)
{
	check->list_no = list_no;
	ivfpq_model_centroid(check->index, check->model, list_no, check->centroid);
	vq_codec_to_codes(vq_kernels, &check->model->codec, check->centroid, check->centroid_code);
}

static bool
check_block(BlockNumber blkno, uint16 offset, void *block, void *arg)
{
	CodesCheck *check = arg;
	const VqBlockHeader *header = block;
	const VqBlockShape *shape = &check->model->shape;
	bool		is_coded = shape->m > 0;

	if (is_coded && header->list_no != check->list_no)
		read_centroid(check, header->list_no);
	check->list_no = header->list_no;
	for (size_t slot = 0; slot < header->used; slot++)
	{
		MemoryContext old;
		ItemPointerData tid;
		VqFactors	factors;
		VqVector	vector;
		Datum		values[INDEX_MAX_KEYS];
		bool		nulls[INDEX_MAX_KEYS];

		CHECK_FOR_INTERRUPTS();
		if (!vq_block_is_live(block, shape, slot))
			continue;
		memcpy(&tid, vq_block_tid(block, shape, slot), VQ_TID_BYTES);
		if (is_coded)
			vq_block_get(block, shape, slot, &factors, check->codes);

		old = MemoryContextSwitchTo(check->row_context);
		if (fetch_values(check, &tid, values, nulls))
		{
			if (nulls[0])
				report_code(check, blkno, &tid, "which is NULL, there is one");
			check_attributes(check, blkno, &tid, block, slot, values, nulls);
			if (is_coded)
			{
				vq_datum_read(values[0], check->datum_kind, &vector);
				check_code(check, blkno, &tid, &vector, &factors);
			}
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(check->row_context);
		ResetPerTupleExprContext(check->estate);
	}
	return true;
}

void
ivfpq_check_codes(Relation heap, Relation index, const IvfpqMetaPageData *meta, Snapshot snapshot)
{
	CodesCheck	check = {.heap = heap, .index = index, .snapshot = snapshot, .list_no = PG_UINT32_MAX};
	MemoryContext context;
	MemoryContext old;
	const VqCodec *codec;

	if (meta->codec == IVFPQ_CODEC_NONE && meta->nattributes == 0)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq check of codes", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	check.model = ivfpq_model_get(index, context);
	codec = &check.model->codec;
	check.datum_kind = ivfpq_datum_kind(index, index->rd_opcintype[0]);
	check.info = BuildIndexInfo(index);
	check.estate = CreateExecutorState();
	check.slot = table_slot_create(heap, NULL);
	check.fetch = VQ_FETCH_BEGIN(heap);
	check.row_context = AllocSetContextCreate(context, "ivfpq row", ALLOCSET_DEFAULT_SIZES);
	GetPerTupleExprContext(check.estate)->ecxt_scantuple = check.slot;
	if (meta->codec != IVFPQ_CODEC_NONE)
	{
		check.centroid = palloc(codec->dim * sizeof(float));
		check.x_model = palloc(codec->dim * sizeof(float));
		check.direction = palloc(vq_codec_code_floats(codec) * sizeof(float));
		check.centroid_code = palloc(vq_codec_code_floats(codec) * sizeof(float));
		check.x_code = palloc(vq_codec_code_floats(codec) * sizeof(float));
		check.work = palloc(Max(vq_codec_encode_floats(codec), vq_codec_code_floats(codec)) * sizeof(float));
		check.codes = palloc(meta->m);
		check.new_codes = palloc(meta->m);
	}
	MemoryContextSwitchTo(old);

	(void) ivfpq_inspect_blocks(index, meta, check_block, &check);

	table_index_fetch_end(check.fetch);
	ExecDropSingleTupleTableSlot(check.slot);
	FreeExecutorState(check.estate);
	MemoryContextDelete(context);
}
