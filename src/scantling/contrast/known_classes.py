"""What is known of two pixels' classes, where labels may be missing or know only some of the classes.

A pixel has a set of classes it may belong to: its label alone; background *or any class that was not looked for*
for a pixel labelled background; every class where nobody looked, or where the label is a class that was not looked
for and so contradicts itself. Two pixels are of the same class where both sets are one and the same class, of
different classes where the sets have none in common; anything else is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from scantling.contrast.binding import Binding, Doubt, same_number
from scantling.contrast.grouping import Grouping
from scantling.contrast.pixels import Tags
from scantling.contrast.truth import Mask, Truth, either, restriction

BACKGROUND = 0


def same_class(anchors: Tags, keys: Tags, without: tuple[int, ...]) -> Binding:
    """Whether pixels are of one class; pairs within a class of `without` are unknown.

    Raises:
        ValueError: no classes, or a different number of them on the two sides.
    """
    labels = Grouping(anchors=anchors.need("klass"), keys=keys.need("klass"))
    if _all_looked_for(anchors) and _all_looked_for(keys):
        return _fully_looked_for(labels, without)
    known = [side.annotated.shape[1] for side in (anchors, keys) if side.annotated is not None]
    if len(set(known)) > 1:
        raise ValueError(
            f"'annotated' of the anchors has {known[0]} classes, of the keys {known[1]}: give both the same"
        )
    return _partly_looked_for(_possible(anchors, known[0]), _possible(keys, known[0]), labels, without)


def _fully_looked_for(labels: Grouping, without: tuple[int, ...]) -> Binding:
    equal = same_number(labels.anchors, labels.keys, unknown=True)
    if not without:
        return equal
    kin = _ungrouped(labels, without)
    related = kin.same()

    def truth(a: slice, k: slice) -> Truth:
        return restriction(equal.truth(a, k), Truth(related(a, k), known=True), "positives")

    return replace(equal, truth=truth, grouping=lambda: kin, doubt=Doubt.UNGROUPED)


def _partly_looked_for(
    anchors: Bool[Tensor, "anchor klass"],
    keys: Bool[Tensor, "key klass"],
    labels: Grouping,
    without: tuple[int, ...],
) -> Binding:
    certain = Grouping(
        anchors=torch.where(anchors.sum(dim=1) == 1, labels.anchors, -1),
        keys=torch.where(keys.sum(dim=1) == 1, labels.keys, -1),
        bound=anchors.shape[1],
    )
    kin = _ungrouped(certain, without)
    related, apart = kin.same(), _nothing_shared(anchors, keys)

    def truth(a: slice, k: slice) -> Truth:
        yes = related(a, k)
        return Truth(yes, True if yes is True else either(apart(a, k), yes))

    return Binding(truth=truth, grouping=lambda: kin, doubt=Doubt.SOME)


def _possible(tags: Tags, n_classes: int) -> Bool[Tensor, "pixel klass"]:
    """The classes each pixel may belong to."""
    labels = tags.need("klass").long()
    label = labels.clamp(min=0).unsqueeze(1)
    classes = torch.arange(n_classes, device=labels.device)
    looked_for = torch.ones_like(classes, dtype=torch.bool).expand(len(labels), -1)
    if tags.annotated is not None:
        looked_for = tags.annotated
    says_something = (labels >= 0).unsqueeze(1) & looked_for.gather(1, label)
    possible = (classes == label) | ((label == BACKGROUND) & ~looked_for)
    return possible | ~says_something


def _nothing_shared(
    anchors: Bool[Tensor, "anchor klass"], keys: Bool[Tensor, "key klass"]
) -> Callable[[slice, slice], Mask]:
    """Whether two sets of classes are disjoint, block by block, from a bit a class."""
    words = list(zip(_words(anchors), _words(keys), strict=True))

    def apart(a: slice, k: slice) -> Mask:
        first, *others = (mine[a].unsqueeze(1) & theirs[k].unsqueeze(0) for mine, theirs in words)
        for other in others:
            first |= other
        return first == 0

    return apart


def _words(sets: Bool[Tensor, "pixel klass"]) -> list[Int[Tensor, "pixel"]]:
    """Sets of classes as bits of integers as short as will do; the sign bit is not used."""
    n_classes = sets.shape[1]
    dtype, width = (torch.int8, 7) if n_classes <= 7 else (torch.int16, 15) if n_classes <= 15 else (torch.int32, 31)
    bits = 2 ** torch.arange(width, device=sets.device)
    parts = [sets[:, start : start + width] for start in range(0, n_classes, width)]
    return [(part * bits[: part.shape[1]]).sum(dim=1).to(dtype) for part in parts]


def _ungrouped(labels: Grouping, without: tuple[int, ...]) -> Grouping:
    """The same groups without those of some classes."""
    anchors, keys = labels.anchors, labels.keys
    for klass in without:
        anchors, keys = torch.where(anchors == klass, -1, anchors), torch.where(keys == klass, -1, keys)
    return replace(labels, anchors=anchors, keys=keys)


def _all_looked_for(tags: Tags) -> bool:
    """Whether every class was looked for everywhere; False where to look would wait for a device."""
    if tags.annotated is None:
        return True
    return tags.annotated.device.type == "cpu" and bool(tags.annotated.all())
