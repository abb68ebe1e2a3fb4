"""The blocks a hierarchical VAE is put together from: residual bottlenecks, and decoder blocks that draw latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scantling.losses.variational import softplus_2
from scantling.networks.blocks import convolution
from scantling.shapes import Features

_MOST_GROUPS: Final = 32
_CHANNELS_PER_GROUP: Final = 8  # fewer would be an instance norm, which forgets how bright a map is

Context = Float[Tensor, "batch context"]


def group_norm(channels: int) -> nn.GroupNorm:
    """Up to 32 groups of at least 8 channels; one group where the width is no multiple."""
    groups = _MOST_GROUPS
    while groups > 1 and (channels % groups or channels // groups < _CHANNELS_PER_GROUP):
        groups //= 2
    return nn.GroupNorm(groups, channels)


def averaged(x: Features, down: int) -> Float[Tensor, "batch feature *smaller"]:
    """Means over `down` pixels along every axis; 0: over the whole map, as a map of one pixel."""
    if down == 1:
        return x
    if down == 0:
        return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
    return F.avg_pool2d(x, down) if x.ndim == 4 else F.avg_pool3d(x, down)


@final
class Bottleneck(nn.Module):
    """Norm, SiLU, convolution, plus the context; norm, SiLU, dropout, and a convolution that starts at zero.

    A residual one adds its input, by a 1x1 projection where the width changes. What it gives may be averaged over
    `down` pixels an axis, or over the whole map; the input is averaged before it is projected, which is the same.

    Args:
        inner: width between the two convolutions.
        down: 1 keeps the map, 0 averages all of it.
        context_width: of the embedded context; 0 where the block does not see it.
    """

    def __init__(
        self,
        in_channels: int,
        inner: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        context_width: int = 0,
        dropout: float = 0.0,
        residual: bool = True,
        down: int = 1,
    ) -> None:
        super().__init__()
        self.norm_in = group_norm(in_channels)
        self.conv_in = convolution(in_channels, inner, kernel, bias=True)
        self.context = nn.Linear(context_width, inner) if context_width else None
        self.norm_inner = group_norm(inner)
        self.dropout = dropout
        self.conv_out = convolution(inner, out_channels, kernel, bias=True)
        self.residual, self.down = residual, down
        projects = residual and in_channels != out_channels
        self.shortcut = convolution(in_channels, out_channels, (1,) * len(kernel)) if projects else None

    def forward(self, x: Features, context: Context | None = None) -> Float[Tensor, "batch out *smaller"]:
        hidden = self.conv_in(F.silu(self.norm_in(x)))
        if self.context is not None and context is not None:
            shift = self.context(context)
            hidden = hidden + shift.reshape(*shift.shape, *(1,) * (hidden.ndim - 2))
        hidden = F.silu(self.norm_inner(hidden))
        result = averaged(self.conv_out(F.dropout(hidden, self.dropout, self.training)), self.down)
        if not self.residual:
            return result
        x = averaged(x, self.down)
        return result + (x if self.shortcut is None else self.shortcut(x))


class Gaussian(NamedTuple):
    """A diagonal Gaussian in float32 or better."""

    loc: Float[Tensor, "batch latent *spatial"]
    scale: Float[Tensor, "batch latent *spatial"]

    @classmethod
    def of(cls, raw: Float[Tensor, "batch both *spatial"]) -> Gaussian:
        """Means and raw scales as a block gives them; raw 0 is scale 1."""
        loc, raw_scale = raw.float().chunk(2, dim=1) if raw.dtype != torch.float64 else raw.chunk(2, dim=1)
        return cls(loc, softplus_2(raw_scale))


class Streams(NamedTuple):
    """What runs down a decoder: features of the image to be, and what the prior keeps of the latents so far."""

    image: Features
    prior: Float[Tensor, "batch feature *spatial"]


@final
class LatentBlock(nn.Module):
    """A decoder block that draws one latent: its prior, its posterior, and how it enters the two streams.

    The prior reads a stream of its own, made of nothing but the latents before it (and the context, if it may see
    that), so it never sees what the context did to the image.
    """

    def __init__(
        self,
        channels: int,
        latent: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        bottleneck: int,
        context_width: int,
        conditional_prior: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel)
        inner = max(channels // bottleneck, 1)
        self.latent = latent
        self.prior_block = Bottleneck(
            channels,
            inner,
            2 * latent + channels,
            kernel,
            context_width=context_width if conditional_prior else 0,
            dropout=dropout,
            residual=False,
        )
        self.posterior_block = Bottleneck(
            2 * channels,
            max(2 * channels // bottleneck, 1),
            2 * latent,
            kernel,
            context_width=context_width,
            dropout=dropout,
            residual=False,
        )
        self.project = convolution(latent, channels, ones, bias=True)
        self.block = Bottleneck(channels, inner, out_channels, kernel, context_width=context_width, dropout=dropout)
        self.remember: nn.Module | None = convolution(latent + channels, out_channels, ones, bias=True)

    def prior(self, streams: Streams, context: Context) -> tuple[Gaussian, Float[Tensor, "batch feature *spatial"]]:
        """Of this latent given those before, and features that go with it."""
        raw = self.prior_block(streams.prior, context)
        parameters, features = raw.split((2 * self.latent, raw.shape[1] - 2 * self.latent), dim=1)
        return Gaussian.of(parameters), streams.prior + features

    def posterior(self, streams: Streams, seen: Features, context: Context) -> Gaussian:
        """Of this latent given those before and what the encoder saw at this resolution."""
        return Gaussian.of(self.posterior_block(torch.cat((streams.image, seen), dim=1), context))

    def merge(
        self,
        streams: Streams,
        features: Float[Tensor, "batch feature *spatial"],
        latent: Float[Tensor, "batch latent *spatial"],
        context: Context,
    ) -> Streams:
        """Both streams with the latent in them; the prior's ends where nothing remembers the latent."""
        image = self.block(streams.image + features + self.project(latent), context)
        if self.remember is None:
            return Streams(image, features)
        return Streams(image, self.remember(torch.cat((latent.to(features.dtype), features), dim=1)))


@final
class PlainBlock(nn.Module):
    """A decoder block without a latent: what a latent block does to the image's stream, so two bottlenecks."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        bottleneck: int,
        context_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        inner = max(channels // bottleneck, 1)
        self.first = Bottleneck(channels, inner, channels, kernel, context_width=context_width, dropout=dropout)
        self.second = Bottleneck(channels, inner, out_channels, kernel, context_width=context_width, dropout=dropout)

    def forward(self, x: Features, context: Context) -> Float[Tensor, "batch out *spatial"]:
        result: Tensor = self.second(self.first(x, context), context)
        return result
