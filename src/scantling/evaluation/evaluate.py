"""Folders of predictions against references: every case, class and metric, with nothing left out in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer

from scantling.data.case import IGNORE, ClassTable, LabelKind
from scantling.data.geometry_check import compare
from scantling.data.image_io import ImageGeometry, read_image, read_label
from scantling.data.layouts.image_files import image_files
from scantling.data.manifest import Manifest, Problem
from scantling.errors import DataError, IntegrityError
from scantling.evaluation.conventions import Settings, Unusable
from scantling.evaluation.pair import calibration_rows, evaluate_pair, image_diagonal_mm, score_pair
from scantling.evaluation.references import (
    ReferenceCase,
    References,
    find_predictions,
    find_references,
    group_columns,
)
from scantling.evaluation.results import Evaluation
from scantling.evaluation.rows import Row, unusable_rows
from scantling.evaluation.summary import Summary, summarise
from scantling.evaluation.surface import Average, Convention

__all__ = ["Evaluation", "Row", "Summary", "evaluate_folders", "evaluate_pair"]

PROBABILITIES: Final = "probabilities"
"""Subfolder of the predictions in which `predict --probabilities` puts the class probabilities of each case."""


@dataclass(frozen=True, kw_only=True)
class _Job:
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
class _Scored:
    """The rows of one case; none where its reference cannot be read."""

    case_id: str
    rows: tuple[Row, ...] = ()
    usable: bool = True
    problems: tuple[Problem, ...] = ()
    spacing_known: bool = True


def evaluate_folders(
    predictions: Path,
    reference: Manifest | Path,
    *,
    cases: Iterable[str] | None = None,
    classes: Sequence[str] | None = None,
    label_kinds: Sequence[LabelKind] = ("full",),
    groups: Sequence[str] | None = None,
    tolerance_mm: float = 1.0,
    convention: Convention = "monai",
    average: Average = "pooled",
    distances: bool = True,
    hd95_with_failures: bool = False,
    largest_component: bool = True,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Score a folder of label maps of any tool against references.

    A case whose prediction is missing, unreadable or on another grid counts as failed in every class, and the
    others go on. Predictions store the values of the reference's class table. Probabilities in
    `predictions/probabilities/` are scored for calibration.

    Args:
        reference: a data set, or a folder of label files named as the predictions.
        cases: ids of the cases to score; None takes all that have a reference.
        classes: names of the foreground classes to score; None takes all.
        label_kinds: annotations of a data set that may serve as reference, best first.
        groups: attributes to report subgroups for; None takes those with 2 to 8 values.
        workers: threads; the result does not depend on their number.
        progress: called with a sentence before each case.

    Raises:
        DataError: there is nothing to score, or no prediction at all.
        ConfigError: an unknown class or attribute, or an impossible setting.
    """
    settings = Settings(
        tolerance_mm=tolerance_mm, convention=convention, average=average, distances=distances,
        hd95_with_failures=hd95_with_failures, largest_component=largest_component, resamples=resamples,
        level=level, seed=seed,
    )  # fmt: skip
    references = find_references(reference, cases=cases, label_kinds=label_kinds)
    columns = group_columns(references.cases, groups)
    jobs, notes = _jobs(predictions, references, classes, settings)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        scored = tuple(pool.map(partial(_score, progress=progress), jobs))
    return _assemble(references, scored, columns, jobs, settings, notes)


def _jobs(
    predictions: Path, references: References, classes: Sequence[str] | None, settings: Settings
) -> tuple[list[_Job], tuple[str, ...]]:
    table = references.classes
    names = tuple(
        table.names[table.index(name)] for name in (table.foreground if classes is None else classes)
    )
    files, notes = find_predictions(predictions, [case.case_id for case in references.cases])
    probabilities = image_files(predictions / PROBABILITIES) if (predictions / PROBABILITIES).is_dir() else {}
    jobs = [
        _Job(
            case=case, prediction=files.get(case.case_id), probabilities=probabilities.get(case.case_id),
            classes=table, names=names, settings=settings,
        )
        for case in references.cases
    ]  # fmt: skip
    return jobs, (*references.notes, *notes)


def _score(job: _Job, *, progress: Callable[[str], None] | None) -> _Scored:
    """Score one case; whatever is wrong with its files becomes a status and a sentence."""
    case_id = job.case.case_id
    if progress is not None:
        progress(f"scoring {case_id}")
    try:
        stored, geometry = read_label(job.case.annotation.path)
    except (DataError, IntegrityError) as error:
        return _Scored(
            case_id=case_id, usable=False, problems=(_problem(case_id, error.code, error.message),)
        )
    if job.prediction is None:
        message = f"case {case_id}: has no prediction; it counts as failed"
        return _unusable(job, geometry, "missing_file", "E-EVL-07", message)
    try:
        predicted, predicted_geometry = read_label(job.prediction)
    except (DataError, IntegrityError) as error:
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
    return _Scored(
        case_id=case_id, rows=(*rows, *calibrated), problems=(*warnings, *more_warnings),
        spacing_known=known.spacing_known,
    )  # fmt: skip


def _unusable(job: _Job, geometry: ImageGeometry, status: Unusable, code: str, message: str) -> _Scored:
    rows = unusable_rows(
        job.case.case_id, job.names, annotated=_annotated(job) or job.classes.foreground,
        diagonal_mm=image_diagonal_mm(geometry.shape, geometry.spacing_mm), dimensions=len(geometry.shape),
        settings=job.settings, status=status,
    )  # fmt: skip
    return _Scored(
        case_id=job.case.case_id, rows=tuple(rows), usable=False,
        problems=(_problem(job.case.case_id, code, message),), spacing_known=geometry.spacing_known,
    )  # fmt: skip


def _annotated(job: _Job) -> tuple[str, ...] | None:
    """The foreground classes that were looked for; None where all of them were."""
    annotated = job.case.annotation.annotated
    return None if annotated is None else tuple(name for name in annotated if name in job.classes.foreground)


def _grids(job: _Job, reference: ImageGeometry, prediction: ImageGeometry) -> tuple[str, tuple[Problem, ...]]:
    """Why the two cannot be compared ("" if they can), and warnings."""
    found = compare(reference, prediction)
    if found.verdict == "same":
        return "", ()
    subject = f"case {job.case.case_id}: prediction {job.prediction}"
    if reference.shape != prediction.shape:
        sizes = [" x ".join(map(str, geometry.shape)) for geometry in (prediction, reference)]
        return (
            f"{subject} is {sizes[0]} but its reference is {sizes[1]}; they must share one grid (resample "
            f"the "
            "prediction with nearest-neighbour interpolation); it counts as failed"
        ), ()
    where = f"{subject} lies up to {found.distance_voxels:.3g} voxels off its reference at the corners"
    if found.verdict == "refuse":
        return (
            f"{where}; they must share one grid (write the prediction with the image's own header, or "
            f"resample it "
            "with nearest-neighbour interpolation); it counts as failed"
        ), ()
    warning = f"{where}; it is scored voxel by voxel as if they were one grid"
    return "", (_problem(job.case.case_id, "E-GEO-10", warning, severity="warning"),)


def _unknown_values(
    job: _Job, stored: Integer[np.ndarray, "*spatial"], prediction: Integer[np.ndarray, "*spatial"]
) -> tuple[Problem, ...]:
    unknown = prediction == IGNORE
    if not unknown.any():
        return ()
    values = ", ".join(str(value) for value in np.unique(stored[unknown])[:8])
    message = (
        f"case {job.case.case_id}: prediction {job.prediction} holds {values}, which no class names; these "
        f"pixels count "
        "as background (name the value in dataset.toml if it is a class)"
    )
    return (_problem(job.case.case_id, "E-EVL-09", message, severity="warning"),)


def _calibration(
    job: _Job, reference: Integer[np.ndarray, "*spatial"]
) -> tuple[list[Row], tuple[Problem, ...]]:
    """ECE and Brier rows where the case has probabilities of the right shape."""
    if job.probabilities is None:
        return [], ()
    case_id = job.case.case_id
    try:
        probs = read_image(job.probabilities).array
    except (DataError, IntegrityError) as error:
        return [], (
            _problem(case_id, error.code, f"{error.message}; calibration is left out", severity="warning"),
        )
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


def _assemble(
    references: References,
    scored: Sequence[_Scored],
    columns: Sequence[str],
    jobs: Sequence[_Job],
    settings: Settings,
    notes: tuple[str, ...],
) -> Evaluation:
    rows = tuple(row for case in scored for row in case.rows)
    patients = {case.case_id: case.patient_id for case in references.cases}
    subgroups = [
        summary
        for column in columns
        for value in sorted({v for case in references.cases if (v := case.attributes.get(column))})
        for summary in _subgroup(rows, references.cases, patients, settings, column, value)
    ]
    unknown_spacing = sum(not case.spacing_known for case in scored)
    if unknown_spacing:
        notes = (
            *notes,
            f"{unknown_spacing} of {len(scored)} references state no spacing: 1 mm stands for 1 pixel there",
        )
    return Evaluation(
        settings=settings,
        classes=jobs[0].names if jobs else references.classes.foreground,
        patients=patients,
        rows=rows,
        summary=summarise(rows, patients, settings),
        subgroups=tuple(subgroups),
        missing=(*references.unreadable, *(case.case_id for case in scored if not case.usable)),
        problems=(*references.problems, *(problem for case in scored for problem in case.problems)),
        notes=notes,
    )


def _subgroup(
    rows: Sequence[Row],
    cases: Sequence[ReferenceCase],
    patients: Mapping[str, str],
    settings: Settings,
    column: str,
    value: str,
) -> tuple[Summary, ...]:
    members = {case.case_id for case in cases if case.attributes.get(column) == value}
    chosen = [row for row in rows if row.case in members]
    return summarise(chosen, patients, settings, group=column, group_value=value)


def _problem(case_id: str, code: str, message: str, *, severity: str = "error") -> Problem:
    return Problem(
        case_id=case_id, severity="warning" if severity == "warning" else "error", code=code, message=message
    )
