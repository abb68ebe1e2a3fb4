"""A relation bound to the tags of given pixels: what it says of them block by block, and what it can say shorter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

from jaxtyping import Bool
from torch import Tensor

from scantling.contrast.grouping import Grouping
from scantling.contrast.truth import UNKNOWN, Mask, Only, Truth, conjunction, disjunction, negation, restriction


class Doubt(IntEnum):
    """Which pairs a relation may leave unknown, pixels that are unknown to all others left aside."""

    NONE = 0
    UNGROUPED = 1  # where there are groups, only pairs of two pixels without one, so that neither has a positive
    SOME = 2


@dataclass(frozen=True, kw_only=True)
class Binding:
    """A relation of given anchors to given keys.

    Attributes:
        truth: of a slice of the anchors with a slice of the keys.
        grouping: the same positives as same group; None where that cannot be said.
        doubt: what is left unknown.
        anchors_known, keys_known: False is a pixel of which every pair is unknown. None is all.
    """

    truth: Callable[[slice, slice], Truth]
    grouping: Callable[[], Grouping] | None = None
    doubt: Doubt = Doubt.NONE
    anchors_known: Bool[Tensor, "anchor"] | None = None
    keys_known: Bool[Tensor, "key"] | None = None

    def everybody_known(self) -> bool:
        """Whether no pixel is said to be unknown to all others."""
        return self.anchors_known is None and self.keys_known is None


def same_number(anchors: Tensor, keys: Tensor, *, bound: int | None = None, unknown: bool = False) -> Binding:
    """Yes where the numbers are equal; a negative number is equal to none, or unknown to all."""
    grouping = Grouping(anchors=anchors, keys=keys, bound=bound)
    same = grouping.same()
    if not unknown:
        return Binding(truth=lambda a, k: Truth(same(a, k), known=True), grouping=lambda: grouping)
    anchors_known, keys_known = _not_negative(anchors), _not_negative(keys)

    def truth(a: slice, k: slice) -> Truth:
        rows = None if anchors_known is None else anchors_known[a]
        columns = None if keys_known is None else keys_known[k]
        shape = len(anchors[a]), len(keys[k])
        return restriction(Truth(same(a, k), known=True), Truth(_where_both(rows, columns, shape), known=True), None)

    return Binding(truth=truth, grouping=lambda: grouping, anchors_known=anchors_known, keys_known=keys_known)


def conjoined(first: Binding, second: Binding) -> Binding:
    """And of two relations; groups remain where both have them."""

    def truth(a: slice, k: slice) -> Truth:
        found = first.truth(a, k)
        never = found.yes is False and found.known is True
        return found if never else conjunction(found, second.truth(a, k))

    doubt = max(first.doubt, second.doubt) if _all_known(first, second) else Doubt.SOME
    return Binding(truth=truth, grouping=_joined(first, second), doubt=doubt)


def disjoined(first: Binding, second: Binding) -> Binding:
    """Or of two relations."""

    def truth(a: slice, k: slice) -> Truth:
        found = first.truth(a, k)
        return found if found.yes is True else disjunction(found, second.truth(a, k))

    certain = _all_known(first, second) and not first.doubt and not second.doubt
    return Binding(truth=truth, doubt=Doubt.NONE if certain else Doubt.SOME)


def opposite(binding: Binding) -> Binding:
    """Not of a relation."""
    return replace(binding, truth=lambda a, k: negation(binding.truth(a, k)), grouping=None)


def restricted(binding: Binding, condition: Binding, only: Only | None) -> Binding:
    """A relation, unknown where the condition is not yes: for all pairs, or for positives or negatives alone."""

    def truth(a: slice, k: slice) -> Truth:
        if only is None:
            where = condition.truth(a, k)
            return UNKNOWN if where.yes is False else restriction(binding.truth(a, k), where, None)
        found = binding.truth(a, k)
        settled = found.yes is (only == "negatives")
        return found if settled else restriction(found, condition.truth(a, k), only)

    grouping = binding.grouping if only == "negatives" else _joined(binding, condition)
    return replace(binding, truth=truth, grouping=grouping, doubt=Doubt.SOME)


def _joined(first: Binding, second: Binding) -> Callable[[], Grouping] | None:
    one, other = first.grouping, second.grouping
    return None if one is None or other is None else lambda: one().joined(other())


def _all_known(first: Binding, second: Binding) -> bool:
    return first.everybody_known() and second.everybody_known()


def _not_negative(numbers: Tensor) -> Tensor | None:
    """None where none is negative and to look does not wait for a device."""
    known: Tensor = numbers >= 0
    return None if known.device.type == "cpu" and bool(known.all()) else known


def _where_both(rows: Tensor | None, columns: Tensor | None, shape: tuple[int, int]) -> Mask:
    if rows is None:
        return True if columns is None else columns.unsqueeze(0).expand(shape)
    if columns is None:
        return rows.unsqueeze(1).expand(shape)
    return rows.unsqueeze(1) & columns.unsqueeze(0)
