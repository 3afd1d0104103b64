"""The sample inside the package is whole, of unit length, and answers its own questions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from nearfield import datasets


@pytest.fixture(scope="module")
def sample() -> datasets.StdlibSample:
    return datasets.stdlib()


def hit_rate(scores: np.ndarray, answers: list[np.ndarray], k: int) -> float:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.mean([np.isin(rows, right).any() for rows, right in zip(best, answers, strict=True)]))


def test_shapes_and_dtypes(sample):
    entries, questions = len(sample.names), len(sample.questions)
    assert entries > 2500
    assert questions >= 100
    assert len(sample.texts) == entries
    assert sample.vectors.shape == (entries, 384)
    assert sample.question_vectors.shape == (questions, 384)
    assert sample.vectors.dtype == sample.question_vectors.dtype == np.float16
    for tokens, offsets, count in [
        (sample.tokens, sample.token_offsets, entries),
        (sample.question_tokens, sample.question_token_offsets, questions),
    ]:
        assert tokens.shape == (offsets[-1], 64)
        assert tokens.dtype == np.int8
        assert offsets.shape == (count + 1,)
        assert offsets.dtype == np.int64
        assert offsets[0] == 0
        assert (np.diff(offsets) > 0).all()


def test_unit_length(sample):
    for vectors in (sample.vectors, sample.question_vectors):
        assert np.linalg.norm(vectors.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-3)
    for tokens in (sample.tokens, sample.question_tokens):
        lengths = np.linalg.norm(tokens.astype(np.float64), axis=1) * sample.token_scale
        assert lengths == pytest.approx(1, abs=0.03)  # rounding to int8 moves each of 64 values by up to scale / 2


def test_names_and_texts(sample):
    assert sample.names == sorted(set(sample.names))
    assert len(set(sample.questions)) == len(sample.questions)
    assert all(len(text.split()) > 1 for text in sample.texts)
    assert "time.sleep" in sample.names


def test_answers_are_rows(sample):
    assert len(sample.answers) == len(sample.questions)
    for rows in sample.answers:
        assert rows.dtype == np.int64
        assert len(set(rows.tolist())) == len(rows) > 0
        assert rows.min() >= 0
        assert rows.max() < len(sample.names)
    answers = {
        question: {sample.names[row] for row in rows}
        for question, rows in zip(sample.questions, sample.answers, strict=True)
    }
    assert answers["how do I pause the program for a few seconds"] == {"time.sleep"}


def test_sentence_vectors_find_answers(sample):
    scores = sample.question_vectors.astype(np.float32) @ sample.vectors.astype(np.float32).T
    assert hit_rate(scores, sample.answers, 10) > 0.75
    assert hit_rate(scores, sample.answers, 1) > 0.3


def test_token_vectors_find_answers(sample):
    tokens, offsets = sample.tokens.astype(np.float32), sample.token_offsets
    questions = np.split(sample.question_tokens.astype(np.float32), sample.question_token_offsets[1:-1])
    # MaxSim: the best document token for each question token, added up.
    scores = np.stack([np.maximum.reduceat(tokens @ one.T, offsets[:-1], axis=0).sum(1) for one in questions])
    assert hit_rate(scores, sample.answers, 10) > 0.65


def test_sample_is_frozen_and_readable(sample):
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.names = []
    assert not sample.vectors.flags.writeable
    assert "all-MiniLM-L6-v2" in repr(sample)
    assert len(repr(sample)) < 250


def test_size_on_disk():
    folder = Path(datasets.__file__).parent / "data"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6_000_000
