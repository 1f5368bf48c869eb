/*-------------------------------------------------------------------------
 *
 * main.c
 *	  Runs the unit tests of src/kernels and of what src/gpu has without a GPU.
 *
 *		unit [name]		run the tests whose name contains this, or all
 *		unit --jobs N	run all, in so many processes
 *		unit --list		print the names of the tests
 *
 * Prints one line per failing test, after what its checks had to say, and at
 * the end how many passed and failed.  A process that dies is one that failed.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int			checks_failed;

static const char *name_filter = "";
static bool list_only = false;
static int	njobs = 1;
static int	job;				/* of njobs: which of the tests are this process's */
static int	ntests;
static int	npassed;
static int	nfailed;

#define MAX_JOBS	64

static void (*const suites[]) (void) = {
	suite_vq_kernels,
	suite_vq_block,
	suite_vq_attribute,
	suite_vq_rng,
	suite_vq_rotate,
	suite_vq_select,
	suite_vq_pq,
	suite_vq_kmeans,
	suite_vq_panels,
	suite_vq_neighbours,
	suite_vq_spread,
	suite_vq_project,
	suite_vq_codec,
#ifndef WITHOUT_GPU
	suite_vq_gpu,
#endif
};

void
run_test(const char *name, void (*test) (void))
{
	if (strstr(name, name_filter) == NULL)
		return;
	if (list_only)
	{
		puts(name);
		return;
	}
	if (ntests++ % njobs != job)
		return;

	checks_failed = 0;
	test();
	if (checks_failed == 0)
		npassed++;
	else
	{
		nfailed++;
		printf("FAILED %s (%d checks)\n", name, checks_failed);
		fflush(stdout);
	}
}

static void
run_suites(void)
{
	for (size_t i = 0; i < sizeof(suites) / sizeof(suites[0]); i++)
		suites[i] ();
}

/* Each job tells how many of its tests passed and failed */
static void
run_jobs(void)
{
	int			pipes[MAX_JOBS][2];

	fflush(stdout);
	for (job = 0; job < njobs; job++)
	{
		pid_t		child;

		if (pipe(pipes[job]) != 0 || (child = fork()) < 0)
		{
			perror("unit");
			exit(2);
		}
		if (child == 0)
		{
			int			counts[2];

			run_suites();
			counts[0] = npassed;
			counts[1] = nfailed;
			exit(write(pipes[job][1], counts, sizeof(counts)) != sizeof(counts));
		}
		close(pipes[job][1]);
	}
	for (int i = 0; i < njobs; i++)
	{
		int			counts[2];
		int			status;

		if (read(pipes[i][0], counts, sizeof(counts)) != sizeof(counts))
		{
			printf("FAILED: process %d has not come to its end\n", i);
			counts[0] = 0;
			counts[1] = 1;
		}
		npassed += counts[0];
		nfailed += counts[1];
		if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
			nfailed++;
	}
}

int
main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--list") == 0)
		list_only = true;
	else if (argc > 2 && strcmp(argv[1], "--jobs") == 0)
		njobs = atoi(argv[2]);
	else if (argc > 1)
		name_filter = argv[1];

	if (njobs > 1 && njobs <= MAX_JOBS)
		run_jobs();
	else
	{
		njobs = 1;
		run_suites();
	}

	if (!list_only)
		printf("%d passed, %d failed\n", npassed, nfailed);
	return nfailed > 0;
}
