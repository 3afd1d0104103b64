"""Opening index files."""

from __future__ import annotations

from typing import Any, Literal

from . import _core, _inputs
from .flat import Flat
from .ivf import IVF


def load(file: Any, *, mmap: bool | Literal["rerank"] = False, verify: bool | None = None) -> Flat | IVF:
    """
    Open an index file. Safe with files from strangers.

    Parameters
    ----------
    file : path-like, binary file object or bytes
    mmap : bool or "rerank"
        Map the file instead of reading it: it opens at once, is shared between processes, and is read as it is
        searched. Only for paths. The file must not be changed in place meanwhile; saving over it is safe. "rerank" maps
        the finer copy of the vectors, of which a search reads little, and keeps the codes that it scans in memory.
    verify : bool, optional
        Whether to check every byte against the checksums. Always done when the file is read; by default a mapped file
        is checked in its header and small arrays only.

    Returns
    -------
    Flat or IVF
        Whichever was saved.

    Raises
    ------
    FileFormatError
        If it is no index file, or is truncated, damaged, or written by a newer version.
    OSError
        If it cannot be read.
    """
    if not isinstance(mmap, bool) and mmap != "rerank":
        raise ValueError(f'mmap: {mmap!r} given, expected True, False or "rerank"')
    path = _inputs.path_of(file)
    if verify is False and not mmap:
        raise ValueError("verify: only a mapped file can be opened without verifying it")
    if path is not None:
        return _index_of(_core.Index.load_path(path, bool(mmap), bool(verify), mmap if isinstance(mmap, str) else ""))
    if mmap:
        raise ValueError("mmap: only a file at a path can be mapped")
    if hasattr(file, "read"):
        file = file.read()
    if not isinstance(file, (bytes, bytearray, memoryview)):
        raise TypeError(f"file: {type(file).__name__} given, expected a path, a binary file object or bytes")
    return _index_of(_core.Index.load_bytes(file))


def _index_of(core: _core.Index) -> Flat | IVF:
    return IVF._of(core) if isinstance(core, _core.Ivf) else Flat._of(core)
