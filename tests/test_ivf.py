"""Inverted lists: exact where all are visited, sound where few are, whatever codec, filter or change."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from functools import partial

import hypothesis
import numpy as np
import pytest
import safetensors.numpy

import nearfield as nf
import oracle
import strategies
from conftest import Kind
from nearfield import _core
from oracle import unit
from test_files import ROUTES, metadata_of, rewritten, to_bytes
from test_updates import FollowsModel

DIM = 24
RESIDUAL = ("pq4", "pq8", "rabitq1", "rabitq4", "lloyd4")
WHOLE = ("f32", "f16", "int8", "sq8", "lvq4x8")
ALL = 2**16  # more lists than there are
EVERY = 1e6  # candidates per result


def clustered(seed: int, n: int, dim: int = DIM, count: int = 40, spread: float = 0.45) -> np.ndarray:
    centers = np.random.default_rng(99).normal(size=(count, dim))
    rng = np.random.default_rng(seed)
    return (centers[rng.integers(count, size=n)] + spread * rng.normal(size=(n, dim))).astype(np.float32)


X, QUERIES = clustered(1, 3000), clustered(2, 40)


def made(x: np.ndarray = X, metric: str = "cosine", lists: int | None = 30, ids=None, **options) -> nf.IVF:
    index = nf.IVF(x.shape[1], metric, lists, **options)
    index.add(x, ids)
    return index


@pytest.fixture(scope="module")
def index() -> nf.IVF:
    """As it comes; not to be changed."""
    return made()


def same(found: nf.Hits, expected: nf.Hits) -> None:
    for name in ("ids", "scores", "counts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def arrays(index: nf.IVF) -> dict[str, np.ndarray]:
    return safetensors.numpy.load(to_bytes(index))


def compared(x: np.ndarray, metric: str) -> np.ndarray:
    """Vectors as they are clustered."""
    return unit(x) if metric == "cosine" else np.float64(x)


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.square(np.float64(x)[:, np.newaxis] - np.float64(y)).sum(axis=2)


def members(index: nf.IVF) -> list[np.ndarray]:
    """The ids in each list, as the file says."""
    tensors = arrays(index)
    ids = tensors.get("ids", index.ids())
    return np.split(ids[tensors["list_rows"]], np.cumsum(tensors["list_sizes"])[:-1])


def visited(index: nf.IVF, lists: list[np.ndarray], query: np.ndarray, probes: int) -> np.ndarray:
    """The ids in the lists that a query visits: as many whole lists as asked for, of (nearly) the nearest centroids."""
    inside = np.unique(index.range_search(query, oracle.everything(index.metric), probes=probes).ids)
    whole = [number for number, ids in enumerate(lists) if len(ids) and np.isin(ids, inside).all()]
    q, centers = compared(query[np.newaxis], index.metric), np.float64(index.centroids)
    distances = squared(q, centers)[0] if index.metric == "l2" else -(q @ centers.T)[0]
    # (Nearest by codes of 8 bits; with second lists, others may lie in the union of these.)
    near = distances <= np.sort(distances)[probes - 1] + 0.05 * np.ptp(distances)
    numbers = [number for number in whole if near[number]]
    np.testing.assert_array_equal(np.unique(np.concatenate([lists[number] for number in numbers])), inside)
    assert len(numbers) >= probes if index.soar else len(whole) == probes
    return inside


def recall(index: nf.IVF, queries: np.ndarray, k: int = 10, truth: nf.Hits | None = None, **options) -> float:
    truth = index.search(queries, k, exact=True, filter=options.get("filter")) if truth is None else truth
    found = index.search(queries, k, **options)
    shares = [np.isin(a[a >= 0], b).mean() for a, b in zip(truth.ids, found.ids, strict=True) if (a >= 0).any()]
    return float(np.mean(shares)) if shares else 1.0


# ----------------------------------------------------------------------------------------------------------------------
# All lists
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [*WHOLE, *RESIDUAL, "sign"])
def test_all_lists_with_all_candidates_find_what_flat_finds(codec, metric):
    """Ids, order, scores, ties and padding."""
    x = np.concatenate([X[:700], X[:40], np.zeros((3, DIM), np.float32)])  # equal vectors, and zeros
    ids = np.random.default_rng(3).permutation(5000)[: len(x)]
    index, flat = made(x, metric, 20, ids, codec=codec, rerank="f32"), nf.Flat(DIM, metric)
    flat.add(x, ids)
    queries = np.concatenate([QUERIES[:8], x[:8], np.zeros((1, DIM), np.float32)])
    for k in (0, 1, 10, 743, 800):
        same(index.search(queries, k, probes=ALL, oversample=EVERY), flat.search(queries, k))
        same(index.search(queries, k, exact=True), flat.search(queries, k))
    allowed = ids[::3]
    same(
        index.search(queries, 10, probes=ALL, oversample=EVERY, filter=allowed),
        flat.search(queries, 10, filter=allowed),
    )
    same(index.search(queries[:0], 10, probes=ALL), flat.search(queries[:0], 10))
    np.testing.assert_array_equal(index.score(queries, ids[:50]), flat.score(queries, ids[:50]))
    np.testing.assert_array_equal(index.reconstruct(ids), x)


@pytest.mark.parametrize("codec", [*WHOLE, *RESIDUAL, "sign"])
@pytest.mark.parametrize("soar", [None, 1.0])
def test_without_a_finer_codec_a_search_is_by_score(codec, metric, soar):
    n = 600
    index = made(X[:n], metric, 20, codec=codec, rerank=None, soar=soar)
    everything = index.search(QUERIES, n + 5, probes=ALL)
    assert everything.counts.tolist() == [n] * len(QUERIES)
    np.testing.assert_array_equal(index.score(QUERIES, everything.ids), everything.scores)
    for ids, scores in zip(everything.ids[:, :n], everything.scores[:, :n], strict=True):
        assert sorted(ids.tolist()) == list(range(n))
        steps = np.diff(scores)
        assert ((steps >= 0) if metric == "l2" else (steps <= 0)).all()
    same(index.search(QUERIES, n + 5, exact=True), everything)
    for k, probes in itertools.product((7, 30), (3, ALL)):
        found = index.search(QUERIES, k, probes=probes)
        assert found.counts.tolist() == [k] * len(QUERIES)
        np.testing.assert_array_equal(found.scores, index.score(QUERIES, found.ids))
        if probes == ALL and soar is None:  # of two codes, the one that happens to be better picks a candidate
            np.testing.assert_array_equal(found.ids, everything.ids[:, :k])


@pytest.mark.parametrize("codec", WHOLE)
def test_codecs_of_whole_vectors_score_as_in_a_flat_index(codec, metric):
    index, flat = made(X[:500], metric, 20, codec=codec, rerank=None), nf.Flat(DIM, metric, codec)
    flat.add(X[:500])
    same(index.search(QUERIES, 50, probes=ALL), flat.search(QUERIES, 50))
    np.testing.assert_array_equal(index.reconstruct(range(500)), flat.reconstruct(range(500)))
    if codec in oracle.CODECS:  # codes of others carry what their group has in common
        np.testing.assert_array_equal(index.codes(range(500)), flat.codes(range(500)))


@pytest.mark.parametrize("codec", RESIDUAL)
def test_scores_of_residuals(codec, metric):
    """With r = x - c, coded as r^: <q, c + r^> + <c, r - r^>, and |q - c|^2 + |r|^2 - 2 <q - c, r^>."""
    x = X[:500]
    index = made(x, metric, 20, codec=codec, rerank=None)
    points, centers = compared(x, metric), np.float64(index.centroids)
    c = centers[squared(points, centers).argmin(axis=1)]
    r, kept = points - c, np.float64(index.reconstruct(range(500))) - c
    assert np.square(r - kept).sum() < np.square(r).sum()
    if metric == "l2":
        q = np.float64(QUERIES)
        away = q[:, np.newaxis] - c
        right = np.square(away).sum(axis=2) + np.square(r).sum(axis=1) - 2 * (away * kept).sum(axis=2)
        right = np.sqrt(np.maximum(right, 0))
    else:
        right = compared(QUERIES, metric) @ (c + kept).T + (c * (r - kept)).sum(axis=1)
        right = np.clip(right, -1, 1) if metric == "cosine" else right
    np.testing.assert_allclose(index.score(QUERIES, range(500)), right, rtol=2e-4, atol=2e-3)


def test_probes_beyond_all_lists_are_all_lists(index):
    same(index.search(QUERIES, 5, probes=ALL), index.search(QUERIES, 5, probes=index.lists))
    assert index.range_search(QUERIES, -1, probes=ALL).offsets[-1] == len(QUERIES) * len(index)


def test_recall_grows_with_probes(metric):
    index, flat = made(X, metric, 50, rerank="f32", oversample=EVERY), nf.Flat(DIM, metric)
    flat.add(X)
    truth = flat.search(QUERIES, 10)
    recalls = [recall(index, QUERIES, 10, truth, probes=probes) for probes in (1, 2, 4, 8, 16, 32, 50)]
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.95 < recalls[-2]
    assert recalls[-1] == 1
    # The candidates of fewer places are among those of more of them.
    some = [recall(index, QUERIES, 10, truth, probes=50, oversample=oversample) for oversample in (1, 2, 5, 20, 300)]
    assert some == sorted(some)
    assert some[-1] == 1


def test_results_are_found_in_the_visited_lists(metric):
    index = made(X, metric, 40, rerank="f32", oversample=EVERY)
    lists = members(index)
    for query, probes in itertools.product(QUERIES[:15], (1, 3, 11)):
        inside = visited(index, lists, query, probes)
        k = min(10, len(inside))
        same(index.search(query, k, probes=probes), index.search(query, k, filter=inside, exact=True))


# ----------------------------------------------------------------------------------------------------------------------
# Lists
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["f32", "rabitq1", "lvq4x8"])
def test_every_vector_is_in_the_list_of_its_nearest_centroid(codec, metric):
    index = made(X, metric, 33, codec=codec)
    assert index.lists == 33
    assert index.centroids.shape == (33, DIM)
    assert index.centroids.dtype == np.float32
    assert index.list_sizes.sum() == len(X)
    lists = members(index)
    assert [len(ids) for ids in lists] == index.list_sizes.tolist()
    assert sorted(np.concatenate(lists).tolist()) == list(range(len(X)))
    distances = squared(compared(X, metric), index.centroids)
    for number, ids in enumerate(lists):
        assert (distances[ids, number] <= distances[ids].min(axis=1) * (1 + 1e-5) + 1e-9).all()


def test_lists_are_as_good_as_those_of_kmeans(metric):
    index = made(X, metric, 33)
    points = compared(X, metric)
    inertia = squared(points, index.centroids).min(axis=1).sum()
    assert inertia <= 1.1 * nf.KMeans(33, iterations=12).fit(points).inertia_


@pytest.mark.parametrize("weight", [0.5, 1.5])
def test_second_lists(metric, weight):
    """That of the least |x - c|^2 + weight <r, x - c>^2 / |r|^2, where r is the residual in the first list."""
    index = made(X[:800], metric, 25, soar=weight)
    assert index.soar == weight
    assert index.list_sizes.sum() == 1600
    points, centers = compared(X[:800], metric), np.float64(index.centroids)
    distances = squared(points, centers)
    own = [[] for _ in points]
    for number, ids in enumerate(members(index)):
        assert len(set(ids.tolist())) == len(ids)
        for id in ids.tolist():
            own[id].append(number)
    for point, near, numbers in zip(points, distances, own, strict=True):
        first = near.argmin()
        assert len(numbers) == 2
        assert first in numbers
        r = point - centers[first]
        loss = near + weight * ((point - centers) @ r) ** 2 / (r @ r)
        loss[first] = np.inf
        second = numbers[1 - numbers.index(first)]
        assert loss[second] <= loss.min() * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("codec", ["rabitq1", "pq4", "f32"])
def test_second_lists_keep_every_promise(codec, metric, tmp_path):
    plain, index = (made(X, metric, 50, codec=codec, soar=soar, rerank="f32") for soar in (None, 1.0))
    same(index.search(QUERIES, 20, probes=ALL, oversample=EVERY), plain.search(QUERIES, 20, exact=True))
    assert recall(index, QUERIES, probes=2) >= recall(plain, QUERIES, probes=2)
    for number in (index, ROUTES["mmap"](index, tmp_path / "index")):
        for k, oversample, probes in itertools.product((1, 10, 60), (1.0, 1.5, 4.0), (1, 2, 50)):
            hits = number.search(QUERIES, k, oversample=oversample, probes=probes)
            assert hits.counts.tolist() == [k] * len(QUERIES)
            assert all(len(set(ids.tolist())) == k for ids in hits.ids)
        near = number.range_search(QUERIES, oracle.everything(metric), probes=ALL)
        assert len(near.ids) == len(QUERIES) * len(X)
    index.remove(range(0, 3000, 2))
    index.update(range(1, 1001, 2), X[:500])
    kept = index.reconstruct(index.ids())
    hits = index.search(QUERIES, 30, probes=ALL, oversample=EVERY)
    oracle.check_hits(hits, QUERIES, kept, index.ids(), metric, 30)


@pytest.mark.parametrize("codec", ["rabitq1", "f32", (nf.Prefix(12), nf.SQ(8)), (nf.Prefix(16), "rabitq1")])
@pytest.mark.parametrize("soar", [None, 1.0])
def test_lists_of_a_prefix(codec, metric, soar, tmp_path):
    """Lists by the first dimensions, a scan of more of them, and scores of all."""
    x = X * np.geomspace(1, 0.2, DIM, dtype=np.float32)
    queries = QUERIES * np.geomspace(1, 0.2, DIM, dtype=np.float32)
    index = made(x, metric, 40, codec=codec, rerank="f32", list_dims=8, soar=soar)
    assert index.list_dims == 8
    assert index.centroids.shape == (40, 8)
    distances = squared(compared(x[:, :8], metric), index.centroids)
    if soar is None:
        for number, ids in enumerate(members(index)):
            assert (distances[ids, number] <= distances[ids].min(axis=1) * (1 + 1e-5) + 1e-9).all()
    flat = nf.Flat(DIM, metric)
    flat.add(x)
    truth = flat.search(queries, 10)
    same(index.search(queries, 10, exact=True), truth)
    same(index.search(queries, 10, probes=ALL, oversample=EVERY), truth)
    assert recall(index, queries, 10, truth, probes=10, oversample=20) > 0.8
    np.testing.assert_array_equal(index.reconstruct(range(50)), x[:50])
    mapped = ROUTES["mmap"](index, tmp_path / "index")
    assert mapped.list_dims == 8
    same(mapped.search(queries, 10), index.search(queries, 10))


# ----------------------------------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------------------------------


def test_before_training_there_are_no_lists():
    index = nf.IVF(DIM)
    assert (index.lists, len(index), index.list_sizes.tolist()) == (0, 0, [])
    assert index.centroids.size == 0
    hits = index.search(QUERIES, 3)
    assert hits.counts.tolist() == [0] * len(QUERIES)
    assert (hits.ids == -1).all()
    assert np.isnan(hits.scores).all()
    assert index.range_search(QUERIES, 0.0).offsets.tolist() == [0] * (len(QUERIES) + 1)
    assert index.add(np.zeros((0, DIM))).tolist() == []
    assert nf.load(to_bytes(index)).search(QUERIES, 3, probes=9).counts.sum() == 0
    index.add(X[:100])
    assert index.lists > 0


@pytest.mark.parametrize(("n", "lists"), [(1, 1), (2, 2), (10, 10), (16, 16), (100, 40), (2500, 200)])
def test_how_many_lists_there_are_unless_it_is_said(n, lists):
    index = made(X[:n], lists=None)
    assert index.lists == lists
    assert 1 <= index.probes <= lists
    assert index.search(X[:n], 1, exact=True).ids[:, 0].tolist() == list(range(n))


def test_first_vectors_train_as_a_sample_does():
    """Then the lists stay."""
    index, taught = made(X[:900], lists=20), nf.IVF(DIM, lists=20)
    taught.train(X[:900])
    assert (len(taught), taught.lists) == (0, 20)
    assert taught.list_sizes.tolist() == [0] * 20
    taught.add(X[:900])
    assert to_bytes(taught) == to_bytes(index)
    centers = index.centroids
    index.add(clustered(5, 900))
    index.remove(range(400))
    index.update(range(400, 500), clustered(6, 100))
    np.testing.assert_array_equal(index.centroids, centers)


def test_an_index_that_has_learned_may_be_saved_before_it_holds_anything(tmp_path):
    taught = nf.IVF(DIM, lists=20, codec="pq4")
    taught.train(X)
    for route in ("path", "mmap", "pickle"):
        other = ROUTES[route](taught, tmp_path / route)
        assert other.lists == 20
        with pytest.raises(ValueError, match="train"):
            other.train(X)
        other.add(X[:500])
        fresh = nf.load(to_bytes(taught))
        fresh.add(X[:500])
        assert to_bytes(other) == to_bytes(fresh)


def test_training_twice():
    for index in (made(X[:100], lists=5), nf.IVF(DIM, lists=5)):
        if len(index) == 0:
            index.train(X[:100])
        before = to_bytes(index)
        with pytest.raises(ValueError, match="train"):
            index.train(X[:100])
        assert to_bytes(index) == before


def test_more_lists_than_vectors():
    index = nf.IVF(DIM, lists=50)
    before = to_bytes(index)
    for refused in (index.add, index.train):
        with pytest.raises(ValueError, match=r"lists: 50 .*\b49\b"):
            refused(X[:49])
        assert to_bytes(index) == before
    index.add(X[:50])
    assert index.search(X[:50], 1, probes=1).ids[:, 0].tolist() == list(range(50))


def test_vectors_that_are_all_the_same():
    x = np.ones((500, DIM), np.float32)
    for metric in oracle.METRICS:
        index = made(x, metric, 8)
        assert index.lists == 8
        assert index.list_sizes.sum() == 500
        assert index.search(x[0], 5, probes=ALL, oversample=EVERY).ids.tolist() == [[0, 1, 2, 3, 4]]
        assert index.search(x[0], 500, probes=1).counts.tolist() == [500]
        index.add(clustered(3, 100))
        assert index.search(x[0], 600, probes=1).counts.tolist() == [600]


def test_a_failed_first_add_teaches_nothing():
    index = nf.IVF(DIM, lists=600)
    before = to_bytes(index)
    bad = X[:900].copy()
    bad[444, 3] = np.nan
    with pytest.raises(ValueError, match=r"row 444.*NaN"):
        index.add(bad)
    with pytest.raises(ValueError, match="repeated"):
        index.add(X[:700], [3] * 700)
    with pytest.raises(ValueError, match=r"row 2 .*f16"):
        index.add(np.where(np.arange(700)[:, np.newaxis] == 2, 1e6, X[:700]))
    assert to_bytes(index) == before

    def stop(share):
        raise InterruptedError("enough")

    many = clustered(3, 100_000)
    for call in (index.add, index.train):
        with pytest.raises(InterruptedError, match="enough"):
            call(many, progress=stop)
        assert to_bytes(index) == before
    index.add(X)
    assert len(index) == len(X)


def test_progress():
    for call in ("add", "train"):
        seen = []
        getattr(nf.IVF(DIM, lists=600), call)(clustered(3, 100_000), progress=seen.append)
        assert seen == sorted(seen)
        assert 0 <= seen[0] <= seen[-1] <= 1


# ----------------------------------------------------------------------------------------------------------------------
# The same, however it is made and asked
# ----------------------------------------------------------------------------------------------------------------------

MAKES = {
    "default": {},
    "soar": {"soar": 1.0},
    "pq4": {"codec": "pq4"},
    "lvq4x8": {"codec": "lvq4x8", "rerank": None},
    "prefix": {"codec": (nf.Prefix(12), "sq8"), "list_dims": 6},
}
each_make = pytest.mark.parametrize("options", MAKES.values(), ids=MAKES)


@each_make
def test_the_same_file_at_any_number_of_threads(options, metric):
    data = {to_bytes(made_with(threads, metric, options)) for threads in (1, 2, 3)}
    assert len(data) == 1


def made_with(threads, metric, options) -> nf.IVF:
    index = nf.IVF(DIM, metric, 30, **options)
    index.add(X[:2000], threads=threads)
    index.add(X[2000:], threads=threads)
    return index


@each_make
def test_small_adds_are_one_large_add(options, metric):
    index = nf.IVF(DIM, metric, 30, **options)
    index.train(X)
    whole = nf.load(to_bytes(index))
    whole.add(X)
    for first, last in itertools.pairwise([0, 1, 2, 33, 34, 100, 1000, 1001, 2500, 3000]):
        index.add(X[first:last])
    assert to_bytes(index) == to_bytes(whole)
    same(index.search(QUERIES, 10), whole.search(QUERIES, 10))


def test_a_seed_decides_where_clusters_start():
    indexes = [made(seed=seed) for seed in (0, 0, 7)]
    np.testing.assert_array_equal(indexes[0].centroids, indexes[1].centroids)
    assert not np.array_equal(indexes[0].centroids, indexes[2].centroids)


@each_make
def test_results_depend_neither_on_the_batch_nor_on_threads(options, metric):
    index = made(metric=metric, **options)
    queries = clustered(4, 150)
    for call in ({"probes": 4}, {}, {"probes": 7, "filter": np.arange(0, 3000, 9)}):
        whole = index.search(queries, 10, **call)
        for threads, size in [(1, 150), (2, 150), (1, 1), (2, 7), (3, 40)]:
            for first in range(0, 150 if size > 1 else 30, size):
                part = index.search(queries[first : first + size], 10, threads=threads, **call)
                np.testing.assert_array_equal(part.ids, whole.ids[first : first + size])
                np.testing.assert_array_equal(part.scores, whole.scores[first : first + size])


ISA = """
    import json, sys
    import numpy as np
    import nearfield as nf
    out = {}
    for path in sys.argv[1:]:
        index = nf.load(path)
        queries = np.random.default_rng(5).integers(0, 200, (9, index.dim)).astype(np.float32)
        for name, options in {
            "all": {"probes": 10**4}, "exact": {"exact": True}, "filtered": {"filter": np.arange(0, 900, 70)},
            "one": {"probes": 1}, "few": {"probes": 5}, "half": {"filter": np.arange(0, 900, 2), "probes": 3},
        }.items():
            out[path + " " + name] = index.search(queries, 7, **options).ids.tolist()
        radius = float(index.search(queries, 20).scores.mean())
        out[path + " range"] = index.range_search(queries, radius, probes=10**4).ids.tolist()
        index.add(np.random.default_rng(6).integers(0, 200, (200, index.dim)).astype(np.float32))
        out[path + " sizes"] = index.list_sizes.tolist()  # vectors are put into the same lists
    print(json.dumps(out))
"""


def test_every_level_of_kernels_finds_the_same(python, tmp_path):
    rows = np.random.default_rng(4).integers(0, 200, (900, 75)).astype(np.float32)
    for metric, (codec, soar) in itertools.product(oracle.METRICS, [("rabitq1", None), ("pq4", 1.0), ("f32", 1.0)]):
        made(rows, metric, 25, codec=codec, soar=soar, rerank="f32").save(tmp_path / f"{metric}-{codec}")
    paths = sorted(map(str, tmp_path.iterdir()))
    results = {level: json.loads(python(ISA, *paths, env={"NEARFIELD_ISA": level}).stdout) for level in _core.levels()}
    for level, found in results.items():
        differ = [case for case in found if found[case] != results["scalar"][case]]
        assert not differ, level


# ----------------------------------------------------------------------------------------------------------------------
# Changes
# ----------------------------------------------------------------------------------------------------------------------


@each_make
def test_changes_after_training(options, metric):
    rng = np.random.default_rng(8)
    index, model = made(X[:1000], metric, **options), dict(enumerate(X[:1000]))
    for step in range(6):
        fresh = clustered(10 + step, 150)
        model.update(zip(index.add(fresh).tolist(), fresh, strict=True))
        some, fresh = rng.permutation(list(model))[:150], clustered(20 + step, 150)
        index.update(some, fresh)
        model.update(zip(some.tolist(), fresh, strict=True))
        gone = rng.permutation(list(model))[:200]
        index.remove(gone)
        for id in gone.tolist():
            del model[id]
    ids = np.array(sorted(model))
    assert sorted(index.ids().tolist()) == ids.tolist()
    rows = np.array([model[id] for id in ids.tolist()])
    if index.rerank:
        np.testing.assert_allclose(index.reconstruct(ids), rows, rtol=1e-3, atol=1e-6)
    hits = index.search(rows, 1, probes=ALL, oversample=EVERY if index.rerank else None)
    assert metric == "ip" or (hits.ids[:, 0] == ids).mean() > 0.98
    # Saving leaves what a new index with these lists would hold.
    again = nf.load(to_bytes(index))
    same(again.search(QUERIES, 10), index.search(QUERIES, 10))
    copies = 2 if index.soar else 1
    assert again.list_sizes.sum() == copies * len(ids)
    assert sorted(np.concatenate(members(again)).tolist()) == sorted(ids.tolist() * copies)


@each_make
def test_everything_removed_and_added_again(options, metric, tmp_path):
    index = made(X, metric, **options)
    before, centers = index.search(QUERIES, 10), index.centroids
    for part in np.array_split(np.random.default_rng(0).permutation(3000), 5):
        index.remove(part)
    assert len(index) == 0
    assert index.search(QUERIES, 10).counts.sum() == 0
    assert index.search(QUERIES, 10, filter=[0, 1], exact=True).counts.sum() == 0
    assert len(index.range_search(QUERIES, oracle.everything(metric)).ids) == 0
    empty = ROUTES["mmap"](index, tmp_path / "index")
    for each in (index, empty):
        assert each.lists == 30
        np.testing.assert_array_equal(each.centroids, centers)
        assert each.add(X).tolist() == list(range(3000, 6000))
        found = each.search(QUERIES, 10)
        np.testing.assert_array_equal(found.ids - 3000, before.ids)
        np.testing.assert_array_equal(found.scores, before.scores)


def test_few_probes_among_many_removed_vectors(metric):
    """Whole regions are gone: searches there go on to where there is something."""
    index = made(X, metric, 60)
    near = index.search(QUERIES[0], 2990, exact=True).ids[0]
    index.remove(near)
    left = set(index.ids().tolist())
    assert len(left) == 10
    hits = index.search(QUERIES, 8, probes=1)
    assert hits.counts.tolist() == [8] * len(QUERIES)
    assert all(set(ids.tolist()) <= left and len(set(ids.tolist())) == 8 for ids in hits.ids)
    assert index.search(QUERIES, 50, probes=1).counts.tolist() == [10] * len(QUERIES)


AUTOMATIC = Kind("IVF", partial(nf.IVF, probes=ALL, rerank="f32", oversample=EVERY), "f32")
MODELS = [
    AUTOMATIC,
    replace(AUTOMATIC, name="IVF-soar", make=partial(AUTOMATIC.make, soar=1.0)),
    replace(AUTOMATIC, name="IVF-lloyd4", make=partial(AUTOMATIC.make, codec="lloyd4")),
]


@pytest.mark.parametrize("followed", MODELS, ids=str)
def test_index_follows_a_model(followed):
    """Lists are learned from whatever comes first."""
    machine = type(f"Follows{followed}", (FollowsModel,), {"kind": followed})
    hypothesis.stateful.run_state_machine_as_test(
        machine, settings=hypothesis.settings(max_examples=15, stateful_step_count=25)
    )


# ----------------------------------------------------------------------------------------------------------------------
# Filters
# ----------------------------------------------------------------------------------------------------------------------

SHARES = [1.0, 0.5, 0.1, 0.01, 0.001, "one", "none"]


def chosen(ranking: np.ndarray, share: float | str) -> np.ndarray:
    count = {"one": 1, "none": 0}.get(share)
    return np.sort(ranking[: math.ceil(share * len(ranking)) if count is None else count])


@pytest.fixture(scope="module", params=["rabitq1", "rabitq1, soar", "f32", "sq8, no rerank"])
def filtered(request, tmp_path_factory) -> list[nf.IVF]:
    """An index, and the same in a mapped file."""
    codec, _, option = request.param.partition(", ")
    options = {"": {}, "soar": {"soar": 1.0}, "no rerank": {"rerank": None}}[option]
    index = made(metric="l2", lists=60, ids=np.arange(3000) * 3, codec=codec, **options)
    return [index, ROUTES["mmap"](index, tmp_path_factory.mktemp("filtered") / "index")]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("where", ["anywhere", "near", "far"])
def test_filters_of_any_selectivity(filtered, share, where):
    """Exactly min(k, allowed) results, all of which are allowed, wherever the allowed vectors are."""
    ids = filtered[0].ids()
    near = filtered[0].search(QUERIES[0], 3000, exact=True).ids[0]
    ranking = {"anywhere": np.random.default_rng(5).permutation(ids), "near": near, "far": near[::-1]}[where]
    allowed = chosen(ranking, share)
    results = []
    for index in filtered:
        mask = np.isin(index.ids(), allowed)
        for filter, k, probes in itertools.product((mask, index.prepare_filter(allowed)), (1, 10, 400), (1, None)):
            hits = index.search(QUERIES[:12], k, filter=filter, probes=probes)
            count = min(k, len(allowed))
            assert hits.counts.tolist() == [count] * 12
            assert np.isin(hits.ids[:, :count], allowed).all()
            assert (hits.ids[:, count:] == -1).all()
            assert all(len(set(found.tolist())) == count for found in hits.ids[:, :count])
            np.testing.assert_array_equal(hits.scores, index.score(QUERIES[:12], hits.ids))
            results.append(hits)
        near = index.range_search(QUERIES[:3], np.inf, filter=mask, probes=ALL)
        assert sorted(near.ids.tolist()) == sorted(allowed.tolist() * 3)
    half = len(results) // 2
    for found, mapped in zip(results[:half], results[half:], strict=True):
        same(mapped, found)


@pytest.mark.parametrize(("where", "lost"), [("anywhere", 0.015), ("of one region", 0.06)])
def test_recall_with_filters_is_that_without(metric, where, lost):
    x, queries = clustered(1, 12000, count=120), clustered(2, 150, count=120)
    index = made(x, metric, 200)
    ranking = np.random.default_rng(3).permutation(12000)
    if where == "of one region":  # on one side of a plane, more or less
        ranking = np.argsort(x[:, 0] + 0.3 * np.random.default_rng(3).normal(size=12000))
    for probes in (4, 12):
        free = recall(index, queries, probes=probes)
        for share in SHARES[:-2]:
            found = recall(index, queries, probes=probes, filter=chosen(ranking, share))
            assert found >= free - lost, f"{share}: {found}, without a filter {free}"


def test_combined_masks(index):
    """Conditions on several attributes, which the caller combines."""
    rng = np.random.default_rng(6)
    color, price, old = rng.integers(5, size=3000), rng.random(3000), rng.random(3000) < 0.2
    for mask in ((color == 2) & (price < 0.3), (color == 1) | old, ~old & (price > 0.99) & (color != 0), old & ~old):
        for probes in (1, 5):
            hits = index.search(QUERIES, 10, filter=mask, probes=probes)
            assert hits.counts.tolist() == [min(10, mask.sum())] * len(QUERIES)
            assert mask[hits.ids[hits.ids >= 0]].all()
        same(
            index.search(QUERIES, 10, filter=mask, exact=True),
            index.search(QUERIES, 10, filter=np.flatnonzero(mask), exact=True),
        )


@pytest.mark.parametrize("soar", [None, 1.0])
def test_a_prepared_filter_is_of_use_while_the_index_changes(soar):
    index = made(lists=40, soar=soar)
    allowed = set(range(0, 3000, 5))
    filters = [index.prepare_filter(sorted(allowed)), index.prepare_filter(np.arange(3000) % 5 == 0)]
    for step in range(4):
        index.add(clustered(20 + step, 300))
        index.update(range(step * 100, step * 100 + 100), clustered(30 + step, 100))
        gone = set(range(1000 + step * 300, 1300 + step * 300))
        index.remove(sorted(gone))
        allowed -= gone
        for filter, k in itertools.product(filters, (10, 1000)):
            hits = index.search(QUERIES, k, filter=filter, probes=2)
            assert hits.counts.tolist() == [min(k, len(allowed))] * len(QUERIES)
            assert set(hits.ids[hits.ids >= 0].tolist()) <= allowed


# ----------------------------------------------------------------------------------------------------------------------
# Range search
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("soar", [None, 1.0])
def test_range_search_is_exact_in_the_visited_lists(metric, soar):
    index = made(X, metric, 40, rerank="f32", soar=soar)
    lists = members(index)
    whole = {
        (i, probes): visited(index, lists, query, probes)
        for (i, query), probes in itertools.product(enumerate(QUERIES[:10]), (1, 5, 40))
    }
    gone = np.arange(0, 3000, 11)
    index.remove(gone)
    for (i, probes), inside in whole.items():
        query, inside = QUERIES[i], np.setdiff1d(inside, gone)
        scores = index.score(query, inside)[0]
        for radius in (np.sort(scores)[len(scores) // 2], np.sort(scores)[10], oracle.everything(metric)):
            expected = inside[oracle.inside(scores, float(radius), metric)]  # boundary included
            hits = index.range_search(query, float(radius), probes=probes)
            assert sorted(hits.ids.tolist()) == expected.tolist()
            np.testing.assert_array_equal(hits.scores, index.score(query, hits.ids)[0])
            assert (np.diff(hits.scores) * (1 if metric == "l2" else -1) >= 0).all()
            some = hits.ids[::2]
            filtered = index.range_search(query, float(radius), probes=probes, filter=some)
            assert filtered.ids.tolist() == some.tolist()


# ----------------------------------------------------------------------------------------------------------------------
# Declared recall
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"rerank": None, "codec": "sq8"}, {"soar": 1.0}], ids=["default", "sq8", "soar"]
)
def test_declared_recall(options, tmp_path):
    x = clustered(1, 4000, spread=0.7)
    index = made(x, lists=64, **options)
    learned = clustered(3, 250, spread=0.7)
    tuning = index.tune(learned, k=10, recall=(0.8, 0.9, 0.99))
    assert index.tuning == tuning
    assert [row[0] for row in tuning.table] == [0.8, 0.9, 0.99]
    names = tuning.parameter.split(", ")
    assert names == (["probes", "oversample"] if index.rerank else ["probes"])
    others = clustered(4, 250, spread=0.7)
    others_at = ROUTES["mmap"](index, tmp_path / "index")
    assert others_at.tuning == tuning
    for wanted, measured, *values in tuning.table:
        assert measured >= wanted
        assert index.measure_recall(learned, 10, recall=wanted) == pytest.approx(measured)
        assert recall(index, others, 10, recall=wanted) >= wanted - 0.02
        set_by_hand = index.search(others, 10, **dict(zip(names, values, strict=True)))
        for each in (index, others_at, nf.load(to_bytes(index))):
            same(each.search(others, 10, recall=wanted), set_by_hand)
    probes = [row[2] for row in tuning.table]
    assert probes == sorted(probes)
    assert probes[0] < 64
    with pytest.raises(ValueError, match=r"recall.*0\.999"):
        index.search(others, 10, recall=0.999)


def test_recall_is_of_nobody_before_tuning(index):
    with pytest.raises(ValueError, match=r"recall.*tune"):
        index.search(QUERIES, recall=0.9)


def test_tuning_with_vectors_of_the_index():
    index = made(lists=40)
    tuning = index.tune(k=5)
    assert tuning.queries == "held out"
    assert all(row[1] >= row[0] for row in tuning.table)


# ----------------------------------------------------------------------------------------------------------------------
# Files
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
@each_make
def test_what_is_saved_comes_back(options, route, tmp_path):
    index = made(X[:800], "l2", 20, np.random.default_rng(1).permutation(4000)[:800], probes=5, **options)
    index.remove(index.ids()[::7])
    data = to_bytes(index)
    back = ROUTES[route](index, tmp_path / "index")
    assert type(back) is nf.IVF
    for name in ("dim", "metric", "codec", "rerank", "oversample", "lists", "probes", "soar", "list_dims"):
        assert getattr(back, name) == getattr(index, name), name
    for name in ("centroids", "list_sizes"):
        np.testing.assert_array_equal(getattr(back, name), getattr(index, name))
    assert to_bytes(back) == data
    for call in ({}, {"probes": 1}, {"exact": True}, {"filter": index.ids()[::50]}):
        same(back.search(QUERIES, 10, **call), index.search(QUERIES, 10, **call))
    # Both go on alike.
    ids = index.add(X[800:900])
    np.testing.assert_array_equal(back.add(X[800:900]), ids)
    for each in (index, back):
        each.remove(ids[:50])
        each.update(ids[50:60], X[:10])
    same(back.search(QUERIES, 10), index.search(QUERIES, 10))
    assert to_bytes(back) == to_bytes(index)


def test_lists_lie_side_by_side_in_the_file(index):
    """What a search visits is read in one piece for each list."""
    tensors = arrays(index)
    sizes = tensors["list_sizes"]
    assert metadata_of(to_bytes(index))["kind"] == "ivf"
    assert tensors["lists"].shape[0] == (-(-sizes.astype(int) // 32)).sum()
    assert tensors["list_rows"].shape == (len(X),)
    np.testing.assert_array_equal(tensors["centroids"], index.centroids)
    for rows in np.split(tensors["list_rows"], np.cumsum(sizes)[:-1]):
        assert (np.diff(rows.astype(int)) > 0).all()


HOSTILE = [
    {},
    {"soar": 1.0, "rerank": None},
    {"codec": "lvq4x8", "rerank": None},
    {"codec": "pq4", "rerank": "f32"},
    {"codec": "f32", "rerank": None, "list_dims": 3},
]

USE = """
import sys
import numpy as np
import nearfield as nf
opened = 0
for path in sys.argv[1:]:
    try:
        index = nf.load(path, mmap=True)
    except nf.FileFormatError:
        continue
    opened += 1
    q = np.random.default_rng(0).normal(size=(3, index.dim)).astype(np.float32)
    for use in (
        lambda: index.search(q, 5), lambda: index.search(q, 500, probes=100), lambda: index.search(q, 5, exact=True),
        lambda: index.search(q, 5, filter=[0, 5, 10]),
        lambda: index.search(q, 50, filter=np.arange(len(index)) % 2 > 0),
        lambda: index.range_search(q, 1.0), lambda: index.range_search(q, 1.0, probes=100, filter=[0, 5, 10]),
        lambda: index.score(q, [0, 5]), lambda: index.reconstruct([10]), lambda: index.codes([0, 10]),
        lambda: index.tune(q, k=2), lambda: index.search(q, 5, recall=0.9), lambda: nf.load(index.__getstate__()),
        lambda: index.remove([5]), lambda: index.update([10], q[:1]), lambda: index.search(q, 5),
        lambda: index.add(q), lambda: index.add(q, [1, 2, 3]), lambda: index.remove(index.ids()[:50]),
        lambda: nf.load(index.__getstate__()), lambda: index.remove(index.ids()[: len(index) // 2 + 40]),
        lambda: index.search(q, 5), lambda: index.search(q, 5, probes=100), lambda: index.remove(index.ids()),
        lambda: index.add(q), lambda: index.search(q, 5), lambda: repr(index), lambda: index.nbytes,
    ):
        try:
            use()
        except (KeyError, ValueError):
            pass
print(opened)
"""


@pytest.mark.parametrize("options", HOSTILE, ids=str)
def test_arrays_that_lie_crash_nothing(options, tmp_path, python):
    """No checksum helps against a stranger, and a mapped file is not checked in full anyway."""
    rng, paths = np.random.default_rng(7), []
    index = made(X[:300, :9].copy(), "l2" if options else "cosine", 10, np.arange(300)[::-1] * 5, **options)
    data = to_bytes(index)
    for name, array in safetensors.numpy.load(data).items():
        raw = array.view(np.uint8)
        flipped = raw ^ np.where(rng.random(raw.shape) < 0.02, 1 << rng.integers(8, size=raw.shape), 0).astype(np.uint8)
        values = [0, 255, rng.integers(0, 256, raw.shape), flipped, rng.permutation(array.ravel()).view(np.uint8)]
        for number, value in enumerate(values):

            def change(tensors, name=name, value=value):
                raw = tensors[name].view(np.uint8)
                raw[...] = np.reshape(value, raw.shape) if np.size(value) > 1 else value

            paths.append(tmp_path / f"{name}-{number}")
            paths[-1].write_bytes(rewritten(data, change))
    assert int(python(USE, *paths).stdout) > len(paths) // 3


def test_row_numbers_are_checked_where_a_file_is_read():
    index = made(X[:300], lists=10)

    def change(tensors):
        tensors["list_rows"][7] = 300

    with pytest.raises(nf.FileFormatError, match="list_rows"):
        nf.load(rewritten(to_bytes(index), change))


@pytest.mark.parametrize(
    "name", ["list_sizes", "centroids", "lists", "list_rows", "corrections", "largest_corrections"]
)
def test_arrays_that_do_not_fit_are_refused(index, name):
    def shorten(tensors):
        tensors[name] = tensors[name][:-1].copy()

    def retype(tensors):
        tensors[name] = tensors[name].view(np.int8)

    for change in (shorten, retype, lambda tensors: tensors.pop(name)):
        with pytest.raises(nf.FileFormatError):
            nf.load(rewritten(to_bytes(index), change))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "flat"),
        ("kind", "hnsw"),
        ("lists", "-1"),
        ("probes", "many"),
        ("soar", "nan"),
        ("soar", "-1"),
        ("soar", "1"),
        ("list_dims", "8"),
        ("list_dims", "25"),
        ("seed", "x"),
        ("rows", "2999"),
        ("dim", "25"),
        ("codec", "f32"),
        ("codec.bits", "2"),
        ("metric", "hamming"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(index, key, value):
    with pytest.raises(nf.FileFormatError):
        nf.load(rewritten(to_bytes(index), **{key: value}))


def test_flipped_bits_and_cuts_are_found(tmp_path):
    index = made(X[:200], lists=6)
    data = to_bytes(index)
    rng = np.random.default_rng(1)
    for at in rng.integers(len(data), size=150):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "index").write_bytes(damaged)
        for load in (
            lambda damaged=damaged: nf.load(bytes(damaged)),
            lambda: nf.load(tmp_path / "index", mmap=True, verify=True),
        ):
            with pytest.raises(nf.FileFormatError):
                load()
    for length in rng.integers(len(data), size=40):
        (tmp_path / "index").write_bytes(data[:length])
        with pytest.raises(nf.FileFormatError):
            nf.load(tmp_path / "index", mmap=True)


# ----------------------------------------------------------------------------------------------------------------------
# Bad input
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dim": 0}, ValueError, "dim.*0"),
        ({"dim": 2.5}, TypeError, "dim.*2.5"),
        ({"metric": "hamming"}, ValueError, "metric.*hamming.*cosine"),
        ({"metric": "euclid"}, ValueError, "metric.*euclid"),
        ({"lists": 0}, ValueError, "lists.*0"),
        ({"lists": -3}, ValueError, "lists.*-3"),
        ({"lists": 2.5}, TypeError, "lists.*2.5"),
        ({"lists": "many"}, TypeError, "lists.*many"),
        ({"probes": 0}, ValueError, "probes.*0"),
        ({"probes": -1}, ValueError, "probes.*-1"),
        ({"probes": 1.5}, TypeError, "probes.*1.5"),
        ({"soar": -1.0}, ValueError, "soar.*-1"),
        ({"soar": float("nan")}, ValueError, "soar.*nan"),
        ({"soar": float("inf")}, ValueError, "soar.*inf"),
        ({"soar": "yes"}, TypeError, "soar.*yes"),
        ({"list_dims": 0}, ValueError, "list_dims.*0"),
        ({"list_dims": DIM + 1}, ValueError, f"list_dims.*{DIM + 1}.*{DIM}"),
        ({"oversample": 0.5}, ValueError, "oversample.*0.5"),
        ({"codec": "pq5d"}, ValueError, "codec.*pq5d"),
        ({"rerank": "qp"}, ValueError, "rerank.*qp"),
        ({"seed": -1}, ValueError, "seed.*-1"),
        ({"seed": "x"}, TypeError, "seed.*x"),
    ],
)
def test_parameters(arguments, error, message):
    with pytest.raises(error, match=message or None):
        nf.IVF(**{"dim": DIM} | arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda index: index.search(QUERIES, probes=0), ValueError, "probes.*0"),
        (lambda index: index.search(QUERIES, probes=-1), ValueError, "probes.*-1"),
        (lambda index: index.search(QUERIES, probes=1.5), TypeError, "probes.*1.5"),
        (lambda index: index.search(QUERIES, probes="all"), TypeError, "probes.*all"),
        (lambda index: index.range_search(QUERIES, 0.5, probes=0), ValueError, "probes.*0"),
        (lambda index: index.measure_recall(QUERIES, probes=0), ValueError, "probes.*0"),
        (lambda index: index.search(QUERIES, -1), ValueError, "k.*-1"),
        (lambda index: index.search(QUERIES[:, :5]), ValueError, f"5.*{DIM}"),
        (lambda index: index.search(QUERIES * np.nan), ValueError, "queries: row 0.*NaN"),
        (lambda index: index.search(QUERIES, oversample=0.5), ValueError, "oversample.*0.5"),
        (lambda index: index.search(QUERIES, recall=2), ValueError, "recall.*2"),
        (lambda index: index.search(QUERIES, recall=0.9, probes=3), ValueError, "recall.*probes|probes.*recall"),
        (lambda index: index.search(QUERIES, filter=[True] * 5), ValueError, "5.*3000"),
        (lambda index: index.search(QUERIES, 10**13), MemoryError, ""),
        (lambda index: index.add(X[:3], [0, 5000, 5001]), KeyError, "0"),
        (lambda index: index.add(X[:3], [5000, 5000, 1]), ValueError, "5000.*repeated"),
        (lambda index: index.update([77777], X[:1]), KeyError, "77777"),
        (lambda index: index.remove([77777]), KeyError, "77777"),
        (lambda index: index.add(X[:, :7]), ValueError, f"7.*{DIM}"),
    ],
)
def test_bad_input_changes_nothing(index, call, error, message):
    before = to_bytes(index)
    with pytest.raises(error, match=message or None):
        call(index)
    assert to_bytes(index) == before


def test_probes_of_an_index_that_is_empty_are_checked():
    with pytest.raises(ValueError, match="probes"):
        nf.IVF(DIM).search(QUERIES, probes=0)


@pytest.mark.parametrize("codec", ["f32", "rabitq1", "pq4", "sq8"])
@pytest.mark.parametrize("character", ["huge", "magnitudes", "giant row", "subnormal", "norms", "far from origin"])
def test_numbers_of_any_size(codec, character, metric):
    """Centroids, residuals and distances may leave float32; results have the right form, or the vector is named."""
    x = strategies.make(character, 1, 400, 8)
    try:
        index = made(x, metric, 20, codec=codec, rerank="f32")
    except ValueError as error:
        assert "row " in str(error)  # noqa: PT017
        return
    queries = np.concatenate([x[:20], strategies.make("normal", 2, 5, 8)])
    for probes, k in itertools.product((1, 5, ALL), (1, 30, 400)):
        hits = index.search(queries, k, probes=probes)
        assert hits.counts.tolist() == [k] * len(queries)
        assert all(len(set(ids.tolist())) == k for ids in hits.ids)
    oracle.check_hits(index.search(queries, 10, probes=ALL, oversample=EVERY), queries, x, np.arange(400), metric, 10)
