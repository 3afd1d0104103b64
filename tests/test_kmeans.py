"""k-means: assignments against float64, what clusters promise, and the same result however it is computed."""

from __future__ import annotations

import itertools
import json
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf

# A difference of squared distances, relative to the largest of them, that float64 sums in another order may not see.
ROUNDING = 1e-14


def blobs(seed: int, n: int, dim: int, count: int = 10, spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(count, dim))
    return (centers[rng.integers(count, size=n)] + spread * rng.normal(size=(n, dim))).astype(np.float32)


def squared(x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    differences = np.float64(x)[:, np.newaxis, :] - np.float64(centers)[np.newaxis]
    return np.square(differences).sum(axis=2)


def unit(x: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(np.float64(x), axis=1, keepdims=True)
    return np.divide(x, lengths, out=np.zeros(x.shape), where=lengths > 0).astype(np.float32)


def assert_nearest(labels: np.ndarray, x: np.ndarray, centers: np.ndarray) -> None:
    distances = squared(x, centers)
    chosen, least = distances[np.arange(len(x)), labels], distances.min(axis=1)
    assert (chosen <= least * (1 + ROUNDING) + 1e-300).all()
    exact = (distances <= chosen[:, np.newaxis]).sum(axis=1) > 1  # ties
    clear = ~exact
    np.testing.assert_array_equal(labels[clear], distances.argmin(axis=1)[clear])


def same(a: nf.KMeans, b: nf.KMeans) -> None:
    np.testing.assert_array_equal(a.cluster_centers_, b.cluster_centers_)
    np.testing.assert_array_equal(a.labels_, b.labels_)
    assert (a.inertia_, a.n_iter_) == (b.inertia_, b.n_iter_)


# ----------------------------------------------------------------------------------------------------------------------
# Assignments
# ----------------------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 80),
    dim=st.integers(1, 40),
    k=st.integers(1, 80),
    exponent=st.sampled_from([-20, -9, -1, 0, 3, 9, 18]),
    kind=st.sampled_from(["normal", "grid", "shifted", "outliers"]),
)
def test_nearest_centroids(seed, n, dim, k, exponent, kind):
    rng = np.random.default_rng(seed)
    x, centers = rng.normal(size=(n, dim)), rng.normal(size=(k, dim))
    if kind == "grid":  # ties
        x, centers = np.rint(x), np.rint(centers)
    elif kind == "shifted":
        x, centers = x + 1000, centers + 1000
    elif kind == "outliers":
        x[0] *= 1e15
        centers[-1] *= 1e12
    x, centers = (x * 10.0**exponent).astype(np.float32), (centers * 10.0**exponent).astype(np.float32)
    labels, distances = nf._core.Centroids(centers).assign(x, "f32", False, 1)
    right = squared(x, centers)
    assert_nearest(labels, x, centers)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(distances, right.min(axis=1).astype(np.float32), rtol=1e-6)
    if kind == "grid" and exponent == 0:  # whole numbers: float64 is exact, and ties go to the lower one
        np.testing.assert_array_equal(labels, right.argmin(axis=1))


def test_assignments_do_not_depend_on_the_batch():
    x, centers = blobs(1, 3000, 24), blobs(2, 300, 24)
    centroids = nf._core.Centroids(centers)
    labels, distances = centroids.assign(x, "f32", False, 2)
    for first, last in [(0, 1), (5, 18), (700, 2900)]:
        part = centroids.assign(x[first:last], "f32", False, 1)
        np.testing.assert_array_equal(part[0], labels[first:last])
        np.testing.assert_array_equal(part[1], distances[first:last])


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("sample", [None, 20])
@pytest.mark.parametrize(("n", "dim", "k"), [(1000, 20, 33), (500, 3, 1), (64, 7, 64), (3000, 130, 100)])
def test_labels_are_the_nearest_centroids(metric, sample, n, dim, k):
    x = blobs(3, n, dim)
    kmeans = nf.KMeans(k, metric, 10, sample=sample).fit(x)
    points = unit(x) if metric == "cosine" else x
    assert kmeans.cluster_centers_.shape == (k, dim)
    assert kmeans.cluster_centers_.dtype == np.float32
    assert kmeans.labels_.dtype == np.int32
    assert kmeans.n_sampled_ == (n if sample is None else min(n, k * sample))
    assert_nearest(kmeans.labels_, points, kmeans.cluster_centers_)
    errors = squared(points, kmeans.cluster_centers_)[np.arange(n), kmeans.labels_]
    assert kmeans.inertia_ == pytest.approx(errors.sum(), rel=1e-5, abs=1e-6 * n)
    np.testing.assert_array_equal(kmeans.predict(x), kmeans.labels_)
    np.testing.assert_array_equal(nf.KMeans(k, metric, 10, sample=sample).fit_predict(x), kmeans.labels_)


def test_centroids_are_the_means_of_their_clusters():
    x = blobs(4, 2000, 12)
    kmeans = nf.KMeans(20, iterations=500).fit(x)
    assert kmeans.n_iter_ < 500  # no vector changed its cluster any more
    for c, center in enumerate(kmeans.cluster_centers_):
        np.testing.assert_allclose(center, np.float64(x[kmeans.labels_ == c]).mean(axis=0), rtol=1e-6, atol=1e-6)
    spherical = nf.KMeans(20, "cosine", iterations=500).fit(x)
    np.testing.assert_allclose(np.linalg.norm(spherical.cluster_centers_, axis=1), 1, rtol=1e-6)
    for c, center in enumerate(spherical.cluster_centers_):
        mean = np.float64(unit(x)[spherical.labels_ == c]).mean(axis=0)
        np.testing.assert_allclose(center, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)


def test_inertia_falls_with_every_iteration():
    x = blobs(5, 3000, 16, count=40)
    inertias = [nf.KMeans(50, iterations=iterations).fit(x).inertia_ for iterations in range(12)]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(inertias))


def test_clear_clusters_are_found():
    x = blobs(6, 2000, 8, count=5, spread=0.01)
    kmeans = nf.KMeans(5).fit(x)
    assert kmeans.inertia_ == pytest.approx(2000 * 8 * 0.01**2, rel=0.1)


def test_warm_start():
    x = blobs(7, 2000, 16)
    first = nf.KMeans(30, iterations=6).fit(x)
    second = nf.KMeans(30, iterations=7).fit(x, init=first.cluster_centers_)
    same_path = nf.KMeans(30, iterations=13).fit(x)
    np.testing.assert_allclose(second.inertia_, same_path.inertia_, rtol=1e-6)
    np.testing.assert_array_equal(nf.KMeans(30, iterations=0).fit(x, init=x[:30]).cluster_centers_, x[:30])
    spherical = nf.KMeans(30, "cosine", iterations=0).fit(x, init=x[:30])
    np.testing.assert_allclose(spherical.cluster_centers_, unit(x[:30]), rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------------------
# Balanced clusters
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slack", [1.0, 1.1, 2.0])
@pytest.mark.parametrize("sample", [None, 5])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_capacity_is_a_limit(slack, sample, k):
    x = blobs(8, 1003, 10, count=3)
    x[:300] = x[0]  # many duplicates
    kmeans = nf.KMeans(k, iterations=5, balanced="capacity", slack=slack, sample=sample).fit(x)
    sizes = np.bincount(kmeans.labels_, minlength=k)
    assert sizes.max() <= np.ceil(slack * 1003 / k)
    errors = squared(x, kmeans.cluster_centers_)[np.arange(1003), kmeans.labels_]
    assert kmeans.inertia_ == pytest.approx(errors.sum(), rel=1e-5)
    assert_nearest(kmeans.predict(x), x, kmeans.cluster_centers_)


def test_a_large_capacity_changes_nothing():
    x = blobs(9, 1000, 10)
    same(nf.KMeans(20, balanced="capacity", slack=20).fit(x), nf.KMeans(20).fit(x))


def test_transport_makes_sizes_nearly_equal():
    rng = np.random.default_rng(10)
    weights = rng.gamma(0.5, size=40)
    groups = rng.choice(40, size=2000, p=weights / weights.sum())
    x = (rng.normal(size=(40, 10))[groups] + 0.7 * rng.normal(size=(2000, 10))).astype(np.float32)
    plain = np.bincount(nf.KMeans(20).fit(x).labels_, minlength=20)
    kmeans = nf.KMeans(20, balanced="sinkhorn").fit(x)
    sizes = np.bincount(kmeans.labels_, minlength=20)
    assert sizes.std() < 0.3 * plain.std()
    assert 75 < sizes.min() <= sizes.max() < 133
    errors = squared(x, kmeans.cluster_centers_)[np.arange(2000), kmeans.labels_]
    assert kmeans.inertia_ == pytest.approx(errors.sum(), rel=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# The same result
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [None, "capacity", "sinkhorn"])
@pytest.mark.parametrize("sample", [None, 30])
def test_same_result_at_any_number_of_threads(balanced, sample):
    x = blobs(12, 5000, 24)
    fits = [nf.KMeans(50, balanced=balanced, sample=sample).fit(x, threads=threads) for threads in (1, 2, 5)]
    same(fits[0], fits[1])
    same(fits[0], fits[2])


FIT = """
    import json, sys
    import numpy as np
    import nearfield as nf
    rng = np.random.default_rng(13)
    centers = rng.normal(size=(30, 50))
    x = (centers[rng.integers(30, size=2000)] + 0.3 * rng.normal(size=(2000, 50))).astype(np.float32)
    kmeans = nf.KMeans(40, iterations=8).fit(x, init=x[:40])
    print(json.dumps([kmeans.cluster_centers_.tolist(), kmeans.labels_.tolist(), kmeans.inertia_]))
"""


@pytest.mark.parametrize("level", nf.cpu_info()["levels"])
def test_levels_agree(level, python):
    """Exact assignments: only last bits of distances differ, so that clusters are the same."""
    centers, labels, inertia = json.loads(python(FIT, env={"NEARFIELD_ISA": level}).stdout)
    right = json.loads(python(FIT).stdout)
    np.testing.assert_allclose(centers, right[0], rtol=1e-6, atol=1e-7)
    assert labels == right[1]
    assert inertia == pytest.approx(right[2], rel=1e-6)


def test_seeds_differ():
    x = blobs(14, 2000, 8)
    assert not np.array_equal(nf.KMeans(20, seed=1).fit(x).labels_, nf.KMeans(20, seed=2).fit(x).labels_)


# ----------------------------------------------------------------------------------------------------------------------
# Inputs
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [None, "capacity", "sinkhorn"])
def test_fewer_different_vectors_than_clusters(balanced):
    x = np.repeat(np.float32([[0, 1], [5, 5], [-3, 2]]), 10, axis=0)
    kmeans = nf.KMeans(12, balanced=balanced, slack=12).fit(x)
    assert np.isfinite(kmeans.cluster_centers_).all()
    if balanced is None:
        assert kmeans.inertia_ == 0
    assert len(np.unique(kmeans.cluster_centers_, axis=0)) <= 3


def test_empty_clusters_are_repaired():
    """Centroids that are nearest to nothing at the start get vectors."""
    x = blobs(15, 1000, 6, count=20, spread=0.01)
    far = np.concatenate([x[:1], np.full((19, 6), 1000, np.float32) + np.arange(19)[:, np.newaxis]])
    kmeans = nf.KMeans(20).fit(x, init=far)
    assert (np.bincount(kmeans.labels_, minlength=20) > 0).all()
    assert np.abs(kmeans.cluster_centers_).max() < 10


def test_each_vector_its_own_cluster():
    x = blobs(16, 50, 9)
    kmeans = nf.KMeans(50).fit(x)
    assert kmeans.inertia_ == 0
    assert sorted(kmeans.labels_) == list(range(50))


def test_one_dimension_and_one_vector():
    kmeans = nf.KMeans(1).fit([[3.0]])
    assert kmeans.cluster_centers_.tolist() == [[3.0]]
    assert kmeans.predict([1.0]).tolist() == [0]
    assert kmeans.transform([1.0]).tolist() == [[2.0]]


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8, np.uint8, np.int64])
def test_types_and_layouts(dtype):
    x = np.clip(np.rint(10 * blobs(17, 300, 8)) + 40, 0, 100)
    right = nf.KMeans(9).fit(x.astype(np.float32))
    same(nf.KMeans(9).fit(x.astype(dtype)), right)
    same(nf.KMeans(9).fit(np.asfortranarray(x.astype(dtype))), right)
    wide = np.zeros((600, 16), dtype)
    wide[::2, ::2] = x
    same(nf.KMeans(9).fit(wide[::2, ::2]), right)
    np.testing.assert_array_equal(right.predict(wide[::2, ::2]), right.labels_)


def test_transform():
    x = blobs(18, 200, 12)
    x[7] = 0
    kmeans = nf.KMeans(15).fit(x)
    np.testing.assert_allclose(kmeans.transform(x), np.sqrt(squared(x, kmeans.cluster_centers_)), rtol=1e-5)
    cosine = nf.KMeans(15, "cosine").fit(x)
    right = 1 - np.float64(unit(x)) @ unit(cosine.cluster_centers_).astype(np.float64).T
    np.testing.assert_allclose(cosine.transform(x), right, atol=1e-6)
    spherical = nf.KMeans(15, spherical=True).fit(x)
    np.testing.assert_array_equal(spherical.cluster_centers_, cosine.cluster_centers_)
    np.testing.assert_allclose(
        spherical.transform(x), np.sqrt(squared(unit(x), cosine.cluster_centers_)), rtol=1e-4, atol=1e-5
    )


def test_huge_and_tiny_values():
    x = blobs(19, 300, 6)
    x[:100] *= np.float32(1e25)
    x[100:200] *= np.float32(1e-25)
    kmeans = nf.KMeans(12).fit(x)
    assert np.isfinite(kmeans.cluster_centers_).all()
    assert_nearest(kmeans.labels_, x, kmeans.cluster_centers_)


def test_values_that_are_not_finite_are_named():
    x = blobs(20, 100, 5)
    kmeans = nf.KMeans(4).fit(x)
    before = kmeans.cluster_centers_
    x[42, 3] = np.nan
    for call in (kmeans.fit, kmeans.predict):
        with pytest.raises(ValueError, match=r"^X: row 42 holds NaN"):
            call(x)
    with pytest.raises(ValueError, match=r"^init: row 2 holds infinity"):
        kmeans.fit(x[:40], init=np.where(np.arange(4)[:, np.newaxis] == 2, np.inf, x[:4]))
    assert kmeans.cluster_centers_ is before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: 0 given"),
        ({"k": 2.5}, TypeError, "k: 2.5 given"),
        ({"k": 2, "metric": "ip"}, ValueError, 'metric: "ip" given, but inner products'),
        ({"k": 2, "metric": "manhattan"}, ValueError, 'metric: "manhattan" given, expected one of l2, cosine'),
        ({"k": 2, "balanced": "yes"}, ValueError, "balanced: 'yes' given"),
        ({"k": 2, "spherical": 1}, TypeError, "spherical: 1 given"),
        ({"k": 2, "slack": 0.9}, ValueError, "slack: 0.9 given"),
        ({"k": 2, "slack": np.nan}, ValueError, "slack: nan given"),
        ({"k": 2, "sample": 0}, ValueError, "sample: 0 given"),
        ({"k": 2, "iterations": -1}, ValueError, "iterations: -1 given"),
        ({"k": 2, "seed": "x"}, TypeError, "seed: 'x' given"),
    ],
)
def test_wrong_parameters(arguments, error, message):
    with pytest.raises(error, match=f"^{message}"):
        nf.KMeans(**arguments)


def test_wrong_calls():
    x = blobs(21, 20, 5)
    kmeans = nf.KMeans(4)
    for call in (kmeans.predict, kmeans.transform):
        with pytest.raises(AttributeError, match=r"call fit first"):
            call(x)
    with pytest.raises(ValueError, match=r"^k: 4 clusters asked for, of 3 vectors"):
        kmeans.fit(x[:3])
    with pytest.raises(ValueError, match=r"^k: 4 clusters asked for, of 0 vectors"):
        kmeans.fit(x[:0])
    with pytest.raises(ValueError, match=r"^X: vectors of dimension 0"):
        kmeans.fit(np.zeros((9, 0), np.float32))
    with pytest.raises(ValueError, match=r"^init: expected an array \(4, 5\)"):
        kmeans.fit(x, init=x[:3])
    with pytest.raises(ValueError, match=r"^threads: 0 given"):
        kmeans.fit(x, threads=0)
    with pytest.raises(TypeError, match=r"^progress: 3 given"):
        kmeans.fit(x, progress=3)
    kmeans.fit(x)
    with pytest.raises(ValueError, match=r"^X: vectors of dimension 6 given, expected dimension 5"):
        kmeans.predict(np.zeros((2, 6)))
    assert kmeans.predict(x[:0]).shape == (0,)


def test_progress_and_interruption():
    x = blobs(22, 30000, 64)
    shares: list[float] = []
    nf.KMeans(200).fit(x, progress=shares.append)
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)

    kmeans = nf.KMeans(10).fit(x[:100])
    before = kmeans.cluster_centers_

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    kmeans.k = 2000
    for balanced in (None, "capacity", "sinkhorn"):
        kmeans.balanced = balanced
        with pytest.raises(KeyboardInterrupt):
            kmeans.fit(x, progress=stop)
    assert kmeans.cluster_centers_ is before


def test_fits_run_beside_each_other():
    x = blobs(23, 4000, 16)
    right = nf.KMeans(30).fit(x)
    found = [nf.KMeans(30) for _ in range(4)]
    workers = [threading.Thread(target=kmeans.fit, args=(x,)) for kmeans in found]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for kmeans in found:
        same(kmeans, right)


def test_pickle_and_repr():
    x = blobs(24, 100, 4)
    kmeans = nf.KMeans(5, "cosine", balanced="capacity").fit(x)
    copy = pickle.loads(pickle.dumps(kmeans))
    same(copy, kmeans)
    np.testing.assert_array_equal(copy.predict(x), kmeans.predict(x))
    assert repr(copy) == "KMeans(5, metric='cosine', iterations=25, balanced='capacity')"
