/*-------------------------------------------------------------------------
 *
 * ivfpq_train.h
 *	  Training: from a sample of vectors to centroids and codebook, and from all of
 *	  them to the number of lists worth probing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_TRAIN_H
#define IVFPQ_TRAIN_H

#include "am/ivfpq.h"
#include "am/ivfpq_team.h"
#include "kernels/vq_kmeans.h"
#include "kernels/vq_neighbours.h"
#include "kernels/vq_panels.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

/* Fixed, so that the same data gives the same index to a team of the same size */
#define IVFPQ_SEED		UINT64CONST(0x7671706776710001)

/* Multiplications and additions between two looks for interrupts: about 50 ms */
#define IVFPQ_CHUNK_PRODUCTS	(2.5e9)

/*
 * Rows assigned at once: many, so that the product is an efficient one, but
 * not so many that a cancel has to wait.
 */
static inline size_t
ivfpq_chunk_rows(size_t ncentroids, size_t dim)
{
	double		rows = IVFPQ_CHUNK_PRODUCTS / ((double) ncentroids * dim);

	return (size_t) Max(64, Min(1024, rows));
}

/* An array of any size in the current context, of one element at least */
static inline void *
ivfpq_alloc_array(size_t count, size_t size)
{
	return MemoryContextAllocHuge(CurrentMemoryContext, mul_size(Max(count, 1), size));
}

/*
 * ivfpq_blas.c: OpenBLAS if this machine has it.  Looked for once in a build, and again
 * in the next if it was not to be had.
 */
extern const VqBlas *ivfpq_blas(void);
extern void ivfpq_blas_begin_build(void);

/* The lists of an index: their centroids, numbered so that groups of near ones come together */
typedef struct IvfpqLists
{
	size_t		dim;
	uint32		nlists;
	float	   *centroids;		/* [nlists][dim] */
	uint32		ngroups;		/* 0 if they are in no groups */
	uint32	   *starts;			/* [ngroups + 1], first list of each group */
	float	   *centres;		/* [ngroups][dim], of groups, in the same array after centroids; or NULL */
} IvfpqLists;

/* ivfpq_assign.c: the centre (vq_kmeans_centre) of the lists of each group, float[ngroups][dim] */
extern void ivfpq_group_centres(const float *centroids, size_t dim, const uint32 *starts, uint32 ngroups,
								float *centres);

/* Memory comes from the current context and is kept until freed */
typedef struct IvfpqAssigner IvfpqAssigner;

/* A row is compared with the lists of so many groups while centroids still move */
#define IVFPQ_TRAINING_GROUPS	4

/* depth is that, or in the end IVFPQ_ASSIGNED_GROUPS */
extern IvfpqAssigner *ivfpq_assigner_create(const IvfpqLists *lists, uint32 depth);

/* Bytes that it takes, at most, and ivfpq_label beside it */
extern size_t ivfpq_assigner_bytes(size_t nlists, size_t dim);

/* After centroids have changed */
extern void ivfpq_assigner_refresh(IvfpqAssigner *assigner);
extern void ivfpq_assigner_free(IvfpqAssigner *assigner);

/* Rows that it takes at a time; more are as well given in so many parts */
extern size_t ivfpq_assigner_rows(const IvfpqAssigner *assigner);

/*
 * Nearest list, or one nearly as near, and squared distance to its centroid (as
 * vq_panels_decide has it, with products of bytes), of each row.  rows is float[nrows][dim].  Looks for interrupts.
 */
extern void ivfpq_assign(IvfpqAssigner *assigner, const float *rows, size_t nrows,
						 uint32 *labels, float *distances);

/*
 * The same for rows of these numbers alone, once centroids have come to rest.
 * labels may be the array of row_nos.
 */
extern void ivfpq_label(const IvfpqLists *lists, const float *rows, const uint32 *row_nos, size_t nrows,
						uint32 *labels);

/*----------
 * Each member calls these, in this order, with its own share of the sample.
 * They use equal models and leave equal models.  rows is float[nrows][dim] in
 * model space, allocated with room for no more; functions reorder or overwrite
 * it as they say.
 *----------
 */
typedef struct IvfpqSample
{
	float	   *rows;			/* own */
	size_t		nrows;
	uint64		total_rows;		/* of the team */
	size_t		dim;
	const float *held;			/* [nheld][dim], own rows behind the others, which train nothing */
	size_t		nheld;
	uint32	   *labels;			/* [nrows], group or list of each row, while there are iterations */
	double		error;			/* mean squared distance to centroids, from the last iteration */
	float		farthest_sq;	/* of own rows in model space, the largest squared length */
} IvfpqSample;

/*
 * More rows than a sample that is kept in memory: read again from the table, the same ones each time.  Each member has its
 * own share; take gets some at a time, in model space, float[nrows][dim], which are gone afterwards.
 */
typedef struct IvfpqStream
{
	void		(*read) (void *source, IvfpqTakeRows take, void *arg);
	void	   *source;
	double		total_rows;		/* of the team, about */
	size_t		most_rows;		/* at a time */
} IvfpqStream;

static inline float *
ivfpq_sample_row(const IvfpqSample *sample, size_t i)
{
	return sample->rows + i * sample->dim;
}

/*
 * ivfpq_gpu.h.  What takes one has it do the work where it can.  NULL for none:
 * only the leader has one.
 */
typedef struct IvfpqGpu IvfpqGpu;

/* Rows that training should have for each list, and at least: so few take no time */
#define IVFPQ_TRAIN_ROWS_PER_LIST	32
#define IVFPQ_MIN_TRAIN_ROWS		16384

/*
 * ivfpq_sample.c.  Set rows apart for queries, so many of the team, or this part of all: to rows that have trained
 * centroids these are nearer than to others.
 */
extern void ivfpq_sample_hold(IvfpqTeam *team, IvfpqSample *sample, size_t wanted, double most);

/*
 * A part of a sample that is enough for nlists lists: the first rows of each
 * member, in its memory.  They are as random as the order of rows, which only
 * ever changes within them.
 */
extern IvfpqSample ivfpq_sample_part(IvfpqTeam *team, const IvfpqSample *sample, uint32 nlists);

/* Own rows in order of labels below nlabels; starts[j] is where those of j begin, size_t[nlabels + 1] */
extern void ivfpq_sample_sort(IvfpqSample *sample, size_t nlabels, size_t *starts);

/*
 * ivfpq_train.c.  Mean and scale of the sample as vq_codec.h defines them for a
 * metric; then every row is taken to model space.  Rows that have no place
 * there are dropped, and those that are far from all others if they are fewer than
 * one of nlists has, and of equal ones those that are more than it has.  mean is
 * float[dim]; codec has everything else set but scale.  Overwrites labels.
 */
extern void ivfpq_train_space(IvfpqTeam *team, IvfpqSample *sample, uint32 nlists, VqCodec *codec, float *mean);

/*
 * ivfpq_cluster.c.  Centroids by k-means, their groups (starts is allocated),
 * and error; reorders rows.  dim, nlists and room for centroids are set.  A GPU
 * keeps the sample, which must stay as it is until ivfpq_gpu_sample_end.  With a stream, the iterations over all lists
 * are over its rows.
 */
extern void ivfpq_train_lists(IvfpqTeam *team, IvfpqGpu *gpu, IvfpqSample *sample, const IvfpqStream *stream,
							  IvfpqLists *lists);

/* Rows, and centroids for them alone */
typedef struct IvfpqPart
{
	const float *rows;			/* own, [nrows][dim] */
	uint32	   *labels;			/* [nrows], overwritten */
	size_t		nrows;
	uint64		total_rows;		/* of the team */
	float	   *centroids;		/* [ncentroids][dim] */
	uint32		ncentroids;
} IvfpqPart;

/*
 * ivfpq_kmeans.c.  So many Lloyd iterations at most, over each part by itself from its
 * centroids on; they stop when they no longer pay.  A centroid without rows is put beside a crowded one of its part.
 * Rows go to the nearest centroid but for rounding to bytes.  Looks for interrupts.
 */
extern void ivfpq_kmeans(IvfpqTeam *team, const IvfpqPart *parts, size_t nparts, size_t dim, int iterations, VqRng *rng);

/*
 * ivfpq_balance.c.  Give up lists that have few rows by these counts, and split
 * crowded ones instead; lists are numbered anew.  Returns how many.  work is
 * float[nlists][dim].
 */
extern size_t ivfpq_balance_lists(IvfpqLists *lists, const uint64 *counts, float *work, VqRng *rng);

/* Number lists anew, by these groups; ngroups is set, starts allocated; work as above */
extern void ivfpq_balance_sort(IvfpqLists *lists, const uint32 *groups, float *work);

/* Deal nlists out to groups in proportion to their rows, at least one to a group that has any */
extern void ivfpq_balance_groups(const uint64 *sizes, size_t ngroups, uint64 nrows, uint32 nlists,
								 uint32 *allotted);

/* Rows in model space that stand for queries: held out of the sample, where it is large enough */
typedef struct IvfpqQueries
{
	size_t		count;			/* of the team, which all have */
	float	   *rows;			/* [count][dim] */
} IvfpqQueries;

/*
 * So many in all, or a few more, where memory and sample have room.  A million rows took 4 % longer to build for 800 of
 * them; with 400, of 200,000 rows of 1,536 dimensions .966 was found for .975, and with 800 .975.
 */
#define IVFPQ_QUERIES			600

/* From a sample whose rows are as they were, at most so many, or a few more; rows is allocated */
extern void ivfpq_choose_queries(IvfpqTeam *team, const IvfpqSample *sample, size_t most, IvfpqQueries *queries);

/*----------
 * ivfpq_nprobe.c
 *----------
 */

/* Some queries, each with the nearest of own rows: what queries and their results are like */
typedef struct IvfpqPairs
{
	size_t		nqueries;
	const float *queries;		/* [nqueries][dim] */
	size_t		nneighbours;	/* of each */
	float	   *neighbours;		/* [nqueries][nneighbours][dim] */
	uint32	   *lists;			/* [nqueries][nneighbours], theirs; PG_UINT32_MAX if there is none */
} IvfpqPairs;

#define IVFPQ_PAIR_QUERIES		400

/* Of the neighbours of a query each member has a share: four in all, or one each */
static inline size_t
ivfpq_pair_neighbours(int team_size)
{
	return (4 + team_size - 1) / team_size;
}

/* From a sample that is as it was when lists were trained; neighbours and lists are allocated */
extern void ivfpq_find_pairs(IvfpqTeam *team, const IvfpqSample *sample, VqMetric metric, const IvfpqLists *lists,
							 const IvfpqQueries *queries, IvfpqPairs *pairs);

/*
 * How many of the nearest lists hold each share of the rows nearest to queries (nprobes, one for each of vq_recalls,
 * ascending), in the mean of queries that differ as spread says.  Each member's neighbours are those of the rows that it
 * has seen, offered with their lists; list_rows, uint64[nlists], are the rows of each list.
 */
extern void ivfpq_choose_nprobes(IvfpqTeam *team, VqMetric metric, const IvfpqLists *lists, const uint64 *list_rows,
								 const IvfpqQueries *queries, VqNeighbours *neighbours, VqSpread *spread,
								 uint32 *nprobes);

/* ivfpq_train.c.  Make the centres of groups; moves centroids. */
extern void ivfpq_train_centres(IvfpqLists *lists);

/* Codebook for centroids, against the centres of their groups */
extern void ivfpq_train_coarse(IvfpqTeam *team, const VqPq *pq, const IvfpqLists *lists, float *codebook);

/* Their codes as full blocks, palloc'd, each of one group; for the leader alone */
extern char *ivfpq_train_coarse_codes(const VqCodec *codec, const VqBlockShape *shape,
									  const IvfpqLists *lists, uint32 *nblocks);

/*
 * ivfpq_project.c.  The directions in which residuals vary most, as the image of a
 * projection to the dimensions of pq; all members get the same.  False if codes of
 * all dimensions would be better.  Needs eigenvectors of ivfpq_blas().
 */
extern bool ivfpq_train_projection(IvfpqTeam *team, const IvfpqSample *sample, const IvfpqLists *lists,
								   const VqPq *pq, void *image);

/* The error_scale of a codec that has everything else, from what its bounds say of pairs */
extern float ivfpq_train_error_scale(IvfpqTeam *team, const VqCodec *codec, const IvfpqLists *lists,
									 const IvfpqPairs *pairs);

/* The leader's image to all */
extern void ivfpq_share_projection(IvfpqTeam *team, size_t dim, const VqPq *pq, void *image);

/* Bytes that training of a projection takes a team, at most, with pairs */
extern size_t ivfpq_projection_bytes(size_t dim, int team_size);

/* Codebook from residuals in code space; overwrites rows */
extern void ivfpq_train_codebook(IvfpqTeam *team, IvfpqGpu *gpu, IvfpqSample *sample, const VqCodec *codec,
								 const IvfpqLists *lists, float *codebook);

#endif							/* IVFPQ_TRAIN_H */
