"""What every speed benchmark shares: contestants that take turns, the peak of a fresh process, rows of the table.

Import this module first: it asks for one thread before NumPy and torch start theirs.
"""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

for _name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "BLOSC"):
    os.environ[f"{_name}_{'NTHREADS' if _name == 'BLOSC' else 'NUM_THREADS'}"] = "1"

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "speed.csv"
PACKAGES = (
    "torch", "numpy", "scipy", "monai", "nnunetv2", "medpy", "surface-distance", "blosc2", "kornia", "torchio",
    "batchgeneratorsv2",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        bar: the name of the goal (`P15`).
        ours, theirs: medians, in `unit`.
        ratio: how many times less ours takes; for a goal that is an upper bound, what is bounded.
        floor, target: what the ratio must reach and what is aimed at ("4", "<= 1.05"); empty where none is set.
        check: what was equal, or by how much not.
        equal: whether that check held.
    """

    bar: str
    what: str
    peer: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    floor: str
    target: str
    check: str
    equal: bool
    machine: str = ""
    versions: str = ""
    date: str = ""

    @property
    def reached(self) -> str:
        """ "target", "floor" or "below"; empty for a row without a goal."""
        if not self.floor:
            return ""
        if not self.equal:
            return "unequal"
        return "target" if meets(self.ratio, self.target) else "floor" if meets(self.ratio, self.floor) else "below"


def meets(value: float, goal: str) -> bool:
    """Whether a value is at least a goal, or at most one that is written `<= 1.05`."""
    return value <= float(goal[2:]) if goal.startswith("<=") else value >= float(goal)


def peer(module: str) -> Any | None:
    """A module of a peer, or None and a sentence where it cannot be imported."""
    try:
        return importlib.import_module(module)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:  # a broken dependency raises any of them
        print(f"{module}: left out ({type(error).__name__}: {error})")
        return None


def take_turns(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmups: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> tuple[dict[str, float], dict[str, Any]]:
    """The median seconds of each contestant over rounds in which each runs once, and what each gave last."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results: dict[str, Any] = {}
    for turn in range(warmups + rounds):
        for name, contestant in contestants.items():
            results.pop(name, None)
            began = clock()
            results[name] = contestant()
            if turn >= warmups:
                seconds[name].append(clock() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}, results


def child_peak_mib(script: str, *arguments: str) -> float:
    """What a fresh process prints last: there a contestant runs alone and prints `peak_growth_mib`.

    The C library is told to give large blocks back at once: what it keeps for later depends on what was imported
    before and would be counted to whoever comes next.
    """
    command = [sys.executable, script, *arguments]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(answer.stdout.split()[-1])


def peak_growth_mib(work: Callable[[], Any]) -> float:
    """By how much the resident set of this process grows at most while `work` runs (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status_kib("VmRSS")
    kept = work()
    growth = (_status_kib("VmHWM") - before) / 1024
    del kept
    return growth


def record(rows: Iterable[Row], *, accelerator: str = "") -> int:
    """Print rows and put them into the table's file in place of those with the same bar, work and peer.

    Args:
        accelerator: what they were measured on, if not on the processor.

    Returns:
        The exit code of a benchmark: 1 where something that must be equal is not.
    """
    place = f"{accelerator} in {machine()}" if accelerator else machine()
    stamp = {"machine": place, "versions": versions(), "date": date.today().isoformat()}
    fresh = [Row(**(asdict(row) | stamp)) for row in rows]
    for row in fresh:
        goal = f" (floor {row.floor}, target {row.target}: {row.reached})" if row.floor else ""
        print(
            f"{row.bar:5s}{row.what} | {row.peer}: {row.ours:.4g} against {row.theirs:.4g} {row.unit}, "
            f"ratio {row.ratio:.3g}{goal}; {row.check}",
            flush=True,
        )
    replaced = {(row.bar, row.what, row.peer) for row in fresh}
    kept = [row for row in read() if (row.bar, row.what, row.peer) not in replaced]
    write([*kept, *fresh])
    return 0 if all(row.equal for row in fresh) else 1


def read() -> list[Row]:
    """The rows of the table's file."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as stream:
        return [_row(values) for values in csv.DictReader(stream)]


def write(rows: Sequence[Row]) -> None:
    """The table's file anew, in the order of the bars; those of accelerators, G1 and on, come last."""

    def place(row: Row) -> tuple[bool, int, str, str, str]:
        return row.bar.startswith("G"), int("".join(filter(str.isdigit, row.bar))), row.bar, row.what, row.peer

    ordered = sorted(rows, key=place)
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in ordered:
            values = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(row).items()}
            writer.writerow(values)


def machine() -> str:
    """The processor, its cores and the memory, and how busy it was."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    busy = f"shared (load {load:.1f})" if load > 1.5 else "quiet"
    return f"{_processor()}, {os.cpu_count()} cores, {gib:.1f} GiB, {busy}"


def versions() -> str:
    """Of Python and of what is installed of the packages that are compared."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{facts.get('model name', platform.machine())} ({vectors})"


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _row(values: dict[str, str]) -> Row:
    kinds = {"ours": float, "theirs": float, "ratio": float, "equal": lambda text: text == "True"}
    return Row(**{k: kinds.get(k, str)(v) for k, v in values.items()})
