"""What label files hold: values, classes where no table names them, and whether a label is full or sparse."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import scipy
from jaxtyping import Bool, Integer

from scantling.data.case import ClassTable, LabelKind
from scantling.data.image_io import read_label
from scantling.data.manifest import Problem
from scantling.errors import DataError, ResourceError

MOST_VALUES: Final = 128
"""A label file with more values than this is an image or a soft mask (TotalSegmentator has 118)."""

SCRIBBLE_COVERAGE: Final = 0.5
"""Above this share of labelled pixels a label with unknown parts is a full one with holes."""

SCRIBBLE_THICKNESS_PX: Final = 6
"""Hand-drawn lines are thinner than this in the slice plane."""


@dataclass(frozen=True, kw_only=True)
class LabelQuestion:
    """A label file, and what is known of its values.

    Attributes:
        ignore: values known to mean "unknown".
        classes: every value outside this table is unknown, too.
        guess: where neither is given, look for a value that means "unknown": the highest one, if it covers
            more than half of the pixels and leaves only thin lines, or whole slices, of two values or more.
    """

    path: Path
    ignore: tuple[int, ...] = ()
    classes: ClassTable | None = None

    @property
    def guess(self) -> bool:
        return self.classes is None and not self.ignore

    def is_unknown(self, value: int) -> bool:
        """Whether a stored value means that nobody looked."""
        if value in self.ignore:
            return True
        return self.classes is not None and all(value not in stored for stored in self.classes.stored)


@dataclass(frozen=True, kw_only=True)
class LabelScan:
    """One label file read once.

    Attributes:
        counts: stored value -> number of voxels; empty if the file could not be read.
        unknown: the values that mean "nobody looked here": those given, or one that was recognised.
        coverage: share of voxels that are not unknown.
        thin, whole_slices: whether what is known is thin lines, or whole slices among unknown ones.
        guessed: whether the unknown values were recognised and not given.
        problem: why the file cannot be used, else "".
    """

    path: Path
    counts: Mapping[int, int]
    unknown: tuple[int, ...] = ()
    coverage: float = 1.0
    thin: bool = False
    whole_slices: bool = False
    guessed: bool = False
    problem: str = ""
    code: str = ""

    @property
    def ignore(self) -> tuple[int, ...]:
        """The unknown values an annotation must carry, because no class table makes them unknown."""
        return self.unknown if self.guessed else ()

    @property
    def kind(self) -> LabelKind:
        """`slices` or `scribble` if parts are unknown and the rest looks like it, else `full`."""
        if self.whole_slices:
            return "slices"
        return "scribble" if self.thin and self.coverage <= SCRIBBLE_COVERAGE else "full"


def count_values(stored: Integer[np.ndarray, "*spatial"]) -> dict[int, int]:
    """Stored value -> number of voxels, in the order of the values."""
    if stored.size and stored.min() >= 0 and stored.max() < 65536:
        histogram = np.bincount(stored.reshape(-1))
        return {int(value): int(histogram[value]) for value in np.flatnonzero(histogram)}
    values, counts = np.unique(stored, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def scan_labels(questions: Sequence[LabelQuestion], *, workers: int | None = None) -> tuple[LabelScan, ...]:
    """Every label file read once, in the order asked; one that cannot be read is a scan with a `problem`."""
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        return tuple(pool.map(scan_label, questions))


def scan_label(question: LabelQuestion) -> LabelScan:
    """One label file's values and how sparse it is."""
    try:
        stored, _ = read_label(question.path)
    except (DataError, ResourceError) as error:
        return LabelScan(path=question.path, counts={}, problem=error.message, code=error.code)
    return describe_label(question, stored)


def describe_label(question: LabelQuestion, stored: Integer[np.ndarray, "*spatial"]) -> LabelScan:
    """The values of a label map that is already read, and how sparse it is."""
    counts = count_values(stored)
    unknown = tuple(value for value in counts if question.is_unknown(value)) or (
        _candidate(counts) if question.guess else ()
    )
    full = LabelScan(path=question.path, counts=counts)
    if question.classes is None and len(counts) > MOST_VALUES:
        return LabelScan(path=question.path, counts={}, code="E-LBL-03", problem=_too_many(question.path, counts))
    if not unknown:
        return full
    known = ~np.isin(stored, unknown)
    scan = replace(
        full,
        unknown=unknown,
        guessed=question.guess,
        coverage=float(known.mean()),
        thin=_is_thin(known),
        whole_slices=_is_slices(known),
    )
    return full if question.guess and scan.kind == "full" else scan


def find_classes(scans: Iterable[LabelScan]) -> tuple[ClassTable, tuple[str, ...]]:
    """A class for every stored value that is neither 0, negative nor unknown; and what was decided.

    A single value becomes the class "foreground" (masks of 0 and 255, or 0 and 1), others are named by their
    number.
    """
    values: set[int] = set()
    unknown: set[int] = set()
    for scan in scans:
        values.update(scan.counts)
        unknown.update(scan.unknown)
    unknown.update(value for value in values if value < 0)
    foreground = sorted(values - unknown - {0})
    names = ["foreground"] if len(foreground) == 1 else [str(value) for value in foreground]
    table = ClassTable.of(dict(zip(names, foreground, strict=True)))
    mapped = ", ".join(f"{value} -> {name}" for name, value in zip(names, foreground, strict=True)) or "none"
    unsure = f"; {_listed(unknown)} taken as unknown" if unknown else ""
    return table, (f"classes found in the label files: {mapped}{unsure}; override with [classes] in dataset.toml",)


def kind_notes(scans: Iterable[LabelScan], override: str) -> tuple[str, ...]:
    """One sentence for each label kind that was recognised: coverage, and what overrides it."""
    by_kind: dict[LabelKind, list[LabelScan]] = {}
    for scan in scans:
        if not scan.problem:
            by_kind.setdefault(scan.kind, []).append(scan)
    notes = []
    for kind, group in by_kind.items():
        coverage = 100 * float(np.mean([scan.coverage for scan in group]))
        reason = f"{coverage:.3g} % of voxels are labelled"
        if kind == "scribble":
            reason += f" and lines are at most {SCRIBBLE_THICKNESS_PX} pixels thick"
        if kind == "slices":
            reason += " in whole slices"
        unknown = {value for scan in group for value in scan.unknown}
        if unknown:
            reason += f" ({_listed(unknown)} means unknown)"
        notes.append(f"label_kind = {kind} for {len(group)} label files, because {reason}; override with {override}")
    return tuple(notes)


def unreadable_labels(scans: Iterable[LabelScan], case_of: Mapping[Path, str]) -> tuple[Problem, ...]:
    """A problem for each label file that cannot be used; its annotation is left out."""
    return tuple(
        Problem(
            case_id=case_of[scan.path], severity="error", code=scan.code,
            message=f"{scan.problem}; the annotation is left out",
        )
        for scan in scans
        if scan.problem
    )  # fmt: skip


def _too_many(path: Path, counts: Mapping[int, int]) -> str:
    return (
        f"{path}: holds {len(counts)} values, so it is an image or a soft mask and not a label map of at most "
        f"{MOST_VALUES} classes; threshold it, or list the classes in dataset.toml"
    )


def _candidate(counts: Mapping[int, int]) -> tuple[int, ...]:
    highest = max(counts, default=0)
    sparse = highest > 0 and counts[highest] > (1 - SCRIBBLE_COVERAGE) * sum(counts.values())
    return (highest,) if sparse and len(counts) >= 3 else ()


def _is_thin(known: Bool[np.ndarray, "*spatial"]) -> bool:
    planes = known.reshape(-1, *known.shape[-2:])
    planes = planes[planes.any(axis=(1, 2))]
    structure = np.ones((1, 3, 3), dtype=bool)
    thick = scipy.ndimage.binary_erosion(planes, structure, iterations=SCRIBBLE_THICKNESS_PX // 2)
    return bool(len(planes)) and not thick.any()


def _is_slices(known: Bool[np.ndarray, "*spatial"]) -> bool:
    if known.ndim < 3:
        return False
    for axis in range(known.ndim):
        others = tuple(other for other in range(known.ndim) if other != axis)
        share = known.mean(axis=others)
        if known.shape[axis] > 1 and (share == 0).any() and (share > 0).any() and share[share > 0].min() >= 0.99:
            return True
    return False


def _listed(values: Iterable[int]) -> str:
    ordered = sorted(values)
    return f"value{'s' if len(ordered) > 1 else ''} {', '.join(map(str, ordered))}"
