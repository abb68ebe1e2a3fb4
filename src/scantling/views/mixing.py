"""Mixing of a batch: a box of another image, a blend of two, or another image's organs; drawn, then applied.

A `Mix` says of every pixel whose content it gets. The same value is applied to images, label maps, weights,
predictions and tags, so that they stay together pixel by pixel; `origin` says of every mixed pixel where it is
from. Nothing here waits for the device: where the generator is on it, all of a mix is made there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from scantling.shapes import IGNORE, Images, LabelMaps, Weights
from scantling.views.view import ViewBatch

Partners = Literal["another", "permuted"]


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What becomes of each image of a batch.

    Attributes:
        base: position in the batch of the image that gives what is outside the mask.
        partner: of the image that gives what is inside; the same as `base` leaves that image as it is.
        mask: True where the partner's content is; None for a blend.
        base_share: of a blend, in [0, 1]; the partner has the rest. None where a mask decides.
    """

    base: Int[Tensor, "batch"]
    partner: Int[Tensor, "batch"]
    mask: Bool[Tensor, "batch *spatial"] | None = None
    base_share: Float[Tensor, "batch"] | None = None

    def __post_init__(self) -> None:
        if (self.mask is None) == (self.base_share is None):
            raise ValueError("a mix has either a mask or a base_share")

    def to(self, device: torch.device) -> Mix:
        """The same mix on another device."""
        moved: dict[str, Any] = {
            name: None if part is None else part.to(device, non_blocking=True) for name, part in vars(self).items()
        }
        return Mix(**moved)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the content of mixed pixels is from: one entry, or two for a blend (base and partner).

    Attributes:
        sample: position in the batch that was mixed.
        view: number of the view within that sample.
        share: of the entry in the pixel's content; 1 over all entries.
    """

    sample: Int[Tensor, "entry batch *spatial"]
    view: Int[Tensor, "entry batch *spatial"]
    share: Float[Tensor, "entry batch *spatial"]

    def of(self, tags: Shaped[Tensor, "batch"]) -> Shaped[Tensor, "entry batch *spatial"]:
        """Each pixel's own of something known per sample: its case, its patient, its slice position."""
        return tags[self.sample]


class Unmixed(NamedTuple):
    """What a mixed batch was.

    Attributes:
        target: the images with nothing put in.
        altered: where mixing put in something of another image.
    """

    target: Images
    altered: Bool[Tensor, "batch *spatial"]


def draw_box(
    batch_size: int,
    shape: Sequence[int],
    *,
    fraction: float | tuple[float, float],
    generator: torch.Generator,
    partners: Partners = "another",
    device: torch.device | None = None,
) -> Mix:
    """One axis-aligned box an image, everywhere in it with equal probability.

    Of D axes, side k is `fraction ** e_k` of its axis, where the exponents are the pieces into which D - 1 uniform
    numbers cut [0, 1]: in 2D the height is `fraction ** u` and the width the rest. Sides are whole and at least 1;
    the last axis makes up for what rounding the others changed.

    Args:
        fraction: of the area or volume, in (0, 1]; a pair is a range, uniform, drawn for each image.
        partners: "another" leaves each image in its place and never takes the box from itself (in a batch of two
            or more); "permuted" takes what is outside and what is inside from two independent permutations, which
            are the same image once in `batch_size` times.
        device: of the mix; None is the generator's.

    Raises:
        ValueError: a fraction that is not in (0, 1], a range that falls, or no axes.

    Source: Yun et al. 2019, "CutMix", Eq. 1; the aspect in 2D: PCLMix, dynamic mix augmentation (fraction 0.2,
    "permuted").
    """
    low, high = fraction if isinstance(fraction, tuple) else (fraction, fraction)
    if not 0 < low <= high <= 1 or not shape:
        raise ValueError(f"draw_box: wanted axes and a fraction in (0, 1], got shape {list(shape)} and {fraction}")
    base, partner = _draw_partners(batch_size, partners, generator)
    of_whole = low + (high - low) * _uniform(batch_size, 1, generator).squeeze(1)
    sides = _draw_sides(shape, of_whole, generator)
    places = _uniform(batch_size, len(shape), generator)
    mask = torch.ones((batch_size, *[1] * len(shape)), dtype=torch.bool, device=generator.device)
    for axis, (length, side) in enumerate(zip(shape, sides, strict=True)):
        start = (places[:, axis] * (length - side + 1)).floor()
        index = torch.arange(length, device=generator.device)
        inside = (index >= start[:, None]) & (index < (start + side)[:, None])
        mask = mask & inside.reshape(batch_size, *[length if k == axis else 1 for k in range(len(shape))])
    return Mix(base=base, partner=partner, mask=mask).to(device or generator.device)


def draw_blend(
    batch_size: int,
    *,
    generator: torch.Generator,
    concentration: float = 1.0,
    partners: Partners = "another",
    device: torch.device | None = None,
) -> Mix:
    """A weighted mean of two images, one share an image.

    Args:
        concentration: a of the share's distribution Beta(a, a), > 0; 1 is uniform.
        partners, device: as in `draw_box`.

    Raises:
        ValueError: a concentration that is not positive.

    Source: Zhang et al. 2018, "mixup: Beyond empirical risk minimization", Eq. 1.
    """
    if concentration <= 0:
        raise ValueError(f"draw_blend: wanted concentration > 0, got {concentration}")
    base, partner = _draw_partners(batch_size, partners, generator)
    both = torch.full((batch_size, 2), concentration, dtype=torch.float64, device=generator.device)
    share = torch._sample_dirichlet(both, generator=generator)[:, 0].float()
    return Mix(base=base, partner=partner, base_share=share).to(device or generator.device)


def draw_organs(
    label_maps: LabelMaps,
    *,
    classes: Sequence[int],
    generator: torch.Generator,
    partners: Partners = "another",
    weights: Weights | None = None,
) -> Mix:
    """The pixels of the partner that are labelled as one of `classes`; unknown pixels stay the base's.

    Args:
        label_maps: of the images to be mixed.
        classes: class indices.
        partners: as in `draw_box`.
        weights: where given, a label of weight 0 is unknown too.
    """
    base, partner = (drawn.to(label_maps.device) for drawn in _draw_partners(len(label_maps), partners, generator))
    wanted = torch.zeros_like(label_maps, dtype=torch.bool)
    for klass in classes:
        wanted = wanted | (label_maps == klass)
    wanted = wanted & (label_maps != IGNORE)
    if weights is not None:
        wanted = wanted & (weights > 0)
    return Mix(base=base, partner=partner, mask=wanted[partner])


def mix_images(images: Images, mix: Mix, partner_images: Images | None = None) -> Images:
    """Mixed images, features or soft predictions.

    Args:
        partner_images: what is inside the mask, where that comes from elsewhere, such as another network's
            prediction for the same batch; None is `images`.
    """
    base, partner = _both(images, mix, partner_images)
    if mix.base_share is None:
        return _chosen(base, partner, mix)
    share = _along(mix.base_share, images.ndim).to(images.dtype)
    return torch.lerp(partner, base, share)  # exact where both are the same


def mix_labels(label_maps: LabelMaps, mix: Mix, partner_label_maps: LabelMaps | None = None) -> LabelMaps:
    """Mixed label maps or hard pseudo-labels; in a blend the label that both have, IGNORE where they differ.

    Args:
        partner_label_maps: as in `mix_images`.
    """
    base, partner = _both(label_maps, mix, partner_label_maps)
    return _joined_labels(base, partner, mix)


def mix_weights(weights: Weights, mix: Mix, partner_weights: Weights | None = None) -> Weights:
    """Mixed weights; in a blend the smaller of the two, for its label is no surer than either.

    Args:
        partner_weights: as in `mix_images`.
    """
    base, partner = _both(weights, mix, partner_weights)
    return torch.minimum(base, partner) if mix.mask is None else _chosen(base, partner, mix)


def mix_tags(tags: Shaped[Tensor, "batch *any"], mix: Mix) -> Shaped[Tensor, "entry batch *any"]:
    """Anything known of each pixel, as the entries of `origin`: one, or base's and partner's for a blend."""
    base, partner = _both(tags, mix, None)
    return torch.stack((base, partner)) if mix.mask is None else _chosen(base, partner, mix).unsqueeze(0)


def origin(mix: Mix, shape: Sequence[int], *, view: int = 0, partner_view: int | None = None) -> Origin:
    """Where each mixed pixel is from.

    Args:
        shape: of the images, channels not counted.
        view: of the base.
        partner_view: None is `view`.
    """
    whole = (len(mix.base), *shape)
    base_view = torch.full_like(mix.base, view)
    other_view = torch.full_like(mix.base, view if partner_view is None else partner_view)
    if mix.mask is None:
        assert mix.base_share is not None
        sample, views, share = (
            torch.stack([_along(part, len(whole)).expand(whole) for part in parts])
            for parts in (
                (mix.base, mix.partner),
                (base_view, other_view),
                (mix.base_share, 1 - mix.base_share),
            )
        )
        return Origin(sample=sample, view=views, share=share)
    _require_shape(mix.mask, whole)
    sample, views = (
        torch.where(mix.mask, _along(inside, len(whole)), _along(outside, len(whole))).unsqueeze(0)
        for outside, inside in ((mix.base, mix.partner), (base_view, other_view))
    )
    return Origin(sample=sample, view=views, share=torch.ones_like(sample, dtype=torch.float32))


def unmix(images: Images, mix: Mix) -> Unmixed:
    """What is to be reconstructed from a mixed batch, and which of its pixels were altered.

    Args:
        images: those that were mixed.
    """
    differ = _along(mix.base != mix.partner, images.ndim - 1)
    if mix.mask is None:
        assert mix.base_share is not None
        altered = (differ & _along(mix.base_share < 1, images.ndim - 1)).expand(len(images), *images.shape[2:])
    else:
        altered = differ & mix.mask
    return Unmixed(images[mix.base], altered)


def mix_views(
    batch: ViewBatch, mix: Mix, *, view: int = 0, partner_view: int | None = None
) -> tuple[ViewBatch, Origin]:
    """The batch with one view of each sample mixed, and where the pixels of that view are from.

    Sample i of the result is sample `mix.base[i]` of the batch; its other views, its matrices and the classes that
    were looked for are that sample's own. What was put into it keeps its label only as far as it is true under
    these classes: background of a partner in which one of them was not looked for becomes IGNORE, and so does a
    class that the base does not look for. Positions, patients and looked-for classes of the pixels put in are the
    partner's: ask the batch that was mixed, by `Origin`.

    Args:
        view: the view that is mixed.
        partner_view: the view that gives what is inside the mask; None is `view`.
    """
    other = view if partner_view is None else partner_view
    own = replace(batch, **_reordered(batch, mix.base))
    images, label_maps, weights = own.images, own.label_maps, own.weights  # new tensors, by the reordering
    images[:, view] = mix_images(batch.images[:, view], mix, batch.images[:, other])
    weights[:, view] = mix_weights(batch.weights[:, view], mix, batch.weights[:, other])
    put_in = _as_the_base_sees_it(batch.label_maps[:, other][mix.partner], batch.annotated, mix)
    label_maps[:, view] = _joined_labels(own.label_maps[:, view], put_in, mix)
    mixed = replace(own, images=images, label_maps=label_maps, weights=weights)
    return mixed, origin(mix, images.shape[3:], view=view, partner_view=partner_view)


def _draw_partners(batch_size: int, partners: Partners, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    order = _uniform(1, batch_size, generator).squeeze(0).argsort()
    if partners == "permuted":
        return order, _uniform(1, batch_size, generator).squeeze(0).argsort()
    # each is given the one after it in a random round, which is another one wherever there are two
    partner = torch.empty_like(order).scatter_(0, order, order.roll(-1))
    return torch.arange(batch_size, device=generator.device), partner


def _draw_sides(shape: Sequence[int], fraction: Tensor, generator: torch.Generator) -> list[Tensor]:
    cuts = _uniform(len(fraction), len(shape) - 1, generator).sort(dim=1).values
    exponents = torch.diff(cuts, dim=1, prepend=torch.zeros_like(fraction)[:, None])
    sides = [
        (length * fraction ** exponents[:, axis]).round().clamp(1, length) for axis, length in enumerate(shape[:-1])
    ]
    rest = fraction * math.prod(shape)
    for side in sides:
        rest = rest / side
    return [*sides, rest.round().clamp(1, shape[-1])]


def _uniform(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    # float64: times any number of pixels it stays below that number
    return torch.rand((rows, columns), generator=generator, dtype=torch.float64, device=generator.device)


def _both(values: Tensor, mix: Mix, partner_values: Tensor | None) -> tuple[Tensor, Tensor]:
    return values[mix.base], (values if partner_values is None else partner_values)[mix.partner]


def _chosen(base: Tensor, partner: Tensor, mix: Mix) -> Tensor:
    """The partner's inside the mask; values with channels have one axis more than the mask."""
    assert mix.mask is not None
    mask = mix.mask if base.ndim == mix.mask.ndim else mix.mask.unsqueeze(1)
    _require_shape(mix.mask, (len(base), *base.shape[base.ndim - mix.mask.ndim + 1 :]))
    return torch.where(mask, partner, base)


def _joined_labels(base: Tensor, partner: Tensor, mix: Mix) -> Tensor:
    return torch.where(base == partner, base, IGNORE) if mix.mask is None else _chosen(base, partner, mix)


def _as_the_base_sees_it(partner_labels: Tensor, annotated: Tensor, mix: Mix) -> Tensor:
    """Labels of the partners, IGNORE where they say nothing under the classes that were looked for in the bases."""
    of_base, of_partner = annotated[mix.base], annotated[mix.partner]
    truth = of_base.clone()
    truth[:, 0] &= (of_partner | ~of_base).all(dim=1)
    index = partner_labels.flatten(1).long().clamp(min=0)
    keeps = truth.gather(1, index).reshape(partner_labels.shape)
    return torch.where(keeps, partner_labels, IGNORE)


def _reordered(batch: ViewBatch, order: Tensor) -> dict[str, Any]:
    """Everything known per sample, in another order."""
    return {name: value[order.to(value.device)] for name, value in vars(batch).items() if isinstance(value, Tensor)}


def _along(per_sample: Tensor, ndim: int) -> Tensor:
    return per_sample.reshape(-1, *[1] * (ndim - 1))


def _require_shape(mask: Tensor, shape: Sequence[int]) -> None:
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"the mix is of {list(mask.shape)} pixels but is applied to {list(shape)}; draw it for these")
