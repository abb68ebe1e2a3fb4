"""What a run needs before its first step: usable cases, a split, a plan, prepared images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scantling.data.case import Case, LabelKind
from scantling.data.inspect import Inspection, check_lock, inspect_dataset, write_lock
from scantling.data.layouts import open_dataset
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.data.planning import DeviceKind
from scantling.data.splits import Split, make_split
from scantling.data.store import PreparedSet, Store
from scantling.errors import DataError, PlanMismatch
from scantling.files import write_json
from scantling.recipes import RECIPES, parse_settings
from scantling.training.config import RunConfig
from scantling.training.initial import Start, check_start
from scantling.training.progress import Display
from scantling.training.run_folder import RunFolder
from scantling.training.run_plan import plan_of_run
from scantling.training.watchdog import NOTICE_AFTER, Watchdog
from scantling.views.maker import ViewConfig


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What preparation leaves for training.

    Attributes:
        train: labelled training cases, then the unlabelled ones if the recipe uses them.
        validation: cases that choose the checkpoint.
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
    start: Start | None = None,
    display: Display,
) -> Materials:
    """Everything up to the first step; what is already decided in the run folder is kept.

    Args:
        memory_gb: of the device, in 10^9 bytes; a plan for a GPU uses at most 80 % of it, and at most 12 GB.
        start: what the run starts from; its plan is obeyed, and it must not have seen who is held out.

    Raises:
        DataError: nothing to train on, or what the run starts from has learnt from patients who are held out.
        PlanMismatch: the plan in the folder is for other data, or the data changed since the run was started.
    """
    manifest = read_data(run, config, display)
    split = Split.load(run.split) if run.split.is_file() else _split(manifest, config)
    if run.writable:
        split.save(run.split)
    if start is not None:
        check_start(start, config, split, run, display)
    manifest = _searched_classes(manifest, split, config, display)
    kinds = config.data.label_kinds
    cases = [manifest.case(c) for c in split.train]
    plan = plan_of_run(
        run, manifest, cases, config,
        device_kind=device_kind, memory_gb=memory_gb, label_kinds=kinds, measured_kinds=kinds, start=start,
        display=display, head=_recipe_sentence(config, split),
    )  # fmt: skip
    store = Store(cache_folder(run))
    unlabelled = split.unlabelled if RECIPES[config.recipe].uses_unlabelled else ()
    others = shows_alternatives(config)
    learnt_from = [*cases, *(without_labels(manifest.case(c)) for c in unlabelled)]
    train = prepared(store, learnt_from, manifest, plan, display, alternatives=others)
    if others:
        display.say(alternatives_sentence(train))
    choosing = split.heldout if config.data.choose_on == "held_out" else split.validation
    validation = prepared(store, [manifest.case(c) for c in choosing], manifest, plan, display)
    for note in (*train.notes, *validation.notes):
        display.say(note)
    run.update(counts=split.counts)
    return Materials(manifest=manifest, split=split, plan=plan, train=train, validation=validation)


def read_data(run: RunFolder, config: RunConfig, display: Display) -> Manifest:
    """The usable part of the data set, looked at and locked.

    Raises:
        PlanMismatch: the data changed since the run was started.
    """
    manifest = open_dataset(Path(config.data.path), layout=config.data.layout)
    if config.data.classes:
        manifest = replace(manifest, classes=manifest.classes.subset(config.data.classes))
    inspection = inspect_dataset(manifest)
    for line in inspection.summary_lines():
        display.say(line)
    manifest = inspection.usable
    keep_lock(run, manifest, inspection)
    return replace(manifest, cases=tuple(_as_trusted(case, config.data.trust) for case in manifest.cases))


def _as_trusted(case: Case, trust: Mapping[LabelKind, float]) -> Case:
    """The case with the weights of its labels multiplied by the trust in their kinds."""
    labels = (replace(one, weight=one.weight * trust.get(one.kind, 1.0)) for one in case.annotations)
    return replace(case, annotations=tuple(labels)) if trust else case


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


def prepared(
    store: Store,
    cases: Sequence[Case],
    manifest: Manifest,
    plan: Plan,
    display: Display,
    *,
    alternatives: bool = False,
) -> PreparedSet:
    """The cases in the store; one that takes more than a minute is said by name."""
    with Watchdog(display.say, notice_after=NOTICE_AFTER) as dog:

        def at(done: int, _total: int) -> None:
            dog.at(f"preparing case {cases[done].case_id}" if done < len(cases) else None)

        at(0, len(cases))
        return store.prepare(cases, manifest, plan, at, alternatives=alternatives)


def without_labels(case: Case) -> Case:
    """The case as if nobody had annotated it, as one outside a budget of labels must be."""
    return replace(case, annotations=())


def shows_alternatives(config: RunConfig) -> bool:
    """Whether the recipe's views show other images of an anatomy than its own."""
    views = getattr(parse_settings(config.recipe, config.settings), "views", None)
    return isinstance(views, ViewConfig) and views.image_of_view != "own"


def alternatives_sentence(prepared_cases: PreparedSet) -> str:
    """How many counterfactuals the views show."""
    cases = prepared_cases.cases
    having = sum(bool(case.alternatives) for case in cases)
    if not having:
        return "Views: no case has a counterfactual, so all views show its own image; see 'scantling generate'."
    return f"Views: {prepared_cases.n_alternatives} counterfactuals of {having} of {len(cases)} cases are shown too"


def _recipe_sentence(config: RunConfig, split: Split) -> str:
    """The method, and what it learns from: nobody shall think that unlabelled images count where they do not."""
    count = len(split.train)
    sentence = f"Recipe: {config.recipe} on {count} labelled case{'s' * (count != 1)}"
    if not split.unlabelled or config.init is not None:  # what it starts from may have learnt from them
        return sentence
    if RECIPES[config.recipe].uses_unlabelled:
        return f"{sentence} and {len(split.unlabelled)} unlabelled ones"
    return f"{sentence}; the {len(split.unlabelled)} unlabelled ones are not used by it"


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
