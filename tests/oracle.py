"""What every index must answer: float64 NumPy, ties by lower id. No kernel of ours is asked."""

from __future__ import annotations

import math

import numpy as np
import safetensors.numpy

import nearfield as nf

METRICS = ("cosine", "ip", "l2")
BIT_METRICS = ("hamming", "jaccard")
CODECS = ("f32", "f16", "bf16", "int8", "uint8")
# What the tests teach codec "sq8", whatever vectors come later: the least level, and the step between levels.
SQ8_LEAST, SQ8_STEP = np.float32(-8), np.float32(1 / 16)
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
    if codec == "sq8":  # as it was taught
        with np.errstate(over="ignore"):
            levels = np.floor(np.clip((x - SQ8_LEAST) / SQ8_STEP + np.float32(0.5), 0, 255))
        return SQ8_LEAST + levels * SQ8_STEP
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


# ----------------------------------------------------------------------------------------------------------------------
# Codecs that learn
# ----------------------------------------------------------------------------------------------------------------------


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64; zeros stay zeros."""
    x = np.asarray(x, np.float64)
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    x = np.divide(x, largest, out=np.zeros_like(x), where=largest > 0)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)


def learned(index: nf.Flat, version: int = 0) -> dict[str, np.ndarray]:
    """What the codec of an index has learned for one of its versions, in the order in which they came."""
    prefix = f"learned.{version}."
    tensors = safetensors.numpy.load(index.__getstate__())
    return {name[len(prefix) :]: array for name, array in tensors.items() if name.startswith(prefix)}


class Linear:
    """A matrix for documents, and one for queries, after a shift."""

    def __init__(self, arrays: dict[str, np.ndarray], dim: int, renormalised: bool):
        self.matrix = np.float64(arrays["matrix"]).reshape(-1, dim)
        self.query_matrix = np.float64(arrays.get("query_matrix", self.matrix)).reshape(-1, dim)
        self.shift = np.float64(arrays.get("shift", np.zeros(dim)))
        self.renormalised = renormalised
        back = self.query_matrix
        if renormalised:  # whitening scales the rows
            back = back / np.square(back).sum(axis=1, keepdims=True)
        self.from_decoded = np.linalg.pinv(back)

    def queries(self, q: np.ndarray) -> np.ndarray:
        return (q - self.shift) @ self.query_matrix.T

    def documents(self, x: np.ndarray) -> np.ndarray:
        return (x - self.shift) @ self.matrix.T

    def undone(self, decoded: np.ndarray) -> np.ndarray:
        return (decoded - self.shift) @ self.from_decoded


class Scaled:
    """Dimensions each multiplied by a factor; blocks of them normalised first where there are any."""

    renormalised = False

    def __init__(self, step: nf.Blocks | None, metric: str):
        if step is None:  # an orthogonal map: nothing changes
            self.ends, self.factors = None, 1.0
            return
        total = sum(step.weights) if metric == "cosine" else 1
        self.ends = np.cumsum(step.sizes)[:-1] if metric == "cosine" else None
        self.factors = np.repeat(np.sqrt(np.array(step.weights) / total), step.sizes)

    def queries(self, q: np.ndarray) -> np.ndarray:
        parts = q if self.ends is None else np.hstack([unit(part) for part in np.split(q, self.ends, axis=1)])
        return parts * self.factors

    documents = queries

    def undone(self, decoded: np.ndarray) -> np.ndarray:
        return decoded * self.factors


class Prefixed:
    """The first dimensions."""

    renormalised = True

    def __init__(self, dims: int):
        self.dims = dims

    def queries(self, q: np.ndarray) -> np.ndarray:
        return q[:, : self.dims]

    documents = undone = queries


class Decoded:
    """What scores with what an index has decoded must be, in the space that its codec's transforms lead to."""

    def __init__(self, index: nf.Flat, vectors: np.ndarray, ids: np.ndarray):
        """`vectors` are those that were added with these ids."""
        chain = index.codec if isinstance(index.codec, tuple) else (index.codec,)
        arrays, dim = learned(index), index.dim
        self.metric, self.steps = index.metric, []
        for i, step in enumerate(chain):
            own = {name[12:]: value for name, value in arrays.items() if name.startswith(f"transform.{i}.")}
            if isinstance(step, nf.Prefix):
                self.steps.append(Prefixed(step.dims))
            elif isinstance(step, nf.Blocks):
                self.steps.append(Scaled(step, self.metric))
            elif isinstance(step, nf.RandomRotation):
                self.steps.append(Scaled(None, self.metric))
            elif "matrix" in own:  # the last one may have one in front
                self.steps.append(Linear(own, dim, getattr(step, "whiten", False)))
            dim = getattr(step, "dims", dim)
        self.rows = np.float64(index.reconstruct(ids))
        for step in self.steps:
            self.rows = step.undone(self.rows)
        self.center = np.float64(arrays["center"]) if "center" in arrays else None
        self.documents = self.mapped(vectors, "documents")

    def mapped(self, x: np.ndarray, role: str = "queries") -> np.ndarray:
        """Vectors as the last part of the codec compares them."""
        x = unit(x) if self.metric == "cosine" else np.float64(x)
        for step in self.steps:
            x = getattr(step, role)(x)
            x = unit(x) if step.renormalised and self.metric == "cosine" else x
        return x

    def keys(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sort keys (queries, n), as `keys` gives them, and the magnitudes of what is summed up in them."""
        q = self.mapped(queries)
        if self.metric != "l2":
            lengths = np.linalg.norm(self.rows, axis=1) + 1e-30
            if self.center is not None:
                lengths = lengths + np.linalg.norm(self.center)
            dots = -(q @ self.rows.T)
            magnitudes = np.linalg.norm(q, axis=1)[:, np.newaxis] * lengths
            return (np.clip(dots, -1, 1) if self.metric == "cosine" else dots), magnitudes
        if self.center is None:
            lengths = np.linalg.norm(q, axis=1)[:, np.newaxis] + np.linalg.norm(self.rows, axis=1)
            distances = np.square(q[:, np.newaxis] - self.rows).sum(axis=-1)
        else:  # RaBitQ knows how far from the centre the vector was
            q, x, rows = q - self.center, self.documents - self.center, self.rows - self.center
            lengths = np.linalg.norm(q, axis=1)[:, np.newaxis] + np.linalg.norm(x, axis=1) + np.linalg.norm(self.center)
            distances = np.square(q).sum(axis=1)[:, np.newaxis] + np.square(x).sum(axis=1) - 2 * q @ rows.T
        return np.maximum(distances, 0), np.square(lengths)

    def check(self, found: np.ndarray, queries: np.ndarray, relative: float) -> None:
        """Assert that scores (queries, n) are right up to an error relative to the magnitudes."""
        key, magnitude = self.keys(queries)
        check_scores(found, key, relative * magnitude, self.metric)
