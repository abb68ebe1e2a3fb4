"""`scantling report`: one self-contained HTML page from a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from scantling.cli.options import Debug


def report(
    run: Annotated[Path, Argument(help="Run folder.")],
    out: Annotated[Path | None, Option("--out", "-o", help="HTML file; default: RUN/report.html.")] = None,
    with_paths: Annotated[bool, Option("--with-paths", help="Show file paths (left out otherwise).")] = False,
    debug: Debug = False,
) -> None:
    """Write the report again: verdict, worst cases, failures, data sheet, curves, how to repeat."""
    from scantling.workflows.verbs import report as run_report

    print(run_report(run, out=out, with_paths=with_paths))
