"""Embeddings that come with the package, to try things on."""

from __future__ import annotations

import gzip
import importlib.resources
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["StdlibSample", "stdlib"]


@dataclass(frozen=True, eq=False, repr=False)
class StdlibSample:
    """The Python standard library's documentation, and questions about it, embedded with all-MiniLM-L6-v2.

    Row ``i`` is one documented function, class, method or property. All vectors are of unit length, up to the rounding
    of their type, so that inner product and cosine agree. The arrays are read-only.

    Attributes
    ----------
    names : list of str
        Qualified names such as ``"os.path.join"``, sorted; built-ins stand without a module.
    texts : list of str
        First paragraph of the docstring. ``f"{name}: {text}"`` was embedded.
    vectors : float16 array of shape (entries, 384)
        Sentence vectors: the mean of the token vectors.
    tokens : int8 array of shape (tokens, 64)
        Token vectors for late interaction, reduced by PCA; times `token_scale` they have unit length. Special tokens
        and punctuation are dropped, and only the first tokens of a text are kept.
    token_scale : float
        What one step of the int8 values is worth.
    token_offsets : int64 array of shape (entries + 1,)
        Entry ``i`` owns ``tokens[token_offsets[i]:token_offsets[i + 1]]``.
    questions : list of str
        What a programmer might ask, written for this project.
    question_vectors : float16 array of shape (questions, 384)
        Sentence vectors of the questions.
    question_tokens : int8 array of shape (question tokens, 64)
        Token vectors of the questions, made like `tokens`.
    question_token_offsets : int64 array of shape (questions + 1,)
        Like `token_offsets`, for the questions.
    answers : list of int64 arrays
        For each question the rows that answer it; any of them counts as right.
    model : str
        Name of the model.
    python : str
        Version of the Python whose documentation this is.
    """

    names: list[str]
    texts: list[str]
    vectors: npt.NDArray[np.float16]
    tokens: npt.NDArray[np.int8]
    token_scale: float
    token_offsets: npt.NDArray[np.int64]
    questions: list[str]
    question_vectors: npt.NDArray[np.float16]
    question_tokens: npt.NDArray[np.int8]
    question_token_offsets: npt.NDArray[np.int64]
    answers: list[npt.NDArray[np.int64]]
    model: str
    python: str

    def __repr__(self) -> str:
        return (
            f"StdlibSample(entries={len(self.names)}, dim={self.vectors.shape[1]}, tokens={len(self.tokens)}, "
            f"token_dim={self.tokens.shape[1]}, questions={len(self.questions)}, model={self.model!r}, "
            f"python={self.python!r})"
        )


def stdlib() -> StdlibSample:
    """Load the sample of the Python standard library's documentation.

    Returns
    -------
    StdlibSample
        About 2,900 entries and 160 questions with their right answers.

    Examples
    --------
    >>> import nearfield as nf
    >>> sample = nf.datasets.stdlib()
    >>> index = nf.Flat(sample.vectors.shape[1])
    >>> ids = index.add(sample.vectors)
    >>> hits = index.search(sample.question_vectors[0], k=3)
    >>> [sample.names[i] for i in hits.ids[0]]  # doctest: +SKIP
    """
    folder = importlib.resources.files("nearfield") / "data"
    described = json.loads(gzip.decompress((folder / "stdlib.json.gz").read_bytes()))
    arrays = _read_safetensors((folder / "stdlib.safetensors").read_bytes())
    answers = np.split(arrays.pop("answers"), arrays.pop("answer_offsets")[1:-1])
    return StdlibSample(answers=answers, **described, **arrays)


def _read_safetensors(data: bytes) -> dict[str, Any]:
    """Return read-only views of the tensors in a file of our own making."""
    header_end = 8 + int.from_bytes(data[:8], "little")
    dtypes = {"F16": "<f2", "I8": "<i1", "I64": "<i8"}
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in json.loads(data[8:header_end]).items():
        begin, end = tensor["data_offsets"]
        flat = np.frombuffer(memoryview(data)[header_end + begin : header_end + end], dtypes[tensor["dtype"]])
        arrays[name] = flat.reshape(tensor["shape"])
    return arrays
