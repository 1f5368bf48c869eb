--
-- What CREATE INDEX makes of a table's size, of its options, and of little memory
--
CREATE FUNCTION vector_of(id int) RETURNS real[] IMMUTABLE LANGUAGE sql
AS $$ SELECT array_agg(sin(id * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 16) j $$;
CREATE TABLE items AS SELECT i AS id, vector_of(i) AS embedding FROM generate_series(1, 10000) i;
CREATE FUNCTION try_build(n int, options text, OUT has_codes boolean, OUT lists int, OUT m int, OUT nbits int, OUT rotation text,
						  OUT code_bytes int, OUT train_rows bigint, OUT rows bigint, OUT trained_on text) LANGUAGE plpgsql AS $$
BEGIN
	CREATE TABLE tried AS SELECT * FROM items WHERE id <= n;
	EXECUTE format('CREATE INDEX tried_index ON tried USING ivfpq (embedding) %s', options);
	SELECT i.m > 0, i.lists, i.m, i.nbits, i.rotation, i.code_bytes, i.train_rows, i.rows, i.trained_on
	INTO has_codes, lists, m, nbits, rotation, code_bytes, train_rows, rows, trained_on FROM ivfpq_index_info('tried_index') i;
	PERFORM ivfpq_check('tried_index', true, true);
	DROP TABLE tried;
END $$;

-- Tables too small to be trained on have an index without codes
SELECT n, options, t.* FROM (VALUES (0, ''), (1, ''), (511, ''), (512, ''), (8191, 'WITH (nbits = 8)'), (8192, 'WITH (nbits = 8)')) v (n, options),
	 try_build(n, options) t;

-- Sizes follow the number of rows, or the options
SELECT n, options, t.* FROM (VALUES (1000, ''), (10000, ''), (10000, 'lists = 7'), (10000, 'lists = 7, train_rows = 700'),
	(10000, 'm = 3'), (10000, 'm = 16, nbits = 8'), (10000, 'm = 5, nbits = 8, rotation = none, lists = 10')) v (n, options),
	 try_build(n, CASE WHEN options <> '' THEN format('WITH (%s)', options) ELSE '' END) t;

-- More lists than rows to train on, or than rows, cannot be had
SELECT lists, train_rows FROM try_build(1000, 'WITH (lists = 500, train_rows = 200)');
SELECT lists BETWEEN 900 AND 1000 AS as_many_as_rows FROM try_build(1000, 'WITH (lists = 100000)');

-- Codes longer than vectors cannot either
CREATE INDEX ON items USING ivfpq (embedding) WITH (m = 17);
CREATE INDEX ON items USING ivfpq (embedding) WITH (m = 16000);

-- Nor can more than maintenance_work_mem holds: the sample is smaller, or the
-- lists are fewer.  The message's numbers are left out.
CREATE TABLE long AS SELECT i AS id, array_fill(sin(i)::real, '{500}') || array_fill(sin(i * 1.7)::real, '{500}') AS embedding FROM generate_series(1, 4000) i;
\set VERBOSITY terse
SET maintenance_work_mem = '1MB';
CREATE INDEX long_index ON long USING ivfpq (embedding) WITH (lists = 1000, train_rows = 4000);
SELECT lists < 1000 AS fewer_lists, train_rows < 4000 AS smaller_sample, rows FROM ivfpq_index_info('long_index');
SET maintenance_work_mem = '12MB';
CREATE INDEX long_sample ON long USING ivfpq (embedding) WITH (lists = 10, train_rows = 4000);
SELECT lists, train_rows < 4000 AS smaller_sample, rows FROM ivfpq_index_info('long_sample');
SET maintenance_work_mem = '100MB';
CREATE INDEX long_enough ON long USING ivfpq (embedding) WITH (lists = 1000, train_rows = 4000);
SELECT lists, train_rows, rows FROM ivfpq_index_info('long_enough');
-- Lists that are trained on a few rows each first go on with rows that are read again
CREATE TABLE many AS SELECT i AS id, (SELECT array_agg((hashint4(i * 64 + j) / 2147483648.0)::real ORDER BY j) FROM generate_series(0, 63) j) AS embedding FROM generate_series(1, 30000) i;
SET maintenance_work_mem = '1MB';
CREATE INDEX many_index ON many USING ivfpq (embedding) WITH (lists = 1500);
SELECT train_rows < 8 * lists AS few_rows, imbalance < 1.5 AS even FROM ivfpq_index_info('many_index');
DROP TABLE many;
\set VERBOSITY default
RESET maintenance_work_mem;
DROP INDEX long_sample, long_enough;
SET enable_seqscan = off;
SELECT count(DISTINCT id) FROM (SELECT id FROM long ORDER BY embedding <-> (SELECT embedding FROM long WHERE id = 7)) t;
RESET enable_seqscan;
SELECT ivfpq_check('long_index', true, true);
DROP TABLE long;

-- The rows of a partial index may be in few blocks of the table
CREATE TABLE sparse (id int, embedding real[]) WITH (fillfactor = 10);
INSERT INTO sparse SELECT * FROM items WHERE id <= 5000;
CREATE INDEX sparse_index ON sparse USING ivfpq (embedding) WHERE id BETWEEN 2001 AND 3000;
CREATE INDEX sparse_one ON sparse USING ivfpq (embedding) WHERE id = 77;
SELECT lists > 1 AS has_lists, rows FROM ivfpq_index_info('sparse_index');
SELECT lists, rows FROM ivfpq_index_info('sparse_one');
SELECT relname, reltuples FROM pg_class WHERE relname IN ('sparse', 'sparse_index', 'sparse_one') ORDER BY relname;
SELECT ivfpq_check('sparse_index', true, true), ivfpq_check('sparse_one', true, true);
DROP TABLE sparse;

-- and then the table is not read again and again to find them
CREATE TABLE sparse (id int, embedding real[], filler text) WITH (fillfactor = 10, autovacuum_enabled = off);
ALTER TABLE sparse ALTER filler SET STORAGE plain;
INSERT INTO sparse SELECT id, embedding, repeat('x', 600) FROM items WHERE id <= 3000;
SET max_parallel_maintenance_workers = 0;
SELECT pg_stat_force_next_flush();
SELECT heap_blks_read + heap_blks_hit AS blocks_before FROM pg_statio_user_tables WHERE relname = 'sparse' \gset
CREATE INDEX ON sparse USING ivfpq (embedding) WHERE id % 15 = 0;
SELECT pg_stat_force_next_flush();
SELECT (heap_blks_read + heap_blks_hit - :blocks_before) < 2.3 * pg_relation_size('sparse') / current_setting('block_size')::int AS about_twice
FROM pg_statio_user_tables WHERE relname = 'sparse';
RESET max_parallel_maintenance_workers;
DROP TABLE sparse;

-- What fills its pages to the last byte: a directory of 408 lists, the mean of 2,040 dimensions
CREATE TABLE full_pages AS SELECT id, array_fill(id::real, '{1020}') || array_fill((id % 7)::real, '{1020}') AS embedding FROM items WHERE id <= 520;
CREATE INDEX full_directory ON items USING ivfpq (embedding) WITH (lists = 408);
CREATE INDEX full_mean ON full_pages USING ivfpq (embedding) WITH (lists = 2);
SELECT i.lists, i.dims FROM unnest('{full_directory,full_mean}'::regclass[]) index, ivfpq_index_info(index) i;
SELECT ivfpq_check('full_directory', true, true), ivfpq_check('full_mean', true, true);
DROP INDEX full_directory;
DROP TABLE full_pages;

-- The same table gives the same index every time
CREATE INDEX first_index ON items USING ivfpq (embedding) WITH (lists = 20);
CREATE INDEX second_index ON items USING ivfpq (embedding) WITH (lists = 20);
SELECT count(*) AS lists, bool_and(a.rows = b.rows) AS same_rows FROM ivfpq_list_info('first_index') a JOIN ivfpq_list_info('second_index') b USING (list);
SELECT count(*) FILTER (WHERE ivfpq_reconstruct('first_index', ctid) = ivfpq_reconstruct('second_index', ctid)) AS same_codes
FROM items WHERE id % 1000 = 0;

-- The table's statistics are set
SELECT relname, reltuples FROM pg_class WHERE relname IN ('items', 'first_index') ORDER BY relname;

-- Rows that are deleted or replaced need not be vectors of the index, not even in the same transaction
CREATE TABLE replaced AS SELECT i AS id, ARRAY[i, i % 7, i % 11]::real[] AS embedding FROM generate_series(1, 3000) i;
BEGIN;
UPDATE replaced SET embedding = embedding || '{1,2}'::real[];
CREATE INDEX replaced_index ON replaced USING ivfpq (embedding);
COMMIT;
SELECT dims, rows FROM ivfpq_index_info('replaced_index');
BEGIN;
DROP INDEX replaced_index;
INSERT INTO replaced VALUES (3001, '{NaN,0,0,0,0}'), (3002, '{1}'), (3003, '{1,NULL,3,4,5}'), (3004, '{}');
DELETE FROM replaced WHERE id > 3000;
CREATE INDEX replaced_index ON replaced USING ivfpq (embedding);
COMMIT;
SET enable_seqscan = off;
SELECT id FROM replaced ORDER BY embedding <-> '{77,0,0,1,2}' LIMIT 1;
RESET enable_seqscan;
SELECT ivfpq_check('replaced_index', true, true);
DROP TABLE replaced;

-- nor do they say a dimension that the index cannot have
CREATE TABLE replaced (embedding real[]);
INSERT INTO replaced VALUES ('{1,2}');
BEGIN;
DELETE FROM replaced;
CREATE INDEX replaced_index ON replaced USING ivfpq (embedding) WITH (m = 8);
COMMIT;
-- which is said at the first row
INSERT INTO replaced VALUES ('{1,2}');
INSERT INTO replaced VALUES ('{1,2,3,4,5,6,7,8}');
SELECT ivfpq_check('replaced_index', true, true);
DROP TABLE replaced;

-- nor values of other arrays that an operator class of one's own lets in
CREATE OPERATOR CLASS double_ops FOR TYPE double precision[] USING ivfpq AS
	OPERATOR 1 <-> (double precision[], double precision[]) FOR ORDER BY pg_catalog.float_ops, FUNCTION 1 ivfpq_l2_metric();
CREATE TABLE doubles AS SELECT ARRAY[i, 1, 2]::double precision[] AS embedding FROM generate_series(1, 50) i;
BEGIN;
INSERT INTO doubles VALUES ('{NaN,1,2}'), ('{1e300,1,2}'), ('{1,2}');
DELETE FROM doubles WHERE embedding = '{NaN,1,2}' OR embedding = '{1e300,1,2}' OR embedding = '{1,2}';
CREATE INDEX doubles_index ON doubles USING ivfpq (embedding double_ops);
COMMIT;
SELECT dims, rows FROM ivfpq_index_info('doubles_index');
DROP TABLE doubles;
DROP OPERATOR FAMILY double_ops USING ivfpq;

DROP TABLE items;
DROP FUNCTION try_build, vector_of;

-- Rows deleted by the transaction itself are not taken for vectors of other dimensions: the index is used at once
BEGIN;
CREATE TABLE items AS SELECT i AS id, ARRAY[i, i + 1, i + 2]::real[] AS embedding FROM generate_series(1, 3000) i;
DELETE FROM items WHERE id <= 400;
CREATE INDEX items_index ON items USING ivfpq (embedding);
SELECT indcheckxmin FROM pg_index WHERE indexrelid = 'items_index'::regclass;
ROLLBACK;

-- Half of the blocks that one member of a team samples have no rows to index: nothing else is trained on in their place
CREATE TABLE uneven AS SELECT i AS id, (i - 1) / 12 % 4 <> 1 AS is_kept,
	(SELECT array_agg(10 + hashint4(i * 200 + d) / 2e9)::real[] FROM generate_series(1, 150) d) AS embedding FROM generate_series(1, 3000) i;
SELECT count(*) AS per_block FROM (SELECT FROM uneven WHERE (ctid::text::point)[0] = 100) s;
ALTER TABLE uneven SET (parallel_workers = 1);
CREATE INDEX uneven_index ON uneven USING ivfpq (embedding) WITH (lists = 40) WHERE is_kept;
SELECT train_rows, (SELECT count(*) FROM ivfpq_list_info('uneven_index') WHERE rows = 0) AS lists_without_rows FROM ivfpq_index_info('uneven_index');
DROP TABLE uneven;

-- Of rows that are all equal no more train than one list has, so that other rows have the lists
CREATE TABLE copies AS SELECT i AS id, (SELECT array_agg(CASE WHEN i % 5 < 3 THEN d ELSE hashint4(i * 100 + d) / 1e8 END)::real[]
	FROM generate_series(1, 16) d) AS embedding FROM generate_series(1, 5000) i;
CREATE INDEX copies_index ON copies USING ivfpq (embedding);
SELECT train_rows BETWEEN 2000 AND 2100 AS few_copies, (SELECT count(*) < 5 FROM ivfpq_list_info('copies_index') WHERE rows = 0) AS lists_have_rows
FROM ivfpq_index_info('copies_index');
SELECT count(*) FROM (SELECT id FROM copies ORDER BY embedding <-> '{1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}' LIMIT 2900) s JOIN copies USING (id) WHERE id % 5 < 3;
DROP TABLE copies;

-- Whether there are rows enough for codes is counted where an estimate leaves it open, or VACUUM would have the index rebuilt for ever
CREATE TABLE sparse (id int, embedding real[], note text) WITH (autovacuum_enabled = off);
INSERT INTO sparse SELECT i, CASE WHEN i / 85 % 10 = 0 THEN ARRAY[sin(i), cos(i * 1.3)] END, repeat('x', 100) FROM generate_series(1, 100800) i;
CREATE INDEX sparse_index ON sparse USING ivfpq (embedding) WITH (nbits = 8, autoreindex = off);
SELECT rows, lists > 1 AS has_codes, advice FROM ivfpq_index_info('sparse_index');
VACUUM sparse;
DROP TABLE sparse;
