/*-------------------------------------------------------------------------
 *
 * ivfpq_handler.c
 *	  What the access method tells the server about itself, and the storage
 *	  parameters of its indexes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "commands/progress.h"
#include "commands/vacuum.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "am/ivfpq_build.h"
#include "base/vq_guc.h"
#include "base/vqpg_compat.h"

PG_FUNCTION_INFO_V1(ivfpq_handler);
PG_FUNCTION_INFO_V1(ivfpq_l2_metric);
PG_FUNCTION_INFO_V1(ivfpq_ip_metric);
PG_FUNCTION_INFO_V1(ivfpq_cosine_metric);
PG_FUNCTION_INFO_V1(ivfpq_vector_kind);
PG_FUNCTION_INFO_V1(ivfpq_halfvec_kind);

#define IVFPQ_DEFAULT_NBITS		4
#define IVFPQ_DEFAULT_ROTATION	IVFPQ_ROTATION_LEARNED

static relopt_kind ivfpq_relopt_kind;

static relopt_enum_elt_def rotation_options[] = {
	{"none", IVFPQ_ROTATION_NONE},
	{"hadamard", IVFPQ_ROTATION_HADAMARD},
	{"learned", IVFPQ_ROTATION_LEARNED},
	{NULL, 0}
};

typedef struct IntOption
{
	const char *name;
	const char *description;
	int			default_value;
	int			min;
	int			max;
	size_t		offset;			/* in IvfpqOptions */
} IntOption;

static const IntOption int_options[] = {
	{"lists", "Number of inverted lists (0 chooses by the number of rows)",
	0, 0, IVFPQ_MAX_LISTS, offsetof(IvfpqOptions, lists)},
	{"m", "Number of sub-quantisers (0 chooses by the number of dimensions)",
	0, 0, VQ_MAX_DIM, offsetof(IvfpqOptions, m)},
	{"nbits", "Bits of each sub-quantiser's code, 4 or 8",
	IVFPQ_DEFAULT_NBITS, 4, 8, offsetof(IvfpqOptions, nbits)},
	{"dims", "Number of dimensions (0 takes it from the data)",
	0, 0, VQ_MAX_DIM, offsetof(IvfpqOptions, dims)},
	{"train_rows", "Number of rows to train on (0 chooses by the number of lists)",
	0, 0, IVFPQ_MAX_TRAIN_ROWS, offsetof(IvfpqOptions, train_rows)},
	{"nprobe", "Number of lists that a search of this index reads (0 chooses)",
	0, 0, IVFPQ_MAX_LISTS, offsetof(IvfpqOptions, nprobe)},
};

/*
 * Changing one disturbs nobody: a search reads nprobe once, a build all of them
 * when it begins, and but for autoreindex the others matter to the next REINDEX.
 */
void
ivfpq_init_reloptions(void)
{
	ivfpq_relopt_kind = add_reloption_kind();
	for (size_t i = 0; i < lengthof(int_options); i++)
		add_int_reloption(ivfpq_relopt_kind, int_options[i].name, int_options[i].description,
						  int_options[i].default_value, int_options[i].min,
						  int_options[i].max, ShareUpdateExclusiveLock);
	add_enum_reloption(ivfpq_relopt_kind, "rotation",
					   "Rotation of vectors before they are coded",
					   rotation_options, IVFPQ_DEFAULT_ROTATION,
					   "Valid values are \"learned\", \"hadamard\" and \"none\".", ShareUpdateExclusiveLock);
	add_bool_reloption(ivfpq_relopt_kind, "autoreindex",
					   "Whether VACUUM has the index rebuilt when it has outgrown its build",
					   true, ShareUpdateExclusiveLock);
}

/* amoptions */
static bytea *
ivfpqoptions(Datum reloptions, bool validate)
{
	relopt_parse_elt table[lengthof(int_options) + 2];
	IvfpqOptions *options;

	memset(table, 0, sizeof(table));
	for (size_t i = 0; i < lengthof(int_options); i++)
	{
		table[i].optname = int_options[i].name;
		table[i].opttype = RELOPT_TYPE_INT;
		table[i].offset = int_options[i].offset;
	}
	table[lengthof(int_options)].optname = "rotation";
	table[lengthof(int_options)].opttype = RELOPT_TYPE_ENUM;
	table[lengthof(int_options)].offset = offsetof(IvfpqOptions, rotation);
	table[lengthof(int_options) + 1].optname = "autoreindex";
	table[lengthof(int_options) + 1].opttype = RELOPT_TYPE_BOOL;
	table[lengthof(int_options) + 1].offset = offsetof(IvfpqOptions, autoreindex);

	options = build_reloptions(reloptions, validate, ivfpq_relopt_kind,
							   sizeof(IvfpqOptions), table, lengthof(table));

	/* The limits of an integer option cannot express this */
	if (validate && options != NULL && options->nbits != 4 && options->nbits != 8)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("value %d out of bounds for option \"nbits\"", options->nbits),
				 errdetail("Valid values are 4 and 8."),
				 errhint("Codes of 4 bits are searched faster; \"m\" sets their size.")));

	/* now, and not when a TRUNCATE or a restore builds the index; its dimensions and further columns may allow for less */
	if (validate && options != NULL)
		ivfpq_plan_check_code(&(VqBlockShape) {.m = options->m, .nbits = options->nbits});
	return (bytea *) options;
}

IvfpqOptions *
ivfpq_options(Relation index)
{
	IvfpqOptions *options = palloc0(sizeof(IvfpqOptions));

	if (index->rd_options != NULL)
	{
		memcpy(options, index->rd_options, sizeof(IvfpqOptions));
		return options;
	}
	SET_VARSIZE(options, sizeof(IvfpqOptions));
	options->nbits = IVFPQ_DEFAULT_NBITS;
	options->rotation = IVFPQ_DEFAULT_ROTATION;
	options->autoreindex = true;
	return options;
}

uint32
ivfpq_default_nprobe(Relation index, const IvfpqMetaPageData *meta, bool *by_recall)
{
	const IvfpqOptions *options = (const IvfpqOptions *) index->rd_options;

	*by_recall = options == NULL || options->nprobe == 0;
	return *by_recall ? vq_recall_nprobe(meta->nprobes, ivfpq_wanted_recall) : Min((uint32) options->nprobe, meta->nlists);
}

uint32
ivfpq_search_nprobe(Relation index, const IvfpqMetaPageData *meta, bool *by_recall)
{
	if (ivfpq_nprobe == 0)
		return ivfpq_default_nprobe(index, meta, by_recall);
	*by_recall = false;
	return Min((uint32) ivfpq_nprobe, meta->nlists);
}

/*
 * Support function IVFPQ_METRIC_PROC of the operator classes.  What an operator
 * computes cannot be told from its name, which anybody may give to anything.
 */
Datum
ivfpq_l2_metric(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(VQ_METRIC_L2);
}

Datum
ivfpq_ip_metric(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(VQ_METRIC_IP);
}

Datum
ivfpq_cosine_metric(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(VQ_METRIC_COSINE);
}

VqMetric
ivfpq_metric(Relation index)
{
	int32		metric = DatumGetInt32(FunctionCall0Coll(index_getprocinfo(index, 1, IVFPQ_METRIC_PROC),
														 InvalidOid));

	if (metric < VQ_METRIC_L2 || metric > VQ_METRIC_COSINE)
		elog(ERROR, "unexpected metric %d of the operator class of index \"%s\"",
			 metric, RelationGetRelationName(index));
	return (VqMetric) metric;
}

/* Support function IVFPQ_DATUM_PROC */
Datum
ivfpq_vector_kind(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(VQ_DATUM_VECTOR);
}

Datum
ivfpq_halfvec_kind(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(VQ_DATUM_HALFVEC);
}

VqDatumKind
ivfpq_datum_kind(Relation index, Oid type)
{
	int32		kind;

	if (vq_datum_is_array(type))
		return VQ_DATUM_ARRAY;
	if (type != index->rd_opcintype[0] || !OidIsValid(index_getprocid(index, 1, IVFPQ_DATUM_PROC)) ||
		get_typlen(type) != -1)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("type %s cannot be used as a vector", format_type_be(type)),
				 errhint("Cast it to real[].")));

	kind = DatumGetInt32(FunctionCall0Coll(index_getprocinfo(index, 1, IVFPQ_DATUM_PROC), InvalidOid));
	if (kind != VQ_DATUM_VECTOR && kind != VQ_DATUM_HALFVEC)
		elog(ERROR, "unexpected kind %d of vectors of the operator class of index \"%s\"",
			 kind, RelationGetRelationName(index));
	return (VqDatumKind) kind;
}

uint32
ivfpq_declared_dim(Relation index)
{
	int32		typmod = TupleDescAttr(RelationGetDescr(index), 0)->atttypmod;

	/* that of pgvector's types is their number of dimensions */
	if (typmod > 0 && ivfpq_datum_kind(index, index->rd_opcintype[0]) != VQ_DATUM_ARRAY)
		return typmod;
	return ivfpq_options(index)->dims;
}

/* ambuildphasename */
char *
ivfpqbuildphasename(int64 phase)
{
	switch (phase)
	{
		case PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE:
			return "initializing";
		case IVFPQ_PHASE_SAMPLING:
			return "sampling";
		case IVFPQ_PHASE_CLUSTERING:
			return "clustering";
		case IVFPQ_PHASE_TRAINING_CODES:
			return "training codes";
		case IVFPQ_PHASE_ENCODING:
			return "encoding";
		case IVFPQ_PHASE_WRITING:
			return "writing";
		default:
			return NULL;
	}
}

/* amproperty: the server cannot know for which columns we can order */
static bool
ivfpqproperty(Oid index_oid, int attno, IndexAMProperty prop,
			  const char *propname, bool *res, bool *isnull)
{
	if (attno == 0 || prop != AMPROP_DISTANCE_ORDERABLE)
		return false;
	*res = attno == 1;
	*isnull = false;
	return true;
}

/*
 * amoptionalkey is set although NULLs are not indexed: without it there would
 * be no plan for a query that has nothing but an ORDER BY.  Rows whose vector
 * is NULL are therefore missing from the results of such a plan.
 *
 * ampredlocks is not set, so the server takes a predicate lock on the whole
 * index: a nearest neighbour can be inserted anywhere.
 */
static const IndexAmRoutine ivfpq_routine = {
	.type = T_IndexAmRoutine,
	.amstrategies = 0,			/* those of vectors are others than those of attributes */
	.amsupport = IVFPQ_NUM_PROCS,
	.amcanorderbyop = true,
	.amcanmulticol = true,
	.amoptionalkey = true,
	.amsearcharray = true,
	.amsearchnulls = true,
#if PG_VERSION_NUM >= 170000
	.amcanbuildparallel = true,
#endif
	.amparallelvacuumoptions = VACUUM_OPTION_PARALLEL_BULKDEL,
	.amkeytype = InvalidOid,
	.ambuild = ivfpqbuild,
	.ambuildempty = ivfpqbuildempty,
	.aminsert = ivfpqinsert,
	.ambulkdelete = ivfpqbulkdelete,
	.amvacuumcleanup = ivfpqvacuumcleanup,
	.amcostestimate = ivfpqcostestimate,
	.amoptions = ivfpqoptions,
	.amproperty = ivfpqproperty,
	.ambuildphasename = ivfpqbuildphasename,
	.amvalidate = ivfpqvalidate,
	.ambeginscan = ivfpqbeginscan,
	.amrescan = ivfpqrescan,
	.amgettuple = ivfpqgettuple,
	.amendscan = ivfpqendscan
};

Datum
ivfpq_handler(PG_FUNCTION_ARGS)
{
#if PG_VERSION_NUM >= 190000
	PG_RETURN_POINTER(&ivfpq_routine);
#else
	IndexAmRoutine *routine = makeNode(IndexAmRoutine);

	/* The server frees what it is given */
	*routine = ivfpq_routine;
	PG_RETURN_POINTER(routine);
#endif
}
