"""Filters: what they mean, how many results they leave, and that a prepared one keeps its meaning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
import oracle
from strategies import CALM, collections, ks, make, seeds

SELECTIVITIES = [1.0, 0.5, 0.1, 0.02, 0.001, "one", "none"]


def forms(index, allowed):
    """One set of ids as every kind of filter."""
    mask = np.isin(index.ids(), allowed)
    unknown = np.setdiff1d(np.arange(50), index.ids())
    with_unknown = np.random.default_rng(0).permutation(np.concatenate([allowed, allowed[:3], unknown, [-1, -7]]))
    return {
        "mask": mask,
        "list of booleans": mask.tolist(),
        "ids": allowed,
        "list of ids": allowed.tolist(),
        "unknown and repeated ids": with_unknown.astype(np.int64),
        "prepared mask": index.prepare_filter(mask),
        "prepared ids": index.prepare_filter(with_unknown),
    }


def choose(rng, ids, selectivity):
    count = {"one": 1, "none": 0}.get(selectivity)
    count = min(len(ids), int(np.ceil(selectivity * len(ids))) if count is None else count)
    return rng.permutation(ids)[:count]


@given(data=st.data(), seed=seeds, selectivity=st.sampled_from(SELECTIVITIES))
def test_a_filtered_search_is_the_best_of_what_is_allowed(kind, metric, data, seed, selectivity):
    x, q, ids = data.draw(collections(kind.codec, queries=st.integers(1, 6)))
    index, k = kind.build(metric, x, ids), data.draw(ks)
    allowed = choose(np.random.default_rng(seed), ids, selectivity)
    at = np.flatnonzero(np.isin(ids, allowed))
    for name, form in forms(index, allowed).items():
        hits = index.search(q, k, filter=form)
        assert hits.counts.tolist() == [min(k, len(at))] * len(q), name
        kind.check_search(hits, q, x[at], ids[at], metric, k)
        near = index.range_search(q, oracle.everything(metric), filter=form)
        assert sorted(near.ids.tolist()) == sorted(np.tile(ids[at], len(q)).tolist()), name


def test_filters_on_many_rows(kind, metric):
    """More rows than the screen needs to start; the allowed ones lie anywhere, near to the queries, or far away."""
    n, rng = 5000, np.random.default_rng(7)
    x = make("normal", 1, n, 12, kind.codec)
    ids = rng.permutation(3 * n)[:n]
    index, q = kind.build(metric, x, ids), make("normal", 2, 5, 12, kind.codec)
    near = oracle.best(q[0], x, ids, metric, n)
    for ranking in (rng.permutation(n), near, near[::-1]):
        for selectivity in SELECTIVITIES:
            count = {"one": 1, "none": 0}.get(selectivity)
            at = np.sort(ranking[: int(selectivity * n) if count is None else count])
            for filter, k in [(np.isin(ids, ids[at]), 1), (ids[at], 10), (ids[at], 600)]:
                kind.check_search(index.search(q, k, filter=filter), q, x[at], ids[at], metric, k)


@given(seed=seeds)
def test_what_a_stricter_filter_finds_is_found_by_the_looser_one(kind, metric, seed):
    rng, k = np.random.default_rng(seed), 10
    x = make("normal", seed, 60, 8, kind.codec)
    index, q = kind.build(metric, x), make("normal", seed + 1, 4, 8, kind.codec)
    loose = rng.permutation(60)[:40]
    strict = loose[:20]
    wide, narrow = index.search(q, k, filter=loose, exact=True), index.search(q, k, filter=strict, exact=True)
    for i in range(len(q)):
        for id in np.intersect1d(wide.ids[i], strict):
            assert id in narrow.ids[i]


@given(data=st.data(), seed=seeds)
def test_a_prepared_filter_keeps_its_meaning_while_the_index_changes(kind, metric, data, seed):
    rng = np.random.default_rng(seed)
    some, few = st.integers(6, 60), st.integers(1, 3)
    x, q, _ = data.draw(collections(kind.codec, n=some, queries=few, characters=tuple(CALM)))
    ids = rng.permutation(3 * len(x))[: len(x)]
    index, k = kind.build(metric, x, ids), 100
    allowed = rng.permutation(ids)[: len(ids) // 2]
    filters = [index.prepare_filter(f) for f in (allowed, np.isin(index.ids(), allowed))]
    rows = dict(zip(ids.tolist(), x, strict=True))

    def check():
        live = np.array(sorted(set(allowed.tolist()) & rows.keys()), np.int64)
        kept = np.array([rows[int(id)] for id in live], x.dtype).reshape(len(live), x.shape[1])
        for filter in filters:
            kind.check_search(index.search(q, k, filter=filter), q, kept, live, metric, k)

    check()
    for _ in range(data.draw(st.integers(1, 6))):
        step = data.draw(st.sampled_from(["add", "update", "remove", "return"]))
        fresh = make("normal", data.draw(seeds), 4, x.shape[1], kind.codec)
        if step == "add":
            rows.update(zip(index.add(fresh).tolist(), fresh, strict=True))
        elif rows:
            some = rng.permutation(list(rows))[:4]
            fresh = fresh[: len(some)]
            if step == "update":
                index.update(some, fresh)
            else:
                index.remove(some)
            for id, row in zip(some.tolist(), fresh, strict=True):
                rows[id] = row
                if step == "remove":
                    del rows[id]
            if step == "return":  # the same ids with other vectors
                index.add(fresh, some)
        check()


def test_a_prepared_filter_survives_compaction(kind, metric):
    x = make("normal", 3, 6000, 4, kind.codec)
    index = kind.build(metric, x)
    allowed = np.arange(0, 6000, 3)
    filters = [index.prepare_filter(f) for f in (allowed, np.isin(index.ids(), allowed))]
    index.remove(np.arange(1, 6000, 2))
    index.__getstate__()  # saving leaves no dead row behind either
    at = allowed[allowed % 2 == 0]
    for filter in filters:
        kind.check_search(index.search(x[:3], 50, filter=filter), x[:3], x[at], at, metric, 50)


def test_a_filter_means_ids_on_another_index_too(kind, metric):
    """Also when the other index lies in memory where the one that prepared the filter has been."""
    x = make("normal", 4, 40, 4, kind.codec)
    for _ in range(10):
        index = kind.build(metric, x)
        filter = index.prepare_filter([0, 1, 2])
        del index
        other = kind.build(metric, x, np.arange(40)[::-1].copy())
        assert sorted(other.search(x[0], 40, filter=filter).ids[0][:3].tolist()) == [0, 1, 2]
        assert other.search(x[0], 40, filter=filter).counts.tolist() == [3]


def test_a_prepared_filter_tells_its_size(kind, metric):
    x = kind.vectors(np.eye(5))
    index = kind.build(metric, x, [3, 1, 4, 15, 9])
    assert len(index.prepare_filter([4, 4, 9, 1000, -1])) == 2
    assert len(index.prepare_filter([True, False, False, False, True])) == 2
    assert len(index.prepare_filter([])) == 0
    filter = index.prepare_filter([4])
    assert isinstance(filter, nf.Filter)
    assert index.prepare_filter(filter) is filter
    assert index.search(x, 3, filter=filter).ids[:, 0].tolist() == [4] * 5


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"])
def test_filter_ids_of_any_integer_type(kind, dtype):
    index = kind.build("l2", np.eye(5))
    assert index.search(np.eye(5)[0], 5, filter=np.array([4, 0], dtype)).ids.tolist() == [[0, 4, -1, -1, -1]]
