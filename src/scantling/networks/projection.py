"""From feature maps to the embeddings that are contrasted: of single pixels, or of a whole image."""

from __future__ import annotations

import math
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scantling.errors import ConfigError
from scantling.networks.unet import UNet
from scantling.shapes import Features

HIDDEN = 256
EMBEDDING = 128
QUARTER: Final = "1/4"
"""The name of whichever decoder level has a quarter of the input's side."""


@final
class PixelProjection(nn.Module):
    """Linear, ReLU, linear on each pixel's features; gather the pixels first, and only they are projected.

    Source: Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning": two 1x1 convolutions with
        256 and 128 channels and biases, without normalisation. Differs: weights are Kaiming normal, as the network's.
    """

    def __init__(
        self, in_features: int, hidden: int = HIDDEN, embedding: int = EMBEDDING, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden = _linear(in_features, hidden, gain=math.sqrt(2), generator=generator)
        self.embedding = _linear(hidden, embedding, gain=1.0, generator=generator)

    def forward(self, features: Float[Tensor, "*pixel feature"]) -> Float[Tensor, "*pixel embedding"]:
        """Embeddings of any length; the losses compare their directions."""
        result: Tensor = self.embedding(torch.relu(self.hidden(features)))
        return result


@final
class ImageProjection(nn.Module):
    """The mean of a feature map over space, projected as a pixel's features are."""

    def __init__(
        self, in_features: int, hidden: int = HIDDEN, embedding: int = EMBEDDING, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.projection = PixelProjection(in_features, hidden, embedding, generator=generator)

    def forward(self, features: Features) -> Float[Tensor, "batch embedding"]:
        """One embedding an image, of any length."""
        result: Tensor = self.projection(features.flatten(2).mean(dim=2))
        return result


def dense_features(
    network: UNet, images: Float[Tensor, "batch view channel *spatial"], tap: str
) -> Float[Tensor, "batch view feature *map"]:
    """The feature map of every view at a tap, from one pass over all views; nothing beyond the tap is computed.

    Raises:
        ValueError: there is no such tap, or the images do not fit the network.
    """
    maps = network.features(images.flatten(0, 1), stop_at=tap)[tap]
    return maps.view(*images.shape[:2], *maps.shape[1:])


def chosen_tap(network: UNet, name: str) -> str:
    """The tap of a setting `tap`; "" is the finest decoder level, "1/4" the finest of at most a quarter of the side.

    Raises:
        ConfigError: the network has no such tap.
    """
    if name == QUARTER:
        decoder = [tap for tap in network.taps if tap.startswith("decoder.")]
        return next((tap for tap in reversed(decoder) if max(network.taps[tap].stride) >= 4), decoder[0])
    tap = name or network.head_taps[0]
    if tap not in network.taps:
        raise ConfigError(
            f"recipe.tap = {name!r}: the network of this plan has no such level; choose one of "
            f"{', '.join(network.taps)}, '{QUARTER}', or '' for {network.head_taps[0]}",
            code="E-CFG-60",
        )
    return tap


def freeze_beyond(network: UNet, tap: str) -> None:
    """Switch off the gradients of what features at a tap do not depend on: all later levels, and the logit heads.

    So every parameter that is trained gets a gradient, as DistributedDataParallel wants it.

    Raises:
        ValueError: there is no such tap.
    """
    names = list(network.taps)
    if tap not in names:
        raise ValueError(f"freeze_beyond: the network has no tap {tap!r}, only {', '.join(names)}")
    network.heads.requires_grad_(False)
    for name in names[names.index(tap) + 1 :]:
        network.get_submodule(name).requires_grad_(False)


def _linear(in_features: int, out_features: int, *, gain: float, generator: torch.Generator) -> nn.Linear:
    """Kaiming normal by fan-in, bias 0; torch's global generator is neither read nor moved."""
    with torch.device("meta"):
        layer = nn.Linear(in_features, out_features)
    layer.to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.normal_(0.0, gain / math.sqrt(in_features), generator=generator)
        layer.bias.zero_()
    return layer
