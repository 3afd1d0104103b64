"""What parameter objects have in common: they are a name and parameters of text to the core."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import _inputs

Floats = npt.NDArray[np.float32]

GIVEN = "given"  # stands for an array that is kept aside
_WORDS = {None: "none", True: "true", False: "false"}


def _to_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, tuple):
        return ",".join(map(_to_text, value))
    return str(value).removesuffix(".0")


def _of_text(text: str) -> Any:
    for value, word in _WORDS.items():
        if text == word:
            return value
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


@dataclass(frozen=True)
class ParameterObject:
    """An object whose fields are the parameters of a codec, or of a transform, of the core."""

    _name: ClassVar[str]
    # Arrays that a user gave. In the fields "given" stands for them, so that objects compare, print and are saved by
    # their parameters; an object that comes out of a file has no arrays.
    _arrays: dict[str, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    def _parameters(self) -> dict[str, str]:
        """The parameters as the core's text."""
        return {one.name: _to_text(getattr(self, one.name)) for one in fields(self) if one.init}

    @classmethod
    def _of(cls, parameters: dict[str, str]) -> Any:
        """The object that has these parameters."""
        return cls(**{name: _of_text(text) for name, text in parameters.items()})

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_count(self, name: str, least: int = 0, most: int = 2**32 - 1) -> None:
        value = _inputs.count(getattr(self, name), name)
        if not least <= value <= most:
            raise ValueError(f"{name}: {value} given, expected {least} to {most}")
        self._set(name, value)

    def _check_choice(self, name: str, *choices: Any) -> None:
        value = getattr(self, name)
        if not any(type(value) is type(one) and value == one for one in choices):
            expected = ", ".join(f'"{one}"' if isinstance(one, str) else str(one) for one in choices)
            raise ValueError(f"{name}: {value!r} given, expected one of {expected}")

    def _check_number(self, name: str, least: float, most: float) -> None:
        value = _inputs.number(getattr(self, name), name)
        if not least <= value <= most:
            raise ValueError(f"{name}: {value} given, expected {least} to {most}")
        self._set(name, value)

    def _check_flag(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name}: {value!r} given, expected True or False")
        self._set(name, bool(value))

    def _keep(self, name: str, dimensions: int, *words: str) -> None:
        """Set an array aside, after a look at it; None and words stay."""
        value = getattr(self, name)
        if value is None or value in ((GIVEN, *words) if isinstance(value, str) else ()):
            return
        if isinstance(value, str):
            expected = "".join(f', "{word}"' for word in words)
            raise ValueError(f"{name}: {value!r} given, expected an array{expected} or None")
        array = _inputs._as_array(value, name)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{name}: elements of type {array.dtype} given, expected numbers")
        if array.ndim != dimensions:
            raise ValueError(f"{name}: an array of {array.ndim} dimensions given, expected {dimensions}")
        if array.size == 0:
            raise ValueError(f"{name}: an array of shape {array.shape} given, which holds no numbers")
        with np.errstate(over="ignore"):
            kept = np.array(array, np.float32)
        if not np.isfinite(kept).all():
            row = int(np.argwhere(~np.isfinite(kept))[0][0])
            raise ValueError(f"{name}: row {row} holds NaN or infinity; every value must be finite in float32")
        self._arrays[name] = kept
        self._set(name, GIVEN)

    def _array(self, name: str) -> Floats:
        """An array that was set aside."""
        if name not in self._arrays:
            raise ValueError(f'{name}: "{GIVEN}" stands for an array, which is needed to learn and was not kept')
        return self._arrays[name]
