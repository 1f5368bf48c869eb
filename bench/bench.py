#!/usr/bin/python3
"""Measure the ivfpq index, and its peers where they are installed.

    bench.py run SET...       build, sweep recall against queries/s, report
    bench.py make FOLDER      write a synthetic set
    bench.py shape SET        what a set looks like to an index
    bench.py lists SET        what its lists find, against those of plain k-means

README.md beside this file says what the numbers mean.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import struct
import sys
import tempfile
import time
from functools import partial

import numpy as np
import psycopg

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import report                                                       # noqa: E402
import stages                                                       # noqa: E402
from client import Client                                           # noqa: E402
from lists import ListPoint, compare_lists, write_points            # noqa: E402
from cluster import Cluster, ClusterError, bench_settings, memory_bytes    # noqa: E402
from peers import (INDEX_KINDS, Contender, FaissContender, PostgresContender,    # noqa: E402
                   Unavailable)
from server import BUCKETS, Server                                  # noqa: E402
from shape import shape                                             # noqa: E402
from sweep import Point, Sweep                                      # noqa: E402
from vectors import (METRICS, TRUTH_FILES, Dataset, Judge, SyntheticSpec,    # noqa: E402
                     distances, exact_neighbours, make_synthetic, open_dataset, write_ivecs)

SYSTEMS = [*INDEX_KINDS, "faiss"]
RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shared-buffers", type=int, metavar="MB",
                        default=memory_bytes() // 4 >> 20)
    parser.add_argument("--maintenance-work-mem", type=int, metavar="MB",
                        default=memory_bytes() // 8 >> 20)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="GUC=VALUE",
                        help="a line for the throwaway cluster's postgresql.conf")
    parser.add_argument("--work-dir", help="where the throwaway cluster lives; default: TMPDIR")
    parser.add_argument("--results", default=RESULTS, help="folder for the results")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run.add_argument("set", nargs="+", help="folder with base.fvecs and query.fvecs, .hdf5 of"
                     " ann-benchmarks, .fvecs, .npy, or synthetic:rows=N[,dim=N][,seed=N]")
    run.add_argument("--metric", choices=METRICS, help="default: the set's own")
    run.add_argument("--rows", type=int, help="use the first ROWS vectors only")
    run.add_argument("--queries", type=int, default=1000)
    run.add_argument("-k", type=int, default=10, help="LIMIT, and the k of recall@k")
    run.add_argument("--systems", default="ivfpq,hnsw,ivfflat,faiss",
                     help=f"of {','.join(SYSTEMS)}")
    run.add_argument("--with", dest="options", action="append", metavar="OPTIONS",
                     help='options of the ivfpq index, such as "lists=2000,m=75"; repeat it to'
                     " compare several")
    run.add_argument("--hnsw-with", default="m=16,ef_construction=64", metavar="OPTIONS")
    run.add_argument("--ivfflat-with", default="", metavar="OPTIONS",
                     help="default: lists as pgvector advises")
    run.add_argument("--faiss-lists", type=int, help="default: 4 sqrt(rows), as FAISS compares with all of them")
    run.add_argument("--faiss-m", type=integers, default=[0], metavar="N,N",
                     help="0: half the dimensions")
    run.add_argument("--nprobe", type=integers, metavar="N,N",
                     help="ivfpq.nprobe values; default: ivfpq.recall from .5 on until recall .995")
    run.add_argument("--epsilon", type=numbers, metavar="E,E",
                     help="ivfpq.epsilon values to sweep with; default: the server's")
    run.add_argument("--clients", type=integers, default=[1], metavar="N,N")
    run.add_argument("--seconds", type=float, default=2, help="at least, for each point")
    run.add_argument("--filter", type=integers, default=[], metavar="N,N",
                     help="also: WHERE clauses that keep one row in N")
    run.add_argument("--within", type=integers, default=[], metavar="N,N",
                     help="also: WHERE clauses that keep rows nearer than the N-th is in the median")
    run.add_argument("--cold", action="store_true",
                     help="also: 1,000 queries after emptying all caches (as root)")
    run.add_argument("--profile", type=integers, default=[], metavar="N,N",
                     help="also: stages of a query at these values of ivfpq.nprobe, by perf")
    run.add_argument("--let-sleep", action="store_true",
                     help="let processors sleep between queries, as a client that asks one query"
                     " at a time lets them; default: keep them awake, where root may")
    run.add_argument("--inserts", type=float, default=0, metavar="SECONDS",
                     help="also: insert single rows for so long")
    run.add_argument("--storage", choices=("plain", "main", "external", "extended"),
                     help="SET STORAGE of the column; default: the type's")
    add_server_arguments(run)
    run.add_argument("--use-server", action="store_true",
                     help="use the server that PGHOST and the like name, tables items_* and all,"
                     " instead of a throwaway cluster")
    run.add_argument("--add-install", action="append", metavar="FOLDER",
                     help="what an extension's `make install DESTDIR=FOLDER` made, for the"
                     " throwaway cluster to offer too")
    run.add_argument("--name", help="of the results' files; default: date, set and metric")

    make = commands.add_parser("make", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    make.add_argument("folder")
    for field in dataclasses.fields(SyntheticSpec):
        if field.type == "bool":
            continue
        default = 100_000 if field.name == "rows" else field.default
        make.add_argument("--" + field.name.replace("_", "-"), type=type(default),
                          default=default)
    make.add_argument("--not-normalised", dest="normalised", action="store_false")
    make.add_argument("--queries", type=int, default=1000)
    make.add_argument("--truth", choices=METRICS, help="also write the 100 true neighbours")

    look = commands.add_parser("shape", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    look.add_argument("set")
    look.add_argument("--metric", choices=METRICS, help="default: the set's own")
    look.add_argument("--rows", type=int)
    look.add_argument("--queries", type=int, default=500)
    look.add_argument("--lists", type=int, default=1024)

    lists = commands.add_parser("lists", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    lists.add_argument("set")
    lists.add_argument("--metric", choices=METRICS, help="default: the set's own")
    lists.add_argument("--rows", type=int)
    lists.add_argument("--queries", type=int, default=1000)
    lists.add_argument("-k", type=int, default=10)
    lists.add_argument("--with", dest="options", default="", metavar="OPTIONS",
                       help='of the index, such as "lists=2000"')
    lists.add_argument("--nprobe", type=integers, default=[4, 8, 16, 32, 64], metavar="N,N")
    lists.add_argument("--seed", type=int, default=1, help="of plain k-means")
    add_server_arguments(lists)

    arguments = parser.parse_args()
    if arguments.command == "run":
        unknown = set(arguments.systems.split(",")) - set(SYSTEMS)
        if unknown:
            parser.error(f"unknown system: {', '.join(sorted(unknown))}")
        if max(arguments.within, default=0) > arguments.k:
            parser.error("--within takes ranks up to -k")
    return arguments


# ---------------------------------------------------------------- make, shape


def run_make(arguments: argparse.Namespace) -> None:
    fields = {field.name: getattr(arguments, field.name)
              for field in dataclasses.fields(SyntheticSpec)}
    start = time.perf_counter()
    make_synthetic(arguments.folder, SyntheticSpec(**fields), arguments.queries)
    print(f"wrote {arguments.rows:,} rows of {arguments.dim} dimensions to {arguments.folder}"
          f" in {time.perf_counter() - start:.1f} s")
    if arguments.truth:
        data = open_dataset(arguments.folder)
        write_ivecs(os.path.join(arguments.folder, TRUTH_FILES[arguments.truth]),
                    exact_neighbours(data.base, data.queries, 100, arguments.truth))


def run_shape(arguments: argparse.Namespace) -> None:
    data = open_dataset(arguments.set, arguments.rows, arguments.queries)
    for name, value in shape(data, arguments.metric or data.metric, arguments.lists).items():
        print(f"{name:<24} {value:.3f}")


def run_lists(arguments: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(
            prefix="vqpg-bench-", dir=arguments.work_dir))
        settings = bench_settings(arguments.shared_buffers, arguments.maintenance_work_mem)
        stack.enter_context(Cluster(settings + arguments.settings, arguments.work_dir, None))
        data = open_set(arguments.set, arguments, scratch)
        metric = arguments.metric or data.metric
        judge = Judge(data, metric, arguments.k, true_neighbours(data, metric, arguments.k))
        server = Server(data.base, None)
        contender = PostgresContender("ivfpq", server, Client(scratch, data.queries), data, metric,
                                      arguments.k, arguments.options)
        try:
            points, about = compare_lists(contender, data, metric, judge, arguments.nprobe, arguments.seed)
        except Unavailable as reason:
            sys.exit(f"bench.py: {reason}")
        print(f"{data.name}, {metric}: " + ", ".join(f"{name} {value:g}" for name, value in about.items()))
        print(ListPoint.HEADING)
        for point in points:
            print(point.text())
        os.makedirs(arguments.results, exist_ok=True)
        write_points(os.path.join(arguments.results, f"lists-{data.name}-{metric}.csv"), points)
        server.close()


# ---------------------------------------------------------------- run


def open_set(text: str, arguments: argparse.Namespace, scratch: str) -> Dataset:
    if not text.startswith("synthetic:"):
        return open_dataset(text, arguments.rows, arguments.queries)
    fields = dict(part.split("=") for part in text.removeprefix("synthetic:").split(","))
    spec = SyntheticSpec(**{name: int(value) for name, value in fields.items()})
    folder = os.path.join(scratch, f"synthetic-{spec.rows}x{spec.dim}-seed{spec.seed}")
    make_synthetic(folder, spec, arguments.queries)
    return open_dataset(folder)


def true_neighbours(data: Dataset, metric: str, k: int) -> np.ndarray:
    truth = data.truth.get(metric)
    if truth is None or truth.shape[1] < k:
        start = time.perf_counter()
        truth = exact_neighbours(data.base, data.queries, max(100, k), metric)
        print(f"   exact neighbours: computed in {time.perf_counter() - start:.1f} s")
    return truth


def contenders(arguments: argparse.Namespace, server: Server, client: Client, data: Dataset,
               metric: str):
    """(name, function that makes the contender), in the order of --systems."""
    faiss_lists = arguments.faiss_lists or round(4 * data.base.rows ** 0.5)
    epsilons = [f"SET ivfpq.epsilon = {value:g}" for value in arguments.epsilon or []]
    for system in arguments.systems.split(","):
        if system == "faiss":
            for m in arguments.faiss_m:
                yield system, partial(FaissContender, data, metric, arguments.k, faiss_lists, m)
            continue
        variants = []
        if system.startswith("ivfpq"):
            all_options, variants = arguments.options or [""], epsilons
        else:
            all_options = [getattr(arguments, system + "_with")]
        for options in all_options:
            yield system, partial(PostgresContender, system, server, client, data, metric,
                                  arguments.k, options, variants)


def print_build(contender: Contender, data: Dataset) -> None:
    build = contender.build_result
    raw = data.base.rows * data.base.dim * 4
    print(f"== {contender.name}, " + ", ".join(f"{name} {version}" for name, version
                                               in contender.versions.items()))
    if build.table_bytes:
        print(f"   table: {report.bytes_text(build.table_bytes)} with TOAST,"
              f" loaded, keyed and analysed in {build.load_seconds:.1f} s")
    print(f"   build: {build.seconds:.2f} s, {report.bytes_text(build.memory_bytes)} of memory at its"
          f" peak; index: {report.bytes_text(build.index_bytes)},"
          f" 1/{raw / build.index_bytes:.1f} of the raw vectors")
    if build.info:
        print("   " + ", ".join(f"{name} {value}" for name, value in build.info.items()
                                if value is not None))


def conditions(arguments: argparse.Namespace, server: Server, data: Dataset, metric: str,
               truth: np.ndarray):
    """(name, condition, true neighbours that pass it), as --filter and --within ask for."""
    for one_in in arguments.filter:
        limit = max(1, BUCKETS // one_in)
        yield (f"filter 1 in {one_in}", f"bucket < {limit}",
               exact_neighbours(data.base, data.queries, arguments.k, metric,
                                lambda ids: server.buckets[ids] < limit))
    if arguments.within:
        exact = np.array([distances(metric, query, data.base.take(ids))
                          for query, ids in zip(data.queries, truth[:, :arguments.k])])
    for rank in arguments.within:
        radius = float(np.median(exact[:, rank - 1]))
        yield (f"within the median distance of row {rank}", f"{{distance}} < {radius!r}",
               np.where(exact < radius, truth[:, :arguments.k], -1))


def measure_extras(contender: PostgresContender, arguments: argparse.Namespace, server: Server,
                   client: Client, cluster: Cluster | None, data: Dataset, metric: str,
                   truth: np.ndarray) -> dict:
    extras: dict = {"default_plan": contender.default_plan(),
                    "first_query_ms": contender.first_query_ms()}
    print(f"   default settings plan: {extras['default_plan']};"
          f" first query of a new connection: {extras['first_query_ms']:.2f} ms")
    extras["floor_qps"] = contender.floor(arguments.seconds)
    print(f"   the statement without the search: {extras['floor_qps']:.0f} queries/s")
    for knob in arguments.profile if contender.name.startswith("ivfpq") else []:
        shares, qps = stages.sample(server, client, contender, knob, arguments.seconds)
        extras.setdefault("profile", {})[knob] = shares
        print(f"   nprobe {knob}, {qps:.0f} queries/s under perf; microseconds of a query: "
              + ", ".join(f"{stage} {1e6 * share / qps:.0f}" for stage, share in shares.items()))
    for name, condition, passing in conditions(arguments, server, data, metric, truth):
        judge = Judge(data, metric, arguments.k, passing)
        plan = ""
        for forced in (False, True):
            if forced and plan == contender.index:
                continue
            plan, timing = contender.measure_filtered(condition, forced, arguments.seconds)
            answers = timing.asked_ids
            quality = judge.judge(answers)
            print(f"   {name}, {'index forced' if forced else 'planner decides'}:"
                  f" {plan}, recall {quality.recall:.4f}, {timing.queries_per_second:.1f} q/s,"
                  f" p95 {timing.percentile_ms(95):.2f} ms,"
                  f" {quality.short} of {len(answers)} queries short of rows")
            extras.setdefault("conditions", []).append({
                "condition": name, "forced": forced, "plan": plan, "recall": quality.recall,
                "asked": len(answers), "short": quality.short, "qps": timing.queries_per_second,
                "p50_ms": timing.percentile_ms(50), "p95_ms": timing.percentile_ms(95)})
    if arguments.cold and cluster:
        extras["cold_seconds"] = contender.cold(
            lambda empties_system: (cluster.restart(empties_system), server.restarted()))
        print("   seconds of 1,000 queries: " + ", ".join(
            f"{name} {seconds:.2f}" for name, seconds in extras["cold_seconds"].items()))
    if arguments.inserts:
        extras |= contender.measure_inserts(arguments.inserts)
        print(f"   inserts, one row each: {extras['inserts_per_second']:.0f}/s by one client,"
              f" {extras['inserts_per_second_2_clients']:.0f}/s by two,"
              f" {extras['inserts_per_second_after_vacuum']:.0f}/s by one after a vacuum;"
              f" {extras['wal_bytes_per_insert']:.0f} bytes of WAL for the index")
    return extras


def measure_contender(contender: Contender, arguments: argparse.Namespace, server: Server,
                      client: Client, cluster: Cluster | None, data: Dataset, metric: str,
                      truth: np.ndarray, points: list[Point]) -> dict:
    contender.build()
    print_build(contender, data)
    print(report.point_heading(contender.knob, arguments.k), flush=True)
    knobs = arguments.nprobe if contender.name.startswith("ivfpq") else None
    sweep = Sweep(contender, Judge(data, metric, arguments.k, truth), arguments.seconds, arguments.clients,
                  lambda point: print(report.point_text(point), flush=True))
    points += sweep.run(knobs)
    result = {"versions": contender.versions,
              "build": dataclasses.asdict(contender.build_result)}
    if isinstance(contender, PostgresContender):
        result |= measure_extras(contender, arguments, server, client, cluster, data, metric, truth)
    return result


def measure_set(text: str, arguments: argparse.Namespace, cluster: Cluster | None,
                scratch: str) -> None:
    data = open_set(text, arguments, scratch)
    metric = arguments.metric or data.metric
    title = (f"{data.name}: {data.base.rows:,} x {data.base.dim}, {metric},"
             f" {len(data.queries):,} queries, k = {arguments.k}")
    print(f"\n==== {title}", flush=True)
    truth = true_neighbours(data, metric, arguments.k)
    server = Server(data.base, arguments.storage)
    client = Client(scratch, data.queries)
    results = {
        "title": title, "set": data.name, "rows": data.base.rows, "dim": data.base.dim,
        "metric": metric, "queries": len(data.queries), "k": arguments.k,
        **report.provenance(), "kept_awake": arguments.kept_awake,
        "settings": {name: server.value(f"SHOW {name}") for name in (
            "server_version", "shared_buffers", "maintenance_work_mem", "work_mem",
            "max_parallel_maintenance_workers", "fsync", "synchronous_commit", "jit")},
        "systems": {}, "skipped": {},
    }
    points: list[Point] = []
    for system, make in contenders(arguments, server, client, data, metric):
        try:
            contender = make()
        except Unavailable as reason:
            print(f"== {system}: skipped, {reason}")
            results["skipped"][system] = str(reason)
            continue
        try:
            results["systems"][contender.name] = measure_contender(
                contender, arguments, server, client, cluster, data, metric, truth, points)
        finally:
            contender.close()
    server.close()
    name = arguments.name or time.strftime("%Y%m%d-%H%M-") + f"{data.name}-{metric}"
    stem = report.write(arguments.results, name, results, points)
    print(f"   results: {stem}.json, .csv, .png")
    print(report.summary(results, points), flush=True)


def keep_awake(stack: contextlib.ExitStack) -> bool:
    """Forbid the processors to sleep: a query wakes two, which in a virtual machine can take
    longer than the search."""
    try:
        file = stack.enter_context(open("/dev/cpu_dma_latency", "wb", buffering=0))
        file.write(struct.pack("i", 0))
    except OSError:
        return False
    return True


def run_bench(arguments: argparse.Namespace) -> None:
    machine = report.machine()
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB,"
          f" Linux {machine['kernel']}, load average {machine['load_average']}", flush=True)
    with contextlib.ExitStack() as stack:
        arguments.kept_awake = not arguments.let_sleep and keep_awake(stack)
        print("processors are " + ("kept awake" if arguments.kept_awake else "free to sleep"))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(
            prefix="vqpg-bench-", dir=arguments.work_dir))
        cluster = None
        if not arguments.use_server:
            settings = bench_settings(arguments.shared_buffers, arguments.maintenance_work_mem)
            cluster = stack.enter_context(Cluster(settings + arguments.settings,
                                                  arguments.work_dir, arguments.add_install))
        for text in arguments.set:
            measure_set(text, arguments, cluster, scratch)


def main() -> None:
    arguments = parse_arguments()
    # So that a throwaway cluster does not outlive a killed run
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        {"run": run_bench, "make": run_make, "shape": run_shape, "lists": run_lists}[arguments.command](arguments)
    except (ClusterError, OSError, ValueError, psycopg.OperationalError) as error:
        sys.exit(f"bench.py: {error}")


if __name__ == "__main__":
    main()
