"""Exact search."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core, _inputs, codecs, tuning
from .results import Hits, RangeHits
from .tuning import Tuning

Filter = _core.Filter


def _version(name: str | None) -> str | None:
    return None if name is None else _inputs.text(name, "version")


class Flat:
    """
    Exact search over all vectors.

    Every vector is compared with every query, and the result is that of a comparison in float64 with what the codec
    keeps of the vectors, ties by lower id. (`RaBitQ` of several bits and `LVQ` with a residual read some bits only of
    vectors that the others leave open, by a bound that nearly always holds.) Float vectors are scanned through a
    compact 8-bit image with a proven error bound, and only those that the bound leaves open are compared in full.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, 1 to 65,535; for packed bits the number of bits, 1 to 1,048,576.
    metric : {"cosine", "ip", "l2", "hamming", "jaccard"}
        Cosine similarity (higher is better, in [-1, 1]; a zero vector scores 0), inner product (higher is better) or
        Euclidean distance (lower is better). Vectors are kept as given: the metric does its own normalisation.

        For packed bits: the number of bits that differ (lower is better), or the Jaccard (Tanimoto) similarity, the
        share of the ones of either vector that both have (higher is better, in [0, 1]; two vectors without ones
        score 1).
    codec : str, parameter object or tuple, optional
        How vectors are stored. "f32", "f16" and "bf16" are floats; "int8" keeps a vector of integers from -128 to 127
        as it is, and rounds any other with one scale per vector; "uint8" takes integers from 0 to 255 only.
        Quantizers are parameter objects, `SQ`, `LVQ`, `Lloyd`, `RaBitQ`, `PQ`, `Sign` and `RecurrentBinary`, or short
        names of them ("sq8", "lvq4x8", "lloyd4", "rabitq1", "pq4", "sign"). A tuple ends with a codec, before which
        stand transforms: ``(nf.PCA(160), nf.SQ(8))``. By default "f32", and "bits" (the only one) for packed bits.
    rerank : str, parameter object or tuple, optional
        A second, finer codec for the same vectors. A search then takes ``oversample * k`` candidates by the first codec
        and scores them again by this one, and ``score`` and ``reconstruct`` use it.
    oversample : float
        Candidates per result when reranking, at least 1.
    screen : bool
        Whether to keep the 8-bit image (a quarter of the size of float32 vectors, counted in ``nbytes``; from 1,024
        vectors on). It never changes a result.

    Raises
    ------
    ValueError
        If an argument is none of these.

    Notes
    -----
    Any number of threads may search while one adds, updates or removes; after an exception the index is as it was.

    Packed bits are uint8 rows of ceil(dim / 8) bytes in the order of ``numpy.packbits``: the first bit is the highest
    of the first byte, and the padding of the last byte does not count. Booleans (n, dim) are packed for you, and int8
    is read as the "binary" precision of sentence-transformers and Cohere (the byte minus 128).

    Vectors can be labelled with the version of the model that they come from, by ``add(..., version="...")``; a codec
    learns for each version by itself, and a search can be limited to one.

    The screen is exact search by a bound: with rounded vectors and the lengths of what was rounded away, the
    Cauchy-Schwarz inequality bounds every inner product from both sides.

    Examples
    --------
    >>> import numpy as np, nearfield as nf
    >>> index = nf.Flat(dim=2, metric="l2")
    >>> index.add([[0, 0], [3, 4], [0, 1]])
    array([0, 1, 2])
    >>> ids, scores = index.search([0, 0], k=2)
    >>> ids, scores
    (array([[0, 2]]), array([[0., 1.]], dtype=float32))
    """

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        codec: codecs.Codec | None = None,
        rerank: codecs.Codec | None = None,
        oversample: float = 4.0,
        screen: bool = True,
    ) -> None:
        size = _inputs.count(dim, "dim")
        kind, parameters = codecs.spec_of(codec)
        finer, finer_parameters = codecs.spec_of(rerank, "rerank")
        self._objects = (codec, rerank)
        self._core = _core.Flat(
            size,
            _inputs.text(metric, "metric"),
            kind,
            parameters,
            finer,
            finer_parameters,
            _inputs.number(oversample, "oversample"),
            bool(screen),
        )

    @classmethod
    def _of(cls, core: _core.Flat) -> Flat:
        index = cls.__new__(cls)
        index._core = core
        index._objects = (None, None)
        return index

    # -- changing --------------------------------------------------------------------------------------------------

    def train(self, vectors: npt.ArrayLike, *, version: str | None = None) -> None:
        """
        Let the codec learn from a sample, before vectors are added.

        Without it, a codec that has to learn does so from the first vectors that are added.

        Parameters
        ----------
        vectors : array_like, shape (n, dim)
            A sample that is like the vectors to come; some thousand will do.
        version : str, optional
            The version that it learns for.

        Raises
        ------
        ValueError
            If there is nothing to learn or the version has been trained already; otherwise as for `add`.
        TypeError
            As for `add`.
        """
        array, element = self._vectors(vectors, "vectors")
        label = _version(version) or ""
        self._core.train(array, element, label, self._given(array, element, label))

    def add(
        self,
        vectors: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
        *,
        version: str | None = None,
        threads: int | None = None,
        progress: _inputs.Progress | None = None,
    ) -> npt.NDArray[np.int64]:
        """
        Add vectors.

        Parameters
        ----------
        vectors : array_like, shape (n, dim) or (dim,)
            Numbers of any type and layout: NumPy, torch, Arrow, DLPack or nested lists; or packed bits (see the notes
            of the class).
        ids : array_like of int, shape (n,), optional
            Their ids, not negative, none of them in the index. By default they continue after the largest ever used.
        version : str, optional
            A name for the model that they come from, to which a search can be limited.
        threads : int, optional
            How many threads may work; by default all CPUs that this process may use.
        progress : callable, optional
            Called now and then with the share that is done, from 0 to 1. What it raises stops the call.

        Returns
        -------
        ndarray of int64, shape (n,)
            The ids.

        Raises
        ------
        ValueError
            For a wrong dimension or shape, NaN or infinity (the row is named), a value that the codec cannot hold, and
            ids that are negative or repeated.
        TypeError
            For elements that are not numbers (or, with a metric of bits, no packed bits), or ids that are not integers.
        KeyError
            For an id that is in the index already.
        """
        array, element = self._vectors(vectors, "vectors")
        given_ids = None if ids is None else _inputs.flat_ids(ids)
        label = _version(version) or ""
        given = self._given(array, element, label)
        watch = _inputs.progress(progress)
        return self._core.add(array, element, given_ids, label, given, _inputs.threads(threads), watch)

    def update(
        self,
        ids: npt.ArrayLike,
        vectors: npt.ArrayLike,
        *,
        threads: int | None = None,
        progress: _inputs.Progress | None = None,
    ) -> None:
        """
        Replace the vectors of ids that are in the index.

        Parameters
        ----------
        ids : array_like of int, shape (n,)
            All of one version, which they keep.
        vectors : array_like, shape (n, dim)
        threads, progress
            As for `add`.

        Raises
        ------
        KeyError
            For an id that is not in the index; nothing is changed then.
        ValueError, TypeError
            As for `add`.
        """
        array, element = self._vectors(vectors, "vectors")
        self._core.update(_inputs.flat_ids(ids), array, element, _inputs.threads(threads), _inputs.progress(progress))

    def remove(self, ids: npt.ArrayLike) -> None:
        """
        Remove vectors.

        Parameters
        ----------
        ids : array_like of int, shape (n,)

        Raises
        ------
        KeyError
            For an id that is not in the index; nothing is removed then.
        ValueError
            For an id that is given twice.
        """
        self._core.remove(_inputs.flat_ids(ids))

    # -- searching -------------------------------------------------------------------------------------------------

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        filter: npt.ArrayLike | Filter | None = None,
        version: str | None = None,
        threads: int | None = None,
        oversample: float | None = None,
        recall: float | None = None,
        exact: bool = False,
    ) -> Hits:
        """
        Find the k best vectors for each query.

        Parameters
        ----------
        queries : array_like, shape (queries, dim) or (dim,)
            A single vector counts as one query.
        k : int
            Results per query; may be 0 or exceed the number of vectors.
        filter : array_like or Filter, optional
            What may be returned: a boolean mask aligned with `ids`, an array of ids (unknown ones are ignored), or
            what `prepare_filter` made of either.
        version : str, optional
            Search only the vectors of this version, with the query coded as these are. By default all vectors are
            searched, with the query coded as those of the version that came last.
        threads : int, optional
            By default all CPUs that this process may use, one for a single query.
        oversample : float, optional
            Candidates per result for this search, in place of the index's own. Only with ``rerank``.
        recall : float, optional
            The share of the true results to be found, above 0 and at most 1: takes the ``oversample`` for which `tune`
            measured at least that.
        exact : bool
            Compare every vector by the finest codec, without candidates.

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
        array, element = self._vectors(queries, "queries")
        places = _inputs.count(k, "k")
        wanted = None if oversample is None else _inputs.number(oversample, "oversample")
        found = self._core.search(
            array,
            element,
            places,
            self._filter(filter),
            _version(version),
            wanted,
            None if recall is None else _inputs.number(recall, "recall"),
            bool(exact),
            _inputs.threads(threads),
        )
        return Hits(*found)

    def range_search(
        self,
        queries: npt.ArrayLike,
        radius: float,
        *,
        filter: npt.ArrayLike | Filter | None = None,
        version: str | None = None,
        threads: int | None = None,
    ) -> RangeHits:
        """
        Find every vector within a radius, the boundary included.

        Parameters
        ----------
        queries : array_like, shape (queries, dim) or (dim,)
        radius : float
            In the metric's own unit: the largest distance for l2 and hamming, the smallest score for the others.
        filter, version, threads
            As for `search`.

        Returns
        -------
        RangeHits

        Raises
        ------
        ValueError, TypeError
            As for `search`, and for a radius that is NaN.
        """
        array, element = self._vectors(queries, "queries")
        limit = _inputs.number(radius, "radius")
        allowed = self._filter(filter)
        found = self._core.range_search(array, element, limit, allowed, _version(version), _inputs.threads(threads))
        return RangeHits(*found)

    def score(
        self, queries: npt.ArrayLike, ids: npt.ArrayLike, *, version: str | None = None, threads: int | None = None
    ) -> npt.NDArray[np.float32]:
        """
        Score given vectors.

        Parameters
        ----------
        queries : array_like, shape (queries, dim) or (dim,)
        ids : array_like of int, shape (m,) or (queries, m)
            The same ids for all queries, or a row of ids for each.
        version, threads
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
        array, element = self._vectors(queries, "queries")
        wanted = np.atleast_1d(_inputs.ids(ids))
        if wanted.ndim > 2:
            raise ValueError(f"ids: an array of {wanted.ndim} dimensions given, expected 1 or 2")
        return self._core.score(array, element, wanted, _version(version), _inputs.threads(threads))

    def prepare_filter(self, filter: npt.ArrayLike | Filter) -> Filter:
        """
        Prepare a filter once for many searches.

        Parameters
        ----------
        filter : array_like
            A boolean mask aligned with `ids`, or an array of ids (unknown ones are ignored). It keeps meaning these
            ids while the index changes.

        Returns
        -------
        Filter
            Its length is the number of vectors that it allows.

        Raises
        ------
        ValueError
            For a mask whose length is not that of the index.
        TypeError
            For an array that is neither boolean nor integer.
        """
        if isinstance(filter, Filter):
            return filter
        array = _inputs._as_array(filter, "filter")
        if array.ndim != 1:
            raise ValueError(f"filter: an array of {array.ndim} dimensions given, expected 1")
        if array.dtype.kind == "b":
            return self._core.filter_of_mask(np.ascontiguousarray(array))
        return self._core.filter_of_ids(_inputs.ids(array, "filter"))

    def _filter(self, filter: npt.ArrayLike | Filter | None) -> Filter | None:
        return None if filter is None else self.prepare_filter(filter)

    def _given(self, array: _inputs.Array, element: str, version: str) -> dict[str, codecs.Floats]:
        """What the codec needs to learn, and the core cannot find out by itself."""
        if element == "bits" or array.shape[1] != self.dim or not self._core.untrained(version):
            return {}
        # The objects that the index was made with hold arrays, which one that was loaded has learned from already.
        codec, finer = (given or known for given, known in zip(self._objects, (self.codec, self.rerank), strict=True))
        given = codecs.given(codec, array, element, self.metric)
        return given | {
            f"rerank.{name}": value for name, value in codecs.given(finer, array, element, self.metric).items()
        }

    def _vectors(self, value: Any, name: str) -> tuple[_inputs.Array, str]:
        if self._core.codec == "bits":
            packed = _inputs.bits(value, name, self.dim)
            return (packed.reshape(0, -(-self.dim // 8)), "bits") if packed.shape == (1, 0) else (packed, "bits")
        array, element = _inputs.vectors(value, name)
        if array.shape[1] != self.dim and array.shape[1] == -(-self.dim // 8) and element in ("int8", "uint8"):
            if not self._core.codec == "sign":
                raise ValueError(
                    f"{name}: {array.shape[1]} bytes given, which may be {self.dim} packed bits; these need metric "
                    f'"hamming" or "jaccard", or codec "sign", but the index takes vectors of {self.dim} numbers'
                )
            return _inputs.bits(array, name), "bits"
        if array.size == 0 and array.shape[1] != self.dim:  # an empty list has no dimension of its own
            if array.shape != (1, 0):
                return array, element
            array = array.reshape(0, 0)
            return np.zeros((0, self.dim), np.float32), "f32"
        return array, element

    # -- declared recall -------------------------------------------------------------------------------------------

    def tune(
        self,
        queries: npt.ArrayLike | None = None,
        k: int = 10,
        recall: Sequence[float] = (0.9, 0.95, 0.99),
        *,
        threads: int | None = None,
        progress: _inputs.Progress | None = None,
    ) -> Tuning:
        """
        Measure which ``oversample`` reaches which recall, for ``search(recall=...)``.

        Parameters
        ----------
        queries : array_like, shape (queries, dim), optional
            Some hundred queries like those to come. By default up to 1,000 vectors of the index, each of which is left
            out of its own results; real queries are often harder than these.
        k : int
            Results per query for which recall is measured.
        recall : sequence of float
            The recalls to find settings for, above 0 and at most 1.
        threads, progress
            As for `add`.

        Returns
        -------
        Tuning
            What was found; it is kept in the index and its file, until the next call.

        Raises
        ------
        ValueError
            For an empty index, no queries, k below 1, and recalls out of range; otherwise as for `search`.
        TypeError
            As for `search`.
        """
        return tuning.tune(self, queries, k, recall, threads, progress)

    def measure_recall(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
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
        oversample, recall, threads
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
        return tuning.measure_recall(self, queries, k, {"oversample": oversample, "recall": recall}, threads)

    @property
    def tuning(self) -> Tuning | None:
        """What `tune` has measured, if it was called."""
        return Tuning._of("oversample", *self._core.tuning)

    # -- looking ---------------------------------------------------------------------------------------------------

    def reconstruct(self, ids: npt.ArrayLike) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8]:
        """
        Return vectors as they were added, to the precision of the (finest) codec.

        Parameters
        ----------
        ids : array_like of int, shape (n,)

        Returns
        -------
        ndarray of float32, shape (n, dim)
            With a metric of bits, packed bits: uint8 (n, ceil(dim / 8)).

        Raises
        ------
        KeyError
            For an id that is not in the index.
        """
        wanted = _inputs.flat_ids(ids)
        return self._core.codes(wanted) if self._core.codec == "bits" else self._core.reconstruct(wanted)

    def codes(self, ids: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """
        Return what the codec (not the one for reranking) keeps of vectors.

        Parameters
        ----------
        ids : array_like of int, shape (n,)

        Returns
        -------
        ndarray of uint8, shape (n, bytes)
            For `Sign` and packed bits, the bits as ``numpy.packbits`` orders them.

        Raises
        ------
        KeyError
            For an id that is not in the index.
        """
        return self._core.codes(_inputs.flat_ids(ids))

    @property
    def versions(self) -> dict[str, int]:
        """How many vectors there are of each version, in the order in which they came; "" is the one without a name."""
        return dict(self._core.versions())

    def ids(self) -> npt.NDArray[np.int64]:
        """Return all ids, in the order that boolean filters are aligned with; an update moves an id to the end."""
        return self._core.ids()

    def __contains__(self, id: object) -> bool:
        return isinstance(id, (int, np.integer)) and 0 <= int(id) < 2**63 and int(id) in self._core

    def __len__(self) -> int:
        return len(self._core)

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._core.dim

    @property
    def metric(self) -> str:
        """The metric: "cosine", "ip", "l2", "hamming" or "jaccard"."""
        return self._core.metric

    @property
    def codec(self) -> codecs.Codec:
        """The codec that is scanned: its short name, or its parameter object where that does not say it all."""
        return codecs.of_spec(self._core.codec, self._core.parameters)

    @property
    def rerank(self) -> codecs.Codec | None:
        """The finer codec, if there is one."""
        return codecs.of_spec(self._core.rerank, self._core.rerank_parameters) if self._core.rerank else None

    @property
    def oversample(self) -> float:
        """Candidates per result when reranking."""
        return self._core.oversample

    @property
    def screen(self) -> bool:
        """Whether float vectors are scanned through their 8-bit image once there are enough of them."""
        return self._core.screen

    @property
    def nbytes(self) -> int:
        """Bytes that the vectors, their codes and ids take."""
        return self._core.nbytes

    def __repr__(self) -> str:
        refined = f", rerank={self.rerank!r}" if self.rerank else ""
        return (
            f"Flat(dim={self.dim}, metric={self.metric!r}, codec={self.codec!r}{refined}): "
            f"{len(self):,} vectors, {self.nbytes / 1e6:,.1f} MB"
        )

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, file: Any) -> None:
        """
        Write the index to one file, which any safetensors reader opens.

        Parameters
        ----------
        file : path-like or binary file object
            A file at a path is replaced in one step: it holds the old index or the new one, never half of either.

        Raises
        ------
        OSError
            If the file cannot be written; the old one is kept.
        """
        path = _inputs.path_of(file)
        if path is not None:
            self._core.save_path(path)
        elif hasattr(file, "write"):
            self._core.save_to(file.write)
        else:
            raise TypeError(f"file: {type(file).__name__} given, expected a path or a binary file object")

    def __getstate__(self) -> bytes:
        buffer = io.BytesIO()
        self.save(buffer)
        return buffer.getvalue()

    def __setstate__(self, state: bytes) -> None:
        self._core = _core.Flat.load_bytes(state)
        self._objects = (None, None)

    def __copy__(self) -> Flat:
        return Flat._of(_core.Flat.load_bytes(self.__getstate__()))

    def __deepcopy__(self, memo: dict[int, Any]) -> Flat:
        return self.__copy__()
