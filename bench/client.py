"""Queries per second from pq_client.c, compiled when first needed."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass

import numpy as np

from encode import ENCODERS

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pq_client.c")


@dataclass
class Timing:
    ids: np.ndarray             # int64[queries][k], -1 where a row is missing
    latencies: np.ndarray       # seconds, of all clients one after the other
    queries_per_second: float

    @property
    def asked_ids(self) -> np.ndarray:
        """The answers to the queries of one client that were asked before its time was over."""
        return self.ids[:len(self.latencies)]

    def percentile_ms(self, percent: float) -> float:
        return 1e3 * float(np.percentile(self.latencies, percent))


def pg_config(option: str) -> str:
    command = os.environ.get("PG_CONFIG", "pg_config")
    return subprocess.run([command, option], stdout=subprocess.PIPE, text=True,
                          check=True).stdout.strip()


class Client:
    """Runs statements with one parameter, each query vector in turn."""

    def __init__(self, folder: str, queries: np.ndarray):
        self._folder = folder
        self._queries = queries
        self._program = os.path.join(folder, "pq_client")
        self._param_bytes: dict[str, int] = {}
        command = [os.environ.get("CC", "cc"), "-std=c11", "-O2",
                   f"-I{pg_config('--includedir')}", SOURCE, f"-L{pg_config('--libdir')}",
                   "-lpq", "-o", self._program]
        if subprocess.run(command).returncode:
            raise SystemExit(f"{shlex.join(command)} failed: it needs a C compiler and "
                             "libpq's headers (Debian: gcc, libpq-dev)")

    def _parameters(self, column_type: str) -> str:
        path = os.path.join(self._folder, "queries." + column_type.strip("[]"))
        if column_type not in self._param_bytes:
            encoded = ENCODERS[column_type](self._queries)
            encoded.tofile(path)
            self._param_bytes[column_type] = encoded.shape[1]
        return path

    def run(self, sql: str, column_type: str, k: int, setup: str = "", clients: int = 1,
            seconds: float = 1.0, warmup: int = 20, limit: int = 0,
            most_seconds: float = 0) -> Timing:
        path = self._parameters(column_type)
        output = os.path.join(self._folder, "timing")
        subprocess.run(
            [self._program, "-q", sql, "-s", setup, "-p", path, "-o", output,
             "-b", str(self._param_bytes[column_type]), "-k", str(k), "-c", str(clients),
             "-t", str(seconds), "-w", str(warmup), "-n", str(limit),
             "-T", str(most_seconds)], check=True)
        with open(output, "rb") as file:
            queries, k, clients = np.fromfile(file, np.int64, 3)
            runs = np.fromfile(file, [("count", np.int64), ("start", float), ("end", float)],
                               clients)
            ids = np.fromfile(file, np.int64, queries * k).reshape(queries, k)
            latencies = np.fromfile(file, np.float32)
        elapsed = runs["end"].max() - runs["start"].min()
        return Timing(ids, latencies, float(runs["count"].sum() / elapsed))
