--
-- Codes of the directions in which vectors vary most (rotation = learned)
--

-- Vectors of 48 dimensions that lie near a space of twelve, in no direction of the axes
CREATE FUNCTION vector_of(id int) RETURNS real[] IMMUTABLE LANGUAGE sql AS $$
	SELECT array_agg(((SELECT sum(sin(id * (t + 0.7) * 12.9898) * sin(t * j * 1.7) / t) FROM generate_series(1, 12) t)
					  + 0.02 * sin(id * j * 78.233))::real ORDER BY j)
	FROM generate_series(1, 48) j $$;
CREATE TABLE items AS SELECT i AS id, vector_of(i) AS embedding FROM generate_series(1, 9000) i;
CREATE TABLE queries AS SELECT i AS id, vector_of(i) AS embedding FROM generate_series(20001, 20050) i;
SET max_parallel_workers_per_gather = 0;

-- Distances of the ten nearest rows of all queries, by an index or by reading the whole table
CREATE FUNCTION nearest(operator text, by_index boolean) RETURNS float8[] LANGUAGE plpgsql AS $$
DECLARE
	distances float8[];
BEGIN
	PERFORM set_config('enable_seqscan', (NOT by_index)::text, true), set_config('enable_indexscan', by_index::text, true);
	EXECUTE format('SELECT array_agg(d) FROM queries q,
		LATERAL (SELECT i.embedding %s q.embedding FROM items i ORDER BY 1 LIMIT 10) t (d)', operator) INTO distances;
	RETURN distances;
END $$;

-- How far rows are from what their codes stand for, on average
CREATE FUNCTION code_error(index regclass) RETURNS float8 LANGUAGE sql AS $$
	SELECT avg(array_l2_distance(embedding, ivfpq_reconstruct(index, ctid)) ^ 2) FROM items WHERE id % 10 = 0 $$;

CREATE FUNCTION try_index(class text, operator text, options text, OUT rotation text, OUT code_bytes int, OUT all_exact boolean,
						  OUT default_recall float8, OUT code_error float8) LANGUAGE plpgsql AS $$
DECLARE
	exact float8[] := nearest(operator, false);
BEGIN
	EXECUTE format('CREATE INDEX tried ON items USING ivfpq (embedding %I) WITH (%s)', class, options);
	SELECT i.rotation, i.code_bytes INTO rotation, code_bytes FROM ivfpq_index_info('tried') i;
	SET LOCAL ivfpq.nprobe = 262144;
	SET LOCAL ivfpq.epsilon = 100;
	all_exact := nearest(operator, true) = exact;
	SET LOCAL ivfpq.nprobe = 0;
	SET LOCAL ivfpq.epsilon = 2;
	default_recall := avg((d <= wanted)::int::float8)
		FROM ROWS FROM (unnest(nearest(operator, true)), unnest(exact)) t (d, wanted);
	IF class = 'array_l2_ops' THEN
		code_error := code_error('tried');
	END IF;
	PERFORM ivfpq_check('tried', true, true);
	DROP INDEX tried;
END $$;

-- For every operator class (but none is projected for inner products) and size of codes (but the largest, which leaves nothing
-- out), all lists and a very careful bound give the exact answer, and the default settings most of it; less for inner products
-- by codes of one byte: their errors are not in all 48 directions alike, which nothing measures without a projection
SELECT class, options, rotation, code_bytes, all_exact,
	   default_recall >= CASE WHEN class = 'array_ip_ops' AND options = 'm = 1' THEN 0.6 ELSE 0.9 END AS default_is_good
FROM (VALUES ('array_l2_ops', '<->'), ('array_ip_ops', '<#>'), ('array_cosine_ops', '<=>')) c (class, operator),
	 (VALUES (1, 'nbits = 4'), (2, 'nbits = 8'), (3, 'm = 1'), (4, 'm = 10, nbits = 8'), (5, 'm = 31'), (6, 'm = 20, lists = 1'), (7, 'm = 24')) o (n, options),
	 try_index(class, operator, options)
ORDER BY class, n;

-- Of as many bytes, they say far more
SELECT l.code_bytes = h.code_bytes AS as_large, l.code_error < 0.25 * h.code_error AS far_better
FROM try_index('array_l2_ops', '<->', 'm = 12') l, try_index('array_l2_ops', '<->', 'm = 12, rotation = hadamard') h;

-- Rows that come later are coded as those of the build
CREATE INDEX items_index ON items USING ivfpq (embedding);
CREATE TABLE before AS SELECT code_error('items_index') AS error;
DELETE FROM items WHERE id % 2 = 0;
VACUUM items;
INSERT INTO items SELECT i, vector_of(i) FROM generate_series(2, 9000, 2) i;
SELECT code_error('items_index') BETWEEN 0.9 * error AND 1.1 * error AS as_good FROM before;
SELECT ivfpq_check('items_index', true, true);
SET enable_seqscan = off;
SET ivfpq.nprobe = 262144;
SELECT count(*) FILTER (WHERE found) AS found FROM generate_series(2, 9000, 90) i,
	LATERAL (SELECT id = i AS found FROM items ORDER BY embedding <-> vector_of(i) LIMIT 1) t;
RESET ivfpq.nprobe;
RESET enable_seqscan;
DROP INDEX items_index;

-- What a projection leaves out of a row is still compared: one that lies where no row of the build varies
CREATE INDEX items_index ON items USING ivfpq (embedding);
INSERT INTO items SELECT 100000, array_agg((x + 3 * sin(j * j * 0.9))::real ORDER BY j) FROM unnest(vector_of(7)) WITH ORDINALITY t (x, j);
SET enable_seqscan = off;
SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 100000) LIMIT 1;
RESET enable_seqscan;
DROP INDEX items_index;

-- It takes dimensions that can be spared, and rows to learn from
CREATE FUNCTION rotation_of(dims int, nrows int, options text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	rotation text;
BEGIN
	CREATE TABLE tried AS SELECT i AS id, (vector_of(i))[1:dims] AS embedding FROM generate_series(1, nrows) i;
	EXECUTE format('CREATE INDEX tried_index ON tried USING ivfpq (embedding) WITH (lists = 4%s)', options);
	SELECT i.rotation INTO rotation FROM ivfpq_index_info('tried_index') i;
	PERFORM ivfpq_check('tried_index', true, true);
	DROP TABLE tried;
	RETURN rotation;
END $$;
SELECT dims, nrows, options, rotation_of(dims, nrows, options)
FROM (VALUES (31, 600, ''), (32, 600, ''), (48, 600, ''), (48, 600, ', train_rows = 383'), (48, 600, ', train_rows = 384'),
			 (48, 600, ', rotation = hadamard'), (48, 600, ', rotation = none')) v (dims, nrows, options);

-- And directions that can be spared: where vectors vary alike in all, codes of a part would be worse than codes of all.  Alone,
-- and with workers
CREATE TABLE even AS SELECT i AS id, (SELECT array_agg((sin(i * j * 12.9898) + sin(i * j * 78.233) + sin(i * j * 37.719))::real)
	FROM generate_series(1, 48) j) AS embedding FROM generate_series(1, 9000) i;
ALTER TABLE even SET (parallel_workers = 2);
SET min_parallel_table_scan_size = 0;
CREATE FUNCTION even_index(workers int, memory text, OUT rotation text, OUT m int, OUT finds bigint) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('max_parallel_maintenance_workers', workers::text, true), set_config('maintenance_work_mem', memory, true);
	CREATE INDEX even_index ON even USING ivfpq (embedding);
	PERFORM ivfpq_check('even_index', true, true), set_config('enable_seqscan', 'off', true);
	SELECT i.rotation, i.m INTO rotation, m FROM ivfpq_index_info('even_index') i;
	SELECT count(*) FILTER (WHERE t.found) INTO finds FROM even e,
		LATERAL (SELECT id = e.id AS found FROM even ORDER BY embedding <-> e.embedding LIMIT 1) t WHERE e.id % 90 = 0;
	DROP INDEX even_index;
END $$;
SELECT t.* FROM (VALUES (0, '64MB'), (2, '64MB')) v (workers, memory), even_index(workers, memory) t;
RESET min_parallel_table_scan_size;

-- Codes that fill no page are made a little smaller: of 384 dimensions 110 sub-quantisers would be 112 entries, and 108 are 120
CREATE TABLE long AS SELECT id, embedding || embedding || embedding || embedding || embedding || embedding || embedding || embedding AS embedding FROM items WHERE id <= 4000;
CREATE INDEX long_index ON long USING ivfpq (embedding);
SELECT dims, rotation, m, ivfpq_check('long_index', true, true) FROM ivfpq_index_info('long_index');
DROP TABLE long;
DROP TABLE items, queries, before, even;
DROP FUNCTION even_index, rotation_of, try_index, code_error, nearest, vector_of;
