"""CMake as pip installs it, for the tests that build native programs."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The programs of the `test` extra stand beside this interpreter, which need not be on the PATH.
_ENVIRONMENT = os.environ | {"PATH": sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", "")}
_GENERATOR = [] if os.name == "nt" else ["-G", "Ninja"]  # on Windows CMake finds Visual Studio itself


def run(*command: str | Path, cwd: Path | None = None, expect: int = 0) -> str:
    """Return all output of a program, which must end with status `expect`."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == expect, f"{command}\n{done.stdout[-10000:]}"
    return done.stdout


def need_compiler(folder: Path) -> None:
    """Skip the test where CMake finds no C++ compiler."""
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(probe LANGUAGES NONE)\n"
        "include(CheckLanguage)\ncheck_language(CXX)\nmessage(STATUS \"found: '${CMAKE_CXX_COMPILER}'\")\n"
    )
    if "found: 'NOTFOUND'" in run("cmake", "-S", folder, "-B", folder / "build", *_GENERATOR):
        pytest.skip("no C++ compiler")


def build(source: Path, folder: Path, *options: str) -> Path:
    """Configure and build a CMake project, in the Release configuration."""
    run("cmake", "-S", source, "-B", folder, *_GENERATOR, "-DCMAKE_BUILD_TYPE=Release", *options)
    run("cmake", "--build", folder, "--config", "Release", "--parallel", str(os.cpu_count()))
    return folder


def ctest(folder: Path) -> str:
    """Run the tests of a build; there must be some."""
    return run("ctest", "-C", "Release", "--output-on-failure", "--no-tests=error", cwd=folder)


def shared_library(prefix: Path) -> Path:
    """The installed shared library."""
    where, name = {"win32": ("bin", "nearfield.dll"), "darwin": ("lib", "libnearfield.dylib")}.get(
        sys.platform, ("lib", "libnearfield.so")
    )
    return prefix / where / name


def library_version(library: Path) -> str:
    """What nearfield_version() of a shared library says."""
    function = ctypes.CDLL(str(library)).nearfield_version
    function.restype = ctypes.c_char_p
    return function().decode()
