/*-------------------------------------------------------------------------
 *
 * bench_vq_kernels.c
 *	  Time of every operation of every kernel table that this processor runs.
 *
 * One line per operation, shape and table: ns per call, what that is per code
 * (one vector of the call), and bytes read per second.  All data is in the
 * first or second level cache, as it is in a scan, and aligned as malloc does
 * it.  Each figure is the best of several runs of a millisecond.
 *
 *		cc -std=c11 -O2 -Isrc bench/bench_vq_kernels.c \
 *			src/kernels/vq_cpu.c src/kernels/vq_kernels*.c -lm -o bench_vq_kernels
 *		./bench_vq_kernels [operation]
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/vq_kernels.h"

#define RUNS			20
#define NS_PER_RUN		1e6
#define ROWS			64		/* per call of the operations on rows */

/* Enough for the largest shape below */
#define MAX_FLOATS		(300 * 256 * 2)
#define MAX_BYTES		(768 * 384)

typedef struct Buffers
{
	float	   *x;
	float	   *y;
	float	   *codebook;
	float	   *floats;			/* output */
	uint8_t    *rows;
	uint8_t    *codes;
	uint8_t    *lut;
	uint8_t    *bytes;			/* output */
	uint32_t	sums[VQ_BLOCK_LANES];
	uint16_t	s[VQ_BLOCK_LANES];
	uint16_t	halves[768];
	int32_t	   *corrections;
	uint32_t	at[ROWS][2];
	double		doubles[1536];
} Buffers;

/*
 * What one call works on; dim doubles as n of the scans, of fwht and of bound,
 * ksub as the columns of scores and of projections
 */
typedef struct Shape
{
	size_t		dim;
	size_t		m;
	size_t		dsub;
	size_t		ksub;
} Shape;

typedef struct Case
{
	const char *operation;
	void		(*run) (const VqKernels *kernels, const Shape *shape, Buffers *b);
	Shape		shape;
	size_t		ncodes;			/* vectors per call; 0: report bytes/s */
	size_t		nbytes;			/* read per call */
} Case;

static void
run_l2sq_f32(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	b->floats[0] = kernels->l2sq_f32(b->x, b->y, shape->dim);
}

static void
run_ip_f32(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	b->floats[0] = kernels->ip_f32(b->x, b->y, shape->dim);
}

static void
run_add_f64(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->add_f64(b->doubles, b->x, 1.0, shape->dim);
}

static void
run_ip_norms_f32(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->ip_norms_f32(b->x, b->y, shape->dim, b->floats);
}

static void
run_l2sq_rows_f32(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->l2sq_rows_f32(b->x, shape->dim, b->rows,
						   sizeof(VqRowHeader) + shape->dim * sizeof(float), ROWS, b->floats);
}

static void
run_l2sq_rows_i8(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->l2sq_rows_i8(b->x, shape->dim, b->rows,
						  sizeof(VqRowHeader) + shape->dim, ROWS, b->floats);
}

static void
run_project_i8(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->project_i8(b->x, shape->dim, (const int8_t *) b->codes, b->y, shape->ksub / VQ_PANEL_COLUMNS, b->floats);
}

static void
run_fwht(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->fwht(b->y, shape->dim);
}

static void
run_pq_encode(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->pq_encode(b->x, b->codebook, shape->m, shape->dsub, shape->ksub, b->bytes);
}

static void
run_pq_lut(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->pq_lut(b->x, b->codebook, shape->m, shape->dsub, shape->ksub, b->floats);
}

static void
run_lut_in_bytes(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->lut_ranges(b->codebook, shape->m, shape->ksub, b->lut);
	kernels->lut_bytes(b->codebook, shape->m, shape->ksub, 10, b->lut);
}

static void
run_scan4(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->scan4(b->codes, shape->dim, b->lut, shape->m, b->sums);
}

static void
run_scan8(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->scan8(b->codes, shape->dim, b->lut, shape->m, b->sums);
}

static void
run_bound(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	VqBound		bound = {1.0f, -2.0f, 0.01f, 0.5f};

	kernels->bound(b->x, b->s, b->codes, b->sums, shape->dim, &bound, 0.0f, b->floats);
}

static void
run_f16_to_f32(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->f16_to_f32(b->halves, shape->dim, b->floats);
}

static void
run_quantise_u8(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	b->floats[0] = kernels->quantise_u8(b->x, b->y, shape->dim, b->bytes);
}

static void
run_scores_u8(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	VqColumns	columns = {shape->ksub, shape->dim / 4, (const int8_t *) b->lut, b->corrections, b->x, b->y};

	kernels->scores_u8(b->codes, b->x, ROWS, &columns, b->floats);
}

static void
run_largest_two(const VqKernels *kernels, const Shape *shape, Buffers *b)
{
	kernels->largest_two(b->x, ROWS, shape->ksub, b->at);
}

#define ROW_HEADERS (ROWS * sizeof(VqRowHeader))

static const Case cases[] = {
	/*				operation, {dim, m, dsub, ksub}, vectors, bytes read */
	{"l2sq_f32", run_l2sq_f32, {128, 0, 0, 0}, 0, 128 * 8},
	{"l2sq_f32", run_l2sq_f32, {300, 0, 0, 0}, 0, 300 * 8},
	{"l2sq_f32", run_l2sq_f32, {768, 0, 0, 0}, 0, 768 * 8},
	{"ip_f32", run_ip_f32, {128, 0, 0, 0}, 0, 128 * 8},
	{"ip_f32", run_ip_f32, {300, 0, 0, 0}, 0, 300 * 8},
	{"ip_f32", run_ip_f32, {768, 0, 0, 0}, 0, 768 * 8},
	{"ip_norms_f32", run_ip_norms_f32, {128, 0, 0, 0}, 0, 128 * 8},
	{"ip_norms_f32", run_ip_norms_f32, {300, 0, 0, 0}, 0, 300 * 8},
	{"ip_norms_f32", run_ip_norms_f32, {768, 0, 0, 0}, 0, 768 * 8},
	{"add_f64", run_add_f64, {300, 0, 0, 0}, 0, 300 * 12},
	{"add_f64", run_add_f64, {1536, 0, 0, 0}, 0, 1536 * 12},
	{"f16_to_f32", run_f16_to_f32, {300, 0, 0, 0}, 0, 300 * 2},
	{"l2sq_rows_f32", run_l2sq_rows_f32, {128, 0, 0, 0}, ROWS, ROW_HEADERS + ROWS * 128 * 4},
	{"l2sq_rows_f32", run_l2sq_rows_f32, {300, 0, 0, 0}, ROWS, ROW_HEADERS + ROWS * 300 * 4},
	{"l2sq_rows_f32", run_l2sq_rows_f32, {768, 0, 0, 0}, ROWS, ROW_HEADERS + ROWS * 768 * 4},
	{"l2sq_rows_i8", run_l2sq_rows_i8, {128, 0, 0, 0}, ROWS, ROW_HEADERS + ROWS * 128},
	{"l2sq_rows_i8", run_l2sq_rows_i8, {300, 0, 0, 0}, ROWS, ROW_HEADERS + ROWS * 300},
	{"l2sq_rows_i8", run_l2sq_rows_i8, {768, 0, 0, 0}, ROWS, ROW_HEADERS + ROWS * 768},
	/* ksub is the number of columns */
	{"project_i8", run_project_i8, {300, 0, 0, 160}, 1, 300 * 160},
	{"project_i8", run_project_i8, {768, 0, 0, 384}, 1, 768 * 384},
	{"fwht", run_fwht, {128, 0, 0, 0}, 0, 128 * 4},
	{"fwht", run_fwht, {256, 0, 0, 0}, 0, 256 * 4},
	{"fwht", run_fwht, {512, 0, 0, 0}, 0, 512 * 4},
	{"fwht", run_fwht, {1024, 0, 0, 0}, 0, 1024 * 4},
	{"pq_encode", run_pq_encode, {128, 64, 2, 16}, 1, 128 * 17 * 4},
	{"pq_encode", run_pq_encode, {300, 150, 2, 16}, 1, 300 * 17 * 4},
	{"pq_encode", run_pq_encode, {768, 384, 2, 16}, 1, 768 * 17 * 4},
	{"pq_encode", run_pq_encode, {300, 75, 4, 16}, 1, 300 * 17 * 4},
	{"pq_encode", run_pq_encode, {300, 20, 15, 256}, 1, 300 * 257 * 4},
	{"pq_lut", run_pq_lut, {128, 64, 2, 16}, 0, 128 * 17 * 4},
	{"pq_lut", run_pq_lut, {300, 150, 2, 16}, 0, 300 * 17 * 4},
	{"pq_lut", run_pq_lut, {768, 384, 2, 16}, 0, 768 * 17 * 4},
	{"pq_lut", run_pq_lut, {300, 20, 15, 256}, 0, 300 * 257 * 4},
	{"lut in bytes", run_lut_in_bytes, {300, 86, 0, 16}, 0, 86 * 16 * 5},
	{"lut in bytes", run_lut_in_bytes, {300, 20, 0, 256}, 0, 20 * 256 * 5},
	/* dim is the number of vectors in the block */
	{"scan4", run_scan4, {32, 64, 0, 16}, 32, 64 * 32},
	{"scan4", run_scan4, {32, 150, 0, 16}, 32, 150 * 32},
	{"scan4", run_scan4, {24, 150, 0, 16}, 24, 150 * 28},
	{"scan4", run_scan4, {8, 150, 0, 16}, 8, 150 * 20},
	{"scan8", run_scan8, {32, 20, 0, 256}, 32, 20 * 288},
	{"scan8", run_scan8, {8, 20, 0, 256}, 8, 20 * 264},
	{"bound", run_bound, {VQ_BLOCK_LANES, 0, 0, 0}, VQ_BLOCK_LANES, VQ_BLOCK_LANES * 11},
	/* ksub is the number of columns */
	{"quantise_u8", run_quantise_u8, {300, 0, 0, 0}, 1, 300 * 8},
	{"scores_u8", run_scores_u8, {128, 0, 0, 64}, ROWS, (ROWS + 64) * 128},
	{"scores_u8", run_scores_u8, {300, 0, 0, 48}, ROWS, (ROWS + 48) * 300},
	{"scores_u8", run_scores_u8, {300, 0, 0, 64}, ROWS, (ROWS + 64) * 300},
	{"scores_u8", run_scores_u8, {300, 0, 0, 80}, ROWS, (ROWS + 80) * 300},
	{"scores_u8", run_scores_u8, {768, 0, 0, 64}, ROWS, (ROWS + 64) * 768},
	{"largest_two", run_largest_two, {0, 0, 0, 64}, ROWS, ROWS * 64 * 4},
};

/* Processor time of this process: other work on the machine counts for little */
static double
now_ns(void)
{
	return (double) clock() * (1e9 / CLOCKS_PER_SEC);
}

/* Best time of one call, in ns */
static double
measure(const Case *c, const VqKernels *kernels, Buffers *b)
{
	double		best = 1e30;
	size_t		ncalls = 1;

	for (int run = 0; run < RUNS;)
	{
		double		start = now_ns();
		double		elapsed;

		for (size_t i = 0; i < ncalls; i++)
			c->run(kernels, &c->shape, b);
		elapsed = now_ns() - start;

		/* Grow the run until it is long enough to count */
		if (elapsed < NS_PER_RUN)
			ncalls *= 2;
		else
		{
			run++;
			if (elapsed / (double) ncalls < best)
				best = elapsed / (double) ncalls;
		}
	}
	return best;
}

static void *
allocate(size_t nbytes)
{
	void	   *p = calloc(1, nbytes);

	if (p == NULL)
	{
		fprintf(stderr, "out of memory\n");
		exit(1);
	}
	return p;
}

static float *
random_floats(size_t n)
{
	float	   *p = allocate(n * sizeof(float));

	for (size_t i = 0; i < n; i++)
		p[i] = (float) rand() / (float) RAND_MAX - 0.5f;
	return p;
}

static uint8_t *
random_bytes(size_t n)
{
	uint8_t    *p = allocate(n);

	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t) (rand() >> 4);
	return p;
}

int
main(int argc, char **argv)
{
	Buffers		b = {0};

	srand(1);
	b.x = random_floats(MAX_FLOATS);
	b.y = random_floats(MAX_FLOATS);
	b.codebook = random_floats(MAX_FLOATS);
	b.floats = random_floats(MAX_FLOATS);
	b.codes = random_bytes(MAX_BYTES);
	b.lut = random_bytes(MAX_BYTES);
	b.bytes = random_bytes(MAX_BYTES);

	/* Zeros are values of both kinds of rows; random bytes might be NaNs */
	b.rows = allocate(MAX_BYTES);

	b.corrections = allocate(MAX_FLOATS * sizeof(int32_t));

	printf("%-14s %5s %4s %5s %5s  %-11s %10s %10s %8s\n",
		   "operation", "dim", "m", "dsub", "ksub", "table", "ns/call", "ns/code", "GB/s");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		const Case *c = &cases[i];

		if (argc > 1 && strcmp(argv[1], c->operation) != 0)
			continue;
		for (size_t t = 0; vq_kernels_all[t] != NULL; t++)
		{
			const VqKernels *kernels = vq_kernels_all[t];
			double		ns;

			if (!vq_kernels_supported(kernels))
				continue;
			ns = measure(c, kernels, &b);
			printf("%-14s %5zu %4zu %5zu %5zu  %-11s %10.1f", c->operation,
				   c->shape.dim, c->shape.m, c->shape.dsub, c->shape.ksub, kernels->name, ns);
			if (c->ncodes > 0)
				printf(" %10.2f", ns / (double) c->ncodes);
			else
				printf(" %10s", "-");
			printf(" %8.1f\n", (double) c->nbytes / ns);
		}
	}

	free(b.x);
	free(b.y);
	free(b.codebook);
	free(b.floats);
	free(b.rows);
	free(b.codes);
	free(b.lut);
	free(b.bytes);
	free(b.corrections);
	return 0;
}
