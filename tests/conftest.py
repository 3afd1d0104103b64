"""The index kinds under test, hypothesis settings, and Python processes to try things in."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

import nearfield as nf
import oracle

# The same examples in every run; `--hypothesis-profile thorough` looks for new ones.
settings.register_profile("default", deadline=None, max_examples=20, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile("default")


@dataclass(frozen=True)
class Kind:
    """A kind of index that keeps the promises at the door; `make(dim, metric)` gives an empty one."""

    name: str
    make: Callable[..., Any]
    codec: str  # what vectors are kept in: results are measured by it
    coarse: str | None = None  # the codec that picks candidates when there is reranking
    oversample: float = 4.0
    exact: bool = True  # search finds the true best, not just good ones

    def __str__(self) -> str:
        return self.name

    def build(self, metric: str, vectors: np.ndarray, ids: np.ndarray | None = None) -> Any:
        index = self.make(vectors.shape[1], metric)
        index.add(vectors, ids)
        return index

    def check_search(self, hits, queries, vectors, ids, metric, k) -> None:
        """Assert that hits of a search without a filter (or among what it allows) are what this kind promises."""
        kept = oracle.stored(vectors, self.codec)
        if self.coarse is None:
            oracle.check_hits(hits, queries, kept, ids, metric, k, ranked=self.exact)
            return
        oracle.check_hits(hits, queries, kept, ids, metric, k, ranked=False)
        first = oracle.stored(vectors, self.coarse)
        for query, found, count in zip(np.atleast_2d(queries), hits.ids, hits.counts, strict=True):
            places = oracle.candidates(query, first, ids, metric, k, self.oversample)
            if not oracle.is_ambiguous(query, first, places, metric):
                oracle.check_order(found[:count], query, kept[places], ids[places], metric, k)


def flat(codec: str, rerank: str | None = None, oversample: float = 4.0, screen: bool = True) -> Kind:
    name = f"Flat-{codec}" + (f"-{rerank}" if rerank else "") + ("" if screen else "-plain")
    make = partial(nf.Flat, codec=codec, rerank=rerank, oversample=oversample, screen=screen)
    return Kind(name, make, rerank or codec, codec if rerank else None, oversample)


# A later index joins here, with one line.
KINDS = [
    *(flat(codec) for codec in oracle.CODECS),
    flat("f32", screen=False),
    flat("int8", rerank="f32", oversample=2.0),
    flat("bf16", rerank="f16", oversample=1.0),
]


@pytest.fixture(scope="session", params=KINDS, ids=str)
def kind(request) -> Kind:
    return request.param


@pytest.fixture(scope="session", params=oracle.METRICS)
def metric(request) -> str:
    return request.param


@dataclass(frozen=True)
class Finished:
    """How a Python process ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def python() -> Callable[..., Finished]:
    """Run a piece of Python in a process of its own; it must exit with status `expect` unless that is None."""

    def run(code: str, *arguments: str, expect: int | None = 0, env: dict[str, str] | None = None) -> Finished:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | (env or {}),
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)

    return run
