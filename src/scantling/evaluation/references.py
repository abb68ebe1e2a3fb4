"""What is scored against what: the reference of each case, and the prediction file that belongs to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scantling.config import nearest
from scantling.data.case import Annotation, Case, ClassTable, LabelKind
from scantling.data.layouts.dataset_toml import FILE_NAME, DatasetToml
from scantling.data.layouts.found_labels import read_found_labels
from scantling.data.layouts.image_files import image_files
from scantling.data.manifest import Manifest, Problem
from scantling.errors import ConfigError, DataError

_LABEL_SUFFIX = re.compile(r"[_-](?:seg|segmentation|mask|labels?|gt|pred|prediction)$", re.IGNORECASE)
_MOST_GROUPS = 8
"""An attribute with more values than this is a measurement or a name, and makes no subgroups by itself."""


@dataclass(frozen=True, kw_only=True)
class ReferenceCase:
    """A case's reference label file.

    Attributes:
        attributes: column -> value, for subgroups.
    """

    case_id: str
    patient_id: str
    annotation: Annotation
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class References:
    """All cases that are to be scored, and the classes their files hold.

    Attributes:
        unreadable: cases whose reference cannot be read; `problems` says why.
    """

    classes: ClassTable
    cases: tuple[ReferenceCase, ...]
    unreadable: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def find_references(
    reference: Manifest | Path, *, cases: Iterable[str] | None, label_kinds: Sequence[LabelKind]
) -> References:
    """The references of a data set, or of a plain folder in which each label file is a case.

    Args:
        cases: ids of the cases to score; None takes all that have a reference.
        label_kinds: which annotations count as reference in a data set, best first.

    Raises:
        DataError: no reference, or none for a named case.
    """
    found = _from_folder(reference) if isinstance(reference, Path) else _from_manifest(reference, label_kinds)
    if cases is None:
        if not found.cases:
            raise DataError(_nothing(reference, label_kinds), code="E-EVL-03")
        return found
    wanted = list(dict.fromkeys(cases))
    by_id = {case.case_id: case for case in found.cases}
    absent = [case_id for case_id in wanted if case_id not in by_id and case_id not in found.unreadable]
    if absent:
        raise DataError(
            f"case {absent[0]}: has no reference{nearest(absent[0], by_id)} ({len(absent)} of {len(wanted)} "
            f"cases have none); name only cases with a reference",
            code="E-EVL-03",
        )
    return References(
        classes=found.classes,
        cases=tuple(by_id[case_id] for case_id in wanted if case_id in by_id),
        unreadable=tuple(case_id for case_id in wanted if case_id in found.unreadable),
        problems=tuple(problem for problem in found.problems if problem.case_id in wanted),
        notes=found.notes,
    )


def find_predictions(folder: Path, case_ids: Sequence[str]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Case -> prediction file by equal stems, with or without `_seg`, `_pred`, ...; and what was left over.

    Raises:
        DataError: no such folder, none of its files belongs to a case, or two belong to one.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; wanted the folder of the predicted label maps", code="E-EVL-04")
    files = image_files(folder)
    bare: dict[str, list[Path]] = {}
    for stem, path in files.items():
        bare.setdefault(_LABEL_SUFFIX.sub("", stem), []).append(path)
    found: dict[str, Path] = {}
    for case_id in case_ids:
        candidates = [files[case_id]] if case_id in files else bare.get(_LABEL_SUFFIX.sub("", case_id), [])
        if len(candidates) > 1:
            raise DataError(
                f"{folder}: {' and '.join(path.name for path in candidates)} could both be the prediction of "
                f"case {case_id}; keep one of them",
                code="E-EVL-05",
            )
        if candidates:
            found[case_id] = candidates[0]
    if not found and case_ids:
        there = (
            f"it holds {len(files)} images, such as {next(iter(files.values())).name}" if files else "it holds no image"
        )
        raise DataError(
            f"{folder}: no prediction for any of the {len(case_ids)} cases ({there}); a prediction is named "
            f"after its case, as {case_ids[0]}.nii.gz",
            code="E-EVL-04",
        )
    extra = sorted(path.name for path in set(files.values()) - set(found.values()))
    if not extra:
        return found, ()
    return found, (f"{len(extra)} files in {folder} belong to no scored case, such as {extra[0]}",)


def group_columns(cases: Sequence[ReferenceCase], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The attributes to report subgroups for; None takes those with 2 to 8 different values.

    Raises:
        ConfigError: a wanted attribute no case has.
    """
    columns = dict.fromkeys(name for case in cases for name in case.attributes)
    if wanted is None:
        return tuple(c for c in columns if 2 <= len({v for x in cases if (v := x.attributes.get(c))}) <= _MOST_GROUPS)
    for name in wanted:
        if name not in columns:
            raise ConfigError(f"subgroup {name!r}: no case has this attribute{nearest(name, columns)}", code="E-EVL-06")
    return tuple(wanted)


def _from_manifest(manifest: Manifest, label_kinds: Sequence[LabelKind]) -> References:
    found = []
    for case in manifest.real:
        annotation = case.annotation(label_kinds)
        if annotation is not None:
            found.append(
                ReferenceCase(
                    case_id=case.case_id, patient_id=case.patient_id, annotation=annotation,
                    attributes=_attributes(case),
                )
            )  # fmt: skip
    return References(classes=manifest.classes, cases=tuple(found))


def _from_folder(folder: Path) -> References:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; wanted reference label maps, or a data set", code="E-EVL-04")
    files = image_files(folder)
    described = folder if (folder / FILE_NAME).is_file() else folder.parent  # DATA/labels, DATA/dataset.toml
    found = read_found_labels(files, described, DatasetToml.beside(described))
    return References(
        classes=found.classes,
        cases=tuple(
            ReferenceCase(case_id=case_id, patient_id=case_id, annotation=annotation)
            for case_id, annotation in found.annotations.items()
        ),
        unreadable=tuple(case_id for case_id in files if case_id not in found.annotations),
        problems=found.problems,
        notes=found.notes,
    )


def _attributes(case: Case) -> dict[str, str]:
    named = {"site": case.site, "scanner": case.scanner}
    return {name: value for name, value in {**named, **case.attributes}.items() if value}


def _nothing(reference: Manifest | Path, label_kinds: Sequence[LabelKind]) -> str:
    if isinstance(reference, Path):
        return f"{reference}: holds no readable label map; wanted one file a case, named as its prediction"
    kinds = sorted({annotation.kind for case in reference.cases for annotation in case.annotations})
    return (
        f"{reference.root}: no case has a reference of kind {' or '.join(label_kinds)}; its annotations are "
        f"{', '.join(kinds) or 'none'}, so name the kinds that may serve as reference (label_kinds)"
    )
