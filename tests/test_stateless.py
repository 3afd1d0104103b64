"""The functions on plain arrays: scores, knn, topk."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from nearfield import kernels
from strategies import CALM, collections, dims, ks, make, seeds

DTYPES = ["f4", "f2", "i1", "u1", "f8"]


def of_type(x, dtype):
    """Vectors in another element type, and the float32 values that it holds."""
    if dtype in ("i1", "u1"):
        x = np.abs(np.rint(np.clip(x, -1e6, 1e6) * 8)) % 120
    x = x.astype(dtype)
    return x, x.astype(np.float32)


def check_float32(found, queries, rows, metric):
    """Assert that scores are right to float32 arithmetic: sums of dim terms, each off by half a unit."""
    assert found.dtype == np.float32
    assert found.shape == (len(queries), len(rows))
    terms = (rows.shape[1] + 16) * 2.0**-23
    for query, scores in zip(queries, found, strict=True):
        key = oracle.keys(query, rows, metric)
        error = terms * oracle.magnitudes(query, rows, metric)
        oracle.check_scores(scores, key, error + (0 if metric == "cosine" else 1e-37), metric)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_knn_is_the_best_in_float64(metric, dtype, data):
    x, q, _ = data.draw(collections("f16" if dtype == "f2" else "f32"))
    x, values = of_type(x, dtype)
    k = data.draw(ks)
    hits = kernels.knn(q, x, k, metric)
    oracle.check_hits(hits, q, values, np.arange(len(x)), metric, k)
    assert hits.plan


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), dim=dims, seed=seeds, n=st.integers(0, 70), queries=st.integers(0, 15))
def test_scores_are_right_to_float32(metric, dtype, data, dim, seed, n, queries):
    character = data.draw(st.sampled_from([*CALM, "norms", "outlier dimension", "identical"]))
    x, values = of_type(make(character, seed, n, dim, "f16"), dtype)
    q, asked = of_type(make(character, seed + 1, queries, dim, "f16"), data.draw(st.sampled_from(DTYPES)))
    check_float32(kernels.scores(q, x, metric), asked, values, metric)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e18, 1e30])
def test_scores_of_tiny_and_huge_vectors(metric, size):
    x = (np.random.default_rng(0).normal(size=(20, 9)) * size).astype(np.float32)
    check_float32(kernels.scores(x, x, metric), x, x, metric)


@given(seed=seeds, dim=dims)
def test_results_depend_neither_on_batch_size_nor_on_threads(metric, seed, dim):
    x, q = make("normal", seed, 60, dim), make("normal", seed + 1, 50, dim)
    scores, hits = kernels.scores(q, x, metric), kernels.knn(q, x, 7, metric)
    for threads in (1, 2):
        for size in (1, 3, 4):
            for i in range(0, 50, size):
                part = kernels.knn(q[i : i + size], x, 7, metric, threads=threads)
                np.testing.assert_array_equal(part.ids, hits.ids[i : i + size])
                np.testing.assert_array_equal(part.scores, hits.scores[i : i + size])
                part = kernels.scores(q[i : i + size], x, metric, threads=threads)
                np.testing.assert_array_equal(part, scores[i : i + size])


def test_many_rows(metric):
    x, q = make("duplicates", 1, 40000, 6), make("normal", 2, 7, 6)
    hits = kernels.knn(q, x, 50, metric, threads=2)
    oracle.check_hits(hits, q, x, np.arange(len(x)), metric, 50)
    check_float32(kernels.scores(q, x, metric, threads=2), q, x, metric)


def test_single_vectors(metric):
    assert kernels.scores([1, 2, 3], [1, 2, 3], metric).shape == (1, 1)
    assert kernels.knn([1, 2, 3], [[1, 2, 3], [0, 0, 1]], 1, metric).ids.tolist() == [[0]]


@given(data=st.data(), rows=st.integers(0, 4), n=st.integers(0, 300), k=ks, seed=seeds, largest=st.booleans())
def test_topk_is_a_sort(data, rows, n, k, seed, largest):
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: rng.normal(size=(rows, n)),
        "ties": lambda: rng.integers(0, 5, (rows, n)),
        "special": lambda: rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, 1.0], (rows, n)),
        "rising": lambda: np.tile(np.arange(n), (rows, 1)),
        "falling": lambda: np.tile(np.arange(n)[::-1], (rows, 1)),
    }[data.draw(st.sampled_from(["normal", "ties", "special", "rising", "falling"]))]()
    scores = values.astype(np.float32)
    ids, best = kernels.topk(scores, k, largest)
    assert (ids.dtype, best.dtype) == (np.int64, np.float32)
    assert ids.shape == best.shape == (rows, k)
    for row, found, found_scores in zip(scores, ids, best, strict=True):
        places = np.flatnonzero(~np.isnan(row))
        order = places[np.lexsort((places, -row[places] if largest else row[places]))][:k]
        assert found.tolist() == order.tolist() + [-1] * (k - len(order))
        np.testing.assert_array_equal(found_scores[: len(order)], row[order])
        assert np.isnan(found_scores[len(order) :]).all()


def test_topk_takes_any_numbers():
    for values in (
        [3, 1, 2],
        np.array([3, 1, 2], ">i8"),
        np.array([[3, 1, 2]], np.float16),
        np.array([3, 0, 1, 0, 2])[::2],
    ):
        ids, scores = kernels.topk(values, 2)
        assert ids.tolist() == [[0, 2]]
        assert scores.tolist() == [[3, 2]]
    assert kernels.topk([True, False, True], 2)[0].tolist() == [[0, 2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.topk([1e300, 1.0], 2)[1].tolist() == [[np.inf, 1]]


@pytest.mark.parametrize("function", [kernels.knn, kernels.scores])
@pytest.mark.parametrize(
    ("queries", "vectors", "error", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), ValueError, "3.*4"),
        (np.ones((2, 3)), np.ones((2, 0)), ValueError, "vectors.*0"),
        (np.ones((2, 3)), np.ones((2, 2, 3)), ValueError, "vectors.*3 dimensions"),
        (np.ones((2, 2, 3)), np.ones((2, 3)), ValueError, "queries.*3 dimensions"),
        ([[np.nan, 1]], np.ones((2, 2)), ValueError, "queries.*row 0.*NaN"),
        ([["a", "b"]], np.ones((2, 2)), TypeError, "queries"),
        (np.ones((2, 2)), [["a", "b"]], TypeError, "vectors"),
    ],
)
def test_bad_arrays(function, queries, vectors, error, message):
    with pytest.raises(error, match=message) as caught:
        function(queries, vectors)
    assert "index" not in str(caught.value)


def test_bad_vectors_and_parameters():
    with pytest.raises(ValueError, match=r"vectors.*row 1.*NaN"):
        kernels.knn(np.ones(2), [[1, 2], [np.nan, 1]])
    for function in (kernels.knn, kernels.scores):
        with pytest.raises(ValueError, match=r"metric.*euclid"):
            function(np.ones(2), np.ones((2, 2)), metric="euclid")
        with pytest.raises(ValueError, match=r"threads.*0"):
            function(np.ones(2), np.ones((2, 2)), threads=0)
    for k, error in [(-1, ValueError), (1.5, TypeError), (10**13, MemoryError)]:
        with pytest.raises(error):
            kernels.knn(np.ones(2), np.ones((2, 2)), k)
        with pytest.raises(error):
            kernels.topk(np.ones((2, 2)), k)
    with pytest.raises(ValueError, match=r"scores.*3 dimensions"):
        kernels.topk(np.ones((2, 2, 2)), 1)
    with pytest.raises(TypeError, match="scores"):
        kernels.topk(["a"], 1)
