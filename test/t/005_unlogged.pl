# An unlogged table keeps its index through a clean restart, and is empty but
# usable after a crash; temporary tables have working indexes.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VqpgTest;

my $dim = 16;
my $node = new_vqpg_node('main');

create_queries($node, 10, $dim);
create_vectors($node, 'items', 5000, $dim, kind => 'UNLOGGED');
$node->safe_psql('postgres', q{
	CREATE INDEX items_l2 ON items USING ivfpq (v array_l2_ops) WITH (lists = 16);
	CREATE INDEX items_cosine ON items USING ivfpq (v array_cosine_ops) WITH (lists = 16);
});
ok_check($node, 'items_l2', 'true', 'unlogged');
ok_finds_every_row($node, 'items', $dim, 'unlogged');

my $before = neighbours($node, 'items', '<->', 10, 'index');

$node->restart;
is_deeply(neighbours($node, 'items', '<->', 10, 'index'), $before, 'an unlogged index outlives a clean restart');

# This one sees no checkpoint before the crash: its init fork has to come out of
# the WAL
$node->safe_psql('postgres', q{
	CREATE UNLOGGED TABLE young (id bigint, v real[]);
	CREATE INDEX young_v ON young USING ivfpq (v array_l2_ops);
});

for my $round (1, 2)
{
	$node->stop('immediate');
	$node->start;
	$node->safe_psql('postgres',
		"INSERT INTO young SELECT id, test_vector(id, $dim) FROM generate_series(1, 100) id");
	ok_check($node, 'young_v', 'true', "crash $round");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM items'), '0', "crash $round: the table is empty");
	is($node->safe_psql('postgres', "SELECT rows FROM ivfpq_index_info('items_l2')"), '0', "crash $round: so is its index");
	ok_check($node, 'items_l2', 'true', "crash $round");
	is( $node->safe_psql('postgres',
			"SET enable_seqscan = off; SELECT count(*) FROM (SELECT id FROM items ORDER BY v <-> test_vector(1, $dim) LIMIT 5) s"),
		'0', "crash $round: a search finds nothing");

	$node->safe_psql('postgres',
		"INSERT INTO items SELECT id, test_vector(id, $dim), 0 FROM generate_series(1, 3000) id");
	ok_check($node, $_, 'true', "crash $round, filled again") for qw(items_l2 items_cosine);
	is_deeply(
		neighbours($node, 'items', '<->', 10, 'index'),
		neighbours($node, 'items', '<->', 10, 'exact'),
		"crash $round: an index without codes is exact");
}

$node->safe_psql('postgres', 'REINDEX TABLE items');
ok_check($node, $_, 'true', 'after REINDEX') for qw(items_l2 items_cosine);
ok_finds_every_row($node, 'items', $dim, 'after REINDEX');

$node->safe_psql('postgres', 'ALTER TABLE items SET LOGGED');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM items'), '3000', 'rows of a table that is now logged outlive a crash');
ok_check($node, $_, 'true', 'after SET LOGGED and a crash') for qw(items_l2 items_cosine);
ok_finds_every_row($node, 'items', $dim, 'after SET LOGGED and a crash');

# A temporary table lives in local buffers; its session checks it
my $result = $node->safe_psql('postgres', qq{
	SET enable_seqscan = off;
	CREATE TEMP TABLE passing (id bigint, v real[]);
	INSERT INTO passing SELECT id, test_vector(id, $dim) FROM generate_series(1, 3000) id;
	CREATE INDEX passing_v ON passing USING ivfpq (v array_l2_ops) WITH (lists = 10);
	DELETE FROM passing WHERE id % 2 = 0;
	VACUUM (INDEX_CLEANUP ON) passing;
	INSERT INTO passing SELECT id, test_vector(id, $dim) FROM generate_series(3001, 4000) id;
	SELECT ivfpq_check('passing_v', true, true);
	SELECT count(DISTINCT id) FROM (SELECT id FROM passing ORDER BY v <-> test_vector(1, $dim)) s;
	BEGIN;
	TRUNCATE passing;
	INSERT INTO passing SELECT id, test_vector(id, $dim) FROM generate_series(1, 10) id;
	SELECT count(*) FROM (SELECT id FROM passing ORDER BY v <-> test_vector(1, $dim)) s;
	ROLLBACK;
	SELECT count(*) FROM (SELECT id FROM passing ORDER BY v <-> test_vector(1, $dim)) s;
	SELECT ivfpq_check('passing_v', true, true);
});
is(join(',', grep { length } split /\n/, $result), '2500,10,2500', 'an index on a temporary table works');

# Once OIDs have come round, a temporary table may have the file number of a permanent one, which
# the tags of buffers do not tell apart: local buffers must not be looked for among shared ones.
# Other things take OIDs as well, so that it takes some tries to have this one.
$node->safe_psql('postgres', q{
	CREATE TABLE permanent (id int, v real[], filler text);
	INSERT INTO permanent SELECT i, ARRAY[i, 1, 2, 3], repeat('permanent', 9) FROM generate_series(1, 1000) i;
	VACUUM FULL permanent;
});
my $number = $node->safe_psql('postgres', q{SELECT pg_relation_filenode('permanent')});

my $same = 0;

for my $before (0 .. 8)
{
	last if $same;
	$node->stop;
	run_log([ 'pg_resetwal', '-o', $number - $before, $node->data_dir ]);
	$node->start;
	$result = $node->safe_psql('postgres', q{
		SELECT count(*) FROM permanent;
		CREATE TEMP TABLE passing (id int, v real[], filler text);
		INSERT INTO passing SELECT i, ARRAY[i * 10, 5, 6, 7], repeat('temporary', 9) FROM generate_series(1, 1000) i;
		CREATE INDEX passing_v ON passing USING ivfpq (v array_l2_ops);
		SET enable_seqscan = off;
		SELECT pg_relation_filenode('passing');
		SELECT string_agg(id || substr(filler, 1, 4), ' ') FROM (SELECT * FROM passing ORDER BY v <-> '{100,5,6,7}' LIMIT 3) t;
	});
	like($result, qr/^1000\n\d+\n10temp (9temp 11temp|11temp 9temp)$/, "OID less $before: a temporary table is not taken for a permanent one");
	$same++ if $result =~ /^1000\n$number\n/;
}
ok($same, 'they had the same file number');

# Nobody can see the pages of a temporary index of another session, nor may look for them among shared ones
my $owner = $node->background_psql('postgres');

$owner->query_safe('CREATE TEMP TABLE passing (v real[]); CREATE INDEX passing_v ON passing USING ivfpq (v)');
for my $function ('ivfpq_check(oid)', 'ivfpq_index_info(oid)', 'ivfpq_list_info(oid)', "ivfpq_reconstruct(oid, '(0,1)')")
{
	my ($code, $out, $err) = $node->psql('postgres', "SELECT $function FROM pg_class WHERE relname = 'passing_v'");

	like($err, qr/cannot access temporary indexes of other sessions/, "$function refuses one of another session");
}
$owner->quit;


done_testing();
