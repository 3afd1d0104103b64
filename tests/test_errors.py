"""Bad input, named: the documented exception, a message that says which argument and value, and nothing changed."""

from __future__ import annotations

import numpy as np
import pytest

import nearfield as nf

DIM = 4
ZERO = np.zeros(DIM, np.float32)


def with_value(value, row, column=2, rows=5, dtype=np.float32):
    x = np.ones((rows, DIM), dtype)
    x[row, column] = value
    return x


@pytest.fixture
def index(kind):
    return kind.build("l2", np.eye(DIM)[[0, 1, 2, 3, 0, 1]])


# What cannot be vectors or queries: the value, the exception, and what the message says.
BAD_VECTORS = {
    "wrong dimension": (np.ones((3, 7)), ValueError, "7.*4"),
    "wrong dimension, one vector": (np.ones(3), ValueError, "3.*4"),
    "wrong dimension, no rows": (np.ones((0, 7)), ValueError, "7.*4"),
    "no dimension": (np.ones((3, 0)), ValueError, "0.*4"),
    "0-d": (3.0, ValueError, "0 dimensions"),
    "3-d": (np.ones((2, 3, DIM)), ValueError, "3 dimensions"),
    "objects": (np.array([[1, None, 2, 3]]), TypeError, "object"),
    "huge integers": ([[2**70, 1, 1, 1]], TypeError, "object"),
    "strings": ([["1", "2", "3", "4"]], TypeError, "<U1"),
    "bytes": (b"abcd", TypeError, "S4"),
    "complex": (np.ones((1, DIM), complex), TypeError, "complex128"),
    "dates": (np.zeros((1, DIM), "M8[s]"), TypeError, "datetime64"),
    "records": (np.zeros((1, DIM), "i4,f4"), TypeError, "i4"),
    "None": (None, TypeError, "object"),
    "a set": ({1.0, 2.0}, TypeError, "object"),
    "ragged": ([[1, 2, 3, 4], [1, 2]], ValueError, "lengths"),
    "NaN": (with_value(np.nan, 3), ValueError, "row 3.*NaN.*column 2"),
    "NaN, half precision": (with_value(np.nan, 1, dtype=np.float16), ValueError, "row 1.*NaN.*column 2"),
    "NaN, double precision": (with_value(np.nan, 4, dtype=np.float64), ValueError, "row 4.*NaN.*column 2"),
    "NaN, one vector": ([1, np.nan, 1, 1], ValueError, "row 0.*NaN.*column 1"),
    "infinity": (with_value(np.inf, 2), ValueError, "row 2.*infinity.*column 2"),
    "-infinity": (with_value(-np.inf, 0), ValueError, "row 0.*infinity.*column 2"),
    "infinity, half precision": (with_value(np.inf, 2, dtype=np.float16), ValueError, "row 2.*infinity"),
    "too large for float32": (with_value(1e39, 2, dtype=np.float64), ValueError, "row 2.*infinity.*column 2"),
    "far down": (with_value(np.nan, 4000, rows=5000), ValueError, "row 4000.*NaN"),
}
BAD_IDS = {
    "floats": ([7.0, 8.0], TypeError, "float64"),
    "booleans": ([True, False], TypeError, "bool"),
    "strings": (["a", "b"], TypeError, "<U1"),
    "objects": (np.array([7, 8], object), TypeError, "object"),
    "None": ([None, 8], TypeError, "object"),
    "beyond 64 bits": ([2**64, 8], TypeError, "object"),
    "beyond 63 bits": (np.array([2**63, 8], np.uint64), ValueError, str(2**63)),
    "two dimensions": ([[7, 8]], ValueError, "2 dimensions"),
}
BAD_NEW_IDS = BAD_IDS | {
    "too few": ([7], ValueError, "1.*2"),
    "too many": ([7, 8, 9], ValueError, "3.*2"),
    "negative": ([7, -3], ValueError, "-3"),
    "repeated": ([7, 7], ValueError, "7.*repeated"),
    "taken": ([7, 3], KeyError, "3"),
}
BAD_KNOWN_IDS = BAD_IDS | {
    "unknown": ([2, 77], KeyError, "77"),
    "negative": ([2, -5], (KeyError, ValueError), "-5"),
}
BAD_FILTERS = {
    "short mask": ([True] * 5, ValueError, "5.*6"),
    "long mask": (np.ones(7, bool), ValueError, "7.*6"),
    "empty mask": (np.ones(0, bool), ValueError, "0.*6"),
    "two dimensions": (np.ones((2, 3), bool), ValueError, "2 dimensions"),
    "an integer": (3, ValueError, "0 dimensions"),
    "floats": ([1.0, 2.0], TypeError, "float64"),
    "strings": (["a"], TypeError, "<U1"),
    "objects": ([None, 3], TypeError, "object"),
    "a function": (lambda id: True, (TypeError, ValueError), ""),
}
BAD_COUNTS = {
    "negative": (-1, ValueError, "-1"),
    "float": (2.5, TypeError, "2.5"),
    "string": ("3", TypeError, "'3'"),
    "None": (None, TypeError, "None"),
    "array": (np.ones(2, int), TypeError, "array"),
    "beyond 64 bits": (2**70, (ValueError, MemoryError), ""),
}


def refuses(index, call, argument, error, message):
    """Assert that a call fails as documented and changes nothing."""
    before = index.__getstate__()
    with pytest.raises(error, match=f"(?s){argument}.*{message}"):
        call()
    assert index.__getstate__() == before
    index.remove(index.add(ZERO))  # still in order


def cases(table):
    return pytest.mark.parametrize(("value", "error", "message"), table.values(), ids=table)


@cases(BAD_VECTORS)
def test_vectors(index, value, error, message):
    refuses(index, lambda: index.add(value), "vectors", error, message)
    rows = len(value) if isinstance(value, np.ndarray) and value.ndim > 1 else 1
    if rows <= len(index):
        refuses(index, lambda: index.update(range(rows), value), "vectors", error, message)
    refuses(index, lambda: index.search(value), "queries", error, message)
    refuses(index, lambda: index.range_search(value, 1.0), "queries", error, message)
    refuses(index, lambda: index.score(value, [0]), "queries", error, message)


@pytest.mark.parametrize(
    ("codec", "value", "message"),
    [
        ("f16", 65520.0, "row 3.*65520"),
        ("f16", -1e30, "row 3.*f16"),
        ("bf16", 3.4e38, "row 3.*bf16"),
        ("uint8", 256, "row 3.*256"),
        ("uint8", -1, "row 3.*-1"),
        ("uint8", 0.5, "row 3.*0.5"),
    ],
)
def test_vectors_that_a_codec_cannot_hold(codec, value, message):
    for index in (nf.Flat(DIM, codec=codec), nf.Flat(DIM, codec="f32", rerank=codec)):
        index.add(np.eye(DIM))
        refuses(index, lambda index=index: index.add(with_value(value, 3)), "vectors", ValueError, message)
        refuses(
            index,
            lambda index=index: index.update([0, 1, 2, 3], with_value(value, 3, rows=4)),
            "vectors",
            ValueError,
            message,
        )


@cases(BAD_NEW_IDS)
def test_ids_of_new_vectors(index, value, error, message):
    refuses(index, lambda: index.add(np.ones((2, DIM)), value), "ids", error, message)


@cases(BAD_KNOWN_IDS)
def test_ids_of_known_vectors(index, value, error, message):
    refuses(index, lambda: index.remove(value), "ids", error, message)
    refuses(index, lambda: index.update(value, np.ones((2, DIM))), "ids", error, message)
    refuses(index, lambda: index.reconstruct(value), "ids", error, message)
    if message != "2 dimensions":
        refuses(index, lambda: index.score(ZERO, value), "ids", error, message)


def test_ids_given_twice(index):
    refuses(index, lambda: index.remove([3, 2, 3]), "ids", ValueError, "3.*repeated")
    refuses(index, lambda: index.update([3, 3], np.ones((2, DIM))), "ids", ValueError, "3.*repeated")
    refuses(index, lambda: index.update([3, 2], np.ones((3, DIM))), "ids", ValueError, "2.*3")


def test_ids_to_score(index):
    refuses(index, lambda: index.score(np.ones((2, DIM)), [[0], [1], [2]]), "ids", ValueError, "3.*2")
    refuses(index, lambda: index.score(ZERO, np.zeros((1, 1, 1), int)), "ids", ValueError, "3 dimensions")
    refuses(index, lambda: index.score(ZERO, [-2]), "ids", KeyError, "-2")


@cases(BAD_FILTERS)
def test_filters(index, value, error, message):
    refuses(index, lambda: index.search(ZERO, filter=value), "filter", error, message)
    refuses(index, lambda: index.range_search(ZERO, 1.0, filter=value), "filter", error, message)
    refuses(index, lambda: index.prepare_filter(value), "filter", error, message)


@cases(BAD_COUNTS)
def test_counts(index, value, error, message):
    refuses(index, lambda: index.search(ZERO, value), "k" if message else "", error, message)
    if value is not None:
        refuses(index, lambda: index.search(ZERO, threads=value), "threads" if message else "", error, message)
        refuses(index, lambda: index.add(ZERO, threads=value), "threads" if message else "", error, message)


def test_no_thread_is_too_few(index):
    for call in (
        lambda: index.search(ZERO, threads=0),
        lambda: index.add(ZERO, threads=0),
        lambda: index.update([0], ZERO, threads=0),
        lambda: index.range_search(ZERO, 1.0, threads=0),
        lambda: index.score(ZERO, [0], threads=0),
    ):
        refuses(index, call, "threads", ValueError, "0")


def test_more_results_than_memory(index):
    for k in (10**13, 2**62):
        refuses(index, lambda k=k: index.search(ZERO, k), "", MemoryError, "")


@pytest.mark.parametrize(
    ("radius", "error"), [(np.nan, ValueError), ("far", TypeError), (None, TypeError), ([1.0, 2.0], TypeError)]
)
def test_radius(index, radius, error):
    refuses(index, lambda: index.range_search(ZERO, radius), "radius", error, "")


@pytest.mark.parametrize(
    ("oversample", "error"), [(0.5, ValueError), (np.nan, ValueError), (-3, ValueError), ("x", TypeError)]
)
def test_oversample(index, oversample, error):
    refuses(index, lambda: index.search(ZERO, oversample=oversample), "oversample", error, "")
    with pytest.raises(error, match="oversample"):
        nf.Flat(DIM, rerank="f32", oversample=oversample)


def test_progress(index):
    refuses(index, lambda: index.add(ZERO, progress=3), "progress", TypeError, "3")
    refuses(index, lambda: index.update([0], ZERO, progress="on"), "progress", TypeError, "on")


def test_files(index):
    refuses(index, lambda: index.save(3), "file", TypeError, "int")
    refuses(index, lambda: index.save(None), "file", TypeError, "NoneType")
    with pytest.raises(TypeError, match=r"file.*int"):
        nf.load(3)
    with pytest.raises(ValueError, match="mmap"):
        nf.load(index.__getstate__(), mmap=True)
    with pytest.raises(ValueError, match="verify"):
        nf.load(index.__getstate__(), verify=False)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dim": 0}, ValueError, "dim.*0"),
        ({"dim": -1}, ValueError, "dim.*-1"),
        ({"dim": 65536}, ValueError, "dim.*65536"),
        ({"dim": 2**70}, ValueError, "dim"),
        ({"dim": 2.5}, TypeError, "dim.*2.5"),
        ({"dim": None}, TypeError, "dim.*None"),
        ({"metric": "euclid"}, ValueError, "metric.*euclid.*cosine.*ip.*l2"),
        ({"metric": "L2"}, ValueError, "metric.*L2"),
        ({"metric": 3}, TypeError, "metric.*3"),
        ({"codec": "pq5d"}, ValueError, "codec.*pq5d.*f32"),
        ({"codec": ""}, ValueError, "codec"),
        ({"codec": 3}, TypeError, "codec.*3"),
        ({"codec": nf.Sign}, TypeError, "codec.*Sign"),
        ({"rerank": "qp"}, ValueError, "rerank.*qp.*f32"),
        ({"rerank": 3}, TypeError, "rerank.*3"),
    ],
)
def test_parameters(arguments, error, message):
    with pytest.raises(error, match=message):
        nf.Flat(**{"dim": DIM} | arguments)


def test_arrow(index):
    pa = pytest.importorskip("pyarrow")
    four = pa.list_(pa.float32(), DIM)
    for value, error, message in [
        (pa.array([[1, 2, 3, 4], None], four), ValueError, "null"),
        (pa.array([[1, 2, 3, None]], four), ValueError, "null"),
        (pa.array([[1, 2, 3, 4], [1, 2]]), ValueError, "2"),
        (pa.array([[1, 2, 3, np.nan]], four), ValueError, "NaN"),
        (pa.array(["a"]), TypeError, ""),
        (pa.array([["a"] * DIM]), TypeError, ""),
        (pa.table({"x": [1]}), TypeError, ""),
        (pa.scalar(1), (TypeError, ValueError), ""),
    ]:
        refuses(index, lambda value=value: index.add(value), "vectors", error, message)
    refuses(index, lambda: index.add(np.ones((2, DIM)), pa.array([7, None])), "ids", ValueError, "null")
    refuses(index, lambda: index.search(ZERO, filter=pa.array([True] * 5)), "filter", ValueError, "5")


def test_values_under_a_mask_are_no_vectors(index):
    masked = np.ma.masked_array(np.ones((1, DIM)), mask=[[1, 0, 0, 0]])
    refuses(index, lambda: index.add(masked), "vectors", (TypeError, ValueError), "")
