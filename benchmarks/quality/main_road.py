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


def row(name: str, result: scantling.workflows.result.RunResult) -> dict[str, Any]:
    """One line of the table."""
    status, scores = result.status, result.evaluation.headline()
    environment = status["environment"]
    return {
        "run": name, "scantling": scantling.__version__, **{f"n_{k}": v for k, v in status["counts"].items()},
        "seed": status["seed"], "time": RUNS[name]["time"], "steps": status["steps"],
        "training_seconds": status["training_seconds"], "seconds": status["seconds"],
        **{k: v for k, v in scores.items() if not isinstance(v, dict)},
        "machine": f"{environment['cores']} cores, {environment['memory_gib']} GiB, {status['device']}, "
        f"{status['precision']}, torch {environment['versions']['torch']}",
    }  # fmt: skip


def append(line: dict[str, Any]) -> None:
    """Add a row; the header is that of the first."""
    new = not RESULTS.exists()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, line.keys())
        if new:
            writer.writeheader()
        writer.writerow(line)


def main(names: list[str]) -> None:
    """Run the named rows, all of them without names."""
    for name in names or list(RUNS):
        options = dict(RUNS[name])
        result = scantling.train(DATA / options.pop("data"), ROOT / "runs" / name, overwrite=True, quiet=False, **options)
        append(row(name, result))
        print(name, result.text())


if __name__ == "__main__":
    main(sys.argv[1:])
