/*-------------------------------------------------------------------------
 *
 * ivfpq_train.c
 *	  Training of an index, but for its lists (ivfpq_cluster.c): model space and
 *	  codebooks.  The loops around the kernels, with interrupts,
 *	  progress and the exchange between the members of the team.
 *
 * Each member works in place on its own share of the sample.  The same shares
 * give the same model.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_gpu.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#include "base/vq_guc.h"

#define CODEBOOK_ITERATIONS		12
#define CODEBOOK_ROWS			256 /* per centroid of a sub-quantiser */
#define CODEBOOK_MIN_ROWS		8	/* and this many, whatever time it takes */
#define CODEBOOK_PRODUCTS		1e10	/* for one sub-quantiser, all iterations */
#define CODEBOOK_MEMORY_PART	8	/* of maintenance_work_mem, for residuals beside the sample */

/* A row is far if it is so many times as far from the mean as rows are on average; looked for so many times */
#define FAR_ROW					8
#define FAR_ROUNDS				8

/* Values side by side in a loop, so that compilers take several with an instruction */
#define LANES					8

#define MIN_COPIES				8	/* of a row are kept: so many rows hardly ever share a counter */

#define CODED_VALUES			1e7	/* distances to values of codes, between two looks for interrupts */

/* Rows of the sample, and which of them are not far from all others */
typedef struct Centring
{
	IvfpqTeam  *team;
	const IvfpqSample *sample;
	bool		normalise;		/* rows are taken for their directions */
	double	   *distances;		/* [nrows], from the mean; infinity once a row was found far */
	uint64		nnear;			/* of the team, that are not */
} Centring;

/* |x - origin|^2 of float[dim], in double: a float has no room for the squares of large values */
static double
distance_sq_of(const float *x, const float *origin, size_t dim)
{
	double		sums[LANES] = {0};
	size_t		d = 0;

	for (; d + LANES <= dim; d += LANES)
		for (size_t lane = 0; lane < LANES; lane++)
		{
			double		diff = (double) x[d + lane] - origin[d + lane];

			sums[lane] += diff * diff;
		}
	for (; d < dim; d++)
		sums[0] += ((double) x[d] - origin[d]) * ((double) x[d] - origin[d]);
	for (size_t lane = 1; lane < LANES; lane++)
		sums[0] += sums[lane];
	return sums[0];
}

/* Mean of the near rows */
static void
compute_mean(const Centring *centring, float *mean)
{
	const IvfpqSample *sample = centring->sample;
	double	   *sums = palloc0(sample->dim * sizeof(double));
	float	   *zero = palloc0(sample->dim * sizeof(float));

	for (size_t i = 0; i < sample->nrows; i++)
	{
		const float *x = ivfpq_sample_row(sample, i);

		if (isinf(centring->distances[i]))
			continue;
		vq_kernels->add_f64(sums, x, centring->normalise ? 1.0 / sqrt(distance_sq_of(x, zero, sample->dim)) : 1.0, sample->dim);
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	ivfpq_team_sum_f64(centring->team, sums, sample->dim);
	for (size_t d = 0; d < sample->dim; d++)
		mean[d] = (float) (sums[d] / Max(centring->nnear, 1));
	pfree(sums);
	pfree(zero);
}

/* Distances of the near rows from the mean; and their sum, and that of their squares */
static void
compute_distances(const Centring *centring, const float *mean, double sums[2])
{
	const IvfpqSample *sample = centring->sample;

	sums[0] = sums[1] = 0.0;
	for (size_t i = 0; i < sample->nrows; i++)
	{
		const float *x = ivfpq_sample_row(sample, i);
		double		distance_sq;

		if (isinf(centring->distances[i]))
			continue;
		distance_sq = distance_sq_of(x, mean, sample->dim);
		centring->distances[i] = sqrt(distance_sq);
		sums[0] += centring->distances[i];
		sums[1] += distance_sq;
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	ivfpq_team_sum_f64(centring->team, sums, 2);
}

/* Leave out rows that are many times as far as rows are on average; false if there are none */
static bool
leave_out_far(Centring *centring, double distance_sum)
{
	double		limit = FAR_ROW * distance_sum / Max(centring->nnear, 1);
	uint64		nfar = 0;

	for (size_t i = 0; i < centring->sample->nrows; i++)
	{
		if (isinf(centring->distances[i]) || centring->distances[i] <= limit)
			continue;
		centring->distances[i] = INFINITY;
		nfar++;
	}
	ivfpq_team_sum_u64(centring->team, &nfar, 1);
	centring->nnear -= nfar;
	return nfar > 0;
}

/* The power of two that brings rows of this mean squared length to unit size */
static float
unit_scale(double mean_sq)
{
	int			exponent;

	if (!(mean_sq > 0.0))
		return 1.0f;
	frexp(sqrt(mean_sq), &exponent);
	return ldexpf(1.0f, Max(-120, Min(120, -exponent)));
}

/*
 * The mean of the sample, zero for inner products, and the scale.  A few rows that are
 * far from all others (a vector of another model, a broken one) would move both
 * so far that the others became alike: they do not count.
 */
static void
centre(Centring *centring, VqCodec *codec, float *mean)
{
	double		sums[2];

	for (int round = 0; round < FAR_ROUNDS; round++)
	{
		if (codec->metric != VQ_METRIC_IP)
			compute_mean(centring, mean);
		if (codec->metric == VQ_METRIC_COSINE)
			break;
		compute_distances(centring, mean, sums);
		codec->scale = unit_scale(sums[1] / Max(centring->nnear, 1));
		if (!leave_out_far(centring, sums[0]))
			break;
	}
}

/* Of equal rows the same, and of others hardly ever: from a few values, and the squared length */
static uint32
print_of(const float *x, size_t dim, float square)
{
	float		values[] = {square, x[0], x[dim / 3], x[dim - 1]};

	return DatumGetUInt32(hash_any((const unsigned char *) values, sizeof(values)));
}

/*
 * Of equal rows as many are kept as a list has on average (at least MIN_COPIES by each member): all of them come to one list,
 * and more of them would have lists of their own that nothing comes to.  Rows are counted by their prints, which labels have, and those of a print that there are
 * too many of by all of their values.  A counter has one or two rows, and if it has too many of different ones, a row less
 * is no matter.
 */
static void
leave_out_copies(IvfpqTeam *team, IvfpqSample *sample, uint32 nlists)
{
	uint64		total = sample->nrows;
	size_t		row_bytes = sample->dim * sizeof(float);
	uint32		mask = pg_prevpower2_32(Max(sample->nrows, 1)) - 1;
	uint32	   *prints = palloc_extended((mask + 1) * sizeof(uint32), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	uint32	   *copies = palloc_extended((mask + 1) * sizeof(uint32), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	size_t		kept = 0;
	uint32		most;

	ivfpq_team_sum_u64(team, &total, 1);
	most = Max(MIN_COPIES, total / nlists / team->size);
	for (size_t i = 0; i < sample->nrows; i++)
		prints[sample->labels[i] & mask]++;
	for (size_t i = 0; i < sample->nrows; i++)
	{
		const float *x = ivfpq_sample_row(sample, i);

		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		if (prints[sample->labels[i] & mask] > most &&
			copies[DatumGetUInt32(hash_any((const unsigned char *) x, row_bytes)) & mask]++ >= most)
			continue;
		if (kept < i)
			memcpy(ivfpq_sample_row(sample, kept), x, row_bytes);
		kept++;
	}
	sample->nrows = kept;
	pfree(prints);
	pfree(copies);
}

void
ivfpq_train_space(IvfpqTeam *team, IvfpqSample *sample, uint32 nlists, VqCodec *codec, float *mean)
{
	Centring	centring = {
		.team = team, .sample = sample, .normalise = codec->metric == VQ_METRIC_COSINE,
		.distances = MemoryContextAllocExtended(CurrentMemoryContext, Max(sample->nrows, 1) * sizeof(double),
												MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO),
		.nnear = sample->total_rows
	};
	size_t		kept = 0;
	bool		keeps_far;

	sample->farthest_sq = 0.0f;
	memset(mean, 0, sample->dim * sizeof(float));
	codec->mean = mean;
	codec->scale = 1.0f;
	centre(&centring, codec, mean);

	/*
	 * Far rows fewer than a list has would take many: each of them is far from the others
	 * as well.  Of inner products they have the largest, so searches want them.
	 */
	keeps_far = codec->metric == VQ_METRIC_IP ||
		sample->total_rows - centring.nnear > sample->total_rows / nlists;

	for (size_t i = 0; i < sample->nrows; i++)
	{
		if ((keeps_far || !isinf(centring.distances[i])) &&
			vq_codec_transform(vq_kernels, codec, ivfpq_sample_row(sample, i), ivfpq_sample_row(sample, kept)) == VQ_OK)
		{
			const float *x = ivfpq_sample_row(sample, kept);
			float		square = vq_kernels->ip_f32(x, x, sample->dim);

			sample->labels[kept++] = print_of(x, sample->dim, square);
			sample->farthest_sq = Max(sample->farthest_sq, square);
		}
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	pfree(centring.distances);
	sample->nrows = kept;
	leave_out_copies(team, sample, nlists);
	sample->total_rows = sample->nrows;
	ivfpq_team_sum_u64(team, &sample->total_rows, 1);
}

/*----------
 * Codebooks
 *----------
 */

/* Train a codebook on the rows of the team, own ones being float[nrows][m * dsub] */
static void
train_codebook(IvfpqTeam *team, const VqPq *pq, const float *rows, size_t nrows, float *codebook)
{
	size_t		padded = (size_t) pq->m * pq->dsub;
	size_t		nsums = vq_pq_sums_doubles(pq);
	size_t		chunk = Max(1, CODED_VALUES / ((double) pq->ksub * padded));
	double	   *sums = ivfpq_alloc_array(nsums, sizeof(double));
	uint8	   *codes = palloc(pq->m);
	uint64	   *counts = ivfpq_alloc_array(team->size, sizeof(uint64));
	uint64		total = 0;
	uint64		before = 0;		/* rows of members in front of this one */
	double		last_error = INFINITY;
	size_t		nmoved = 0;
	VqRng		rng;

	ivfpq_team_gather(team, nrows, counts);
	for (int i = 0; i < team->size; i++)
	{
		if (i == team->number)
			before = total;
		total += counts[i];
	}
	ivfpq_team_progress_begin(team, (double) total * CODEBOOK_ITERATIONS);

	memset(codebook, 0, vq_pq_codebook_floats(pq) * sizeof(float));
	for (uint32 j = 0; j < pq->m && total > 0; j++)
	{
		for (uint32 k = 0; k < pq->ksub; k++)
		{
			size_t		from = vq_pq_first_row(pq, total, IVFPQ_SEED, j, k);

			if (from >= before && from - before < nrows)
				vq_pq_set_centroid(pq, j, k, rows + (from - before) * padded, codebook);
		}
		CHECK_FOR_INTERRUPTS();
	}
	ivfpq_team_sum_f32(team, codebook, vq_pq_codebook_floats(pq));

	vq_rng_seed(&rng, IVFPQ_SEED);
	for (int iteration = 0; iteration < CODEBOOK_ITERATIONS && total > 0; iteration++)
	{
		double		error;

		memset(sums, 0, nsums * sizeof(double));
		for (size_t first = 0; first < nrows; first += chunk)
		{
			size_t		count = Min(chunk, nrows - first);

			vq_pq_accumulate(vq_kernels, pq, codebook, rows + first * padded, count, codes, sums);
			ivfpq_team_progress(team, count);
			CHECK_FOR_INTERRUPTS();
		}
		ivfpq_team_sum_f64(team, sums, nsums);
		error = vq_pq_error(pq, sums);
		if (nmoved == 0 && error >= last_error * (1 - VQ_PQ_TRAIN_GAIN))
			break;
		last_error = error;
		nmoved = vq_pq_update(pq, &rng, sums, codebook);
	}
	pfree(sums);
	pfree(codes);
	pfree(counts);
}

/* What the leader does on a GPU, whose plug-in makes residuals of its own */
static bool
leader_trains_codebook(IvfpqTeam *team, IvfpqGpu *gpu, const VqCodec *codec, const IvfpqLists *lists,
					   double wanted, float *codebook)
{
	const VqPq *pq = &codec->pq;
	double		row_bytes = (double) pq->m * pq->dsub * sizeof(float);
	double		limit = (double) maintenance_work_mem * 1024 / CODEBOOK_MEMORY_PART / row_bytes;
	size_t		nrows;

	if (!ivfpq_gpu_is_open(gpu))
		return false;
	nrows = (size_t) Min(ivfpq_gpu_sample_rows(gpu), Min(wanted, Max(limit, pq->ksub * CODEBOOK_MIN_ROWS)));
	ivfpq_team_progress_begin(team, (double) nrows * CODEBOOK_ITERATIONS);
	if (!ivfpq_gpu_train_codebook(gpu, codec, lists, nrows, CODEBOOK_ITERATIONS, codebook))
		return false;
	ivfpq_team_progress(team, (int64) nrows * CODEBOOK_ITERATIONS / team->size);
	return true;
}

/* False without a GPU, or if it has failed */
static bool
train_codebook_on_gpu(IvfpqTeam *team, IvfpqGpu *gpu, const VqCodec *codec, const IvfpqLists *lists,
					  double wanted, float *codebook)
{
	size_t		nfloats = vq_pq_codebook_floats(&codec->pq);
	bool		is_done = ivfpq_team_is_leader(team) &&
		leader_trains_codebook(team, gpu, codec, lists, wanted, codebook);

	if (!ivfpq_team_ask_leader(team, is_done))
		return false;
	if (!ivfpq_team_is_leader(team))
		memset(codebook, 0, nfloats * sizeof(float));
	ivfpq_team_sum_f32(team, codebook, nfloats);
	return true;
}

void
ivfpq_train_codebook(IvfpqTeam *team, IvfpqGpu *gpu, IvfpqSample *sample, const VqCodec *codec,
					 const IvfpqLists *lists, float *codebook)
{
	const VqPq *pq = &codec->pq;
	size_t		dim = sample->dim;
	size_t		padded = (size_t) pq->m * pq->dsub;
	double		bounded = CODEBOOK_PRODUCTS / ((double) pq->ksub * pq->dsub * CODEBOOK_ITERATIONS);
	double		wanted = Max(pq->ksub * CODEBOOK_MIN_ROWS, Min(pq->ksub * CODEBOOK_ROWS, bounded));
	size_t		nrows = (size_t) Min(sample->nrows * Min(1.0, (double) dim / padded),
									 ceil(wanted * sample->nrows / Max(sample->total_rows, 1)));
	uint32	   *row_nos;
	uint32	   *labels;
	float	   *residual;
	float	   *residual_code;

	if (train_codebook_on_gpu(team, gpu, codec, lists, wanted, codebook))
		return;

	/* every so-many-th row */
	row_nos = ivfpq_alloc_array(nrows, sizeof(uint32));
	labels = ivfpq_alloc_array(nrows, sizeof(uint32));
	for (size_t i = 0; i < nrows; i++)
		row_nos[i] = (i * sample->nrows + nrows - 1) / nrows;
	ivfpq_label(lists, sample->rows, row_nos, nrows, labels);
	residual = palloc(dim * sizeof(float));
	residual_code = palloc(vq_codec_code_floats(codec) * sizeof(float));

	/*
	 * The directions of their residuals, in code space, padded, moved to the front.  A row is never
	 * written over one that is still to be read: row i goes to i * padded, and comes
	 * from no less.
	 */
	for (size_t i = 0; i < nrows; i++)
	{
		const float *x = ivfpq_sample_row(sample, row_nos[i]);
		const float *centroid = lists->centroids + (size_t) labels[i] * dim;

		for (size_t d = 0; d < dim; d++)
			residual[d] = x[d] - centroid[d];
		vq_codec_direction(vq_kernels, residual, dim);
		vq_codec_to_codes(vq_kernels, codec, residual, residual_code);
		memcpy(sample->rows + i * padded, residual_code, padded * sizeof(float));
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	pfree(row_nos);
	pfree(labels);
	pfree(residual);
	pfree(residual_code);
	train_codebook(team, pq, sample->rows, nrows, codebook);
}

void
ivfpq_train_centres(IvfpqLists *lists)
{
	lists->centroids = repalloc_huge(lists->centroids, mul_size((size_t) lists->nlists + lists->ngroups,
																lists->dim * sizeof(float)));
	lists->centres = lists->centroids + lists->nlists * lists->dim;
	ivfpq_group_centres(lists->centroids, lists->dim, lists->starts, lists->ngroups, lists->centres);
}

void
ivfpq_train_coarse(IvfpqTeam *team, const VqPq *pq, const IvfpqLists *lists, float *codebook)
{
	size_t		dim = pq->dim;
	size_t		padded = (size_t) pq->m * pq->dsub;
	size_t		nrows = 0;
	float	   *rows = MemoryContextAllocExtended(CurrentMemoryContext,
												  mul_size(lists->nlists / team->size + 1, padded * sizeof(float)),
												  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

	for (uint32 g = 0; g < lists->ngroups; g++)
		for (uint32 i = lists->starts[g]; i < lists->starts[g + 1]; i++)
		{
			if (i % team->size != team->number)
				continue;
			for (size_t d = 0; d < dim; d++)
				rows[nrows * padded + d] = lists->centroids[i * dim + d] - lists->centres[g * dim + d];
			vq_codec_direction(vq_kernels, rows + nrows * padded, dim);
			nrows++;
		}
	train_codebook(team, pq, rows, nrows, codebook);
	pfree(rows);
}

/*
 * Where the code of a centroid says nothing, it is expected to be in no particular
 * direction, instead of the nearest one: bounds of those far from all others would
 * come before all others, and keep these from being compared.
 */
static void
expect_no_direction(const VqCodec *codec, const float *centroid, const float *centre, VqFactors *factors)
{
	float		a;

	if (factors->s != 0)
		return;
	if (codec->metric == VQ_METRIC_IP)
		a = vq_kernels->ip_f32(centre, centre, codec->dim) - vq_kernels->ip_f32(centre, centroid, codec->dim);
	else
		a = vq_kernels->l2sq_f32(centre, centroid, codec->dim);
	if (isfinite(a))
		*factors = (VqFactors) {.a = a};
}

/* Codes of the centroids of a group, to blocks; returns how many blocks */
static uint32
encode_group(const VqCodec *codec, const VqBlockShape *shape, const IvfpqLists *lists, uint32 group,
			 float *work, uint8 *codes, char *blocks)
{
	size_t		dim = lists->dim;
	size_t		block_bytes = vq_block_bytes(shape, VQ_BLOCK_LANES);
	uint32		first = lists->starts[group];
	uint32		nlists = lists->starts[group + 1] - first;

	for (uint32 i = 0; i < nlists; i++)
	{
		char	   *block = blocks + i / VQ_BLOCK_LANES * block_bytes;
		ItemPointerData tid;
		VqFactors	factors;

		if (i % VQ_BLOCK_LANES == 0)
			vq_block_init(block, shape, 0, VQ_BLOCK_LANES);
		ItemPointerSet(&tid, first + i, FirstOffsetNumber);
		vq_codec_encode(vq_kernels, codec, lists->centroids + (first + i) * dim, lists->centres + group * dim,
						lists->centroids + (first + i) * dim, lists->centres + group * dim,
						work, codes, &factors);
		expect_no_direction(codec, lists->centroids + (first + i) * dim, lists->centres + group * dim, &factors);
		vq_block_put(block, shape, i % VQ_BLOCK_LANES, (const uint8 *) &tid, &factors, codes);
	}
	return (nlists + VQ_BLOCK_LANES - 1) / VQ_BLOCK_LANES;
}

char *
ivfpq_train_coarse_codes(const VqCodec *codec, const VqBlockShape *shape, const IvfpqLists *lists,
						 uint32 *nblocks)
{
	size_t		block_bytes = vq_block_bytes(shape, VQ_BLOCK_LANES);
	char	   *blocks = ivfpq_alloc_array(lists->nlists / VQ_BLOCK_LANES + lists->ngroups, block_bytes);
	float	   *work = ivfpq_alloc_array(vq_codec_encode_floats(codec), sizeof(float));
	uint8	   *codes = palloc(codec->pq.m);

	*nblocks = 0;
	for (uint32 g = 0; g < lists->ngroups; g++)
	{
		*nblocks += encode_group(codec, shape, lists, g, work, codes, blocks + *nblocks * block_bytes);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(work);
	pfree(codes);
	return blocks;
}
