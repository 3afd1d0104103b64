"""The native measuring loops (bench/native), built when first needed and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import mmap
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .environment import ROOT, BenchError

BUILD = ROOT / "build-bench"
HUGE_PAGE = 2 << 20


def build() -> Path:
    """Bring the library up to date and return its path."""
    cmake = shutil.which("cmake")
    if cmake is None:
        raise BenchError("cmake is not installed (pip install cmake); the measuring loops are C++ and built on demand")
    commands = [
        [cmake, "-S", str(ROOT), "-B", str(BUILD), "-DNEARFIELD_BENCH=ON", "-DCMAKE_BUILD_TYPE=Release"],
        [cmake, "--build", str(BUILD), "--config", "Release", "--target", "bench_library", "--parallel"],
    ]
    if not (BUILD / "CMakeCache.txt").exists() and shutil.which("ninja"):
        commands[0] += ["-G", "Ninja"]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            log = BUILD / "bench-build.log"
            log.parent.mkdir(exist_ok=True)
            log.write_text(done.stdout + done.stderr)
            raise BenchError(f"building the measuring loops failed, see {log}")
    return _path()


def _path() -> Path:
    found = [path for name in ("bench.so", "bench.dylib", "bench.dll") for path in BUILD.rglob(name)]
    if not found:
        raise BenchError(f"no library of measuring loops in {BUILD}")
    return found[0]


@dataclass(frozen=True)
class Case:
    """A kernel at a level and a dimension, with what it reads and computes per vector."""

    family: str
    kernel: str
    level: str
    unit: str
    bytes: float
    operations: float


class Library:
    """The functions of bench/native/library.cpp."""

    def __init__(self, path: Path) -> None:
        self._native = native = ctypes.CDLL(str(path))
        size, text, pointer = ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p
        for name, result, arguments in (
            ("bench_levels", text, []),
            ("bench_cases", text, [size]),
            ("bench_open", size, [text, text, size, pointer, size]),
            ("bench_run", ctypes.c_double, [pointer, size, size]),
            ("bench_read_patterns", ctypes.c_int, []),
            ("bench_read_unit", size, []),
            ("bench_read", ctypes.c_double, [text, ctypes.c_int, pointer, size, size]),
            ("bench_multiply_add", ctypes.c_double, [text, text, pointer, size]),
            ("bench_search_byte_tables", None, [pointer, size, pointer, size, size, pointer, pointer]),
        ):
            getattr(native, name).restype = result
            getattr(native, name).argtypes = arguments

    def levels(self) -> list[str]:
        return self._native.bench_levels().decode().split()

    def cases(self, dim: int) -> list[Case]:
        lines = (line.split() for line in self._native.bench_cases(dim).decode().splitlines())
        return [Case(*words[:4], bytes=float(words[4]), operations=float(words[5])) for words in lines]

    def open(self, kernel: str, level: str, dim: int, buffer: np.ndarray) -> int:
        """Fill the buffer for a case; return how many vectors that makes."""
        vectors = self._native.bench_open(kernel.encode(), level.encode(), dim, buffer.ctypes.data, buffer.size)
        if vectors == 0:
            raise BenchError(f"no kernel {kernel} at level {level}")
        return vectors

    def run(self, buffer: np.ndarray, vectors: int, passes: int) -> float:
        return self._native.bench_run(buffer.ctypes.data, vectors, passes)

    def read_bandwidth(self, buffer: np.ndarray, seconds: float) -> float:
        """Bytes per second of the fastest read loop of any level, each given about `seconds`."""
        size = buffer.size - buffer.size % self._native.bench_read_unit()
        best = 0.0
        for level in self.levels():
            if level not in ("scalar", "avx2", "avx512", "neon"):  # the others have the loops of these
                continue
            for pattern in range(self._native.bench_read_patterns()):

                def read(passes: int, level: str = level, pattern: int = pattern) -> float:
                    return self._native.bench_read(level.encode(), pattern, buffer.ctypes.data, size, passes)

                passes = max(1, int(seconds / read(1)))
                best = max(best, passes * size / read(passes))
        return best

    def multiply_adds(self, level: str, unit: str, buffer: np.ndarray) -> float:
        """Operations per second of a level's multiply-add loop, in about ten milliseconds."""

        def rate(rounds: int) -> float:
            return self._native.bench_multiply_add(level.encode(), unit.encode(), buffer.ctypes.data, rounds)

        rate(20_000)
        return max(rate(100_000) for _ in range(3))

    def search_byte_tables(self, query: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and scores of the k packed vectors of signs with the largest inner products with a float32 query."""
        ids, scores = np.empty(k, np.uint32), np.empty(k, np.float32)
        self._native.bench_search_byte_tables(
            query.ctypes.data, query.size, codes.ctypes.data, len(codes), k, ids.ctypes.data, scores.ctypes.data
        )
        return ids, scores


@functools.lru_cache(maxsize=1)
def library() -> Library:
    """The library as built before; the parent of all measuring processes calls `build`."""
    return Library(_path())


def allocate(size: int) -> np.ndarray:
    """Zeroed bytes on huge pages where the system has them, which is what a scan is fastest on."""
    whole = -(-size // HUGE_PAGE) * HUGE_PAGE + 2 * HUGE_PAGE  # room to align, and for prefetches past the end
    memory = mmap.mmap(-1, whole)
    if sys.platform == "linux":
        memory.madvise(mmap.MADV_HUGEPAGE)
    every = np.frombuffer(memory, np.uint8)
    start = -every.ctypes.data % HUGE_PAGE
    return every[start : start + size]
