"""What is written down of pseudo-labels: of a round, of a case, and which cases are good enough to be used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

from scantling.data.case import ClassTable
from scantling.errors import IntegrityError
from scantling.files import read_json, sha256_bytes, write_json

SCHEMA_VERSION: Final = 1

Status = Literal["open", "finished", "rolled back", "discarded"]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of pseudo-labels: what made them, and what became of them.

    Attributes:
        number: from 1, never given twice.
        model_sha256: of the weights of the model that predicted; "" where it was never saved.
        teacher: what kind of model: "averaged copy", "peers", "frozen copy", ...
        thresholds: every number that decided which pixels count.
        source_round: the round the model was trained on; None for annotations alone.
        begun, ended: UTC, to the second.
        reason: why it was rolled back or discarded.
        n_cases, n_kept: cases with a label, and those of them that are to be used.
        mean_confidence, share_kept: means over the kept cases; NaN where there is none.
        cases_sha256: of the table of its cases, once it is finished.
        removed: whether its files were deleted, which is done only when asked for.
    """

    number: int
    status: Status = "open"
    model_sha256: str
    teacher: str
    thresholds: Mapping[str, float] = field(default_factory=dict)
    source_round: int | None = None
    begun: str
    ended: str = ""
    reason: str = ""
    n_cases: int = 0
    n_kept: int = 0
    mean_confidence: float = math.nan
    share_kept: float = math.nan
    cases_sha256: str = ""
    removed: bool = False


@dataclass(frozen=True, kw_only=True)
class PseudoLabel:
    """The label of one case in one round.

    Attributes:
        label, confidence: file names in the round's folder; confidence is "" where one number holds for all pixels.
        mean_confidence: over the labelled pixels, in [0, 1]; NaN where there is none.
        share_kept: labelled pixels of all.
        scores: whatever was measured of it, by name, such as "agreement" and "entropy".
        dropped: why the case is not to be used; "" where it is.
    """

    case_id: str
    label: str
    label_sha256: str
    confidence: str = ""
    confidence_sha256: str = ""
    mean_confidence: float
    share_kept: float
    scores: Mapping[str, float] = field(default_factory=dict)
    added: str
    dropped: str = ""


@dataclass(frozen=True, kw_only=True)
class VolumeFilter:
    """Which cases of a round are used; a bound of None asks nothing, a score that was not measured fails its bound.

    Attributes:
        min_agreement: of the score "agreement": Dice between predictions under several augmentations
            (`scantling.targets.confidence.foreground_agreement`); 0.9 in Chaitanya et al. 2023.
        min_confidence: mean over the labelled pixels.
        max_entropy: of the score "entropy": mean over the pixels, in nats.
        min_share: labelled pixels of all.
    """

    min_agreement: float | None = None
    min_confidence: float | None = None
    max_entropy: float | None = None
    min_share: float | None = None

    def reason(self, label: PseudoLabel) -> str:
        """Why a case is to be dropped; "" where it is kept. NaN fails every bound."""
        measured = (
            ("agreement", label.scores.get("agreement", math.nan), self.min_agreement),
            ("mean confidence", label.mean_confidence, self.min_confidence),
            ("share of labelled pixels", label.share_kept, self.min_share),
        )
        for name, value, least in measured:
            if least is not None and not value >= least:
                return f"{name} is {value:.4g}, wanted {least:g} or more"
        entropy = label.scores.get("entropy", math.nan)
        if self.max_entropy is not None and not entropy <= self.max_entropy:
            return f"entropy is {entropy:.4g}, wanted {self.max_entropy:g} or less"
        return "" if label.share_kept > 0 else "no pixel is sure enough"


def summed_up(entry: Round, labels: Mapping[str, PseudoLabel]) -> Round:
    """The round with the counts and means of its cases."""
    kept = [label for label in labels.values() if not label.dropped]
    return replace(
        entry,
        n_cases=len(labels),
        n_kept=len(kept),
        mean_confidence=_mean([label.mean_confidence for label in kept]),
        share_kept=_mean([label.share_kept for label in kept]),
    )


def write_rounds(path: Path, classes: ClassTable, rounds: tuple[Round, ...]) -> None:
    """Write the list of rounds, ending in the checksum of what it says.

    Raises:
        ResourceError: the disk is full; the old list is intact.
    """
    facts = {
        "schema_version": SCHEMA_VERSION,
        "classes": {"names": list(classes.names), "stored": [list(values) for values in classes.stored]},
        "rounds": [_plain(entry) for entry in rounds],
    }
    write_json(path, {**facts, "sha256": _digest(facts)})


def read_rounds(path: Path) -> tuple[ClassTable, tuple[Round, ...]]:
    """What `write_rounds` wrote.

    Raises:
        IntegrityError: the file is damaged, edited by hand, or of a newer release.
    """
    facts = _sealed(path)
    classes = ClassTable(
        names=tuple(facts["classes"]["names"]), stored=tuple(tuple(values) for values in facts["classes"]["stored"])
    )
    return classes, tuple(Round(**_numbers(Round, row)) for row in facts["rounds"])


def write_labels(path: Path, labels: Mapping[str, PseudoLabel]) -> None:
    """Write what is known of some cases, ending in the checksum of what it says.

    Raises:
        ResourceError: the disk is full; the old file is intact.
    """
    facts = {"schema_version": SCHEMA_VERSION, "cases": [_plain(labels[name]) for name in sorted(labels)]}
    write_json(path, {**facts, "sha256": _digest(facts)})


def read_labels(path: Path) -> dict[str, PseudoLabel]:
    """What `write_labels` wrote, by case.

    Raises:
        IntegrityError: the file is damaged, edited by hand, or of a newer release.
    """
    rows = (PseudoLabel(**_numbers(PseudoLabel, row)) for row in _sealed(path)["cases"])
    return {label.case_id: label for label in rows}


def _sealed(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if isinstance(content, dict):
        version = content.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise IntegrityError(f"{path}: written by a newer release; update scantling to read it", code="E-CHK-04")
        if content.pop("sha256", None) == _digest(content):
            return content
    raise IntegrityError(
        f"{path}: the file is damaged, or edited by hand; bring it back from a backup, or make the pseudo-labels anew "
        "in another folder",
        code="E-CHK-01",
    )


def _digest(facts: Mapping[str, Any]) -> str:
    return sha256_bytes(json.dumps(facts, sort_keys=True, allow_nan=False, ensure_ascii=False).encode())


def _plain(record: Round | PseudoLabel) -> dict[str, Any]:
    """Values as JSON holds them: NaN is null."""
    values = asdict(record)
    for name in ("thresholds", "scores"):
        if name in values:
            values[name] = {key: _or_none(value) for key, value in values[name].items()}
    return {name: _or_none(value) for name, value in values.items()}


def _numbers(kind: type[Round | PseudoLabel], row: Mapping[str, Any]) -> dict[str, Any]:
    """Null back to NaN, wherever a number is wanted."""
    values = dict(row)
    for name in ("thresholds", "scores"):
        if name in values:
            values[name] = {key: math.nan if value is None else value for key, value in values[name].items()}
    wanted = {item.name for item in fields(kind)} & {"mean_confidence", "share_kept"}
    return {**values, **{name: math.nan for name in wanted if values[name] is None}}


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
