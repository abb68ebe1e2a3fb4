"""What an image model's noise still says of the attributes, found by regression and moved with them.

Abduction takes the noise for what an image says beyond its attributes. A trained network is not that tidy: where the
divergence of a latent costs little, part of an attribute's effect, such as a scanner's mean brightness, hides in the
noise, and stays behind when the attribute is changed. The noise of the training images is therefore regressed on their
attributes, and a counterfactual's noise moves by the difference.

Source: Pearl 2009, "Causality", Sec. 1.4, for noise that is independent of the parents. The moving is our own; the
shrinking follows James and Stein 1961, "Estimation with quadratic loss".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from scantling.counterfactuals.hvae import HVAE, Latents
from scantling.counterfactuals.hvae_blocks import Context
from scantling.shapes import Images

MOST_IMAGES: Final = 2000
"""That are regressed; more tell nothing new."""
_RIDGE: Final = 1.0
"""Pseudo-images without any effect; also what makes attributes written as one-hot vectors solvable."""


@dataclass(frozen=True)
class NoiseEffects:
    """Change of each latent's noise, in scales of its prior, by a unit of each context value; a tensor a block.

    Attributes:
        slopes: `[context, channel, *spatial]` each, coarsest block first.
    """

    slopes: tuple[Tensor, ...]

    def moved(self, latents: Latents, own: Context, other: Context) -> Latents:
        """The noise as it would be under other attributes; to the bit what it was where they are the same.

        Raises:
            ValueError: the latents are values, not noise.
        """
        if latents.kept != "noise":
            raise ValueError(f"latents kept as {latents.kept}: effects are on noise; abduct with keep='noise'")
        step = other - own
        pairs = zip(latents.tensors, self.slopes, strict=True)
        return replace(latents, tensors=tuple(noise + torch.tensordot(step, slope, 1) for noise, slope in pairs))


@torch.no_grad()
def fit_noise_effects(
    network: HVAE,
    images: Callable[[list[int]], Images],
    contexts: Context,
    *,
    batch_size: int,
) -> NoiseEffects:
    """The regression on images that the network has learnt from, evenly chosen where there are too many.

    Slopes are least squares with a light ridge. Those of single places are drawn to their channel's mean, and those to
    nothing, as far as the errors of the regression explain how they differ.

    Args:
        images: makes a batch of the images with these numbers, in [-1, 1].
        contexts: of all images, as `FittedGraph.encode` gives them.
    """
    device = next(network.parameters()).device
    chosen = torch.linspace(0, len(contexts) - 1, min(len(contexts), MOST_IMAGES)).round().long().tolist()
    design = torch.cat([contexts[chosen], torch.ones(len(chosen), 1)], dim=1).double().to(device)
    blocks: list[tuple[_Sums, _Sums]] = []
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size]
        rows = design[start : start + batch_size]
        latents = network.abduct(images(part).to(device), contexts[part].to(device), keep="noise")
        if not blocks:
            blocks = [(_Sums(), _Sums()) for _ in latents.tensors]
        for noise, (of_places, of_channels) in zip(latents.tensors, blocks, strict=True):
            of_places.add(rows, noise.double())
            of_channels.add(rows, noise.double().flatten(2).mean(dim=2))
    return NoiseEffects(tuple(_shrunk(design, *sums) for sums in blocks))


class _Sums:
    """What a regression needs to know of its targets."""

    def __init__(self) -> None:
        self.products: Tensor | None = None
        self.squares: Tensor | None = None

    def add(self, rows: Float[Tensor, "image regressor"], targets: Float[Tensor, "image *target"]) -> None:
        """Count the targets of some images."""
        products, squares = torch.tensordot(rows.T, targets, 1), targets.square().sum(dim=0)
        self.products = products if self.products is None else self.products + products
        self.squares = squares if self.squares is None else self.squares + squares

    def slopes(
        self, design: Float[Tensor, "image regressor"]
    ) -> tuple[Float[Tensor, "context *target"], Float[Tensor, ""]]:
        """Slopes of all regressors but the last, the constant, and the sum of their sampling variances."""
        if self.products is None or self.squares is None:
            raise ValueError("no image was counted")
        gram = design.T @ design
        penalty = torch.full((len(gram),), _RIDGE, dtype=gram.dtype, device=gram.device)
        penalty[-1] = 0.0
        inverse = torch.linalg.inv(gram + penalty.diag())
        slopes = torch.tensordot(inverse, self.products, 1)
        explained = (2 * slopes * self.products - slopes * torch.tensordot(gram, slopes, 1)).sum(dim=0)
        variance = (self.squares - explained).clamp(min=0.0) / max(len(design) - len(gram), 1)
        return slopes[:-1], (inverse @ gram @ inverse).diagonal()[:-1].sum() * variance.sum()


def _shrunk(
    design: Float[Tensor, "image regressor"], of_places: _Sums, of_channels: _Sums
) -> Float[Tensor, "context channel *spatial"]:
    """Slopes of the channels' means, and by how much those of single places differ from them, each as far as it is
    more than chance."""
    slopes, error = of_places.slopes(design)
    means, error_of_means = of_channels.slopes(design)
    spread = means.reshape(*means.shape, *(1,) * (slopes.ndim - 2))
    beyond, places = slopes - spread, slopes[0, 0].numel()
    kept = _beyond_chance(means, error_of_means) * spread
    return (kept + _beyond_chance(beyond, error - places * error_of_means) * beyond).float()


def _beyond_chance(estimates: Tensor, error: Tensor) -> Tensor:
    """The share of the squares of estimates that their sampling variance does not explain."""
    return (1 - error / estimates.square().sum().clamp(min=torch.finfo(estimates.dtype).tiny)).clamp(0.0, 1.0)
