"""`scantling evaluate`: score any tool's label maps against references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Exit, Option

from scantling.cli.options import Debug, Json, Overwrite, Quiet, Seed


def evaluate(
    predictions: Annotated[Path, Argument(help="Folder of predicted label maps.")],
    reference: Annotated[Path, Argument(help="Folder of reference label maps, or a data set folder.")],
    paired: Annotated[Path | None, Option("--paired", help="Second folder of predictions to compare with.")] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Folder for metrics.csv and evaluation.json.")] = None,
    classes: Annotated[str | None, Option("--classes", help="Only these classes, as a,b,c.")] = None,
    tolerance_mm: Annotated[float, Option("--tolerance-mm", min=0.0, help="Of the normalised surface Dice.")] = 1.0,
    convention: Annotated[
        Literal["monai", "medpy", "deepmind"], Option("--convention", help="Whose surface distances to report.")
    ] = "monai",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Dice, IoU, HD95, ASSD, NSD, ... with intervals and failure counts; a missing prediction exits with 3."""
    from scantling.workflows.verbs import evaluate as run_evaluate

    result = run_evaluate(
        predictions, reference, paired=paired, out=out, classes=classes, tolerance_mm=tolerance_mm,
        convention=convention, seed=seed, overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
    print(json.dumps(result.to_json()) if as_json else result.text())
    if result.missing:
        raise Exit(3)
