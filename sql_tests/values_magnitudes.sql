--
-- Vectors of any magnitude, and queries of any other
--

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
CREATE FUNCTION by_table(query text) RETURNS float8[] LANGUAGE plpgsql SET enable_indexscan = off SET enable_seqscan = on AS $$
DECLARE
	distances float8[];
BEGIN
	EXECUTE format('SELECT array_agg(d) FROM (%s) q (d)', query) INTO distances;
	RETURN distances;
END $$;
CREATE FUNCTION scaled(id int, factor float8) RETURNS real[] LANGUAGE sql
AS $$ SELECT array_agg((factor * sin(id * (j + 0.7) * 12.9898))::real ORDER BY j) FROM generate_series(1, 6) j $$;

-- How many of the nearest ten a search finds at its default settings, of 60 for
-- six queries.  Distances may differ by rounding.
CREATE FUNCTION hits(operator text, factor float8) RETURNS bigint LANGUAGE sql AS $$
	SELECT sum((SELECT count(*) FROM unnest(by_index(query)) d WHERE d <= exact[10] + 1e-6 * abs(exact[10])))
	FROM generate_series(-6, -1) q,
		 format('SELECT embedding %s %L FROM items ORDER BY 1 LIMIT 10', operator, scaled(q, factor)) query,
		 by_table(query) exact
$$;

-- Huge and tiny vectors are found as well as others, from near and from far, and from the middle of all, from where
-- many lists are about as far
SET ivfpq.recall = 0.995;
CREATE FUNCTION try_magnitude(row_factor float8, OUT operator text, OUT query_factor float8, OUT hits bigint)
RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
	CREATE TABLE items AS SELECT i AS id, scaled(i, row_factor) AS embedding FROM generate_series(1, 1000) i;
	CREATE INDEX l2_index ON items USING ivfpq (embedding array_l2_ops);
	CREATE INDEX ip_index ON items USING ivfpq (embedding array_ip_ops);
	CREATE INDEX cosine_index ON items USING ivfpq (embedding array_cosine_ops);
	FOREACH operator IN ARRAY '{<->,<#>,<=>}'::text[] LOOP
		FOREACH query_factor IN ARRAY '{1e-40,1e-5,1,1000,1e30,3e38}'::float8[] LOOP
			hits := hits(operator, query_factor);
			RETURN NEXT;
		END LOOP;
	END LOOP;
	PERFORM ivfpq_check('l2_index', true, true), ivfpq_check('ip_index', true, true), ivfpq_check('cosine_index', true, true);
	DROP TABLE items;
END $$;
SELECT row_factor, operator, count(*) AS magnitudes_of_queries, min(t.hits) >= 45 AS found
FROM unnest('{1e-40,1e-20,1,1e18,3e38}'::float8[]) row_factor, try_magnitude(row_factor) t
GROUP BY row_factor, operator ORDER BY row_factor, operator COLLATE "C";
RESET ivfpq.recall;

-- A few huge rows do not spoil the search for the others, nor are they lost,
-- whether they were there when the index was made or came later
CREATE TABLE items AS
SELECT i AS id, scaled(i, CASE WHEN i % 100 = 0 THEN 3e38 WHEN i % 100 = 50 THEN 1e20 ELSE 1 END) AS embedding FROM generate_series(1, 2000) i;
CREATE TABLE later AS TABLE items;
DELETE FROM later WHERE id % 50 = 0;
CREATE INDEX items_l2 ON items USING ivfpq (embedding);
CREATE INDEX items_cosine ON items USING ivfpq (embedding array_cosine_ops);
SELECT hits('<->', 1) >= 45 AS l2, hits('<->', 3e38) >= 45 AS l2_huge, hits('<=>', 1) >= 45 AS cosine;
CREATE INDEX later_l2 ON later USING ivfpq (embedding);
CREATE INDEX later_ip ON later USING ivfpq (embedding array_ip_ops);
INSERT INTO later SELECT * FROM items WHERE id % 50 = 0;
ALTER TABLE items RENAME TO items_before;
ALTER TABLE later RENAME TO items;
SELECT hits('<->', 1) >= 45 AS l2, hits('<->', 3e38) >= 45 AS l2_huge;
SET ivfpq.nprobe = 262144;
SELECT hits('<#>', 1) >= 45 AS ip;
RESET ivfpq.nprobe;
SET enable_seqscan = off;
SET ivfpq.epsilon = 100;
SELECT id % 50 = 0 AS huge, count(*), count(DISTINCT id) FROM (SELECT id FROM items ORDER BY embedding <-> '{0,0,0,0,0,0}') t GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM items q, LATERAL (SELECT id FROM items ORDER BY embedding <-> q.embedding LIMIT 1) n WHERE q.id % 50 = 0 AND n.id = q.id;
SELECT ivfpq_check('items_l2', true, true), ivfpq_check('items_cosine', true, true), ivfpq_check('later_l2', true, true), ivfpq_check('later_ip', true, true);
SELECT id % 50 = 0 AS huge, count(ivfpq_reconstruct('later_l2', ctid)) AS decoded FROM items WHERE id > 1950 AND id % 100 <> 50 GROUP BY 1 ORDER BY 1;
RESET enable_seqscan;
RESET ivfpq.epsilon;
DROP TABLE items, items_before;
DROP FUNCTION try_magnitude, hits, scaled, by_index, by_table;

-- Nor do they where there are so many lists that searches find these by codes: outlying
-- rows fewer than a list has, more than that, and half of all rows far larger than the others
CREATE FUNCTION clustered(id int) RETURNS real[] IMMUTABLE LANGUAGE sql AS $$
	SELECT array_agg((10 * sin(id % 150 * (j + 0.7) * 12.9898) + sin(id * (j + 0.3) * 78.233))::real ORDER BY j) FROM generate_series(1, 24) j $$;
CREATE FUNCTION multiplied(v real[], factor float8) RETURNS real[] IMMUTABLE LANGUAGE sql AS $$
	SELECT array_agg((x * factor)::real ORDER BY n) FROM unnest(v) WITH ORDINALITY u (x, n) $$;
CREATE TABLE plain AS SELECT i AS id, clustered(i) AS embedding FROM generate_series(1, 12000) i;
CREATE FUNCTION recall_of_plain(every int, factor float8) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	exact float8[];
	found float8[];
	query text := 'SELECT array_agg(d) FROM plain q, LATERAL (SELECT i.embedding <-> q.embedding FROM items i ORDER BY 1 LIMIT 10) t (d) WHERE q.id % 400 = 1';
BEGIN
	CREATE TABLE items AS SELECT id, CASE WHEN id % every = 0 THEN multiplied(clustered(id * 7), factor) ELSE embedding END AS embedding FROM plain;
	CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 300);
	SET LOCAL enable_indexscan = off;
	EXECUTE query INTO exact;
	SET LOCAL enable_indexscan = on;
	SET LOCAL enable_seqscan = off;
	EXECUTE query INTO found;
	PERFORM ivfpq_check('items_index', true, true);
	DROP TABLE items;
	RETURN (SELECT avg((f <= e * 1.000001)::int) FROM ROWS FROM (unnest(found), unnest(exact)) t (f, e));
END $$;
SELECT every, factor, recall_of_plain(every, factor) > 0.9 AS found
FROM (VALUES (12000, 1e4), (12000, 1e12), (4000, 1e6), (100, 1e3), (100, 1e8), (2, 10), (2, 100)) v (every, factor);

-- A row of immense length has the largest inner product with half of all queries, although float32 does not tell it from squares
CREATE FUNCTION longest(factor float8, OUT wanted bigint, OUT met bigint) LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
	CREATE TABLE items AS SELECT id, CASE WHEN id = 777 THEN multiplied(embedding, factor) ELSE embedding END AS embedding FROM plain WHERE id <= 6000;
	CREATE INDEX items_index ON items USING ivfpq (embedding array_ip_ops) WITH (lists = 150);
	SELECT count(*), count(*) FILTER (WHERE n.id = 777) INTO wanted, met
	FROM plain q, LATERAL (SELECT id FROM items i ORDER BY i.embedding <#> q.embedding LIMIT 1) n, (SELECT embedding FROM plain WHERE id = 777) l
	WHERE q.id % 100 = 1 AND l.embedding <#> q.embedding < -1;
	DROP TABLE items;
END $$;
SELECT factor, wanted > 30 AS wanted, wanted - met AS missed FROM unnest('{1e3,1e6,1e8,1e10}'::float8[]) factor, longest(factor);
DROP TABLE plain;
DROP FUNCTION recall_of_plain, longest, multiplied, clustered;

-- Where codes of centroids do not find the nearest lists they are not used: one row in twenty is a
-- hundred times as long as the others, which makes for inner products of all sizes
CREATE TABLE items AS
SELECT i AS id, (SELECT array_agg(((CASE WHEN i % 20 = 0 THEN 100 ELSE 1 END) * sin(i * (j + 0.3) * 78.233))::real ORDER BY j)
				 FROM generate_series(1, 24) j) AS embedding
FROM generate_series(1, 12000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding array_ip_ops) WITH (lists = 300);
CREATE FUNCTION distances() RETURNS float8[] LANGUAGE sql AS $$
	SELECT array_agg(d ORDER BY q.id, d)
	FROM items q, LATERAL (SELECT i.embedding <#> q.embedding FROM items i ORDER BY 1 LIMIT 10) t (d) WHERE q.id % 400 = 0 OR q.id % 200 = 1 $$;
ALTER FUNCTION distances SET enable_indexscan = off;
CREATE TABLE exact AS SELECT distances() AS d;
ALTER FUNCTION distances SET enable_indexscan = on;
ALTER FUNCTION distances SET enable_seqscan = off;
SELECT avg((f <= e + abs(e) * 1e-6)::int) > 0.93 AS found FROM exact, ROWS FROM (unnest(d), unnest(distances())) t (e, f);
SELECT ivfpq_check('items_index', true, true);

-- and rows that come later find their lists without them
DELETE FROM items WHERE id % 2 = 0;
VACUUM items;
ALTER TABLE items ADD bytes bigint;
INSERT INTO items
SELECT i AS id, (SELECT array_agg(((CASE WHEN i % 20 = 0 THEN 100 ELSE 1 END) * sin(i * (j + 0.3) * 78.233))::real ORDER BY j)
				 FROM generate_series(1, 24) j),
	   CASE WHEN i = 12000 THEN (SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name = 'ivfpq insert') END
FROM generate_series(2, 12000, 2) i;
SELECT max(bytes) < 100000 AS memory_is_given_back FROM items;
SELECT avg((f <= e + abs(e) * 1e-6)::int) > 0.93 AS found FROM exact, ROWS FROM (unnest(d), unnest(distances())) t (e, f);
SELECT ivfpq_check('items_index', true, true);
DROP TABLE items, exact;
DROP FUNCTION distances;

-- Groups far apart in one direction, which is not evened out: the bytes of all others are rounded the same way
CREATE TABLE far AS SELECT i AS id, (SELECT array_agg((CASE WHEN j = 1 THEN 100 * (i % 20) ELSE 0 END + hashint8(i * 1000 + j) / 1.2e9)::real ORDER BY j)
	FROM generate_series(1, 200) j) AS embedding FROM generate_series(-19, 20000) i;
CREATE TABLE truth AS SELECT q.id AS query, n.id FROM far q, LATERAL (SELECT id FROM far WHERE id > 0 ORDER BY embedding <-> q.embedding LIMIT 10) n WHERE q.id <= 0;
CREATE INDEX far_index ON far USING ivfpq (embedding) WITH (lists = 200, nprobe = 200, m = 200, rotation = none) WHERE id > 0;
SET enable_seqscan = off;
SELECT count(*) FROM (SELECT q.id AS query, n.id FROM far q, LATERAL (SELECT id FROM far WHERE id > 0 ORDER BY embedding <-> q.embedding LIMIT 10) n
	WHERE q.id <= 0) f JOIN truth USING (query, id);
RESET enable_seqscan;
DROP TABLE far, truth;
