--
-- When the planner chooses an ivfpq index, by cost alone
--
SET enable_seqscan = on;
SET max_parallel_workers_per_gather = 0;
SET ivfpq.nprobe = 0;

-- The node under Limit that a query would use
CREATE FUNCTION chosen(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	plan := plan -> 0 -> 'Plan';
	WHILE plan ->> 'Node Type' IN ('Limit', 'Sort', 'Incremental Sort', 'Subquery Scan') LOOP
		plan := plan -> 'Plans' -> 0;
	END LOOP;
	RETURN concat_ws(' on ', plan ->> 'Node Type', plan ->> 'Index Name');
END $$;

CREATE TABLE large AS
SELECT i AS id, i % 100 AS category,
	   (SELECT array_agg(sin(i * 0.37 + j * (1 + i % 13))::real) FROM generate_series(1, 128) j) AS embedding
FROM generate_series(1, 10000) i;
CREATE TABLE small AS SELECT * FROM large WHERE id <= 300;
CREATE TABLE toasted AS
SELECT i AS id, (SELECT array_agg(sin(i * 0.37 + j * (1 + i % 13))::real) FROM generate_series(1, 1536) j) AS embedding
FROM generate_series(1, 1000) i;
-- Whether OpenBLAS is installed is no matter here
SET client_min_messages = error;
CREATE INDEX large_index ON large USING ivfpq (embedding);
CREATE INDEX small_index ON small USING ivfpq (embedding);
CREATE INDEX toasted_index ON toasted USING ivfpq (embedding);
RESET client_min_messages;
ANALYZE large, small, toasted;

-- For the nearest few rows of a large table, also one whose vectors are in its TOAST table
SELECT chosen('SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}'') LIMIT 10');
SELECT chosen('SELECT id FROM toasted ORDER BY embedding <-> array_fill(0::real, ''{1536}'') LIMIT 10');

-- Not on a small table, where reading all rows is faster
SELECT chosen('SELECT id FROM small ORDER BY embedding <-> array_fill(0::real, ''{128}'') LIMIT 10');

-- Not for all rows
SELECT chosen('SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}'')');

-- With a filter as long as it keeps enough rows; an index on what it keeps few of is better
SELECT chosen('SELECT id FROM large WHERE category < 50 ORDER BY embedding <-> array_fill(0::real, ''{128}'') LIMIT 10');
CREATE INDEX large_category ON large (category);
SELECT chosen('SELECT id FROM large WHERE id = 7 AND category = 7 ORDER BY embedding <-> array_fill(0::real, ''{128}'') LIMIT 10');
DROP INDEX large_category;

-- One that keeps few rows spares a scan of the table their vectors in its TOAST table, but not the index
CREATE TABLE toasted_large AS SELECT 10 * t.id + i AS id, t.embedding FROM toasted t, generate_series(0, 9) i;
SET client_min_messages = error;
CREATE INDEX toasted_large_index ON toasted_large USING ivfpq (embedding) WITH (lists = 200);
RESET client_min_messages;
ANALYZE toasted_large;
SELECT chosen('SELECT id FROM toasted_large ORDER BY embedding <-> array_fill(0::real, ''{1536}'') LIMIT 10'),
	   chosen('SELECT id FROM toasted_large WHERE id <= 2000 ORDER BY embedding <-> array_fill(0::real, ''{1536}'') LIMIT 10') AS many,
	   chosen('SELECT id FROM toasted_large WHERE id <= 50 ORDER BY embedding <-> array_fill(0::real, ''{1536}'') LIMIT 10') AS few;
DROP TABLE toasted_large;

-- From whatever type the query has, and from either side
SELECT type, chosen(format('SELECT id FROM large ORDER BY embedding <-> array_fill(0::%s, ''{128}'') LIMIT 10', type))
FROM unnest('{real,double precision,numeric,smallint,integer,bigint}'::text[]) AS type;
SELECT chosen('SELECT id FROM large ORDER BY array_fill(0::numeric, ''{128}'') <-> embedding LIMIT 10');

-- Never, even when nothing else is allowed, for another distance, another
-- direction, or no order at all; for the first of two distances
SET enable_seqscan = off;
SELECT chosen('SELECT id FROM large ORDER BY embedding <=> array_fill(0::real, ''{128}'') LIMIT 10');
SELECT chosen('SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}'') DESC LIMIT 10');
SELECT chosen('SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}'') NULLS FIRST LIMIT 10');
SELECT chosen('SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}''), embedding <-> array_fill(1::real, ''{128}'') LIMIT 10');
SELECT chosen('SELECT id FROM large WHERE embedding IS NOT NULL');
CREATE INDEX large_partial ON large USING ivfpq (embedding) WHERE category = 5;
SELECT chosen('SELECT id FROM large WHERE category = 5');
RESET enable_seqscan;

-- A partial index when the query implies its predicate
SELECT chosen('SELECT id FROM large WHERE category = 5 ORDER BY embedding <-> array_fill(0::real, ''{128}'') LIMIT 10');

-- One search costs less than another that reads more lists
CREATE FUNCTION cost(query text, which text) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	RETURN plan -> 0 -> 'Plan' ->> which;
END $$;
SET enable_seqscan = off;
SET ivfpq.nprobe = 1;
SELECT cost('SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}'') LIMIT 10', 'Startup Cost') AS one_list \gset
SET ivfpq.nprobe = 262144;
SELECT cost('SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}'') LIMIT 10', 'Startup Cost') AS all_lists \gset
SELECT :one_list < :all_lists AS more_lists_cost_more;
RESET ivfpq.nprobe;

-- All rows cost less where a search may not reach them
SELECT cost('SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}'') OFFSET 0', 'Total Cost') AS all_rows \gset
SET ivfpq.max_probes = 20;
SELECT cost('SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}'') OFFSET 0', 'Total Cost') < :all_rows AS few_lists;
RESET ivfpq.max_probes;
SET ivfpq.iterative_scan = off;
SELECT cost('SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}'') OFFSET 0', 'Total Cost') < :all_rows AS no_further_lists;
RESET ivfpq.iterative_scan;
RESET enable_seqscan;

-- In the inner side of a nested loop
EXPLAIN (COSTS off)
SELECT n.id FROM (SELECT * FROM small WHERE id <= 3) q, LATERAL (SELECT id FROM large ORDER BY embedding <-> q.embedding LIMIT 5) n;

-- Not where something builds on the order, which is that of the nearest rows only at first: groups,
-- DISTINCT, windows, set operations, merge joins
CREATE FUNCTION uses_index(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP
		IF line ~ 'using large_' THEN
			RETURN true;
		END IF;
	END LOOP;
	RETURN false;
END $$;
SELECT uses_index('SELECT embedding <-> array_fill(0::real, ''{128}'') d, count(*) FROM large GROUP BY 1 ORDER BY 1 LIMIT 10') AS groups,
	   uses_index('SELECT DISTINCT embedding <-> array_fill(0::real, ''{128}'') d FROM large ORDER BY 1 LIMIT 10') AS distinct_rows,
	   uses_index('SELECT id, sum(id) OVER (ORDER BY embedding <-> array_fill(0::real, ''{128}'')) FROM large LIMIT 10') AS windows,
	   uses_index('SELECT array_agg(id ORDER BY embedding <-> array_fill(0::real, ''{128}'')) FROM large') AS aggregates,
	   uses_index('SELECT embedding <-> array_fill(0::real, ''{128}'') d FROM large UNION SELECT 1 ORDER BY d LIMIT 10') AS set_operations,
	   uses_index('SELECT d FROM (SELECT embedding <-> array_fill(0::real, ''{128}'') d FROM large) l JOIN (SELECT DISTINCT 2::float8 * id d FROM small) s USING (d) ORDER BY d LIMIT 10') AS joins;

-- But in a subquery that has its own LIMIT, beside a window without an order, and for windows of the
-- rows that the query itself wants
SELECT uses_index('SELECT d, count(*) FROM (SELECT embedding <-> array_fill(0::real, ''{128}'') d FROM large ORDER BY 1 LIMIT 10) t GROUP BY d') AS inner_limit,
	   uses_index('SELECT id, count(*) OVER () FROM (SELECT id FROM large ORDER BY embedding <-> array_fill(0::real, ''{128}'') LIMIT 10) t') AS window_of_all,
	   uses_index('SELECT id, rank() OVER (ORDER BY embedding <-> array_fill(0::real, ''{128}'')) FROM large
				   ORDER BY embedding <-> array_fill(0::real, ''{128}'') LIMIT 10') AS ranks,
	   uses_index('SELECT id, rank() OVER (ORDER BY embedding <-> array_fill(0::real, ''{128}'')), rank() OVER (ORDER BY id) FROM large
				   ORDER BY embedding <-> array_fill(0::real, ''{128}'') LIMIT 10') AS ranks_of_all;

-- All rows are wanted without a LIMIT, also those without a vector, and however cheap the search is: of
-- short vectors, with a condition on an attribute, or where settings end it early
CREATE TABLE narrow AS
SELECT i AS id, i % 1000 AS part, CASE WHEN i % 100 > 0 THEN
	   array[sin(i), cos(i * 1.3), sin(i * 2.1), cos(i * 0.7), sin(i * 3.3), cos(i * 0.1), sin(i * 0.9), cos(i * 1.9)]::real[] END AS embedding
FROM generate_series(1, 20000) i;
CREATE INDEX narrow_index ON narrow USING ivfpq (embedding, part);
ANALYZE narrow;
\set nearest 'FROM narrow ORDER BY embedding <-> ''{1,1,1,1,1,1,1,1}'''
SELECT chosen('SELECT id ' || :'nearest') AS all_rows, chosen('SELECT id ' || :'nearest' || ' LIMIT 10') AS ten;
SELECT chosen('SELECT id FROM (SELECT id ' || :'nearest' || ') s LIMIT 10') AS limit_around;
SET plan_cache_mode = force_generic_plan;
PREPARE around (int) AS SELECT id FROM (SELECT id :nearest) s LIMIT $1;
SELECT chosen('EXECUTE around (10)') AS limit_of_parameter_around;
DEALLOCATE around;
RESET plan_cache_mode;
SELECT count(*) FROM (SELECT id :nearest OFFSET 0) s;
SELECT count(*) FROM narrow WHERE id NOT IN (SELECT id :nearest);
SET ivfpq.iterative_scan = off;
SELECT count(*) FROM (SELECT id :nearest OFFSET 0) s;
SELECT count(*) FROM (SELECT id FROM narrow WHERE part < 20 ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}' OFFSET 0) s;
SELECT count(*) FROM (SELECT id FROM narrow WHERE embedding <-> '{1,1,1,1,1,1,1,1}' < 10 ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}' OFFSET 0) s;
RESET ivfpq.iterative_scan;

-- Not where a filter lets through so few that a search would look at many rows, though all of them be on few pages
SELECT chosen('SELECT id FROM narrow WHERE id <= 10000 ORDER BY embedding <-> ''{1,1,1,1,1,1,1,1}'' LIMIT 10') AS every_other,
	   chosen('SELECT id FROM narrow WHERE id <= 70 ORDER BY embedding <-> ''{1,1,1,1,1,1,1,1}'' LIMIT 10') AS few;
DROP TABLE narrow;

-- The same of an index that is not trained, where all rows of a condition on an attribute cost little
CREATE TABLE untrained AS
SELECT i AS id, i % 50 AS part, CASE WHEN i % 7 > 0 THEN array[sin(i), cos(i), i]::real[] END AS embedding, repeat('x', 1200) AS body
FROM generate_series(1, 500) i;
CREATE INDEX untrained_index ON untrained USING ivfpq (embedding, part);
ANALYZE untrained;
\set nearest 'FROM untrained WHERE part = 3 ORDER BY embedding <-> ''{1,2,3}'''
SELECT chosen('SELECT id ' || :'nearest' || ' LIMIT 5') AS five;
SELECT count(*) FROM untrained WHERE id NOT IN (SELECT id :nearest);
SELECT count(*) FROM untrained WHERE id NOT IN (SELECT id FROM untrained WHERE part = 3);

-- Who disables sorting gets the search, without the rows that have no vector
SELECT count(*) FROM (SELECT id :nearest OFFSET 0) s;
SET enable_sort = off;
SELECT count(*) FROM (SELECT id :nearest OFFSET 0) s;
RESET enable_sort;
DROP TABLE untrained;

SELECT ivfpq_check('large_index'), ivfpq_check('small_index'), ivfpq_check('toasted_index');
DROP TABLE large, small, toasted;
DROP FUNCTION chosen, cost, uses_index;
