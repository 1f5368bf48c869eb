/*-------------------------------------------------------------------------
 *
 * vq_kernels_neon_dotprod.c
 *	  Products of bytes, four at a time, for 64-bit Arm processors that have them.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <assert.h>
#include <math.h>

#include "kernels/vq_kernels_neon.h"

/* Sums of 4 rows and 16 columns take half of the registers */
#define ROWS_AT_ONCE	4
#define PANEL_VECTORS	(VQ_PANEL_COLUMNS / 4)

static_assert(VQ_U8_ZERO + VQ_U8_LARGEST <= INT8_MAX, "bytes of rows are numbers with a sign too");

float
vq_neon_quantise_u8(const float *x, const float *origin, size_t dim, uint8_t *out)
{
	float32x4_t largest_f32x4 = vdupq_n_f32(0.0f);
	float		largest;
	float		inverse;
	size_t		i;

	/* not of NaNs */
	for (i = 0; i + 4 <= dim; i += 4)
		largest_f32x4 = vmaxnmq_f32(largest_f32x4, vabdq_f32(vld1q_f32(x + i), vld1q_f32(origin + i)));
	largest = vmaxnmvq_f32(largest_f32x4);
	for (; i < dim; i++)
		largest = fmaxf(largest, fabsf(x[i] - origin[i]));
	inverse = largest >= VQ_U8_SMALLEST ? VQ_U8_LARGEST / largest : 0.0f;

	for (i = 0; i + 8 <= dim; i += 8)
	{
		int32x4_t	low = vcvtnq_s32_f32(vmulq_n_f32(vsubq_f32(vld1q_f32(x + i), vld1q_f32(origin + i)), inverse));
		int32x4_t	high = vcvtnq_s32_f32(vmulq_n_f32(vsubq_f32(vld1q_f32(x + i + 4), vld1q_f32(origin + i + 4)), inverse));
		int8x8_t	steps = vmovn_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high)));

		vst1_u8(out + i, vreinterpret_u8_s8(vadd_s8(steps, vdup_n_s8(VQ_U8_ZERO))));
	}
	for (; i < (dim + 3) / 4 * 4; i++)
		out[i] = (uint8_t) (VQ_U8_ZERO + (i < dim ? vcvtns_s32_f32((x[i] - origin[i]) * inverse) : 0));
	return largest >= VQ_U8_SMALLEST ? largest / VQ_U8_LARGEST : 0.0f;
}

#if defined(__clang__)
VQ_TARGET_BEGIN("dotprod")
#else
VQ_TARGET_BEGIN("arch=armv8.2-a+dotprod")
#endif

/*
 * sums + products of four bytes of columns, in each lane, with a quad of a row, the
 * same for all lanes.  As an intrinsic, clang 14 has it only where all of a file is
 * compiled for such processors.
 */
#define ADD_PRODUCTS(sums, columns, quads, quad) \
	__asm__("sdot %0.4s, %1.16b, %2.4b[" #quad "]" : "+w"(sums) : "w"(columns), "w"(quads))

static inline __attribute__((always_inline)) int32x4_t
add_products(int32x4_t sums, int8x16_t columns, uint8x16_t quads, size_t quad)
{
	switch (quad)
	{
		case 0:
			ADD_PRODUCTS(sums, columns, quads, 0);
			break;
		case 1:
			ADD_PRODUCTS(sums, columns, quads, 1);
			break;
		case 2:
			ADD_PRODUCTS(sums, columns, quads, 2);
			break;
		default:
			ADD_PRODUCTS(sums, columns, quads, 3);
	}
	return sums;
}

/* nquads of nrows rows, constants and no more than four, and of the sixteen columns of a panel */
TEMPLATE void
add_quads(const uint8_t *rows, size_t row_bytes, size_t nrows, const int8_t *panel, size_t nquads,
		  int32x4_t sums[ROWS_AT_ONCE][PANEL_VECTORS])
{
	uint8x16_t	quads[ROWS_AT_ONCE];

	UNROLL
	for (size_t i = 0; i < nrows; i++)
		quads[i] = nquads == 4 ? vld1q_u8(rows + i * row_bytes) :
			vreinterpretq_u8_u32(vld1q_dup_u32((const uint32_t *) (const void *) (rows + i * row_bytes)));
	UNROLL
	for (size_t q = 0; q < nquads; q++)
	{
		UNROLL
		for (size_t j = 0; j < PANEL_VECTORS; j++)
		{
			int8x16_t	columns = vld1q_s8(panel + (q * PANEL_VECTORS + j) * 16);

			UNROLL
			for (size_t i = 0; i < nrows; i++)
				sums[i][j] = add_products(sums[i][j], columns, quads[i], q);
		}
	}
}

/* nrows rows, a constant, and the sixteen columns of a panel */
TEMPLATE void
score_block(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns, size_t first,
			float *scores)
{
	size_t		nquads = columns->nquads;
	size_t		row_bytes = nquads * 4;
	const int8_t *panel = columns->panels + first * row_bytes;
	int32x4_t	sums[ROWS_AT_ONCE][PANEL_VECTORS];
	size_t		q;

	UNROLL
	for (size_t i = 0; i < nrows; i++)
	{
		UNROLL
		for (size_t j = 0; j < PANEL_VECTORS; j++)
			sums[i][j] = vld1q_s32(columns->corrections + first + j * 4);
	}
	for (q = 0; q + 4 <= nquads; q += 4)
		add_quads(rows + q * 4, row_bytes, nrows, panel + q * VQ_PANEL_COLUMNS * 4, 4, sums);
	for (; q < nquads; q++)
		add_quads(rows + q * 4, row_bytes, nrows, panel + q * VQ_PANEL_COLUMNS * 4, 1, sums);
	UNROLL
	for (size_t i = 0; i < nrows; i++)
	{
		UNROLL
		for (size_t j = 0; j < PANEL_VECTORS; j++)
		{
			size_t		column = first + j * 4;
			float32x4_t unit = vmulq_n_f32(vld1q_f32(columns->steps + column), steps[i]);
			float32x4_t offset = vld1q_f32(columns->offsets + column);

			/* -offset + sum * unit */
			vst1q_f32(scores + i * columns->ncolumns + column,
					  vfmaq_f32(vnegq_f32(offset), vcvtq_f32_s32(sums[i][j]), unit));
		}
	}
}

/* The last block of rows overlaps the one before it: that writes the same scores again */
void
vq_neon_scores_u8(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns, float *scores)
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

VQ_TARGET_END

/* Sixteen bits for each lane: all of them if it is wanted, or none */
static inline uint64_t
lanes_equal(float32x4_t scores, float32x4_t wanted)
{
	return vget_lane_u64(vreinterpret_u64_u16(vmovn_u32(vceqq_f32(scores, wanted))), 0);
}

/* The lowest place of a score other than `except`, or what is given if there is none */
static uint32_t
place_of(const float *scores, size_t ncolumns, float wanted, size_t except, uint32_t otherwise)
{
	for (size_t j = 0; j < ncolumns; j += 4)
	{
		uint64_t	lanes = lanes_equal(vld1q_f32(scores + j), vdupq_n_f32(wanted));

		if (except - j < 4)
			lanes &= ~(UINT64_C(0xFFFF) << 16 * (except - j));
		if (lanes != 0)
			return (uint32_t) j + (uint32_t) __builtin_ctzll(lanes) / 16;
	}
	return otherwise;
}

/* The two largest values by lane, then of all lanes, then where they are */
void
vq_neon_largest_two(const float *scores, size_t nrows, size_t ncolumns, uint32_t (*at)[2])
{
	for (size_t i = 0; i < nrows; i++, scores += ncolumns)
	{
		float32x4_t first = vdupq_n_f32(-INFINITY);
		float32x4_t second = first;
		uint32x4_t	is_largest;
		float		largest;
		float		next;

		for (size_t j = 0; j < ncolumns; j += 4)
		{
			float32x4_t v = vld1q_f32(scores + j);

			/* scores that are NaN are passed over */
			second = vmaxnmq_f32(second, vminq_f32(v, first));
			first = vmaxnmq_f32(first, v);
		}
		largest = vmaxvq_f32(first);
		is_largest = vceqq_f32(first, vdupq_n_f32(largest));
		next = vaddvq_u32(vshrq_n_u32(is_largest, 31)) > 1 ? largest : vmaxvq_f32(vbslq_f32(is_largest, second, first));

		/* where all but one are NaN or all are, nothing equals what was found */
		at[i][0] = place_of(scores, ncolumns, largest, SIZE_MAX, 0);
		at[i][1] = place_of(scores, ncolumns, next, at[i][0], at[i][0] == 0 ? 1 : 0);
	}
}

#endif							/* __aarch64__ */
