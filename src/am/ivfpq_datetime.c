/*-------------------------------------------------------------------------
 *
 * ivfpq_datetime.c
 *	  What a date or time is compared with that is one of another type, in numbers of its own.
 *
 * The server takes a date for the midnight it begins with, and a time without a zone for the moment at
 * which clocks in the session's zone show it.  That is one moment for each local time.  A moment, however, may be that
 * of two local times, where clocks are turned forward, as those left out are taken for later ones, or of none,
 * where they are turned back; and local times do not ascend as their moments do.
 *
 * But a local time is always its moment and an offset that the zone has within days of that.  So the local times of a
 * moment are among those by each of these offsets, and those of earlier moments before the last of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq.h"
#include "catalog/pg_type.h"
#include "pgtime.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

/*
 * How far from a moment offsets are looked for.  The server has them below 7 days, and for a local time it looks for
 * one from a day before that on, as if that were UTC: less than 8 days from the moment.  A moment that is 14 days
 * earlier has no local time that is later than one of this, whatever their offsets.
 */
#define OFFSETS_SECS	((pg_time_t) (8 + 14) * SECS_PER_DAY)

bool
ivfpq_is_datetime(Oid type)
{
	return type == DATEOID || type == TIMESTAMPOID || type == TIMESTAMPTZOID;
}

/* Of a date beyond all finite times, a number that is so too */
static int64
midnight_of(int64 date)
{
	if (date == DATEVAL_NOBEGIN)
		return DT_NOBEGIN;
	if (date == DATEVAL_NOEND)
		return DT_NOEND;
	return Min(date, END_TIMESTAMP / USECS_PER_DAY) * USECS_PER_DAY;
}

/* The day before a time, or that after it, unless that is midnight; dates beyond all times are after it, whatever the zone */
static int64
day_of(int64 local, bool round_up)
{
	int64		day;
	int64		rest;

	if (TIMESTAMP_NOT_FINITE(local))
		return local;
	local = Min(local, END_TIMESTAMP - 1);
	day = local / USECS_PER_DAY;
	rest = local % USECS_PER_DAY;
	if (round_up)
		return rest > 0 ? day + 1 : day;
	return rest < 0 ? day - 1 : day;
}

/* One before or after all that the server has is a number that is so too */
static int64
moment_of(int64 local)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (!IS_VALID_TIMESTAMP(local))
		return local;
	if (timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		elog(ERROR, "timestamp out of range: " INT64_FORMAT, local);
	return local + DetermineTimeZoneOffset(&tm, session_timezone) * USECS_PER_SEC;
}

/* All that the server might take for this moment; in UTC if it does not know the zone's offset */
static void
add_local_times(int64 moment, IvfpqNumbers *numbers)
{
	pg_time_t	from;
	pg_time_t	end;
	pg_time_t	next;
	long int	offset = 0;
	long int	next_offset;
	int			is_dst;
	int			next_is_dst;

	if (!IS_VALID_TIMESTAMP(moment))
	{
		ivfpq_numbers_add(numbers, moment);
		return;
	}
	from = timestamptz_to_time_t(moment) - OFFSETS_SECS;
	end = timestamptz_to_time_t(moment) + OFFSETS_SECS;
	for (;;)
	{
		bool		has_next = pg_next_dst_boundary(&from, &offset, &is_dst, &next, &next_offset, &next_is_dst,
													session_timezone) > 0;

		ivfpq_numbers_add(numbers, moment + offset * USECS_PER_SEC);
		if (!has_next || next > end)
			break;
		from = next;
	}
}

void
ivfpq_datetime_numbers(int64 number, Oid type, Oid column_type, bool round_up, IvfpqNumbers *numbers)
{
	size_t		first = numbers->count;
	int64		time = type == DATEOID ? midnight_of(number) : number;

	if (column_type == TIMESTAMPTZOID)
		ivfpq_numbers_add(numbers, moment_of(time));
	else if (type == TIMESTAMPTZOID)
		add_local_times(time, numbers);
	else
		ivfpq_numbers_add(numbers, time);

	if (column_type == DATEOID)
		for (size_t i = first; i < numbers->count; i++)
			numbers->values[i] = day_of(numbers->values[i], round_up);
}
