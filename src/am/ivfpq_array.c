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

/* How many pages of chunks, or rows, before their turn to have one fetched into the caches */
#define PAGES_AHEAD		3
#define ROWS_AHEAD		4

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
	Buffer		buffer;
	PageHeader	header;

	if (blkno == InvalidBlockNumber)	/* which would make a new page */
		ivfpq_report_corrupted(index, IVFPQ_METAPAGE_BLKNO, "An array that is needed is missing.");
	buffer = ivfpq_read_buffer(index, blkno);
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

/* The block where a row begins */
static inline BlockNumber
row_block(const IvfpqMetaPageData *meta, const IvfpqRowLayout *layout, uint32 row)
{
	return meta->centroid_start + row / layout->rows_per_page * layout->parts;
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
			Buffer		buffer = lock_array_page(index, row_block(meta, &layout, row) + part,
												 (size_t) (in_page + count) * layout.stride);
			char	   *contents = ivfpq_page_contents(BufferGetPage(buffer));

			callback(row, count, part, contents + (size_t) in_page * layout.stride, arg);
			UnlockReleaseBuffer(buffer);
			CHECK_FOR_INTERRUPTS();
		}
		row += count;
	}
}

void
ivfpq_rows_visit(Relation index, const IvfpqMetaPageData *meta, const uint32 *rows, uint32 nrows,
				 IvfpqRowsCallback callback, void *arg)
{
	IvfpqRowLayout layout;
	uint32		ahead = 0;
	uint32		end;

	ivfpq_row_layout(meta->dim, meta->centroid_kind, &layout);
	for (uint32 first = 0; first < nrows; first = end)
	{
		BlockNumber blkno = row_block(meta, &layout, rows[first]);

		for (end = first + 1; end < nrows && row_block(meta, &layout, rows[end]) == blkno;)
			end++;
		for (uint32 part = 0; part < layout.parts; part++)
		{
			Buffer		buffer = lock_array_page(index, blkno + part,
												 (size_t) (rows[end - 1] % layout.rows_per_page + 1) * layout.stride);
			char	   *contents = ivfpq_page_contents(BufferGetPage(buffer));

			for (; ahead < Min(end + ROWS_AHEAD, nrows); ahead++)
				ivfpq_touch_page(index, row_block(meta, &layout, rows[ahead]),
								 IVFPQ_CONTENTS_OFFSET + rows[ahead] % layout.rows_per_page * layout.stride,
								 layout.stride);
			for (uint32 i = first, count; i < end; i += count)
			{
				for (count = 1; i + count < end && rows[i + count] == rows[i] + count;)
					count++;
				callback(i, count, part, contents + (size_t) (rows[i] % layout.rows_per_page) * layout.stride, arg);
			}
			UnlockReleaseBuffer(buffer);
			CHECK_FOR_INTERRUPTS();
		}
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

/* What runs of chunks have on one page after the other */
typedef struct ChunkPages
{
	const IvfpqRun *runs;
	uint32		nruns;
	uint32		per_page;
	uint32		run;			/* the present one */
	uint32		done;			/* of its chunks */
	IvfpqRun	part;			/* of it, on the present page */
} ChunkPages;

/* Go on to the next part; false after the last */
static bool
next_part(ChunkPages *pages)
{
	pages->done += pages->part.count;
	while (pages->run < pages->nruns && pages->done == pages->runs[pages->run].count)
	{
		pages->run++;
		pages->done = 0;
	}
	pages->part.count = 0;
	if (pages->run == pages->nruns)
		return false;
	pages->part.first = pages->runs[pages->run].first + pages->done;
	pages->part.count = Min(pages->per_page - pages->part.first % pages->per_page,
							pages->runs[pages->run].count - pages->done);
	return true;
}

void
ivfpq_chunks_walk(Relation index, BlockNumber start, size_t chunk_bytes,
				  const IvfpqRun *runs, uint32 nruns, IvfpqChunksCallback callback, void *arg)
{
	ChunkPages	pages = {.runs = runs, .nruns = nruns, .per_page = IVFPQ_PAGE_BYTES / chunk_bytes};
	ChunkPages	ahead = pages;
	int			nahead = 0;

	while (next_part(&pages))
	{
		uint32		in_page = pages.part.first % pages.per_page;
		Buffer		buffer = lock_array_page(index, start + pages.part.first / pages.per_page,
											 (in_page + pages.part.count) * chunk_bytes);

		for (; nahead <= PAGES_AHEAD && next_part(&ahead); nahead++)
			ivfpq_touch_page(index, start + ahead.part.first / ahead.per_page,
							 IVFPQ_CONTENTS_OFFSET + ahead.part.first % ahead.per_page * chunk_bytes,
							 ahead.part.count * chunk_bytes);
		nahead--;
		callback(pages.run, pages.part.first, pages.part.count,
				 ivfpq_page_contents(BufferGetPage(buffer)) + in_page * chunk_bytes, arg);
		UnlockReleaseBuffer(buffer);
		CHECK_FOR_INTERRUPTS();
	}
}
