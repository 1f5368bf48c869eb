--
-- Rows are found as soon as they are written, and no longer than they exist
--
SET enable_seqscan = off;
SET ivfpq.epsilon = 100;
CREATE FUNCTION vector_of(id int) RETURNS real[] IMMUTABLE LANGUAGE sql
AS $$ SELECT array_agg(sin(id * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j $$;
CREATE TABLE items (id int PRIMARY KEY, embedding real[]);

-- Is the nearest row to a vector the row it came from?
CREATE FUNCTION finds(row_id int) RETURNS boolean LANGUAGE sql
AS $$ SELECT (SELECT id FROM items ORDER BY embedding <-> vector_of(row_id) LIMIT 1) IS NOT DISTINCT FROM row_id $$;
CREATE FUNCTION rows_found() RETURNS bigint LANGUAGE sql
AS $$ SELECT count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <-> vector_of(0)) t $$;

-- A table that was empty when its index was made
CREATE INDEX items_index ON items USING ivfpq (embedding);
SELECT lists, m, rows, pages, advice FROM ivfpq_index_info('items_index');
SELECT rows_found(), finds(1);
INSERT INTO items VALUES (1, vector_of(1));
SELECT rows_found(), finds(1);
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(2, 600) i;
SELECT rows_found(), finds(1), finds(2), finds(600), finds(601);
SELECT rows, advice FROM ivfpq_index_info('items_index');
SELECT ivfpq_check('items_index', true, true);

-- Rows of an index with codes, then rows that come later: one by one, many, by COPY
REINDEX INDEX items_index;
SELECT lists > 1 AS has_lists, m, rows, advice FROM ivfpq_index_info('items_index');
SELECT rows_found(), finds(1), finds(600), finds(601);
INSERT INTO items VALUES (601, vector_of(601));
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(602, 2000) i;
COPY items FROM stdin;
2001	{10,20,30,40,50,60,70,80}
2002	\N
2003	{-10,20,-30,40,-50,60,-70,80}
\.
SELECT rows_found(), finds(601), finds(1999);
SELECT id FROM items ORDER BY embedding <-> '{10,20,30,40,50,60,70,80.5}' LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> '{-10,20,-30,40,-50,60,-70,80}' LIMIT 1;
SELECT ivfpq_check('items_index', true, true);

-- Updates move rows, or leave them where they are
UPDATE items SET embedding = vector_of(-id) WHERE id <= 100;
SELECT bool_or(finds(id)) AS old_found, bool_and((SELECT id FROM items ORDER BY embedding <-> vector_of(-i.id) LIMIT 1) = id) AS new_found
FROM items i WHERE id <= 100;
UPDATE items SET id = -id WHERE id BETWEEN 201 AND 210;
SELECT rows_found(), (SELECT id FROM items ORDER BY embedding <-> vector_of(205) LIMIT 1) AS renamed;
UPDATE items SET embedding = NULL WHERE id = 300;
UPDATE items SET embedding = vector_of(2002) WHERE id = 2002;
SELECT rows_found(), finds(300), finds(2002);
ALTER TABLE items ADD note text;
UPDATE items SET note = 'x' WHERE id BETWEEN 401 AND 410;
SELECT rows_found(), bool_and(finds(id)) FROM items WHERE id BETWEEN 401 AND 410;
SELECT ivfpq_check('items_index', true, true);

-- Deleted rows are not found, before vacuum and after, and others in their place are
DELETE FROM items WHERE id BETWEEN 501 AND 1500;
SELECT rows_found(), finds(501), finds(1501);
SELECT ivfpq_check('items_index', true, true);
VACUUM items;
SELECT rows_found(), finds(501), finds(1501);
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(3001, 4200) i;
SELECT rows_found(), count(*) FILTER (WHERE finds(id)) AS found FROM items WHERE id > 3000;
SELECT ivfpq_check('items_index', true, true);

-- What is rolled back was never there
BEGIN;
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(5001, 5100) i;
SELECT rows_found(), finds(5001) AS before_rollback;
SAVEPOINT s;
DELETE FROM items WHERE id > 3000;
SELECT rows_found(), finds(5001) AS in_savepoint;
ROLLBACK TO s;
SELECT rows_found(), finds(5001) AS after_savepoint;
ROLLBACK;
SELECT rows_found(), finds(5001) AS after_rollback;
VACUUM items;
SELECT rows_found();
SELECT ivfpq_check('items_index', true, true);

-- ON CONFLICT keeps or replaces a row's vector
INSERT INTO items VALUES (1501, vector_of(9001)) ON CONFLICT DO NOTHING;
SELECT finds(1501), (SELECT id FROM items ORDER BY embedding <-> vector_of(9001) LIMIT 1) = 1501 AS replaced;
INSERT INTO items VALUES (1501, vector_of(9001)) ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding;
SELECT finds(1501), (SELECT id FROM items ORDER BY embedding <-> vector_of(9001) LIMIT 1) = 1501 AS replaced;
SELECT rows_found();

-- Writes by MERGE and in a CTE; DELETE of the nearest rows
MERGE INTO items i USING (VALUES (1501), (9002)) s (id) ON i.id = s.id
	WHEN MATCHED THEN UPDATE SET embedding = vector_of(1501) WHEN NOT MATCHED THEN INSERT VALUES (s.id, vector_of(s.id));
SELECT finds(1501), finds(9002);
WITH gone AS (DELETE FROM items WHERE id IN (SELECT id FROM items ORDER BY embedding <-> vector_of(9002) LIMIT 3) RETURNING id)
SELECT count(*), bool_or(id = 9002) AS nearest_is_gone FROM gone;
SELECT rows_found(), finds(9002);
SELECT ivfpq_check('items_index', true, true);

-- Emptied by DELETE, the index can be filled again
DELETE FROM items;
VACUUM items;
SELECT rows_found();
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(1, 1000) i;
SELECT rows_found(), finds(1), finds(1000);
SELECT ivfpq_check('items_index', true, true);

-- TRUNCATE leaves an index without codes, and can be rolled back
BEGIN;
TRUNCATE items;
SELECT rows_found();
INSERT INTO items VALUES (1, vector_of(1));
SELECT rows_found(), finds(1);
ROLLBACK;
SELECT rows_found(), finds(1), finds(1000);
TRUNCATE items;
SELECT lists, m, rows FROM ivfpq_index_info('items_index');
INSERT INTO items VALUES (7, vector_of(7));
SELECT rows_found(), finds(7);
SELECT ivfpq_check('items_index', true, true);

RESET enable_seqscan;
RESET ivfpq.epsilon;
DROP TABLE items;
DROP FUNCTION finds, rows_found, vector_of;
