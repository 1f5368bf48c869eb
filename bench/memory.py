"""How much memory processes take while something runs, from /proc."""

from __future__ import annotations

import glob
import os
import threading
from typing import Callable

PERIOD_SECONDS = 0.05


def _status(pid: str, field: str) -> int:
    """A number of /proc/PID/status, bytes if it has a unit; 0 if the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            for line in file:
                if line.startswith(field + ":"):
                    words = line.split()
                    return int(words[1]) * (1024 if words[2:] == ["kB"] else 1)
    except (OSError, ValueError):
        pass
    return 0


def own_bytes() -> int:
    return _status("self", "RssAnon")


def server_bytes(backend_pid: int) -> int:
    """Private memory of all processes of a server and its dynamic shared memory,
    without shared buffers."""
    postmaster = _status(str(backend_pid), "PPid")
    processes = [name for name in os.listdir("/proc")
                 if name.isdigit() and _status(name, "PPid") == postmaster]
    segments = 0
    for path in glob.glob("/dev/shm/PostgreSQL.*"):
        try:
            segments += os.stat(path).st_blocks * 512
        except OSError:
            pass
    return segments + sum(_status(name, "RssAnon") for name in processes)


class PeakMemory:
    """As a context: what `measure` rises by while it runs, at most."""

    def __init__(self, measure: Callable[[], int]):
        self._measure = measure
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._base = measure()
        self.bytes = 0

    def _watch(self) -> None:
        while not self._done.wait(PERIOD_SECONDS):
            self.bytes = max(self.bytes, self._measure() - self._base)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._done.set()
        self._thread.join()
