--
-- Indexes that are made anew, concurrently, or on tables that change their kind
--
SET enable_seqscan = off;
SET ivfpq.epsilon = 100;
CREATE FUNCTION vector_of(id int) RETURNS real[] IMMUTABLE LANGUAGE sql
AS $$ SELECT array_agg(sin(id * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j $$;
CREATE TABLE items AS SELECT i AS id, vector_of(i) AS embedding FROM generate_series(1, 1000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 20);

-- Everything about the index is right: its structure, its entries, what it finds
CREATE FUNCTION verdict(OUT codes boolean, OUT lists int, OUT all_found boolean, OUT plan_uses_it boolean) LANGUAGE plpgsql AS $$
DECLARE
	plan text;
BEGIN
	PERFORM ivfpq_check('items_index', true, true);
	SELECT i.m > 0, i.lists INTO codes, lists FROM ivfpq_index_info('items_index') i;
	all_found := (SELECT count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <-> vector_of(0)) t) = (SELECT count(*) FROM items)
		AND coalesce((SELECT bool_and((SELECT n.id FROM items n ORDER BY embedding <-> i.embedding LIMIT 1) = i.id) FROM items i WHERE id % 100 = 0), true);
	EXECUTE 'EXPLAIN SELECT id FROM items ORDER BY embedding <-> vector_of(0)' INTO plan;
	plan_uses_it := plan LIKE '%items_index%';
END $$;
SELECT * FROM verdict();

-- REINDEX follows the table and changed storage parameters
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(1001, 2000) i;
ALTER INDEX items_index SET (lists = 30);
SELECT * FROM verdict();
REINDEX INDEX items_index;
SELECT * FROM verdict();
REINDEX TABLE items;
SELECT * FROM verdict();
DELETE FROM items WHERE id > 100;
REINDEX INDEX items_index;
SELECT * FROM verdict();
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(101, 2000) i;
REINDEX INDEX CONCURRENTLY items_index;
SELECT * FROM verdict();
REINDEX TABLE CONCURRENTLY items;
SELECT * FROM verdict();

-- A REINDEX that is rolled back leaves the index as it was
BEGIN;
ALTER INDEX items_index SET (lists = 7);
REINDEX INDEX items_index;
SELECT * FROM verdict();
ROLLBACK;
SELECT * FROM verdict();

-- CREATE INDEX CONCURRENTLY, on a table that has dead rows and others that moved
UPDATE items SET embedding = vector_of(id) WHERE id % 3 = 0;
DELETE FROM items WHERE id % 5 = 0 AND id % 100 <> 0;
DROP INDEX CONCURRENTLY items_index;
CREATE INDEX CONCURRENTLY items_index ON items USING ivfpq (embedding) WITH (lists = 20);
SELECT * FROM verdict();

-- One that fails leaves an invalid index, which can be repaired
INSERT INTO items VALUES (3000, '{1,2,3}');
INSERT INTO items VALUES (3000, vector_of(3000));
CREATE TABLE damaged AS TABLE items;
INSERT INTO damaged VALUES (3001, '{1,2,3}');
CREATE INDEX CONCURRENTLY damaged_index ON damaged USING ivfpq (embedding);
SELECT indisvalid FROM pg_index WHERE indexrelid = 'damaged_index'::regclass;
SELECT ivfpq_check('damaged_index');
SELECT dims FROM ivfpq_index_info('damaged_index');
SELECT count(*) FROM ivfpq_list_info('damaged_index');
DELETE FROM damaged WHERE id = 3001;
REINDEX INDEX CONCURRENTLY damaged_index;
SELECT ivfpq_check('damaged_index', true, true);
DROP TABLE damaged;

-- A table that is rewritten
VACUUM FULL items;
SELECT * FROM verdict();
CREATE INDEX items_id ON items (id);
CLUSTER items USING items_id;
SELECT * FROM verdict();
ALTER TABLE items ALTER id TYPE bigint;
SELECT * FROM verdict();
CLUSTER items USING items_index;
DROP INDEX items_id;

-- Unlogged, logged, and back
ALTER TABLE items SET UNLOGGED;
SELECT * FROM verdict();
INSERT INTO items SELECT i, vector_of(i::int) FROM generate_series(4001, 4100) i;
SELECT * FROM verdict();
ALTER TABLE items SET LOGGED;
SELECT * FROM verdict();

-- Renamed, moved to another schema; a column before it dropped
ALTER INDEX items_index RENAME TO items_index_2;
ALTER INDEX items_index_2 RENAME TO items_index;
CREATE SCHEMA elsewhere;
ALTER TABLE items SET SCHEMA elsewhere;
SET search_path = elsewhere, public;
SELECT * FROM verdict();
ALTER TABLE items DROP COLUMN id;
ALTER TABLE items ADD id int;
UPDATE items SET id = -1;
SELECT ivfpq_check('items_index', true, true);
RESET search_path;
DROP TABLE elsewhere.items;
DROP SCHEMA elsewhere;

-- A copy of a table's definition has an index of its own
CREATE TABLE original (id int, embedding real[]);
CREATE INDEX ON original USING ivfpq (embedding array_cosine_ops) WITH (lists = 3, nbits = 8);
CREATE TABLE copy (LIKE original INCLUDING ALL);
SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'copy'::regclass;
DROP TABLE original, copy;

-- A temporary table
CREATE TEMP TABLE items (id int, embedding real[]) ON COMMIT DELETE ROWS;
CREATE INDEX items_index ON items USING ivfpq (embedding);
BEGIN;
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(1, 1000) i;
SELECT * FROM verdict();
REINDEX INDEX items_index;
SELECT * FROM verdict();
COMMIT;
SELECT * FROM verdict();
INSERT INTO items VALUES (1, '{1,2}');
DROP TABLE items;

-- An unlogged table
CREATE UNLOGGED TABLE items (id int, embedding real[]);
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (dims = 8);
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(1, 1000) i;
SELECT * FROM verdict();
REINDEX INDEX items_index;
SELECT * FROM verdict();
TRUNCATE items;
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(1, 100) i;
SELECT * FROM verdict();
DROP TABLE items;

-- A table and its index that are made and filled in one transaction
BEGIN;
CREATE TABLE items AS SELECT i AS id, vector_of(i) AS embedding FROM generate_series(1, 1000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding);
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(1001, 1100) i;
SAVEPOINT s;
TRUNCATE items;
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(1, 200) i;
SELECT * FROM verdict();
ROLLBACK TO s;
SELECT * FROM verdict();
COMMIT;
SELECT * FROM verdict();
DROP TABLE items;

RESET ivfpq.epsilon;
RESET enable_seqscan;
DROP FUNCTION verdict, vector_of;
