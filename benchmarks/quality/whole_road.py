"""What images without full labels add at an equal budget of time: the whole road of `train --compare` on real data.

    python benchmarks/quality/whole_road.py WORK [NAME ...] [--table]

Data: the folder named by SCANTLING_DATA (default ../shared/data); radiographs are divided as for `cxr.py`. Each run is
`scantling train --compare` once: features from all images of the training side, fine-tuning on a few labelled ones, and
labels alone for as long as both together. Held-out patients choose nothing. Each finished run adds its rows, one for
each group of held-out cases, to docs/results/whole_road.csv at once; the table of docs/how-to/pretrain.md is made of
that file alone. By the clock: leave each run a core of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import cxr

import scantling
from scantling.data.layouts import open_dataset
from scantling.evaluation.compare import compare_evaluations
from scantling.evaluation.conventions import MEAN_FOREGROUND
from scantling.evaluation.evaluate import Evaluation
from scantling.training.run_folder import CONTROL, FEATURES, RunFolder
from scantling.workflows.result import RunResult

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "docs" / "results" / "whole_road.csv"
PAGE: Final = ROOT / "docs" / "how-to" / "pretrain.md"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of `train --compare`."""

    title: str
    radiographs: bool
    labels: int
    minutes: int
    method: str | None = None
    tune: str | None = None

    def data(self, work: Path) -> Path:
        """The data set; that of radiographs is written."""
        return cxr.write_table(work / "cxr") if self.radiographs else cxr.DATA.parent / "hippocampus"


RUNS: Final = {
    "cxr-4": Run(title="radiographs, 4 cases", radiographs=True, labels=4, minutes=10, method="dvd-cl"),
    "cxr-4-silver": Run(title="radiographs, 4 cases, silver masks", radiographs=True, labels=4, minutes=5),
    "cxr-1-frozen": Run(
        title="radiographs, 1 case, encoder kept", radiographs=True, labels=1, minutes=5, method="dvd-cl", tune="frozen"
    ),
    "hippocampus-4": Run(title="hippocampus, 4 volumes", radiographs=False, labels=4, minutes=10),
}


def go(name: str, work: Path) -> None:
    """Train one, and write down what it showed."""
    run, out = RUNS[name], work / name
    scantling.train(
        run.data(work), out, labels=run.labels, time=60.0 * run.minutes, pretrain=run.method, tune=run.tune,
        compare=True, fold=None if run.radiographs else 0, settings=cxr.CPU.plan() if run.radiographs else (),
        quiet=False, overwrite=True,
    )  # fmt: skip
    record(name, work)


def record(name: str, work: Path) -> None:
    """The rows of a finished run."""
    run, out = RUNS[name], work / name
    with_them, without, features = (RunFolder.open(out / part) for part in (".", CONTROL, FEATURES))
    status = with_them.status()
    environment = status["environment"]
    evaluations = [RunResult.read(folder).evaluation for folder in (with_them, without)]
    first, second = (found for found in evaluations if found is not None)
    lines = []
    for group, cases in groups(run.data(work), first):
        compared = compare_evaluations(only(first, cases), only(second, cases), seed=status["seed"])
        found = compared.find(MEAN_FOREGROUND)
        lines.append(
            {
                "run": name,
                "group": group,
                "cases": found.n_cases,
                "patients": found.n_patients,
                "dice": f"{found.mean_first:.4f}",
                "dice_labels_only": f"{found.mean_second:.4f}",
                "difference": f"{found.difference:.4f}",
                "low": f"{found.low:.4f}",
                "high": f"{found.high:.4f}",
                "method": features.status()["recipe"],
                "labelled": status["counts"]["train"],
                "minutes": run.minutes,
                "steps_features": features.status()["steps"],
                "steps_tuning": status["steps"],
                "steps_labels_only": without.status()["steps"],
                "seed": status["seed"],
                "version": scantling.__version__,
                "date": status["finished"][:10],
                "machine": f"{status['threads']} thread(s) of {environment['cores']} cores, {status['device']}, "
                f"torch {environment['versions']['torch']}",
            }
        )
    cxr.append(RESULTS, lines)


def groups(data: Path, evaluation: Evaluation) -> Iterator[tuple[str, Collection[str]]]:
    """All held-out cases; and those of each site, where there are several."""
    yield "all", set(evaluation.patients)
    sites = {case.case_id: case.site for case in open_dataset(data).real if case.case_id in evaluation.patients}
    for site in sorted(set(sites.values())) if len(set(sites.values())) > 1 else ():
        yield site, {case for case, of in sites.items() if of == site}


def only(evaluation: Evaluation, cases: Collection[str]) -> Evaluation:
    """What it says of these cases."""
    patients = {case: patient for case, patient in evaluation.patients.items() if case in cases}
    return replace(evaluation, patients=patients, rows=tuple(row for row in evaluation.rows if row.case in cases))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as Markdown."""
    head = ["data, labelled", "features by", "minutes", "held out", "with features", "labels alone", "difference"]
    lines = [cxr.row_of(head), cxr.row_of(["---"] * len(head))]
    for row in rows:
        of_run = [RUNS[row["run"]].title, row["method"].replace("_", "-"), row["minutes"], row["cases"]]
        difference = f"{float(row['difference']):+.3f} ({float(row['low']):+.3f} to {float(row['high']):+.3f})"
        lines.append(
            cxr.row_of(
                [
                    *(of_run if row["group"] == "all" else ["", "", "", f"{row['group']}, {row['cases']}"]),
                    f"{float(row['dice']):.3f}",
                    f"{float(row['dice_labels_only']):.3f}",
                    difference,
                ]
            )
        )
    return [*lines, ""]


def main() -> None:
    """Run the named ones, all without names, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="*", choices=[[], *RUNS], help="all without one")
    parser.add_argument("--table", action="store_true", help="only write the table")
    asked = parser.parse_args()
    for name in () if asked.table else asked.names or RUNS:
        go(name, asked.work.resolve())
    cxr.write_between(PAGE, "whole-road", table(cxr.read(RESULTS)))


if __name__ == "__main__":
    main()
