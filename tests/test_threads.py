"""Threads of the process: how many there are, forks, Ctrl-C, progress, and what the environment may choose."""

from __future__ import annotations

import json
import os
import sys
import threading

import numpy as np
import pytest

import nearfield as nf

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


def test_default_threads_are_those_that_this_process_may_use():
    threads = nf.cpu_info()["threads"]
    assert isinstance(threads, int)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= threads <= allowed


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
n = 250_000
many = np.broadcast_to(np.full(64, 2, np.float32), (n, 64))
index = nf.Flat(64)
index.add(many / 2)
before = index.__getstate__()
for attempt in range(60):
    try:
        threading.Timer(0.01 * (attempt % 15 + 1), os.kill, (os.getpid(), signal.SIGINT)).start()
        {call}
        time.sleep(10)  # the signal comes after the call
    except KeyboardInterrupt:
        if len(index) == n and index.reconstruct([n - 1])[0, 0] == 1:
            break
        assert len(index) in (n, 2 * n)
    index = nf.load(before)
else:
    raise AssertionError("never stopped")
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


def rows_until_progress(index):
    """So many rows that adding them reports progress."""
    rows, shares = 50_000, []
    while not shares:
        rows *= 2
        nf.Flat(index.dim).add(np.broadcast_to(np.ones(index.dim), (rows, index.dim)), progress=shares.append)
    return np.broadcast_to(np.ones(index.dim, np.float32), (2 * rows, index.dim))


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_rises_from_0_to_1_on_the_calling_thread(threads):
    index, shares, callers = nf.Flat(64), [], set()

    def progress(share):
        shares.append(share)
        callers.add(threading.get_ident())

    many = rows_until_progress(index)
    for call in (
        lambda: index.add(many, threads=threads, progress=progress),
        lambda: index.update(np.arange(len(many)), many, threads=threads, progress=progress),
    ):
        shares.clear()
        call()
        assert shares
        assert all(isinstance(share, float) and 0 <= share <= 1 for share in shares)
        assert shares == sorted(shares)
    assert callers == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_progress_function_that_raises_stops_the_call(threads):
    index, error = nf.Flat(64), StopError()
    many = rows_until_progress(index)
    index.add(np.eye(64))
    before = index.__getstate__()
    calls = []

    def progress(share):
        calls.append(share)
        raise error

    for call in (
        lambda: index.add(many, threads=threads, progress=progress),
        lambda: index.add(many, np.arange(1000, 1000 + len(many)), threads=threads, progress=progress),
    ):
        calls.clear()
        with pytest.raises(StopError) as caught:
            call()
        assert caught.value is error
        assert len(calls) == 1
        assert index.__getstate__() == before
    assert index.add(np.eye(64)).tolist() == list(range(64, 128))
    assert index.search(np.eye(64), 1).ids[:, 0].tolist() == list(range(64))


def test_progress_may_search_the_index():
    index, found = nf.Flat(64), []
    many = rows_until_progress(index)
    index.add(np.eye(64))
    index.add(many, progress=lambda share: found.append((len(index), index.search(np.eye(64)[0], 1).ids[0, 0])))
    assert set(found) == {(64, 0)}


# ----------------------------------------------------------------------------------------------------------------------
# NEARFIELD_ISA
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", nf.cpu_info()["levels"])
def test_every_level_finds_the_same_and_opens_files_of_the_others(python, level, tmp_path):
    rng = np.random.default_rng(0)
    x, q = rng.integers(-99, 100, (3000, 20)).astype(np.float32), rng.integers(-99, 100, (9, 20)).astype(np.float32)
    expected = {}
    for codec in ("f32", "f16", "bf16", "int8"):
        for metric in ("l2", "ip"):
            index = nf.Flat(20, metric, codec=codec)
            index.add(x)
            index.save(tmp_path / f"{codec}-{metric}")
            expected[f"{codec}-{metric}"] = index.search(q, 10).ids.tolist()
    np.savez(tmp_path / "data.npz", x=x, q=q)
    done = python(
        """
import json, sys
import numpy as np
import nearfield as nf
folder, (x, q) = sys.argv[1], np.load(sys.argv[1] + "/data.npz").values()
found = {}
for codec in ("f32", "f16", "bf16", "int8"):
    for metric in ("l2", "ip"):
        name = codec + "-" + metric
        found[name] = nf.load(folder + "/" + name).search(q, 10).ids.tolist()
        index = nf.Flat(20, metric, codec=codec)
        index.add(x)
        assert index.search(q, 10).ids.tolist() == found[name]
        index.save(folder + "/again-" + name)
info = nf.cpu_info()
print(json.dumps({"level": info["level"], "kernels": info["kernels"], "found": found}))
""",
        tmp_path,
        env={"NEARFIELD_ISA": level},
    )
    answer = json.loads(done.stdout)
    assert answer["level"] == level
    assert answer["found"] == expected
    levels = nf.cpu_info()["levels"]
    assert {levels.index(by) for by in answer["kernels"].values()} <= set(range(levels.index(level) + 1))
    for name, ids in expected.items():
        assert nf.load(tmp_path / f"again-{name}").search(q, 10).ids.tolist() == ids


def test_an_unknown_level_is_said_at_import(python):
    done = python("import nearfield", expect=1, env={"NEARFIELD_ISA": "sse9"})
    assert "ImportError" in done.stderr
    assert "NEARFIELD_ISA" in done.stderr
    assert "sse9" in done.stderr
    assert all(level in done.stderr for level in nf.cpu_info()["levels"])


def test_an_empty_choice_is_no_choice(python):
    done = python("import nearfield as nf; print(nf.cpu_info()['level'])", env={"NEARFIELD_ISA": ""})
    assert done.stdout.strip() == nf.cpu_info()["levels"][-1]
