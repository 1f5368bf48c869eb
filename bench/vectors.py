"""Vector sets: readers, exact neighbours, recall, and synthetic data.

A set is a `Dataset`: base vectors that may lie on disk, queries in memory, and
the true neighbours where somebody has worked them out already.  Everything
that passes over the base vectors does so in blocks, so that a set larger than
memory can be read, generated and searched.

Distances follow the SQL operators: L2 is the square root, `ip` the negative
inner product, `cosine` one minus the cosine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

METRICS = ("l2", "ip", "cosine")

# How other people call the metrics, in file names and HDF5 attributes
METRIC_NAMES = {
    "l2": "l2", "euclidean": "l2",
    "ip": "ip", "dot": "ip", "inner_product": "ip",
    "cosine": "cosine", "cos": "cosine", "angular": "cosine",
}
TRUTH_FILES = {"l2": "gt_l2.ivecs", "ip": "gt_ip.ivecs", "cosine": "gt_cos.ivecs"}


class Vectors:
    """Rows of float32 behind any two-dimensional array, mapped or in memory.

    `first_column` hides the length that .fvecs puts before each row; `index`
    selects rows.
    """

    def __init__(self, array, first_column: int = 0, index: np.ndarray | None = None):
        self._array = array
        self._first_column = first_column
        self._index = index
        self.rows = len(array) if index is None else len(index)
        self.dim = array.shape[1] - first_column

    def read(self, start: int, stop: int) -> np.ndarray:
        rows = slice(start, min(stop, self.rows))
        if self._index is not None:
            return self.take(np.arange(rows.start, rows.stop))
        return np.ascontiguousarray(self._array[rows, self._first_column:], np.float32)

    def take(self, ids: np.ndarray) -> np.ndarray:
        if self._index is not None:
            ids = self._index[ids]
        return np.ascontiguousarray(self._array[ids, self._first_column:], np.float32)

    def blocks(self, block_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, self.rows, block_rows):
            yield start, self.read(start, start + block_rows)

    def select(self, ids: np.ndarray) -> Vectors:
        """These rows as a set of their own; nothing is read."""
        index = ids if self._index is None else self._index[ids]
        return Vectors(self._array, self._first_column, index)


@dataclass
class Dataset:
    name: str
    base: Vectors
    queries: np.ndarray
    metric: str = "l2"              # what the set was made for
    truth: dict[str, np.ndarray] = field(default_factory=dict)


# ---------------------------------------------------------------- readers


def read_fvecs(path: str) -> Vectors:
    dim = int(np.fromfile(path, "<i4", 1)[0])
    size = os.path.getsize(path)
    if dim <= 0 or size % (4 * (dim + 1)):
        raise ValueError(f"{path} is no .fvecs file: {size} bytes, first dimension {dim}")
    rows = np.memmap(path, "<f4", "r").reshape(-1, dim + 1)
    if rows[-1, :1].view("<i4")[0] != dim:
        raise ValueError(f"{path}: rows of different dimensions")
    return Vectors(rows, first_column=1)


def read_ivecs(path: str) -> np.ndarray:
    width = int(np.fromfile(path, "<i4", 1)[0])
    return np.fromfile(path, "<i4").reshape(-1, width + 1)[:, 1:].astype(np.int64)


def read_vectors(path: str) -> Vectors:
    if path.endswith(".npy"):
        array = np.load(path, mmap_mode="r")
        if array.ndim != 2:
            raise ValueError(f"{path} holds an array of {array.ndim} dimensions, not 2")
        return Vectors(array)
    if path.endswith(".fvecs"):
        return read_fvecs(path)
    raise ValueError(f"{path}: expected .fvecs, .npy or .hdf5")


def read_hdf5(path: str) -> Dataset:
    """An ann-benchmarks file: train, test, neighbors and the metric's name."""
    import h5py

    with h5py.File(path, "r") as file:
        metric = METRIC_NAMES.get(str(file.attrs.get("distance", "l2")))
        if metric is None:
            raise ValueError(f"{path}: no float metric: {file.attrs['distance']}")
        base = Vectors(file["train"][:].astype(np.float32, copy=False))
        queries = file["test"][:].astype(np.float32, copy=False)
        truth = {}
        if "neighbors" in file:
            truth[metric] = file["neighbors"][:].astype(np.int64)
    return Dataset(os.path.basename(path).rsplit(".", 1)[0], base, queries, metric, truth)


def read_folder(path: str) -> Dataset:
    """base.* and query.* (.fvecs or .npy), with gt_l2/gt_ip/gt_cos.ivecs where shipped."""
    def find(part: str) -> Vectors:
        names = [f"{part}.{extension}" for extension in ("fvecs", "npy")]
        for name in names:
            if os.path.exists(os.path.join(path, name)):
                return read_vectors(os.path.join(path, name))
        raise ValueError(f"{path} has neither {' nor '.join(names)}")

    queries = find("query")
    truth = {
        metric: read_ivecs(os.path.join(path, name))
        for metric, name in TRUTH_FILES.items()
        if os.path.exists(os.path.join(path, name))
    }
    metric = "cosine" if "cosine" in truth and "l2" not in truth else "l2"
    return Dataset(os.path.basename(os.path.normpath(path)), find("base"),
                   queries.read(0, queries.rows), metric, truth)


def hold_out(path: str, queries: int, seed: int = 1) -> Dataset:
    """One file of vectors: some random rows become the queries, the others the base."""
    vectors = read_vectors(path)
    order = np.random.default_rng(seed).permutation(vectors.rows)
    name = os.path.basename(path).rsplit(".", 1)[0]
    if name == "base":
        name = os.path.basename(os.path.dirname(os.path.abspath(path))) + "-held-out"
    return Dataset(name, vectors.select(np.sort(order[queries:])),
                   vectors.take(np.sort(order[:queries])))


def open_dataset(path: str, rows: int | None = None, queries: int | None = None) -> Dataset:
    """Open what `path` names; keep the first `rows` base vectors and `queries` queries."""
    if os.path.isdir(path):
        data = read_folder(path)
    elif path.endswith((".hdf5", ".h5")):
        data = read_hdf5(path)
    else:
        data = hold_out(path, queries or 1000)
    if rows is not None and rows < data.base.rows:
        data.base = data.base.select(np.arange(rows))
        data.truth = {}
    if queries is not None and queries < len(data.queries):
        data.queries = data.queries[:queries]
        data.truth = {metric: ids[:queries] for metric, ids in data.truth.items()}
    return data


# ---------------------------------------------------------------- exact neighbours


def distances(metric: str, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Distances from one query to some rows, in float64."""
    query = query.astype(np.float64)
    rows = rows.astype(np.float64)
    if metric == "l2":
        return np.sqrt(np.square(rows - query).sum(axis=1))
    products = rows @ query
    if metric == "ip":
        return -products
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norms > 0, 1 - products / norms, np.inf)


def _scores(metric: str, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32 scores that rank rows as the metric does (smaller is nearer)."""
    scores = queries @ rows.T
    np.negative(scores, out=scores)
    squares = np.einsum("ij,ij->i", rows, rows)
    if metric == "l2":
        scores += squares / 2
    elif metric == "cosine":
        with np.errstate(divide="ignore", invalid="ignore"):
            scores /= np.sqrt(squares)
        scores[:, squares == 0] = np.inf
    return scores


def _pad_passing(scores: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores below each row's limit, with their columns, as rows of equal length."""
    row, column = np.nonzero(scores < limit[:, None])
    counts = np.bincount(row, minlength=len(scores))
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    position = np.arange(len(row)) - starts[row]
    values = np.full((len(scores), counts.max(initial=0)), np.inf, np.float32)
    columns = np.full(values.shape, -1, np.int64)
    values[row, position] = scores[row, column]
    columns[row, position] = column
    return values, columns


def exact_neighbours(base: Vectors, queries: np.ndarray, k: int, metric: str,
                     keep_row=None) -> np.ndarray:
    """The k nearest rows of every query, nearest first: int64[queries][k], -1 where none.

    Candidates come from float32 products; half as many again as asked for are
    kept, and the order among them is that of float64 distances, equal ones by
    row number.  `keep_row` maps an array of row numbers to the ones that count.
    """
    spare = k + k // 2 + 10
    block_rows = max(1024, min(65536, (32 << 20) // max(1, len(queries))))
    # A shift leaves L2 as it is and takes away most of the cancellation in
    # |x|^2 - 2qx of vectors that are all far from zero.
    shift = base.read(0, 1000).mean(axis=0) if metric == "l2" else np.float32(0)
    shifted = queries - shift
    best = np.full((len(queries), spare), np.inf, np.float32)
    best_ids = np.full((len(queries), spare), -1, np.int64)
    for start, rows in base.blocks(block_rows):
        scores = _scores(metric, shifted, rows - shift)
        if keep_row is not None:
            scores[:, ~keep_row(np.arange(start, start + len(rows)))] = np.inf
        if start == 0 and len(rows) > spare:
            columns = np.argpartition(scores, spare, axis=1)[:, :spare]
            values = np.take_along_axis(scores, columns, axis=1)
        else:
            values, columns = _pad_passing(scores, best.max(axis=1))
        values = np.concatenate((best, values), axis=1)
        ids = np.concatenate((best_ids, np.where(columns >= 0, columns + start, -1)), axis=1)
        chosen = np.argpartition(values, spare - 1, axis=1)[:, :spare]
        best = np.take_along_axis(values, chosen, axis=1)
        best_ids = np.take_along_axis(ids, chosen, axis=1)
    truth = np.full((len(queries), k), -1, np.int64)
    for i, query in enumerate(queries):
        ids = np.sort(best_ids[i][np.isfinite(best[i])])
        exact = distances(metric, query, base.take(ids))
        nearest = ids[np.argsort(exact, kind="stable")][:k]
        truth[i, :len(nearest)] = nearest
    return truth


@dataclass
class Quality:
    recall: float       # share of the k nearest that were found, by distance
    short: int          # queries that returned fewer than k rows, though k exist
    repeated: int       # queries that returned some row twice
    disordered: int     # queries whose rows did not come nearest first


class Judge:
    """Scores answers by distance, so that a tie at rank k counts either way."""

    def __init__(self, data: Dataset, metric: str, k: int, truth: np.ndarray):
        self.data = data
        self.metric = metric
        self.k = k
        self.expected = (truth[:, :k] >= 0).sum(axis=1)
        self.limit = np.full(len(truth), -np.inf)
        for i, ids in enumerate(truth[:, :k]):
            ids = ids[ids >= 0]
            if len(ids):
                self.limit[i] = distances(metric, data.queries[i], data.base.take(ids)).max()

    def judge(self, answers: np.ndarray) -> Quality:
        """answers: int64[queries][>= k], row numbers, -1 where a row is missing; may be those of
        the first queries only."""
        hits = short = repeated = disordered = 0
        for i, answer in enumerate(answers[:, :self.k]):
            answer = answer[answer >= 0]
            ids = np.unique(answer)
            exact = distances(self.metric, self.data.queries[i], self.data.base.take(answer))
            # no row is near where none is expected
            slack = 1e-6 * max(1.0, abs(self.limit[i])) if self.expected[i] else 0.0
            near = answer[exact <= self.limit[i] + slack]
            hits += min(len(np.unique(near)), self.expected[i])
            short += len(answer) < self.expected[i]
            repeated += len(ids) < len(answer)
            disordered += bool(np.any(np.diff(exact) < -slack))
        return Quality(hits / max(1, self.expected[:len(answers)].sum()), int(short), int(repeated),
                       int(disordered))


# ---------------------------------------------------------------- synthetic data


@dataclass(frozen=True)
class SyntheticSpec:
    """Embedding-like data: a mixture of Gaussians in two levels.

    Topics, and within them components whose sizes fall off as a power of their
    rank; variances that decay along a rotated basis, for centres as for the
    rows around them; and per component its own stretch of that basis, so that
    clusters differ in size and shape as those of real embeddings do.
    """

    rows: int
    dim: int = 300
    seed: int = 1
    components: int = 0         # 0: one for every 200 rows, at most 20,000
    size_power: float = 0.8     # component sizes ~ rank ** -size_power
    spectrum_power: float = 0.7  # standard deviation along axis j ~ (j + 1) ** -spectrum_power
    spread: float = 0.8         # size of a component against the distance between centres
    normalised: bool = True


class Synthetic:
    """Draws the rows of a spec, any block of them independently of the others."""

    BLOCK_ROWS = 16384

    def __init__(self, spec: SyntheticSpec):
        self.spec = spec
        rng = np.random.default_rng((spec.seed, 0))
        count = spec.components or int(np.clip(spec.rows // 200, 16, 20000))
        sizes = np.arange(1, count + 1) ** -spec.size_power
        self._cumulative = np.cumsum(sizes / sizes.sum())
        scale = (np.arange(spec.dim) + 1.0) ** -spec.spectrum_power
        scale /= np.linalg.norm(scale)
        topics = rng.standard_normal((max(4, count // 30), spec.dim)) * scale
        topic = rng.integers(len(topics), size=count)
        self._centres = (0.7 * topics[topic] + 0.7 * rng.standard_normal(
            (count, spec.dim)) * scale).astype(np.float32)
        stretch = rng.lognormal(0, 0.5, (count, 1)) * rng.lognormal(0, 0.5, (count, spec.dim))
        self._scales = (spec.spread * scale * stretch).astype(np.float32)
        self._rotation = np.linalg.qr(rng.standard_normal((spec.dim, spec.dim)))[0].astype(
            np.float32)

    def _draw(self, rng: np.random.Generator, rows: int) -> np.ndarray:
        component = np.searchsorted(self._cumulative, rng.random(rows)).clip(
            max=len(self._centres) - 1)
        drawn = rng.standard_normal((rows, self.spec.dim), dtype=np.float32)
        drawn *= self._scales[component]
        drawn += self._centres[component]
        drawn = drawn @ self._rotation
        if self.spec.normalised:
            drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn

    def base_blocks(self) -> Iterator[np.ndarray]:
        for number, start in enumerate(range(0, self.spec.rows, self.BLOCK_ROWS)):
            rng = np.random.default_rng((self.spec.seed, 1, number))
            yield self._draw(rng, min(self.BLOCK_ROWS, self.spec.rows - start))

    def queries(self, count: int) -> np.ndarray:
        return self._draw(np.random.default_rng((self.spec.seed, 2)), count)


def write_fvecs(path: str, blocks) -> None:
    with open(path, "wb") as file:
        for block in blocks:
            out = np.empty((len(block), block.shape[1] + 1), "<f4")
            out[:, 1:] = block
            out[:, :1].view("<i4")[:] = block.shape[1]
            out.tofile(file)


def write_ivecs(path: str, ids: np.ndarray) -> None:
    out = np.empty((len(ids), ids.shape[1] + 1), "<i4")
    out[:, 0] = ids.shape[1]
    out[:, 1:] = ids
    out.tofile(path)


def make_synthetic(folder: str, spec: SyntheticSpec, queries: int) -> None:
    """Write base.fvecs and query.fvecs into a folder that read_folder understands."""
    os.makedirs(folder, exist_ok=True)
    source = Synthetic(spec)
    write_fvecs(os.path.join(folder, "base.fvecs"), source.base_blocks())
    write_fvecs(os.path.join(folder, "query.fvecs"), [source.queries(queries)])
