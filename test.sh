#!/bin/bash
#
# ./test.sh [PART...]
#   Everything that shows whether vqpg works: builds it with warnings as errors
#   and runs all tests, or the parts named.
#
#     build      compiles without a warning
#     layers     includes point downwards, headers compile alone
#     unit       unit tests of src/kernels under address and UB sanitizer
#     arm        the same, compiled for 64-bit Arm and run by an emulator
#     x86        the same, with the kernels of all x86 processors, AVX-512 too, whatever
#                this one has: their instructions are computed in C
#     gpu        the GPU plug-in compiles for all devices; its programs work against
#                a stand-in.  Needs no GPU; without nvcc, only the latter
#     fuzz       a short fuzz of src/kernels
#     bench      the benchmark's commands work, on a few rows; it measures nothing
#     regress    SQL tests
#     sanitize   SQL tests with the extension under the UB sanitizer
#     isolation  tests of concurrent sessions
#     tap        crash, replication, recall: tests that start servers of their own
#     vector     SQL tests with pgvector's types.  Where this machine's Debian has no
#                pgvector for the server, these, regress, isolation and some of tap in a
#                tree of Debian 13, with PostgreSQL 17; that takes root, and a machine
#                that lets it make namespaces
#
# On Debian, run as root, it installs what is missing; else it says what that
# is.  It works on a copy of the sources in a folder of its own, with servers of
# its own and the extension installed into a folder of its own, all removed at
# the end (KEEP=1 keeps them).  FUZZ_SECONDS is the time for each fuzz target, and
# TAP_TESTS names those of tap that are to run, all by default (test/t/001_standby.pl ...).
#
# The last line says "N passed, N failed", over all parts; the exit status is 0
# if none failed.

set -u
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
. scripts/common.sh

all_parts=(build layers unit arm x86 gpu fuzz bench regress isolation tap vector sanitize)
parts=("$@")
[ $# -gt 0 ] || parts=("${all_parts[@]}")
for part in "${parts[@]}"; do
	[[ " ${all_parts[*]} " == *" $part "* ]] || die "there is no part \"$part\", only: ${all_parts[*]}"
done

need_postgres
clang=$(sed -n 's/^CLANG *= *//p' "$(dirname "$("$PG_CONFIG" --pgxs)")/../Makefile.global")
clang=${clang:-clang}
need_packages libipc-run-perl binutils
if [[ " ${parts[*]} " == *" fuzz "* && $clang =~ clang-([0-9]+)$ ]]; then
	need_packages "clang-${BASH_REMATCH[1]}" "libclang-rt-${BASH_REMATCH[1]}-dev"
fi

if [[ " ${parts[*]} " == *" arm "* && $(uname -m) != aarch64 ]]; then
	need_packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
fi
if [[ " ${parts[*]} " == *" x86 "* ]]; then
	need_packages libsimde-dev
fi

if [[ " ${parts[*]} " == *" bench "* ]]; then
	need_packages python3-numpy python3-psycopg libpq-dev
fi

work=$(make_work_dir vqpg-test) || exit 1
src=$work/src
logs=$work/logs
total_passed=0
total_failed=0
summary=

cleanup()
{
	local pid_file

	# An interrupted TAP test leaves its servers behind
	find "$work" -name postmaster.pid 2>/dev/null | while read -r pid_file; do
		run_unprivileged "$PG_BINDIR/pg_ctl" -D "$(dirname "$pid_file")" -m immediate stop >/dev/null 2>&1
	done
	if [ -n "${KEEP:-}" ]; then
		echo "kept: $work"
	else
		rm -rf "$work"
	fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

mkdir -p "$logs"
copy_sources "$src" || die "could not copy the sources"
rm -rf "$src/.build"
if [ "$(id -un)" != "$VQPG_USER" ]; then
	chown -R "$VQPG_USER" "$src"
fi

in_copy()
{
	run_unprivileged env PG_CONFIG="$PG_CONFIG" TEMP_CONFIG="$work/server.conf" \
		make -C "$src" --no-print-directory KERNEL_WARNINGS='-Wall -Wextra -Werror' "$@"
}

# What the extension's server code is held to: all that gcc can warn of, but for
# what callbacks with a given signature and the server's macros cannot avoid
server_warnings='-Werror -Wextra -Wno-unused-parameter -Wno-sign-compare'

run_build()
{
	in_copy -j "$(nproc)" all COPT="$server_warnings" &&
		in_copy install COPT="$server_warnings" DESTDIR="$work/installed" &&
		echo "1 passed, 0 failed"
}

run_layers()
{
	run_unprivileged env PG_CONFIG="$PG_CONFIG" "$src/test/check_layers.sh"
}

# The micro-benchmarks are only compiled: how fast they find anything proves nothing here
run_unit()
{
	local file benches=()

	for file in "$src"/bench/bench_*.c; do
		benches+=(".build/bench/$(basename "$file" .c)")
	done
	in_copy -j "$(nproc)" .build/unit/run "${benches[@]}" && in_copy unit
}

# Where the machine is one, "unit" is all there is to run
run_arm()
{
	if [ "$(uname -m)" = aarch64 ]; then
		run_unit
	else
		in_copy -j "$(nproc)" .build/arm/run && in_copy unit-arm
	fi
}

run_x86()
{
	in_copy -j "$(nproc)" .build/x86/run && in_copy unit-x86
}

# Make a target and count it
count_make()
{
	if in_copy "$@"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: make $*"
	fi
}

# A model is off by one place, from float FIRST of its file for COUNT of them: what
# it finds, or what that costs, must be worse than what make gpu-recall allows
count_bad_model()
{
	local what=$1 first=$2 count=$3 gpu=$src/.build/gpu status

	run_unprivileged cp "$gpu/device.model" "$gpu/bad.model"
	run_unprivileged dd if="$gpu/device.model" of="$gpu/bad.model" bs=4 conv=notrunc status=none \
		skip="$first" seek=$((first + 1)) count="$count"
	run_unprivileged "$gpu/gpu_recall" 8000x24 300x24:2 "$gpu/double/vqpg_cuda.so" "$gpu/cpu.model" \
		"$gpu/double/vqpg_cuda.so" "$gpu/bad.model"
	status=$?
	if [ $status -eq 1 ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: a model with bad $what ends gpu_recall with status $status"
	fi
}

# On a machine with a GPU, "make gpu-check" compares the plug-in itself with src/kernels
run_gpu()
{
	local passed=0 failed=0 nvcc exported

	nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
	if [ -n "$nvcc" ]; then
		count_make vqpg_cuda.so WITH_CUDA=yes
		exported=$(nm -D --defined-only "$src/vqpg_cuda.so" | awk '{print $NF}')
		if [ "$exported" = vq_gpu_interface ]; then
			passed=$((passed + 1))
		else
			failed=$((failed + 1))
			echo "FAILED: vqpg_cuda.so exports $exported"
		fi
		count_make .build/gpu/gpu_ceilings
	else
		echo "GPU part: vqpg_cuda.so is not compiled, as there is no nvcc here"
	fi
	count_make gpu-all GPU_LIBRARY=.build/gpu/double/vqpg_cuda.so GPU_CHECK_ARGS=--small GPU_CHECK_PARTS=3 \
		GPU_BENCH_ARGS="--scale 0.0005 --case 0 --no-tiles" GPU_STAGES="gpu-programs gpu-bench gpu-check gpu-recall" \
		gpu_base=8000x24 gpu_queries=300x24:2 GPU_TRAIN_ARGS='--lists 40' GPU_RECALL_ARGS=
	count_make gpu-check GPU_LIBRARY=.build/gpu/emulated/vqpg_cuda.so GPU_CHECK_ARGS=--small
	count_make gpu-recall GPU_LIBRARY=.build/gpu/emulated/vqpg_cuda.so \
		gpu_base=8000x24 gpu_queries=300x24:2 GPU_TRAIN_ARGS='--lists 40 --projection yes' GPU_RECALL_ARGS=
	count_make gpu-recall GPU_LIBRARY=.build/gpu/emulated/vqpg_cuda.so \
		gpu_base=8000x24 gpu_queries=300x24:2 GPU_TRAIN_ARGS='--lists 40' GPU_RECALL_ARGS=

	# Floats of the file: a header like 12, 24 of the mean, 40 x 24 centroids, 12 x 2 x 16 of the codebook
	count_bad_model centroids 36 959
	count_bad_model codebook 996 383
	echo "$passed passed, $failed failed"
	[ $failed -eq 0 ]
}

run_fuzz()
{
	local file name passed=0 failed=0

	for file in "$src"/test/fuzz/fuzz_*.c; do
		name=$(basename "$file" .c)
		if in_copy -j "$(nproc)" "fuzz-${name#fuzz_}" FUZZ_CC="$clang" FUZZ_SECONDS="${FUZZ_SECONDS:-10}" 2>&1; then
			passed=$((passed + 1))
		else
			failed=$((failed + 1))
		fi
	done
	echo "$passed passed, $failed failed"
	[ $failed -eq 0 ]
}

# Tests that expect VACUUM to remove rows, or an index to stay as it is, are not for a server that does it by itself
# (nor for one with autovacuum off, where from 18 on CREATE INDEX counts no rows)
steady=("autovacuum_naptime = 1d")

# A server that SQL and isolation tests share; once
need_cluster()
{
	[ ! -f "$work/cluster/data/postmaster.pid" ] || return 0
	mapfile -t lines <"$work/server.conf"
	start_cluster "$work/cluster" "${lines[@]}" "${steady[@]}"
}

# A command of the benchmark prints a line like this pattern; in run_bench
count_bench()
{
	local pattern=$1

	shift
	run_unprivileged "$src/bench/bench.py" "$@" 2>&1 | tee "$logs/bench.report"
	if [ "${PIPESTATUS[0]}" -eq 0 ] && grep -Eq "$pattern" "$logs/bench.report"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: bench.py $*"
	fi
}

run_bench()
{
	local passed=0 failed=0 set=$work/bench/set
	local places=(--work-dir "$work/bench" --results "$work/bench")

	need_cluster
	run_unprivileged mkdir -p "$work/bench"
	count_bench '^wrote 3,000 rows of 8 dimensions' make --rows 3000 --dim 8 --seed 1 --queries 20 --truth l2 "$set"
	count_bench '^list imbalance  *1\.' shape "$set"
	# the last line: build, size, queries/s at recall .90 and the nprobe of it
	count_bench '^ivfpq +[0-9.]+ +[0-9.]+ kB +[0-9]+ +8 ' run "$set" --use-server --systems ivfpq --nprobe 8 --seconds 0.1 \
		--queries 20 --filter 10 --inserts 0.1 "${places[@]}"
	echo "$passed passed, $failed failed"
	[ $failed -eq 0 ]
}

# Counts from pg_regress's report: one line for each test, as TAP from 16 on
count_regress()
{
	awk '/^test .* \.\.\. ok / || /^ok [0-9]/ {passed++}
		/^test .* \.\.\. (FAILED|failed)/ || /^not ok / {failed++}
		END {printf "%d passed, %d failed\n", passed, failed}' "$1"
}

run_regress()
{
	local status

	need_cluster
	in_copy installcheck 2>&1 | tee "$logs/regress.report"
	status=${PIPESTATUS[0]}
	[ "$status" -eq 0 ] || cat "$src/.regress/regression.diffs"
	count_regress "$logs/regress.report"
	return "$status"
}

run_isolation()
{
	local status

	need_cluster
	in_copy isolation 2>&1 | tee "$logs/isolation.report"
	status=${PIPESTATUS[0]}
	[ "$status" -eq 0 ] || cat "$src/.build/isolation/regression.diffs"
	count_regress "$logs/isolation.report"
	return "$status"
}

run_tap()
{
	local status

	in_copy tap PROVE_FLAGS="--verbose --jobs 2" ${TAP_TESTS:+TAP="$TAP_TESTS"} 2>&1 | tee "$logs/tap.report"
	status=${PIPESTATUS[0]}
	! grep 'skipped: ' "$logs/tap.report" || status=1

	# Why a test ended early is in its log
	sed -n 's#^test/t/\(.*\)\.pl  *(Wstat.*#\1#p' "$logs/tap.report" | while read -r name; do
		find "$src/.build/tap" -name "regress_log_$name" -exec tail -n 30 {} +
	done
	awk '/^ok / {passed++} /^not ok / {failed++}
		END {printf "%d passed, %d failed\n", passed, failed}' "$logs/tap.report"
	return "$status"
}

# Whether the server has pgvector, if need be after installing Debian's package
have_pgvector()
{
	local package

	package=postgresql-$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')-pgvector
	if apt-cache show "$package" >/dev/null 2>&1; then
		need_packages "$package"
	fi
	[ -f "$("$PG_CONFIG" --sharedir)/extension/vector.control" ]
}

run_vector()
{
	local status

	if ! have_pgvector; then
		env -u PG_CONFIG scripts/in_debian.sh trixie "$work/debian" \
			env TAP_TESTS='test/t/001_standby.pl test/t/012_gpu.pl test/t/013_soak.pl' ./test.sh regress isolation tap vector
		return
	fi
	need_cluster
	in_copy vector-check 2>&1 | tee "$logs/vector.report"
	status=${PIPESTATUS[0]}
	[ "$status" -eq 0 ] || cat "$src/.build/vector/regression.diffs"
	count_regress "$logs/vector.report"
	return "$status"
}

# The SQL tests once more.  A finding ends the server, and so the test; its report
# is in the server's log.  (The address sanitizer, preloaded into Debian 12's
# server, hangs in bindtextdomain; valgrind does that job, see test/README.md.)
run_sanitize()
{
	local copy=$work/sanitized status
	local flags='-fsanitize=undefined -fno-sanitize-recover=all'

	mkdir -p "$copy"
	copy_sources "$copy/src" || return 1
	[ "$(id -un)" = "$VQPG_USER" ] || chown -R "$VQPG_USER" "$copy"
	stop_cluster "$work/cluster"
	run_unprivileged env PG_CONFIG="$PG_CONFIG" make -C "$copy/src" -s -j "$(nproc)" all install \
		with_llvm=no WITH_CUDA=no COPT="$flags" DESTDIR="$copy/installed" || return 1
	mapfile -t lines < <(extension_settings "$copy/installed")
	start_cluster "$copy/cluster" "${lines[@]}" "${steady[@]}"
	run_unprivileged env PG_CONFIG="$PG_CONFIG" make -C "$copy/src" --no-print-directory installcheck \
		with_llvm=no COPT="$flags" 2>&1 | tee "$logs/sanitize.report"
	status=${PIPESTATUS[0]}
	[ "$status" -eq 0 ] || cat "$copy/src/.regress/regression.diffs"
	grep -A 20 'runtime error:' "$copy/cluster/data/server.log"
	stop_cluster "$copy/cluster"
	count_regress "$logs/sanitize.report"
	return "$status"
}

# Run one part, and take its counts from the last line it prints.  A part that
# ends with an error, or that tested nothing, has at least one failure.
run_part()
{
	local part=$1 status seconds=$SECONDS passed=0 failed=0 last

	say "$part"
	"run_$part" >"$logs/$part.log" 2>&1
	status=$?
	last=$(tail -n 1 "$logs/$part.log")
	if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
		passed=${BASH_REMATCH[1]}
		failed=${BASH_REMATCH[2]}
	fi
	if [ "$failed" -eq 0 ] && { [ $status -ne 0 ] || [ "$passed" -eq 0 ]; }; then
		failed=1
	fi
	if [ "$failed" -gt 0 ]; then
		tail -n 200 "$logs/$part.log"
	fi
	total_passed=$((total_passed + passed))
	total_failed=$((total_failed + failed))
	summary+=$(printf '%-10s %5d passed %5d failed %5d s' "$part" "$passed" "$failed" $((SECONDS - seconds)))$'\n'
}

extension_settings "$work/installed" >"$work/server.conf"

# What tests servers needs the installed extension
if [[ " ${parts[*]} " =~ \ (bench|regress|isolation|tap|vector)\  ]] && [[ " ${parts[*]} " != *" build "* ]]; then
	parts=(build "${parts[@]}")
fi
for part in "${parts[@]}"; do
	run_part "$part"
done

say "summary"
printf '%s' "$summary"
echo "$total_passed passed, $total_failed failed"
[ $total_failed -eq 0 ]
