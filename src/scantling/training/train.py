"""The road from a folder to a validated model: split, inspect, plan, prepare, train, score what was held out."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scantling.data.dataset import PatchDataset
from scantling.data.fingerprint import fingerprint
from scantling.data.inspect import Inspection, check_lock, inspect_dataset, write_lock
from scantling.data.layouts import open_dataset
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.data.planning import derive_plan
from scantling.data.splits import Split, make_split
from scantling.data.store import PreparedSet, Store
from scantling.errors import DataError, Interrupted, PlanMismatch, ScantlingError
from scantling.evaluation.evaluate import Evaluation, evaluate_folders
from scantling.files import read_json, write_atomic, write_json
from scantling.inference.device import resolve_device
from scantling.inference.model_folder import LoadedModel, save_model
from scantling.inference.predict import predict_cases
from scantling.inference.predictor import Predictor
from scantling.networks import PRESETS, check_network_plan, load_initial
from scantling.recipes import build_recipe
from scantling.seeding import torch_generator
from scantling.training.batches import StepSamples
from scantling.training.config import RunConfig
from scantling.training.forecast import forecast
from scantling.training.loop import Loop
from scantling.training.progress import Display, Silent
from scantling.training.run_folder import RunFolder, command_line, environment, now
from scantling.training.validation import inner_validation


@dataclass(frozen=True, kw_only=True)
class _Materials:
    """What preparation leaves for training."""

    manifest: Manifest
    split: Split
    plan: Plan
    train: PreparedSet
    validation: PreparedSet


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
        ConfigError: the folder is in use, or a setting does not fit the data.
        DataError: nothing to train on.
        Interrupted: stopped by a signal; `resume` goes on.
    """
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
        with _signals() as stop:
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
    materials = _prepare(run, config, device, display)
    loop = _build_loop(run, config, materials, device, display, stop)
    resumed = (run.checkpoints / "index.json").is_file()
    if resumed:
        for complaint in loop.restore():
            display.say(complaint)
        display.say(f"Going on from step {loop.state.step}.")
    elif config.time_seconds is not None:
        reserve = _held_out_seconds(loop, materials, device)
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
    evaluation = _score_held_out(run, materials, network, meta, device, config.seed, display)
    if evaluation is not None:
        save_model(run.model, network, materials.plan, {**meta, "held_out": evaluation.headline()})
    run.update(status="finished", finished=now(), seconds=round(time.monotonic() - began, 1))


def _prepare(run: RunFolder, config: RunConfig, device: torch.device, display: Display) -> _Materials:
    """Everything up to the first step; what is already decided in the run folder is kept."""
    manifest = open_dataset(Path(config.data.path), layout=config.data.layout)
    if config.data.classes:
        manifest = replace(manifest, classes=manifest.classes.subset(config.data.classes))
    inspection = inspect_dataset(manifest)
    for line in inspection.summary_lines():
        display.say(line)
    manifest = inspection.usable
    _keep_lock(run, manifest, inspection)
    split = Split.load(run.split) if run.split.is_file() else _split(manifest, config)
    split.save(run.split)
    manifest = _searched_classes(manifest, split, config, display)
    if run.plan.is_file():
        plan = Plan.parse(read_json(run.plan), where=str(run.plan))
        _require_fit(plan, manifest)
    else:
        plan = _plan(manifest, split, config, device)
        write_json(run.plan, plan.model_dump(mode="json"))
    check_network_plan(plan.network, dimensions=plan.dimensions)
    display.say(f"Plan: {describe(plan)}")
    for decision, reason in plan.reasons.items():
        display.detail(f"  {decision}: {reason}")
    store = Store(_cache_folder(run))
    train = store.prepare([manifest.case(c) for c in split.train], manifest, plan)
    validation = store.prepare([manifest.case(c) for c in split.validation], manifest, plan)
    for note in (*train.notes, *validation.notes):
        display.say(note)
    run.update(
        counts={
            "train": len(split.train),
            "validation": len(split.validation),
            "held_out": len(split.heldout),
            "unlabelled": len(split.unlabelled),
        }
    )
    return _Materials(manifest=manifest, split=split, plan=plan, train=train, validation=validation)


def _split(manifest: Manifest, config: RunConfig) -> Split:
    data = config.data
    split = make_split(
        manifest,
        fold=None if data.fold == "none" else data.fold,
        labels=data.labels,
        seed=config.seed,
        label_kinds=data.label_kinds,
        train_on=data.train_on or None,
        test_on=data.test_on or None,
        allow_leak=data.allow_leak,
    )
    if not split.train:
        kinds = sorted({a.kind for case in manifest.cases for a in case.annotations}) or ["none"]
        raise DataError(
            f"{manifest.name}: no labelled training case of kind {' or '.join(data.label_kinds)} (label kinds found: "
            f"{', '.join(kinds)}); add a label file, or choose --label-kinds",
            code="E-DAT-20",
        )
    return split


def _plan(manifest: Manifest, split: Split, config: RunConfig, device: torch.device) -> Plan:
    facts = fingerprint(manifest, [manifest.case(c) for c in split.train], config.data.label_kinds)
    wanted = config.plan
    plan = derive_plan(
        facts,
        manifest,
        dimensions=wanted.dimensions,
        device_kind="cuda" if device.type == "cuda" else "cpu",
        label_kinds=config.data.label_kinds,
        spacing_mm=wanted.spacing_mm,
        patch_size=wanted.patch_size,
        batch_size=wanted.batch_size,
    )
    network = PRESETS.get(wanted.network or "", plan.network)
    if wanted.network in ("plain_unet", "residual_unet"):
        network = network.model_copy(update={"kind": wanted.network})
    if wanted.deep_supervision is not None:
        network = network.model_copy(update={"deep_supervision": wanted.deep_supervision})
    divisor = [math.prod(stride) for stride in zip(*network.strides, strict=True)]
    patch = tuple(-(-n // d) * d for n, d in zip(plan.patch_size, divisor, strict=False))
    mirror = plan.mirror_axes if wanted.mirror_axes is None else wanted.mirror_axes
    return plan.model_copy(update={"network": network, "patch_size": patch, "mirror_axes": mirror})


def _require_fit(plan: Plan, manifest: Manifest) -> None:
    """Refuse a plan made for other channels or classes."""
    for what, of_plan, of_data in (
        ("channels", plan.channels, manifest.channels),
        ("classes", plan.classes.names, manifest.classes.names),
    ):
        if of_plan != of_data:
            raise PlanMismatch(
                f"plan.json: made for {what} {', '.join(of_plan)}, but {manifest.name} has {', '.join(of_data)}; "
                "plan anew, or choose --classes",
                code="E-PLN-06",
            )


def _build_loop(
    run: RunFolder,
    config: RunConfig,
    materials: _Materials,
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


def _loop_config(run: RunFolder, config: RunConfig) -> Any:
    """The loop's settings; a run limited by time keeps, when resumed, the seconds it was given at its start."""
    if config.training.steps is not None:
        return config.training
    promised = run.status().get("budget_seconds") or config.training.seconds or config.time_seconds or 1200.0
    return config.training.model_copy(update={"seconds": promised})


def _score_held_out(
    run: RunFolder,
    materials: _Materials,
    network: nn.Module,
    meta: dict[str, Any],
    device: torch.device,
    seed: int,
    display: Display,
) -> Evaluation | None:
    """Predict and score the held-out cases at their own resolution; None if nothing was held out."""
    if not materials.split.heldout:
        return None
    predictor = Predictor(LoadedModel(network=network, plan=materials.plan, meta=meta), device)
    cases = [materials.manifest.case(c) for c in materials.split.heldout]
    done = predict_cases(predictor, cases, run.predictions)
    for case, sentence in done.failures.items():
        display.say(f"held-out case {case} could not be predicted: {sentence}")
    evaluation = evaluate_folders(
        run.predictions,
        materials.manifest,
        cases=materials.split.heldout,
        label_kinds=materials.plan.label_kinds,
        seed=seed,
    )
    evaluation.save(run.metrics, run.evaluation)
    return evaluation


def _held_out_seconds(loop: Loop, materials: _Materials, device: torch.device) -> float:
    """Time to keep for predicting the held-out cases: one training case, predicted, times their number."""
    case = materials.train.cases[0]
    validate = inner_validation([case], materials.plan, device=device, precision=loop.precision)
    network = loop.recipe.deployable().eval()
    began = time.monotonic()
    validate(network)
    network.train()
    return 2.0 * (time.monotonic() - began) * len(materials.split.heldout) + 2.0


def _searched_classes(manifest: Manifest, split: Split, config: RunConfig, display: Display) -> Manifest:
    """Leave out classes that no training case was searched for: nothing could be learnt about them."""
    looked_for: set[str] = set()
    for case_id in split.train:
        annotation = manifest.case(case_id).annotation(config.data.label_kinds)
        if annotation is not None:
            looked_for |= set(manifest.classes.foreground if annotation.annotated is None else annotation.annotated)
    kept = [name for name in manifest.classes.foreground if name in looked_for]
    for name in set(manifest.classes.foreground) - set(kept):
        display.say(f"Class {name} is left out: no training case was annotated for it.")
    if not kept:
        raise DataError("no class is annotated in any training case; see --classes and --label-kinds", code="E-DAT-22")
    return (
        manifest
        if len(kept) == len(manifest.classes.foreground)
        else replace(manifest, classes=manifest.classes.subset(kept))
    )


def _keep_lock(run: RunFolder, manifest: Manifest, inspection: Inspection) -> None:
    """Write the lock of a new run; on resume, refuse data that is no longer what the run was started with."""
    if not run.lock.is_file():
        write_lock(manifest, run.lock)
        write_json(run.data_sheet, inspection.to_json())
    elif changed := check_lock(run.lock, manifest):
        raise PlanMismatch(f"{manifest.name}: {changed[0]}; restore the file, or start a new run", code="E-PLN-05")


def _cache_folder(run: RunFolder) -> Path:
    """Prepared cases live in `SCANTLING_CACHE`, where several runs share them, else in the run folder."""
    named = os.environ.get("SCANTLING_CACHE")
    return Path(named) if named else run.path / "cache"


def _meta(config: RunConfig, materials: _Materials, loop: Loop) -> dict[str, Any]:
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


def describe(plan: Plan) -> str:
    """A plan in one line."""
    grid = " x ".join("own" if mm is None else f"{mm:g}" for mm in plan.spacing_mm)
    patch = " x ".join(map(str, plan.patch_size))
    return (
        f"{plan.dimensions}D {plan.network.kind} of {'-'.join(map(str, plan.network.features))} features, grid {grid} "
        f"mm, patch {patch}, batch {plan.batch_size}"
    )


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Asks whether SIGINT, SIGTERM or SIGUSR1 came; a second SIGINT stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []

    def remember(number: int, _frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
