"""The stateless functions: scores, nearest neighbours and the best of given scores, on arrays, without an index."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import _core, _inputs
from .results import Hits

__all__ = ["hamming", "knn", "scores", "topk"]

_BIT_METRICS = ("hamming", "jaccard")


def _queries(value: npt.ArrayLike, metric: str, vectors: npt.ArrayLike) -> tuple[_inputs.Array, str]:
    if metric not in _BIT_METRICS:
        return _inputs.vectors(value, "queries")
    array = _inputs._as_array(vectors, "vectors")
    return _inputs.bits(value, "queries", array.shape[-1] if array.dtype == np.bool_ else None), "bits"


def _rows(value: npt.ArrayLike, name: str, metric: str) -> tuple[_inputs.Array, str]:
    array, element = (_inputs.bits(value, name), "bits") if metric in _BIT_METRICS else _inputs.vectors(value, name)
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    if array.shape[1] == 0:
        raise ValueError(f"{name}: vectors of dimension 0 given, expected at least 1")
    return array, element


def scores(
    queries: npt.ArrayLike, vectors: npt.ArrayLike, metric: str = "cosine", *, threads: int | None = None
) -> npt.NDArray[np.float32]:
    """
    Score every query against every vector, in float32 arithmetic.

    Parameters
    ----------
    queries : array_like, shape (queries, dim) or (dim,)
    vectors : array_like, shape (n, dim)
        float32, float16, bfloat16, int8 and uint8 are read as they are. For metrics of bits, packed as for `Flat`.
    metric : {"cosine", "ip", "l2", "hamming", "jaccard"}
    threads : int, optional
        By default all CPUs that this process may use.

    Returns
    -------
    ndarray of float32, shape (queries, n)
        Cosine similarity, inner product, Euclidean distance, number of different bits, or Jaccard similarity.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dimensions that differ, an unknown metric, or queries that are not finite.
    """
    name = _inputs.text(metric, "metric")
    q, q_type = _queries(queries, name, vectors)
    x, x_type = _rows(vectors, "vectors", name)
    return _core.scores(q, q_type, x, x_type, name, _inputs.threads(threads))


def hamming(queries: npt.ArrayLike, vectors: npt.ArrayLike, *, threads: int | None = None) -> npt.NDArray[np.int32]:
    """
    Count the bits in which every query differs from every vector.

    Parameters
    ----------
    queries : array_like, shape (queries, bytes) or (bytes,)
        Packed bits: uint8, or booleans that are packed for you.
    vectors : array_like, shape (n, bytes)
        Packed likewise; padding bits count unless they are equal on both sides.
    threads : int, optional
        By default all CPUs that this process may use.

    Returns
    -------
    ndarray of int32, shape (queries, n)

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, lengths that differ, or elements that are no packed bits.
    """
    return scores(queries, vectors, "hamming", threads=threads).astype(np.int32)


def knn(
    queries: npt.ArrayLike,
    vectors: npt.ArrayLike,
    k: int = 10,
    metric: str = "cosine",
    *,
    threads: int | None = None,
) -> Hits:
    """
    Find the k best vectors for each query: exact search once, without an index and without copying the vectors.

    Parameters
    ----------
    queries : array_like, shape (queries, dim) or (dim,)
    vectors : array_like, shape (n, dim)
        float32, float16, bfloat16, int8 and uint8 are read as they are. For metrics of bits, packed as for `Flat`.
    k : int
        Results per query.
    metric : {"cosine", "ip", "l2", "hamming", "jaccard"}
    threads : int, optional
        By default all CPUs that this process may use, one for a single query.

    Returns
    -------
    Hits
        The ids are row numbers; ties by lower number.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dimensions that differ, an unknown metric, a negative k, or values that are not finite.
    """
    name = _inputs.text(metric, "metric")
    q, q_type = _queries(queries, name, vectors)
    x, x_type = _rows(vectors, "vectors", name)
    return Hits(*_core.knn(q, q_type, x, x_type, _inputs.count(k, "k"), name, _inputs.threads(threads)))


def topk(scores: npt.ArrayLike, k: int, largest: bool = True) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """
    Find the k best of each row of scores.

    Parameters
    ----------
    scores : array_like, shape (rows, n) or (n,)
        Read as float32. NaN never counts as a result.
    k : int
    largest : bool
        Whether higher is better.

    Returns
    -------
    ids : ndarray of int64, shape (rows, k)
        Places within the row, best first, ties by lower place; -1 where there is none.
    scores : ndarray of float32, shape (rows, k)
        NaN where there is none.

    Raises
    ------
    ValueError, TypeError
        For an array of more than two dimensions, elements that are not numbers, or a negative k.
    """
    array = _inputs._as_array(scores, "scores")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"scores: elements of type {array.dtype} given, expected numbers")
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        array = np.atleast_2d(np.ascontiguousarray(array, np.float32))
    if array.ndim != 2:
        raise ValueError(f"scores: an array of {array.ndim} dimensions given, expected 1 or 2")
    return _core.topk(array, _inputs.count(k, "k"), bool(largest))
