"""nearfield: nearest neighbours for every kind of embedding."""

from __future__ import annotations

from pathlib import Path

from . import _core, datasets, kernels, vsa
from ._core import FileFormatError
from ._index import Filter
from .codecs import LVQ, PQ, SQ, Lloyd, RaBitQ, RecurrentBinary, Sign
from .files import load
from .flat import Flat
from .ivf import IVF
from .kmeans import KMeans
from .quantization import dequantize_embeddings, quantize_embeddings
from .results import Hits, RangeHits
from .transforms import PCA, Blocks, LeanVec, Prefix, RandomRotation
from .tuning import Tuning

__version__ = _core.__version__

__all__ = [
    "IVF",
    "LVQ",
    "PCA",
    "PQ",
    "SQ",
    "Blocks",
    "FileFormatError",
    "Filter",
    "Flat",
    "Hits",
    "KMeans",
    "LeanVec",
    "Lloyd",
    "Prefix",
    "RaBitQ",
    "RandomRotation",
    "RangeHits",
    "RecurrentBinary",
    "Sign",
    "Tuning",
    "cpu_info",
    "datasets",
    "dequantize_embeddings",
    "get_cmake_dir",
    "get_include",
    "kernels",
    "load",
    "quantize_embeddings",
    "vsa",
]


def cpu_info() -> dict[str, object]:
    """
    Tell which kernels this process uses.

    Returns
    -------
    dict
        ``name`` of the CPU, ``level`` in use (the best one, or what the environment variable NEARFIELD_ISA names),
        ``levels`` that run here, ``kernels`` (for each kernel the level that provides it) and ``threads``, the number
        of CPUs that this process may use.
    """
    level = _core.active_level()
    return {
        "name": _core.cpu_name(),
        "level": level,
        "levels": _core.levels(),
        "kernels": _core.slots(level),
        "threads": _core.usable_cpus(),
    }


def get_include() -> str:
    """Return the directory that holds nearfield.h."""
    return str(Path(__file__).parent / "include")


def get_cmake_dir() -> str:
    """Return the directory to put into CMAKE_PREFIX_PATH or nearfield_DIR for ``find_package(nearfield)``."""
    return str(Path(__file__).parent / "lib" / "cmake" / "nearfield")
