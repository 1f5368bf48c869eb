/*-------------------------------------------------------------------------
 *
 * ivfpq_meta.c
 *	  The metapage, and what all pages have in common.
 *
 * What a page says is input: it is checked here before anything believes it.
 * The metapage is changed only when an empty index sees its first row, when a
 * VACUUM finds it empty again, and when a zero vector is left out, never by an
 * ordinary insert, so that it is no hot spot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/generic_xlog.h"
#include "am/ivfpq.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"

#include "base/vqpg_compat.h"

void
ivfpq_page_init(Page page, IvfpqPageKind kind)
{
	PageInit(page, BLCKSZ, sizeof(IvfpqPageOpaqueData));
	ivfpq_page_opaque(page)->kind = kind;
	ivfpq_page_opaque(page)->page_id = IVFPQ_PAGE_ID;
}

void
ivfpq_meta_fill(Page page, const IvfpqMetaPageData *meta)
{
	memcpy(ivfpq_page_meta(page), meta, sizeof(IvfpqMetaPageData));
	((PageHeader) page)->pd_lower = IVFPQ_CONTENTS_OFFSET + sizeof(IvfpqMetaPageData);
}

void
ivfpq_report_corrupted(Relation index, BlockNumber blkno, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("index \"%s\" contains corrupted page at block %u",
					RelationGetRelationName(index), blkno),
			 errdetail("%s", detail),
			 errhint("Please REINDEX it.")));
}

void
ivfpq_page_check(Relation index, Buffer buffer, IvfpqPageKind kind)
{
	Page		page = BufferGetPage(buffer);
	PageHeader	header = (PageHeader) page;
	BlockNumber blkno = BufferGetBlockNumber(buffer);

	if (PageIsNew(page))
		ivfpq_report_corrupted(index, blkno, "The page is all zeroes.");
	if (PageGetSpecialSize(page) != MAXALIGN(sizeof(IvfpqPageOpaqueData)) ||
		ivfpq_page_opaque(page)->page_id != IVFPQ_PAGE_ID)
		ivfpq_report_corrupted(index, blkno, "The page is not one of an ivfpq index.");
	if (ivfpq_page_opaque(page)->kind != kind)
		ivfpq_report_corrupted(index, blkno,
							   psprintf("The page is of kind %u, but kind %u belongs here.",
										ivfpq_page_opaque(page)->kind, kind));
	if (header->pd_lower < IVFPQ_CONTENTS_OFFSET || header->pd_lower > header->pd_upper ||
		header->pd_upper != header->pd_special || (kind == IVFPQ_PAGE_LIST && header->pd_lower % 4 != 0))
		ivfpq_report_corrupted(index, blkno,
							   psprintf("Contents end at %u, free space at %u, special space starts at %u.",
										header->pd_lower, header->pd_upper, header->pd_special));
}

/* Text that says what is wrong with a metapage, or NULL */
static const char *
meta_complaint(const IvfpqMetaPageData *meta, BlockNumber nblocks)
{
	bool		coded = meta->codec == IVFPQ_CODEC_PQ;
	VqBlockShape shape;
	VqBlockShape coarse_shape = {.m = meta->coarse_m, .nbits = IVFPQ_COARSE_NBITS};
	bool		is_projected = ivfpq_is_projected(meta);
	VqCodec		codec;

	if (meta->metric < VQ_METRIC_L2 || meta->metric > VQ_METRIC_COSINE)
		return psprintf("Metric %u is unknown.", meta->metric);
	if (meta->codec != IVFPQ_CODEC_NONE && !coded)
		return psprintf("Codec %u is unknown.", meta->codec);
	if (meta->dim > VQ_MAX_DIM || (coded && meta->dim < 1))
		return psprintf("Dimension is %u.", meta->dim);
	if (meta->nlists < 1 || meta->nlists > IVFPQ_MAX_LISTS || (!coded && meta->nlists != 1))
		return psprintf("Number of lists is %u.", meta->nlists);
	if (meta->directory_start == 0 || meta->directory_start >= nblocks ||
		meta->list_start <= meta->directory_start || meta->list_start > nblocks ||
		meta->list_start - meta->directory_start !=
		(meta->nlists + IVFPQ_DIR_ENTRIES_PER_PAGE - 1) / IVFPQ_DIR_ENTRIES_PER_PAGE)
		return psprintf("Directory starts at block %u and lists at %u of %u.",
						meta->directory_start, meta->list_start, nblocks);
	for (int i = 0; i < IVFPQ_NRECALLS; i++)
		if (meta->nprobes[i] < (i > 0 ? meta->nprobes[i - 1] : 1) || meta->nprobes[i] > meta->nlists)
			return psprintf("Searches of %u lists are to read %u.", meta->nlists, meta->nprobes[i]);
	if (meta->spread.rank > meta->nlists || (meta->spread.rank > 0 && (!isfinite(meta->spread.mean) ||
																	   !(meta->spread.power > 0) || isinf(meta->spread.power))))
		return psprintf("Searches of %u lists go by the distance of list %u, a mean of %g and a power of %g.",
						meta->nlists, meta->spread.rank, meta->spread.mean, meta->spread.power);
	if (meta->nattributes > VQ_MAX_ATTRIBUTES || meta->wide_attributes >> meta->nattributes != 0)
		return psprintf("There are %u attributes, of widths %u.", meta->nattributes, meta->wide_attributes);
	if (meta->has_chunk_tids > coded)
		return psprintf("Entries know places of vectors: %u.", meta->has_chunk_tids);
	shape = ivfpq_block_shape(meta);
	if (!coded)
		return meta->m == 0 && meta->nbits == 0 && meta->coarse_m == 0 && meta->ngroups == 0 && !is_projected ?
			NULL : "Code parameters are set without a codec.";
	if (vq_codec_init(&codec, meta->dim, meta->m, meta->nbits, is_projected) != VQ_OK ||
		vq_block_bytes(&shape, VQ_BLOCK_LANES / 2) > IVFPQ_PAGE_BYTES)
		return psprintf("Codes have %u sub-quantisers of %u bits for %u dimensions.",
						meta->m, meta->nbits, meta->dim);
	if (meta->rotation > VQ_ROTATION_HADAMARD)
		return psprintf("Rotation %u is unknown.", meta->rotation);
	if (meta->centroid_kind != IVFPQ_CENTROID_I8 && meta->centroid_kind != IVFPQ_CENTROID_F32)
		return psprintf("Centroids are of kind %u.", meta->centroid_kind);
	if (!(meta->scale > 0) || isinf(meta->scale))
		return psprintf("Scale is %g.", meta->scale);
	if (meta->ngroups > 0 &&
		(meta->ngroups > Min(meta->nlists, PG_UINT16_MAX) || meta->group_start <= meta->centroid_start ||
		 meta->codebook_start <= meta->group_start))
		return psprintf("There are %u groups of lists, which start at block %u.", meta->ngroups, meta->group_start);
	if (meta->coarse_m > 0 &&
		(vq_codec_init(&codec, meta->dim, meta->coarse_m, IVFPQ_COARSE_NBITS, false) != VQ_OK ||
		 vq_block_bytes(&coarse_shape, VQ_BLOCK_LANES) > IVFPQ_PAGE_BYTES ||
		 meta->ngroups < 1 ||
		 meta->coarse_codebook_start <= meta->group_start ||
		 meta->coarse_code_start <= meta->coarse_codebook_start ||
		 meta->codebook_start <= meta->coarse_code_start))
		return psprintf("Centroid codes have %u sub-quantisers and %u groups; groups, codebook and codes start at blocks %u, %u and %u.",
						meta->coarse_m, meta->ngroups, meta->group_start,
						meta->coarse_codebook_start, meta->coarse_code_start);
	if (meta->mean_start == 0 || meta->centroid_start <= meta->mean_start ||
		meta->codebook_start <= meta->centroid_start ||
		meta->directory_start <= meta->codebook_start)
		return psprintf("Mean, centroids and codebook start at blocks %u, %u and %u.",
						meta->mean_start, meta->centroid_start, meta->codebook_start);
	if (is_projected &&
		(meta->projection_start <= meta->centroid_start ||
		 (meta->ngroups > 0 && meta->projection_start <= meta->group_start) ||
		 (meta->coarse_m > 0 && meta->projection_start <= meta->coarse_code_start) ||
		 meta->projection_start >= meta->codebook_start))
		return psprintf("The projection starts at block %u, and the codebook at %u.",
						meta->projection_start, meta->codebook_start);
	if (!(meta->error_scale > 0) || isinf(meta->error_scale))
		return psprintf("Errors are multiplied with %g.", meta->error_scale);
	return NULL;
}

void
ivfpq_meta_read(Relation index, IvfpqMetaPageData *meta)
{
	Buffer		buffer = ReadBuffer(index, IVFPQ_METAPAGE_BLKNO);
	bool		is_whole;		/* a change would lose what is behind the end */
	const char *complaint;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	ivfpq_page_check(index, buffer, IVFPQ_PAGE_META);
	memcpy(meta, ivfpq_page_meta(BufferGetPage(buffer)), sizeof(IvfpqMetaPageData));
	is_whole = ((PageHeader) BufferGetPage(buffer))->pd_lower >= IVFPQ_CONTENTS_OFFSET + sizeof(IvfpqMetaPageData);
	UnlockReleaseBuffer(buffer);

	if (meta->magic != IVFPQ_MAGIC)
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\" is not an ivfpq index", RelationGetRelationName(index)),
				 errdetail("Its metapage has magic 0x%08X, not 0x%08X.", meta->magic, IVFPQ_MAGIC)));
	if (meta->format_version != IVFPQ_FORMAT_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("index \"%s\" has an unsupported format", RelationGetRelationName(index)),
				 errdetail("It has format version %u, this library reads version %u.",
						   meta->format_version, IVFPQ_FORMAT_VERSION),
				 errhint("REINDEX the index, or install the version of vqpg that wrote it.")));

	complaint = is_whole ? meta_complaint(meta, RelationGetNumberOfBlocks(index)) : "The metapage ends too early.";
	if (complaint)
		ivfpq_report_corrupted(index, IVFPQ_METAPAGE_BLKNO, complaint);
}

uint32
ivfpq_meta_set_dim(Relation index, uint32 dim)
{
	Buffer		buffer = ReadBuffer(index, IVFPQ_METAPAGE_BLKNO);
	uint32		dim_in_force;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	ivfpq_page_check(index, buffer, IVFPQ_PAGE_META);
	dim_in_force = ivfpq_page_meta(BufferGetPage(buffer))->dim;
	if (dim_in_force == 0)
	{
		GenericXLogState *state = GenericXLogStart(index);
		Page		page = GenericXLogRegisterBuffer(state, buffer, 0);

		ivfpq_page_meta(page)->dim = dim;
		GenericXLogFinish(state);
		dim_in_force = dim;
	}
	UnlockReleaseBuffer(buffer);
	return dim_in_force;
}

/* A change of the metapage, as one WAL record */
typedef struct MetaChange
{
	Buffer		buffer;
	GenericXLogState *state;
	IvfpqMetaPageData *meta;	/* to be changed */
} MetaChange;

static void
begin_change(Relation index, MetaChange *change)
{
	change->buffer = ReadBuffer(index, IVFPQ_METAPAGE_BLKNO);
	LockBuffer(change->buffer, BUFFER_LOCK_EXCLUSIVE);
	ivfpq_page_check(index, change->buffer, IVFPQ_PAGE_META);
	change->state = GenericXLogStart(index);
	change->meta = ivfpq_page_meta(GenericXLogRegisterBuffer(change->state, change->buffer, 0));
}

static void
end_change(MetaChange *change)
{
	GenericXLogFinish(change->state);
	UnlockReleaseBuffer(change->buffer);
}

void
ivfpq_meta_forget_dim(Relation index)
{
	MetaChange	change;

	begin_change(index, &change);
	change.meta->dim = 0;
	end_change(&change);
}

void
ivfpq_meta_count_zero_vector(Relation index)
{
	MetaChange	change;

	begin_change(index, &change);
	change.meta->zero_vectors++;
	end_change(&change);
}

Buffer
ivfpq_extend(Relation index, ForkNumber fork)
{
#if PG_VERSION_NUM >= 160000
	return ExtendBufferedRel(BMR_REL(index), fork, NULL, EB_LOCK_FIRST);
#else
	bool		need_lock = !RELATION_IS_LOCAL(index);
	Buffer		buffer;

	if (need_lock)
		LockRelationForExtension(index, ExclusiveLock);
	buffer = ReadBufferExtended(index, fork, P_NEW, RBM_ZERO_AND_LOCK, NULL);
	if (need_lock)
		UnlockRelationForExtension(index, ExclusiveLock);
	return buffer;
#endif
}
