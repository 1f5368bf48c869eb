/*-------------------------------------------------------------------------
 *
 * bench_vq_panels.c
 *	  Rows to their nearest centroids: by products of bytes (vq_panels), and by
 *	  OpenBLAS's sgemm (vq_kmeans_assign), one thread each.
 *
 * Everything is timed, from rows and centroids as floats to labels and exact
 * distances.  Vectors are random, or rows of a file; centroids are rows as well.
 * One line per shape: 10^9 multiplications and additions per second by either,
 * the ratio, and how many rows of a thousand went to another centroid.
 *
 *		./bench_vq_panels [FILE.fvecs]
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/vq_kmeans.h"
#include "kernels/vq_panels.h"

#define RUNS		7
#define RUN_NS		5e7

#define CBLAS_ROW_MAJOR		101
#define CBLAS_NO_TRANSPOSE	111
#define CBLAS_TRANSPOSE		112

typedef void (*SgemmFunction) (int order, int transpose_a, int transpose_b, int rows, int cols, int inner,
							   float alpha, const float *a, int lda, const float *b, int ldb,
							   float beta, float *c, int ldc);

static SgemmFunction sgemm;

static void
openblas_products(size_t rows, size_t cols, size_t dim, const float *a, const float *b, float *c)
{
	sgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANSPOSE, CBLAS_TRANSPOSE, (int) rows, (int) cols, (int) dim,
		  1.0f, a, (int) dim, b, (int) dim, 0.0f, c, (int) cols);
}

static const VqBlas openblas = {.name = "OpenBLAS", .products = openblas_products};

/* rows x centroids x dim; those of a file's dim are skipped if it has another */
static const size_t shapes[][3] = {
	{512, 90, 300}, {100, 90, 300}, {512, 64, 300}, {512, 50, 300}, {512, 28, 300}, {512, 16, 300},
	{1024, 4000, 300}, {512, 64, 128}, {512, 64, 768},
};

typedef struct Problem
{
	const VqKernels *kernels;
	size_t		nrows;
	size_t		ncentroids;
	size_t		dim;
	const float *rows;
	const float *centroids;
	float	   *norms;
	void	   *memory;
	void	   *work;
	uint32_t   *labels;
	float	   *distances;
	VqPanels	panels;
} Problem;

static double
now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double) now.tv_sec * 1e9 + (double) now.tv_nsec;
}

static void *
allocate(size_t nbytes)
{
	void	   *p = malloc(nbytes + 1);

	if (p == NULL)
	{
		fprintf(stderr, "out of memory\n");
		exit(1);
	}
	return p;
}

static void
by_panels(Problem *problem)
{
	vq_panels_assign(problem->kernels, &problem->panels, problem->rows, problem->nrows, problem->work,
					 problem->labels, problem->distances);
}

static void
by_sgemm(Problem *problem)
{
	vq_kmeans_assign(problem->kernels, &openblas, problem->rows, problem->nrows, problem->centroids, problem->norms,
					 problem->ncentroids, problem->dim, problem->work, problem->labels, problem->distances);
}

/* 10^9 multiplications and additions per second, the best run */
static double
rate(Problem *problem, void (*assign) (Problem *problem))
{
	double		operations = 2.0 * (double) (problem->nrows * problem->ncentroids * problem->dim);
	double		best = 0;

	for (int run = 0; run < RUNS; run++)
	{
		double		start = now_ns();
		double		elapsed;
		size_t		calls = 0;

		do
		{
			assign(problem);
			calls++;
			elapsed = now_ns() - start;
		} while (elapsed < RUN_NS);
		if (operations * (double) calls / elapsed > best)
			best = operations * (double) calls / elapsed;
	}
	return best;
}

static void
measure(const size_t *shape, const float *vectors)
{
	Problem		problem = {.kernels = vq_kernels_by_name("auto"), .nrows = shape[0], .ncentroids = shape[1],
		.dim = shape[2], .rows = vectors, .centroids = vectors + shape[0] * shape[2]};
	size_t		panels_work = vq_panels_work_bytes(shape[1], shape[2]);
	size_t		sgemm_work = vq_kmeans_assign_floats(shape[0], shape[1]) * sizeof(float);
	uint32_t   *other = allocate(shape[0] * sizeof(uint32_t));
	size_t		differ = 0;
	double		by_bytes;
	double		by_floats;

	problem.norms = allocate(shape[1] * sizeof(float));
	problem.memory = allocate(vq_panels_bytes(shape[1], shape[2]));
	problem.work = allocate(panels_work > sgemm_work ? panels_work : sgemm_work);
	problem.labels = allocate(shape[0] * sizeof(uint32_t));
	problem.distances = allocate(shape[0] * sizeof(float));
	vq_kmeans_norms(problem.kernels, problem.centroids, shape[1], shape[2], problem.norms);
	vq_panels_pack(problem.kernels, problem.centroids, shape[1], shape[2], problem.memory, &problem.panels);

	by_floats = rate(&problem, by_sgemm);
	memcpy(other, problem.labels, shape[0] * sizeof(uint32_t));
	by_bytes = rate(&problem, by_panels);
	for (size_t i = 0; i < shape[0]; i++)
		differ += other[i] != problem.labels[i];
	printf("%5zu x %4zu x %3zu  %8.0f %8.0f %6.1f %8.2f\n", shape[0], shape[1], shape[2], by_floats, by_bytes,
		   by_bytes / by_floats, 1000.0 * (double) differ / (double) shape[0]);
	free(problem.norms);
	free(problem.memory);
	free(problem.work);
	free(problem.labels);
	free(problem.distances);
	free(other);
}

/* Sums of four uniform numbers, or every so-manieth row of a file of this dim; NULL if it has another */
static float *
read_vectors(const char *path, size_t count, size_t dim)
{
	float	   *vectors = allocate(count * dim * sizeof(float));
	size_t		record = (dim + 1) * sizeof(float);
	FILE	   *file;
	int32_t		file_dim;
	size_t		nrecords;

	if (path == NULL)
	{
		for (size_t i = 0; i < count * dim; i++)
			vectors[i] = (float) (rand() % 1000 + rand() % 1000 + rand() % 1000 + rand() % 1000) / 1000;
		return vectors;
	}
	file = fopen(path, "rb");
	if (file == NULL || fread(&file_dim, sizeof(file_dim), 1, file) != 1 || fseek(file, 0, SEEK_END) != 0)
	{
		fprintf(stderr, "cannot read %s\n", path);
		exit(1);
	}
	nrecords = (size_t) ftell(file) / record;
	for (size_t i = 0; i < count && (size_t) file_dim == dim && nrecords >= count; i++)
		if (fseek(file, (long) (i * (nrecords / count) * record + sizeof(file_dim)), SEEK_SET) != 0 ||
			fread(vectors + i * dim, sizeof(float), dim, file) != dim)
			nrecords = 0;
	fclose(file);
	if ((size_t) file_dim == dim && nrecords >= count)
		return vectors;
	free(vectors);
	return NULL;
}

int
main(int argc, char **argv)
{
	void	   *library;

	setenv("OPENBLAS_NUM_THREADS", "1", 1);
	library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
	sgemm = library ? (SgemmFunction) dlsym(library, "cblas_sgemm") : NULL;
	if (sgemm == NULL)
	{
		fprintf(stderr, "no OpenBLAS here to compare with\n");
		return 1;
	}
	printf("kernels \"%s\"\n%-18s %8s %8s %6s %8s\n", vq_kernels_by_name("auto")->name,
		   "rows x lists x dim", "sgemm", "bytes", "ratio", "differ");
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
	{
		float	   *vectors = read_vectors(argc > 1 ? argv[1] : NULL, shapes[i][0] + shapes[i][1], shapes[i][2]);

		if (vectors != NULL)
			measure(shapes[i], vectors);
		free(vectors);
	}
	return 0;
}
