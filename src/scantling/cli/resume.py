"""`scantling resume`: go on where a run stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from scantling.cli.options import Debug, Json, Quiet


def resume(
    run: Annotated[Path, Argument(help="Run folder of 'train'.")],
    steps: Annotated[int | None, Option("--steps", min=1, help="New length, for a run measured in steps.")] = None,
    time: Annotated[
        str | None, Option("--time", help="Further training time, for a run measured in time: 10m.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Continue an interrupted run from its last checkpoint, with the settings it was started with.

    With --steps or --time a run, finished or not, becomes longer; what that changes is said first.
    """
    from scantling.workflows.train import resume as run_resume

    result = run_resume(run, steps=steps, time=time, quiet=quiet)
    if result.first:
        print(json.dumps(result.to_json()) if as_json else result.text())
