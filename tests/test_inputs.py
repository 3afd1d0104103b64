"""Arrays of every element type, layout and origin mean the same vectors."""

from __future__ import annotations

import array

import numpy as np
import pytest

import nearfield as nf
import oracle
from conftest import KINDS

N, DIM = 37, 19
VALUES = np.random.default_rng(0).integers(0, 100, (N, DIM))  # what every element type below can hold


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def unaligned(x):
    return np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape)


def every_second(x, rows, columns):
    wide = np.zeros((x.shape[0] * rows, x.shape[1] * columns), x.dtype)
    wide[::rows, ::columns] = x
    return wide[::rows, ::columns]


LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "every second row": lambda x: every_second(x, 2, 1),
    "every third column": lambda x: every_second(x, 1, 3),
    "both": lambda x: every_second(x, 2, 3),
    "rows backwards": lambda x: x[::-1].copy()[::-1],
    "columns backwards": lambda x: x[:, ::-1].copy()[:, ::-1],
    "all backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "columns of a wider array": lambda x: np.hstack([x, x])[:, : x.shape[1]],
    "plane of a cube": lambda x: np.stack([x, x], axis=2)[:, :, 1],
    "read-only": read_only,
    "unaligned": unaligned,
}
DTYPES = ["f2", "f4", "f8", "g", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">f2", ">f4", ">f8", ">i4", ">u8"]


def check_same(kind, given, values=VALUES):
    """Assert that an index over `given` is the one over plain float32 `values`, and answers `given` like these."""
    plain = values.astype(np.float32)
    index, expected = kind.make(values.shape[1], "l2"), kind.build("l2", plain)
    index.add(given)
    assert index.__getstate__() == expected.__getstate__()
    index.update(np.arange(len(values)), given)
    np.testing.assert_array_equal(index.reconstruct(expected.ids()), expected.reconstruct(expected.ids()))
    for ask in (
        lambda queries: expected.search(queries, 5),
        lambda queries: expected.range_search(queries, 100.0),
        lambda queries: [expected.score(queries, [0])],
    ):
        for a, b in zip(ask(given), ask(plain), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["f4", "f2", "i1", "u1", "f8"])
def test_layouts(kind, layout, dtype):
    given = LAYOUTS[layout](VALUES.astype(dtype))
    np.testing.assert_array_equal(given, VALUES)
    check_same(kind, given)
    np.testing.assert_array_equal(given, VALUES)  # untouched


@pytest.mark.parametrize("dtype", DTYPES)
def test_element_types(kind, dtype):
    check_same(kind, VALUES.astype(dtype))


def test_booleans_are_zeros_and_ones(kind):
    check_same(kind, VALUES % 2 == 1, VALUES % 2)


@pytest.mark.parametrize("codec", ["f32", "f16", "bf16", "int8"])
def test_wide_types_round_as_numpy_does(codec):
    x = np.random.default_rng(1).normal(size=(20, 7)) * 10.0 ** np.arange(-3, 4)
    for given in (x, x.astype(np.longdouble), (x * 1e9).astype(np.int64), (x * 1e9).astype(np.int64).astype(">i8")):
        index = nf.Flat(7, codec=codec)
        plain = np.clip(given.astype(np.float32), -6e4, 6e4) if codec == "f16" else given.astype(np.float32)
        index.add(np.clip(given, -60000, 60000) if codec == "f16" else given)
        np.testing.assert_array_equal(index.reconstruct(index.ids()), oracle.stored(plain, codec))


def test_float64_below_the_smallest_float32_is_zero(kind):
    index = kind.build("l2", np.array([[1e-300, -1e-300, 1.0]]))
    np.testing.assert_array_equal(index.reconstruct([0]), [[0, 0, 1]])


def test_one_row_repeated_without_a_copy(kind):
    check_same(kind, np.broadcast_to(VALUES[0].astype(np.float32), (N, DIM)), np.broadcast_to(VALUES[0], (N, DIM)))


def test_overlapping_windows(kind):
    series = VALUES.ravel().astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(series, DIM)[:50]
    check_same(kind, windows, windows.copy())


@pytest.mark.parametrize(
    "given",
    [
        VALUES.tolist(),
        tuple(map(tuple, VALUES)),
        list(VALUES.astype(np.float32)),
        VALUES.astype(float).tolist(),
        memoryview(VALUES.astype(np.float32)),
    ],
    ids=["lists", "tuples", "list of arrays", "lists of floats", "memoryview"],
)
def test_python_containers(kind, given):
    check_same(kind, given)


def test_one_vector_in_one_dimension(kind):
    for given in (VALUES[0], VALUES[0].tolist(), array.array("f", VALUES[0]), VALUES[0][::-1].copy()[::-1]):
        check_same(kind, given, VALUES[:1])


def test_dimension_one(kind):
    column = VALUES[:, :1].astype(np.float32)
    for given in (column, np.asfortranarray(column), VALUES.astype(np.float32)[:, 3:4], column[::-1]):
        check_same(kind, given, np.array(given))


class OnlyArray:
    """Something that NumPy can look into."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


class OnlyDlpack:
    """Something that knows no NumPy, as tensors of other libraries do not."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


@pytest.mark.parametrize("wrapper", [OnlyArray, OnlyDlpack])
@pytest.mark.parametrize("layout", ["C", "Fortran", "every second row"])
def test_array_protocols(kind, wrapper, layout):
    check_same(kind, wrapper(LAYOUTS[layout](VALUES.astype(np.float32))))


def test_the_index_keeps_no_reference_to_what_it_was_given(kind):
    x, ids = VALUES.astype(np.float32), np.arange(N, dtype=np.int64) + 5
    index = kind.build("l2", x, ids)
    state = index.__getstate__()
    filter = np.array([7, 9], np.int64)
    prepared = index.prepare_filter(filter)
    x[:], ids[:], filter[:] = 0, 0, 0
    assert index.__getstate__() == state
    assert sorted(index.search(x[0], 5, filter=prepared).ids[0].tolist()) == [-1, -1, -1, 7, 9]


def test_results_belong_to_the_caller(kind):
    index = kind.build("l2", VALUES.astype(np.float32))
    state, hits = index.__getstate__(), index.search(VALUES[:2], 3)
    for result in (
        *hits,
        *index.range_search(VALUES[0], 50.0),
        index.ids(),
        index.reconstruct([0]),
        index.score(VALUES, [0]),
    ):
        assert result.flags.writeable
        assert result.flags.c_contiguous
        result[...] = 0
    assert index.__getstate__() == state


# ----------------------------------------------------------------------------------------------------------------------
# Other libraries
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["C", "Fortran", "all backwards", "both"])
def test_ml_dtypes_bfloat16(kind, layout):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given = LAYOUTS[layout](VALUES.astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(given.astype(np.float32), VALUES)
    check_same(kind, given)


def test_byte_swapped_bfloat16_is_swapped_or_refused(kind):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    native = VALUES.astype(ml_dtypes.bfloat16)
    swapped = native.byteswap().view(native.dtype.newbyteorder())
    try:
        check_same(kind, swapped)
    except (TypeError, ValueError) as error:
        assert "vectors" in str(error)  # noqa: PT017


def test_torch():
    torch = pytest.importorskip("torch")
    for dtype in ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int32", "int64", "bool"):
        values = VALUES % 2 if dtype == "bool" else VALUES
        tensor = torch.tensor(values).to(getattr(torch, dtype))
        wide = torch.stack([tensor, tensor], dim=2)
        for given in (tensor, tensor.T.contiguous().T, wide[:, :, 1]):
            check_same(KINDS[0], given, values)
        if tensor.is_floating_point():
            check_same(KINDS[0], tensor.clone().requires_grad_(), values)


def arrow_columns(pa, values, dtype):
    """The same vectors as Arrow columns of every kind."""
    rows = [[np.float16(v) for v in row] if dtype == "float16" else row for row in values.tolist()]
    element = getattr(pa, dtype)()
    fixed, free, large = pa.list_(element, values.shape[1]), pa.list_(element), pa.large_list(element)
    return {
        "fixed": pa.array(rows, fixed),
        "fixed, sliced": pa.array([rows[0], *rows, rows[0]], fixed)[1:-1],
        "list": pa.array(rows, free),
        "list, sliced": pa.array([rows[0], *rows, rows[0]], free)[1:-1],
        "large list": pa.array(rows, large),
        "chunked": pa.chunked_array([rows[:10], rows[10:]], fixed),
        "chunked lists": pa.chunked_array([rows[:10], [], rows[10:]], free),
        "column of a table": pa.table({"vector": pa.array(rows, fixed)})["vector"],
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int64"])
def test_arrow_columns(kind, dtype):
    pa = pytest.importorskip("pyarrow")
    for column in arrow_columns(pa, VALUES, dtype).values():
        check_same(kind, column)


def test_arrow_fixed_shape_tensors(kind):
    pa = pytest.importorskip("pyarrow")
    check_same(kind, pa.FixedShapeTensorArray.from_numpy_ndarray(VALUES.astype(np.float32)))


def test_arrow_ids_and_filters(kind):
    pa = pytest.importorskip("pyarrow")
    index = kind.make(DIM, "l2")
    assert index.add(VALUES, pa.array(range(100, 100 + N))).tolist() == list(range(100, 100 + N))
    assert index.search(VALUES[0], 2, filter=pa.array([103, 101])).counts.tolist() == [2]
    assert index.search(VALUES[0], 2, filter=pa.array([i == 5 for i in range(N)])).ids.tolist() == [[105, -1]]
    assert index.score(VALUES[0], pa.chunked_array([[100], [101]])).shape == (1, 2)
    index.remove(pa.array([100], pa.uint8()))
    assert index.reconstruct(pa.array([101])).tolist() == VALUES[1:2].tolist()


def test_empty_arrow_columns(kind):
    pa = pytest.importorskip("pyarrow")
    index = kind.make(4, "l2")
    assert index.add(pa.array([], pa.list_(pa.float32(), 4))).size == 0
    assert index.add(pa.chunked_array([], pa.list_(pa.float32(), 4))).size == 0
