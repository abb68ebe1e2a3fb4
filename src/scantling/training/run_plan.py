"""The plan a run obeys: found in its folder, or derived from its cases and from what it starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from scantling.data.case import Case, LabelKind
from scantling.data.fingerprint import Fingerprint, fingerprint
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.data.planning import DeviceKind, channel_names, derive_plan
from scantling.errors import PlanMismatch
from scantling.files import json_bytes, read_json, write_json
from scantling.networks import PRESETS, check_network_plan
from scantling.training.config import RunConfig
from scantling.training.initial import Start
from scantling.training.progress import Display
from scantling.training.run_folder import RunFolder

FEWEST_IMAGES: Final = {2: 4, 3: 2}
"""Images in a step whatever the number of their views, by dimensions: what is compared is in several of them."""
_INHERITED: Final = ("axis_order", "spacing_mm", "intensities", "dimensions")


def plan_of_run(
    run: RunFolder,
    manifest: Manifest,
    cases: Sequence[Case],
    config: RunConfig,
    *,
    device_kind: DeviceKind,
    memory_gb: float | None,
    label_kinds: tuple[LabelKind, ...],
    measured_kinds: tuple[LabelKind, ...],
    start: Start | None = None,
    n_views: int = 1,
    display: Display,
    head: str,
) -> Plan:
    """The plan in the run folder, or one that is then there.

    Args:
        cases: of the training side.
        memory_gb: of the device, in 10^9 bytes; a plan for a GPU uses at most 80 % of it, and at most 12 GB.
        label_kinds: annotations that are trained on; none for a method that reads no labels.
        measured_kinds: annotations whose structures the grid and the patch are made for.
        start: what the run starts from; its grid, intensities, patch and network are taken.
        n_views: of each image in a step; so many times fewer images are in it.
        head: said before the plan.

    Raises:
        PlanMismatch: the plan in the folder, or the one that comes with the weights, is for other data.
    """
    if run.plan.is_file():
        plan = Plan.parse(read_json(run.plan), where=str(run.plan))
        _require_fit(plan, manifest)
        if plan.label_kinds != label_kinds:  # of another run: whose labels are read is no matter of the grid
            plan = plan.model_copy(update={"label_kinds": label_kinds})
            run.rewrite(run.plan.name, json_bytes(plan.model_dump(mode="json")))
    else:
        facts = fingerprint(manifest, cases, measured_kinds)
        plan = _derived(facts, manifest, config, device_kind, memory_gb, label_kinds, start, n_views)
        write_json(run.plan, plan.model_dump(mode="json"))  # the others find it there
        if start is not None and start.plan is not None:
            for sentence in _differences(plan, start.plan, start.name):
                display.say(sentence)
    display.say(head)
    check_network_plan(plan.network, dimensions=plan.dimensions)
    display.say(f"Plan: {describe(plan)}")
    for decision, reason in plan.reasons.items():
        display.detail(f"  {decision}: {reason}")
    return plan


def describe(plan: Plan) -> str:
    """A plan in one line."""
    grid = " x ".join("own" if mm is None else f"{mm:g}" for mm in plan.spacing_mm)
    patch = " x ".join(map(str, plan.patch_size))
    return (
        f"{plan.dimensions}D {plan.network.kind} of {'-'.join(map(str, plan.network.features))} features, grid {grid} "
        f"mm, patch {patch}, batch {plan.batch_size}"
    )


def _derived(
    facts: Fingerprint,
    manifest: Manifest,
    config: RunConfig,
    device_kind: DeviceKind,
    memory_gb: float | None,
    label_kinds: tuple[LabelKind, ...],
    start: Start | None,
    n_views: int,
) -> Plan:
    wanted, given = config.plan, None if start is None else start.plan
    if start is not None and given is not None:
        _require_same_kind(facts, manifest, config, given, start.name)
    plan = derive_plan(
        facts,
        manifest,
        dimensions=wanted.dimensions if given is None else given.dimensions,
        device_kind=device_kind,
        memory_gb=None if memory_gb is None else min(0.8 * memory_gb, 12.0),
        label_kinds=label_kinds,
        spacing_mm=wanted.spacing_mm or (None if given is None else given.spacing_mm),
        patch_size=wanted.patch_size or (None if given is None else given.patch_size),
        batch_size=wanted.batch_size,
    )
    if given is not None:
        plan = _with_grid_of(plan, given, keep_spacing=wanted.spacing_mm is not None)
    network = PRESETS.get(wanted.network or "", plan.network) if given is None else plan.network
    if wanted.network in ("plain_unet", "residual_unet"):
        network = network.model_copy(update={"kind": wanted.network})
    if wanted.deep_supervision is not None:
        network = network.model_copy(update={"deep_supervision": wanted.deep_supervision})
    divisor = [math.prod(stride) for stride in zip(*network.strides, strict=True)]
    patch = tuple(-(-n // d) * d for n, d in zip(plan.patch_size, divisor, strict=False))
    mirror = plan.mirror_axes if wanted.mirror_axes is None else wanted.mirror_axes
    plan = plan.model_copy(update={"network": network, "patch_size": patch, "mirror_axes": mirror})
    return plan if wanted.batch_size is not None or n_views == 1 else _in_views(plan, n_views)


def _with_grid_of(plan: Plan, given: Plan, *, keep_spacing: bool) -> Plan:
    """The plan on the axes, grid and intensities of another one, with its network."""
    taken = {name: getattr(given, name) for name in _INHERITED if not (keep_spacing and name == "spacing_mm")}
    why = "that of the plan which the weights were learnt under"
    reasons = {**plan.reasons, **dict.fromkeys(("intensities", "axis_order", "network"), why)}
    reasons |= {name: why for name in ("spacing_mm", "patch_size") if reasons.get(name, "").startswith("as asked")}
    return plan.model_copy(update={**taken, "network": given.network, "reasons": reasons})


def _in_views(plan: Plan, n_views: int) -> Plan:
    images = max(plan.batch_size // n_views, FEWEST_IMAGES[plan.dimensions])
    why = f"{images} images a step in {n_views} views each"
    return plan.model_copy(update={"batch_size": images, "reasons": {**plan.reasons, "batch_size": why}})


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


def _require_same_kind(facts: Fingerprint, manifest: Manifest, config: RunConfig, given: Plan, name: str) -> None:
    """Refuse images, or settings, that the network of the weights cannot take."""
    names = channel_names(manifest, len(facts.channels))
    there = _axes(given.image_axes), _channels(given.channels)
    here = _axes(facts.image_axes), _channels(names)
    for theirs, ours, fits in zip(
        there, here, (given.image_axes == facts.image_axes, _same_channels(given.channels, names)), strict=True
    ):
        if not fits:
            raise PlanMismatch(
                f"--init {name}: learnt from images of {theirs}, but {manifest.name} has {ours}; choose weights that "
                "were learnt from such images, or give the weights file instead of the folder to take what fits",
                code="E-RUN-13",
            )
    for what, asked, theirs in (
        ("dimensions", str(config.plan.dimensions or given.dimensions), str(given.dimensions)),
        ("network", config.plan.network or given.network.kind, given.network.kind),
    ):
        if asked != theirs:
            raise PlanMismatch(
                f"--init {name}: its network has plan.{what} {theirs}, but {asked} is asked for; leave that out, or "
                "give the weights file instead of the folder to take what fits",
                code="E-RUN-13",
            )


def _same_channels(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """As many, and not the same ones in another order."""
    return len(theirs) == len(ours) and (set(theirs) != set(ours) or tuple(theirs) == tuple(ours))


def _differences(plan: Plan, given: Plan, name: str) -> list[str]:
    """What may differ, and should be known."""
    sentences = []
    if plan.channels != given.channels:
        there, here = ", ".join(given.channels), ", ".join(plan.channels)
        sentences.append(f"Channels: {here} here take the places of {there}, which {name} has learnt from.")
    if plan.modality and given.modality and plan.modality != given.modality:
        sentences.append(
            f"Modality: {plan.modality} here, {given.modality} where {name} comes from; intensities are prepared as "
            "there, so look at the first scores with care."
        )
    return sentences


def _axes(count: int) -> str:
    return "pictures of 2 axes" if count == 2 else "volumes of 3 axes"


def _channels(names: Sequence[str]) -> str:
    return f"{len(names)} channel{'s' * (len(names) != 1)} ({', '.join(names)})"
