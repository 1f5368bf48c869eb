# An index that was made before its rows came is trained without anybody asking:
# VACUUM starts a background worker that reindexes it.  The worker leaves nothing
# behind, whether it fails or the server does, and gives way to who waits for the table.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use VqpgTest;

my $dim = 8;
my $node = new_vqpg_node('main', conf => "log_lock_waits = off\nmax_worker_processes = 8\n");

sub fill
{
	my ($table, $rows) = @_;

	$node->safe_psql('postgres',
		"INSERT INTO $table SELECT id, test_vector(id, $dim), 0 FROM generate_series(1, $rows) id");
	return;
}

# VACUUM, and what it says
sub vacuum
{
	my ($table, $settings) = @_;
	my ($code, $out, $err) = $node->psql('postgres', ($settings // '') . ";VACUUM $table");

	is($code, 0, "VACUUM of $table succeeds") or diag($err);
	return $err;
}

sub is_trained
{
	my ($index) = @_;

	return $node->safe_psql('postgres', "SELECT lists > 1 FROM ivfpq_index_info('$index')") eq 't';
}

sub wait_until_trained
{
	my ($index, $name) = @_;

	return ok($node->poll_query_until('postgres', "SELECT lists > 1 FROM ivfpq_index_info('$index')"),
		"$name: $index is trained");
}

sub wait_until_no_worker
{
	return $node->poll_query_until('postgres',
		q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ivfpq reindex')});
}

sub log_has
{
	my ($pattern) = @_;

	return slurp_file($node->logfile) =~ $pattern;
}

# Indexes of a table and whether they are valid
sub indexes
{
	my ($table) = @_;

	return $node->safe_psql('postgres', qq{
		SELECT string_agg(indexrelid::regclass || ' ' || indisvalid, ', ' ORDER BY indexrelid::regclass::text)
		FROM pg_index WHERE indrelid = '$table'::regclass});
}

# By VACUUM
$node->safe_psql('postgres', q{
	CREATE TABLE items (id bigint, v real[], note int);
	CREATE INDEX "Items v" ON items USING ivfpq (v) WITH (m = 4)});
fill('items', 9000);
is(vacuum('items'), '', 'VACUUM says nothing of an index of few rows');
fill('items', 3000);
like(vacuum('items'), qr/is not trained.*background worker rebuilds it/s, 'VACUUM has it rebuilt');
wait_until_trained('"Items v"', 'VACUUM');
ok(wait_until_no_worker(), 'the worker ends');
ok(log_has(qr/LOG:  index public."Items v" has been rebuilt/), 'the log tells');
is(indexes('items'), '"Items v" true', 'there is one index');
ok_check($node, '"Items v"', 'true', 'reindexed');
is($node->safe_psql('postgres', 'SELECT m FROM ivfpq_index_info(\'"Items v"\')'), 4, 'options are as they were');
is(vacuum('items'), '', 'then VACUUM says nothing');

# Not if that is not wanted, nor of a temporary table
$node->safe_psql('postgres', q{
	CREATE TABLE manual (id bigint, v real[], note int);
	CREATE INDEX manual_v ON manual USING ivfpq (v) WITH (autoreindex = off)});
fill('manual', 12000);
like(vacuum('manual'), qr/HINT:  Use REINDEX/, 'off by the storage parameter');
$node->safe_psql('postgres', 'ALTER INDEX manual_v RESET (autoreindex)');
like(vacuum('manual', 'SET ivfpq.autoreindex = off'), qr/HINT:  Use REINDEX/, 'off by the setting');
my ($code, $out, $err) = $node->psql('postgres', qq{
	CREATE TEMP TABLE mine (v real[]);
	CREATE INDEX ON mine USING ivfpq (v);
	INSERT INTO mine SELECT v FROM manual;
	VACUUM mine});
like($err, qr/HINT:  Use REINDEX/, 'nor of a temporary table');
ok(wait_until_no_worker(), 'no worker is there');
ok(!is_trained('manual_v'), 'and nothing has been rebuilt');
$node->safe_psql('postgres', 'DROP TABLE manual');

# A table whose index is built slowly while a session holds advisory lock 1
my $brake = $node->background_psql('postgres', on_error_stop => 0);
my $writer = $node->background_psql('postgres', on_error_stop => 0);

$node->safe_psql('postgres', q{
	CREATE FUNCTION slowly(v real[]) RETURNS real[] LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN
		IF pg_try_advisory_lock_shared(1) THEN
			PERFORM pg_advisory_unlock_shared(1);
		ELSE
			PERFORM pg_sleep(0.01);
		END IF;
		RETURN v;
	END $$;
	CREATE TABLE slow (id bigint, v real[], note int);
	CREATE INDEX slow_v ON slow USING ivfpq (slowly(v))});
fill('slow', 12000);
create_queries($node, 10, $dim);
$brake->query_safe('SELECT pg_advisory_lock(1)');

# Wait until a worker builds
sub wait_until_build
{
	return ok($node->poll_query_until('postgres',
			q{SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE relid = 'slow'::regclass AND phase ~ 'sampling')}),
		'a slow build has begun');
}

# It gives way to who waits for the table
vacuum('slow');
wait_until_build();
($code, $out, $err) = $node->psql('postgres', q{SET lock_timeout = '60s'; ALTER TABLE slow ADD COLUMN more int});
is($err, '', 'ALTER TABLE has its way');
ok(wait_until_no_worker(), 'the worker ends');
ok(log_has(qr/canceling statement due to user request\n(?:.*\n){0,4}.*automatic reindex of index public\.slow_v/), 'the log tells');
is(indexes('slow'), 'slow_v true', 'and it leaves nothing');

# also to who rewrites it, and with it what the worker leaves, which is a valid index then
vacuum('slow');
wait_until_build();
($code, $out, $err) = $node->psql('postgres', q{SET lock_timeout = '60s'; TRUNCATE slow});
is($err, '', 'TRUNCATE has its way');
ok(wait_until_no_worker(), 'the worker ends');
is(indexes('slow'), 'slow_v true', 'and it leaves nothing');
$node->safe_psql('postgres', "INSERT INTO slow SELECT id, test_vector(id, $dim), 0 FROM generate_series(1, 12000) id");

# What a crash leaves is dropped by the next, which begins when transactions that use the table have ended
vacuum('slow');
wait_until_build();
$node->safe_psql('postgres', 'CHECKPOINT');
crash($node);
is(indexes('slow'), 'slow_v true, slow_v_ccnew false', 'a crash leaves an invalid index');
$brake->reconnect_and_clear();
$writer->reconnect_and_clear();
$brake->query_safe('SELECT pg_advisory_lock(1)');
$writer->query_safe('BEGIN; TABLE slow LIMIT 1');
vacuum('slow');
ok($node->poll_query_until('postgres',
		q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ivfpq reindex' AND wait_event = 'Extension')}),
	'the worker waits');
is(indexes('slow'), 'slow_v true, slow_v_ccnew false', 'for a transaction that has read the table');
my $ended = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
$writer->query_safe('COMMIT');
wait_until_build();
is($node->safe_psql('postgres', qq{
		SELECT query_start > '$ended' AND xact_start > '$ended' FROM pg_stat_activity WHERE backend_type = 'ivfpq reindex'}),
	't', 'its transaction has not begun before');
is(indexes('slow'), 'slow_v true, slow_v_ccnew false', 'the worker builds');

# A transaction that writes to the table meanwhile is waited for, and who waits for the worker need not
$writer->query_safe("BEGIN; INSERT INTO slow VALUES (0, test_vector(0, $dim), 0)");
$brake->query_safe('SELECT pg_advisory_unlock(1)');
ok($node->poll_query_until('postgres',
		q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ivfpq reindex' AND wait_event = 'virtualxid')}),
	'the worker has built, and waits for a writer');
($code, $out, $err) = $node->psql('postgres', q{SET lock_timeout = '60s'; CREATE STATISTICS slow_s ON id, note FROM slow});
is($err, '', 'who waits for its lock has his way');
$writer->query_safe('ROLLBACK');
ok(wait_until_no_worker(), 'the worker ends');
is(indexes('slow'), 'slow_v true', 'and leaves nothing');
ok(!is_trained('slow_v'), 'the index is as it was');

# A snapshot of elsewhere is waited for before there is anything that it could stop
$writer->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; TABLE queries');
vacuum('slow');
ok($node->poll_query_until('postgres',
		q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ivfpq reindex' AND wait_event = 'Extension')}),
	'the worker waits');
sleep(3);
is(indexes('slow'), 'slow_v true', 'for an older snapshot');
$writer->query_safe('COMMIT');
wait_until_trained('slow_v', 'the next VACUUM');
ok(wait_until_no_worker(), 'the worker ends');
is(indexes('slow'), 'slow_v true', 'there is one index');
ok_check($node, 'slow_v', 'true', 'after all that');

# Have the index outgrown again
sub outgrow
{
	$node->safe_psql('postgres', 'DELETE FROM slow');
	vacuum('slow', 'SET ivfpq.autoreindex = off');
	$node->safe_psql('postgres', 'REINDEX INDEX slow_v');
	$node->safe_psql('postgres', "INSERT INTO slow SELECT id, test_vector(id, $dim), 0 FROM generate_series(1, 12000) id");
	return;
}

# and a worker that builds
sub begin_build
{
	outgrow();
	$brake->query_safe('SELECT pg_advisory_lock(1)');
	vacuum('slow');
	return wait_until_build();
}

# Who has read the table and alters it then, waits for the worker, which waits for him: it is the worker that gives in
begin_build();
$writer->query_safe('BEGIN; TABLE slow LIMIT 1');
$brake->query_safe('SELECT pg_advisory_unlock(1)');
ok($node->poll_query_until('postgres',
		q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ivfpq reindex' AND wait_event = 'virtualxid')}),
	'the worker waits for a reader');
is($writer->query_safe('ALTER TABLE slow ADD COLUMN still_more int; SELECT 1'), '1', 'the reader may alter the table');
$writer->query_safe('COMMIT');
ok(wait_until_no_worker(), 'the worker ends');
is(indexes('slow'), 'slow_v true', 'and leaves nothing');

# An index that gets another name while it is waited for is found; the one that has its name then is left alone
outgrow();
$writer->query_safe('BEGIN; TABLE slow LIMIT 1');
vacuum('slow');
ok($node->poll_query_until('postgres',
		q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ivfpq reindex' AND wait_event = 'Extension')}),
	'the worker waits');
$node->safe_psql('postgres', q{
	ALTER INDEX slow_v RENAME TO slow_w;
	CREATE INDEX slow_v ON queries (id)});
my $file = $node->safe_psql('postgres', q{SELECT pg_relation_filenode('slow_v')});
$writer->query_safe('COMMIT');
wait_until_trained('slow_w', 'renamed meanwhile');
ok(wait_until_no_worker(), 'the worker ends');
is($node->safe_psql('postgres', q{SELECT pg_relation_filenode('slow_v')}), $file, 'the other index of that name is as it was');
ok(log_has(qr/LOG:  index public.slow_w has been rebuilt/), 'the log has the name');

# What is left of an index in whatever state is dropped, also where the index itself needs nothing, and a trigger runs SQL
$node->safe_psql('postgres', q{
	CREATE TABLE dropped (name text);
	CREATE FUNCTION note_dropped() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.dropped SELECT object_identity FROM pg_event_trigger_dropped_objects(); END $$;
	CREATE EVENT TRIGGER note_dropped ON sql_drop EXECUTE FUNCTION note_dropped();
	CREATE INDEX slow_w_ccold ON slow USING ivfpq (slowly(v)) WITH (autoreindex = off);
	CREATE INDEX slow_w_ccnew1 ON slow USING ivfpq (slowly(v)) WITH (autoreindex = off);
	UPDATE pg_index SET indisvalid = false, indisready = false, indislive = false WHERE indexrelid = 'slow_w_ccold'::regclass;
	UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'slow_w_ccnew1'::regclass});
is(vacuum('slow'), '', 'VACUUM says nothing of what is left');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_index WHERE indrelid = 'slow'::regclass}), 'it is dropped');
ok(wait_until_no_worker(), 'the worker ends');
is($node->safe_psql('postgres', 'SELECT string_agg(name, $$ $$ ORDER BY name) FROM dropped'),
	'public.slow_w_ccnew1 public.slow_w_ccold', 'and the trigger has noted it');
$node->safe_psql('postgres', 'DROP EVENT TRIGGER note_dropped');

# Invalid indexes that it has not made are left alone, and those of an index that it may not rebuild
$node->safe_psql('postgres', q{
	CREATE TABLE kept (id bigint, v real[], note int);
	CREATE INDEX kept_v ON kept USING ivfpq (v);
	CREATE INDEX kept_v_ccnew1 ON kept (id);
	CREATE INDEX kept_w ON kept USING ivfpq (v) WITH (autoreindex = off);
	CREATE INDEX kept_v_ccnewer ON kept USING ivfpq (v) WITH (autoreindex = off);
	CREATE INDEX kept_x ON kept USING ivfpq (v) WITH (autoreindex = off);
	CREATE INDEX kept_x_ccnew ON kept USING ivfpq (v) WITH (autoreindex = off);
	UPDATE pg_index SET indisvalid = false
	WHERE indexrelid IN ('kept_v_ccnew1'::regclass, 'kept_w'::regclass, 'kept_v_ccnewer'::regclass, 'kept_x_ccnew'::regclass)});
fill('kept', 12000);
vacuum('kept');
wait_until_trained('kept_v', 'beside invalid indexes');
ok(wait_until_no_worker(), 'the worker ends');
is(indexes('kept'), 'kept_v true, kept_v_ccnew1 false, kept_v_ccnewer false, kept_w false, kept_x true, kept_x_ccnew false',
	'indexes of others are left');

# One worker does all tables, as many as there may be
$node->safe_psql('postgres', q{
	CREATE TABLE parted (id bigint, v real[], note int) PARTITION BY HASH (id);
	SELECT format('CREATE TABLE parted_%s PARTITION OF parted FOR VALUES WITH (MODULUS 12, REMAINDER %s)', i, i)
	FROM generate_series(0, 11) i \gexec
	CREATE INDEX parted_v ON parted USING ivfpq (v)});
fill('parted', 150000);
like(vacuum('parted'), qr/is not trained/, 'VACUUM has partitions reindexed');
ok($node->poll_query_until('postgres', q{
		SELECT bool_and(lists > 1) FROM pg_inherits, ivfpq_index_info(inhrelid) WHERE inhparent = 'parted_v'::regclass}),
	'all are trained');
ok(wait_until_no_worker(), 'the workers end');
is($node->safe_psql('postgres', q{
		SELECT count(*), bool_and(indisvalid) FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE relname ~ '^parted_'}),
	'12|t', 'each has one index');

# A table that nobody has counted yet, and whose VACUUM goes on for a while after the worker has come
$node->safe_psql('postgres', q{
	CREATE TABLE uncounted (id bigint, v real[], note int, a varchar(10000), b varchar(10000), c varchar(10000));
	CREATE INDEX uncounted_v ON uncounted USING ivfpq (v);
	CREATE INDEX ON uncounted USING gin (v) WITH (gin_pending_list_limit = 2000000);
	INSERT INTO uncounted SELECT id, test_vector(id, 8), 0, 'a', 'b', 'c' FROM generate_series(1, 12000) id});
like(vacuum('uncounted'), qr/background worker rebuilds it/, 'VACUUM promises a worker');
wait_until_trained('uncounted_v', 'before its rows were counted');
ok(wait_until_no_worker(), 'the worker ends');

# A worker that waits hears that it is not wanted any more
$node->safe_psql('postgres', q{
	CREATE TABLE unwanted (id bigint, v real[], note int);
	CREATE INDEX unwanted_v ON unwanted USING ivfpq (v)});
fill('unwanted', 12000);
$writer->query_safe('BEGIN; SELECT count(*) FROM unwanted');
like(vacuum('unwanted'), qr/background worker rebuilds it/, 'VACUUM promises a worker');
ok($node->poll_query_until('postgres',
		q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ivfpq reindex' AND wait_event = 'Extension')}),
	'which waits');
$node->append_conf('postgresql.conf', 'ivfpq.autoreindex = off');
$node->reload;
sleep(2);
$writer->query_safe('COMMIT');
ok(wait_until_no_worker(), 'the worker ends');
ok(!is_trained('unwanted_v'), 'and has not rebuilt the index');
$node->append_conf('postgresql.conf', 'ivfpq.autoreindex = on');
$node->reload;

# It is no obstacle to who drops the database
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', q{
	CREATE EXTENSION vqpg;
	CREATE TABLE delays (delay float);
	CREATE FUNCTION slowly(v real[]) RETURNS real[] LANGUAGE plpgsql IMMUTABLE AS $$
		BEGIN PERFORM pg_sleep(delay) FROM public.delays; RETURN v; END $$;
	CREATE TABLE slow (v real[]);
	CREATE INDEX slow_v ON slow USING ivfpq (slowly(v));
	INSERT INTO slow SELECT ARRAY[i, sin(i)] FROM generate_series(1, 12000) i;
	INSERT INTO delays VALUES (0.01)});
$node->safe_psql('other', 'VACUUM slow');
ok($node->poll_query_until('other',
		q{SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = 'other' AND phase ~ 'sampling')}),
	'a slow build has begun');
is($node->safe_psql('postgres', 'DROP DATABASE other'), '', 'its database is dropped');

# By autovacuum, as rows come, and again as there are many more
$node->append_conf('postgresql.conf', "autovacuum = on\nautovacuum_naptime = 1s\n");
$node->restart;
$node->safe_psql('postgres', q{
	CREATE TABLE grown (id bigint, v real[], note int);
	CREATE INDEX grown_v ON grown USING ivfpq (v)});
fill('grown', 11000);
wait_until_trained('grown_v', 'autovacuum');
my $lists = $node->safe_psql('postgres', q{SELECT lists FROM ivfpq_index_info('grown_v')});
fill('grown', 180000);
ok($node->poll_query_until('postgres', qq{SELECT lists > $lists FROM ivfpq_index_info('grown_v')}),
	'and again when it has outgrown its lists');
ok(wait_until_no_worker(), 'the worker ends');
is(indexes('grown'), 'grown_v true', 'there is one index');
ok_check($node, 'grown_v', 'true', 'reindexed twice');

# The worker is not in the role that the database is set to, nor is it read only
{
	local $ENV{PGOPTIONS} = '-c role=none -c default_transaction_read_only=off';

	$node->append_conf('postgresql.conf', "autovacuum = off\n");
	$node->reload;
	$node->safe_psql('postgres', q{
		CREATE ROLE bystander;
		CREATE TABLE foreign_to_it (id bigint, v real[], note int);
		CREATE INDEX foreign_v ON foreign_to_it USING ivfpq (v)});
	fill('foreign_to_it', 12000);
	$node->safe_psql('postgres',
		'ALTER DATABASE postgres SET role = bystander; ALTER DATABASE postgres SET default_transaction_read_only = on');
	like(vacuum('foreign_to_it'), qr/HINT:  A background worker/, 'a worker for a table that the role does not own');
	wait_until_trained('foreign_v', 'settings of the database');
	ok(wait_until_no_worker(), 'and it ends');
	$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET ALL; DROP TABLE foreign_to_it; DROP ROLE bystander');
}

# Without a process to spare VACUUM says what to do
$node->append_conf('postgresql.conf', "autovacuum = off\nmax_worker_processes = 0\n");
$node->restart;
$node->safe_psql('postgres', q{
	CREATE TABLE alone (id bigint, v real[], note int);
	CREATE INDEX alone_v ON alone USING ivfpq (v)});
fill('alone', 12000);
like(vacuum('alone'), qr/HINT:  Use REINDEX.*max_worker_processes/, 'no worker to be had');

done_testing();
