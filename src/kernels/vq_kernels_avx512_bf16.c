/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx512_bf16.c
 *	  Products in bfloat16, two at a time, for x86-64 processors that have them.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "kernels/vq_kernels_avx512.h"

VQ_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")

static inline __m512
load_residual(__mmask16 mask, const float *x, const float *origin)
{
	return _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x), _mm512_maskz_loadu_ps(mask, origin));
}

void
vq_avx512_residual_bf16(const float *x, const float *origin, size_t dim, uint32_t *out)
{
	size_t		i = 0;

	for (; i + 32 <= dim; i += 32)
		_mm512_storeu_si512(out + i / 2,
							(__m512i) _mm512_cvtne2ps_pbh(load_residual(0xFFFF, x + i + 16, origin + i + 16),
														  load_residual(0xFFFF, x + i, origin + i)));
	if (i < dim)
	{
		uint32_t	mask = (UINT32_C(1) << (dim - i)) - 1;
		__mmask16	low = (__mmask16) mask;
		__mmask16	high = (__mmask16) (mask >> 16);
		__m512		second = high ? load_residual(high, x + i + 16, origin + i + 16) : _mm512_setzero_ps();

		_mm512_mask_storeu_epi32(out + i / 2, first_lanes((dim - i + 1) / 2),
								 (__m512i) _mm512_cvtne2ps_pbh(second, load_residual(low, x + i, origin + i)));
	}
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

static inline __attribute__((always_inline)) void
score_block(const uint32_t *rows, size_t nrows, size_t npairs, const uint32_t *panels, size_t npanels,
			const float *offsets, size_t ncolumns, float *scores)
{
	__m512		sums[12][4];

	UNROLL
	for (size_t i = 0; i < nrows; i++)
	{
		UNROLL
		for (size_t j = 0; j < npanels; j++)
			sums[i][j] = _mm512_sub_ps(_mm512_setzero_ps(), _mm512_loadu_ps(offsets + j * 16));
	}
	for (size_t p = 0; p < npairs; p++)
	{
		__m512i		columns[4];

		UNROLL
		for (size_t j = 0; j < npanels; j++)
			columns[j] = _mm512_loadu_si512(panels + (j * npairs + p) * 16);
		UNROLL
		for (size_t i = 0; i < nrows; i++)
		{
			__m512i		pair = _mm512_set1_epi32((int) rows[i * npairs + p]);

			UNROLL
			for (size_t j = 0; j < npanels; j++)
				sums[i][j] = _mm512_dpbf16_ps(sums[i][j], (__m512bh) pair, (__m512bh) columns[j]);
		}
	}
	UNROLL
	for (size_t i = 0; i < nrows; i++)
	{
		UNROLL
		for (size_t j = 0; j < npanels; j++)
			_mm512_storeu_ps(scores + i * ncolumns + j * 16, sums[i][j]);
	}
}

/*
 * All rows, so many at a time.  The last block overlaps the one before it: that
 * writes the same scores again, and takes less time than row by row.
 */
static inline __attribute__((always_inline)) void
score_panels(const uint32_t *rows, size_t nrows, size_t block, size_t npairs, const uint32_t *panels,
			 size_t npanels, const float *offsets, size_t ncolumns, float *scores)
{
	if (nrows < block)
	{
		for (size_t i = 0; i < nrows; i++)
			score_block(rows + i * npairs, 1, npairs, panels, npanels, offsets, ncolumns, scores + i * ncolumns);
		return;
	}
	for (size_t i = 0; i < nrows; i += block)
	{
		size_t		first = i + block <= nrows ? i : nrows - block;

		score_block(rows + first * npairs, block, npairs, panels, npanels, offsets, ncolumns,
					scores + first * ncolumns);
	}
}

/*
 * 24 sums are enough to hide the latency, and leave registers for the columns.
 * Panels are taken up to four at a time and as evenly as they go.
 */
void
vq_avx512_scores_bf16(const uint32_t *rows, size_t nrows, size_t npairs, const uint32_t *panels,
			   const float *offsets, size_t ncolumns, float *scores)
{
	size_t		npanels = ncolumns / 16;
	size_t		nsteps = (npanels + 3) / 4;

	for (size_t step = 0; step < nsteps; step++)
	{
		size_t		first = npanels * step / nsteps;
		const uint32_t *p = panels + first * npairs * 16;
		const float *o = offsets + first * 16;
		float	   *out = scores + first * 16;

		switch (npanels * (step + 1) / nsteps - first)
		{
			case 4:
				score_panels(rows, nrows, 6, npairs, p, 4, o, ncolumns, out);
				break;
			case 3:
				score_panels(rows, nrows, 8, npairs, p, 3, o, ncolumns, out);
				break;
			case 2:
				score_panels(rows, nrows, 12, npairs, p, 2, o, ncolumns, out);
				break;
			default:
				score_panels(rows, nrows, 12, npairs, p, 1, o, ncolumns, out);
		}
	}
}

VQ_TARGET_END

#endif							/* __x86_64__ */
