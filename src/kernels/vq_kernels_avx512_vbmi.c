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

VQ_TARGET_END

#endif							/* __x86_64__ */
