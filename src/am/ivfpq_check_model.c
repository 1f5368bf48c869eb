/*-------------------------------------------------------------------------
 *
 * ivfpq_check_model.c
 *	  Proof that the arrays of an index are what they should be (ivfpq_check.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq.h"

typedef struct ModelCheck
{
	Relation	index;
	const IvfpqMetaPageData *meta;
	uint32	   *group_lists;	/* [ngroups + 1], as ivfpq_groups_read gives them */
	uint32	   *group_blocks;
} ModelCheck;

static BlockNumber
array_pages(size_t nbytes)
{
	return (nbytes + IVFPQ_PAGE_BYTES - 1) / IVFPQ_PAGE_BYTES;
}

/* The codes of rows, about which the metapage was found to be right */
static VqCodec
row_codec(const IvfpqMetaPageData *meta)
{
	VqCodec		codec;

	if (vq_codec_init(&codec, meta->dim, meta->m, meta->nbits, ivfpq_is_projected(meta)) != VQ_OK)
		elog(ERROR, "unexpected code parameters: %u dimensions, m %u, nbits %u", meta->dim, meta->m, meta->nbits);
	return codec;
}

/* The same of centroids */
static VqCodec
centroid_codec(const IvfpqMetaPageData *meta)
{
	VqCodec		codec;

	if (vq_codec_init(&codec, meta->dim, meta->coarse_m, IVFPQ_COARSE_NBITS, false) != VQ_OK)
		elog(ERROR, "unexpected centroid codes: %u dimensions, m %u", meta->dim, meta->coarse_m);
	return codec;
}

static size_t
codebook_floats(VqCodec codec)
{
	return vq_pq_codebook_floats(&codec.pq);
}

/* Meta checks ranges only; here all regions must touch */
static void
check_regions(ModelCheck *check)
{
	const IvfpqMetaPageData *meta = check->meta;
	BlockNumber expected = IVFPQ_METAPAGE_BLKNO + 1;
	IvfpqRowLayout layout;

	if (meta->codec == IVFPQ_CODEC_NONE)
	{
		if (meta->mean_start != InvalidBlockNumber || meta->codebook_start != InvalidBlockNumber ||
			meta->centroid_start != InvalidBlockNumber || ivfpq_is_projected(meta))
			ivfpq_report_corrupted(check->index, IVFPQ_METAPAGE_BLKNO,
								   "The index has no codes, but a mean, codebook, projection or centroids.");
	}
	else
	{
		ivfpq_row_layout(meta->dim, meta->centroid_kind, &layout);
		if (meta->mean_start != expected)
			ivfpq_report_corrupted(check->index, IVFPQ_METAPAGE_BLKNO,
								   psprintf("The mean starts at block %u, not %u.", meta->mean_start, expected));
		expected += array_pages(meta->dim * sizeof(float));
		if (meta->centroid_start != expected)
			ivfpq_report_corrupted(check->index, IVFPQ_METAPAGE_BLKNO,
								   psprintf("The centroids start at block %u, not %u.",
											meta->centroid_start, expected));
		expected += ivfpq_row_pages(&layout, meta->nlists + meta->ngroups);
		if (meta->ngroups > 0)
		{
			if (meta->group_start != expected)
				ivfpq_report_corrupted(check->index, IVFPQ_METAPAGE_BLKNO,
									   psprintf("The groups of lists start at block %u, not %u.",
												meta->group_start, expected));
			expected += array_pages((meta->ngroups + 1) * sizeof(uint32));
			check->group_lists = palloc((meta->ngroups + 1) * sizeof(uint32));
			check->group_blocks = palloc((meta->ngroups + 1) * sizeof(uint32));
			ivfpq_groups_read(check->index, meta, check->group_lists, check->group_blocks);
		}
		if (meta->coarse_m > 0)
		{
			VqBlockShape shape = {.m = meta->coarse_m, .nbits = IVFPQ_COARSE_NBITS};
			uint32		per_page = IVFPQ_PAGE_BYTES / vq_block_bytes(&shape, VQ_BLOCK_LANES);

			if (meta->coarse_codebook_start != expected)
				ivfpq_report_corrupted(check->index, IVFPQ_METAPAGE_BLKNO,
									   psprintf("The codebook of centroids starts at block %u, not %u.",
												meta->coarse_codebook_start, expected));
			expected += array_pages(codebook_floats(centroid_codec(meta)) * sizeof(float));
			if (meta->coarse_code_start != expected)
				ivfpq_report_corrupted(check->index, IVFPQ_METAPAGE_BLKNO,
									   psprintf("The codes of centroids start at block %u, not %u.",
												meta->coarse_code_start, expected));
			expected += (check->group_blocks[meta->ngroups] + per_page - 1) / per_page;
		}
		if (ivfpq_is_projected(meta))
		{
			if (meta->projection_start != expected)
				ivfpq_report_corrupted(check->index, IVFPQ_METAPAGE_BLKNO,
									   psprintf("The projection starts at block %u, not %u.",
												meta->projection_start, expected));
			expected += array_pages(vq_project_bytes(meta->dim, row_codec(meta).pq.dim));
		}
		if (meta->codebook_start != expected)
			ivfpq_report_corrupted(check->index, IVFPQ_METAPAGE_BLKNO,
								   psprintf("The codebook starts at block %u, not %u.",
											meta->codebook_start, expected));
		expected += array_pages(codebook_floats(row_codec(meta)) * sizeof(float));
	}
	if (meta->directory_start != expected)
		ivfpq_report_corrupted(check->index, IVFPQ_METAPAGE_BLKNO,
							   psprintf("The directory starts at block %u, not %u.",
										meta->directory_start, expected));
}

static void
check_floats(ModelCheck *check, BlockNumber start, size_t count, const char *what)
{
	float	   *values = MemoryContextAllocHuge(CurrentMemoryContext, count * sizeof(float));

	ivfpq_array_read(check->index, start, count * sizeof(float), values);
	for (size_t i = 0; i < count; i++)
	{
		if (!isfinite(values[i]))
			ivfpq_report_corrupted(check->index, start + i * sizeof(float) / IVFPQ_PAGE_BYTES,
								   psprintf("Value %zu of the %s is not a finite number.", i, what));
	}
	pfree(values);
}

/* What the walk over centroid rows found; it may not fail while it holds a lock */
typedef struct RowFindings
{
	const IvfpqMetaPageData *meta;
	IvfpqRowLayout layout;
	int64		bad_row;		/* -1 if none */
} RowFindings;

static void
check_rows(uint32 first_row, uint32 nrows, uint32 part, const char *rows, void *arg)
{
	RowFindings *findings = arg;
	uint32		offset = part * findings->layout.part_dims;
	uint32		count = Min(findings->layout.part_dims, findings->meta->dim - offset);

	for (uint32 i = 0; i < nrows; i++)
	{
		const char *row = rows + (size_t) i * findings->layout.stride;
		const VqRowHeader *header = (const VqRowHeader *) row;
		const float *values = (const float *) (row + sizeof(VqRowHeader));
		bool		is_sound = isfinite(header->scale) && header->scale >= 0 &&
			isfinite(header->norm_sq) && header->norm_sq >= 0;

		if (findings->meta->centroid_kind == IVFPQ_CENTROID_F32)
		{
			for (uint32 j = 0; j < count; j++)
				is_sound &= isfinite(values[j]) != 0;
		}
		if (!is_sound && findings->bad_row < 0)
			findings->bad_row = first_row + i;
	}
}

/* What the walk over centroid codes found, under the same rule */
typedef struct CodeFindings
{
	const ModelCheck *check;
	uint32		group;			/* of the next block */
	VqBlockShape shape;
	int64		bad_group;		/* -1 if none */
} CodeFindings;

static void
check_codes(uint32 run, uint32 first_block, uint32 nblocks, const char *blocks, void *arg)
{
	CodeFindings *findings = arg;
	const uint32 *group_lists = findings->check->group_lists;
	const uint32 *group_blocks = findings->check->group_blocks;
	size_t		block_bytes = vq_block_bytes(&findings->shape, VQ_BLOCK_LANES);

	for (uint32 i = 0; i < nblocks && findings->bad_group < 0; i++)
	{
		char	   *block = unconstify(char *, blocks) + i * block_bytes;
		const VqBlockHeader *header = (const VqBlockHeader *) block;
		uint32		first_list;
		const char *reason;
		bool		is_sound;

		while (group_blocks[findings->group + 1] <= first_block + i)
			findings->group++;
		first_list = group_lists[findings->group] +
			(first_block + i - group_blocks[findings->group]) * VQ_BLOCK_LANES;
		is_sound = vq_block_validate(block, block_bytes, &findings->shape, 1, &reason) == VQ_OK &&
			header->capacity == VQ_BLOCK_LANES &&
			header->used == Min(VQ_BLOCK_LANES, group_lists[findings->group + 1] - first_list);

		for (uint32 slot = 0; is_sound && slot < header->used; slot++)
		{
			ItemPointerData tid;

			memcpy(&tid, vq_block_tid(block, &findings->shape, slot), VQ_TID_BYTES);
			is_sound = ItemPointerGetBlockNumberNoCheck(&tid) == first_list + slot &&
				ItemPointerGetOffsetNumberNoCheck(&tid) == FirstOffsetNumber;
		}
		if (!is_sound)
			findings->bad_group = findings->group;
	}
}

/* Codes of centroids, of an index that has them */
static void
check_coarse(ModelCheck *check)
{
	const IvfpqMetaPageData *meta = check->meta;
	CodeFindings findings = {
		.check = check,
		.shape = {meta->coarse_m, IVFPQ_COARSE_NBITS},
		.bad_group = -1
	};
	size_t		block_bytes = vq_block_bytes(&findings.shape, VQ_BLOCK_LANES);
	IvfpqRun	all = {.first = 0, .count = check->group_blocks[meta->ngroups]};

	check_floats(check, meta->coarse_codebook_start,
				 codebook_floats(centroid_codec(meta)), "codebook of centroids");
	ivfpq_chunks_walk(check->index, meta->coarse_code_start, block_bytes, &all, 1, check_codes, &findings);
	if (findings.bad_group >= 0)
		ivfpq_report_corrupted(check->index,
							   meta->coarse_code_start +
							   check->group_blocks[findings.bad_group] / (IVFPQ_PAGE_BYTES / block_bytes),
							   psprintf("The codes of the centroids of group " INT64_FORMAT " are not those of lists %u to %u.",
										findings.bad_group, check->group_lists[findings.bad_group],
										check->group_lists[findings.bad_group + 1] - 1));
}

/* Bytes of directions may be anything, but not their steps */
static void
check_projection(ModelCheck *check)
{
	VqCodec		codec = row_codec(check->meta);
	void	   *image = palloc(vq_project_bytes(codec.dim, codec.pq.dim));

	ivfpq_projection_read(check->index, check->meta, &codec, image);
	pfree(image);
}

void
ivfpq_check_model(Relation index, const IvfpqMetaPageData *meta)
{
	ModelCheck	check = {.index = index, .meta = meta};
	RowFindings findings = {.meta = meta, .bad_row = -1};

	check_regions(&check);
	if (meta->codec == IVFPQ_CODEC_NONE)
		return;
	check_floats(&check, meta->mean_start, meta->dim, "mean");
	check_floats(&check, meta->codebook_start, codebook_floats(row_codec(meta)), "codebook");
	if (ivfpq_is_projected(meta))
		check_projection(&check);
	if (meta->coarse_m > 0)
		check_coarse(&check);

	ivfpq_row_layout(meta->dim, meta->centroid_kind, &findings.layout);
	ivfpq_rows_walk(index, meta, 0, meta->nlists + meta->ngroups, check_rows, &findings);
	if (findings.bad_row >= 0)
		ivfpq_report_corrupted(index,
							   meta->centroid_start +
							   findings.bad_row / findings.layout.rows_per_page * findings.layout.parts,
							   findings.bad_row < meta->nlists ?
							   psprintf("The centroid of list " INT64_FORMAT " is not a finite vector.",
										findings.bad_row) :
							   psprintf("The centre of group " INT64_FORMAT " is not a finite vector.",
										findings.bad_row - meta->nlists));
}
