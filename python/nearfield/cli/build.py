"""``nearfield build``: an index file from a file of vectors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

import nearfield as nf
from nearfield import _inputs, codecs

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
    kind: options.Kind = "flat",
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
            help=f"How vectors are stored: {options.CODECS}; by default f32, rabitq1 with --index ivf, and bits for "
            "packed bits.",
            show_default=False,
        ),
    ] = None,
    codec_option: options.CodecOption = None,
    rerank: options.Rerank = None,
    rerank_option: options.RerankOption = None,
    oversample: options.Oversample = None,
    screen: options.Screen = True,
    lists: options.Lists = None,
    probes: options.Probes = None,
    soar: options.Soar = None,
    list_dims: options.ListDims = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="With --index ivf: take no more memory than this, such as 500MB or 2GiB. Vectors of .npy and vecs "
            "files are read piece by piece, those of other files are held beside.",
            show_default=False,
        ),
    ] = None,
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
    first = options.codec_of(codec, codec_option, "--codec-option")
    finer = options.codec_of(rerank, rerank_option, "--rerank-option")
    make = options.index_of(
        kind,
        first,
        finer,
        oversample,
        screen,
        lists=lists,
        probes=probes,
        soar=soar,
        list_dims=list_dims,
    )
    with reported(kind=UsageError):
        make(dim or options.ANY_DIM, metric or "cosine")
    if memory_budget is not None:
        if kind != "ivf":
            raise UsageError("--memory-budget: only with --index ivf")
        if ids is not None:
            raise UsageError("--ids: not with --memory-budget, which counts vectors from 0")
        with reported(kind=UsageError):
            _inputs.byte_count(memory_budget, "--memory-budget")
        for learned in (first, finer):
            if learned is not None and codecs.learns(learned):
                raise UsageError(f"--memory-budget: not with {learned}, which learns from all vectors in memory")
    check_folder(index)
    rows = read_vectors(vectors, column)
    row_ids = None if ids is None else _read_ids(vectors, ids)
    began = time.perf_counter()
    with reported(vectors), progress_bar("Adding vectors") as progress:
        metric = metric or hdf5_metric(vectors) or "cosine"
        built = make(dim or dimension(rows, metric), metric)
        if memory_budget is not None and isinstance(built, nf.IVF):
            built.build(rows, index, memory_budget=memory_budget, threads=threads, progress=progress)
        else:
            built.add(rows, row_ids, threads=threads, progress=progress)
    if memory_budget is None:
        built.save(index)
    console.print(f"{built!r}", soft_wrap=True)
    written = size(index.stat().st_size)
    console.print(f"{index}: {written}, built in {time.perf_counter() - began:.1f} s", soft_wrap=True)


def _read_ids(vectors: Path, ids: str) -> Array:
    path = Path(ids)
    return read_ids(path) if is_readable(path) else read_ids(vectors, ids)
