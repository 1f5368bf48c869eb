# CREATE INDEX with a GPU, for which test/gpu/vq_gpu_double.c stands in: the index
# is as good as one made without.  Whatever fails, and whenever, is an error with
# ivfpq.gpu = on; with auto the build goes on without the device, and says so once
# if there was one.  A cancel is served while the device works.  However a build
# ends, the device is closed by then and nothing is left behind; after kill -9,
# the server goes on.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use VqpgTest;

my $stand_in = $ENV{VQPG_GPU_STAND_IN};

plan skip_all => 'make tap builds the stand-in' unless defined $stand_in && -f $stand_in;

my $dim = 32;
my $rows = 12000;

# What the stand-in does is in the environment of the server
$ENV{VQPG_GPU_LIBRARY} = $stand_in;
delete $ENV{VQPG_GPU_DOUBLE};

# Where it writes down that it was opened and closed, and by which process
my $events = PostgreSQL::Test::Utils::tempdir() . '/events';
$ENV{VQPG_GPU_DOUBLE_LOG} = $events;

my $node = new_vqpg_node('main', conf => q{
shared_preload_libraries = 'vqpg'
max_worker_processes = 8
min_parallel_table_scan_size = 0
max_parallel_maintenance_workers = 0
restart_after_crash = on
});

# Restart the server with a stand-in that does this
sub with_fault
{
	my ($fault, $library) = @_;

	local $ENV{VQPG_GPU_DOUBLE} = $fault // '';
	local $ENV{VQPG_GPU_LIBRARY} = $library // $stand_in;
	$node->restart;
	return;
}

# Run statements; their exit status and messages
sub run_sql
{
	my ($sql) = @_;
	my ($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");

	return ($code, $err);
}

sub count
{
	my ($text, $pattern) = @_;
	my @found = $text =~ /$pattern/g;

	return scalar @found;
}

my $trainer = q{SELECT trained_on FROM ivfpq_index_info('items_v')};
my $lists = 'WITH (lists = 300)';
my $create = "CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) $lists";

# of 2,560 dimensions, so that it is large enough for "auto"
my $create_wide = 'CREATE INDEX wide_v ON wide USING ivfpq (v array_l2_ops) WITH (lists = 70)';
my $wide_trainer = q{SELECT trained_on FROM ivfpq_index_info('wide_v')};

create_vectors($node, 'items', $rows, $dim);
create_queries($node, 1000, $dim);
$node->safe_psql('postgres', q{
	CREATE TABLE wide AS SELECT id, (SELECT array_agg(x) FROM generate_series(1, 80), unnest(v) x) AS v FROM items});

#
# An index made on a device is as good as any other: as many lists find as much.  (There are six to a
# cluster of rows; with so many or fewer, two clusterings of equal worth differ by a hundredth.)
#

my %recall;
my $truth = neighbours($node, 'items', '<->', 10, 'exact');

for my $case ([ 'off', 0, 'cpu' ], [ 'auto', 0, 'cpu' ], [ 'on', 0, 'double' ], [ 'on', 2, 'double' ])
{
	my ($gpu, $workers, $expected) = @$case;
	my $name = "gpu = $gpu, $workers workers";
	my ($code, $err) = run_sql(qq{
		SET client_min_messages = debug1;
		SET max_parallel_maintenance_workers = $workers;
		SET maintenance_work_mem = '96MB';
		SET ivfpq.gpu = $gpu;
		$create;});

	is($code, 0, "$name: CREATE INDEX") or diag($err);
	unlike($err, qr/WARNING/, "$name: nothing to warn of");
	like($err, qr/built by a team of ${\($workers + 1)}\b/, "$name: all members take part");
	is($node->safe_psql('postgres', $trainer), $expected, "$name: trained on");
	ok_check($node, 'items_v', 'true', $name);
	ok_finds_every_row($node, 'items', $dim, $name);
	cmp_ok(recall($truth, neighbours($node, 'items', '<->', 10, 'index')), '>=', 0.96, "$name: recall by default");
	$recall{$name} = recall($truth, neighbours($node, 'items', '<->', 10, 'index', settings => 'SET ivfpq.nprobe = 8;'));
	note("recall with $name: $recall{$name}");
	cmp_ok($recall{$name}, '>=', $recall{'gpu = off, 0 workers'} - 0.005, "$name: recall of as many lists");
	$node->safe_psql('postgres', 'DROP INDEX items_v');
}

# Other metrics, codes, numbers of lists; less memory, so that batches are many
for my $case (
	[ 'array_cosine_ops', 'lists = 10, nbits = 8', '64MB' ],
	[ 'array_ip_ops', 'lists = 300, m = 7', '4MB' ],
	[ 'array_l2_ops', 'rotation = none', '1MB' ])
{
	my ($opclass, $options, $memory) = @$case;

	my ($code, $err) = run_sql(qq{
		SET ivfpq.gpu = on;
		SET maintenance_work_mem = '$memory';
		CREATE INDEX items_v ON items USING ivfpq (v $opclass, id) WITH ($options);});

	is($code, 0, "$opclass, $options: CREATE INDEX") or diag($err);
	is($node->safe_psql('postgres', $trainer), 'double', "$opclass, $options: trained on");
	ok_check($node, 'items_v', 'true', "$opclass, $options");
	$node->safe_psql('postgres', 'DROP INDEX items_v');
}

# Lists that the device has few rows to train for go on with rows of the table, as without one
{
	my ($code, $err) = run_sql(q{
		SET ivfpq.gpu = on;
		SET maintenance_work_mem = '24MB';
		CREATE INDEX wide_v ON wide USING ivfpq (v array_l2_ops) WITH (lists = 1000);});

	is($code, 0, 'few rows a list: CREATE INDEX') or diag($err);
	is($node->safe_psql('postgres', $wide_trainer), 'double', 'few rows a list: trained on');
	is($node->safe_psql('postgres', q{SELECT train_rows < 8 * lists, imbalance < 1.5 FROM ivfpq_index_info('wide_v')}),
		't|t', 'few rows a list: they are even') or
		diag($node->safe_psql('postgres', q{SELECT lists, train_rows, imbalance FROM ivfpq_index_info('wide_v')}));
	ok_check($node, 'wide_v', 'true', 'few rows a list');
	$node->safe_psql('postgres', 'DROP INDEX wide_v');
}

# The same data makes the same index there, too
my $fingerprint = q{SELECT md5(string_agg(ivfpq_reconstruct('items_v', ctid)::text, ',' ORDER BY id)) FROM items WHERE id % 100 = 7};
$node->safe_psql('postgres', "SET ivfpq.gpu = on; $create");
my $first = $node->safe_psql('postgres', $fingerprint);
$node->safe_psql('postgres', 'SET ivfpq.gpu = on; REINDEX INDEX items_v');
is($node->safe_psql('postgres', $fingerprint), $first, 'REINDEX makes the same index');
$node->safe_psql('postgres', 'DROP INDEX items_v');

# Other rows than any device knows
$node->safe_psql('postgres', qq{
	CREATE TABLE odd AS SELECT id, CASE WHEN id % 100 = 0 THEN array_fill(0::real, '{$dim}')
		WHEN id % 100 = 1 THEN array_fill(3e38::real, '{$dim}') ELSE v END AS v FROM items;
	SET ivfpq.gpu = on;
	CREATE INDEX odd_v ON odd USING ivfpq (v array_l2_ops);});
ok_check($node, 'odd_v', 'true', 'zeroes and huge values');
$node->safe_psql('postgres', qq{
	DROP INDEX odd_v;
	UPDATE odd SET v = array_fill(3e38::real, '{$dim}');
	ALTER TABLE odd SET (parallel_workers = 2);
	SET max_parallel_maintenance_workers = 2;
	SET ivfpq.gpu = on;
	CREATE INDEX odd_v ON odd USING ivfpq (v array_l2_ops);});
ok_check($node, 'odd_v', 'true', 'huge values alone');
$node->safe_psql('postgres', 'DROP TABLE odd');

#
# vqpg_gpus, and which process opens the plug-in
#

is($node->safe_psql('postgres', 'SELECT * FROM vqpg_gpus()'), '0|double|1073741824|536870912|1.0|1.0', 'vqpg_gpus lists the device');

SKIP:
{
	my $pid = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];

	skip 'needs /proc', 1 unless -r "/proc/$pid/maps";
	unlike(slurp_file("/proc/$pid/maps"), qr/vqpg_cuda/, 'the postmaster has not opened the plug-in');
}

#
# Which device
#

for my $case ([ 'on', 0, 0, qr/^$/, 'double' ], [ 'on', 5, 3, qr/ERROR:  55000: .*DETAIL:  Reason: there is no device 5/s, '' ],
	[ 'auto', 5, 0, qr/WARNING:  55000: .*DETAIL:  Reason: there is no device 5/s, 'cpu' ])
{
	my ($gpu, $device, $expected_code, $message, $expected) = @$case;
	my ($code, $err) = run_sql("SET ivfpq.gpu = $gpu; SET ivfpq.gpu_device = $device; SET maintenance_work_mem = '256MB'; $create_wide;");

	is($code, $expected_code, "gpu = $gpu, device $device: CREATE INDEX");
	like($err, $message, "gpu = $gpu, device $device: message");
	is($node->safe_psql('postgres', $wide_trainer), $expected, "gpu = $gpu, device $device: trained on") if $expected ne '';
	$node->safe_psql('postgres', 'DROP INDEX IF EXISTS wide_v');
}

#
# Failures.  Each: fault, library, SQLSTATE, part of the reason, whether there is
# a device to warn of, and what trains under "auto"
#

my @failures = (
	[ '', '/nonexistent/vqpg_cuda.so', '58P01', 'there is no file', 0, qr/^cpu$/ ],
	[ 'abi', undef, '58P01', 'version 5 of the interface', 0, qr/^cpu$/ ],
	[ 'short', undef, '58P01', 'an interface of', 0, qr/^cpu$/ ],
	[ 'none', undef, '55000', 'no NVIDIA driver', 0, qr/^cpu$/ ],
	[ 'open', undef, '58000', 'busy or unavailable', 1, qr/^cpu$/ ],
	[ 'memory', undef, '53200', 'device 0 has 0 MB left', 1, qr/^cpu$/ ],
	map { [ "after $_", undef, '58000', "fell off the bus after $_ calls", 1, qr/^(cpu|double|double, then cpu)$/ ] }
	  (0 .. 2, 5 .. 20, 25, 30, 40, 51));
my %trained_on;

for my $failure (@failures)
{
	my ($fault, $library, $state, $reason, $warns, $expected) = @$failure;
	my $name = $fault || 'missing library';

	with_fault($fault, $library);

	# with auto; little memory makes small batches, so that there are many calls
	my ($code, $err) = run_sql(qq{
		SET ivfpq.gpu = auto;
		SET maintenance_work_mem = '8MB';
		$create_wide;});

	is($code, 0, "$name, auto: CREATE INDEX") or diag($err);
	is(count($err, qr/WARNING:/), $warns, "$name, auto: " . ($warns ? 'one warning' : 'no warning'))
	  or diag($err);
	like($err, qr/WARNING:  $state: could not use a GPU to build index "wide_v", using the CPU instead\nDETAIL:  Reason: .*$reason/,
		"$name, auto: the warning says why") if $warns;

	my $trained_on = $node->safe_psql('postgres', $wide_trainer);
	like($trained_on, $expected, "$name, auto: trained on");
	$trained_on{$trained_on} = 1;
	ok_check($node, 'wide_v', 'true', "$name, auto");
	is($node->safe_psql('postgres', q{SELECT rows FROM ivfpq_index_info('wide_v')}), $rows, "$name, auto: all rows");
	$node->safe_psql('postgres', 'DROP INDEX wide_v');

	# with on, also in a subtransaction that survives the error
	next if $fault =~ /after (\d+)/ && $1 > 2 && $1 != 30;
	($code, $err) = run_sql("SET ivfpq.gpu = on; SET maintenance_work_mem = '1MB'; $create;");
	is($code, 3, "$name, on: CREATE INDEX fails");
	like($err, qr/ERROR:  $state: could not use a GPU to build index "items_v"\nDETAIL:  Reason: .*$reason.*\nHINT:  Set "ivfpq.gpu" to "auto"/,
		"$name, on: the error says why, and what to do");
	($code, $err) = run_sql(qq{
		SET ivfpq.gpu = on;
		SET maintenance_work_mem = '1MB';
		DO \$\$ BEGIN $create; EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'caught'; END \$\$;
		SET ivfpq.gpu = off;
		$create;
		SELECT ivfpq_check('items_v', true, true);
		DROP INDEX items_v;});
	is($code, 0, "$name, on: the session goes on") or diag($err);
	like($err, qr/caught/, "$name, on: the error was caught");
}
is_deeply([ sort keys %trained_on ], [ 'cpu', 'double', 'double, then cpu' ], 'it failed before, between and after training');

# Workers train and encode with the leader, and it says to them when the device has failed
%trained_on = ();
for my $fault ((map { "after $_" } 0 .. 4, 20, 40), 'codebook', 'after 80')
{
	my $name = "$fault, workers";

	with_fault($fault);
	my ($code, $err) = run_sql(qq{
		SET max_parallel_maintenance_workers = 2;
		SET maintenance_work_mem = '128MB';
		SET client_min_messages = debug1;
		$create_wide;});

	is($code, 0, "$name: CREATE INDEX") or diag($err);
	like($err, qr/built by a team of 3/, "$name: all take part");
	cmp_ok(count($err, qr/WARNING:/), '<=', 1, "$name: one warning at most");
	$trained_on{ $node->safe_psql('postgres', $wide_trainer) } = 1;
	ok_check($node, 'wide_v', 'true', $name);
	is($node->safe_psql('postgres', q{SELECT rows FROM ivfpq_index_info('wide_v')}), $rows, "$name: all rows");
	$node->safe_psql('postgres', 'DROP INDEX wide_v');
}
is_deeply([ sort keys %trained_on ], [ 'cpu', 'double', 'double, then cpu' ], 'with workers it failed as early and as late');

# A sample that the device has no room for is the leader's alone, as without workers; what it has room for is shared.
# Some rows vary alike in all directions, others not
$node->safe_psql('postgres', qq{
	CREATE TABLE even AS SELECT id, (SELECT array_agg((test_noise(id % 50, j) + test_noise(id + 1000000000, j) / 2)::real
		ORDER BY j) FROM generate_series(1, $dim) j) AS v FROM items});
for my $table ([ 'items', 'learned' ], [ 'even', 'hadamard' ])
{
	my ($name, $rotation) = @$table;
	my %made;

	for my $case ([ '', 0 ], [ '', 2 ], [ 'small', 2 ])
	{
		my ($fault, $workers) = @$case;
		my $what = "$name, device \"$fault\", $workers workers";

		with_fault($fault);
		my ($code, $err) = run_sql(qq{
			SET max_parallel_maintenance_workers = $workers;
			SET maintenance_work_mem = '96MB';
			SET ivfpq.gpu = on;
			SET client_min_messages = debug1;
			CREATE INDEX made ON $name USING ivfpq (v array_l2_ops) $lists;});

		is($code, 0, "$what: CREATE INDEX") or diag($err);
		like($err, qr/built by a team of ${\($workers + 1)}\b/, "$what: all take part");
		is($node->safe_psql('postgres', q{SELECT trained_on, rotation FROM ivfpq_index_info('made')}), "double|$rotation",
			"$what: trained on");
		ok_check($node, 'made', 'true', $what);
		$made{"$fault$workers"} = $node->safe_psql('postgres', qq{
			SELECT md5(string_agg(ivfpq_reconstruct('made', ctid)::text, ',' ORDER BY id)) FROM $name WHERE id % 100 = 7});
		$node->safe_psql('postgres', 'DROP INDEX made');
	}
	is($made{small2}, $made{0}, "$name: with little memory on the device the leader trains alone");
	isnt($made{2}, $made{0}, "$name: otherwise all bring their rows");
}

# A device that has less room than it said: it trains on what it has, if that is enough rows for so many lists
for my $case ([ 'few 10000', 'double', 0, 0 ], [ 'few 9000', 'cpu', 1, 3 ])
{
	my ($fault, $expected, $nwarnings, $code_if_on) = @$case;

	with_fault($fault);
	for my $gpu ('auto', 'on')
	{
		my ($code, $err) = run_sql(qq{
			SET max_parallel_maintenance_workers = 2;
			SET maintenance_work_mem = '256MB';
			SET ivfpq.gpu = $gpu;
			SET client_min_messages = debug1;
			CREATE INDEX wide_v ON wide USING ivfpq (v array_l2_ops) WITH (lists = 300, train_rows = 11000);});

		like($err, qr/built by a team of 3/, "$fault, $gpu: all take part");
		is($code, $gpu eq 'on' ? $code_if_on : 0, "$fault, $gpu: CREATE INDEX");
		is(count($err, qr/WARNING:/), $gpu eq 'on' ? 0 : $nwarnings, "$fault, $gpu: warnings") or diag($err);
		like($err, qr/53200: .*Reason: the device has memory for 9000 rows of a sample of 1[01]\d{3}\./s, "$fault, $gpu: the reason")
		  if $nwarnings;
		next if $code != 0;
		is($node->safe_psql('postgres', $wide_trainer), $expected, "$fault, $gpu: trained on");
		is($node->safe_psql('postgres', q{SELECT rows FROM ivfpq_index_info('wide_v')}), $rows, "$fault, $gpu: all rows");
		ok_check($node, 'wide_v', 'true', "$fault, $gpu");
		$node->safe_psql('postgres', 'DROP INDEX wide_v');
	}
}

# vqpg_gpus says why there is none
for my $case ([ 'none', undef, 'no NVIDIA driver' ], [ 'abi', undef, 'version 5' ], [ '', '/nonexistent', 'there is no file' ])
{
	my ($fault, $library, $reason) = @$case;

	with_fault($fault, $library);
	my ($code, $out, $err) = $node->psql('postgres', 'SELECT * FROM vqpg_gpus()');

	is("$code$out", '0', ($fault || 'missing library') . ': vqpg_gpus returns no row');
	like($err, qr/NOTICE:  vqpg has no GPU to use\nDETAIL:  Reason: .*$reason/, ($fault || 'missing library') . ': and says why');
}

#
# A cancel while the device works: call N waits for it, ten seconds at most
#

for my $case ([ 'wait 8', 'clustering' ], [ 'wait 60', 'encoding' ])
{
	my ($fault, $phase) = @$case;

	with_fault($fault);
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_until(qr/start/, "\\echo start\nSET ivfpq.gpu = on; SET maintenance_work_mem = '8MB';\n$create_wide;\n");
	ok($node->poll_query_until('postgres', qq{
			SELECT count(*) > 0 FROM pg_stat_progress_create_index
			WHERE phase = 'building index: $phase' AND tuples_done + blocks_done > 0}),
		"$fault: the build is in phase $phase, its progress moves");
	usleep(300_000);

	$node->safe_psql('postgres', 'CREATE DATABASE other');
	my ($code, $out, $err) = $node->psql('postgres', "SET statement_timeout = '5s';\nDROP DATABASE other;");
	is($err, '', "$fault: a database can be dropped meanwhile");

	my $told = time;
	$node->safe_psql('postgres', 'SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index');
	$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_progress_create_index');
	cmp_ok(time - $told, '<', 2, "$fault: it stops soon");
	note('it took ' . (time - $told) . ' s');
	$session->quit;
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname = 'wide_v'}), '0', "$fault: no index");
}

#
# The end of a session, and a timeout: the same process has closed the device, no
# file is left, and the server says why the session ended and nothing else
#

sub files
{
	my $database = $node->safe_psql('postgres', q{
		CHECKPOINT;
		SELECT oid FROM pg_database WHERE datname = 'postgres'});

	opendir my $folder, $node->data_dir . "/base/$database" or die $!;
	return join ' ', sort grep { /^\d+/ } readdir $folder;
}

# Start a build in a session of its own; wait until it is so far
sub start_build
{
	my ($statement, $phase) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0, on_error_die => 0);

	$session->query_until(qr/start/, "\\echo start\nSET ivfpq.gpu = on; SET maintenance_work_mem = '8MB';\n$statement;\n");
	ok($node->poll_query_until('postgres', qq{
			SELECT count(*) > 0 FROM pg_stat_progress_create_index WHERE phase = 'building index: $phase'}),
		"a build is $phase");
	usleep(300_000);
	return $session;
}

# In the encoding phase its rows take long: the device is open, and CPU code runs
my $create_slow = 'CREATE INDEX slow_v ON slow USING ivfpq (slow(v) array_l2_ops) WITH (lists = 10)';

with_fault('');
$node->safe_psql('postgres', q{
	CREATE TABLE slow AS SELECT id, v FROM items WHERE id <= 1000;
	CREATE FUNCTION slow(v real[]) RETURNS real[] LANGUAGE plpgsql IMMUTABLE AS $$
		BEGIN
			PERFORM pg_stat_clear_snapshot();
			IF EXISTS (SELECT FROM pg_stat_progress_create_index WHERE phase = 'building index: encoding') THEN
				PERFORM pg_sleep(30);
			END IF;
			RETURN v;
		END $$});

for my $case (
	[ 'wait 8', $create_wide, 'clustering', 'terminate' ],
	[ 'wait 60', $create_wide, 'encoding', 'terminate' ],
	[ '', $create_slow, 'encoding', 'terminate' ],
	[ 'wait 8', $create_wide, 'clustering', 'timeout' ],
	[ 'wait 60', $create_wide, 'encoding', 'timeout' ],
	[ '', $create_slow, 'encoding', 'timeout' ],
	$node->pg_version >= 17
	? ([ 'wait 8', $create_wide, 'clustering', 'transaction timeout' ], [ 'wait 60', $create_wide, 'encoding', 'transaction timeout' ])
	: ())
{
	my ($fault, $statement, $phase, $how) = @$case;
	my $name = ($fault || 'between two calls') . ", $how";

	with_fault($fault);
	unlink $events;

	my $files = files();
	my $log_start = -s $node->logfile;
	my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
	my $told = time;

	if ($how eq 'terminate')
	{
		my $session = start_build($statement, $phase);

		$told = time;
		$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index');
		$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_progress_create_index');
		eval { $session->quit };
	}
	else
	{
		$told += 3;
		my $setting = $how eq 'timeout' ? 'statement_timeout' : 'transaction_timeout';

		run_sql("SET ivfpq.gpu = on; SET maintenance_work_mem = '8MB'; SET $setting = '3s'; $statement;");
	}
	cmp_ok(time - $told, '<', 3, "$name: it ends soon");

	my $log = slurp_file($node->logfile, $log_start);
	my $expected = $how eq 'terminate' ? qr/FATAL:  terminating connection due to administrator command/
	  : $how eq 'timeout' ? qr/ERROR:  canceling statement due to statement timeout/
	  : qr/FATAL:  terminating connection due to transaction timeout/;

	like($log, $expected, "$name: the reason is in the log");
	unlike($log, qr/WARNING|PANIC|terminated by signal/, "$name: and nothing worse");
	like(slurp_file($events), qr/^open (\d+)\nclose \g1\n$/, "$name: the device was closed by the process that opened it");
	is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, "$name: the server went on");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname IN ('wide_v', 'slow_v')}), '0',
		"$name: no index");
	is(files(), $files, "$name: no file");
}

# kill -9 of the process that has the device: nobody can close it but the driver
with_fault('wait 8');
unlink $events;
{
	my $session = start_build($create_wide, 'clustering');
	my $pid = $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_progress_create_index');

	kill 'KILL', $pid;
	usleep(200_000);
	ok($node->poll_query_until('postgres', 'SELECT true', 't'), 'kill -9: the server recovers');
	eval { $session->quit };
	is(slurp_file($events), "open $pid\n", 'kill -9: it was the process that had the device');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname = 'wide_v'}), '0', 'kill -9: no index');
}

# The next build is none the worse for all of that
with_fault('');
unlink $events;
$node->safe_psql('postgres', "SET ivfpq.gpu = on; $create_wide");
is($node->safe_psql('postgres', $wide_trainer), 'double', 'the next build is trained on the device');
like(slurp_file($events), qr/^open (\d+)\nclose \g1\n$/, 'the next build opens and closes it');
ok_check($node, 'wide_v', 'true', 'the next build');
is($node->safe_psql('postgres', q{SELECT rows FROM ivfpq_index_info('wide_v')}), $rows, 'the next build has all rows');
$node->safe_psql('postgres', 'DROP INDEX wide_v');

# The messages of a timeout are those of any other
with_fault('wait 8');
{
	my ($code, $err) = run_sql("SET ivfpq.gpu = auto; SET statement_timeout = '3s'; $create_wide;");

	like($err, qr/ERROR:  57014: canceling statement due to statement timeout/, 'statement_timeout ends a build on the device');
	unlike($err, qr/WARNING/, 'and nothing else is said');
}

# Without the stand-in: a plug-in that was compiled is left alone where no driver is
SKIP:
{
	skip 'this machine has an NVIDIA driver', 4 if `ldconfig -p` =~ /libcuda\.so\.1/;
	with_fault('', '');

	my ($code, $err) = run_sql("DROP INDEX IF EXISTS items_v; SET ivfpq.gpu = on; $create;");

	like($err, qr/ERROR:  55000: could not use a GPU to build index "items_v"/, 'no driver, on: an error');
	like($err, qr/DETAIL:  Reason: no NVIDIA driver is installed on this machine\./, 'no driver, on: the reason');

	($code, $err) = run_sql("DROP INDEX IF EXISTS wide_v; SET ivfpq.gpu = auto; $create_wide;");
	unlike($err, qr/WARNING|ERROR/, 'no driver, auto: nothing is said');
	is($node->safe_psql('postgres', $wide_trainer), 'cpu', 'no driver, auto: the CPU trains');
}

done_testing();
