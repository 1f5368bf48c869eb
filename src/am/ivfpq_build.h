/*-------------------------------------------------------------------------
 *
 * ivfpq_build.h
 *	  What the files of a build promise each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_BUILD_H
#define IVFPQ_BUILD_H

#include "am/ivfpq.h"
#include "am/ivfpq_gpu.h"
#include "am/ivfpq_toast.h"
#include "am/ivfpq_train.h"
#include "access/tableam.h"
#include "base/vq_datum.h"
#include "utils/tuplesort.h"

/* What is built, in which memory; made by the leader, the same for all members */
typedef struct IvfpqBuildPlan
{
	BlockNumber heap_blocks;	/* when it was made */
	double		estimated_rows;
	VqBlockShape shape;			/* of list blocks */
	bool		is_projected;	/* codes are those of a projection */
	uint32		nlists;
	uint64		train_rows;		/* of the whole team */
	uint64		stream_rows;	/* likewise: read again and again instead, as memory has no room for them; or 0 */
	size_t		stream_batch;	/* of each member, at a time */
	size_t		nqueries;		/* by which nprobes are measured */
	size_t		member_bytes;	/* what each member may use */
	bool		leader_trains;	/* alone, as memory is too small for the models of all, or that of a GPU for
								 * the sample */
} IvfpqBuildPlan;

typedef struct IvfpqParallel IvfpqParallel;

/* One member's state */
typedef struct IvfpqBuild
{
	Relation	heap;
	Relation	index;
	IndexInfo  *info;
	IvfpqOptions *options;
	VqDatumKind datum_kind;		/* of the indexed value */
	MemoryContext context;		/* of everything below */
	MemoryContext row_context;	/* reset for each row */
	IvfpqTeam	team;
	IvfpqTeam	alone;
	IvfpqTeam  *trainers;		/* one of these two */
	IvfpqBuildPlan plan;

	/* what all members know of it: dim, metric, seed, codec and its parameters */
	IvfpqMetaPageData meta;
	double		heap_tuples;	/* of the team */

	/* the leader's alone */
	IvfpqWriter *writer;
	IvfpqParallel *parallel;	/* NULL without workers */
	IvfpqGpu   *gpu;			/* NULL without a GPU */
	Tuplesortstate *sort;		/* of a team of one */
	int64		phase;
	TimestampTz phase_start;
	bool		takes_dead_dim; /* rows that only older snapshots see may say the dimension */

	/* shared by the members, NULL in a team of one */
	ParallelTableScanDesc parallel_scan;
	Sharedsort *shared_sort;

	/* rows whose vectors are out of line */
	AttrNumber	attno;			/* of the indexed column, or 0 */
	IvfpqToast *toast;			/* NULL before there is one, and from the end of reading rows on */
	ItemPointerData chunk_tid;	/* of the row read last, as in its entry */
	ItemPointerData after;		/* where that of the next one may be */
	uint64		nout_of_line;	/* rows read */

	IvfpqSample sample;
	IvfpqQueries queries;

	/* the model, if trained */
	VqCodec		codec;
	float	   *mean;
	void	   *projection;		/* image of vq_project.h, if codes are projected */
	IvfpqLists	lists;
	float	   *codebook;
} IvfpqBuild;

/* ivfpq_build.c */

/* Sample, train, encode: what every member does */
extern void ivfpq_build_member(IvfpqBuild *build);

/* State of a member; the build's context becomes the current one */
extern void ivfpq_build_init(IvfpqBuild *build, Relation heap, Relation index, IndexInfo *info);

/* ivfpq_plan.c */

/* Settle m and nbits, from the options and the dimension */
extern void ivfpq_plan_codes(IvfpqBuild *build);

/* ERROR if the options' m does not suit the dimension, where that is known */
extern void ivfpq_plan_check_m(const IvfpqBuild *build);

/* ERROR if a code of so many sub-quantisers does not fit a page, with whatever else the shape says that a row has */
extern void ivfpq_plan_check_code(const VqBlockShape *shape);

/* No projection after all */
extern void ivfpq_plan_all_dimensions(IvfpqBuild *build);

/*
 * How many workers the server's rules give a build of an index on this table: by its size with the vectors
 * that are out of line, its option parallel_workers, memory, and whether expressions and conditions are
 * parallel safe
 */
extern int	ivfpq_plan_workers(Relation heap, Relation index);

/* Of at most max_size, as many members as memory allows */
extern int	ivfpq_plan_team_size(const IvfpqBuild *build, int max_size);

/* Settle lists, sample and memory; a NOTICE if they are less than they should be */
extern void ivfpq_plan_lists(IvfpqBuild *build, int team_size);

/* Bytes that queries and their neighbours take a member */
extern size_t ivfpq_plan_query_bytes(const IvfpqBuild *build);

/* Sub-quantisers of centroids */
extern uint32 ivfpq_plan_coarse_m(uint32 dim);

/* ivfpq_sample.c */

/*
 * Read the indexed value of a row.  False for what an index leaves out: NULL,
 * under cosine the zero vector, and of rows that are not alive, which older snapshots
 * may see and nobody else, what is no vector of the index; such snapshots will not
 * use it (ii_BrokenHotChain).
 */
extern bool ivfpq_build_read(IvfpqBuild *build, Datum *values, bool *isnull, bool alive, VqVector *vector);

/* Rows are read for now: what was opened for vectors out of line is closed */
extern void ivfpq_build_end_reading(IvfpqBuild *build);

/*
 * The leader finds out how many rows are to be indexed, from random blocks; and
 * their dimension, if the options do not say it; and whether most have their vectors out of line, which
 * entries are then going to know the places of
 */
extern void ivfpq_sample_estimate(IvfpqBuild *build);

/* This trainer's share of the sample */
extern void ivfpq_sample_take(IvfpqBuild *build);

/* And of more rows, in model space; source is the build, which has a sample in model space */
extern void ivfpq_sample_stream(void *source, IvfpqTakeRows take, void *arg);

/* ivfpq_encode.c */

/* This member's part of the table, to the sort; counts of the team to meta and heap_tuples */
extern void ivfpq_encode_table(IvfpqBuild *build);

/* Bytes that it takes a member which may use this many, but for the sort */
extern size_t ivfpq_encode_bytes(const IvfpqBuild *build, uint32 nlists, size_t limit);

/* The leader writes what all have sorted */
extern void ivfpq_encode_write(IvfpqBuild *build);

/* ivfpq_parallel.c */

/* Start workers; returns the size of the team, 1 if there are none */
extern int	ivfpq_parallel_launch(IvfpqBuild *build, int nworkers);

/* Tell them what to do */
extern void ivfpq_parallel_begin(IvfpqBuild *build, int team_size);

/* Wait for their end */
extern void ivfpq_parallel_end(IvfpqBuild *build);

#endif							/* IVFPQ_BUILD_H */
