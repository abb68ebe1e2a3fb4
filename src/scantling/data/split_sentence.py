"""A split in a sentence: who is scored, who teaches, who chooses the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scantling.data.case import Case


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """What there is to say about a split.

    Attributes:
        taught: labelled cases of the training side, before the budget.
        n_images: all cases of the data set.
        how: how the held-out cases were chosen, as the head of a sentence; "" where none were to be.
    """

    train: Sequence[Case]
    validation: Sequence[Case]
    heldout: Sequence[Case]
    taught: Sequence[Case]
    n_images: int
    labels: int | None
    kinds: Sequence[str]
    how: str


def split_sentence(facts: SplitFacts) -> str:
    """The validation scheme for people, with the number of cases and patients of each part."""
    if not facts.train and not facts.heldout:
        return (
            f"No training case has a label of kind {' or '.join(facts.kinds)}: nothing can be trained with labels "
            f"and no Dice can be given; the {facts.n_images} images can only be learnt from without labels."
        )
    return f"{_who_is_scored(facts)}; {_who_teaches(facts)}; {_who_chooses(facts)}."


def _who_is_scored(facts: SplitFacts) -> str:
    if facts.heldout:
        return f"{facts.how} {_count(facts.heldout)}"
    if len({case.patient_id for case in facts.taught}) == 1:
        return "Only one patient has labels, so nothing is held out and no unseen patient is scored"
    return "Nothing is held out, so no unseen patient is scored"


def _who_teaches(facts: SplitFacts) -> str:
    budget = "" if facts.labels is None else f" (a budget of {facts.labels} out of {len(facts.taught)})"
    return f"trained on {_count(facts.train)}{budget}" if facts.train else "no labelled case is left to train on"


def _who_chooses(facts: SplitFacts) -> str:
    if facts.validation:
        return f"the checkpoint is chosen on {_count(facts.validation)}"
    return "no patient is given up for choosing a checkpoint, so the last averaged weights are used"


def _count(cases: Sequence[Case]) -> str:
    patients = len({case.patient_id for case in cases})
    return f"{_number(len(cases), 'labelled case')} of {_number(patients, 'patient')}"


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
