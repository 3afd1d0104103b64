"""
Measure every kernel, level and shape against the limits of the machine.

Each kernel goes over a block in the second-level cache and over a buffer that no cache holds. The same process
measures, turn by turn and on the same buffer, how fast one core can read it at all and how many multiply-adds (or
counts of bits) it can do with the level's instructions; a share of 1.0 of either is all that the machine can give.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

from .environment import Results, progress
from .native_library import allocate, build, library
from .worker import Measure, measure_once, others

PLACES = {"cache": 512 << 10, "memory": 512 << 20}
DIMS = [100, 384, 1536]
MEMORY_DIM = 384
BIT_DIMS = [64, 128, 256, 384, 768, 1024, 10_000]  # all of them from memory too
# What scans rows or groups in bulk; the others touch single rows.
SCANS = ("dot", "l2", "tile", "bits", "codes_dot", "codes_sum")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="only kernels whose name contains this")
    parser.add_argument("--levels", default="", help="only these levels, comma-separated")


def kernel(name: str, level: str, unit: str, dim: int, size: int, seconds: float) -> Measure:
    """Set up one kernel over `size` bytes; each measurement takes about `seconds`."""
    native = library()
    buffer = allocate(size)
    vectors = native.open(name, level, dim, buffer)
    passes = max(1, int(seconds / native.run(buffer, vectors, 1)))

    def measure(repeats: int) -> dict[str, Any]:
        native.run(buffer, vectors, passes)
        ns, bandwidth, peak = [], [], []
        for _ in range(repeats):
            bandwidth.append(native.read_bandwidth(buffer, seconds / 4))
            peak.append(native.multiply_adds(level, unit, buffer))
            ns.append(native.run(buffer, vectors, passes) / passes / vectors * 1e9)
        return {"vectors": vectors, "ns": ns, "bandwidth": bandwidth, "peak": peak}

    return measure


def run(options: argparse.Namespace) -> None:
    progress("building the measuring loops")
    build()
    native = library()
    repeats = options.repeats or (3 if options.quick else 7)
    seconds = 0.002 if options.quick else 0.02
    levels = options.levels.split(",") if options.levels else native.levels()
    results = Results(options.out, "kernels", ["nearfield", "numpy"], options.quick)
    for dim in [MEMORY_DIM] if options.quick else sorted({*DIMS, *BIT_DIMS}):
        for case in native.cases(dim):
            if options.only not in case.kernel or case.level not in levels:
                continue
            bits = case.family == "bits"
            if dim not in (BIT_DIMS if bits else DIMS):
                continue
            for place, size in PLACES.items():
                if place == "memory" and not (case.kernel.startswith(SCANS) and (bits or dim == MEMORY_DIM)):
                    continue
                arguments = {
                    "name": case.kernel,
                    "level": case.level,
                    "unit": case.unit,
                    "dim": dim,
                    "size": size // 8 if options.quick and place == "memory" else size,
                    "seconds": seconds,
                }
                measured = measure_once("kernels:kernel", arguments, options.cores[:1], repeats=repeats)
                ns, bandwidth, peak = (median(measured[key]) for key in ("ns", "bandwidth", "peak"))
                line = {
                    "measurement": "kernel",
                    "family": case.family,
                    "kernel": case.kernel,
                    "level": case.level,
                    "dim": dim,
                    "place": place,
                    "buffer_mb": round(arguments["size"] / 2**20, 1),
                    "ns_per_vector": ns,
                    "ns_all": measured["ns"],
                    "others": others([measured]),
                    "gb_per_s": case.bytes / ns,
                    "read_gb_per_s": bandwidth / 1e9,
                    "bandwidth_share": median(
                        case.bytes / n * 1e9 / b for n, b in zip(measured["ns"], measured["bandwidth"], strict=True)
                    ),
                }
                if case.operations:
                    line |= {
                        "unit": case.unit,
                        "gop_per_s": case.operations / ns,
                        "peak_gop_per_s": peak / 1e9,
                        "peak_share": case.operations / ns * 1e9 / peak,
                    }
                results.write(line)
                progress(
                    f"{case.kernel:15} {case.level:11} {dim:5} {place:6} {ns:9.1f} ns {line['gb_per_s']:7.1f} GB/s "
                    f"({line['bandwidth_share']:4.0%} of reading) {line.get('gop_per_s', 0):7.1f} Gop/s "
                    f"({line.get('peak_share', 0):4.0%} of peak)"
                )
