--
-- Rows of a LIMIT are in the order of their distances, also for the query around it.
-- Distances are few here, so that groups and ranks show whether they are, and lists
-- join in later, from the twentieth row on.
--
CREATE TABLE items AS
SELECT i AS id, (SELECT array_agg(((hashint8(i * 100 + j) % 4 + 4) % 4)::real) FROM generate_series(1, 16) j) AS embedding
FROM generate_series(1, 30000) i;
SET max_parallel_workers_per_gather = 0;
CREATE INDEX items_index ON items USING ivfpq (embedding);
ANALYZE items;
\set query '''{1,1,1,1,2,2,2,2,0,0,0,0,3,3,3,3}'''
\set nearest 'SELECT id, embedding <-> ' :query ' AS d FROM items ORDER BY embedding <-> ' :query ' LIMIT 1500'

-- As it comes, it is not
CREATE FUNCTION out_of_order(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	distance float8;
	last_distance float8 := 0;
	found bigint := 0;
BEGIN
	FOR distance IN EXECUTE query LOOP
		found := found + (distance < last_distance)::int;
		last_distance := distance;
	END LOOP;
	RETURN found;
END $$;
CREATE FUNCTION total_cost(query text) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	RETURN plan -> 0 -> 'Plan' ->> 'Total Cost';
END $$;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT out_of_order('SELECT embedding <-> ' || quote_literal(:query) || ' AS d FROM items ORDER BY d') > 0 AS without_limit,
	   out_of_order('SELECT embedding <-> ' || quote_literal(:query) || ' AS d FROM items ORDER BY d LIMIT 1500') AS with_limit,
	   out_of_order('SELECT embedding <-> ' || quote_literal(:query) || ' AS d FROM items WHERE id % 7 = 0 ORDER BY d LIMIT 15') AS with_filter,
	   out_of_order('SELECT embedding <-> ' || quote_literal(:query) || ' AS d FROM items ORDER BY d FETCH FIRST 1500 ROWS WITH TIES') AS with_ties,
	   out_of_order('SELECT embedding <-> ' || quote_literal(:query) || ' AS d FROM items ORDER BY d LIMIT 100 OFFSET 1000') AS with_offset,
	   out_of_order('SELECT d FROM (SELECT embedding <-> ' || quote_literal(:query) || ' AS d FROM items ORDER BY d OFFSET 0) s ORDER BY d') AS around_no_limit;
SELECT total_cost('SELECT id FROM items ORDER BY embedding <-> ' || quote_literal(:query) || ' LIMIT 10') < 1e9 AS is_cheap;
RESET enable_sort;
EXPLAIN (COSTS off) :nearest;
EXPLAIN (COSTS off) SELECT d, count(*) FROM (:nearest) s GROUP BY d;

-- Ranks of the nearest rows, as hybrid searches want them, are ranks of these in order
WITH found AS MATERIALIZED (
	SELECT embedding <-> :query AS d, rank() OVER (ORDER BY embedding <-> :query) AS r,
		   row_number() OVER (ORDER BY embedding <-> :query) AS n
	FROM items ORDER BY embedding <-> :query LIMIT 1500)
SELECT count(*) AS rows, count(*) FILTER (WHERE r <> true_r) AS wrong_ranks, count(*) FILTER (WHERE d < d_before) AS wrong_numbers
FROM (SELECT r, d, rank() OVER (ORDER BY d) AS true_r, lag(d) OVER (ORDER BY n) AS d_before FROM found) s;

SELECT count(*) AS rows, count(*) FILTER (WHERE d < d_before) AS wrong_numbers
FROM (SELECT d, lag(d) OVER (ORDER BY n) AS d_before
	  FROM (SELECT embedding <-> :query AS d, row_number() OVER (ORDER BY embedding <-> :query) AS n FROM items LIMIT 1500) s) s;

-- So they are where the query is in the order of the ranks themselves
SELECT count(*) AS rows, min(n), max(n), count(*) FILTER (WHERE d < d_before) AS wrong_numbers, count(*) FILTER (WHERE n <= n_before) AS wrong_order
FROM (SELECT d, n, lag(d) OVER (ORDER BY n) AS d_before, lag(n) OVER () AS n_before
	  FROM (SELECT embedding <-> :query AS d, row_number() OVER (ORDER BY embedding <-> :query) AS n FROM items ORDER BY n LIMIT 1400 OFFSET 100) s) s;

-- The LIMIT may be around the query that has the ORDER BY
SELECT out_of_order('SELECT d FROM (SELECT embedding <-> ' || quote_literal(:query) || ' AS d FROM items ORDER BY d) s LIMIT 1500') AS limit_around,
	   out_of_order('SELECT d FROM (SELECT embedding <-> ' || quote_literal(:query) || ' AS d FROM items ORDER BY d, id) s LIMIT 1500') AS with_second_key;
CREATE FUNCTION neighbours() RETURNS SETOF float8 STABLE LANGUAGE sql AS $$
	SELECT embedding <-> '{1,1,1,1,2,2,2,2,0,0,0,0,3,3,3,3}' FROM items ORDER BY 1 $$;
SELECT out_of_order('SELECT n FROM neighbours() n LIMIT 1500') AS limit_of_function;
CREATE FUNCTION page(rows bigint, first bigint) RETURNS SETOF float8 STABLE LANGUAGE sql AS $$
	SELECT n FROM neighbours() n LIMIT rows OFFSET first $$;
SELECT out_of_order('SELECT d FROM page(1500, 20) WITH ORDINALITY f(d, n) ORDER BY n') AS page_of_function, (SELECT count(*) FROM page(15, 20)) AS rows,
	   (SELECT count(*) FROM page(15, NULL)) AS no_offset, (SELECT count(*) FROM page(NULL, 20)) AS no_limit,
	   (SELECT count(*) FROM page(9223372036854775807, 9223372036854775807)) AS beyond, (SELECT count(*) FROM page(0, 5)) AS none;
SELECT * FROM page(-1, 1);
SELECT * FROM page(1, -1);
PREPARE around (int) AS SELECT n FROM neighbours() n LIMIT $1;
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS off) EXECUTE around (100);
RESET plan_cache_mode;
CREATE FUNCTION plan_of_subquery() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXPLAIN (COSTS off) SELECT m, (SELECT max(n) FROM (SELECT n FROM neighbours() n LIMIT m) s) FROM generate_series(1, 3) m LOOP
		-- versions name it differently
		IF line !~ 'SubPlan' THEN RETURN NEXT line; END IF;
	END LOOP;
END $$;
SELECT * FROM plan_of_subquery();
DROP FUNCTION plan_of_subquery;
DEALLOCATE around;
DROP FUNCTION neighbours;

-- Other windows look at all rows, which an index may not find
SELECT DISTINCT n = (SELECT count(*) FROM items) AS all_rows
FROM (SELECT count(*) OVER () AS n FROM items ORDER BY embedding <-> :query LIMIT 10) s;
SELECT bool_and(n = (SELECT count(*) FROM items WHERE (embedding <-> :query) + 0 = d)) AS all_of_each_distance
FROM (SELECT embedding <-> :query AS d, count(*) OVER (PARTITION BY embedding <-> :query) AS n FROM items
	  ORDER BY embedding <-> :query LIMIT 200) s;

-- Groups, ranks, joins around it
SELECT count(*) = count(DISTINCT d) AS groups FROM (SELECT d, count(*) FROM (:nearest) s GROUP BY d) g;
SELECT count(*) = count(DISTINCT d) AS distinct_rows FROM (SELECT DISTINCT d FROM (:nearest) s OFFSET 0) g;
SELECT count(DISTINCT r) = count(DISTINCT d) AS ranks FROM (SELECT d, rank() OVER (ORDER BY d) AS r FROM (:nearest) s) g;
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT count(*) >= 1500 AS merge_join FROM (:nearest) a JOIN (:nearest) b USING (d);
RESET enable_hashjoin;
RESET enable_nestloop;
WITH found AS MATERIALIZED (:nearest)
SELECT count(*) = count(DISTINCT d) AS groups_of_cte FROM (SELECT d, count(*) FROM found GROUP BY d) g;

-- The nearest of two searches together
EXPLAIN (COSTS off) (:nearest) UNION ALL (:nearest) ORDER BY d LIMIT 5;

-- Partitions are merged in their order, even where nobody is told of it
CREATE TABLE parts (id int, embedding real[]) PARTITION BY HASH (id);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parts SELECT id, embedding FROM items WHERE id <= 600;
CREATE INDEX parts_index ON parts USING ivfpq (embedding);
ANALYZE parts;
EXPLAIN (COSTS off) SELECT d FROM (SELECT embedding <-> :query AS d FROM parts ORDER BY d) s LIMIT 20;
SELECT max(d) = (SELECT (array_agg((embedding <-> :query) + 0 ORDER BY (embedding <-> :query) + 0))[20] FROM parts) AS nearest_of_both
FROM (SELECT d FROM (SELECT embedding <-> :query AS d FROM parts ORDER BY d) s LIMIT 20) s;
DROP TABLE parts;

-- A prepared statement does not know its LIMIT
PREPARE nearest (int) AS SELECT embedding <-> :query AS d FROM items ORDER BY d LIMIT $1;
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS off) EXECUTE nearest (100);

-- Not distances in an outer join: it may be a merge join
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT count(*), count(s.d) FROM (
	SELECT a.id, b.d FROM items a LEFT JOIN (SELECT DISTINCT (embedding <-> :query) + 0 AS d FROM items) b ON (a.embedding <-> :query) = b.d
	ORDER BY a.embedding <-> :query LIMIT 2000) s;
RESET enable_hashjoin;
RESET enable_nestloop;

-- Rows that are locked come as they are found: a cursor is at the row that was locked last
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> :query LIMIT 3 FOR UPDATE;
CREATE FUNCTION wrong_rows(query text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	c refcursor;
	found int;
	updated int;
	wrong int := 0;
BEGIN
	OPEN c FOR EXECUTE query;
	FOR i IN 1 .. 5 LOOP
		FETCH c INTO found;
		UPDATE items SET embedding = embedding WHERE CURRENT OF c RETURNING id INTO updated;
		wrong := wrong + (found IS DISTINCT FROM updated)::int;
	END LOOP;
	RETURN wrong;
END $$;
CREATE VIEW near_first AS SELECT id FROM items ORDER BY embedding <-> :query;
BEGIN;
SELECT wrong_rows('SELECT id FROM items ORDER BY embedding <-> ' || quote_literal(:query) || ' LIMIT 5 FOR UPDATE') AS wrong_rows,
	   wrong_rows('SELECT id FROM near_first LIMIT 5 FOR UPDATE') AS of_view,
	   wrong_rows('SELECT id FROM (SELECT id FROM items ORDER BY embedding <-> ' || quote_literal(:query) || ' FOR UPDATE) s LIMIT 5') AS of_subquery;
ROLLBACK;
DROP VIEW near_first;
DROP FUNCTION wrong_rows;

-- What the server computes after a sort is computed after this one
CREATE TEMP SEQUENCE numbers;
SELECT count(*) AS rows, count(*) FILTER (WHERE d < d_before) AS wrong_numbers
FROM (SELECT d, lag(d) OVER (ORDER BY n) AS d_before
	  FROM (SELECT nextval('numbers') AS n, embedding <-> :query AS d FROM items ORDER BY d LIMIT 1500) s) s;
SELECT count(*) AS rows, count(*) FILTER (WHERE d < d_before) AS wrong_numbers
FROM (SELECT d, lag(d) OVER (ORDER BY n) AS d_before
	  FROM (SELECT * FROM (SELECT nextval('numbers') AS n, embedding <-> :query AS d FROM items ORDER BY d) s LIMIT 1500) s) s;
SELECT nextval('numbers') AS numbers_taken;
EXPLAIN (COSTS off) SELECT nextval('numbers'), id FROM items ORDER BY embedding <-> :query LIMIT 3;

-- Rows that a function has made of one row stay together, and in their order
SELECT count(*) AS rows, count(*) FILTER (WHERE s <> 1 AND (id, s - 1) IS DISTINCT FROM (id_before, s_before)) AS apart
FROM (SELECT id, s, lag(id) OVER w AS id_before, lag(s) OVER w AS s_before
	  FROM (SELECT row_number() OVER () AS n, id, s FROM
			(SELECT id, generate_series(1, 5) AS s FROM items ORDER BY embedding <-> :query LIMIT 1500) t) t WINDOW w AS (ORDER BY n)) t;

-- Whatever is between the LIMIT and the search
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
CREATE TABLE parts (id int, embedding real[]) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (1001);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (1001) TO (2001);
INSERT INTO parts SELECT * FROM items WHERE id <= 2000;
CREATE INDEX ON parts USING ivfpq (embedding);
CREATE TABLE names AS SELECT id FROM items;
CREATE INDEX ON names (id);
ANALYZE parts, names;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT what, shape(replace(query, '$', 'embedding <-> ' || quote_literal(:query)))
FROM (VALUES ('partitions', 'SELECT id FROM parts ORDER BY $ LIMIT 5'),
			 ('one partition', 'SELECT id FROM parts WHERE id > 1500 ORDER BY $ LIMIT 5'),
			 ('join', 'SELECT i.id FROM items i JOIN names n USING (id) ORDER BY $ LIMIT 5'),
			 ('rows of sets', 'SELECT id, generate_series(1, 2) FROM items ORDER BY $ LIMIT 5'),
			 ('ranks', 'SELECT id, rank() OVER (ORDER BY $) FROM items ORDER BY $ LIMIT 5'),
			 ('ranks of a page', 'SELECT id, rank() OVER (ORDER BY $) + 1 FROM items ORDER BY $ LIMIT 5 OFFSET 10'),
			 ('ranks alone', 'SELECT row_number() OVER (ORDER BY $) FROM items LIMIT 5'),
			 ('by rank', 'SELECT id, rank() OVER (ORDER BY $) AS r FROM items ORDER BY r LIMIT 5'),
			 ('by number and id', 'SELECT id, row_number() OVER (ORDER BY $) AS n FROM items ORDER BY n, id LIMIT 5 OFFSET 5'),
			 ('LIMIT around it', 'SELECT id FROM (SELECT id FROM items ORDER BY $) s LIMIT 5'),
			 ('page of it', 'SELECT id + 1 FROM (SELECT id FROM items ORDER BY $) s LIMIT 5 OFFSET 5'),
			 ('filter around it', 'SELECT id FROM (SELECT id, $ AS d FROM items ORDER BY $) s WHERE d < 5 LIMIT 5'),
			 ('subquery', 'SELECT id FROM (SELECT id FROM items ORDER BY $ LIMIT 50) s WHERE id % 2 = 0 LIMIT 5')) q (what, query);

-- Not without a LIMIT, nor an order that was asked for; and ranks of all rows want the true one
SELECT what, shape(replace(query, '$', 'embedding <-> ' || quote_literal(:query)))
FROM (VALUES ('offset', 'SELECT id FROM items ORDER BY $ OFFSET 10'),
			 ('no order', 'SELECT id FROM (SELECT id FROM items ORDER BY $ OFFSET 0) s LIMIT 5'),
			 ('ranks', 'SELECT id, rank() OVER (ORDER BY $) FROM items ORDER BY $'),
			 ('total', 'SELECT id, count(*) OVER () FROM items ORDER BY $ LIMIT 5'),
			 ('by last rank', 'SELECT id, rank() OVER (ORDER BY $) AS r FROM items ORDER BY r DESC LIMIT 5'),
			 ('by rank and id', 'SELECT id, rank() OVER (ORDER BY $) AS r FROM items ORDER BY r, id LIMIT 5'),
			 ('by rank of others', 'SELECT id, rank() OVER (ORDER BY $), row_number() OVER (ORDER BY id) AS n FROM items ORDER BY n LIMIT 5'),
			 ('ranks of groups', 'SELECT id, rank() OVER (PARTITION BY id % 2 ORDER BY $) FROM items ORDER BY $ LIMIT 5'),
			 ('ranks and count', 'SELECT id, rank() OVER (ORDER BY $), count(*) OVER () FROM items ORDER BY $ LIMIT 5')) q (what, query);
RESET enable_hashjoin;
RESET enable_mergejoin;

-- What is dear is computed after the sort, from what the search gives; also if an OFFSET is in between
CREATE FUNCTION dear(id int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN -id; END $$;
CREATE FUNCTION sum_of(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	sum bigint;
BEGIN
	EXECUTE format('SELECT sum(s) FROM (%s) t (s)', query) INTO sum;
	RETURN sum;
END $$;
SELECT what, shape(replace(query, '$', 'embedding <-> ' || quote_literal(:query))),
	   sum_of(replace(query, '$', 'embedding <-> ' || quote_literal(:query))) = -sum_of(replace(replace(query, 'dear(', '('), '$', 'embedding <-> ' || quote_literal(:query))) AS is_right
FROM (VALUES ('two keys', 'SELECT dear FROM (SELECT dear(id) FROM items ORDER BY $, id OFFSET 10) s (dear) LIMIT 3'),
			 ('partitions', 'SELECT dear FROM (SELECT dear(id) FROM parts ORDER BY $ OFFSET 10) s (dear) LIMIT 3'),
			 ('a row to join', 'SELECT dear FROM (SELECT dear(n.id + i.id - n.id) FROM items i, names n WHERE n.id = 5 ORDER BY $ OFFSET 10) s (dear) LIMIT 3')) q (what, query);

-- A LIMIT around a window says nothing of the rows that the window looks at
SET ivfpq.nprobe = 2;
SELECT DISTINCT n = (SELECT count(*) FROM items WHERE (embedding <-> :query) + 0 < 4.5) AS all_within
FROM (SELECT count(*) OVER () AS n, id FROM (SELECT id FROM items WHERE embedding <-> :query < 4.5 ORDER BY embedding <-> :query) s LIMIT 3) s;
RESET ivfpq.nprobe;

-- A branch of UNION with an ORDER BY and LIMIT of its own is a query as any other
CREATE FUNCTION has_search(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	plan text;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	RETURN plan LIKE '%items_index%';
END $$;
SELECT has_search('(SELECT id FROM items ORDER BY embedding <-> ' || quote_literal(:query) || ' LIMIT 5) ' || operation || ' SELECT id FROM items WHERE id < 9')
FROM unnest('{UNION,UNION ALL,INTERSECT,EXCEPT}'::text[]) AS operation;
DROP FUNCTION has_search;

-- Searches of other access methods are in order
CREATE TABLE points AS SELECT point(id % 100, id / 100) AS p FROM items;
CREATE INDEX ON points USING gist (p);
ANALYZE points;
SELECT shape('SELECT p FROM points ORDER BY p <-> ''(0,0)'' LIMIT 3');
DROP TABLE parts, names, points;

DROP TABLE items;
DROP FUNCTION out_of_order, total_cost, shape, dear, sum_of;
