# Written by hand and checked against the module by stubtest.
import types
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

_Array = npt.NDArray[Any]
_Ids = npt.NDArray[np.int64]
_Scores = npt.NDArray[np.float32]

__version__: str
faults: types.ModuleType
raw: types.ModuleType

class FileFormatError(ValueError): ...

class Filter:
    def __len__(self) -> int: ...

class Index:
    def train(
        self,
        vectors: _Array,
        type: str,
        version: str,
        given: dict[str, _Scores],
        threads: int,
        progress: Callable[[float], None] | None,
    ) -> None: ...
    def untrained(self, version: str) -> bool: ...
    def add(
        self,
        vectors: _Array,
        type: str,
        ids: _Ids | None,
        version: str,
        given: dict[str, _Scores],
        threads: int,
        progress: Callable[[float], None] | None,
    ) -> _Ids: ...
    def update(
        self, ids: _Ids, vectors: _Array, type: str, threads: int, progress: Callable[[float], None] | None
    ) -> None: ...
    def remove(self, ids: _Ids) -> None: ...
    def search(
        self,
        queries: _Array,
        type: str,
        k: int,
        filter: Filter | None,
        version: str | None,
        probes: int | None,
        oversample: float | None,
        recall: float | None,
        exact: bool,
        threads: int,
    ) -> tuple[_Ids, _Scores, _Ids, str]: ...
    def range_search(
        self,
        queries: _Array,
        type: str,
        radius: float,
        filter: Filter | None,
        version: str | None,
        probes: int | None,
        threads: int,
    ) -> tuple[_Ids, _Scores, _Ids]: ...
    def score(self, queries: _Array, type: str, ids: _Ids, version: str | None, threads: int) -> _Scores: ...
    def reconstruct(self, ids: _Ids) -> _Scores: ...
    def codes(self, ids: _Ids) -> npt.NDArray[np.uint8]: ...
    def versions(self) -> list[tuple[str, int]]: ...
    def filter_of_mask(self, mask: npt.NDArray[np.bool_]) -> Filter: ...
    def filter_of_ids(self, ids: _Ids) -> Filter: ...
    def ids(self) -> _Ids: ...
    def __contains__(self, id: int) -> bool: ...
    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def metric(self) -> str: ...
    @property
    def codec(self) -> str: ...
    @property
    def parameters(self) -> dict[str, str]: ...
    @property
    def rerank(self) -> str: ...
    @property
    def rerank_parameters(self) -> dict[str, str]: ...
    @property
    def tuning(self) -> tuple[int, str, int, list[tuple[float, float, float, int]]]: ...
    def set_tuning(self, k: int, queries: str, n: int, table: list[tuple[float, float, float, int]]) -> None: ...
    @property
    def oversample(self) -> float: ...
    def save_path(self, path: str | PathLike[str]) -> None: ...
    def save_to(self, write: Callable[[bytes], Any]) -> None: ...
    @staticmethod
    def load_path(path: str | PathLike[str], mmap: bool, verify: bool, map_only: str) -> Index: ...
    @staticmethod
    def load_bytes(data: Buffer) -> Index: ...

class Flat(Index):
    def __init__(
        self,
        dim: int,
        metric: str,
        codec: str,
        parameters: dict[str, str],
        rerank: str,
        rerank_parameters: dict[str, str],
        oversample: float,
        screen: bool,
    ) -> None: ...
    @property
    def screen(self) -> bool: ...

class Ivf(Index):
    def __init__(
        self,
        dim: int,
        metric: str,
        codec: str,
        parameters: dict[str, str],
        rerank: str,
        rerank_parameters: dict[str, str],
        oversample: float,
        lists: int,
        probes: int,
        soar: float,
        list_dims: int,
        seed: int,
    ) -> None: ...
    def build(
        self,
        vectors: _Array,
        type: str,
        path: str | PathLike[str],
        budget: int,
        threads: int,
        progress: Callable[[float], None] | None,
    ) -> None: ...
    def build_from(
        self,
        next: Callable[[], tuple[_Array, str, str, int] | None],
        path: str | PathLike[str],
        budget: int,
        threads: int,
        progress: Callable[[float], None] | None,
    ) -> None: ...
    @property
    def lists(self) -> int: ...
    @property
    def list_sizes(self) -> _Ids: ...
    @property
    def centroids(self) -> _Scores: ...
    @property
    def probes(self) -> int: ...
    @property
    def soar(self) -> float: ...
    @property
    def list_dims(self) -> int: ...

class Centroids:
    def __init__(self, values: _Scores) -> None: ...
    def assign(
        self, vectors: _Array, type: str, spherical: bool, threads: int
    ) -> tuple[npt.NDArray[np.uint32], _Scores]: ...

def kmeans(
    vectors: _Array,
    type: str,
    k: int,
    iterations: int,
    spherical: bool,
    balance: str,
    slack: float,
    seed: int,
    sample: int,
    init: _Scores | None,
    threads: int,
    progress: Callable[[float], None] | None,
) -> tuple[_Scores, npt.NDArray[np.uint32], float, int, int]: ...
def scores(
    queries: _Array, queries_type: str, vectors: _Array, vectors_type: str, metric: str, threads: int
) -> _Scores: ...
def knn(
    queries: _Array, queries_type: str, vectors: _Array, vectors_type: str, k: int, metric: str, threads: int
) -> tuple[_Ids, _Scores, _Ids, str]: ...
def topk(scores: _Scores, k: int, largest: bool) -> tuple[_Ids, _Scores]: ...
def levels() -> list[str]: ...
def active_level() -> str: ...
def cpu_name() -> str: ...
def usable_cpus() -> int: ...
def slots(level: str) -> dict[str, str]: ...
