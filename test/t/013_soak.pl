# Statements drawn at random, on tables of all kinds: whatever happened to a table,
# a search by the index returns rows of the table, with their distances, in order,
# none twice and none missing, and one of all lists returns what a sequential scan
# does.  So do open transactions with old snapshots, cursors that are read while the
# table changes, the server after a crash, and a standby, which compares each page that it
# replays (wal_consistency_checking).  Where the server has pgvector, some tables have its columns.
#
# Each episode is a table of its own, and follows from its seed alone.  An episode
# that fails names it and lists its statements.
#
# VQPG_SOAK_SECONDS (20 unless set) says for how long, VQPG_SOAK_SEED (1 unless set) is the
# seed of the first episode.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use VqpgTest;

my $seconds = $ENV{VQPG_SOAK_SECONDS} || 20;
my $seed = $ENV{VQPG_SOAK_SEED} || 1;

my $primary = new_vqpg_node(
	'primary',
	allows_streaming => 1,
	conf => q{
wal_consistency_checking = 'generic'
max_prepared_transactions = 2
wal_keep_size = 512MB
shared_buffers = 16MB
client_min_messages = warning
jit = off
});
my $standby = PostgreSQL::Test::Cluster->new('standby');

$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "max_standby_streaming_delay = -1\n");
$standby->start;

$primary->safe_psql('postgres', <<'SQL');
-- A vector of one of several kinds, a function of its arguments alone
CREATE FUNCTION soak_vector(kind text, id bigint, dim int) RETURNS real[]
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$
		SELECT CASE WHEN id % 37 <> 0 THEN array_agg((CASE kind
			WHEN 'clusters' THEN test_noise(id % 20, j) + test_noise(id + 1000000000, j) / 5
			WHEN 'integers' THEN round(test_noise(id, j) * 2)
			WHEN 'copies' THEN test_noise(id % 40, j)
			WHEN 'magnitudes' THEN test_noise(id, j) * exp(4 * test_noise(id, 0))
			WHEN 'sparse' THEN CASE WHEN test_noise(id, -j) > 0.8 THEN test_noise(id, j) ELSE 0 END
			WHEN 'flat' THEN CASE WHEN 4 * j > dim THEN 0.001 ELSE 1 END * test_noise(id, j)
			ELSE test_noise(id, j) END)::real ORDER BY j) END
		FROM generate_series(1, dim) j
	$$;

-- Run a query that returns one array of numbers, by the index or without it
CREATE FUNCTION soak_array(query text, by_index bool) RETURNS float8[]
	LANGUAGE plpgsql
	AS $$
	DECLARE
		result float8[];
	BEGIN
		PERFORM set_config('enable_indexscan', by_index::text, true),
			set_config('enable_seqscan', (NOT by_index)::text, true),
			set_config('enable_sort', (NOT by_index)::text, true),
			set_config('enable_bitmapscan', 'off', true);
		EXECUTE query INTO result;
		RETURN result;
	END
	$$;

-- Does the plan of a query order rows by an index?
CREATE FUNCTION soak_is_index_plan(query text) RETURNS bool
	LANGUAGE plpgsql
	AS $$
	DECLARE
		line text;
	BEGIN
		PERFORM set_config('enable_indexscan', 'on', true), set_config('enable_seqscan', 'off', true),
			set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true);
		FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
			IF line LIKE '%Order By:%' THEN RETURN true; END IF;
		END LOOP;
		RETURN false;
	END
	$$;

-- What is wrong with a search of k rows, "index" if nothing is, "table" if nothing is and the
-- planner did not use the index
CREATE FUNCTION soak_search(source text, distance text, filter text, sort_key text, k int, settings jsonb) RETURNS text
	LANGUAGE plpgsql
	AS $$
	DECLARE
		condition text := format('%s IS NOT NULL AND %1$s <> ''NaN'' AND %s', distance, filter);
		search text := format('SELECT id, %1$s AS d FROM %2$s t WHERE %3$s ORDER BY %5$s LIMIT %4$s',
			distance, source, condition, k, format(sort_key, distance));
		collect text := 'SELECT array_agg(x ORDER BY n, p) FROM (SELECT row_number() OVER () AS n, id, d FROM (%s) s) s,'
			' LATERAL (VALUES (1, id::float8), (2, d)) v (p, x)';
		tolerance float8 := settings ->> 'exact';
		truth float8[];
		found float8[];
		problem text;
	BEGIN
		PERFORM set_config(key, value, true) FROM jsonb_each_text(settings - 'exact');
		truth := soak_array(format(collect, format('SELECT id, %1$s AS d FROM %2$s t WHERE %3$s ORDER BY d',
			distance, source, condition)), false);
		found := soak_array(format(collect, search), true);
		WITH
			t AS (SELECT truth[2 * i - 1] AS id, truth[2 * i] AS d, i FROM generate_series(1, cardinality(truth) / 2) i),
			f AS (SELECT found[2 * i - 1] AS id, found[2 * i] AS d, i FROM generate_series(1, cardinality(found) / 2) i),
			wanted AS (SELECT least(k, count(*)) AS rows FROM t)
		SELECT string_agg(p, '; ') INTO problem FROM (
			SELECT format('%s rows of %s', count(*), (SELECT rows FROM wanted)) AS p FROM f
			HAVING CASE WHEN settings ->> 'ivfpq.iterative_scan' = 'relaxed_order' OR tolerance IS NOT NULL
				THEN count(*) <> (SELECT rows FROM wanted) ELSE count(*) > (SELECT rows FROM wanted) END
			UNION ALL
			SELECT format('row %s twice', id) FROM f GROUP BY id HAVING count(*) > 1
			UNION ALL
			SELECT format('row %s is not one to be found', id) FROM f WHERE NOT EXISTS (SELECT FROM t WHERE t.id = f.id)
			UNION ALL
			SELECT format('distance of row %s is %s, not %s', id, f.d, t.d) FROM f JOIN t USING (id) WHERE f.d <> t.d
			UNION ALL
			SELECT format('row %s is out of order', id) FROM (SELECT id, d < lag(d) OVER (ORDER BY i) AS is_less FROM f) s
			WHERE is_less
			UNION ALL
			SELECT format('distance %s is %s, not %s', i, f.d, t.d) FROM f JOIN t USING (i)
			WHERE abs(f.d - t.d) > tolerance * (1 + abs(t.d))) s;
		RETURN coalesce(problem || ' [' || search || ', ' || settings || ']',
			CASE WHEN soak_is_index_plan(search) THEN 'index' ELSE 'table' END);
	END
	$$;

-- The same of a whole query that returns one array and finds all that is near
CREATE FUNCTION soak_query(query text, settings jsonb) RETURNS text
	LANGUAGE plpgsql
	AS $$
	DECLARE
		truth float8[] := soak_array(query, false);
		found float8[];
		tolerance float8 := settings ->> 'exact';
	BEGIN
		PERFORM set_config(key, value, true) FROM jsonb_each_text(settings - 'exact');
		found := soak_array(query, true);
		RETURN CASE WHEN EXISTS (SELECT FROM unnest(found, truth) u (f, t)
					WHERE (f IS NULL) <> (t IS NULL) OR abs(f - t) > tolerance * (1 + abs(t)))
			THEN format('%s, not %s [%s]', found, truth, query)
			WHEN soak_is_index_plan(query) THEN 'index' ELSE 'table' END;
	END
	$$;
SQL

# Columns, what of them is indexed, by which kind of class, and casts of queries
my @types = (
	([ 'real[]', 'v', 'array', '', '', '', '::double precision[]' ]) x 3,
	[ 'double precision[]', '(v::real[])', 'array', '', '', '', '::double precision[]' ]);

my ($rc, $out, $err) = $primary->psql('postgres', 'CREATE EXTENSION vqpg_vector CASCADE');
if ($rc != 0)
{
	like($err, qr/extension "vector" is not available/, 'the types of pgvector are left out where it is not installed');
}
else
{
	push @types,
	  [ 'vector', 'v', 'vector', '::vector', '', '::double precision[]' ],
	  [ 'vector(DIM)', 'v', 'vector', '::vector', '', '::double precision[]' ],
	  [ 'vector', '(v::halfvec(DIM))', 'halfvec', '::halfvec' ],
	  [ 'halfvec', 'v', 'halfvec', '::halfvec' ],
	  [ 'halfvec(DIM)', 'v', 'halfvec', '::halfvec' ];
}

# Of the episode that is under way
my ($number, $table, $column, $is_partitioned, $is_unlogged);
my ($type, $operator, $opclass, $key, $dim, $kind, $next_id, @casts);
my (@statements, @problems, %used, %sessions, $cursor_rows);

sub pick
{
	return $_[ int(rand(@_)) ];
}

sub chance
{
	my ($probability) = @_;

	return rand() < $probability;
}

# The sessions: "main" is between transactions, the others, if they are there, each in one.
# "writer" writes, "holder" has an old snapshot, and "reader" a cursor.
sub session
{
	my ($name) = @_;

	return $sessions{$name} //= $primary->background_psql('postgres');
}

sub run
{
	my ($name, $sql) = @_;

	push @statements, "$name: $sql";
	my $result = eval { session($name)->query_safe($sql) };
	if ($@)
	{
		push @problems, "$name: $sql: $@";
		end_sessions();
		return '';
	}
	return $result;
}

sub end_sessions
{
	for my $name (sort keys %sessions)
	{
		eval { $sessions{$name}->quit };
	}
	%sessions = ();
	undef $cursor_rows;
	return;
}

sub random_query
{
	my $id = chance(0.5) ? 1 + int(rand($next_id)) : 2_000_000_000 + int(rand(1_000_000));

	# no NULL
	$id++ if $id % 37 == 0;
	return "soak_vector('$kind', $id, $dim)" . pick(@casts);
}

sub distance
{
	my ($query) = @_;

	return "($key $operator $query)";
}

sub random_filter
{
	my $n = int(rand(100));

	return pick('true', 'true', "note < $n", 'id % ' . pick(2, 10, 100) . ' = 0',
		'id > ' . int(rand($next_id)), 'note < 0', "v IS NOT NULL AND note < $n", "note = ANY ('{1,5,$n}')",
		"note < (SELECT $n)", "(note < $n OR id % 3 = 0)", "note::text LIKE '%7'", "note + (random() * 0)::int < $n",
		"EXISTS (SELECT FROM generate_series(1, 3) g WHERE g = note % 5)", "note < $n AND t IS NOT NULL",
		"note = $n", "note BETWEEN $n AND " . ($n + 10), "note IS NULL", "note::text = '$n' AND note IS NOT NULL", "note % 7 = 3",
		"(note % 2 = 0) AND id > 50", "id IN (3, 7, $n, 1000)", "note::text IN ('7', '$n') AND id < 500");
}

# A condition on a distance: that it is at most that of some row
sub random_limit
{
	my ($d) = @_;
	my $limit = "(SELECT $d FROM $table t WHERE id = " . (1 + int(rand($next_id))) . ')';

	return pick("$d < $limit", "$limit >= $d", "-$d > -$limit", "1 - $d >= 1 - $limit", "100 * $d <= 100 * $limit");
}

# A search of all lists finds what a sequential scan does, as far as "exact" tells distances
# apart: the index adds up in another order than pgvector
my %exact = ('exact' => 0, 'ivfpq.nprobe' => 262144, 'ivfpq.epsilon' => 100);

sub settings
{
	my %settings = @_;

	$settings{'work_mem'} = pick('64kB', '64kB', '4MB');
	return "'{" . join(', ', map { qq("$_": "$settings{$_}") } sort keys %settings) . "}'";
}

sub verify
{
	my ($name, $sql) = @_;
	my $verdict = run($name, $sql);

	return if @problems;
	if ($verdict =~ /^(index|table)$/)
	{
		$used{$verdict}++ if $name eq 'main' && $sql =~ /soak_search/;
	}
	else
	{
		push @problems, "$name: $verdict";
	}
	return;
}

sub search_sql
{
	my %settings = chance(0.5)
	  ? %exact
	  : (
		'ivfpq.nprobe' => pick(0, 1, 3),
		'ivfpq.epsilon' => pick(0, 1, 2),
		'ivfpq.iterative_scan' => pick('relaxed_order', 'relaxed_order', 'strict_order', 'off'));

	my $d = distance(random_query());
	my $filter = random_filter();

	# others may miss some of such rows
	$filter .= ' AND ' . random_limit($d) if exists $settings{exact} && chance(0.3);

	return sprintf("SELECT soak_search('%s', \$d\$%s\$d\$, \$d\$%s\$d\$, '%s', %d, %s)",
		$table, $d, $filter, pick('%s', '%s', '%s, id', '-%s DESC', '2 * %s'),
		pick(1, 10, 10, 40, 300, 100_000), settings(%settings));
}

# Queries around and beside a search, each of which returns one array
sub query_sql
{
	my ($query_vector, $filter, $k) = (random_query(), random_filter(), pick(1, 10, 50, 400));
	my $d = distance($query_vector);
	my $d_of_row = distance('q');
	$filter .= ' AND ' . random_limit($d) if chance(0.3);
	my $rows = "$table t WHERE $filter AND $d <> 'NaN'";
	my $search = "(SELECT $d AS d, id, note FROM $rows ORDER BY $d LIMIT $k)";
	my $numbered = "(SELECT $d AS d, row_number() OVER (ORDER BY $d) AS n, rank() OVER (ORDER BY $d) AS r FROM $rows)";
	my $query = pick(
		"array_agg(d ORDER BY n, d) FROM generate_series(1, 3) n, LATERAL (SELECT $d AS d FROM $rows AND note % 3 <> n"
		  . " ORDER BY $d LIMIT $k) s",
		"array_agg(d) FROM $search s",
		"array_agg(d ORDER BY d DESC) FROM $search s",
		"ARRAY[min($d)] FROM $rows",
		"ARRAY[max(-$d)] FROM $rows",
		"array_agg(d) FROM (SELECT $d AS d FROM $rows ORDER BY -$d DESC, id LIMIT $k) s",
		"array_agg(d) FROM (SELECT $d_of_row AS d FROM $table t, (SELECT $query_vector AS q OFFSET 0) o WHERE $filter AND $d <> 'NaN'"
		  . " ORDER BY $d_of_row LIMIT $k) s",
		"array_agg(d ORDER BY d, c) FROM (SELECT d, count(*) AS c FROM $search s GROUP BY d) s",
		"array_agg(r) FROM (SELECT rank() OVER (ORDER BY d) AS r FROM $search s) s",
		"array_agg(r) FROM (SELECT rank() OVER (ORDER BY $d) AS r FROM $rows ORDER BY $d LIMIT $k) s",
		"array_agg(r) FROM (SELECT rank() OVER (ORDER BY $d) AS r FROM $rows ORDER BY r LIMIT $k) s",
		"array_agg(d ORDER BY n) FROM $numbered s WHERE n <= $k",
		"array_agg(r ORDER BY n) FROM $numbered s WHERE n < $k AND " . pick('true', "r < $k / 2"),
		"ARRAY[max(n)] FROM (SELECT count(*) OVER () AS n FROM $rows ORDER BY $d LIMIT $k) s",
		"ARRAY[max(n)] FROM (SELECT count(*) OVER () AS n FROM (SELECT id FROM $table t WHERE $filter ORDER BY $d) s LIMIT $k) s",
		"ARRAY[count(*)] FROM generate_series(1, 3) n WHERE n = 7 OR EXISTS (SELECT FROM (SELECT note FROM $table t WHERE $filter"
		  . " ORDER BY $d) s WHERE note % 50 = n - 1)",
		"array_agg(d ORDER BY d) FROM (SELECT b.d FROM (SELECT $d AS d FROM $rows) a FULL JOIN $search b ON a.d = b.d) s",
		"array_agg(d) FROM (SELECT DISTINCT $d AS d FROM $rows ORDER BY 1 LIMIT $k) s",
		"array_agg(d) FROM (SELECT $d AS d FROM $rows ORDER BY $d FETCH FIRST $k ROWS WITH TIES) s",
		"array_agg(d) FROM (SELECT $d AS d FROM $rows ORDER BY $d OFFSET 7 LIMIT $k) s",
		"array_agg(d) FROM (SELECT d FROM (SELECT $d AS d FROM $rows ORDER BY $d) s LIMIT $k) s",
		"array_agg(d ORDER BY d) FROM (SELECT d FROM $search a UNION ALL SELECT d FROM $search b) s",
		"array_agg(d) FROM (SELECT $d AS d FROM $rows AND note < 50 UNION ALL SELECT $d FROM $rows AND note >= 50"
		  . " ORDER BY 1 LIMIT $k) s",
		"array_agg(d ORDER BY d) FROM (SELECT $d AS d FROM $table WHERE id IN (SELECT id FROM $search s)) s",
		"array_agg(d ORDER BY note) FROM (SELECT DISTINCT ON (note) note, $d AS d FROM $rows ORDER BY note, $d) s",
		"array_agg(d) FROM (SELECT $d AS d FROM $table t JOIN generate_series(0, 60, 7) n ON note = n WHERE $filter"
		  . " AND $d <> 'NaN' ORDER BY $d LIMIT $k) s",
		"array_agg((SELECT $d FROM $rows AND note >= n ORDER BY $d LIMIT 1) ORDER BY n) FROM generate_series(0, 90, 30) n",
		"array_agg(d ORDER BY d) FROM (SELECT a.d FROM $search a JOIN $search b ON a.id = b.id) s");

	return "SELECT soak_query(\$q\$SELECT $query\$q\$, " . settings(%exact) . ')';
}

sub insert_sql
{
	my ($rows) = @_;
	my $first = $next_id;

	$next_id += $rows;
	return "INSERT INTO $table (id, note, v) SELECT i, i * 7 % 100, soak_vector('$kind', i, $dim)"
	  . " FROM generate_series($first, $first + $rows - 1) i";
}

# Sessions write rows of their own, or they would wait for each other
sub write_sql
{
	my ($remainder) = @_;
	my $some = "id % 2 = $remainder AND id % 40 = " . (2 * int(rand(20)) + $remainder);

	return pick(
		insert_sql(1),
		insert_sql(pick(10, 200)),
		"DELETE FROM $table WHERE id IN (SELECT id FROM $table WHERE id % 2 = $remainder ORDER BY "
		  . distance(random_query()) . ' LIMIT ' . pick(1, 30) . ')',
		"DELETE FROM $table WHERE $some",
		"UPDATE $table SET v = soak_vector('$kind', id + " . int(rand(1_000_000)) . ", $dim) WHERE $some",
		"UPDATE $table SET note = note + 1 WHERE $some");
}

sub indexes
{
	return split /\n/, run('main',
		"SELECT c.oid::regclass FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE amname = 'ivfpq'"
		  . " AND relkind = 'i' ORDER BY 1");
}

sub create_index
{
	my ($concurrently) = @_;
	my $attributes = pick('', '', ', note', ', id, note', ', (note::text), (note % 7)', ', (note % 2 = 0), id, note',
		', note, (note::numeric), (id::text), (id % 10), (id % 100)');
	my @options;

	push @options, 'lists = ' . pick(1, 2, 10, 50) if chance(0.6);
	push @options, 'nbits = ' . pick(4, 8) if chance(0.5);
	push @options, 'm = ' . pick(1, 1 + int($dim / 3), $dim < 300 ? $dim : 300) if chance(0.4);
	push @options, 'rotation = ' . pick('learned', 'hadamard', 'none') if chance(0.5);
	push @options, 'nprobe = ' . pick(1, 3) if chance(0.3);
	run('main', "SET maintenance_work_mem = '" . pick('1MB', '8MB', '64MB', '128MB') . "'");
	run('main', "SET min_parallel_table_scan_size = '" . pick('0', '8MB') . "'");
	run('main', 'SET max_parallel_maintenance_workers = ' . pick(0, 0, 2));
	run('main', "CREATE INDEX $concurrently ${table}_v ON $table USING ivfpq ($key $opclass$attributes)"
		  . (@options ? ' WITH (' . join(', ', @options) . ')' : ''));
	return;
}

# What takes strong locks, or waits for the snapshots of others, comes after they have ended
sub end_transactions
{
	for my $name (grep { $sessions{$_} } @_ ? @_ : qw(writer holder reader))
	{
		run($name, $name eq 'writer' ? pick('COMMIT', 'ROLLBACK') : 'COMMIT');

		my $session = delete $sessions{$name};

		eval { $session->quit } if $session;
		undef $cursor_rows if $name eq 'reader';
	}
	return;
}

sub fetch
{
	my $fetched = run('reader', 'FETCH ' . pick(1, 20, 5000) . ' FROM c');

	return if @problems;
	my @ids = split /\n/, $fetched;

	for my $id (@ids)
	{
		push @problems, "reader: row $id is not one to be found, or comes twice" unless delete $cursor_rows->{$id};
	}
	if (!@ids)
	{
		push @problems, 'reader: missing rows ' . join(', ', sort keys %$cursor_rows) if %$cursor_rows;
		end_transactions('reader');
	}
	return;
}

sub open_cursor
{
	my $rows = "FROM $table t WHERE " . random_filter() . " AND v IS NOT NULL";
	my $d = distance(random_query());

	run('reader', 'BEGIN ISOLATION LEVEL REPEATABLE READ');
	run('reader', 'SET LOCAL enable_seqscan = off');
	run('reader', 'SET LOCAL enable_sort = off');
	run('reader', 'SET LOCAL ivfpq.nprobe = 2');
	$cursor_rows = { map { $_ => 1 } split /\n/, run('reader', "SELECT id $rows AND $d <> 'NaN'") };
	run('reader', "DECLARE c NO SCROLL CURSOR FOR SELECT id $rows AND $d <> 'NaN' ORDER BY $d");
	return;
}

my @actions = (
	[ 10, sub { run('main', write_sql(0)) } ],
	[ 20, sub { verify('main', search_sql()) } ],
	[ 14, sub { verify('main', query_sql()) } ],
	[ 6, sub { run('main', "VACUUM (INDEX_CLEANUP ON, TRUNCATE " . (%sessions > 1 ? "off" : "on") . ") $table") } ],

	# a transaction that writes, one step at a time
	[
		12,
		sub {
			if (!$sessions{writer})
			{
				run('writer', 'BEGIN ISOLATION LEVEL ' . pick('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'));
				run('writer', write_sql(1));
				run('writer', 'SAVEPOINT s');
			}
			run('writer', write_sql(1)) if chance(0.5);
			run('writer', 'ROLLBACK TO s') if chance(0.2);
			verify('writer', search_sql());
			end_transactions('writer') if chance(0.3);
		}
	],
	[
		2,
		sub {
			run('main', 'BEGIN');
			run('main', write_sql(0));
			run('main', "PREPARE TRANSACTION 'soak'");
			verify('main', search_sql());
			run('main', pick('COMMIT', 'ROLLBACK') . " PREPARED 'soak'");
		}
	],

	# an old snapshot, and a cursor, while the others go on
	[
		8,
		sub {
			run('holder', 'BEGIN ISOLATION LEVEL REPEATABLE READ') unless $sessions{holder};
			verify('holder', search_sql());
			end_transactions('holder') if chance(0.2);
		}
	],
	[ 12, sub { $cursor_rows ? fetch() : open_cursor() } ],

	[
		3,
		sub {
			end_transactions();
			run('main', "DROP INDEX ${table}_v");
			create_index($is_partitioned ? '' : pick('', 'CONCURRENTLY'));
		}
	],
	[
		2,
		sub {
			end_transactions();
			run('main', "REINDEX INDEX " . pick('', 'CONCURRENTLY') . " ${table}_v");
		}
	],
	[
		2,
		sub {
			end_transactions();
			run('main', pick("VACUUM FULL $table", "TRUNCATE $table", "DELETE FROM $table",
					"DELETE FROM $table WHERE id % 10 <> 1"));
		}
	],
	[
		1,
		sub {
			end_sessions();
			push @statements, 'crash';
			$primary->stop('immediate');
			$primary->start;
			$next_id = 1 if $is_unlogged;
		}
	],
	[
		3,
		sub {
			end_transactions('writer');
			run('main', "SELECT ivfpq_check('$_', true, true)") for indexes();
		}
	]);

sub random_action
{
	my $total = 0;

	$total += $_->[0] for @actions;
	my $at = rand($total);
	for my $action (@actions)
	{
		return $action->[1] if ($at -= $action->[0]) < 0;
	}
	return $actions[0][1];
}

sub start_episode
{
	my $options = ' WITH (fillfactor = ' . pick(50, 100) . ')';
	my $metric = pick('l2', 'l2', 'ip', 'cosine');

	$table = "soak_$number";
	$operator = { l2 => '<->', ip => '<#>', cosine => '<=>' }->{$metric};
	$dim = pick(1, 2, 3, 8, 17, 33, 64, 100, 200, 600, 1300);

	# of few dimensions, all vectors have nearly the same few directions
	$dim = 8 if $metric eq 'cosine' && $dim < 8;
	($type, $key, $opclass, @casts) = map { s/DIM/$dim/r } @{ pick(@types) };
	$exact{exact} = $opclass eq 'array' ? 0 : 1e-5;
	$opclass .= "_${metric}_ops";
	$kind = pick('clusters', 'clusters', 'uniform', 'integers', 'copies', 'magnitudes', 'sparse', 'flat');
	$is_partitioned = chance(0.15);
	$is_unlogged = !$is_partitioned && chance(0.1);
	$next_id = 1;
	if ($is_partitioned)
	{
		run('main', "CREATE TABLE $table (id bigint PRIMARY KEY, note int, v $type) PARTITION BY HASH (id)");
		run('main', "CREATE TABLE ${table}_0 PARTITION OF $table FOR VALUES WITH (MODULUS 2, REMAINDER 0) $options");
		run('main', "CREATE TABLE ${table}_1 (v $type, gone int, note int, id bigint NOT NULL)");
		run('main', "ALTER TABLE ${table}_1 DROP gone");
		run('main', "ALTER TABLE $table ATTACH PARTITION ${table}_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1)");
	}
	else
	{
		run('main', 'CREATE ' . ($is_unlogged ? 'UNLOGGED' : '')
			  . " TABLE $table (id bigint PRIMARY KEY, note int, v $type) $options");
		run('main', "ALTER TABLE $table ALTER v SET STORAGE " . pick('EXTERNAL', 'EXTENDED')) if chance(0.3);
	}
	my $rows = pick(0, 0, 5, 500, 1500, 4000);

	# enough for codes where vectors are long, too
	$rows = pick(600, 150_000 / $dim) if $rows * $dim > 150_000;
	run('main', insert_sql(1 + int($rows))) if $rows > 0;
	create_index('');
	return;
}

sub end_episode
{
	my @indexes = indexes();

	end_transactions();
	run('main', "SELECT ivfpq_check('$_', true, true)") for @indexes;
	if (!@problems && !$is_unlogged)
	{
		$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
		for my $sql ((map { "SELECT 'index' FROM ivfpq_check('$_', true, true)" } @indexes), search_sql(), search_sql(), query_sql())
		{
			my ($code, $out, $err) = $standby->psql('postgres', $sql);

			push @statements, "standby: $sql";
			push @problems, "standby: $sql: $out $err" unless $code == 0 && $out =~ /^(index|table)$/;
		}
	}
	end_sessions() if @problems;
	run('main', "DROP TABLE $table") unless @problems;
	return;
}

my $deadline = time + $seconds;

for ($number = $seed; $number < $seed + 4 || time < $deadline; $number++)
{
	srand($number * 2654435761 % 4294967296);
	(@statements, @problems) = ();
	start_episode();
	for (my $step = 0; $step < 60 && !@problems && ($step < 20 || time < $deadline + 5); $step++)
	{
		random_action()->();
	}
	end_episode() unless @problems;
	is(join("\n", @problems), '',
		"seed $number: $kind, $dim dimensions, $type, $opclass, " . scalar(@statements) . ' statements')
	  or diag(join(";\n", @statements));
	last if @problems;
}
end_sessions();
ok($used{index} && !$used{table}, 'all searches were by an index');

done_testing();
