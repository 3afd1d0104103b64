"""What all figures have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .environment import require


def start(name: str, panels: int) -> tuple[Any, list[Any]]:
    """A figure with panels side by side."""
    matplotlib = require("matplotlib", "plot")
    matplotlib.use("svg")
    # Neither the date nor random names of parts: the same results make the same file.
    matplotlib.rcParams.update({"svg.hashsalt": name, "font.size": 10})
    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    matplotlib.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})
    pyplot = require("matplotlib.pyplot", "plot")
    figure, axes = pyplot.subplots(1, panels, figsize=(9.6, 4.2), sharey=True, layout="constrained", squeeze=False)
    return figure, list(axes[0])


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    require("matplotlib.pyplot", "plot").close(figure)
