/*-------------------------------------------------------------------------
 *
 * vq_spread.h
 *	  How many lists one query should read, where many are to read so many in the mean.
 *
 * Some queries have one list near them and the others far off, others are between
 * many that are about as far away, and have their neighbours in more of them.  How the
 * distances of its lists grow tells before anything is scored (Li, Zhang, Andersen
 * & He, "Improving approximate nearest neighbor search through learned adaptive early
 * termination", SIGMOD 2020, have it among what their trees learn from).  One ratio is
 * enough: of the distance of the list of some rank and that of the nearest.  A query reads
 *
 *		nprobe * exp(-power * (log(ratio) - mean))
 *
 * lists, and a build finds the power with which its queries read the fewest for the same recall.
 * On SIFT, word vectors and a million synthetic rows that is a fifth to a third fewer codes scored, at
 * .9 to .995, and half as many queries are far below the recall of all (bench/FINDINGS.md).
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_SPREAD_H
#define VQ_SPREAD_H

#include "kernels/vq_base.h"
#include "kernels/vq_select.h"

typedef struct VqSpread
{
	uint32_t	rank;			/* of the list whose distance tells; 0 if all queries are to read as many */
	float		mean;			/* logarithm of the ratio of distances at which a query reads as many as the mean */
	float		power;			/* of that ratio, by which the number of lists is divided */
} VqSpread;

/* Shares of near rows for which a build finds out how many lists have them: .5 to .999, ascending */
#define VQ_NRECALLS		9
extern const double vq_recalls[VQ_NRECALLS];

/* Lists that hold a share of near rows, by those that hold each of vq_recalls; the latter for a share that is beyond these */
extern uint32_t vq_recall_nprobe(const uint32_t *nprobes, double recall);

/* A query reads at most so many times as many lists as the mean, and at least one in as many */
#define VQ_SPREAD_MOST_TIMES	4.0

/* How far a list is from a query, from squares: ratios of that tell how many lists the query should read */
extern double vq_list_distance(VqMetric metric, double distance_sq, double query_norm_sq, double centroid_norm_sq);

/*
 * That number, 1 to nlists, where nprobe are read in the mean, and the nearest list and the one of spread->rank are so far
 * away.  Where nprobe is nlists or more it is that: all means all.
 */
extern uint32_t vq_spread_nprobe(const VqSpread *spread, uint32_t nlists, uint32_t nprobe, double nearest, double other);

/* Lists of which vq_spread_measure tells the distance: the nearest, and those of ranks 4, 8, ... 1,024 */
#define VQ_SPREAD_RANKS		10

/*
 * The distances of these lists from a query, float[VQ_SPREAD_RANKS], left as they are where there are
 * fewer lists.  values, float[nlists], are those that lists are ordered by: squared distances, or negative
 * inner products, for which norms_sq are the squared norms of centroids.  items is VqItem[nlists], work space.
 */
extern void vq_spread_measure(VqMetric metric, const float *values, const float *norms_sq, double query_norm_sq,
							  uint32_t nlists, VqItem *items, float *distances);

/* Bytes of work space for vq_spread_choose, aligned to 8 */
extern size_t vq_spread_work_bytes(size_t nqueries, size_t nneighbours);

/*
 * How queries differ, and how many lists they read in the mean for each of vq_recalls, 1 to nlists, ascending (nprobes).  ranks
 * are those of the lists of near neighbours, uint64_t[nqueries][nneighbours], from 1; 0 where there is none, which come
 * last.  distances is float[nqueries][VQ_SPREAD_RANKS].
 */
extern void vq_spread_choose(const uint64_t *ranks, size_t nqueries, size_t nneighbours, const float *distances,
							 uint32_t nlists, void *work, VqSpread *spread, uint32_t *nprobes);

#endif							/* VQ_SPREAD_H */
