"""The machine, the versions, and the file that results go to."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parent.parent


class BenchError(Exception):
    """What keeps a benchmark from running, in one line for the user."""


def require(package: str, extra: str) -> Any:
    """Import a package or say which extra brings it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise BenchError(f"{package} is not installed: pip install '.[{extra}]'") from None


def cores() -> list[int]:
    """CPUs to measure on: all allowed ones, the last first (the first one serves most interrupts)."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0), reverse=True)


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    psutil = require("psutil", "bench")
    return {
        "cpu": cpu_model(),
        "cores": len(cores()) or os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(psutil.getloadavg()[0], 2),  # above ~1 at the start of a run: somebody else is here
    }


def versions(packages: list[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = str(importlib.import_module(package).__version__)
        except ImportError:
            continue
    return found


def commit() -> str:
    """The commit that is checked out, with a "+" after it when files differ from it; empty outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


class Results:
    """JSON lines: one line about the run, then one per measurement, each written as soon as it is known."""

    def __init__(self, path: Path | None, command: str, packages: list[str], quick: bool) -> None:
        self._file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w")
        self.write(
            {
                "measurement": "run",
                "command": command,
                "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "machine": machine(),
                "versions": versions(packages),
                "commit": commit(),
                "quick": quick,
            }
        )

    def write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line)
        if self._file is None:
            print(text, flush=True)
        else:
            self._file.write(text + "\n")
            self._file.flush()


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
