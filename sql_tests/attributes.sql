--
-- Attributes: columns after the vector, whose conditions a search tries on the index
--

SET datestyle = iso;
SET timezone = 'UTC';
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE items AS
SELECT i AS id, (SELECT array_agg(sin(i * (j + 0.7) * 12.9898)::real ORDER BY j) FROM generate_series(1, 8) j) AS embedding,
	   n AS a, (n * 1000)::smallint AS a2, n::bigint * 10000000000 AS a8, n % 2 = 0 AS yes, n / 8.0::real AS f4, n / 3.0::float8 AS f8,
	   n / 7.0 AS num, date '2020-01-01' + n AS d, timestamp '2020-01-01' + n * interval '1 hour' AS ts,
	   timestamptz '2020-01-01 00:00+00' + n * interval '1 hour' AS tz, time '12:00' + n * interval '1 minute' AS t,
	   'word ' || n AS s, ('c' || n)::char(5) AS c, ('v' || n)::varchar AS v, md5(n::text)::uuid AS u,
	   (ARRAY['sad', 'ok', 'happy'])[n % 3 + 1]::mood AS m, (n + 100)::oid AS o,
	   ARRAY['t' || n, 't' || n / 2, NULL] AS tags, CASE WHEN n % 5 = 0 THEN '{}' ELSE ARRAY[n, i % 100] END AS numbers,
	   jsonb_build_object('n', n, 'kind', 'k' || n % 4, 'list', jsonb_build_array(n, 'x' || n / 3), 'in', jsonb_build_object('n', -n)) AS meta
FROM generate_series(1, 3000) i, LATERAL (SELECT nullif(i % 23, 22) - 5 AS n OFFSET 0) r;
INSERT INTO items (id, embedding, a, a2, a8, f4, f8, num, d, ts, tz)
SELECT 3000 + i, embedding, (ARRAY[-2147483648, -2147483647, 2147483647])[i], (ARRAY[-32768, 32767, 0])[i]::smallint,
	   (ARRAY[-9223372036854775808, -9223372036854775807, 9223372036854775807])[i], (ARRAY['-infinity', 'nan', 'infinity'])[i]::real,
	   (ARRAY['-infinity', 'nan', '-0'])[i]::float8, (ARRAY['1e500', 'nan', '0.00000000000000000001'])[i]::numeric,
	   (ARRAY['-infinity', 'infinity', '2020-01-01'])[i]::date, (ARRAY['-infinity', 'infinity', '2020-01-01'])[i]::timestamp,
	   (ARRAY['-infinity', 'infinity', '2020-01-01'])[i]::timestamptz
FROM generate_series(1, 3) i JOIN items ON id = i;

-- The classes are valid, and have conditions alone
SELECT opcname, opcintype::regtype, opcdefault, amvalidate(c.oid),
	   count(*) FILTER (WHERE amoppurpose = 's' AND amoplefttype = opcintype) AS conditions, count(*) FILTER (WHERE amoppurpose = 'o') AS orders
FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod JOIN pg_amop ON amopfamily = opcfamily
WHERE amname = 'ivfpq' AND opcintype <> 'real[]'::regtype GROUP BY c.oid ORDER BY opcname;

CREATE INDEX items_numbers ON items USING ivfpq (embedding, a, a2, a8, f4, f8, num) WITH (lists = 20, nprobe = 2);
CREATE INDEX items_times ON items USING ivfpq (embedding, yes, d, ts, tz, t) WITH (lists = 20, nprobe = 2);
CREATE INDEX items_words ON items USING ivfpq (embedding, s, c, v, u, m, o) WITH (lists = 20, nprobe = 2);
SELECT indexrelid::regclass, (ivfpq_index_info(indexrelid)).format_version, ivfpq_check(indexrelid, true, true)
FROM pg_index WHERE indrelid = 'items'::regclass ORDER BY indexrelid;

-- What a plan has under this key, of its search
CREATE FUNCTION condition_of(query text, key text DEFAULT 'Index Cond') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	plan jsonb;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json, COSTS off) ' || query INTO plan;
	RETURN (SELECT string_agg(c #>> '{}', '; ') FROM jsonb_path_query(plan, ('strict $.**."' || key || '"')::jsonpath) c);
END $$;

-- Rows that one of search and table finds and the other does not, how many the search finds, and its condition on attributes
CREATE FUNCTION compare(condition text, OUT differ bigint, OUT rows bigint, OUT tried text) LANGUAGE plpgsql AS $$
DECLARE
	query text := 'SELECT id FROM items WHERE ' || condition || ' ORDER BY embedding <-> ''{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}'' LIMIT 10000';
	by_table int[];
	by_index int[];
BEGIN
	SET LOCAL enable_indexscan = off;
	SET LOCAL enable_seqscan = on;
	EXECUTE format('SELECT array_agg(id) FROM (%s) q', query) INTO by_table;
	SET LOCAL enable_indexscan = on;
	SET LOCAL enable_seqscan = off;
	EXECUTE format('SELECT array_agg(id) FROM (%s) q', query) INTO by_index;
	differ := (SELECT count(*) FROM (SELECT unnest(by_table) AS id) a FULL JOIN (SELECT unnest(by_index) AS id) b USING (id) WHERE a.id IS NULL OR b.id IS NULL);
	rows := coalesce(cardinality(by_index), 0);
	tried := condition_of(query);
END $$;

SELECT * FROM unnest(ARRAY[
	'a = 3', 'a < -4', 'a <= -4', 'a > 15', 'a >= 15', '3 < a', 'a > 3 AND a < 6', 'a = 3::bigint', 'a < 3::smallint', 'a = 99',
	'a = -2147483648', 'a < -2147483647', 'a <= -2147483648', 'a > 2147483646', 'a > 2147483647', 'a < 10000000000', 'a > 10000000000',
	'a = 10000000000', 'a > -10000000000', 'a IN (1, 2, 99)', 'a IN (3, NULL)', 'a = ANY (''{}''::int[])', 'a < ANY (''{-4,1}'')', 'a >= ANY (ARRAY[16, 15]::bigint[])',
	'a = ANY (ARRAY[1,2,3,4,5,6,7,8,9,10])', 'a IS NULL', 'a IS NULL AND a8 IS NULL', 'a IS NOT NULL AND a < 0', 'a IS NULL AND embedding IS NOT NULL', 'embedding IS NULL', 'a = 3 AND a8 = 30000000000', 'a2 = 3000', 'a2 > 14000', 'a2 < -32767', 'a2 = 100000',
	'a8 >= 150000000000', 'a8 < -9223372036854775807', 'a8 <= -9223372036854775808', 'a8 > 9223372036854775806', 'a8 IN (0, 9223372036854775807)',
	'f4 = 0.25', 'f4 > 1.9', 'f4 = ''nan''', 'f4 < ''-1000''', 'f4 > 1e30', 'f4 > 1.9::real', 'f4 = 0.25::real', 'f8 = 0', 'f8 > 5', 'f8 < -1.5', 'f8 = ''nan''', 'f8 >= ''infinity''',
	'f8 = 0.25::real', 'num = 1', 'num > 2.2', 'num < 0.1 AND num > 0', 'num > 1e300', 'num = 0', 'num = ''nan''']) condition, LATERAL compare(condition);
SELECT * FROM unnest(ARRAY[
	'yes', 'NOT yes', 'yes = true', 'yes IS FALSE', 'yes IS NOT TRUE', 'yes IS NULL', 'd = ''2020-01-03''', 'd < ''2019-12-29''', 'd > ''2030-01-01''', 'd = ''-infinity''', 'd BETWEEN ''2020-01-03'' AND ''2020-01-04''',
	'ts >= ''2020-01-01 15:00''', 'ts = ''2020-01-01 02:00''', 'ts < ''1900-01-01''', 'tz = ''2020-01-01 02:00+00''', 'tz > ''2020-01-01 14:00+00''', 'tz = ''infinity''',
	't = ''12:03''', 't < ''11:57''', 'd = ''2020-01-03'' AND t = ''12:02'''
	]) condition, LATERAL compare(condition);
-- Dates and times of different types, by the session's time zone: about changes of zones, the first and last there are, and beyond
CREATE TABLE times (id int GENERATED ALWAYS AS IDENTITY, embedding real[] DEFAULT '{0.1,0.2}', d date, ts timestamp, tz timestamptz);
INSERT INTO times (d, ts, tz)
SELECT (tz AT TIME ZONE 'UTC')::date, tz AT TIME ZONE 'UTC', tz
FROM unnest(ARRAY['2024-03-31 01:00Z', '2024-10-27 01:00Z', '2011-12-30 10:00Z', '2018-11-04 03:00Z', '2024-03-30 22:00Z', '2024-10-26 21:00Z', '2021-04-10 00:00Z']::timestamptz[]) change,
	 unnest(ARRAY[0, 0.000001, -0.000001, 1800, -1800, 3600, 7199, 7200, -10800, 50400, -36000, 86400, -90000, 604800, -604800]) seconds,
	 LATERAL (SELECT change + seconds * interval '1 second' AS tz) r;
INSERT INTO times (d, ts, tz)
SELECT tz AT TIME ZONE 'UTC', tz AT TIME ZONE 'UTC', tz
FROM unnest('{infinity,-infinity,4714-11-24 00:00:00Z BC,4714-11-24 10:00Z BC,4714-11-25 00:00Z BC,4714-11-27 00:00Z BC,0044-03-15 00:00Z BC,
	294276-12-30 00:00Z,294276-12-31 00:00Z,294276-12-31 10:00Z,294276-12-31 23:59:59.999999Z}'::timestamptz[]) tz;
INSERT INTO times (d) SELECT unnest('{294277-01-01,294277-01-02,5874897-12-31,NULL}'::date[]);
CREATE INDEX times_index ON times USING ivfpq (embedding, d, ts, tz);
ANALYZE times;
SET enable_seqscan = off;
SELECT condition_of('SELECT id FROM times WHERE ' || condition || ' ORDER BY embedding <-> ''{1,2}'' LIMIT 3') FROM unnest(ARRAY[
	'tz > current_date - 7', 'tz <= localtimestamp', 'ts > now() - interval ''1 hour''', 'ts < current_date', 'd >= now() - interval ''10 years''', 'd = ''2024-02-01''::timestamp',
	'now() > d', 'tz BETWEEN date ''2024-02-01'' AND timestamp ''2024-02-02''', 'd IN (now(), ''2024-02-01'')', 'ts = ANY (ARRAY[current_date, NULL])', 'tz < ANY (''{2024-02-01}''::timestamp[])']) condition;

-- Each type with each other in a zone: how many conditions have others of the rows with a vector in the index than in the table, how many were tried, and whether
-- few rows were looked at in vain.  The last zone is as far off as there can be, and changes sides.
CREATE FUNCTION compare_times(zone text, OUT differ int, OUT conditions int, OUT few_in_vain boolean) LANGUAGE plpgsql AS $$
DECLARE
	operands text[];
	operand text;
	by_table int[];
	by_index int[];
	found bigint := 0;
	in_vain bigint := 0;
	c record;
BEGIN
	differ := 0;
	conditions := 0;
	FOR c IN SELECT l.name, r.name AS other, r.type, operator FROM (VALUES ('d', 'date'), ('ts', 'timestamp'), ('tz', 'timestamptz')) l (name, type),
			(VALUES ('d', 'date'), ('ts', 'timestamp'), ('tz', 'timestamptz')) r (name, type), unnest('{<,<=,=,>=,>}'::text[]) operator WHERE l.name <> r.name
	LOOP
		SET LOCAL timezone = 'UTC';
		EXECUTE format('SELECT array_agg(DISTINCT %I::text) FROM times WHERE %1$I IS NOT NULL', c.other) INTO operands;
		PERFORM set_config('timezone', zone, true);
		EXECUTE format('PREPARE wanted(%s) AS SELECT (SELECT array_agg(id ORDER BY id) FROM times WHERE %I %s $1),
			(SELECT array_agg(id ORDER BY id) FROM (SELECT id FROM times WHERE %2$I %s $1 ORDER BY embedding <-> ''{1,2}'' LIMIT 1000) q)', c.type, c.name, c.operator);
		EXECUTE format('PREPARE wanted_of(%s[]) AS SELECT (SELECT array_agg(id ORDER BY id) FROM times WHERE %I %s ANY ($1)),
			(SELECT array_agg(id ORDER BY id) FROM (SELECT id FROM times WHERE %2$I %s ANY ($1) ORDER BY embedding <-> ''{1,2}'' LIMIT 1000) q)', c.type, c.name, c.operator);
		FOR operand IN SELECT format('wanted(%L)', o) FROM unnest(operands) o
			UNION ALL SELECT format('wanted_of(%L)', array_agg(o) || NULL::text) FROM unnest(operands) WITH ORDINALITY u (o, n) GROUP BY n % 20
			UNION ALL VALUES ('wanted(NULL)'), ('wanted_of(NULL)'), ('wanted_of(''{}'')'), ('wanted_of(''{NULL}'')')
		LOOP
			EXECUTE 'EXECUTE ' || operand INTO by_table, by_index;
			conditions := conditions + 1;
			differ := differ + (by_table IS DISTINCT FROM by_index)::int;
			IF by_table IS NOT NULL THEN
				found := found + cardinality(by_table);
				in_vain := in_vain + (SELECT codes_scored FROM ivfpq_last_scan()) - coalesce(cardinality(by_index), 0);
			END IF;
		END LOOP;
		DEALLOCATE wanted;
		DEALLOCATE wanted_of;
	END LOOP;
	few_in_vain := in_vain < found / 100;
END $$;
SET plan_cache_mode = force_generic_plan;
SET jit = off;
SELECT * FROM unnest('{UTC,Europe/Berlin,Pacific/Apia,America/Sao_Paulo,Asia/Beirut,"A+167B-167,J100/0,J102/0"}'::text[]) zone, LATERAL compare_times(zone);

-- In the zone that the session has when a search begins, not when it was planned
PREPARE of_day(date) AS SELECT min(tz AT TIME ZONE 'UTC'), max(tz AT TIME ZONE 'UTC'), count(*) FROM (SELECT tz FROM times WHERE tz > $1 AND tz <= $1 + 1 ORDER BY embedding <-> '{1,2}' LIMIT 1000) q;
PREPARE at_moment(timestamptz) AS SELECT array_agg(DISTINCT ts) FROM (SELECT ts FROM times WHERE ts = $1 ORDER BY embedding <-> '{1,2}' LIMIT 1000) q;
PREPARE until_moment(timestamptz) AS SELECT max(d) FROM (SELECT d FROM times WHERE d <= $1 ORDER BY embedding <-> '{1,2}' LIMIT 1000) q;
SELECT condition_of('EXECUTE of_day(''2024-03-31'')'), condition_of('EXECUTE at_moment(now())'), condition_of('EXECUTE until_moment(now())');
EXECUTE of_day('2024-03-31');
EXECUTE at_moment('2024-03-31 01:00Z');
EXECUTE until_moment('2018-11-04 02:59:59.999999Z');
SET timezone = 'Europe/Berlin';
EXECUTE of_day('2024-03-31');
EXECUTE at_moment('2024-03-31 01:00Z');
SET timezone = 'America/Sao_Paulo';
EXECUTE of_day('2024-03-31');
EXECUTE until_moment('2018-11-04 02:59:59.999999Z');
EXECUTE until_moment('2018-11-04 03:00Z');
SET timezone = 'Pacific/Apia';
EXECUTE of_day('2024-03-31');
EXECUTE until_moment('2011-12-30 09:59:59.999999Z');
EXECUTE until_moment('2011-12-30 10:00Z');
SET timezone = 'UTC';
RESET jit;
RESET plan_cache_mode;
RESET enable_seqscan;
DROP TABLE times;
DROP FUNCTION compare_times;
SELECT * FROM unnest(ARRAY[
	's = ''word 3''', 's IN (''word 3'', ''word 4'', ''none'')', 's > ''word 3''', 's LIKE ''word 1%''', 's <> ''word 3''', 's = ''word 3'' COLLATE "C"', 'c = ''c3''', 'v = ''v3''', 'u = ''eccbc87e-4b5c-e2fe-2830-8fd9f2a7baf3''',
	'm = ''happy''', 'm > ''sad''', 'o = 103', 'o > 114', 's = ''word 3'' AND m = ''ok'''
	]) condition, LATERAL compare(condition);

CREATE INDEX items_sets ON items USING ivfpq (embedding, tags, numbers, meta) WITH (lists = 20, nprobe = 2);
SELECT ivfpq_check('items_sets', true, true);
SELECT * FROM unnest(ARRAY[
	'tags @> ''{t3}''', 'tags @> ''{t8,t4}''', 'tags && ''{t3,t9,none}''', 'tags && ''{t3,NULL}''', 'tags && ''{}''', 'tags = ''{t3,t1,NULL}''', 'tags @> ''{NULL}''', '''t3'' = ANY (tags)',
	'tags @> ARRAY[NULL, ''t3'']', 'tags IS NULL', 'numbers @> ''{4,7}''', 'numbers && ''{4}''', 'numbers = ''{4,7}''', '4 = ANY (numbers)', '4::bigint = ANY (numbers)', 'numbers = ''{}''', 'numbers <@ ''{4,7,9}''',
	'meta @> ''{"n": 3}''', 'meta @> ''{"n": 3.0, "kind": "k3"}''', 'meta @> ''{"list": [3]}''', 'meta @> ''{"list": ["x3"], "kind": "k1"}''', 'meta @> ''{"in": {"n": -3}}''', 'meta @> ''{"none": 1}''',
	'meta @> ANY (ARRAY[''{"n": 3}'', ''{"n": 4}'']::jsonb[])', 'meta = ''{"n": 3}''', 'meta ? ''n''', 'meta ->> ''kind'' = ''k1'''
	]) condition, LATERAL compare(condition);

-- So it is in an index that is not trained
CREATE TABLE few AS SELECT id, embedding, a, s FROM items WHERE id <= 100;
CREATE INDEX few_index ON few USING ivfpq (embedding, a, s);
SET enable_seqscan = off;
SELECT (ivfpq_index_info('few_index')).trained_on IS NULL AS untrained, ivfpq_check('few_index', true, true);
SELECT array_agg(id) FROM (SELECT id FROM few WHERE a = 3 AND s = 'word 3' ORDER BY embedding <-> (SELECT embedding FROM few WHERE id = 8) LIMIT 3) q;

-- VACUUM does not take attributes for rows, nor the reverse; functions that look inside see rows
CREATE TABLE zeroes (id int, embedding real[], a int, yes boolean);
CREATE INDEX zeroes_index ON zeroes USING ivfpq (embedding, a, yes);
INSERT INTO zeroes SELECT i, ARRAY[i, 1, 1], 0, false FROM generate_series(1, 20) i;
VACUUM zeroes;
SELECT count(*), (SELECT dims FROM ivfpq_index_info('zeroes_index')) FROM (SELECT FROM zeroes ORDER BY embedding <-> '{1,1,1}' LIMIT 100) q;
UPDATE zeroes SET a = -id;
DELETE FROM zeroes;
VACUUM zeroes;
VACUUM zeroes;
SELECT dims, rows FROM ivfpq_index_info('zeroes_index');
SELECT indexrelid::regclass, rows, dead_slots, list_rows FROM pg_index, ivfpq_index_info(indexrelid),
	   LATERAL (SELECT sum(rows) AS list_rows FROM ivfpq_list_info(indexrelid)) l WHERE indrelid = 'items'::regclass ORDER BY indexrelid;
SELECT count(*), bool_and(embedding <-> ivfpq_reconstruct('items_numbers', ctid) < 0.8) AS near FROM items WHERE id <= 20;
SELECT nprobe, recall > 0.5 AS found, queries_asked FROM ivfpq_recall('items_numbers', nprobes => '{2,20}', sample => 20);

-- Entries that do not pass are not fetched, and their codes not counted; further lists are read until there are enough that do
ANALYZE items;
SELECT count(*) FROM (SELECT FROM items WHERE s = 'word 3' ORDER BY embedding <-> '{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}' LIMIT 40) q;
SELECT lists_probed > 2 AS further_lists, codes_scored BETWEEN 40 AND 131 AS passing, candidates_reranked <= codes_scored AS fetched, rows_returned, rows_filtered
FROM ivfpq_last_scan();
SET ivfpq.iterative_scan = off;
SELECT count(*) < 40 AS fewer FROM (SELECT FROM items WHERE s = 'word 3' ORDER BY embedding <-> '{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}' LIMIT 40) q;
SELECT lists_probed FROM ivfpq_last_scan();
RESET ivfpq.iterative_scan;

-- Nothing equals NULL, whatever is kept for it; what is known only when the query runs is a condition too
PREPARE one(int, real[]) AS SELECT count(*) FROM (SELECT FROM items WHERE a = $1 ORDER BY embedding <-> $2 LIMIT 10) q;
SET plan_cache_mode = force_generic_plan;
EXECUTE one(3, '{1,2,3,4,5,6,7,8}');
EXECUTE one(NULL, '{1,2,3,4,5,6,7,8}');
PREPARE several(int[], real[]) AS SELECT array_agg(DISTINCT a) FROM (SELECT a FROM items WHERE a = ANY ($1) ORDER BY embedding <-> $2 LIMIT 30) q;
EXECUTE several('{3,4,NULL}', '{1,2,3,4,5,6,7,8}');
EXECUTE several(NULL, '{1,2,3,4,5,6,7,8}');
RESET plan_cache_mode;
EXPLAIN (COSTS off)
SELECT w.n, i.id FROM generate_series(1, 3) w(n), LATERAL (SELECT id FROM items WHERE a = w.n ORDER BY embedding <-> ARRAY[w.n, 2, 3, 4, 5, 6, 7, 8]::real[] LIMIT 2) i;
SELECT w.n, array_agg(i.a) FROM generate_series(1, 3) w(n), LATERAL (SELECT a FROM items WHERE a = w.n ORDER BY embedding <-> ARRAY[w.n, 2, 3, 4, 5, 6, 7, 8]::real[] LIMIT 2) i GROUP BY 1 ORDER BY 1;

-- With other orders, and with a condition on the distance
SELECT condition_of(query) FROM unnest(ARRAY[
	'SELECT FROM items WHERE a = 3 AND embedding IS NOT NULL ORDER BY 1 - (embedding <-> ''{1,2,3,4,5,6,7,8}'') DESC LIMIT 3',
	'SELECT FROM items WHERE a IS NULL AND embedding IS NOT NULL ORDER BY 1 - (embedding <-> ''{1,2,3,4,5,6,7,8}'') DESC LIMIT 3',
	'SELECT FROM items WHERE a IN (3, 4) AND a2 > 0 ORDER BY embedding <-> ''{1,2,3,4,5,6,7,8}'', id LIMIT 3',
	'SELECT FROM items WHERE 3 = a AND (embedding <-> ''{1,2,3,4,5,6,7,8}'') < 0.5 ORDER BY embedding <-> ''{1,2,3,4,5,6,7,8}'' LIMIT 3',
	'SELECT FROM items WHERE a = 3 AND embedding <-> ''{1,2,3,4,5,6,7,8}'' < 0.5 ORDER BY 1 - (embedding <-> ''{1,2,3,4,5,6,7,8}'') DESC LIMIT 3']) query;

-- No search where all rows are wanted, or their order is lost: it leaves out those without a vector
CREATE TABLE gaps AS SELECT id, CASE WHEN id % 500 = 7 THEN NULL ELSE embedding END AS embedding, id % 500 AS a FROM items WHERE id <= 3000;
ALTER TABLE gaps ALTER embedding SET STORAGE PLAIN;
INSERT INTO gaps SELECT 10000 + i, (SELECT array_agg(sin(i * j)::real) FROM generate_series(1, 8) j), 100 + i % 500 FROM generate_series(1, 30000) i;
CREATE INDEX gaps_index ON gaps USING ivfpq (embedding, a);
CREATE TABLE numbers AS SELECT i AS n FROM generate_series(1, 20) i;
VACUUM ANALYZE gaps, numbers;
RESET enable_seqscan;
SELECT count(*) FROM (SELECT id FROM gaps WHERE a = 7 ORDER BY embedding <-> '{1,2,3,4,5,6,7,8}') q;
SELECT count(*) FROM (SELECT id FROM gaps WHERE a = 7 ORDER BY embedding <-> '{1,2,3,4,5,6,7,8}' LIMIT ALL) q;
SELECT count(*), count(id) FROM (SELECT n, id FROM numbers LEFT JOIN gaps ON a = n WHERE n = 7 ORDER BY embedding <-> '{1,2,3,4,5,6,7,8}' LIMIT 10) q;
SELECT condition_of('SELECT id FROM gaps WHERE a = 8 ORDER BY embedding <-> ''{1,2,3,4,5,6,7,8}'' LIMIT 3');
DROP TABLE gaps, numbers;

-- No plan without an order by the distance
SET enable_seqscan = off;
SELECT condition_of('SELECT id FROM items WHERE a = 3', 'Node Type') AS of_rows, condition_of('SELECT count(*) FROM items WHERE s = ''word 3''', 'Node Type') AS of_counts,
	   condition_of('SELECT id FROM items WHERE embedding IS NOT NULL', 'Node Type') AS of_vectors;
RESET enable_seqscan;

-- Written as rows are: an update of an attribute is a new entry
UPDATE items SET a = 77, s = 'seventy' WHERE id % 500 = 1;
DELETE FROM items WHERE id % 500 = 2;
INSERT INTO items (id, embedding, a) SELECT 5000 + id, embedding, a FROM items WHERE id <= 50;
VACUUM items;
INSERT INTO items (id, embedding, a) SELECT 6000 + id, embedding, NULL FROM items WHERE id <= 50;
SELECT indexrelid::regclass, ivfpq_check(indexrelid, true, true) FROM pg_index WHERE indrelid = 'items'::regclass ORDER BY indexrelid;
SELECT * FROM unnest(ARRAY['a = 77', 's = ''seventy''', 'a = 3', 's = ''word 3''']) condition, LATERAL compare(condition);
REINDEX INDEX CONCURRENTLY items_numbers;
DROP INDEX items_words;
CREATE INDEX CONCURRENTLY items_words ON items USING ivfpq (embedding, s) WITH (lists = 20);
SELECT ivfpq_check('items_numbers', true, true), ivfpq_check('items_words', true, true);
SELECT * FROM unnest(ARRAY['a = 77', 's = ''seventy''', 'a = 3', 's = ''word 3''']) condition, LATERAL compare(condition);

-- Built by workers, the same
SET min_parallel_table_scan_size = 0;
SET max_parallel_maintenance_workers = 2;
ALTER TABLE items SET (parallel_workers = 2);
REINDEX INDEX items_numbers;
SELECT ivfpq_check('items_numbers', true, true);
SELECT * FROM unnest(ARRAY['a = 77', 'a IN (3, 4)', 'a2 > 10000', 'num = 1']) condition, LATERAL compare(condition);
RESET min_parallel_table_scan_size;
RESET max_parallel_maintenance_workers;

-- Expressions, of the vector too; a class whose numbers are equal for unequal values has its rows checked
CREATE TABLE documents AS SELECT id, embedding, jsonb_build_object('lang', (ARRAY['de', 'en', 'fr'])[id % 3 + 1], 'n', id % 10) AS meta FROM items;
CREATE FUNCTION parity(int) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1 % 2';
CREATE OPERATOR CLASS parity_ops FOR TYPE int USING ivfpq AS OPERATOR 3 =, FUNCTION 3 parity(int);
CREATE INDEX documents_index ON documents USING ivfpq ((embedding[1:4]), (meta ->> 'lang'), ((meta -> 'n')::int) parity_ops);
ANALYZE documents;
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT id FROM documents WHERE meta ->> 'lang' = 'en' AND (meta -> 'n')::int = 4 ORDER BY embedding[1:4] <-> '{1,2,3,4}' LIMIT 3;
SELECT DISTINCT meta FROM (SELECT meta FROM documents WHERE meta ->> 'lang' = 'en' AND (meta -> 'n')::int = 4 ORDER BY embedding[1:4] <-> '{1,2,3,4}' LIMIT 5) q;
SELECT ivfpq_check('documents_index', true, true);

-- A number that is not that of its row is damage
CREATE OR REPLACE FUNCTION parity(int) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1 % 2 + 1';
DO $$ BEGIN
	PERFORM ivfpq_check('documents_index', true, true);
EXCEPTION WHEN index_corrupted THEN
	RAISE NOTICE '%', SQLERRM;
END $$;

-- Numbers of a user's class need not differ where values do; && is for arrays alone
CREATE FUNCTION tens(int) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1 / 10';
CREATE OPERATOR CLASS tens_ops FOR TYPE int USING ivfpq AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 3 tens(int);
CREATE FUNCTION day(timestamp) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1::date - ''2000-01-01''';
CREATE OPERATOR CLASS day_ops FOR TYPE date USING ivfpq AS OPERATOR 1 <, OPERATOR 3 =, OPERATOR 5 >, OPERATOR 1 < (date, timestamp), OPERATOR 5 > (date, timestamp),
	FUNCTION 3 ivfpq_attribute(date), FUNCTION 3 (timestamp, timestamp) day(timestamp);
CREATE FUNCTION bits_of_address(inet) RETURNS int8 LANGUAGE sql IMMUTABLE STRICT AS 'SELECT 0::int8';
CREATE OPERATOR CLASS address_ops FOR TYPE inet USING ivfpq AS OPERATOR 3 =, OPERATOR 6 &&, FUNCTION 3 bits_of_address(inet);
SELECT opcname, amvalidate(oid) FROM pg_opclass WHERE opcname IN ('tens_ops', 'day_ops', 'address_ops') ORDER BY 1;
CREATE DOMAIN tag_list AS text[];
DROP INDEX items_numbers, items_times;
ALTER TABLE items ADD ip inet;
UPDATE items SET ip = '10.0.0.0'::inet + a WHERE a BETWEEN 0 AND 100;
CREATE INDEX items_users ON items USING ivfpq (embedding, a tens_ops, d day_ops, ip address_ops);
ANALYZE items;
SELECT * FROM unnest(ARRAY['a < 15', 'a > 14', 'a < -4', 'd < timestamp ''2020-01-03 12:00''', 'd > timestamp ''2020-01-10 12:00''', 'ip && ''10.0.0.5''', 'ip = ''10.0.0.5''',
	'tags && ANY (ARRAY[''{t3}''::tag_list, ''{t4,t5}''::tag_list])', 'tags @> ANY (ARRAY[''{t3}''::tag_list, ''{t4,t2}''::tag_list])'
	]) condition, LATERAL compare(condition);

-- An expression is evaluated where the server does so, and by who may
CREATE FUNCTION seventh(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 % 7; END';
REVOKE EXECUTE ON FUNCTION seventh(int) FROM PUBLIC;
CREATE INDEX few_expression ON few USING ivfpq ((embedding[1:4]), seventh(a));
CREATE ROLE attributes_reader;
GRANT SELECT ON few TO attributes_reader;
SET ROLE attributes_reader;
SELECT id FROM few ORDER BY embedding[1:4] <-> (SELECT embedding[1:4] FROM few WHERE id = 8) LIMIT 1;
RESET ROLE;

-- Rows that are hidden from a user are not shown to his functions, and not counted for him
GRANT SELECT ON items, documents TO attributes_reader;
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY ours ON items TO attributes_reader USING (id % 2 = 0);
CREATE POLICY few_documents ON documents TO attributes_reader USING (meta ->> 'lang' = 'en');
ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
SET ROLE attributes_reader;
SELECT count(*) FROM (SELECT FROM items WHERE a = 3 ORDER BY embedding <-> '{0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}' LIMIT 1000) q;
SELECT codes_scored IS NULL AS is_secret FROM ivfpq_last_scan();
SELECT count(*) FROM (SELECT FROM documents ORDER BY embedding[1:4] <-> '{1,2,3,4}' LIMIT 10) q;
SELECT codes_scored IS NULL AS is_secret FROM ivfpq_last_scan();
RESET ROLE;
CREATE TABLE tenants AS SELECT i AS id, embedding, jsonb_build_object('tenant', 'x' || i % 50, 'n', i) AS meta FROM items, LATERAL (SELECT id AS i) n WHERE id <= 3000;
CREATE FUNCTION same_bits(jsonb) RETURNS int8 LANGUAGE sql IMMUTABLE STRICT AS 'SELECT 0::int8';
CREATE OPERATOR CLASS same_bits_ops FOR TYPE jsonb USING ivfpq AS OPERATOR 3 =, OPERATOR 7 @>, FUNCTION 3 same_bits(jsonb);
CREATE INDEX tenants_index ON tenants USING ivfpq (embedding, meta same_bits_ops);
ANALYZE tenants;
CREATE POLICY theirs ON tenants TO attributes_reader USING (meta @> '{"tenant": "x7"}');
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON tenants TO attributes_reader;
CREATE FUNCTION spy(jsonb) RETURNS boolean LANGUAGE plpgsql STABLE COST 1 AS
	$$ BEGIN IF $1 ->> 'tenant' <> 'x7' THEN RAISE NOTICE 'saw %', $1; END IF; RETURN true; END $$;
SET ROLE attributes_reader;
SELECT condition_of('SELECT id FROM tenants WHERE spy(meta) ORDER BY embedding <-> ''{1,2,3,4,5,6,7,8}'' LIMIT 3');
SELECT count(*) FROM (SELECT FROM tenants WHERE spy(meta) ORDER BY embedding <-> '{1,2,3,4,5,6,7,8}' LIMIT 30) q;
SELECT count(*) FROM (SELECT FROM tenants WHERE meta @> '{"n": 8}' ORDER BY embedding <-> '{1,2,3,4,5,6,7,8}' LIMIT 30) q;
SELECT rows_returned IS NULL AS is_secret FROM ivfpq_last_scan();
SELECT condition_of('SELECT id FROM tenants WHERE meta @> ''{"n": 8}'' ORDER BY embedding <-> ''{1,2,3,4,5,6,7,8}'', id LIMIT 3');
RESET ROLE;

-- Values that are equal by their collation are
CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE words (id int, embedding real[], word text COLLATE any_case, tags text[] COLLATE any_case);
INSERT INTO words SELECT i, ARRAY[i, 1], CASE i % 2 WHEN 0 THEN 'Word' ELSE 'wORD' END, ARRAY['Tag', 'other'] FROM generate_series(1, 100) i;
CREATE INDEX ON words USING ivfpq (embedding, word, tags);
SELECT count(*) FROM (SELECT FROM words WHERE word = 'WORD' AND tags @> '{TAG}' ORDER BY embedding <-> '{1,1}' LIMIT 200) q;
SELECT count(*) FROM (SELECT FROM words WHERE word = ANY ('{WORD,none}') AND tags && '{TAG,none}' ORDER BY embedding <-> '{1,1}' LIMIT 200) q;
SELECT count(*) FROM (SELECT FROM words WHERE word COLLATE "C" = 'WORD' ORDER BY embedding <-> '{1,1}' LIMIT 200) q;
DROP TABLE words;
DROP COLLATION any_case;

-- What cannot be
CREATE INDEX ON items USING ivfpq (a, embedding);
CREATE INDEX ON items USING ivfpq (embedding, embedding);
CREATE INDEX ON documents USING ivfpq (embedding, (NULL::point));
CREATE INDEX ON documents USING ivfpq (embedding, (ARRAY[NULL::point]));
CREATE INDEX ON few USING ivfpq (embedding array_ops);
CREATE INDEX ON items USING ivfpq (embedding, a, a, a, a, a, a, a, a, a);
CREATE INDEX ON items USING ivfpq (embedding, a) INCLUDE (id);
\set VERBOSITY terse
CREATE TABLE wide AS SELECT array_agg(i::real) AS v, 1::bigint AS a FROM generate_series(1, 16000) i;
CREATE INDEX wide_index ON wide USING ivfpq (v, a, a, a, a, a, a, a, a);
SELECT ivfpq_check('wide_index', true, true);
CREATE INDEX ON wide USING ivfpq (v, a, a, a, a, a, a, a, a) WITH (m = 900);
\set VERBOSITY default

-- Invalid classes
CREATE FUNCTION to_text(int) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1::text';
CREATE OPERATOR CLASS text_number_ops FOR TYPE int USING ivfpq AS OPERATOR 3 =, FUNCTION 3 to_text(int);
CREATE OPERATOR CLASS eighth_ops FOR TYPE int USING ivfpq AS OPERATOR 3 =, OPERATOR 8 <>, FUNCTION 3 pg_catalog.int4up(int);
CREATE OPERATOR CLASS unequal_ops FOR TYPE int USING ivfpq AS OPERATOR 1 <, FUNCTION 3 pg_catalog.int4up(int);
CREATE OPERATOR CLASS crossed_ops FOR TYPE int USING ivfpq AS OPERATOR 3 =, OPERATOR 1 < (int, bigint), FUNCTION 3 pg_catalog.int4up(int);
SELECT opcname, amvalidate(oid) FROM pg_opclass WHERE opcname IN ('text_number_ops', 'eighth_ops', 'unequal_ops', 'crossed_ops', 'parity_ops') ORDER BY 1;

DROP TABLE items, few, documents, wide, zeroes, tenants;
DROP ROLE attributes_reader;
DROP OPERATOR FAMILY parity_ops USING ivfpq;
DROP OPERATOR FAMILY text_number_ops USING ivfpq;
DROP OPERATOR FAMILY eighth_ops USING ivfpq;
DROP OPERATOR FAMILY unequal_ops USING ivfpq;
DROP OPERATOR FAMILY crossed_ops USING ivfpq;
DROP OPERATOR FAMILY tens_ops USING ivfpq;
DROP OPERATOR FAMILY day_ops USING ivfpq;
DROP OPERATOR FAMILY address_ops USING ivfpq;
DROP OPERATOR FAMILY same_bits_ops USING ivfpq;
DROP FUNCTION parity, to_text, compare, condition_of, tens, day, bits_of_address, seventh, same_bits, spy;
DROP DOMAIN tag_list;
DROP TYPE mood;
