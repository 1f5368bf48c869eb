--
-- ivfpq_recall: what searches find of what they should
--
CREATE FUNCTION vector_of(id int) RETURNS real[] IMMUTABLE LANGUAGE sql AS $$
	SELECT array_agg((5 * sin(id % 60 * (j + 0.7) * 12.9898) + sin(id * (j + 0.3) * 78.233))::real ORDER BY j) FROM generate_series(1, 12) j $$;
CREATE TABLE items AS SELECT i AS id, i % 3 AS kind, vector_of(i) AS embedding FROM generate_series(1, 6000) i;
CREATE INDEX items_index ON items USING ivfpq (embedding) WITH (lists = 50, nprobe = 8);
VACUUM ANALYZE items;

-- Around the index's own nprobe, with rows for queries, which are not counted
SELECT nprobe, recall BETWEEN 0.3 AND 1 AS is_share, milliseconds > 0 AS took_time, codes_scored > 0 AS scored,
	   rows_compared >= 10 AS compared, queries_asked
FROM ivfpq_recall('items_index', sample => 40);
SELECT count(*) AS rows, bool_and(recall >= last_recall - 0.02) AS grows, bool_and(codes_scored > last_codes) AS costs
FROM (SELECT recall, codes_scored, lag(recall) OVER w AS last_recall, lag(codes_scored) OVER w AS last_codes
	  FROM ivfpq_recall('items_index', sample => 40, nprobes => '{1,4,16,50}') WINDOW w AS (ORDER BY nprobe)) s;

-- All lists and codes that rule nothing out find everything
SET ivfpq.epsilon = 20;
SELECT nprobe, recall, queries_asked FROM ivfpq_recall('items_index', nprobes => '{50}', k => 25, sample => 30);
SELECT nprobe, recall FROM ivfpq_recall('items_index', nprobes => '{50, 1000}', k => 6000, sample => 2);
RESET ivfpq.epsilon;

-- It agrees with what is counted by hand, for queries of one's own, that may be of another type
CREATE TABLE queries AS SELECT i AS id, vector_of(i + 100000)::float8[] AS q FROM generate_series(1, 20) i;
SET enable_seqscan = off;
SET ivfpq.nprobe = 2;
CREATE TABLE found AS SELECT queries.id AS query, n.id FROM queries, LATERAL (SELECT id FROM items ORDER BY embedding <-> q::real[] LIMIT 10) n;
RESET enable_seqscan;
SET enable_indexscan = off;
CREATE TABLE truth AS SELECT queries.id AS query, n.id FROM queries, LATERAL (SELECT id FROM items ORDER BY embedding <-> q::real[] LIMIT 10) n;
RESET enable_indexscan;
SET ivfpq.nprobe = 3;
SELECT recall = (SELECT count(*) / 200.0 FROM truth JOIN found USING (query, id)) AS is_same, queries_asked
FROM ivfpq_recall('items_index', 'SELECT q FROM queries', '{2}');

-- Settings are as before
SHOW ivfpq.nprobe;
SHOW enable_indexscan;
RESET ivfpq.nprobe;

-- Other indexes: of a part, of an expression, of few rows, cosine, several that could do
CREATE INDEX items_part ON items USING ivfpq (embedding array_ip_ops) WITH (lists = 10) WHERE kind = 1;
CREATE INDEX items_mapped ON items USING ivfpq ((embedding[1:6]) array_cosine_ops) WITH (lists = 10);
CREATE INDEX "Items few" ON items USING ivfpq (embedding array_cosine_ops) WHERE id < 100;
SET ivfpq.epsilon = 20;
SELECT name, recall, queries_asked
FROM unnest(ARRAY['items_part', 'items_mapped', '"Items few"']) name, ivfpq_recall(name::regclass, nprobes => '{10}', sample => 20);
RESET ivfpq.epsilon;
CREATE INDEX items_again ON items USING ivfpq (embedding) WITH (lists = 51);
SELECT name, (SELECT codes_scored FROM ivfpq_recall(name::regclass, nprobes => '{60}', sample => 1)) AS all_codes FROM unnest('{items_index,items_again}'::text[]) name;
DROP INDEX items_again;

-- What a search aims at, where nobody says how many lists it reads: nprobe of a session, of an index, then recall
CREATE TABLE aimed AS TABLE items;
CREATE INDEX aimed_index ON aimed USING ivfpq (embedding) WITH (lists = 150);
CREATE FUNCTION lists_probed() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	PERFORM id FROM aimed ORDER BY embedding <-> vector_of(-1) LIMIT 1;
	RETURN (SELECT lists_probed FROM ivfpq_last_scan());
END $$;
CREATE FUNCTION lists_for(recall float8) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('ivfpq.recall', recall::text, true);
	RETURN (SELECT nprobe FROM ivfpq_index_info('aimed_index'));
END $$;
SET enable_seqscan = off;
CREATE TABLE aims AS SELECT recall, lists_for(recall) AS lists FROM unnest('{.5,.6,.7,.75,.8,.85,.9,.93,.95,.97,.975,.98,.99,.992,.995,.997,.999}'::float8[]) recall;
SELECT bool_and(lists >= fewer) AS grows, max(lists) > 3 * min(lists) AS much_takes_more,
	   max(lists) FILTER (WHERE recall = .975) = (SELECT nprobe FROM ivfpq_index_info('aimed_index')) AS default_is_between
FROM (SELECT *, lag(lists, 1, 1) OVER (ORDER BY recall) AS fewer FROM aims) s;
SET ivfpq.recall = 0.9;
SELECT lists_probed() BETWEEN lists * .7 AND lists * 1.4 AS by_recall FROM aims WHERE recall = .9;
ALTER INDEX aimed_index SET (nprobe = 31);
SELECT lists_probed() AS by_index, nprobe FROM ivfpq_index_info('aimed_index');
SET ivfpq.nprobe = 25;
SELECT lists_probed() AS by_session, nprobe FROM ivfpq_index_info('aimed_index');
RESET ivfpq.nprobe;
ALTER INDEX aimed_index RESET (nprobe);
SELECT lists_probed() BETWEEN lists * .7 AND lists * 1.4 AS by_recall FROM aims WHERE recall = .9;
RESET ivfpq.recall;
RESET enable_seqscan;

-- That many lists are read in the mean: more for a query between many lists, fewer for one that is near to few.  Who
-- says nprobe has that many.
CREATE FUNCTION uneven_vector(id int) RETURNS real[] IMMUTABLE LANGUAGE sql AS $$
	SELECT array_agg((5 * sin(id % 200 * (j + 0.7) * 12.9898) + CASE id % 2 WHEN 0 THEN 0.5 ELSE 4 END * sin(id * (j + 0.3) * 78.233))::real ORDER BY j)
	FROM generate_series(1, 12) j $$;
CREATE TABLE uneven AS SELECT i AS id, uneven_vector(i) AS embedding FROM generate_series(1, 12000) i;
CREATE INDEX uneven_index ON uneven USING ivfpq (embedding) WITH (lists = 300);
CREATE FUNCTION lists_read(query real[]) RETURNS int LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
	PERFORM id FROM uneven ORDER BY embedding <-> query LIMIT 1;
	RETURN (SELECT lists_probed FROM ivfpq_last_scan());
END $$;
CREATE VIEW reading AS SELECT avg(n) FILTER (WHERE i % 2 = 0) AS among_close_rows, avg(n) FILTER (WHERE i % 2 = 1) AS among_others,
	avg(n) AS mean, min(n) AS least, max(n) AS most
FROM (SELECT i, lists_read(uneven_vector(i)) AS n FROM generate_series(12001, 12300) i) s;
CREATE FUNCTION reading_for(aim float8, OUT differ boolean, OUT is_mean boolean, OUT nprobe int) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('ivfpq.recall', aim::text, true);
	nprobe := (SELECT i.nprobe FROM ivfpq_index_info('uneven_index') i);
	SELECT among_close_rows < among_others * 0.8, abs(mean - nprobe) < 1 INTO differ, is_mean FROM reading;
END $$;
SELECT aim, differ, is_mean, nprobe > lag(nprobe, 1, 0) OVER (ORDER BY aim) AS grows
FROM unnest('{.9,.975,.995}'::float8[]) aim, reading_for(aim) ORDER BY aim;
SET ivfpq.nprobe = 7;
SELECT least, most FROM reading;
SET ivfpq.nprobe = 300;
SELECT least, most FROM reading;
RESET ivfpq.nprobe;
ALTER INDEX uneven_index SET (nprobe = 6);
SELECT least, most FROM reading;
ALTER INDEX uneven_index RESET (nprobe);

-- Rows that have trained centroids are nearer to them than those to come, by whose distances queries would read a twelfth more
DROP INDEX uneven_index;
CREATE INDEX uneven_index ON uneven USING ivfpq (embedding) WITH (lists = 1000);
SELECT abs(mean / nprobe - 1) < 0.05 AS is_mean FROM reading, ivfpq_index_info('uneven_index');

-- Without nprobes, values of ivfpq.recall are measured that take different numbers of lists
SELECT count(*) BETWEEN 3 AND 6 AS several, min(target) AS least, bool_and(nprobe > 0) AS lists, bool_and(recall >= target - 0.05) AS found,
	   max(queries_asked) AS queries_asked
FROM ivfpq_recall('uneven_index', sample => 300);

-- Trained on three rows a list, as with little memory: these are nearer to their lists than others.  What rows are near is
-- found by products of bytes where the processor is fast with them, or by those of a library; for all distances
CREATE TABLE thin AS SELECT i AS id, (SELECT array_agg((hashint4(i * 16 + j) / 2147483648.0)::real ORDER BY j) FROM generate_series(0, 15) j) AS embedding
FROM generate_series(1, 12000) i;
CREATE FUNCTION aim(kernel text, class text, OUT several boolean, OUT aims_well boolean) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('ivfpq.kernel', kernel, true);
	EXECUTE format('CREATE INDEX thin_index ON thin USING ivfpq (embedding %I) WITH (lists = 500, train_rows = 1500)', class);
	SELECT count(*) >= 4, bool_and(recall BETWEEN target - 0.035 AND target + 0.035) INTO several, aims_well
	FROM ivfpq_recall('thin_index', sample => 400);
	DROP INDEX thin_index;
END $$;
SELECT kernel, class, several, aims_well
FROM unnest('{scalar,auto}'::text[]) kernel, unnest('{array_l2_ops,array_ip_ops,array_cosine_ops}'::text[]) class, aim(kernel, class);
RESET ivfpq.kernel;
DROP FUNCTION aim;
DROP TABLE thin;
DROP FUNCTION reading_for;
DROP VIEW reading;
DROP TABLE uneven;
DROP FUNCTION uneven_vector, lists_read;

-- Nothing to ask, nothing to find
CREATE TABLE none (embedding real[]);
CREATE INDEX none_index ON none USING ivfpq (embedding);
SELECT * FROM ivfpq_recall('none_index');
SELECT nprobe, recall, queries_asked FROM ivfpq_recall('none_index', 'SELECT ARRAY[1,2]::real[]');
SELECT * FROM ivfpq_recall('items_index', 'SELECT NULL::real[]');
SELECT * FROM ivfpq_recall(NULL);

-- Arguments that are out of range, or no queries
SELECT * FROM ivfpq_recall('items_index', k => 0);
SELECT * FROM ivfpq_recall('items_index', sample => NULL);
SELECT * FROM ivfpq_recall('items_index', nprobes => '{5, NULL}');
SELECT * FROM ivfpq_recall('items_index', nprobes => '{300000}');
SELECT * FROM ivfpq_recall('items_index', 'DELETE FROM items RETURNING embedding');
SELECT * FROM ivfpq_recall('items_index', 'SELECT ARRAY[1,2]::real[]');
CREATE INDEX items_id ON items (id);
SELECT * FROM ivfpq_recall('items_id');
SELECT * FROM ivfpq_recall('items');

-- It wants the right to read the table, or the statistics of any
CREATE ROLE regress_vqpg_reader;
SET ROLE regress_vqpg_reader;
SELECT * FROM ivfpq_recall('items_index');
RESET ROLE;
GRANT pg_stat_scan_tables TO regress_vqpg_reader;
SET ROLE regress_vqpg_reader;
SELECT queries_asked FROM ivfpq_recall('items_index', nprobes => '{50}', sample => 10);
SELECT queries_asked FROM ivfpq_recall('items_index', 'SELECT q FROM queries; ', nprobes => '{50}');
RESET ROLE;

-- What belongs to an index runs as its owner, and may not become somebody else; what the caller gives as the caller
GRANT CREATE ON SCHEMA public TO regress_vqpg_reader;
SET ROLE regress_vqpg_reader;
CREATE TABLE owned AS SELECT i AS id, ARRAY[i, 1]::real[] AS embedding FROM generate_series(1, 30) i;
CREATE FUNCTION spy(real[]) RETURNS real[] VOLATILE LANGUAGE plpgsql AS $$
BEGIN
	IF current_user <> 'regress_vqpg_reader' THEN
		RAISE WARNING 'code of the owner runs as another';
	END IF;
	RETURN $1;
END $$;
CREATE FUNCTION calm(real[]) RETURNS real[] IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN public.spy($1); END $$;
CREATE FUNCTION is_wanted(real[]) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN public.spy($1) IS NOT NULL; END $$;
CREATE INDEX owned_index ON owned USING ivfpq (calm(embedding)) WHERE is_wanted(embedding);
RESET ROLE;
CREATE FUNCTION whose() RETURNS real[] VOLATILE LANGUAGE plpgsql AS $$ BEGIN RETURN ARRAY[(current_user = session_user)::int, 1]; END $$;
SELECT recall, queries_asked FROM ivfpq_recall('owned_index', sample => 3);
SELECT recall, queries_asked FROM ivfpq_recall('owned_index', 'SELECT whose() -- mine');
SELECT current_user = session_user AS is_back;

-- What is run as the owner of a table finds nothing that the caller has put into its way
CREATE SCHEMA AUTHORIZATION regress_vqpg_reader;
SET ROLE regress_vqpg_reader;
CREATE FUNCTION regress_vqpg_reader.random() RETURNS pg_catalog.float8 VOLATILE LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'a function of the caller, as %', CASE WHEN current_user = 'regress_vqpg_reader' THEN 'the caller' ELSE 'another' END;
	RETURN 1;
END $$;
CREATE FUNCTION pg_temp.is_seen(pg_catalog.float8) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'a domain of the caller, as %', CASE WHEN current_user = 'regress_vqpg_reader' THEN 'the caller' ELSE 'another' END;
	RETURN true;
END $$;
CREATE DOMAIN pg_temp.float8 AS pg_catalog.float8 CHECK (pg_temp.is_seen(VALUE));
SET search_path = regress_vqpg_reader, pg_catalog, public;
SELECT queries_asked FROM ivfpq_recall('items_index', nprobes => '{50}', sample => 10);
RESET search_path;
DROP DOMAIN pg_temp.float8;
DROP FUNCTION regress_vqpg_reader.random;
DROP SCHEMA regress_vqpg_reader;

-- The caller's queries are one statement: of another, of any types, the rows would be taken for vectors
SELECT * FROM ivfpq_recall('items_index', 'SELECT q FROM queries) AS queries (query); SELECT 4660::bigint FROM (SELECT 1');
SELECT * FROM ivfpq_recall('items_index', 'SELECT q FROM queries; SELECT 4660::bigint');
SELECT * FROM ivfpq_recall('items_index', '');
RESET ROLE;
DROP TABLE owned;
DROP OWNED BY regress_vqpg_reader;
DROP ROLE regress_vqpg_reader;
DROP FUNCTION whose;

DROP TABLE items, queries, found, truth, none;
DROP FUNCTION vector_of;
