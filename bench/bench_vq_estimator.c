/*-------------------------------------------------------------------------
 *
 * bench_vq_estimator.c
 *	  How good codes, bounds and the lazy re-rank are, on a file of vectors.
 *
 * Trains, codes and searches with the modules of src/kernels alone, without a
 * server:
 *
 *		cc -std=c11 -O2 -Isrc bench/bench_vq_estimator.c src/kernels/vq_*.c -lm -ldl
 *		./a.out base.fvecs query.fvecs --metric cosine --nprobe 32
 *
 * Codes are those of a projection, unless --no-projection is given: directions are
 * the eigenvectors of the covariance of residuals, and error_scale is measured on
 * rows that took no part in training, if --error-scale does not set it.
 *
 * For each query the nearest lists are scored, and their candidates compared
 * exactly in the order of their bounds until the ten nearest are certain.
 * Printed, one row:
 *
 *		bias		mean error of the estimate, and
 *		rms			root of its mean square, both in units of the standard error
 *					that the factor E promises
 *		broken		share of (query, candidate) pairs whose bound is above the
 *					exact value
 *		fetches		exact comparisons per query, mean and 95th percentile
 *		loss		one minus the recall of the ten nearest against an exact
 *					scan of the same lists
 *		us/query	time to score, select and compare, without finding the lists
 *
 * --check makes the exit status 1 when the loss is above .003, which is what
 * the design allows at the default epsilon of 2.
 *
 *-------------------------------------------------------------------------
 */
#define _POSIX_C_SOURCE 200112L

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/vq_codec.h"
#include "kernels/vq_kmeans.h"
#include "kernels/vq_select.h"

#define NEAREST			10		/* k of the searches */
#define CHUNK_ROWS		256
#define ROWS_PER_LIST	64		/* sampled for the lists */
#define PQ_ROWS			16384	/* sampled for the projection and for the codebook */
#define SCALE_QUERIES	300		/* rows that error_scale is measured with, and their NEAREST */
#define SCALE_EPSILON	2		/* at which this part of their bounds is to hold */
#define SCALE_SHARE		0.99
#define MIN_SCALE		0.75
#define ORTHOGONAL		1e-5	/* cosine of directions that are as good as orthogonal */
#define MAX_SWEEPS		30		/* of the search for them, which takes about ten */
#define LANES			8
#define SMALLEST_PART	1e-9	/* of the largest variance: directions with less are noise */
#define ALLOWED_LOSS	0.003

typedef struct Options
{
	const char *base_path;
	const char *query_path;
	const char *metric;
	const char *kernels;
	long		lists;			/* 0: four times the root of the number of rows */
	long		nprobe;
	long		m;				/* 0: as an index by default */
	long		nbits;
	long		max_rows;
	long		max_queries;
	long		rounds;			/* of k-means */
	double		epsilon;
	double		error_scale;	/* 0: measured */
	bool		is_rotated;
	bool		is_projected;
	bool		is_check;
} Options;

typedef struct Vectors
{
	size_t		nrows;
	size_t		dim;
	float	   *values;
} Vectors;

/* A list: its blocks in memory, and which row is in which slot */
typedef struct List
{
	size_t		nrows;
	uint32_t   *rows;
	uint8_t    *blocks;			/* full ones, 32 rows each */
} List;

typedef struct Index
{
	const VqKernels *kernels;
	const VqBlas *blas;
	VqCodec		codec;
	VqBlockShape shape;
	const Vectors *base;
	size_t		dim;
	size_t		nlists;
	float	   *models;			/* [nrows][dim] */
	uint8_t    *statuses;		/* VqStatus of each row */
	float	   *mean;
	float	   *signs;
	void	   *image;			/* of the projection */
	float	   *codebook;
	float	   *centroids;
	float	   *centroid_codes; /* [nlists][vq_codec_code_floats] */
	bool	   *is_sampled;		/* rows that took part in training */
	float	   *norms;			/* half the squared lengths of the centroids */
	uint32_t   *labels;
	List	   *lists;
} Index;

typedef struct Totals
{
	size_t		nqueries;
	size_t		ncandidates;
	size_t		nbroken;
	size_t		nestimates;
	double		error_sum;
	double		error_square_sum;
	double		recall_sum;
	double		scan_seconds;
	size_t	   *fetches;		/* of each query */
} Totals;

static void
fail(const char *what, const char *detail)
{
	fprintf(stderr, "bench_vq_estimator: %s: %s\n", what, detail);
	exit(2);
}

static void *
allocate(size_t count, size_t size)
{
	void	   *memory = calloc(count > 0 ? count : 1, size);

	if (memory == NULL)
		fail("allocation", "out of memory");
	return memory;
}

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double) now.tv_sec + (double) now.tv_nsec * 1e-9;
}

/* Each row of an fvecs file is an int32 dimension and that many floats */
static Vectors
read_fvecs(const char *path, size_t max_rows)
{
	FILE	   *file = fopen(path, "rb");
	Vectors		vectors = {0, 0, NULL};
	int32_t		dim = 0;
	long		bytes;
	size_t		nrows;

	if (file == NULL || fread(&dim, sizeof(dim), 1, file) != 1 || dim < 1 || dim > VQ_MAX_DIM)
		fail(path, "not a readable fvecs file");
	fseek(file, 0, SEEK_END);
	bytes = ftell(file);
	rewind(file);
	vectors.dim = (size_t) dim;
	nrows = (size_t) bytes / (sizeof(float) * (vectors.dim + 1));
	if (nrows > max_rows)
		nrows = max_rows;
	vectors.values = allocate(nrows * vectors.dim, sizeof(float));
	for (; vectors.nrows < nrows; vectors.nrows++)
	{
		if (fread(&dim, sizeof(dim), 1, file) != 1 || (size_t) dim != vectors.dim ||
			fread(vectors.values + vectors.nrows * vectors.dim, sizeof(float), vectors.dim, file) != vectors.dim)
			fail(path, "rows of different length");
	}
	fclose(file);
	return vectors;
}

/* cblas_sgemm, whose enumerations are ints: row-major, plain times transposed */
typedef void (*SgemmFunction) (int order, int transpose_a, int transpose_b, int rows, int cols, int depth,
							   float alpha, const float *a, int a_stride, const float *b, int b_stride,
							   float beta, float *c, int c_stride);

static SgemmFunction openblas_sgemm;

static void
openblas_products(size_t rows, size_t cols, size_t dim, const float *a, const float *b, float *c)
{
	openblas_sgemm(101, 111, 112, (int) rows, (int) cols, (int) dim,
				   1, a, (int) dim, b, (int) dim, 0, c, (int) cols);
}

static const VqBlas openblas = {.name = "openblas", .products = openblas_products};

static const VqBlas *
open_blas(void)
{
	void	   *library;
	void	   *symbol;

	setenv("OPENBLAS_NUM_THREADS", "1", 0);
	library = dlopen("libopenblas.so.0", RTLD_NOW);
	symbol = library != NULL ? dlsym(library, "cblas_sgemm") : NULL;
	if (symbol == NULL)
		return &vq_blas_builtin;
	memcpy(&openblas_sgemm, &symbol, sizeof(symbol));
	return &openblas;
}

static size_t
min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Mean and scale of the model space, from all rows */
static void
train_space(Index *index)
{
	const Vectors *base = index->base;
	VqMetric	metric = index->codec.metric;
	double	   *sums = allocate(index->dim, sizeof(double));
	double		size = 0;

	for (size_t i = 0; i < base->nrows; i++)
	{
		const float *x = base->values + i * index->dim;
		double		norm = 1;

		if (metric == VQ_METRIC_COSINE)
			norm = sqrt((double) index->kernels->ip_f32(x, x, index->dim));
		for (size_t t = 0; t < index->dim && norm > 0; t++)
			sums[t] += x[t] / norm;
	}
	for (size_t t = 0; t < index->dim && metric != VQ_METRIC_IP; t++)
		index->mean[t] = (float) (sums[t] / (double) base->nrows);
	for (size_t i = 0; i < base->nrows; i++)
		size += index->kernels->l2sq_f32(base->values + i * index->dim, index->mean, index->dim) / (double) base->nrows;
	if (metric != VQ_METRIC_COSINE && size > 0)
		index->codec.scale = (float) exp2(-floor(log2(size) / 2));
	free(sums);

	for (size_t i = 0; i < base->nrows; i++)
		index->statuses[i] = (uint8_t) vq_codec_transform(index->kernels, &index->codec,
														  base->values + i * index->dim,
														  index->models + i * index->dim);
}

/* Nearest list of rows that lie one after the other */
static void
assign_rows(const Index *index, const float *rows, size_t nrows, float *work, uint32_t *labels)
{
	for (size_t start = 0; start < nrows; start += CHUNK_ROWS)
		vq_kmeans_assign(index->kernels, index->blas, rows + start * index->dim,
						 min_size(CHUNK_ROWS, nrows - start), index->centroids, index->norms,
						 index->nlists, index->dim, work, labels + start, NULL);
}

static void
train_lists(Index *index, size_t nrounds)
{
	size_t		dim = index->dim;
	size_t		nsample = min_size(index->base->nrows, index->nlists * ROWS_PER_LIST);
	float	   *sample = allocate(nsample * dim, sizeof(float));
	uint32_t   *labels = allocate(nsample, sizeof(uint32_t));
	float	   *work = allocate(vq_kmeans_assign_floats(CHUNK_ROWS, index->nlists), sizeof(float));
	VqKmeansSums sums = {index->nlists, dim, NULL, NULL, 0};
	VqRng		rng;

	sums.sums = allocate(index->nlists * dim, sizeof(double));
	sums.counts = allocate(index->nlists, sizeof(uint64_t));
	vq_rng_seed(&rng, 1);
	for (size_t i = 0; i < nsample; i++)
	{
		size_t		row = (size_t) vq_rng_below(&rng, index->base->nrows);

		index->is_sampled[row] = true;
		memcpy(sample + i * dim, index->models + row * dim, dim * sizeof(float));
	}
	memcpy(index->centroids, sample, index->nlists * dim * sizeof(float));
	for (size_t round = 0; round <= nrounds; round++)
	{
		vq_kmeans_norms(index->kernels, index->centroids, index->nlists, dim, index->norms);
		if (round == nrounds)
			break;
		assign_rows(index, sample, nsample, work, labels);
		vq_kmeans_clear(&sums);
		vq_kmeans_accumulate(index->kernels, &sums, sample, nsample, labels, NULL);
		vq_kmeans_update(&sums, &rng, index->centroids);
	}
	assign_rows(index, index->models, index->base->nrows, work, index->labels);
	free(sample);
	free(labels);
	free(work);
	free(sums.sums);
	free(sums.counts);
}

/* Directions of the residuals of a sample of rows, float[nsample][dim]; returns how many */
static size_t
sample_residuals(Index *index, float **residuals)
{
	size_t		dim = index->dim;
	size_t		nsample = min_size(index->base->nrows, PQ_ROWS);
	VqRng		rng;

	*residuals = allocate(nsample * dim, sizeof(float));
	vq_rng_seed(&rng, 2);
	for (size_t i = 0; i < nsample; i++)
	{
		size_t		row = (size_t) vq_rng_below(&rng, index->base->nrows);
		const float *centroid = index->centroids + index->labels[row] * dim;

		index->is_sampled[row] = true;
		for (size_t t = 0; t < dim; t++)
			(*residuals)[i * dim + t] = index->models[row * dim + t] - centroid[t];
		vq_codec_direction(index->kernels, *residuals + i * dim, dim);
	}
	return nsample;
}

/* Sums of products of coordinates, double[dim][dim] */
static double *
covariance_of(const Index *index, const float *rows, size_t nrows)
{
	size_t		dim = index->dim;
	double	   *sums = allocate(dim * dim, sizeof(double));
	float	   *columns = allocate(dim * CHUNK_ROWS, sizeof(float));
	float	   *products = allocate(dim * dim, sizeof(float));

	for (size_t start = 0; start < nrows; start += CHUNK_ROWS)
	{
		size_t		nchunk = min_size(CHUNK_ROWS, nrows - start);

		for (size_t i = 0; i < nchunk; i++)
			for (size_t t = 0; t < dim; t++)
				columns[t * nchunk + i] = rows[(start + i) * dim + t];
		index->blas->products(dim, dim, nchunk, columns, columns, products);
		for (size_t i = 0; i < dim * dim; i++)
			sums[i] += products[i];
	}
	free(columns);
	free(products);
	return sums;
}

static double
product(const double *a, const double *b, size_t n)
{
	double		sums[LANES] = {0};
	double		sum = 0;
	size_t		i = 0;

	for (; i + LANES <= n; i += LANES)
	{
		for (size_t lane = 0; lane < LANES; lane++)
			sums[lane] += a[i + lane] * b[i + lane];
	}
	for (; i < n; i++)
		sum += a[i] * b[i];
	for (size_t lane = 0; lane < LANES; lane++)
		sum += sums[lane];
	return sum;
}

static void
rotate_pair(double *restrict a, double *restrict b, double cosine, double sine, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		double		old = a[i];

		a[i] = cosine * old - sine * b[i];
		b[i] = sine * old + cosine * b[i];
	}
}

/*
 * Rotate pairs of rows of a symmetric matrix without negative eigenvalues until all
 * are orthogonal (Hestenes 1958): each is an eigenvector then, as long as its
 * eigenvalue.  Slow, short, and in need of no library.
 */
static void
make_rows_orthogonal(double *matrix, size_t dim)
{
	double		noise_sq = SMALLEST_PART * SMALLEST_PART * product(matrix, matrix, dim * dim);
	bool		is_done = false;

	for (size_t sweep = 0; sweep < MAX_SWEEPS && !is_done; sweep++)
	{
		is_done = true;
		for (size_t i = 0; i + 1 < dim; i++)
		{
			double	   *a = matrix + i * dim;

			for (size_t j = i + 1; j < dim; j++)
			{
				double	   *b = matrix + j * dim;
				double		ab = product(a, b, dim);
				double		aa = product(a, a, dim);
				double		bb = product(b, b, dim);
				double		cotangent;
				double		tangent;
				double		cosine;

				/* Rows that are noise never become orthogonal */
				if (fabs(ab) <= ORTHOGONAL * sqrt(aa * bb) || aa < noise_sq || bb < noise_sq)
					continue;
				is_done = false;
				cotangent = (bb - aa) / (2 * ab);
				tangent = copysign(1, cotangent) / (fabs(cotangent) + sqrt(1 + cotangent * cotangent));
				cosine = 1 / sqrt(1 + tangent * tangent);
				rotate_pair(a, b, cosine, cosine * tangent, dim);
			}
		}
	}
}

typedef struct Direction
{
	double		variance;
	const double *values;		/* not of unit length */
} Direction;

static int
compare_directions(const void *a, const void *b)
{
	double		variance_a = ((const Direction *) a)->variance;
	double		variance_b = ((const Direction *) b)->variance;

	return (variance_a < variance_b) - (variance_a > variance_b);
}

/* The directions in which residuals vary most, arranged for the sub-quantisers */
static void
train_projection(Index *index, const float *residuals, size_t nresiduals)
{
	const VqPq *pq = &index->codec.pq;
	size_t		dim = index->dim;
	size_t		ndirections = (size_t) pq->m * pq->dsub;
	double	   *matrix = covariance_of(index, residuals, nresiduals);
	Direction  *ranked = allocate(dim, sizeof(Direction));
	float	   *vectors = allocate(ndirections * dim, sizeof(float));
	float	   *directions = allocate(ndirections * dim, sizeof(float));
	float	   *work = allocate(vq_project_arrange_floats(pq->m, pq->dsub), sizeof(float));

	make_rows_orthogonal(matrix, dim);
	for (size_t i = 0; i < dim; i++)
	{
		ranked[i].values = matrix + i * dim;
		ranked[i].variance = sqrt(product(ranked[i].values, ranked[i].values, dim));
	}
	qsort(ranked, dim, sizeof(Direction), compare_directions);
	for (size_t i = 0; i < ndirections && ranked[i].variance > SMALLEST_PART * ranked[0].variance; i++)
	{
		for (size_t t = 0; t < dim; t++)
			vectors[i * dim + t] = (float) (ranked[i].values[t] / ranked[i].variance);
	}
	vq_project_arrange(index->kernels, 6, vectors, dim, pq->m, pq->dsub, work, directions);
	vq_project_pack(directions, dim, ndirections, index->image);
	if (vq_project_open(&index->codec.projection, dim, ndirections, index->image) != VQ_OK)
		fail("projection", "not finite");
	free(matrix);
	free(ranked);
	free(vectors);
	free(directions);
	free(work);
}

static void
train_codebook(Index *index, const float *residuals, size_t nresiduals)
{
	const VqPq *pq = &index->codec.pq;
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	float	   *rows = allocate(nresiduals * padded_dim, sizeof(float));
	float	   *row = allocate(vq_codec_code_floats(&index->codec), sizeof(float));
	double	   *sums = allocate(vq_pq_sums_doubles(pq), sizeof(double));
	uint8_t    *codes = allocate(pq->m, 1);

	for (size_t i = 0; i < nresiduals; i++)
	{
		vq_codec_to_codes(index->kernels, &index->codec, residuals + i * index->dim, row);
		memcpy(rows + i * padded_dim, row, padded_dim * sizeof(float));
	}
	vq_pq_train(index->kernels, pq, rows, nresiduals, 15, 3, sums, codes, index->codebook);
	free(rows);
	free(row);
	free(sums);
	free(codes);
}

static void
encode_row(const Index *index, size_t row, float *row_code, float *work, uint8_t *codes, VqFactors *factors)
{
	const VqCodec *codec = &index->codec;
	uint32_t	list_no = index->labels[row];
	const float *model = index->models + row * index->dim;

	vq_codec_to_codes(index->kernels, codec, model, row_code);
	vq_codec_encode(index->kernels, codec, model, index->centroids + list_no * index->dim, row_code,
					index->centroid_codes + list_no * vq_codec_code_floats(codec), work, codes, factors);
}

static void
encode_rows(Index *index)
{
	static const uint8_t tid[VQ_TID_BYTES] = {0, 0, 0, 0, 1, 0};
	size_t		block_bytes = vq_block_bytes(&index->shape, VQ_BLOCK_LANES);
	uint8_t    *codes = allocate(index->shape.m, 1);
	float	   *row_code = allocate(vq_codec_code_floats(&index->codec), sizeof(float));
	float	   *work = allocate(vq_codec_encode_floats(&index->codec), sizeof(float));

	for (size_t i = 0; i < index->base->nrows; i++)
		index->lists[index->labels[i]].nrows++;
	for (size_t j = 0; j < index->nlists; j++)
	{
		List	   *list = &index->lists[j];
		size_t		nblocks = (list->nrows + VQ_BLOCK_LANES - 1) / VQ_BLOCK_LANES;

		list->rows = allocate(list->nrows, sizeof(uint32_t));
		list->blocks = allocate(nblocks, block_bytes);
		for (size_t block = 0; block < nblocks; block++)
			vq_block_init(list->blocks + block * block_bytes, &index->shape, (uint32_t) j, VQ_BLOCK_LANES);
		list->nrows = 0;
	}
	for (size_t i = 0; i < index->base->nrows; i++)
	{
		List	   *list = &index->lists[index->labels[i]];
		VqFactors	factors;

		/* As in an index, a zero vector has no place under cosine */
		if (index->statuses[i] == VQ_ZERO_VECTOR)
			continue;
		encode_row(index, i, row_code, work, codes, &factors);
		if (index->statuses[i] != VQ_OK)
			vq_codec_encode_exact(&factors);
		vq_block_put(list->blocks + list->nrows / VQ_BLOCK_LANES * block_bytes, &index->shape,
					 list->nrows % VQ_BLOCK_LANES, tid, &factors, codes);
		list->rows[list->nrows++] = (uint32_t) i;
	}
	free(codes);
	free(row_code);
	free(work);
}

static double
exact_value(const Index *index, const VqQuery *query, const float *q, size_t row)
{
	const float *x = index->base->values + row * index->dim;
	float		products[3];

	if (index->codec.metric == VQ_METRIC_L2)
		return query->unit * index->kernels->l2sq_f32(q, x, index->dim);
	index->kernels->ip_norms_f32(q, x, index->dim, products);
	if (index->codec.metric == VQ_METRIC_IP)
		return query->unit * -products[0];
	return query->unit * (1 - products[0] / sqrt((double) products[1] * products[2]));
}

/* A list and its place in the order of probing */
typedef struct Probe
{
	float		value;
	float		distance_sq;
	uint32_t	list_no;
} Probe;

static int
compare_probes(const void *a, const void *b)
{
	float		value_a = ((const Probe *) a)->value;
	float		value_b = ((const Probe *) b)->value;

	return (value_a > value_b) - (value_a < value_b);
}

static int
compare_sizes(const void *a, const void *b)
{
	size_t		size_a = *(const size_t *) a;
	size_t		size_b = *(const size_t *) b;

	return (size_a > size_b) - (size_a < size_b);
}

static Probe
probe_of(const Index *index, const VqQuery *query, size_t list_no)
{
	Probe		probe = {.list_no = (uint32_t) list_no};

	probe.distance_sq = index->kernels->l2sq_f32(query->q_model, index->centroids + list_no * index->dim, index->dim);
	probe.value = vq_codec_list_value(&index->codec, query, probe.distance_sq, 2 * index->norms[list_no]);
	return probe;
}

static void
find_probes(const Index *index, const VqQuery *query, Probe *probes)
{
	for (size_t j = 0; j < index->nlists; j++)
		probes[j] = probe_of(index, query, j);
	qsort(probes, index->nlists, sizeof(Probe), compare_probes);
}

/* Score a list into items, whose ids are row numbers */
static size_t
score_list(const Index *index, const VqQuery *query, const Probe *probe, double epsilon,
		   VqItem *items)
{
	const List *list = &index->lists[probe->list_no];
	size_t		block_bytes = vq_block_bytes(&index->shape, VQ_BLOCK_LANES);
	VqBound		bound;

	vq_codec_list_bound(&index->codec, query, probe->distance_sq, 2 * index->norms[probe->list_no],
						(float) epsilon, &bound);
	for (size_t start = 0; start < list->nrows; start += VQ_BLOCK_LANES)
	{
		const uint8_t *block = list->blocks + start / VQ_BLOCK_LANES * block_bytes;
		size_t		nslots = min_size(VQ_BLOCK_LANES, list->nrows - start);
		uint32_t	sums[VQ_BLOCK_LANES];
		float		low[VQ_BLOCK_LANES];

		vq_block_sums(index->kernels, block, &index->shape, query->lut, sums);
		index->kernels->bound(vq_block_a(block, &index->shape), vq_block_s(block, &index->shape),
							  vq_block_e(block, &index->shape), sums, VQ_BLOCK_LANES, &bound, INFINITY, low);
		for (size_t slot = 0; slot < nslots; slot++)
		{
			VqItem	   *item = &items[start + slot];

			item->key = low[slot];
			item->id_high = list->rows[start + slot];
			item->id_low = 0;
		}
	}
	return list->nrows;
}

/* Error of the estimate of a row, from the table of floats, in units of its standard error */
static double
relative_error(const Index *index, const VqQuery *query, const Probe *probe, const VqFactors *factors,
			   const uint8_t *codes, double exact)
{
	size_t		ksub = index->codec.pq.ksub;
	double		sum = 0;

	for (size_t j = 0; j < index->shape.m; j++)
		sum += query->lut_floats[j * ksub + codes[j]];
	return (probe->value + factors->a - factors->s / VQ_S_ONE * sum - exact) /
		(vq_codec_unpack_e(factors->e) * sqrt((double) probe->distance_sq));
}

/* Errors of the estimates of a list */
static void
measure_list(const Index *index, const VqQuery *query, const Probe *probe, const double *exact, Totals *totals)
{
	const List *list = &index->lists[probe->list_no];
	size_t		block_bytes = vq_block_bytes(&index->shape, VQ_BLOCK_LANES);
	uint8_t    *codes = allocate(index->shape.m, 1);

	for (size_t i = 0; i < list->nrows; i++)
	{
		VqFactors	factors;
		double		error;

		vq_block_get(list->blocks + i / VQ_BLOCK_LANES * block_bytes, &index->shape, i % VQ_BLOCK_LANES,
					 &factors, codes);
		if (factors.s == 0)
			continue;
		error = relative_error(index, query, probe, &factors, codes, exact[i]);
		totals->error_sum += error;
		totals->error_square_sum += error * error;
		totals->nestimates++;
	}
	free(codes);
}

/* Insert into the NEAREST smallest values, which are in order; the last is the largest */
static void
keep_nearest(double *nearest, double value)
{
	size_t		place = NEAREST - 1;

	if (value >= nearest[place])
		return;
	for (; place > 0 && nearest[place - 1] > value; place--)
		nearest[place] = nearest[place - 1];
	nearest[place] = value;
}

static void
search(const Index *index, const Options *options, const float *q, VqQuery *query,
	   Probe *probes, VqItem *items, double *exact, Totals *totals)
{
	double		want[NEAREST];
	double		got[NEAREST];
	size_t		nitems = 0;
	size_t		nfetches = 0;
	size_t		nprobe = min_size((size_t) options->nprobe, index->nlists);
	size_t		nright = 0;
	size_t		nwanted;
	const VqItem *item;
	VqSelect	select;
	double		start;

	for (size_t i = 0; i < NEAREST; i++)
		want[i] = got[i] = INFINITY;
	if (vq_codec_query(index->kernels, &index->codec, q, query) != VQ_OK)
		return;
	find_probes(index, query, probes);

	start = seconds();
	vq_codec_query(index->kernels, &index->codec, q, query);
	for (size_t i = 0; i < nprobe; i++)
		nitems += score_list(index, query, &probes[i], options->epsilon, items + nitems);
	totals->scan_seconds += seconds() - start;
	totals->ncandidates += nitems;

	/* What an exact scan gives, and how the bounds compare to it, before they are reordered */
	nitems = 0;
	for (size_t i = 0; i < nprobe; i++)
	{
		const List *list = &index->lists[probes[i].list_no];

		for (size_t row = 0; row < list->nrows; row++)
		{
			exact[row] = exact_value(index, query, q, list->rows[row]);
			keep_nearest(want, exact[row]);
			totals->nbroken += items[nitems + row].key > exact[row];
		}
		measure_list(index, query, &probes[i], exact, totals);
		nitems += list->nrows;
	}

	start = seconds();
	vq_select_init(&select, items, nitems);
	while ((item = vq_select_take(&select)) != NULL && item->key < got[NEAREST - 1])
	{
		keep_nearest(got, exact_value(index, query, q, item->id_high));
		nfetches++;
	}
	totals->scan_seconds += seconds() - start;

	/* Equal values count as found, whichever row they are of */
	nwanted = min_size(NEAREST, nitems);
	for (size_t i = 0; i < nwanted; i++)
		nright += got[i] <= want[nwanted - 1];
	totals->recall_sum += nwanted > 0 ? (double) nright / (double) nwanted : 1;
	totals->fetches[totals->nqueries++] = nfetches;
}

static VqQuery
open_query(const Index *index)
{
	size_t		lut_entries = (size_t) index->codec.pq.m * index->codec.pq.ksub;
	VqQuery		query = {0};

	query.q_model = allocate(index->dim, sizeof(float));
	query.q_code = allocate(vq_codec_code_floats(&index->codec), sizeof(float));
	query.lut_floats = allocate(lut_entries, sizeof(float));
	query.lut = allocate(lut_entries, 1);
	return query;
}

static void
close_query(VqQuery *query)
{
	free(query->q_model);
	free(query->q_code);
	free(query->lut_floats);
	free(query->lut);
}

static int
compare_doubles(const void *a, const void *b)
{
	double		value_a = *(const double *) a;
	double		value_b = *(const double *) b;

	return (value_a > value_b) - (value_a < value_b);
}

/* Errors of the estimates of the NEAREST rows to a row other than it; returns how many there are */
static size_t
errors_of_nearest(const Index *index, size_t query_row, VqQuery *query, double *exact, float *row_code,
				  float *work, uint8_t *codes, double *errors)
{
	const Vectors *base = index->base;
	const float *q = base->values + query_row * index->dim;
	double		nearest[NEAREST];
	size_t		nerrors = 0;

	if (vq_codec_query(index->kernels, &index->codec, q, query) != VQ_OK)
		return 0;
	for (size_t i = 0; i < NEAREST; i++)
		nearest[i] = INFINITY;
	for (size_t i = 0; i < base->nrows; i++)
	{
		bool		is_other = i != query_row && index->statuses[i] == VQ_OK;

		exact[i] = is_other ? exact_value(index, query, q, i) : INFINITY;
		keep_nearest(nearest, exact[i]);
	}
	for (size_t i = 0; i < base->nrows && nerrors < NEAREST; i++)
	{
		Probe		probe;
		VqFactors	factors;

		if (!(exact[i] <= nearest[NEAREST - 1]) || exact[i] == INFINITY)
			continue;
		probe = probe_of(index, query, index->labels[i]);
		encode_row(index, i, row_code, work, codes, &factors);
		if (factors.s > 0 && probe.distance_sq > 0)
			errors[nerrors++] = relative_error(index, query, &probe, &factors, codes, exact[i]);
	}
	return nerrors;
}

/*
 * How much larger errors are than the estimate's theory has them, where it counts:
 * of rows that are near to a query.
 */
static float
measure_error_scale(const Index *index)
{
	size_t		nrows = index->base->nrows;
	VqQuery		query = open_query(index);
	double	   *exact = allocate(nrows, sizeof(double));
	double	   *errors = allocate(SCALE_QUERIES * NEAREST, sizeof(double));
	float	   *row_code = allocate(vq_codec_code_floats(&index->codec), sizeof(float));
	float	   *work = allocate(vq_codec_encode_floats(&index->codec), sizeof(float));
	uint8_t    *codes = allocate(index->shape.m, 1);
	size_t		nerrors = 0;
	double		scale = 1;
	VqRng		rng;

	vq_rng_seed(&rng, 5);
	for (size_t i = 0; i < SCALE_QUERIES; i++)
	{
		size_t		row = (size_t) vq_rng_below(&rng, nrows);

		/* the next that took no part in training, if there is one */
		for (size_t tries = 0; tries < nrows && index->is_sampled[row]; tries++)
			row = (row + 1) % nrows;
		nerrors += errors_of_nearest(index, row, &query, exact, row_code, work, codes, errors + nerrors);
	}
	if (nerrors > 0)
	{
		qsort(errors, nerrors, sizeof(double), compare_doubles);
		scale = fmax(MIN_SCALE, errors[(size_t) ((double) nerrors * SCALE_SHARE)] / SCALE_EPSILON);
	}
	close_query(&query);
	free(exact);
	free(errors);
	free(row_code);
	free(work);
	free(codes);
	return (float) scale;
}

/* As an index has it by default (ivfpq_plan.c) */
static size_t
default_m(const Options *options, size_t dim)
{
	size_t		dims_per_code = dim < 256 || strcmp(options->metric, "ip") == 0 ? 2 : 3;

	if (options->is_projected)
	{
		size_t		halves = (2 * dims_per_code + 1) * (size_t) options->nbits / 4;

		return (2 * dim + halves - 1) / halves;
	}
	if (options->nbits == 8)
		dims_per_code = 4;
	return (dim + dims_per_code - 1) / dims_per_code;
}

static void
train_codes(Index *index, const Options *options)
{
	const VqCodec *codec = &index->codec;
	float	   *residuals;
	size_t		nresiduals = sample_residuals(index, &residuals);

	if (options->is_projected)
		train_projection(index, residuals, nresiduals);
	train_codebook(index, residuals, nresiduals);
	for (size_t j = 0; j < index->nlists; j++)
		vq_codec_to_codes(index->kernels, codec, index->centroids + j * index->dim,
						  index->centroid_codes + j * vq_codec_code_floats(codec));
	if (options->error_scale > 0)
		index->codec.error_scale = (float) options->error_scale;
	else if (options->is_projected)
		index->codec.error_scale = measure_error_scale(index);
	free(residuals);
}

static void
build(Index *index, const Options *options, const Vectors *base)
{
	size_t		dim = base->dim;
	size_t		m = options->m > 0 ? (size_t) options->m : default_m(options, dim);
	VqPq	   *pq = &index->codec.pq;

	memset(index, 0, sizeof(*index));
	index->kernels = vq_kernels_by_name(options->kernels);
	if (index->kernels == NULL)
		fail(options->kernels, "no such kernels on this machine");
	if (vq_codec_init(&index->codec, dim, m, (size_t) options->nbits, options->is_projected) != VQ_OK)
		fail("--m, --nbits", "out of range");
	index->blas = open_blas();
	index->base = base;
	index->dim = dim;
	index->nlists = options->lists > 0 ? (size_t) options->lists : (size_t) (4 * sqrt((double) base->nrows));
	index->nlists = min_size(index->nlists, base->nrows);
	index->shape.m = pq->m;
	index->shape.nbits = pq->nbits;

	index->models = allocate(base->nrows * dim, sizeof(float));
	index->statuses = allocate(base->nrows, 1);
	index->mean = allocate(dim, sizeof(float));
	index->signs = allocate(vq_rotate_sign_bytes(dim), 1);
	index->image = allocate(vq_project_bytes(dim, (size_t) pq->m * pq->dsub), 1);
	index->codebook = allocate(vq_pq_codebook_floats(pq), sizeof(float));
	index->centroids = allocate(index->nlists * dim, sizeof(float));
	index->centroid_codes = allocate(index->nlists * vq_codec_code_floats(&index->codec), sizeof(float));
	index->is_sampled = allocate(base->nrows, sizeof(bool));
	index->norms = allocate(index->nlists, sizeof(float));
	index->labels = allocate(base->nrows, sizeof(uint32_t));
	index->lists = allocate(index->nlists, sizeof(List));

	vq_rotate_signs(4, dim, index->signs);
	index->codec.metric = strcmp(options->metric, "l2") == 0 ? VQ_METRIC_L2 :
		strcmp(options->metric, "ip") == 0 ? VQ_METRIC_IP : VQ_METRIC_COSINE;
	index->codec.rotation = options->is_rotated ? VQ_ROTATION_HADAMARD : VQ_ROTATION_NONE;
	index->codec.scale = 1;
	index->codec.signs = index->signs;
	index->codec.mean = index->mean;
	index->codec.codebook = index->codebook;

	train_space(index);
	train_lists(index, (size_t) options->rounds);
	train_codes(index, options);
	encode_rows(index);
}

static void
close_index(Index *index)
{
	for (size_t j = 0; j < index->nlists; j++)
	{
		free(index->lists[j].rows);
		free(index->lists[j].blocks);
	}
	free(index->models);
	free(index->statuses);
	free(index->mean);
	free(index->signs);
	free(index->image);
	free(index->codebook);
	free(index->centroids);
	free(index->centroid_codes);
	free(index->is_sampled);
	free(index->norms);
	free(index->labels);
	free(index->lists);
}

/* Search for all queries, print the row, and return the loss */
static double
report(const Index *index, const Options *options, const Vectors *queries, double build_seconds)
{
	const VqPq *pq = &index->codec.pq;
	VqQuery		query = open_query(index);
	Probe	   *probes = allocate(index->nlists, sizeof(Probe));
	VqItem	   *items = allocate(index->base->nrows, sizeof(VqItem));
	double	   *exact = allocate(index->base->nrows, sizeof(double));
	Totals		totals;
	double		fetch_sum = 0;
	double		loss;
	double		nestimates;

	memset(&totals, 0, sizeof(totals));
	totals.fetches = allocate(queries->nrows, sizeof(size_t));
	for (size_t i = 0; i < queries->nrows; i++)
		search(index, options, queries->values + i * queries->dim, &query, probes, items, exact, &totals);
	if (totals.nqueries == 0)
		fail(options->query_path, "no usable query");

	qsort(totals.fetches, totals.nqueries, sizeof(size_t), compare_sizes);
	for (size_t i = 0; i < totals.nqueries; i++)
		fetch_sum += (double) totals.fetches[i];
	loss = 1 - totals.recall_sum / (double) totals.nqueries;
	nestimates = totals.nestimates > 0 ? (double) totals.nestimates : 1;
	printf("%-6s %7s %4s %5s %5s %6s %5s %5s %4s %5s %8s %6s %9s %8s %5s %8s %8s %8s %7s\n",
		   "metric", "rows", "dim", "lists", "m", "nbits", "cdim", "scale", "eps", "probe", "cand", "bias", "rms", "broken",
		   "fetch", "p95", "loss", "us/query", "build_s");
	printf("%-6s %7zu %4zu %5zu %5u %6u %5u %5.2f %4.1f %5ld %8.0f %+6.3f %9.3f %8.5f %5.1f %8zu %8.5f %8.1f %7.1f\n",
		   options->metric, index->base->nrows, index->dim, index->nlists, pq->m, pq->nbits,
		   pq->dim, (double) index->codec.error_scale, options->epsilon, options->nprobe,
		   (double) totals.ncandidates / (double) totals.nqueries,
		   totals.error_sum / nestimates, sqrt(totals.error_square_sum / nestimates),
		   (double) totals.nbroken / (double) totals.ncandidates,
		   fetch_sum / (double) totals.nqueries, totals.fetches[totals.nqueries * 95 / 100],
		   loss, totals.scan_seconds / (double) totals.nqueries * 1e6, build_seconds);
	free(totals.fetches);
	close_query(&query);
	free(probes);
	free(items);
	free(exact);
	return loss;
}

static Options
read_options(int argc, char **argv)
{
	Options		options = {NULL, NULL, "l2", "auto", 0, 32, 0, 4, 1000000000, 300, 8, 2.0, 0, true, true, false};
	const struct
	{
		const char *name;
		long	   *number;
		const char **text;
	}			table[] = {
		{"--metric", NULL, &options.metric},
		{"--kernel", NULL, &options.kernels},
		{"--lists", &options.lists, NULL},
		{"--nprobe", &options.nprobe, NULL},
		{"--m", &options.m, NULL},
		{"--nbits", &options.nbits, NULL},
		{"--max-rows", &options.max_rows, NULL},
		{"--max-queries", &options.max_queries, NULL},
		{"--rounds", &options.rounds, NULL},
	};
	int			i = 1;

	for (; i < argc; i++)
	{
		bool		is_known = false;

		if (strcmp(argv[i], "--check") == 0)
			options.is_check = is_known = true;
		else if (strcmp(argv[i], "--no-rotation") == 0)
		{
			options.is_rotated = false;
			is_known = true;
		}
		else if (strcmp(argv[i], "--no-projection") == 0)
		{
			options.is_projected = false;
			is_known = true;
		}
		else if (strcmp(argv[i], "--error-scale") == 0 && i + 1 < argc)
		{
			options.error_scale = atof(argv[++i]);
			is_known = true;
		}
		else if (strcmp(argv[i], "--epsilon") == 0 && i + 1 < argc)
		{
			options.epsilon = atof(argv[++i]);
			is_known = true;
		}
		else if (argv[i][0] != '-' && options.query_path == NULL)
		{
			*(options.base_path == NULL ? &options.base_path : &options.query_path) = argv[i];
			is_known = true;
		}
		for (size_t entry = 0; !is_known && entry < sizeof(table) / sizeof(table[0]); entry++)
		{
			if (strcmp(argv[i], table[entry].name) != 0 || i + 1 >= argc)
				continue;
			i++;
			if (table[entry].number != NULL)
				*table[entry].number = atol(argv[i]);
			else
				*table[entry].text = argv[i];
			is_known = true;
		}
		if (!is_known)
			fail(argv[i], "unknown option, or without its value");
	}
	if (options.query_path == NULL)
		fail("usage", "base.fvecs query.fvecs [--metric l2|ip|cosine] [--lists n] [--nprobe n] [--m n] [--nbits n] "
			 "[--epsilon x] [--max-rows n] [--max-queries n] [--rounds n] [--no-rotation] [--no-projection] "
			 "[--error-scale x] [--kernel name] [--check]");
	if (strcmp(options.metric, "l2") != 0 && strcmp(options.metric, "ip") != 0 && strcmp(options.metric, "cosine") != 0)
		fail(options.metric, "no such metric");

	/* An index has none for it: the bound would lose a twentieth of recall */
	if (strcmp(options.metric, "ip") == 0)
		options.is_projected = false;
	if (options.max_rows < 1 || options.max_queries < 1 || options.nprobe < 1 || options.lists < 0 || options.rounds < 0)
		fail("options", "a number is out of range");
	return options;
}

int
main(int argc, char **argv)
{
	Options		options = read_options(argc, argv);
	Vectors		base = read_fvecs(options.base_path, (size_t) options.max_rows);
	Vectors		queries = read_fvecs(options.query_path, (size_t) options.max_queries);
	Index		index;
	double		start = seconds();
	double		loss;

	if (base.nrows == 0 || base.dim != queries.dim)
		fail(options.query_path, "queries and rows have different dimensions");
	build(&index, &options, &base);
	loss = report(&index, &options, &queries, seconds() - start);
	close_index(&index);
	free(base.values);
	free(queries.values);
	return options.is_check && loss > ALLOWED_LOSS ? 1 : 0;
}
