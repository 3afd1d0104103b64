"""Exact search."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import _core, _inputs, codecs, tuning
from ._index import Filter, Index
from .results import Hits, RangeHits


class Flat(Index):
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
        core = _core.Flat(
            size,
            _inputs.text(metric, "metric"),
            kind,
            parameters,
            finer,
            finer_parameters,
            _inputs.number(oversample, "oversample"),
            bool(screen),
        )
        self._core: _core.Flat
        super().__init__(core, codec, rerank)

    def train(
        self,
        vectors: npt.ArrayLike,
        *,
        version: str | None = None,
        threads: int | None = None,
        progress: _inputs.Progress | None = None,
    ) -> None:
        """
        Let the codec learn from a sample, before vectors are added.

        Without it, a codec that has to learn does so from the first vectors that are added.

        Parameters
        ----------
        vectors : array_like, shape (n, dim)
            A sample that is like the vectors to come; some thousand will do.
        version : str, optional
            The version that it learns for.
        threads, progress
            As for `add`.

        Raises
        ------
        ValueError
            If there is nothing to learn or the version has been trained already; otherwise as for `add`.
        TypeError
            As for `add`.
        """
        self._train(vectors, version, threads, progress)

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
        return self._add(vectors, ids, version, threads, progress)

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
        return self._search(
            queries,
            k,
            filter=filter,
            version=version,
            threads=threads,
            oversample=oversample,
            recall=recall,
            exact=exact,
        )

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
        return self._range_search(queries, radius, filter=filter, version=version, threads=threads)

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
        return self._score(queries, ids, threads, version)

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
    def versions(self) -> dict[str, int]:
        """How many vectors there are of each version, in the order in which they came; "" is the one without a name."""
        return dict(self._core.versions())

    @property
    def screen(self) -> bool:
        """Whether float vectors are scanned through their 8-bit image once there are enough of them."""
        return self._core.screen

    def __repr__(self) -> str:
        refined = f", rerank={self.rerank!r}" if self.rerank else ""
        return (
            f"Flat(dim={self.dim}, metric={self.metric!r}, codec={self.codec!r}{refined}): "
            f"{len(self):,} vectors, {self.nbytes / 1e6:,.1f} MB"
        )
