"""Saving is atomic: whatever fails or kills it, the file holds the old index or the new one."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nearfield as nf
from nearfield._core import faults

KILLED = 137  # the exit status of a process that a fault has ended

SAVE = """
import sys
import nearfield as nf
from nearfield._core import faults
source, target, mode, at = sys.argv[1:]
index = nf.load(source)
faults.set(mode, int(at))
index.save(target)
print(faults.calls())
"""

SAVE_FOREVER = """
import sys
import nearfield as nf
*sources, target = sys.argv[1:]
indexes = [nf.load(source) for source in sources]
while True:
    for index in indexes:
        index.save(target)
    print(flush=True)
"""


@pytest.fixture(autouse=True)
def _no_fault_stays():
    yield
    faults.set("off")


def make(seed: int, n: int) -> nf.Flat:
    index = nf.Flat(8, "l2", rerank="f16")
    index.add(np.random.default_rng(seed).normal(size=(n, 8)), ids=np.arange(n)[::-1] * 7)
    return index


def contents(path: Path) -> bytes:
    """Return the bytes of an index file that opens, and is all right to the last byte."""
    nf.load(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """Return two index files of different contents and sizes."""
    folder = tmp_path_factory.mktemp("indexes")
    make(1, 1100).save(folder / "old")
    make(2, 1300).save(folder / "new")
    return folder / "old", folder / "new"


@pytest.fixture(scope="module")
def calls(files, tmp_path_factory) -> int:
    """Return how many system calls saving the new index makes."""
    target = tmp_path_factory.mktemp("count") / "index"
    index = nf.load(files[1])
    faults.set("fail")
    index.save(target)
    count = faults.calls()
    faults.set("off")
    # The file is created, all its bytes are written, they are made durable, and it takes its name.
    assert count >= 4
    return count


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_save_that_fails_at_any_call_can_be_made_again(files, calls, tmp_path, error):
    old, new = (file.read_bytes() for file in files)
    index, target = nf.load(files[1]), tmp_path / "index"
    hits = index.search(np.eye(8), 5)
    for at in range(1, calls + 1):
        target.write_bytes(old)
        faults.set("fail", at, error)
        with pytest.raises(OSError, match="index") as raised:
            index.save(target)
        faults.set("off")
        assert raised.value.errno == error
        assert raised.value.filename == str(target)
        # Only after the last call, which makes the name durable, may the new index be there already.
        assert contents(target) in ((old,) if at < calls else (old, new)), f"call {at} of {calls}"
        assert os.listdir(tmp_path) == ["index"], f"call {at} leaves a temporary file"

        again = index.search(np.eye(8), 5)
        np.testing.assert_array_equal(again.ids, hits.ids)
        np.testing.assert_array_equal(again.scores, hits.scores)
        index.save(target)
        assert contents(target) == new


def test_a_save_that_fails_where_nothing_was_leaves_nothing(files, calls, tmp_path):
    index = nf.load(files[1])
    for at in range(1, calls):
        faults.set("fail", at, errno.ENOSPC)
        with pytest.raises(OSError, match="index"):
            index.save(tmp_path / "index")
        assert os.listdir(tmp_path) == [], f"call {at} of {calls}"


def test_a_save_that_fails_keeps_what_was_removed_and_updated(calls, tmp_path):
    index, x = make(3, 1300), np.random.default_rng(4).normal(size=(1300, 8)).astype(np.float32)
    ids = index.ids()
    index.update(ids[:50], x[:50])
    index.remove(ids[100:200])
    kept = np.concatenate([ids[:100], ids[200:]])
    before = index.reconstruct(kept)
    faults.set("fail", calls // 2, errno.ENOSPC)
    with pytest.raises(OSError, match="index"):
        index.save(tmp_path / "index")
    faults.set("off")
    index.save(tmp_path / "index")
    for each in (index, nf.load(tmp_path / "index")):
        assert sorted(each.ids().tolist()) == sorted(kept.tolist())
        np.testing.assert_array_equal(each.reconstruct(kept), before)


@pytest.mark.skipif(sys.platform == "win32", reason="directories are not made durable there")
def test_a_file_system_that_cannot_sync_directories_will_do(files, calls, tmp_path):
    faults.set("fail", calls, errno.EINVAL)
    nf.load(files[1]).save(tmp_path / "index")
    assert faults.calls() == calls
    assert contents(tmp_path / "index") == files[1].read_bytes()


def test_a_process_killed_at_any_call_leaves_the_old_or_the_new_index(files, calls, tmp_path, python):
    old, new = (file.read_bytes() for file in files)
    target = tmp_path / "index"
    found = []
    for at in range(1, calls + 1):
        target.write_bytes(old)
        python(SAVE, files[1], target, "kill", at, expect=KILLED)
        found.append(contents(target))
        assert found[-1] in (old, new), f"call {at} of {calls}"
        assert os.listdir(tmp_path).count("index") == 1
    assert found[0] == old
    assert found == sorted(found, key=[old, new].index), "the new index was there, and then it was not"

    # What the killed ones left behind is in nobody's way.
    assert python(SAVE, files[1], target, "kill", 0).stdout.split() == [str(calls)]
    assert contents(target) == new


def test_a_process_killed_at_any_moment_leaves_the_old_or_the_new_index(files, tmp_path):
    old, new = (file.read_bytes() for file in files)
    rng = random.Random(5)
    interrupted = 0
    for _ in range(20):
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        target = tmp_path / "index"
        with subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, *files, target], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == os.linesep.encode(), "it saves"
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
        assert contents(target) in (old, new)
        interrupted += len(os.listdir(tmp_path)) > 1
    assert interrupted, "no process was killed while it saved"
