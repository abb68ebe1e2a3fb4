"""What is measured on one case: voxels of each channel, the size of each structure, the label ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Integer, Num

from scantling.data.case import IGNORE, Annotation, Case
from scantling.data.image_io import read_image
from scantling.data.manifest import Manifest
from scantling.data.normalising import finite
from scantling.data.prepare import PreparedGrid, read_matching_label, turn, turned_grid, without_grey_copies
from scantling.data.resampling import resample_labels
from scantling.seeding import numpy_generator

COARSENINGS: Final = (1.25, 1.5, 2.0, 2.5, 3.0)
"""Factors at which the label ceiling is measured."""
VOXELS_PER_CASE: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class ChannelSample:
    """What is kept of one channel of one case after its array is let go."""

    integer: bool
    lowest: float
    highest: float
    zero_fraction: float
    voxels: Float[np.ndarray, "voxel"]
    foreground: Float[np.ndarray, "foreground"]


@dataclass(frozen=True, kw_only=True)
class LabelSample:
    """What is kept of one label map; `boxes_mm`: sides of each class's box, under 0 of the box around all."""

    counts: tuple[int, ...]
    voxel_mm: float
    boxes_mm: dict[int, tuple[float, ...]]
    ceiling: dict[float, float]


@dataclass(frozen=True, kw_only=True)
class CaseSample:
    grid: PreparedGrid
    channels: tuple[ChannelSample, ...]
    label: LabelSample | None


def measure_case(
    case: Case,
    manifest: Manifest,
    annotation: Annotation | None,
    axis_order: tuple[int, ...],
    seed: int,
    with_ceiling: bool,
) -> CaseSample:
    images = [read_image(path) for path in case.images]
    grid = turned_grid(images[0].geometry, axis_order)
    label_map = None
    label = None
    if annotation is not None:
        stored = read_matching_label(annotation, images[0].geometry)
        label_map = manifest.classes.to_index(stored, ignore=annotation.ignore)
        label = _label_sample(turn(label_map, grid), grid, len(manifest.classes.names), with_ceiling)
    rng = numpy_generator(seed, "fingerprint", case.case_id)
    channels = [
        _channel_sample(channel, None if label_map is None else label_map > 0, rng)
        for image in images
        for channel in without_grey_copies(image)
    ]
    return CaseSample(grid=grid, channels=tuple(channels), label=label)


def _channel_sample(
    channel: Num[np.ndarray, "*spatial"],
    foreground: Bool[np.ndarray, "*spatial"] | None,
    rng: np.random.Generator,
) -> ChannelSample:
    channel = finite(channel)
    inside = np.empty(0) if foreground is None else channel[foreground]
    return ChannelSample(
        integer=channel.dtype.kind in "biu",
        lowest=float(channel.min()),
        highest=float(channel.max()),
        zero_fraction=float((channel == 0).mean()),
        voxels=_draw(channel.reshape(-1), rng),
        foreground=_draw(inside, rng),
    )


def _draw(values: Num[np.ndarray, "voxel"], rng: np.random.Generator) -> Float[np.ndarray, "drawn"]:
    if len(values) > VOXELS_PER_CASE:
        values = values[rng.integers(len(values), size=VOXELS_PER_CASE)]
    return values.astype(np.float64)


def _label_sample(
    label_map: Integer[np.ndarray, "*spatial"], grid: PreparedGrid, n_classes: int, with_ceiling: bool
) -> LabelSample:
    counts = np.bincount(label_map[label_map != IGNORE].astype(np.intp), minlength=n_classes)
    boxes = {}
    for k in range(n_classes):
        mask = label_map == k if k else label_map > 0
        if mask.any():
            box = bounding_box(mask)
            boxes[k] = tuple((b.stop - b.start) * mm for b, mm in zip(box, grid.spacing_mm, strict=True))
    dense = bool((label_map != IGNORE).mean() > 0.5)
    ceiling = label_ceiling(label_map, grid.spacing_mm) if with_ceiling and dense and 0 in boxes else {}
    return LabelSample(
        counts=tuple(int(n) for n in counts),
        voxel_mm=float(np.prod(grid.spacing_mm)),
        boxes_mm=boxes,
        ceiling=ceiling,
    )


def bounding_box(mask: Bool[np.ndarray, "*spatial"]) -> tuple[slice, ...]:
    """The smallest box around the True voxels of a mask that has some."""
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def label_ceiling(label_map: Integer[np.ndarray, "*spatial"], spacing_mm: tuple[float, ...]) -> dict[float, float]:
    """Per factor, the mean Dice over classes of a label map made coarser along its fine axes and finer again.

    The best score a network could reach that predicts on the coarser grid perfectly. Resampling is that of
    the preparation. Axes more than twice as coarse as the finest are left alone, unknown voxels not counted.
    """
    box = bounding_box(label_map > 0)
    margin = tuple(slice(max(b.start - 8, 0), min(b.stop + 8, n)) for b, n in zip(box, label_map.shape, strict=True))
    original = np.ascontiguousarray(label_map[margin])
    known = original != IGNORE
    fine = [mm <= 2.0 * min(spacing_mm) for mm in spacing_mm]
    result = {}
    for factor in COARSENINGS:
        shape = tuple(max(1, round(n / factor)) if f else n for n, f in zip(original.shape, fine, strict=True))
        back = resample_labels(resample_labels(original, shape), original.shape)
        scores = []
        for k in np.unique(original[original > 0]):
            first, second = (original == k) & known, (back == k) & known
            scores.append(2.0 * (first & second).sum() / (first.sum() + second.sum()))
        result[factor] = float(np.mean(scores))
    return result
