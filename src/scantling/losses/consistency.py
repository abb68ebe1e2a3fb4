"""Agreement of a prediction with another one: soft and hard targets, squared differences, and its own entropy.

The prediction comes as logits and learns; targets never carry a gradient, whatever they were made from. Where two
networks both learn, add the loss with their roles exchanged; a squared difference has then the gradient it would have
without detaching, and twice the value. Pixels of weight 0, and where label maps are given those labelled IGNORE, add
nothing and may hold anything, NaN included. Sums run in float32 (float64 for float64), under autocast too.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from scantling.losses.averaging import SumOverProcesses, weighted_mean
from scantling.shapes import IGNORE, LabelMaps, Logits, Probs, Weights


def hard_targets(probs: Probs, *, threshold: float = 0.0) -> LabelMaps:
    """The most probable class of each pixel, the first of several; IGNORE where its probability is below `threshold`.

    Where probabilities are NaN the target is IGNORE.

    Source: Sohn et al. 2020, "FixMatch", Eq. 4.
    """
    highest, label_maps = probs.detach().max(dim=1)
    return torch.where(highest >= threshold, label_maps, IGNORE)


def hard_cross_entropy(
    logits: Logits,
    targets: LabelMaps,
    weights: Weights | None = None,
    *,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Mean over pixels that have a target, by weight, of -log of its probability, in nats; 0 if there is none.

    It divides by the weights of the pixels that have a target. FixMatch divides by all pixels: multiply by the share
    of them that have one.

    Args:
        targets: class index, IGNORE where there is none, such as from `hard_targets`.
        weights: >= 0; None is 1.
        sum_over_processes: sums a tensor over all processes, in its backward pass the gradients too; the result
            is then the mean over the pixels of all of them.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores, counted = _counted(logits, weights, targets)
        index = targets.flatten(1).long().clamp(min=0).unsqueeze(1)
        terms = -scores.log_softmax(dim=1).gather(1, index).squeeze(1)
        return weighted_mean(terms, counted, sum_over_processes)


def soft_cross_entropy(
    logits: Logits,
    targets: Probs,
    weights: Weights | None = None,
    *,
    label_maps: LabelMaps | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Mean over pixels, by weight, of -sum over classes of target times log probability, in nats; 0 if there is none.

    Args:
        targets: probabilities.
        weights: >= 0; None is 1.
        label_maps: where given, pixels of label IGNORE do not count; what else the label is does not matter.
        sum_over_processes: as in `hard_cross_entropy`.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", Sec. 2.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores, counted = _counted(logits, weights, label_maps)
        probs = _silenced(targets.detach(), counted, scores.dtype)
        return weighted_mean(-(probs * scores.log_softmax(dim=1)).sum(dim=1), counted, sum_over_processes)


def kl_divergence(
    logits: Logits,
    targets: Probs,
    weights: Weights | None = None,
    *,
    label_maps: LabelMaps | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Mean over pixels, by weight, of KL(target, prediction) in nats: `soft_cross_entropy` less the targets' entropy.

    0 where they agree; the gradient is that of `soft_cross_entropy`.

    Args:
        targets, weights, label_maps, sum_over_processes: as in `soft_cross_entropy`.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores, counted = _counted(logits, weights, label_maps)
        probs = _silenced(targets.detach(), counted, scores.dtype)
        terms = -(torch.special.entr(probs) + probs * scores.log_softmax(dim=1)).sum(dim=1)
        return weighted_mean(terms, counted, sum_over_processes)


def probability_mse(
    logits: Logits,
    targets: Probs,
    weights: Weights | None = None,
    *,
    label_maps: LabelMaps | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Mean over pixels, by weight, and classes of the squared difference of probabilities, in [0, 2 / classes].

    Args:
        targets, weights, label_maps, sum_over_processes: as in `soft_cross_entropy`.

    Source: Tarvainen and Valpola 2017, "Mean teachers are better role models", Sec. 2.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores, counted = _counted(logits, weights, label_maps)
        difference = scores.softmax(dim=1) - _silenced(targets.detach(), counted, scores.dtype)
        return weighted_mean(difference.square().mean(dim=1), counted, sum_over_processes)


def logit_mse(
    logits: Logits,
    targets: Logits,
    weights: Weights | None = None,
    *,
    label_maps: LabelMaps | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Mean over pixels, by weight, and classes of the squared difference of logits as they are, no softmax.

    It has no upper bound, and adding a constant to all logits of a pixel changes it and not the prediction.

    Args:
        targets: logits.
        weights, label_maps, sum_over_processes: as in `soft_cross_entropy`.

    Source: PCLMix, agreement of the two decoders.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores, counted = _counted(logits, weights, label_maps)
        difference = scores - _silenced(targets.detach(), counted, scores.dtype)
        return weighted_mean(difference.square().mean(dim=1), counted, sum_over_processes)


def prediction_entropy(
    logits: Logits,
    weights: Weights | None = None,
    *,
    label_maps: LabelMaps | None = None,
    normalised: bool = False,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Mean over pixels, by weight, of the entropy of the prediction, in nats; 0 where it is sure.

    Args:
        weights, label_maps, sum_over_processes: as in `soft_cross_entropy`.
        normalised: divided by the logarithm of the number of classes, in [0, 1].

    Raises:
        ValueError: `normalised`, and one class only.

    Source: Grandvalet and Bengio 2005, "Semi-supervised learning by entropy minimization", Eq. 5.
    """
    if normalised and logits.shape[1] < 2:
        raise ValueError("a normalised entropy needs two classes or more, got 1")
    with torch.autocast(logits.device.type, enabled=False):
        scores, counted = _counted(logits, weights, label_maps)
        log_probs = scores.log_softmax(dim=1)
        terms = -(log_probs.exp() * log_probs).sum(dim=1)
        return weighted_mean(terms / math.log(logits.shape[1]) if normalised else terms, counted, sum_over_processes)


def _counted(logits: Tensor, weights: Tensor | None, label_maps: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits `[batch, klass, pixel]` with 0 where nothing counts, and the weight of each pixel."""
    scores = logits.flatten(2)
    if scores.dtype != torch.float64:
        scores = scores.float()
    counted = torch.ones_like(scores[:, 0]) if weights is None else weights.flatten(1).to(scores.dtype)
    if label_maps is not None:
        counted = counted.masked_fill(label_maps.flatten(1) == IGNORE, 0)
    if weights is None and label_maps is None:
        return scores, counted
    return scores.masked_fill((counted == 0).unsqueeze(1), 0), counted


def _silenced(targets: Tensor, counted: Tensor, dtype: torch.dtype) -> Tensor:
    """Targets `[batch, klass, pixel]` with 0 where nothing counts."""
    return targets.flatten(2).to(dtype).masked_fill((counted == 0).unsqueeze(1), 0)
