--
-- Conditions of a query are tried on rows before their distances are computed, where that
-- changes nothing but the time
--
CREATE TABLE items AS
SELECT i AS id, i % 100 AS category, 'kind ' || i % 50 AS kind,
	   (SELECT array_agg(sin(i * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j) AS embedding
FROM generate_series(1, 20000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 100, nprobe = 20);
ANALYZE items;
SET max_parallel_workers_per_gather = 0;
\set query '''{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}'''

CREATE FUNCTION rows_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	rows text;
BEGIN
	EXECUTE format('SELECT string_agg(t::text, '' '') FROM (%s) t', query) INTO rows;
	RETURN coalesce(rows, '');
END $$;
CREATE FUNCTION by_table(query text) RETURNS text LANGUAGE plpgsql SET enable_indexscan = off SET enable_seqscan = on AS
	$$ BEGIN RETURN rows_of(query); END $$;

-- What a search does for the ten nearest rows with a condition, in lists enough to find what the table has.
-- are_tried: more were looked at than compared
CREATE FUNCTION search(condition text, OUT rows bigint, OUT is_right boolean, OUT are_tried boolean, OUT compared_few boolean)
LANGUAGE plpgsql SET enable_seqscan = off SET ivfpq.nprobe = 100 SET ivfpq.epsilon = 4 AS $$
DECLARE
	query text := format('SELECT id FROM items WHERE %s ORDER BY embedding <-> ''{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}'' LIMIT 10', condition);
	found text := rows_of(query);
BEGIN
	SELECT rows_filtered > 0, candidates_reranked < 200 INTO are_tried, compared_few FROM ivfpq_last_scan();
	is_right := found = by_table(query);
	rows := length(found) - length(replace(found, '(', ''));
END $$;

-- Few distances are computed, and EXPLAIN counts the rows that were discarded as ever
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT id FROM items WHERE category = 7 ORDER BY embedding <-> :query LIMIT 10;
CREATE FUNCTION removed(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off, FORMAT json) ' || query INTO plan;
	RETURN (SELECT sum(trim(value, ',')::float) FROM regexp_matches(plan::text, '"Rows Removed by Filter": (\d+(?:\.\d+)?)', 'g') m, unnest(m) value);
END $$;
SELECT removed(format('SELECT id FROM items WHERE category = 7 ORDER BY embedding <-> %L LIMIT 10', :query)) > 500 AS many;
SELECT lists_probed >= 20 AS lists, candidates_reranked < 200 AS few_compared, rows_returned = 10 AS ten, rows_filtered > 500 AS many_tried
FROM ivfpq_last_scan();
RESET enable_seqscan;

-- All that is cheap and without effects is tried
SELECT condition, s.*
FROM unnest(ARRAY['true', 'category = 7', 'category = 7 AND kind = ''kind 7''', 'kind LIKE ''%7''', 'category IN (7, 8)',
				  'category = 7 OR id < 100', 'id % 100 = 7', 'category IS NULL', 'category = (SELECT 7)', 'ctid < ''(5,1)''',
				  'tableoid = ''items''::regclass AND category = 7', 'category = 1000',
				  'embedding IS NOT NULL AND category = 7', 'embedding[1] > 0 AND category = 7']) condition, search(condition) s;

-- What is dear, has effects or is about the vector is not
CREATE FUNCTION costs_much(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql COST 100 AS $$ BEGIN RETURN $1 = 7; END $$;
CREATE FUNCTION has_effects(int) RETURNS boolean VOLATILE LANGUAGE plpgsql COST 1 AS $$ BEGIN RETURN $1 = 7; END $$;
SELECT condition, s.*
FROM unnest(ARRAY['costs_much(category)', 'has_effects(category)', 'embedding[1] > 0', 'items IS NOT NULL AND category = 7',
				  'category = 7 OR EXISTS (SELECT FROM items i WHERE i.id = items.id - 1 AND i.category = 8)',
				  'embedding <-> ''{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}'' > 0.7']) condition, search(condition) s;
SELECT condition, s.* FROM unnest(ARRAY['costs_much(category) AND kind = ''kind 7''']) condition, search(condition) s;
SET cpu_operator_cost = 0;
SELECT s.* FROM search('costs_much(category)') s;
RESET cpu_operator_cost;

-- A condition sees no row that one before it hides; a leakproof one may, but nobody is told how many passed it
CREATE TABLE secrets AS SELECT id, id % 2 = 0 AS is_hidden, category, embedding FROM items;
CREATE TABLE keys AS SELECT false AS opens;
CREATE INDEX ON secrets USING ivfpq (embedding) WITH (lists = 20, nprobe = 20);
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION tell(is_hidden boolean, category int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE COST 0.0001 AS $$
BEGIN
	IF is_hidden THEN
		RAISE EXCEPTION 'saw a hidden row';
	END IF;
	RETURN category = 7;
END $$;
CREATE ROLE regress_vqpg_reader;
GRANT SELECT ON secrets, keys TO regress_vqpg_reader;
CREATE POLICY cheap ON secrets USING (NOT is_hidden);
SET enable_seqscan = off;
SET ROLE regress_vqpg_reader;
SELECT count(*) FROM (SELECT FROM secrets WHERE tell(is_hidden, category) ORDER BY embedding <-> :query LIMIT 10) t;
SELECT rows_filtered > 0 AS are_tried FROM ivfpq_last_scan();
RESET ROLE;
ALTER POLICY cheap ON secrets USING (NOT is_hidden OR EXISTS (SELECT FROM keys WHERE opens AND secrets.id > 0));
SET ROLE regress_vqpg_reader;
SELECT count(*) FROM (SELECT FROM secrets WHERE tell(is_hidden, category) ORDER BY embedding <-> :query LIMIT 10) t;
SELECT rows_filtered > 0 AS are_tried FROM ivfpq_last_scan();
SELECT count(*) FROM (SELECT FROM secrets WHERE id = 18 AND category = 18 ORDER BY embedding <-> :query LIMIT 10) t;
SELECT * FROM ivfpq_last_scan();
SELECT count(*) FROM (SELECT FROM secrets ORDER BY embedding <-> :query LIMIT 10) t;
SELECT rows_returned > 0 AS is_told FROM ivfpq_last_scan();
SELECT count(*) FROM (SELECT FROM secrets WHERE embedding <-> :query < 0.7 ORDER BY embedding <-> :query LIMIT 1000) t;
SELECT * FROM ivfpq_last_scan();
RESET ROLE;
CREATE VIEW shown WITH (security_barrier) AS SELECT * FROM secrets WHERE costs_much(category) ORDER BY embedding <-> :query;
GRANT SELECT ON shown TO regress_vqpg_reader;
ALTER TABLE secrets DISABLE ROW LEVEL SECURITY;
SET ROLE regress_vqpg_reader;
SELECT count(*) FROM (SELECT FROM shown WHERE id = 18 AND category = 18 LIMIT 10) t;
SELECT * FROM ivfpq_last_scan();
RESET ROLE;
DROP VIEW shown;
CREATE TABLE all_secrets (LIKE secrets) PARTITION BY LIST (is_hidden);
ALTER TABLE all_secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY dear ON all_secrets USING (costs_much(category));
ALTER TABLE all_secrets ATTACH PARTITION secrets DEFAULT;
GRANT SELECT ON all_secrets TO regress_vqpg_reader;
SET ROLE regress_vqpg_reader;
SELECT count(*) FROM (SELECT FROM all_secrets WHERE id = 18 AND category = 18 ORDER BY embedding <-> :query LIMIT 10) t;
SELECT * FROM ivfpq_last_scan();
RESET ROLE;
ALTER TABLE all_secrets DETACH PARTITION secrets;
DROP TABLE all_secrets;

-- Who may call a condition's function is asked once, when the query starts
CREATE FUNCTION is_seven(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql COST 1 AS $$ BEGIN RETURN $1 = 7; END $$;
REVOKE ALL ON FUNCTION is_seven FROM PUBLIC;
BEGIN;
DECLARE nearest CURSOR FOR SELECT id FROM secrets WHERE is_seven(category) ORDER BY embedding <-> :query LIMIT 3;
SET ROLE regress_vqpg_reader;
MOVE FORWARD ALL FROM nearest;
SELECT rows_filtered > 0 AS are_tried FROM ivfpq_last_scan();
ROLLBACK;
DROP TABLE secrets, keys;
DROP ROLE regress_vqpg_reader;
DROP FUNCTION tell, is_seven;

-- Conditions of parameters, of each search of a join, of each partition, of an expression's index
CREATE TABLE parts (id int, category int, v float8[]) PARTITION BY RANGE (id);
CREATE TABLE part_a PARTITION OF parts FOR VALUES FROM (0) TO (8000);
CREATE TABLE part_b (v float8[], category int, id int);
ALTER TABLE parts ATTACH PARTITION part_b FOR VALUES FROM (8000) TO (30000);
INSERT INTO parts SELECT id, category, embedding FROM items;
CREATE INDEX ON parts USING ivfpq ((v::real[])) WITH (lists = 20, nprobe = 20);
ANALYZE parts;
SET ivfpq.nprobe = 100;
SET ivfpq.epsilon = 4;
SELECT format('SELECT id FROM parts WHERE category = 7 ORDER BY v::real[] <-> %L LIMIT 10', :query) AS search \gset
SELECT rows_of(:'search') = by_table(:'search') AS is_right, removed(:'search') > 500 AS are_tried;
SELECT format('SELECT c, id FROM generate_series(3, 9) c, LATERAL (SELECT id FROM items WHERE category = c ORDER BY embedding <-> %L LIMIT 3) n', :query) AS search \gset
SELECT rows_of(:'search') = by_table(:'search') AS is_right, removed(:'search') > 100 AS are_tried;
PREPARE nearest(int) AS SELECT string_agg(id::text, ' ') FROM (SELECT id FROM items WHERE category = $1 ORDER BY embedding <-> :query LIMIT 3) n;
SET plan_cache_mode = force_generic_plan;
EXECUTE nearest(7);
EXECUTE nearest(8);
SELECT rows_filtered > 0 AS are_tried FROM ivfpq_last_scan();
SELECT by_table(format('SELECT id FROM items WHERE category = 8 ORDER BY embedding <-> %L LIMIT 3', :query)) AS those_of_8;
RESET plan_cache_mode;
DROP TABLE parts;

-- A cursor keeps to the rows that its snapshot sees, and a search of a condition finds copies too
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM items WHERE category = 7 ORDER BY embedding <-> :query LIMIT 20;
FETCH 1 FROM c;
UPDATE items SET category = 8 WHERE category = 7;
SELECT count(*) AS none FROM (SELECT FROM items WHERE category = 7 ORDER BY embedding <-> :query LIMIT 20) t;
MOVE FORWARD ALL FROM c;
ROLLBACK;
INSERT INTO items SELECT 30000 + i, i % 300 + 1000, 'copy', :query FROM generate_series(1, 3000) i;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items WHERE category = 1007 ORDER BY embedding <-> :query LIMIT 10) t;
SELECT rows_filtered > 0 AS are_tried FROM ivfpq_last_scan();
DELETE FROM items WHERE id > 30000;
RESET enable_seqscan;
RESET ivfpq.nprobe;
RESET ivfpq.epsilon;

-- Where a condition wants a long value, which has to be fetched as the vector has, it is left to the executor
ALTER TABLE items ADD note text;
ALTER TABLE items ALTER note SET STORAGE external;
UPDATE items SET note = repeat(category::text || ' ', 2000) WHERE category < 5;
UPDATE items SET note = category WHERE category >= 5;
VACUUM ANALYZE items;
SELECT condition, s.* FROM unnest(ARRAY['note LIKE ''3%''', 'note LIKE ''7%''']) condition, search(condition) s;
SELECT rows, is_right FROM search('note = ''none''');
SELECT candidates_reranked AS long, rows_filtered AS others FROM ivfpq_last_scan();

DROP TABLE items;
DROP FUNCTION search, by_table, rows_of, removed, costs_much, has_effects;
