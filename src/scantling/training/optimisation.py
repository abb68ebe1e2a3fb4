"""Optimiser, learning-rate schedule and gradient step: functions of how far the run has come."""

from __future__ import annotations

import math
from typing import Final, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from scantling.config import Config
from scantling.networks import UNet

SHARE: Final = "rate_share"
"""Of the learning rate, that a parameter group has."""


class OptimisationConfig(Config):
    """How parameters move.

    Attributes:
        learning_rate: the peak, reached after warm-up.
        warmup_fraction: share of the run with a linear rise from a hundredth of the peak.
        poly_power: exponent of the polynomial decay.
        final_share: of the peak, at which a decaying schedule ends.
        gradient_clip: largest global gradient norm; 0 switches clipping off.
        head_rate: of the logit heads, times the learning rate. Heads start by chance, on learnt features too, and come
            further in a few hundred steps with about 5.
        average_decay: of the averaged copy of the weights that is validated and deployed; 0 deploys the last
            weights themselves.
    """

    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    poly_power: float = 0.9
    final_share: float = Field(default=0.0, ge=0, le=1)
    warmup_fraction: float = Field(default=0.03, ge=0, lt=1)
    gradient_clip: float = Field(default=1.0, ge=0)
    head_rate: float = Field(default=1.0, gt=0)
    average_decay: float = Field(default=0.995, ge=0, lt=1)


def build_optimiser(model: nn.Module, config: OptimisationConfig) -> torch.optim.Optimizer:
    """The optimiser of a model; biases and normalisation weights are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    heads = {id(p) for part in model.modules() if isinstance(part, UNet) for p in part.heads.parameters()}
    shares = [(1.0, trained)]
    if config.head_rate != 1:
        shares = [
            (1.0, [p for p in trained if id(p) not in heads]),
            (config.head_rate, [p for p in trained if id(p) in heads]),
        ]
    groups = []
    for share, parameters in shares:
        decayed, free = ([p for p in parameters if (p.ndim > 1) == wide] for wide in (True, False))
        groups.append({"params": decayed, "weight_decay": config.weight_decay, SHARE: share})
        groups.append({"params": free, "weight_decay": 0.0, SHARE: share})
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99))
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0)


def learning_rate(progress: float, config: OptimisationConfig) -> float:
    """The learning rate after a share `progress` in [0, 1] of the run; continuous, 1 % of the peak at the start
    of warm-up, `final_share` of it at the end of a decaying schedule."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup_fraction:
        return config.learning_rate * (0.01 + 0.99 * progress / config.warmup_fraction)
    rest = (progress - config.warmup_fraction) / (1 - config.warmup_fraction)
    left = 1.0
    if config.schedule == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * rest))
    elif config.schedule == "poly":
        left = math.pow(1 - rest, config.poly_power)
    return config.learning_rate * (config.final_share + (1 - config.final_share) * left)


def risen_rate(progress: float, config: OptimisationConfig, *, since: float, before: float) -> float:
    """The schedule's rate for a run that was made longer at `since`, where its rate was `before`.

    A longer run's schedule may ask for a higher rate than the shorter one ended with; the rate then rises no
    faster than in warm-up (of at least a hundredth of the run) until it meets the schedule, and follows it.
    """
    slope = config.learning_rate / max(config.warmup_fraction, 0.01)
    return min(learning_rate(progress, config), before + slope * max(progress - since, 0.0))


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group its share of this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = value * group[SHARE]


def gradient_norm(model: nn.Module, *, clip: float) -> Float[Tensor, ""]:
    """The global gradient norm before clipping; gradients are scaled down to `clip` if it is above 0 and smaller.

    NaN or infinite where any gradient is: the caller must then skip the step.
    """
    limit = clip if clip > 0 else math.inf
    return torch.nn.utils.clip_grad_norm_(model.parameters(), limit, foreach=True)
