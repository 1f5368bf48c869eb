/*-------------------------------------------------------------------------
 *
 * device_radix_sort.cuh
 *	  A stable sort of pairs on the CPU, see cuda_runtime.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EMULATED_DEVICE_RADIX_SORT_CUH
#define EMULATED_DEVICE_RADIX_SORT_CUH

#include <utility>
#include <vector>

#include "cuda_runtime.h"

namespace cub
{
struct DeviceRadixSort
{
	static cudaError_t SortPairs(void *work, size_t &work_bytes, const uint32_t *keys, uint32_t *keys_out,
								 const uint32_t *values, uint32_t *values_out, int count, int begin_bit, int end_bit,
								 cudaStream_t stream)
	{
		size_t		needed = (size_t) count * 16 + 256;

		if (work == NULL)
		{
			work_bytes = needed;
			return cudaSuccess;
		}
		if (work_bytes < needed)
			return cudaErrorInvalidValue;
		emulated_enqueue(stream, [=]
		{
			std::vector<std::pair<uint32_t, uint32_t>> pairs;
			uint64_t	mask = (((uint64_t) 1 << end_bit) - 1) >> begin_bit << begin_bit;

			memset(work, 0xA5, needed);
			for (int i = 0; i < count; i++)
				pairs.emplace_back(keys[i], values[i]);
			std::stable_sort(pairs.begin(), pairs.end(), [=](const auto &a, const auto &b)
			{
				return (a.first & mask) < (b.first & mask);
			});
			for (int i = 0; i < count; i++)
			{
				keys_out[i] = pairs[i].first;
				values_out[i] = pairs[i].second;
			}
		});
		return cudaSuccess;
	}
};
}

#endif							/* EMULATED_DEVICE_RADIX_SORT_CUH */
