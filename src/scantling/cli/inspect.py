"""`scantling inspect`: what is in a folder, before anything is trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from scantling.cli.options import Debug, Json, Layout


def inspect(
    data: Annotated[Path, Argument(help="Folder of images and labels, in any accepted layout.")],
    out: Annotated[
        Path, Option("--out", "-o", help="Folder for data.lock.json and pictures of label maps that do not fit.")
    ] = Path(),
    fix: Annotated[
        str | None,
        Option(help="Write copies of refused label maps to OUT: 'header' takes the image's header, 'grid' resamples."),
    ] = None,
    headers_only: Annotated[
        bool,
        Option("--headers-only", help="Fast: no look at damage beyond headers, stored values, copies."),
    ] = False,
    layout: Layout = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what was found: cases, label kinds, classes, damage, geometry problems, duplicates, leakage."""
    from scantling.workflows.verbs import inspect as run_inspect

    found = run_inspect(data, out, layout=layout, fix=fix, headers_only=headers_only)
    print(json.dumps(found.to_json()) if as_json else found.text())
    if found.errors:
        raise Exit(3)
