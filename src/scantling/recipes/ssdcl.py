"""SSDCL: pixels of one class are drawn together, over a coarse grid or a block of all images."""

from __future__ import annotations

import math
from typing import ClassVar, Final, Literal, final

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor, nn

from scantling.contrast.contrasting import contrast
from scantling.contrast.diagnostics import Diagnostics
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels
from scantling.contrast.points import Points, gather, nearest_values, tags_of
from scantling.contrast.relations import SameClass, SameImage
from scantling.contrast.sampling import grid_points, random_points
from scantling.data.plan import Plan
from scantling.networks.projection import PixelProjection, chosen_tap, dense_features, freeze_beyond
from scantling.recipes.pixel_contrast import BACKGROUND, PixelContrast, anchor_labels, labelled
from scantling.recipes.pretraining import PretrainingConfig, network_of, require_classes, views_of
from scantling.recipes.recipe import Recipe
from scantling.views.maker import ViewConfig
from scantling.views.published import published_views
from scantling.views.view import ViewBatch

_VIEWS: Final = published_views(2, "own", rotation=False, crop=False)


class SSDCLConfig(PretrainingConfig):
    """Views, network, pixels and pairs.

    What was run under this name beside dual-view contrast is `s_mvd_cl` as released, with these views
    (`experiments/ssdcl_as_run.toml`).

    Attributes:
        views: recoloured, neither turned nor cropped, as they were run.
        tap: the feature map that is contrasted; "" is the finest decoder level.
        temperature: divides the cosines.
        sampling: "stride" takes every so many pixels along each axis; "block" all pixels of one block, at a place
            drawn anew in each step and the same in all views; "random" draws pixels of each view.
        stride, block, points: of the three.
        background_anchors: whether background pixels are anchors of each other; they are negatives in any case.
        across_images: compare pixels of all images, or those of each image alone.
    """

    views: ViewConfig = _VIEWS
    tap: str = ""
    temperature: float = Field(default=0.7, gt=0)
    sampling: Literal["stride", "block", "random"] = "stride"
    stride: int = Field(default=4, ge=1)
    block: int = Field(default=32, ge=1)
    points: int = Field(default=1000, ge=1)
    background_anchors: bool = False
    across_images: bool = True

    fewest_views: ClassVar[int] = 1


@final
class SSDCL(Recipe):
    """SupCon of pixels by their class.

    Views: two of each image. Pixels: a grid of every fourth pixel, or a block of 32. Pairs: the same class is positive,
    all other labelled pixels are negatives; background is no anchor. Targets: label maps, such as silver ones, each as
    far as it is trusted. A batch without labels gives a loss of 0.

    Source: Hu et al. 2021, "Semi-supervised contrastive learning for label-efficient medical image segmentation",
    supervised local contrast with its two ways to save pixels.
    Differs: the network starts as any other here does, not from a first stage of image contrast; to have that stage,
    give a run of `simclr` as `init`. One block a step stands for the mean over all blocks.
    """

    config_type: ClassVar[type[SSDCLConfig]] = SSDCLConfig
    learns: ClassVar = "features"
    from_labels: ClassVar[bool] = True
    run_defaults: ClassVar = PixelContrast.run_defaults

    def __init__(self, config: SSDCLConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        require_classes("ssdcl", plan)
        self.config, self._views = config, views_of(config, plan)
        self.network = network_of(plan, generator)
        self.tap = chosen_tap(self.network, config.tap)
        freeze_beyond(self.network, self.tap)
        width = self.network.taps[self.tap].channels
        self.projection = PixelProjection(width, config.hidden, config.embedding, generator=generator)
        same = SameClass(without=() if config.background_anchors else (BACKGROUND,))
        self.rule = PairRule(same if config.across_images else same.among(SameImage()), trust=True)
        self.diagnostics = Diagnostics(plan.classes.names)

    def views(self) -> ViewConfig:
        return self._views

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        points = self._points(batch, rng)
        features = dense_features(self.network, batch.images, self.tap)
        embeddings = self.projection(gather(features, points, batch.view_shape, interpolation="nearest"))
        pixels = Pixels(embeddings=embeddings.flatten(0, 2), tags=tags_of(points, batch))
        if self.diagnostics is not None:
            labels = anchor_labels(batch, background_anchors=self.config.background_anchors)
            self.diagnostics.observe("pixel_contrast", pixels, self.rule, labels=labels)
        return {"pixel_contrast": contrast(pixels, None, self.rule, temperature=self.config.temperature)}

    def deployable(self) -> nn.Module:
        return self.network

    def _points(self, batch: ViewBatch, rng: torch.Generator) -> Points:
        c, among = self.config, labelled(batch)
        if c.sampling == "stride":
            return grid_points(batch, c.stride, among=among)
        if c.sampling == "block":
            return block_points(batch, c.block, rng, among=among)
        return random_points(batch, c.points, rng, among=among)


def block_points(
    batch: ViewBatch, side: int, rng: torch.Generator, *, among: Bool[Tensor, "batch view *spatial"]
) -> Points:
    """All pixels of one block of the views' grid, the same block in every view; each block equally likely.

    Where the sides do not divide a view, its last block reaches back into the one before.

    Args:
        side: of the block, in pixels; at most that of the view.
    """
    axes = []
    for n in batch.view_shape:
        length = min(side, n)
        number = int(torch.randint(math.ceil(n / length), (), generator=rng, device=rng.device))
        axes.append(torch.arange(length, device=batch.images.device) + min(number * length, n - length))
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2).to(torch.float32)
    indices = places.expand(*batch.images.shape[:2], -1, -1)
    points = Points(indices=indices, usable=torch.ones_like(indices[..., 0], dtype=torch.bool))
    usable: Bool[Tensor, "batch view point"] = nearest_values(among, points, batch.view_shape, outside=0)
    return Points(indices=indices, usable=usable)
