/* sql/vqpg_vector--0.1.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION vqpg_vector" to load this file. \quit

--
-- Operator classes over pgvector's own types and operators, under the names
-- that its hnsw has for them.  Support function 2 says how values are read.
--
-- Names are looked for first where this extension goes, which others may be
-- allowed to write to.  So functions are its own: one that is there already is an
-- error.  Types and operators of two vectors are pgvector's, which the end makes sure of.
--

CREATE FUNCTION ivfpq_vector_l2_metric() RETURNS int4
	AS 'MODULE_PATHNAME', 'ivfpq_l2_metric' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_vector_ip_metric() RETURNS int4
	AS 'MODULE_PATHNAME', 'ivfpq_ip_metric' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_vector_cosine_metric() RETURNS int4
	AS 'MODULE_PATHNAME', 'ivfpq_cosine_metric' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION ivfpq_vector_kind() RETURNS int4
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_halfvec_kind() RETURNS int4
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION ivfpq_vector_may_be_within(vector, double precision) RETURNS boolean
	AS 'MODULE_PATHNAME', 'ivfpq_may_be_within' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_vector_may_be_within(halfvec, double precision) RETURNS boolean
	AS 'MODULE_PATHNAME', 'ivfpq_may_be_within' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE OPERATOR @<= (LEFTARG = vector, RIGHTARG = double precision, FUNCTION = ivfpq_vector_may_be_within);
CREATE OPERATOR @<= (LEFTARG = halfvec, RIGHTARG = double precision, FUNCTION = ivfpq_vector_may_be_within);
COMMENT ON OPERATOR @<= (vector, double precision) IS 'implementation of conditions on distances';
COMMENT ON OPERATOR @<= (halfvec, double precision) IS 'implementation of conditions on distances';

CREATE OPERATOR CLASS vector_l2_ops
	DEFAULT FOR TYPE vector USING ivfpq AS
	OPERATOR 1 <-> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 2 @<= (vector, double precision),
	FUNCTION 1 ivfpq_vector_l2_metric(),
	FUNCTION 2 ivfpq_vector_kind();

CREATE OPERATOR CLASS vector_ip_ops
	FOR TYPE vector USING ivfpq AS
	OPERATOR 1 <#> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 2 @<= (vector, double precision),
	FUNCTION 1 ivfpq_vector_ip_metric(),
	FUNCTION 2 ivfpq_vector_kind();

CREATE OPERATOR CLASS vector_cosine_ops
	FOR TYPE vector USING ivfpq AS
	OPERATOR 1 <=> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 2 @<= (vector, double precision),
	FUNCTION 1 ivfpq_vector_cosine_metric(),
	FUNCTION 2 ivfpq_vector_kind();

CREATE OPERATOR CLASS halfvec_l2_ops
	DEFAULT FOR TYPE halfvec USING ivfpq AS
	OPERATOR 1 <-> (halfvec, halfvec) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 2 @<= (halfvec, double precision),
	FUNCTION 1 ivfpq_vector_l2_metric(),
	FUNCTION 2 ivfpq_halfvec_kind();

CREATE OPERATOR CLASS halfvec_ip_ops
	FOR TYPE halfvec USING ivfpq AS
	OPERATOR 1 <#> (halfvec, halfvec) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 2 @<= (halfvec, double precision),
	FUNCTION 1 ivfpq_vector_ip_metric(),
	FUNCTION 2 ivfpq_halfvec_kind();

CREATE OPERATOR CLASS halfvec_cosine_ops
	FOR TYPE halfvec USING ivfpq AS
	OPERATOR 1 <=> (halfvec, halfvec) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 2 @<= (halfvec, double precision),
	FUNCTION 1 ivfpq_vector_cosine_metric(),
	FUNCTION 2 ivfpq_halfvec_kind();

--
-- Arrays as queries, which is what many drivers send.  pgvector makes a vector an array
-- where an operator wants one, so without these such a query would be one of arrays, which
-- no index is on.  (Not for halfvec, which is not made an array: there the server asks
-- for a cast.)
--

CREATE FUNCTION vector_array_l2_distance(vector, real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_l2_distance(vector, double precision[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_l2_distance(vector, numeric[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_l2_distance(vector, smallint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_l2_distance(vector, integer[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_l2_distance(vector, bigint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

CREATE FUNCTION vector_array_negative_inner_product(vector, real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_negative_inner_product(vector, double precision[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_negative_inner_product(vector, numeric[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_negative_inner_product(vector, smallint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_negative_inner_product(vector, integer[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_negative_inner_product(vector, bigint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

CREATE FUNCTION vector_array_cosine_distance(vector, real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_cosine_distance(vector, double precision[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_cosine_distance(vector, numeric[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_cosine_distance(vector, smallint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_cosine_distance(vector, integer[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION vector_array_cosine_distance(vector, bigint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

CREATE OPERATOR <-> (LEFTARG = vector, RIGHTARG = real[], FUNCTION = vector_array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = vector, RIGHTARG = double precision[], FUNCTION = vector_array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = vector, RIGHTARG = numeric[], FUNCTION = vector_array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = vector, RIGHTARG = smallint[], FUNCTION = vector_array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = vector, RIGHTARG = integer[], FUNCTION = vector_array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = vector, RIGHTARG = bigint[], FUNCTION = vector_array_l2_distance);

CREATE OPERATOR <#> (LEFTARG = vector, RIGHTARG = real[], FUNCTION = vector_array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = vector, RIGHTARG = double precision[], FUNCTION = vector_array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = vector, RIGHTARG = numeric[], FUNCTION = vector_array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = vector, RIGHTARG = smallint[], FUNCTION = vector_array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = vector, RIGHTARG = integer[], FUNCTION = vector_array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = vector, RIGHTARG = bigint[], FUNCTION = vector_array_negative_inner_product);

CREATE OPERATOR <=> (LEFTARG = vector, RIGHTARG = real[], FUNCTION = vector_array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = vector, RIGHTARG = double precision[], FUNCTION = vector_array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = vector, RIGHTARG = numeric[], FUNCTION = vector_array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = vector, RIGHTARG = smallint[], FUNCTION = vector_array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = vector, RIGHTARG = integer[], FUNCTION = vector_array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = vector, RIGHTARG = bigint[], FUNCTION = vector_array_cosine_distance);

ALTER OPERATOR FAMILY vector_l2_ops USING ivfpq ADD
	OPERATOR 1 <-> (vector, real[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (vector, double precision[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (vector, numeric[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (vector, smallint[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (vector, integer[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (vector, bigint[]) FOR ORDER BY pg_catalog.float_ops;

ALTER OPERATOR FAMILY vector_ip_ops USING ivfpq ADD
	OPERATOR 1 <#> (vector, real[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <#> (vector, double precision[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <#> (vector, numeric[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <#> (vector, smallint[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <#> (vector, integer[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <#> (vector, bigint[]) FOR ORDER BY pg_catalog.float_ops;

ALTER OPERATOR FAMILY vector_cosine_ops USING ivfpq ADD
	OPERATOR 1 <=> (vector, real[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (vector, double precision[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (vector, numeric[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (vector, smallint[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (vector, integer[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (vector, bigint[]) FOR ORDER BY pg_catalog.float_ops;

DO $$
BEGIN
	PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
	IF EXISTS (
		SELECT
		FROM pg_depend ours
			 JOIN pg_opclass class ON ours.classid = 'pg_opclass'::regclass AND ours.objid = class.oid
			 JOIN pg_amop entry ON entry.amopfamily = class.opcfamily,
			 LATERAL (VALUES ('pg_operator'::regclass, entry.amopopr), ('pg_type'::regclass, entry.amoplefttype),
							 ('pg_type'::regclass, class.opcintype)) used (catalog, id)
		WHERE ours.deptype = 'e' AND ours.refclassid = 'pg_extension'::regclass AND
			  ours.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'vqpg_vector') AND
			  NOT EXISTS (SELECT FROM pg_depend d
						  WHERE d.classid = used.catalog AND d.objid = used.id AND d.deptype = 'e' AND
								d.refclassid = 'pg_extension'::regclass AND
								d.refobjid IN (SELECT oid FROM pg_extension WHERE extname IN ('vector', 'vqpg_vector'))))
	THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = 'types or operators of pgvector are hidden by others of the same names',
			HINT = 'Look for "vector", "halfvec", "<->", "<#>" and "<=>" in the schema in which vqpg_vector is created, or create it in another one.';
	END IF;
END $$;
