"""
Hypervectors: vector-symbolic architectures whose clean-up memory is an index.

Symbols are random vectors of thousands of dimensions. Three operations compute with them, and the results are vectors
of the same dimension again: *binding* associates vectors (the result resembles none of them), *bundling* superposes
them (the result resembles them all), and *permuting* marks a place in an order. What comes out of such a computation is
a noisy copy of something known; the *clean-up* finds out of what, by a search for the nearest known vector.

Two architectures of the family MAP (multiply, add, permute) [1]_ [2]_ are here, named as in the comparison [3]_:

- `MAPB`: packed bits. Binding is XOR, bundling the majority of the bits, permuting a rotation, and the clean-up
  searches for the smallest Hamming distance. A set bit stands for -1, so that XOR multiplies; the same algebra is known
  as the binary spatter code.
- `MAPI`: integers. Atoms are -1 and +1, binding is the elementwise product, bundling the sum, permuting a rotation, and
  the clean-up searches for the largest cosine. A bundle keeps more of what went into it, and takes 8 to 32 times the
  memory for each dimension.

How a bound vector is factored into atoms by the clean-up alone, with a resonator network [4]_, is in the documentation.

References
----------
.. [1] R. W. Gayler, "Multiplicative binding, representation operators and analogy", in Advances in Analogy Research,
   1998.
.. [2] P. Kanerva, "Hyperdimensional computing: an introduction to computing in distributed representation with
   high-dimensional random vectors", Cognitive Computation 1, 2009.
.. [3] K. Schlegel, P. Neubert and P. Protzel, "A comparison of vector symbolic architectures", Artificial Intelligence
   Review 55, 2022.
.. [4] E. P. Frady, S. J. Kent, B. A. Olshausen and F. T. Sommer, "Resonator networks, 1: an efficient solution for
   factoring high-dimensional, distributed representations of data structures", Neural Computation 32, 2020.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import _inputs
from .flat import Flat
from .results import Hits

__all__ = ["MAPB", "MAPI", "ItemMemory"]

_INT32_LARGEST = np.iinfo(np.int32).max
_LARGEST_TOTAL = 2**30  # of weights: twice as much fits int32


class _Space(ABC):
    """What the architectures share: vectors lie along the last axis, the axes before it are broadcast as in NumPy."""

    _elements: ClassVar[str]  # what an element may be, for error messages
    _atom: ClassVar[type[np.uint8 | np.int8]]  # the type of an element of an atom

    def __init__(self, dim: int, seed: int | np.random.Generator | None = None) -> None:
        self.dim = _inputs.count(dim, "dim")
        if self.dim == 0:
            raise ValueError("dim: 0 given, expected at least 1")
        self._rng = np.random.default_rng(seed)

    @property
    @abstractmethod
    def _width(self) -> int:
        """Elements of an array that make a vector."""

    @abstractmethod
    def _holds(self, dtype: np.dtype[Any]) -> bool:
        """Whether elements of this type may be this architecture's."""

    @abstractmethod
    def _index(self) -> Flat:
        """The index that cleans up unless another is given."""

    @abstractmethod
    def bind(self, *vectors: npt.ArrayLike) -> _inputs.Array:
        """Associate vectors."""

    def unbind(self, bound: npt.ArrayLike, *known: npt.ArrayLike) -> _inputs.Array:
        """
        Take known factors out of a bound vector.

        An atom is its own inverse, so this is `bind` under the name that says what is meant.

        Parameters
        ----------
        bound : array_like
            A bound vector, or a bundle of such: what comes out then is the partner of the known factors, plus noise.
        *known : array_like
            Factors to remove.

        Returns
        -------
        ndarray
        """
        return self.bind(bound, *known)

    def memory(
        self, vectors: npt.ArrayLike | None = None, names: Iterable[Hashable] | None = None, *, index: Any = None
    ) -> ItemMemory:
        """
        Make a clean-up memory.

        Parameters
        ----------
        vectors : array_like, optional
            Its first items, as for `ItemMemory.add`.
        names : iterable, optional
            Their names.
        index : optional
            The index to search, of any kind. By default `nearfield.Flat`, which is exact.

        Returns
        -------
        ItemMemory
        """
        memory = ItemMemory(self, self._index() if index is None else index)
        if vectors is not None:
            memory.add(vectors, names)
        return memory

    def _vectors(self, value: Any, name: str) -> _inputs.Array:
        array = _inputs._as_array(value, name)
        if array.size == 0:  # an empty list has no type of its own
            array = np.zeros(array.shape, self._atom)
        if not self._holds(array.dtype):
            raise TypeError(f"{name}: elements of type {array.dtype} given, expected {self._elements}")
        if array.ndim == 0 or array.shape[-1] != self._width:
            raise ValueError(
                f"{name}: shape {array.shape} given, expected (..., {self._width}) for a dimension of {self.dim}"
            )
        return array

    def _factors(self, vectors: tuple[npt.ArrayLike, ...]) -> list[_inputs.Array]:
        if not vectors:
            raise ValueError("vectors: none given, expected at least 1 to bind")
        return [self._vectors(vector, "vectors") for vector in vectors]

    def _summands(self, vectors: Any, weights: Any) -> tuple[_inputs.Array, npt.NDArray[np.int32]]:
        """What to bundle, (..., n, width), and how often each counts, (..., n)."""
        array = self._vectors(vectors, "vectors")
        if array.ndim < 2:
            raise ValueError(f"vectors: a single vector given, expected some to bundle, (..., n, {self._width})")
        n = array.shape[-2]
        if n == 0:
            raise ValueError("vectors: none given, expected at least 1 to bundle")
        if weights is None:
            return array, np.ones(n, np.int32)
        times = _inputs.ids(weights, "weights")
        if times.shape[-1:] != (n,):
            raise ValueError(f"weights: shape {times.shape} given, expected (..., {n})")
        total = np.abs(times, dtype=np.float64).sum(axis=-1).max(initial=0)
        if total > _LARGEST_TOTAL:
            raise ValueError(f"weights: magnitudes that add up to {total:.0f} given, expected at most {_LARGEST_TOTAL}")
        return array, times.astype(np.int32)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim={self.dim})"


class MAPB(_Space):
    """
    MAP-B: dense binary hypervectors, eight dimensions to the byte.

    A vector is ceil(dim / 8) bytes of uint8 in the order of `numpy.packbits`; what the last byte has beyond `dim` never
    counts and is zero in every result. Arrays of vectors have them along the last axis, and all axes before it are
    broadcast as in NumPy.

    Parameters
    ----------
    dim : int
        Dimension in bits, usually 10,000 or more.
    seed : int or numpy.random.Generator, optional
        For `random`; by default every space draws other vectors.

    Examples
    --------
    >>> import nearfield as nf
    >>> space = nf.vsa.MAPB(dim=10_000, seed=0)
    >>> country, capital, france, paris = space.random(4)
    >>> record = space.bundle([space.bind(country, france), space.bind(capital, paris)])
    >>> memory = space.memory([france, paris], names=["France", "Paris"])
    >>> memory.nearest(space.unbind(record, capital))
    'Paris'
    """

    _elements = "uint8, packed bits"
    _atom = np.uint8

    def random(self, n: int | None = None) -> npt.NDArray[np.uint8]:
        """
        Draw atoms: vectors of independent random bits.

        Parameters
        ----------
        n : int, optional

        Returns
        -------
        ndarray of uint8, shape (n, ceil(dim / 8)), or (ceil(dim / 8),) without n
        """
        shape = () if n is None else (_inputs.count(n, "n"),)
        return self._clear_padding(self._rng.integers(0, 256, (*shape, self._width), np.uint8))

    def bind(self, *vectors: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """
        Associate vectors: XOR.

        The result resembles none of the vectors. Binding again with one of them removes it (`unbind`).

        Parameters
        ----------
        *vectors : array_like of uint8
            One or more; their leading axes are broadcast.

        Returns
        -------
        ndarray of uint8
        """
        first, *others = self._factors(vectors)
        bound = reduce(np.bitwise_xor, others, first.copy())
        return self._clear_padding(bound)

    def bundle(self, vectors: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> npt.NDArray[np.uint8]:
        """
        Superpose vectors: the majority of their bits, position by position.

        Where as many ones as zeros meet, the XOR of all the vectors, rotated by one place, decides. So a bundle depends
        on the vectors alone and not on their order, and the ties of different bundles fall independently: they do not
        make the bundles resemble each other.

        Parameters
        ----------
        vectors : array_like of uint8, shape (..., n, ceil(dim / 8))
            What to bundle, along the last axis but one.
        weights : array_like of int, shape (..., n), optional
            How often each vector counts; a negative number counts its complement.

        Returns
        -------
        ndarray of uint8, shape (..., ceil(dim / 8))

        Raises
        ------
        ValueError
            If there is no vector to bundle.

        Notes
        -----
        Bits are unpacked a few columns at a time, so that the memory needed is little more than that of the packed
        vectors.
        """
        array, times = self._summands(vectors, weights)
        *batch, n = np.broadcast_shapes(array.shape[:-1], times.shape)
        surplus, inverted, counted = times.sum(axis=-1)[..., np.newaxis], _mask(times < 0), _mask(times != 0)
        ones, ties, parity = np.empty((3, *batch, self._width), np.uint8)
        step = max(_UNPACKED // max(math.prod(batch) * n, 1), 1)
        for start in range(0, self._width, step):
            part = np.s_[..., start : start + step]
            bits = np.unpackbits(array[part], axis=-1)
            margin = 2 * np.einsum("...nd,...n->...d", bits, times, dtype=np.int32) - surplus
            ones[part], ties[part] = np.packbits(margin > 0, axis=-1), np.packbits(margin == 0, axis=-1)
            parity[part] = np.bitwise_xor.reduce((array[part] ^ inverted) & counted, axis=-2)
        return self._clear_padding(ones | (ties & self.permute(parity)))

    def permute(self, vectors: npt.ArrayLike, n: int = 1) -> npt.NDArray[np.uint8]:
        """
        Rotate the bits by n places: bit i moves to place (i + n) modulo dim, as by `numpy.roll`.

        Parameters
        ----------
        vectors : array_like of uint8
        n : int
            Places; ``permute(..., -n)`` undoes it.

        Returns
        -------
        ndarray of uint8
        """
        array = self._clear_padding(self._vectors(vectors, "vectors").copy())
        places = _whole(n, "n") % self.dim
        if places == 0:
            return array
        return self._clear_padding(_shift(array, places) | _shift(array, places - self.dim))

    def similarity(self, a: npt.ArrayLike, b: npt.ArrayLike) -> Any:
        """
        Compare vectors: ``1 - 2 * (Hamming distance) / dim``, which is the cosine of the vectors of -1 and +1.

        Parameters
        ----------
        a, b : array_like of uint8
            Leading axes are broadcast: ``similarity(a[:, np.newaxis], b)`` compares every pair.

        Returns
        -------
        float64 or ndarray of float64
            From -1 (complements) to 1 (equal); of unrelated vectors about 0, with a deviation of ``1 / sqrt(dim)``.
        """
        ones = _ONES_OF_BYTE[self.bind(self._vectors(a, "a"), self._vectors(b, "b"))]
        return 1 - 2 * ones.sum(axis=-1, dtype=np.int64) / self.dim

    @property
    def _width(self) -> int:
        return -(-self.dim // 8)

    def _holds(self, dtype: np.dtype[Any]) -> bool:
        return dtype == np.uint8

    def _index(self) -> Flat:
        return Flat(self.dim, metric="hamming")

    def _clear_padding(self, vectors: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        vectors[..., -1:] &= np.uint8(0xFF << -self.dim % 8 & 0xFF)
        return vectors


class MAPI(_Space):
    """
    MAP-I: hypervectors of integers.

    Atoms are int8 arrays of -1 and +1. A bundle is the exact sum, int32, and can be bound, permuted and bundled again.
    Nothing saturates or wraps around: a result that could leave its type is a ValueError. Where memory counts more,
    ``np.clip(bundle, -127, 127).astype(np.int8)`` is a vector of this architecture as well. Arrays of vectors have them
    along the last axis, and all axes before it are broadcast as in NumPy.

    Parameters
    ----------
    dim : int
        Dimension, usually some thousands.
    seed : int or numpy.random.Generator, optional
        For `random`; by default every space draws other vectors.

    Examples
    --------
    >>> import nearfield as nf
    >>> space = nf.vsa.MAPI(dim=10_000, seed=0)
    >>> letters = space.random(3)
    >>> word = space.bundle([space.permute(letters[i], place) for place, i in enumerate([2, 0, 1])])
    >>> memory = space.memory(letters, names="abc")
    >>> [memory.nearest(space.permute(word, -place)) for place in range(3)]
    ['c', 'a', 'b']
    """

    _elements = "signed integers"
    _atom = np.int8

    def random(self, n: int | None = None) -> npt.NDArray[np.int8]:
        """
        Draw atoms: vectors of independent -1 and +1.

        Parameters
        ----------
        n : int, optional

        Returns
        -------
        ndarray of int8, shape (n, dim), or (dim,) without n
        """
        shape = () if n is None else (_inputs.count(n, "n"),)
        return 2 * self._rng.integers(0, 2, (*shape, self.dim), np.int8) - 1

    def bind(self, *vectors: npt.ArrayLike) -> _inputs.Array:
        """
        Associate vectors: the elementwise product.

        The result resembles none of the vectors. Binding again with an atom removes it (`unbind`).

        Parameters
        ----------
        *vectors : array_like of int
            One or more; their leading axes are broadcast.

        Returns
        -------
        ndarray of int8 or int32
            int8 if all vectors are.

        Raises
        ------
        ValueError
            If the product could be too large for its type.
        """
        first, *others = self._factors(vectors)
        dtype = np.result_type(first, *others)
        largest = math.prod(map(_largest, (first, *others)))
        if others and largest > np.iinfo(dtype).max:
            raise ValueError(f"vectors: a product of up to {largest} does not fit {dtype}")
        return reduce(np.multiply, others, first.copy())

    def bundle(self, vectors: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> npt.NDArray[np.int32]:
        """
        Superpose vectors: their sum.

        Parameters
        ----------
        vectors : array_like of int, shape (..., n, dim)
            What to bundle, along the last axis but one.
        weights : array_like of int, shape (..., n), optional
            How often each vector counts; a negative number subtracts.

        Returns
        -------
        ndarray of int32, shape (..., dim)

        Raises
        ------
        ValueError
            If there is no vector to bundle, or the sum could be too large for int32.
        """
        array, times = self._summands(vectors, weights)
        largest = _largest(array) * int(np.abs(times).sum(axis=-1).max(initial=0))
        if largest > _INT32_LARGEST:
            raise ValueError(f"vectors: a sum of up to {largest} does not fit int32")
        total: npt.NDArray[np.int32] = np.einsum("...nd,...n->...d", array, times, dtype=np.int32)
        return total

    def permute(self, vectors: npt.ArrayLike, n: int = 1) -> _inputs.Array:
        """
        Rotate the elements by n places, as `numpy.roll`: element i moves to place (i + n) modulo dim.

        Parameters
        ----------
        vectors : array_like of int
        n : int
            Places; ``permute(..., -n)`` undoes it.

        Returns
        -------
        ndarray of the type of the vectors
        """
        return np.roll(self._vectors(vectors, "vectors"), _whole(n, "n") % self.dim, axis=-1)

    def similarity(self, a: npt.ArrayLike, b: npt.ArrayLike) -> Any:
        """
        Compare vectors: the cosine.

        Parameters
        ----------
        a, b : array_like of int
            Leading axes are broadcast: ``similarity(a[:, np.newaxis], b)`` compares every pair.

        Returns
        -------
        float64 or ndarray of float64
            From -1 to 1; 0 if either vector is zero. Of unrelated vectors about 0, with a deviation of
            ``1 / sqrt(dim)``.
        """
        first, second = self._vectors(a, "a"), self._vectors(b, "b")
        lengths = np.sqrt(_dot(first, first) * _dot(second, second))
        return _dot(first, second) / np.where(lengths == 0, 1, lengths)

    @property
    def _width(self) -> int:
        return self.dim

    def _holds(self, dtype: np.dtype[Any]) -> bool:
        return dtype.kind == "i"

    def _index(self) -> Flat:
        return Flat(self.dim, metric="cosine", codec="int8")

    def _vectors(self, value: Any, name: str) -> _inputs.Array:
        array = super()._vectors(value, name)
        if array.dtype == np.int8:
            return array
        if _largest(array) > _INT32_LARGEST:
            raise ValueError(f"{name}: elements of up to {_largest(array)} do not fit int32")
        return array.astype(np.int32, copy=False)


class ItemMemory:
    """
    A clean-up memory: known hypervectors, and an index that finds which of them a noisy vector comes from.

    Made by the `memory` method of an architecture.

    Parameters
    ----------
    space : MAPB or MAPI
        What the vectors belong to.
    index
        The index that holds and searches them. It may hold vectors already; their ids then serve as their names.

    Attributes
    ----------
    index
        The index: to save, to score or to remove items, to search within a radius.
    """

    def __init__(self, space: MAPB | MAPI | _Space, index: Any) -> None:
        self._space = space
        self.index = index
        self._names: dict[int, Hashable] = {-1: None}  # what a search that finds nothing gives

    def add(self, vectors: npt.ArrayLike, names: Iterable[Hashable] | None = None) -> npt.NDArray[np.int64]:
        """
        Add items.

        Parameters
        ----------
        vectors : array_like, shape (n, width) or (width,)
            Atoms, or anything computed from them.
        names : iterable, optional
            A name for each, not necessarily distinct. By default the ids are the names.

        Returns
        -------
        ndarray of int64, shape (n,)
            The ids of the items in the index.
        """
        array = np.atleast_2d(self._space._vectors(vectors, "vectors"))
        given = None if names is None else list(names)
        if given is not None and len(given) != len(array):
            raise ValueError(f"names: {len(given)} given, expected {len(array)}, one per vector")
        ids: npt.NDArray[np.int64] = self.index.add(array)
        if given is not None:
            self._names.update(zip(ids.tolist(), given, strict=True))
        return ids

    def clean_up(self, queries: npt.ArrayLike, k: int = 1, **options: Any) -> Hits:
        """
        Find the k nearest items: the search of the index.

        Parameters
        ----------
        queries : array_like, shape (queries, width) or (width,)
        k : int
        **options
            Further arguments of the index's search: filter, threads.

        Returns
        -------
        Hits
            Their ids and scores: Hamming distances for `MAPB` (lower is better), cosines for `MAPI`, or whatever the
            index that was given measures.
        """
        hits: Hits = self.index.search(self._space._vectors(queries, "queries"), k, **options)
        return hits

    def nearest(self, queries: npt.ArrayLike) -> Any:
        """
        Return the name of the nearest item.

        Parameters
        ----------
        queries : array_like, shape (..., width)

        Returns
        -------
        name, or ndarray of names, shape (...)
            None if the memory is empty.
        """
        array = self._space._vectors(queries, "queries")
        found = self.clean_up(array.reshape(-1, array.shape[-1])).ids[:, 0].tolist()
        names = np.fromiter((self._names.get(id, id) for id in found), object, len(found))
        return names.reshape(array.shape[:-1])[()]

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"ItemMemory({self._space!r}, {self.index!r})"


def _whole(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {value!r} given, expected a whole number") from None


def _largest(array: _inputs.Array) -> int:
    """The largest magnitude, 0 if there is none."""
    return max(int(array.max(initial=0)), -int(array.min(initial=0)))


def _dot(a: _inputs.Array, b: _inputs.Array) -> npt.NDArray[np.float64]:
    products: npt.NDArray[np.float64] = np.einsum("...d,...d->...", a, b, dtype=np.float64)
    return products


# -- packed bits -------------------------------------------------------------------------------------------------------

_Bits = npt.NDArray[np.uint8]
_UNPACKED = 1 << 20  # packed bytes to unpack at once
_ONES_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1).sum(axis=1, dtype=np.uint8)


def _mask(condition: npt.NDArray[np.bool_]) -> _Bits:
    """All bits of a byte where the condition holds, none elsewhere; one byte for each vector."""
    return np.where(condition, 0xFF, 0).astype(np.uint8)[..., np.newaxis]


def _shift(vectors: _Bits, n: int) -> _Bits:
    """Move every bit n places towards the end (the start if n is negative), by less than their number."""
    whole, rest = divmod(abs(n), 8)
    kept = vectors.shape[-1] - whole
    shifted = np.zeros_like(vectors)
    if n > 0:
        shifted[..., whole:] = vectors[..., :kept] >> rest
        shifted[..., whole + 1 :] |= vectors[..., : kept - 1] << 8 - rest
    else:
        shifted[..., :kept] = vectors[..., whole:] << rest
        shifted[..., : kept - 1] |= vectors[..., whole + 1 :] >> 8 - rest
    return shifted
