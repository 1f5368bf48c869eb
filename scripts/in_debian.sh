#!/bin/bash
#
# scripts/in_debian.sh SUITE DIR COMMAND...
#   Runs a command in the top folder of a copy of the checkout, inside a tree of
#   another release of Debian (trixie, sid, ...) that it makes in DIR, or finds
#   there from a run before.
#
# For servers that this machine's Debian does not have.  Packages come from the
# mirror that apt uses here.  Only root can do it.  All mounts and all processes
# are in namespaces of their own, which end with the command; DIR is the caller's
# to remove.

set -eu
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# -ge 3 ] || die "usage: $0 SUITE DIR COMMAND..."
suite=$1
tree=$2
shift 2

[ "$(id -u)" -eq 0 ] || die "only root can run a command in another Debian"
need_packages debootstrap

mirror_of_apt()
{
	(
		. /etc/os-release
		apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $VERSION_CODENAME" | head -n 1
	)
}

mirror=$(mirror_of_apt)
if [ -z "$mirror" ]; then
	refresh_package_lists
	mirror=$(mirror_of_apt)
fi

inside()
{
	unshare --mount --pid --fork --kill-child --mount-proc -- "$@"
}

if [ ! -f "$tree/.complete" ]; then
	say "debootstrap $suite"
	mkdir -p "$tree"
	# not its messages, of which there is one for each package
	inside debootstrap --variant=minbase "$suite" "$tree" ${mirror:+"$mirror"} >"$tree.log" 2>&1 || {
		tail -n 20 "$tree.log" >&2
		die "debootstrap failed"
	}
	# No services, and no cluster of its own
	printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
	chmod +x "$tree/usr/sbin/policy-rc.d"
	mkdir -p "$tree/etc/postgresql-common"
	echo 'create_main_cluster = false' >"$tree/etc/postgresql-common/createcluster.conf"
	cp /etc/resolv.conf "$tree/etc/resolv.conf"
	touch "$tree/.complete"
fi

rm -rf "$tree/root/vqpg"
copy_sources "$tree/root/vqpg"

# shellcheck disable=SC2016 # the inner shell's own
inside bash -c '
	tree=$1
	shift
	mount -t proc proc "$tree/proc" &&
		mount --bind /dev "$tree/dev" &&
		mount -t tmpfs tmpfs "$tree/dev/shm" &&
		exec chroot "$tree" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TMPDIR=/tmp \
			bash -c "cd /root/vqpg && exec \"\$@\"" bash "$@"' bash "$tree" "$@"
