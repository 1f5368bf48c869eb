/*-------------------------------------------------------------------------
 *
 * check.h
 *	  The few checks that unit tests are written with.
 *
 * A failing check prints where and what, counts, and goes on, so that one run
 * shows everything that is wrong.  A test is a static function named after
 * the claim it proves; a suite runs the tests of one module with RUN_TEST.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>

extern int	checks_failed;		/* in the test that runs now */
extern void run_test(const char *name, void (*test) (void));

#define RUN_TEST(test) run_test(#test, test)

/* CHECK(condition, "format", values...): the text says what was got and wanted */
#define CHECK(condition, ...) \
	do { \
		if (!(condition)) \
		{ \
			checks_failed++; \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
			fprintf(stderr, __VA_ARGS__); \
			fputc('\n', stderr); \
		} \
	} while (0)

extern void suite_vq_kernels(void);
extern void suite_vq_block(void);
extern void suite_vq_attribute(void);
extern void suite_vq_rng(void);
extern void suite_vq_rotate(void);
extern void suite_vq_select(void);
extern void suite_vq_pq(void);
extern void suite_vq_kmeans(void);
extern void suite_vq_panels(void);
extern void suite_vq_neighbours(void);
extern void suite_vq_spread(void);
extern void suite_vq_project(void);
extern void suite_vq_codec(void);
extern void suite_vq_gpu(void);

#endif							/* CHECK_H */
