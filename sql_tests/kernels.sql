--
-- Whatever instruction set computes, an index is the same to its users.  What
-- the machine has differs, so nothing here may show it.
--
CREATE TABLE items AS
SELECT i AS id, (SELECT array_agg((sin(i % 40 * 7.3 * j + j) + 0.5 * sin(i * (j + 0.7) * 12.9898))::real ORDER BY j)
				 FROM generate_series(1, 21) j) AS embedding
FROM generate_series(1, 8500) i;
CREATE TABLE queries AS SELECT id, embedding FROM items WHERE id % 1000 = 500;
UPDATE queries SET embedding[5] = embedding[5] + 0.3;
CREATE INDEX four_bits ON items USING ivfpq (embedding array_l2_ops) WITH (lists = 50);
CREATE INDEX eight_bits ON items USING ivfpq (embedding array_cosine_ops) WITH (lists = 50, nbits = 8);
CREATE INDEX odd_m ON items USING ivfpq (embedding array_ip_ops) WITH (lists = 50, m = 7);
SET enable_seqscan = off;

-- The nearest ten of all queries, by a kernel and a bound
CREATE FUNCTION search(kernel text, operator text, epsilon text, nprobe text) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
	ids int[];
BEGIN
	PERFORM set_config('ivfpq.kernel', kernel, true);
	PERFORM set_config('ivfpq.epsilon', epsilon, true);
	PERFORM set_config('ivfpq.nprobe', nprobe, true);
	EXECUTE format('SELECT array_agg(n.id) FROM queries q, LATERAL
		(SELECT id FROM items ORDER BY embedding %s q.embedding LIMIT 10) n', operator) INTO ids;
	RETURN ids;
END $$;
CREATE FUNCTION supported() RETURNS SETOF text LANGUAGE sql AS $$ SELECT name FROM vqpg_kernels() WHERE supported $$;

-- Exactly one is in use, and plain C always is to be had
SELECT count(*) FILTER (WHERE in_use) AS in_use, bool_and(supported) FILTER (WHERE in_use) AS supported,
	   bool_and(supported) FILTER (WHERE name = 'scalar') AS has_scalar FROM vqpg_kernels();

-- Every kernel finds the same rows with a careful bound, and nearly the same with the default one
SELECT operator, bool_and(cardinality(found) = 90 AND found <@ reference AND found @> reference) AS all_agree
FROM unnest('{<->,<#>,<=>}'::text[]) operator,
	 LATERAL (SELECT search(kernel, operator, '100', '50') AS found, search('scalar', operator, '100', '50') AS reference FROM supported() kernel) t
GROUP BY operator ORDER BY operator COLLATE "C";
SELECT operator, min((SELECT count(*) FROM unnest(found) f WHERE f = ANY (reference))) >= 80 AS nearly_agree
FROM unnest('{<->,<#>,<=>}'::text[]) operator,
	 LATERAL (SELECT search(kernel, operator, '2', '0') AS found, search('scalar', operator, '2', '0') AS reference FROM supported() kernel) t
GROUP BY operator ORDER BY operator COLLATE "C";

-- An index made with one kernel is read, and written, with every other
CREATE FUNCTION crossed(builder text, reader text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	is_right boolean;
BEGIN
	PERFORM set_config('ivfpq.kernel', builder, true);
	CREATE TABLE made AS SELECT * FROM items WHERE id <= 2000;
	CREATE INDEX made_index ON made USING ivfpq (embedding);
	PERFORM set_config('ivfpq.kernel', reader, true);
	INSERT INTO made SELECT * FROM items WHERE id BETWEEN 2001 AND 3000;
	PERFORM set_config('ivfpq.epsilon', '100', true);
	is_right := bool_and((SELECT m.id FROM made m ORDER BY embedding <-> i.embedding LIMIT 1) = i.id)
		FROM items i WHERE id <= 3000 AND id % 50 = 0;
	PERFORM set_config('ivfpq.epsilon', '2', true);
	PERFORM ivfpq_check('made_index', true, true);
	DROP TABLE made;
	RETURN is_right;
END $$;
SELECT bool_and(crossed(a, b)) AS all_right FROM supported() a, supported() b;

-- Codes decode to nearly the same vectors
SELECT bool_and((SELECT max(abs(x - y)) FROM unnest(a, b) u (x, y)) < 0.001) AS decoded_alike
FROM supported() kernel, LATERAL (
	SELECT ivfpq_reconstruct('four_bits', items.ctid) AS a, set_config('ivfpq.kernel', 'scalar', true),
		   ivfpq_reconstruct('four_bits', items.ctid) AS b
	FROM items, set_config('ivfpq.kernel', kernel, true) WHERE id = 77) t;

RESET enable_seqscan;
SELECT ivfpq_check('four_bits', true, true), ivfpq_check('eight_bits', true, true), ivfpq_check('odd_m', true, true);
DROP TABLE items, queries;
DROP FUNCTION search, supported, crossed;
