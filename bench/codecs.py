"""
Measure quantized vectors: scans against other libraries, whole searches, compression, memory, declared recall.

scan: recall and speed together, of every codec and of others' at about the same bytes, and how fast vectors are coded.
Contenders take turns, each in its own pinned process.
search: each codec with its candidates scored again, as many as a recall of 0.99 takes, beside the exact searches.
compression: nDCG at 48 bytes for a vector, and what learning from queries brings.
projection: recall after a projection that knows the queries, and one that does not.
memory: what an index says it takes against what the process grows by, and the peak while it is filled.
tune: the recall that was asked for against the one that is reached, at what speed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import numpy.typing as npt

from . import data, figures
from .environment import BenchError, Results, progress, require
from .peers import CODE_CONTENDERS, CODE_PACKAGES, CODECS
from .worker import Measure, Worker, measure_once, others

Line = dict[str, Any]

K = 10
PARTS = ["scan", "search", "compression", "projection", "memory", "tune"]
DATASETS = ["wordnet", "glove", "mnist"]
COSINE = ["mnist"]  # scanned under cosine too: one of the other libraries does not know l2
REPEATS = {"scan": 5, "search": 3, "tune": 3}
QUERIES, SEARCH_QUERIES, TUNE_QUERIES, ROWS = 1000, 500, 2000, 1 << 40  # at most
QUICK_QUERIES, QUICK_ROWS = 200, 20_000
MODES = {"single": 1, "batch": 64}  # queries at a time
# For each turn: calls at least and at most, and seconds after which it ends.
LEAST = {"single": 30, "batch": 2}
MOST, BUDGET = 200, 0.15
ADDED = 5  # turns in which vectors are added

# Who takes turns: codecs of this library, and others at about the same bytes.
RACES = [
    (["sq8", "lvq8"], ["faiss SQ8"]),
    (["sq6"], ["faiss SQ6"]),
    (["sq4"], ["faiss SQ4"]),
    (["lloyd4", "rabitq4", "lvq4"], ["turbovec 4 bit"]),
    (["lloyd2", "rabitq2"], ["turbovec 2 bit"]),
    (["pq4, dim/2"], ["faiss PQ fast-scan, dim/2"]),
    (["pq4, dim/4"], ["faiss PQ fast-scan, dim/4"]),
    (["rabitq1"], ["faiss RaBitQ fast-scan", "faiss RaBitQ fast-scan, rotated"]),
]

WANTED, CANDIDATES = 0.99, 20_000  # recall of whole searches, and candidates at most
EXACT = {"plain": False, "screened": True}  # whether with the 8-bit screen
ALONE = ["sq8", "lvq4x8", "rabitq8"]  # also without scoring again
RERANKED = ["sq8", "sq6", "sq4", "lvq8", "lvq4", "lvq4x8", "pq8, dim/8", "pq4, dim/4", "pq4, dim/2"]
RERANKED += ["rabitq1", "rabitq2", "rabitq4", "lloyd4", "lloyd2", "sign", "pca, sq8", "pca, lloyd4"]

SPLITS = 3  # of the queries into halves
PROJECTED_DIMS, OVERSAMPLES = [96, 160, 256], [1, 2, 5]
STORED = ["sq8", "sq4", "lvq4x8", "pq4, dim/4", "rabitq1", "rabitq4", "lloyd4"]
COPIES = 4  # of the vectors, which the growth of the smallest codes is measured by
# Codecs, and whether they are tuned on queries.
TUNED = [(codec, True) for codec in ("sq4", "pq4, dim/4", "rabitq1", "lloyd4")]
TUNED += [("rabitq1", False)]
RECALLS = [0.90, 0.95, 0.99]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", default=",".join(PARTS), help="which of %(default)s")
    parser.add_argument("--data", default="", help="only these datasets, or others, comma-separated")
    parser.add_argument("--codecs", default="", help="only these codecs, separated by semicolons")


def run(options: argparse.Namespace) -> None:
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise BenchError(f"--parts: {', '.join(sorted(unknown))} given, expected some of {', '.join(PARTS)}")
    options.codecs = [name.strip() for name in options.codecs.split(";")] if options.codecs else list(CODECS)
    if unknown := set(options.codecs) - set(CODECS):
        raise BenchError(f"--codecs: {'; '.join(sorted(unknown))} given, expected some of {'; '.join(CODECS)}")
    require("nearfield", "bench")
    results = Results(options.out, "codecs", CODE_PACKAGES, options.quick)
    runs = {"scan": run_scans, "search": run_searches, "compression": run_compression}
    runs |= {"projection": run_projections, "memory": run_memory, "tune": run_tune}
    for part in parts:
        repeats = options.repeats or (2 if options.quick else REPEATS.get(part))
        runs[part](argparse.Namespace(**{**vars(options), "repeats": repeats}), results)


# ----------------------------------------------------------------------------------------------------------------------
# What the parts have in common
# ----------------------------------------------------------------------------------------------------------------------


def shapes(options: argparse.Namespace, queries: int = QUERIES) -> Iterator[Line]:
    """The datasets that are asked for, as arguments of `opened`."""
    for name in options.data.split(",") if options.data else DATASETS:
        yield {
            "dataset": name,
            "metric": data.load(name).metric,
            "rows": QUICK_ROWS if options.quick else ROWS,
            "queries": QUICK_QUERIES if options.quick else queries,
        }


def opened(dataset: str, metric: str, rows: int, queries: int) -> data.Dataset:
    loaded = data.load(dataset)
    return data.Dataset(dataset, loaded.base[:rows], np.array(loaded.queries[:queries]), metric)


def header(measurement: str, shape: Line) -> Line:
    """What every line about a dataset says."""
    n, dim = opened(**shape).base.shape
    return {
        "measurement": measurement,
        "dataset": shape["dataset"],
        "metric": shape["metric"],
        "n": n,
        "dim": dim,
        "k": K,
    }


def truth(shape: Line, file: str) -> Measure:
    """Write the right answers."""
    loaded = opened(**shape)

    def measure() -> Line:
        np.save(file, data.oracle(loaded.base, loaded.queries, loaded.metric, K))
        return {}

    return measure


@contextlib.contextmanager
def right_answers(shape: Line, cores: list[int]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "right.npy")
        measure_once("codecs:truth", {"shape": shape, "file": file}, cores)
        yield file


def in_batches(search: Callable[[data.Floats], Any], queries: data.Floats) -> npt.NDArray[np.int64]:
    size = MODES["batch"]
    return np.vstack([search(queries[first : first + size]) for first in range(0, len(queries), size)])


def speeds(search: Callable[[data.Floats], Any], queries: data.Floats) -> Line:
    """Seconds that a query takes, one by one and in batches: medians of a turn."""
    found = {}
    for query in queries[:3, np.newaxis]:  # others had the caches meanwhile
        search(query)
    for mode, size in MODES.items():
        taken: list[float] = []
        for first in itertools.cycle(range(0, len(queries) - size + 1, size)):
            start = time.perf_counter()
            search(queries[first : first + size])
            taken.append(time.perf_counter() - start)
            if len(taken) >= MOST or (len(taken) >= LEAST[mode] and sum(taken) > BUDGET):
                break
        found[f"{mode}_s"] = median(taken) / size
    return found


def fewest(recall: Callable[[int], float], wanted: float, most: int) -> int:
    """How many candidates a recall takes, to about two percent; `most` where it is not reached."""
    low, high = 0, K
    while recall(high) < wanted:
        if high >= most:
            return most
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 50) and high > K:
        middle = (low + high) // 2
        if recall(middle) >= wanted:
            high = middle
        else:
            low = middle
    return high


def turns(workers: dict[str, Worker], repeats: int, **question: Any) -> dict[str, list[Line]]:
    """Ask all workers in turn, every other time backwards: a drift of the machine meets all alike."""
    answers: dict[str, list[Line]] = {name: [] for name in workers}
    for repeat in range(repeats):
        for name in workers if repeat % 2 == 0 else reversed(workers):
            answers[name].append(workers[name].ask(**question))
    return answers


def ratio(one: list[Line], other: list[Line], key: str) -> float:
    """How many times as fast as another: the median over the turns."""
    return median(b[key] / a[key] for a, b in zip(one, other, strict=True))


# ----------------------------------------------------------------------------------------------------------------------
# Scans of codes
# ----------------------------------------------------------------------------------------------------------------------


def scan(name: str, shape: Line, file: str) -> Measure:
    """Set up one contender, which is then given the vectors in parts."""
    loaded = opened(**shape)
    contender = CODE_CONTENDERS[name]
    start = time.perf_counter()
    index = contender.adapter(loaded.base, loaded.metric, contender.what)
    train_seconds = time.perf_counter() - start
    parts = iter(np.array_split(loaded.base, ADDED))
    queries = index.prepare(loaded.queries)

    def search(some: data.Floats) -> npt.NDArray[np.int64]:
        return index.search(some, K)

    def measure(question: str) -> Line:
        if question == "add":
            rows = index.prepare(next(parts))
            start = time.perf_counter()
            index.add(rows)
            return {"encode_s": (time.perf_counter() - start) / len(rows)}
        if question == "check":
            recall = data.recall(in_batches(search, queries), np.load(file))
            return {"train_s": train_seconds, "bytes": index.nbytes() / len(loaded.base), "recall": recall}
        return speeds(search, queries)

    return measure


def run_scans(options: argparse.Namespace, results: Results) -> None:
    cores = options.cores[:1]
    given = list(shapes(options))
    for shape in given + [{**shape, "metric": "cosine"} for shape in given if shape["dataset"] in COSINE]:
        with right_answers(shape, cores) as file:
            for codecs, rivals in RACES:
                ours = [name for name in codecs if name in options.codecs]
                peers = [name for name in rivals if shape["metric"] in CODE_CONTENDERS[name].metrics]
                if ours:
                    line = header("codec scan", shape) | race(ours, peers, shape, file, cores, options.repeats)
                    results.write(line)
                    report_race(line)


def race(ours: list[str], peers: list[str], shape: Line, file: str, cores: list[int], repeats: int) -> Line:
    """Let contenders take turns, at adding vectors and at searching."""
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker("codecs:scan", {"name": name, "shape": shape, "file": file}, cores))
            for name in [*ours, *peers]
        }
        added = turns(workers, ADDED, question="add")
        checks = {name: worker.ask(question="check") for name, worker in workers.items()}
        searched = turns(workers, repeats, question="time")
    contenders = {}
    for name in workers:
        contenders[name] = {
            **{key: checks[name][key] for key in ("train_s", "bytes", "recall")},
            "encode_us": 1e6 * median(one["encode_s"] for one in added[name]),
            **{f"{mode}_queries_per_s": 1 / median(one[f"{mode}_s"] for one in searched[name]) for mode in MODES},
            "seconds": {mode: [one[f"{mode}_s"] for one in searched[name]] for mode in MODES},
        }
    ratios = {
        name: {
            peer: {
                "encode": ratio(added[name], added[peer], "encode_s"),
                **{mode: ratio(searched[name], searched[peer], f"{mode}_s") for mode in MODES},
            }
            for peer in peers
        }
        for name in ours
    }
    busy = others([answer for some in searched.values() for answer in some])
    return {"contenders": contenders, "ours": ours, "ratios": ratios, "others": busy}


def report_race(line: Line) -> None:
    for name, one in line["contenders"].items():
        against = "".join(
            f"; {x['single']:.2f} x, {x['batch']:.2f} x, encoding {x['encode']:.2f} x {peer}"
            for peer, x in line["ratios"].get(name, {}).items()
        )
        progress(
            f"scan {line['dataset']} {line['metric']} {name}: recall {one['recall']:.3f}, {one['bytes']:.1f} bytes, "
            f"{one['single_queries_per_s']:.0f} queries/s, {one['batch_queries_per_s']:.0f} in batches, training "
            f"{one['train_s']:.2f} s, encoding {one['encode_us']:.2f} us{against}; others used "
            f"{line['others']:.2f} CPUs"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Whole searches
# ----------------------------------------------------------------------------------------------------------------------


def index_of(loaded: data.Dataset, codec: str | None, rerank: str | None, screen: bool = True) -> Any:
    nearfield = require("nearfield", "bench")
    dim = loaded.base.shape[1]
    index = nearfield.Flat(dim, loaded.metric, codec and CODECS[codec](nearfield, dim), rerank, screen=screen)
    index.add(loaded.base, threads=1)
    return index


def whole(codec: str | None, rerank: str | None, screen: bool, shape: Line, file: str) -> Measure:
    """Set up an index with a codec, or the exact one without."""
    loaded = opened(**shape)
    start = time.perf_counter()
    index = index_of(loaded, codec, rerank, screen)
    build_seconds = time.perf_counter() - start
    right = np.load(file)

    def search(some: data.Floats, candidates: int | None) -> npt.NDArray[np.int64]:
        return index.search(some, K, threads=1, oversample=candidates and candidates / K).ids

    def recall(candidates: int | None) -> float:
        return data.recall(in_batches(lambda some: search(some, candidates), loaded.queries), right)

    def measure(question: str, candidates: int | None = None) -> Line:
        if question == "check":
            if rerank is not None:
                candidates = fewest(recall, WANTED, min(CANDIDATES, len(index)))
            facts = {"candidates": candidates, "recall": recall(candidates), "build_s": build_seconds}
            return {**facts, "bytes": index.nbytes / len(index)}
        return speeds(lambda some: search(some, candidates), loaded.queries)

    return measure


def run_searches(options: argparse.Namespace, results: Results) -> None:
    cores = options.cores[:1]
    for shape in shapes(options, SEARCH_QUERIES):
        line = header("codec search", shape)
        with right_answers(shape, cores) as file, contextlib.ExitStack() as stack:
            fixed = {"shape": shape, "file": file}
            exact = {}
            for name, screen in EXACT.items():
                arguments = {"codec": None, "rerank": None, "screen": screen, **fixed}
                exact[name] = stack.enter_context(Worker("codecs:whole", arguments, cores))
            checks = {name: worker.ask(question="check") for name, worker in exact.items()}
            answers = turns(exact, options.repeats, question="time")
            for name, check in checks.items():
                one = {**line, "exact": name, **found(check, answers[name]), "others": others(answers[name])}
                results.write(one)
                report_search(one)
            for codec, rerank in [*((name, None) for name in ALONE), *((name, "f16") for name in RERANKED)]:
                if codec not in options.codecs:
                    continue
                arguments = {"codec": codec, "rerank": rerank, "screen": True, **fixed}
                with Worker("codecs:whole", arguments, cores) as worker:
                    check = worker.ask(question="check")
                    mine: list[Line] = []
                    scans: dict[str, list[Line]] = {name: [] for name in exact}
                    for _ in range(options.repeats):
                        mine.append(worker.ask(question="time", candidates=check["candidates"]))
                        for name, other in exact.items():
                            scans[name].append(other.ask(question="time"))
                one = {**line, "codec": codec, "rerank": rerank, **found(check, mine)}
                for name, (mode, some) in itertools.product(MODES, scans.items()):
                    one[f"{name}_x_{mode}"] = ratio(mine, some, f"{name}_s")
                one["others"] = others([answer for some in (mine, *scans.values()) for answer in some])
                results.write(one)
                report_search(one)


def found(check: Line, answers: list[Line]) -> Line:
    """The figures of one index."""
    facts = {key: check[key] for key in ("candidates", "recall", "bytes", "build_s")}
    return facts | {f"{mode}_queries_per_s": 1 / median(one[f"{mode}_s"] for one in answers) for mode in MODES}


def report_search(line: Line) -> None:
    what = f"exact, {line['exact']}" if "exact" in line else f"{line['codec']}, rerank {line['rerank']}"
    against = "".join(
        f", {line[f'{mode}_x_{exact}']:.2f} x {exact} ({mode})"
        for mode, exact in itertools.product(MODES, EXACT)
        if f"{mode}_x_{exact}" in line
    )
    progress(
        f"search {line['dataset']} {line['metric']} {what}: recall {line['recall']:.4f} with {line['candidates']} "
        f"candidates, {line['bytes']:.0f} bytes, {line['single_queries_per_s']:.0f} queries/s, "
        f"{line['batch_queries_per_s']:.0f} in batches{against}; others used {line['others']:.2f} CPUs"
    )


# ----------------------------------------------------------------------------------------------------------------------
# Compression
# ----------------------------------------------------------------------------------------------------------------------

# 48 bytes for a vector of 384 dimensions, made with queries to learn from or without.
COMPRESSED: dict[str, Callable[[Any, data.Floats | None], Any]] = {
    "pq4": lambda nf, queries: nf.PQ(96, bits=4, queries=queries),
    "pq8": lambda nf, queries: nf.PQ(48, bits=8, queries=queries),
    "opq8": lambda nf, queries: nf.PQ(48, bits=8, rotation="opq", queries=queries),
    "lean, rabitq1": lambda nf, queries: (nf.LeanVec(288, queries), nf.RaBitQ(1)),
}


def gains(ids: npt.NDArray[np.int64], judged: npt.NDArray[np.int64], queries: npt.NDArray[np.int64]) -> list[float]:
    """nDCG@10 of each query; `judged` has rows of query, document and grade."""
    discounts = 1 / np.log2(np.arange(2, K + 2))
    values = []
    for query, row in zip(queries, ids, strict=True):
        grades = {document: grade for one, document, grade in judged.tolist() if one == query}
        best = sorted(grades.values(), reverse=True)[:K]
        gained = np.array([grades.get(document, 0) for document in row.tolist()])
        values.append(float(gained @ discounts / (np.array(best) @ discounts[: len(best)])))
    return values


def compression(codec: str | None, aware: bool) -> Measure:
    """Judge rankings of SciFact; a codec that is aware of queries learns from one half and is judged on the other."""
    nearfield = require("nearfield", "bench")
    loaded, judged = data.load("scifact"), data.extra("scifact", "qrels").astype(np.int64)
    queries = np.array(loaded.queries)

    def ranked(learned: npt.NDArray[np.int64] | None, asked: npt.NDArray[np.int64]) -> tuple[list[float], int]:
        made = codec and COMPRESSED[codec](nearfield, None if learned is None else queries[learned])
        index = nearfield.Flat(queries.shape[1], loaded.metric, made)
        index.add(loaded.base, threads=1)
        ids = index.search(queries[asked], K, threads=1).ids
        return gains(ids, judged, asked), index.codes([0]).shape[1]

    def measure(seed: int) -> Line:
        everyone = np.arange(len(queries))
        if not aware:
            values, size = ranked(None, everyone)
        else:
            one, other = np.array_split(np.random.default_rng(seed).permutation(len(queries)), 2)
            (first, size), (second, _) = ranked(one, other), ranked(other, one)
            values = first + second
        return {"ndcg": mean(values), "bytes": size}

    return measure


def run_compression(options: argparse.Namespace, results: Results) -> None:
    scores: list[float] = []
    for codec, aware in [(None, False), *itertools.product(COMPRESSED, (False, True))]:
        with Worker("codecs:compression", {"codec": codec, "aware": aware}, options.cores[:1]) as worker:
            seeds = (1 if options.quick else SPLITS) if aware else 1
            answers = [worker.ask(seed=seed) for seed in range(seeds)]
        scores.append(mean(one["ndcg"] for one in answers))
        line = {
            "measurement": "compression",
            "dataset": "scifact",
            "codec": codec,
            "queries": aware,
            "bytes": answers[0]["bytes"],
            "ndcg": scores[-1],
            "ndcg_by_split": [one["ndcg"] for one in answers],
            "share": scores[-1] / scores[0],
        }
        results.write(line)
        progress(
            f"compression {codec}{', aware of queries' if aware else ''}: {line['bytes']} bytes, nDCG@10 "
            f"{scores[-1]:.4f}, {line['share']:.3f} of the uncompressed"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Projections
# ----------------------------------------------------------------------------------------------------------------------


def projection(transform: str | None, dims: int, shape: Line, file: str) -> Measure:
    """Recall after a projection, by 8-bit codes of it."""
    nearfield = require("nearfield", "bench")
    loaded, right = opened(**shape), np.load(file)
    codec: Any = nearfield.SQ(8)
    if transform == "pca":
        codec = (nearfield.PCA(dims), codec)
    elif transform == "leanvec":
        learned = data.extra(loaded.name, "train_query").astype(np.float32)
        codec = (nearfield.LeanVec(dims, queries=learned), codec)
    index = nearfield.Flat(loaded.base.shape[1], loaded.metric, codec, "f16")
    index.add(loaded.base, threads=1)

    def measure(oversample: float) -> Line:
        ids = index.search(loaded.queries, K, threads=1, oversample=oversample).ids
        return {"recall": data.recall(ids, right)}

    return measure


def run_projections(options: argparse.Namespace, results: Results) -> None:
    shape = next(shapes(argparse.Namespace(**{**vars(options), "data": "wordnet"})))
    line = header("projection", shape)
    with right_answers(shape, options.cores[:1]) as file:
        for transform, dims in [(None, line["dim"]), *itertools.product(("pca", "leanvec"), PROJECTED_DIMS)]:
            arguments = {"transform": transform, "dims": dims, "shape": shape, "file": file}
            with Worker("codecs:projection", arguments, options.cores[:1]) as worker:
                recalls = {str(times): worker.ask(oversample=times)["recall"] for times in OVERSAMPLES}
            results.write({**line, "transform": transform, "dims": dims, "recalls": recalls})
            progress(f"projection {transform} to {dims} of {line['dim']}: recall {recalls}")


# ----------------------------------------------------------------------------------------------------------------------
# Memory
# ----------------------------------------------------------------------------------------------------------------------


def resident(reset: bool = False) -> tuple[int, int]:
    """Bytes of memory that this process has now, and at most since the peak was reset."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps of freed memory is nobody's
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
    return now, peak


def memory(codec: str, rerank: str | None, shape: Line) -> Measure:
    """Fill an index, and see how the process grows."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        raise BenchError("memory: /proc/self/clear_refs is missing: it can be measured on Linux only")
    loaded = opened(**shape)
    loaded = data.Dataset(loaded.name, np.array(loaded.base), loaded.queries, loaded.metric)
    # What is allocated once and for all, by the library and by NumPy, does not belong to an index.
    small = data.Dataset(loaded.name, loaded.base[:20_000], loaded.queries, loaded.metric)
    index_of(small, codec, rerank).search(loaded.queries[:1], K, threads=1)

    def measure() -> Line:
        before, _ = resident(reset=True)
        index = index_of(loaded, codec, rerank)
        _, peak = resident()
        one = {"vectors": loaded.base.nbytes, "peak": peak - before, "nbytes_once": index.nbytes}
        for _ in range(COPIES - 1):
            index.add(loaded.base, threads=1)
        now, _ = resident()
        return {**one, "growth": now - before, "nbytes": index.nbytes}

    return measure


def run_memory(options: argparse.Namespace, results: Results) -> None:
    shape = next(shapes(argparse.Namespace(**{**vars(options), "data": "wordnet"})))
    for codec, rerank in itertools.product([name for name in STORED if name in options.codecs], (None, "f16")):
        arguments = {"codec": codec, "rerank": rerank, "shape": shape}
        answer = measure_once("codecs:memory", arguments, options.cores[:1])
        line = {
            **header("memory", shape),
            "codec": codec,
            "rerank": rerank,
            "copies": COPIES,
            **{key: answer[key] for key in ("vectors", "peak", "nbytes_once", "growth", "nbytes")},
            "growth_x_nbytes": answer["growth"] / answer["nbytes"],
            "beyond": (answer["peak"] - answer["nbytes_once"]) / answer["vectors"],
        }
        results.write(line)
        progress(
            f"memory {codec}, rerank {rerank}: nbytes {line['nbytes'] / 1e6:.1f} MB, growth {line['growth'] / 1e6:.1f} "
            f"MB ({line['growth_x_nbytes']:.3f} x); peak beyond the index while it is filled {line['beyond']:.1%} of "
            "the vectors"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Recall asked for
# ----------------------------------------------------------------------------------------------------------------------


def tuned(codec: str, rerank: str, given: bool, shape: Line, file: str) -> Measure:
    """Tune an index on every other query, or on its own vectors, and ask it the queries between them."""
    loaded = opened(**shape)
    index = index_of(loaded, codec, rerank)
    start = time.perf_counter()
    index.tune(loaded.queries[::2] if given else None, k=K, recall=tuple(RECALLS))
    tune_seconds = time.perf_counter() - start
    queries, right = np.ascontiguousarray(loaded.queries[1::2]), np.load(file)[1::2]

    def by_hand(candidates: int) -> Callable[[data.Floats], npt.NDArray[np.int64]]:
        return lambda some: index.search(some, K, threads=1, oversample=candidates / K).ids

    def recall(search: Callable[[data.Floats], npt.NDArray[np.int64]]) -> float:
        return data.recall(in_batches(search, queries), right)

    def measure(wanted: float, candidates: int | None = None) -> Line:
        def asked(some: data.Floats) -> npt.NDArray[np.int64]:
            return index.search(some, K, threads=1, recall=wanted).ids

        if candidates is None:
            best = fewest(lambda number: recall(by_hand(number)), wanted, min(CANDIDATES, len(index)))
            facts = {"tune_s": tune_seconds, "candidates": best}
            return {**facts, "recall": recall(asked), "recall_by_hand": recall(by_hand(best))}
        hand = speeds(by_hand(candidates), queries)
        return {**speeds(asked, queries), **{f"{key}_by_hand": seconds for key, seconds in hand.items()}}

    return measure


def run_tune(options: argparse.Namespace, results: Results) -> None:
    cores = options.cores[:1]
    for shape in shapes(options, TUNE_QUERIES):
        with right_answers(shape, cores) as file:
            for codec, given in TUNED:
                if codec not in options.codecs:
                    continue
                arguments = {"codec": codec, "rerank": "f16", "given": given, "shape": shape, "file": file}
                with Worker("codecs:tuned", arguments, cores) as worker:
                    for wanted in RECALLS:
                        line = {**header("tune", shape), "codec": codec, "given": given, "wanted": wanted}
                        line |= declared(worker, wanted, options.repeats)
                        results.write(line)
                        report_tune(line)


def declared(worker: Worker, wanted: float, repeats: int) -> Line:
    """The recall that is reached where one is asked for, and the speed beside that of the best setting by hand."""
    check = worker.ask(wanted=wanted)
    answers = [worker.ask(wanted=wanted, candidates=check["candidates"]) for _ in range(repeats)]
    line = {key: check[key] for key in ("tune_s", "candidates", "recall", "recall_by_hand")}
    for mode in MODES:
        line[f"{mode}_queries_per_s"] = 1 / median(one[f"{mode}_s"] for one in answers)
        line[f"{mode}_x_by_hand"] = median(one[f"{mode}_s_by_hand"] / one[f"{mode}_s"] for one in answers)
    return {**line, "others": others(answers)}


def report_tune(line: Line) -> None:
    progress(
        f"tune {line['dataset']} {line['metric']} {line['codec']}, on {'queries' if line['given'] else 'vectors'}: "
        f"asked {line['wanted']}, reached {line['recall']:.4f} at {line['single_x_by_hand']:.2f} x, in batches "
        f"{line['batch_x_by_hand']:.2f} x the speed by hand ({line['candidates']} candidates, "
        f"{line['recall_by_hand']:.4f}); others used {line['others']:.2f} CPUs"
    )


# ----------------------------------------------------------------------------------------------------------------------
# Figure
# ----------------------------------------------------------------------------------------------------------------------


def draw(lines: list[Line], path: Path) -> None:
    """Draw recall against speed, a dot for each codec: full for this library's, hollow for others'."""
    ticker = require("matplotlib.ticker", "plot")
    names = list(dict.fromkeys((line["dataset"], line["metric"]) for line in lines))
    figure, panels = figures.start("codecs", len(names))
    colours = require("matplotlib", "plot").colormaps["tab10"].colors
    markers = "osD^v<>"
    for panel, (dataset, metric) in zip(panels, names, strict=True):
        measured = [line for line in lines if (line["dataset"], line["metric"]) == (dataset, metric)]
        for line in measured:
            race_number = next(i for i, (ours, _) in enumerate(RACES) if set(ours) & set(line["ours"]))
            seen = {True: 0, False: 0}
            for name, one in line["contenders"].items():
                mine = name in line["ours"]
                panel.plot(
                    one["single_queries_per_s"],
                    one["recall"],
                    markers[seen[mine]],
                    markersize=7,
                    fillstyle="full" if mine else "none",
                    color=colours[race_number],
                    label=name,
                )
                seen[mine] += 1
        panel.set_title(f"{dataset}, {metric}\n{measured[0]['n']:,} x {measured[0]['dim']}", fontsize=10)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.set_xlabel("queries per second")
    panels[0].set_ylabel(f"recall@{K}")
    labels = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figures.save(figure, path)
