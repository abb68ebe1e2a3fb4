"""The two towers of a hierarchical VAE: the encoder's maps by resolution, and the decoder's walk through its blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scantling.counterfactuals.hvae_blocks import Bottleneck, Context, Gaussian, LatentBlock, PlainBlock, Streams
from scantling.counterfactuals.hvae_layout import HVAEConfig
from scantling.networks.blocks import convolution
from scantling.shapes import Features, Images

Draw = Callable[[LatentBlock, int, Streams, Gaussian], Tensor]
"""Decides a block's latent, given the block, its resolution, the streams and the prior."""


@final
class Encoder(nn.Module):
    """One way down: blocks at each resolution, and one more that widens before the map is averaged over its stride."""

    def __init__(self, config: HVAEConfig, *, size: tuple[int, ...], in_channels: int) -> None:
        super().__init__()
        self.stages, sizes = config.encoder_stages, config.stage_sizes(size)
        self.patch = config.patch
        self.stem = convolution(in_channels * self.patch ** len(size), config.widths[0], (3,) * len(size), bias=True)
        self.blocks = nn.ModuleList()
        self.ways_down = nn.ModuleList()
        for i, stage in enumerate(self.stages):
            width, after = config.widths[i], config.widths[min(i + 1, len(config.widths) - 1)]
            kernel = _kernel(sizes[stage.resolution], at_one=config.encoder_kernel_at_one)
            inner = max(width // config.bottleneck, 1)
            self.blocks.append(
                nn.Sequential(
                    *(Bottleneck(width, inner, width, kernel, dropout=config.dropout) for _ in range(stage.blocks))
                )
            )
            if stage.down > 1:
                down = 0 if self.stages[i + 1].resolution == 1 else stage.down
                self.ways_down.append(Bottleneck(width, inner, after, kernel, dropout=config.dropout, down=down))

    def forward(self, images: Images) -> dict[int, Tensor]:
        """Resolution -> what is known of the image there."""
        x = self.stem(fold(images, self.patch))
        seen: dict[int, Tensor] = {}
        for i, stage in enumerate(self.stages):
            x = self.blocks[i](x)
            seen[stage.resolution] = x
            if stage.down > 1:
                x = self.ways_down[i](x)
        return seen


@final
class Decoder(nn.Module):
    """One way up: constant maps that are learnt, blocks that draw latents, and above them blocks that do not."""

    def __init__(self, config: HVAEConfig, *, size: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.stages, self.sizes = config.decoder_stages, config.stage_sizes(size)
        self.drawing = len(config.stochastic_stages)
        widths = config.widths[::-1]
        self.first_width = widths[0]
        self.constants = nn.ParameterDict()
        self.blocks = nn.ModuleList()
        for i, stage in enumerate(self.stages):
            if stage.resolution <= config.bias_up_to:
                constant = torch.empty(widths[i], *self.sizes[stage.resolution])
                self.constants[str(stage.resolution)] = nn.Parameter(constant)
            afters = [widths[i]] * (stage.blocks - 1) + [widths[min(i + 1, len(widths) - 1)]]
            self.blocks.append(nn.ModuleList(self._block(config, i, after) for after in afters))
        self.patch = config.patch
        self.head = convolution(widths[-1], out_channels * self.patch ** len(size), (1,) * len(size), bias=True)
        last = cast("nn.ModuleList", self.blocks[self.drawing - 1])[-1]
        cast("LatentBlock", last).remember = None  # no prior follows that could read it

    def _block(self, config: HVAEConfig, stage: int, after: int) -> nn.Module:
        width = config.widths[::-1][stage]
        kernel = _kernel(self.sizes[self.stages[stage].resolution], at_one=1)
        if stage < self.drawing:
            return LatentBlock(
                width,
                config.latent_channels[stage],
                after,
                kernel,
                bottleneck=config.bottleneck,
                context_width=config.context_width,
                conditional_prior=config.conditional_prior,
                dropout=config.dropout,
            )
        return PlainBlock(
            width,
            after,
            kernel,
            bottleneck=config.bottleneck,
            context_width=config.context_width,
            dropout=config.dropout,
        )

    def forward(self, context: Context, draw: Draw) -> Images:
        """Raw outputs at the image's size; `draw` is asked once a latent, coarsest first."""
        coarsest = self.sizes[self.stages[0].resolution]
        start = context.new_zeros((context.shape[0], self.first_width, *coarsest))
        streams = Streams(start, start)
        for stage, blocks in zip(self.stages[: self.drawing], self.blocks, strict=False):
            streams = Streams(*(self._enter(x, stage.resolution) for x in streams))
            for block in cast("nn.ModuleList", blocks):
                assert isinstance(block, LatentBlock)
                prior, features = block.prior(streams, context)
                streams = block.merge(streams, features, draw(block, stage.resolution, streams, prior), context)
        x = streams.image
        for stage, blocks in zip(self.stages[self.drawing :], self.blocks[self.drawing :], strict=True):
            x = self._enter(x, stage.resolution)
            for block in cast("nn.ModuleList", blocks):
                x = block(x, context)
        return unfold(self.head(x), self.patch)

    def _enter(self, x: Features, resolution: int) -> Float[Tensor, "batch feature *larger"]:
        """At a stage's size, with its constant map added."""
        size = self.sizes[resolution]
        if tuple(x.shape[2:]) != size:
            x = F.interpolate(x, size=size, mode="nearest")
        return x + self.constants[str(resolution)] if str(resolution) in self.constants else x


def fold(images: Images, patch: int) -> Float[Tensor, "batch folded *smaller"]:
    """Patches of pixels into channels, by `patch` along every axis."""
    if patch == 1:
        return images
    axes = range(images.ndim - 2)
    split = images.reshape(*images.shape[:2], *(n for i in axes for n in (images.shape[2 + i] // patch, patch)))
    order = (0, 1, *(3 + 2 * i for i in axes), *(2 + 2 * i for i in axes))
    return split.permute(order).flatten(1, 1 + len(axes))


def unfold(x: Features, patch: int) -> Float[Tensor, "batch channel *larger"]:
    """The inverse of `fold`."""
    if patch == 1:
        return x
    axes = range(x.ndim - 2)
    split = x.reshape(x.shape[0], -1, *(patch for _ in axes), *x.shape[2:])
    order = (0, 1, *(n for i in axes for n in (2 + len(axes) + i, 2 + i)))
    return split.permute(order).reshape(x.shape[0], -1, *(length * patch for length in x.shape[2:]))


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight: normal by fan-in, biases and constants 0, norms 1 and 0.

    A bottleneck's last convolution starts at 0, so that at first every block passes its input on, every prior and
    posterior is standard normal, and the KL is 0. What a latent adds is scaled down by the root of their number.

    Raises:
        TypeError: a module holds parameters that no rule covers, so they would stay undefined.
    """
    latents = [module for module in network.modules() if isinstance(module, LatentBlock)]
    gains: dict[nn.Module, float] = {block.project: len(latents) ** -0.5 for block in latents}
    gains |= {module.head: 0.0 for module in network.modules() if isinstance(module, Decoder)}
    gains |= {module.conv_out: 0.0 for module in network.modules() if isinstance(module, Bottleneck)}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            with torch.no_grad():
                deviation = gains.get(module, 1.0) / math.sqrt(module.weight[0].numel())
                module.weight.normal_(0.0, 1.0, generator=generator).mul_(deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.ParameterDict):
            for constant in module.values():
                nn.init.zeros_(constant)
        elif any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            raise TypeError(f"{name} ({type(module).__name__}): no rule says how its weights are initialised")


def _kernel(size: Sequence[int], *, at_one: int) -> tuple[int, ...]:
    """3 pixels an axis; `at_one` along all where the map is a single pixel."""
    return (3 if max(size) > 1 else at_one,) * len(size)
