"""
Write the tables of docs/benchmarks.md, and the figures, from bench/results.

The page keeps its own prose; whatever stands between ``<!-- table: name -->`` and ``<!-- end -->`` is replaced. Rows
measured while other processes used the machine are marked with an asterisk.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import capacity
from .environment import ROOT, BenchError

Line = dict[str, Any]
# CPUs used by others above which a measurement is marked.
BUSY = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")


def run(options: argparse.Namespace) -> None:
    lines: list[Line] = []
    for name in ("kernels", "flat", "capacity"):
        path = options.results / f"{name}.jsonl"
        if not path.exists():
            raise BenchError(f"{path} is missing: run python -m bench {name}")
        lines += [json.loads(text) for text in path.read_text().splitlines()]
    if any(line["measurement"] == "run" and line["quick"] for line in lines):
        raise BenchError("the results are those of a --quick run, which measures too roughly for the page")
    page = options.page.read_text()

    def replaced(match: re.Match[str]) -> str:
        table = TABLES.get(match[1])
        if table is None:
            raise BenchError(f"{options.page}: unknown table {match[1]}, expected one of {', '.join(TABLES)}")
        return f"<!-- table: {match[1]} -->\n{table(lines)}\n<!-- end -->"

    options.page.write_text(re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", replaced, page, flags=re.DOTALL))
    capacity.draw(of(lines, "capacity"), options.page.parent / "figures" / "capacity.svg")


def table(header: list[str], rows: list[list[str]], text_columns: int) -> str:
    """Format a Markdown table whose first columns are text and whose others are numbers."""
    if not rows:
        return "Not measured yet."
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def of(lines: list[Line], measurement: str) -> list[Line]:
    return [line for line in lines if line["measurement"] == measurement]


def mark(line: Line) -> str:
    return "\\*" if line["others"] > BUSY else ""


def runs(lines: list[Line]) -> str:
    rows = []
    for run in of(lines, "run"):
        machine = run["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        rows.append(
            [
                f"`python -m bench {run['command']}`",
                run["date"][:10],
                f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GiB",
                f"{machine['kernel']}, Python {machine['python']}",
                versions,
                run["commit"],
            ]
        )
    return table(["command", "date", "machine", "system", "versions", "commit"], rows, 6)


def searches(lines: list[Line]) -> str:
    rows = []
    for line in of(lines, "search"):
        rows.append(
            [
                f"{line['dataset']} {line['n']:,} x {line['dim']}, {line['metric']}",
                f"{line['queries']} in a batch" if line["mode"] == "batch" else "one by one",
                str(line["threads"]),
                line["contender"] + mark(line),
                f"{line['queries_per_s']:,.0f}",
                f"{line['ratio']:.2f}" if "ratio" in line else "",
                f"{line['wrong_ids']} of {line['checked']:,}",
            ]
        )
    return table(["data", "queries", "threads", "", "queries/s", "x faiss", "ids off"], rows, 4)


def hard(lines: list[Line]) -> str:
    rows = [
        [
            f"{line['dataset']}, {line['metric']}",
            "batch" if line["mode"] == "batch" else "one by one",
            f"{line['queries_per_s']:,.0f}{mark(line)}",
            f"{line['ratio']:.2f}",
            f"{line['wrong_ids']} of {line['checked']:,}",
        ]
        for line in of(lines, "hard")
        if line["contender"] != line["reference"]
    ]
    return table(["data", "queries", "queries/s", "x without screen", "ids off"], rows, 2)


def scans(lines: list[Line]) -> str:
    rows = [
        [
            line["codec"],
            line["metric"] + mark(line),
            f"{line['megabytes']:.0f}",
            f"{line['gb_per_s']:.1f}",
            f"{line['read_gb_per_s']:.1f}",
            f"{line['share']:.2f}",
        ]
        for line in of(lines, "scan")
    ]
    return table(["codec", "metric", "MB", "GB/s", "read loop GB/s", "share"], rows, 2)


def loads(lines: list[Line]) -> str:
    rows = [
        [
            ("with" if line["screen"] else "without") + " screen" + mark(line),
            f"{line['file_mb']:,.0f}",
            *(f"{line[key]:.1f}" for key in ("load_ms", "first_ms", "later_ms", "page_in_ms", "beyond_page_in_ms")),
        ]
        for line in of(lines, "load")
    ]
    header = ["", "file MB", "load ms", "first query ms", "later query ms", "page-in ms", "beyond page-in ms"]
    return table(header, rows, 1)


def kernels(lines: list[Line]) -> str:
    rows = [
        [
            f"`{line['kernel']}`",
            line["level"],
            line["place"] + mark(line),
            f"{line['ns_per_vector']:.1f}",
            f"{line['gb_per_s']:.1f}",
            f"{line['bandwidth_share']:.2f}",
            f"{line['gop_per_s']:.1f}" if "gop_per_s" in line else "",
            f"{line['peak_share']:.2f}" if "peak_share" in line else "",
        ]
        for line in of(lines, "kernel")
        if line["dim"] == 384
    ]
    header = ["kernel", "level", "data in", "ns/vector", "GB/s", "of reading", "Gop/s", "of peak"]
    return table(header, rows, 3)


def capacities(lines: list[Line]) -> str:
    measured = of(lines, "capacity")
    cells: dict[tuple[str, int], list[str]] = {}
    for line in measured:
        row = cells.setdefault((line["architecture"], line["dim"]), [])
        row.append(f"{100 * line['recovered']:.1f} ({100 * line['expected']:.1f})")
    sizes = sorted({line["size"] for line in measured})
    rows = [[f"`{name}`", f"{dim:,}", *shares] for (name, dim), shares in cells.items()]
    return table(["", "dimension", *(f"{size} pairs" for size in sizes)], rows, 1)


TABLES: dict[str, Callable[[list[Line]], str]] = {
    "runs": runs,
    "searches": searches,
    "hard": hard,
    "scans": scans,
    "loads": loads,
    "kernels": kernels,
    "capacity": capacities,
}
