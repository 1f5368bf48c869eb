#!/bin/bash
#
# test/check_layers.sh [arrows|headers]
#   Does the code keep to its layers?  Prints each claim that does not hold,
#   with the lines that break it, and how many do and do not.
#
#     src/*.c              SQL surface
#     src/am   callbacks   what the server calls
#     src/am   pages       the only callers of the buffer manager and of WAL
#     src/base             settings, SQL types, differences between versions
#     src/gpu              the GPU plug-in and its loader: plain C outside of .cu
#     src/kernels          plain C
#
# "arrows": files include only what is below them.  "headers": every header
# compiles alone.  Without an argument, both.

set -u
cd "$(dirname "$0")/.." || exit 1

PG_CONFIG=${PG_CONFIG:-pg_config}
CC=${CC:-cc}
part=${1:-all}
passed=0
failed=0

# claim TEXT BAD_LINES: it holds if there are none
claim()
{
	if [ -z "$2" ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		printf 'FAILED: %s\n%s\n' "$1" "$2"
	fi
}

# includes FILE...: "file:line: included", for headers of this project only,
# which are those that exist below src/
includes()
{
	awk 'match($0, /^[ \t]*#[ \t]*include[ \t]*"[^"]*"/) {
		name = $0
		sub(/^[^"]*"/, "", name)
		sub(/".*/, "", name)
		if ((getline line < ("src/" name)) >= 0)
			print FILENAME ":" FNR ": " name
		close("src/" name)
	}' "$@"
}

# all_includes FILE...: the same for every header, <> kept
all_includes()
{
	awk 'match($0, /^[ \t]*#[ \t]*include[ \t]*["<][^">]*[">]/) {
		name = substr($0, RSTART, RLENGTH)
		sub(/^[^"<]*/, "", name)
		gsub(/"/, "", name)
		print FILENAME ":" FNR ": " name
	}' "$@"
}

# Standard headers that every kernel file may use; what asks or drives the
# processor is for the files named below only
standard='<(stdatomic|stdbool|stddef|stdint|float|limits|math|string|assert|inttypes)\.h>'

page_files=()
for name in meta buffer array list writer inspect toast; do
	[ -f "src/am/ivfpq_$name.c" ] && page_files+=("src/am/ivfpq_$name.c")
done
mapfile -t callback_files < <(ls src/am/*.c | grep -vxF "$(printf '%s\n' "${page_files[@]}")")

check_arrows()
{
	claim 'kernels include only kernels and standard headers' \
		"$(all_includes src/kernels/*.[ch] |
			grep -vE "^[^ ]*: (kernels/[a-z0-9_]+\.h|$standard)\$" |
			grep -vE '^src/kernels/vq_kernels_(avx2(_scan)?\.c|avx2\.h|avx512(_scan|_vbmi|_vnni|_amx)?\.c|avx512\.h):[0-9]*: <immintrin\.h>$|^src/kernels/vq_kernels_neon((_scan|_dotprod)?\.c|\.h):[0-9]*: <arm_neon\.h>$|^src/kernels/vq_cpu\.c:[0-9]*: <(cpuid|sys/auxv|sys/syscall|unistd)\.h>$')"
	claim 'kernels do not allocate, print or end the process' \
		"$(grep -nE '\b(malloc|calloc|realloc|free|alloca|printf|fprintf|puts|abort|exit) *\(' src/kernels/*.[ch])"
	claim 'src/base includes only src/base and kernels' \
		"$(includes src/base/*.[ch] | grep -vE ': (base|kernels)/')"
	claim 'ivfpq_page.h includes no other header of the project, as tools include it alone' \
		"$(includes src/am/ivfpq_page.h)"
	claim 'pages move bytes: of the kernels they see blocks and types' \
		"$(includes "${page_files[@]}" | grep -vE ': (am/ivfpq(_page|_toast)?\.h|base/.*|kernels/vq_(base|block|codec)\.h)$')"
	claim 'src/am includes nothing of the SQL surface, and of src/gpu what is plain C' \
		"$(includes src/am/*.[ch] | grep -vE ': (am|base|kernels)/|: gpu/vq_gpu(_loader|_cluster)?\.h$')"
	claim 'src/gpu includes kernels, but no server and, outside of .cu, no CUDA' \
		"$(includes src/gpu/* | grep -vE ': (gpu|kernels)/'
			all_includes src/gpu/*.[ch] | grep -E ': <?(cu[a-z]|postgres)'
			all_includes src/gpu/* | grep -E ': <?postgres')"
	claim 'only the page files call the buffer manager and WAL' \
		"$(grep -nE '\b(ReadBuffer|LockBuffer|ConditionalLockBuffer|UnlockReleaseBuffer|ExtendBuffered|MarkBufferDirty|GenericXLog|XLogInsert|log_newpage|smgr(read|write|extend))[A-Za-z]*\(' \
			"${callback_files[@]}" src/*.c src/base/*.[ch])"
	claim 'only PostgreSQL files include postgres.h, and they do it first' \
		"$(for file in src/*.c src/am/*.[ch] src/base/*.[ch]; do
			first=$(all_includes "$file" | head -n 1)
			case $first in *': postgres.h' | *': am/'*) ;; *) echo "$file: ${first##*: }" ;; esac
		done)"
	claim 'nothing is compiled for the machine it is compiled on' \
		"$(grep -nE -- '-march=native|-ffast-math' Makefile)"
	claim 'lines are indented by tabs, and end without a space' \
		"$(grep -nP '[ \t]$|^\t* +\t|^ {4}' src/*.c src/*/*.[ch] test/*/*.[ch] bench/*.[ch])"
	claim 'every file opens with its name' \
		"$(for file in src/*.c src/*/*.[ch]; do
			sed -n 3p "$file" | grep -qxF " * $(basename "$file")" || echo "$file"
		done)"
}

check_headers()
{
	local header output
	local server
	server=$("$PG_CONFIG" --includedir-server) || exit 1

	for header in src/kernels/*.h src/gpu/*.h; do
		output=$(echo "#include \"${header#src/}\"" |
			$CC -std=c11 -Wall -Wextra -Werror -fsyntax-only -Isrc -x c - 2>&1)
		claim "$header compiles alone, without a server" "$output"
	done
	for header in src/base/*.h src/am/*.h; do
		output=$(echo "#include \"${header#src/}\"" |
			$CC -Wall -Werror -fsyntax-only -Isrc -isystem "$server" -x c - 2>&1)
		claim "$header compiles alone" "$output"
	done
}

case $part in
	arrows) check_arrows ;;
	headers) check_headers ;;
	all) check_arrows; check_headers ;;
	*) echo "usage: $0 [arrows|headers]" >&2; exit 2 ;;
esac

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
