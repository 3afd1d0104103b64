"""The demonstration: every row of its table is there and right, and the picture is drawn."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nearfield as nf

pytest.importorskip("typer")
from nearfield.cli import demo, main, measure, plot

WHOLE, COMPRESSED, RERANKED, LISTS = ([name for name, _ in section] for section in demo.CONFIGURATIONS)
CONFIGURATIONS = [*WHOLE, *COMPRESSED, *RERANKED, *LISTS]


@pytest.fixture
def run_demo(tmp_path, monkeypatch, capsys):
    """Run ``nearfield demo`` with little time for each speed, and return what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nearfield", "demo"])
    monkeypatch.setattr(demo, "measure", functools.partial(measure.measure, seconds=0.0))

    def run() -> str:
        assert main() == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


def rows_of(out: str) -> dict[str, list[float]]:
    """Map each configuration to the numbers of its row."""
    rows = {}
    for name in CONFIGURATIONS:
        found = re.search(rf"^ *{re.escape(name)} +([\d.][\d., ]*)$", out, re.MULTILINE)
        assert found, name
        rows[name] = [float(number.replace(",", "")) for number in found[1].split()]
    return rows


def test_demo_prints_answers_and_a_row_for_each_configuration(run_demo):
    out = run_demo()
    assert max(len(line) for line in out.splitlines() if not line.startswith("Picture")) <= 80
    assert "\x1b" not in out
    for question in demo.SHOWN_QUESTIONS:
        assert question in out
    assert "✓ shutil.rmtree  Recursively delete a directory tree." in out
    rows = rows_of(out)
    for name, (recall, hit_rate, batch, single, nbytes, build) in rows.items():
        assert recall > (0.7 if name in COMPRESSED + LISTS else 0.99)
        assert 0.7 < hit_rate < 1
        assert min(batch, single, nbytes, build) > 0
    assert rows["Flat f32"][0] == rows["Flat f16"][0] == rows["Flat int8 + f32"][0] == 1
    assert rows["Flat int8"][4] < rows["Flat sign + f16"][4] < rows["Flat f16"][4] < rows["Flat f32"][4]
    for coarse, fine in [
        ("sign", "rabitq1"),
        ("rabitq1", "lloyd2"),
        ("lloyd2", "sq4"),
        ("lvq4", "sq8"),
        ("pq4", "sq4"),
    ]:
        assert rows[f"Flat {coarse}"][4] < rows[f"Flat {fine}"][4]
        assert rows[f"Flat {coarse}"][0] < rows[f"Flat {fine}"][0]
    for fewer in ("IVF f32", "IVF rabitq1 + f16"):
        assert rows[fewer][0] < rows["IVF, second lists"][0] < rows["IVF, 32 probes"][0]


def test_demo_draws_a_picture(run_demo, tmp_path):
    pytest.importorskip("matplotlib")
    out = run_demo()
    assert f"Picture: {tmp_path / 'nearfield-demo.png'}" in out
    assert Path("nearfield-demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_without_matplotlib(run_demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'nearfield[plot]'" in run_demo()
    assert not Path("nearfield-demo.png").exists()


def test_labels_of_the_picture_do_not_overlap(tmp_path, monkeypatch):
    figures = pytest.importorskip("matplotlib.figure")
    from matplotlib.text import Annotation, Text

    saved = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda self, path: saved.append(self))
    rows = [
        measure.Measurement(f"Graph number {i}", "", recall, qps, qps, 100, 1, np.zeros((1, 1), np.int64))
        for i, (recall, qps) in enumerate(
            [(1, 9000 + i) for i in range(8)] + [(0.9 + i / 1000, 20000) for i in range(4)]
        )
    ]
    assert plot.recall_speed(rows, 10, "a title", tmp_path / "picture.png")
    (figure,) = saved
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].findobj(Annotation)]
    assert len(boxes) == len(rows)
    for i, box in enumerate(boxes):
        assert figure.bbox.fully_contains(box.x0, box.y0)
        assert figure.bbox.fully_contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*figure.axes[0].transData.transform((row.recall, row.batch_qps))) for row in rows)


def test_every_codec_of_flat_is_shown():
    kinds = "|".join(["f32", "f16", "bf16", "int8", "uint8", "[a-z_]+"])  # without the bits of sq8, pq4, ...
    shown = {re.match(rf"Flat ({kinds})", name)[1] for name in CONFIGURATIONS if name not in LISTS}
    with pytest.raises(ValueError, match="codec") as refused:
        nf.Flat(4, codec="?")
    every = set(re.findall(r'"(\w+)"', str(refused.value)))
    assert shown == every - {"uint8", "bits"}  # for whole numbers and packed bits only


def test_recall_and_hit_rate():
    found = np.array([[3, 1, -1], [7, 8, 9]])
    truth = np.array([[1, 2, 3], [9, 8, 7]])
    assert measure.recall(found, truth) == pytest.approx(5 / 6)
    assert measure.hit_rate(found, [np.array([5, 1]), np.array([6])]) == 0.5


@pytest.mark.slow
def test_demo_as_a_program(tmp_path):
    program = "import sys; from nearfield.cli import main; sys.argv = ['nearfield', 'demo']; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    rows_of(done.stdout)
