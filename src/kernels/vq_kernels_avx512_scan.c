/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx512_scan.c
 *	  The scoring of codes for x86-64 processors with AVX-512 F, BW, DQ and VL.
 *
 * Registers name their lanes: u8x64 is 64 bytes.  What does not fill a register
 * is loaded under a mask, which reads no byte it leaves out.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "kernels/vq_kernels_avx512.h"

/* Rows of bytes that 16-bit sums take without overflow: 65535 / 255, less one */
#define FLUSH_ROWS 256

VQ_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

/*
 * Byte sums in 16 bits without unpacking: "all" adds registers of bytes as if
 * they were 16-bit numbers, "odd" adds their odd bytes alone.  What all has
 * beyond 256 times the odd sums is the even sums, and that holds modulo 65536
 * however often all has wrapped around.
 */
typedef struct ByteSums
{
	__m512i		all;
	__m512i		odd;
} ByteSums;

static inline void
add_bytes(ByteSums *sums, __m512i bytes)
{
	sums->all = _mm512_add_epi16(sums->all, bytes);
	sums->odd = _mm512_add_epi16(sums->odd, _mm512_srli_epi16(bytes, 8));
}

static inline __m128i
add_quarters(__m512i v)
{
	__m256i		halves = _mm256_add_epi16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));

	return _mm_add_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

/* Sums of 16 vectors whose bytes are in every 128 bits, widened to 32 bits */
static inline __m512i
total_16(const ByteSums *sums)
{
	__m128i		even = add_quarters(_mm512_sub_epi16(sums->all, _mm512_slli_epi16(sums->odd, 8)));
	__m128i		odd = add_quarters(sums->odd);

	return _mm512_cvtepu16_epi32(_mm256_setr_m128i(_mm_unpacklo_epi16(even, odd),
												   _mm_unpackhi_epi16(even, odd)));
}

static inline void
scan4_step(__m512i codes_u8x64, __m512i tables, ByteSums *low, ByteSums *high)
{
	const __m512i nibble = _mm512_set1_epi8(15);

	add_bytes(low, _mm512_shuffle_epi8(tables, _mm512_and_si512(codes_u8x64, nibble)));
	add_bytes(high, _mm512_shuffle_epi8(tables, _mm512_and_si512(_mm512_srli_epi16(codes_u8x64, 4), nibble)));
}

/*
 * nrows <= 4 rows of so many 32-bit words each, one to each 128 bits.  What a
 * row does not fill repeats other words, whose sums nobody reads.
 */
static inline __m512i
load_rows(const uint8_t *codes, size_t nrows, size_t words)
{
	__m512i		rows = _mm512_maskz_loadu_epi32((__mmask16) ((1u << (nrows * words)) - 1), codes);

	if (words == 3)
		return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11), rows);
	if (words == 2)
		return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 7, 7, 7), rows);
	if (words == 1)
		return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3), rows);
	return rows;
}

/* Four sub-quantisers per register, one in each 128 bits; words is a constant */
static inline __attribute__((always_inline)) void
scan4_words(const uint8_t *codes, size_t words, const uint8_t *lut, size_t m,
			uint32_t sums[VQ_BLOCK_LANES])
{
	size_t		row_bytes = words * 4;
	__m512i		low_u32x16 = _mm512_setzero_si512();
	__m512i		high_u32x16 = _mm512_setzero_si512();

	while (m > 0)
	{
		size_t		nrows = m < FLUSH_ROWS ? m : FLUSH_ROWS;
		ByteSums	low = {_mm512_setzero_si512(), _mm512_setzero_si512()};
		ByteSums	high = low;
		size_t		j = 0;

		for (; j + 4 <= nrows; j += 4)
			scan4_step(load_rows(codes + j * row_bytes, 4, words), _mm512_loadu_si512(lut + j * 16), &low, &high);
		if (j < nrows)
		{
			__mmask64	mask = (UINT64_C(1) << ((nrows - j) * 16)) - 1;

			/* Tables of zeros add nothing for the rows that are not there */
			scan4_step(load_rows(codes + j * row_bytes, nrows - j, words),
					   _mm512_maskz_loadu_epi8(mask, lut + j * 16), &low, &high);
		}

		low_u32x16 = _mm512_add_epi32(low_u32x16, total_16(&low));
		high_u32x16 = _mm512_add_epi32(high_u32x16, total_16(&high));
		codes += nrows * row_bytes;
		lut += nrows * 16;
		m -= nrows;
	}

	/* High nibbles follow the low ones: what those had too many is written over */
	_mm512_storeu_si512(sums, low_u32x16);
	_mm512_storeu_si512(sums + row_bytes, high_u32x16);
}

void
vq_avx512_scan4(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
				uint32_t sums[VQ_BLOCK_LANES])
{
	if (n == 32)
		scan4_words(codes, 4, lut, m, sums);
	else if (n == 24)
		scan4_words(codes, 3, lut, m, sums);
	else if (n == 16)
		scan4_words(codes, 2, lut, m, sums);
	else
		scan4_words(codes, 1, lut, m, sums);
}

/*
 * A table of 256 bytes is four registers, and one permute chooses from two of
 * them by 16-bit index: the pair of bytes that code / 2 stands for.  That
 * needs no VBMI, and the sum wants 16 bits anyway.
 */
void
vq_avx512_scan8(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
				uint32_t sums[VQ_BLOCK_LANES])
{
	__mmask32	row_mask = n < 32 ? (1u << n) - 1 : 0xFFFFFFFF;
	__m512i		low_u32x16 = _mm512_setzero_si512();
	__m512i		high_u32x16 = _mm512_setzero_si512();

	while (m > 0)
	{
		size_t		nrows = m < FLUSH_ROWS ? m : FLUSH_ROWS;
		__m512i		sums_u16x32 = _mm512_setzero_si512();

		for (size_t j = 0; j < nrows; j++)
		{
			const uint8_t *table = lut + j * 256;
			__m512i		code = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(row_mask, codes + j * n));
			__m512i		pair_no = _mm512_srli_epi16(code, 1);
			__m512i		pairs = _mm512_permutex2var_epi16(_mm512_loadu_si512(table), pair_no,
														  _mm512_loadu_si512(table + 64));
			__m512i		upper_pairs = _mm512_permutex2var_epi16(_mm512_loadu_si512(table + 128), pair_no,
																_mm512_loadu_si512(table + 192));
			__mmask32	is_upper = _mm512_test_epi16_mask(code, _mm512_set1_epi16(0x80));
			__mmask32	is_odd = _mm512_test_epi16_mask(code, _mm512_set1_epi16(1));

			pairs = _mm512_mask_mov_epi16(pairs, is_upper, upper_pairs);
			pairs = _mm512_mask_srli_epi16(pairs, is_odd, pairs, 8);
			sums_u16x32 = _mm512_add_epi16(sums_u16x32, _mm512_and_si512(pairs, _mm512_set1_epi16(0xFF)));
		}

		low_u32x16 = _mm512_add_epi32(low_u32x16, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(sums_u16x32)));
		high_u32x16 = _mm512_add_epi32(high_u32x16, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(sums_u16x32, 1)));
		codes += nrows * n;
		lut += nrows * 256;
		m -= nrows;
	}
	_mm512_storeu_si512(sums, low_u32x16);
	_mm512_storeu_si512(sums + 16, high_u32x16);
}

/* E of 16 bytes, see unpack_e in vq_kernels_scalar.c */
static inline __m512
unpack_e(__m128i e)
{
	__m512i		e_u32x16 = _mm512_cvtepu8_epi32(e);
	__m512i		bits = _mm512_add_epi32(_mm512_slli_epi32(e_u32x16, VQ_E_SHIFT),
										_mm512_set1_epi32(VQ_E_SCALE_LOG2 << 23));
	__mmask16	is_small = _mm512_cmplt_epu32_mask(e_u32x16, _mm512_set1_epi32(8));

	return _mm512_mask_mul_ps(_mm512_castsi512_ps(bits), is_small,
							  _mm512_cvtepi32_ps(e_u32x16), _mm512_set1_ps(VQ_E_SMALL_UNIT));
}

uint32_t
vq_avx512_bound(const float *a, const uint16_t *s, const uint8_t *e,
				const uint32_t *sums, size_t n, const VqBound *list, float ceiling, float *low)
{
	uint32_t	is_below = 0;
	__m512		base = _mm512_set1_ps(list->base);
	__m512		lut_bias = _mm512_set1_ps(list->lut_bias);
	__m512		lut_step = _mm512_set1_ps(list->lut_step);
	__m512		reach = _mm512_set1_ps(list->reach);
	__m512		s_unit = _mm512_set1_ps(1.0f / VQ_S_ONE);

	for (size_t i = 0; i < n; i += 16)
	{
		__mmask16	mask = n - i < 16 ? first_lanes(n - i) : 0xFFFF;
		__m512		sum = _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(mask, sums + i));
		__m512i		s_u32x16 = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, s + i));
		__m512		factor = _mm512_mul_ps(_mm512_cvtepi32_ps(s_u32x16), s_unit);
		__m512		product = _mm512_fmadd_ps(lut_step, sum, lut_bias);
		__m512		value = _mm512_add_ps(base, _mm512_maskz_loadu_ps(mask, a + i));

		value = _mm512_fnmadd_ps(factor, product, value);
		value = _mm512_fnmadd_ps(unpack_e(_mm_maskz_loadu_epi8(mask, e + i)), reach, value);
		_mm512_mask_storeu_ps(low + i, mask, value);
		is_below |= (uint32_t) _mm512_mask_cmp_ps_mask(mask, value, _mm512_set1_ps(ceiling), _CMP_NGT_UQ) << i;
	}
	return is_below;
}

VQ_TARGET_END

#endif							/* __x86_64__ */
