# A streaming standby gives the answers of its primary, after inserts, deletes
# and vacuum, and while these are being replayed.  wal_consistency_checking
# compares every replayed page with that of the primary, and stops the standby
# where they differ.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VqpgTest;

my $dim = 16;
my $primary = new_vqpg_node(
	'primary',
	allows_streaming => 1,
	# full pages would hide what a record lacks
	conf => "wal_consistency_checking = 'generic'\nfull_page_writes = off\n");
my $standby = PostgreSQL::Test::Cluster->new('standby');

$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
# replay waits for queries, however long they take
$standby->append_conf('postgresql.conf', "max_standby_streaming_delay = -1\n");
$standby->start;

create_vectors($primary, 'items', 6000, $dim);
create_queries($primary, 30, $dim);
$primary->safe_psql('postgres', qq{
	CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = 20);
	CREATE TABLE small (id bigint PRIMARY KEY, v real[]);
	CREATE INDEX small_v ON small USING ivfpq (v array_l2_ops, id);
	CREATE UNLOGGED TABLE fleeting (id bigint PRIMARY KEY, v real[]);
	CREATE INDEX fleeting_v ON fleeting USING ivfpq (v array_l2_ops);
});

sub ok_same_answers
{
	my ($name) = @_;

	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	for my $table (qw(items small))
	{
		is_deeply(
			neighbours($standby, $table, '<->', 10, 'index'),
			neighbours($primary, $table, '<->', 10, 'index'),
			"$name: standby answers as its primary, table $table");
		ok_check($standby, "${table}_v", 'true', "$name, standby");
		ok_check($primary, "${table}_v", 'true', "$name, primary");
	}
	return;
}

ok_same_answers('after CREATE INDEX');

$primary->safe_psql('postgres', qq{
	INSERT INTO items SELECT id, test_vector(id, $dim), 0 FROM generate_series(6001, 8000) id;
	INSERT INTO small SELECT id, test_vector(id, $dim) FROM generate_series(1, 300) id;
});
ok_same_answers('after inserts');

$primary->safe_psql('postgres', q{
	DELETE FROM items WHERE id % 3 = 0;
	DELETE FROM small WHERE id % 3 = 0;
});
ok_same_answers('after deletes');

$primary->safe_psql('postgres', $_)
  for ('VACUUM (INDEX_CLEANUP ON) items', 'VACUUM (INDEX_CLEANUP ON) small');
ok_same_answers('after vacuum');

$primary->safe_psql('postgres', qq{
	INSERT INTO items SELECT id, test_vector(id, $dim), 1 FROM generate_series(20001, 24000) id;
	INSERT INTO small SELECT id, test_vector(id, $dim) FROM generate_series(1001, 1300) id;
});
ok_same_answers('after slots are used again');
ok_finds_every_row($standby, 'items', $dim, 'standby');

# An index that VACUUM has found empty takes another dimension
$primary->safe_psql('postgres', $_)
  for (
	'CREATE TABLE emptied (id int, v real[])',
	'CREATE INDEX emptied_v ON emptied USING ivfpq (v)',
	"INSERT INTO emptied VALUES (1, '{1,2}')",
	'DELETE FROM emptied',
	'VACUUM (INDEX_CLEANUP ON) emptied'
  );
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is($standby->safe_psql('postgres', "SELECT dims FROM ivfpq_index_info('emptied_v')"),
	0, 'a dimension that the primary has forgotten is forgotten on the standby');
$primary->safe_psql('postgres', "INSERT INTO emptied VALUES (2, '{1,2,3}')");
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is( $standby->safe_psql('postgres', "SET enable_seqscan = off; SELECT id FROM emptied ORDER BY v <-> '{1,2,3}' LIMIT 1"),
	2, 'and another one is taken');
ok_check($standby, 'emptied_v', 'true', 'with another dimension, standby');

# A zero vector that a cosine index leaves out is counted there, too
$primary->safe_psql('postgres', q{
	CREATE TABLE directions (v real[]);
	CREATE INDEX directions_v ON directions USING ivfpq (v array_cosine_ops);
	INSERT INTO directions VALUES ('{0,0}');
});
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is($standby->safe_psql('postgres', "SELECT dims, zero_vectors FROM ivfpq_index_info('directions_v')"),
	'2|1', 'the standby knows of a zero vector');

# An unlogged index has no contents there, and says so
my ($code, $out, $err) = $standby->psql('postgres', "SELECT ivfpq_check('fleeting_v')");
isnt($code, 0, 'unlogged index cannot be checked on a standby');
like($err, qr/cannot access index "fleeting_v" during recovery/, 'unlogged index: the reason is given');

# Readers on the standby while replay changes the pages they read
my ($readers, $readers_err) = start_pgbench(
	$standby,
	'-c 2 -j 2 -T 12',
	{
		'read@20' => qq{
\\set id random(1, 8000)
SET enable_seqscan = off;
SELECT 1 / (count(*) = 20 AND count(DISTINCT id) = 20)::int
FROM (SELECT id FROM items ORDER BY v <-> test_vector(:id, $dim) LIMIT 20) s;
},
		'check@1' => "SELECT ivfpq_check('items_v');\n"
	});
for my $round (1 .. 8)
{
	my $first = 100000 + $round * 1000;

	$primary->safe_psql('postgres', $_)
	  for (
		"DELETE FROM items WHERE id % 8 = $round - 1 AND id < 100000",
		'VACUUM (INDEX_CLEANUP ON) items',
		"INSERT INTO items SELECT id, test_vector(id, $dim), 2 FROM generate_series($first, $first + 800) id"
	  );
}
$readers->finish;
unlike($$readers_err, qr/(ERROR|FATAL|PANIC|aborted)/, 'no query of the standby fails while it replays');
ok_same_answers('after load');

# An index that the primary made CONCURRENTLY may be newer than a snapshot here, and lack its rows
($code, $out, $err) = $standby->psql('postgres', q{
	BEGIN ISOLATION LEVEL REPEATABLE READ;
	SELECT ivfpq_check('items_v', false);
	SELECT ivfpq_check('items_v', true, true);
});

is($out, '', 'an old snapshot of a standby can have the index checked');
like($err, qr/cannot be checked in this transaction/, 'but not that all rows are in it');

# A snapshot may outlive the standby that it is of
my $witness = $standby->background_psql('postgres', on_error_stop => 0);

$witness->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM items');

$standby->promote;
$witness->query(q{SELECT ivfpq_check('items_v', true)});
like($witness->{stderr}, qr/cannot be checked in this transaction/, 'nor after it has become a primary');
$witness->quit;
$standby->safe_psql('postgres', qq{
	INSERT INTO items SELECT id, test_vector(id, $dim), 3 FROM generate_series(300001, 301000) id;
	INSERT INTO fleeting SELECT id, test_vector(id, $dim) FROM generate_series(1, 100) id;
});
ok_check($standby, 'items_v', 'true', 'after promotion');
ok_check($standby, 'fleeting_v', 'true', 'after promotion');
ok_finds_every_row($standby, 'items', $dim, 'after promotion');

done_testing();
