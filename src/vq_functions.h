/*-------------------------------------------------------------------------
 *
 * vq_functions.h
 *	  What files of SQL functions have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_FUNCTIONS_H
#define VQ_FUNCTIONS_H

#include "postgres.h"

#include "am/ivfpq.h"

/*
 * Open an index under AccessShareLock, and read its metapage.  ERROR if it is none of ours
 * or not ready, or the caller may not read the table: all of it, or, for statistics, any table's.
 */
extern Relation vq_open_index(Oid index_oid, IvfpqMetaPageData *meta, bool is_for_statistics);

/* vq_recall.c; once per process, from _PG_init */
extern void ivfpq_init_recall(void);

#endif							/* VQ_FUNCTIONS_H */
