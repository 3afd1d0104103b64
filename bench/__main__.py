"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import binary, capacity, codecs, flat, ivf, kernels, report
from .environment import BenchError, cores

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {"kernels": kernels, "flat": flat, "binary": binary, "codecs": codecs, "ivf": ivf, "capacity": capacity}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of nearfield.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=module.__doc__.splitlines()[0], description=module.__doc__)
        command.add_argument("--quick", action="store_true", help="small and rough, for trying out; writes no file")
        command.add_argument("--out", type=Path, help=f"JSON lines file (default: bench/results/{name}.jsonl)")
        command.add_argument("--repeats", type=int, help="repetitions of each measurement")
        command.add_argument("--cores", type=_cores, default=cores(), help="CPUs to pin to, the first for one thread")
        module.add_arguments(command)
    command = commands.add_parser("report", help=report.__doc__.splitlines()[0], description=report.__doc__)
    report.add_arguments(command)
    options = parser.parse_args()
    if options.command in BENCHMARKS and options.out is None and not options.quick:
        options.out = RESULTS / f"{options.command}.jsonl"
    try:
        (BENCHMARKS | {"report": report})[options.command].run(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _cores(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
