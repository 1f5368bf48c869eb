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

static SgemmFunction sgemm;

static void
openblas_products(size_t rows, size_t cols, size_t dim, const float *a, const float *b, float *c)
{
	sgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANSPOSE, CBLAS_TRANSPOSE, (int) rows, (int) cols, (int) dim,
		  1.0f, a, (int) dim, b, (int) dim, 0.0f, c, (int) cols);
}

static const VqBlas openblas = {.name = "OpenBLAS", .products = openblas_products};

const VqBlas *
ivfpq_blas(void)
{
	static bool is_tried = false;
	void	   *library;
	SetThreadsFunction set_threads;

	if (!is_tried)
	{
		is_tried = true;

		/* before the library looks: one process, one thread */
		setenv("OPENBLAS_NUM_THREADS", "1", 1);
		library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
		if (library)
		{
			set_threads = (SetThreadsFunction) dlsym(library, "openblas_set_num_threads");
			if (set_threads)
				set_threads(1);
			sgemm = (SgemmFunction) dlsym(library, "cblas_sgemm");
		}
		if (sgemm == NULL && !IsParallelWorker())
			ereport(WARNING,
					(errmsg("could not load OpenBLAS"),
					 errdetail("The index is trained with slower products instead."),
					 errhint("Install OpenBLAS (on Debian: libopenblas0-pthread).")));
	}
	return sgemm ? &openblas : &vq_blas_builtin;
}
