--
-- Vectors are found however their column stores them
--
SET enable_seqscan = off;
SET ivfpq.epsilon = 100;
SET default_toast_compression = pglz;

-- 1,536 dimensions: too long for a table page, so compressed, or in the TOAST
-- table, or both; rows that are there when the index is made, and later ones
CREATE FUNCTION embedding_of(id int) RETURNS real[] IMMUTABLE LANGUAGE sql
AS $$ SELECT array_agg(sin(id * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 1536) j $$;
CREATE FUNCTION try_storage(storage text, OUT itself bigint, OUT first_10 boolean, OUT in_toast boolean, OUT advised boolean) LANGUAGE plpgsql AS $$
BEGIN
	CREATE TABLE items (id int, embedding real[]);
	EXECUTE format('ALTER TABLE items ALTER embedding SET STORAGE %s', storage);
	INSERT INTO items SELECT id, embedding || '{}'::real[] FROM originals WHERE id <= 550;
	CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 10, nprobe = 10);
	INSERT INTO items SELECT id, embedding || '{}'::real[] FROM originals WHERE id > 550;
	SELECT count(*) INTO itself FROM originals q, LATERAL (SELECT id FROM items ORDER BY embedding <-> q.embedding LIMIT 1) n
	WHERE q.id % 25 = 0 AND n.id = q.id;
	first_10 := (SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <-> embedding_of(1000) LIMIT 10) t) =
				(SELECT array_agg(id) FROM (SELECT id FROM originals ORDER BY embedding <-> embedding_of(1000) LIMIT 10) t);
	in_toast := pg_relation_size(reltoastrelid) > 0 FROM pg_class WHERE relname = 'items';
	advised := advice LIKE '%ALTER TABLE public.items SET (toast_tuple_target = 8160)%' IS TRUE FROM ivfpq_index_info('items_index');
	PERFORM ivfpq_check('items_index', true, true);
	DROP TABLE items;
END $$;
CREATE TABLE originals AS SELECT i AS id, embedding_of(i) AS embedding FROM generate_series(1, 600) i;
SELECT storage, t.* FROM unnest('{plain,main,external,extended}'::text[]) storage, try_storage(storage) t;

-- The advice puts them into their rows
CREATE TABLE advised AS SELECT id, embedding || '{}'::real[] AS embedding FROM originals;
CREATE INDEX advised_index ON advised USING ivfpq (embedding) WITH (lists = 10, nprobe = 10);
SELECT advice FROM ivfpq_index_info('advised_index');
ALTER TABLE public.advised SET (toast_tuple_target = 8160), ALTER COLUMN embedding TYPE real[] USING (embedding || '{}')::real[];
SELECT advice, pg_relation_size(reltoastrelid) AS toast FROM ivfpq_index_info('advised_index'), pg_class WHERE relname = 'advised';
INSERT INTO advised SELECT id, embedding || '{}'::real[] FROM originals;
SELECT pg_relation_size(reltoastrelid) AS toast FROM pg_class WHERE relname = 'advised';
SELECT count(*) FROM (SELECT FROM advised ORDER BY embedding <-> embedding_of(7) LIMIT 2) t;
DROP TABLE advised;

-- also those that are compressed, which VACUUM FULL would not do
CREATE TABLE advised AS SELECT id, array_fill(id::real, '{1000}') || array_fill((id % 7)::real, '{536}') AS "the vector" FROM originals;
CREATE INDEX advised_index ON advised USING ivfpq ("the vector") WITH (lists = 10, nprobe = 10);
SELECT advice FROM ivfpq_index_info('advised_index');
SELECT pg_column_compression("the vector") AS compressed FROM advised LIMIT 1;
ALTER TABLE public.advised SET (toast_tuple_target = 8160), ALTER COLUMN "the vector" TYPE real[] USING ("the vector" || '{}')::real[];
SELECT pg_column_compression("the vector") AS compressed FROM advised LIMIT 1;
SELECT advice FROM ivfpq_index_info('advised_index');
ALTER TABLE advised RESET (toast_tuple_target), ALTER COLUMN "the vector" SET STORAGE EXTERNAL;
SELECT advice FROM ivfpq_index_info('advised_index');
DROP TABLE advised;

-- The same for vectors that compress well
UPDATE originals SET embedding = array_fill(id::real, '{1000}') || array_fill((id % 7)::real, '{536}');
SELECT storage, itself, in_toast FROM unnest('{main,external,extended}'::text[]) storage, try_storage(storage) t;

-- Vectors out of line: the executor is given the distances of rows that are returned, as its operator gives them,
-- wherever it computes them; and does not read the vectors once more
CREATE TABLE items AS SELECT i AS id, i % 3 AS remainder, embedding_of(i) AS embedding FROM generate_series(1, 600) i;
CREATE INDEX items_index ON items USING ivfpq (embedding);
CREATE FUNCTION buffers_of(query text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE query;
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT json) ' || query INTO plan;
	RETURN (plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::int + (plan -> 0 -> 'Plan' ->> 'Shared Read Blocks')::int;
END $$;
CREATE VIEW searches AS SELECT q.id AS query, q.embedding AS q, n.* FROM items q, LATERAL (
	SELECT id, embedding, embedding <-> q.embedding AS distance, 1 - (embedding <-> q.embedding) AS similarity FROM items
	WHERE remainder = 1 AND embedding <-> q.embedding > .01
	ORDER BY embedding <-> q.embedding LIMIT 5) n WHERE q.id % 30 = 0;
SELECT count(*), count(*) FILTER (WHERE distance = array_l2_distance(embedding, q) AND distance > .01) AS same_distance,
	count(*) FILTER (WHERE similarity = 1 - array_l2_distance(embedding, q)) AS same_similarity FROM searches;
SET jit = on;
SET jit_above_cost = 0;
SELECT count(*), count(*) FILTER (WHERE distance = array_l2_distance(embedding, q)) AS same_distance FROM searches;
RESET jit_above_cost;
RESET jit;
SELECT buffers_of($$SELECT id FROM items ORDER BY embedding <-> embedding_of(5) LIMIT 40$$) + 80 <=
	   buffers_of($$SELECT id FROM items ORDER BY embedding_of(5) <-> embedding LIMIT 40$$) AS is_less;

-- Rows fetched before their turn and never looked at are not among those that EXPLAIN counts
CREATE FUNCTION removed_by_filter() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, FORMAT json) SELECT id FROM items WHERE remainder = 2 ORDER BY embedding <-> embedding_of(5) LIMIT 3' INTO plan;
	RETURN jsonb_path_query_first(plan::jsonb, 'strict $.**."Rows Removed by Filter"');
END $$;
SELECT removed_by_filter() AS removed \gset
SELECT :removed > 0 AS some, :removed = rows_filtered AS as_many FROM ivfpq_last_scan();

-- Rows fetched before their turn are those of this search, and not of one before it that had another condition
SET ivfpq.epsilon = 2;
SELECT q, r, count(*), min(remainder), max(remainder) FROM (VALUES (1,0,1), (2,1,1000), (3,0,1), (4,2,1000), (5,0,1), (6,1,1000)) v (q, r, n),
	LATERAL (SELECT remainder FROM items WHERE remainder = r ORDER BY embedding <-> embedding_of(5 + q / 3) LIMIT n) s
GROUP BY q, r ORDER BY q;
SET ivfpq.epsilon = 100;

-- Values of more chunks than vectors have are read by the server
CREATE TABLE longer (embedding real[]);
ALTER TABLE longer ALTER embedding SET STORAGE EXTERNAL;
INSERT INTO longer SELECT array_fill(i::real, '{400000}') FROM generate_series(1, 3) i;
CREATE INDEX ON longer USING ivfpq (embedding);
DROP TABLE longer;
DROP VIEW searches;
DROP TABLE items;
DROP FUNCTION buffers_of, removed_by_filter;

-- Entries know where the vectors are: a search does not look into the TOAST table's index, where the server finds each; nor does a
-- build for most, as one value follows the other
CREATE TABLE items (id int, embedding real[]) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
ALTER TABLE items ALTER embedding SET STORAGE EXTERNAL;
INSERT INTO items SELECT id, embedding_of(id) FROM originals;
CREATE FUNCTION toast_index_scans() RETURNS bigint LANGUAGE sql AS $$
	SELECT idx_scan FROM pg_stat_all_indexes, pg_class WHERE pg_class.oid = 'items'::regclass AND pg_stat_all_indexes.relid = reltoastrelid $$;
CREATE VIEW search AS SELECT sum(n.id) FROM originals q, LATERAL (SELECT id FROM items ORDER BY embedding <-> embedding_of(q.id) LIMIT 5) n
	WHERE q.id % 30 = 0;
-- (compiled expressions compute distances of rows returned once more)
SET jit = off;
SELECT pg_stat_force_next_flush() AS flushed \gset
SELECT toast_index_scans() AS before \gset
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 10);
SELECT pg_stat_force_next_flush() AS flushed \gset
SELECT toast_index_scans() - :before < 10 AS build;
SELECT pg_stat_force_next_flush() AS flushed \gset
SELECT toast_index_scans() AS before \gset
SELECT sum > 0 AS found FROM search;
SELECT pg_stat_force_next_flush() AS flushed \gset
SELECT toast_index_scans() - :before AS built;
-- rows that are inserted, updated, and updated without another vector
INSERT INTO items SELECT id + 1000, embedding_of(id + 1000) FROM originals;
UPDATE items SET embedding = embedding_of(id + 2000) WHERE id % 2 = 1;
UPDATE items SET id = id WHERE id % 4 < 2;
SELECT pg_stat_force_next_flush() AS flushed \gset
SELECT toast_index_scans() AS before \gset
SELECT sum > 0 AS found FROM search;
SELECT pg_stat_force_next_flush() AS flushed \gset
SELECT toast_index_scans() - :before AS inserted;
SELECT ivfpq_check('items_index', true, true);
-- the TOAST table alone is written anew, and no entry is right
SELECT array_agg(id ORDER BY distance) AS found FROM (
	SELECT id, embedding <-> embedding_of(1007) AS distance FROM items ORDER BY embedding <-> embedding_of(1007) LIMIT 20) n \gset
DELETE FROM items WHERE id <= 2000 AND id % 3 = 1 AND NOT id = ANY (:'found');
SELECT reltoastrelid::regclass AS toast FROM pg_class WHERE oid = 'items'::regclass \gset
VACUUM FULL :toast;
SELECT array_agg(id ORDER BY distance) = :'found'::int[] AS as_before FROM (
	SELECT id, embedding <-> embedding_of(1007) AS distance FROM items ORDER BY embedding <-> embedding_of(1007) LIMIT 20) n;
SELECT ivfpq_check('items_index', true, true);
INSERT INTO items SELECT id + 10000, embedding_of(id + 10000) FROM originals WHERE id <= 100;
SELECT ivfpq_check('items_index', true, true);
RESET jit;
DROP VIEW search;
DROP TABLE items;
DROP FUNCTION toast_index_scans;

-- Vectors that are compressed and still too long for their rows, with a further column in the index
CREATE TABLE half AS SELECT id, embedding_of(id) || array_fill(id::real, '{2000}') AS embedding FROM originals;
CREATE INDEX half_index ON half USING ivfpq (embedding, id) WITH (lists = 10);
SELECT pg_column_compression(embedding) AS compressed, pg_column_size(embedding) > 5000 AS is_long,
	pg_relation_size(reltoastrelid) > 600 * 5000 AS is_out_of_line FROM half, pg_class WHERE id = 1 AND relname = 'half';
SELECT count(*) FROM half q, LATERAL (SELECT id FROM half ORDER BY embedding <-> q.embedding LIMIT 1) n WHERE q.id % 30 = 0 AND n.id = q.id;
SELECT array_agg(id ORDER BY id) FROM (SELECT id FROM half WHERE id > 597 ORDER BY embedding <-> (SELECT embedding FROM half WHERE id = 30)) n;
SELECT ivfpq_check('half_index', true, true);
DROP TABLE half;

-- Queries are read from TOAST as well, and from arrays that PL/pgSQL expanded
CREATE INDEX originals_index ON originals USING ivfpq (embedding);
CREATE FUNCTION search_expanded(id int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	q real[] := array_fill(id::real, '{1000}');
BEGIN
	FOR i IN 1001 .. 1536 LOOP
		q[i] := id % 7;
	END LOOP;
	RETURN (SELECT o.id FROM originals o ORDER BY embedding <-> q LIMIT 1);
END $$;
SELECT search_expanded(77);
SELECT id FROM originals ORDER BY embedding <-> (SELECT embedding FROM originals WHERE id = 99) LIMIT 1;

-- Copies of rows are given back one by one: by an insert, without codes and with them, and by a search
CREATE TABLE later (id int, embedding real[], bytes bigint);
CREATE INDEX later_index ON later USING ivfpq (embedding);
CREATE FUNCTION insert_all() RETURNS boolean LANGUAGE sql AS $$
	INSERT INTO later SELECT id, embedding, CASE WHEN id = 600 THEN (SELECT sum(total_bytes) FROM pg_backend_memory_contexts
																	  WHERE name IN ('ExecutorState', 'ivfpq insert')) END FROM originals;
	SELECT max(bytes) < 1000000 FROM later $$;
SELECT insert_all() AS is_little;
REINDEX INDEX later_index;
SELECT insert_all() AS is_little;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM originals ORDER BY embedding <-> (SELECT embedding FROM originals WHERE id = 99);
MOVE 590 FROM c;
SELECT sum(total_bytes) < 100000 AS is_little FROM pg_backend_memory_contexts WHERE name = 'ivfpq row';
COMMIT;
DROP TABLE later;
DROP FUNCTION insert_all;

-- Short headers, a bitmap of NULLs that has none, and other lower bounds
CREATE TABLE items AS SELECT i AS id, ARRAY[i, i % 7, i % 11]::real[] AS embedding FROM generate_series(1, 600) i;
INSERT INTO items VALUES (601, '[0:2]={601,5,7}'), (602, '[-5:-3]={602,0,8}');
ALTER TABLE items ADD plain real[];
UPDATE items SET plain = '{NULL,NULL,NULL}';
UPDATE items SET plain[1] = embedding[array_lower(embedding, 1)], plain[2] = embedding[array_lower(embedding, 1) + 1],
	plain[3] = embedding[array_lower(embedding, 1) + 2];
CREATE INDEX items_index ON items USING ivfpq (embedding);
CREATE INDEX items_plain ON items USING ivfpq (plain);
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <-> '[3:5]={601.5,2,8}' LIMIT 4) t;
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY plain <-> '[3:5]={601.5,2,8}' LIMIT 4) t;
SELECT count(*) FROM items q, LATERAL (SELECT id FROM items ORDER BY plain <-> q.embedding LIMIT 1) n WHERE n.id = q.id;

SELECT ivfpq_check('items_index', true, true), ivfpq_check('items_plain', true, true), ivfpq_check('originals_index', true, true);
RESET enable_seqscan;
RESET ivfpq.epsilon;
DROP TABLE items, originals;
DROP FUNCTION try_storage, embedding_of, search_expanded;
