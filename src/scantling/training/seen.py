"""Whom weights have learnt from, and whether they are among those who are held out now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from scantling.data.splits import Split
from scantling.errors import DataError
from scantling.files import read_json, write_json
from scantling.recipes import RECIPES
from scantling.training.run_folder import RunFolder

RECORD: Final = "initial.json"
"""In a run folder: whom the weights that it started from have learnt from."""


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """Patients and images that weights have learnt from, or were chosen by.

    Attributes:
        images: SHA-256 of the voxels of every image of these patients.
        around: of every image of the data sets they were in; by them two data sets are known to be one.
    """

    patients: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    around: frozenset[str] = frozenset()

    def __or__(self, other: Learnt) -> Learnt:
        return Learnt(
            patients=self.patients | other.patients,
            images=self.images | other.images,
            around=self.around | other.around,
        )

    def save(self, run: Path, **facts: str) -> None:
        """Write `initial.json`."""
        write_json(run / RECORD, {**facts, **{name: sorted(values) for name, values in asdict(self).items()}})

    @classmethod
    def load(cls, run: Path) -> Learnt:
        """What `save` wrote; nobody where there is no such file."""
        if not (run / RECORD).is_file():
            return cls()
        content = read_json(run / RECORD)
        return cls(**{name: frozenset(content.get(name, ())) for name in ("patients", "images", "around")})

    def among(self, cases: Iterable[str], split: Split, voxels: Mapping[str, str]) -> list[str]:
        """Those of the cases whose image was learnt from, or whose patient, by name, in the same data set.

        Args:
            voxels: case -> SHA-256 of its voxels, of the whole data set.
        """
        same_data = not self.around.isdisjoint(voxels.values())
        return [
            case
            for case in cases
            if voxels.get(case) in self.images or (same_data and split.patients[case] in self.patients)
        ]


def learnt_by(run: Path, *, chosen: bool) -> Learnt:
    """Whom a run has learnt from, what it started from included.

    Args:
        chosen: whether its validation patients chose the weights.
    """
    split, sheet = Split.load(run / "splits.json"), run / "data_sheet.json"
    recipe = str(RunFolder.open(run).status().get("recipe", "")) if (run / "run.json").is_file() else ""
    unlabelled = recipe not in RECIPES or RECIPES[recipe].uses_unlabelled
    cases = {*split.train, *(split.unlabelled if unlabelled else ()), *(split.validation if chosen else ())}
    patients = frozenset(split.patients[case] for case in cases)
    voxels = image_checksums(sheet)
    owner = {case["case"]: split.patients.get(case["case"], case.get("patient", "")) for case in _cases(sheet)}
    return Learnt.load(run) | Learnt(
        patients=patients,
        images=frozenset(checksum for case, checksum in voxels.items() if owner[case] in patients),
        around=frozenset(voxels.values()),
    )


def require_unseen(
    learnt: Learnt | None,
    split: Split,
    voxels: Mapping[str, str],
    *,
    name: str,
    allow_leak: bool,
    say: Callable[[str], object],
) -> None:
    """Refuse weights that have learnt from patients who are held out now.

    Args:
        learnt: None where nobody says.
        voxels: case -> SHA-256 of its voxels.
        name: of the weights, for messages.

    Raises:
        DataError: they have, and leaks are not allowed.
    """
    if learnt is None:
        if split.heldout:
            say(f"{name}: nothing says whom it has learnt from; patients held out here may be among them.")
        return
    held_out, seen = (
        sorted({split.patients[case] for case in cases})
        for cases in (split.heldout, learnt.among(split.heldout, split, voxels))
    )
    if seen:
        sentence = (
            f"{name} has learnt from {len(seen)} of the {len(held_out)} patients held out here, such as {seen[0]}"
        )
        if not allow_leak:
            raise DataError(
                f"--init: {sentence}, so this would be no score of unseen patients; pretrain with the same --seed, "
                "--fold, --train-on and --test-on, or pass --set data.allow_leak=true",
                code="E-RUN-12",
            )
        say(f"Leak: {sentence}; their score says nothing about new patients.")
    elif learnt.around.isdisjoint(voxels.values()) and (same := sorted(learnt.patients & set(held_out))):
        say(
            f"{name} has learnt from patients who bear names of {len(same)} held out here, such as {same[0]}; none of "
            "the images are the same, so they are taken for other people."
        )
    choosing = {split.patients[case] for case in learnt.among(split.validation, split, voxels)}
    if choosing:
        say(
            f"{name} has learnt from {len(choosing)} of the patients who choose the checkpoint: their score looks "
            "better than one of new patients would."
        )


def seen_before(run: Path, split: Split) -> list[str]:
    """Cases of a run's data that it did not train on itself, but what it started from has learnt from."""
    return Learnt.load(run).among(split.patients, split, image_checksums(run / "data_sheet.json"))


def image_checksums(sheet: Path) -> dict[str, str]:
    """Case -> SHA-256 of its voxels, of those that were read."""
    return {case["case"]: case["voxel_sha256"] for case in _cases(sheet) if case.get("voxel_sha256")}


def _cases(sheet: Path) -> list[dict[str, Any]]:
    return list(read_json(sheet).get("cases", ())) if sheet.is_file() else []
