/*-------------------------------------------------------------------------
 *
 * main.c
 *	  Runs the unit tests of src/kernels and of what src/gpu has without a GPU.
 *
 *		unit [name]		run the tests whose name contains this, or all
 *		unit --list		print the names of the tests
 *
 * Prints one line per failing test, after what its checks had to say, and at
 * the end how many passed and failed.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include <stdbool.h>
#include <string.h>

int			checks_failed;

static const char *name_filter = "";
static bool list_only = false;
static int	npassed;
static int	nfailed;

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

int
main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--list") == 0)
		list_only = true;
	else if (argc > 1)
		name_filter = argv[1];

	for (size_t i = 0; i < sizeof(suites) / sizeof(suites[0]); i++)
		suites[i] ();

	if (!list_only)
		printf("%d passed, %d failed\n", npassed, nfailed);
	return nfailed > 0;
}
