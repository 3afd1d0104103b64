"""
Measure exact search: against other libraries, on hard data, against memory bandwidth, and from a mapped file.

search: queries per second of every contender on the same data, one query at a time and in a batch, and how many of its
ids differ from exact arithmetic. Contenders take turns, each in its own pinned process.
hard: with the 8-bit screen and without, on data made against it.
scan: bytes per second of plain scans that no cache holds, as a share of the read loop's.
load: opening a file of a gigabyte by mapping it, and the first query.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from . import data
from .environment import BenchError, Results, progress, require
from .native_library import allocate, build, library
from .peers import CONTENDERS, PACKAGES
from .worker import Measure, Worker, measure_once, others

K = 10
BATCH, SINGLE = 1000, 100  # queries per measurement
PARTS = ["search", "hard", "scan", "load"]
SEARCHES = [("wordnet", "ip"), ("wordnet", "l2"), ("mnist", "l2"), ("glove", "ip")]
HARD = [(name, metric) for name in ("norms", "outlier", "equal", "gaussian") for metric in ("ip", "l2")]
HARD_QUERIES = 100  # compared with the oracle
ELEMENT_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1, "uint8": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", default=",".join(PARTS), help="which of %(default)s")
    parser.add_argument("--data", default="", help="only these datasets, comma-separated")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="comma-separated (default: all)")


def run(options: argparse.Namespace) -> None:
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise BenchError(f"--parts: {', '.join(sorted(unknown))} given, expected some of {', '.join(PARTS)}")
    if unknown := set(options.contenders.split(",")) - set(CONTENDERS):
        raise BenchError(f"--contenders: {', '.join(sorted(unknown))} given, expected some of {', '.join(CONTENDERS)}")
    require("nearfield", "bench")
    options.repeats = options.repeats or (3 if options.quick else 7)
    results = Results(options.out, "flat", PACKAGES, options.quick)
    for part in parts:
        {"search": run_searches, "hard": run_hard, "scan": run_scans, "load": run_load}[part](options, results)


# ----------------------------------------------------------------------------------------------------------------------
# Searches
# ----------------------------------------------------------------------------------------------------------------------


def truth(dataset: str, metric: str, count: int, file: str) -> Measure:
    """Write the right answers to the first `count` queries."""
    loaded = data.load(dataset)

    def measure() -> dict[str, Any]:
        np.save(file, data.oracle(loaded.base, loaded.queries[:count], metric, K))
        return {}

    return measure


def contender(name: str, dataset: str, metric: str, threads: int, batched: bool, count: int) -> Measure:
    """
    Set up one contender to answer the first `count` queries, in one batch or one by one.

    The count is the same for all contenders: throughput grows with the batch, so batches of different sizes would not
    compare.
    """
    loaded = data.load(dataset)
    chosen = CONTENDERS[name]
    start = time.perf_counter()
    index = chosen.adapter(loaded.base, metric, threads, **chosen.options)
    build_seconds = time.perf_counter() - start
    queries = np.ascontiguousarray(loaded.queries[:count])

    def search() -> float:
        start = time.perf_counter()
        if batched:
            index.search(queries, K)
        else:
            for query in queries[:, None]:
                index.search(query, K)
        return time.perf_counter() - start

    def measure(question: str, file: str = "") -> dict[str, Any]:
        if question == "time":
            return {"seconds": search()}
        # The way that is timed is the way that is checked; it also warms up.
        found = index.search(queries, K) if batched else np.vstack([index.search(q, K) for q in queries[:, None]])
        right = np.load(file)[: len(queries)]
        wrong = int((found[: len(right)] != right).sum())
        return {"queries": len(queries), "build_s": build_seconds, "checked": right.size, "wrong_ids": wrong}

    return measure


def race(
    options: argparse.Namespace,
    results: Results,
    measurement: str,
    dataset: str,
    metric: str,
    modes: list[tuple[bool, int]],
    names: list[str],
    reference: str,
    checked: int,
) -> None:
    """Let contenders take turns on one dataset, for each mode (batched, threads)."""
    shape = data.load(dataset).base.shape
    single, batch = (10, 100) if options.quick else (SINGLE, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        right = str(Path(folder) / "right.npy")
        measure_once(
            "flat:truth", {"dataset": dataset, "metric": metric, "count": checked, "file": right}, options.cores
        )
        for batched, threads in modes:
            line = {
                "measurement": measurement,
                "dataset": dataset,
                "metric": metric,
                "n": shape[0],
                "dim": shape[1],
                "k": K,
                "mode": "batch" if batched else "single",
                "threads": threads,
            }
            cores = options.cores[:threads]
            with contextlib.ExitStack() as stack:
                workers = {}
                for name in names:
                    arguments = {
                        "name": name,
                        "dataset": dataset,
                        "metric": metric,
                        "threads": threads,
                        "batched": batched,
                        "count": batch if batched else single,
                    }
                    worker = Worker("flat:contender", arguments, cores, CONTENDERS[name].environment)
                    workers[name] = stack.enter_context(worker)
                lines = {name: {**line, "contender": name} for name in names}
                for name, worker in workers.items():
                    lines[name] |= worker.ask(question="check", file=right)
                answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
                for repeat in range(options.repeats):
                    # Every other turn backwards, so that a drift of the machine meets all alike.
                    for name in names if repeat % 2 == 0 else reversed(names):
                        answers[name].append(workers[name].ask(question="time"))
            for name, one in lines.items():
                one["seconds"] = [answer["seconds"] for answer in answers[name]]
            rates = {name: [one["queries"] / s for s in one["seconds"]] for name, one in lines.items()}
            busy = others([answer for of_one in answers.values() for answer in of_one])
            for name, one in lines.items():
                one["others"] = busy
                one["queries_per_s"] = median(rates[name])
                if reference in rates:
                    one["reference"] = reference
                    one["ratio"] = median(a / b for a, b in zip(rates[name], rates[reference], strict=True))
                results.write(one)
                progress(
                    f"{dataset:8} {metric:3} {one['mode']:6} {threads} thread(s) {name:22} "
                    f"{one['queries_per_s']:9.1f} queries/s {one.get('ratio', 0):6.2f} x {reference}, "
                    f"{one['wrong_ids']} of {one['checked']} ids differ, others used {busy:.2f} CPUs"
                )


def modes(options: argparse.Namespace) -> list[tuple[bool, int]]:
    """One query at a time on one thread; batches on one and, where there are that many cores, two."""
    return [(False, 1), (True, 1)] + ([(True, 2)] if len(options.cores) > 1 else [])


def run_searches(options: argparse.Namespace, results: Results) -> None:
    for dataset, metric in SEARCHES:
        if options.data and dataset not in options.data.split(","):
            continue
        names = options.contenders.split(",")
        checked = 100 if options.quick else BATCH
        race(options, results, "search", dataset, metric, modes(options), names, "faiss", checked)


def run_hard(options: argparse.Namespace, results: Results) -> None:
    names = ["nearfield", "nearfield plain"]
    for dataset, metric in HARD:
        if options.data and dataset not in options.data.split(","):
            continue
        race(options, results, "hard", dataset, metric, modes(options)[:2], names, names[1], HARD_QUERIES)


# ----------------------------------------------------------------------------------------------------------------------
# Scans from memory
# ----------------------------------------------------------------------------------------------------------------------


def reading(size: int) -> Measure:
    """The fastest read loop over `size` bytes."""
    native = library()
    buffer = allocate(size)
    buffer[:] = 1

    def measure() -> dict[str, Any]:
        return {"bytes_per_s": native.read_bandwidth(buffer, 0.0)}

    return measure


def scan(codec: str, metric: str, dim: int, size: int) -> Measure:
    """A plain scan of `size` bytes of vectors, one query after the other."""
    nearfield = require("nearfield", "bench")
    rng = np.random.default_rng(0)
    index = nearfield.Flat(dim, metric, codec, screen=False)
    n, block = size // (dim * ELEMENT_BYTES[codec]), 10_000
    for first in range(0, n, block):
        rows = min(block, n - first)
        if codec in ("int8", "uint8"):
            index.add(rng.integers(0, 100, (rows, dim), np.uint8), threads=1)
        else:
            index.add(rng.standard_normal((rows, dim), np.float32), threads=1)
    queries = rng.standard_normal((3, dim), np.float32)
    index.search(queries[0], K, threads=1)

    def measure() -> dict[str, Any]:
        start = time.perf_counter()
        for query in queries:
            index.search(query, K, threads=1)
        seconds = (time.perf_counter() - start) / len(queries)
        # Only elements count as bytes, not the scale that 8-bit rows carry.
        return {"n": n, "bytes": n * dim * ELEMENT_BYTES[codec], "seconds": seconds}

    return measure


def run_scans(options: argparse.Namespace, results: Results) -> None:
    progress("building the measuring loops")
    build()
    dim, size = 384, (64 << 20) if options.quick else (544 << 20)
    cores = options.cores[:1]
    for codec in ELEMENT_BYTES:
        for metric in ("ip", "l2", "cosine"):
            arguments = {"codec": codec, "metric": metric, "dim": dim, "size": size}
            with Worker("flat:scan", arguments, cores) as ours, Worker("flat:reading", {"size": size}, cores) as loop:
                ours.ask()
                answers = [(ours.ask(), loop.ask()) for _ in range(options.repeats)]
            rounds = [(one, read["bytes_per_s"]) for one, read in answers]
            rates = [one["bytes"] / one["seconds"] for one, _ in rounds]
            line = {
                "measurement": "scan",
                "codec": codec,
                "metric": metric,
                "dim": dim,
                "n": rounds[0][0]["n"],
                "megabytes": rounds[0][0]["bytes"] / 1e6,
                "seconds": [one["seconds"] for one, _ in rounds],
                "gb_per_s": median(rates) / 1e9,
                "read_gb_per_s": median(read for _, read in rounds) / 1e9,
                "others": others([answer for pair in answers for answer in pair]),
                "share": median(rate / read for rate, (_, read) in zip(rates, rounds, strict=True)),
            }
            results.write(line)
            progress(
                f"scan {codec:5} {metric:6} {line['megabytes']:6.0f} MB {line['gb_per_s']:6.2f} GB/s, "
                f"read loop {line['read_gb_per_s']:6.2f} GB/s, share {line['share']:.2f}"
            )


# ----------------------------------------------------------------------------------------------------------------------
# A mapped file
# ----------------------------------------------------------------------------------------------------------------------


def saving(file: str, dim: int, n: int, screen: bool) -> Measure:
    nearfield = require("nearfield", "bench")

    def measure() -> dict[str, Any]:
        rng = np.random.default_rng(0)
        index = nearfield.Flat(dim, "ip", screen=screen)
        for first in range(0, n, 10_000):
            index.add(rng.standard_normal((min(10_000, n - first), dim), np.float32))
        start = time.perf_counter()
        index.save(file)
        return {"save_s": time.perf_counter() - start, "file_mb": os.path.getsize(file) / 1e6}

    return measure


def loading(file: str, dim: int) -> Measure:
    """Open the file as a fresh process does, and search."""
    nearfield = require("nearfield", "bench")
    queries = np.random.default_rng(1).standard_normal((6, dim), np.float32)

    def measure() -> dict[str, Any]:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        index = nearfield.load(file, mmap=True)
        loaded = time.perf_counter()
        index.search(queries[0], K)
        first = time.perf_counter()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        later = []
        for query in queries[1:]:
            begin = time.perf_counter()
            index.search(query, K)
            later.append(time.perf_counter() - begin)
        return {
            "load_ms": (loaded - start) * 1e3,
            "first_ms": (first - loaded) * 1e3,
            "later_ms": median(later) * 1e3,
            "faults": faults,
        }

    return measure


def paging(file: str) -> Measure:
    """What a page fault on the file costs, though the file is in the page cache: map it and touch every page."""

    def measure() -> dict[str, Any]:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            pages = np.frombuffer(mapped, np.uint8)[:: mmap.PAGESIZE]
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            start = time.perf_counter()
            int(pages.max())
            seconds = time.perf_counter() - start
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
            del pages
        return {"page_in_ms": seconds * 1e3, "faults": faults}

    return measure


def saved_indexes(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Save an index of about a gigabyte, with the screen and without, and yield its file."""
    dim, gigabyte = 384, (100 << 20) if options.quick else 10**9
    n = gigabyte // (dim * 4)
    for screen in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "index.nearfield")
            arguments = {"file": file, "dim": dim, "n": n, "screen": screen}
            saved = measure_once("flat:saving", arguments, options.cores)
            yield file, {"screen": screen, "dim": dim, "n": n, **saved}


def run_load(options: argparse.Namespace, results: Results) -> None:
    cores = options.cores[:1]
    for file, line in saved_indexes(options):
        rounds = [
            (
                measure_once("flat:loading", {"file": file, "dim": line["dim"]}, cores),
                measure_once("flat:paging", {"file": file}, cores),
            )
            for _ in range(options.repeats)
        ]
        of = {key: median(one[key] for one, _ in rounds) for key in ("load_ms", "first_ms", "later_ms", "faults")}
        per_fault = median(page["page_in_ms"] / max(1, page["faults"]) for _, page in rounds)
        line = {
            "measurement": "load",
            **line,
            **of,
            "file_page_in_ms": median(page["page_in_ms"] for _, page in rounds),
            "page_in_ms": per_fault * of["faults"],
            "others": others([answer for pair in rounds for answer in pair]),
        }
        line["beyond_page_in_ms"] = line["load_ms"] + line["first_ms"] - line["page_in_ms"]
        results.write(line)
        progress(
            f"load screen={line['screen']} {line['file_mb']:.0f} MB: load {line['load_ms']:.1f} ms, first query "
            f"{line['first_ms']:.1f} ms (later {line['later_ms']:.1f} ms), {line['faults']:.0f} page faults worth "
            f"{line['page_in_ms']:.1f} ms, beyond them {line['beyond_page_in_ms']:.1f} ms"
        )
