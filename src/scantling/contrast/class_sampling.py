"""Which pixels, by class: quotas, class-balanced draws, the band along borders, hard and easy halves.

Label maps are as fine as the views or as coarse as a feature map; pixels are drawn on the label map's own grid.
As all samplers, these give as many places whatever they find and wait for no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scantling.contrast.choosing import choose, choose_halves, generator_on, pixels_chosen, random_keys
from scantling.contrast.points import Points
from scantling.shapes import IGNORE

LabelMapsOfViews = Int[Tensor, "batch view *map"]
MaskOfViews = Bool[Tensor, "batch view *map"]

WHOLE_VOXEL: Final = 1e-6
"""A width this much short of a voxel still holds it: 0.3 mm are three voxels of 0.1 mm."""


def class_points(
    label_maps: LabelMapsOfViews,
    per_class: int | Sequence[int],
    rng: torch.Generator,
    *,
    classes: Sequence[int],
    among: MaskOfViews | None = None,
    preferred: MaskOfViews | None = None,
    preferred_share: float = 0.5,
    view_shape: Sequence[int] | None = None,
) -> Points:
    """A quota of pixels of each class in each view, without replacement, each pixel equally likely.

    Places come class after class. A class with fewer pixels than its quota gives all it has, be it one.

    Args:
        per_class: one quota for all classes, or one each.
        classes: class indices to draw; leave out 0 for foreground alone.
        among: pixels that may be drawn; by default all that are labelled.
        preferred: pixels that fill `preferred_share` of each quota; where they or the others are short, the rest
            fills up. `group` is 1 for them and 0 for the others.
        view_shape: of the views, where the label maps are coarser.
    """
    quotas = (per_class,) * len(classes) if isinstance(per_class, int) else tuple(per_class)
    labels = label_maps.flatten(2)
    eligible = labels != IGNORE if among is None else among.flatten(2)
    keys = random_keys(eligible, rng)
    places, there, groups = [], [], []
    for klass, quota in zip(classes, quotas, strict=True):
        of_class = torch.where(labels == klass, keys, float("-inf"))
        if preferred is None:
            where, found = choose(of_class, quota)
        else:
            where, found, first = choose_halves(of_class, preferred.flatten(2), quota, share=preferred_share)
            groups.append(first.long())
        places.append(where)
        there.append(found)
    parts = zip(classes, there, strict=True)
    return pixels_chosen(
        torch.cat(places, dim=-1),
        torch.cat(there, dim=-1),
        label_maps.shape[2:],
        view_shape,
        klass=torch.cat([torch.full_like(part, klass, dtype=torch.int64) for klass, part in parts], dim=-1),
        group=torch.cat(groups, dim=-1) if groups else None,
    )


def balanced_points(
    label_maps: LabelMapsOfViews,
    n: int,
    rng: torch.Generator,
    *,
    classes: Sequence[int],
    power: float = 0.0,
    among: MaskOfViews | None = None,
    view_shape: Sequence[int] | None = None,
) -> Points:
    """`n` pixels of each view, shared out among its classes as their pixel counts to some power.

    Where classes are large, a view's share of a class is near count^power over the sum of them; a small class is
    taken whole and the others share what it leaves.

    Args:
        power: 0 is equal shares, 0.5 the square root of the frequency, 1 the frequency, -1 its inverse.
    """
    weights = class_weights(label_maps, classes=classes, power=power, among=among).flatten(2)
    places, there = choose(random_keys(weights, rng), n)
    klass = label_maps.flatten(2).long().gather(-1, places)
    return pixels_chosen(places, there, label_maps.shape[2:], view_shape, klass=klass)


def class_weights(
    label_maps: LabelMapsOfViews, *, classes: Sequence[int], power: float, among: MaskOfViews | None = None
) -> Float[Tensor, "batch view *map"]:
    """Weight of each pixel: count^(power - 1) of its class in its view, 0 for classes that are not named."""
    weights = torch.zeros(label_maps.shape, device=label_maps.device)
    for klass in classes:
        there = label_maps == klass
        if among is not None:
            there = there & among
        count = there.flatten(2).sum(dim=-1).clamp(min=1).to(torch.float32) ** (power - 1)
        weights = torch.where(there, count.reshape(*count.shape, *[1] * (there.dim() - 2)), weights)
    return weights


def boundary_points(
    label_maps: LabelMapsOfViews,
    per_class: int | Sequence[int],
    rng: torch.Generator,
    *,
    classes: Sequence[int],
    radius: int | Sequence[int],
    share: float = 1.0,
    view_shape: Sequence[int] | None = None,
) -> Points:
    """A quota of pixels of each class in each view, all or a share of it from the band along class borders.

    Args:
        radius: of `boundary_band`.
        share: 1 draws from the band alone; below, the rest of the quota is from elsewhere, and where the band or
            the rest is short, the other fills up (`group` 1 for the band, 0 for elsewhere).
    """
    band = boundary_band(label_maps, radius)
    if share >= 1:
        return class_points(label_maps, per_class, rng, classes=classes, among=band, view_shape=view_shape)
    return class_points(
        label_maps, per_class, rng, classes=classes, preferred=band, preferred_share=share, view_shape=view_shape
    )


@torch.no_grad()
def boundary_band(label_maps: LabelMapsOfViews, radius: int | Sequence[int]) -> MaskOfViews:
    """Labelled pixels with a pixel of another class within `radius` along each axis.

    What nobody labelled (IGNORE) is no class: it makes no border, nor is it part of the band.

    Args:
        radius: in pixels of the map; 0 along an axis looks for borders in the others alone.
    """
    spatial = label_maps.dim() - 2
    radii = (radius,) * spatial if isinstance(radius, int) else tuple(radius)
    pool = F.max_pool2d if spatial == 2 else F.max_pool3d
    labels = label_maps.flatten(0, 1).to(torch.float32)
    unknown = labels == IGNORE
    # the largest class nearby, and the smallest as the largest of the negatives
    extremes = torch.stack((labels, -labels), dim=1).masked_fill_(unknown.unsqueeze(1), float("-inf"))
    for axis, r in enumerate(radii):
        if r:
            size = [2 * r + 1 if other == axis else 1 for other in range(spatial)]
            extremes = pool(extremes, size, stride=1, padding=[n // 2 for n in size])
    largest, smallest = extremes[:, 0], -extremes[:, 1]
    band = (largest != smallest) & ~unknown
    return band.reshape(label_maps.shape)


def radius_in_voxels(width_mm: float, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """How many whole voxels a width holds along each axis; 0 where one voxel is thicker.

    Raises:
        ValueError: it holds no voxel along any axis.
    """
    radii = tuple(int(width_mm / mm + WHOLE_VOXEL) for mm in spacing_mm)
    if not any(radii):
        raise ValueError(f"a band of {width_mm} mm holds no voxel of {tuple(spacing_mm)} mm; make it wider")
    return radii


def halves(
    label_maps: LabelMapsOfViews,
    probs: Float[Tensor, "batch view klass *map"],
    per_class: int | Sequence[int],
    rng: torch.Generator,
    *,
    classes: Sequence[int],
    by: Literal["agreement", "confidence"] = "agreement",
    view_shape: Sequence[int] | None = None,
) -> Points:
    """A quota of each class in each view, half of it hard and half easy; where one is short the other fills up.

    `group` is 1 for hard and 0 for easy.

    Args:
        probs: the network's; on the grid of the label maps.
        by: "agreement" calls hard where another class is the most probable (logits do as well); "confidence"
            the half of each class in each view whose own class is the least probable.
    """
    hard = probs.argmax(dim=2) != label_maps
    if by == "confidence":
        own = probs.gather(2, label_maps.long().clamp(min=0).unsqueeze(2)).squeeze(2)
        hard = hardest_half(label_maps, own, rng)
    return class_points(
        label_maps, per_class, rng, classes=classes, preferred=hard, preferred_share=0.5, view_shape=view_shape
    )


def hardest_half(
    label_maps: LabelMapsOfViews, confidence: Float[Tensor, "batch view *map"], rng: torch.Generator
) -> MaskOfViews:
    """The less confident half of the pixels of each class in each view, the smaller half where they are odd.

    Args:
        confidence: in [0, 1]; equals are told apart by chance.
    """
    labels = label_maps.flatten(2)
    generator = generator_on(rng, labels.device)
    ties = torch.rand(labels.shape, generator=generator, device=labels.device, dtype=torch.float64)
    sure = confidence.detach().flatten(2).to(torch.float64).clamp(0, 1)
    order = (2 * labels + sure + 1e-9 * ties).argsort(dim=-1)  # by class, then by confidence
    ranked = labels.gather(-1, order)
    first = torch.searchsorted(ranked, ranked, side="left")
    last = torch.searchsorted(ranked, ranked, side="right")
    ranks = torch.arange(labels.shape[-1], device=labels.device)
    in_first_half = 2 * (ranks - first) < last - first - 1
    hard = torch.zeros_like(in_first_half).scatter(-1, order, in_first_half)
    return hard.reshape(label_maps.shape) & (label_maps != IGNORE)
