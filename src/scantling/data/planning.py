"""From measured facts to decisions, each with the sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from scantling.data.case import LabelKind
from scantling.data.fingerprint import ChannelFacts, Fingerprint
from scantling.data.manifest import Manifest
from scantling.data.network_planning import features_for, patch_and_stages
from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan
from scantling.errors import ConfigError

DeviceKind = Literal["cpu", "cuda"]

SLICE_ANISOTROPY: Final = 3.5
"""From this ratio of slice distance to pixel size on, neighbouring slices say too little for a 3D kernel."""
MIN_SLICES_3D: Final = 8
COARSE_ANISOTROPY: Final = 3.0
"""Ratio above which the coarse axis takes its 10th percentile spacing (Isensee et al. 2021, nnU-Net)."""
CEILING: Final = 0.985
"""Mean Dice that a coarser grid must still allow."""
MIN_SIDE: Final = {2: 192, 3: 96}
"""A CPU plan keeps this many samples along the longest fine axis, by network dimensions."""
MASKED_FRACTION: Final = 0.25
"""Share of exact zeros above which an image counts as masked, and its zeros stay out of the statistics."""


def derive_plan(
    fingerprint: Fingerprint,
    manifest: Manifest,
    *,
    dimensions: int | None = None,
    device_kind: DeviceKind = "cpu",
    memory_gb: float | None = None,
    label_kinds: Sequence[LabelKind] = ("full",),
    spacing_mm: Sequence[float | None] | None = None,
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> Plan:
    """The plan for a data set on a kind of device.

    Args:
        dimensions: 2 or 3 forces the network's; by default 3 for volumes of nearly cubic voxels.
        memory_gb: what training may take, in 10^9 bytes; by default 12 on a GPU, short steps on a CPU.
        spacing_mm: forces the target grid, per axis in the fingerprint's order; None keeps each image's own.
        patch_size: forces the patch, per axis of the network; it is rounded up to what the network can halve.
        batch_size: forces the number of patches in a step.

    Raises:
        ConfigError: a forced setting that cannot be: a 3D network on pictures, a wrong number of axes.
    """
    reasons: dict[str, str] = {}
    if dimensions == 3 and fingerprint.image_axes == 2:
        raise ConfigError("dimensions = 3: the images are pictures of two axes; use dimensions = 2", code="E-CFG-10")
    if dimensions not in (None, 2, 3):
        raise ConfigError(f"dimensions = {dimensions}: wanted 2 or 3", code="E-CFG-10")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size = {batch_size}: wanted a whole number > 0", code="E-CFG-12")
    chosen: Literal[2, 3] = _dimensions(fingerprint)
    if dimensions is not None:
        chosen = 2 if dimensions == 2 else 3
    reasons["dimensions"] = _why_dimensions(fingerprint, forced=dimensions)
    target = _spacing(fingerprint, chosen, device_kind, spacing_mm, reasons)
    sides = _prepared_sides(fingerprint, target)
    own_spacing = [
        mm if wanted is None else wanted for mm, wanted in zip(fingerprint.median_spacing_mm, target, strict=True)
    ]
    extents = list(fingerprint.foreground_extent_mm) or None
    slices = chosen < fingerprint.image_axes
    axes = slice(1, None) if slices else slice(None)
    layout = patch_and_stages(
        sides[axes],
        own_spacing[axes],
        extents[axes] if extents else None,
        device_kind=device_kind,
        memory_gb=memory_gb,
        forced=patch_size,
    )
    reasons |= layout.reasons
    if batch_size is not None:
        reasons["batch_size"] = "as asked"
    intensities = tuple(_intensity(facts, fingerprint, reasons) for facts in fingerprint.channels)
    reasons["mirror_axes"] = (
        "no mirrored copies at prediction: anatomy is not symmetric (left and right, top and bottom differ)"
    )
    reasons["axis_order"] = _why_order(fingerprint)
    return Plan(
        dataset=manifest.name,
        modality=fingerprint.modality,
        image_axes=2 if fingerprint.image_axes == 2 else 3,
        dimensions=chosen,
        channels=channel_names(manifest, len(fingerprint.channels)),
        classes=ClassPlan(names=manifest.classes.names, stored=manifest.classes.stored),
        label_kinds=tuple(label_kinds),
        axis_order=fingerprint.axis_order,
        spacing_mm=tuple(target),
        patch_size=layout.patch_size,
        batch_size=batch_size or layout.batch_size,
        intensities=intensities,
        network=NetworkPlan(
            features=features_for(len(layout.strides), chosen, device_kind),
            strides=layout.strides,
            kernels=layout.kernels,
        ),
        mirror_axes=(),
        reasons=reasons,
    )


def _dimensions(facts: Fingerprint) -> Literal[2, 3]:
    flat = facts.anisotropy >= SLICE_ANISOTROPY or facts.median_shape[0] < MIN_SLICES_3D
    return 2 if facts.image_axes == 2 or flat else 3


def _why_dimensions(facts: Fingerprint, *, forced: int | None) -> str:
    if forced is not None:
        return f"{forced}D network, as asked"
    if facts.image_axes == 2:
        return "2D network: the images are pictures"
    if facts.median_shape[0] < MIN_SLICES_3D:
        return f"2D network on slices: volumes have only {facts.median_shape[0]:g} of them"
    if facts.anisotropy >= SLICE_ANISOTROPY:
        return f"2D network on slices: they lie {facts.anisotropy:.1f} times as far apart as pixels"
    return f"3D network: voxels are nearly cubic (longest side {facts.anisotropy:.1f} times the shortest)"


def _why_order(facts: Fingerprint) -> str:
    if facts.image_axes == 2:
        return "axes as stored"
    if facts.axis_order == (0, 1, 2):
        return "axes (inferior-superior, posterior-anterior, left-right)"
    return f"axis {facts.axis_order[0]} of the turned volume comes first, because it is the coarsest"


def _spacing(
    facts: Fingerprint,
    dimensions: int,
    device_kind: DeviceKind,
    forced: Sequence[float | None] | None,
    reasons: dict[str, str],
) -> list[float | None]:
    """Target spacing per image axis."""
    if forced is not None:
        if len(forced) != facts.image_axes or any(mm is not None and not mm > 0 for mm in forced):
            raise ConfigError(
                f"spacing_mm = {list(forced)}: wanted {facts.image_axes} numbers > 0 (mm per axis)",
                code="E-CFG-11",
            )
        reasons["spacing_mm"] = "as asked"
        return list(forced)
    target: list[float | None] = list(facts.median_spacing_mm)
    sentence = "the median of the training images"
    if dimensions < facts.image_axes:
        target[0] = None
        sentence += "; slices stay where they are"
    elif dimensions == 3 and facts.anisotropy > COARSE_ANISOTROPY:
        coarse = int(np.argmax(facts.median_spacing_mm))
        target[coarse] = facts.spacing_10_mm[coarse]
        sentence += f"; along axis {coarse} the 10th percentile, because it is {facts.anisotropy:.1f} times coarser"
    if device_kind == "cpu":
        factor, why = _coarsening(facts, dimensions)
        limit = 2.0 * min(facts.median_spacing_mm)
        target = [mm if mm is None or mm > limit else round(mm * factor, 6) for mm in target]
        sentence += why
    reasons["spacing_mm"] = sentence
    return target


def _coarsening(facts: Fingerprint, dimensions: int) -> tuple[float, str]:
    """The largest measured factor that a CPU plan may shrink the fine axes by, and why."""
    fine = [mm <= 2.0 * min(facts.median_spacing_mm) for mm in facts.median_spacing_mm]
    longest = max(n for n, is_fine in zip(facts.median_shape, fine, strict=True) if is_fine)
    factor, kept = 1.0, 1.0
    for ceiling in facts.label_ceiling:
        if ceiling.mean_dice < CEILING or longest / ceiling.factor < MIN_SIDE[dimensions]:
            break
        factor, kept = ceiling.factor, ceiling.mean_dice
    if factor == 1.0:
        return factor, ""
    return factor, f"; times {factor:g} for speed on a CPU, where labels still keep a Dice of {kept:.3f}"


def _prepared_sides(facts: Fingerprint, target: Sequence[float | None]) -> list[int]:
    """Median shape of the measured images on the target grid."""
    sides = [
        [n if wanted is None else max(1.0, n * mm / wanted) for n, mm, wanted in zip(shape, own, target, strict=True)]
        for shape, own in zip(facts.shapes, facts.spacings_mm, strict=True)
    ]
    return [math.ceil(side - 0.01) for side in np.median(sides, axis=0)]


def _intensity(facts: ChannelFacts, fingerprint: Fingerprint, reasons: dict[str, str]) -> IntensityPlan:
    low, high = facts.foreground_percentile_00_5, facts.foreground_percentile_99_5
    pictures = "nifti" not in fingerprint.file_types
    if fingerprint.modality.upper() == "CT" and not pictures:
        if low is not None and high is not None and facts.foreground_std and low < high:
            reasons["intensities"] = "CT: Hounsfield window and scale from the labelled structures"
            mean, std = facts.foreground_mean, facts.foreground_std
        else:
            reasons["intensities"] = "CT without labels: Hounsfield window and scale from all voxels"
            low, high = facts.percentile_00_5, facts.percentile_99_5
            mean, std = facts.mean, facts.std or 1.0
        return IntensityPlan(scheme="window", low=low, high=high, mean=mean, std=std)
    if pictures and facts.integer and facts.maximum <= 255:
        reasons["intensities"] = (
            "8-bit pictures: each image and channel to mean 0 and standard deviation 1, nothing clipped"
        )
        return IntensityPlan(scheme="range", high=255.0)
    masked = facts.zero_fraction > MASKED_FRACTION and not pictures
    reasons["intensities"] = (
        "no fixed scale: each image clipped to its 0.5-99.5 percentiles, then mean 0, standard deviation 1"
        + ("; zeros are masked background and are not counted" if masked else "")
    )
    return IntensityPlan(scheme="percentile", nonzero_only=masked)


def channel_names(manifest: Manifest, n: int) -> tuple[str, ...]:
    """Names of the `n` channels that files hold: the manifest's, the colours of a picture, or numbers."""
    if len(manifest.channels) == n:
        return manifest.channels
    if len(manifest.channels) == 1 and n == 3:
        return ("red", "green", "blue")
    return tuple(f"channel_{index}" for index in range(n))
