# CREATE INDEX with parallel workers gives what one process gives: the same rows
# are found, recall is the same, memory stays within maintenance_work_mem.  An
# end at any moment, by whatever means, leaves nothing behind.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use VqpgTest;

my $dim = 64;
my $rows = 30000;
my $node = new_vqpg_node('main', conf => q{
max_worker_processes = 12
max_parallel_workers = 8
min_parallel_table_scan_size = 0
maintenance_work_mem = 512MB
restart_after_crash = on
});

create_vectors($node, 'items', $rows, $dim);
create_queries($node, 100, $dim);

sub workers
{
	my ($workers) = @_;

	return "SET max_parallel_maintenance_workers = $workers;";
}

# Members of the team that trained an index, from the server's log
sub build
{
	my ($workers, $sql, $name) = @_;
	my ($code, $out, $err) = $node->psql('postgres', workers($workers) . "SET client_min_messages = debug1; $sql");

	is($code, 0, $name) or diag($err);
	return $err =~ /built by a team of (\d+)/ ? $1 : 0;
}

#
# Vectors out of line count: a table with little else has as many workers as one with them in its rows
#

$node->safe_psql('postgres', q{
	CREATE TABLE wide (id int, v real[]);
	ALTER TABLE wide ALTER v SET STORAGE EXTERNAL;
	INSERT INTO wide SELECT i, (SELECT array_agg(sin(i * 0.37 + j * (1 + i % 13))) FROM generate_series(1, 1024) j)
		FROM generate_series(1, 3000) i;
	VACUUM ANALYZE wide});
cmp_ok($node->safe_psql('postgres', q{SELECT pg_relation_size('wide')}), '<', 1000000, 'the table itself is small');
cmp_ok($node->safe_psql('postgres', q{SELECT pg_table_size('wide')}), '>', 12000000, 'with its vectors it is not');
for my $case ([ '4MB', 3 ], [ '8MB', 2 ], [ '80MB', 1 ])
{
	my ($threshold, $team) = @$case;

	is(build(7, "SET min_parallel_table_scan_size = '$threshold'; CREATE INDEX wide_v ON wide USING ivfpq (v) WITH (lists = 20)",
			"threshold $threshold"), $team, "a team of $team");
	ok_check($node, 'wide_v', 'true', "threshold $threshold");
	$node->safe_psql('postgres', 'DROP INDEX wide_v');
}
is(build(7, q{SET min_parallel_table_scan_size = '4MB'; CREATE INDEX wide_v ON wide USING ivfpq (v) WITH (lists = 20);
		SELECT 1 / (current_setting('min_parallel_table_scan_size') = '4MB')::int}, 'the setting is as it was'), 3, 'and a team of three');
$node->safe_psql('postgres', 'ALTER TABLE wide SET (parallel_workers = 1)');
is(build(7, 'REINDEX INDEX wide_v', 'parallel_workers of the table'), 2, 'decides');
$node->safe_psql('postgres', 'DROP TABLE wide');

#
# As many workers as are wanted and can be had; the same rows, and equal recall
#

my $truth = neighbours($node, 'items', '<->', 10, 'exact');
my $create = 'CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = 150)';
my %recall;

for my $workers (0, 1, 2, 5)
{
	my $name = "$workers workers";

	is(build($workers, $create, "$name: CREATE INDEX"), $workers + 1, "$name: so many and the leader build");
	ok_check($node, 'items_v', 'true', $name);
	ok_finds_every_row($node, 'items', $dim, $name);
	is($node->safe_psql('postgres', q{SELECT rows FROM ivfpq_index_info('items_v')}), $rows, "$name: all rows are counted");
	$recall{$workers} = recall($truth,
		neighbours($node, 'items', '<->', 10, 'index', settings => 'SET ivfpq.nprobe = 4;'));
	note("recall with $name: $recall{$workers}");
	cmp_ok(abs($recall{$workers} - $recall{0}), '<', 0.03, "$name: recall as without workers");

	# The same team makes the same model.  Without workers all is the same; with them a row that is as near to
	# two lists within rounding may be in the other, and codes may differ in a bit.
	$node->safe_psql('postgres', q{
		CREATE TABLE first_lists AS SELECT * FROM ivfpq_list_info('items_v');
		CREATE TABLE first_codes AS SELECT id, ivfpq_reconstruct('items_v', ctid) AS v FROM items WHERE id % 300 = 7});
	build($workers, 'REINDEX INDEX items_v', "$name: REINDEX");
	cmp_ok($node->safe_psql('postgres', q{
			SELECT sum(abs(a.rows - b.rows)) FROM ivfpq_list_info('items_v') a JOIN first_lists b USING (list)}),
		'<=', $workers == 0 ? 0 : $rows / 1000, "$name: REINDEX makes the same lists");
	cmp_ok($node->safe_psql('postgres', q{
			SELECT count(*) FROM items JOIN first_codes b USING (id) WHERE ivfpq_reconstruct('items_v', items.ctid) <> b.v}),
		'<=', $workers == 0 ? 0 : 2, "$name: and the same codes");
	$node->safe_psql('postgres', 'DROP TABLE first_lists, first_codes');
	$node->safe_psql('postgres', 'DROP INDEX items_v');
}

#
# Where there are no workers, or fewer
#

is(build(4, "SET max_parallel_workers = 0; $create", 'no worker is available'), 1, 'the leader builds alone');
ok_check($node, 'items_v', 'true', 'no worker is available');
$node->safe_psql('postgres', 'DROP INDEX items_v');
is(build(4, "SET max_parallel_workers = 2; $create", 'few workers are available'), 3, 'a smaller team');
ok_check($node, 'items_v', 'true', 'few workers are available');
$node->safe_psql('postgres', 'DROP INDEX items_v');
is(build(4, "SET maintenance_work_mem = '64MB'; $create", 'little memory'), 2, 'each has 32 MB');
$node->safe_psql('postgres', 'DROP INDEX items_v');
is(build(4, "ALTER TABLE items SET (parallel_workers = 1); $create", 'parallel_workers = 1'), 2, 'as many as the table allows');
$node->safe_psql('postgres', 'DROP INDEX items_v; ALTER TABLE items RESET (parallel_workers)');

# Members share the memory for their sorts, too
{
	my ($code, $out, $err) = $node->psql('postgres', workers(2) . qq{SET maintenance_work_mem = '96MB';
		SET trace_sort = on; SET client_min_messages = log; $create});
	my @kb = $err =~ /begin tuple sort: .*workMem = (\d+)/g;

	is($code, 0, 'a build that tells of its sorts');
	cmp_ok(scalar @kb, '>=', 2, 'members sort, and the leader merges');
	cmp_ok($kb[0], '<=', 96 * 1024 / 3, "a member of three sorts in a third of maintenance_work_mem ($kb[0] kB)");
	$node->safe_psql('postgres', 'DROP INDEX items_v');
}

#
# Rows to train on: 64 for each list, or what there is memory for; 32 are enough to say nothing
#

my %trained;

for my $case ([ '512MB', 450 ], [ '10MB', 450 ], [ '6MB', 800 ])
{
	my ($memory, $lists) = @$case;
	my ($code, $out, $err) = $node->psql('postgres', workers(0) . qq{SET maintenance_work_mem = '$memory';
		CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = $lists);
		SELECT train_rows FROM ivfpq_index_info('items_v'); DROP INDEX items_v});

	is($code, 0, "a sample within $memory") or diag($err);
	$trained{$memory} = {rows => $out, notice => $err =~ /trained with less than it could use/ ? 1 : 0};
	note("$memory: $out rows");
}
is($trained{'512MB'}{rows}, 64 * 450, 'with memory for them, 64 rows train each list');
ok($trained{'10MB'}{rows} < 64 * 450 && $trained{'10MB'}{rows} > 16384, 'with less memory there are fewer of them');
ok(!$trained{'512MB'}{notice} && !$trained{'10MB'}{notice}, 'nothing is said of that');
ok($trained{'6MB'}{rows} < 32 * 800 && $trained{'6MB'}{notice}, 'but if they are too few there is a NOTICE');

#
# Kinds of tables and indexes
#

is(build(2, q{
	CREATE TEMP TABLE passing AS SELECT * FROM items;
	CREATE INDEX passing_v ON passing USING ivfpq (v);
	SELECT ivfpq_check('passing_v', true, true);}, 'temporary table'), 1, 'a temporary table is built by its session');

$node->safe_psql('postgres', 'CREATE UNLOGGED TABLE fleeting AS SELECT * FROM items');
is(build(2, 'CREATE INDEX fleeting_v ON fleeting USING ivfpq (v)', 'unlogged table'), 3, 'unlogged table: a team');
ok_check($node, 'fleeting_v', 'true', 'unlogged table');
$node->safe_psql('postgres', 'DROP TABLE fleeting');

$node->safe_psql('postgres', q{
	CREATE TABLE parts (id bigint, v real[]) PARTITION BY HASH (id);
	CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	INSERT INTO parts SELECT id, v FROM items;});
is(build(2, 'CREATE INDEX parts_v ON parts USING ivfpq (v array_l2_ops)', 'partitioned table'), 3, 'partitions: a team');
ok_check($node, $_, 'true', 'partition') for qw(parts_0_v_idx parts_1_v_idx);
$node->safe_psql('postgres', 'DROP TABLE parts');

# By expression, of some rows
$node->safe_psql('postgres', q{
	CREATE FUNCTION halved(v real[]) RETURNS real[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
		AS $$ SELECT array_agg(x / 2 ORDER BY n) FROM unnest(v) WITH ORDINALITY u (x, n) $$;
	CREATE FUNCTION halved_unsafe(v real[]) RETURNS real[] LANGUAGE sql IMMUTABLE PARALLEL UNSAFE
		AS $$ SELECT array_agg(x / 2 ORDER BY n) FROM unnest(v) WITH ORDINALITY u (x, n) $$;});
is(build(2, 'CREATE INDEX items_half ON items USING ivfpq (halved(v) array_l2_ops) WHERE id % 3 = 0',
		'expression and predicate'), 3, 'expression and predicate: a team');
ok_check($node, 'items_half', 'true', 'expression and predicate');
is($node->safe_psql('postgres', q{SELECT rows FROM ivfpq_index_info('items_half')}), $rows / 3, 'rows of the predicate');
$node->safe_psql('postgres', 'DROP INDEX items_half');
is(build(2, 'CREATE INDEX items_half ON items USING ivfpq (halved_unsafe(v) array_l2_ops) WHERE id % 3 = 0',
		'an expression that is not parallel safe'), 1, 'is built by its session');
$node->safe_psql('postgres', 'DROP INDEX items_half');

# Zero vectors are counted once each
$node->safe_psql('postgres', qq{
	CREATE TABLE zeroes AS SELECT id, CASE WHEN id % 100 = 0 THEN array_fill(0::real, '{$dim}') ELSE v END AS v FROM items});
is(build(2, 'CREATE INDEX zeroes_v ON zeroes USING ivfpq (v array_cosine_ops)', 'zero vectors'), 3, 'zero vectors: a team');
is($node->safe_psql('postgres', q{SELECT rows, zero_vectors FROM ivfpq_index_info('zeroes_v')}),
	($rows - $rows / 100) . '|' . $rows / 100, 'zero vectors are left out and counted');
$node->safe_psql('postgres', 'DROP TABLE zeroes');

# Rows of the table are counted by all; and whoever meets versions of a row that only an old snapshot sees
# says so, or that snapshot would use the index without them.  They are few, anywhere in the table.
my $old = $node->background_psql('postgres');

$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM queries');
for my $id (700, 5700, 10700, 15700, 20700, 25700)
{
	$node->safe_psql('postgres', qq{
		CREATE TABLE moved WITH (fillfactor = 50, parallel_workers = 7, autovacuum_enabled = off) AS SELECT id, v FROM items;
		UPDATE moved SET v = (SELECT v FROM items WHERE id = 1) WHERE id = $id});
	is(build(7, 'CREATE INDEX moved_v ON moved USING ivfpq (v) WITH (lists = 20)', "row $id was changed"), 8, 'a team of eight');
	is($node->safe_psql('postgres', q{SELECT indcheckxmin FROM pg_index WHERE indexrelid = 'moved_v'::regclass}),
		't', "row $id: older snapshots are kept off the index");
	# from 18 on CREATE INDEX leaves the statistics of a table alone where autovacuum is off
	is($node->safe_psql('postgres', q{SELECT reltuples FROM pg_class WHERE relname = 'moved'}), $rows, "row $id: all rows are counted")
	  if $node->pg_version < 18;
	$node->safe_psql('postgres', 'DROP TABLE moved');
}
$old->query_safe('COMMIT');
$old->quit;

# The error of a worker is that of the statement.  Of few bad rows anyone may meet the first.
$node->safe_psql('postgres', q{
	CREATE FUNCTION failing(v real[], id bigint) RETURNS real[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
	BEGIN
		IF id % 10000 = 9999 THEN RAISE EXCEPTION 'row % is bad', id; END IF;
		RETURN v;
	END $$});
for my $round (1 .. 3)
{
	my ($code, $out, $err) = $node->psql('postgres',
		workers(3) . 'CREATE INDEX items_bad ON items USING ivfpq (failing(v, id) array_l2_ops)');

	like($err, qr/ERROR:  row \d+9999 is bad/, 'an expression that fails says so');
}

#
# Nothing is left of a build that ends early
#

sub files
{
	my $database = $node->safe_psql('postgres', q{
		CHECKPOINT;
		SELECT oid FROM pg_database WHERE datname = 'postgres'});
	my @names;

	for my $folder ("base/$database", 'base/pgsql_tmp', 'pg_dynshmem')
	{
		opendir my $handle, $node->data_dir . "/$folder" or next;
		push @names, map { "$folder/$_" } grep { !/^\.|^pg_internal/ } readdir $handle;
	}
	return join ' ', sort @names;
}

sub no_workers
{
	my ($name) = @_;

	ok( $node->poll_query_until('postgres',
			q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'parallel worker'}),
		"no worker $name");
}

$node->safe_psql('postgres', 'VACUUM');
my $files = files();
my $long = 'CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = 4000, m = 32, nbits = 8)';

# Cancelled in each phase: soon, whatever the members are doing
# (phases are short: the server itself waits for them)
$node->safe_psql('postgres', q{
	CREATE FUNCTION builder_in(wanted text) RETURNS int LANGUAGE plpgsql AS $$
	DECLARE
		build record;
		has_begun boolean := false;
	BEGIN
		FOR attempt IN 1 .. 1000000 LOOP
			PERFORM pg_stat_clear_snapshot();
			SELECT pid, phase INTO build FROM pg_stat_progress_create_index;
			IF build.phase = 'building index: ' || wanted THEN
				RETURN build.pid;
			END IF;
			EXIT WHEN has_begun AND build.pid IS NULL;
			has_begun := build.pid IS NOT NULL;
		END LOOP;
		RETURN NULL;
	END $$});
for my $phase ('sampling', 'clustering', 'training codes', 'encoding', 'writing')
{
	my $is_cancelled = 0;

	for (my $attempt = 0; $attempt < 10 && !$is_cancelled; $attempt++)
	{
		my $session = $node->background_psql('postgres', on_error_stop => 0);

		$node->safe_psql('postgres', 'DROP INDEX IF EXISTS items_v');
		$session->query_until(qr/start/, "\\echo start\n" . workers(2) . "$long;\n");
		my $is_told = $node->safe_psql('postgres', "SELECT pg_cancel_backend(builder_in('$phase'))");
		my $told = time;

		$session->query('SELECT 1');
		$is_cancelled = $is_told eq 't' && $session->{stderr} =~ /canceling statement due to user request/;
		if ($is_cancelled)
		{
			cmp_ok(time - $told, '<', 3, "a build stops soon in phase $phase");
			note('it took ' . (time - $told) . ' s');
		}
		$session->quit;
	}
	ok($is_cancelled, "a build was cancelled in phase $phase");
	no_workers("is left after a cancel in phase $phase");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname = 'items_v'}), '0', 'and no index');
	is(files(), $files, "no file is left after a cancel in phase $phase");
}

# A worker is told to go: that ends the build
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_until(qr/start/, "\\echo start\n" . workers(2) . "$long;\n");
	like($node->safe_psql('postgres', q{
			SELECT builder_in('clustering');
			SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'parallel worker' LIMIT 1}),
		qr/^\d+\nt$/, 'a build is clustering');
	ok( $node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_progress_create_index'),
		'it ends with its worker');
	$session->quit;
	no_workers('is left after one was terminated');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname = 'items_v'}), '0', 'and no index');
	is(files(), $files, 'and no file');
}

#
# Memory: what leader and workers have of their own, all together
#

SKIP:
{
	skip 'needs /proc', 8 unless -r "/proc/$$/status";

	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $leader = $session->query_safe('SELECT pg_backend_pid()');

	sub anonymous_kb
	{
		my ($pid) = @_;

		open my $status, '<', "/proc/$pid/status" or return 0;
		my ($kb) = map { /^RssAnon:\s+(\d+) kB/ ? $1 : () } <$status>;
		close $status;
		return $kb // 0;
	}

	# Run a build; the most that its processes had together beyond what each has at the beginning, how many they were
	# and how often the counters of each phase moved
	my $watch = sub
	{
		my ($base, $build) = @_;
		my ($peak, $most, $has_begun) = (0, 0, 0);
		my $deadline = time + 120;
		my %counters;

		$session->query_until(qr/start/, "\\echo start\n$build;\n\\echo done\n");
		while (time < $deadline)
		{
			my (@pids, $phase, $count);

			for (split /\n/, $node->safe_psql('postgres', qq{
				SELECT pid, phase, blocks_done + tuples_done FROM pg_stat_progress_create_index
				UNION ALL SELECT pid, NULL, NULL FROM pg_stat_activity
				WHERE backend_type = 'parallel worker' AND leader_pid = $leader}))
			{
				my ($pid, @progress) = split /\|/;

				push @pids, $pid;
				($phase, $count) = @progress if @progress;
			}
			$counters{$phase}{$count} = 1 if defined $phase;
			last if $has_begun && !@pids;
			$has_begun = 1 if @pids;
			for my $round (1 .. 5)
			{
				my $sum = 0;

				$sum += anonymous_kb($_) - $base for @pids;
				$peak = $sum if $sum > $peak;
				usleep(2000);
			}
			$most = @pids if @pids > $most;
		}
		note("$most processes, at most $peak kB beyond $base kB each");
		return ($peak, $most, map { $_ => scalar keys %{ $counters{$_} } } keys %counters);
	};

	$node->safe_psql('postgres', qq{
		CREATE TABLE wide AS SELECT id, (SELECT array_agg(x) FROM generate_series(1, 16), unnest(v) x) AS v FROM items;
		ALTER TABLE wide SET (parallel_workers = 2);
		CREATE TABLE widest (v real[]);
		ALTER TABLE widest ALTER v SET STORAGE EXTERNAL, SET (parallel_workers = 0);
		INSERT INTO widest SELECT (SELECT array_agg(x) FROM generate_series(1, 16000 / $dim), unnest(v) x) FROM items LIMIT 1500;});

	# the samples that are asked for have 120 MB, and 96; a first build, small, loads what a backend has once
	$session->query_safe('CREATE TEMP TABLE few AS SELECT * FROM items LIMIT 2000; CREATE INDEX ON few USING ivfpq (v)');
	my $base = anonymous_kb($leader);
	my $memory_mb = 96;
	my ($peak, $most, %moves) = $watch->($base, workers(2) . qq{SET maintenance_work_mem = '${memory_mb}MB';
		CREATE INDEX wide_v ON wide USING ivfpq (v array_l2_ops) WITH (lists = 500, train_rows = 30000)});

	# the two long phases; others may pass between two looks
	for my $phase ('clustering', 'encoding')
	{
		my $values = $moves{"building index: $phase"} // 0;

		cmp_ok($values, '>', 2, "progress of $phase moves ($values values seen)");
	}
	cmp_ok($most, '>=', 2, 'leader and workers were seen');
	cmp_ok($peak, '>', $memory_mb * 1024 / 2, 'their memory was seen');

	# buffers of OpenBLAS, relation caches and the like: some MB to a process
	cmp_ok($peak, '<', ($memory_mb + 3 * 10) * 1024, "their memory is within maintenance_work_mem = $memory_mb MB");
	ok_check($node, 'wide_v', 'true', 'little memory');

	# so it is where a row takes as much as a sixteenth of a megabyte
	my $wide_mb = 64;
	my ($wide_peak) = $watch->(anonymous_kb($leader), qq{SET maintenance_work_mem = '${wide_mb}MB';
		CREATE INDEX widest_v ON widest USING ivfpq (v array_l2_ops) WITH (lists = 10)});

	cmp_ok($wide_peak, '>', $wide_mb * 1024 / 2, 'memory for wide vectors was seen');
	cmp_ok($wide_peak, '<', ($wide_mb + 4) * 1024, "it is within maintenance_work_mem = $wide_mb MB");
	$session->quit;
	$node->safe_psql('postgres', 'DROP TABLE wide, widest');
}

#
# CREATE INDEX CONCURRENTLY under load, with workers
#

$node->safe_psql('postgres', 'CREATE SEQUENCE item_ids START 1000000');
my ($load, $load_err) = start_pgbench($node, '-c 3 -j 1 -T 120', {
	'insert@3' => qq{INSERT INTO items SELECT id, test_vector(id, $dim), 1 FROM (SELECT nextval('item_ids') AS id) s;\n},
	'delete@2' => qq{DELETE FROM items WHERE id = (SELECT id FROM items WHERE note = 1 LIMIT 1 FOR UPDATE SKIP LOCKED);\n},
	'update@3' => qq{\\set id random(1, $rows)\nUPDATE items SET v = test_vector(:id + 1000000 * (:client_id + 1), $dim) WHERE id = :id;\n},
	'touch@3' => qq{\\set id random(1, $rows)\nUPDATE items SET note = note WHERE id = :id;\n}});

for my $round (1 .. 3)
{
	is(build(2, 'CREATE INDEX CONCURRENTLY items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = 150)',
			"round $round: CREATE INDEX CONCURRENTLY"), 3, 'with workers');
	ok_check($node, 'items_v', 'true', "round $round, under load");
	build(2, 'REINDEX INDEX CONCURRENTLY items_v', "round $round: REINDEX CONCURRENTLY");
	ok_check($node, 'items_v', 'true', "round $round, REINDEX CONCURRENTLY under load");
	$node->safe_psql('postgres', 'DROP INDEX CONCURRENTLY items_v');
}
$node->safe_psql('postgres', q{
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()});
$load->finish;
unlike($$load_err, qr/ERROR/, 'no statement of the load fails');

#
# Its storage parameters may be changed meanwhile: all members go by those that it began with
#

$node->safe_psql('postgres', q{
	CREATE FUNCTION held_up(v real[]) RETURNS real[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
	BEGIN
		IF (pg_stat_file('held_up', true)).size IS NOT NULL THEN
			PERFORM pg_sleep(0.01);
		END IF;
		RETURN v;
	END $$});
append_to_file($node->data_dir . '/held_up', '');
my $builder = $node->background_psql('postgres', on_error_stop => 0);
$builder->query_until(qr/start/, "\\echo start\n" . workers(2) . "SET client_min_messages = debug1;
	CREATE INDEX CONCURRENTLY held_v ON items USING ivfpq (held_up(v)) WITH (lists = 150);\n");
ok( $node->poll_query_until('postgres', q{
		SELECT count(*) > 0 FROM pg_stat_progress_create_index WHERE phase = 'building index: sampling'}),
	'a build samples');
$node->safe_psql('postgres', 'ALTER INDEX held_v SET (rotation = none, m = 3)');
unlink $node->data_dir . '/held_up';
$builder->query('RESET client_min_messages');
like($builder->{stderr}, qr/built by a team of 3/, 'and goes on with workers');
$builder->quit;
is($node->safe_psql('postgres', q{SELECT m > 3 AND rotation <> 'none' FROM ivfpq_index_info('held_v')}), 't', 'as it began');
ok_check($node, 'held_v', 'true', 'built while its storage parameters changed');
$node->safe_psql('postgres', 'DROP INDEX held_v');

#
# kill -9, of a worker and of the server, in the middle of a build
#

for my $victim ('worker', 'server')
{
	my $session = $node->background_psql('postgres', on_error_stop => 0, on_error_die => 0);

	$session->query_until(qr/start/, "\\echo start\n" . workers(2) . "$long;\n");
	isnt($node->safe_psql('postgres', q{SELECT builder_in('clustering')}), '', "a build is clustering when the $victim is killed");
	if ($victim eq 'worker')
	{
		my $pid = $node->safe_psql('postgres',
			q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'parallel worker' LIMIT 1});

		kill 'KILL', $pid;
		usleep(200_000);
		$node->poll_query_until('postgres', 'SELECT true', 't');
	}
	else
	{
		crash($node);
	}
	eval { $session->quit };
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname = 'items_v'}), '0',
		"no index after the $victim was killed");
	no_workers("is left after the $victim was killed");
}
is(build(2, $create, 'CREATE INDEX after crashes'), 3, 'with workers again');
ok_check($node, 'items_v', 'true', 'after crashes');
ok_finds_every_row($node, 'items', $dim, 'after crashes');

done_testing();
