/*-------------------------------------------------------------------------
 *
 * pq_client.c
 *	  Time one prepared statement, one query at a time per connection.
 *
 * bench/client.py compiles and runs this.  A query costs about as much as the
 * bookkeeping of a Python driver, so queries per second from Python would
 * measure Python.  Here the parameters are encoded beforehand, sent and
 * received in binary, and each connection waits for its answer before it asks
 * again: no pipelining, no batching.
 *
 * Every connection is a process of its own, forked before it connects.  All of
 * them connect, run the set-up commands, prepare, warm up and then wait for
 * each other, so the clock sees neither connecting nor planning for the first
 * time.  Connection i starts at query i * nqueries / nclients and goes round
 * until the time is over and the connections together have answered every
 * query at least once, or until the most time that it may take is over.
 *
 * Output, in the machine's byte order:
 *
 *	 int64   nqueries, k, nclients
 *	 per client: int64 count, double start, double end	(seconds, one clock)
 *	 int64   ids[nqueries][k]		first column of the answers, -1 where none
 *	 per client: float latency[count]				(seconds)
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>

#define MAX_LATENCIES	(4 * 1024 * 1024)	/* per client; the pages are touched as used */

typedef struct Options
{
	const char *sql;			/* one parameter, $1 */
	const char *setup;			/* commands for each new connection */
	const char *param_path;
	const char *out_path;
	size_t		param_bytes;	/* of each parameter */
	int64_t		k;				/* rows to keep of each answer */
	int64_t		nclients;
	int64_t		warmup;			/* untimed queries of each connection */
	int64_t		limit;			/* timed queries of each connection; 0: by time */
	double		seconds;
	double		most_seconds;	/* of the clock, and of warming up; 0: no end */
} Options;

typedef struct Client
{
	int64_t		count;
	double		start;
	double		end;
} Client;

/* In memory shared by the processes */
typedef struct Shared
{
	atomic_int	nready;
	atomic_int	has_failed;
} Shared;

typedef struct Run
{
	Options		options;
	const char *params;			/* nqueries parameters, one after the other */
	int64_t		nqueries;
	Shared	   *shared;
	Client	   *clients;
	int64_t    *ids;
	float	   *latencies;		/* MAX_LATENCIES for each client */
} Run;

static double
now_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double) ts.tv_sec + 1e-9 * (double) ts.tv_nsec;
}

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "pq_client: %s: %s\n", what, why);
	exit(1);
}

static void *
shared_memory(size_t bytes)
{
	void	   *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
							  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		fail("could not map memory", strerror(errno));
	return memory;
}

static char *
read_params(const Options *options, int64_t *nqueries)
{
	FILE	   *file = fopen(options->param_path, "rb");
	long		size;
	char	   *params;

	if (file == NULL)
		fail(options->param_path, strerror(errno));
	fseek(file, 0, SEEK_END);
	size = ftell(file);
	rewind(file);
	*nqueries = size / (long) options->param_bytes;
	params = malloc((size_t) size);
	if (*nqueries == 0 || params == NULL ||
		fread(params, 1, (size_t) size, file) != (size_t) size)
		fail(options->param_path, "could not read the parameters");
	fclose(file);
	return params;
}

/* A binary int4 or int8 */
static int64_t
decode_id(const char *value, int length)
{
	uint64_t	eight;
	uint32_t	four;

	if (length == 4)
	{
		memcpy(&four, value, 4);
		return (int32_t) be32toh(four);
	}
	if (length != 8)
		fail("unexpected answer", "the first column is neither integer nor bigint");
	memcpy(&eight, value, 8);
	return (int64_t) be64toh(eight);
}

static void
ask(PGconn *connection, const Run *run, int64_t query)
{
	const char *value = run->params + (size_t) query * run->options.param_bytes;
	int			length = (int) run->options.param_bytes;
	int			format = 1;
	PGresult   *result = PQexecPrepared(connection, "q", 1, &value, &length, &format, 1);
	ExecStatusType status = PQresultStatus(result);
	int64_t    *ids = run->ids + query * run->options.k;

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		fail("query failed", PQerrorMessage(connection));
	for (int64_t i = 0; i < run->options.k; i++)
		ids[i] = i < PQntuples(result) ?
			decode_id(PQgetvalue(result, (int) i, 0), PQgetlength(result, (int) i, 0)) : -1;
	PQclear(result);
}

static PGconn *
connect_and_prepare(const Options *options)
{
	PGconn	   *connection = PQconnectdb("");
	PGresult   *result;

	if (PQstatus(connection) != CONNECTION_OK)
		fail("could not connect", PQerrorMessage(connection));
	result = PQexec(connection, options->setup);
	if (PQresultStatus(result) != PGRES_COMMAND_OK &&
		PQresultStatus(result) != PGRES_TUPLES_OK &&
		PQresultStatus(result) != PGRES_EMPTY_QUERY)
		fail(options->setup, PQerrorMessage(connection));
	PQclear(result);
	result = PQprepare(connection, "q", options->sql, 0, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		fail(options->sql, PQerrorMessage(connection));
	PQclear(result);
	return connection;
}

static void
wait_for_others(const Run *run)
{
	struct timespec pause = {0, 100000};

	atomic_fetch_add(&run->shared->nready, 1);
	while (atomic_load(&run->shared->nready) < run->options.nclients)
	{
		if (atomic_load(&run->shared->has_failed))
			exit(1);
		nanosleep(&pause, NULL);
	}
}

static bool
is_over(const Options *options, double elapsed)
{
	return options->most_seconds > 0 && elapsed >= options->most_seconds;
}

static void
run_client(const Run *run, int64_t number)
{
	const Options *options = &run->options;
	Client	   *client = &run->clients[number];
	float	   *latencies = run->latencies + number * MAX_LATENCIES;
	int64_t		first = number * run->nqueries / options->nclients;
	int64_t		share = (run->nqueries + options->nclients - 1) / options->nclients;
	PGconn	   *connection = connect_and_prepare(options);
	double		before,
				after;

	before = now_seconds();
	for (int64_t i = 0; i < options->warmup && !is_over(options, now_seconds() - before); i++)
		ask(connection, run, (first + i) % run->nqueries);
	wait_for_others(run);

	client->start = after = now_seconds();
	while (client->count < MAX_LATENCIES && !is_over(options, after - client->start))
	{
		if (options->limit > 0 ? client->count >= options->limit :
			client->count >= share && after - client->start >= options->seconds)
			break;
		before = after;
		ask(connection, run, (first + client->count) % run->nqueries);
		after = now_seconds();
		latencies[client->count++] = (float) (after - before);
	}
	client->end = after;
	PQfinish(connection);
}

static void
run_all(const Run *run)
{
	int			status;

	for (int64_t number = 0; number < run->options.nclients; number++)
	{
		pid_t		child = fork();

		if (child < 0)
			fail("could not fork", strerror(errno));
		if (child == 0)
		{
			run_client(run, number);
			exit(0);
		}
	}
	while (wait(&status) > 0)
		if (status != 0)
			atomic_store(&run->shared->has_failed, 1);
	if (atomic_load(&run->shared->has_failed))
		exit(1);
}

static void
write_results(const Run *run)
{
	const Options *options = &run->options;
	int64_t		header[3] = {run->nqueries, options->k, options->nclients};
	size_t		nids = (size_t) (run->nqueries * options->k);
	FILE	   *file = fopen(options->out_path, "wb");

	if (file == NULL)
		fail(options->out_path, strerror(errno));
	fwrite(header, sizeof(header), 1, file);
	fwrite(run->clients, sizeof(Client), (size_t) options->nclients, file);
	fwrite(run->ids, sizeof(int64_t), nids, file);
	for (int64_t i = 0; i < options->nclients; i++)
		fwrite(run->latencies + i * MAX_LATENCIES, sizeof(float),
			   (size_t) run->clients[i].count, file);
	if (ferror(file) || fclose(file) != 0)
		fail(options->out_path, "could not write the results");
}

static Options
parse_options(int argc, char **argv)
{
	Options		options = {.setup = "", .nclients = 1, .k = 10, .seconds = 1};
	int			letter;

	while ((letter = getopt(argc, argv, "q:s:p:o:b:k:c:w:n:t:T:")) != -1)
	{
		switch (letter)
		{
			case 'q': options.sql = optarg; break;
			case 's': options.setup = optarg; break;
			case 'p': options.param_path = optarg; break;
			case 'o': options.out_path = optarg; break;
			case 'b': options.param_bytes = strtoul(optarg, NULL, 10); break;
			case 'k': options.k = strtol(optarg, NULL, 10); break;
			case 'c': options.nclients = strtol(optarg, NULL, 10); break;
			case 'w': options.warmup = strtol(optarg, NULL, 10); break;
			case 'n': options.limit = strtol(optarg, NULL, 10); break;
			case 't': options.seconds = strtod(optarg, NULL); break;
			case 'T': options.most_seconds = strtod(optarg, NULL); break;
			default: exit(2);
		}
	}
	if (options.sql == NULL || options.param_path == NULL || options.out_path == NULL ||
		options.param_bytes == 0 || options.k < 0 || options.nclients < 1)
		fail("usage", "-q SQL -p PARAMETERS -b BYTES_EACH -o OUTPUT [-s SETUP] [-k ROWS] "
			 "[-c CLIENTS] [-w WARMUP] [-t SECONDS | -n QUERIES] [-T MOST_SECONDS]");
	return options;
}

int
main(int argc, char **argv)
{
	Run			run = {.options = parse_options(argc, argv)};
	size_t		nclients = (size_t) run.options.nclients;
	size_t		nids;

	run.params = read_params(&run.options, &run.nqueries);
	nids = (size_t) (run.nqueries * run.options.k);
	run.shared = shared_memory(sizeof(Shared));
	run.clients = shared_memory(nclients * sizeof(Client));
	run.ids = shared_memory((nids + 1) * sizeof(int64_t));
	run.latencies = shared_memory(nclients * MAX_LATENCIES * sizeof(float));
	memset(run.ids, 0xff, nids * sizeof(int64_t));
	run_all(&run);
	write_results(&run);
	return 0;
}
