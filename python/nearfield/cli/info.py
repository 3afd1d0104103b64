"""``nearfield info``: this machine, or the contents of a file."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import nearfield as nf
from nearfield import codecs
from nearfield.tuning import Tuning

from .errors import CommandError
from .output import console, facts, printable, size, table
from .tune import show_tuning

# The safetensors format allows no longer header.
_LONGEST_HEADER = 100_000_000


def info(
    file: Annotated[
        Path | None, typer.Argument(help="An index file, or any other safetensors file.", show_default=False)
    ] = None,
) -> None:
    """
    Show the CPU and the kernels in use, or what a file holds.

    The environment variable NEARFIELD_ISA chooses another kernel level, such as avx2.
    """
    if file is None:
        _show_machine()
    else:
        _show_file(file)


def _show_machine() -> None:
    cpu: dict[str, Any] = nf.cpu_info()
    console.print(
        facts(
            [
                ("nearfield", nf.__version__),
                ("CPU", cpu["name"]),
                ("threads", str(cpu["threads"])),
                ("level", cpu["level"]),
                ("levels here", ", ".join(cpu["levels"])),
            ]
        )
    )
    kernels = table("kernel", "level", numbers_from=2)
    for kernel, level in cpu["kernels"].items():
        kernels.add_row(kernel, level)
    console.print(kernels)


def _show_file(path: Path) -> None:
    metadata, tensors = _read_header(path)
    told = {key: value for key, value in metadata.items() if value and not key.startswith("checksum")}
    tuning = _take_tuning(path, told)
    if told.get("kind") == "ivf":
        for name in ("lists", "probes", "soar", "list_dims"):
            if told.get(name) == "0":  # by default
                del told[name]
        for tensor in tensors:
            if tensor.name == "list_sizes":
                told["lists"] = f"{tensor.shape[0]:,}" if tensor.shape else "1"
    for name in ("codec", "rerank"):
        prefix = f"{name}."
        parameters = {key[len(prefix) :]: value for key, value in told.items() if key.startswith(prefix)}
        with contextlib.suppress(KeyError, TypeError, ValueError):  # no index, or of a newer version
            told[name] = str(codecs.of_spec(told[name], parameters))
            for key in parameters:
                del told[prefix + key]
    shown = [(printable(key), printable(value)) for key, value in told.items()]
    first = ["kind", "metric", "dim", "rows", "lists", "codec", "rerank"]
    shown.sort(key=lambda pair: first.index(pair[0]) if pair[0] in first else len(first))
    console.print(facts([("file", str(path)), ("size", size(path.stat().st_size)), *shown]))
    if tuning is not None:
        show_tuning(tuning)
    contents = table("tensor", "type", "shape", "bytes", numbers_from=2)
    for tensor in tensors:
        if not tensor.name.startswith("_pad"):  # what aligns the others
            shape = " x ".join(f"{extent:,}" for extent in tensor.shape) or "scalar"
            contents.add_row(printable(tensor.name), printable(tensor.type), shape, f"{tensor.end - tensor.begin:,}")
    console.print(contents)


def _take_tuning(path: Path, metadata: dict[str, str]) -> Tuning | None:
    """Take what `nearfield tune` has measured out of the metadata of an index."""
    if metadata.get("kind") not in ("flat", "ivf") or "tuning.k" not in metadata:
        return None
    names = ["probes"] if metadata["kind"] == "ivf" else []
    if metadata["kind"] == "flat" or metadata.get("rerank"):
        names.append("oversample")
    table: list[tuple[float, float, float, int]] = []
    try:
        k, queries, n = int(metadata.pop("tuning.k")), metadata.pop("tuning.queries"), int(metadata.pop("tuning.n"))
        while (key := f"tuning.{len(table)}") in metadata:
            recall, measured, oversample = map(float, metadata.pop(key).split())
            table.append((recall, measured, oversample, int(metadata.pop(f"{key}.probes", "0"))))
    except (ValueError, KeyError):
        raise CommandError(f"{path}: the tuning in its metadata is damaged") from None
    return Tuning._of(tuple(names), k, queries, n, table)


@dataclass(frozen=True)
class _Tensor:
    name: str
    type: str
    shape: list[int]
    begin: int
    end: int

    @classmethod
    def described(cls, name: str, entry: Any) -> _Tensor:
        begin, end = entry["data_offsets"]
        return cls(name, str(entry["dtype"]), [int(extent) for extent in entry["shape"]], int(begin), int(end))


def _read_header(path: Path) -> tuple[dict[str, str], list[_Tensor]]:
    """Return the metadata and the tensors of a safetensors file, in the order of the file."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        data_bytes = path.stat().st_size - 8 - header_bytes
        if data_bytes < 0 or header_bytes > _LONGEST_HEADER:
            raise CommandError(f"{path}: no safetensors file (index files are), or truncated")
        text = file.read(header_bytes)
    try:
        entries = json.loads(text)
        metadata = {key: str(value) for key, value in entries.pop("__metadata__", {}).items()}
        tensors = [_Tensor.described(name, entry) for name, entry in entries.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CommandError(f"{path}: no safetensors file (index files are), or damaged") from None
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    if tensors and tensors[-1].end > data_bytes:
        raise CommandError(f"{path}: truncated: its tensors take {tensors[-1].end:,} bytes, {data_bytes:,} are there")
    return metadata, tensors
