"""
Exact search as this library and others offer it, each behind the same three lines.

An adapter takes the base vectors, the metric ("ip" or "l2") and a number of threads, and answers queries with ids. One
for packed bits takes the base and the number of threads, and answers with Hamming distances and ids. One for quantized
vectors learns from the base when it is made, is given the vectors in parts, and runs on one thread. One for inverted
lists is built on several threads and searched on one, with probes and a number of candidates scored again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .data import Floats, unit
from .environment import require

Ids = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]
Distances = npt.NDArray[np.int64]


class Adapter(Protocol):
    def __init__(self, base: Floats, metric: str, threads: int, **options: Any) -> None: ...

    def search(self, queries: Floats, k: int) -> Ids: ...


class Nearfield:
    def __init__(self, base: Floats, metric: str, threads: int, **options: Any) -> None:
        nearfield = require("nearfield", "bench")
        self._threads = threads
        self._index = nearfield.Flat(base.shape[1], metric, **options)
        self._index.add(base, threads=threads)

    def search(self, queries: Floats, k: int) -> Ids:
        return self._index.search(queries, k, threads=self._threads).ids


class Faiss:
    def __init__(self, base: Floats, metric: str, threads: int) -> None:
        faiss = require("faiss", "peers")
        faiss.omp_set_num_threads(threads)
        self._index = (faiss.IndexFlatL2 if metric == "l2" else faiss.IndexFlatIP)(base.shape[1])
        self._index.add(np.ascontiguousarray(base))

    def search(self, queries: Floats, k: int) -> Ids:
        return self._index.search(queries, k)[1]


class NumPy:
    """Matrix product and partition, a block of queries at a time; its BLAS is given the threads by the parent."""

    BLOCK = 64

    def __init__(self, base: Floats, metric: str, threads: int) -> None:
        self._base = np.array(base)
        self._norms = np.einsum("ij,ij->i", self._base, self._base) if metric == "l2" else None

    def search(self, queries: Floats, k: int) -> Ids:
        out = np.empty((len(queries), k), np.int64)
        for first in range(0, len(queries), self.BLOCK):
            block = queries[first : first + self.BLOCK]
            distances = block @ self._base.T
            distances *= -1 if self._norms is None else -2
            if self._norms is not None:
                distances += self._norms
            best = np.argpartition(distances, k, axis=1)[:, :k]
            order = np.argsort(np.take_along_axis(distances, best, axis=1), axis=1)
            out[first : first + self.BLOCK] = np.take_along_axis(best, order, axis=1)
        return out


class USearch:
    def __init__(self, base: Floats, metric: str, threads: int) -> None:
        index = require("usearch.index", "peers")
        self._exact, self._threads = index.search, threads
        self._metric = index.MetricKind.L2sq if metric == "l2" else index.MetricKind.IP
        self._base = np.array(base)

    def search(self, queries: Floats, k: int) -> Ids:
        found = self._exact(self._base, queries, k, self._metric, exact=True, threads=self._threads)
        return found.keys.reshape(len(queries), k).astype(np.int64)


@dataclass(frozen=True)
class Contender:
    """An adapter with options, and what its process finds in the environment."""

    adapter: type[Adapter]
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


# CPUs without 8-bit dot products are stood in for by the AVX2 kernels of this library, faiss and its BLAS.
AVX2 = {"NEARFIELD_ISA": "avx2", "FAISS_OPT_LEVEL": "avx2", "OPENBLAS_CORETYPE": "Haswell"}

CONTENDERS = {
    "nearfield": Contender(Nearfield),
    "nearfield plain": Contender(Nearfield, {"screen": False}),
    "nearfield avx2": Contender(Nearfield, environment=AVX2),
    "nearfield avx2 plain": Contender(Nearfield, {"screen": False}, AVX2),
    "faiss": Contender(Faiss),
    "faiss avx2": Contender(Faiss, environment=AVX2),
    "numpy": Contender(NumPy),
    "usearch": Contender(USearch),
}
PACKAGES = ["nearfield", "numpy", "faiss", "usearch"]


# ----------------------------------------------------------------------------------------------------------------------
# Packed bits
# ----------------------------------------------------------------------------------------------------------------------


class BitAdapter(Protocol):
    def __init__(self, base: Bits, threads: int) -> None: ...

    def search(self, queries: Bits, k: int) -> tuple[Distances, Ids]: ...


class NearfieldBits:
    def __init__(self, base: Bits, threads: int) -> None:
        nearfield = require("nearfield", "bench")
        self._threads = threads
        self._index = nearfield.Flat(base.shape[1] * 8, "hamming")
        self._index.add(base, threads=threads)

    def search(self, queries: Bits, k: int) -> tuple[Distances, Ids]:
        ids, distances = self._index.search(queries, k, threads=self._threads)
        return distances, ids


class FaissBits:
    def __init__(self, base: Bits, threads: int) -> None:
        faiss = require("faiss", "peers")
        faiss.omp_set_num_threads(threads)
        self._index = faiss.IndexBinaryFlat(base.shape[1] * 8)
        self._index.add(base)

    def search(self, queries: Bits, k: int) -> tuple[Distances, Ids]:
        return self._index.search(queries, k)


class USearchBits:
    def __init__(self, base: Bits, threads: int) -> None:
        index = require("usearch.index", "peers")
        self._exact, self._threads, self._metric = index.search, threads, index.MetricKind.Hamming
        self._base = base

    def search(self, queries: Bits, k: int) -> tuple[Distances, Ids]:
        found = self._exact(self._base, queries, k, self._metric, exact=True, threads=self._threads)
        return found.distances.reshape(len(queries), k), found.keys.reshape(len(queries), k)


class NumKongBits:
    """
    All distances of a block of queries, by the kernels for matrices packed beforehand, and the k smallest by NumPy.

    NumKong has no selection of its own, and its packed matrices are faster than its `cdist`. Counting how often each
    distance occurs finds the k-th smallest several times faster than `np.argpartition` does. Threads are not used.
    """

    BLOCK = 16

    def __init__(self, base: Bits, threads: int) -> None:
        numkong = require("numkong", "peers")
        self._distances = numkong.hammings_packed
        self._packed = numkong.hammings_pack(base)
        self._blocks = {size: numkong.zeros((size, len(base)), dtype="uint32") for size in (1, self.BLOCK)}

    def search(self, queries: Bits, k: int) -> tuple[Distances, Ids]:
        distances, ids = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.int64)
        size = self.BLOCK if len(queries) % self.BLOCK == 0 else 1
        block = self._blocks[size]
        for first in range(0, len(queries), size):
            self._distances(queries[first : first + size], self._packed, out=block)
            for i, row in enumerate(np.asarray(block), first):
                farthest = np.searchsorted(np.cumsum(np.bincount(row)), k)
                near = np.flatnonzero(row <= farthest)
                ids[i] = near[np.argsort(row[near], kind="stable")[:k]]
                distances[i] = row[ids[i]]
        return distances, ids


BIT_CONTENDERS: dict[str, type[BitAdapter]] = {
    "nearfield": NearfieldBits,
    "faiss": FaissBits,
    "usearch": USearchBits,
    "numkong": NumKongBits,
}
BIT_PACKAGES = [*PACKAGES, "numkong"]


# ----------------------------------------------------------------------------------------------------------------------
# Quantized vectors
# ----------------------------------------------------------------------------------------------------------------------


class CodeAdapter(Protocol):
    def __init__(self, base: Floats, metric: str, what: str) -> None: ...

    def prepare(self, vectors: Floats) -> Floats:
        """Vectors or queries as the library wants them: copied, so that reading them from a file is not timed."""

    def add(self, prepared: Floats) -> None: ...

    def search(self, prepared: Floats, k: int) -> Ids: ...

    def nbytes(self) -> int: ...


def parts(dim: int, width: int) -> int:
    """Subspaces of at least this width that divide the dimension, as faiss wants them."""
    return max(count for count in range(1, dim // width + 1) if dim % count == 0)


# Codecs of this library by the names that results have, made for a dimension.
CODECS: dict[str, Callable[[Any, int], Any]] = {
    "sq8": lambda nf, dim: nf.SQ(8),
    "sq6": lambda nf, dim: nf.SQ(6),
    "sq4": lambda nf, dim: nf.SQ(4),
    "lvq8": lambda nf, dim: nf.LVQ(8),
    "lvq4": lambda nf, dim: nf.LVQ(4),
    "lvq4x8": lambda nf, dim: nf.LVQ(4, residual=8),
    "pq8, dim/8": lambda nf, dim: nf.PQ(parts(dim, 8), bits=8),
    "pq4, dim/4": lambda nf, dim: nf.PQ(parts(dim, 4), bits=4),
    "pq4, dim/2": lambda nf, dim: nf.PQ(parts(dim, 2), bits=4),
    "rabitq1": lambda nf, dim: nf.RaBitQ(1),
    "rabitq2": lambda nf, dim: nf.RaBitQ(2),
    "rabitq4": lambda nf, dim: nf.RaBitQ(4),
    "rabitq8": lambda nf, dim: nf.RaBitQ(8),
    "lloyd4": lambda nf, dim: nf.Lloyd(4),
    "lloyd2": lambda nf, dim: nf.Lloyd(2),
    "sign": lambda nf, dim: nf.Sign("mean"),
    "pca, sq8": lambda nf, dim: (nf.PCA(dim // 2), nf.SQ(8)),
    "pca, lloyd4": lambda nf, dim: (nf.PCA(dim // 2), nf.Lloyd(4)),
}


class NearfieldCodes:
    def __init__(self, base: Floats, metric: str, what: str) -> None:
        nearfield = require("nearfield", "bench")
        self._index = nearfield.Flat(base.shape[1], metric, CODECS[what](nearfield, base.shape[1]))
        self._index.train(base)

    def prepare(self, vectors: Floats) -> Floats:
        return np.array(vectors)

    def add(self, prepared: Floats) -> None:
        self._index.add(prepared, threads=1)

    def search(self, prepared: Floats, k: int) -> Ids:
        return self._index.search(prepared, k, threads=1).ids

    def nbytes(self) -> int:
        return self._index.nbytes


class Padded:
    """An index of another library that wants its vectors padded with zeros, and under cosine of unit length."""

    _index: Any
    _unit: bool
    _pad: int

    def prepare(self, vectors: Floats) -> Floats:
        wide = np.zeros((len(vectors), vectors.shape[1] + self._pad), np.float32)
        wide[:, : vectors.shape[1]] = unit(vectors) if self._unit else vectors
        return wide

    def add(self, prepared: Floats) -> None:
        self._index.add(prepared)

    def search(self, prepared: Floats, k: int) -> Ids:
        return self._index.search(prepared, k)[1]


class FaissCodes(Padded):
    """Vectors at length 1 under cosine, which faiss does not know."""

    # Its scalar quantizer has SIMD loops for multiples of 16 dimensions only, so zeros are put behind the others.
    MULTIPLE = 16

    def __init__(self, base: Floats, metric: str, what: str) -> None:
        faiss = require("faiss", "peers")
        faiss.omp_set_num_threads(1)
        self._faiss, self._unit = faiss, metric == "cosine"
        self._pad = -base.shape[1] % self.MULTIPLE if what.startswith("SQ") else 0
        dim, measure = base.shape[1] + self._pad, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        makers = {
            "SQ8": lambda: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, measure),
            "SQ6": lambda: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_6bit, measure),
            "SQ4": lambda: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_4bit, measure),
            "PQ fast-scan, dim/4": lambda: faiss.IndexPQFastScan(dim, parts(dim, 4), 4, measure),
            "PQ fast-scan, dim/2": lambda: faiss.IndexPQFastScan(dim, parts(dim, 2), 4, measure),
            "RaBitQ fast-scan": lambda: faiss.IndexRaBitQFastScan(dim, measure),
        }
        self._index = makers[what.removesuffix(", rotated")]()
        if what.endswith(", rotated"):
            self._index = faiss.IndexPreTransform(faiss.RandomRotationMatrix(dim, dim), self._index)
        self._index.train(self.prepare(base))

    def nbytes(self) -> int:
        return self._faiss.serialize_index(self._index).nbytes


class TurboVec(Padded):
    """
    Calibrated on a sample, as its documentation recommends; for inner products only, and multiples of 8 dimensions.

    One thread by RAYON_NUM_THREADS, which the parent sets.
    """

    SAMPLE = 2048

    def __init__(self, base: Floats, metric: str, what: str) -> None:
        turbovec = require("turbovec", "peers")
        self._unit, self._pad = metric == "cosine", -base.shape[1] % 8
        self._index = turbovec.TurboQuantIndex(base.shape[1] + self._pad, int(what))
        rows = np.random.default_rng(0).choice(len(base), min(self.SAMPLE, len(base)), replace=False)
        self._index.calibrate(self.prepare(base[rows]))

    def nbytes(self) -> int:
        return len(self._index.to_bytes())


@dataclass(frozen=True)
class CodeContender:
    """An adapter, what it is to make, and the metrics that it knows."""

    adapter: type[CodeAdapter]
    what: str
    metrics: tuple[str, ...] = ("ip", "cosine", "l2")


FAISS_CODES = ["SQ8", "SQ6", "SQ4", "PQ fast-scan, dim/4", "PQ fast-scan, dim/2"]
FAISS_CODES += ["RaBitQ fast-scan", "RaBitQ fast-scan, rotated"]
CODE_CONTENDERS = {
    **{name: CodeContender(NearfieldCodes, name) for name in CODECS},
    **{f"faiss {what}": CodeContender(FaissCodes, what) for what in FAISS_CODES},
    **{f"turbovec {bits} bit": CodeContender(TurboVec, str(bits), ("ip", "cosine")) for bits in (4, 2)},
}
CODE_PACKAGES = ["nearfield", "numpy", "faiss", "turbovec"]


# ----------------------------------------------------------------------------------------------------------------------
# Inverted lists
# ----------------------------------------------------------------------------------------------------------------------


class ListsAdapter(Protocol):
    def __init__(self, base: Floats, metric: str, threads: int, lists: int, code: str) -> None:
        """Build from all vectors on these threads; searches run on one. What codes there are is for each to say."""

    def search(self, queries: Floats, k: int, probes: int, candidates: int) -> Ids:
        """Answer a batch; `candidates` are scored again from finer vectors, where the index has such a step."""

    def nbytes(self) -> int: ...


def files_size(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def inverted(dim: int, metric: str, lists: int, code: str) -> Any:
    """An empty index of this library: `code` is its codec, the one of reranking and maybe "soar", with + between."""
    nearfield = require("nearfield", "bench")
    codec, rerank, *rest = code.split(" + ")
    options = {"soar": 1.5} if rest == ["soar"] else {}
    return nearfield.IVF(dim, metric, lists=lists, codec=CODECS[codec](nearfield, dim), rerank=rerank, **options)


class NearfieldLists:
    def __init__(self, base: Floats, metric: str, threads: int, lists: int, code: str) -> None:
        self._index = inverted(base.shape[1], metric, lists, code)
        self._index.add(base, threads=threads)

    def search(self, queries: Floats, k: int, probes: int, candidates: int) -> Ids:
        return self._index.search(queries, k, probes=probes, oversample=candidates / k, threads=1).ids

    def nbytes(self) -> int:
        return self._index.nbytes


class FaissLists:
    """Product quantization with its fast scan, candidates scored again in half precision."""

    def __init__(self, base: Floats, metric: str, threads: int, lists: int, code: str) -> None:
        faiss = require("faiss", "peers")
        faiss.omp_set_num_threads(threads)
        measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        dim, subspaces = base.shape[1], parts(base.shape[1], {"dim/4": 4, "dim/2": 2}[code.removeprefix("PQ ")])
        self._faiss = faiss
        self._index = faiss.index_factory(dim, f"IVF{lists},PQ{subspaces}x4fs,Refine(SQfp16)", measure)
        rows = np.ascontiguousarray(base)
        self._index.train(rows)
        self._index.add(rows)
        self._lists = faiss.extract_index_ivf(self._index.base_index)
        faiss.omp_set_num_threads(1)

    def search(self, queries: Floats, k: int, probes: int, candidates: int) -> Ids:
        self._lists.nprobe, self._index.k_factor = probes, candidates / k
        return self._index.search(queries, k)[1]

    def nbytes(self) -> int:
        return self._faiss.serialize_index(self._index).nbytes


class ScannLists:
    """
    Codes of 4 bits for every two dimensions, "soar" with a second list for each vector, which inner products can have.

    Codes are anisotropic for inner products, with the threshold that its documentation uses.
    """

    def __init__(self, base: Floats, metric: str, threads: int, lists: int, code: str) -> None:
        scann = require("scann", "peers")
        measure = "squared_l2" if metric == "l2" else "dot_product"
        builder = scann.scann_ops_pybind.builder(np.ascontiguousarray(base), 10, measure)
        builder.set_n_training_threads(threads)
        builder.tree(lists, lists, training_sample_size=len(base), soar_lambda=1.5 if code == "soar" else None)
        builder.score_ah(2, anisotropic_quantization_threshold=float("nan") if metric == "l2" else 0.2)
        self._index = builder.reorder(100).build()

    def search(self, queries: Floats, k: int, probes: int, candidates: int) -> Ids:
        searched = self._index.search_batched(
            queries, final_num_neighbors=k, pre_reorder_num_neighbors=candidates, leaves_to_search=probes
        )
        return searched[0].astype(np.int64)

    def nbytes(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            self._index.serialize(folder)
            return files_size(folder)


class RaBitQLists:
    """
    Codes of some bits, or of one bit with the vectors themselves behind it, by its own clustering.

    It decides for itself which candidates are scored again.
    """

    def __init__(self, base: Floats, metric: str, threads: int, lists: int, code: str) -> None:
        rabitqlib = require("rabitqlib", "peers")
        rows = np.ascontiguousarray(base)
        exact = rabitqlib.FinalAssignmentMode.Exact
        clusters = rabitqlib.RaBitQKMeans(rows.shape[1], lists, num_threads=threads, final_assignment=exact)
        clusters.train(rows)
        bits = 32 if code == "1 bit, vectors" else int(code.removesuffix(" bit"))
        self._index = rabitqlib.IvfIndex(rows.shape[1], len(rows), lists, bits, metric=metric)
        self._index.build(rows, clusters.centroids, clusters.assignments, num_threads=threads)

    def search(self, queries: Floats, k: int, probes: int, candidates: int) -> Ids:
        return self._index.search(queries, k, probes, num_threads=1)[0].astype(np.int64)

    def nbytes(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            self._index.save(str(Path(folder) / "index"))
            return files_size(folder)


LISTS_CONTENDERS: dict[str, type[ListsAdapter]] = {
    "nearfield": NearfieldLists,
    "faiss": FaissLists,
    "scann": ScannLists,
    "rabitqlib": RaBitQLists,
}
LISTS_PACKAGES = ["nearfield", "numpy", "faiss", "sklearn"]


# ----------------------------------------------------------------------------------------------------------------------
# Clustering
# ----------------------------------------------------------------------------------------------------------------------


def nearfield_centers(base: Floats, clusters: int, iterations: int, threads: int) -> Floats:
    kmeans = require("nearfield", "bench").KMeans(clusters, iterations=iterations, sample=None, seed=0)
    return kmeans.fit(base, threads=threads).cluster_centers_


def faiss_centers(base: Floats, clusters: int, iterations: int, threads: int) -> Floats:
    """From all vectors: by default it takes 256 for each cluster."""
    faiss = require("faiss", "peers")
    faiss.omp_set_num_threads(threads)
    kmeans = faiss.Kmeans(base.shape[1], clusters, niter=iterations, max_points_per_centroid=len(base), seed=0)
    kmeans.train(base)
    return kmeans.centroids


def rabitqlib_centers(base: Floats, clusters: int, iterations: int, threads: int) -> Floats:
    """Vectors are assigned by estimates from codes of one bit."""
    rabitqlib = require("rabitqlib", "peers")
    kmeans = rabitqlib.RaBitQKMeans(base.shape[1], clusters, niter=iterations, num_threads=threads, seed=0)
    kmeans.train(base)
    return kmeans.centroids


def sklearn_centers(base: Floats, clusters: int, iterations: int, threads: int) -> Floats:
    """Mini-batches as by default, in at most 100 passes; the threads are those of the environment."""
    cluster = require("sklearn.cluster", "peers")
    return cluster.MiniBatchKMeans(clusters, random_state=0).fit(base).cluster_centers_


CLUSTERINGS: dict[str, Callable[[Floats, int, int, int], Floats]] = {
    "nearfield": nearfield_centers,
    "faiss": faiss_centers,
    "rabitqlib": rabitqlib_centers,
    "scikit-learn": sklearn_centers,
}
