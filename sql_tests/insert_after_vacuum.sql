--
-- Inserts fill the slots that vacuum freed.  The tables are temporary, as no
-- other session's snapshot keeps vacuum from removing their dead rows.
--
CREATE FUNCTION vector_of(id int) RETURNS real[] IMMUTABLE LANGUAGE sql
AS $$ SELECT array_agg(sin(id * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j $$;

-- In an index with codes, and in one without
CREATE TEMP TABLE items AS SELECT i AS id, vector_of(i) AS embedding FROM generate_series(1, 2000) i;
CREATE TEMP TABLE items_bare (id int, embedding real[]);
CREATE INDEX items_index ON items USING ivfpq (embedding);
CREATE INDEX bare_index ON items_bare USING ivfpq (embedding);
INSERT INTO items_bare TABLE items;
SELECT pg_relation_size('items_index') AS items_size, pg_relation_size('bare_index') AS bare_size \gset
CREATE TEMP VIEW slots AS
SELECT 'with codes' AS index, m > 0 AS has_codes, rows, dead_slots FROM ivfpq_index_info('items_index')
UNION ALL SELECT 'without codes', m > 0, rows, dead_slots FROM ivfpq_index_info('bare_index');
TABLE slots;

-- Deleted rows keep their slots until vacuum
DELETE FROM items WHERE id % 2 = 0;
DELETE FROM items_bare WHERE id % 2 = 0;
TABLE slots;
VACUUM items, items_bare;
TABLE slots;
SELECT ivfpq_check('items_index', true, true), ivfpq_check('bare_index', true, true);

-- The same rows come back to the same lists
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(2, 2000, 2) i;
INSERT INTO items_bare SELECT i, vector_of(i) FROM generate_series(2, 2000, 2) i;
TABLE slots;
SELECT pg_relation_size('items_index') = :items_size AS items_same_size, pg_relation_size('bare_index') = :bare_size AS bare_same_size;
SELECT ivfpq_check('items_index', true, true), ivfpq_check('bare_index', true, true);
SET enable_seqscan = off;
SET ivfpq.epsilon = 100;
SELECT count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <-> vector_of(0)) t;
SELECT count(DISTINCT id) FROM (SELECT id FROM items_bare ORDER BY embedding <-> vector_of(0)) t;
SELECT count(*) FROM items i WHERE id % 50 = 0 AND (SELECT id FROM items ORDER BY embedding <-> vector_of(i.id) LIMIT 1) = id;
RESET enable_seqscan;
RESET ivfpq.epsilon;

-- Entries of a rolled back transaction go with the next vacuum
BEGIN;
INSERT INTO items SELECT -i, vector_of(-i) FROM generate_series(1, 500) i;
INSERT INTO items_bare SELECT -i, vector_of(-i) FROM generate_series(1, 500) i;
ROLLBACK;
SELECT index, rows FROM slots;
VACUUM items, items_bare;
SELECT index, rows FROM slots;

-- Inserts do not look again at the pages that those before found full
INSERT INTO items_bare SELECT i, '{1,2,3,4,5,6,7,8}' FROM generate_series(10001, 28000) i;
DELETE FROM items_bare WHERE id > 10000 AND id % 50 = 0;
VACUUM items_bare;
CREATE FUNCTION blocks_hit(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT json) ' || statement INTO plan;
	RETURN plan -> 0 -> 'Plan' ->> 'Local Hit Blocks';
END $$;
SELECT blocks_hit('INSERT INTO items_bare SELECT i, ''{1,2,3,4,5,6,7,8}'' FROM generate_series(30001, 30360) i') < 360 * 6 AS few_for_each_row;
DELETE FROM items_bare WHERE id > 10000;
VACUUM items_bare;
DROP FUNCTION blocks_hit;

-- Vacuum keeps statistics of rows, with INDEX_CLEANUP off it leaves the index alone
SELECT relname, reltuples FROM pg_class WHERE oid IN ('items_index'::regclass, 'bare_index'::regclass) ORDER BY relname;
DELETE FROM items WHERE id > 1500;
VACUUM (INDEX_CLEANUP off) items;
SELECT rows FROM slots WHERE has_codes;
VACUUM (INDEX_CLEANUP on) items;
SELECT rows FROM slots WHERE has_codes;
SELECT reltuples FROM pg_class WHERE oid = 'items_index'::regclass;

-- Vacuum of what has no dead rows, and ANALYZE, change nothing
VACUUM items;
VACUUM (FREEZE, ANALYZE) items;
ANALYZE items;
SELECT rows FROM slots WHERE has_codes;
SELECT ivfpq_check('items_index', true, true), ivfpq_check('bare_index', true, true);

DROP VIEW slots;
DROP TABLE items, items_bare;
DROP FUNCTION vector_of;
