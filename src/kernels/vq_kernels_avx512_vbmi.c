/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx512_vbmi.c
 *	  Look-ups in a register of 64 bytes, and sums of four bytes at a time, for
 *	  x86-64 processors that have them (VBMI and VNNI).
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "kernels/vq_kernels_avx512.h"

VQ_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma")

/* a & b | c, as _mm512_ternarylogic_epi32 wants to be told */
#define AND_OR	0xEA

/* What four rows of codes have found in their tables, and its sums */
typedef struct Scan4
{
	__m512i		turn;			/* which byte of four rows goes where */
	__m512i		low_u32x16;		/* sums of low nibbles */
	__m512i		high_u32x16;	/* and of high ones */
} Scan4;

/*
 * Four tables of 16 bytes are one register of 64.  Codes are turned so that those
 * of one vector, one for each table, stand side by side: then a nibble needs only
 * the number of its table above it, and one instruction adds up the four.
 */
static inline void
scan4_step(Scan4 *scan, __m512i codes, __m512i tables)
{
	const __m512i nibble = _mm512_set1_epi8(15);
	const __m512i table_no = _mm512_set1_epi32(0x30201000);
	const __m512i ones = _mm512_set1_epi8(1);
	__m512i		turned = _mm512_permutexvar_epi8(scan->turn, codes);
	__m512i		low = _mm512_ternarylogic_epi32(turned, nibble, table_no, AND_OR);
	__m512i		high = _mm512_ternarylogic_epi32(_mm512_srli_epi16(turned, 4), nibble, table_no, AND_OR);

	scan->low_u32x16 = _mm512_dpbusd_epi32(scan->low_u32x16, _mm512_permutexvar_epi8(low, tables), ones);
	scan->high_u32x16 = _mm512_dpbusd_epi32(scan->high_u32x16, _mm512_permutexvar_epi8(high, tables), ones);
}

/* Byte i of row k of four goes to byte 4 i + k */
static inline __m512i
turn_of_rows(size_t row_bytes)
{
	__m512i		columns = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	__m512i		rows = _mm512_set1_epi32((int) (row_bytes << 8 | row_bytes * 2 << 16 | row_bytes * 3 << 24));

	return _mm512_add_epi8(_mm512_mullo_epi32(columns, _mm512_set1_epi32(0x01010101)), rows);
}

/* Lanes beyond the row repeat other bytes, and nobody reads their sums */
void
vq_avx512_scan4_vbmi(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
					 uint32_t sums[VQ_BLOCK_LANES])
{
	size_t		row_bytes = n / 2;
	__mmask64	four_rows = UINT64_MAX >> (64 - 4 * row_bytes);
	Scan4		even = {.turn = turn_of_rows(row_bytes),
		.low_u32x16 = _mm512_setzero_si512(), .high_u32x16 = _mm512_setzero_si512()};
	Scan4		odd = even;
	size_t		j = 0;

	/* Two sets of sums, as each step would wait for the one before */
	for (; j + 8 <= m; j += 8)
	{
		scan4_step(&even, _mm512_maskz_loadu_epi8(four_rows, codes + j * row_bytes), _mm512_loadu_si512(lut + j * 16));
		scan4_step(&odd, _mm512_maskz_loadu_epi8(four_rows, codes + (j + 4) * row_bytes),
				   _mm512_loadu_si512(lut + (j + 4) * 16));
	}
	for (; j < m; j += 4)
	{
		size_t		nrows = m - j < 4 ? m - j : 4;

		/* Tables of zeros add nothing for the rows that are not there */
		scan4_step(&even, _mm512_maskz_loadu_epi8(UINT64_MAX >> (64 - nrows * row_bytes), codes + j * row_bytes),
				   _mm512_maskz_loadu_epi8(UINT64_MAX >> (64 - nrows * 16), lut + j * 16));
	}

	/* High nibbles follow the low ones: what those had too many is written over */
	_mm512_storeu_si512(sums, _mm512_add_epi32(even.low_u32x16, odd.low_u32x16));
	_mm512_storeu_si512(sums + row_bytes, _mm512_add_epi32(even.high_u32x16, odd.high_u32x16));
}

/*
 * Values of a projected vector in three digits of a byte with sign, so that sums of
 * products of bytes are as exact as those of floats: value = unit * (65536 digit_2 +
 * 256 digit_1 + digit_0), and unit such that the largest value is LARGEST_DIGITS.
 */
#define DIGITS			3
#define UNSIGNED_ZERO	128		/* what zero is among the bytes of panels, of eight bits, made unsigned */
#define LARGEST_DIGITS	8300000.0f	/* below 127 * 65536 */
#define SMALLEST_SPLIT	1e-30f

/* Values that are split at once: as many as a stack bears, sums are far from 2^31 */
#define MAX_SPLIT_DIM	4096

typedef struct SplitVector
{
	int8_t		digits[DIGITS][MAX_SPLIT_DIM];	/* zero up to a multiple of sixteen */
	__m512i		corrections[DIGITS];	/* UNSIGNED_ZERO times the sum of the digits, in each lane */
	float		unit;
} SplitVector;

static inline __m512
load_some(const float *x, size_t count)
{
	return _mm512_maskz_loadu_ps(count < 16 ? first_lanes(count) : 0xFFFF, x);
}

static void
split_vector(const float *x, size_t dim, float largest, SplitVector *split)
{
	const __m512i half = _mm512_set1_epi32(128);
	__m512		inverse = _mm512_set1_ps(LARGEST_DIGITS / largest);
	__m512i		totals[DIGITS] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};

	for (size_t i = 0; i < dim; i += 16)
	{
		__m512i		rest = _mm512_cvtps_epi32(_mm512_mul_ps(load_some(x + i, dim - i), inverse));

		for (size_t k = 0; k < DIGITS; k++)
		{
			__m512i		next = _mm512_srai_epi32(_mm512_add_epi32(rest, half), 8);

			_mm_storeu_si128((__m128i *) (split->digits[k] + i), _mm512_cvtepi32_epi8(rest));
			totals[k] = _mm512_add_epi32(totals[k], _mm512_sub_epi32(rest, _mm512_slli_epi32(next, 8)));
			rest = next;
		}
	}
	for (size_t k = 0; k < DIGITS; k++)
		split->corrections[k] = _mm512_set1_epi32(UNSIGNED_ZERO * _mm512_reduce_add_epi32(totals[k]));
	split->unit = largest / LARGEST_DIGITS;
}

/*
 * sums + products of four unsigned bytes in each lane with four digits.  As an
 * intrinsic, gcc 12 copies each sum to another register.
 */
static inline __attribute__((always_inline)) __m512i
add_digits(__m512i sums, __m512i bytes, const int8_t *digits)
{
	__asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(bytes), "m"(*(const char (*)[4]) digits));
	return sums;
}

/*
 * Bytes of four rows are turned so that those of one column are next to each other,
 * and made unsigned.
 */
void
vq_avx512_project_i8(const float *x, size_t dim, const int8_t *panels, const float *steps,
					 size_t npanels, float *out)
{
	static const uint8_t turn_bytes[64] = {
		0, 16, 32, 48, 1, 17, 33, 49, 2, 18, 34, 50, 3, 19, 35, 51, 4, 20, 36, 52, 5, 21, 37, 53,
		6, 22, 38, 54, 7, 23, 39, 55, 8, 24, 40, 56, 9, 25, 41, 57, 10, 26, 42, 58, 11, 27, 43, 59,
		12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63
	};
	const __m512i turn = _mm512_loadu_si512(turn_bytes);
	const __m512i sign = _mm512_set1_epi8((char) UNSIGNED_ZERO);
	SplitVector split;
	__m512		largest_f32x16 = _mm512_setzero_ps();
	float		largest;

	for (size_t i = 0; i < dim; i += 16)
		largest_f32x16 = _mm512_max_ps(largest_f32x16, _mm512_abs_ps(load_some(x + i, dim - i)));
	largest = _mm512_reduce_max_ps(largest_f32x16);
	if (dim > MAX_SPLIT_DIM || !(largest >= SMALLEST_SPLIT && largest <= 1 / SMALLEST_SPLIT))
	{
		vq_kernels_avx2.project_i8(x, dim, panels, steps, npanels, out);
		return;
	}
	split_vector(x, dim, largest, &split);

	for (size_t p = 0; p < npanels; p++)
	{
		const int8_t *panel = panels + p * dim * VQ_PANEL_COLUMNS;
		__m512i		sum0 = _mm512_setzero_si512();
		__m512i		sum1 = sum0;
		__m512i		sum2 = sum0;
		__m512		total;

		for (size_t i = 0; i < dim; i += 4)
		{
			__m512i		rows;

			if (i + 4 <= dim)
				rows = _mm512_loadu_si512(panel + i * VQ_PANEL_COLUMNS);
			else
				rows = _mm512_maskz_loadu_epi8(((__mmask64) 1 << (dim - i) * VQ_PANEL_COLUMNS) - 1,
											   panel + i * VQ_PANEL_COLUMNS);
			rows = _mm512_xor_si512(_mm512_permutexvar_epi8(turn, rows), sign);
			sum0 = add_digits(sum0, rows, split.digits[0] + i);
			sum1 = add_digits(sum1, rows, split.digits[1] + i);
			sum2 = add_digits(sum2, rows, split.digits[2] + i);
		}
		total = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum2, split.corrections[2]));
		total = _mm512_fmadd_ps(total, _mm512_set1_ps(256), _mm512_cvtepi32_ps(_mm512_sub_epi32(sum1, split.corrections[1])));
		total = _mm512_fmadd_ps(total, _mm512_set1_ps(256), _mm512_cvtepi32_ps(_mm512_sub_epi32(sum0, split.corrections[0])));
		_mm512_storeu_ps(out + p * VQ_PANEL_COLUMNS,
						 _mm512_mul_ps(_mm512_mul_ps(total, _mm512_set1_ps(split.unit)),
									   _mm512_loadu_ps(steps + p * VQ_PANEL_COLUMNS)));
	}
}

VQ_TARGET_END

#endif							/* __x86_64__ */
