"""The commands put together, and what becomes of an exception."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

import nearfield as nf

from .bench import bench
from .build import build
from .demo import demo
from .errors import CommandError, UsageError
from .info import info
from .search import search
from .tune import tune

#: Every command, with the examples that its help ends in.
COMMANDS: list[tuple[Callable[..., None], list[str]]] = [
    (info, ["nearfield info", "nearfield info docs.nearfield"]),
    (
        build,
        [
            "nearfield build docs.npy docs.nearfield",
            "nearfield build docs.npy docs.nearfield --codec int8 --rerank f32",
            "nearfield build docs.npy docs.nearfield --codec rabitq4 --rerank f16",
            "nearfield build docs.npy docs.nearfield --index ivf",
            "nearfield build docs.npy docs.nearfield --index ivf --memory-budget 2GB",
            "nearfield build docs.npy docs.nearfield --codec pq4 \\",
            "    --codec-option subspaces=48 --codec-option rotation=opq",
            "nearfield build codes.npy codes.nearfield --metric hamming",
            "nearfield build docs.parquet docs.nearfield --column embedding --ids id",
        ],
    ),
    (
        search,
        [
            "nearfield search docs.nearfield queries.npy",
            "nearfield search docs.nearfield queries.npy -k 100 --output hits.parquet",
            "nearfield search docs.nearfield queries.npy --recall 0.95",
            "nearfield search lists.nearfield queries.npy --mmap --probes 20",
            "nearfield search docs.nearfield queries.npy --filter ids.npy -o - | head",
        ],
    ),
    (
        tune,
        [
            "nearfield tune docs.nearfield",
            "nearfield tune docs.nearfield --queries queries.npy --recall 0.95",
        ],
    ),
    (
        bench,
        [
            "nearfield bench docs.npy queries.npy --codec f32 --codec int8",
            "nearfield bench docs.npy queries.npy --codec int8 --rerank f32 --json",
            "nearfield bench docs.npy queries.npy --index ivf --probes 20",
            "nearfield bench glove-100-angular.hdf5 --threads 1",
        ],
    ),
    (demo, ["nearfield demo"]),
]


def _examples(lines: list[str]) -> str:
    return "\n  ".join(["\b\nExamples:", *lines])  # \b keeps the lines as they are


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
for command, examples in COMMANDS:
    app.command(epilog=_examples(examples))(command)

# Of click, which newer versions of typer carry inside.
_ClickUsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"nearfield {nf.__version__}")
        raise typer.Exit


@app.callback(
    epilog=_examples(
        [
            "nearfield demo",
            "nearfield build docs.npy docs.nearfield --metric cosine",
            "nearfield search docs.nearfield queries.npy -k 10 --output hits.parquet",
        ]
    )
)
def _nearfield(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """
    Nearest neighbours for every kind of embedding.

    Vectors are read from .npy, .npz, .fvecs, .bvecs, .ivecs, .parquet, .arrow, .feather and ann-benchmarks .hdf5 files.

    Exit codes: 0 success; 1 failure, such as a missing, damaged or unsuitable file; 2 wrong command line; 130
    interrupted by Ctrl-C. A failure is told in one line on stderr.
    """


def _complain(message: str) -> None:
    print("nearfield: " + " ".join(message.split()), file=sys.stderr)


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a text may hold what the terminal's encoding lacks
            stream.reconfigure(errors="replace")
    try:
        code = app(args=list(arguments) or ["--help"], prog_name="nearfield", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except (UsageError, _ClickUsageError) as error:
        said = getattr(error, "format_message", error.__str__)()
        known = [name for name in arguments[:1] if not name.startswith("-") and "No such command" not in said]
        _complain(f"{said.rstrip('.')} (see {' '.join(['nearfield', *known, '--help'])})")
        return 2
    except (CommandError, nf.FileFormatError) as error:
        _complain(str(error))
    except BrokenPipeError:  # whoever read our output has seen enough; nothing may be flushed to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except MemoryError:
        _complain("out of memory")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return 1
