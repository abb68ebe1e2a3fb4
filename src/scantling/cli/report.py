"""`scantling report`: one self-contained HTML page from a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from scantling.cli.options import Debug, Json


def report(
    run: Annotated[Path, Argument(help="Run folder.")],
    out: Annotated[Path | None, Option("--out", "-o", help="HTML file; default: RUN/report.html.")] = None,
    with_paths: Annotated[bool, Option("--with-paths", help="Show file paths (left out otherwise).")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the report again: verdict, worst cases, failures, data sheet, curves, how to repeat."""
    from scantling.workflows.verbs import report as run_report

    path = run_report(run, out=out, with_paths=with_paths)
    print(json.dumps({"report": str(path), "facts": str(path.with_suffix(".json"))}) if as_json else path)
