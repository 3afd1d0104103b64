"""Parameter objects of codecs that have parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _inputs, transforms
from ._parameters import GIVEN, ParameterObject
from ._parameters import Floats as Floats
from ._training import (
    FIT_SAMPLE,
    Doubles,
    allocating_rotation,
    balanced_codebook,
    nearest_rotation,
    on_grid,
    opq_rotation,
    random_rotation,
    sample_of,
    thinned,
    unit,
)
from .transforms import Fitted, Map, Transform

__all__ = ["LVQ", "PQ", "SQ", "Lloyd", "RaBitQ", "RecurrentBinary", "Sign"]

# Steps of the alternating fit of signs (the paper takes 50; the last ones change little).
_SIGN_STEPS = 30


class _Quantizer(ParameterObject):
    """A codec's parameters."""

    @property
    def _learns(self) -> bool:
        """Whether there is something that the core does not learn by itself."""
        return False

    def _short(self) -> str | None:
        """The short name, if that says it all."""
        bits = self._parameters()["bits"]
        return f"{self._name}{bits}" if self == self._of({"bits": bits}) else None

    def _steps(self) -> tuple[Transform, ...]:
        """Transforms that belong to it."""
        return ()

    def _given(self, vectors: _inputs.Array, element: str, metric: str) -> dict[str, Floats]:
        """What the core does not learn by itself."""
        return {}


@dataclass(frozen=True)
class Sign(_Quantizer):
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
            if field.name == "rotation" and value == "none":
                raise ValueError('rotation: "none" given, expected None, "random" or "learned"')
            if isinstance(field.default, int):
                self._set(field.name, _inputs.count(value, field.name))
            elif field.init and (field.name != "rotation" or value is not None):
                _inputs.text(value, field.name)

    @property
    def _learns(self) -> bool:
        return self.rotation is not None

    def _short(self) -> str | None:
        return self._name if self == type(self)() else None

    def _given(self, vectors: _inputs.Array, element: str, metric: str) -> dict[str, Floats]:
        if self.rotation is None:
            return {}
        rotation = random_rotation(vectors.shape[1], self.seed)
        if self.rotation == "learned" and len(vectors):
            sample = sample_of(vectors, element, FIT_SAMPLE)
            if np.isfinite(sample).all():  # otherwise the core will say which row is not
                rotation = _fit_rotation(sample, rotation, metric, self.threshold)
        return {"rotation": on_grid(rotation)}


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


def _fit_rotation(sample: Doubles, start: Doubles, metric: str, threshold: str) -> Doubles:
    """
    The rotation for which vectors lie closest to their signs, by alternating between the two.

    Gong et al. (2013), algorithm 1, without the reduction of dimensions.
    """
    if metric == "cosine":
        sample = unit(sample)
    if threshold != "zero":
        sample = sample - sample.mean(axis=0)
    rotation = start
    for _ in range(_SIGN_STEPS):
        rotation = nearest_rotation(np.where(sample @ rotation.T > 0, 1.0, -1.0).T @ sample)
    return rotation


@dataclass(frozen=True)
class SQ(_Quantizer):
    """
    Scalar quantization: each number is rounded to one of 2^bits evenly spaced levels.

    Parameters
    ----------
    bits : {8, 6, 4}
        For each dimension.
    range : {"dimension", "global"}
        Whether the levels of each dimension span its own range, or all span the same.
    clip : float
        The share of a sample that may lie outside of the range, on either side; these values are rounded to its end.

    Notes
    -----
    It learns the range from an evenly spread sample of up to 16,384 vectors.

    References
    ----------
    Jégou et al., "Product Quantization for Nearest Neighbor Search", 2011, of which it is the case of subspaces of one
    dimension with a uniform codebook.
    """

    bits: int = 8
    range: Literal["dimension", "global"] = "dimension"
    clip: float = 0.0
    _name: ClassVar[str] = "sq"

    def __post_init__(self) -> None:
        self._check_count("bits")
        self._check_choice("bits", 8, 6, 4)
        self._check_choice("range", "dimension", "global")
        self._check_number("clip", 0, 0.49)


@dataclass(frozen=True)
class LVQ(_Quantizer):
    """
    Locally-adaptive vector quantization: levels that span the range of each vector, after the mean is subtracted.

    Parameters
    ----------
    bits : {8, 4}
        For each dimension.
    residual : {0, 4, 8}
        Bits for each dimension of a second level, which codes what the first has left. Only the first level is scanned;
        the second is read for the vectors that the first leaves open.

    Notes
    -----
    It learns the mean from an evenly spread sample of up to 16,384 vectors.

    References
    ----------
    Aguerrebere et al., "Similarity search in the blink of an eye with compressed indices", 2023 (arXiv 2304.04759).
    """

    bits: int = 8
    residual: int = 0
    _name: ClassVar[str] = "lvq"

    def __post_init__(self) -> None:
        self._check_count("bits")
        self._check_choice("bits", 8, 4)
        self._check_count("residual")
        self._check_choice("residual", 0, 4, 8)

    def _short(self) -> str | None:
        return f"lvq{self.bits}x{self.residual}" if self.residual else f"lvq{self.bits}"


@dataclass(frozen=True)
class RaBitQ(_Quantizer):
    """
    RaBitQ: after a random rotation, the signs of a vector, and further bits for its magnitudes.

    Estimates of distances are unbiased and come with an error bound. The signs are scanned first, and the other bits
    are read only for vectors that the bound leaves open.

    Parameters
    ----------
    bits : int
        For each dimension, 1 to 8.
    seed : int
        Of the rotation.

    References
    ----------
    Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest
    Neighbor Search", 2024 (arXiv 2405.12497); Gao et al., "Practical and Asymptotically Optimal Quantization of
    High-Dimensional Vectors in Euclidean Space for Approximate Nearest Neighbor Search", 2024 (arXiv 2409.09913).
    """

    bits: int = 4
    seed: int = 0
    _name: ClassVar[str] = "rabitq"

    def __post_init__(self) -> None:
        self._check_count("bits", 1, 8)
        self._check_count("seed")


@dataclass(frozen=True)
class Lloyd(_Quantizer):
    """
    After a random rotation, each number is rounded to one of 2^bits levels that suit a normal distribution best.

    All dimensions share the levels (those of Lloyd and Max), so that codes are compared by integer arithmetic.

    Parameters
    ----------
    bits : {4, 2}
        For each dimension.
    calibrated : bool
        Whether each dimension is shifted and scaled, by what a sample shows, to fit the levels.
    seed : int
        Of the rotation.

    Notes
    -----
    A calibrated codec learns from an evenly spread sample of up to 16,384 vectors.

    References
    ----------
    Vargaftik et al., "EDEN: Communication-Efficient and Robust Distributed Mean Estimation for Federated Learning",
    2022 (arXiv 2108.08842).
    """

    bits: int = 4
    calibrated: bool = True
    seed: int = 0
    _name: ClassVar[str] = "lloyd"

    def __post_init__(self) -> None:
        self._check_count("bits")
        self._check_choice("bits", 4, 2)
        self._check_flag("calibrated")
        self._check_count("seed")


@dataclass(frozen=True)
class PQ(_Quantizer):
    """
    Product quantization: the vector is split, and each part is replaced by the nearest of 2^bits centroids.

    Parameters
    ----------
    subspaces : int, optional
        Parts that a vector is split into, and codes that it takes. By default one bit for each dimension:
        ceil(dim / bits) parts.
    bits : {4, 8}
        For each part. Codes of 4 bits are looked up in registers and are several times as fast; those of 8 bits lose
        less for the same bytes.
    rotation : {None, "opq", "random"} or array_like, shape (dim, dim)
        A rotation before the vector is split: the one in which least is lost (optimized product quantization), a random
        one, or an orthogonal matrix, whose rows are the new axes. "opq" is worth its dim * dim multiplications for each
        vector and query whenever there are few codes.
    codebook : array_like, shape (subspaces, 2^bits, ceil(dim / subspaces)), optional
        Centroids that were learned elsewhere (JPQ, RepCONC, Distill-VQ).
    assignment : {"nearest", "balanced"}
        "balanced": the codebook is learned such that all codes are used about equally often.
    queries : array_like, shape (n, dim), optional
        A sample of queries. The codebook is then learned to keep inner products with such queries, rather than the
        vectors (see `LeanVec`, whose maps stand in front, without the projection; with ``rotation=None`` they also
        rotate as "opq" starts). For cosine and inner product.
    anisotropic : float, optional
        The score from which on inner products count, as a share of the product of the lengths: the codebook is learned
        to keep the component along the vector better than the others (0.2 is usual). For cosine and inner product.
    seed : int
        Of the random rotation, and of where codebooks start.

    Notes
    -----
    It learns from an evenly spread sample of up to 16,384 vectors (8,192 for the fit of "opq" and for a balanced
    codebook), of which there must be 2^bits. Subspaces that do not divide the dimension: the last part is filled up
    with zeros.

    In the object of an index, "given" stands for arrays. They are not saved as such; what was learned from them is.

    References
    ----------
    Jégou et al., "Product Quantization for Nearest Neighbor Search", 2011; Ge et al., "Optimized Product Quantization",
    2013; Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", 2020 (arXiv
    1908.10396); Zhan et al., "Learning Discrete Representations via Constrained Clustering for Effective and Efficient
    Dense Retrieval" (RepCONC), 2022 (arXiv 2110.05789).
    """

    subspaces: int | None = None
    bits: int = 4
    rotation: Literal["opq", "random"] | npt.ArrayLike | None = None
    codebook: npt.ArrayLike | None = None
    assignment: Literal["nearest", "balanced"] = "nearest"
    queries: npt.ArrayLike | None = None
    anisotropic: float | None = None
    seed: int = 0
    _name: ClassVar[str] = "pq"

    def __post_init__(self) -> None:
        if self.subspaces is not None:
            self._check_count("subspaces", 1)
        self._check_count("bits")
        self._check_choice("bits", 4, 8)
        self._keep("rotation", 2, "opq", "random")
        self._keep("codebook", 3)
        self._check_choice("assignment", "nearest", "balanced")
        self._keep("queries", 2)
        if self.anisotropic is not None:
            self._check_number("anisotropic", 0, 0.9)
            if self.anisotropic == 0:
                raise ValueError("anisotropic: 0 given, expected more, up to 0.9, or None")
        self._check_count("seed")
        self._check_arrays()

    def _check_arrays(self) -> None:
        if self.codebook is not None:
            others = {"assignment": self.assignment == "balanced", "queries": self.queries, "rotation": self.rotation}
            others["anisotropic"] = self.anisotropic
            if self.rotation in ("random", GIVEN):
                del others["rotation"]
            for name, value in others.items():
                if value:
                    raise ValueError(
                        f"{name}: {getattr(self, name)!r} given beside a codebook, which is learned already"
                    )
        if "codebook" in self._arrays:
            parts, count, _ = shape = self._arrays["codebook"].shape
            if count != 2**self.bits or (self.subspaces or parts) != parts:
                wanted = self.subspaces or "subspaces"
                raise ValueError(
                    f"codebook: an array of shape {shape} given, expected ({wanted}, {2**self.bits}, width)"
                )
            self._set("subspaces", parts)
        if "rotation" in self._arrays:
            matrix = self._arrays["rotation"].astype(np.float64)
            if matrix.shape[0] != matrix.shape[1]:
                raise ValueError(f"rotation: a matrix of shape {matrix.shape} given, expected a square one")
            off = np.abs(matrix @ matrix.T - np.eye(len(matrix))).max()
            if off > 1e-3:
                raise ValueError(f"rotation: the matrix is not orthogonal (off by {off:.2g}), expected one")

    @property
    def _learns(self) -> bool:
        return self.codebook is not None or self.assignment == "balanced"

    def _steps(self) -> tuple[Transform, ...]:
        return () if self.rotation is None and self.queries is None else (_Rotation(self),)

    def _parameters(self) -> dict[str, str]:
        parameters = super()._parameters()
        del parameters["rotation"], parameters["queries"]  # those of the step in front
        del parameters["codebook"]
        for name in ("subspaces", "anisotropic"):
            if getattr(self, name) is None:
                parameters[name] = "0"
        return parameters

    @classmethod
    def _of(cls, parameters: dict[str, str]) -> PQ:
        values = {name: parameters.get(name, "none") for name in ("subspaces", "anisotropic")}
        codec: PQ = super()._of(parameters | {name: "none" if text == "0" else text for name, text in values.items()})
        return codec

    def _parts(self, dim: int) -> int:
        return self.subspaces or -(-dim // self.bits)

    def _given(self, vectors: _inputs.Array, element: str, metric: str) -> dict[str, Floats]:
        if self.codebook is not None:
            return {"codebook": self._array("codebook")}
        if self.assignment == "nearest":
            return {}
        sample = sample_of(vectors, element, FIT_SAMPLE)
        if len(sample) < 2**self.bits or not np.isfinite(sample).all():
            return {}  # the core will say so
        sample = unit(sample) if metric == "cosine" else sample
        return {"codebook": on_grid(balanced_codebook(sample, self._parts(sample.shape[1]), self.bits, self.seed))}


@dataclass(frozen=True)
class _Rotation(Transform):
    """The square matrices in front of a PQ: a rotation, and what makes it query-aware."""

    codec: PQ
    _name: ClassVar[str] = "rotation"

    @property
    def _learns(self) -> bool:
        return True

    def _parameters(self) -> dict[str, str]:
        parameters = ParameterObject._parameters(self.codec)
        return {name: parameters[name] for name in ("rotation", "queries")}

    def _fit(self, sample: Doubles, before: Map, metric: str) -> Fitted:
        codec, dim = self.codec, sample.shape[1]
        root = inverse = None
        if codec.queries is not None:
            root, inverse = transforms.sphering(before(codec._array("queries").astype(np.float64)), sample)
            sample = sample @ root
        if codec.rotation == GIVEN:
            rotation = codec._array("rotation").astype(np.float64)
            if len(rotation) != dim:
                raise ValueError(f"rotation: a matrix of shape {rotation.shape} given, expected ({dim}, {dim})")
        elif codec.rotation == "random":
            rotation = random_rotation(dim, codec.seed)
        elif codec.rotation == "opq":
            rotation = opq_rotation(thinned(sample, FIT_SAMPLE), codec._parts(dim), codec.bits, codec.seed)
        else:  # what is query-aware has no dimensions of its own: any rotation will do, and this one serves best
            rotation = allocating_rotation(sample, codec._parts(dim))
        if root is None or inverse is None:
            return transforms.linear(rotation)
        return transforms.linear(rotation @ root, rotation @ inverse)


_KINDS = {kind._name: kind for kind in (SQ, LVQ, PQ, RaBitQ, Lloyd, Sign, RecurrentBinary)}
_TRANSFORMS = {
    kind._name: kind
    for kind in (transforms.PCA, transforms.LeanVec, transforms.Prefix, transforms.RandomRotation, transforms.Blocks)
}

#: A codec as users write it: a short name, a parameter object, or transforms with one of these behind them.
Codec: TypeAlias = str | SQ | LVQ | PQ | RaBitQ | Lloyd | Sign | Sequence[Any]


def _parts_of(codec: Any, name: str) -> tuple[list[Transform], str | _Quantizer]:
    """The transforms of a codec, those that belong to the last part included, and that part."""
    chain = list(codec) if isinstance(codec, (tuple, list)) else [codec]
    if not chain:
        raise ValueError(f"{name}: an empty sequence given, expected transforms and a codec")
    last = chain.pop()
    if isinstance(last, Transform):
        raise ValueError(f"{name}: {last!r} comes last, expected a codec behind the transforms")
    if last == "":
        raise ValueError(f'{name}: "" given, expected a short name or a parameter object')
    if not isinstance(last, (str, _Quantizer)):
        raise TypeError(f"{name}: {last!r} given, expected a short name or a parameter object")
    for step in chain:
        if not isinstance(step, Transform):
            raise TypeError(f"{name}: {step!r} given in front of a codec, expected a transform")
    if isinstance(last, _Quantizer):
        chain += last._steps()
    for i, step in enumerate(chain):
        if isinstance(step, transforms.RandomRotation) and _learning(chain[i:], last):
            raise ValueError(f"{name}: RandomRotation in front of what learns from NumPy, which would turn it back")
    return chain, last


def _learning(steps: list[Transform], last: str | _Quantizer) -> bool:
    return any(step._learns for step in steps) or (isinstance(last, _Quantizer) and last._learns)


def spec_of(codec: Any, name: str = "codec") -> tuple[str, dict[str, str]]:
    """The core's words for a codec: its short name and parameters."""
    if codec is None:
        return "", {}
    steps, last = _parts_of(codec, name)
    kind, parameters = (last, {}) if isinstance(last, str) else (last._name, last._parameters())
    for i, step in enumerate(steps):
        parameters[f"transform.{i}"] = step._name
        for key, value in step._parameters().items():
            parameters[f"transform.{i}.{key}"] = value
    return kind, parameters


def of_spec(name: str, parameters: dict[str, str]) -> Codec:
    """A codec as a user would write it: a short name if that says it all."""
    own = dict(parameters)
    chain: list[Any] = []
    while (kind := own.pop(f"transform.{len(chain)}", None)) is not None:
        prefix = f"transform.{len(chain)}."
        found = {key[len(prefix) :]: own.pop(key) for key in list(own) if key.startswith(prefix)}
        if kind == _Rotation._name:
            own.update(found)  # the last one: it belongs to the codec
            break
        chain.append(_TRANSFORMS[kind]._of(found))
    last: Codec = name
    if name in _KINDS:
        codec = _KINDS[name]._of(own)
        last = codec._short() or codec
    return (*chain, last) if chain else last


def learns(codec: Any) -> bool:
    """Whether a codec, as the user wrote it, has to get something from NumPy."""
    return _learning(*_parts_of(codec, "codec"))


def given(codec: Any, vectors: _inputs.Array, element: str, metric: str) -> dict[str, Floats]:
    """What a codec that has to learn gets from NumPy, by the core's names; `codec` is as the user wrote it."""
    if codec is None:
        return {}
    steps, last = _parts_of(codec, "codec")
    if not _learning(steps, last):
        return {}
    if not steps:
        return last._given(vectors, element, metric) if isinstance(last, _Quantizer) else {}
    sample = sample_of(vectors, element)
    if not np.isfinite(sample).all() or len(sample) == 0:
        return {}  # the core will say which row it is
    dim = sample.shape[1]
    maps: list[Map] = [unit] if metric == "cosine" else []
    for learns in maps:
        sample = learns(sample)

    def before(queries: Doubles) -> Doubles:
        if queries.shape[1] != dim:
            raise ValueError(f"queries: vectors of dimension {queries.shape[1]} given, expected dimension {dim}")
        for one in maps:
            queries = one(queries)
        return queries

    out = {}
    for i, step in enumerate(steps):
        if not _learning(steps[i:], last):
            break
        fitted = step._fit(sample, before, metric)
        out.update({f"transform.{i}.{name}": array for name, array in fitted.learned.items()})
        sample = fitted.documents(sample)
        maps.append(fitted.queries)
    if isinstance(last, _Quantizer) and last._learns:
        out.update(last._given(sample, "f32", "l2" if metric == "l2" else "ip"))
    return out
