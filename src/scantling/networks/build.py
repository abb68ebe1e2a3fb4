"""A network from its plan, every weight drawn from a given generator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

import torch
from torch import nn

from scantling.data.plan import NetworkPlan
from scantling.errors import ConfigError
from scantling.networks.blocks import LEAKY_SLOPE, InstanceNorm
from scantling.networks.resnet_unet import DEEPEST_WIDTH, build_resnet50_unet
from scantling.networks.scribble_unet import build_scribble_unet
from scantling.networks.unet import UNet, build_unet

SCRIBBLE_UNET: Final = NetworkPlan(
    kind="scribble_unet",
    features=(16, 32, 64, 128, 256),
    strides=((1, 1), *((2, 2),) * 4),
    kernels=((3, 3),) * 5,
    norm="batch",
)
"""The scribble benchmark's network: 1,813,764 parameters for one channel and four classes."""

RESNET50_UNET: Final = NetworkPlan(
    kind="resnet50_unet",
    features=(16, 32, 64, 128, 256, DEEPEST_WIDTH),
    strides=((1, 1), *((2, 2),) * 5),
    kernels=((3, 3),) * 6,
    norm="batch",
)
"""ResNet-50 encoder; `features` are five decoder widths, finest first, and the encoder's last width."""

PRESETS: Final[Mapping[str, NetworkPlan]] = MappingProxyType(
    {preset.kind: preset for preset in (SCRIBBLE_UNET, RESNET50_UNET)}
)
"""Networks whose size is part of what they are; the other kinds take their size from the data."""


class Builder(Protocol):
    """What the table holds: a function from a plan to a network whose weights are not yet drawn."""

    def __call__(self, plan: NetworkPlan, *, dimensions: int, in_channels: int, out_channels: int) -> UNet: ...


NETWORKS: Final[Mapping[str, Builder]] = MappingProxyType(
    {
        "plain_unet": build_unet,
        "residual_unet": build_unet,
        "scribble_unet": build_scribble_unet,
        "resnet50_unet": build_resnet50_unet,
    }
)

_FIXED: Final = MappingProxyType({"scribble_unet": SCRIBBLE_UNET, "resnet50_unet": RESNET50_UNET})


def build_network(
    plan: NetworkPlan, *, dimensions: int, in_channels: int, out_channels: int, generator: torch.Generator
) -> UNet:
    """The network a plan describes, on the CPU, with weights that depend on the generator alone.

    torch's global generator is neither read nor moved.

    Args:
        generator: on the CPU; moved on by the draws.

    Raises:
        ConfigError: the plan contradicts itself, or `dimensions`, or what its kind of network can be.
    """
    check_network_plan(plan, dimensions=dimensions)
    with torch.device("meta"):
        network = NETWORKS[plan.kind](plan, dimensions=dimensions, in_channels=in_channels, out_channels=out_channels)
    network.to_empty(device="cpu")
    initialise(network, generator)
    return network


def check_network_plan(plan: NetworkPlan, *, dimensions: int) -> None:
    """Refuse what cannot be built, before anything is.

    Raises:
        ConfigError: naming the setting, what it is and what was wanted.
    """
    stages = len(plan.features)
    if stages < 2 or len(plan.strides) != stages or len(plan.kernels) != stages:
        raise ConfigError(
            f"network plan: {stages} features, {len(plan.strides)} strides and {len(plan.kernels)} kernels; "
            "wanted one of each per stage, and at least two stages",
            code="E-NET-01",
        )
    if any(len(axes) != dimensions for axes in (*plan.strides, *plan.kernels)):
        raise ConfigError(
            f"network plan: strides {plan.strides} and kernels {plan.kernels} must name {dimensions} axes "
            f"each, because the plan is {dimensions}D",
            code="E-NET-02",
        )
    if min(plan.features) < 1 or plan.convs_per_stage < 1 or min(min(axes) for axes in plan.strides) < 1:
        raise ConfigError(
            f"network plan: features {plan.features}, convs_per_stage {plan.convs_per_stage} and strides "
            f"{plan.strides} must all be at least 1",
            code="E-NET-03",
        )
    if any(size % 2 == 0 or size < 1 for axes in plan.kernels for size in axes):
        raise ConfigError(f"network plan: kernels {plan.kernels} must be odd, to keep sizes", code="E-NET-03")
    if any(step != 1 for step in plan.strides[0]):
        raise ConfigError(
            f"network plan: the first stride is {plan.strides[0]}; it must be all ones, because logits have "
            "the size of the input",
            code="E-NET-03",
        )
    if plan.kind in _FIXED:
        _check_fixed(plan)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight: Kaiming normal by fan-in, biases 0, norms 1 and 0, running statistics reset.

    Source: He et al. 2015, "Delving Deep into Rectifiers", Sec. 2.2 (the logit heads with gain 1).
    Raises:
        TypeError: a module holds parameters that no rule covers, so they would stay undefined.
    """
    heads = set(network.heads) if isinstance(network, UNet) else set()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            gain = 1.0 if module in heads else math.sqrt(2 / (1 + LEAKY_SLOPE**2))
            fan_in = module.weight[0].numel()
            with torch.no_grad():
                module.weight.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | InstanceNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
            if not isinstance(module, InstanceNorm):
                module.reset_running_stats()
        elif any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            raise TypeError(f"{name} ({type(module).__name__}): no rule says how its weights are initialised")


def _check_fixed(plan: NetworkPlan) -> None:
    """A kind of one published architecture takes other widths, and nothing else that differs."""
    model = _FIXED[plan.kind]
    for name in ("strides", "kernels", "convs_per_stage", "norm"):
        if getattr(plan, name) != getattr(model, name):
            raise ConfigError(
                f"network plan: {name} is {getattr(plan, name)}, but {plan.kind} is a 2D network with {name} "
                f"{getattr(model, name)}; choose plain_unet or residual_unet to vary it",
                code="E-NET-04",
            )
    if plan.kind == "resnet50_unet" and plan.features[-1] != DEEPEST_WIDTH:
        raise ConfigError(
            f"network plan: the last of features {plan.features} is the width of the ResNet-50 encoder's "
            f"last level and must be {DEEPEST_WIDTH}",
            code="E-NET-04",
        )
