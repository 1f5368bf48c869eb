#!/usr/bin/perl
#
# translate.pl IN.cu >OUT.cc
#   Rewrite what of CUDA is not C++, for the emulator: launches become calls of
#   emulated_launch, the dynamic shared array becomes a pointer.

use strict;
use warnings;

# Split at commas that are in no parentheses
sub split_arguments
{
	my ($text) = @_;
	my @parts = ('');
	my $depth = 0;

	for my $c (split //, $text)
	{
		$depth++ if $c eq '(';
		$depth-- if $c eq ')';
		if ($c eq ',' && $depth == 0)
		{
			push @parts, '';
		}
		else
		{
			$parts[-1] .= $c;
		}
	}
	return @parts;
}

sub launch
{
	my ($kernel, $configuration) = @_;
	my ($grid, $block, $shared_bytes, $stream) = split_arguments($configuration);

	return "emulated_launch($kernel, dim3($grid), dim3($block), $shared_bytes, $stream, ";
}

my $name = $ARGV[0];
local $/;
my $source = <>;

$source =~ s/extern __shared__ (\w+) (\w+)\[\];/$1 *$2 = ($1 *) emulated_shared;/g;
$source =~ s/(\w+(?:<\w+>)?)<<<(.*?)>>>\s*\(/launch($1, $2)/ges;
print qq(#line 1 "$name"\n$source);
