"""Parameter objects of codecs that have parameters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from . import _inputs

__all__ = ["RecurrentBinary", "Sign"]

Floats = npt.NDArray[np.float32]

_NONE = "none"  # the core's word for None

# Vectors that a rotation is learned from, and its alternating steps (the paper takes 50; the last ones change little).
_SAMPLE, _STEPS = 8192, 30
# Rotations are rounded to multiples of this, so that the last bits of LAPACK, which depend on its threads, do not show.
_GRID = 2.0**-20


@dataclass(frozen=True)
class Sign:
    """
    One bit for each dimension of a float vector: on which side of a threshold it lies.

    Under cosine the unit vector is coded, otherwise the vector itself.

    Parameters
    ----------
    threshold : {"zero", "mean", "median"}
        The threshold of a dimension; the latter two are learned.
    rotation : {None, "random", "learned"}
        A rotation before the threshold is applied, for data whose dimensions carry unequal information: a random one,
        or the one that makes the signs fit best (iterative quantization, ITQ). It costs dim * dim multiplications for
        each vector and query.
    query : {"int4", "int2", "code", "float"}
        How queries are scored. "int4" and "int2": rounded to 16 or 4 levels for each dimension, against the signs
        (asymmetric). "code": they are coded as the vectors are, and the bits that differ are counted (symmetric): the
        fastest, and the least accurate. "float": the query as it is against the signs: the slowest, and hardly more
        accurate than "int4".
    seed : int
        Of the random rotation, and of where the learned one starts.

    Notes
    -----
    A code stands for a vector of plus and minus one, or, where the codec has learned, of plus and minus the mean
    deviation from the threshold; scores are those of the metric for these vectors. A codec that has to learn does so
    from the first vectors that are added (or by ``train``): an evenly spread sample of up to 16,384 of them, half as
    many for a rotation.

    An index with this codec also takes vectors that were reduced to signs elsewhere: uint8 of ceil(dim / 8) bytes, as
    ``numpy.packbits`` or ``quantize_embeddings(..., "ubinary")`` makes them.

    References
    ----------
    Gong et al., "Iterative Quantization: A Procrustean Approach to Learning Binary Codes", 2013.
    """

    threshold: Literal["zero", "mean", "median"] = "zero"
    rotation: Literal["random", "learned"] | None = None
    query: Literal["int4", "int2", "code", "float"] = "int4"
    seed: int = 0
    _name: ClassVar[str] = "sign"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "rotation" and value == _NONE:
                raise ValueError('rotation: "none" given, expected None, "random" or "learned"')
            if isinstance(field.default, int):
                object.__setattr__(self, field.name, _inputs.count(value, field.name))
            elif field.name != "rotation" or value is not None:
                _inputs.text(value, field.name)

    def _parameters(self) -> dict[str, str]:
        """The parameters as the core's text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _NONE if value is None else str(value) for name, value in values.items()}

    def _given(self, vectors: _inputs.Array, element: str, metric: str) -> dict[str, Floats]:
        """What the core does not learn by itself: the rotation."""
        if self.rotation is None:
            return {}
        dim = vectors.shape[1]
        rotation = np.linalg.qr(np.random.default_rng(self.seed).normal(size=(dim, dim)))[0]
        if self.rotation == "learned" and len(vectors):
            step = -(-len(vectors) // _SAMPLE)
            sample = _inputs.to_float(vectors[::step], element).astype(np.float64)
            if np.isfinite(sample).all():  # otherwise the core will say which row is not
                rotation = _fit_rotation(sample, rotation, metric, self.threshold)
        return {"rotation": np.ascontiguousarray(np.rint(rotation / _GRID) * _GRID, np.float32)}


@dataclass(frozen=True)
class RecurrentBinary(Sign):
    """
    Several bits for each dimension: the signs of what the bits before have left, again and again.

    Queries are coded as the vectors are, and a search compares every bit of one code with every bit of the other
    (symmetric distance calculation), unless `query` says otherwise.

    Parameters
    ----------
    threshold, rotation, query, seed
        As for `Sign`, but that "code" is the default for queries.
    bits : int
        Bits for each dimension, 1 to 8.

    Notes
    -----
    A code stands for s_1 b_1 + s_2 b_2 + ... with b_t = sign(y - s_1 b_1 - ... - s_{t-1} b_{t-1}). The scales s_t are
    learned: the mean magnitude of what is left, which is the least-squares fit. (One bit without a rotation and with
    threshold zero is `Sign`, which learns nothing.)

    References
    ----------
    Gan et al., "Binary Embedding-based Retrieval at Tencent", 2023 (arXiv 2302.08714).
    """

    query: Literal["int4", "int2", "code", "float"] = "code"
    bits: int = 2
    _name: ClassVar[str] = "recurrent_binary"


def _fit_rotation(sample: npt.NDArray[np.float64], start: npt.NDArray[np.float64], metric: str, threshold: str) -> Any:
    """
    The rotation for which vectors lie closest to their signs, by alternating between the two.

    Gong et al. (2013), algorithm 1, without the reduction of dimensions.
    """
    if metric == "cosine":
        lengths = np.linalg.norm(sample, axis=1, keepdims=True)
        sample = np.divide(sample, lengths, out=np.zeros_like(sample), where=lengths > 0)
    if threshold != "zero":
        sample = sample - sample.mean(axis=0)
    rotation = start
    for _ in range(_STEPS):
        signs = np.where(sample @ rotation.T > 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(signs.T @ sample)
        rotation = left @ right
    return rotation


_KINDS = {kind._name: kind for kind in (Sign, RecurrentBinary)}


def spec_of(codec: Any, name: str = "codec") -> tuple[str, dict[str, str]]:
    """The core's words for a codec: its short name and parameters."""
    if codec is None:
        return "", {}
    if isinstance(codec, Sign):
        return codec._name, codec._parameters()
    if codec == "":
        raise ValueError(f'{name}: "" given, expected a short name or a parameter object')
    if not isinstance(codec, str):
        raise TypeError(f"{name}: {codec!r} given, expected a short name or a parameter object")
    return codec, {}


def of_spec(name: str, parameters: dict[str, str]) -> str | Sign:
    """A codec as a user would write it: a short name if that says it all."""
    kind = _KINDS.get(name)
    if kind is None:
        return name
    known = kind.__dataclass_fields__
    values: dict[str, Any] = {
        key: int(text) if isinstance(known[key].default, int) else None if text == _NONE else text
        for key, text in parameters.items()
    }
    codec = kind(**values)
    return name if codec == kind() else codec
