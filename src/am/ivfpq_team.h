/*-------------------------------------------------------------------------
 *
 * ivfpq_team.h
 *	  The processes that build an index together: the leader, whose command it
 *	  is, and its parallel workers.
 *
 * All members run the same code on their own share of the data and meet in the
 * functions below, which every member must call in the same order.  In a team
 * of one they do nothing.  They look for interrupts while they wait; an error
 * of any member ends the build by way of the leader.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_TEAM_H
#define IVFPQ_TEAM_H

#include "postgres.h"

typedef struct IvfpqTeamShared IvfpqTeamShared;

typedef struct IvfpqTeam
{
	int			size;			/* members, the leader included */
	int			number;			/* of this member; the leader is 0 */
	IvfpqTeamShared *shared;	/* NULL in a team of one */
	uint32		turn;			/* of the buffers */
	int64		progress;		/* of the leader alone, in its current phase */
	int64		progress_total;
} IvfpqTeam;

static inline bool
ivfpq_team_is_leader(const IvfpqTeam *team)
{
	return team->number == 0;
}

/* Shared memory for at most max_size members: a few MB, whatever is exchanged */
extern Size ivfpq_team_bytes(int max_size);
extern void ivfpq_team_init(IvfpqTeamShared *shared, int max_size);

/* The leader says how many there are, and lets them begin; the others wait for it */
extern void ivfpq_team_begin(IvfpqTeam *team, IvfpqTeamShared *shared, int size);
extern void ivfpq_team_join(IvfpqTeam *team, IvfpqTeamShared *shared, int number);

/*
 * values[i] := the sum of values[i] of all members, the same bits for all of
 * them: it is added up in the order of their numbers.  What only one of them
 * has is handed round in the same way, the others having zeroes.
 */
extern void ivfpq_team_sum_f64(IvfpqTeam *team, double *values, size_t count);
extern void ivfpq_team_sum_f32(IvfpqTeam *team, float *values, size_t count);
extern void ivfpq_team_sum_u64(IvfpqTeam *team, uint64 *values, size_t count);

/* values[i] := value of member i */
extern void ivfpq_team_gather(IvfpqTeam *team, uint64 value, uint64 *values);

/* What the leader answers, to all */
extern bool ivfpq_team_ask_leader(IvfpqTeam *team, bool answer);

/*
 * Rows of all members, float[nrows][dim] at each, to the leader, which takes
 * them piece by piece: its own all at once, those of others in shared memory
 */
typedef void (*IvfpqTakeRows) (void *arg, const float *rows, size_t nrows);
extern void ivfpq_team_bring_rows(IvfpqTeam *team, const float *rows, size_t nrows, size_t dim,
								  IvfpqTakeRows take, void *arg);

/*
 * Progress of a phase whose members have about the same to do: the leader
 * reports what it has done times their number.
 */
extern void ivfpq_team_progress_begin(IvfpqTeam *team, double total);

/* There is more to do than was said */
extern void ivfpq_team_progress_extend(IvfpqTeam *team, double more);
extern void ivfpq_team_progress(IvfpqTeam *team, int64 done);

#endif							/* IVFPQ_TEAM_H */
