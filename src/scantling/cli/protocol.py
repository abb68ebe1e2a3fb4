"""`scantling protocol`: methods compared so that the figures can be believed, or held beside published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from scantling.cli.options import Debug, Device, Json, Quiet
from scantling.cli.run_options import Data, Labels, Settings, Steps, Time


def protocol(
    name: Annotated[
        str,
        Argument(
            help="clean (unseen patients, three seeds, paired intervals), or published (as papers report: the best "
            "epoch on the scored cases themselves)."
        ),
    ],
    data: Data,
    out: Annotated[Path, Option("--out", "-o", help="Folder for all runs and the table; goes on where it stopped.")],
    methods: Annotated[str, Option("--methods", help="Of 'pretrain', as dvd-cl,s-mvd-cl.")] = "dvd-cl",
    seeds: Annotated[int, Option("--seeds", min=1, help="Repetitions of the clean protocol; at least 3.")] = 3,
    labels: Labels = None,
    steps: Steps = None,
    time: Time = None,
    settings: Settings = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare pretraining methods with labels alone under a named protocol; one run folder each, and a table."""
    from scantling.workflows.protocol import protocol as run_protocol

    table = run_protocol(
        name, data, out, methods=methods, seeds=seeds, labels=labels, steps=steps, time=time, settings=settings or (),
        device=device, quiet=quiet,
    )  # fmt: skip
    print(json.dumps(table.to_json()) if as_json else table.text())
