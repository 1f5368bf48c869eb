#!/bin/bash
#
# ./demo.sh [--keep]
#   Shows vqpg at work, from nothing: builds the extension, starts a PostgreSQL
#   server of its own in a temporary folder, loads the descriptions of all
#   packages that apt knows as 300-dimensional vectors, indexes them, searches,
#   and measures recall, speed, size and build time.
#
#   Run as root on Debian it installs the packages that are missing; otherwise it
#   says what those are.  Apart from that it changes nothing outside its folder,
#   which it removes at the end.  --keep leaves the server running and tells how
#   to connect.

set -eu
. "$(dirname "${BASH_SOURCE[0]}")/scripts/common.sh"

keep=
case "${1:-}" in
	"") ;;
	--keep) keep=1 ;;
	*) die "usage: $0 [--keep]" ;;
esac

work=
cleanup()
{
	[ -n "$work" ] || return 0
	stop_cluster "$work"
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

command -v apt-cache >/dev/null || die "the demo's data are apt's package descriptions, and there is no apt here"
say "what the demo needs"
need_packages python3 python3-numpy python3-sklearn python3-psycopg libpq-dev
need_postgres
if [ "$(apt-cache pkgnames | head -n 5000 | wc -l)" -lt 5000 ]; then
	[ "$(id -u)" -eq 0 ] || die "apt has no package lists: run \"apt-get update\" as root, then start again"
	refresh_package_lists
fi
echo "   $("$PG_CONFIG" --version)"

work=$(make_work_dir vqpg-demo)
say "building the extension (a copy of the sources, in $work)"
build_and_install_to "$work/install" "$work/build"

say "starting a server in $work"
settings=$(extension_settings "$work/install")
start_cluster "$work" "$settings" "shared_buffers = 512MB" "maintenance_work_mem = 256MB"

mkdir "$work/scratch"
PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$VQPG_ROOT/bench/demo_packages.py" "$work/scratch"

if [ -n "$keep" ]; then
	echo
	say "the server keeps running; connect with"
	echo "   psql -h $work -U $PGUSER $PGDATABASE"
	say "and stop it with"
	if [ "$(id -un)" = "$VQPG_USER" ]; then
		echo "   $PG_BINDIR/pg_ctl -D $work/data stop && rm -r $work"
	else
		echo "   setpriv --reuid=$VQPG_USER --regid=$VQPG_USER --init-groups $PG_BINDIR/pg_ctl -D $work/data stop && rm -r $work"
	fi
	work=
else
	say "stopping the server and removing $work"
fi
