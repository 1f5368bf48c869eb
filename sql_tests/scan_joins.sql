--
-- ORDER BY the distance to a row of another relation: a search, if that has no more than one row
--
CREATE TABLE items AS
SELECT i AS id, i % 10 AS category,
	   CASE WHEN i % 100 <> 99 THEN (SELECT array_agg(sin(i * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j) END AS embedding
FROM generate_series(1, 20000) i;
ALTER TABLE items ADD PRIMARY KEY (id);
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 100, nprobe = 50);
CREATE TABLE queries (id int UNIQUE, part int, word text, label text UNIQUE DEFERRABLE, embedding real[], UNIQUE (part, word));
INSERT INTO queries SELECT id, id % 3, 'word ' || id / 3, 'label ' || id, embedding FROM items WHERE id <= 90;
CREATE UNIQUE INDEX ON queries (id) WHERE part = 1;
INSERT INTO queries VALUES (1000, 7, 'none', 'none', NULL);
ANALYZE items, queries;
SET max_parallel_workers_per_gather = 0;
SET ivfpq.epsilon = 3;

SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT i.id FROM items i, items q WHERE q.id = 5 AND i.id <> q.id ORDER BY i.embedding <-> q.embedding LIMIT 5;
EXPLAIN (COSTS off) WITH q AS MATERIALIZED (SELECT embedding FROM queries WHERE id = 5)
	SELECT i.id FROM items i, q WHERE 1 - (i.embedding <-> q.embedding) > 0.2 ORDER BY 1 - (i.embedding <-> q.embedding) DESC, i.id LIMIT 5;
RESET enable_seqscan;

-- Whether a query's plan is a search, and whether the rows are those of reading the tables
CREATE FUNCTION rows_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	rows text;
BEGIN
	EXECUTE format('SELECT string_agg(t::text, '' '') FROM (%s) t', query) INTO rows;
	RETURN coalesce(rows, '');
END $$;
CREATE FUNCTION by_table(query text) RETURNS text LANGUAGE plpgsql SET enable_indexscan = off SET enable_seqscan = on AS
	$$ BEGIN RETURN rows_of(query); END $$;
CREATE FUNCTION try(query text, OUT is_search boolean, OUT rows bigint, OUT is_right boolean) LANGUAGE plpgsql AS $$
DECLARE
	line text;
	found text;
BEGIN
	is_search := false;
	FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP
		is_search := is_search OR line ~ 'Order By';
	END LOOP;
	found := rows_of(query);
	is_right := found = by_table(query);
	rows := length(found) - length(replace(found, '(', ''));
END $$;
CREATE FUNCTION embed(n int) RETURNS real[] LANGUAGE plpgsql VOLATILE AS
	$$ BEGIN RETURN (SELECT embedding FROM queries WHERE id = n); END $$;

-- One row at most: by a unique key, by LIMIT, as an aggregate, without FROM
SELECT source, t.* FROM unnest(ARRAY['items q WHERE q.id = 5', 'queries q WHERE q.id = 5', 'queries q WHERE q.part = 2 AND q.word = ''word 1''',
		'queries q WHERE q.id = 4 AND q.part = 1', 'queries q WHERE q.id = 5 AND i.category <> q.part', 'queries q WHERE q.id = 5 AND i.category = q.part',
		'queries q WHERE q.id = 7777', '(SELECT * FROM queries ORDER BY id LIMIT 1) q WHERE true',
		'(SELECT * FROM queries WHERE part = 1 ORDER BY word OFFSET 3 FETCH FIRST ROW ONLY) q WHERE true',
		'(SELECT max(embedding) AS embedding FROM queries) q WHERE true', '(SELECT max(embedding) AS embedding FROM queries HAVING max(id) < 0) q WHERE true',
		'(SELECT embed(5) AS embedding) q WHERE true', '(SELECT * FROM queries WHERE id = 5 OFFSET 0) q WHERE true',
		'(VALUES (array_fill(0.5::real, ARRAY[8]))) q (embedding) WHERE true', 'queries q, (SELECT 3 AS n) n WHERE q.id = 5 AND i.category = n']) source,
	try(format('SELECT i.id FROM items i, %s ORDER BY i.embedding <-> q.embedding LIMIT 10', source)) t;
SELECT cte, t.* FROM unnest(ARRAY['SELECT * FROM queries WHERE id = 5', 'SELECT max(embedding) AS embedding FROM queries', 'SELECT embed(5) AS embedding',
		'SELECT * FROM queries ORDER BY id LIMIT 1']) cte,
	try(format('WITH q AS MATERIALIZED (%s) SELECT i.id FROM items i, q ORDER BY i.embedding <-> q.embedding LIMIT 10', cte)) t;

-- As of every search, nothing is near to a row without a vector
SELECT count(*) FROM (SELECT i.id FROM items i, queries q WHERE q.id = 1000 ORDER BY i.embedding <-> q.embedding LIMIT 10) s;

-- More than one, or nobody knows: rows of all of them, in order
SELECT source, t.* FROM unnest(ARRAY['queries q WHERE q.id IN (5, 6)', 'queries q WHERE q.id < 3', 'queries q WHERE q.word = ''word 1''',
		'queries q WHERE q.label = ''label 5''', 'queries q WHERE q.id = q.part + 5', '(SELECT * FROM queries LIMIT 2) q WHERE true',
		'(SELECT * FROM queries ORDER BY part FETCH FIRST ROW WITH TIES) q WHERE i.id > 1000', '(SELECT max(embedding) AS embedding FROM queries GROUP BY part) q WHERE true',
		'(SELECT embed(generate_series(5, 6)) AS embedding) q WHERE true', '(SELECT * FROM queries WHERE id = 5 UNION ALL SELECT * FROM queries WHERE id = 6) q WHERE true',
		'(VALUES (array_fill(0.5::real, ARRAY[8])), (array_fill(0.4::real, ARRAY[8]))) q (embedding) WHERE true',
		'(SELECT embedding FROM queries WHERE id = 5 GROUP BY GROUPING SETS ((embedding), (embedding, id))) q WHERE true',
		'(SELECT embed(5) AS embedding GROUP BY GROUPING SETS ((), ())) q WHERE true']) source,
	try(format('SELECT i.id, round((i.embedding <-> q.embedding)::numeric, 4) FROM items i, %s AND i.embedding IS NOT NULL ORDER BY i.embedding <-> q.embedding LIMIT 10', source)) t;
SELECT t.* FROM try('WITH RECURSIVE q AS (SELECT 5 AS id, embed(5) AS embedding UNION ALL SELECT id + 1, embed(id + 1) FROM q WHERE id < 7)
	SELECT i.id FROM items i, q WHERE i.embedding IS NOT NULL ORDER BY i.embedding <-> q.embedding LIMIT 10') t;

-- Around it: conditions, similarities, further keys and relations, outer joins, ranks, subqueries, locks
SELECT query, t.* FROM unnest(ARRAY[
	'SELECT i.id FROM items i, queries q WHERE q.id = 5 AND i.embedding <-> q.embedding < 0.5 ORDER BY i.embedding <-> q.embedding LIMIT 100',
	'SELECT i.id FROM items i, queries q WHERE q.id = 5 AND i.embedding <-> q.embedding < q.part / 4.0 ORDER BY i.embedding <-> q.embedding LIMIT 100',
	'SELECT i.id FROM items i, queries q WHERE q.id = 5 AND 1 - (i.embedding <-> q.embedding) > 0.5 ORDER BY 1 - (i.embedding <-> q.embedding) DESC LIMIT 100',
	'SELECT i.id FROM items i, queries q WHERE q.id = 5 ORDER BY 1 - (q.embedding <-> i.embedding) DESC LIMIT 10',
	'SELECT i.id FROM items i, queries q WHERE q.id = 5 ORDER BY 1 - (q.embedding <-> i.embedding) DESC NULLS LAST, i.id LIMIT 10',
	'SELECT i.id, c FROM items i JOIN queries q ON q.id = 5 LEFT JOIN (VALUES (3, ''three'')) c (category, c) USING (category) ORDER BY i.embedding <-> q.embedding LIMIT 10',
	'SELECT i.id FROM items i LEFT JOIN queries q ON q.id = 5 ORDER BY i.embedding <-> q.embedding LIMIT 10',
	'SELECT i.id FROM queries q LEFT JOIN items i ON i.category = 77 WHERE q.id = 5 ORDER BY i.embedding <-> q.embedding LIMIT 10',
	'SELECT i.id, rank() OVER (ORDER BY i.embedding <-> q.embedding) FROM items i, queries q WHERE q.id = 5 ORDER BY i.embedding <-> q.embedding LIMIT 10',
	'SELECT * FROM (SELECT i.id, i.embedding <-> q.embedding AS d FROM items i, queries q WHERE q.id = 5) s WHERE d > 0.4 ORDER BY d LIMIT 10',
	'SELECT category, count(*) FROM (SELECT category FROM items i, queries q WHERE q.id = 5 ORDER BY i.embedding <-> q.embedding LIMIT 50) s GROUP BY category ORDER BY category',
	'SELECT i.id FROM items i, queries q, queries r WHERE q.id = 5 AND r.id = 6 ORDER BY (i.embedding <-> q.embedding) + (i.embedding <-> r.embedding) LIMIT 10',
	'SELECT n, s.id FROM generate_series(4, 6) n, LATERAL (SELECT i.id FROM items i, queries q WHERE q.id = n ORDER BY i.embedding <-> q.embedding LIMIT 3) s']) query, try(query) t;
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT i.id FROM items i, queries q WHERE q.id = 5 ORDER BY i.embedding <-> q.embedding LIMIT 3 FOR UPDATE OF i;
RESET enable_seqscan;
PREPARE near (int) AS SELECT i.id FROM items i, items q WHERE q.id = $1 ORDER BY i.embedding <-> q.embedding LIMIT 1;
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS off) EXECUTE near (5);
EXECUTE near (5);
EXECUTE near (6);
EXECUTE near (99);
RESET plan_cache_mode;

-- A sub-select is the same one to the scans of all partitions
CREATE TABLE parts (id int, embedding real[]) PARTITION BY RANGE (id);
CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (5);
CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (5) TO (10);
INSERT INTO parts SELECT id, embedding FROM items WHERE id < 10;
SET enable_seqscan = off;
SELECT count(*), count(*) FILTER (WHERE nearest = id) AS itself FROM
	(SELECT p.id, (SELECT i.id FROM items i ORDER BY i.embedding <-> p.embedding LIMIT 1) AS nearest FROM parts p OFFSET 0) s;
DROP TABLE parts;

-- Expressions that are compiled
SET jit = on;
SET jit_above_cost = 0;
SELECT count(*), count(*) FILTER (WHERE n.id = i.id AND n.distance < .001) AS itself FROM items i, LATERAL (
	SELECT id, embedding <-> i.embedding::numeric[] AS distance FROM items ORDER BY embedding <-> i.embedding::numeric[] LIMIT 1) n
WHERE i.id % 100 = 0;
RESET jit_above_cost;
RESET jit;
RESET enable_seqscan;

-- Whatever the order of joins is looked for with
CREATE TABLE tags (id int UNIQUE);
INSERT INTO tags SELECT generate_series(1, 90);
ANALYZE tags;
SET geqo_threshold = 2;
SELECT t.* FROM try('SELECT i.id FROM items i, items q, tags a, tags b, tags c WHERE q.id = 5 AND a.id = i.category AND b.id = a.id AND c.id = a.id AND i.id <> q.id
	ORDER BY i.embedding <-> q.embedding LIMIT 2') t;
RESET geqo_threshold;

-- A join that loses the order of a search is not made of one, which leaves out rows without a vector (from 18 on it is, if
-- the user has disabled all else)
SET enable_seqscan = off;
SELECT count(*) FROM (SELECT i.id FROM tags t LEFT JOIN (SELECT id / 100 AS hundred, id, embedding FROM items WHERE id % 100 = 99) i ON hundred = t.id
	ORDER BY i.embedding <-> '{1,2,3,4,5,6,7,8}' LIMIT 100) s
WHERE id IS NULL AND current_setting('server_version_num')::int < 180000;
RESET enable_seqscan;

DROP TABLE items, queries, tags CASCADE;
DROP FUNCTION embed, try, by_table, rows_of;
