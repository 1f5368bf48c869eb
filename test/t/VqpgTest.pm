# VqpgTest.pm
#	What the TAP tests of vqpg share: a node with the extension, vectors that are
#	the same in every run, and searches with and without the index.
#
# A server that finds the extension only by way of settings (extension_destdir,
# extension_control_path) gets them from the file that TEMP_CONFIG names, as in
# all of PostgreSQL's tests.

package VqpgTest;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(
  new_vqpg_node
  install_vqpg
  create_vectors
  create_queries
  neighbours
  recall
  ok_check
  ok_finds_every_row
  ok_pgbench
  start_pgbench
  crash
);

# A started node with the extension in database postgres
sub new_vqpg_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(
		allows_streaming => $options{allows_streaming},
		no_data_checksums => $options{no_data_checksums});
	$node->append_conf('postgresql.conf', "autovacuum = off\n" . ($options{conf} // ''));
	$node->start;
	install_vqpg($node);
	return $node;
}

# test_vector(id, dim) is a point near one of 50 centres, a function of its
# arguments alone: no random generator that a version of the server may change.
# A quarter of the dimensions hardly varies, so that codes are projected.
sub install_vqpg
{
	my ($node) = @_;

	$node->safe_psql('postgres', q{
		CREATE EXTENSION vqpg;
		CREATE FUNCTION test_noise(id bigint, j int) RETURNS float8
			LANGUAGE sql IMMUTABLE PARALLEL SAFE
			AS $$ SELECT hashint8extended(id, j)::float8 / 9223372036854775808 $$;
		CREATE FUNCTION test_vector(id bigint, dim int) RETURNS real[]
			LANGUAGE sql IMMUTABLE PARALLEL SAFE
			AS $$
				SELECT array_agg(((test_noise(id % 50, j) + test_noise(id + 1000000000, j) / 2)
								  * CASE WHEN 4 * j > 3 * dim THEN 0.05 ELSE 1 END)::real ORDER BY j)
				FROM generate_series(1, dim) j
			$$;
	});
	return;
}

# A table of vectors with ids from 1 to rows
sub create_vectors
{
	my ($node, $table, $rows, $dim, %options) = @_;
	my $kind = $options{kind} // '';

	$node->safe_psql('postgres', qq{
		CREATE $kind TABLE $table (id bigint PRIMARY KEY, v real[] NOT NULL, note int);
		INSERT INTO $table SELECT id, test_vector(id, $dim), 0 FROM generate_series(1, $rows) id;
		ANALYZE $table;
	});
	return;
}

# Table queries(id, v): vectors of the same kind that no row equals
sub create_queries
{
	my ($node, $count, $dim) = @_;

	$node->safe_psql('postgres', qq{
		CREATE TABLE queries (id int PRIMARY KEY, v real[]);
		INSERT INTO queries SELECT i, test_vector(500000000 + i, $dim) FROM generate_series(1, $count) i;
	});
	return;
}

# The settings that leave the planner no choice
my %plan_settings = (
	index => 'SET enable_seqscan = off; SET enable_sort = off;',
	exact => 'SET enable_indexscan = off;');

# For each query the ids of its k nearest rows, nearest first, by index or
# exactly; options are settings (commands) and filter (a condition on t)
sub neighbours
{
	my ($node, $table, $operator, $k, $how, %options) = @_;
	my $settings = $plan_settings{$how} . ($options{settings} // '');
	my $filter = $options{filter} // 'true';
	my $search = "SELECT t.id FROM $table t WHERE $filter ORDER BY t.v $operator q.v LIMIT $k";
	my %found;

	if ($how eq 'index')
	{
		my $plan = $node->safe_psql('postgres',
			"$settings EXPLAIN (COSTS OFF) SELECT q.id, s.id FROM queries q, LATERAL ($search) s");
		like($plan, qr/Order By: \(v/, "search of $table by $operator uses the index");
	}
	my $rows = $node->safe_psql('postgres',
		"$settings SELECT q.id, (SELECT string_agg(s.id::text, ',') FROM ($search) s) FROM queries q");
	for my $row (split /\n/, $rows)
	{
		my ($query, $ids) = split /\|/, $row;
		$found{$query} = [ split /,/, $ids // '' ];
	}
	return \%found;
}

# Mean part of the true neighbours that was found
sub recall
{
	my ($truth, $found) = @_;
	my ($hits, $total) = (0, 0);

	for my $query (keys %$truth)
	{
		my %is_found = map { $_ => 1 } @{ $found->{$query} };

		$total += @{ $truth->{$query} };
		$hits += grep { $is_found{$_} } @{ $truth->{$query} };
	}
	return $total > 0 ? $hits / $total : 1;
}

# With heap_all_indexed codes are compared with rows as well
sub ok_check
{
	my ($node, $index, $heap_all_indexed, $name) = @_;
	my ($code, $out, $err) =
	  $node->psql('postgres', "SELECT ivfpq_check('$index', $heap_all_indexed, $heap_all_indexed)");

	return is($code == 0 ? '' : $err, '', "$name: ivfpq_check($index, $heap_all_indexed)");
}

# A search without LIMIT goes on to the last list, and returns every row once
sub ok_finds_every_row
{
	my ($node, $table, $dim, $name) = @_;
	my $search = "SELECT id FROM $table ORDER BY v <-> test_vector(1, $dim)";
	my $plan = $node->safe_psql('postgres', "$plan_settings{index} EXPLAIN (COSTS OFF) $search");
	my $ids = $node->safe_psql('postgres', qq{
		$plan_settings{index}
		SELECT count(*), count(DISTINCT id), sum(id) FROM ($search OFFSET 0) s});
	my $expected = $node->safe_psql('postgres', qq{
		SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off;
		SELECT count(*), count(*), sum(id) FROM $table});

	like($plan, qr/Order By/, "$name: search of all of $table uses the index");
	return is($ids, $expected, "$name: a search without LIMIT finds every row of $table once");
}

sub pgbench_command
{
	my ($node, $options, $scripts) = @_;
	my @files;

	# name@weight => text
	for my $name (sort keys %$scripts)
	{
		my ($base, $weight) = split /@/, $name;
		my $path = $node->basedir . "/$base.sql";

		open my $file, '>', $path or die "could not write $path: $!";
		print $file $scripts->{$name};
		close $file;
		push @files, '-f', $path . (defined $weight ? "\@$weight" : '');
	}
	return [
		'pgbench', '-n', '-h', $node->host, '-p', $node->port,
		split(' ', $options), @files, 'postgres'
	];
}

# Run the scripts to the end; any error of any of them fails the test
sub ok_pgbench
{
	my ($node, $options, $scripts, $name) = @_;
	my ($out, $err);

	IPC::Run::run(pgbench_command($node, $options, $scripts), '>', \$out, '2>', \$err);
	my $code = $? >> 8;

	diag($err) unless is($code, 0, "$name: pgbench exits with 0");
	return unlike($err, qr/(ERROR|FATAL|PANIC|aborted)/, "$name: no statement fails");
}

# Run the scripts in the background; returns the IPC::Run handle and a
# reference to what is written to standard error
sub start_pgbench
{
	my ($node, $options, $scripts) = @_;
	my ($out, $err) = ('', '');
	my $handle =
	  IPC::Run::start(pgbench_command($node, $options, $scripts), '>', \$out, '2>', \$err);

	return ($handle, \$err);
}

# kill -9 of the postmaster, and a start that waits until its orphans are gone
sub crash
{
	my ($node) = @_;

	$node->kill9;
	for my $attempt (1 .. 100)
	{
		return if $node->start(fail_ok => 1);
		usleep(100_000);

		# forget the process of the attempt that failed
		$node->stop('fast', fail_ok => 1);
	}
	die 'server does not start after a crash: ' . $node->logfile;
}

1;
