"""Which cases features are measured on while they are learnt, and what the figures say for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scantling.data.case import LabelKind
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.data.splits import Split
from scantling.data.store import PreparedCase, PreparedSet, Store
from scantling.errors import ConfigError
from scantling.seeding import numpy_generator
from scantling.training.config import RunConfig
from scantling.training.feature_validation import MOST_PROBE, MOST_REFERENCE
from scantling.training.materials import prepared, without_labels
from scantling.training.progress import Display


@dataclass(frozen=True, kw_only=True)
class Examined:
    """Cases that features are measured on.

    Attributes:
        reference: of the training side; a probe is fitted on those with labels.
        probe: of patients who are not learnt from.
    """

    reference: Sequence[PreparedCase]
    probe: Sequence[PreparedCase]

    @property
    def cases(self) -> tuple[PreparedCase, ...]:
        """All of them."""
        return (*self.reference, *self.probe)


def examined_cases(
    manifest: Manifest,
    plan: Plan,
    config: RunConfig,
    *,
    tuning: Split,
    scored: tuple[LabelKind, ...],
    train: PreparedSet,
    store: Store,
    display: Display,
) -> Examined:
    """A few cases with the labels that fine-tuning will have: of its training side, and of its validation.

    Where it will have none, images that are learnt from are looked at without labels.

    Args:
        tuning: as fine-tuning will divide the patients.
        scored: the annotations it will be scored by.

    Raises:
        ConfigError: the probe is to choose the weights, and there is none.
    """
    of_reference = _some(tuning.train, MOST_REFERENCE, config.seed, "reference") if scored else []
    of_probe = _some(tuning.validation, MOST_PROBE, config.seed, "probe")
    if config.selection == "probe" and not (scored and of_reference and of_probe):
        raise ConfigError(
            "selection 'probe': wants labelled patients to fit a probe on and others to score it on; add labels "
            "(ten labelled patients, or cases with split 'val'), or leave it out to keep the last weights",
            code="E-CFG-72",
        )
    labelled = plan.model_copy(update={"label_kinds": scored})
    sides = (
        [manifest.case(c) if scored else without_labels(manifest.case(c)) for c in chosen]
        for chosen in (of_reference, of_probe)
    )
    reference, probe = (prepared(store, cases, manifest, labelled, display).cases for cases in sides)
    return Examined(reference=reference if reference or probe else train.cases, probe=probe)


def last_health(log: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """The figures of the last examination; empty if there was none."""
    found: Mapping[str, Any] = {}
    for event in log:
        if event.get("event") == "health":
            found = event.get("figures", {})
    return {name: None if value is None else round(value, 4) for name, value in found.items()}


def health_in_words(health: Mapping[str, float | None]) -> str:
    """What is known of the features."""
    probe, before = health.get("probe_dice"), health.get("untrained_probe_dice")
    if probe is None:
        sentences = ["No labelled patient was kept to probe them, so nothing is known of what they tell apart."]
    else:
        than = "" if before is None else f" ({before:.3f} with random weights)"
        scored = round(health.get("cases_scored") or 0)
        cases = f"{scored} validation case{'s' * (scored != 1)}"
        sentences = [f"A linear probe has a Dice of {probe:.3f} on {cases}{than}."]
    rank, dimensions = health.get("effective_rank"), health.get("dimensions")
    if rank is not None and dimensions is not None:
        sentences.append(f"They fill {rank:.1f} of {dimensions:.0f} dimensions.")
    return " ".join(sentences)


def _some(case_ids: Sequence[str], most: int, seed: int, purpose: str) -> list[str]:
    drawn = numpy_generator(seed, "cases examined", purpose).permutation(len(case_ids))[:most]
    return [case_ids[k] for k in sorted(drawn)]
