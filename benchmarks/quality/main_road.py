"""The main road on real data: default plans, one run a row, held-out scores with intervals.

    python benchmarks/quality/main_road.py hippocampus acdc cxr hippocampus-4

Data: the folder named by SCANTLING_DATA (default ../shared/data). Each finished run adds a row to
docs/results/main_road.csv at once. The held-out cases choose nothing; the selection rule stands in the row.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Any

import scantling
from scantling.workflows.result import RunResult

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SCANTLING_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "docs" / "results" / "main_road.csv"
RUNS: dict[str, dict[str, Any]] = {
    "hippocampus": {"data": "hippocampus", "time": "20m", "fold": 0},
    "hippocampus-4": {"data": "hippocampus", "time": "20m", "fold": 0, "labels": 4},
    "acdc": {"data": "acdc", "time": "25m", "fold": 0},
    "cxr": {
        "data": "cxr", "time": "15m", "classes": "right_lung,left_lung",
        "train_on": ["site=shenzhen"], "test_on": ["site=wingspan"],
    },
}  # fmt: skip
TITLES = {
    "hippocampus": "hippocampus, 3D MRI",
    "hippocampus-4": "hippocampus, 4 labelled volumes",
    "acdc": "ACDC, cine MRI, 2D plan",
    "cxr": "chest radiographs, Shenzhen to Wingspan",
}
BEGIN, END = "<!-- table:main_road -->", "<!-- /table -->"


def row(name: str, result: RunResult) -> dict[str, Any]:
    """One line of the table."""
    if result.evaluation is None:
        raise SystemExit(f"{name}: nothing was held out, so there is nothing to write down")
    status, evaluation = result.status, result.evaluation
    environment, mean = status["environment"], evaluation.find()
    hd95 = evaluation.find(metric="hd95_mm")
    return {
        "run": name,
        "version": scantling.__version__,
        "date": status["finished"][:10],
        **{f"n_{k}": v for k, v in status["counts"].items()},
        "seed": status["seed"],
        "budget": RUNS[name]["time"],
        "steps": status["steps"],
        "dice": f"{mean.mean:.4f}",
        "dice_low": f"{mean.low:.4f}",
        "dice_high": f"{mean.high:.4f}",
        "failed": f"{mean.failed} of {mean.n}",
        "dice_per_class": "; ".join(f"{c} {evaluation.find(c).mean:.3f}" for c in evaluation.classes),
        "hd95_mm": f"{hd95.mean:.2f}",
        "selection": "best inner-validation Dice" if status["counts"]["validation"] else "last averaged weights",
        "machine": f"{environment['cores']} cores, {environment['memory_gib']} GiB, {status['device']}, "
        f"{status['precision'].removeprefix('torch.')}, torch {environment['versions']['torch']}",
    }


def append(line: dict[str, Any]) -> None:
    """Add a row; the header is that of the first."""
    new = not RESULTS.exists()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, line.keys())
        if new:
            writer.writeheader()
        writer.writerow(line)


def table() -> str:
    """The rows as Markdown: the newest of each run."""
    with RESULTS.open(newline="", encoding="utf-8") as stream:
        newest = {line["run"]: line for line in csv.DictReader(stream)}
    head = "| data | trained on | held out | mean Dice (95 % interval) | failed | per class | budget | checkpoint |"
    lines = [head, "|" + " --- |" * 8]
    lines += [
        f"| {TITLES[name]} | {r['n_train']} | {r['n_held_out']} | **{float(r['dice']):.3f}** "
        f"({float(r['dice_low']):.3f} to {float(r['dice_high']):.3f}) | {r['failed']} | {r['dice_per_class']} | "
        f"{r['budget']} | {r['selection']} |"
        for name, r in newest.items()
    ]
    machines = sorted({r["machine"] for r in newest.values()})
    seeds = sorted({r["seed"] for r in newest.values()})
    note = (
        f"Default plan, one run each, seed {', '.join(seeds)}, on {'; '.join(machines)}. "
        "Intervals: bootstrap over patients."
    )
    return "\n".join([*lines, "", note])


def write_table() -> None:
    """Put the table between its marks in the README."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


def main(names: list[str]) -> None:
    """Run the named rows, all of them without names; `table` only writes the README's table again."""
    for name in [] if names == ["table"] else names or list(RUNS):
        options = dict(RUNS[name])
        out = ROOT / "runs" / name
        result = scantling.train(
            DATA / options.pop("data"), out, recipe="supervised", overwrite=True, quiet=False, **options
        )
        append(row(name, result))
        print(name, result.text())
    write_table()


if __name__ == "__main__":
    main(sys.argv[1:])
