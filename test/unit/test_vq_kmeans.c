/*-------------------------------------------------------------------------
 *
 * test_vq_kmeans.c
 *	  Clusters are found, empty centroids are given work, nothing hangs on
 *	  data that has fewer points than centroids.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include "kernels/vq_kmeans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One training over rows held in memory, as the glue does it over chunks */
typedef struct Training
{
	size_t		nrows;
	size_t		ncentroids;
	size_t		dim;
	float	   *rows;
	float	   *centroids;
	float	   *norms;
	uint32_t   *labels;
	float	   *distances;
	VqKmeansSums sums;
	size_t		nreseeded;		/* in the last iteration */
} Training;

static void
training_open(Training *training, size_t nrows, size_t ncentroids, size_t dim)
{
	training->nrows = nrows;
	training->ncentroids = ncentroids;
	training->dim = dim;
	training->rows = calloc(nrows * dim, sizeof(float));
	training->centroids = calloc(ncentroids * dim, sizeof(float));
	training->norms = malloc(ncentroids * sizeof(float));
	training->labels = malloc(nrows * sizeof(uint32_t));
	training->distances = malloc(nrows * sizeof(float));
	training->sums.ncentroids = ncentroids;
	training->sums.dim = dim;
	training->sums.sums = malloc(ncentroids * dim * sizeof(double));
	training->sums.counts = malloc(ncentroids * sizeof(uint64_t));
	training->nreseeded = 0;
}

static void
training_close(Training *training)
{
	free(training->rows);
	free(training->centroids);
	free(training->norms);
	free(training->labels);
	free(training->distances);
	free(training->sums.sums);
	free(training->sums.counts);
}

/* Label all rows and sum them up, in chunks of 100 */
static void
training_assign(Training *training)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");
	float	   *work = malloc(vq_kmeans_assign_floats(100, training->ncentroids) * sizeof(float));

	vq_kmeans_norms(kernels, training->centroids, training->ncentroids, training->dim, training->norms);
	vq_kmeans_clear(&training->sums);
	for (size_t start = 0; start < training->nrows; start += 100)
	{
		size_t		nrows = training->nrows - start < 100 ? training->nrows - start : 100;
		const float *rows = training->rows + start * training->dim;

		vq_kmeans_assign(kernels, &vq_blas_builtin, rows, nrows,
						 training->centroids, training->norms, training->ncentroids, training->dim,
						 work, training->labels + start, training->distances + start);
		vq_kmeans_accumulate(kernels, &training->sums, rows, nrows,
							 training->labels + start, training->distances + start);
	}
	free(work);
}

static void
training_run(Training *training, size_t niter)
{
	VqRng		rng;

	vq_rng_seed(&rng, 11);
	for (size_t iteration = 0; iteration < niter; iteration++)
	{
		training_assign(training);
		training->nreseeded = vq_kmeans_update(&training->sums, &rng, training->centroids);
	}
	training_assign(training);
}

static size_t
count_empty(const Training *training)
{
	size_t		nempty = 0;

	for (size_t j = 0; j < training->ncentroids; j++)
		nempty += training->sums.counts[j] == 0;
	return nempty;
}

static void
check_finite(const Training *training, const char *what)
{
	size_t		nbad = 0;

	for (size_t i = 0; i < training->ncentroids * training->dim; i++)
		nbad += !isfinite(training->centroids[i]);
	CHECK(nbad == 0, "%s: %zu numbers are not finite", what, nbad);
}

static float
noise(VqRng *rng)
{
	return (float) (vq_rng_double(rng) * 2 - 1);
}

/* ncentroids clusters, far apart, of equal size; row i is of cluster i % ncentroids */
static void
fill_clusters(Training *training, size_t nclusters)
{
	float	   *centres = malloc(nclusters * training->dim * sizeof(float));
	VqRng		rng;

	vq_rng_seed(&rng, 12);
	for (size_t i = 0; i < nclusters * training->dim; i++)
		centres[i] = noise(&rng) * 100;
	for (size_t i = 0; i < training->nrows * training->dim; i++)
	{
		size_t		cluster = i / training->dim % nclusters;

		training->rows[i] = centres[cluster * training->dim + i % training->dim] + noise(&rng);
	}
	free(centres);
}

static void
test_products_agree_with_sums(void)
{
	static const size_t shapes[][3] = {
		{1, 1, 1}, {3, 5, 7}, {2, 4, 8}, {5, 9, 33}, {7, 64, 100}, {1, 3, 5000}, {4, 6, 300},
	};

	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
	{
		size_t		rows = shapes[i][0];
		size_t		cols = shapes[i][1];
		size_t		dim = shapes[i][2];
		float	   *a = malloc(rows * dim * sizeof(float));
		float	   *b = malloc(cols * dim * sizeof(float));
		float	   *c = malloc(rows * cols * sizeof(float));
		VqRng		rng;

		vq_rng_seed(&rng, 13);
		for (size_t k = 0; k < rows * dim; k++)
			a[k] = noise(&rng);
		for (size_t k = 0; k < cols * dim; k++)
			b[k] = noise(&rng);
		vq_blas_builtin.products(rows, cols, dim, a, b, c);
		for (size_t k = 0; k < rows * cols; k++)
		{
			double		want = 0;

			for (size_t t = 0; t < dim; t++)
				want += (double) a[k / cols * dim + t] * b[k % cols * dim + t];
			CHECK(fabs(c[k] - want) < 1e-6 * (double) dim, "shape %zu product %zu: got %g, want %g", i, k, c[k], want);
			c[k] = (float) (1 - want);
		}
		vq_blas_builtin.add_products(rows, cols, dim, a, b, c);
		for (size_t k = 0; k < rows * cols; k++)
			CHECK(fabs(c[k] - 1) < 2e-6 * (double) dim, "shape %zu product %zu: got %g, want 1", i, k, c[k]);
		free(a);
		free(b);
		free(c);
	}
}

static void
test_assign_finds_the_nearest_and_its_distance(void)
{
	static const size_t counts[] = {1, 2, 15, 16, 17, 31, 33, 100};

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
	{
		Training	training;
		VqRng		rng;

		training_open(&training, 50, counts[i], 9);
		vq_rng_seed(&rng, 14);
		for (size_t k = 0; k < 50 * 9; k++)
			training.rows[k] = noise(&rng);
		for (size_t k = 0; k < counts[i] * 9; k++)
			training.centroids[k] = noise(&rng);
		training_assign(&training);
		for (size_t row = 0; row < 50; row++)
		{
			double		nearest = INFINITY;
			size_t		nearest_at = 0;

			for (size_t j = 0; j < counts[i]; j++)
			{
				double		distance = 0;

				for (size_t t = 0; t < 9; t++)
				{
					double		difference = (double) training.rows[row * 9 + t] - training.centroids[j * 9 + t];

					distance += difference * difference;
				}
				if (distance < nearest)
				{
					nearest = distance;
					nearest_at = j;
				}
			}
			CHECK(training.labels[row] == nearest_at, "%zu centroids, row %zu: got %u, want %zu",
				  counts[i], row, training.labels[row], nearest_at);
			CHECK(fabs(training.distances[row] - nearest) < 1e-5, "%zu centroids, row %zu: got %g, want %g",
				  counts[i], row, training.distances[row], nearest);
		}
		training_close(&training);
	}
}

static void
test_assign_takes_the_lowest_on_a_tie(void)
{
	Training	training;

	/* Centroids 3, 20 and 39 are the same, as are all others */
	training_open(&training, 1, 40, 4);
	training.rows[0] = 1;
	training.centroids[3 * 4] = 1;
	training.centroids[20 * 4] = 1;
	training.centroids[39 * 4] = 1;
	training_assign(&training);
	CHECK(training.labels[0] == 3, "got %u, want 3", training.labels[0]);
	training.rows[0] = -1;
	training_assign(&training);
	CHECK(training.labels[0] == 0, "got %u, want 0", training.labels[0]);
	training_close(&training);
}

static void
test_training_separates_clusters(void)
{
	Training	training;
	uint32_t	label_of[10];
	size_t		nwrong = 0;

	training_open(&training, 1000, 10, 20);
	fill_clusters(&training, 10);

	/* One row of each cluster, as lucky sampling would give */
	memcpy(training.centroids, training.rows, 10 * 20 * sizeof(float));
	training_run(&training, 3);
	for (size_t i = 0; i < 1000; i++)
	{
		if (i < 10)
			label_of[i] = training.labels[i];
		nwrong += training.labels[i] != label_of[i % 10];
	}
	CHECK(nwrong == 0, "%zu rows are not with their cluster", nwrong);
	CHECK(count_empty(&training) == 0, "%zu centroids are empty", count_empty(&training));
	CHECK(training.sums.error / 1000 < 20, "mean squared distance is %g", training.sums.error / 1000);
	training_close(&training);
}

static void
test_means_are_exact(void)
{
	Training	training;
	VqRng		rng;

	training_open(&training, 4, 2, 3);
	for (size_t i = 0; i < 12; i++)
		training.rows[i] = (float) (i * i);
	training.labels[0] = training.labels[1] = training.labels[3] = 1;
	training.labels[2] = 0;
	vq_kmeans_clear(&training.sums);
	vq_kmeans_accumulate(&vq_kernels_scalar, &training.sums, training.rows, 4, training.labels, NULL);
	vq_rng_seed(&rng, 1);
	CHECK(vq_kmeans_update(&training.sums, &rng, training.centroids) == 0, "something was reseeded");
	for (size_t t = 0; t < 3; t++)
	{
		float		want = (training.rows[t] + training.rows[3 + t] + training.rows[9 + t]) / 3;

		CHECK(training.centroids[t] == training.rows[6 + t], "got %g", training.centroids[t]);
		CHECK(training.centroids[3 + t] == want, "got %g, want %g", training.centroids[3 + t], want);
	}
	training_close(&training);
}

/* Whichever way rows have come to their labels */
static void
test_moved_rows_leave_the_sums_that_labels_say(void)
{
	const size_t nrows = 60;
	Training	training;
	Training	moved;
	uint32_t	before[60];
	VqRng		rng;

	training_open(&training, nrows, 7, 5);
	training_open(&moved, nrows, 7, 5);
	vq_rng_seed(&rng, 3);
	for (size_t i = 0; i < nrows * 5; i++)
		training.rows[i] = (float) (vq_rng_double(&rng) - 0.5);
	for (size_t i = 0; i < nrows; i++)
		before[i] = VQ_NO_LABEL;
	vq_kmeans_clear(&moved.sums);
	for (int round = 0; round < 4; round++)
	{
		for (size_t i = 0; i < nrows; i++)
			if (round == 0 || i % 3 == 0)
				training.labels[i] = (uint32_t) vq_rng_below(&rng, 7);
		vq_kmeans_move(&vq_kernels_scalar, &moved.sums, training.rows, nrows, before, training.labels);
		memcpy(before, training.labels, nrows * sizeof(uint32_t));
	}
	vq_kmeans_clear(&training.sums);
	vq_kmeans_accumulate(&vq_kernels_scalar, &training.sums, training.rows, nrows, training.labels, NULL);
	for (size_t j = 0; j < 7; j++)
	{
		CHECK(moved.sums.counts[j] == training.sums.counts[j], "%zu has %llu rows", j,
			  (unsigned long long) moved.sums.counts[j]);
		for (size_t d = 0; d < 5; d++)
			CHECK(fabs(moved.sums.sums[j * 5 + d] - training.sums.sums[j * 5 + d]) < 1e-12, "sum %zu of %zu is %g", d, j,
				  moved.sums.sums[j * 5 + d]);
	}
	training_close(&training);
	training_close(&moved);
}

static void
test_nothing_is_left_of_rows_that_have_gone(void)
{
	const uint32_t first[2] = {0, 0};
	const uint32_t second[2] = {1, 1};
	const uint32_t none[2] = {VQ_NO_LABEL, VQ_NO_LABEL};
	const float rows[2] = {1e30f, 1};
	Training	training;

	/* 1e30 + 1 - 1e30 - 1 is not 0 */
	training_open(&training, 2, 2, 1);
	vq_kmeans_clear(&training.sums);
	vq_kmeans_move(&vq_kernels_scalar, &training.sums, rows, 2, none, first);
	vq_kmeans_move(&vq_kernels_scalar, &training.sums, rows, 2, first, second);
	CHECK(training.sums.counts[0] == 0 && training.sums.sums[0] == 0, "%llu rows have the sum %g",
		  (unsigned long long) training.sums.counts[0], training.sums.sums[0]);
	CHECK(training.sums.counts[1] == 2 && training.sums.sums[1] == (double) 1e30f + 1, "%llu rows have the sum %g",
		  (unsigned long long) training.sums.counts[1], training.sums.sums[1]);
	training_close(&training);
}

static void
test_empty_centroids_are_reseeded(void)
{
	Training	training;

	/* All centroids but the first are where no row is, and most rows in one cluster */
	training_open(&training, 1000, 20, 8);
	fill_clusters(&training, 10);
	memcpy(training.centroids, training.rows, 8 * sizeof(float));
	for (size_t i = 8; i < 20 * 8; i++)
		training.centroids[i] = 1e6f;
	training_run(&training, 1);
	CHECK(training.nreseeded == 19, "%zu were reseeded, want 19", training.nreseeded);
	training_run(&training, 15);
	CHECK(count_empty(&training) == 0, "%zu centroids are empty", count_empty(&training));
	CHECK(vq_kmeans_imbalance(training.sums.counts, 20) < 2, "imbalance is %g",
		  vq_kmeans_imbalance(training.sums.counts, 20));
	check_finite(&training, "centroids");
	training_close(&training);
}

static void
test_splits_share_the_crowd_evenly(void)
{
	Training	training;
	VqRng		rng;
	uint64_t	largest = 0;
	uint64_t	total = 0;

	training_open(&training, 1, 1000, 2);
	vq_kmeans_clear(&training.sums);
	training.sums.counts[7] = 64000;
	training.sums.counts[8] = 36000;
	training.sums.sums[14] = 64000;
	training.sums.sums[16] = 72000;
	vq_rng_seed(&rng, 15);
	CHECK(vq_kmeans_update(&training.sums, &rng, training.centroids) == 998, "not all were reseeded");
	for (size_t j = 0; j < 1000; j++)
	{
		largest = training.sums.counts[j] > largest ? training.sums.counts[j] : largest;
		total += training.sums.counts[j];
	}
	CHECK(total == 100000, "rows add up to %llu", (unsigned long long) total);
	CHECK(largest <= 144, "the most crowded is left with %llu", (unsigned long long) largest);
	training_close(&training);
}

static void
test_equal_rows_end_and_stay_finite(void)
{
	static const float values[] = {0, 1, 1e-30f, -1e15f};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
	{
		Training	training;

		training_open(&training, 300, 40, 5);
		for (size_t k = 0; k < 300 * 5; k++)
			training.rows[k] = values[i];
		memcpy(training.centroids, training.rows, 40 * 5 * sizeof(float));
		training_run(&training, 5);
		check_finite(&training, "centroids of equal rows");
		for (size_t row = 0; row < 300; row++)
			CHECK(training.distances[row] <= 1e-5f * values[i] * values[i], "row %zu is %g away", row, training.distances[row]);
		training_close(&training);
	}
}

static void
test_fewer_rows_than_centroids_end_and_stay_finite(void)
{
	Training	training;

	training_open(&training, 3, 50, 4);
	fill_clusters(&training, 3);
	for (size_t i = 0; i < 50; i++)
		memcpy(training.centroids + i * 4, training.rows + i % 3 * 4, 4 * sizeof(float));
	training_run(&training, 5);
	check_finite(&training, "centroids of three rows");
	for (size_t row = 0; row < 3; row++)
		CHECK(training.distances[row] < 1, "row %zu is %g away", row, training.distances[row]);
	training_close(&training);
}

static void
test_update_without_rows_changes_nothing(void)
{
	Training	training;
	VqRng		rng;

	training_open(&training, 1, 3, 2);
	for (size_t i = 0; i < 6; i++)
		training.centroids[i] = (float) i;
	vq_kmeans_clear(&training.sums);
	vq_rng_seed(&rng, 1);
	CHECK(vq_kmeans_update(&training.sums, &rng, training.centroids) == 0, "something was reseeded");
	for (size_t i = 0; i < 6; i++)
		CHECK(training.centroids[i] == (float) i, "centroid float %zu is %g", i, training.centroids[i]);
	training_close(&training);
}

static void
test_imbalance_is_one_when_balanced(void)
{
	static const uint64_t balanced[] = {5, 5, 5, 5};
	static const uint64_t skewed[] = {20, 0, 0, 0};
	static const uint64_t nothing[] = {0, 0, 0, 0};

	CHECK(vq_kmeans_imbalance(balanced, 4) == 1, "got %g", vq_kmeans_imbalance(balanced, 4));
	CHECK(vq_kmeans_imbalance(skewed, 4) == 4, "got %g", vq_kmeans_imbalance(skewed, 4));
	CHECK(vq_kmeans_imbalance(nothing, 4) == 1, "got %g", vq_kmeans_imbalance(nothing, 4));
}

static void
test_balancing_moves_tiny_centroids_to_crowded_ones(void)
{
	static const uint64_t counts[] = {100, 2, 310, 100, 1, 105, 250, 100};
	float		centroids[8][2];
	VqKmeansSize sizes[8];
	VqRng		rng;

	for (size_t j = 0; j < 8; j++)
	{
		centroids[j][0] = centroids[j][1] = (float) (j + 1);
		sizes[j] = (VqKmeansSize) {.count = counts[j],.centroid = (uint32_t) j};
	}
	qsort(sizes, 8, sizeof(VqKmeansSize), vq_kmeans_compare_sizes);
	CHECK(sizes[2].centroid == 0 && sizes[3].centroid == 3 && sizes[4].centroid == 7, "equal ones are in another order");
	vq_rng_seed(&rng, 1);
	CHECK(vq_kmeans_balance(sizes, 8, 2, &rng, &centroids[0][0]) == 2, "not two were moved");
	for (size_t d = 0; d < 2; d++)
	{
		CHECK(fabsf(centroids[4][d] - 3) < 0.01f && centroids[4][d] != centroids[2][d], "got %g", centroids[4][d]);
		CHECK(fabsf(centroids[1][d] - 7) < 0.01f && centroids[1][d] != centroids[6][d], "got %g", centroids[1][d]);
		CHECK(centroids[0][d] == 1 && centroids[3][d] == 4 && centroids[5][d] == 6 && centroids[7][d] == 8,
			  "one that is as it should be was moved");
	}
}

static void
test_balancing_leaves_what_would_not_pay(void)
{
	VqKmeansSize sizes[201];
	float		centroids[201] = {0};
	VqRng		rng;

	/* two of 200 are one in a hundred, of 201 less */
	for (size_t n = 200; n <= 201; n++)
	{
		for (size_t j = 0; j < n; j++)
			sizes[j] = (VqKmeansSize) {.count = j < 2 ? 1 : j >= n - 2 ? 1000 : 100,.centroid = (uint32_t) j};
		vq_rng_seed(&rng, 1);
		CHECK(vq_kmeans_balance(sizes, n, 1, &rng, centroids) == (n == 200 ? 2 : 0), "of %zu", n);
	}
}

/* Of n points around (1, 2, 3) and nfar far ones in other directions, the centre is that of the n */
static void
test_centre_leaves_out_what_is_far(void)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");

	for (size_t n = 10; n <= 60; n++)
		for (size_t nfar = 0; nfar <= n / 10; nfar++)
			for (double distance = 1e3; distance <= 1e15; distance *= 1e3)
			{
				float		points[75][3];
				float		work[150];
				float		centre[3];
				double		want[3] = {0};
				VqRng		rng;

				vq_rng_seed(&rng, n);
				for (size_t i = 0; i < n + nfar; i++)
					for (size_t d = 0; d < 3; d++)
					{
						double		value = vq_rng_double(&rng) - 0.5;

						/* far ones first and last */
						if (i < nfar / 2 || i >= n + nfar / 2)
							points[i][d] = (float) ((value < 0 ? value - 1 : value + 1) * distance);
						else
							want[d] += points[i][d] = (float) (value + (double) d + 1);
					}
				vq_kmeans_centre(kernels, &points[0][0], n + nfar, 3, work, centre);
				for (size_t d = 0; d < 3; d++)
					CHECK(fabs(centre[d] - want[d] / (double) n) < 1e-5, "%zu and %zu at %g: %g, not %g", n, nfar, distance,
						  (double) centre[d], want[d] / (double) n);
			}
}

static void
test_centre_of_odd_points(void)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");
	float		points[6][2] = {{1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {NAN, 1}};
	float		work[12];
	float		centre[2] = {5, 5};

	vq_kmeans_centre(kernels, &points[0][0], 5, 2, work, centre);
	CHECK(centre[0] == 1 && centre[1] == 1, "of equal points: %g %g", (double) centre[0], (double) centre[1]);
	vq_kmeans_centre(kernels, &points[0][0], 0, 2, work, centre);
	CHECK(centre[0] == 0 && centre[1] == 0, "of none: %g %g", (double) centre[0], (double) centre[1]);

	/* whatever the result, it ends */
	vq_kmeans_centre(kernels, &points[0][0], 6, 2, work, centre);
	points[5][0] = 3e38f;
	vq_kmeans_centre(kernels, &points[0][0], 6, 2, work, centre);
	points[4][0] = INFINITY;
	vq_kmeans_centre(kernels, &points[0][0], 6, 2, work, centre);
}

void
suite_vq_kmeans(void)
{
	RUN_TEST(test_products_agree_with_sums);
	RUN_TEST(test_assign_finds_the_nearest_and_its_distance);
	RUN_TEST(test_assign_takes_the_lowest_on_a_tie);
	RUN_TEST(test_training_separates_clusters);
	RUN_TEST(test_means_are_exact);
	RUN_TEST(test_moved_rows_leave_the_sums_that_labels_say);
	RUN_TEST(test_nothing_is_left_of_rows_that_have_gone);
	RUN_TEST(test_empty_centroids_are_reseeded);
	RUN_TEST(test_splits_share_the_crowd_evenly);
	RUN_TEST(test_equal_rows_end_and_stay_finite);
	RUN_TEST(test_fewer_rows_than_centroids_end_and_stay_finite);
	RUN_TEST(test_update_without_rows_changes_nothing);
	RUN_TEST(test_imbalance_is_one_when_balanced);
	RUN_TEST(test_balancing_moves_tiny_centroids_to_crowded_ones);
	RUN_TEST(test_balancing_leaves_what_would_not_pay);
	RUN_TEST(test_centre_leaves_out_what_is_far);
	RUN_TEST(test_centre_of_odd_points);
}
