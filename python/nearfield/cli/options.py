"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from nearfield import codecs

from .errors import UsageError, reported

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
CODECS = (
    "f32, f16, bf16, int8, uint8; sq8, sq6, sq4; lvq8, lvq4, lvq4x4, lvq4x8, lvq8x8; rabitq1 to rabitq8; lloyd4, "
    "lloyd2; pq8, pq4; sign, recurrent_binary"
)

#: Dimension with which options are tried out before any vectors are read: the largest, since every part of product
#: quantization needs a dimension.
ANY_DIM = 65_535

CodecOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="A parameter of the codec, named as in Python (nearfield.PQ, ...), such as subspaces=48; may be given "
        "several times.",
        show_default=False,
    ),
]

RerankOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE", help="The same for the codec of --rerank; may be given several times.", show_default=False
    ),
]


def codec_of(name: str | None, parameters: list[str] | None, option: str) -> Any:
    """Return a codec of --codec or --rerank with its parameters, which the command line calls `option`."""
    if not parameters:
        return name
    spelled = re.fullmatch(r"([a-z_]+)(\d+)?(?:x(\d+))?", name or "")  # pq4, lvq4x8
    kind = codecs._KINDS.get(spelled[1]) if spelled else None
    if spelled is None or kind is None:
        why = f"codec {name} has no parameters" if name else f"there is no {option.removesuffix('-option')}"
        raise UsageError(f"{option}: {parameters[0]} given, but {why}")
    texts = {key: text for key, text in (("bits", spelled[2]), ("residual", spelled[3])) if text is not None}
    known = [field.name for field in fields(kind) if field.init and field.name not in texts]
    for parameter in parameters:
        key, equals, value = parameter.partition("=")
        if not equals or key not in known:
            raise UsageError(f"{option}: {parameter} given, expected NAME=VALUE with one of {', '.join(known)}")
        texts[key] = value
    with reported(option, UsageError):
        return kind._of(texts)


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
