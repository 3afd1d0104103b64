"""Search of inverted lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from . import _core, _inputs, codecs, tuning
from ._index import Filter, Index
from .results import Hits, RangeHits

# What an index gets unless it is told.
_CODEC: codecs.Codec = "rabitq1"
_RERANK: codecs.Codec | None = "f16"
_OVERSAMPLE = 10.0
# Bytes of an array that are converted at a time while a file is built.
_PART_BYTES = 4 << 20


class IVF(Index):
    """
    Search of inverted lists: vectors are clustered, and a search visits the lists nearest to its query.

    A list holds the codes of the vectors that are nearest to its centroid. A query is compared with all centroids, the
    codes of the ``probes`` nearest lists are scanned, and ``oversample * k`` candidates are scored again by a finer
    codec. Results are not exact; `tune` measures which ``probes`` and ``oversample`` reach which recall.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, 1 to 65,535.
    metric : {"cosine", "ip", "l2"}
        Cosine similarity (higher is better, in [-1, 1]; a zero vector scores 0), inner product (higher is better) or
        Euclidean distance (lower is better). Vectors are kept as given: the metric does its own normalisation.
    lists : int, optional
        How many lists there are; no more than the vectors that they are learned from. By default four times the square
        root of the number of these vectors.
    codec : str, parameter object or tuple
        What lists hold, as for `Flat`. `RaBitQ`, `Lloyd` and `PQ` (by their short names too, but not with a rotation or
        a balanced codebook) code what is left of a vector beside its centroid.
    rerank : str, parameter object or tuple, optional
        A second, finer codec for the same vectors, which scores candidates again, and by which ``score`` and
        ``reconstruct`` go. None: results are those of the codec.
    oversample : float
        Candidates per result when reranking, at least 1.
    probes : int, optional
        Lists that a search visits unless it says so itself. By default a share of all.
    soar : float, optional
        Puts each vector into a second list as well, chosen such that its residual there is small, and the more so, the
        larger this weight, orthogonal to its first one: where the first codes err about a query, the second do not.
        Fewer probes reach a recall, for lists twice as long. 1 to 1.5 is usual.
    list_dims : int, optional
        Learn lists from the first so many dimensions only, for embeddings that were trained such that a prefix is an
        embedding too (Matryoshka). A codec such as ``(nf.Prefix(256), "rabitq1")`` then scans a longer prefix, and
        ``rerank`` scores in full. Codes are of whole vectors then, not of what is left of them.
    seed : int
        Of where k-means starts.

    Raises
    ------
    ValueError
        If an argument is none of these.

    Notes
    -----
    The index learns its lists by k-means, and its codec, from the vectors that are added first, or beforehand by
    `train`: from an evenly spread sample of up to 256 vectors for each list. Vectors that come later go into the lists
    that there are. Under cosine vectors are clustered by their direction.

    With a filter, a search goes on to further lists until it has found min(k, vectors allowed), and has seen a share of
    the allowed vectors that is the larger, the fewer they are; it compares the allowed vectors one by one where that
    takes less.

    `save` writes the lists side by side, so that a mapped file (``nearfield.load(path, mmap=True)``) is read only where
    a search looks: the centroids, the lists that it visits, and the candidates that it scores again. `build` makes such
    a file from more vectors than fit in memory.

    Any number of threads may search while one adds, updates or removes; after an exception the index is as it was.

    References
    ----------
    Sivic and Zisserman, "Video Google: A Text Retrieval Approach to Object Matching in Videos", 2003; Jégou et al.,
    "Product Quantization for Nearest Neighbor Search", 2011 (IVFADC: codes of residuals); Gao and Long, "RaBitQ:
    Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest Neighbor Search", 2024
    (arXiv 2405.12497); Sun et al., "SOAR: Improved Indexing for Approximate Nearest Neighbor Search", 2023 (arXiv
    2404.00774); Rege et al., "AdANNS: A Framework for Adaptive Semantic Search", 2023 (arXiv 2305.19435).

    Examples
    --------
    >>> import numpy as np, nearfield as nf
    >>> vectors = np.random.default_rng(0).normal(size=(2000, 16)).astype("f4")
    >>> index = nf.IVF(dim=16, metric="l2", lists=20)
    >>> ids = index.add(vectors)
    >>> index.search(vectors[:3], k=1, probes=2).ids
    array([[0],
           [1],
           [2]])
    """

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        lists: int | None = None,
        codec: codecs.Codec = _CODEC,
        rerank: codecs.Codec | None = _RERANK,
        oversample: float = _OVERSAMPLE,
        probes: int | None = None,
        soar: float | None = None,
        list_dims: int | None = None,
        seed: int = 0,
    ) -> None:
        size = _inputs.count(dim, "dim")
        kind, parameters = codecs.spec_of(codec)
        finer, finer_parameters = codecs.spec_of(rerank, "rerank")
        core = _core.Ivf(
            size,
            _inputs.text(metric, "metric"),
            kind,
            parameters,
            finer,
            finer_parameters,
            _inputs.number(oversample, "oversample"),
            0 if lists is None else _inputs.count(lists, "lists", 1),
            0 if probes is None else _inputs.count(probes, "probes", 1),
            0.0 if soar is None else _inputs.number(soar, "soar"),
            0 if list_dims is None else _inputs.count(list_dims, "list_dims", 1),
            _inputs.count(seed, "seed"),
        )
        self._core: _core.Ivf
        super().__init__(core, codec, rerank)

    def train(
        self,
        vectors: npt.ArrayLike,
        *,
        threads: int | None = None,
        progress: _inputs.Progress | None = None,
    ) -> None:
        """
        Learn the lists, and what the codec has to learn, from a sample before vectors are added.

        Without it, the first vectors that are added are learned from.

        Parameters
        ----------
        vectors : array_like, shape (n, dim)
            A sample that is like the vectors to come, and not smaller than the number of lists. Up to 256 evenly spread
            vectors for each list are looked at. Where the number of lists is not given, it goes by n.
        threads, progress
            As for `add`.

        Raises
        ------
        ValueError
            If there are fewer vectors than lists, or the index has learned already; otherwise as for `add`.
        TypeError
            As for `add`.
        """
        self._train(vectors, None, threads, progress)

    def add(
        self,
        vectors: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
        *,
        threads: int | None = None,
        progress: _inputs.Progress | None = None,
    ) -> npt.NDArray[np.int64]:
        """
        Add vectors; the lists are learned from the first ones, unless `train` was called.

        Parameters
        ----------
        vectors : array_like, shape (n, dim) or (dim,)
            Numbers of any type and layout: NumPy, torch, Arrow, DLPack or nested lists.
        ids : array_like of int, shape (n,), optional
            Their ids, not negative, none of them in the index. By default they continue after the largest ever used.
        threads : int, optional
            How many threads may work; by default all CPUs that this process may use. It never changes a result.
        progress : callable, optional
            Called now and then with the share that is done, from 0 to 1. What it raises stops the call.

        Returns
        -------
        ndarray of int64, shape (n,)
            The ids.

        Raises
        ------
        ValueError
            For a wrong dimension or shape, NaN or infinity (the row is named), a value that the codec cannot hold, ids
            that are negative or repeated, and fewer vectors than lists where these are yet to be learned.
        TypeError
            For elements that are not numbers, or ids that are not integers.
        KeyError
            For an id that is in the index already.
        """
        return self._add(vectors, ids, None, threads, progress)

    def build(
        self,
        source: npt.ArrayLike | Iterable[npt.ArrayLike],
        path: Any,
        *,
        memory_budget: int | str,
        threads: int | None = None,
        progress: _inputs.Progress | None = None,
    ) -> None:
        """
        Write the file of an index of many vectors within a memory budget, and serve them from there.

        The index, which must be empty, then is that of the file, which is mapped: a search reads what it looks at. What
        it learned by `train` is used; otherwise it learns from a sample of the source.

        Parameters
        ----------
        source : array_like, shape (n, dim), or iterable of array_like, shape (rows, dim)
            The vectors, or batches of them, which are asked for one after the other. An array that is mapped
            (``numpy.load(..., mmap_mode="r")``) is read piece by piece.
        path : path-like
            The file. One that is there is replaced in one step at the end. Beside it, a scratch file may be needed for
            batches meanwhile.
        memory_budget : int or str
            How much memory may be taken, in bytes or as text ("512MB", "2 GiB"). A batch that `source` yields, and the
            pages of files that the system keeps, are not counted.
        threads, progress
            As for `add`.

        Raises
        ------
        ValueError
            If the index holds vectors, for a budget that is too small, for fewer vectors than lists, and as for `add`;
            the batch and the row are named. Also for a codec that learns by NumPy, such as one with `PCA` in front,
            before `train` was called.
        TypeError
            As for `add`.
        OSError
            If the file cannot be written.

        Notes
        -----
        After an exception, which may be one of the iterable, the index and the file at `path` are as they were.
        """
        target = _inputs.path_of(path)
        if target is None:
            raise TypeError(f"path: {type(path).__name__} given, expected a path")
        budget = _inputs.byte_count(memory_budget, "memory_budget")
        run = (_inputs.threads(threads), _inputs.progress(progress))
        self._expect_learned()
        array = _array_of(source)
        if array is None:
            batches = ((batch, f"source: batch {i}", 0) for i, batch in enumerate(cast(Iterable[Any], source)))
            self._core.build_from(self._reader(batches), target, budget, *run)
        elif _must_be_converted(array):
            rows = max(1, _PART_BYTES // (array.itemsize * array.shape[1]))
            parts = ((array[first : first + rows], "source", first) for first in range(0, len(array), rows))
            self._core.build_from(self._reader(parts), target, budget, *run)
        else:
            self._core.build(*self._vectors(array, "source"), target, budget, *run)
        self._core = cast(_core.Ivf, _core.Index.load_path(target, True, False, ""))

    def _reader(
        self, batches: Iterator[tuple[Any, str, int]]
    ) -> Callable[[], tuple[_inputs.Array, str, str, int] | None]:
        """A function that returns one batch after the other as the core takes it, and None at the end."""

        def following() -> tuple[_inputs.Array, str, str, int] | None:
            for batch, name, first in batches:
                return (*self._vectors(batch, name), name, first)
            return None

        return following

    def _expect_learned(self) -> None:
        if not self._core.untrained(""):
            return
        for name, codec in zip(("codec", "rerank"), self._written(), strict=True):
            if codec is not None and codecs.learns(codec):
                raise ValueError(f"{name}: {codec!r} learns from a sample; call train with one before build")

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        filter: npt.ArrayLike | Filter | None = None,
        threads: int | None = None,
        probes: int | None = None,
        oversample: float | None = None,
        recall: float | None = None,
        exact: bool = False,
    ) -> Hits:
        """
        Find the k best vectors for each query, among the lists that it visits.

        Parameters
        ----------
        queries : array_like, shape (queries, dim) or (dim,)
            A single vector counts as one query.
        k : int
            Results per query; may be 0 or exceed the number of vectors.
        filter : array_like or Filter, optional
            What may be returned: a boolean mask aligned with `ids`, an array of ids (unknown ones are ignored), or
            what `prepare_filter` made of either. Conditions on several attributes are combined as masks, by ``&`` and
            ``|``.
        threads : int, optional
            By default all CPUs that this process may use, one for a single query.
        probes : int, optional
            Lists to visit for this search, in place of the index's own; more than there are means all. A search visits
            more of them as long as it has not found min(k, vectors allowed).
        oversample : float, optional
            Candidates per result for this search, in place of the index's own. Only with ``rerank``.
        recall : float, optional
            The share of the true results to be found, above 0 and at most 1: takes the ``probes`` and ``oversample``
            for which `tune` measured at least that.
        exact : bool
            Compare every vector by the finest codec.

        Returns
        -------
        Hits
            With min(k, vectors allowed) results for every query.

        Raises
        ------
        ValueError
            For a wrong dimension or shape, NaN or infinity, a negative k or a mask of the wrong length.
        TypeError
            For elements that are not numbers.
        """
        return self._search(
            queries,
            k,
            filter=filter,
            threads=threads,
            probes=probes,
            oversample=oversample,
            recall=recall,
            exact=exact,
        )

    def range_search(
        self,
        queries: npt.ArrayLike,
        radius: float,
        *,
        probes: int | None = None,
        filter: npt.ArrayLike | Filter | None = None,
        threads: int | None = None,
    ) -> RangeHits:
        """
        Find the vectors within a radius, the boundary included, among the lists that each query visits.

        Parameters
        ----------
        queries : array_like, shape (queries, dim) or (dim,)
        radius : float
            In the metric's own unit: the largest distance for l2, the smallest score for the others.
        probes : int, optional
            Lists to visit, in place of the index's own. As many as there are find every vector.
        filter, threads
            As for `search`.

        Returns
        -------
        RangeHits

        Raises
        ------
        ValueError, TypeError
            As for `search`, and for a radius that is NaN.
        """
        return self._range_search(queries, radius, filter=filter, threads=threads, probes=probes)

    def score(
        self, queries: npt.ArrayLike, ids: npt.ArrayLike, *, threads: int | None = None
    ) -> npt.NDArray[np.float32]:
        """
        Score given vectors.

        Parameters
        ----------
        queries : array_like, shape (queries, dim) or (dim,)
        ids : array_like of int, shape (m,) or (queries, m)
            The same ids for all queries, or a row of ids for each.
        threads
            As for `search`.

        Returns
        -------
        ndarray of float32, shape (queries, m)
            NaN where the id is -1.

        Raises
        ------
        KeyError
            For an id that is not in the index.
        ValueError, TypeError
            As for `search`.
        """
        return self._score(queries, ids, threads)

    def measure_recall(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        probes: int | None = None,
        oversample: float | None = None,
        recall: float | None = None,
        threads: int | None = None,
    ) -> float:
        """
        Measure the share of the true k best vectors that a search finds.

        Parameters
        ----------
        queries : array_like, shape (queries, dim)
        k : int
            Results per query.
        probes, oversample, recall, threads
            As for `search`.

        Returns
        -------
        float
            The mean over the queries; the truth is a search with ``exact=True``, by the finest codec.

        Raises
        ------
        ValueError, TypeError
            As for `search`, and for an empty index or no queries.
        """
        parameters = {"probes": probes, "oversample": oversample, "recall": recall}
        return tuning.measure_recall(self, queries, k, parameters, threads)

    @property
    def lists(self) -> int:
        """How many lists there are; 0 before they are learned."""
        return self._core.lists

    @property
    def list_sizes(self) -> npt.NDArray[np.int64]:
        """How many codes each list holds, second ones (see ``soar``) and those of removed vectors included."""
        return self._core.list_sizes

    @property
    def centroids(self) -> npt.NDArray[np.float32]:
        """The centroids of the lists, of shape (lists, dim) or (lists, list_dims)."""
        return self._core.centroids

    @property
    def probes(self) -> int:
        """Lists that a search visits unless it says so itself."""
        return self._core.probes

    @property
    def soar(self) -> float | None:
        """The weight by which second lists are chosen, if there are such."""
        return self._core.soar or None

    @property
    def list_dims(self) -> int | None:
        """How many dimensions lists are learned from, if not all."""
        return self._core.list_dims or None

    @property
    def _tuned(self) -> tuple[str, ...]:
        return ("probes", "oversample") if self.rerank else ("probes",)

    @property
    def _list_sizes(self) -> npt.NDArray[np.int64]:
        return self.list_sizes

    def __repr__(self) -> str:
        refined = f", rerank={self.rerank!r}" if self.rerank else ""
        return (
            f"IVF(dim={self.dim}, metric={self.metric!r}, lists={self.lists}, codec={self.codec!r}{refined}): "
            f"{len(self):,} vectors, {self.nbytes / 1e6:,.1f} MB"
        )


def _array_of(source: Any) -> _inputs.Array | None:
    """The source as one array, None if it yields batches."""
    if isinstance(source, (list, tuple)):
        return (
            None
            if len(source) > 0 and _inputs._as_array(source[0], "source").ndim == 2
            else _inputs._as_array(source, "source")
        )
    if isinstance(source, Iterable) and not hasattr(source, "__array__") and not hasattr(source, "__dlpack__"):
        return None
    return _inputs._as_array(source, "source")


def _must_be_converted(array: _inputs.Array) -> bool:
    """Whether the core cannot read an array of many rows in place."""
    if array.ndim != 2 or array.size == 0:
        return False
    return not np.shares_memory(_inputs.vectors(array[:2], "source")[0], array)
