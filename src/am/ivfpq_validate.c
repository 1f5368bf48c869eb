/*-------------------------------------------------------------------------
 *
 * ivfpq_validate.c
 *	  Is an operator class what the access method expects?
 *
 * A class has one operator, the distance, under strategy 1 and for ORDER BY
 * only, and a support function that says what distance that is; unless its
 * type is an array, another one says how its values are read.  It may have an operator
 * under strategy 2, for conditions on the distance.  Its
 * family may have the same operator for other types of the query, so that an
 * index can be used without a cast; a family may not have support functions
 * for these, as what is indexed is always of the class's own type.
 *
 * A class for attributes has = and other operators of a B-tree instead, and perhaps && and @>, and
 * a support function that gives the number of a value.  Its family may have such functions and
 * operators for other types.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/amvalidate.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "catalog/pg_amop.h"
#include "catalog/pg_amproc.h"
#include "catalog/pg_opclass.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "am/ivfpq.h"

/* What the messages name */
typedef struct Subject
{
	const char *opclass;
	const char *opfamily;
} Subject;

static void
report_signature(const Subject *subject, Form_pg_amproc function)
{
	ereport(INFO,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("operator family \"%s\" of access method %s contains function %s with wrong signature for support number %d",
					subject->opfamily, "ivfpq", format_procedure(function->amproc),
					function->amprocnum)));
}

static bool
check_function(const Subject *subject, Form_pg_amproc function)
{
	bool		result = true;

	if (function->amproclefttype != function->amprocrighttype)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator family \"%s\" of access method %s contains support function %s with different left and right input types",
						subject->opfamily, "ivfpq", format_procedure(function->amproc))));
		result = false;
	}
	if (function->amprocnum == IVFPQ_ATTRIBUTE_PROC)
	{
		if (!check_amproc_signature(function->amproc, INT4OID, false, 1, 1, function->amproclefttype) &&
			!check_amproc_signature(function->amproc, INT8OID, false, 1, 1, function->amproclefttype))
		{
			report_signature(subject, function);
			result = false;
		}
	}
	else if (function->amprocnum != IVFPQ_METRIC_PROC && function->amprocnum != IVFPQ_DATUM_PROC)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator family \"%s\" of access method %s contains function %s with invalid support number %d",
						subject->opfamily, "ivfpq", format_procedure(function->amproc),
						function->amprocnum)));
		result = false;
	}
	else if (!check_amproc_signature(function->amproc, INT4OID, true, 0, 0))
	{
		report_signature(subject, function);
		result = false;
	}
	return result;
}

/* An operator of a class for attributes */
static bool
check_comparison(const Subject *subject, Form_pg_amop operator)
{
	bool		result = true;

	if (operator->amopstrategy < BTLessStrategyNumber || operator->amopstrategy > IVFPQ_CONTAINS_STRATEGY)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator family \"%s\" of access method %s contains operator %s with invalid strategy number %d",
						subject->opfamily, "ivfpq", format_operator(operator->amopopr),
						operator->amopstrategy)));
		return false;
	}
	if (operator->amoppurpose != AMOP_SEARCH)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator family \"%s\" of access method %s contains invalid ORDER BY specification for operator %s",
						subject->opfamily, "ivfpq", format_operator(operator->amopopr))));
		result = false;
	}
	if (!check_amop_signature(operator->amopopr, BOOLOID, operator->amoplefttype, operator->amoprighttype))
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator family \"%s\" of access method %s contains operator %s with wrong signature",
						subject->opfamily, "ivfpq", format_operator(operator->amopopr))));
		result = false;
	}
	if (operator->amopstrategy == IVFPQ_OVERLAPS_STRATEGY &&
		(operator->amoprighttype != operator->amoplefttype ||
		 (operator->amoprighttype != ANYARRAYOID && !OidIsValid(get_element_type(operator->amoprighttype)))))
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator family \"%s\" of access method %s contains operator %s with strategy number %d, which is for arrays",
						subject->opfamily, "ivfpq", format_operator(operator->amopopr), operator->amopstrategy)));
		result = false;
	}
	if (!OidIsValid(get_opfamily_proc(operator->amopfamily, operator->amoprighttype, operator->amoprighttype,
									  IVFPQ_ATTRIBUTE_PROC)))
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator family \"%s\" of access method %s is missing support function %d for type %s of operator %s",
						subject->opfamily, "ivfpq", IVFPQ_ATTRIBUTE_PROC, format_type_be(operator->amoprighttype),
						format_operator(operator->amopopr))));
		result = false;
	}
	return result;
}

static bool
check_operator(const Subject *subject, Form_pg_amop operator)
{
	bool		is_distance = operator->amopstrategy == IVFPQ_DISTANCE_STRATEGY;
	bool		result = true;

	if (!is_distance && operator->amopstrategy != IVFPQ_WITHIN_STRATEGY)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator family \"%s\" of access method %s contains operator %s with invalid strategy number %d",
						subject->opfamily, "ivfpq", format_operator(operator->amopopr),
						operator->amopstrategy)));
		return false;
	}

	/* Rows are returned in order of a float8, and never found by a condition but one on that */
	if (operator->amoppurpose != (is_distance ? AMOP_ORDER : AMOP_SEARCH) ||
		(is_distance && !opfamily_can_sort_type(operator->amopsortfamily, get_op_rettype(operator->amopopr))))
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator family \"%s\" of access method %s contains invalid ORDER BY specification for operator %s",
						subject->opfamily, "ivfpq", format_operator(operator->amopopr))));
		result = false;
	}
	if (!check_amop_signature(operator->amopopr, is_distance ? FLOAT8OID : BOOLOID, operator->amoplefttype,
							  is_distance ? operator->amoprighttype : FLOAT8OID))
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator family \"%s\" of access method %s contains operator %s with wrong signature",
						subject->opfamily, "ivfpq", format_operator(operator->amopopr))));
		result = false;
	}
	return result;
}

/* amvalidate */
bool
ivfpqvalidate(Oid opclassoid)
{
	bool		result = true;
	bool		has_operator = false;
	bool		has_function = false;
	bool		has_kind = false;
	bool		is_attribute = false;
	int			strategy;
	int			function_number;
	HeapTuple	class_tuple = SearchSysCache1(CLAOID, ObjectIdGetDatum(opclassoid));
	HeapTuple	family_tuple;
	Form_pg_opclass class_form;
	CatCList   *functions;
	CatCList   *operators;
	Subject		subject;

	if (!HeapTupleIsValid(class_tuple))
		elog(ERROR, "cache lookup failed for operator class %u", opclassoid);
	class_form = (Form_pg_opclass) GETSTRUCT(class_tuple);
	family_tuple = SearchSysCache1(OPFAMILYOID, ObjectIdGetDatum(class_form->opcfamily));
	if (!HeapTupleIsValid(family_tuple))
		elog(ERROR, "cache lookup failed for operator family %u", class_form->opcfamily);
	subject.opclass = NameStr(class_form->opcname);
	subject.opfamily = NameStr(((Form_pg_opfamily) GETSTRUCT(family_tuple))->opfname);

	functions = SearchSysCacheList1(AMPROCNUM, ObjectIdGetDatum(class_form->opcfamily));
	for (int i = 0; i < functions->n_members; i++)
	{
		Form_pg_amproc function = (Form_pg_amproc) GETSTRUCT(&functions->members[i]->tuple);

		result &= check_function(&subject, function);
		if (function->amproclefttype == class_form->opcintype &&
			function->amprocnum == IVFPQ_METRIC_PROC)
			has_function = true;
		if (function->amproclefttype == class_form->opcintype &&
			function->amprocnum == IVFPQ_DATUM_PROC)
			has_kind = true;
		if (function->amproclefttype == class_form->opcintype &&
			function->amprocnum == IVFPQ_ATTRIBUTE_PROC)
			is_attribute = true;
	}
	is_attribute &= !has_function && !has_kind;
	has_function |= is_attribute;
	function_number = is_attribute ? IVFPQ_ATTRIBUTE_PROC : IVFPQ_METRIC_PROC;
	strategy = is_attribute ? BTEqualStrategyNumber : IVFPQ_DISTANCE_STRATEGY;

	if (!is_attribute && !vq_datum_is_array(class_form->opcintype))
	{
		if (!has_kind || get_typlen(class_form->opcintype) != -1)
		{
			ereport(INFO,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("operator class \"%s\" of access method %s is for type %s, which is no array of numbers",
							subject.opclass, "ivfpq", format_type_be(class_form->opcintype)),
					 errdetail("Support function %d says how a type of variable length keeps its numbers.", IVFPQ_DATUM_PROC)));
			result = false;
		}
	}

	operators = SearchSysCacheList1(AMOPSTRATEGY, ObjectIdGetDatum(class_form->opcfamily));
	for (int i = 0; i < operators->n_members; i++)
	{
		Form_pg_amop operator = (Form_pg_amop) GETSTRUCT(&operators->members[i]->tuple);

		result &= is_attribute ? check_comparison(&subject, operator) : check_operator(&subject, operator);
		if (operator->amoplefttype == class_form->opcintype &&
			operator->amoprighttype == class_form->opcintype &&
			operator->amopstrategy == strategy)
			has_operator = true;
	}

	if (!has_operator)
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator class \"%s\" of access method %s is missing operator %d",
						subject.opclass, "ivfpq", strategy)));
	if (!has_function)
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator class \"%s\" of access method %s is missing support function %d",
						subject.opclass, "ivfpq", function_number)));

	ReleaseCatCacheList(operators);
	ReleaseCatCacheList(functions);
	ReleaseSysCache(family_tuple);
	ReleaseSysCache(class_tuple);
	return result && has_operator && has_function;
}
