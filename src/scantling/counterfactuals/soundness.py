"""Which counterfactuals are sound: what was measured on each, the limits, and what is rejected and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from scantling.config import Config

AT_MOST: Final[dict[str, str]] = {
    "composition": "it changes where nothing is asked to change",
    "reversibility": "the way back does not lead back",
    "change": "too much of it changes",
}
"""Measures that must not exceed their limit, and what it means where they do."""

AT_LEAST: Final[dict[str, str]] = {
    "effectiveness": "the judge does not see what was asked for",
    "kept": "the judge no longer sees what was to stay",
    "identity_dice": "its anatomy is another",
    "structure": "its structure is another",
}
"""Measures that must reach their limit, and what it means where they do not."""


class SoundnessLimits(Config):
    """Limits of what is sound; None switches one off.

    Attributes:
        composition, reversibility, change: at most, as shares of the intensity range.
        effectiveness: at least: how far an independent judge agrees with the attribute that was set, the worst of them.
        kept: at least: 1 minus the agreement that the judge lost with an attribute that was not touched, the worst of
            them.
        identity_dice: at least: Dice of label maps of the image and its counterfactual.
        structure: at least: mean local correlation with the image.
    """

    composition: float | None = Field(default=0.02, ge=0)
    reversibility: float | None = Field(default=0.10, ge=0)
    effectiveness: float | None = Field(default=0.5, ge=0, le=1)
    kept: float | None = Field(default=0.3, ge=0, le=1)
    identity_dice: float | None = Field(default=0.90, ge=0, le=1)
    structure: float | None = Field(default=None, ge=-1, le=1)
    change: float | None = Field(default=None, ge=0)


@dataclass(frozen=True, kw_only=True)
class Soundness:
    """What was measured on one counterfactual, as `SoundnessLimits` describes it; NaN is not known."""

    composition: float = math.nan
    reversibility: float = math.nan
    effectiveness: float = math.nan
    kept: float = math.nan
    identity_dice: float = math.nan
    structure: float = math.nan
    change: float = math.nan


@dataclass(frozen=True, kw_only=True)
class InterventionSummary:
    """How the counterfactuals of one intervention fared.

    Attributes:
        reasons: by measure, how many exceed its limit; one counterfactual may do so in several.
        unknown: by measure that has a limit, on how many it is not known; this rejects none.
        means: by measure, over those where it is known; NaN where none is.
    """

    intervention: str
    count: int
    rejected: int
    reasons: Mapping[str, int]
    unknown: Mapping[str, int]
    means: Mapping[str, float]

    @property
    def sentence(self) -> str:
        """How many were rejected and why, and what is not known, in words."""
        why = ", ".join(f"{number} for {measure}" for measure, number in self.reasons.items())
        blind = ", ".join(
            f"{measure} of {'all' if number == self.count else number}" for measure, number in self.unknown.items()
        )
        counted = f"{self.intervention}: {self.rejected} of {self.count} rejected"
        return f"{counted}{f' ({why})' if why else ''}{f'; not known: {blind}' if blind else ''}"


def verdict(soundness: Soundness, limits: SoundnessLimits) -> tuple[str, ...]:
    """Why a counterfactual is rejected, each with its value and limit; () where it is sound.

    What is not known rejects nothing.
    """
    return tuple(_reason(measure, soundness, limits) for measure in broken_limits(soundness, limits))


def broken_limits(soundness: Soundness, limits: SoundnessLimits) -> tuple[str, ...]:
    """The measures that do not keep to their limit; one that is NaN does."""
    found = []
    for measure in (*AT_MOST, *AT_LEAST):
        value, limit = getattr(soundness, measure), getattr(limits, measure)
        if limit is not None and (value > limit if measure in AT_MOST else value < limit):
            found.append(measure)
    return tuple(found)


def summarise(records: Iterable[tuple[str, Soundness]], limits: SoundnessLimits) -> tuple[InterventionSummary, ...]:
    """How many counterfactuals of each intervention were rejected and why, in the order of first appearance.

    Args:
        records: an intervention such as "scanner=B", and what was measured on one of its counterfactuals.
    """
    by_intervention: dict[str, list[Soundness]] = {}
    for intervention, soundness in records:
        by_intervention.setdefault(intervention, []).append(soundness)
    return tuple(_summary(name, measured, limits) for name, measured in by_intervention.items())


def _summary(intervention: str, measured: list[Soundness], limits: SoundnessLimits) -> InterventionSummary:
    broken = [broken_limits(soundness, limits) for soundness in measured]
    reasons, unknown, means = {}, {}, {}
    for measure in (*AT_MOST, *AT_LEAST):
        known = [value for soundness in measured if not math.isnan(value := getattr(soundness, measure))]
        means[measure] = math.fsum(known) / len(known) if known else math.nan
        if number := sum(measure in names for names in broken):
            reasons[measure] = number
        if getattr(limits, measure) is not None and len(known) < len(measured):
            unknown[measure] = len(measured) - len(known)
    return InterventionSummary(
        intervention=intervention,
        count=len(measured),
        rejected=sum(map(bool, broken)),
        reasons=reasons,
        unknown=unknown,
        means=means,
    )


def _reason(measure: str, soundness: Soundness, limits: SoundnessLimits) -> str:
    value, limit = _told_apart(getattr(soundness, measure), getattr(limits, measure))
    bound = "at most" if measure in AT_MOST else "at least"
    return f"{(AT_MOST | AT_LEAST)[measure]}: {measure} is {value}, wanted {bound} {limit}"


def _told_apart(value: float, limit: float) -> tuple[str, str]:
    """Both with as few digits as show that they differ, two at least."""
    for digits in range(2, 17):
        texts = f"{value:.{digits}f}", f"{limit:.{digits}f}"
        if texts[0] != texts[1]:
            return texts
    return repr(value), repr(limit)
