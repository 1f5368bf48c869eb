#!/usr/bin/python3
"""The Python part of demo.sh: a package search that a person can judge.

Usage: demo_packages.py SCRATCH_FOLDER

Turns the descriptions of the packages that apt knows into vectors (TF-IDF, then
a truncated SVD, "latent semantic analysis"), loads them into the server that
PGHOST names, indexes them and searches.  No model and no download is needed,
and anybody can tell whether an image editor was found.
"""

from __future__ import annotations

import glob
import re
import struct
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import psycopg
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from client import Client
from encode import COPY_HEADER, COPY_TRAILER, encode_real_array
from report import bytes_text
from vectors import Dataset, Judge, Vectors, exact_neighbours

DIM = 300
HELD_OUT = 1000         # packages kept out of the table: the queries that measure recall
K = 10
LIBRARY_SECTIONS = set("""libs libdevel oldlibs debug doc introspection kernel localization fonts
    cli-mono gnu-r golang haskell java javascript lisp ocaml perl php python ruby rust""".split())
QUESTIONS = ("image editor", "play music files", "web server", "chess game", "compress files")
SEARCH = "SELECT id FROM packages ORDER BY embedding <=> $1::real[] LIMIT 10"
NO_INDEX = "SET enable_indexscan = off"


def say(text: str) -> None:
    print(f"   {text}", flush=True)


@dataclass
class Package:
    name: str
    section: str
    summary: str
    words: str          # all that is known about it, to make a vector of


def records(text: str):
    """Paragraphs of a Debian control file as dictionaries."""
    for paragraph in text.split("\n\n"):
        yield dict(re.findall(r"^([A-Za-z0-9-]+): ?(.*(?:\n[ \t].*)*)", paragraph, re.MULTILINE))


def read_packages() -> list[Package]:
    """Every package in apt's lists, by name."""
    available = subprocess.run(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, text=True,
                               check=True).stdout
    # Long descriptions are in lists of their own, which minimal systems do not fetch
    long_texts: dict[str, str] = {}
    for path in glob.glob("/var/lib/apt/lists/*_Translation-en*"):
        text = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path],
                              stdout=subprocess.PIPE, text=True, check=True).stdout
        long_texts.update((record["Package"], record.get("Description-en", ""))
                          for record in records(text) if "Package" in record)
    packages = {}
    for record in records(available):
        name, description = record.get("Package"), record.get("Description")
        if not name or not description or "transitional" in description:
            continue
        section = record.get("Section", "").split("/")[-1]
        tags = " ".join(re.findall(r"\b(?:field|game|sound|use|web|works-with)::([a-z:-]+)",
                                   record.get("Tag", "")))
        packages[name] = Package(name, section, description.split("\n")[0],
                                 f"{name} {long_texts.get(name) or description} {tags}")
    return [packages[name] for name in sorted(packages)]


def stems(text: str) -> list[str]:
    """Words without their endings, roughly: compress, compression, compressed."""
    return [word[:6] for word in re.findall(r"[a-z]{2,}", text.lower())
            if word not in ENGLISH_STOP_WORDS]


class Embedder:
    """Words to unit vectors.

    The directions come from packages that are programs: among all, the
    thousands of libraries with descriptions made by rule would take most of them.
    """

    def __init__(self, packages: list[Package]):
        self._words = TfidfVectorizer(analyzer=stems, sublinear_tf=True, min_df=3, max_df=0.2,
                                      dtype=np.float32)
        weights = self._words.fit_transform([package.words for package in packages])
        programs = [i for i, package in enumerate(packages)
                    if package.section not in LIBRARY_SECTIONS]
        self._svd = TruncatedSVD(DIM, n_iter=3, random_state=1).fit(weights[programs])
        self.vectors = self._unit(self._svd.transform(weights))

    def __call__(self, text: str) -> np.ndarray:
        return self._unit(self._svd.transform(self._words.transform([text])))[0]

    @staticmethod
    def _unit(rows: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.ascontiguousarray(rows / np.where(norms > 0, norms, 1), np.float32)


def load(connection, packages: list[Package], vectors: np.ndarray) -> None:
    connection.execute("CREATE TABLE packages (id bigint PRIMARY KEY, name text, section text,"
                       " summary text, embedding real[])")
    encoded = encode_real_array(vectors)
    with connection.cursor().copy("COPY packages FROM STDIN (FORMAT binary)") as copy:
        chunk = bytearray(COPY_HEADER)
        for i, package in enumerate(packages):
            chunk += struct.pack(">hiq", 5, 8, i)
            for field in (package.name.encode(), package.section.encode(),
                          package.summary.encode(), encoded[i].tobytes()):
                chunk += struct.pack(">i", len(field)) + field
            if len(chunk) > 1 << 20:
                copy.write(chunk)
                chunk.clear()
        copy.write(chunk + COPY_TRAILER)
    connection.execute("VACUUM ANALYZE packages")


def search(connection, title: str, vector_sql: str, parameters: tuple, where: str = "") -> None:
    start = time.perf_counter()
    rows = connection.execute(
        f"SELECT name, summary, embedding <=> {vector_sql} FROM packages {where}"
        f" ORDER BY embedding <=> {vector_sql} LIMIT 5", parameters * 2).fetchall()
    print(f"\n   {title}   ({1e3 * (time.perf_counter() - start):.1f} ms with the driver's share)")
    for name, summary, distance in rows:
        print(f"      {distance:.3f}  {name:<26.26} {summary:.60}")


def measure(connection, scratch: str, base: np.ndarray, queries: np.ndarray) -> None:
    data = Dataset("packages", Vectors(base), queries, "cosine")
    judge = Judge(data, "cosine", K, exact_neighbours(data.base, queries, K, "cosine"))
    client = Client(scratch, queries)
    by_index = client.run(SEARCH, "real[]", K, seconds=3)
    exact = Client(scratch, queries[:20]).run(SEARCH, "real[]", K, NO_INDEX, seconds=1, warmup=6)
    recall = judge.judge(by_index.ids).recall
    table, index = connection.execute(
        "SELECT pg_table_size('packages'), pg_relation_size('packages_embedding_idx')").fetchone()
    say(f"recall@{K}: {recall:.3f}, over {len(queries):,} packages kept out of the table")
    say(f"speed:     {by_index.queries_per_second:,.0f} queries/s with the index,"
        f" p95 {by_index.percentile_ms(95):.2f} ms;"
        f" {exact.queries_per_second:,.0f} queries/s without it (one connection)")
    say(f"size:      index {bytes_text(index)}, table {bytes_text(table)}:"
        f" 1/{table / index:.1f}")


def main() -> None:
    scratch = sys.argv[1]
    print("== reading package descriptions and computing vectors")
    start = time.perf_counter()
    packages = read_packages()
    embedder = Embedder(packages)
    chosen = np.random.default_rng(1).permutation(len(packages))
    kept = np.sort(chosen[HELD_OUT:])
    # A package all of whose words are unknown has no direction
    held_out = [i for i in chosen[:HELD_OUT] if embedder.vectors[i].any()]
    base, queries = embedder.vectors[kept], embedder.vectors[held_out]
    say(f"{len(packages):,} packages, {DIM} dimensions, {time.perf_counter() - start:.1f} s")

    print("== loading them into a table")
    with psycopg.connect("", autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vqpg")
        start = time.perf_counter()
        load(connection, [packages[i] for i in kept], base)
        say(f"{len(kept):,} rows, {time.perf_counter() - start:.1f} s")

        print("== CREATE INDEX ON packages USING ivfpq (embedding array_cosine_ops)")
        start = time.perf_counter()
        connection.execute("CREATE INDEX ON packages USING ivfpq (embedding array_cosine_ops)")
        say(f"built in {time.perf_counter() - start:.2f} s")

        print("== searching: ... ORDER BY embedding <=> $1 LIMIT 5", end="")
        for question in QUESTIONS:
            vector = embedder(question).tolist()
            search(connection, f'"{question}"', "%s::real[]", (vector,))
        search(connection, '"puzzle for children" WHERE section = \'games\'', "%s::real[]",
               (embedder("puzzle for children").tolist(),), "WHERE section = 'games'")
        search(connection, "packages like postgresql",
               "(SELECT embedding FROM packages WHERE name = 'postgresql')", ())

        print("\n== measuring")
        measure(connection, scratch, base, queries)


if __name__ == "__main__":
    main()
