"""What can relate two pixels: the same place, a short distance, the same image, the same class, and mixtures of these.

A relation says yes, no or unknown of every pair of pixels (Kleene's three values): under a pair rule yes is a
positive, no a negative, and an unknown pair takes no part. Relations are values that combine:

- `a & b`: yes where both are, no where one is not;
- `a | b`: yes where one is, no where neither is;
- `~a`: yes and no exchanged, unknown stays;
- `a.among(b)`: as `a` where `b` is yes, unknown elsewhere. With `only="positives"` the positives alone have to be
  in `b` and negatives are taken anywhere, short for `a.among(b | ~a)`; with `only="negatives"` it is the
  negatives that have to, short for `a.among(b | a)`.

So `a.among(ACROSS_PATIENTS)` compares pixels of different patients alone; `a.among(ACROSS_PATIENTS,
only="positives")` takes positives of other patients and negatives of all, and what `a` relates within a patient is
neither; `a & ACROSS_PATIENTS` makes that a negative. Every relation is the same with its two sides exchanged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from scantling.contrast.binding import Binding, Doubt, conjoined, disjoined, opposite, restricted, same_number
from scantling.contrast.grouping import Grouping
from scantling.contrast.known_classes import same_class
from scantling.contrast.nearness import nearer
from scantling.contrast.pixels import Tags
from scantling.contrast.truth import Only, Truth, both


class Relation(ABC):
    """Yes, no or unknown for every pair of pixels."""

    @abstractmethod
    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        """The relation of given anchors to given keys.

        Raises:
            ValueError: a tag is missing that the relation is about.
        """

    def __and__(self, other: Relation) -> Relation:
        return And(self, other)

    def __or__(self, other: Relation) -> Relation:
        return Or(self, other)

    def __invert__(self) -> Relation:
        return Not(self)

    def among(self, condition: Relation, *, only: Only | None = None) -> Relation:
        """The same where the condition is yes, elsewhere unknown: of all pairs, or of positives or negatives only."""
        return Among(self, condition, only)


@dataclass(frozen=True)
class And(Relation):
    """Yes where both are, no where one is not.

    First should stand what is no for whole blocks, such as `SameImage`: the other is not asked there.
    """

    first: Relation
    second: Relation

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return conjoined(self.first.bind(anchors, keys), self.second.bind(anchors, keys))


@dataclass(frozen=True)
class Or(Relation):
    """Yes where one is, no where neither is."""

    first: Relation
    second: Relation

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return disjoined(self.first.bind(anchors, keys), self.second.bind(anchors, keys))


@dataclass(frozen=True)
class Not(Relation):
    """Yes and no exchanged."""

    relation: Relation

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return opposite(self.relation.bind(anchors, keys))


@dataclass(frozen=True)
class Among(Relation):
    """What `Relation.among` gives."""

    relation: Relation
    condition: Relation
    only: Only | None = None

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return restricted(self.relation.bind(anchors, keys), self.condition.bind(anchors, keys), self.only)


@dataclass(frozen=True)
class SamePoint(Relation):
    """The same place, seen in several views; two different places are no, however near they are.

    To leave near places out of the negatives: `SamePoint().among(~Within(12), only="negatives")`.
    """

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return same_number(anchors.need("point"), keys.need("point"))


@dataclass(frozen=True)
class SameImage(Relation):
    """The same sample, in whichever view."""

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return same_number(anchors.need("image"), keys.need("image"))


@dataclass(frozen=True)
class SamePatient(Relation):
    """The same patient; a negative number is nobody's."""

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return same_number(anchors.need("patient"), keys.need("patient"))


@dataclass(frozen=True)
class SameSite(Relation):
    """The same site; a negative number is no site's."""

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return same_number(anchors.need("site"), keys.need("site"))


@dataclass(frozen=True)
class SameView(Relation):
    """The same number of view, in whichever sample: view 1 of one and view 1 of another are the same."""

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return same_number(anchors.need("view"), keys.need("view"))


@dataclass(frozen=True)
class SameGroup(Relation):
    """The same group, such as easy or hard; a pixel of no group is unknown."""

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return same_number(anchors.need("group"), keys.need("group"), unknown=True)


@dataclass(frozen=True)
class SameClass(Relation):
    """The same class; a pixel that nobody labelled is unknown, and labels may know only some of the classes.

    Where `annotated` says that not all classes were looked for, a pixel labelled background is known not to be of
    the classes that were, and no more: it is a negative of those and takes no part elsewhere. Class prototypes
    and the entries of a bank are keys like any other: give them `klass`.

    Attributes:
        without: classes whose pixels are no positives of each other, nor negatives; they remain negatives of
            the other classes.
    """

    without: tuple[int, ...] = ()

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return same_class(anchors, keys, self.without)


@dataclass(frozen=True)
class SameSliceBand(Relation):
    """The same of `bands` equal parts of the volume along its first axis, in whichever volume.

    Source: Chaitanya et al. 2020, "Contrastive learning of global and local features", G^D. Its G^D-, where
    other slices of the band are left out: `SameImage().among(~SameSliceBand(4), only="negatives")`.
    """

    bands: int

    def __post_init__(self) -> None:
        if self.bands < 1:
            raise ValueError(f"SameSliceBand: bands must be >= 1, got {self.bands}")

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        return same_number(self._band(anchors), self._band(keys), bound=self.bands)

    def _band(self, tags: Tags) -> Tensor:
        return (tags.need("slice_position") * self.bands).long().clamp(0, self.bands - 1)


@dataclass(frozen=True)
class SliceWithin(Relation):
    """Slice positions less than `distance` apart, as a part of the volume's height, in whichever volume.

    Source: Zeng et al. 2021, "Positional contrastive learning for volumetric medical image segmentation".
    """

    distance: float

    def __post_init__(self) -> None:
        if self.distance <= 0:
            raise ValueError(f"SliceWithin: distance must be > 0, got {self.distance}")

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        mine, theirs = anchors.need("slice_position"), keys.need("slice_position")

        def truth(a: slice, k: slice) -> Truth:
            return Truth((mine[a].unsqueeze(1) - theirs[k].unsqueeze(0)).abs_() < self.distance, known=True)

        return Binding(truth=truth)


@dataclass(frozen=True)
class Within(Relation):
    """Less than `radius_mm` apart in the same source image; pixels of different images are no.

    Attributes:
        exclusion_mm: pixels of one image that are nearer than this and not within the radius are unknown, so that
            a neighbour is not a negative. None is no such ring.

    Source: Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning", MVD-CL.
    """

    radius_mm: float
    exclusion_mm: float | None = None

    def __post_init__(self) -> None:
        if self.radius_mm <= 0:
            raise ValueError(f"Within: radius_mm must be > 0, got {self.radius_mm}")
        if self.exclusion_mm is not None and self.exclusion_mm < self.radius_mm:
            raise ValueError(
                f"Within: exclusion_mm is {self.exclusion_mm}, less than radius_mm {self.radius_mm}; "
                "it is measured from the pixel too"
            )

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        same_image = Grouping(anchors=anchors.need("image"), keys=keys.need("image")).same()
        mine, theirs = _along_axes(anchors.need("position_mm"), keys.need("position_mm"))

        def truth(a: slice, k: slice) -> Truth:
            same = same_image(a, k)
            if same is False:
                return Truth(yes=False, known=True)
            if self.exclusion_mm is None:
                return Truth(both(nearer(mine[:, a], theirs[:, k], self.radius_mm)[0], same), known=True)
            masks = nearer(mine[:, a], theirs[:, k], self.radius_mm, self.exclusion_mm)
            near, ring = (both(mask, same) for mask in masks)
            return Truth(near, near == ring)

        return Binding(truth=truth, doubt=Doubt.NONE if self.exclusion_mm is None else Doubt.SOME)


ACROSS_VIEWS: Final = ~SameView()
"""Views of a different number."""
ACROSS_IMAGES: Final = ~SameImage()
ACROSS_PATIENTS: Final = ~SamePatient()
ACROSS_SITES: Final = ~SameSite()
NOT_OF_ONE_PICTURE: Final = ~(SameImage() & SameView())
"""All but the pixels of the very view an anchor is from: the same view number of other samples is in."""


def _along_axes(mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Positions `[axis, pixel]` in one type that can hold squared millimetres."""
    dtype = torch.promote_types(torch.promote_types(mine.dtype, theirs.dtype), torch.float32)
    return mine.to(dtype).T.contiguous(), theirs.to(dtype).T.contiguous()
