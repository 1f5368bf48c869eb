# Vectors that are stored out of line are read by the search itself, some rows
# before their turn.  It must find what the server's own reading finds, with few
# buffers, while TOAST tables are written and vacuumed, and on a standby; and what is wrong with
# a value must be told in the server's words.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VqpgTest;

my $dim = 600;
my $rows = 2000;

my $node = new_vqpg_node('main', conf => "shared_buffers = 1MB\nmax_connections = 10\n", allows_streaming => 1,
	no_data_checksums => 1);

$node->safe_psql('postgres', qq{
	CREATE TABLE items (id int PRIMARY KEY, note int, v real[]);
	ALTER TABLE items ALTER v SET STORAGE EXTERNAL;
	SELECT setseed(.5);
	INSERT INTO items SELECT id, 0, ARRAY(SELECT random()::real FROM generate_series(1, $dim) WHERE id > 0)
		FROM generate_series(1, $rows) id;
	CREATE TABLE queries AS
		SELECT id, ARRAY(SELECT random()::real FROM generate_series(1, $dim) WHERE id > 0) AS v
		FROM generate_series(1, 20) id;
	CREATE INDEX items_v ON items USING ivfpq (v) WITH (lists = 20);
	SET enable_indexscan = off;
	CREATE TABLE truth AS
		SELECT q.id, array(SELECT (t.id, t.v <-> q.v)::text FROM items t ORDER BY t.v <-> q.v LIMIT 30) AS found
		FROM queries q;
	CREATE FUNCTION differences() RETURNS bigint LANGUAGE sql
		SET enable_seqscan = off SET ivfpq.nprobe = 20 SET ivfpq.epsilon = 20
	AS \$\$
		SELECT count(*) FROM queries q JOIN truth USING (id)
		WHERE truth.found <> array(SELECT (t.id, t.v <-> q.v)::text FROM items t ORDER BY t.v <-> q.v LIMIT 30)
	\$\$;
});
my $toast = $node->safe_psql('postgres', "SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'items'");
cmp_ok($node->safe_psql('postgres', "SELECT pg_relation_size('$toast') / 8192"), '>', 128 * 4,
	'vectors are out of line, and more than buffers hold');
like(
	$node->safe_psql('postgres', q{
		SET enable_seqscan = off;
		EXPLAIN SELECT t.id, t.v <-> q.v FROM queries q, LATERAL (SELECT * FROM items t ORDER BY t.v <-> q.v LIMIT 30) t}),
	qr/Index Scan using items_v/, 'searches use the index');
is($node->safe_psql('postgres', 'SELECT differences()'), 0, 'rows and distances are those of an exact search');

# Each search again and again while values come and go in the TOAST table, and their place is used again
my ($writers, $writer_errors) = start_pgbench($node, '-c 2 -t 400', { churn => qq{
	\\set id random(1, $rows)
	\\set new :client_id + 1000000
	UPDATE items SET note = note + 1 WHERE id = :id;
	DELETE FROM items WHERE id = :new;
	INSERT INTO items SELECT :new, 0, array_agg(x + 100) FROM unnest((SELECT v FROM items WHERE id = :id)) x;
}});
is($node->safe_psql('postgres', 'SELECT differences()'), 0, 'so they are while others write');
$node->safe_psql('postgres', 'VACUUM items');
is($node->safe_psql('postgres', 'SELECT differences()'), 0, 'and after a vacuum');
$writers->finish;
unlike($$writer_errors, qr/ERROR|FATAL/, 'no write fails');
ok_check($node, 'items_v', 'true', 'at the end');

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
is($standby->safe_psql('postgres', 'SELECT differences()'), 0, 'on a standby they are the same');
$standby->stop;

# All chunks are lost, but not what points to them
my $path = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('$toast')");
$node->stop;
open my $file, '+<:raw', $path or die "could not open $path: $!";
print $file "\0" x -s $path;
close $file;
$node->start;
my ($stdout, $stderr);
$node->psql('postgres', "SET enable_seqscan = off; SELECT id FROM items ORDER BY v <-> (SELECT v FROM queries LIMIT 1) LIMIT 1",
	stdout => \$stdout, stderr => \$stderr);
like($stderr, qr/missing chunk number 0 for toast value/, 'a lost value is an error of the server');

$node->stop;
done_testing();
