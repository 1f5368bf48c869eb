/*-------------------------------------------------------------------------
 *
 * ivfpq_model.c
 *	  The trained model of an index as searches and inserts use it.
 *
 * A backend caches the small immutable parts (mean, codebook, projection, signs of
 * the rotation) of the last few indexes it used.  Each cached model counts its
 * users; a user is a memory context, whose reset callback takes it off the
 * count, so an error cannot leave a model in use for ever.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq.h"
#include "lib/ilist.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"
#include "base/vqpg_compat.h"

/* Models kept although nobody uses them at the moment: so many, or as many as take so many bytes */
#define MIN_IDLE_MODELS		8
#define MAX_IDLE_BYTES		((Size) 16 * 1024 * 1024)

typedef struct CachedModel
{
	IvfpqModel	model;			/* first: what callers get */
	dlist_node	node;			/* in cache, most recently used first */
	VqLocator	locator;
	int			users;
	MemoryContext context;		/* holds this and everything it points to */
} CachedModel;

static dlist_head cache = DLIST_STATIC_INIT(cache);

/* Free unused models beyond those most recently used, and those of this locator, if any */
static void
evict_models(const VqLocator *outdated)
{
	dlist_mutable_iter iter;
	int			nidle = 0;
	Size		idle_bytes = 0;

	dlist_foreach_modify(iter, &cache)
	{
		CachedModel *cached = dlist_container(CachedModel, node, iter.cur);

		if (cached->users > 0)
			continue;
		nidle++;
		idle_bytes += MemoryContextMemAllocated(cached->context, false);
		if ((nidle > MIN_IDLE_MODELS && idle_bytes > MAX_IDLE_BYTES) ||
			(outdated && VQ_LOCATOR_EQUALS(cached->locator, *outdated)))
		{
			dlist_delete(&cached->node);
			MemoryContextDelete(cached->context);
		}
	}
}

static void
model_user_gone(void *arg)
{
	((CachedModel *) arg)->users--;
	evict_models(NULL);
}

void
ivfpq_projection_read(Relation index, const IvfpqMetaPageData *meta, VqCodec *codec, void *image)
{
	ivfpq_array_read(index, meta->projection_start, vq_project_bytes(meta->dim, codec->pq.dim), image);
	if (vq_project_open(&codec->projection, meta->dim, codec->pq.dim, image) != VQ_OK)
		ivfpq_report_corrupted(index, meta->projection_start,
							   "The projection has steps that are negative or not finite.");
}

/* Read the immutable arrays of a trained index, but for centroids and what leads to them */
static void
load_codec(Relation index, CachedModel *cached)
{
	const IvfpqMetaPageData *meta = &cached->model.meta;
	VqCodec    *codec = &cached->model.codec;
	size_t		mean_bytes = meta->dim * sizeof(float);
	size_t		codebook_bytes;
	float	   *mean;
	float	   *codebook;
	float	   *signs;

	if (vq_codec_init(codec, meta->dim, meta->m, meta->nbits, ivfpq_is_projected(meta)) != VQ_OK)
		elog(ERROR, "unexpected code parameters: %u dimensions, m %u, nbits %u",
			 meta->dim, meta->m, meta->nbits);
	codec->metric = meta->metric;
	codec->rotation = meta->rotation;
	codec->scale = meta->scale;
	codec->error_scale = meta->error_scale;
	codebook_bytes = vq_pq_codebook_floats(&codec->pq) * sizeof(float);

	mean = MemoryContextAlloc(cached->context, mean_bytes);
	codebook = MemoryContextAlloc(cached->context, codebook_bytes);
	signs = MemoryContextAlloc(cached->context, vq_rotate_sign_bytes(meta->dim));
	ivfpq_array_read(index, meta->mean_start, mean_bytes, mean);
	ivfpq_array_read(index, meta->codebook_start, codebook_bytes, codebook);
	vq_rotate_signs(meta->seed, meta->dim, signs);
	codec->mean = mean;
	codec->codebook = codebook;
	codec->signs = signs;

	if (codec->is_projected)
		ivfpq_projection_read(index, meta, codec,
							  MemoryContextAlloc(cached->context, vq_project_bytes(meta->dim, codec->pq.dim)));
}

void
ivfpq_groups_read(Relation index, const IvfpqMetaPageData *meta, uint32 *lists, uint32 *blocks)
{
	bool		is_sound;

	ivfpq_array_read(index, meta->group_start, (meta->ngroups + 1) * sizeof(uint32), lists);
	is_sound = lists[0] == 0 && lists[meta->ngroups] == meta->nlists;
	blocks[0] = 0;
	for (uint32 g = 0; g < meta->ngroups; g++)
	{
		is_sound &= lists[g] <= lists[g + 1];
		blocks[g + 1] = blocks[g] + (lists[g + 1] - lists[g] + VQ_BLOCK_LANES - 1) / VQ_BLOCK_LANES;
	}
	if (!is_sound)
		ivfpq_report_corrupted(index, meta->group_start,
							   psprintf("The borders of %u groups do not divide %u lists.",
										meta->ngroups, meta->nlists));
}

static void
load_groups(Relation index, CachedModel *cached)
{
	size_t		nbytes = (cached->model.meta.ngroups + 1) * sizeof(uint32);
	uint32	   *lists = MemoryContextAlloc(cached->context, nbytes);
	uint32	   *blocks = MemoryContextAlloc(cached->context, nbytes);

	ivfpq_groups_read(index, &cached->model.meta, lists, blocks);
	cached->model.group_lists = lists;
	cached->model.group_blocks = blocks;
}

/* Read the codebook of centroids */
static void
load_coarse_codec(Relation index, CachedModel *cached)
{
	const IvfpqMetaPageData *meta = &cached->model.meta;
	VqCodec    *codec = &cached->model.coarse;
	size_t		codebook_bytes;
	float	   *codebook;

	if (vq_codec_init(codec, meta->dim, meta->coarse_m, IVFPQ_COARSE_NBITS, false) != VQ_OK)
		elog(ERROR, "unexpected centroid codes: %u dimensions, m %u", meta->dim, meta->coarse_m);
	codec->metric = meta->metric;
	codebook_bytes = vq_pq_codebook_floats(&codec->pq) * sizeof(float);
	codebook = MemoryContextAlloc(cached->context, codebook_bytes);
	ivfpq_array_read(index, meta->coarse_codebook_start, codebook_bytes, codebook);
	codec->codebook = codebook;
	cached->model.coarse_shape.m = meta->coarse_m;
	cached->model.coarse_shape.nbits = IVFPQ_COARSE_NBITS;
}

static CachedModel *
load_model(Relation index, const IvfpqMetaPageData *meta)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq model",
												  ALLOCSET_SMALL_SIZES);
	CachedModel *cached = MemoryContextAllocZero(context, sizeof(CachedModel));

	cached->model.nblocks = MemoryContextAllocZero(context, sizeof(BlockNumber));

	cached->context = context;
	cached->locator = VQ_LOCATOR(index);
	cached->model.meta = *meta;
	cached->model.shape = ivfpq_block_shape(meta);
	if (meta->codec != IVFPQ_CODEC_NONE)
		load_codec(index, cached);
	if (meta->ngroups > 0)
		load_groups(index, cached);
	if (meta->coarse_m > 0)
		load_coarse_codec(index, cached);

	/* whole and right: let it outlive the query */
	MemoryContextSetParent(context, CacheMemoryContext);
	return cached;
}

/* Whether two metapages of one file are those of one model.  What else differs is damage, which a new model meets. */
static bool
is_same_model(const IvfpqMetaPageData *cached, const IvfpqMetaPageData *meta)
{
	IvfpqMetaPageData expected = *cached;

	/* what can change */
	expected.zero_vectors = meta->zero_vectors;
	if (meta->codec == IVFPQ_CODEC_NONE)
		expected.dim = meta->dim;
	return memcmp(&expected, meta, sizeof(expected)) == 0;
}

IvfpqModel *
ivfpq_model_get(Relation index, MemoryContext owner)
{
	MemoryContextCallback *callback = MemoryContextAlloc(owner, sizeof(MemoryContextCallback));
	IvfpqMetaPageData meta;
	CachedModel *found = NULL;
	dlist_iter	iter;

	ivfpq_meta_read(index, &meta);
	dlist_foreach(iter, &cache)
	{
		CachedModel *cached = dlist_container(CachedModel, node, iter.cur);

		if (is_same_model(&cached->model.meta, &meta) &&
			VQ_LOCATOR_EQUALS(cached->locator, VQ_LOCATOR(index)))
		{
			found = cached;
			break;
		}
	}
	if (found == NULL)
	{
		evict_models(&VQ_LOCATOR(index));
		found = load_model(index, &meta);
		dlist_push_head(&cache, &found->node);
	}
	else
	{
		found->model.meta = meta;
		dlist_move_head(&cache, &found->node);
	}

	found->users++;
	callback->func = model_user_gone;
	callback->arg = found;
	MemoryContextRegisterResetCallback(owner, callback);
	return &found->model;
}

/* What a walk over centroid rows computes from them */
typedef struct DistanceWalk
{
	const IvfpqModel *model;
	const float *q;
	uint32		first_list;
	IvfpqRowLayout layout;
	float	   *distance_sq;
	float	   *norm_sq;
	float		part_sum;		/* of a row in several parts, which has its pages for itself */
} DistanceWalk;

static void
distances_of_page(uint32 first_row, uint32 nrows, uint32 part, const char *rows, void *arg)
{
	DistanceWalk *walk = arg;
	uint32		offset = part * walk->layout.part_dims;
	uint32		dims = Min(walk->layout.part_dims, walk->model->meta.dim - offset);
	float	   *distance_sq = walk->distance_sq + (first_row - walk->first_list);
	float	   *norm_sq = walk->norm_sq + (first_row - walk->first_list);
	float	   *sums = part == 0 ? distance_sq : &walk->part_sum;

	if (walk->model->meta.centroid_kind == IVFPQ_CENTROID_I8)
		vq_kernels->l2sq_rows_i8(walk->q + offset, dims, rows, walk->layout.stride, nrows, sums);
	else
		vq_kernels->l2sq_rows_f32(walk->q + offset, dims, rows, walk->layout.stride, nrows, sums);

	for (uint32 i = 0; i < nrows; i++)
	{
		if (part == 0)
			norm_sq[i] = ((const VqRowHeader *) (rows + (size_t) i * walk->layout.stride))->norm_sq;
		else
			distance_sq[i] += sums[i];
	}
}

void
ivfpq_model_distances(Relation index, const IvfpqModel *model, const float *q,
					  uint32 first_list, uint32 nlists,
					  float *distance_sq, float *norm_sq)
{
	DistanceWalk walk = {
		.model = model, .q = q, .first_list = first_list,
		.distance_sq = distance_sq, .norm_sq = norm_sq
	};

	ivfpq_row_layout(model->meta.dim, model->meta.centroid_kind, &walk.layout);
	ivfpq_rows_walk(index, &model->meta, first_list, nlists, distances_of_page, &walk);
}

void
ivfpq_model_distances_of(Relation index, const IvfpqModel *model, const float *q,
						 const uint32 *list_nos, uint32 nlists,
						 float *distance_sq, float *norm_sq)
{
	DistanceWalk walk = {.model = model, .q = q, .distance_sq = distance_sq, .norm_sq = norm_sq};

	ivfpq_row_layout(model->meta.dim, model->meta.centroid_kind, &walk.layout);
	ivfpq_rows_visit(index, &model->meta, list_nos, nlists, distances_of_page, &walk);
}

/* Where a walk over one centroid puts its values */
typedef struct CentroidWalk
{
	const IvfpqModel *model;
	IvfpqRowLayout layout;
	float	   *centroid;
} CentroidWalk;

static void
values_of_row(uint32 first_row, uint32 nrows, uint32 part, const char *row, void *arg)
{
	CentroidWalk *walk = arg;
	uint32		offset = part * walk->layout.part_dims;
	uint32		dims = Min(walk->layout.part_dims, walk->model->meta.dim - offset);
	const VqRowHeader *header = (const VqRowHeader *) row;
	const char *values = row + sizeof(VqRowHeader);

	if (walk->model->meta.centroid_kind == IVFPQ_CENTROID_F32)
		memcpy(walk->centroid + offset, values, dims * sizeof(float));
	else
		for (uint32 i = 0; i < dims; i++)
			walk->centroid[offset + i] = header->scale * ((const int8 *) values)[i];
}

void
ivfpq_model_centroid(Relation index, const IvfpqModel *model, uint32 list_no, float *centroid)
{
	CentroidWalk walk = {.model = model, .centroid = centroid};

	ivfpq_row_layout(model->meta.dim, model->meta.centroid_kind, &walk.layout);
	ivfpq_rows_walk(index, &model->meta, list_no, 1, values_of_row, &walk);
}

void
ivfpq_report_dim(Relation index, uint32 index_dim, int dim, bool may_be_outdated)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("expected a vector of %u dimensions, not %d", index_dim, dim),
			 errdetail("Index \"%s\" holds vectors of %u dimensions.",
					   RelationGetRelationName(index), index_dim),
			 may_be_outdated ?
			 errhint("All vectors of an indexed column, and the queries to it, have the same number of dimensions. "
					 "If the table has none of %u, as its first rows were rolled back or deleted, VACUUM it; if that does not help, REINDEX the index.",
					 index_dim) :
			 ivfpq_options(index)->dims == index_dim ?
			 errhint("All vectors of an indexed column, and the queries to it, have the number of dimensions that storage parameter \"dims\" says.") :
			 ivfpq_declared_dim(index) == index_dim ?
			 errhint("All vectors of an indexed column, and the queries to it, have the same number of dimensions. "
					 "Of a column with several, index each by a partial index.") :
			 errhint("All vectors of an indexed column, and the queries to it, have the same number of dimensions. "
					 "Of a column with several, index each by a partial index. If the table has none of %u any more, REINDEX the index.",
					 index_dim)));
}

void
ivfpq_check_dim(Relation index, uint32 index_dim, int dim)
{
	IvfpqMetaPageData meta;

	if ((uint32) dim == index_dim)
		return;
	ivfpq_meta_read(index, &meta);
	ivfpq_report_dim(index, index_dim, dim, ivfpq_dim_is_from_row(index, &meta));
}

bool
ivfpq_dim_is_from_row(Relation index, const IvfpqMetaPageData *meta)
{
	return meta->dim > 0 && meta->codec == IVFPQ_CODEC_NONE && ivfpq_declared_dim(index) != meta->dim;
}
