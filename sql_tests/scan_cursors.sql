--
-- Scans that stop, go on, start again and are shared: cursors, joins, prepared
-- statements
--

CREATE TABLE items AS
SELECT i AS id, (SELECT array_agg(sin(i * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j) AS embedding
FROM generate_series(1, 3000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 20, nprobe = 20);
ANALYZE items;
SET enable_seqscan = off;
SET ivfpq.epsilon = 100;
CREATE TABLE nearest AS
SELECT row_number() OVER (ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}', ctid) AS place, id FROM items;

-- The next n rows of cursor c, or of another
CREATE FUNCTION fetched(n int, c refcursor DEFAULT 'c') RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
	id int;
	ids int[] := '{}';
BEGIN
	FOR i IN 1 .. n LOOP
		FETCH c INTO id;
		EXIT WHEN NOT FOUND;
		ids := ids || id;
	END LOOP;
	RETURN ids;
END $$;

-- A cursor returns the nearest rows step by step, forward only
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}';
SELECT fetched(5) = array_agg(id ORDER BY place) AS first_5 FROM nearest WHERE place <= 5;
SELECT fetched(50) = array_agg(id ORDER BY place) AS next_50 FROM nearest WHERE place BETWEEN 6 AND 55;
MOVE 100 FROM c;
SELECT fetched(3) = array_agg(id ORDER BY place) AS after_move FROM nearest WHERE place BETWEEN 156 AND 158;
SELECT cardinality(fetched(3000)) AS all_others, fetched(1) AS after_the_end;
FETCH BACKWARD 1 FROM c;
ROLLBACK;

-- It keeps the settings that it was begun with
BEGIN;
SET LOCAL ivfpq.epsilon = 0;
DECLARE c CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}';
SELECT cardinality(fetched(1)) AS first;
SET LOCAL ivfpq.iterative_scan = strict_order;
SELECT cardinality(fetched(3000)) AS all_others;
ROLLBACK;

-- also for lists that join in, and for candidates that are scored again: others would be lost, or come twice
SET ivfpq.nprobe = 2;
BEGIN;
DECLARE a CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}';
DECLARE b CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}';
SELECT fetched(2000, 'a') AS undisturbed \gset
SELECT cardinality(fetched(1, 'b')) AS first;
SET LOCAL ivfpq.epsilon = 0;
SET LOCAL ivfpq.kernel = scalar;
SELECT :'undisturbed' ~ ('^.[0-9]+,' || ltrim(rtrim(fetched(1999, 'b')::text, '}'), '{') || '}$') AS as_undisturbed;
ROLLBACK;
RESET ivfpq.nprobe;

-- A scroll cursor goes backward as well
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}';
MOVE 10 FROM c;
MOVE BACKWARD 5 FROM c;
SELECT fetched(2) = array_agg(id ORDER BY place) AS after_backward FROM nearest WHERE place IN (6, 7);
MOVE ABSOLUTE 2999 FROM c;
SELECT cardinality(fetched(10)) AS at_the_end;
MOVE ABSOLUTE 1 FROM c;
SELECT fetched(1) = array_agg(id) AS from_the_start FROM nearest WHERE place = 2;
CLOSE c;
COMMIT;

-- A cursor neither returns rows that came after it, nor misses rows deleted after it
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}';
MOVE 1 FROM c;
INSERT INTO items SELECT -i, '{1,1,1,1,1,1,1,1}' FROM generate_series(1, 100) i;
DELETE FROM items WHERE id > 2500;
SELECT cardinality(fetched(4000)) AS rows;
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}') t;
ROLLBACK;

-- It outlives the savepoint in which it was read, and its transaction if asked to
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}' LIMIT 100;
SAVEPOINT s;
MOVE 10 FROM c;
ROLLBACK TO s;
SELECT cardinality(fetched(10)) AS rows;
COMMIT;
SELECT cardinality(fetched(100)) AS rows;
CLOSE c;

-- Two cursors on one index do not disturb each other
BEGIN;
DECLARE a CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}';
DECLARE b CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{-1,1,-1,1,-1,1,-1,1}';
MOVE 7 FROM a;
SELECT cardinality(fetched(1500, 'b')) AS rows_of_b;
SELECT fetched(3, 'a') = array_agg(id ORDER BY place) AS right_rows_of_a FROM nearest WHERE place BETWEEN 8 AND 10;
CLOSE b;
SELECT cardinality(fetched(3000, 'a')) AS rows_of_a;
COMMIT;

-- Rows are deleted through a cursor, and locked by a query
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}' FOR UPDATE;
MOVE 2 FROM c;
DELETE FROM items WHERE CURRENT OF c;
SELECT place FROM nearest WHERE id NOT IN (SELECT id FROM items);
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}' LIMIT 5 FOR UPDATE) t;
ROLLBACK;

-- The nearest rows of each row: the scan starts again with every query
EXPLAIN (COSTS off)
SELECT n.id FROM generate_series(1, 200) q, LATERAL (SELECT id FROM items ORDER BY embedding <-> array_fill(q::real, '{8}') LIMIT 3) n;
CREATE TABLE joined AS
SELECT q.id AS query, n.id FROM items q, LATERAL (SELECT id FROM items ORDER BY embedding <-> q.embedding LIMIT 3) n WHERE q.id <= 200;

-- and keeps nothing of the last one
SELECT max(bytes) < 100000 AS is_little FROM (
	SELECT CASE WHEN q = 300 THEN (SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name = 'ivfpq query') END AS bytes
	FROM generate_series(1, 300) q, LATERAL (SELECT id FROM items ORDER BY embedding <-> array_fill(q::real, '{8}') LIMIT 3) n) t;
SET enable_indexscan = off;
SET enable_seqscan = on;
SELECT count(*) AS rows, count(*) FILTER (WHERE exact) AS exact
FROM (SELECT j.id = ANY (ARRAY(SELECT id FROM items ORDER BY embedding <-> q.embedding LIMIT 3)) AS exact
	  FROM joined j JOIN items q ON q.id = query) t;
RESET enable_indexscan;
SET enable_seqscan = off;

-- Also when some of the queries are NULL
SELECT q.n, count(t.id) FROM (VALUES (1, '{1,1,1,1,1,1,1,1}'::real[]), (2, NULL), (3, '{0,1,0,1,0,1,0,1}')) q (n, v)
LEFT JOIN LATERAL (SELECT id FROM items ORDER BY embedding <-> q.v LIMIT 3) t ON true GROUP BY n ORDER BY n;

-- Nested, the same index is scanned twice at once
SELECT count(*), count(DISTINCT c) FROM
	(SELECT id, embedding FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1}' LIMIT 4) a,
	LATERAL (SELECT id, embedding FROM items ORDER BY embedding <-> a.embedding OFFSET 1 LIMIT 5) b,
	LATERAL (SELECT id AS c FROM items ORDER BY embedding <-> b.embedding LIMIT 1) c;

-- A generic plan takes its query from the parameter, of whatever type
SET plan_cache_mode = force_generic_plan;
PREPARE by_real(real[], int) AS SELECT id FROM items ORDER BY embedding <-> $1 LIMIT $2;
PREPARE by_double(double precision[]) AS SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 1;
PREPARE by_numeric(numeric[]) AS SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 1;
PREPARE by_integer(integer[]) AS SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 1;
PREPARE by_bigint(bigint[]) AS SELECT id FROM items ORDER BY $1 <-> embedding LIMIT 1;
PREPARE by_smallint(smallint[]) AS SELECT id FROM items ORDER BY $1 <-> embedding LIMIT 1;
EXPLAIN (COSTS off) EXECUTE by_real('{1,1,1,1,1,1,1,1}', 3);
EXPLAIN (COSTS off) EXECUTE by_double('{1,1,1,1,1,1,1,1}');
EXPLAIN (COSTS off) EXECUTE by_numeric('{1,1,1,1,1,1,1,1}');
EXPLAIN (COSTS off) EXECUTE by_integer('{1,1,1,1,1,1,1,1}');
EXPLAIN (COSTS off) EXECUTE by_bigint('{1,1,1,1,1,1,1,1}');
EXPLAIN (COSTS off) EXECUTE by_smallint('{1,1,1,1,1,1,1,1}');
CREATE TEMP TABLE a AS EXECUTE by_real('{1,1,1,1,1,1,1,1}', 10);
CREATE TEMP TABLE b AS EXECUTE by_real('{-1,1,1,-1,1,1,1,1}', 10);
CREATE TEMP TABLE n AS EXECUTE by_real(NULL, 10);
CREATE TEMP TABLE d AS EXECUTE by_double('{1,1,1,1,1,1,1,1}');
CREATE TEMP TABLE e AS EXECUTE by_numeric('{1,1,1,1,1,1,1,1}');
CREATE TEMP TABLE f AS EXECUTE by_integer('{1,1,1,1,1,1,1,1}');
CREATE TEMP TABLE g AS EXECUTE by_bigint('{1,1,1,1,1,1,1,1}');
CREATE TEMP TABLE h AS EXECUTE by_smallint('{1,1,1,1,1,1,1,1}');
SELECT (SELECT count(*) FROM a JOIN nearest USING (id) WHERE place <= 10) AS first_query,
	   (SELECT count(*) FROM b) AS second_query, (SELECT count(*) FROM b JOIN a USING (id)) < 10 AS differ,
	   (SELECT count(*) FROM n) AS null_query;
SELECT place FROM nearest JOIN (TABLE d UNION ALL TABLE e UNION ALL TABLE f UNION ALL TABLE g UNION ALL TABLE h) t USING (id);
EXECUTE by_real('{1,1,1}', 3);
DEALLOCATE ALL;
RESET plan_cache_mode;

-- The query may come from a subquery or a function
SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 77) LIMIT 1;
SELECT rows_returned FROM ivfpq_last_scan();
CREATE FUNCTION nearest_to(q real[]) RETURNS int LANGUAGE sql STABLE SET ivfpq.nprobe = 20 AS $$
	SELECT id FROM items ORDER BY embedding <-> q LIMIT 1
$$;
SELECT count(*) FROM items WHERE id <= 100 AND nearest_to(embedding) = id;

RESET enable_seqscan;
RESET ivfpq.epsilon;
SELECT ivfpq_check('items_index', true, true);
DROP TABLE items, nearest, joined, a, b, n, d, e, f, g, h;
DROP FUNCTION fetched, nearest_to;
