"""How sure a prediction is, which of its pixels may serve as labels, and how fast that becomes important.

Every function takes probabilities that sum to 1 over the classes and gives one number a pixel. Sums run in float32
(float64 for float64). Where probabilities are NaN nothing is sure.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scantling.shapes import IGNORE, LabelMaps, Probs, Weights

Measure = Literal["probability", "margin", "entropy"]

RAMP_STEEPNESS: Final = 5.0
"""exp(-5 (1 - r)^2): the ramp of Laine and Aila 2017, "Temporal ensembling", Sec. 4.1, used ever since."""


@dataclass(frozen=True, kw_only=True)
class ConfidentLabels:
    """Labels made of a prediction.

    Attributes:
        label_maps: the most probable class, IGNORE where the prediction is not sure enough.
        weights: how sure, in [0, 1]; 0 where the label is IGNORE.
    """

    label_maps: LabelMaps
    weights: Weights


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Of a prediction that was sampled several times, in nats.

    Attributes:
        entropy: of the mean prediction: everything that is uncertain.
        mutual_information: between prediction and sample, the part in which the samples contradict each other;
            the rest, `entropy - mutual_information`, is what each sample itself is unsure of.
    """

    entropy: Weights
    mutual_information: Weights


def entropy(probs: Probs, *, normalised: bool = False) -> Weights:
    """-sum p log p over the classes, in nats; `normalised` by the logarithm of their number it is in [0, 1].

    Raises:
        ValueError: `normalised`, and one class only.
    """
    total: Tensor = torch.special.entr(_precise(probs)).sum(dim=1).clamp(min=0)
    return total / math.log(_at_least_two(probs)) if normalised else total


def margin(probs: Probs) -> Weights:
    """The highest probability minus the second highest, in [0, 1].

    Raises:
        ValueError: one class only.
    """
    _at_least_two(probs)
    first, second = _precise(probs).topk(2, dim=1).values.unbind(dim=1)
    return first - second


def top_probability(probs: Probs) -> Weights:
    """The probability of the most probable class."""
    return _precise(probs).amax(dim=1)


def agreement(label_maps: Int[Tensor, "prediction batch *spatial"], *, n_classes: int) -> Weights:
    """The share of several predictions that say what most of them say; 1 where all agree, IGNORE agrees with none."""
    votes = torch.stack([(label_maps == k).sum(dim=0) for k in range(n_classes)]).amax(dim=0)
    return votes / len(label_maps)


def foreground_agreement(label_maps: Int[Tensor, "prediction *spatial"], *, n_classes: int) -> float:
    """How alike several predictions of one image are: Dice, mean over foreground classes and pairs.

    A class counts in a pair where at least one of the two predicts it. NaN where no prediction has foreground.

    Raises:
        ValueError: fewer than two predictions.

    Source: Chaitanya et al. 2023, "Local contrastive loss with pseudo-label based self-training", volume filter
    (two predictions; volumes above 0.9 are kept).
    """
    if len(label_maps) < 2:
        raise ValueError(f"foreground_agreement: wanted two predictions or more, got {len(label_maps)}")
    scores = []
    for first, second in itertools.combinations(label_maps, 2):
        for k in range(1, n_classes):
            size = (first == k).sum() + (second == k).sum()
            scores.append(2 * ((first == k) & (second == k)).sum() / size)  # 0 / 0 is NaN
    return float(torch.stack(scores).nanmean()) if scores else math.nan


def predictive_uncertainty(samples: Float[Tensor, "sample batch klass *spatial"]) -> Uncertainty:
    """Uncertainty of several probabilistic predictions: dropout, noise, augmentations, or members of an ensemble.

    Source: Gal 2016, "Uncertainty in deep learning", Eq. 3.20 (predictive entropy) and 3.21 (mutual information).
    """
    total = entropy(_precise(samples).mean(dim=0))
    own = torch.stack([entropy(sample) for sample in samples]).mean(dim=0)
    return Uncertainty(entropy=total, mutual_information=(total - own).clamp(min=0))


def rising_entropy_threshold(progress: float, *, n_classes: int = 2, start: float = 0.75) -> float:
    """theta(r) = (start + (1 - start) exp(-5 (1 - r)^2)) ln K, in nats: 0.521 at first, 0.693 at last.

    Args:
        progress: r in [0, 1]; beyond, as at the end nearest to it.
        n_classes: K, whose even distribution would just pass at the end. Publications use ln 2 whatever the number
            of classes: at the end a pixel passes that hesitates between two of them, but not between three.
        start: share of the last threshold that holds at first, in [0, 1].

    Source: Yu et al. 2019, "Uncertainty-aware self-ensembling model", Sec. 2.3.
    """
    return (start + (1 - start) * sigmoid_ramp(progress)) * math.log(n_classes)


def class_quantiles(
    confidence: Weights, label_maps: LabelMaps, *, n_classes: int, quantile: float
) -> Float[Tensor, "_"]:
    """For each class the quantile of confidence among the pixels labelled so; +inf where there is none.

    As thresholds they keep the same share of every class, so that a rare one is not starved by a common one.

    Args:
        quantile: in [0, 1], linearly interpolated; 0.2 drops the least sure fifth of each class.

    Source: Zou et al. 2018, "Unsupervised domain adaptation for semantic segmentation via class-balanced
    self-training", Sec. 4.2 (there with a portion instead of a quantile).
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0, 1], got {quantile}")
    values, labels = _precise(confidence).flatten(), label_maps.flatten()
    thresholds = []
    for k in range(n_classes):
        mine = labels == k
        last = mine.sum() - 1
        place = quantile * last.clamp(min=0).to(values.dtype)
        ordered = values.masked_fill(~mine, math.inf).sort().values
        low, high = ordered[torch.stack((place.floor(), place.ceil())).long()].unbind()
        between = torch.lerp(low, high, place - place.floor())
        thresholds.append(torch.where(last >= 0, between, math.inf))
    return torch.stack(thresholds)


def confident_labels(
    probs: Probs, *, threshold: float | Float[Tensor, "_"], measure: Measure = "probability"
) -> ConfidentLabels:
    """The most probable class of each pixel that is sure enough, IGNORE elsewhere; no gradient.

    The weight is the highest probability, the margin, or 1 - entropy / ln K, as `measure` says.

    Args:
        threshold: one number, or one for each predicted class. Sure is a probability or margin of at least so
            much, or an entropy in nats of at most so much.
    """
    said = probs.detach()
    labels = said.argmax(dim=1)
    limit = threshold[labels] if isinstance(threshold, Tensor) else threshold
    if measure == "entropy":
        uncertain = entropy(said)
        is_sure = uncertain <= limit
        sureness = 1 - uncertain / math.log(_at_least_two(said))
    else:
        sureness = top_probability(said) if measure == "probability" else margin(said)
        is_sure = sureness >= limit
    return ConfidentLabels(
        label_maps=labels.masked_fill(~is_sure, IGNORE),
        weights=sureness.clamp(0, 1).masked_fill(~is_sure, 0),
    )


def with_annotations(predicted: ConfidentLabels, annotations: LabelMaps, *, weight: float = 1.0) -> ConfidentLabels:
    """What somebody annotated instead of what was predicted, wherever there is an annotation.

    Args:
        annotations: IGNORE where nobody looked. A scribble of background is an annotation like any other.
        weight: of annotated pixels.
    """
    known = annotations != IGNORE
    return ConfidentLabels(
        label_maps=torch.where(known, annotations.to(predicted.label_maps.dtype), predicted.label_maps),
        weights=predicted.weights.masked_fill(known, weight),
    )


def running_mean(before: Probs | None, probs: Probs, *, share: float = 0.2) -> Probs:
    """Predictions averaged over training: (1 - share) before + share now, or those of now at first; no gradient.

    Source: Lee and Jeong 2020, "Scribble2Label", Eq. 3 (share 0.2; a mean above 0.8 becomes a label).
    """
    now = probs.detach()
    return now if before is None else torch.lerp(before, now.to(before.dtype), share)


def sigmoid_ramp(progress: float) -> float:
    """exp(-5 (1 - r)^2) of progress r in [0, 1]: 0.007 at first, 1 at last; beyond, as at the nearest end."""
    return math.exp(-RAMP_STEEPNESS * (1 - _clipped(progress)) ** 2)


def polynomial_ramp(progress: float, *, power: float = 0.9, start: float = 0.0) -> float:
    """r^power of progress r in [0, 1], and 0 up to `start`; beyond, as at the nearest end."""
    ratio = _clipped(progress)
    return 0.0 if ratio <= start else ratio**power


def _clipped(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _at_least_two(probs: Tensor) -> int:
    if probs.shape[1] < 2:
        raise ValueError(f"wanted probabilities of two classes or more, got {probs.shape[1]}")
    return probs.shape[1]
