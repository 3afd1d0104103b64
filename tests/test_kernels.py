"""Every kernel of every level that runs here, against float64 NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import oracle
from nearfield import _core

raw = _core.raw

DIMS = [*range(1, 18), 31, 32, 33, 63, 64, 65, 97, 384, 768, 1536]
COUNTS = [*range(10), 33]  # kernels take several rows at a time
GROUP = 32  # documents in a tile
F32, F16, BF16, INT8, UINT8 = range(5)
FLOATS = [F32, F16, BF16]
ELEMENTS = [np.dtype(np.float32), np.dtype(np.uint16), np.dtype(np.uint16), np.dtype(np.int8), np.dtype(np.uint8)]
NAMES = ["f32", "f16", "bf16", "int8", "uint8"]

each_level = pytest.mark.parametrize("level", _core.levels())
each_dim = pytest.mark.parametrize("dim", DIMS)
each_type = pytest.mark.parametrize("type_", range(5), ids=NAMES)
each_float = pytest.mark.parametrize("type_", FLOATS, ids=NAMES[:3])


def bits_of(values: np.ndarray, type_: int) -> np.ndarray:
    """Encode float32 values: the elements that are stored."""
    if type_ == F16:
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    if type_ == BF16:
        return (oracle.stored(values, "bf16").view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(ELEMENTS[type_])


def values_of(elements: np.ndarray, type_: int) -> np.ndarray:
    """Decode stored elements to float32, which is exact."""
    if type_ == F16:
        return elements.view(np.float16).astype(np.float32)
    if type_ == BF16:
        return (elements.astype(np.uint32) << 16).view(np.float32)
    return elements.astype(np.float32)


def random_elements(rng: np.random.Generator, type_: int, shape: tuple[int, ...]) -> np.ndarray:
    if type_ in FLOATS:
        return bits_of(rng.standard_normal(shape, np.float32), type_)
    ends = np.iinfo(ELEMENTS[type_])  # half of the integers are the ends of the range: the largest sums
    values = rng.integers(ends.min, ends.max, shape, endpoint=True)
    return np.where(rng.random(shape) < 0.5, rng.choice([ends.min, ends.max], shape), values).astype(ELEMENTS[type_])


def lay_out(rows: np.ndarray, offset: int, gap: int) -> tuple[np.ndarray, int]:
    """Bytes with the rows `gap` apart from byte `offset` on, and their stride. All bytes around them make NaNs."""
    n, row_bytes = len(rows), rows.shape[1] * rows.itemsize
    stride = row_bytes + gap
    data = np.full(offset + n * stride + 64, 0xFF, np.uint8)
    data[offset : offset + n * stride].reshape(n, stride)[:, :row_bytes] = rows.view(np.uint8).reshape(n, row_bytes)
    return data, stride


def layouts(rng: np.random.Generator, elements: np.ndarray):
    """All ways in which kernels meet rows: (arguments of the raw function after the query, numbers of the rows)."""
    for offset in (0, 1):
        for gap in (0, 5):
            data, stride = lay_out(elements, offset, gap)
            for n in COUNTS:
                yield (data, offset, stride, None, n), np.arange(n)
                listed = rng.integers(0, len(elements), n).astype(np.uint32)
                yield (data, offset, stride, listed, 0), listed


def rounding(dim: int, digits: int = 24) -> float:
    return (dim + 4) * 2.0**-digits


def assert_near(found: np.ndarray, expected: np.ndarray, tolerance: np.ndarray) -> None:
    wrong = ~(np.abs(found - expected) <= tolerance)  # so that a NaN is wrong
    assert not wrong.any(), f"{found[wrong]} are not {expected[wrong]} within {tolerance[wrong]}"


@each_level
@each_dim
@each_float
def test_dot_and_squared_length(level, dim, type_):
    rng = np.random.default_rng(dim)
    query = rng.standard_normal(dim, np.float32)
    elements = random_elements(rng, type_, (max(COUNTS), dim))
    x, q = values_of(elements, type_).astype(np.float64), query.astype(np.float64)
    # vdpbf16ps takes the query in two parts, which have 16 significant bits together.
    split = 2.0**-16 if type_ == BF16 and _core.slots(level)["dot_bf16"] == "avx512bf16" else 0.0
    for arguments, rows in layouts(rng, elements):
        dot, squared = raw.dot(level, type_, query, *arguments)
        assert_near(dot, x[rows] @ q, np.abs(x[rows]) @ np.abs(q) * (rounding(dim) + split))
        expected = np.square(x[rows]).sum(axis=1)
        assert_near(squared, expected, expected * rounding(dim))


@each_level
@each_dim
@each_float
def test_l2(level, dim, type_):
    rng = np.random.default_rng(dim)
    query = rng.standard_normal(dim, np.float32)
    elements = random_elements(rng, type_, (max(COUNTS), dim))
    distances = np.square(query.astype(np.float64) - values_of(elements, type_)).sum(axis=1)
    for arguments, rows in layouts(rng, elements):
        found = raw.l2(level, type_, query, *arguments)
        assert_near(found, distances[rows], distances[rows] * rounding(dim))


@each_level
@each_dim
@pytest.mark.parametrize("type_", [INT8, UINT8], ids=NAMES[3:])
def test_integer_dot_is_exact(level, dim, type_):
    rng = np.random.default_rng(dim)
    query = random_elements(rng, INT8, (dim,))
    elements = random_elements(rng, type_, (max(COUNTS), dim))
    elements[0], elements[1] = np.iinfo(elements.dtype).min, np.iinfo(elements.dtype).max
    x = elements.astype(np.int64)
    for q in (query, np.full(dim, -128, np.int8), np.full(dim, 127, np.int8)):
        for arguments, rows in layouts(rng, elements):
            dot, squared = raw.integer_dot(level, type_, q, *arguments)
            np.testing.assert_array_equal(dot, x[rows] @ q.astype(np.int64))
            np.testing.assert_array_equal(squared, np.square(x[rows]).sum(axis=1))


@each_level
@each_dim
@each_type
def test_settle_has_the_accuracy_of_float64(level, dim, type_):
    rng = np.random.default_rng(dim)
    query = rng.standard_normal(dim, np.float32)
    elements = random_elements(rng, type_, (1, dim))
    for scale in np.float32([1, 0.3]):
        x, q = (values_of(elements, type_)[0] * scale).astype(np.float64), query.astype(np.float64)
        expected = np.array([q @ x, x @ x, np.square(q - x).sum()])
        magnitudes = np.array([np.abs(q) @ np.abs(x), *expected[1:]])
        for offset in (0, 1):
            data, _ = lay_out(elements, offset, 0)
            found = raw.settle(level, type_, query, data, offset, scale)
            assert_near(found, expected, 2 * rounding(dim, 53) * magnitudes)  # NumPy's own sums are rounded too


@each_level
@each_dim
@each_type
def test_decode_and_encode_keep_every_element(level, dim, type_):
    elements = random_elements(np.random.default_rng(dim), type_, (1, dim))
    for offset in (0, 1):
        data, _ = lay_out(elements, offset, 0)
        decoded = raw.decode(level, type_, data, offset, dim)
        np.testing.assert_array_equal(decoded, values_of(elements, type_)[0])
        if type_ in FLOATS:
            encoded = raw.encode(level, type_, decoded)
            np.testing.assert_array_equal(encoded, elements.view(np.uint8).reshape(-1))


ALL_PATTERNS = np.arange(1 << 16).astype(np.uint16)


@each_level
@pytest.mark.parametrize("type_", [F16, BF16], ids=NAMES[1:3])
def test_decode_of_all_patterns(level, type_):
    decoded = raw.decode(level, type_, ALL_PATTERNS.view(np.uint8), 0, len(ALL_PATTERNS))
    expected = values_of(ALL_PATTERNS, type_)
    nan = np.isnan(expected)
    assert np.isnan(decoded[nan]).all()
    np.testing.assert_array_equal(decoded.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])  # -0 is not 0


@each_level
@pytest.mark.parametrize("type_", [F16, BF16], ids=NAMES[1:3])
def test_encode_rounds_to_nearest_even(level, type_):
    infinity = {F16: 0x7C00, BF16: 0x7F80}[type_]
    counts = np.arange(infinity, dtype=np.uint16)  # all finite values that are not negative, in order
    values = values_of(counts, type_).astype(np.float64)
    above = np.append(values[1:], 2 * values[-1] - values[-2])  # as if there were one more
    middles = ((values + above) / 2).astype(np.float32)  # exact, subnormal ones too
    nearest = counts + (counts & 1)  # of the middles: the even one, infinity for the last
    overflow = np.float32([np.finfo(np.float32).max, np.inf])
    cases = np.concatenate(
        [middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, overflow[1]), overflow]
    )
    expected = np.concatenate([nearest, counts, counts + 1, [infinity, infinity]]).astype(np.uint16)
    for sign, bit in ((1, 0), (-1, 0x8000)):
        encoded = raw.encode(level, type_, sign * cases).view(np.uint16)
        np.testing.assert_array_equal(encoded, expected | bit)
    assert (raw.encode(level, type_, np.full(33, np.nan, np.float32)).view(np.uint16) & 0x7FFF > infinity).all()


def quantize_cases(rng: np.random.Generator, dim: int):
    for size in np.float32([0, 1, 3e-5, 1e-20, 1e-30, 1e-37, 1e-41, 1e10, 1e19, 1e36]):
        yield size * rng.standard_normal(dim, np.float32)
        yield size * rng.integers(0, 255, dim).astype(np.float32)  # on the codes, or between two
        single = np.zeros(dim, np.float32)
        single[dim // 2] = -size
        yield single


@each_level
@each_dim
@pytest.mark.parametrize("limit", [127, 63])
def test_quantize(level, dim, limit):
    for vector in quantize_cases(np.random.default_rng(dim), dim):
        code, (scale, error, norm) = raw.quantize(level, vector, limit)
        assert scale == np.abs(vector).max() / np.float32(limit)
        assert code.dtype == np.int8 and np.abs(code.astype(int)).max() <= limit
        x, steps = vector.astype(np.float64), code * np.float64(scale)
        if scale >= np.finfo(np.float32).tiny:
            assert np.abs(x / np.float64(scale) - code).max() <= 0.5001
        else:
            assert not code.any()
        length = np.linalg.norm(x)
        for bound, true in ((error, np.linalg.norm(x - steps)), (norm, np.linalg.norm(steps))):
            assert true <= bound
            if length < 1e18:  # no looser than rounding needs; beyond, squares overflow, and the bounds may
                assert bound <= true * (1 + (dim + 16) * 2.0**-22) + length * 2.0**-22 + 1e-20


@dataclass
class TileCase:
    """A tile with everything but codes and queries; all numbers float32."""

    width: int
    factors: np.ndarray  # (4, GROUP): mul, add, err, norm
    terms: np.ndarray  # (4, width): scale, slack, bound, bias
    dim: int
    norm_ratio: float = 0.01

    @classmethod
    def random(cls, rng: np.random.Generator, dim: int, width: int) -> TileCase:
        factors, terms = rng.standard_normal((4, GROUP), np.float32), rng.standard_normal((4, width), np.float32)
        factors[2:], terms[1], terms[3] = np.abs(factors[2:]), np.abs(terms[1]), 0
        return cls(width, factors, terms, dim)

    def low(self, dots: np.ndarray, magnitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower bounds (width, GROUP) and their tolerances, from dot products less the bias."""
        mul, add, err, norm = self.factors.astype(np.float64)
        scale, slack = self.terms[:2, :, None].astype(np.float64)
        product, extra = scale * mul * dots, slack * (err + np.float64(np.float32(self.norm_ratio)) * norm)
        tolerance = np.abs(scale * mul) * magnitudes * (self.dim + 8) * 2.0**-24
        return add - product - extra, tolerance + 2.0**-21 * (np.abs(add) + np.abs(product) + np.abs(extra))

    def choose_bounds(self, low: np.ndarray) -> None:
        """Let a few, half, all or none of the documents survive, a different choice from query to query."""
        low = np.sort(low, axis=1)
        spread = 1 + np.abs(low).max()
        choices = [low[:, GROUP // 2], low[:, 0] - spread, low[:, -1] + spread, low[:, 2]]
        self.terms[2] = np.choose((np.arange(self.width) + self.dim) % 4, choices)

    def check(self, level: str, floats: bool, codes, queries, dots, magnitudes) -> None:
        hit, survivors, low = raw.tile(
            level, floats, codes, self.factors, self.dim, queries, self.terms, self.norm_ratio
        )
        expected, tolerance = self.low(dots, magnitudes)
        bound = self.terms[2][:, None]
        hits = (hit >> np.arange(32) & 1).astype(bool)
        assert not hits[self.width :].any()
        hits = hits[: self.width]
        # A query without survivors has no bounds: every one of its documents must be out of reach.
        assert (expected[~hits] > bound[~hits] - tolerance[~hits]).all()
        low, expected, tolerance, bound = low[hits], expected[hits], tolerance[hits], bound[hits]
        known = np.isfinite(expected)
        assert_near(low[known], expected[known], tolerance[known])
        np.testing.assert_array_equal(low[~known], expected[~known])
        survive = (survivors[hits][:, None] >> np.arange(GROUP, dtype=np.uint32) & 1).astype(bool)
        np.testing.assert_array_equal(survive, ~(low > bound))
        assert survive.any(axis=1).all()


def shifted(array: np.ndarray, by: int) -> np.ndarray:
    """Return the bytes of an array, copied to an address that is `by` past an aligned one."""
    data = np.empty(array.nbytes + by, np.uint8)
    data[by:] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    return data[by:]


@each_level
@each_dim
def test_tile_f32(level, dim):
    rng = np.random.default_rng(dim)
    for width in range(1, 13):
        tile = TileCase.random(rng, dim, width)
        codes, queries = rng.standard_normal((dim, GROUP), np.float32), rng.standard_normal((dim, width), np.float32)

        def check(tile=tile, codes=codes, queries=queries):
            q, x = queries.T.astype(np.float64), codes.astype(np.float64)
            for by in (0, 4):
                tile.check(level, True, shifted(codes, by), shifted(queries, by), q @ x, np.abs(q) @ np.abs(x))

        q, x = queries.T.astype(np.float64), codes.astype(np.float64)
        tile.choose_bounds(tile.low(q @ x, np.abs(q) @ np.abs(x))[0])
        check()
        # NaN survives, wherever it comes from: a code, a factor, a bound, a query.
        codes[-1, 31] = tile.factors[1, 7] = tile.terms[2, -1] = np.nan
        check()
        queries[-1, 0] = np.nan
        check()


@each_level
@each_dim
@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
def test_tile_u8(level, dim, extreme):
    rng = np.random.default_rng(dim)
    limit, padding = raw.query_limit(level), -dim % 4
    for width in range(1, 13):
        if extreme:  # the largest sums of either sign
            queries = np.where(np.arange(width) % 2, -limit, limit) * np.ones((dim, 1), int)
            codes = np.where(np.arange(GROUP) % 2, 255, 0) * np.ones((dim, 1), int)
        else:
            queries = rng.integers(-limit, limit, (dim, width), endpoint=True)
            codes = rng.integers(0, 255, (dim, GROUP), endpoint=True)
        tile = TileCase.random(rng, dim, width)
        tile.terms[3] = np.choose(np.arange(width) % 3, [128 * queries.sum(axis=0), 0, -77])
        dots = (queries.T @ codes - tile.terms[3][:, None]).astype(np.float64)
        tile.choose_bounds(tile.low(dots, np.abs(dots))[0])
        code_bytes = np.pad(codes, ((0, padding), (0, 0)), constant_values=128).astype(np.uint8)
        query_bytes = np.pad(queries, ((0, padding), (0, 0))).astype(np.int8)
        interleaved = [x.reshape(-1, 4, x.shape[1]).transpose(0, 2, 1) for x in (code_bytes, query_bytes)]
        for by in (0, 1):
            packed = [shifted(x, by) for x in interleaved]
            tile.check(level, False, *packed, dots, np.abs(dots))  # the sums are exact
        tile.factors[1, 7] = tile.terms[2, -1] = np.nan
        tile.check(level, False, *packed, dots, np.abs(dots))


@each_level
def test_query_limit_is_what_the_sums_of_the_level_can_hold(level):
    pairs_in_16_bits = _core.slots(level)["tile_u8"] == "avx2"  # 2 * 255 * 63 < 2^15
    assert raw.query_limit(level) == (63 if pairs_in_16_bits else 127)
