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

from . import binary, capacity, codecs, ivf
from .environment import ROOT, BenchError

Line = dict[str, Any]
# CPUs used by others above which a measurement is marked.
BUSY = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")


def run(options: argparse.Namespace) -> None:
    lines: list[Line] = []
    for name in ("kernels", "flat", "binary", "codecs", "ivf", "capacity"):
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
    codecs.draw(of(lines, "codec scan"), figures / "codecs.svg")
    ivf.draw(of(lines, "lists search"), figures / "ivf.svg")


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


def data_of(line: Line) -> str:
    return f"{line['dataset']} {line['n']:,} x {line['dim']}, {line['metric']}"


def codec_scans(lines: list[Line]) -> str:
    """One row for each codec and library that it is set beside."""
    rows = []
    for line in of(lines, "codec scan"):
        contenders = line["contenders"]
        for name in line["ours"]:
            one = contenders[name]
            cells = [data_of(line), name + mark(line), f"{one['bytes']:,.0f}", f"{one['recall']:.3f}"]
            cells += [f"{one[f'{mode}_queries_per_s']:,.0f}" for mode in codecs.MODES]
            cells += [f"{one['train_s']:.1f}", f"{one['encode_us']:.2f}"]
            for peer, ratios in line["ratios"][name].items() or [("", {})]:
                against = [""] * 6
                if peer:
                    other = contenders[peer]
                    against = [peer, f"{other['bytes']:,.0f}", f"{other['recall']:.3f}"]
                    against += [f"{ratios[what]:.2f}" for what in (*codecs.MODES, "encode")]
                rows.append([*cells, *against])
    columns = ["data", "codec", "bytes", "recall@10", "queries/s", "64 at a time", "training s", "encoding us"]
    return table([*columns, "beside", "bytes", "recall@10", "x", "x, 64 at a time", "x encoding"], rows, 2)


def codec_searches(lines: list[Line]) -> str:
    rows = []
    for line in of(lines, "codec search"):
        exact = "exact" in line
        what = f"exact, {line['exact']}" if exact else f"{line['codec']}"
        cells = [data_of(line), what + mark(line), "" if exact else line["rerank"] or "none"]
        cells += [f"{line['candidates'] or ''}", f"{line['bytes']:,.0f}", f"{line['recall']:.3f}"]
        for mode in codecs.MODES:
            cells.append(f"{line[f'{mode}_queries_per_s']:,.0f}")
            cells += ["" if exact else f"{line[f'{mode}_x_{scan}']:.2f}" for scan in codecs.EXACT]
        rows.append(cells)
    columns = ["data", "codec", "rerank", "candidates", "bytes", "recall@10"]
    return table([*columns, *["queries/s", "x plain", "x screened"], "64 at a time", "x plain", "x screened"], rows, 3)


def compressions(lines: list[Line]) -> str:
    rows = [
        [
            f"`{line['codec']}`" if line["codec"] else "none",
            "with queries" if line["queries"] else "",
            f"{line['bytes']:,}",
            f"{line['ndcg']:.4f}",
            f"{line['share']:.3f}",
        ]
        for line in of(lines, "compression")
    ]
    return table(["codec", "learned", "bytes", "nDCG@10", "of the uncompressed"], rows, 2)


def projections(lines: list[Line]) -> str:
    rows = [
        [
            data_of(line),
            {None: "none", "pca": "`PCA`", "leanvec": "`LeanVec`"}[line["transform"]],
            str(line["dims"]),
            *(f"{recall:.3f}" for recall in line["recalls"].values()),
        ]
        for line in of(lines, "projection")
    ]
    return table(["data", "transform", "dimensions", *(f"{times} x 10" for times in codecs.OVERSAMPLES)], rows, 2)


def memories(lines: list[Line]) -> str:
    rows = [
        [
            line["codec"],
            line["rerank"] or "none",
            f"{line['copies'] * line['n']:,}",
            f"{line['nbytes'] / 1e6:,.1f}",
            f"{line['growth'] / 1e6:,.1f}",
            f"{line['growth_x_nbytes']:.3f}",
            f"{100 * line['beyond']:.1f}",
        ]
        for line in of(lines, "memory")
    ]
    header = ["codec", "rerank", "vectors", "nbytes, MB", "growth, MB", "growth / nbytes", "peak beyond, % of vectors"]
    return table(header, rows, 2)


def declared_recalls(lines: list[Line]) -> str:
    rows = [
        [
            data_of(line),
            line["codec"] + mark(line),
            "queries" if line["given"] else "vectors",
            f"{line['wanted']:.2f}",
            f"{line['recall']:.3f}",
            *(f"{line[f'{mode}_queries_per_s']:,.0f}" for mode in codecs.MODES),
            f"{line['recall_by_hand']:.3f}",
            *(f"{line[f'{mode}_x_by_hand']:.2f}" for mode in codecs.MODES),
        ]
        for line in of(lines, "tune")
    ]
    columns = ["data", "codec", "tuned on", "asked", "reached", "queries/s", "64 at a time"]
    return table([*columns, "by hand", "x by hand", "x, 64 at a time"], rows, 3)


def clusterings(lines: list[Line]) -> str:
    rows = [
        [
            f"{line['dataset']} {line['n']:,} x {line['dim']}",
            name + mark(line),
            f"{one['seconds']:.2f}",
            f"{one['inertia']:.6g}",
            f"{one['ratio']:.2f}",
            f"{one['inertia_ratio']:.5f}",
        ]
        for line in of(lines, "clustering")
        for name, one in line["contenders"].items()
    ]
    header = ["data", "", "seconds", "inertia", "nearfield is x as fast", "inertia / nearfield's"]
    return table(header, rows, 2)


def lists_searches(lines: list[Line]) -> str:
    """One row for each contender, dataset and recall; who does not reach it says so by the recall alone."""
    rows = []
    for line in of(lines, "lists search"):
        for name, one in line["contenders"].items():
            reached = "queries_per_s" in one
            against = ["", ""]
            if "ratio" in one:
                against = [f"{one['ratio']:.2f}", f"{one['single_ratio']:.2f}"]
            rows.append(
                [
                    data_of(line),
                    f"{line['wanted']:.2f}",
                    " ".join([name, one.get("version", "")]).strip() + mark(line),
                    one["code"],
                    f"{one['lists']:,}",
                    f"{one['probes']}",
                    f"{one['candidates'] or ''}",
                    f"{one['bytes']:,.0f}",
                    f"{one['build_s']:.1f}",
                    f"{one['recall']:.4f}",
                    f"{one['queries_per_s']:,.0f}" if reached else "",
                    against[0],
                    f"{one['single_us']:,.0f}" if reached else "",
                    against[1],
                ]
            )
    columns = ["data", "asked", "", "code", "lists", "probes", "candidates", "bytes", "build s", "recall@10"]
    return table([*columns, "queries/s", "nearfield x", "one by one, us", "nearfield x"], rows, 4)


def filters(lines: list[Line]) -> str:
    rows = []
    for line in of(lines, "filter"):
        recalls = [line["recall"]["memory"], line["recall"]["mapped"], line["unfiltered_recall"]]
        rows.append(
            [
                data_of(line),
                f"{100 * line['share']:g} %, {line['kind']}{mark(line)}",
                *(f"{recall:.4f}" for recall in recalls),
                *(f"{line[times][way]:,.0f}" for times in ("single_us", "batch_us") for way in ivf.WAYS),
            ]
        )
    ways = ["in memory", "mapped", "exact, `Flat`", "exact, faiss on a copy"]
    columns = ["data", "allowed", "recall", "mapped", "unfiltered", *(f"{way}, us" for way in ways)]
    return table([*columns, *(f"{way}, us in a batch" for way in ways)], rows, 2)


def budgeted_builds(lines: list[Line]) -> str:
    rows = []
    for line in of(lines, "budgeted build"):
        cells = [data_of(line) + mark(line), f"{line['vectors_bytes'] / 1e6:,.1f}", f"{line['budget'] / 1e6:,.1f}"]
        for one in (line["limited"], line["unlimited"]):
            cells += [f"{one['peak_bytes'] / 1e6:,.1f}", f"{one['seconds']:.1f}", f"{one['recall']:.4f}"]
        rows.append(cells)
    columns = ["data", "vectors, MB", "budget, MB", "peak, MB", "seconds", "recall"]
    return table([*columns, "without: peak, MB", "seconds", "recall"], rows, 1)


def mapped_lists(lines: list[Line]) -> str:
    rows = [
        [
            data_of(line) + mark(line),
            f"{line['file_bytes'] / 1e6:,.1f}",
            f"{line['load_ms']:.1f}",
            f"{line['load_bytes'] / 1e6:.2f}",
            f"{line['first_ms']:.1f}",
            f"{line['first_bytes'] / 1e6:.2f}",
            f"{line['cold_ms']:.1f}",
            f"{line['cold_bytes'] / 1e6:.2f}",
            f"{line['warm_ms']:.2f}",
        ]
        for line in of(lines, "mapped lists")
    ]
    columns = ["data", "file, MB", "load ms", "MB read", "first query ms", "MB read", "later, cold, ms", "MB read"]
    return table([*columns, "warm ms"], rows, 1)


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
    "codec_scans": codec_scans,
    "codec_searches": codec_searches,
    "compression": compressions,
    "projections": projections,
    "memory": memories,
    "declared_recall": declared_recalls,
    "clusterings": clusterings,
    "lists_search": lists_searches,
    "filters": filters,
    "budgeted_builds": budgeted_builds,
    "mapped_lists": mapped_lists,
    "capacity": capacities,
}
