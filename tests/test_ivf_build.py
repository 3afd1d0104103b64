"""Builds of files in bounded memory: from arrays and batches, the same as any other index, or nothing at all."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import nearfield as nf
from nearfield._core import faults
from test_files import metadata_of, to_bytes
from test_ivf import ALL, EVERY, clustered, members, recall, same

DIM = 20
X, QUERIES = clustered(1, 5000, DIM), clustered(2, 100, DIM)
X.flags.writeable = False
BUDGET = "8 MB"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def batches(x: np.ndarray = X, size: int = 700):
    for first in range(0, len(x), size):
        yield x[first : first + size]


def built(path: Path, source=X, metric: str = "cosine", lists: int | None = 60, budget=BUDGET, **options) -> nf.IVF:
    index = nf.IVF(DIM, metric, lists, **options)
    index.build(source, path, memory_budget=budget)
    return index


def check_contents(data: bytes, expected: bytes) -> None:
    """Assert that two files say the same, whatever the order of their arrays."""
    found, right = safetensors.numpy.load(data), safetensors.numpy.load(expected)
    names = {name for name in right if not name.startswith("_pad")}
    assert {name for name in found if not name.startswith("_pad")} == names
    for name in names:
        np.testing.assert_array_equal(found[name].view(np.uint8), right[name].view(np.uint8), err_msg=name)
    metadata = [
        {key: value for key, value in metadata_of(each).items() if not key.startswith("checksum")}
        for each in (data, expected)
    ]
    assert metadata[0] == metadata[1]


def on_disk(folder: Path) -> np.ndarray:
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


SOURCES = {
    "array": lambda folder: X,
    "mapped": on_disk,
    "memmap": lambda folder: np.memmap(on_disk(folder).filename, np.float32, "r", offset=128, shape=X.shape),
    "wide rows": lambda folder: np.hstack([X, X])[:, :DIM],
    "every second row": lambda folder: np.repeat(X, 2, axis=0)[::2],
    "columns first": lambda folder: np.asfortranarray(X),
    "double": lambda folder: X.astype(np.float64),
    "generator": lambda folder: batches(),
    "single vectors": lambda folder: (x[np.newaxis] for x in X),
    "one batch": lambda folder: [X],
    "list of batches": lambda folder: list(batches()),
    "iterator with empty batches": lambda folder: iter([X[:0], X[:4999], X[:0], X[4999:], X[:0]]),
    "lists": lambda folder: (part.tolist() for part in batches()),
    "batches of several types": lambda folder: iter([X[:9].astype(np.float64), X[9:], np.asfortranarray(X[:0])]),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> bytes:
    """The file of the array."""
    path = tmp_path_factory.mktemp("expected") / "index"
    built(path)
    return path.read_bytes()


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_file(source, expected, tmp_path):
    (tmp_path / "out").mkdir()
    built(tmp_path / "out" / "index", SOURCES[source](tmp_path))
    assert (tmp_path / "out" / "index").read_bytes() == expected
    assert os.listdir(tmp_path / "out") == ["index"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_file_at_any_number_of_threads(threads, expected, tmp_path):
    for number, source in enumerate((X, batches())):
        index = nf.IVF(DIM, lists=60)
        index.build(source, tmp_path / str(number), memory_budget=BUDGET, threads=threads)
        assert (tmp_path / str(number)).read_bytes() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint8, np.int64, np.float64])
def test_elements_of_any_type(dtype, tmp_path):
    x = np.abs(X * 20).astype(dtype)
    built(tmp_path / "a", x)
    built(tmp_path / "b", x.astype(np.float32))
    built(tmp_path / "c", batches(x))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


OPTIONS = {
    "default": {},
    "soar": {"soar": 1.0},
    "pq4": {"codec": "pq4", "rerank": "f32"},
    "f32": {"codec": "f32", "rerank": None},
    "lvq4x8": {"codec": "lvq4x8", "rerank": None},
    "soar, no rerank": {"codec": "rabitq4", "rerank": None, "soar": 0.7},
    "prefix": {"codec": (nf.Prefix(12), "sq8"), "list_dims": 6},
    "seed": {"seed": 5, "probes": 9, "oversample": 3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("sort", ["array", "batches"])
def test_an_index_that_was_trained_builds_what_it_would_hold(options, sort, metric, tmp_path):
    index = nf.IVF(DIM, metric, 40, **options)
    index.train(X[:2000])
    whole = nf.load(to_bytes(index))
    whole.add(X)
    index.build(X if sort == "array" else batches(size=999), tmp_path / "index", memory_budget="2 MB")
    check_contents((tmp_path / "index").read_bytes(), to_bytes(whole))
    assert len(index) == len(X)
    for call in ({}, {"probes": 1}, {"exact": True}, {"filter": np.arange(0, 5000, 100)}):
        same(index.search(QUERIES, 10, **call), whole.search(QUERIES, 10, **call))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_file_that_was_built_is_as_good_as_any(options, metric, tmp_path):
    index = built(tmp_path / "index", batches(), metric, budget="1 MB", **options)
    assert isinstance(index, nf.IVF)
    assert (len(index), index.lists, index.metric) == (5000, 60, metric)
    np.testing.assert_array_equal(index.ids(), np.arange(5000))
    copies = 2 if index.soar else 1
    assert sorted(np.concatenate(members(index)).tolist()) == sorted(list(range(5000)) * copies)
    for other in (nf.load(tmp_path / "index"), nf.load(tmp_path / "index", mmap=True, verify=True)):
        same(other.search(QUERIES, 10), index.search(QUERIES, 10))
        check_contents(to_bytes(other), (tmp_path / "index").read_bytes())
    hits = index.search(QUERIES, 10, probes=ALL, oversample=EVERY if index.rerank else None)
    same(hits, index.search(QUERIES, 10, exact=True))
    # It goes on as an index in memory does.
    ids = index.add(clustered(3, 50, DIM))
    assert ids.tolist() == list(range(5000, 5050))
    index.update(range(100), clustered(4, 100, DIM))
    index.remove(range(100, 3000))
    assert index.search(QUERIES, 3000, probes=1).counts.tolist() == [2150] * len(QUERIES)
    before = index.search(QUERIES, 10)
    index.save(tmp_path / "index")
    same(nf.load(tmp_path / "index").search(QUERIES, 10), before)


@pytest.mark.parametrize("budget", [600_000, "1 MB", "1 MiB", "64 MB", "2 GB"])
def test_recall_at_any_budget_is_that_of_an_index_in_memory(budget, metric, tmp_path):
    memory = nf.IVF(DIM, metric, 60)
    memory.add(X)
    index = built(tmp_path / "index", metric=metric, budget=budget)
    for probes in (2, 6):
        assert recall(index, QUERIES, probes=probes) >= recall(memory, QUERIES, probes=probes) - 0.02


def test_how_many_lists_there_are_unless_it_is_said(tmp_path):
    in_memory = nf.IVF(DIM)
    in_memory.add(X)
    for source in (X, batches()):
        assert built(tmp_path / "index", source, lists=None).lists == in_memory.lists


@pytest.mark.parametrize("n", [1, 2, 31, 33, 100])
def test_few_vectors(n, tmp_path):
    index = built(tmp_path / "index", X[:n], lists=None)
    assert index.search(X[:n], 1, probes=ALL, oversample=EVERY).ids[:, 0].tolist() == list(range(n))
    assert index.search(X[:n], n + 3, probes=1).counts.tolist() == [n] * n


def test_vectors_that_are_all_the_same(tmp_path):
    index = built(tmp_path / "index", np.ones((3000, DIM)), lists=10)
    assert index.search(np.ones(DIM), 5, probes=ALL, oversample=EVERY).ids.tolist() == [[0, 1, 2, 3, 4]]


def test_progress(tmp_path):
    for source in (X, batches()):
        seen = []
        nf.IVF(DIM, lists=60).build(source, tmp_path / "index", memory_budget=BUDGET, progress=seen.append)
        assert seen == sorted(seen)
        assert 0 <= seen[0] <= seen[-1] <= 1


# ----------------------------------------------------------------------------------------------------------------------
# All or nothing
# ----------------------------------------------------------------------------------------------------------------------


def refuses(folder: Path, source, error, message, old: bytes | None = None, budget=BUDGET, index=None, **run) -> None:
    """Assert that a build fails as documented and leaves the index, and the folder, as they were."""
    index = nf.IVF(DIM, lists=60) if index is None else index
    before = to_bytes(index)
    if old is not None:
        (folder / "index").write_bytes(old)
    with pytest.raises(error, match=message or None):
        index.build(source, folder / "index", memory_budget=budget, **run)
    assert to_bytes(index) == before
    assert sorted(path.name for path in folder.iterdir()) == ([] if old is None else ["index"])
    if old is not None:
        assert (folder / "index").read_bytes() == old


def half_way(wrong):
    yield X[:3000]
    yield wrong() if callable(wrong) else wrong
    yield X[3000:]


def with_value(value) -> np.ndarray:
    x = X[:100].copy()
    x[33, 4] = value
    return x


def breaks():
    raise RuntimeError("the source ends early")


BAD_BATCHES = {
    "another dimension": (X[:10, :7], ValueError, f"batch 1.*7.*{DIM}"),
    "NaN": (with_value(np.nan), ValueError, r"batch 1.*row 33.*NaN"),
    "infinity": (with_value(np.inf), ValueError, r"batch 1.*row 33.*infinity"),
    "too large for f16": (with_value(1e6), ValueError, "f16"),
    "strings": ([["a"] * DIM], TypeError, "batch 1"),
    "None": (None, TypeError, "batch 1"),
    "three dimensions": (X[:10].reshape(1, 10, DIM), ValueError, "batch 1.*3 dimensions"),
    "an exception": (breaks, RuntimeError, "ends early"),
    "Ctrl-C": (lambda: (_ for _ in ()).throw(KeyboardInterrupt), KeyboardInterrupt, ""),
}


@pytest.mark.parametrize(("wrong", "error", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_source_that_breaks_half_way_leaves_nothing(wrong, error, message, expected, tmp_path):
    source = half_way(wrong)
    if error is KeyboardInterrupt:
        source = (next(half_way(wrong)) if i == 0 else wrong().__next__() for i in range(3))
    index = nf.IVF(DIM, lists=60)
    refuses(tmp_path, source, error, message, index=index)
    refuses(tmp_path, half_way(wrong) if error is not KeyboardInterrupt else iter([X, None]), Exception, "", expected)
    index.build(batches(), tmp_path / "index", memory_budget=BUDGET)  # it is in order
    assert (tmp_path / "index").read_bytes() == expected


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (X[:, :7], ValueError, f"7.*{DIM}"),
        (np.where(np.arange(len(X))[:, np.newaxis] == 4321, np.nan, X), ValueError, "row 4321.*NaN"),
        (np.where(np.arange(len(X))[:, np.newaxis] == 4321, 1e6, X), ValueError, "row 4321.*f16"),
        (np.where(np.arange(len(X))[:, np.newaxis] == 4321, np.nan, X.astype(np.float32)), ValueError, "row 4321"),
        (X[:0], ValueError, "no vectors|lists"),
        (iter([]), ValueError, "no vectors|lists"),
        (X[:59], ValueError, r"lists: 60 .*\b59\b"),
        (batches(X[:59]), ValueError, r"lists: 60 .*\b59\b"),
        (3, (TypeError, ValueError), "source"),
        (None, TypeError, "source"),
        ("vectors.npy", (TypeError, ValueError), "source"),
        (X.reshape(50, 100, DIM)[0, 0, 0], (TypeError, ValueError), "source"),
        (np.array([["a"] * DIM]), TypeError, "source"),
    ],
)
def test_bad_sources(wrong, error, message, tmp_path):
    refuses(tmp_path, wrong, error, message)


@pytest.mark.parametrize(
    ("budget", "error"),
    [
        (0, ValueError),
        (1, ValueError),
        (20_000, ValueError),
        (-5, ValueError),
        ("1 KB", ValueError),
        ("plenty", ValueError),
        ("", ValueError),
        (None, TypeError),
        ([1], TypeError),
    ],
)
def test_bad_budgets(budget, error, tmp_path):
    for source in (X, batches()):
        refuses(tmp_path, source, error, "memory_budget", budget=budget)


def test_a_budget_that_is_too_small_says_what_is_needed(tmp_path):
    with pytest.raises(ValueError, match=r"memory_budget: 20000 .*expected at least (\d+)") as raised:
        built(tmp_path / "index", budget=20_000)
    needed = int("".join(c for c in str(raised.value).split("at least")[1].split(" for ")[0] if c.isdigit()))
    for _ in range(3):  # for the lists, and then for the vectors
        try:
            built(tmp_path / "index", budget=needed)
            return
        except ValueError as error:
            more = int("".join(c for c in str(error).split("at least")[1].split(" for ")[0] if c.isdigit()))
            assert more > needed
            needed = more
    pytest.fail("the budget that was asked for does not do")


@pytest.mark.parametrize("kind", ["array", "batches"])
@pytest.mark.parametrize("share", [0, 0.3, 0.55, 0.7, 0.95])
def test_an_interrupted_build_leaves_nothing(share, kind, expected, tmp_path):
    def stop(done):
        if done >= share:
            raise KeyboardInterrupt

    for old in (None, expected):
        source = X if kind == "array" else batches()
        refuses(tmp_path, source, KeyboardInterrupt, "", old, progress=stop)


def test_an_index_that_holds_vectors_builds_nothing(tmp_path):
    index = nf.IVF(DIM, lists=60)
    index.add(X[:100])
    for source in (X, batches()):
        refuses(tmp_path, source, ValueError, "holds vectors|empty", index=index)
    other = built(tmp_path / "index")
    with pytest.raises(ValueError, match=r"holds vectors|empty"):
        other.build(X, tmp_path / "other", memory_budget=BUDGET)


def test_bad_paths(tmp_path):
    index = nf.IVF(DIM, lists=60)
    for source in (X, batches()):
        with pytest.raises(FileNotFoundError):
            index.build(source, tmp_path / "nowhere" / "index", memory_budget=BUDGET)
        with pytest.raises(OSError, match=tmp_path.name):
            index.build(source, tmp_path, memory_budget=BUDGET)
        with pytest.raises(TypeError, match="path"):
            index.build(source, 3, memory_budget=BUDGET)
    assert len(index) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_codec_that_learns_by_numpy_is_trained_first(tmp_path):
    index = nf.IVF(DIM, lists=60, codec=(nf.PCA(8), "sq8"))
    refuses(tmp_path, X, ValueError, "codec.*train", index=index)
    index.train(X)
    index.build(batches(), tmp_path / "index", memory_budget=BUDGET)
    assert recall(index, QUERIES, probes=ALL, oversample=50) > 0.9


def test_disks_that_fail(expected, tmp_path):
    """At every kind of call: files created, written, read back, made durable and renamed."""
    try:
        faults.set("fail")
        built(tmp_path / "index", batches())
        calls = faults.calls()
        assert calls >= 4
        for at in sorted({*range(1, min(calls, 12)), *range(1, calls + 1, max(1, calls // 12)), calls - 1}):
            (tmp_path / "index").write_bytes(b"old")
            faults.set("fail", at, errno.ENOSPC)
            with pytest.raises(OSError) as raised:  # noqa: PT011
                built(tmp_path / "index", batches())
            faults.set("off")
            assert raised.value.errno == errno.ENOSPC, at
            assert os.listdir(tmp_path) == ["index"], f"call {at} of {calls} leaves a temporary file"
            assert (tmp_path / "index").read_bytes() in ((b"old",) if at < calls else (b"old", expected))
    finally:
        faults.set("off")


def test_a_process_that_is_killed_leaves_the_old_file(tmp_path, python):
    code = """
    import os, signal, sys
    import numpy as np
    import nearfield as nf
    def end(share):
        if share > 0.7:
            os.kill(os.getpid(), signal.SIGKILL)
    nf.IVF(8, lists=20).build(np.random.default_rng(0).normal(size=(9000, 8)), sys.argv[1], memory_budget="1 MB",
                              progress=end)
    """
    if not hasattr(os, "kill") or sys.platform == "win32":
        pytest.skip("no signals here")
    (tmp_path / "index").write_bytes(b"old")
    python(code, tmp_path / "index", expect=-9)
    assert (tmp_path / "index").read_bytes() == b"old"


# ----------------------------------------------------------------------------------------------------------------------
# Memory
# ----------------------------------------------------------------------------------------------------------------------

MEASURE = """
    import re, sys, threading, time
    import numpy as np
    import nearfield as nf
    path, out, kind, budget, codec, soar, skewed = sys.argv[1:]
    x = np.load(path, mmap_mode="r")
    def anonymous():
        return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
    options = {"codec": codec, "soar": float(soar) or None}
    nf.IVF(x.shape[1], "l2", **options).build(np.array(x[:2000]), out, memory_budget="20 MB")  # threads come
    before, peak, done = anonymous(), 0, threading.Event()
    def watch():
        global peak
        while not done.is_set():
            peak = max(peak, anonymous())
            time.sleep(0.001)
    thread = threading.Thread(target=watch)
    thread.start()
    index = nf.IVF(x.shape[1], "l2", **options)
    source = x if kind == "array" else (np.asarray(x[i : i + 1000]) for i in range(0, len(x), 1000))
    index.build(source, out, memory_budget=int(budget))
    done.set()
    thread.join()
    assert len(index) == len(x)
    print(peak - before)
"""


@linux
@pytest.mark.parametrize(
    ("kind", "codec", "soar", "skewed"),
    [
        ("array", "rabitq1", 0, False),
        ("batches", "rabitq1", 0, False),
        ("array", "f32", 0, False),
        ("batches", "sq8", 1, False),
        ("array", "rabitq1", 0, True),
    ],
)
def test_a_build_keeps_within_its_budget(kind, codec, soar, skewed, tmp_path, python):
    """Anonymous memory, with something for the interpreter; the budget is a quarter of the data."""
    x = clustered(1, 30000, 200, 300)
    if skewed:  # most vectors are in one list
        x[: len(x) // 2] = x[0]
    np.save(tmp_path / "x.npy", x)
    budget = x.nbytes // 4
    arguments = (tmp_path / "x.npy", tmp_path / "index", kind, budget, codec, soar, skewed)
    peak = int(python(MEASURE, *arguments).stdout)
    assert peak <= budget + 3e6, f"{peak / budget:.2f} of the budget"


MAPPED = """
    import ctypes, mmap, os, sys
    import numpy as np
    import nearfield as nf
    path = sys.argv[1]
    size = os.path.getsize(path)
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    view = mmap.mmap(fd, size)
    start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(view)))
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    def resident():
        assert ctypes.CDLL(None).mincore(start, ctypes.c_size_t(size), pages) == 0
        return sum(page & 1 for page in pages) * mmap.PAGESIZE
    cold = resident()
    index = nf.load(path, mmap=True)
    opened = resident()
    query = np.random.default_rng(0).normal(size=index.dim)
    index.search(query, 10, probes=2, oversample=2)
    print(cold, opened, resident())
"""


@linux
def test_a_first_query_of_a_mapped_file_reads_what_it_visits(tmp_path, python):
    x = clustered(1, 40000, 256, 300)
    index = nf.IVF(256, lists=200)
    index.build(x, tmp_path / "index", memory_budget="40 MB")
    cold, opened, searched = map(int, python(MAPPED, tmp_path / "index").stdout.split())
    size = (tmp_path / "index").stat().st_size
    if cold > size // 10:
        pytest.skip("this file system keeps pages in memory")
    assert opened < size // 10
    assert searched < opened + size // 10
