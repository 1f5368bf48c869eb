--
-- Indexes on expressions, on parts of a table, on partitions, and several on
-- one column
--
SET enable_seqscan = off;
SET ivfpq.epsilon = 100;
CREATE TABLE items AS
SELECT i AS id, i % 10 AS category, ARRAY[sin(i) * 9, sin(i * 1.7) * 9, sin(i * 2.3) * 9]::double precision[] AS embedding
FROM generate_series(1, 2000) i;

-- An expression makes a vector of another type's column
CREATE INDEX items_cast ON items USING ivfpq ((embedding::real[]));
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding::real[] <-> '{1,2,3}' LIMIT 1;
SELECT id FROM items ORDER BY embedding::real[] <-> (SELECT embedding FROM items WHERE id = 77) LIMIT 1;
SET enable_seqscan = on;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> '{1,2,3}' LIMIT 1;
SET enable_seqscan = off;

-- What the expression yields is compared, also of rows that came later
CREATE FUNCTION normalised(v double precision[]) RETURNS real[] IMMUTABLE STRICT LANGUAGE sql
AS $$ SELECT array_agg((x / nullif((SELECT sqrt(sum(y * y)) FROM unnest(v) y), 0))::real ORDER BY n) FROM unnest(v) WITH ORDINALITY u (x, n) $$;
CREATE INDEX items_normalised ON items USING ivfpq (normalised(embedding));
INSERT INTO items VALUES (2001, 1, '{500,500,501}'), (2002, 1, NULL);
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY normalised(embedding) <-> normalised('{1,1,1}') LIMIT 1;
SELECT id FROM items ORDER BY normalised(embedding) <-> normalised('{1,1,1}') LIMIT 1;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items ORDER BY normalised(embedding) <-> normalised('{1,1,1}')) t;

-- An expression that fails, or yields what is not a vector, refuses the row
INSERT INTO items VALUES (2003, 1, '{}');
INSERT INTO items VALUES (2003, 1, '{0,0,0}');
INSERT INTO items VALUES (2003, 1, '{1e300,0,0}');
SELECT ivfpq_check('items_cast', true, true), ivfpq_check('items_normalised', true, true);
DROP INDEX items_normalised, items_cast;

-- A subvector, or a vector of several columns
CREATE INDEX items_part ON items USING ivfpq ((embedding[1:2]::real[]));
CREATE INDEX items_columns ON items USING ivfpq ((ARRAY[id, category]::real[])) WITH (lists = 1);
SELECT id FROM items ORDER BY embedding[1:2]::real[] <-> (SELECT embedding[1:2] FROM items WHERE id = 55) LIMIT 1;
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY ARRAY[id, category]::real[] <-> ARRAY[500, 0] LIMIT 3) t;
SELECT ivfpq_check('items_part', true, true), ivfpq_check('items_columns', true, true);
DROP TABLE items;

-- A partial index has the rows of its predicate, as they are now
CREATE TABLE items AS
SELECT i AS id, i % 10 AS category, ARRAY[sin(i) * 9, sin(i * 1.7) * 9, sin(i * 2.3) * 9]::real[] AS embedding
FROM generate_series(1, 10000) i;
CREATE INDEX items_three ON items USING ivfpq (embedding) WHERE category = 3;
CREATE INDEX items_four ON items USING ivfpq (embedding) WHERE category = 4;
SELECT rows, m > 0 AS has_codes FROM ivfpq_index_info('items_three');
EXPLAIN (COSTS off) SELECT id FROM items WHERE category = 3 ORDER BY embedding <-> '{1,2,3}' LIMIT 1;
SET enable_seqscan = on;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> '{1,2,3}' LIMIT 1;
SET enable_seqscan = off;
UPDATE items SET category = 4 WHERE id = 13;
UPDATE items SET category = 3 WHERE id = 14;
INSERT INTO items VALUES (10001, 3, '{100,100,100}'), (10002, 5, '{100,100,100}');
SELECT count(*), bool_and(category = 3) AS right_ones, bool_or(id = 13) AS has_13, bool_or(id = 14) AS has_14
FROM (SELECT * FROM items WHERE category = 3 ORDER BY embedding <-> '{1,2,3}') t;
SELECT count(*), bool_or(id = 13) AS has_13, bool_or(id = 14) AS has_14
FROM (SELECT * FROM items WHERE category = 4 ORDER BY embedding <-> '{1,2,3}') t;
SELECT id FROM items WHERE category = 3 ORDER BY embedding <-> '{100,100,100}' LIMIT 1;
SELECT ivfpq_check('items_three', true, true), ivfpq_check('items_four', true, true);
DROP INDEX items_three, items_four;

-- Rows outside the predicate may be no vectors
UPDATE items SET embedding = '{}' WHERE category = 7;
CREATE INDEX items_partial ON items USING ivfpq (embedding) WHERE category <> 7;
CREATE INDEX items_full ON items USING ivfpq (embedding);
UPDATE items SET category = 8 WHERE id = 7;
SELECT ivfpq_check('items_partial', true, true);
DROP TABLE items;

-- Two indexes on one column serve two distances
CREATE TABLE items AS
SELECT i AS id, ARRAY[i, 2000 - i, i % 13]::real[] AS embedding FROM generate_series(1, 2000) i;
CREATE INDEX items_l2 ON items USING ivfpq (embedding array_l2_ops);
CREATE INDEX items_ip ON items USING ivfpq (embedding array_ip_ops);
CREATE INDEX items_cosine ON items USING ivfpq (embedding array_cosine_ops);
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> '{1,2,3}' LIMIT 1;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <#> '{1,2,3}' LIMIT 1;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <=> '{1,2,3}' LIMIT 1;
INSERT INTO items VALUES (2001, '{7,7,7}');
SELECT (SELECT id FROM items ORDER BY embedding <-> '{6,6,6}' LIMIT 1) AS l2,
	   (SELECT id FROM items ORDER BY embedding <#> '{1,0,0}' LIMIT 1) AS ip,
	   (SELECT id FROM items ORDER BY embedding <=> '{500,500,500}' LIMIT 1) AS cosine;
SELECT relname, metric FROM pg_class, ivfpq_index_info(oid) WHERE relname ~ '^items_' AND relkind = 'i' ORDER BY relname;
SELECT ivfpq_check('items_l2', true, true), ivfpq_check('items_ip', true, true), ivfpq_check('items_cosine', true, true);
DROP TABLE items;

-- A domain over real[] is a column like any other
CREATE DOMAIN embedding_3 AS real[] CHECK (cardinality(VALUE) = 3);
CREATE TABLE items (id int, embedding embedding_3);
INSERT INTO items SELECT i, ARRAY[sin(i), sin(i * 1.7), sin(i * 2.3)] FROM generate_series(1, 1000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding);
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> '{1,2,3}' LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 77) LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> (SELECT embedding::float8[] FROM items WHERE id = 78) LIMIT 1;
SELECT ivfpq_check('items_index', true, true);
DROP TABLE items;
DROP DOMAIN embedding_3;

-- An operator class for another type of array can be made of what is there
CREATE OPERATOR CLASS double_ops FOR TYPE double precision[] USING ivfpq AS
	OPERATOR 1 <-> (double precision[], double precision[]) FOR ORDER BY float_ops, FUNCTION 1 ivfpq_l2_metric();
CREATE TABLE items AS
SELECT i AS id, ARRAY[sin(i), sin(i * 1.7), sin(i * 2.3)]::double precision[] AS embedding FROM generate_series(1, 1000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding double_ops);
INSERT INTO items VALUES (1001, '{10,10,10}');
INSERT INTO items VALUES (1002, '{10,10,1e39}');
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> '{1,2,3}' LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 77) LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> '{9,9,9}' LIMIT 1;
SELECT ivfpq_check('items_index', true, true);
DROP TABLE items;
DROP OPERATOR FAMILY double_ops USING ivfpq CASCADE;

-- Partitions have an index each, and searches of all of them are merged
CREATE TABLE items (id int, embedding real[]) PARTITION BY RANGE (id);
CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (1) TO (1001);
CREATE TABLE items_2 PARTITION OF items FOR VALUES FROM (1001) TO (2001);
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (nprobe = 100);
INSERT INTO items SELECT i, ARRAY[sin(i), sin(i * 1.7), sin(i * 2.3)] FROM generate_series(1, 2000) i;
REINDEX TABLE items;
CREATE TABLE items_3 (id int, embedding real[]);
INSERT INTO items_3 SELECT i, ARRAY[sin(i), sin(i * 1.7), sin(i * 2.3)] FROM generate_series(2001, 2600) i;
ALTER TABLE items ATTACH PARTITION items_3 FOR VALUES FROM (2001) TO (3001);
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding <-> '{1,0,0}' LIMIT 10;
CREATE TABLE found AS SELECT id, embedding <-> '{1,0,0}' AS distance FROM items ORDER BY embedding <-> '{1,0,0}' LIMIT 50;
SET enable_indexscan = off;
SELECT count(*), count(DISTINCT tableoid) AS partitions, bool_and(f.id IS NOT NULL) AS all_found
FROM (SELECT tableoid, id FROM items ORDER BY embedding <-> '{1,0,0}' LIMIT 50) e LEFT JOIN found f USING (id);
RESET enable_indexscan;
EXPLAIN (COSTS off) SELECT id FROM items WHERE id <= 1000 ORDER BY embedding <-> '{1,0,0}' LIMIT 10;
UPDATE items SET id = 2999 WHERE id = 5;
SELECT tableoid::regclass, id FROM items ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 2999) LIMIT 1;
SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <-> '{1,0,0}') t;
SELECT relname, ivfpq_check(oid, true, true) FROM pg_class WHERE relname ~ '^items.*embedding' ORDER BY relname;
DROP TABLE items, found;

-- Rows are never found by a condition but one on the distance, whatever a class says
CREATE OPERATOR CLASS searching_ops FOR TYPE real[] USING ivfpq AS
	OPERATOR 1 <-> (real[], real[]) FOR ORDER BY float_ops, OPERATOR 2 = (anyarray, anyarray), FUNCTION 1 ivfpq_l2_metric();
CREATE TABLE items AS SELECT i AS id, ARRAY[i % 7, i % 5]::real[] AS embedding FROM generate_series(1, 100) i;
CREATE INDEX items_index ON items USING ivfpq (embedding searching_ops);
SELECT count(*) FROM (SELECT id FROM items WHERE embedding = '{1,1}'::real[] ORDER BY embedding <-> '{0,0}' LIMIT 10) t;
DROP TABLE items;
DROP OPERATOR FAMILY searching_ops USING ivfpq;

-- nor is it asked whether there are any
CREATE FUNCTION is_same(real[], real[]) RETURNS boolean IMMUTABLE STRICT LANGUAGE sql AS $$ SELECT $1::text = $2::text $$;
CREATE OPERATOR =~= (LEFTARG = real[], RIGHTARG = real[], COMMUTATOR = =~=, FUNCTION = is_same);
CREATE OPERATOR CLASS excluding_ops FOR TYPE real[] USING ivfpq AS OPERATOR 2 =~= (real[], real[]), FUNCTION 1 ivfpq_l2_metric();
CREATE TABLE items (embedding real[], EXCLUDE USING ivfpq (embedding excluding_ops WITH =~=));
INSERT INTO items VALUES ('{1,2,3}');
DROP TABLE items;
DROP OPERATOR FAMILY excluding_ops USING ivfpq;
DROP OPERATOR =~= (real[], real[]);
DROP FUNCTION is_same;

RESET ivfpq.epsilon;
RESET enable_seqscan;
DROP FUNCTION normalised;

-- Who may call the functions of an index is asked of the role that starts a search, not of the one that fetches its rows
CREATE ROLE regress_vqpg_owner;
CREATE ROLE regress_vqpg_guest;
CREATE SCHEMA regress_vqpg AUTHORIZATION regress_vqpg_owner;
GRANT USAGE ON SCHEMA regress_vqpg TO regress_vqpg_guest;
SET ROLE regress_vqpg_owner;
CREATE FUNCTION regress_vqpg.vector_of(x float8[]) RETURNS real[] IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN x::real[]; END $$;
REVOKE ALL ON FUNCTION regress_vqpg.vector_of(float8[]) FROM PUBLIC;
CREATE TABLE regress_vqpg.items AS SELECT i AS id, ARRAY[i % 7, i, 1]::float8[] AS x FROM generate_series(1, 600) i;
CREATE INDEX ON regress_vqpg.items USING ivfpq (regress_vqpg.vector_of(x));
CREATE FUNCTION regress_vqpg.near(query real[]) RETURNS refcursor SECURITY DEFINER SET enable_seqscan = off LANGUAGE plpgsql AS $$
DECLARE
	c refcursor := 'found';
BEGIN
	OPEN c FOR SELECT id FROM regress_vqpg.items ORDER BY regress_vqpg.vector_of(x) <-> query LIMIT 3;
	RETURN c;
END $$;
GRANT EXECUTE ON FUNCTION regress_vqpg.near(real[]) TO regress_vqpg_guest;
SET ROLE regress_vqpg_guest;
BEGIN;
SELECT regress_vqpg.near('{0,7,1}');
FETCH ALL FROM found;
SELECT candidates_reranked > 0 AS is_search FROM ivfpq_last_scan();
COMMIT;
RESET ROLE;
DROP OWNED BY regress_vqpg_owner, regress_vqpg_guest;
DROP ROLE regress_vqpg_owner, regress_vqpg_guest;
