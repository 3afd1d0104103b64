"""The quantized formats of sentence-transformers, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _inputs
from ._inputs import Array

_CODE_TYPES: dict[str, type[np.generic]] = {
    "binary": np.int8,
    "ubinary": np.uint8,
    "int8": np.int8,
    "uint8": np.uint8,
}
_BITS = ("binary", "ubinary")
_BLOCK_BYTES = 1 << 20  # what is worked on at a time: it stays in the cache, and a mapped file on the disk


def quantize_embeddings(
    embeddings: npt.ArrayLike,
    precision: str = "binary",
    ranges: npt.ArrayLike | None = None,
    calibration_embeddings: npt.ArrayLike | None = None,
) -> npt.NDArray[Any]:
    """
    Quantize embeddings into the formats of sentence-transformers.

    The result is that of its ``quantize_embeddings``, version 6, bit for bit.

    Parameters
    ----------
    embeddings : array_like, shape (n, dim) or (dim,)
        Floats of any type and layout: NumPy, torch, Arrow, DLPack or nested lists.
    precision : {"binary", "ubinary", "int8", "uint8", "float32"}
        "ubinary" keeps one bit per dimension, set where the value is greater than 0, and packs eight into a byte as
        `numpy.packbits` does: the first dimension in the highest bit, the last byte filled up with zeros. "binary" is
        the same less 128. "uint8" cuts the range of each dimension into 255 steps and keeps the number of the step, 0
        to 255; "int8" is the same less 128. "float32" converts.
    ranges : array_like, shape (2, dim), optional
        The smallest and the largest value of each dimension, for "int8" and "uint8"; the others ignore it. Values
        outside of them become 0 or 255.
    calibration_embeddings : array_like, shape (m, dim), optional
        Embeddings to take the ranges from if none are given; by default those that are quantized.

    Returns
    -------
    ndarray, shape (n, ceil(dim / 8)) or (n, dim)
        int8 for "binary" and "int8", uint8 for "ubinary" and "uint8". A single vector gives an array of one dimension.

    Raises
    ------
    ValueError
        For an unknown precision, NaN or infinity (the row is named), arrays or ranges of a wrong shape, and a single
        vector for "int8" or "uint8" without anything to take the ranges from.
    TypeError
        For elements that are not numbers, and for embeddings of int8 or uint8: they are quantized already.

    See Also
    --------
    dequantize_embeddings

    Examples
    --------
    >>> import nearfield as nf
    >>> nf.quantize_embeddings([[0.5, -0.1, 0.2, -0.3], [-0.4, 0.3, 0.1, 0.2]], "ubinary")
    array([[160],
           [112]], dtype=uint8)
    """
    _check_precision(precision, (*_CODE_TYPES, "float32"))
    array = _embeddings(embeddings, "embeddings")
    rows, dim = np.atleast_2d(array), array.shape[-1]
    element: type[np.generic] = np.uint8
    encode: Callable[[Array], Array]
    if precision in _BITS:
        width, encode = -(-dim // 8), _packed_signs
    elif precision in _CODE_TYPES:
        width, encode = dim, _step_numbers(*_ranges(ranges, calibration_embeddings, array))
    else:
        width, element, encode = dim, np.float32, np.asarray
    out = np.empty((len(rows), width), element)
    for at, block in _finite_blocks(rows, "embeddings"):
        out[at] = encode(block)
    if _CODE_TYPES.get(precision) is np.int8:
        out = _flip_sign(out).view(np.int8)
    return out.reshape(*array.shape[:-1], width)


def dequantize_embeddings(
    codes: npt.ArrayLike, precision: str, dim: int | None = None, ranges: npt.ArrayLike | None = None
) -> npt.NDArray[np.float32]:
    """
    Turn the codes of `quantize_embeddings`, or of sentence-transformers, into floats.

    Quantizing the result in the same way gives the same codes again, but for the largest code of "int8" and "uint8": it
    belongs to the largest value alone, and may become one less by rounding.

    Parameters
    ----------
    codes : array_like, shape (n, bytes) or (bytes,)
        An array of int8 for "binary" and "int8", of uint8 for "ubinary" and "uint8", or nested lists of such numbers.
    precision : {"binary", "ubinary", "int8", "uint8"}
        What the codes are.
    dim : int, optional
        Dimension of the embeddings, where it is no multiple of 8; by default all bits are taken.
    ranges : array_like, shape (2, dim), optional
        For "int8" and "uint8", the ranges that they were quantized with; the others ignore it.

    Returns
    -------
    ndarray of float32, shape (n, dim) or (dim,)
        For "binary" and "ubinary" 1 where a bit is set and -1 elsewhere. For "int8" and "uint8" the middle of the step,
        so that a value inside the ranges is off by half a step at most.

    Raises
    ------
    ValueError
        For an unknown precision, a dimension that does not fit the number of bytes, a code that its type does not
        hold, and ranges that are missing or of a wrong shape.
    TypeError
        For codes of another type than those of the precision.

    See Also
    --------
    quantize_embeddings

    Examples
    --------
    >>> import nearfield as nf
    >>> nf.dequantize_embeddings([160], "ubinary", dim=4)
    array([ 1., -1.,  1., -1.], dtype=float32)
    """
    _check_precision(precision, tuple(_CODE_TYPES))
    array = _unsigned(codes, precision)
    columns = array.shape[-1]
    if precision in _BITS:
        bits = 8 * columns if dim is None else _inputs.count(dim, "dim")
        if -(-bits // 8) != columns:
            raise ValueError(f"dim: {bits} given, {-(-bits // 8)} bytes, but the codes have {columns}")
        signs = np.unpackbits(array, axis=-1, count=bits).astype(np.float32)
        signs *= 2
        signs -= 1
        return signs
    if dim is not None and _inputs.count(dim, "dim") != columns:
        raise ValueError(f"dim: {dim} given, but the codes have {columns} columns")
    if ranges is None:
        raise ValueError(f"ranges: None given, expected those that the {precision} codes were made with")
    smallest, largest = _checked_ranges(ranges, columns)
    step = (largest.astype(np.float64) - smallest) / 255
    rows = np.atleast_2d(array)
    values = np.empty(rows.shape, np.float32)
    for at in _blocks(rows):
        values[at] = ((rows[at] + 0.5) * step + smallest).clip(smallest, largest)
    return values.reshape(array.shape)


def _check_precision(precision: str, known: tuple[str, ...]) -> None:
    if _inputs.text(precision, "precision") not in known:
        raise ValueError(f"precision: {precision!r} given, expected one of {', '.join(map(repr, known))}")


def _check_shape(array: Array, name: str) -> Array:
    if array.ndim not in (1, 2):
        raise ValueError(f"{name}: an array of {array.ndim} dimensions given, expected 2 (or 1 for a single vector)")
    return array


def _embeddings(value: Any, name: str) -> Array:
    """An array of floats as wide as they were given: the formats are defined by arithmetic in their own precision."""
    array = _inputs._as_array(value, name)
    if array.dtype in (np.int8, np.uint8):
        raise TypeError(f"{name}: elements of type {array.dtype} given, expected floats; they are quantized already")
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: elements of type {array.dtype} given, expected numbers")
    return _check_shape(array if array.dtype.kind == "f" else array.astype(np.float64), name)


def _unsigned(value: Any, precision: str) -> Array:
    """Codes of any precision as bytes of their unsigned twin."""
    array, expected = _inputs._as_array(value, "codes"), np.dtype(_CODE_TYPES[precision])
    if array.dtype != expected and array.size:
        # Nested lists, as from JSON, arrive as wide integers; int8 in place of uint8 is a mix-up of two formats.
        if array.dtype.kind not in "iu" or array.dtype.itemsize == 1:
            raise TypeError(f"codes: elements of type {array.dtype} given, expected {expected} for {precision!r}")
        limits = np.iinfo(expected)
        for extreme in (array.min(), array.max()):
            if not limits.min <= extreme <= limits.max:
                raise ValueError(f"codes: {extreme} given, expected {limits.min} to {limits.max} for {precision!r}")
    array = _check_shape(array.astype(expected, copy=False), "codes")
    return _flip_sign(array.view(np.uint8)) if expected == np.int8 else array


def _flip_sign(array: Array) -> Array:
    """Bytes less 128, or more by 128: modulo 256 it is the same, and only the highest bit changes."""
    flipped: Array = array ^ np.uint8(128)
    return flipped


def _blocks(rows: Array) -> Iterator[slice]:
    """Slices of rows that together are no larger than a block."""
    count = max(1, _BLOCK_BYTES // max(1, rows.shape[1] * rows.itemsize))
    return (slice(start, start + count) for start in range(0, len(rows), count))


def _finite_blocks(rows: Array, name: str) -> Iterator[tuple[slice, Array]]:
    for at in _blocks(rows):
        block = rows[at]
        with np.errstate(over="ignore"):
            finite = np.isfinite(block.astype(np.float32, copy=False))
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            what = "NaN" if np.isnan(block[row, column]) else "infinity"
            raise ValueError(
                f"{name}: row {at.start + row} holds {what} (column {column}); every value must be finite in float32"
            )
        yield at, block


def _ranges(ranges: Any, calibration: Any, embeddings: Array) -> tuple[Array, Array]:
    """The smallest and the largest value of each dimension, as given or found."""
    dim = embeddings.shape[-1]
    if ranges is not None:
        return _checked_ranges(ranges, dim)
    if calibration is not None:
        sample, name = _embeddings(calibration, "calibration_embeddings"), "calibration_embeddings"
        if sample.shape[-1] != dim:
            raise ValueError(f"{name}: {sample.shape[-1]} dimensions given, but the embeddings have {dim}")
        if not sample.size:
            raise ValueError(f"{name}: no embeddings given, expected at least 1")
    elif embeddings.size == 0:
        return np.zeros(dim, np.float32), np.zeros(dim, np.float32)
    else:
        sample, name = embeddings, "embeddings"
        if np.atleast_2d(sample).shape[0] == 1:
            raise ValueError("ranges: not given, and a single embedding has none; or give calibration_embeddings")
    found = [(block.min(axis=0), block.max(axis=0)) for _, block in _finite_blocks(np.atleast_2d(sample), name)]
    smallest, largest = zip(*found, strict=True)
    return _checked_ranges((np.min(smallest, axis=0), np.max(largest, axis=0)), dim, name)


def _checked_ranges(ranges: Any, dim: int, name: str = "ranges") -> tuple[Array, Array]:
    array = _inputs._as_array(ranges, name)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: elements of type {array.dtype} given, expected numbers")
    if array.shape != (2, dim):
        raise ValueError(f"{name}: shape {array.shape} given, expected (2, {dim}), the smallest and the largest values")
    with np.errstate(over="ignore", invalid="ignore"):
        smallest, largest = array.astype(np.float32)
        width = largest - smallest
    if not np.isfinite(width).all():
        raise ValueError(f"{name}: NaN, infinity or too wide for float32 in column {np.argmin(np.isfinite(width))}")
    if (width < 0).any():
        raise ValueError(f"{name}: the largest value is below the smallest in column {np.argmax(width < 0)}")
    return smallest, largest


def _packed_signs(block: Array) -> Array:
    return np.packbits(block > 0, axis=1)


def _step_numbers(smallest: Array, largest: Array) -> Callable[[Array], Array]:
    step = (largest - smallest) / 255
    step[step == 0] = 1  # a dimension that never changes

    def encode(block: Array) -> Array:
        with np.errstate(over="ignore"):  # far outside of the ranges
            numbers = (block - smallest) / step
        return np.clip(np.floor(numbers, out=numbers), 0, 255, out=numbers)

    return encode
