"""What users hand over, turned into what the core takes; every complaint about an argument starts with its name."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

import numpy as np
import numpy.typing as npt

#: The core's name for each element type that it reads without a conversion.
_ELEMENT_TYPES = {
    np.dtype(np.float32): "f32",
    np.dtype(np.float16): "f16",
    np.dtype(np.int8): "int8",
    np.dtype(np.uint8): "uint8",
}

Array = npt.NDArray[Any]
Progress = Callable[[float], None]


def _as_array(value: Any, name: str) -> Array:
    """NumPy's view of an array, tensor, Arrow column, DLPack object or nested list."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: a masked array given; fill or drop what is masked")
    if isinstance(value, np.ndarray):
        return value
    if type(value).__module__.startswith("pyarrow"):
        return _from_arrow(value, name)
    if hasattr(value, "detach") and "bfloat16" in str(getattr(value, "dtype", "")):  # torch has it, NumPy does not
        value = value.detach().float()
    elif hasattr(value, "detach"):
        value = value.detach()
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: rows of different lengths or types cannot form an array ({error})") from None


def _from_arrow(value: Any, name: str) -> Array:
    """A column of fixed-size or equally long lists as (n, dim), any other column as it is."""
    if hasattr(value, "combine_chunks") and hasattr(value, "chunks"):
        value = value.combine_chunks()
    if not hasattr(value, "null_count"):
        raise TypeError(f"{name}: a pyarrow {type(value).__name__} given, expected a column (Array or ChunkedArray)")
    if value.null_count:
        raise ValueError(f"{name}: {value.null_count} entries of the Arrow column are null")
    if hasattr(value, "to_numpy_ndarray"):  # Arrow's own type for tensors of one shape
        return np.asarray(value.to_numpy_ndarray())
    if str(value.type).startswith(("list_view", "large_list_view")):
        raise TypeError(f"{name}: an Arrow column of type {value.type} given, expected lists")
    if not str(value.type).startswith(("fixed_size_list", "list", "large_list")):
        return np.asarray(value.to_numpy(zero_copy_only=False))
    elements = value.flatten()
    if elements.null_count:
        raise ValueError(f"{name}: {elements.null_count} elements of the Arrow column are null")
    flat = np.asarray(elements.to_numpy(zero_copy_only=False))
    if hasattr(value.type, "list_size"):
        return flat.reshape(len(value), value.type.list_size)
    lengths = np.unique(np.diff(np.asarray(value.offsets)))
    if len(lengths) > 1:
        raise ValueError(f"{name}: lists of {lengths[0]} to {lengths[-1]} elements in the Arrow column cannot be rows")
    return flat.reshape(len(value), lengths[0] if len(lengths) else 0)


def vectors(value: Any, name: str) -> tuple[Array, str]:
    """
    An (n, dim) array whose rows the core can read, and the core's name of its element type.

    Copies only where the element type or the layout needs it: float64 and wide integers become float32, and rows whose
    elements do not lie side by side are made contiguous. One vector counts as one row.
    """
    array = _as_array(value, name)
    element = _ELEMENT_TYPES.get(array.dtype)
    if element is None and array.dtype.name == "bfloat16":  # of the package ml_dtypes; NumPy itself has none
        native = array if array.dtype.isnative else array.byteswap().view(array.dtype.newbyteorder("="))
        array, element = native.view(np.uint16), "bf16"
    if element is None:
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{name}: elements of type {array.dtype} given, expected numbers")
        with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and is refused with its row
            array = array.astype(np.float32)
        element = "f32"
    if array.ndim == 1:
        array = array[np.newaxis, :]
    if array.ndim != 2:
        raise ValueError(f"{name}: an array of {array.ndim} dimensions given, expected 2 (or 1 for a single vector)")
    if (array.shape[1] > 1 and array.strides[1] != array.itemsize) or (array.shape[0] > 1 and array.strides[0] < 0):
        array = np.ascontiguousarray(array)
    return array, element


def bits(value: Any, name: str, dim: int | None = None) -> Array:
    """
    An (n, bytes) array of packed bits, the first bit in the highest place of the first byte (numpy.packbits).

    Takes uint8 as it is, booleans (n, bits), and int8 as sentence-transformers' "binary" (the byte minus 128). `dim` is
    the number of bits where that is known.
    """
    array = _as_array(value, name)
    if array.size == 0 and array.dtype.kind == "f" and array.ndim <= 2:  # an empty list
        array = array.astype(np.uint8)
    if array.dtype not in (np.uint8, np.int8, np.bool_):
        raise TypeError(
            f"{name}: elements of type {array.dtype} given, expected bits packed by numpy.packbits (uint8), or booleans"
        )
    if array.ndim == 1:
        array = array[np.newaxis, :]
    if array.ndim != 2:
        raise ValueError(f"{name}: an array of {array.ndim} dimensions given, expected 2 (or 1 for a single vector)")
    if array.dtype == np.bool_:
        if dim is not None and array.shape[1] != dim:
            raise ValueError(f"{name}: booleans of dimension {array.shape[1]} given, expected dimension {dim}")
        return np.packbits(np.ascontiguousarray(array), axis=1)
    if array.dtype == np.int8:
        flipped: Array = np.ascontiguousarray(array).view(np.uint8) ^ np.uint8(0x80)
        return flipped
    if (array.shape[1] > 1 and array.strides[1] != 1) or (array.shape[0] > 1 and array.strides[0] < 0):
        array = np.ascontiguousarray(array)
    return array


def to_float(array: Array, element: str) -> npt.NDArray[np.float32]:
    """What `vectors` returned, as float32."""
    if element == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def ids(value: Any, name: str = "ids") -> npt.NDArray[np.int64]:
    """An int64 array of ids from integers of any kind that fit, without loss."""
    array = _as_array(value, name)
    if array.size == 0:
        return np.zeros(array.shape, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: elements of type {array.dtype} given, expected integers")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: {array.max()} does not fit a signed 64-bit integer")
    return np.ascontiguousarray(array, np.int64)


def flat_ids(value: Any, name: str = "ids") -> npt.NDArray[np.int64]:
    """One-dimensional ids; a single integer counts as one."""
    array = ids(value, name)
    if array.ndim == 0:
        array = array[np.newaxis]
    if array.ndim != 1:
        raise ValueError(f"{name}: an array of {array.ndim} dimensions given, expected 1")
    return array


def count(value: Any, name: str, least: int = 0) -> int:
    """A whole number, zero or more unless `least` says otherwise."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {value!r} given, expected a whole number") from None
    if not least <= whole < 2**63:
        raise ValueError(f"{name}: {whole} given, expected at least {least}" + (", below 2**63" if whole > 0 else ""))
    return whole


def number(value: Any, name: str) -> float:
    """A real number."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name}: {value!r} given, expected a number")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: {value!r} given, expected a number") from None


def text(value: Any, name: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: {value!r} given, expected a string")
    return value


def progress(value: Any) -> Progress | None:
    """A function of one number, or None."""
    if value is not None and not callable(value):
        raise TypeError(f"progress: {value!r} given, expected a function of the share that is done")
    return cast("Progress | None", value)


def threads(value: int | None) -> int:
    """A number of threads; None is 0, the core's word for its default."""
    if value is None:
        return 0
    wanted = count(value, "threads")
    if wanted == 0:
        raise ValueError("threads: 0 given, expected at least 1, or None for all that this process may use")
    return wanted


#: Units of bytes, in small letters.
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def byte_count(value: Any, name: str) -> int:
    """A number of bytes, at least 1, which text may give with a unit such as "512MB" or "1.5 GiB"."""
    if not isinstance(value, str):
        return count(value, name, 1)
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)", value.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise ValueError(f'{name}: {value!r} given, expected bytes, such as 500_000_000, "500MB" or "1.5 GiB"')
    return count(int(Decimal(found[1]) * _UNITS[found[2]]), name, 1)


def path_of(target: Any) -> str | None:
    """The file-system path that `target` stands for, None if it is no path."""
    if isinstance(target, (str, os.PathLike)):
        return os.fsdecode(target)
    return None
