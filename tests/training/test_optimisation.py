from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from scantling.data.plan import NetworkPlan
from scantling.networks import build_network
from scantling.seeding import torch_generator
from scantling.training.optimisation import (
    OptimisationConfig,
    build_optimiser,
    gradient_norm,
    learning_rate,
    set_learning_rate,
)


def test_the_schedule_rises_to_the_peak_then_falls_as_its_formula() -> None:
    config = OptimisationConfig(learning_rate=1.0, warmup_fraction=0.1, schedule="cosine")
    assert learning_rate(0.0, config) == pytest.approx(0.01)
    assert learning_rate(0.05, config) == pytest.approx(0.505)
    assert learning_rate(0.1, config) == pytest.approx(1.0)
    assert learning_rate(0.55, config) == pytest.approx(0.5)
    assert learning_rate(1.0, config) == pytest.approx(0.0, abs=1e-12)
    poly = config.model_copy(update={"schedule": "poly"})
    assert learning_rate(0.55, poly) == pytest.approx(0.5**0.9)
    constant = config.model_copy(update={"schedule": "constant"})
    assert learning_rate(0.99, constant) == 1.0


def test_a_decaying_schedule_ends_at_its_final_share() -> None:
    config = OptimisationConfig(learning_rate=2.0, warmup_fraction=0.0, schedule="cosine", final_share=0.25)
    assert learning_rate(0.0, config) == pytest.approx(2.0)
    assert learning_rate(0.5, config) == pytest.approx(2 * (0.25 + 0.75 * 0.5))
    assert learning_rate(1.0, config) == pytest.approx(0.5)
    poly = config.model_copy(update={"schedule": "poly"})
    assert learning_rate(1.0, poly) == pytest.approx(0.5)
    constant = config.model_copy(update={"schedule": "constant"})
    assert learning_rate(1.0, constant) == 2.0


@pytest.mark.parametrize("schedule", ["cosine", "poly", "constant"])
def test_the_schedule_never_jumps(schedule: str) -> None:
    config = OptimisationConfig(learning_rate=1.0, schedule=schedule, warmup_fraction=0.05)
    values = [learning_rate(k / 10_000, config) for k in range(10_001)]
    assert max(abs(b - a) for a, b in itertools.pairwise(values)) < 0.003
    assert learning_rate(-1, config) == values[0]
    assert learning_rate(2, config) == values[-1]


def test_biases_and_norms_are_not_decayed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, affine=True))
    optimiser = build_optimiser(model, OptimisationConfig(weight_decay=0.3))
    decayed, free = optimiser.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 1, 3, 3)]
    assert decayed["weight_decay"] == 0.3
    assert free["weight_decay"] == 0.0
    assert len(free["params"]) == 3
    set_learning_rate(optimiser, 0.125)
    assert {group["lr"] for group in optimiser.param_groups} == {0.125}


def test_heads_may_learn_at_a_rate_of_their_own() -> None:
    plan = NetworkPlan(features=(4, 6), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3)))
    network = build_network(plan, dimensions=2, in_channels=1, out_channels=2, generator=torch_generator(0, "w"))
    plain = build_optimiser(network, OptimisationConfig())
    assert len(plain.param_groups) == 2
    optimiser = build_optimiser(nn.Sequential(network), OptimisationConfig(head_rate=5.0, weight_decay=0.3))
    set_learning_rate(optimiser, 0.1)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert rates.keys() == {id(p) for p in network.parameters()}
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == (0.5 if name.startswith("heads.") else 0.1), name
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert (decays[id(network.heads[0].weight)], decays[id(network.heads[0].bias)]) == (0.3, 0.0)
    before = network.heads[0].bias.detach().clone()
    network(torch.ones(1, 1, 8, 8)).sum().backward()
    optimiser.step()
    torch.testing.assert_close((before - network.heads[0].bias).abs(), torch.full((2,), 0.5))  # Adam's first step


def test_sgd_is_nesterov_with_its_momentum() -> None:
    optimiser = build_optimiser(nn.Linear(2, 2), OptimisationConfig(optimiser="sgd", momentum=0.8))
    assert isinstance(optimiser, torch.optim.SGD)
    assert optimiser.param_groups[0]["nesterov"]
    assert optimiser.param_groups[0]["momentum"] == 0.8


@pytest.mark.parametrize(("clip", "scale"), [(0.0, 1.0), (5.0, 1.0), (1.0, 0.2)])
def test_gradients_are_scaled_to_the_clip_and_the_norm_before_is_returned(clip: float, scale: float) -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert gradient_norm(model, clip=clip) == pytest.approx(5.0)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[3.0, 4.0]]) * scale, rtol=1e-5, atol=0)


def test_a_gradient_that_is_not_finite_gives_a_norm_that_is_not_finite() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.grad = torch.tensor([[math.nan]])
    assert math.isnan(gradient_norm(model, clip=1.0))
