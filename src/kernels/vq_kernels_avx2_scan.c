/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx2_scan.c
 *	  The scoring of codes for x86-64 processors with AVX2 and FMA.
 *
 * Registers name their lanes: u8x32 is 32 bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "kernels/vq_kernels_avx2.h"

/* Rows of bytes that 16-bit sums take without overflow: 65535 / 255, less one */
#define FLUSH_ROWS 256

VQ_TARGET_BEGIN("avx2,fma,f16c")

/*
 * Byte sums in 16 bits without unpacking: "all" adds registers of bytes as if
 * they were 16-bit numbers, "odd" adds their odd bytes alone.  What all has
 * beyond 256 times the odd sums is the even sums, and that holds modulo 65536
 * however often all has wrapped around.
 */
typedef struct ByteSums
{
	__m256i		all;
	__m256i		odd;
} ByteSums;

static inline void
add_bytes(ByteSums *sums, __m256i bytes)
{
	sums->all = _mm256_add_epi16(sums->all, bytes);
	sums->odd = _mm256_add_epi16(sums->odd, _mm256_srli_epi16(bytes, 8));
}

static inline __m256i
even_sums(const ByteSums *sums)
{
	return _mm256_sub_epi16(sums->all, _mm256_slli_epi16(sums->odd, 8));
}

/* sums[0..7] += low half of sums_u16x16, sums[8..15] += high half */
static inline void
widen_add(uint32_t *sums, __m256i sums_u16x16)
{
	__m256i    *out = (__m256i *) sums;
	__m256i		low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(sums_u16x16));
	__m256i		high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(sums_u16x16, 1));

	_mm256_storeu_si256(out, _mm256_add_epi32(_mm256_loadu_si256(out), low));
	_mm256_storeu_si256(out + 1, _mm256_add_epi32(_mm256_loadu_si256(out + 1), high));
}

/* Sums of 16 vectors whose bytes are in both 128-bit halves */
static inline void
flush_16(ByteSums *byte_sums, uint32_t *sums)
{
	__m256i		even = even_sums(byte_sums);
	__m256i		odd = byte_sums->odd;
	__m128i		even_u16x8 = _mm_add_epi16(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1));
	__m128i		odd_u16x8 = _mm_add_epi16(_mm256_castsi256_si128(odd), _mm256_extracti128_si256(odd, 1));

	widen_add(sums, _mm256_setr_m128i(_mm_unpacklo_epi16(even_u16x8, odd_u16x8),
									  _mm_unpackhi_epi16(even_u16x8, odd_u16x8)));
}

static inline void
scan4_step(__m256i codes_u8x32, __m256i tables, ByteSums *low, ByteSums *high)
{
	const __m256i nibble = _mm256_set1_epi8(15);

	add_bytes(low, _mm256_shuffle_epi8(tables, _mm256_and_si256(codes_u8x32, nibble)));
	add_bytes(high, _mm256_shuffle_epi8(tables, _mm256_and_si256(_mm256_srli_epi16(codes_u8x32, 4), nibble)));
}

/*
 * One or two rows of so many 32-bit words each, one to each 128-bit half.
 * What a row does not fill repeats other words, whose sums nobody reads.
 */
static inline __m256i
load_rows(const uint8_t *codes, size_t nrows, size_t words)
{
	const __m256i word_no = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
	__m256i		rows;

	if (words == 4 && nrows == 2)
		return _mm256_loadu_si256((const __m256i *) codes);
	rows = _mm256_maskload_epi32((const int *) codes,
								 _mm256_cmpgt_epi32(_mm256_set1_epi32((int) (nrows * words)), word_no));
	if (words == 3)
		rows = _mm256_permutevar8x32_epi32(rows, _mm256_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5));
	else if (words == 2)
		rows = _mm256_permutevar8x32_epi32(rows, _mm256_setr_epi32(0, 1, 1, 1, 2, 3, 3, 3));
	else if (words == 1)
		rows = _mm256_permutevar8x32_epi32(rows, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
	return rows;
}

/* Two sub-quantisers per register, one in each 128-bit half; words is a constant */
static inline __attribute__((always_inline)) void
scan4_words(const uint8_t *codes, size_t words, const uint8_t *lut, size_t m,
			uint32_t sums[VQ_BLOCK_LANES])
{
	size_t		row_bytes = words * 4;
	uint32_t	high_sums[VQ_BLOCK_LANES / 2] = {0};

	memset(sums, 0, VQ_BLOCK_LANES / 2 * sizeof(*sums));
	while (m > 0)
	{
		size_t		nrows = m < FLUSH_ROWS ? m : FLUSH_ROWS;
		ByteSums	low = {_mm256_setzero_si256(), _mm256_setzero_si256()};
		ByteSums	high = low;
		size_t		j = 0;

		for (; j + 2 <= nrows; j += 2)
			scan4_step(load_rows(codes + j * row_bytes, 2, words),
					   _mm256_loadu_si256((const __m256i *) (lut + j * 16)), &low, &high);

		/* A table of zeros adds nothing for the row that is not there */
		if (j < nrows)
			scan4_step(load_rows(codes + j * row_bytes, 1, words),
					   _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *) (lut + j * 16))), &low, &high);

		flush_16(&low, sums);
		flush_16(&high, high_sums);
		codes += nrows * row_bytes;
		lut += nrows * 16;
		m -= nrows;
	}

	/* High nibbles follow the low ones: what those had too many is written over */
	memcpy(sums + row_bytes, high_sums, sizeof(high_sums));
}

void
vq_avx2_scan4(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
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

/* Entries of the 16-entry table at p, for codes whose high nibble is known */
static inline __m256i
lookup_16(const uint8_t *p, __m256i low_nibbles)
{
	__m256i		table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) p));

	return _mm256_shuffle_epi8(table, low_nibbles);
}

/* Bit 7 of the selector chooses high over low */
static inline __m256i
choose(__m256i low, __m256i high, __m256i selector)
{
	return _mm256_blendv_epi8(low, high, selector);
}

static inline __m256i
lookup_64(const uint8_t *table, __m256i low_nibbles, __m256i bit4, __m256i bit5)
{
	return choose(choose(lookup_16(table, low_nibbles), lookup_16(table + 16, low_nibbles), bit4),
				  choose(lookup_16(table + 32, low_nibbles), lookup_16(table + 48, low_nibbles), bit4), bit5);
}

/*
 * A table of 256 is 16 tables of 16, of which the bits of the high nibble
 * choose one: no gathers, and no trip of every code through a scalar register.
 */
void
vq_avx2_scan8(const uint8_t *codes, size_t n, const uint8_t *lut, size_t m,
			  uint32_t sums[VQ_BLOCK_LANES])
{
	__m256i		row_mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int) (n / 4)),
											  _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));

	memset(sums, 0, VQ_BLOCK_LANES * sizeof(*sums));
	while (m > 0)
	{
		size_t		nrows = m < FLUSH_ROWS ? m : FLUSH_ROWS;
		ByteSums	byte_sums = {_mm256_setzero_si256(), _mm256_setzero_si256()};
		__m256i		even;
		__m256i		first;
		__m256i		second;

		for (size_t j = 0; j < nrows; j++)
		{
			const uint8_t *table = lut + j * 256;
			__m256i		codes_u8x32 = _mm256_maskload_epi32((const int *) (codes + j * n), row_mask);
			__m256i		low_nibbles = _mm256_and_si256(codes_u8x32, _mm256_set1_epi8(15));
			__m256i		bit6 = _mm256_slli_epi16(codes_u8x32, 1);
			__m256i		bit5 = _mm256_slli_epi16(codes_u8x32, 2);
			__m256i		bit4 = _mm256_slli_epi16(codes_u8x32, 3);
			__m256i		low = choose(lookup_64(table, low_nibbles, bit4, bit5),
									 lookup_64(table + 64, low_nibbles, bit4, bit5), bit6);
			__m256i		high = choose(lookup_64(table + 128, low_nibbles, bit4, bit5),
									  lookup_64(table + 192, low_nibbles, bit4, bit5), bit6);

			add_bytes(&byte_sums, choose(low, high, codes_u8x32));
		}

		/* Works within halves: vectors 0-7, 16-23 and 8-15, 24-31 */
		even = even_sums(&byte_sums);
		first = _mm256_unpacklo_epi16(even, byte_sums.odd);
		second = _mm256_unpackhi_epi16(even, byte_sums.odd);
		widen_add(sums, _mm256_permute2x128_si256(first, second, 0x20));
		widen_add(sums + 16, _mm256_permute2x128_si256(first, second, 0x31));
		codes += nrows * n;
		lut += nrows * 256;
		m -= nrows;
	}
}

/* E of eight bytes, see unpack_e in vq_kernels_scalar.c */
static inline __m256
unpack_e(const uint8_t *e)
{
	__m256i		e_u32x8 = _mm256_cvtepu8_epi32(load_8_bytes(e));
	__m256i		bits = _mm256_add_epi32(_mm256_slli_epi32(e_u32x8, VQ_E_SHIFT),
										_mm256_set1_epi32(VQ_E_SCALE_LOG2 << 23));
	__m256		small = _mm256_mul_ps(_mm256_cvtepi32_ps(e_u32x8), _mm256_set1_ps(VQ_E_SMALL_UNIT));
	__m256i		is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), e_u32x8);

	return _mm256_blendv_ps(_mm256_castsi256_ps(bits), small, _mm256_castsi256_ps(is_small));
}

uint32_t
vq_avx2_bound(const float *a, const uint16_t *s, const uint8_t *e,
			  const uint32_t *sums, size_t n, const VqBound *list, float ceiling, float *low)
{
	uint32_t	is_below = 0;
	__m256		base = _mm256_set1_ps(list->base);
	__m256		lut_bias = _mm256_set1_ps(list->lut_bias);
	__m256		lut_step = _mm256_set1_ps(list->lut_step);
	__m256		reach = _mm256_set1_ps(list->reach);
	__m256		s_unit = _mm256_set1_ps(1.0f / VQ_S_ONE);

	for (size_t i = 0; i < n; i += VQ_CAPACITY_STEP)
	{
		__m256		sum = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *) (sums + i)));
		__m256i		s_u32x8 = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) (s + i)));
		__m256		factor = _mm256_mul_ps(_mm256_cvtepi32_ps(s_u32x8), s_unit);
		__m256		product = _mm256_fmadd_ps(lut_step, sum, lut_bias);
		__m256		value = _mm256_add_ps(base, _mm256_loadu_ps(a + i));

		value = _mm256_fnmadd_ps(factor, product, value);
		value = _mm256_fnmadd_ps(unpack_e(e + i), reach, value);
		_mm256_storeu_ps(low + i, value);
		is_below |= (uint32_t) _mm256_movemask_ps(_mm256_cmp_ps(value, _mm256_set1_ps(ceiling), _CMP_NGT_UQ)) << i;
	}
	return is_below;
}

VQ_TARGET_END

#endif							/* __x86_64__ */
