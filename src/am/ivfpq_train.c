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

#define SETTLED					0.998	/* error, relative to the iteration before */
#define LABELLED_ROWS			16384	/* at a time */

#define CODEBOOK_ITERATIONS		12
#define CODEBOOK_ROWS			256 /* per centroid of a sub-quantiser */
#define CODEBOOK_MIN_ROWS		8	/* and this many, whatever time it takes */
#define CODEBOOK_PRODUCTS		1e10	/* for one sub-quantiser, all iterations: a second or two */

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
 * Label rows, and add them to the sums of their labels where sums is given.
 * Returns the sum of squared distances.
 */
static double
label_rows(IvfpqAssigner *assigner, const float *rows, size_t nrows, size_t dim,
		   uint32 *labels, VqKmeansSums *sums)
{
	float	   *distances = palloc(LABELLED_ROWS * sizeof(float));
	double		error = 0.0;

	for (size_t first = 0; first < nrows; first += LABELLED_ROWS)
	{
		size_t		count = Min(LABELLED_ROWS, nrows - first);
		const float *x = rows + first * dim;

		ivfpq_assign(assigner, x, count, labels + first, distances);
		if (sums)
			vq_kmeans_accumulate(sums, x, count, labels + first, NULL);
		for (size_t i = 0; i < count; i++)
			error += distances[i];
		CHECK_FOR_INTERRUPTS();
	}
	pfree(distances);
	return error;
}

/*
 * Centroids := means.  A list without rows is put beside a crowded one of its
 * own group, so that groups stay together.  Returns how many there were.
 */
static size_t
update_centroids(const VqKmeansSums *sums, IvfpqLists *lists, VqRng *rng)
{
	uint32		whole[2] = {0, lists->nlists};
	const uint32 *starts = lists->ngroups > 0 ? lists->starts : whole;
	size_t		nreseeded = 0;

	for (uint32 g = 0; g < Max(lists->ngroups, 1); g++)
	{
		VqKmeansSums part = {.ncentroids = starts[g + 1] - starts[g], .dim = lists->dim};

		if (part.ncentroids == 0)
			continue;
		part.sums = sums->sums + starts[g] * lists->dim;
		part.counts = sums->counts + starts[g];
		nreseeded += vq_kmeans_update(&part, rng, lists->centroids + starts[g] * lists->dim);
	}
	return nreseeded;
}

/*
 * Lloyd iterations; stops early when they no longer pay.  Returns the sum of
 * squared distances before the last update.
 */
static double
iterate_kmeans(const float *rows, size_t nrows, IvfpqLists *lists, uint32 *labels,
			   int iterations, VqRng *rng)
{
	VqKmeansSums sums = {.ncentroids = lists->nlists, .dim = lists->dim};
	IvfpqAssigner *assigner = ivfpq_assigner_create(lists);
	double		previous = INFINITY;
	bool		is_settled = false;

	sums.sums = alloc_array(lists->nlists, lists->dim * sizeof(double));
	sums.counts = alloc_array(lists->nlists, sizeof(uint64_t));
	for (int i = 0; i < iterations && !is_settled; i++)
	{
		double		error;
		size_t		nreseeded;

		vq_kmeans_clear(&sums);
		error = label_rows(assigner, rows, nrows, lists->dim, labels, &sums);
		nreseeded = update_centroids(&sums, lists, rng);
		ivfpq_assigner_refresh(assigner);
		is_settled = nreseeded == 0 && error > previous * SETTLED;
		previous = error;
	}
	ivfpq_assigner_free(assigner);
	pfree(sums.sums);
	pfree(sums.counts);
	return previous;
}

/* k-means from random rows; rows are in random order already.  Returns the error. */
static double
cluster_rows(const float *rows, size_t nrows, IvfpqLists *lists, uint32 *labels,
			 int iterations, VqRng *rng)
{
	size_t		dim = lists->dim;

	if (nrows == 0)
	{
		memset(lists->centroids, 0, lists->nlists * dim * sizeof(float));
		return 0.0;
	}
	for (size_t j = 0; j < lists->nlists; j++)
		memcpy(lists->centroids + j * dim, rows + (j % nrows) * dim, dim * sizeof(float));
	return iterate_kmeans(rows, nrows, lists, labels, iterations, rng);
}

static void
shuffle_rows(IvfpqSample *sample, VqRng *rng)
{
	for (size_t i = sample->nrows; i > 1; i--)
	{
		swap_rows(sample, i - 1, vq_rng_below(rng, i));
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
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
	{
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
		CHECK_FOR_INTERRUPTS();
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
ivfpq_train_lists(IvfpqSample *sample, IvfpqLists *lists)
{
	size_t		dim = sample->dim;
	double		error;
	VqRng		rng;

	vq_rng_seed(&rng, IVFPQ_SEED);
	shuffle_rows(sample, &rng);
	lists->ngroups = 0;
	if (lists->nlists < MIN_LISTS_FOR_GROUPS)
		error = cluster_rows(sample->rows, sample->nrows, lists, sample->labels,
							 2 * GROUP_ITERATIONS, &rng);
	else
	{
		IvfpqLists	groups = {.dim = dim, .nlists = (uint32) rint(sqrt(lists->nlists))};
		size_t	   *rows_start = alloc_array(groups.nlists + 1, sizeof(size_t));
		uint32	   *allotted = alloc_array(groups.nlists, sizeof(uint32));
		uint32	   *starts = alloc_array(groups.nlists + 1, sizeof(uint32));
		IvfpqAssigner *assigner;

		groups.centroids = alloc_array(groups.nlists, dim * sizeof(float));
		cluster_rows(sample->rows, Min(sample->nrows, groups.nlists * ROWS_PER_GROUP), &groups,
					 sample->labels, GROUP_ITERATIONS, &rng);
		assigner = ivfpq_assigner_create(&groups);
		label_rows(assigner, sample->rows, sample->nrows, dim, sample->labels, NULL);
		ivfpq_assigner_free(assigner);
		sort_rows_by_label(sample, groups.nlists, rows_start);
		allot_lists(rows_start, groups.nlists, lists->nlists, allotted);

		pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_TOTAL, sample->nrows);
		starts[0] = 0;
		for (size_t g = 0; g < groups.nlists; g++)
		{
			IvfpqLists	part = {.dim = dim, .nlists = allotted[g]};

			part.centroids = lists->centroids + starts[g] * dim;
			cluster_rows(row(sample, rows_start[g]), rows_start[g + 1] - rows_start[g], &part,
						 sample->labels, GROUP_ITERATIONS, &rng);
			starts[g + 1] = starts[g] + allotted[g];
			pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, rows_start[g + 1]);
		}
		lists->ngroups = groups.nlists;
		lists->starts = starts;
		pfree(groups.centroids);
		pfree(rows_start);
		pfree(allotted);
		error = iterate_kmeans(sample->rows, sample->nrows, lists, sample->labels,
							   JOINT_ITERATIONS, &rng);
	}
	sample->error = error / Max(sample->nrows, 1);
}

void
ivfpq_train_assign(IvfpqSample *sample, const IvfpqLists *lists)
{
	IvfpqAssigner *assigner = ivfpq_assigner_create(lists);

	label_rows(assigner, sample->rows, sample->nrows, sample->dim, sample->labels, NULL);
	ivfpq_assigner_free(assigner);
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
ivfpq_train_nprobe(const IvfpqSample *sample, VqMetric metric, const IvfpqLists *lists)
{
	const VqBlas *blas = ivfpq_blas();
	const float *centroids = lists->centroids;
	uint32		nlists = lists->nlists;
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
ivfpq_train_codebook(IvfpqSample *sample, const VqPq *pq, const IvfpqLists *lists, float *codebook)
{
	size_t		dim = sample->dim;
	size_t		padded = (size_t) pq->m * pq->dsub;
	double		bounded = CODEBOOK_PRODUCTS / ((double) pq->ksub * pq->dsub * CODEBOOK_ITERATIONS);
	size_t		wanted = Max(pq->ksub * CODEBOOK_MIN_ROWS, Min(pq->ksub * CODEBOOK_ROWS, bounded));
	size_t		nrows = Min(sample->nrows * dim / padded, wanted);
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
		const float *centroid = lists->centroids + (size_t) sample->labels[from] * dim;
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
				   const IvfpqLists *lists, float *codebook)
{
	const float *centroids = lists->centroids;
	uint32		nlists = lists->nlists;
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
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	pfree(rows);
	pfree(origin);
	pfree(encode_work);
	pfree(codes);
	pfree(work);
	return blocks;
}
