"""Declared recall: which setting of an index's search parameter reaches it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _inputs

if TYPE_CHECKING:
    from .flat import Flat

# Vectors of the index that stand in for queries when none are given, and where their sample starts.
_HELD_OUT, _SEED = 1000, 0
# Settings are told apart down to this ratio.
_RATIO = 1.03


@dataclass(frozen=True)
class Tuning:
    """
    What was measured of declared recall.

    Attributes
    ----------
    parameter : str
        The parameter of `search` that is set.
    k : int
        Results per query for which it was measured.
    queries : str
        "given", or "held out" where vectors of the index stood in for queries.
    n : int
        How many queries there were.
    table : tuple of (recall, measured, value)
        For each recall that was asked for, by growing recall: the recall that was measured, and the value with which.
    """

    parameter: str
    k: int
    queries: str
    n: int
    table: tuple[tuple[float, float, float], ...]

    @classmethod
    def _of(
        cls, parameter: str, k: int, queries: str, n: int, table: list[tuple[float, float, float]]
    ) -> Tuning | None:
        return cls(parameter, k, queries, n, tuple(table)) if table else None


class _Truth:
    """Queries and their true neighbours, against which searches of one index are measured."""

    def __init__(self, index: Flat, queries: npt.ArrayLike | None, k: int, threads: int | None) -> None:
        self.index, self.k, self.threads = index, _inputs.count(k, "k"), threads
        if self.k == 0:
            raise ValueError("k: 0 given, expected at least 1")
        if len(index) == 0:
            raise ValueError("recall cannot be measured on an index without vectors")
        self.own: npt.NDArray[np.int64] | None = None  # of the vectors that stand in for queries
        if queries is None:
            ids = index.ids()
            chosen = np.random.default_rng(_SEED).permutation(len(ids))[:_HELD_OUT]
            self.own = ids[np.sort(chosen)]
            self.queries: Any = index.reconstruct(self.own)
        else:
            self.queries = queries
        self.ids = self._search({"exact": True})
        if len(self.ids) == 0:
            raise ValueError("queries: none given")

    def _search(self, parameters: dict[str, Any]) -> npt.NDArray[np.int64]:
        if self.own is None:
            return self.index.search(self.queries, self.k, threads=self.threads, **parameters).ids
        # As many candidates besides the query itself as a search for k results would have.
        if "oversample" in parameters:
            parameters = {"oversample": (self.k * parameters["oversample"] + 1) / (self.k + 1)}
        found = self.index.search(self.queries, self.k + 1, threads=self.threads, **parameters).ids
        # Without the query's own id; where that was not found, without the last place.
        others = found != self.own[:, None]
        others[others.all(axis=1), -1] = False
        kept: npt.NDArray[np.int64] = found[others].reshape(len(found), -1)
        return kept

    def recalls(self, parameters: dict[str, Any]) -> npt.NDArray[np.float64]:
        """The share of its true neighbours that the search finds, for each query."""
        found = self._search(parameters)
        wanted = (self.ids >= 0).sum(axis=1)
        hits = [np.isin(true[true >= 0], some).sum() for true, some in zip(self.ids, found, strict=True)]
        shares: npt.NDArray[np.float64] = np.divide(hits, wanted, out=np.ones(len(found)), where=wanted > 0)
        return shares


def measure_recall(
    index: Flat, queries: npt.ArrayLike, k: int, parameters: dict[str, Any], threads: int | None
) -> float:
    """Mean recall of a search with these parameters."""
    if queries is None:
        raise TypeError("queries: None given, expected vectors")
    return float(_Truth(index, queries, k, threads).recalls(parameters).mean())


def tune(
    index: Flat,
    queries: npt.ArrayLike | None,
    k: int,
    recall: Sequence[float],
    threads: int | None,
    progress: _inputs.Progress | None,
) -> Tuning:
    """Find the smallest setting for each recall, and keep it in the index."""
    wanted = sorted({_inputs.number(value, "recall") for value in np.atleast_1d(np.asarray(recall, dtype=object))})
    if not wanted:
        raise ValueError("recall: none given")
    for value in wanted:
        if not 0 < value <= 1:
            raise ValueError(f"recall: {value} given, expected more than 0 and at most 1")
    watch = _inputs.progress(progress)
    truth = _Truth(index, queries, k, threads)
    measured: dict[float, tuple[float, float]] = {}  # setting: mean recall, and the least it is likely to be

    def reached(setting: float) -> tuple[float, float]:
        if setting not in measured:
            recalls = truth.recalls({"oversample": setting} if index.rerank else {})
            spread = recalls.std() / np.sqrt(len(recalls))
            measured[setting] = (float(recalls.mean()), float(recalls.mean() - spread))
        return measured[setting]

    largest = max(1.0, len(index) / truth.k)
    table, low = [], 1.0
    for place, target in enumerate(wanted):
        high = low
        while high < largest and reached(high)[1] < target:  # queries to come may fare a little worse than these
            low, high = high, min(high * 2, largest)
        while high / low > _RATIO:
            middle = float(np.sqrt(low * high))
            if reached(middle)[1] < target:
                low = middle
            else:
                high = middle
        low = high
        table.append((target, reached(high)[0], high))
        if watch is not None:
            watch((place + 1) / len(wanted))
    kind = "held out" if queries is None else "given"
    index._core.set_tuning(truth.k, kind, len(truth.ids), table)
    return Tuning("oversample", truth.k, kind, len(truth.ids), tuple(table))
