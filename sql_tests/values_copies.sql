--
-- Many rows with the same vector: neither work nor recall suffers for them
--
CREATE FUNCTION clustered(id int) RETURNS real[] IMMUTABLE LANGUAGE sql AS $$
	SELECT array_agg((10 * sin(id % 150 * (j + 0.7) * 12.9898) + sin(id * (j + 0.3) * 78.233))::real ORDER BY j) FROM generate_series(1, 24) j $$;
CREATE TABLE plain AS SELECT i AS id, clustered(i) AS embedding FROM generate_series(1, 12000) i;

-- The first rows of many that are equally far are returned before the others are looked at:
-- of copies of the query, and of others
CREATE TABLE items AS SELECT id, CASE WHEN id % 3 = 0 THEN clustered(7) ELSE embedding END AS embedding FROM plain;
CREATE INDEX items_index ON items USING ivfpq (embedding);
CREATE INDEX items_cosine ON items USING ivfpq (embedding array_cosine_ops);
SET enable_seqscan = off;
SELECT max(d) AS farthest FROM (SELECT embedding <-> clustered(7) AS d FROM items ORDER BY d LIMIT 10) t;
SELECT candidates_reranked < 100 AS few FROM ivfpq_last_scan();
SELECT max(d) < 1e-6 AS near FROM (SELECT embedding <=> clustered(7) AS d FROM items ORDER BY d LIMIT 10) t;
SELECT candidates_reranked < 100 AS few FROM ivfpq_last_scan();
SELECT count(*), count(DISTINCT d) AS distances FROM (SELECT embedding <-> ((clustered(7))[1:23] || 0.25::real) AS d FROM items ORDER BY 1 LIMIT 10) t;
SELECT candidates_reranked < 100 AS few FROM ivfpq_last_scan();

-- All of them come when they are asked for, each once
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <-> clustered(7) LIMIT 4001) t;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <-> clustered(7) OFFSET 0) t;
SET ivfpq.iterative_scan = strict_order;
SELECT count(*), count(DISTINCT id), max(d) AS farthest FROM (SELECT id, embedding <-> clustered(7) AS d FROM items ORDER BY d LIMIT 4000) t;
RESET ivfpq.iterative_scan;
SELECT ivfpq_check('items_index', true, true), ivfpq_check('items_cosine', true, true);

-- A fresh index of them has no advice to give, although its lists are uneven
SELECT imbalance > 4 AS uneven, advice FROM ivfpq_index_info('items_index');
RESET enable_seqscan;
DROP TABLE items;

-- Nor do copies of one vector come before a nearer one whose code is worse
CREATE TABLE items AS SELECT id, clustered(id % 400) AS embedding FROM plain WHERE id <= 1200;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (m = 4);
SET ivfpq.epsilon = 10;
SET enable_seqscan = off;
SELECT sum(((SELECT embedding <-> clustered(q) FROM items ORDER BY embedding <-> clustered(q) LIMIT 1)
	> (SELECT min((embedding <-> clustered(q)) + 0) + 1e-6 FROM items))::int) AS not_nearest
FROM generate_series(2000, 2040) q;
RESET enable_seqscan;
RESET ivfpq.epsilon;
DROP TABLE items;

-- Nor do rows whose codes and bounds are those of copies, and whose vectors are not
CREATE TABLE items AS
SELECT i AS id, array_fill(0::real, ARRAY[c]) || '{1}'::real[] || array_fill(0::real, ARRAY[199 - c]) AS embedding
FROM (SELECT i, abs(hashint4(i)) % 200 AS c FROM generate_series(1, 4000) i) q;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 20, nprobe = 20, m = 4, rotation = none);
SET enable_seqscan = off;
SELECT count(*) AS queries, count(*) FILTER (WHERE n.d = 0) AS find_themselves
FROM items q, LATERAL (SELECT embedding <-> q.embedding AS d FROM items ORDER BY d LIMIT 1) n WHERE q.id <= 200;
RESET enable_seqscan;
DROP TABLE items;

-- Two rows that are equally far say nothing of others in an index without codes
CREATE TABLE items (id int, embedding real[]);
CREATE INDEX items_index ON items USING ivfpq (embedding);
INSERT INTO items SELECT i, ARRAY[100 - i / 2, 0] FROM generate_series(0, 199) i;
SET enable_seqscan = off;
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <-> '{1,0}' LIMIT 4) t;
RESET enable_seqscan;
DROP TABLE items;

-- The build does not take copies for neighbours when it measures how many lists to search
CREATE TABLE items AS SELECT id, clustered(id / 20 * 7) AS embedding FROM plain;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 300);
SELECT nprobe > 1 AS several_lists FROM ivfpq_index_info('items_index');
DROP TABLE items, plain;
DROP FUNCTION clustered;

-- nor does it take lists for empty that no copy is in
SELECT setseed(0.3);
CREATE TABLE plain AS SELECT i AS id, (SELECT array_agg((CASE WHEN i % 7 < 4 THEN random() * 10
	ELSE (i % 3 + 2) * 50 * (1 + (j % 3 = i % 3)::int) + random() * 0.1 END)::real) FROM generate_series(1, 16) j) AS embedding
FROM generate_series(1, 20000) i;
CREATE TABLE items AS SELECT * FROM plain UNION ALL SELECT id, embedding FROM plain WHERE id % 4 = 0;
SET max_parallel_maintenance_workers = 0;
CREATE INDEX plain_index ON plain USING ivfpq (embedding) WITH (lists = 64);
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 64);
RESET max_parallel_maintenance_workers;
CREATE FUNCTION lists_read(index regclass) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	total int := 0;
BEGIN
	FOR aim IN 80..97 LOOP
		PERFORM set_config('ivfpq.recall', (aim / 100.0)::text, true);
		total := total + nprobe FROM ivfpq_index_info(index);
	END LOOP;
	RETURN total;
END $$;
SELECT lists_read('items_index') >= 0.6 * lists_read('plain_index') AS as_many;
DROP FUNCTION lists_read;
DROP TABLE items, plain;

-- Rows that are as far by chance, as most rows of a sparse set are orthogonal to a query, are no copies
CREATE TABLE sparse AS
SELECT i AS id, (SELECT array_agg(CASE WHEN sin(i * (j + 0.7) * 12.9898) > 0.8 THEN cos(i * (j + 0.3) * 78.233) ELSE 0 END::real ORDER BY j)
				 FROM generate_series(1, 33) j) AS embedding
FROM generate_series(1, 8000) i;
CREATE INDEX sparse_index ON sparse USING ivfpq (embedding array_ip_ops) WITH (lists = 2, m = 1, rotation = hadamard);
SET enable_seqscan = off;
SET ivfpq.nprobe = 2;
SET ivfpq.epsilon = 100;
SELECT count(*) AS queries, count(*) FILTER (WHERE by_index = by_table) AS equal
FROM (SELECT q.id, (SELECT array_agg(d ORDER BY d) FROM (SELECT s.embedding <#> q.embedding AS d FROM sparse s ORDER BY s.embedding <#> q.embedding LIMIT 20) t) AS by_index,
		(SELECT array_agg(d ORDER BY d) FROM (SELECT (s.embedding <#> q.embedding) AS d FROM sparse s ORDER BY 0 + (s.embedding <#> q.embedding) + id * 0 LIMIT 20) t) AS by_table
	  FROM (SELECT id, (SELECT array_agg(CASE WHEN j IN (id % 33 + 1, id % 31 + 1) THEN 1 ELSE 0 END::real ORDER BY j) FROM generate_series(1, 33) j) AS embedding
			FROM generate_series(1, 100) id) q) t;
RESET ivfpq.nprobe;
RESET ivfpq.epsilon;
RESET enable_seqscan;
DROP TABLE sparse;
