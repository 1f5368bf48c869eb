"""The database side of the bench: tables, index builds, sizes, plans."""

from __future__ import annotations

import time

import numpy as np
import psycopg
from psycopg.rows import dict_row

from encode import copy_stream
from memory import PeakMemory, server_bytes
from vectors import Vectors

BUCKETS = 1_000_000


def table_for(column_type: str) -> str:
    return "items_" + column_type.strip("[]")


class Server:
    """One connection (PG* environment variables), in autocommit mode."""

    def __init__(self, base: Vectors, storage: str | None):
        self._base = base
        self._storage = storage
        self._loaded: dict[str, float] = {}
        self._connection = psycopg.connect("", autocommit=True, row_factory=dict_row)
        # A random column to filter by, alike in all tables
        self.buckets = np.random.default_rng(7).integers(0, BUCKETS, base.rows, np.int32)

    def close(self) -> None:
        self._connection.close()

    def restarted(self) -> None:
        """The server was restarted: connect again."""
        self._connection.close()
        self._connection = psycopg.connect("", autocommit=True, row_factory=dict_row)

    def execute(self, sql: str) -> None:
        self._connection.execute(sql)

    def row(self, sql: str, parameters=None) -> dict:
        return self._connection.execute(sql, parameters).fetchone() or {}

    def value(self, sql: str, parameters=None):
        return next(iter(self.row(sql, parameters).values()))

    def has_function(self, name: str) -> bool:
        return self.value("SELECT to_regproc(%s) IS NOT NULL", (name,))

    def create_extension(self, name: str) -> str | None:
        """The version of an extension, created if need be; None if it is not to be had.

        Asking pg_available_extensions would not do: it does not look into the
        folder that extension_destdir names.
        """
        try:
            self.execute(f"CREATE EXTENSION IF NOT EXISTS {name} CASCADE")
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
            return None
        return self.value("SELECT extversion FROM pg_extension WHERE extname = %s", (name,))

    def load(self, column_type: str) -> float:
        """Fill the table for a column type, once; return the seconds that it took."""
        if column_type in self._loaded:
            return self._loaded[column_type]
        table = table_for(column_type)
        dimensions = f"({self._base.dim})" if column_type != "real[]" else ""
        start = time.perf_counter()
        self.execute(f"DROP TABLE IF EXISTS {table}")
        # Created and filled in one transaction, the rows need neither WAL nor hint bits
        with self._connection.transaction():
            self.execute(f"CREATE TABLE {table} (id bigint, bucket integer,"
                         f" embedding {column_type}{dimensions})")
            if self._storage:
                self.execute(f"ALTER TABLE {table} ALTER embedding SET STORAGE {self._storage}")
            with self._connection.cursor().copy(
                    f"COPY {table} FROM STDIN (FORMAT binary, FREEZE)") as copy:
                for chunk in copy_stream(self._base, column_type, self.buckets):
                    copy.write(chunk)
        self.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (id)")
        self.execute(f"VACUUM ANALYZE {table}")
        self._loaded[column_type] = time.perf_counter() - start
        return self._loaded[column_type]

    def create_index(self, table: str, method: str, opclass: str, options: str) -> tuple[float, int]:
        """Build table_embedding_idx; return the seconds that it took, and the server's
        memory at its peak beyond what it had before."""
        self.execute(f"DROP INDEX IF EXISTS {table}_embedding_idx")
        backend = self.value("SELECT pg_backend_pid()")
        with PeakMemory(lambda: server_bytes(backend)) as memory:
            start = time.perf_counter()
            self.execute(f"CREATE INDEX {table}_embedding_idx ON {table} USING {method}"
                         f" (embedding {opclass})" + (f" WITH ({options})" if options else ""))
            seconds = time.perf_counter() - start
        return seconds, memory.bytes

    def prewarm(self, table: str) -> None:
        """Read table and index into shared buffers, where pg_prewarm is there."""
        if self.create_extension("pg_prewarm") is None:
            return
        self.execute(
            f"SELECT pg_prewarm(oid) FROM pg_class WHERE oid IN ('{table}'::regclass,"
            f" '{table}_embedding_idx'::regclass, '{table}_pkey'::regclass,"
            f" (SELECT reltoastrelid FROM pg_class WHERE oid = '{table}'::regclass))")

    def scan_of_plan(self, sql: str, setup: str, vector: np.ndarray) -> str:
        """Which scan the planner chooses: an index's name, or the kind of scan."""
        with self._connection.transaction(force_rollback=True):
            if setup:
                self.execute(setup)
            node = self.value("EXPLAIN (FORMAT json) " + sql.replace("$1", "%(query)s"),
                              {"query": vector.tolist()})[0]["Plan"]
        while "Plans" in node:
            node = node["Plans"][0]
        return node.get("Index Name", node["Node Type"])

    def average_after(self, function: str, sql: str, setup: str,
                      queries: np.ndarray) -> dict[str, float]:
        """Run queries, and after each look at the numbers that `function` returns."""
        rows = []
        with self._connection.transaction(force_rollback=True):
            if setup:
                self.execute(setup)
            for query in queries:
                self._connection.execute(sql.replace("$1", "%s"), (query.tolist(),)).fetchall()
                rows.append(self.row(f"SELECT * FROM {function}()"))
        return {
            name: float(np.mean([float(row[name] or 0) for row in rows]))
            for name, value in rows[0].items()
            if value is not None and not isinstance(value, (str, bool))
        }
