"""One case of an evaluation: its files read and scored; whatever is wrong becomes a status and a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from scantling.data.case import IGNORE, ClassTable
from scantling.data.geometry_check import compare
from scantling.data.image_io import ImageGeometry, read_label, read_scalar_map
from scantling.data.manifest import Problem, Severity
from scantling.errors import DataError, IntegrityError, ResourceError
from scantling.evaluation.conventions import Settings, Unusable
from scantling.evaluation.pair import calibration_rows, image_diagonal_mm, score_pair
from scantling.evaluation.references import ReferenceCase
from scantling.evaluation.rows import Row, unusable_rows

LabelArray = Integer[np.ndarray, "*spatial"]
_UNREADABLE = (DataError, IntegrityError, ResourceError)


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """One case to score.

    Attributes:
        prediction: None where there is no file.
        probabilities: file of class probabilities, if there is one.
    """

    case: ReferenceCase
    prediction: Path | None
    probabilities: Path | None
    classes: ClassTable
    names: tuple[str, ...]
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class ScoredCase:
    """The rows of one case; none where its reference cannot be read."""

    case_id: str
    rows: tuple[Row, ...] = ()
    usable: bool = True
    problems: tuple[Problem, ...] = ()
    spacing_known: bool = True


def score_case(job: ScoringJob, *, progress: Callable[[str], None] | None) -> ScoredCase:
    """Score one case; whatever is wrong with its files becomes a status and a sentence."""
    case_id = job.case.case_id
    if progress is not None:
        progress(f"scoring {case_id}")
    try:
        stored, geometry = read_label(job.case.annotation.path)
    except _UNREADABLE as error:
        return ScoredCase(case_id=case_id, usable=False, problems=(_problem(case_id, error.code, error.message),))
    if job.prediction is None:
        message = f"case {case_id}: has no prediction; it counts as failed"
        return _unusable(job, geometry, "missing_file", "E-EVL-07", message)
    try:
        predicted, predicted_geometry = read_label(job.prediction)
    except _UNREADABLE as error:
        return _unusable(job, geometry, "unreadable", error.code, f"{error.message}; it counts as failed")
    mismatch, warnings = _grids(job, geometry, predicted_geometry)
    if mismatch:
        return _unusable(job, geometry, "grid_mismatch", "E-GEO-10", mismatch)
    prediction = job.classes.to_index(predicted)
    reference = job.classes.to_index(stored, ignore=job.case.annotation.ignore)
    warnings += _unknown_values(job, predicted, prediction)
    known = geometry if geometry.spacing_known else predicted_geometry
    rows = score_pair(
        prediction, reference, spacing_mm=known.spacing_mm, classes=job.classes, names=job.names,
        annotated=_annotated(job), case=case_id, settings=job.settings,
    )  # fmt: skip
    calibrated, more_warnings = _calibration(job, reference)
    return ScoredCase(
        case_id=case_id, rows=(*rows, *calibrated), problems=(*warnings, *more_warnings),
        spacing_known=known.spacing_known,
    )  # fmt: skip


def _unusable(job: ScoringJob, geometry: ImageGeometry, status: Unusable, code: str, message: str) -> ScoredCase:
    annotated = _annotated(job)
    rows = unusable_rows(
        job.case.case_id, job.names, annotated=job.classes.foreground if annotated is None else annotated,
        diagonal_mm=image_diagonal_mm(geometry.shape, geometry.spacing_mm), dimensions=len(geometry.shape),
        settings=job.settings, status=status,
    )  # fmt: skip
    return ScoredCase(
        case_id=job.case.case_id, rows=tuple(rows), usable=False,
        problems=(_problem(job.case.case_id, code, message),), spacing_known=geometry.spacing_known,
    )  # fmt: skip


def _annotated(job: ScoringJob) -> tuple[str, ...] | None:
    """The foreground classes that were looked for; None where all of them were."""
    annotated = job.case.annotation.annotated
    return None if annotated is None else tuple(name for name in annotated if name in job.classes.foreground)


def _grids(job: ScoringJob, reference: ImageGeometry, prediction: ImageGeometry) -> tuple[str, tuple[Problem, ...]]:
    """Why the two cannot be compared ("" if they can), and warnings."""
    found = compare(reference, prediction)
    if found.verdict == "same":
        return "", ()
    subject = f"case {job.case.case_id}: prediction {job.prediction}"
    if reference.shape != prediction.shape:
        ours, theirs = (" x ".join(map(str, geometry.shape)) for geometry in (prediction, reference))
        return (
            f"{subject} is {ours} but its reference is {theirs}; they must share one grid (resample the "
            "prediction with nearest-neighbour interpolation); it counts as failed"
        ), ()
    where = f"{subject} lies up to {found.distance_voxels:.3g} voxels off its reference at the corners"
    if found.verdict == "refuse":
        return (
            f"{where}; they must share one grid (write the prediction with the image's own header, or "
            "resample it with nearest-neighbour interpolation); it counts as failed"
        ), ()
    warning = f"{where}; it is scored voxel by voxel as if they were one grid"
    return "", (_problem(job.case.case_id, "E-GEO-10", warning, severity="warning"),)


def _unknown_values(job: ScoringJob, stored: LabelArray, prediction: LabelArray) -> tuple[Problem, ...]:
    unknown = prediction == IGNORE
    if not unknown.any():
        return ()
    values = ", ".join(str(value) for value in np.unique(stored[unknown])[:8])
    message = (
        f"case {job.case.case_id}: prediction {job.prediction} holds {values}, which no class names; these "
        "pixels count as background (name the value in dataset.toml if it is a class)"
    )
    return (_problem(job.case.case_id, "E-EVL-09", message, severity="warning"),)


def _calibration(job: ScoringJob, reference: LabelArray) -> tuple[list[Row], tuple[Problem, ...]]:
    """ECE and Brier rows where the case has probabilities of the right shape."""
    if job.probabilities is None:
        return [], ()
    case_id = job.case.case_id
    try:
        probs = read_scalar_map(job.probabilities, dimensions=reference.ndim)
    except _UNREADABLE as error:
        return [], (_problem(case_id, error.code, f"{error.message}; calibration is left out", severity="warning"),)
    wanted = (len(job.classes.names), *reference.shape)
    if probs.shape != wanted or probs.dtype.kind != "f":
        message = (
            f"case {case_id}: {job.probabilities} is {probs.dtype} of {probs.shape}, wanted probabilities of "
            f"{wanted} (classes with background, then the image's grid); calibration is left out"
        )
        return [], (_problem(case_id, "E-EVL-10", message, severity="warning"),)
    rows = calibration_rows(
        probs, reference, classes=job.classes, names=job.names, annotated=_annotated(job), case=case_id
    )
    return rows, ()


def _problem(case_id: str, code: str, message: str, *, severity: Severity = "error") -> Problem:
    return Problem(case_id=case_id, severity=severity, code=code, message=message)
