# Inserts, deletes, updates, searches and vacuum all at once: no statement
# fails, no search returns a row twice, and afterwards the index is sound and
# has every row.  Also of the first row of an index, which decides its dimension.
#
# VQPG_STRESS_SECONDS (15 unless set) says for how long.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VqpgTest;

my $dim = 16;
my $seconds = $ENV{VQPG_STRESS_SECONDS} || 15;
my $node = new_vqpg_node('main');

# What one set of scripts does to one table.  The second is of an index that
# began empty: one list that everybody wants to write to.
sub scripts
{
	my ($table) = @_;

	return (
		"${table}_insert\@8" => qq{
INSERT INTO $table SELECT id, test_vector(id, $dim), 1 FROM (SELECT nextval('${table}_ids') AS id) s;
},
		"${table}_delete\@6" => qq{
DELETE FROM $table WHERE id = (SELECT id FROM $table WHERE note = 1 LIMIT 1 FOR UPDATE SKIP LOCKED);
},
		"${table}_update\@4" => qq{
\\set id random(1, 2000)
UPDATE $table SET v = test_vector(:id + 1000000 * (:client_id + 1), $dim) WHERE id = :id;
},
		"${table}_select\@8" => qq{
\\set id random(1, 2000)
SET enable_seqscan = off;
SELECT 1 / (count(*) = 30 AND count(DISTINCT id) = 30)::int
FROM (SELECT id FROM $table ORDER BY v <-> test_vector(:id, $dim) LIMIT 30) s;
},
		"${table}_filter\@2" => qq{
\\set id random(1, 1990)
SET enable_seqscan = off;
SELECT 1 / (count(*) = 10 AND count(DISTINCT id) = 10)::int
FROM (SELECT id FROM $table WHERE id BETWEEN :id AND :id + 9 ORDER BY v <-> test_vector(:id, $dim) LIMIT 10) s;
},
		"${table}_vacuum\@1" => "VACUUM (INDEX_CLEANUP ON) $table;\n");
}

create_queries($node, 20, $dim);
create_vectors($node, 'items', 4000, $dim);
create_vectors($node, 'small', 0, $dim);
$node->safe_psql('postgres', qq{
	CREATE SEQUENCE items_ids START 100000;
	CREATE SEQUENCE small_ids START 100000;
	CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = 16);
	CREATE INDEX small_v ON small USING ivfpq (v array_l2_ops, id);
	INSERT INTO small SELECT id, test_vector(id, $dim), 0 FROM generate_series(1, 2000) id;
});

for my $table (qw(items small))
{
	ok_pgbench($node, "-c 6 -j 2 -T $seconds", { scripts($table) }, "stress of $table");
	ok_check($node, "${table}_v", 'true', "stress of $table");
	ok_finds_every_row($node, $table, $dim, "stress of $table");

	my $truth = neighbours($node, $table, '<->', 10, 'exact');

	is_deeply(
		neighbours($node, $table, '<->', 10, 'index', settings => 'SET ivfpq.nprobe = 16; SET ivfpq.epsilon = 10;'),
		$truth, "stress of $table: a search of all lists is exact");
	$node->safe_psql('postgres', "VACUUM (INDEX_CLEANUP ON) $table");
	is($node->safe_psql('postgres', "SELECT rows FROM ivfpq_index_info('${table}_v')"),
		$node->safe_psql('postgres', "SELECT count(*) FROM $table"),
		"stress of $table: after a vacuum there is one entry for each row");
}

# Vectors of different dimensions compete for an index that is emptied again and
# again.  VACUUM lets it change its dimension; the table's rows never differ.
$node->safe_psql('postgres', q{
	CREATE TABLE mixed (id int, v real[]) WITH (vacuum_truncate = off);
	CREATE INDEX mixed_v ON mixed USING ivfpq (v);
});
ok_pgbench($node, '-c 6 -j 2 -T ' . int(($seconds + 2) / 3), {
	'mixed_insert@6' => q{
\set dims random(1, 3)
DO $$
BEGIN
	INSERT INTO mixed SELECT i, array_fill(i::real, ARRAY[:dims]) FROM generate_series(1, 3) i;
	IF random() < 0.5 THEN RAISE 'rolled back'; END IF;
EXCEPTION WHEN data_exception OR raise_exception THEN
END $$;
},
	'mixed_search@3' => q{
\set dims random(1, 3)
SET enable_seqscan = off;
DO $$
BEGIN
	PERFORM FROM mixed ORDER BY v <-> array_fill(1::real, ARRAY[:dims]) LIMIT 2;
EXCEPTION WHEN data_exception THEN
END $$;
},
	'mixed_delete@2' => q{
SELECT 1 / (count(DISTINCT cardinality(v)) <= 1)::int FROM mixed;
DELETE FROM mixed;
},
	'mixed_vacuum@2' => "VACUUM (INDEX_CLEANUP ON) mixed;\n"
	}, 'rows of several dimensions');
ok_check($node, 'mixed_v', 'true', 'rows of several dimensions');
for my $dims (1 .. 3)
{
	$node->safe_psql('postgres', $_)
	  for (
		'DELETE FROM mixed',
		'VACUUM (INDEX_CLEANUP ON) mixed',
		"INSERT INTO mixed VALUES ($dims, array_fill(1::real, ARRAY[$dims]))"
	  );
	ok_check($node, 'mixed_v', 'true', "then, rows of $dims dimensions");
}

# Many sessions at once put the first row into an empty index, when a lock that
# they all wait for is released
my $ntables = 60;
my $starter = $node->background_psql('postgres');

$node->safe_psql('postgres', qq{
	DO \$\$
	BEGIN
		FOR i IN 1 .. $ntables LOOP
			EXECUTE format('CREATE TABLE first_%s (v real[])', i);
			EXECUTE format('CREATE INDEX first_%s_v ON first_%s USING ivfpq (v)', i, i);
		END LOOP;
	END \$\$});
$starter->query_safe("SELECT pg_advisory_lock(i) FROM generate_series(1, $ntables) i");

my ($writers, $writers_err) = start_pgbench(
	$node,
	'-c 8 -j 2 -t 1',
	{
		first => join('',
			map { qq{
BEGIN;
SELECT pg_advisory_xact_lock_shared($_);
INSERT INTO first_$_ VALUES (test_vector(:client_id, $dim));
COMMIT;
} } 1 .. $ntables)
	});

$node->poll_query_until('postgres', q{SELECT count(*) = 8 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted});
$starter->query_safe("SELECT pg_advisory_unlock(i), pg_sleep(0.03) FROM generate_series(1, $ntables) i");
$starter->quit;
$writers->finish;
unlike($$writers_err, qr/(ERROR|FATAL|PANIC|aborted)/, 'first rows: no insert fails');
for my $i (1 .. $ntables)
{
	ok_check($node, "first_${i}_v", 'true', 'first rows');
}
is( $node->safe_psql('postgres', join(' UNION ALL ', map { "SELECT sum(rows) FROM ivfpq_list_info('first_${_}_v')" } 1 .. $ntables)),
	join("\n", (8) x $ntables), 'first rows: every index has all of them');

done_testing();
