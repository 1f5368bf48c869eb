/*-------------------------------------------------------------------------
 *
 * ivfpq_plan.c
 *	  What a build makes: codes, lists, sample, and how large its team is.
 *
 * One plan is made from maintenance_work_mem before anything large is
 * allocated.  Every member has centroids with their sums and a work space of
 * its own; while training, the rest is for the sample, of which each has a
 * share, and afterwards for batches of rows and the sorts.  Less memory means a
 * smaller sample, or fewer lists, and one NOTICE.  Before workers cost much of
 * the sample, the leader trains alone, and they only encode; and so they do
 * when it has a GPU with too little memory for the sample: it reads the rest from
 * the leader's memory in every iteration.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/table.h"
#include "am/ivfpq_build.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "optimizer/planner.h"
#include "storage/bufmgr.h"
#include "utils/guc.h"

/* lists = auto: LISTS_PER_ROOT * sqrt(rows), and so that a list has ROWS_PER_LIST rows or more */
#define LISTS_PER_ROOT			8.0
#define ROWS_PER_LIST			39
#define MAX_AUTO_LISTS			65536

/*
 * train_rows = auto: IVFPQ_TRAIN_ROWS_PER_LIST, but so many where there is memory
 * for them.  Then the same recall takes a twentieth fewer rows; twice as many
 * again would spare another fiftieth.  Of wide vectors a search scores few codes for what
 * comparing rows takes it, and training takes long: in inverse proportion beyond so many dimensions.
 */
#define MOST_TRAIN_ROWS_PER_LIST	64
#define MOST_TRAIN_DIM				768

/* Training together must leave this part of the sample that the leader alone could have */
#define MIN_SAMPLE_PART			0.75

/* With less than this for its sort, a member is no help */
#define MIN_SORT_BYTES			(2 * 1024 * 1024)

/* Vectors of so many dimensions have more of them to a sub-quantiser */
#define MIN_WIDE_DIM			256

/*
 * More bytes than that say more than searches ask for, as what the sub-quantisers are off averages out: of
 * 200,000 vectors of 1,536 dimensions out of line 256 bytes instead of 154 spare seven rows of 24, but no time,
 * and nearly half of the index (bench/FINDINGS.md)
 */
#define MOST_CODE_BYTES			160

/*
 * A page has room for a multiple of eight entries.  Projected codes become a little smaller where eight more fit then, if that makes
 * pages fewer by so many times the share of codes that is lost: of 768 dimensions out of line 64 fit a page and not
 * 56, with 108 bytes and not 110.  (Of 150,000 an index has a ninth fewer pages, and searches compare as many rows.)
 */
#define PAGE_GAIN				3.5

/*
 * Codes are projected for vectors of so many dimensions: of fewer, all count, and
 * with more, LAPACK takes more than half a second for eigenvectors, in which no
 * interrupt is served, and a query is projected for longer than that saves (of
 * 150,000 synthetic rows of 1,536 dimensions 117 us instead of 96 at nprobe 8, and
 * 215 instead of 224 at 64).  And for a sample of
 * so many rows for each dimension: from fewer, directions are those of the sample.
 * Not for inner products: what a code leaves out is multiplied with the whole query
 * there, which is long in all directions, not with its distance from a centroid.
 * Nor where training it takes much of the memory: the sample needs that more.
 */
#define MIN_PROJECTED_DIM		32
#define MAX_PROJECTED_DIM		1024
#define MIN_PROJECTED_ROWS		8
#define MAX_PROJECTION_PART		0.25

/*
 * Dimensions of a sub-quantiser of centroids.  They are few and compared
 * exactly in the end, so coarser codes than those of rows do.
 */
#define COARSE_DIMS				2
#define WIDE_COARSE_DIMS		4

/* What a member has besides lists, sample, queries and codebooks: products, a batch of rows, and the like */
#define MEMBER_OVERHEAD			(512 * 1024)

/*
 * Where memory has no room for many rows of a sample, the iterations over all lists are over so many rows of the table, if these are so
 * many times as many.  A million within 64 MB was trained on three rows a list and searched in 315 us at .975, and with 10,
 * 16 and 32 rows a list read anew each time 215, 215 and 200; clustering took .4 s, 1.4, 1.9 and 3.5, and searches within 512 MB 180 us.
 */
#define STREAM_ROWS_PER_LIST	16
#define STREAM_GAIN				2

/* So many bytes of them at a time, within these numbers of rows */
#define STREAM_BATCH_BYTES		(1024 * 1024)
#define MIN_STREAM_BATCH		32
#define MAX_STREAM_BATCH		1024

/* Queries may take so much memory of each member, or as much as so few of them take */
#define QUERY_BYTES				(3 * 1024 * 1024)
#define MIN_QUERIES				64

/*
 * Sub-quantisers of dsub dimensions, or of as many more as it takes that a
 * block of this capacity fits a page
 */
static uint32
fitting_m(uint32 dim, VqBlockShape shape, uint32 dsub, size_t capacity)
{
	shape.m = (dim + dsub - 1) / dsub;

	while (vq_block_bytes(&shape, capacity) > IVFPQ_PAGE_BYTES)
	{
		dsub++;
		shape.m = (dim + dsub - 1) / dsub;
	}
	return shape.m;
}

uint32
ivfpq_plan_coarse_m(uint32 dim)
{
	return fitting_m(dim, (VqBlockShape) {.nbits = IVFPQ_COARSE_NBITS}, dim < MIN_WIDE_DIM ? COARSE_DIMS : WIDE_COARSE_DIMS, VQ_BLOCK_LANES);
}

static bool
fits_page(const VqBlockShape *shape)
{
	return vq_block_bytes(shape, VQ_BLOCK_LANES / 2) <= IVFPQ_PAGE_BYTES;
}

/* Entries that a page has room for, in blocks of at most so many */
static size_t
entries_in_page(const VqBlockShape *shape, size_t most)
{
	size_t		room = IVFPQ_PAGE_BYTES;
	size_t		count = 0;

	for (size_t capacity = most; capacity > 0; capacity -= VQ_CAPACITY_STEP)
		while (vq_block_bytes(shape, capacity) <= room)
		{
			room -= vq_block_bytes(shape, capacity);
			count += capacity;
		}
	return count;
}

/*
 * As many sub-quantisers, or somewhat fewer if that pays (PAGE_GAIN): if as many more entries fit as are said to in small
 * blocks too, as lists end in these
 */
static uint32
fill_page(const VqBlockShape *shape)
{
	VqBlockShape smaller = *shape;
	double		count = entries_in_page(shape, VQ_BLOCK_LANES);

	while (--smaller.m > 0)
	{
		double		gain = 1.0 - count / entries_in_page(&smaller, VQ_BLOCK_LANES / 2);

		if (gain > 0)
			return gain >= PAGE_GAIN * (shape->m - smaller.m) / shape->m ? smaller.m : shape->m;
	}
	return shape->m;
}

/*
 * Dimensions to a sub-quantiser.  Coarser codes are read sooner, and then more
 * rows must be compared: twice as many for three dimensions each instead of two
 * where there are 128, two thirds more at 300, a fifth more at 784.  A million
 * rows of 300 were searched a tenth sooner, half a million of 128 a sixth later.
 * For inner products the bound of such codes would lose too much recall (.004).
 * Projected codes with half a dimension more, a seventh smaller, need a fifth fewer
 * rows (a fifth smaller and a sixth more, where there are 128 dimensions); they fit a
 * page in any case.
 */
static uint32
auto_m(const IvfpqBuild *build)
{
	uint32		dim = build->meta.dim;
	uint32		nbits = build->options->nbits;
	uint32		dsub = dim < MIN_WIDE_DIM || build->meta.metric == VQ_METRIC_IP ? 2 : 3;
	VqBlockShape shape = build->plan.shape;

	if (build->plan.is_projected)
	{
		uint32		halves = (2 * dsub + 1) * nbits / 4;

		shape.nbits = nbits;
		shape.m = (2 * dim + halves - 1) / halves;
		return fill_page(&shape);
	}
	if (nbits == 8)
		dsub = 4;
	dsub = Max(dsub, (dim * nbits + MOST_CODE_BYTES * 8 - 1) / (MOST_CODE_BYTES * 8));
	shape.nbits = nbits;
	return fitting_m(dim, shape, dsub, VQ_BLOCK_LANES / 2);
}

/* Shall codes be projected, and can they? */
static bool
wants_projection(const IvfpqBuild *build)
{
	const IvfpqOptions *options = build->options;
	uint32		dim = build->meta.dim;
	double		rows = build->plan.estimated_rows;
	double		limit = (double) maintenance_work_mem * 1024;

	if (options->rotation != IVFPQ_ROTATION_LEARNED || build->meta.metric == VQ_METRIC_IP ||
		dim < MIN_PROJECTED_DIM || dim > MAX_PROJECTED_DIM)
		return false;
	if (options->train_rows > 0)
		rows = Min(rows, options->train_rows);

	/* half the memory may be for lists */
	rows = Min(rows, limit / 2 / (dim * sizeof(float)));
	return rows >= (double) MIN_PROJECTED_ROWS * dim &&
		ivfpq_projection_bytes(dim, 1) <= limit * MAX_PROJECTION_PART && ivfpq_blas()->eigenvectors != NULL;
}

static void
settle_m(IvfpqBuild *build)
{
	build->plan.shape.m = build->options->m > 0 ? build->options->m : auto_m(build);
}

void
ivfpq_plan_all_dimensions(IvfpqBuild *build)
{
	build->plan.is_projected = false;
	settle_m(build);
}

void
ivfpq_plan_codes(IvfpqBuild *build)
{
	build->plan.is_projected = wants_projection(build);
	build->plan.shape.nbits = build->options->nbits;
	settle_m(build);

	/* searches do without places of vectors, if more slowly; not without the codes that were asked for */
	if (build->plan.shape.has_chunk_tids && !fits_page(&build->plan.shape))
		build->meta.has_chunk_tids = build->plan.shape.has_chunk_tids = false;
	ivfpq_plan_check_m(build);
	build->plan.nqueries = Max(MIN_QUERIES, Min(IVFPQ_QUERIES, QUERY_BYTES / (build->meta.dim * sizeof(float))));
}

size_t
ivfpq_plan_query_bytes(const IvfpqBuild *build)
{
	size_t		nqueries = build->plan.nqueries;
	size_t		dim = build->meta.dim;

	return nqueries * dim * sizeof(float) + vq_neighbours_bytes(nqueries, dim);
}

/* The greatest m that fits a page */
static uint32
most_m(VqBlockShape shape)
{
	size_t		row_bytes;

	shape.m = 0;
	row_bytes = (IVFPQ_PAGE_BYTES - vq_block_bytes(&shape, VQ_BLOCK_LANES / 2)) / (VQ_BLOCK_LANES / 2);
	return row_bytes * 8 / shape.nbits;
}

void
ivfpq_plan_check_m(const IvfpqBuild *build)
{
	uint32		dim = build->meta.dim;
	VqBlockShape shape = build->plan.shape;

	shape.m = build->options->m;
	shape.nbits = build->options->nbits;
	if (dim > 0 && shape.m > dim)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of sub-quantisers must not exceed the number of dimensions"),
				 errdetail("Vectors have %u dimensions, and \"m\" is %u.", dim, shape.m),
				 errhint("Choose \"m\" of at most %u, or 0 for %u.", dim, auto_m(build))));
	ivfpq_plan_check_code(&shape);
}

void
ivfpq_plan_check_code(const VqBlockShape *shape)
{
	if (shape->m > 0 && !fits_page(shape))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("codes of %zu bytes do not fit a page", vq_code_bytes(shape)),
				 errdetail("\"m\" is %u and \"nbits\" is %u.", shape->m, shape->nbits),
				 errhint("Choose \"m\" of at most %u, or 0 for as many as a build chooses.", most_m(*shape))));
}

/* Lists and sample as they should be, and as a team of some size can have them */
typedef struct Sizes
{
	double		wanted_lists;
	double		wanted_rows;	/* for as many lists as are wanted */
	uint32		nlists;
	uint64		train_rows;
	double		needed_rows;	/* for nlists */
	double		enough_bytes;	/* memory for what is wanted */
	double		reserved;		/* see reserved_bytes */
	uint64		stream_rows;	/* 0 if the sample has enough */
} Sizes;

/* Rows of a stream that a member has at a time */
static size_t
stream_batch(size_t dim)
{
	return Max(MIN_STREAM_BATCH, Min(MAX_STREAM_BATCH, STREAM_BATCH_BYTES / (dim * sizeof(float))));
}

/*
 * The codebook and its sums, in the place of the sums of lists that are gone by then.  A projection only makes them smaller.
 */
static size_t
codebook_bytes(const IvfpqBuild *build, uint32 nlists)
{
	const VqBlockShape *shape = &build->plan.shape;
	size_t		dim = build->meta.dim;
	size_t		freed = nlists * dim * sizeof(double);
	size_t		sums;
	VqPq		pq;

	if (vq_pq_init(&pq, dim, shape->m, shape->nbits) != VQ_OK)
		return 0;
	sums = vq_pq_sums_doubles(&pq) * sizeof(double);
	return vq_pq_codebook_floats(&pq) * sizeof(float) + (sums > freed ? sums - freed : 0);
}

/* Memory for what is neither lists nor sample */
static double
reserved_bytes(const IvfpqBuild *build, int team_size, uint32 nlists)
{
	size_t		dim = build->meta.dim;

	return (double) team_size * (ivfpq_assigner_bytes(nlists, dim) + ivfpq_plan_query_bytes(build) +
								 codebook_bytes(build, nlists) + MEMBER_OVERHEAD) +
		(build->plan.is_projected ? ivfpq_projection_bytes(dim, team_size) : 0);
}

static double
most_rows_per_list(size_t dim)
{
	return Max(IVFPQ_TRAIN_ROWS_PER_LIST, MOST_TRAIN_ROWS_PER_LIST * Min(1.0, (double) MOST_TRAIN_DIM / dim));
}

static void
find_sizes(const IvfpqBuild *build, int team_size, Sizes *sizes)
{
	const IvfpqBuildPlan *plan = &build->plan;
	size_t		dim = build->meta.dim;
	size_t		dsub = (dim + plan->shape.m - 1) / plan->shape.m;

	/* a row, its label, and padding when it becomes a residual */
	double		row_bytes = (dim + dsub) * sizeof(float) + sizeof(uint32);
	double		list_bytes = (double) team_size * (dim * (sizeof(float) + sizeof(double)) + 64);
	double		limit = 0;
	double		most_rows;
	double		stream_rows;
	double		room;			/* rows that memory has room for */
	uint32		most_lists;

	sizes->wanted_lists = build->options->lists;
	if (sizes->wanted_lists == 0)
		sizes->wanted_lists = Min(LISTS_PER_ROOT * sqrt(plan->estimated_rows),
								  Min(plan->estimated_rows / ROWS_PER_LIST, MAX_AUTO_LISTS));
	most_lists = Max(1, (uint32) Min(sizes->wanted_lists, plan->estimated_rows));
	sizes->nlists = most_lists;

	/* with fewer lists less is reserved, but no more lists are then made for that */
	for (;;)
	{
		uint32		room_lists;

		sizes->reserved = reserved_bytes(build, team_size, sizes->nlists);
		limit = Max((double) maintenance_work_mem * 1024, 2 * sizes->reserved) - sizes->reserved;
		room_lists = Max(1, (uint32) Min(limit / 2 / list_bytes, IVFPQ_MAX_LISTS));
		if (sizes->nlists <= room_lists)
			break;
		sizes->nlists = room_lists;
	}

	sizes->wanted_rows = sizes->needed_rows = most_rows = build->options->train_rows;
	if (build->options->train_rows == 0)
	{
		sizes->wanted_rows = Max((double) most_lists * IVFPQ_TRAIN_ROWS_PER_LIST, IVFPQ_MIN_TRAIN_ROWS);
		sizes->needed_rows = Max((double) sizes->nlists * IVFPQ_TRAIN_ROWS_PER_LIST, IVFPQ_MIN_TRAIN_ROWS);
		most_rows = Max(sizes->nlists * most_rows_per_list(dim), IVFPQ_MIN_TRAIN_ROWS);
	}
	sizes->wanted_rows = Min(sizes->wanted_rows, plan->estimated_rows);
	sizes->needed_rows = Min(sizes->needed_rows, plan->estimated_rows);
	most_rows = Min(most_rows, plan->estimated_rows);
	room = (limit - sizes->nlists * list_bytes) / row_bytes;
	stream_rows = Min((double) sizes->nlists * STREAM_ROWS_PER_LIST, plan->estimated_rows);
	sizes->stream_rows = 0;
	if (build->options->train_rows == 0 && Min(most_rows, room) * STREAM_GAIN <= stream_rows)
	{
		sizes->stream_rows = (uint64) stream_rows;
		room -= (double) team_size * stream_batch(dim);
	}
	sizes->train_rows = Max(1, (uint64) Min(most_rows, Max(room, 0.0)));
	sizes->nlists = Min(sizes->nlists, sizes->train_rows);

	/* lists may take half of what is not reserved */
	sizes->enough_bytes = reserved_bytes(build, team_size, most_lists) +
		most_lists * list_bytes + Max(most_lists * list_bytes, sizes->wanted_rows * row_bytes);
}

/* Shall the members of a team train together, and can they share memory without the index suffering? */
static bool
can_train_together(const IvfpqBuild *build, int team_size)
{
	Sizes		alone;
	Sizes		together;

	find_sizes(build, 1, &alone);
	find_sizes(build, team_size, &together);
	if (team_size > 1 && build->gpu &&
		together.train_rows * build->meta.dim * sizeof(float) >
		ivfpq_gpu_sample_room(build->gpu, together.nlists, build->meta.dim))
		return false;
	if (team_size > 1 && 2 * together.reserved > (double) maintenance_work_mem * 1024)
		return false;
	return together.nlists == alone.nlists &&
		together.train_rows >= Min(alone.train_rows, alone.needed_rows) * MIN_SAMPLE_PART;
}

/* Blocks of the values that are out of line */
static BlockNumber
toast_blocks(Relation heap)
{
	Relation	toast;
	BlockNumber nblocks;

	if (!OidIsValid(heap->rd_rel->reltoastrelid))
		return 0;
	toast = table_open(heap->rd_rel->reltoastrelid, AccessShareLock);
	nblocks = RelationGetNumberOfBlocks(toast);
	table_close(toast, AccessShareLock);
	return nblocks;
}

/*
 * The server goes by the blocks of the table alone, of which there are few where vectors are
 * out of line (4 MB for 60,000 of 3,072 dimensions), and compares them with a threshold: that is
 * made as much smaller as the table is smaller than what a build reads.
 */
int
ivfpq_plan_workers(Relation heap, Relation index)
{
	double		nblocks = RelationGetNumberOfBlocks(heap) + 1.0;
	double		share = nblocks / (nblocks + toast_blocks(heap));
	int			nest_level = NewGUCNestLevel();
	int			nworkers;

	(void) set_config_option("min_parallel_table_scan_size",
							 psprintf("%d", (int) (min_parallel_table_scan_size * share)),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	nworkers = plan_create_index_workers(RelationGetRelid(heap), RelationGetRelid(index));
	AtEOXact_GUC(false, nest_level);
	return nworkers;
}

int
ivfpq_plan_team_size(const IvfpqBuild *build, int max_size)
{
	Sizes		alone;
	int			size;

	for (size = max_size; size > 1; size--)
		if (can_train_together(build, size))
			return size;

	/* if only the leader trains, the others may still encode */
	find_sizes(build, 1, &alone);
	for (size = max_size; size > 1; size--)
	{
		size_t		limit = (size_t) maintenance_work_mem * 1024 / size;

		if (ivfpq_encode_bytes(build, alone.nlists, limit) + MIN_SORT_BYTES <= limit)
			return size;
	}
	return 1;
}

void
ivfpq_plan_lists(IvfpqBuild *build, int team_size)
{
	IvfpqBuildPlan *plan = &build->plan;
	Sizes		sizes;

	plan->leader_trains = !can_train_together(build, team_size);
	find_sizes(build, plan->leader_trains ? 1 : team_size, &sizes);
	plan->nlists = sizes.nlists;
	plan->train_rows = sizes.train_rows;
	plan->stream_rows = sizes.stream_rows;
	plan->stream_batch = stream_batch(build->meta.dim);
	plan->member_bytes = (size_t) maintenance_work_mem * 1024 / team_size;

	if (sizes.nlists < (uint32) sizes.wanted_lists || sizes.train_rows < (uint64) sizes.needed_rows)
		ereport(NOTICE,
				(errmsg("index \"%s\" is trained with less than it could use",
						RelationGetRelationName(build->index)),
				 sizes.stream_rows > 0 ?
				 errdetail("%u lists are trained on %llu rows, and on about %llu that are read anew in each iteration; %.0f lists and %.0f rows were wanted.",
						   sizes.nlists, (unsigned long long) sizes.train_rows, (unsigned long long) sizes.stream_rows,
						   floor(sizes.wanted_lists), floor(sizes.wanted_rows)) :
				 errdetail("%u lists are trained on %llu rows; %.0f lists and %.0f rows were wanted.",
						   sizes.nlists, (unsigned long long) sizes.train_rows,
						   floor(sizes.wanted_lists), floor(sizes.wanted_rows)),
				 sizes.nlists < (uint32) sizes.wanted_lists && sizes.wanted_lists > plan->estimated_rows ?
				 errhint("The table has about %.0f rows.", plan->estimated_rows) :
				 sizes.nlists == (uint32) sizes.wanted_rows ?
				 errhint("Set \"train_rows\" to %.0f or more.", floor(sizes.wanted_lists)) :
				 errhint("Set \"maintenance_work_mem\" to %.0f MB or more.",
						 ceil(sizes.enough_bytes / (1024 * 1024)))));
}
