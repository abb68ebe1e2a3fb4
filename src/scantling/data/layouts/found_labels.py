"""Label files found by their names alone: their classes, kinds, and what was decided about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scantling.data.case import Annotation, ClassTable
from scantling.data.label_values import (
    LabelQuestion,
    find_classes,
    kind_notes,
    scan_labels,
    unreadable_labels,
)
from scantling.data.layouts.dataset_toml import FILE_NAME, DatasetToml
from scantling.data.manifest import Problem

_OVERRIDE = "label_kind in dataset.toml"


@dataclass(frozen=True, kw_only=True)
class FoundLabels:
    """What the label files of a folder say: annotations by case, the classes, problems and notes."""

    classes: ClassTable
    annotations: Mapping[str, Annotation]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, case_id: str) -> tuple[Annotation, ...]:
        """The annotations of a case: one or none."""
        return (self.annotations[case_id],) if case_id in self.annotations else ()


def read_found_labels(labels: Mapping[str, Path], folder: Path, settings: DatasetToml) -> FoundLabels:
    """Read every label file once; `dataset.toml` names what must not be guessed.

    Args:
        labels: case -> label file.

    Raises:
        ConfigError: the class table of `dataset.toml` is impossible.
    """
    named = settings.class_table(folder / FILE_NAME)
    questions = [LabelQuestion(path=path, ignore=settings.ignore, classes=named) for path in labels.values()]
    scans = scan_labels(questions)
    readable = {case: scan for case, scan in zip(labels, scans, strict=True) if not scan.problem}
    classes, notes = (named, ()) if named is not None else find_classes(scans)
    given = settings.label_kind
    annotations = {
        case: Annotation(path=scan.path, kind=given or scan.kind, ignore=settings.ignore or scan.ignore)
        for case, scan in readable.items()
        if given != "none"
    }
    case_of = {path: case for case, path in labels.items()}
    return FoundLabels(
        classes=classes, annotations=annotations, problems=unreadable_labels(scans, case_of),
        notes=(*notes, *(() if given else kind_notes(readable.values(), _OVERRIDE))),
    )  # fmt: skip
