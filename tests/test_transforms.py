"""Transforms in front of codecs: what they keep, and what they do to scores."""

from __future__ import annotations

import numpy as np
import pytest

import nearfield as nf
import oracle
from test_files import to_bytes
from test_signs import data

DIM = 24

each_metric = pytest.mark.parametrize("metric", oracle.METRICS)


def built(codec, metric: str, x: np.ndarray) -> nf.Flat:
    index = nf.Flat(x.shape[1], metric, codec=codec)
    index.add(x)
    return index


def scores(codec, metric: str, x: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return built(codec, metric, x).score(queries, np.arange(len(x)))


def expected(metric: str, x: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return np.stack([oracle.scores_of(oracle.keys(q, x, metric), metric) for q in queries])


def close(found: np.ndarray, right: np.ndarray, share: float = 1e-5) -> None:
    np.testing.assert_allclose(found, right, rtol=share, atol=share * np.abs(right).max())


# ----------------------------------------------------------------------------------------------------------------------
# PCA
# ----------------------------------------------------------------------------------------------------------------------


@each_metric
@pytest.mark.parametrize("dims", [1, 5, 23])
def test_pca_loses_as_little_as_can_be(metric, dims):
    """What is left out is the sum of the smallest eigenvalues."""
    x = data(1, 1000, DIM)
    index = built((nf.PCA(dims), "f32"), metric, x)
    coded = oracle.unit(x) if metric == "cosine" else np.float64(x)
    about = coded - coded.mean(axis=0) if metric == "l2" else coded
    values = np.linalg.eigvalsh(about.T @ about / len(x))
    lost = np.square(index.reconstruct(np.arange(1000)) - coded).sum(axis=1).mean()
    assert lost == pytest.approx(values[: DIM - dims].sum(), rel=1e-4)
    matrix = oracle.learned(index)["transform.0.matrix"].reshape(dims, DIM)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dims), atol=1e-5)


@each_metric
def test_pca_of_all_dimensions_changes_no_score(metric):
    x, queries = data(1, 500, DIM), data(2, 20, DIM)
    close(scores((nf.PCA(DIM), "f32"), metric, x, queries), expected(metric, x, queries))


def test_pca_under_l2_gives_distances_of_projections():
    x, queries = data(1, 500, DIM), data(2, 20, DIM)
    mean = x.mean(axis=0, dtype=np.float64)
    matrix = np.linalg.svd(x - mean, full_matrices=False)[2][:6]
    right = expected("l2", (x - mean) @ matrix.T, (queries - mean) @ matrix.T)
    close(scores((nf.PCA(6), "f32"), "l2", x, queries), right)


def test_pca_under_cosine_is_not_normalised_again():
    x, queries = data(1, 500, DIM), data(2, 20, DIM)
    matrix = np.linalg.svd(oracle.unit(x), full_matrices=False)[2][:6]
    right = (oracle.unit(queries) @ matrix.T) @ (oracle.unit(x) @ matrix.T).T
    close(scores((nf.PCA(6), "f32"), "cosine", x, queries), right)


@each_metric
def test_whitening(metric):
    """Distances are those of Mahalanobis, in the leading directions; cosines are between whitened vectors."""
    x, queries = data(1, 2000, DIM), data(2, 20, DIM)
    coded, asked = (oracle.unit(v) if metric == "cosine" else np.float64(v) for v in (x, queries))
    mean = coded.mean(axis=0)
    _, values, vectors = np.linalg.svd(coded - mean, full_matrices=False)
    variances = np.square(values) / len(x)
    matrix = vectors[:6] / np.sqrt(variances[:6, np.newaxis])
    white = (coded - mean) @ matrix.T
    np.testing.assert_allclose(white.T @ white / len(x), np.eye(6), atol=1e-6)
    right = expected(metric, white, (asked - mean) @ matrix.T)
    close(scores((nf.PCA(6, whiten=True), "f32"), metric, x, queries), right, 1e-4)


@each_metric
@pytest.mark.parametrize("whiten", [False, True])
def test_pca_of_fewer_vectors_than_dimensions(metric, whiten):
    x = data(1, 3, DIM)
    index = built((nf.PCA(10, whiten), "f32"), metric, x)
    assert np.isfinite(index.score(data(2, 5, DIM), np.arange(3))).all()
    if not whiten:  # all that there is fits in
        coded = oracle.unit(x) if metric == "cosine" else x
        close(index.reconstruct(np.arange(3)), coded)
    index.add(data(3, 50, DIM))
    assert np.isfinite(index.search(data(2, 5, DIM), 53).scores).all()


# ----------------------------------------------------------------------------------------------------------------------
# LeanVec
# ----------------------------------------------------------------------------------------------------------------------


def other_queries(seed: int, n: int) -> np.ndarray:
    """Queries of another distribution than the documents."""
    return (data(seed, n, DIM)[:, ::-1] * np.geomspace(1, 0.05, DIM)).astype(np.float32)


@pytest.mark.parametrize("metric", ["ip", "cosine"])
@pytest.mark.parametrize("dims", [2, 8, 16])
def test_leanvec_loses_less_than_pca(metric, dims):
    """But no less than any projection must: the bound of Eckart and Young for the matrix of inner products."""
    x, queries = data(1, 400, DIM), other_queries(2, 400)
    asked, coded = (oracle.unit(v) if metric == "cosine" else np.float64(v) for v in (queries, x))
    right = asked @ coded.T
    bound = np.square(np.linalg.svd(right, compute_uv=False)[dims:]).sum()
    losses = {}
    for name, step in [
        ("aware", nf.LeanVec(dims, queries=queries)),
        ("plain", nf.LeanVec(dims)),
        ("pca", nf.PCA(dims)),
    ]:
        index = built((step, "f32"), metric, x)
        # What is decoded has the inner products of the two projections.
        found = asked @ np.float64(index.reconstruct(np.arange(400))).T
        if metric == "ip":
            close(index.score(queries, np.arange(400)), found, 1e-4)
        losses[name] = np.square(found - right).sum()
        learned = {key: value.reshape(dims, DIM) for key, value in oracle.learned(index).items()}
        documents = learned["transform.0.matrix"]
        # What is projected once stays as it is when it is projected again.
        close(learned.get("transform.0.query_matrix", documents) @ documents.T, np.eye(dims), 1e-4)
    assert losses["aware"] >= bound * (1 - 1e-4)
    assert losses["plain"] == losses["pca"]
    assert losses["aware"] < 0.9 * losses["pca"]


def test_leanvec_finds_more_for_queries_unlike_the_vectors():
    x, queries = data(1, 3000, DIM), other_queries(2, 400)
    exact = built("f32", "ip", x).search(queries[200:], 10).ids
    recall = {}
    for step in (nf.PCA(6), nf.LeanVec(6, queries=queries[:200])):
        found = built((step, "f32"), "ip", x).search(queries[200:], 10).ids
        recall[type(step)] = np.mean([np.isin(a, b).mean() for a, b in zip(found, exact, strict=True)])
    assert recall[nf.LeanVec] > recall[nf.PCA] + 0.05


# ----------------------------------------------------------------------------------------------------------------------
# Prefix, RandomRotation, Blocks
# ----------------------------------------------------------------------------------------------------------------------


@each_metric
@pytest.mark.parametrize("dims", [1, 7, DIM])
def test_prefix(metric, dims):
    """Under cosine the prefix is normalised again."""
    x, queries = data(1, 300, DIM), data(2, 20, DIM)
    close(scores((nf.Prefix(dims), "f32"), metric, x, queries), expected(metric, x[:, :dims], queries[:, :dims]))
    kept = built((nf.Prefix(dims), "f32"), metric, x).reconstruct(np.arange(300))
    close(kept[:, :dims], oracle.unit(x[:, :dims]) if metric == "cosine" else x[:, :dims])
    assert not kept[:, dims:].any()


@each_metric
@pytest.mark.parametrize("dim", [1, 2, 3, 24, 65, 100])
def test_a_random_rotation_changes_no_score(metric, dim):
    x, queries = data(1, 300, dim), data(2, 20, dim)
    index = built((nf.RandomRotation(7), "f32"), metric, x)
    close(index.score(queries, np.arange(300)), expected(metric, x, queries))
    close(index.reconstruct(np.arange(300)), oracle.unit(x) if metric == "cosine" else x)


def test_rotations_depend_on_the_seed_alone():
    x = data(1, 300, DIM)
    one, same, other = (built((nf.RandomRotation(seed), "sq4"), "ip", x).codes(np.arange(300)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert nf.RandomRotation(1) == nf.RandomRotation(1) != nf.RandomRotation(2)


def test_a_rotation_evens_out_dimensions():
    """With one range for all, a dimension of wide spread takes the levels of the others."""
    x = (np.geomspace(100, 0.1, 64) * np.random.default_rng(0).normal(size=(2000, 64))).astype(np.float32)
    lost = [
        np.square(built(codec, "l2", x).reconstruct(np.arange(2000)) - x).mean()
        for codec in (nf.SQ(4, "global"), (nf.RandomRotation(), nf.SQ(4, "global")))
    ]
    assert lost[1] < lost[0] / 2


SIZES = (5, 1, 10, 8)
WEIGHTS = (1.0, 0.25, 3.0, 0.0)


@each_metric
def test_blocks(metric):
    x, queries = data(1, 300, DIM), data(2, 20, DIM)
    ends = np.cumsum(SIZES)[:-1]
    parts = list(zip(np.split(x, ends, axis=1), np.split(queries, ends, axis=1), strict=True))
    each = np.stack([expected(metric, a, b).astype(np.float64) for a, b in parts])
    right = {
        "cosine": np.tensordot(WEIGHTS, each, 1) / sum(WEIGHTS),
        "ip": np.tensordot(WEIGHTS, each, 1),
        "l2": np.sqrt(np.tensordot(WEIGHTS, np.square(each), 1)),
    }[metric]
    index = built((nf.Blocks(SIZES, WEIGHTS), "f32"), metric, x)
    close(index.score(queries, np.arange(300)), right)
    kept = index.reconstruct(np.arange(300))
    for (own, _), back, weight in zip(parts, np.split(kept, ends, axis=1), WEIGHTS, strict=True):
        close(back, (oracle.unit(own) if metric == "cosine" else own) if weight else 0 * own)


def test_blocks_with_zeros_among_them():
    """Under cosine, a part that is zero adds nothing."""
    x = np.array([[3, 4, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]], np.float32)
    found = scores((nf.Blocks((2, 2), (1, 3)), "f32"), "cosine", x, np.array([[3, 4, 0, 1]], np.float32))
    np.testing.assert_allclose(found, [[0.25, 0.75, 0]], atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------------
# Chains
# ----------------------------------------------------------------------------------------------------------------------


@each_metric
def test_steps_follow_each_other(metric):
    x, queries = data(1, 500, DIM), data(2, 20, DIM)
    for chain in (
        (nf.Prefix(20), nf.PCA(7)),
        (nf.Prefix(20), nf.Prefix(11)),
        (nf.Blocks((10, 14), (1, 2)), nf.PCA(9), nf.RandomRotation(3)),
        (nf.PCA(12), nf.Prefix(5), nf.PCA(3, whiten=True)),
    ):
        for last, error in [("f32", 1e-4), ("lvq8", 1e-4), ("f16", 1e-4)]:
            index = built((*chain, last), metric, x)
            ids = np.arange(500)
            oracle.Decoded(index, x, ids).check(index.score(queries, ids), queries, error)
            hits = index.search(queries, 10)
            best = np.sort(index.score(queries, ids), axis=1)
            best = best[:, :10] if metric == "l2" else best[:, :-11:-1]
            np.testing.assert_array_equal(hits.scores, best)
            assert index.codec == (*chain, last)
            assert to_bytes(nf.load(to_bytes(index))) == to_bytes(index)


def test_a_step_learns_from_what_comes_out_of_those_before():
    x = data(1, 500, DIM)
    index = built((nf.Prefix(9), nf.PCA(4), "f32"), "ip", x)
    alone = built((nf.PCA(4), "f32"), "ip", x[:, :9])
    np.testing.assert_array_equal(
        oracle.learned(index)["transform.1.matrix"], oracle.learned(alone)["transform.0.matrix"]
    )


def test_transformed_vectors_take_less_memory():
    x = data(1, 4096, 96)
    assert built((nf.PCA(16), "sq8"), "ip", x).nbytes < 0.25 * built("sq8", "ip", x).nbytes + 4096 * 12


def test_the_same_sample_gives_the_same_file_at_any_number_of_threads():
    x = data(1, 3000, DIM)
    files = set()
    for threads in (1, 2):
        index = nf.Flat(DIM, "ip", codec=(nf.PCA(8), "sq8"))
        index.add(x, threads=threads)
        files.add(to_bytes(index))
    assert len(files) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Bad input
# ----------------------------------------------------------------------------------------------------------------------

BAD = {
    "no dimensions": (lambda: nf.PCA(0), ValueError, "dims.*0"),
    "fractional dimensions": (lambda: nf.PCA(2.5), TypeError, "dims.*2.5"),
    "whiten": (lambda: nf.PCA(2, whiten="yes"), TypeError, "whiten.*yes"),
    "unknown": (lambda: nf.PCA(2, center=True), TypeError, "center"),
    "prefix of nothing": (lambda: nf.Prefix(0), ValueError, "dims.*0"),
    "leanvec dimensions": (lambda: nf.LeanVec(0), ValueError, "dims.*0"),
    "one query": (lambda: nf.LeanVec(3, queries=np.ones(9)), ValueError, "queries.*1 dim.*2"),
    "queries with NaN": (lambda: nf.LeanVec(3, queries=[[1, np.nan]]), ValueError, "queries: row 0.*NaN"),
    "queries of text": (lambda: nf.LeanVec(3, queries="some"), ValueError, "queries.*some.*array"),
    "seed": (lambda: nf.RandomRotation(-1), ValueError, "seed.*-1"),
    "no sizes": (lambda: nf.Blocks((), ()), ValueError, "sizes"),
    "a size of nothing": (lambda: nf.Blocks((3, 0), (1, 1)), ValueError, "sizes"),
    "too few weights": (lambda: nf.Blocks((3, 4), (1,)), ValueError, "weights.*1.*2"),
    "a negative weight": (lambda: nf.Blocks((3, 4), (1, -1)), ValueError, "weights.*-1"),
    "no weight": (lambda: nf.Blocks((3, 4), (0, 0)), ValueError, "weights.*0"),
    "an infinite weight": (lambda: nf.Blocks((3, 4), (1, np.inf)), ValueError, "weights.*inf"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_parameters(case):
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("codec", "error", "message"),
    [
        ((nf.PCA(25), "f32"), ValueError, r"dims.*25.*24"),
        ((nf.Prefix(25), "f32"), ValueError, r"dims.*25.*24"),
        ((nf.LeanVec(25), "f32"), ValueError, r"dims.*25.*24"),
        ((nf.Prefix(9), nf.PCA(10), "sq8"), ValueError, r"dims.*10.*9"),
        ((nf.Blocks((4, 5), (1, 1)), "sq8"), ValueError, r"sizes.*9.*24"),
        ((nf.RandomRotation(), nf.PCA(4), "sq8"), ValueError, r"codec.*RandomRotation"),
        ((nf.RandomRotation(), nf.PQ(4, rotation="opq")), ValueError, r"codec.*RandomRotation"),
        (("sq8", nf.PCA(4)), ValueError, r"codec.*PCA.*last"),
        (("sq8", "sq8"), TypeError, r"codec.*sq8.*transform"),
        ((nf.PCA, "sq8"), TypeError, r"codec.*PCA.*transform"),
        (nf.PCA(4), (TypeError, ValueError), r"codec.*PCA"),
        ((nf.PCA(4), "sq9"), ValueError, r"(bits|codec).*9"),
        ((nf.PCA(4), "bits"), ValueError, r"codec.*bits.*ip"),
    ],
)
def test_chains_that_do_not_fit(codec, error, message):
    with pytest.raises(error, match=message):  # at once, or when there are vectors
        nf.Flat(DIM, "ip", codec=codec).add(data(1, 100, DIM))


def test_lengths_beyond_float32():
    """A transform may carry a vector out of float32; the index is as it was then."""
    index = built((nf.Blocks((12, 12), (1e12, 1)), "f32"), "ip", data(1, 50, DIM))
    before = to_bytes(index)
    with pytest.raises(ValueError, match=r"vectors: row 1.*float32"):
        index.add(np.stack([np.ones(DIM), np.full(DIM, 1e36)]))
    assert to_bytes(index) == before
    with pytest.raises(ValueError, match=r"queries.*float32"):
        index.search(np.full(DIM, 1e36))
