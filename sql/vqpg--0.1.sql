/* sql/vqpg--0.1.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION vqpg" to load this file. \quit

--
-- Distances.  Vectors are real[].  Every other array of numbers may stand on
-- either side, so that whatever a driver sends for a list of numbers finds an
-- operator without a cast; two of the same type, so that literals do too.
--

CREATE FUNCTION array_l2_distance(real[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(real[], double precision[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(real[], numeric[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(real[], smallint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(real[], integer[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(real[], bigint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(double precision[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(numeric[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(smallint[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(integer[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(bigint[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(double precision[], double precision[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(numeric[], numeric[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(smallint[], smallint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(integer[], integer[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_l2_distance(bigint[], bigint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

CREATE FUNCTION array_negative_inner_product(real[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(real[], double precision[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(real[], numeric[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(real[], smallint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(real[], integer[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(real[], bigint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(double precision[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(numeric[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(smallint[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(integer[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(bigint[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(double precision[], double precision[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(numeric[], numeric[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(smallint[], smallint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(integer[], integer[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_negative_inner_product(bigint[], bigint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

CREATE FUNCTION array_cosine_distance(real[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(real[], double precision[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(real[], numeric[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(real[], smallint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(real[], integer[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(real[], bigint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(double precision[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(numeric[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(smallint[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(integer[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(bigint[], real[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(double precision[], double precision[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(numeric[], numeric[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(smallint[], smallint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(integer[], integer[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
CREATE FUNCTION array_cosine_distance(bigint[], bigint[]) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

--
-- Operators
--

CREATE OPERATOR <-> (LEFTARG = real[], RIGHTARG = real[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = real[], RIGHTARG = double precision[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = real[], RIGHTARG = numeric[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = real[], RIGHTARG = smallint[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = real[], RIGHTARG = integer[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = real[], RIGHTARG = bigint[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = double precision[], RIGHTARG = real[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = numeric[], RIGHTARG = real[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = smallint[], RIGHTARG = real[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = integer[], RIGHTARG = real[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = bigint[], RIGHTARG = real[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = double precision[], RIGHTARG = double precision[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = numeric[], RIGHTARG = numeric[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = smallint[], RIGHTARG = smallint[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = integer[], RIGHTARG = integer[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
CREATE OPERATOR <-> (LEFTARG = bigint[], RIGHTARG = bigint[], COMMUTATOR = <->, FUNCTION = array_l2_distance);
COMMENT ON OPERATOR <-> (real[], real[]) IS 'L2 (Euclidean) distance';

CREATE OPERATOR <#> (LEFTARG = real[], RIGHTARG = real[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = real[], RIGHTARG = double precision[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = real[], RIGHTARG = numeric[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = real[], RIGHTARG = smallint[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = real[], RIGHTARG = integer[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = real[], RIGHTARG = bigint[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = double precision[], RIGHTARG = real[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = numeric[], RIGHTARG = real[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = smallint[], RIGHTARG = real[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = integer[], RIGHTARG = real[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = bigint[], RIGHTARG = real[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = double precision[], RIGHTARG = double precision[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = numeric[], RIGHTARG = numeric[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = smallint[], RIGHTARG = smallint[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = integer[], RIGHTARG = integer[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
CREATE OPERATOR <#> (LEFTARG = bigint[], RIGHTARG = bigint[], COMMUTATOR = <#>, FUNCTION = array_negative_inner_product);
COMMENT ON OPERATOR <#> (real[], real[]) IS 'negative inner product';

CREATE OPERATOR <=> (LEFTARG = real[], RIGHTARG = real[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = real[], RIGHTARG = double precision[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = real[], RIGHTARG = numeric[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = real[], RIGHTARG = smallint[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = real[], RIGHTARG = integer[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = real[], RIGHTARG = bigint[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = double precision[], RIGHTARG = real[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = numeric[], RIGHTARG = real[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = smallint[], RIGHTARG = real[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = integer[], RIGHTARG = real[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = bigint[], RIGHTARG = real[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = double precision[], RIGHTARG = double precision[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = numeric[], RIGHTARG = numeric[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = smallint[], RIGHTARG = smallint[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = integer[], RIGHTARG = integer[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
CREATE OPERATOR <=> (LEFTARG = bigint[], RIGHTARG = bigint[], COMMUTATOR = <=>, FUNCTION = array_cosine_distance);
COMMENT ON OPERATOR <=> (real[], real[]) IS 'cosine distance';

--
-- Access method
--

CREATE FUNCTION ivfpq_handler(internal) RETURNS index_am_handler
	AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE ACCESS METHOD ivfpq TYPE INDEX HANDLER ivfpq_handler;
COMMENT ON ACCESS METHOD ivfpq IS 'inverted lists of product-quantised vectors';

--
-- Operator classes.  Strategy 1 is the distance, support function 1 says which
-- one it is; strategy 2 is for conditions on it.
--

CREATE FUNCTION ivfpq_l2_metric() RETURNS int4
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_ip_metric() RETURNS int4
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_cosine_metric() RETURNS int4
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- A query's own condition on the distance, as the access method is told of it.  True of all
-- rows, as the condition itself is kept beside it, and of no use but to the planner.
CREATE FUNCTION ivfpq_may_be_within(real[], double precision) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE OPERATOR @<= (LEFTARG = real[], RIGHTARG = double precision, FUNCTION = ivfpq_may_be_within);
COMMENT ON OPERATOR @<= (real[], double precision) IS 'implementation of conditions on distances';

CREATE OPERATOR CLASS array_l2_ops
	DEFAULT FOR TYPE real[] USING ivfpq AS
	OPERATOR 1 <-> (real[], real[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 2 @<= (real[], double precision),
	FUNCTION 1 ivfpq_l2_metric();

CREATE OPERATOR CLASS array_ip_ops
	FOR TYPE real[] USING ivfpq AS
	OPERATOR 1 <#> (real[], real[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 2 @<= (real[], double precision),
	FUNCTION 1 ivfpq_ip_metric();

CREATE OPERATOR CLASS array_cosine_ops
	FOR TYPE real[] USING ivfpq AS
	OPERATOR 1 <=> (real[], real[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 2 @<= (real[], double precision),
	FUNCTION 1 ivfpq_cosine_metric();

ALTER OPERATOR FAMILY array_l2_ops USING ivfpq ADD
	OPERATOR 1 <-> (real[], double precision[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (real[], numeric[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (real[], smallint[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (real[], integer[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (real[], bigint[]) FOR ORDER BY pg_catalog.float_ops;

ALTER OPERATOR FAMILY array_ip_ops USING ivfpq ADD
	OPERATOR 1 <#> (real[], double precision[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <#> (real[], numeric[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <#> (real[], smallint[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <#> (real[], integer[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <#> (real[], bigint[]) FOR ORDER BY pg_catalog.float_ops;

ALTER OPERATOR FAMILY array_cosine_ops USING ivfpq ADD
	OPERATOR 1 <=> (real[], double precision[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (real[], numeric[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (real[], smallint[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (real[], integer[]) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (real[], bigint[]) FOR ORDER BY pg_catalog.float_ops;

--
-- Operator classes of attributes, the columns after the vector.  Strategies are those of
-- B-trees, 6 and 7 for sets; support function 3 gives the number that stands for a value, in
-- the order of values, or a hash of it where the class has nothing but =, or bits for its elements.
--

CREATE FUNCTION ivfpq_attribute(date) RETURNS int4
	AS 'MODULE_PATHNAME', 'ivfpq_attribute_int4' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_attribute(time) RETURNS int8
	AS 'MODULE_PATHNAME', 'ivfpq_attribute_int8' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_attribute(timestamp) RETURNS int8
	AS 'MODULE_PATHNAME', 'ivfpq_attribute_int8' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_attribute(timestamptz) RETURNS int8
	AS 'MODULE_PATHNAME', 'ivfpq_attribute_int8' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_attribute(real) RETURNS int8
	AS 'MODULE_PATHNAME', 'ivfpq_attribute_float4' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_attribute(double precision) RETURNS int8
	AS 'MODULE_PATHNAME', 'ivfpq_attribute_float8' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_attribute(numeric) RETURNS int8
	AS 'MODULE_PATHNAME', 'ivfpq_attribute_numeric' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION ivfpq_attribute(anyarray) RETURNS int8
	AS 'MODULE_PATHNAME', 'ivfpq_attribute_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION ivfpq_attribute(jsonb) RETURNS int8
	AS 'MODULE_PATHNAME', 'ivfpq_attribute_jsonb' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR FAMILY integer_ops USING ivfpq;
CREATE OPERATOR CLASS int2_ops
	DEFAULT FOR TYPE smallint USING ivfpq FAMILY integer_ops AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 pg_catalog.int4(smallint);

CREATE OPERATOR CLASS int4_ops
	DEFAULT FOR TYPE integer USING ivfpq FAMILY integer_ops AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 pg_catalog.int4up(integer);

CREATE OPERATOR CLASS int8_ops
	DEFAULT FOR TYPE bigint USING ivfpq FAMILY integer_ops AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 pg_catalog.int8up(bigint);

ALTER OPERATOR FAMILY integer_ops USING ivfpq ADD
	OPERATOR 1 < (smallint, integer),
	OPERATOR 2 <= (smallint, integer),
	OPERATOR 3 = (smallint, integer),
	OPERATOR 4 >= (smallint, integer),
	OPERATOR 5 > (smallint, integer),
	OPERATOR 1 < (smallint, bigint),
	OPERATOR 2 <= (smallint, bigint),
	OPERATOR 3 = (smallint, bigint),
	OPERATOR 4 >= (smallint, bigint),
	OPERATOR 5 > (smallint, bigint),
	OPERATOR 1 < (integer, smallint),
	OPERATOR 2 <= (integer, smallint),
	OPERATOR 3 = (integer, smallint),
	OPERATOR 4 >= (integer, smallint),
	OPERATOR 5 > (integer, smallint),
	OPERATOR 1 < (integer, bigint),
	OPERATOR 2 <= (integer, bigint),
	OPERATOR 3 = (integer, bigint),
	OPERATOR 4 >= (integer, bigint),
	OPERATOR 5 > (integer, bigint),
	OPERATOR 1 < (bigint, smallint),
	OPERATOR 2 <= (bigint, smallint),
	OPERATOR 3 = (bigint, smallint),
	OPERATOR 4 >= (bigint, smallint),
	OPERATOR 5 > (bigint, smallint),
	OPERATOR 1 < (bigint, integer),
	OPERATOR 2 <= (bigint, integer),
	OPERATOR 3 = (bigint, integer),
	OPERATOR 4 >= (bigint, integer),
	OPERATOR 5 > (bigint, integer);

CREATE OPERATOR FAMILY float_ops USING ivfpq;
CREATE OPERATOR CLASS float4_ops
	DEFAULT FOR TYPE real USING ivfpq FAMILY float_ops AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 ivfpq_attribute(real);

CREATE OPERATOR CLASS float8_ops
	DEFAULT FOR TYPE double precision USING ivfpq FAMILY float_ops AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 ivfpq_attribute(double precision);

ALTER OPERATOR FAMILY float_ops USING ivfpq ADD
	OPERATOR 1 < (real, double precision),
	OPERATOR 2 <= (real, double precision),
	OPERATOR 3 = (real, double precision),
	OPERATOR 4 >= (real, double precision),
	OPERATOR 5 > (real, double precision),
	OPERATOR 1 < (double precision, real),
	OPERATOR 2 <= (double precision, real),
	OPERATOR 3 = (double precision, real),
	OPERATOR 4 >= (double precision, real),
	OPERATOR 5 > (double precision, real);

CREATE OPERATOR CLASS numeric_ops
	DEFAULT FOR TYPE numeric USING ivfpq AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 ivfpq_attribute(numeric);

CREATE OPERATOR CLASS bool_ops
	DEFAULT FOR TYPE boolean USING ivfpq AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 pg_catalog.int4(boolean);

CREATE OPERATOR CLASS oid_ops
	DEFAULT FOR TYPE oid USING ivfpq AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 pg_catalog.int8(oid);

CREATE OPERATOR FAMILY datetime_ops USING ivfpq;
CREATE OPERATOR CLASS date_ops
	DEFAULT FOR TYPE date USING ivfpq FAMILY datetime_ops AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 ivfpq_attribute(date);

CREATE OPERATOR CLASS timestamp_ops
	DEFAULT FOR TYPE timestamp USING ivfpq FAMILY datetime_ops AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 ivfpq_attribute(timestamp);

CREATE OPERATOR CLASS timestamptz_ops
	DEFAULT FOR TYPE timestamptz USING ivfpq FAMILY datetime_ops AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 ivfpq_attribute(timestamptz);

ALTER OPERATOR FAMILY datetime_ops USING ivfpq ADD
	OPERATOR 1 < (date, timestamp),
	OPERATOR 2 <= (date, timestamp),
	OPERATOR 3 = (date, timestamp),
	OPERATOR 4 >= (date, timestamp),
	OPERATOR 5 > (date, timestamp),
	OPERATOR 1 < (date, timestamptz),
	OPERATOR 2 <= (date, timestamptz),
	OPERATOR 3 = (date, timestamptz),
	OPERATOR 4 >= (date, timestamptz),
	OPERATOR 5 > (date, timestamptz),
	OPERATOR 1 < (timestamp, date),
	OPERATOR 2 <= (timestamp, date),
	OPERATOR 3 = (timestamp, date),
	OPERATOR 4 >= (timestamp, date),
	OPERATOR 5 > (timestamp, date),
	OPERATOR 1 < (timestamp, timestamptz),
	OPERATOR 2 <= (timestamp, timestamptz),
	OPERATOR 3 = (timestamp, timestamptz),
	OPERATOR 4 >= (timestamp, timestamptz),
	OPERATOR 5 > (timestamp, timestamptz),
	OPERATOR 1 < (timestamptz, date),
	OPERATOR 2 <= (timestamptz, date),
	OPERATOR 3 = (timestamptz, date),
	OPERATOR 4 >= (timestamptz, date),
	OPERATOR 5 > (timestamptz, date),
	OPERATOR 1 < (timestamptz, timestamp),
	OPERATOR 2 <= (timestamptz, timestamp),
	OPERATOR 3 = (timestamptz, timestamp),
	OPERATOR 4 >= (timestamptz, timestamp),
	OPERATOR 5 > (timestamptz, timestamp);

CREATE OPERATOR CLASS time_ops
	DEFAULT FOR TYPE time USING ivfpq AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 3 ivfpq_attribute(time);

CREATE OPERATOR CLASS text_ops
	DEFAULT FOR TYPE text USING ivfpq AS
	OPERATOR 3 =,
	FUNCTION 3 pg_catalog.hashtext(text);

CREATE OPERATOR CLASS bpchar_ops
	DEFAULT FOR TYPE bpchar USING ivfpq AS
	OPERATOR 3 =,
	FUNCTION 3 pg_catalog.hashbpchar(bpchar);

CREATE OPERATOR CLASS uuid_ops
	DEFAULT FOR TYPE uuid USING ivfpq AS
	OPERATOR 3 =,
	FUNCTION 3 pg_catalog.uuid_hash(uuid);

CREATE OPERATOR CLASS enum_ops
	DEFAULT FOR TYPE anyenum USING ivfpq AS
	OPERATOR 3 =,
	FUNCTION 3 pg_catalog.hashenum(anyenum);

CREATE OPERATOR CLASS array_ops
	DEFAULT FOR TYPE anyarray USING ivfpq AS
	OPERATOR 3 =,
	OPERATOR 6 &&,
	OPERATOR 7 @>,
	FUNCTION 3 ivfpq_attribute(anyarray);

CREATE OPERATOR CLASS jsonb_ops
	DEFAULT FOR TYPE jsonb USING ivfpq AS
	OPERATOR 3 =,
	OPERATOR 7 @>,
	FUNCTION 3 ivfpq_attribute(jsonb);

--
-- Looking at indexes
--

CREATE FUNCTION ivfpq_index_info(
	index regclass,
	OUT format_version int,
	OUT metric text,
	OUT dims int,
	OUT lists int,
	OUT m int,
	OUT nbits int,
	OUT rotation text,
	OUT code_bytes int,
	OUT nprobe int,				-- lists that a search reads, in the mean where ivfpq.recall says how many
	OUT rows bigint,
	OUT dead_slots bigint,
	OUT zero_vectors bigint,
	OUT pages bigint,
	OUT train_rows bigint,
	OUT trained_on text,
	OUT imbalance real,
	OUT build_ms int[],			-- of sampling, clustering, training codes, encoding, writing
	OUT advice text)
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION ivfpq_index_info(regclass) IS 'what an ivfpq index is made of, and what could be better';

CREATE FUNCTION ivfpq_list_info(
	index regclass,
	OUT list int,
	OUT blocks bigint,
	OUT pages bigint,
	OUT rows bigint,
	OUT dead_slots bigint,
	OUT free_slots bigint)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION ivfpq_list_info(regclass) IS 'the lists of an ivfpq index';

CREATE FUNCTION ivfpq_check(index regclass, heapallindexed boolean DEFAULT false, codes boolean DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION ivfpq_check(regclass, boolean, boolean) IS 'raise an error if an ivfpq index is damaged';

CREATE FUNCTION ivfpq_reconstruct(index regclass, row_tid tid) RETURNS real[]
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION ivfpq_reconstruct(regclass, tid) IS 'the vector of a row as its code in an ivfpq index remembers it';

CREATE FUNCTION ivfpq_last_scan(
	OUT lists_probed bigint,
	OUT codes_scored bigint,
	OUT candidates_reranked bigint,
	OUT rows_returned bigint,
	OUT rows_filtered bigint)
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION ivfpq_last_scan() IS 'what the last ivfpq scan of this session did';

-- Unsafe in parallel, as it changes settings while it runs
CREATE FUNCTION ivfpq_recall(
	index regclass,
	queries text DEFAULT NULL,	-- SQL that returns vectors; rows of the table if NULL
	nprobes int[] DEFAULT NULL,	-- if NULL, values of ivfpq.recall, or for an index with an nprobe of its own a quarter of that to four times as many
	k int DEFAULT 10,
	sample int DEFAULT 100,		-- rows to take for queries
	OUT target double precision,	-- the ivfpq.recall tried; NULL where it was an nprobe
	OUT nprobe int,				-- lists read, in the mean
	OUT recall double precision,
	OUT milliseconds double precision,
	OUT codes_scored double precision,
	OUT rows_compared double precision,
	OUT queries_asked int)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION ivfpq_recall(regclass, text, int[], int, int) IS 'share of the nearest rows that searches by an ivfpq index find, and how long they take';

CREATE FUNCTION vqpg_kernels(
	OUT name text,
	OUT supported boolean,
	OUT in_use boolean)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vqpg_kernels() IS 'implementations of the distance computations';

-- No row, and a NOTICE that says why, where CREATE INDEX finds no GPU.  Volatile,
-- as it asks the devices, and never in a worker, which must not open them.
CREATE FUNCTION vqpg_gpus(
	OUT device int,				-- what ivfpq.gpu_device takes
	OUT name text,
	OUT memory_bytes bigint,
	OUT free_bytes bigint,		-- NULL if the device does not say
	OUT compute_capability text,
	OUT driver_cuda_version text)	-- the newest CUDA that the driver supports
	RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION vqpg_gpus() IS 'GPUs that CREATE INDEX can use; no rows and a notice with the reason if there are none';

-- ivfpq_check reads a whole index and its table, and ivfpq_reconstruct shows what
-- codes tell of rows, those that no snapshot sees included
REVOKE ALL ON FUNCTION ivfpq_check(regclass, boolean, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION ivfpq_reconstruct(regclass, tid) FROM PUBLIC;
