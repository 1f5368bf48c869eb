--
-- Settings and storage parameters
--

-- Settings are known once the library is loaded, which its first use does
LOAD 'vqpg';

-- Defaults
SELECT name, setting, min_val, max_val, enumvals, context FROM pg_settings WHERE name LIKE 'ivfpq.%' ORDER BY name;

-- Out of range or misspelt, a setting is refused
SET ivfpq.nprobe = -1;
SET ivfpq.nprobe = 262145;
SET ivfpq.max_probes = -1;
SET ivfpq.recall = 0.49;
SET ivfpq.recall = 1;
SET ivfpq.recall = 'NaN';
SET ivfpq.epsilon = -0.5;
SET ivfpq.epsilon = 100.5;
SET ivfpq.iterative_scan = 'sometimes';
SET ivfpq.kernel = 'fastest';
SET ivfpq.nprobes = 10;

-- At its limits it is accepted
SET ivfpq.nprobe = 262144;
SET ivfpq.max_probes = 262144;
SET ivfpq.recall = 0.5;
SET ivfpq.recall = 0.999;
SET ivfpq.epsilon = 0;
SET ivfpq.iterative_scan = strict_order;
RESET ivfpq.nprobe;
RESET ivfpq.max_probes;
RESET ivfpq.recall;
RESET ivfpq.epsilon;
RESET ivfpq.iterative_scan;

-- A kernel can be chosen exactly if this machine has it; "auto" is the first of them
CREATE FUNCTION kernel_outcome(kernel text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('ivfpq.kernel', kernel, true);
	RETURN (SELECT string_agg(name, ', ') FROM vqpg_kernels() WHERE in_use);
EXCEPTION WHEN feature_not_supported THEN
	RETURN CASE WHEN SQLERRM LIKE 'this machine cannot run the "' || kernel || '" kernels' THEN 'refused' ELSE SQLERRM END;
END $$;
SELECT kernel, kernel_outcome(kernel) AS outcome
FROM unnest('{scalar,avx2,avx512,avx512_vnni,avx512_vbmi,avx512_amx,neon,neon_dotprod}'::text[]) AS kernel
WHERE kernel_outcome(kernel) IS DISTINCT FROM
	CASE WHEN kernel IN (SELECT name FROM vqpg_kernels() WHERE supported) THEN kernel ELSE 'refused' END;
SELECT kernel_outcome('auto') = (SELECT name FROM vqpg_kernels() WHERE supported LIMIT 1) AS auto_is_best;
SET ivfpq.kernel = scalar;
SELECT name, supported, in_use FROM vqpg_kernels() WHERE in_use;
RESET ivfpq.kernel;

-- Settings work for a function, a role and a database
CREATE FUNCTION nprobe_inside() RETURNS text SET ivfpq.nprobe = 7 LANGUAGE sql AS $$ SELECT current_setting('ivfpq.nprobe') $$;
SELECT nprobe_inside(), current_setting('ivfpq.nprobe') AS outside;
CREATE ROLE regress_vqpg_user;
ALTER ROLE regress_vqpg_user SET ivfpq.nprobe = 12;
SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'regress_vqpg_user'::regrole;

-- Checking an index, and seeing what its codes remember, has to be granted
SET ROLE regress_vqpg_user;
SELECT ivfpq_check('pg_class'::regclass);
SELECT ivfpq_reconstruct('pg_class'::regclass, '(0,1)');
RESET ROLE;
DROP ROLE regress_vqpg_user;

CREATE TABLE items (id int, embedding real[]);
INSERT INTO items SELECT i, ARRAY[i, i % 7, i % 11] FROM generate_series(1, 50) i;

-- Out of range or misspelt, a storage parameter is refused
CREATE INDEX ON items USING ivfpq (embedding) WITH (lists = -1);
CREATE INDEX ON items USING ivfpq (embedding) WITH (lists = 262145);
CREATE INDEX ON items USING ivfpq (embedding) WITH (m = -1);
CREATE INDEX ON items USING ivfpq (embedding) WITH (m = 16001);
CREATE INDEX ON items USING ivfpq (embedding) WITH (nbits = 3);
CREATE INDEX ON items USING ivfpq (embedding) WITH (nbits = 5);
CREATE INDEX ON items USING ivfpq (embedding) WITH (rotation = 'random');
CREATE INDEX ON items USING ivfpq (embedding) WITH (autoreindex = 'sometimes');
CREATE INDEX ON items USING ivfpq (embedding) WITH (dims = 16001);
CREATE INDEX ON items USING ivfpq (embedding) WITH (train_rows = 67108865);
CREATE INDEX ON items USING ivfpq (embedding) WITH (nprobe = 262145);
CREATE INDEX ON items USING ivfpq (embedding) WITH (probes = 3);

-- One vector, first, of a type that has an operator class, and not unique
CREATE INDEX ON items USING ivfpq (id);
CREATE INDEX ON items USING ivfpq (embedding, embedding);
CREATE INDEX ON items USING ivfpq (embedding) INCLUDE (id);
CREATE UNIQUE INDEX ON items USING ivfpq (embedding);
-- (the server's message has a position or not)
\set VERBOSITY sqlstate
CREATE INDEX ON items USING ivfpq (embedding DESC);
\set VERBOSITY default

-- All at once, they are kept, shown, and changed
CREATE INDEX items_index ON items USING ivfpq (embedding array_l2_ops)
	WITH (lists = 4, m = 3, nbits = 8, rotation = none, dims = 3, train_rows = 50, nprobe = 2, autoreindex = off);
SELECT reloptions FROM pg_class WHERE relname = 'items_index';
SELECT pg_get_indexdef('items_index'::regclass);
SELECT metric, dims, rows FROM ivfpq_index_info('items_index');
ALTER INDEX items_index SET (nbits = 6);
ALTER INDEX items_index SET (nbits = 4, nprobe = 0);
BEGIN;
ALTER INDEX items_index SET (nprobe = 3, rotation = none);
SELECT mode AS disturbs_nobody FROM pg_locks WHERE relation = 'items_index'::regclass;
ROLLBACK;
ALTER INDEX items_index RESET (nbits, m);
SELECT reloptions FROM pg_class WHERE relname = 'items_index';
SELECT ivfpq_check('items_index');

-- What the access method can do
SELECT property, pg_indexam_has_property(am.oid, property) AS am
FROM pg_am am, unnest('{can_order,can_unique,can_multi_col,can_exclude,can_include}'::text[]) AS property WHERE amname = 'ivfpq';
SELECT property, pg_index_has_property('items_index'::regclass, property) AS index
FROM unnest('{clusterable,index_scan,bitmap_scan,backward_scan}'::text[]) AS property;
SELECT property, pg_index_column_has_property('items_index'::regclass, 1, property) AS column
FROM unnest('{orderable,distance_orderable,returnable,search_array,search_nulls}'::text[]) AS property;

DROP TABLE items;
DROP FUNCTION kernel_outcome, nprobe_inside;

-- Sub-quantisers that the vectors do not have dimensions for are refused at once, not by the REINDEX that
-- a table that has grown needs
CREATE TABLE few AS SELECT i AS id, ARRAY[i, i % 3, 1]::real[] AS embedding FROM generate_series(1, 100) i;
CREATE INDEX few_index ON few USING ivfpq (embedding) WITH (m = 9);
CREATE INDEX few_index ON few USING ivfpq (embedding) WITH (m = 3);
DROP TABLE few;
CREATE TABLE none (embedding real[]);
CREATE INDEX none_index ON none USING ivfpq (embedding) WITH (dims = 2, m = 3);
CREATE INDEX none_index ON none USING ivfpq (embedding);

-- A number of dimensions that is set later holds as well
ALTER INDEX none_index SET (dims = 5);
INSERT INTO none VALUES ('{1,2,3}');
INSERT INTO none VALUES ('{1,2,3,4,5}');
SELECT dims FROM ivfpq_index_info('none_index');
SELECT ivfpq_check('none_index', true, true);
DROP TABLE none;

-- A class for a type that is no vector is invalid, and cannot be used
CREATE FUNCTION number_distance(int, int) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT abs($1 - $2)::float8';
CREATE OPERATOR <~> (LEFTARG = int, RIGHTARG = int, FUNCTION = number_distance);
CREATE FUNCTION number_kind() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE OPERATOR CLASS number_ops FOR TYPE int USING ivfpq AS
	OPERATOR 1 <~> (int, int) FOR ORDER BY float_ops, FUNCTION 1 ivfpq_l2_metric(), FUNCTION 2 number_kind();
SELECT amvalidate(oid) FROM pg_opclass WHERE opcname = 'number_ops';
CREATE TABLE numbers AS SELECT 5 AS i;
CREATE INDEX ON numbers USING ivfpq (i number_ops);
DROP TABLE numbers;
DROP OPERATOR FAMILY number_ops USING ivfpq;
DROP OPERATOR <~> (int, int);
DROP FUNCTION number_distance, number_kind;
