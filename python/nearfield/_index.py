"""What all indexes share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _core, _inputs, codecs, tuning
from .results import Hits, RangeHits
from .tuning import Tuning

if TYPE_CHECKING:
    from typing_extensions import Self

Filter = _core.Filter


class Index:
    """
    Vectors with ids, and a finer copy of them beside the codes that a search visits.

    Kinds of indexes add what they search by.
    """

    def __init__(
        self, core: _core.Index, codec: codecs.Codec | None = None, rerank: codecs.Codec | None = None
    ) -> None:
        self._core = core
        # The objects that the index was made with hold arrays, which one that was loaded has learned from already.
        self._objects = (codec, rerank)

    @classmethod
    def _of(cls, core: _core.Index) -> Self:
        index = cls.__new__(cls)
        Index.__init__(index, core)
        return index

    # -- changing --------------------------------------------------------------------------------------------------

    def _train(
        self,
        vectors: npt.ArrayLike,
        version: str | None,
        threads: int | None,
        progress: _inputs.Progress | None,
    ) -> None:
        array, element = self._vectors(vectors, "vectors")
        label = _version(version) or ""
        workers, watch = _inputs.threads(threads), _inputs.progress(progress)
        self._core.train(array, element, label, self._given(array, element, label), workers, watch)

    def _add(
        self,
        vectors: npt.ArrayLike,
        ids: npt.ArrayLike | None,
        version: str | None,
        threads: int | None,
        progress: _inputs.Progress | None,
    ) -> npt.NDArray[np.int64]:
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

    def _search(
        self,
        queries: npt.ArrayLike,
        k: int,
        *,
        filter: npt.ArrayLike | Filter | None = None,
        version: str | None = None,
        threads: int | None = None,
        probes: int | None = None,
        oversample: float | None = None,
        recall: float | None = None,
        exact: bool = False,
    ) -> Hits:
        array, element = self._vectors(queries, "queries")
        places = _inputs.count(k, "k")
        found = self._core.search(
            array,
            element,
            places,
            self._filter(filter),
            _version(version),
            _probes(probes),
            None if oversample is None else _inputs.number(oversample, "oversample"),
            None if recall is None else _inputs.number(recall, "recall"),
            bool(exact),
            _inputs.threads(threads),
        )
        return Hits(*found)

    def _range_search(
        self,
        queries: npt.ArrayLike,
        radius: float,
        *,
        filter: npt.ArrayLike | Filter | None,
        threads: int | None,
        version: str | None = None,
        probes: int | None = None,
    ) -> RangeHits:
        array, element = self._vectors(queries, "queries")
        limit = _inputs.number(radius, "radius")
        allowed = self._filter(filter)
        workers = _inputs.threads(threads)
        found = self._core.range_search(array, element, limit, allowed, _version(version), _probes(probes), workers)
        return RangeHits(*found)

    def _score(
        self, queries: npt.ArrayLike, ids: npt.ArrayLike, threads: int | None, version: str | None = None
    ) -> npt.NDArray[np.float32]:
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
        codec, finer = self._written()
        given = codecs.given(codec, array, element, self.metric)
        return given | {
            f"rerank.{name}": value for name, value in codecs.given(finer, array, element, self.metric).items()
        }

    def _written(self) -> tuple[codecs.Codec, codecs.Codec | None]:
        """The two codecs, with their arrays if the index was made with such."""
        codec, finer = self._objects
        return codec or self.codec, finer or self.rerank

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
        Measure which parameters of a search reach which recall, for ``search(recall=...)``.

        For each recall these are the ones with which a search is likely to take least: the fewest codes scanned, and
        candidates scored again.

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

    @property
    def tuning(self) -> Tuning | None:
        """What `tune` has measured, if it was called."""
        k, queries, n, table = self._core.tuning
        return Tuning._of(self._tuned, k, queries, n, table) if table else None

    @property
    def _tuned(self) -> tuple[str, ...]:
        """The parameters of a search that `tune` finds values for."""
        return ("oversample",)

    @property
    def _list_sizes(self) -> npt.NDArray[np.int64]:
        """How many codes there are in each list, where there are lists."""
        return np.zeros(0, np.int64)

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
    def nbytes(self) -> int:
        """Bytes that the vectors, their codes and ids take."""
        return self._core.nbytes

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
        Index.__init__(self, _core.Index.load_bytes(state))

    def __copy__(self) -> Self:
        return self._of(_core.Index.load_bytes(self.__getstate__()))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()


def _version(name: str | None) -> str | None:
    return None if name is None else _inputs.text(name, "version")


def _probes(probes: int | None) -> int | None:
    return None if probes is None else _inputs.count(probes, "probes", 1)
