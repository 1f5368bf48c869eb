--
-- Types that keep vectors as pgvector's do: 16 bits with the number of
-- dimensions, 16 unused ones, and floats of 32 bits or of 16.  bytea stands in
-- for them here, with the bytes of a little-endian machine, so that this needs
-- no pgvector; test/vector has the same with the types themselves.
--
SET enable_seqscan = off;
SET ivfpq.nprobe = 1000;
SET ivfpq.epsilon = 100;
CREATE FUNCTION word(n int) RETURNS bytea LANGUAGE sql IMMUTABLE AS
	$$ SELECT set_byte(set_byte('\x0000'::bytea, 0, n & 255), 1, n >> 8 & 255) $$;
CREATE FUNCTION float_bytes(x real) RETURNS bytea LANGUAGE sql IMMUTABLE AS
	$$ SELECT string_agg(substr(float4send(x), i, 1), '' ORDER BY i DESC) FROM generate_series(1, 4) i $$;
CREATE FUNCTION vector_bytes(v real[]) RETURNS bytea LANGUAGE sql IMMUTABLE AS
	$$ SELECT word(cardinality(v)) || word(0) || string_agg(float_bytes(x), '' ORDER BY i)
	   FROM unnest(v) WITH ORDINALITY u (x, i) $$;

-- Halves are made of their bits, which say what they are
CREATE FUNCTION halfvec_bytes(halves int[]) RETURNS bytea LANGUAGE sql IMMUTABLE AS
	$$ SELECT word(cardinality(halves)) || word(0) || string_agg(word(h), '' ORDER BY i)
	   FROM unnest(halves) WITH ORDINALITY u (h, i) $$;
CREATE FUNCTION half_values(halves int[]) RETURNS real[] LANGUAGE sql IMMUTABLE AS
	$$ SELECT array_agg(((1 - 2 * (h >> 15)) * (1024 + (h & 1023)) * 2.0::float8 ^ ((h >> 10 & 31) - 25))::real ORDER BY i)
	   FROM unnest(halves) WITH ORDINALITY u (h, i) $$;

-- An index scan has distances of its own: what the operator computes is not seen
CREATE FUNCTION no_distance(bytea, bytea) RETURNS float8 IMMUTABLE STRICT LANGUAGE plpgsql AS
	$$ BEGIN RETURN 0; END $$;
CREATE OPERATOR <-> (LEFTARG = bytea, RIGHTARG = bytea, COMMUTATOR = <->, FUNCTION = no_distance);
CREATE FUNCTION vector_kind() RETURNS int4 AS '$libdir/vqpg', 'ivfpq_vector_kind' LANGUAGE C IMMUTABLE;
CREATE FUNCTION halfvec_kind() RETURNS int4 AS '$libdir/vqpg', 'ivfpq_halfvec_kind' LANGUAGE C IMMUTABLE;
CREATE OPERATOR CLASS bytes_vector_ops FOR TYPE bytea USING ivfpq AS
	OPERATOR 1 <-> (bytea, bytea) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 ivfpq_l2_metric(), FUNCTION 2 vector_kind();
CREATE OPERATOR CLASS bytes_halfvec_ops FOR TYPE bytea USING ivfpq AS
	OPERATOR 1 <-> (bytea, bytea) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 ivfpq_l2_metric(), FUNCTION 2 halfvec_kind();
SELECT opcname, amvalidate(oid) FROM pg_opclass WHERE opcname LIKE 'bytes%' ORDER BY 1;

-- Vectors of 9 dimensions have short headers when stored, those of 70 long ones
CREATE TABLE items (id int, narrow real[], wide real[], halves real[], narrow_bytes bytea, wide_bytes bytea, half_bytes bytea);
INSERT INTO items
SELECT i, narrow, wide, half_values(half), vector_bytes(narrow), vector_bytes(wide), halfvec_bytes(half)
FROM (SELECT i,
			 (SELECT array_agg(sin(i * j)::real ORDER BY j) FROM generate_series(1, 9) j) AS narrow,
			 (SELECT array_agg(sin(i * j)::real ORDER BY j) FROM generate_series(1, 70) j) AS wide,
			 (SELECT array_agg(((h & 1) << 15) + ((13 + (h >> 1 & 1)) << 10) + (h >> 2 & 1023) ORDER BY j)
			  FROM generate_series(1, 11) j, hashint4(i * 41 + j) h) AS half
	  FROM generate_series(1, 900) i) s;
CREATE INDEX items_narrow ON items USING ivfpq (narrow_bytes bytes_vector_ops) WITH (lists = 10);
CREATE INDEX items_wide ON items USING ivfpq (wide_bytes bytes_vector_ops) WITH (lists = 10);
CREATE INDEX items_half ON items USING ivfpq (half_bytes bytes_halfvec_ops) WITH (lists = 10);
SELECT dims, m > 0 AS has_codes, rows FROM unnest('{items_narrow,items_wide,items_half}'::regclass[]) i, ivfpq_index_info(i);

-- What is near is what is near among the same vectors as arrays
CREATE FUNCTION nearest(vectors text, query int) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
	ids int[];
BEGIN
	EXECUTE format('SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY %1$I <-> (SELECT %1$I FROM items WHERE id = %2$s) LIMIT 10) t',
				   vectors, query) INTO ids;
	RETURN ids;
END $$;
SELECT count(*) AS queries,
	   bool_and(nearest('narrow_bytes', q) = nearest('narrow', q)) AS narrow,
	   bool_and(nearest('wide_bytes', q) = nearest('wide', q)) AS wide,
	   bool_and(nearest('half_bytes', q) = nearest('halves', q)) AS halves
FROM generate_series(1, 900, 60) q;

-- Later rows, NULL, and all of it checked
UPDATE items SET narrow_bytes = NULL, half_bytes = NULL WHERE id = 5;
INSERT INTO items (id, narrow_bytes, half_bytes) SELECT 1000 + id, narrow_bytes, half_bytes FROM items WHERE id < 10;
SELECT nearest('half_bytes', 7) @> '{7,1007}' AS finds_both, nearest('narrow_bytes', 1008) @> '{8,1008}' AS finds_both;
SELECT ivfpq_check(i, true, true) FROM unnest('{items_narrow,items_wide,items_half}'::regclass[]) i;

-- What is stored out of line
CREATE TABLE long_items (id int, embedding bytea);
ALTER TABLE long_items ALTER embedding SET STORAGE EXTERNAL;
INSERT INTO long_items
SELECT i, (SELECT vector_bytes(array_agg(sin(i * j)::real ORDER BY j)) FROM generate_series(1, 1000) j) FROM generate_series(1, 20) i;
CREATE INDEX long_items_index ON long_items USING ivfpq (embedding bytes_vector_ops);
SELECT id FROM long_items ORDER BY embedding <-> (SELECT embedding FROM long_items WHERE id = 17) LIMIT 1;
SELECT ivfpq_check('long_items_index', true, true);
DROP TABLE long_items;

-- Other dimensions, and bytes that are no vector
INSERT INTO items (narrow_bytes) VALUES (vector_bytes('{1,2,3}'));
SELECT id FROM items ORDER BY half_bytes <-> halfvec_bytes('{0,1,2}') LIMIT 1;
INSERT INTO items (narrow_bytes) VALUES ('');
INSERT INTO items (narrow_bytes) VALUES ('\x0100');
INSERT INTO items (narrow_bytes) VALUES ('\x00000000');
INSERT INTO items (narrow_bytes) VALUES (word(-9) || word(0) || substr((SELECT narrow_bytes FROM items WHERE id = 1), 5));
INSERT INTO items (narrow_bytes) VALUES (word(9) || word(0) || '\x00000000');
INSERT INTO items (narrow_bytes) SELECT narrow_bytes || '\x00' FROM items WHERE id = 1;
INSERT INTO items (half_bytes) SELECT narrow_bytes FROM items WHERE id = 1;
SELECT id FROM items ORDER BY narrow_bytes <-> '\x0a00' LIMIT 1;

-- Numbers that are not finite, in either size
INSERT INTO items (narrow_bytes) VALUES (vector_bytes('{1,2,3,4,NaN,6,7,8,9}'));
INSERT INTO items (narrow_bytes) VALUES (vector_bytes('{1,2,3,4,5,6,7,8,-Infinity}'));
INSERT INTO items (half_bytes) SELECT halfvec_bytes(array_fill(0, '{10}') || x'7C00'::int);
INSERT INTO items (half_bytes) SELECT halfvec_bytes(array_fill(0, '{10}') || x'FE00'::int);

-- A class that does not say how to read its type, or says what nobody knows
CREATE OPERATOR CLASS bytes_bare_ops FOR TYPE bytea USING ivfpq AS
	OPERATOR 1 <-> (bytea, bytea) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 ivfpq_l2_metric();
CREATE INDEX ON items USING ivfpq (narrow_bytes bytes_bare_ops);
CREATE FUNCTION odd_kind() RETURNS int4 LANGUAGE sql IMMUTABLE AS 'SELECT 7';
CREATE OPERATOR CLASS bytes_odd_ops FOR TYPE bytea USING ivfpq AS
	OPERATOR 1 <-> (bytea, bytea) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 ivfpq_l2_metric(), FUNCTION 2 odd_kind();
CREATE INDEX ON items USING ivfpq (narrow_bytes bytes_odd_ops);

DROP TABLE items;
DROP OPERATOR FAMILY bytes_vector_ops USING ivfpq;
DROP OPERATOR FAMILY bytes_halfvec_ops USING ivfpq;
DROP OPERATOR FAMILY bytes_bare_ops USING ivfpq;
DROP OPERATOR FAMILY bytes_odd_ops USING ivfpq;
DROP OPERATOR <-> (bytea, bytea);
DROP FUNCTION no_distance, vector_kind, halfvec_kind, odd_kind, nearest, halfvec_bytes, half_values, vector_bytes, float_bytes, word;
