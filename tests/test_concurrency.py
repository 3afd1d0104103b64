"""Searches beside each other and beside a writer, from Python threads."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nearfield as nf

# Ids by their remainder modulo 3: some stay, some are updated all the time, some come and go.
STAYING, UPDATED, FLEETING = range(3)
COUNT, ROUNDS = 126, 60


def vector(id, revision):
    """Small integers, so that every codec keeps them: whose vector it is, which revision, and whether it is whole."""
    return [id, revision, (7 * id + 13 * revision) % 101, 1]


def vectors(ids, revision):
    return np.array([vector(id, revision) for id in ids], np.float32).reshape(len(ids), 4)


def check_whole(ids, rows):
    for id, row in zip(ids.tolist(), rows.tolist(), strict=True):
        revision = int(row[1])
        assert row == vector(id, revision), f"id {id} holds {row}"
        assert id % 3 == UPDATED or revision == 0


def check_one_moment(index, staying):
    """Assert that a search, a range search and a file each see the index between two changes."""
    origin = np.zeros(4)
    everything = index.search(origin, 2 * COUNT)
    found = everything.ids[0, : everything.counts[0]]
    for ids in (found, index.range_search(origin, np.inf).ids, index.ids()):
        assert len(set(ids.tolist())) == len(ids), "an id stands twice"
        assert staying <= set(ids.tolist()), "an id that never left is missing"
    some = np.array(sorted(staying))
    check_whole(some, index.reconstruct(some))
    assert not np.isnan(index.score(origin, some)).any()
    assert index.search(origin, COUNT, filter=some).counts[0] == len(some)
    assert len(staying) <= len(index) <= COUNT
    copy = nf.load(index.__getstate__())
    check_whole(copy.ids(), copy.reconstruct(copy.ids()))
    assert staying <= set(copy.ids().tolist())


def test_readers_beside_a_writer(kind):
    """The writer replaces enough rows that the index gives back the space of dead ones on the way."""
    ids = np.arange(COUNT)
    index = kind.build("l2", vectors(ids, 0))
    updated, fleeting = ids[ids % 3 == UPDATED], ids[ids % 3 == FLEETING]
    staying = set(ids[ids % 3 != FLEETING].tolist())
    done, moments = threading.Event(), itertools.count()

    def read():
        while not done.is_set():
            check_one_moment(index, staying)
            next(moments)

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for revision in range(1, ROUNDS):
                index.update(updated, vectors(updated, revision))
                index.remove(fleeting)
                assert not set(fleeting.tolist()) & set(index.search(np.zeros(4), COUNT).ids[0].tolist())
                index.add(vectors(fleeting, 0), fleeting)
                assert index.search(np.zeros(4), COUNT).counts[0] == COUNT, "an acknowledged add is missing"
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert next(moments) > 0
    check_whole(index.ids(), index.reconstruct(index.ids()))
    assert index.reconstruct(updated)[:, 1].tolist() == [ROUNDS - 1] * len(updated)


def test_writers_wait_for_each_other(kind):
    index = kind.make(4, "l2")
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda i: index.add(vectors([i % 100] * 25, 0)), range(200)))
    assert sorted(np.concatenate(given).tolist()) == list(range(5000))
    assert len(index) == 5000
    for i, ids in enumerate(given):
        np.testing.assert_array_equal(index.reconstruct(ids), vectors([i % 100] * 25, 0))


def test_searches_beside_each_other(kind, metric):
    rng = np.random.default_rng(0)
    x, q = (kind.vectors(rng.integers(0, 100, shape) % 3) for shape in ((3000, 6), (40, 6)))
    index = kind.build(metric, x)
    expected = index.search(q, 10)
    with ThreadPoolExecutor(8) as pool:
        for hits in pool.map(lambda i: index.search(q, 10, threads=1 + i % 3), range(24)):
            np.testing.assert_array_equal(hits.ids, expected.ids)
            np.testing.assert_array_equal(hits.scores, expected.scores)


@pytest.fixture
def patient_interpreter():
    """An interpreter that never takes its lock away from a thread: others run only when a call lets go of it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


CALLS = {
    "add": lambda index, x, path: nf.Flat(16, codec="f32").add(x),
    "update": lambda index, x, path: index.update(np.arange(len(x)), x),
    "search": lambda index, x, path: index.search(x[:200], 10, threads=1),
    "range_search": lambda index, x, path: index.range_search(x[:50], 0.9, threads=1),
    "score": lambda index, x, path: index.score(x[:50], np.arange(len(x)), threads=1),
    "reconstruct": lambda index, x, path: index.reconstruct(np.arange(len(x))),
    "prepare_filter": lambda index, x, path: index.prepare_filter(np.arange(len(x))),
    "save": lambda index, x, path: index.save(path),
    "load": lambda index, x, path: nf.load(path),
    "knn": lambda index, x, path: nf.kernels.knn(x[:100], x, 10, threads=1),
    "scores": lambda index, x, path: nf.kernels.scores(x[:100], x, threads=1),
    "topk": lambda index, x, path: nf.kernels.topk(x.T, 100),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("patient_interpreter")
def test_every_call_releases_the_interpreter_lock(call, tmp_path):
    x = np.random.default_rng(0).normal(size=(20000, 16)).astype(np.float32)
    index, path = nf.Flat(16), tmp_path / "index"
    index.add(x)
    index.save(path)
    steps, done = itertools.count(), threading.Event()

    def count():
        while not done.is_set():
            next(steps)
            time.sleep(0)

    other = threading.Thread(target=count)
    other.start()
    try:
        for _ in range(300):
            before = next(steps)
            CALLS[call](index, x, path)
            if next(steps) > before + 1:
                break
        else:
            pytest.fail("no other thread ever ran during the call")
    finally:
        done.set()
        other.join()
