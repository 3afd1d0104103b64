"""The command line, used as from a shell: files in, files and tables out, one line for everything that is wrong."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import nearfield as nf

pytest.importorskip("typer")
h5py = pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
import pyarrow.feather  # noqa: E402
import pyarrow.parquet  # noqa: E402, F401

from nearfield.cli import app, main, options  # noqa: E402

ROWS, DIM = 200, 384
PROGRAM = [sys.executable, "-c", "import sys; from nearfield.cli import main; sys.exit(main())"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def sample() -> nf.datasets.StdlibSample:
    return nf.datasets.stdlib()


@pytest.fixture(scope="module")
def vectors(sample):
    return sample.vectors[:ROWS].astype(np.float32)


@pytest.fixture(scope="module")
def queries(sample):
    return sample.question_vectors[:12].astype(np.float32)


@pytest.fixture
def nearfield(tmp_path, monkeypatch, capsys):
    """Run the program in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["nearfield", *shlex.split(line)])
        capsys.readouterr()
        code = main()
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def files(nearfield, vectors, queries):
    """docs.npy, queries.npy and docs.nearfield, built from docs.npy."""
    np.save("docs.npy", vectors)
    np.save("queries.npy", queries)
    assert nearfield("build docs.npy docs.nearfield").code == 0


def write_vecs(path: Path, array: np.ndarray) -> None:
    dims = np.full((len(array), 1), array.shape[1], "<i4").view(np.uint8)
    path.write_bytes(np.hstack([dims, np.ascontiguousarray(array).view(np.uint8)]).tobytes())


def write_npz(path: Path, array: np.ndarray) -> None:
    np.savez(path, embedding=array, names=np.array(["a", None]), id=np.arange(len(array)) * 3)


def arrow_table(array: np.ndarray, kind: str) -> pa.Table:
    dim = array.shape[1]
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    lists = {
        "fixed": lambda: pa.FixedSizeListArray.from_arrays(flat, dim),
        "list": lambda: pa.ListArray.from_arrays(np.arange(len(array) + 1, dtype=np.int32) * dim, flat),
        "large": lambda: pa.LargeListArray.from_arrays(np.arange(len(array) + 1) * dim, flat),
    }[kind]()
    ids = pa.array(np.arange(len(array)) * 3)
    return pa.table({"id": ids, "name": pa.array(["a name"] * len(array)), "embedding": lists})


def write_stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=30)


def write_ipc(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table, max_chunksize=30)


def write_hdf5(path: Path, array: np.ndarray, test: np.ndarray, distance: str, neighbors: np.ndarray | None) -> None:
    with h5py.File(path, "w") as file:
        file["train"], file["test"] = array, test
        file.attrs["distance"] = distance
        if neighbors is not None:
            file["neighbors"] = neighbors.astype(np.int32)


# -- readers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("docs.npy", np.save),
        ("docs.NPY", lambda path, x: np.save(path.open("wb"), x)),
        ("docs.npz", write_npz),
        ("docs.fvecs", write_vecs),
        ("docs.parquet", lambda path, x: pa.parquet.write_table(arrow_table(x, "list"), path, row_group_size=64)),
        ("docs.parquet", lambda path, x: pa.parquet.write_table(arrow_table(x, "fixed"), path)),
        ("docs.parquet", lambda path, x: pa.parquet.write_table(arrow_table(x.astype(np.float64), "list"), path)),
        ("docs.arrow", lambda path, x: write_ipc(path, arrow_table(x, "fixed"))),
        ("docs.arrow", lambda path, x: write_stream(path, arrow_table(x, "large"))),
        ("docs.feather", lambda path, x: pa.feather.write_feather(arrow_table(x, "list"), str(path))),
        ("docs.hdf5", lambda path, x: write_hdf5(path, x, x[:2], "angular", None)),
    ],
)
def test_reads_vectors(nearfield, vectors, name, write):
    write(Path(name), vectors)
    outcome = nearfield(f"build {name} docs.nearfield")
    assert (outcome.code, outcome.err) == (0, "")
    assert "200 vectors" in outcome.out
    index = nf.load("docs.nearfield")
    assert index.metric == "cosine"
    np.testing.assert_array_equal(index.reconstruct(np.arange(ROWS)), vectors)


@pytest.mark.parametrize(
    ("name", "element", "codec"), [("docs.bvecs", np.uint8, "uint8"), ("docs.ivecs", np.int32, "f32")]
)
def test_reads_integer_vecs(nearfield, sample, name, element, codec):
    whole = np.abs(sample.tokens[:ROWS]).astype(element)
    write_vecs(Path(name), whole)
    assert nearfield(f"build {name} docs.nearfield --codec {codec} --metric l2").code == 0
    np.testing.assert_array_equal(nf.load("docs.nearfield").reconstruct(np.arange(ROWS)), whole)


def test_single_query_may_have_one_dimension(nearfield, files, queries):
    np.save("one.npy", queries[0])
    assert nearfield("search docs.nearfield one.npy -o hits.npz").code == 0
    assert np.load("hits.npz")["ids"].shape == (1, 10)


def test_column_chooses(nearfield, vectors):
    table = arrow_table(vectors, "fixed")
    pa.parquet.write_table(
        table.append_column("other", arrow_table(vectors[::-1], "fixed")["embedding"]), "docs.parquet"
    )
    assert nearfield("build docs.parquet docs.nearfield --column other").code == 0
    np.testing.assert_array_equal(nf.load("docs.nearfield").reconstruct([0]), vectors[-1:])


@pytest.mark.parametrize("option", ["ids.npy", "ids.parquet", "id"])
def test_ids(nearfield, vectors, option):
    pa.parquet.write_table(arrow_table(vectors, "fixed"), "docs.parquet")
    np.save("ids.npy", np.arange(ROWS) * 3)
    pa.parquet.write_table(arrow_table(vectors, "fixed").select(["id", "name"]), "ids.parquet")
    assert nearfield(f"build docs.parquet docs.nearfield --ids {option}").code == 0
    np.testing.assert_array_equal(nf.load("docs.nearfield").ids(), np.arange(ROWS) * 3)


def test_npz_ids(nearfield, vectors):
    write_npz(Path("docs.npz"), vectors)
    assert nearfield("build docs.npz docs.nearfield --ids id").code == 0
    assert nf.load("docs.nearfield").ids()[-1] == 3 * (ROWS - 1)


def test_build_options(nearfield, files):
    line = "build docs.npy docs.nearfield --metric ip --codec int8 --rerank f16 --oversample 2 --no-screen --threads 1"
    assert nearfield(line).code == 0
    index = nf.load("docs.nearfield")
    assert (index.metric, index.codec, index.rerank) == ("ip", "int8", "f16")
    assert (index.oversample, index.screen) == (2.0, False)


def test_codec_options(nearfield, files):
    line = "build docs.npy docs.nearfield --codec sign --codec-option threshold=mean --codec-option rotation=random"
    assert nearfield(f"{line} --rerank recurrent_binary --rerank-option bits=4").code == 0
    index = nf.load("docs.nearfield")
    assert index.codec == nf.Sign("mean", rotation="random")
    assert index.rerank == nf.RecurrentBinary(bits=4)
    said = " ".join(nearfield("info docs.nearfield").out.split())
    assert f"codec {index.codec}" in said
    assert f"rerank {index.rerank}" in said
    assert "codec." not in said


def test_options_of_short_names():
    for name, given, expected in [
        ("pq4", ["subspaces=48", "rotation=opq"], nf.PQ(48, rotation="opq")),
        ("pq8", ["anisotropic=0.2"], nf.PQ(bits=8, anisotropic=0.2)),
        ("lvq4x8", [], "lvq4x8"),
        ("lvq", ["bits=4", "residual=8"], nf.LVQ(4, 8)),
        ("sq6", ["range=global", "clip=0.01"], nf.SQ(6, "global", 0.01)),
        ("lloyd2", ["calibrated=false", "seed=3"], nf.Lloyd(2, calibrated=False, seed=3)),
        ("rabitq1", ["seed=7"], nf.RaBitQ(1, seed=7)),
    ]:
        assert options.codec_of(name, given, "--codec-option") == expected


# -- bits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["hamming", "jaccard"])
@pytest.mark.parametrize("form", ["ubinary", "binary", "booleans", "hdf5"])
def test_packed_bits(nearfield, vectors, queries, distance, form):
    if form in ("ubinary", "binary"):
        docs, asked = (nf.quantize_embeddings(array, form) for array in (vectors, queries))
    else:
        docs, asked = vectors > 0, queries > 0
    if form == "hdf5":
        write_hdf5(Path("docs.hdf5"), docs, asked, distance, None)
        assert nearfield("build docs.hdf5 docs.nearfield").code == 0
    else:
        np.save("docs.npy", docs)
        assert nearfield(f"build docs.npy docs.nearfield --metric {distance}").code == 0
    index = nf.load("docs.nearfield")
    assert (index.metric, index.dim, index.codec) == (distance, DIM, "bits")
    np.save("queries.npy", asked)
    assert nearfield("search docs.nearfield queries.npy -k 5 -o hits.npz --mmap").code == 0
    bits, query_bits = vectors > 0, queries > 0
    differ = (query_bits[:, None] != bits).sum(axis=2)
    if distance == "hamming":
        scores = differ
    else:
        either = (query_bits[:, None] | bits).sum(axis=2)
        scores = np.float32(1 - differ / either)
    order = np.argsort(scores if distance == "hamming" else -scores, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(np.load("hits.npz")["ids"], order)
    np.testing.assert_allclose(np.load("hits.npz")["scores"], np.take_along_axis(scores, order, axis=1), rtol=1e-6)


def test_bits_that_do_not_fill_their_last_byte(nearfield, vectors):
    bits = vectors[:, :381] > 0
    packed = np.packbits(bits, axis=1)
    np.save("docs.npy", packed)
    packed[:, -1] |= 0b111  # padding bits do not count
    np.save("queries.npy", packed[:3])
    assert nearfield("build docs.npy docs.nearfield --metric hamming --dim 381").code == 0
    assert nf.load("docs.nearfield").dim == 381
    assert nearfield("search docs.nearfield queries.npy -k 1 -o hits.npz").code == 0
    hits = np.load("hits.npz")
    assert hits["ids"].tolist() == [[0], [1], [2]]
    assert not hits["scores"].any()


def test_signs(nearfield, files, vectors, queries):
    line = "build docs.npy signs.nearfield --codec sign --rerank f16 --oversample 2"
    assert nearfield(line).code == 0
    index = nf.load("signs.nearfield")
    assert (index.codec, index.rerank, index.oversample) == ("sign", "f16", 2.0)
    for option, oversample in (("", None), (" --oversample 20", 20)):  # 20: every vector is a candidate
        assert nearfield(f"search signs.nearfield queries.npy -o hits.npz{option}").code == 0
        np.testing.assert_array_equal(np.load("hits.npz")["ids"], index.search(queries, oversample=oversample).ids)
    half = vectors.astype(np.float16)  # which the sample was stored in
    np.testing.assert_array_equal(np.load("hits.npz")["ids"], best(half, queries, 10))


def test_floats_against_packed_bits(nearfield, files, vectors, queries):
    np.save("codes.npy", nf.quantize_embeddings(vectors, "ubinary"))
    assert nearfield("build codes.npy codes.nearfield --codec sign --dim 384").code == 0
    assert nearfield("build docs.npy signs.nearfield --codec sign").code == 0
    for name in ("codes", "signs"):
        assert nearfield(f"search {name}.nearfield queries.npy -o {name}.npz").code == 0
    np.testing.assert_array_equal(np.load("codes.npz")["ids"], np.load("signs.npz")["ids"])


@pytest.mark.parametrize(
    ("options", "codec", "tensor"),
    [("--metric hamming", "bits", "U8 200 x 48 9,600"), ("--codec sign --dim 384", "sign", "U8 200 x 48 9,600")],
)
def test_info_of_bits(nearfield, vectors, options, codec, tensor):
    np.save("codes.npy", nf.quantize_embeddings(vectors, "ubinary"))
    assert nearfield(f"build codes.npy codes.nearfield {options}").code == 0
    lines = [line.split() for line in nearfield("info codes.nearfield").out.splitlines()]
    for fact in (["dim", "384"], ["rows", "200"], ["codec", codec], ["vectors", *tensor.split()]):
        assert fact in lines


def test_bench_of_bits(nearfield, files, vectors, queries):
    np.save("codes.npy", nf.quantize_embeddings(vectors, "ubinary"))
    np.save("asked.npy", nf.quantize_embeddings(queries, "ubinary"))
    (row,) = nearfield("bench codes.npy asked.npy --metric hamming --seconds 0 --json").out.splitlines()
    shown = json.loads(row)
    assert (shown["metric"], shown["codec"], shown["dim"], shown["recall"]) == ("hamming", "bits", DIM, 1)
    out = nearfield("bench docs.npy queries.npy --codec sign --rerank f16 --oversample 20 --seconds 0").out
    assert "Flat sign + f16  1.0000" in out
    line = "bench docs.npy queries.npy --codec sign --codec-option query=code --rerank f16 --oversample 20 --seconds 0"
    assert "Flat sign query=code + f16  1.0000" in nearfield(line).out
    (row,) = nearfield(line + " --json").out.splitlines()
    assert (json.loads(row)["codec"], json.loads(row)["rerank"]) == (str(nf.Sign(query="code")), "f16")


# -- search and its writers --------------------------------------------------------------------------------------------


def best(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    a, b = queries.astype(np.float64), vectors.astype(np.float64)
    cosine = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    return np.argsort(-cosine, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("options", ["", "--mmap", "--exact --threads 2"])
@pytest.mark.parametrize("name", ["hits.npy", "hits.npz", "hits.parquet", "hits.jsonl", "-"])
def test_writes_hits(nearfield, files, vectors, queries, name, options):
    outcome = nearfield(f"search docs.nearfield queries.npy -k 3 --output {name} {options}")
    assert (outcome.code, outcome.err) == (0, "")
    hits = nf.load("docs.nearfield").search(queries, 3)
    np.testing.assert_array_equal(hits.ids, best(vectors, queries, 3))
    if name.endswith((".npy", ".npz")):
        read = np.load(name)
        ids, scores = read["ids"], read["scores"]
    elif name.endswith(".parquet"):
        read = pa.parquet.read_table(name).to_pydict()
        assert read["query"] == np.repeat(np.arange(12), 3).tolist()
        assert read["rank"] == [0, 1, 2] * 12
        ids, scores = (np.reshape(read[column], (12, 3)) for column in ("id", "score"))
    else:
        lines = outcome.out if name == "-" else Path(name).read_text()
        read = [json.loads(line) for line in lines.splitlines()]
        assert [row["query"] for row in read] == list(range(12))
        ids, scores = (np.array([row[field] for row in read]) for field in ("ids", "scores"))
    np.testing.assert_array_equal(ids, hits.ids)
    np.testing.assert_array_equal(scores.astype(np.float32), hits.scores)


def test_places_without_results(nearfield, files):
    np.save("allowed.npy", np.array([5, 7]))
    for name in ("hits.npy", "hits.parquet", "hits.jsonl"):
        assert nearfield(f"search docs.nearfield queries.npy -k 4 --filter allowed.npy -o {name}").code == 0
    assert (np.load("hits.npy")["ids"][:, 2:] == -1).all()
    assert pa.parquet.read_table("hits.parquet").num_rows == 24
    assert all(len(json.loads(line)["ids"]) == 2 for line in Path("hits.jsonl").read_text().splitlines())


def test_filter_by_mask(nearfield, files):
    np.save("mask.npy", np.arange(ROWS) >= 150)
    assert nearfield("search docs.nearfield queries.npy --filter mask.npy -o hits.npy").code == 0
    assert np.load("hits.npy")["ids"].min() >= 150


def test_table_of_hits(nearfield, files, vectors, queries):
    out = nearfield("search docs.nearfield queries.npy -k 1").out
    for query, row in enumerate(best(vectors, queries, 1)[:10, 0]):
        assert f" {query}     0  {row:>3}" in out
    assert "2 more queries" in out
    assert "\x1b" not in out


# -- tune --------------------------------------------------------------------------------------------------------------


def test_tune(nearfield, files, vectors, queries):
    assert nearfield("build docs.npy signs.nearfield --codec sign --codec-option query=code --rerank f32").code == 0
    outcome = nearfield("search signs.nearfield queries.npy --recall 0.9")
    assert outcome.code == 1
    assert "recall: the index has not been tuned" in outcome.err
    code, out, err = nearfield("tune signs.nearfield --queries queries.npy -k 5 --recall 0.8 --recall 0.99")
    assert (code, err) == (0, "")
    assert "Recall of 5 results, measured with 12 given queries." in out
    index = nf.load("signs.nearfield")
    assert (index.tuning.k, index.tuning.queries, index.tuning.n) == (5, "given", 12)
    assert [entry[0] for entry in index.tuning.table] == [0.8, 0.99]
    assert index.ids().tolist() == list(range(ROWS))
    for text in (out, nearfield("info signs.nearfield").out):
        for recall, measured, value in index.tuning.table:
            assert [f"{recall:g}", f"{measured:.4f}", f"{value:.3g}"] in [line.split() for line in text.splitlines()]
    for recall in (0.8, 0.99):
        assert nearfield(f"search signs.nearfield queries.npy -o hits.npz --recall {recall}").code == 0
        np.testing.assert_array_equal(np.load("hits.npz")["ids"], index.search(queries, recall=recall).ids)


def test_tune_without_queries_or_reranking(nearfield, files):
    code, out, err = nearfield("tune docs.nearfield --recall 0.9")
    assert (code, err) == (0, "")
    assert f"measured with {ROWS} vectors of the index, held out." in out
    assert "Without --rerank, every search compares all vectors" in out
    assert nf.load("docs.nearfield").tuning.table == ((0.9, 1.0, 1.0),)


# -- inverted lists ----------------------------------------------------------------------------------------------------


def test_lists(nearfield, files, queries):
    options = "--index ivf --lists 20 --probes 3 --soar 1.5 --list-dims 100 --codec sq8 --rerank f32 --oversample 6"
    assert nearfield(f"build docs.npy lists.nearfield {options}").code == 0
    index = nf.load("lists.nearfield")
    assert isinstance(index, nf.IVF)
    assert (index.lists, index.probes, index.soar, index.list_dims) == (20, 3, 1.5, 100)
    assert (index.codec, index.rerank, index.oversample) == ("sq8", "f32", 6)
    for option, parameters in (("", {}), (" --probes 20 --mmap", {"probes": 20}), (" --exact", {"exact": True})):
        assert nearfield(f"search lists.nearfield queries.npy -o hits.npz{option}").code == 0
        np.testing.assert_array_equal(np.load("hits.npz")["ids"], index.search(queries, **parameters).ids)
    lines = [line.split() for line in nearfield("info lists.nearfield").out.splitlines()]
    for fact in (["kind", "ivf"], ["lists", "20"], ["probes", "3"], ["soar", "1.5"], ["list_dims", "100"]):
        assert fact in lines


def test_lists_by_default(nearfield, files):
    code, out, err = nearfield("build docs.npy lists.nearfield --index ivf")
    assert (code, err) == (0, "")
    assert "lists=56, codec='rabitq1', rerank='f16'): 200 vectors" in out
    index = nf.load("lists.nearfield")
    assert (index.codec, index.rerank, index.oversample, index.probes) == ("rabitq1", "f16", 10, 8)
    lines = [line.split() for line in nearfield("info lists.nearfield").out.splitlines()]
    assert ["lists", "56"] in lines
    assert not {"probes", "soar", "list_dims"} & {line[0] for line in lines if line}
    assert nearfield("build docs.npy lists.nearfield --index ivf --rerank none").code == 0
    assert nf.load("lists.nearfield").rerank is None


def test_tune_of_lists(nearfield, files, queries):
    for rerank in ("f16", "none"):
        options = f"--index ivf --lists 20 --codec sq8 --rerank {rerank}"
        assert nearfield(f"build docs.npy lists.nearfield {options}").code == 0
        code, out, err = nearfield("tune lists.nearfield --queries queries.npy --recall 0.7 --recall 0.95")
        assert (code, err) == (0, "")
        assert "probes" in out
        assert ("oversample" in out) == (rerank == "f16")
        index = nf.load("lists.nearfield")
        for text in (out, nearfield("info lists.nearfield").out):
            lines = [line.split()[:3] for line in text.splitlines()]
            for recall, measured, probes, *more in index.tuning.table:
                assert [f"{recall:g}", f"{measured:.4f}", f"{probes}"] in lines
                assert len(more) == (rerank == "f16")
        assert nearfield("search lists.nearfield queries.npy -o hits.npz --recall 0.95").code == 0
        np.testing.assert_array_equal(np.load("hits.npz")["ids"], index.search(queries, recall=0.95).ids)


@pytest.mark.parametrize("name", ["docs.npy", "docs.fvecs", "wide.npy", "docs.parquet"])
def test_memory_budget(nearfield, files, vectors, queries, name):
    if name == "docs.fvecs":
        write_vecs(Path(name), vectors)
    elif name == "wide.npy":
        np.save(name, vectors.astype(np.float64))
    elif name == "docs.parquet":
        pa.parquet.write_table(arrow_table(vectors, "fixed"), name)
    code, out, err = nearfield(f"build {name} lists.nearfield --index ivf --lists 20 --memory-budget 1MB")
    assert (code, err) == (0, "")
    assert "200 vectors" in out
    index = nf.load("lists.nearfield")
    assert index.ids().tolist() == list(range(ROWS))
    hits = index.search(queries, 5, probes=20, oversample=40)
    np.testing.assert_array_equal(hits.ids, best(vectors.astype(np.float16), queries, 5))


def test_bench_of_lists(nearfield, files):
    out = nearfield("bench docs.npy queries.npy --index ivf --lists 20 --probes 20 --seconds 0").out
    assert "IVF rabitq1 + f16  1.0000" in out
    line = "bench docs.npy queries.npy --index ivf --lists 20 --codec f32 --codec sq8 --rerank none --seconds 0 --json"
    rows = [json.loads(row) for row in nearfield(line).out.splitlines()]
    assert [(row["index"], row["codec"], row["rerank"]) for row in rows] == [("IVF", "f32", None), ("IVF", "sq8", None)]
    assert all((row["lists"], row["probes"], row["soar"]) == (20, 8, None) for row in rows)


# -- info --------------------------------------------------------------------------------------------------------------


def test_info_of_the_machine(nearfield):
    code, out, err = nearfield("info")
    assert (code, err) == (0, "")
    cpu = nf.cpu_info()
    assert cpu["name"] in out
    for kernel in cpu["kernels"]:
        assert kernel in out


def test_info_of_an_index(nearfield, files):
    code, out, err = nearfield("info docs.nearfield")
    assert (code, err) == (0, "")
    said = dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split()) > 1)
    assert {key: said[key].strip() for key in ("kind", "metric", "dim", "rows", "codec")} == {
        "kind": "flat",
        "metric": "cosine",
        "dim": "384",
        "rows": "200",
        "codec": "f32",
    }
    assert said["vectors"].split() == ["F32", "200", "x", "384", "307,200"]


def test_info_of_another_safetensors_file(nearfield):
    nasty = json.dumps(
        {
            "__metadata__": {"note": "\x1b[31mred [bold]", "codec": "sq", "codec.bits": "12"},
            "b": {"dtype": "I8", "shape": [], "data_offsets": [2, 3]},
            "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
        }
    ).encode()
    Path("any.safetensors").write_bytes(len(nasty).to_bytes(8, "little") + nasty + b"abc")
    code, out, _ = nearfield("info any.safetensors")
    assert code == 0
    assert "\\x1b[31mred [bold]" in out
    assert [line.split() for line in out.splitlines() if line.startswith("codec")] == [
        ["codec", "sq"],
        ["codec.bits", "12"],
    ]
    assert out.index(" a ") < out.index(" b ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 64,
        (4).to_bytes(8, "little") + b"[{}]",
        (16).to_bytes(8, "little") + b'{"a": {"b": 12}}',
        (3).to_bytes(8, "little") + b"\x00\x01\x02",
        (20000).to_bytes(8, "little") + b"[" * 20000,
    ],
)
def test_info_of_other_files(nearfield, content):
    Path("some.file").write_bytes(content)
    outcome = nearfield("info some.file")
    assert outcome.code == 1
    assert outcome.err.startswith("nearfield: some.file: no safetensors file")


def test_info_of_damaged_tuning(nearfield):
    for wrong in ({"tuning.k": "ten"}, {"tuning.0": "0.9 0.9"}, {"tuning.queries": None}):
        tuning = {"tuning.k": "10", "tuning.queries": "given", "tuning.n": "5", "tuning.0": "0.9 0.9 2"} | wrong
        metadata = {"kind": "flat"} | {key: value for key, value in tuning.items() if value is not None}
        header = json.dumps({"__metadata__": metadata}).encode()
        Path("some.nearfield").write_bytes(len(header).to_bytes(8, "little") + header)
        outcome = nearfield("info some.nearfield")
        assert (outcome.code, outcome.out) == (1, "")
        assert "some.nearfield: the tuning in its metadata is damaged" in outcome.err


def test_info_of_a_truncated_index(nearfield, files):
    Path("docs.nearfield").write_bytes(Path("docs.nearfield").read_bytes()[:2000])
    assert "docs.nearfield: truncated" in nearfield("info docs.nearfield").err


# -- bench -------------------------------------------------------------------------------------------------------------


def test_bench_table(nearfield, files):
    code, out, err = nearfield("bench docs.npy queries.npy --codec f32 --codec int8 --seconds 0 -k 5")
    assert (code, err) == (0, "")
    assert "200 vectors of dimension 384, 12 queries, cosine" in out
    assert "@5" in out
    assert "Flat f32   1.0000" in out
    assert "Flat int8" in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_bench_json(nearfield, files):
    out = nearfield("bench docs.npy queries.npy --codec int8 --codec f32 --rerank f32 --seconds 0 --json").out
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["codec"] for row in rows] == ["int8", "f32"]
    for row in rows:
        assert row["recall"] == 1
        assert row["k"] == 10
        assert min(row["batch_qps"], row["single_qps"], row["build_seconds"]) > 0
        assert row["bytes_per_vector"] > 4 * DIM
        assert row["version"] == nf.__version__


def test_bench_takes_the_neighbors_of_an_ann_benchmarks_file(nearfield, vectors, queries):
    true = np.argsort(((queries[:, None] - vectors) ** 2).sum(-1), axis=1)[:, :10]
    write_hdf5(Path("right.hdf5"), vectors, queries, "euclidean", true)
    write_hdf5(Path("wrong.hdf5"), vectors, queries, "euclidean", (true + 1) % ROWS)
    for name, expected in (("right", 1.0), ("wrong", 0.0)):
        row = json.loads(nearfield(f"bench {name}.hdf5 -k 1 --seconds 0 --json").out)
        assert (row["metric"], row["recall"]) == ("l2", expected)
    # Neighbours of another metric, or too few, are found anew.
    assert json.loads(nearfield("bench wrong.hdf5 --metric ip -k 1 --seconds 0 --json").out)["recall"] == 1
    assert json.loads(nearfield("bench wrong.hdf5 -k 11 --seconds 0 --json").out)["recall"] == 1


def test_metric_of_an_ann_benchmarks_file(nearfield, vectors, queries):
    write_hdf5(Path("a.hdf5"), vectors, queries, "euclidean", None)
    assert nearfield("build a.hdf5 a.nearfield").code == 0
    assert nf.load("a.nearfield").metric == "l2"
    assert nearfield("build a.hdf5 a.nearfield --metric ip").code == 0
    assert nf.load("a.nearfield").metric == "ip"


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.fixture
def bad_files(nearfield, files, vectors):
    np.save("int8ish.npy", (vectors * 100).astype(np.int8))
    np.save("objects.npy", np.array([["a", 1]], dtype=object))
    np.save("strings.npy", np.array([["a", "b"]]))
    np.save("cube.npy", np.zeros((2, 3, 4)))
    np.save("no_rows.npy", np.zeros((0, DIM), np.float32))
    np.save("no_dim.npy", np.zeros((3, 0), np.float32))
    np.save("nan.npy", np.where(np.arange(3)[:, None] == 1, np.nan, np.ones((3, DIM))))
    np.save("narrow.npy", vectors[:, :7])
    np.save("floats.npy", np.arange(3.0))
    np.save("ids3.npy", np.arange(3))
    np.save("same.npy", np.zeros(ROWS, int))
    np.save("negative.npy", np.arange(ROWS) - 1)
    np.save("mask3.npy", np.ones(3, bool))
    np.savez("objects.npz", np.array([["a", 1]], dtype=object))
    Path("half.npy").write_bytes(Path("docs.npy").read_bytes()[:5000])
    for suffix in ("npy", "npz", "parquet", "arrow", "feather", "hdf5", "fvecs", "nearfield"):
        Path(f"junk.{suffix}").write_bytes(b"this is not what its name promises\n" * 9)
    Path("empty.fvecs").write_bytes(b"")
    Path("text.txt").write_text("1 2 3")
    write_vecs(Path("ragged.fvecs"), vectors[:4])
    data = bytearray(Path("ragged.fvecs").read_bytes())
    Path("half.fvecs").write_bytes(data[:-5])
    data[2 * (4 + 4 * DIM)] = 7
    Path("ragged.fvecs").write_bytes(data)
    write = pa.parquet.write_table
    write(arrow_table(vectors, "list").select(["id", "name"]), "no_lists.parquet")
    write(arrow_table(vectors, "list"), "docs.parquet")
    write(pa.table({"a": [[1.0, 2.0]], "b": [[1.0, 2.0]]}), "two.parquet")
    write(pa.table({"a": [[1.0, 2.0], [3.0]]}), "ragged.parquet")
    write(pa.table({"a": [[1.0, 2.0], None]}), "null.parquet")
    write(pa.table({"a": [["x"], ["y"]]}), "strings.parquet")
    write(pa.table({"a": pa.array([], pa.list_(pa.float32()))}), "no_rows.parquet")
    write_hdf5(Path("manhattan.hdf5"), vectors, vectors[:2], "manhattan", None)
    np.save("codes.npy", np.packbits(vectors > 0, axis=1))
    assert nearfield("build codes.npy codes.nearfield --metric hamming").code == 0
    Path("half.nearfield").write_bytes(Path("docs.nearfield").read_bytes()[:5000])
    flipped = bytearray(Path("docs.nearfield").read_bytes())
    flipped[-1] ^= 1
    Path("flipped.nearfield").write_bytes(flipped)


FAILURES = {
    "build missing.npy out.nearfield": "missing.npy: No such file or directory",
    "build objects.npy out.nearfield": "objects.npy: holds Python objects, expected an array of numbers",
    "build objects.npz out.nearfield": "objects.npz: holds Python objects, expected an array of numbers",
    "build strings.npy out.nearfield": "strings.npy: holds elements of type <U1, expected numbers",
    "build cube.npy out.nearfield": "cube.npy: holds float64 of shape (2, 3, 4), expected a row for each vector",
    "build floats.npy out.nearfield": "floats.npy: holds float64 of shape (3,), expected a row for each vector",
    "build no_dim.npy out.nearfield": "no_dim.npy: holds vectors of dimension 0",
    "build nan.npy out.nearfield": "nan.npy: vectors: row 1 holds NaN",
    "build half.npy out.nearfield": "half.npy: no .npy file, or damaged",
    "build junk.npy out.nearfield": "junk.npy: no .npy file, or damaged",
    "build junk.npz out.nearfield": "junk.npz: no .npz file, or damaged",
    "build junk.parquet out.nearfield": "junk.parquet: no .parquet file, or damaged",
    "build junk.arrow out.nearfield": "junk.arrow: no .arrow file, or damaged",
    "build junk.feather out.nearfield": "junk.feather: no .feather file, or damaged",
    "build junk.hdf5 out.nearfield": "junk.hdf5: no HDF5 file, or damaged",
    "build junk.fvecs out.nearfield": "junk.fvecs: begins with the dimension 1936287860, which its 315 bytes",
    "build empty.fvecs out.nearfield": "empty.fvecs: is empty, so its dimension is unknown",
    "build ragged.fvecs out.nearfield": "ragged.fvecs: row 2 has dimension 263, the rows before it have 384",
    "build half.fvecs out.nearfield": "half.fvecs: truncated: 6,155 bytes are no whole number of rows of 1,540 bytes",
    "build no_lists.parquet out.nearfield": "no_lists.parquet: has no column of vectors, it has 'id', 'name'",
    "build two.parquet out.nearfield": "two.parquet: 'a', 'b' could all be the vectors; choose one with --column",
    "build docs.parquet out.nearfield --column x": "docs.parquet: has no column 'x', it has 'id', 'name', 'embedding'",
    "build docs.parquet out.nearfield --column name": "docs.parquet: the column 'name' holds string, expected lists",
    "build docs.parquet out.nearfield --column id": "docs.parquet: holds int64 of shape (200,), expected a row for",
    "build ragged.parquet out.nearfield": "ragged.parquet: row 1 of the column 'a' has dimension 1, row 0 has 2",
    "build null.parquet out.nearfield": "null.parquet: 1 entries of the column 'a' are null",
    "build strings.parquet out.nearfield": "strings.parquet: holds elements of type object, expected numbers",
    "build no_rows.parquet out.nearfield": "no_rows.parquet: holds no vectors, so their dimension is unknown",
    "build manhattan.hdf5 out.nearfield": "manhattan.hdf5: its distance is 'manhattan', expected one of 'euclidean'",
    "build docs.npy out.nearfield --metric hamming": "docs.npy: vectors: elements of type float32 given, expected bits",
    "build codes.npy out.nearfield --metric hamming --dim 376": "codes.npy: vectors: packed vectors of 48 bytes",
    "build codes.npy out.nearfield --dim 384": "codes.npy: vectors: 48 bytes given, which may be 384 packed bits",
    "build docs.npy out.nearfield --dim 383": "docs.npy: vectors: vectors of dimension 384 given",
    "build docs.npy out.nearfield --codec uint8": "docs.npy: vectors: row 0 holds",
    "build docs.npy out.nearfield --ids ids3.npy": "ids: 3 given for 200 vectors",
    "build docs.npy out.nearfield --ids same.npy": "ids: 0 is repeated",
    "build docs.npy out.nearfield --ids negative.npy": "ids: -1 is negative",
    "build docs.npy out.nearfield --ids floats.npy": "floats.npy: holds float64 of shape (3,), expected integers",
    "build docs.npy folder/out.nearfield": "there is no folder folder",
    "search missing.nearfield queries.npy": "missing.nearfield: No such file or directory",
    "search docs.npy queries.npy": "docs.npy: header:",
    "search junk.nearfield queries.npy": "junk.nearfield: header:",
    "search half.nearfield queries.npy": "half.nearfield: tensor 'vectors'",
    "search flipped.nearfield queries.npy": "flipped.nearfield: ",
    "search docs.nearfield narrow.npy": "narrow.npy: queries: vectors of dimension 7 given, expected",
    "search docs.nearfield nan.npy": "nan.npy: queries: row 1 holds NaN",
    "search docs.nearfield queries.npy --oversample 10": "docs.nearfield, queries.npy: oversample: ",
    "search docs.nearfield codes.npy": "codes.npy: queries: 48 bytes given, which may be 384 packed bits",
    "search codes.nearfield queries.npy": "queries.npy: queries: elements of type float32 given, expected bits",
    "search docs.nearfield queries.npy -o folder/hits.npy": "there is no folder folder",
    "search docs.nearfield queries.npy --filter floats.npy": "floats.npy: holds float64 of shape (3,), expected ids or",
    "search docs.nearfield queries.npy --filter mask3.npy": "mask3.npy: filter: a mask of length 3 given",
    "search docs.nearfield queries.npy --recall 0.9": "docs.nearfield, queries.npy: recall: the index has not been",
    "tune missing.nearfield": "missing.nearfield: No such file or directory",
    "tune docs.nearfield --queries narrow.npy": "docs.nearfield, narrow.npy: queries: vectors of dimension 7 given",
    "tune docs.nearfield --queries no_rows.npy": "docs.nearfield, no_rows.npy: queries: none given",
    "tune docs.nearfield --recall 0": "docs.nearfield: recall: 0.0 given, expected more than 0",
    "tune codes.nearfield --queries queries.npy": "queries.npy: queries: elements of type float32 given, expected bits",
    "bench docs.npy narrow.npy": "docs.npy, narrow.npy: queries: vectors of dimension 7 given",
    "bench codes.npy queries.npy --metric hamming": "codes.npy, queries.npy: queries: elements of type float32 given",
    "bench no_rows.npy queries.npy": "no_rows.npy: holds no vectors",
    "bench docs.npy no_rows.npy": "no_rows.npy: holds no vectors",
    "build docs.npy out.nearfield --index ivf --lists 201": "docs.npy: lists: 201 given, but there are 200 vectors",
    "build docs.npy out.nearfield --index ivf --list-dims 385": "docs.npy: list_dims: 385 given, expected at most",
    "build docs.npy out.nearfield --index ivf --memory-budget 1kB": "docs.npy: memory_budget: 1000 bytes given, exp",
    "build nan.npy out.nearfield --index ivf --lists 2 --memory-budget 1MB": "nan.npy: source: row 1 holds NaN",
    "search docs.nearfield queries.npy --probes 3": "docs.nearfield: --probes: 3 given, but a flat index has no lists",
    "info missing": "missing: No such file or directory",
}

USAGE_ERRORS = {
    "build": "Missing argument",
    "build docs.npy": "Missing argument",
    "build docs.npy out.nearfield --nonsense": "No such option",
    "build docs.npy out.nearfield --codec f31": 'codec: "f31" is not one of "f32"',
    "build docs.npy out.nearfield --metric cos": 'metric: "cos" is not one of "cosine"',
    "build docs.npy out.nearfield --oversample 0.5": "oversample: 0.5",
    "build docs.npy out.nearfield --codec-option bits=4": "--codec-option: bits=4 given, but there is no --codec",
    "build docs.npy out.nearfield --codec f16 --codec-option bits=4": "but codec f16 has no parameters",
    "build docs.npy out.nearfield --codec sq8 --codec-option bits=4": "bits=4 given, expected NAME=VALUE with one of r",
    "build docs.npy out.nearfield --codec sq8 --codec-option clip": "clip given, expected NAME=VALUE with one of range",
    "build docs.npy out.nearfield --codec sq8 --codec-option clip=2": "--codec-option: clip: 2.0 given, expected 0 to",
    "build docs.npy out.nearfield --codec sq7 --codec-option clip=0": "--codec-option: bits: 7 given, expected one of",
    "build docs.npy out.nearfield --rerank-option seed=1": "--rerank-option: seed=1 given, but there is no --rerank",
    "build codes.npy out.nearfield --metric hamming --codec f32": 'codec: "f32" does not go with metric "hamming"',
    "build codes.npy out.nearfield --metric hamming --rerank f16": 'rerank: "f16" given',
    "build codes.npy out.nearfield --metric hamming --dim 0": "Invalid value for '--dim'",
    "build docs.npy out.nearfield --threads 0": "Invalid value for '--threads'",
    "build docs.npy out.nearfield --column x": "docs.npy: has no column 'x', .npy files hold one array without a name",
    "build text.txt out.nearfield": "text.txt: files of this kind cannot be read, only .npy, .npz",
    "search docs.nearfield queries.npy -k 0": "Invalid value for '-k'",
    "search docs.nearfield queries.npy -k ten": "Invalid value for '-k'",
    "search docs.nearfield queries.npy -o hits.csv": "--output: hits.csv must end in .npy, .npz, .parquet, .jsonl",
    "search docs.nearfield queries.npy --recall 1.1": "Invalid value for '--recall'",
    "tune docs.nearfield --recall 1.1": "Invalid value for '--recall'",
    "bench docs.npy": "QUERIES: missing; docs.npy is no ann-benchmarks file",
    "bench docs.npy queries.npy --codec f32 --codec x": 'codec: "x" is not one of',
    "build docs.npy out.nearfield --index tree": "--index: tree given, expected flat or ivf",
    "build docs.npy out.nearfield --lists 20": "--lists: only with --index ivf",
    "build docs.npy out.nearfield --list-dims 20": "--list-dims: only with --index ivf",
    "build docs.npy out.nearfield --memory-budget 1GB": "--memory-budget: only with --index ivf",
    "build docs.npy out.nearfield --index ivf --no-screen": "--no-screen: only with --index flat",
    "build docs.npy out.nearfield --index ivf --lists 0": "Invalid value for '--lists'",
    "build docs.npy out.nearfield --index ivf --soar=-1": "soar: -1.000000 given",
    "build docs.npy out.nearfield --index ivf --metric hamming": 'metric: "hamming" given, expected "cosine"',
    "build docs.npy out.nearfield --index ivf --memory-budget much": "--memory-budget: 'much' given, expected bytes",
    "build docs.npy out.nearfield --index ivf --memory-budget 1MB --ids ids3.npy": "--ids: not with --memory-budget",
    "build docs.npy out.nearfield --index ivf --codec pq4 --codec-option rotation=opq --memory-budget 1MB": (
        "--memory-budget: not with PQ("
    ),
    "search docs.nearfield queries.npy --probes 0": "Invalid value for '--probes'",
    "bench docs.npy queries.npy --soar 1": "--soar: only with --index ivf",
    "serch": "No such command 'serch'",
}


def test_failures(nearfield, bad_files):
    kept = Path("docs.nearfield").read_bytes()
    for line, said in FAILURES.items():
        outcome = nearfield(line)
        assert (outcome.code, outcome.out) == (1, ""), line
        assert outcome.err.startswith("nearfield: "), line
        assert outcome.err.count("\n") == 1, line
        assert said in outcome.err, line
    assert not Path("out.nearfield").exists()
    assert Path("docs.nearfield").read_bytes() == kept


def test_usage_errors(nearfield, bad_files):
    for line, said in USAGE_ERRORS.items():
        outcome = nearfield(line)
        assert (outcome.code, outcome.out) == (2, ""), line
        assert outcome.err.startswith("nearfield: "), line
        assert outcome.err.count("\n") == 1, line
        assert said in outcome.err, line
        assert outcome.err.endswith("--help)\n"), line


def test_failed_build_keeps_the_old_index(nearfield, bad_files):
    kept = Path("docs.nearfield").read_bytes()
    assert nearfield("build nan.npy docs.nearfield").code == 1
    assert Path("docs.nearfield").read_bytes() == kept


def test_out_of_memory(nearfield, files, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(nf, "load", fail)
    assert nearfield("search docs.nearfield queries.npy") == (1, "", "nearfield: out of memory\n")


def test_own_mistakes_keep_their_traceback(nearfield, files, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(nf, "load", fail)
    with pytest.raises(ValueError, match="a mistake of ours"):
        nearfield("search docs.nearfield queries.npy")


# -- the program -------------------------------------------------------------------------------------------------------


def test_help(nearfield):
    for line in ("", "--help"):
        code, out, err = nearfield(line)
        assert (code, err) == (0, "")
        assert "Exit codes" in out
        for command, _ in app.COMMANDS:
            assert f"  {command.__name__} " in out
    for command, examples in app.COMMANDS:
        code, out, err = nearfield(f"{command.__name__} --help")
        assert (code, err) == (0, "")
        assert max(len(text) for text in out.splitlines()) <= 80
        for example in examples:
            assert f"    {example}\n" in out


def test_version(nearfield):
    assert nearfield("--version") == (0, f"nearfield {nf.__version__}\n", "")


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra(package):
    program = PROGRAM[2].replace("sys;", f"sys; sys.modules['{package}'] = None;")
    done = subprocess.run([sys.executable, "-c", program, "info"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nearfield: the command line needs more packages: pip install 'nearfield[cli]'\n"


@pytest.mark.parametrize(("package", "name"), [("h5py", "a.hdf5"), ("pyarrow", "a.parquet")])
def test_without_a_reader(nearfield, monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, package, None)
    Path(name).touch()
    outcome = nearfield(f"build {name} a.nearfield")
    suffix = Path(name).suffix
    assert outcome == (1, "", f"nearfield: {name}: {suffix} files need {package}: pip install 'nearfield[cli]'\n")


def test_interrupt_inside_a_command(nearfield, files, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(nf, "load", interrupt)
    assert nearfield("search docs.nearfield queries.npy") == (130, "", "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_interrupt_by_signal(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    command = [*PROGRAM, "info", "pipe"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        writer = None
        while writer is None and run.poll() is None:  # until the program has opened the pipe and waits for bytes
            try:
                writer = os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        assert run.communicate(timeout=20) == (b"", b"")
    assert run.returncode == 130
    os.close(writer)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close differently")
def test_reader_that_stops_early(nearfield, files, tmp_path, queries):
    np.save("many.npy", np.tile(queries, (500, 1)))
    command = [*PROGRAM, "search", "docs.nearfield", "many.npy", "-o", "-"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert json.loads(run.stdout.readline())["query"] == 0
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 1


def test_narrow_encoding(nearfield, files, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["nearfield", "info", "docs.nearfield"])
    assert main() == 0
    sys.stdout.flush()
    assert b"384" in raw.getvalue()
