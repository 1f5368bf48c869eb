# ivfpq_check finds every kind of damage it claims to find, and says so with the
# right SQLSTATE.  Searches, inserts and vacuum of a damaged index may fail, or
# miss rows; they must not take the server down.
#
# The damage is done to the file while the server is down.  Layouts are those of
# ivfpq_page.h and vq_block.h.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VqpgTest;

my $dim = 32;
my $page_size = 8192;
my $contents = 24;

my $node = new_vqpg_node('main', no_data_checksums => 1);

create_vectors($node, 'items', 15000, $dim);
$node->safe_psql('postgres', q{
	CREATE INDEX items_v ON items USING ivfpq (v array_l2_ops, (id::int), id) WITH (lists = 300, m = 12, nbits = 4);
	CHECKPOINT;
});

my $path = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('items_v')");

sub read_file
{
	open my $file, '<:raw', $path or die "could not read $path: $!";
	local $/;
	return scalar <$file>;
}

sub write_file
{
	open my $file, '>:raw', $path or die "could not write $path: $!";
	print $file $_[0];
	close $file;
	return;
}

$node->stop;
my $sound = read_file();

# Where things are in the file
my ($dims, $lists, $m) = unpack 'x24 L L L', substr($sound, $contents, 40);
my ($mean, $centroids, $groups, $coarse_codebook, $coarse_codes, $codebook, $directory, $list_pages) =
  unpack 'L8', substr($sound, $contents + 48, 32);
my $projection = unpack 'L', substr($sound, $contents + 100, 4);

is_deeply([ $dims, $lists, $m ], [ $dim, 300, 12 ], 'metapage is where this test expects it');

sub address { my ($page, $offset) = @_; return $page * $page_size + $offset; }

# A row of the centroids, which have a byte or a float for each dimension
sub row_address
{
	my ($row) = @_;
	my $value_bytes = unpack('C', substr($sound, $contents + 41, 1)) == 1 ? 1 : 4;
	my $stride = 8 + 4 * int(($dim * $value_bytes + 3) / 4);
	my $rows_per_page = int(($page_size - $contents - 8) / $stride);

	return address($centroids + int($row / $rows_per_page), $contents + $row % $rows_per_page * $stride);
}

# Blocks of one list, by following its chain
sub blocks
{
	my ($list) = @_;
	my ($page, $offset) = unpack 'L x8 S', substr($sound, address($directory, $contents + 20 * $list), 20);
	my @blocks;

	while ($page != 0xFFFFFFFF)
	{
		my $at = address($page, $offset);
		my ($list_no, $next_page, $next_offset, $capacity, $used) = unpack 'L L S C C', substr($sound, $at, 12);

		die "the chain of list $list leads to list $list_no" if $list_no != $list;
		push @blocks,
		  { at => $at, page => $page, offset => $offset, capacity => $capacity, used => $used,
			a => $at + 12 + 12 * $capacity, tids => $at + 12 + 18 * $capacity };
		($page, $offset) = ($next_page, $next_offset);
	}
	return @blocks;
}

# The two longest lists
my ($list, $other) = (sort { blocks($b) <=> blocks($a) } 0 .. $lists - 1)[ 0, 1 ];
my @first = blocks($list);
my @second = blocks($other);
my $entry = address($directory, $contents + 20 * $list);
my $nan = pack 'f', 'nan';
my $last_page = length($sound) / $page_size - 1;

# A page of lists that has no block of the first
my %is_own = map { $_->{page} => 1 } @first;
my ($elsewhere) = grep { !$is_own{$_} } $second[-1]{page} + 1 .. $last_page, $second[0]{page};

cmp_ok(scalar @first, '>', 2, "list $list has several blocks");

# Name, message, address and new bytes
my @damages = (
	[ 'magic', qr/is not an ivfpq index/, $contents, pack('L', 1) ],
	[ 'format version', qr/unsupported format/, $contents + 4, pack('L', 77) ],
	[ 'number of attributes', qr/There are 1 attributes/, $contents + 42, pack('C', 1) ],
	[ 'more attributes than columns', qr/Entries have 3 attributes/, $contents + 42, pack('C', 3) ],
	[ 'too many attributes', qr/There are 99 attributes/, $contents + 42, pack('C', 99) ],
	[ 'width of an attribute', qr/Attribute 1 has 8 bytes/, $contents + 43, pack('C', 1) ],
	[ 'metric', qr/Metric 9/, $contents + 39, pack('C', 9) ],
	[ 'metric of another class', qr/Metric 2 is not that of the operator class/, $contents + 39, pack('C', 2) ],
	[ 'dimension', qr/block 0|at block/, $contents + 24, pack('L', 0xFFFF) ],
	[ 'number of lists', qr/at block 0/, $contents + 28, pack('L', 0xFFFFFF) ],
	[ 'sub-quantisers', qr/at block/, $contents + 32, pack('L', 7) ],
	[ 'codec', qr/Codec 7/, $contents + 38, pack('C', 7) ],
	[ 'start of the mean', qr/at block/, $contents + 48, pack('L', 2) ],
	[ 'start of the groups', qr/at block 0/, $contents + 56, pack('L', $groups - 1) ],
	[ 'start of the projection', qr/at block 0/, $contents + 100, pack('L', $projection - 1) ],
	[ 'no projection', qr/at block 0/, $contents + 100, pack('L', 0xFFFFFFFF) ],
	[ 'scale of errors', qr/Errors are multiplied/, $contents + 88, pack('f', 0) ],
	[ 'no list to search', qr/are to read 0/, $contents + 204, pack('L', 0) ],
	[ 'a rank beyond the lists', qr/distance of list 4000000000/, $contents + 240, pack('L f f', 4000000000, 0.3, 3) ],
	[ 'a power that is none', qr/a power of (nan|NaN)/i, $contents + 240, pack('L f f', 4, 0.3, 'nan') ],
	[ 'an infinite mean', qr/a mean of inf/i, $contents + 240, pack('L f f', 4, 'inf', 3) ],
	[ 'fewer lists for more recall', qr/are to read 0/, $contents + 208, pack('L', 0) ],
	[ 'more lists than there are', qr/are to read 301/, $contents + 236, pack('L', 301) ],
	[ 'start of the lists', qr/at block 0/, $contents + 76, pack('L', $list_pages + 1) ],
	[ 'number of groups', qr/at block/, $contents + 84, pack('L', 18) ],
	[ 'no groups', qr/at block 0/, $contents + 84, pack('L', 0) ],
	[ 'page id', qr/not one of an ivfpq index/, address($list_pages + 1, $page_size - 2), pack('S', 0) ],
	[ 'page kind', qr/kind 3, but kind 4/, address($list_pages + 1, $page_size - 4), pack('S', 3) ],
	[ 'mean', qr/Value 3 of the mean/, address($mean, $contents + 12), $nan ],
	[ 'codebook', qr/of the codebook/, address($codebook, $contents + 40), $nan ],
	[ 'step of a direction', qr/projection has steps/, address($projection, $contents + 8), pack('f', -1) ],
	[ 'centroid', qr/centroid of list 0 /, address($centroids, $contents + 4), $nan ],
	[ 'centre of a group', qr/centre of group 2 /, row_address(302) + 4, $nan ],
	[ 'border of groups', qr/borders of 17 groups/, address($groups, $contents + 4), pack('L', 250) ],
	[ 'end of groups', qr/borders of 17 groups/, address($groups, $contents + 4 * 17), pack('L', 301) ],
	[ 'border of groups elsewhere', qr/codes of the centroids of group 0 /, address($groups, $contents + 4),
		pack('L', unpack('L', substr($sound, address($groups, $contents + 4), 4)) - 1) ],
	[ 'codebook of centroids', qr/of the codebook of centroids/, address($coarse_codebook, $contents + 40), $nan ],
	[ 'code of a centroid', qr/codes of the centroids/, address($coarse_codes, $contents + 10), pack('C', 16) ],
	[ 'slots of centroid codes', qr/codes of the centroids/, address($coarse_codes, $contents + 10), pack('C', 255) ],
	[ 'codes of another list', qr/codes of the centroids of group 0 /,
		address($coarse_codes, $contents + 12 + 6 * 32), pack('S S S', 0, 7, 1) ],
	[ 'end of contents', qr/At offset/, address($list_pages, 12),
		pack('S', unpack('S', substr($sound, address($list_pages, 12), 2)) - 4) ],
	[ 'end of contents askew', qr/Contents end at/, address($last_page, 12),
		pack('S', unpack('S', substr($sound, address($last_page, 12), 2)) + 2) ],
	[ 'capacity', qr/block capacity/, $first[0]{at} + 10, pack('C', 33) ],
	[ 'used slots', qr/more slots are used/, $first[0]{at} + 11, pack('C', 200) ],
	[ 'entry above used', qr/only 3 were ever used/, $first[0]{at} + 11, pack('C', 3) ],
	[ 'list number out of range', qr/list number/, $first[0]{at}, pack('L', 300) ],
	[ 'list number of another list', qr/(is of list|chain)/, $first[1]{at}, pack('L', $other) ],
	[ 'factor', qr/factor A/, $first[0]{a} + 8, $nan ],
	[ 'successor before', qr/does not come after it/, $first[1]{at} + 4, pack('L S', $first[0]{page}, $first[0]{offset}) ],
	[ 'successor itself', qr/does not come after it/, $first[1]{at} + 4, pack('L S', $first[1]{page}, $first[1]{offset}) ],
	[ 'successor skips a block', qr/(goes on at|no block of it)/, $first[0]{at} + 4, pack('L S', $first[2]{page}, $first[2]{offset}) ],
	[ 'successor beyond the file', qr/(goes on at|no block of it)/, $first[-1]{at} + 4, pack('L S', $last_page + 5, $contents) ],
	[ 'successor in another segment', qr/(goes on at|no block of it)/, $first[-1]{at} + 4, pack('L S', 131072, $contents) ],
	[ 'head in another segment', qr/(goes on at|no block of it)/, $entry, pack('L', 131072) ],
	[ 'chain cut', qr/has ended/, $first[1]{at} + 4, pack('L S', 0xFFFFFFFF, 0) ],
	[ 'head elsewhere', qr/(goes on at|no block of it)/, $entry, pack('L', $elsewhere) ],
	[ 'end of the directory', qr/(directory ends at|directory entries)/, address($directory, 12), pack('S', $contents + 20) ],
	[ 'end of the metapage', qr/metapage ends/, address(0, 12), pack('S', $contents + 20) ],
	[ 'head lost', qr/List $list has \d+ blocks/, $entry, pack('L', 0xFFFFFFFF) ],
	[ 'number of blocks', qr/directory entry says/, $entry + 8, pack('L', 1) ],
	[ 'hint', qr/hint of list $list /, $entry + 4, pack('L', $last_page + 9) ],
	[ 'hint lost', qr/List $list has \d+ blocks, .*hint/, $entry + 4, pack('L', 0xFFFFFFFF) ],
	[ 'row twice', qr/contains a row twice/, $first[0]{tids} + 6, substr($sound, $first[1]{tids}, 6) ],
	[ 'row of no block', qr/points to no block/, $first[0]{tids}, pack('S S S', 0xFFFF, 0xFFFF, 1) ],
	[ 'row beyond the table', qr/does not exist/, $first[0]{tids}, pack('S S S', 0, 0x7FFF, 1) ],
	[ 'page of zeroes', qr/(goes on at|no block of it)/, address($first[0]{page}, 0), "\0" x $page_size ],
	[ 'page of noise', qr/(invalid page|at block)/, address($first[0]{page}, 0),
		join('', map { pack 'L', ($_ * 2654435761) % 4294967296 } 1 .. $page_size / 4) ]);
my @only_heap = ([ 'lost row', qr/lacks a row/, $first[0]{tids}, pack('S S S', 0xFFFF, 0xFFFF, 0) ]);


# What only the comparison of codes finds
my $codes = $first[0]{at} + 12 + 25 * $first[0]{capacity};
my @only_codes = (
	[ 'rows exchanged', qr/entry that does not stand for its row.*attribute 1 is/s, $first[0]{tids},
		substr($sound, $first[0]{tids} + 6, 6) . substr($sound, $first[0]{tids}, 6) ],
	[ 'codes', qr/entry that does not stand for its row.*is another's/s, $codes, "\xA5" x (6 * $first[0]{capacity}) ],
	[ 'attribute', qr/attribute 1 is -77 and not/, $first[0]{at} + 12, pack('l', -77) ],
	[ 'factor A', qr/factor A is/, $first[0]{a}, pack('f', 2 + unpack('f', substr($sound, $first[0]{a}, 4))) ],
	[ 'factor S', qr/factor S is/, $first[0]{a} + 4 * $first[0]{capacity}, pack('S', 60000) ],
	[ 'factor S of 0', qr/factor S is/, $first[0]{a} + 4 * $first[0]{capacity}, pack('S', 0) ],
	[ 'factor E', qr/factor E is/, $first[0]{at} + 12 + 24 * $first[0]{capacity}, pack('C', 255) ],
	[ 'factor E of 0', qr/factor E is/, $first[0]{at} + 12 + 24 * $first[0]{capacity}, pack('C', 0) ],
	[ 'seed', qr/entry that does not stand for its row/, $contents + 16, pack('L', 4711) ]);

sub check_error
{
	my ($heap_all_indexed, $codes) = @_;
	my ($code, $out, $err) = $node->psql('postgres',
		"\\set VERBOSITY verbose\nSELECT ivfpq_check('items_v', $heap_all_indexed, " . ($codes // 'false') . ')');

	return $err;
}

# Statements that meet the damage by chance.  What they write is rolled back, so
# the table still fits the sound index afterwards.
sub ok_survives
{
	my ($name) = @_;

	for my $statement (
		"SELECT id FROM items ORDER BY v <-> test_vector(1, $dim) LIMIT 10",
		"SELECT id FROM items WHERE id IN (77, 78) AND id::int > 5 ORDER BY v <-> test_vector(1, $dim) LIMIT 10",
		"SELECT count(*) FROM (SELECT id FROM items ORDER BY v <-> test_vector(1, $dim) OFFSET 0) s",
		"SELECT * FROM ivfpq_index_info('items_v')",
		"SELECT * FROM ivfpq_list_info('items_v')",
		"SELECT ivfpq_reconstruct('items_v', '(3,4)')",
		"BEGIN; INSERT INTO items SELECT i, test_vector(i, $dim), 0 FROM generate_series(10001, 10100) i; ROLLBACK",
		'VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF) items')
	{
		my ($code, $out, $err) = $node->psql('postgres', $statement, extra_params =>
			  [ '-v', 'ON_ERROR_STOP=0' ]);

		unlike($err, qr/(server closed|connection|timeout|PANIC)/, "$name: server survives $statement");
		unlike($err, qr/could not (read block|open file)/, "$name: $statement reads no page that does not exist")
		  if $name ne 'row beyond the table';
	}
	return;
}

$node->append_conf('postgresql.conf', "enable_seqscan = off\nstatement_timeout = 20s\n");

for my $damage (@damages, @only_heap)
{
	my ($name, $message, $address, $bytes) = @$damage;
	my $damaged = $sound;

	substr($damaged, $address, length $bytes) = $bytes;
	write_file($damaged);
	$node->start;

	my $error = check_error('true');

	like($error, $message, "$name: found");
	like($error, qr/(XX00[12]|0A000)/, "$name: has the SQLSTATE of damage");
	if ($name eq 'format version')
	{
		for my $statement ("SELECT id FROM items ORDER BY v <-> test_vector(1, $dim) LIMIT 10",
			"INSERT INTO items SELECT -1, test_vector(1, $dim), 0", 'VACUUM (INDEX_CLEANUP ON) items')
		{
			my ($code, $out, $err) = $node->psql('postgres', $statement);

			like($err, qr/unsupported format.*REINDEX/s, "$name: told by $statement");
		}
	}
	is(check_error('false'), '', "$name: found with heapallindexed only")
	  if grep { $_ == $damage } @only_heap;
	my $size = $node->safe_psql('postgres', q{SELECT pg_relation_size('items')});

	$node->psql('postgres', "SELECT count(*) FROM (SELECT id FROM items ORDER BY v <-> test_vector(1, $dim) OFFSET 0) s");
	is($node->safe_psql('postgres', q{SELECT pg_relation_size('items')}), $size, "$name: a search leaves the table alone");
	ok_survives($name);
	$node->stop;
}

for my $damage (@only_codes)
{
	my ($name, $message, $address, $bytes) = @$damage;
	my $damaged = $sound;

	substr($damaged, $address, length $bytes) = $bytes;
	write_file($damaged);
	$node->start;
	is(check_error('true'), '', "$name: not found without a comparison of codes");
	like(check_error('false', 'true'), $message, "$name: found by it");
	$node->stop;
}

write_file($sound);
$node->start;
is(check_error('true', 'true'), '', 'the sound file is sound');
$node->stop;

# A crash between extending the file and logging the page leaves a page of zeroes at its end.  That is no
# damage: all pass over it, and the next insert in need of a page takes it.
write_file($sound . "\0" x $page_size);
$node->start;
is(check_error('true'), '', 'a page of zeroes at the end is no damage');
for my $statement (
	"SELECT * FROM ivfpq_index_info('items_v')",
	'DELETE FROM items WHERE id % 100 = 0',
	'VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF) items',
	"INSERT INTO items SELECT id, test_vector(1, $dim), 0 FROM generate_series(20001, 20250) id")
{
	my ($code, $out, $err) = $node->psql('postgres', $statement);

	is($err, '', "a page of zeroes at the end: $statement");
}
is(check_error('true'), '', 'a page of zeroes that was taken');
is($node->safe_psql('postgres', q{SELECT pg_relation_size('items_v')}), length($sound) + $page_size, 'no other page was added');
$node->safe_psql('postgres', 'DELETE FROM items WHERE id > 20000');
$node->stop;

# REINDEX cures what the metapage says, too
my $noise = $sound;

substr($noise, $contents, 100) = 'x' x 100;
write_file($noise);
$node->start;
$node->safe_psql('postgres', 'REINDEX INDEX items_v');
is(check_error('true'), '', 'REINDEX cures a damaged metapage');
ok_finds_every_row($node, 'items', $dim, 'after REINDEX');

$node->stop;

# An index without codes has no groups, and does not grow where it says so
$node->start;
$node->safe_psql('postgres', q{
	CREATE TABLE few (id int, v real[]);
	INSERT INTO few SELECT i, ARRAY[i, 1] FROM generate_series(1, 20) i;
	CREATE INDEX few_v ON few USING ivfpq (v);
	CHECKPOINT});
$path = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('few_v')");
$node->stop;
$sound = read_file();
for my $groups (5, 0xFFFFFFFF)
{
	my $damaged = $sound;

	substr($damaged, $contents + 84, 4) = pack('L', $groups);
	write_file($damaged);
	$node->start;
	for my $statement (
		"SELECT ivfpq_check('few_v')",
		"SELECT id FROM few ORDER BY v <-> '{1,1}' LIMIT 1",
		"INSERT INTO few VALUES (1, '{1,2}')")
	{
		my ($code, $out, $err) = $node->psql('postgres', $statement);

		like($err, qr/ERROR:.*damaged|ERROR:.*corrupt|Code parameters are set without a codec/s, "$groups groups without codes: $statement");
	}
	is($node->safe_psql('postgres', "SELECT pg_relation_size('few_v')"), length($sound), 'the index does not grow');
	$node->stop;
}
write_file($sound);

# A session that has read an index is told of damage that comes later
$node->append_conf('postgresql.conf', "shared_buffers = '1MB'\nautovacuum = off\n");
$node->start;
$node->safe_psql('postgres', q{
	CREATE TABLE wide (id int, v real[]);
	INSERT INTO wide SELECT id, test_vector(id, 1500) FROM generate_series(1, 600) id;
	CREATE INDEX wide_v ON wide USING ivfpq (v) WITH (lists = 5, rotation = none);
	CREATE TABLE filler AS SELECT id, repeat('x', 500) AS text FROM generate_series(1, 20000) id;
	CREATE INDEX ON filler (id);
	CHECKPOINT});
$path = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('wide_v')");

my $session = $node->background_psql('postgres', on_error_stop => 0);
my $read_all = 'SET enable_bitmapscan = off; SELECT sum(length(text)) FROM (SELECT text FROM filler ORDER BY id) s';

$session->query_safe("SELECT id FROM wide ORDER BY v <-> test_vector(1, 1500) LIMIT 1");
$session->query_safe($read_all);
$sound = read_file();
substr($sound, $contents + 32, 4) = pack('L', 24);
write_file($sound);
$session->query("INSERT INTO wide SELECT id, test_vector(id, 1500) FROM generate_series(1, 500) id");
is($session->query('SELECT 1'), '1', 'the session goes on when m is another suddenly');
$session->quit;
is($node->safe_psql('postgres', 'SELECT count(*) > 0 FROM wide'), 't', 'and so does the server');

# What is refused, and why
for my $refusal (
	[ 'items_pkey', qr/"items_pkey" is not an ivfpq index/ ],
	[ 'items', qr/"items" is not an index/ ],
	[ 'parts_v', qr/"parts_v" is not an ivfpq index.*Name the index of a partition/s ],
	[ 'broken_v', qr/The index is not valid/ ])
{
	my ($index, $message) = @$refusal;

	$node->psql('postgres', q{
		CREATE TABLE IF NOT EXISTS parts (v real[]) PARTITION BY RANGE (v);
		CREATE INDEX IF NOT EXISTS parts_v ON parts USING ivfpq (v array_l2_ops);
		CREATE TABLE IF NOT EXISTS broken (v real[]);
		INSERT INTO broken VALUES ('{1,2}'), ('{1,2,3}');
	});
	$node->psql('postgres', 'CREATE INDEX CONCURRENTLY broken_v ON broken USING ivfpq (v array_l2_ops)')
	  if $index eq 'broken_v';

	my ($code, $out, $err) = $node->psql('postgres', "SELECT ivfpq_check('$index')");

	like($err, $message, "ivfpq_check refuses $index");
}

done_testing();
