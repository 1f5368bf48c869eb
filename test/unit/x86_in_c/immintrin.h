/*-------------------------------------------------------------------------
 *
 * immintrin.h
 *	  Intrinsics of AVX2 and AVX-512 as functions in portable C: those that SIMDe
 *	  has, and the others that src/kernels uses, after Intel's Intrinsics Guide.
 *
 * Found before the compiler's own, so that the tables of all x86 processors are
 * tested on any.
 *
 *-------------------------------------------------------------------------
 */
#ifndef X86_IN_C_H
#define X86_IN_C_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define SIMDE_NO_NATIVE
#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop

#define __mmask16	uint16_t
#define __mmask32	uint32_t
#define __mmask64	uint64_t

/* What SIMDe 0.7.4 lacks, or reads more for than it should: later versions have some of it */
#undef _mm256_maskload_epi32
#undef _mm256_maskload_ps
#undef _mm256_maskz_loadu_epi16
#undef _mm256_maskz_loadu_epi8
#undef _mm512_cmplt_epu32_mask
#undef _mm512_cvtepi32_epi8
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepu8_epi16
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_epi32
#undef _mm512_cvtps_pd
#undef _mm512_mask_cmp_ps_mask
#undef _mm512_mask_reduce_min_epu32
#undef _mm512_mask_srli_epi16
#undef _mm512_mask_storeu_ps
#undef _mm512_maskz_loadu_epi32
#undef _mm512_maskz_loadu_epi8
#undef _mm512_maskz_loadu_ps
#undef _mm512_permute_ps
#undef _mm512_reduce_add_epi32
#undef _mm512_reduce_add_ps
#undef _mm512_reduce_max_ps
#undef _mm512_reduce_min_ps
#undef _mm512_shuffle_f32x4
#undef _mm512_srai_epi32
#undef _mm_mask_storeu_epi8
#undef _mm_maskz_loadu_epi8

#define IN_C	static inline __attribute__((unused))

/* Loads and stores of some elements touch no others */
#define MASKED_LOAD(name, vector, element, mask, load) \
IN_C vector name(mask which, const void *from) \
{ \
	element		elements[sizeof(vector) / sizeof(element)] = {0}; \
	for (size_t i = 0; i < sizeof(vector) / sizeof(element); i++) \
		if (which >> i & 1) \
			elements[i] = ((const element *) from)[i]; \
	return load((const void *) elements); \
}

MASKED_LOAD(_mm_maskz_loadu_epi8, __m128i, uint8_t, __mmask16, _mm_loadu_si128)
MASKED_LOAD(_mm256_maskz_loadu_epi8, __m256i, uint8_t, uint32_t, _mm256_loadu_si256)
MASKED_LOAD(_mm256_maskz_loadu_epi16, __m256i, uint16_t, uint16_t, _mm256_loadu_si256)
MASKED_LOAD(_mm512_maskz_loadu_epi8, __m512i, uint8_t, uint64_t, _mm512_loadu_si512)
MASKED_LOAD(_mm512_maskz_loadu_epi32, __m512i, uint32_t, uint16_t, _mm512_loadu_si512)
MASKED_LOAD(_mm512_maskz_loadu_ps, __m512, float, uint16_t, _mm512_loadu_ps)

#define SIGN_LOAD(name, vector, element, load) \
IN_C vector name(const element *from, __m256i which) \
{ \
	element		elements[8] = {0}; \
	int32_t		signs[8]; \
	memcpy(signs, &which, sizeof(which)); \
	for (size_t i = 0; i < 8; i++) \
		if (signs[i] < 0) \
			elements[i] = from[i]; \
	return load((const void *) elements); \
}

SIGN_LOAD(_mm256_maskload_ps, __m256, float, _mm256_loadu_ps)
SIGN_LOAD(_mm256_maskload_epi32, __m256i, int, _mm256_loadu_si256)

#define MASKED_STORE(name, vector, element, mask) \
IN_C void name(void *to, mask which, vector from) \
{ \
	element		elements[sizeof(vector) / sizeof(element)]; \
	memcpy(elements, &from, sizeof(from)); \
	for (size_t i = 0; i < sizeof(vector) / sizeof(element); i++) \
		if (which >> i & 1) \
			((element *) to)[i] = elements[i]; \
}

MASKED_STORE(_mm_mask_storeu_epi8, __m128i, uint8_t, uint16_t)
MASKED_STORE(_mm512_mask_storeu_ps, __m512, float, uint16_t)

/* What is done to each element by itself: x is the element, i its number */
#define EACH(name, from_vector, from_element, to_vector, to_element, ...) \
IN_C to_vector name(from_vector from) \
{ \
	from_element xs[sizeof(from_vector) / sizeof(from_element)]; \
	to_element	ys[sizeof(to_vector) / sizeof(to_element)]; \
	to_vector	to; \
	memcpy(xs, &from, sizeof(from)); \
	for (size_t i = 0; i < sizeof(to_vector) / sizeof(to_element); i++) \
	{ \
		from_element x = xs[i]; \
		ys[i] = __VA_ARGS__; \
	} \
	memcpy(&to, ys, sizeof(to)); \
	return to; \
}

EACH(_mm512_cvtepi32_epi8, __m512i, uint32_t, __m128i, uint8_t, (uint8_t) x)
EACH(_mm512_cvtepi8_epi32, __m128i, int8_t, __m512i, int32_t, x)
EACH(_mm512_cvtepu8_epi32, __m128i, uint8_t, __m512i, int32_t, x)
EACH(_mm512_cvtepu8_epi16, __m256i, uint8_t, __m512i, uint16_t, x)
EACH(_mm512_cvtepu16_epi32, __m256i, uint16_t, __m512i, int32_t, x)
EACH(_mm512_cvtepi32_ps, __m512i, int32_t, __m512, float, (float) x)
EACH(_mm512_cvtps_pd, __m256, float, __m512d, double, x)
EACH(_mm512_cvtps_epi32, __m512, float, __m512i, int32_t,
	 x >= -2147483648.0f && x < 2147483648.0f ? (int32_t) nearbyintf(x) : INT32_MIN)

IN_C __m512
_mm512_cvtph_ps(__m256i halves)
{
	__m256		parts[2] = {
		simde_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
		simde_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))
	};

	return _mm512_loadu_ps((const void *) parts);
}

IN_C __m512i
_mm512_srai_epi32(__m512i a, unsigned by)
{
	int32_t		xs[16];

	memcpy(xs, &a, sizeof(a));
	for (size_t i = 0; i < 16; i++)
		xs[i] >>= by > 31 ? 31 : by;
	return _mm512_loadu_si512(xs);
}

IN_C __m512i
_mm512_mask_srli_epi16(__m512i otherwise, uint32_t which, __m512i a, unsigned by)
{
	uint16_t	xs[32],
				ys[32];

	memcpy(xs, &otherwise, sizeof(a));
	memcpy(ys, &a, sizeof(a));
	for (size_t i = 0; i < 32; i++)
		if (which >> i & 1)
			xs[i] = (uint16_t) (by > 15 ? 0 : ys[i] >> by);
	return _mm512_loadu_si512(xs);
}

/* Within each four, by two bits of control for each of them */
IN_C __m512
_mm512_permute_ps(__m512 a, int control)
{
	float		xs[16],
				ys[16];

	memcpy(xs, &a, sizeof(a));
	for (size_t i = 0; i < 16; i++)
		ys[i] = xs[i / 4 * 4 + (size_t) (control >> i % 4 * 2 & 3)];
	return _mm512_loadu_ps(ys);
}

IN_C uint16_t
_mm512_cmplt_epu32_mask(__m512i a, __m512i b)
{
	uint32_t	xs[16],
				ys[16];
	uint16_t	mask = 0;

	memcpy(xs, &a, sizeof(a));
	memcpy(ys, &b, sizeof(b));
	for (size_t i = 0; i < 16; i++)
		mask |= (uint16_t) ((xs[i] < ys[i]) << i);
	return mask;
}

#define _mm512_mask_cmp_ps_mask(which, a, b, how) \
	((uint16_t) ((which) & simde_mm512_cmp_ps_mask(a, b, how)))

#define _mm512_shuffle_f32x4(a, b, which)	simde_mm512_shuffle_f32x4(a, b, which)

/* One number of all elements: those whose bit is set in which, by pairs of halves as the compilers do it */
#define REDUCE(name, vector, element, start, ...) \
IN_C element name(uint16_t which, vector a) \
{ \
	element		xs[16]; \
	memcpy(xs, &a, sizeof(a)); \
	for (size_t i = 0; i < 16; i++) \
		if (!(which >> i & 1)) \
			xs[i] = start; \
	for (size_t width = 8; width > 0; width /= 2) \
		for (size_t i = 0; i < width; i++) \
		{ \
			element		x = xs[i], \
						y = xs[i + width]; \
			xs[i] = __VA_ARGS__; \
		} \
	return xs[0]; \
}

REDUCE(_mm512_mask_reduce_min_epu32, __m512i, uint32_t, UINT32_MAX, x < y ? x : y)
REDUCE(reduce_add_ps, __m512, float, 0.0f, x + y)
REDUCE(reduce_max_ps, __m512, float, -INFINITY, x > y ? x : y)
REDUCE(reduce_min_ps, __m512, float, INFINITY, x < y ? x : y)
REDUCE(reduce_add_epi32, __m512i, int32_t, 0, (int32_t) ((uint32_t) x + (uint32_t) y))

#define _mm512_reduce_add_ps(a) reduce_add_ps(0xffff, a)
#define _mm512_reduce_max_ps(a) reduce_max_ps(0xffff, a)
#define _mm512_reduce_min_ps(a) reduce_min_ps(0xffff, a)
#define _mm512_reduce_add_epi32(a) reduce_add_epi32(0xffff, a)

/* Tiles of AMX: as many rows of as many bytes as the last configuration says, zero to begin with */
typedef struct Tile
{
	uint8_t		bytes[16][64];
	size_t		nrows;
	size_t		row_bytes;
} Tile;

static __thread Tile tiles[8] __attribute__((unused));

IN_C void
_tile_loadconfig(const void *config)
{
	memset(tiles, 0, sizeof(tiles));
	for (size_t t = 0; t < 8; t++)
	{
		uint16_t	row_bytes;

		memcpy(&row_bytes, (const char *) config + 16 + t * 2, 2);
		tiles[t].row_bytes = row_bytes;
		tiles[t].nrows = ((const uint8_t *) config)[48 + t];
	}
}

IN_C void
_tile_release(void)
{
	memset(tiles, 0, sizeof(tiles));
}

IN_C void
_tile_loadd(int to, const void *from, size_t stride)
{
	for (size_t i = 0; i < tiles[to].nrows; i++)
		memcpy(tiles[to].bytes[i], (const char *) from + i * stride, tiles[to].row_bytes);
}

IN_C void
_tile_stored(int from, void *to, size_t stride)
{
	for (size_t i = 0; i < tiles[from].nrows; i++)
		memcpy((char *) to + i * stride, tiles[from].bytes[i], tiles[from].row_bytes);
}

/* Unsigned bytes of a by signed ones of b, four to a sum of 32 bits */
IN_C void
_tile_dpbusd(int to, int a, int b)
{
	for (size_t i = 0; i < tiles[to].nrows; i++)
		for (size_t j = 0; j < tiles[to].row_bytes / 4; j++)
		{
			int32_t		sum;

			memcpy(&sum, tiles[to].bytes[i] + j * 4, 4);
			for (size_t k = 0; k < tiles[a].row_bytes; k++)
				sum += tiles[a].bytes[i][k] * (int8_t) tiles[b].bytes[k / 4][j * 4 + k % 4];
			memcpy(tiles[to].bytes[i] + j * 4, &sum, 4);
		}
}

#endif							/* X86_IN_C_H */
