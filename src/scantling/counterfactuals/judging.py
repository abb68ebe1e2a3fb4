"""An attribute predictor put to use: how well it reads real images, and whether counterfactuals are as wanted."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from scantling.counterfactuals.attribute_predictor import (
    AttributePredictor,
    agreement,
    columns_by_attribute,
    predicted_values,
)
from scantling.counterfactuals.attributes import Attribute
from scantling.shapes import Images

StoredImages: TypeAlias = UInt8[np.ndarray, "batch channel *spatial"] | Float32[np.ndarray, "batch channel *spatial"]
"""Images as float32 in [-1, 1], or as uint8 with 0..255 for [-1, 1]; a memory map will do."""


class Reading(NamedTuple):
    """What a predictor makes of images, on the CPU."""

    outputs: Float[Tensor, "batch output"]
    features: Float[Tensor, "batch feature"]


class Judgement(NamedTuple):
    """What a judge makes of counterfactuals, each value in [0, 1], NaN where it cannot be asked.

    Attributes:
        effectiveness: agreement with the attributes that changed, the worst of them.
        kept: 1 minus the agreement lost with those that did not, the worst of them.
        agreement: with each attribute as it should be after the intervention.
    """

    effectiveness: Float[Tensor, "batch"]
    kept: Float[Tensor, "batch"]
    agreement: Float[Tensor, "batch attribute"]


@torch.inference_mode()
def read_attributes(predictor: AttributePredictor, images: StoredImages | Images, *, batch_size: int = 128) -> Reading:
    """What a predictor says of images, a batch at a time, on its own device.

    Args:
        images: float in [-1, 1], or uint8 with 0..255 for [-1, 1].
    """
    device = next(predictor.parameters()).device
    n_outputs, n_features = predictor.head.out_features, predictor.head.in_features
    outputs, features = torch.empty(len(images), n_outputs), torch.empty(len(images), n_features)
    for start in range(0, len(images), batch_size):
        chunk = slice(start, start + batch_size)
        batch = images[chunk] if isinstance(images, Tensor) else as_floats(images[chunk])
        seen = predictor.features(batch.to(device))
        features[chunk], outputs[chunk] = seen, predictor.head(seen)
    return Reading(outputs, features)


def held_out_scores(
    outputs: Float[Tensor, "batch output"],
    contexts: Float[Tensor, "batch context"],
    attributes: Sequence[Attribute],
) -> dict[str, float]:
    """How well each attribute is read; NaN where fewer than two different values are there to tell apart.

    Of a binary or categorical attribute the mean over its values of the share read rightly, in [0, 1] (chance is one
    over their number); of a number the share of its variance that is explained, 1 at best. Missing values are left out.
    """
    scores = {}
    predicted = predicted_values(outputs, attributes)
    for index, (attribute, columns) in enumerate(
        zip(attributes, columns_by_attribute(contexts, attributes), strict=True)
    ):
        known = columns[:, -1] == 0
        stated, read = stated_values(attribute, columns)[known].double(), predicted[known, index].double()
        values = torch.tensor(sorted(set(stated.tolist())), dtype=stated.dtype)
        if len(values) < 2:
            scores[attribute.name] = math.nan
        elif attribute.kind == "continuous":
            scores[attribute.name] = float(1 - (stated - read).square().sum() / (stated - stated.mean()).square().sum())
        else:
            recalls = [(read[stated == value] == value).double().mean() for value in values]
            scores[attribute.name] = float(torch.stack(recalls).mean())
    return scores


def readable(
    scores: Mapping[str, float], attributes: Sequence[Attribute], *, least_skill: float = 0.4
) -> tuple[str, ...]:
    """Names of the attributes that a judge reads well enough to be asked about.

    Args:
        scores: from `held_out_scores`; an attribute whose score is NaN is not readable.
        least_skill: share of the way from chance (0) to always right (1), or of the variance explained.
    """
    return tuple(a.name for a in attributes if _skill(a, scores.get(a.name, math.nan)) >= least_skill)


def judge_counterfactuals(
    predictor: AttributePredictor,
    images: StoredImages | Images,
    counterfactuals: StoredImages | Images,
    before: Float[Tensor, "batch context"],
    after: Float[Tensor, "batch context"],
    *,
    asked: Collection[str] | None = None,
) -> Judgement:
    """Whether a judge sees on counterfactuals what was wanted, and still sees what was not to change.

    What the judge misread on the image itself does not count against `kept`.

    Args:
        before, after: contexts of the images and of the counterfactuals, descendants moved.
        asked: attributes to ask about, such as those it reads well (`readable`); None is all.

    Source: Monteiro et al. 2023, "Measuring axiomatic soundness of counterfactual image models"
    (effectiveness).
    """
    attributes = predictor.attributes
    agreed_before = agreement(read_attributes(predictor, images).outputs, before, attributes)
    agreed_after = agreement(read_attributes(predictor, counterfactuals).outputs, after, attributes)
    pairs = zip(columns_by_attribute(before, attributes), columns_by_attribute(after, attributes), strict=True)
    changed = torch.stack([(one != other).any(dim=1) for one, other in pairs], dim=1)
    usable = torch.tensor([asked is None or attribute.name in asked for attribute in attributes])
    kept = 1 - (agreed_before - agreed_after).clamp(min=0)
    return Judgement(
        effectiveness=_worst(agreed_after, changed & usable),
        kept=_worst(kept, ~changed & usable),
        agreement=agreed_after,
    )


def as_floats(stored: StoredImages) -> Images:
    """Stored images as a tensor of their own, float32 in [-1, 1]."""
    values = torch.from_numpy(np.array(stored, dtype=np.float32))
    return values.div_(127.5).sub_(1) if stored.dtype == np.uint8 else values


def stated_values(attribute: Attribute, columns: Float[Tensor, "batch column"]) -> Float[Tensor, "batch"]:
    """The number that a row's columns stand for: index of the value, or the standardised number."""
    if attribute.kind == "categorical":
        return columns[:, :-1].argmax(dim=1).to(columns)
    return columns[:, 0]


def _worst(values: Float[Tensor, "batch attribute"], among: Bool[Tensor, "batch attribute"]) -> Float[Tensor, "batch"]:
    """The least of the chosen values that are known; NaN where there is none."""
    known = among & ~values.isnan()
    least = torch.where(known, values, math.inf).amin(dim=1)
    return torch.where(known.any(dim=1), least, math.nan)


def _skill(attribute: Attribute, score: float) -> float:
    if attribute.kind == "continuous":
        return score
    chance = 1 / len(attribute.values)
    return (score - chance) / (1 - chance)
