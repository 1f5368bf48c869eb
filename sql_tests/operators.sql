--
-- Distances between arrays, and the operator classes made of them
--

-- Distances are what their definitions say
SELECT '{1,2}'::real[] <-> '{4,6}'::real[] AS l2,
	   '{1,2}'::real[] <#> '{4,6}'::real[] AS negative_inner_product,
	   round(('{3,4}'::real[] <=> '{4,3}'::real[])::numeric, 6) AS cosine;
SELECT array_l2_distance('{1,2}'::real[], '{4,6}'::real[]) AS l2,
	   array_negative_inner_product('{1,2}'::real[], '{4,6}'::real[]) AS negative_inner_product,
	   round(array_cosine_distance('{3,4}'::real[], '{4,3}'::real[])::numeric, 6) AS cosine;

-- Null in, null out
SELECT '{1,2}'::real[] <-> NULL::real[] AS l2, NULL::real[] <#> '{1,2}' AS ip, NULL::real[] <=> NULL::real[] AS cosine;

-- An unknown literal is read as the type of the other side
SELECT '{1,2}'::real[] <-> '{4,6}' AS real, '{1,2}' <-> '{4,6}'::real[] AS commuted,
	   '{1,2}'::float8[] <-> '{4,6}' AS float8;

-- Every array of numbers can stand on either side, and two of a kind
SELECT left_type, right_type, l2, ip, round(cosine::numeric, 6) AS cosine
FROM (VALUES
	('smallint[]', 'real[]', '{3,4}'::smallint[] <-> '{4,3}'::real[], '{3,4}'::smallint[] <#> '{4,3}'::real[], '{3,4}'::smallint[] <=> '{4,3}'::real[]),
	('integer[]', 'real[]', '{3,4}'::integer[] <-> '{4,3}'::real[], '{3,4}'::integer[] <#> '{4,3}'::real[], '{3,4}'::integer[] <=> '{4,3}'::real[]),
	('bigint[]', 'real[]', '{3,4}'::bigint[] <-> '{4,3}'::real[], '{3,4}'::bigint[] <#> '{4,3}'::real[], '{3,4}'::bigint[] <=> '{4,3}'::real[]),
	('float8[]', 'real[]', '{3,4}'::float8[] <-> '{4,3}'::real[], '{3,4}'::float8[] <#> '{4,3}'::real[], '{3,4}'::float8[] <=> '{4,3}'::real[]),
	('numeric[]', 'real[]', '{3,4}'::numeric[] <-> '{4,3}'::real[], '{3,4}'::numeric[] <#> '{4,3}'::real[], '{3,4}'::numeric[] <=> '{4,3}'::real[]),
	('real[]', 'smallint[]', '{3,4}'::real[] <-> '{4,3}'::smallint[], '{3,4}'::real[] <#> '{4,3}'::smallint[], '{3,4}'::real[] <=> '{4,3}'::smallint[]),
	('real[]', 'integer[]', '{3,4}'::real[] <-> '{4,3}'::integer[], '{3,4}'::real[] <#> '{4,3}'::integer[], '{3,4}'::real[] <=> '{4,3}'::integer[]),
	('real[]', 'bigint[]', '{3,4}'::real[] <-> '{4,3}'::bigint[], '{3,4}'::real[] <#> '{4,3}'::bigint[], '{3,4}'::real[] <=> '{4,3}'::bigint[]),
	('real[]', 'float8[]', '{3,4}'::real[] <-> '{4,3}'::float8[], '{3,4}'::real[] <#> '{4,3}'::float8[], '{3,4}'::real[] <=> '{4,3}'::float8[]),
	('real[]', 'numeric[]', '{3,4}'::real[] <-> '{4,3}'::numeric[], '{3,4}'::real[] <#> '{4,3}'::numeric[], '{3,4}'::real[] <=> '{4,3}'::numeric[]),
	('smallint[]', 'smallint[]', '{3,4}'::smallint[] <-> '{4,3}'::smallint[], '{3,4}'::smallint[] <#> '{4,3}'::smallint[], '{3,4}'::smallint[] <=> '{4,3}'::smallint[]),
	('integer[]', 'integer[]', '{3,4}'::integer[] <-> '{4,3}'::integer[], '{3,4}'::integer[] <#> '{4,3}'::integer[], '{3,4}'::integer[] <=> '{4,3}'::integer[]),
	('bigint[]', 'bigint[]', '{3,4}'::bigint[] <-> '{4,3}'::bigint[], '{3,4}'::bigint[] <#> '{4,3}'::bigint[], '{3,4}'::bigint[] <=> '{4,3}'::bigint[]),
	('float8[]', 'float8[]', '{3,4}'::float8[] <-> '{4,3}'::float8[], '{3,4}'::float8[] <#> '{4,3}'::float8[], '{3,4}'::float8[] <=> '{4,3}'::float8[]),
	('numeric[]', 'numeric[]', '{3,4}'::numeric[] <-> '{4,3}'::numeric[], '{3,4}'::numeric[] <#> '{4,3}'::numeric[], '{3,4}'::numeric[] <=> '{4,3}'::numeric[])
) AS t (left_type, right_type, l2, ip, cosine)
WHERE round(l2::numeric, 5) <> 1.41421 OR ip <> -24 OR round(cosine::numeric, 5) <> 0.04;
SELECT ARRAY[1,2] <-> ARRAY[4,6] AS integers, ARRAY[0.5,2] <-> ARRAY[3.5,6] AS decimals,
	   array_l2_distance(ARRAY[1,2], ARRAY[4,6]) AS function;

-- Arrays behave the same however they are stored: short and long headers,
-- compressed, out of line, with a null bitmap that has no nulls, with other
-- lower bounds, expanded by PL/pgSQL
CREATE TABLE stored (how text, v real[]);
INSERT INTO stored
SELECT 'short', array_agg(i % 7) FROM generate_series(1, 5) i
UNION ALL SELECT 'long', array_agg(i % 7) FROM generate_series(1, 300) i
UNION ALL SELECT 'compressed', array_agg(i % 2) FROM generate_series(1, 3000) i
UNION ALL SELECT 'out of line', array_agg(sqrt(i)) FROM generate_series(1, 3000) i
UNION ALL SELECT 'lower bound', '[5:7]={1,2,3}';
INSERT INTO stored VALUES ('null bitmap', '{1,NULL,3}');
UPDATE stored SET v[2] = 2 WHERE how = 'null bitmap';
SELECT how, array_length(v, 1) AS dims, v <-> v AS to_itself,
	   abs((v <#> v) + (SELECT sum(x::float8 * x) FROM unnest(v) x)) < 1e-6 * abs(v <#> v) AS agrees
FROM stored ORDER BY dims, how COLLATE "C";
CREATE FUNCTION distance_of_variables(n int) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	a real[] := '{}';
	b numeric[] := '{}';
BEGIN
	FOR i IN 1 .. n LOOP
		a[i] := i;
		b[i] := i + 1;
	END LOOP;
	RETURN a <-> b;
END $$;
SELECT distance_of_variables(4) AS four, distance_of_variables(400) AS four_hundred;

-- A converted argument is not taken for another of the same size
SELECT i, '{0,0}'::real[] <-> ARRAY[i, 0]::numeric[] AS changes, '{0,0}'::real[] <-> '{3,4}'::numeric[] AS stays
FROM generate_series(1, 3) i;

-- Squares too large or too small for real do not spoil a distance
SELECT '{3e38,0}'::real[] <-> '{-3e38,0}' AS l2_large, '{3e-30,4e-30}'::real[] <-> '{0,0}' AS l2_small,
	   '{1e30,1e30}'::real[] <#> '{1e30,-1e30}' AS ip_cancels, '{1e-30}'::real[] <#> '{1e-10}' AS ip_small;
SELECT round(('{3e30,4e30}'::real[] <=> '{4e30,3e30}')::numeric, 6) AS cosine_large,
	   round(('{3e-30,4e-30}'::real[] <=> '{4e30,3e30}')::numeric, 6) AS cosine_small;

-- Cosine distance is between 0 and 2, exactly 0 to itself, and unknown for a zero vector
SELECT min(v <=> v) AS smallest, max(v <=> v) AS largest, min(v <=> w) AS opposite_smallest, max(v <=> w) AS opposite_largest
FROM (SELECT array_agg(sin(i * n)::real) AS v, array_agg(-sin(i * n)::real) AS w
	  FROM generate_series(1, 200) i, generate_series(1, 37) n GROUP BY n) t;
SELECT '{0,0}'::real[] <=> '{1,2}' AS zero, '{0,0}'::real[] <=> '{0,0}' AS both_zero;

-- Every kernel that this machine has gives the same distances at every length
CREATE TABLE lengths AS
SELECT n, array_agg(sin(i * 3 + n)::real ORDER BY i) AS a, array_agg(cos(i * 5 - n)::real ORDER BY i) AS b
FROM generate_series(1, 70) n, generate_series(1, 70) i WHERE i <= n GROUP BY n;
CREATE FUNCTION kernels_that_disagree() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	kernel text;
BEGIN
	FOR kernel IN SELECT name FROM vqpg_kernels() WHERE supported LOOP
		PERFORM set_config('ivfpq.kernel', kernel, true);
		RETURN QUERY
		SELECT format('%s at %s', kernel, n) FROM lengths,
			LATERAL (SELECT sqrt(sum((x::float8 - y) ^ 2)) AS l2, -sum(x::float8 * y) AS ip,
							1 - sum(x::float8 * y) / sqrt(sum(x::float8 ^ 2) * sum(y::float8 ^ 2)) AS cosine
					 FROM unnest(a, b) AS u (x, y)) AS exact
		WHERE abs((a <-> b) - l2) > 1e-5 OR abs((a <#> b) - ip) > 1e-5 OR abs((a <=> b) - cosine) > 1e-5;
	END LOOP;
END $$;
SELECT * FROM kernels_that_disagree();

-- What is not a vector is refused, wherever it stands
SELECT '{1,2}'::real[] <-> '{1,2,3}';
SELECT '{1,2}'::real[] <#> '{1,2,3}';
SELECT '{1,2}'::real[] <=> '{1,2,3}';
SELECT '{}'::real[] <-> '{}';
SELECT '{{1,2},{3,4}}'::real[] <-> '{1,2}';
SELECT '{1,NULL}'::real[] <-> '{1,2}';
SELECT '{1,NaN}'::real[] <-> '{1,2}';
SELECT '{1,2,Infinity}'::real[] <-> '{1,2,3}';
SELECT '{1,2,3}'::real[] <-> '{-Infinity,2,3}';
SELECT '{1,2}'::real[] <-> '{1,1e300}'::float8[];
SELECT '{1,2}'::real[] <-> '{1,NaN}'::float8[];
SELECT '{1,2}'::real[] <-> '{1,1e500}'::numeric[];
SELECT '{1,2}'::real[] <-> '{1,NULL}'::numeric[];
SELECT '{1,2}'::real[] <-> '{1,1e-300}'::float8[] AS too_small_is_zero;
SELECT array_fill(1::real, '{16001}') <-> array_fill(1::real, '{16001}');
SELECT array_fill(1::real, '{16000}') <-> array_fill(2::real, '{16000}') AS most_dimensions;
\set VERBOSITY terse
SELECT '{a,b}'::text[] <-> '{a,b}'::text[];
\set VERBOSITY default

-- NaN and infinity are refused by every distance, also where the other number is zero; the largest numbers are not
CREATE FUNCTION distance_or_error(operator text, a real[], b real[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	distance float8;
BEGIN
	EXECUTE format('SELECT $1 %s $2', operator) INTO distance USING a, b;
	RETURN distance;
EXCEPTION WHEN numeric_value_out_of_range THEN
	RETURN 'refused';
END $$;
SELECT operator, a, distance_or_error(operator, a, b) AS distance, distance_or_error(operator, b, a) AS commuted
FROM unnest('{<->,<#>,<=>}'::text[]) AS operator,
	(VALUES ('{NaN,1}'::real[], '{0,1}'::real[]), ('{-Infinity,1}', '{0,1}'), ('{Infinity,0}', '{Infinity,0}'),
			('{3e38,3e38}', '{-3e38,0}'), ('{0,0}', '{1,1}')) AS pairs (a, b);

-- Every operator has its commutator, of the same name
SELECT count(*), count(*) FILTER (WHERE c.oprname = o.oprname AND c.oprleft = o.oprright AND c.oprright = o.oprleft) AS commute
FROM pg_operator o LEFT JOIN pg_operator c ON c.oid = o.oprcom
WHERE o.oprcode::text ~ 'array_(l2|negative|cosine)';

-- Distances are immutable, strict and parallel safe
SELECT DISTINCT provolatile, proisstrict, proparallel, prorettype::regtype
FROM pg_proc WHERE proname ~ '^array_(l2|negative|cosine)';

-- The operator classes of vectors are valid, and order by distances from every type
SELECT opcname, opcintype::regtype, opcdefault, amvalidate(c.oid),
	   count(*) FILTER (WHERE amoppurpose = 'o') AS distances,
	   string_agg(amopopr::regoperator::text, ', ') FILTER (WHERE amoppurpose = 's') AS conditions, bool_and(amoplefttype = opcintype) AS of_its_type
FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod JOIN pg_amop ON amopfamily = opcfamily
WHERE amname = 'ivfpq' AND opcintype = 'real[]'::regtype GROUP BY c.oid ORDER BY opcname;
SELECT ivfpq_l2_metric() AS l2, ivfpq_ip_metric() AS ip, ivfpq_cosine_metric() AS cosine;

-- Operator classes that cannot work are found out
CREATE FUNCTION is_valid(class text) RETURNS boolean LANGUAGE sql
AS $$ SELECT amvalidate(oid) FROM pg_opclass WHERE opcname = class $$;
CREATE OPERATOR CLASS no_function FOR TYPE real[] USING ivfpq AS
	OPERATOR 1 <-> (real[], real[]) FOR ORDER BY float_ops;
SELECT is_valid('no_function');
CREATE OPERATOR CLASS no_operator FOR TYPE real[] USING ivfpq AS
	FUNCTION 1 ivfpq_l2_metric();
SELECT is_valid('no_operator');
CREATE OPERATOR CLASS wrong_strategy FOR TYPE real[] USING ivfpq AS
	OPERATOR 3 <-> (real[], real[]) FOR ORDER BY float_ops, FUNCTION 1 ivfpq_l2_metric();
SELECT is_valid('wrong_strategy');
CREATE OPERATOR CLASS wrong_condition FOR TYPE real[] USING ivfpq AS
	OPERATOR 1 <-> (real[], real[]) FOR ORDER BY float_ops, OPERATOR 2 = (anyarray, anyarray), FUNCTION 1 ivfpq_l2_metric();
SELECT is_valid('wrong_condition');
CREATE OPERATOR CLASS wrong_signature FOR TYPE real[] USING ivfpq AS
	OPERATOR 1 <-> (real[], real[]) FOR ORDER BY float_ops, FUNCTION 1 abs(int4);
SELECT is_valid('wrong_signature');
CREATE OPERATOR CLASS search_operator FOR TYPE real[] USING ivfpq AS
	OPERATOR 1 = (anyarray, anyarray) FOR SEARCH, FUNCTION 1 ivfpq_l2_metric();
SELECT is_valid('search_operator');
CREATE FUNCTION int4_distance(real[], real[]) RETURNS int4 IMMUTABLE STRICT LANGUAGE sql AS 'SELECT 1';
CREATE OPERATOR <%%> (LEFTARG = real[], RIGHTARG = real[], FUNCTION = int4_distance);
CREATE OPERATOR CLASS not_float8 FOR TYPE real[] USING ivfpq AS
	OPERATOR 1 <%%> (real[], real[]) FOR ORDER BY integer_ops, FUNCTION 1 ivfpq_l2_metric();
SELECT is_valid('not_float8');
CREATE OPERATOR FAMILY cross_family USING ivfpq;
CREATE OPERATOR CLASS cross_type FOR TYPE real[] USING ivfpq FAMILY cross_family AS
	OPERATOR 1 <-> (real[], real[]) FOR ORDER BY float_ops, FUNCTION 1 (real[], float8[]) ivfpq_l2_metric();
SELECT is_valid('cross_type');

DROP OPERATOR FAMILY no_function USING ivfpq CASCADE;
DROP OPERATOR FAMILY no_operator USING ivfpq CASCADE;
DROP OPERATOR FAMILY wrong_strategy USING ivfpq CASCADE;
DROP OPERATOR FAMILY wrong_condition USING ivfpq CASCADE;
DROP OPERATOR FAMILY wrong_signature USING ivfpq CASCADE;
DROP OPERATOR FAMILY search_operator USING ivfpq CASCADE;
DROP OPERATOR FAMILY not_float8 USING ivfpq CASCADE;
DROP OPERATOR FAMILY cross_family USING ivfpq CASCADE;
DROP OPERATOR <%%> (real[], real[]);
DROP FUNCTION int4_distance, is_valid, kernels_that_disagree, distance_of_variables;
DROP TABLE stored, lengths;
