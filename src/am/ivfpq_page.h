/*-------------------------------------------------------------------------
 *
 * ivfpq_page.h
 *	  What is in the blocks of an ivfpq index.
 *
 *		block 0					metapage
 *		mean_start ..			float[dim], the mean of the training sample
 *		centroid_start ..		one row per list, then one per group, the centre of
 *								its lists: VqRowHeader and its values
 *		group_start				uint32[ngroups + 1], the first list of each group
 *		coarse_codebook_start	float[coarse_m][dsub][16]
 *		coarse_code_start		centroids as codes against the centre of their group:
 *								full blocks (vq_block.h), each of one group, whose
 *								TIDs are (number of the list, 1)
 *		projection_start ..		directions that are coded: the image of vq_project.h
 *		codebook_start ..		float[m][dsub][ksub]
 *		directory_start ..		one IvfpqDirEntry per list
 *		list_start ..			list pages, to the end of the file
 *
 * An index that was not trained (its table was empty or small) has one list
 * and neither mean, codebook nor centroids; those starts are then
 * InvalidBlockNumber.  So are those of groups and of coarse codes in an index
 * with few lists, where comparing all centroids takes no longer, and that of the
 * projection where codes are of all dimensions.  Everything but
 * the metapage's counters, the directory and the list pages is immutable once
 * built.
 *
 * Every page has the standard header, contents from MAXALIGN(header) up to
 * pd_lower, and an IvfpqPageOpaqueData in its special space.  pd_upper is
 * pd_special, so that the hole which generic WAL zeroes holds nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_PAGE_H
#define IVFPQ_PAGE_H

#include "postgres.h"

#include "storage/block.h"
#include "storage/bufpage.h"
#include "storage/off.h"

#define IVFPQ_METAPAGE_BLKNO	0
#define IVFPQ_MAGIC				0x49565051	/* "IVPQ" */
#define IVFPQ_FORMAT_VERSION	8

/* Last two bytes of every page, for tools that look at raw files */
#define IVFPQ_PAGE_ID			0xFF8D

typedef enum IvfpqPageKind
{
	IVFPQ_PAGE_META = 1,
	IVFPQ_PAGE_ARRAY = 2,		/* mean, codebooks, centroids, projection */
	IVFPQ_PAGE_DIRECTORY = 3,
	IVFPQ_PAGE_LIST = 4
} IvfpqPageKind;

typedef struct IvfpqPageOpaqueData
{
	uint32		unused;
	uint16		kind;			/* IvfpqPageKind */
	uint16		page_id;		/* IVFPQ_PAGE_ID */
} IvfpqPageOpaqueData;

StaticAssertDecl(sizeof(IvfpqPageOpaqueData) == 8, "page special space is on disk");

#define IVFPQ_CONTENTS_OFFSET	MAXALIGN(SizeOfPageHeaderData)
#define IVFPQ_PAGE_BYTES \
	(BLCKSZ - IVFPQ_CONTENTS_OFFSET - MAXALIGN(sizeof(IvfpqPageOpaqueData)))

/* Codecs, a field of the metapage so that others may come */
#define IVFPQ_CODEC_NONE		0	/* no codes: every row is compared exactly */
#define IVFPQ_CODEC_PQ			1

/* How centroid rows are stored */
#define IVFPQ_CENTROID_NONE		0
#define IVFPQ_CENTROID_I8		1	/* scale and bytes */
#define IVFPQ_CENTROID_F32		2	/* where bytes would be too coarse */

#define IVFPQ_TRAINER_LEN		64

/* Sampling, clustering, training codes, encoding, writing */
#define IVFPQ_BUILD_PHASES		5

/* Shares of near rows for which a build finds out how many lists have them: vq_recalls (kernels/vq_spread.h) */
#define IVFPQ_NRECALLS			9

/* How queries differ in the lists that they should read: VqSpread */
typedef struct IvfpqSpread
{
	uint32		rank;
	float		mean;
	float		power;
} IvfpqSpread;

/*----------
 * Metapage contents:
 *
 *	 OFFSET  SIZE  FIELD
 *		  0     4  magic				IVFPQ_MAGIC
 *		  4     4  format_version		IVFPQ_FORMAT_VERSION
 *		  8     8  build_id				random; tells this build from any other
 *		 16     8  seed					of rotation and training
 *		 24     4  dim					0 until an empty index sees its first row
 *		 28     4  nlists				at least 1
 *		 32     4  m					sub-quantisers, 0 if not coded
 *		 36     2  nbits				4, 8, or 0 if not coded
 *		 38     1  codec				IVFPQ_CODEC_...
 *		 39     1  metric				VqMetric
 *		 40     1  rotation				VqRotation
 *		 41     1  centroid_kind		IVFPQ_CENTROID_...
 *		 42     1  nattributes			numbers kept with each entry: of the columns after the first
 *		 43     1  wide_attributes		a bit for each, the first lowest: of 8 bytes, and not of 4
 *		 44     4  scale				float, a power of two
 *		 48    32  ..._start			first blocks, in the order above, but for the projection's
 *		 80     4  coarse_m				sub-quantisers of centroid codes, or 0
 *		 84     4  ngroups				of lists, or 0 if these are few
 *		 88     4  error_scale			float, of VqCodec; 1 if not projected
 *		 92     4  train_rows			rows that trained it, those held out for queries included
 *		 96     4  imbalance			float; 1 when all lists are equal
 *		100     4  projection_start		first block, or InvalidBlockNumber
 *		104     8  build_rows			entries written by the build
 *		112     8  zero_vectors			rows left out: cosine of a zero vector
 *		120    64  trained_on			"cpu" or the name of a GPU; "" if untrained
 *		184    20  build_ms				time of each phase of the build, in their order
 *		204    36  nprobes				lists to search for each of vq_recalls, as measured by the build;
 *									the mean of all queries, where spread says that these differ
 *		240    12  spread				zeroes where they do not
 *		252     1  has_chunk_tids		1 if entries know where the vectors of their rows are, which are out of line
 *		253     3  unused				zero
 *----------
 */
typedef struct IvfpqMetaPageData
{
	uint32		magic;
	uint32		format_version;
	uint64		build_id;
	uint64		seed;
	uint32		dim;
	uint32		nlists;
	uint32		m;
	uint16		nbits;
	uint8		codec;
	uint8		metric;
	uint8		rotation;
	uint8		centroid_kind;
	uint8		nattributes;
	uint8		wide_attributes;
	float		scale;
	BlockNumber mean_start;
	BlockNumber centroid_start;
	BlockNumber group_start;
	BlockNumber coarse_codebook_start;
	BlockNumber coarse_code_start;
	BlockNumber codebook_start;
	BlockNumber directory_start;
	BlockNumber list_start;
	uint32		coarse_m;
	uint32		ngroups;
	float		error_scale;
	uint32		train_rows;
	float		imbalance;
	BlockNumber projection_start;
	uint64		build_rows;
	uint64		zero_vectors;
	char		trained_on[IVFPQ_TRAINER_LEN];
	uint32		build_ms[IVFPQ_BUILD_PHASES];
	uint32		nprobes[IVFPQ_NRECALLS];
	IvfpqSpread spread;
	uint8		has_chunk_tids;
	uint8		unused[3];
} IvfpqMetaPageData;

StaticAssertDecl(offsetof(IvfpqMetaPageData, build_id) == 8, "metapage layout is on disk");
StaticAssertDecl(offsetof(IvfpqMetaPageData, codec) == 38, "metapage layout is on disk");
StaticAssertDecl(offsetof(IvfpqMetaPageData, nattributes) == 42, "metapage layout is on disk");
StaticAssertDecl(offsetof(IvfpqMetaPageData, mean_start) == 48, "metapage layout is on disk");
StaticAssertDecl(offsetof(IvfpqMetaPageData, build_rows) == 104, "metapage layout is on disk");
StaticAssertDecl(offsetof(IvfpqMetaPageData, build_ms) == 184, "metapage layout is on disk");
StaticAssertDecl(offsetof(IvfpqMetaPageData, nprobes) == 204, "metapage layout is on disk");
StaticAssertDecl(offsetof(IvfpqMetaPageData, spread) == 240, "metapage layout is on disk");
StaticAssertDecl(offsetof(IvfpqMetaPageData, has_chunk_tids) == 252, "metapage layout is on disk");
StaticAssertDecl(sizeof(IvfpqMetaPageData) == 256, "metapage layout is on disk");

/*----------
 * Directory entry of one list:
 *
 *	 OFFSET  SIZE  FIELD
 *		  0     4  head_page			first block of the list, or InvalidBlockNumber
 *		  4     4  hint_page			where to look for a free slot first
 *		  8     4  nblocks				blocks in the list
 *		 12     2  head_offset			byte offset in head_page
 *		 14     2  hint_offset			byte offset in hint_page
 *		 16     4  build_pages			pages from head_page on that the build filled
 *
 * The head never changes once set, as blocks never move.  The hint is only a
 * hint: free slots before it are found again by the next VACUUM.
 *----------
 */
typedef struct IvfpqDirEntry
{
	BlockNumber head_page;
	BlockNumber hint_page;
	uint32		nblocks;
	uint16		head_offset;
	uint16		hint_offset;
	uint32		build_pages;
} IvfpqDirEntry;

StaticAssertDecl(sizeof(IvfpqDirEntry) == 20, "directory layout is on disk");

#define IVFPQ_DIR_ENTRIES_PER_PAGE	(IVFPQ_PAGE_BYTES / sizeof(IvfpqDirEntry))

static inline IvfpqPageOpaqueData *
ivfpq_page_opaque(Page page)
{
	return (IvfpqPageOpaqueData *) PageGetSpecialPointer(page);
}

static inline char *
ivfpq_page_contents(Page page)
{
	return (char *) page + IVFPQ_CONTENTS_OFFSET;
}

static inline IvfpqMetaPageData *
ivfpq_page_meta(Page page)
{
	return (IvfpqMetaPageData *) ivfpq_page_contents(page);
}

static inline IvfpqDirEntry *
ivfpq_page_directory(Page page)
{
	return (IvfpqDirEntry *) ivfpq_page_contents(page);
}

#endif							/* IVFPQ_PAGE_H */
