"""The package as it is installed: its version, its files, and what importing it does and does not do."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import inspect
import json
import os
import re
from pathlib import Path

import pytest

import nearfield as nf
import toolchain
from toolchain import ROOT

PACKAGE = Path(nf.__file__).parent
SOURCES = sorted((ROOT / "python/nearfield").rglob("*.py"))

installed = pytest.mark.skipif(
    not Path(nf.get_cmake_dir()).is_dir(), reason="runs from the source folder, without header and library"
)


def test_version_is_written_in_one_place():
    written = re.search(r'^version = "(\d+\.\d+\.\d+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert written is not None
    assert nf.__version__ == written.group(1)
    sources = [path for path in (ROOT / "cpp").rglob("*") if path.is_file()]
    sources += [ROOT / "CMakeLists.txt", *(ROOT / "cmake").glob("*"), *SOURCES]
    again = [str(path) for path in sources if f'"{nf.__version__}"' in path.read_text(encoding="utf-8")]
    assert again == []


@installed
def test_version_of_the_distribution_and_of_the_library():
    assert importlib.metadata.version("nearfield") == nf.__version__
    # A wheel has the library of every platform in the same folders as an installation elsewhere.
    assert toolchain.library_version(toolchain.shared_library(PACKAGE)) == nf.__version__


@installed
def test_header_and_cmake_package_are_in_the_wheel():
    assert (Path(nf.get_include()) / "nearfield.h").is_file()
    assert (Path(nf.get_cmake_dir()) / "nearfield-config.cmake").is_file()


@installed
@pytest.mark.slow
def test_cmake_finds_the_library_in_the_wheel(tmp_path):
    toolchain.need_compiler(tmp_path)
    source = tmp_path / "program"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(program LANGUAGES CXX)\nenable_testing()\n"
        f"find_package(nearfield {nf.__version__} REQUIRED)\n"
        "add_executable(program main.cpp)\ntarget_link_libraries(program PRIVATE nearfield::nearfield)\n"
        "add_test(NAME program COMMAND program)\n"
    )
    (source / "main.cpp").write_text(
        "#include <nearfield.h>\n#include <string>\n"
        f'int main() {{ return std::string(nearfield_version()) == "{nf.__version__}" ? 0 : 1; }}\n'
    )
    # Forward slashes, which CMake wants on every platform.
    toolchain.ctest(toolchain.build(source, tmp_path / "out", f"-Dnearfield_DIR={Path(nf.get_cmake_dir()).as_posix()}"))


@pytest.mark.parametrize("name", ["py.typed", "_core.pyi", "data/stdlib.safetensors", "data/stdlib.json.gz"])
def test_package_has_its_data(name):
    assert (PACKAGE / name).is_file()


IMPORT = """
    import json, os, re, sys, threading
    from pathlib import Path
    import numpy  # the one dependency, which brings what it likes

    def state():
        tasks, maps = Path("/proc/self/task"), Path("/proc/self/maps")
        mapped = re.findall(r"/([^/\\n]+)$", maps.read_text(), re.M) if maps.exists() else []
        threads = len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()
        return {
            "modules": sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names),
            "threads": threads,
            "mapped": sorted(set(mapped)),
            "environment": dict(os.environ),
        }

    before = state()
    import nearfield
    print(json.dumps([before, state()]))
"""


def test_import_brings_numpy_only_and_changes_nothing_else(python):
    before, after = json.loads(python(IMPORT).stdout)
    assert set(after["modules"]) - set(before["modules"]) == {"nearfield"}
    assert after["threads"] == before["threads"]
    assert after["environment"] == before["environment"]
    assert [name for name in set(after["mapped"]) - set(before["mapped"]) if "omp" in name] == []


def imported(source: Path) -> set[str]:
    """Return the modules that a source file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def test_nothing_in_the_package_unpickles():
    assert len(SOURCES) > 10
    for source in SOURCES:
        assert not imported(source) & {"pickle", "cPickle", "_pickle", "dill", "joblib", "shelve", "marshal"}, source
        assert "allow_pickle=True" not in source.read_text(encoding="utf-8"), source


def fields(value):
    """Names of a dataclass's public fields, which its own docstring describes."""
    known = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    return [field.name for field in known if not field.name.startswith("_")]


def public_objects():
    for module in (nf, nf.kernels, nf.datasets):
        for name in module.__all__:
            value = getattr(module, name)
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                members = [
                    member for member in vars(value) if not member.startswith("_") and member not in fields(value)
                ]
                yield from ((f"{module.__name__}.{name}.{member}", getattr(value, member)) for member in members)


@pytest.mark.parametrize(("name", "value"), [*public_objects()], ids=lambda item: item if isinstance(item, str) else "")
def test_public_names_are_documented(name, value):
    text = inspect.getdoc(value)
    assert text and len(text) > 10, f"{name} has no docstring"
    assert text != inspect.getdoc(type(value)), f"{name} shows the docstring of its type"
    for field in fields(value):
        assert re.search(rf"^(\w+, )*{field}(, \w+)*( :|$)", text, re.MULTILINE), f"{name} does not describe {field}"


def test_get_include_and_get_cmake_dir_lie_in_the_package():
    for folder in (nf.get_include(), nf.get_cmake_dir()):
        assert os.path.commonpath([folder, PACKAGE]) == str(PACKAGE)
