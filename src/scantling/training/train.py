"""The road from a folder to a validated model: gather, train, score what was held out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scantling.data.dataset import PatchDataset
from scantling.data.plan import Plan
from scantling.data.planning import DeviceKind
from scantling.errors import DataError, Interrupted, ScantlingError
from scantling.files import read_json, write_atomic, write_json
from scantling.inference.device import device_memory_gb, resolve_device
from scantling.inference.model_folder import save_model
from scantling.networks import load_initial
from scantling.recipes import build_recipe, parse_settings
from scantling.seeding import torch_generator
from scantling.training.batches import StepSamples
from scantling.training.config import RunConfig
from scantling.training.forecast import forecast
from scantling.training.held_out import held_out_seconds, score_held_out
from scantling.training.interruption import stop_signals
from scantling.training.loop import Loop, LoopConfig
from scantling.training.materials import Materials, gather
from scantling.training.progress import Display, Silent
from scantling.training.run_folder import RunFolder, command_line, environment, now
from scantling.training.validation import inner_validation


def start(
    config: RunConfig,
    out: Path,
    *,
    plan: Path | None = None,
    overwrite: bool = False,
    display: Display | None = None,
    dry_run: bool = False,
) -> RunFolder:
    """Begin a run in a new folder and carry it to the end.

    Args:
        plan: `plan.json` of another run, edited or not, to be obeyed instead of deriving one.

    Raises:
        ConfigError: the folder is in use, there is no such recipe, or a setting does not fit the data.
        DataError: nothing to train on.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    parse_settings(config.recipe, config.settings)
    given = None if plan is None else Plan.parse(read_json(plan), where=str(plan))
    run = RunFolder.create(out, overwrite=overwrite)
    config.save(run.config)
    if given is not None:
        write_json(run.plan, given.model_dump(mode="json"))
    run.update(
        status="preparing",
        command=command_line(),
        started=now(),
        environment=environment(),
        recipe=config.recipe,
        seed=config.seed,
    )
    return _carry(run, config, display or Silent(), dry_run=dry_run)


def resume(path: Path, *, display: Display | None = None) -> RunFolder:
    """Go on with an interrupted run, with the settings it was started with.

    Raises:
        DataError: the path is not a run folder, or the run is already finished.
        PlanMismatch: the data changed since the run was started.
    """
    run = RunFolder.open(path)
    if run.status()["status"] == "finished":
        raise DataError(
            f"{path.name}: the run is finished; start a new one with 'train', or use its model with 'predict'",
            code="E-RUN-02",
        )
    return _carry(run, RunConfig.load(run.config), display or Silent())


def _carry(run: RunFolder, config: RunConfig, display: Display, *, dry_run: bool = False) -> RunFolder:
    began = time.monotonic()
    try:
        with stop_signals() as stop:
            _carry_on(run, config, display, stop, began, dry_run=dry_run)
    except Interrupted as error:
        run.update(status="interrupted", reason=error.message)
        raise
    except ScantlingError as error:
        run.update(status="failed", reason=str(error))
        raise
    finally:
        display.close()
    return run


def _carry_on(
    run: RunFolder,
    config: RunConfig,
    display: Display,
    stop: Callable[[], bool],
    began: float,
    *,
    dry_run: bool,
) -> None:
    device = resolve_device(config.device)
    kind: DeviceKind = "cuda" if device.type == "cuda" else "cpu"
    materials = gather(run, config, device_kind=kind, memory_gb=device_memory_gb(device), display=display)
    loop = _build_loop(run, config, materials, device, display, stop)
    resumed = (run.checkpoints / "index.json").is_file()
    if resumed:
        for complaint in loop.restore():
            display.say(complaint)
        display.say(f"Going on from step {loop.state.step}.")
    elif config.time_seconds is not None:
        reserve = held_out_seconds(loop, materials, device)
        left = config.time_seconds - (time.monotonic() - began) - reserve - 3 * loop.trial()
        loop.config = loop.config.model_copy(update={"seconds": max(left, 0.2 * config.time_seconds)})
    needs = forecast(loop, prepared_bytes=materials.train.nbytes, folder=run.path)
    display.say(needs.sentence())
    needs.require(ram_gib=config.budget_ram_gib, disk_gib=config.budget_disk_gib)
    display.say(f"Validation: {materials.split.sentence}")
    display.say(f"Stop any time with Ctrl-C; continue with: scantling resume {run.path}")
    run.update(
        status="training",
        device=str(device),
        precision=str(loop.precision or torch.float32),
        threads=torch.get_num_threads(),
        forecast={
            "seconds": round(needs.seconds, 1),
            "steps": needs.steps,
            "memory_bytes": needs.memory,
            "disk_bytes": needs.disk,
        },
        budget_seconds=loop.config.seconds,
    )
    if dry_run:
        run.update(status="dry run")
        return
    network = loop.run()
    network.eval()
    meta = _meta(config, materials, loop)
    save_model(run.model, network, materials.plan, meta)
    run.update(
        status="predicting",
        steps=loop.state.step,
        skipped_steps=loop.state.skipped,
        training_seconds=round(loop.state.elapsed, 1),
    )
    evaluation = score_held_out(
        run, materials, network, meta, device=device, seed=config.seed, display=display, stop=stop
    )
    if evaluation is not None:
        save_model(run.model, network, materials.plan, {**meta, "held_out": evaluation.headline()})
    run.update(status="finished", finished=now(), seconds=round(time.monotonic() - began, 1))


def _build_loop(
    run: RunFolder,
    config: RunConfig,
    materials: Materials,
    device: torch.device,
    display: Display,
    stop: Callable[[], bool],
) -> Loop:
    plan = materials.plan
    recipe = build_recipe(config.recipe, config.settings, plan, torch_generator(config.seed, "weights"))
    if config.init is not None and not (run.checkpoints / "index.json").is_file():
        report = load_initial(recipe.deployable(), Path(config.init), plan.network)
        display.say(str(report))
        write_atomic(run.path / "transfer.txt", str(report).encode())
    samples = StepSamples(
        PatchDataset(
            materials.train,
            plan,
            seed=config.seed,
            samples_per_epoch=plan.batch_size * config.training.steps_per_epoch,
            include_unlabelled=recipe.uses_unlabelled,
        ),
        plan.batch_size,
        config.training.steps_per_epoch,
    )
    loop = Loop(
        recipe,
        samples,
        _loop_config(run, config),
        patch_size=plan.patch_size,
        run=run,
        seed=config.seed,
        device=device,
        workers=config.workers,
        display=display,
        stop=stop,
    )
    if materials.validation.cases:
        loop.validate = inner_validation(materials.validation.cases, plan, device=device, precision=loop.precision)
    return loop


def _loop_config(run: RunFolder, config: RunConfig) -> LoopConfig:
    """The loop's settings; a run limited by time keeps, when resumed, the seconds it was given at its start."""
    if config.training.steps is not None:
        return config.training
    promised = run.status().get("budget_seconds") or config.training.seconds or config.time_seconds or 1200.0
    return config.training.model_copy(update={"seconds": promised})


def _meta(config: RunConfig, materials: Materials, loop: Loop) -> dict[str, Any]:
    return {
        "recipe": config.recipe,
        "seed": config.seed,
        "dataset": materials.manifest.name,
        "n_training_cases": len(materials.split.train),
        "n_validation_cases": len(materials.split.validation),
        "n_held_out_cases": len(materials.split.heldout),
        "validation": materials.split.sentence,
        "steps": loop.state.step,
        "training_seconds": round(loop.state.elapsed, 1),
        "selected_on": None if loop.state.best_score is None else {"validation_mean_dice": loop.state.best_score},
    }
