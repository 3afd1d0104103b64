"""Adding, updating, removing: ids, and a model that an index must follow through any sequence of steps."""

from __future__ import annotations

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import nearfield as nf
import oracle
from conftest import KINDS
from strategies import make, seeds

LARGEST_ID = 2**63 - 1


def test_automatic_ids_continue_after_the_largest_ever_used(kind):
    index = kind.make(2, "l2")
    assert index.add(np.eye(2)).tolist() == [0, 1]
    assert index.add(np.eye(2)).tolist() == [2, 3]
    assert index.add(np.eye(2), [100, 7]).tolist() == [100, 7]
    assert index.add(np.eye(2)).tolist() == [101, 102]
    index.remove([102, 101])
    assert index.add([1, 0]).tolist() == [103]
    index = nf.load(index.__getstate__())
    index.remove([103])
    assert index.add([1, 0]).tolist() == [104]
    assert index.add([1, 0], [101]).tolist() == [101]
    assert index.add([1, 0]).tolist() == [105]
    assert sorted(index.ids().tolist()) == [0, 1, 2, 3, 7, 100, 101, 104, 105]


def test_automatic_ids_end_at_the_largest_integer(kind):
    index = kind.build("l2", np.eye(2), [LARGEST_ID, 5])
    before = index.__getstate__()
    with pytest.raises(ValueError, match="ids"):
        index.add([1, 0])
    assert index.__getstate__() == before
    assert index.add([1, 0], [6]).tolist() == [6]
    assert index.search([1, 0], 4).ids.tolist() == [[6, LARGEST_ID, 5, -1]]


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i8", "<u2"]
)
def test_ids_of_any_integer_type(kind, dtype):
    index = kind.make(3, "l2")
    top = min(np.iinfo(dtype).max, LARGEST_ID)
    ids = np.array([3, top, 0], dtype)
    added = index.add(np.eye(3), ids)
    assert added.dtype == np.int64
    assert added.tolist() == [3, top, 0]
    index.update(ids[:1], [[2, 0, 0]])
    index.remove(ids[2:])
    assert index.reconstruct(ids[:2]).tolist() == [[2, 0, 0], [0, 1, 0]]
    assert index.score([2, 0, 0], ids[:1]).tolist() == [[0]]
    assert top in index
    assert 0 not in index


def test_ids_as_scalar_list_and_view(kind):
    index = kind.make(2, "l2")
    assert index.add([1, 0], 5).tolist() == [5]
    assert index.add(np.eye(2), (6, 7)).tolist() == [6, 7]
    assert index.add(np.eye(2), np.arange(20, 8, -6)).tolist() == [20, 14]
    index.remove(5)
    assert 5 not in index
    assert index.reconstruct(np.int64(6)).tolist() == [[1, 0]]


def test_a_removed_vector_is_never_found_and_may_return(kind, metric):
    x = make("normal", 1, 50, 6, kind.codec)
    index = kind.build(metric, x)
    for id in range(0, 50, 7):
        index.remove(id)
        hits = index.search(x, 50)
        assert id not in hits.ids
        assert hits.counts.tolist() == [49] * 50
        assert index.range_search(x[id], oracle.everything(metric)).ids.size == 49
        with pytest.raises(KeyError, match=str(id)):
            index.score(x[0], id)
        index.add(x[id], [id])
        assert id in index.search(x, 50).ids


def test_an_updated_vector_replaces_the_old_one(kind, metric):
    x, fresh = make("normal", 1, 40, 5, kind.codec), make("normal", 2, 40, 5, kind.codec)
    ids = np.random.default_rng(3).permutation(1000)[:40]
    index = kind.build(metric, x, ids)
    index.update(ids[10:30], fresh[10:30])
    x[10:30] = fresh[10:30]
    assert len(index) == 40
    np.testing.assert_array_equal(index.reconstruct(ids), oracle.stored(x, kind.codec))
    kind.check_search(index.search(fresh, 40), fresh, x, ids, metric, 40)


def test_everything_can_be_removed_and_added_again(kind, metric):
    """Enough rows that the space of dead ones is given back on the way."""
    n = 5000
    dim = 1024 if (kind.coarse or kind.codec) in ("bits", "sign") else 32  # so that ids are small beside vectors
    x = make("normal", 4, n, dim, kind.codec)
    index = kind.build(metric, x)
    full = index.nbytes
    for part in np.array_split(np.random.default_rng(0).permutation(n), 7):
        index.remove(part)
    assert len(index) == 0
    assert index.nbytes < full / 2
    assert index.search(x[:2], 3).counts.tolist() == [0, 0]
    ids = index.add(x)
    assert ids.tolist() == list(range(n, 2 * n))
    kind.check_search(index.search(x[:5], 20), x[:5], x, ids, metric, 20)


def test_rounds_of_replacement_leave_what_a_new_index_holds(kind, metric):
    n, rng = 3000, np.random.default_rng(5)
    x = make("normal", 6, n, 4, kind.codec)
    index = kind.build(metric, x)
    for round in range(12):
        some = rng.permutation(n)[: n // 5]
        x[some] = make("normal", 100 + round, len(some), 4, kind.codec)
        if round % 2:
            index.update(some, x[some])
        else:
            index.remove(some)
            index.add(x[some], some)
    q = make("normal", 7, 5, 4, kind.codec)
    kind.check_search(index.search(q, 30), q, x, np.arange(n), metric, 30)
    fresh = kind.build(metric, x)
    index.__getstate__()  # saving leaves no dead row behind
    assert index.nbytes < 1.3 * (fresh.nbytes + 12 * n)  # ids that are not their row's number cost 12 bytes


class FollowsModel(RuleBasedStateMachine):
    """An index beside a dict of id to vector; every answer must be that of the dict."""

    kind = KINDS[0]

    @initialize(choice=st.integers(0, 2), dim=st.sampled_from([1, 3, 8]))
    def start(self, choice, dim):
        self.metric = self.kind.metrics[choice % len(self.kind.metrics)]
        self.dim, self.model, self.next = dim, {}, 0
        self.index = self.kind.make(dim, self.metric)

    def vectors(self, seed, n):
        return make("ties" if seed % 2 else "normal", seed, n, self.dim, self.kind.codec)

    def held(self, ids):
        empty = self.vectors(0, 0)
        return np.array([self.model[int(id)] for id in ids], empty.dtype).reshape(len(ids), self.dim)

    def some_ids(self, seed, n):
        return np.random.default_rng(seed).permutation(sorted(self.model))[:n].astype(np.int64)

    @rule(seed=seeds, n=st.integers(0, 5))
    def add_automatic_ids(self, seed, n):
        x = self.vectors(seed, n)
        ids = self.index.add(x).tolist()
        assert ids == list(range(self.next, self.next + n))
        self.model.update(zip(ids, x, strict=True))
        self.next += n

    @rule(seed=seeds, ids=st.lists(st.integers(0, 60), unique=True, max_size=5))
    def add_given_ids(self, seed, ids):
        x = self.vectors(seed, len(ids))
        taken = set(ids) & set(self.model)
        if taken:
            self.refuses(KeyError, lambda: self.index.add(x, ids))
            return
        self.index.add(x, np.array(ids, np.int64))
        self.model.update(zip(ids, x, strict=True))
        self.next = max([self.next, *(id + 1 for id in ids)])

    @rule(seed=seeds, n=st.integers(0, 5))
    def update(self, seed, n):
        ids = self.some_ids(seed, n)
        x = self.vectors(seed, len(ids))
        self.index.update(ids, x)
        self.model.update(zip(ids.tolist(), x, strict=True))

    @rule(seed=seeds, n=st.integers(0, 8))
    def remove(self, seed, n):
        ids = self.some_ids(seed, n)
        self.index.remove(ids)
        for id in ids.tolist():
            del self.model[id]

    @precondition(lambda self: self.model)
    @rule(seed=seeds)
    def refuse_unknown_and_repeated_ids(self, seed):
        known, unknown = self.some_ids(seed, 1)[0], 10**6
        one, two = self.vectors(seed, 1), self.vectors(seed, 2)
        self.refuses(KeyError, lambda: self.index.remove([known, unknown]))
        self.refuses(KeyError, lambda: self.index.update([known, unknown], two))
        self.refuses(ValueError, lambda: self.index.remove([known, known]))
        self.refuses(ValueError, lambda: self.index.update([known, known], two))
        self.refuses(KeyError, lambda: self.index.add(one, [known]))
        self.refuses(KeyError, lambda: self.index.reconstruct([unknown]))

    def refuses(self, error, call):
        before = self.index.__getstate__()
        with pytest.raises(error):
            call()
        assert self.index.__getstate__() == before

    @rule()
    def save_and_load(self):
        self.index = nf.load(self.index.__getstate__())

    @rule(seed=seeds, k=st.integers(0, 30), allow=st.booleans())
    def search(self, seed, k, allow):
        q = self.vectors(seed, 3)
        ids = self.some_ids(seed, 10) if allow else np.array(sorted(self.model), np.int64)
        x = self.held(ids)
        hits = self.index.search(q, k, filter=ids if allow else None)
        self.kind.check_search(hits, q, x, ids, self.metric, k)

    @invariant()
    def holds_the_same(self):
        assert len(self.index) == len(self.model)
        ids = sorted(self.model)
        assert sorted(self.index.ids().tolist()) == ids
        np.testing.assert_array_equal(self.index.reconstruct(ids), oracle.stored(self.held(ids), self.kind.codec))


@pytest.mark.parametrize("followed", KINDS, ids=str)
def test_index_follows_a_model(followed):
    machine = type(f"Follows{followed}", (FollowsModel,), {"kind": followed})
    hypothesis.stateful.run_state_machine_as_test(
        machine, settings=hypothesis.settings(max_examples=30, stateful_step_count=30)
    )


@given(steps=st.lists(st.integers(1, 700), min_size=1, max_size=12))
def test_look_up_of_many_ids_added_in_pieces(steps):
    """Ids come in shuffled pieces of any size, so that look-ups go through a sorted part and a part beside it."""
    total = sum(steps)
    ids = np.random.default_rng(total).permutation(10 * total)[:total]
    x = np.stack([ids % 128, ids // 128 % 128, ids // 16384], axis=1).astype(np.float32)
    index = nf.Flat(3, "l2")
    for begin, end in itertools.pairwise([0, *np.cumsum(steps)]):
        index.add(x[begin:end], ids[begin:end])
        np.testing.assert_array_equal(index.reconstruct(ids[:end]), x[:end])
    assert all(int(id) in index for id in ids)
    absent = np.setdiff1d(np.arange(10 * total), ids)
    assert not any(int(id) in index for id in absent[:500])
