"""Codecs of numbers: what a search finds is what NumPy finds among the decoded vectors, whatever happened before."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
import oracle
from nearfield import _core
from strategies import make, seeds
from test_files import to_bytes
from test_signs import data

GROUP = 32  # rows whose codes are interleaved


def some_queries(dim: int) -> np.ndarray:
    return data(77, 300, dim)


# Codecs by name, each for a dimension.
CODECS = {
    **{
        name: lambda dim, name=name: name
        for name in (
            *("sq8", "sq6", "sq4", "lvq8", "lvq4", "lvq4x4", "lvq4x8", "lvq8x8", "lloyd4", "lloyd2", "pq4", "pq8"),
            *(f"rabitq{bits}" for bits in range(1, 9)),
        )
    },
    "sq8 global": lambda dim: nf.SQ(8, "global"),
    "sq6 global clipped": lambda dim: nf.SQ(6, "global", 0.01),
    "sq4 clipped": lambda dim: nf.SQ(4, clip=0.02),
    "lloyd4 plain": lambda dim: nf.Lloyd(4, calibrated=False, seed=3),
    "rabitq seed": lambda dim: nf.RaBitQ(3, seed=9),
    "pq4 one part": lambda dim: nf.PQ(1),
    "pq4 parts": lambda dim: nf.PQ(min(dim, 7), seed=4),
    "pq4 a part for each dimension": lambda dim: nf.PQ(dim),
    "pq8 parts": lambda dim: nf.PQ(min(dim, 5), 8),
    "pq4 random": lambda dim: nf.PQ(min(dim, 6), rotation="random"),
    "pq4 opq": lambda dim: nf.PQ(min(dim, 6), rotation="opq"),
    "pq4 balanced": lambda dim: nf.PQ(min(dim, 6), assignment="balanced"),
    "PCA sq8": lambda dim: (nf.PCA(-(-dim // 2)), "sq8"),
    "PCA whitened lvq8": lambda dim: (nf.PCA(-(-dim // 3), whiten=True), "lvq8"),
    "PCA pq4": lambda dim: (nf.PCA(-(-dim // 2)), nf.PQ(1)),
    "PCA f32": lambda dim: (nf.PCA(-(-dim // 2)), "f32"),
    "Prefix rabitq4": lambda dim: (nf.Prefix(-(-dim // 2)), "rabitq4"),
    "Prefix f16": lambda dim: (nf.Prefix(-(-dim // 2)), "f16"),
    "RandomRotation sq4": lambda dim: (nf.RandomRotation(5), "sq4"),
    "RandomRotation lvq4x8": lambda dim: (nf.RandomRotation(), "lvq4x8"),
    "Blocks f32": lambda dim: (blocks(dim), "f32"),
    "Blocks lloyd4": lambda dim: (blocks(dim), "lloyd4"),
    "Blocks PCA sq8": lambda dim: (blocks(dim), nf.PCA(-(-dim // 2)), "sq8"),
}
# These know inner products only.
INNER_PRODUCT = {
    "pq4 queries": lambda dim: nf.PQ(min(dim, 6), queries=some_queries(dim)),
    "pq4 opq queries": lambda dim: nf.PQ(min(dim, 6), rotation="opq", queries=some_queries(dim)),
    "pq4 anisotropic": lambda dim: nf.PQ(min(dim, 6), anisotropic=0.2),
    "LeanVec lvq8": lambda dim: (nf.LeanVec(-(-dim // 2)), "lvq8"),
    "LeanVec queries lloyd4": lambda dim: (nf.LeanVec(-(-dim // 2), queries=some_queries(dim)), "lloyd4"),
}
PAIRS = [
    *((name, metric) for name in CODECS for metric in oracle.METRICS),
    *((name, metric) for name in INNER_PRODUCT for metric in ("cosine", "ip")),
]
SHORT = [name for name in CODECS if name.islower() and name.isalnum()]
# A few of each sort, where there is no need to look at all of them.
SOME = ["sq8", "sq6", "lvq4", "lvq8x8", "pq4", "pq8", "lloyd4", "rabitq1", "rabitq5", "pq4 opq", "PCA sq8"]

each_pair = pytest.mark.parametrize(("name", "metric"), PAIRS, ids=lambda value: value)
each_short_name = pytest.mark.parametrize("name", SHORT)
some_codecs = pytest.mark.parametrize("name", SOME)
each_metric = pytest.mark.parametrize("metric", oracle.METRICS)


def blocks(dim: int) -> nf.Blocks:
    return nf.Blocks((dim,), (2.0,)) if dim == 1 else nf.Blocks((dim // 3 + 1, dim - dim // 3 - 1), (1.0, 0.25))


def codec_of(name: str, dim: int):
    return (CODECS | INNER_PRODUCT)[name](dim)


def by_chance(name: str) -> bool:
    """Whether a scan goes by bounds that hold with high probability only."""
    return "x" in name or ("rabitq" in name and name != "rabitq1")


def error_of(name: str) -> float:
    """How far scores may be off, relative to the lengths: what is rotated or projected is so in float32."""
    plain = name.startswith(("sq", "lvq")) or name in ("pq4", "pq8", "pq4 one part", "pq4 parts", "pq8 parts")
    return 1e-12 if plain else 3e-6 if name.startswith(("lloyd", "rabitq", "pq", "Prefix")) else 3e-5


def built(name: str, metric: str, x: np.ndarray, ids: np.ndarray | None = None, sample: np.ndarray | None = None):
    index = nf.Flat(x.shape[1], metric, codec=codec_of(name, x.shape[1]))
    if sample is not None and name not in ("Prefix f16", "Blocks f32"):  # which have nothing to learn
        index.train(sample)
    index.add(x, ids)
    return index


class Searches:
    """Searches of one index, each compared with the scores of all vectors."""

    def __init__(self, index: nf.Flat, exact: bool = True):
        self.index, self.exact, self.places, self.missed = index, exact, 0, 0

    def check(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None, **options) -> None:
        ids = np.sort(self.index.ids() if allowed is None else allowed)
        queries = np.atleast_2d(queries)
        scores = self.index.score(queries, ids)
        hits = self.index.search(queries, k, filter=allowed, **options)
        count = min(k, len(ids))
        assert hits.ids.shape == hits.scores.shape == (len(queries), k)
        assert hits.counts.tolist() == [count] * len(queries)
        assert (hits.ids[:, count:] == -1).all()
        assert np.isnan(hits.scores[:, count:]).all()
        if count == 0:
            return
        found, values = hits.ids[:, :count], hits.scores[:, :count]
        assert np.isin(found, ids).all()
        assert (np.diff(np.sort(found, axis=1), axis=1) > 0).all(), "an id stands twice"
        np.testing.assert_array_equal(values, np.take_along_axis(scores, np.searchsorted(ids, found), axis=1))
        sign = 1 if self.index.metric in oracle.DISTANCES else -1
        best = np.sort(sign * scores, axis=1)[:, :count]
        if self.exact:
            np.testing.assert_array_equal(sign * values, best)
        else:
            assert (np.diff(sign * values, axis=1) >= 0).all()
            self.places += found.size
            self.missed += int((sign * values > best[:, -1:]).sum())

    def finish(self) -> None:
        assert self.missed <= 0.01 * self.places + (not self.exact)


def check_searches(index: nf.Flat, queries: np.ndarray, exact: bool) -> None:
    """Batches and results of all sizes, threads, and filters of every selectivity."""
    searches, n, rng = Searches(index, exact), len(index), np.random.default_rng(0)
    for batch, k, threads in [(1, 10, 1), (3, 1, 2), (12, 10, 1), (13, n + 5, 2), (64, 10, 2), (1, 0, 1), (2, n, 1)]:
        searches.check(queries[:batch], k, threads=threads)
    for share in (0, 0.001, 0.05, 0.5, 1):
        allowed = rng.permutation(index.ids())[: int(np.ceil(share * n))]
        searches.check(queries[:1], 10, allowed)
        searches.check(queries[:13], 3, allowed, threads=2)
    searches.finish()
    radius = float(np.median(index.score(queries[0], index.ids())))
    near = index.range_search(queries[:3], radius)
    for i in range(3):
        inside = index.ids()[oracle.inside(index.score(queries[i], index.ids())[0], radius, index.metric)]
        found = near.ids[near.offsets[i] : near.offsets[i + 1]]
        missing = np.setdiff1d(inside, found)
        assert len(found) + len(missing) == len(inside)
        assert len(missing) <= (0 if exact else 0.01 * n + 1)


# ----------------------------------------------------------------------------------------------------------------------
# Against NumPy
# ----------------------------------------------------------------------------------------------------------------------


@each_pair
def test_scores_are_those_of_decoded_vectors(name, metric):
    dims = (1, 3, 17, 33) if "opq" in name else (1, 3, 17, 33, 100, 130)
    for dim in dims:
        n = 500 if dim == 17 else 290
        x, queries = data(1, n, dim), data(2, 64, dim)
        ids = np.random.default_rng(dim).permutation(3 * n)[:n]
        index = built(name, metric, x, ids)
        scores = index.score(queries, ids)
        oracle.Decoded(index, x, ids).check(scores, queries, error_of(name))
        if metric == "cosine":
            assert np.abs(scores).max() <= 1
        check_searches(index, queries, exact=not by_chance(name))


@each_pair
def test_sizes_about_groups(name, metric):
    sample, queries = data(1, 300, 17), data(2, 64, 17)
    for n in (0, 1, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP, 2 * GROUP + 1, 1000):
        index = built(name, metric, data(3, n, 17), sample=sample)
        if n == 1000:
            check_searches(index, queries, exact=not by_chance(name))
        elif n:
            searches = Searches(index, exact=not by_chance(name))
            for batch, k, allowed in [(1, n, None), (13, 3, None), (2, 5, index.ids()[::3])]:
                searches.check(queries[:batch], k, allowed)
            searches.finish()
        else:
            assert index.search(queries, 3).counts.tolist() == [0] * 64


@each_pair
def test_equal_vectors_come_by_lower_id(name, metric):
    base = data(1, 300, 20)
    x = base[np.random.default_rng(1).integers(0, 40, 1500)]
    ids = np.random.default_rng(2).permutation(9000)[:1500]
    index = built(name, metric, x, ids, sample=base)
    queries = data(2, 9, 20)
    equal = {code.tobytes(): ids[(codes == code).all(axis=1)] for codes in [index.codes(ids)] for code in codes}
    code_of = {int(id): code for code, group in equal.items() for id in group}
    for size, k in [(1, 100), (9, 100), (9, 7)]:
        for found in index.search(queries[:size], k).ids:
            seen = {}
            for id in found.tolist():
                seen.setdefault(code_of[id], []).append(id)
            for code, group in seen.items():
                assert group == sorted(group)
                if not by_chance(name):  # a row that came early may be kept where its equals are left out
                    assert group == sorted(equal[code])[: len(group)]


SEARCH = """
    import json, sys
    import numpy as np
    import nearfield as nf
    out = {"level": nf.cpu_info()["level"]}
    queries = np.load(sys.argv[1])
    for path in sys.argv[2:]:
        index = nf.load(path)
        own = queries[:, : index.dim]
        hits, single = index.search(own, 10), index.search(own[0], 10)
        scores = index.score(own, index.ids())
        best = np.sort(scores if index.metric == "l2" else -scores, axis=1)[:, :10]
        fresh = nf.Flat(index.dim, index.metric, codec=index.codec)
        fresh.add(np.load(path + ".npy"))
        error = np.square(fresh.reconstruct(fresh.ids()) - np.load(path + ".npy")).mean()
        same = np.abs(hits.scores) == np.abs(best)
        agree = hits.ids[0].tolist() == single.ids[0].tolist()
        out[path] = [scores.tolist(), hits.ids.tolist(), float(same.mean()), agree, float(error)]
    print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Files of indexes to be searched at every level of kernels."""
    folder, names = tmp_path_factory.mktemp("codecs"), ["sq8", "sq6", "sq4", "lvq8", "lvq4", "lvq4x8", "pq4", "pq8"]
    paths = []
    np.save(folder / "queries.npy", data(2, 33, 100))
    for name in [*names, "lloyd4", "lloyd2", "rabitq1", "rabitq2", "rabitq4", "rabitq7", "rabitq8"]:
        for dim, metric in [(100, "ip"), (33, "l2")]:
            index = nf.Flat(dim, metric, codec=name)
            x = data(1, 500, dim)
            index.add(x)
            paths.append(str(folder / f"{name}-{metric}"))
            index.save(paths[-1])
            np.save(paths[-1] + ".npy", x)
    return str(folder / "queries.npy"), paths


@pytest.fixture(scope="module")
def scalar_answers(python, stored):
    answers = json.loads(python(SEARCH, stored[0], *stored[1], env={"NEARFIELD_ISA": "scalar"}).stdout)
    assert answers.pop("level") == "scalar"
    return answers


@pytest.mark.parametrize("level", _core.levels())
def test_levels_of_kernels_agree(python, level, stored, scalar_answers):
    answers = json.loads(python(SEARCH, stored[0], *stored[1], env={"NEARFIELD_ISA": level}).stdout)
    assert answers.pop("level") == level
    for path, (scores, ids, right, agree, error) in answers.items():
        expected_scores, expected_ids, _, _, expected_error = scalar_answers[path]
        expected_scores = np.array(expected_scores)
        close = 1e-5 * np.abs(expected_scores).max()
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=close, err_msg=path)
        name = path.rsplit("/")[-1].split("-")[0]
        assert np.mean(np.array(ids) == expected_ids) > (0.93 if by_chance(name) else 0.98), path  # near ones may swap
        assert right >= (0.96 if by_chance(name) else 1), path
        assert agree or by_chance(name), path
        assert error == pytest.approx(expected_error, rel=1e-3), path


# Wild vectors: whatever comes out is a number in the range of its metric.
CHARACTERS = ["normal", "ties", "duplicates", "zeros among", "identical", "parallel", "norms", "magnitudes"]
CHARACTERS += ["subnormal", "huge", "giant row", "outlier dimension", "far from origin"]


@each_metric
@given(data=st.data(), seed=seeds)
def test_any_vectors(metric, data, seed):
    name = data.draw(st.sampled_from([name for name, its in PAIRS if its == metric]))
    dim, n, k = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 150)), data.draw(st.integers(1, 200))
    x = make(data.draw(st.sampled_from(CHARACTERS)), seed, n, dim)
    queries = np.concatenate([make(data.draw(st.sampled_from(CHARACTERS)), seed + 1, 8, dim), np.zeros((1, dim))])
    index = nf.Flat(dim, metric, codec=codec_of(name, dim))
    if "pq" in name:
        index.train(np.resize(x, (256, dim)))
    before = to_bytes(index)
    ids = np.random.default_rng(seed).permutation(3 * n)[:n]
    try:
        index.add(x, ids)
    except ValueError:  # beyond what the codec holds
        assert np.abs(x).max() > 1e15
        assert to_bytes(index) == before
        return
    try:
        own = index.score(queries, ids)
    except ValueError:
        assert np.abs(queries).max() > 1e15
        return
    assert not np.isnan(own).any()
    if metric == "l2":
        assert (own >= 0).all()
    if metric == "cosine":
        assert (np.abs(own) <= 1).all()
    assert np.isfinite(index.reconstruct(ids)).all() or np.abs(x).max() > 1e30
    searches = Searches(index, exact=not by_chance(name))
    for part in (queries, queries[:1], queries[3:7]):
        hits = index.search(part, k)
        assert hits.counts.tolist() == [min(k, n)] * len(part)
        if searches.exact:
            searches.check(part, k)
    assert index.range_search(queries, oracle.everything(metric)).offsets.tolist() == [i * n for i in range(10)]


# ----------------------------------------------------------------------------------------------------------------------
# Adding, updating, removing, files
# ----------------------------------------------------------------------------------------------------------------------


@each_pair
def test_pieces_make_the_same_file_as_all_at_once(name, metric):
    x = data(1, 700, 20)
    whole = built(name, metric, x, sample=x)
    pieces = built(name, metric, x[:0], sample=x)
    for first, last in itertools.pairwise([0, 1, 2, 31, 32, 33, 64, 65, 100, 300, 301, 331, 363, 700]):
        pieces.add(x[first:last], threads=1 + first % 2)
    assert to_bytes(pieces) == to_bytes(whole)
    again = built(name, metric, x)  # which learns by itself, from the same sample
    assert to_bytes(again) == to_bytes(whole)


@each_pair
def test_updates_removals_and_compaction(name, metric):
    """What stays keeps its code; enough rows die that the space of dead ones is given back."""
    sample, dim = data(1, 400, 12), 12
    index = built(name, metric, data(2, 3000, dim), sample=sample)
    kept = dict(zip(range(3000), index.reconstruct(np.arange(3000)), strict=True))
    full = index.nbytes
    rng, searches, queries = np.random.default_rng(5), Searches(index, not by_chance(name)), data(9, 13, dim)
    other = built(name, metric, data(2, 1, dim), sample=sample)
    for turn in range(4):
        some = rng.permutation(sorted(kept))[:600]
        fresh = data(10 + turn, 300, dim)
        index.update(some[:300], fresh)
        index.remove(some[300:])
        decoded = other.reconstruct(other.add(fresh))
        kept.update(zip(some[:300].tolist(), decoded, strict=True))
        for id in some[300:].tolist():
            del kept[id]
        ids = np.array(sorted(kept))
        assert sorted(index.ids().tolist()) == ids.tolist()
        np.testing.assert_array_equal(index.reconstruct(ids), [kept[id] for id in ids.tolist()])
        searches.check(queries, 10)
        searches.check(queries[:1], 40, ids[::3])
    searches.finish()
    assert index.nbytes < 0.8 * full + 12 * 3000  # ids that are not their row's number cost 12 bytes
    index.remove(index.ids())
    assert len(index) == 0
    assert index.search(queries, 2).counts.tolist() == [0] * 13
    index.add(data(3, 50, dim))
    searches.check(queries, 50)


@each_pair
def test_files(name, metric, tmp_path):
    x, queries = data(1, 450, 24), data(2, 13, 24)
    ids = np.random.default_rng(0).permutation(10**6)[:450]
    for rerank in (None, "f16"):
        index = nf.Flat(24, metric, codec=codec_of(name, 24), rerank=rerank)
        index.add(x, ids)
        index.update(ids[:40], x[40:80])
        index.remove(ids[100:133])
        expected = index.search(queries, 9)
        path = tmp_path / "index"
        index.save(path)
        others = [nf.load(path), nf.load(path, mmap=True), nf.load(to_bytes(index)), copy.deepcopy(index)]
        for other in [*others, pickle.loads(pickle.dumps(index))]:
            assert (other.codec, other.rerank, other.metric) == (index.codec, index.rerank, metric)
            assert to_bytes(other) == path.read_bytes()
            found = other.search(queries, 9)
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_array_equal(found.scores, expected.scores)
            np.testing.assert_array_equal(other.codes(ids[:20]), index.codes(ids[:20]))
            more = other.add(data(3, 40, 24))  # by what was learned before the file
            other.remove(more[:5])
            np.testing.assert_array_equal(other.reconstruct(ids[:9]), index.reconstruct(ids[:9]))
        # All go on in the same way, as does the index itself.
        index.remove(index.add(data(3, 40, 24))[:5])
        assert {to_bytes(other) for other in others} == {to_bytes(index)}


@each_pair
def test_an_empty_index_in_a_file_learns_as_any_other(name, metric):
    x = data(1, 300, 10)
    if name in INNER_PRODUCT or "opq" in name:
        return  # arrays that were given are not in the file
    empty = nf.load(to_bytes(nf.Flat(10, metric, codec=codec_of(name, 10))))
    empty.add(x)
    assert to_bytes(empty) == to_bytes(built(name, metric, x))


@some_codecs
def test_versions_learn_by_themselves(name):
    near, far = data(1, 400, 16), 50 + 9 * data(2, 500, 16)
    index, alone = nf.Flat(16, "l2", codec=codec_of(name, 16)), {}
    for label, x in [("near", near), ("far", far)]:
        index.add(x[:300], version=label)
        alone[label] = built(name, "l2", x[:300])
    index.add(near[300:], version="near")
    index.add(far[300:], version="far")
    alone["near"].add(near[300:])
    alone["far"].add(far[300:])
    assert index.versions == {"near": 400, "far": 500}
    ids = index.ids()
    places = {"near": np.r_[0:300, 600:700], "far": np.r_[300:600, 700:900]}
    for label, x in [("near", near), ("far", far)]:
        own = ids[places[label]]
        np.testing.assert_array_equal(index.reconstruct(own), alone[label].reconstruct(np.arange(len(x))))
        queries = x[::50]
        for filter in (None, own[::3]):
            found = index.search(queries, 7, version=label, filter=filter)
            expected = alone[label].search(queries, 7, filter=None if filter is None else np.arange(len(x))[::3])
            np.testing.assert_array_equal(found.ids, own[expected.ids])
            np.testing.assert_array_equal(found.scores, expected.scores)
    assert to_bytes(nf.load(to_bytes(index))) == to_bytes(index)


@some_codecs
def test_readers_beside_a_writer_of_single_rows(name):
    """Rows join a group while it is read: a reader sees each whole, or not at all."""
    x, dim = data(1, 900, 20), 20
    index = built(name, "l2", x[:300])
    done, rounds = threading.Event(), itertools.count()
    expected = built(name, "l2", x, sample=x[:300]).reconstruct(np.arange(900))

    def read(seed: int) -> None:
        queries, rng = data(seed, 3, dim), np.random.default_rng(seed)
        while not done.is_set():
            hits = index.search(queries[: 1 + seed % 3], 50)
            assert (hits.ids >= 0).all()
            own = np.stack(
                [index.score(q, found)[0] for q, found in zip(queries, hits.ids, strict=False)]  # all are there to stay
            )
            np.testing.assert_array_equal(own, hits.scores)
            some = rng.permutation(index.ids())[:20]
            np.testing.assert_array_equal(index.reconstruct(some), expected[some])
            next(rounds)

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read, seed) for seed in range(3)]
        try:
            for i in range(300, 900):
                index.add(x[i])
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert next(rounds) > 0
    np.testing.assert_array_equal(index.reconstruct(np.arange(900)), expected)


# ----------------------------------------------------------------------------------------------------------------------
# Refinement
# ----------------------------------------------------------------------------------------------------------------------

FINER = {
    "short name": lambda dim: "sq8",
    "object": lambda dim: nf.LVQ(8),
    "residual": lambda dim: nf.LVQ(4, 8),
    "rotated": lambda dim: nf.RaBitQ(7),
    "learned in NumPy": lambda dim: nf.PQ(dim // 2, 8, rotation="opq"),
    "transform": lambda dim: (nf.RandomRotation(1), "lvq8"),
    "plain": lambda dim: "f16",
}


@each_metric
@pytest.mark.parametrize("finer", FINER)
def test_refinement_by_any_codec(metric, finer):
    x, queries, dim = data(1, 900, 24), data(2, 13, 24), 24
    ids = np.random.default_rng(0).permutation(5000)[:900]
    finest = nf.Flat(dim, metric, codec=FINER[finer](dim))
    finest.add(x, ids)
    truth = finest.search(queries, 10)
    for coarse in ("rabitq1", "sq4", "pq4", nf.Sign(), (nf.PCA(8), "lvq4"), nf.PQ(6, rotation="random"), "f32"):
        index = nf.Flat(dim, metric, codec=coarse, rerank=FINER[finer](dim), oversample=5)
        index.add(x, ids)
        np.testing.assert_array_equal(index.reconstruct(ids[:30]), finest.reconstruct(ids[:30]))
        np.testing.assert_array_equal(index.score(queries, ids), finest.score(queries, ids))
        exact = index.search(queries, 10, exact=True)
        np.testing.assert_array_equal(exact.scores, np.sort(exact.scores, axis=1)[:, :: 1 if metric == "l2" else -1])
        assert (exact.scores == truth.scores).mean() > 0.97
        everything = index.search(queries, 10, oversample=90)
        np.testing.assert_array_equal(everything.scores, exact.scores)
        found = index.search(queries, 10)
        for query, row, values in zip(queries, found.ids, found.scores, strict=True):
            np.testing.assert_array_equal(index.score(query, row)[0], values)
        shares = [
            np.mean([len(np.intersect1d(a, b)) for a, b in zip(some.ids, exact.ids, strict=True)])
            for some in (index.search(queries, 10, oversample=o) for o in (1, 3, 10, 90))
        ]
        assert all(more >= less - 0.2 for less, more in itertools.pairwise(shares))
        back = nf.load(to_bytes(index))
        assert (back.codec, back.rerank) == (index.codec, index.rerank)
        np.testing.assert_array_equal(back.search(queries, 10).ids, found.ids)
        assert to_bytes(back) == to_bytes(index)


# ----------------------------------------------------------------------------------------------------------------------
# Names, sizes, bad input
# ----------------------------------------------------------------------------------------------------------------------


def test_codecs_say_what_they_are():
    for codec, said in [
        *((name, name) for name in SHORT),
        (nf.SQ(), "sq8"),
        (nf.SQ(6), "sq6"),
        (nf.LVQ(4, 8), "lvq4x8"),
        (nf.LVQ(8, 8), "lvq8x8"),
        (nf.LVQ(), "lvq8"),
        (nf.PQ(), "pq4"),
        (nf.RaBitQ(5), "rabitq5"),
        (nf.Lloyd(2), "lloyd2"),
        (nf.Lloyd(4, calibrated=False), nf.Lloyd(4, calibrated=False)),
        (nf.SQ(8, "global"), nf.SQ(8, "global")),
        (nf.SQ(4, clip=0.01), nf.SQ(4, clip=0.01)),
        (nf.PQ(8, 8, rotation="opq", seed=2), nf.PQ(8, 8, rotation="opq", seed=2)),
        (nf.RaBitQ(2, seed=7), nf.RaBitQ(2, seed=7)),
        ((nf.PCA(8), nf.SQ(8)), (nf.PCA(8), "sq8")),
        ([nf.Prefix(9), nf.PCA(4, whiten=True), "lloyd4"], (nf.Prefix(9), nf.PCA(4, whiten=True), "lloyd4")),
        ((nf.Blocks((4, 12), (1, 0.5)), "f32"), (nf.Blocks((4, 12), (1, 0.5)), "f32")),
    ]:
        index = nf.Flat(16, "ip", codec=codec, rerank=codec)
        assert (index.codec, index.rerank) == (said, said)
        assert repr(said) in repr(index)
        index.add(data(1, 300, 16))
        back = nf.load(to_bytes(index))
        assert (back.codec, back.rerank) == (said, said)
        again = nf.Flat(16, "ip", codec=back.codec, rerank=back.rerank)
        again.add(data(1, 300, 16))
        np.testing.assert_array_equal(again.codes(again.ids()), index.codes(index.ids()))


def test_arrays_are_learned_from_and_not_kept():
    x = data(1, 300, 16)
    for codec in (nf.PQ(4, queries=some_queries(16)), (nf.LeanVec(6, queries=some_queries(16)), "sq8")):
        index = nf.Flat(16, "ip", codec=codec)
        index.add(x)
        back = nf.load(to_bytes(index))
        assert "given" in repr(back)
        back.add(x)
        index.add(x)
        assert to_bytes(back) == to_bytes(index)
        other = nf.Flat(16, "ip", codec=back.codec)
        with pytest.raises(ValueError, match="queries"):
            other.add(x)
        assert len(other) == 0


def test_given_codebook_and_rotation():
    x, rng = data(1, 300, 12), np.random.default_rng(0)
    book = rng.normal(size=(4, 16, 3)).astype(np.float32)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32)
    for turn in (np.eye(12), rotation):
        codec = nf.PQ(codebook=book, rotation=None if turn is not rotation else rotation)
        index = nf.Flat(12, "l2", codec=codec)
        ids = index.add(x)
        parts = (x @ turn.T).reshape(300, 4, 1, 3)
        codes = np.square(parts - book).sum(axis=-1).argmin(axis=-1)
        decoded = np.stack([book[m, codes[:, m]] for m in range(4)], axis=1).reshape(300, 12) @ turn
        np.testing.assert_allclose(index.reconstruct(ids), decoded, atol=1e-5)
        assert (index.codec.subspaces, index.codec.bits) == (4, 4)


def test_bytes_for_each_vector():
    n, dim = 2 * 4096, 128
    x = data(1, n, dim)
    bits_of = {name: int(name[-1]) for name in SHORT} | {"lvq4x4": 8, "lvq4x8": 12, "lvq8x8": 16, "pq4": 1, "pq8": 1}
    for name, bits in bits_of.items():
        index = nf.Flat(dim, "ip", codec=name)
        index.add(x)
        size = index.nbytes / n
        # Beside the codes there are a few factors for each vector, and some for each group.
        assert bits * dim / 8 <= size <= bits * dim / 8 + 20, f"{name}: {size}"
    index = nf.Flat(dim, "ip", codec=(nf.PCA(32), "sq8"))
    index.add(x)
    assert index.nbytes / n < 32 + 20


PEAK = """
    import sys
    import numpy as np
    import nearfield as nf

    def status(name):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

    codec, n, dim = sys.argv[1], 200_000, 64
    x = np.random.default_rng(0).standard_normal((n, dim), np.float32)
    small = nf.Flat(dim, "ip", codec=codec)
    small.add(x[:20_000])  # what is loaded once
    del small
    before = status("VmRSS")
    index = nf.Flat(dim, "ip", codec=codec)
    index.add(x)
    print(index.nbytes, status("VmRSS") - before, status("VmHWM") - before, x.nbytes)
"""


@pytest.mark.parametrize("name", ["lloyd4", "rabitq4", "pq4"])
def test_adding_takes_little_memory_beside_the_index(python, name):
    try:
        open("/proc/self/status").close()
    except OSError:
        pytest.skip("memory is not told here")
    nbytes, grown, peak, data_bytes = map(int, python(PEAK, name).stdout.split())
    assert peak <= nbytes + 0.25 * data_bytes
    assert grown <= 1.03 * nbytes + 8e6


BAD_PARAMETERS = {
    "sq bits": (lambda: nf.SQ(5), ValueError, "bits.*5.*8, 6, 4"),
    "sq bits of another type": (lambda: nf.SQ("8"), TypeError, "bits.*'8'"),
    "sq range": (lambda: nf.SQ(range="vector"), ValueError, "range.*vector.*dimension.*global"),
    "sq clip": (lambda: nf.SQ(clip=0.6), ValueError, "clip.*0.6"),
    "sq negative clip": (lambda: nf.SQ(clip=-0.1), ValueError, "clip.*-0.1"),
    "sq clip NaN": (lambda: nf.SQ(clip=float("nan")), ValueError, "clip.*nan"),
    "sq unknown": (lambda: nf.SQ(levels=3), TypeError, "levels"),
    "lvq bits": (lambda: nf.LVQ(6), ValueError, "bits.*6.*8, 4"),
    "lvq residual": (lambda: nf.LVQ(4, 2), ValueError, "residual.*2.*0, 4, 8"),
    "pq bits": (lambda: nf.PQ(bits=5), ValueError, "bits.*5.*4, 8"),
    "pq subspaces": (lambda: nf.PQ(0), ValueError, "subspaces.*0"),
    "pq rotation": (lambda: nf.PQ(rotation="pca"), ValueError, "rotation.*pca.*opq.*random"),
    "pq rotation shape": (lambda: nf.PQ(rotation=np.eye(3)[:2]), ValueError, r"rotation.*\(2, 3\).*square"),
    "pq rotation not orthogonal": (lambda: nf.PQ(rotation=np.ones((3, 3))), ValueError, "rotation.*orthogonal"),
    "pq rotation NaN": (lambda: nf.PQ(rotation=np.eye(3) * np.nan), ValueError, "rotation: row 0.*NaN"),
    "pq codebook dimensions": (lambda: nf.PQ(codebook=np.ones((4, 16))), ValueError, "codebook.*2 dim.*3"),
    "pq codebook count": (lambda: nf.PQ(codebook=np.ones((4, 15, 3))), ValueError, r"codebook.*\(4, 15, 3\).*16"),
    "pq codebook parts": (lambda: nf.PQ(5, codebook=np.ones((4, 16, 3))), ValueError, "codebook.*expected.*5"),
    "pq codebook strings": (lambda: nf.PQ(codebook=[[["a"]]]), TypeError, "codebook"),
    "pq codebook and queries": (
        lambda: nf.PQ(codebook=np.ones((4, 16, 3)), queries=np.ones((9, 12))),
        ValueError,
        "queries.*codebook",
    ),
    "pq codebook, balanced": (
        lambda: nf.PQ(codebook=np.ones((4, 16, 3)), assignment="balanced"),
        ValueError,
        "assignment.*codebook",
    ),
    "pq assignment": (lambda: nf.PQ(assignment="even"), ValueError, "assignment.*even.*nearest.*balanced"),
    "pq anisotropic": (lambda: nf.PQ(anisotropic=1.5), ValueError, "anisotropic.*1.5"),
    "pq queries": (lambda: nf.PQ(queries=np.ones(8)), ValueError, "queries.*1 dim.*2"),
    "pq queries empty": (lambda: nf.PQ(queries=np.ones((0, 8))), ValueError, "queries"),
    "pq queries NaN": (lambda: nf.PQ(queries=np.full((3, 8), np.nan)), ValueError, "queries: row 0.*NaN"),
    "rabitq no bits": (lambda: nf.RaBitQ(0), ValueError, "bits.*0.*1 to 8"),
    "rabitq bits": (lambda: nf.RaBitQ(9), ValueError, "bits.*9.*1 to 8"),
    "rabitq seed": (lambda: nf.RaBitQ(4, seed=-1), ValueError, "seed.*-1"),
    "lloyd bits": (lambda: nf.Lloyd(3), ValueError, "bits.*3.*4, 2"),
    "lloyd calibrated": (lambda: nf.Lloyd(calibrated="yes"), TypeError, "calibrated.*yes"),
}


@pytest.mark.parametrize("case", BAD_PARAMETERS)
def test_bad_parameters(case):
    make_codec, error, message = BAD_PARAMETERS[case]
    with pytest.raises(error, match=message):
        make_codec()


BAD_CODECS = {
    "unknown bits": ("sq5", "bits.*5"),
    "no bits": ("rabitq9", "bits.*9"),
    "none": ("rabitq0", "bits.*0"),
    "lvq residual": ("lvq8x4", "residual.*4"),
    "lvq odd": ("lvq8x", "residual"),
    "letters": ("pqx", "bits.*x"),
    "an empty chain": ((), "codec.*empty"),
    "a transform alone": ((nf.PCA(2),), "codec.*PCA.*last"),
    "more parts than dimensions": (nf.PQ(13), "subspaces.*13.*12"),
}


@pytest.mark.parametrize("case", BAD_CODECS)
def test_bad_codecs(case):
    codec, message = BAD_CODECS[case]
    with pytest.raises(ValueError, match=message):
        nf.Flat(12, codec=codec)
    with pytest.raises(ValueError, match=message if "codec" not in message else message.replace("codec", "rerank")):
        nf.Flat(12, rerank=codec)


@each_short_name
def test_codecs_of_numbers_do_not_go_with_metrics_of_bits(name):
    for metric in oracle.BIT_METRICS:
        with pytest.raises(ValueError, match=f"codec.*{metric}"):
            nf.Flat(16, metric, codec=name)
        with pytest.raises(ValueError, match=r"rerank.*bits"):
            nf.Flat(16, metric, rerank=name)
    with pytest.raises(ValueError, match=f"codec.*{oracle.BIT_METRICS[0]}"):
        nf.Flat(16, "hamming", codec=(nf.PCA(4), name))


def refuses(index, call, error, message):
    before = to_bytes(index)
    with pytest.raises(error, match=f"(?s){message}"):
        call()
    assert to_bytes(index) == before


@pytest.mark.parametrize("name", [*SHORT, "pq4 opq", "pq4 balanced", "PCA sq8", "Prefix rabitq4", "RandomRotation sq4"])
def test_bad_vectors(name):
    """Before and after it has learned, an index is as it was."""
    x = data(1, 300, 16)
    with_nan, with_infinity = x.copy(), x.copy()
    with_nan[7, 3], with_infinity[299, 0] = np.nan, np.inf
    index = nf.Flat(16, "ip", codec=codec_of(name, 16))
    for trained in (False, True):
        for call in (index.add, index.train) if not trained else (index.add,):
            refuses(index, lambda call=call: call(with_nan), ValueError, r"vectors: row 7 holds NaN.*column 3")
            refuses(index, lambda call=call: call(with_infinity), ValueError, "vectors: row 299 holds infinity")
            refuses(index, lambda call=call: call(x[:, :9]), ValueError, "vectors.*9.*16")
            refuses(index, lambda call=call: call([["a"] * 16]), TypeError, "vectors")
        refuses(index, lambda: index.add(np.zeros((300, 2), np.uint8)), ValueError, "vectors: 2 bytes.*packed bits")
        refuses(index, lambda: index.search(x[:, :9]), ValueError, "queries.*9.*16")
        refuses(index, lambda: index.search(with_nan), ValueError, "queries: row 7 holds NaN")
        if not trained:
            refuses(index, lambda: index.train(x[:0]), ValueError, "vectors")
            index.train(x)
            refuses(index, lambda: index.train(x), ValueError, "trained")
    index.add(x)
    refuses(index, lambda: index.update([0, 1], with_nan[6:8]), ValueError, "vectors: row 1 holds NaN")
    refuses(index, lambda: index.add(x[:2], [400, 3]), KeyError, "3")


def test_fewer_vectors_than_centroids():
    for codec, least in [("pq4", 16), ("pq8", 256), (nf.PQ(2, rotation="opq"), 16), ((nf.PCA(4), "pq8"), 256)]:
        index = nf.Flat(16, "ip", codec=codec)
        few = data(1, least - 1, 16)
        for call in (index.add, index.train):
            refuses(index, lambda call=call, few=few: call(few), ValueError, f"vectors: {least - 1} .*{least}")
        index.add(data(1, least, 16))
        assert len(index) == least


@each_pair
def test_constant_dimensions_duplicates_and_zeros(name, metric):
    rng = np.random.default_rng(0)
    one = data(1, 1, 8)
    for x in (
        np.repeat(one, 300, axis=0),
        np.zeros((300, 8), np.float32),
        data(1, 300, 8) * (np.arange(8) != 3),
        np.where(np.arange(8) < 7, np.float32(2), rng.normal(size=(300, 8)).astype(np.float32)),
        rng.integers(0, 2, (300, 8)).astype(np.float32),
    ):
        index = built(name, metric, x)
        queries = np.concatenate([x[:2], data(2, 3, 8), np.zeros((1, 8))])
        scores = index.score(queries, index.ids())
        assert np.isfinite(scores).all()
        assert np.isfinite(index.reconstruct(index.ids())).all()
        searches = Searches(index, not by_chance(name))
        searches.check(queries, 10)
        searches.check(queries[:1], 305)
        if (x == x[0]).all():
            assert index.search(queries, 5).ids.tolist() == [[0, 1, 2, 3, 4]] * 6
            if metric != "cosine" and name not in LOSSY:  # all that there is, is learned
                np.testing.assert_allclose(index.reconstruct([0])[0], x[0], rtol=1e-4, atol=1e-4)
        assert to_bytes(nf.load(to_bytes(index))) == to_bytes(index)


LOSSY = [name for name in CODECS | INNER_PRODUCT if any(s in name for s in ("Pre", "Lean", "PCA", "global", "lloyd"))]


def test_arrays_that_do_not_fit_the_vectors():
    x = data(1, 300, 12)
    for codec, message in [
        (nf.PQ(4, rotation=np.eye(10)), r"rotation.*\(10, 10\).*12"),
        (nf.PQ(codebook=np.ones((4, 16, 2))), "codebook.*"),
        (nf.PQ(4, queries=np.ones((9, 10))), "queries.*10.*12"),
        ((nf.LeanVec(3, queries=np.ones((9, 10))), "sq8"), "queries.*10.*12"),
    ]:
        with pytest.raises(ValueError, match=message):  # at once, or when there are vectors
            nf.Flat(12, "ip", codec=codec).add(x)


def test_codecs_for_inner_products_only():
    for codec in (nf.PQ(4, queries=some_queries(12)), nf.PQ(4, anisotropic=0.2), (nf.LeanVec(4), "sq8")):
        with pytest.raises(ValueError, match=r"l2.*ip"):
            nf.Flat(12, "l2", codec=codec)
