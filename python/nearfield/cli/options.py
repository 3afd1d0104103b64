"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

import nearfield as nf
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
        help="A second, finer codec that scores the candidates of the first again, or none; by default none, and f16 "
        "with --index ivf.",
        show_default=False,
    ),
]

Oversample: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Candidates per result when reranking; by default 4, and 10 with --index ivf.",
        show_default=False,
    ),
]

Kind: TypeAlias = Annotated[
    str,
    typer.Option(
        "--index",
        metavar="KIND",
        help="flat: exact search over all vectors; ivf: inverted lists, of which a search visits the nearest.",
    ),
]

Lists: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Lists of --index ivf; by default four times the square root of the number of vectors.",
        show_default=False,
    ),
]

Probes: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Lists that a search visits unless it says so itself; by default one in 32, and at least 8.",
        show_default=False,
    ),
]

Soar: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Put each vector into a second list, chosen by this weight (SOAR); 1 to 1.5 is usual.",
        show_default=False,
    ),
]

ListDims: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Learn lists from the first N dimensions (Matryoshka embeddings); by default from all.",
        show_default=False,
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


def index_of(
    kind: str,
    codec: Any,
    rerank: Any,
    oversample: float | None,
    screen: bool,
    **lists: float | None,
) -> Callable[[int, str], nf.Flat | nf.IVF]:
    """Return what makes an empty index, of a dimension and a metric, as the options say."""
    parameters: dict[str, Any] = {"codec": codec, "rerank": rerank, "oversample": oversample, **lists}
    parameters = {name: value for name, value in parameters.items() if value is not None}
    if rerank == "none":
        parameters["rerank"] = None
    if kind == "ivf":
        if not screen:
            raise UsageError("--no-screen: only with --index flat")
        return partial(nf.IVF, **parameters)
    if kind != "flat":
        raise UsageError(f"--index: {kind} given, expected flat or ivf")
    for name in lists:
        if name in parameters:
            raise UsageError(f"--{name.replace('_', '-')}: only with --index ivf")
    return partial(nf.Flat, screen=screen, **parameters)


Screen: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--screen/--no-screen",
        help="Scan an 8-bit image of float vectors first (--index flat); faster, a quarter larger than f32, the same "
        "results.",
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
