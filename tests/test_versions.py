"""Vectors of several models side by side: a search of one version is that of an index which holds nothing else."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from functools import partial
from typing import Any

import hypothesis
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import nearfield as nf
import oracle
from strategies import seeds
from test_files import metadata_of, rewritten, to_bytes

DIM = 20


@dataclass(frozen=True)
class Setting:
    """A kind of index, and vectors for it that are different for each model."""

    name: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return self.name

    @property
    def bits(self) -> bool:
        return self.options["metric"] in oracle.BIT_METRICS

    @property
    def everything(self) -> float:
        return oracle.everything(self.options["metric"])

    def make(self) -> nf.Flat:
        return nf.Flat(DIM, **self.options)

    def vectors(self, seed: int, n: int, model: int = 0) -> np.ndarray:
        x = np.random.default_rng(seed).normal(size=(n, DIM)) * (1 + model) + 0.5 * model * np.linspace(-1, 1, DIM)
        return x > 0 if self.bits else x.astype(np.float32)


SETTINGS = [
    Setting("f32", {"metric": "l2"}),
    Setting("int8, rerank f16", {"metric": "ip", "codec": "int8", "rerank": "f16"}),
    Setting("hamming", {"metric": "hamming"}),
    Setting("jaccard", {"metric": "jaccard"}),
    Setting("sign", {"metric": "cosine", "codec": "sign"}),
    Setting("sign by the mean", {"metric": "ip", "codec": nf.Sign("mean")}),
    Setting("sign, rotated, float queries", {"metric": "l2", "codec": nf.Sign("median", "random", "float")}),
    Setting("two bits", {"metric": "cosine", "codec": nf.RecurrentBinary("mean")}),
    Setting("two bits, rerank f32", {"metric": "l2", "codec": "recurrent_binary", "rerank": "f32", "oversample": 3}),
]


@pytest.fixture(params=SETTINGS, ids=str)
def setting(request) -> Setting:
    return request.param


class Models:
    """An index of several versions, and an index for each version alone."""

    def __init__(self, setting: Setting, names=("a", "b", "")):
        self.setting, self.index = setting, setting.make()
        self.alone = {name: setting.make() for name in names}
        self.ids: dict[str, list[int]] = {name: [] for name in names}
        self.next = 0

    def add(self, name: str, n: int, seed: int, ids: np.ndarray | None = None) -> np.ndarray:
        x = self.setting.vectors(seed, n, list(self.alone).index(name))
        ids = np.arange(self.next, self.next + n) if ids is None else ids
        self.next = max([self.next, *(ids + 1).tolist()])
        options = {} if name == "" else {"version": name}
        np.testing.assert_array_equal(self.index.add(x, ids, **options), ids)
        self.alone[name].add(x, ids)
        self.ids[name] += ids.tolist()
        return ids

    def update(self, name: str, ids, seed: int) -> None:
        x = self.setting.vectors(seed, len(ids), list(self.alone).index(name))
        self.index.update(ids, x)
        self.alone[name].update(ids, x)

    def remove(self, ids) -> None:
        self.index.remove(ids)
        gone = set(np.asarray(ids).tolist())
        for name, own in self.ids.items():
            self.alone[name].remove([id for id in own if id in gone])
            self.ids[name] = [id for id in own if id not in gone]

    def check(self, index: nf.Flat | None = None) -> None:
        """Assert that every version answers as the index that holds it alone."""
        index = index or self.index
        held = {name: len(ids) for name, ids in self.ids.items() if name in index.versions}
        assert index.versions == held
        assert len(index) == sum(len(ids) for ids in self.ids.values())
        for place, name in enumerate(self.alone):
            if name not in held:
                continue
            alone, ids = self.alone[name], np.array(self.ids[name], np.int64)
            queries = self.setting.vectors(99, 5, place)
            for size in (1, 5):
                for k in (0, 1, 10, len(ids) + 7):
                    found, expected = (each.search(queries[:size], k, **how) for each, how in
                                       [(index, {"version": name}), (alone, {})])  # fmt: skip
                    self.same(found, expected)
                    assert set(found.ids[found.ids >= 0].tolist()) <= set(ids.tolist())
            if index.rerank is not None:
                for options in ({"exact": True}, {"oversample": 1}, {"oversample": 50}):
                    self.same(index.search(queries, 9, version=name, **options), alone.search(queries, 9, **options))
            some = np.concatenate([np.random.default_rng(1).permutation(ids)[: len(ids) // 2], [10**9]])
            others = np.concatenate([some, *(np.array(own[:5], np.int64) for own in self.ids.values())])
            kept = np.intersect1d(others, ids)
            for filter in (others, np.isin(index.ids(), others), index.prepare_filter(others)):
                for k in (3, len(ids) + 7):
                    found = index.search(queries, k, version=name, filter=filter)
                    self.same(found, alone.search(queries, k, filter=kept))
                    assert found.counts.tolist() == [min(k, len(kept))] * 5
            for radius in (self.setting.everything, float(np.median([*alone.score(queries[0], ids).ravel(), 0]))):
                found, expected = index.range_search(queries, radius, version=name), alone.range_search(queries, radius)
                np.testing.assert_array_equal(found.offsets, expected.offsets)
                np.testing.assert_array_equal(found.ids, expected.ids)
                np.testing.assert_array_equal(found.scores, expected.scores)
            np.testing.assert_array_equal(index.score(queries, ids, version=name), alone.score(queries, ids))
            np.testing.assert_array_equal(index.codes(ids), alone.codes(ids))
            np.testing.assert_array_equal(index.reconstruct(ids), alone.reconstruct(ids))

    def same(self, found: nf.Hits, expected: nf.Hits) -> None:
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.counts, expected.counts)


# ----------------------------------------------------------------------------------------------------------------------
# One version, alone among others
# ----------------------------------------------------------------------------------------------------------------------


def test_versions_one_after_the_other(setting):
    models = Models(setting)
    for seed, (name, n) in enumerate([("a", 300), ("b", 200), ("", 100)]):
        models.add(name, n, seed)
        models.check()
    assert list(models.index.versions.items()) == [("a", 300), ("b", 200), ("", 100)]


def test_versions_in_turn_with_ids_of_their_own(setting):
    models = Models(setting)
    ids = np.random.default_rng(0).permutation(5000)
    for turn in range(12):
        models.add(["b", "a", "", "a"][turn % 4], 30, turn, ids[turn * 30 : turn * 30 + 30])
    models.check()
    assert list(models.index.versions) == ["b", "a", ""]


@pytest.mark.parametrize("setting", [SETTINGS[0], Setting("cosine", {"metric": "cosine"}), *SETTINGS[2:4]], ids=str)
def test_versions_among_many_rows(setting):
    """Enough rows for the screen, and for more than one thread; one version is rare."""
    models = Models(setting)
    for turn, (name, n) in enumerate([("a", 3000), ("b", 40), ("", 5000), ("a", 2000), ("b", 3)]):
        models.add(name, n, turn)
    models.check()


def test_changes_and_compaction(setting):
    """More than a quarter of the rows die, so that the rows move."""
    models = Models(setting)
    for turn, name in enumerate(["a", "b", "a", "", "b"]):
        models.add(name, 1500, turn)
    rng = np.random.default_rng(3)
    models.update("a", rng.permutation(models.ids["a"])[:800], 20)
    models.check()
    models.remove(rng.permutation(models.next)[:2500])
    models.check()
    models.update("b", rng.permutation(models.ids["b"])[:700], 21)
    models.add("a", 100, 22)
    models.check()
    models.remove(models.ids["b"].copy())
    models.check()
    assert models.index.versions["b"] == 0
    assert list(models.index.versions) == ["a", "b", ""]
    models.add("b", 50, 23)
    models.check()
    models.remove(models.index.ids())
    models.check()
    assert models.index.versions == {"a": 0, "b": 0, "": 0}
    assert models.index.search(setting.vectors(1, 2), 3, version="b").counts.tolist() == [0, 0]
    models.add("", 20, 24)
    models.check()


def test_files_keep_versions(setting, tmp_path):
    models = Models(setting)
    for turn, name in enumerate(["a", "", "a", "b"]):
        models.add(name, 60, turn)
    models.remove(models.ids[""].copy())
    models.update("a", models.ids["a"][:20], 9)
    models.index.save(tmp_path / "index")
    data = to_bytes(models.index)
    backs = [
        nf.load(tmp_path / "index"),
        nf.load(tmp_path / "index", mmap=True),
        nf.load(tmp_path / "index", mmap="rerank"),
        nf.load(data),
        nf.load(rewritten(data)),
        pickle.loads(pickle.dumps(models.index)),
        copy.deepcopy(models.index),
    ]
    for back in [*backs, models.index]:
        assert list(back.versions) == ["a", "", "b"]
        models.check(back)
        assert to_bytes(back) == data
    more = setting.vectors(30, 10, 1)
    for back in backs:  # goes on as the index that was saved
        back.add(more, version="b")
        back.add(setting.vectors(31, 10, 3), version="c")
        assert list(back.versions) == ["a", "", "b", "c"]
        assert back.versions["b"] == models.index.versions["b"] + 10
        assert to_bytes(back) == to_bytes(backs[0])
    models.check()


def test_pieces_and_threads_make_no_difference(setting):
    x = [setting.vectors(seed, 700, seed % 2) for seed in range(4)]
    files = []
    for threads, size in [(1, 700), (2, 700), (2, 100)]:
        index = setting.make()
        for seed in range(2):
            if index._core.untrained(f"{seed}"):
                index.train(x[seed], version=f"{seed}")
        for seed, part in enumerate(x):
            for first in range(0, 700, size):
                index.add(part[first : first + size], version=f"{seed % 2}", threads=threads)
        files.append(to_bytes(index))
    assert files[0] == files[1] == files[2]


# ----------------------------------------------------------------------------------------------------------------------
# All versions at once
# ----------------------------------------------------------------------------------------------------------------------


def test_without_a_version_all_are_searched(setting):
    models = Models(setting)
    for turn, name in enumerate(["a", "b", "a"]):
        models.add(name, 40, turn)
    queries = setting.vectors(5, 4, 1)
    hits = models.index.search(queries, 500)
    assert hits.counts.tolist() == [120] * 4
    assert [sorted(found) for found in hits.ids[:, :120].tolist()] == [list(range(120))] * 4
    assert sorted(models.index.range_search(queries[0], setting.everything).ids.tolist()) == list(range(120))
    # The query is coded as those of the version that came last.
    scores = models.index.score(queries, np.arange(120))
    np.testing.assert_array_equal(scores, models.index.score(queries, np.arange(120), version="b"))
    b = np.array(models.ids["b"])
    np.testing.assert_array_equal(scores[:, b], models.alone["b"].score(queries, b))
    if models.index.rerank is None:
        np.testing.assert_array_equal(models.index.score(queries, hits.ids[:, :120]), hits.scores[:, :120])


def test_an_index_with_one_version_is_an_index_without(setting):
    x, queries = setting.vectors(1, 200), setting.vectors(2, 5)
    named, plain = setting.make(), setting.make()
    named.add(x, version="only")
    plain.add(x)
    assert (named.versions, plain.versions) == ({"only": 200}, {"": 200})
    for index in (named, plain):
        (name,) = index.versions
        hits = [index.search(queries, 10, version=version) for version in (None, name)]
        np.testing.assert_array_equal(hits[0].ids, hits[1].ids)
        np.testing.assert_array_equal(hits[0].scores, hits[1].scores)
    np.testing.assert_array_equal(named.search(queries, 10).ids, plain.search(queries, 10).ids)
    assert named.nbytes == plain.nbytes


def test_a_prepared_filter_and_a_version_while_the_index_grows(setting):
    models = Models(setting)
    models.add("a", 50, 0)
    models.add("b", 50, 1)
    filter = models.index.prepare_filter(np.arange(0, 100, 3))
    models.add("a", 3000, 2)
    models.remove(np.arange(0, 30))
    queries = setting.vectors(5, 3)
    for name, expected in [("a", np.arange(30, 50, 3)), ("b", np.arange(51, 100, 3))]:
        for version_filter in (filter, models.index.prepare_filter(np.arange(0, 100, 3))):
            hits = models.index.search(queries, 100, version=name, filter=version_filter)
            assert [sorted(row) for row in hits.ids[:, : len(expected)].tolist()] == [expected.tolist()] * 3
            assert hits.counts.tolist() == [len(expected)] * 3


def test_an_update_keeps_the_version(setting):
    models = Models(setting)
    models.add("a", 30, 0)
    models.add("b", 30, 1)
    models.update("a", [3, 29, 5], 7)
    models.update("b", [31], 8)
    models.check()
    assert models.index.versions == {"a": 30, "b": 30}
    before = to_bytes(models.index)
    with pytest.raises(ValueError, match=r"ids.*several versions"):
        models.index.update([3, 31], setting.vectors(1, 2))
    assert to_bytes(models.index) == before
    models.index.remove([4])
    models.index.add(setting.vectors(2, 1, 1), [4], version="b")  # an id may come back in another version
    assert models.index.versions == {"a": 29, "b": 31}
    assert 4 in models.index.search(setting.vectors(2, 1, 1), 100, version="b").ids
    assert 4 not in models.index.search(setting.vectors(2, 1, 1), 100, version="a").ids


def test_each_version_is_trained_by_itself():
    setting = SETTINGS[5]
    index, alone = setting.make(), setting.make()
    index.train(setting.vectors(1, 300), version="a")
    index.train(setting.vectors(2, 300, 3), version="b")
    alone.train(setting.vectors(2, 300, 3))
    assert index.versions == {"a": 0, "b": 0}
    for each, options in ((index, {"version": "b"}), (alone, {})):
        each.add(setting.vectors(3, 50, 3), **options)
    np.testing.assert_array_equal(index.codes(np.arange(50)), alone.codes(np.arange(50)))
    with pytest.raises(ValueError, match=r"version.*\"a\".*trained already"):
        index.train(setting.vectors(4, 10), version="a")
    back = nf.load(to_bytes(index))
    assert list(back.versions.items()) == [("a", 0), ("b", 50)]
    assert back.search(setting.vectors(5, 1), 3, version="a").counts.tolist() == [0]


# ----------------------------------------------------------------------------------------------------------------------
# Names
# ----------------------------------------------------------------------------------------------------------------------


def test_names_may_be_any_text():
    names = ["", "a", "A", "model b", 'with "quotes"', "new\nline", "\\", "モデル", "\U0001f600", "x" * 5000, "0"]
    index = nf.Flat(2, "l2", codec=nf.Sign("mean"))
    for i, name in enumerate(names):
        index.add([[i, i], [0, i]], version=name)
    for each in (index, nf.load(to_bytes(index))):
        assert list(each.versions.items()) == [(name, 2) for name in names]
        for i, name in enumerate(names):
            assert sorted(each.search([0, 0], 9, version=name).ids[0, :2].tolist()) == [2 * i, 2 * i + 1]


def test_many_versions():
    index = nf.Flat(8, "hamming")
    for i in range(600):
        index.add(np.uint8([[i % 256], [255 - i % 256]]), version=f"{i % 300}")
    for each in (index, nf.load(to_bytes(index))):
        assert list(each.versions) == [f"{i}" for i in range(300)]
        for i in range(0, 300, 37):
            assert sorted(each.search([True] * 8, 9, version=f"{i}").ids[0, :4].tolist()) == [
                2 * i,
                2 * i + 1,
                2 * i + 600,
                2 * i + 601,
            ]


@pytest.mark.parametrize("wrong", [3, b"a", ["a"], 1.5, np.str_], ids=repr)
def test_names_that_are_no_text(setting, wrong):
    index, x = setting.make(), setting.vectors(1, 20)
    index.add(x, version="a")
    before = to_bytes(index)
    for call in (
        lambda: index.add(x, version=wrong),
        lambda: index.search(x, version=wrong),
        lambda: index.range_search(x, 1, version=wrong),
        lambda: index.score(x, [0], version=wrong),
        lambda: index.train(x, version=wrong),
    ):
        with pytest.raises(TypeError, match="version"):
            call()
    assert to_bytes(index) == before


def test_a_version_that_is_not_there(setting):
    index, x = setting.make(), setting.vectors(1, 20)
    for known in ({}, {"a"}, {"a", "b"}):
        for call in (
            lambda: index.search(x, version="c"),
            lambda: index.search(x[:0], version="c"),
            lambda: index.search(x, 0, version="c"),
            lambda: index.range_search(x, 1, version="c"),
            lambda: index.score(x, [], version="c"),
            lambda: index.search(x, version="c", filter=[0]),
        ):
            with pytest.raises(ValueError, match=r'version.*"c"') as refused:
                call()
            assert all(f'"{name}"' in str(refused.value) for name in known)
        index.add(x, version="ab"[len(known) % 2])


def test_an_add_that_fails_leaves_no_version_behind(setting):
    index, x = setting.make(), setting.vectors(1, 20)
    index.add(x, version="a")
    before = to_bytes(index)
    for call, error in [
        (lambda: index.add(x, np.arange(20), version="b"), KeyError),
        (lambda: index.add(x, np.zeros(20, int) + 50, version="b"), ValueError),
        (lambda: index.add(x[:, :-9], version="b"), ValueError),
        (lambda: index.add(None, version="b"), TypeError),
    ]:
        with pytest.raises(error):
            call()
        assert to_bytes(index) == before
        assert index.versions == {"a": 20}


# ----------------------------------------------------------------------------------------------------------------------
# Any sequence of steps
# ----------------------------------------------------------------------------------------------------------------------


class FollowsModels(RuleBasedStateMachine):
    """An index of versions beside an index for each of them."""

    setting = SETTINGS[0]

    @initialize()
    def start(self):
        self.models = Models(self.setting)

    @rule(name=st.sampled_from(["a", "b", ""]), n=st.integers(1, 6), seed=seeds)
    def add(self, name, n, seed):
        self.models.add(name, n, seed)

    @rule(name=st.sampled_from(["a", "b", ""]), n=st.integers(1, 6), seed=seeds)
    def add_shuffled_ids(self, name, n, seed):
        known = self.models.index.ids()
        free = np.setdiff1d(np.arange(self.models.next + 10), known)
        self.models.add(name, n, seed, np.random.default_rng(seed).permutation(free)[:n])

    @rule(name=st.sampled_from(["a", "b", ""]), n=st.integers(1, 6), seed=seeds)
    def update(self, name, n, seed):
        self.models.update(name, np.random.default_rng(seed).permutation(self.models.ids[name])[:n].astype(int), seed)

    @rule(n=st.integers(0, 8), seed=seeds)
    def remove(self, n, seed):
        known = self.models.index.ids()
        self.models.remove(np.random.default_rng(seed).permutation(known)[:n])

    @rule()
    def save_and_load(self):
        self.models.index = nf.load(to_bytes(self.models.index))

    @invariant()
    def agrees(self):
        self.models.check()


@pytest.mark.parametrize("followed", [SETTINGS[i] for i in (0, 2, 3, 5, 8)], ids=str)
def test_versions_follow_a_model(followed):
    machine = type(f"Follows{followed.options['metric']}", (FollowsModels,), {"setting": followed})
    hypothesis.stateful.run_state_machine_as_test(
        machine, settings=hypothesis.settings(max_examples=10, stateful_step_count=15)
    )


# ----------------------------------------------------------------------------------------------------------------------
# Files from strangers
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["f32", "sign"])
def versioned(request) -> bytes:
    """The file of an index whose rows [0, 5) and [9, 12) are of version a, [5, 9) and [12, 14) of b."""
    index = nf.Flat(DIM, "l2", codec=nf.Sign("mean") if request.param == "sign" else "f32")
    x = np.random.default_rng(0).normal(size=(14, DIM))
    for name, part in [("a", x[:5]), ("b", x[5:9]), ("a", x[9:12]), ("b", x[12:])]:
        index.add(part, version=name)
    return to_bytes(index)


def refused(data: bytes, tmp_path, message: str | None = None) -> None:
    (tmp_path / "index").write_bytes(data)
    for load in (partial(nf.load, data), partial(nf.load, tmp_path / "index", mmap=True)):
        with pytest.raises(nf.FileFormatError, match=message):
            load()


def test_the_rows_of_versions_are_stored_as_runs(versioned):
    tensors = safetensors.numpy.load(versioned)
    assert tensors["version_rows"].dtype == np.uint32
    assert tensors["version_rows"].tolist() == [[0, 0], [5, 1], [9, 0], [12, 1]]
    entries = metadata_of(versioned)
    assert (entries["versions"], entries["version.0"], entries["version.1"]) == ("2", "a", "b")
    assert nf.load(versioned).versions == {"a": 8, "b": 6}


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [[1, 0]],
        [[1, 0], [5, 1]],
        [[0, 0], [9, 1], [5, 0]],
        [[0, 0], [5, 1], [5, 0]],
        [[0, 0], [0, 1]],
        [[0, 0], [5, 2]],
        [[0, 2**32 - 1]],
        [[0, 0], [14, 1]],
        [[0, 0], [2**32 - 1, 1]],
    ],
    ids=str,
)
def test_runs_that_cannot_be_are_refused(versioned, runs, tmp_path):
    def change(tensors):
        tensors["version_rows"] = np.array(runs, np.uint32).reshape(-1, 2)

    refused(rewritten(versioned, change), tmp_path)


def test_runs_of_another_shape_are_refused(versioned, tmp_path):
    for change in (
        lambda tensors: tensors.pop("version_rows"),
        lambda tensors: tensors.update(version_rows=tensors["version_rows"].view(np.int32)),
        lambda tensors: tensors.update(version_rows=tensors["version_rows"].astype(np.uint64)),
        lambda tensors: tensors.update(version_rows=tensors["version_rows"].ravel()),
        lambda tensors: tensors.update(version_rows=tensors["version_rows"].reshape(2, 4)),
        lambda tensors: tensors.update(version_rows=tensors["version_rows"].ravel()[:7].copy()),
    ):
        refused(rewritten(versioned, change), tmp_path, "version_rows")


@pytest.mark.parametrize(
    "changes",
    [{"versions": "0"}, {"versions": "3"}, {"versions": "-1"}, {"versions": "two"},
     {"versions": "99999999999"}, {"version.1": "a"}],
    ids=str,
)  # fmt: skip
def test_versions_that_contradict_the_file_are_refused(versioned, changes, tmp_path):
    refused(rewritten(versioned, **changes), tmp_path)


def test_a_version_without_a_name_is_refused(versioned, tmp_path):
    entries = {key: value for key, value in metadata_of(versioned).items() if not key.startswith("checksum")}
    del entries["version.1"]
    refused(safetensors.numpy.save(safetensors.numpy.load(versioned), entries), tmp_path, "version.1")


def test_what_one_version_learned_must_be_there(tmp_path):
    index = nf.Flat(DIM, codec=nf.Sign("mean"))
    x = np.random.default_rng(0).normal(size=(20, DIM))
    index.add(x[:10], version="a")
    index.add(x[10:], version="b")
    data = to_bytes(index)
    for name in ("learned.0.scale", "learned.1.scale", "learned.0.threshold", "learned.1.threshold"):
        refused(rewritten(data, lambda tensors, name=name: tensors.pop(name)), tmp_path, name.rpartition(".")[2])


def test_files_from_before_there_were_versions_hold_one():
    for n in (0, 30):
        index = nf.Flat(DIM, "ip")
        x = np.random.default_rng(0).normal(size=(n, DIM))
        index.add(x)
        data = to_bytes(index)
        entries = {
            key: value for key, value in metadata_of(data).items() if not key.startswith(("checksum", "version"))
        }
        back = nf.load(safetensors.numpy.save(safetensors.numpy.load(data), entries))
        assert back.versions == ({"": 30} if n else {})
        assert to_bytes(back) == data
        back.add(x[:5], version="b")
        if n:
            assert back.versions == {"": 30, "b": 5}
            assert back.search(x[:3], 30, version="").counts.tolist() == [30] * 3
