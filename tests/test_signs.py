"""Sign and RecurrentBinary: codes, what is learned, and scores, against their definition in NumPy."""

from __future__ import annotations

import dataclasses
import itertools
import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
import oracle
from strategies import make, seeds
from test_files import metadata_of, rewritten, to_bytes

SAMPLE = 2**14  # vectors that a codec learns from, at most

CODECS = [
    nf.Sign(),
    nf.Sign("mean"),
    nf.Sign("median"),
    nf.Sign(rotation="random", seed=3),
    nf.Sign("median", "random"),
    nf.Sign("mean", "learned"),
    nf.RecurrentBinary(bits=1),
    nf.RecurrentBinary(),
    nf.RecurrentBinary("mean", bits=3),
    nf.RecurrentBinary("median", "random", bits=4),
    nf.RecurrentBinary(rotation="learned", bits=8),
]


def planes_of(codec: nf.Sign) -> int:
    return codec.bits if isinstance(codec, nf.RecurrentBinary) else 1


def learns(codec: nf.Sign) -> bool:
    """One bit on the sides of zero is all that there is to know, otherwise."""
    return planes_of(codec) > 1 or codec.threshold != "zero" or codec.rotation is not None


LEARNING = [codec for codec in CODECS if learns(codec)]

each_metric = pytest.mark.parametrize("metric", oracle.METRICS)
each_codec = pytest.mark.parametrize("codec", CODECS, ids=str)


def data(seed: int, n: int, dim: int) -> np.ndarray:
    """Vectors whose dimensions differ in mean and spread, and depend on each other."""
    rng = np.random.default_rng(dim)
    mix = rng.normal(size=(dim, dim)) * np.linspace(2, 0.2, dim)
    return (np.random.default_rng(seed).normal(size=(n, dim)) @ mix + 0.3 * rng.normal(size=dim)).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)


class Definition:
    """What a codec does, in float64, with what an index has learned for one of its versions."""

    def __init__(self, index: nf.Flat, codec: nf.Sign, version: int = 0):
        tensors = safetensors.numpy.load(to_bytes(index))
        prefix = f"learned.{version}."
        learned = {name[len(prefix) :]: array for name, array in tensors.items() if name.startswith(prefix)}
        self.names = set(learned)
        self.codec, self.metric, self.dim, self.planes = codec, index.metric, index.dim, planes_of(codec)
        self.scales = learned.get("scale", np.ones(self.planes)).astype(np.float64)
        self.threshold = learned.get("threshold", np.zeros(self.dim)).astype(np.float64)
        self.rotation = learned.get("rotation", np.eye(self.dim)).reshape(self.dim, self.dim).astype(np.float64)

    def coded_space(self, x: np.ndarray) -> np.ndarray:
        return (unit(x) if self.metric == "cosine" else np.asarray(x, np.float64)) @ self.rotation.T

    def signs(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signs (planes, n, dim), and how far each is from the other one."""
        rest = self.coded_space(x) - self.threshold
        signs, margins = [], []
        for scale in self.scales:
            signs.append(np.where(rest > 0, 1.0, -1.0))
            margins.append(np.abs(rest))
            rest = rest - scale * signs[-1]
        # A sign that rounding turns round changes all that follow.
        return np.stack(signs), np.minimum.accumulate(np.stack(margins), axis=0)

    def decoded(self, codes: np.ndarray) -> np.ndarray:
        """What codes stand for, without the threshold: (n, dim)."""
        stride = -(-self.dim // 8)
        planes = [codes[:, t * stride : (t + 1) * stride] for t in range(self.planes)]
        signs = [np.unpackbits(plane, axis=1, count=self.dim) * 2.0 - 1 for plane in planes]
        return sum(scale * sign for scale, sign in zip(self.scales, signs, strict=True))

    def scores(self, queries: np.ndarray, codes: np.ndarray, query_codes: np.ndarray) -> np.ndarray:
        """Scores (queries, n) of the metric between decoded vectors; queries may stay floats."""
        x, q = self.decoded(codes), self.decoded(query_codes)
        if self.codec.query != "code":
            x, q = x + self.threshold, self.coded_space(queries)
        if self.codec.query.startswith("int"):
            q = rounded_to(int(self.codec.query[3:]), q)
        dots = q @ x.T
        if self.metric == "ip":
            return dots
        if self.metric == "l2":
            return np.sqrt(np.maximum(0, np.square(q).sum(axis=1)[:, None] + np.square(x).sum(axis=1) - 2 * dots))
        lengths = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1)
        return np.clip(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0), -1, 1)


def rounded_to(bits: int, q: np.ndarray) -> np.ndarray:
    """Queries rounded to 2^bits evenly spaced levels that suit a normal distribution."""
    step = {2: 0.9957, 4: 0.3352}[bits] * np.sqrt(np.square(np.float64(q)).mean(axis=1, keepdims=True))
    step, half = np.float64(np.float32(step)), 2 ** (bits - 1)
    level = np.floor(np.divide(q, step, out=np.zeros_like(q, np.float64), where=step > 0))
    signs = (np.abs(q) == np.abs(q[:, :1])).all(axis=1, keepdims=True)  # these lie on two levels already
    return np.where(signs, q, step * (np.clip(level, -half, half - 1) + 0.5))


def codes_of(codec: nf.Sign, metric: str, x: np.ndarray, index: nf.Flat) -> np.ndarray:
    """Codes of other vectors by what an index has learned, without adding them to it."""
    other = nf.load(to_bytes(index))
    return other.codes(other.add(x))


def check_hits(hits, scores: np.ndarray, ids: np.ndarray, metric: str, k: int, error: float) -> None:
    """Assert that hits are the k best up to rounding, with the right scores."""
    count = min(k, len(ids))
    assert hits.ids.shape == hits.scores.shape == (len(scores), k)
    assert hits.counts.tolist() == [count] * len(scores)
    place = {int(id): i for i, id in enumerate(ids)}
    sign = 1 if metric == "l2" else -1
    for row, found, values in zip(scores, hits.ids[:, :count], hits.scores[:, :count], strict=True):
        at = np.array([place[int(id)] for id in found], np.intp)
        assert len(set(at.tolist())) == count
        np.testing.assert_allclose(values, row[at], rtol=error, atol=error)
        keys = sign * row
        slack = 2 * error * (1 + np.abs(keys))
        assert (np.diff(sign * values) >= 0).all()
        left_out = np.setdiff1d(np.arange(len(ids)), at)
        if count:
            assert (keys[left_out] + slack[left_out] >= keys[at].max()).all()


# ----------------------------------------------------------------------------------------------------------------------
# What is learned, and codes
# ----------------------------------------------------------------------------------------------------------------------


@each_metric
@each_codec
@pytest.mark.parametrize("dim", [5, 16, 33])
def test_what_is_learned(metric, codec, dim):
    x = data(1, 801, dim)
    index = nf.Flat(dim, metric, codec=codec)
    index.add(x)
    learned = Definition(index, codec)
    threshold, rotation = codec.threshold != "zero", codec.rotation is not None
    names = {"scale": learns(codec), "threshold": threshold, "rotation": rotation}
    assert learned.names == {name for name, there in names.items() if there}
    np.testing.assert_allclose(learned.rotation @ learned.rotation.T, np.eye(dim), atol=1e-5)
    rest = learned.coded_space(x)
    magnitude = np.abs(rest).mean()
    if threshold:
        center = {"mean": np.mean, "median": np.median}[codec.threshold](rest, axis=0)
        np.testing.assert_allclose(learned.threshold, center, rtol=0, atol=1e-6 * magnitude)
    if learns(codec):
        rest = rest - learned.threshold
        for scale in learned.scales:
            np.testing.assert_allclose(scale, np.abs(rest).mean(), rtol=1e-5)
            rest = rest - scale * np.where(rest > 0, 1, -1)


@each_metric
@each_codec
@pytest.mark.parametrize("dim", [1, 7, 8, 9, 40])
def test_codes_are_those_of_the_definition(metric, codec, dim):
    x, later = data(1, 300, dim), data(2, 200, dim)
    index = nf.Flat(dim, metric, codec=codec)
    index.add(x)
    index.add(later)  # by what was learned from the first
    learned = Definition(index, codec)
    signs, margins = learned.signs(np.concatenate([x, later]))
    codes = index.codes(index.ids())
    stride = -(-dim // 8)
    assert codes.shape[0] == 500
    assert codes.shape[1] >= planes_of(codec) * stride
    for t in range(planes_of(codec)):
        plane = codes[:, t * stride : (t + 1) * stride]
        found = np.unpackbits(plane, axis=1, count=dim) * 2.0 - 1
        sure = margins[t] > 1e-5 * learned.scales[0]
        assert sure.mean() > 0.99 or dim < 8
        np.testing.assert_array_equal(found[sure], signs[t][sure])
        assert not np.unpackbits(plane, axis=1)[:, dim:].any(), "padding is clear"


@each_metric
def test_codes_of_sign_are_packbits(metric):
    for character in ("normal", "ties", "zeros among", "norms", "huge", "subnormal", "far from origin"):
        x = make(character, 1, 60, 19)
        index = nf.Flat(19, metric, codec="sign")
        index.add(x)
        np.testing.assert_array_equal(index.codes(index.ids()), np.packbits(x > 0, axis=1))
        np.testing.assert_array_equal(index.reconstruct(index.ids()), np.where(x > 0, 1, -1))


@each_metric
@each_codec
def test_reconstruct_decodes(metric, codec):
    x = data(1, 300, 24)
    index = nf.Flat(24, metric, codec=codec)
    index.add(x)
    learned = Definition(index, codec)
    decoded = (learned.decoded(index.codes(index.ids())) + learned.threshold) @ learned.rotation
    kept = index.reconstruct(index.ids())
    assert kept.dtype == np.float32
    np.testing.assert_allclose(kept, decoded, rtol=1e-5, atol=1e-5 * np.abs(decoded).max())


def test_more_bits_come_closer():
    x = data(1, 2000, 32)
    errors = []
    for bits in range(1, 9):
        index = nf.Flat(32, "l2", codec=nf.RecurrentBinary("mean", bits=bits))
        index.add(x)
        errors.append(np.square(index.reconstruct(index.ids()) - x).mean())
    assert all(next < before for before, next in itertools.pairwise(errors))
    assert errors[3] < errors[0] / 3


def test_the_learned_rotation_brings_vectors_closer_to_their_signs():
    x = data(1, 3000, 32)
    losses = {}
    for rotation in (None, "random", "learned"):
        index = nf.Flat(32, "cosine", codec=nf.Sign("mean", rotation))
        index.add(x)
        learned = Definition(index, nf.Sign("mean", rotation))
        rest = learned.coded_space(x) - learned.threshold
        signs = np.where(rest > 0, 1, -1)
        losses[rotation] = 1 - np.abs((signs * rest).sum() / np.linalg.norm(signs) / np.linalg.norm(rest))
    assert losses["learned"] < 0.9 * min(losses["random"], losses[None])


@pytest.mark.parametrize("n", [SAMPLE - 1, SAMPLE, SAMPLE + 1, 3 * SAMPLE + 5])
def test_learning_takes_an_even_sample_of_many(n):
    x = (
        np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
        + np.linspace(0, 3, n, dtype=np.float32)[:, None]
    )
    index = nf.Flat(3, "l2", codec=nf.Sign("mean"))
    index.add(x)
    sample = np.float64(x[:: -(-n // SAMPLE)])
    assert len(sample) <= SAMPLE
    np.testing.assert_allclose(Definition(index, nf.Sign("mean")).threshold, sample.mean(axis=0), rtol=1e-6)


@each_metric
@each_codec
def test_one_vector_dimensions_without_spread_and_zeros(metric, codec):
    """Nothing can be learned from them, but every answer is a number."""
    for x in (np.zeros((4, 6)), np.ones((1, 6)), np.eye(6)[:1], np.repeat(data(1, 1, 6), 9, axis=0)):
        for query in ("code", "int2", "int4", "float"):
            index = nf.Flat(6, metric, codec=dataclasses.replace(codec, query=query))
            index.add(x)
            queries = np.concatenate([x[:1], np.zeros((1, 6)), data(2, 3, 6)])
            hits = index.search(queries, 10)
            assert hits.counts.tolist() == [len(x)] * 5
            assert np.isfinite(hits.scores[:, : len(x)]).all()
            assert hits.ids[:, : len(x)].tolist() == [list(range(len(x)))] * 5  # all are equal
            assert np.isfinite(index.reconstruct(index.ids())).all()
            reach = index.range_search(queries, oracle.everything(metric))
            assert reach.offsets.tolist() == [i * len(x) for i in range(6)]
            assert to_bytes(nf.load(to_bytes(index))) == to_bytes(index)


@each_metric
def test_equal_scores_come_by_lower_id_also_where_nothing_was_learned(metric):
    """All of the sample is equal, so the scale is 0 and so is everything that codes stand for."""
    for codec in (nf.Sign("mean"), nf.RecurrentBinary("mean")):
        index = nf.Flat(4, metric, codec=codec)
        index.train(np.ones((5, 4)))
        ids = np.array([8, 3, 11, 5])
        index.add([[5, 5, 5, 5], [0, 0, 0, 0], [5, 0, 5, 0], [0, 0, 0, 9]], ids)
        for query in ([5, 5, 5, 5], [0, 0, 0, 0], [0, 0, 0, 1]):
            for k in (1, 2, 4):
                hits = index.search(query, k)
                scores = index.score(query, ids)[0]
                order = np.lexsort((ids, scores if metric == "l2" else -scores))[:k]
                assert hits.ids.tolist() == [ids[order].tolist()]


# ----------------------------------------------------------------------------------------------------------------------
# Scores
# ----------------------------------------------------------------------------------------------------------------------


def check_scores(metric: str, codec: nf.Sign, dim: int) -> None:
    x, queries = data(1, 700, dim), data(2, 33, dim)
    ids = np.random.default_rng(0).permutation(2000)[:700]
    index = nf.Flat(dim, metric, codec=codec)
    index.add(x, ids)
    learned = Definition(index, codec)
    scores = learned.scores(queries, index.codes(ids), codes_of(codec, metric, queries, index))
    error = 1e-5 * (1 if metric == "cosine" else max(1.0, np.abs(scores).max()))
    if codec.query.startswith("int"):  # where the rounding of a number is a toss-up, NumPy may decide otherwise
        rows = np.isclose(index.score(queries, ids), scores, rtol=0, atol=error).all(axis=1)
        assert rows.mean() > 0.8
        queries, scores = queries[rows], scores[rows]
    np.testing.assert_allclose(index.score(queries, ids), scores, rtol=1e-5, atol=error)
    for size in (1, 2, 3, 4, 5, len(queries)):
        for k in (1, 10, 703):
            check_hits(index.search(queries[:size], k), scores[:size], ids, metric, k, error)
    radius = float(np.float32(np.quantile(scores[0], 0.3)))
    own = index.score(queries, ids)
    for i, hits in enumerate(index.range_search(queries[i], radius) for i in range(len(queries))):
        assert sorted(hits.ids.tolist()) == sorted(ids[oracle.inside(own[i], radius, metric)].tolist())


@each_metric
@each_codec
@pytest.mark.parametrize("query", ["code", "int2", "int4", "float"])
@pytest.mark.parametrize("dim", [1, 9, 40])
def test_scores_are_those_between_decoded_vectors(metric, codec, query, dim):
    check_scores(metric, dataclasses.replace(codec, query=query), dim)


@each_metric
@pytest.mark.parametrize("query", ["code", "int2", "int4", "float"])
@pytest.mark.parametrize("dim", [64, 100, 300])
def test_scores_of_longer_vectors(metric, query, dim):
    for codec in (nf.Sign("median", "random", query), nf.RecurrentBinary("mean", query=query, bits=4)):
        check_scores(metric, codec, dim)


@each_metric
@pytest.mark.parametrize("codec", [codec for codec in CODECS if planes_of(codec) == 1], ids=str)
@pytest.mark.parametrize("dim", [8, 33])
def test_symmetric_distances_of_signs_are_hamming(metric, codec, dim):
    """Searching codes by Sign is searching its bits, to the order of ties."""
    codec = dataclasses.replace(codec, query="code")
    x, queries = data(1, 2500, dim), data(2, 9, dim)
    index = nf.Flat(dim, metric, codec=codec)
    ids = index.add(x)
    bits = nf.Flat(dim, "hamming")
    bits.add(index.codes(ids))
    query_codes = codes_of(codec, metric, queries, index)
    differ = bits.score(query_codes, ids).astype(np.float64)
    squared = Definition(index, codec).scales[0] ** 2
    scores = {
        "cosine": 1 - 2 * differ / dim,
        "ip": squared * (dim - 2 * differ),
        "l2": np.sqrt(4 * squared * differ),
    }[metric]
    np.testing.assert_allclose(index.score(queries, ids), scores, rtol=1e-6, atol=1e-6)
    for size in (1, 3, 9):
        for k in (1, 10, 400, 2500):
            for threads in (1, 2):
                found = index.search(queries[:size], k, threads=threads)
                np.testing.assert_array_equal(found.ids, bits.search(query_codes[:size], k).ids)
    if codec == nf.Sign(query="code"):  # which also takes bits that were made elsewhere
        np.testing.assert_array_equal(index.search(query_codes, 10).ids, index.search(queries, 10).ids)


@each_metric
@given(data=st.data(), seed=seeds)
def test_any_vectors(metric, data, seed):
    """Wild data: results agree with scores, whatever the batch, and scores are numbers."""
    characters = ["normal", "ties", "duplicates", "zeros among", "parallel", "norms", "outlier dimension", "identical"]
    character, dim = data.draw(st.sampled_from(characters)), data.draw(st.integers(1, 70))
    codec = dataclasses.replace(
        data.draw(st.sampled_from(CODECS)), query=data.draw(st.sampled_from(["code", "int2", "int4", "float"]))
    )
    n, k = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 200))
    x, queries = make(character, seed, n, dim), make(character, seed + 1, 9, dim)
    ids = np.random.default_rng(seed).permutation(3 * n)[:n]
    index = nf.Flat(dim, metric, codec=codec)
    index.add(x, ids)
    hits = index.search(queries, k)
    own = index.score(queries, ids)
    assert np.isfinite(own).all()
    count = min(k, n)
    np.testing.assert_array_equal(index.score(queries, hits.ids), hits.scores)
    keys = own if metric == "l2" else -own
    np.testing.assert_array_equal(np.abs(np.sort(keys, axis=1)[:, :count]), np.abs(hits.scores[:, :count]))
    for size in (1, 2, 4):
        for first in range(0, 9, size):
            part = index.search(queries[first : first + size], k, threads=1 + first % 2)
            np.testing.assert_array_equal(part.ids, hits.ids[first : first + size])
            np.testing.assert_array_equal(part.scores, hits.scores[first : first + size])


@each_metric
def test_vectors_that_are_signs_already(metric):
    """Packed bits made by quantize_embeddings are the codes of the vectors that they were made of."""
    x, queries = data(1, 200, 100), data(2, 5, 100)
    ubinary, binary = nf.quantize_embeddings(x, "ubinary"), nf.quantize_embeddings(x, "binary")
    for query in ("code", "int2", "int4", "float"):
        floats, packed, signed = (nf.Flat(100, metric, codec=nf.Sign(query=query)) for _ in range(3))
        floats.add(x)
        packed.add(ubinary)
        signed.add(binary)
        assert to_bytes(floats) == to_bytes(packed) == to_bytes(signed)
        np.testing.assert_array_equal(packed.search(queries, 9).ids, floats.search(queries, 9).ids)
        signs = np.where(x[:5] > 0, 1, -1)
        np.testing.assert_allclose(packed.search(ubinary[:5], 9).scores, packed.search(signs, 9).scores, rtol=1e-6)
        packed.update([3, 4], ubinary[:2])
        np.testing.assert_array_equal(packed.codes([3, 4]), ubinary[:2])


@pytest.mark.parametrize(
    ("codec", "reached"),
    [
        (nf.Sign(), 0.97),
        (nf.Sign(query="code"), 0.96),
        (nf.Sign(query="float"), 0.98),
        (nf.Sign("median", query="code"), 0.95),
        (nf.Sign(rotation="random"), 0.95),
        (nf.RecurrentBinary(), 0.98),
        (nf.RecurrentBinary(bits=4), 0.99),
    ],
    ids=str,
)
def test_recall_after_reranking(codec, reached):
    sample = nf.datasets.stdlib()
    x, queries = np.float32(sample.vectors), np.float32(sample.question_vectors)
    dim = x.shape[1]
    exact = nf.Flat(dim)
    exact.add(x)
    truth = exact.search(queries, 10).ids
    index = nf.Flat(dim, codec=codec, rerank="f16", oversample=10)
    index.add(x)
    hits = index.search(queries, 10)
    recall = np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(hits.ids, truth, strict=True)])
    assert recall >= reached
    np.testing.assert_array_equal(index.score(queries, hits.ids), hits.scores)  # those of the finer copy
    np.testing.assert_array_equal(index.reconstruct([5]), x[5:6].astype(np.float16).astype(np.float32))
    whole = index.search(queries, 10, exact=True)
    assert np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(whole.ids, truth, strict=True)]) > 0.995
    plain = nf.Flat(dim, codec=codec)
    plain.add(x)
    coarse = plain.search(queries, 10)
    assert np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(coarse.ids, truth, strict=True)]) < recall


# ----------------------------------------------------------------------------------------------------------------------
# The same file each time
# ----------------------------------------------------------------------------------------------------------------------


@each_metric
@each_codec
def test_the_same_data_and_seed_give_the_same_file(metric, codec):
    x = data(1, 3000, 20)
    files = []
    for threads in (1, 2, 3):
        index = nf.Flat(20, metric, codec=codec, rerank="f16")
        index.add(x, threads=threads)
        files.append(to_bytes(index))
    trained = nf.Flat(20, metric, codec=codec, rerank="f16")
    if learns(codec):
        trained.train(x)
    for first in range(0, 3000, 700):
        trained.add(x[first : first + 700])
    assert files[0] == files[1] == files[2] == to_bytes(trained)
    if codec.rotation is not None:
        other = nf.Flat(20, metric, codec=dataclasses.replace(codec, seed=codec.seed + 1), rerank="f16")
        other.add(x)
        assert Definition(other, codec).rotation.tolist() != Definition(index, codec).rotation.tolist()


BUILD = """
    import hashlib
    import numpy as np
    import nearfield as nf
    x = np.random.default_rng(0).normal(size=(2000, 150)).astype(np.float32)
    index = nf.Flat(150, codec=nf.RecurrentBinary("median", "learned"))
    index.add(x)
    print(hashlib.sha256(index.__getstate__()).hexdigest())
"""


def test_learning_does_not_depend_on_the_threads_of_blas(python):
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    files = {python(BUILD, env=dict.fromkeys(names, threads)).stdout for threads in ("1", "2")}
    assert len(files) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", LEARNING, ids=str)
def test_train_decides_what_is_learned(codec):
    sample, x = data(1, 400, 12), data(2, 100, 12)
    trained, taught = nf.Flat(12, "ip", codec=codec), nf.Flat(12, "ip", codec=codec)
    trained.train(sample)
    assert len(trained) == 0
    assert trained.search(x, 3).counts.tolist() == [0] * 100
    trained = nf.load(to_bytes(trained))  # a trained index without vectors comes back
    trained.add(x)
    taught.add(sample)
    taught.add(x)
    np.testing.assert_array_equal(trained.codes(trained.ids()), taught.codes(np.arange(400, 500)))
    other = nf.Flat(12, "ip", codec=codec)
    other.add(x)
    learned = [Definition(index, codec) for index in (trained, taught, other)]
    assert learned[0].scales.tolist() == learned[1].scales.tolist() != learned[2].scales.tolist()


def with_nan(x: np.ndarray, row: int) -> np.ndarray:
    x = x.copy()
    x[row, 2] = np.nan
    return x


@pytest.mark.parametrize("codec", LEARNING, ids=str)
def test_what_cannot_be_learned_from(codec):
    x = data(1, 400, 12)
    index = nf.Flat(12, codec=codec)
    before = to_bytes(index)
    for value, error, message in [
        (with_nan(x, 7), ValueError, "vectors.*row 7.*NaN"),
        (with_nan(x, 399), ValueError, "vectors.*row 399.*NaN"),
        (with_nan(np.repeat(x, 60, axis=0), 16001), ValueError, "vectors.*row 16001.*NaN"),  # also outside the sample
        (x * np.float32(np.inf), ValueError, "vectors.*row 0.*column 0"),
        (x[:, :11], ValueError, "vectors.*11.*12"),
        (x[:0], ValueError, "vectors.*none"),
        ([], ValueError, "vectors"),
        (np.zeros((3, 2), np.uint8), ValueError, "vectors"),
        ([["a"] * 12], TypeError, "vectors"),
        (None, TypeError, "vectors"),
    ]:
        with pytest.raises(error, match=f"(?s){message}"):
            index.train(value)
        assert to_bytes(index) == before
        assert index.versions == {}
    index.train(x)
    assert index.versions == {"": 0}
    fresh = nf.Flat(12, codec=codec)
    fresh.train(x)
    assert to_bytes(index) == to_bytes(fresh)  # the failures left nothing behind


@pytest.mark.parametrize("codec", LEARNING, ids=str)
def test_a_codec_learns_once(codec):
    x = data(1, 100, 12)
    trained, taught = nf.Flat(12, codec=codec), nf.Flat(12, codec=codec)
    trained.train(x)
    taught.add(x)
    for index in (trained, taught, nf.load(to_bytes(trained)), nf.load(to_bytes(taught))):
        before = to_bytes(index)
        with pytest.raises(ValueError, match=r"version.*trained already"):
            index.train(data(2, 100, 12))
        assert to_bytes(index) == before
    taught.remove(taught.ids())
    with pytest.raises(ValueError, match="trained already"):
        taught.train(data(2, 100, 12))


@pytest.mark.parametrize("codec", ["f32", "int8", "sign", nf.Sign(query="float")], ids=str)
def test_some_codecs_have_nothing_to_learn(codec):
    index = nf.Flat(12, codec=codec)
    before = to_bytes(index)
    with pytest.raises(ValueError, match=r"nothing to learn"):
        index.train(data(1, 100, 12))
    assert to_bytes(index) == before


@pytest.mark.parametrize("codec", LEARNING, ids=str)
def test_an_add_that_fails_after_learning_leaves_the_codec_untrained(codec):
    x = data(1, 5000, 12)
    huge = x.copy()
    huge[4500] = 1e30  # which f16 cannot hold

    index = nf.Flat(12, codec=codec, rerank="f16")
    before = to_bytes(index)
    for call, error in [
        (lambda: index.add(with_nan(x, 4999)), ValueError),
        (lambda: index.add(huge), ValueError),
        (lambda: index.add(x, np.zeros(5000, int)), ValueError),
        (lambda: index.add(x, np.arange(10)), ValueError),
        (lambda: index.add(x, -np.arange(5000)), ValueError),
    ]:
        with pytest.raises(error):
            call()
        assert to_bytes(index) == before
        assert index.versions == {}
        assert len(index) == 0
    index.train(x[:100])  # it can still learn, and from something else
    index.add(x)
    fresh = nf.Flat(12, codec=codec, rerank="f16")
    fresh.train(x[:100])
    fresh.add(x)
    assert to_bytes(index) == to_bytes(fresh)
    with pytest.raises(KeyError):
        index.add(x[:2], [5000, 3])
    with pytest.raises(ValueError, match="row 1"):
        index.update([3, 4], with_nan(x[:2], 1))
    assert to_bytes(index) == to_bytes(fresh)


class StopError(Exception):
    """What the progress function below raises."""


@pytest.mark.parametrize("codec", [nf.Sign("mean"), nf.RecurrentBinary("mean", "random")], ids=str)
def test_an_add_that_is_stopped_leaves_the_codec_untrained(codec):
    def stop(share):
        raise StopError

    n, stopped = 100_000, False
    while not stopped:  # an add that is over soon reports nothing
        n *= 2
        index = nf.Flat(12, codec=codec)
        before = to_bytes(index)
        try:
            index.add(np.broadcast_to(data(1, 1, 12), (n, 12)), progress=stop)
        except StopError:
            stopped = True
    assert to_bytes(index) == before
    assert index.versions == {}
    index.train(data(2, 100, 12))


@pytest.mark.parametrize("codec", LEARNING, ids=str)
def test_updates_are_coded_by_what_was_learned(codec):
    x, other = data(1, 300, 12), 5 + 10 * data(2, 300, 12)
    index, expected = nf.Flat(12, "l2", codec=codec), nf.Flat(12, "l2", codec=codec)
    index.add(x)
    index.update(np.arange(100), other[:100])
    expected.train(x)
    codes = expected.codes(expected.add(other[:100]))
    np.testing.assert_array_equal(index.codes(np.arange(100)), codes)
    assert Definition(index, codec).threshold.tolist() == Definition(expected, codec).threshold.tolist()


# ----------------------------------------------------------------------------------------------------------------------
# Parameters
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_codec", "error", "message"),
    [
        (lambda: nf.Sign("max"), ValueError, "threshold.*max.*zero.*mean.*median"),
        (lambda: nf.Sign(rotation="itq"), ValueError, "rotation.*itq.*random.*learned"),
        (lambda: nf.Sign(query="int8"), ValueError, "query.*int8.*code.*float"),
        (lambda: nf.Sign(3), TypeError, "threshold.*3"),
        (lambda: nf.Sign(query=None), TypeError, "query.*None"),
        (lambda: nf.Sign(rotation=1), TypeError, "rotation.*1"),
        (lambda: nf.Sign(seed=-1), ValueError, "seed.*-1"),
        (lambda: nf.Sign(seed=1.5), TypeError, "seed.*1.5"),
        (lambda: nf.Sign(seed=2**32), ValueError, f"seed.*{2**32}"),
        (lambda: nf.RecurrentBinary(bits=0), ValueError, "bits.*0.*1 to 8"),
        (lambda: nf.RecurrentBinary(bits=9), ValueError, "bits.*9.*1 to 8"),
        (lambda: nf.RecurrentBinary(bits="2"), TypeError, "bits.*'2'"),
        (lambda: nf.Sign(bits=2), TypeError, "bits"),
    ],
)
def test_bad_parameters(make_codec, error, message):
    with pytest.raises(error, match=message):
        nf.Flat(4, codec=make_codec())


def test_codecs_that_do_not_go_with_the_rest():
    for metric in oracle.BIT_METRICS:
        for codec in ("sign", "recurrent_binary", nf.Sign(), nf.RecurrentBinary()):
            with pytest.raises(ValueError, match=f"codec.*{metric}"):
                nf.Flat(8, metric, codec=codec)
            with pytest.raises(ValueError, match="rerank"):
                nf.Flat(8, metric, rerank=codec)
    with pytest.raises(ValueError, match=r"dim.*65536"):
        nf.Flat(65536, codec="sign")


def test_packed_bits_that_a_codec_does_not_take():
    """Codes of several bits or of rotated vectors cannot be made of signs; neither can a finer copy."""
    packed = np.zeros((3, 2), np.uint8)
    for index in (
        nf.Flat(16, codec=nf.RecurrentBinary()),
        nf.Flat(16, codec=nf.Sign(rotation="random")),
        nf.Flat(16, codec=nf.Sign("mean")),
        nf.Flat(16, codec="sign", rerank="f16"),
    ):
        before = to_bytes(index)
        with pytest.raises(ValueError, match=r"vectors.*packed bits"):
            index.add(packed)
        assert to_bytes(index) == before
        assert index.versions == {}
    x = data(1, 2000, 16)
    for index in (
        nf.Flat(16, codec=nf.RecurrentBinary()),
        nf.Flat(16, codec=nf.Sign("mean", "random")),
        nf.Flat(16, codec="sign", rerank="f16"),
    ):
        index.add(x)
        before = to_bytes(index)
        for name, call in [
            ("vectors", lambda index=index: index.add(packed)),
            ("vectors", lambda index=index: index.update([1, 2, 3], packed)),
            ("queries", lambda index=index: index.search(packed)),
            ("queries", lambda index=index: index.search(packed, exact=True)),
            ("queries", lambda index=index: index.search(packed, filter=[1])),
            ("queries", lambda index=index: index.range_search(packed, 0.5)),
            ("queries", lambda index=index: index.score(packed, [1])),
        ]:
            with pytest.raises(ValueError, match=rf"{name}.*packed bits"):
                call()
        assert to_bytes(index) == before
    sign = nf.Flat(16, codec="sign")
    for wrong in (np.zeros((3, 3), np.uint8), np.zeros((3, 1), np.int8)):
        with pytest.raises(ValueError, match=rf"vectors.*{wrong.shape[1]}.*16"):
            sign.add(wrong)


def test_codecs_say_what_they_are():
    for codec, said in [
        ("sign", "sign"),
        (nf.Sign(), "sign"),
        ("recurrent_binary", "recurrent_binary"),
        (nf.RecurrentBinary(), "recurrent_binary"),
        (nf.Sign(query="float"), nf.Sign(query="float")),
        (nf.RecurrentBinary(bits=3, seed=2), nf.RecurrentBinary(bits=3, seed=2)),
        (nf.Sign("mean", "random"), nf.Sign("mean", "random")),
    ]:
        index = nf.Flat(8, codec=codec, rerank="f16", oversample=7)
        for each in (index, nf.load(to_bytes(index))):
            assert each.codec == said
            assert (each.rerank, each.oversample, each.screen) == ("f16", 7, False)
            assert str(said) in repr(each)
    assert nf.Sign() == nf.Sign("zero")
    assert nf.Sign() != nf.RecurrentBinary(bits=1)
    assert len({nf.Sign(), nf.Sign(), nf.Sign("mean")}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        nf.Sign().seed = 3


def test_memory_is_a_bit_for_each_dimension():
    x = data(1, 1000, 256)
    sign, two = nf.Flat(256, codec="sign"), nf.Flat(256, codec="recurrent_binary")
    sign.add(x)
    two.add(x)
    assert sign.nbytes == 1000 * 32
    assert 1000 * 64 <= two.nbytes <= 1000 * 68 + 1024


# ----------------------------------------------------------------------------------------------------------------------
# Files
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned_file() -> bytes:
    index = nf.Flat(9, "l2", codec=nf.RecurrentBinary("mean", "random", query="float", bits=3))
    index.add(data(1, 50, 9))
    return to_bytes(index)


LEARNED = ["learned.0.scale", "learned.0.threshold", "learned.0.rotation"]


@pytest.mark.parametrize("name", LEARNED)
def test_learned_arrays_that_do_not_fit_are_refused(learned_file, name, tmp_path):
    def shorten(tensors):
        tensors[name] = tensors[name][:-1].copy()

    def lengthen(tensors):
        tensors[name] = np.concatenate([tensors[name], tensors[name][:1]])

    def empty(tensors):
        tensors[name] = tensors[name][:0].copy()

    def retype(tensors):
        tensors[name] = tensors[name].astype(np.float64)

    def reread(tensors):
        tensors[name] = tensors[name].view(np.int32)

    def poison(tensors):
        tensors[name][-1] = np.nan

    def overflow(tensors):
        tensors[name][0] = np.inf

    def drop(tensors):
        del tensors[name]

    assert len(nf.load(rewritten(learned_file, lambda tensors: None))) == 50
    for change in (shorten, lengthen, empty, retype, reread, poison, overflow, drop):
        damaged = rewritten(learned_file, change)
        (tmp_path / "index").write_bytes(damaged)
        for load in (
            lambda damaged=damaged: nf.load(damaged),
            lambda: nf.load(tmp_path / "index", mmap=True),
            lambda: nf.load(tmp_path / "index", mmap="rerank"),
        ):
            with pytest.raises(nf.FileFormatError, match=name.rpartition(".")[2]):
                load()


@pytest.mark.parametrize(
    "changes",
    [
        {"codec.threshold": "max"},
        {"codec.threshold": "zero"},
        {"codec.rotation": "none"},
        {"codec.bits": "2"},
        {"codec.bits": "9"},
        {"codec.bits": "three"},
        {"codec.depth": "3"},
        {"codec": "sign"},
        {"codec": "bits"},
        {"metric": "hamming"},
        {"dim": "8"},
        {"rows": "49"},
        {"versions": "0"},
        {"versions": "2"},
        {"versions": "x"},
        {"versions": "18446744073709551615"},
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_is_refused(learned_file, changes):
    with pytest.raises(nf.FileFormatError):
        nf.load(rewritten(learned_file, **changes))


def test_a_flipped_bit_of_what_was_learned_is_found(learned_file, tmp_path):
    (length,) = struct.unpack_from("<Q", learned_file)
    entries = json.loads(learned_file[8 : 8 + length])
    for name in LEARNED:
        at = 8 + length + entries[name]["data_offsets"][0]
        damaged = learned_file[:at] + bytes([learned_file[at] ^ 1]) + learned_file[at + 1 :]
        (tmp_path / "index").write_bytes(damaged)
        with pytest.raises(nf.FileFormatError, match=name):
            nf.load(damaged)
        with pytest.raises(nf.FileFormatError, match=name):
            nf.load(tmp_path / "index", mmap=True)


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
    q = np.random.default_rng(0).normal(size=(5, index.dim))
    for use in (
        lambda: index.search(q[:1], 5), lambda: index.search(q, 5), lambda: index.search(q, 50, filter=[0, 5, 10]),
        lambda: index.range_search(q, 1.0), lambda: index.score(q, [0, 5]), lambda: index.reconstruct([10]),
        lambda: index.codes([10]), lambda: index.search(q, 5, version="b"), lambda: index.remove([5]),
        lambda: index.update([10], q[:1]), lambda: index.add(q), lambda: index.add(q, version="c"),
        lambda: index.search(q, 5), lambda: nf.load(index.__getstate__()), lambda: index.versions,
    ):
        try:
            use()
        except (KeyError, ValueError):
            pass
print(opened)
"""


def test_arrays_that_lie_crash_nothing(tmp_path, python):
    """No checksum helps against a stranger: whatever numbers are in the arrays, nothing outside of them is touched."""
    rng = np.random.default_rng(6)
    paths = []
    for codec in (nf.RecurrentBinary("mean", "random", bits=3), nf.RecurrentBinary(query="float"), nf.Sign("median")):
        index = nf.Flat(9, "l2", codec=codec)
        index.add(data(1, 40, 9), version="a")
        index.add(data(2, 40, 9), version="b")
        whole = to_bytes(index)
        for name in safetensors.numpy.load(whole):
            for number in range(3):

                def change(tensors, name=name, number=number):
                    raw = tensors[name].view(np.uint8)
                    raw[...] = [0, 255, rng.integers(0, 256, raw.shape)][number]

                paths.append(tmp_path / f"{len(paths)}")
                paths[-1].write_bytes(rewritten(whole, change))
    assert int(python(USE, *paths).stdout) > len(paths) // 4


def test_files_of_sign_describe_themselves():
    index = nf.Flat(20, "ip", codec=nf.Sign("mean", "random", "float", 5))
    index.add(data(1, 30, 20))
    entries = metadata_of(to_bytes(index))
    assert entries["codec"] == "sign"
    for name, value in [("threshold", "mean"), ("rotation", "random"), ("query", "float"), ("seed", "5")]:
        assert entries[f"codec.{name}"] == value
