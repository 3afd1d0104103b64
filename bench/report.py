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

from . import binary, capacity
from .environment import ROOT, BenchError

Line = dict[str, Any]
# CPUs used by others above which a measurement is marked.
BUSY = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")


def run(options: argparse.Namespace) -> None:
    lines: list[Line] = []
    for name in ("kernels", "flat", "binary", "capacity"):
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
    figures = options.page.parent / "figures"
    capacity.draw(of(lines, "capacity"), figures / "capacity.svg")
    binary.draw(of(lines, "recall"), figures / "binary_recall.svg")


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


def bit_scans(lines: list[Line]) -> str:
    rows = [
        [
            f"{line['bits']:,}",
            f"{line['batch']}{mark(line)}",
            f"{line['megabytes']:.0f}",
            f"{line['gb_per_s']:.1f}",
            f"{line['read_gb_per_s']:.1f}",
            f"{line['gword_per_s']:.1f}",
            f"{line['count_gword_per_s']:.1f}",
            line["limit"],
            f"{line['share']:.2f}",
        ]
        for line in of(lines, "bit scan")
    ]
    header = ["bits", "queries", "MB", "GB/s", "read loop GB/s", "Gword/s", "count loop Gword/s", "bound by", "share"]
    return table(header, rows, 0)


def bit_searches(lines: list[Line]) -> str:
    measured = of(lines, "bit search")
    names = list(dict.fromkeys(name for line in measured for name in line["contenders"]))
    rows = []
    for line in measured:
        contenders = line["contenders"]
        wrong = sum(one["wrong_distances"] for one in contenders.values()) + contenders["nearfield"]["wrong_ids"]
        checked = sum(one["checked"] for one in contenders.values())
        rows.append(
            [
                str(line["bits"]),
                f"{line['k']:,}",
                f"{line['batch']}{mark(line)}",
                *(f"{contenders[name]['queries_per_s']:,.0f}" if name in contenders else "" for name in names),
                f"{line['ratio']:.2f}",
                line["limit"],
                f"{line['share']:.2f}",
                f"{wrong} of {checked:,}",
            ]
        )
    return table(["bits", "k", "at a time", *names, "x best other", "bound by", "share", "off"], rows, 0)


def recalls(lines: list[Line]) -> str:
    """One row for each code and way of rescoring, with the speed at an oversample of 10."""
    rows = []
    kept: dict[tuple[Any, ...], list[Line]] = {}
    for line in of(lines, "recall"):
        if "exact" in line:
            rates = [f"{line[f'{mode}_queries_per_s']:,.0f}" for mode in binary.MODES]
            what = f"exact, {line['exact']}{mark(line)}"
            cells = [f"{line['recall']:.3f}", rates[0], "", "", rates[1], "", ""]
            rows.append([line["dataset"], "32", what, "", "", f"{line['bytes']:,.0f}", *cells])
        else:
            key = tuple(line[name] for name in ("dataset", "bits", "query", "rotation", "rerank"))
            kept.setdefault(key, []).append(line)
    for (dataset, bits, query, rotation, rerank), some in kept.items():
        typical = next(line for line in some if line["oversample"] in (10, None))
        cells = []
        for mode in binary.MODES:
            cells.append(f"{typical[f'{mode}_queries_per_s']:,.0f}")
            cells += [f"{typical[f'{mode}_x_{exact}']:.1f}" for exact in ("plain", "screened")]
        rows.append(
            [
                dataset,
                str(bits),
                query + mark(typical),
                rotation or "",
                rerank or "none",
                f"{typical['bytes']:,.0f}",
                " / ".join(f"{line['recall']:.3f}" for line in some),
                *cells,
            ]
        )
    rows.sort(key=lambda row: binary.DATASETS.index(row[0]))
    speed = ["queries/s", "x plain", "x screened"]
    header = ["data", "bits", "query as", "rotation", "rerank", "bytes", "recall@10", *speed]
    return table([*header, "in a batch", "x plain", "x screened"], rows, 5)


def asymmetric(lines: list[Line]) -> str:
    rows = [
        [
            f"{line['dim']:,}",
            f"{line['batch']}{mark(line)}",
            f"{line['planes_queries_per_s']:,.0f}",
            f"{line['tables_queries_per_s']:,.0f}",
            f"{line['ratio']:.2f}",
        ]
        for line in of(lines, "asymmetric")
    ]
    return table(["dimension", "at a time", "bit planes, queries/s", "byte tables, queries/s", "ratio"], rows, 0)


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
    "bit_scans": bit_scans,
    "bit_searches": bit_searches,
    "recalls": recalls,
    "asymmetric": asymmetric,
    "capacity": capacities,
}
