"""`scantling train`: from a folder to a validated model."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Option

from scantling.cli.options import Debug, Json, Layout, Overwrite, Quiet, Verbose
from scantling.cli.run_options import (
    METHOD,
    BudgetDisk,
    BudgetRam,
    Classes,
    ConfigFile,
    Data,
    Dimensions,
    DryRun,
    Fold,
    Init,
    LabelKinds,
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


def train(
    data: Data,
    out: Out = None,
    recipe: Annotated[
        str | None,
        Option(
            "--recipe",
            help="One run of this method: supervised, or counterfactual_vae; default: what the labels ask for.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    pretrain: Annotated[
        str | None,
        Option(
            "--pretrain",
            help="Learn features from all images first: a method as for 'pretrain', auto (default: where images "
            "without full labels are there), or none.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    compare: Annotated[
        bool,
        Option(
            "--compare",
            help="Also train on labels alone, at the same budget: what do the other images add?",
            rich_help_panel=METHOD,
        ),
    ] = False,
    time: Time = None,
    steps: Steps = None,
    seed: RunSeed = None,
    labels: Labels = None,
    fold: Fold = None,
    classes: Classes = None,
    label_kinds: LabelKinds = None,
    train_on: TrainOn = None,
    test_on: TestOn = None,
    dimensions: Dimensions = None,
    config: ConfigFile = None,
    plan: PlanFile = None,
    init: Init = None,
    tune: Annotated[
        str | None,
        Option(
            "--tune",
            help="What of --init, or of features learnt first, is trained: full (default), frozen (all but the "
            "encoder; default after features where one image is labelled), or linear-probe (the last head alone).",
            rich_help_panel=METHOD,
        ),
    ] = None,
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
    """Plan, train, score on held-out patients, and write model and report."""
    from scantling.workflows.train import train as run_train

    result = run_train(
        data, out, recipe=recipe, pretrain=pretrain, compare=compare, time=time, steps=steps, seed=seed,
        labels=labels, fold=fold, classes=classes, label_kinds=label_kinds, train_on=train_on or (),
        test_on=test_on or (), dimensions=dimensions, config=config, plan=plan, init=init, tune=tune,
        settings=settings or (), layout=layout, device=device, workers=workers, budget_ram=budget_ram,
        budget_disk=budget_disk, dry_run=dry_run, overwrite=overwrite, quiet=quiet, verbose=verbose,
    )  # fmt: skip
    if result.first:
        print(json.dumps(result.to_json()) if as_json else result.text())
