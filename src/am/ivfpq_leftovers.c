/*-------------------------------------------------------------------------
 *
 * ivfpq_leftovers.c
 *	  What a REINDEX CONCURRENTLY has left.
 *
 * One that fails, or is ended by a crash, leaves an index that is not valid: the new one, or
 * the old one if they have changed places already.  No catalog says of which index it is what
 * was left; its name does, which REINDEX has made from that of the index.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "am/ivfpq_autoreindex.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "commands/defrem.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* Whether a name is one that REINDEX CONCURRENTLY gives what it makes of an index, or has made anew: "..._ccnew1" */
static bool
is_leftover_name(const char *name, const char *index)
{
	const char *label = name + strlen(name);

	while (label > name && isdigit((unsigned char) label[-1]))
		label--;
	label -= strlen("ccnew");
	return label > name && (strncmp(label, "ccnew", 5) == 0 || strncmp(label, "ccold", 5) == 0) &&
		strcmp(name, makeObjectName(index, NULL, label)) == 0;
}

char *
ivfpq_quoted_name(Oid relation)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), get_rel_name(relation));
}

/*
 * Whether an index, of a table that is locked, is what REINDEX CONCURRENTLY has left of the one of this name:
 * invalid, or one of those made.  It is not opened: its own lock may be taken.
 */
static bool
is_leftover(Oid index, const char *name, const List *made)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	bool		is_valid = HeapTupleIsValid(tuple) && ((Form_pg_index) GETSTRUCT(tuple))->indisvalid;
	HeapTuple	class_tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(index));
	bool		is_ours = false;

	if (HeapTupleIsValid(class_tuple))
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(class_tuple);

		is_ours = form->relam == get_index_am_oid("ivfpq", true) &&
			is_leftover_name(NameStr(form->relname), name);
		ReleaseSysCache(class_tuple);
	}
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return is_ours && (!is_valid || list_member_oid(made, index));
}

/* Those that are neither valid nor live any more count, too */
List *
ivfpq_find_leftovers(Oid heap, const char *name, const List *made)
{
	List	   *leftovers = NIL;
	Relation	pg_index = table_open(IndexRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_index_indrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(heap));
	scan = systable_beginscan(pg_index, IndexIndrelidIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			index = ((Form_pg_index) GETSTRUCT(tuple))->indexrelid;

		if (is_leftover(index, name, made))
			leftovers = lappend(leftovers, ivfpq_quoted_name(index));
	}
	systable_endscan(scan);
	table_close(pg_index, AccessShareLock);
	return leftovers;
}

bool
ivfpq_has_leftovers(Relation index)
{
	return ivfpq_find_leftovers(index->rd_index->indrelid, RelationGetRelationName(index), NIL) != NIL;
}
