--
-- A vector of which a part is lost is an error, to searches and builds alike, and not another vector
--
CREATE EXTENSION pg_surgery;
CREATE FUNCTION vector_of(id int) RETURNS real[] IMMUTABLE LANGUAGE sql
AS $$ SELECT array_agg(sin(id * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 1000) j $$;
CREATE TABLE items (id int, embedding real[]) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
ALTER TABLE items ALTER embedding SET STORAGE EXTERNAL;
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(1, 600) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 5, nprobe = 5);
SET enable_seqscan = off;

-- Kill a chunk of the n-th vector
CREATE FUNCTION lose(n int, chunk int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	toast regclass := (SELECT reltoastrelid FROM pg_class WHERE oid = 'items'::regclass);
	place tid;
BEGIN
	EXECUTE format('SELECT ctid FROM %s WHERE chunk_seq = $1 ORDER BY chunk_id OFFSET $2 - 1 LIMIT 1', toast) INTO place USING chunk, n;
	PERFORM heap_force_kill(toast, ARRAY[place]);
END $$;
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN data_corrupted THEN
	RETURN regexp_replace(SQLERRM, '\d+( in \S+)?', 'N', 'g');
END $$;
SELECT lose(7, 1), lose(8, 0);
SELECT n, try(format('SELECT id FROM items ORDER BY embedding <-> vector_of(%s) LIMIT 1', n)) FROM generate_series(6, 9) n;
SELECT try('CREATE INDEX items_again ON items USING ivfpq (embedding)') AS build, try('SELECT ivfpq_check(''items_index'', true, true)') AS "check";

-- Until the row has a whole one
UPDATE items SET embedding = vector_of(id) WHERE id IN (7, 8);
SELECT n, (SELECT id FROM items ORDER BY embedding <-> vector_of(n) LIMIT 1) AS nearest FROM generate_series(6, 9) n;

RESET enable_seqscan;
DROP TABLE items;
DROP FUNCTION vector_of, lose, try;
DROP EXTENSION pg_surgery;
