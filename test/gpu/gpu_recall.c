/*-------------------------------------------------------------------------
 *
 * gpu_recall.c
 *	  Do two models find the same?  A search like that of an index, without a
 *	  server.
 *
 *		gpu_recall BASE QUERIES LIBRARY MODEL OTHER_LIBRARY OTHER_MODEL
 *				   [--rows N] [--queries N]
 *
 * BASE and QUERIES are what data_read takes, models are of gpu_train.  The
 * rows of BASE are assigned and coded by each LIBRARY with its MODEL: the
 * stand-in and its model are the yardstick, the plug-in and its model what is
 * judged.  A model that was carried here from another machine is judged with
 * the stand-in as OTHER_LIBRARY, or the plug-in's emulator.
 *
 * A query scores the blocks of its nearest lists, and compares rows exactly in
 * the order of their bounds until the ten nearest are certain (ivfpq_scan.c;
 * epsilon is the default).  Printed for each number of lists: the share of the
 * ten nearest of all rows that was found, and per query how many rows were
 * scored and how many compared exactly.
 *
 * From the number of lists on that gives the yardstick a recall of .97, or with
 * the largest if none does, recall may differ by .005.  Rows scored and rows
 * compared may be a twentieth more there: bad codes cost time, not recall, as
 * bounds know how good codes are.
 *
 * The last line says "N passed, M failed"; the exit status is 1 if any failed,
 * 2 if nothing could be judged.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu_data.h"
#include "gpu_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/vq_select.h"

#define NEAREST 10
#define EPSILON 2.0f			/* ivfpq.epsilon */
#define BATCH_ROWS 8192

#define WANTED_RECALL 0.97
#define RECALL_TOLERANCE 0.005
#define COST_TOLERANCE 0.05
#define COST_ROWS 2				/* and so many rows, where there are few */

/* Numbers of lists to read */
static const size_t probes_tried[] = {1, 2, 4, 8, 16, 32, 64};

#define NTRIED (sizeof(probes_tried) / sizeof(probes_tried[0]))

static const VqKernels *kernels;

typedef struct Rows
{
	size_t		nrows;
	size_t		dim;
	float	   *values;			/* [nrows][dim] */
} Rows;

typedef struct List
{
	size_t		nrows;
	uint32_t   *rows;			/* [nrows], numbers in the base */
	uint8_t    *blocks;			/* full ones */
} List;

typedef struct Index
{
	const char *name;
	GpuModel	model;
	const Rows *base;
	VqBlockShape shape;
	size_t		block_bytes;
	float	   *norms;			/* [nlists], |c|^2 / 2 */
	List	   *lists;			/* [nlists] */
} Index;

/* What all queries cost and found, for one number of lists */
typedef struct Outcome
{
	double		recall;
	double		nscored;
	double		ncompared;
} Outcome;

/*----------
 * The index
 *----------
 */

/* Put coded rows into the blocks of their lists; labels and codes are those of the base's first nrows */
static void
fill_lists(Index *index, const uint32_t *labels, const uint8_t *codes, const VqFactors *factors)
{
	static const uint8_t tid[VQ_TID_BYTES] = {0, 0, 0, 0, 1, 0};
	size_t		nrows = index->base->nrows;

	for (size_t i = 0; i < nrows; i++)
		index->lists[labels[i]].nrows++;
	for (size_t j = 0; j < index->model.nlists; j++)
	{
		List	   *list = &index->lists[j];
		size_t		nblocks = (list->nrows + VQ_BLOCK_LANES - 1) / VQ_BLOCK_LANES;

		list->rows = data_alloc(list->nrows, sizeof(uint32_t));
		list->blocks = data_alloc(nblocks, index->block_bytes);
		for (size_t b = 0; b < nblocks; b++)
			vq_block_init(list->blocks + b * index->block_bytes, &index->shape, (uint32_t) j, VQ_BLOCK_LANES);
		list->nrows = 0;
	}
	for (size_t i = 0; i < nrows; i++)
	{
		List	   *list = &index->lists[labels[i]];

		vq_block_put(list->blocks + list->nrows / VQ_BLOCK_LANES * index->block_bytes, &index->shape,
					 list->nrows % VQ_BLOCK_LANES, tid, &factors[i], codes + i * index->shape.m);
		list->rows[list->nrows++] = (uint32_t) i;
	}
}

/* Assign and code all rows of the base by the plug-in */
static void
encode(const VqGpuInterface *interface, const Index *index, uint32_t *labels, uint8_t *codes, VqFactors *factors)
{
	const VqCodec *codec = &index->model.codec;
	const Rows *base = index->base;
	size_t		dim = base->dim;
	size_t		m = codec->pq.m;
	VqGpuModel	model = {
		.metric = codec->metric,
		.dim = dim,
		.pq = codec->pq,
		.projection = codec->is_projected ? &codec->projection : NULL,
		.error_scale = codec->error_scale,
		.ncentroids = index->model.nlists,
		.centroids = index->model.centroids,
		.codebook = codec->codebook
	};
	VqGpuOptions options;
	VqGpuError	error;
	VqGpu	   *gpu;
	size_t		first = 0;
	size_t		collected = 0;

	memset(&options, 0, sizeof(options));
	options.device = VQ_GPU_ALL_DEVICES;
	data_must(interface->open(&options, &gpu, &error), &error, "open");
	data_must(interface->encode_begin(gpu, &model, BATCH_ROWS, &error), &error, "encode_begin");
	while (collected < base->nrows)
	{
		VqGpuBatch *batch = NULL;

		if (first < base->nrows)
			data_must(interface->encode_acquire(gpu, &batch, &error), &error, "encode_acquire");
		if (batch != NULL)
		{
			batch->nrows = base->nrows - first < batch->capacity ? base->nrows - first : batch->capacity;
			for (size_t i = 0; i < batch->nrows; i++)
				if (vq_codec_transform(kernels, codec, base->values + (first + i) * dim,
									   batch->rows + i * batch->stride) != VQ_OK)
					data_die(index->name, "has no place for a row in its space");
			first += batch->nrows;
			data_must(interface->encode_submit(gpu, batch, &error), &error, "encode_submit");
			continue;
		}
		data_must(interface->encode_collect(gpu, &batch, &error), &error, "encode_collect");
		for (size_t i = 0; i < batch->nrows; i++)
			if (batch->labels[i] >= index->model.nlists)
				data_die(index->name, "a row was assigned to no list");
		memcpy(labels + collected, batch->labels, batch->nrows * sizeof(uint32_t));
		memcpy(codes + collected * m, batch->codes, batch->nrows * m);
		memcpy(factors + collected, batch->factors, batch->nrows * sizeof(VqFactors));
		collected += batch->nrows;
		interface->encode_release(gpu, batch);
	}
	interface->close(gpu);
}

static void
open_index(Index *index, const char *library, const char *name, const Rows *base)
{
	const VqPq *pq = &index->model.codec.pq;
	VqGpuInterface interface;
	VqGpuError	error;
	uint32_t   *labels;
	uint8_t    *codes;
	VqFactors  *factors;

	memset(index, 0, sizeof(*index));
	model_read(&index->model, name);
	if (index->model.codec.dim != base->dim)
		data_die(name, "is for vectors of another dimension");
	index->name = name;
	index->base = base;
	index->shape.m = pq->m;
	index->shape.nbits = pq->nbits;
	index->block_bytes = vq_block_bytes(&index->shape, VQ_BLOCK_LANES);
	index->norms = data_alloc(index->model.nlists, sizeof(float));
	index->lists = data_alloc(index->model.nlists, sizeof(List));
	vq_kmeans_norms(kernels, index->model.centroids, index->model.nlists, base->dim, index->norms);
	labels = data_alloc(base->nrows, sizeof(uint32_t));
	codes = data_alloc(base->nrows, pq->m);
	factors = data_alloc(base->nrows, sizeof(VqFactors));
	data_must(vq_gpu_load(library, &interface, &error), &error, "load");
	encode(&interface, index, labels, codes, factors);
	fill_lists(index, labels, codes, factors);
	free(labels);
	free(codes);
	free(factors);
}

static void
close_index(Index *index)
{
	for (size_t j = 0; j < index->model.nlists; j++)
	{
		free(index->lists[j].rows);
		free(index->lists[j].blocks);
	}
	free(index->lists);
	free(index->norms);
	model_free(&index->model);
}

/*----------
 * Searching
 *----------
 */

/* Smaller is nearer, and only that */
static double
exact_value(VqMetric metric, const float *q, const float *x, size_t dim)
{
	float		products[3];

	if (metric == VQ_METRIC_L2)
		return kernels->l2sq_f32(q, x, dim);
	kernels->ip_norms_f32(q, x, dim, products);
	if (metric == VQ_METRIC_IP)
		return -products[0];
	return 1 - products[0] / sqrt((double) products[1] * products[2]);
}

/* The NEAREST smallest values so far, in order */
static void
keep_nearest(double *nearest, double value)
{
	size_t		place = NEAREST - 1;

	if (value >= nearest[place])
		return;
	for (; place > 0 && nearest[place - 1] > value; place--)
		nearest[place] = nearest[place - 1];
	nearest[place] = value;
}

static void
forget_nearest(double *nearest)
{
	for (size_t i = 0; i < NEAREST; i++)
		nearest[i] = INFINITY;
}

/* For each query the value of its farthest of the nearest, of all rows */
static double *
find_truth(const Rows *base, const Rows *queries, VqMetric metric)
{
	double	   *truth = data_alloc(queries->nrows, sizeof(double));
	double		nearest[NEAREST];

	for (size_t i = 0; i < queries->nrows; i++)
	{
		forget_nearest(nearest);
		for (size_t j = 0; j < base->nrows; j++)
			keep_nearest(nearest, exact_value(metric, queries->values + i * base->dim,
											  base->values + j * base->dim, base->dim));
		truth[i] = nearest[NEAREST - 1];
	}
	return truth;
}

/* A list and its place in the order of probing */
typedef struct Probe
{
	float		value;
	float		distance_sq;
	uint32_t	list_no;
} Probe;

static int
compare_probes(const void *a, const void *b)
{
	const Probe *x = a;
	const Probe *y = b;

	if (x->value != y->value)
		return x->value < y->value ? -1 : 1;
	return (x->list_no > y->list_no) - (x->list_no < y->list_no);
}

/* Score a list into items, whose ids are numbers of rows; returns how many */
static size_t
score_list(const Index *index, const VqQuery *query, const Probe *probe, VqItem *items)
{
	const List *list = &index->lists[probe->list_no];
	VqBound		bound;

	vq_codec_list_bound(&index->model.codec, query, probe->distance_sq, 2 * index->norms[probe->list_no],
						EPSILON, &bound);
	for (size_t start = 0; start < list->nrows; start += VQ_BLOCK_LANES)
	{
		const uint8_t *block = list->blocks + start / VQ_BLOCK_LANES * index->block_bytes;
		uint32_t	sums[VQ_BLOCK_LANES];
		float		low[VQ_BLOCK_LANES];

		vq_block_sums(kernels, block, &index->shape, query->lut, sums);
		kernels->bound(vq_block_a(block, &index->shape), vq_block_s(block, &index->shape),
					   vq_block_e(block, &index->shape), sums, VQ_BLOCK_LANES, &bound, INFINITY, low);
		for (size_t slot = 0; slot < VQ_BLOCK_LANES && start + slot < list->nrows; slot++)
			items[start + slot] = (VqItem) {.key = low[slot],.id_high = list->rows[start + slot]};
	}
	return list->nrows;
}

/* Take items in the order of their bounds until the nearest are certain; items are reordered */
static void
take_nearest(const Index *index, const VqQuery *query, const float *q, double truth, VqItem *items,
			 size_t nitems, Outcome *outcome)
{
	size_t		dim = index->base->dim;
	double		nearest[NEAREST];
	const VqItem *item;
	VqSelect	select;

	forget_nearest(nearest);
	vq_select_init(&select, items, nitems);
	while ((item = vq_select_take(&select)) != NULL && item->key < query->unit * nearest[NEAREST - 1])
	{
		keep_nearest(nearest, exact_value(index->model.codec.metric, q, index->base->values + item->id_high * dim, dim));
		outcome->ncompared++;
	}
	outcome->nscored += (double) nitems;

	/* Equal values count as found, whichever row they are of */
	for (size_t i = 0; i < NEAREST; i++)
		outcome->recall += nearest[i] <= truth;
}

/* Search for all queries, with each number of lists; outcomes are per query */
static void
search(const Index *index, const Rows *queries, const double *truth, Outcome *outcomes)
{
	const VqCodec *codec = &index->model.codec;
	const VqPq *pq = &codec->pq;
	size_t		nlists = index->model.nlists;
	size_t		dim = index->base->dim;
	Probe	   *probes = data_alloc(nlists, sizeof(Probe));
	VqItem	   *items = data_alloc(index->base->nrows, sizeof(VqItem));
	VqItem	   *taken = data_alloc(index->base->nrows, sizeof(VqItem));
	VqQuery		query;

	query.q_model = data_alloc(dim, sizeof(float));
	query.q_code = data_alloc(vq_codec_code_floats(codec), sizeof(float));
	query.lut_floats = data_alloc((size_t) pq->m * pq->ksub, sizeof(float));
	query.lut = data_alloc((size_t) pq->m * pq->ksub, 1);
	memset(outcomes, 0, NTRIED * sizeof(Outcome));
	for (size_t i = 0; i < queries->nrows; i++)
	{
		const float *q = queries->values + i * dim;
		size_t		nitems = 0;
		size_t		nscored = 0;

		if (vq_codec_query(kernels, codec, q, &query) != VQ_OK)
			data_die(index->name, "has no place for a query in its space");
		for (size_t j = 0; j < nlists; j++)
		{
			probes[j].list_no = (uint32_t) j;
			probes[j].distance_sq = kernels->l2sq_f32(query.q_model, index->model.centroids + j * dim, dim);
			probes[j].value = vq_codec_list_value(codec, &query, probes[j].distance_sq, 2 * index->norms[j]);
		}
		qsort(probes, nlists, sizeof(Probe), compare_probes);
		for (size_t p = 0; p < NTRIED; p++)
		{
			for (; nscored < nlists && nscored < probes_tried[p]; nscored++)
				nitems += score_list(index, &query, &probes[nscored], items + nitems);
			memcpy(taken, items, nitems * sizeof(VqItem));
			take_nearest(index, &query, q, truth[i], taken, nitems, &outcomes[p]);
		}
	}
	for (size_t p = 0; p < NTRIED; p++)
	{
		outcomes[p].recall /= (double) (NEAREST * queries->nrows);
		outcomes[p].nscored /= (double) queries->nrows;
		outcomes[p].ncompared /= (double) queries->nrows;
	}
	free(probes);
	free(items);
	free(taken);
	free(query.q_model);
	free(query.q_code);
	free(query.lut_floats);
	free(query.lut);
}

/*----------
 * Judgement
 *----------
 */

static int	npassed;
static int	nfailed;

static void
judge(bool is_right, const char *what, size_t nprobe, double got, double want)
{
	if (is_right)
		npassed++;
	else
		nfailed++;
	printf("%-6s %s with %zu lists: %.4f, the yardstick has %.4f\n", is_right ? "ok" : "FAILED", what, nprobe, got, want);
}

static void
compare(const Outcome *want, const Outcome *got)
{
	size_t		p = 0;

	while (p + 1 < NTRIED && want[p].recall < WANTED_RECALL)
		p++;
	for (; p < NTRIED; p++)
	{
		judge(fabs(got[p].recall - want[p].recall) <= RECALL_TOLERANCE, "recall", probes_tried[p], got[p].recall,
			  want[p].recall);
		judge(got[p].nscored <= want[p].nscored * (1 + COST_TOLERANCE) + COST_ROWS, "rows scored", probes_tried[p],
			  got[p].nscored, want[p].nscored);
		judge(got[p].ncompared <= want[p].ncompared * (1 + COST_TOLERANCE) + COST_ROWS, "rows compared",
			  probes_tried[p], got[p].ncompared, want[p].ncompared);
	}
}

int
main(int argc, char **argv)
{
	Index		indexes[2];
	Outcome		outcomes[2][NTRIED];
	Rows		base;
	Rows		queries;
	size_t		max_rows = 0;
	size_t		max_queries = 0;
	double	   *truth;

	for (int i = 7; i + 1 < argc; i += 2)
	{
		if (strcmp(argv[i], "--rows") == 0)
			max_rows = strtoul(argv[i + 1], NULL, 10);
		else if (strcmp(argv[i], "--queries") == 0)
			max_queries = strtoul(argv[i + 1], NULL, 10);
		else
			data_die(argv[i], "is no option");
	}
	if (argc < 7 || argc % 2 == 0)
	{
		fprintf(stderr, "usage: %s BASE QUERIES LIBRARY MODEL OTHER_LIBRARY OTHER_MODEL [--rows N] [--queries N]\n",
				argv[0]);
		return 2;
	}
	kernels = vq_kernels_by_name("auto");
	base.values = data_read(argv[1], max_rows, &base.nrows, &base.dim);
	queries.values = data_read(argv[2], max_queries, &queries.nrows, &queries.dim);
	if (base.dim != queries.dim || base.nrows < NEAREST || queries.nrows < 1)
		data_die(argv[2], "does not fit the base, or one of them has too few rows");
	for (int i = 0; i < 2; i++)
		open_index(&indexes[i], argv[3 + 2 * i], argv[4 + 2 * i], &base);
	if (indexes[0].model.codec.metric != indexes[1].model.codec.metric)
		data_die(argv[6], "is for another metric");
	truth = find_truth(&base, &queries, indexes[0].model.codec.metric);
	printf("%zu rows of %zu dimensions, %zu queries\n%-32s %6s %10s %12s %14s\n", base.nrows, base.dim, queries.nrows,
		   "model", "lists", "recall@10", "rows scored", "rows compared");
	for (int i = 0; i < 2; i++)
	{
		search(&indexes[i], &queries, truth, outcomes[i]);
		for (size_t p = 0; p < NTRIED; p++)
			printf("%-32s %6zu %10.4f %12.1f %14.1f\n", indexes[i].name, probes_tried[p], outcomes[i][p].recall,
				   outcomes[i][p].nscored, outcomes[i][p].ncompared);
		close_index(&indexes[i]);
	}
	compare(outcomes[0], outcomes[1]);
	free(truth);
	free(base.values);
	free(queries.values);
	printf("%d passed, %d failed\n", npassed, nfailed);
	return nfailed > 0;
}
