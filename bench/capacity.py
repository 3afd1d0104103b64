"""
Count the symbols that a bundle gives back, against its dimension, and compare with theory.

A bundle holds pairs of a key and an item, bound to each other, the items drawn without repetition from a memory. Every
key is unbound from the bundle and the result cleaned up; the share of items that come back is the measurement. The
theory takes the similarities for normally distributed: E. P. Frady, D. Kleyko and F. T. Sommer, "A theory of sequence
indexing and working memory in recurrent neural networks", Neural Computation 30, 2018.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt

from .environment import Results, progress, require

ARCHITECTURES = ["MAPB", "MAPI"]
DIMS = [256, 512, 1024, 2048, 4096, 8192, 16384]
SIZES = [5, 10, 20, 50, 100, 200]  # pairs in a bundle
ITEMS = 1024
SYMBOLS = 2000  # to ask for at each point, from as many bundles as that takes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing beyond what every benchmark takes."""


def recovered(architecture: str, dim: int, size: int, items: int, bundles: int, seed: int) -> float:
    """Share of the symbols that come back from bundles of `size` pairs."""
    nearfield = require("nearfield", "bench")
    space = getattr(nearfield.vsa, architecture)(dim, seed)
    rng = np.random.default_rng(seed)
    atoms = space.random(items)
    memory = space.memory(atoms)
    right = 0
    for _ in range(bundles):
        keys, chosen = space.random(size), rng.choice(items, size, replace=False)
        bundle = space.bundle(space.bind(keys, atoms[chosen]))
        right += int((memory.clean_up(space.unbind(bundle, keys)).ids[:, 0] == chosen).sum())
    return right / (bundles * size)


def expected(architecture: str, dims: npt.ArrayLike, size: int, items: int) -> npt.NDArray[np.float64]:
    """
    The same share in theory, for each dimension.

    The similarity of the right item is normally distributed around a mean, that of every other item around zero; the
    share is the probability that the right one is the largest. Here both are scaled so that an element of a vector
    brings a variance of 1 to the others.
    """
    if architecture == "MAPB":
        # The right bit is favoured wherever the other size - 1 bits tie, or would but for one.
        favour = math.comb(size - 1, size // 2) / 2 ** (size - 1)
        variance = 1 - favour**2
    else:
        favour = 1 / math.sqrt(size)
        variance = (size - 1) / size
    z = np.linspace(-8, 8, 1001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    right = np.sqrt(np.asarray(dims))[..., np.newaxis] * favour + z * math.sqrt(variance)
    below = (1 + np.vectorize(math.erf)(right / math.sqrt(2))) / 2  # how probably one other item is less similar
    return (density * below ** (items - 1)).sum(axis=-1) * (z[1] - z[0])


def run(options: argparse.Namespace) -> None:
    seeds = options.repeats or (1 if options.quick else 5)
    results = Results(options.out, "capacity", ["nearfield", "numpy"], options.quick)
    for architecture in ARCHITECTURES:
        for dim in DIMS[::3] if options.quick else DIMS:
            for size in SIZES:
                bundles = math.ceil(SYMBOLS / size / seeds)
                shares = [recovered(architecture, dim, size, ITEMS, bundles, seed) for seed in range(seeds)]
                line = {
                    "measurement": "capacity",
                    "architecture": architecture,
                    "dim": dim,
                    "size": size,
                    "items": ITEMS,
                    "symbols": bundles * size * seeds,
                    "recovered": mean(shares),
                    "recovered_by_seed": shares,
                    "expected": float(expected(architecture, dim, size, ITEMS)),
                }
                results.write(line)
                progress(
                    f"{architecture} {dim:6} {size:4} {line['recovered']:6.1%} (in theory {line['expected']:6.1%})"
                )


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw the measured points and the curves of the theory."""
    matplotlib = require("matplotlib", "plot")
    matplotlib.use("svg")
    # Neither the date nor random names of parts: the same results make the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "capacity", "font.size": 10, "axes.spines.top": False})
    pyplot = require("matplotlib.pyplot", "plot")
    figure, panels = pyplot.subplots(1, len(ARCHITECTURES), figsize=(9.6, 4.2), sharey=True, layout="constrained")
    dims = np.geomspace(DIMS[0], DIMS[-1], 200)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(SIZES)))
    for panel, architecture in zip(panels, ARCHITECTURES, strict=True):
        for size, colour in zip(SIZES, colours, strict=True):
            points = [line for line in lines if (line["architecture"], line["size"]) == (architecture, size)]
            panel.plot(dims, 100 * expected(architecture, dims, size, points[0]["items"]), color=colour, linewidth=1.2)
            panel.plot(
                [line["dim"] for line in points],
                [100 * line["recovered"] for line in points],
                "o",
                color=colour,
                markersize=5,
                label=str(size),
            )
        panel.set_title(f"nf.vsa.{architecture}")
        panel.set_xscale("log", base=2)
        panel.set_xticks(DIMS, [f"{dim:,}" for dim in DIMS])
        panel.set_xlabel("dimension")
        panel.grid(alpha=0.3)
        panel.spines["right"].set_visible(False)
    panels[0].set_ylabel(f"symbols recovered, % (one of {lines[0]['items']:,})")
    panels[-1].legend(
        title="pairs in the bundle\n(points measured,\nlines in theory)", frameon=False, loc="lower right"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)
