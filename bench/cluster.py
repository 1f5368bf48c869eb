"""A throwaway PostgreSQL cluster with the extension built from this checkout.

The work is done by scripts/common.sh, as for demo.sh and test.sh; this module
calls it and cleans up.  Use as a context manager: afterwards the server is gone
and so is its folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONNECTION_VARIABLES = ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE")


class ClusterError(Exception):
    pass


def _shell(script: str, *arguments: str) -> str:
    """Run lines of bash after sourcing common.sh; $1, $2.. are the arguments."""
    done = subprocess.run(
        ["bash", "-c", f'set -eu; . "$0"; {script}',
         os.path.join(ROOT, "scripts", "common.sh"), *arguments],
        stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ClusterError("the throwaway cluster could not be set up")
    return done.stdout


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bench_settings(shared_buffers_mb: int, maintenance_mb: int) -> list[str]:
    """Settings for measuring: data stays in memory and nothing runs by itself."""
    return [
        f"shared_buffers = {shared_buffers_mb}MB",
        f"maintenance_work_mem = {maintenance_mb}MB",
        f"max_parallel_maintenance_workers = {os.cpu_count()}",
        f"max_parallel_workers = {os.cpu_count()}",
        "max_wal_size = 64GB",
        "checkpoint_timeout = 1d",
        "wal_level = minimal",
        "max_wal_senders = 0",
        "autovacuum = off",
        "synchronous_commit = off",
        "full_page_writes = off",
    ]


class Cluster:
    """Build, install, start.  `extra_installs` are installation trees (what another
    extension's `make install DESTDIR=...` made) to lay over ours."""

    def __init__(self, settings: list[str], work_dir: str | None = None,
                 extra_installs: list[str] | None = None):
        self._settings = settings
        self._work_dir = work_dir
        self._extra_installs = extra_installs or []
        self.folder = ""
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Cluster:
        parent = self._work_dir or tempfile.gettempdir()
        self.folder = _shell('TMPDIR=$1 make_work_dir vqpg-bench', parent).strip()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        installed = os.path.join(self.folder, "install")
        for tree in self._extra_installs:
            subprocess.run(["cp", "-r", os.path.join(tree, "."), installed], check=True)
        output = _shell(
            'dir=$1; shift; need_postgres >&2; build_and_install_to "$dir/install" >&2;'
            'settings=$(extension_settings "$dir/install");'
            'start_cluster "$dir" "$settings" "$@" >&2;'
            'printf "%s\n" "$PGHOST" "$PGPORT" "$PGUSER" "$PGDATABASE"',
            self.folder, *self._settings)
        self.environment = dict(zip(CONNECTION_VARIABLES, output.splitlines()))
        os.environ.update(self.environment)

    def restart(self, empties_system: bool) -> None:
        """Restart the server, with its caches empty and maybe the system's as well (needs root)."""
        if empties_system and os.geteuid() != 0:
            raise ClusterError("only root can empty the system's caches")
        empty = "sync; echo 3 > /proc/sys/vm/drop_caches;" if empties_system else ""
        _shell(f'need_postgres >&2; stop_cluster "$1"; {empty}'
               'run_unprivileged "$PG_BINDIR/pg_ctl" -D "$1/data" -l "$1/data/server.log" -w start >&2',
               self.folder)

    def __exit__(self, *_exception) -> None:
        try:
            if os.path.isdir(os.path.join(self.folder, "data")):
                _shell('need_postgres >&2; stop_cluster "$1"', self.folder)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
