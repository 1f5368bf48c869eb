# CREATE INDEX within little memory, and CREATE INDEX that is cancelled: no
# failure, and nothing left behind.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use VqpgTest;

my $dim = 64;
my $node = new_vqpg_node('main');

create_vectors($node, 'items', 20000, $dim);
create_queries($node, 30, $dim);

my $truth = neighbours($node, 'items', '<->', 10, 'exact');

for my $memory ('64MB', '1MB')
{
	my ($code, $out, $err) = $node->psql('postgres', qq{
		SET maintenance_work_mem = '$memory';
		CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = 100);
	});

	is($code, 0, "CREATE INDEX with maintenance_work_mem $memory");
	note($err) if $err ne '';
	ok_check($node, 'items_v', 'true', $memory);
	my $recall = recall($truth,
		neighbours($node, 'items', '<->', 10, 'index', settings => 'SET ivfpq.nprobe = 30;'));
	cmp_ok($recall, '>=', 0.9, "recall of an index built with $memory ($recall)");
	$node->safe_psql('postgres', 'DROP INDEX items_v');
}

# Files of the database, without those that only a checkpoint removes
sub files
{
	my $database = $node->safe_psql('postgres', q{
		CHECKPOINT;
		SELECT oid FROM pg_database WHERE datname = 'postgres'});

	opendir my $folder, $node->data_dir . "/base/$database" or die $!;
	return join ' ', sort grep { /^\d+/ } readdir $folder;
}

my $files = files();
my $build = 'CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops) WITH (lists = 8000, m = 64, nbits = 8)';
my $start = time;

$node->safe_psql('postgres', "$build; DROP INDEX items_v");

my $build_ms = 1000 * (time - $start);

note("a build takes $build_ms ms");
is(files(), $files, 'no file of a dropped index');

# Stopped at any point of it
for my $part (.001, .02, .05, .1, .2, .3, .4, .5, .6, .7, .8)
{
	my $timeout = int(1 + $part * $build_ms);
	my ($code, $out, $err) =
	  $node->psql('postgres', "SET statement_timeout = '${timeout}ms'; $build");

	if ($code == 0)
	{
		note("the build took less than $timeout ms");
		$node->safe_psql('postgres', 'DROP INDEX items_v');
	}
	else
	{
		like($err, qr/canceling statement due to statement timeout/, "build is cancelled after $timeout ms");
	}
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class WHERE relname = 'items_v'"),
		'0', "no index after $timeout ms");
	is(files(), $files, "no file after $timeout ms");
}

# A cancel is obeyed soon, wherever the build is
my $builder = $node->background_psql('postgres', on_error_stop => 0);

$builder->query_until(qr/start/, "\\echo start\n$build;\n");
ok( $node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_progress_create_index}),
	'build reports its progress');
is( $node->safe_psql('postgres', q{
		SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%'}),
	't', 'build is told to stop');

my $told = time;

ok( $node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_progress_create_index}),
	'build stops');
note('it took ' . (time - $told) . ' s to stop');
cmp_ok(time - $told, '<', 5, 'within 5 seconds');
$builder->quit;
is(files(), $files, 'no file after a cancelled build');

# The server, and the next build, are none the worse
$node->safe_psql('postgres', $build);
ok_check($node, 'items_v', 'true', 'after cancelled builds');
ok_finds_every_row($node, 'items', $dim, 'after cancelled builds');

# The memory that the message asks for is enough, and not much more than that, however products are computed
$node->safe_psql('postgres', q{
	CREATE TABLE hungry AS SELECT array_fill(sin(i)::real, '{60}') || array_fill(cos(i * 1.7)::real, '{40}') AS v
	FROM generate_series(1, 150000) i});

sub build_hungry
{
	my ($kernel, $megabytes) = @_;
	my ($code, $out, $err) = $node->psql('postgres', qq{
		LOAD 'vqpg';
		SET ivfpq.kernel = $kernel;
		SET max_parallel_maintenance_workers = 0;
		SET maintenance_work_mem = '${megabytes}MB';
		CREATE INDEX hungry_v ON hungry USING ivfpq (v) WITH (lists = 4000, rotation = none);
		DROP INDEX hungry_v});

	is($code, 0, "$kernel: CREATE INDEX within $megabytes MB");
	return $err;
}

for my $kernel ('auto', 'scalar')
{
	my $said = build_hungry($kernel, 1);
	my ($wanted) = $said =~ /HINT:  Set "maintenance_work_mem" to (\d+) MB or more/;

	cmp_ok($wanted, '>', 50, "$kernel: 1 MB is not enough, and a message says what is");
	like($said, qr/are trained on \d+ rows, and on about \d+ that are read anew in each iteration/, "$kernel: and what is done instead");
	is(build_hungry($kernel, $wanted), '', "$kernel: that is enough");
	like(build_hungry($kernel, $wanted - 4), qr/trained with less/, "$kernel: a little less is not");
}
$node->safe_psql('postgres', 'DROP TABLE hungry');

# OpenBLAS wants 128 MB of address space as it multiplies first, and would try for ever: with 100 MB
# left a build goes on without it, and the next one of the session looks for it again
my ($code, $out, $err) = $node->psql('postgres', q{
	LOAD 'vqpg';
	SET max_parallel_maintenance_workers = 0;
	SET statement_timeout = '60s';
	SELECT pg_backend_pid() AS pid \gset
	\setenv BACKEND :pid
	\! prlimit --pid $BACKEND --as=$((($(awk '/^VmSize/ {print $2}' /proc/$BACKEND/status) + 100 * 1024) * 1024)):
	REINDEX INDEX items_v;
	SELECT 'built';
	\warn then
	\! prlimit --pid $BACKEND --as=unlimited:
	REINDEX INDEX items_v;
});

is($out, 'built', 'a build without memory for OpenBLAS ends');
like($err, qr/could not load OpenBLAS, or it has no memory.*then/s, 'and says that it did without');
unlike($err, qr/then.*OpenBLAS/s, 'the next one has it');
ok_check($node, 'items_v', 'true', 'without OpenBLAS');

done_testing();
