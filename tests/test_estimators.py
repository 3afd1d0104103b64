"""What codecs lose, measured: bias and error of their estimates beside what theory says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import nearfield as nf
import oracle
from strategies import make
from test_signs import data

DIM = 64


def normal(seed: int, n: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def decoded(codec, x: np.ndarray, metric: str = "l2") -> np.ndarray:
    index = nf.Flat(x.shape[1], metric, codec=codec)
    return np.float64(index.reconstruct(index.add(x)))


def loss(codec, x: np.ndarray, metric: str = "l2") -> float:
    """The mean squared error, as a share of the variance."""
    return float(np.square(decoded(codec, x, metric) - x).sum() / np.square(x - x.mean(axis=0)).sum())


def estimates(codec_of, seeds: int, metric: str, x: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Inner products, or squared distances, (seeds, queries, n)."""
    out = []
    for seed in range(seeds):
        index = nf.Flat(x.shape[1], metric, codec=codec_of(seed))
        scores = np.float64(index.score(queries, index.add(x)))
        out.append(np.square(scores) if metric == "l2" else scores)
    return np.array(out)


def truth(metric: str, x: np.ndarray, queries: np.ndarray) -> np.ndarray:
    if metric == "l2":
        return np.square(np.float64(queries)[:, np.newaxis] - x).sum(axis=-1)
    return np.float64(queries) @ x.T if metric == "ip" else oracle.unit(queries) @ oracle.unit(x).T


# ----------------------------------------------------------------------------------------------------------------------
# RaBitQ
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_rabitq_is_unbiased_over_rotations(metric, bits):
    seeds = 200
    x, queries = data(1, 60, DIM), data(2, 5, DIM)  # dimensions of unequal spread, about a mean
    found = estimates(lambda seed: nf.RaBitQ(bits, seed), seeds, metric, x, queries)
    errors = found - truth(metric, x, queries)
    away = errors.mean(axis=0) / (errors.std(axis=0) / np.sqrt(seeds))  # in standard errors
    assert np.square(away).mean() < 1.4
    assert np.abs(away).max() < 5


@pytest.mark.parametrize("bits", range(1, 9))
def test_rabitq_errs_as_often_as_it_says(bits):
    """
    Over rotations, the estimate's error is nearly normal, with a deviation that is known for each code.

    With r the decoded vector, it is the inner product of r - x, which points anywhere at right angles to x - c, with
    the query's part at right angles to it.
    """
    x, queries = normal(1, 300), normal(2, 40)
    inside = {1.0: [], 1.96: [], 3.0: []}
    for seed in range(6):
        index = nf.Flat(DIM, "ip", codec=nf.RaBitQ(bits, seed))
        index.add(x)
        kept, center = np.float64(index.reconstruct(np.arange(300))), oracle.learned(index)["center"]
        away = np.linalg.norm(kept - x, axis=1)
        direction = oracle.unit(x - center)
        across = np.sqrt(np.square(np.linalg.norm(queries, axis=1))[:, np.newaxis] - np.square(queries @ direction.T))
        error = np.abs(index.score(queries, np.arange(300)) - truth("ip", x, queries))
        for times, share in inside.items():
            share.append((error <= times * across * away / np.sqrt(DIM - 1)).mean())
    assert np.mean(inside[1.0]) == pytest.approx(0.683, abs=0.03)
    assert np.mean(inside[1.96]) == pytest.approx(0.95, abs=0.015)
    assert np.mean(inside[3.0]) > 0.994


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_rabitq_halves_the_error_with_each_bit(metric):
    x, queries = normal(1, 500), normal(2, 50)
    right, errors = truth(metric, x, queries), []
    for bits in range(1, 9):
        found = estimates(lambda seed, bits=bits: nf.RaBitQ(bits, seed), 3, metric, x, queries)
        errors.append(np.sqrt(np.square(found - right).mean()))
    ratios = [before / after for before, after in itertools.pairwise(errors)]
    assert all(1.6 < ratio < 2.5 for ratio in ratios), ratios
    # One bit: <o, v> / |v| is 0.8 (the square root of 2 / pi), so that the error is 3/4 of that of a random direction.
    if metric == "cosine":
        assert errors[0] == pytest.approx(0.75 / np.sqrt(DIM), rel=0.05)


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("codec", ["rabitq2", "rabitq4", "rabitq8", "lvq4x4", "lvq4x8", "lvq8x8"])
def test_bounds_by_chance_lose_next_to_nothing(metric, codec):
    """The scan goes by the first bits, and a bound for what the others may add."""
    x, queries = data(1, 4000, DIM), data(2, 100, DIM)
    index = nf.Flat(DIM, metric, codec=codec)
    scores = index.score(queries, index.add(x))
    best = np.sort(scores if metric == "l2" else -scores, axis=1)[:, :10]
    found = index.search(queries, 10).scores
    missed = (np.abs(found) > np.abs(best[:, -1:]) if metric == "l2" else -found > best[:, -1:]).mean()
    assert missed < 0.005


def test_rabitq_knows_the_true_distance_from_the_centre():
    """At the centre's own place nothing has to be estimated."""
    x = normal(1, 200)
    for bits in (1, 5):
        index = nf.Flat(DIM, "l2", codec=nf.RaBitQ(bits))
        index.add(x)
        center = oracle.learned(index)["center"]
        np.testing.assert_allclose(center, x.mean(axis=0), atol=1e-6)
        expected = np.linalg.norm(x - center, axis=1)
        np.testing.assert_allclose(index.score(center, np.arange(200))[0], expected, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# Levels of Lloyd and Max
# ----------------------------------------------------------------------------------------------------------------------

# Mean squared error of the best 16 and 4 levels for a normal distribution (Max, 1960).
NORMAL_LOSS = {4: 0.009497, 2: 0.1175}


@pytest.mark.parametrize("bits", NORMAL_LOSS)
@pytest.mark.parametrize("calibrated", [True, False])
def test_lloyd_loses_what_theory_says(bits, calibrated):
    found = loss(nf.Lloyd(bits, calibrated), normal(1, 4000, 256))
    assert found == pytest.approx(NORMAL_LOSS[bits], rel=0.05)
    spread = np.geomspace(10, 0.01, 256) * normal(2, 4000, 256)  # the rotation evens it out
    assert loss(nf.Lloyd(bits, calibrated), spread.astype(np.float32)) < 1.3 * NORMAL_LOSS[bits]


@pytest.mark.parametrize("bits", NORMAL_LOSS)
@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_lloyd_keeps_lengths_and_shrinks_inner_products_by_half_its_loss(bits, metric):
    """What is decoded is as long as the vector, and cos^2 of the angle between them is what is not lost."""
    x, queries = normal(1, 60, 128), normal(2, 5, 128)
    kept = decoded(nf.Lloyd(bits, False), x, metric)
    coded = oracle.unit(x) if metric == "cosine" else x
    np.testing.assert_allclose(np.linalg.norm(kept, axis=1), np.linalg.norm(coded, axis=1), rtol=0.02)
    found = estimates(lambda seed: nf.Lloyd(bits, False, seed), 60, metric, x, queries)
    right = truth(metric, x, queries)
    slope = (found * right).sum() / (len(found) * np.square(right).sum())
    assert slope == pytest.approx(np.sqrt(1 - NORMAL_LOSS[bits]), abs=0.25 * NORMAL_LOSS[bits])


def test_calibration_fits_dimensions_that_differ_after_the_rotation():
    x = normal(1, 4000) * np.where(np.arange(DIM) < 8, 5, 0.05).astype(np.float32)
    x = x @ np.linalg.qr(normal(3, DIM))[0]
    assert loss(nf.Lloyd(4, True), x) < 1.1 * loss(nf.Lloyd(4, False), x)
    far = (x + 3).astype(np.float32)
    assert loss(nf.Lloyd(4, True), far, "ip") < 2 * loss(nf.Lloyd(4, True), far, "l2")


# ----------------------------------------------------------------------------------------------------------------------
# Steps
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("over", ["dimension", "global"])
def test_sq_is_off_by_half_a_step(metric, bits, over):
    x = data(1, 500, DIM)
    index = nf.Flat(DIM, metric, codec=nf.SQ(bits, over))
    kept = np.float64(index.reconstruct(index.add(x)))
    coded = oracle.unit(x) if metric == "cosine" else np.float64(x)
    lower, upper = coded.min(axis=0), coded.max(axis=0)
    if over == "global":
        lower, upper = np.full(DIM, lower.min()), np.full(DIM, upper.max())
    step = (upper - lower) / (2**bits - 1)
    learned = oracle.learned(index)
    np.testing.assert_allclose(learned["lower"], lower, rtol=1e-6)
    np.testing.assert_allclose(learned["step"], step, rtol=1e-5)
    slack = 1e-4 * step
    assert (np.abs(kept - coded) <= step / 2 + slack).all()
    # Values beyond the sample's are taken to the ends.
    far = np.float64(index.reconstruct(index.add(100 * x))) if metric != "cosine" else kept
    assert (far >= lower - slack).all()
    assert (far <= upper + slack).all()
    assert np.square(kept - coded).mean() == pytest.approx(np.square(step).mean() / 12, rel=0.1)


def test_sq_clips_a_share_of_the_values():
    x = data(1, 5000, 12)
    for clip in (0.0, 0.01, 0.1):
        index = nf.Flat(12, "l2", codec=nf.SQ(8, clip=clip))
        kept = index.reconstruct(index.add(x))
        for d in range(12):
            inside = np.sort(x[:, d])[int(clip * 4999) : 5000 - int(clip * 4999)]
            assert kept[:, d].min() == pytest.approx(inside[0], abs=2e-3 * float(np.ptp(inside)))
            assert kept[:, d].max() == pytest.approx(inside[-1], abs=2e-3 * float(np.ptp(inside)))


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize(("bits", "residual"), [(8, 0), (4, 0), (4, 4), (4, 8), (8, 8)])
def test_lvq_is_off_by_half_a_fine_step(metric, bits, residual):
    x = data(1, 500, DIM) * np.random.default_rng(3).uniform(0.01, 100, (500, 1)).astype(np.float32)
    index = nf.Flat(DIM, metric, codec=nf.LVQ(bits, residual))
    kept = np.float64(index.reconstruct(index.add(x)))
    coded = oracle.unit(x) if metric == "cosine" else np.float64(x)
    rest = coded - oracle.learned(index)["mean"]
    step = np.ptp(rest, axis=1, keepdims=True) / (2**bits - 1)
    fine = step / (2**residual - 1) if residual else step
    rounding = 4e-7 * np.abs(rest).max(axis=1, keepdims=True) + 2e-7 * np.abs(coded).max()
    assert (np.abs(kept - coded) <= fine / 2 + rounding).all()
    if residual < 8:
        assert np.square((kept - coded) / fine).mean() == pytest.approx(1 / 12, rel=0.1)


# ----------------------------------------------------------------------------------------------------------------------
# Product quantization
# ----------------------------------------------------------------------------------------------------------------------


def nearest(book: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, subspaces) by the nearest centroid, and what they stand for."""
    parts, _, width = book.shape
    filled = np.zeros((len(x), parts * width))
    filled[:, : x.shape[1]] = x
    split = filled.reshape(len(x), parts, 1, width)
    codes = np.stack([np.square(split[:, m] - book[m]).sum(axis=-1).argmin(axis=1) for m in range(parts)], axis=1)
    out = np.stack([book[m, codes[:, m]] for m in range(parts)], axis=1).reshape(len(x), -1)
    return codes, out[:, : x.shape[1]]


def book_of(index: nf.Flat, parts: int, bits: int) -> np.ndarray:
    return np.float64(oracle.learned(index)["codebook"]).reshape(parts, 2**bits, -1)


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize(("bits", "parts", "dim"), [(4, 8, 32), (4, 5, 33), (8, 3, 17), (4, 32, 32), (8, 1, 3)])
def test_pq_takes_the_nearest_centroids(metric, bits, parts, dim):
    x = data(1, 800, dim)
    index = nf.Flat(dim, metric, codec=nf.PQ(parts, bits))
    kept = np.float64(index.reconstruct(index.add(x)))
    coded = oracle.unit(x) if metric == "cosine" else np.float64(x)
    _, expected = nearest(book_of(index, parts, bits), coded)
    assert np.square(kept - coded).sum() == pytest.approx(np.square(expected - coded).sum(), rel=1e-5)
    assert np.isclose(kept, expected, rtol=1e-6, atol=1e-6).mean() > 0.999


@pytest.mark.parametrize("bits", [4, 8])
def test_pq_learns_by_k_means(bits):
    """Centroids are the means of what is nearest to them, and lose about as little as those of plain k-means."""
    x, parts, n = data(1, 2000, 16), 4, 2000
    index = nf.Flat(16, "l2", codec=nf.PQ(parts, bits))
    index.add(x)
    book = book_of(index, parts, bits)
    codes, kept = nearest(book, x)
    found = np.square(kept - x).sum()
    other = np.stack([x[np.random.default_rng(m).permutation(n)[: 2**bits], 4 * m : 4 * m + 4] for m in range(4)])
    other = np.float64(other)
    for _ in range(12):
        own, approximated = nearest(other, x)
        for m in range(parts):
            for c in range(2**bits):
                if (own[:, m] == c).any():
                    other[m, c] = x[own[:, m] == c, 4 * m : 4 * m + 4].mean(axis=0)
    assert found < 1.03 * np.square(approximated - x).sum()
    off = [np.linalg.norm(x[codes[:, 0] == c, :4].mean(axis=0) - book[0, c]) for c in np.unique(codes[:, 0])]
    assert np.median(off) < 0.05 * np.linalg.norm(book[0], axis=1).mean()


def test_pq_loses_less_with_more_bits_and_parts():
    x = data(1, 3000, 32)
    by_parts = [loss(nf.PQ(parts), x) for parts in (1, 2, 4, 8, 16, 32)]
    assert all(after < before for before, after in itertools.pairwise(by_parts))
    for parts in (2, 4, 8):
        assert loss(nf.PQ(parts, 8), x) < loss(nf.PQ(parts, 4), x)
        assert loss(nf.PQ(parts, 8), x) < 1.05 * loss(nf.PQ(2 * parts, 4), x)  # in as many bytes


def test_opq_loses_less():
    x = data(1, 3000, 24)
    plain, opq, random = (loss(nf.PQ(6, rotation=rotation), x) for rotation in (None, "opq", "random"))
    assert opq < 0.95 * min(plain, random)


def test_balanced_codes_are_used_more_evenly():
    x = make("norms", 1, 2000, 8)
    x = np.sign(x) * np.log1p(np.abs(x))  # much of it near to zero

    def entropy(assignment: str) -> float:
        index = nf.Flat(8, "l2", codec=nf.PQ(2, assignment=assignment))
        index.add(x)
        codes, _ = nearest(book_of(index, 2, 4), x)
        shares = np.stack([np.bincount(part, minlength=16) for part in codes.T]) / len(x)
        return float(-(shares * np.log2(np.maximum(shares, 1e-9))).sum(axis=1).mean())

    assert entropy("balanced") > entropy("nearest") + 0.05


def unlike_queries(seed: int, n: int, dim: int) -> np.ndarray:
    """Queries that look at a few directions, which say little about the documents."""
    return (data(seed, n, dim)[:, ::-1] * np.geomspace(1, 0.02, dim)).astype(np.float32)


def test_query_aware_codebooks_keep_the_queries_inner_products():
    x, queries = data(1, 3000, 24), unlike_queries(2, 2000, 24)
    errors = []
    for given in (None, queries[:1000]):
        kept = decoded(nf.PQ(6, queries=given), x, "ip")
        errors.append(np.square(queries[1000:] @ (kept - x).T).mean())
    assert errors[1] < 0.9 * errors[0]


def test_the_anisotropic_loss_keeps_the_component_along_the_vector():
    x = oracle.unit(data(1, 3000, 24)).astype(np.float32)
    along, whole = [], []
    for anisotropic in (None, 0.4, 0.7):  # weights 1, 4.4 and 22 in 24 dimensions
        rest = decoded(nf.PQ(6, anisotropic=anisotropic), x, "ip") - x
        along.append(np.square((rest * x).sum(axis=1)).mean())
        whole.append(np.square(rest).sum(axis=1).mean())
    assert along[2] < along[1] < 0.9 * along[0]
    assert whole[0] < whole[1] < whole[2]
