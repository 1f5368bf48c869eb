/*-------------------------------------------------------------------------
 *
 * bench_vq_bandwidth.c
 *	  How close scoring comes to what memory can deliver.
 *
 * Pages of 8 kB full of blocks are scored in random order, as a search scores
 * lists, from a working set that fits the second level cache, the third, or
 * neither.  The same pages in the same order are also only read, 64 bytes at a
 * time and nothing done with them: that is the bandwidth.  One line per working
 * set, code and kernel table: bytes of codes and factors scored per second, ns
 * per code, and the share of the bandwidth.
 *
 *		./bench_vq_bandwidth [MB...]		working sets; default 0.25 8 512
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernels/vq_block.h"
#include "kernels/vq_rng.h"

#define PAGE_BYTES		8192
#define CONTENTS		24		/* of a page, up to its last 8 bytes */
#define PAGES_PER_RUN	20000
#define RUNS			5

typedef struct Code
{
	const char *name;
	VqBlockShape shape;
} Code;

static const Code codes[] = {
	{"150 x 4 bits", {.m = 150, .nbits = 4}},
	{"64 x 4 bits", {.m = 64, .nbits = 4}},
	{"20 x 8 bits", {.m = 20, .nbits = 8}},
};

static double
now_ns(void)
{
	return (double) clock() * (1e9 / CLOCKS_PER_SEC);
}

/* Blocks of 32 and one that fills the page, as an index has them; returns the slots of a page */
static size_t
fill_page(char *page, const VqBlockShape *shape, VqRng *rng)
{
	size_t		offset = CONTENTS;
	size_t		nslots = 0;

	for (size_t i = 0; i < PAGE_BYTES; i++)
		page[i] = (char) vq_rng_next(rng);
	for (;;)
	{
		size_t		capacity = VQ_BLOCK_LANES;
		VqBlockHeader *block = (VqBlockHeader *) (page + offset);

		while (capacity > 0 && offset + vq_block_bytes(shape, capacity) > PAGE_BYTES - 8)
			capacity -= VQ_CAPACITY_STEP;
		if (capacity == 0)
			break;
		vq_block_init(block, shape, 0, capacity);
		block->used = (uint8_t) capacity;
		nslots += capacity;
		offset += vq_block_bytes(shape, capacity);
	}
	memset(page + offset, 0, PAGE_BYTES - offset);
	return nslots;
}

static uint32_t
score_page(const char *page, const VqKernels *kernels, const VqBlockShape *shape, const uint8_t *lut)
{
	const VqBound bound = {1.0f, -2.0f, 0.01f, 0.5f};
	size_t		offset = CONTENTS;
	uint32_t	found = 0;

	while (((const VqBlockHeader *) (page + offset))->capacity > 0)
	{
		const VqBlockHeader *block = (const VqBlockHeader *) (page + offset);
		uint32_t	sums[VQ_BLOCK_LANES];
		float		low[VQ_BLOCK_LANES];

		vq_block_sums(kernels, block, shape, lut, sums);
		found += kernels->bound(vq_block_a(block, shape), vq_block_s(block, shape), vq_block_e(block, shape),
								sums, block->capacity, &bound, -1e30f, low);
		offset += vq_block_bytes(shape, block->capacity);
		if (offset + sizeof(VqBlockHeader) > PAGE_BYTES)
			break;
	}
	return found;
}

#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
read_page(const char *page)
{
	typedef uint64_t Line __attribute__((vector_size(64), aligned(8)));
	const Line *lines = (const Line *) page;
	Line		sums[4] = {{0}};
	uint64_t	sum = 0;

	for (size_t i = 0; i < PAGE_BYTES / sizeof(Line); i += 4)
		for (int j = 0; j < 4; j++)
			sums[j] += lines[i + j];
	sums[0] += sums[1] + sums[2] + sums[3];
	for (int j = 0; j < 8; j++)
		sum += sums[0][j];
	return sum;
}

/* Best time per page of several runs; kernels is NULL for reading only */
static double
measure(const char *pages, const uint32_t *order, const VqKernels *kernels,
		const VqBlockShape *shape, const uint8_t *lut)
{
	double		best = 1e30;
	volatile uint64_t sink = 0;

	for (int run = 0; run < RUNS; run++)
	{
		double		start = now_ns();

		for (size_t i = 0; i < PAGES_PER_RUN; i++)
		{
			const char *page = pages + (size_t) order[i] * PAGE_BYTES;

			sink += kernels ? score_page(page, kernels, shape, lut) : read_page(page);
		}
		if (now_ns() - start < best)
			best = now_ns() - start;
	}
	return best / PAGES_PER_RUN;
}

static void
bench_working_set(double megabytes, uint32_t *order, const uint8_t *lut)
{
	size_t		npages = (size_t) (megabytes * 1024 * 1024 / PAGE_BYTES);
	char	   *pages = mmap(NULL, npages * PAGE_BYTES, PROT_READ | PROT_WRITE,
							 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	VqRng		rng;

	if (npages == 0 || pages == MAP_FAILED)
	{
		fprintf(stderr, "no memory for %g MB\n", megabytes);
		exit(1);
	}
	madvise(pages, npages * PAGE_BYTES, MADV_HUGEPAGE);
	vq_rng_seed(&rng, 1);
	for (size_t i = 0; i < PAGES_PER_RUN; i++)
		order[i] = (uint32_t) vq_rng_below(&rng, npages);

	for (size_t c = 0; c < sizeof(codes) / sizeof(codes[0]); c++)
	{
		const VqBlockShape *shape = &codes[c].shape;
		size_t		nslots = 0;
		double		read_ns;

		for (size_t i = 0; i < npages; i++)
			nslots = fill_page(pages + i * PAGE_BYTES, shape, &rng);
		read_ns = measure(pages, order, NULL, shape, lut);
		for (size_t t = 0; vq_kernels_all[t] != NULL; t++)
		{
			double		ns;

			if (!vq_kernels_supported(vq_kernels_all[t]))
				continue;
			ns = measure(pages, order, vq_kernels_all[t], shape, lut);
			printf("%8g  %-13s %-8s %10.2f %9.1f %10.1f %8.0f%%\n", megabytes, codes[c].name,
				   vq_kernels_all[t]->name, ns / (double) nslots, PAGE_BYTES / ns,
				   PAGE_BYTES / read_ns, 100 * read_ns / ns);
		}
	}
	munmap(pages, npages * PAGE_BYTES);
}

int
main(int argc, char **argv)
{
	static const double sizes[] = {0.25, 8, 512};
	uint32_t   *order = malloc(PAGES_PER_RUN * sizeof(uint32_t));
	uint8_t    *lut = malloc(256 * 256);

	if (order == NULL || lut == NULL)
		return 1;
	for (size_t i = 0; i < 256 * 256; i++)
		lut[i] = (uint8_t) (i * 37);
	printf("%8s  %-13s %-8s %10s %9s %10s %9s\n",
		   "MB", "code", "table", "ns/code", "GB/s", "read GB/s", "of that");
	if (argc > 1)
		for (int i = 1; i < argc; i++)
			bench_working_set(atof(argv[i]), order, lut);
	else
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
			bench_working_set(sizes[i], order, lut);
	free(order);
	free(lut);
	return 0;
}
