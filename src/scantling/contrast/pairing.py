"""Which pixels are contrasted with which: a relation of tags, and what a denominator is made of.

A rule is a value; bound to the tags of pixels it gives the `Pairs` that `info_nce` reads block by block:

- VADeR, DVD-CL: `PairRule(SamePoint())`; with near places left out of the negatives,
  `SamePoint().among(~Within(12), only="negatives")`;
- MVD-CL: `PairRule(Within(radius_mm))`;
- their supervised variants: `PairRule(SameClass(without=(0,)))` and `PairRule(SameClass())`;
- global contrast: `PairRule(SameSliceBand(4), denominator="per_positive")`; with positives of other patients alone,
  `SameSliceBand(4).among(ACROSS_PATIENTS, only="positives")`;
- MixCL, labels: `PairRule(SameClass(), denominator="balanced")` with the tag `annotated`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scantling.contrast.binding import Doubt
from scantling.contrast.grouping import Grouping
from scantling.contrast.pixels import Tags
from scantling.contrast.relations import Relation
from scantling.contrast.truth import Truth
from scantling.losses.pairs import Denominator, PairBlock, Pairs


@dataclass(frozen=True)
class PairRule:
    """Positives and negatives of anchors, by a relation: yes is a positive, no a negative, unknown neither.

    Attributes:
        denominator: as of `Pairs`; "balanced" needs the tag `klass`, and unlabelled pixels are a class there.
        trust: weigh anchors and positives by the tag `trust`.
    """

    relation: Relation
    denominator: Denominator = "shared"
    trust: bool = False

    def pairs(self, anchors: Tags, keys: Tags | None = None, own: int | None = None) -> Pairs:
        """The pairs of given pixels.

        A pixel that is unknown to all others, such as one without a label under `SameClass`, is left out as an
        empty place is. Where positives are all pairs of one group, two pixels without group are counted as
        compared even if the relation leaves them unknown: neither has a positive, so nothing depends on it.

        On an accelerator the host waits once for it, to learn how many groups there are.

        Args:
            keys: None compares the anchors among themselves.
            own: key `own + i` is anchor `i` itself; None where the keys are other pixels.

        Raises:
            ValueError: a tag is missing that the rule is about.
        """
        if keys is None:
            keys, own = anchors, 0
        bound = self.relation.bind(anchors, keys)
        grouping = None if bound.grouping is None else bound.grouping()
        truth, all_compared = bound.truth, bound.doubt == Doubt.NONE
        if grouping is not None and bound.doubt <= Doubt.UNGROUPED:
            truth, all_compared = _by_groups(grouping), True
        balanced = self.denominator == "balanced"
        return Pairs(
            n_anchors=_count(anchors),
            n_keys=_count(keys),
            block=_blocks(truth, anchors, keys, all_compared=all_compared),
            symmetric=True,
            groups=None if grouping is None else grouping.groups(),
            all_compared=all_compared,
            own=own,
            anchors_usable=_both(anchors.usable, bound.anchors_known),
            keys_usable=_both(keys.usable, bound.keys_known),
            anchor_trust=anchors.need("trust") if self.trust else None,
            key_trust=keys.need("trust") if self.trust else None,
            denominator=self.denominator,
            anchor_classes=anchors.need("klass") if balanced else None,
            key_classes=keys.need("klass") if balanced else None,
        )


def _by_groups(grouping: Grouping) -> Callable[[slice, slice], Truth]:
    same = grouping.same()
    return lambda a, k: Truth(same(a, k), known=True)


def _blocks(
    truth: Callable[[slice, slice], Truth], anchors: Tags, keys: Tags, *, all_compared: bool
) -> Callable[[slice, slice], PairBlock]:
    """Masks of blocks: None where no pair is positive, None where all are compared."""
    of_anchors, of_keys = (next(iter(side.known().values())) for side in (anchors, keys))

    def filled(a: slice, k: slice, value: bool) -> Tensor:
        shape = len(of_anchors[a]), len(of_keys[k])
        return torch.full(shape, value, dtype=torch.bool, device=of_anchors.device)

    def block(a: slice, k: slice) -> PairBlock:
        yes, known = truth(a, k)
        positive = None if yes is False else filled(a, k, True) if yes is True else yes
        if known is True or all_compared:
            return PairBlock(positive, None)
        return PairBlock(positive, filled(a, k, False) if known is False else known)

    return block


def _count(tags: Tags) -> int:
    return len(next(iter(tags.known().values())))


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first & second
