"""`scantling inspect`: what is in a folder, before anything is trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from scantling.cli.options import Debug, Json, Layout


def inspect(
    data: Annotated[Path, Argument(help="Folder of images and labels, in any accepted layout.")],
    out: Annotated[Path | None, Option("--out", "-o", help="Where data.lock.json goes; default: this folder.")] = None,
    layout: Layout = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what was found: cases, label kinds, classes, damage, geometry problems, duplicates, leakage."""
    from scantling.workflows.verbs import inspect as run_inspect

    found = run_inspect(data, lock=(out or Path()) / "data.lock.json", layout=layout)
    print(json.dumps(found.to_json()) if as_json else found.text())
    if found.errors:
        raise Exit(3)
