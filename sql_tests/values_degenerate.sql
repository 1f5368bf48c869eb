--
-- Vectors that are NULL, zero or equal
--
SET enable_seqscan = off;
SET ivfpq.epsilon = 100;

-- Ten rows of 600 are NULL: they are not in the index and not in its results.
-- A search for NULL finds nothing, whether the plan knows it or not.
CREATE TABLE items AS
SELECT i AS id, CASE WHEN i % 60 <> 0 THEN ARRAY[sin(i), sin(i * 1.7), sin(i * 2.3)]::real[] END AS embedding
FROM generate_series(1, 600) i;
CREATE INDEX items_index ON items USING ivfpq (embedding);
INSERT INTO items VALUES (601, NULL), (602, '{0.5,0.5,0.5}');
UPDATE items SET embedding = NULL WHERE id = 1;
UPDATE items SET embedding = '{0.5,0.5,0.6}' WHERE id = 60;
SELECT count(*), count(embedding) FROM (SELECT embedding FROM items ORDER BY embedding <-> '{1,2,3}' LIMIT 1000) t;
SELECT id FROM items ORDER BY embedding <-> '{0.5,0.5,0.5}' LIMIT 2;
SET plan_cache_mode = force_generic_plan;
PREPARE search(real[]) AS SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 1000) t;
EXECUTE search('{1,2,3}');
EXECUTE search(NULL);
SELECT * FROM ivfpq_last_scan();
DEALLOCATE search;
RESET plan_cache_mode;
SELECT ivfpq_check('items_index', true, true);
DROP TABLE items;

-- A table of nothing but NULL
CREATE TABLE items AS SELECT i AS id, NULL::real[] AS embedding FROM generate_series(1, 2000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding);
SELECT dims, lists, rows FROM ivfpq_index_info('items_index');
SELECT id FROM items ORDER BY embedding <-> '{1,2,3}' LIMIT 1;
UPDATE items SET embedding = '{1,2,3}' WHERE id = 7;
SELECT id FROM items ORDER BY embedding <-> '{1,2,3}' LIMIT 1;
SELECT ivfpq_check('items_index', true, true);
DROP TABLE items;

-- Zero vectors have no direction: a cosine index leaves them out and counts
-- them, when it is made and afterwards, with and without codes
CREATE TABLE items AS
SELECT i AS id, CASE WHEN i % 60 = 0 THEN '{0,0,0}' ELSE ARRAY[sin(i), sin(i * 1.7), sin(i * 2.3)] END::real[] AS embedding
FROM generate_series(1, 600) i;
CREATE TABLE few AS SELECT * FROM items WHERE id BETWEEN 58 AND 61;
CREATE INDEX items_index ON items USING ivfpq (embedding array_cosine_ops);
CREATE INDEX few_index ON few USING ivfpq (embedding array_cosine_ops);
INSERT INTO items VALUES (601, '{0,0,0}'), (602, '{-0,0,-0}'), (603, '{1e-45,0,0}');
INSERT INTO few TABLE items OFFSET 600;
SELECT m > 0 AS has_codes, rows, zero_vectors FROM ivfpq_index_info('items_index');
SELECT m > 0 AS has_codes, rows, zero_vectors FROM ivfpq_index_info('few_index');
SELECT count(*), count(*) FILTER (WHERE embedding <=> '{1,0,0}' = 'NaN') AS zero_vectors
FROM (SELECT embedding FROM items ORDER BY embedding <=> '{1,0,0}' LIMIT 1000) t;
SELECT id FROM items ORDER BY embedding <=> '{1,0,0}' LIMIT 1;
SELECT id FROM few ORDER BY embedding <=> '{1,0,0}' LIMIT 1;

-- A search for a zero vector knows no order, and returns all the same
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <=> '{0,0,0}') t;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM few ORDER BY embedding <=> '{0,0,0}') t;
SELECT ivfpq_check('items_index', true, true), ivfpq_check('few_index', true, true);

-- REINDEX counts anew, and nobody counts twice
REINDEX INDEX CONCURRENTLY items_index;
SELECT m > 0 AS has_codes, rows, zero_vectors FROM ivfpq_index_info('items_index');
DELETE FROM items WHERE id <= 300;
REINDEX INDEX items_index;
SELECT rows, zero_vectors FROM ivfpq_index_info('items_index');
REINDEX INDEX CONCURRENTLY items_index;
SELECT rows, zero_vectors FROM ivfpq_index_info('items_index');
CREATE INDEX CONCURRENTLY items_again ON items USING ivfpq (embedding array_cosine_ops);
SELECT rows, zero_vectors FROM ivfpq_index_info('items_again');

-- For the other distances zero is a vector like any other
CREATE INDEX items_l2 ON items USING ivfpq (embedding);
CREATE INDEX items_ip ON items USING ivfpq (embedding array_ip_ops);
INSERT INTO items VALUES (604, '{0,0,0}');
SELECT rows, zero_vectors FROM ivfpq_index_info('items_l2') UNION ALL SELECT rows, zero_vectors FROM ivfpq_index_info('items_ip');
SELECT count(*) FROM (SELECT embedding FROM items ORDER BY embedding <-> '{0,0,0}' LIMIT 8) t WHERE embedding = '{0,0,0}' OR embedding = '{-0,0,-0}';
SELECT count(*), count(DISTINCT d) FROM (SELECT embedding <#> '{0,0,0}' AS d FROM items ORDER BY d) t;
SELECT ivfpq_check('items_index', true, true), ivfpq_check('items_l2', true, true), ivfpq_check('items_ip', true, true);
DROP TABLE items, few;

-- A table of nothing but zero vectors
CREATE TABLE items AS SELECT i AS id, '{0,0,0}'::real[] AS embedding FROM generate_series(1, 2000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding array_cosine_ops);
CREATE INDEX items_l2 ON items USING ivfpq (embedding);
SELECT rows, zero_vectors FROM ivfpq_index_info('items_index');
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <=> '{1,2,3}' LIMIT 10) t;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <-> '{1,2,3}') t;
SELECT ivfpq_check('items_index', true, true), ivfpq_check('items_l2', true, true);
DROP TABLE items;

-- Rows that are all equal fill one list, and each is found once
CREATE TABLE items AS SELECT i AS id, '{1,2,3,4,5}'::real[] AS embedding FROM generate_series(1, 5000) i;
CREATE FUNCTION try_equal(class text, operator text, OUT rows bigint, OUT distinct_rows bigint, OUT distances bigint, OUT first_10 bigint)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE INDEX tried ON items USING ivfpq (embedding %I)', class);
	EXECUTE format('SELECT count(*), count(DISTINCT id), count(DISTINCT d) FROM (
		SELECT id, embedding %s ''{5,4,3,2,1}'' AS d FROM items ORDER BY d) t', operator) INTO rows, distinct_rows, distances;
	EXECUTE format('SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding %s ''{1,2,3,4,5}'' LIMIT 10) t', operator) INTO first_10;
	PERFORM ivfpq_check('tried', true, true);
	DROP INDEX tried;
END $$;
SELECT class, t.* FROM (VALUES ('array_l2_ops', '<->'), ('array_ip_ops', '<#>'), ('array_cosine_ops', '<=>')) c (class, operator),
	 try_equal(class, operator) t;

-- Rows unlike those that the index was made of are found as well
CREATE INDEX items_index ON items USING ivfpq (embedding);
INSERT INTO items SELECT 5000 + i, ARRAY[i, -i, i, 100, i] FROM generate_series(1, 100) i;
SELECT id FROM items ORDER BY embedding <-> '{50,-50,50,100,50.2}' LIMIT 3;
SELECT id > 5000 AS other, count(*) FROM (SELECT id FROM items ORDER BY embedding <-> '{0,0,0,0,0}') t GROUP BY 1 ORDER BY 1;
SELECT ivfpq_check('items_index', true, true);
DROP TABLE items;

-- Fewer distinct vectors than lists or codes: each with all its copies
CREATE TABLE items AS SELECT i AS id, ARRAY[i % 5, (i % 5) ^ 2, 1]::real[] AS embedding FROM generate_series(1, 3000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 100);
SELECT count(*), count(DISTINCT id), array_agg(DISTINCT id % 5) FROM (SELECT id FROM items ORDER BY embedding <-> '{3,9,1}' LIMIT 600) t;
SELECT count(*), count(DISTINCT id), array_agg(DISTINCT id % 5) FROM (SELECT id FROM items ORDER BY embedding <-> '{3.1,9,1}' LIMIT 601) t;
SELECT ivfpq_check('items_index', true, true);
DROP TABLE items;

RESET enable_seqscan;
RESET ivfpq.epsilon;
DROP FUNCTION try_equal;
