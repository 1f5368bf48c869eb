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

-- Rows that are locked may have changed meanwhile: the server promises no order of them
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> :query LIMIT 3 FOR UPDATE;

DROP TABLE items;
DROP FUNCTION out_of_order, total_cost;
