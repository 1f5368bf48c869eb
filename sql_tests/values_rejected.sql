--
-- What is not a vector of the index's dimension is refused, wherever it comes
-- from, and leaves no trace
--

-- An index with codes, one without, and tables to be indexed
CREATE TABLE items AS SELECT i AS id, ARRAY[i, i % 7, i % 11]::real[] AS embedding FROM generate_series(1, 600) i;
CREATE TABLE few AS SELECT * FROM items WHERE id <= 10;
CREATE TABLE items_plain AS TABLE items;
CREATE TABLE few_plain AS TABLE few;
CREATE INDEX items_index ON items USING ivfpq (embedding);
CREATE INDEX few_index ON few USING ivfpq (embedding);
SELECT (SELECT m > 0 FROM ivfpq_index_info('items_index')) AS items_has_codes,
	   (SELECT m > 0 FROM ivfpq_index_info('few_index')) AS few_has_codes;
SET enable_seqscan = off;

-- Inserted
INSERT INTO items VALUES (0, '{}');
INSERT INTO items VALUES (0, '{{1,2,3}}');
INSERT INTO items VALUES (0, '{1,NULL,3}');
INSERT INTO items VALUES (0, '{1,2,NaN}');
INSERT INTO items VALUES (0, '{Infinity,2,3}');
INSERT INTO items VALUES (0, '{1,-Infinity,3}');
INSERT INTO items VALUES (0, '{1,2}');
INSERT INTO items VALUES (0, '{1,2,3,4}');
INSERT INTO items VALUES (0, array_fill(1::real, '{16001}'));

-- Updated and copied
UPDATE items SET embedding[2] = 'NaN' WHERE id = 5;
UPDATE items SET embedding = embedding || embedding WHERE id = 5;
COPY items FROM stdin;
1001	{1,2,3}
1002	{1,NaN,3}
\.

-- The query of a search
SELECT id FROM items ORDER BY embedding <-> '{}' LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> '{{1,2,3}}' LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> '{1,NULL,3}' LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> '{1,2,NaN}' LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> '{1,-Infinity,3}'::float8[] LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> '{1,1e39,3}'::numeric[] LIMIT 1;
SELECT id FROM items ORDER BY embedding <-> '{1,2}' LIMIT 1;
SELECT id FROM few ORDER BY embedding <-> '{1,2,3,4}' LIMIT 1;

-- Every way gives the same message: into an index with and without codes, by
-- UPDATE, into an index that is being made, and as the query of a search
CREATE FUNCTION outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RAISE SQLSTATE 'VQ000' USING MESSAGE = 'accepted';	-- and undone
EXCEPTION WHEN OTHERS THEN
	RETURN SQLERRM;
END $$;
SELECT vector, count(*) AS ways, string_agg(DISTINCT outcome(replace(statement, '$', quote_literal(vector) || '::real[]')), ' | ') AS messages
FROM unnest('{"{}","{{1,2,3}}","{1,NULL,3}","{1,2,NaN}","{Infinity,2,3}","{1,2}","{1,2,3,4}","{1,2,3}"}'::text[]) vector,
	 (VALUES ('INSERT INTO items VALUES (0, $)'), ('INSERT INTO few VALUES (0, $)'),
			 ('UPDATE items SET embedding = $ WHERE id = 5'),
			 ('INSERT INTO items_plain VALUES (0, $); CREATE INDEX ON items_plain USING ivfpq (embedding)'),
			 ('INSERT INTO few_plain VALUES (0, $); CREATE INDEX ON few_plain USING ivfpq (embedding)'),
			 ('SELECT id FROM items ORDER BY embedding <-> $ LIMIT 1'),
			 ('SELECT id FROM few ORDER BY embedding <-> $ LIMIT 1')) w (statement)
GROUP BY vector ORDER BY vector COLLATE "C";
SELECT string_agg(DISTINCT outcome(replace(statement, '$', 'array_fill(1::real, ''{16001}'')')), ' | ') AS messages
FROM (VALUES ('INSERT INTO items VALUES (0, $)'), ('SELECT id FROM items ORDER BY embedding <-> $ LIMIT 1'),
			 ('INSERT INTO few_plain VALUES (0, $); CREATE INDEX ON few_plain USING ivfpq (embedding)')) w (statement);

-- The other operator classes do not accept more
SELECT class, vector, outcome(format('CREATE INDEX ON items USING ivfpq (embedding %I); INSERT INTO items VALUES (0, %L)', class, vector))
FROM unnest('{array_ip_ops,array_cosine_ops}'::text[]) class, unnest('{"{1,2,NaN}","{1,2}"}'::text[]) vector;

-- Nothing of all that was kept
SELECT count(*), max(id) FROM (SELECT id FROM items ORDER BY embedding <-> '{1,2,3}') t;
SELECT count(*), max(id) FROM (SELECT id FROM few ORDER BY embedding <-> '{1,2,3}') t;
VACUUM items, few;
SELECT ivfpq_check('items_index', true, true), ivfpq_check('few_index', true, true);

-- A column that is not an array of real is no vector
CREATE TABLE others (a double precision[], b text, c real);
CREATE INDEX ON others USING ivfpq (a);
CREATE INDEX ON others USING ivfpq (a array_l2_ops);
CREATE INDEX ON others USING ivfpq (b);
CREATE INDEX ON others USING ivfpq (c);

-- A function made to read a type that is none of numbers says so
CREATE FUNCTION text_distance(text[], text[]) RETURNS float8 AS 'vqpg', 'array_l2_distance' LANGUAGE C STRICT;
SELECT text_distance('{a}', '{b}');

-- So does an index that somebody's operator class made on such a type, and one
-- whose distance is none that is known
CREATE OPERATOR <~> (LEFTARG = text[], RIGHTARG = text[], FUNCTION = text_distance);
CREATE OPERATOR CLASS texts_ops FOR TYPE text[] USING ivfpq AS
	OPERATOR 1 <~> (text[], text[]) FOR ORDER BY float_ops, FUNCTION 1 ivfpq_l2_metric();
CREATE FUNCTION seventh_metric() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 7';
CREATE OPERATOR CLASS seventh_ops FOR TYPE real[] USING ivfpq AS
	OPERATOR 1 <-> (real[], real[]) FOR ORDER BY float_ops, FUNCTION 1 seventh_metric();
CREATE TABLE texts AS SELECT '{a}'::text[] AS t, '{1}'::real[] AS v;
CREATE INDEX ON texts USING ivfpq (t texts_ops);
CREATE INDEX ON texts USING ivfpq (v seventh_ops);
DROP TABLE texts;
DROP OPERATOR FAMILY texts_ops USING ivfpq CASCADE;
DROP OPERATOR FAMILY seventh_ops USING ivfpq CASCADE;
DROP OPERATOR <~> (text[], text[]);
DROP FUNCTION seventh_metric;

RESET enable_seqscan;
DROP TABLE items, few, items_plain, few_plain, others;
DROP FUNCTION outcome, text_distance;
