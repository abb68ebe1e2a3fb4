"""SimCLR: one vector an image, from the encoder; views of a sample are found again among those of other images."""

from __future__ import annotations

from typing import ClassVar, Final, final

import torch
from pydantic import Field
from torch import Tensor, nn

from scantling.contrast.contrasting import contrast
from scantling.contrast.diagnostics import Diagnostics
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels
from scantling.contrast.relations import ACROSS_IMAGES, SamePoint
from scantling.data.plan import Plan
from scantling.networks.projection import ImageProjection, dense_features, freeze_beyond
from scantling.recipes.pixel_contrast import PixelContrast
from scantling.recipes.pretraining import PretrainingConfig, deepest_tap, network_of, sample_tags, views_of
from scantling.recipes.recipe import Recipe
from scantling.views.maker import ViewConfig
from scantling.views.view import ViewBatch

_RULE: Final = PairRule(SamePoint().among(ACROSS_IMAGES, only="negatives"))


class SimCLRConfig(PretrainingConfig):
    """Views, projection and loss.

    Attributes:
        hidden: as it was run beside dual-view contrast.
        temperature: divides the cosines.
    """

    hidden: int = Field(default=1024, ge=1)
    temperature: float = Field(default=0.5, gt=0)


@final
class SimCLR(Recipe):
    """NT-Xent: every view of the batch against all others, the other views of its sample being positive.

    Views: two or more of each image. Pixels: none; the mean of the coarsest encoder level, projected. Pairs: views of
    one sample; against those of other images. The decoder is not trained and not kept. Networks with instance
    normalisation learn slowly by it: they divide out most of what a mean over space could say of an image. Give one
    with batch normalisation (`plan.network = "scribble_unet"` or "resnet50_unet").

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations", Eq. 1; more than
    two views: Khosla et al. 2020, "Supervised contrastive learning", Eq. 2. With `views.image_of_view = "each"` view
    1 is a counterfactual, as in the baseline of Lafargue-Hauret et al. 2026.
    Differs: two samples of one image are not negatives of each other; transforms are those of the methods it is
    compared with.
    """

    config_type: ClassVar[type[SimCLRConfig]] = SimCLRConfig
    learns: ClassVar = "features"
    uses_unlabelled: ClassVar[bool] = True
    run_defaults: ClassVar = PixelContrast.run_defaults

    def __init__(self, config: SimCLRConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        self.config, self._views = config, views_of(config, plan)
        self.network = network_of(plan, generator)
        self.tap = deepest_tap(self.network)
        freeze_beyond(self.network, self.tap)
        width = self.network.taps[self.tap].channels
        self.projection = ImageProjection(width, config.hidden, config.embedding, generator=generator)
        self.diagnostics = Diagnostics(plan.classes.names)

    def views(self) -> ViewConfig:
        return self._views

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        features = dense_features(self.network, batch.images, self.tap)
        views = Pixels(embeddings=self.projection(features.flatten(0, 1)), tags=sample_tags(batch))
        if self.diagnostics is not None:
            self.diagnostics.observe("image_contrast", views, _RULE)
        return {"image_contrast": contrast(views, None, _RULE, temperature=self.config.temperature)}

    def deployable(self) -> nn.Module:
        return self.network
