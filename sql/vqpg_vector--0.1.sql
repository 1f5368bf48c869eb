/* sql/vqpg_vector--0.1.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION vqpg_vector" to load this file. \quit

--
-- Operator classes over pgvector's own types and operators, under the names
-- that its hnsw has for them.  Support function 2 says how values are read.
--
-- Names are looked for first where this extension goes, which others may be
-- allowed to write to.  So functions are its own: one that is there already is an
-- error.  Types and operators are pgvector's, which the end makes sure of.
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

CREATE OPERATOR CLASS vector_l2_ops
	DEFAULT FOR TYPE vector USING ivfpq AS
	OPERATOR 1 <-> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 ivfpq_vector_l2_metric(),
	FUNCTION 2 ivfpq_vector_kind();

CREATE OPERATOR CLASS vector_ip_ops
	FOR TYPE vector USING ivfpq AS
	OPERATOR 1 <#> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 ivfpq_vector_ip_metric(),
	FUNCTION 2 ivfpq_vector_kind();

CREATE OPERATOR CLASS vector_cosine_ops
	FOR TYPE vector USING ivfpq AS
	OPERATOR 1 <=> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 ivfpq_vector_cosine_metric(),
	FUNCTION 2 ivfpq_vector_kind();

CREATE OPERATOR CLASS halfvec_l2_ops
	DEFAULT FOR TYPE halfvec USING ivfpq AS
	OPERATOR 1 <-> (halfvec, halfvec) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 ivfpq_vector_l2_metric(),
	FUNCTION 2 ivfpq_halfvec_kind();

CREATE OPERATOR CLASS halfvec_ip_ops
	FOR TYPE halfvec USING ivfpq AS
	OPERATOR 1 <#> (halfvec, halfvec) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 ivfpq_vector_ip_metric(),
	FUNCTION 2 ivfpq_halfvec_kind();

CREATE OPERATOR CLASS halfvec_cosine_ops
	FOR TYPE halfvec USING ivfpq AS
	OPERATOR 1 <=> (halfvec, halfvec) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 ivfpq_vector_cosine_metric(),
	FUNCTION 2 ivfpq_halfvec_kind();

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
								d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'vector')))
	THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = 'types or operators of pgvector are hidden by others of the same names',
			HINT = 'Look for "vector", "halfvec", "<->", "<#>" and "<=>" in the schema in which vqpg_vector is created, or create it in another one.';
	END IF;
END $$;
