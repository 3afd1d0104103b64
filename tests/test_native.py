"""The library without Python: its own tests, its object files, and C and C++ programs that use what is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from scripts import check_isa

import nearfield as nf
import toolchain
from toolchain import ROOT

pytestmark = pytest.mark.slow

needs_elf = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files")
needs_binutils = pytest.mark.skipif(
    not (shutil.which("objdump") and shutil.which("nm")), reason="needs objdump and nm of binutils"
)


@pytest.fixture(scope="session")
def native_build(tmp_path_factory):
    """A build of the library and its tests, without Python."""
    toolchain.need_compiler(tmp_path_factory.mktemp("probe"))
    folder = tmp_path_factory.mktemp("native")
    return toolchain.build(ROOT, folder, "-DNEARFIELD_PYTHON=OFF", "-DNEARFIELD_TESTS=ON", "-DCMAKE_INSTALL_LIBDIR=lib")


@pytest.fixture(scope="session")
def prefix(native_build, tmp_path_factory):
    """Where that build is installed."""
    folder = tmp_path_factory.mktemp("prefix")
    toolchain.run("cmake", "--install", native_build, "--config", "Release", "--prefix", folder)
    return folder


def test_native_tests_pass(native_build):
    report = toolchain.ctest(native_build)
    for source in (ROOT / "tests/native").glob("*_*.cpp"):
        assert re.search(rf"{source.stem} \.+ +Passed", report), f"{source.name} did not run"


@needs_elf
@needs_binutils
def test_each_level_is_in_its_objects_and_nowhere_else(native_build):
    kernels = {re.search(r"_([a-z0-9]+)\.cpp", path.name) for path in (ROOT / "cpp/kernels").glob("*_*.cpp")}
    levels = {found.group(1) for found in kernels if found} & set(nf.cpu_info()["levels"]) - {"scalar"}
    report = toolchain.run(sys.executable, ROOT / "scripts/check_isa.py", native_build, "--expect", *sorted(levels))
    assert "0 problems" in report


@needs_elf
@needs_binutils
@pytest.mark.skipif(os.uname().machine != "x86_64" if hasattr(os, "uname") else True, reason="compiles x86 code")
def test_check_of_the_levels_finds_what_is_wrong(tmp_path):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler called c++")
    loop = "void {name}(float* x) {{ for (int i = 0; i < 64; ++i) x[i] *= 3; }}\n"
    sources = {
        "plain.cpp": (loop.format(name="plain"), ["-mavx2"]),  # wide instructions in a baseline object
        "dense_avx2.cpp": (loop.format(name="fill_dense_avx2"), []),  # a level without its instructions
        "tile_avx2.cpp": ("template <class T>\n" + loop.format(name="shared") +
                          "void fill_tile_avx2(float* x) { shared<int>(x); }\n", ["-mavx2"]),  # a weak symbol
        "dense_avx512.cpp": (loop.format(name="fill_other"), ["-mavx512f", "-mprefer-vector-width=512"]),
    }  # fmt: skip
    for name, (text, flags) in sources.items():
        (tmp_path / name).write_text(text)
        optimise = ["-O3", "-fno-inline", "-c", name, "-o", name + ".o"]
        subprocess.run([compiler, *optimise, *flags], cwd=tmp_path, check=True)
    library = tmp_path / "libnearfield.a"
    subprocess.run(["ar", "rc", library, *(tmp_path / f"{name}.o" for name in sources)], check=True)
    problems = {report.name: " ".join(report.problems) for report in check_isa.check(library)}
    assert "above the baseline" in problems["plain.cpp.o"]
    assert "no instruction of level avx2" in problems["dense_avx2.cpp.o"]
    assert "weak symbol" in problems["tile_avx2.cpp.o"]
    assert "exports fill_other" in problems["dense_avx512.cpp.o"]
    toolchain.run(sys.executable, ROOT / "scripts/check_isa.py", library, expect=1)


@pytest.mark.parametrize("consumer", ["consumer_c", "consumer_cpp"])
def test_installed_library_serves_a_program(prefix, tmp_path, consumer):
    folder = toolchain.build(ROOT / "tests" / consumer, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    if sys.platform == "win32":  # where a program looks for DLLs beside itself
        for program in folder.rglob("*.exe"):
            shutil.copy(toolchain.shared_library(prefix), program.parent)
    report = toolchain.ctest(folder)
    linked = {
        "consumer_c": ["consumer_c", "consumer_c_static"],
        "consumer_cpp": ["consumer_cpp", "consumer_cpp_shared"],
    }
    for name in linked[consumer]:
        assert re.search(rf"{name} \.+ +Passed", report), report


def test_installed_library_has_the_version_of_the_package(prefix):
    assert toolchain.library_version(toolchain.shared_library(prefix)) == nf.__version__


@needs_elf
@needs_binutils
def test_shared_library_exports_the_header_and_nothing_else(prefix):
    header = (prefix / "include/nearfield.h").read_text()
    declared = set(re.findall(r"^NEARFIELD_API [^(]*?(nearfield_\w+)\(", header, re.MULTILINE))
    library = toolchain.shared_library(prefix)
    symbols = toolchain.run("nm", "--dynamic", "--defined-only", "--format=posix", library)
    exported = {line.split()[0] for line in symbols.splitlines()}
    assert len(declared) > 20
    assert exported == declared
