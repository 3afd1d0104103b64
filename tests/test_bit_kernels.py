"""Every bit kernel of every level that runs here, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from nearfield import _core

raw = _core.raw

GROUP = 32  # documents in a tile
TILE, PLANES = 4, 8  # the most queries in a tile, and planes of a query
LENGTHS = [*range(1, 201), 255, 256, 257, 320, 384, 511, 512, 1000, 1250, 2048, 4099, 12500]
WORDS = [*range(1, 18), 24, 31, 32, 33, 48, 63, 64, 65, 157, 1563]

each_level = pytest.mark.parametrize("level", _core.levels())


def random_bytes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw bytes, a quarter of which are all ones: the largest counts."""
    return np.where(rng.random(shape) < 0.25, 0xFF, rng.integers(0, 256, shape)).astype(np.uint8)


def random_words(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return random_bytes(rng, (*shape, 8)).view(np.uint64)[..., 0]


def ones(x: np.ndarray) -> np.ndarray:
    """Count the ones of each byte, or of each word."""
    x = np.ascontiguousarray(x)
    return np.unpackbits(x.view(np.uint8).reshape(*x.shape, x.itemsize), axis=-1).sum(axis=-1, dtype=np.int64)


def lay_out(rows: np.ndarray, offset: int, gap: int) -> tuple[np.ndarray, int]:
    """Bytes with the rows `gap` apart from byte `offset` on, and their stride. All bytes around them are ones."""
    n, length = rows.shape
    stride = length + gap
    data = np.full(offset + n * stride + 64, 0xFF, np.uint8)
    data[offset : offset + n * stride].reshape(n, stride)[:, :length] = rows
    return data, stride


def check_counts(level: str, rng: np.random.Generator, length: int, numbers, layouts) -> None:
    rows, query = random_bytes(rng, (max(numbers), length)), random_bytes(rng, (length,))
    expected = {True: ones(rows ^ query).sum(axis=1), False: ones(rows & query).sum(axis=1)}
    for offset, gap in layouts:
        data, stride = lay_out(rows, offset, gap)
        for n in numbers:
            listed = rng.integers(0, len(rows), n).astype(np.uint32)
            for exclusive, counts in expected.items():
                found = raw.bit_counts(level, exclusive, query, data, offset, stride, None, n)
                np.testing.assert_array_equal(found, counts[:n])
                found = raw.bit_counts(level, exclusive, query, data, offset, stride, listed, 0)
                np.testing.assert_array_equal(found, counts[listed])


@each_level
@pytest.mark.parametrize("length", LENGTHS)
def test_counts_of_rows_of_any_length(level, length):
    rng = np.random.default_rng(length)
    check_counts(level, rng, length, [1, 7, 19], [(0, 0), (1, 0), (0, 5), (3, 13)])


@each_level
@pytest.mark.parametrize("length", [1, 4, 8, 12, 16, 24, 32, 48, 64, 96, 100, 128, 320, 1250])
def test_counts_of_any_number_of_rows(level, length):
    rng = np.random.default_rng(length)
    check_counts(level, rng, length, range(71), [(0, 0), (1, 3)])


@each_level
@pytest.mark.parametrize("length", LENGTHS)
def test_interleave(level, length):
    rng = np.random.default_rng(length)
    rows = random_bytes(rng, (GROUP, length))
    for offset, gap in ((0, 0), (1, 0), (0, 5)):
        data, stride = lay_out(rows, offset, gap)
        for n in range(GROUP + 1) if length < 40 else (0, 1, 8, 13, 31, GROUP):
            padded = np.zeros((GROUP, -(-length // 8) * 8), np.uint8)
            padded[:n, :length] = rows[:n]
            found = raw.interleave(level, data, offset, stride, n, length)
            np.testing.assert_array_equal(found, padded.view(np.uint64).T)


@each_level
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 15, 16, 17, 31, 256, 300])
def test_select(level, n):
    rng = np.random.default_rng(n)
    counts = rng.integers(0, 40, n, np.uint32)
    for most in (-1, 0, 5, 39, 40, 2**31 - 1):
        at = raw.select(level, counts, most)
        assert at.tolist() == np.flatnonzero(counts.astype(np.int64) <= most).tolist()


def check_tile(level: str, codes: np.ndarray, queries: np.ndarray, most: np.ndarray, distances: np.ndarray) -> None:
    width = len(most)
    hit, survivors, counts = raw.hamming_tile(level, codes, queries, most)
    near = distances <= most[:, None]
    hits = near.any(axis=1)
    assert hit == np.packbits(hits, bitorder="little")[0]
    np.testing.assert_array_equal(counts[hits], distances[hits])
    survive = (survivors[:, None] >> np.arange(GROUP, dtype=np.uint32) & 1).astype(bool)
    np.testing.assert_array_equal(survive[hits], near[hits])
    assert counts.shape == (width, GROUP)


@each_level
@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("width", range(1, TILE + 1))
def test_hamming_tile(level, words, width):
    rng = np.random.default_rng(words)
    for case in ("random", "nearby", "opposite"):
        codes, queries = random_words(rng, words, GROUP), random_words(rng, words, width)
        if case == "nearby":  # at small distances, zero among them
            codes = queries[:, rng.integers(0, width, GROUP)]
            codes[0] ^= rng.integers(0, 4, GROUP).astype(np.uint64)
        elif case == "opposite":  # at the largest distance of all
            codes[:], queries[:] = 0, np.uint64(2**64 - 1)
        distances = ones(codes[:, None, :] ^ queries[:, :, None]).sum(axis=0)
        ordered = np.sort(distances, axis=1)
        bounds = [-1, ordered[:, 0] - 1, ordered[:, 0], ordered[:, 7], ordered[:, -1] - 1, ordered[:, -1], 2**31 - 1]
        bounds = np.stack([np.broadcast_to(b, width) for b in bounds]).astype(np.int32)
        for choice in range(len(bounds)):
            check_tile(level, codes, queries, bounds[choice], distances)  # the same for all queries
            mixed = bounds[(choice + 3 * np.arange(width)) % len(bounds), np.arange(width)]
            check_tile(level, codes, queries, mixed, distances)


@each_level
@pytest.mark.parametrize("words", [1, 2, 3, 4, 6, 7, 12, 16, 31, 32, 33, 65, 157])
@pytest.mark.parametrize("exclusive", [True, False], ids=["xor", "and"])
def test_planes(level, words, exclusive):
    rng = np.random.default_rng(words)
    for doc_planes in (1, 2, 3):
        for query_planes in range(1, PLANES + 1):
            codes, query = random_words(rng, doc_planes, words, GROUP), random_words(rng, words, query_planes)
            factors = rng.standard_normal((2, GROUP), np.float32)
            weight = rng.standard_normal((doc_planes, query_planes), np.float32)
            offset, tilt = rng.standard_normal(2, np.float32) * np.float32([100, 1])
            x, q = codes[:, None], query.T[None, :, :, None]
            counts = ones(x ^ q if exclusive else x & q).sum(axis=2)  # (document planes, query planes, GROUP)
            terms = weight.astype(np.float64)[..., None] * counts
            mul, add = factors.astype(np.float64)
            expected = mul * (offset + terms.sum(axis=(0, 1))) + tilt * add
            magnitude = np.abs(mul) * (np.abs(offset) + np.abs(terms).sum(axis=(0, 1))) + np.abs(tilt * add)
            tolerance = (weight.size + 4) * 2.0**-24 * magnitude
            for bound in np.float32([np.median(expected), -np.inf, np.inf, np.nan]):
                survivors, low = raw.planes(level, codes, factors, query, weight, offset, tilt, bound, exclusive)
                assert (np.abs(low - expected) <= tolerance).all()
                survive = (survivors >> np.arange(GROUP) & 1).astype(bool)
                np.testing.assert_array_equal(survive, ~(low > bound))
            factors[0, 3] = np.nan  # what is not a number survives
            survivors, low = raw.planes(level, codes, factors, query, weight, offset, tilt, -np.inf, exclusive)
            assert survivors == 1 << 3 and np.isnan(low[3])
