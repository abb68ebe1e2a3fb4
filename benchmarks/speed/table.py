"""Run every speed benchmark and write the table and the profiles into docs/benchmarks.md.

`python benchmarks/speed/table.py` runs all of them (about ten minutes on a quiet machine); names of benchmarks run
only those, and `--write` only writes what was measured before. A benchmark whose peer is missing says so and keeps the
row of the last time, with its own machine and date. The exit code is 1 where something that must be equal is not,
or a benchmark failed.
"""

from measuring import ROOT, Row, read  # isort: skip  (sets the number of threads first)

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
SHOWN = (
    "P1", "P1m", "P2", "P3", "P6", "P7", "P8", "P9", "P10", "P15", "P15m", "P18", "P18m",
    "P17", "P12", "P14", "P13",
)  # fmt: skip
PROFILES = ROOT / "docs" / "results" / "profiles.txt"
BENCHMARKS = (
    "store",
    "loop_overhead",
    "teacher",
    "views",
    "sliding_window",
    "metrics",
    "startup",
    "contrast",
    "alignment",
    "sampling",
    "profiles",
)
TIMEOUT_SECONDS = 1800
HEAD = "| goal | work | peer | ours | peer's | ratio | floor | target | reached | equality |"


def run(names: Iterable[str]) -> list[str]:
    """Each benchmark in a process of its own; what went wrong."""
    failures = []
    for name in names:
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        try:
            ended = subprocess.run(
                [sys.executable, str(Path(__file__).with_name(f"{name}.py"))], timeout=TIMEOUT_SECONDS, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            ended = f"a time-out after {TIMEOUT_SECONDS} s"
        if ended:
            failures.append(f"{name}: ended with {ended}")
        print(f"--- {name}: {time.monotonic() - began:.0f} s", flush=True)
    return failures


def table(rows: list[Row]) -> str:
    """Markdown: the rows, and where and when they were measured."""
    lines = [HEAD, "| --- " * HEAD.count(" |") + "|"]
    for row in rows:
        absolute = row.peer == "(absolute)"
        cells = (
            row.bar, row.what, "" if absolute else row.peer, f"{row.ours:.3g} {row.unit}",
            "" if absolute else f"{row.theirs:.3g} {row.unit}", f"{row.ratio:.3g}", row.floor, row.target,
            row.reached, row.check,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for place in dict.fromkeys((row.machine, row.versions, row.date) for row in rows):
        machine, versions, date = place
        bars = sorted({row.bar for row in rows if (row.machine, row.versions, row.date) == place})
        lines += ["", f"{', '.join(bars)}: {machine}; {versions}; {date}."]
    return "\n".join(lines)


def between(text: str, name: str, content: str) -> str:
    """The text with `content` between the markers of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        raise ValueError(f"the page has no {begin} and {end}")
    return f"{text.partition(begin)[0]}{begin}\n\n{content.strip()}\n\n{end}{text.partition(end)[2]}"


def summary(rows: list[Row]) -> str:
    """The README's few lines: one a piece of work and peer, ratio and goal."""
    lines = ["| work | against | ratio | goal: floor, target |", "| --- | --- | --- | --- |"]
    for bar in SHOWN:
        shown = (row for row in rows if row.bar == bar and row.floor)
        lines += [f"| {row.what} | {row.peer} | **{row.ratio:.3g}** | {row.floor}, {row.target} |" for row in shown]
    return "\n".join(lines)


def write() -> None:
    text = between(PAGE.read_text(encoding="utf-8"), "speed", table(read()))
    if PROFILES.is_file():
        text = between(text, "profiles", f"```text\n{PROFILES.read_text(encoding='utf-8').strip()}\n```")
    PAGE.write_text(text, encoding="utf-8")
    README.write_text(between(README.read_text(encoding="utf-8"), "speed", summary(read())), encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}, {README.relative_to(ROOT)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--write", action="store_true", help="measure nothing, only write the page")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    failures = [] if options.write else run(options.names or BENCHMARKS)
    write()
    rows = read()
    for row in rows:
        if row.reached in ("below", "unequal"):
            print(f"{row.reached}: {row.bar} {row.what}, {row.peer}: {row.ratio:.3g} (floor {row.floor})")
    print(*failures, sep="\n")
    return 1 if failures or any(not row.equal for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
