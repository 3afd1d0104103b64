"""quantize_embeddings agrees with sentence-transformers bit for bit, and dequantize_embeddings turns it round."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
from strategies import CALM, make, seeds

BITS = ("binary", "ubinary")
SCALARS = ("int8", "uint8")
FLOATS = (np.float16, np.float32, np.float64)

pytestmark = pytest.mark.filterwarnings("error")

dims = st.one_of(st.integers(1, 20), st.sampled_from([64, 65, 127]))


def reference(embeddings, precision, ranges=None):
    """Return what quantize_embeddings of sentence-transformers 6 does with an array, for two dimensions or one."""
    if precision == "float32":
        return embeddings.astype(np.float32)
    if precision in BITS:
        packed = np.packbits(embeddings > 0, axis=-1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    starts, ends = np.asarray(ranges).astype(np.float32)
    steps = (ends - starts) / 255
    steps = np.where(steps == 0, np.float32(1), steps)
    numbers = np.clip(np.floor((embeddings - starts) / steps), 0, 255)
    return numbers.astype(np.uint8) if precision == "uint8" else (numbers - 128).astype(np.int8)


def ranges_of(x):
    return np.stack([x.min(axis=0), x.max(axis=0)])


def check_equal(found, expected):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


@st.composite
def embeddings(draw, smallest=2):
    x = make(draw(st.sampled_from(tuple(CALM))), draw(seeds), draw(st.integers(smallest, 40)), draw(dims))
    return x.astype(draw(st.sampled_from(FLOATS)))


def test_what_sentence_transformers_gave():
    """The output of sentence-transformers 6.2.0 for these arrays."""
    x = np.array([[0.5, -0.25, 0.0, 1, -1, 2, 3, -4, 0.125], [-1, 0.25, 3, 0.9, 1, -2, 1, 1, 0.125]], np.float32)
    ranges = np.array([[-1, -1, 0, 0, -1, -2, 0, -4, 0], [1, 1, 3, 1, 1, 2, 4, 1, 1]], np.float32)
    given = {
        "ubinary": [[150, 128], [123, 128]],
        "binary": [[22, 0], [-5, 0]],
        "uint8": [[191, 95, 0, 254, 0, 254, 191, 0, 31], [0, 159, 255, 229, 254, 0, 63, 254, 31]],
        "int8": [[63, -33, -128, 126, -128, 126, 63, -128, -97], [-128, 31, 127, 101, 126, -128, -65, 126, -97]],
    }
    for precision, codes in given.items():
        assert nf.quantize_embeddings(x, precision, ranges).tolist() == codes


@pytest.mark.parametrize("precision", [*BITS, "float32"])
@given(x=embeddings(smallest=0))
def test_formats_without_ranges(precision, x):
    check_equal(nf.quantize_embeddings(x, precision), reference(x, precision))


@pytest.mark.parametrize("precision", SCALARS)
@given(x=embeddings(), seed=seeds)
def test_formats_with_ranges(precision, x, seed):
    """Also for what lies outside of the ranges, and for a dimension that never changes."""
    x[:, seed % x.shape[1]] = 0.25
    check_equal(nf.quantize_embeddings(x, precision), reference(x, precision, ranges_of(x)))
    sample = x[: len(x) // 2]
    expected = reference(x, precision, ranges_of(sample))
    check_equal(nf.quantize_embeddings(x, precision, ranges=ranges_of(sample)), expected)
    check_equal(nf.quantize_embeddings(x, precision, calibration_embeddings=sample), expected)
    check_equal(nf.quantize_embeddings(x, precision, ranges_of(sample), calibration_embeddings=x), expected)


@pytest.mark.parametrize("precision", BITS)
@given(x=embeddings(smallest=0))
def test_signs_come_back(precision, x):
    codes = nf.quantize_embeddings(x, precision)
    signs = nf.dequantize_embeddings(codes, precision, dim=x.shape[1])
    check_equal(signs, np.where(x > 0, 1, -1).astype(np.float32))
    check_equal(nf.quantize_embeddings(signs, precision), codes)
    every_bit = nf.dequantize_embeddings(codes, precision)
    assert every_bit.shape == (len(x), 8 * codes.shape[1])
    assert (every_bit[:, x.shape[1] :] == -1).all()  # the padding bits are zero
    np.testing.assert_array_equal(every_bit[:, : x.shape[1]], signs)


@pytest.mark.parametrize("precision", SCALARS)
@given(x=embeddings())
def test_values_come_back_to_half_a_step(precision, x):
    ranges = ranges_of(x).astype(np.float32)
    codes = nf.quantize_embeddings(x, precision, ranges)
    values = nf.dequantize_embeddings(codes, precision, ranges=ranges, dim=x.shape[1])
    assert (values.dtype, values.shape) == (np.float32, x.shape)
    assert (np.abs(values - x) <= (ranges[1] - ranges[0]) / 255 * 0.5001 + 1e-6).all()
    assert ((ranges[0] <= values) & (values <= ranges[1])).all()
    top = np.iinfo(
        precision
    ).max  # the code of the largest value alone, which rounding in float32 takes off the last step
    check_equal(nf.quantize_embeddings(values, precision, ranges).clip(max=top - 1), codes.clip(max=top - 1))


@pytest.mark.parametrize("precision", SCALARS)
def test_every_code_comes_back(precision):
    codes = np.arange(256, dtype=np.uint8).view(precision)[:, np.newaxis]
    ranges = [[-5], [250]]
    values = nf.dequantize_embeddings(codes, precision, ranges=ranges)
    check_equal(nf.quantize_embeddings(values, precision, ranges), codes)
    assert values.max() == 250
    assert (np.diff(np.sort(values[:, 0])) > 0).all()


def test_outside_of_the_ranges():
    codes = nf.quantize_embeddings([[-9, 1e30], [9, -1e30]], "uint8", ranges=[[0, 0], [1, 1e-30]])
    assert codes.tolist() == [[0, 255], [255, 0]]


def test_zero_is_not_positive():
    assert nf.quantize_embeddings([[0.0, -0.0, 1e-45, 1e-30]], "ubinary").tolist() == [[0b00110000]]


def test_binary_is_the_default():
    check_equal(nf.quantize_embeddings([[1.0, -1.0]]), np.array([[0]], np.int8))


@pytest.mark.parametrize("precision", [*BITS, *SCALARS, "float32"])
def test_one_vector_stays_one(precision):
    x, ranges = np.linspace(-1, 1, 12, dtype=np.float32), np.array([[-1] * 12, [1] * 12])
    codes = nf.quantize_embeddings(x, precision, ranges)
    check_equal(codes, nf.quantize_embeddings([x], precision, ranges)[0])
    if precision != "float32":
        values = nf.dequantize_embeddings(codes, precision, dim=12, ranges=ranges)
        check_equal(values, nf.dequantize_embeddings(codes[np.newaxis], precision, dim=12, ranges=ranges)[0])


@pytest.mark.parametrize("precision", [*BITS, *SCALARS, "float32"])
def test_no_vectors(precision):
    codes = nf.quantize_embeddings(np.empty((0, 12)), precision)
    assert codes.shape == (0, 2 if precision in BITS else 12)
    assert nf.quantize_embeddings([], precision).shape == (0,)
    if precision != "float32":
        assert nf.dequantize_embeddings(codes, precision, dim=12, ranges=np.ones((2, 12))).shape == (0, 12)
        assert nf.dequantize_embeddings([], precision, dim=0, ranges=np.ones((2, 0))).shape == (0,)


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": lambda x: x.astype(">f4"),
    "lists": lambda x: x.tolist(),
    "list of arrays": list,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", [*BITS, *SCALARS, "float32"])
def test_layouts(precision, layout):
    x = make("normal", 0, 30, 20)
    given = LAYOUTS[layout](x)
    found = nf.quantize_embeddings(given, precision, ranges_of(x))
    check_equal(found, reference(np.asarray(given), precision, ranges_of(x)))


@pytest.mark.parametrize("precision", [*BITS, *SCALARS])
@pytest.mark.parametrize("layout", LAYOUTS.keys() - {"big-endian", "list of arrays"})
def test_layouts_of_codes(precision, layout):
    x = make("normal", 0, 30, 20)
    codes = nf.quantize_embeddings(x, precision)
    found = nf.dequantize_embeddings(LAYOUTS[layout](codes), precision, 20, ranges_of(x))
    check_equal(found, nf.dequantize_embeddings(codes, precision, 20, ranges_of(x)))


@pytest.mark.parametrize("precision", [*BITS, *SCALARS])
def test_integers_and_booleans_count_as_numbers(precision):
    x = make("ties", 0, 30, 20)
    check_equal(nf.quantize_embeddings(x.astype(np.int64), precision), nf.quantize_embeddings(x, precision))
    check_equal(nf.quantize_embeddings(x > 0, precision), nf.quantize_embeddings(np.float32(x > 0), precision))


def test_other_libraries():
    ml_dtypes, pa = pytest.importorskip("ml_dtypes"), pytest.importorskip("pyarrow")
    x = make("ties", 0, 30, 20)
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 20)
    for value in (column, x.astype(ml_dtypes.bfloat16)):
        for precision in (*BITS, *SCALARS, "float32"):
            check_equal(nf.quantize_embeddings(value, precision), nf.quantize_embeddings(x, precision))


def test_tensors():
    torch = pytest.importorskip("torch")
    x = make("ties", 0, 30, 20)
    for tensor in (torch.from_numpy(x), torch.from_numpy(x).bfloat16(), torch.from_numpy(x).requires_grad_()):
        check_equal(nf.quantize_embeddings(tensor), nf.quantize_embeddings(x))


@pytest.mark.parametrize("precision", [*BITS, *SCALARS, "float32"])
def test_many_rows(precision, tmp_path):
    """More than are worked on at a time, and read from a mapped file."""
    x = make("normal", 0, 30_000, 41)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    ranges = ranges_of(x)
    codes = nf.quantize_embeddings(mapped, precision)
    check_equal(codes, reference(x, precision, ranges))
    if precision in SCALARS:
        whole = nf.dequantize_embeddings(codes, precision, ranges=ranges)
        check_equal(whole[29_000:], nf.dequantize_embeddings(codes[29_000:], precision, ranges=ranges))


# -- bad input ---------------------------------------------------------------------------------------------------------

X = np.ones((4, 12), np.float32)
RANGES = np.stack([-X[0], X[0]])


def with_value(array, value, row, column):
    changed = np.array(array)
    changed[row, column] = value
    return changed


BAD_TO_QUANTIZE = {
    "precision": ((X, "int4"), ValueError, "precision: 'int4'.*'binary'.*'float32'"),
    "precision of another type": ((X, np.uint8), TypeError, "precision"),
    "quantized already": ((X.astype(np.uint8),), TypeError, "embeddings: .*uint8.*quantized already"),
    "quantized already, signed": ((X.astype(np.int8), "int8"), TypeError, "embeddings: .*int8"),
    "strings": (([["a"]],), TypeError, "embeddings: .*<U1"),
    "complex": ((X.astype(complex),), TypeError, "embeddings: .*complex"),
    "ragged": (([[1.0, 2.0], [1.0]],), ValueError, "embeddings: .*lengths"),
    "0-d": ((1.0,), ValueError, "embeddings: .*0 dimensions"),
    "3-d": ((X[np.newaxis],), ValueError, "embeddings: .*3 dimensions"),
    "masked": ((np.ma.masked_equal(X, 1),), TypeError, "embeddings: .*masked"),
    "NaN": ((with_value(X, np.nan, 2, 3),), ValueError, r"embeddings: row 2 holds NaN \(column 3\)"),
    "infinity": ((with_value(X, -np.inf, 1, 0), "uint8"), ValueError, "embeddings: row 1 holds infinity"),
    "infinity, with ranges": ((with_value(X, np.inf, 1, 0), "uint8", RANGES), ValueError, "embeddings: row 1"),
    "infinity in float32": ((X.astype(float) * 1e39, "float32"), ValueError, "embeddings: row 0 holds infinity"),
    "far down": ((with_value(np.ones((50_000, 12)), np.nan, 41_234, 7),), ValueError, "row 41234 holds NaN"),
    "one vector without ranges": ((X[0], "int8"), ValueError, "ranges: .*single"),
    "one row without ranges": ((X[:1], "uint8"), ValueError, "ranges: .*single"),
    "ranges for fewer dimensions": ((X, "int8", RANGES[:, :5]), ValueError, r"ranges: shape \(2, 5\).*\(2, 12\)"),
    "ranges the other way round": ((X, "int8", RANGES.T), ValueError, r"ranges: shape \(12, 2\).*\(2, 12\)"),
    "ranges of one dimension": ((X, "int8", X[0]), ValueError, r"ranges: shape \(12,\)"),
    "ranges upside down": ((X, "int8", RANGES[::-1]), ValueError, "ranges: the largest.*column 0"),
    "ranges with NaN": ((X, "int8", with_value(RANGES, np.nan, 1, 4)), ValueError, "ranges: NaN.*column 4"),
    "infinite ranges": ((X, "int8", with_value(RANGES, np.inf, 1, 4)), ValueError, "ranges: .*infinity.*column 4"),
    "ranges too wide": ((X, "int8", RANGES * np.float32(3e38)), ValueError, "ranges: .*too wide.*column 0"),
    "strings for ranges": ((X, "int8", [["a"] * 12] * 2), TypeError, "ranges: .*<U1"),
    "calibration of another dimension": ((X, "int8", None, X[:, :5]), ValueError, "calibration_embeddings: 5.*12"),
    "calibration without rows": ((X, "int8", None, X[:0]), ValueError, "calibration_embeddings: no"),
    "calibration with NaN": (
        (X, "int8", None, with_value(X, np.nan, 2, 3)),
        ValueError,
        "calibration_embeddings: row 2 holds NaN",
    ),
}

BYTES = np.ones((4, 2), np.uint8)
SIGNED = BYTES.astype(np.int8)
BAD_TO_DEQUANTIZE = {
    "precision": ((BYTES, "bits"), ValueError, "precision: 'bits'.*'binary'"),
    "float32": ((X, "float32"), ValueError, "precision: 'float32'"),
    "signed for unsigned bits": ((SIGNED, "ubinary"), TypeError, "codes: .*int8 given, expected uint8 for 'ubinary'"),
    "unsigned for signed bits": ((BYTES, "binary"), TypeError, "codes: .*uint8 given, expected int8 for 'binary'"),
    "unsigned for int8": ((BYTES, "int8", None, RANGES[:, :2]), TypeError, "codes: .*uint8 given, expected int8"),
    "signed for uint8": ((SIGNED, "uint8", None, RANGES[:, :2]), TypeError, "codes: .*int8 given, expected uint8"),
    "floats": ((X, "ubinary"), TypeError, "codes: .*float32"),
    "booleans": ((X > 0, "ubinary"), TypeError, "codes: .*bool"),
    "too large in a list": (([[1, 256]], "ubinary"), ValueError, "codes: 256 given, expected 0 to 255"),
    "too small in a list": (([[1, -129]], "binary"), ValueError, "codes: -129 given, expected -128 to 127"),
    "3-d": ((BYTES[np.newaxis], "ubinary"), ValueError, "codes: .*3 dimensions"),
    "too many dimensions": ((BYTES, "ubinary", 17), ValueError, "dim: 17.*3 bytes.*2"),
    "too few dimensions": ((BYTES, "ubinary", 8), ValueError, "dim: 8.*1 bytes.*2"),
    "fractional dimension": ((BYTES, "ubinary", 12.5), TypeError, "dim: 12.5"),
    "negative dimension": ((BYTES, "ubinary", -1), ValueError, "dim: -1"),
    "dimension of bytes": ((BYTES, "uint8", 16, RANGES[:, :2]), ValueError, "dim: 16.*2"),
    "no ranges": ((BYTES, "uint8"), ValueError, "ranges: None"),
    "ranges of another dimension": ((BYTES, "uint8", None, RANGES), ValueError, r"ranges: shape \(2, 12\).*\(2, 2\)"),
}


@pytest.mark.parametrize("case", BAD_TO_QUANTIZE)
def test_what_cannot_be_quantized(case):
    arguments, error, message = BAD_TO_QUANTIZE[case]
    with pytest.raises(error, match=message):
        nf.quantize_embeddings(*arguments)


@pytest.mark.parametrize("case", BAD_TO_DEQUANTIZE)
def test_what_cannot_be_dequantized(case):
    arguments, error, message = BAD_TO_DEQUANTIZE[case]
    with pytest.raises(error, match=message):
        nf.dequantize_embeddings(*arguments)
