--
-- Tables with pgvector's columns: definitions, writes, storage
--
SET enable_seqscan = off;
SET ivfpq.nprobe = 1000;
SET ivfpq.epsilon = 100;

-- The type of a column tells the dimensions before there is a row
CREATE TABLE items (id int PRIMARY KEY, embedding vector(3), half halfvec(3), any_length vector);
CREATE INDEX items_embedding ON items USING ivfpq (embedding);
CREATE INDEX items_half ON items USING ivfpq (half halfvec_cosine_ops);
CREATE INDEX items_any ON items USING ivfpq (any_length);
SELECT i AS index, dims FROM unnest('{items_embedding,items_half,items_any}'::regclass[]) i, ivfpq_index_info(i);
SELECT id FROM items ORDER BY embedding <-> '[1,2]';
INSERT INTO items VALUES (1, '[1,2,3]', '[1,2,3]', '[1,2,3,4]'), (2, '[3,2,1]', '[0,0,0]', NULL), (3, NULL, '[-1,-2,-3]', '[4,3,2,1]');
INSERT INTO items VALUES (4, '[1,2,3]', '[1,2,3]', '[1,2]');
SELECT id, embedding <-> '[3,2,2]' AS distance FROM items ORDER BY embedding <-> '[3,2,2]';
SELECT id, round((half <=> '[1,2,3]')::numeric, 6) AS distance FROM items ORDER BY half <=> '[1,2,3]';
SELECT id FROM items ORDER BY any_length <-> '[4,3,2,1]';
SELECT i AS index, dims, rows, zero_vectors FROM unnest('{items_embedding,items_half,items_any}'::regclass[]) i, ivfpq_index_info(i);

-- When the last row goes, only what a row has said is forgotten
DELETE FROM items;
VACUUM items;
SELECT i AS index, dims FROM unnest('{items_embedding,items_half,items_any}'::regclass[]) i, ivfpq_index_info(i);
INSERT INTO items (id, any_length) VALUES (1, '[1,2]');

-- The storage parameter may say it where the type does not
CREATE INDEX ON items USING ivfpq (embedding) WITH (dims = 4);
CREATE INDEX items_same ON items USING ivfpq (embedding) WITH (dims = 3);
CREATE INDEX items_dims ON items USING ivfpq (any_length) WITH (dims = 4);
TRUNCATE items;
CREATE INDEX items_dims ON items USING ivfpq (any_length) WITH (dims = 4);
SELECT dims FROM ivfpq_index_info('items_dims');
INSERT INTO items (id, any_length) VALUES (1, '[1,2]');
ALTER INDEX items_dims SET (dims = 2);
REINDEX INDEX items_dims;
INSERT INTO items (id, any_length) VALUES (1, '[1,2]');
ALTER TABLE items ALTER embedding TYPE vector(2), DROP COLUMN half;
SELECT dims FROM ivfpq_index_info('items_embedding');
ALTER INDEX items_same SET (dims = 0);
ALTER TABLE items ALTER embedding TYPE vector(2);
SELECT dims FROM ivfpq_index_info('items_embedding');
DROP TABLE items;

-- Rows come, change and go; three copies of the vectors of one table
CREATE TABLE items (id int PRIMARY KEY, embedding vector(20), half halfvec(20)) WITH (autovacuum_enabled = off);
CREATE FUNCTION test_vector(n float8) RETURNS vector LANGUAGE sql IMMUTABLE AS
	$$ SELECT array_agg(sin(n * j)::real ORDER BY j)::vector FROM generate_series(1, 20) j $$;
INSERT INTO items SELECT i, test_vector(i), test_vector(i) FROM generate_series(1, 1500) i;
CREATE INDEX items_embedding ON items USING ivfpq (embedding) WITH (lists = 20);
CREATE INDEX items_half ON items USING ivfpq (half) WITH (lists = 20, nbits = 8, m = 5);
CREATE INDEX items_expression ON items USING ivfpq ((embedding::halfvec(20)) halfvec_cosine_ops) WITH (lists = 20);
CREATE INDEX items_odd ON items USING ivfpq (embedding vector_ip_ops) WITH (lists = 5) WHERE id % 2 = 1;
INSERT INTO items SELECT i, test_vector(i), test_vector(i) FROM generate_series(1501, 1800) i;
UPDATE items SET embedding = test_vector(-id), half = test_vector(-id) WHERE id % 10 = 0;
DELETE FROM items WHERE id % 3 = 0;
VACUUM items;
INSERT INTO items SELECT i, test_vector(i), test_vector(i) FROM generate_series(1801, 2000) i;
SELECT ivfpq_check(i, true, true) FROM unnest('{items_embedding,items_half,items_expression,items_odd}'::regclass[]) i;
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding <-> test_vector(1501) LIMIT 1) t;
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY half <-> test_vector(-1700)::halfvec LIMIT 1) t;
SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY embedding::halfvec(20) <=> test_vector(1999)::halfvec LIMIT 1) t;
EXPLAIN (COSTS off) SELECT id FROM items ORDER BY embedding::halfvec(20) <=> '[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]' LIMIT 1;
EXPLAIN (COSTS off) SELECT id FROM items WHERE id % 2 = 1 ORDER BY embedding <#> '[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]' LIMIT 1;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items ORDER BY half <-> test_vector(7)::halfvec) t;
REINDEX TABLE CONCURRENTLY items;
SELECT ivfpq_check(i, true, true) FROM unnest('{items_embedding,items_half,items_expression,items_odd}'::regclass[]) i;
SELECT vector_dims(ivfpq_reconstruct('items_embedding', ctid)::vector) FROM items WHERE id = 7;
DROP TABLE items;

-- Short vectors have short headers, long ones are stored out of line
CREATE TABLE items (id int, short halfvec(2), long vector(2000), half halfvec(3000));
INSERT INTO items
SELECT i, format('[%s,%s]', sin(i), cos(i))::halfvec,
	   (SELECT array_agg(sin(i * j)::real ORDER BY j)::vector FROM generate_series(1, 2000) j),
	   (SELECT array_agg(sin(i * j)::real ORDER BY j)::halfvec FROM generate_series(1, 3000) j)
FROM generate_series(1, 600) i;
CREATE INDEX items_short ON items USING ivfpq (short) WITH (lists = 10);
CREATE INDEX items_long ON items USING ivfpq (long vector_cosine_ops) WITH (lists = 4);
CREATE INDEX items_half ON items USING ivfpq (half) WITH (lists = 4);
ANALYZE items;
SELECT ivfpq_check(i, true, true) FROM unnest('{items_short,items_long,items_half}'::regclass[]) i;
SELECT n.id FROM items i, LATERAL (SELECT id FROM items ORDER BY short <-> i.short LIMIT 1) n WHERE i.id = 123;
SELECT n.id FROM items i, LATERAL (SELECT id FROM items ORDER BY long <=> i.long LIMIT 1) n WHERE i.id = 234;
SELECT n.id FROM items i, LATERAL (SELECT id FROM items ORDER BY half <-> i.half LIMIT 1) n WHERE i.id = 345;
DROP TABLE items;
DROP FUNCTION test_vector;

-- Further columns beside vectors of both types
CREATE TABLE items AS
SELECT i AS id, i % 20 AS shop, ARRAY['tag' || i % 9] AS tags, format('[%s,%s,%s]', sin(i), cos(i * 1.3), sin(i * 0.7))::vector(3) AS embedding
FROM generate_series(1, 2000) i;
CREATE INDEX items_vector ON items USING ivfpq (embedding vector_l2_ops, shop, tags) WITH (lists = 10);
CREATE INDEX items_half ON items USING ivfpq ((embedding::halfvec(3)) halfvec_cosine_ops, shop) WITH (lists = 10);
ANALYZE items;
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT id FROM items WHERE shop = 3 AND 'tag5' = ANY (tags) ORDER BY embedding <-> '[0.1,0.2,0.3]' LIMIT 3;
SELECT DISTINCT shop, tags FROM (SELECT * FROM items WHERE shop = 3 AND 'tag5' = ANY (tags) ORDER BY embedding <-> '[0.1,0.2,0.3]' LIMIT 5) q;
EXPLAIN (COSTS off) SELECT id FROM items WHERE shop = 3 ORDER BY embedding::halfvec(3) <=> '[0.1,0.2,0.3]' LIMIT 3;
SELECT DISTINCT shop FROM (SELECT * FROM items WHERE shop = 3 ORDER BY embedding::halfvec(3) <=> '[0.1,0.2,0.3]' LIMIT 5) q;
SELECT ivfpq_check(i, true, true) FROM unnest('{items_vector,items_half}'::regclass[]) i;
RESET enable_seqscan;
DROP TABLE items;

-- Indexes go before the classes do, and those before pgvector
CREATE TABLE items (id int, embedding vector(3));
CREATE INDEX ON items USING ivfpq (embedding);
DROP EXTENSION vqpg_vector;
DROP EXTENSION vector;
DROP TABLE items;
DROP EXTENSION vqpg_vector;
CREATE EXTENSION vqpg_vector;

-- What others have put where the extension goes, under the names of what it uses, is not used
CREATE SCHEMA others;
CREATE FUNCTION others.ivfpq_l2_metric() RETURNS int4 LANGUAGE sql AS 'SELECT 1 / 0';
CREATE FUNCTION others.distance(vector, vector) RETURNS float8 LANGUAGE sql AS 'SELECT 1.0::float8';
CREATE OPERATOR others.<-> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = others.distance);
DROP EXTENSION vqpg_vector;
\set SHOW_CONTEXT never
CREATE EXTENSION vqpg_vector SCHEMA others;
\set SHOW_CONTEXT errors
DROP OPERATOR others.<-> (vector, vector);
CREATE EXTENSION vqpg_vector SCHEMA others;
SELECT count(*), bool_and(amvalidate(c.oid)) FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod AND amname = 'ivfpq' WHERE opcnamespace = 'others'::regnamespace;
SELECT DISTINCT amproc::regprocedure FROM pg_amproc p JOIN pg_opclass c ON c.opcfamily = p.amprocfamily WHERE opcnamespace = 'others'::regnamespace ORDER BY 1;
DROP EXTENSION vqpg_vector;
DROP SCHEMA others CASCADE;
CREATE EXTENSION vqpg_vector;
