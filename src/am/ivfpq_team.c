/*-------------------------------------------------------------------------
 *
 * ivfpq_team.c
 *	  What the members of a build exchange.
 *
 * Samples and models may have gigabytes, shared memory in a container 64 MB:
 * so every member keeps its own, and sums go slice by slice through a buffer.
 * Each member writes its part of a slice to a slot of its own and, when all
 * have, adds up the slots.  There are two buffers in turn.  Whoever writes to
 * one again has been past the other, for which all must have read the first,
 * so one barrier to a slice is enough.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq_team.h"
#include "commands/progress.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/barrier.h"
#include "storage/condition_variable.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/backend_progress.h"

#include "base/vqpg_compat.h"

/*
 * Both buffers of all members: this part of maintenance_work_mem, within limits.  A row fits a slot, whatever its
 * dimension, in a team of up to 32.
 */
#define MEMORY_PART		64
#define BUFFER_BYTES	((Size) 4 * 1024 * 1024)
#define ROW_SLOT_BYTES	((Size) 64 * 1024)
#define MIN_SLOT_BYTES	((Size) 4096)

struct IvfpqTeamShared
{
	slock_t		mutex;
	int			size;			/* 0 until all is settled; under mutex */
	ConditionVariable settled;
	Barrier		barrier;
	Size		slot_bytes;
	int			nslots;			/* of one buffer */
};

/* Total += part, over count elements */
typedef void (*AddFunction) (void *total, const void *part, size_t count);

static Size
slot_bytes(int max_size)
{
	Size		wanted = Max((Size) maintenance_work_mem * 1024 / MEMORY_PART, 2 * max_size * ROW_SLOT_BYTES);
	Size		bytes = Min(BUFFER_BYTES, wanted) / 2 / max_size;

	return CACHELINEALIGN(Max(bytes, MIN_SLOT_BYTES));
}

Size
ivfpq_team_bytes(int max_size)
{
	return add_size(CACHELINEALIGN(sizeof(IvfpqTeamShared)) + PG_CACHE_LINE_SIZE,
					mul_size(2 * slot_bytes(max_size), max_size));
}

void
ivfpq_team_init(IvfpqTeamShared *shared, int max_size)
{
	SpinLockInit(&shared->mutex);
	shared->size = 0;
	ConditionVariableInit(&shared->settled);
	shared->slot_bytes = slot_bytes(max_size);
	shared->nslots = max_size;
}

void
ivfpq_team_begin(IvfpqTeam *team, IvfpqTeamShared *shared, int size)
{
	memset(team, 0, sizeof(IvfpqTeam));
	team->size = size;
	team->shared = shared;
	if (shared == NULL)
		return;
	BarrierInit(&shared->barrier, size);
	SpinLockAcquire(&shared->mutex);
	shared->size = size;
	SpinLockRelease(&shared->mutex);
	ConditionVariableBroadcast(&shared->settled);
}

void
ivfpq_team_join(IvfpqTeam *team, IvfpqTeamShared *shared, int number)
{
	memset(team, 0, sizeof(IvfpqTeam));
	team->number = number;
	team->shared = shared;
	ConditionVariablePrepareToSleep(&shared->settled);
	for (;;)
	{
		SpinLockAcquire(&shared->mutex);
		team->size = shared->size;
		SpinLockRelease(&shared->mutex);
		if (team->size > 0)
			break;
		ConditionVariableSleep(&shared->settled, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

static void
wait_for_all(IvfpqTeam *team)
{
	CHECK_FOR_INTERRUPTS();
	if (team->size > 1)
		BarrierArriveAndWait(&team->shared->barrier, PG_WAIT_EXTENSION);
}

static char *
team_slot(const IvfpqTeam *team, int number)
{
	IvfpqTeamShared *shared = team->shared;
	char	   *slots = (char *) CACHELINEALIGN((char *) shared + sizeof(IvfpqTeamShared));

	return slots + ((team->turn % 2) * shared->nslots + number) * shared->slot_bytes;
}

static void
add_slices(IvfpqTeam *team, void *values, size_t count, size_t width, AddFunction add)
{
	size_t		slice;

	if (team->size == 1)
		return;
	slice = team->shared->slot_bytes / width;
	for (size_t first = 0; first < count; first += slice)
	{
		char	   *part = (char *) values + first * width;
		size_t		nvalues = Min(slice, count - first);

		team->turn++;
		memcpy(team_slot(team, team->number), part, nvalues * width);
		wait_for_all(team);
		memcpy(part, team_slot(team, 0), nvalues * width);
		for (int i = 1; i < team->size; i++)
			add(part, team_slot(team, i), nvalues);
	}
}

static void
add_f64(void *total, const void *part, size_t count)
{
	double	   *restrict sum = total;
	const double *restrict term = part;

	for (size_t i = 0; i < count; i++)
		sum[i] += term[i];
}

static void
add_f32(void *total, const void *part, size_t count)
{
	float	   *restrict sum = total;
	const float *restrict term = part;

	for (size_t i = 0; i < count; i++)
		sum[i] += term[i];
}

static void
add_u64(void *total, const void *part, size_t count)
{
	uint64	   *restrict sum = total;
	const uint64 *restrict term = part;

	for (size_t i = 0; i < count; i++)
		sum[i] += term[i];
}

void
ivfpq_team_sum_f64(IvfpqTeam *team, double *values, size_t count)
{
	add_slices(team, values, count, sizeof(double), add_f64);
}

void
ivfpq_team_sum_f32(IvfpqTeam *team, float *values, size_t count)
{
	add_slices(team, values, count, sizeof(float), add_f32);
}

void
ivfpq_team_sum_u64(IvfpqTeam *team, uint64 *values, size_t count)
{
	add_slices(team, values, count, sizeof(uint64), add_u64);
}

void
ivfpq_team_gather(IvfpqTeam *team, uint64 value, uint64 *values)
{
	memset(values, 0, team->size * sizeof(uint64));
	values[team->number] = value;
	ivfpq_team_sum_u64(team, values, team->size);
}

bool
ivfpq_team_ask_leader(IvfpqTeam *team, bool answer)
{
	uint64		value = ivfpq_team_is_leader(team) && answer;

	ivfpq_team_sum_u64(team, &value, 1);
	return value != 0;
}

/* A whole buffer at a time, from one member after the other: it is the leader that takes time */
void
ivfpq_team_bring_rows(IvfpqTeam *team, const float *rows, size_t nrows, size_t dim,
					  IvfpqTakeRows take, void *arg)
{
	size_t		row_bytes = dim * sizeof(float);
	size_t		capacity;
	uint64	   *counts;

	if (ivfpq_team_is_leader(team))
		take(arg, rows, nrows);
	if (team->size == 1)
		return;
	capacity = team->shared->slot_bytes * team->shared->nslots / row_bytes;
	counts = palloc(team->size * sizeof(uint64));
	ivfpq_team_gather(team, nrows, counts);
	for (int i = 1; i < team->size; i++)
		for (size_t first = 0; first < counts[i]; first += capacity)
		{
			size_t		count = Min(capacity, counts[i] - first);

			team->turn++;
			if (team->number == i)
				memcpy(team_slot(team, 0), rows + first * dim, count * row_bytes);
			wait_for_all(team);
			if (ivfpq_team_is_leader(team))
				take(arg, (const float *) team_slot(team, 0), count);
		}
	pfree(counts);
}

void
ivfpq_team_progress_begin(IvfpqTeam *team, double total)
{
	team->progress = 0;
	team->progress_total = 0;
	ivfpq_team_progress_extend(team, total);
}

void
ivfpq_team_progress_extend(IvfpqTeam *team, double more)
{
	team->progress_total += (int64) more;
	if (ivfpq_team_is_leader(team))
		pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_TOTAL, team->progress_total);
}

void
ivfpq_team_progress(IvfpqTeam *team, int64 done)
{
	team->progress += done * team->size;
	if (ivfpq_team_is_leader(team))
		pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE,
									 Min(team->progress, team->progress_total));
}
