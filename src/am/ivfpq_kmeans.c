/*-------------------------------------------------------------------------
 *
 * ivfpq_kmeans.c
 *	  k-means of parts of a sample, or of centroids, each with centroids of its own.
 *
 * An iteration looks at every row, and most of them stay where they are.  So
 * rows are rounded to bytes once, about an origin that stays (vq_panels.h), and
 * only those that have changed their centroid are read again, to be moved from
 * one sum to another.  As many parts are clustered side by side as have their
 * bytes in the cache of a processor: then members wait for each other less
 * often.  Rows beyond that are rounded in each iteration.  (Sums that only change lose
 * what is 10^13 times smaller than a row that came and went; the iterations over all
 * lists, after these, make theirs anew.)
 *
 * Where products of bytes are not fast, products of a library take the rows as
 * they are.
 *
 * Every member labels its own rows.  Sums are added up over the team, and each
 * member makes the same centroids of them, with the same random numbers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_train.h"
#include "miscadmin.h"

#include "base/vq_guc.h"

/* Of the parts that are clustered side by side, for rows in bytes, and for sums, unless one part has more sums */
#define BATCH_BYTES			(1536 * 1024)

#define SETTLED				0.998	/* error, relative to the iteration before */

/* Rows that are rounded anew each time, together, unless they take more than BATCH_BYTES */
#define MIN_CHUNK_ROWS		96

/*
 * A part while it is clustered.  Behind sums are the number of rows of each, and the error: they are added up over the
 * team at once.
 */
typedef struct PartState
{
	const IvfpqPart *part;
	double	   *sums;			/* [ncentroids][dim], of own rows by their labels */
	double	   *totals;			/* the same of the team */
	float	   *origin;			/* [dim], of rows in bytes; set once is_begun */
	size_t		first_rounded;	/* place of the first row among those in bytes, */
	size_t		nrounded;		/* of which so many have one */
	double		previous;		/* error of the iteration before */
	bool		is_begun;
	bool		is_settled;
} PartState;

/* Workspace for parts of all sizes */
typedef struct Work
{
	IvfpqTeam  *team;
	size_t		dim;
	size_t		chunk;			/* rows at a time */
	uint32	   *labels;			/* [chunk] */
	float	   *distances;		/* [chunk] */
	uint64	   *counts;			/* of the largest part */

	/* for products of a library */
	float	   *products;
	float	   *norms;

	/* for those of bytes, if the kernels have fast ones, or NULL */
	void	   *panels;
	void	   *panels_work;
	size_t		most_rounded;	/* rows of a batch that are kept in bytes; chunk more are workspace */
	uint8	   *bytes;
	float	   *steps;
	float	   *squares;		/* |row - origin|^2 */

	/* of a batch */
	double	   *sums;
	double	   *totals;
	float	   *origins;		/* [parts of a batch][dim] */
} Work;

/* What there is of sums, numbers of rows and error */
static size_t
sum_values(const IvfpqPart *part, size_t dim)
{
	return part->ncentroids * (dim + 1) + 1;
}

/*
 * How many of the parts fit a batch, one at least: as they are on average in the
 * team, so that all members take the same.
 */
static size_t
batch_size(const Work *work, const IvfpqPart *parts, size_t nparts)
{
	double		row_bytes = vq_panels_row_bytes(work->dim) + 2 * sizeof(float);
	double		bytes = 0;
	double		values = 0;
	size_t		size = 0;

	for (; size < nparts; size++)
	{
		bytes += (double) parts[size].total_rows / work->team->size * row_bytes;
		values += sum_values(&parts[size], work->dim);
		if (size > 0 && (bytes > BATCH_BYTES || values * 2 * sizeof(double) > BATCH_BYTES))
			break;
	}
	return size;
}

/* In a memory context of its own */
static void
alloc_work(Work *work, const IvfpqPart *parts, size_t nparts)
{
	size_t		dim = work->dim;
	size_t		row_bytes = vq_panels_row_bytes(dim);
	size_t		most_values = 0;
	size_t		most_parts = 0;
	size_t		nrows = 0;
	uint32		largest = 1;

	for (size_t i = 0; i < nparts; i++)
	{
		largest = Max(largest, parts[i].ncentroids);
		nrows += parts[i].nrows;
	}
	for (size_t first = 0, size; first < nparts; first += size)
	{
		size_t		nvalues = 0;

		size = batch_size(work, parts + first, nparts - first);
		for (size_t i = first; i < first + size; i++)
			nvalues += sum_values(&parts[i], dim);
		most_values = Max(most_values, nvalues);
		most_parts = Max(most_parts, size);
	}

	work->chunk = ivfpq_chunk_rows(largest, dim);
	work->labels = ivfpq_alloc_array(work->chunk, sizeof(uint32));
	work->distances = ivfpq_alloc_array(work->chunk, sizeof(float));
	work->counts = ivfpq_alloc_array(largest, sizeof(uint64));
	work->sums = ivfpq_alloc_array(most_values, sizeof(double));
	work->totals = ivfpq_alloc_array(most_values, sizeof(double));
	work->panels = NULL;
	if (!vq_kernels->is_u8_fast)
	{
		work->norms = ivfpq_alloc_array(largest, sizeof(float));
		work->products = ivfpq_alloc_array(vq_kmeans_assign_floats(work->chunk, largest), sizeof(float));
		return;
	}
	work->chunk = Min(work->chunk, Max(MIN_CHUNK_ROWS, BATCH_BYTES / row_bytes));
	work->panels = ivfpq_alloc_array(vq_panels_bytes(largest, dim), 1);
	work->panels_work = ivfpq_alloc_array(vq_panels_work_bytes(largest, dim), 1);
	work->most_rounded = Min(nrows, BATCH_BYTES / (row_bytes + 2 * sizeof(float)));
	work->bytes = (uint8 *) CACHELINEALIGN(ivfpq_alloc_array((work->most_rounded + work->chunk) * row_bytes +
															  PG_CACHE_LINE_SIZE, 1));
	work->steps = ivfpq_alloc_array(work->most_rounded + work->chunk, sizeof(float));
	work->squares = ivfpq_alloc_array(work->most_rounded + work->chunk, sizeof(float));
	work->origins = ivfpq_alloc_array(most_parts, dim * sizeof(float));
}

/* Rows of a part in bytes, to places from there on */
static void
round_rows(const Work *work, const PartState *state, size_t first, size_t nrows, size_t place)
{
	size_t		dim = work->dim;
	const float *x = state->part->rows + first * dim;

	vq_panels_round(vq_kernels, state->origin, x, nrows, dim, work->bytes + place * vq_panels_row_bytes(dim),
					work->steps + place);
	for (size_t i = 0; i < nrows; i++)
		work->squares[place + i] = vq_kernels->l2sq_f32(x + i * dim, state->origin, dim);
}

/* Labels of a chunk of rows, and their distances */
static void
label_chunk(const Work *work, const PartState *state, const VqPanels *panels, size_t first, size_t nrows)
{
	const IvfpqPart *part = state->part;
	size_t		dim = work->dim;
	size_t		place = state->first_rounded + first;
	bool		is_kept = first + nrows <= state->nrounded;
	VqRoundedRows rounded;

	if (panels == NULL)
	{
		vq_kmeans_assign(vq_kernels, ivfpq_blas(), part->rows + first * dim, nrows, part->centroids, work->norms,
						 part->ncentroids, dim, work->products, work->labels, work->distances);
		return;
	}
	if (!is_kept)
		place = work->most_rounded;
	if (!is_kept || !state->is_begun)
		round_rows(work, state, first, nrows, place);
	rounded.rows = part->rows + first * dim;
	rounded.bytes = work->bytes + place * vq_panels_row_bytes(dim);
	rounded.steps = work->steps + place;
	vq_panels_label(vq_kernels, panels, &rounded, work->squares + place, nrows, work->panels_work, work->labels,
					work->distances);
}

/* Panels of a part for the iteration at hand; NULL where products of bytes are not fast */
static const VqPanels *
pack_centroids(const Work *work, const PartState *state, VqPanels *panels)
{
	const IvfpqPart *part = state->part;
	size_t		dim = work->dim;

	if (work->panels == NULL)
	{
		vq_kmeans_norms(vq_kernels, part->centroids, part->ncentroids, dim, work->norms);
		return NULL;
	}
	if (state->is_begun)
		vq_panels_pack_about(vq_kernels, state->origin, part->centroids, part->ncentroids, dim, work->panels, panels);
	else
	{
		vq_panels_pack(vq_kernels, part->centroids, part->ncentroids, dim, work->panels, panels);
		memcpy(state->origin, panels->origin, dim * sizeof(float));
	}
	return panels;
}

/* Label own rows of a part, and bring its sums up to date */
static void
label_part(const Work *work, PartState *state)
{
	const IvfpqPart *part = state->part;
	size_t		nsums = part->ncentroids * work->dim;
	VqKmeansSums sums = {.ncentroids = part->ncentroids, .dim = work->dim, .sums = state->sums, .counts = work->counts};
	VqPanels	memory;
	const VqPanels *panels = pack_centroids(work, state, &memory);

	for (uint32 j = 0; j < part->ncentroids; j++)
		sums.counts[j] = (uint64) state->sums[nsums + j];
	for (size_t first = 0; first < part->nrows; first += work->chunk)
	{
		size_t		count = Min(work->chunk, part->nrows - first);

		label_chunk(work, state, panels, first, count);
		vq_kmeans_move(vq_kernels, &sums, part->rows + first * work->dim, count, part->labels + first, work->labels);
		memcpy(part->labels + first, work->labels, count * sizeof(uint32));
		for (size_t i = 0; i < count; i++)
			sums.error += work->distances[i];
		ivfpq_team_progress(work->team, count);
		CHECK_FOR_INTERRUPTS();
	}
	for (uint32 j = 0; j < part->ncentroids; j++)
		state->sums[nsums + j] = sums.counts[j];
	state->sums[nsums + part->ncentroids] = sums.error;
	state->is_begun = true;
}

/* Centroids := means of the team's rows.  Is that the end of it? */
static bool
update_part(const Work *work, PartState *state, VqRng *rng)
{
	const IvfpqPart *part = state->part;
	const double *counts = state->totals + part->ncentroids * work->dim;
	double		error = counts[part->ncentroids];
	VqKmeansSums sums = {.ncentroids = part->ncentroids, .dim = work->dim, .sums = state->totals, .counts = work->counts};
	bool		is_settled;

	for (uint32 j = 0; j < part->ncentroids; j++)
		sums.counts[j] = (uint64) counts[j];
	is_settled = vq_kmeans_update(&sums, rng, part->centroids) == 0 && (error == 0 || error > state->previous * SETTLED);
	state->previous = error;
	return is_settled;
}

/* Parts side by side */
static void
cluster_batch(Work *work, const IvfpqPart *parts, size_t nparts, int iterations, VqRng *rng)
{
	PartState  *states = ivfpq_alloc_array(nparts, sizeof(PartState));
	size_t		nvalues = 0;
	size_t		nrounded = 0;
	size_t		nopen = 0;

	for (size_t i = 0; i < nparts; i++)
	{
		states[i] = (PartState) {
			.part = &parts[i], .sums = work->sums + nvalues, .totals = work->totals + nvalues,
			.first_rounded = nrounded, .previous = INFINITY, .is_settled = parts[i].ncentroids == 0
		};
		if (work->panels)
		{
			states[i].origin = work->origins + i * work->dim;
			states[i].nrounded = Min(parts[i].nrows, work->most_rounded - nrounded);
			nrounded += states[i].nrounded;
		}
		for (size_t row = 0; row < parts[i].nrows; row++)
			parts[i].labels[row] = VQ_NO_LABEL;
		nvalues += sum_values(&parts[i], work->dim);
		nopen += !states[i].is_settled;
	}
	memset(work->sums, 0, nvalues * sizeof(double));
	for (int iteration = 0; iteration < iterations && nopen > 0; iteration++)
	{
		for (size_t i = 0; i < nparts; i++)
			if (!states[i].is_settled)
				label_part(work, &states[i]);
		memcpy(work->totals, work->sums, nvalues * sizeof(double));
		ivfpq_team_sum_f64(work->team, work->totals, nvalues);
		for (size_t i = 0; i < nparts; i++)
			if (!states[i].is_settled)
			{
				states[i].is_settled = update_part(work, &states[i], rng);
				nopen -= states[i].is_settled;
			}
	}
}

void
ivfpq_kmeans(IvfpqTeam *team, const IvfpqPart *parts, size_t nparts, size_t dim, int iterations, VqRng *rng)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ivfpq k-means", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Work		work = {.team = team, .dim = dim};

	alloc_work(&work, parts, nparts);
	for (size_t first = 0, size; first < nparts; first += size)
	{
		size = batch_size(&work, parts + first, nparts - first);
		cluster_batch(&work, parts + first, size, iterations, rng);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
