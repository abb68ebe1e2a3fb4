"""Parts of a network that stay as they are, to the bit, while the rest is trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal

from torch import nn

from scantling.networks.unet import UNet

Tune = Literal["full", "frozen", "linear-probe"]


def fix_parts(network: UNet, tune: Tune, *, unlearnt: Collection[str] = ()) -> None:
    """Keep the encoder ("frozen"), or all but the head of the finest level ("linear-probe"), from being trained.

    What is fixed gets no gradient, hence no state in an optimiser built afterwards, and works as in evaluation
    whatever mode the network is in: its normalisation reads running statistics and never moves them, its dropout
    drops nothing. Copies of the network keep that.

    Args:
        unlearnt: levels, such as "decoder.3", that are trained all the same, because nothing but chance has made them.
    """
    for name, part in _fixed(network, tune):
        if name not in unlearnt:
            part.requires_grad_(False)
            part.register_forward_pre_hook(_evaluate)


def untrained(network: nn.Module) -> set[str]:
    """Names of the parameters and buffers of every layer of which no parameter is trained."""
    names: set[str] = set()
    for prefix, layer in network.named_modules():
        own = [parameter.requires_grad for parameter in layer.parameters(recurse=False)]
        if own and not any(own):
            tensors = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
            names |= {f"{prefix}.{name}" if prefix else name for name, _ in tensors}
    return names


def _fixed(network: UNet, tune: Tune) -> Iterator[tuple[str, nn.Module]]:
    parts = {"full": (), "frozen": ("encoder",), "linear-probe": ("encoder", "decoder", "heads")}[tune]
    for part in parts:
        levels = [(f"{part}.{i}", level) for i, level in enumerate(network.get_submodule(part).children())]
        yield from levels[1:] if part == "heads" else levels


def _evaluate(part: nn.Module, _inputs: Any) -> None:
    part.eval()
