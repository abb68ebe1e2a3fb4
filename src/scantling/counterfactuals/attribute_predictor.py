"""The attributes of an image read back from it: a small network, its likelihood, and how far it agrees with a row.

Rows come as `FittedGraph.encode` gives them: an attribute's columns, and a last one that is 1 where it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from scantling.config import Config
from scantling.counterfactuals.attributes import Attribute
from scantling.counterfactuals.hvae_towers import initialise
from scantling.errors import ConfigError, PlanMismatch
from scantling.networks.blocks import CONVOLUTIONS
from scantling.shapes import Images

_MOST_LOG_SCALE: Final = 3.0  # a number is predicted to 1/20 of its own spread at best, and to 20 times it at worst
_GROUP: Final = 8  # channels that are normalised together: few groups leave the brightness of an image readable


class PredictorConfig(Config):
    """Size of an attribute predictor.

    Attributes:
        widths: channels after each halving of the image; the last is the length of the features.
        depth: convolutions at each size.
    """

    widths: tuple[int, ...] = Field(default=(16, 32, 64, 96), min_length=1)
    depth: int = Field(default=1, ge=1)


@final
class AttributePredictor(nn.Module):
    """Convolutions of stride 2 with group norm and SiLU, the mean over the image, and a linear layer.

    The outputs stand in the order of the attributes: a logit for a binary one, one a value for a categorical one, mean
    and raw log scale for a continuous one. There are no buffers and nothing is random, so that the network can be
    called with other parameters (`torch.func.functional_call`), and an image's outputs do not depend on its batch.

    Args:
        generator: on the CPU; every weight is drawn from it, and torch's global one is neither read nor moved.

    Raises:
        ConfigError: no attribute or channel, neither two axes nor three, or a width below 1.
    """

    def __init__(
        self,
        config: PredictorConfig,
        attributes: Sequence[Attribute],
        *,
        in_channels: int,
        dimensions: int,
        generator: torch.Generator,
    ) -> None:
        if not attributes or in_channels < 1 or dimensions not in CONVOLUTIONS or min(config.widths) < 1:
            raise ConfigError(
                f"attribute predictor of {len(attributes)} attributes, {in_channels} channels, {dimensions} axes, "
                f"widths {config.widths}: wanted at least one attribute and channel, two axes or three, widths >= 1",
                code="E-CFG-58",
            )
        super().__init__()
        self.config, self.attributes = config, tuple(attributes)
        self.in_channels, self.dimensions = in_channels, dimensions
        with torch.device("meta"):
            self.stages = nn.Sequential(
                *(
                    _stage(narrow, wide, dimensions, config.depth)
                    for narrow, wide in pairwise((in_channels, *config.widths))
                )
            )
            self.head = nn.Linear(config.widths[-1], sum(map(output_count, attributes)))
        self.to_empty(device="cpu")
        initialise(self, generator)

    def features(self, images: Images) -> Float[Tensor, "batch feature"]:
        """What the last stage sees, averaged over the image.

        Args:
            images: in [-1, 1].

        Raises:
            PlanMismatch: other channels or axes than the predictor was built for.
        """
        if images.ndim != 2 + self.dimensions or images.shape[1] != self.in_channels:
            raise PlanMismatch(
                f"images {tuple(images.shape[1:])}: this attribute predictor was built for {self.in_channels} "
                f"channels and {self.dimensions} axes; give it images like those it learnt from"
            )
        maps: Tensor = self.stages(images)
        return maps.flatten(2).mean(dim=2)

    def forward(self, images: Images) -> Float[Tensor, "batch output"]:
        """The parameters of each attribute's distribution, side by side."""
        outputs: Tensor = self.head(self.features(images))
        return outputs


def output_count(attribute: Attribute) -> int:
    """How many outputs describe an attribute: one logit, one a value, or mean and raw log scale."""
    return {"binary": 1, "categorical": len(attribute.values), "continuous": 2}[attribute.kind]


def attribute_losses(
    outputs: Float[Tensor, "batch output"],
    contexts: Float[Tensor, "batch context"],
    attributes: Sequence[Attribute],
) -> Float[Tensor, "batch attribute"]:
    """Minus the log-likelihood of each stated value, in nats; 0, without gradient, where it is missing.

    A binary value is Bernoulli, a categorical one is drawn from its classes, a number is Gaussian in standard
    deviations of its attribute. Half precision is computed in float32.

    Raises:
        PlanMismatch: outputs or contexts have other widths than these attributes.
    """
    losses = []
    for attribute, given, columns in _by_attribute(outputs, contexts, attributes):
        stated, missing = columns[:, :-1], columns[:, -1] > 0
        if attribute.kind == "binary":
            nll = F.binary_cross_entropy_with_logits(given[:, 0], stated[:, 0], reduction="none")
        elif attribute.kind == "categorical":
            nll = -(stated * given.log_softmax(dim=1)).sum(dim=1)
        else:
            error, log_scale = _standard_error(given, stated[:, 0])
            nll = 0.5 * (error.square() + math.log(2 * math.pi)) + log_scale
        losses.append(nll.masked_fill(missing, 0.0))
    return torch.stack(losses, dim=1)


def agreement(
    outputs: Float[Tensor, "batch output"],
    contexts: Float[Tensor, "batch context"],
    attributes: Sequence[Attribute],
) -> Float[Tensor, "batch attribute"]:
    """How far the image bears out each stated value, in [0, 1]; NaN where it is missing.

    The probability of a binary or categorical value; exp(-z^2 / 2) of a number that lies z predicted scales off.

    Raises:
        PlanMismatch: outputs or contexts have other widths than these attributes.
    """
    agreements = []
    for attribute, given, columns in _by_attribute(outputs, contexts, attributes):
        stated, missing = columns[:, :-1], columns[:, -1] > 0
        if attribute.kind == "binary":
            agreed = torch.where(stated[:, 0] > 0.5, given[:, 0], -given[:, 0]).sigmoid()
        elif attribute.kind == "categorical":
            agreed = (stated * given.softmax(dim=1)).sum(dim=1)
        else:
            agreed = (-0.5 * _standard_error(given, stated[:, 0])[0].square()).exp()
        agreements.append(agreed.masked_fill(missing, math.nan))
    return torch.stack(agreements, dim=1)


def predicted_values(
    outputs: Float[Tensor, "batch output"], attributes: Sequence[Attribute]
) -> Float[Tensor, "batch attribute"]:
    """The value that each attribute most likely has: index of the value, or the standardised number's mean.

    Raises:
        PlanMismatch: outputs have another width than these attributes.
    """
    predictions = []
    for attribute, given in zip(attributes, _outputs_by_attribute(outputs, attributes), strict=True):
        if attribute.kind == "binary":
            predictions.append((given[:, 0] > 0).to(given))
        else:
            categorical = attribute.kind == "categorical"
            predictions.append(given.argmax(dim=1).to(given) if categorical else given[:, 0])
    return torch.stack(predictions, dim=1)


def columns_by_attribute(
    contexts: Float[Tensor, "batch context"], attributes: Sequence[Attribute]
) -> tuple[Float[Tensor, "batch _"], ...]:
    """The columns of each attribute, its indicator of a missing value last.

    Raises:
        PlanMismatch: another number of columns than these attributes have.
    """
    return _split(contexts, [len(attribute.column_names) for attribute in attributes], "context columns")


def _by_attribute(
    outputs: Tensor, contexts: Tensor, attributes: Sequence[Attribute]
) -> list[tuple[Attribute, Tensor, Tensor]]:
    """Each attribute with its outputs and columns, both in float32, or in float64 where the outputs are."""
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    given = _outputs_by_attribute(outputs, attributes)
    columns = columns_by_attribute(contexts.to(outputs), attributes)
    return list(zip(attributes, given, columns, strict=True))


def _outputs_by_attribute(outputs: Tensor, attributes: Sequence[Attribute]) -> tuple[Tensor, ...]:
    return _split(outputs, [output_count(attribute) for attribute in attributes], "predictor outputs")


def _standard_error(given: Tensor, stated: Tensor) -> tuple[Tensor, Tensor]:
    """How far a number lies from its prediction, in predicted scales; and the log of the scale."""
    log_scale = _MOST_LOG_SCALE * (given[:, 1] / _MOST_LOG_SCALE).tanh()
    return (stated - given[:, 0]) * (-log_scale).exp(), log_scale


def _split(table: Tensor, widths: list[int], what: str) -> tuple[Tensor, ...]:
    if table.shape[1] != sum(widths):
        raise PlanMismatch(
            f"{table.shape[1]} {what}: these attributes have {sum(widths)}; use the causal graph that the predictor "
            "was built with"
        )
    return torch.split(table, widths, dim=1)


def _stage(narrow: int, wide: int, dimensions: int, depth: int) -> nn.Module:
    """`depth` convolutions, of which the first halves the map."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [
            CONVOLUTIONS[dimensions](narrow if index == 0 else wide, wide, 3, stride=2 if index == 0 else 1, padding=1),
            nn.GroupNorm(wide // math.gcd(wide, _GROUP), wide),
            nn.SiLU(),
        ]
    return nn.Sequential(*layers)
