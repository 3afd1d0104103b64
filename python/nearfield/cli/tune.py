"""``nearfield tune``: which setting of an index reaches which recall."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import nearfield as nf
from nearfield.tuning import Tuning

from . import options
from .errors import reported
from .output import console, progress_bar, table
from .readers import read_queries


def tune(
    index: Annotated[Path, typer.Argument(help="Index file, which is replaced by one that knows.", show_default=False)],
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Some hundred queries like those to come; by default 1,000 vectors of the index, left out of their "
            "own results. Real queries are often harder than these.",
            show_default=False,
        ),
    ] = None,
    k: options.K = 10,
    recall: Annotated[
        list[float], typer.Option(min=0.0, max=1.0, metavar="R", help="A recall to reach; may be given several times.")
    ] = [0.9, 0.95, 0.99],  # noqa: B006
    column: options.Column = None,
    threads: options.Threads = None,
) -> None:
    """
    Measure how many candidates, and how many lists, each recall takes.

    Recall is the share of the true results, those of a search with --exact, that are found. What is measured is kept in
    the index for nearfield search --recall.
    """
    mapped = sys.platform != "win32"  # where a file that is mapped cannot be replaced
    opened = nf.load(index, mmap=mapped, verify=True)
    asked = None if queries is None else read_queries(queries, column)
    with reported(index if queries is None else f"{index}, {queries}"), progress_bar("Measuring") as progress:
        tuning = opened.tune(asked, k, recall, threads=threads, progress=progress)
    opened.save(index)
    show_tuning(tuning)
    if isinstance(opened, nf.Flat) and opened.rerank is None:
        console.print("Without --rerank, every search compares all vectors and finds the true results of its codec.")


def show_tuning(tuning: Tuning) -> None:
    """Print the table of recalls and the settings that reach each, and how it was measured."""
    shown = table("recall", "measured", *tuning.parameter.split(", "), numbers_from=0)
    for recall, measured, *values in tuning.table:
        shown.add_row(f"{recall:g}", f"{measured:.4f}", *(_number(value) for value in values))
    console.print(shown)
    whose = "vectors of the index, held out" if tuning.queries == "held out" else "given queries"
    console.print(f"Recall of {tuning.k} results, measured with {tuning.n:,} {whose}.")


def _number(value: float) -> str:
    """Three digits, and all of a whole number, such as one of lists."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
