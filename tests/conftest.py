"""The index kinds under test, hypothesis settings, and Python processes to try things in."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    metrics: tuple[str, ...] = oracle.METRICS
    coded_queries: bool = False  # queries are compared as the (coarse) codec keeps them
    exact: bool = True  # search finds the true best, not just good ones

    def __str__(self) -> str:
        return self.name

    def build(self, metric: str, vectors: np.ndarray, ids: np.ndarray | None = None) -> Any:
        index = self.make(vectors.shape[1], metric)
        index.add(vectors, ids)
        return index

    def check_search(self, hits, queries, vectors, ids, metric, k) -> None:
        """Assert that hits of a search without a filter (or among what it allows) are what this kind promises."""
        if self.coarse is None:
            self.check_exact(hits, queries, vectors, ids, metric, k, ranked=self.exact)
            return
        self.check_exact(hits, queries, vectors, ids, metric, k, ranked=False)
        kept, first = oracle.stored(vectors, self.codec), oracle.stored(vectors, self.coarse)
        queries = np.atleast_2d(queries)
        coded = oracle.stored(queries, self.coarse) if self.coded_queries else queries
        for query, code, found, count in zip(queries, coded, hits.ids, hits.counts, strict=True):
            places = oracle.candidates(code, first, ids, metric, k, self.oversample)
            if not oracle.is_ambiguous(code, first, places, metric):
                oracle.check_order(found[:count], query, kept[places], ids[places], metric, k)

    def check_exact(self, hits, queries, vectors, ids, metric, k, *, ranked=True) -> None:
        """Assert that hits are the best by the finest codec."""
        oracle.check_hits(hits, self.asked(queries), oracle.stored(vectors, self.codec), ids, metric, k, ranked=ranked)

    def asked(self, queries: np.ndarray) -> np.ndarray:
        """Queries as the finest codec compares them."""
        return oracle.stored(queries, self.codec) if self.coded_queries and self.coarse is None else queries

    def vectors(self, numbers: np.ndarray) -> np.ndarray:
        """Vectors of small numbers as this kind takes them; for bits, the ones are what is positive."""
        return np.asarray(numbers) > 0 if self.codec == "bits" else np.asarray(numbers, np.float32)


def flat(codec: str, rerank: str | None = None, oversample: float = 4.0, screen: bool = True) -> Kind:
    name = f"Flat-{codec}" + (f"-{rerank}" if rerank else "") + ("" if screen else "-plain")
    make = partial(nf.Flat, codec=codec, rerank=rerank, oversample=oversample, screen=screen)
    return Kind(name, make, rerank or codec, codec if rerank else None, oversample)


def signs(query: str, rerank: str | None = None) -> Kind:
    kind = flat("sign", rerank)
    make = partial(kind.make, codec=nf.Sign(query=query))
    return replace(kind, name=f"{kind.name}-{query}", make=make, coded_queries=query == "code")


def taught(dim: int, metric: str, **options: Any) -> nf.Flat:
    """An index whose codec "sq8" has learned its levels, and does not depend on the vectors that come."""
    index = nf.Flat(dim, metric, **options)
    ends = [oracle.SQ8_LEAST, oracle.SQ8_LEAST + 255 * oracle.SQ8_STEP]
    index.train(np.outer(ends, np.ones(dim, np.float32)))
    return index


def listed(dim: int, metric: str, **options: Any) -> nf.IVF:
    """An index with lists that do not depend on the vectors that come; all of them are visited."""
    index = nf.IVF(dim, metric, lists=7, probes=2**16, **options)
    index.train(np.random.default_rng(dim).normal(size=(40, dim)))
    return index


# Kinds that keep numbers as numbers.
PLAIN_KINDS = [
    *(flat(codec) for codec in oracle.CODECS),
    flat("f32", screen=False),
    flat("int8", rerank="f32", oversample=2.0),
    flat("bf16", rerank="f16", oversample=1.0),
    Kind("IVF-f32", partial(listed, codec="f32", rerank=None), "f32"),
    # Candidates are the best by estimates: all that there are, so that the oracle knows which.
    Kind("IVF-int8-f32", partial(listed, codec="int8", rerank="f32", oversample=1e6), "f32", "int8", oversample=1e6),
]
# A later index joins here, with one line.
KINDS = [
    *PLAIN_KINDS,
    Kind("Flat-bits", nf.Flat, "bits", metrics=oracle.BIT_METRICS),
    signs("code"),
    signs("code", rerank="f16"),
    # Under cosine the query is rounded to a unit vector of float32, which is beyond this oracle's tolerance.
    replace(signs("float"), metrics=("ip", "l2")),
    # Codes in interleaved groups. (Under cosine they are those of unit vectors, which are not what was added.)
    Kind("Flat-sq8", partial(taught, codec="sq8"), "sq8", metrics=("ip", "l2")),
    Kind("Flat-f32-sq8", partial(taught, codec="f32", rerank="sq8"), "sq8", "f32", metrics=("ip", "l2")),
]


def pytest_generate_tests(metafunc) -> None:
    """Run tests of a kind and a metric for every pair that goes together; a test of a kind alone is about numbers."""
    names = set(metafunc.fixturenames)
    for mark in metafunc.definition.iter_markers("parametrize"):  # a test's own choice
        names -= {mark.args[0]} if isinstance(mark.args[0], str) else set(mark.args[0])
    if {"kind", "metric"} <= names:
        pairs = [pytest.param(kind, metric, id=f"{kind}-{metric}") for kind in KINDS for metric in kind.metrics]
        metafunc.parametrize(("kind", "metric"), pairs, scope="session")
    elif "kind" in names:
        metafunc.parametrize("kind", PLAIN_KINDS, ids=str, scope="session")
    elif "metric" in names:
        metafunc.parametrize("metric", oracle.METRICS, scope="session")


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
