#!/usr/bin/env python3
"""Prove from the object files that each SIMD level is real, and that nothing else uses its instructions.

Disassembles every object of libnearfield.a (by default the one inside the installed package) and demands:

- an object named *_<level>.cpp.o contains an instruction that only that level has, and none of a higher level;
- every other object stays at the baseline: no VEX or EVEX instruction, no BMI;
- the object of a level exports nothing but its fill_<family>_<level> and defines no weak symbol: a template or inline
  function compiled with special flags could replace the baseline's copy at link time.

Needs `objdump` and `nm` that know the library's architecture; reads ELF.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

# What marks a level in a disassembly (AT&T syntax). An object of a level must match its own mark and no later one.
X86_LEVELS = {
    "avx2": r"%ymm",
    "avx512": r"%zmm|%k[1-7]|%[xy]mm(?:1[6-9]|2\d|3[01])",
    "avx512vnni": r"\bvpdp(?:busd|wssd)",
    "avx512icl": r"\bvp(?:opcnt[bwdq]|erm(?:[it]2)?b|multishiftqb|shufbitqmb|compress[bw]|expand[bw]|sh[lr]d)",
    "avx512bf16": r"\bv(?:dpbf16ps|cvtne2?ps2bf16)",
}
ARM_LEVELS = {
    "neon": r"\bv\d+\.(?:16b|8b|8h|4h|4s|2s|2d)",
    "neondot": r"\b[su]dot\b",
}
X86_ABOVE_BASELINE = (
    r"\bv[a-z]+\d*[a-z]*\d*\s+.*%[xyz]mm|%[yz]mm|%k[1-7]"
    r"|\b(?:andn|bextr|blsi|blsr|blsmsk|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|lzcnt|movbe)[lq]?\s"
)
ARM_ABOVE_BASELINE = r"\b[su]dot\b|\b[su]mmla\b|\bbf(?:dot|mmla)\b|\b[zp]\d+\."


@dataclass
class ObjectReport:
    """What one object file contains: its level, how many instructions bear the level's mark, and what is wrong."""

    name: str
    level: str
    instructions: int
    marks: int
    problems: list[str] = field(default_factory=list)


def find_tool(name: str, library: Path) -> list[str]:
    """Command line of the first `name` that knows the architecture of `library`."""
    for prefix in ("", "aarch64-linux-gnu-", "x86_64-linux-gnu-", "llvm-"):
        tool = shutil.which(prefix + name)
        if tool and "UNKNOWN" not in run([tool, "-f", str(library)] if name == "objdump" else [tool, str(library)]):
            return [tool]
    raise FileNotFoundError(f"no {name} for the architecture of {library}")


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout


def split_members(text: str, header: str) -> list[tuple[str, list[str]]]:
    """Cut the output of a binutils tool into (member name, lines), at the lines that match `header`."""
    members: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        found = re.match(header, line)
        if found:
            members.append((found.group(1), []))
        elif members:
            members[-1][1].append(line)
    return members


def check(library: Path) -> list[ObjectReport]:
    """Report on every object in the static library `library`."""
    disassembly = run([*find_tool("objdump", library), "-d", "--no-show-raw-insn", str(library)])
    symbols = run([*find_tool("nm", library), "--defined-only", "--extern-only", "-C", "-f", "bsd", str(library)])
    arm = "aarch64" in disassembly
    levels = ARM_LEVELS if arm else X86_LEVELS
    above_baseline = re.compile(ARM_ABOVE_BASELINE if arm else X86_ABOVE_BASELINE)

    reports = []
    for name, lines in split_members(disassembly, r"(?:.*\()?([^():\s]+)\)?:\s+file format"):
        # "  1a:<tab>vaddps %ymm0,%ymm1,%ymm2"
        code = [line.split("\t", 1)[1] for line in lines if re.match(r"\s*[0-9a-f]+:\t", line)]
        suffix = re.search(r"_([a-z0-9]+)\.cpp\.o(?:bj)?$", name)
        level = suffix.group(1) if suffix and suffix.group(1) in levels else "baseline"
        report = ObjectReport(name, level, len(code), 0)
        reports.append(report)
        if level == "baseline":
            strays = [line for line in code if above_baseline.search(line)]
            if strays:
                report.problems.append(f"{len(strays)} instructions above the baseline, such as {strays[0]!r}")
            continue
        names = list(levels)
        report.marks = sum(bool(re.search(levels[level], line)) for line in code)
        if not report.marks:
            report.problems.append(f"no instruction of level {level}")
        for higher in names[names.index(level) + 1 :]:
            strays = [line for line in code if re.search(levels[higher], line)]
            if strays:
                report.problems.append(f"{len(strays)} instructions of level {higher}, such as {strays[0]!r}")

    for report, (name, lines) in zip(reports, split_members(symbols, r"(?:.*\()?([^():\s]+)\)?:$"), strict=True):
        assert report.name == name, (report.name, name)
        if report.level == "baseline":
            continue
        wanted = f"fill_{name.split('.')[0]}"
        for line in filter(None, lines):
            _, kind, symbol = line.split(maxsplit=2)
            if kind in "WVwvu":
                report.problems.append(f"weak symbol {symbol}")
            elif f"{wanted}(" not in symbol:
                report.problems.append(f"exports {symbol} beside {wanted}")
    return reports


def installed_library() -> Path:
    """libnearfield.a inside the installed package, found without importing it."""
    spec = importlib.util.find_spec("nearfield")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("nearfield is not installed; name a libnearfield.a instead")
    return Path(spec.origin).parent / "lib" / "libnearfield.a"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", nargs="?", type=Path, help="libnearfield.a, or a folder that contains it")
    parser.add_argument("--expect", nargs="*", default=[], metavar="LEVEL", help="levels that must be present")
    arguments = parser.parse_args()
    library = arguments.library or installed_library()
    if library.is_dir():
        library = library / "libnearfield.a"

    reports = check(library)
    print(f"{'object':32} {'level':12} {'instructions':>12} {'of its level':>12}")
    for report in reports:
        print(f"{report.name:32} {report.level:12} {report.instructions:12} {report.marks or '-':>12}")
    problems = [f"{report.name}: {problem}" for report in reports for problem in report.problems]
    missing = set(arguments.expect) - {report.level for report in reports}
    problems += [f"level {level} has no object" for level in sorted(missing)]
    for problem in problems:
        print(f"FAILED {problem}", file=sys.stderr)
    print(f"{library}: {len(reports)} objects, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
