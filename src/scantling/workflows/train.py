"""train and resume: from a folder to a validated model, by one run or by the whole road of several."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scantling.config import apply_overrides
from scantling.errors import ConfigError
from scantling.files import require_new_folder, write_errors
from scantling.processes import launched
from scantling.training import train as training
from scantling.training.config import parse_duration, parse_size
from scantling.training.progress import Display, Silent
from scantling.training.run_folder import ROAD, RunFolder
from scantling.training.run_lock import refuse_if_training
from scantling.training.terminal import Terminal
from scantling.workflows.finish import finish
from scantling.workflows.result import RunResult
from scantling.workflows.settings import lay, names_of, pairs_of, read_toml, resolved, whole_number
from scantling.workflows.whole_road import continue_road, plan_road, start_road


def train(
    data: Path | str,
    out: Path | str | None = None,
    *,
    recipe: str | None = None,
    pretrain: str | None = None,
    compare: bool = False,
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
    tune: str | None = None,
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
    """From a folder to a validated model and a report; `scantling train` is this call.

    Four layers decide a run, weakest first: defaults, what the recipe's defaults change of them, the file `config`,
    what is given here (None gives nothing); `settings` lie on top.

    Where there are images without full labels, and neither a recipe nor a start nor a plan is named, features are
    learnt from all images first and fine-tuned on the labelled ones, see `workflows.whole_road`.

    Args:
        pretrain: how features are learnt first: a method as for `pretrain`, "none", or by itself ("auto").
        compare: also train on labels alone with the same budget, so that the report says what the others added.
        time: budget of the whole run, in seconds or as "20m"; 20 minutes where neither it nor `steps` is given.
        fold: held-out fold; "none" trains on every labelled case.
        train_on, test_on: `column=value` pairs that choose the training and the held-out cases.
        plan: `plan.json` of another run, edited or not, to be obeyed.
        init: run folder or model folder to start from, whose plan is obeyed too unless `plan` is given, or a file of
            weights (`.safetensors`, `.pth`); `transfer.txt` says what fitted.
        tune: what of it is trained: "full", "frozen" (all but the encoder), "linear-probe" (the last head alone); by
            itself "full", or "frozen" where features were learnt first and a single labelled image is there.
        budget_ram: "8G"; kept by computing a batch in parts and with fewer workers, or the run is refused.
        budget_disk: "8G"; a run whose forecast is above is refused before it starts.
        settings: `a.b=value` overrides of any field of `RunConfig`; `pretraining.a.b=value` for the run that learns
            features first.

    Raises:
        ConfigError: a setting is wrong, or the run folder is in use.
        DataError: there is nothing to train on, or `init` has learnt from patients who are held out.
    """
    values: dict[str, Any] = {} if config is None else read_toml(Path(config))
    given: dict[str, Any] = {
        "recipe": recipe, "seed": seed, "device": device, "workers": workers,
        "time_seconds": parse_duration(time) if isinstance(time, str) else time,
        "data.layout": layout, "data.labels": labels, "data.classes": names_of(classes),
        "data.label_kinds": names_of(label_kinds), "data.train_on": pairs_of(train_on) or None,
        "data.test_on": pairs_of(test_on) or None, "plan.dimensions": dimensions, "training.steps": steps,
        "budget_ram_gib": None if budget_ram is None else parse_size(budget_ram),
        "budget_disk_gib": None if budget_disk is None else parse_size(budget_disk),
        "init": None if init is None else str(Path(init).resolve()), "tune": tune,
    }  # fmt: skip
    given["data.path"] = str(Path(data).resolve())
    if fold is not None:
        given["data.fold"] = fold if fold == "none" else whole_number(fold)
    for name, value in given.items():
        if value is not None:
            lay(values, name, value)
    values = apply_overrides(values, settings)
    of_features = values.pop("pretraining", {})
    run_config = resolved(values)
    if run_config.training.steps is not None and time is not None:
        raise ConfigError("--time and --steps: a run ends by the clock or by its steps; give one", code="E-CFG-17")
    folder, display = Path(out) if out is not None else _next_run(Path(data)), display_for(quiet, verbose=verbose)
    if launched()[0] == 0 and not overwrite:
        refuse_if_training(folder)
        with write_errors(folder):
            require_new_folder(folder)  # before any data are read
    free = "recipe" not in values and plan is None and run_config.init is None
    road = plan_road(
        run_config, of_features, wanted=pretrain, compare=compare, free=free, tune_free="tune" not in values
    )  # fmt: skip
    if road is not None:
        display.say(road.sentence())
    if road is not None and not dry_run:
        return start_road(road, folder, overwrite=overwrite, display=display)
    run = training.start(
        run_config, folder, plan=None if plan is None else Path(plan), overwrite=overwrite, display=display,
        dry_run=dry_run,
    )  # fmt: skip
    return finish(run)


def resume(
    run: Path | str, *, steps: int | None = None, time: str | float | None = None, quiet: bool = True
) -> RunResult:
    """Continue an interrupted run from its last checkpoint, or make a run longer; `scantling resume` is this call.

    Args:
        steps: new length of a run measured in steps.
        time: further training time of a run measured in time, in seconds or as "10m".
    """
    path, display = Path(run), display_for(quiet)
    if (path / ROAD).is_file() and steps is None and time is None:
        return continue_road(path, display=display)
    folder = RunFolder.open(path)
    if folder.status()["status"] == "finished" and not (folder.path / "report.html").is_file():
        return finish(folder)  # stopped between its last score and its report
    seconds = parse_duration(time) if isinstance(time, str) else time
    return finish(training.resume(path, steps=steps, seconds=seconds, display=display))


def display_for(quiet: bool, *, verbose: bool = False) -> Display:
    """Where a run tells how it goes."""
    return Silent() if quiet else Terminal(verbose=verbose)


def _next_run(data: Path) -> Path:
    return next(p for n in itertools.count(1) if not (p := Path("runs") / f"{data.resolve().name}-{n}").exists())
