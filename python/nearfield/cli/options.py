"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Vectors: TypeAlias = Annotated[Path, typer.Argument(help="File of vectors.", show_default=False)]

Column: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Parquet or Arrow column, .npz array or .hdf5 dataset to read; needed where several would do.",
        show_default=False,
    ),
]

Metric: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC",
        help="cosine, ip or l2; hamming or jaccard for packed bits; by default what an ann-benchmarks file says, else "
        "cosine.",
        show_default=False,
    ),
]

Rerank: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="CODEC",
        help="A second, finer codec that scores the candidates of the first again.",
        show_default=False,
    ),
]

Oversample: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Candidates per result when reranking.",
    ),
]

#: What a codec may be, for help texts.
CODECS = "f32, f16, bf16, int8, uint8, sign, recurrent_binary"

Screen: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--screen/--no-screen",
        help="Scan an 8-bit image of float vectors first; faster, a quarter larger than f32, the same results.",
    ),
]

Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Threads to use; by default all CPUs.",
        show_default=False,
    ),
]

K: TypeAlias = Annotated[
    int,
    typer.Option(
        "-k",
        min=1,
        metavar="N",
        help="Results per query.",
    ),
]
