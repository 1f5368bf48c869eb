/*-------------------------------------------------------------------------
 *
 * ivfpq_blas.c
 *	  OpenBLAS, opened by those that train an index and by no other process.
 *
 * It is never linked: the threaded build of it starts a pool of threads in
 * whatever process loads it, and the postmaster and every backend would.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include "access/parallel.h"
#include "am/ivfpq_train.h"

/* The C interface of BLAS (cblas.h), the part used here */
#define CBLAS_ROW_MAJOR		101
#define CBLAS_NO_TRANSPOSE	111
#define CBLAS_TRANSPOSE		112

typedef void (*SgemmFunction) (int order, int transpose_a, int transpose_b, int rows, int cols, int inner,
							   float alpha, const float *a, int lda, const float *b, int ldb,
							   float beta, float *c, int ldc);
typedef void (*SetThreadsFunction) (int threads);

/* LAPACK's ssyevd, as Fortran has it: matrices by columns, lengths of texts behind all else */
typedef void (*SsyevdFunction) (const char *job, const char *triangle, const int *dim, float *a, const int *lda,
								float *values, float *work, const int *work_floats, int *iwork,
								const int *iwork_ints, int *info, size_t job_length, size_t triangle_length);

StaticAssertDecl(sizeof(int) == sizeof(float), "one work space has both");

/* What OpenBLAS maps as a process loads it and multiplies first, with room to spare */
#define OPENBLAS_BYTES		((size_t) 256 << 20)
#define WARMUP_DIM			256

static SgemmFunction sgemm;
static SsyevdFunction ssyevd;
static bool is_tried = false;	/* by this build */

static void
openblas_products(size_t rows, size_t cols, size_t dim, const float *a, const float *b, float *c)
{
	sgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANSPOSE, CBLAS_TRANSPOSE, (int) rows, (int) cols, (int) dim,
		  1.0f, a, (int) dim, b, (int) dim, 0.0f, c, (int) cols);
}

static void
openblas_add_products(size_t rows, size_t cols, size_t dim, const float *a, const float *b, float *c)
{
	sgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANSPOSE, CBLAS_TRANSPOSE, (int) rows, (int) cols, (int) dim,
		  1.0f, a, (int) dim, b, (int) dim, 1.0f, c, (int) cols);
}

static bool
openblas_eigenvectors(size_t dim, float *a, float *values, float *work)
{
	int			n = (int) dim;
	int			work_floats = 1 + 6 * n + 2 * n * n;
	int			iwork_ints = 3 + 5 * n;
	int			info;

	/* a column of theirs is a row of ours */
	ssyevd("V", "U", &n, a, &n, values, work, &work_floats, (int *) (work + work_floats), &iwork_ints, &info, 1, 1);
	return info == 0;
}

static VqBlas openblas = {
	.name = "OpenBLAS", .products = openblas_products, .add_products = openblas_add_products
};

/*
 * OpenBLAS takes a workspace of 128 MB and a little more, some versions as they are loaded.
 * Where it is not to be had, some ask again and again, in a loop that hears no cancel, and
 * others end the process.  So look if there is so much before it is loaded.
 */
static bool
can_have_memory(void)
{
	void	   *probe = mmap(NULL, OPENBLAS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (probe == MAP_FAILED)
		return false;
	munmap(probe, OPENBLAS_BYTES);
	return true;
}

void
ivfpq_blas_begin_build(void)
{
	is_tried = sgemm != NULL;
}

const VqBlas *
ivfpq_blas(void)
{
	size_t		dim = WARMUP_DIM;
	float	   *matrix;
	void	   *library;
	SetThreadsFunction set_threads;

	if (!is_tried)
	{
		matrix = palloc0(2 * dim * dim * sizeof(float));
		is_tried = true;

		/* before the library looks: one process, one thread */
		setenv("OPENBLAS_NUM_THREADS", "1", 1);
		library = can_have_memory() ? dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL) : NULL;
		if (library)
		{
			set_threads = (SetThreadsFunction) dlsym(library, "openblas_set_num_threads");
			if (set_threads)
				set_threads(1);
			ssyevd = (SsyevdFunction) dlsym(library, "ssyevd_");
			if (ssyevd)
				openblas.eigenvectors = openblas_eigenvectors;

			/* have the workspace taken at once: by a product that is not so small that it needs none */
			sgemm = (SgemmFunction) dlsym(library, "cblas_sgemm");
			if (sgemm)
				openblas_products(dim, dim, dim, matrix, matrix, matrix + dim * dim);
		}
		pfree(matrix);
		if (sgemm == NULL && !IsParallelWorker())
			ereport(WARNING,
					(errmsg("could not load OpenBLAS, or it has no memory"),
					 errdetail("The index is trained with slower products, and its codes are larger."),
					 errhint("Install OpenBLAS (on Debian: libopenblas0-pthread), and see that a process can have %zu MB of address space for it.",
							 OPENBLAS_BYTES >> 20)));
	}
	return sgemm ? &openblas : &vq_blas_builtin;
}
