--
-- Vectors of 1 to 16,000 dimensions
--
SET enable_seqscan = off;
SET ivfpq.epsilon = 100;

-- One dimension: the nearest numbers
CREATE TABLE items AS SELECT i AS id, ARRAY[i]::real[] AS embedding FROM generate_series(1, 2000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (nprobe = 20);
SELECT dims, m, code_bytes, rows FROM ivfpq_index_info('items_index');
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <-> '{100.1}' LIMIT 5) t;
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <-> '{-1000}' LIMIT 5) t;
INSERT INTO items VALUES (2001, '{100.2}');
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <-> '{100.3}' LIMIT 2) t;
SELECT ivfpq_check('items_index', true, true);

-- By inner product the largest one, by cosine those of the same sign
CREATE INDEX items_ip ON items USING ivfpq (embedding array_ip_ops);
CREATE INDEX items_cosine ON items USING ivfpq (embedding array_cosine_ops);
INSERT INTO items VALUES (2002, '{-5000}');
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <#> '{3}' LIMIT 2) t;
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <#> '{-3}' LIMIT 2) t;
SELECT id FROM items ORDER BY embedding <=> '{-1e-10}' LIMIT 1;
SELECT ivfpq_check('items_ip', true, true), ivfpq_check('items_cosine', true, true);
DROP TABLE items;

-- Every number of dimensions to 18 and some others: each row is its own nearest
-- neighbour, and all rows are found, also those that came later
CREATE FUNCTION try_dimensions(dims int, options text, OUT itself bigint, OUT rows bigint) LANGUAGE plpgsql AS $$
BEGIN
	CREATE TABLE items AS
	SELECT i AS id, (SELECT array_agg(sin(i * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, dims) j) AS embedding
	FROM generate_series(1, 520) i;
	EXECUTE format('CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 10, %s)', options);
	INSERT INTO items SELECT 520 + id, (SELECT array_agg(-x ORDER BY n) FROM unnest(embedding) WITH ORDINALITY u (x, n)) FROM items WHERE id <= 10;
	SELECT count(*) INTO itself FROM items q, LATERAL (SELECT id FROM items ORDER BY embedding <-> q.embedding LIMIT 1) n
	WHERE (q.id > 515 OR q.id <= 5) AND n.id = q.id;
	SELECT count(DISTINCT id) INTO rows FROM (SELECT id FROM items ORDER BY embedding <-> array_fill(0.1::real, ARRAY[dims])) t;
	PERFORM ivfpq_check('items_index', true, true);
	DROP TABLE items;
END $$;
SELECT count(*), min(itself) AS itself, min(t.rows) AS rows FROM generate_series(1, 18) dims, try_dimensions(dims, 'nbits = 4') t;
SELECT dims, options, t.* FROM (VALUES (3, 'm = 2'), (7, 'm = 4'), (33, 'm = 33'), (65, 'm = 16'), (127, 'rotation = none'), (300, 'm = 1')) d (dims, options),
	 try_dimensions(dims, options) t;

-- 1,999 dimensions
SELECT t.* FROM try_dimensions(1999, 'train_rows = 520') t;

-- 16,000 dimensions, with codes that are as long as a page allows
CREATE TABLE items AS
SELECT i AS id, array_fill(sin(i)::real, '{4000}') || array_fill(sin(i * 1.7)::real, '{8000}') || array_fill(sin(i * 2.3)::real, '{4000}') AS embedding
FROM generate_series(1, 520) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 5, m = 942);
SELECT dims, m, nbits, code_bytes, lists, rows FROM ivfpq_index_info('items_index');
INSERT INTO items VALUES (521, array_fill(0.5::real, '{16000}'));
SELECT q.id, n.id = q.id AS itself FROM items q, LATERAL (SELECT id FROM items ORDER BY embedding <-> q.embedding LIMIT 1) n WHERE q.id IN (1, 300, 521);
SELECT ivfpq_check('items_index', true, true);
INSERT INTO items SELECT 522, embedding || 1::real FROM items WHERE id = 1;

-- By default they are of no more than 160 bytes
CREATE TABLE wide AS SELECT i AS id, (SELECT array_agg(sin(i * 0.37 + j * (1 + i % 13))::real) FROM generate_series(1, 1536) j) AS embedding
FROM generate_series(1, 520) i;
CREATE INDEX wide_l2 ON wide USING ivfpq (embedding) WITH (lists = 4);
CREATE INDEX wide_ip ON wide USING ivfpq (embedding array_ip_ops) WITH (lists = 4);
CREATE INDEX wide_cosine ON wide USING ivfpq (embedding array_cosine_ops) WITH (lists = 4);
CREATE INDEX wide_part ON wide USING ivfpq ((embedding[1:1153])) WITH (lists = 4);
SELECT metric, dims, m, nbits, code_bytes FROM unnest('{wide_l2,wide_ip,wide_cosine,wide_part}'::regclass[]) i, ivfpq_index_info(i);
SELECT q.id, n.id = q.id AS itself FROM wide q, LATERAL (SELECT id FROM wide ORDER BY embedding <-> q.embedding LIMIT 1) n WHERE q.id IN (1, 300);
CREATE TABLE wide_bytes AS SELECT i AS id, array_fill(sin(i)::real, '{512}') || array_fill(sin(i * 1.7)::real, '{512}') AS embedding
FROM generate_series(1, 8200) i;
CREATE INDEX wide_8 ON wide_bytes USING ivfpq (embedding) WITH (lists = 4, nbits = 8, rotation = hadamard);
SELECT dims, m, nbits, code_bytes FROM ivfpq_index_info('wide_8');
DROP TABLE wide, wide_bytes;

-- A session keeps 16 MB of what it knows of indexes that it does not use, and what it uses
CREATE TABLE few AS SELECT i AS id, ARRAY[i % 50, i % 7, i % 11]::real[] AS embedding FROM generate_series(1, 600) i;
CREATE INDEX few_index ON few USING ivfpq (embedding) WITH (lists = 10, nprobe = 1);
ALTER INDEX items_index SET (lists = 1, m = 1, train_rows = 20, rotation = none);
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM few ORDER BY embedding <-> '{1,2,3}';
MOVE 1 FROM c;
DO $$
BEGIN
	FOR i IN 1 .. 16 LOOP
		REINDEX INDEX items_index;
		PERFORM id FROM items ORDER BY embedding <-> array_fill(0.5::real, '{16000}') LIMIT 1;
	END LOOP;
END $$;
SELECT count(*) > 8 AS many, sum(total_bytes) < 18000000 AS within_16_mb FROM pg_backend_memory_contexts WHERE name = 'ivfpq model';
MOVE 1000 FROM c;
COMMIT;
DROP TABLE items, few;

-- The codes of a row must fit a page, and be no more than its dimensions
CREATE TABLE items AS SELECT i AS id, array_fill(i::real, '{4000}') AS embedding FROM generate_series(1, 520) i;
CREATE INDEX ON items USING ivfpq (embedding) WITH (m = 4000);
CREATE INDEX ON items USING ivfpq (embedding) WITH (m = 4001);

-- The hints are right
CREATE INDEX ON items USING ivfpq (embedding) WITH (m = 993);
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (m = 992, lists = 1);
SELECT m, code_bytes FROM ivfpq_index_info('items_index');
SELECT ivfpq_check('items_index', true, true);

-- What no build takes cannot be set, nor be met by a TRUNCATE later on
ALTER INDEX items_index SET (m = 993);
ALTER INDEX items_index SET (nbits = 8);
ALTER INDEX items_index SET (nbits = 8, m = 496);
TRUNCATE items;
DROP TABLE items;

-- Vectors out of line leave as much room
CREATE TABLE items (id int, embedding real[]) WITH (autovacuum_enabled = off);
ALTER TABLE items ALTER embedding SET STORAGE EXTERNAL;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (m = 993);
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (m = 992, lists = 1, autoreindex = off);
INSERT INTO items SELECT i, (SELECT array_agg((hashint8(i * 1000 + j) % 1000)::real) FROM generate_series(1, 1000) j) FROM generate_series(1, 520) i;
REINDEX INDEX items_index;
SELECT m, code_bytes, ivfpq_check('items_index', true, true) FROM ivfpq_index_info('items_index');
SELECT count(*) FILTER (WHERE found = i.id) FROM items i, LATERAL (SELECT id FROM items ORDER BY embedding <-> i.embedding LIMIT 1) n (found) WHERE i.id <= 20;
DROP TABLE items;

-- An index on an empty table takes its dimension from the first row, even from one that is rolled back
CREATE TABLE items (id int, embedding real[]) WITH (autovacuum_enabled = off);
CREATE INDEX items_index ON items USING ivfpq (embedding);
SELECT dims FROM ivfpq_index_info('items_index');
INSERT INTO items VALUES (1, NULL);
INSERT INTO items VALUES (1, '{1,2,NaN}');
SELECT id FROM items ORDER BY embedding <-> '{1,2,3,4,5}' LIMIT 1;
SELECT dims FROM ivfpq_index_info('items_index');
BEGIN;
INSERT INTO items VALUES (1, '{1,2,3}');
ROLLBACK;
SELECT dims FROM ivfpq_index_info('items_index');
INSERT INTO items VALUES (1, '{1,2}');
SELECT id FROM items ORDER BY embedding <-> '{1,2}' LIMIT 1;

-- A column with vectors of several models, each with an index of its own
CREATE TABLE models AS SELECT i AS id, CASE i % 2 WHEN 0 THEN 'small' ELSE 'large' END AS model,
	CASE i % 2 WHEN 0 THEN ARRAY[i, 1, 2] ELSE ARRAY[i, 3, 4, 5] END::real[] AS embedding FROM generate_series(1, 2000) i;
CREATE INDEX ON models USING ivfpq (embedding);
CREATE INDEX models_small ON models USING ivfpq (embedding) WHERE model = 'small';
CREATE INDEX models_large ON models USING ivfpq (embedding) WHERE array_length(embedding, 1) = 4;
INSERT INTO models VALUES (2001, 'other', '{1,2}'), (2002, 'small', '{2002,1,2}');
EXPLAIN (COSTS off) SELECT id FROM models WHERE model = 'small' ORDER BY embedding <-> '{2001,1,2}' LIMIT 2;
SELECT id FROM models WHERE model = 'small' ORDER BY embedding <-> '{2001,1,2}' LIMIT 2;
SELECT id FROM models WHERE array_length(embedding, 1) = 4 ORDER BY embedding <-> '{5.1,3,4,5}' LIMIT 2;
DROP TABLE models;

-- Until it is vacuumed and found empty, is emptied at once, or made anew
VACUUM items;
SELECT dims FROM ivfpq_index_info('items_index');
INSERT INTO items VALUES (1, '{1,2}');
VACUUM items;
INSERT INTO items VALUES (1, '{1,2,3}');
TRUNCATE items;
INSERT INTO items VALUES (1, '{1,2,3,4}'), (2, '{1,2,3,5}');
SELECT dims FROM ivfpq_index_info('items_index');
DELETE FROM items WHERE id = 1;
VACUUM items;
INSERT INTO items VALUES (1, '{1,2,3}');
DELETE FROM items;
VACUUM items;
INSERT INTO items VALUES (1, '{1,2,3}');
SELECT id FROM items ORDER BY embedding <-> '{1,2,3}' LIMIT 1;
DELETE FROM items;
REINDEX INDEX items_index;
INSERT INTO items VALUES (1, '{1,2}');
SELECT dims FROM ivfpq_index_info('items_index');
SELECT ivfpq_check('items_index', true, true);
DROP TABLE items;

-- A zero vector is not in a cosine index, but has a dimension; REINDEX helps if it has gone
CREATE TABLE items (id int, embedding real[]) WITH (autovacuum_enabled = off);
CREATE INDEX items_index ON items USING ivfpq (embedding array_cosine_ops);
INSERT INTO items VALUES (1, '{0,0,0}');
VACUUM items;
INSERT INTO items VALUES (1, '{1,2}');
DELETE FROM items;
VACUUM items;
INSERT INTO items VALUES (1, '{1,2}');
REINDEX INDEX items_index;
INSERT INTO items VALUES (1, '{1,2}');
SELECT ivfpq_check('items_index', true, true);
DROP TABLE items;

-- An index that was trained keeps the dimension of what it has learnt
CREATE TABLE items (id int, embedding real[]) WITH (autovacuum_enabled = off);
INSERT INTO items SELECT i, ARRAY[i, -i] FROM generate_series(1, 512) i;
CREATE INDEX items_index ON items USING ivfpq (embedding);
DELETE FROM items;
VACUUM items;
INSERT INTO items VALUES (1, '{1,2,3}');
DROP TABLE items;

-- Or it is told its dimension
CREATE TABLE items (id int, embedding real[]);
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (dims = 3);
SELECT dims FROM ivfpq_index_info('items_index');
INSERT INTO items VALUES (1, '{1,2}');
SELECT id FROM items ORDER BY embedding <-> '{1,2}' LIMIT 1;
VACUUM items;
INSERT INTO items VALUES (1, '{1,2}');
INSERT INTO items VALUES (1, '{1,2,3}');
TRUNCATE items;
INSERT INTO items VALUES (1, '{1,2}');
INSERT INTO items VALUES (1, '{1,2,3}');
CREATE INDEX ON items USING ivfpq (embedding) WITH (dims = 4);
ALTER INDEX items_index SET (dims = 4);
REINDEX INDEX items_index;
SELECT ivfpq_check('items_index', true, true);

RESET enable_seqscan;
RESET ivfpq.epsilon;
DROP TABLE items;
DROP FUNCTION try_dimensions;
