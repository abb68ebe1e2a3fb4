"""Pixels of one view against all pixels of another of the same image: each image on its own, both views small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from scantling.losses.averaging import SumOverProcesses, weighted_mean

Maps = Float[Tensor, "batch pixel feature"]


def propagated(
    features: Maps,
    values: Float[Tensor, "batch pixel value"],
    *,
    usable: Bool[Tensor, "batch pixel"] | None = None,
    sharpness: float = 2.0,
) -> Float[Tensor, "batch pixel value"]:
    """Each pixel's sum of the values of all pixels of its view, by how alike their features are.

    The weight of a pixel is max(cosine, 0) to the power of `sharpness`; a pixel itself has weight 1. Values of
    pixels that are not usable go nowhere.

    Source: Xie et al. 2021, "Propagate yourself", Eq. 3 and 4.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = _unit(features)
        alike = (unit @ unit.transpose(1, 2)).clamp(min=0) ** sharpness
        if usable is not None:
            alike = alike * usable.unsqueeze(1)
        return alike @ values.to(alike.dtype)


def near_consistency(
    first: Maps,
    second: Float[Tensor, "batch other feature"],
    near: Bool[Tensor, "batch pixel other"],
    *,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """1 - cosine over the near pairs of each image, the mean over images that have one; 0 where none has.

    Args:
        sum_over_processes: sums a tensor over all processes, in its backward pass the gradients too; the result is
            then the mean over the images of all of them.

    Source: Xie et al. 2021, "Propagate yourself", Eq. 5, half of it; 1 is added, so that the least is 0.
    """
    with torch.autocast(first.device.type, enabled=False):
        cosines = _unit(first) @ _unit(second).transpose(1, 2)
        pairs = near.sum(dim=(1, 2)).to(cosines.dtype)
        terms = ((1 - cosines) * near).sum(dim=(1, 2)) / pairs.clamp(min=1)
        return weighted_mean(terms, (pairs > 0).to(terms.dtype), sum_over_processes)


def near_contrast(
    first: Maps,
    second: Float[Tensor, "batch other feature"],
    near: Bool[Tensor, "batch pixel other"],
    *,
    usable: Bool[Tensor, "batch other"] | None = None,
    temperature: float,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """-log of the near pixels' share of the softmax over all pixels of the other view, of the same image.

    The near pixels of an anchor share one logarithm, where `info_nce` has one each. The mean runs over the anchors
    of an image that have a near pixel, then over images that have an anchor; 0 where none has.

    Args:
        usable: False is a pixel of the other view that is compared with none.
        temperature: divides the cosines; > 0.
        sum_over_processes: as in `near_consistency`.

    Raises:
        ValueError: a temperature that is not positive.

    Source: Xie et al. 2021, "Propagate yourself", Eq. 2.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    with torch.autocast(first.device.type, enabled=False):
        logits = _unit(first) @ _unit(second).transpose(1, 2) / temperature
        compared = torch.ones_like(near) if usable is None else usable.unsqueeze(1).expand_as(near)
        near = near & compared
        anchors = near.any(dim=2)
        # where there is nothing to take, a 0 keeps infinities out of the gradient
        positive = logits.masked_fill(~near & anchors.unsqueeze(2), float("-inf")).logsumexp(dim=2)
        everything = logits.masked_fill(~compared & anchors.unsqueeze(2), float("-inf")).logsumexp(dim=2)
        counts = anchors.sum(dim=1).to(logits.dtype)
        terms = ((everything - positive) * anchors).sum(dim=1) / counts.clamp(min=1)
        return weighted_mean(terms, (counts > 0).to(terms.dtype), sum_over_processes)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=2)
