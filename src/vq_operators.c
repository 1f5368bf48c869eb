/*-------------------------------------------------------------------------
 *
 * vq_operators.c
 *	  Distances between vectors, as SQL functions.
 *
 * The same function serves every pair of array types, because an array says
 * what its elements are, and another one pgvector's vector with every type of
 * array.  The operators are distinct nevertheless: an index is
 * used for ORDER BY column <-> parameter only if its operator family has an
 * operator of exactly those types.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"

#include "base/vq_datum.h"
#include "base/vqpg_compat.h"

PG_FUNCTION_INFO_V1(array_l2_distance);
PG_FUNCTION_INFO_V1(array_negative_inner_product);
PG_FUNCTION_INFO_V1(array_cosine_distance);
PG_FUNCTION_INFO_V1(vector_array_l2_distance);
PG_FUNCTION_INFO_V1(vector_array_negative_inner_product);
PG_FUNCTION_INFO_V1(vector_array_cosine_distance);

/*
 * The last numeric[] of each argument and what it became.  The query of a
 * sequential scan comes anew with every row, and numeric[] takes hundreds of
 * times longer to convert than to compare.  It is recognised by its bytes, as
 * a value that stays the same is not always known to be constant.
 */
typedef struct NumericCache
{
	ArrayType  *array[2];
	VqVector	vector[2];
} NumericCache;

static const VqVector *
read_numeric_cached(FmgrInfo *flinfo, int argno, ArrayType *array)
{
	NumericCache *cache = flinfo->fn_extra;
	MemoryContext old_context = MemoryContextSwitchTo(flinfo->fn_mcxt);
	ArrayType  *key;
	VqVector	vector;

	if (cache == NULL)
		flinfo->fn_extra = cache = palloc0(sizeof(NumericCache));

	key = cache->array[argno];
	if (key == NULL || VARSIZE(key) != VARSIZE(array) ||
		memcmp(key, array, VARSIZE(array)) != 0)
	{
		/* An ERROR in here leaves the cache as it was */
		vq_datum_read(PointerGetDatum(array), VQ_DATUM_ARRAY, &vector);
		key = palloc(VARSIZE(array));
		memcpy(key, array, VARSIZE(array));
		if (cache->array[argno] != NULL)
		{
			pfree(cache->array[argno]);
			vq_datum_free(&cache->vector[argno]);
		}
		cache->array[argno] = key;
		cache->vector[argno] = vector;
	}
	MemoryContextSwitchTo(old_context);
	return &cache->vector[argno];
}

/* An array as floats; the caller releases what it is */
static VqVector
read_array(FunctionCallInfo fcinfo, int argno)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(argno);
	bool		is_copy = (Pointer) array != DatumGetPointer(PG_GETARG_DATUM(argno));
	VqVector	vector;

	if (ARR_ELEMTYPE(array) == NUMERICOID && fcinfo->flinfo != NULL)
	{
		vector = *read_numeric_cached(fcinfo->flinfo, argno, array);
		vector.converted = NULL;	/* stays in the cache */
	}
	else
		vq_datum_open(PointerGetDatum(array), VQ_DATUM_ARRAY, &vector);
	vector.detoasted = is_copy ? array : NULL;
	return vector;
}

/*
 * Both arguments of a distance, of which the second is an array; ERROR unless they have
 * the same dimension
 */
static void
read_arguments(FunctionCallInfo fcinfo, VqDatumKind first, VqVector *a, VqVector *b)
{
	if (first == VQ_DATUM_ARRAY)
		*a = read_array(fcinfo, 0);
	else
		vq_datum_open(PG_GETARG_DATUM(0), first, a);
	*b = read_array(fcinfo, 1);
	if (a->dim != b->dim)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("vectors must have the same number of dimensions"),
				 errdetail("One has %d dimensions, the other %d.", a->dim, b->dim),
				 errhint("Compare only vectors that come from the same model.")));
}

/* ERROR if the distance is not finite because they are not; else let them go */
static void
release_arguments(double distance, VqVector *a, VqVector *b)
{
	if (unlikely(!isfinite(distance)))
	{
		vq_datum_check(a);
		vq_datum_check(b);
	}
	vq_datum_free(a);
	vq_datum_free(b);
}

static double
l2_distance(FunctionCallInfo fcinfo, VqDatumKind first)
{
	VqVector	a;
	VqVector	b;
	double		distance;

	read_arguments(fcinfo, first, &a, &b);
	distance = sqrt(vq_l2_distance_squared(a.x, b.x, a.dim));
	release_arguments(distance, &a, &b);
	return distance;
}

static double
negative_inner_product(FunctionCallInfo fcinfo, VqDatumKind first)
{
	VqVector	a;
	VqVector	b;
	double		product;

	read_arguments(fcinfo, first, &a, &b);
	product = vq_inner_product(a.x, b.x, a.dim);
	release_arguments(product, &a, &b);

	/* Not -product, which would make orthogonal vectors -0 apart */
	return 0.0 - product;
}

static double
cosine_distance(FunctionCallInfo fcinfo, VqDatumKind first)
{
	VqVector	a;
	VqVector	b;
	double		distance;

	read_arguments(fcinfo, first, &a, &b);
	distance = vq_cosine_distance(a.x, b.x, a.dim);
	release_arguments(distance, &a, &b);
	return distance;
}

Datum
array_l2_distance(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(l2_distance(fcinfo, VQ_DATUM_ARRAY));
}

Datum
array_negative_inner_product(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(negative_inner_product(fcinfo, VQ_DATUM_ARRAY));
}

Datum
array_cosine_distance(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(cosine_distance(fcinfo, VQ_DATUM_ARRAY));
}

/*----------
 * pgvector's vector and an array
 *----------
 */

Datum
vector_array_l2_distance(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(l2_distance(fcinfo, VQ_DATUM_VECTOR));
}

Datum
vector_array_negative_inner_product(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(negative_inner_product(fcinfo, VQ_DATUM_VECTOR));
}

Datum
vector_array_cosine_distance(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(cosine_distance(fcinfo, VQ_DATUM_VECTOR));
}
