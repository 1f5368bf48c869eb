/*-------------------------------------------------------------------------
 *
 * vq_panels.c
 *	  Centroids in bytes, and the nearest of them.
 *
 * Rows are taken so many at a time that they and their scores stay in the
 * cache, and are rounded on their way there.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_panels.h"

#include <math.h>
#include <string.h>

#include "kernels/vq_kmeans.h"

/* Rows at a time: multiples of 24 fill the blocks of the kernels */
#define MIN_ROWS		24
#define MAX_ROWS		96

/* Scores that are kept in the cache */
#define MAX_SCORES		65536

/* Rows fetched ahead of the one that is rounded */
#define ROWS_AHEAD		2

#define CACHE_LINE		64

/* Panels are far if the frame is so many times as far from their origin as their centroids are, which is squared */
#define FAR_FRAME		8.0f

/* Distances are in doubt that differ by less than so many standard deviations of what rounding does to them */
#define DOUBT			2.0f

size_t
vq_panels_columns(size_t ncentroids)
{
	return (ncentroids + VQ_PANEL_COLUMNS - 1) / VQ_PANEL_COLUMNS * VQ_PANEL_COLUMNS;
}

static size_t
quads_of(size_t dim)
{
	return (dim + 3) / 4;
}

size_t
vq_panels_row_bytes(size_t dim)
{
	return quads_of(dim) * 4;
}

static size_t
rows_at_once(size_t ncentroids)
{
	size_t		rows = MAX_SCORES / (vq_panels_columns(ncentroids) + 1) / MIN_ROWS * MIN_ROWS;

	return rows < MIN_ROWS ? MIN_ROWS : rows > MAX_ROWS ? MAX_ROWS : rows;
}

size_t
vq_panels_bytes(size_t ncentroids, size_t dim)
{
	size_t		ncolumns = vq_panels_columns(ncentroids);

	/* and one centroid by itself */
	return dim * sizeof(float) + ncolumns * (3 * sizeof(float) + sizeof(int32_t)) + CACHE_LINE +
		(ncolumns + 1) * quads_of(dim) * 4;
}

/* The next one at which a cache line begins: tiles of AMX are read in half the time from there */
static void *
next_line(void *memory)
{
	return (void *) (((uintptr_t) memory + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
}

/* A centroid in bytes to its column; returns the sum of its values, and of their squares */
static int32_t
fill_column(const uint8_t *centroid, size_t nquads, int8_t *column, int32_t *squares)
{
	int32_t		sum = 0;

	*squares = 0;
	for (size_t q = 0; q < nquads; q++, column += VQ_PANEL_COLUMNS * 4)
		for (size_t i = 0; i < 4; i++)
		{
			int32_t		value = centroid[q * 4 + i] - VQ_U8_ZERO;

			column[i] = (int8_t) value;
			sum += value;
			*squares += value * value;
		}
	return sum;
}

/* Lay panels out in memory, all but filled in */
static void
lay_out(const float *centroids, size_t ncentroids, size_t dim, void *memory, VqPanels *panels)
{
	size_t		ncolumns = vq_panels_columns(ncentroids);
	float	   *origin = memory;
	float	   *offsets = origin + dim;
	float	   *steps = offsets + ncolumns;
	float	   *squares = steps + ncolumns;
	int32_t    *corrections = (int32_t *) (squares + ncolumns);

	panels->ncentroids = ncentroids;
	panels->dim = dim;
	panels->centroids = centroids;
	panels->takes_frame = false;
	panels->origin = origin;
	panels->squares = squares;
	panels->columns = (VqColumns) {ncolumns, quads_of(dim), next_line(corrections + ncolumns), corrections, steps, offsets};
}

/* Centroids about the origin to columns */
static void
fill_in(const VqKernels *kernels, VqPanels *panels)
{
	size_t		dim = panels->dim;
	size_t		ncolumns = panels->columns.ncolumns;
	size_t		nquads = panels->columns.nquads;
	float	   *offsets = (float *) panels->columns.offsets;
	float	   *steps = (float *) panels->columns.steps;
	float	   *squares = (float *) panels->squares;
	int32_t    *corrections = (int32_t *) panels->columns.corrections;
	int8_t	   *bytes = (int8_t *) panels->columns.panels;
	uint8_t    *centroid = (uint8_t *) (bytes + ncolumns * nquads * 4);

	for (size_t j = 0; j < ncolumns; j++)
	{
		int8_t	   *column = bytes + (j / VQ_PANEL_COLUMNS * nquads * VQ_PANEL_COLUMNS + j % VQ_PANEL_COLUMNS) * 4;
		bool		is_centroid = j < panels->ncentroids;
		int32_t		sum_of_squares;

		steps[j] = 0;
		if (is_centroid)
			steps[j] = kernels->quantise_u8(panels->centroids + j * dim, panels->origin, dim, centroid);
		else
			memset(centroid, VQ_U8_ZERO, nquads * 4);
		corrections[j] = -VQ_U8_ZERO * fill_column(centroid, nquads, column, &sum_of_squares);

		/* of the rounded centroid, not of the exact one: what the products are taken with */
		squares[j] = steps[j] * steps[j] * (float) sum_of_squares;
		offsets[j] = is_centroid ? squares[j] / 2 : INFINITY;
	}
}

void
vq_panels_pack(const VqKernels *kernels, const float *centroids, size_t ncentroids,
			   size_t dim, void *memory, VqPanels *panels)
{
	lay_out(centroids, ncentroids, dim, memory, panels);

	/* two rows of floats that are filled later are workspace */
	vq_kmeans_centre(kernels, centroids, ncentroids, dim, (float *) panels->columns.offsets, (float *) panels->origin);
	fill_in(kernels, panels);
}

void
vq_panels_pack_about(const VqKernels *kernels, const float *origin, const float *centroids, size_t ncentroids,
					 size_t dim, void *memory, VqPanels *panels)
{
	lay_out(centroids, ncentroids, dim, memory, panels);
	memcpy((float *) panels->origin, origin, dim * sizeof(float));
	fill_in(kernels, panels);
}

/* A column back to floats */
static void
read_column(const VqPanels *panels, size_t j, float *centroid)
{
	const VqColumns *columns = &panels->columns;
	const int8_t *column = columns->panels +
		(j / VQ_PANEL_COLUMNS * columns->nquads * VQ_PANEL_COLUMNS + j % VQ_PANEL_COLUMNS) * 4;

	for (size_t i = 0; i < panels->dim; i++)
		centroid[i] = columns->steps[j] * (float) column[i / 4 * VQ_PANEL_COLUMNS * 4 + i % 4];
}

/*
 * With o the origin, f the frame and y a column, what a score should have is
 * <x - o, y> - |y|^2 / 2 = <x - f, y> - (|y|^2 / 2 + <o - f, y>).
 */
void
vq_panels_move(const VqKernels *kernels, VqPanels *panels, const float *frame, float *work)
{
	size_t		dim = panels->dim;
	float	   *offsets = (float *) panels->columns.offsets;
	float	   *shift = work;
	float	   *centroid = work + dim;
	float		mean_square = 0;

	for (size_t j = 0; j < panels->ncentroids; j++)
		mean_square += panels->squares[j] / (float) panels->ncentroids;
	for (size_t i = 0; i < dim; i++)
		shift[i] = panels->origin[i] - frame[i];
	panels->takes_frame = kernels->ip_f32(shift, shift, dim) <= FAR_FRAME * FAR_FRAME * mean_square;
	if (!panels->takes_frame)
		return;
	for (size_t j = 0; j < panels->ncentroids; j++)
	{
		read_column(panels, j, centroid);
		offsets[j] += kernels->ip_f32(shift, centroid, dim);
	}
}

/* Rows in bytes, their steps, and their scores: most of the former where centroids are few */
size_t
vq_panels_work_bytes(size_t ncentroids, size_t dim)
{
	size_t		ncolumns = vq_panels_columns(ncentroids);
	size_t		nscores = MIN_ROWS * ncolumns > MAX_SCORES ? MIN_ROWS * ncolumns : MAX_SCORES;

	if (nscores > MAX_ROWS * ncolumns)
		nscores = MAX_ROWS * ncolumns;
	return CACHE_LINE + MAX_ROWS * (quads_of(dim) * 4 + sizeof(float)) + nscores * sizeof(float);
}

/* Fetch a row into the cache before its turn */
static void
touch_row(const float *row, size_t dim)
{
	for (size_t i = 0; i < dim; i += CACHE_LINE / sizeof(float))
		__builtin_prefetch(row + i);
}

void
vq_panels_round(const VqKernels *kernels, const float *origin, const float *rows, size_t nrows, size_t dim,
				uint8_t *bytes, float *steps)
{
	for (size_t i = 0; i < nrows; i++)
	{
		if (i + ROWS_AHEAD < nrows)
			touch_row(rows + (i + ROWS_AHEAD) * dim, dim);
		steps[i] = kernels->quantise_u8(rows + i * dim, origin, dim, bytes + i * vq_panels_row_bytes(dim));
	}
}

/* Scores of no more than rows_at_once rows */
static void
score_rows(const VqKernels *kernels, const VqPanels *panels, const float *rows, size_t nrows,
		   void *work, float *scores)
{
	uint8_t    *bytes = next_line(work);
	float	   *steps = (float *) (bytes + nrows * vq_panels_row_bytes(panels->dim));

	vq_panels_round(kernels, panels->origin, rows, nrows, panels->dim, bytes, steps);
	kernels->scores_u8(bytes, steps, nrows, &panels->columns, scores);
}

void
vq_panels_scores(const VqKernels *kernels, const VqPanels *panels,
				 const float *rows, size_t nrows, void *work, float *scores)
{
	size_t		step = rows_at_once(panels->ncentroids);

	for (size_t first = 0; first < nrows; first += step)
		score_rows(kernels, panels, rows + first * panels->dim, nrows - first < step ? nrows - first : step,
				   work, scores + first * panels->columns.ncolumns);
}

/* Behind rows_at_once rows in bytes and their steps */
static float *
scores_of_work(const VqPanels *panels, void *work)
{
	return (float *) next_line(work) + rows_at_once(panels->ncentroids) * (1 + panels->columns.nquads);
}

/* The nearer of two centroids, by exact distances */
static void
compare_two(const VqKernels *kernels, const float *row, const float *centroids, size_t dim,
			uint32_t one, uint32_t other, uint32_t *label, float *distance)
{
	float		other_distance;

	*label = one;
	*distance = kernels->l2sq_f32(row, centroids + one * dim, dim);
	if (other == one)
		return;
	other_distance = kernels->l2sq_f32(row, centroids + other * dim, dim);
	if (other_distance < *distance || (other_distance == *distance && other < one))
	{
		*label = other;
		*distance = other_distance;
	}
}

void
vq_panels_assign(const VqKernels *kernels, const VqPanels *panels,
				 const float *rows, size_t nrows,
				 void *work, uint32_t *labels, float *distances)
{
	size_t		step = rows_at_once(panels->ncentroids);
	float	   *scores = scores_of_work(panels, work);
	uint32_t	at[MAX_ROWS][2];

	for (size_t first = 0; first < nrows; first += step)
	{
		size_t		count = nrows - first < step ? nrows - first : step;

		score_rows(kernels, panels, rows + first * panels->dim, count, work, scores);
		kernels->largest_two(scores, count, panels->columns.ncolumns, at);
		for (size_t i = 0; i < count; i++)
		{
			/* NaNs may choose one that does not exist */
			uint32_t	one = at[i][0] < panels->ncentroids ? at[i][0] : 0;

			compare_two(kernels, rows + (first + i) * panels->dim, panels->centroids, panels->dim,
						one, at[i][1] < panels->ncentroids ? at[i][1] : one,
						labels + first + i, distances + first + i);
		}
	}
}

/*
 * Variance of what rounding does to the squared distance of a row, by its step, from centroid j.  A value is off by its step /
 * sqrt(12) at random, and so a product by that times the length of the other vector, which a squared distance has twice: what
 * the row is off by with the centroid, and what the centroid is off by with the difference of both, as its
 * square is that of the rounded one.
 */
static float
distance_variance(const VqPanels *panels, size_t j, float step, float distance)
{
	float		centroid_step = panels->columns.steps[j];

	return (panels->squares[j] * step * step + (distance > 0 ? distance : 0) * centroid_step * centroid_step) / 3;
}

/* Might rounding have brought two distances with that difference in the wrong order?  variance is the sum of theirs; both may be infinite. */
static bool
is_doubtful(float difference, float variance)
{
	return !(difference * difference > DOUBT * DOUBT * variance);
}

void
vq_panels_label(const VqKernels *kernels, const VqPanels *panels, const VqRoundedRows *rows, const float *squares,
				size_t nrows, void *work, uint32_t *labels, float *distances)
{
	size_t		dim = panels->dim;
	size_t		ncolumns = panels->columns.ncolumns;
	size_t		step = rows_at_once(panels->ncentroids);
	float	   *scores = scores_of_work(panels, work);
	uint32_t	at[MAX_ROWS][2];

	for (size_t first = 0; first < nrows; first += step)
	{
		size_t		count = nrows - first < step ? nrows - first : step;

		kernels->scores_u8(rows->bytes + first * vq_panels_row_bytes(dim), rows->steps + first, count, &panels->columns,
						   scores);
		kernels->largest_two(scores, count, ncolumns, at);
		for (size_t i = 0; i < count; i++)
		{
			size_t		row = first + i;
			uint32_t	one = at[i][0] < panels->ncentroids ? at[i][0] : 0;
			uint32_t	other = at[i][1] < panels->ncentroids ? at[i][1] : one;
			float		distance = squares[row] - 2 * scores[i * ncolumns + one];
			float		other_distance = squares[row] - 2 * scores[i * ncolumns + other];

			labels[row] = one;
			distances[row] = distance > 0 ? distance : 0;
			if (other != one &&
				is_doubtful(other_distance - distance,
							distance_variance(panels, one, rows->steps[row], distance) +
							distance_variance(panels, other, rows->steps[row], other_distance)))
				compare_two(kernels, rows->rows + row * dim, panels->centroids, dim, one, other, labels + row,
							distances + row);
		}
	}
}

static void
keep_nearest(VqNearest *nearest, uint32_t label, float distance, float variance)
{
	size_t		place = distance < nearest->distances[0] ? 0 : 1;

	if (!(distance < nearest->distances[place]))
		return;
	if (place == 0)
	{
		nearest->labels[1] = nearest->labels[0];
		nearest->distances[1] = nearest->distances[0];
		nearest->variances[1] = nearest->variances[0];
	}
	nearest->labels[place] = label;
	nearest->distances[place] = distance;
	nearest->variances[place] = variance;
}

/* Some rows side by side, in bytes as panels take them */
static void
gather_rows(const VqKernels *kernels, const VqPanels *panels, const VqRoundedRows *rows, const uint32_t *row_nos,
			size_t nrows, uint8_t *bytes, float *steps)
{
	size_t		dim = panels->dim;
	size_t		row_bytes = vq_panels_row_bytes(dim);

	for (size_t i = 0; i < nrows; i++)
		if (panels->takes_frame)
		{
			memcpy(bytes + i * row_bytes, rows->bytes + row_nos[i] * row_bytes, row_bytes);
			steps[i] = rows->steps[row_nos[i]];
		}
		else
			steps[i] = kernels->quantise_u8(rows->rows + row_nos[i] * dim, panels->origin, dim, bytes + i * row_bytes);
}

void
vq_panels_nearest(const VqKernels *kernels, const VqPanels *panels, uint32_t first_label,
				  const VqRoundedRows *rows, const uint32_t *row_nos, const float *squares, size_t nrows,
				  void *work, VqNearest *nearest)
{
	size_t		ncolumns = panels->columns.ncolumns;
	size_t		step = rows_at_once(panels->ncentroids);
	uint8_t    *bytes = next_line(work);
	float	   *steps = (float *) (bytes + step * vq_panels_row_bytes(panels->dim));
	float	   *scores = scores_of_work(panels, work);
	uint32_t	at[MAX_ROWS][2];

	for (size_t first = 0; first < nrows; first += step)
	{
		size_t		count = nrows - first < step ? nrows - first : step;

		gather_rows(kernels, panels, rows, row_nos + first, count, bytes, steps);
		kernels->scores_u8(bytes, steps, count, &panels->columns, scores);
		kernels->largest_two(scores, count, ncolumns, at);
		for (size_t i = 0; i < count; i++)
			for (size_t k = 0; k < 2; k++)
				if (at[i][k] < panels->ncentroids)
				{
					float		distance = squares[first + i] - 2 * scores[i * ncolumns + at[i][k]];

					keep_nearest(&nearest[row_nos[first + i]], first_label + at[i][k], distance,
								 distance_variance(panels, at[i][k], steps[i], distance));
				}
	}
}

/* Are exact distances to be asked for? */
static bool
is_open(const VqNearest *nearest)
{
	return !(nearest->distances[0] < INFINITY) ||
		(nearest->distances[1] < INFINITY &&
		 is_doubtful(nearest->distances[1] - nearest->distances[0], nearest->variances[0] + nearest->variances[1]));
}

void
vq_panels_decide(const VqKernels *kernels, const float *centroids, size_t dim,
				 const float *rows, size_t nrows, const VqNearest *nearest, uint32_t *labels, float *distances)
{
	for (size_t i = 0; i < nrows; i++)
	{
		if (i + ROWS_AHEAD < nrows && is_open(&nearest[i + ROWS_AHEAD]))
			for (size_t k = 0; k < 2; k++)
				touch_row(centroids + nearest[i + ROWS_AHEAD].labels[k] * dim, dim);
		labels[i] = nearest[i].labels[0];
		distances[i] = nearest[i].distances[0] > 0 ? nearest[i].distances[0] : 0;
		if (is_open(&nearest[i]))
			compare_two(kernels, rows + i * dim, centroids, dim, nearest[i].labels[0],
						nearest[i].distances[1] < INFINITY ? nearest[i].labels[1] : nearest[i].labels[0],
						labels + i, distances + i);
	}
}
