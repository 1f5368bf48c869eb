/*-------------------------------------------------------------------------
 *
 * vq_kernels_neon_pq.c
 *	  Codes of product quantisers and their look-up tables, for 64-bit Arm
 *	  processors.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(__aarch64__)

#include <math.h>
#include <string.h>

#include "kernels/vq_kernels_neon.h"

/* Squared distances of dsub floats to sixteen centroids that are ksub apart */
TEMPLATE void
distances_to_16(const float *x, const float *centroids, size_t dsub, size_t ksub, float32x4_t distances[4])
{
	UNROLL
	for (size_t k = 0; k < 4; k++)
		distances[k] = vdupq_n_f32(0);
	for (size_t d = 0; d < dsub; d++)
	{
		float32x4_t xd = vdupq_n_f32(x[d]);

		UNROLL
		for (size_t k = 0; k < 4; k++)
			distances[k] = add_square(distances[k], vsubq_f32(xd, vld1q_f32(centroids + d * ksub + 4 * k)));
	}
}

static inline float32x4_t
minima_of_4(const float32x4_t v[4])
{
	return vminq_f32(vminq_f32(v[0], v[1]), vminq_f32(v[2], v[3]));
}

/* The numbers of the lanes, of sixteen, that equal the minimum; 255 for the others */
static inline uint8x16_t
lanes_equal_to(const float32x4_t v[4], float32x4_t minimum)
{
	const uint8x16_t lane_no = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	uint16x8_t	low = vuzp1q_u16(vreinterpretq_u16_u32(vceqq_f32(v[0], minimum)),
								 vreinterpretq_u16_u32(vceqq_f32(v[1], minimum)));
	uint16x8_t	high = vuzp1q_u16(vreinterpretq_u16_u32(vceqq_f32(v[2], minimum)),
								  vreinterpretq_u16_u32(vceqq_f32(v[3], minimum)));

	return vornq_u8(lane_no, vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high)));
}

/*
 * Four sub-quantisers at a time: pairwise minima of their distances, and then of
 * the lanes that have them, end with one sub-quantiser in each lane.  Where
 * there are NaNs no lane equals the minimum, and the code is 15.
 */
TEMPLATE void
encode_16(const float *x, const float *codebook, size_t m, size_t dsub, uint8_t *codes)
{
	size_t		step = dsub * 16;
	size_t		j = 0;

	for (; j + 4 <= m; j += 4)
	{
		const float *c = codebook + j * step;
		const float *xj = x + j * dsub;
		float32x4_t v0[4];
		float32x4_t v1[4];
		float32x4_t v2[4];
		float32x4_t v3[4];
		float32x4_t minima;
		uint8x16_t	lanes;
		uint32_t	four_codes;

		distances_to_16(xj, c, dsub, 16, v0);
		distances_to_16(xj + dsub, c + step, dsub, 16, v1);
		distances_to_16(xj + 2 * dsub, c + 2 * step, dsub, 16, v2);
		distances_to_16(xj + 3 * dsub, c + 3 * step, dsub, 16, v3);
		minima = vpminq_f32(vpminq_f32(minima_of_4(v0), minima_of_4(v1)),
							vpminq_f32(minima_of_4(v2), minima_of_4(v3)));
		lanes = vpminq_u8(vpminq_u8(lanes_equal_to(v0, vdupq_laneq_f32(minima, 0)),
									lanes_equal_to(v1, vdupq_laneq_f32(minima, 1))),
						  vpminq_u8(lanes_equal_to(v2, vdupq_laneq_f32(minima, 2)),
									lanes_equal_to(v3, vdupq_laneq_f32(minima, 3))));
		lanes = vpminq_u8(lanes, lanes);
		lanes = vpminq_u8(lanes, lanes);
		four_codes = vgetq_lane_u32(vreinterpretq_u32_u8(lanes), 0) & 0x0F0F0F0F;
		memcpy(codes + j, &four_codes, 4);
	}
	for (; j < m; j++)
	{
		float32x4_t v[4];
		float32x4_t minimum;

		distances_to_16(x + j * dsub, codebook + j * step, dsub, 16, v);
		minimum = vdupq_n_f32(vminvq_f32(minima_of_4(v)));
		codes[j] = vminvq_u8(lanes_equal_to(v, minimum)) & 15;
	}
}

/*
 * Each of sixteen lanes remembers its smallest distance and the first group of
 * sixteen that had it; the lanes are compared at the end.
 */
static inline uint8_t
nearest_of_256(const float *x, const float *centroids, size_t dsub)
{
	const uint32x4_t lane_no = {0, 1, 2, 3};
	float32x4_t best[4];
	uint32x4_t	best_group[4];
	float32x4_t minimum;
	uint32x4_t	nearest = vdupq_n_u32(255);

	UNROLL
	for (size_t k = 0; k < 4; k++)
	{
		best[k] = vdupq_n_f32(INFINITY);
		best_group[k] = vdupq_n_u32(0);
	}
	for (uint32_t group = 0; group < 256; group += 16)
	{
		float32x4_t distances[4];

		distances_to_16(x, centroids + group, dsub, 256, distances);
		UNROLL
		for (size_t k = 0; k < 4; k++)
		{
			uint32x4_t	is_less = vcltq_f32(distances[k], best[k]);

			best[k] = vbslq_f32(is_less, distances[k], best[k]);
			best_group[k] = vbslq_u32(is_less, vdupq_n_u32(group), best_group[k]);
		}
	}

	minimum = vdupq_n_f32(vminvq_f32(minima_of_4(best)));
	UNROLL
	for (size_t k = 0; k < 4; k++)
	{
		uint32x4_t	centroid_no = vaddq_u32(best_group[k], vaddq_u32(lane_no, vdupq_n_u32((uint32_t) (4 * k))));

		nearest = vminq_u32(nearest, vornq_u32(centroid_no, vceqq_f32(best[k], minimum)));
	}
	return (uint8_t) vminvq_u32(nearest);
}

/* Two and three dimensions of a sub-quantiser, the defaults, have code of their own */
void
vq_neon_pq_encode(const float *x, const float *codebook, size_t m, size_t dsub,
				  size_t ksub, uint8_t *codes)
{
	if (ksub == 256)
	{
		for (size_t j = 0; j < m; j++)
			codes[j] = nearest_of_256(x + j * dsub, codebook + j * dsub * 256, dsub);
	}
	else if (dsub == 2)
		encode_16(x, codebook, m, 2, codes);
	else if (dsub == 3)
		encode_16(x, codebook, m, 3, codes);
	else
		encode_16(x, codebook, m, dsub, codes);
}

void
vq_neon_pq_lut(const float *q, const float *codebook, size_t m, size_t dsub,
			   size_t ksub, float *lut)
{
	for (size_t j = 0; j < m; j++)
	{
		/* ksub is a multiple of 16 */
		for (size_t first = 0; first < ksub; first += 16)
		{
			const float *c = codebook + j * dsub * ksub + first;
			float32x4_t sums[4];

			UNROLL
			for (size_t k = 0; k < 4; k++)
				sums[k] = vdupq_n_f32(0);
			for (size_t d = 0; d < dsub; d++, c += ksub)
			{
				UNROLL
				for (size_t k = 0; k < 4; k++)
					sums[k] = vfmaq_n_f32(sums[k], vld1q_f32(c + 4 * k), q[j * dsub + d]);
			}
			UNROLL
			for (size_t k = 0; k < 4; k++)
				vst1q_f32(lut + j * ksub + first + 4 * k, sums[k]);
		}
	}
}

void
vq_neon_lut_ranges(const float *lut, size_t m, size_t ksub, uint8_t *bytes)
{
	for (size_t j = 0; j < m; j++)
	{
		const float *entries = lut + j * ksub;
		float32x4_t low = vld1q_f32(entries);
		float32x4_t high = low;
		float		range[2];

		for (size_t k = 4; k < ksub; k += 4)
		{
			low = vminq_f32(low, vld1q_f32(entries + k));
			high = vmaxq_f32(high, vld1q_f32(entries + k));
		}
		range[0] = vminvq_f32(low);
		range[1] = vmaxvq_f32(high);
		memcpy(bytes + j * ksub, range, sizeof(range));
	}
}

static inline uint16x4_t
round_4(const float *entries, float32x4_t low, float per_step)
{
	return vmovn_u32(vcvtnq_u32_f32(vmulq_n_f32(vsubq_f32(vld1q_f32(entries), low), per_step)));
}

void
vq_neon_lut_bytes(const float *lut, size_t m, size_t ksub, float per_step, uint8_t *bytes)
{
	for (size_t j = 0; j < m; j++)
	{
		float32x4_t low;
		float		least;

		memcpy(&least, bytes + j * ksub, sizeof(least));
		low = vdupq_n_f32(least);
		for (size_t i = j * ksub; i < (j + 1) * ksub; i += 8)
			vst1_u8(bytes + i, vmovn_u16(vcombine_u16(round_4(lut + i, low, per_step),
													  round_4(lut + i + 4, low, per_step))));
	}
}

#endif							/* __aarch64__ */
