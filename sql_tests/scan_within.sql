--
-- A condition on the distance: a search ends where no row passes it any more, and what it
-- returns is what reading the table does
--
CREATE TABLE items AS
SELECT i AS id, i % 10 AS category,
	   (SELECT array_agg(sin(i * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j) AS embedding
FROM generate_series(1, 20000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 100, nprobe = 20);
ANALYZE items;
SET max_parallel_workers_per_gather = 0;
\set query '''{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}'''

-- What a query returns by the index and by the table, and what the search of it did
CREATE FUNCTION rows_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	rows text;
BEGIN
	EXECUTE format('SELECT string_agg(t::text, '' '') FROM (%s) t', query) INTO rows;
	RETURN coalesce(rows, '');
END $$;
CREATE FUNCTION by_table(query text) RETURNS text LANGUAGE plpgsql SET enable_indexscan = off SET enable_seqscan = on AS
	$$ BEGIN RETURN rows_of(query); END $$;
CREATE FUNCTION by_index(query text, OUT is_bounded boolean, OUT rows bigint, OUT is_right boolean, OUT few_fetched boolean)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
	line text;
	found text;
BEGIN
	is_bounded := false;
	FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
		is_bounded := is_bounded OR line ~ 'Index Cond: .*@<=';
	END LOOP;
	found := rows_of(query);
	few_fetched := candidates_reranked < 1000 FROM ivfpq_last_scan();
	is_right := found = by_table(query);
	rows := length(found) - length(replace(found, '(', ''));
END $$;

-- The search has its condition beside the filter, in which the distance is the operator's own
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT id FROM items WHERE embedding <-> :query < 0.5 ORDER BY embedding <-> :query LIMIT 100;
EXPLAIN (COSTS off) SELECT id FROM items WHERE 2 - (embedding <-> :query) > 1.5 AND category = 3
	ORDER BY :query <-> embedding LIMIT 100;
RESET enable_seqscan;

-- It has all rows within the distance that its lists have, and has not read the table for more
SET ivfpq.epsilon = 3;
SELECT format('SELECT id FROM items WHERE embedding <-> %L < $1 ORDER BY embedding <-> %L LIMIT 100', :query, :query) AS search \gset
SELECT distance, s.* FROM unnest('{-1,0,0.1,0.3,0.5,0.7}'::float8[]) distance, by_index(replace(:'search', '$1', distance::text)) s;

-- However the condition is written
SELECT format(condition, :query), s.*
FROM unnest(ARRAY['embedding <-> %L < 0.5', 'embedding <-> %L <= 0.5', '0.5 > embedding <-> %L', '%L <-> embedding < 0.5',
				  'embedding <-> %L BETWEEN 0.2 AND 0.5', 'embedding <-> %L < 0.5::real',
				  '1 - (embedding <-> %L) > 0.5', '0.5 <= 1 - (embedding <-> %L)', '(embedding <-> %L) - 1 < -0.5',
				  '1 + (embedding <-> %L) < 1.5', '(embedding <-> %L) + 1 <= 1.5', '-(embedding <-> %L) > -0.5',
				  '(embedding <-> %L) * -1 >= -0.5', '1.0 * (embedding <-> %L) < 0.5', '3 - (4 - (embedding <-> %L)) < -0.5',
				  '100 * (1 - (embedding <-> %L)) > 50', '-2 * (embedding <-> %L) > -1', 'array_l2_distance(embedding, %L::real[]) < 0.5',
				  'embedding <-> %L < 0.9 AND embedding <-> $q < 0.5', 'embedding <-> %L < (SELECT 0.5)',
				  'embedding <-> %L < 0.5 AND category <> 3', 'embedding <-> %L < ''-infinity''', '1000 * (embedding <-> %L) < 5e-324', '1 - 1000 * (embedding <-> %L) > 1.5',
				  '-1000 * (embedding <-> %L) > -1.7e308', 'embedding <-> %L < NULL']) condition,
	 by_index(replace(format('SELECT id FROM items WHERE ' || condition || ' ORDER BY embedding <-> %L LIMIT 50', :query, :query), '$q', quote_literal(:query))) s;

-- What says nothing of where to end, or not soon, is a filter as any other
SELECT format(condition, :query), s.is_bounded, s.rows, s.is_right
FROM unnest(ARRAY['embedding <-> %L > 0.5', '1 - (embedding <-> %L) < 0.5', 'embedding <-> ''{0,0,0,0,0,0,0,1}'' < 1 OR embedding <-> %L < 0.1',
				  'embedding <-> %L < category', 'embedding <-> %L < 0.5 + random() * 0', '1e9 - (embedding <-> %L) > 1e9 - 1',
				  '(embedding <-> %L) / 2 < 0.25', 'embedding <#> %L < 100', 'embedding <-> %L = 100']) condition,
	 by_index(format('SELECT id FROM items WHERE ' || condition || ' ORDER BY embedding <-> %L LIMIT 5', :query, :query)) s;
SELECT condition, s.* FROM unnest('{''NaN'',''infinity'',100}'::text[]) condition,
	by_index(replace(:'search', '$1', condition)) s;

-- A row at just that distance
SELECT comparison, s.*
FROM (SELECT embedding <-> :query AS d FROM items ORDER BY d OFFSET 4 LIMIT 1) fifth, unnest('{<,<=}'::text[]) comparison,
	by_index(format('SELECT id FROM items WHERE embedding <-> %L %s %L::float8 ORDER BY embedding <-> %L LIMIT 50', :query, comparison, d, :query)) s;

-- Without a LIMIT all such rows are wanted, in whatever list they are
SELECT s.is_bounded, s.is_right FROM by_index(format('SELECT id FROM items WHERE embedding <-> %L < 0.5 ORDER BY embedding <-> %L', :query, :query)) s;

-- Around it: OFFSET, subqueries, ranks, locks, joins, other parameters
SELECT query, s.*
FROM unnest(ARRAY[
	'SELECT id FROM items WHERE embedding <-> $q < 0.5 ORDER BY embedding <-> $q OFFSET 2 LIMIT 50',
	'SELECT * FROM (SELECT id, embedding <-> $q AS d FROM items) s WHERE d < 0.5 ORDER BY d LIMIT 50',
	'SELECT * FROM (SELECT id FROM items WHERE embedding <-> $q < 0.5 ORDER BY embedding <-> $q) s LIMIT 50',
	'SELECT id, rank() OVER (ORDER BY embedding <-> $q) FROM items WHERE embedding <-> $q < 0.5 ORDER BY embedding <-> $q LIMIT 50',
	'SELECT id, generate_series(1, 2) FROM items WHERE embedding <-> $q < 0.5 ORDER BY embedding <-> $q LIMIT 50',
	'SELECT id FROM items WHERE embedding <-> $q < 0.5 ORDER BY embedding <-> $q FETCH FIRST 50 ROWS WITH TIES',
	'SELECT id, c FROM items JOIN (VALUES (3, ''three''), (4, ''four'')) v (category, c) USING (category) WHERE embedding <-> $q < 0.5 ORDER BY embedding <-> $q LIMIT 50',
	'SELECT r, id FROM (VALUES (0.3), (0.4), (0.5), (NULL), (-1)) v (r), LATERAL (SELECT id FROM items WHERE embedding <-> $q < r ORDER BY embedding <-> $q LIMIT 50) s']) query,
	by_index(replace(query, '$q', quote_literal(:query))) s;
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT id FROM items WHERE embedding <-> :query < 0.5 ORDER BY embedding <-> :query LIMIT 50 FOR UPDATE;
PREPARE within (real[], float8) AS SELECT count(*) FROM (SELECT FROM items WHERE embedding <-> $1 < $2 ORDER BY embedding <-> $1 LIMIT 50) s;
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS off) EXECUTE within (:query, 0.5);
EXECUTE within (:query, 0.5);
EXECUTE within (:query, 0.3);
EXECUTE within (:query, NULL);
EXECUTE within (NULL, 0.5);
RESET plan_cache_mode;
RESET enable_seqscan;

-- Also where what has been fetched is more than work_mem holds
SET ivfpq.epsilon = 100;
SET work_mem = '64kB';
SELECT distance, s.is_bounded, s.rows, s.is_right FROM unnest('{0.1,0.3,0.5}'::float8[]) distance, by_index(replace(:'search', '$1', distance::text)) s;
RESET work_mem;
SET ivfpq.epsilon = 3;

-- Where more rows pass than the first lists have, it goes on to further ones
SET enable_seqscan = off;
SELECT count(*) FROM (SELECT FROM items WHERE embedding <-> :query < 100 ORDER BY embedding <-> :query LIMIT 19000) s;
RESET enable_seqscan;

-- Partitions, each with its own search
CREATE TABLE parts (LIKE items) PARTITION BY LIST (category);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (0, 1, 2, 3, 4);
CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT * FROM items;
CREATE INDEX ON parts USING ivfpq (embedding) WITH (lists = 50, nprobe = 15);
ANALYZE parts;
SELECT s.* FROM by_index(replace(replace(:'search', 'items', 'parts'), '$1', '0.5')) s;
DROP TABLE parts;

-- Other distances, of which those of inner products may be negative
DROP INDEX items_index;
CREATE INDEX ON items USING ivfpq (embedding array_ip_ops) WITH (lists = 100, nprobe = 50);
CREATE INDEX ON items USING ivfpq (embedding array_cosine_ops) WITH (lists = 100, nprobe = 50);
SELECT condition, s.*
FROM unnest(ARRAY['<#> $q < -2.5', '<#> $q < -100', '<=> $q < 0.1', '<=> $q < -0.5', '<=> $q <= 0']) condition,
	by_index(replace(format('SELECT id FROM items WHERE embedding %s ORDER BY embedding %s LIMIT 100', condition, substr(condition, 1, 6)), '$q', quote_literal(:query))) s;
SELECT s.* FROM by_index(replace('SELECT id, 1 - (embedding <=> $q) AS similarity FROM items WHERE 1 - (embedding <=> $q) > 0.9 ORDER BY similarity DESC LIMIT 100',
	'$q', quote_literal(:query))) s;

-- A table of few rows has an index without codes
CREATE TABLE few AS SELECT * FROM items WHERE id <= 100;
CREATE INDEX ON few USING ivfpq (embedding);
SELECT s.is_bounded, s.is_right FROM by_index(replace(replace(:'search', 'items', 'few'), '$1', '1.2')) s;

-- Who may use distances need not be allowed what stands behind it
CREATE ROLE regress_vqpg_reader;
GRANT SELECT ON few TO regress_vqpg_reader;
REVOKE EXECUTE ON FUNCTION ivfpq_may_be_within(real[], float8) FROM PUBLIC;
SET enable_seqscan = off;
SET plan_cache_mode = force_generic_plan;
PREPARE by_role (float8) AS SELECT count(*) FROM (SELECT id FROM few WHERE embedding <-> :query < $1 ORDER BY embedding <-> :query LIMIT 100) s;
EXECUTE by_role (3);
SET ROLE regress_vqpg_reader;
EXECUTE by_role (3);
RESET plan_cache_mode;
DEALLOCATE by_role;
SELECT count(*) FROM (SELECT id FROM few WHERE embedding <-> :query < 3 ORDER BY embedding <-> :query LIMIT 100) s;
RESET enable_seqscan;
RESET ROLE;
GRANT EXECUTE ON FUNCTION ivfpq_may_be_within(real[], float8) TO PUBLIC;
DROP OWNED BY regress_vqpg_reader;
DROP ROLE regress_vqpg_reader;

-- The operator of the plan is of no use to others: it is true of all rows, and orders none
SELECT bool_and(embedding @<= 0) FROM few;
SELECT s.is_bounded, s.rows, s.is_right FROM by_index('SELECT id FROM few WHERE embedding @<= 0') s;
SET enable_seqscan = off;
SELECT count(*) FROM (SELECT id FROM few WHERE embedding @<= 0 ORDER BY embedding <-> :query LIMIT 10) s;
RESET enable_seqscan;

DROP TABLE items, few;
DROP FUNCTION by_index, by_table, rows_of;
