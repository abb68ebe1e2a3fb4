"""`scantling resume`: go on where a run stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument

from scantling.cli.options import Debug, Json, Quiet


def resume(
    run: Annotated[Path, Argument(help="Run folder of an interrupted 'train'.")],
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Continue an interrupted run from its last checkpoint, with the settings it was started with."""
    from scantling.workflows.verbs import resume as run_resume

    result = run_resume(run, quiet=quiet)
    print(json.dumps(result.to_json()) if as_json else result.text())
