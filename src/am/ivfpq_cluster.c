/*-------------------------------------------------------------------------
 *
 * ivfpq_cluster.c
 *	  The lists of an index: k-means over the sample, by groups.
 *
 * Lloyd iterations over thousands of lists cost too much.  So the sample is
 * divided into about sqrt(nlists) groups first, lists are allotted to groups in
 * proportion to their rows, and all groups are clustered on their own; a few
 * joint iterations over all lists then move rows and lists across the borders.
 * A part of the sample is enough for the former, not for the latter.
 *
 * A GPU compares with all lists at once sooner than it would be told of groups.
 * There all iterations are joint ones, done by the leader with the rows of all
 * members, and in the end the lists are divided into groups by their centroids:
 * workers, inserts and searches need them.
 *
 * Every member of the team labels its own rows.  Sums and counts are added up
 * over the team, and each member makes the same centroids of them, with the
 * same random numbers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq_gpu.h"
#include "miscadmin.h"

#include "base/vq_guc.h"
#include "gpu/vq_gpu_cluster.h"

/* Fewer lists than this are clustered at once, not by groups */
#define MIN_LISTS_FOR_GROUPS	64

#define GROUP_ITERATIONS		10	/* over the groups, and within each, at most */
#define JOINT_ITERATIONS		3	/* over all lists */
#define BALANCINGS				2	/* at most, each followed by joint iterations */
#define ROWS_PER_GROUP			256 /* enough to place a group's centroid */

static void
alloc_sums(VqKmeansSums *sums, const IvfpqLists *lists)
{
	sums->ncentroids = lists->nlists;
	sums->dim = lists->dim;
	sums->sums = ivfpq_alloc_array(lists->nlists, lists->dim * sizeof(double));
	sums->counts = ivfpq_alloc_array(lists->nlists, sizeof(uint64_t));
}

static void
free_sums(VqKmeansSums *sums)
{
	pfree(sums->sums);
	pfree(sums->counts);
}

/* From sums over own rows to sums over those of the team */
static void
add_up(IvfpqTeam *team, VqKmeansSums *sums)
{
	ivfpq_team_sum_f64(team, sums->sums, sums->ncentroids * sums->dim);
	ivfpq_team_sum_u64(team, sums->counts, sums->ncentroids);
	ivfpq_team_sum_f64(team, &sums->error, 1);
}

/*
 * Fill in those of ncentroids that start from own rows, and leave the others
 * zero: they start from the rows of all members in turn.  counts[i * stride] is
 * the number of rows of member i; rows are in random order already.
 */
static void
place_own_rows(const IvfpqTeam *team, const float *rows, size_t dim,
			   const uint64 *counts, size_t stride, float *centroids, uint32 ncentroids)
{
	uint64		most = 0;
	uint64		place = 0;
	int			member = 0;

	memset(centroids, 0, ncentroids * dim * sizeof(float));
	for (int i = 0; i < team->size; i++)
		most = Max(most, counts[i * stride]);
	for (uint32 j = 0; j < ncentroids && most > 0;)
	{
		if (place < counts[member * stride])
		{
			if (member == team->number)
				memcpy(centroids + j * dim, rows + place * dim, dim * sizeof(float));
			j++;
		}
		member++;
		if (member == team->size)
		{
			member = 0;
			place = place + 1 < most ? place + 1 : 0;
		}
	}
}

/* What is done with own rows in one Lloyd iteration but for the update */
typedef struct Labelling
{
	IvfpqTeam  *team;
	IvfpqAssigner *assigner;
	size_t		dim;
	uint32	   *labels;			/* of the rows at hand */
	VqKmeansSums *sums;			/* of their labels, or NULL */
} Labelling;

/* Label rows, and add them to the sums */
static void
label_rows(void *arg, const float *rows, size_t nrows)
{
	Labelling  *labelling = arg;
	VqKmeansSums *sums = labelling->sums;
	size_t		chunk = ivfpq_assigner_rows(labelling->assigner);
	float	   *distances = palloc(chunk * sizeof(float));

	for (size_t first = 0; first < nrows; first += chunk)
	{
		size_t		count = Min(chunk, nrows - first);
		const float *x = rows + first * labelling->dim;
		uint32	   *labels = labelling->labels + first;

		ivfpq_assign(labelling->assigner, x, count, labels, distances);
		if (sums)
			vq_kmeans_accumulate(vq_kernels, sums, x, count, labels, distances);
		ivfpq_team_progress(labelling->team, count);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(distances);
}

/* The same for own rows, or those of a stream, and add up the sums of the team */
static void
label_and_add_up(Labelling *labelling, const float *rows, size_t nrows, const IvfpqStream *stream)
{
	vq_kmeans_clear(labelling->sums);
	if (stream)
		stream->read(stream->source, label_rows, labelling);
	else
		label_rows(labelling, rows, nrows);
	add_up(labelling->team, labelling->sums);
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

/* Labels of own rows, once centroids have come to rest */
static void
label_only(IvfpqTeam *team, const IvfpqLists *lists, const float *rows, size_t nrows, uint32 *labels)
{
	Labelling	labelling = {team, ivfpq_assigner_create(lists, IVFPQ_TRAINING_GROUPS), lists->dim, labels, NULL};

	label_rows(&labelling, rows, nrows);
	ivfpq_assigner_free(labelling.assigner);
}

/* Mean squared distance of the rows that were added up */
static double
mean_error(const VqKmeansSums *sums)
{
	uint64		nrows = 0;

	for (size_t i = 0; i < sums->ncentroids; i++)
		nrows += sums->counts[i];
	return sums->error / Max(nrows, 1);
}

/*
 * The last iterations, over the lists of all groups.  Where lists are of very
 * unequal length they are balanced in between, and it takes more of them.
 * Returns the mean squared distance.
 */
static double
iterate_jointly(IvfpqTeam *team, IvfpqSample *sample, const IvfpqStream *stream, IvfpqLists *lists, VqRng *rng)
{
	VqKmeansSums sums;
	uint32	   *labels = stream ? ivfpq_alloc_array(stream->most_rows, sizeof(uint32)) : sample->labels;
	Labelling	labelling = {team, ivfpq_assigner_create(lists, IVFPQ_TRAINING_GROUPS), lists->dim, labels, &sums};
	int			balancings = 0;
	double		error = 0;

	alloc_sums(&sums, lists);
	for (int left = JOINT_ITERATIONS; left > 0; left--)
	{
		label_and_add_up(&labelling, sample->rows, sample->nrows, stream);
		error = mean_error(&sums);
		update_centroids(&sums, lists, rng);
		if (balancings < BALANCINGS &&
			ivfpq_balance_lists(lists, sums.counts, (float *) sums.sums, rng) > 0)
		{
			/* it was made for groups of their old sizes */
			ivfpq_assigner_free(labelling.assigner);
			labelling.assigner = ivfpq_assigner_create(lists, IVFPQ_TRAINING_GROUPS);
			ivfpq_team_progress_extend(team, (double) (JOINT_ITERATIONS - left) * (stream ? stream->total_rows : sample->total_rows));
			left = JOINT_ITERATIONS;
			balancings++;
		}
		else
			ivfpq_assigner_refresh(labelling.assigner);
	}
	ivfpq_assigner_free(labelling.assigner);
	if (stream)
		pfree(labels);
	free_sums(&sums);
	return error;
}

/* Centroids := the first of the team's rows */
static void
place_first_rows(IvfpqTeam *team, const float *rows, size_t nrows, IvfpqLists *lists)
{
	uint64	   *counts = ivfpq_alloc_array(team->size, sizeof(uint64));

	ivfpq_team_gather(team, nrows, counts);
	place_own_rows(team, rows, lists->dim, counts, 1, lists->centroids, lists->nlists);
	ivfpq_team_sum_f32(team, lists->centroids, lists->nlists * lists->dim);
	pfree(counts);
}

/* k-means from there, without groups */
static void
cluster_rows(IvfpqTeam *team, const float *rows, size_t nrows, IvfpqLists *lists, uint32 *labels, VqRng *rng)
{
	IvfpqPart	all = {
		.rows = rows, .labels = labels, .nrows = nrows, .total_rows = nrows,
		.centroids = lists->centroids, .ncentroids = lists->nlists
	};

	ivfpq_team_sum_u64(team, &all.total_rows, 1);
	place_first_rows(team, rows, nrows, lists);
	ivfpq_kmeans(team, &all, 1, lists->dim, GROUP_ITERATIONS, rng);
}

/* Divide the sample into groups, and cluster each */
static void
cluster_by_groups(IvfpqTeam *team, IvfpqSample *sample, IvfpqLists *lists, VqRng *rng)
{
	size_t		dim = sample->dim;
	IvfpqLists	centres = {.dim = dim, .nlists = (uint32) rint(sqrt(lists->nlists))};
	uint32		ngroups = centres.nlists;
	double		share = Min(1.0, (double) ngroups * ROWS_PER_GROUP / sample->total_rows);
	size_t	   *rows_start = ivfpq_alloc_array(ngroups + 1, sizeof(size_t));
	uint64	   *counts = ivfpq_alloc_array(ngroups, team->size * sizeof(uint64));
	uint64	   *sizes = ivfpq_alloc_array(ngroups, sizeof(uint64));
	uint32	   *allotted = ivfpq_alloc_array(ngroups, sizeof(uint32));
	IvfpqPart  *groups = ivfpq_alloc_array(ngroups, sizeof(IvfpqPart));

	centres.centroids = ivfpq_alloc_array(ngroups, dim * sizeof(float));
	cluster_rows(team, sample->rows, (size_t) ceil(sample->nrows * share), &centres,
				 sample->labels, rng);
	label_only(team, &centres, sample->rows, sample->nrows, sample->labels);
	pfree(centres.centroids);
	ivfpq_sample_sort(sample, ngroups, rows_start);

	/* counts[member][group] */
	memset(counts, 0, ngroups * team->size * sizeof(uint64));
	for (uint32 g = 0; g < ngroups; g++)
	{
		groups[g].rows = ivfpq_sample_row(sample, rows_start[g]);
		groups[g].labels = sample->labels + rows_start[g];
		groups[g].nrows = rows_start[g + 1] - rows_start[g];
		counts[team->number * ngroups + g] = groups[g].nrows;
	}
	ivfpq_team_sum_u64(team, counts, ngroups * team->size);
	memset(sizes, 0, ngroups * sizeof(uint64));
	for (uint32 i = 0; i < ngroups * team->size; i++)
		sizes[i % ngroups] += counts[i];
	ivfpq_balance_groups(sizes, ngroups, sample->total_rows, lists->nlists, allotted);

	lists->ngroups = ngroups;
	lists->starts = ivfpq_alloc_array(ngroups + 1, sizeof(uint32));
	lists->starts[0] = 0;
	for (uint32 g = 0; g < ngroups; g++)
	{
		groups[g].total_rows = sizes[g];
		groups[g].centroids = lists->centroids + lists->starts[g] * dim;
		groups[g].ncentroids = allotted[g];
		place_own_rows(team, groups[g].rows, dim, counts + g, ngroups, groups[g].centroids, allotted[g]);
		lists->starts[g + 1] = lists->starts[g] + allotted[g];
	}
	ivfpq_team_sum_f32(team, lists->centroids, lists->nlists * dim);
	ivfpq_kmeans(team, groups, ngroups, dim, GROUP_ITERATIONS, rng);
	pfree(rows_start);
	pfree(counts);
	pfree(sizes);
	pfree(allotted);
	pfree(groups);
}

/*
 * What the leader does of it: k-means over all lists on a GPU, as
 * vq_gpu_cluster.h has it, from the centroids there are.  error is the mean
 * squared distance in the end.  False if the device has failed.
 */
static bool
iterate_on_gpu(IvfpqTeam *team, IvfpqGpu *gpu, IvfpqLists *lists, VqRng *rng, double *error)
{
	VqGpuClustering clustering;
	VqKmeansSums sums;
	VqKmeansSize *sizes = ivfpq_alloc_array(lists->nlists, sizeof(VqKmeansSize));
	size_t		nrows = ivfpq_gpu_sample_rows(gpu);
	bool		is_done;
	bool		wants_more;

	alloc_sums(&sums, lists);
	vq_gpu_cluster_begin(&clustering);
	do
	{
		is_done = ivfpq_gpu_kmeans_step(gpu, lists, &sums);
		wants_more = is_done && vq_gpu_cluster_next(&clustering, &sums, sizes, rng, lists->centroids);
		if (is_done)
			ivfpq_team_progress(team, nrows / team->size);
	} while (wants_more);
	free_sums(&sums);
	pfree(sizes);
	*error = clustering.error / Max(nrows, 1);
	return is_done;
}

/*
 * Lists by way of a GPU, if the leader has one.  If it fails, false: the sample
 * is as it was, and the lists are to be made again.
 */
static bool
cluster_on_gpu(IvfpqTeam *team, IvfpqGpu *gpu, IvfpqSample *sample, IvfpqLists *lists, VqRng *rng)
{
	size_t		nfloats = lists->nlists * lists->dim;
	bool		is_done = false;

	if (!ivfpq_gpu_sample_begin(team, gpu, sample, lists->nlists))
		return false;
	place_first_rows(team, sample->rows, sample->nrows, lists);
	sample->error = 0;
	if (ivfpq_team_is_leader(team))
		is_done = iterate_on_gpu(team, gpu, lists, rng, &sample->error);
	else
		memset(lists->centroids, 0, nfloats * sizeof(float));
	if (!ivfpq_team_ask_leader(team, is_done))
		return false;
	ivfpq_team_sum_f32(team, lists->centroids, nfloats);
	ivfpq_team_sum_f64(team, &sample->error, 1);
	return true;
}

/*
 * Divide lists into groups by their centroids.  All members have all of them,
 * and each labels a part.
 */
static void
group_lists(IvfpqTeam *team, IvfpqLists *lists, VqRng *rng)
{
	IvfpqLists	centres = {.dim = lists->dim, .nlists = (uint32) rint(sqrt(lists->nlists))};
	size_t		first = (size_t) lists->nlists * team->number / team->size;
	size_t		count = (size_t) lists->nlists * (team->number + 1) / team->size - first;
	const float *own = lists->centroids + first * lists->dim;
	uint32	   *groups = ivfpq_alloc_array(lists->nlists, sizeof(uint32));
	uint64	   *all = ivfpq_alloc_array(lists->nlists, sizeof(uint64));
	float	   *work = ivfpq_alloc_array(lists->nlists, lists->dim * sizeof(float));

	centres.centroids = ivfpq_alloc_array(centres.nlists, centres.dim * sizeof(float));
	cluster_rows(team, own, count, &centres, groups, rng);
	label_only(team, &centres, own, count, groups);
	pfree(centres.centroids);
	memset(all, 0, lists->nlists * sizeof(uint64));
	for (size_t i = 0; i < count; i++)
		all[first + i] = groups[i];
	ivfpq_team_sum_u64(team, all, lists->nlists);
	for (size_t i = 0; i < lists->nlists; i++)
		groups[i] = all[i];
	pfree(all);

	lists->ngroups = centres.nlists;
	lists->starts = ivfpq_alloc_array(lists->ngroups + 1, sizeof(uint32));
	ivfpq_balance_sort(lists, groups, work);
	pfree(groups);
	pfree(work);
}

void
ivfpq_train_lists(IvfpqTeam *team, IvfpqGpu *gpu, IvfpqSample *sample, const IvfpqStream *stream, IvfpqLists *lists)
{
	double		nrows = sample->total_rows;
	IvfpqSample part = ivfpq_sample_part(team, sample, lists->nlists);
	bool		is_clustered;
	VqRng		rng;

	vq_rng_seed(&rng, IVFPQ_SEED);
	lists->ngroups = 0;

	ivfpq_team_progress_begin(team, VQ_GPU_CLUSTER_STEPS * nrows);
	is_clustered = cluster_on_gpu(team, gpu, sample, lists, &rng);

	/* the leader alone has used it */
	vq_rng_seed(&rng, IVFPQ_SEED);
	if (is_clustered)
	{
		if (lists->nlists >= MIN_LISTS_FOR_GROUPS)
			group_lists(team, lists, &rng);
		if (stream)
		{
			ivfpq_team_progress_extend(team, JOINT_ITERATIONS * stream->total_rows);
			sample->error = iterate_jointly(team, sample, stream, lists, &rng);
		}
		return;
	}
	ivfpq_team_progress_begin(team, JOINT_ITERATIONS * (stream ? stream->total_rows : nrows) + (GROUP_ITERATIONS + 1.0) * part.total_rows +
							  (lists->nlists < MIN_LISTS_FOR_GROUPS ? 0 : Min(nrows, sqrt(lists->nlists) * ROWS_PER_GROUP) * GROUP_ITERATIONS));
	if (lists->nlists < MIN_LISTS_FOR_GROUPS)
		cluster_rows(team, part.rows, part.nrows, lists, part.labels, &rng);
	else
		cluster_by_groups(team, &part, lists, &rng);
	sample->error = iterate_jointly(team, sample, stream, lists, &rng);
}
