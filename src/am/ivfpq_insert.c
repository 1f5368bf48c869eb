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

#include "am/ivfpq_search.h"
#include "utils/memutils.h"

#include "base/vq_datum.h"
#include "base/vq_guc.h"

typedef struct InsertState
{
	IvfpqModel *model;

	/* only with codes */
	float	   *distance_sq;	/* [nlists], unless finds_by_codes */
	float	   *norm_sq;
	float	   *x_model;		/* [dim] */
	float	   *centroid;		/* [dim] */
	float	   *work;			/* vq_codec_encode_floats */
	uint8	   *codes;			/* [m] */
	MemoryContext search_context;	/* reset after each search for a list */
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

	state->model = model;
	if (model->meta.codec != IVFPQ_CODEC_NONE)
	{
		state->search_context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq nearest list",
													  0, 64 * 1024, ALLOCSET_DEFAULT_MAXSIZE);
		if (!finds_by_codes(model))
		{
			state->distance_sq = palloc(model->meta.nlists * sizeof(float));
			state->norm_sq = palloc(model->meta.nlists * sizeof(float));
		}
		state->x_model = palloc(model->meta.dim * sizeof(float));
		state->centroid = palloc(model->meta.dim * sizeof(float));
		state->work = palloc(vq_codec_encode_floats(&model->codec) * sizeof(float));
		state->codes = palloc(model->meta.m);
	}
	info->ii_AmCache = state;
	MemoryContextSwitchTo(old);
	return state;
}

static uint32
nearest_list(Relation index, const InsertState *state)
{
	uint32		nearest = 0;

	if (finds_by_codes(state->model))
	{
		MemoryContext old = MemoryContextSwitchTo(state->search_context);
		VqQuery		query = {.q_model = state->x_model};
		IvfpqCoarse coarse;
		IvfpqNearList list;

		ivfpq_coarse_begin(&coarse, index, state->model, &query, 1);
		if (ivfpq_coarse_next(&coarse, &list))
			nearest = list.list_no;
		MemoryContextSwitchTo(old);
		MemoryContextReset(state->search_context);
		return nearest;
	}

	ivfpq_model_distances(index, state->model, state->x_model, 0, state->model->meta.nlists,
						  state->distance_sq, state->norm_sq);
	for (uint32 i = 1; i < state->model->meta.nlists; i++)
		if (state->distance_sq[i] < state->distance_sq[nearest])
			nearest = i;
	return nearest;
}

static bool
is_zero_vector(const VqVector *vector)
{
	for (int i = 0; i < vector->dim; i++)
		if (vector->x[i] != 0)
			return false;
	return true;
}

bool
ivfpqinsert(Relation index, Datum *values, bool *isnull, ItemPointer tid,
			Relation heap, IndexUniqueCheck check_unique,
			bool index_unchanged, IndexInfo *info)
{
	InsertState *state = info->ii_AmCache;
	VqVector	vector;

	if (isnull[0])
		return false;
	if (state == NULL)
		state = begin_insert(index, info);

	vq_datum_read(values[0], index->rd_opcintype[0], &vector);
	if (state->model->meta.dim == 0)
		state->model->meta.dim = ivfpq_meta_set_dim(index, vector.dim);
	ivfpq_check_dim(index, state->model->meta.dim, vector.dim);

	if (state->model->meta.metric == VQ_METRIC_COSINE && is_zero_vector(&vector))
		ivfpq_meta_count_zero_vector(index);
	else if (state->model->meta.codec == IVFPQ_CODEC_NONE)
		ivfpq_list_insert(index, state->model, 0, tid, NULL, NULL);
	else
	{
		VqStatus	status = vq_codec_transform(vq_kernels, &state->model->codec, vector.x, state->x_model);
		uint32		list_no = nearest_list(index, state);
		VqFactors	factors;

		ivfpq_model_centroid(index, state->model, list_no, state->centroid);
		vq_codec_encode(vq_kernels, &state->model->codec, state->x_model, state->centroid,
						state->work, state->codes, &factors);
		if (status != VQ_OK)
			vq_codec_encode_exact(&factors);
		ivfpq_list_insert(index, state->model, list_no, tid, &factors, state->codes);
	}
	vq_datum_free(&vector);
	return false;
}
