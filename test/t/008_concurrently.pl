# CREATE INDEX CONCURRENTLY and REINDEX CONCURRENTLY while rows are written:
# no row is missing from the new index, and none is in it twice.

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

create_vectors($node, 'items', 20000, $dim);
$node->safe_psql('postgres', 'CREATE SEQUENCE item_ids START 100000');

my %scripts = (
	'insert@6' => qq{
INSERT INTO items SELECT id, test_vector(id, $dim), 1 FROM (SELECT nextval('item_ids') AS id) s;
},
	'rollback@1' => qq{
BEGIN;
INSERT INTO items SELECT id, test_vector(id, $dim), 1 FROM (SELECT nextval('item_ids') AS id) s;
ROLLBACK;
},
	'delete@3' => qq{
DELETE FROM items WHERE id = (SELECT id FROM items WHERE note = 1 LIMIT 1 FOR UPDATE SKIP LOCKED);
},
	'update@4' => qq{
\\set id random(1, 20000)
UPDATE items SET v = test_vector(:id + 1000000 * (:client_id + 1), $dim) WHERE id = :id;
},
	# HOT updates, as long as no index is on note
	'touch@4' => qq{
\\set id random(1, 20000)
UPDATE items SET note = note WHERE id = :id;
});

my ($load, $load_err) = start_pgbench($node, '-c 4 -j 2 -T 120', \%scripts);

for my $round (1 .. 3)
{
	my ($code, $out, $err) = $node->psql('postgres',
		'CREATE INDEX CONCURRENTLY items_v ON items USING ivfpq (v array_l2_ops, id) WITH (lists = 100)');

	is($code, 0, "round $round: CREATE INDEX CONCURRENTLY succeeds") or diag($err);
	ok_check($node, 'items_v', 'true', "round $round, CREATE INDEX CONCURRENTLY under load");

	($code, $out, $err) = $node->psql('postgres', 'REINDEX INDEX CONCURRENTLY items_v');
	is($code, 0, "round $round: REINDEX CONCURRENTLY succeeds") or diag($err);
	ok_check($node, 'items_v', 'true', "round $round, REINDEX CONCURRENTLY under load");
	$node->safe_psql('postgres', 'DROP INDEX CONCURRENTLY items_v') if $round < 3;
}

# End the load: a signal to pgbench would leave sessions, this leaves none
$node->safe_psql('postgres', q{
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()});
$load->finish;
unlike($$load_err, qr/ERROR/, 'no statement of the load fails');

ok_check($node, 'items_v', 'true', 'at rest');
ok_finds_every_row($node, 'items', $dim, 'at rest');

done_testing();
