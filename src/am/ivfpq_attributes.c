/*-------------------------------------------------------------------------
 *
 * ivfpq_attributes.c
 *	  The columns of an index after the first: conditions of a search on them are
 *	  tried before anything else is known of a row.
 *
 * Blocks keep a number for the value of each such column (vq_attribute.h).  The third
 * support function of a column's operator class says which: integers and times are
 * their own numbers (ivfpq_datetime.c has them in those of each other), others have one of the same order, a hash, or bits for their elements.  So an entry whose numbers
 * do not pass is none of a row that passes, and no more is claimed: the executor tries
 * the conditions again on each row that comes out.
 *
 * A row that is updated in such a column gets a new entry, as it does in a B-tree on it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/relscan.h"
#include "access/stratnum.h"
#include "am/ivfpq.h"
#include "base/vq_datum.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "fmgr.h"
#include "lib/qunique.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(ivfpq_attribute_int4);
PG_FUNCTION_INFO_V1(ivfpq_attribute_int8);
PG_FUNCTION_INFO_V1(ivfpq_attribute_float4);
PG_FUNCTION_INFO_V1(ivfpq_attribute_float8);
PG_FUNCTION_INFO_V1(ivfpq_attribute_numeric);
PG_FUNCTION_INFO_V1(ivfpq_attribute_array);
PG_FUNCTION_INFO_V1(ivfpq_attribute_jsonb);

/*----------
 * Support functions of the extension's own classes; others are functions that the server has
 *----------
 */

/* Of types that are an int4 or int8 */
Datum
ivfpq_attribute_int4(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

Datum
ivfpq_attribute_int8(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/* The order of float8, in which zeroes are equal and NaN is the largest, as that of integers */
static int64
number_of_float(float8 value)
{
	int64		bits;

	if (isnan(value))
		return PG_INT64_MAX;
	if (value == 0)
		return 0;
	memcpy(&bits, &value, sizeof(bits));
	return bits < 0 ? -(bits & PG_INT64_MAX) : bits;
}

Datum
ivfpq_attribute_float4(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(number_of_float(PG_GETARG_FLOAT4(0)));
}

Datum
ivfpq_attribute_float8(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(number_of_float(PG_GETARG_FLOAT8(0)));
}

/* Of numbers that are the same float8, and of those beyond all of them, it is the same */
Datum
ivfpq_attribute_numeric(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(number_of_float(DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, PG_GETARG_DATUM(0)))));
}

/* Two of the 63 bits of a set, by the hash of an element */
static int64
bits_of_element(uint32 hash)
{
	return INT64CONST(1) << hash % 63 | INT64CONST(1) << (hash >> 16 ^ hash * 31) % 63;
}

/* A type of elements; ERROR if its values cannot be hashed */
static TypeCacheEntry *
hashed_type(Oid element_type)
{
	TypeCacheEntry *type = lookup_type_cache(element_type, TYPECACHE_HASH_PROC_FINFO);

	if (!OidIsValid(type->hash_proc_finfo.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify a hash function for type %s", format_type_be(element_type))));
	return type;
}

/* Of elements that are not NULL: no condition finds the others */
Datum
ivfpq_attribute_array(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	TypeCacheEntry *type = fcinfo->flinfo->fn_extra;
	Datum	   *elements;
	bool	   *nulls;
	int			nelements;
	int64		bits = 0;

	if (type == NULL || type->type_id != ARR_ELEMTYPE(array))
	{
		type = hashed_type(ARR_ELEMTYPE(array));
		fcinfo->flinfo->fn_extra = type;
	}
	deconstruct_array(array, type->type_id, type->typlen, type->typbyval, type->typalign, &elements, &nulls, &nelements);
	for (int i = 0; i < nelements; i++)
		if (!nulls[i])
			bits |= bits_of_element(DatumGetUInt32(FunctionCall1Coll(&type->hash_proc_finfo, PG_GET_COLLATION(),
																	 elements[i])));
	PG_FREE_IF_COPY(array, 0);
	PG_RETURN_INT64(bits);
}

/* Of the paths to scalars and these themselves, as the server's jsonb_path_ops has them */
Datum
ivfpq_attribute_jsonb(PG_FUNCTION_ARGS)
{
	int32		nentries = 0;
	Datum	   *hashes = (Datum *) DatumGetPointer(DirectFunctionCall2(gin_extract_jsonb_path, PG_GETARG_DATUM(0),
																	   PointerGetDatum(&nentries)));
	int64		bits = 0;

	for (int32 i = 0; i < nentries; i++)
		bits |= bits_of_element(DatumGetUInt32(hashes[i]));
	PG_RETURN_INT64(bits);
}

/*----------
 * Definition
 *----------
 */

/* Number of the index column of an attribute, from 1 on */
static AttrNumber
column_of(uint32 attribute)
{
	return attribute + 2;
}

static Oid
type_of_column(Relation index, AttrNumber column)
{
	return TupleDescAttr(RelationGetDescr(index), column - 1)->atttypid;
}

/* Whether the numbers of an index column, from 1 on, are of 8 bytes */
static bool
is_wide(Relation index, AttrNumber column)
{
	return get_func_rettype(index_getprocid(index, column, IVFPQ_ATTRIBUTE_PROC)) == INT8OID;
}

void
ivfpq_attributes_define(Relation index, IvfpqMetaPageData *meta)
{
	int			ncolumns = IndexRelationGetNumberOfKeyAttributes(index);

	if (!OidIsValid(index_getprocid(index, 1, IVFPQ_METRIC_PROC)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("the first column of an ivfpq index must be a vector"),
				 errdetail("The first column of index \"%s\" is of type %s.", RelationGetRelationName(index),
						   format_type_be(type_of_column(index, 1))),
				 type_of_column(index, 1) == FLOAT4ARRAYOID ?
				 errhint("Give it an operator class for vectors, such as array_l2_ops.") :
				 vq_datum_is_array(type_of_column(index, 1)) ?
				 errhint("Index it as real[], by the expression (column::real[]).") :
				 errhint("Put the vector first, and the columns of conditions after it.")));
	if (ncolumns - 1 > VQ_MAX_ATTRIBUTES)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("an ivfpq index has a vector and at most %d further columns", VQ_MAX_ATTRIBUTES),
				 errdetail("Index \"%s\" has %d further columns.", RelationGetRelationName(index), ncolumns - 1)));
	meta->nattributes = ncolumns - 1;
	meta->wide_attributes = 0;
	for (uint32 i = 0; i < meta->nattributes; i++)
	{
		if (!OidIsValid(index_getprocid(index, column_of(i), IVFPQ_ATTRIBUTE_PROC)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("only the first column of an ivfpq index may be a vector"),
					 errdetail("Column %d of index \"%s\" is of type %s.", column_of(i), RelationGetRelationName(index),
							   format_type_be(type_of_column(index, column_of(i)))),
					 errhint("Create an index on each vector.")));
		if (index->rd_opcintype[column_of(i) - 1] == ANYARRAYOID)
			(void) hashed_type(get_base_element_type(type_of_column(index, column_of(i))));
		if (is_wide(index, column_of(i)))
			meta->wide_attributes |= 1 << i;
	}
}

void
ivfpq_attributes_check(Relation index, const IvfpqMetaPageData *meta)
{
	if (meta->nattributes != IndexRelationGetNumberOfKeyAttributes(index) - 1)
		ivfpq_report_corrupted(index, IVFPQ_METAPAGE_BLKNO,
							   psprintf("Entries have %u attributes, but the index has %d columns after the first.",
										meta->nattributes, IndexRelationGetNumberOfKeyAttributes(index) - 1));
	for (uint32 i = 0; i < meta->nattributes; i++)
		if (is_wide(index, column_of(i)) != (meta->wide_attributes >> i & 1))
			ivfpq_report_corrupted(index, IVFPQ_METAPAGE_BLKNO,
								   psprintf("Attribute %u has %d bytes, but the operator class of its column gives %d.", i + 1,
											is_wide(index, column_of(i)) ? 4 : 8, is_wide(index, column_of(i)) ? 8 : 4));
}

/*----------
 * Rows
 *----------
 */

/* The number of a value, by a support function */
static int64
number_of(FmgrInfo *function, Oid collation, bool wide, Datum value)
{
	Datum		number = FunctionCall1Coll(function, collation, value);

	return wide ? DatumGetInt64(number) : DatumGetInt32(number);
}

void
ivfpq_attributes_of(Relation index, const VqBlockShape *shape, const Datum *values, const bool *isnull,
					int64 *numbers)
{
	for (uint32 i = 0; i < shape->nattributes; i++)
	{
		AttrNumber	column = column_of(i);

		if (isnull[column - 1])
			numbers[i] = vq_attribute_null(shape, i);
		else
			numbers[i] = vq_attribute_fit(shape, i,
										  number_of(index_getprocinfo(index, column, IVFPQ_ATTRIBUTE_PROC),
													index->rd_indcollation[column - 1],
													shape->attribute_bytes[i] == sizeof(int64), values[column - 1]));
	}
}

/*----------
 * Searches
 *----------
 */

/* What a search key compares a column with */
typedef struct Operand
{
	Oid			type;
	FmgrInfo   *function;		/* gives the number of a value of this type */
	FmgrInfo	other;			/* that one, where it is not the column's type */
	bool		is_wide;
	bool		is_other_datetime;	/* its numbers are to be converted to those of the column */
} Operand;

/* Whether a support function is the extension's own of a type whose values are integers */
static bool
is_value_itself(const FmgrInfo *function)
{
	return function->fn_addr == ivfpq_attribute_int4 || function->fn_addr == ivfpq_attribute_int8;
}

static void
read_operand(Relation index, const ScanKeyData *key, Operand *operand)
{
	Oid			family = index->rd_opfamily[key->sk_attno - 1];
	Oid			own_type = index->rd_opcintype[key->sk_attno - 1];
	Oid			function;

	operand->type = OidIsValid(key->sk_subtype) ? key->sk_subtype : own_type;
	operand->is_other_datetime = false;
	if (operand->type == own_type)
	{
		operand->function = index_getprocinfo(index, key->sk_attno, IVFPQ_ATTRIBUTE_PROC);
		operand->is_wide = is_wide(index, key->sk_attno);
		return;
	}
	function = get_opfamily_proc(family, operand->type, operand->type, IVFPQ_ATTRIBUTE_PROC);
	if (!OidIsValid(function))
		elog(ERROR, "missing support function %d(%u) in operator family %u", IVFPQ_ATTRIBUTE_PROC, operand->type, family);
	fmgr_info(function, &operand->other);
	operand->function = &operand->other;
	operand->is_wide = get_func_rettype(function) == INT8OID;

	/* users' functions give numbers that are those of the column's type already */
	operand->is_other_datetime = ivfpq_is_datetime(own_type) && ivfpq_is_datetime(operand->type) &&
		is_value_itself(operand->function) &&
		is_value_itself(index_getprocinfo(index, key->sk_attno, IVFPQ_ATTRIBUTE_PROC));
}

/* The elements of an array */
typedef struct Elements
{
	Oid			type;
	int16		length;
	bool		by_value;
	char		align;
	Datum	   *values;
	bool	   *nulls;
	int			count;
} Elements;

static void
read_elements(Datum value, Elements *elements)
{
	ArrayType  *array = DatumGetArrayTypeP(value);

	elements->type = ARR_ELEMTYPE(array);
	get_typlenbyvalalign(elements->type, &elements->length, &elements->by_value, &elements->align);
	deconstruct_array(array, elements->type, elements->length, elements->by_value, elements->align,
					  &elements->values, &elements->nulls, &elements->count);
}

static int
compare_numbers(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return (left > right) - (left < right);
}

/* Returns how many different ones there are, which come first */
static size_t
sort_numbers(int64 *numbers, size_t count)
{
	if (count == 0)
		return 0;
	qsort(numbers, count, sizeof(int64), compare_numbers);
	return qunique(numbers, count, sizeof(int64), compare_numbers);
}

void
ivfpq_numbers_add(IvfpqNumbers *numbers, int64 number)
{
	if (numbers->count == numbers->room)
	{
		numbers->room = Max(numbers->room * 2, 8);
		numbers->values = numbers->values == NULL ? palloc(numbers->room * sizeof(int64)) :
			repalloc_huge(numbers->values, numbers->room * sizeof(int64));
	}
	numbers->values[numbers->count++] = number;
}

/*
 * The numbers that values of the column have which may equal this one.  Where a date has to be before a time of the day, or not
 * before it, it is the next day's.
 */
static void
add_numbers(Relation index, const ScanKeyData *key, const Operand *operand, Datum value, IvfpqNumbers *numbers)
{
	int64		number = number_of(operand->function, index->rd_indcollation[key->sk_attno - 1], operand->is_wide, value);

	if (operand->is_other_datetime)
		ivfpq_datetime_numbers(number, operand->type, index->rd_opcintype[key->sk_attno - 1],
							   key->sk_strategy == BTLessStrategyNumber || key->sk_strategy == BTGreaterEqualStrategyNumber,
							   numbers);
	else
		ivfpq_numbers_add(numbers, number);
}

/* The numbers of a key's value, or of those in its array that are not NULL, ascending and each once; returns how many */
static size_t
read_numbers(Relation index, const ScanKeyData *key, int64 **values)
{
	Operand		operand;
	Elements	elements;
	IvfpqNumbers numbers = {0};

	read_operand(index, key, &operand);
	if ((key->sk_flags & SK_SEARCHARRAY) == 0)
		add_numbers(index, key, &operand, key->sk_argument, &numbers);
	else
	{
		read_elements(key->sk_argument, &elements);
		for (int i = 0; i < elements.count; i++)
			if (!elements.nulls[i])
				add_numbers(index, key, &operand, elements.values[i], &numbers);
	}
	*values = numbers.values;
	return sort_numbers(numbers.values, numbers.count);
}

/* Whether numbers are the same for equal values only, as far as is known: users' functions need not be so */
static bool
is_one_to_one(const FmgrInfo *function)
{
	switch (function->fn_oid)
	{
		case F_INT4UP:
		case F_INT8UP:
		case F_INT4_INT2:
		case F_INT4_BOOL:
		case F_INT8_OID:
			return true;
		default:
			return is_value_itself(function) ||
				function->fn_addr == ivfpq_attribute_float4 || function->fn_addr == ivfpq_attribute_float8;
	}
}

/*
 * The number next to that of a key's value, which is not to pass itself; the same where other values may have
 * that number too
 */
static int64
beyond(Relation index, const VqBlockShape *shape, const ScanKeyData *key, int64 number, int step)
{
	uint32		attribute = key->sk_attno - 2;
	int64		fitting = vq_attribute_fit(shape, attribute, number);
	int64		next;
	Operand		operand;

	read_operand(index, key, &operand);
	if (fitting != number || fitting == vq_attribute_null(shape, attribute) + 1 ||
		!is_one_to_one(operand.function) ||
		!is_one_to_one(index_getprocinfo(index, key->sk_attno, IVFPQ_ATTRIBUTE_PROC)) ||
		pg_add_s64_overflow(fitting, step, &next))
		return fitting;
	return next;
}

/* Whether a key's value is an array, of the class's own operator && */
static bool
is_array_operand(Relation index, const ScanKeyData *key)
{
	Oid			type = OidIsValid(key->sk_subtype) ? key->sk_subtype : index->rd_opcintype[key->sk_attno - 1];

	return type == ANYARRAYOID || OidIsValid(get_element_type(type));
}

/* The set of each element of an array; returns how many there are */
static size_t
read_sets(Relation index, const ScanKeyData *key, int64 **sets)
{
	Oid			collation = index->rd_indcollation[key->sk_attno - 1];
	Operand		operand;
	Elements	elements;
	size_t		count = 0;

	read_operand(index, key, &operand);
	read_elements(key->sk_argument, &elements);
	*sets = palloc(Max(elements.count, 1) * sizeof(int64));
	for (int i = 0; i < elements.count; i++)
		if (!elements.nulls[i])
		{
			ArrayType  *element = construct_array(&elements.values[i], 1, elements.type, elements.length,
												  elements.by_value, elements.align);

			(*sets)[count++] = number_of(operand.function, collation, operand.is_wide, PointerGetDatum(element));
		}
	return sort_numbers(*sets, count);
}

/* False if nothing passes */
static bool
read_condition(Relation index, const VqBlockShape *shape, const ScanKeyData *key, VqCondition *condition)
{
	uint32		attribute = key->sk_attno - 2;
	int64		null = vq_attribute_null(shape, attribute);
	int64	   *numbers;
	size_t		count;

	*condition = (VqCondition) {.attribute = attribute, .low = null + 1, .high = PG_INT64_MAX};
	if (key->sk_flags & SK_SEARCHNOTNULL)
		return true;
	if (key->sk_flags & SK_SEARCHNULL)
	{
		condition->low = condition->high = null;
		return true;
	}
	if (key->sk_flags & SK_ISNULL)
		return false;
	if (key->sk_strategy == IVFPQ_OVERLAPS_STRATEGY)
	{
		/* one of several arrays, or what is none: the executor tells */
		if ((key->sk_flags & SK_SEARCHARRAY) || !is_array_operand(index, key))
			return true;
		condition->nvalues = read_sets(index, key, &numbers);
		condition->values = numbers;
		condition->are_sets = true;
		return condition->nvalues > 0;
	}
	count = read_numbers(index, key, &numbers);
	if (count == 0)
		return false;

	switch (key->sk_strategy)
	{
		case BTLessStrategyNumber:
			condition->high = beyond(index, shape, key, numbers[count - 1], -1);
			break;
		case BTLessEqualStrategyNumber:
			condition->high = vq_attribute_fit(shape, attribute, numbers[count - 1]);
			break;
		case BTEqualStrategyNumber:
			for (size_t i = 0; i < count; i++)
				numbers[i] = vq_attribute_fit(shape, attribute, numbers[i]);
			condition->low = numbers[0];
			condition->high = numbers[count - 1];
			condition->nvalues = condition->low < condition->high ? count : 0;
			condition->values = numbers;
			break;
		case BTGreaterEqualStrategyNumber:
			condition->low = vq_attribute_fit(shape, attribute, numbers[0]);
			break;
		case BTGreaterStrategyNumber:
			condition->low = beyond(index, shape, key, numbers[0], 1);
			break;
		case IVFPQ_CONTAINS_STRATEGY:
			condition->nvalues = count;
			condition->values = numbers;
			condition->are_sets = true;
			break;
		default:
			elog(ERROR, "unexpected strategy %d of column %d of index \"%s\"", key->sk_strategy, key->sk_attno,
				 RelationGetRelationName(index));
	}
	return condition->low <= condition->high;
}

bool
ivfpq_attributes_wanted(IndexScanDesc scan, const VqBlockShape *shape, VqCondition **conditions, uint32 *nconditions)
{
	*conditions = NULL;
	*nconditions = 0;
	for (int i = 0; i < scan->numberOfKeys; i++)
	{
		const ScanKeyData *key = &scan->keyData[i];

		if (key->sk_attno == 1)
			continue;
		if (*conditions == NULL)
			*conditions = palloc(scan->numberOfKeys * sizeof(VqCondition));
		if (!read_condition(scan->indexRelation, shape, key, &(*conditions)[*nconditions]))
			return false;
		(*nconditions)++;
	}
	return true;
}
