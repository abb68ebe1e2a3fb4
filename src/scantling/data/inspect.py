"""A data set looked at before anything is trained on it: what is there, and what is wrong with it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

from scantling.data.alternatives import (
    ALTERNATIVE_CODES,
    alternative_problems,
    alternatives_counted,
    copies_of_several_anatomies,
)
from scantling.data.case import LABEL_KINDS, Case, ClassTable
from scantling.data.examination import CaseFinding, examine
from scantling.data.leakage import as_one_patient, duplicate_groups, duplicate_problems, leakage_problems
from scantling.data.lock import check_lock, write_lock
from scantling.data.manifest import Manifest, Problem, Severity

__all__ = ["Inspection", "check_lock", "inspect_dataset", "label_table", "write_lock"]

_MISFIT = "E-DAT-02"
"""Axes or channels other than those of most cases: such a case cannot be trained with the others."""
_MOST_NAMED = 6
_FORMATS = {"nifti": "NIfTI", "png": "PNG", "jpeg": "JPEG", "tiff": "TIFF"}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a data set.

    Attributes:
        manifest: as it was read; `usable` is what is left of it after the errors.
        findings: one a case, in the order of the manifest.
        problems: of the manifest, of every case, and of the whole.
        duplicates: groups of cases with the same voxels; a generated image is no copy of its own real case.
        voxels_read: whether files were read whole, and not their headers only.
        seconds: how long it took.
        pictures, copies: files that were written afterwards: of label maps that do not fit their image.
    """

    manifest: Manifest
    findings: tuple[CaseFinding, ...]
    problems: tuple[Problem, ...]
    duplicates: tuple[tuple[str, ...], ...]
    voxels_read: bool
    seconds: float
    pictures: tuple[Path, ...] = ()
    copies: tuple[Path, ...] = ()

    @cached_property
    def usable(self) -> Manifest:
        """The manifest without what cannot be used; copies of one image count as one patient."""
        kept = []
        misfits = {problem.case_id for problem in self.problems if problem.code in {_MISFIT, *ALTERNATIVE_CODES}}
        for case, finding in zip(self.manifest.cases, self.findings, strict=True):
            if finding.usable and case.case_id not in misfits:
                good = tuple(f.annotation for f in finding.labels if f.verdict in ("same", "snap"))
                kept.append(replace(case, annotations=good))
        left = {case.case_id for case in kept}
        groups = (tuple(case for case in group if case in left) for group in self.duplicates)
        manifest = replace(self.manifest, cases=tuple(kept), problems=self.problems)
        return as_one_patient(manifest, [group for group in groups if len(group) > 1])

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that cost a case, an annotation, or the trust in a score."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    def text(self) -> str:
        """The summary as one text."""
        return "\n".join(self.summary_lines())

    def summary_lines(self) -> list[str]:
        """What a person wants to know first, one line each."""
        manifest = replace(self.manifest, cases=self.manifest.real)
        lines = [
            f"Found {_number(len(manifest.cases), 'case')} of {_number(_patients(manifest), 'patient')} "
            f"({_format(self)}; layout {manifest.layout})",
            f"Labels: {_label_kinds(manifest)}   classes: {', '.join(manifest.classes.foreground) or 'none'}",
            f"Stored values: {_label_table_text(manifest.classes)}, anything else -> unknown",
            *_looked_for(manifest),
            *_counterfactuals(self.manifest),
        ]
        sites = Counter(case.site for case in manifest.cases if case.site)
        raters = Counter(a.rater for case in manifest.cases for a in case.annotations if a.rater)
        for what, counted in (("Sites", sites), ("Raters", raters)):
            if counted:
                lines.append(f"{what}: {', '.join(f'{name} {n}' for name, n in counted.most_common(8))}")
        if not self.voxels_read:
            lines.append("Headers only: damage beyond them, stored values and copies were not looked for")
        lines.extend(_problem_lines(self.problems))
        if self.pictures:
            lines.append(f"Pictures of label maps that do not fit: {_listed_files(self.pictures)}")
        if self.copies:
            lines.append(f"Corrected copies, to be put in the place of the originals: {_listed_files(self.copies)}")
        lines.extend(f"Note: {note}" for note in (*manifest.notes, *_several_of_a_kind(manifest)))
        lines.extend(_reader_notes(self.findings))
        return lines

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; paths are relative to the data set. Generated images are only counted."""
        return {
            "name": self.manifest.name,
            "layout": self.manifest.layout,
            "modality": self.manifest.modality,
            "channels": list(self.manifest.channels),
            "patients": _patients(replace(self.manifest, cases=self.manifest.real)),
            "counterfactuals": dict(alternatives_counted(self.manifest.cases)),
            "classes": dict(zip(self.manifest.classes.names, map(list, self.manifest.classes.stored), strict=True)),
            "voxels_read": self.voxels_read,
            "seconds": round(self.seconds, 3),
            "cases": [
                _case_json(case, finding, self.manifest.root)
                for case, finding in zip(self.manifest.cases, self.findings, strict=True)
                if case.counterfactual_of is None
            ],
            "duplicates": [list(group) for group in self.duplicates],
            "problems": [vars(problem) for problem in self.problems],
            "pictures": [path.as_posix() for path in self.pictures],
            "copies": [path.as_posix() for path in self.copies],
            "notes": list(self.manifest.notes),
        }


def inspect_dataset(manifest: Manifest, *, read_voxels: bool = True, workers: int | None = None) -> Inspection:
    """Look at every file of a data set, and at the set as a whole.

    Args:
        read_voxels: False reads headers only (10,000 files in a minute), and sees neither damage beyond the
            header, nor label values, nor copies.
        workers: threads; each holds one case in memory.
    """
    start = perf_counter()
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        looked = pool.map(lambda case: examine(case, manifest.classes, read_voxels=read_voxels), manifest.cases)
        findings = tuple(looked)
    copies = duplicate_groups({finding.case_id: finding.voxel_hash for finding in findings})
    duplicates = copies_of_several_anatomies(manifest.cases, copies)
    found = [problem for finding in findings for problem in finding.problems]
    of_set = tuple(_set_problems(manifest, findings))
    misfits = {problem.case_id for problem in of_set if problem.code == _MISFIT}
    whole = [
        *leakage_problems(manifest),
        *duplicate_problems(manifest, duplicates),
        *of_set,
        *alternative_problems(manifest, findings, misfits),
    ]
    return Inspection(
        manifest=manifest, findings=findings, duplicates=duplicates, voxels_read=read_voxels,
        problems=tuple(dict.fromkeys([*manifest.problems, *found, *whole])), seconds=perf_counter() - start,
    )  # fmt: skip


def label_table(classes: ClassTable) -> tuple[tuple[int, str], ...]:
    """Stored value and its class, ordered by value: what training reads and an export writes back."""
    pairs = [(value, name) for name, values in zip(classes.names, classes.stored, strict=True) for value in values]
    return tuple(sorted(pairs))


def _set_problems(manifest: Manifest, findings: Sequence[CaseFinding]) -> Iterator[Problem]:
    usable = [
        finding
        for case, finding in zip(manifest.cases, findings, strict=True)
        if finding.usable and finding.geometry is not None and case.counterfactual_of is None
    ]
    if not usable:
        message = f"data set {manifest.name}: no case can be used"
        yield Problem(case_id="", severity="error", code="E-DAT-01", message=message)
        return
    axes = {finding.case_id: len(finding.geometry.shape) for finding in usable if finding.geometry is not None}
    yield from _minority(axes, "axis", "pictures and volumes cannot be trained together, so keep one kind")
    channels = {finding.case_id: finding.channels for finding in usable if finding.channels}
    yield from _minority(channels, "channel", "every case needs the same, so convert the others")
    labels = [label for finding in usable for label in finding.labels if label.class_voxels]
    for name in manifest.classes.foreground if labels else ():
        if not any(label.class_voxels[name] for label in labels):
            message = f"class {name}: no label file holds one voxel of it; check its stored value in [classes]"
            yield Problem(case_id="", severity="warning", code="E-LBL-05", message=message)


def _minority(counts: dict[str, int], what: str, fix: str) -> Iterator[Problem]:
    """An error for each case with another count than most cases; of equally many the first count is the usual."""
    tally = Counter(counts.values())
    if len(tally) < 2:
        return
    usual = tally.most_common(1)[0][0]
    others = "1 case has" if tally[usual] == 1 else f"{tally[usual]} cases have"
    for case, count in counts.items():
        if count != usual:
            message = f"case {case}: {_number(count, what)}, but {others} {usual}; {fix}"
            yield Problem(case_id=case, severity="error", code=_MISFIT, message=message)


def _format(inspection: Inspection) -> str:
    seen = [finding for finding in inspection.findings if finding.geometry is not None]
    if not seen:
        return "nothing readable"
    types = sorted({_FORMATS[f.geometry.file_type] for f in seen if f.geometry is not None})
    axes = sorted({f"{len(f.geometry.shape)}D" for f in seen if f.geometry is not None})
    channels = sorted({f.channels for f in seen if f.channels}) or [len(inspection.manifest.channels)]
    kind = " and ".join(axes) + (f" {inspection.manifest.modality}" if inspection.manifest.modality else "")
    return f"{' and '.join(types)}, {kind}, {_number(channels[-1], 'channel')}"


def _label_table_text(classes: ClassTable) -> str:
    return ", ".join(f"{value} -> {name}" for value, name in label_table(classes))


def _label_kinds(manifest: Manifest) -> str:
    counts = {kind: len(manifest.labelled((kind,))) for kind in LABEL_KINDS}
    counts["none"] = sum(not case.annotations for case in manifest.cases)
    return ", ".join(f"{n} {kind}" for kind, n in counts.items() if n or kind in ("full", "none"))


def _looked_for(manifest: Manifest) -> Iterator[str]:
    """In how many label files each class was looked for, where it is not all of them."""
    annotations = [annotation for case in manifest.cases for annotation in case.annotations]
    names = manifest.classes.foreground
    counts = {name: sum(a.annotated is None or name in a.annotated for a in annotations) for name in names}
    if any(n < len(annotations) for n in counts.values()):
        listed = ", ".join(f"{name} {n}" for name, n in counts.items())
        yield f"Looked for: {listed}, in {_number(len(annotations), 'label file')}"


def _counterfactuals(manifest: Manifest) -> Iterator[str]:
    """How many images were generated from the cases, where there are any."""
    counts = alternatives_counted(manifest.cases)
    if counts["images"]:
        unsound = f", {counts['unsound']} of them unsound and never used" if counts["unsound"] else ""
        yield f"Counterfactuals: {_number(counts['images'], 'image')} of {_number(counts['cases'], 'case')}{unsound}"


def _several_of_a_kind(manifest: Manifest) -> Iterator[str]:
    """A sentence for each label kind of which a case has several label maps, because only the first is used."""
    for kind in LABEL_KINDS:
        doubled = [case for case in manifest.cases if sum(a.kind == kind for a in case.annotations) > 1]
        if doubled:
            first = next(a for a in doubled[0].annotations if a.kind == kind)
            whose = f" ({first.rater}'s)" if first.rater else ""
            has = "1 case has" if len(doubled) == 1 else f"{len(doubled)} cases have"
            yield (
                f"{has} several label maps of kind {kind}, of which the first is used, as {first.path.name}{whose} in "
                f"case {doubled[0].case_id}; reorder the rows of the table for another"
            )


def _patients(manifest: Manifest) -> int:
    return len({case.patient_id for case in manifest.cases})


def _number(n: int, noun: str) -> str:
    plural = {"axis": "axes"}.get(noun, f"{noun}s")
    return f"{n} {noun if n == 1 else plural}"


def _problem_lines(problems: Sequence[Problem]) -> Iterator[str]:
    if not problems:
        yield "Problems: none"
        return
    counts = Counter(problem.severity for problem in problems)
    order: tuple[Severity, ...] = ("error", "warning", "repaired")
    plural = {"error": "errors", "warning": "warnings", "repaired": "repaired"}
    yield "Problems: " + ", ".join(f"{counts[s]} {plural[s] if counts[s] != 1 else s}" for s in order if counts[s])
    by_code: dict[tuple[str, str], list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: order.index(problem.severity)):
        by_code.setdefault((problem.severity, problem.code), []).append(problem)
    for (severity, code), group in by_code.items():
        yield f"  {severity} {group[0].message} [{code}]{_more([problem.case_id for problem in group])}"


def _listed_files(paths: Sequence[Path]) -> str:
    return str(paths[0]) + (f" (and {len(paths) - 1} more there)" if len(paths) > 1 else "")


def _reader_notes(findings: Sequence[CaseFinding]) -> Iterator[str]:
    """What the readers decided for themselves; notes that differ in numbers only are one line."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for finding in findings:
        for note in finding.notes:
            alike.setdefault(re.sub(r"[\d.]+", "#", note), []).append((finding.case_id, note))
    for notes in alike.values():
        (case_id, note), *_ = notes
        yield f"Note: case {case_id}: {note}{_more([case_id for case_id, _ in notes])}"


def _more(case_ids: Sequence[str]) -> str:
    """How many more cases are alike, and the first of them."""
    others = list(dict.fromkeys(case_id for case_id in case_ids[1:] if case_id))
    named = f": {', '.join(others[:_MOST_NAMED])}{', ...' if len(others) > _MOST_NAMED else ''}" if others else ""
    return f" (and {len(case_ids) - 1} more like it{named})" if len(case_ids) > 1 else ""


def _case_json(case: Case, finding: CaseFinding, root: Path) -> dict[str, Any]:
    geometry = finding.geometry
    return {
        "case": case.case_id,
        "patient": case.patient_id,
        "site": case.site,
        "usable": finding.usable,
        "images": [_relative(path, root) for path in case.images],
        "file_type": geometry.file_type if geometry else "",
        "shape": list(geometry.shape) if geometry else [],
        "spacing_mm": [float(mm) for mm in geometry.spacing_mm] if geometry else [],
        "spacing_known": bool(geometry and geometry.spacing_known),
        "channels": finding.channels,
        "voxel_sha256": finding.voxel_hash,
        "notes": list(finding.notes),
        "labels": [
            {
                "file": _relative(label.annotation.path, root),
                "kind": label.annotation.kind,
                "rater": label.annotation.rater,
                "grid": label.verdict,
                "values": {str(value): n for value, n in label.counts.items()},
                "voxels": dict(label.class_voxels),
                "coverage": None if label.coverage != label.coverage else label.coverage,
            }
            for label in finding.labels
        ],
    }


def _relative(path: Path, root: Path) -> str:
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()
