--
-- Searches give the same rows whatever work_mem is
--

-- An index that was created on an empty table has no codes: each search
-- compares all its rows, more than the smallest work_mem holds
CREATE TABLE items (id int, embedding real[]);
CREATE INDEX items_index ON items USING ivfpq (embedding);
INSERT INTO items
SELECT i, ARRAY[sin(i), sin(i * 1.7), sin(i * 2.3), sin(i * 3.1)] FROM generate_series(1, 20000) i;
SELECT lists, m, rows FROM ivfpq_index_info('items_index');
SET enable_seqscan = off;
SET enable_sort = off;

-- All rows in the order in which a search returns them
CREATE FUNCTION search(memory text, n int) RETURNS int[] LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('work_mem', memory, true);
	RETURN (SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <-> '{0.1,0.2,0.3,0.4}' LIMIT n) t);
END $$;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> '{0.1,0.2,0.3,0.4}' LIMIT 10;
SELECT memory, n, found = search('64MB', n) AS same, cardinality(found) AS rows,
	   (SELECT count(DISTINCT f) FROM unnest(found) f) AS distinct_rows
FROM unnest('{64kB,100kB,1MB}'::text[]) memory, unnest('{10,5000,30000}'::int[]) n, search(memory, n) found
ORDER BY memory, n;

-- They are the right ones
SELECT search('64kB', 5000) = array_agg(id ORDER BY embedding <-> '{0.1,0.2,0.3,0.4}', ctid)
FROM (SELECT id, embedding, ctid FROM items ORDER BY embedding <-> '{0.1,0.2,0.3,0.4}', ctid LIMIT 5000) t;

-- A scan that is started again has forgotten what the last one spilled to disk
SELECT q, found = search('64kB', 20000) AS same
FROM (VALUES (1), (2), (3)) v (q), LATERAL (SELECT array_agg(id) AS found FROM (
	SELECT id FROM items ORDER BY embedding <-> ARRAY[0.1, 0.2, 0.3, 0.4 + 0 * q] LIMIT 20000) t) t;

-- A cursor that has spilled goes on after a rolled back savepoint, and can be left early
SET work_mem = '64kB';
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{0.1,0.2,0.3,0.4}';
SAVEPOINT s;
MOVE 5 FROM c;
ROLLBACK TO s;
FETCH FROM c;
MOVE 15000 FROM c;
SELECT sum(total_bytes) < 200000 AS is_within FROM pg_backend_memory_contexts WHERE name = 'ivfpq scan';
COMMIT;
SELECT (search('64kB', 6))[6] AS sixth;
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <-> '{0.1,0.2,0.3,0.4}' LIMIT 3) t;
RESET work_mem;
SELECT ivfpq_check('items_index', true, true);

-- A search that is cancelled ends at once, not with its first row: it has left nothing
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <-> '{0.1,0.2,0.3,0.4}' LIMIT 3) t;
SET statement_timeout = '1ms';
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <-> '{0.1,0.2,0.3,0.4}' LIMIT 2) t;
RESET statement_timeout;
SELECT rows_returned FROM ivfpq_last_scan();

-- With codes: more candidates than fit are scored again when the first ones are used up
REINDEX INDEX items_index;
SELECT lists > 1 AS has_lists, m, rows FROM ivfpq_index_info('items_index');
SET ivfpq.nprobe = 262144;
SELECT memory, n, found = search('64MB', n) AS same, cardinality(found) AS rows,
	   (SELECT count(DISTINCT f) FROM unnest(found) f) AS distinct_rows
FROM unnest('{64kB,100kB,1MB}'::text[]) memory, unnest('{10,5000,30000}'::int[]) n, search(memory, n) found
ORDER BY memory, n;
SET ivfpq.epsilon = 100;
SELECT memory, found = search('64MB', 20000) AS same, cardinality(found) AS rows
FROM unnest('{64kB,1MB}'::text[]) memory, search(memory, 20000) found;
RESET ivfpq.epsilon;

-- Candidates take no more than work_mem, however many are asked for
SET work_mem = '64kB';
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{0.1,0.2,0.3,0.4}';
MOVE 18000 FROM c;
SELECT sum(total_bytes) < 200000 AS is_within FROM pg_backend_memory_contexts WHERE name = 'ivfpq scan';
COMMIT;

-- Further lists wait until what has been spilled is used up
SET ivfpq.nprobe = 20;
SET ivfpq.epsilon = 100;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <-> '{0.1,0.2,0.3,0.4}' LIMIT 20000) t;
RESET ivfpq.epsilon;
RESET work_mem;
RESET ivfpq.nprobe;

-- Also when all bounds are equal
UPDATE items SET embedding = '{1,2,3,4}';
REINDEX INDEX items_index;
SELECT memory, cardinality(found) AS rows, (SELECT count(DISTINCT f) FROM unnest(found) f) AS distinct_rows
FROM unnest('{64kB,4MB}'::text[]) memory, search(memory, 30000) found;

SELECT ivfpq_check('items_index', true, true);
RESET enable_seqscan;
RESET enable_sort;
DROP TABLE items;
DROP FUNCTION search;
