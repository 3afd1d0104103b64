"""Search results in files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np

from nearfield import Hits

from .errors import CommandError, UsageError, optional_module

STDOUT = Path("-")


def check_folder(path: Path) -> None:
    """Say before the work, not after it, that there is no folder to write to."""
    if not path.parent.is_dir():
        raise CommandError(f"{path}: there is no folder {path.parent}")


def writer(path: Path) -> Callable[[Hits], None]:
    """Return the function that writes to `path`, whose ending chooses the format."""
    if path == STDOUT:
        return lambda hits: _write_lines(sys.stdout, hits)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UsageError(f"--output: {path} must end in {', '.join(_WRITERS)}, or be - for JSON lines on stdout")
    check_folder(path)
    return lambda hits: write(path, hits)


def _write_npy(path: Path, hits: Hits) -> None:
    """One array of shape (queries, k) with the fields ids and scores, so that nothing is left out."""
    both = np.empty(hits.ids.shape, [("ids", np.int64), ("scores", np.float32)])
    both["ids"], both["scores"] = hits
    np.save(path, both)


def _write_npz(path: Path, hits: Hits) -> None:
    np.savez(path, ids=hits.ids, scores=hits.scores)


def _write_jsonl(path: Path, hits: Hits) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        _write_lines(file, hits)


def _write_lines(file: TextIO, hits: Hits) -> None:
    """Write a line for each query, without places that have no result."""
    for query, (ids, scores, count) in enumerate(zip(hits.ids, hits.scores, hits.counts, strict=True)):
        # The shortest decimals that give the same float32 again.
        shortest = [float(str(score)) for score in scores[:count]]
        file.write(json.dumps({"query": query, "ids": ids[:count].tolist(), "scores": shortest}) + "\n")


def _write_parquet(path: Path, hits: Hits) -> None:
    """Write a row for each result, ready to be joined with the documents."""
    pa, parquet = optional_module("pyarrow", path), optional_module("pyarrow.parquet", path)
    query, rank = np.nonzero(hits.ids >= 0)
    columns = {"query": query, "rank": rank, "id": hits.ids[query, rank], "score": hits.scores[query, rank]}
    parquet.write_table(pa.table(columns), path)


_WRITERS: dict[str, Callable[[Path, Hits], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
}
