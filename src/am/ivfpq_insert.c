/*-------------------------------------------------------------------------
 *
 * ivfpq_insert.c
 *	  aminsert: nearest list, code, slot.
 *
 * Everything that can fail or take long is done before a page is locked.  What
 * one row needs and the next can use again (model, buffers) is kept in the
 * statement's IndexInfo.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_search.h"
#include "utils/memutils.h"

#include "base/vq_datum.h"
#include "base/vq_guc.h"

typedef struct InsertState
{
	IvfpqModel *model;
	VqDatumKind datum_kind;
	ItemPointerData after;		/* where the vector of the next row may be, if out of line */

	/* only with codes */
	float	   *distance_sq;	/* [nlists], as groups are no more than lists, unless finds_by_codes */
	float	   *norm_sq;
	float	   *x_model;		/* [dim] */
	float	   *centroid;		/* [dim] */
	float	   *x_code;			/* vq_codec_code_floats, both */
	float	   *centroid_code;
	float	   *work;			/* vq_codec_encode_floats */
	uint8	   *codes;			/* [m] */
	MemoryContext row_context;	/* reset after each search for a list, and after attributes are read */
} InsertState;

/*
 * Lists are those of the nearest centroid.  The codes of centroids find it, but
 * for inner product, where they say which centroid has the largest product.
 */
static bool
finds_by_codes(const IvfpqModel *model)
{
	return model->coarse_shape.m > 0 && model->meta.metric != VQ_METRIC_IP;
}

static InsertState *
begin_insert(Relation index, IndexInfo *info)
{
	MemoryContext old = MemoryContextSwitchTo(info->ii_Context);
	InsertState *state = palloc0(sizeof(InsertState));
	IvfpqModel *model = ivfpq_model_get(index, info->ii_Context);

	ivfpq_attributes_check(index, &model->meta);
	state->model = model;
	state->datum_kind = ivfpq_datum_kind(index, index->rd_opcintype[0]);
	state->row_context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq insert",
											   0, 64 * 1024, ALLOCSET_DEFAULT_MAXSIZE);
	if (model->meta.codec != IVFPQ_CODEC_NONE)
	{
		if (!finds_by_codes(model))
		{
			state->distance_sq = palloc(model->meta.nlists * sizeof(float));
			state->norm_sq = palloc(model->meta.nlists * sizeof(float));
		}
		state->x_model = palloc(model->meta.dim * sizeof(float));
		state->centroid = palloc(model->meta.dim * sizeof(float));
		state->x_code = palloc(vq_codec_code_floats(&model->codec) * sizeof(float));
		state->centroid_code = palloc(vq_codec_code_floats(&model->codec) * sizeof(float));
		state->work = palloc(vq_codec_encode_floats(&model->codec) * sizeof(float));
		state->codes = palloc(model->meta.m);
	}
	info->ii_AmCache = state;
	MemoryContextSwitchTo(old);
	return state;
}

/* Nearest becomes the nearest of lists first to end - 1, if that is below least, which is its squared distance */
static void
compare_lists(Relation index, const InsertState *state, uint32 first, uint32 end,
			  uint32 *nearest, float *least)
{
	ivfpq_model_distances(index, state->model, state->x_model, first, end - first,
						  state->distance_sq, state->norm_sq);
	for (uint32 i = 0; i < end - first; i++)
		if (state->distance_sq[i] < *least)
		{
			*least = state->distance_sq[i];
			*nearest = first + i;
		}
}

/* By distances of centroids: those in the nearest groups, as a build does it, or all if there are few */
static uint32
nearest_by_distance(Relation index, const InsertState *state)
{
	const IvfpqModel *model = state->model;
	uint32		ngroups = model->meta.ngroups;
	uint32		nearest = 0;
	float		least = INFINITY;
	VqItem	   *groups;
	VqSelect	select;

	if (ngroups == 0)
	{
		compare_lists(index, state, 0, model->meta.nlists, &nearest, &least);
		return nearest;
	}

	groups = palloc0(ngroups * sizeof(VqItem));
	ivfpq_model_distances(index, model, state->x_model, model->meta.nlists, ngroups,
						  state->distance_sq, state->norm_sq);
	for (uint32 g = 0; g < ngroups; g++)
	{
		groups[g].id_high = g;
		groups[g].key = state->distance_sq[g];
	}
	vq_select_init(&select, groups, ngroups);
	for (int i = 0; i < IVFPQ_ASSIGNED_GROUPS; i++)
	{
		const VqItem *group = vq_select_take(&select);

		if (group != NULL)
			compare_lists(index, state, model->group_lists[group->id_high],
						  model->group_lists[group->id_high + 1], &nearest, &least);
	}
	return nearest;
}

static uint32
nearest_by_codes(Relation index, const InsertState *state)
{
	VqQuery		query = {.q_model = state->x_model};
	IvfpqCoarse coarse;
	IvfpqNearList list = {0};

	(void) ivfpq_coarse_begin(&coarse, index, state->model, &query, 1, false);
	(void) ivfpq_coarse_next(&coarse, &list);
	return list.list_no;
}

static uint32
nearest_list(Relation index, const InsertState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->row_context);
	uint32		nearest = finds_by_codes(state->model) ?
		nearest_by_codes(index, state) : nearest_by_distance(index, state);

	MemoryContextSwitchTo(old);
	MemoryContextReset(state->row_context);
	return nearest;
}

/* The first row says how many dimensions there are: a build would fail that has more sub-quantisers */
static void
check_m(Relation index, uint32 dim)
{
	uint32		m = ivfpq_options(index)->m;

	if (m > dim)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of sub-quantisers must not exceed the number of dimensions"),
				 errdetail("Vectors have %u dimensions, and \"m\" of index \"%s\" is %u.", dim, RelationGetRelationName(index), m),
				 errhint("Use ALTER INDEX ... SET (m = ...) with at most %u, or 0 for as many as a build chooses.", dim)));
}

bool
ivfpqinsert(Relation index, Datum *values, bool *isnull, ItemPointer tid,
			Relation heap, IndexUniqueCheck check_unique,
			bool index_unchanged, IndexInfo *info)
{
	InsertState *state = info->ii_AmCache;
	VqVector	vector;
	int64		attributes[VQ_MAX_ATTRIBUTES];
	IvfpqEntry	entry = {.tid = *tid, .attributes = attributes};

	if (isnull[0])
		return false;
	if (state == NULL)
		state = begin_insert(index, info);
	if (state->model->shape.nattributes > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(state->row_context);

		ivfpq_attributes_of(index, &state->model->shape, values, isnull, attributes);
		MemoryContextSwitchTo(old);
		MemoryContextReset(state->row_context);
	}

	vq_datum_read(values[0], state->datum_kind, &vector);
	if (state->model->meta.dim == 0)
	{
		uint32		declared = ivfpq_declared_dim(index);
		uint32		dim = declared > 0 ? declared : vector.dim;

		check_m(index, dim);
		state->model->meta.dim = ivfpq_meta_set_dim(index, dim);
	}
	ivfpq_check_dim(index, state->model->meta.dim, vector.dim);

	if (state->model->meta.metric == VQ_METRIC_COSINE && vq_datum_is_zero(&vector))
		ivfpq_meta_count_zero_vector(index);
	else if (state->model->meta.codec == IVFPQ_CODEC_NONE)
		ivfpq_list_insert(index, state->model, 0, &entry);
	else
	{
		const VqCodec *codec = &state->model->codec;
		VqStatus	status = vq_codec_transform(vq_kernels, codec, vector.x, state->x_model);
		uint32		list_no = nearest_list(index, state);
		VqFactors	factors;

		ivfpq_model_centroid(index, state->model, list_no, state->centroid);
		vq_codec_to_codes(vq_kernels, codec, state->x_model, state->x_code);
		vq_codec_to_codes(vq_kernels, codec, state->centroid, state->centroid_code);
		vq_codec_encode(vq_kernels, codec, state->x_model, state->centroid,
						state->x_code, state->centroid_code, state->work, state->codes, &factors);
		if (status != VQ_OK)
			vq_codec_encode_exact(&factors);
		entry.factors = &factors;
		entry.codes = state->codes;
		if (state->model->shape.has_chunk_tids)
			ivfpq_toast_of_row(heap, tid, info->ii_IndexAttrNumbers[0], &state->after, &entry.chunk_tid);
		ivfpq_list_insert(index, state->model, list_no, &entry);
	}
	vq_datum_free(&vector);
	return false;
}
