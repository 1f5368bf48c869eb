/*-------------------------------------------------------------------------
 *
 * vq_functions.c
 *	  SQL functions that look into an index.
 *
 * All of them read the list pages in the order of the file, which costs as
 * much as a sequential scan of the index.  They are for those who may read the
 * table; counts also for those who may scan any table for its statistics, as
 * pgstattuple lets them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/index.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "am/ivfpq.h"
#include "am/ivfpq_gpu.h"
#include "base/vq_datum.h"
#include "base/vq_guc.h"
#include "kernels/vq_kmeans.h"
#include "vq_functions.h"

PG_FUNCTION_INFO_V1(vqpg_kernels);
PG_FUNCTION_INFO_V1(vqpg_gpus);
PG_FUNCTION_INFO_V1(ivfpq_index_info);
PG_FUNCTION_INFO_V1(ivfpq_list_info);
PG_FUNCTION_INFO_V1(ivfpq_last_scan);
PG_FUNCTION_INFO_V1(ivfpq_reconstruct);
PG_FUNCTION_INFO_V1(ivfpq_check);

/* More than any machine has */
#define MAX_GPUS				64

/* When ivfpq_index_info has advice to give */
#define ADVISE_GROWTH			4	/* times the rows of the build */
#define ADVISE_MIN_DEAD_SLOTS	10000
#define ADVISE_IMBALANCE		4.0f
#define ADVISE_WORSE			1.5f	/* times the imbalance of the build */
#define ADVISE_OTHER_COLUMNS	100		/* bytes of a row, beside its vector */

/* What the walk over the blocks counts */
typedef struct ListCounts
{
	int64		blocks;
	int64		pages;
	int64		rows;
	int64		dead_slots;		/* used, but without an entry */
	int64		free_slots;		/* never used */
	BlockNumber last_page;
} ListCounts;

typedef struct CountState
{
	VqBlockShape shape;
	ListCounts *lists;			/* [nlists] */
} CountState;

Datum
vqpg_kernels(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; vq_kernels_all[i] != NULL; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false};

		values[0] = CStringGetTextDatum(vq_kernels_all[i]->name);
		values[1] = BoolGetDatum(vq_kernels_supported(vq_kernels_all[i]));
		values[2] = BoolGetDatum(vq_kernels_all[i] == vq_kernels);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
vqpg_gpus(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	VqGpuDevice *devices = palloc0(MAX_GPUS * sizeof(VqGpuDevice));
	size_t		ndevices = 0;
	VqGpuInterface interface;
	VqGpuStatus status;
	VqGpuError	error;

	InitMaterializedSRF(fcinfo, 0);
	status = ivfpq_gpu_load(&interface, &error);
	if (status == VQ_GPU_OK)
		status = interface.devices(devices, MAX_GPUS, &ndevices, &error);
	if (status != VQ_GPU_OK)
	{
		ereport(NOTICE,
				(errmsg("vqpg has no GPU to use"),
				 errdetail("Reason: %s.", error.message)));
		return (Datum) 0;
	}
	for (size_t i = 0; i < Min(ndevices, MAX_GPUS); i++)
	{
		const VqGpuDevice *device = &devices[i];
		uint32		driver = device->driver_version;
		Datum		values[6];
		bool		nulls[6] = {false};

		values[0] = Int32GetDatum(device->index);
		values[1] = CStringGetTextDatum(device->name);
		values[2] = Int64GetDatum((int64) device->total_bytes);
		values[3] = Int64GetDatum((int64) device->free_bytes);
		nulls[3] = device->free_bytes == 0;
		values[4] = CStringGetTextDatum(psprintf("%u.%u", device->capability_major, device->capability_minor));
		values[5] = CStringGetTextDatum(psprintf("%u.%u", driver / 1000, driver % 1000 / 10));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ERROR unless the caller may read the table of an index */
static void
check_privileges(Relation index, bool is_for_statistics)
{
	Oid			heap_oid = IndexGetRelation(RelationGetRelid(index), false);

	if (pg_class_aclcheck(heap_oid, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		!(is_for_statistics && has_privs_of_role(GetUserId(), ROLE_PG_STAT_SCAN_TABLES)))
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(heap_oid)),
					   get_rel_name(heap_oid));

	/* Nor may contents of rows get around row-level security */
	if (!is_for_statistics && check_enable_rls(heap_oid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("query would be affected by row-level security policy for table \"%s\"",
						get_rel_name(heap_oid))));
}

Relation
vq_open_index(Oid index_oid, IvfpqMetaPageData *meta, bool is_for_statistics)
{
	Relation	index = index_open(index_oid, AccessShareLock);

	ivfpq_check_readable(index);
	check_privileges(index, is_for_statistics);
	if (!index->rd_index->indisready)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" is not ready", RelationGetRelationName(index)),
				 errdetail("It is being built concurrently, or that has failed."),
				 errhint("If it has failed, REINDEX or drop the index.")));
	ivfpq_meta_read(index, meta);
	return index;
}

static bool
count_block(BlockNumber blkno, uint16 offset, void *block, void *arg)
{
	CountState *state = arg;
	const VqBlockHeader *header = block;
	ListCounts *list = &state->lists[header->list_no];
	int64		live = 0;

	for (size_t slot = 0; slot < header->used; slot++)
		live += vq_block_is_live(block, &state->shape, slot);

	if (list->blocks == 0 || list->last_page != blkno)
		list->pages++;
	list->last_page = blkno;
	list->blocks++;
	list->rows += live;
	list->dead_slots += header->used - live;
	list->free_slots += header->capacity - header->used;
	return true;
}

/* Count what is in every list; palloc'd, [nlists] */
static ListCounts *
count_lists(Relation index, const IvfpqMetaPageData *meta)
{
	CountState	state = {.shape = ivfpq_block_shape(meta)};

	state.lists = palloc0(meta->nlists * sizeof(ListCounts));
	ivfpq_inspect_blocks(index, meta, count_block, &state);
	return state.lists;
}

static const char *
metric_name(uint8 metric)
{
	switch (metric)
	{
		case VQ_METRIC_L2:
			return "l2";
		case VQ_METRIC_IP:
			return "ip";
		case VQ_METRIC_COSINE:
			return "cosine";
	}
	elog(ERROR, "unexpected metric %u", metric);
}

/*
 * How much longer lists are where searches look than on average: 1 when all
 * are equal, nlists when all rows are in one.
 */
static float4
imbalance_factor(const ListCounts *lists, uint32 nlists)
{
	uint64	   *counts = palloc(nlists * sizeof(uint64));

	for (uint32 i = 0; i < nlists; i++)
		counts[i] = lists[i].rows;
	return (float4) vq_kmeans_imbalance(counts, nlists);
}

/* How long a table's rows may be before long values are compressed or stored out of line */
static int
toast_tuple_target(Oid table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	int			target = TOAST_TUPLE_TARGET;
	Datum		options;
	bool		isnull;
	ListCell   *cell;

	if (!HeapTupleIsValid(tuple))
		return target;
	options = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	if (!isnull)
		foreach(cell, untransformRelOptions(options))
		{
			DefElem    *option = lfirst_node(DefElem, cell);

			if (strcmp(option->defname, "toast_tuple_target") == 0)
				target = pg_strtoint32(strVal(option->arg));
		}
	ReleaseSysCache(tuple);
	return target;
}

/*
 * SQL that has vectors of so many dimensions stored in their rows, where these are compressed or stored
 * out of line although there is room for them; NULL if they are not.  VACUUM FULL takes values that are compressed as
 * they are, but arrays can be made anew.
 */
static const char *
sql_to_keep_in_rows(Relation index, uint32 dim)
{
	Oid			heap = index->rd_index->indrelid;
	AttrNumber	attno = index->rd_index->indkey.values[0];
	VqDatumKind kind = ivfpq_datum_kind(index, index->rd_opcintype[0]);
	size_t		bytes = dim * (kind == VQ_DATUM_HALFVEC ? sizeof(uint16) : sizeof(float));
	const char *table;
	const char *sql = NULL;
	HeapTuple	tuple;
	Form_pg_attribute column;

	if (attno == 0 || bytes <= TOAST_TUPLE_TARGET || bytes + ADVISE_OTHER_COLUMNS > TOAST_TUPLE_TARGET_MAIN ||
		bytes + ADVISE_OTHER_COLUMNS <= (size_t) toast_tuple_target(heap))
		return NULL;
	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(heap), Int16GetDatum(attno));
	if (!HeapTupleIsValid(tuple))
		return NULL;
	column = (Form_pg_attribute) GETSTRUCT(tuple);
	table = quote_qualified_identifier(get_namespace_name(get_rel_namespace(heap)), get_rel_name(heap));
	if (column->attstorage == TYPSTORAGE_EXTENDED && kind == VQ_DATUM_ARRAY)
	{
		const char *name = quote_identifier(NameStr(column->attname));
		const char *type = format_type_with_typemod(column->atttypid, column->atttypmod);

		sql = psprintf("ALTER TABLE %s SET (toast_tuple_target = %d), ALTER COLUMN %s TYPE %s USING (%s || '{}')::%s",
					   table, (int) TOAST_TUPLE_TARGET_MAIN, name, type, name, type);
	}
	else if (column->attstorage == TYPSTORAGE_EXTENDED || column->attstorage == TYPSTORAGE_EXTERNAL)
		sql = psprintf("ALTER TABLE %s SET (toast_tuple_target = %d), and VACUUM FULL afterwards,",
					   table, (int) TOAST_TUPLE_TARGET_MAIN);
	ReleaseSysCache(tuple);
	return sql;
}

/* What could be better about an index, a sentence each; NULL if all is well */
static const char *
advice(Relation index, const IvfpqMetaPageData *meta, const IvfpqOptions *options,
	   const ListCounts *total, float4 imbalance)
{
	StringInfoData sentences;
	const char *sql = sql_to_keep_in_rows(index, meta->dim);

	initStringInfo(&sentences);
	if (meta->codec == IVFPQ_CODEC_NONE)
	{
		if (total->rows >= ivfpq_coded_rows(options))
			appendStringInfo(&sentences, "The index was built on " UINT64_FORMAT
							 " rows, too few to train on, and compares each of its " INT64_FORMAT
							 " rows exactly. REINDEX it. ",
							 meta->build_rows, total->rows);
	}
	else
	{
		if (total->rows / ADVISE_GROWTH > (int64) meta->build_rows)
			appendStringInfo(&sentences, "The index was built on " UINT64_FORMAT
							 " rows and has " INT64_FORMAT
							 " now, in as many lists as before. REINDEX it. ",
							 meta->build_rows, total->rows);
		/* a fresh index of many equal vectors is uneven as well */
		if (imbalance > ADVISE_IMBALANCE && imbalance > ADVISE_WORSE * meta->imbalance)
			appendStringInfo(&sentences, "Rows are spread unevenly over the lists, so searches read %.1f times "
							 "as many as they would otherwise. "
							 "REINDEX the index if its table has changed much. ",
							 imbalance);
	}
	if (total->dead_slots >= ADVISE_MIN_DEAD_SLOTS && total->dead_slots > total->rows)
		appendStringInfo(&sentences, INT64_FORMAT " slots are dead, more than the " INT64_FORMAT
						 " rows. Inserts will fill them, REINDEX gives their space back. ",
						 total->dead_slots, total->rows);
	if (sql != NULL)
		appendStringInfo(&sentences, "Vectors are stored out of line or compressed, which makes searches a fifth slower, or more. "
						 "%s keeps them in their rows; reading all of the table takes longer then. ", sql);
	if (sentences.len == 0)
		return NULL;
	sentences.data[sentences.len - 1] = '\0';
	return sentences.data;
}

/* A text, or NULL */
static Datum
text_or_null(const char *string, bool *is_null)
{
	*is_null = string == NULL;
	return string ? CStringGetTextDatum(string) : (Datum) 0;
}

/* Milliseconds of each phase of the build, as int[] */
static Datum
phase_times(const IvfpqMetaPageData *meta)
{
	Datum		times[IVFPQ_BUILD_PHASES];

	for (int i = 0; i < IVFPQ_BUILD_PHASES; i++)
		times[i] = Int32GetDatum((int32) Min(meta->build_ms[i], PG_INT32_MAX));
	return PointerGetDatum(construct_array(times, lengthof(times), INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

Datum
ivfpq_index_info(PG_FUNCTION_ARGS)
{
	IvfpqMetaPageData meta;
	Relation	index = vq_open_index(PG_GETARG_OID(0), &meta, true);
	VqBlockShape shape = ivfpq_block_shape(&meta);
	ListCounts *lists = count_lists(index, &meta);
	ListCounts	total = {0};
	IvfpqOptions *options = ivfpq_options(index);
	float4		imbalance;
	char		trained_on[IVFPQ_TRAINER_LEN + 1] = {0};
	TupleDesc	desc;
	Datum		values[18];
	bool		nulls[18] = {false};
	bool		by_recall;
	int			column = 0;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != lengthof(values))
		elog(ERROR, "unexpected return type of ivfpq_index_info");

	for (uint32 i = 0; i < meta.nlists; i++)
	{
		total.rows += lists[i].rows;
		total.dead_slots += lists[i].dead_slots;
	}
	imbalance = imbalance_factor(lists, meta.nlists);
	memcpy(trained_on, meta.trained_on, IVFPQ_TRAINER_LEN);

	values[column++] = Int32GetDatum(meta.format_version);
	values[column++] = CStringGetTextDatum(metric_name(meta.metric));
	values[column++] = Int32GetDatum(meta.dim);
	values[column++] = Int32GetDatum(meta.nlists);
	values[column++] = Int32GetDatum(meta.m);
	values[column++] = Int32GetDatum(meta.nbits);
	values[column++] = CStringGetTextDatum(ivfpq_is_projected(&meta) ? "learned" :
										   meta.rotation == VQ_ROTATION_HADAMARD ? "hadamard" : "none");
	values[column++] = Int32GetDatum(vq_code_bytes(&shape));
	values[column++] = Int32GetDatum(ivfpq_default_nprobe(index, &meta, &by_recall));
	values[column++] = Int64GetDatum(total.rows);
	values[column++] = Int64GetDatum(total.dead_slots);
	values[column++] = Int64GetDatum(meta.zero_vectors);
	values[column++] = Int64GetDatum(RelationGetNumberOfBlocks(index));
	values[column++] = Int64GetDatum(meta.train_rows);
	values[column] = text_or_null(trained_on[0] ? trained_on : NULL, &nulls[column]);
	column++;
	values[column++] = Float4GetDatum(imbalance);
	values[column++] = phase_times(&meta);
	values[column] = text_or_null(advice(index, &meta, options, &total, imbalance), &nulls[column]);

	index_close(index, AccessShareLock);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

Datum
ivfpq_list_info(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	IvfpqMetaPageData meta;
	Relation	index = vq_open_index(PG_GETARG_OID(0), &meta, true);
	ListCounts *lists = count_lists(index, &meta);

	InitMaterializedSRF(fcinfo, 0);
	for (uint32 i = 0; i < meta.nlists; i++)
	{
		Datum		values[6];
		bool		nulls[6] = {false};

		values[0] = Int32GetDatum(i);
		values[1] = Int64GetDatum(lists[i].blocks);
		values[2] = Int64GetDatum(lists[i].pages);
		values[3] = Int64GetDatum(lists[i].rows);
		values[4] = Int64GetDatum(lists[i].dead_slots);
		values[5] = Int64GetDatum(lists[i].free_slots);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	index_close(index, AccessShareLock);
	return (Datum) 0;
}

Datum
ivfpq_last_scan(PG_FUNCTION_ARGS)
{
	const IvfpqScanStats *stats = &ivfpq_last_scan_stats;
	TupleDesc	desc;
	Datum		values[5];
	bool		nulls[5];

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != lengthof(values))
		elog(ERROR, "unexpected return type of ivfpq_last_scan");
	values[0] = Int64GetDatum(stats->lists_probed);
	values[1] = Int64GetDatum(stats->codes_scored);
	values[2] = Int64GetDatum(stats->candidates_reranked);
	values[3] = Int64GetDatum(stats->rows_returned);
	values[4] = Int64GetDatum(stats->rows_filtered);
	memset(nulls, !stats->valid, sizeof(nulls));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* A search for the entry of one row */
typedef struct EntrySearch
{
	ItemPointerData tid;
	VqBlockShape shape;
	bool		is_found;
	uint32		list_no;
	VqFactors	factors;
	uint8	   *codes;			/* [m] */
} EntrySearch;

static bool
search_block(BlockNumber blkno, uint16 offset, void *block, void *arg)
{
	EntrySearch *search = arg;
	const VqBlockHeader *header = block;

	for (size_t slot = 0; slot < header->used && !search->is_found; slot++)
	{
		if (memcmp(vq_block_tid(block, &search->shape, slot), &search->tid, VQ_TID_BYTES) != 0)
			continue;
		search->is_found = true;
		search->list_no = header->list_no;
		vq_block_get(block, &search->shape, slot, &search->factors, search->codes);
	}
	return !search->is_found;
}

/* Centroid and decoded residual, back in the space of the user */
static Datum
decode_entry(Relation index, const EntrySearch *search)
{
	const IvfpqModel *model = ivfpq_model_get(index, CurrentMemoryContext);
	const VqCodec *codec = &model->codec;
	float	   *x = palloc(codec->dim * sizeof(float));
	float	   *centroid = palloc(codec->dim * sizeof(float));
	float	   *work = palloc(vq_codec_code_floats(codec) * sizeof(float));

	ivfpq_model_centroid(index, model, search->list_no, centroid);
	vq_codec_decode(vq_kernels, codec, search->codes, &search->factors, centroid, work, x);
	vq_codec_restore(vq_kernels, codec, x, x);
	return vq_datum_make(x, codec->dim);
}

Datum
ivfpq_reconstruct(PG_FUNCTION_ARGS)
{
	IvfpqMetaPageData meta;
	Relation	index = vq_open_index(PG_GETARG_OID(0), &meta, false);
	EntrySearch search = {
		.tid = *(ItemPointer) PG_GETARG_POINTER(1),
		.shape = ivfpq_block_shape(&meta)
	};
	Datum		result = (Datum) 0;

	if (meta.codec != IVFPQ_CODEC_NONE && ItemPointerIsValid(&search.tid))
	{
		search.codes = palloc(meta.m);
		ivfpq_inspect_blocks(index, &meta, search_block, &search);

		/* the code of a vector that is always compared exactly means nothing */
		if (search.is_found && !isinf(search.factors.a))
			result = decode_entry(index, &search);
	}
	index_close(index, AccessShareLock);
	if (result == (Datum) 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

Datum
ivfpq_check(PG_FUNCTION_ARGS)
{
	ivfpq_check_index(PG_GETARG_OID(0), PG_GETARG_BOOL(1), PG_GETARG_BOOL(2));
	PG_RETURN_VOID();
}
