"""Our own layout: `cases.csv`, one row per annotation of a case, and `dataset.toml` for the classes.

Rows with the same `case` merge. Only `case` and `image` are required; `image:T1`, `image:FLAIR` stand for
several channels; a column we do not know is an attribute of the case.
"""

from __future__ import annotations

import csv
import glob
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import tomli_w

from scantling.config import nearest
from scantling.data.case import Annotation, Case, ClassTable, LabelKind
from scantling.data.label_values import (
    LabelQuestion,
    LabelScan,
    find_classes,
    kind_notes,
    scan_labels,
    unreadable_labels,
)
from scantling.data.layouts import cell_values
from scantling.data.layouts.csv_table import CsvRow, CsvTable, read_table, spreadsheet_note
from scantling.data.layouts.dataset_toml import FILE_NAME as TOML_NAME
from scantling.data.layouts.dataset_toml import DatasetToml
from scantling.data.manifest import Manifest, Problem, Severity
from scantling.errors import ConfigError, DataError
from scantling.files import write_atomic

LOOKS_LIKE: Final = "a file cases.csv with the columns 'case' and 'image'"
FILE_NAME: Final = "cases.csv"
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
OF_CASE: Final = ("case", "image", "subject", "site", "scanner", "split", "fold", "counterfactual_of")
KNOWN: Final = (*OF_CASE, *OF_ANNOTATION)


def recognise(folder: Path) -> bool:
    """Whether the folder has a `cases.csv`."""
    return (folder / FILE_NAME).is_file()


def read(folder: Path) -> Manifest:
    """The cases of a folder with `cases.csv`, or of the table itself; paths are relative to its folder.

    A file that does not exist is a problem of its row; the other cases are read.

    Raises:
        DataError: a value is impossible, rows of one case contradict each other, `image` is empty.
        ConfigError: `dataset.toml` is wrong.
    """
    path = folder / FILE_NAME if folder.is_dir() else folder
    settings = DatasetToml.beside(path.parent)
    table = read_table(path, KNOWN)
    channels = _channels(table)
    read_ = _Reading(table=table, settings=settings, image_columns=channels)
    drafts = [draft for rows in _by_case(table).values() if (draft := read_.draft(rows)) is not None]
    classes, scans, notes = _classes(path.parent, settings, drafts)
    cases = tuple(_case(draft, classes, scans, path) for draft in drafts)
    problems = (
        *read_.problems,
        *unreadable_labels(
            scans.values(),
            {
                annotation.path: draft.case.case_id
                for draft in drafts
                for _, annotation, _ in draft.annotations
            },
        ),
    )
    named = settings.channels if channels == ("image",) and settings.channels else _channel_names(channels)
    return Manifest(
        root=path.parent, name=settings.name or path.parent.resolve().name, layout="cases_csv", classes=classes,
        cases=cases, channels=named, modality=settings.modality, problems=problems,
        notes=(*table.notes, *spreadsheet_note(path, [case.case_id for case in cases]), *notes),
    )  # fmt: skip


def write(manifest: Manifest, folder: Path, *, overwrite: bool = False) -> Path:
    """Write a manifest of any layout as `cases.csv` and `dataset.toml`; returns the path of the table.

    Paths are relative to `folder`. What was decided without being told (label kinds, patients, classes)
    stands in the files and can be edited there.

    Raises:
        ConfigError: a table is there already and `overwrite` is off.
    """
    table = folder / FILE_NAME
    if not overwrite:
        for path in (table, folder / TOML_NAME):
            if path.exists():
                raise ConfigError(
                    f"{path}: exists already; choose another folder, or overwrite it", code="E-CFG-04"
                )
    rows = [row for case in manifest.cases for row in _rows(case, manifest, folder)]
    used = {name for row in rows for name, value in row.items() if value}
    images = [name for name in rows[0] if name.startswith("image")] if rows else ["image"]
    attributes = sorted(used - set(KNOWN) - set(images))
    known = [name for name in KNOWN if name in used and name not in {"case", "image"}]
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, ["case", *images, *known, *attributes], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    values = zip(manifest.classes.names, manifest.classes.stored, strict=True)
    settings = {"name": manifest.name, "modality": manifest.modality}
    one_file = all(len(case.images) == 1 for case in manifest.cases) and len(manifest.channels) > 1
    content = settings | ({"channels": list(manifest.channels)} if one_file else {})
    classes = {name: list(stored) for name, stored in values}
    write_atomic(folder / TOML_NAME, tomli_w.dumps({**content, "classes": classes}).encode())
    write_atomic(table, stream.getvalue().encode())
    return table


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A case before the classes are known; annotations by line, `kind` "" where it must be looked up."""

    case: Case
    annotations: tuple[tuple[CsvRow, Annotation, str], ...]


@dataclass(kw_only=True)
class _Reading:
    """Reads the rows of each case and gathers what was wrong with them."""

    table: CsvTable
    settings: DatasetToml
    image_columns: tuple[str, ...]
    problems: list[Problem] = field(default_factory=list)

    def draft(self, rows: Sequence[CsvRow]) -> _Draft | None:
        first = rows[0]
        case_id = cell_values.case_id(first["case"], self._where(first))
        images = [self._image(case_id, rows, column) for column in self.image_columns]
        found = [path for path in images if path is not None]
        if len(found) < len(images):
            return None
        shared = {name: self._agreed(rows, name) for name in OF_CASE[2:]}
        attributes = {
            name: value
            for name in self.table.columns
            if name
            and name not in KNOWN
            and name not in self.image_columns
            and (value := self._first(rows, name))
        }
        case = Case(
            case_id=case_id, images=tuple(found), patient_id=shared["subject"], site=shared["site"],
            scanner=shared["scanner"], split=shared["split"], attributes=attributes,
            fold=cell_values.whole_number(shared["fold"], f"{self._where(first)}, fold"),
            counterfactual_of=shared["counterfactual_of"] or None,
        )  # fmt: skip
        return _Draft(case=case, annotations=tuple(self._annotations(case_id, rows)))

    def _annotations(self, case_id: str, rows: Sequence[CsvRow]) -> Iterable[tuple[CsvRow, Annotation, str]]:
        seen: dict[Path, CsvRow] = {}
        for row in rows:
            kind = cell_values.label_kind(row["label_kind"], self._where(row))
            if not row["label"]:
                if kind not in ("", "none"):
                    self._problem(case_id, "error", "E-CSV-06", f"{self._where(row)}: label_kind is {kind} but the "
                                  "column label is empty; give the file, or write none")  # fmt: skip
                continue
            if kind == "none":
                continue
            path = self._file(case_id, row, "label")
            if path is None:
                continue
            if path in seen:
                self._duplicate(case_id, seen[path], row)
                continue
            seen[path] = row
            given = kind or self.settings.label_kind
            yield row, self._annotation(row, path, given or "full"), given

    def _annotation(self, row: CsvRow, path: Path, kind: LabelKind) -> Annotation:
        where = self._where(row)
        comma = self.table.separator != ","
        ignore = cell_values.whole_numbers(row["ignore"], f"{where}, ignore") or self.settings.ignore
        weight = cell_values.share(row["weight"], f"{where}, weight", decimal_comma=comma)
        return Annotation(
            path=path, kind=kind, ignore=ignore, rater=row["rater"],
            weight=1.0 if weight is None else weight,
            round=cell_values.whole_number(row["round"], f"{where}, round"),
            confidence=cell_values.share(row["confidence"], f"{where}, confidence", decimal_comma=comma),
        )  # fmt: skip

    def _image(self, case_id: str, rows: Sequence[CsvRow], column: str) -> Path | None:
        if not self._agreed(rows, column):
            raise DataError(
                f"{self._where(rows[0])}: case {case_id!r} has nothing in the column {column}; every case "
                "needs it",
                code="E-CSV-05",
            )
        return self._file(case_id, next(row for row in rows if row[column]), column)

    def _file(self, case_id: str, row: CsvRow, column: str) -> Path | None:
        path = self.table.path.parent / row[column]
        if path.is_file():
            return path
        matches = sorted(glob.glob(str(path))) if glob.has_magic(row[column]) else []
        if len(matches) == 1:
            return Path(matches[0])
        why = f"{len(matches)} files match, wanted one" if matches else "there is no such file"
        lost = "the case is left out" if column != "label" else "the annotation is left out"
        self._problem(
            case_id, "error", "E-CSV-07", f"{self._where(row)}: {column} {row[column]!r}: {why}; {lost}"
        )
        return None

    def _duplicate(self, case_id: str, first: CsvRow, row: CsvRow) -> None:
        if dict(first.values) != dict(row.values):
            raise DataError(f"{self._where(row)}: the label {row['label']!r} of {case_id!r} stands in line {first.line} "
                            "with other values; keep one of the rows", code="E-CSV-08")  # fmt: skip
        self._problem(
            case_id, "repaired", "E-CSV-08", f"{self._where(row)}: repeats line {first.line}; read once"
        )

    def _agreed(self, rows: Sequence[CsvRow], column: str) -> str:
        given = {row[column]: row for row in rows if row[column]}
        if len(given) > 1:
            (first, row), (second, other), *_ = given.items()
            raise DataError(f"{self._where(other)}: {column} of case {row['case']!r} is {second!r} here and {first!r} "
                            f"in line {row.line}; rows of one case must agree", code="E-CSV-09")  # fmt: skip
        return next(iter(given), "")

    def _first(self, rows: Sequence[CsvRow], column: str) -> str:
        given = dict.fromkeys(row[column] for row in rows if row[column])
        if len(given) > 1:
            values = ", ".join(map(repr, given))
            self._problem(rows[0]["case"], "warning", "E-CSV-09", f"{self._where(rows[0])}: attribute {column!r} of case "
                          f"{rows[0]['case']!r} is {values}; the first is used")  # fmt: skip
        return next(iter(given), "")

    def _where(self, row: CsvRow) -> str:
        return f"{self.table.path.name} line {row.line}"

    def _problem(self, case_id: str, severity: Severity, code: str, message: str) -> None:
        self.problems.append(Problem(case_id=case_id, severity=severity, code=code, message=message))


def _channels(table: CsvTable) -> tuple[str, ...]:
    several = tuple(name for name in table.columns if name.startswith("image:"))
    if several and "image" in table.columns:
        raise DataError(f"{table.path}: has both 'image' and {several[0]!r}; name every channel as image:NAME",
                        code="E-CSV-04")  # fmt: skip
    for name in ("case", *(several or ("image",))):
        if name not in table.columns:
            hint = nearest(name, table.columns)
            raise DataError(f"{table.path}: has no column {name!r}{hint}", code="E-CSV-04")
    return several or ("image",)


def _channel_names(columns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.removeprefix("image:") for name in columns)


def _by_case(table: CsvTable) -> Mapping[str, list[CsvRow]]:
    cases: dict[str, list[CsvRow]] = {}
    for row in table.rows:
        cases.setdefault(row["case"], []).append(row)
    return cases


def _classes(
    root: Path, settings: DatasetToml, drafts: Sequence[_Draft]
) -> tuple[ClassTable, Mapping[Path, LabelScan], tuple[str, ...]]:
    """The class table, what was read of label files for it, and the sentences about what was decided."""
    named = settings.class_table(root / TOML_NAME)
    kinds = {
        LabelQuestion(path=annotation.path, ignore=annotation.ignore, classes=named): kind
        for draft in drafts
        for _, annotation, kind in draft.annotations
        if not kind or named is None
    }
    scans = scan_labels(list(kinds))
    unsaid = [scan for scan, kind in zip(scans, kinds.values(), strict=True) if not kind]
    classes, notes = (named, ()) if named is not None else find_classes(scans)
    return (
        classes,
        {scan.path: scan for scan in scans},
        (*notes, *kind_notes(unsaid, "the column label_kind")),
    )


def _case(draft: _Draft, classes: ClassTable, scans: Mapping[Path, LabelScan], table: Path) -> Case:
    annotations = []
    for row, annotation, kind in draft.annotations:
        looked_for = cell_values.class_names(
            row["annotated"], classes, f"{table.name} line {row.line}, annotated"
        )
        annotation = replace(annotation, annotated=looked_for)
        scan = scans.get(annotation.path)
        if scan is not None and scan.problem:
            continue
        if scan is not None:
            annotation = replace(annotation, ignore=annotation.ignore or scan.ignore)
        annotations.append(annotation if kind or scan is None else replace(annotation, kind=scan.kind))
    return replace(draft.case, annotations=tuple(annotations))


def _rows(case: Case, manifest: Manifest, folder: Path) -> Iterable[dict[str, str]]:
    channels = manifest.channels if len(case.images) > 1 else ()
    columns = [f"image:{name}" for name in channels] or ["image"]
    images = dict(zip(columns, (_relative(path, folder) for path in case.images), strict=True))
    shared = {
        "case": case.case_id, **images, "subject": case.patient_id, "site": case.site, "scanner": case.scanner,
        "split": case.split, "fold": "" if case.fold is None else str(case.fold),
        "counterfactual_of": case.counterfactual_of or "", **case.attributes,
    }  # fmt: skip
    if not case.annotations:
        yield {**shared, "label_kind": "none"}
    for annotation in case.annotations:
        yield {
            **shared,
            "label": _relative(annotation.path, folder),
            "label_kind": annotation.kind,
            "annotated": "*" if annotation.annotated is None else ";".join(annotation.annotated),
            "ignore": ";".join(map(str, annotation.ignore)),
            "rater": annotation.rater,
            "weight": "" if annotation.weight == 1 else repr(annotation.weight),
            "round": "" if annotation.round is None else str(annotation.round),
            "confidence": "" if annotation.confidence is None else repr(annotation.confidence),
        }


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
