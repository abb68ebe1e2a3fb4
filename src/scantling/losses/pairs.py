"""Which anchors and keys belong together, asked block by block and never held as one matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

Denominator = Literal["shared", "per_positive", "balanced"]


@dataclass(frozen=True)
class PairBlock:
    """What the pairs of a block of anchors with a block of keys are.

    A pair is positive, or negative, or neither: a negative is compared and not positive, a pair that is not
    compared plays no part at all.

    Attributes:
        positive: None where no pair of the block is.
        compared: positives and negatives; None where every pair of the block is compared.
    """

    positive: Bool[Tensor, "anchor key"] | None
    compared: Bool[Tensor, "anchor key"] | None


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Positives said in linear memory: a pair is positive where both sides have the same group.

    Attributes:
        anchors, keys: group of each, -1 for none.
        n_groups: an upper bound of the group numbers.
    """

    anchors: Int[Tensor, "anchor"]
    keys: Int[Tensor, "key"]
    n_groups: int


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The relation of `n_anchors` anchors to `n_keys` keys.

    Attributes:
        block: the pairs of a slice of the anchors with a slice of the keys, before `own` and the usable masks
            are applied. It is the whole truth; `groups` and `all_compared` only say it shorter.
        symmetric: the relation is the same with anchors and keys exchanged.
        groups: all positives, where same group is what makes a positive.
        all_compared: `block` never leaves a pair out of the denominator.
        own: key `own + i` is anchor `i` itself and never a pair of it; None where keys are other pixels.
        anchors_usable, keys_usable: False is an empty place: neither anchor nor key. None is all.
        anchor_trust: weight of an anchor in the mean over anchors, and as a positive where the directions are
            exchanged, >= 0; an anchor of trust 0 adds nothing but can be compared with. None is 1 each.
        key_trust: the same of the keys.
        denominator: "shared" compares with all positives and negatives of the anchor; "per_positive" with one
            positive at a time and the negatives; "balanced" as shared, each key weighed by 1 over the number
            of usable keys of its class, the anchor itself not counted.
        anchor_classes, key_classes: what "balanced" balances; any integers, equal means same class.
    """

    n_anchors: int
    n_keys: int
    block: Callable[[slice, slice], PairBlock]
    symmetric: bool = True
    groups: Groups | None = None
    all_compared: bool = False
    own: int | None = None
    anchors_usable: Bool[Tensor, "anchor"] | None = None
    keys_usable: Bool[Tensor, "key"] | None = None
    anchor_trust: Float[Tensor, "anchor"] | None = None
    key_trust: Float[Tensor, "key"] | None = None
    denominator: Denominator = "shared"
    anchor_classes: Int[Tensor, "anchor"] | None = None
    key_classes: Int[Tensor, "key"] | None = None
