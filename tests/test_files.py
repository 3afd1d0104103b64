"""Index files: what is saved comes back, and what is no index file is refused."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import nearfield as nf
import oracle
import strategies

DIM = 24


def to_bytes(index: nf.Flat | nf.IVF) -> bytes:
    file = io.BytesIO()
    index.save(file)
    return file.getvalue()


# ----------------------------------------------------------------------------------------------------------------------
# Round trips
# ----------------------------------------------------------------------------------------------------------------------


def _added(kind, metric, n, ids=None):
    """Return an index, and the ids and vectors that must be in it."""
    x = strategies.make("normal", n, n, DIM, kind.codec)
    index = kind.make(DIM, metric)
    return index, index.add(x, ids), x


def _explicit(kind, metric):
    return _added(kind, metric, 50, np.random.default_rng(1).choice(2**62, 50, replace=False))


def _changed(kind, metric, n, explicit):
    index, ids, x = _added(kind, metric, n, np.arange(n)[::-1] * 3 if explicit else None)
    x[: n // 4] = strategies.make("duplicates", 7, n // 4, DIM, kind.codec)
    index.update(ids[: n // 4], x[: n // 4])
    gone = np.arange(n) % 7 == 3
    index.remove(ids[gone])
    return index, ids[~gone], x[~gone]


# An index is screened from 1,024 vectors on.
STATES = {
    "empty": partial(_added, n=0),
    "small": partial(_added, n=20),
    "screened": partial(_added, n=1100),
    "explicit ids": _explicit,
    "changed": partial(_changed, n=60, explicit=False),
    "changed, explicit ids": partial(_changed, n=60, explicit=True),
    "changed, screened": partial(_changed, n=1300, explicit=True),
}


def _by_path(index, path, **options):
    index.save(path)
    return nf.load(path, **options)


def _by_text(index, path):
    index.save(str(path))
    return nf.load(str(path))


def _by_file(index, path):
    with open(path, "wb") as file:
        index.save(file)
    with open(path, "rb") as file:
        return nf.load(file)


ROUTES = {
    "path": _by_path,
    "text path": _by_text,
    "mmap": partial(_by_path, mmap=True),
    "mmap, verified": partial(_by_path, mmap=True, verify=True),
    "mmap, rerank": partial(_by_path, mmap="rerank"),
    "file": _by_file,
    "bytes": lambda index, _: nf.load(to_bytes(index)),
    "memoryview": lambda index, _: nf.load(memoryview(to_bytes(index))),
    "pickle": lambda index, _: pickle.loads(pickle.dumps(index)),
    "copy": lambda index, _: copy.copy(index),
    "deepcopy": lambda index, _: copy.deepcopy(index),
}


def check(index, kind, metric, ids, x) -> None:
    """Assert that an index holds the vectors and answers as its kind promises."""
    assert len(index) == len(ids)
    assert sorted(index.ids().tolist()) == sorted(ids.tolist())
    np.testing.assert_array_equal(index.reconstruct(ids), oracle.stored(x, kind.codec))
    queries = strategies.make_queries("normal", 99, 4, DIM, kind.codec)
    kind.check_search(index.search(queries, 7), queries, x, ids, metric, 7)


def settings_of(index: nf.Flat | nf.IVF) -> tuple:
    own = ("screen",) if isinstance(index, nf.Flat) else ("lists", "probes", "soar", "list_dims")
    return tuple(getattr(index, name) for name in ("dim", "metric", "codec", "rerank", "oversample", *own))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("state", STATES)
def test_what_is_saved_comes_back(kind, metric, state, route, tmp_path):
    index, ids, x = STATES[state](kind, metric)
    back = ROUTES[route](index, tmp_path / "index")
    assert settings_of(back) == settings_of(index)
    np.testing.assert_array_equal(back.ids(), index.ids())
    for each in (back, index):  # saving changes nothing
        check(each, kind, metric, ids, x)

    # Both go on in the same way, and independently of each other.
    more = strategies.make("normal", 5, 30, DIM, kind.codec)
    added = back.add(more)
    check(index, kind, metric, ids, x)
    np.testing.assert_array_equal(index.add(more), added)
    back.remove(ids[:5])
    check(back, kind, metric, np.concatenate([ids[5:], added]), np.concatenate([x[5:], more]))
    check(index, kind, metric, np.concatenate([ids, added]), np.concatenate([x, more]))


def test_an_id_is_not_given_twice_whatever_is_saved_between():
    index = nf.Flat(2)
    index.add(np.eye(2))
    index.remove([1])
    index = nf.load(to_bytes(index))
    assert index.add(np.eye(2)).tolist() == [2, 3]
    index.remove(index.ids())
    assert nf.load(to_bytes(index)).add([[1, 2]]).tolist() == [4]


@pytest.mark.parametrize("state", STATES)
def test_the_same_data_gives_the_same_bytes(kind, metric, state):
    index, ids, x = STATES[state](kind, metric)
    data = to_bytes(index)
    assert to_bytes(index) == data
    assert to_bytes(nf.load(data)) == data
    assert to_bytes(STATES[state](kind, metric)[0]) == data
    if state.startswith("changed"):
        return
    for threads, size in [(1, 2000), (2, 2000), (2, 700), (1, 90)]:
        batches = kind.make(DIM, metric)
        for first in range(0, len(x), size):
            batches.add(x[first : first + size], ids[first : first + size], threads=threads)
        assert to_bytes(batches) == data, f"{threads} threads, batches of {size}"


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be replaced there")
@pytest.mark.parametrize("state", STATES)
def test_a_mapped_index_can_be_saved_over_its_own_file(kind, metric, state, tmp_path):
    index, ids, x = STATES[state](kind, metric)
    path = tmp_path / "index"
    index.save(path)
    mapped, other = nf.load(path, mmap=True), nf.load(path, mmap=True)
    more = strategies.make("normal", 5, 3, DIM, kind.codec)
    all_ids = np.concatenate([ids, mapped.add(more)])
    mapped.save(path)
    for each in (mapped, nf.load(path), nf.load(path, mmap=True)):
        check(each, kind, metric, all_ids, np.concatenate([x, more]))
    check(other, kind, metric, ids, x)  # its file lives on without a name


def test_a_link_is_followed(tmp_path):
    try:
        (tmp_path / "link").symlink_to("file")
    except OSError:
        pytest.skip("no symbolic links here")
    _by_path(nf.Flat(2), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").is_file()


# ----------------------------------------------------------------------------------------------------------------------
# The safetensors package
# ----------------------------------------------------------------------------------------------------------------------


def decoded(tensors: dict[str, np.ndarray], name: str, codec: str) -> np.ndarray:
    rows = tensors[name]
    if codec == "bits":
        return rows
    if codec == "sign":
        return np.unpackbits(rows, axis=1, count=DIM) * np.float32(2) - 1
    if codec == "sq8":
        if name == "vectors":  # groups of 32 rows, interleaved in units of 4 codes
            units = rows[:, : 32 * DIM].reshape(-1, DIM // 4, 32, 4)
            rows = units.transpose(0, 2, 1, 3).reshape(-1, DIM)
        return oracle.SQ8_LEAST + rows[:, :DIM] * oracle.SQ8_STEP
    if codec == "bf16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    if codec == "int8":
        scales = np.ascontiguousarray(rows[:, DIM:]).view(np.float32)
        return np.ascontiguousarray(rows[:, :DIM]).view(np.int8) * scales
    return rows.view(np.float32) if codec == "f32" else rows.astype(np.float32)


def scanned(tensors: dict[str, np.ndarray]) -> str:
    """The name of what the codec's rows are in."""
    return "vectors" if "vectors" in tensors else "lists"


def rewritten(data: bytes, change=None, **metadata: str) -> bytes:
    """Return what the safetensors package makes of a file, with changed metadata and then without checksums."""
    tensors = safetensors.numpy.load(data)
    entries = metadata_of(data)
    if change or metadata:
        entries = {key: value for key, value in entries.items() if not key.startswith("checksum")} | metadata
    if change:
        change(tensors)
    return safetensors.numpy.save(tensors, entries)


def metadata_of(data: bytes) -> dict[str, str]:
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length])["__metadata__"]


@pytest.mark.parametrize("state", STATES)
def test_safetensors_opens_every_file(kind, metric, state, tmp_path):
    index, ids, x = STATES[state](kind, metric)
    index.save(tmp_path / "index")
    with safetensors.safe_open(tmp_path / "index", framework="numpy") as file:
        assert file.metadata()["kind"] == type(index).__name__.lower()
        assert file.metadata()["metric"] == metric
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    if "lists" in tensors:  # as they would lie in a flat index
        tensors["vectors"] = tensors["lists"][np.argsort(tensors["list_rows"])]
    place = {id: row for row, id in enumerate(tensors.get("ids", index.ids()).tolist())}
    rows = [place[id] for id in ids.tolist()]
    names = {"vectors": kind.coarse or kind.codec} | ({"rerank": index.rerank} if index.rerank else {})
    for name, codec in names.items():
        expected = oracle.stored(x, codec)
        found = decoded(tensors, name, codec)
        if codec == "sq8":
            found = found[: len(x)]  # the last group may not be full
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found[rows], expected)


@pytest.mark.parametrize("state", STATES)
def test_a_file_that_safetensors_has_rewritten_opens(kind, metric, state, tmp_path):
    index, ids, x = STATES[state](kind, metric)
    data = to_bytes(index)
    again = rewritten(data)
    (tmp_path / "index").write_bytes(again)
    for back in (nf.load(again), nf.load(tmp_path / "index", mmap=True, verify=True)):
        check(back, kind, metric, ids, x)
        assert to_bytes(back) == data

    if len(x):
        tensors = safetensors.numpy.load(data)
        tensors[scanned(tensors)] = np.roll(tensors[scanned(tensors)], 1)
        with pytest.raises(nf.FileFormatError, match="damaged"):
            nf.load(safetensors.numpy.save(tensors, metadata_of(data)))


# ----------------------------------------------------------------------------------------------------------------------
# Damaged files
# ----------------------------------------------------------------------------------------------------------------------


def refused(path: Path, data: bytes) -> None:
    """Assert that a file is refused, however it is opened."""
    path.write_bytes(data)
    for options in ({}, {"mmap": True, "verify": True}):
        with pytest.raises(nf.FileFormatError, match=path.name):
            nf.load(path, **options)
    with pytest.raises(nf.FileFormatError):
        nf.load(data)


@pytest.mark.parametrize("state", ["empty", "explicit ids", "screened"])
def test_a_flipped_bit_is_found(kind, state, tmp_path):
    data = to_bytes(STATES[state](kind, "cosine")[0])
    rng = np.random.default_rng(zlib.crc32(data))
    (header,) = struct.unpack_from("<Q", data)
    places = np.concatenate([np.arange(8), 8 + rng.integers(header, size=40), rng.integers(len(data), size=60)])
    for at, bit in zip(places, rng.integers(8, size=len(places)), strict=True):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(bit)
        refused(tmp_path / "index", bytes(damaged))


@pytest.mark.parametrize("state", ["empty", "explicit ids", "screened"])
def test_a_file_of_another_length_is_refused(kind, state, tmp_path):
    data = to_bytes(STATES[state](kind, "l2")[0])
    (header,) = struct.unpack_from("<Q", data)
    rng = np.random.default_rng(zlib.crc32(data))
    # An empty index ends with its header.
    lengths = {0, 1, 7, 8, 9, 7 + header, len(data) - 1, *rng.integers(len(data), size=40).tolist()}
    for length in lengths:
        refused(tmp_path / "index", data[:length])
    refused(tmp_path / "index", data + b"\0")


def test_a_mapped_file_is_verified_in_small_arrays_or_in_full(tmp_path):
    index = nf.Flat(64, "ip", screen=False)
    index.add(np.ones((1000, 64)), ids=np.arange(1000) * 2)
    data = bytearray(to_bytes(index))
    (header,) = struct.unpack_from("<Q", data)
    entries = json.loads(data[8 : 8 + header])
    path = tmp_path / "index"

    def damage(name: str) -> None:
        at = 8 + header + entries[name]["data_offsets"][0]
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])

    damage("ids")
    with pytest.raises(nf.FileFormatError, match="ids"):
        nf.load(path, mmap=True)
    damage("vectors")
    assert len(nf.load(path, mmap=True)) == 1000
    for options in ({}, {"mmap": True, "verify": True}):
        with pytest.raises(nf.FileFormatError, match="vectors"):
            nf.load(path, **options)
    with pytest.raises(ValueError, match="verify"):
        nf.load(path, verify=False)


# ----------------------------------------------------------------------------------------------------------------------
# Files from strangers
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> bytes:
    """Return the file of a small index with a tensor of every sort."""
    index = nf.Flat(DIM, "l2", rerank="f16")
    index.add(strategies.make("normal", 1, 1100, DIM), ids=np.arange(1100)[::-1] * 5)
    return to_bytes(index)


def test_a_file_of_a_newer_version_says_so(data):
    newer = rewritten(data, format_version="2", library_version="9.8.7")
    with pytest.raises(nf.FileFormatError, match=r"9\.8\.7.*format 2"):
        nf.load(newer)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "graph"),
        ("kind", ""),
        ("format_version", "0"),
        ("format_version", "-1"),
        ("format_version", "one"),
        ("metric", "hamming"),
        ("codec", "f64"),
        ("codec", "f16"),
        ("codec", "bf16"),
        ("rerank", "f32"),
        ("rerank", "?"),
        ("dim", "0"),
        ("dim", "12"),
        ("dim", "99999999999999999999999"),
        ("rows", "1099"),
        ("rows", "0"),
        ("rows", "18446744073709551615"),
        ("oversample", "nan"),
        ("oversample", "inf"),
        ("oversample", "0.5"),
        ("oversample", "2 tons"),
        ("next_id", "5"),
        ("next_id", "-1"),
        ("next_id", "9223372036854775808"),
        ("screen", "perhaps"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(data, key, value):
    assert len(nf.load(rewritten(data, library_version="x"))) == 1100, "without checksums a file is legal"
    with pytest.raises(nf.FileFormatError):
        nf.load(rewritten(data, **{key: value}))


@pytest.mark.parametrize("key", ["kind", "format_version", "metric", "dim", "rows", "codec", "next_id"])
def test_an_incomplete_description_is_refused(data, key):
    entries = {name: value for name, value in metadata_of(data).items() if not name.startswith("checksum")}
    del entries[key]
    with pytest.raises(nf.FileFormatError, match=key):
        nf.load(safetensors.numpy.save(safetensors.numpy.load(data), entries))


def test_a_safetensors_file_of_others_is_refused():
    with pytest.raises(nf.FileFormatError):
        nf.load(safetensors.numpy.save({"weight": np.ones((3, 4), np.float32)}))


@pytest.mark.parametrize("name", ["vectors", "rerank", "screen", "screen_center", "ids", "ids_order"])
def test_arrays_that_do_not_fit_are_refused(data, name):
    def shorten(tensors):
        tensors[name] = tensors[name][:-1].copy()

    def retype(tensors):
        tensors[name] = tensors[name].view(np.int8)

    def reshape(tensors):
        tensors[name] = tensors[name].reshape(1, *tensors[name].shape)

    for change in (shorten, retype, reshape):
        with pytest.raises(nf.FileFormatError, match=f'"{name}"'):
            nf.load(rewritten(data, change))
    if name != "ids":  # without ids, the vectors are numbered
        with pytest.raises(nf.FileFormatError, match=name):
            nf.load(rewritten(data, lambda tensors: tensors.pop(name)))


USE = """
import sys
import numpy as np
import nearfield as nf
opened = 0
for path in sys.argv[1:]:
    try:
        index = nf.load(path, mmap=True)
    except nf.FileFormatError:
        continue
    opened += 1
    q = np.random.default_rng(0).normal(size=(3, index.dim))
    for use in (
        lambda: index.search(q, 5), lambda: index.search(q, 5, filter=[0, 5, 10]),
        lambda: index.search(q, 5, exact=True), lambda: index.range_search(q, 1.0), lambda: index.score(q, [0, 5]),
        lambda: index.reconstruct([10]), lambda: index.remove([5]), lambda: index.update([10], q[:1]),
        lambda: index.add(q), lambda: index.add(q, [1, 2, 3]), lambda: index.remove(index.ids()[:5]),
        lambda: index.search(q, 5), lambda: nf.load(index.__getstate__()),
    ):
        try:
            use()
        except (KeyError, ValueError):
            pass
print(opened)
"""


def test_arrays_that_lie_crash_nothing(data, tmp_path, python):
    """No checksum helps against a stranger: whatever numbers are in the arrays, nothing outside of them is touched."""
    rng = np.random.default_rng(6)
    paths = []
    for name in ["vectors", "rerank", "screen", "screen_center", "ids", "ids_order"]:
        for number in range(4):

            def change(tensors, name=name, number=number):
                raw = tensors[name].view(np.uint8)
                raw[...] = [0, 255, rng.integers(0, 256, raw.shape), rng.permutation(raw.ravel()).reshape(raw.shape)][
                    number
                ]

            paths.append(tmp_path / f"{name}-{number}")
            paths[-1].write_bytes(rewritten(data, change))
    assert int(python(USE, *paths).stdout) > len(paths) // 2


def test_arrays_of_codecs_that_lie_crash_nothing(tmp_path, python):
    """Codes, factors, and what was learned."""
    rng, paths = np.random.default_rng(7), []
    codecs = [
        "sq6",
        "lvq4x8",
        "pq4",
        "pq8",
        "lloyd4",
        "rabitq1",
        "rabitq5",
        (nf.PCA(9), "sq8"),
        nf.PQ(5, rotation="opq"),
    ]
    for place, codec in enumerate(codecs):
        index = nf.Flat(DIM, "l2" if place % 2 else "cosine", codec=codec, rerank="lvq8" if place % 3 == 0 else None)
        index.add(strategies.make("normal", 1, 300, DIM), ids=np.arange(300)[::-1] * 5)
        tensors = safetensors.numpy.load(to_bytes(index))
        for name in tensors:
            for number in range(3):

                def change(tensors, name=name, number=number):
                    raw = tensors[name].view(np.uint8)
                    raw[...] = [0, 255, rng.integers(0, 256, raw.shape)][number]

                paths.append(tmp_path / f"{place}-{name}-{number}")
                paths[-1].write_bytes(rewritten(to_bytes(index), change))
    assert int(python(USE, *paths).stdout) > len(paths) // 3


def header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def one_tensor(**changes) -> bytes:
    tensor = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes
    return header(json.dumps({"__metadata__": {"kind": "flat"}, "vectors": tensor}).encode(), bytes(24))


@pytest.mark.parametrize(
    "hostile",
    {
        "empty": b"",
        "no length": b"1234567",
        "no header": struct.pack("<Q", 0),
        "terabytes of header": struct.pack("<Q", 2**42) + b"{}",
        "all bits set": b"\xff" * 64,
        "not JSON": header(b"what is this?"),
        "not an object": header(b"[1, 2, 3]"),
        "not text": header(b'{"\xff\xfe": 1}'),
        "unfinished": header(b'{"__metadata__": {"kind": "flat"'),
        "deep": header(b"[" * 10**6),
        "deep objects": header(b'{"a":' * 10**6),
        "terabytes of vectors": one_tensor(shape=[2**30, 2**12], data_offsets=[0, 2**44]),
        "overflowing shape": one_tensor(shape=[2**62, 4, 6]),
        "overflowing to the right size": one_tensor(shape=[2**61 + 3, 2**3]),
        "negative shape": one_tensor(shape=[-2, -3]),
        "fractional shape": one_tensor(shape=[2.5, 3]),
        "offsets turned round": one_tensor(data_offsets=[24, 0]),
        "offsets outside": one_tensor(data_offsets=[24, 48]),
        "unknown type": one_tensor(dtype="F8_E8M0"),
        "type is a number": one_tensor(dtype=32),
        "no kind of index": one_tensor(),
        "names twice": header(b'{"__metadata__": {"kind": "flat", "kind": "flat"}}'),
        "random": np.random.default_rng(8).bytes(5000),
        "random header": header(np.random.default_rng(9).bytes(5000)),
        "pickle": pickle.dumps([1, 2, 3]),
        "zeros": bytes(4096),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_hostile_file_is_refused(hostile, tmp_path):
    refused(tmp_path / "index", hostile[1])


# ----------------------------------------------------------------------------------------------------------------------
# The operating system says no
# ----------------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_file_not_found(tmp_path):
    for options in ({}, {"mmap": True}):
        with pytest.raises(FileNotFoundError) as raised:
            nf.load(tmp_path / "nothing", **options)
        assert raised.value.filename == str(tmp_path / "nothing")


def test_a_directory_is_no_file(tmp_path):
    expected = PermissionError if sys.platform == "win32" else IsADirectoryError
    with pytest.raises(expected):
        nf.load(tmp_path)
    with pytest.raises(OSError, match=tmp_path.name):
        nf.Flat(2).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("a regular file")
    for path in (tmp_path / "file" / "index", tmp_path / "nowhere" / "index"):
        with pytest.raises(OSError, match="index") as raised:
            nf.Flat(2).save(path)
        assert raised.value.filename == str(path)
    assert (tmp_path / "file").read_text() == "a regular file"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_is_an_os_error():
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        nf.Flat(2).save(full)
    with pytest.raises(OSError, match="/dev/full"):
        nf.Flat(2).save("/dev/full")  # which a file must not replace
    assert Path("/dev/full").is_char_device()


def test_a_full_disk_leaves_the_old_file(tmp_path, python):
    pytest.importorskip("resource")
    code = """
    import os, resource, sys
    import numpy as np
    import nearfield as nf
    path = sys.argv[1]
    index = nf.Flat(16)
    index.add(np.eye(16))
    index.save(path)
    old = open(path, "rb").read()
    index.add(np.ones((20000, 16)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        index.save(path)
    except OSError as error:
        assert error.filename == path
    else:
        raise AssertionError("saved without room")
    assert open(path, "rb").read() == old
    assert os.listdir(os.path.dirname(path)) == ["index"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    index.save(path)
    assert len(nf.load(path)) == 20016
    """
    python(code, tmp_path / "index")


class Stubborn(io.BytesIO):
    def write(self, data):
        if self.tell() > 0:
            raise RuntimeError("enough")
        return super().write(data)


def test_an_error_of_a_file_object_comes_through():
    index = nf.Flat(3)
    index.add(np.eye(3))
    with pytest.raises(RuntimeError, match="enough"):
        index.save(Stubborn())
    assert len(nf.load(to_bytes(index))) == 3


class Slow(io.RawIOBase):
    """A raw file, which may take less than it is given, and says so."""

    def __init__(self):
        self.taken = b""

    def writable(self):
        return True

    def write(self, data):
        self.taken += bytes(data[:100])
        return min(len(data), 100)


def test_a_file_object_may_take_a_little_at_a_time():
    index = nf.Flat(30)
    index.add(np.eye(30))
    file = Slow()
    index.save(file)
    assert file.taken == to_bytes(index)


def test_only_paths_can_be_mapped(data):
    for file in (data, io.BytesIO(data)):
        with pytest.raises(ValueError, match="mmap"):
            nf.load(file, mmap=True)
        with pytest.raises(ValueError, match="verify"):
            nf.load(file, verify=False)


@pytest.mark.parametrize("file", [None, 7, 1.5, ["index"], np.zeros(3)], ids=repr)
def test_what_is_no_file_is_a_type_error(file):
    with pytest.raises(TypeError, match="file"):
        nf.load(file)
    with pytest.raises(TypeError, match="file"):
        nf.Flat(2).save(file)


def test_text_files_are_a_type_error():
    with pytest.raises(TypeError):
        nf.load(io.StringIO("text"))
    with pytest.raises(TypeError):
        nf.Flat(2).save(io.StringIO())
