"""`scantling figure`: pictures of what a network makes of images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from scantling.cli.options import Debug, Device, Json, Overwrite, Quiet, Seed


def figure(
    kind: Annotated[str, Argument(help="chromap: every pixel in the colour of its features.")],
    run: Annotated[Path, Argument(help="Run folder or model folder of a network that segments or was pretrained.")],
    images: Annotated[Path, Argument(help="One image, a folder of images, or a data set folder.")],
    out: Annotated[Path, Option("--out", "-o", help="New folder for the figures.")],
    mode: Annotated[str, Option(help="pca, or umap: the published algorithm (extra 'umap'; minutes a case).")] = "pca",
    tap: Annotated[
        str | None, Option(help="Level of the network, as decoder.2; without it the pretrained one, or the finest.")
    ] = None,
    like: Annotated[
        Path | None, Option(help="Folder of another figure: take its colours, so that both can be compared.")
    ] = None,
    opacity: Annotated[float, Option(help="Share of the colours in an overlay, 0 to 1.")] = 0.5,
    share: Annotated[float, Option(help="Share of the pixels that span the disk; others take its rim's colour.")] = 1.0,
    cases: Annotated[str | None, Option("--cases", help="Only these cases, as a,b,c.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw what a network makes of images: a picture and an interactive page a case, all in one map of colours."""
    from scantling.workflows.figure import figure as run_figure

    result = run_figure(
        kind, run, images, out, mode=mode, tap=tap or "", like=like, opacity=opacity, share=share, cases=cases,
        seed=seed, device=device, overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
    print(json.dumps(result.to_json()) if as_json else result.text())
    for sentence in () if as_json or quiet else result.notes:
        print(sentence, file=sys.stderr)
    for sentence in result.failures.values():
        print(f"failed: {sentence}", file=sys.stderr)
    if result.failures:
        raise Exit(3)
