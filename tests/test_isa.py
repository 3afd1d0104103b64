"""Levels of kernels: each is real, each can be asked for, and all give the same results."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import nearfield as nf
from nearfield import _core

LEVELS = _core.levels()
each_level = pytest.mark.parametrize("level", LEVELS)

WIDE = {"dot_f32", "l2_f32", "tile_f32", "quantize", "encode_f16", "encode_bf16"} | {
    f"settle_{name}" for name in ("f32", "f16", "bf16", "int8", "uint8")
}
SELECTION = {"select_threshold", "select_keep"}
WIDE |= {"codes_estimate", "codes_nearest", "codes_hadamard"} | SELECTION
INTEGER = {"dot_int8", "dot_uint8", "tile_u8", "codes_dot2", "codes_dot4", "codes_dot8", "codes_row_dot"}
BITS = {"bits_xor", "bits_and", "bits_select", "bits_interleave", "bits_hamming", "bits_planes"}
SUMS = {"codes_sum4", "codes_sum8"}
ALL = WIDE | INTEGER | BITS | SUMS | {"codes_sign_tables"} | {"dot_f16", "dot_bf16", "l2_f16", "l2_bf16"}
# The kernels that a level has of its own; the others it takes from the levels below.
OWN = {
    "scalar": ALL,
    "avx2": ALL - {"codes_sum8"},
    "avx512": WIDE,
    "avx512vnni": INTEGER,
    "avx512icl": BITS | SUMS | {"codes_dot2", "codes_dot4"},
    "avx512bf16": {"dot_bf16"},
    "neon": ALL - {"bits_select", "codes_sum8", "codes_sign_tables"} - SELECTION,
    "neondot": INTEGER,
}


def test_levels_rise_from_scalar():
    order = list(OWN)
    assert LEVELS[0] == "scalar"
    assert [order.index(level) for level in LEVELS] == sorted({order.index(level) for level in LEVELS})


@each_level
def test_a_level_has_kernels_of_its_own(level):
    """Slots with one address bear one level's name: a level that merely repeats another one has none of its own."""
    lower = LEVELS[: LEVELS.index(level)]
    expected = _core.slots(lower[-1]) if lower else {}
    assert _core.slots(level) == expected | dict.fromkeys(OWN[level], level)


SEARCH = """
    import json
    import numpy as np
    import nearfield as nf
    rng = np.random.default_rng(5)
    out = {"info": nf.cpu_info()}
    rows = rng.integers(0, 200, (500, 75)).astype(np.float32)
    queries = rng.integers(0, 200, (9, 75)).astype(np.float32)
    codecs = ["f32", "f16", "bf16", "int8", "uint8"]
    for threshold in ("zero", "median"):
        for query in ("code", "float"):
            codecs += [nf.Sign(threshold, query=query), nf.RecurrentBinary(threshold, query=query)]
    for codec in codecs:
        for metric in ("cosine", "ip", "l2"):
            index = nf.Flat(75, metric, codec)
            index.add(rows)
            ids, scores = index.search(queries, 7)
            out[str(codec) + metric] = [ids.tolist(), scores.tolist()]
    for dim in (75, 1000, 10_000):
        for metric in ("hamming", "jaccard"):
            bits = rng.random((700, dim)) < 0.5
            index = nf.Flat(dim, metric)
            index.add(bits)
            for n in (1, 2, 3, 4, 33):
                ids, scores = index.search(bits[:n], 50)
                out[f"{metric}{dim} {n}"] = [ids.tolist(), scores.tolist()]
    print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def scalar_results(python):
    results = json.loads(python(SEARCH, env={"NEARFIELD_ISA": "scalar"}).stdout)
    assert results.pop("info")["level"] == "scalar"
    return results


@each_level
def test_environment_variable_chooses_the_level(python, level, scalar_results):
    results = json.loads(python(SEARCH, env={"NEARFIELD_ISA": level}).stdout)
    info = results.pop("info")
    assert (info["level"], info["levels"], info["kernels"]) == (level, LEVELS, _core.slots(level))
    for case, (ids, scores) in results.items():
        assert ids == scalar_results[case][0], case
        np.testing.assert_allclose(scores, scalar_results[case][1], rtol=3e-7, err_msg=case)


def test_an_empty_variable_is_no_choice(python):
    code = "import nearfield as nf; print(nf.cpu_info()['level'])"
    assert python(code, env={"NEARFIELD_ISA": ""}).stdout.strip() == LEVELS[-1]


@pytest.mark.parametrize("wrong", ["fast", "AVX2", "avx2,scalar", " scalar"])
def test_a_wrong_level_is_said_at_import(python, wrong):
    done = python("import nearfield", expect=1, env={"NEARFIELD_ISA": wrong})
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(("ImportError: ", "ValueError: "))
    assert f"NEARFIELD_ISA={wrong}" in message
    assert message.endswith(", ".join(LEVELS))


def test_cpu_info():
    info = nf.cpu_info()
    assert set(info) == {"name", "level", "levels", "kernels", "threads"}
    assert isinstance(info["name"], str) and info["name"]
    assert info["level"] == (os.environ.get("NEARFIELD_ISA") or LEVELS[-1])
    assert info["levels"] == LEVELS
    assert info["kernels"] == _core.slots(info["level"])
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= info["threads"] <= usable
