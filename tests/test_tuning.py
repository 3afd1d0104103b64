"""Declared recall: what `tune` measures, keeps and promises, and what `measure_recall` says."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import nearfield as nf
import oracle
from test_files import to_bytes

DIM = 32


def clustered(seed: int, n: int, dim: int = DIM) -> np.ndarray:
    """Vectors about common centres, some of them close together."""
    centers = np.random.default_rng(99).normal(size=(60, dim)) * np.geomspace(2, 0.3, dim)
    rng = np.random.default_rng(seed)
    return (centers[rng.integers(0, 60, n)] + 0.6 * rng.normal(size=(n, dim)) * np.geomspace(2, 0.3, dim)).astype("f4")


def made(codec="rabitq1", metric: str = "cosine", n: int = 4000, rerank="f16", ids=None, **options) -> nf.Flat:
    index = nf.Flat(DIM, metric, codec=codec, rerank=rerank, **options)
    index.add(clustered(1, n), ids)
    return index


@pytest.fixture(scope="module")
def tuned() -> nf.Flat:
    index = made()
    index.tune(clustered(2, 300), k=5)
    return index


def recall_of(index: nf.Flat, queries: np.ndarray, k: int, **options) -> float:
    """Of a search, against one in NumPy by what the index reconstructs."""
    ids, rows = index.ids(), index.reconstruct(index.ids())
    found = index.search(queries, k, **options).ids
    true = [ids[oracle.best(query, rows, ids, index.metric, k)] for query in queries]
    return float(np.mean([np.isin(row, some).mean() for row, some in zip(true, found, strict=True)]))


# ----------------------------------------------------------------------------------------------------------------------
# The table
# ----------------------------------------------------------------------------------------------------------------------


def test_the_table_rises(tuned):
    tuning = tuned.tuning
    assert (tuning.parameter, tuning.k, tuning.queries, tuning.n) == ("oversample", 5, "given", 300)
    wanted, measured, values = map(list, zip(*tuning.table, strict=True))
    assert wanted == [0.9, 0.95, 0.99]
    assert all(found >= asked for asked, found in zip(wanted, measured, strict=True))
    assert values == sorted(values)
    assert values[0] >= 1
    assert values[0] < values[-1]
    assert measured == sorted(measured)


def test_what_was_measured_is_what_a_search_finds(tuned):
    queries = clustered(2, 300)
    for wanted, measured, value in tuned.tuning.table:
        for options in ({"recall": wanted}, {"oversample": value}):
            assert recall_of(tuned, queries, 5, **options) == pytest.approx(measured, abs=1e-3)
            assert tuned.measure_recall(queries, 5, **options) == pytest.approx(measured, abs=1e-9)


def test_search_takes_the_first_entry_that_asked_for_as_much(tuned):
    queries = clustered(3, 50)
    values = {wanted: value for wanted, _, value in tuned.tuning.table}
    for recall, entry in [(1e-9, 0.9), (0.5, 0.9), (0.9, 0.9), (0.901, 0.95), (0.95, 0.95), (0.96, 0.99), (0.99, 0.99)]:
        found, expected = tuned.search(queries, 5, recall=recall), tuned.search(queries, 5, oversample=values[entry])
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.scores, expected.scores)
    # Also with a filter, and for other numbers of results.
    allowed = tuned.ids()[::3]
    for k in (0, 1, 20, 5000):
        found = tuned.search(queries, k, recall=0.95, filter=allowed)
        expected = tuned.search(queries, k, oversample=values[0.95], filter=allowed)
        np.testing.assert_array_equal(found.ids, expected.ids)


def test_settings_are_no_larger_than_they_must_be(tuned):
    queries = clustered(2, 300)
    for wanted, _, value in tuned.tuning.table:
        if value > 1:  # a margin for other queries is allowed
            assert tuned.measure_recall(queries, 5, oversample=max(1, value / 1.5)) < wanted + 0.01


def test_what_tune_returns_is_what_it_keeps():
    index = made(n=500)
    assert index.tuning is None
    found = index.tune(clustered(2, 50), k=3, recall=[0.8, 0.6, 0.8])
    assert index.tuning == found
    assert [wanted for wanted, _, _ in found.table] == [0.6, 0.8]
    assert index.tune(clustered(2, 40), k=2, recall=0.7) == index.tuning != found
    assert (index.tuning.k, index.tuning.n) == (2, 40)


def test_the_table_goes_into_the_file(tuned, tmp_path):
    tuned.save(tmp_path / "index")
    queries = clustered(3, 20)
    for other in (
        nf.load(tmp_path / "index"),
        nf.load(tmp_path / "index", mmap=True),
        nf.load(to_bytes(tuned)),
        pickle.loads(pickle.dumps(tuned)),
        copy.copy(tuned),
    ):
        assert other.tuning == tuned.tuning
        for recall in (0.9, 0.99):
            found, expected = (each.search(queries, 5, recall=recall) for each in (other, tuned))
            np.testing.assert_array_equal(found.ids, expected.ids)
        assert to_bytes(other) == to_bytes(tuned)
    untuned = made(n=100)
    assert nf.load(to_bytes(untuned)).tuning is None


def test_the_table_stays_while_the_index_changes():
    index = made(n=600)
    tuning = index.tune(clustered(2, 50), k=3)
    index.add(clustered(5, 100))
    index.remove(np.arange(50))
    index.update([60, 61], clustered(6, 2))
    assert index.tuning == tuning
    assert index.search(clustered(3, 4), 3, recall=0.9).counts.tolist() == [3] * 4


def test_the_same_table_at_any_number_of_threads():
    tables = []
    for threads in (1, 2, None):
        index = made(n=1500)
        tables.append((index.tune(k=5, threads=threads), index.tune(clustered(2, 100), k=5, threads=threads)))
    assert tables[0] == tables[1] == tables[2]


def test_an_index_without_refinement_has_nothing_to_set():
    for codec in ("f32", "sq8"):
        index = made(codec, n=300, rerank=None)
        tuning = index.tune(clustered(2, 20), k=4)
        assert [(measured, value) for _, measured, value in tuning.table] == [(1, 1)] * 3
        queries = clustered(3, 10)
        np.testing.assert_array_equal(index.search(queries, 4, recall=0.99).ids, index.search(queries, 4).ids)
        assert index.measure_recall(queries, 4) == 1


def test_small_indexes():
    for n in (1, 2, 5, 33):
        index = made(n=n)
        for queries in (None, clustered(2, 7)):
            for k in (1, 3, 50):
                tuning = index.tune(queries, k=k)
                assert all(measured >= wanted for wanted, measured, _ in tuning.table)
                assert index.search(clustered(3, 3), k, recall=0.99).counts.tolist() == [min(k, n)] * 3


def test_progress_and_interruption():
    index, seen = made(n=500), []
    tuning = index.tune(clustered(2, 30), k=3, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    before = to_bytes(index)

    def stop(share):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        index.tune(clustered(2, 30), k=4, progress=stop)
    assert index.tuning == tuning
    assert to_bytes(index) == before


# ----------------------------------------------------------------------------------------------------------------------
# Vectors of the index in place of queries
# ----------------------------------------------------------------------------------------------------------------------


def test_held_out_vectors_do_not_find_themselves():
    """Every vector stands twice: without itself, each still has its double."""
    x = np.repeat(clustered(1, 400), 2, axis=0)
    index = nf.Flat(DIM, "l2", codec=nf.RaBitQ(1), rerank="f32")
    index.add(x)
    tuning = index.tune(k=1, recall=[0.9])
    assert (tuning.queries, tuning.n) == ("held out", 800)
    found = index.search(x, 2, oversample=(tuning.table[0][2] + 1) / 2).ids
    own = np.arange(800)
    # The others' best is the double; with the vector itself counted, recall would be 1 at any setting.
    double = own ^ 1
    assert tuning.table[0][1] == pytest.approx((found == double[:, np.newaxis]).any(axis=1).mean(), abs=0.05)


def test_held_out_recall_is_that_of_each_vector_among_the_others():
    index = made("rabitq1", "l2", 300)
    tuning = index.tune(k=4, recall=[0.5, 0.9])
    assert tuning.n == 300
    x, ids = index.reconstruct(index.ids()), index.ids()
    for _, measured, value in tuning.table:
        shares = []
        for i, query in enumerate(x):
            others = np.delete(ids, i)
            true = others[oracle.best(query, np.delete(x, i, axis=0), others, "l2", 4)]
            # 4 * value candidates beside the vector itself
            found = [id for id in index.search(query, 5, oversample=(4 * value + 1) / 5).ids[0] if id != ids[i]][:4]
            shares.append(np.isin(true, found).mean())
        assert measured == pytest.approx(np.mean(shares), abs=0.01)


def test_a_thousand_vectors_stand_in_for_queries():
    assert made(n=2500).tune(k=3).n == 1000
    assert made(n=999).tune(k=3).n == 999


# ----------------------------------------------------------------------------------------------------------------------
# Measured recall, and the promise
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("rerank", ["f32", "f16", "sq8", "lvq8"])
def test_measured_recall_is_that_of_numpy(metric, rerank):
    index = made("rabitq1", metric, 1500, rerank, ids=np.random.default_rng(0).permutation(9999)[:1500])
    queries = clustered(3, 60)
    truth = index.search(queries, 10, exact=True).ids
    for oversample in (1, 2, 8, 150):
        found = index.search(queries, 10, oversample=oversample).ids
        share = np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)])
        measured = index.measure_recall(queries, 10, oversample=oversample)
        assert measured == pytest.approx(share, abs=1e-12)
        if rerank.startswith("f"):
            assert measured == pytest.approx(recall_of(index, queries, 10, oversample=oversample), abs=2e-3)
    assert index.measure_recall(queries, 10, oversample=150) == 1
    assert index.measure_recall(queries[0], 10) <= 1


@pytest.mark.parametrize(
    ("codec", "metric"),
    [
        ("rabitq1", "cosine"),
        ("rabitq1", "l2"),
        ("sign", "l2"),
        ("pq4", "ip"),
        ("lloyd2", "ip"),
        ("sq4", "l2"),
        ((nf.PCA(12), "lvq4"), "cosine"),
    ],
    ids=str,
)
def test_fresh_queries_get_the_recall_that_is_asked_for(codec, metric):
    index = made(codec, metric, 5000)
    index.tune(clustered(2, 500), k=10)
    fresh = clustered(4, 700)
    for wanted in (0.9, 0.95, 0.99):
        assert index.measure_recall(fresh, 10, recall=wanted) >= wanted - 0.01
    index.tune(k=10)  # its own vectors are distributed as these queries are
    for wanted in (0.9, 0.95, 0.99):
        assert index.measure_recall(fresh, 10, recall=wanted) >= wanted - 0.015


# ----------------------------------------------------------------------------------------------------------------------
# Bad input
# ----------------------------------------------------------------------------------------------------------------------

QUERIES = np.ones((3, DIM), np.float32)
BAD = {
    "recall above 1": (lambda index: index.search(QUERIES, recall=1.01), ValueError, "recall: 1.01.*at most 1"),
    "recall 0": (lambda index: index.search(QUERIES, recall=0), ValueError, "recall: 0.*more than 0"),
    "negative recall": (lambda index: index.search(QUERIES, recall=-0.5), ValueError, "recall: -0.5"),
    "recall NaN": (lambda index: index.search(QUERIES, recall=np.nan), ValueError, "recall.*nan"),
    "recall of text": (lambda index: index.search(QUERIES, recall="high"), TypeError, "recall.*high"),
    "beyond the table": (lambda index: index.search(QUERIES, recall=0.999), ValueError, r"recall: 0.999.*0.99"),
    "both": (lambda index: index.search(QUERIES, recall=0.9, oversample=3), ValueError, "recall.*oversample"),
    "measured beyond the table": (lambda index: index.measure_recall(QUERIES, recall=1), ValueError, "recall: 1.*0.99"),
    "measured with both": (
        lambda index: index.measure_recall(QUERIES, oversample=2, recall=0.9),
        ValueError,
        "recall.*oversample",
    ),
    "no queries": (lambda index: index.measure_recall(QUERIES[:0]), ValueError, "queries.*none"),
    "None for queries": (lambda index: index.measure_recall(None), TypeError, "queries.*None"),
    "queries of another dimension": (lambda index: index.measure_recall(QUERIES[:, :5]), ValueError, "queries.*5.*32"),
    "no results": (lambda index: index.measure_recall(QUERIES, 0), ValueError, "k: 0"),
    "tuning for no results": (lambda index: index.tune(k=0), ValueError, "k: 0"),
    "tuning for fewer": (lambda index: index.tune(k=-1), ValueError, "k.*-1"),
    "tuning with no queries": (lambda index: index.tune(QUERIES[:0]), ValueError, "queries.*none"),
    "tuning with NaN": (lambda index: index.tune(QUERIES * np.nan), ValueError, "queries: row 0.*NaN"),
    "tuning to no recall": (lambda index: index.tune(recall=[]), ValueError, "recall.*none"),
    "tuning to recall 0": (lambda index: index.tune(recall=[0.5, 0]), ValueError, "recall: 0"),
    "tuning beyond 1": (lambda index: index.tune(recall=[0.5, 1.5]), ValueError, "recall: 1.5"),
    "tuning to NaN": (lambda index: index.tune(recall=[np.nan]), ValueError, "recall.*nan"),
    "tuning to text": (lambda index: index.tune(recall=["all"]), TypeError, "recall.*all"),
    "threads": (lambda index: index.tune(threads=0), ValueError, "threads.*0"),
    "progress": (lambda index: index.tune(progress=3), TypeError, "progress.*3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(tuned, case):
    call, error, message = BAD[case]
    before = to_bytes(tuned)
    with pytest.raises(error, match=message):
        call(tuned)
    assert to_bytes(tuned) == before


def test_an_index_that_was_not_tuned():
    index = made(n=100)
    for call in (index.search, index.measure_recall):
        with pytest.raises(ValueError, match=r"recall.*tune"):
            call(QUERIES, recall=0.9)


def test_an_index_without_vectors():
    index = nf.Flat(DIM, codec="rabitq1", rerank="f16")
    for call in (index.tune, lambda: index.tune(QUERIES), lambda: index.measure_recall(QUERIES)):
        with pytest.raises(ValueError, match="without vectors"):
            call()
    index.add(clustered(1, 50))
    index.tune(k=3)
    index.remove(index.ids())
    with pytest.raises(ValueError, match="without vectors"):
        index.tune()
    assert index.search(QUERIES, 3, recall=0.9).counts.tolist() == [0] * 3


def test_bits_can_be_tuned_as_well():
    index = nf.Flat(64, "hamming")
    index.add(np.random.default_rng(0).random((500, 64)) < 0.5)
    for queries in (None, np.random.default_rng(1).random((20, 64)) < 0.5):
        assert index.tune(queries, k=4).table == ((0.9, 1, 1), (0.95, 1, 1), (0.99, 1, 1))
