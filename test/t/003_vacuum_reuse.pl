# Rows that are deleted and vacuumed leave slots that later inserts fill: the
# index does not grow, and its answers stay right.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use VqpgTest;

my $dim = 16;
my $node = new_vqpg_node('main');

create_vectors($node, 'items', 6000, $dim);
create_queries($node, 30, $dim);
$node->safe_psql('postgres',
	'CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = 20)');

sub info
{
	my ($columns) = @_;

	return $node->safe_psql('postgres', "SELECT $columns FROM ivfpq_index_info('items_v')");
}

my $size = $node->safe_psql('postgres', "SELECT pg_relation_size('items_v')");
my $truth = neighbours($node, 'items', '<->', 10, 'exact');

is(info('rows, dead_slots'), '6000|0', 'a new index has no dead slots');

# The same vectors come back under the same ids, so each list needs as many
# slots as it had
for my $round (1 .. 5)
{
	$node->safe_psql('postgres', "DELETE FROM items WHERE id % 5 <> $round - 1");
	is(info('rows, dead_slots'), '6000|0', "round $round: deleted rows keep their slots until vacuum");

	$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
	is(info('rows, dead_slots'), '1200|4800', "round $round: vacuum frees the slots of deleted rows");
	ok_check($node, 'items_v', 'true', "round $round, after vacuum");
	ok_finds_every_row($node, 'items', $dim, "round $round, after vacuum");

	$node->safe_psql('postgres', qq{
		INSERT INTO items SELECT id, test_vector(id, $dim), $round FROM generate_series(1, 6000) id
		ON CONFLICT (id) DO NOTHING});
	is(info('rows, dead_slots'), '6000|0', "round $round: inserts fill every dead slot");
	is($node->safe_psql('postgres', "SELECT pg_relation_size('items_v')"),
		$size, "round $round: the index has not grown");
	is_deeply(neighbours($node, 'items', '<->', 10, 'index', settings => 'SET ivfpq.nprobe = 20;'),
		$truth, "round $round: answers are those of an exact search");
	ok_check($node, 'items_v', 'true', "round $round");
}

# A transaction that was rolled back leaves entries that vacuum takes out
$node->psql('postgres', qq{
	BEGIN;
	INSERT INTO items SELECT id, test_vector(id, $dim), 9 FROM generate_series(10001, 11000) id;
	ROLLBACK});
is(info('rows'), '7000', 'entries of a rolled back transaction are there until vacuum');
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
is(info('rows'), '6000', 'vacuum removes entries of a rolled back transaction');
ok_check($node, 'items_v', 'true', 'after rollback');

# Statistics: exact after a vacuum that walked the lists
is($node->safe_psql('postgres', q{SELECT reltuples FROM pg_class WHERE relname = 'items_v'}),
	'6000', 'reltuples of the index is the number of its entries');
$node->safe_psql('postgres', 'DELETE FROM items WHERE id <= 100');

my ($code, $out, $err) = $node->psql('postgres', 'VACUUM (VERBOSE, INDEX_CLEANUP ON) items');

like($err, qr/index "items_v": pages: [1-9]/, 'VACUUM VERBOSE knows the size of the index');
is($node->safe_psql('postgres', q{SELECT reltuples FROM pg_class WHERE relname = 'items_v'}),
	'5900', 'reltuples follows deletes');

# All rows gone, then as many again; the rollback had made it larger
$size = $node->safe_psql('postgres', "SELECT pg_relation_size('items_v')");
$node->safe_psql('postgres', $_) for ('DELETE FROM items', 'VACUUM (INDEX_CLEANUP ON) items');
is(info('rows'), '0', 'an emptied index has no rows');
is($node->safe_psql('postgres', "SET enable_seqscan = off; SELECT count(*) FROM (SELECT id FROM items ORDER BY v <-> test_vector(1, $dim) LIMIT 5) s"),
	'0', 'a search of an emptied index finds nothing');
$node->safe_psql('postgres',
	"INSERT INTO items SELECT id, test_vector(id, $dim), 0 FROM generate_series(1, 6000) id");
is($node->safe_psql('postgres', "SELECT pg_relation_size('items_v')"),
	$size, 'an emptied index does not grow when it is filled again');
ok_check($node, 'items_v', 'true', 'after refill');
ok_finds_every_row($node, 'items', $dim, 'after refill');

# More dead rows than fit the memory of one pass, three indexes, and workers
$node->safe_psql('postgres', q{
	CREATE TABLE many AS
		SELECT id, ARRAY[test_noise(id, 1), test_noise(id, 2), 1]::real[] AS v FROM generate_series(1, 250000) id;
	CREATE INDEX many_l2 ON many USING ivfpq (v array_l2_ops) WITH (lists = 100);
	CREATE INDEX many_ip ON many USING ivfpq (v array_ip_ops) WITH (lists = 50, nbits = 8);
	CREATE INDEX many_cosine ON many USING ivfpq (v array_cosine_ops) WITH (lists = 20);
	DELETE FROM many WHERE id % 10 <> 0;
});
($code, $out, $err) = $node->psql('postgres', q{
	SET maintenance_work_mem = '1MB';
	SET min_parallel_index_scan_size = 0;
	VACUUM (PARALLEL 2, VERBOSE) many});
like($err, qr/launched [12] parallel vacuum worker/, 'workers vacuum indexes');
is( $node->safe_psql('postgres', q{SELECT relname, reltuples FROM pg_class WHERE relname LIKE 'many_%' ORDER BY 1}),
	"many_cosine|25000\nmany_ip|25000\nmany_l2|25000",
	'after several passes, reltuples is the number of entries that remain');
ok_check($node, $_, 'true', 'after several passes') for qw(many_l2 many_ip many_cosine);

# VACUUM pauses between pages of an index as it does between those of a table
$node->safe_psql('postgres', 'DROP INDEX many_ip, many_cosine; DELETE FROM many WHERE id <= 10');
my $pages = $node->safe_psql('postgres', q{SELECT pg_relation_size('many_l2') / current_setting('block_size')::int});
my $start = time;

$node->safe_psql('postgres', q{
	SET vacuum_cost_delay = '2ms';
	SET vacuum_cost_limit = 1;
	VACUUM (INDEX_CLEANUP ON) many});
cmp_ok(time - $start, '>', $pages * .002 * .9, "VACUUM pauses at each of $pages pages");

done_testing();
