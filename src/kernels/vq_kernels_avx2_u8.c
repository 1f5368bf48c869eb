/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx2_u8.c
 *	  Products of bytes, for x86-64 processors that add two of them in 16 bits.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/vq_kernels_avx2.h"

/* Rows scored at a time: their sums, a column's values and products fill the sixteen registers */
#define ROWS_AT_ONCE	4

/* scores_u8 adds the products of two quads in 16 bits, two of each */
static_assert(4 * (VQ_U8_ZERO + VQ_U8_LARGEST) * VQ_U8_LARGEST <= INT16_MAX, "sums of four products have 16 bits");

VQ_TARGET_BEGIN("avx2,fma,f16c")

static inline float
largest_lane(__m256 v)
{
	__m128		m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

	m = _mm_max_ps(m, _mm_movehl_ps(m, m));
	return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* x - origin of eight values, or as many as there are and zeros */
static inline __m256
load_residual(const float *x, const float *origin, size_t count)
{
	static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
	__m256i		mask;

	if (count >= 8)
		return _mm256_sub_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(origin));
	mask = _mm256_loadu_si256((const __m256i *) (lanes + 8 - count));
	return _mm256_sub_ps(_mm256_maskload_ps(x, mask), _mm256_maskload_ps(origin, mask));
}

/* Sixteen values, or as many as there are, in bytes */
static inline __m128i
round_to_u8(const float *x, const float *origin, size_t count, __m256 inverse)
{
	__m256		low = load_residual(x, origin, count);
	__m256		high = count > 8 ? load_residual(x + 8, origin + 8, count - 8) : _mm256_setzero_ps();
	__m256i		steps = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(low, inverse)),
										   _mm256_cvtps_epi32(_mm256_mul_ps(high, inverse)));

	steps = _mm256_permute4x64_epi64(steps, 0xD8);
	return _mm_add_epi8(_mm_packs_epi16(_mm256_castsi256_si128(steps), _mm256_extracti128_si256(steps, 1)),
						_mm_set1_epi8(VQ_U8_ZERO));
}

float
vq_avx2_quantise_u8(const float *x, const float *origin, size_t dim, uint8_t *out)
{
	const __m256 sign = _mm256_set1_ps(-0.0f);
	__m256		largest_f32x8 = _mm256_setzero_ps();
	__m256		inverse;
	float		largest;
	size_t		i;

	for (i = 0; i + 8 <= dim; i += 8)
		largest_f32x8 = _mm256_max_ps(_mm256_andnot_ps(sign, load_residual(x + i, origin + i, 8)), largest_f32x8);
	if (i < dim)
		largest_f32x8 = _mm256_max_ps(_mm256_andnot_ps(sign, load_residual(x + i, origin + i, dim - i)), largest_f32x8);
	largest = largest_lane(largest_f32x8);
	inverse = _mm256_set1_ps(largest >= VQ_U8_SMALLEST ? VQ_U8_LARGEST / largest : 0.0f);

	for (i = 0; i + 16 <= dim; i += 16)
		_mm_storeu_si128((__m128i *) (out + i), round_to_u8(x + i, origin + i, 16, inverse));
	if (i < dim)
	{
		uint8_t		bytes[16];

		_mm_storeu_si128((__m128i *) bytes, round_to_u8(x + i, origin + i, dim - i, inverse));
		memcpy(out + i, bytes, (dim - i + 3) / 4 * 4);
	}
	return largest >= VQ_U8_SMALLEST ? largest / VQ_U8_LARGEST : 0.0f;
}

/* A quad of a row, in all lanes */
static inline __m256i
quad_of(const uint8_t *row, size_t quad)
{
	int32_t		bytes;

	memcpy(&bytes, row + quad * 4, sizeof(bytes));
	return _mm256_set1_epi32(bytes);
}

static inline __m256i
load_columns(const int8_t *panel, size_t i)
{
	return _mm256_loadu_si256((const __m256i *) panel + i);
}

/*
 * nrows rows, a constant, and the sixteen columns of a panel: gcc unrolls these
 * loops because it is told to, and then the array is in registers.
 */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 4")
#endif

static inline __attribute__((always_inline)) void
score_block(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns, size_t first,
			float *scores)
{
	const __m256i ones = _mm256_set1_epi16(1);
	size_t		nquads = columns->nquads;
	const int8_t *panel = columns->panels + first * nquads * 4;
	__m256i		sums[ROWS_AT_ONCE][2];
	size_t		q;

	UNROLL
	for (size_t i = 0; i < nrows; i++)
	{
		UNROLL
		for (size_t j = 0; j < 2; j++)
			sums[i][j] = _mm256_loadu_si256((const __m256i *) (columns->corrections + first) + j);
	}
	for (q = 0; q + 2 <= nquads; q += 2, panel += 2 * VQ_PANEL_COLUMNS * 4)
	{
		UNROLL
		for (size_t i = 0; i < nrows; i++)
		{
			__m256i		quad0 = quad_of(rows + i * nquads * 4, q);
			__m256i		quad1 = quad_of(rows + i * nquads * 4, q + 1);

			UNROLL
			for (size_t j = 0; j < 2; j++)
			{
				__m256i		sums_i16x16 = _mm256_add_epi16(_mm256_maddubs_epi16(quad0, load_columns(panel, j)),
														   _mm256_maddubs_epi16(quad1, load_columns(panel, 2 + j)));

				sums[i][j] = _mm256_add_epi32(sums[i][j], _mm256_madd_epi16(sums_i16x16, ones));
			}
		}
	}
	if (q < nquads)
	{
		UNROLL
		for (size_t i = 0; i < nrows; i++)
		{
			UNROLL
			for (size_t j = 0; j < 2; j++)
			{
				__m256i		sums_i16x16 = _mm256_maddubs_epi16(quad_of(rows + i * nquads * 4, q), load_columns(panel, j));

				sums[i][j] = _mm256_add_epi32(sums[i][j], _mm256_madd_epi16(sums_i16x16, ones));
			}
		}
	}
	UNROLL
	for (size_t i = 0; i < nrows; i++)
	{
		__m256		step = _mm256_set1_ps(steps[i]);

		UNROLL
		for (size_t j = 0; j < 2; j++)
		{
			size_t		column = first + j * 8;
			__m256		unit = _mm256_mul_ps(step, _mm256_loadu_ps(columns->steps + column));

			_mm256_storeu_ps(scores + i * columns->ncolumns + column,
							 _mm256_fmsub_ps(_mm256_cvtepi32_ps(sums[i][j]), unit,
											 _mm256_loadu_ps(columns->offsets + column)));
		}
	}
}

/* The last block of rows overlaps the one before it: that writes the same scores again */
void
vq_avx2_scores_u8(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns, float *scores)
{
	size_t		row_bytes = columns->nquads * 4;

	for (size_t first = 0; first < columns->ncolumns; first += VQ_PANEL_COLUMNS)
	{
		if (nrows < ROWS_AT_ONCE)
		{
			for (size_t i = 0; i < nrows; i++)
				score_block(rows + i * row_bytes, steps + i, 1, columns, first, scores + i * columns->ncolumns);
			continue;
		}
		for (size_t i = 0; i < nrows; i += ROWS_AT_ONCE)
		{
			size_t		row = i + ROWS_AT_ONCE <= nrows ? i : nrows - ROWS_AT_ONCE;

			score_block(rows + row * row_bytes, steps + row, ROWS_AT_ONCE, columns, first,
						scores + row * columns->ncolumns);
		}
	}
}

/* The lowest place of a score other than `except`, or what is given if there is none */
static inline uint32_t
place_of(const float *scores, size_t ncolumns, float wanted, size_t except, uint32_t otherwise)
{
	for (size_t j = 0; j < ncolumns; j += 8)
	{
		__m256		is_wanted = _mm256_cmp_ps(_mm256_loadu_ps(scores + j), _mm256_set1_ps(wanted), _CMP_EQ_OQ);
		uint32_t	lanes = (uint32_t) _mm256_movemask_ps(is_wanted);

		if (except - j < 8)
			lanes &= ~(1U << (except - j));
		if (lanes != 0)
			return (uint32_t) j + (uint32_t) __builtin_ctz(lanes);
	}
	return otherwise;
}

/* The two largest values by lane, then of all lanes, then where they are */
void
vq_avx2_largest_two(const float *scores, size_t nrows, size_t ncolumns, uint32_t (*at)[2])
{
	for (size_t i = 0; i < nrows; i++, scores += ncolumns)
	{
		__m256		first = _mm256_set1_ps(-INFINITY);
		__m256		second = first;
		__m256		is_largest;
		int			lanes;
		float		largest;
		float		next;

		for (size_t j = 0; j < ncolumns; j += 8)
		{
			__m256		v = _mm256_loadu_ps(scores + j);

			/* the second operand where one is NaN: such scores are passed over */
			second = _mm256_max_ps(_mm256_min_ps(first, v), second);
			first = _mm256_max_ps(v, first);
		}
		largest = largest_lane(first);
		is_largest = _mm256_cmp_ps(first, _mm256_set1_ps(largest), _CMP_EQ_OQ);
		lanes = _mm256_movemask_ps(is_largest);
		next = (lanes & (lanes - 1)) != 0 ? largest : largest_lane(_mm256_blendv_ps(first, second, is_largest));

		/* where all but one are NaN or all are, nothing equals what was found */
		at[i][0] = place_of(scores, ncolumns, largest, SIZE_MAX, 0);
		at[i][1] = place_of(scores, ncolumns, next, at[i][0], at[i][0] == 0 ? 1 : 0);
	}
}

VQ_TARGET_END

#endif							/* __x86_64__ */
