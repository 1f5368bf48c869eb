/*-------------------------------------------------------------------------
 *
 * ivfpq_assign.c
 *	  The nearest list of many rows at once.
 *
 * Lists are numbered group by group (ivfpq_train.c clusters them that way), so
 * the lists of a group are neighbours in space as well as in memory.  A row is
 * compared with the centres of all groups, then with the lists of the nearest
 * few groups only: 4,000 lists cost 63 and, for 8 groups, 8 times 63 comparisons.
 * A row whose nearest list is in none of those groups goes to a list that is
 * nearly as near, which is where searches look next.
 *
 * Rows are dealt out to groups first, so that all comparisons are products of
 * matrices.
 *
 * Where a row goes must not depend on which others come with it, as parallel
 * workers meet rows in any order.  OpenBLAS has other kernels for small
 * matrices, which round differently; so a small product is made larger.
 *
 * Where the kernels have fast products of bytes (vq_panels.h), those take the
 * place of OpenBLAS: several times as fast, and they depend on no other row.  The
 * time is then in reading rows, so these are rounded to bytes once, about the mean of
 * the centres, and the bytes of some stay in the cache for all groups.  The nearest two
 * lists are then compared exactly, where rounding may have brought them in the wrong order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_train.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

/* With fewer groups than this, comparing with all lists takes no longer */
#define MIN_GROUPS		(2 * IVFPQ_ASSIGNED_GROUPS)

/*
 * Elements of a product and multiplications in it from which on OpenBLAS does not take the ways of its small
 * products, which round differently.  (How large ones round a row may still depend on its place.)
 */
#define MIN_PRODUCT			4096
#define MIN_MULTIPLICATIONS	1e6

/* A group of so few lists is compared without products */
#define FEW_LISTS			8

/* Rows dealt out together, as many as have that in bytes: in the cache they are what is read most often */
#define DEALT_ROWS		4096
#define MIN_DEALT_ROWS	64
#define DEALT_BYTES		(1280 * 1024)

/* Rows of one group compared together */
#define GATHERED_ROWS	512

/* Rows that are rounded and deal out while they are in the cache */
#define ROUNDED_ROWS	96

/* Rows that are not next to each other, labelled together: copies of them, of so many bytes */
#define PICKED_ROWS		512
#define MIN_PICKED_ROWS	32
#define PICKED_BYTES	(1024 * 1024)

struct IvfpqAssigner
{
	size_t		dim;
	const float *centroids;		/* [nlists][dim] */
	uint32		nlists;
	float	   *norms;			/* [nlists] */

	/* ngroups is 0 when there are too few lists for groups to pay */
	uint32		ngroups;
	uint32		depth;			/* groups whose lists a row is compared with */
	const uint32 *starts;		/* [ngroups + 1], first list of each group */
	float	   *centres;		/* [ngroups][dim] */
	float	   *centre_norms;	/* [ngroups] */

	/* with products of bytes */
	VqPanels   *panels;			/* [Max(ngroups, 1)], lists by group, or NULL */
	VqPanels	centre_panels;
	char	   *panels_memory;
	uint8_t    *bytes;			/* [dealt_rows], rows about the origin of centre_panels */
	float	   *steps;			/* [dealt_rows] */

	/* workspace */
	size_t		chunk;			/* rows at a time without groups */
	size_t		dealt_rows;		/* and with groups */
	float	   *work;
	float	   *products;		/* [scored_rows()][columns], as many columns as scores have */
	uint32	   *dealt;			/* [dealt_rows * depth], rows by group */
	float	   *dealt_squares;	/* the same, of their distances from the group's origin */
	uint32	   *dealt_starts;	/* [ngroups + 1] */
	uint32	   *nearest_groups; /* [dealt_rows][depth], ngroups for no further one */
	float	   *squares;		/* [dealt_rows][depth], with products of bytes */
	uint32		(*best)[2];		/* [scored_rows()] */
	VqNearest  *nearest;		/* [dealt_rows], with products of bytes */
	float	   *gathered;		/* [gathered_rows()][dim], always numbers */
	uint32	   *gathered_labels;	/* [GATHERED_ROWS] */
	float	   *gathered_distances; /* [GATHERED_ROWS] */
};

/* Lists that a row is compared with at a time: those of a group, or all */
static uint32
part_lists(const IvfpqAssigner *assigner, uint32 group)
{
	return assigner->ngroups > 0 ? assigner->starts[group + 1] - assigner->starts[group] : assigner->nlists;
}

void
ivfpq_group_centres(const float *centroids, size_t dim, const uint32 *starts, uint32 ngroups, float *centres)
{
	float	   *work = ivfpq_alloc_array(2 * starts[ngroups] + 1, sizeof(float));

	for (uint32 g = 0; g < ngroups; g++)
		vq_kmeans_centre(vq_kernels, centroids + starts[g] * dim, starts[g + 1] - starts[g], dim, work,
						 centres + g * dim);
	pfree(work);
}

/* Room for the panels of lists and centres, and for what they are used with */
static void
alloc_panels(IvfpqAssigner *assigner)
{
	size_t		dim = assigner->dim;
	uint32		nparts = Max(assigner->ngroups, 1);
	size_t		nbytes = vq_panels_bytes(assigner->ngroups, dim);

	for (uint32 g = 0; g < nparts; g++)
		nbytes += vq_panels_bytes(part_lists(assigner, g), dim);
	assigner->panels = ivfpq_alloc_array(nparts, sizeof(VqPanels));
	assigner->panels_memory = ivfpq_alloc_array(nbytes, 1);
}

/* Panels of the lists and centres as they are now */
static void
pack_panels(IvfpqAssigner *assigner)
{
	size_t		dim = assigner->dim;
	char	   *memory = assigner->panels_memory;

	for (uint32 g = 0; g < Max(assigner->ngroups, 1); g++)
	{
		size_t		first = assigner->ngroups > 0 ? assigner->starts[g] : 0;
		uint32		nlists = part_lists(assigner, g);

		vq_panels_pack(vq_kernels, assigner->centroids + first * dim, nlists, dim, memory, &assigner->panels[g]);
		memory += vq_panels_bytes(nlists, dim);
	}
	if (assigner->ngroups == 0)
		return;
	vq_panels_pack(vq_kernels, assigner->centres, assigner->ngroups, dim, memory, &assigner->centre_panels);
	for (uint32 g = 0; g < assigner->ngroups; g++)
		vq_panels_move(vq_kernels, &assigner->panels[g], assigner->centre_panels.origin, assigner->gathered);
}

/* Rows that are copied together; with products of bytes it is workspace for two */
static size_t
gathered_rows(void)
{
	return vq_kernels->is_u8_fast ? 2 : GATHERED_ROWS;
}

/* Rows that are dealt out together */
static size_t
dealt_rows(size_t dim)
{
	if (!vq_kernels->is_u8_fast)
		return DEALT_ROWS;
	return Min(DEALT_ROWS, Max(MIN_DEALT_ROWS, DEALT_BYTES / vq_panels_row_bytes(dim)));
}

static size_t
picked_rows(size_t dim)
{
	return Min(PICKED_ROWS, Max(MIN_PICKED_ROWS, PICKED_BYTES / (dim * sizeof(float))));
}

/* Those of them that have scores of groups at a time */
static size_t
scored_rows(size_t dim)
{
	return vq_kernels->is_u8_fast ? Min(ROUNDED_ROWS, dealt_rows(dim)) : dealt_rows(dim);
}

/* What comes with rows that are dealt out, and with scores */
static size_t
dealt_row_bytes(size_t dim, uint32 depth)
{
	return depth * (2 * sizeof(uint32) + 2 * sizeof(float)) + sizeof(VqNearest) +
		(vq_kernels->is_u8_fast ? vq_panels_row_bytes(dim) + sizeof(float) : 0);
}

IvfpqAssigner *
ivfpq_assigner_create(const IvfpqLists *lists, uint32 depth)
{
	IvfpqAssigner *assigner = palloc0(sizeof(IvfpqAssigner));
	size_t		dim = lists->dim;
	uint32		ngroups = lists->ngroups;
	uint32		largest = lists->nlists;
	size_t		nrows;
	size_t		work_bytes;

	assigner->dim = dim;
	assigner->centroids = lists->centroids;
	assigner->nlists = lists->nlists;
	assigner->norms = ivfpq_alloc_array(lists->nlists, sizeof(float));
	assigner->chunk = ivfpq_chunk_rows(lists->nlists, dim);
	assigner->gathered = MemoryContextAllocExtended(CurrentMemoryContext, gathered_rows() * dim * sizeof(float),
													MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	assigner->gathered_labels = ivfpq_alloc_array(GATHERED_ROWS, sizeof(uint32));
	assigner->gathered_distances = ivfpq_alloc_array(GATHERED_ROWS, sizeof(float));
	if (ngroups >= MIN_GROUPS)
	{
		assigner->ngroups = ngroups;
		assigner->depth = depth;
		assigner->starts = lists->starts;
		assigner->centres = ivfpq_alloc_array(ngroups, dim * sizeof(float));
		assigner->centre_norms = ivfpq_alloc_array(ngroups, sizeof(float));
		nrows = assigner->dealt_rows = dealt_rows(dim);
		assigner->products = ivfpq_alloc_array(scored_rows(dim), vq_panels_columns(ngroups) * sizeof(float));
		assigner->dealt = ivfpq_alloc_array(nrows, depth * sizeof(uint32));
		assigner->dealt_squares = ivfpq_alloc_array(nrows, depth * sizeof(float));
		assigner->dealt_starts = ivfpq_alloc_array(ngroups + 1, sizeof(uint32));
		assigner->nearest_groups = ivfpq_alloc_array(nrows, depth * sizeof(uint32));
		assigner->squares = ivfpq_alloc_array(nrows, depth * sizeof(float));
		assigner->best = ivfpq_alloc_array(scored_rows(dim), sizeof(*assigner->best));
		assigner->nearest = ivfpq_alloc_array(nrows, sizeof(VqNearest));
		assigner->bytes = ivfpq_alloc_array(nrows, vq_kernels->is_u8_fast ? vq_panels_row_bytes(dim) : 0);
		assigner->steps = ivfpq_alloc_array(nrows, sizeof(float));
		assigner->chunk = GATHERED_ROWS;
		largest = 0;
		for (uint32 g = 0; g < ngroups; g++)
			largest = Max(largest, lists->starts[g + 1] - lists->starts[g]);
	}
	if (vq_kernels->is_u8_fast)
	{
		alloc_panels(assigner);
		work_bytes = Max(vq_panels_work_bytes(largest, dim), vq_panels_work_bytes(ngroups, dim));
	}
	else
		work_bytes = vq_kmeans_assign_floats(Max(assigner->chunk, GATHERED_ROWS), Max(largest, 1)) * sizeof(float);
	assigner->work = ivfpq_alloc_array(work_bytes, 1);
	ivfpq_assigner_refresh(assigner);
	return assigner;
}

size_t
ivfpq_assigner_bytes(size_t nlists, size_t dim)
{
	size_t		ngroups = (size_t) ceil(sqrt(nlists));
	size_t		work;

	if (vq_kernels->is_u8_fast)
		work = vq_panels_bytes(nlists, dim) + vq_panels_bytes(ngroups, dim) +
			ngroups * (sizeof(VqPanels) + vq_panels_bytes(VQ_PANEL_COLUMNS, dim)) +
			vq_panels_work_bytes(nlists, dim);
	else
		work = vq_kmeans_assign_floats(Max(GATHERED_ROWS, ivfpq_chunk_rows(nlists, dim)), nlists) * sizeof(float);
	return sizeof(IvfpqAssigner) + nlists * sizeof(float) + picked_rows(dim) * dim * sizeof(float) +
		ngroups * (dim + 1) * sizeof(float) + gathered_rows() * dim * sizeof(float) + GATHERED_ROWS * 2 * sizeof(float) +
		scored_rows(dim) * (vq_panels_columns(ngroups) * sizeof(float) + 2 * sizeof(uint32)) +
		dealt_rows(dim) * dealt_row_bytes(dim, IVFPQ_ASSIGNED_GROUPS) +
		work;
}

void
ivfpq_assigner_refresh(IvfpqAssigner *assigner)
{
	vq_kmeans_norms(vq_kernels, assigner->centroids, assigner->nlists, assigner->dim, assigner->norms);
	if (assigner->ngroups > 0)
	{
		ivfpq_group_centres(assigner->centroids, assigner->dim, assigner->starts, assigner->ngroups,
							assigner->centres);
		vq_kmeans_norms(vq_kernels, assigner->centres, assigner->ngroups, assigner->dim,
						assigner->centre_norms);
	}
	if (assigner->panels)
		pack_panels(assigner);
}

void
ivfpq_assigner_free(IvfpqAssigner *assigner)
{
	pfree(assigner->norms);
	if (assigner->panels)
	{
		pfree(assigner->panels);
		pfree(assigner->panels_memory);
	}
	pfree(assigner->work);
	pfree(assigner->gathered);
	pfree(assigner->gathered_labels);
	pfree(assigner->gathered_distances);
	if (assigner->ngroups > 0)
	{
		pfree(assigner->centres);
		pfree(assigner->centre_norms);
		pfree(assigner->products);
		pfree(assigner->dealt);
		pfree(assigner->dealt_squares);
		pfree(assigner->dealt_starts);
		pfree(assigner->nearest_groups);
		pfree(assigner->squares);
		pfree(assigner->bytes);
		pfree(assigner->steps);
		pfree(assigner->best);
		pfree(assigner->nearest);
	}
	pfree(assigner);
}

/*
 * Rows that a product with ncolumns should have at least; at most GATHERED_ROWS
 */
static size_t
enough_rows(const IvfpqAssigner *assigner, size_t ncolumns)
{
	double		elements = Max(MIN_PRODUCT, MIN_MULTIPLICATIONS / assigner->dim);

	return (size_t) Min(GATHERED_ROWS, elements / ncolumns + 1);
}

/*
 * The score of each group for each row, which is the larger the nearer its centre
 * is: products [nrows][vq_panels_columns(ngroups)].  With products of bytes the
 * rows, first to first + nrows of those that are dealt out, are rounded for it.
 */
static void
score_groups(IvfpqAssigner *assigner, const float *rows, size_t first, size_t nrows)
{
	size_t		dim = assigner->dim;
	size_t		ngroups = assigner->ngroups;
	size_t		ncolumns = vq_panels_columns(ngroups);
	float	   *products = assigner->products;
	size_t		padded;

	if (assigner->panels)
	{
		uint8_t    *bytes = assigner->bytes + first * vq_panels_row_bytes(dim);
		float	   *steps = assigner->steps + first;

		vq_panels_round(vq_kernels, assigner->centre_panels.origin, rows, nrows, dim, bytes, steps);
		vq_kernels->scores_u8(bytes, steps, nrows, &assigner->centre_panels.columns, products);
	}
	else
	{
		padded = Max(nrows, enough_rows(assigner, ngroups));
		if (padded > nrows)
			memcpy(assigner->gathered, rows, nrows * dim * sizeof(float));
		ivfpq_blas()->products(padded, ngroups, dim, padded > nrows ? assigner->gathered : rows,
							   assigner->centres, products);

		/* to wider rows, the last one first */
		for (size_t i = nrows; i-- > 0;)
			for (size_t g = ncolumns; g-- > 0;)
				products[i * ncolumns + g] =
					g < ngroups ? products[i * ngroups + g] - assigner->centre_norms[g] : -INFINITY;
	}

	/* a group without lists has nothing to offer */
	for (size_t g = 0; g < ngroups; g++)
		if (part_lists(assigner, g) == 0)
			for (size_t i = 0; i < nrows; i++)
				products[i * ncolumns + g] = -INFINITY;
}

/* groups, [nrows][depth], by scores that are used up: two groups at a time */
static void
choose_groups(IvfpqAssigner *assigner, size_t nrows, uint32 *groups)
{
	size_t		ncolumns = vq_panels_columns(assigner->ngroups);

	for (uint32 n = 0; n < assigner->depth; n++)
	{
		if (n % 2 == 0)
			vq_kernels->largest_two(assigner->products, nrows, ncolumns, assigner->best);
		for (size_t i = 0; i < nrows; i++)
		{
			uint32		g = assigner->best[i][n % 2];
			float	   *score = assigner->products + i * ncolumns + g;

			if (g >= assigner->ngroups || !(*score > -INFINITY))
				g = assigner->ngroups;
			else
				*score = -INFINITY;
			groups[i * assigner->depth + n] = g;
		}
	}
}

/* nearest_groups of rows, and with products of bytes their squares, while rows are in the cache */
static void
find_groups(IvfpqAssigner *assigner, const float *rows, size_t nrows)
{
	size_t		dim = assigner->dim;
	uint32		depth = assigner->depth;
	size_t		step = assigner->panels ? ROUNDED_ROWS : nrows;

	for (size_t first = 0; first < nrows; first += step)
	{
		size_t		count = Min(step, nrows - first);
		const float *x = rows + first * dim;
		uint32	   *groups = assigner->nearest_groups + first * depth;

		score_groups(assigner, x, first, count);
		choose_groups(assigner, count, groups);
		if (assigner->panels)
			for (size_t i = 0; i < count * depth; i++)
				if (groups[i] < assigner->ngroups)
					assigner->squares[first * depth + i] =
						vq_kernels->l2sq_f32(x + i / depth * dim, assigner->panels[groups[i]].origin, dim);
	}
}

/* Deal rows out: dealt[dealt_starts[g] ..] are those to be compared with group g */
static void
deal_rows(IvfpqAssigner *assigner, const float *rows, size_t nrows)
{
	uint32		ngroups = assigner->ngroups;
	uint32		depth = assigner->depth;
	uint32	   *next = palloc0((ngroups + 1) * sizeof(uint32));
	uint32		start = 0;

	find_groups(assigner, rows, nrows);
	for (size_t i = 0; i < nrows * depth; i++)
		next[assigner->nearest_groups[i]]++;
	for (uint32 g = 0; g < ngroups; g++)
	{
		uint32		count = next[g];

		assigner->dealt_starts[g] = start;
		next[g] = start;
		start += count;
	}
	assigner->dealt_starts[ngroups] = start;
	next[ngroups] = start;
	for (size_t i = 0; i < nrows * depth; i++)
	{
		uint32		place = next[assigner->nearest_groups[i]]++;

		assigner->dealt[place] = i / depth;
		assigner->dealt_squares[place] = assigner->squares[i];
	}
	pfree(next);
}

/* Compare some of the rows dealt to a group, count of them from there on, with its lists */
static void
compare_with_group(IvfpqAssigner *assigner, const float *rows, uint32 group,
				   uint32 from, size_t count, uint32 *labels, float *distances)
{
	size_t		dim = assigner->dim;
	const uint32 *dealt = assigner->dealt + from;
	uint32		first = assigner->starts[group];
	uint32		nlists = part_lists(assigner, group);

	if (assigner->panels)
	{
		VqRoundedRows rounded = {rows, assigner->bytes, assigner->steps};

		vq_panels_nearest(vq_kernels, &assigner->panels[group], first, &rounded, dealt, assigner->dealt_squares + from,
						  count, assigner->work, assigner->nearest);
		return;
	}
	if (nlists <= FEW_LISTS)
	{
		for (size_t i = 0; i < count; i++)
			for (uint32 j = first; j < first + nlists; j++)
			{
				float		distance = vq_kernels->l2sq_f32(rows + dealt[i] * dim,
															assigner->centroids + j * dim, dim);

				if (distance < distances[dealt[i]])
				{
					distances[dealt[i]] = distance;
					labels[dealt[i]] = j;
				}
			}
		return;
	}
	for (size_t i = 0; i < count; i++)
		memcpy(assigner->gathered + i * dim, rows + dealt[i] * dim, dim * sizeof(float));
	vq_kmeans_assign(vq_kernels, ivfpq_blas(), assigner->gathered, Max(count, enough_rows(assigner, nlists)),
					 assigner->centroids + first * dim, assigner->norms + first,
					 nlists, dim, assigner->work,
					 assigner->gathered_labels, assigner->gathered_distances);
	for (size_t i = 0; i < count; i++)
		if (assigner->gathered_distances[i] < distances[dealt[i]])
		{
			distances[dealt[i]] = assigner->gathered_distances[i];
			labels[dealt[i]] = first + assigner->gathered_labels[i];
		}
}

/* Compare rows with all lists */
static void
assign_without_groups(IvfpqAssigner *assigner, const float *rows, size_t nrows,
					  uint32 *labels, float *distances)
{
	size_t		padded;

	if (assigner->panels)
	{
		vq_panels_assign(vq_kernels, &assigner->panels[0], rows, nrows, assigner->work, labels, distances);
		return;
	}
	padded = Max(nrows, enough_rows(assigner, assigner->nlists));
	if (padded == nrows)
	{
		vq_kmeans_assign(vq_kernels, ivfpq_blas(), rows, nrows, assigner->centroids,
						 assigner->norms, assigner->nlists, assigner->dim, assigner->work,
						 labels, distances);
		return;
	}
	memcpy(assigner->gathered, rows, nrows * assigner->dim * sizeof(float));
	vq_kmeans_assign(vq_kernels, ivfpq_blas(), assigner->gathered, padded, assigner->centroids,
					 assigner->norms, assigner->nlists, assigner->dim, assigner->work,
					 assigner->gathered_labels, assigner->gathered_distances);
	memcpy(labels, assigner->gathered_labels, nrows * sizeof(uint32));
	memcpy(distances, assigner->gathered_distances, nrows * sizeof(float));
}

static void
assign_by_groups(IvfpqAssigner *assigner, const float *rows, size_t nrows,
				 uint32 *labels, float *distances)
{
	deal_rows(assigner, rows, nrows);
	for (size_t i = 0; i < nrows; i++)
	{
		distances[i] = INFINITY;
		labels[i] = 0;
		assigner->nearest[i] = VQ_NEAREST_INIT;
	}
	for (uint32 g = 0; g < assigner->ngroups; g++)
		for (uint32 from = assigner->dealt_starts[g]; from < assigner->dealt_starts[g + 1]; from += GATHERED_ROWS)
		{
			compare_with_group(assigner, rows, g, from,
							   Min(GATHERED_ROWS, assigner->dealt_starts[g + 1] - from),
							   labels, distances);
			CHECK_FOR_INTERRUPTS();
		}
	if (assigner->panels)
		vq_panels_decide(vq_kernels, assigner->centroids, assigner->dim, rows, nrows, assigner->nearest, labels,
						 distances);
}

size_t
ivfpq_assigner_rows(const IvfpqAssigner *assigner)
{
	return assigner->ngroups > 0 ? assigner->dealt_rows : assigner->chunk;
}

void
ivfpq_assign(IvfpqAssigner *assigner, const float *rows, size_t nrows,
			 uint32 *labels, float *distances)
{
	size_t		chunk = ivfpq_assigner_rows(assigner);

	for (size_t first = 0; first < nrows; first += chunk)
	{
		const float *x = rows + first * assigner->dim;
		size_t		count = Min(chunk, nrows - first);

		if (assigner->ngroups > 0)
			assign_by_groups(assigner, x, count, labels + first, distances + first);
		else
			assign_without_groups(assigner, x, count, labels + first, distances + first);
		CHECK_FOR_INTERRUPTS();
	}
}

void
ivfpq_label(const IvfpqLists *lists, const float *rows, const uint32 *row_nos, size_t nrows, uint32 *labels)
{
	size_t		dim = lists->dim;
	IvfpqAssigner *assigner = ivfpq_assigner_create(lists, IVFPQ_ASSIGNED_GROUPS);
	size_t		chunk = picked_rows(dim);
	float	   *some = ivfpq_alloc_array(chunk, dim * sizeof(float));
	float	   *distances = palloc(chunk * sizeof(float));

	for (size_t first = 0; first < nrows; first += chunk)
	{
		size_t		count = Min(chunk, nrows - first);

		for (size_t i = 0; i < count; i++)
			memcpy(some + i * dim, rows + row_nos[first + i] * dim, dim * sizeof(float));
		ivfpq_assign(assigner, some, count, labels + first, distances);
	}
	pfree(some);
	pfree(distances);
	ivfpq_assigner_free(assigner);
}
