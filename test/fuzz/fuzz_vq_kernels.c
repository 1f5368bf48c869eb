/*-------------------------------------------------------------------------
 *
 * fuzz_vq_kernels.c
 *	  All kernel tables agree: each operation of each table that this
 *	  processor runs against the same of the scalar table.
 *
 *		clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc \
 *			test/fuzz/fuzz_vq_kernels.c src/kernels/vq_cpu.c \
 *			src/kernels/vq_kernels*.c -lm
 *
 * Input: the operation, two bytes of sizes, then what fills the buffers, over
 * and over.  Integers must be equal, floats within the error that vq_kernels.h
 * promises.  Buffers have exactly the promised sizes, for the address sanitizer.
 *
 *-------------------------------------------------------------------------
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/vq_kernels.h"

#define MAX_ROWS 9
#define MAX_PANELS 9

typedef struct Input
{
	const uint8_t *data;
	size_t		size;
	size_t		at;
	size_t		sizes[2];
} Input;

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool condition)
{
	if (!condition)
		abort();
}

/* The next table, other than the scalar one, that the processor runs */
static const VqKernels *
table_at(size_t n)
{
	for (size_t i = 0; vq_kernels_all[i] != &vq_kernels_scalar; i++)
		if (vq_kernels_supported(vq_kernels_all[i]) && n-- == 0)
			return vq_kernels_all[i];
	return NULL;
}

static void *
allocate(size_t nbytes)
{
	void	   *p = malloc(nbytes > 0 ? nbytes : 1);

	require(p != NULL);
	return p;
}

/* What comes again differs a little, so that short inputs do not repeat */
static uint8_t
next_byte(Input *input)
{
	size_t		at = input->at++;

	if (input->size == 0)
		return (uint8_t) at;
	return (uint8_t) (input->data[at % input->size] + at / input->size);
}

static uint8_t *
bytes_from(Input *input, size_t n)
{
	uint8_t    *p = allocate(n);

	for (size_t i = 0; i < n; i++)
		p[i] = next_byte(input);
	return p;
}

/* Any sign and mantissa, magnitudes from 2^-16 to 2^16, and zeros */
static float *
floats_from(Input *input, size_t n)
{
	float	   *p = allocate(n * sizeof(float));

	for (size_t i = 0; i < n; i++)
	{
		int			mantissa = (int8_t) next_byte(input);
		int			exponent = next_byte(input) % 32 - 23;

		p[i] = ldexpf((float) mantissa, exponent);
	}
	return p;
}

static double
double_l2sq(const float *a, const float *b, size_t dim)
{
	double		sum = 0;

	for (size_t i = 0; i < dim; i++)
		sum += ((double) a[i] - b[i]) * ((double) a[i] - b[i]);
	return sum;
}

static double
double_abs_ip(const float *a, const float *b, size_t dim)
{
	double		sum = 0;

	for (size_t i = 0; i < dim; i++)
		sum += fabs((double) a[i] * b[i]);
	return sum;
}

/* Twice the error of one table, as both of them have it */
static void
require_close(double a, double b, double abs_sum, size_t nterms)
{
	require(fabs(a - b) <= 2 * (double) (nterms + 2) * FLT_EPSILON * abs_sum);
}

static void
fuzz_distances(Input *input)
{
	size_t		dim = input->sizes[0];
	float	   *a = floats_from(input, dim);
	float	   *b = floats_from(input, dim);
	double		l2sq = double_l2sq(a, b, dim);
	double		abs_ab = double_abs_ip(a, b, dim);
	double		aa = double_abs_ip(a, a, dim);
	double		bb = double_abs_ip(b, b, dim);
	double	   *want_sums = calloc(dim + 1, sizeof(double));
	double	   *sums = calloc(dim + 1, sizeof(double));
	float		want[3];

	vq_kernels_scalar.ip_norms_f32(a, b, dim, want);
	vq_kernels_scalar.add_f64(want_sums, a, 1.0, dim);
	vq_kernels_scalar.add_f64(want_sums, b, -1.0, dim);
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		const VqKernels *kernels = table_at(t);
		float		got[3];

		require_close(kernels->l2sq_f32(a, b, dim), vq_kernels_scalar.l2sq_f32(a, b, dim), l2sq, dim);
		require_close(kernels->ip_f32(a, b, dim), vq_kernels_scalar.ip_f32(a, b, dim), abs_ab, dim);
		kernels->ip_norms_f32(a, b, dim, got);
		require_close(got[0], want[0], abs_ab, dim);
		require_close(got[1], want[1], aa, dim);
		require_close(got[2], want[2], bb, dim);
		memset(sums, 0, dim * sizeof(double));
		kernels->add_f64(sums, a, 1.0, dim);
		kernels->add_f64(sums, b, -1.0, dim);
		require(memcmp(sums, want_sums, dim * sizeof(double)) == 0);
	}
	free(a);
	free(b);
	free(want_sums);
	free(sums);
}

/* Any bits at all; NaN need only stay NaN */
static void
fuzz_f16(Input *input)
{
	size_t		n = input->sizes[0];
	uint16_t   *halves = allocate(n * sizeof(uint16_t));
	float	   *want = allocate(n * sizeof(float));
	float	   *got = allocate(n * sizeof(float));

	for (size_t i = 0; i < n; i++)
		halves[i] = (uint16_t) (next_byte(input) | next_byte(input) << 8);
	vq_kernels_scalar.f16_to_f32(halves, n, want);
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		table_at(t)->f16_to_f32(halves, n, got);
		for (size_t i = 0; i < n; i++)
			require(got[i] == want[i] || (isnan(got[i]) && isnan(want[i])));
	}
	free(halves);
	free(want);
	free(got);
}

static void
fuzz_rows(Input *input, bool is_i8)
{
	size_t		dim = input->sizes[0];
	size_t		nrows = input->sizes[1] % (MAX_ROWS + 1);
	size_t		row_bytes = sizeof(VqRowHeader) + dim * (is_i8 ? 1 : sizeof(float));
	size_t		stride = (row_bytes + 3) / 4 * 4;
	size_t		total = nrows > 0 ? (nrows - 1) * stride + row_bytes : 0;
	float	   *q = floats_from(input, dim);
	uint8_t    *rows = bytes_from(input, total);
	float		want[MAX_ROWS];
	float	   *got = allocate(nrows * sizeof(float));
	double		scales[MAX_ROWS];

	for (size_t i = 0; i < nrows; i++)
	{
		float	   *values = floats_from(input, dim);
		VqRowHeader header = {1, 0};
		double		row_sq = 0;

		if (is_i8)
		{
			const int8_t *bytes = (const int8_t *) (rows + i * stride + sizeof(header));

			header.scale = ldexpf((float) (1 + next_byte(input)), -8);
			for (size_t d = 0; d < dim; d++)
				values[d] = header.scale * (float) bytes[d];
		}
		else if (dim > 0)
			memcpy(rows + i * stride + sizeof(header), values, dim * sizeof(float));
		memcpy(rows + i * stride, &header, sizeof(header));

		/* With and without FMA, scale * byte rounds differently: the terms count, not their difference */
		row_sq = double_abs_ip(values, values, dim) + double_abs_ip(q, q, dim);
		scales[i] = is_i8 ? 2 * row_sq : double_l2sq(q, values, dim);
		free(values);
	}

	if (is_i8)
		vq_kernels_scalar.l2sq_rows_i8(q, dim, rows, stride, nrows, want);
	else
		vq_kernels_scalar.l2sq_rows_f32(q, dim, rows, stride, nrows, want);
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		if (is_i8)
			table_at(t)->l2sq_rows_i8(q, dim, rows, stride, nrows, got);
		else
			table_at(t)->l2sq_rows_f32(q, dim, rows, stride, nrows, got);
		for (size_t i = 0; i < nrows; i++)
			require_close(got[i], want[i], scales[i], dim);
	}
	free(q);
	free(rows);
	free(got);
}

static void
fuzz_rows_f32(Input *input)
{
	fuzz_rows(input, false);
}

static void
fuzz_rows_i8(Input *input)
{
	fuzz_rows(input, true);
}

static void
fuzz_project(Input *input)
{
	size_t		dim = input->sizes[0];
	size_t		npanels = input->sizes[1] % (MAX_PANELS + 1);
	size_t		ncolumns = npanels * VQ_PANEL_COLUMNS;
	float	   *x = floats_from(input, dim);
	float	   *steps = floats_from(input, ncolumns);
	uint8_t    *bytes = bytes_from(input, ncolumns * dim);
	const int8_t *panels = (const int8_t *) bytes;
	float	   *want = allocate(ncolumns * sizeof(float));
	float	   *got = allocate(ncolumns * sizeof(float));
	double	   *abs_sums = allocate(ncolumns * sizeof(double));

	for (size_t j = 0; j < ncolumns; j++)
	{
		double		largest = 0;

		for (size_t i = 0; i < dim; i++)
			largest = fmax(largest, fabs((double) x[i]));
		abs_sums[j] = fabs((double) steps[j]) * largest * 128 * (double) dim;
	}
	vq_kernels_scalar.project_i8(x, dim, panels, steps, npanels, want);
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		table_at(t)->project_i8(x, dim, panels, steps, npanels, got);
		for (size_t j = 0; j < ncolumns; j++)
			require_close(got[j], want[j], abs_sums[j], dim);
	}
	free(x);
	free(steps);
	free(bytes);
	free(want);
	free(got);
	free(abs_sums);
}

static void
fuzz_fwht(Input *input)
{
	size_t		n = (size_t) 1 << (input->sizes[0] % 12);
	float	   *x = floats_from(input, n);
	float	   *want = allocate(n * sizeof(float));
	float	   *got = allocate(n * sizeof(float));
	double		abs_sum = 0;

	for (size_t i = 0; i < n; i++)
		abs_sum += fabs((double) x[i]);
	abs_sum /= sqrt((double) n);

	memcpy(want, x, n * sizeof(float));
	vq_kernels_scalar.fwht(want, n);
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		memcpy(got, x, n * sizeof(float));
		table_at(t)->fwht(got, n);
		for (size_t i = 0; i < n; i++)
			require_close(got[i], want[i], abs_sum, 16);
	}
	free(x);
	free(want);
	free(got);
}

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

static void
fuzz_pq(Input *input, size_t ksub)
{
	size_t		m = input->sizes[0] % 21;
	size_t		dsub = 1 + input->sizes[1] % 9;
	float	   *x = floats_from(input, m * dsub);
	float	   *codebook = floats_from(input, m * dsub * ksub);
	uint8_t    *want_codes = allocate(m);
	uint8_t    *codes = allocate(m);
	float	   *want_lut = allocate(m * ksub * sizeof(float));
	float	   *lut = allocate(m * ksub * sizeof(float));

	vq_kernels_scalar.pq_encode(x, codebook, m, dsub, ksub, want_codes);
	vq_kernels_scalar.pq_lut(x, codebook, m, dsub, ksub, want_lut);
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		table_at(t)->pq_encode(x, codebook, m, dsub, ksub, codes);
		table_at(t)->pq_lut(x, codebook, m, dsub, ksub, lut);
		for (size_t j = 0; j < m; j++)
		{
			double		want = distance_to_centroid(x, codebook, dsub, ksub, j, want_codes[j]);
			double		got = distance_to_centroid(x, codebook, dsub, ksub, j, codes[j]);

			/* Rounding may choose another, but only one that is as near */
			require(codes[j] < ksub && want_codes[j] < ksub);
			require(codes[j] == want_codes[j] || fabs(got - want) <= 1e-5 * want);
		}
		for (size_t i = 0; i < m * ksub; i++)
		{
			size_t		j = i / ksub;
			double		abs_sum = 0;

			for (size_t d = 0; d < dsub; d++)
				abs_sum += fabs((double) x[j * dsub + d] * codebook[(j * dsub + d) * ksub + i % ksub]);
			require_close(lut[i], want_lut[i], abs_sum, dsub);
		}
	}
	free(x);
	free(codebook);
	free(want_codes);
	free(codes);
	free(want_lut);
	free(lut);
}

static void
fuzz_pq_16(Input *input)
{
	fuzz_pq(input, 16);
}

static void
fuzz_pq_256(Input *input)
{
	fuzz_pq(input, 256);
}

static void
fuzz_scans(Input *input)
{
	size_t		m = input->sizes[0] * 3 + input->sizes[1] % 3;
	size_t		n = VQ_CAPACITY_STEP * (1 + input->sizes[1] % 4);
	uint8_t    *codes = bytes_from(input, m * n);
	uint8_t    *half_codes = bytes_from(input, m * n / 2);
	uint8_t    *lut16 = bytes_from(input, m * 16);
	uint8_t    *lut256 = bytes_from(input, m * 256);
	uint32_t	want4[VQ_BLOCK_LANES];
	uint32_t	want8[VQ_BLOCK_LANES];
	uint32_t   *got = allocate(sizeof(want4));
	uint8_t		common_bits = next_byte(input);

	/* Sums near what 16 bits hold would else never come by */
	for (size_t i = 0; i < m * 16; i++)
		lut16[i] |= common_bits;
	for (size_t i = 0; i < m * 256; i++)
		lut256[i] |= common_bits;

	vq_kernels_scalar.scan4(half_codes, n, lut16, m, want4);
	vq_kernels_scalar.scan8(codes, n, lut256, m, want8);
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		table_at(t)->scan4(half_codes, n, lut16, m, got);
		require(memcmp(got, want4, n * sizeof(uint32_t)) == 0);
		table_at(t)->scan8(codes, n, lut256, m, got);
		require(memcmp(got, want8, n * sizeof(uint32_t)) == 0);
	}
	free(codes);
	free(half_codes);
	free(lut16);
	free(lut256);
	free(got);
}

static void
fuzz_bound(Input *input)
{
	size_t		n = VQ_CAPACITY_STEP * (1 + input->sizes[0] % 4);
	float	   *a = floats_from(input, n);
	float	   *numbers = floats_from(input, 4);
	uint8_t    *e = bytes_from(input, n);
	uint16_t   *s = (uint16_t *) bytes_from(input, n * sizeof(uint16_t));
	uint32_t   *sums = (uint32_t *) bytes_from(input, n * sizeof(uint32_t));
	VqBound		bound = {numbers[0], numbers[1], numbers[2], fabsf(numbers[3])};
	float		want[VQ_BLOCK_LANES];
	float	   *got = allocate(n * sizeof(float));

	if (input->sizes[1] < n)
		a[input->sizes[1]] = -INFINITY;
	for (size_t i = 0; i < n; i++)
		sums[i] %= 255 * VQ_MAX_DIM + 1;

	vq_kernels_scalar.bound(a, s, e, sums, n, &bound, INFINITY, want);
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		table_at(t)->bound(a, s, e, sums, n, &bound, INFINITY, got);
		for (size_t i = 0; i < n; i++)
		{
			double		s_value = s[i] / (double) VQ_S_ONE;
			double		largest = fmax(fabs((double) bound.base), 256 * (double) bound.reach);

			largest = fmax(largest, s_value * fabs((double) bound.lut_bias));
			largest = fmax(largest, s_value * fabs((double) bound.lut_step) * sums[i]);
			if (a[i] == -INFINITY)
				require(got[i] == -INFINITY && want[i] == -INFINITY);
			else
				require(fabs((double) got[i] - want[i]) <= 1e-5 * fmax(largest, fabs((double) a[i])));
		}
	}
	free(a);
	free(numbers);
	free(e);
	free(s);
	free(sums);
	free(got);
}

/* Any number of dimensions of the last quad, one to nine panels of columns */
static void
fuzz_u8(Input *input)
{
	size_t		dim = input->sizes[0];
	size_t		nquads = (dim + 3) / 4;
	size_t		nrows = input->sizes[1] % 31;
	size_t		ncolumns = VQ_PANEL_COLUMNS * (1 + input->sizes[1] / 31);
	float	   *x = floats_from(input, nrows * dim);
	float	   *origin = floats_from(input, dim);
	float	   *offsets = floats_from(input, ncolumns);
	float	   *column_steps = floats_from(input, ncolumns);
	int32_t    *corrections = allocate(ncolumns * sizeof(int32_t));
	uint8_t    *panels = bytes_from(input, ncolumns * nquads * 4);
	uint8_t    *rows = allocate(nrows * nquads * 4);
	uint8_t    *got_row = allocate(nquads * 4);
	float	   *steps = allocate(nrows * sizeof(float));
	float	   *want = allocate(nrows * ncolumns * sizeof(float));
	float	   *got = allocate(nrows * ncolumns * sizeof(float));
	uint32_t	(*want_at)[2] = allocate(nrows * sizeof(*want_at));
	uint32_t	(*got_at)[2] = allocate(nrows * sizeof(*got_at));
	VqColumns	columns = {ncolumns, nquads, (const int8_t *) panels, corrections, column_steps, offsets};

	for (size_t k = 0; k < ncolumns * nquads * 4; k++)
		panels[k] = (uint8_t) (panels[k] % (2 * VQ_U8_LARGEST + 1) - VQ_U8_LARGEST);

	/* corrections need not be those of the columns */
	for (size_t j = 0; j < ncolumns; j++)
		corrections[j] = (int8_t) next_byte(input) * 1000;
	for (size_t i = 0; i < nrows; i++)
		steps[i] = vq_kernels_scalar.quantise_u8(x + i * dim, origin, dim, rows + i * nquads * 4);
	vq_kernels_scalar.scores_u8(rows, steps, nrows, &columns, want);
	vq_kernels_scalar.largest_two(want, nrows, ncolumns, want_at);
	for (size_t t = 0; table_at(t) != NULL; t++)
	{
		for (size_t i = 0; i < nrows; i++)
		{
			require(table_at(t)->quantise_u8(x + i * dim, origin, dim, got_row) == steps[i]);
			require(memcmp(got_row, rows + i * nquads * 4, nquads * 4) == 0);
		}
		table_at(t)->largest_two(want, nrows, ncolumns, got_at);
		require(memcmp(got_at, want_at, nrows * sizeof(*want_at)) == 0);
		table_at(t)->scores_u8(rows, steps, nrows, &columns, got);
		for (size_t k = 0; k < nrows * ncolumns; k++)
		{
			double		offset = offsets[k % ncolumns];

			require(fabs((double) got[k] - want[k]) <= 8 * FLT_EPSILON * (fabs(want[k] + offset) + fabs(offset)));
		}
	}
	free(x);
	free(origin);
	free(offsets);
	free(column_steps);
	free(corrections);
	free(panels);
	free(rows);
	free(got_row);
	free(steps);
	free(want);
	free(got);
	free(want_at);
	free(got_at);
}

static void (*const operations[]) (Input *input) = {
	fuzz_distances,
	fuzz_rows_f32,
	fuzz_rows_i8,
	fuzz_fwht,
	fuzz_pq_16,
	fuzz_pq_256,
	fuzz_scans,
	fuzz_bound,
	fuzz_u8,
	fuzz_f16,
	fuzz_project,
};

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Input		input = {0};

	if (size < 3)
		return 0;
	input.data = data + 3;
	input.size = size - 3;
	input.sizes[0] = data[1];
	input.sizes[1] = data[2];
	operations[data[0] % (sizeof(operations) / sizeof(operations[0]))] (&input);
	return 0;
}
