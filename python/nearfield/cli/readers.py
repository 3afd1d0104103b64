"""Vectors and ids from the files that people keep them in."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from .errors import CommandError, UsageError, optional_module

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Wanted:
    """What to look for in a file: the column of this name or, without one, the only column that would do."""

    what: str  # "vectors" or "ids", for messages
    column: str | None = None
    preferred: str | None = None  # a dataset of ann-benchmarks

    @property
    def ndim(self) -> int:
        """Dimensions of the array."""
        return 2 if self.what == "vectors" else 1

    def choose(self, path: Path, columns: Mapping[str, int]) -> str:
        """Choose among the columns of a file, given with their dimensions."""
        if self.column is not None:
            if self.column not in columns:
                raise CommandError(f"{path}: has no column {self.column!r}, it has {_listed(columns)}")
            return self.column
        fitting = [name for name, ndim in columns.items() if ndim == self.ndim]
        if self.preferred in fitting:
            return str(self.preferred)
        if not fitting:
            raise CommandError(f"{path}: has no column of {self.what}, it has {_listed(columns)}")
        if len(fitting) > 1:
            raise CommandError(f"{path}: {_listed(fitting)} could all be the {self.what}; choose one with --column")
        return fitting[0]


def read_vectors(path: Path, column: str | None = None) -> Array:
    """Read numbers of shape (n, dim); .npy and vecs files are mapped, and read as they are used."""
    return _rows_of_numbers(path, _read(path, Wanted("vectors", column, "train")))


def read_queries(path: Path, column: str | None = None) -> Array:
    """Read query vectors; a single one may stand in an array of one dimension."""
    array = _read(path, Wanted("vectors", column, "test"))
    return _rows_of_numbers(path, array[np.newaxis] if array.ndim == 1 else array)


def _rows_of_numbers(path: Path, array: Array) -> Array:
    if array.ndim != 2:
        raise CommandError(
            f"{path}: holds {array.dtype} of shape {array.shape}, expected a row for each vector: (n, dim)"
        )
    if array.dtype.kind not in "fiub":
        raise CommandError(f"{path}: holds elements of type {array.dtype}, expected numbers")
    if array.shape[1] == 0:
        problem = "vectors of dimension 0" if len(array) else "no vectors, so their dimension is unknown"
        raise CommandError(f"{path}: holds {problem}")
    return array


def dimension(rows: Array, metric: str) -> int:
    """Return the dimension of vectors; packed bits are taken to fill their last byte."""
    packed = metric in ("hamming", "jaccard") and rows.dtype != np.bool_
    columns: int = rows.shape[1]
    return 8 * columns if packed else columns


def read_ids(path: Path, column: str | None = None) -> Array:
    """Read an array of integers of shape (n,)."""
    return _one_dimension(path, _read(path, Wanted("ids", column)), "iu", "integers")


def read_filter(path: Path) -> Array:
    """Read what a search may return: an array of ids, or a boolean mask."""
    return _one_dimension(path, _read(path, Wanted("ids")), "iub", "ids or a boolean mask")


def _one_dimension(path: Path, array: Array, kinds: str, expected: str) -> Array:
    if array.ndim != 1 or array.dtype.kind not in kinds:
        raise CommandError(f"{path}: holds {array.dtype} of shape {array.shape}, expected {expected} of shape (n,)")
    return array


def is_readable(path: Path) -> bool:
    """Tell whether a path ends like a file that can be read."""
    return path.suffix.lower() in _READERS


def _read(path: Path, wanted: Wanted) -> Array:
    path.open("rb").close()  # what the system refuses is said by the system
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path}: files of this kind cannot be read, only {', '.join(_READERS)}")
    return reader(path, wanted)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


# -- ann-benchmarks ----------------------------------------------------------------------------------------------------

_HDF5 = (".hdf5", ".h5")
_METRICS = {"euclidean": "l2", "angular": "cosine", "dot": "ip", "ip": "ip", "hamming": "hamming", "jaccard": "jaccard"}


def is_hdf5(path: Path) -> bool:
    """Tell whether a file could be one of ann-benchmarks, with queries inside."""
    return path.suffix.lower() in _HDF5


def hdf5_metric(path: Path) -> str | None:
    """Return the metric of an ann-benchmarks file; None for any other file."""
    if not is_hdf5(path):
        return None
    with _open_hdf5(path) as file:
        distance = file.attrs.get("distance")
    if distance is not None and distance not in _METRICS:
        raise CommandError(
            f"{path}: its distance is {distance!r}, expected one of {_listed(_METRICS)}; or give --metric"
        )
    return None if distance is None else _METRICS[distance]


def hdf5_neighbors(path: Path) -> Array | None:
    """Return the true neighbours that an ann-benchmarks file holds, if it does."""
    with _open_hdf5(path) as file:
        return np.asarray(file["neighbors"]) if "neighbors" in file else None


def _open_hdf5(path: Path) -> Any:
    h5py = optional_module("h5py", path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise CommandError(f"{path}: no HDF5 file, or damaged ({error})") from None


def _read_hdf5(path: Path, wanted: Wanted) -> Array:
    h5py = optional_module("h5py", path)
    columns: dict[str, int] = {}
    with _open_hdf5(path) as file:
        file.visititems(lambda name, item: columns.update({name: item.ndim} if isinstance(item, h5py.Dataset) else {}))
        name = wanted.choose(path, columns)
        try:
            return np.asarray(file[name])
        except OSError as error:
            raise CommandError(f"{path}: the dataset {name!r} cannot be read ({error})") from None


# -- NumPy -------------------------------------------------------------------------------------------------------------


def _no_column(path: Path, wanted: Wanted) -> None:
    if wanted.column is not None:
        raise UsageError(f"{path}: has no column {wanted.column!r}, {path.suffix} files hold one array without a name")


def _read_npy(path: Path, wanted: Wanted) -> Array:
    _no_column(path, wanted)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise _unreadable(path, "npy", error) from None


def _read_npz(path: Path, wanted: Wanted) -> Array:
    try:
        with np.load(path) as archive:  # decompresses an array when it is asked for
            columns = {name: _npz_ndim(archive, name) for name in archive.files}
            return np.asarray(archive[wanted.choose(path, columns)])
    except (ValueError, TypeError, EOFError, OSError, BadZipFile, zlib.error) as error:
        raise _unreadable(path, "npz", error) from None


def _npz_ndim(archive: Any, name: str) -> int:
    with archive.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return len(read_header(file)[0])


def _unreadable(path: Path, kind: str, error: Exception) -> CommandError:
    if "Object arrays" in str(error) or "Python objects" in str(error):
        return CommandError(f"{path}: holds Python objects, expected an array of numbers")
    return CommandError(f"{path}: no .{kind} file, or damaged ({error})")


# -- .fvecs, .bvecs, .ivecs: each row is a little-endian int32 dimension, then so many elements -----------------------


def _read_vecs(path: Path, wanted: Wanted) -> Array:
    _no_column(path, wanted)
    element = np.dtype({".fvecs": "<f4", ".ivecs": "<i4", ".bvecs": "u1"}[path.suffix.lower()])
    if path.stat().st_size < 4:
        raise CommandError(f"{path}: is empty, so its dimension is unknown")
    data = np.memmap(path, np.uint8, mode="r")
    dim = int(data[:4].view("<i4")[0])
    row_bytes = 4 + dim * element.itemsize
    if dim < 1 or row_bytes > data.size:
        raise CommandError(f"{path}: begins with the dimension {dim}, which its {data.size:,} bytes cannot hold")
    rows = data[: data.size // row_bytes * row_bytes].reshape(-1, row_bytes)
    dims = np.ascontiguousarray(rows[:, :4]).view("<i4")[:, 0]
    different = np.flatnonzero(dims != dim)
    if different.size:
        row = int(different[0])
        raise CommandError(f"{path}: row {row} has dimension {dims[row]}, the rows before it have {dim}")
    if rows.size != data.size:
        raise CommandError(f"{path}: truncated: {data.size:,} bytes are no whole number of rows of {row_bytes:,} bytes")
    return rows[:, 4:].view(element)


# -- Arrow -------------------------------------------------------------------------------------------------------------


def _read_arrow(path: Path, wanted: Wanted) -> Array:
    pa = optional_module("pyarrow", path)
    try:
        schema, load = _open_parquet(path) if path.suffix.lower() == ".parquet" else _open_ipc(pa, path)
        name = wanted.choose(path, {field.name: _arrow_ndim(pa, field.type) for field in schema})
        return _arrow_array(path, name, load(name), _arrow_ndim(pa, schema.field(name).type))
    except (pa.ArrowException, OSError) as error:
        raise CommandError(f"{path}: no {path.suffix} file, or damaged ({str(error).splitlines()[0]})") from None


def _open_parquet(path: Path) -> tuple[Any, Callable[[str], Any]]:
    file = optional_module("pyarrow.parquet", path).ParquetFile(path, memory_map=True)
    return file.schema_arrow, lambda name: file.read([name]).column(name)


def _open_ipc(pa: Any, path: Path) -> tuple[Any, Callable[[str], Any]]:
    source = pa.memory_map(str(path))
    try:
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        reader = pa.ipc.open_stream(source)
    return reader.schema, lambda name: reader.read_all().column(name)


def _arrow_ndim(pa: Any, kind: Any) -> int:
    """Tell what a column could be: 2 for lists, which are vectors, 1 for integers and booleans, 0 for all else."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return 2
    return 1 if pa.types.is_integer(kind) or pa.types.is_boolean(kind) else 0


def _arrow_array(path: Path, name: str, column: Any, ndim: int) -> Array:
    if column.null_count:
        raise CommandError(f"{path}: {column.null_count:,} entries of the column {name!r} are null")
    if ndim == 0:
        raise CommandError(f"{path}: the column {name!r} holds {column.type}, expected lists of numbers, or integers")
    if ndim == 1:
        return np.asarray(column.to_numpy())
    lengths = optional_module("pyarrow.compute", path).list_value_length(column).to_numpy()
    dim = getattr(column.type, "list_size", lengths[0] if len(lengths) else 0)
    different = np.flatnonzero(lengths != dim)
    if different.size:
        row = int(different[0])
        raise CommandError(f"{path}: row {row} of the column {name!r} has dimension {lengths[row]}, row 0 has {dim}")
    pieces = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(pieces).reshape(len(lengths), dim) if pieces else np.zeros((0, dim), np.float32)


_READERS: dict[str, Callable[[Path, Wanted], Array]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    **dict.fromkeys((".fvecs", ".bvecs", ".ivecs"), _read_vecs),
    **dict.fromkeys((".parquet", ".arrow", ".feather"), _read_arrow),
    **dict.fromkeys(_HDF5, _read_hdf5),
}
