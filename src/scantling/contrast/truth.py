"""Yes, no or unknown for every pair of a block; a block that has one answer throughout holds no mask."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from jaxtyping import Bool
from torch import Tensor

Mask = Bool[Tensor, "anchor key"] | bool
"""A Python bool is a whole block of it."""

Only = Literal["positives", "negatives"]


class Truth(NamedTuple):
    """Whether the pairs of a block are related.

    Attributes:
        yes: they are.
        known: they are, or are known not to be.
    """

    yes: Mask
    known: Mask


UNKNOWN: Final = Truth(yes=False, known=False)


def negation(truth: Truth) -> Truth:
    """Not: yes and no exchanged."""
    return Truth(_no(truth), truth.known)


def conjunction(first: Truth, second: Truth) -> Truth:
    """And: yes where both are, no where one is not."""
    if first.yes is True:
        return second
    if second.yes is True:
        return first
    yes = both(first.yes, second.yes)
    if first.known is True and second.known is True:
        return Truth(yes, known=True)
    return Truth(yes, either(either(_no(first), _no(second)), yes))


def disjunction(first: Truth, second: Truth) -> Truth:
    """Or: yes where one is, no where neither is."""
    yes = either(first.yes, second.yes)
    if first.known is True and second.known is True:
        return Truth(yes, known=True)
    return Truth(yes, either(both(first.known, second.known), yes))


def restriction(truth: Truth, condition: Truth, only: Only | None) -> Truth:
    """The same where the condition is yes, elsewhere unknown; positives or negatives alone may be restricted."""
    if only is None:
        return Truth(both(truth.yes, condition.yes), both(truth.known, condition.yes))
    if only == "positives":
        kept = either(condition.yes, inverse(truth.yes))
        return Truth(both(truth.yes, condition.yes), both(truth.known, kept))
    return Truth(truth.yes, either(truth.yes, both(truth.known, condition.yes)))


def both(first: Mask, second: Mask) -> Mask:
    """And of two masks."""
    if isinstance(first, bool):
        return second if first else False
    if isinstance(second, bool):
        return first if second else False
    return first & second


def either(first: Mask, second: Mask) -> Mask:
    """Or of two masks."""
    if isinstance(first, bool):
        return True if first else second
    if isinstance(second, bool):
        return True if second else first
    return first | second


def inverse(mask: Mask) -> Mask:
    """Not of a mask."""
    return not mask if isinstance(mask, bool) else ~mask


def _no(truth: Truth) -> Mask:
    return both(truth.known, inverse(truth.yes))
