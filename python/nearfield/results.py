"""What a search returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, repr=False)
class Hits:
    """
    The best matches of each query; unpacks as ``ids, scores = hits``.

    Attributes
    ----------
    ids : ndarray of int64, shape (queries, k)
        Ids of the matches, best first, ties by lower id; -1 in places for which there was no vector.
    scores : ndarray of float32, shape (queries, k)
        Their scores in the metric's own unit: inner product, cosine similarity in [-1, 1], Jaccard similarity in
        [0, 1] (all higher is better), Euclidean distance, or number of different bits (lower is better); NaN in places
        for which there was no vector.
    counts : ndarray of int64, shape (queries,)
        How many places of each row are filled.
    plan : str
        How the search was carried out.
    """

    ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    plan: str

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return iter((self.ids, self.scores))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        queries, k = self.ids.shape
        return f"Hits(queries={queries}, k={k}, plan={self.plan!r})"


@dataclass(frozen=True, repr=False)
class RangeHits:
    """
    Everything within a radius of each query; the matches of query ``i`` are ``[offsets[i]:offsets[i + 1]]``.

    Attributes
    ----------
    ids : ndarray of int64, shape (matches,)
        Ids, best first within each query, ties by lower id.
    scores : ndarray of float32, shape (matches,)
        Scores in the metric's own unit.
    offsets : ndarray of int64, shape (queries + 1,)
        Where the matches of each query begin and end.
    """

    ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return iter((self.ids, self.scores, self.offsets))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"RangeHits(queries={len(self)}, matches={len(self.ids)})"
