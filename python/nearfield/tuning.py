"""Declared recall: which settings of an index's search parameters reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _inputs

if TYPE_CHECKING:
    from ._index import Index

# Vectors of the index that stand in for queries when none are given, and where their sample starts.
_HELD_OUT, _SEED = 1000, 0
# Settings are looked for in steps of this ratio first, and then told apart down to this ratio of their costs.
_STEP, _RATIO = 2**0.5, 1.03
# How long a candidate takes that is scored again, in codes of lists that are scanned in that time.
_RERANKED = 60


@dataclass(frozen=True)
class Tuning:
    """
    What was measured of declared recall.

    Attributes
    ----------
    parameter : str
        What is set: "oversample"; for lists "probes, oversample", or "probes" where nothing is scored again.
    k : int
        Results per query for which it was measured.
    queries : str
        "given", or "held out" where vectors of the index stood in for queries.
    n : int
        How many queries there were.
    table : tuple of (recall, measured, value) or (recall, measured, value, value)
        For each recall that was asked for, by growing recall: the recall that was measured, and the value or the values
        with which.
    """

    parameter: str
    k: int
    queries: str
    n: int
    table: tuple[tuple[float, ...], ...]

    @classmethod
    def _of(
        cls, names: tuple[str, ...], k: int, queries: str, n: int, table: list[tuple[float, float, float, int]]
    ) -> Tuning:
        """What the core keeps, with the values of these parameters."""
        rows: list[tuple[float, ...]] = []
        for recall, measured, oversample, probes in table:
            values = {"probes": probes, "oversample": oversample}
            rows.append((recall, measured, *(values[name] for name in names)))
        return cls(", ".join(names), k, queries, n, tuple(rows))


class _Truth:
    """Queries and their true neighbours, against which searches of one index are measured."""

    def __init__(self, index: Index, queries: npt.ArrayLike | None, k: int, threads: int | None) -> None:
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
            return self.index._search(self.queries, self.k, threads=self.threads, **parameters).ids
        # As many candidates besides the query itself as a search for k results would have.
        if "oversample" in parameters:
            candidates = self.k * parameters["oversample"] + 1
            parameters = parameters | {"oversample": candidates / (self.k + 1)}
        found = self.index._search(self.queries, self.k + 1, threads=self.threads, **parameters).ids
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
    index: Index, queries: npt.ArrayLike, k: int, parameters: dict[str, Any], threads: int | None
) -> float:
    """Mean recall of a search with these parameters."""
    if queries is None:
        raise TypeError("queries: None given, expected vectors")
    return float(_Truth(index, queries, k, threads).recalls(parameters).mean())


Setting = tuple[int, float]  # probes, 0 where there are no lists, and oversample


def _ladder(most: float) -> list[float]:
    """From 1 to the largest value, in steps."""
    values, value = [], 1.0
    while value < most:
        values.append(value)
        value *= _STEP
    return [*values, most]


class _Settings:
    """Settings of an index's searches: what they cost, and which recall they reach."""

    def __init__(self, index: Index, truth: _Truth) -> None:
        self.truth, self.k = truth, truth.k
        self.names = [name for name in index._tuned if name != "oversample" or index.rerank]
        self.measured: dict[Setting, tuple[float, float]] = {}  # mean recall, and the least it is likely to be
        sizes = index._list_sizes.astype(np.float64)
        self.lists = len(sizes)
        # Codes that a probe scans: the longer a list, the more queries visit it.
        self.scanned = np.square(sizes).sum() / sizes.sum() if self.lists else 0.0
        self.largest = max(1.0, len(index) / self.k) if index.rerank else 1.0

    def cost(self, setting: Setting) -> float:
        """What a search with this setting does for a query, in codes that are scanned."""
        probes, oversample = setting
        return float(probes * self.scanned + oversample * self.k * _RERANKED)

    def recall(self, setting: Setting) -> tuple[float, float]:
        """The mean recall, and the least it is likely to be."""
        if setting not in self.measured:
            values = {"probes": setting[0], "oversample": setting[1]}
            recalls = self.truth.recalls({name: values[name] for name in self.names})
            spread = recalls.std() / np.sqrt(len(recalls))
            self.measured[setting] = (float(recalls.mean()), float(recalls.mean() - spread))
        return self.measured[setting]

    def reaches(self, setting: Setting, target: float) -> bool:
        """Whether a recall is reached, with a margin: queries to come may fare a little worse than these."""
        probes, oversample = setting
        if any(least < target and p >= probes and o >= oversample for (p, o), (_, least) in self.measured.items()):
            return False
        return self.recall(setting)[1] >= target

    def cheapest(self, target: float, start: Setting) -> Setting:
        """Of the settings that reach a recall, that of least cost; `start` is what was found for a lower one."""
        if self.reaches(start, target):
            return start
        best, most = start, (self.lists, self.largest)
        while best != most and not self.reaches(best, target):
            best = (min(2 * best[0], self.lists), min(2 * best[1], self.largest))
        # Along the border of what reaches the recall: from many probes and few candidates on, fewer probes where these
        # are enough, and more candidates where they are not.
        ladder = sorted({round(probes) for probes in _ladder(self.lists)})
        for oversample in _ladder(self.largest):
            while ladder:
                setting = (ladder[-1], oversample)
                if self.cost(setting) < self.cost(best):
                    if not self.reaches(setting, target):
                        break
                    best = setting
                ladder.pop()
        return self.refined(best, target)

    def refined(self, setting: Setting, target: float) -> Setting:
        """The least probes within a step, and then the least oversample, as far as these make a difference."""
        probes, oversample = setting
        fewer = int(probes / _STEP)
        while probes > fewer + 1 and self.cost((probes, oversample)) > _RATIO * self.cost((fewer, oversample)):
            middle = (fewer + probes) // 2
            if self.reaches((middle, oversample), target):
                probes = middle
            else:
                fewer = middle
        smaller = max(1.0, oversample / _STEP)
        while self.cost((probes, oversample)) > _RATIO * self.cost((probes, smaller)):
            between = float(np.sqrt(smaller * oversample))
            if self.reaches((probes, between), target):
                oversample = between
            else:
                smaller = between
        return probes, oversample


def tune(
    index: Index,
    queries: npt.ArrayLike | None,
    k: int,
    recall: Sequence[float],
    threads: int | None,
    progress: _inputs.Progress | None,
) -> Tuning:
    """Find the setting of least cost for each recall, and keep it in the index."""
    wanted = sorted({_inputs.number(value, "recall") for value in np.atleast_1d(np.asarray(recall, dtype=object))})
    if not wanted:
        raise ValueError("recall: none given")
    for value in wanted:
        if not 0 < value <= 1:
            raise ValueError(f"recall: {value} given, expected more than 0 and at most 1")
    watch = _inputs.progress(progress)
    truth = _Truth(index, queries, k, threads)
    settings = _Settings(index, truth)
    table, found = [], (min(1, settings.lists), 1.0)
    for place, target in enumerate(wanted):
        found = settings.cheapest(target, found)
        table.append((target, settings.recall(found)[0], found[1], found[0]))
        if watch is not None:
            watch((place + 1) / len(wanted))
    kind = "held out" if queries is None else "given"
    index._core.set_tuning(truth.k, kind, len(truth.ids), table)
    return Tuning._of(index._tuned, truth.k, kind, len(truth.ids), table)
