"""Cross-entropy and Dice for labels that may be sparse, weighted, and know only some of the classes.

A pixel of label IGNORE or weight 0 gives no gradient. `annotated` says, per sample, which classes were looked
for: where some were not, a pixel labelled background is background *or any of those*, and their probabilities
are added up. A pixel labelled with a class that was not looked for contradicts itself and is ignored.
Everything is summed in float32 (float64 for float64 logits), under autocast too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scantling.shapes import ClassMask, LabelMaps, Logits, Weights

BACKGROUND: Final = 0
SMOOTHING: Final = 1e-5  # pixels; only keeps 0/0 away, for a class is counted only where it has a pixel

SumOverProcesses = Callable[[Tensor], Tensor]
SegmentationTerms = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class _Labelled:
    """What both losses start from, computed once.

    Attributes:
        log_probs: of every class at every pixel.
        chosen: log probability of the pixel's own label, unannotated classes merged into background.
        index: the label, 0 where there is none.
        weights: 0 where there is no label.
    """

    log_probs: Float[Tensor, "batch klass pixel"]
    chosen: Float[Tensor, "batch pixel"]
    index: Int[Tensor, "batch pixel"]
    weights: Float[Tensor, "batch pixel"]


def cross_entropy(
    logits: Logits,
    label_maps: LabelMaps,
    weights: Weights,
    annotated: ClassMask,
    *,
    normaliser: Float[Tensor, ""] | float | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Mean over labelled pixels, by weight, of -log of the label's probability; 0 if there is none.

    The mean divides by the sum of the weights. With several processes whose gradients are averaged, each must
    divide by the mean of all their weight sums for the step to equal the step of one process: pass that
    as `normaliser`, or pass `sum_over_processes`.

    Args:
        normaliser: divides the weighted sum instead of this batch's own `weight_sum`; 0 counts as 1.
        sum_over_processes: sums a tensor over all processes, in its backward pass the gradients too. The
            result is then the loss of the whole batch in every process.

    Source: Shi et al. 2021, "Marginal loss and exclusion loss for partially supervised multi-organ
    segmentation", marginal cross-entropy (unannotated classes merged into background).
    """
    return _cross_entropy(_prepare(logits, label_maps, weights, annotated), normaliser, sum_over_processes)


def dice_loss(
    logits: Logits,
    label_maps: LabelMaps,
    weights: Weights,
    annotated: ClassMask,
    *,
    per_sample: bool = False,
    smoothing: float = SMOOTHING,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """1 - soft Dice, the mean over annotated foreground classes that have a labelled pixel; 0 if none has.

    Sums run over labelled pixels of the samples in which the class was looked for. A class without a pixel
    has no overlap to measure and is left to the cross-entropy.

    Args:
        per_sample: Dice of each sample and class, then the mean; otherwise overlaps are summed over the batch
            first, which is steadier for small structures.
        smoothing: in weighted pixels, added to numerator and denominator.
        sum_over_processes: sums a tensor over all processes, in its backward pass the gradients too, so that
            a batch spread over them gives the loss and, gradients averaged, the step it gives in one.

    Source: Milletari et al. 2016, "V-Net", Dice loss layer, with plain instead of squared sums below;
    batch form: Isensee et al. 2021, "nnU-Net", Methods.
    """
    labelled = _prepare(logits, label_maps, weights, annotated)
    return _dice(labelled, annotated, per_sample, smoothing, sum_over_processes)


def dice_and_cross_entropy(
    logits: Logits,
    label_maps: LabelMaps,
    weights: Weights,
    annotated: ClassMask,
    *,
    per_sample: bool = False,
    smoothing: float = SMOOTHING,
    sum_over_processes: SumOverProcesses | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """`dice_loss` and `cross_entropy` from one softmax."""
    labelled = _prepare(logits, label_maps, weights, annotated)
    dice = _dice(labelled, annotated, per_sample, smoothing, sum_over_processes)
    return dice, _cross_entropy(labelled, None, sum_over_processes)


def weight_sum(label_maps: LabelMaps, weights: Weights, annotated: ClassMask) -> Float[Tensor, ""]:
    """What `cross_entropy` divides by: the weights of all pixels whose label counts."""
    kept, _ = _counted(label_maps, weights.float() if weights.dtype != torch.float64 else weights, annotated)
    return kept.sum()


def deep_supervision(
    loss: SegmentationTerms,
    logits: Tensor | Sequence[Tensor],
    label_maps: LabelMaps,
    weights: Weights,
    annotated: ClassMask,
) -> tuple[Tensor, ...]:
    """Each term's mean over logits of several resolutions, finest first, with weights 1, 1/2, 1/4, ...

    Labels and weights of coarser logits are those of the pixel nearest to the coarse pixel's centre. Logits
    of one resolution alone give the terms of `loss` as they are.

    Args:
        loss: gives a tuple of scalar terms, as `dice_and_cross_entropy` does.

    Source: Isensee et al. 2021, "nnU-Net", Methods (weights halved with each resolution, normalised to 1).
    """
    levels = [logits] if isinstance(logits, Tensor) else logits
    shares = [0.5**i for i in range(len(levels))]
    per_level = [
        loss(level, nearest(label_maps, level.shape[2:]), nearest(weights, level.shape[2:]), annotated)
        for level in levels
    ]
    return tuple(
        torch.stack([share * term for share, term in zip(shares, terms, strict=True)]).sum() / sum(shares)
        for terms in zip(*per_level, strict=True)
    )


def nearest(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps `[batch, *spatial]` at another size: the pixel nearest to each new centre, of two the lower."""
    for axis, (old, new) in enumerate(zip(maps.shape[1:], size, strict=True), start=1):
        if old == new:
            continue
        if old % new == 0:  # a view
            step = old // new
            maps = maps[(slice(None),) * axis + (slice((step - 1) // 2, None, step),)]
        else:
            centres = (torch.arange(new, dtype=torch.float64) + 0.5) * (old / new) - 0.5
            maps = maps.index_select(axis, (centres - 0.5).ceil().long().to(maps.device))
    return maps


def _prepare(logits: Tensor, label_maps: Tensor, weights: Tensor, annotated: Tensor) -> _Labelled:
    scores = logits.flatten(2)
    if scores.dtype != torch.float64:
        scores = scores.float()
    kept, index = _counted(label_maps, weights.to(scores.dtype), annotated)
    log_probs = scores.log_softmax(dim=1)
    chosen = log_probs.gather(1, index.unsqueeze(1)).squeeze(1)
    partial = ~annotated.all(dim=1)
    if bool(partial.any()):
        chosen = _merge_unannotated(log_probs, chosen, index, annotated, partial)
    return _Labelled(log_probs, chosen, index, kept)


def _counted(label_maps: Tensor, weights: Tensor, annotated: Tensor) -> tuple[Tensor, Tensor]:
    """Weights with 0 where the label does not count, and labels with 0 where there is none."""
    labels = label_maps.flatten(1)
    index = labels.long().clamp(min=0)
    counts = (labels >= 0) & annotated.gather(1, index)
    return weights.flatten(1) * counts, index


def _merge_unannotated(log_probs: Tensor, chosen: Tensor, index: Tensor, annotated: Tensor, partial: Tensor) -> Tensor:
    """`chosen` with the background of partly annotated samples standing for every class not looked for."""
    rows = partial.nonzero().squeeze(1)
    apart = annotated[rows].clone()
    apart[:, BACKGROUND] = False
    merged = log_probs[rows].masked_fill(apart.unsqueeze(2), float("-inf")).logsumexp(dim=1)
    merged = merged.clamp(max=0)  # rounding can lift a probability of 1 above it
    return chosen.index_copy(0, rows, torch.where(index[rows] == BACKGROUND, merged, chosen[rows]))


def _cross_entropy(
    labelled: _Labelled,
    normaliser: Tensor | float | None,
    sum_over_processes: SumOverProcesses | None,
) -> Tensor:
    total, count = -(labelled.weights * labelled.chosen).sum(), labelled.weights.sum()
    if sum_over_processes is not None:
        total, count = sum_over_processes(torch.stack((total, count))).unbind()
    if normaliser is not None:
        count = torch.as_tensor(normaliser, dtype=total.dtype, device=total.device)
    return total / torch.where(count > 0, count, torch.ones_like(count))


def _dice(
    labelled: _Labelled,
    annotated: Tensor,
    per_sample: bool,
    smoothing: float,
    sum_over_processes: SumOverProcesses | None,
) -> Tensor:
    overlap, predicted, present = _class_sums(labelled)
    looked_for = annotated.to(overlap.dtype)
    looked_for[:, BACKGROUND] = 0
    sums = torch.stack((overlap, predicted, present)) * looked_for
    if not per_sample:
        sums = sums.sum(dim=1)
        if sum_over_processes is not None:
            sums = sum_over_processes(sums)
    overlap, predicted, present = sums.unbind()
    counted = (present > 0).to(overlap.dtype)
    # Where no pixel is predicted or labelled, the 1 keeps the unused quotient finite.
    dice = (2 * overlap + smoothing) / (predicted + present + smoothing + (1 - counted))
    total, count = ((1 - dice) * counted).sum(), counted.sum()
    if per_sample and sum_over_processes is not None:
        total, count = sum_over_processes(torch.stack((total, count))).unbind()
    return total / count.clamp(min=1)


def _class_sums(labelled: _Labelled) -> tuple[Tensor, Tensor, Tensor]:
    """Per sample and class, over labelled pixels by weight: sum of p where labelled so, of p, and of labels.

    The label's own probability is the one merged value where classes are merged, which only background uses.
    """
    weights, index = labelled.weights, labelled.index
    n_classes = labelled.log_probs.shape[1]
    predicted = (labelled.log_probs.exp() * weights.unsqueeze(1)).sum(dim=2)
    overlap = _sum_by_class(labelled.chosen.exp() * weights, index, n_classes)
    return overlap, predicted, _sum_by_class(weights, index, n_classes)


def _sum_by_class(values: Tensor, index: Tensor, n_classes: int) -> Tensor:
    """Sums `[batch, klass]` of values `[batch, pixel]` by their class."""
    if values.device.type == "cpu":
        # One pass, eight times faster than a mask per class; float64, because scattering sums one by one.
        sums = values.new_zeros((len(values), n_classes), dtype=torch.float64)
        return sums.scatter_add(1, index, values.double()).to(values.dtype)
    # On an accelerator scattering adds in an order that differs from run to run.
    zero = torch.zeros_like(values)
    return torch.stack([torch.where(index == klass, values, zero).sum(dim=1) for klass in range(n_classes)], dim=1)
