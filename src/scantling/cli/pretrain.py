"""`scantling pretrain`: features from all images, with labels or without, to fine-tune a network from."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Option

from scantling.cli.options import Debug, Json, Layout, Overwrite, Quiet, Verbose
from scantling.cli.run_options import (
    DATA,
    METHOD,
    BudgetDisk,
    BudgetRam,
    Classes,
    ConfigFile,
    Data,
    Dimensions,
    DryRun,
    Init,
    Labels,
    Out,
    PlanFile,
    RunDevice,
    RunSeed,
    Settings,
    Steps,
    TestOn,
    Time,
    TrainOn,
    Workers,
)


def pretrain(
    data: Data,
    out: Out = None,
    method: Annotated[
        str | None,
        Option(
            "--method",
            help="Without labels dvd-cl (default), mvd-cl, vader, densecl, pixpro or simclr; from labels s-dvd-cl, "
            "s-mvd-cl, ssdcl or segmentation.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    time: Time = None,
    steps: Steps = None,
    seed: RunSeed = None,
    labels: Labels = None,
    fold: Annotated[
        str | None,
        Option(
            "--fold",
            help="Held-out fold (default 0), whose patients are not learnt from; 'none' to learn from all.",
            rich_help_panel=DATA,
        ),
    ] = None,
    classes: Classes = None,
    label_kinds: Annotated[
        str | None,
        Option(
            "--label-kinds",
            help="Annotations that a method which reads labels learns from, best first; default: silver.",
            rich_help_panel=DATA,
        ),
    ] = None,
    train_on: TrainOn = None,
    test_on: TestOn = None,
    dimensions: Dimensions = None,
    config: ConfigFile = None,
    plan: PlanFile = None,
    init: Init = None,
    settings: Settings = None,
    layout: Layout = None,
    device: RunDevice = None,
    workers: Workers = None,
    budget_ram: BudgetRam = None,
    budget_disk: BudgetDisk = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Learn features from every image that is not held out, labelled or not; 'train --init RUN' goes on from them."""
    from scantling.workflows.pretrain import pretrain as run_pretrain

    result = run_pretrain(
        data, out, method=method, time=time, steps=steps, seed=seed, labels=labels, fold=fold, classes=classes,
        label_kinds=label_kinds, train_on=train_on or (), test_on=test_on or (), dimensions=dimensions,
        config=config, plan=plan, init=init, settings=settings or (), layout=layout, device=device, workers=workers,
        budget_ram=budget_ram, budget_disk=budget_disk, dry_run=dry_run, overwrite=overwrite, quiet=quiet,
        verbose=verbose,
    )  # fmt: skip
    if result.first:
        print(json.dumps(result.to_json()) if as_json else result.text())
