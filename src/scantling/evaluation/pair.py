"""One prediction against one reference, both as class indices on one grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from scantling.data.case import ClassTable
from scantling.errors import GeometryError
from scantling.evaluation import calibration, overlap
from scantling.evaluation.components import largest_component as largest_component_of
from scantling.evaluation.conventions import ALL_CLASSES, Post, Settings, Status
from scantling.evaluation.counts import Box, Confusion, confusion
from scantling.evaluation.rows import Row, class_rows, posts, undefined_rows, with_mean_foreground
from scantling.evaluation.surface import (
    Average,
    Convention,
    average_surface_distance,
    hausdorff_distance,
    surface_dice,
    surface_distances,
)

LabelArray = Integer[np.ndarray, "..."]  # shapes are compared below, with a message for the user
Mask = Bool[np.ndarray, "*spatial"]


def evaluate_pair(
    prediction: LabelArray,
    reference: LabelArray,
    *,
    spacing_mm: tuple[float, ...],
    classes: ClassTable,
    annotated: Sequence[str] | None = None,
    case: str = "",
    tolerance_mm: float = 1.0,
    convention: Convention = "monai",
    average: Average = "pooled",
    distances: bool = True,
    hd95_with_failures: bool = False,
    largest_component: bool = False,
) -> list[Row]:
    """Every metric of every foreground class of one case, and their mean over the classes.

    Args:
        annotated: classes that were looked for in the reference; None means all of them.
        tolerance_mm: of the normalised surface Dice; see `Settings` for the other options.

    Raises:
        GeometryError: the two label maps differ in shape.
        DataError: a label map holds an index that is no class.
        ConfigError: an impossible setting, or an unknown class in `annotated`.
    """
    settings = Settings(
        tolerance_mm=tolerance_mm, convention=convention, average=average, distances=distances,
        hd95_with_failures=hd95_with_failures, largest_component=largest_component,
    )  # fmt: skip
    return score_pair(
        prediction, reference, spacing_mm=spacing_mm, classes=classes, names=classes.foreground,
        annotated=annotated, case=case, settings=settings,
    )  # fmt: skip


def score_pair(
    prediction: LabelArray,
    reference: LabelArray,
    *,
    spacing_mm: tuple[float, ...],
    classes: ClassTable,
    names: Sequence[str],
    annotated: Sequence[str] | None,
    case: str,
    settings: Settings,
) -> list[Row]:
    """`evaluate_pair` for some of the classes, with settings as they stand in an evaluation.

    Raises:
        GeometryError, DataError, ConfigError: as `evaluate_pair`.
    """
    if prediction.shape != reference.shape or len(spacing_mm) != reference.ndim:
        raise GeometryError(
            f"{f'case {case}: ' if case else ''}prediction is {_size(prediction.shape)}, its reference "
            f"{_size(reference.shape)}, spacing has {len(spacing_mm)} axes; they must share one grid "
            f"(resample the prediction with nearest-neighbour interpolation)",
            code="E-GEO-10",
        )
    looked_for = {classes.index(name) for name in (classes.foreground if annotated is None else annotated)}
    found = confusion(prediction, reference, len(classes.names))
    metrics = settings.metrics(reference.ndim)
    diagonal_mm = image_diagonal_mm(reference.shape, spacing_mm)
    rows: list[Row] = []
    for name in names:
        k = classes.index(name)
        if k in looked_for:
            scores = _score_class(prediction, reference, k, found, spacing_mm, diagonal_mm, settings)
            for post, (status, values) in scores.items():
                rows += class_rows(case, name, values, status, post)
        else:
            for post in posts(settings):
                rows += undefined_rows(case, name, metrics, "not_annotated", post)
    return with_mean_foreground(rows)


def calibration_rows(
    probs: Float[np.ndarray, "klass *spatial"],
    reference: LabelArray,
    *,
    classes: ClassTable,
    names: Sequence[str],
    annotated: Sequence[str] | None = None,
    case: str = "",
) -> list[Row]:
    """ECE and Brier score of each annotated class against the rest, their mean, and of the winning class.

    The scores of the winning class (`all_classes`) need every class to have been looked for.
    """
    looked_for = set(classes.foreground if annotated is None else annotated)
    rows: list[Row] = []
    for name in names:
        if name in looked_for:
            k = classes.index(name)
            values = {
                "ece": calibration.expected_calibration_error(calibration.class_reliability(probs, reference, k)),
                "brier": calibration.class_brier_score(probs, reference, k),
            }
            rows += class_rows(case, name, values, "ok", "raw")
        else:
            rows += undefined_rows(case, name, ("ece", "brier"), "not_annotated", "raw")
    if looked_for >= set(classes.foreground):
        values = {
            "ece": calibration.expected_calibration_error(calibration.top_label_reliability(probs, reference)),
            "brier": calibration.brier_score(probs, reference),
        }
        rows += class_rows(case, ALL_CLASSES, values, "ok", "raw")
    return with_mean_foreground(rows)


def image_diagonal_mm(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> float:
    """The longest distance between two pixel centres of an image."""
    return math.hypot(*((n - 1) * mm for n, mm in zip(shape, spacing_mm, strict=True)))


def _score_class(
    prediction: LabelArray,
    reference: LabelArray,
    k: int,
    found: Confusion,
    spacing_mm: tuple[float, ...],
    diagonal_mm: float,
    settings: Settings,
) -> dict[Post, tuple[Status, dict[str, float]]]:
    """Status and values of one class, raw and (if wanted) with its largest component only."""
    counts = tuple(int(n[k]) for n in (found.true_positive, found.false_positive, found.false_negative))
    box: Box = found.boxes[k] or (slice(0, 0),) * reference.ndim
    expected = reference[box] == k
    predicted = prediction[box] == k
    ignored = reference[box] < 0 if found.n_ignored else None

    def measure(mask: Mask, numbers: tuple[int, ...]) -> tuple[Status, dict[str, float]]:
        seen = mask if ignored is None else mask & ~ignored
        return _measure(seen, expected, numbers, spacing_mm, diagonal_mm, settings)

    result: dict[Post, tuple[Status, dict[str, float]]] = {"raw": measure(predicted, counts)}
    if settings.largest_component:
        kept = largest_component_of(predicted)
        if kept is predicted:
            result["largest_component"] = result["raw"]
        else:
            seen = kept if ignored is None else kept & ~ignored
            both, size = int(np.count_nonzero(seen & expected)), int(np.count_nonzero(seen))
            result["largest_component"] = measure(kept, (both, size - both, counts[0] + counts[2] - both))
    return result


def _measure(
    predicted: Mask,
    expected: Mask,
    counts: tuple[int, ...],
    spacing_mm: tuple[float, ...],
    diagonal_mm: float,
    settings: Settings,
) -> tuple[Status, dict[str, float]]:
    both, only_predicted, only_expected = counts
    status = _status(in_prediction=both + only_predicted > 0, in_reference=both + only_expected > 0)
    names = settings.metrics(predicted.ndim)
    if status == "both_empty":
        return status, dict.fromkeys(names, math.nan)
    millilitres_or_mm2 = math.prod(spacing_mm) / (1000 if predicted.ndim == 3 else 1)
    difference = float(overlap.size_difference(only_predicted, only_expected, millilitres_or_mm2))
    values = {
        "dice": float(overlap.dice(both, only_predicted, only_expected)),
        "iou": float(overlap.iou(both, only_predicted, only_expected)),
        "precision": float(overlap.precision(both, only_predicted)),
        "recall": float(overlap.recall(both, only_expected)),
        "volume_difference_ml": difference,
        "volume_error_ml": abs(difference),
        "area_difference_mm2": difference,
        "area_error_mm2": abs(difference),
        "size_error_relative": float(overlap.relative_size_error(both, only_predicted, only_expected)),
    }
    if settings.distances:
        values |= _distances(predicted, expected, status, spacing_mm, diagonal_mm, settings)
    return status, {name: values[name] for name in names}


def _distances(
    predicted: Mask,
    expected: Mask,
    status: Status,
    spacing_mm: tuple[float, ...],
    diagonal_mm: float,
    settings: Settings,
) -> dict[str, float]:
    if status != "ok":
        return {"hd95_mm": math.nan, "hd95_with_failures_mm": diagonal_mm, "assd_mm": math.nan, "nsd": 0.0}
    found = surface_distances(predicted, expected, spacing_mm, convention=settings.convention)
    hd95 = hausdorff_distance(found, percentile=95)
    return {
        "hd95_mm": hd95,
        "hd95_with_failures_mm": hd95,
        "assd_mm": average_surface_distance(found, average=settings.average),
        "nsd": surface_dice(found, tolerance_mm=settings.tolerance_mm),
    }


def _status(*, in_prediction: bool, in_reference: bool) -> Status:
    if in_prediction:
        return "ok" if in_reference else "false_positive"
    return "missed" if in_reference else "both_empty"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
