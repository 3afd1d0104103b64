"""Threads of the process: how many there are, forks, Ctrl-C, progress, and files of other CPUs."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
import pytest

import nearfield as nf
import oracle

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the tasks of Linux")
with_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
with_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

BUILD = """
import json, os, signal, sys, threading, time
import numpy as np
def tasks():
    return len(os.listdir("/proc/self/task"))
before = tasks() if sys.platform.startswith("linux") else 0
import nearfield as nf
rng = np.random.default_rng(0)
x, q = rng.normal(size=(30000, 16)).astype(np.float32), rng.normal(size=(600, 16)).astype(np.float32)
index = nf.Flat(16)
"""


@on_linux
def test_import_and_single_queries_start_no_thread(python):
    python(
        BUILD
        + """
assert tasks() == before, (tasks(), before)
index.add(x, threads=1)
index.search(q[0], 10)
index.search(q, 10, threads=1)
index.range_search(q[0], 0.5)
index.score(q[0], index.ids())
assert tasks() == before, (tasks(), before)
index.search(q, 10, threads=2)
assert before <= tasks() <= before + 2, (tasks(), before)
"""
    )


@on_linux
def test_the_affinity_mask_is_respected(python):
    python(
        BUILD
        + """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
assert nf.cpu_info()["threads"] == 1
index.add(x)
index.search(q, 10)
nf.kernels.knn(q, x, 10)
assert tasks() == before, (tasks(), before)
"""
    )


@with_fork
def test_a_forked_process_searches(python):
    """The child of a process whose pool is at work, and the child's child."""
    done = python(
        BUILD
        + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
index.add(x, threads=2)
expected = index.search(q, 10, threads=2)
stop = threading.Event()
def search():
    while not stop.is_set():
        index.search(q, 10, threads=2)
background = threading.Thread(target=search)
background.start()
def check():
    for threads in (1, 2, None):
        hits = index.search(q, 10, threads=threads)
        np.testing.assert_array_equal(hits.ids, expected.ids)
        np.testing.assert_array_equal(hits.scores, expected.scores)
def forked(then):
    child = os.fork()
    if child == 0:
        try:
            then()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
for _ in range(5):
    forked(lambda: (check(), forked(check), check()))
stop.set()
background.join()
check()
print("parent done")
"""
    )
    assert done.stdout == "parent done\n"
    assert done.stderr == ""


# ----------------------------------------------------------------------------------------------------------------------
# Ctrl-C and progress
# ----------------------------------------------------------------------------------------------------------------------


@with_signals
@pytest.mark.parametrize(
    "call", ["index.add(many, threads=1)", "index.update(index.ids(), many, threads=1)"], ids=["add", "update"]
)
def test_ctrl_c_stops_changes_and_leaves_the_index_as_it_was(python, call):
    """At some moment Ctrl-C comes in the middle of a call; where it came too late, the whole change is there."""
    python(
        BUILD
        + f"""
def stopped(n):
    many = np.broadcast_to(np.full(64, 2, np.float32), (n, 64))
    start = nf.Flat(64)
    start.add(many / 2)
    before = start.__getstate__()
    for attempt in range(12):
        index = nf.load(before)
        try:
            threading.Timer(0.02 * (attempt + 1), os.kill, (os.getpid(), signal.SIGINT)).start()
            {call}
            time.sleep(10)  # the signal comes after the call
        except KeyboardInterrupt:
            if len(index) == n and index.reconstruct([n - 1])[0, 0] == 1:
                return index, before
            assert len(index) in (n, 2 * n)
    return stopped(2 * n) if n < 2_000_000 else None  # this machine is fast
index, before = stopped(250_000)
n = len(index)
assert index.__getstate__() == before
assert index.add(np.eye(64)).tolist() == list(range(n, n + 64))
assert index.search(np.eye(64)[1], 1).ids.tolist() == [[n + 1]]
"""
    )


@with_signals
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "call",
    [
        "index.search(queries, 1, threads={threads})",
        "index.range_search(queries, 0.0, threads={threads})",
        "nf.kernels.knn(queries, rows, 1, 'l2', threads={threads})",
    ],
    ids=["search", "range_search", "knn"],
)
def test_ctrl_c_stops_long_searches(python, call, threads):
    """Searches that would take far longer than this process is given: if it ends, Ctrl-C has stopped them."""
    done = python(
        BUILD
        + f"""
index = nf.Flat(2, "l2", codec="uint8")
rows = np.tile(np.arange(200, dtype=np.uint8)[:, None] + 1, (20_000, 2))
queries = np.zeros((400_000, 2), np.uint8)
index.add(rows)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    {call.format(threads=threads)}
except KeyboardInterrupt:
    print("stopped")
assert index.search(queries[0], 1).ids.tolist() == [[0]]
"""
    )
    assert done.stdout == "stopped\n"


class StopError(Exception):
    """What the progress functions below raise."""


def filled(dim=64):
    index = nf.Flat(dim)
    index.add(np.eye(dim))
    return index


def add_automatic_ids(index, n, **options):
    index.add(np.broadcast_to(np.ones(64, np.float32), (n, 64)), **options)


def add_given_ids(index, n, **options):
    index.add(np.broadcast_to(np.ones(64, np.float32), (n, 64)), np.arange(1000, 1000 + n), **options)


def update(index, n, **options):
    ids = index.add(np.broadcast_to(np.ones(64, np.float32), (n, 64)))
    index.update(ids, np.broadcast_to(np.ones(64, np.float32), (n, 64)), **options)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("change", [add_automatic_ids, add_given_ids, update])
def test_progress_rises_from_0_to_1_on_the_calling_thread(change, threads):
    shares, callers, n = [], set(), 50_000

    def progress(share):
        shares.append(share)
        callers.add(threading.get_ident())

    while not shares:  # a change that is over soon reports nothing
        n *= 2
        change(filled(), n, threads=threads, progress=progress)
    assert all(isinstance(share, float) and 0 <= share <= 1 for share in shares)
    assert shares == sorted(shares)
    assert callers == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("change", [add_automatic_ids, add_given_ids])
def test_a_progress_function_that_raises_stops_the_call(change, threads):
    error, shares, n = StopError(), [], 50_000

    def progress(share):
        shares.append(share)
        raise error

    while not shares:
        n *= 2
        index = filled()
        before = index.__getstate__()
        try:
            change(index, n, threads=threads, progress=progress)
        except StopError as caught:
            assert caught is error  # noqa: PT017
    assert len(shares) == 1
    assert len(index) == 64
    assert index.__getstate__() == before
    assert index.add(np.eye(64)).tolist() == list(range(64, 128))
    assert index.search(np.eye(64), 1).ids[:, 0].tolist() == list(range(64))


def test_progress_may_search_the_index():
    found, n = [], 50_000
    while not found:
        n *= 2
        index = filled()
        look = lambda share, index=index: found.append((len(index), index.search(np.eye(64)[0], 1).ids[0, 0]))  # noqa: E731
        add_automatic_ids(index, n, progress=look)
    assert set(found) == {(64, 0)}


@pytest.mark.parametrize("level", nf.cpu_info()["levels"])
def test_files_pass_between_levels_of_kernels(python, level, tmp_path):
    """What one level has written another opens, and finds the same in."""
    rng = np.random.default_rng(0)
    x, q = rng.integers(-99, 100, (3000, 20)).astype(np.float32) / 8, rng.normal(size=(9, 20)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, q=q)
    python(
        """
import sys
import numpy as np
import nearfield as nf
for codec in ("f32", "f16", "bf16", "int8"):
    index = nf.Flat(20, "l2", codec=codec)
    index.add(np.load(sys.argv[1] + "/data.npz")["x"])
    index.save(sys.argv[1] + "/" + codec)
""",
        tmp_path,
        env={"NEARFIELD_ISA": level},
    )
    for codec in ("f32", "f16", "bf16", "int8"):
        index = nf.load(tmp_path / codec)
        kept = oracle.stored(x, codec)
        np.testing.assert_array_equal(index.reconstruct(index.ids()), kept)
        oracle.check_hits(index.search(q, 30), q, kept, np.arange(len(x)), "l2", 30)
