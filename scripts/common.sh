# shellcheck shell=bash
#
# scripts/common.sh
#   What demo.sh, test.sh and the bench harness share; to be sourced by bash:
#
#     . "$(dirname "$0")/scripts/common.sh"
#
# It sets
#   VQPG_ROOT   the checkout
#   VQPG_USER   who runs servers: yourself, or "postgres" when you are root,
#               because a server refuses to run as root
#
# and offers
#   say TEXT...                 one line on standard output, marked as a step
#   die TEXT...                 one line on standard error, then exit 1
#   need_packages PKG...        have these Debian packages: installs the missing
#                               ones when root, else names them and exits 1
#   need_postgres               the same for a server, its headers and a compiler;
#                               afterwards PG_CONFIG and PG_BINDIR are set (a
#                               PG_CONFIG that the caller had set is respected)
#   run_unprivileged CMD...     run CMD as VQPG_USER
#   make_work_dir NAME          print a new folder under TMPDIR that VQPG_USER may use
#   copy_sources DIR            copy the checkout's files there, without .git and
#                               without build products
#   build_and_install_to DIR [BUILD_DIR]
#                               compile a copy of the checkout in BUILD_DIR (default
#                               DIR.build; kept, so a second call compiles only
#                               what changed) and install it below DIR
#   extension_settings DIR      print the server settings that make an extension
#                               installed below DIR visible
#   start_cluster DIR [LINE...] initdb in DIR/data and start a server there that
#                               listens on a unix socket only; each LINE goes to
#                               postgresql.conf.  Exports PGHOST, PGPORT, PGUSER
#                               and PGDATABASE for clients
#   stop_cluster DIR            stop that server (no error if it is not running)
#
# Nothing is installed into the system but Debian packages, and those only by
# need_packages and need_postgres.

VQPG_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VQPG_USER=$(id -un)
if [ "$(id -u)" -eq 0 ]; then
	VQPG_USER=postgres
fi

# The server's user must be able to read what is installed, and settings
umask 022

say()
{
	printf '== %s\n' "$*"
}

die()
{
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# Package lists may be missing (fresh container) or older than the mirror.
refresh_package_lists()
{
	say "apt-get update"
	apt-get update -q >/dev/null || die "apt-get update failed"
}

install_packages()
{
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" 2>&1
}

need_packages()
{
	local package output missing=()

	if ! command -v dpkg-query >/dev/null; then
		say "not a Debian system, so it is up to you to have: $*"
		return 0
	fi
	for package; do
		dpkg-query -W -f '${db:Status-Abbrev}\n' "$package" 2>/dev/null |
			grep -q '^[hi]i' || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" -ne 0 ]; then
		die "these packages are missing: ${missing[*]}
Install them (as root: apt-get install ${missing[*]}) and start again."
	fi
	say "apt-get install ${missing[*]}"
	if ! output=$(install_packages "${missing[@]}"); then
		refresh_package_lists
		output=$(install_packages "${missing[@]}") || {
			printf '%s\n' "$output" >&2
			die "apt-get install failed"
		}
	fi
}

# The major version that this distribution's "postgresql" stands for.
distribution_pg_major()
{
	apt-cache depends postgresql 2>/dev/null |
		sed -n 's/.*Depends: postgresql-\([0-9][0-9]*\)$/\1/p' | head -n 1
}

need_postgres()
{
	local major

	if [ -z "${PG_CONFIG:-}" ]; then
		# not the newest pg_config, which comes with clients
		major=$(find /usr/lib/postgresql -path '*/bin/postgres' 2>/dev/null |
			sed 's#/usr/lib/postgresql/##; s#/.*##' | sort -n | tail -n 1)
		if [ -z "$major" ] && command -v apt-cache >/dev/null; then
			major=$(distribution_pg_major)
			if [ -z "$major" ] && [ "$(id -u)" -eq 0 ]; then
				refresh_package_lists
				major=$(distribution_pg_major)
			fi
		fi
		if [ -n "$major" ]; then
			need_packages "postgresql-$major" "postgresql-server-dev-$major" \
				gcc make libc6-dev libopenblas0-pthread
			PG_CONFIG=/usr/lib/postgresql/$major/bin/pg_config
		else
			PG_CONFIG=$(command -v pg_config) ||
				die "no pg_config found: install PostgreSQL with its server headers"
		fi
	fi
	PG_BINDIR=$("$PG_CONFIG" --bindir) || die "PG_CONFIG=$PG_CONFIG does not work"
	[ -x "$PG_BINDIR/initdb" ] || die "$PG_BINDIR has no initdb: install the PostgreSQL server"
	export PG_CONFIG PG_BINDIR
}

run_unprivileged()
{
	if [ "$(id -un)" = "$VQPG_USER" ]; then
		"$@"
	else
		# From a folder that the other user may not enter, many programs
		# complain or fail.
		(
			cd / && HOME=/nonexistent exec setpriv --reuid="$VQPG_USER" --regid="$VQPG_USER" \
				--init-groups --reset-env env \
				PATH="$PATH" LC_ALL=C.UTF-8 TZ=UTC \
				${PGHOST:+PGHOST="$PGHOST"} ${PGPORT:+PGPORT="$PGPORT"} \
				${PGUSER:+PGUSER="$PGUSER"} ${PGDATABASE:+PGDATABASE="$PGDATABASE"} "$@"
		)
	fi
}

make_work_dir()
{
	local dir

	dir=$(mktemp -d "${TMPDIR:-/tmp}/$1.XXXXXX") || die "mktemp failed"
	if [ "$(id -un)" != "$VQPG_USER" ]; then
		chown "$VQPG_USER" "$dir" || die "could not give $dir to $VQPG_USER"
	fi
	chmod 755 "$dir"
	printf '%s\n' "$dir"
}

copy_sources()
{
	mkdir -p "$1" &&
		tar -C "$VQPG_ROOT" --exclude=./.git --exclude=./bench/results \
			--exclude='*.o' --exclude='*.bc' --exclude='*.so' --exclude=./.regress \
			--exclude=./.build --exclude=__pycache__ \
			-cf - . | tar -C "$1" --no-same-owner -xf -
}

build_and_install_to()
{
	local destdir=$1 build=${2:-$1.build}

	copy_sources "$build" || die "could not copy the sources to $build"
	mkdir -p "$destdir"
	make -s -C "$build" -j "$(nproc)" PG_CONFIG="$PG_CONFIG" >"$build/make.log" 2>&1 &&
		make -s -C "$build" install PG_CONFIG="$PG_CONFIG" DESTDIR="$destdir" \
			>>"$build/make.log" 2>&1 || {
		tail -n 40 "$build/make.log" >&2
		die "the build failed; all of its output is in $build/make.log"
	}
}

extension_settings()
{
	local destdir=$1 major

	major=$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
	if "$PG_BINDIR/postgres" --describe-config | grep -q '^extension_destdir'; then
		echo "extension_destdir = '$destdir'"
	elif [ "$major" -ge 18 ]; then
		echo "extension_control_path = '$destdir$("$PG_CONFIG" --sharedir):\$system'"
	elif [ -f "$("$PG_CONFIG" --sharedir)/extension/vqpg.control" ]; then
		say "this server loads extensions from its own folder only, so it is the vqpg installed there that runs" >&2
		return
	else
		die "this server cannot load an extension from another folder than its own:
run \"make install\" and start again"
	fi

	# for those who name it without a folder, as session_preload_libraries may
	echo "dynamic_library_path = '$destdir$("$PG_CONFIG" --pkglibdir):\$libdir'"
}

start_cluster()
{
	local dir=$1 line

	shift
	mkdir -p "$dir"
	if [ "$(id -un)" != "$VQPG_USER" ]; then
		chown "$VQPG_USER" "$dir"
	fi
	export PGHOST=$dir PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
	# The name of a unix socket has room for about a hundred bytes.
	[ ${#dir} -lt 90 ] || die "$dir is too long a name for a socket folder"
	run_unprivileged "$PG_BINDIR/initdb" -D "$dir/data" -U postgres --auth=trust \
		--encoding=UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1 ||
		{ cat "$dir/initdb.log" >&2; die "initdb failed"; }
	{
		echo "listen_addresses = ''"
		echo "unix_socket_directories = '$dir'"
		echo "port = $PGPORT"
		echo "fsync = off"
		for line; do
			printf '%s\n' "$line"
		done
	} | run_unprivileged tee -a "$dir/data/postgresql.conf" >/dev/null
	run_unprivileged "$PG_BINDIR/pg_ctl" -D "$dir/data" -l "$dir/data/server.log" -w -t 60 \
		start >/dev/null ||
		{ tail -n 20 "$dir/data/server.log" >&2; die "the server did not start"; }
}

stop_cluster()
{
	[ -f "$1/data/postmaster.pid" ] || return 0
	run_unprivileged "$PG_BINDIR/pg_ctl" -D "$1/data" -m fast -w stop >/dev/null 2>&1
}
