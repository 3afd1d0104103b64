"""``nearfield demo``: questions about Python's standard library, answered and measured with every index."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.text import Text

import nearfield as nf
from nearfield.datasets import StdlibSample, stdlib

from . import plot
from .measure import Measurement, hit_rate, measure, measurements_table
from .output import console, facts, progress_bar

_COMPRESSED = [
    *("int8", "sq8", "lvq8", "lvq4x8", "sq4", "lvq4", "rabitq4", "lloyd4", "lloyd2", "recurrent_binary", "rabitq1"),
    *("pq4", "sign"),
]

#: Every index and codec that exists, in sections; a row of the table and a point of the picture each.
CONFIGURATIONS: list[list[tuple[str, Callable[[int], nf.Flat | nf.IVF]]]] = [
    [
        ("Flat f32", nf.Flat),
        ("Flat f32, no screen", partial(nf.Flat, screen=False)),
        ("Flat f16", partial(nf.Flat, codec="f16")),
        ("Flat bf16", partial(nf.Flat, codec="bf16")),
    ],
    [(f"Flat {codec}", partial(nf.Flat, codec=codec)) for codec in _COMPRESSED],
    [
        ("Flat int8 + f32", partial(nf.Flat, codec="int8", rerank="f32")),
        *(
            (f"Flat {codec} + f16", partial(nf.Flat, codec=codec, rerank="f16", oversample=10))
            for codec in ("lloyd2", "recurrent_binary", "rabitq1", "pq4", "sign")
        ),
    ],
    [
        ("IVF f32", partial(nf.IVF, codec="f32", rerank=None)),
        ("IVF rabitq1 + f16", nf.IVF),
        ("IVF, second lists", partial(nf.IVF, soar=1.0)),
        ("IVF, 32 probes", partial(nf.IVF, probes=32)),
    ],
]

#: Picked by hand: what a sentence model finds, finds further down, and misses.
SHOWN_QUESTIONS = [
    "delete a folder with everything inside it",
    "distance between two points in the plane",
    "ask for a password without showing it",
    "find where a value belongs in a sorted list",
    "how do I pause the program for a few seconds",
]

K = 10
SECONDS = 0.05  # for measuring each speed
PICTURE = Path("nearfield-demo.png")


def demo() -> None:
    """
    Try nearfield on real embeddings that come with it.

    Builds indexes over the documentation of Python's standard library, answers questions about it, and compares every
    index and codec by recall, hit rate, speed and size. With matplotlib it also draws recall against speed into
    nearfield-demo.png. It takes seconds and needs no network.
    """
    began = time.perf_counter()
    sample = stdlib()
    cpu = nf.cpu_info()
    console.print(f"nearfield {nf.__version__} on {cpu['name']}, {cpu['level']} kernels, {cpu['threads']} threads\n")
    console.print(
        f"{len(sample.names):,} functions and classes of Python's standard library and "
        f"{len(sample.questions)} questions about them, embedded with {sample.model.rpartition('/')[2]} "
        f"({sample.vectors.shape[1]} dimensions). Some of the questions, picked by hand:\n"
    )
    _show_answers(sample)
    measured = _measure_all(sample)
    hit_rates = [hit_rate(row.ids, sample.answers) for row in measured]
    ends = itertools.accumulate(len(section) for section in CONFIGURATIONS)
    console.print(measurements_table(measured, K, hit_rates, ends))
    _explain(sample, measured)
    if plot.recall_speed(measured, K, f"{len(sample.names):,} standard library entries", PICTURE):
        console.print(f"Picture: {PICTURE.resolve()}", soft_wrap=True)
    else:
        console.print("For a picture of this table: pip install 'nearfield[plot]'")
    console.print(f"Done in {time.perf_counter() - began:.0f} s.")


def _show_answers(sample: StdlibSample) -> None:
    index = nf.Flat(sample.vectors.shape[1])
    index.add(sample.vectors)
    mark = "✓" if console.encoding.startswith("utf") else "*"
    for question in SHOWN_QUESTIONS:
        number = sample.questions.index(question)
        console.print(question, style="bold")
        ids, scores = index.search(sample.question_vectors[number], k=3)
        for row, score in zip(ids[0], scores[0], strict=True):
            right = row in sample.answers[number]
            line = Text(f"  {score:.2f} {mark if right else ' '} ", style="green" if right else "")
            line.append(sample.names[row], style="cyan").append(f"  {_first_sentence(sample.texts[row])}", style="")
            console.print(line, no_wrap=True, overflow="ellipsis")
    console.print(f"\n{mark} marks a right answer.")


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]


def _measure_all(sample: StdlibSample) -> list[Measurement]:
    truth = nf.kernels.knn(sample.question_vectors, sample.vectors, K, "cosine").ids
    measured, dim = [], sample.vectors.shape[1]
    configurations = list(itertools.chain.from_iterable(CONFIGURATIONS))
    for i, (name, make) in enumerate(configurations):
        with progress_bar(f"Measuring {name}", i / len(configurations)):
            measured.append(measure(name, make(dim), sample.vectors, sample.question_vectors, truth, seconds=SECONDS))
    return measured


def _explain(sample: StdlibSample, measured: list[Measurement]) -> None:
    questions, threads = len(sample.questions), nf.cpu_info()["threads"]
    notes = [
        (f"recall@{K}", f"share of the {K} nearest entries, found by exact search, that this index finds"),
        (
            f"hit@{K}",
            f"share of the {questions} questions with a right answer among {K}; where recall is 1 it is the model that "
            "limits it, not the index",
        ),
        ("batch q/s", f"questions a second, all {questions} in one call on {threads} threads; single q/s: one a call"),
        (
            "bytes/vector",
            "all that the index holds, with what the codec has learned, which only "
            f"{len(sample.names):,} vectors share here",
        ),
        ("f16", "loses nothing, because the sample's vectors are f16"),
        (
            "sq8, lvq4, ...",
            "keep 8, 4, ... bits for each dimension, recurrent_binary two, pq4 (in codes of 4 bits) and sign one; "
            "lvq4x8 scans 4 bits, and reads 8 more where they do not decide",
        ),
        ("pq4 + f16", "pq4 picks 10 candidates for each result (int8 + f32: 4), and f16 scores them again"),
        (
            "IVF",
            "visits the 8 (or 32) lists nearest to the question, and pays with many more vectors than here; second "
            "lists hold each vector once more",
        ),
    ]
    if not any("screened" in row.plan for row in measured):
        notes.append(("no screen", "starts with larger collections; here both f32 rows do the same"))
    console.print(facts(notes))
    console.print()
