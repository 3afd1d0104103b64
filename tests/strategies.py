"""Data for property tests: small arguments that shrink, blown up into arrays of many characters by NumPy."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

# The largest magnitudes that a codec takes.
LARGEST = {"f32": 3e38, "f16": 6e4, "bf16": 3e38}


def _normal(rng, n, dim):
    return rng.normal(size=(n, dim))


def _ties(rng, n, dim):
    return rng.integers(-2, 3, (n, dim))


def _duplicates(rng, n, dim):
    return rng.normal(size=(max(n // 5, 1), dim))[rng.integers(0, max(n // 5, 1), n)]


def _identical(rng, n, dim):
    return np.repeat(rng.normal(size=(1, dim)), n, axis=0)


def _zeros_among(rng, n, dim):
    return rng.normal(size=(n, dim)) * rng.integers(0, 2, (n, 1))


def _parallel(rng, n, dim):
    return rng.normal(size=(1, dim)) * rng.integers(-3, 4, (n, 1))


def _norms(rng, n, dim):
    return rng.normal(size=(n, dim)) * 10.0 ** rng.uniform(-6, 6, (n, 1))


def _magnitudes(rng, n, dim):
    return rng.choice([-1, 1], (n, dim)) * 10.0 ** rng.uniform(-45, 38, (n, dim))


def _subnormal(rng, n, dim):
    return rng.normal(size=(n, dim)) * 1e-40


def _huge(rng, n, dim):
    return rng.normal(size=(n, dim)) * 1e37


def _giant_row(rng, n, dim):
    x = rng.normal(size=(n, dim))
    x[n // 2 : n // 2 + 1] *= 1e30
    return x


def _outlier_dimension(rng, n, dim):
    x = rng.normal(size=(n, dim))
    x[:, dim // 2] *= 1e4
    return x


def _far_from_origin(rng, n, dim):
    return rng.normal(size=(n, dim)) + 1e4


# What arrays can be like. Those of CALM leave every codec and metric room to tell vectors apart.
CALM = {"normal": _normal, "ties": _ties, "duplicates": _duplicates, "zeros among": _zeros_among}
WILD = {
    "identical": _identical,
    "parallel": _parallel,
    "norms": _norms,
    "magnitudes": _magnitudes,
    "subnormal": _subnormal,
    "huge": _huge,
    "giant row": _giant_row,
    "outlier dimension": _outlier_dimension,
    "far from origin": _far_from_origin,
}
CHARACTERS = CALM | WILD


def make_queries(character: str, seed: int, n: int, dim: int, codec: str) -> np.ndarray:
    """Queries, which need not fit the codec."""
    return make(character, seed, n, dim, "bits" if codec == "bits" else "f32")


def make(character: str, seed: int, n: int, dim: int, codec: str = "f32") -> np.ndarray:
    """Vectors of one character that a codec takes: float32, or booleans."""
    x = CHARACTERS[character](np.random.default_rng(seed), n, dim)
    if codec == "bits":
        return x > 0
    if codec == "uint8":
        with np.errstate(invalid="ignore", over="ignore"):
            return (np.abs(np.rint(x * 8)) % 256).astype(np.float32)
    limit = LARGEST.get(codec, 3e38)
    return np.clip(x, -limit, limit).astype(np.float32)


seeds = st.integers(0, 2**32 - 1)
dims = st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 33, 48]))
sizes = st.integers(0, 70)
batches = st.integers(0, 15)
ks = st.one_of(st.integers(0, 12), st.integers(0, 90))


@st.composite
def vectors(draw, codec: str, dim: int, n=sizes, characters=tuple(CHARACTERS)):
    return make(draw(st.sampled_from(characters)), draw(seeds), draw(n), dim, codec)


@st.composite
def collections(draw, codec: str, n=sizes, characters=tuple(CHARACTERS), queries=batches):
    """Vectors, queries of the same character (some of them vectors of the collection), and ids."""
    dim, character = draw(dims), draw(st.sampled_from(characters))
    x = make(character, draw(seeds), draw(n), dim, codec)
    q = make_queries(character, draw(seeds), draw(queries), dim, codec)
    own = draw(st.integers(0, min(len(x), len(q))))
    q[:own] = x[:own]
    return x, q, draw(id_arrays(len(x)))


@st.composite
def id_arrays(draw, n: int):
    """Distinct ids in any order, from dense to sparse."""
    span = draw(st.sampled_from([n, 2 * n + 1, 2**40, 2**63 - 1]))
    rng = np.random.default_rng(draw(seeds))
    ids = np.unique(rng.integers(0, span, 3 * n + 10, endpoint=False)) if span > 2 * n + 1 else np.arange(span)
    return rng.permutation(ids)[:n].astype(np.int64)
