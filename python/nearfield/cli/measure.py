"""What an index is worth: recall, speed and size, measured alike by ``bench`` and ``demo``."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from rich.table import Table

import nearfield as nf

from .output import table
from .readers import Array

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measurement:
    """One index over one set of vectors and queries."""

    name: str
    plan: str
    recall: float
    batch_qps: float
    single_qps: float
    bytes_per_vector: float
    build_seconds: float
    ids: Ids = field(repr=False)  # what it found


def measure(
    name: str,
    index: nf.Flat | nf.IVF,
    vectors: Array,
    queries: Array,
    truth: Ids,
    threads: int | None = None,
    seconds: float = 0.5,
) -> Measurement:
    """
    Fill an empty index and search it, for `seconds` with all queries in one call and as long with one query a call.

    `truth` holds the ids of the true neighbours of each query, and so says how many to search for.
    """
    k = truth.shape[1]
    began = time.perf_counter()
    index.add(vectors, threads=threads)
    build_seconds = time.perf_counter() - began
    hits = index.search(queries, k, threads=threads)
    one_by_one = itertools.cycle(queries)
    return Measurement(
        name=name,
        plan=hits.plan,
        recall=recall(hits.ids, truth),
        batch_qps=len(queries) / _median_time(lambda: index.search(queries, k, threads=threads), seconds),
        single_qps=1 / _median_time(lambda: index.search(next(one_by_one), k, threads=threads), seconds),
        bytes_per_vector=index.nbytes / len(index),
        build_seconds=build_seconds,
        ids=hits.ids,
    )


def recall(found: Ids, truth: Ids) -> float:
    """Return the share of the true neighbours that were found."""
    right = sum(int(np.isin(true, own).sum()) for own, true in zip(found, truth, strict=True))
    return right / truth.size


def hit_rate(found: Ids, answers: list[Ids]) -> float:
    """Return the share of the queries for which a right answer was found."""
    return float(np.mean([np.isin(own, right).any() for own, right in zip(found, answers, strict=True)]))


def _median_time(call: Callable[[], object], seconds: float) -> float:
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < stop:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measurements_table(
    rows: list[Measurement], k: int, hit_rates: list[float] | None = None, ends: Iterable[int] = ()
) -> Table:
    """
    Return the table that compares indexes.

    It has hit rates where right answers are known, and a line below so many rows each as `ends` says.
    """
    last = set(ends)
    hits = [] if hit_rates is None else [f"hit\n@{k}"]
    shown = table("index", f"recall\n@{k}", *hits, "batch\nq/s", "single\nq/s", "bytes/\nvector", "build\nms")
    for i, row in enumerate(rows):
        shown.add_row(
            row.name,
            f"{row.recall:.4f}",
            *([] if hit_rates is None else [f"{hit_rates[i]:.3f}"]),
            f"{row.batch_qps:,.0f}",
            f"{row.single_qps:,.0f}",
            f"{row.bytes_per_vector:,.0f}",
            f"{row.build_seconds * 1e3:,.1f}",
            end_section=i + 1 in last,
        )
    return shown
