--
-- Filters: a scan goes on to further lists until the query has its rows
--

CREATE TABLE items AS
SELECT i AS id, i % 1000 AS category,
	   (SELECT array_agg(sin(i * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j) AS embedding
FROM generate_series(1, 20000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 100, nprobe = 5);
SET enable_seqscan = off;

-- What a search finds, at the present settings
CREATE FUNCTION search(filter text, n int, OUT rows bigint, OUT distinct_rows bigint, OUT in_order boolean, OUT lists bigint)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT count(*), count(DISTINCT id), bool_and(d >= previous) FROM (
		SELECT id, d, coalesce(lag(d) OVER (), d) AS previous FROM (
			SELECT id, embedding <-> ''{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}'' AS d FROM items WHERE %s ORDER BY d LIMIT %s) t) t',
		filter, n) INTO rows, distinct_rows, in_order;
	lists := lists_probed FROM ivfpq_last_scan();
END $$;

-- A filter that discards 99.9 % of the rows leaves ten: all are found
EXPLAIN (COSTS off)
SELECT id FROM items WHERE category = 7 ORDER BY embedding <-> '{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}' LIMIT 10;
SELECT rows, distinct_rows, lists BETWEEN 20 AND 100 AS read_further FROM search('category = 7', 10);

-- Those that a filter leaves are all found, even if there are fewer than wanted
SELECT rows, distinct_rows, lists FROM search('category = 7', 100);
SELECT rows, distinct_rows, lists FROM search('id <= 3', 10);
SELECT rows, distinct_rows, lists FROM search('id < 0', 10);

-- Without iterative scans only the first lists are read
SET ivfpq.iterative_scan = off;
SELECT rows < 10 AS fewer, lists FROM search('category = 7', 10);
SELECT rows, lists FROM search('true', 10);
SELECT rows BETWEEN 100 AND 10000 AS some, lists FROM search('true', 20000);
SET ivfpq.nprobe = 100;
SELECT rows, lists FROM search('category = 7', 10);
RESET ivfpq.nprobe;

-- In relaxed order all rows are returned, each once
SET ivfpq.iterative_scan = relaxed_order;
SELECT rows, distinct_rows, lists FROM search('true', 20000);
SELECT rows, distinct_rows, lists FROM search('id % 10 = 3', 20000);

-- In strict order none is out of order; those that would be are left out
SET ivfpq.iterative_scan = strict_order;
SELECT rows, distinct_rows, in_order FROM search('true', 10);
SELECT rows BETWEEN 1000 AND 20000 AS some, rows = distinct_rows AS all_distinct, in_order, lists FROM search('true', 20000);
SELECT rows BETWEEN 1 AND 20 AS some, rows = distinct_rows AS all_distinct, in_order, lists FROM search('category = 7', 20);
RESET ivfpq.iterative_scan;

-- max_probes ends a scan, but never before nprobe lists
SET ivfpq.max_probes = 12;
SELECT rows < 20 AS fewer, lists FROM search('category = 7', 20);
SET ivfpq.max_probes = 3;
SELECT lists FROM search('category = 7', 20);
SET ivfpq.max_probes = 262144;
SELECT rows, lists FROM search('category = 7', 20);
SET ivfpq.iterative_scan = off;
SELECT lists FROM search('category = 7', 20);
RESET ivfpq.iterative_scan;
RESET ivfpq.max_probes;

-- A search reads as many lists as ivfpq.nprobe, else the index, else the build says
SELECT lists FROM search('true', 1);
SET ivfpq.nprobe = 17;
SELECT lists FROM search('true', 1);
SET ivfpq.nprobe = 262144;
SELECT lists FROM search('true', 1);
RESET ivfpq.nprobe;
ALTER INDEX items_index SET (nprobe = 9);
SELECT lists FROM search('true', 1);
ALTER INDEX items_index RESET (nprobe);
SELECT lists = (SELECT nprobe FROM ivfpq_index_info('items_index')) AS as_measured FROM search('true', 1);

-- Conditions on the vectors themselves, and joins, go with a search too
SELECT count(*) = (SELECT count(*) FROM items WHERE abs(embedding[1] - 0.1) < 0.1) AS all_found
FROM (SELECT embedding FROM items ORDER BY embedding <-> '{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}' OFFSET 0) t
WHERE abs(embedding[1] - 0.1) < 0.1;
SELECT i.id % 1000 AS category, w.name
FROM items i JOIN (VALUES (7, 'seven'), (8, 'eight')) w (category, name) ON w.category = i.category
ORDER BY i.embedding <-> (SELECT embedding FROM items WHERE id = 3008) LIMIT 1;

-- Many rows are found as well as few, although few lists hold the nearest ten
CREATE FUNCTION found_of(n int) RETURNS float8 LANGUAGE sql AS $$
	SELECT avg((d <= farthest * 1.000001)::int) * count(*) / n
	FROM (SELECT embedding <-> '{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}' FROM items ORDER BY 1 LIMIT n) s (d),
		 (SELECT max(d) FROM (SELECT 0.0 + (embedding <-> '{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}') FROM items ORDER BY 1 LIMIT n) t (d)) e (farthest)
$$;
CREATE INDEX items_many ON items USING ivfpq (embedding) WITH (lists = 500, nprobe = 2);
ALTER INDEX items_index RENAME TO items_few;
BEGIN;
DROP INDEX items_few;
SELECT n, found_of(n) > 0.9 AS found FROM unnest('{100,500,1500}'::int[]) n;
ROLLBACK;
DROP INDEX items_many;
ALTER INDEX items_few RENAME TO items_index;
DROP FUNCTION found_of;

-- A smaller epsilon compares fewer rows exactly
SET ivfpq.epsilon = 0;
SELECT rows FROM search('true', 100);
SELECT candidates_reranked AS trusting FROM ivfpq_last_scan() \gset
SET ivfpq.epsilon = 4;
SELECT rows FROM search('true', 100);
SELECT candidates_reranked > :trusting AS careful_compares_more FROM ivfpq_last_scan();
RESET ivfpq.epsilon;

SELECT ivfpq_check('items_index', true, true);
RESET enable_seqscan;
DROP TABLE items;
DROP FUNCTION search;
