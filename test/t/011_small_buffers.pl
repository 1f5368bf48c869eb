# A backend remembers in which buffer it saw a page, and where rows of the table
# are in memory.  With fewer buffers than pages those memories are wrong most of
# the time, and after REINDEX always: searches must not notice.  But the server
# must notice what they use.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VqpgTest;

my $dim = 16;

# 128 buffers; table, index and what pushes them out have a thousand pages each
my $node = new_vqpg_node('main', conf => "shared_buffers = 1MB\nmax_connections = 10\n");

create_vectors($node, 'items', 20000, $dim);
create_queries($node, 30, $dim);
$node->safe_psql('postgres', q{
	CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = 300, m = 8);
	CREATE TABLE other AS SELECT i, repeat('x', 500) FROM generate_series(1, 15000) i;
	SET enable_indexscan = off;
	CREATE TABLE truth AS
		SELECT q.id, array(SELECT t.id FROM items t ORDER BY t.v <-> q.v LIMIT 10) AS ids FROM queries q;
});

# Compares all queries with the truth, and ends with an error if one differs
$node->safe_psql('postgres', q{
	CREATE PROCEDURE compare(what text) LANGUAGE plpgsql
		SET enable_seqscan = off SET enable_sort = off
		SET ivfpq.nprobe = 300 SET ivfpq.epsilon = 20
	AS $$
	DECLARE
		q record;
		found bigint[];
	BEGIN
		FOR q IN SELECT queries.id, v, ids FROM queries JOIN truth USING (id)
		LOOP
			found := array(SELECT t.id FROM items t ORDER BY t.v <-> q.v LIMIT 10);
			IF found <> q.ids THEN
				RAISE 'query % %: % instead of %', q.id, what, found, q.ids;
			END IF;
		END LOOP;
	END
	$$;
});
like(
	$node->safe_psql('postgres', q{
		SET enable_seqscan = off; SET enable_sort = off;
		EXPLAIN SELECT id FROM items ORDER BY v <-> (SELECT v FROM queries LIMIT 1) LIMIT 10}),
	qr/Index Scan using items_v/, 'searches use the index');

# One session all the way: what it remembers is its own
my ($stdout, $stderr);
$node->psql('postgres', q{
	\set ON_ERROR_STOP on
	CALL compare('at first');
	SELECT sum(length(repeat)) FROM other;
	CALL compare('after other pages took the buffers');
	REINDEX INDEX items_v;
	CALL compare('after REINDEX');
	CLUSTER items USING items_pkey;
	CALL compare('after the table moved');
	CREATE TABLE third AS SELECT * FROM other;
	CALL compare('while new pages are written');
	SET effective_io_concurrency = 0;
	CALL compare('without looking ahead');
	SET effective_io_concurrency = 100;
	SELECT sum(length(repeat)) FROM third;
	CALL compare('looking far ahead');
	SELECT 'all the same';
}, stdout => \$stdout, stderr => \$stderr);
is($stderr, '', 'no search differs from the exact one');
like($stdout, qr/all the same/, 'the session came to its end');

# Rows that move and die while others search
my ($writers, $writer_errors) = start_pgbench($node, '-c 2 -t 3000', { move => q{
	\set id random(1, 20000)
	UPDATE items SET note = note + 1 WHERE id = :id;
}});
$node->psql('postgres', q{
	\set ON_ERROR_STOP on
	CALL compare('while rows move');
	VACUUM items;
	CALL compare('after vacuum');
	SELECT 'all the same';
}, stdout => \$stdout, stderr => \$stderr);
is($stderr, '', 'no search differs from the exact one while rows move');
$writers->finish;
unlike($$writer_errors, qr/ERROR|FATAL/, 'no update fails');
ok_check($node, 'items_v', 'true', 'at the end');

# The server must learn that pages are used, although it is not asked where they are
$node->append_conf('postgresql.conf', 'shared_buffers = 64MB');
$node->restart;
is($node->safe_psql('postgres', q{
	CREATE EXTENSION pg_buffercache;
	SET enable_seqscan = off; SET enable_sort = off; SET ivfpq.nprobe = 300;
	DO $$
	BEGIN
		FOR i IN 1 .. 8 LOOP
			PERFORM id FROM items ORDER BY v <-> (SELECT v FROM queries LIMIT 1) LIMIT 10;
		END LOOP;
	END $$;
	SELECT min(usagecount) FROM pg_buffercache
		WHERE relfilenode = pg_relation_filenode('items_v') AND relforknumber = 0
		AND relblocknumber >= pg_relation_size('items_v') / current_setting('block_size')::int / 2
	}), 5, 'pages that every search reads count as much used');

# A search hands the executor rows with their pages pinned.  It must prune these as
# the executor would when it pins them, or updates soon have no room in the page.
$node->safe_psql('postgres', q{
	CREATE EXTENSION pageinspect;
	CREATE TABLE updated (id int, v real[], padding text);
	ALTER TABLE updated ALTER padding SET STORAGE PLAIN;
	INSERT INTO updated VALUES (1, '{1,2,3}', repeat('0', 1500));
	CREATE INDEX updated_v ON updated USING ivfpq (v)});
$node->safe_psql('postgres', "UPDATE updated SET padding = repeat('$_', 1500)") for 1 .. 4;
my $versions = q{SELECT count(*) FROM heap_page_items(get_raw_page('updated', 0)) WHERE lp_flags = 1};
is($node->safe_psql('postgres', $versions), 5, 'a page is full of versions of a row');
is($node->safe_psql('postgres', q{SET enable_seqscan = off;
	SELECT id FROM updated ORDER BY v <-> '{0,0,0}' LIMIT 1}), 1, 'a search finds the row');
is($node->safe_psql('postgres', $versions), 1, 'and prunes the page');

# CREATE INDEX samples a large table without filling shared buffers with it
$node->safe_psql('postgres', q{
	CREATE TABLE wide AS SELECT id, v, repeat(md5(id::text), 40) AS filler FROM items;
	VACUUM wide});
$node->restart;
$node->safe_psql('postgres', 'CREATE INDEX wide_v ON wide USING ivfpq (v)');
cmp_ok($node->safe_psql('postgres', q{SELECT pg_relation_size('wide') / 8192}), '>', 64 * 128 / 4, 'a table is large');
cmp_ok(
	$node->safe_psql('postgres', q{SELECT count(*) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('wide')}),
	'<', 1000, 'CREATE INDEX leaves few of its pages in shared buffers');

$node->stop;
done_testing();
