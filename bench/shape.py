"""What a vector set looks like to an index: numbers that compare sets.

local intrinsic dimension   how fast neighbours multiply with the distance
                            (maximum-likelihood estimate over the 100 nearest;
                            Amsaleg et al., KDD 2015, section 3)
contrast                    distance to a random row against the distance to
                            the nearest and to the tenth neighbour
list coverage               share of the ten nearest rows that lie in the p
                            lists nearest to the query, lists made by plain
                            k-means: the recall that no scan of p lists exceeds
"""

from __future__ import annotations

import numpy as np

from vectors import Dataset, distances, exact_neighbours


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _nearest(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return np.argmin(np.square(centroids).sum(axis=1) / 2 - rows @ centroids.T, axis=1)


def _kmeans(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    centroids = rows[rng.choice(len(rows), count, replace=False)]
    for _ in range(8):
        labels = np.concatenate([_nearest(part, centroids)
                                 for part in np.array_split(rows, len(rows) // 8192 + 1)])
        counts = np.bincount(labels, minlength=count)
        order = np.argsort(labels, kind="stable")
        filled = np.flatnonzero(counts)
        starts = np.cumsum(counts)[filled] - counts[filled]
        centroids[filled] = (np.add.reduceat(rows[order], starts, axis=0)
                             / counts[filled, None])
        empty = np.flatnonzero(counts == 0)
        centroids[empty] = rows[rng.choice(len(rows), len(empty))]
    return centroids


def shape(data: Dataset, metric: str, lists: int) -> dict[str, float]:
    rng = np.random.default_rng(1)
    prepare = _unit if metric == "cosine" else (lambda rows: rows)
    base, queries = data.base, prepare(data.queries)
    truth = data.truth.get(metric)
    if truth is None or truth.shape[1] < 100:
        truth = exact_neighbours(base, data.queries, 100, metric)
    others = prepare(base.take(np.sort(rng.choice(base.rows, 1000, replace=False))))
    dimension, first, tenth = [], [], []
    for query, ids in zip(queries, truth[:, :100]):
        near = distances("l2", query, prepare(base.take(ids)))
        near = near[near > 0]
        dimension.append(-1 / np.log(near[:-1] / near[-1]).mean())
        far = distances("l2", query, others).mean()
        first.append(far / near[0])
        tenth.append(far / near[9])
    result = {
        "intrinsic dimension": float(np.median(dimension)),
        "contrast to 1st": float(np.median(first)),
        "contrast to 10th": float(np.median(tenth)),
    }
    sample = prepare(base.take(np.sort(rng.choice(base.rows, min(base.rows, 64 * lists),
                                                  replace=False))))
    centroids = _kmeans(sample, lists, rng)
    list_of = np.concatenate([_nearest(prepare(rows), centroids)
                              for _, rows in base.blocks(16384)])
    order = np.argsort(np.square(centroids).sum(axis=1) / 2 - queries @ centroids.T, axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(lists)[None, :], axis=1)
    found_at = np.take_along_axis(rank, list_of[truth[:, :10]], axis=1)
    probes = 1
    while probes <= lists // 4:
        result[f"coverage of {probes} lists"] = float((found_at < probes).mean())
        probes *= 2
    counts = np.bincount(list_of, minlength=lists)
    result["list imbalance"] = float(lists * np.square(counts / counts.sum()).sum())
    return result
