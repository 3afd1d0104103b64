"""Search keeps the promises at the door, whatever the index kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
import oracle
import strategies
from strategies import collections, dims, ks, seeds


@given(data=st.data())
def test_search_is_the_best_in_float64(kind, metric, data):
    x, q, ids = data.draw(collections(kind.codec))
    k = data.draw(ks)
    hits = kind.build(metric, x, ids).search(q, k)
    kind.check_search(hits, q, x, ids, metric, k)


@given(data=st.data())
def test_exact_search_is_the_best_by_the_finest_codec(kind, metric, data):
    x, q, ids = data.draw(collections(kind.codec))
    k = data.draw(ks)
    hits = kind.build(metric, x, ids).search(q, k, exact=True)
    kind.check_exact(hits, q, x, ids, metric, k)


@given(dim=dims, n=st.integers(0, 30), k=ks, seed=seeds)
def test_one_vector_is_one_query(kind, metric, dim, n, k, seed):
    x = strategies.make("normal", seed, n + 1, dim, kind.codec)
    index = kind.build(metric, x[:n])
    single, row = index.search(x[n], k), index.search(x[n : n + 1], k)
    assert single.ids.shape == (1, k)
    np.testing.assert_array_equal(single.ids, row.ids)
    np.testing.assert_array_equal(single.scores, row.scores)


def test_hits_unpack_to_ids_and_scores(kind, metric):
    x = kind.vectors(np.eye(3))
    hits = kind.build(metric, x).search(x[:2], 2)
    ids, scores = hits
    assert ids is hits.ids
    assert scores is hits.scores
    assert len(hits) == 2
    assert isinstance(hits, nf.Hits)
    assert isinstance(hits.plan, str)
    assert hits.plan
    assert hits.plan in repr(hits)


@pytest.mark.parametrize("queries", [0, 1, 5])
@pytest.mark.parametrize("k", [0, 1, 10])
def test_an_empty_index_answers_with_nothing(kind, metric, queries, k):
    q, nothing = kind.vectors(np.zeros((queries, 4))), kind.vectors(np.zeros((0, 4)))
    kind.check_search(kind.make(4, metric).search(q, k), q, nothing, np.zeros(0, np.int64), metric, k)


@pytest.mark.parametrize("empty", [[], np.zeros((0, 3)), np.zeros((0, 3), np.int8)], ids=["list", "f64", "int8"])
def test_nothing_to_add_and_nothing_to_ask_is_legal(kind, metric, empty):
    index = kind.build(metric, kind.vectors(np.eye(3)))
    if kind.codec == "bits" and len(np.shape(empty)) == 2:
        empty = kind.vectors(empty)
    added = index.add(empty)
    assert added.shape == (0,)
    assert added.dtype == np.int64
    index.update([], empty)
    index.remove([])
    assert len(index) == 3
    assert index.search(empty, 5).ids.shape == (0, 5)
    assert index.score(empty, [0, 1]).shape == (0, 2)
    assert index.range_search(empty, 1.0).offsets.tolist() == [0]
    assert index.reconstruct([]).shape == oracle.stored(kind.vectors(np.zeros((0, 3))), kind.codec).shape


@given(seed=seeds, n=st.integers(2, 60), k=st.integers(1, 30))
def test_equal_vectors_come_by_lower_id(kind, metric, seed, n, k):
    """Exact arithmetic (small integers, l2 and ip sums without rounding), so that no tie may be broken otherwise."""
    rng = np.random.default_rng(seed)
    x = kind.vectors(rng.integers(0, 2, (n, 3)))
    ids = rng.permutation(10 * n)[:n].astype(np.int64)
    q = kind.vectors(rng.integers(0, 2, (5, 3)))
    hits = kind.build(metric, x, ids).search(q, k, exact=True)
    for query, found in zip(kind.asked(q), hits.ids, strict=True):
        expected = ids[oracle.best(query, oracle.stored(x, kind.codec), ids, metric, k)]
        np.testing.assert_array_equal(found[: len(expected)], expected)


@given(dim=dims, seed=seeds)
def test_cosine_of_a_zero_vector_is_zero(kind, dim, seed):
    x = strategies.make("normal", seed, 6, dim, kind.codec)
    x[::2] = 0
    index = kind.build("cosine", x)
    scores = index.score([x[1], np.zeros(dim)], index.ids())
    np.testing.assert_array_equal(scores[0, ::2], 0)
    np.testing.assert_array_equal(scores[1], 0)
    hits = index.search(np.zeros(dim), 6)
    assert hits.ids.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert hits.scores.tolist() == [[0] * 6]


@given(data=st.data())
def test_cosine_stays_within_one(kind, data):
    x, q, ids = data.draw(collections(kind.codec, n=st.integers(1, 60), queries=st.integers(1, 15)))
    index = kind.build("cosine", x, ids)
    for scores in (index.search(q, len(x)).scores, index.score(q, ids)):
        assert (np.abs(scores) <= 1).all()
    own = index.score(oracle.stored(x, kind.codec), ids)
    nonzero = oracle.stored(x, kind.codec).any(axis=1)
    np.testing.assert_allclose(np.diagonal(own)[nonzero], 1, rtol=0, atol=2e-7)


@given(data=st.data())
def test_results_depend_neither_on_batch_size_nor_on_threads(kind, metric, data):
    x, q, ids = data.draw(collections(kind.codec, queries=st.just(100)))
    index, k = kind.build(metric, x, ids), data.draw(st.integers(1, 20))
    whole = index.search(q, k)
    for size in (1, 3, 4):
        parts = [index.search(q[i : i + size], k, threads=threads) for i in range(0, 100, size) for threads in (1, 2)]
        for parity in (0, 1):
            np.testing.assert_array_equal(np.concatenate([part.ids for part in parts[parity::2]]), whole.ids)
            np.testing.assert_array_equal(np.concatenate([part.scores for part in parts[parity::2]]), whole.scores)


@given(data=st.data())
def test_the_index_depends_neither_on_threads_nor_on_pieces(kind, metric, data):
    x = data.draw(strategies.vectors(kind.codec, data.draw(dims), n=st.integers(0, 200)))
    at = data.draw(st.integers(0, len(x)))
    files = []
    for threads, pieces in [(1, [x]), (2, [x]), (2, [x[:at], x[at:]])]:
        index = kind.make(x.shape[1], metric)
        for piece in pieces:
            index.add(piece, threads=threads)
        files.append(index.__getstate__())
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("dim", [3072, 4096, 16000, 65535])
def test_high_dimensions(kind, metric, dim):
    rng = np.random.default_rng(dim)
    x = rng.integers(0, 256, (5, dim)) if kind.codec == "uint8" else rng.integers(-128, 128, (5, dim))
    x[0] = x.max()  # the largest sums that integers can have
    q = np.concatenate([x[:2], -x[:2], rng.normal(size=(1, dim)), np.full((1, dim), 127)])
    x, q = kind.vectors(x), kind.vectors(q)
    index = kind.build(metric, x)
    for part in (q, q[:1]):
        kind.check_search(index.search(part, 5), part, x, np.arange(5), metric, 5)
