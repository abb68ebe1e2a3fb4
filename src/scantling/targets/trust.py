"""How far silver and noisy labels may be believed: weights per case and per pixel, and correction by a teacher.

Weights lie in [0, 1]; 1 is a label like one drawn by an expert. `combined_trust` joins what is computed apart.
Borders are measured on the CPU and are to be measured once a case, when its targets are made, and not in every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Float32, Int8, Integer
from torch import Tensor

from scantling.shapes import IGNORE, ClassMask, LabelMap, LabelMaps, Probs, Weights

BACKGROUND: Final = 0


class Origin(IntEnum):
    """Where a corrected label comes from."""

    UNKNOWN = 0
    """There was no label, and there is none."""
    GIVEN = 1
    """The label as it was given."""
    CORRECTED = 2
    """The teacher was sure of another class."""
    FILLED = 3
    """There was no label, and the teacher was sure."""
    DOUBTED = 4
    """The teacher disagreed without being sure, and the label was taken away."""


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """Labels after correction, and for each pixel the `Origin` of its label."""

    label_maps: LabelMaps
    origins: Int8[Tensor, "batch *spatial"]


def case_trust(quality: float, *, worst: float = 0.5, best: float = 0.9) -> float:
    """The weight of a whole case from the estimated quality of its label: 0 up to `worst`, 1 from `best` on.

    A case whose quality is unknown (NaN) has weight 0.

    Args:
        quality: higher is better: an estimated Dice, or the agreement of several raters.

    Raises:
        ValueError: `best` is not above `worst`.
    """
    if not worst < best:
        raise ValueError(f"case_trust: wanted worst < best, got {worst} and {best}")
    return 0.0 if math.isnan(quality) else min(max((quality - worst) / (best - worst), 0.0), 1.0)


def border_distance_mm(label_map: LabelMap, spacing_mm: Sequence[float]) -> Float32[Tensor, "*spatial"]:
    """For each pixel the distance in mm to the nearest pixel of another label, centre to centre.

    IGNORE is no other label, for nobody knows where the border is there; its own pixels have 0. Where there is one
    label only the distance is infinite: the end of the image is no border.

    Args:
        spacing_mm: per axis, in array order.
    """
    labels = label_map.cpu().numpy()
    result = np.zeros(labels.shape, np.float32)
    unknown: Bool[np.ndarray, "*spatial"] = labels == IGNORE
    for value in np.unique(labels[~unknown]):
        box = _box(labels, int(value)) if not unknown.any() else (slice(None),) * labels.ndim
        part = labels[box]
        other = (part != value) & ~unknown[box]
        distance = (
            scipy.ndimage.distance_transform_edt(~other, sampling=tuple(spacing_mm))
            if other.any()
            else np.float32(np.inf)
        )
        result[box] = np.where(part == value, distance, result[box])
    return torch.from_numpy(result).to(label_map.device)


def border_trust(
    distances_mm: Float[Tensor, "*pixel"], *, scale_mm: float, lowest: float = 0.0
) -> Float[Tensor, "*pixel"]:
    """1 - (1 - lowest) exp(-d / scale): `lowest` on the border, 0.63 of the way to 1 at `scale_mm`.

    Raises:
        ValueError: `scale_mm` is not positive, or `lowest` not in [0, 1].
    """
    if scale_mm <= 0 or not 0 <= lowest <= 1:
        raise ValueError(f"border_trust: wanted scale_mm > 0 and lowest in [0, 1], got {scale_mm} and {lowest}")
    return 1 - (1 - lowest) * torch.exp(-distances_mm / scale_mm)


def agreement_trust(label_maps: LabelMaps, probs: Probs, *, annotated: ClassMask | None = None) -> Weights:
    """The label's probability over the highest one, by a teacher: 1 where it agrees, 0 where there is no label.

    Args:
        annotated: classes that were looked for. A pixel labelled background may be any of the others, so the
            probabilities of these count as background's.
    """
    merged = _merged(probs.detach(), label_maps, annotated)
    of_label = merged.gather(1, label_maps.long().clamp(min=0).unsqueeze(1)).squeeze(1)
    ratio = of_label / merged.amax(dim=1).clamp(min=torch.finfo(merged.dtype).tiny)
    return ratio.masked_fill(label_maps == IGNORE, 0)


def uncertainty_trust(uncertainty: Weights, *, scale: float = 1.0) -> Weights:
    """exp(-u / scale): 1 where nothing is uncertain; no gradient.

    Source: Zheng and Yang 2021, "Rectifying pseudo label learning via uncertainty estimation", Eq. 6.

    Raises:
        ValueError: `scale` is not positive.
    """
    if scale <= 0:
        raise ValueError(f"uncertainty_trust: wanted scale > 0, got {scale}")
    return torch.exp(-uncertainty.detach() / scale)


def combined_trust(
    *parts: Weights, label_maps: LabelMaps | None = None, how: Literal["product", "least"] = "product"
) -> Weights:
    """Several weights of each pixel as one in [0, 1]: 0 where it is IGNORE, and where a part is NaN.

    Raises:
        ValueError: no parts.
    """
    if not parts:
        raise ValueError("combined_trust: got no weights")
    clipped = torch.stack([part.nan_to_num(nan=0.0).clamp(0, 1) for part in parts])
    joined = clipped.prod(dim=0) if how == "product" else clipped.amin(dim=0)
    return joined if label_maps is None else joined.masked_fill(label_maps == IGNORE, 0)


def corrected_labels(
    label_maps: LabelMaps,
    probs: Probs,
    *,
    threshold: float | Float[Tensor, "_"],
    annotated: ClassMask | None = None,
    trusted: Bool[Tensor, "batch *spatial"] | None = None,
    in_doubt: Literal["keep", "ignore"] = "keep",
    fill: bool = False,
) -> Corrected:
    """Noisy labels with those changed of which a teacher is sure that they are wrong.

    Args:
        probs: the teacher's.
        threshold: least probability of the teacher's class for it to count as sure: one, or one for each class.
        annotated: classes that were looked for. A teacher that sees one of the others where the label says
            background does not contradict it.
        trusted: pixels whose label is never changed, such as scribbles.
        in_doubt: what happens where the teacher disagrees and is not sure: keep the label, or IGNORE it.
        fill: whether pixels without a label get the teacher's, where it is sure.
    """
    merged = _merged(probs.detach(), label_maps, annotated)
    highest, teacher = merged.max(dim=1)
    is_sure = highest >= (threshold[teacher] if isinstance(threshold, Tensor) else threshold)
    is_given = label_maps != IGNORE
    may_change = torch.ones_like(is_given) if trusted is None else ~trusted
    disputed = is_given & (teacher != label_maps) & may_change
    corrected, filled = disputed & is_sure, ~is_given & is_sure & may_change & fill
    doubted = disputed & ~is_sure & (in_doubt == "ignore")
    origins = torch.where(is_given, int(Origin.GIVEN), int(Origin.UNKNOWN)).to(torch.int8)
    for origin, where in ((Origin.CORRECTED, corrected), (Origin.FILLED, filled), (Origin.DOUBTED, doubted)):
        origins = origins.masked_fill(where, int(origin))
    changed = torch.where(corrected | filled, teacher.to(label_maps.dtype), label_maps)
    return Corrected(label_maps=changed.masked_fill(doubted, IGNORE), origins=origins)


def _merged(probs: Tensor, label_maps: Tensor, annotated: Tensor | None) -> Tensor:
    """Probabilities with those of classes nobody looked for added to background's, where the label is background."""
    if annotated is None:
        return probs
    apart = (~annotated).clone()
    apart[:, BACKGROUND] = False
    apart = apart.view(*apart.shape, *[1] * (probs.ndim - 2)) & (label_maps == BACKGROUND).unsqueeze(1)
    moved = torch.where(apart, probs, 0)
    background = probs[:, :1] + moved.sum(dim=1, keepdim=True)
    return torch.cat((background, (probs - moved)[:, 1:]), dim=1)


def _box(labels: Integer[np.ndarray, "*spatial"], value: int) -> tuple[slice, ...]:
    """The smallest box around a label, and a pixel more on each side: whatever else is nearest lies in it.

    A pixel beyond, moved to the nearest place in the box, is nearer to everything inside and not of this label.
    """
    mask = labels == value
    box = []
    for axis in range(labels.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(labels.ndim) if other != axis)))
        box.append(slice(max(int(hit[0]) - 1, 0), int(hit[-1]) + 2))
    return tuple(box)
