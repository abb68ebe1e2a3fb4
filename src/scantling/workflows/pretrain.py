"""Features from every image there is, to fine-tune a network from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scantling.workflows.result import RunResult
from scantling.workflows.settings import read_toml
from scantling.workflows.train import train
from scantling.workflows.whole_road import require_method

DEFAULT_METHOD: Final = "dvd_cl"


def pretrain(
    data: Path | str,
    out: Path | str | None = None,
    *,
    method: str | None = None,
    time: str | float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    labels: int | None = None,
    fold: int | str | None = None,
    classes: str | Sequence[str] | None = None,
    label_kinds: str | Sequence[str] | None = None,
    train_on: Sequence[str] = (),
    test_on: Sequence[str] = (),
    dimensions: int | None = None,
    config: Path | str | None = None,
    plan: Path | str | None = None,
    init: Path | str | None = None,
    settings: Sequence[str] = (),
    layout: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    budget_ram: str | None = None,
    budget_disk: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
    verbose: bool = False,
) -> RunResult:
    """Features from every image that is not held out, labelled or not; `scantling pretrain` is this call.

    `train(data, init=run)` with the same seed and fold goes on from them. What is not said here is as for `train`.

    Args:
        method: a recipe that learns features, written with - or _; dvd-cl where the file `config` names none.
        label_kinds: what a method which reads labels learns from; silver labels by default. Another one reads none.

    Raises:
        ConfigError: a setting is wrong, or the method learns no features.
        DataError: there is no image to learn from, or no label for a method that needs some.
    """
    named = None if config is None else read_toml(Path(config)).get("recipe")
    recipe = str(method or named or DEFAULT_METHOD).replace("-", "_")
    require_method(recipe)
    return train(
        data, out, recipe=recipe, time=time, steps=steps, seed=seed, labels=labels, fold=fold, classes=classes,
        label_kinds=label_kinds, train_on=train_on, test_on=test_on, dimensions=dimensions, config=config, plan=plan,
        init=init, settings=settings, layout=layout, device=device, workers=workers, budget_ram=budget_ram,
        budget_disk=budget_disk, dry_run=dry_run, overwrite=overwrite, quiet=quiet, verbose=verbose,
    )  # fmt: skip
