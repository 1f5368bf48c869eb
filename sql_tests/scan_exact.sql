--
-- Searches return the nearest rows, nearest first
--

CREATE TABLE items AS
SELECT i AS id, (SELECT array_agg((sin(i % 40 * 7.3 * j + j) + 0.5 * sin(i * (j + 0.7) * 12.9898))::real ORDER BY j)
				 FROM generate_series(1, 12) j) AS embedding
FROM generate_series(1, 9000) i;
CREATE TABLE queries AS
SELECT i AS id, (SELECT array_agg((sin(i * 7.3 * j + j) + 0.5 * sin(i * j * 3.77))::real ORDER BY j)
				 FROM generate_series(1, 12) j) AS embedding
FROM generate_series(1, 10) i;
SET max_parallel_workers_per_gather = 0;

-- The distances of the nearest rows: by an index, and by reading the whole table
CREATE FUNCTION by_index(query text) RETURNS float8[] LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
	plan text;
	distances float8[];
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	ASSERT plan LIKE '%"Index Scan"%', plan;
	EXECUTE format('SELECT array_agg(d) FROM (%s) q (d)', query) INTO distances;
	RETURN distances;
END $$;
CREATE FUNCTION by_table(query text) RETURNS float8[] LANGUAGE plpgsql SET enable_indexscan = off AS $$
DECLARE
	distances float8[];
BEGIN
	EXECUTE format('SELECT array_agg(d) FROM (%s) q (d)', query) INTO distances;
	RETURN distances;
END $$;

-- Of all queries: do they agree, and if not, how many of the ten nearest rows are found
CREATE FUNCTION compare(operator text, OUT are_equal boolean, OUT recall float8) LANGUAGE sql AS $$
	SELECT bool_and(found = exact), avg((SELECT count(*) FROM unnest(found) f WHERE f <= exact[10]) / 10.0)
	FROM (SELECT by_index(q) AS found, by_table(q) AS exact
		  FROM queries, format('SELECT embedding %s %L FROM items ORDER BY 1 LIMIT 10', operator, embedding) q) t
$$;

-- For every operator class, size of codes, rotation and number of lists: all
-- lists and a very careful bound give the exact answer, the default settings
-- nearly that, and even a careless search finds something
CREATE FUNCTION try_index(class text, operator text, options text,
						  OUT all_exact boolean, OUT default_recall float8, OUT careless_recall float8)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE INDEX tried ON items USING ivfpq (embedding %I) WITH (%s)', class, options);
	SET LOCAL ivfpq.nprobe = 262144;
	SET LOCAL ivfpq.epsilon = 100;
	all_exact := are_equal FROM compare(operator);
	SET LOCAL ivfpq.nprobe = 0;
	SET LOCAL ivfpq.epsilon = 2;
	default_recall := recall FROM compare(operator);
	SET LOCAL ivfpq.nprobe = 1;
	SET LOCAL ivfpq.epsilon = 0;
	careless_recall := recall FROM compare(operator);
	SET LOCAL ivfpq.nprobe = 0;
	SET LOCAL ivfpq.epsilon = 2;
	PERFORM ivfpq_check('tried', true, true);
	DROP INDEX tried;
END $$;
SELECT class, options, all_exact, default_recall >= 0.9 AS default_is_good, careless_recall >= 0.2 AS careless_is_something
FROM (VALUES ('array_l2_ops', '<->'), ('array_ip_ops', '<#>'), ('array_cosine_ops', '<=>')) c (class, operator),
	 (VALUES (1, 'nbits = 4'), (2, 'nbits = 8'), (3, 'lists = 50, rotation = none'), (4, 'lists = 50, m = 12, nbits = 8'),
			 (5, 'lists = 50, m = 1'), (6, 'lists = 1'), (7, 'lists = 600, train_rows = 600, nprobe = 60')) o (n, options),
	 try_index(class, operator, options)
ORDER BY class, n;

-- A query without LIMIT returns every row, once, and so does a LIMIT beyond the last row
CREATE INDEX items_index ON items USING ivfpq (embedding);
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1,1,1,1,1}';
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1,1,1,1,1}') t;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1,1,1,1,1}' LIMIT 10000) t;

-- Searches are counted, and pages that they find in shared buffers
SELECT pg_stat_force_next_flush();
SELECT idx_scan, idx_tup_read, idx_blks_hit FROM pg_stat_user_indexes JOIN pg_statio_user_indexes USING (indexrelid)
WHERE indexrelid = 'items_index'::regclass \gset before_
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1,1,1,1,1}' LIMIT 10) t;
SELECT lists_probed FROM ivfpq_last_scan() \gset
SELECT pg_stat_force_next_flush();
SELECT idx_scan - :before_idx_scan AS searches, idx_tup_read - :before_idx_tup_read AS rows,
	   idx_blks_hit - :before_idx_blks_hit > :lists_probed / 10 + 5 AS pages
FROM pg_stat_user_indexes JOIN pg_statio_user_indexes USING (indexrelid) WHERE indexrelid = 'items_index'::regclass;

-- Vectors are taken from the table, as the index does not have them; and the
-- search can be told not to use the index
EXPLAIN (COSTS off) SELECT embedding FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1,1,1,1,1}' LIMIT 1;
SET enable_indexscan = off;
RESET enable_seqscan;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1,1,1,1,1}' LIMIT 1;
SET enable_seqscan = off;
RESET enable_indexscan;

-- LIMIT 0 and OFFSET, in exact order
SET ivfpq.epsilon = 10;
SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1,1,1,1,1}' LIMIT 0;
SELECT (SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1,1,1,1,1}' LIMIT 10 OFFSET 10) t) =
	   (SELECT (array_agg(id))[11:20] FROM (SELECT id FROM items ORDER BY embedding <-> '{1,1,1,1,1,1,1,1,1,1,1,1}' LIMIT 20) t) AS offset_skips;
RESET ivfpq.epsilon;

-- Each type of query, on either side of the operator, has the same neighbours
SELECT type, are_equal FROM unnest('{real,double precision,numeric,smallint,integer,bigint}'::text[]) type,
	 LATERAL (SELECT by_index(format('SELECT embedding <-> %L::%s[] FROM items ORDER BY 1 LIMIT 10', '{1,0,-1,2,0,1,1,0,-1,0,1,1}', type)) =
					 by_index('SELECT embedding <-> ''{1,0,-1,2,0,1,1,0,-1,0,1,1}'' FROM items ORDER BY 1 LIMIT 10') AND
					 by_index(format('SELECT %L::%s[] <-> embedding FROM items ORDER BY 1 LIMIT 10', '{1,0,-1,2,0,1,1,0,-1,0,1,1}', type)) =
					 by_index('SELECT embedding <-> ''{1,0,-1,2,0,1,1,0,-1,0,1,1}'' FROM items ORDER BY 1 LIMIT 10') AS are_equal) t;

-- A vector that is in the table is its own nearest neighbour
SET ivfpq.epsilon = 100;
SELECT count(*) FROM items q, LATERAL (SELECT id FROM items ORDER BY embedding <-> q.embedding LIMIT 1) n WHERE q.id % 90 = 0 AND n.id = q.id;
RESET ivfpq.epsilon;
RESET enable_seqscan;

SELECT ivfpq_check('items_index', true, true);
DROP TABLE items, queries;
DROP FUNCTION try_index, compare, by_index, by_table;
