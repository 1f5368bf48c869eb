# kill -9 of the server in the middle of inserts, updates, deletes and vacuum,
# and in the middle of CREATE INDEX and REINDEX: after every restart the index
# is sound, has every row, and finds what it found before.
#
# VQPG_CRASH_CYCLES (5 unless set) says how many times.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use VqpgTest;

my $dim = 16;
my $cycles = $ENV{VQPG_CRASH_CYCLES} || 5;
my $node = new_vqpg_node(
	'main',
	conf => "checkpoint_timeout = 30s\nmax_wal_size = 64MB\nmin_wal_size = 32MB\n");

srand(20);
create_vectors($node, 'items', 4000, $dim);
create_queries($node, 20, $dim);
$node->safe_psql('postgres', qq{
	CREATE SEQUENCE item_ids START 1000000;
	CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = 16);
	CREATE TABLE steady (id bigint PRIMARY KEY, v real[]);
	INSERT INTO steady SELECT id, test_vector(id, $dim) FROM generate_series(1, 20000) id;
	CREATE TABLE fresh (id bigint PRIMARY KEY, v real[]);
	CREATE INDEX fresh_v ON fresh USING ivfpq (v array_cosine_ops, id);
});

my $start = time;

$node->safe_psql('postgres', 'CREATE INDEX steady_v ON steady USING ivfpq (v array_l2_ops) WITH (lists = 200)');

my $build_seconds = time - $start;

note("CREATE INDEX takes $build_seconds s");

my %scripts = (
	'insert@6' => qq{
INSERT INTO items SELECT id, test_vector(id, $dim), 1 FROM (SELECT nextval('item_ids') AS id) s;
},
	'batch@1' => qq{
BEGIN;
INSERT INTO items SELECT id, test_vector(id, $dim), 2
FROM (SELECT nextval('item_ids') AS id FROM generate_series(1, 50)) s;
INSERT INTO fresh SELECT id, test_vector(id, $dim)
FROM (SELECT nextval('item_ids') AS id FROM generate_series(1, 5)) s;
COMMIT;
},
	'update@2' => qq{
\\set id random(1, 4000)
UPDATE items SET v = test_vector(:id + 10000000, $dim) WHERE id = :id;
},
	'delete@3' => qq{
DELETE FROM items WHERE id IN (SELECT id FROM items WHERE id > 1000000 ORDER BY id LIMIT 20
							   FOR UPDATE SKIP LOCKED);
},
	'vacuum@1' => "VACUUM (INDEX_CLEANUP ON) items;\n",
	'checkpoint@1' => "CHECKPOINT;\n");

for my $cycle (1 .. $cycles)
{
	my ($load, $load_err) = start_pgbench($node, '-c 4 -j 2 -T 60', \%scripts);

	usleep(300_000 + int(rand(1_500_000)));
	crash($node);
	eval { $load->finish };
	unlike($$load_err, qr/(corrupt|PANIC|could not read block)/, "cycle $cycle: load met no damage");

	ok_check($node, 'items_v', 'true', "cycle $cycle");
	ok_check($node, 'fresh_v', 'true', "cycle $cycle");
	ok_finds_every_row($node, 'items', $dim, "cycle $cycle");
	cmp_ok(
		recall(
			neighbours($node, 'items', '<->', 10, 'exact'),
			neighbours($node, 'items', '<->', 10, 'index', settings => 'SET ivfpq.nprobe = 16;')),
		'>=', 0.99, "cycle $cycle: recall of a search of all lists");

	# What a build leaves when it dies
	my $command = $cycle % 2 ? 'CREATE INDEX steady_w ON steady USING ivfpq (v array_ip_ops, id) WITH (lists = 200)'
	  : 'REINDEX INDEX steady_v';
	my $builder = $node->background_psql('postgres', on_error_stop => 0);

	$builder->query_until(qr/start/, "\\echo start\n$command;\n");
	usleep(int(rand($build_seconds * 1_000_000)));
	crash($node);
	eval { $builder->quit };

	$node->safe_psql('postgres', 'DROP INDEX IF EXISTS steady_w');
	ok_check($node, 'steady_v', 'true', "cycle $cycle, $command");
	ok_finds_every_row($node, 'steady', $dim, "cycle $cycle, $command");
}

done_testing();
