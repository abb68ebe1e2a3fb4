"""`scantling predict`: segment new images with a trained run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from scantling.cli.options import Debug, Device, Json, Overwrite, Quiet


def predict(
    run: Annotated[Path, Argument(help="Run folder, or its model folder.")],
    images: Annotated[Path, Argument(help="One image, a folder of images, or a data set folder.")],
    out: Annotated[Path, Option("--out", "-o", help="New folder for the label maps.")],
    device: Device = "auto",
    probabilities: Annotated[bool, Option("--probabilities", help="Also write softmax maps.")] = False,
    uncertainty: Annotated[bool, Option("--uncertainty", help="Also write entropy maps in [0, 1].")] = False,
    tta: Annotated[bool, Option("--tta", help="Average over mirrored copies (slower).")] = False,
    largest_component: Annotated[
        bool, Option("--largest-component", help="Keep only the largest component of each class.")
    ] = False,
    budget_ram: Annotated[
        str | None, Option("--budget-ram", help="A case that needs more memory fails, the others go on: 8G.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Segment new images on each image's own grid and in its own file type."""
    from scantling.workflows.verbs import predict as run_predict

    result = run_predict(
        run, images, out, device=device, overwrite=overwrite, probabilities=probabilities, uncertainty=uncertainty,
        tta=tta, largest_component=largest_component, budget_ram=budget_ram, quiet=quiet,
    )  # fmt: skip
    if as_json:
        print(json.dumps({"paths": [str(path) for path in result.paths], "failures": dict(result.failures)}))
    else:
        for path in result.paths:
            print(path)
    for sentence in result.failures.values():
        print(f"failed: {sentence}", file=sys.stderr)
    if result.failures:
        n_cases = len(result.failures) + len(result.paths)
        print(f"failed {len(result.failures)} of {n_cases} cases", file=sys.stderr)
        raise Exit(3)
