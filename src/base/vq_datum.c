/*-------------------------------------------------------------------------
 *
 * vq_datum.c
 *	  The one place that knows the SQL types vectors come in.
 *
 * A real[] is read in place: its elements are an ordinary float array, aligned
 * to MAXALIGN from the start of the (detoasted) array.  An expanded array, as
 * PL/pgSQL variables are, is flattened by detoasting, as its pointer is an
 * external varlena.  Other element types are converted to a copy.
 *
 * pgvector's types, after the varlena's length of 4 bytes, are (its src/vector.h
 * and src/halfvec.h, the same since 0.7):
 *
 *		OFFSET	SIZE	FIELD
 *		0		2		dimensions
 *		2		2		unused, 0
 *		4		...		float[] or, of halfvec, IEEE 754 binary16[]
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"

#include "base/vq_datum.h"
#include "base/vq_guc.h"
#include "base/vqpg_compat.h"

/*
 * Below this, squares of float32 have lost digits or vanished altogether;
 * what they lost matters for sums of this size only.
 */
#define SMALLEST_FLOAT_SUM	1e-30

#define PGVECTOR_HEADER_BYTES	4

pg_noreturn static void report_element(int i, const char *problem);
pg_noreturn static void report_not_finite(const float *x, int dim);

static bool
all_finite(const float *x, int dim)
{
	const uint64 exponents = UINT64CONST(0x7F8000007F800000);
	const uint64 lowest_bits = UINT64CONST(0x0080000000800000);
	const uint64 carries = UINT64CONST(0x8000000080000000);
	uint64		seen = 0;
	int			i = 0;

	/*
	 * An exponent of all ones is the only one from which adding 1 carries
	 * into the sign bit.  Every row built or inserted is checked, two values at a time.
	 */
	for (; i + 2 <= dim; i += 2)
	{
		uint64		pair;

		memcpy(&pair, x + i, sizeof(pair));
		seen |= (pair & exponents) + lowest_bits;
	}
	return (seen & carries) == 0 && (i == dim || isfinite(x[i]));
}

static void
report_element(int i, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("vector must consist of finite numbers"),
			 errdetail("Element %d is %s.", i + 1, problem),
			 errhint("Store NULL instead of a vector that is not known.")));
}

static void
report_not_finite(const float *x, int dim)
{
	for (int i = 0; i < dim; i++)
	{
		if (!isfinite(x[i]))
			report_element(i, isnan(x[i]) ? "NaN" : x[i] > 0 ? "Infinity" : "-Infinity");
	}
	elog(ERROR, "vector of %d dimensions is finite", dim);
}

/*
 * Narrow to real.  What is too small becomes zero, as it does when a real[]
 * literal has more digits than fit; what is too large is an error, or infinity.
 */
static float
narrow(double value, int i, bool is_strict)
{
	float		narrowed = (float) value;

	if (unlikely(isinf(narrowed) && !isinf(value) && is_strict))
		report_element(i, psprintf("%g, which is out of range for type real", value));
	return narrowed;
}

/* The elements of an array without NULLs, as float[dim], palloc'd */
static float *
convert_elements(ArrayType *array, int dim, bool is_strict)
{
	float	   *x = palloc(sizeof(float) * dim);
	const char *data = ARR_DATA_PTR(array);

	switch (ARR_ELEMTYPE(array))
	{
		case FLOAT8OID:
			for (int i = 0; i < dim; i++)
				x[i] = narrow(((const float8 *) data)[i], i, is_strict);
			break;
		case INT2OID:
			for (int i = 0; i < dim; i++)
				x[i] = (float) ((const int16 *) data)[i];
			break;
		case INT4OID:
			for (int i = 0; i < dim; i++)
				x[i] = (float) ((const int32 *) data)[i];
			break;
		case INT8OID:
			for (int i = 0; i < dim; i++)
				x[i] = (float) ((const int64 *) data)[i];
			break;
		case NUMERICOID:
			{
				Datum	   *elements;
				int			nelements;

				deconstruct_array(array, NUMERICOID, -1, false, TYPALIGN_INT,
								  &elements, NULL, &nelements);
				for (int i = 0; i < nelements; i++)
				{
					Datum		value = DirectFunctionCall1(numeric_float8_no_overflow, elements[i]);

					x[i] = narrow(DatumGetFloat8(value), i, is_strict);
				}
				pfree(elements);
				break;
			}
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("type %s cannot be used as a vector",
							format_type_be(ARR_ELEMTYPE(array))),
					 errhint("Cast it to real[].")));
	}
	return x;
}

/* Elements in the array; ERROR if it does not have the shape of a vector */
static int
vector_length(ArrayType *array)
{
	int			dim;

	if (ARR_NDIM(array) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("vector must have at least one dimension"),
				 errdetail("The array has no elements."),
				 errhint("Store NULL instead of a vector that is not known.")));
	if (ARR_NDIM(array) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("vector must be a one-dimensional array"),
				 errdetail("The array has %d dimensions.", ARR_NDIM(array)),
				 errhint("Use one array for each vector.")));
	dim = ARR_DIMS(array)[0];
	if (dim > VQ_MAX_DIM)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("vector has too many dimensions"),
				 errdetail("It has %d dimensions, and at most %d are possible.",
						   dim, VQ_MAX_DIM),
				 errhint("Reduce the number of dimensions.")));
	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("vector must not contain null elements"),
				 errdetail("One or more elements of the array are null."),
				 errhint("Store NULL instead of a vector that is not known.")));
	return dim;
}

bool
vq_datum_is_array(Oid type)
{
	switch (type)
	{
		case FLOAT4ARRAYOID:
		case FLOAT8ARRAYOID:
		case NUMERICARRAYOID:
		case INT2ARRAYOID:
		case INT4ARRAYOID:
		case INT8ARRAYOID:
			return true;
		default:
			return false;
	}
}

static void
open_array(Datum value, VqVector *vector)
{
	ArrayType  *array = DatumGetArrayTypeP(value);

	vector->detoasted = (Pointer) array != DatumGetPointer(value) ? array : NULL;
	vector->converted = NULL;
	vector->dim = vector_length(array);

	/*
	 * An array may have a bitmap of NULLs all of whose bits say "not NULL",
	 * so the place of its data depends on the array, not on the check above.
	 */
	if (likely(ARR_ELEMTYPE(array) == FLOAT4OID))
		vector->x = (const float *) ARR_DATA_PTR(array);
	else
		vector->x = vector->converted = convert_elements(array, vector->dim, true);
}

/*
 * The type itself lets no other number of dimensions through; the length is
 * compared as an operator class may say of any type that it is like these.
 */
static void
open_pgvector(Datum value, bool is_half, VqVector *vector)
{
	struct varlena *plain = PG_DETOAST_DATUM(value);
	Size		nbytes = VARSIZE(plain) - VARHDRSZ;
	Size		value_bytes = is_half ? sizeof(uint16) : sizeof(float);
	const int16 *header = (const int16 *) VARDATA(plain);
	int			dim = nbytes >= PGVECTOR_HEADER_BYTES ? header[0] : 0;

	if (unlikely(dim < 1 || dim > VQ_MAX_DIM || nbytes != PGVECTOR_HEADER_BYTES + dim * value_bytes))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("value is not a vector of pgvector"),
				 errdetail("It has %d dimensions in %zu bytes.", dim, nbytes)));

	vector->detoasted = (Pointer) plain != DatumGetPointer(value) ? plain : NULL;
	vector->converted = NULL;
	vector->dim = dim;
	if (is_half)
	{
		vector->x = vector->converted = palloc(sizeof(float) * dim);
		vq_kernels->f16_to_f32((const uint16 *) (header + 2), dim, vector->converted);
	}
	else
		vector->x = (const float *) (header + 2);
}

void
vq_datum_open(Datum value, VqDatumKind kind, VqVector *vector)
{
	if (kind == VQ_DATUM_ARRAY)
		open_array(value, vector);
	else
		open_pgvector(value, kind == VQ_DATUM_HALFVEC, vector);
}

void
vq_datum_check(const VqVector *vector)
{
	if (unlikely(!all_finite(vector->x, vector->dim)))
		report_not_finite(vector->x, vector->dim);
}

void
vq_datum_read(Datum value, VqDatumKind kind, VqVector *vector)
{
	vq_datum_open(value, kind, vector);
	vq_datum_check(vector);
}

/* vq_datum_dim of an array */
static int
array_dim(ArrayType *array)
{
	int			dim;
	bool		is_fit;

	if (ARR_NDIM(array) != 1 || ARR_DIMS(array)[0] > VQ_MAX_DIM || array_contains_nulls(array))
		return 0;
	dim = ARR_DIMS(array)[0];
	if (ARR_ELEMTYPE(array) == FLOAT4OID)
		is_fit = all_finite((const float *) ARR_DATA_PTR(array), dim);
	else
	{
		float	   *x = convert_elements(array, dim, false);

		is_fit = all_finite(x, dim);
		pfree(x);
	}
	return is_fit ? dim : 0;
}

int
vq_datum_dim(Datum value, VqDatumKind kind)
{
	VqVector	vector;
	int			dim;

	if (kind == VQ_DATUM_ARRAY)
	{
		ArrayType  *array = DatumGetArrayTypeP(value);

		dim = array_dim(array);
		if ((Pointer) array != DatumGetPointer(value))
			pfree(array);
		return dim;
	}
	vq_datum_open(value, kind, &vector);
	dim = all_finite(vector.x, vector.dim) ? vector.dim : 0;
	vq_datum_free(&vector);
	return dim;
}

bool
vq_datum_is_zero(const VqVector *vector)
{
	for (int i = 0; i < vector->dim; i++)
		if (vector->x[i] != 0)
			return false;
	return true;
}

void
vq_datum_free(VqVector *vector)
{
	if (vector->detoasted != NULL)
		pfree(vector->detoasted);
	if (vector->converted != NULL)
		pfree(vector->converted);
	vector->x = NULL;
	vector->detoasted = NULL;
	vector->converted = NULL;
}

Datum
vq_datum_make(const float *x, int dim)
{
	Size		bytes = ARR_OVERHEAD_NONULLS(1) + sizeof(float) * dim;
	ArrayType  *array = palloc0(bytes);

	SET_VARSIZE(array, bytes);
	array->ndim = 1;
	array->dataoffset = 0;
	array->elemtype = FLOAT4OID;
	ARR_DIMS(array)[0] = dim;
	ARR_LBOUND(array)[0] = 1;
	memcpy(ARR_DATA_PTR(array), x, sizeof(float) * dim);
	return PointerGetDatum(array);
}

double
vq_l2_distance_squared(const float *a, const float *b, int dim)
{
	float		fast = vq_kernels->l2sq_f32(a, b, dim);
	double		sum = 0.0;

	if (likely(isfinite(fast) && fast > SMALLEST_FLOAT_SUM))
		return fast;

	for (int i = 0; i < dim; i++)
	{
		double		difference = (double) a[i] - (double) b[i];

		sum += difference * difference;
	}
	return sum;
}

double
vq_inner_product(const float *a, const float *b, int dim)
{
	float		fast = vq_kernels->ip_f32(a, b, dim);
	double		sum = 0.0;

	if (likely(isfinite(fast) && fabsf(fast) > SMALLEST_FLOAT_SUM))
		return fast;

	for (int i = 0; i < dim; i++)
		sum += (double) a[i] * (double) b[i];
	return sum;
}

double
vq_cosine_distance(const float *a, const float *b, int dim)
{
	float		fast[3];
	double		product;
	double		norm_sq_a;
	double		norm_sq_b;
	double		similarity;

	vq_kernels->ip_norms_f32(a, b, dim, fast);
	product = fast[0];
	norm_sq_a = fast[1];
	norm_sq_b = fast[2];

	if (unlikely(!(isfinite(product) && isfinite(norm_sq_a) && isfinite(norm_sq_b) &&
				   norm_sq_a > SMALLEST_FLOAT_SUM && norm_sq_b > SMALLEST_FLOAT_SUM)))
	{
		product = norm_sq_a = norm_sq_b = 0.0;
		for (int i = 0; i < dim; i++)
		{
			product += (double) a[i] * (double) b[i];
			norm_sq_a += (double) a[i] * (double) a[i];
			norm_sq_b += (double) b[i] * (double) b[i];
		}

		/* a zero vector, or numbers that are not finite */
		if (!(norm_sq_a > 0.0 && norm_sq_b > 0.0 && isfinite(norm_sq_a * norm_sq_b)))
			return get_float8_nan();
	}

	/* Rounding can put it beyond the ends of its range */
	similarity = product / sqrt(norm_sq_a * norm_sq_b);
	return 1.0 - Min(Max(similarity, -1.0), 1.0);
}
