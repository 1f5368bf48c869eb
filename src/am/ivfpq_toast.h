/*-------------------------------------------------------------------------
 *
 * ivfpq_toast.h
 *	  Vectors that are stored out of line.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_TOAST_H
#define IVFPQ_TOAST_H

#include "am/ivfpq.h"

#include "access/htup_details.h"	/* struct varatt_external, from 16 on */

/* Those of 16,000 floats have 33; what has more is left to the server */
#define IVFPQ_MAX_CHUNKS	34

/* Where the chunks of a value are */
typedef struct IvfpqToastValue
{
	struct varatt_external pointer;
	uint32		nchunks;
	bool		is_guess;		/* chunks that are not in the page of the first have not been looked at */
	ItemPointerData tids[IVFPQ_MAX_CHUNKS];
} IvfpqToastValue;

typedef struct IvfpqToast IvfpqToast;

/*
 * The TOAST table of a table, which is locked in access share mode until the end; NULL if there is none that can be read
 * here.  Memory comes from the current context.
 */
extern IvfpqToast *ivfpq_toast_begin(Relation heap);
extern Relation ivfpq_toast_table(const IvfpqToast *toast);

/* Whether it has the page of this place */
extern bool ivfpq_toast_has(IvfpqToast *toast, const ItemPointerData *place);

/*
 * Where a value is; false if it is not out of line, or is to be read by the server's own functions.  place is
 * where its first chunk may be, invalid if nothing is known; it may say anything, and behind a page means the next one.  If
 * it is right, what is in the page is fetched to the processor's caches.  Until the next pause a page stays pinned.
 */
extern bool ivfpq_toast_find(IvfpqToast *toast, Datum value, const ItemPointerData *place, IvfpqToastValue *found);

/* The place behind a value's last chunk, where the next value may begin */
extern void ivfpq_toast_after(const IvfpqToastValue *value, ItemPointer place);

/*
 * Its pages are going to be read: fetch what tells where those are that are not pinned, and ask the system for them if so
 * wanted
 */
extern void ivfpq_toast_approach(IvfpqToast *toast, const IvfpqToastValue *value, bool asks_system);

/*
 * The value in line, compressed if it is stored so, until the next one is read; false if it is not there: the
 * server will say what is wrong.  Until the next pause a page stays pinned.
 */
extern bool ivfpq_toast_read(IvfpqToast *toast, IvfpqToastValue *value, Datum *read);

/*
 * For an insert: the first chunk of a column's value in the row at tid, which is new.  Invalid if it is in line, or
 * not found without much ado.  after is where it may be, and becomes where that of the next row may be.
 */
extern void ivfpq_toast_of_row(Relation heap, ItemPointer tid, AttrNumber attno, ItemPointer after,
							   ItemPointer chunk_tid);

extern void ivfpq_toast_pause(IvfpqToast *toast);
extern void ivfpq_toast_end(IvfpqToast *toast);

#endif							/* IVFPQ_TOAST_H */
