"""Range search, scores of given ids, and the vectors themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
import oracle
from strategies import CALM, collections, dims, make, seeds

some_rows = st.integers(1, 60)
some_queries = st.integers(1, 15)


def check_range(hits, index, queries, asked, rows, ids, metric, radius):
    """Assert that a range search found what lies within the radius, by the oracle as far as rounding decides."""
    assert (hits.ids.dtype, hits.scores.dtype, hits.offsets.dtype) == (np.int64, np.float32, np.int64)
    assert hits.offsets.shape == (len(queries) + 1,)
    assert hits.offsets[0] == 0
    assert hits.offsets[-1] == len(hits.ids) == len(hits.scores)
    place = {int(id): i for i, id in enumerate(ids)}
    for i, query in enumerate(asked):
        part = slice(hits.offsets[i], hits.offsets[i + 1])
        at = np.array([place[int(id)] for id in hits.ids[part]], np.intp)
        key, error = oracle.keys(query, rows, metric), oracle.tolerance(query, rows, metric)
        oracle.check_order(hits.ids[part], query, rows[at], ids[at], metric, len(at))
        oracle.check_scores(hits.scores[part], key[at], error[at], metric)
        own = index.score(queries[i], ids)[0]
        oracle.check_scores(own, key, error, metric)
        assert set(hits.ids[part].tolist()) == set(ids[oracle.inside(own, radius, metric)].tolist())


@given(data=st.data())
def test_range_search_finds_all_within_the_radius_boundary_included(kind, metric, data):
    x, q, ids = data.draw(collections(kind.codec, n=some_rows, queries=some_queries))
    index, rows = kind.build(metric, x, ids), oracle.stored(x, kind.codec)
    boundary = float(index.score(q[0], [data.draw(st.sampled_from(ids.tolist()))])[0, 0])
    for radius in (boundary, np.nextafter(np.float32(boundary), np.float32(-np.inf)), -np.inf, np.inf, 0.0, -1.0):
        for threads in (1, 2):
            hits = index.range_search(q, radius, threads=threads)
            check_range(hits, index, q, kind.asked(q), rows, ids, metric, radius)


def test_range_hits_unpack(kind, metric):
    x = kind.vectors(np.eye(4))
    index = kind.build(metric, x)
    boundary = float(index.score(x[0], 0)[0, 0])  # equal vectors, and no others, lie within
    hits = index.range_search(x[:2], boundary)
    ids, scores, offsets = hits
    assert (ids is hits.ids, scores is hits.scores, offsets is hits.offsets) == (True, True, True)
    assert len(hits) == 2
    assert isinstance(hits, nf.RangeHits)
    assert ids.tolist() == [0, 1]
    assert offsets.tolist() == [0, 1, 2]
    assert kind.make(4, metric).range_search(x[0], boundary).offsets.tolist() == [0, 0]


@given(data=st.data(), seed=seeds)
def test_score_is_that_of_the_oracle(kind, metric, data, seed):
    x, q, ids = data.draw(collections(kind.codec, n=some_rows, queries=some_queries))
    index, rows = kind.build(metric, x, ids), oracle.stored(x, kind.codec)
    at = np.random.default_rng(seed).integers(-1, len(x), (len(q), data.draw(st.integers(0, 20))))
    wanted = np.where(at < 0, -1, ids[at])
    per_query = index.score(q, wanted)
    assert per_query.dtype == np.float32
    assert per_query.shape == wanted.shape
    assert np.isnan(per_query[at < 0]).all()
    for query, places, scores in zip(kind.asked(q), at, per_query, strict=True):
        known = places >= 0
        key, error = (f(query, rows[places[known]], metric) for f in (oracle.keys, oracle.tolerance))
        oracle.check_scores(scores[known], key, error, metric)
    for_all = index.score(q, wanted[0])
    assert for_all.shape == (len(q), wanted.shape[1])
    np.testing.assert_array_equal(for_all[0], per_query[0])
    for scores, query in zip(for_all, q, strict=True):
        np.testing.assert_array_equal(scores, index.score(query, wanted[0], threads=1)[0])


@given(data=st.data())
def test_score_agrees_with_search(kind, metric, data):
    x, q, ids = data.draw(collections(kind.codec, n=some_rows, queries=some_queries))
    index = kind.build(metric, x, ids)
    hits = index.search(q, len(x) + 3)
    np.testing.assert_array_equal(index.score(q, hits.ids), hits.scores)  # both NaN in the padding


def test_score_takes_a_single_id(kind, metric):
    x = kind.vectors(np.eye(3))
    index = kind.build(metric, x)
    assert index.score(x, 1).shape == (3, 1)
    assert index.score(x[0], [2, 2, 0]).shape == (1, 3)
    assert np.isnan(index.score(x, -1)).all()
    assert np.isnan(kind.make(3, metric).score(x[0], [-1, -1])).all()


@given(data=st.data(), seed=seeds)
def test_reconstruct_returns_what_was_added(kind, metric, data, seed):
    x, _, ids = data.draw(collections(kind.codec, queries=st.just(0)))
    index, rows = kind.build(metric, x, ids), oracle.stored(x, kind.codec)
    at = np.random.default_rng(seed).integers(0, max(len(x), 1), 20 if len(x) else 0)
    found = index.reconstruct(ids[at])
    assert found.dtype == rows.dtype
    np.testing.assert_array_equal(found, rows[at])


@given(dim=dims, seed=seeds, character=st.sampled_from(sorted(CALM)))
def test_codecs_keep_their_precision(dim, seed, character):
    x = make(character, seed, 20, dim, "f16")
    step = np.abs(x).max(axis=1, keepdims=True) / 127
    for codec, error in [
        ("f32", 0),
        ("f16", np.abs(x) * 2.0**-11 + 2.0**-25),
        ("bf16", np.abs(x) * 2.0**-8),
        ("int8", step / 2),
    ]:
        index = nf.Flat(dim, codec=codec)
        kept = index.reconstruct(index.add(x))
        assert (np.abs(np.float64(kept) - x) <= np.float64(error) * (1 + 1e-6)).all(), codec


@pytest.mark.parametrize(("codec", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255)])
def test_integer_codecs_keep_integers_as_they_are(codec, low, high):
    x = np.arange(low, high + 1).reshape(32, 8)
    index = nf.Flat(8, "l2", codec=codec)
    np.testing.assert_array_equal(index.reconstruct(index.add(x)), x)
    assert index.search(x, 1).scores.max() == 0


@given(data=st.data())
def test_ids_and_membership(kind, metric, data):
    x, _, ids = data.draw(collections(kind.codec, queries=st.just(0)))
    index = kind.build(metric, x, ids)
    listed = index.ids()
    assert listed.dtype == np.int64
    assert sorted(listed.tolist()) == sorted(ids.tolist())
    assert len(index) == len(x)
    known = set(ids.tolist())
    for id in [*ids.tolist()[:5], *ids[:5], -1, 0, 1, 2**63 - 1, 2**63, 2**80, "0", None, 0.0]:
        assert (id in index) == (isinstance(id, int | np.integer) and int(id) in known), id
