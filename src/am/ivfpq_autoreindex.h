/*-------------------------------------------------------------------------
 *
 * ivfpq_autoreindex.h
 *	  What the files that have indexes rebuilt promise each other:
 *	  ivfpq_autoreindex.c, _autoreindex_worker.c and _leftovers.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_AUTOREINDEX_H
#define IVFPQ_AUTOREINDEX_H

#include "am/ivfpq.h"
#include "storage/lock.h"

/*----------
 * ivfpq_autoreindex.c
 *----------
 */

/* What the worker's locks stand for: it works, and it waits for the one that works */
#define IVFPQ_LOCK_WORKING	1
#define IVFPQ_LOCK_WAITING	2

/*
 * The tag of one of these locks, in this database, which neither the server nor users have.  To be taken
 * for the session: such a lock lasts through errors of transactions.
 */
extern LOCKTAG ivfpq_worker_lock(uint16 what);

/* Whether settings let a worker rebuild this index, and it is one that a worker can rebuild */
extern bool ivfpq_may_rebuild(Relation index);

/*----------
 * ivfpq_autoreindex_worker.c
 *----------
 */

/* What the background worker runs, which finds it by this name; arg is the Oid of its database */
extern PGDLLEXPORT void ivfpq_autoreindex_main(Datum arg);

/*----------
 * ivfpq_leftovers.c
 *----------
 */

/*
 * What REINDEX CONCURRENTLY has left of an index of this name, among all indexes of its table: those that are
 * invalid, and those of the Oids in made, as what rewrites the table makes all its indexes valid.
 * Their names as ivfpq_quoted_name gives them.  In a transaction, with a lock on the table.
 */
extern List *ivfpq_find_leftovers(Oid heap, const char *name, const List *made);

/* The name of a relation that exists, with its schema, quoted as a command wants it.  In a transaction. */
extern char *ivfpq_quoted_name(Oid relation);

#endif							/* IVFPQ_AUTOREINDEX_H */
