/*-------------------------------------------------------------------------
 *
 * vq_recall.c
 *	  ivfpq_recall: how much of what an index should find it does, and how fast.
 *
 * Searches are SQL, run as the table's owner: the index's expressions and
 * predicate are code of his, with which he must not act as the caller.  SQL that
 * the caller gives is run as the caller.  Settings are those of the session (but nprobe,
 * and those that choose plans).  What should be found costs a scan of the table for
 * each query.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/plannodes.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "am/ivfpq.h"
#include "base/vqpg_compat.h"
#include "vq_functions.h"

PG_FUNCTION_INFO_V1(ivfpq_recall);

#define MAX_NEIGHBOURS			10000
#define MAX_QUERIES				100000

/* Rows of random pages that are there to choose one query from: those of one page can be alike */
#define ROWS_PER_QUERY			30

/* What is asked for, and the nearest rows that there are */
typedef struct RecallQuery
{
	Datum		vector;
	ItemPointerData self;		/* the row that the query was taken from, which is not counted; invalid if none */
	int			ntrue;			/* k, or fewer if there are not as many rows */
	double		radius;			/* distance of the last of them */
} RecallQuery;

typedef struct RecallState
{
	Relation	index;
	MemoryContext context;		/* of what outlives a statement */
	Oid			type;			/* of queries */
	char	   *search;			/* SQL: rows and distances in order, of query $1; without its LIMIT */
	int			k;
	int			nqueries;
	RecallQuery *queries;
} RecallState;

/* How searches are told how many lists to read: one of the two is 0 */
typedef struct RecallSetting
{
	double		target;			/* ivfpq.recall */
	int			nprobe;
} RecallSetting;

/* What searches with one setting did, sums over all queries */
typedef struct RecallSums
{
	int64		wanted;
	int64		found;
	double		milliseconds;
	double		lists;
	double		codes;
	double		rows;
} RecallSums;

static char *
operator_name(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	name = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)), NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return name;
}

/* The parts of SQL about an index: its table, the vector, and the condition of a partial one */
static void
describe_index(Relation index, char **table, char **key, char **condition)
{
	Oid			heap = index->rd_index->indrelid;
	List	   *predicate = RelationGetIndexPredicate(index);

	*table = quote_qualified_identifier(get_namespace_name(get_rel_namespace(heap)), get_rel_name(heap));
	*key = TextDatumGetCString(DirectFunctionCall3(pg_get_indexdef_ext, ObjectIdGetDatum(RelationGetRelid(index)),
												   Int32GetDatum(1), BoolGetDatum(false)));
	*condition = predicate == NIL ? "true" :
		deparse_expression((Node *) make_ands_explicit(predicate),
						   deparse_context_for(get_rel_name(heap), heap), false, false);
}

/* While it is set, the planner knows of no other index of the same table */
static Oid	only_index = InvalidOid;
static VqRelationHook next_hook;

static void
hide_indexes(VQ_RELATION_HOOK_PARAMETERS)
{
	ListCell   *cell;

	if (next_hook)
		next_hook(VQ_RELATION_HOOK_ARGUMENTS);
	if (!OidIsValid(only_index) || IndexGetRelation(only_index, true) != VQ_RELATION_HOOK_OID)
		return;
	foreach(cell, rel->indexlist)
	{
		if (lfirst_node(IndexOptInfo, cell)->indexoid != only_index)
			rel->indexlist = foreach_delete_current(rel->indexlist, cell);
	}
}

static void
set_option(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static void
run(const char *sql)
{
	int			result = SPI_execute(sql, true, 0);

	if (result != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute: %s: %s", SPI_result_code_string(result), sql);
}

/*
 * The caller's queries, as the caller.  The text goes between parentheses, so it has to be one
 * statement by itself: it could close them otherwise, and be followed by another, of any types.
 */
static void
run_queries(const RecallState *state, const char *text)
{
	SPIPlanPtr	plan = SPI_prepare(text, 0, NULL);
	int			length = strlen(text);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare: %s: %s", SPI_result_code_string(SPI_result), text);
	if (!SPI_is_cursor_plan(plan))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"queries\" must be one statement that selects vectors")));
	SPI_freeplan(plan);

	/* it may end with a semicolon, or a comment */
	while (length > 0 && strchr("; \t\r\n", text[length - 1]) != NULL)
		length--;
	run(psprintf("SELECT CAST(query AS %s) FROM (%.*s\n) AS queries (query)", format_type_be_qualified(state->type), length, text));
}

/* Keep the queries that a statement has returned: a vector, and where it was taken from if that is known */
static void
keep_queries(RecallState *state)
{
	TupleDesc	desc = SPI_tuptable->tupdesc;
	int16		length;
	bool		by_value;
	MemoryContext old = MemoryContextSwitchTo(state->context);

	get_typlenbyval(state->type, &length, &by_value);
	state->queries = palloc0(Max(SPI_processed, 1) * sizeof(RecallQuery));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		RecallQuery *query = &state->queries[state->nqueries];
		bool		isnull;
		Datum		vector = SPI_getbinval(SPI_tuptable->vals[i], desc, 1, &isnull);

		if (isnull)
			continue;
		query->vector = length == -1 ? PointerGetDatum(PG_DETOAST_DATUM_COPY(vector)) :
			datumCopy(vector, by_value, length);
		ItemPointerSetInvalid(&query->self);
		if (desc->natts > 1)
			ItemPointerCopy((ItemPointer) DatumGetPointer(SPI_getbinval(SPI_tuptable->vals[i], desc, 2, &isnull)),
							&query->self);
		state->nqueries++;
	}
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
}

/* pg_class of an index's table */
static HeapTuple
class_of_table(Relation index)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(index->rd_index->indrelid));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", index->rd_index->indrelid);
	return tuple;
}

static Oid
owner_of_table(Relation index)
{
	HeapTuple	tuple = class_of_table(index);
	Oid			owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;

	ReleaseSysCache(tuple);
	return owner;
}

/* Random rows of the table.  Those of some random pages are enough to choose from, unless few of them are indexed. */
static void
sample_queries(RecallState *state, const char *table, const char *key, const char *condition, int count)
{
	HeapTuple	tuple = class_of_table(state->index);
	double		rows;
	double		percent;

	rows = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
	ReleaseSysCache(tuple);

	/* what has not been counted is looked at as a whole */
	percent = 100.0 * ROWS_PER_QUERY * count / Max(1, rows);

	for (;;)
	{
		percent = Min(percent, 100);
		run(psprintf("SELECT query, row FROM (SELECT CAST(%s AS %s) AS query, ctid AS row FROM ONLY %s TABLESAMPLE SYSTEM (%g) "
					 "WHERE %s) s WHERE query IS NOT NULL ORDER BY pg_catalog.random() LIMIT %d",
					 key, format_type_be_qualified(state->type), table, percent, condition, count));
		if (SPI_processed >= (uint64) count || percent >= 100)
			break;
		SPI_freetuptable(SPI_tuptable);
		percent *= 10;
	}
	keep_queries(state);
}

/*
 * Of the first k rows that a search has returned, how many are no farther than radius; and the
 * distance of the last of them.  Rows without a distance are not indexed.
 */
static int
count_rows(const RecallState *state, const RecallQuery *query, double radius, double *last)
{
	ItemPointer self = (ItemPointer) &query->self;
	int			nrows = 0;
	int			nnear = 0;

	for (uint64 i = 0; i < SPI_processed && nrows < state->k; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;
		ItemPointer tid = (ItemPointer) DatumGetPointer(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		double		distance = DatumGetFloat8(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));

		if (isnull || isnan(distance) || (ItemPointerIsValid(self) && ItemPointerEquals(tid, self)))
			continue;
		nrows++;
		nnear += distance <= radius;
		*last = distance;
	}
	return nnear;
}

static SPIPlanPtr
prepare_search(const RecallState *state)
{
	Oid			types[] = {state->type};
	SPIPlanPtr	plan = SPI_prepare_cursor(psprintf("%s LIMIT %d", state->search, state->k + 1), lengthof(types), types,
										  CURSOR_OPT_PARALLEL_OK);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor: %s", SPI_result_code_string(SPI_result));
	return plan;
}

static void
execute_search(SPIPlanPtr plan, const RecallQuery *query)
{
	Datum		values[] = {query->vector};
	int			result = SPI_execute_plan(plan, values, NULL, true, 0);

	if (result != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_plan: %s", SPI_result_code_string(result));
}

/* The k nearest rows of each query, without any index */
static void
find_truth(RecallState *state)
{
	int			level = NewGUCNestLevel();
	SPIPlanPtr	plan;

	set_option("enable_indexscan", "off");
	set_option("enable_bitmapscan", "off");
	set_option("enable_seqscan", "on");
	plan = prepare_search(state);
	for (int i = 0; i < state->nqueries; i++)
	{
		RecallQuery *query = &state->queries[i];

		execute_search(plan, query);
		query->ntrue = count_rows(state, query, INFINITY, &query->radius);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_freeplan(plan);
	AtEOXact_GUC(true, level);
}

static bool
is_scan_of(const Plan *plan, Oid index)
{
	while (plan != NULL && !IsA(plan, IndexScan))
		plan = outerPlan(plan);
	return plan != NULL && ((const IndexScan *) plan)->indexid == index;
}

/* ERROR if the search would be none by the index: times of a sequential scan say nothing of it */
static void
check_plan(const RecallState *state, SPIPlanPtr plan)
{
	CachedPlan *cached = SPI_plan_get_cached_plan(plan);
	bool		is_right = cached != NULL &&
		is_scan_of(linitial_node(PlannedStmt, cached->stmt_list)->planTree, RelationGetRelid(state->index));

	if (cached != NULL)
		ReleaseCachedPlan(cached, NULL);
	if (!is_right)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("searches cannot use index \"%s\"", RelationGetRelationName(state->index)),
				 errdetail("It was tried with: %s.", state->search)));
}

static void
ask_all(const RecallState *state, SPIPlanPtr plan, RecallSums *sums)
{
	memset(sums, 0, sizeof(RecallSums));
	for (int i = 0; i < state->nqueries; i++)
	{
		const RecallQuery *query = &state->queries[i];
		double		last;
		instr_time	start;
		instr_time	end;

		INSTR_TIME_SET_CURRENT(start);
		execute_search(plan, query);
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_SUBTRACT(end, start);
		sums->milliseconds += INSTR_TIME_GET_MILLISEC(end);
		sums->lists += (double) ivfpq_last_scan_stats.lists_probed;
		sums->codes += (double) ivfpq_last_scan_stats.codes_scored;
		sums->rows += (double) ivfpq_last_scan_stats.candidates_reranked;
		sums->wanted += query->ntrue;
		sums->found += Min(query->ntrue, count_rows(state, query, query->radius, &last));
		SPI_freetuptable(SPI_tuptable);
	}
}

/* Search with one setting; with enable_seqscan off, as a small table measures its index as well */
static void
measure(const RecallState *state, const RecallSetting *setting, RecallSums *sums)
{
	int			level = NewGUCNestLevel();

	set_option("enable_indexscan", "on");
	set_option("enable_seqscan", "off");
	set_option("enable_bitmapscan", "off");
	set_option("plan_cache_mode", "force_generic_plan");
	set_option("ivfpq.nprobe", psprintf("%d", setting->nprobe));
	if (setting->nprobe == 0)
		set_option("ivfpq.recall", psprintf("%g", setting->target));
	PG_TRY();
	{
		SPIPlanPtr	plan;

		only_index = RelationGetRelid(state->index);
		plan = prepare_search(state);
		check_plan(state, plan);
		ask_all(state, plan, sums);
		SPI_freeplan(plan);
	}
	PG_FINALLY();
	{
		only_index = InvalidOid;
	}
	PG_END_TRY();
	AtEOXact_GUC(true, level);
}

static int
checked_argument(FunctionCallInfo fcinfo, int number, const char *name, int most)
{
	int			value = PG_ARGISNULL(number) ? 0 : PG_GETARG_INT32(number);

	if (value < 1 || value > most)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be between 1 and %d", name, most)));
	return value;
}

/* What to try where nobody says: ... of ivfpq.recall */
static const double targets[] = {0.9, 0.95, 0.975, 0.99, 0.995, 0.999};

/*
 * What to try: the numbers of lists in the array; else, if the index goes by ivfpq.recall, values of that, and
 * if it has a number of its own, from a quarter of that to four times as many
 */
static RecallSetting *
choose_settings(FunctionCallInfo fcinfo, int number, Relation index, const IvfpqMetaPageData *meta, int *count)
{
	RecallSetting *settings;
	Datum	   *elements;
	bool	   *nulls;

	*count = 0;
	if (PG_ARGISNULL(number))
	{
		bool		by_recall;
		double		own = ivfpq_default_nprobe(index, meta, &by_recall);

		settings = palloc0(Max(lengthof(targets), 5) * sizeof(RecallSetting));
		if (by_recall)
		{
			uint32		last = 0;

			for (int i = 0; i < lengthof(targets); i++)
			{
				uint32		nprobe = vq_recall_nprobe(meta->nprobes, targets[i]);

				if (nprobe > last)
					settings[(*count)++].target = targets[i];
				last = nprobe;
			}
		}
		else
			for (double nprobe = own / 4; nprobe <= own * 4; nprobe *= 2)
			{
				int			next = (int) Min(ceil(nprobe), meta->nlists);

				if (*count == 0 || next > settings[*count - 1].nprobe)
					settings[(*count)++].nprobe = next;
			}
		return settings;
	}
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(number), INT4OID, sizeof(int32), true, TYPALIGN_INT, &elements, &nulls, count);
	settings = palloc0(Max(*count, 1) * sizeof(RecallSetting));
	for (int i = 0; i < *count; i++)
	{
		settings[i].nprobe = nulls[i] ? 0 : DatumGetInt32(elements[i]);
		if (settings[i].nprobe < 1 || settings[i].nprobe > IVFPQ_MAX_LISTS)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("elements of \"nprobes\" must be between 1 and %d", IVFPQ_MAX_LISTS)));
	}
	return settings;
}

/* What one setting gives, as a row */
static void
put_sums(ReturnSetInfo *rsinfo, const RecallState *state, const RecallSetting *setting, const RecallSums *sums)
{
	Datum		values[7];
	bool		nulls[7] = {false};

	values[0] = Float8GetDatum(setting->target);
	nulls[0] = setting->nprobe > 0;
	values[1] = Int32GetDatum(setting->nprobe > 0 ? setting->nprobe : (int) rint(sums->lists / state->nqueries));
	values[2] = Float8GetDatum((double) sums->found / Max(1, sums->wanted));
	nulls[2] = sums->wanted == 0;
	values[3] = Float8GetDatum(rint(sums->milliseconds / state->nqueries * 1000) / 1000);
	values[4] = Float8GetDatum(sums->codes / state->nqueries);
	values[5] = Float8GetDatum(sums->rows / state->nqueries);
	values[6] = Int32GetDatum(state->nqueries);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* As the table's owner: rows for queries, if there are none yet; what is true, and what is found */
static void
measure_all(RecallState *state, int nsample, const RecallSetting *settings, int count, ReturnSetInfo *rsinfo)
{
	char	   *table;
	char	   *key;
	char	   *condition;
	char	   *operator = operator_name(get_opfamily_member(state->index->rd_opfamily[0], state->type, state->type, 1));
	RecallSums	sums;

	describe_index(state->index, &table, &key, &condition);
	state->search = psprintf("SELECT ctid, CAST(%s %s $1 AS pg_catalog.float8) FROM ONLY %s WHERE %s ORDER BY %s %s $1",
							 key, operator, table, condition, key, operator);
	if (nsample > 0)
		sample_queries(state, table, key, condition, nsample);
	if (state->nqueries == 0)
		return;
	find_truth(state);
	if (count > 0)
		measure(state, &settings[0], &sums);	/* to have in memory what searches read */
	for (int i = 0; i < count; i++)
	{
		measure(state, &settings[i], &sums);
		put_sums(rsinfo, state, &settings[i], &sums);
	}
}

Datum
ivfpq_recall(PG_FUNCTION_ARGS)
{
	RecallState state = {.context = CurrentMemoryContext};
	IvfpqMetaPageData meta;
	int			nsample;
	int			count;
	RecallSetting *settings;
	Oid			caller;
	int			security_context;
	int			level;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	state.k = checked_argument(fcinfo, 3, "k", MAX_NEIGHBOURS);
	nsample = checked_argument(fcinfo, 4, "sample", MAX_QUERIES);
	state.index = vq_open_index(PG_GETARG_OID(0), &meta, true);
	state.type = state.index->rd_opcintype[0];
	settings = choose_settings(fcinfo, 2, state.index, &meta, &count);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (!PG_ARGISNULL(1))
	{
		run_queries(&state, text_to_cstring(PG_GETARG_TEXT_PP(1)));
		keep_queries(&state);
		nsample = 0;
	}

	GetUserIdAndSecContext(&caller, &security_context);
	SetUserIdAndSecContext(owner_of_table(state.index), security_context | SECURITY_RESTRICTED_OPERATION);
	level = NewGUCNestLevel();
	VQ_RESTRICT_SEARCH_PATH();
	measure_all(&state, nsample, settings, count, (ReturnSetInfo *) fcinfo->resultinfo);
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(caller, security_context);

	SPI_finish();
	index_close(state.index, NoLock);
	return (Datum) 0;
}

void
ivfpq_init_recall(void)
{
	next_hook = VQ_RELATION_HOOK;
	VQ_RELATION_HOOK = hide_indexes;
}
