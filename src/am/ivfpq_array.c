/*-------------------------------------------------------------------------
 *
 * ivfpq_array.c
 *	  Arrays longer than a page: the mean and the codebook as ranges of bytes,
 *	  the centroids as rows.
 *
 * Rows are read in place, under a share lock of their page, so that no backend
 * needs a copy of all centroids.  A row that fits a page is never split; one
 * that does not takes pages of its own, each with the row's header and
 * part_dims of its values.
 *
 * These pages are written by the build through shared buffers and logged by
 * ivfpq_writer_finish together with everything else; nothing changes them
 * afterwards.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "am/ivfpq.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"

/* How many pages of chunks before their turn to have one fetched into the caches */
#define PAGES_AHEAD		3

/* Append a page of this kind with these contents */
static BlockNumber
append_array_page(Relation index, ForkNumber fork, const void *bytes, size_t nbytes)
{
	Buffer		buffer = ivfpq_extend(index, fork);
	BlockNumber blkno = BufferGetBlockNumber(buffer);
	Page		page = BufferGetPage(buffer);

	ivfpq_page_init(page, IVFPQ_PAGE_ARRAY);
	memcpy(ivfpq_page_contents(page), bytes, nbytes);
	((PageHeader) page)->pd_lower = IVFPQ_CONTENTS_OFFSET + nbytes;
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	return blkno;
}

BlockNumber
ivfpq_array_write(Relation index, ForkNumber fork, const void *bytes, size_t nbytes)
{
	BlockNumber start = InvalidBlockNumber;
	size_t		done = 0;

	while (done < nbytes)
	{
		size_t		part = Min(nbytes - done, IVFPQ_PAGE_BYTES);
		BlockNumber blkno = append_array_page(index, fork, (const char *) bytes + done, part);

		if (done == 0)
			start = blkno;
		done += part;
	}
	return start;
}

/* Share-lock a page of an array and check that it holds nbytes */
static Buffer
lock_array_page(Relation index, BlockNumber blkno, size_t nbytes)
{
	Buffer		buffer = ivfpq_read_buffer(index, blkno);
	PageHeader	header;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	ivfpq_page_check(index, buffer, IVFPQ_PAGE_ARRAY);
	header = (PageHeader) BufferGetPage(buffer);
	if (header->pd_lower < IVFPQ_CONTENTS_OFFSET + nbytes)
		ivfpq_report_corrupted(index, blkno,
							   psprintf("The page holds %zu bytes, but %zu are needed.",
										(size_t) (header->pd_lower - IVFPQ_CONTENTS_OFFSET), nbytes));
	return buffer;
}

void
ivfpq_array_read(Relation index, BlockNumber start, size_t nbytes, void *bytes)
{
	size_t		done = 0;
	BlockNumber blkno = start;

	while (done < nbytes)
	{
		size_t		part = Min(nbytes - done, IVFPQ_PAGE_BYTES);
		Buffer		buffer = lock_array_page(index, blkno++, part);

		memcpy((char *) bytes + done, ivfpq_page_contents(BufferGetPage(buffer)), part);
		UnlockReleaseBuffer(buffer);
		done += part;
		CHECK_FOR_INTERRUPTS();
	}
}

void
ivfpq_row_layout(uint32 dim, uint8 centroid_kind, IvfpqRowLayout *layout)
{
	uint32		value_bytes = centroid_kind == IVFPQ_CENTROID_I8 ? 1 : sizeof(float);
	uint32		values_per_page = ((IVFPQ_PAGE_BYTES - sizeof(VqRowHeader)) / value_bytes) & ~3U;

	layout->part_dims = Min(dim, values_per_page);
	layout->parts = (dim + values_per_page - 1) / values_per_page;
	layout->stride = sizeof(VqRowHeader) + TYPEALIGN(4, layout->part_dims * value_bytes);
	layout->rows_per_page = layout->parts > 1 ? 1 : IVFPQ_PAGE_BYTES / layout->stride;
}

BlockNumber
ivfpq_row_pages(const IvfpqRowLayout *layout, uint32 nrows)
{
	return (nrows + layout->rows_per_page - 1) / layout->rows_per_page * layout->parts;
}

/* Round values in place to what their row can say; returns the row's head */
static VqRowHeader
round_row(float *values, uint32 dim, uint8 centroid_kind)
{
	VqRowHeader header = {1.0f, 0.0f};
	double		norm_sq = 0.0;

	if (centroid_kind == IVFPQ_CENTROID_I8)
	{
		float		largest = 0.0f;

		for (uint32 i = 0; i < dim; i++)
			largest = Max(largest, fabsf(values[i]));
		header.scale = largest / 127.0f;
		for (uint32 i = 0; i < dim; i++)
			values[i] = header.scale > 0 ? header.scale * rintf(values[i] / header.scale) : 0.0f;
	}
	for (uint32 i = 0; i < dim; i++)
		norm_sq += (double) values[i] * values[i];
	header.norm_sq = (float) norm_sq;
	return header;
}

/* Bytes of one part of a rounded row */
static void
fill_row(char *row, const VqRowHeader *header, const float *values, uint32 dim, uint8 centroid_kind)
{
	memcpy(row, header, sizeof(VqRowHeader));
	row += sizeof(VqRowHeader);
	if (centroid_kind == IVFPQ_CENTROID_F32)
		memcpy(row, values, dim * sizeof(float));
	else
		for (uint32 i = 0; i < dim; i++)
			((int8 *) row)[i] = header->scale > 0 ? (int8) rintf(values[i] / header->scale) : 0;
}

BlockNumber
ivfpq_rows_write(Relation index, ForkNumber fork, uint32 dim, uint8 centroid_kind,
				 float *centroids, uint32 nrows)
{
	IvfpqRowLayout layout;
	BlockNumber start = InvalidBlockNumber;
	char	   *contents = palloc0(IVFPQ_PAGE_BYTES);
	VqRowHeader *headers;

	ivfpq_row_layout(dim, centroid_kind, &layout);
	headers = palloc(layout.rows_per_page * sizeof(VqRowHeader));
	for (uint32 first = 0; first < nrows; first += layout.rows_per_page)
	{
		uint32		count = Min(layout.rows_per_page, nrows - first);

		for (uint32 i = 0; i < count; i++)
			headers[i] = round_row(centroids + (size_t) (first + i) * dim, dim, centroid_kind);

		for (uint32 part = 0; part < layout.parts; part++)
		{
			uint32		offset = part * layout.part_dims;
			BlockNumber blkno;

			for (uint32 i = 0; i < count; i++)
				fill_row(contents + (size_t) i * layout.stride, &headers[i],
						 centroids + (size_t) (first + i) * dim + offset,
						 Min(layout.part_dims, dim - offset), centroid_kind);
			blkno = append_array_page(index, fork, contents, (size_t) count * layout.stride);
			if (start == InvalidBlockNumber)
				start = blkno;
		}
		CHECK_FOR_INTERRUPTS();
	}
	pfree(headers);
	pfree(contents);
	return start;
}

void
ivfpq_rows_touch(Relation index, const IvfpqMetaPageData *meta, uint32 row)
{
	IvfpqRowLayout layout;

	ivfpq_row_layout(meta->dim, meta->centroid_kind, &layout);
	ivfpq_touch_page(index, meta->centroid_start + row / layout.rows_per_page * layout.parts,
					 IVFPQ_CONTENTS_OFFSET + row % layout.rows_per_page * layout.stride, layout.stride);
}

void
ivfpq_rows_walk(Relation index, const IvfpqMetaPageData *meta, uint32 first_row, uint32 nrows,
				IvfpqRowsCallback callback, void *arg)
{
	IvfpqRowLayout layout;
	uint32		row = first_row;
	uint32		end = first_row + nrows;

	ivfpq_row_layout(meta->dim, meta->centroid_kind, &layout);
	while (row < end)
	{
		uint32		in_page = row % layout.rows_per_page;
		uint32		count = Min(layout.rows_per_page - in_page, end - row);

		for (uint32 part = 0; part < layout.parts; part++)
		{
			BlockNumber blkno = meta->centroid_start + row / layout.rows_per_page * layout.parts + part;
			Buffer		buffer = lock_array_page(index, blkno, (size_t) (in_page + count) * layout.stride);
			char	   *contents = ivfpq_page_contents(BufferGetPage(buffer));

			callback(row, count, part, contents + (size_t) in_page * layout.stride, arg);
			UnlockReleaseBuffer(buffer);
			CHECK_FOR_INTERRUPTS();
		}
		row += count;
	}
}

BlockNumber
ivfpq_chunks_write(Relation index, ForkNumber fork, const char *chunks, size_t chunk_bytes, uint32 nchunks)
{
	uint32		per_page = IVFPQ_PAGE_BYTES / chunk_bytes;
	BlockNumber start = InvalidBlockNumber;

	for (uint32 first = 0; first < nchunks; first += per_page)
	{
		BlockNumber blkno = append_array_page(index, fork, chunks + first * chunk_bytes,
											  Min(per_page, nchunks - first) * chunk_bytes);

		if (first == 0)
			start = blkno;
		CHECK_FOR_INTERRUPTS();
	}
	return start;
}

/* The chunks of a region, page by page */
typedef struct ChunkPages
{
	Relation	index;
	BlockNumber start;
	size_t		chunk_bytes;
	uint32		nchunks;
	uint32		per_page;
	const uint32 *wanted;		/* [nchunks], or NULL */
} ChunkPages;

/* First chunk of the first page from that of chunk first on which has any that is wanted; nchunks if none has */
static uint32
next_wanted(const ChunkPages *pages, uint32 first)
{
	uint32		chunk = first;

	if (pages->wanted)
		while (chunk < pages->nchunks && pages->wanted[chunk] == 0)
			chunk++;
	return chunk < pages->nchunks ? chunk / pages->per_page * pages->per_page : pages->nchunks;
}

/* Touch the wanted chunks of the page that starts with chunk first */
static void
touch_chunks(const ChunkPages *pages, uint32 first)
{
	const char *page;

	if (first >= pages->nchunks)
		return;
	page = ivfpq_guess_page(pages->index, pages->start + first / pages->per_page);
	if (page == NULL)
		return;
	for (uint32 i = 0; i < Min(pages->per_page, pages->nchunks - first); i++)
		if (pages->wanted == NULL || pages->wanted[first + i] != 0)
			ivfpq_touch(page + IVFPQ_CONTENTS_OFFSET + i * pages->chunk_bytes, pages->chunk_bytes);
}

void
ivfpq_chunks_walk(Relation index, BlockNumber start, size_t chunk_bytes, uint32 nchunks,
				  const uint32 *wanted, IvfpqChunksCallback callback, void *arg)
{
	ChunkPages	pages = {
		.index = index, .start = start, .chunk_bytes = chunk_bytes, .nchunks = nchunks,
		.per_page = IVFPQ_PAGE_BYTES / chunk_bytes, .wanted = wanted
	};
	uint32		first = next_wanted(&pages, 0);
	uint32		ahead = first;

	for (int i = 1; i < PAGES_AHEAD; i++)
	{
		ahead = next_wanted(&pages, ahead + pages.per_page);
		touch_chunks(&pages, ahead);
	}
	while (first < nchunks)
	{
		uint32		count = Min(pages.per_page, nchunks - first);
		Buffer		buffer = lock_array_page(index, start + first / pages.per_page, count * chunk_bytes);

		ahead = next_wanted(&pages, ahead + pages.per_page);
		touch_chunks(&pages, ahead);
		callback(first, count, ivfpq_page_contents(BufferGetPage(buffer)), arg);
		UnlockReleaseBuffer(buffer);
		CHECK_FOR_INTERRUPTS();
		first = next_wanted(&pages, first + pages.per_page);
	}
}
