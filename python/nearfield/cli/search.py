"""``nearfield search``: the best matches of a file of queries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import nearfield as nf

from . import options
from .errors import CommandError, reported
from .output import console, table
from .readers import read_filter, read_queries
from .writers import STDOUT, writer

_SHOWN_QUERIES = 10


def search(
    index: Annotated[Path, typer.Argument(help="Index file.", show_default=False)],
    queries: Annotated[Path, typer.Argument(help="File of query vectors.", show_default=False)],
    k: options.K = 10,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where results go: .npy or .npz (ids and scores), .parquet or .jsonl, or - for JSON lines on stdout; "
            "by default a table on the screen.",
            show_default=False,
        ),
    ] = None,
    filter: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of what may be returned: ids, or a boolean mask over the index's ids.",
            show_default=False,
        ),
    ] = None,
    probes: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Lists to visit, in place of the index's own; more than there are means all.",
            show_default=False,
        ),
    ] = None,
    oversample: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Candidates per result when reranking, in place of the index's own.", show_default=False
        ),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="R",
            help="Take the candidates, and the lists, for which nearfield tune measured this recall.",
            show_default=False,
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every vector by the finest codec.")] = False,
    mmap: Annotated[
        bool, typer.Option("--mmap", help="Map the index: opens at once, verifies its header only.")
    ] = False,
    column: options.Column = None,
    threads: options.Threads = None,
) -> None:
    """
    Search an index for the vectors nearest to each query.

    Higher scores are better for cosine, ip and jaccard; l2 and hamming scores are distances.
    """
    write = _show if output is None else writer(output)
    opened = nf.load(index, mmap=mmap)
    vectors = read_queries(queries, column)
    allowed = None
    if filter is not None:
        with reported(filter):
            allowed = opened.prepare_filter(read_filter(filter))
    parameters: dict[str, Any] = {"oversample": oversample, "recall": recall, "exact": exact}
    if isinstance(opened, nf.IVF):
        parameters["probes"] = probes
    elif probes is not None:
        raise CommandError(f"{index}: --probes: {probes} given, but a flat index has no lists")
    with reported(f"{index}, {queries}"):
        hits = opened.search(vectors, k, filter=allowed, threads=threads, **parameters)
    write(hits)
    if output not in (None, STDOUT):
        console.print(f"{output}: {len(hits):,} queries, {hits.ids.shape[1]:,} results each", soft_wrap=True)


def _show(hits: nf.Hits) -> None:
    shown = table("query", "rank", "id", "score", numbers_from=0)
    for query in range(min(len(hits), _SHOWN_QUERIES)):
        count = hits.counts[query]
        for rank, (id, score) in enumerate(zip(hits.ids[query, :count], hits.scores[query, :count], strict=True)):
            last = rank == count - 1
            shown.add_row("" if rank else str(query), str(rank), str(id), f"{score:.4f}", end_section=bool(last))
        if count == 0:
            shown.add_row(str(query), "", "no result", "", end_section=True)
    console.print(shown)
    if len(hits) > _SHOWN_QUERIES:
        console.print(f"{len(hits) - _SHOWN_QUERIES:,} more queries; --output writes the results of all.")
