"""
Measure packed bits: scans, searches against other libraries, recall of signs with rescoring, float queries.

scan: bytes per second of one query over codes that no cache holds, as a share of the read loop's; and of 64 queries at
once, as a share of the loop that only counts bits.
search: queries per second of every contender on the same codes, in batches of several sizes, and whether the distances
are right. Contenders take turns, each in its own pinned process.
recall: what signs and recurrent binary codes find of the exact nearest neighbours, with and without rescoring, and how
much faster than the exact scan.
asymmetric: float queries against signs, by bit planes and by tables of bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from . import data, figures
from .environment import BenchError, Results, progress, require
from .native_library import allocate, build, library
from .peers import BIT_CONTENDERS, BIT_PACKAGES, Bits, Distances, Ids
from .worker import Measure, Worker, measure_once, others

PARTS = ["scan", "search", "recall", "asymmetric"]
SCAN_BITS = [256, 1024, 10_000]
SEARCH_BITS, SEARCH_N, SEARCH_K = [256, 384, 768, 1024], 1_000_000, [10, 1000]
BATCHES, SINGLES = [1, 16, 256], 10  # queries at a time, and how many of them one at a time
CHECKED = 64  # queries compared with the oracle
SLOW = 2.0  # seconds; who takes longer is measured once
K = 10
DATASETS = ["scifact", "wordnet"]
RERANKS, OVERSAMPLES = ["f16", "f32", "int8", None], [2, 5, 10, 20]
MODES = ["single", "batch"]
RECALL_QUERIES, RECALL_BATCH, RECALL_SINGLES = 1000, 256, 32
ASYMMETRIC_DIMS, ASYMMETRIC_N, ASYMMETRIC_BATCHES = [384, 1024], 500_000, [1, 16]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", default=",".join(PARTS), help="which of %(default)s")
    parser.add_argument("--bits", default="", help="only searches of these numbers of bits, comma-separated")
    parser.add_argument("--data", default="", help="only these datasets, comma-separated")
    parser.add_argument("--contenders", default=",".join(BIT_CONTENDERS), help="comma-separated (default: all)")


def run(options: argparse.Namespace) -> None:
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise BenchError(f"--parts: {', '.join(sorted(unknown))} given, expected some of {', '.join(PARTS)}")
    if unknown := set(options.contenders.split(",")) - set(BIT_CONTENDERS):
        expected = ", ".join(BIT_CONTENDERS)
        raise BenchError(f"--contenders: {', '.join(sorted(unknown))} given, expected some of {expected}")
    require("nearfield", "bench")
    options.repeats = options.repeats or (2 if options.quick else 5)
    progress("building the measuring loops")
    build()
    results = Results(options.out, "binary", BIT_PACKAGES, options.quick)
    runs = {"scan": run_scans, "search": run_searches, "recall": run_recalls, "asymmetric": run_asymmetric}
    for part in parts:
        runs[part](options, results)


def random_bits(n: int, bits: int, seed: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 256, (n, bits // 8), np.uint8)


# ----------------------------------------------------------------------------------------------------------------------
# Limits of the machine
# ----------------------------------------------------------------------------------------------------------------------


def limits(size: int) -> Measure:
    """The fastest read loop over `size` bytes, and the fastest loop that counts bits in registers."""
    native = library()
    buffer = allocate(size)
    buffer[:] = 1

    def measure() -> dict[str, Any]:
        # XOR, the count of ones and its addition: three operations for each word.
        operations = max(native.multiply_adds(level, "bits", buffer) for level in native.levels())
        return {"bytes_per_s": native.read_bandwidth(buffer, 0.0), "words_per_s": operations / 3}

    return measure


def share(seconds: float, batch: int, size: int, words: int, limit: dict[str, float]) -> tuple[str, float]:
    """
    Return what bounds a batch of queries over `size` bytes and `words` words of codes, and its share of the time.

    All codes must be read once, and all their words compared with those of every query.
    """
    floors = {"reading": size / limit["bytes_per_s"], "counting": batch * words / limit["words_per_s"]}
    bound = max(floors, key=floors.__getitem__)
    return bound, floors[bound] / seconds


# ----------------------------------------------------------------------------------------------------------------------
# Scans from memory
# ----------------------------------------------------------------------------------------------------------------------


def scan(bits: int, n: int) -> Measure:
    """Search codes for random queries."""
    nearfield = require("nearfield", "bench")
    index, block = nearfield.Flat(bits, "hamming"), 100_000
    for seed, first in enumerate(range(0, n, block)):
        index.add(random_bits(min(block, n - first), bits, seed), threads=1)
    queries = random_bits(64, bits, n)

    def measure(batch: int) -> dict[str, Any]:
        repeats = 3 if batch == 1 else 1
        start = time.perf_counter()
        for _ in range(repeats):
            index.search(queries[:batch], K, threads=1)
        return {"seconds": (time.perf_counter() - start) / repeats}

    return measure


def run_scans(options: argparse.Namespace, results: Results) -> None:
    cores = options.cores[:1]
    for bits in SCAN_BITS:
        n = ((64 << 20) if options.quick else (544 << 20)) // (bits // 8)
        size, words = n * (bits // 8), n * -(-bits // 64)
        with (
            Worker("binary:scan", {"bits": bits, "n": n}, cores) as ours,
            Worker("binary:limits", {"size": size}, cores) as limit,
        ):
            for batch in (1, 64):
                ours.ask(batch=batch)
                rounds = [(ours.ask(batch=batch), limit.ask()) for _ in range(options.repeats)]
                seconds = [answer["seconds"] for answer, _ in rounds]
                shares = [
                    share(s, batch, size, words, limited) for s, (_, limited) in zip(seconds, rounds, strict=True)
                ]
                line = {
                    "measurement": "bit scan",
                    "bits": bits,
                    "n": n,
                    "megabytes": size / 1e6,
                    "batch": batch,
                    "seconds": seconds,
                    "gb_per_s": batch * size / median(seconds) / 1e9,
                    "gword_per_s": batch * words / median(seconds) / 1e9,
                    "read_gb_per_s": median(limited["bytes_per_s"] for _, limited in rounds) / 1e9,
                    "count_gword_per_s": median(limited["words_per_s"] for _, limited in rounds) / 1e9,
                    "limit": shares[0][0],
                    "share": median(part for _, part in shares),
                    "others": others([answer for pair in rounds for answer in pair]),
                }
                results.write(line)
                progress(
                    f"scan {bits:6} bits, {batch:2} queries: {line['gb_per_s']:6.1f} GB/s, {line['gword_per_s']:5.1f} "
                    f"Gword/s, {line['share']:4.0%} of {line['limit']}, others used {line['others']:.2f} CPUs"
                )


# ----------------------------------------------------------------------------------------------------------------------
# Searches
# ----------------------------------------------------------------------------------------------------------------------


def search_data(bits: int, n: int) -> tuple[Bits, Bits]:
    return random_bits(n, bits, 0), random_bits(max(BATCHES), bits, 1)


def nearest(base: Bits, queries: Bits, k: int) -> tuple[Distances, Ids]:
    """Return the k smallest Hamming distances and their ids, ties by lower id, by matrix products of zeros and ones."""
    block = 1 << 16
    wanted = np.unpackbits(queries, axis=1).astype(np.float32)
    distances = np.empty((len(queries), len(base)), np.int32)
    for first in range(0, len(base), block):
        given = np.unpackbits(base[first : first + block], axis=1).astype(np.float32)
        # Whole numbers below 2^24: exact.
        ones = wanted.sum(axis=1)[:, np.newaxis] + given.sum(axis=1)
        distances[:, first : first + block] = ones - 2 * (wanted @ given.T)
    ids = np.empty((len(queries), k), np.int64)
    for i, row in enumerate(distances):
        near = np.flatnonzero(row <= np.partition(row, k - 1)[k - 1])
        ids[i] = near[np.argsort(row[near], kind="stable")[:k]]
    return np.take_along_axis(distances, ids, axis=1).astype(np.int64), ids


def search_truth(bits: int, n: int, file: str) -> Measure:
    """Write the right answers to the first queries."""
    base, queries = search_data(bits, n)

    def measure() -> dict[str, Any]:
        distances, ids = nearest(base, queries[:CHECKED], max(SEARCH_K))
        np.savez(file, distances=distances, ids=ids)
        return {}

    return measure


def contender(name: str, bits: int, n: int, file: str) -> Measure:
    """Set up one contender, to answer queries in batches."""
    base, queries = search_data(bits, n)
    index = BIT_CONTENDERS[name](base, 1)

    def measure(k: int, batch: int, check: bool) -> dict[str, Any]:
        count = max(batch, SINGLES)
        found = []
        start = time.perf_counter()
        for first in range(0, count - batch + 1, batch):
            found.append(index.search(queries[first : first + batch], k))
        answer = {"queries": len(found) * batch, "seconds": time.perf_counter() - start}
        if check:
            right = np.load(file)
            for what, column in (("distances", 0), ("ids", 1)):
                given = np.vstack([one[column] for one in found])[:CHECKED]
                answer[f"wrong_{what}"] = int((given != right[what][: len(given), :k]).sum())
            answer["checked"] = given.size
        return answer

    return measure


def run_searches(options: argparse.Namespace, results: Results) -> None:
    cores = options.cores[:1]
    names = options.contenders.split(",")
    n = SEARCH_N // 10 if options.quick else SEARCH_N
    for bits in SEARCH_BITS:
        if options.bits and str(bits) not in options.bits.split(","):
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            shape = {"bits": bits, "n": n, "file": str(Path(folder) / "right.npz")}
            measure_once("binary:search_truth", shape, options.cores)
            workers = {
                name: stack.enter_context(Worker("binary:contender", {"name": name, **shape}, cores)) for name in names
            }
            limit = stack.enter_context(Worker("binary:limits", {"size": n * bits // 8}, cores))
            for k in SEARCH_K:
                for batch in BATCHES:
                    line = race(workers, limit, options.repeats, bits, n, k, batch)
                    results.write(line)
                    rates = ", ".join(f"{name} {one['queries_per_s']:.1f}" for name, one in line["contenders"].items())
                    wrong = sum(one["wrong_distances"] for one in line["contenders"].values())
                    progress(
                        f"search {bits:4} bits, k {k:4}, {batch:3} at a time: {rates} queries/s; "
                        f"{line.get('ratio', 0):.2f} x {line.get('best_peer')}, {line.get('share', 0):.0%} of "
                        f"{line.get('limit')}, {wrong} distances wrong, others used {line['others']:.2f} CPUs"
                    )


def race(
    workers: dict[str, Worker], limit: Worker, repeats: int, bits: int, n: int, k: int, batch: int
) -> dict[str, Any]:
    """Let contenders take turns."""
    checks = {name: worker.ask(k=k, batch=batch, check=True) for name, worker in workers.items()}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    limited = []
    for repeat in range(repeats):
        limited.append(limit.ask())
        # Every other turn backwards, so that a drift of the machine meets all alike.
        for name in workers if repeat % 2 == 0 else reversed(workers):
            if checks[name]["seconds"] < SLOW:
                answers[name].append(workers[name].ask(k=k, batch=batch, check=False))
    contenders = {}
    for name, check in checks.items():
        seconds = [answer["seconds"] for answer in answers[name]] or [check["seconds"]]
        contenders[name] = {
            "queries_per_s": check["queries"] / median(seconds),
            "seconds": seconds,
            **{key: check[key] for key in ("queries", "checked", "wrong_distances", "wrong_ids")},
        }
    line = {
        "measurement": "bit search",
        "bits": bits,
        "n": n,
        "k": k,
        "batch": batch,
        "contenders": contenders,
        "read_gb_per_s": median(one["bytes_per_s"] for one in limited) / 1e9,
        "count_gword_per_s": median(one["words_per_s"] for one in limited) / 1e9,
        "others": others([answer for of_one in answers.values() for answer in of_one]),
    }
    peers = {name: one for name, one in contenders.items() if name != "nearfield"}
    if "nearfield" in contenders and peers:
        best = max(peers, key=lambda name: peers[name]["queries_per_s"])
        ours = contenders["nearfield"]
        line["best_peer"] = best
        # Where the peer is a slow one, both lists hold what there is.
        line["ratio"] = median(b / a for a, b in zip(ours["seconds"], peers[best]["seconds"], strict=False))
        shares = [
            share(s * batch / ours["queries"], batch, n * bits // 8, n * bits // 64, one)
            for s, one in zip(ours["seconds"], limited, strict=True)
        ]
        line |= {"limit": shares[0][0], "share": median(part for _, part in shares)}
    return line


# ----------------------------------------------------------------------------------------------------------------------
# Recall of signs
# ----------------------------------------------------------------------------------------------------------------------

# Bits per dimension, how queries are scored, and the rotation before the signs. Rotations are tried with one way of
# rescoring only.
CODES: list[dict[str, Any]] = [
    *({"bits": 1, "query": query, "rotation": None} for query in ("code", "int2", "int4", "float")),
    *({"bits": bits, "query": query, "rotation": None} for bits in (2, 4) for query in ("code", "int4")),
]
ROTATED: list[dict[str, Any]] = [
    {"bits": 1, "query": "code", "rotation": "random"},
    *({"bits": bits, "query": "code", "rotation": "learned"} for bits in (1, 2, 4)),
]


def recall_truth(dataset: str, file: str) -> Measure:
    """Write the right answers."""
    loaded = data.load(dataset)

    def measure() -> dict[str, Any]:
        np.save(file, data.oracle(loaded.base, loaded.queries[:RECALL_QUERIES], loaded.metric, K))
        return {}

    return measure


def rescored(dataset: str, code: dict[str, Any] | None, rerank: str | None, screen: bool, file: str) -> Measure:
    """Set up an index with a code, or the exact one without."""
    nearfield = require("nearfield", "bench")
    loaded = data.load(dataset)
    start = time.perf_counter()
    if code is None:
        index = nearfield.Flat(loaded.base.shape[1], loaded.metric, screen=screen)
    else:
        options = {"query": code["query"], "rotation": code["rotation"]}
        bits = code["bits"]
        codec = nearfield.Sign(**options) if bits == 1 else nearfield.RecurrentBinary(bits=bits, **options)
        index = nearfield.Flat(loaded.base.shape[1], loaded.metric, codec, rerank)
    index.add(loaded.base, threads=1)
    build_seconds = time.perf_counter() - start
    queries = np.ascontiguousarray(loaded.queries[:RECALL_QUERIES])
    singles = queries[:RECALL_SINGLES, np.newaxis]
    batches = [queries[:RECALL_BATCH]]

    def seconds(some: Any, oversample: float | None) -> float:
        start = time.perf_counter()
        for one in some:
            index.search(one, K, threads=1, oversample=oversample)
        return (time.perf_counter() - start) / sum(len(one) for one in some)

    def measure(oversample: float | None, check: bool) -> dict[str, Any]:
        if check:
            right, found = np.load(file), index.search(queries, K, threads=1, oversample=oversample).ids
            hits = [len(np.intersect1d(a, b)) for a, b in zip(found, right, strict=True)]
            bytes_per_vector = index.nbytes / len(index)
            return {"recall": float(np.mean(hits)) / K, "bytes": bytes_per_vector, "build_s": build_seconds}
        return {"single_s": seconds(singles, oversample), "batch_s": seconds(batches, oversample)}

    return measure


def run_recalls(options: argparse.Namespace, results: Results) -> None:
    for dataset in DATASETS:
        if options.data and dataset not in options.data.split(","):
            continue
        n, dim = data.load(dataset).base.shape
        line = {"measurement": "recall", "dataset": dataset, "n": n, "dim": dim, "k": K}
        cores = options.cores[:1]
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            file = str(Path(folder) / "right.npy")
            measure_once("binary:recall_truth", {"dataset": dataset, "file": file}, options.cores)
            exact = {}
            for name, screen in (("plain", False), ("screened", True)):
                arguments: dict[str, Any] = {
                    "dataset": dataset,
                    "code": None,
                    "rerank": None,
                    "screen": screen,
                    "file": file,
                }
                exact[name] = stack.enter_context(Worker("binary:rescored", arguments, cores))
                checked = exact[name].ask(oversample=None, check=True)
                rounds = [exact[name].ask(oversample=None, check=False) for _ in range(options.repeats)]
                speed = {f"{mode}_queries_per_s": 1 / median(one[f"{mode}_s"] for one in rounds) for mode in MODES}
                facts = {"exact": name, "recall": checked["recall"], "bytes": checked["bytes"]}
                results.write({**line, **facts, **speed, "others": others(rounds)})
            combinations = [(code, rerank) for code in CODES for rerank in RERANKS]
            combinations += [(code, "f16") for code in ROTATED]
            for code, rerank in combinations[:: 5 if options.quick else 1]:
                arguments = {"dataset": dataset, "code": code, "rerank": rerank, "screen": True, "file": file}
                oversamples = [None] if rerank is None else OVERSAMPLES
                with Worker("binary:rescored", arguments, cores) as ours:
                    for one in recalls(ours, exact, oversamples, options.repeats):
                        one = {**line, **code, "rerank": rerank, **one}
                        results.write(one)
                        progress(
                            f"{dataset:7} {code['bits']} bits, query {code['query']:5}, rotation {code['rotation']}, "
                            f"rerank {rerank}, oversample {one['oversample']}: recall {one['recall']:.3f}, "
                            f"{one['single_queries_per_s']:.0f} queries/s one by one ({one['single_x_plain']:.1f} x "
                            f"plain, {one['single_x_screened']:.1f} x screened), {one['batch_queries_per_s']:.0f} in a "
                            f"batch ({one['batch_x_plain']:.1f} x, {one['batch_x_screened']:.1f} x), "
                            f"{one['bytes']:.0f} bytes, others used {one['others']:.2f} CPUs"
                        )


def recalls(
    ours: Worker, exact: dict[str, Worker], oversamples: Sequence[float | None], repeats: int
) -> list[dict[str, Any]]:
    """Let an index take turns with the exact ones."""
    checks = [ours.ask(oversample=oversample, check=True) for oversample in oversamples]
    answers: list[list[dict[str, Any]]] = [[] for _ in oversamples]
    scans: dict[str, list[dict[str, Any]]] = {name: [] for name in exact}
    for _ in range(repeats):
        for name, worker in exact.items():
            scans[name].append(worker.ask(oversample=None, check=False))
        for oversample, some in zip(oversamples, answers, strict=True):
            some.append(ours.ask(oversample=oversample, check=False))
    busy = others([answer for some in (*answers, *scans.values()) for answer in some])
    lines = []
    for oversample, check, some in zip(oversamples, checks, answers, strict=True):
        line = {"oversample": oversample, **check, "others": busy}
        del line["others_s"], line["watched_s"]
        for mode in MODES:
            seconds = [one[f"{mode}_s"] for one in some]
            line[f"{mode}_queries_per_s"] = 1 / median(seconds)
            for name, scanned in scans.items():
                ratios = (one[f"{mode}_s"] / s for one, s in zip(scanned, seconds, strict=True))
                line[f"{mode}_x_{name}"] = median(ratios)
        lines.append(line)
    return lines


# ----------------------------------------------------------------------------------------------------------------------
# Float queries against signs
# ----------------------------------------------------------------------------------------------------------------------


def asymmetric(way: str, dim: int, n: int) -> Measure:
    """Search signs for float queries: by bit planes, as the library does, or by tables of bytes."""
    nearfield, native = require("nearfield", "bench"), library()
    codes = random_bits(n, dim, 0)
    queries = np.random.default_rng(1).standard_normal((max(ASYMMETRIC_BATCHES), dim), np.float32)
    if way == "planes":
        index = nearfield.Flat(dim, "ip", nearfield.Sign(query="float"))
        index.add(codes, threads=1)

    def search(some: data.Floats) -> Any:
        if way == "planes":
            return index.search(some, K, threads=1).scores
        return np.array([native.search_byte_tables(query, codes, K)[1] for query in some])

    def measure(batch: int) -> dict[str, Any]:
        start = time.perf_counter()
        scores = [search(queries[first : first + batch]) for first in range(0, len(queries), batch)]
        return {"seconds": (time.perf_counter() - start) / len(queries), "scores": np.vstack(scores).tolist()}

    return measure


def run_asymmetric(options: argparse.Namespace, results: Results) -> None:
    n = ASYMMETRIC_N // 10 if options.quick else ASYMMETRIC_N
    cores = options.cores[:1]
    for dim in ASYMMETRIC_DIMS:
        with contextlib.ExitStack() as stack:
            workers = {
                way: stack.enter_context(Worker("binary:asymmetric", {"way": way, "dim": dim, "n": n}, cores))
                for way in ("planes", "tables")
            }
            for batch in ASYMMETRIC_BATCHES:
                first = {way: worker.ask(batch=batch) for way, worker in workers.items()}
                if not np.allclose(first["planes"]["scores"], first["tables"]["scores"], rtol=1e-4):
                    raise BenchError(f"asymmetric {dim}: bit planes and byte tables do not agree")
                rounds = [
                    {way: worker.ask(batch=batch) for way, worker in workers.items()} for _ in range(options.repeats)
                ]
                line = {
                    "measurement": "asymmetric",
                    "dim": dim,
                    "n": n,
                    "k": K,
                    "batch": batch,
                    **{f"{way}_queries_per_s": 1 / median(one[way]["seconds"] for one in rounds) for way in workers},
                    "ratio": median(one["tables"]["seconds"] / one["planes"]["seconds"] for one in rounds),
                    "others": others([answer for one in rounds for answer in one.values()]),
                }
                results.write(line)
                progress(
                    f"asymmetric {dim:4}, {batch:2} at a time: bit planes {line['planes_queries_per_s']:.1f}, byte "
                    f"tables {line['tables_queries_per_s']:.1f} queries/s, {line['ratio']:.2f} x, others used "
                    f"{line['others']:.2f} CPUs"
                )


# ----------------------------------------------------------------------------------------------------------------------
# Figure
# ----------------------------------------------------------------------------------------------------------------------


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw recall against speed, a curve for each code, with its candidates scored again in float16."""
    datasets = [name for name in DATASETS if any(line["dataset"] == name for line in lines)]
    ticker = require("matplotlib.ticker", "plot")
    figure, panels = figures.start("binary_recall", len(datasets))
    colours = {1: "#1f77b4", 2: "#2ca02c", 4: "#d62728"}
    for panel, dataset in zip(panels, datasets, strict=True):
        measured = [line for line in lines if line["dataset"] == dataset]
        for code in [*CODES, {"bits": 1, "query": "code", "rotation": "learned"}]:
            points = [
                line
                for line in measured
                if "exact" not in line and line["rerank"] == "f16" and all(line[key] == code[key] for key in code)
            ]
            styles = {"code": "-", "int2": "-.", "int4": "--", "float": (0, (1, 4))}
            style = ":" if code["rotation"] else styles[code["query"]]
            what = f"{code['bits']} bit{'s' if code['bits'] > 1 else ''}, query as {code['query']}"
            panel.plot(
                [line["single_queries_per_s"] for line in points],
                [line["recall"] for line in points],
                linestyle=style,
                marker="o",
                markersize=4,
                linewidth=1.3,
                color=colours[code["bits"]],
                label=what + (", learned rotation" if code["rotation"] else ""),
            )
            typical = [line for line in points if line["oversample"] == 10]
            panel.plot(
                [line["single_queries_per_s"] for line in typical],
                [line["recall"] for line in typical],
                "o",
                markersize=8,
                fillstyle="none",
                color=colours[code["bits"]],
            )
        for line in measured:
            if "exact" in line:
                panel.plot(
                    line["single_queries_per_s"],
                    line["recall"],
                    "*" if line["exact"] == "plain" else "^",
                    markersize=9,
                    color="black",
                    label=f"exact, {'8-bit screen' if line['exact'] == 'screened' else 'plain scan'}",
                )
        n, dim = measured[0]["n"], measured[0]["dim"]
        panel.set_title(f"{dataset}, {n:,} x {dim}")
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.set_xlabel("queries per second, one by one on one core")
    panels[0].set_ylabel(f"recall@{K}")
    title = f"candidates scored again: {', '.join(map(str, OVERSAMPLES))} x {K}\n(ring: 10 x {K})"
    panels[-1].legend(frameon=False, loc="lower left", fontsize=8, title=title, title_fontsize=8, alignment="left")
    figures.save(figure, path)
