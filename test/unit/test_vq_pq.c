/*-------------------------------------------------------------------------
 *
 * test_vq_pq.c
 *	  Codebooks get better by training, and tables of bytes stay within the
 *	  error they state.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"

#include "kernels/vq_pq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static float
random_gaussian(VqRng *rng)
{
	double		radius = sqrt(-2 * log(1 - vq_rng_double(rng)));

	return (float) (radius * cos(6.283185307179586 * vq_rng_double(rng)));
}

/* Rows of correlated gaussians: neighbours in a sub-quantiser share half of what they are */
static float *
new_rows(uint64_t seed, size_t nrows, size_t dim)
{
	float	   *rows = malloc((nrows > 0 ? nrows : 1) * dim * sizeof(float));
	VqRng		rng;

	vq_rng_seed(&rng, seed);
	for (size_t i = 0; i < nrows; i++)
	{
		float		last = 0;

		for (size_t t = 0; t < dim; t++)
		{
			last = last / 2 + random_gaussian(&rng);
			rows[i * dim + t] = last;
		}
	}
	return rows;
}

static void
train(const VqKernels *kernels, const VqPq *pq, const float *rows, size_t nrows, size_t niter, float *codebook)
{
	double	   *sums = malloc(vq_pq_sums_doubles(pq) * sizeof(double));
	uint8_t    *codes = malloc(pq->m);

	vq_pq_train(kernels, pq, rows, nrows, niter, 42, sums, codes, codebook);
	free(sums);
	free(codes);
}

/* Mean squared distance between rows and what their codes stand for */
static double
coding_error(const VqKernels *kernels, const VqPq *pq, const float *codebook, const float *rows, size_t nrows)
{
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	uint8_t    *codes = malloc(pq->m);
	float	   *decoded = malloc(padded_dim * sizeof(float));
	double		error = 0;

	for (size_t i = 0; i < nrows; i++)
	{
		kernels->pq_encode(rows + i * padded_dim, codebook, pq->m, pq->dsub, pq->ksub, codes);
		vq_pq_decode(pq, codebook, codes, decoded);
		error += kernels->l2sq_f32(rows + i * padded_dim, decoded, padded_dim);
	}
	free(codes);
	free(decoded);
	return error / (double) nrows;
}

static void
check_finite(const float *values, size_t nvalues, const char *what)
{
	size_t		nbad = 0;

	for (size_t i = 0; i < nvalues; i++)
		nbad += !isfinite(values[i]);
	CHECK(nbad == 0, "%s: %zu of %zu numbers are not finite", what, nbad, nvalues);
}

static void
test_init_derives_the_shape(void)
{
	static const struct
	{
		size_t		dim;
		size_t		m;
		size_t		nbits;
		VqStatus	status;
		uint32_t	dsub;
		uint32_t	ksub;
	}			cases[] = {
		{1, 1, 4, VQ_OK, 1, 16},
		{300, 150, 4, VQ_OK, 2, 16},
		{300, 7, 8, VQ_OK, 43, 256},
		{VQ_MAX_DIM, VQ_MAX_DIM, 8, VQ_OK, 1, 256},
		{0, 1, 4, VQ_BAD_ARGUMENT, 0, 0},
		{8, 0, 4, VQ_BAD_ARGUMENT, 0, 0},
		{8, 9, 4, VQ_BAD_ARGUMENT, 0, 0},
		{8, 4, 5, VQ_BAD_ARGUMENT, 0, 0},
		{8, 4, 0, VQ_BAD_ARGUMENT, 0, 0},
		{VQ_MAX_DIM + 1, 4, 4, VQ_BAD_ARGUMENT, 0, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		VqPq		pq;
		VqStatus	status = vq_pq_init(&pq, cases[i].dim, cases[i].m, cases[i].nbits);

		CHECK(status == cases[i].status, "case %zu: status %d, want %d", i, (int) status, (int) cases[i].status);
		if (status != VQ_OK)
			continue;
		CHECK(pq.dsub == cases[i].dsub && pq.ksub == cases[i].ksub, "case %zu: dsub %u, ksub %u", i, pq.dsub, pq.ksub);
		CHECK(vq_pq_codebook_floats(&pq) == cases[i].m * cases[i].dsub * cases[i].ksub,
			  "case %zu: %zu floats", i, vq_pq_codebook_floats(&pq));
	}
}

static void
test_training_beats_random_rows(void)
{
	static const struct
	{
		size_t		dim;
		size_t		m;
		size_t		nbits;
		double		gain;		/* error after training by error before, at most */
	}			cases[] = {
		{4, 2, 4, 0.85},
		{5, 2, 4, 0.9},			/* padded */
		{3, 3, 4, 0.7},			/* one dimension each */
		{8, 1, 4, 0.95},
		{4, 2, 8, 0.9},
	};

	for (size_t table = 0; vq_kernels_all[table] != NULL; table++)
	{
		const VqKernels *kernels = vq_kernels_all[table];

		if (!vq_kernels_supported(kernels))
			continue;
		for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		{
			size_t		nrows = 1500;
			VqPq		pq;
			float	   *rows;
			float	   *codebook;
			double		before;
			double		after;

			vq_pq_init(&pq, cases[i].dim, cases[i].m, cases[i].nbits);
			rows = new_rows(5, nrows, (size_t) pq.m * pq.dsub);
			codebook = malloc(vq_pq_codebook_floats(&pq) * sizeof(float));

			/* No iteration leaves the rows that training starts from */
			train(kernels, &pq, rows, nrows, 0, codebook);
			before = coding_error(kernels, &pq, codebook, rows, nrows);
			train(kernels, &pq, rows, nrows, 20, codebook);
			after = coding_error(kernels, &pq, codebook, rows, nrows);
			CHECK(after < before * cases[i].gain, "table %s dim %zu m %zu nbits %zu: error %g, was %g",
				  kernels->name, cases[i].dim, cases[i].m, cases[i].nbits, after, before);
			free(rows);
			free(codebook);
		}
	}
}

static void
test_training_is_deterministic(void)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");
	float	   *rows = new_rows(6, 500, 12);
	float		codebooks[2][12 * 16];
	VqPq		pq;

	vq_pq_init(&pq, 12, 4, 4);
	for (size_t i = 0; i < 2; i++)
		train(kernels, &pq, rows, 500, 10, codebooks[i]);
	CHECK(memcmp(codebooks[0], codebooks[1], sizeof(codebooks[0])) == 0, "two trainings differ");
	free(rows);
}

static void
test_training_without_rows_gives_zeros(void)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");
	float		codebook[2 * 3 * 16];
	size_t		nonzero = 0;
	VqPq		pq;

	vq_pq_init(&pq, 6, 2, 4);
	memset(codebook, 1, sizeof(codebook));
	train(kernels, &pq, NULL, 0, 10, codebook);
	for (size_t i = 0; i < sizeof(codebook) / sizeof(codebook[0]); i++)
		nonzero += codebook[i] != 0;
	CHECK(nonzero == 0, "%zu numbers are not zero", nonzero);
}

/* Few rows, or many rows of few kinds, are all remembered exactly */
static void
test_training_keeps_few_distinct_points(void)
{
	static const struct
	{
		size_t		nrows;
		size_t		nkinds;
	}			cases[] = {{1, 1}, {7, 7}, {16, 16}, {400, 1}, {400, 3}, {400, 15}};
	const VqKernels *kernels = vq_kernels_by_name("auto");

	for (size_t nbits = 4; nbits <= 8; nbits += 4)
	{
		for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		{
			size_t		nrows = cases[i].nrows;
			float	   *rows = new_rows(7, nrows, 6);
			float	   *codebook;
			double		error;
			VqPq		pq;

			for (size_t row = cases[i].nkinds; row < nrows; row++)
				memcpy(rows + row * 6, rows + (row % cases[i].nkinds) * 6, 6 * sizeof(float));
			vq_pq_init(&pq, 6, 2, nbits);
			codebook = malloc(vq_pq_codebook_floats(&pq) * sizeof(float));
			train(kernels, &pq, rows, nrows, 25, codebook);
			check_finite(codebook, vq_pq_codebook_floats(&pq), "codebook");
			error = coding_error(kernels, &pq, codebook, rows, nrows);
			CHECK(error < 1e-10, "nbits %zu, %zu rows of %zu kinds: error %g",
				  nbits, nrows, cases[i].nkinds, error);
			free(rows);
			free(codebook);
		}
	}
}

/* Every sub-quantiser starts from different rows while there are enough of them */
static void
test_training_starts_from_different_rows(void)
{
	static const size_t nrows[] = {1, 15, 16, 17, 255, 256, 1000, 100000};

	for (size_t nbits = 4; nbits <= 8; nbits += 4)
	{
		for (size_t i = 0; i < sizeof(nrows) / sizeof(nrows[0]); i++)
		{
			VqPq		pq;
			size_t		last = 0;
			size_t		nrepeated = 0;
			size_t		nbeyond = 0;

			vq_pq_init(&pq, 6, 3, nbits);
			for (size_t j = 0; j < pq.m; j++)
			{
				for (size_t k = 0; k < pq.ksub; k++)
				{
					size_t		row = vq_pq_first_row(&pq, nrows[i], 3, j, k);

					nbeyond += row >= nrows[i];
					nrepeated += k > 0 && row <= last;
					last = row;
				}
			}
			CHECK(nbeyond == 0, "nbits %zu: %zu rows are not among %zu", nbits, nbeyond, nrows[i]);
			CHECK(nrows[i] < pq.ksub || nrepeated == 0, "nbits %zu: %zu of %zu rows are repeated",
				  nbits, nrepeated, nrows[i]);
		}
	}
}

/* Sums of parts of the rows add up to those of all: what processes that train together rely on */
static void
test_sums_of_chunks_add_up(void)
{
	const VqKernels *kernels = vq_kernels_by_name("auto");
	size_t		nrows = 300;
	float	   *rows = new_rows(8, nrows, 12);
	float		codebook[12 * 16];
	uint8_t		codes[4];
	double	   *sums[3];
	size_t		nsums;
	size_t		nwrong = 0;
	VqPq		pq;

	vq_pq_init(&pq, 12, 4, 4);
	nsums = vq_pq_sums_doubles(&pq);
	train(kernels, &pq, rows, nrows, 3, codebook);
	for (size_t i = 0; i < 3; i++)
		sums[i] = calloc(nsums, sizeof(double));
	vq_pq_accumulate(kernels, &pq, codebook, rows, nrows, codes, sums[0]);
	vq_pq_accumulate(kernels, &pq, codebook, rows, 117, codes, sums[1]);
	vq_pq_accumulate(kernels, &pq, codebook, rows + 117 * 12, nrows - 117, codes, sums[2]);
	for (size_t i = 0; i < nsums; i++)
		nwrong += !(fabs(sums[1][i] + sums[2][i] - sums[0][i]) <= 1e-9);
	CHECK(nwrong == 0, "%zu of %zu sums are wrong", nwrong, nsums);
	for (size_t i = 0; i < 3; i++)
		free(sums[i]);
	free(rows);
}

static void
test_decode_reads_the_columns_of_the_codes(void)
{
	float		codebook[2 * 3 * 16];
	uint8_t		codes[2] = {5, 15};
	float		x[6];
	VqPq		pq;

	vq_pq_init(&pq, 5, 2, 4);
	for (size_t i = 0; i < sizeof(codebook) / sizeof(codebook[0]); i++)
		codebook[i] = (float) i;
	vq_pq_decode(&pq, codebook, codes, x);
	for (size_t j = 0; j < 2; j++)
	{
		for (size_t t = 0; t < 3; t++)
		{
			float		want = (float) ((j * 3 + t) * 16 + codes[j]);

			CHECK(x[j * 3 + t] == want, "x[%zu]: got %g, want %g", j * 3 + t, x[j * 3 + t], want);
		}
	}
}

/*
 * The stated error is of four standard errors, so of 400 random codes none may
 * be out; the bytes must use the range they have.
 */
static void
test_quantised_tables_stay_within_their_error(void)
{
	static const size_t ms[] = {1, 2, 3, 8, 75, 150, 400};
	static const float magnitudes[] = {1e-30f, 1e-3f, 1, 1e20f};

	for (size_t nbits = 4; nbits <= 8; nbits += 4)
	{
		for (size_t i = 0; i < sizeof(ms) / sizeof(ms[0]); i++)
		{
			for (size_t k = 0; k < sizeof(magnitudes) / sizeof(magnitudes[0]); k++)
			{
				size_t		m = ms[i];
				float	   *lut;
				uint8_t    *bytes;
				uint8_t		largest = 0;
				size_t		nwrong = 0;
				VqLutScale	scale;
				VqRng		rng;
				VqPq		pq;

				vq_pq_init(&pq, m, m, nbits);
				lut = malloc(m * pq.ksub * sizeof(float));
				bytes = malloc(m * pq.ksub);
				vq_rng_seed(&rng, 8 + m);
				for (size_t entry = 0; entry < m * pq.ksub; entry++)
					lut[entry] = random_gaussian(&rng) * magnitudes[k];
				vq_pq_quantise_lut(&vq_kernels_scalar, &pq, lut, bytes, &scale);
				for (size_t entry = 0; entry < m * pq.ksub; entry++)
					largest = bytes[entry] > largest ? bytes[entry] : largest;
				CHECK(largest == 255, "nbits %zu m %zu: largest byte is %u", nbits, m, largest);

				for (size_t trial = 0; trial < 400; trial++)
				{
					double		want = 0;
					uint32_t	sum = 0;
					double		got;

					for (size_t j = 0; j < m; j++)
					{
						size_t		code = (size_t) vq_rng_below(&rng, pq.ksub);

						want += lut[j * pq.ksub + code];
						sum += bytes[j * pq.ksub + code];
					}
					got = scale.bias + scale.step * (float) sum;
					nwrong += !(fabs(got - want) <= scale.error);
				}
				CHECK(nwrong == 0, "nbits %zu m %zu magnitude %g: %zu of 400 sums are out by more than %g",
					  nbits, m, magnitudes[k], nwrong, scale.error);
				free(lut);
				free(bytes);
			}
		}
	}
}

/* Nothing to tell apart, or next to nothing: no division by zero, and right sums */
/* Beside one wide table, many narrow ones whose entries are all rounded the same way */
static void
test_narrow_tables_stay_within_the_error(void)
{
	static const float widths[] = {0.01f, 0.3f, 0.49f, 0.51f, 0.6f, 1, 1.2f, 1.4f, 1.49f, 1.9f};

	for (size_t nbits = 4; nbits <= 8; nbits += 4)
	{
		for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++)
		{
			float	   *lut;
			uint8_t    *bytes;
			VqLutScale	scale;
			VqPq		pq;

			vq_pq_init(&pq, 201, 201, nbits);
			lut = malloc(pq.m * pq.ksub * sizeof(float));
			bytes = malloc(pq.m * pq.ksub);
			for (size_t j = 0; j < pq.m; j++)
				for (size_t code = 0; code < pq.ksub; code++)
					lut[j * pq.ksub + code] = (j == 0 ? 255 : widths[i]) * (float) code / (float) (pq.ksub - 1);
			vq_pq_quantise_lut(&vq_kernels_scalar, &pq, lut, bytes, &scale);
			for (size_t code = 0; code < pq.ksub; code++)
			{
				double		want = lut[code];
				uint32_t	sum = bytes[code];

				for (size_t j = 1; j < pq.m; j++)
				{
					want += lut[j * pq.ksub + code];
					sum += bytes[j * pq.ksub + code];
				}
				CHECK(fabs(scale.bias + scale.step * (float) sum - want) <= 2 * scale.deviation + scale.slack,
					  "nbits %zu width %g code %zu: %g is not within %g of %g", nbits, widths[i], code,
					  (double) (scale.bias + scale.step * (float) sum), 2 * (double) scale.deviation + scale.slack, want);
			}
			free(lut);
			free(bytes);
		}
	}
}

static void
test_quantised_tables_without_range_are_exact(void)
{
	static const float steps[] = {0, 1e-45f, 1e-40f};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
	{
		float		lut[3][16];
		uint8_t		bytes[3][16];
		VqLutScale	scale;
		VqPq		pq;

		for (size_t j = 0; j < 3; j++)
		{
			for (size_t k = 0; k < 16; k++)
				lut[j][k] = i == 0 ? (float) j - 0.5f : (float) k * steps[i];
		}
		vq_pq_init(&pq, 3, 3, 4);
		vq_pq_quantise_lut(&vq_kernels_scalar, &pq, &lut[0][0], &bytes[0][0], &scale);
		for (size_t k = 0; k < 16; k++)
		{
			double		want = (double) lut[0][k] + lut[1][k] + lut[2][k];
			uint32_t	sum = (uint32_t) bytes[0][k] + bytes[1][k] + bytes[2][k];
			double		got = scale.bias + (double) scale.step * sum;

			CHECK(fabs(got - want) <= scale.error, "step %g code %zu: got %g, want %g, within %g",
				  steps[i], k, got, want, scale.error);
			CHECK(scale.error < 1e-5f, "step %g: error is %g", steps[i], scale.error);
		}
	}
}

void
suite_vq_pq(void)
{
	RUN_TEST(test_init_derives_the_shape);
	RUN_TEST(test_training_beats_random_rows);
	RUN_TEST(test_training_is_deterministic);
	RUN_TEST(test_training_without_rows_gives_zeros);
	RUN_TEST(test_training_keeps_few_distinct_points);
	RUN_TEST(test_training_starts_from_different_rows);
	RUN_TEST(test_sums_of_chunks_add_up);
	RUN_TEST(test_decode_reads_the_columns_of_the_codes);
	RUN_TEST(test_quantised_tables_stay_within_their_error);
	RUN_TEST(test_narrow_tables_stay_within_the_error);
	RUN_TEST(test_quantised_tables_without_range_are_exact);
}
