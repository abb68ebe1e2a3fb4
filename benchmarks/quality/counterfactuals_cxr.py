"""Counterfactuals of real chest radiographs: what an image model of 25 minutes can do, and how sound it is.

    python benchmarks/quality/counterfactuals_cxr.py [WORK]

Data: `cxr` in the folder named by SCANTLING_DATA (default ../shared/data): three sources, sex, and in one source normal
or tuberculosis; what a source does not say is missing. Fold 0 is held out, and counterfactuals of it are judged. Rows
go to docs/results/counterfactuals_cxr.csv. Nobody knows the true counterfactuals of these patients: the rows say
what a judge and a segmentation network see.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import scantling
from scantling.files import read_json
from scantling.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SCANTLING_DATA", ROOT.parent / "shared" / "data")) / "cxr"
RESULTS = ROOT / "docs" / "results" / "counterfactuals_cxr.csv"
MINUTES, SIZE = os.environ.get("MINUTES", "25m"), int(os.environ.get("SIZE", "96"))
SITES = ("shenzhen", "wingspan", "covid19-collection")
SETTINGS = [
    'settings.attributes=["site", "sex", "tuberculosis"]',
    f"settings.size=[{SIZE}, {SIZE}]",
    "settings.constraint.sparse={sex = 0.1, tuberculosis = 0.1}",
]


def write_table(folder: Path) -> Path:
    """The data set with a column for tuberculosis, known in one source only; the files stay where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(DATA / "dataset.toml", folder)
    with (DATA / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = {"TB": "yes", "normal": "no"}
    for row in rows:
        row["tuberculosis"] = names.get(row.pop("finding"), "") if row["site"] == "shenzhen" else ""
        row.pop("scanner"), row.pop("view"), row.pop("age")
        for column in ("image", "label"):
            row[column] = os.path.relpath(DATA / row[column], folder) if row[column] else ""
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def rows_of(folder: Path, source: str, status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each intervention and measure of a folder of counterfactuals."""
    found = read_json(folder / "generate.json")
    environment = status["environment"]
    lines = []
    for intervention in found["interventions"]:
        print(json.dumps(intervention)[:400])
        lines.append(
            {
                "source": source,
                **{k: v if not isinstance(v, dict | list) else json.dumps(v) for k, v in intervention.items()},
                "size": SIZE,
                "training_minutes": f"{status['training_seconds'] / 60:.1f}",
                "steps": status["steps"],
                "seed": status["seed"],
                "judge": json.dumps(found["judge"]),
                "selection": "best bound on validation images",
                "version": scantling.__version__,
                "machine": f"{environment['cores']} cores, {environment['memory_gib']} GiB, {status['device']}, "
                f"{status['precision'].removeprefix('torch.')}, torch {environment['versions']['torch']}",
            }
        )
    return lines


def main(work: Path) -> None:
    """Train, generate, judge, write down."""
    data = write_table(work / "cxr")
    run, segmentation = work / "image-model", work / "segmentation"
    if not (run / "report.html").exists():
        scantling.train(
            data, run, recipe="counterfactual_vae", time=MINUTES, fold=0, quiet=False, overwrite=True, settings=SETTINGS
        )
    if not (segmentation / "report.html").exists():
        scantling.train(
            data, segmentation, recipe="supervised", time="5m", fold=0, classes="right_lung,left_lung", quiet=False,
            overwrite=True,
        )  # fmt: skip
    held_out = read_json(run / "splits.json")["heldout"]
    status = RunFolder.open(run).status()
    lines = []
    for source in (None, "appearance"):
        wanted = [f"site={site}" for site in SITES]
        wanted += [] if source else ["sex=other", "tuberculosis=other"]
        out = work / (source or "counterfactuals")
        scantling.generate(
            run, data, out, do=wanted, source=source, segmenter=segmentation, cases=held_out, overwrite=True
        )
        lines += rows_of(out, source or "image model", status)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for line in lines for name in line)))
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary))
