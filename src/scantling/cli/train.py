"""`scantling train`: from a folder to a validated model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from scantling.cli.options import Debug, Json, Layout, Overwrite, Quiet, Verbose


def train(
    data: Annotated[Path, Argument(help="Folder of images and labels, in any accepted layout.")],
    out: Annotated[Path | None, Option("--out", "-o", help="New run folder; default: runs/NAME-N.")] = None,
    recipe: Annotated[str | None, Option("--recipe", help="Method; 'supervised' so far, and by default.")] = None,
    time: Annotated[str | None, Option("--time", help="Budget of the whole run: 90s, 20m, 1h30m.")] = None,
    steps: Annotated[int | None, Option("--steps", min=1, help="Exact length in steps: repeatable to the bit.")] = None,
    seed: Annotated[int | None, Option("--seed", min=0, help="One number fixes every random draw; default 0.")] = None,
    labels: Annotated[int | None, Option("--labels", min=1, help="Use only this many labelled training cases.")] = None,
    fold: Annotated[
        str | None, Option("--fold", help="Held-out fold (default 0), or 'none' to train on every labelled case.")
    ] = None,
    classes: Annotated[str | None, Option("--classes", help="Only these classes, as a,b,c.")] = None,
    label_kinds: Annotated[
        str | None, Option("--label-kinds", help="Annotations to learn from, best first: full,slices,silver.")
    ] = None,
    train_on: Annotated[
        list[str] | None, Option("--train-on", help="column=value of the training cases (repeatable).")
    ] = None,
    test_on: Annotated[
        list[str] | None, Option("--test-on", help="column=value of the held-out cases (repeatable).")
    ] = None,
    dimensions: Annotated[int | None, Option("--dimensions", min=2, max=3, help="Force a 2D or 3D network.")] = None,
    config: Annotated[Path | None, Option("--config", help="TOML file, such as the config.toml of a run.")] = None,
    plan: Annotated[Path | None, Option("--plan", help="plan.json to obey, such as an edited one of a run.")] = None,
    init: Annotated[Path | None, Option("--init", help="Weights to start from: .safetensors or .pth.")] = None,
    settings: Annotated[
        list[str] | None,
        Option("--set", help="Any setting: training.optimisation.learning_rate=1e-3 (repeatable)."),
    ] = None,
    layout: Layout = None,
    device: Annotated[str | None, Option("--device", help="auto (default), cpu, cuda, cuda:N or mps.")] = None,
    workers: Annotated[
        int | None, Option("--workers", min=0, help="Processes that read ahead; 0 (default) reads in this one.")
    ] = None,
    budget_ram: Annotated[str | None, Option("--budget-ram", help="Refuse a run that needs more memory: 8G.")] = None,
    budget_disk: Annotated[str | None, Option("--budget-disk", help="Refuse a run that needs more disk: 20G.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Plan and forecast, then stop.")] = False,
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
    print(json.dumps(result.to_json()) if as_json else result.text())
