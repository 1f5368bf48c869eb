/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx512_vnni.c
 *	  Products of bytes, four at a time, for x86-64 processors that have them.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "kernels/vq_kernels_avx512.h"

VQ_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")

/* Sixteen values, or as many as there are and zeros */
static inline __m512
load_residual(const float *x, const float *origin, size_t count)
{
	__mmask16	mask = first_lanes(count);

	if (count >= 16)
		return _mm512_sub_ps(_mm512_loadu_ps(x), _mm512_loadu_ps(origin));
	return _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x), _mm512_maskz_loadu_ps(mask, origin));
}

static inline __m128i
round_to_u8(__m512 residual, __m512 inverse)
{
	__m512i		steps = _mm512_cvtps_epi32(_mm512_mul_ps(residual, inverse));

	return _mm512_cvtepi32_epi8(_mm512_add_epi32(steps, _mm512_set1_epi32(VQ_U8_ZERO)));
}

float
vq_avx512_quantise_u8(const float *x, const float *origin, size_t dim, uint8_t *out)
{
	__m512		largest_f32x16 = _mm512_setzero_ps();
	__m512		inverse;
	float		largest;
	size_t		i;

	for (i = 0; i + 16 <= dim; i += 16)
		largest_f32x16 = _mm512_max_ps(largest_f32x16, _mm512_abs_ps(load_residual(x + i, origin + i, 16)));
	if (i < dim)
		largest_f32x16 = _mm512_max_ps(largest_f32x16, _mm512_abs_ps(load_residual(x + i, origin + i, dim - i)));
	largest = _mm512_reduce_max_ps(largest_f32x16);
	inverse = _mm512_set1_ps(largest >= VQ_U8_SMALLEST ? VQ_U8_LARGEST / largest : 0.0f);

	for (i = 0; i + 16 <= dim; i += 16)
		_mm_storeu_si128((__m128i *) (out + i), round_to_u8(load_residual(x + i, origin + i, 16), inverse));
	if (i < dim)
		_mm_mask_storeu_epi8(out + i, first_lanes((dim - i + 3) / 4 * 4),
							 round_to_u8(load_residual(x + i, origin + i, dim - i), inverse));
	return largest >= VQ_U8_SMALLEST ? largest / VQ_U8_LARGEST : 0.0f;
}

/*
 * sums + products of four unsigned bytes with four signed ones in each lane.  As
 * an intrinsic, gcc 12 copies each sum to another register and to the stack.
 */
static inline __attribute__((always_inline)) __m512i
add_products(__m512i sums, __m512i rows, __m512i columns)
{
	__asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(rows), "v"(columns));
	return sums;
}

/*
 * nrows by npanels registers of sums, both constants: gcc unrolls these loops
 * because it is told to, and then the array is in registers.
 */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 12")
#endif

/* A quad of a row, in all lanes */
static inline __m512i
quad_of(const uint8_t *row, size_t quad)
{
	int32_t		bytes;

	memcpy(&bytes, row + quad * 4, sizeof(bytes));
	return _mm512_set1_epi32(bytes);
}

/* Panels from the first one on, and as many columns */
static inline __attribute__((always_inline)) void
score_block(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns, size_t first,
			size_t npanels, float *scores)
{
	size_t		nquads = columns->nquads;
	const int8_t *panels = columns->panels + first * nquads * 64;
	size_t		column = first * 16;
	__m512i		sums[12][4];

	UNROLL
	for (size_t i = 0; i < nrows; i++)
	{
		UNROLL
		for (size_t j = 0; j < npanels; j++)
			sums[i][j] = _mm512_loadu_si512(columns->corrections + column + j * 16);
	}
	for (size_t q = 0; q < nquads; q++)
	{
		__m512i		values[4];

		UNROLL
		for (size_t j = 0; j < npanels; j++)
			values[j] = _mm512_loadu_si512(panels + (j * nquads + q) * 64);
		UNROLL
		for (size_t i = 0; i < nrows; i++)
		{
			__m512i		quad = quad_of(rows + i * nquads * 4, q);

			UNROLL
			for (size_t j = 0; j < npanels; j++)
				sums[i][j] = add_products(sums[i][j], quad, values[j]);
		}
	}
	UNROLL
	for (size_t i = 0; i < nrows; i++)
	{
		__m512		step = _mm512_set1_ps(steps[i]);

		UNROLL
		for (size_t j = 0; j < npanels; j++)
		{
			__m512		unit = _mm512_mul_ps(step, _mm512_loadu_ps(columns->steps + column + j * 16));

			_mm512_storeu_ps(scores + i * columns->ncolumns + column + j * 16,
							 _mm512_fmsub_ps(_mm512_cvtepi32_ps(sums[i][j]), unit,
											 _mm512_loadu_ps(columns->offsets + column + j * 16)));
		}
	}
}

/*
 * All rows, so many at a time.  The last block overlaps the one before it: that
 * writes the same scores again, and takes less time than row by row.
 */
static inline __attribute__((always_inline)) void
score_panels(const uint8_t *rows, const float *steps, size_t nrows, size_t block, const VqColumns *columns,
			 size_t first, size_t npanels, float *scores)
{
	size_t		row_bytes = columns->nquads * 4;

	if (nrows < block)
	{
		for (size_t i = 0; i < nrows; i++)
			score_block(rows + i * row_bytes, steps + i, 1, columns, first, npanels,
						scores + i * columns->ncolumns);
		return;
	}
	for (size_t i = 0; i < nrows; i += block)
	{
		size_t		row = i + block <= nrows ? i : nrows - block;

		score_block(rows + row * row_bytes, steps + row, block, columns, first, npanels,
					scores + row * columns->ncolumns);
	}
}

/*
 * 24 sums are enough to hide the latency, and leave registers for the columns.
 * Panels are taken up to four at a time and as evenly as they go.
 */
void
vq_avx512_scores_u8(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns,
					float *scores)
{
	size_t		npanels = columns->ncolumns / 16;
	size_t		nparts = (npanels + 3) / 4;

	for (size_t part = 0; part < nparts; part++)
	{
		size_t		first = npanels * part / nparts;

		switch (npanels * (part + 1) / nparts - first)
		{
			case 4:
				score_panels(rows, steps, nrows, 6, columns, first, 4, scores);
				break;
			case 3:
				score_panels(rows, steps, nrows, 8, columns, first, 3, scores);
				break;
			case 2:
				score_panels(rows, steps, nrows, 12, columns, first, 2, scores);
				break;
			default:
				score_panels(rows, steps, nrows, 12, columns, first, 1, scores);
		}
	}
}

VQ_TARGET_END

#endif							/* __x86_64__ */
