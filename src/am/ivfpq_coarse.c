/*-------------------------------------------------------------------------
 *
 * ivfpq_coarse.c
 *	  The lists of an index, nearest first.
 *
 * Centroids are searched as rows are.  Their groups take the place of lists: the
 * codes in the nearest groups, against the centres of these, give a lower bound
 * of each centroid, and a few more than are wanted are compared exactly, those of
 * the smallest bounds.  The nearest 80 of ten thousand lists of 300 dimensions
 * cost 100 centres, a quarter of the codes (.14 MB), and a hundred centroids
 * instead of 3 MB of them.  With few lists all centroids are compared.
 *
 * How many lists a query should read can depend on how far they are (kernels/vq_spread.h).  Then
 * as many as that takes are compared first, and the others, of the bounds that are left, when it is known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_search.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

/*
 * Groups opened: so many, and for the root of as many groups as could hold the
 * lists expected.  Of word vectors and SIFT in 8,000 lists about so many had .995
 * of the nearest 16 to 400 (simulated); searches of these and of a million
 * synthetic rows had the recall that all groups gave, within .001 at .95.  With 7
 * and 10 the million lost .015 of it.
 */
#define GROUPS_OPENED		12
#define GROUPS_PER_ROOT		17

/* How far to trust the codes of centroids, in standard errors: half as much made no difference */
#define CONFIDENCE			1.0f

/* Bounds held, for each that will be compared: a quarter is kept for sure when they become too many */
#define BOUNDS_PER_COMPARED	4

/*
 * Lists compared exactly, for each that may be taken, and some more.  Those of
 * the smallest bounds are.
 */
#define COMPARED_PER_LIST	1.25
#define COMPARED_MORE		16

/* When more lists are wanted than expected: so many times as many */
#define GROWTH				2

/* A walk over the blocks of centroid codes */
typedef struct CodeWalk
{
	IvfpqCoarse *coarse;
	uint32		first_run;		/* runs before that one have been walked */
	uint32		run;			/* that of bound */
	VqBound		bound;
	VqItem	   *items;			/* of the pool and before it */
	VqPool		pool;			/* of bounds; id_high is the place of the code */
} CodeWalk;

static void
bounds_of_blocks(uint32 run, uint32 first_block, uint32 nblocks, const char *blocks, void *arg)
{
	CodeWalk   *walk = arg;
	IvfpqCoarse *coarse = walk->coarse;
	const IvfpqModel *model = coarse->model;
	const VqBlockShape *shape = &model->coarse_shape;
	size_t		block_bytes = vq_block_bytes(shape, VQ_BLOCK_LANES);
	VqPool	   *pool = &walk->pool;

	if (run != walk->run)
	{
		uint32		group = coarse->open[walk->first_run + run];

		vq_codec_list_bound(&model->coarse, &coarse->tables, coarse->group_distance_sq[group],
							coarse->group_norm_sq[group], CONFIDENCE, &walk->bound);
		walk->run = run;
	}
	for (uint32 i = 0; i < nblocks; i++)
	{
		const char *block = blocks + i * block_bytes;
		uint32		block_no = first_block + i;
		uint32_t	sums[VQ_BLOCK_LANES];
		float		low[VQ_BLOCK_LANES];
		uint32_t	is_near;

		if (coarse->waiting[block_no] == 0)
			continue;
		if (((const VqBlockHeader *) block)->capacity != VQ_BLOCK_LANES)
			ivfpq_report_corrupted(coarse->index,
								   model->meta.coarse_code_start + block_no / (IVFPQ_PAGE_BYTES / block_bytes),
								   psprintf("Block %u of the codes of centroids has %u slots, not %d.", block_no,
											((const VqBlockHeader *) block)->capacity, VQ_BLOCK_LANES));
		vq_kernels->scan4(vq_block_codes(block, shape), VQ_BLOCK_LANES, coarse->tables.lut, shape->m, sums);
		is_near = vq_kernels->bound(vq_block_a(block, shape), vq_block_s(block, shape),
									vq_block_e(block, shape), sums, VQ_BLOCK_LANES, &walk->bound,
									vq_pool_ceiling(pool), low);
		for (is_near &= coarse->waiting[block_no]; is_near != 0; is_near &= is_near - 1)
		{
			int			j = pg_rightmost_one_pos32(is_near);

			vq_pool_add(pool, (VqItem) {
				.key = isnan(low[j]) ? -INFINITY : low[j],
				.id_high = block_no * VQ_BLOCK_LANES + j
			});
		}
	}
}

/* The nearest groups: so many of them, and as many as have the lists expected */
static void
open_groups(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	double		lists_per_group = (double) model->meta.nlists / model->meta.ngroups;
	size_t		wanted = GROUPS_OPENED + GROUPS_PER_ROOT * sqrt(coarse->expected / lists_per_group);
	const VqItem *item;

	while ((coarse->nopen < wanted || coarse->nopened < coarse->expected) &&
		   (item = vq_select_take(&coarse->groups)) != NULL)
	{
		uint32		group = item->id_high;
		uint32		left = model->group_lists[group + 1] - model->group_lists[group];
		uint32	   *waiting = coarse->waiting + model->group_blocks[group];

		coarse->open[coarse->nopen] = group;
		coarse->runs[coarse->nopen++] = (IvfpqRun) {
			.first = model->group_blocks[group],
			.count = model->group_blocks[group + 1] - model->group_blocks[group]
		};
		coarse->nopened += left;
		for (; left >= VQ_BLOCK_LANES; left -= VQ_BLOCK_LANES)
			*waiting++ = PG_UINT32_MAX;
		if (left > 0)
			*waiting = (1U << left) - 1;
	}
}

/* An array of so many elements, zeroed from the first one not used */
static void *
grown(void *array, size_t used, size_t count, size_t size)
{
	array = array ? repalloc_huge(array, count * size) : palloc_extended(count * size, MCXT_ALLOC_HUGE);
	memset((char *) array + used * size, 0, (count - used) * size);
	return array;
}

/* Room for so many lists more that are compared */
static void
make_room(IvfpqCoarse *coarse, size_t count)
{
	size_t		used = coarse->ncompared;

	count += used;
	coarse->items = grown(coarse->items, used, count, sizeof(VqItem));
	coarse->list_nos = grown(coarse->list_nos, used, count, sizeof(uint32));
	coarse->distance_sq = grown(coarse->distance_sq, used, count, sizeof(float));
	coarse->norm_sq = grown(coarse->norm_sq, used, count, sizeof(float));
	coarse->entries = grown(coarse->entries, used, count, sizeof(IvfpqDirEntry));
	coarse->places = grown(coarse->places, used, count, sizeof(uint32));
}

/*
 * The numbers of the lists of these bounds, and the places of their codes, in
 * ascending order: so lists whose centroids or directory entries share a page are
 * read together.
 */
static void
number_lists(IvfpqCoarse *coarse, const VqItem *bounds, size_t count)
{
	const IvfpqModel *model = coarse->model;
	size_t		n = coarse->ncompared;

	for (size_t i = 0; i < count; i++)
		coarse->chosen[bounds[i].id_high / VQ_BLOCK_LANES] |= 1U << bounds[i].id_high % VQ_BLOCK_LANES;
	for (uint32 g = 0; g < model->meta.ngroups; g++)
		for (uint32 block_no = model->group_blocks[g]; block_no < model->group_blocks[g + 1]; block_no++)
			for (uint32 *left = &coarse->chosen[block_no]; *left != 0; *left &= *left - 1)
			{
				uint32		place = block_no * VQ_BLOCK_LANES + pg_rightmost_one_pos32(*left);

				coarse->list_nos[n] = model->group_lists[g] + place - model->group_blocks[g] * VQ_BLOCK_LANES;
				coarse->places[n++] = place;
			}
	Assert(n == coarse->ncompared + count);
}

/* Read centroids and directory entries of so many more numbered lists, and order all */
static void
compare_lists(IvfpqCoarse *coarse, size_t count)
{
	const IvfpqModel *model = coarse->model;
	size_t		first = coarse->ncompared;

	ivfpq_list_entries(coarse->index, &model->meta, coarse->list_nos + first, count, coarse->entries + first);
	if (model->meta.codec != IVFPQ_CODEC_NONE)
		ivfpq_model_distances_of(coarse->index, model, coarse->query->q_model, coarse->list_nos + first, count,
								 coarse->distance_sq + first, coarse->norm_sq + first);
	coarse->ncompared += count;
	for (size_t i = first; i < coarse->ncompared; i++)
	{
		coarse->items[i].id_high = i;
		if (model->meta.codec != IVFPQ_CODEC_NONE)
			coarse->items[i].key = vq_codec_list_value(&model->codec, coarse->query,
													   coarse->distance_sq[i], coarse->norm_sq[i]);
	}
	vq_select_init(&coarse->select, coarse->items, coarse->ncompared);
}

/* Lists to be compared exactly, so that so many can be taken */
static size_t
lists_compared(uint32 nlists)
{
	return nlists * COMPARED_PER_LIST + COMPARED_MORE;
}

/* The other way round */
static uint32
lists_taken(uint32 ncompared)
{
	return ncompared > COMPARED_MORE ? (ncompared - COMPARED_MORE) / COMPARED_PER_LIST : 0;
}

/* Open the groups that are needed; their blocks are to be walked next */
static void
begin_walk(CodeWalk *walk, IvfpqCoarse *coarse)
{
	memset(walk, 0, sizeof(CodeWalk));
	walk->coarse = coarse;
	walk->run = PG_UINT32_MAX;
	open_groups(coarse);
	walk->pool.capacity = Min(lists_compared(coarse->expected - coarse->ntaken) * BOUNDS_PER_COMPARED,
							  coarse->model->meta.nlists);
	walk->pool.items = walk->items = palloc_extended(walk->pool.capacity * sizeof(VqItem), MCXT_ALLOC_HUGE);
}

static void
walk_groups(CodeWalk *walk, uint32 first_run)
{
	IvfpqCoarse *coarse = walk->coarse;

	walk->first_run = first_run;
	walk->run = PG_UINT32_MAX;
	ivfpq_chunks_walk(coarse->index, coarse->model->meta.coarse_code_start,
					  vq_block_bytes(&coarse->model->coarse_shape, VQ_BLOCK_LANES),
					  coarse->runs + first_run, coarse->nopen - first_run, bounds_of_blocks, walk);
}

/* Number the lists of the smallest bounds, so many or an eighth more; how many */
static size_t
choose_nearest(CodeWalk *walk, size_t least)
{
	VqPool		nearest = walk->pool;

	vq_pool_keep(&nearest, least, least + least / 8 + 1);
	make_room(walk->coarse, nearest.nitems);
	number_lists(walk->coarse, nearest.items, nearest.nitems);
	walk->pool.items += nearest.nitems;
	walk->pool.nitems -= nearest.nitems;
	walk->pool.capacity -= nearest.nitems;
	return nearest.nitems;
}

/* Lists that the query should read, from those compared so far */
static uint32
lists_wanted(IvfpqCoarse *coarse, uint32 nprobe)
{
	const IvfpqMetaPageData *meta = &coarse->model->meta;
	const VqSpread spread = ivfpq_spread(meta);
	uint32		ranks[] = {0, Min(spread.rank, coarse->ncompared) - 1};
	double		distances[lengthof(ranks)];

	for (int i = 0; i < lengthof(ranks); i++)
	{
		uint32		list = vq_select_ahead(&coarse->select, ranks[i])->id_high;

		distances[i] = vq_list_distance(meta->metric, coarse->distance_sq[list], coarse->query->q_norm_sq,
										   coarse->norm_sq[list]);
	}
	return vq_spread_nprobe(&spread, meta->nlists, nprobe, distances[0], distances[1]);
}

/*
 * Of the lists not yet taken, find those that come before expected are.  With a rank, find
 * so many first, and then as many as the query should read where nprobe is the mean; returns that.
 */
static uint32
find_lists(IvfpqCoarse *coarse, uint32 rank, uint32 nprobe)
{
	CodeWalk	walk;
	size_t		ncompared;

	coarse->ncompared = 0;
	begin_walk(&walk, coarse);
	walk_groups(&walk, 0);
	if (rank > 0 && walk.pool.nitems > 0)
	{
		uint32		walked = coarse->nopen;

		compare_lists(coarse, choose_nearest(&walk, lists_compared(rank)));
		nprobe = lists_wanted(coarse, nprobe);
		coarse->expected = nprobe;
		open_groups(coarse);
		walk_groups(&walk, walked);
	}
	ncompared = lists_compared(coarse->expected - coarse->ntaken);
	if (ncompared > coarse->ncompared && walk.pool.nitems > 0)
		compare_lists(coarse, choose_nearest(&walk, ncompared - coarse->ncompared));

	/* for as many as have been compared */
	coarse->expected = coarse->ntaken +
		Min(coarse->ncompared, Max(coarse->expected - coarse->ntaken, lists_taken(coarse->ncompared)));
	pfree(walk.items);
	return nprobe;
}

/* The groups of lists in the order of their centres, whose distances are set, and the tables for their codes */
static void
begin_groups(IvfpqCoarse *coarse)
{
	const IvfpqModel *model = coarse->model;
	const VqPq *pq = &model->coarse.pq;
	uint32		ngroups = model->meta.ngroups;
	VqItem	   *items = palloc0(ngroups * sizeof(VqItem));

	coarse->tables.q_model = coarse->query->q_model;
	coarse->tables.q_code = palloc(vq_codec_code_floats(&model->coarse) * sizeof(float));
	coarse->tables.lut_floats = palloc(pq->m * pq->ksub * sizeof(float));
	coarse->tables.lut = palloc(pq->m * pq->ksub);
	vq_codec_query_tables(vq_kernels, &model->coarse, &coarse->tables);
	for (uint32 g = 0; g < ngroups; g++)
	{
		items[g].id_high = g;
		items[g].key = vq_codec_list_value(&model->coarse, &coarse->tables,
										   coarse->group_distance_sq[g], coarse->group_norm_sq[g]);
	}
	vq_select_init(&coarse->groups, items, ngroups);
	coarse->open = palloc(ngroups * sizeof(uint32));
	coarse->runs = palloc(ngroups * sizeof(IvfpqRun));
	coarse->waiting = palloc0(model->group_blocks[ngroups] * sizeof(uint32));
	coarse->chosen = palloc0(model->group_blocks[ngroups] * sizeof(uint32));
}

/* Compare all lists */
static void
compare_all(IvfpqCoarse *coarse)
{
	uint32		nlists = coarse->model->meta.nlists;

	make_room(coarse, nlists);
	for (uint32 i = 0; i < nlists; i++)
		coarse->list_nos[i] = i;
	compare_lists(coarse, nlists);
	coarse->expected = nlists;
}

uint32
ivfpq_coarse_begin(IvfpqCoarse *coarse, Relation index, const IvfpqModel *model,
				   const VqQuery *query, uint32 nprobe, bool is_mean)
{
	uint32		rank = is_mean && nprobe < model->meta.nlists ? model->meta.spread.rank : 0;

	memset(coarse, 0, sizeof(IvfpqCoarse));
	coarse->index = index;
	coarse->model = model;
	coarse->query = query;
	coarse->is_coded = model->coarse_shape.m > 0;
	if (!coarse->is_coded)
	{
		compare_all(coarse);
		return rank > 0 ? lists_wanted(coarse, nprobe) : nprobe;
	}
	coarse->expected = Max(nprobe, rank);
	coarse->group_distance_sq = palloc(model->meta.ngroups * sizeof(float));
	coarse->group_norm_sq = palloc(model->meta.ngroups * sizeof(float));
	ivfpq_model_distances(index, model, query->q_model, model->meta.nlists, model->meta.ngroups,
						  coarse->group_distance_sq, coarse->group_norm_sq);
	begin_groups(coarse);
	return find_lists(coarse, rank, nprobe);
}

bool
ivfpq_coarse_next(IvfpqCoarse *coarse, IvfpqNearList *list)
{
	uint32		nlists = coarse->model->meta.nlists;
	const VqItem *item;

	if (coarse->ntaken == nlists)
		return false;
	if (coarse->ntaken == coarse->expected)
	{
		coarse->expected = Min(coarse->expected, nlists / GROWTH) * GROWTH;
		coarse->expected = Min(Max(coarse->expected, coarse->ntaken + 1), nlists);
		find_lists(coarse, 0, 0);
	}
	item = vq_select_take(&coarse->select);
	if (item == NULL)
		return false;
	*list = (IvfpqNearList) {
		.list_no = coarse->list_nos[item->id_high],
		.distance_sq = coarse->distance_sq[item->id_high],
		.norm_sq = coarse->norm_sq[item->id_high],
		.entry = coarse->entries[item->id_high]
	};
	if (coarse->is_coded)
	{
		uint32		place = coarse->places[item->id_high];

		coarse->waiting[place / VQ_BLOCK_LANES] &= ~(1U << place % VQ_BLOCK_LANES);
	}
	coarse->ntaken++;
	return true;
}

/*----------
 * Whether codes of centroids do, before they are stored
 *----------
 */

/* Mark the lists that a search by codes would compare, bool[nlists] */
static void
mark_compared(IvfpqCoarse *coarse, const char *blocks, bool *is_compared)
{
	const IvfpqModel *model = coarse->model;
	size_t		block_bytes = vq_block_bytes(&model->coarse_shape, VQ_BLOCK_LANES);
	CodeWalk	walk;

	begin_groups(coarse);
	begin_walk(&walk, coarse);
	for (uint32 run = 0; run < coarse->nopen; run++)
		bounds_of_blocks(run, coarse->runs[run].first, coarse->runs[run].count,
						 blocks + coarse->runs[run].first * block_bytes, &walk);
	for (size_t i = choose_nearest(&walk, lists_compared(coarse->expected)); i-- > 0;)
		is_compared[coarse->list_nos[i]] = true;
}

double
ivfpq_coarse_share(const IvfpqModel *model, const char *blocks, const float *centroids, const float *rows,
				   size_t stride, size_t nrows, uint32 nprobe)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq coarse share", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	uint32		nlists = model->meta.nlists;
	uint32		ngroups = model->meta.ngroups;
	size_t		dim = model->coarse.dim;
	uint32		nnearest = (nprobe + 3) / 4;
	uint64		nfound = 0;

	for (size_t row = 0; row < nrows; row++)
	{
		VqQuery		query = {.q_model = palloc(dim * sizeof(float))};
		IvfpqCoarse coarse = {.model = model, .query = &query, .is_coded = true, .expected = nprobe};
		bool	   *is_compared = palloc0(nlists);
		VqItem	   *items = palloc_extended(nlists * sizeof(VqItem), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		VqSelect	select;

		memcpy(query.q_model, rows + row * stride, dim * sizeof(float));
		if (model->coarse.metric == VQ_METRIC_IP)
			vq_codec_direction(vq_kernels, query.q_model, dim);
		coarse.group_distance_sq = palloc(ngroups * sizeof(float));
		coarse.group_norm_sq = palloc(ngroups * sizeof(float));
		for (uint32 g = 0; g < ngroups; g++)
		{
			const float *centre = centroids + ((size_t) nlists + g) * dim;

			coarse.group_distance_sq[g] = vq_kernels->l2sq_f32(query.q_model, centre, dim);
			coarse.group_norm_sq[g] = vq_kernels->ip_f32(centre, centre, dim);
		}
		mark_compared(&coarse, blocks, is_compared);

		for (uint32 i = 0; i < nlists; i++)
		{
			const float *centroid = centroids + (size_t) i * dim;

			items[i].id_high = i;
			items[i].key = model->coarse.metric == VQ_METRIC_IP ?
				-vq_kernels->ip_f32(query.q_model, centroid, dim) :
				vq_kernels->l2sq_f32(query.q_model, centroid, dim);
		}
		vq_select_init(&select, items, nlists);
		for (uint32 i = 0; i < nnearest; i++)
			nfound += is_compared[vq_select_take(&select)->id_high];
		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return (double) nfound / ((double) Max(nrows, 1) * nnearest);
}
