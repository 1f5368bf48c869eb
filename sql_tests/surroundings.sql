--
-- What else a server does with tables and indexes: the index comes along
--
SET enable_seqscan = off;
SET ivfpq.epsilon = 100;
SET ivfpq.nprobe = 1000;
CREATE FUNCTION vector_of(n float8) RETURNS real[] LANGUAGE sql IMMUTABLE AS
	$$ SELECT array_agg(sin(n * j)::real ORDER BY j) FROM generate_series(1, 6) j $$;
CREATE TABLE items (id int PRIMARY KEY, kind int, embedding real[]) WITH (autovacuum_enabled = off);
INSERT INTO items SELECT i, i % 3, vector_of(i) FROM generate_series(1, 900) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 10);
ANALYZE items;

-- Another tablespace
SET allow_in_place_tablespaces = on;
SET client_min_messages = warning;
CREATE TABLESPACE regress_vqpg_space LOCATION '';
RESET client_min_messages;
ALTER INDEX items_index SET TABLESPACE regress_vqpg_space;
INSERT INTO items VALUES (901, 0, vector_of(901));
SELECT id FROM items ORDER BY embedding <-> vector_of(901) LIMIT 1;
REINDEX (TABLESPACE pg_default) INDEX CONCURRENTLY items_index;
SELECT id FROM items ORDER BY embedding <-> vector_of(901) LIMIT 1;
SELECT ivfpq_check('items_index', true, true);
DROP TABLESPACE regress_vqpg_space;

-- The extension in another schema, which is not searched
CREATE SCHEMA elsewhere;
ALTER EXTENSION vqpg SET SCHEMA elsewhere;
INSERT INTO items VALUES (902, 0, vector_of(902));
SELECT id FROM items ORDER BY embedding OPERATOR(elsewhere.<->) vector_of(902) LIMIT 1;
SELECT elsewhere.ivfpq_check('items_index', true, true);
ALTER EXTENSION vqpg SET SCHEMA public;
DROP SCHEMA elsewhere;

-- Row-level security filters what the index returns
CREATE ROLE regress_vqpg_reader;
GRANT SELECT ON items TO regress_vqpg_reader;
CREATE POLICY readable ON items USING (kind = 2);
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
SET ROLE regress_vqpg_reader;
SELECT count(*), min(kind), max(kind) FROM (SELECT kind FROM items ORDER BY embedding <-> vector_of(1) LIMIT 100) t;
RESET ROLE;
ALTER TABLE items DISABLE ROW LEVEL SECURITY;
DROP OWNED BY regress_vqpg_reader;
DROP ROLE regress_vqpg_reader;

-- A materialized view, refreshed both ways
CREATE MATERIALIZED VIEW copies AS SELECT id, embedding FROM items WHERE id <= 600;
CREATE UNIQUE INDEX ON copies (id);
CREATE INDEX copies_index ON copies USING ivfpq (embedding);
UPDATE items SET embedding = vector_of(-id) WHERE id % 2 = 0;
REFRESH MATERIALIZED VIEW CONCURRENTLY copies;
SELECT id FROM copies ORDER BY embedding <-> vector_of(-100) LIMIT 1;
SELECT ivfpq_check('copies_index', true, true);
REFRESH MATERIALIZED VIEW copies;
SELECT ivfpq_check('copies_index', true, true);
DROP MATERIALIZED VIEW copies;

-- Partitions are merged in the order of their distances
CREATE TABLE parts (id int, embedding real[]) PARTITION BY HASH (id);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX ON parts USING ivfpq (embedding);
INSERT INTO parts SELECT i, ARRAY[i, 1] FROM generate_series(1, 100) i;
EXPLAIN (COSTS OFF) SELECT id FROM parts ORDER BY embedding <-> '{50.1,1}' LIMIT 5;
SELECT id FROM parts ORDER BY embedding <-> '{50.1,1}' LIMIT 5;
DROP TABLE parts;

-- A search within a search, and within an insert
CREATE FUNCTION nearest(real[]) RETURNS int LANGUAGE sql STABLE AS
	$$ SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 1 $$;
SELECT count(*), count(*) FILTER (WHERE nearest(embedding) = id) AS itself
FROM (SELECT id, embedding FROM items ORDER BY embedding <-> vector_of(5) LIMIT 50) t;
CREATE FUNCTION set_kind() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN NEW.kind := nearest(NEW.embedding); RETURN NEW; END $$;
CREATE TRIGGER set_kind BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION set_kind();
INSERT INTO items SELECT 1000 + i, 0, vector_of(2000 + i % 2) FROM generate_series(1, 4) i;
SELECT count(*) FILTER (WHERE kind > 1000) FROM items WHERE id > 1000;
SELECT ivfpq_check('items_index', true, true);

-- No room for temporary files
SET work_mem = '64kB';
SET temp_file_limit = 0;
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <-> vector_of(3) LIMIT 500) t;
RESET temp_file_limit;
RESET work_mem;

-- A search under way: its index can be neither dropped nor made anew, and it
-- finds all rows, whatever happens to settings
BEGIN;
DECLARE nearest_first CURSOR FOR SELECT id > 0 AS found FROM items ORDER BY embedding <-> vector_of(5);
FETCH nearest_first;
SAVEPOINT open_cursor;
DROP INDEX items_index;
ROLLBACK TO open_cursor;
REINDEX INDEX items_index;
ROLLBACK TO open_cursor;
TRUNCATE items;
ROLLBACK TO open_cursor;
SET LOCAL ivfpq.nprobe = 1;
SET LOCAL ivfpq.epsilon = 0;
SET LOCAL ivfpq.iterative_scan = off;
SET LOCAL ivfpq.kernel = scalar;
SET LOCAL work_mem = '64kB';
MOVE FORWARD 904 FROM nearest_first;
FETCH ALL FROM nearest_first;
COMMIT;
SELECT count(*) FROM items;

RESET allow_in_place_tablespaces;
RESET enable_seqscan;
RESET ivfpq.epsilon;
RESET ivfpq.nprobe;
DROP TABLE items;
DROP FUNCTION set_kind, nearest, vector_of;
