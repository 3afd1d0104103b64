"""The picture of recall against speed; it needs the extra ``plot``."""

from __future__ import annotations

from pathlib import Path

from .measure import Measurement


def recall_speed(rows: list[Measurement], k: int, title: str, path: Path) -> bool:
    """Draw a labelled point for each index; False if there is no matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.text import Text
        from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
        from matplotlib.transforms import Bbox
    except ImportError:
        return False
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=f"recall@{k}", ylabel="queries per second, all in one call", title=title, yscale="log")
    axes.set_ylim(min(row.batch_qps for row in rows) / 2, max(row.batch_qps for row in rows) * 2)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    for row in rows:
        axes.scatter(row.recall, row.batch_qps, s=40, alpha=0.8, zorder=3)
    figure.draw_without_rendering()  # from here on data has its place in pixels

    # A label stands beside its point, towards the middle; from the fastest down, each as high as those before let it.
    points = [axes.transData.transform((row.recall, row.batch_qps)) for row in rows]
    taken = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in points]
    middle = axes.bbox.x0 + axes.bbox.width / 2
    for (x, _), row in sorted(zip(points, rows, strict=True), key=lambda pair: -pair[0][1]):
        side = 1 if x < middle else -1
        label = axes.annotate(
            row.name,
            (row.recall, row.batch_qps),
            xytext=(side * 24, 12),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": "0.6", "shrinkA": 1, "shrinkB": 4, "relpos": (side < 0, 0.5)},
        )
        label.get_window_extent()  # puts it beside its point; includes the line, where that of Text does not
        while any(Text.get_window_extent(label).overlaps(other) for other in taken):
            across, up = label.get_position()
            label.set_position((across, up - 1))
        taken.append(Text.get_window_extent(label))
    figure.savefig(path)
    return True
