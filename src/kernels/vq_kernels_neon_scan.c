/*-------------------------------------------------------------------------
 *
 * vq_kernels_neon_scan.c
 *	  The scoring of codes for 64-bit Arm processors.
 *
 * See vq_kernels_neon.c for the instructions that are used, and why there is no
 * region for them.  Registers name their lanes: u16x8 is eight 16-bit numbers.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>

#include "kernels/vq_kernels_neon.h"

/* Rows of bytes that 16-bit sums take without overflow: 65535 / 255, less one */
#define FLUSH_ROWS 256

/* 16-bit sums of sixteen vectors */
typedef struct ByteSums
{
	uint16x8_t	first;
	uint16x8_t	second;
} ByteSums;

/* Two at a time, added to each other first: that halves the chain of additions */
static inline void
add_bytes(ByteSums *sums, uint8x16_t a, uint8x16_t b)
{
	sums->first = vaddq_u16(sums->first, vaddl_u8(vget_low_u8(a), vget_low_u8(b)));
	sums->second = vaddq_u16(sums->second, vaddl_high_u8(a, b));
}

static inline void
widen_add_8(uint32_t *sums, uint16x8_t sums_u16x8)
{
	vst1q_u32(sums, vaddw_u16(vld1q_u32(sums), vget_low_u16(sums_u16x8)));
	vst1q_u32(sums + 4, vaddw_high_u16(vld1q_u32(sums + 4), sums_u16x8));
}

static inline void
widen_add(uint32_t *sums, const ByteSums *byte_sums)
{
	widen_add_8(sums, byte_sums->first);
	widen_add_8(sums + 8, byte_sums->second);
}

static inline uint8x16_t
low_nibbles(uint8x16_t codes)
{
	return vandq_u8(codes, vdupq_n_u8(15));
}

static inline uint8x16_t
high_nibbles(uint8x16_t codes)
{
	return vshrq_n_u8(codes, 4);
}

/* What scan4_step takes at a time: a register of codes, or two rows that have one each */
#define SCAN4_STEP_ROWS(n)	((n) == 8 ? 4 : 2)

/*
 * Reads SCAN4_STEP_ROWS(n) rows of codes and as many tables.
 *
 * With n of 24 or 32, a row has a register of low nibbles and one of high ones.
 * Of 24, the last four lanes are other vectors': nobody reads their sums.
 * Shorter rows come several to a register, and their low and high nibbles,
 * which are looked up in the same table, are brought side by side: that is the
 * order of the vectors, and "high" remains empty.
 */
TEMPLATE void
scan4_step(const uint8_t *codes, size_t n, const uint8_t *lut, ByteSums *low, ByteSums *high)
{
	uint8x16_t	table0 = vld1q_u8(lut);
	uint8x16_t	table1 = vld1q_u8(lut + 16);

	if (n >= 24)
	{
		/* 24: the second row ends the load, and moves to its start */
		uint8x16_t	row0 = vld1q_u8(codes);
		uint8x16_t	row1 = vld1q_u8(codes + n - 16);

		if (n == 24)
			row1 = vextq_u8(row1, row1, 4);
		add_bytes(low, vqtbl1q_u8(table0, low_nibbles(row0)), vqtbl1q_u8(table1, low_nibbles(row1)));
		add_bytes(high, vqtbl1q_u8(table0, high_nibbles(row0)), vqtbl1q_u8(table1, high_nibbles(row1)));
	}
	else if (n == 16)
	{
		uint8x16_t	rows = vld1q_u8(codes);
		uint64x2_t	lows = vreinterpretq_u64_u8(low_nibbles(rows));
		uint64x2_t	highs = vreinterpretq_u64_u8(high_nibbles(rows));

		add_bytes(low, vqtbl1q_u8(table0, vreinterpretq_u8_u64(vzip1q_u64(lows, highs))),
				  vqtbl1q_u8(table1, vreinterpretq_u8_u64(vzip2q_u64(lows, highs))));
	}
	else
	{
		uint8x16_t	rows = vld1q_u8(codes);
		uint32x4_t	lows = vreinterpretq_u32_u8(low_nibbles(rows));
		uint32x4_t	highs = vreinterpretq_u32_u8(high_nibbles(rows));
		uint8x16_t	rows01 = vreinterpretq_u8_u32(vzip1q_u32(lows, highs));
		uint8x16_t	rows23 = vreinterpretq_u8_u32(vzip2q_u32(lows, highs));
		uint8x16_t	table2 = vld1q_u8(lut + 32);
		uint8x16_t	table3 = vld1q_u8(lut + 48);

		low->first = vaddq_u16(low->first, vaddl_u8(vqtbl1_u8(table0, vget_low_u8(rows01)),
													vqtbl1_u8(table2, vget_low_u8(rows23))));
		low->second = vaddq_u16(low->second, vaddl_high_u8(vqtbl1q_u8(table1, rows01),
														   vqtbl1q_u8(table3, rows23)));
	}
}

TEMPLATE void
scan4_n(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m, uint32_t sums[VQ_BLOCK_LANES])
{
	const size_t step_rows = SCAN4_STEP_ROWS(n);
	uint32_t	high_sums[VQ_BLOCK_LANES / 2] = {0};

	memset(sums, 0, VQ_BLOCK_LANES / 2 * sizeof(*sums));
	while (m > 0)
	{
		size_t		nrows = m < FLUSH_ROWS ? m : FLUSH_ROWS;
		ByteSums	low = {vdupq_n_u16(0), vdupq_n_u16(0)};
		ByteSums	high = low;

		m -= nrows;
		for (; nrows >= step_rows; nrows -= step_rows)
		{
			scan4_step(codes, n, lut, &low, &high);
			codes += step_rows * n / 2;
			lut += step_rows * 16;
		}

		/* Only at the end of all rows.  A table of zeros adds nothing for a row that is not there. */
		if (nrows > 0)
		{
			uint8_t		last_codes[32] = {0};
			uint8_t		last_tables[64] = {0};

			memcpy(last_codes, codes, nrows * n / 2);
			memcpy(last_tables, lut, nrows * 16);
			scan4_step(last_codes, n, last_tables, &low, &high);
		}

		if (n == 8)
			widen_add_8(sums, vaddq_u16(low.first, low.second));
		else
			widen_add(sums, &low);
		if (n >= 24)
			widen_add(high_sums, &high);
	}

	/* High nibbles follow the low ones: what those had too many is written over */
	if (n >= 24)
		memcpy(sums + n / 2, high_sums, sizeof(high_sums));
}

void
vq_neon_scan4(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
			  uint32_t sums[VQ_BLOCK_LANES])
{
	if (n == 32)
		scan4_n(codes, 32, lut, m, sums);
	else if (n == 24)
		scan4_n(codes, 24, lut, m, sums);
	else if (n == 16)
		scan4_n(codes, 16, lut, m, sums);
	else
		scan4_n(codes, 8, lut, m, sums);
}

/* One instruction; gcc has the intrinsic from 10.3 on, and makes many moves of the rest */
static inline uint8x16x4_t
load_64(const uint8_t *p)
{
#if defined(__clang__) || __GNUC__ > 10
	return vld1q_u8_x4(p);
#else
	uint8x16x4_t bytes = {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};

	return bytes;
#endif
}

/*
 * The first and the last sixteen vectors of n; of 24, those in the middle are in
 * both.  A table of 256 comes in quarters of four registers: an index outside of
 * a quarter changes nothing, and the next one starts at 64.
 */
TEMPLATE void
scan8_row(const uint8_t *codes, size_t n, const uint8_t *table, ByteSums *first, ByteSums *last)
{
	const uint8x16_t quarter_size = vdupq_n_u8(64);
	uint8x16x4_t quarter = load_64(table);
	uint8x16_t	first_codes = vld1q_u8(codes);
	uint8x16_t	last_codes = vld1q_u8(codes + n - 16);
	uint8x16_t	first_entries = vqtbl4q_u8(quarter, first_codes);
	uint8x16_t	last_entries = vqtbl4q_u8(quarter, last_codes);

	UNROLL
	for (size_t k = 1; k < 4; k++)
	{
		quarter = load_64(table + 64 * k);
		first_codes = vsubq_u8(first_codes, quarter_size);
		last_codes = vsubq_u8(last_codes, quarter_size);
		first_entries = vqtbx4q_u8(first_entries, quarter, first_codes);
		last_entries = vqtbx4q_u8(last_entries, quarter, last_codes);
	}
	first->first = vaddw_u8(first->first, vget_low_u8(first_entries));
	first->second = vaddw_high_u8(first->second, first_entries);
	last->first = vaddw_u8(last->first, vget_low_u8(last_entries));
	last->second = vaddw_high_u8(last->second, last_entries);
}

/* With n of 16, first and last are the same: the compiler finds no use for the latter */
TEMPLATE void
scan8_n(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m, uint32_t sums[VQ_BLOCK_LANES])
{
	uint32_t	last_sums[VQ_BLOCK_LANES / 2] = {0};

	memset(sums, 0, VQ_BLOCK_LANES / 2 * sizeof(*sums));
	while (m > 0)
	{
		size_t		nrows = m < FLUSH_ROWS ? m : FLUSH_ROWS;
		ByteSums	first = {vdupq_n_u16(0), vdupq_n_u16(0)};
		ByteSums	last = first;

		for (size_t j = 0; j < nrows; j++)
			scan8_row(codes + j * n, n, lut + j * 256, &first, &last);
		widen_add(sums, &first);
		if (n > 16)
			widen_add(last_sums, &last);
		codes += nrows * n;
		lut += nrows * 256;
		m -= nrows;
	}
	if (n > 16)
		memcpy(sums + n - 16, last_sums, sizeof(last_sums));
}

/* For eight vectors, a table is as many loads as looking them up one by one */
void
vq_neon_scan8(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
			  uint32_t sums[VQ_BLOCK_LANES])
{
	if (n == 32)
		scan8_n(codes, 32, lut, m, sums);
	else if (n == 24)
		scan8_n(codes, 24, lut, m, sums);
	else if (n == 16)
		scan8_n(codes, 16, lut, m, sums);
	else
		vq_kernels_scalar.scan8(codes, n, lut, m, sums);
}

/*
 * Four E, see unpack_e in vq_kernels_scalar.c, from the upper halves of floats f
 * that are right for bytes from 8 on.  Below, a byte's value is 2 f - 2^-23: less
 * than f there, and no less from 8 on, so it is the smaller one that counts.
 * All of this is exact, and nothing denormal.
 */
static inline float32x4_t
unpack_e(uint32x4_t bits)
{
	float32x4_t f = vreinterpretq_f32_u32(bits);

	return vminq_f32(f, vsubq_f32(vaddq_f32(f, f), vdupq_n_f32(0x1p-23f)));
}

static inline float32x4_t
low_f32x4(float32x4_t start, uint32x4_t s, uint32x4_t e_bits, uint32x4_t sum, VqBound list)
{
	float32x4_t product = vfmaq_n_f32(vdupq_n_f32(list.lut_bias), vcvtq_f32_u32(sum), list.lut_step);

	/* S with twelve bits behind the point, VQ_S_ONE */
	start = vfmsq_f32(start, vcvtq_n_f32_u32(s, 12), product);
	return vfmsq_n_f32(start, unpack_e(e_bits), list.reach);
}

uint32_t
vq_neon_bound(const float *a, const uint16_t *s, const uint8_t *e,
			  const uint32_t *sums, size_t n, const VqBound *list, float ceiling, float *low)
{
	const uint16x8_t lane_bits = {1, 2, 4, 8, 16, 32, 64, 128};
	const VqBound numbers = *list;	/* which low does not overlap, but the compiler cannot know */
	float32x4_t base = vdupq_n_f32(numbers.base);
	uint32_t	is_below = 0;

	for (size_t i = 0; i < n; i += VQ_CAPACITY_STEP)
	{
		uint16x8_t	s_u16x8 = vld1q_u16(s + i);
		uint16x8_t	e_upper = vaddq_u16(vshll_n_u8(vld1_u8(e + i), VQ_E_SHIFT - 16),
										vdupq_n_u16(VQ_E_SCALE_LOG2 << (23 - 16)));
		float32x4_t low0 = low_f32x4(vaddq_f32(base, vld1q_f32(a + i)), vmovl_u16(vget_low_u16(s_u16x8)),
									 vshll_n_u16(vget_low_u16(e_upper), 16), vld1q_u32(sums + i), numbers);
		float32x4_t low1 = low_f32x4(vaddq_f32(base, vld1q_f32(a + i + 4)), vmovl_high_u16(s_u16x8),
									 vshll_high_n_u16(e_upper, 16), vld1q_u32(sums + i + 4), numbers);
		uint16x8_t	is_above = vuzp1q_u16(vreinterpretq_u16_u32(vcgtq_f32(low0, vdupq_n_f32(ceiling))),
										  vreinterpretq_u16_u32(vcgtq_f32(low1, vdupq_n_f32(ceiling))));

		vst1q_f32(low + i, low0);
		vst1q_f32(low + i + 4, low1);
		is_below |= (uint32_t) vaddvq_u16(vbicq_u16(lane_bits, is_above)) << i;
	}
	return is_below;
}

#endif							/* __aarch64__ */
