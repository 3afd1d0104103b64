"""The screened scan is exact on data made to defeat it: bounds that tell nothing apart, giants, growing difficulty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
import oracle
from strategies import CHARACTERS, make, seeds

DIM = 24


def near_ties(rng, n, dim):
    """All rows within a hair of one another: no 8-bit image can tell them apart."""
    return rng.normal(size=(1, dim)) * (1 + 1e-6 * rng.normal(size=(n, dim)))


def tight_clusters(rng, n, dim):
    return rng.normal(size=(7, dim))[rng.integers(0, 7, n)] + 1e-5 * rng.normal(size=(n, dim))


def late_duplicates(rng, n, dim):
    """Thousands of copies of one row, after others: ties by lower id among candidates that no bound excludes."""
    x = rng.normal(size=(n, dim))
    x[n // 3 :: 2] = x[5]
    return x


def another_beginning(rng, n, dim):
    """The first rows, by which the scan judges itself, are unlike all others."""
    x = rng.normal(size=(n, dim))
    x[:2000] = x[:2000] * 1e-3 + 100
    return x


def confusing_beginning(rng, n, dim):
    x = rng.normal(size=(n, dim))
    x[:3000] = x[0] * (1 + 1e-7 * rng.normal(size=(3000, dim)))
    return x


def confusing_end(rng, n, dim):
    x = rng.normal(size=(n, dim))
    x[n // 2 :] = 3 * x[0] * (1 + 1e-7 * rng.normal(size=(n - n // 2, dim)))
    return x


def giants_between(rng, n, dim):
    x = rng.normal(size=(n, dim))
    x[::1000] *= 1e12
    return x


def one_hot(rng, n, dim):
    x = np.zeros((n, dim))
    x[np.arange(n), rng.integers(0, dim, n)] = rng.normal(size=n)
    return x


ADVERSARIES = {
    **CHARACTERS,
    **{f.__name__: f for f in (near_ties, tight_clusters, late_duplicates, another_beginning, confusing_beginning)},
    **{f.__name__: f for f in (confusing_end, giants_between, one_hot)},
}
LIMITS = {"f32": 3e38, "f16": 6e4, "bf16": 3e38}


def vectors(character, n, codec, dim=DIM):
    x = ADVERSARIES[character](np.random.default_rng(n), n, dim)
    return np.clip(x, -LIMITS[codec], LIMITS[codec]).astype(np.float32)


def check_exact(x, q, ids, metric, codec, ks=(1, 10, 300)):
    """Assert that screened search finds the true best, and exactly what the plain scan finds."""
    screened, plain = (nf.Flat(x.shape[1], metric, codec=codec, screen=screen) for screen in (True, False))
    for index in (screened, plain):
        index.add(x, ids)
    kept = oracle.stored(x, codec)
    for k in ks:
        for queries in (q, q[:3], q[:1]):  # tiles, rows beside each other, one by one
            hits, same = screened.search(queries, k), plain.search(queries, k)
            assert hits.plan.startswith("screened scan")
            assert same.plan.startswith("scan")
            np.testing.assert_array_equal(hits.ids, same.ids)
            np.testing.assert_array_equal(hits.scores, same.scores)
        oracle.check_hits(screened.search(q, k), q, kept, ids, metric, k)
    radius = float(np.median(screened.search(q, 50).scores[:, -1]))
    within, same = screened.range_search(q, radius), plain.range_search(q, radius)
    for a, b in zip(within, same, strict=True):
        np.testing.assert_array_equal(a, b)
    for i, query in enumerate(q):
        part = slice(within.offsets[i], within.offsets[i + 1])
        key, error = oracle.keys(query, kept, metric), oracle.tolerance(query, kept, metric)
        own = screened.score(query, ids)[0]
        oracle.check_scores(own, key, error, metric)
        inside = own <= np.float32(radius) if metric == "l2" else own >= np.float32(radius)
        assert set(within.ids[part].tolist()) == set(ids[inside].tolist())


@pytest.mark.parametrize("character", ADVERSARIES)
def test_adversarial_rows(metric, character):
    n = 5000
    x = vectors(character, n, "f32")
    q = np.concatenate([x[[0, n // 2, n - 1, 5]], make("normal", 1, 3, DIM), x[::-1][:2] * np.float32(0.999)])
    check_exact(x, q, np.random.default_rng(0).permutation(n), metric, "f32")


@pytest.mark.parametrize("codec", ["f16", "bf16"])
@pytest.mark.parametrize("character", ["normal", "norms", "near_ties", "late_duplicates", "confusing_end", "one_hot"])
def test_half_precision(metric, codec, character):
    n = 4500
    x = vectors(character, n, codec)
    q = np.concatenate([x[[0, n // 2]], make("normal", 1, 4, DIM)])
    check_exact(x, q, np.arange(n)[::-1].copy(), metric, codec)


@pytest.mark.parametrize("character", ["normal", "identical", "giant row", "confusing_beginning", "confusing_end"])
def test_more_rows_than_a_probe_sees(metric, character):
    n = 17000
    x = vectors(character, n, "f32", dim=8)
    q = np.concatenate([x[[0, n - 1]], make("normal", 1, 3, 8)])
    check_exact(x, q, np.arange(n), metric, "f32", ks=(10, 2000))


@pytest.mark.parametrize("direction", ["harder", "easier"])
def test_rows_sorted_by_difficulty(metric, direction):
    """Every row beats all before it, so that no threshold ever excludes one; and the other way round."""
    n, q = 20000, make("normal", 3, 5, 8)
    x = make("normal", 2, n, 8)
    order = oracle.best(q[0], x, np.arange(n), metric, n)
    x = x[order[::-1] if direction == "harder" else order]
    check_exact(x, q, np.arange(n), metric, "f32", ks=(1, 100))


def test_rows_shared_between_threads(metric):
    """So many rows that threads split them: the parts of one query are put together again."""
    n, k = 70000, 20
    x = make("duplicates", 5, n, 4)
    ids = np.random.default_rng(1).permutation(n)
    index = nf.Flat(4, metric)
    index.add(x, ids)
    for queries in (make("normal", 6, 1, 4), make("normal", 7, 5, 4), x[:30]):
        one = index.search(queries, k, threads=1)
        oracle.check_hits(one, queries, x, ids, metric, k)
        for threads in (2, 3):
            several = index.search(queries, k, threads=threads)
            np.testing.assert_array_equal(several.ids, one.ids)
            np.testing.assert_array_equal(several.scores, one.scores)


@given(data=st.data(), seed=seeds, n=st.integers(1000, 3000), dim=st.integers(1, 40), k=st.integers(1, 400))
def test_any_rows(metric, data, seed, n, dim, k):
    """Around the number of rows from which on there is a screen, in one piece or several."""
    x = make(data.draw(st.sampled_from(sorted(CHARACTERS))), seed, n, dim)
    q = np.concatenate([make("normal", seed + 1, 2, dim), x[: data.draw(st.integers(0, 3))]])
    index, ids = nf.Flat(dim, metric), np.random.default_rng(seed).permutation(n)
    at = data.draw(st.integers(0, n))
    index.add(x[:at], ids[:at])
    index.add(x[at:], ids[at:])
    whole = nf.Flat(dim, metric)
    whole.add(x, ids)
    assert whole.__getstate__() == index.__getstate__()
    oracle.check_hits(index.search(q, k), q, x, ids, metric, k)


def test_changes_behind_the_screen(metric):
    """Rows that were replaced, removed and added after the screen was made."""
    n, rng = 6000, np.random.default_rng(9)
    x = make("normal", 8, n, 8)
    index = nf.Flat(8, metric)
    index.add(x)
    some = rng.permutation(n)[:800]
    x[some[:400]] = make("norms", 9, 400, 8)
    index.update(some[:400], x[some[:400]])
    index.remove(some[400:])
    ids = np.setdiff1d(np.arange(n), some[400:])
    for current in (index, nf.load(index.__getstate__())):
        q = make("normal", 10, 6, 8)
        hits = current.search(q, 25)
        assert hits.plan.startswith("screened scan")
        oracle.check_hits(hits, q, x[ids], ids, metric, 25)


def test_the_screen_can_be_left_out_and_counts_as_memory():
    x = make("normal", 1, 8192, 64)
    sizes = {}
    for screen in (True, False):
        index = nf.Flat(64, screen=screen)
        index.add(x)
        assert index.screen == screen
        sizes[screen] = index.nbytes
    assert x.nbytes <= sizes[False] < 1.01 * x.nbytes
    assert 1.25 * x.nbytes < sizes[True] < 1.4 * x.nbytes
