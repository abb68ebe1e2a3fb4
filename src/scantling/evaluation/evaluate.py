"""Folders of predictions against references: every case, nothing left out in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from scantling.data.case import LabelKind
from scantling.data.layouts.image_files import image_files
from scantling.data.manifest import Manifest
from scantling.errors import DataError
from scantling.evaluation.conventions import Settings
from scantling.evaluation.pair import evaluate_pair
from scantling.evaluation.references import (
    ReferenceCase,
    References,
    find_predictions,
    find_references,
    group_columns,
)
from scantling.evaluation.results import Evaluation
from scantling.evaluation.rows import Row
from scantling.evaluation.scoring import ScoredCase, ScoringJob, score_case
from scantling.evaluation.summary import Summary, summarise
from scantling.evaluation.surface import Average, Convention

__all__ = ["Evaluation", "Row", "Summary", "evaluate_folders", "evaluate_pair"]

PROBABILITIES: Final = "probabilities"
"""Subfolder of the predictions that holds each case's class probabilities (`predict --probabilities`)."""


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
    table = references.classes
    names = table.foreground if classes is None else table.subset(classes).foreground
    if not names:
        raise DataError("evaluation: there is no foreground class to score in the references", code="E-EVL-03")
    jobs, notes = _jobs(predictions, references, names, settings)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        scored = tuple(pool.map(partial(score_case, progress=progress), jobs))
    return _assemble(references, scored, columns, names, settings, notes)


def _jobs(
    predictions: Path, references: References, names: tuple[str, ...], settings: Settings
) -> tuple[list[ScoringJob], tuple[str, ...]]:
    files, notes = find_predictions(predictions, [case.case_id for case in references.cases])
    probabilities = image_files(predictions / PROBABILITIES) if (predictions / PROBABILITIES).is_dir() else {}
    jobs = [
        ScoringJob(
            case=case, prediction=files.get(case.case_id), probabilities=probabilities.get(case.case_id),
            classes=references.classes, names=names, settings=settings,
        )
        for case in references.cases
    ]  # fmt: skip
    return jobs, (*references.notes, *notes)


def _assemble(
    references: References,
    scored: Sequence[ScoredCase],
    columns: Sequence[str],
    names: tuple[str, ...],
    settings: Settings,
    notes: tuple[str, ...],
) -> Evaluation:
    rows = tuple(row for case in scored for row in case.rows)
    patients = {case.case_id: case.patient_id for case in references.cases}
    subgroups = [
        summary
        for column in columns
        for value in sorted({case.attributes.get(column, "") for case in references.cases} - {""})
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
        classes=names,
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
