"""Where the time of a query goes: the stages of a backend, from perf."""

from __future__ import annotations

import collections
import shutil
import subprocess
import tempfile
import threading
import time

from client import Client
from peers import PostgresContender
from server import Server

# The innermost function of a stack that is named here decides the stage
STAGES = {
    "table of the query": ("prepare_codec", "vq_codec_query", "vq_codec_query_tables"),
    "nearest lists": ("ivfpq_coarse_begin", "ivfpq_coarse_next", "begin_groups", "find_lists"),
    "directory": ("ivfpq_list_entry",),
    "scoring": ("score_block", "vq_block_sums", "scan4", "scan8", "bound"),
    "pages of lists": ("ivfpq_list_walk", "ivfpq_ahead_fetch", "visit_page",
                       "ivfpq_candidates_add", "take_lists"),
    "selection": ("vq_pool_cut", "vq_pool_add", "vq_select_ahead", "vq_select_take"),
    "looking ahead": ("look_ahead", "approach", "ivfpq_rerank_approach"),
    "exact distances": ("vq_l2_distance_squared", "vq_cosine_distance", "vq_inner_product",
                        "vq_datum_open"),
    "rows of the table": ("ivfpq_rerank",),
    "rest of the scan": ("ivfpqgettuple", "ivfpqrescan", "ivfpqbeginscan", "ivfpqendscan"),
    "parameters, plan": ("exec_bind_message", "GetCachedPlan", "array_recv"),
    "executor": ("ExecutorRun", "standard_ExecutorRun", "ExecutorStart", "ExecutorEnd",
                 "standard_ExecutorStart", "standard_ExecutorEnd", "PortalRun", "PortalStart"),
    "messages, waiting for the client": ("PostgresMain",),
}
STAGE_OF = {function: stage for stage, functions in STAGES.items() for function in functions}


def stage_of(stack: list[str]) -> str:
    """Innermost first; coarse search and tables own all they call."""
    for owner in ("nearest lists", "table of the query", "looking ahead"):
        if any(STAGE_OF.get(function) == owner for function in stack):
            return owner
    return next((STAGE_OF[function] for function in stack if function in STAGE_OF), "other")


def sample(server: Server, client: Client, contender: PostgresContender, knob: int | None,
           seconds: float) -> tuple[dict[str, float], float]:
    """Share of the backend's time per stage, and queries per second meanwhile."""
    perf = shutil.which("perf")
    if perf is None:
        raise SystemExit("bench.py: profile needs perf (Debian: linux-perf)")
    sql, setup = contender.query_sql(), contender.setup_sql("", knob)
    timing: list = []
    runner = threading.Thread(target=lambda: timing.append(client.run(
        sql, contender.column_type, contender.k, setup, seconds=seconds + 1)))
    runner.start()
    time.sleep(0.7)
    pid = server.value("SELECT max(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                       " AND backend_type = 'client backend'")
    with tempfile.NamedTemporaryFile(prefix="vqpg-perf-") as file:
        # Its exit status tells how the sleep ended, nothing else
        subprocess.run([perf, "record", "-q", "-F", "1999", "-g", "-o", file.name, "-p", str(pid),
                        "--", "sleep", str(seconds)], check=False, stderr=subprocess.DEVNULL)
        # Nothing to read, if the backend was not there yet: no stages then
        script = subprocess.run([perf, "script", "-i", file.name, "-F", "ip,sym"], check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    runner.join()
    counts = collections.Counter(
        stage_of([line.split()[-1] for line in stack.splitlines() if line.strip()])
        for stack in script.split("\n\n") if stack.strip())
    total = max(1, sum(counts.values()))
    return {stage: count / total for stage, count in counts.most_common()}, \
        timing[0].queries_per_second
