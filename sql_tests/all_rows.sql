--
-- Rows without a vector are not in an index.  A query that wants all rows, though it be to see
-- whether there is one, does not lose them to a search that the server takes for cheap to begin with.
--
CREATE TABLE items AS
SELECT i AS id, CASE WHEN i % 5 <> 2 THEN (SELECT array_agg((hashint8(i * 100 + j) & 7)::real) FROM generate_series(1, 8) j) END AS embedding
FROM generate_series(1, 10000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding);
ANALYZE items;
\set distance 'embedding <-> ''{1,1,1,1,2,2,2,2}'''
CREATE VIEW nearest AS SELECT id, :distance AS d FROM items ORDER BY :distance;
CREATE FUNCTION nearest_to(query real[]) RETURNS TABLE (id int, d float8) STABLE LANGUAGE sql AS
	$$ SELECT id, embedding <-> query FROM items ORDER BY embedding <-> query $$;

-- By a window around it, whatever LIMIT is above that
SELECT DISTINCT n FROM (SELECT count(*) OVER () AS n FROM nearest LIMIT 2) s;
SELECT count(*) OVER () AS n, ntile(2) OVER () FROM nearest_to('{1,1,1,1,2,2,2,2}') LIMIT 1;
SELECT max(id) OVER () FROM (SELECT id FROM nearest OFFSET 0) s LIMIT 1;
SELECT EXISTS (SELECT FROM (SELECT count(*) OVER () AS n FROM nearest) s WHERE n = 10000);
BEGIN;
DECLARE c CURSOR FOR SELECT count(*) OVER () AS n FROM nearest;
FETCH 1 FROM c;
COMMIT;

-- By the numbers of another order
SELECT id, min(n), max(n) FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM
	(SELECT i.id FROM items i, generate_series(1, 20) g ORDER BY :distance) s LIMIT 60) s GROUP BY id ORDER BY id;

-- Without a LIMIT, however much dearer it is to sort what becomes of the rows
CREATE TABLE made AS SELECT i.id FROM items i, generate_series(1, 20) g ORDER BY :distance;
SELECT count(*) FROM made;
DROP TABLE made;
CREATE TABLE made AS SELECT i.id FROM items i LEFT JOIN LATERAL unnest(i.embedding) x ON true ORDER BY :distance;
SELECT count(DISTINCT id) FROM made;
DROP TABLE made;
SET work_mem = '64kB';
CREATE TABLE made AS SELECT (id || 'x')::varchar(1000) AS a, (id || 'y')::varchar(1000) AS b FROM items ORDER BY :distance;
SELECT count(*) FROM made;
DROP TABLE made;
RESET work_mem;

-- By EXISTS and NOT EXISTS
SELECT EXISTS (SELECT FROM nearest WHERE id % 5 = 2) AS by_id, EXISTS (SELECT FROM nearest WHERE d IS NULL) AS by_distance,
	   EXISTS (SELECT FROM nearest_to('{1,1,1,1,2,2,2,2}') WHERE id % 5 = 2) AS of_function,
	   EXISTS (SELECT FROM items WHERE id % 5 = 2 ORDER BY :distance OFFSET 1) AS of_table;
SELECT count(*) FROM generate_series(1, 3) WHERE NOT EXISTS (SELECT FROM nearest WHERE id % 5 = 2);
SELECT count(*) FROM generate_series(1, 5) i WHERE i = 77 OR EXISTS (SELECT FROM nearest WHERE id % 5 = i - i + 2);

-- By NOT IN, with an OFFSET that is known later
CREATE TABLE wide (id int, embedding real[], body text);
ALTER TABLE wide ALTER body SET STORAGE PLAIN;
INSERT INTO wide SELECT id, embedding, repeat('x', 6000) FROM items WHERE id <= 3000;
CREATE INDEX wide_index ON wide USING ivfpq (embedding);
ANALYZE wide;
SET random_page_cost = 1.1;
SELECT count(*) FROM generate_series(1, 3000) i WHERE i NOT IN (SELECT id FROM wide ORDER BY :distance OFFSET (SELECT 3));
RESET random_page_cost;

-- Whatever is disabled
SET enable_seqscan = off;
SET enable_sort = off;
SELECT count(*) FROM generate_series(1, 10000) i WHERE i NOT IN (SELECT id FROM nearest);
SELECT count(*) OVER () AS n FROM nearest LIMIT 1;
SELECT id, row_number() OVER (ORDER BY id) AS n FROM nearest LIMIT 3;
RESET enable_sort;

-- Nor are those rows looked for where there are none
SELECT count(*) FROM (SELECT id FROM items WHERE embedding IS NULL ORDER BY :distance LIMIT 3) s;
SELECT count(*) FROM (SELECT id FROM items WHERE :distance IS NULL ORDER BY :distance LIMIT 3) s;
RESET enable_seqscan;

-- But a LIMIT around it is one of the search, and so is a cursor's share
CREATE FUNCTION uses_index(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	plan text;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	RETURN plan LIKE '%items_index%';
END $$;
SELECT query, uses_index(query)
FROM unnest(ARRAY['SELECT id FROM nearest LIMIT 5', 'SELECT id FROM (SELECT id FROM nearest) s WHERE id > 10 LIMIT 5',
	'SELECT id FROM nearest_to(''{1,1,1,1,2,2,2,2}'') LIMIT 5', 'SELECT id, row_number() OVER () FROM nearest LIMIT 5',
	'SELECT id FROM generate_series(1, 2) i, LATERAL (SELECT id FROM nearest LIMIT 5) s', 'SELECT EXISTS (SELECT FROM (SELECT id FROM nearest LIMIT 5) s WHERE id = 7)',
	'SELECT id, lag(id) OVER () FROM nearest LIMIT 5', 'SELECT id FROM nearest', 'SELECT id FROM nearest ORDER BY id LIMIT 5', 'DECLARE c CURSOR FOR SELECT id FROM nearest']) AS query;

DROP VIEW nearest;
DROP TABLE items, wide;
DROP FUNCTION uses_index, nearest_to;
