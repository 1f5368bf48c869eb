--
-- ORDER BY a similarity, largest first, is a search by distance, if no row without a vector is wanted before
--
CREATE TABLE items AS
SELECT i AS id, i % 10 AS category,
	   CASE WHEN i % 100 <> 0 THEN (SELECT array_agg(sin(i * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j) END AS embedding
FROM generate_series(1, 20000) i;
CREATE INDEX items_l2 ON items USING ivfpq (embedding) WITH (lists = 100, nprobe = 50);
CREATE INDEX items_ip ON items USING ivfpq (embedding array_ip_ops) WITH (lists = 100, nprobe = 50);
CREATE INDEX items_cosine ON items USING ivfpq (embedding array_cosine_ops) WITH (lists = 100, nprobe = 50);
ANALYZE items;
SET max_parallel_workers_per_gather = 0;
SET ivfpq.epsilon = 3;
\set query '''{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}'''

-- What a query's plan scans, and whether the rows are those of reading the table
CREATE FUNCTION rows_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	rows text;
BEGIN
	EXECUTE format('SELECT string_agg(t::text, '' '') FROM (%s) t', query) INTO rows;
	RETURN rows;
END $$;
CREATE FUNCTION by_table(query text) RETURNS text LANGUAGE plpgsql SET enable_indexscan = off SET enable_seqscan = on AS
	$$ BEGIN RETURN rows_of(query); END $$;
CREATE FUNCTION try(query text, OUT scans text, OUT is_right boolean) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
	line text;
BEGIN
	query := replace(query, '$q', quote_literal('{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}'));
	FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP
		scans := nullif(concat_ws(', ', scans, substring(line FROM '(?:Index|Seq|Sample) Scan .*')), '');
	END LOOP;
	is_right := rows_of(query) = by_table(query);
END $$;

SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT id, 1 - (embedding <=> :query) AS similarity FROM items
	WHERE 1 - (embedding <=> :query) > 0.8 ORDER BY similarity DESC LIMIT 5;
SELECT id, round((1 - (embedding <=> :query))::numeric, 4) AS similarity FROM items
	WHERE embedding IS NOT NULL ORDER BY 1 - (embedding <=> :query) DESC LIMIT 3;
RESET enable_seqscan;

-- However it is written
SELECT key, t.* FROM unnest(ARRAY['1 - (embedding <=> $q) DESC', '1 - ($q <=> embedding) DESC', '-(embedding <=> $q) DESC',
		'100 * (1 - (embedding <=> $q)) DESC', '(1 - (embedding <=> $q)) * 100 DESC', '(embedding <#> $q) * -1 DESC', '-1 * (embedding <#> $q) DESC',
		'-(embedding <#> $q) DESC', '1 - (embedding <-> $q) DESC NULLS LAST', '(embedding <-> $q) + 1', '2 * (embedding <-> $q) - 3',
		'embedding <-> $q NULLS FIRST', 'array_l2_distance(embedding, $q::real[])', 'array_cosine_distance($q::real[], embedding)',
		'1 - array_cosine_distance(embedding, $q::real[]) DESC', '1 - (embedding <=> $q) / 2 DESC', '0.5 * (2 - (embedding <=> $q)) DESC',
		'1 / (1 + (embedding <-> $q)) DESC', '-2 / ((embedding <-> $q) + 0.5)', '1 / (1 / (1 + (embedding <-> $q)))']) key,
	try(format('SELECT id FROM items WHERE embedding IS NOT NULL ORDER BY %s LIMIT 10', key)) t;

-- A second key for rows of equal distance
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> :query, id LIMIT 5;
RESET enable_seqscan;
SELECT key, t.* FROM unnest(ARRAY['embedding <-> $q, id', '$q <=> embedding, id DESC', '1 - (embedding <=> $q) DESC, id', '-(embedding <#> $q) DESC NULLS LAST, category, id']) key,
	try(format('SELECT id FROM items WHERE embedding IS NOT NULL ORDER BY %s LIMIT 10', key)) t;

-- What is no order by distance, or only a second one
SELECT key, t.* FROM unnest(ARRAY['1 - (embedding <=> $q)', 'embedding <=> $q DESC', 'category - (embedding <=> $q) DESC', '0.5 * (embedding <=> $q) DESC',
		'1 / (1 + (embedding <=> $q))', '1 / (10 + (embedding <#> $q)) DESC', '1 / (0 + (embedding <-> $q)) DESC', '1 / (2 - (embedding <=> $q)) DESC', '0 * (embedding <=> $q), id',
		'category, 1 - (embedding <=> $q) DESC', 'round((1 - (embedding <=> $q))::numeric, 6) DESC, id',
		'1 - (embedding <=> $q) + random() * 0 DESC', '1 - (embedding <=> embedding) DESC, id']) key,
	try(format('SELECT id FROM items WHERE embedding IS NOT NULL ORDER BY %s LIMIT 10', key)) t;

-- Rows without a vector come first in a descending order, unless the query or the table says that there are none
SELECT query, t.* FROM unnest(ARRAY['SELECT embedding FROM items ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10',
		'SELECT id FROM items WHERE category = 3 OR embedding IS NOT NULL ORDER BY 1 - (embedding <=> $q) DESC, id LIMIT 10',
		'SELECT id FROM items WHERE category = 3 ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10',
		'SELECT id FROM items ORDER BY 1 - (embedding <=> $q) DESC NULLS LAST LIMIT 10',
		'SELECT id FROM items WHERE 1 - (embedding <=> $q) > 0.5 ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10',
		'SELECT id FROM items WHERE array_length(embedding, 1) = 8 ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10']) query, try(query) t;
DELETE FROM items WHERE embedding IS NULL;
ALTER TABLE items ALTER embedding SET NOT NULL;

-- Around it: a filter, ranks, subqueries, joins, aggregates
SELECT query, t.* FROM unnest(ARRAY[
	'SELECT id FROM items ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10 OFFSET 5',
	'SELECT id FROM items WHERE category = 3 ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10',
	'SELECT id, rank() OVER (ORDER BY 1 - (embedding <=> $q) DESC) FROM items ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10',
	'SELECT * FROM (SELECT id, 1 - (embedding <=> $q) AS similarity FROM items) s ORDER BY similarity DESC LIMIT 10',
	'SELECT category, count(*) FROM (SELECT category FROM items ORDER BY 1 - (embedding <=> $q) DESC LIMIT 50) s GROUP BY category ORDER BY category',
	'SELECT max(1 - (embedding <=> $q)) FROM items',
	'SELECT n, id FROM generate_series(1, 3) n, LATERAL (SELECT id FROM items ORDER BY 1 - (embedding <=> array_fill(n::real, ARRAY[8])) DESC LIMIT 3) s']) query, try(query) t;

-- An index on an expression, and one on a part of the table
ALTER TABLE items ADD doubles float8[];
UPDATE items SET doubles = embedding;
DROP INDEX items_cosine;
CREATE INDEX items_doubles ON items USING ivfpq ((doubles::real[]) array_cosine_ops) WITH (lists = 100, nprobe = 50);
ALTER TABLE items ALTER embedding DROP NOT NULL;
CREATE INDEX items_not_null ON items USING ivfpq (embedding array_cosine_ops) WITH (lists = 100, nprobe = 50) WHERE embedding IS NOT NULL;
SELECT t.* FROM try('SELECT id FROM items WHERE embedding IS NOT NULL ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10') t;
DROP INDEX items_not_null;
ALTER TABLE items ALTER embedding SET NOT NULL;
CREATE INDEX items_part ON items USING ivfpq (embedding array_cosine_ops) WITH (lists = 50, nprobe = 30) WHERE category < 5;
SELECT query, t.* FROM unnest(ARRAY[
	'SELECT id FROM items WHERE doubles::real[] IS NOT NULL ORDER BY 1 - (doubles::real[] <=> $q) DESC LIMIT 10',
	'SELECT id FROM items ORDER BY 1 - (doubles::real[] <=> $q) DESC LIMIT 10',
	'SELECT id FROM items WHERE category = 4 ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10',
	'SELECT id FROM items WHERE category = 6 ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10',
	'SELECT id FROM items TABLESAMPLE system (100) WHERE category = 4 ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10']) query, try(query) t;

-- Partitions, merged by similarity
CREATE TABLE parts (LIKE items) PARTITION BY LIST (category);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (0, 1, 2, 3, 4);
CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT * FROM items;
CREATE INDEX ON parts USING ivfpq (embedding array_cosine_ops) WITH (lists = 50, nprobe = 25);
ANALYZE parts;
SELECT query, t.* FROM unnest(ARRAY[
	'SELECT id FROM parts ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10',
	'SELECT id FROM parts WHERE category > 4 ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10']) query, try(query) t;
ALTER TABLE parts ALTER embedding DROP NOT NULL;
SELECT query, t.* FROM unnest(ARRAY[
	'SELECT id FROM parts ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10',
	'SELECT id FROM parts WHERE 1 - (embedding <=> $q) > 0.9 ORDER BY 1 - (embedding <=> $q) DESC LIMIT 10']) query, try(query) t;

DROP TABLE items, parts;
DROP FUNCTION try, by_table, rows_of;
