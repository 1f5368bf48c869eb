--
-- Functions that look into an index
--

-- No search has been made in a session that has just begun
SELECT * FROM ivfpq_last_scan();

CREATE FUNCTION vector_of(id int) RETURNS real[] IMMUTABLE LANGUAGE sql
AS $$ SELECT array_agg(sin(id * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j $$;
CREATE TABLE items AS SELECT i AS id, vector_of(i) AS embedding FROM generate_series(1, 3000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding array_cosine_ops)
	WITH (lists = 30, m = 8, nbits = 4, rotation = none, train_rows = 2000, nprobe = 4);
CREATE TABLE few AS SELECT * FROM items WHERE id <= 20;
CREATE INDEX few_index ON few USING ivfpq (embedding);

-- ivfpq_index_info: what an index is made of
\x on
SELECT format_version > 0 AS has_version, metric, dims, lists, m, nbits, rotation, code_bytes, nprobe, rows, dead_slots, zero_vectors, train_rows, trained_on,
	   pages = pg_relation_size('items_index') / current_setting('block_size')::int AS pages_right, imbalance BETWEEN 1 AND 4 AS imbalance_right, advice
FROM ivfpq_index_info('items_index');
SELECT format_version > 0 AS has_version, metric, dims, lists, m, nbits, rotation, code_bytes, nprobe, rows, dead_slots, zero_vectors, train_rows, trained_on,
	   pages, imbalance, advice
FROM ivfpq_index_info('few_index');
\x off

-- The time of the phases of its build: sampling, clustering, training codes, encoding, writing
SELECT cardinality(build_ms) AS phases, 0 <= ALL (build_ms) AND 0 < ANY (build_ms) AS times FROM ivfpq_index_info('items_index');

-- ivfpq_list_info: its lists, which add up to it
SELECT count(*) AS lists, min(list) AS first, max(list) AS last, sum(rows) AS rows, sum(dead_slots) AS dead_slots,
	   bool_and(rows > 0 AND blocks > 0 AND pages > 0 AND pages <= blocks AND free_slots >= 0) AS all_used
FROM ivfpq_list_info('items_index');
SELECT list, blocks, pages, rows, dead_slots FROM ivfpq_list_info('few_index');

-- ivfpq_reconstruct: what the code of a row says of its vector, for a cosine
-- index of its direction
CREATE FUNCTION normalised(v real[]) RETURNS real[] IMMUTABLE LANGUAGE sql
AS $$ SELECT array_agg((x / (SELECT sqrt(sum(y * y)) FROM unnest(v) y))::real ORDER BY n) FROM unnest(v) WITH ORDINALITY u (x, n) $$;
SELECT count(r), min(cardinality(r)) AS dims, avg(r <-> normalised(embedding)) BETWEEN 0.001 AND 0.3 AS near_but_not_equal
FROM (SELECT embedding, ivfpq_reconstruct('items_index', ctid) AS r FROM items WHERE id % 100 = 0) t;
CREATE INDEX items_fine ON items USING ivfpq (embedding) WITH (m = 8, lists = 100);
SELECT avg(r <-> embedding) BETWEEN 0.001 AND 0.7 AS near_but_not_equal
FROM (SELECT embedding, ivfpq_reconstruct('items_fine', ctid) AS r FROM items WHERE id % 100 = 0) t;
INSERT INTO items VALUES (3001, vector_of(77));
SELECT ivfpq_reconstruct('items_fine', ctid) <-> vector_of(77) <= (SELECT ivfpq_reconstruct('items_fine', ctid) <-> vector_of(77) FROM items WHERE id = 77) + 0.01 AS later_row_alike
FROM items WHERE id = 3001;

-- Nothing for a row that is not there, and in an index without codes
SELECT ivfpq_reconstruct('items_index', '(9999,1)') AS no_such_row, ivfpq_reconstruct('items_index', '(0,0)') AS invalid,
	   ivfpq_reconstruct('few_index', '(0,1)') AS no_codes, ivfpq_reconstruct('items_index', NULL) AS null;

-- ivfpq_last_scan: what the last search did
SET enable_seqscan = off;
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <=> vector_of(0) LIMIT 10) t;
SELECT lists_probed, codes_scored BETWEEN 50 AND 3001 AS codes, candidates_reranked BETWEEN 10 AND codes_scored AS candidates, rows_returned FROM ivfpq_last_scan();
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <=> vector_of(0)) t;
SELECT * FROM ivfpq_last_scan();
SELECT count(*) FROM (SELECT id FROM few ORDER BY embedding <-> vector_of(0) LIMIT 5) t;
SELECT * FROM ivfpq_last_scan();

-- From 18 on EXPLAIN ANALYZE tells it of each search in a plan: of two here
CREATE FUNCTION explained(OUT lists bigint, OUT codes bigint, OUT compared bigint) LANGUAGE plpgsql AS $$
DECLARE
	plan json;
	search json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, FORMAT json) SELECT n.id FROM (VALUES (1), (2)) q (id), LATERAL
		(SELECT id FROM items ORDER BY embedding <=> vector_of(q.id) LIMIT 5) n' INTO plan;
	search := plan #> '{0,Plan}';
	WHILE search ->> 'Node Type' <> 'Index Scan' LOOP
		search := search -> 'Plans' -> (json_array_length(search -> 'Plans') - 1);
	END LOOP;
	lists := search ->> 'Lists Probed';
	codes := search ->> 'Codes Scored';
	compared := search ->> 'Rows Compared';
END $$;
SELECT coalesce(lists, -1) AS lists, coalesce(codes, -1) AS codes, coalesce(compared, -1) AS compared FROM explained() \gset
SELECT CASE WHEN current_setting('server_version_num')::int < 180000 THEN :lists + :codes + :compared = -3
	ELSE :lists = 2 * lists_probed AND :codes > codes_scored AND :compared > candidates_reranked END AS are_told
FROM ivfpq_last_scan();
DROP FUNCTION explained;
RESET enable_seqscan;

-- Advice: an index that has outgrown its lists, one that is mostly dead, one whose rows are all in one list
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(4001, 16000) i;
SELECT regexp_replace(advice, '[0-9]+', 'N', 'g') AS advice FROM ivfpq_index_info('items_index');
REINDEX INDEX items_index;
SELECT advice FROM ivfpq_index_info('items_index');
CREATE TEMP TABLE dying AS TABLE items;
CREATE INDEX dying_index ON dying USING ivfpq (embedding) WITH (lists = 10);
DELETE FROM dying WHERE id > 1000;
VACUUM dying;
SELECT rows, dead_slots, advice FROM ivfpq_index_info('dying_index');
SELECT sum(rows) AS rows, sum(dead_slots) AS dead_slots FROM ivfpq_list_info('dying_index');
CREATE TEMP TABLE crowded AS SELECT * FROM items WHERE id <= 1000;
CREATE INDEX crowded_index ON crowded USING ivfpq (embedding) WITH (lists = 30);
INSERT INTO crowded SELECT i, vector_of(7) FROM generate_series(1001, 4000) i;
SELECT imbalance BETWEEN 10 AND 30 AS is_large, regexp_replace(advice, '[0-9.]+ times', 'N times') AS advice FROM ivfpq_index_info('crowded_index');

-- VACUUM says when an index has not been trained and should be, but not of one that has few rows itself
CREATE TABLE grown (id int, embedding real[]) WITH (autovacuum_enabled = off);
CREATE INDEX grown_index ON grown USING ivfpq (embedding) WITH (autoreindex = off);
CREATE INDEX grown_few ON grown USING ivfpq (embedding) WHERE id <= 100;
INSERT INTO grown SELECT i, ARRAY[sin(i), cos(i)] FROM generate_series(1, 9000) i;
VACUUM grown;
INSERT INTO grown SELECT i, ARRAY[sin(i), cos(i)] FROM generate_series(9001, 12000) i;
ANALYZE grown;
VACUUM grown;
-- also where nobody has counted its rows, and VACUUM skips all pages: after COPY FREEZE, and from PostgreSQL 19 on after they were read
UPDATE pg_class SET reltuples = -1 WHERE oid = 'grown'::regclass;
VACUUM grown;
REINDEX INDEX CONCURRENTLY grown_index;
VACUUM grown;
DROP TABLE grown;

-- or has many times the rows that it was trained on
CREATE TABLE grown (id int, embedding real[]) WITH (autovacuum_enabled = off);
INSERT INTO grown SELECT i, ARRAY[sin(i), cos(i)] FROM generate_series(1, 2600) i;
CREATE INDEX grown_index ON grown USING ivfpq (embedding) WITH (lists = 8, autoreindex = off);
CREATE INDEX grown_few ON grown USING ivfpq (embedding) WITH (lists = 8) WHERE id <= 640;
CREATE INDEX grown_sparse ON grown USING ivfpq (embedding) WITH (lists = 1500, autoreindex = off) WHERE id <= 1500;
INSERT INTO grown SELECT i, ARRAY[sin(i), cos(i)] FROM generate_series(2601, 10200) i;
VACUUM grown;
INSERT INTO grown SELECT i, ARRAY[sin(i), cos(i)] FROM generate_series(10201, 12000) i;
VACUUM grown;
REINDEX INDEX grown_index;
VACUUM grown;
DROP TABLE grown;

-- Only indexes of this kind are looked into
CREATE TABLE other (id int PRIMARY KEY, embedding real[]) PARTITION BY RANGE (id);
CREATE INDEX other_index ON other USING ivfpq (embedding);
CREATE VIEW seen AS SELECT * FROM items;
CREATE INDEX items_id ON items (id);
CREATE FUNCTION outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT relation, function, outcome(format('SELECT %s', format(function, relation)))
FROM unnest('{items,seen,items_id,other,other_pkey,other_index}'::text[]) WITH ORDINALITY r (relation, n),
	 unnest('{ivfpq_index_info(%L),ivfpq_list_info(%L),ivfpq_check(%L),"ivfpq_reconstruct(%L, ''(0,1)'')"}'::text[]) function
ORDER BY n, function COLLATE "C";
SELECT ivfpq_index_info('other_index');
SELECT ivfpq_check('items');
SELECT ivfpq_check(0);
SELECT ivfpq_check(NULL) AS nothing, ivfpq_index_info(NULL) AS nothing;

-- Who may look: at what a scan did and at kernels everybody, at an index who may
-- read its table, or statistics; checking and decoding have to be granted, and
-- decoding ends where policies hide rows
CREATE ROLE regress_vqpg_reader;
CREATE FUNCTION outcomes(OUT function text, OUT outcome text) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT f, outcome(format('SELECT %s', f))
	FROM unnest('{ivfpq_last_scan(),vqpg_kernels(),ivfpq_index_info(''items_index''),ivfpq_list_info(''items_index''),ivfpq_check(''items_index''),"ivfpq_reconstruct(''items_index'', ''(0,1)'')"}'::text[]) f
$$;
SET ROLE regress_vqpg_reader;
SELECT * FROM outcomes();
RESET ROLE;
GRANT pg_stat_scan_tables TO regress_vqpg_reader;
GRANT EXECUTE ON FUNCTION ivfpq_check, ivfpq_reconstruct TO regress_vqpg_reader;
SET ROLE regress_vqpg_reader;
SELECT * FROM outcomes();
RESET ROLE;
REVOKE pg_stat_scan_tables FROM regress_vqpg_reader;
GRANT SELECT ON items TO regress_vqpg_reader;
SET ROLE regress_vqpg_reader;
SELECT * FROM outcomes();
RESET ROLE;
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
SET ROLE regress_vqpg_reader;
SELECT * FROM outcomes();
RESET ROLE;
ALTER TABLE items DISABLE ROW LEVEL SECURITY;
DROP OWNED BY regress_vqpg_reader;
DROP ROLE regress_vqpg_reader;

-- Whoever checks an index runs its expressions as the owner of the table, who can leave nothing in the session
CREATE ROLE regress_vqpg_owner;
GRANT CREATE ON SCHEMA public TO regress_vqpg_owner;
CREATE FUNCTION leave_table() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE left_behind (); END $$;
CREATE FUNCTION nosy(v real[]) RETURNS real[] IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('regress_vqpg.wish', true) = 'table' THEN
		PERFORM public.leave_table();
	ELSIF current_user <> 'regress_vqpg_owner' THEN
		RAISE 'runs as somebody else';
	END IF;
	RETURN v;
END $$;
SET ROLE regress_vqpg_owner;
CREATE TABLE owned AS SELECT '{1,2}'::real[] AS embedding;
CREATE INDEX owned_index ON owned USING ivfpq (nosy(embedding));
RESET ROLE;
SELECT ivfpq_check('owned_index', true, true);
SET regress_vqpg.wish = 'table';
SELECT outcome('SELECT ivfpq_check(''owned_index'', true, true)');
RESET regress_vqpg.wish;
SELECT current_user = session_user AS is_back;
DROP TABLE owned;
DROP OWNED BY regress_vqpg_owner;
DROP ROLE regress_vqpg_owner;
DROP FUNCTION nosy, leave_table;

-- A function that has become another one: rows with other dimensions than the index has are none, and the check tells
CREATE FUNCTION cut(v real[]) RETURNS real[] IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN v[1:4]; END';
CREATE TABLE cuts AS SELECT i AS id, array_fill(i::real, '{8}') AS v FROM generate_series(1, 600) i;
CREATE INDEX cuts_index ON cuts USING ivfpq (cut(v)) WITH (lists = 1);
CREATE INDEX cuts_few ON cuts USING ivfpq (cut(v)) WHERE id <= 50;
CREATE OR REPLACE FUNCTION cut(v real[]) RETURNS real[] IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN v[1] = 7 THEN NULL ELSE v[1:2] END; END';
SET enable_seqscan = off;
SELECT count(*) FROM (SELECT FROM cuts ORDER BY public.cut(v) <-> '{1,2,3,4}' LIMIT 5) t;
SELECT count(*) FROM (SELECT FROM cuts WHERE id <= 50 ORDER BY public.cut(v) <-> '{1,2,3,4}' LIMIT 5) t;
RESET enable_seqscan;
SELECT outcome('SELECT ivfpq_check(''cuts_index'', true, true)');
DROP TABLE cuts;
DROP FUNCTION cut;

SELECT ivfpq_check('items_index', true, true), ivfpq_check('items_fine', true, true), ivfpq_check('few_index', true, true), ivfpq_check('dying_index', true, true), ivfpq_check('crowded_index', true, true);
DROP VIEW seen;
DROP TABLE items, few, dying, crowded, other;
DROP FUNCTION vector_of, normalised, outcomes, outcome;
