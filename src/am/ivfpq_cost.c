/*-------------------------------------------------------------------------
 *
 * ivfpq_cost.c
 *	  What a search costs, for the planner.
 *
 * A search does most of its work before it returns its first row: it compares
 * the query with all centroids, scores the codes of the nearest lists and
 * compares some rows of the table exactly.  That is the startup cost.  Each
 * further row costs about one exact comparison, and now and then the next
 * lists, which is spread evenly over the rest: the planner charges a LIMIT its
 * share of it, and with a filter that keeps one row in a hundred, a hundred
 * times that share.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/heaptoast.h"
#include "am/ivfpq_planner.h"
#include "miscadmin.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "port/pg_bitutils.h"
#include "storage/lmgr.h"
#include "utils/spccache.h"

#include "base/vq_guc.h"

/*
 * Rows compared exactly before the first ones are returned.  The access method
 * never learns the LIMIT; this is what the top 10 take (20 to 50, depending on
 * the code), and one more for each row after them.
 */
#define RERANKED_ROWS		40

/*
 * Work in units of cpu_operator_cost, which is about one call of a simple
 * function: dimensions of a distance, and bytes of codes, that vector
 * instructions get through in that time.
 */
#define DIMS_PER_OPERATOR	100
#define CODE_BYTES_PER_OPERATOR 500

/*
 * A row that a search looks at costs at least as much as so many rows of a sequential scan, in units of cpu_tuple_cost, though
 * its page be in memory: the page is looked up, pinned and locked, and the executor called.  The server charges the pages of the
 * table, but spreads them over all of its rows, which is next to nothing where a page has many (README, Cost).
 */
#define TUPLES_PER_VISIT	30

/* Assumed of an index that cannot be read, as it does not exist */
#define HYPOTHETICAL_FRACTION	0.02

/* Of a path that is not to be taken, whatever others cost */
#define NEVER_COST			1e20

/* What the planner needs to know of an index */
typedef struct SearchShape
{
	bool		is_coded;
	double		nlists;
	double		dim;
	double		vector_bytes;	/* of a row of the table */
	double		code_bytes;		/* of one row, factors and TID included */
	double		attribute_bytes;	/* of one row */
	double		probe_fraction; /* of the rows, that the first lists have */
	double		reach_fraction; /* of the rows, that a search can get to */
} SearchShape;

static void
hypothetical_shape(const IndexOptInfo *info, SearchShape *shape)
{
	memset(shape, 0, sizeof(SearchShape));
	shape->is_coded = true;
	shape->nlists = Max(1.0, sqrt(info->tuples));
	shape->probe_fraction = HYPOTHETICAL_FRACTION;
	shape->reach_fraction = 1.0;
}

static void
search_shape(const IndexOptInfo *info, SearchShape *shape)
{
	/* The planner has locked it when it looked up the table's indexes */
	Relation	index = index_open(info->indexoid, NoLock);
	IvfpqMetaPageData meta;
	double		nprobe;
	double		max_probes;
	bool		is_mean;		/* which is what a plan goes by */

	ivfpq_meta_read(index, &meta);
	nprobe = ivfpq_search_nprobe(index, &meta, &is_mean);
	shape->vector_bytes = (double) meta.dim *
		(ivfpq_datum_kind(index, index->rd_opcintype[0]) == VQ_DATUM_HALFVEC ? sizeof(uint16) : sizeof(float));
	index_close(index, NoLock);

	if (ivfpq_iterative_scan == VQ_ITERATIVE_OFF)
		max_probes = nprobe;
	else if (ivfpq_max_probes > 0)
		max_probes = Max(nprobe, Min((uint32) ivfpq_max_probes, meta.nlists));
	else
		max_probes = meta.nlists;

	shape->is_coded = meta.codec != IVFPQ_CODEC_NONE;
	shape->nlists = meta.nlists;
	shape->dim = meta.dim;
	shape->code_bytes = meta.m * meta.nbits / 8.0 + sizeof(VqFactors) + VQ_TID_BYTES * (1 + meta.has_chunk_tids);
	shape->attribute_bytes = meta.nattributes * sizeof(int32) + pg_popcount32(meta.wide_attributes) * sizeof(int32);
	shape->probe_fraction = nprobe / meta.nlists;
	shape->reach_fraction = max_probes / meta.nlists;
}

/*
 * Bytes of a row's vector in the table's TOAST table, 0 if it is in the row.
 * Random floats do not compress, so the size of an average row tells.
 */
static double
toasted_bytes(const RelOptInfo *rel, double vector_bytes)
{
	if (vector_bytes <= TOAST_TUPLE_TARGET || rel->tuples < 1 ||
		(double) rel->pages * BLCKSZ / rel->tuples >= vector_bytes)
		return 0.0;
	return vector_bytes;
}

/* What a class has been merged into */
static const EquivalenceClass *
canonical(const EquivalenceClass *class)
{
	while (class != NULL && class->ec_merged != NULL)
		class = class->ec_merged;
	return class;
}

/*
 * Does more than ORDER BY depend on the order?  Rows of lists that join in later
 * come out of order.  A LIMIT can live with that, and so can the ranks of its rows;
 * groups, DISTINCT, other windows, set operations, aggregates with an order (which have
 * pathkeys of groups from 16 on) and merge joins would be wrong.  What is around the query
 * does not see it (ivfpq_order.c).
 */
static bool
needs_true_order(const PlannerInfo *root, const RelOptInfo *rel)
{
	PathKey    *key = linitial(root->query_pathkeys);
	int			nmembers = 0;
	ListCell   *cell;

	if (root->parse->groupClause || root->group_pathkeys != NIL || root->parse->distinctClause ||
		(root->parse->hasWindowFuncs && ivfpq_rows_ranked(root) == NULL))
		return true;
#if PG_VERSION_NUM >= 170000
	/* a branch with an ORDER BY of its own has its order mended like any query */
	if (root->setop_pathkeys != NIL && root->sort_pathkeys == NIL)
		return true;
#endif

	/* the distance equals something else: a merge join could use its order */
	foreach(cell, key->pk_eclass->ec_members)
		nmembers += !((EquivalenceMember *) lfirst(cell))->em_is_child;
	if (nmembers > 1)
		return true;

	/* or it is compared with something else by an outer join, which makes nothing equal */
	foreach(cell, rel->joininfo)
	{
		const RestrictInfo *clause = lfirst(cell);

		if (clause->mergeopfamilies != NIL &&
			(canonical(clause->left_ec) == key->pk_eclass || canonical(clause->right_ec) == key->pk_eclass))
			return true;
	}
	return false;
}

/* Whether there is a condition with the search key's operator in the query, which the server takes for exact */
static bool
has_key_of_query(const IndexPath *path)
{
	ListCell   *cell;

	foreach(cell, path->indexclauses)
	{
		const IndexClause *clause = lfirst_node(IndexClause, cell);

		if (clause->indexcol == 0 && !clause->lossy && !IsA(clause->rinfo->clause, NullTest))
			return true;
	}
	return false;
}

/* Of the entries, the share that pass the conditions on attributes */
static Selectivity
attribute_selectivity(PlannerInfo *root, const IndexPath *path)
{
	List	   *conditions = NIL;
	ListCell   *cell;

	foreach(cell, path->indexclauses)
	{
		const IndexClause *clause = lfirst_node(IndexClause, cell);

		if (clause->indexcol > 0)
			conditions = lappend(conditions, clause->rinfo);
	}
	return clauselist_selectivity(root, conditions, path->indexinfo->rel->relid, JOIN_INNER, NULL);
}

/*
 * Is a path inside of a nested loop, where its order is lost, so that it would only find the rows of a
 * condition on an attribute?  Those of ivfpq_paths.c are for a row whose distance orders them.
 */
static bool
is_lookup(PlannerInfo *root, const IndexPath *path)
{
	return path->path.param_info != NULL &&
		bms_is_subset(pull_varnos(root, (Node *) path->indexorderbys), path->indexinfo->rel->relids);
}

/*
 * A search that finds few rows, by a condition on an attribute, costs little to the end; but as it leaves out rows
 * without a vector, and what settings keep it from, it is none to be taken for other things than the order and the LIMIT
 * of its own table.  So elsewhere all of it is made to cost more than reading the table, and without a LIMIT more than
 * reading and sorting it.
 * Before version 18 that has a price of its own if the user disables it; from then on the index is read in a join if the user has
 * disabled all other ways.  Who disables sorting has asked for the index.
 */
static Cost
least_total(PlannerInfo *root, const RelOptInfo *rel, double seq_page)
{
	bool		is_alone = bms_membership(root->all_baserels) == BMS_SINGLETON;
	Path		sort;
	Cost		table;

	if (ivfpq_is_limited(root) && is_alone)
		return 0;
	table = rel->pages * seq_page + rel->baserestrictcost.startup +
		rel->tuples * (cpu_tuple_cost + rel->baserestrictcost.per_tuple);
#if PG_VERSION_NUM < 180000
	if (!enable_seqscan && !is_alone)
		table += disable_cost;
#endif
	if (ivfpq_is_limited(root))
		return 1.01 * table;
	VQ_COST_SORT(&sort, root, table, rel->rows, rel->reltarget->width);
#if PG_VERSION_NUM < 180000
	if (!enable_sort)
		sort.total_cost -= disable_cost;
#endif
	return 1.01 * sort.total_cost;
}

/* Does a query want only rows without a vector, of which an index has none? */
static bool
wants_no_vector(const IndexPath *path)
{
	const Node *key = (const Node *) linitial_node(TargetEntry, path->indexinfo->indextlist)->expr;
	ListCell   *cell;

	foreach(cell, path->indexinfo->rel->baserestrictinfo)
	{
		const NullTest *test = (const NullTest *) lfirst_node(RestrictInfo, cell)->clause;

		if (IsA(test, NullTest) && test->nulltesttype == IS_NULL &&
			(equal(test->arg, key) || equal(test->arg, linitial(path->indexorderbys))))
			return true;
	}
	return false;
}

/* amcostestimate */
void
ivfpqcostestimate(PlannerInfo *root, IndexPath *path, double loop_count,
				  Cost *startup, Cost *total, Selectivity *selectivity,
				  double *correlation, double *pages)
{
	const IndexOptInfo *info = path->indexinfo;
	const RelOptInfo *rel = info->rel;
	SearchShape shape;
	double		indexed_fraction;
	double		random_page;
	double		seq_page;
	double		heap_random_page;
	double		heap_seq_page;
	double		discount;
	double		toasted;
	double		compared;
	double		passing;
	double		row_cost;
	double		visit_cost;
	double		entry_cost;
	double		list_cost;
	double		compared_lists;
	double		probed_pages;
	double		random_pages;
	double		probed_rows;
	double		reranked_rows;
	double		heap_pages;

	*correlation = 0.0;

	/*
	 * Only for ORDER BY one distance, and nothing that builds on it or wants all rows.  The server
	 * also asks for paths without any order, for partial indexes, and with two
	 * keys that both match the one column.  From 18 on it looks at disabled_nodes before the cost, and
	 * a sequential scan that the user disabled has one.  The cost is finite, as the
	 * planner subtracts costs.
	 */
	if (list_length(path->indexorderbys) != 1 || has_key_of_query(path) || is_lookup(root, path) || needs_true_order(root, rel) ||
		!ivfpq_wants_first(root) || wants_no_vector(path))
	{
		*startup = *total = NEVER_COST;
		*selectivity = 0.0;
		*pages = 0;
#if PG_VERSION_NUM >= 180000
		path->path.disabled_nodes = 2;
#endif
		return;
	}

	if (info->hypothetical)
		hypothetical_shape(info, &shape);
	else
		search_shape(info, &shape);

	/* Below 1 for a partial index */
	indexed_fraction = rel->tuples > 0 ? Min(1.0, info->tuples / rel->tuples) : 1.0;

	get_tablespace_page_costs(info->reltablespace, &random_page, &seq_page);
	get_tablespace_page_costs(rel->reltablespace, &heap_random_page, &heap_seq_page);

	/*
	 * One row looked at, on some other page than the one before, and if the conditions of the query
	 * do not discard it, compared exactly.  A vector in the TOAST table is a row more for each of its chunks,
	 * and an entry of the TOAST table's index.
	 */
	toasted = toasted_bytes(rel, shape.vector_bytes);
	passing = attribute_selectivity(root, path);
	compared = ivfpq_filter_selectivity(root, path);
	row_cost = 2.0 * cpu_tuple_cost + cpu_operator_cost +
		compared * (cpu_operator_cost * shape.dim / DIMS_PER_OPERATOR +
					2.0 * cpu_tuple_cost * ceil(toasted / TOAST_MAX_CHUNK_SIZE));

	if (!shape.is_coded)
	{
		double		rows = info->tuples * passing;

		/*
		 * Without codes every row is read and then sorted, which is what a
		 * sequential scan does with less trouble.
		 */
		heap_pages = index_pages_fetched(rows * loop_count, rel->pages, info->pages, root) / loop_count;
		*startup = info->pages * seq_page + heap_pages * heap_random_page + info->tuples * cpu_operator_cost +
			rows * (row_cost + 2.0 * cpu_operator_cost * log2(Max(rows, 2.0)));
		*total = *startup;
		*total = Max(*total, least_total(root, rel, heap_seq_page));
		*selectivity = indexed_fraction * passing;
		*pages = info->pages;
		return;
	}

	/*
	 * The planner does not count the pages of TOAST tables: 10,000 rows of
	 * 1,536 dimensions look like 60 pages and are 8,000.  As our cost is
	 * compared with those of other plans, our pages have to be counted by the
	 * same measure.  But others read TOAST only for rows that pass their filter.
	 */
	discount = 1.0;
	if (toasted > 0.0)
	{
		double		row_bytes = Max(1.0, (double) rel->pages * BLCKSZ / rel->tuples);
		double		wanted = Min(1.0, Max(1.0, rel->rows) / rel->tuples);

		discount = row_bytes / (row_bytes + wanted * toasted);
	}

	/*
	 * A page holds several short lists, and a long list is contiguous: one
	 * random access for each list at most, and none for what other searches
	 * of a nested loop have left in the cache.
	 */
	probed_rows = Max(1.0, info->tuples * shape.probe_fraction);
	probed_pages = Max(1.0, ceil(info->pages * shape.probe_fraction));
	random_pages = Min(probed_pages, Max(1.0, shape.nlists * shape.probe_fraction));
	probed_pages = index_pages_fetched(probed_pages * loop_count, info->pages, info->pages, root) / loop_count;
	random_pages = Min(random_pages, probed_pages);

	reranked_rows = Min(Max(1.0, probed_rows * passing), RERANKED_ROWS);
	heap_pages = index_pages_fetched(reranked_rows * loop_count, rel->pages, info->pages, root) / loop_count;

	/* the attributes of all entries are looked at, and the codes of a block with one that passes */
	entry_cost = cpu_operator_cost / CODE_BYTES_PER_OPERATOR *
		(shape.attribute_bytes + shape.code_bytes * (passing < 1.0 ? 1.0 - pow(1.0 - passing, VQ_BLOCK_LANES) : 1.0));

	/*
	 * Centroids are read by every search and so are in memory; only comparing
	 * them is charged: of all groups, and of some more lists than are searched.
	 */
	list_cost = cpu_operator_cost * (1.0 + shape.dim / DIMS_PER_OPERATOR);
	compared_lists = Min(shape.nlists, sqrt(shape.nlists) + 2.0 * shape.nlists * shape.probe_fraction);

	*startup = compared_lists * list_cost +
		discount * (random_pages * random_page + (probed_pages - random_pages) * seq_page) +
		probed_rows * entry_cost +
		discount * heap_pages * heap_random_page + reranked_rows * row_cost;

	/*
	 * The rest: the lists after the first ones, and one comparison for each
	 * row.  The pages of the table are not in it, because the server charges
	 * them itself for the rows that it is given; visit_cost is what that falls short by if all are looked at.
	 */
	visit_cost = Max(0.0, TUPLES_PER_VISIT * cpu_tuple_cost - rel->pages * heap_random_page / Max(1.0, rel->tuples));
	*total = *startup +
		discount * info->pages * (shape.reach_fraction - shape.probe_fraction) * seq_page +
		info->tuples * shape.reach_fraction *
		(entry_cost + passing * (row_cost + visit_cost + discount * compared * ceil(toasted / BLCKSZ) * seq_page));

	*total = Max(*total, least_total(root, rel, heap_seq_page));
	*selectivity = indexed_fraction * shape.reach_fraction * passing;
	*pages = probed_pages;
}
