"""The systems under test: the ivfpq index, and its peers where they are installed.

A `Contender` builds an index and answers all queries under a setting of its
knob.  The knob is one number that trades speed for recall: an integer such as the
lists probed or ef_search, or a share, the recall that ours is to aim at; a `variant` is whatever else is worth trying with every knob value.
Contenders that cannot run raise `Unavailable` with the reason.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from client import Client, Timing
from memory import PeakMemory, own_bytes
from server import BUCKETS, Server, table_for
from vectors import Dataset

Knob = int | float

OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}
# Of a query with a condition: a system that reads the whole table for each would take half an hour
CONDITION_SECONDS = 20.0


class Unavailable(Exception):
    pass


@dataclass
class Build:
    seconds: float
    index_bytes: int
    table_bytes: int = 0                # 0: the system keeps no table
    load_seconds: float = 0
    memory_bytes: int = 0               # at the peak of the build, beyond what was there before
    options: str = ""
    info: dict = field(default_factory=dict)


class Contender:
    name: str
    knob: str
    knob_start: Knob
    knob_limit: Knob
    variants: list[str]
    versions: dict[str, str]
    build_result: Build

    def build(self) -> None:
        raise NotImplementedError

    def measure(self, variant: str, knob: Knob | None, clients: int, seconds: float) -> Timing:
        """Answer all queries, again and again for so long; knob None: default settings."""
        raise NotImplementedError

    def scan_averages(self, variant: str, knob: Knob | None) -> dict[str, float]:
        """What the index says it did, on average per query."""
        return {}

    def close(self) -> None:
        pass


# ---------------------------------------------------------------- in PostgreSQL


@dataclass(frozen=True)
class IndexKind:
    """What tells one access method from another; {metric} is filled in."""

    extension: str
    column_type: str
    method: str
    opclass: str
    knob: str
    knob_start: Knob
    knob_limit: Knob
    last_scan: str = ""         # function with numbers about the backend's last scan
    info: str = ""              # function of an index, one row
    filter_setup: str = ""      # what lets a filtered query return enough rows


INDEX_KINDS = {
    "ivfpq": IndexKind("vqpg", "real[]", "ivfpq", "array_{metric}_ops", "ivfpq.recall",
                       0.5, 0.999, "ivfpq_last_scan", "ivfpq_index_info"),
    "ivfpq_vector": IndexKind("vqpg_vector", "vector", "ivfpq", "vector_{metric}_ops",
                              "ivfpq.recall", 0.5, 0.999, "ivfpq_last_scan",
                              "ivfpq_index_info"),
    "ivfpq_halfvec": IndexKind("vqpg_vector", "halfvec", "ivfpq", "halfvec_{metric}_ops",
                               "ivfpq.recall", 0.5, 0.999, "ivfpq_last_scan",
                               "ivfpq_index_info"),
    "ivfpq_attribute": IndexKind("vqpg", "real[]", "ivfpq", "array_{metric}_ops, bucket", "ivfpq.recall",
                                 0.5, 0.999, "ivfpq_last_scan", "ivfpq_index_info"),
    "ivfpq_vector_attribute": IndexKind("vqpg_vector", "vector", "ivfpq",
                                        "vector_{metric}_ops, bucket", "ivfpq.recall", 0.5, 0.999,
                                        "ivfpq_last_scan", "ivfpq_index_info"),
    "hnsw": IndexKind("vector", "vector", "hnsw", "vector_{metric}_ops", "hnsw.ef_search",
                      10, 1000, filter_setup="SET hnsw.iterative_scan = relaxed_order"),
    "ivfflat": IndexKind("vector", "vector", "ivfflat", "vector_{metric}_ops",
                         "ivfflat.probes", 1, 32768,
                         filter_setup="SET ivfflat.iterative_scan = relaxed_order"),
}


class PostgresContender(Contender):
    def __init__(self, kind_name: str, server: Server, client: Client, data: Dataset,
                 metric: str, k: int, options: str = "", variants: list[str] | None = None):
        self._kind = kind = INDEX_KINDS[kind_name]
        self._server, self._client, self._data = server, client, data
        self._metric, self._k, self._options = metric, k, options
        self.column_type, self.k = kind.column_type, k
        self._table = table_for(kind.column_type)
        self.index = self._table + "_embedding_idx"
        self._opclass = kind.opclass.format(metric=metric)
        version = server.create_extension(kind.extension)
        if version is None:
            raise Unavailable(f"extension {kind.extension} is not installed on this server")
        self.name = kind_name + (f" ({options})" if options else "")
        self.knob = kind.knob
        self.knob_start = max(kind.knob_start, k) if kind_name == "hnsw" else kind.knob_start
        self.knob_limit = kind.knob_limit
        self.variants = variants or [""]
        self.versions = {kind.extension: version}

    def query_sql(self, condition: str = "true") -> str:
        """The k nearest rows; `condition` may have the distance as {distance}."""
        distance = f"embedding {OPERATORS[self._metric]} $1::{self._kind.column_type}"
        return (f"SELECT id FROM {self._table} WHERE {condition.format(distance=distance)}"
                f" ORDER BY {distance} LIMIT {self._k}")

    def setup_sql(self, variant: str, knob: Knob | None) -> str:
        """Settings for one point; nothing at all for the defaults."""
        commands = [variant] if variant else []
        if knob is not None:
            name = "ivfpq.nprobe" if self._kind.method == "ivfpq" and isinstance(knob, int) else self.knob
            commands += [f"SET {name} = {knob}", "SET enable_seqscan = off"]
        return "; ".join(commands)

    def build(self) -> None:
        kind, server = self._kind, self._server
        load_seconds = server.load(kind.column_type)
        options = self._options
        if kind.method == "ivfflat" and not options:
            # pgvector's README: rows / 1000 up to a million rows, then the square root
            rows = self._data.base.rows
            options = f"lists={max(1, rows // 1000 if rows <= 1_000_000 else math.isqrt(rows))}"
        seconds, memory = server.create_index(self._table, kind.method, self._opclass, options)
        sizes = server.row(f"SELECT pg_relation_size('{self.index}') AS index_bytes,"
                           f" pg_table_size('{self._table}') AS table_bytes")
        info = {}
        if kind.info and server.has_function(kind.info):
            info = server.row(f"SELECT * FROM {kind.info}('{self.index}')")
        lists = info.get("lists")
        if not lists and kind.method == "ivfflat":
            lists = int(options.split("lists=")[1].split(",")[0])
        if lists:
            self.knob_limit = min(self.knob_limit, int(lists))
        self.build_result = Build(seconds, load_seconds=load_seconds, memory_bytes=memory, options=options,
                                  info=info, **sizes)
        server.prewarm(self._table)

    def measure(self, variant: str, knob: Knob | None, clients: int, seconds: float) -> Timing:
        return self._client.run(self.query_sql(), self._kind.column_type, self._k,
                                self.setup_sql(variant, knob), clients, seconds)

    def default_plan(self) -> str:
        return self._server.scan_of_plan(self.query_sql(), "", self._data.queries[0])

    def scan_averages(self, variant: str, knob: Knob | None) -> dict[str, float]:
        function = self._kind.last_scan
        sql, setup = self.query_sql(), self.setup_sql(variant, knob)
        if not function or not self._server.has_function(function):
            return {}
        if self._server.scan_of_plan(sql, setup, self._data.queries[0]) != self.index:
            return {}
        return self._server.average_after(function, sql, setup, self._data.queries[:200])

    def first_query_ms(self) -> float:
        """The first query of a new connection, after connecting and preparing; median of 9."""
        return 1e3 * float(np.median([
            self._client.run(self.query_sql(), self._kind.column_type, self._k,
                             warmup=0, limit=1).latencies[0]
            for _ in range(9)]))

    def floor(self, seconds: float) -> float:
        """Queries per second of the same statement without a search: ten rows by their place."""
        places = ",".join(f"\"({block},1)\"" for block in range(self._k))
        return self._client.run(
            f"SELECT id FROM {self._table} WHERE ctid = ANY('{{{places}}}'::tid[])"
            f" AND $1::{self._kind.column_type} IS NOT NULL", self._kind.column_type, self._k,
            seconds=seconds).queries_per_second

    def cold(self, restart) -> dict[str, float]:
        """Seconds of the first 1,000 queries: with nothing cached, the same without
        asking ahead, with all in the system's cache and nothing in the server's, these
        again, and with all in the server's.  restart(True) empties all caches,
        restart(False) the server's."""
        setup = self.setup_sql("", None)
        seconds = {}

        def measure(name: str, command: str = "", warmup: int = 0) -> None:
            timing = self._client.run(self.query_sql(), self._kind.column_type, self._k,
                                      "; ".join(filter(None, (setup, command))), warmup=warmup, limit=1000)
            seconds[name] = float(timing.latencies.sum())

        restart(True)
        measure("cold")
        restart(True)
        measure("cold, nothing asked for ahead", "SET effective_io_concurrency = 0")
        self._server.prewarm(self._table)
        restart(False)
        measure("in the system's cache")
        measure("again")
        self._server.prewarm(self._table)
        measure("warm", warmup=20)
        return seconds

    def measure_filtered(self, condition: str, forced: bool, seconds: float) -> tuple[str, Timing]:
        """Queries with a WHERE clause: plan and timing, of as many as CONDITION_SECONDS allow."""
        sql = self.query_sql(condition)
        commands = [self._kind.filter_setup] if self._kind.filter_setup else []
        if forced:
            commands += ["SET enable_seqscan = off", "SET enable_sort = off"]
        setup = "; ".join(commands)
        plan = self._server.scan_of_plan(sql, setup, self._data.queries[0])
        return plan, self._client.run(sql, self._kind.column_type, self._k, setup,
                                      seconds=seconds, most_seconds=CONDITION_SECONDS)

    def inserts(self, seconds: float, clients: int = 1) -> tuple[float, float]:
        """Single-row inserts, each its own transaction, undone afterwards: how many a second,
        and bytes of WAL for each, those of the table and its key included."""
        rows = self._data.base.rows
        self._server.execute(f"DROP SEQUENCE IF EXISTS bench_ids;"
                             f" CREATE SEQUENCE bench_ids START {rows} CACHE 1000")
        before = self._server.value("SELECT pg_current_wal_insert_lsn()")
        timing = self._client.run(
            f"INSERT INTO {self._table} VALUES (nextval('bench_ids'), {BUCKETS}, $1)",
            self._kind.column_type, 0, seconds=seconds, clients=clients)
        wal = self._server.value("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)", (before,))
        count = self._server.value(f"SELECT count(*) FROM {self._table} WHERE id >= {rows}")
        self._server.execute(f"DELETE FROM {self._table} WHERE id >= {rows}")
        return timing.queries_per_second, float(wal) / max(1, count)

    def measure_inserts(self, seconds: float) -> dict[str, float]:
        """With one client and two, again after a vacuum, and without the index.  Drops it."""
        one, wal = self.inserts(seconds)
        two, _ = self.inserts(seconds, 2)
        self._server.execute(f"VACUUM {self._table}")
        vacuumed, _ = self.inserts(seconds)
        self._server.execute(f"DROP INDEX {self.index}")
        _, plain_wal = self.inserts(seconds)
        return {"inserts_per_second": one, "inserts_per_second_2_clients": two,
                "inserts_per_second_after_vacuum": vacuumed,
                "wal_bytes_per_insert": wal - plain_wal}

    def close(self) -> None:
        self._server.execute(f"DROP INDEX IF EXISTS {self.index}")
        self._server.execute(f"VACUUM {self._table}")


# ---------------------------------------------------------------- in this process


def faiss_rows(data: Dataset, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and queries as FAISS gets them: for cosine, unit length and L2."""
    def prepare(rows: np.ndarray) -> np.ndarray:
        if metric != "cosine":
            return rows
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(norms > 0, norms, 1)

    return (np.concatenate([prepare(block) for _, block in data.base.blocks(65536)]),
            prepare(data.queries))


class FaissContender(Contender):
    """FAISS: inverted lists of 4-bit codes scanned in registers, exact re-rank.

    Trained and filled with all cores, as a server would build; searched with
    one thread, one query at a time, through the C++ entry point, so that the
    time of the Python wrapper is not counted against it.
    """

    knob = "nprobe"
    knob_start = 1

    def __init__(self, data: Dataset, metric: str, k: int, lists: int, m: int = 0):
        try:
            import faiss
        except ImportError as error:
            raise Unavailable("the Python module faiss is not installed") from error
        self._faiss, self._data, self._metric, self._k = faiss, data, metric, k
        self._lists = lists
        dim = data.base.dim
        self._m = m or max(divisor for divisor in range(1, dim // 2 + 1) if dim % divisor == 0)
        self.name = f"faiss (IVF{lists},PQ{self._m}x4fs,RFlat)"
        self.knob_limit = lists
        self.variants = [f"k_factor={factor}" for factor in (4, 10, 20)]
        self.versions = {"faiss": faiss.__version__}

    def build(self) -> None:
        faiss, base = self._faiss, self._data.base
        rows, self._queries = faiss_rows(self._data, self._metric)
        metric = faiss.METRIC_INNER_PRODUCT if self._metric == "ip" else faiss.METRIC_L2
        with PeakMemory(own_bytes) as memory:
            start = time.perf_counter()
            self._index = faiss.index_factory(base.dim, f"IVF{self._lists},PQ{self._m}x4fs,RFlat",
                                              metric)
            self._index.train(rows)
            self._index.add(rows)
            seconds = time.perf_counter() - start
        self._ivf = faiss.extract_index_ivf(self._index.base_index)
        code_bytes = base.rows * (self._ivf.code_size + 8) + self._lists * base.dim * 4
        self.build_result = Build(seconds, code_bytes, memory_bytes=memory.bytes, info={"lists": self._lists, "m": self._m})
        faiss.omp_set_num_threads(1)

    def measure(self, variant: str, knob: Knob | None, clients: int, seconds: float) -> Timing:
        faiss, index, k, count = self._faiss, self._index, self._k, len(self._queries)
        if clients != 1:
            raise Unavailable("one thread only")
        self._ivf.nprobe = knob
        index.k_factor = float(variant.split("=")[1])
        ids = np.full((count, k), -1, np.int64)
        found = np.empty(k, np.float32)
        found_pointer = faiss.swig_ptr(found)
        pointers = [(faiss.swig_ptr(query), faiss.swig_ptr(row))
                    for query, row in zip(self._queries, ids)]
        latencies: list[float] = []
        start = end = time.perf_counter()
        while len(latencies) < count or end - start < seconds:
            query_pointer, id_pointer = pointers[len(latencies) % count]
            before = end
            index.search_c(1, query_pointer, k, found_pointer, id_pointer)
            end = time.perf_counter()
            latencies.append(end - before)
        return Timing(ids, np.array(latencies, np.float32), len(latencies) / (end - start))

    def close(self) -> None:
        self._index = self._ivf = None
