"""`scantling train`: from a folder to a validated model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

from typer import Argument, Option

from scantling.cli.options import Debug, Json, Layout, Overwrite, Quiet, Verbose

_DATA: Final = "Which images, which labels"
_METHOD: Final = "Method and plan"
_MACHINE: Final = "Length and machine"


def train(
    data: Annotated[Path, Argument(help="Folder of images and labels, in any accepted layout.")],
    out: Annotated[Path | None, Option("--out", "-o", help="New run folder; default: runs/NAME-N.")] = None,
    recipe: Annotated[
        str | None,
        Option("--recipe", help="Method: supervised (default), or counterfactual_vae.", rich_help_panel=_METHOD),
    ] = None,
    time: Annotated[
        str | None, Option("--time", help="Budget of the whole run: 90s, 20m, 1h30m.", rich_help_panel=_MACHINE)
    ] = None,
    steps: Annotated[
        int | None,
        Option("--steps", min=1, help="Exact length in steps: repeatable to the bit.", rich_help_panel=_MACHINE),
    ] = None,
    seed: Annotated[
        int | None,
        Option("--seed", min=0, help="One number fixes every random draw; default 0.", rich_help_panel=_MACHINE),
    ] = None,
    labels: Annotated[
        int | None, Option("--labels", min=1, help="Use only this many labelled training cases.", rich_help_panel=_DATA)
    ] = None,
    fold: Annotated[
        str | None,
        Option(
            "--fold",
            help="Held-out fold (default 0), or 'none' to train on every labelled case.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    classes: Annotated[
        str | None, Option("--classes", help="Only these classes, as a,b,c.", rich_help_panel=_DATA)
    ] = None,
    label_kinds: Annotated[
        str | None,
        Option(
            "--label-kinds", help="Annotations to learn from, best first: full,slices,silver.", rich_help_panel=_DATA
        ),
    ] = None,
    train_on: Annotated[
        list[str] | None,
        Option("--train-on", help="column=value of the training cases (repeatable).", rich_help_panel=_DATA),
    ] = None,
    test_on: Annotated[
        list[str] | None,
        Option("--test-on", help="column=value of the held-out cases (repeatable).", rich_help_panel=_DATA),
    ] = None,
    dimensions: Annotated[
        int | None, Option("--dimensions", min=2, max=3, help="Force a 2D or 3D network.", rich_help_panel=_METHOD)
    ] = None,
    config: Annotated[
        Path | None, Option("--config", help="TOML file, such as the config.toml of a run.", rich_help_panel=_METHOD)
    ] = None,
    plan: Annotated[
        Path | None,
        Option("--plan", help="plan.json to obey, such as an edited one of a run.", rich_help_panel=_METHOD),
    ] = None,
    init: Annotated[
        Path | None, Option("--init", help="Weights to start from: .safetensors or .pth.", rich_help_panel=_METHOD)
    ] = None,
    settings: Annotated[
        list[str] | None,
        Option("--set", help="Any setting, as plan.batch_size=4 (repeatable).", rich_help_panel=_METHOD),
    ] = None,
    layout: Layout = None,
    device: Annotated[
        str | None, Option("--device", help="auto (default), cpu, cuda, cuda:N or mps.", rich_help_panel=_MACHINE)
    ] = None,
    workers: Annotated[
        int | None,
        Option(
            "--workers",
            min=0,
            help="Processes that read ahead; 0 (default) reads in this one.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    budget_ram: Annotated[
        str | None, Option("--budget-ram", help="Keep to this much memory, or refuse: 8G.", rich_help_panel=_MACHINE)
    ] = None,
    budget_disk: Annotated[
        str | None, Option("--budget-disk", help="Refuse a run that needs more disk: 20G.", rich_help_panel=_MACHINE)
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Plan and forecast, then stop.", rich_help_panel=_MACHINE)
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Plan, train, score on held-out patients, and write model and report."""
    from scantling.workflows.verbs import train as run_train

    result = run_train(
        data, out, recipe=recipe, time=time, steps=steps, seed=seed, labels=labels, fold=fold, classes=classes,
        label_kinds=label_kinds, train_on=train_on or (), test_on=test_on or (), dimensions=dimensions,
        config=config, plan=plan, init=init, settings=settings or (), layout=layout, device=device, workers=workers,
        budget_ram=budget_ram, budget_disk=budget_disk, dry_run=dry_run, overwrite=overwrite, quiet=quiet,
        verbose=verbose,
    )  # fmt: skip
    if result.first:
        print(json.dumps(result.to_json()) if as_json else result.text())
