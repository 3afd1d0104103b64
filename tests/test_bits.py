"""Packed bits under hamming and jaccard: NumPy's answers, bit for bit, at any length; and what are no packed bits."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
import oracle
from nearfield import kernels
from strategies import seeds
from test_files import metadata_of, rewritten, to_bytes

DIMS = [1, 7, 8, 9, 63, 64, 65, 100, 127, 128, 129, 256, 384, 1000, 2048, 10_000, 100_000]
MOST_BITS = 2**20

each_metric = pytest.mark.parametrize("metric", oracle.BIT_METRICS)
each_dim = pytest.mark.parametrize("dim", DIMS)


def width(dim: int) -> int:
    return -(-dim // 8)


def random_bits(rng, n, dim):
    return rng.random((n, dim)) < 0.5


def _near(rng, n, dim):
    """Few distances, and many rows at each."""
    return random_bits(rng, 1, dim) ^ (rng.random((n, dim)) < 3 / dim)


def _fingerprints(rng, n, dim):
    """Ones are rare, more so in some rows; a few rows have none."""
    return rng.random((n, dim)) < 0.1 * rng.random((n, 1)) * (rng.random((n, 1)) < 0.9)


def _opposites(rng, n, dim):
    """The largest distances that there are, beside the smallest."""
    return random_bits(rng, 1, dim) ^ (rng.random((n, 1)) < 0.5)


def _duplicates(rng, n, dim):
    return random_bits(rng, max(n // 10, 1), dim)[rng.integers(0, max(n // 10, 1), n)]


CHARACTERS = {
    "random": random_bits,
    "near": _near,
    "fingerprints": _fingerprints,
    "opposites": _opposites,
    "duplicates": _duplicates,
}


def with_padding(bits: np.ndarray) -> np.ndarray:
    """Packed bits whose padding is all ones, which must not count."""
    packed = np.packbits(bits, axis=1)
    if bits.shape[1] % 8:
        packed[:, -1] |= 0xFF >> bits.shape[1] % 8
    return packed


def all_keys(queries: np.ndarray, bits: np.ndarray, metric: str) -> np.ndarray:
    return np.stack([oracle.bit_keys(query, np.packbits(bits, axis=1), metric) for query in queries])


def check(hits, keys: np.ndarray, ids: np.ndarray, metric: str, k: int) -> None:
    """Assert that hits are the k best, ties by lower id, with exactly these scores."""
    count = min(k, keys.shape[1])
    assert hits.ids.shape == hits.scores.shape == (len(keys), k)
    assert (hits.ids.dtype, hits.scores.dtype) == (np.int64, np.float32)
    assert hits.counts.tolist() == [count] * len(keys)
    assert (hits.ids[:, count:] == -1).all()
    assert np.isnan(hits.scores[:, count:]).all()
    order = np.stack([np.lexsort((ids, row))[:count] for row in keys])
    np.testing.assert_array_equal(hits.ids[:, :count], ids[order])
    scores = oracle.scores_of(np.take_along_axis(keys, order, axis=1), metric)
    np.testing.assert_array_equal(hits.scores[:, :count], scores)


def built(metric, bits, ids=None, **options) -> nf.Flat:
    index = nf.Flat(bits.shape[1], metric, **options)
    index.add(with_padding(bits), ids)
    return index


# ----------------------------------------------------------------------------------------------------------------------
# Searching
# ----------------------------------------------------------------------------------------------------------------------


@each_metric
@each_dim
@pytest.mark.parametrize("character", CHARACTERS)
def test_search_is_that_of_numpy(metric, dim, character):
    rng = np.random.default_rng(dim)
    n = 300 if dim <= 2048 else 70
    bits = CHARACTERS[character](rng, n + 20, dim)
    queries = np.concatenate([bits[n:], bits[:9], ~bits[:2], np.zeros((1, dim), bool), np.ones((1, dim), bool)])
    bits = bits[:n]
    keys = all_keys(queries, bits, metric)
    for ids in (np.arange(n), rng.permutation(3 * n)[:n]):
        index = built(metric, bits, ids if ids[0] or ids[1] != 1 else None)
        for size in (1, 2, 3, 4, 5, 33):
            at = slice(0, size) if size == 33 else slice(int(rng.integers(33 - size)), None)
            asked, expected = queries[at][:size], keys[at][:size]
            for k in (0, 1, 10, n, n + 5):
                check(index.search(with_padding(asked), k), expected, ids, metric, k)


@each_metric
@pytest.mark.parametrize("dim", [1, 64, 100, 1000])
@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 255, 256, 257, 2000])
def test_equal_rows_and_equal_distances_come_by_lower_id(metric, dim, n):
    rng = np.random.default_rng(n)
    row = random_bits(rng, 1, dim)
    equal = np.repeat(row, n, axis=0)
    alike = np.zeros((n, dim), bool)  # one bit each, so that all are as far from nothing and from everything
    alike[np.arange(n), rng.integers(0, dim, n)] = True
    nothing = np.zeros((1, dim), bool)
    for bits, query in [(equal, row), (equal, ~row), (alike, nothing), (alike, ~nothing)]:
        for ids in (np.arange(n), rng.permutation(n), rng.permutation(10 * n)[:n]):
            index = built(metric, bits, ids)
            for size in (1, 4, 33):
                for k in (1, 10, n - 1, n, n + 5):
                    hits = index.search(np.repeat(query, size, axis=0), k)
                    count = min(k, n)
                    assert (hits.ids[:, :count] == np.sort(ids)[:count]).all()
                    assert len(np.unique(hits.scores[:, :count])) <= 1


@each_metric
@pytest.mark.parametrize("dim", [24, 64, 300])
def test_many_rows_on_any_number_of_threads(metric, dim):
    """Rows are shared out between threads, and so many of them are equally good that the lower ids decide."""
    rng = np.random.default_rng(dim)
    n = 70_000
    bits, queries = random_bits(rng, n, dim), random_bits(rng, 33, dim)
    keys = all_keys(queries, bits, metric)
    for ids in (np.arange(n), rng.permutation(n)):
        index = built(metric, bits, ids)
        for size, k in [(1, 1), (1, 10), (1, 1000), (1, 40_000), (2, 1000), (3, 10), (4, 5000), (33, 10), (33, 300)]:
            for threads in (1, 2, 5):
                hits = index.search(queries[:size], k, threads=threads)
                check(hits, keys[:size], ids, metric, k)


@each_metric
@pytest.mark.parametrize("order", ["best first", "best last"])
def test_rows_sorted_by_distance(metric, order):
    """Every row is better than those before it, or none is."""
    rng = np.random.default_rng(0)
    bits, query = random_bits(rng, 5000, 128), random_bits(rng, 1, 128)
    by_distance = np.argsort(all_keys(query, bits, metric)[0], kind="stable")
    bits = bits[by_distance if order == "best first" else by_distance[::-1]]
    keys = all_keys(query, bits, metric)
    for ids in (np.arange(5000), np.arange(5000)[::-1], rng.permutation(5000)):
        index = built(metric, bits, ids)
        for size in (1, 5):
            for k in (1, 10, 999, 5000):
                check(index.search(np.repeat(query, size, axis=0), k), np.repeat(keys, size, axis=0), ids, metric, k)


@each_metric
@given(seed=seeds, dim=st.integers(1, 300), n=st.integers(0, 400), k=st.integers(0, 500), data=st.data())
def test_results_depend_neither_on_batch_size_nor_on_threads(metric, seed, dim, n, k, data):
    rng = np.random.default_rng(seed)
    bits = CHARACTERS[data.draw(st.sampled_from(sorted(CHARACTERS)))](rng, n + 12, dim)
    ids = rng.permutation(2 * n + 1)[:n] if data.draw(st.booleans()) else np.arange(n)
    index, queries = built(metric, bits[:n], ids), bits[n:]
    whole = index.search(queries, k)
    check(whole, all_keys(queries, bits[:n], metric), ids, metric, k)
    for size in (1, 2, 3, 5):
        for first in range(0, 12, size):
            part = index.search(queries[first : first + size], k, threads=1 + first % 2)
            np.testing.assert_array_equal(part.ids, whole.ids[first : first + size])
            np.testing.assert_array_equal(part.scores, whole.scores[first : first + size])


@each_metric
@pytest.mark.parametrize("dim", [9, 100, 1024])
def test_filters(metric, dim):
    rng = np.random.default_rng(dim)
    n = 3000
    bits, queries = _near(rng, n, dim), random_bits(rng, 5, dim)
    keys = all_keys(queries, bits, metric)
    for ids in (np.arange(n), rng.permutation(3 * n)[:n]):
        index = built(metric, bits, ids)
        for allowed in (n, n // 2, 100, 7, 1, 0):
            at = np.sort(rng.permutation(n)[:allowed])
            mask = np.zeros(n, bool)
            mask[at] = True
            unknown = np.concatenate([rng.permutation(ids[at]), [10**12, -1]])
            for filter in (mask, unknown, index.prepare_filter(mask), index.prepare_filter(unknown)):
                for size in (1, 5):
                    for k in (1, 50, allowed + 3):
                        check(index.search(queries[:size], k, filter=filter), keys[:size, at], ids[at], metric, k)


@each_metric
@pytest.mark.parametrize("dim", [13, 200])
def test_changes_and_compaction(metric, dim):
    """More than a quarter of the rows die, several times, so that the rows move."""
    rng = np.random.default_rng(dim)
    bits = _near(rng, 6000, dim)
    index = built(metric, bits)
    rows = dict(enumerate(bits))
    queries = _near(rng, 4, dim)
    for round in range(6):
        some = rng.permutation(sorted(rows))[:1500]
        fresh = _near(rng, len(some), dim)
        if round % 3 == 0:
            index.remove(some)
            rows = {id: row for id, row in rows.items() if id not in set(some.tolist())}
        elif round % 3 == 1:
            index.update(some, with_padding(fresh))
            rows.update(zip(some.tolist(), fresh, strict=True))
        else:
            added = index.add(with_padding(fresh))
            rows.update(zip(added.tolist(), fresh, strict=True))
        ids = np.array(sorted(rows))
        kept = np.stack([rows[id] for id in ids.tolist()])
        assert sorted(index.ids().tolist()) == ids.tolist()
        np.testing.assert_array_equal(index.reconstruct(ids), np.packbits(kept, axis=1))
        keys = all_keys(queries, kept, metric)
        for k in (10, 2000):
            check(index.search(queries, k), keys, ids, metric, k)
            check(index.search(queries[:1], k, threads=2), keys[:1], ids, metric, k)


# ----------------------------------------------------------------------------------------------------------------------
# Range search, scores, and what is kept
# ----------------------------------------------------------------------------------------------------------------------


def radii(metric: str, dim: int, keys: np.ndarray) -> list[float]:
    found = [float(score) for score in oracle.scores_of(np.quantile(keys, [0, 0.01, 0.5, 1], method="nearest"), metric)]
    if metric == "hamming":
        return [*found, found[2] + 0.5, found[2] - 0.5, 0, -1, -0.5, dim, dim + 1, 1e30, np.inf, -np.inf, -1e30]
    nearby = [np.nextafter(np.float32(found[2]), np.float32(side)) for side in (0, 1)]
    return [*found, *nearby, 0, 0.5, 1, 1.5, -1, -1e30, np.inf, -np.inf]


@each_metric
@each_dim
def test_range_search_boundary_included(metric, dim):
    rng = np.random.default_rng(dim)
    n = 300 if dim <= 2048 else 60
    for character in ("near", "fingerprints", "opposites"):
        bits = CHARACTERS[character](rng, n + 6, dim)
        bits, queries = bits[:n], np.concatenate([bits[n:], bits[:1], np.zeros((1, dim), bool)])
        ids = rng.permutation(2 * n)[:n]
        index = built(metric, bits, ids)
        keys = all_keys(queries, bits, metric)
        for radius in radii(metric, dim, keys):
            for size in (1, len(queries)):
                hits = index.range_search(with_padding(queries[:size]), radius)
                assert hits.offsets.shape == (size + 1,)
                for i in range(size):
                    part = slice(hits.offsets[i], hits.offsets[i + 1])
                    scores = oracle.scores_of(keys[i], metric)
                    order = np.lexsort((ids, keys[i]))
                    order = order[oracle.inside(scores[order], radius, metric)]
                    np.testing.assert_array_equal(hits.ids[part], ids[order])
                    np.testing.assert_array_equal(hits.scores[part], scores[order])


@each_metric
@each_dim
def test_scores_and_what_is_kept(metric, dim):
    rng = np.random.default_rng(dim)
    bits, queries = random_bits(rng, 40, dim), random_bits(rng, 5, dim)
    ids = rng.permutation(100)[:40]
    index = built(metric, bits, ids)
    at = rng.integers(0, 40, (5, 7))
    expected = oracle.scores_of(all_keys(queries, bits, metric), metric)
    np.testing.assert_array_equal(index.score(with_padding(queries), ids), expected)
    np.testing.assert_array_equal(index.score(queries, ids[at]), np.take_along_axis(expected, at, axis=1))
    for kept in (index.reconstruct(ids), index.codes(ids)):
        assert kept.dtype == np.uint8
        np.testing.assert_array_equal(kept, np.packbits(bits, axis=1))
    assert index.nbytes >= 40 * width(dim)
    automatic = built(metric, bits)
    assert automatic.nbytes == 40 * width(dim)


def test_two_vectors_without_ones_are_alike():
    index = nf.Flat(20, "jaccard")
    index.add(np.zeros((3, 20), bool))
    index.add(np.eye(20, dtype=bool)[:1])
    for size in (1, 3, 4):
        hits = index.search(np.zeros((size, 20), bool), 4)
        assert hits.ids.tolist() == [[0, 1, 2, 3]] * size
        assert hits.scores.tolist() == [[1, 1, 1, 0]] * size
    assert index.range_search(np.zeros(20, bool), 1).ids.tolist() == [0, 1, 2]


def test_the_longest_vectors():
    rng = np.random.default_rng(0)
    bits = random_bits(rng, 5, MOST_BITS)
    bits[1], bits[2] = False, True
    for metric in oracle.BIT_METRICS:
        index = built(metric, bits)
        for queries in (bits, bits[:1], bits[1:3]):
            check(index.search(queries, 5), all_keys(queries, bits, metric), np.arange(5), metric, 5)


# ----------------------------------------------------------------------------------------------------------------------
# Files
# ----------------------------------------------------------------------------------------------------------------------


@each_metric
@pytest.mark.parametrize("dim", [1, 9, 65, 1000, 10_000])
def test_files(metric, dim, tmp_path):
    rng = np.random.default_rng(dim)
    bits, more, queries = (random_bits(rng, n, dim) for n in (50, 20, 4))
    ids = rng.permutation(100)[:50]
    index = built(metric, bits, ids)
    index.save(tmp_path / "index")
    data = to_bytes(index)
    assert (tmp_path / "index").read_bytes() == data
    np.testing.assert_array_equal(safetensors.numpy.load(data)["vectors"], np.packbits(bits, axis=1))
    backs = [
        nf.load(tmp_path / "index"),
        nf.load(tmp_path / "index", mmap=True),
        nf.load(tmp_path / "index", mmap="rerank"),
        nf.load(data),
        pickle.loads(pickle.dumps(index)),
        copy.copy(index),
        copy.deepcopy(index),
    ]
    for back in backs:
        assert (back.dim, back.metric, back.codec, back.rerank) == (dim, metric, "bits", None)
        check(back.search(queries, 20), all_keys(queries, bits, metric), ids, metric, 20)
        assert to_bytes(back) == data
        added = back.add(with_padding(more))
        back.remove(ids[:10])
        kept, kept_ids = np.concatenate([bits[10:], more]), np.concatenate([ids[10:], added])
        check(back.search(queries, 20), all_keys(queries, kept, metric), kept_ids, metric, 20)
    assert to_bytes(index) == data


@each_metric
def test_padding_in_a_file_does_not_count(metric, tmp_path):
    """Files from elsewhere may have any padding; a file with ones there may also be refused."""
    bits = random_bits(np.random.default_rng(0), 40, 9)
    bits[0], bits[1] = True, False

    def fill(tensors):
        tensors["vectors"][:, -1] |= 0x7F

    (tmp_path / "index").write_bytes(rewritten(to_bytes(built(metric, bits)), fill))
    for mmap in (False, True):
        try:
            index = nf.load(tmp_path / "index", mmap=mmap)
        except nf.FileFormatError:
            continue
        for size in (1, 2, 5):
            queries = np.concatenate([bits[:2], ~bits[:3]])[:size]
            for k in (5, 40):
                check(index.search(queries, k), all_keys(queries, bits, metric), np.arange(40), metric, k)
        np.testing.assert_array_equal(index.reconstruct(index.ids()), np.packbits(bits, axis=1))


@pytest.mark.parametrize(
    "changes",
    [{"dim": "17"}, {"dim": "0"}, {"dim": str(2**20 + 1)}, {"metric": "ip"}, {"codec": "sign"}, {"codec": "f32"},
     {"rerank": "f16"}, {"rows": "4"}, {"codec.threshold": "mean"}, {"codec": ""}],
    ids=str,
)  # fmt: skip
def test_a_description_that_does_not_fit_is_refused(changes):
    data = to_bytes(built("hamming", np.eye(16, dtype=bool)[:5]))
    assert len(nf.load(rewritten(data, library_version="x"))) == 5
    assert metadata_of(data)["codec"] == "bits"
    with pytest.raises(nf.FileFormatError):
        nf.load(rewritten(data, **changes))


# ----------------------------------------------------------------------------------------------------------------------
# What bits may come in
# ----------------------------------------------------------------------------------------------------------------------


def _torch(bits, packed):
    torch = pytest.importorskip("torch")
    return [torch.from_numpy(packed), torch.from_numpy(bits)]


def _arrow(bits, packed):
    pa = pytest.importorskip("pyarrow")
    flat = pa.array(packed.ravel(), pa.uint8())
    return [pa.FixedSizeListArray.from_arrays(flat, packed.shape[1]), pa.array(packed.tolist(), pa.list_(pa.uint8()))]


class OnlyDLPack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **arguments):
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def _signed(packed):
    """The "binary" precision of sentence-transformers and Cohere."""
    return (packed.astype(np.int16) - 128).astype(np.int8)


def _spaced(x):
    out = np.full((2 * len(x), x.shape[1] + 3), x.dtype.type(1))
    out[::2, 1:-2] = x
    return out[::2, 1:-2]


def _unaligned(packed):
    return np.frombuffer(b"x" + packed.tobytes(), np.uint8, offset=1).reshape(packed.shape)


INPUTS = {
    "uint8": lambda bits, packed: [packed],
    "bool": lambda bits, packed: [bits],
    "nested lists": lambda bits, packed: [bits.tolist()],
    "int8": lambda bits, packed: [_signed(packed), np.asfortranarray(_signed(packed)), _spaced(_signed(packed))],
    "rows apart": lambda bits, packed: [_spaced(packed), _spaced(bits)],
    "turned round": lambda bits, packed: [np.flip(np.flip(x, at).copy(), at) for x in (packed, bits) for at in (0, 1)],
    "columns": lambda bits, packed: [np.asfortranarray(packed), np.asfortranarray(bits)],
    "unaligned, read-only": lambda bits, packed: [_unaligned(packed)],
    "DLPack": lambda bits, packed: [OnlyDLPack(packed)],
    "torch": _torch,
    "Arrow": _arrow,
}  # fmt: skip


@pytest.mark.parametrize("source", INPUTS)
@pytest.mark.parametrize("dim", [7, 8, 65, 1000])
def test_bits_from_anywhere(source, dim):
    rng = np.random.default_rng(dim)
    bits = random_bits(rng, 9, dim)
    packed = np.packbits(bits, axis=1)
    expected = all_keys(bits, bits, "hamming")
    for value in INPUTS[source](bits, packed):
        index = nf.Flat(dim, "hamming")
        index.add(value)
        np.testing.assert_array_equal(index.codes(index.ids()), packed)
        np.testing.assert_array_equal(index.score(value, index.ids()), expected)
        check(index.search(value, 4), expected, np.arange(9), "hamming", 4)
        index.update(index.ids()[::-1], value)
        np.testing.assert_array_equal(index.codes(np.arange(9)[::-1]), packed)


def test_one_vector_is_one_row():
    bits = random_bits(np.random.default_rng(1), 3, 20)
    packed = np.packbits(bits, axis=1)
    index = nf.Flat(20, "hamming")
    for value in (packed[0], bits[1], _signed(packed)[2]):
        index.add(value)
    np.testing.assert_array_equal(index.codes([0, 1, 2]), packed)
    for value in (packed[1], bits[1], bits[1].tolist(), _signed(packed)[1]):
        assert index.search(value, 1).ids.tolist() == [[1]]


@each_metric
def test_what_sentence_transformers_makes(metric):
    x = np.random.default_rng(2).normal(size=(50, 100)).astype(np.float32)
    indexes = [nf.Flat(100, metric) for _ in range(3)]
    forms = [nf.quantize_embeddings(x, "ubinary"), nf.quantize_embeddings(x, "binary"), x > 0]
    for index, form in zip(indexes, forms, strict=True):
        index.add(form)
    assert len({to_bytes(index) for index in indexes}) == 1
    for form in forms:
        check(indexes[0].search(form, 5), all_keys(x > 0, x > 0, metric), np.arange(50), metric, 5)


# ----------------------------------------------------------------------------------------------------------------------
# What are no packed bits
# ----------------------------------------------------------------------------------------------------------------------

BAD = {
    "too many bytes": (np.zeros((2, 3), np.uint8), ValueError, "3 bytes.*2 bytes"),
    "too few bytes": (np.zeros((2, 1), np.uint8), ValueError, "1 bytes.*2 bytes"),
    "too many bytes, signed": (np.zeros((2, 3), np.int8), ValueError, "3 bytes.*2 bytes"),
    "no bytes": (np.zeros((2, 0), np.uint8), ValueError, "0 bytes.*2 bytes"),
    "one vector": (np.zeros(3, np.uint8), ValueError, "3 bytes.*2 bytes"),
    "wrong bytes, no rows": (np.zeros((0, 3), np.uint8), ValueError, "3 bytes.*2 bytes"),
    "too many booleans": (np.zeros((2, 17), bool), ValueError, "17.*9"),
    "as many bytes, but too many booleans": (np.zeros((2, 12), bool), ValueError, "12.*9"),
    "too few booleans": (np.zeros((2, 8), bool), ValueError, "8.*9"),
    "3-d": (np.zeros((2, 2, 2), np.uint8), ValueError, "3 dimensions"),
    "0-d": (np.uint8(3), ValueError, "0 dimensions"),
    "floats": (np.zeros((2, 9), np.float32), TypeError, "float32.*packbits"),
    "floats as wide as the bytes": (np.zeros((2, 2)), TypeError, "float64.*packbits"),
    "half precision": (np.zeros((2, 9), np.float16), TypeError, "float16"),
    "integers": ([[1, 2]], TypeError, "int64"),
    "wide integers": (np.zeros((2, 2), np.uint64), TypeError, "uint64"),
    "strings": ([["a", "b"]], TypeError, "<U1"),
    "None": (None, TypeError, "object"),
    "ragged": ([[True, False], [True]], ValueError, "lengths"),
    "under a mask": (np.ma.masked_array(np.zeros((2, 2), np.uint8), mask=True), TypeError, "masked"),
}  # fmt: skip


@each_metric
@pytest.mark.parametrize(("value", "error", "message"), BAD.values(), ids=BAD)
def test_what_are_no_bits(metric, value, error, message):
    index = built(metric, np.eye(9, dtype=bool))
    before = to_bytes(index)
    rows = len(value) if isinstance(value, np.ndarray) and value.ndim > 1 else 1
    calls = {
        "vectors": [lambda: index.add(value), lambda: index.update(range(rows), value)],
        "queries": [lambda: index.search(value), lambda: index.range_search(value, 1), lambda: index.score(value, [0])],
    }
    for argument, attempts in calls.items():
        for attempt in attempts:
            with pytest.raises(error, match=f"(?s){argument}.*{message}"):
                attempt()
    assert to_bytes(index) == before


@each_metric
def test_bad_arguments(metric):
    bits = np.eye(9, dtype=bool)
    index = built(metric, bits)
    before = to_bytes(index)
    for call, error, message in [
        (lambda: index.add(bits, [1, 2]), ValueError, "2.*9"),
        (lambda: index.add(bits[:2], [3, 10]), KeyError, "3"),
        (lambda: index.add(bits[:2], [10, 10]), ValueError, "10.*repeated"),
        (lambda: index.update([0, 99], bits[:2]), KeyError, "99"),
        (lambda: index.remove([99]), KeyError, "99"),
        (lambda: index.reconstruct([99]), KeyError, "99"),
        (lambda: index.codes([99]), KeyError, "99"),
        (lambda: index.score(bits, [99]), KeyError, "99"),
        (lambda: index.search(bits, -1), ValueError, "k.*-1"),
        (lambda: index.search(bits, filter=[True]), ValueError, "filter.*1.*9"),
        (lambda: index.search(bits, oversample=2), ValueError, "oversample"),
        (lambda: index.search(bits, version="other"), ValueError, "version.*other"),
        (lambda: index.range_search(bits, np.nan), ValueError, "radius.*NaN"),
        (lambda: index.range_search(bits, "3"), TypeError, "radius"),
        (lambda: index.train(bits), ValueError, "bits.*nothing to learn"),
    ]:
        with pytest.raises(error, match=f"(?s){message}"):
            call()
    assert to_bytes(index) == before
    assert index.search(bits, exact=True, k=1).scores.tolist() == index.search(bits, k=1).scores.tolist()


@each_metric
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, f"dim.*0.*{MOST_BITS}"),
        ({"dim": MOST_BITS + 1}, f"dim.*{MOST_BITS + 1}.*{MOST_BITS}"),
        ({"rerank": "f16"}, "rerank.*f16.*bits"),
        ({"rerank": "bits"}, "rerank.*bits"),
        ({"codec": "f32"}, "codec.*f32.*metric"),
        ({"codec": "uint8"}, "codec.*uint8.*metric"),
        ({"codec": "sign"}, "codec.*sign.*metric"),
        ({"codec": nf.Sign()}, "codec.*sign.*metric"),
        ({"codec": nf.RecurrentBinary()}, "codec.*recurrent_binary.*metric"),
        ({"codec": "pq"}, "codec.*pq"),
        ({"oversample": 0.5}, "oversample.*0.5"),
    ],
    ids=str,
)
def test_parameters_that_do_not_go_with_bits(metric, arguments, message):
    with pytest.raises(ValueError, match=message):
        nf.Flat(**{"dim": 16, "metric": metric} | arguments)


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_bits_do_not_go_with_numbers(metric):
    with pytest.raises(ValueError, match=f"codec.*bits.*{metric}"):
        nf.Flat(16, metric, codec="bits")
    with pytest.raises(ValueError, match=r"rerank.*bits"):
        nf.Flat(16, metric, rerank="bits")
    for codec in oracle.CODECS:
        index = nf.Flat(16, metric, codec=codec)
        for packed in (np.zeros((3, 2), np.uint8), np.zeros((3, 2), np.int8), np.zeros(2, np.uint8)):
            for name, call in [("vectors", index.add), ("queries", index.search)]:
                with pytest.raises(ValueError, match=rf'{name}: 2 bytes.*16 packed bits.*"hamming".*16 numbers'):
                    call(packed)
    with pytest.raises(ValueError, match=r"2.*16"):
        nf.Flat(16, metric).add(np.zeros((3, 2), np.float32))
    wide = nf.Flat(16, metric)
    wide.add(np.eye(16, dtype=np.uint8))  # numbers, one for each dimension
    assert wide.reconstruct([3]).tolist() == [np.eye(16)[3].tolist()]


def test_defaults():
    index = nf.Flat(100, "hamming")
    assert (index.codec, index.rerank, index.screen) == ("bits", None, False)
    assert index.versions == {}
    assert "hamming" in repr(index)
    assert nf.Flat(100, "jaccard", codec="bits").codec == "bits"


# ----------------------------------------------------------------------------------------------------------------------
# The functions on plain arrays
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [8, 64, 72, 128, 256, 1000, 2048, 10_000, 100_000])
@pytest.mark.parametrize("character", ["random", "near", "fingerprints", "opposites"])
def test_stateless_functions(dim, character):
    rng = np.random.default_rng(dim)
    n = 200 if dim <= 2048 else 40
    bits = CHARACTERS[character](rng, n + 7, dim)
    bits, queries = bits[:n], np.concatenate([bits[n:], np.zeros((1, dim), bool)])
    packed, asked = np.packbits(bits, axis=1), np.packbits(queries, axis=1)
    for metric in oracle.BIT_METRICS:
        keys = all_keys(queries, bits, metric)
        for size in (1, 2, 3, len(asked)):
            for threads in (1, 2):
                found = kernels.scores(asked[:size], packed, metric, threads=threads)
                assert found.dtype == np.float32
                np.testing.assert_array_equal(found, oracle.scores_of(keys[:size], metric))
                for k in (0, 1, 10, n + 3):
                    hits = kernels.knn(asked[:size], packed, k, metric, threads=threads)
                    check(hits, keys[:size], np.arange(n), metric, k)
    distances = kernels.hamming(asked, packed)
    assert distances.dtype == np.int32
    np.testing.assert_array_equal(distances, all_keys(queries, bits, "hamming"))
    np.testing.assert_array_equal(kernels.hamming(queries, bits), distances)
    np.testing.assert_array_equal(kernels.hamming(_spaced(_signed(asked)), _spaced(_signed(packed))), distances)


def test_stateless_functions_on_few_and_on_no_rows():
    packed = np.packbits(np.eye(12, dtype=bool), axis=1)
    assert kernels.hamming(packed[0], packed[1]).tolist() == [[2]]
    assert kernels.hamming(packed[:0], packed).shape == (0, 12)
    assert kernels.hamming(packed, packed[:0]).shape == (12, 0)
    for metric in oracle.BIT_METRICS:
        assert kernels.scores(packed, packed[:0], metric).shape == (12, 0)
        assert kernels.knn(packed, packed[:0], 3, metric).counts.tolist() == [0] * 12


@pytest.mark.parametrize("metric", oracle.BIT_METRICS)
def test_bad_arrays_of_stateless_functions(metric):
    bits = np.eye(9, dtype=bool)
    packed = np.packbits(bits, axis=1)
    calls = [
        lambda queries, vectors: kernels.scores(queries, vectors, metric),
        lambda queries, vectors: kernels.knn(queries, vectors, 3, metric),
        kernels.hamming,
    ]
    for call in calls:
        for queries, vectors, error, message in [
            (packed, packed[:, :1], ValueError, "2.*1"),
            (packed, np.zeros((3, 0), np.uint8), ValueError, "vectors.*0"),
            (bits, np.eye(12, dtype=bool), ValueError, "9.*12"),
            (np.zeros((2, 2)), packed, TypeError, "queries.*float64"),
            (packed, np.zeros((2, 2), np.float32), TypeError, "vectors.*float32"),
            (packed[np.newaxis], packed, ValueError, "queries.*3 dimensions"),
        ]:
            with pytest.raises(error, match=f"(?s){message}"):
                call(queries, vectors)
