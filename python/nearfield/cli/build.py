"""``nearfield build``: an index file from a file of vectors."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import nearfield as nf

from . import options
from .errors import UsageError, reported
from .output import console, progress_bar, size
from .readers import Array, dimension, hdf5_metric, is_readable, read_ids, read_vectors
from .writers import check_folder


def build(
    vectors: options.Vectors,
    index: Annotated[
        Path, typer.Argument(help="Index file to write; one that exists is replaced.", show_default=False)
    ],
    metric: options.Metric = None,
    dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Dimension; needed only for packed bits that do not fill their last byte, or with --codec sign.",
            show_default=False,
        ),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            metavar="CODEC",
            help=f"How vectors are stored: {options.CODECS}; by default f32, and bits for packed bits.",
            show_default=False,
        ),
    ] = None,
    codec_option: options.CodecOption = None,
    rerank: options.Rerank = None,
    rerank_option: options.RerankOption = None,
    oversample: options.Oversample = 4.0,
    screen: options.Screen = True,
    column: options.Column = None,
    ids: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|COLUMN",
            help="Ids of the vectors: a file, or another column of the same file; by default 0, 1, 2, ...",
            show_default=False,
        ),
    ] = None,
    threads: options.Threads = None,
) -> None:
    """Build an index from a file of vectors."""
    make = partial(
        nf.Flat,
        codec=options.codec_of(codec, codec_option, "--codec-option"),
        rerank=options.codec_of(rerank, rerank_option, "--rerank-option"),
        oversample=oversample,
        screen=screen,
    )
    with reported(kind=UsageError):
        make(dim or options.ANY_DIM, metric=metric or "cosine")
    check_folder(index)
    rows = read_vectors(vectors, column)
    row_ids = None if ids is None else _read_ids(vectors, ids)
    began = time.perf_counter()
    with reported(vectors), progress_bar("Adding vectors") as progress:
        metric = metric or hdf5_metric(vectors) or "cosine"
        built = make(dim or dimension(rows, metric), metric=metric)
        built.add(rows, row_ids, threads=threads, progress=progress)
    built.save(index)
    console.print(f"{built!r}", soft_wrap=True)
    written = size(index.stat().st_size)
    console.print(f"{index}: {written}, built in {time.perf_counter() - began:.1f} s", soft_wrap=True)


def _read_ids(vectors: Path, ids: str) -> Array:
    path = Path(ids)
    return read_ids(path) if is_readable(path) else read_ids(vectors, ids)
