"""Networks from plans: equal generators give equal bits, and plans that contradict themselves are refused."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from scantling.data.plan import NetworkPlan
from scantling.errors import ConfigError
from scantling.networks import NETWORKS, RESNET50_UNET, SCRIBBLE_UNET, UNet, build_network
from scantling.networks.build import initialise

SMALL = {
    "plain_unet": NetworkPlan(features=(8, 16), strides=((1, 1), (2, 2)), kernels=((3, 3),) * 2, deep_supervision=True),
    "residual_unet": NetworkPlan(
        kind="residual_unet", features=(8, 16), strides=((1, 1), (2, 2)), kernels=((3, 3),) * 2, norm="batch"
    ),
    "scribble_unet": SCRIBBLE_UNET,
    "resnet50_unet": RESNET50_UNET,
}


def build(plan: NetworkPlan, seed: int = 0, dimensions: int = 2) -> UNet:
    generator = torch.Generator().manual_seed(seed)
    return build_network(plan, dimensions=dimensions, in_channels=1, out_channels=4, generator=generator)


def test_the_table_holds_every_kind_a_plan_can_name() -> None:
    assert set(NETWORKS) == set(NetworkPlan.model_fields["kind"].annotation.__args__) == set(SMALL)


@pytest.mark.parametrize("kind", SMALL)
def test_equal_generators_give_equal_bits_and_other_generators_others(kind: str) -> None:
    first, second, third = (build(SMALL[kind], seed).state_dict() for seed in (3, 3, 4))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("kind", SMALL)
def test_building_neither_reads_nor_moves_the_global_generator(kind: str) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = build(SMALL[kind]).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    second = build(SMALL[kind]).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", SMALL)
def test_weights_have_kaiming_spread_and_norms_start_neutral(kind: str) -> None:
    network = build(SMALL[kind])
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d):
            gain = 1.0 if name.startswith("heads") else math.sqrt(2 / 1.0001)
            expected = gain / math.sqrt(part.in_channels * part.kernel_size[0] * part.kernel_size[1])
            count = part.weight.numel()
            assert part.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * count)), name
            assert abs(part.weight.mean().item()) < 5 * expected / math.sqrt(count), name
            assert part.bias is None or not part.bias.any()
        elif isinstance(part, nn.BatchNorm2d):
            assert not part.running_mean.any()
            assert (part.running_var == 1).all()
            assert part.num_batches_tracked == 0
    norms = [value for name, value in network.named_parameters() if "norm.weight" in name or ".bn" in name]
    assert norms


def test_a_module_without_a_rule_is_not_left_undefined() -> None:
    with pytest.raises(TypeError, match=r"1 \(Linear\): no rule"):
        initialise(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(2, 2)), torch.Generator())


def test_batch_norm_and_instance_norm_follow_the_plan() -> None:
    instance = build(SMALL["plain_unet"])
    batch = build(SMALL["plain_unet"].model_copy(update={"norm": "batch"}))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in instance.modules())
    assert sum(isinstance(part, nn.BatchNorm2d) for part in batch.modules()) == 6


@pytest.mark.parametrize(
    ("kind", "change", "dimensions", "text"),
    [
        ("plain_unet", {"features": (8, 16, 32)}, 2, "3 features, 2 strides and 2 kernels"),
        ("plain_unet", {"features": (8,), "strides": ((1, 1),), "kernels": ((3, 3),)}, 2, "at least two"),
        ("plain_unet", {}, 3, "must name 3 axes each, because the plan is 3D"),
        ("plain_unet", {"kernels": ((3, 3), (3, 4))}, 2, "must be odd"),
        ("plain_unet", {"strides": ((2, 2), (2, 2))}, 2, "first stride is (2, 2); it must be all ones"),
        ("plain_unet", {"strides": ((1, 1), (0, 2))}, 2, "must all be at least 1"),
        ("residual_unet", {"convs_per_stage": 0}, 2, "must all be at least 1"),
        ("scribble_unet", {"norm": "instance"}, 2, "norm is instance, but scribble_unet is a 2D network"),
        ("resnet50_unet", {"features": (16, 32, 64, 128, 256, 512)}, 2, "must be 2048"),
        ("resnet50_unet", {"kernels": ((5, 5),) * 6}, 2, "kernels is ((5, 5)"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_built_is_refused_by_its_setting(
    kind: str, change: dict[str, Any], dimensions: int, text: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        build(SMALL[kind].model_copy(update=change), dimensions=dimensions)
