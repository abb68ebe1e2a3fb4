"""The rows of one case in `cases.csv` -> the case, and what was wrong with them."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from scantling.data.case import Annotation, Case, LabelKind
from scantling.data.layouts import cell_values
from scantling.data.layouts.csv_table import CsvRow, CsvTable
from scantling.data.layouts.dataset_toml import DatasetToml
from scantling.data.manifest import Problem, Severity
from scantling.errors import DataError

OF_CASE: Final = ("case", "image", "subject", "site", "scanner", "split", "fold", "counterfactual_of")
OF_ANNOTATION: Final = (
    "label",
    "label_kind",
    "annotated",
    "ignore",
    "rater",
    "weight",
    "round",
    "confidence",
)
KNOWN: Final = (*OF_CASE, *OF_ANNOTATION)
OF_GENERATED: Final = ("intervention", "sound", "reason")
"""Attributes that tables of generated images have."""


@dataclass(frozen=True, kw_only=True)
class AnnotationDraft:
    """An annotation before the classes are known; `given` is "" where its kind must be looked up."""

    row: CsvRow
    annotation: Annotation
    given: LabelKind | Literal[""]


@dataclass(frozen=True, kw_only=True)
class CaseDraft:
    """A case without annotations, and its annotations before the classes are known."""

    case: Case
    annotations: tuple[AnnotationDraft, ...]


@dataclass(kw_only=True)
class RowReader:
    """Reads the rows of each case; what is wrong but can be left out is gathered in `problems`."""

    table: CsvTable
    settings: DatasetToml
    image_columns: tuple[str, ...]
    problems: list[Problem] = field(default_factory=list)

    def where(self, row: CsvRow) -> str:
        """The place of a row for messages."""
        return f"{self.table.path.name} line {row.line}"

    def draft(self, rows: Sequence[CsvRow]) -> CaseDraft | None:
        """The case of these rows; None if an image of it does not exist, which is then among the problems.

        Raises:
            DataError: a value is impossible, or the rows contradict each other.
        """
        first = rows[0]
        case_id = cell_values.case_id(first["case"], self.where(first))
        images = [self._image(case_id, rows, column) for column in self.image_columns]
        found = tuple(path for path in images if path is not None)
        if len(found) < len(images):
            return None
        shared = {name: self._agreed(rows, name) for name in OF_CASE[2:]}
        own = [name for name in self.table.columns if name and name not in {*KNOWN, *self.image_columns}]
        attributes = {name: value for name in own if (value := self._first(rows, name))}
        case = Case(
            case_id=case_id,
            images=found,
            patient_id=shared["subject"],
            site=shared["site"],
            scanner=shared["scanner"],
            split=shared["split"],
            fold=cell_values.whole_number(shared["fold"], f"{self.where(first)}, fold"),
            attributes=attributes,
            counterfactual_of=shared["counterfactual_of"] or None,
        )
        return CaseDraft(case=case, annotations=tuple(self._annotations(case_id, rows)))

    def _annotations(self, case_id: str, rows: Sequence[CsvRow]) -> Iterator[AnnotationDraft]:
        seen: dict[Path, CsvRow] = {}
        for row in rows:
            kind = cell_values.label_kind(row["label_kind"], self.where(row))
            if not row["label"] and kind not in ("", "none"):
                said = f"label_kind is {kind} but the column label is empty; name the file, or write none"
                self._problem(case_id, "error", "E-CSV-06", f"{self.where(row)}: {said}")
            if not row["label"] or kind == "none":
                continue
            path = self._file(case_id, row, "label")
            if path in seen:
                self._repeated(case_id, seen[path], row)
            elif path is not None:
                seen[path] = row
                given = kind or self.settings.label_kind
                if given != "none":
                    yield AnnotationDraft(row=row, annotation=self._annotation(row, path, given), given=given)

    def _annotation(self, row: CsvRow, path: Path, kind: LabelKind | Literal[""]) -> Annotation:
        where = self.where(row)
        comma = self.table.separator != ","
        weight = cell_values.share(row["weight"], f"{where}, weight", decimal_comma=comma)
        return Annotation(
            path=path,
            kind=kind or "full",
            ignore=cell_values.whole_numbers(row["ignore"], f"{where}, ignore") or self.settings.ignore,
            rater=row["rater"],
            weight=1.0 if weight is None else weight,
            round=cell_values.whole_number(row["round"], f"{where}, round"),
            confidence=cell_values.share(row["confidence"], f"{where}, confidence", decimal_comma=comma),
        )

    def _image(self, case_id: str, rows: Sequence[CsvRow], column: str) -> Path | None:
        if not self._agreed(rows, column):
            said = f"case {case_id!r} has nothing in the column {column}; name its file"
            raise DataError(f"{self.where(rows[0])}: {said}", code="E-CSV-05")
        return self._file(case_id, next(row for row in rows if row[column]), column)

    def _file(self, case_id: str, row: CsvRow, column: str) -> Path | None:
        text = row[column]
        folder = self.table.path.parent
        for written in dict.fromkeys((text, text.replace("\\", "/"))):  # a table written on Windows
            if (folder / written).is_file():
                return folder / written
        matches = sorted(glob.glob(written, root_dir=folder)) if glob.has_magic(text) else []
        if len(matches) == 1:
            return folder / matches[0]
        why = f"{len(matches)} files match, wanted one" if matches else "there is no such file"
        lost = "the annotation is left out" if column == "label" else "the case is left out"
        self._problem(case_id, "error", "E-CSV-07", f"{self.where(row)}: {column} {text!r}: {why}; {lost}")
        return None

    def _repeated(self, case_id: str, first: CsvRow, row: CsvRow) -> None:
        if dict(first.values) != dict(row.values):
            raise DataError(
                f"{self.where(row)}: the label {row['label']!r} of case {case_id!r} stands in line {first.line} with "
                "other values; keep one of the two rows",
                code="E-CSV-08",
            )
        said = f"repeats line {first.line} and is read once"
        self._problem(case_id, "repaired", "E-CSV-08", f"{self.where(row)}: {said}")

    def _agreed(self, rows: Sequence[CsvRow], column: str) -> str:
        given = {row[column]: row for row in rows if row[column]}
        if len(given) > 1:
            (first, row), (second, other), *_ = given.items()
            raise DataError(
                f"{self.where(other)}: {column} of case {row['case']!r} is {second!r}, but {first!r} in line "
                f"{row.line}; rows of one case must agree",
                code="E-CSV-09",
            )
        return next(iter(given), "")

    def _first(self, rows: Sequence[CsvRow], column: str) -> str:
        given = list(dict.fromkeys(row[column] for row in rows if row[column]))
        if len(given) > 1:
            said = f"the attribute {column!r} is {' and '.join(map(repr, given))}; the first is used"
            where = f"{self.where(rows[0])}: case {rows[0]['case']!r}"
            self._problem(rows[0]["case"], "warning", "E-CSV-09", f"{where}: {said}")
        return next(iter(given), "")

    def _problem(self, case_id: str, severity: Severity, code: str, message: str) -> None:
        self.problems.append(Problem(case_id=case_id, severity=severity, code=code, message=message))
