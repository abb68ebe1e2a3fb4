"""The table of cases: what every later stage reads, whatever layout the folder had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scantling.data.case import Case, ClassTable, LabelKind

Severity = Literal["repaired", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something found while reading: which case, how bad, one sentence with the fix."""

    case_id: str
    severity: Severity
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Every case of a data set, its classes and channels, and what was wrong with it.

    Attributes:
        cases: the real ones, and the images generated from them (`Case.counterfactual_of`).
        layout: the name of the layout it was read from ("cases_csv", "nnunet", "msd", "pairs", "suffix").
        modality: "MR", "CT", "CR", "fundus", ...; "" where nothing said so.
        channels: names of the image channels, in the order of `Case.images`.
        notes: what was decided without being told, one sentence each, with the option that overrides it.
    """

    root: Path
    name: str
    layout: str
    classes: ClassTable
    cases: tuple[Case, ...]
    channels: tuple[str, ...] = ("image",)
    modality: str = ""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def real(self) -> tuple[Case, ...]:
        """The cases that no image model made: those that may be trained on, held out and counted."""
        return tuple(case for case in self.cases if case.counterfactual_of is None)

    def labelled(self, kinds: tuple[LabelKind, ...]) -> tuple[Case, ...]:
        """Cases that have an annotation of one of these kinds."""
        return tuple(case for case in self.cases if case.annotation(kinds) is not None)

    def case(self, case_id: str) -> Case:
        """A case by its id; KeyError if there is none."""
        for case in self.cases:
            if case.case_id == case_id:
                return case
        raise KeyError(case_id)
