"""Transforms of vectors in front of a codec: codec=(nf.PCA(160), nf.SQ(8))."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _inputs
from ._parameters import Floats, ParameterObject
from ._training import Doubles, leading, moments, on_grid, unit

__all__ = ["PCA", "Blocks", "LeanVec", "Prefix", "RandomRotation"]

Map = Callable[[Doubles], Doubles]

# Variances below this share of the largest one are not blown up further by whitening.
_FLOOR = 1e-6
# The share of the second moments of documents that is spread over all directions before they stand in for queries.
_RIDGE = 0.02


class Fitted(NamedTuple):
    """A transform that has learned: its arrays by the core's names, and what it does to documents and to queries."""

    learned: dict[str, Floats]
    documents: Map
    queries: Map


def linear(matrix: Doubles, query_matrix: Doubles | None = None) -> Fitted:
    """The map of documents by one matrix and of queries by another, or the same one."""
    learned = {"matrix": on_grid(matrix)}
    if query_matrix is not None:
        learned["query_matrix"] = on_grid(query_matrix)
    second = matrix if query_matrix is None else query_matrix
    return Fitted(learned, lambda x: x @ matrix.T, lambda q: q @ second.T)


class Transform(ParameterObject):
    """A step in front of a codec."""

    @property
    def _learns(self) -> bool:
        return False

    def _fit(self, sample: Doubles, before: Map, metric: str) -> Fitted:
        """
        Learn from a sample that went through the steps before (under cosine it was normalised first).

        `before` takes queries through these steps; `metric` is that of the index.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class PCA(Transform):
    """
    Keep the directions in which the vectors extend most (principal components).

    Parameters
    ----------
    dims : int
        Dimensions to keep.
    whiten : bool
        Whether to subtract the mean and scale every direction to variance 1.

    Notes
    -----
    Under cosine and inner product the directions are those of the second moments about the origin, so that inner
    products are kept as well as they can be; under l2, and with ``whiten``, those about the mean. Under cosine a unit
    vector is projected, and the projection is not normalised again, except with ``whiten``.

    It learns from an evenly spread sample of up to 16,384 vectors. These may be fewer than ``dims``: directions in
    which no vector of the sample extends are then chosen at will.

    Scores are those of the projected vectors; ``reconstruct`` returns them in the space that they came from.

    References
    ----------
    Pearson, "On lines and planes of closest fit to systems of points in space", 1901.
    """

    dims: int
    whiten: bool = False
    _name: ClassVar[str] = "pca"

    @property
    def _learns(self) -> bool:
        return True

    def __post_init__(self) -> None:
        self._check_count("dims", 1)
        self._check_flag("whiten")

    def _fit(self, sample: Doubles, before: Map, metric: str) -> Fitted:
        _check_dims(self.dims, sample)
        if metric != "l2" and not self.whiten:
            return linear(leading(moments(sample), self.dims)[1])
        mean = sample.mean(axis=0)
        values, matrix = leading(moments(sample - mean), self.dims)
        if self.whiten:
            largest = values.max()
            matrix /= np.sqrt(values + _FLOOR * largest if largest > 0 else np.ones_like(values))[:, np.newaxis]

        def project(x: Doubles) -> Doubles:
            projected = (x - mean) @ matrix.T
            return unit(projected) if metric == "cosine" else projected

        return Fitted({"matrix": on_grid(matrix), "shift": on_grid(mean)}, project, project)


@dataclass(frozen=True)
class LeanVec(Transform):
    """
    Keep the directions that matter to inner products with queries.

    Documents and queries are projected by different matrices. Where queries are distributed as the documents are, that
    is the same as `PCA`; where they are not (text against images, questions against passages), it loses less.

    Parameters
    ----------
    dims : int
        Dimensions to keep.
    queries : array_like, shape (n, dim), optional
        A sample of queries, some thousand if there are as many. Without it, the directions are those of `PCA`.

    Notes
    -----
    For cosine and inner product. With X the second moments of documents, and K those of n queries and, as if they were
    ``dim`` further queries, of documents: documents are mapped by P W and queries by P W^(-1), where W = K^(1/4) and
    the rows of P are the leading eigenvectors of W X W. (The paper has W = K^(1/2) with K of queries alone, for which
    the mean squared error of inner products with these queries is least. Other queries are ranked better this way.)

    In the object, "given" stands for the queries. They are not saved with an index; what was learned from them is.

    References
    ----------
    Tepper et al., "LeanVec: Searching vectors faster by making them fit", 2023 (arXiv 2312.16335), and the closed form:
    "GleanVec: Accelerating vector search with minimalist nonlinear dimensionality reduction", 2024 (arXiv 2410.22347).
    """

    dims: int
    queries: npt.ArrayLike | None = None
    _name: ClassVar[str] = "leanvec"

    @property
    def _learns(self) -> bool:
        return True

    def __post_init__(self) -> None:
        self._check_count("dims", 1)
        self._keep("queries", 2)

    def _fit(self, sample: Doubles, before: Map, metric: str) -> Fitted:
        _check_dims(self.dims, sample)
        if self.queries is None:
            return linear(leading(moments(sample), self.dims)[1])
        root, inverse = sphering(before(self._array("queries").astype(np.float64)), sample)
        matrix = leading(root @ moments(sample) @ root, self.dims)[1]
        return linear(matrix @ root, matrix @ inverse)


@dataclass(frozen=True)
class Prefix(Transform):
    """
    Keep the first dimensions, for vectors of models that were trained for it (Matryoshka).

    Under cosine what is kept is normalised again.

    Parameters
    ----------
    dims : int
        Dimensions to keep.

    References
    ----------
    Kusupati et al., "Matryoshka Representation Learning", 2022 (arXiv 2205.13147).
    """

    dims: int
    _name: ClassVar[str] = "prefix"

    def __post_init__(self) -> None:
        self._check_count("dims", 1)

    def _fit(self, sample: Doubles, before: Map, metric: str) -> Fitted:
        _check_dims(self.dims, sample)

        def cut(x: Doubles) -> Doubles:
            return unit(x[:, : self.dims]) if metric == "cosine" else x[:, : self.dims]

        return Fitted({}, cut, cut)


@dataclass(frozen=True)
class RandomRotation(Transform):
    """
    A random rotation, which spreads information evenly over the dimensions.

    It costs no memory and little time. What learns a rotation or projection itself (`PCA`, `LeanVec`, `PQ` with a
    rotation) cannot follow it: that would only turn it back.

    Parameters
    ----------
    seed : int
        What the rotation depends on.

    References
    ----------
    Ailon and Chazelle, "The fast Johnson-Lindenstrauss transform and approximate nearest neighbors", 2009.
    """

    seed: int = 0
    _name: ClassVar[str] = "random_rotation"

    def __post_init__(self) -> None:
        self._check_count("seed")


@dataclass(frozen=True)
class Blocks(Transform):
    """
    Weights for the parts of concatenated vectors.

    Under cosine each part is normalised by itself, and the score is the weighted mean of the cosines of the parts;
    otherwise each part counts its weight times.

    Parameters
    ----------
    sizes : sequence of int
        Dimensions of the parts; their sum is that of the vectors.
    weights : sequence of float
        One for each part, not negative.

    Notes
    -----
    Under cosine weights are relative to their sum.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    _name: ClassVar[str] = "blocks"

    def __post_init__(self) -> None:
        self._set("sizes", tuple(_inputs.count(size, "sizes") for size in self.sizes))
        self._set("weights", tuple(_inputs.number(weight, "weights") for weight in self.weights))
        if not self.sizes or min(self.sizes) == 0:
            raise ValueError(f"sizes: {self.sizes} given, expected at least one part, of at least 1 dimension each")
        if len(self.weights) != len(self.sizes):
            raise ValueError(f"weights: {len(self.weights)} given for {len(self.sizes)} parts")
        if not all(0 <= weight < np.inf for weight in self.weights) or max(self.weights) == 0:
            raise ValueError(f"weights: {self.weights} given, expected numbers from 0 on, not all of them 0")

    @classmethod
    def _of(cls, parameters: dict[str, str]) -> Blocks:
        sizes, weights = (parameters[name].split(",") for name in ("sizes", "weights"))
        return cls(tuple(map(int, sizes)), tuple(map(float, weights)))

    def _fit(self, sample: Doubles, before: Map, metric: str) -> Fitted:
        cosine = metric == "cosine"
        factors = np.sqrt(np.array(self.weights) / (sum(self.weights) if cosine else 1))
        ends = np.cumsum(self.sizes)
        if sample.shape[1] != ends[-1]:
            raise ValueError(f"sizes: parts of {ends[-1]} dimensions in all given, expected {sample.shape[1]}")

        def weigh(x: Doubles) -> Doubles:
            parts = np.split(x, ends[:-1], axis=1)
            return np.hstack([f * (unit(part) if cosine else part) for f, part in zip(factors, parts, strict=True)])

        return Fitted({}, weigh, weigh)


def sphering(queries: Doubles, documents: Doubles) -> tuple[Doubles, Doubles]:
    """
    The map of documents before they are projected or coded for such queries, and the inverse, for queries.

    It is the fourth root of the second moments of queries; documents stand in for queries that a small sample does not
    show. With the square root mean squared errors of inner products would be least if all queries were known; the
    fourth root, halfway to leaving documents as they are, ranks better those that were not.
    """
    count, dim = queries.shape
    seen, others = (_shares(moments(x)) for x in (queries, documents))
    others = (1 - _RIDGE) * others + _RIDGE * np.eye(dim) / dim
    values, vectors = np.linalg.eigh((count * seen + dim * others) / (count + dim))
    roots = values**0.25
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def _shares(second: Doubles) -> Doubles:
    trace = np.trace(second)
    return second / trace if trace > 0 else np.eye(len(second)) / len(second)


def _check_dims(dims: int, sample: Doubles) -> None:
    if dims > sample.shape[1]:
        raise ValueError(f"dims: {dims} given, expected at most {sample.shape[1]}, the dimension of the vectors")
