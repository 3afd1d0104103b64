"""
Vectors to search: datasets from folders, and data made to be hard.

The environment variable NEARFIELD_DATA names a folder with one folder per dataset: ``base.npy``, ``query.npy`` and
``metric.txt``. Generated datasets need no files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .environment import BenchError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Dataset:
    name: str
    base: Floats
    queries: Floats
    metric: str


def load(name: str) -> Dataset:
    """Open a dataset by name, mapped; generated ones are made anew, always the same."""
    if name in GENERATED:
        return Dataset(name, *GENERATED[name](np.random.default_rng(0)), "ip")
    base, queries = (extra(name, file).astype(np.float32, copy=False) for file in ("base", "query"))
    with _named(name):
        metric = (_folder(name) / "metric.txt").read_text().strip()
    return Dataset(name, base, queries, metric)


def extra(name: str, array: str) -> npt.NDArray[Any]:
    """An array that a dataset has, mapped."""
    with _named(name):
        return np.load(_folder(name) / f"{array}.npy", mmap_mode="r")


def _folder(name: str) -> Path:
    root = os.environ.get("NEARFIELD_DATA")
    if root is None:
        raise BenchError("NEARFIELD_DATA is not set: it names the folder of the datasets")
    return Path(root) / name


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which dataset lacks a file."""
    try:
        yield
    except FileNotFoundError as error:
        raise BenchError(f"dataset {name}: no file {error.filename}") from None


def unit(vectors: Floats) -> Floats:
    """The vectors at length 1, but zeros as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def recall(found: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> float:
    """Share of the right ids that were found."""
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, right, strict=True)])) / right.shape[1]


N, DIM, QUERIES = 100_000, 384, 1000


def _gaussian(rng: np.random.Generator) -> tuple[Floats, Floats]:
    return rng.standard_normal((N, DIM), np.float32), rng.standard_normal((QUERIES, DIM), np.float32)


def _norms(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Lengths spread evenly in the logarithm over four decades."""
    base, queries = _gaussian(rng)
    return base * (10 ** rng.uniform(-2, 2, (N, 1))).astype(np.float32), queries


def _outlier(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """One dimension a thousand times larger than the others."""
    base, queries = _gaussian(rng)
    base[:, 7] *= 1000
    queries[:, 7] *= 1000
    return base, queries


def _equal(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """The same vector again and again: nothing can be told apart."""
    base, queries = _gaussian(rng)
    base[:] = base[0]
    return base, queries


GENERATED: dict[str, Callable[[np.random.Generator], tuple[Floats, Floats]]] = {
    "gaussian": _gaussian,
    "norms": _norms,
    "outlier": _outlier,
    "equal": _equal,
}


def oracle(base: Floats, queries: Floats, metric: str, k: int) -> npt.NDArray[np.int64]:
    """
    Return the ids of the k best vectors by exact arithmetic, ties by lower id.

    A float64 matrix product finds all vectors that could be among the k best, with a margin far above its rounding;
    these are compared in extended precision, where equal vectors get equal scores. Under cosine the vectors are brought
    to length 1 first, in float32.
    """
    if metric == "cosine":
        base = unit(base)
    wide = base.astype(np.float64)
    norms = np.einsum("ij,ij->i", wide, wide)
    out = np.empty((len(queries), k), np.int64)
    for i, query in enumerate(queries.astype(np.float64)):
        if i % 64 == 0:
            products = queries[i : i + 64].astype(np.float64) @ wide.T
        product = products[i % 64]
        distance = norms - 2 * product if metric == "l2" else -product
        margin = 1e-11 * (query @ query + norms.max())
        candidates = np.flatnonzero(distance <= np.partition(distance, k - 1)[k - 1] + margin)
        if len(candidates) > 1000 and (base[candidates] == base[candidates[0]]).all():
            candidates = candidates[:k]  # all the same vector
        rows, exact = wide[candidates].astype(np.longdouble), query.astype(np.longdouble)
        scores = ((rows - exact) ** 2).sum(axis=1) if metric == "l2" else -(rows * exact).sum(axis=1)
        out[i] = candidates[np.lexsort((candidates, scores))[:k]]
    return out
