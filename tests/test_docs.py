"""Every Python block of the README and the documentation runs, and prints what the text block right below it shows."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")  # to another file, not to an address
# Shown in the documentation, but not installed for the tests.
OPTIONAL_IMPORT = re.compile(r"^import (torch|xxhash)$", re.MULTILINE)


@dataclass
class Block:
    code: str
    line: int
    printed: str | None  # what the text block right below shows

    @property
    def missing(self) -> str | None:
        return next((name for name in OPTIONAL_IMPORT.findall(self.code) if not importlib.util.find_spec(name)), None)


@dataclass
class Page:
    """A page, whose blocks share their names as in one session of a reader."""

    path: Path
    blocks: list[Block]
    names: dict[str, Any] = field(default_factory=dict)
    done: int = 0

    def run_next(self, capsys: pytest.CaptureFixture[str]) -> None:
        block = self.blocks[self.done]
        self.done += 1
        if block.missing:
            return
        code = compile("\n" * (block.line - 1) + block.code, str(self.path), "exec")
        capsys.readouterr()
        exec(code, self.names)
        printed = capsys.readouterr().out
        if block.printed is not None:
            assert printed.rstrip() == block.printed.rstrip()


def read(path: Path) -> Page:
    text = path.read_text("utf-8")
    fences = list(FENCE.finditer(text))
    blocks = []
    for fence, below in zip_longest(fences, fences[1:]):
        if fence[1] != "python":
            continue
        shown = below is not None and below[1] == "text" and not text[fence.end() : below.start()].strip()
        blocks.append(Block(fence[2], text.count("\n", 0, fence.start(2)) + 1, below[2] if shown else None))
    return Page(path, blocks)


def blocks_of_all_pages() -> list[Any]:
    return [
        pytest.param(page, number, id=f"{page.path.relative_to(ROOT).as_posix()}:{block.line}")
        for page in map(read, PAGES)
        for number, block in enumerate(page.blocks)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    return {path: tmp_path_factory.mktemp(path.stem) for path in PAGES}


@pytest.mark.parametrize(("page", "number"), blocks_of_all_pages())
def test_block_runs(
    page: Page,
    number: int,
    folders: dict[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folders[page.path])
    while page.done <= number:  # those before it too, where only this one was asked for
        page.run_next(capsys)
    if page.blocks[number].missing:
        pytest.skip(f"{page.blocks[number].missing} is not installed")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text("utf-8")):
        assert (path.parent / link).exists(), f"{path.name} links to {link}"
