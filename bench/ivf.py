"""
Measure inverted lists and clustering: against other libraries, with filters, built in little memory, and mapped.

kmeans: clusterings with the same number of clusters and iterations: seconds, and the inertia that one float64 function
finds.
search: queries per second at a wanted recall of every contender, each with the settings that a sweep over its own
parameters found best; built on all cores, searched on one. Contenders take turns, each in its own process.
filter: recall and speed at every selectivity, in memory and mapped, beside exact scans of the allowed vectors.
build: the peak memory of a build to a file within a budget, and its recall beside that of a build without one.
mmap: what a search reads of a file that no cache holds, and how long it takes, cold and warm.
sweep: only when it is asked for: the settings that those of the search were chosen from.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import data, figures
from .codecs import K, Line, header, opened, ratio, right_answers, shapes, speeds, turns
from .environment import BenchError, Results, progress, require
from .peers import CLUSTERINGS, LISTS_CONTENDERS, LISTS_PACKAGES, Faiss, inverted
from .worker import Measure, Worker, measure_once, others

PARTS = ["kmeans", "search", "filter", "build", "mmap"]
DATASETS = {
    "kmeans": ["wordnet", "glove"],
    "search": ["wordnet", "glove", "mnist"],
    "sweep": ["wordnet", "glove", "mnist"],
    "filter": ["wordnet", "glove"],
    "build": ["wordnet", "glove"],
    "mmap": ["wordnet", "glove"],
}
REPEATS = {"kmeans": 2, "search": 5, "filter": 2, "build": 1, "mmap": 5}
CLUSTERS, QUICK_CLUSTERS, ITERATIONS = 1024, 128, 25
UNVERSIONED = ["scann", "rabitqlib"]  # whose modules do not say their version
UNHURRIED = ["scikit-learn"]  # measured once
RECALLS = [0.90, 0.95, 0.99]
QUERIES, QUICK_QUERIES = 1000, 200  # in one batch
SINGLES, LEAST_SECONDS, MOST = 100, 0.2, 20  # per turn: queries one by one; seconds and batches

SHARES = [1.0, 0.5, 0.1, 0.01, 0.001]  # of vectors that a filter allows
KINDS = ["random", "region"]
WAYS = ["memory", "mapped", "exact", "subset"]  # through the lists and by exact scans
FILTER_QUERIES = 256
MATRIX_QUERIES = 20  # from which on faiss is told to multiply matrices; by default it waits for far more
BUDGET = 1 / 4  # of the size of the vectors
SAMPLING_SECONDS = 0.002
COLD_QUERIES = 20


class Settings(NamedTuple):
    """Lists for each square root of the vectors, the code, and (probes, candidates) for each recall."""

    lists: float
    code: str
    searches: tuple[tuple[int, int], ...]


# The best of the sweep, two where they are close or each has its recall; probes are then fitted to the index at hand.
# The first of nearfield's is also that of the other parts.
SETTINGS: dict[str, dict[str, list[Settings]]] = {
    "wordnet": {
        "nearfield": [Settings(2, "rabitq1 + f16 + soar", ((11, 20), (30, 20), (64, 60)))],
        "faiss": [
            Settings(2, "PQ dim/2", ((32, 20), (64, 40), (220, 40))),
            Settings(4, "PQ dim/4", ((32, 80), (91, 80), (362, 160))),
        ],
        "scann": [Settings(2, "soar", ((11, 20), (23, 20), (64, 80)))],
        "rabitqlib": [
            Settings(2, "7 bit", ((32, 0), (80, 0), (362, 0))),
            Settings(2, "1 bit, vectors", ((32, 0), (64, 0), (256, 0))),
        ],
    },
    "glove": {
        "nearfield": [
            Settings(2, "pq4, dim/2 + f16 + soar", ((21, 30), (32, 60), (124, 120))),
            Settings(4, "pq4, dim/2 + f16 + soar", ((23, 30), (60, 40), (181, 160))),
        ],
        "faiss": [Settings(2, "PQ dim/2", ((32, 160), (128, 160), (300, 640)))],
        "scann": [
            Settings(2, "soar", ((16, 80), (32, 160), (128, 160))),
            Settings(4, "soar", ((45, 40), (64, 80), (256, 160))),
        ],
        "rabitqlib": [Settings(2, "1 bit, vectors", ((45, 0), (85, 0), (300, 0)))],
    },
    "mnist": {
        "nearfield": [
            Settings(1, "rabitq1 + f16", ((4, 15), (8, 15), (15, 30))),
            Settings(1, "rabitq1 + f16 + soar", ((3, 10), (4, 15), (8, 15))),
        ],
        "faiss": [
            Settings(1, "PQ dim/4", ((6, 20), (8, 20), (16, 40))),
            Settings(2, "PQ dim/4", ((6, 20), (10, 20), (23, 80))),
        ],
        "scann": [Settings(2, "plain", ((6, 20), (8, 20), (23, 20)))],
        "rabitqlib": [
            Settings(1, "7 bit", ((4, 0), (6, 0), (20, 0))),
            Settings(2, "1 bit, vectors", ((6, 0), (8, 0), (20, 0))),
        ],
    },
}
# What the sweep tries: lists, codes, and candidates where they can be given.
CANDIDATES = [20, 40, 80, 160, 320, 640, 1280]
SWEPT: dict[str, tuple[list[float], list[str], list[int]]] = {
    "nearfield": (
        [1, 2, 4],
        [f"{code} + f16{soar}" for code in ("rabitq1", "pq4, dim/4", "pq4, dim/2") for soar in ("", " + soar")],
        CANDIDATES,
    ),
    "faiss": ([1, 2, 4], ["PQ dim/4", "PQ dim/2"], CANDIDATES),
    "scann": ([1, 2, 4], ["plain", "soar"], CANDIDATES),
    "rabitqlib": ([1, 2, 4], ["1 bit, vectors", "5 bit", "7 bit", "9 bit"], [0]),
}
STEP = 2**0.5  # from a number of probes to the next
# It goes on to the next number of candidates when the recall is enough or gains too little, or the search is too slow.
ENOUGH, STALLED, SLOWEST_SECONDS = 0.995, 0.0005, 0.005


def add_arguments(parser: argparse.ArgumentParser) -> None:
    expected = f"which of {','.join(PARTS)} (the default), sweep"
    parser.add_argument("--parts", default=",".join(PARTS), help=expected)
    parser.add_argument("--datasets", dest="data", default="", help="only these, comma-separated")
    parser.add_argument("--contenders", default=",".join(LISTS_CONTENDERS), help="comma-separated (default: all)")


def run(options: argparse.Namespace) -> None:
    runs = {"kmeans": run_clusterings, "search": run_searches, "filter": run_filters, "build": run_builds}
    runs |= {"mmap": run_mapped, "sweep": run_sweep}
    parts, names = options.parts.split(","), options.contenders.split(",")
    if unknown := set(parts) - set(runs):
        raise BenchError(f"--parts: {', '.join(sorted(unknown))} given, expected some of {', '.join(runs)}")
    if unknown := set(names) - set(LISTS_CONTENDERS):
        expected = ", ".join(LISTS_CONTENDERS)
        raise BenchError(f"--contenders: {', '.join(sorted(unknown))} given, expected some of {expected}")
    require("nearfield", "bench")
    results = Results(options.out, "ivf", LISTS_PACKAGES, options.quick)
    for part in parts:
        repeats = options.repeats or (2 if options.quick else REPEATS.get(part))
        own = {"repeats": repeats, "contenders": names, "data": options.data or ",".join(DATASETS[part])}
        runs[part](argparse.Namespace(**{**vars(options), **own}), results)


def pin(core: int) -> None:
    """Keep the process to one core from now on, with the threads that libraries have started."""
    tasks = Path("/proc/self/task")
    if tasks.exists():
        for task in tasks.iterdir():
            os.sched_setaffinity(int(task.name), [core])


# ----------------------------------------------------------------------------------------------------------------------
# Clustering
# ----------------------------------------------------------------------------------------------------------------------


def inertia(base: data.Floats, centers: data.Floats) -> float:
    """Sum of the squared distances to the nearest center."""
    wide = centers.astype(np.float64)
    norms, total = np.einsum("ij,ij->i", wide, wide), 0.0
    for first in range(0, len(base), 4096):
        rows = base[first : first + 4096].astype(np.float64)
        total += (norms - 2 * rows @ wide.T).min(axis=1).sum() + np.einsum("ij,ij->", rows, rows)
    return float(total)


def clustering(name: str, shape: Line, clusters: int, threads: int) -> Measure:
    base = np.array(opened(**shape).base)

    def measure() -> Line:
        start = time.perf_counter()
        centers = CLUSTERINGS[name](base, clusters, ITERATIONS, threads)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "inertia": inertia(base, centers)}

    return measure


def run_clusterings(options: argparse.Namespace, results: Results) -> None:
    clusters, threads = QUICK_CLUSTERS if options.quick else CLUSTERS, len(options.cores) or 2
    for shape in shapes(options):
        with contextlib.ExitStack() as stack:
            workers = {}
            for name in CLUSTERINGS:
                arguments = {"name": name, "shape": shape, "clusters": clusters, "threads": threads}
                workers[name] = stack.enter_context(Worker("ivf:clustering", arguments, options.cores))
            often = {name: worker for name, worker in workers.items() if name not in UNHURRIED}
            answers = turns(often, options.repeats)
            answers |= turns({name: workers[name] for name in UNHURRIED}, 1)
        ours = answers["nearfield"]
        line = {
            **header("clustering", shape),
            "clusters": clusters,
            "iterations": ITERATIONS,
            "threads": threads,
            "contenders": {
                name: {
                    "seconds": median(one["seconds"] for one in some),
                    "inertia": some[0]["inertia"],
                    "ratio": ratio(ours[: len(some)], some, "seconds"),
                    "inertia_ratio": some[0]["inertia"] / ours[0]["inertia"],
                }
                for name, some in answers.items()
            },
            "others": others([answer for some in answers.values() for answer in some]),
        }
        results.write(line)
        for name, one in line["contenders"].items():
            progress(
                f"kmeans {line['dataset']} {name}: {one['seconds']:.2f} s, inertia {one['inertia']:.6g}; nearfield "
                f"{one['ratio']:.2f} x as fast, inertia here {one['inertia_ratio']:.5f} x; others used "
                f"{line['others']:.2f} CPUs"
            )


# ----------------------------------------------------------------------------------------------------------------------
# Searches
# ----------------------------------------------------------------------------------------------------------------------


def contender(name: str, shape: Line, lists: float, code: str, cores: list[int], file: str) -> Measure:
    """Build an index on all cores, then stay on the first; `lists` is for each square root of the vectors."""
    loaded, right = opened(**shape), np.load(file)
    count = max(1, round(lists * math.sqrt(len(loaded.base))))
    start = time.perf_counter()
    index = LISTS_CONTENDERS[name](loaded.base, loaded.metric, len(cores) or 2, count, code)
    build_seconds = time.perf_counter() - start
    if cores:
        pin(cores[0])
    fitted: dict[float, tuple[int, int]] = {}

    def recall(probes: int, candidates: int) -> float:
        return data.recall(index.search(loaded.queries, K, probes, candidates), right)

    def fit(wanted: float, probes: int, candidates: int) -> Line:
        """Find the fewest probes for a recall, to about five percent, from near where they are."""
        probes = min(probes, count)
        reached = recall(probes, candidates)
        while reached < wanted and probes < count:
            probes = min(count, max(probes + 1, round(1.05 * probes)))
            reached = recall(probes, candidates)
        while probes > 1 and (less := recall(fewer := min(probes - 1, round(probes / 1.05)), candidates)) >= wanted:
            probes, reached = fewer, less
        fitted[wanted] = probes, candidates
        return {"probes": probes, "candidates": candidates, "recall": reached}

    def seconds(probes: int, candidates: int) -> float:
        """What a query of the batch takes: the median of some batches."""
        taken: list[float] = []
        while len(taken) < MOST and sum(taken) < LEAST_SECONDS:
            start = time.perf_counter()
            index.search(loaded.queries, K, probes, candidates)
            taken.append(time.perf_counter() - start)
        return median(taken) / len(loaded.queries)

    def single(probes: int, candidates: int) -> float:
        taken = []
        for query in loaded.queries[:SINGLES, np.newaxis]:
            start = time.perf_counter()
            index.search(query, K, probes, candidates)
            taken.append(time.perf_counter() - start)
        return median(taken)

    def measure(question: str, wanted: float = 0, probes: int = 0, candidates: int = 0) -> Line:
        if question == "facts":
            version = {"version": metadata.version(name)} if name in UNVERSIONED else {}
            return {"lists": count, "build_s": build_seconds, "bytes": index.nbytes() / len(loaded.base), **version}
        if question == "fit":
            return fit(wanted, probes, candidates)
        if question == "try":
            return {"recall": recall(probes, candidates), "batch_s": seconds(probes, candidates)}
        return {"batch_s": seconds(*fitted[wanted]), "single_s": single(*fitted[wanted])}

    return measure


def contending(name: str, shape: Line, lists: float, code: str, cores: list[int], file: str) -> Worker:
    arguments = {"name": name, "shape": shape, "lists": lists, "code": code, "cores": cores, "file": file}
    return Worker("ivf:contender", arguments, cores)


def settings(dataset: str, name: str) -> list[Settings]:
    try:
        return SETTINGS[dataset][name]
    except KeyError:
        raise BenchError(f"no settings of {name} for {dataset}: run --parts sweep and add them") from None


def run_searches(options: argparse.Namespace, results: Results) -> None:
    for shape in shapes(options, QUERIES):
        with right_answers(shape, options.cores[:1]) as file, contextlib.ExitStack() as stack:
            workers: dict[str, Worker] = {}
            facts: dict[str, Line] = {}
            searches: dict[str, tuple[tuple[int, int], ...]] = {}
            for name in options.contenders:
                for lists, code, some in settings(shape["dataset"], name):
                    key = f"{name}, {lists}, {code}"
                    worker = contending(name, shape, lists, code, options.cores, file)
                    workers[key], searches[key] = stack.enter_context(worker), some
                    facts[key] = {"contender": name, "code": code, **worker.ask(question="facts")}
                    progress(f"{shape['dataset']} {key}: built in {facts[key]['build_s']:.1f} s")
            for place, wanted in enumerate(RECALLS):
                fitted: dict[str, Line] = {}
                for key, worker in workers.items():
                    probes, candidates = searches[key][place]
                    fit = worker.ask(question="fit", wanted=wanted, probes=probes, candidates=candidates)
                    fitted[key] = facts[key] | {what: fit[what] for what in ("probes", "candidates", "recall")}
                racing = {key: worker for key, worker in workers.items() if fitted[key]["recall"] >= wanted}
                answers = turns(racing, options.repeats, question="time", wanted=wanted)
                line = {**header("lists search", shape), "queries": len(opened(**shape).queries), "wanted": wanted}
                line |= raced(fitted, answers)
                results.write(line)
                report_search(line)


def raced(fitted: dict[str, Line], answers: dict[str, list[Line]]) -> Line:
    """Figures of each contender's fastest index; who does not reach the recall has none."""

    def seconds(key: str) -> float:
        return median(one["batch_s"] for one in answers[key]) if key in answers else math.inf

    fastest: dict[str, str] = {}
    for key, one in fitted.items():
        best = fastest.setdefault(one["contender"], key)
        if seconds(key) < seconds(best):
            fastest[one["contender"]] = key
    ours = answers.get(fastest.get("nearfield", ""))
    contenders = {}
    for name, key in fastest.items():
        one = contenders[name] = fitted[key]
        if key not in answers:
            continue
        some = answers[key]
        one["queries_per_s"] = 1 / median(answer["batch_s"] for answer in some)
        one["single_us"] = 1e6 * median(answer["single_s"] for answer in some)
        one["seconds"] = [answer["batch_s"] for answer in some]
        if ours is not None and name != "nearfield":
            one["ratio"], one["single_ratio"] = ratio(ours, some, "batch_s"), ratio(ours, some, "single_s")
    busy = others([one for some in answers.values() for one in some])
    return {"contenders": contenders, "others": busy}


def report_search(line: Line) -> None:
    for name, one in line["contenders"].items():
        what = f"search {line['dataset']} {line['wanted']:.2f} {name} ({one['lists']} lists, {one['code']})"
        if "queries_per_s" not in one:
            progress(f"{what}: reaches {one['recall']:.4f} only")
            continue
        against = f"; nearfield {one['ratio']:.2f} x, one by one {one['single_ratio']:.2f} x" if "ratio" in one else ""
        progress(
            f"{what}: recall {one['recall']:.4f} with {one['probes']} probes, {one['candidates']} candidates, "
            f"{one['bytes']:.0f} bytes, built in {one['build_s']:.1f} s, {one['queries_per_s']:.0f} queries/s, "
            f"{one['single_us']:.0f} us one by one{against}; others used {line['others']:.2f} CPUs"
        )


def run_sweep(options: argparse.Namespace, results: Results) -> None:
    """Try settings of every contender, and say which is the best for each recall."""
    for shape in shapes(options, QUERIES):
        with right_answers(shape, options.cores[:1]) as file:
            for name in options.contenders:
                tried: list[Line] = []
                factors, codes, candidates = SWEPT[name]
                for lists in factors:
                    for code in codes:
                        try:
                            with contending(name, shape, lists, code, options.cores, file) as worker:
                                facts = worker.ask(question="facts")
                                own = {"contender": name, "per_root": lists, "code": code, **facts}
                                tried += [{**own, **one} for one in attempts(worker, facts["lists"], candidates)]
                        except BenchError as error:
                            progress(f"{name}, {lists}, {code}: {error}")  # not every code knows every metric
                for wanted in RECALLS:
                    enough = [one for one in tried if one["recall"] >= wanted]
                    if enough:
                        best = min(enough, key=lambda one: float(one["batch_s"]))
                        results.write({**header("lists sweep", shape), "wanted": wanted, **best})
                        progress(
                            f"sweep {shape['dataset']} {wanted:.2f} {name}: {best['per_root']}, {best['code']}, "
                            f"{best['probes']} probes, {best['candidates']} candidates, recall {best['recall']:.4f}, "
                            f"{1 / best['batch_s']:.0f} queries/s"
                        )


def attempts(worker: Worker, lists: int, candidates: list[int]) -> Iterator[Line]:
    """More and more probes for each number of candidates, until they bring no more."""
    for count in candidates:
        probes, before = 1.0, 0.0
        while probes <= lists:
            answer = worker.ask(question="try", probes=round(probes), candidates=count)
            yield {"probes": round(probes), "candidates": count, **answer}
            recall = answer["recall"]
            stalled = probes > 16 and recall - before < STALLED
            if recall >= ENOUGH or stalled or answer["batch_s"] > SLOWEST_SECONDS:
                break
            probes, before = max(probes + 1, probes * STEP), recall


# ----------------------------------------------------------------------------------------------------------------------
# Filters
# ----------------------------------------------------------------------------------------------------------------------


def usual(shape: Line) -> Line:
    """The index and search for a recall of 0.95, as an argument of the functions below."""
    lists, code, searches = settings(shape["dataset"], "nearfield")[0]
    probes, candidates = searches[RECALLS.index(0.95)]
    return {"lists": lists, "code": code, "probes": probes, "candidates": candidates}


def empty(shape: Line, setting: Line) -> Any:
    n, dim = opened(**shape).base.shape
    return inverted(dim, shape["metric"], round(setting["lists"] * math.sqrt(n)), setting["code"])


def saving(shape: Line, setting: Line, file: str) -> Measure:
    """Build an index without limits and save it."""

    def measure() -> Line:
        index = empty(shape, setting)
        index.add(opened(**shape).base)
        index.save(file)
        return {"file_bytes": os.path.getsize(file)}

    return measure


def allowed(loaded: data.Dataset, kind: str, share: float) -> npt.NDArray[np.bool_]:
    """
    Vectors that a filter allows: any of them, or a region.

    The region is around one of the queries, the others are far from it: lists near those have few that are allowed.
    """
    count = max(K, round(share * len(loaded.base)))
    if kind == "random":
        order = np.random.default_rng(0).permutation(len(loaded.base))
    else:
        order = np.argsort(-(loaded.base @ loaded.queries[0]), kind="stable")
    mask = np.zeros(len(loaded.base), bool)
    mask[order[:count]] = True
    return mask


def allowed_answers(shape: Line, file: str) -> Measure:
    """Write the right answers among what each filter allows."""
    loaded = opened(**shape)

    def measure() -> Line:
        right = {}
        for kind, share in filters():
            rows = np.flatnonzero(allowed(loaded, kind, share))
            right[f"{kind} {share}"] = rows[data.oracle(loaded.base[rows], loaded.queries, loaded.metric, K)]
        np.savez(file, **right)
        return {}

    return measure


def filters() -> list[tuple[str, float]]:
    return [(kind, share) for share in SHARES for kind in (KINDS if share < 1 else KINDS[:1])]


def filtered(way: str, shape: Line, setting: Line, file: str, right_file: str) -> Measure:
    """
    Search with filters, prepared beforehand: through the lists, or by exact scans.

    "subset" is faiss over a copy of what is allowed, which took no time, with matrix products from few queries on.
    """
    nearfield = require("nearfield", "bench")
    loaded, right = opened(**shape), np.load(right_file)
    options = {"probes": setting["probes"], "oversample": setting["candidates"] / K}
    if way == "exact":
        index, options = nearfield.Flat(loaded.base.shape[1], loaded.metric), {}
        index.add(loaded.base, threads=1)
    elif way == "subset":
        require("faiss", "peers").cvar.distance_compute_blas_threshold = MATRIX_QUERIES * loaded.base.shape[1]
    else:
        index = nearfield.load(file, mmap=way == "mapped")

    def searching(kind: str, share: float | None) -> Callable[[data.Floats], Any]:
        if way == "subset":
            rows = np.flatnonzero(allowed(loaded, kind, share or 1.0))
            subset = Faiss(loaded.base[rows], loaded.metric, 1)
            return lambda queries: rows[subset.search(queries, K)]
        mask = None if share is None else index.prepare_filter(allowed(loaded, kind, share))
        return lambda queries: index.search(queries, K, filter=mask, threads=1, **options).ids

    def measure(question: str, kind: str, share: float | None) -> Line:
        search = searching(kind, share)
        if question == "check":
            return {"recall": data.recall(search(loaded.queries), right[f"{kind} {share or 1.0}"])}
        return speeds(search, loaded.queries)

    return measure


def run_filters(options: argparse.Namespace, results: Results) -> None:
    cores = options.cores[:1]
    for shape in shapes(options, FILTER_QUERIES):
        setting = usual(shape)
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            file, right = str(Path(folder) / "index.nearfield"), str(Path(folder) / "right.npz")
            measure_once("ivf:saving", {"shape": shape, "setting": setting, "file": file}, options.cores)
            measure_once("ivf:allowed_answers", {"shape": shape, "file": right}, options.cores)
            fixed = {"shape": shape, "setting": setting, "file": file, "right_file": right}
            workers = {way: stack.enter_context(Worker("ivf:filtered", {"way": way, **fixed}, cores)) for way in WAYS}
            unfiltered = workers["memory"].ask(question="check", kind=KINDS[0], share=None)["recall"]
            for kind, share in filters():
                checks = turns(workers, 1, question="check", kind=kind, share=share)
                answers = turns(workers, options.repeats, question="time", kind=kind, share=share)
                line = {
                    **header("filter", shape),
                    **setting,
                    "kind": kind,
                    "share": share,
                    "unfiltered_recall": unfiltered,
                    "recall": {way: some[0]["recall"] for way, some in checks.items()},
                    "single_us": {way: 1e6 * median(one["single_s"] for one in some) for way, some in answers.items()},
                    "batch_us": {way: 1e6 * median(one["batch_s"] for one in some) for way, some in answers.items()},
                    "others": others([one for some in answers.values() for one in some]),
                }
                results.write(line)
                times = ", ".join(
                    f"{way} {us:.0f} ({line['batch_us'][way]:.0f})" for way, us in line["single_us"].items()
                )
                progress(
                    f"filter {line['dataset']} {kind} {100 * share:g} %: recall {line['recall']['memory']:.4f}, mapped "
                    f"{line['recall']['mapped']:.4f}, unfiltered {unfiltered:.4f}; us one by one (in batches) {times}; "
                    f"others used {line['others']:.2f} CPUs"
                )


# ----------------------------------------------------------------------------------------------------------------------
# Building in little memory
# ----------------------------------------------------------------------------------------------------------------------


def anonymous() -> int:
    """Bytes in memory that no file holds."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")))


class Peak:
    """The most anonymous memory while in the block, beyond what there was before it."""

    def __enter__(self) -> Peak:
        self._before = self._most = anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(SAMPLING_SECONDS):
            self._most = max(self._most, anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.bytes = max(self._most, anonymous()) - self._before


def building(shape: Line, setting: Line, folder: str, right_file: str) -> Measure:
    """Build within a budget of memory to a file, or without one; the vectors are mapped."""
    loaded = opened(**shape)

    def measure(budget: int | None) -> Line:
        index = empty(shape, setting)
        with Peak() as peak:
            start = time.perf_counter()
            if budget is None:
                index.add(loaded.base)
            else:
                index.build(loaded.base, Path(folder) / "index.nearfield", memory_budget=budget)
            seconds = time.perf_counter() - start
        found = index.search(loaded.queries, K, probes=setting["probes"], oversample=setting["candidates"] / K).ids
        return {"seconds": seconds, "peak_bytes": peak.bytes, "recall": data.recall(found, np.load(right_file))}

    return measure


def run_builds(options: argparse.Namespace, results: Results) -> None:
    for shape in shapes(options, QUERIES):
        size = opened(**shape).base.nbytes
        setting, budget = usual(shape), int(BUDGET * size)
        with right_answers(shape, options.cores[:1]) as right, tempfile.TemporaryDirectory() as folder:
            arguments = {"shape": shape, "setting": setting, "folder": folder, "right_file": right}
            limits = {"limited": budget, "unlimited": None}
            answers: dict[str, list[Line]] = {name: [] for name in limits}
            for _ in range(options.repeats):
                for name, limit in limits.items():
                    answers[name].append(measure_once("ivf:building", arguments, options.cores, budget=limit))
        line = {
            **header("budgeted build", shape),
            **setting,
            "vectors_bytes": size,
            "budget": budget,
            **{
                name: {
                    "seconds": median(one["seconds"] for one in some),
                    "peak_bytes": max(one["peak_bytes"] for one in some),
                    "recall": some[0]["recall"],
                }
                for name, some in answers.items()
            },
            "others": others([one for some in answers.values() for one in some]),
        }
        results.write(line)
        limited, unlimited = line["limited"], line["unlimited"]
        progress(
            f"build {line['dataset']}: {size / 1e6:.1f} MB of vectors, budget {budget / 1e6:.1f} MB, peak "
            f"{limited['peak_bytes'] / 1e6:.1f} MB, {limited['seconds']:.1f} s, recall {limited['recall']:.4f}; "
            f"without a budget {unlimited['peak_bytes'] / 1e6:.1f} MB, {unlimited['seconds']:.1f} s, recall "
            f"{unlimited['recall']:.4f}; others used {line['others']:.2f} CPUs"
        )


# ----------------------------------------------------------------------------------------------------------------------
# A mapped file
# ----------------------------------------------------------------------------------------------------------------------


def bytes_read() -> int:
    """What this process had read from the disk so far, page faults and reading ahead included."""
    counts = Path("/proc/self/io").read_text()
    return int(next(line.split()[1] for line in counts.splitlines() if line.startswith("read_bytes:")))


def drop(file: str) -> None:
    """Take the file out of the page cache."""
    with open(file, "rb") as opened_file:
        os.fsync(opened_file.fileno())  # only what is written can go
        os.posix_fadvise(opened_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def mapped(shape: Line, setting: Line, file: str) -> Measure:
    """Search a file that no cache holds, with queries that follow one another, then with the same once more."""
    nearfield = require("nearfield", "bench")
    loaded = opened(**shape)
    options = {"probes": setting["probes"], "oversample": setting["candidates"] / K, "threads": 1}
    nearfield.IVF(8, "ip", lists=1).add(np.eye(8, dtype=np.float32))  # the library itself is in memory

    def measure() -> Line:
        drop(file)
        before = bytes_read()
        start = time.perf_counter()
        index = nearfield.load(file, mmap=True)
        load_seconds, loaded_bytes = time.perf_counter() - start, bytes_read() - before
        rounds: list[list[float]] = []
        read: list[int] = []
        for _ in ("cold", "warm"):
            taken = []
            for query in loaded.queries[:COLD_QUERIES]:
                before, start = bytes_read(), time.perf_counter()
                index.search(query, K, **options)
                taken.append(time.perf_counter() - start)
                read.append(bytes_read() - before)
            rounds.append(taken)
        cold, warm = rounds
        return {
            "load_ms": 1e3 * load_seconds,
            "load_bytes": loaded_bytes,
            "first_ms": 1e3 * cold[0],
            "first_bytes": read[0],
            "cold_ms": 1e3 * median(cold[1:]),
            "cold_bytes": median(read[1:COLD_QUERIES]),
            "warm_ms": 1e3 * median(warm),
        }

    return measure


def run_mapped(options: argparse.Namespace, results: Results) -> None:
    for shape in shapes(options, QUERIES):
        setting = usual(shape)
        with tempfile.TemporaryDirectory() as folder:
            arguments = {"shape": shape, "setting": setting, "file": str(Path(folder) / "index.nearfield")}
            saved = measure_once("ivf:saving", arguments, options.cores)
            answers = [measure_once("ivf:mapped", arguments, options.cores[:1]) for _ in range(options.repeats)]
        line = {**header("mapped lists", shape), **setting, "file_bytes": saved["file_bytes"]}
        for key in ("load_ms", "load_bytes", "first_ms", "first_bytes", "cold_ms", "cold_bytes", "warm_ms"):
            line[key] = median(one[key] for one in answers)
        line["others"] = others(answers)
        results.write(line)
        progress(
            f"mmap {line['dataset']}: file of {line['file_bytes'] / 1e6:.1f} MB; loading {line['load_ms']:.1f} ms, "
            f"{line['load_bytes'] / 1e6:.2f} MB read; first query {line['first_ms']:.2f} ms, "
            f"{line['first_bytes'] / 1e6:.2f} MB; later cold ones {line['cold_ms']:.2f} ms, "
            f"{line['cold_bytes'] / 1e6:.2f} MB; warm {line['warm_ms']:.3f} ms; others used {line['others']:.2f} CPUs"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Figure
# ----------------------------------------------------------------------------------------------------------------------


def draw(lines: list[Line], path: Path) -> None:
    """Draw queries per second of each contender against recall, one panel for each dataset."""
    ticker = require("matplotlib.ticker", "plot")
    names = list(dict.fromkeys(line["dataset"] for line in lines))
    figure, panels = figures.start("ivf", len(names))
    for panel, dataset in zip(panels, names, strict=True):
        some = [line for line in lines if line["dataset"] == dataset]
        for number, name in enumerate(LISTS_CONTENDERS):
            reached = [one for line in some if "queries_per_s" in (one := line["contenders"].get(name, {}))]
            xs, ys = [one["recall"] for one in reached], [one["queries_per_s"] for one in reached]
            panel.plot(xs, ys, marker="o", color=f"C{number}", label=name, zorder=3 if name == "nearfield" else 2)
        panel.set_title(f"{dataset}, {some[0]['metric']}")
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.yaxis.set_minor_formatter(ticker.NullFormatter())
        panel.set_xlabel(f"recall@{K}")
    panels[0].set_ylabel("queries/s, one core")
    panels[-1].legend(frameon=False)
    figures.save(figure, path)
