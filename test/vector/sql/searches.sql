--
-- Indexes on pgvector's columns find what reading the table finds
--
CREATE TABLE items AS
SELECT i AS id, v::vector(12) AS embedding, v::vector(12)::halfvec(12) AS half
FROM (SELECT i, (SELECT array_agg((sin(i % 40 * 7.3 * j + j) + 0.5 * sin(i * (j + 0.7) * 12.9898))::real ORDER BY j)
				 FROM generate_series(1, 12) j) AS v
	  FROM generate_series(1, 9000) i) s;
CREATE TABLE queries AS
SELECT i AS id, (SELECT array_agg((sin(i * 7.3 * j + j) + 0.5 * sin(i * j * 3.77))::real ORDER BY j)
				 FROM generate_series(1, 12) j)::vector AS embedding
FROM generate_series(1, 10) i;
SET max_parallel_workers_per_gather = 0;

-- Every class has what it takes
SELECT opcname, opcdefault, amvalidate(c.oid)
FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod
WHERE amname = 'ivfpq' AND opcname LIKE '%v%ec%' ORDER BY opcname COLLATE "C";

-- The nearest rows by an index, and by reading the whole table
CREATE FUNCTION nearest(query text) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
	ids int[];
BEGIN
	EXECUTE format('SELECT array_agg(id) FROM (%s) t', query) INTO ids;
	RETURN ids;
END $$;
CREATE FUNCTION by_index(query text) RETURNS int[] LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
	plan text;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	ASSERT plan ~ '"Index Name": "(tried|items_)', plan;
	RETURN nearest(query);
END $$;
CREATE FUNCTION by_table(query text) RETURNS int[] LANGUAGE plpgsql SET enable_indexscan = off AS
	$$ BEGIN RETURN nearest(query); END $$;

-- With all lists and a very careful bound they are the same
CREATE FUNCTION try_class(class text, columns text, operator text, options text, OUT has_codes boolean, OUT are_equal boolean)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE INDEX tried ON items USING ivfpq (%I %I) WITH (%s)', columns, class, options);
	SET LOCAL ivfpq.nprobe = 262144;
	SET LOCAL ivfpq.epsilon = 100;
	SELECT bool_and(by_index(q) = by_table(q)) INTO are_equal
	FROM queries, format('SELECT id FROM items ORDER BY %I %s %L LIMIT 10', columns, operator, embedding) q;
	PERFORM ivfpq_check('tried', true, true);
	has_codes := m > 0 FROM ivfpq_index_info('tried');
	DROP INDEX tried;
END $$;
SELECT class, options, t.*
FROM (VALUES
	('vector_l2_ops', 'embedding', '<->'), ('vector_ip_ops', 'embedding', '<#>'), ('vector_cosine_ops', 'embedding', '<=>'),
	('halfvec_l2_ops', 'half', '<->'), ('halfvec_ip_ops', 'half', '<#>'), ('halfvec_cosine_ops', 'half', '<=>')
) AS c (class, columns, operator), unnest('{nbits=4,"nbits=8, m=6",lists=1}'::text[]) options,
try_class(class, columns, operator, options) t;

-- Each operator has its index, beside those of pgvector
CREATE INDEX items_l2 ON items USING ivfpq (embedding);
CREATE INDEX items_ip ON items USING ivfpq (embedding vector_ip_ops);
CREATE INDEX items_cosine ON items USING ivfpq (embedding vector_cosine_ops);
CREATE INDEX items_half ON items USING ivfpq (half);
CREATE INDEX items_hnsw ON items USING hnsw (embedding vector_l1_ops);
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> '[1,2,3,4,5,6,7,8,9,10,11,12]' LIMIT 1;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <#> '[1,2,3,4,5,6,7,8,9,10,11,12]' LIMIT 1;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <=> '[1,2,3,4,5,6,7,8,9,10,11,12]' LIMIT 1;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY half <-> '[1,2,3,4,5,6,7,8,9,10,11,12]' LIMIT 1;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <+> '[1,2,3,4,5,6,7,8,9,10,11,12]' LIMIT 1;

-- What drivers send is cast to the type
PREPARE nearest_to_array (real[]) AS SELECT id FROM items ORDER BY embedding <-> $1::vector LIMIT 1;
EXPLAIN (COSTS off) EXECUTE nearest_to_array ('{1,2,3,4,5,6,7,8,9,10,11,12}');
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS off) EXECUTE nearest_to_array ('{1,2,3,4,5,6,7,8,9,10,11,12}');
SELECT format('EXECUTE nearest_to_array (%L)', embedding::real[]) FROM items WHERE id = 4321 \gexec
RESET plan_cache_mode;

-- A condition on the distance ends the search, and similarities order it, as by the table
ALTER TABLE items ALTER embedding SET NOT NULL, ALTER half SET NOT NULL;
CREATE INDEX items_half_cosine ON items USING ivfpq (half halfvec_cosine_ops);
SELECT embedding AS query FROM queries WHERE id = 3 \gset
EXPLAIN (COSTS off) SELECT id FROM items WHERE 1 - (embedding <=> '[1,2,3,4,5,6,7,8,9,10,11,12]') > 0.5
	ORDER BY 1 - (embedding <=> '[1,2,3,4,5,6,7,8,9,10,11,12]') DESC LIMIT 1;
SET ivfpq.nprobe = 262144;
SET ivfpq.epsilon = 100;
SELECT condition, cardinality(by_index(q)) AS rows, by_index(q) = by_table(q) AS are_equal
FROM (VALUES ('embedding <-> $q < 2', 'embedding <-> $q'), ('1 - (embedding <=> $q) > 0.5', '1 - (embedding <=> $q) DESC'),
			 ('(embedding <#> $q) * -1 > 6', '(embedding <#> $q) * -1 DESC'), ('embedding <-> $q::vector::real[] < 2', '-(embedding <-> $q::vector::real[]) DESC'),
			 ('half <-> $q < 2', 'half <-> $q'), ('1 - (half <=> $q) >= 0.5', '1 - (half <=> $q) DESC'),
			 ('cosine_distance(embedding, $q::vector) < 0.5', 'cosine_distance(embedding, $q::vector)')) AS c (condition, key),
	 replace(format('SELECT id FROM items WHERE %s ORDER BY %s LIMIT 5000', condition, key), '$q', quote_literal(:'query')) q;

-- A row at just the distance of the condition passes, although sums of 32-bit floats are off by more than a product near 0
CREATE TABLE wide AS
SELECT i AS id, (SELECT array_agg(sin(i * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 768) j)::vector AS embedding
FROM generate_series(1, 2000) i;
CREATE INDEX items_wide ON wide USING ivfpq (embedding vector_ip_ops);
SELECT embedding AS query FROM wide WHERE id = 7 \gset
SELECT count(*) AS rows, count(*) FILTER (WHERE id = ANY (by_index(
	format('SELECT id FROM wide WHERE embedding <#> %L <= %L::float8 ORDER BY embedding <#> %1$L LIMIT 2000', :'query', d)))) AS found
FROM (SELECT id, embedding <#> :'query' AS d FROM wide ORDER BY abs(embedding <#> :'query') LIMIT 40) s;
DROP TABLE wide;
RESET ivfpq.nprobe;
RESET ivfpq.epsilon;

-- Arrays need no cast, whatever their numbers
SET ivfpq.nprobe = 262144;
SET ivfpq.epsilon = 100;
SELECT type, bool_and(by_index(q) = by_table(q)) AS are_equal
FROM unnest('{real[],double precision[],numeric[],smallint[],integer[],bigint[]}'::text[]) type, unnest('{<->,<#>,<=>}'::text[]) operator,
format('SELECT id FROM items ORDER BY embedding %s %L::%s LIMIT 10', operator, '{1,-2,0,1,-3,1,0,2,0,1,0,-1}', type) q
GROUP BY type ORDER BY type;
RESET ivfpq.nprobe;
RESET ivfpq.epsilon;
SELECT embedding <-> '{1,-2,0,1,-3,1,0,2,0,1,0,-1}'::int[] = embedding <-> '[1,-2,0,1,-3,1,0,2,0,1,0,-1]' AS l2,
	   embedding <#> '{1,-2,0,1,-3,1,0,2,0,1,0,-1}'::int[] = embedding <#> '[1,-2,0,1,-3,1,0,2,0,1,0,-1]' AS ip,
	   round((embedding <=> '{1,-2,0,1,-3,1,0,2,0,1,0,-1}'::int[])::numeric, 6) =
	   round((embedding <=> '[1,-2,0,1,-3,1,0,2,0,1,0,-1]')::numeric, 6) AS cosine
FROM (SELECT '[2,1,0,1,1,1,0,2,0,1,0,4]'::vector AS embedding) v;
SELECT embedding <-> '{1,2}'::real[] FROM items WHERE id = 1;
SELECT embedding <-> '{1,2,3,4,5,6,7,8,9,10,11,NaN}'::real[] FROM items WHERE id = 1;

-- and pgvector's own types are compared with each other as before
SELECT count(embedding <-> half) AS vector_and_half, count(half <=> embedding) AS half_and_vector,
	   count(embedding <#> embedding::sparsevec) AS vector_and_sparse
FROM items WHERE id < 10;

-- A join with the nearest of each row
SELECT bool_and(n.id = i.id) AS finds_itself
FROM items i, LATERAL (SELECT id FROM items ORDER BY half <-> i.half LIMIT 1) n WHERE i.id % 500 = 0;

-- Vectors out of line: distances of rows that are returned are those of pgvector's functions, to the last bit
CREATE TABLE long AS SELECT i AS id, a::vector(1200) AS embedding, a::halfvec(1200) AS half
FROM generate_series(1, 700) i, LATERAL (SELECT array_agg(sin(i * (j + .7) * 12.9898) ORDER BY j) AS a FROM generate_series(1, 1200) j) s;
CREATE INDEX ON long USING ivfpq (embedding);
CREATE INDEX ON long USING ivfpq (half halfvec_cosine_ops);
SELECT pg_relation_size(reltoastrelid) > 0 AS in_toast FROM pg_class WHERE relname = 'long';
SELECT count(*), count(*) FILTER (WHERE l2 = l2_distance(embedding, q)) AS same_l2, count(*) FILTER (WHERE nearer = 1 / (1 + l2_distance(embedding, q))) AS same_inverse
FROM (SELECT id, embedding AS q FROM long WHERE id % 100 = 0) q,
	LATERAL (SELECT embedding, embedding <-> q.q AS l2, 1 / (1 + (embedding <-> q.q)) AS nearer FROM long
			 WHERE long.id % 2 = 0 ORDER BY embedding <-> q.q LIMIT 8) n;
SELECT count(*), count(*) FILTER (WHERE cosine = cosine_distance(half, q)) AS same_cosine
FROM (SELECT id, half AS q FROM long WHERE id % 100 = 0) q,
	LATERAL (SELECT half, half <=> q.q AS cosine FROM long ORDER BY half <=> q.q LIMIT 8) n;
DROP TABLE long;

-- A threshold is that of pgvector's distances, which are sums of many floats
CREATE TABLE long AS SELECT i AS id, array_fill(1.001, ARRAY[16000])::vector AS embedding, array_fill(1.001, ARRAY[16000])::halfvec AS half FROM generate_series(1, 5) i;
CREATE INDEX ON long USING ivfpq (embedding);
CREATE INDEX ON long USING ivfpq (embedding vector_ip_ops);
CREATE INDEX ON long USING ivfpq (half);
CREATE FUNCTION count_within(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	farthest float8;
	found bigint;
BEGIN
	EXECUTE 'SELECT max((' || query || ') + 0) FROM long' INTO farthest;
	EXECUTE format('SELECT count(*) FROM (SELECT id FROM long WHERE %s <= %s ORDER BY %1$s LIMIT 10) s', query, farthest) INTO found;
	RETURN found;
END $$;
SELECT count_within('embedding <-> array_fill(0, ARRAY[16000])::vector') AS l2, count_within('embedding <#> array_fill(1, ARRAY[16000])::vector') AS ip,
	   count_within('half <-> array_fill(0, ARRAY[16000])::halfvec') AS half;
DROP TABLE long;
DROP FUNCTION count_within;

-- Neither another type nor other dimensions
SELECT id FROM items ORDER BY embedding <-> '[1,2,3]' LIMIT 1;
RESET enable_seqscan;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY half::vector <-> '[1,2,3,4,5,6,7,8,9,10,11,12]' LIMIT 1;
DROP TABLE items, queries;
DROP FUNCTION nearest, by_index, by_table, try_class;
