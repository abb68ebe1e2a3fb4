"""`scantling demo`: the whole road on synthetic radiographs, without network or data of your own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from scantling.cli.options import Debug, Device, Json, Overwrite, Quiet, Seed


def demo(
    out: Annotated[Path, Option("--out", "-o", help="New folder for data, run and report.")] = Path("demo-run"),
    steps: Annotated[
        int | None, Option("--steps", min=1, help="Length of training; the default takes two minutes.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make phantom radiographs, two of them labelled; train with all and with these two, score, report, draw a map."""
    from scantling.workflows.demo import demo as run_demo

    result = run_demo(out, steps=steps, seed=seed, device=device, overwrite=overwrite, quiet=quiet)
    print(json.dumps(result.to_json()) if as_json else result.text())
    if not quiet:
        print("These were phantoms: their scores say nothing about patients. Next: scantling train YOUR_FOLDER",
              file=sys.stderr)  # fmt: skip
