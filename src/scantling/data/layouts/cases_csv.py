"""Our own layout: `cases.csv`, one row per annotation of a case, and `dataset.toml` for the classes.

Rows with the same `case` merge. Only `case` and `image` are required; `image:T1`, `image:FLAIR` stand for
several channels; a column we do not know is an attribute of the case.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import tomli_w

from scantling.config import nearest
from scantling.data.alternatives import with_source_patient
from scantling.data.case import Case, ClassTable
from scantling.data.label_values import (
    LabelQuestion,
    LabelScan,
    find_classes,
    kind_notes,
    scan_labels,
    unreadable_labels,
)
from scantling.data.layouts import cell_values
from scantling.data.layouts.case_rows import KNOWN, OF_GENERATED, CaseDraft, RowReader
from scantling.data.layouts.csv_table import CsvRow, CsvTable, read_table, spreadsheet_note
from scantling.data.layouts.dataset_toml import FILE_NAME as TOML_NAME
from scantling.data.layouts.dataset_toml import DatasetToml
from scantling.data.layouts.subjects import subjects
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError, DataError
from scantling.files import write_atomic

LOOKS_LIKE: Final = "a file cases.csv with the columns 'case' and 'image'"
FILE_NAME: Final = "cases.csv"


def recognise(folder: Path) -> bool:
    """Whether the folder has a `cases.csv`."""
    return (folder / FILE_NAME).is_file()


def read(folder: Path) -> Manifest:
    """The cases of a folder with `cases.csv`, or of the table itself; paths are relative to its folder.

    A file that does not exist is a problem of its row; the other cases are read. Where no row names a subject,
    names are asked, as in the other layouts. A row with `counterfactual_of` has the patient of the case it names.

    Raises:
        DataError: a value is impossible, rows of one case contradict each other, `image` is empty.
        ConfigError: `dataset.toml` is wrong.
    """
    path = folder / FILE_NAME if folder.is_dir() else folder
    settings = DatasetToml.beside(path.parent)
    table = read_table(path, KNOWN, expected=OF_GENERATED)
    columns = _image_columns(table)
    reader = RowReader(table=table, settings=settings, image_columns=columns)
    drafts = [draft for rows in _by_case(table) if (draft := reader.draft(rows)) is not None]
    classes, scans, notes = _classes(path.parent, settings, drafts)
    cases = tuple(_case(draft, classes, scans, reader) for draft in drafts)
    patients: tuple[str, ...] = ()
    if not any(row["subject"] for row in table.rows):
        real = [case.case_id for case in cases if case.counterfactual_of is None]
        patient, patients = subjects(real, settings.subject_pattern)
        cases = tuple(replace(case, patient_id=patient.get(case.case_id, case.patient_id)) for case in cases)
    cases = with_source_patient(cases)
    case_of = {item.annotation.path: draft.case.case_id for draft in drafts for item in draft.annotations}
    one_file = columns == ("image",)
    return Manifest(
        root=path.parent,
        name=settings.name or path.parent.resolve().name,
        layout="cases_csv",
        classes=classes,
        cases=cases,
        channels=(settings.channels if one_file else ()) or tuple(name.removeprefix("image:") for name in columns),
        modality=settings.modality,
        problems=(*reader.problems, *unreadable_labels(scans.values(), case_of)),
        notes=(*table.notes, *spreadsheet_note(path, [case.case_id for case in cases]), *patients, *notes),
    )


def write(manifest: Manifest, folder: Path, *, overwrite: bool = False) -> Path:
    """Write a manifest of any layout as `cases.csv` and `dataset.toml`; returns the path of the table.

    Paths are relative to `folder`. What was decided without being told (label kinds, patients, classes)
    stands in the files and can be edited there.

    Raises:
        ConfigError: one of the files is there already and `overwrite` is off.
    """
    for path in (folder / FILE_NAME, folder / TOML_NAME):
        if path.exists() and not overwrite:
            raise ConfigError(f"{path}: exists already; choose another folder, or overwrite it", code="E-CFG-04")
    rows = [row for case in manifest.cases for row in _rows(case, manifest.channels, folder)]
    used = list(dict.fromkeys(name for row in rows for name, value in row.items() if value))
    images = [name for name in used if name.partition(":")[0] == "image"] or ["image"]
    known = [name for name in KNOWN if name in used and name not in {"case", "image"}]
    attributes = [name for name in used if name not in {*KNOWN, *images}]
    stream = io.StringIO()
    columns = ["case", *images, *known, *attributes]
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / TOML_NAME, tomli_w.dumps(_settings(manifest, images)).encode())
    write_atomic(folder / FILE_NAME, stream.getvalue().encode())
    return folder / FILE_NAME


def _image_columns(table: CsvTable) -> tuple[str, ...]:
    several = tuple(name for name in table.columns if name.startswith("image:"))
    if several and "image" in table.columns:
        said = f"has both 'image' and {several[0]!r}; name every channel as image:NAME"
        raise DataError(f"{table.path}: {said}", code="E-CSV-04")
    columns = several or ("image",)
    for name in ("case", *columns):
        if name not in table.columns:
            hint = nearest(name, table.columns)
            raise DataError(f"{table.path}: there is no column {name!r}{hint}", code="E-CSV-04")
    return columns


def _by_case(table: CsvTable) -> list[list[CsvRow]]:
    cases: dict[str, list[CsvRow]] = {}
    for row in table.rows:
        cases.setdefault(row["case"], []).append(row)
    return list(cases.values())


def _classes(
    root: Path, settings: DatasetToml, drafts: Sequence[CaseDraft]
) -> tuple[ClassTable, Mapping[Path, LabelScan], tuple[str, ...]]:
    """The class table, what was read of label files for it, and the sentences about what was decided."""
    named = settings.class_table(root / TOML_NAME)
    wanted = [
        item for draft in drafts for item in draft.annotations if not item.given or named is None
    ]  # with a class table, a label whose kind is given need not be opened
    scans = scan_labels(
        [LabelQuestion(path=item.annotation.path, ignore=item.annotation.ignore, classes=named) for item in wanted]
    )
    unsaid = [scan for scan, item in zip(scans, wanted, strict=True) if not item.given]
    classes, notes = (named, ()) if named is not None else find_classes(scans)
    by_path = {scan.path: scan for scan in scans}
    return classes, by_path, (*notes, *kind_notes(unsaid, "the column label_kind"))


def _case(draft: CaseDraft, classes: ClassTable, scans: Mapping[Path, LabelScan], reader: RowReader) -> Case:
    annotations = []
    for item in draft.annotations:
        where = f"{reader.where(item.row)}, annotated"
        looked_for = cell_values.class_names(item.row["annotated"], classes, where)
        annotation = replace(item.annotation, annotated=looked_for)
        scan = scans.get(annotation.path)
        if scan is not None:
            kind = item.given or scan.kind
            annotation = replace(annotation, kind=kind, ignore=annotation.ignore or scan.ignore)
        if scan is None or not scan.problem:
            annotations.append(annotation)
    return replace(draft.case, annotations=tuple(annotations))


def _rows(case: Case, channels: tuple[str, ...], folder: Path) -> Iterator[dict[str, str]]:
    columns = [f"image:{name}" for name in channels] if len(case.images) > 1 else ["image"]
    shared = {
        "case": case.case_id,
        **dict(zip(columns, (_relative(path, folder) for path in case.images), strict=True)),
        "subject": case.patient_id,
        "site": case.site,
        "scanner": case.scanner,
        "split": case.split,
        "fold": "" if case.fold is None else str(case.fold),
        "counterfactual_of": case.counterfactual_of or "",
        **case.attributes,
    }
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


def _settings(manifest: Manifest, images: Sequence[str]) -> dict[str, object]:
    """The content of `dataset.toml`; channels only where one file holds several."""
    several = len(images) == 1 and len(manifest.channels) > 1
    classes = zip(manifest.classes.names, manifest.classes.stored, strict=True)
    return {
        "name": manifest.name,
        "modality": manifest.modality,
        **({"channels": list(manifest.channels)} if several else {}),
        "classes": {name: list(stored) for name, stored in classes},
    }


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()
