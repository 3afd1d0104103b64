"""
Child processes that measure: pinned to given CPUs, set up once, then asked as often as the parent likes.

A child is ``python -m bench.worker`` with a JSON specification as its argument. It imports a set-up function, calls it,
and gets back a measuring function, which it calls for every line on its standard input and whose result it writes as
one line of JSON. So contenders stay set up side by side while the parent lets them take turns.

Every answer says how much CPU time other processes used meanwhile. Libraries whose threads wait by spinning
suffer from company far more than others do, so a comparison on a busy machine says little, even as a ratio.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from .environment import ROOT, BenchError, require

Measure = Callable[..., dict[str, Any]]

# One thread pool per library; each is told how many threads a contender may use.
THREAD_VARIABLES = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
]


class Worker:
    """
    A measuring child.

    Parameters
    ----------
    target : str
        The set-up function, as "module:function" within this package.
    arguments : dict
        Its keyword arguments (JSON).
    cores : list of int
        CPUs that the child may use; its libraries get as many threads. Empty: not pinned.
    environment : dict, optional
        Variables on top of the parent's.
    """

    def __init__(
        self, target: str, arguments: dict[str, Any], cores: list[int], environment: dict[str, str] | None = None
    ) -> None:
        specification = {"target": target, "arguments": arguments, "cores": cores}
        threads = {variable: str(len(cores)) for variable in THREAD_VARIABLES} if cores else {}
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._what = f"{target} {json.dumps(arguments)}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", json.dumps(specification)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **(environment or {})},
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """Let the child measure once."""
        try:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            _, errors = self._process.communicate()
            lines = errors.strip().splitlines() or [f"ended with code {self._process.returncode}"]
            raise BenchError(f"{self._what}: {lines[-1]}")
        return json.loads(answer)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def measure_once(target: str, arguments: dict[str, Any], cores: list[int], **question: Any) -> dict[str, Any]:
    """Start a child for a single measurement."""
    with Worker(target, arguments, cores) as worker:
        return worker.ask(**question)


def observed(measure: Measure, question: dict[str, Any]) -> dict[str, Any]:
    """Measure, and see how busy other processes kept the machine."""
    psutil = require("psutil", "bench")

    def used() -> float:
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
        return busy - time.process_time()

    start, before = time.perf_counter(), used()
    answer = measure(**question)
    seconds = time.perf_counter() - start
    return {**answer, "others_s": max(0.0, used() - before), "watched_s": seconds}


def others(answers: list[dict[str, Any]]) -> float:
    """CPUs that other processes used on average during some measurements."""
    return sum(one["others_s"] for one in answers) / max(1e-9, sum(one["watched_s"] for one in answers))


def main() -> None:
    specification = json.loads(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints does not mix with the answers
    if specification["cores"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, specification["cores"])
    module, function = specification["target"].split(":")
    set_up: Callable[..., Measure] = getattr(importlib.import_module(f"bench.{module}"), function)
    try:
        measure = set_up(**specification["arguments"])
        for question in sys.stdin:
            answers.write(json.dumps(observed(measure, json.loads(question))) + "\n")
            answers.flush()
    except BenchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
