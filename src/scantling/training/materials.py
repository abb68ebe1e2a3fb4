"""What a run needs before its first step: usable cases, a split, a plan, prepared images."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scantling.data.fingerprint import fingerprint
from scantling.data.inspect import Inspection, check_lock, inspect_dataset, write_lock
from scantling.data.layouts import open_dataset
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.data.planning import DeviceKind, derive_plan
from scantling.data.splits import Split, make_split
from scantling.data.store import PreparedSet, Store
from scantling.errors import DataError, PlanMismatch
from scantling.files import read_json, write_json
from scantling.networks import PRESETS, check_network_plan
from scantling.recipes import RECIPES, parse_settings
from scantling.training.config import RunConfig
from scantling.training.progress import Display
from scantling.training.run_folder import RunFolder
from scantling.training.watchdog import NOTICE_AFTER, Watchdog
from scantling.views.maker import ViewConfig


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What preparation leaves for training.

    Attributes:
        train: labelled training cases, then the unlabelled ones if the recipe uses them.
    """

    manifest: Manifest
    split: Split
    plan: Plan
    train: PreparedSet
    validation: PreparedSet


def gather(
    run: RunFolder,
    config: RunConfig,
    *,
    device_kind: DeviceKind,
    memory_gb: float | None = None,
    display: Display,
) -> Materials:
    """Everything up to the first step; what is already decided in the run folder is kept.

    Args:
        memory_gb: of the device, in 10^9 bytes; a plan for a GPU uses at most 80 % of it, and at most 12 GB.

    Raises:
        DataError: nothing to train on.
        PlanMismatch: the plan in the folder is for other data, or the data changed since the run was started.
    """
    manifest = open_dataset(Path(config.data.path), layout=config.data.layout)
    if config.data.classes:
        manifest = replace(manifest, classes=manifest.classes.subset(config.data.classes))
    inspection = inspect_dataset(manifest)
    for line in inspection.summary_lines():
        display.say(line)
    manifest = inspection.usable
    keep_lock(run, manifest, inspection)
    split = Split.load(run.split) if run.split.is_file() else _split(manifest, config)
    if run.writable:
        split.save(run.split)
    manifest = _searched_classes(manifest, split, config, display)
    if run.plan.is_file():
        plan = Plan.parse(read_json(run.plan), where=str(run.plan))
        _require_fit(plan, manifest)
    else:
        plan = _plan(manifest, split, config, device_kind, memory_gb)
        write_json(run.plan, plan.model_dump(mode="json"))  # the others find it there
    display.say(_recipe_sentence(config, split))
    check_network_plan(plan.network, dimensions=plan.dimensions)
    display.say(f"Plan: {describe(plan)}")
    for decision, reason in plan.reasons.items():
        display.detail(f"  {decision}: {reason}")
    store = Store(cache_folder(run))
    unlabelled = split.unlabelled if RECIPES[config.recipe].uses_unlabelled else ()
    others = _shows_alternatives(config)
    train = _prepared(store, (*split.train, *unlabelled), manifest, plan, display, alternatives=others)
    if others:
        display.say(_alternatives_sentence(train))
    validation = _prepared(store, split.validation, manifest, plan, display)
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
    return Materials(manifest=manifest, split=split, plan=plan, train=train, validation=validation)


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


def _plan(
    manifest: Manifest, split: Split, config: RunConfig, device_kind: DeviceKind, memory_gb: float | None
) -> Plan:
    facts = fingerprint(manifest, [manifest.case(c) for c in split.train], config.data.label_kinds)
    wanted = config.plan
    plan = derive_plan(
        facts,
        manifest,
        dimensions=wanted.dimensions,
        device_kind=device_kind,
        memory_gb=None if memory_gb is None else min(0.8 * memory_gb, 12.0),
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


def _prepared(
    store: Store,
    case_ids: Sequence[str],
    manifest: Manifest,
    plan: Plan,
    display: Display,
    *,
    alternatives: bool = False,
) -> PreparedSet:
    """The cases in the store; one that takes more than a minute is said by name."""
    with Watchdog(display.say, notice_after=NOTICE_AFTER) as dog:

        def at(done: int, _total: int) -> None:
            dog.at(f"preparing case {case_ids[done]}" if done < len(case_ids) else None)

        at(0, len(case_ids))
        return store.prepare([manifest.case(c) for c in case_ids], manifest, plan, at, alternatives=alternatives)


def _shows_alternatives(config: RunConfig) -> bool:
    """Whether the recipe's views show other images of an anatomy than its own."""
    views = getattr(parse_settings(config.recipe, config.settings), "views", None)
    return isinstance(views, ViewConfig) and views.image_of_view != "own"


def _alternatives_sentence(prepared: PreparedSet) -> str:
    having = sum(bool(case.alternatives) for case in prepared.cases)
    if not having:
        return "Views: no case has a counterfactual, so all views show its own image; see 'scantling generate'."
    return f"Views: {prepared.n_alternatives} counterfactuals of {having} of {len(prepared.cases)} cases are shown too"


def _recipe_sentence(config: RunConfig, split: Split) -> str:
    """The method, and what it learns from: nobody shall think that unlabelled images count where they do not."""
    count = len(split.train)
    sentence = f"Recipe: {config.recipe} on {count} labelled case{'s' * (count != 1)}"
    if not split.unlabelled:
        return sentence
    if RECIPES[config.recipe].uses_unlabelled:
        return f"{sentence} and {len(split.unlabelled)} unlabelled ones"
    return f"{sentence}; the {len(split.unlabelled)} unlabelled ones are not used by it"


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


def keep_lock(run: RunFolder, manifest: Manifest, inspection: Inspection) -> None:
    """Write the lock of a new run; on resume, refuse data that is no longer what the run was started with."""
    if not run.lock.is_file():
        write_lock(manifest, run.lock)
        write_json(run.data_sheet, inspection.to_json())
    elif changed := check_lock(run.lock, manifest):
        raise PlanMismatch(f"{manifest.name}: {changed[0]}; restore the file, or start a new run", code="E-PLN-05")


def cache_folder(run: RunFolder) -> Path:
    """Prepared cases live in `SCANTLING_CACHE`, where several runs share them, else in the run folder."""
    named = os.environ.get("SCANTLING_CACHE")
    return Path(named) if named else run.path / "cache"


def describe(plan: Plan) -> str:
    """A plan in one line."""
    grid = " x ".join("own" if mm is None else f"{mm:g}" for mm in plan.spacing_mm)
    patch = " x ".join(map(str, plan.patch_size))
    return (
        f"{plan.dimensions}D {plan.network.kind} of {'-'.join(map(str, plan.network.features))} features, grid {grid} "
        f"mm, patch {patch}, batch {plan.batch_size}"
    )
