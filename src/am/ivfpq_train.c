/*-------------------------------------------------------------------------
 *
 * ivfpq_train.c
 *	  Training of an index: the loops around the kernels, with interrupts and
 *	  progress.
 *
 * Everything is done in place on one sample of vectors, and one process does
 * it.  The same sample gives the same model.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_train.h"
#include "commands/progress.h"
#include "miscadmin.h"
#include "utils/backend_progress.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

/* Fewer lists than this are clustered at once, not by groups */
#define MIN_LISTS_FOR_GROUPS	64

#define GROUP_ITERATIONS		10	/* over the groups, and within each */
#define JOINT_ITERATIONS		2	/* over all lists */
#define ROWS_PER_GROUP			256 /* enough to place a group's centroid */

#define CODEBOOK_ITERATIONS		12
#define CODEBOOK_ROWS			256 /* per centroid of a sub-quantiser */

#define PROBE_QUERIES			400
#define PROBE_NEIGHBOURS		10
#define PROBE_COVERAGE			0.975	/* of near neighbours in the lists probed */

static void *
alloc_array(size_t count, size_t size)
{
	return MemoryContextAllocHuge(CurrentMemoryContext, mul_size(Max(count, 1), size));
}

static float *
row(const IvfpqSample *sample, size_t i)
{
	return sample->rows + i * sample->dim;
}

static void
swap_rows(IvfpqSample *sample, size_t i, size_t j)
{
	float	   *a = row(sample, i);
	float	   *b = row(sample, j);

	for (size_t d = 0; d < sample->dim; d++)
	{
		float		t = a[d];

		a[d] = b[d];
		b[d] = t;
	}
}

/* Direction of every row, and the mean of the directions or of the rows */
static void
compute_mean(IvfpqSample *sample, bool normalise, float *mean)
{
	double	   *sums = palloc0(sample->dim * sizeof(double));

	for (size_t i = 0; i < sample->nrows; i++)
	{
		const float *x = row(sample, i);
		double		length = 1.0;

		if (normalise)
		{
			length = 0.0;
			for (size_t d = 0; d < sample->dim; d++)
				length += (double) x[d] * x[d];
			length = sqrt(length);
		}
		for (size_t d = 0; d < sample->dim; d++)
			sums[d] += x[d] / length;
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	for (size_t d = 0; d < sample->dim; d++)
		mean[d] = (float) (sums[d] / sample->nrows);
	pfree(sums);
}

/* The power of two that brings the sample to unit size */
static float
unit_scale(const IvfpqSample *sample, const float *mean)
{
	double		sum = 0.0;
	int			exponent;

	for (size_t i = 0; i < sample->nrows; i++)
	{
		const float *x = row(sample, i);

		for (size_t d = 0; d < sample->dim; d++)
		{
			double		diff = (double) x[d] - mean[d];

			sum += diff * diff;
		}
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	sum = sqrt(sum / sample->nrows);
	if (!(sum > 0.0))
		return 1.0f;
	frexp(sum, &exponent);
	return ldexpf(1.0f, Max(-120, Min(120, -exponent)));
}

void
ivfpq_train_space(IvfpqSample *sample, VqCodec *codec, float *mean)
{
	size_t		kept = 0;

	memset(mean, 0, sample->dim * sizeof(float));
	codec->mean = mean;
	codec->scale = 1.0f;
	if (codec->metric != VQ_METRIC_IP)
		compute_mean(sample, codec->metric == VQ_METRIC_COSINE, mean);
	if (codec->metric != VQ_METRIC_COSINE)
		codec->scale = unit_scale(sample, mean);

	for (size_t i = 0; i < sample->nrows; i++)
	{
		if (vq_codec_transform(vq_kernels, codec, row(sample, i), row(sample, kept)) == VQ_OK)
			kept++;
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	sample->nrows = kept;
}

/*
 * Nearest centroid of each row, and where sums is given, the sums of the rows
 * by centroid.  Returns the sum of squared distances.
 */
static double
assign_rows(const float *rows, size_t nrows, size_t dim, const float *centroids, size_t ncentroids,
			uint32 *labels, VqKmeansSums *sums)
{
	const VqBlas *blas = ivfpq_blas();
	size_t		chunk = ivfpq_chunk_rows(ncentroids, dim);
	float	   *norms = alloc_array(ncentroids, sizeof(float));
	float	   *work = alloc_array(vq_kmeans_assign_floats(chunk, ncentroids), sizeof(float));
	float	   *distances = alloc_array(chunk, sizeof(float));
	double		error = 0.0;

	vq_kmeans_norms(vq_kernels, centroids, ncentroids, dim, norms);
	for (size_t first = 0; first < nrows; first += chunk)
	{
		size_t		count = Min(chunk, nrows - first);
		const float *x = rows + first * dim;

		vq_kmeans_assign(vq_kernels, blas, x, count, centroids, norms, ncentroids, dim,
						 work, labels + first, distances);
		if (sums)
			vq_kmeans_accumulate(sums, x, count, labels + first, distances);
		for (size_t i = 0; i < count; i++)
			error += distances[i];
		CHECK_FOR_INTERRUPTS();
	}
	pfree(norms);
	pfree(work);
	pfree(distances);
	return error;
}

/*
 * Lloyd iterations; stops early when they no longer pay.  Returns the sum of
 * squared distances before the last update.
 */
static double
iterate_kmeans(const float *rows, size_t nrows, size_t dim, float *centroids, size_t ncentroids,
			   uint32 *labels, int iterations, VqRng *rng)
{
	VqKmeansSums sums = {.ncentroids = ncentroids, .dim = dim};
	double		previous = INFINITY;
	bool		is_settled = false;

	sums.sums = alloc_array(ncentroids, dim * sizeof(double));
	sums.counts = alloc_array(ncentroids, sizeof(uint64_t));
	for (int i = 0; i < iterations && !is_settled; i++)
	{
		double		error;
		size_t		nreseeded;

		vq_kmeans_clear(&sums);
		error = assign_rows(rows, nrows, dim, centroids, ncentroids, labels, &sums);
		nreseeded = vq_kmeans_update(&sums, rng, centroids);
		is_settled = nreseeded == 0 && error > previous * 0.998;
		previous = error;
	}
	pfree(sums.sums);
	pfree(sums.counts);
	return previous;
}

/* k-means from random rows; rows are in random order already.  Returns the error. */
static double
cluster_rows(const float *rows, size_t nrows, size_t dim, float *centroids, size_t ncentroids,
			 uint32 *labels, int iterations, VqRng *rng)
{
	if (nrows == 0)
	{
		memset(centroids, 0, ncentroids * dim * sizeof(float));
		return 0.0;
	}
	for (size_t j = 0; j < ncentroids; j++)
		memcpy(centroids + j * dim, rows + (j % nrows) * dim, dim * sizeof(float));
	return iterate_kmeans(rows, nrows, dim, centroids, ncentroids, labels, iterations, rng);
}

static void
shuffle_rows(IvfpqSample *sample, VqRng *rng)
{
	for (size_t i = sample->nrows; i > 1; i--)
		swap_rows(sample, i - 1, vq_rng_below(rng, i));
}

/* Bring rows of the same label together, in order of labels; starts[j] is where those of j begin */
static void
sort_rows_by_label(IvfpqSample *sample, size_t nlabels, size_t *starts)
{
	size_t	   *next = alloc_array(nlabels, sizeof(size_t));

	memset(starts, 0, (nlabels + 1) * sizeof(size_t));
	for (size_t i = 0; i < sample->nrows; i++)
		starts[sample->labels[i] + 1]++;
	for (size_t j = 0; j < nlabels; j++)
	{
		starts[j + 1] += starts[j];
		next[j] = starts[j];
	}
	for (size_t j = 0; j < nlabels; j++)
		while (next[j] < starts[j + 1])
		{
			uint32		label = sample->labels[next[j]];

			if (label == j)
				next[j]++;
			else
			{
				size_t		place = next[label]++;

				swap_rows(sample, next[j], place);
				sample->labels[next[j]] = sample->labels[place];
				sample->labels[place] = label;
			}
		}
	pfree(next);
}

/* Deal nlists out to groups in proportion to their rows, at least one to a group that has any */
static void
allot_lists(const size_t *starts, size_t ngroups, uint32 nlists, uint32 *allotted)
{
	size_t		nrows = starts[ngroups];
	uint32		total = 0;

	for (size_t g = 0; g < ngroups; g++)
	{
		size_t		size = starts[g + 1] - starts[g];

		allotted[g] = size == 0 ? 0 : Max(1, (uint32) ((double) nlists * size / nrows));
		total += allotted[g];
	}
	while (total != nlists)
	{
		size_t		chosen = 0;
		double		most = -1.0;

		/* to the group with most rows per list, or from the one with fewest that can spare one */
		for (size_t g = 0; g < ngroups; g++)
		{
			double		size = starts[g + 1] - starts[g];
			double		merit = total < nlists ? size / (allotted[g] + 1) :
				allotted[g] > 1 ? (double) allotted[g] / size : -1.0;

			if (merit > most)
			{
				most = merit;
				chosen = g;
			}
		}
		if (total < nlists)
		{
			allotted[chosen]++;
			total++;
		}
		else
		{
			allotted[chosen]--;
			total--;
		}
	}
}

void
ivfpq_train_centroids(IvfpqSample *sample, float *centroids, uint32 nlists)
{
	size_t		dim = sample->dim;
	double		error;
	VqRng		rng;

	vq_rng_seed(&rng, IVFPQ_SEED);
	shuffle_rows(sample, &rng);
	if (nlists < MIN_LISTS_FOR_GROUPS)
		error = cluster_rows(sample->rows, sample->nrows, dim, centroids, nlists, sample->labels,
							 2 * GROUP_ITERATIONS, &rng);
	else
	{
		size_t		ngroups = (size_t) rint(sqrt(nlists));
		float	   *group_centroids = alloc_array(ngroups, dim * sizeof(float));
		size_t	   *starts = alloc_array(ngroups + 1, sizeof(size_t));
		uint32	   *allotted = alloc_array(ngroups, sizeof(uint32));
		float	   *next = centroids;

		cluster_rows(sample->rows, Min(sample->nrows, ngroups * ROWS_PER_GROUP), dim,
					 group_centroids, ngroups, sample->labels, GROUP_ITERATIONS, &rng);
		assign_rows(sample->rows, sample->nrows, dim, group_centroids, ngroups, sample->labels, NULL);
		sort_rows_by_label(sample, ngroups, starts);
		allot_lists(starts, ngroups, nlists, allotted);
		pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_TOTAL, sample->nrows);
		for (size_t g = 0; g < ngroups; g++)
		{
			cluster_rows(row(sample, starts[g]), starts[g + 1] - starts[g], dim, next, allotted[g],
						 sample->labels, GROUP_ITERATIONS, &rng);
			next += (size_t) allotted[g] * dim;
			pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, starts[g + 1]);
		}
		pfree(group_centroids);
		pfree(starts);
		pfree(allotted);
		error = iterate_kmeans(sample->rows, sample->nrows, dim, centroids, nlists, sample->labels,
							   JOINT_ITERATIONS, &rng);
	}
	sample->error = error / Max(sample->nrows, 1);
}

void
ivfpq_train_assign(IvfpqSample *sample, const float *centroids, uint32 nlists)
{
	assign_rows(sample->rows, sample->nrows, sample->dim, centroids, nlists, sample->labels, NULL);
}

/* A near neighbour of a query */
typedef struct Neighbour
{
	float		value;
	uint32		row;
} Neighbour;

/* Keep the nearest in order */
static void
add_neighbour(Neighbour *neighbours, int *count, float value, uint32 row)
{
	int			i;

	if (*count == PROBE_NEIGHBOURS)
	{
		if (value >= neighbours[PROBE_NEIGHBOURS - 1].value)
			return;
	}
	else
		(*count)++;
	for (i = *count - 1; i > 0 && neighbours[i - 1].value > value; i--)
		neighbours[i] = neighbours[i - 1];
	neighbours[i].value = value;
	neighbours[i].row = row;
}

static int
compare_uint32(const void *a, const void *b)
{
	uint32		x = *(const uint32 *) a;
	uint32		y = *(const uint32 *) b;

	return (x > y) - (x < y);
}

/*
 * Rows of the sample stand for queries.  For each near neighbour of one, count
 * the lists that would be probed before the neighbour's own; nprobe covers
 * PROBE_COVERAGE of them.  The sample is thinner than the table, so its
 * neighbours are farther away and the count errs on the safe side.
 */
uint32
ivfpq_train_nprobe(const IvfpqSample *sample, VqMetric metric, const float *centroids, uint32 nlists)
{
	const VqBlas *blas = ivfpq_blas();
	size_t		dim = sample->dim;
	size_t		nqueries = Min(PROBE_QUERIES, sample->nrows);
	size_t		chunk = ivfpq_chunk_rows(nqueries, dim);
	float	   *queries = alloc_array(nqueries, dim * sizeof(float));
	uint32	   *query_rows = alloc_array(nqueries, sizeof(uint32));
	Neighbour  *neighbours = alloc_array(nqueries, PROBE_NEIGHBOURS * sizeof(Neighbour));
	int		   *counts = palloc0(Max(nqueries, 1) * sizeof(int));
	float	   *products = alloc_array(Max(chunk * nqueries, nlists), sizeof(float));
	uint32	   *ranks = alloc_array(nqueries, PROBE_NEIGHBOURS * sizeof(uint32));
	size_t		nranks = 0;
	uint32		nprobe = 1;

	for (size_t q = 0; q < nqueries; q++)
	{
		query_rows[q] = q * sample->nrows / nqueries;
		memcpy(queries + q * dim, row(sample, query_rows[q]), dim * sizeof(float));
	}

	/* exact neighbours within the sample */
	for (size_t first = 0; first < sample->nrows; first += chunk)
	{
		size_t		count = Min(chunk, sample->nrows - first);

		blas->products(count, nqueries, dim, row(sample, first), queries, products);
		for (size_t i = 0; i < count; i++)
		{
			float		norm_sq = metric == VQ_METRIC_IP ? 0.0f :
				vq_kernels->ip_f32(row(sample, first + i), row(sample, first + i), dim);

			for (size_t q = 0; q < nqueries; q++)
				if (query_rows[q] != first + i)
					add_neighbour(neighbours + q * PROBE_NEIGHBOURS, &counts[q],
								  norm_sq - (metric == VQ_METRIC_IP ? 1 : 2) * products[i * nqueries + q],
								  first + i);
		}
		CHECK_FOR_INTERRUPTS();
	}

	/* and how many lists are nearer than theirs */
	for (size_t q = 0; q < nqueries; q++)
	{
		float	   *values = products;

		for (uint32 j = 0; j < nlists; j++)
			values[j] = metric == VQ_METRIC_IP ?
				-vq_kernels->ip_f32(queries + q * dim, centroids + j * dim, dim) :
				vq_kernels->l2sq_f32(queries + q * dim, centroids + j * dim, dim);
		for (int n = 0; n < counts[q]; n++)
		{
			float		own = values[sample->labels[neighbours[q * PROBE_NEIGHBOURS + n].row]];
			uint32		rank = 0;

			for (uint32 j = 0; j < nlists; j++)
				rank += values[j] < own;
			ranks[nranks++] = rank;
		}
		CHECK_FOR_INTERRUPTS();
	}
	if (nranks > 0)
	{
		qsort(ranks, nranks, sizeof(uint32), compare_uint32);
		nprobe = ranks[Min(nranks - 1, (size_t) (nranks * PROBE_COVERAGE))] + 1;
	}
	pfree(queries);
	pfree(query_rows);
	pfree(neighbours);
	pfree(counts);
	pfree(products);
	pfree(ranks);
	return Min(nprobe, nlists);
}

void
ivfpq_train_codebook(IvfpqSample *sample, const VqPq *pq, const float *centroids, float *codebook)
{
	size_t		dim = sample->dim;
	size_t		padded = (size_t) pq->m * pq->dsub;
	size_t		nrows = Min(sample->nrows * dim / padded, (size_t) pq->ksub * CODEBOOK_ROWS);
	void	   *work;

	/*
	 * Padded residuals of every so-many-th row, moved to the front.  A row is
	 * never written over one that is still to be read: row i goes to i *
	 * padded, and comes from no less.
	 */
	for (size_t i = 0; i < nrows; i++)
	{
		size_t		from = (i * sample->nrows + nrows - 1) / nrows;
		const float *x = row(sample, from);
		const float *centroid = centroids + (size_t) sample->labels[from] * dim;
		float	   *residual = sample->rows + i * padded;

		for (size_t d = 0; d < dim; d++)
			residual[d] = x[d] - centroid[d];
		memset(residual + dim, 0, (padded - dim) * sizeof(float));
	}

	work = alloc_array(vq_pq_train_bytes(pq, nrows), 1);
	pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_TOTAL, pq->m);
	for (size_t j = 0; j < pq->m; j++)
	{
		vq_pq_train_sub(vq_kernels, pq, j, sample->rows, nrows, CODEBOOK_ITERATIONS,
						IVFPQ_SEED + j, work, codebook);
		pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, j + 1);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(work);
}

char *
ivfpq_train_coarse(const VqCodec *codec, const VqBlockShape *shape,
				   const float *centroids, uint32 nlists, float *codebook)
{
	const VqPq *pq = &codec->pq;
	size_t		padded = (size_t) pq->m * pq->dsub;
	size_t		block_bytes = vq_block_bytes(shape, VQ_BLOCK_LANES);
	uint32		nblocks = (nlists + VQ_BLOCK_LANES - 1) / VQ_BLOCK_LANES;
	char	   *blocks = alloc_array(nblocks, block_bytes);
	float	   *rows = alloc_array(nlists, padded * sizeof(float));
	float	   *origin = palloc0(pq->dim * sizeof(float));
	float	   *encode_work = alloc_array(vq_codec_encode_floats(codec), sizeof(float));
	uint8	   *codes = palloc(pq->m);
	void	   *work;

	for (uint32 i = 0; i < nlists; i++)
	{
		memcpy(rows + i * padded, centroids + (size_t) i * pq->dim, pq->dim * sizeof(float));
		memset(rows + i * padded + pq->dim, 0, (padded - pq->dim) * sizeof(float));
	}
	work = alloc_array(vq_pq_train_bytes(pq, nlists), 1);
	for (uint32 j = 0; j < pq->m; j++)
	{
		vq_pq_train_sub(vq_kernels, pq, j, rows, nlists, CODEBOOK_ITERATIONS, IVFPQ_SEED + j, work, codebook);
		CHECK_FOR_INTERRUPTS();
	}

	for (uint32 i = 0; i < nlists; i++)
	{
		char	   *block = blocks + i / VQ_BLOCK_LANES * block_bytes;
		ItemPointerData tid;
		VqFactors	factors;

		if (i % VQ_BLOCK_LANES == 0)
			vq_block_init(block, shape, 0, VQ_BLOCK_LANES);
		ItemPointerSet(&tid, i, FirstOffsetNumber);
		vq_codec_encode(vq_kernels, codec, centroids + (size_t) i * pq->dim, origin, encode_work, codes, &factors);
		vq_block_put(block, shape, i % VQ_BLOCK_LANES, (const uint8 *) &tid, &factors, codes);
	}
	pfree(rows);
	pfree(origin);
	pfree(encode_work);
	pfree(codes);
	pfree(work);
	return blocks;
}
