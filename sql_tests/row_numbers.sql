--
-- WHERE n <= 10, with n the row_number() of a subquery in the order of a distance: the first
-- rows of a search, as with a LIMIT, and numbered in the order of their distances.  These are few,
-- so that ranks show whether they are, and lists join in later, from the twentieth row on.
--
CREATE TABLE items AS
SELECT i AS id, i % 7 AS kind,
	   (SELECT array_agg(((hashint8(i * 100 + j) % 4 + 4) % 4)::real) FROM generate_series(1, 16) j) AS embedding
FROM generate_series(1, 30000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding);
ANALYZE items;
\set distance 'embedding <-> ''{1,1,1,1,2,2,2,2,0,0,0,0,3,3,3,3}'''
\set numbered '(SELECT id, kind, ' :distance ' AS d, row_number() OVER (ORDER BY ' :distance ') AS n, rank() OVER (ORDER BY ' :distance ') AS r FROM items)'
CREATE FUNCTION plan_has(query text, what text DEFAULT 'items_index') RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	plan text;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	RETURN position(what IN plan) > 0;
END $$;

-- The nodes of a plan, first inputs only; EXPLAIN itself shows windows in ways of its version
CREATE FUNCTION shape(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	plan json;
	nodes text;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	plan := plan -> 0 -> 'Plan';
	WHILE plan IS NOT NULL LOOP
		nodes := concat_ws(' of ', nodes, plan ->> 'Node Type');
		plan := plan -> 'Plans' -> 0;
	END LOOP;
	RETURN nodes;
END $$;

SELECT shape(format('SELECT id, n FROM (SELECT id, row_number() OVER (ORDER BY %s) AS n FROM items) s WHERE n <= 10', :'distance'));
SELECT n, r, d FROM :numbered s WHERE n <= 5 ORDER BY n;

-- As many rows as are said, in order
SELECT count(*), min(n), max(n), count(*) FILTER (WHERE d < d_before) AS wrong_numbers, count(*) FILTER (WHERE r <> true_r) AS wrong_ranks
FROM (SELECT n, r, d, lag(d) OVER (ORDER BY n) AS d_before, rank() OVER (ORDER BY d) AS true_r FROM :numbered s WHERE n <= 1500) s;
SELECT kind, count(*) > 0 AS found, max(n) <= 100 AS numbered FROM :numbered s WHERE n <= 100 AND kind > 4 GROUP BY kind ORDER BY kind;

-- What says it, and what does not
SELECT condition, plan_has(format('SELECT id FROM (SELECT id, kind, row_number() OVER w AS n, rank() OVER w AS r FROM items WINDOW w AS (ORDER BY %s)) s WHERE %s',
									:'distance', condition)) AS by_index
FROM unnest('{n <= 10,n < 10,10 >= n,10 > n,n = 10,n BETWEEN 5 AND 10,n <= 10::smallint,n <= 10::bigint,n <= 10 AND kind = 3,n <= 10 AND n <= 5,r <= 10 AND n <= 5,
			  n > 10,n <> 10,r <= 10,n <= kind,n <= 10.5,n <= 10 OR kind = 3,n + 1 <= 10,n <= (SELECT 10),n <= random() * 10}'::text[]) WITH ORDINALITY c (condition, i)
ORDER BY i;

-- Of which windows
SELECT what, plan_has(format('SELECT * FROM (%s) s WHERE n <= 10', replace(query, '$', :'distance'))) AS by_index
FROM (VALUES (1, 'alone', 'SELECT row_number() OVER (ORDER BY $) AS n FROM items'),
			 (2, 'by number', 'SELECT id, row_number() OVER (ORDER BY $) AS n FROM items ORDER BY n'),
			 (3, 'by distance', 'SELECT id, row_number() OVER (ORDER BY $) AS n FROM items ORDER BY $'),
			 (4, 'computed', 'SELECT id + 1, 1 - ($), row_number() OVER (ORDER BY $) AS n FROM items WHERE kind < 6'),
			 (5, 'second key', 'SELECT id, row_number() OVER (ORDER BY $, id) AS n FROM items'),
			 (6, 'by id', 'SELECT id, row_number() OVER (ORDER BY $) AS n FROM items ORDER BY id'),
			 (7, 'of groups', 'SELECT id, row_number() OVER (PARTITION BY kind ORDER BY $) AS n FROM items'),
			 (8, 'of another order', 'SELECT id, row_number() OVER (ORDER BY id) AS n, rank() OVER (ORDER BY $) FROM items'),
			 (9, 'and total', 'SELECT id, row_number() OVER (ORDER BY $) AS n, count(*) OVER (ORDER BY $) FROM items'),
			 (10, 'and sets', 'SELECT generate_series(1, 2), row_number() OVER (ORDER BY $) AS n FROM items'),
			 (11, 'of groups of rows', 'SELECT id, row_number() OVER (ORDER BY $) AS n FROM items GROUP BY id, embedding')) q (i, what, query)
ORDER BY i;
SET enable_seqscan = off;
SELECT plan_has(format('SELECT n FROM (SELECT id, row_number() OVER (ORDER BY %s) AS n FROM items ORDER BY id) s WHERE n <= 10', :'distance')) AS whatever_is_disabled;
RESET enable_seqscan;

-- Numbers that are known later: none, NULL and less than none
PREPARE numbered (int) AS SELECT count(*) FROM :numbered s WHERE n <= $1;
SET plan_cache_mode = force_generic_plan;
SELECT shape('EXECUTE numbered (10)');
EXECUTE numbered (10);
EXECUTE numbered (0);
EXECUTE numbered (NULL);
EXECUTE numbered (-1);
RESET plan_cache_mode;
EXECUTE numbered (2147483647);
DEALLOCATE numbered;

-- A threshold beside it ends the search
SELECT plan_has(format('SELECT id FROM (SELECT id, row_number() OVER (ORDER BY %1$s) AS n FROM items WHERE %1$s < 3) s WHERE n <= 10', :'distance'),
				'"Index Cond": "(embedding @<= ') AS ends_search;
SELECT count(*), max(d) < 3 AS within FROM (SELECT :distance AS d, row_number() OVER (ORDER BY :distance) AS n FROM items WHERE :distance < 3) s WHERE n <= 1500;

-- Hybrid search: ranks of two kinds, put together
SELECT plan_has(format('WITH near AS (SELECT id, row_number() OVER (ORDER BY %s) AS n FROM items), new AS (SELECT id, row_number() OVER (ORDER BY id DESC) AS n FROM items)
	SELECT id, coalesce(1.0 / (60 + near.n), 0) + coalesce(1.0 / (60 + new.n), 0) AS score
	FROM (SELECT * FROM near WHERE n <= 20) near FULL JOIN (SELECT * FROM new WHERE n <= 20) new USING (id)
	ORDER BY score DESC LIMIT 10', :'distance'));

-- For each row of another table
SELECT q.id, (SELECT array_agg(i.id ORDER BY n) FROM (SELECT id, row_number() OVER (ORDER BY embedding <-> q.embedding) AS n FROM items) i WHERE n <= 1)
FROM items q WHERE id <= 3 ORDER BY id;

-- Partitions, which parallel workers could read
CREATE TABLE parts (id int, embedding real[]) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (10001);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10001) TO (30001);
INSERT INTO parts SELECT id, embedding FROM items;
CREATE INDEX ON parts USING ivfpq (embedding);
ANALYZE parts;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT shape(format('SELECT id FROM (SELECT id, row_number() OVER (ORDER BY %s) AS n FROM items) s WHERE n <= 10', :'distance'));
SELECT shape(format('SELECT id FROM (SELECT id, row_number() OVER (ORDER BY %s) AS n FROM parts) s WHERE n <= 10', :'distance'));
SELECT count(*) FROM (SELECT id, row_number() OVER (ORDER BY :distance) AS n FROM parts) s WHERE n <= 100;

DROP TABLE items, parts;
DROP FUNCTION plan_has, shape;
