"""An independent judge of counterfactuals: an attribute predictor that learnt from real images alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from scantling.config import Config
from scantling.counterfactuals.attribute_predictor import (
    AttributePredictor,
    PredictorConfig,
    attribute_losses,
    columns_by_attribute,
    output_count,
)
from scantling.counterfactuals.attributes import Attribute
from scantling.counterfactuals.judging import StoredImages, as_floats, held_out_scores, read_attributes, stated_values
from scantling.errors import DataError
from scantling.shapes import Images

_PASSES: Final = 30  # over the images, where the number of steps is not given
_FEWEST_STEPS: Final = 600
_MOST_STEPS: Final = 1500
_MOST_WEIGHT: Final = 10.0  # of a rare value against its share, so that one odd image does not lead


class JudgeConfig(Config):
    """How a judge learns.

    Attributes:
        steps: None sees every image about 30 times, in 600 to 1500 steps.
        learning_rate: the peak of one cycle of AdamW.
        shift: images are moved by up to this share of each axis, so that no single pixel tells.
        noise: of images in [-1, 1]: each gets Gaussian noise of a deviation drawn from [0, noise].
        balance: count the values of an attribute as if each were equally frequent, so that the probability of a rare
            one is not held down by its rarity. Numbers are not balanced.
        held_out: share of the patients that the judge never sees, and is measured on.
    """

    network: PredictorConfig = PredictorConfig()
    steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    shift: float = Field(default=1 / 16, ge=0, le=0.5)
    noise: float = Field(default=0.05, ge=0)
    balance: bool = True
    held_out: float = Field(default=0.2, ge=0, lt=1)


def train_judge(
    images: StoredImages,
    contexts: Float[Tensor, "batch context"],
    attributes: Sequence[Attribute],
    patients: Sequence[str],
    *,
    generator: torch.Generator,
    config: JudgeConfig | None = None,
    device: torch.device | str = "cpu",
) -> tuple[AttributePredictor, dict[str, float]]:
    """A predictor that learnt from real images, in eval mode, and how well it reads patients it never saw.

    It is made as unsure as the held-out patients bear out. With one patient, or `held_out` of 0, every score is NaN
    and it stays as sure as it learnt to be. On a CPU the same generator gives the same bits.

    Args:
        contexts: as `FittedGraph.encode` gives them, a row an image.
        patients: the patient of each image; all images of a patient are held out together.
        generator: on the CPU; weights, held-out patients, batches, shifts and noise are drawn from it.

    Returns:
        The predictor, and by attribute the score of `held_out_scores`.

    Raises:
        DataError: no image, or not one context and one patient an image.
    """
    config = config or JudgeConfig()
    if not len(images) or not len(images) == len(contexts) == len(patients):
        raise DataError(
            f"judge of counterfactuals: {len(images)} images, {len(contexts)} contexts and {len(patients)} patients; "
            "wanted at least one image, and one context and patient for each"
        )
    network = AttributePredictor(
        config.network, attributes, in_channels=images.shape[1], dimensions=images.ndim - 2, generator=generator
    ).to(device)
    unseen = _held_out(patients, config.held_out, generator)
    seen = (~unseen).nonzero()[:, 0]
    weights = _weights(contexts, attributes, seen, balance=config.balance)
    _fit(network, images, contexts, weights, seen, config, generator)
    network.eval()
    test = unseen.nonzero()[:, 0]
    outputs = read_attributes(network, images[test.numpy()]).outputs
    _soften(network, outputs, contexts[test], weights[test])
    return network, held_out_scores(outputs, contexts[test], attributes)


def _fit(
    network: AttributePredictor,
    images: StoredImages,
    contexts: Tensor,
    weights: Float[Tensor, "batch attribute"],
    seen: Int[Tensor, "seen"],
    config: JudgeConfig,
    generator: torch.Generator,
) -> None:
    """One cycle of AdamW over the seen images, each epoch in a new order."""
    device = next(network.parameters()).device
    size = min(config.batch_size, len(seen))
    steps = config.steps or min(max(_PASSES * len(seen) // size, _FEWEST_STEPS), _MOST_STEPS)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=max(steps, 2))
    order = torch.empty(0, dtype=torch.long)
    network.train()
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, seen[torch.randperm(len(seen), generator=generator)]])
        rows, order = order[:size].sort().values, order[size:]
        batch = _disturbed(as_floats(images[rows.numpy()]), config, generator).to(device)
        losses = attribute_losses(network(batch), contexts[rows].to(device), network.attributes)
        weight = weights[rows].to(losses)
        loss = ((losses * weight).sum(dim=0) / weight.sum(dim=0).clamp(min=1.0)).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        cycle.step()


@torch.no_grad()
def _soften(
    network: AttributePredictor,
    outputs: Float[Tensor, "batch output"],
    contexts: Float[Tensor, "batch context"],
    weights: Float[Tensor, "batch attribute"],
) -> None:
    """Make the head as unsure of each attribute as it should be by images that it has not learnt from.

    Logits are divided by a temperature, the scale of a number is multiplied by one. What is read stays the same.

    Source: Guo et al. 2017, "On calibration of modern neural networks", Sec. 4.2.
    """
    attributes = network.attributes
    temperatures = torch.logspace(0, 1.5, 31).tolist()
    losses = []
    for temperature in temperatures:
        gain, shift = _softening([temperature] * len(attributes), attributes)
        losses.append((attribute_losses(outputs * gain + shift, contexts, attributes) * weights).sum(dim=0))
    best = torch.stack(losses).argmin(dim=0)
    gain, shift = _softening([temperatures[index] for index in best.tolist()], attributes)
    gain, shift = gain.to(network.head.weight), shift.to(network.head.weight)
    network.head.weight.mul_(gain[:, None])
    network.head.bias.mul_(gain).add_(shift)


def _softening(
    temperatures: Sequence[float], attributes: Sequence[Attribute]
) -> tuple[Float[Tensor, "output"], Float[Tensor, "output"]]:
    """Factor and summand of every output, for a temperature of each attribute."""
    gains: list[float] = []
    shifts: list[float] = []
    for temperature, attribute in zip(temperatures, attributes, strict=True):
        n, number = output_count(attribute), attribute.kind == "continuous"
        gains += [1.0, 1.0] if number else [1 / temperature] * n
        shifts += [0.0, math.log(temperature)] if number else [0.0] * n
    return torch.tensor(gains), torch.tensor(shifts)


def _weights(
    contexts: Tensor, attributes: Sequence[Attribute], seen: Tensor, *, balance: bool
) -> Float[Tensor, "batch attribute"]:
    """The weight of each attribute of each image; 0 where missing, of mean 1 over the seen where the caps allow."""
    weights = []
    for attribute, columns in zip(attributes, columns_by_attribute(contexts, attributes), strict=True):
        known = columns[:, -1] == 0
        weight = torch.ones(len(columns))
        if balance and attribute.kind != "continuous":
            codes = stated_values(attribute, columns).long()
            counts = codes[seen][known[seen]].bincount(minlength=len(attribute.values))
            share = counts.sum() / (counts.clamp(min=1) * (counts > 0).sum().clamp(min=1))
            weight = share.clamp(max=_MOST_WEIGHT)[codes]
        weights.append(torch.where(known, weight, 0.0))
    return torch.stack(weights, dim=1)


def _held_out(patients: Sequence[str], share: float, generator: torch.Generator) -> Bool[Tensor, "batch"]:
    """The images of `share` of the patients, at least one of them and not all, unless nothing is held out."""
    names = sorted(set(patients))
    count = min(max(round(share * len(names)), 1), len(names) - 1) if share > 0 else 0
    chosen = {names[index] for index in torch.randperm(len(names), generator=generator)[:count].tolist()}
    return torch.tensor([patient in chosen for patient in patients])


def _disturbed(images: Images, config: JudgeConfig, generator: torch.Generator) -> Images:
    """Each image moved by whole pixels, its edge repeated, and with noise of its own strength."""
    n, axes = len(images), images.ndim - 2

    def along(values: Tensor, axis: int) -> Tensor:
        """Values [n, length] laid along one axis, for a gather by broadcasting."""
        return values.reshape(len(values), *(values.shape[1] if a == axis else 1 for a in range(axes + 1)))

    index = [along(torch.arange(n)[:, None], -1), along(torch.arange(images.shape[1])[None], 0)]
    for axis, length in enumerate(images.shape[2:], start=1):
        most = int(config.shift * length)
        shift = torch.randint(-most, most + 1, (n, 1), generator=generator)
        index.append(along((torch.arange(length) + shift).clamp(0, length - 1), axis))
    strength = config.noise * torch.rand(n, *(1,) * (axes + 1), generator=generator)
    return images[tuple(index)] + strength * torch.randn(images.shape, generator=generator)
