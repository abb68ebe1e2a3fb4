"""A hierarchical VAE of the image given its attributes: what an image says beyond them, and the image under others.

Images are in [-1, 1]. The encoder goes down once; the decoder goes up, each of its blocks up to a given resolution
drawing a latent from a prior that knows the latents before it, with the context added inside every block.

Source: the image mechanism of counterfactual contrastive learning; Vahdat and Kautz 2020, "NVAE", and Child 2021,
"Very deep VAEs", for the hierarchy; De Sousa Ribeiro et al. 2023, "High fidelity image counterfactuals", for the
conditional prior.
Differs: written from descriptions. A prior's stream is fed the latents that the posterior drew, as the bound asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scantling.counterfactuals.hvae_blocks import Context, Gaussian, LatentBlock, Streams
from scantling.counterfactuals.hvae_layout import HVAEConfig
from scantling.counterfactuals.hvae_towers import Decoder, Draw, Encoder, initialise
from scantling.errors import ConfigError, PlanMismatch
from scantling.losses.variational import (
    discretised_gaussian_log_likelihood,
    free_bits,
    gaussian_kl,
    per_image,
    softplus_2,
)
from scantling.shapes import Images

TONE_WINDOWS: Final = 7
"""Windows along an axis over which a tone is taken for even; lab notes."""


class Predicted(NamedTuple):
    """The likelihood's mean and standard deviation of every value; the mean is not clamped."""

    mean: Images
    scale: Images


@dataclass(frozen=True)
class Latents:
    """What a batch's images say beyond their contexts: one tensor a block, coarsest first.

    Attributes:
        kept: "values" are the latents themselves; "noise" is how far they lie from their prior's mean, in its scales,
            so that under another context they move with a conditional prior.
    """

    tensors: tuple[Tensor, ...]
    kept: Literal["values", "noise"] = "values"


@dataclass(frozen=True)
class Elbo:
    """The two parts of the bound, for each image, and what they were computed from.

    Attributes:
        nll: in nats a value (pixel and channel), the mean over the image.
        kl_per_block: in nats, the sum over the block's latents; coarsest block first.
        values: pixels times channels of one image.
        predicted, latents: with their graph; decoded under another context, the latents of a training step give a
            counterfactual that a loss can look at.
    """

    nll: Float[Tensor, "batch"]
    kl_per_block: Float[Tensor, "block batch"]
    values: int
    predicted: Predicted
    latents: Latents

    @property
    def kl(self) -> Float[Tensor, "batch"]:
        """In nats a value, all blocks together."""
        return self.kl_per_block.sum(dim=0) / self.values

    def loss(self, *, beta: float, free_nats: float = 0.0) -> Float[Tensor, ""]:
        """nll + beta KL, in nats a value, mean over the batch; each block's KL counts at least as `free_nats`."""
        return self.nll.mean() + beta * free_bits(self.kl_per_block, free_nats) / self.values


@final
class HVAE(nn.Module):
    """Encoder, decoder and likelihood, every weight drawn from a given generator.

    Args:
        size: of the images, in array order; two axes or three.
        context_dim: length of the vector that stands for an image's attributes.
        generator: on the CPU; torch's global one is neither read nor moved.

    Raises:
        ConfigError: a size the layout cannot divide, or no channel or context.
    """

    def __init__(
        self,
        config: HVAEConfig,
        *,
        size: tuple[int, ...],
        in_channels: int,
        context_dim: int,
        generator: torch.Generator,
    ) -> None:
        if len(size) not in (2, 3) or in_channels < 1 or context_dim < 1:
            raise ConfigError(
                f"HVAE of size {size}, {in_channels} channels, context of {context_dim}: wanted two axes or three, "
                "and at least one channel and one context value"
            )
        super().__init__()
        self.config, self.size, self.in_channels, self.context_dim = config, size, in_channels, context_dim
        config.stage_sizes(size)
        width = config.context_width
        with torch.device("meta"):
            self.embed = nn.Sequential(nn.Linear(context_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
            self.encoder = Encoder(config, size=size, in_channels=in_channels)
            outputs = in_channels * (2 if config.scale == "per_pixel" else 1)
            self.decoder = Decoder(config, size=size, out_channels=outputs)
        self.to_empty(device="cpu")
        initialise(self, generator)
        self.raw_scale = nn.Parameter(
            torch.full((in_channels,), config.log_scale), requires_grad=config.scale != "fixed"
        )

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of each latent of one image: channels, then places; coarsest block first."""
        sizes = self.config.stage_sizes(self.size)
        stages = zip(self.config.stochastic_stages, self.config.latent_channels, strict=True)
        return tuple((channels, *sizes[stage.resolution]) for stage, channels in stages for _ in range(stage.blocks))

    def forward(
        self,
        images: Images,
        context: Context,
        *,
        generator: torch.Generator,
        keep: Literal["values", "noise"] | None = None,
    ) -> Elbo:
        """The bound's parts, with every latent drawn once from its posterior.

        Args:
            images: in [-1, 1].
            generator: for the draws; where it lives does not matter.
            keep: how the latents are kept; None: as the network's settings say.
        """
        keep = keep or self.config.keep
        embedded: Tensor = self.embed(context)
        kept: list[Tensor] = []
        divergences: list[Tensor] = []
        draw = self._posterior(images, embedded, generator, kept, divergences, as_noise=keep == "noise")
        raw = self.decoder(embedded, draw)
        predicted = self._likelihood(raw)
        terms = discretised_gaussian_log_likelihood(images, *predicted, cdf=self.config.cdf)
        return Elbo(
            nll=-terms.flatten(1).mean(dim=1),
            kl_per_block=torch.stack(divergences),
            values=images[0].numel(),
            predicted=predicted,
            latents=Latents(tuple(kept), keep),
        )

    @torch.no_grad()
    def abduct(
        self,
        images: Images,
        context: Context,
        *,
        generator: torch.Generator | None = None,
        keep: Literal["values", "noise"] | None = None,
    ) -> Latents:
        """The latents behind images: drawn from the posterior, or its means where no generator is given.

        Args:
            keep: how they are kept; None: as the network's settings say.
        """
        keep = keep or self.config.keep
        embedded: Tensor = self.embed(context)
        kept: list[Tensor] = []
        self.decoder(embedded, self._posterior(images, embedded, generator, kept, [], as_noise=keep == "noise"))
        return Latents(tuple(kept), keep)

    def decode(self, latents: Latents, context: Context, *, hold_prior: bool = False) -> Predicted:
        """The image that latents make under a context, for the network's own weights the same every time.

        Args:
            hold_prior: no gradient goes into the prior that turns kept noise into latents. A prior is to be learnt by
                the bound alone, in which a nat of a coarse latent weighs next to nothing beside any other loss.

        Raises:
            PlanMismatch: other latents than this network draws.
        """
        wanted = sum(stage.blocks for stage in self.config.stochastic_stages)
        if len(latents.tensors) != wanted:
            raise PlanMismatch(
                f"{len(latents.tensors)} latents: this HVAE draws {wanted}; abduct with the same network"
            )
        left = iter(latents.tensors)

        def draw(block: LatentBlock, resolution: int, streams: Streams, prior: Gaussian) -> Tensor:
            given = next(left)
            if latents.kept == "values":
                return given
            loc, scale = (prior.loc.detach(), prior.scale.detach()) if hold_prior else prior
            return loc + scale * given

        return self._likelihood(self.decoder(self.embed(context), draw))

    def sample(self, context: Context, *, generator: torch.Generator, temperature: float = 1.0) -> Predicted:
        """Images of nobody: latents from the prior, its scales multiplied by `temperature`."""

        def draw(block: LatentBlock, resolution: int, streams: Streams, prior: Gaussian) -> Tensor:
            return prior.loc + temperature * prior.scale * _noise(prior.loc, generator)

        return self._likelihood(self.decoder(self.embed(context), draw))

    def _posterior(
        self,
        images: Tensor,
        embedded: Tensor,
        generator: torch.Generator | None,
        kept: list[Tensor],
        divergences: list[Tensor],
        *,
        as_noise: bool = False,
    ) -> Draw:
        """Draws from the posterior of these images, and notes each latent and its KL."""
        if tuple(images.shape[1:]) != (self.in_channels, *self.size):
            raise PlanMismatch(
                f"images {tuple(images.shape[1:])}: this HVAE was built for {(self.in_channels, *self.size)}; "
                "resize them, or build another"
            )
        seen: dict[int, Tensor] = self.encoder(images)

        def draw(block: LatentBlock, resolution: int, streams: Streams, prior: Gaussian) -> Tensor:
            posterior = block.posterior(streams, seen[resolution], embedded)
            latent = posterior.loc
            if generator is not None:
                latent = latent + posterior.scale * _noise(latent, generator)
            kept.append((latent - prior.loc) / prior.scale if as_noise else latent)
            divergences.append(per_image(gaussian_kl(*posterior, *prior)))
            return latent

        return draw

    def _likelihood(self, raw: Tensor) -> Predicted:
        raw = raw if raw.dtype == torch.float64 else raw.float()
        mean, offset = raw[:, : self.in_channels], raw[:, self.in_channels :]
        base = self.raw_scale.reshape(-1, *(1,) * (mean.ndim - 2)).to(mean.dtype)
        scale = softplus_2(base + offset if self.config.scale == "per_pixel" else base)
        if self.config.scale != "fixed":
            scale = scale.clamp(min=self.config.smallest_scale)
        return Predicted(mean, scale.expand_as(mean))


def predict_counterfactual(images: Images, factual: Predicted, other: Predicted) -> Images:
    """x* = mu* + sigma* u with u = (x - mu) / sigma, clamped to [-1, 1].

    Computed as x + (mu* - mu) + (sigma* / sigma - 1) (x - mu): exactly x where nothing changes, and
    x + (mu* - mu) where the scale is constant.

    Args:
        factual, other: decoded from the same latents under the image's context and under another.

    Source: De Sousa Ribeiro et al. 2023, "High fidelity image counterfactuals", Sec. 3.
    """
    stretched = (other.scale / factual.scale - 1) * (images - factual.mean)
    return (images + (other.mean - factual.mean) + stretched).clamp(-1, 1)


def with_smooth_tone(factual: Predicted, other: Predicted) -> Predicted:
    """`other` with a scale whose ratio to the factual one varies slowly, over a seventh of each axis.

    The ratio is the slope of a tone curve, and stretches what the model left over: ribs, vessels, noise. Taken pixel by
    pixel it is an uncertain estimate and leaves speckle. Its logarithm is averaged over the pixels around; where
    nothing changes it stays 1 to the bit.
    """
    ratio = (other.scale / factual.scale).log()
    window = [round(length / TONE_WINDOWS) | 1 for length in ratio.shape[2:]]
    pool = torch.nn.functional.avg_pool2d if len(window) == 2 else torch.nn.functional.avg_pool3d
    smooth = pool(ratio, window, stride=1, padding=[n // 2 for n in window], count_include_pad=False)
    return other._replace(scale=factual.scale * smooth.exp())


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal draws in the shape of `like`; drawn where the generator lives."""
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
