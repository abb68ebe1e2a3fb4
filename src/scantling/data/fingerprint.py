"""Facts measured before anything is decided: grids, intensities, structures, what coarsening costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from scantling.config import Config
from scantling.data.case import Annotation, Case, LabelKind
from scantling.data.case_facts import COARSENINGS, CaseSample, ChannelSample, LabelSample, measure_case
from scantling.data.image_io import read_geometry
from scantling.data.manifest import Manifest
from scantling.data.prepare import turned_grid
from scantling.errors import DataError, ScantlingError
from scantling.seeding import numpy_generator

CEILING_CASES: Final = 8
_CLEARLY_COARSER: Final = 1.1
"""An axis is put first only if it is at least 10 % coarser than every other one."""


class ChannelFacts(Config):
    """Intensities of one channel, pooled over the measured cases; `foreground_*` is None without labels.

    `zero_fraction` is the median over cases of the share of voxels that are exactly 0.
    """

    integer: bool
    minimum: float
    maximum: float
    percentile_00_5: float
    median: float
    percentile_99_5: float
    mean: float
    std: float
    zero_fraction: float
    foreground_mean: float | None = None
    foreground_std: float | None = None
    foreground_percentile_00_5: float | None = None
    foreground_percentile_99_5: float | None = None


class ClassFacts(Config):
    """One foreground class: in how many cases it is, its median size there, its share of known voxels.

    `extent_mm` is the median side of the bounding box, per prepared axis; empty where no case has the class.
    `volume_mm` is in mm^2 for pictures and mm^3 for volumes.
    """

    name: str
    cases: int
    voxel_fraction: float
    volume_mm: float
    extent_mm: tuple[float, ...]


class CeilingFact(Config):
    """Mean Dice that labels keep when their fine axes are made coarser by a factor, and finer again."""

    factor: float
    mean_dice: float


class Fingerprint(Config):
    """What a plan is derived from. Axes are turned to closest RAS and permuted by `axis_order`.

    Attributes:
        shapes, spacings_mm: one entry per measured case.
        anisotropy: largest over smallest median spacing.
        foreground_extent_mm: sides of the box around all classes, 95th percentile over cases; empty where
            there are no labels.
        label_ceiling: empty where no case has a dense label.
    """

    dataset: str
    modality: str
    cases: int
    measured: tuple[str, ...]
    labelled: int
    image_axes: int
    axis_order: tuple[int, ...]
    file_types: tuple[str, ...]
    spacing_known: bool
    shapes: tuple[tuple[int, ...], ...]
    spacings_mm: tuple[tuple[float, ...], ...]
    median_shape: tuple[float, ...]
    median_spacing_mm: tuple[float, ...]
    spacing_10_mm: tuple[float, ...]
    spacing_90_mm: tuple[float, ...]
    anisotropy: float
    channels: tuple[ChannelFacts, ...]
    classes: tuple[ClassFacts, ...]
    foreground_extent_mm: tuple[float, ...]
    label_ceiling: tuple[CeilingFact, ...]


def fingerprint(
    manifest: Manifest,
    cases: Sequence[Case],
    label_kinds: Sequence[LabelKind] = ("full",),
    *,
    seed: int = 0,
    max_cases: int = 40,
) -> Fingerprint:
    """Measure at most `max_cases` of the training cases, drawn with the seed, labelled ones first.

    Generated images are not measured: a plan is derived from what scanners made.

    Raises:
        DataError: there is no case, a file is unreadable, or pictures and volumes (or grey and
            colour) are mixed.
    """
    cases = [case for case in cases if case.counterfactual_of is None]
    if not cases:
        raise DataError(f"data set {manifest.name}: there is no case to measure", code="E-DAT-21")
    labelled = [case for case in cases if _annotation(case, label_kinds) is not None]
    chosen = _choose(cases, labelled, seed=seed, max_cases=max_cases)
    axis_order = _axis_order(manifest, chosen)
    samples: list[CaseSample] = []
    for case in chosen:
        ceilings = sum(bool(sample.label and sample.label.ceiling) for sample in samples)
        try:
            annotation = _annotation(case, label_kinds)
            samples.append(measure_case(case, manifest, annotation, axis_order, seed, ceilings < CEILING_CASES))
        except ScantlingError as error:
            if error.message.startswith(f"case {case.case_id}"):
                raise
            raise type(error)(f"case {case.case_id}: {error.message}", code=error.code) from error
    counts = sorted({len(sample.channels) for sample in samples})
    if len(counts) > 1:
        raise DataError(
            f"data set {manifest.name}: images have {' and '.join(map(str, counts))} channels; convert them "
            "to one kind (colour and grey cannot be mixed)",
            code="E-DAT-22",
        )
    return _summarise(manifest, len(cases), len(labelled), chosen, axis_order, samples)


def _annotation(case: Case, label_kinds: Sequence[LabelKind]) -> Annotation | None:
    annotation = case.annotation(label_kinds)
    return None if annotation is None or annotation.kind == "none" else annotation


def _choose(cases: Sequence[Case], labelled: Sequence[Case], *, seed: int, max_cases: int) -> list[Case]:
    """At most `max_cases` in file order; a quarter of the places is left to unlabelled cases."""
    rng = numpy_generator(seed, "fingerprint")
    marked = {case.case_id for case in labelled}
    others = [case for case in cases if case.case_id not in marked]
    n_others = min(len(others), max(max_cases // 4, max_cases - len(labelled)))
    n_labelled = min(len(labelled), max_cases - n_others)
    kept = {labelled[i].case_id for i in rng.permutation(len(labelled))[:n_labelled]}
    kept |= {others[i].case_id for i in rng.permutation(len(others))[:n_others]}
    return [case for case in cases if case.case_id in kept]


def _axis_order(manifest: Manifest, cases: Sequence[Case]) -> tuple[int, ...]:
    """The coarsest axis first, the others as they are; unchanged where no axis is clearly the coarsest."""
    geometries = [read_geometry(case.images[0]) for case in cases]
    axes = sorted({len(geometry.shape) for geometry in geometries})
    if len(axes) > 1:
        raise DataError(
            f"data set {manifest.name}: some images have {axes[0]} spatial axes and some {axes[1]}; "
            "pictures and volumes cannot be mixed in one data set",
            code="E-DAT-23",
        )
    identity = tuple(range(axes[0]))
    if len(identity) == 2:
        return identity
    spacing = np.median([turned_grid(geometry, identity).spacing_mm for geometry in geometries], axis=0)
    coarsest = int(np.argmax(spacing))
    if all(spacing[coarsest] >= _CLEARLY_COARSER * spacing[axis] for axis in identity if axis != coarsest):
        return (coarsest, *(axis for axis in identity if axis != coarsest))
    return identity


def _summarise(
    manifest: Manifest,
    n_cases: int,
    n_labelled: int,
    chosen: Sequence[Case],
    axis_order: tuple[int, ...],
    samples: Sequence[CaseSample],
) -> Fingerprint:
    grids = [sample.grid for sample in samples]
    spacings = np.array([grid.spacing_mm for grid in grids])
    low, median, high = (_floats(np.percentile(spacings, q, axis=0)) for q in (10, 50, 90))
    labels = [sample.label for sample in samples if sample.label is not None]
    around_all = [label.boxes_mm[0] for label in labels if 0 in label.boxes_mm]
    ceilings = [label.ceiling for label in labels if label.ceiling]
    return Fingerprint(
        dataset=manifest.name,
        modality=manifest.modality,
        cases=n_cases,
        measured=tuple(case.case_id for case in chosen),
        labelled=n_labelled,
        image_axes=len(axis_order),
        axis_order=axis_order,
        file_types=tuple(sorted({grid.source.file_type for grid in grids})),
        spacing_known=all(grid.source.spacing_known for grid in grids),
        shapes=tuple(grid.shape for grid in grids),
        spacings_mm=tuple(grid.spacing_mm for grid in grids),
        median_shape=_floats(np.median([grid.shape for grid in grids], axis=0)),
        median_spacing_mm=median,
        spacing_10_mm=low,
        spacing_90_mm=high,
        anisotropy=max(median) / min(median),
        channels=tuple(
            _channel_facts([sample.channels[c] for sample in samples]) for c in range(len(samples[0].channels))
        ),
        classes=tuple(_class_facts(name, k, labels) for k, name in enumerate(manifest.classes.names) if k > 0),
        foreground_extent_mm=_floats(np.percentile(around_all, 95, axis=0)) if around_all else (),
        label_ceiling=tuple(
            CeilingFact(factor=factor, mean_dice=float(np.mean([ceiling[factor] for ceiling in ceilings])))
            for factor in (COARSENINGS if ceilings else ())
        ),
    )


def _channel_facts(samples: Sequence[ChannelSample]) -> ChannelFacts:
    values = np.concatenate([sample.voxels for sample in samples])
    inside = np.concatenate([sample.foreground for sample in samples])
    low, median, high = (float(v) for v in np.percentile(values, (0.5, 50.0, 99.5)))
    inside_low, inside_high = np.percentile(inside, (0.5, 99.5)) if inside.size else (None, None)
    return ChannelFacts(
        integer=all(sample.integer for sample in samples),
        minimum=min(sample.lowest for sample in samples),
        maximum=max(sample.highest for sample in samples),
        percentile_00_5=low,
        median=median,
        percentile_99_5=high,
        mean=float(values.mean()),
        std=float(values.std()),
        zero_fraction=float(np.median([sample.zero_fraction for sample in samples])),
        foreground_mean=float(inside.mean()) if inside.size else None,
        foreground_std=float(inside.std()) if inside.size else None,
        foreground_percentile_00_5=None if inside_low is None else float(inside_low),
        foreground_percentile_99_5=None if inside_high is None else float(inside_high),
    )


def _class_facts(name: str, k: int, labels: Sequence[LabelSample]) -> ClassFacts:
    having = [label for label in labels if label.counts[k]]
    known = sum(sum(label.counts) for label in labels)
    return ClassFacts(
        name=name,
        cases=len(having),
        voxel_fraction=sum(label.counts[k] for label in having) / known if known else 0.0,
        volume_mm=float(np.median([label.counts[k] * label.voxel_mm for label in having])) if having else 0.0,
        extent_mm=_floats(np.median([label.boxes_mm[k] for label in having], axis=0)) if having else (),
    )


def _floats(values: Float[np.ndarray, "axis"]) -> tuple[float, ...]:
    """Plain numbers rounded to a micrometre, so that 1.0000001 mm of a float32 header reads as 1."""
    return tuple(round(float(value), 6) for value in values)
