/*-------------------------------------------------------------------------
 *
 * vq_kernels_scalar.c
 *	  The operations in portable C: the table every processor can run, and
 *	  the one the others are tested against.
 *
 * Sums of floats run in LANES independent lanes.  Without -ffast-math, which
 * is not to be used in a backend, that is what lets the compiler use whatever
 * vector registers its baseline has; it also keeps rounding errors small.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#include <math.h>
#include <string.h>

#define LANES 8
#define LUT_LANES 16			/* divides ksub */

static inline float
sum_of_lanes(const float lanes[LANES])
{
	return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
		((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

static float
l2sq_f32(const float *a, const float *b, size_t dim)
{
	float		sums[LANES] = {0};
	size_t		i = 0;

	for (; i + LANES <= dim; i += LANES)
		for (size_t k = 0; k < LANES; k++)
		{
			float		diff = a[i + k] - b[i + k];

			sums[k] += diff * diff;
		}
	for (size_t k = 0; i + k < dim; k++)
	{
		float		diff = a[i + k] - b[i + k];

		sums[k] += diff * diff;
	}
	return sum_of_lanes(sums);
}

static float
ip_f32(const float *a, const float *b, size_t dim)
{
	float		sums[LANES] = {0};
	size_t		i = 0;

	for (; i + LANES <= dim; i += LANES)
		for (size_t k = 0; k < LANES; k++)
			sums[k] += a[i + k] * b[i + k];
	for (size_t k = 0; i + k < dim; k++)
		sums[k] += a[i + k] * b[i + k];
	return sum_of_lanes(sums);
}

/* In three passes: three sets of lanes at once are more than compilers vectorise */
static void
add_f64(double *restrict sums, const float *restrict x, double factor, size_t dim)
{
	size_t		i = 0;

	for (; i + LANES <= dim; i += LANES)
		for (size_t k = 0; k < LANES; k++)
			sums[i + k] += factor * x[i + k];
	for (; i < dim; i++)
		sums[i] += factor * x[i];
}

static void
ip_norms_f32(const float *a, const float *b, size_t dim, float out[3])
{
	out[0] = ip_f32(a, b, dim);
	out[1] = ip_f32(a, a, dim);
	out[2] = ip_f32(b, b, dim);
}

static float
unpack_f16(uint16_t half)
{
	uint32_t	sign = (uint32_t) (half & 0x8000) << 16;
	uint32_t	exponent = half & 0x7C00;
	uint32_t	bits = (uint32_t) (half & 0x7FFF) << 13;	/* where a float has them */
	float		value;

	if (exponent == 0)
	{
		value = (float) (half & 0x3FF) * 0x1p-24f;
		return sign ? -value : value;
	}
	bits += exponent == 0x7C00 ? (0xFF - 0x1F) << 23 : (127 - 15) << 23;
	bits |= sign;
	memcpy(&value, &bits, sizeof(value));
	return value;
}

static void
f16_to_f32(const uint16_t *x, size_t n, float *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = unpack_f16(x[i]);
}

static void
l2sq_rows_f32(const float *q, size_t dim, const void *rows, size_t stride,
			  size_t nrows, float *out)
{
	for (size_t i = 0; i < nrows; i++)
	{
		const VqRowHeader *row =
			(const VqRowHeader *) ((const char *) rows + i * stride);

		out[i] = l2sq_f32(q, (const float *) (row + 1), dim);
	}
}

static void
l2sq_rows_i8(const float *q, size_t dim, const void *rows, size_t stride,
			 size_t nrows, float *out)
{
	for (size_t row_no = 0; row_no < nrows; row_no++)
	{
		const VqRowHeader *row =
			(const VqRowHeader *) ((const char *) rows + row_no * stride);
		const int8_t *bytes = (const int8_t *) (row + 1);
		float		scale = row->scale;
		float		sums[LANES] = {0};
		size_t		i = 0;

		for (; i + LANES <= dim; i += LANES)
			for (size_t k = 0; k < LANES; k++)
			{
				float		diff = q[i + k] - scale * bytes[i + k];

				sums[k] += diff * diff;
			}
		for (size_t k = 0; i + k < dim; k++)
		{
			float		diff = q[i + k] - scale * bytes[i + k];

			sums[k] += diff * diff;
		}
		out[row_no] = sum_of_lanes(sums);
	}
}

static void
project_i8(const float *x, size_t dim, const int8_t *panels, const float *steps, size_t npanels, float *out)
{
	for (size_t p = 0; p < npanels; p++)
	{
		const int8_t *panel = panels + p * dim * VQ_PANEL_COLUMNS;
		float		sums[VQ_PANEL_COLUMNS] = {0};

		for (size_t i = 0; i < dim; i++)
			for (size_t k = 0; k < VQ_PANEL_COLUMNS; k++)
				sums[k] += x[i] * panel[i * VQ_PANEL_COLUMNS + k];
		for (size_t k = 0; k < VQ_PANEL_COLUMNS; k++)
			out[p * VQ_PANEL_COLUMNS + k] = steps[p * VQ_PANEL_COLUMNS + k] * sums[k];
	}
}

static void
fwht(float *x, size_t n)
{
	float		scale = 1.0f / sqrtf((float) n);

	for (size_t i = 0; i < n; i++)
		x[i] *= scale;

	/* The stages between elements less than LANES apart */
	for (size_t half = 1; half < n && half < LANES; half *= 2)
		for (size_t start = 0; start < n; start += 2 * half)
			for (size_t i = start; i < start + half; i++)
			{
				float		a = x[i];
				float		b = x[i + half];

				x[i] = a + b;
				x[i + half] = a - b;
			}

	for (size_t half = LANES; half < n; half *= 2)
		for (size_t start = 0; start < n; start += 2 * half)
			for (size_t i = start; i < start + half; i += LANES)
			{
				float		sums[LANES];
				float		diffs[LANES];

				/* The compiler cannot know that the halves never overlap */
				for (size_t k = 0; k < LANES; k++)
					sums[k] = x[i + k] + x[i + half + k];
				for (size_t k = 0; k < LANES; k++)
					diffs[k] = x[i + k] - x[i + half + k];
				memcpy(x + i, sums, sizeof(sums));
				memcpy(x + i + half, diffs, sizeof(diffs));
			}
}

static void
pq_encode(const float *x, const float *codebook, size_t m, size_t dsub,
		  size_t ksub, uint8_t *codes)
{
	for (size_t j = 0; j < m; j++)
	{
		float		least = INFINITY;
		size_t		nearest = 0;

		for (size_t k = 0; k < ksub; k += LANES)
		{
			const float *centroids = codebook + j * dsub * ksub + k;
			float		sums[LANES] = {0};

			for (size_t d = 0; d < dsub; d++, centroids += ksub)
				for (size_t lane = 0; lane < LANES; lane++)
				{
					float		diff = x[j * dsub + d] - centroids[lane];

					sums[lane] += diff * diff;
				}
			for (size_t lane = 0; lane < LANES; lane++)
				if (sums[lane] < least)
				{
					least = sums[lane];
					nearest = k + lane;
				}
		}
		codes[j] = (uint8_t) nearest;
	}
}

static void
pq_lut(const float *q, const float *codebook, size_t m, size_t dsub,
	   size_t ksub, float *lut)
{
	for (size_t j = 0; j < m; j++)
		for (size_t k = 0; k < ksub; k += LANES)
		{
			const float *centroids = codebook + j * dsub * ksub + k;
			float		sums[LANES] = {0};

			for (size_t d = 0; d < dsub; d++, centroids += ksub)
				for (size_t lane = 0; lane < LANES; lane++)
					sums[lane] += q[j * dsub + d] * centroids[lane];
			memcpy(lut + j * ksub + k, sums, sizeof(sums));
		}
}

static inline float
smaller(float a, float b)
{
	return a < b ? a : b;
}

static inline float
larger(float a, float b)
{
	return a > b ? a : b;
}

/* Smallest and largest of ksub entries, in four chains so that none waits long for itself */
static void
find_range(const float *entries, size_t ksub, float *low, float *high)
{
	float		low0 = entries[0];
	float		low1 = entries[1];
	float		low2 = entries[2];
	float		low3 = entries[3];
	float		high0 = low0;
	float		high1 = low1;
	float		high2 = low2;
	float		high3 = low3;

	for (size_t k = 4; k < ksub; k += 4)
	{
		low0 = smaller(entries[k], low0);
		low1 = smaller(entries[k + 1], low1);
		low2 = smaller(entries[k + 2], low2);
		low3 = smaller(entries[k + 3], low3);
		high0 = larger(entries[k], high0);
		high1 = larger(entries[k + 1], high1);
		high2 = larger(entries[k + 2], high2);
		high3 = larger(entries[k + 3], high3);
	}
	*low = smaller(smaller(low0, low1), smaller(low2, low3));
	*high = larger(larger(high0, high1), larger(high2, high3));
}

/*
 * bytes := round((entries - low) * per_step), which lies in 0 to 255.  Adding
 * 1.5 * 2^23 leaves that integer in the lowest bits of the float: the same
 * on every machine, and defined even for values that are no numbers.
 */
static void
round_entries(const float *restrict entries, size_t ksub, float low, float per_step,
			  uint8_t *restrict bytes)
{
	for (size_t k = 0; k < ksub; k += LUT_LANES)
	{
		float		shifted[LUT_LANES];
		uint32_t	bits[LUT_LANES];

		for (size_t lane = 0; lane < LUT_LANES; lane++)
			shifted[lane] = (entries[k + lane] - low) * per_step + 12582912.0f;
		memcpy(bits, shifted, sizeof(bits));
		for (size_t lane = 0; lane < LUT_LANES; lane++)
			bytes[k + lane] = (uint8_t) bits[lane];
	}
}

static void
lut_ranges(const float *lut, size_t m, size_t ksub, uint8_t *bytes)
{
	for (size_t j = 0; j < m; j++)
	{
		float		range[2];

		find_range(lut + j * ksub, ksub, &range[0], &range[1]);
		memcpy(bytes + j * ksub, range, sizeof(range));
	}
}

static void
lut_bytes(const float *lut, size_t m, size_t ksub, float per_step, uint8_t *bytes)
{
	for (size_t j = 0; j < m; j++)
	{
		float		low;

		memcpy(&low, bytes + j * ksub, sizeof(low));
		round_entries(lut + j * ksub, ksub, low, per_step, bytes + j * ksub);
	}
}

static void
scan4(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
	  uint32_t sums[VQ_BLOCK_LANES])
{
	size_t		half = n / 2;

	/* Eight sums at a time stay in registers; all 32 would not */
	for (size_t i = 0; i < half; i += 4)
	{
		uint32_t	low0 = 0,
					low1 = 0,
					low2 = 0,
					low3 = 0,
					high0 = 0,
					high1 = 0,
					high2 = 0,
					high3 = 0;

		for (size_t j = 0; j < m; j++)
		{
			const uint8_t *row = codes + j * half + i;
			const uint8_t *table = lut + j * 16;

			low0 += table[row[0] & 15];
			low1 += table[row[1] & 15];
			low2 += table[row[2] & 15];
			low3 += table[row[3] & 15];
			high0 += table[row[0] >> 4];
			high1 += table[row[1] >> 4];
			high2 += table[row[2] >> 4];
			high3 += table[row[3] >> 4];
		}
		sums[i] = low0;
		sums[i + 1] = low1;
		sums[i + 2] = low2;
		sums[i + 3] = low3;
		sums[i + half] = high0;
		sums[i + half + 1] = high1;
		sums[i + half + 2] = high2;
		sums[i + half + 3] = high3;
	}
}

static void
scan8(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
	  uint32_t sums[VQ_BLOCK_LANES])
{
	/* Eight at a time, as above */
	for (size_t i = 0; i < n; i += 8)
	{
		uint32_t	s0 = 0,
					s1 = 0,
					s2 = 0,
					s3 = 0,
					s4 = 0,
					s5 = 0,
					s6 = 0,
					s7 = 0;

		for (size_t j = 0; j < m; j++)
		{
			const uint8_t *row = codes + j * n + i;
			const uint8_t *table = lut + j * 256;

			s0 += table[row[0]];
			s1 += table[row[1]];
			s2 += table[row[2]];
			s3 += table[row[3]];
			s4 += table[row[4]];
			s5 += table[row[5]];
			s6 += table[row[6]];
			s7 += table[row[7]];
		}
		sums[i] = s0;
		sums[i + 1] = s1;
		sums[i + 2] = s2;
		sums[i + 3] = s3;
		sums[i + 4] = s4;
		sums[i + 5] = s5;
		sums[i + 6] = s6;
		sums[i + 7] = s7;
	}
}

/*
 * The value of an E byte.  Bytes below 8 have a zero exponent field: as bits
 * of a float they would be denormal, which is slow to multiply and zero where
 * a library has set DAZ.  So those are converted as the integers they are.
 */
static inline float
unpack_e(uint8_t e)
{
	uint32_t	bits = ((uint32_t) e << VQ_E_SHIFT) + ((uint32_t) VQ_E_SCALE_LOG2 << 23);
	float		value;

	if (e < 8)
		return (float) e * VQ_E_SMALL_UNIT;
	memcpy(&value, &bits, sizeof(value));
	return value;
}

static uint32_t
bound(const float *a, const uint16_t *s, const uint8_t *e,
	  const uint32_t *sums, size_t n, const VqBound *list, float ceiling, float *low)
{
	uint32_t	is_below = 0;

	for (size_t i = 0; i < n; i++)
	{
		float		product = list->lut_bias + list->lut_step * (float) (int32_t) sums[i];

		low[i] = list->base + a[i]
			- (float) s[i] * (1.0f / VQ_S_ONE) * product
			- unpack_e(e[i]) * list->reach;
		is_below |= (uint32_t) !(low[i] > ceiling) << i;
	}
	return is_below;
}

static float
quantise_u8(const float *x, const float *origin, size_t dim, uint8_t *out)
{
	float		largest = 0.0f;
	float		inverse;

	for (size_t i = 0; i < dim; i++)
		largest = fmaxf(largest, fabsf(x[i] - origin[i]));
	inverse = largest >= VQ_U8_SMALLEST ? VQ_U8_LARGEST / largest : 0.0f;
	for (size_t i = 0; i < (dim + 3) / 4 * 4; i++)
		out[i] = (uint8_t) (VQ_U8_ZERO + (i < dim ? (int) lrintf((x[i] - origin[i]) * inverse) : 0));
	return largest >= VQ_U8_SMALLEST ? largest / VQ_U8_LARGEST : 0.0f;
}

static void
scores_u8(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns, float *scores)
{
	size_t		nquads = columns->nquads;

	for (size_t i = 0; i < nrows; i++)
		for (size_t j = 0; j < columns->ncolumns; j++)
		{
			const uint8_t *row = rows + i * nquads * 4;
			const int8_t *column = columns->panels + (j / VQ_PANEL_COLUMNS * nquads * VQ_PANEL_COLUMNS + j % VQ_PANEL_COLUMNS) * 4;
			int32_t		sum = columns->corrections[j];

			for (size_t q = 0; q < nquads; q++, row += 4, column += VQ_PANEL_COLUMNS * 4)
				sum += row[0] * column[0] + row[1] * column[1] + row[2] * column[2] + row[3] * column[3];
			scores[i * columns->ncolumns + j] = (float) sum * (steps[i] * columns->steps[j]) - columns->offsets[j];
		}
}

static void
largest_two(const float *scores, size_t nrows, size_t ncolumns, uint32_t (*at)[2])
{
	for (size_t i = 0; i < nrows; i++, scores += ncolumns)
	{
		uint32_t	first = 0;
		uint32_t	second = 1;

		for (uint32_t j = 1; j < ncolumns; j++)
		{
			if (scores[j] > scores[first])
			{
				second = first;
				first = j;
			}
			else if (j == 1 || scores[j] > scores[second])
				second = j;
		}
		at[i][0] = first;
		at[i][1] = second;
	}
}

const VqKernels vq_kernels_scalar = {
	.name = "scalar",
	.required_features = 0,
	.l2sq_f32 = l2sq_f32,
	.ip_f32 = ip_f32,
	.ip_norms_f32 = ip_norms_f32,
	.add_f64 = add_f64,
	.f16_to_f32 = f16_to_f32,
	.l2sq_rows_f32 = l2sq_rows_f32,
	.l2sq_rows_i8 = l2sq_rows_i8,
	.project_i8 = project_i8,
	.fwht = fwht,
	.pq_encode = pq_encode,
	.pq_lut = pq_lut,
	.lut_ranges = lut_ranges,
	.lut_bytes = lut_bytes,
	.scan4 = scan4,
	.scan8 = scan8,
	.bound = bound,
	.quantise_u8 = quantise_u8,
	.scores_u8 = scores_u8,
	.largest_two = largest_two,
};
