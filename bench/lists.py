"""The lists of an index against those of plain k-means.

Both have the same number of lists, and the same number of those nearest to a
query is searched, every row in them compared exactly: what is found of the true
neighbours is what the lists put there, whatever the codes.  Lists of unequal
length find more in the same number of them, because more rows are looked at; so
what plain k-means would find among as many rows is told as well.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields

import numpy as np

from peers import PostgresContender, Unavailable, faiss_rows
from vectors import Dataset, Judge

# Every row of the lists is compared, and no further lists join in
EXACT = "SET ivfpq.epsilon = 100; SET ivfpq.iterative_scan = off"
ITERATIONS = 25


@dataclass
class ListPoint:
    nprobe: int
    rows: float                 # in the lists searched
    recall: float
    plain_rows: float
    plain_recall: float
    plain_recall_same_rows: float

    HEADING = ("  nprobe     rows  recall | plain: rows  recall | recall at as many rows as ours")

    def text(self) -> str:
        return (f"{self.nprobe:8} {self.rows:8.0f}  {self.recall:.4f} |"
                f" {self.plain_rows:11.0f}  {self.plain_recall:.4f} | {self.plain_recall_same_rows:.4f}")


def _plain_lists(data: Dataset, metric: str, lists: int, seed: int):
    """An index of FAISS with as many lists, trained by so many iterations of k-means."""
    try:
        import faiss
    except ImportError as error:
        raise Unavailable("the Python module faiss is not installed") from error
    rows, queries = faiss_rows(data, metric)
    index = faiss.index_factory(data.base.dim, f"IVF{lists},Flat",
                                faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2)
    index.cp.niter = ITERATIONS
    index.cp.seed = seed
    index.train(rows)
    index.add(rows)

    def search(nprobe: int, k: int) -> tuple[np.ndarray, float]:
        index.nprobe = nprobe
        faiss.cvar.indexIVF_stats.reset()
        ids = index.search(queries, k)[1]
        return ids, faiss.cvar.indexIVF_stats.ndis / len(queries)

    return search, index.invlists.imbalance_factor()


def compare_lists(contender: PostgresContender, data: Dataset, metric: str, judge: Judge,
                  nprobes: list[int], seed: int) -> tuple[list[ListPoint], dict]:
    """Points by nprobe, and what there is to say of both kinds of lists."""
    contender.build()
    info = contender.build_result.info
    lists = info["lists"]
    search, imbalance = _plain_lists(data, metric, lists, seed)
    knobs = sorted({min(nprobe, lists) for nprobe in nprobes})
    plain = {}
    for nprobe in sorted({min(lists, max(1, int(knob * factor))) for knob in knobs
                          for factor in (.5, .7, .85, 1, 1.2)}):
        ids, rows = search(nprobe, judge.k)
        plain[nprobe] = (rows, judge.judge(ids).recall)
    seen_rows, seen_recall = zip(*sorted(plain.values()))
    points = []
    for nprobe in knobs:
        recall = judge.judge(contender.measure(EXACT, nprobe, 1, 0).ids).recall
        rows = contender.scan_averages(EXACT, nprobe)["codes_scored"]
        points.append(ListPoint(nprobe, rows, recall, *plain[nprobe],
                                float(np.interp(np.log(rows), np.log(seen_rows), seen_recall))))
    return points, {"lists": lists, "imbalance": info["imbalance"], "plain imbalance": imbalance}


def write_points(path: str, points: list[ListPoint]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(ListPoint)])
        writer.writeheader()
        for point in points:
            writer.writerow({name: round(value, 4) for name, value in asdict(point).items()})
