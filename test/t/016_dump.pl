# pg_dump and a restore: the same indexes, with the same options, of the same rows

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VqpgTest;

my $dim = 8;
my $node = new_vqpg_node('main');

create_vectors($node, 'items', 5000, $dim);
$node->safe_psql('postgres', q{
	CREATE SCHEMA "Other";
	CREATE FUNCTION "Other".half(v real[]) RETURNS real[] IMMUTABLE LANGUAGE sql AS 'SELECT v[1:4]';
	CREATE INDEX plain ON items USING ivfpq (v);
	CREATE INDEX options ON items USING ivfpq (v array_cosine_ops, id, note)
		WITH (lists = 20, m = 4, nbits = 8, rotation = none, nprobe = 5, train_rows = 3000, autoreindex = off);
	CREATE INDEX part ON items USING ivfpq (v array_ip_ops) WHERE id % 3 = 0;
	CREATE INDEX expression ON items USING ivfpq ("Other".half(v), (note::text));
	CREATE UNLOGGED TABLE unlogged (v real[]);
	CREATE INDEX ON unlogged USING ivfpq (v) WITH (dims = 3);
	CREATE TABLE "Other"."Parted" (id bigint, v real[]) PARTITION BY HASH (id);
	CREATE TABLE "Other"."Part 0" PARTITION OF "Other"."Parted" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE "Other"."Part 1" PARTITION OF "Other"."Parted" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	INSERT INTO "Other"."Parted" SELECT id, v FROM items;
	CREATE INDEX ON "Other"."Parted" USING ivfpq (v) WITH (lists = 10)});

my $indexes = q{
	SELECT c.oid::regclass, pg_get_indexdef(c.oid), reloptions FROM pg_class c JOIN pg_am ON pg_am.oid = relam
	WHERE amname = 'ivfpq' ORDER BY c.oid::regclass::text};
my $rows = q{
	SELECT c.oid::regclass, rows, ivfpq_check(c.oid, true, true)
	FROM pg_class c JOIN pg_am ON pg_am.oid = relam, ivfpq_index_info(c.oid) WHERE amname = 'ivfpq' AND relkind = 'i' ORDER BY c.oid::regclass::text};
my $search = qq{
	SET enable_seqscan = off; SET ivfpq.recall = 0.999;
	SELECT id FROM items ORDER BY v <-> test_vector(77, $dim) LIMIT 20};

for my $format ('plain', 'custom')
{
	my $file = $node->basedir . "/$format";

	$node->command_ok([ 'pg_dump', '--format', $format, '--file', $file, 'postgres' ], "$format: pg_dump");
	$node->safe_psql('postgres', "CREATE DATABASE $format");
	$node->command_ok($format eq 'plain' ?
		  [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, $format ] :
		  [ 'pg_restore', '--exit-on-error', '--jobs', '2', '--dbname', $format, $file ], "$format: restore");
	for my $sql ($indexes, $rows, $search)
	{
		my $before = $node->safe_psql('postgres', $sql);

		isnt($before, '', 'there is something to compare');
		is($node->safe_psql($format, $sql), $before, "$format: as before");
	}
}

done_testing();
