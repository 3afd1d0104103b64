"""``nearfield bench``: recall, speed and size of indexes over one's own vectors."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import nearfield as nf

from . import options
from .errors import CommandError, UsageError, reported
from .measure import Ids, Measurement, measure, measurements_table
from .output import console, progress_bar
from .readers import Array, dimension, hdf5_metric, hdf5_neighbors, is_hdf5, read_queries, read_vectors


def bench(
    vectors: options.Vectors,
    queries: Annotated[
        Path | None,
        typer.Argument(help="File of query vectors; an ann-benchmarks file brings its own.", show_default=False),
    ] = None,
    kind: options.Kind = "flat",
    metric: options.Metric = None,
    codec: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODEC",
            help=f"Codec to measure: {options.CODECS}; may be given several times. By default f32, rabitq1 with "
            "--index ivf, and bits for packed bits.",
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
    k: options.K = 10,
    column: options.Column = None,
    seconds: Annotated[float, typer.Option(min=0.0, metavar="S", help="Time for measuring each speed.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each codec.")] = False,
    threads: options.Threads = None,
) -> None:
    """
    Measure recall, speed, size and build time.

    Recall is the share of the true neighbours that is found. Speeds are medians over calls with all queries, on all
    threads, and over calls with a single query.
    """
    if queries is None and not is_hdf5(vectors):
        raise UsageError(f"QUERIES: missing; {vectors} is no ann-benchmarks file that would bring its own")
    names: list[str | None] = [*(codec or (None,))]
    finer = options.codec_of(rerank, rerank_option, "--rerank-option")
    given = {"lists": lists, "probes": probes, "soar": soar, "list_dims": list_dims}
    makers = [
        options.index_of(
            kind, options.codec_of(name, codec_option, "--codec-option"), finer, oversample, screen, **given
        )
        for name in names
    ]
    for make in makers:
        with reported(kind=UsageError):
            make(options.ANY_DIM, metric or "cosine")
    rows = read_vectors(vectors, column)
    asked = read_queries(vectors, "test") if queries is None else read_queries(queries, column)
    for path, array in ((vectors, rows), (queries or vectors, asked)):
        if not len(array):
            raise CommandError(f"{path}: holds no vectors")
    metric = metric or hdf5_metric(vectors) or "cosine"
    k = min(k, len(rows))
    with reported(vectors if queries is None else f"{vectors}, {queries}"):
        truth = _true_neighbors(vectors if queries is None else None, metric, rows, asked, k, threads)
    measured: list[Measurement] = []
    dim = dimension(rows, metric)
    settings: list[dict[str, Any]] = []
    for i, make in enumerate(makers):
        with reported(vectors):
            index = make(dim, metric)
        name = " ".join([type(index).__name__, names[i] or str(index.codec), *(codec_option or [])])
        if index.rerank is not None:
            name = " ".join([name, "+", rerank or str(index.rerank), *(rerank_option or [])])
        with reported(name), progress_bar(f"Measuring {name}", i / len(makers)):
            measured.append(measure(name, index, rows, asked, truth, threads, seconds))
        settings.append(_setting(index))
    if as_json:
        common = {"k": k, "vectors": len(rows), "dim": dim, "queries": len(asked)}
        for setting, row in zip(settings, measured, strict=True):
            print(json.dumps({**setting, **common, **_figures(row), **_machine(threads)}, default=str))
        return
    console.print(f"{len(rows):,} vectors of dimension {dim}, {len(asked):,} queries, {metric}")
    console.print(measurements_table(measured, k))


def _true_neighbors(hdf5: Path | None, metric: str, vectors: Array, queries: Array, k: int, threads: int | None) -> Ids:
    """Return the neighbours that come with the queries, if of this metric and enough; else those found exactly."""
    if hdf5 is not None and hdf5_metric(hdf5) == metric:
        given = hdf5_neighbors(hdf5)
        if given is not None and given.shape[0] == len(queries) and given.shape[1] >= k:
            return given[:, :k].astype(np.int64)
    return nf.kernels.knn(queries, vectors, k, metric, threads=threads).ids


def _setting(index: nf.Flat | nf.IVF) -> dict[str, Any]:
    names = ["metric", "codec", "rerank", "oversample"]
    names += ["lists", "probes", "soar", "list_dims"] if isinstance(index, nf.IVF) else ["screen"]
    return {"index": type(index).__name__, **{name: getattr(index, name) for name in names}}


def _figures(row: Measurement) -> dict[str, Any]:
    return {item.name: getattr(row, item.name) for item in fields(row) if item.name not in ("name", "ids")}


def _machine(threads: int | None) -> dict[str, Any]:
    cpu = nf.cpu_info()
    return {"threads": threads or cpu["threads"], "cpu": cpu["name"], "level": cpu["level"], "version": nf.__version__}
