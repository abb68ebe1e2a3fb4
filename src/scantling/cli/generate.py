"""`scantling generate`: what each case would look like under another scanner, sex or finding."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from scantling.cli.options import Debug, Device, Json, Layout, Overwrite, Quiet, Seed


def generate(
    run: Annotated[Path, Argument(help="Run folder of recipe counterfactual_vae, or its model folder.")],
    data: Annotated[Path, Argument(help="Data set folder; its table has the attributes.")],
    do: Annotated[
        list[str],
        Option(
            "--do",
            help="An intervention, repeatable: scanner=B; 'scanner=B;finding=none' sets both; scanner=other takes, of "
            "two values, the one a case does not have.",
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", help="Folder for the images; the same command goes on with it.")],
    together: Annotated[bool, Option("--together", help="All --do are one intervention.")] = False,
    source: Annotated[
        str | None,
        Option(
            help="Instead of the image model: 'appearance' (grey values only, no training), or a folder with "
            "counterfactuals.csv."
        ),
    ] = None,
    segmenter: Annotated[Path | None, Option(help="Run folder of a segmentation model: does the anatomy stay?")] = None,
    masks: Annotated[
        str | None, Option(help="Compare with these annotations where there are any: full,silver. Needs --segmenter.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        Option(help="What is rejected, repeatable: identity_dice=0.95; composition=none switches one off."),
    ] = None,
    cases: Annotated[str | None, Option("--cases", help="Only these cases, as a,b,c.")] = None,
    batch_size: Annotated[int | None, Option("--batch-size", min=1, help="Images at a time.")] = None,
    seed: Seed = 0,
    layout: Layout = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write counterfactual images, on each image's own grid and in its own type, judge them, and make a data set."""
    from scantling.workflows.generate import generate as run_generate

    result = run_generate(
        run, data, out, do=do, together=together, source=source, segmenter=segmenter, masks=masks or (),
        limits=limit or (), cases=cases, batch_size=batch_size, seed=seed, layout=layout, device=device,
        overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
    print(json.dumps(result.to_json()) if as_json else result.text())
    for sentence in result.failures.values():
        print(f"failed: {sentence}", file=sys.stderr)
    if result.failures:
        raise Exit(3)
