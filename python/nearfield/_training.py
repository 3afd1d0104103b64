"""Linear algebra that codecs and transforms learn by, on a sample in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from . import _inputs

Doubles = npt.NDArray[np.float64]

# Vectors that a transform is learned from; those of an alternating fit, which looks at them many times.
SAMPLE, FIT_SAMPLE = 16384, 8192
# What is learned is rounded to multiples of this, relative to the largest magnitude of a row, so that the last bits of
# LAPACK, which depend on its threads, do not show.
_GRID = 2.0**-20


def on_grid(array: Doubles) -> npt.NDArray[np.float32]:
    """An array without its last bits, as the core takes it."""
    step = np.ldexp(_GRID, np.frexp(np.abs(array).max(axis=-1, keepdims=True, initial=0))[1])
    return np.ascontiguousarray(np.rint(array / step) * step + 0.0, np.float32)  # + 0.0: no negative zeros


def thinned(array: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    """At most so many rows, evenly spread."""
    return array[:: max(1, -(-len(array) // most))]


def sample_of(vectors: _inputs.Array, element: str, most: int = SAMPLE) -> Doubles:
    """A sample of what `_inputs.vectors` returned."""
    return _inputs.to_float(thinned(vectors, most), element).astype(np.float64)


def unit(x: Doubles) -> Doubles:
    """Vectors with length 1; zeros stay zeros."""
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    out: Doubles = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
    return out


def moments(x: Doubles) -> Doubles:
    """The second moments of vectors about the origin."""
    out: Doubles = x.T @ x / max(1, len(x))
    return out


def leading(symmetric: Doubles, count: int) -> tuple[Doubles, Doubles]:
    """The largest eigenvalues of a matrix, and their eigenvectors as rows, the first large element of each positive."""
    # Directions in which nothing extends are told apart by a trace of the dimensions' own order.
    order = np.diag(np.linspace(1, 0, len(symmetric))) * (1e-7 * np.trace(symmetric) / len(symmetric))
    values, vectors = np.linalg.eigh(symmetric + order)
    rows = vectors.T[::-1][:count]
    sizes = np.abs(rows)
    places = (sizes >= sizes.max(axis=1, keepdims=True) / 2).argmax(axis=1)[:, np.newaxis]
    return np.maximum(values[::-1][:count], 0), rows * np.sign(np.take_along_axis(rows, places, axis=1))


def nearest_rotation(matrix: Doubles) -> Doubles:
    """The orthogonal matrix R with the largest trace(R^T matrix) (Procrustes)."""
    left, _, right = np.linalg.svd(matrix)
    rotation: Doubles = left @ right
    return rotation


def random_rotation(dim: int, seed: int) -> Doubles:
    """An orthogonal matrix that depends on the seed only."""
    rotation: Doubles = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    return rotation


# Steps of the alternating fit of a rotation and codebooks (from its start on, more gain little), those of k-means that
# come first, and those of a balanced codebook.
_ROTATION_STEPS, _FIRST_STEPS, _BALANCED_STEPS = 10, 5, 15
# Of entropic transport: how soft assignments are, as a share of the mean squared distance, and how often rows and
# columns are scaled in turn.
_SOFTNESS, _SCALINGS = 0.05, 8


def allocating_rotation(x: Doubles, subspaces: int) -> Doubles:
    """
    The principal components, dealt to subspaces such that the product of variances is about the same in each.

    Ge et al. (2013), "Optimized Product Quantization", the parametric solution.
    """
    dim = x.shape[1]
    values, rows = leading(moments(x - x.mean(axis=0)), dim)
    logs = np.log(np.maximum(values, 1e-9 * values[0]) if values[0] > 0 else np.ones(dim))
    logs -= logs[-1]  # from 0 on, so that every dimension counts
    ends = np.minimum(np.arange(subspaces + 1) * -(-dim // subspaces), dim)
    room, product, owner = np.diff(ends), np.zeros(subspaces), np.zeros(dim, np.intp)
    for i in range(dim):
        owner[i] = m = np.where(room > 0, product, np.inf).argmin()
        product[m] += logs[i]
        room[m] -= 1
    rotation: Doubles = rows[np.argsort(owner, kind="stable")]
    return rotation


def opq_rotation(x: Doubles, subspaces: int, bits: int, seed: int) -> Doubles:
    """
    The rotation in which product quantization loses least, by alternating between codebooks and rotation.

    Ge et al. (2013), "Optimized Product Quantization", the non-parametric solution, from the parametric one on.
    """
    rotation = allocating_rotation(x, subspaces)
    books = _random_books(x @ rotation.T, subspaces, bits, seed)
    for step in range(_ROTATION_STEPS):
        y = x @ rotation.T
        for _ in range(_FIRST_STEPS if step == 0 else 1):
            books, approximated = _k_means_step(y, books, _nearest)
        # Where no vector extends, a little of the last rotation decides, and not what rounding has left.
        fit = approximated.T @ x
        rotation = nearest_rotation(fit + 1e-3 * np.trace(fit @ rotation.T) / len(fit) * rotation)
    return rotation


def balanced_codebook(x: Doubles, subspaces: int, bits: int, seed: int) -> Doubles:
    """
    Codebooks (subspaces, 2^bits, width) whose codes are used equally often.

    Zhan et al. (2022), "Learning Discrete Representations via Constrained Clustering for Effective and Efficient Dense
    Retrieval" (RepCONC): k-means whose assignments are those of entropic transport (Sinkhorn).
    """
    books = _random_books(x, subspaces, bits, seed)
    for _ in range(_BALANCED_STEPS):
        books, _ = _k_means_step(x, books, _balanced)
    return books


def _split(x: Doubles, subspaces: int) -> Doubles:
    """(subspaces, n, width), filled up with zeros."""
    width = -(-x.shape[1] // subspaces)
    filled = np.zeros((len(x), subspaces * width))
    filled[:, : x.shape[1]] = x
    return np.ascontiguousarray(filled.reshape(len(x), subspaces, width).transpose(1, 0, 2))


def _random_books(x: Doubles, subspaces: int, bits: int, seed: int) -> Doubles:
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(x), 2**bits, replace=len(x) < 2**bits)
    return _split(x[rows], subspaces)


def _k_means_step(x: Doubles, books: Doubles, assign: Any) -> tuple[Doubles, Doubles]:
    """New codebooks, and the vectors as these approximate them; a centroid that nothing is assigned to stays."""
    subspaces, count, width = books.shape
    books = books.copy()
    approximated = np.empty((len(x), subspaces, width))
    for m, part in enumerate(_split(x, subspaces)):
        codes = assign(part, books[m])
        sizes = np.bincount(codes, minlength=count)
        sums = np.stack([np.bincount(codes, column, count) for column in part.T], axis=1)
        np.divide(sums, sizes[:, np.newaxis], out=books[m], where=sizes[:, np.newaxis] > 0)
        approximated[:, m] = books[m][codes]
    return books, approximated.reshape(len(x), -1)[:, : x.shape[1]]


def _distances(part: Doubles, book: Doubles) -> Doubles:
    """Squared distances without the part that is the same for all centroids."""
    distances: Doubles = np.square(book).sum(axis=1) - 2 * (part @ book.T)
    return distances


def _nearest(part: Doubles, book: Doubles) -> npt.NDArray[np.intp]:
    codes: npt.NDArray[np.intp] = _distances(part, book).argmin(axis=1)
    return codes


def _balanced(part: Doubles, book: Doubles) -> npt.NDArray[np.intp]:
    distances = _distances(part, book)
    distances -= distances.min(axis=1, keepdims=True)
    scale = _SOFTNESS * distances.mean()
    kernel = np.exp(-distances / scale) if scale > 0 else np.ones_like(distances)
    columns = np.ones(len(book))
    for _ in range(_SCALINGS):
        rows = 1 / (kernel @ columns)
        columns = len(part) / len(book) / np.maximum(rows @ kernel, np.finfo(np.float64).tiny)
    codes: npt.NDArray[np.intp] = (kernel * columns).argmax(axis=1)
    return codes
