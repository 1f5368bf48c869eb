/*-------------------------------------------------------------------------
 *
 * test_vq_kernels.c
 *	  Every operation of every kernel table that this processor runs.
 *
 * Each table, the scalar one included, is held against a reference in double
 * precision or in integers, so tables that agree with it agree with each
 * other.  Every buffer has exactly the size of its contract: the address
 * sanitizer sees a kernel that reads or writes past it.
 *
 *-------------------------------------------------------------------------
 */
#include "check.h"
#include "tables.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/vq_cpu.h"
#include "kernels/vq_kernels.h"
#include "kernels/vq_rng.h"

/* Lanes of the widest table */
#define MAX_LANES 16

/* After all tails up to 2 * MAX_LANES + 3, a few sizes around loop limits */
static const size_t large_dims[] = {47, 48, 63, 64, 65, 100, 127, 128, 129, 300, 768, 1000, 15999, 16000};

#define NLARGE_DIMS	(sizeof(large_dims) / sizeof(large_dims[0]))
#define NDIMS		(2 * MAX_LANES + 4 + NLARGE_DIMS)

static size_t
dim_at(size_t i)
{
	return i < NDIMS - NLARGE_DIMS ? i : large_dims[i - (NDIMS - NLARGE_DIMS)];
}

/* The first table from the t-th on whose operation is not that of the table before */
static size_t
own_table(size_t t, size_t operation)
{
	while (t > 0 && table_at(t) != NULL &&
		   memcmp((const char *) table_at(t) + operation, (const char *) table_at(t - 1) + operation, sizeof(void (*) (void))) == 0)
		t++;
	return t;
}

#define for_each_own(t, operation) \
	for (size_t t = 0; table_at(t) != NULL; t = own_table(t + 1, offsetof(VqKernels, operation)))

static void *
allocate(size_t nbytes)
{
	void	   *p = malloc(nbytes > 0 ? nbytes : 1);

	if (p == NULL)
		abort();
	return p;
}

/* Floats in [-1, 1) */
static float *
random_floats(VqRng *rng, size_t n)
{
	float	   *p = allocate(n * sizeof(float));

	for (size_t i = 0; i < n; i++)
		p[i] = (float) (2 * vq_rng_double(rng) - 1);
	return p;
}

/* Integers in [-limit, limit] */
static float *
random_integers(VqRng *rng, size_t n, int limit)
{
	float	   *p = allocate(n * sizeof(float));

	for (size_t i = 0; i < n; i++)
		p[i] = (float) ((int) vq_rng_below(rng, (uint64_t) (2 * limit + 1)) - limit);
	return p;
}

static uint8_t *
random_bytes(VqRng *rng, size_t n)
{
	uint8_t    *p = allocate(n);

	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t) vq_rng_next(rng);
	return p;
}

/* A sum in double precision, and the error that dim float terms may have */
typedef struct Reference
{
	double		sum;
	double		abs_sum;
} Reference;

static void
add_term(Reference *reference, double term)
{
	reference->sum += term;
	reference->abs_sum += fabs(term);
}

static bool
is_close(double got, const Reference *reference, size_t nterms)
{
	return fabs(got - reference->sum) <= (double) (nterms + 2) * FLT_EPSILON * reference->abs_sum;
}

static void
test_tables_end_with_scalar_and_are_found_by_name(void)
{
	size_t		n = 0;

	while (vq_kernels_all[n] != NULL)
		n++;
	CHECK(n > 0 && vq_kernels_all[n - 1] == &vq_kernels_scalar, "%zu tables", n);
	CHECK(vq_kernels_scalar.required_features == 0, "%u", vq_kernels_scalar.required_features);

	for (size_t i = 0; i < n; i++)
	{
		const VqKernels *found = vq_kernels_by_name(vq_kernels_all[i]->name);

		if (vq_kernels_supported(vq_kernels_all[i]))
			CHECK(found == vq_kernels_all[i], "%s", vq_kernels_all[i]->name);
		else
			CHECK(found == NULL, "%s", vq_kernels_all[i]->name);
#ifdef WITH_ALL_TABLES
		CHECK(vq_kernels_supported(vq_kernels_all[i]), "%s is not tested", vq_kernels_all[i]->name);
#endif
	}
	CHECK(vq_kernels_by_name("auto") == table_at(0), "not the best");
	CHECK(vq_kernels_by_name("avx1024") == NULL, "found");
	CHECK(vq_kernels_by_name("") == NULL, "found");
}

static void
test_cpu_features_imply_their_base(void)
{
	uint32_t	features = vq_cpu_features();

	CHECK(vq_cpu_features() == features, "changed to %x", vq_cpu_features());
	if (features & VQ_CPU_AVX512)
		CHECK(features & VQ_CPU_AVX2, "%x", features);
	if (features & VQ_CPU_AVX512_VNNI)
		CHECK(features & VQ_CPU_AVX512, "%x", features);
	if (features & VQ_CPU_AVX512_VBMI)
		CHECK(features & VQ_CPU_AVX512_VNNI, "%x", features);
	if (features & VQ_CPU_NEON_DOTPROD)
		CHECK(features & VQ_CPU_NEON, "%x", features);
}

static void
test_distances_agree_with_doubles(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 1);
	for (size_t i = 0; i < NDIMS; i++)
	{
		size_t		dim = dim_at(i);
		float	   *a = random_floats(&rng, dim);
		float	   *b = random_floats(&rng, dim);
		Reference	l2sq = {0, 0};
		Reference	ab = {0, 0};
		Reference	aa = {0, 0};
		Reference	bb = {0, 0};

		for (size_t d = 0; d < dim; d++)
		{
			double		diff = (double) a[d] - b[d];

			add_term(&l2sq, diff * diff);
			add_term(&ab, (double) a[d] * b[d]);
			add_term(&aa, (double) a[d] * a[d]);
			add_term(&bb, (double) b[d] * b[d]);
		}

		for (size_t t = 0; table_at(t) != NULL; t++)
		{
			const VqKernels *kernels = table_at(t);
			float		got = kernels->l2sq_f32(a, b, dim);
			float		norms[3];

			CHECK(is_close(got, &l2sq, dim), "%s l2sq dim %zu: got %.9g, want %.9g",
				  kernels->name, dim, got, l2sq.sum);
			got = kernels->ip_f32(a, b, dim);
			CHECK(is_close(got, &ab, dim), "%s ip dim %zu: got %.9g, want %.9g",
				  kernels->name, dim, got, ab.sum);
			kernels->ip_norms_f32(a, b, dim, norms);
			CHECK(is_close(norms[0], &ab, dim) && is_close(norms[1], &aa, dim) && is_close(norms[2], &bb, dim),
				  "%s ip_norms dim %zu: got %.9g %.9g %.9g, want %.9g %.9g %.9g", kernels->name, dim,
				  norms[0], norms[1], norms[2], ab.sum, aa.sum, bb.sum);
		}
		free(a);
		free(b);
	}
}

static void
test_add_f64_is_exact_at_every_tail(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 12);
	for (size_t i = 0; i < NDIMS; i++)
	{
		size_t		dim = dim_at(i);
		float	   *x = random_floats(&rng, dim);
		double	   *sums = allocate(dim * sizeof(double));

		for_each_own(t, add_f64)
		{
			for (size_t d = 0; d < dim; d++)
				sums[d] = 1e-9 * (double) d;
			table_at(t)->add_f64(sums, x, 1.0, dim);
			for (size_t d = 0; d < dim; d++)
				CHECK(sums[d] == 1e-9 * (double) d + x[d], "%s dim %zu: %zu is %.17g", table_at(t)->name, dim, d, sums[d]);
			for (size_t d = 0; d < dim; d++)
				sums[d] = 1e-9 * (double) d;
			table_at(t)->add_f64(sums, x, -1.0, dim);
			for (size_t d = 0; d < dim; d++)
				CHECK(sums[d] == 1e-9 * (double) d - x[d], "%s dim %zu: %zu less is %.17g", table_at(t)->name, dim, d, sums[d]);
			table_at(t)->add_f64(sums, x, 4 / 3.0, dim);
			for (size_t d = 0; d < dim; d++)
				CHECK(fabs(sums[d] - 1e-9 * (double) d - x[d] / 3.0) < 1e-14, "%s dim %zu: %zu and a third is %.17g",
					  table_at(t)->name, dim, d, sums[d]);
		}
		free(x);
		free(sums);
	}
}

/* What the bits of a float of 16 bits mean: a sign, 5 bits of exponent and 10 of mantissa */
static double
value_of_f16(uint16_t half)
{
	int			exponent = half >> 10 & 0x1F;
	double		mantissa = half & 0x3FF;
	double		value;

	if (exponent == 0x1F)
		value = mantissa > 0 ? NAN : INFINITY;
	else
		value = exponent > 0 ? ldexp(mantissa + 1024, exponent - 25) : ldexp(mantissa, -24);
	return half & 0x8000 ? -value : value;
}

static void
test_f16_to_f32_is_exact_for_all_values(void)
{
	const size_t nvalues = 65536;
	uint16_t   *halves = allocate(nvalues * sizeof(uint16_t));
	float	   *got = allocate(nvalues * sizeof(float));

	for (size_t i = 0; i < nvalues; i++)
		halves[i] = (uint16_t) i;
	for_each_own(t, f16_to_f32)
	{
		table_at(t)->f16_to_f32(halves, nvalues, got);
		for (size_t i = 0; i < nvalues; i++)
		{
			double		want = value_of_f16((uint16_t) i);
			bool		is_same = isnan(want) ? isnan(got[i]) : got[i] == want && !signbit(got[i]) == !signbit(want);

			CHECK(is_same, "%s %04zx: got %.9g, want %.9g", table_at(t)->name, i, got[i], want);
		}
	}
	free(halves);
	free(got);
}

static void
test_f16_to_f32_at_every_tail(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 31);
	for (size_t i = 0; i < NDIMS; i++)
	{
		size_t		n = dim_at(i);
		uint16_t   *halves = allocate(n * sizeof(uint16_t));
		float	   *got = allocate(n * sizeof(float));

		/* finite ones, of any size */
		for (size_t k = 0; k < n; k++)
			halves[k] = (uint16_t) (vq_rng_below(&rng, 0x7C00) | vq_rng_below(&rng, 2) << 15);
		for_each_own(t, f16_to_f32)
		{
			table_at(t)->f16_to_f32(halves, n, got);
			for (size_t k = 0; k < n; k++)
				CHECK(got[k] == value_of_f16(halves[k]), "%s n %zu at %zu: got %.9g, want %.9g",
					  table_at(t)->name, n, k, got[k], value_of_f16(halves[k]));
		}
		free(halves);
		free(got);
	}
}

/* Rows of floats or bytes, the last without the padding of the stride */
static void
check_rows(VqRng *rng, size_t dim, size_t nrows, bool is_i8)
{
	size_t		value_bytes = is_i8 ? 1 : sizeof(float);
	size_t		row_bytes = sizeof(VqRowHeader) + dim * value_bytes;
	size_t		stride = (row_bytes + 3) / 4 * 4 + 4 * (dim % 3);
	size_t		total = nrows > 0 ? (nrows - 1) * stride + row_bytes : 0;
	uint8_t    *rows = random_bytes(rng, total);
	float	   *q = random_floats(rng, dim);
	float	   *out = allocate(nrows * sizeof(float));
	Reference  *references = allocate(nrows * sizeof(Reference));

	for (size_t i = 0; i < nrows; i++)
	{
		VqRowHeader header = {is_i8 ? (float) (i + 1) / 128 : 1, 0};
		uint8_t    *values = rows + i * stride + sizeof(VqRowHeader);

		memcpy(rows + i * stride, &header, sizeof(header));
		memset(&references[i], 0, sizeof(Reference));
		for (size_t d = 0; d < dim; d++)
		{
			float		value = (float) (2 * vq_rng_double(rng) - 1);
			double		diff;

			if (is_i8)
				value = header.scale * (float) (int8_t) values[d];
			else
				memcpy(values + d * sizeof(float), &value, sizeof(value));
			diff = (double) q[d] - value;
			add_term(&references[i], diff * diff);
		}
	}

	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		const VqKernels *kernels = table_at(t);

		if (is_i8)
			kernels->l2sq_rows_i8(q, dim, rows, stride, nrows, out);
		else
			kernels->l2sq_rows_f32(q, dim, rows, stride, nrows, out);
		for (size_t i = 0; i < nrows; i++)
			CHECK(is_close(out[i], &references[i], dim), "%s %s dim %zu row %zu of %zu: got %.9g, want %.9g",
				  kernels->name, is_i8 ? "i8" : "f32", dim, i, nrows, out[i], references[i].sum);
	}
	free(rows);
	free(q);
	free(out);
	free(references);
}

static void
test_l2sq_rows_agree_with_doubles(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 2);
	for (size_t i = 0; i < NDIMS; i++)
		for (size_t nrows = 0; nrows <= 9; nrows += dim_at(i) < 1000 ? 1 : 3)
		{
			check_rows(&rng, dim_at(i), nrows, false);
			check_rows(&rng, dim_at(i), nrows, true);
		}
}

static void
check_projection(VqRng *rng, size_t dim, size_t npanels)
{
	size_t		ncolumns = npanels * VQ_PANEL_COLUMNS;
	float	   *x = random_floats(rng, dim);
	float	   *steps = random_floats(rng, ncolumns);
	uint8_t    *bytes = random_bytes(rng, ncolumns * dim);
	const int8_t *panels = (const int8_t *) bytes;
	float	   *out = allocate(ncolumns * sizeof(float));
	Reference  *references = allocate(ncolumns * sizeof(Reference));

	for (size_t j = 0; j < ncolumns; j++)
	{
		size_t		panel = j / VQ_PANEL_COLUMNS;

		memset(&references[j], 0, sizeof(Reference));
		for (size_t i = 0; i < dim; i++)
			add_term(&references[j],
					 (double) steps[j] * x[i] * panels[(panel * dim + i) * VQ_PANEL_COLUMNS + j % VQ_PANEL_COLUMNS]);
	}
	for_each_own(t, project_i8)
	{
		const VqKernels *kernels = table_at(t);

		memset(out, 255, ncolumns * sizeof(float));
		kernels->project_i8(x, dim, panels, steps, npanels, out);
		for (size_t j = 0; j < ncolumns; j++)
			CHECK(is_close(out[j], &references[j], dim), "%s dim %zu column %zu of %zu: got %.9g, want %.9g",
				  kernels->name, dim, j, ncolumns, out[j], references[j].sum);
	}
	free(x);
	free(steps);
	free(bytes);
	free(out);
	free(references);
}

/* Up to nine panels: tables take up to four at a time */
static void
test_project_i8_agrees_with_doubles(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 32);
	for (size_t i = 0; i < NDIMS; i++)
		for (size_t npanels = 0; npanels <= 9; npanels += dim_at(i) < 1000 ? 1 : 3)
			check_projection(&rng, dim_at(i), npanels);
}

static double
hadamard_sign(size_t i, size_t j)
{
	return __builtin_popcountll(i & j) % 2 == 0 ? 1 : -1;
}

static void
test_fwht_agrees_with_definition_and_is_its_own_inverse(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 3);
	for (size_t n = 1; n <= 16384; n *= 2)
	{
		float	   *x = random_floats(&rng, n);
		float	   *y = allocate(n * sizeof(float));

		for_each_own(t, fwht)
		{
			const VqKernels *kernels = table_at(t);
			size_t		nchecked = n < 64 ? n : 64;

			memcpy(y, x, n * sizeof(float));
			kernels->fwht(y, n);
			for (size_t c = 0; c < nchecked; c++)
			{
				size_t		i = n < 64 ? c : vq_rng_below(&rng, n);
				double		want = 0;

				for (size_t j = 0; j < n; j++)
					want += hadamard_sign(i, j) * x[j];
				want /= sqrt((double) n);
				CHECK(fabs(y[i] - want) < 1e-5, "%s n %zu element %zu: got %.9g, want %.9g",
					  kernels->name, n, i, y[i], want);
			}
			kernels->fwht(y, n);
			for (size_t i = 0; i < n; i++)
				CHECK(fabsf(y[i] - x[i]) < 1e-5f, "%s n %zu inverse of element %zu: got %.9g, want %.9g",
					  kernels->name, n, i, y[i], x[i]);
		}
		free(x);
		free(y);
	}
}

/* Shapes of quantisers: tails of m, and dsub from one to all dimensions */
static const struct
{
	size_t		m;
	size_t		dsub;
	size_t		ksub;
}			pq_shapes[] =
{
	/* m, dsub, ksub */
	{0, 2, 16},
	{1, 1, 16},
	{1, 2, 16},
	{2, 2, 16},
	{3, 2, 16},
	{4, 2, 16},
	{5, 2, 16},
	{7, 3, 16},
	{8, 1, 16},
	{9, 4, 16},
	{18, 5, 16},
	{150, 2, 16},
	{2, 33, 16},
	{1, 16000, 16},
	{0, 2, 256},
	{1, 1, 256},
	{3, 2, 256},
	{4, 5, 256},
	{5, 15, 256},
	{20, 3, 256},
	{1, 1000, 256},
};

#define NPQ_SHAPES (sizeof(pq_shapes) / sizeof(pq_shapes[0]))

static double
distance_to_centroid(const float *x, const float *codebook, size_t dsub, size_t ksub, size_t j, size_t k)
{
	double		sum = 0;

	for (size_t d = 0; d < dsub; d++)
	{
		double		diff = (double) x[j * dsub + d] - codebook[(j * dsub + d) * ksub + k];

		sum += diff * diff;
	}
	return sum;
}

static size_t
nearest_centroid(const float *x, const float *codebook, size_t dsub, size_t ksub, size_t j)
{
	size_t		best = 0;
	double		least = INFINITY;

	for (size_t k = 0; k < ksub; k++)
	{
		double		distance = distance_to_centroid(x, codebook, dsub, ksub, j, k);

		if (distance < least)
		{
			least = distance;
			best = k;
		}
	}
	return best;
}

static void
test_pq_encode_finds_the_nearest(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 4);
	for (size_t s = 0; s < NPQ_SHAPES; s++)
	{
		size_t		m = pq_shapes[s].m;
		size_t		dsub = pq_shapes[s].dsub;
		size_t		ksub = pq_shapes[s].ksub;

		for (size_t repeat = 0; repeat < (m * dsub < 100 ? 10 : 1); repeat++)
		{
			float	   *x = random_floats(&rng, m * dsub);
			float	   *codebook = random_floats(&rng, m * dsub * ksub);
			uint8_t    *codes = allocate(m);

			for_each_own(t, pq_encode)
			{
				const VqKernels *kernels = table_at(t);

				kernels->pq_encode(x, codebook, m, dsub, ksub, codes);
				for (size_t j = 0; j < m; j++)
				{
					size_t		want = nearest_centroid(x, codebook, dsub, ksub, j);
					double		least = distance_to_centroid(x, codebook, dsub, ksub, j, want);

					CHECK(codes[j] < ksub &&
						  distance_to_centroid(x, codebook, dsub, ksub, j, codes[j]) <= least * (1 + 1e-5) + 1e-12,
						  "%s m %zu dsub %zu ksub %zu sub-quantiser %zu: got %u, want %zu",
						  kernels->name, m, dsub, ksub, j, codes[j], want);
				}
			}
			free(x);
			free(codebook);
			free(codes);
		}
	}
}

static void
test_pq_encode_takes_the_lowest_on_a_tie(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 5);
	for (size_t s = 0; s < NPQ_SHAPES; s++)
	{
		size_t		m = pq_shapes[s].m;
		size_t		dsub = pq_shapes[s].dsub;
		size_t		ksub = pq_shapes[s].ksub;

		/* With limit 0 all centroids are equal; small integers are exact */
		for (int limit = 0; limit <= 3; limit++)
		{
			float	   *x = random_integers(&rng, m * dsub, limit);
			float	   *codebook = random_integers(&rng, m * dsub * ksub, limit);
			uint8_t    *codes = allocate(m);

			for_each_own(t, pq_encode)
			{
				const VqKernels *kernels = table_at(t);

				kernels->pq_encode(x, codebook, m, dsub, ksub, codes);
				for (size_t j = 0; j < m; j++)
				{
					size_t		want = nearest_centroid(x, codebook, dsub, ksub, j);

					CHECK(codes[j] == want, "%s m %zu dsub %zu ksub %zu sub-quantiser %zu: got %u, want %zu",
						  kernels->name, m, dsub, ksub, j, codes[j], want);
				}
			}
			free(x);
			free(codebook);
			free(codes);
		}
	}
}

static void
test_pq_encode_gives_zero_when_every_distance_overflows(void)
{
	for (size_t ksub = 16; ksub <= 256; ksub *= 16)
		for (size_t m = 1; m <= 9; m++)
		{
			float	   *x = allocate(m * 2 * sizeof(float));
			float	   *codebook = allocate(m * 2 * ksub * sizeof(float));
			uint8_t    *codes = allocate(m);

			for (size_t i = 0; i < m * 2; i++)
				x[i] = 1e30f;
			for (size_t i = 0; i < m * 2 * ksub; i++)
				codebook[i] = (float) i;
			for_each_own(t, pq_encode)
			{
				table_at(t)->pq_encode(x, codebook, m, 2, ksub, codes);
				for (size_t j = 0; j < m; j++)
					CHECK(codes[j] == 0, "%s m %zu ksub %zu: got %u", table_at(t)->name, m, ksub, codes[j]);
			}
			free(x);
			free(codebook);
			free(codes);
		}
}

static void
test_pq_encode_of_nan_stays_below_ksub(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 10);
	for (size_t ksub = 16; ksub <= 256; ksub *= 16)
		for (size_t m = 1; m <= 9; m++)
		{
			float	   *x = random_floats(&rng, m * 2);
			float	   *codebook = random_floats(&rng, m * 2 * ksub);
			uint8_t    *codes = allocate(m);

			/* In the vector, then in a centroid as well */
			x[m] = NAN;
			for (size_t repeat = 0; repeat < 2; repeat++)
			{
				for_each_own(t, pq_encode)
				{
					table_at(t)->pq_encode(x, codebook, m, 2, ksub, codes);
					for (size_t j = 0; j < m; j++)
						CHECK(codes[j] < ksub, "%s m %zu ksub %zu: got %u", table_at(t)->name, m, ksub, codes[j]);
				}
				codebook[vq_rng_below(&rng, m * 2 * ksub)] = NAN;
			}
			free(x);
			free(codebook);
			free(codes);
		}
}

static void
test_pq_lut_agrees_with_doubles(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 6);
	for (size_t s = 0; s < NPQ_SHAPES; s++)
	{
		size_t		m = pq_shapes[s].m;
		size_t		dsub = pq_shapes[s].dsub;
		size_t		ksub = pq_shapes[s].ksub;
		float	   *q = random_floats(&rng, m * dsub);
		float	   *codebook = random_floats(&rng, m * dsub * ksub);
		float	   *lut = allocate(m * ksub * sizeof(float));

		for_each_own(t, pq_lut)
		{
			const VqKernels *kernels = table_at(t);

			kernels->pq_lut(q, codebook, m, dsub, ksub, lut);
			for (size_t i = 0; i < m * ksub; i++)
			{
				size_t		j = i / ksub;
				Reference	want = {0, 0};

				for (size_t d = 0; d < dsub; d++)
					add_term(&want, (double) q[j * dsub + d] * codebook[(j * dsub + d) * ksub + i % ksub]);
				CHECK(is_close(lut[i], &want, dsub), "%s m %zu dsub %zu ksub %zu entry %zu: got %.9g, want %.9g",
					  kernels->name, m, dsub, ksub, i, lut[i], want.sum);
			}
		}
		free(q);
		free(codebook);
		free(lut);
	}
}

static void
test_luts_in_bytes_are_rounded_to_the_nearest(void)
{
	static const size_t ksubs[] = {16, 256};
	VqRng		rng;

	vq_rng_seed(&rng, 7);
	for (size_t s = 0; s < 2; s++)
		for (size_t m = 1; m <= 40; m++)
		{
			size_t		ksub = ksubs[s];
			float	   *lut = random_floats(&rng, m * ksub);
			uint8_t    *bytes = allocate(m * ksub);
			float	   *lows = allocate(m * sizeof(float));
			float		widest = 0;

			for (size_t t = 0; table_at(t) != NULL; t++)
			{
				const VqKernels *kernels = table_at(t);

				kernels->lut_ranges(lut, m, ksub, bytes);
				for (size_t j = 0; j < m; j++)
				{
					const float *entries = lut + j * ksub;
					float		high = entries[0];
					float		range[2];

					lows[j] = entries[0];
					for (size_t k = 1; k < ksub; k++)
					{
						lows[j] = fminf(lows[j], entries[k]);
						high = fmaxf(high, entries[k]);
					}
					memcpy(range, bytes + j * ksub, sizeof(range));
					CHECK(range[0] == lows[j] && range[1] == high, "%s m %zu ksub %zu row %zu: got %g to %g, want %g to %g",
						  kernels->name, m, ksub, j, range[0], range[1], lows[j], high);
					widest = fmaxf(widest, high - lows[j]);
				}

				kernels->lut_bytes(lut, m, ksub, 255 / widest, bytes);
				for (size_t i = 0; i < m * ksub; i++)
				{
					double		want = ((double) lut[i] - lows[i / ksub]) * 255 / widest;

					CHECK(fabs(bytes[i] - want) < 0.5001, "%s m %zu ksub %zu entry %zu: got %u, want %g",
						  kernels->name, m, ksub, i, bytes[i], want);
				}
			}
			free(lut);
			free(bytes);
			free(lows);
		}
}

/* All tails, then what 16-bit sums could overflow on */
static const size_t large_ms[] = {255, 256, 257, 258, 259, 260, 511, 512, 513, 16000};

#define NSMALL_MS	71
#define NLARGE_MS	(sizeof(large_ms) / sizeof(large_ms[0]))
#define NMS			(NSMALL_MS + NLARGE_MS)

static size_t
m_at(size_t i)
{
	return i < NSMALL_MS ? i : large_ms[i - NSMALL_MS];
}

/* Sums of n random codes; tables are random, or as large as they can be */
static void
check_scan(VqRng *rng, size_t n, size_t m, size_t nbits, bool is_largest)
{
	size_t		ksub = (size_t) 1 << nbits;
	size_t		row_bytes = n * nbits / 8;
	uint8_t    *codes = random_bytes(rng, m * row_bytes);
	uint8_t    *lut = random_bytes(rng, m * ksub);
	uint32_t   *got = allocate(VQ_BLOCK_LANES * sizeof(uint32_t));
	uint32_t	want[VQ_BLOCK_LANES] = {0};

	if (is_largest)
		memset(lut, 255, m * ksub);
	for (size_t j = 0; j < m; j++)
		for (size_t i = 0; i < n; i++)
		{
			size_t		code;

			if (nbits == 8)
				code = codes[j * row_bytes + i];
			else if (i < row_bytes)
				code = codes[j * row_bytes + i] & 15;
			else
				code = codes[j * row_bytes + i - row_bytes] >> 4;
			want[i] += lut[j * ksub + code];
		}

	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		const VqKernels *kernels = table_at(t);

		memset(got, 0xAA, VQ_BLOCK_LANES * sizeof(uint32_t));
		if (nbits == 8)
			kernels->scan8(codes, n, lut, m, got);
		else
			kernels->scan4(codes, n, lut, m, got);
		for (size_t i = 0; i < n; i++)
			CHECK(got[i] == want[i], "%s scan%zu n %zu m %zu vector %zu: got %u, want %u",
				  kernels->name, nbits, n, m, i, got[i], want[i]);
	}
	free(codes);
	free(lut);
	free(got);
}

static void
test_scans_are_exact_for_every_m_and_n(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 7);
	for (size_t i = 0; i < NMS; i++)
		for (size_t n = VQ_CAPACITY_STEP; n <= VQ_BLOCK_LANES; n += VQ_CAPACITY_STEP)
		{
			check_scan(&rng, n, m_at(i), 4, false);
			check_scan(&rng, n, m_at(i), 8, false);
		}
}

static void
test_scans_do_not_overflow_on_the_largest_tables(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 8);
	for (size_t i = 0; i < NMS; i++)
	{
		check_scan(&rng, VQ_BLOCK_LANES, m_at(i), 4, true);
		check_scan(&rng, VQ_BLOCK_LANES, m_at(i), 8, true);
	}
}

/* The value of an E byte by the definition in vq_kernels.h, in steps that are exact */
static double
e_value(uint8_t e)
{
	int			exponent = e >> 3;
	double		mantissa = (e & 7) / 8.0;

	return exponent == 0 ? ldexp(mantissa, -23) : ldexp(1 + mantissa, exponent - 24);
}

static void
test_bound_decodes_every_e_exactly(void)
{
	VqBound		bound = {0, 0, 0, 1};

	for (size_t first = 0; first < 256; first += VQ_BLOCK_LANES)
	{
		float		a[VQ_BLOCK_LANES] = {0};
		uint16_t	s[VQ_BLOCK_LANES] = {0};
		uint32_t	sums[VQ_BLOCK_LANES] = {0};
		uint8_t		e[VQ_BLOCK_LANES];
		float		low[VQ_BLOCK_LANES];

		for (size_t i = 0; i < VQ_BLOCK_LANES; i++)
			e[i] = (uint8_t) (first + i);
		for_each_own(t, bound)
		{
			table_at(t)->bound(a, s, e, sums, VQ_BLOCK_LANES, &bound, 0, low);
			for (size_t i = 0; i < VQ_BLOCK_LANES; i++)
				CHECK(low[i] == -e_value(e[i]), "%s e %u: got %.9g, want %.9g",
					  table_at(t)->name, e[i], low[i], -e_value(e[i]));
		}
	}
}

static void
test_bound_agrees_with_doubles(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 9);
	for (size_t repeat = 0; repeat < 200; repeat++)
	{
		size_t		n = VQ_CAPACITY_STEP * (1 + repeat % 4);
		float	   *a = random_floats(&rng, n);
		uint8_t    *e = random_bytes(&rng, n);
		uint16_t   *s = (uint16_t *) random_bytes(&rng, n * sizeof(uint16_t));
		uint32_t   *sums = allocate(n * sizeof(uint32_t));
		float	   *low = allocate(n * sizeof(float));
		VqBound		bound;

		bound.base = (float) (10 * vq_rng_double(&rng));
		bound.lut_bias = (float) (-5 * vq_rng_double(&rng));
		bound.lut_step = (float) (1e-3 * vq_rng_double(&rng));
		bound.reach = (float) (3 * vq_rng_double(&rng));
		for (size_t i = 0; i < n; i++)
			sums[i] = (uint32_t) vq_rng_below(&rng, 255 * VQ_MAX_DIM + 1);
		if (repeat % 5 == 0)
			a[vq_rng_below(&rng, n)] = -INFINITY;

		for_each_own(t, bound)
		{
			const VqKernels *kernels = table_at(t);

			kernels->bound(a, s, e, sums, n, &bound, INFINITY, low);
			for (size_t i = 0; i < n; i++)
			{
				double		s_value = s[i] / (double) VQ_S_ONE;
				double		bias_term = s_value * bound.lut_bias;
				double		sum_term = s_value * bound.lut_step * sums[i];
				double		e_term = e_value(e[i]) * bound.reach;
				double		want = bound.base + (double) a[i] - bias_term - sum_term - e_term;
				double		largest = fmax(fmax(bound.base, fabs(bias_term)), fmax(sum_term, e_term));

				if (a[i] == -INFINITY)
					CHECK(low[i] == -INFINITY, "%s n %zu slot %zu: got %.9g", kernels->name, n, i, low[i]);
				else
					CHECK(fabs(low[i] - want) <= 1e-5 * fmax(largest, 1), "%s n %zu slot %zu: got %.9g, want %.9g",
						  kernels->name, n, i, low[i], want);
			}
		}
		free(a);
		free(e);
		free(s);
		free(sums);
		free(low);
	}
}

static void
test_bound_tells_which_are_not_above_the_ceiling(void)
{
	const VqBound bound = {0, 0, 0, 0};
	VqRng		rng;

	vq_rng_seed(&rng, 10);
	for (size_t n = VQ_CAPACITY_STEP; n <= VQ_BLOCK_LANES; n += VQ_CAPACITY_STEP)
	{
		float	   *a = random_floats(&rng, n);
		uint8_t    *e = calloc(n, 1);
		uint16_t   *s = calloc(n, sizeof(uint16_t));
		uint32_t   *sums = calloc(n, sizeof(uint32_t));
		float	   *low = allocate(n * sizeof(float));

		a[1] = -INFINITY;
		a[5] = NAN;
		for (size_t at = 0; at <= n; at++)
		{
			float		ceiling = at < n ? a[at] : INFINITY;
			uint32_t	want = 0;

			for (size_t i = 0; i < n; i++)
				want |= (uint32_t) !(a[i] > ceiling) << i;
			for_each_own(t, bound)
			{
				uint32_t	got = table_at(t)->bound(a, s, e, sums, n, &bound, ceiling, low);

				CHECK(got == want, "%s n %zu ceiling %g: got %08x, want %08x",
					  table_at(t)->name, n, ceiling, got, want);
			}
		}
		free(a);
		free(e);
		free(s);
		free(sums);
		free(low);
	}
}

/* The residual of all values at once: what a byte stands for is the nearest of all bytes */
static void
check_quantised(const float *x, const float *origin, size_t dim, const char *what)
{
	size_t		nbytes = (dim + 3) / 4 * 4;
	uint8_t    *want = allocate(nbytes);
	uint8_t    *got = allocate(nbytes);
	float		largest = 0;
	float		want_step = vq_kernels_scalar.quantise_u8(x, origin, dim, want);

	for (size_t k = 0; k < dim; k++)
		largest = fmaxf(largest, fabsf(x[k] - origin[k]));
	CHECK(fabs(want_step * (double) VQ_U8_LARGEST - largest) <= largest * 1e-6, "%s dim %zu: step %g, largest %g", what, dim, want_step, largest);
	for (size_t k = 0; k < nbytes; k++)
	{
		double		residual = k < dim ? x[k] - origin[k] : 0;

		CHECK(want_step == 0 ? want[k] == VQ_U8_ZERO :
			  fabs(want_step * ((double) want[k] - VQ_U8_ZERO) - residual) <= want_step * .50001,
			  "%s dim %zu at %zu: %u steps of %g for %g", what, dim, k, want[k], want_step, residual);
	}
	for_each_own(t, quantise_u8)
	{
		float		step = table_at(t)->quantise_u8(x, origin, dim, got);

		CHECK(step == want_step, "%s %s dim %zu: step %g, want %g", what, table_at(t)->name, dim, step, want_step);
		for (size_t k = 0; k < nbytes; k++)
			CHECK(got[k] == want[k], "%s %s dim %zu at %zu: got %u, want %u", what, table_at(t)->name, dim, k, got[k], want[k]);
	}
	free(want);
	free(got);
}

static void
test_quantise_u8_takes_the_nearest_byte(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 21);
	for (size_t i = 0; i < NDIMS; i++)
	{
		size_t		dim = dim_at(i);
		float	   *x = random_floats(&rng, dim);
		float	   *origin = random_floats(&rng, dim);

		check_quantised(x, origin, dim, "floats");
		check_quantised(x, x, dim, "zeros");

		/* the largest is the last one, far from the others, or too small for its inverse */
		if (dim > 0)
			x[dim - 1] = -1000;
		check_quantised(x, origin, dim, "one large");
		for (size_t k = 0; k < dim; k++)
		{
			origin[k] = 0;
			x[k] *= 1e-39f;
		}
		check_quantised(x, origin, dim, "tiny");
		free(x);
		free(origin);

		/* many ties between two bytes */
		x = random_integers(&rng, dim, 2 * VQ_U8_LARGEST);
		origin = random_integers(&rng, dim, 0);
		for (size_t k = 0; k < dim; k++)
			x[k] /= 2;
		if (dim > 0)
			x[0] = VQ_U8_LARGEST;
		check_quantised(x, origin, dim, "halves");
		free(x);
		free(origin);
	}
}

/*
 * Rows and columns of bytes, each with a step; the last column has no centroid.  The
 * first row and the first columns have the largest values only.
 */
typedef struct Scored
{
	uint8_t    *rows;
	float	   *steps;
	int8_t	   *panels;
	int32_t    *corrections;
	float	   *column_steps;
	float	   *offsets;
	VqColumns	columns;
} Scored;

static int8_t *
value_at(const Scored *scored, size_t column, size_t k)
{
	return scored->panels +
		((column / 16 * scored->columns.nquads + k / 4) * 16 + column % 16) * 4 + k % 4;
}

static int
byte_value(VqRng *rng)
{
	return (int) vq_rng_below(rng, 2 * VQ_U8_LARGEST + 1) - VQ_U8_LARGEST;
}

static void
scored_open(Scored *scored, VqRng *rng, size_t nrows, size_t nquads, size_t ncolumns)
{
	scored->rows = allocate(nrows * nquads * 4);
	scored->steps = random_floats(rng, nrows);
	scored->panels = allocate(ncolumns * nquads * 4);
	scored->corrections = allocate(ncolumns * sizeof(int32_t));
	scored->column_steps = random_floats(rng, ncolumns);
	scored->offsets = random_floats(rng, ncolumns);
	scored->offsets[ncolumns - 1] = INFINITY;
	scored->columns = (VqColumns) {ncolumns, nquads, scored->panels, scored->corrections,
		scored->column_steps, scored->offsets};
	for (size_t k = 0; k < nrows * nquads * 4; k++)
		scored->rows[k] = (uint8_t) (VQ_U8_ZERO + (k < nquads * 4 ? VQ_U8_LARGEST : byte_value(rng)));
	for (size_t k = 0; k < ncolumns * nquads * 4; k++)
		scored->panels[k] = (int8_t) byte_value(rng);
	for (size_t k = 0; k < nquads * 4; k++)
	{
		*value_at(scored, 0, k) = VQ_U8_LARGEST;
		*value_at(scored, 1, k) = -VQ_U8_LARGEST;
	}
	for (size_t j = 0; j < ncolumns; j++)
	{
		scored->corrections[j] = 0;
		for (size_t k = 0; k < nquads * 4; k++)
			scored->corrections[j] -= VQ_U8_ZERO * *value_at(scored, j, k);
	}
}

static void
scored_close(Scored *scored)
{
	free(scored->rows);
	free(scored->steps);
	free(scored->panels);
	free(scored->corrections);
	free(scored->column_steps);
	free(scored->offsets);
}

/* Row counts around those that kernels take at a time, columns of one to nine panels */
static void
test_scores_u8_agree_with_doubles(void)
{
	static const size_t quad_counts[] = {0, 1, 2, 3, 16, 17, 75, 4000};
	VqRng		rng;

	vq_rng_seed(&rng, 22);
	for (size_t n = 0; n < sizeof(quad_counts) / sizeof(quad_counts[0]); n++)
		for (size_t ncolumns = 16; ncolumns <= (quad_counts[n] < 1000 ? 144 : 16); ncolumns += 16)
			for (size_t nrows = 0; nrows <= (quad_counts[n] <= 17 ? 34 : 7); nrows++)
			{
				size_t		nquads = quad_counts[n];
				float	   *got = allocate(nrows * ncolumns * sizeof(float));
				Scored		scored;

				scored_open(&scored, &rng, nrows, nquads, ncolumns);
				for_each_own(t, scores_u8)
				{
					table_at(t)->scores_u8(scored.rows, scored.steps, nrows, &scored.columns, got);
					for (size_t k = 0; k < nrows * ncolumns; k++)
					{
						size_t		j = k % ncolumns;
						const uint8_t *row = scored.rows + k / ncolumns * nquads * 4;
						int64_t		sum = 0;
						Reference	want = {0, 0};

						if (j == ncolumns - 1)
						{
							CHECK(got[k] == -INFINITY, "%s: got %g", table_at(t)->name, got[k]);
							continue;
						}
						for (size_t i = 0; i < nquads * 4; i++)
							sum += (row[i] - VQ_U8_ZERO) * *value_at(&scored, j, i);
						add_term(&want, (double) sum * scored.steps[k / ncolumns] * scored.column_steps[j]);
						add_term(&want, -scored.offsets[j]);
						CHECK(is_close(got[k], &want, 4), "%s %zu rows, %zu columns, %zu quads, score %zu: got %g, want %g",
							  table_at(t)->name, nrows, ncolumns, nquads, k, got[k], want.sum);
					}
				}
				scored_close(&scored);
				free(got);
			}
}

static void
test_scores_u8_of_a_row_depend_on_no_other(void)
{
	size_t		nquads = 38;
	VqRng		rng;

	vq_rng_seed(&rng, 23);
	for (size_t ncolumns = 16; ncolumns <= 144; ncolumns += 16)
	{
		float	   *together = allocate(40 * ncolumns * sizeof(float));
		float	   *apart = allocate(40 * ncolumns * sizeof(float));
		Scored		scored;

		scored_open(&scored, &rng, 40, nquads, ncolumns);
		for_each_own(t, scores_u8)
		{
			table_at(t)->scores_u8(scored.rows, scored.steps, 40, &scored.columns, together);
			for (size_t count = 1; count < 40; count += 6)
			{
				for (size_t first = 0; first < 40; first += count)
					table_at(t)->scores_u8(scored.rows + first * nquads * 4, scored.steps + first,
										   40 - first < count ? 40 - first : count, &scored.columns,
										   apart + first * ncolumns);
				CHECK(memcmp(together, apart, 40 * ncolumns * sizeof(float)) == 0, "%s: %zu columns, %zu rows at a time",
					  table_at(t)->name, ncolumns, count);
			}
		}
		scored_close(&scored);
		free(together);
		free(apart);
	}
}

static void
test_largest_two_takes_the_lowest_on_a_tie(void)
{
	VqRng		rng;

	vq_rng_seed(&rng, 24);
	for (size_t ncolumns = 16; ncolumns <= 208; ncolumns += 16)
	{
		/* from nearly all equal to nearly all different, and minus infinity in between */
		for (int limit = 0; limit <= 1000; limit = limit * 3 + 1)
		{
			size_t		nrows = 20;
			float	   *scores = random_integers(&rng, nrows * ncolumns, limit);
			uint32_t	(*got)[2] = allocate(nrows * sizeof(*got));

			for (size_t k = 0; k < nrows * ncolumns; k++)
				if (vq_rng_below(&rng, nrows) < k / ncolumns)
					scores[k] = -INFINITY;
			for_each_own(t, largest_two)
			{
				table_at(t)->largest_two(scores, nrows, ncolumns, got);
				for (size_t i = 0; i < nrows; i++)
				{
					const float *row = scores + i * ncolumns;
					size_t		first = 0;
					size_t		second;

					for (size_t j = 1; j < ncolumns; j++)
						first = row[j] > row[first] ? j : first;
					second = first == 0 ? 1 : 0;
					for (size_t j = second + 1; j < ncolumns; j++)
						second = j != first && row[j] > row[second] ? j : second;
					CHECK(got[i][0] == first && got[i][1] == second, "%s %zu columns row %zu: got %u and %u, want %zu and %zu",
						  table_at(t)->name, ncolumns, i, got[i][0], got[i][1], first, second);
				}
			}
			free(scores);
			free(got);
		}
	}
}

static void
test_largest_two_of_nans_are_columns(void)
{
	float		scores[80];
	uint32_t	got[1][2];

	for (size_t nan_every = 1; nan_every < 5; nan_every++)
	{
		for (size_t j = 0; j < 80; j++)
			scores[j] = j % nan_every == 0 ? NAN : -(float) j;
		for_each_own(t, largest_two)
		{
			table_at(t)->largest_two(scores, 1, 80, got);
			CHECK(got[0][0] < 80 && got[0][1] < 80 && got[0][0] != got[0][1], "%s: got %u and %u",
				  table_at(t)->name, got[0][0], got[0][1]);
		}
	}
}

void
suite_vq_kernels(void)
{
	RUN_TEST(test_tables_end_with_scalar_and_are_found_by_name);
	RUN_TEST(test_cpu_features_imply_their_base);
	RUN_TEST(test_distances_agree_with_doubles);
	RUN_TEST(test_add_f64_is_exact_at_every_tail);
	RUN_TEST(test_f16_to_f32_is_exact_for_all_values);
	RUN_TEST(test_f16_to_f32_at_every_tail);
	RUN_TEST(test_l2sq_rows_agree_with_doubles);
	RUN_TEST(test_project_i8_agrees_with_doubles);
	RUN_TEST(test_fwht_agrees_with_definition_and_is_its_own_inverse);
	RUN_TEST(test_pq_encode_finds_the_nearest);
	RUN_TEST(test_pq_encode_takes_the_lowest_on_a_tie);
	RUN_TEST(test_pq_encode_gives_zero_when_every_distance_overflows);
	RUN_TEST(test_pq_encode_of_nan_stays_below_ksub);
	RUN_TEST(test_pq_lut_agrees_with_doubles);
	RUN_TEST(test_luts_in_bytes_are_rounded_to_the_nearest);
	RUN_TEST(test_scans_are_exact_for_every_m_and_n);
	RUN_TEST(test_scans_do_not_overflow_on_the_largest_tables);
	RUN_TEST(test_bound_decodes_every_e_exactly);
	RUN_TEST(test_bound_agrees_with_doubles);
	RUN_TEST(test_bound_tells_which_are_not_above_the_ceiling);
	RUN_TEST(test_quantise_u8_takes_the_nearest_byte);
	RUN_TEST(test_scores_u8_agree_with_doubles);
	RUN_TEST(test_scores_u8_of_a_row_depend_on_no_other);
	RUN_TEST(test_largest_two_takes_the_lowest_on_a_tie);
	RUN_TEST(test_largest_two_of_nans_are_columns);
}
