"""What commands print: tables on stdout, progress on stderr, colours and bars on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

# File names and texts are printed as they are: no markup, no emoji codes, no highlighting.
console = Console(markup=False, emoji=False, highlight=False)
_stderr = Console(markup=False, emoji=False, highlight=False, stderr=True)


def table(*columns: str, numbers_from: int = 1) -> Table:
    """Return an empty table whose columns from number `numbers_from` on hold numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for i, name in enumerate(columns):
        made.add_column(name, justify="right" if i >= numbers_from else "left", no_wrap=True, vertical="bottom")
    return made


def facts(pairs: list[tuple[str, str]]) -> Table:
    """Return names and values, one pair a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for pair in pairs:
        grid.add_row(*pair)
    return grid


@contextmanager
def progress_bar(what: str, done: float = 0.0) -> Iterator[Callable[[float], None]]:
    """Show a bar that vanishes when done, and give the function that sets it to a share from 0 to 1."""
    if not _stderr.is_terminal:
        yield lambda share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # Drawn only when it moves: a thread that draws would disturb what is measured meanwhile.
    bars = Progress(*columns, console=_stderr, transient=True, auto_refresh=False)
    with bars:
        bar = bars.add_task(what, total=1.0)

        def show(share: float) -> None:
            bars.update(bar, completed=share, refresh=True)

        show(done)
        yield show


def printable(text: str, limit: int = 400) -> str:
    """Make what a file says safe to print: control characters escaped, at most `limit` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def size(count: float) -> str:
    """Return a number of bytes for people."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} GB"
