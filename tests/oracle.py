"""What every index must answer: float64 NumPy, ties by lower id. No kernel of ours is asked."""

from __future__ import annotations

import math

import numpy as np

METRICS = ("cosine", "ip", "l2")
BIT_METRICS = ("hamming", "jaccard")
CODECS = ("f32", "f16", "bf16", "int8", "uint8")
# Scores that are distances: lower is better.
DISTANCES = ("l2", "hamming")

# Keys that are closer than this, times their magnitude, may come in either order: float64 sums in another order.
_ROUNDING = 2.0**-52


def stored(vectors: np.ndarray, codec: str) -> np.ndarray:
    """Return what a codec keeps of vectors, as float32; of booleans, the packed bits."""
    if codec == "bits":
        return packed(vectors)
    x = np.asarray(vectors, np.float32)
    if codec == "sign":
        return np.where(x > 0, np.float32(1), np.float32(-1))
    if codec == "f16":
        return x.astype(np.float16).astype(np.float32)
    if codec == "bf16":
        bits = x.view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000  # to nearest, ties to even
        return bits.astype(np.uint32).view(np.float32)
    if codec == "int8":
        return _rounded_rows(x)
    return x  # "f32", and "uint8", which takes nothing that it would have to round


def _rounded_rows(x: np.ndarray) -> np.ndarray:
    """8-bit integers stay as they are; other rows are rounded with one scale, max|x| / 127."""
    integers = ((x == np.rint(x)) & (x >= -128) & (x <= 127)).all(axis=1, keepdims=True)
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    known = scale >= np.finfo(np.float32).tiny
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=known)
    return np.where(integers, x, np.clip(np.rint(x * inverse), -127, 127) * scale)


def packed(bits: np.ndarray) -> np.ndarray:
    """Booleans (..., bits) packed; what is packed already stays as it is."""
    bits = np.asarray(bits)
    return np.packbits(bits, axis=-1) if bits.dtype == bool else bits


def ones(packed_bits: np.ndarray) -> np.ndarray:
    """Count the ones of packed rows."""
    return np.unpackbits(packed_bits, axis=-1).sum(axis=-1, dtype=np.int64)


def bit_keys(query: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Bits that differ, or -|both| / |either|: -1 where neither has a one."""
    q, x = packed(query), packed(rows)
    if metric == "hamming":
        return ones(q ^ x).astype(np.float64)
    both, either = ones(q & x), ones(q | x)
    return -np.divide(both, either, out=np.ones(len(x)), where=either > 0)


def keys(query: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Sort keys of rows, smaller is better: -cosine, -inner product, the squared distance, or those of bits."""
    if metric in BIT_METRICS:
        return bit_keys(query, rows, metric)
    q, x = np.asarray(query, np.float64), np.ascontiguousarray(rows, np.float64)
    if metric == "l2":
        return np.square(q - x).sum(axis=1)
    dots = (q * x).sum(axis=1)  # row by row, so that equal rows get equal sums
    if metric == "ip":
        return -dots
    lengths = np.sqrt(np.square(q).sum()) * np.sqrt(np.square(x).sum(axis=1))
    return -np.clip(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0), -1, 1)


def scores_of(key: np.ndarray, metric: str) -> np.ndarray:
    """Return the scores in the metric's own unit."""
    with np.errstate(over="ignore"):  # an inner product may exceed float32
        return (np.sqrt(key) if metric == "l2" else key if metric == "hamming" else -key + 0.0).astype(np.float32)


def everything(metric: str) -> float:
    """Return the radius within which all vectors lie."""
    return np.inf if metric in DISTANCES else -np.inf


def inside(scores: np.ndarray, radius: float, metric: str) -> np.ndarray:
    """Whether scores lie within a radius, boundary included."""
    return scores <= np.float32(radius) if metric in DISTANCES else scores >= np.float32(radius)


def magnitudes(query: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Return the sizes of what is summed up in each key: rounding errors are relative to it."""
    if metric == "l2":
        return keys(query, rows, "l2")
    sums = -keys(np.abs(query), np.abs(rows), "ip")
    if metric == "ip":
        return sums
    lengths = np.linalg.norm(np.float64(query)) * np.linalg.norm(np.float64(rows), axis=1)
    return 1 + np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0)


def tolerance(query: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Return how far rounding may carry each key: not at all where whole numbers are added up."""
    if metric in BIT_METRICS:
        return np.zeros(len(rows))
    if metric != "cosine" and all(
        np.array_equal(x, np.rint(x)) and np.abs(x).max(initial=0) < 2**16 for x in (query, rows)
    ):
        return np.zeros(len(rows))
    return 2 * (rows.shape[1] + 8) * _ROUNDING * magnitudes(query, rows, metric)


def best(query: np.ndarray, rows: np.ndarray, ids: np.ndarray, metric: str, k: int) -> np.ndarray:
    """Places of the k best rows, best first, ties by lower id."""
    return np.lexsort((ids, keys(query, rows, metric)))[:k]


def check_scores(found: np.ndarray, key: np.ndarray, error: np.ndarray, metric: str) -> None:
    """Assert that float32 scores are those of the keys, which may be off by `error`."""
    low, high = scores_of(np.stack([key - error, key + error]).clip(0 if metric == "l2" else None), metric)
    low, high = np.minimum(low, high), np.maximum(low, high)
    right = (found >= np.nextafter(low, -np.inf)) & (found <= np.nextafter(high, np.inf)) & (found.dtype == np.float32)
    assert right.all(), f"scores {found[~right]} outside of {low[~right]} to {high[~right]}"


def check_order(found: np.ndarray, query: np.ndarray, rows: np.ndarray, ids: np.ndarray, metric: str, k: int) -> None:
    """Assert that `found` are the ids of the k best rows, in order.

    Where rounding alone decides between two rows that differ, either order is accepted; equal rows never may swap.
    """
    expected = best(query, rows, ids, metric, k)
    assert len(found) == len(expected)
    if np.array_equal(found, ids[expected]):
        return
    place = {int(id): i for i, id in enumerate(ids)}
    at = np.array([place[int(id)] for id in found])
    assert len(set(at.tolist())) == len(at), f"an id stands twice in {found}"
    key, error = keys(query, rows, metric), tolerance(query, rows, metric)
    low, high = key - error, key + error
    message = f"{found} in place of {ids[expected]}, with keys {key[at]} in place of {key[expected]}"
    assert (np.maximum.accumulate(low[at])[:-1] <= high[at][1:]).all(), message
    left_out = np.setdiff1d(np.arange(len(rows)), at)
    assert high[left_out].min(initial=np.inf) >= low[at].max(), message
    _, groups = np.unique(rows, axis=0, return_inverse=True)
    for group in np.unique(groups[at]):
        equal = found[groups[at] == group]
        assert equal.tolist() == sorted(ids[groups == group])[: len(equal)], message + f": {equal} have equal vectors"


def check_hits(hits, queries, rows, ids, metric, k, *, ranked=True) -> None:
    """Assert that hits are the k best of (rows, ids) for every query, padded as promised.

    With ranked=False the hits need not be the best (an approximate index), but right and in order.
    """
    queries = np.atleast_2d(queries)
    count = min(k, len(ids))
    assert hits.ids.shape == hits.scores.shape == (len(queries), k)
    assert (hits.ids.dtype, hits.scores.dtype, hits.counts.dtype) == (np.int64, np.float32, np.int64)
    assert hits.counts.tolist() == [count] * len(queries)
    assert (hits.ids[:, count:] == -1).all()
    assert np.isnan(hits.scores[:, count:]).all()
    place = {int(id): i for i, id in enumerate(ids)}
    for query, found, scores in zip(queries, hits.ids[:, :count], hits.scores[:, :count], strict=True):
        at = np.array([place[int(id)] for id in found], np.intp)
        if ranked:
            check_order(found, query, rows, ids, metric, k)
        else:
            check_order(found, query, rows[at], ids[at], metric, k)
        check_scores(scores, keys(query, rows[at], metric), tolerance(query, rows[at], metric), metric)


def candidates(query, rows, ids, metric, k, oversample) -> np.ndarray:
    """Places of the rows that a first codec hands over for reranking."""
    return best(query, rows, ids, metric, math.ceil(k * oversample))


def is_ambiguous(query: np.ndarray, rows: np.ndarray, places: np.ndarray, metric: str) -> bool:
    """Whether rounding could exchange one of the places for a different row outside of them."""
    outside = np.setdiff1d(np.arange(len(rows)), places)
    if not places.size or not outside.size:
        return False
    key, error = keys(query, rows, metric), tolerance(query, rows, metric)
    close = (key - error)[outside] <= (key + error)[places].max()
    return bool(np.any(close & (rows[outside] != rows[places[-1]]).any(axis=1)))
