"""Plain supervised training on silver masks as a start for fine-tuning: what dense contrast has to beat."""

from __future__ import annotations

from typing import ClassVar, Final, final

import torch
from torch import Tensor, nn

from scantling.data.plan import Plan
from scantling.recipes.pixel_contrast import PixelContrast
from scantling.recipes.pretraining import TransformedViews, require_classes, views_of
from scantling.recipes.recipe import Recipe
from scantling.recipes.supervised import Supervised, SupervisedConfig
from scantling.views.maker import ViewConfig
from scantling.views.published import published_views
from scantling.views.view import ViewBatch

_VIEWS: Final = published_views(1, "own").model_copy(update={"crop_area": (0.5, 1.0)})


class SegmentationConfig(TransformedViews):
    """Weights of the two terms, and views: those of the published fine-tuning, but boxes of half of the image and more.

    Published are boxes of 20 % and more; ours were chosen as those of dense contrast were, see `PixelContrastConfig`.
    """

    views: ViewConfig = _VIEWS
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0


@final
class Segmentation(Recipe):
    """`supervised` among the recipes that learn features: on the same patients, with the same views and optimiser.

    Views: one. Targets: label maps, such as silver ones, each as far as it is trusted. Losses: Dice + cross-entropy.
    The heads are trained as well, so that the network segments as it is.

    Source: the row "Segmentation" of Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning for
    medical image segmentation". Differs: Dice beside cross-entropy.
    """

    config_type: ClassVar[type[SegmentationConfig]] = SegmentationConfig
    learns: ClassVar = "features"
    published: ClassVar = ("settings.views.crop_area=[0.2, 1.0]",)
    from_labels: ClassVar[bool] = True
    run_defaults: ClassVar = PixelContrast.run_defaults

    def __init__(self, config: SegmentationConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        require_classes("segmentation", plan)
        self._views = views_of(config, plan)
        weights = {"dice_weight": config.dice_weight, "cross_entropy_weight": config.cross_entropy_weight}
        self.supervised = Supervised(SupervisedConfig.model_validate(weights), plan, generator)
        self.diagnostics = self.supervised.diagnostics

    def views(self) -> ViewConfig:
        return self._views

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        return self.supervised.losses(batch, rng)

    def deployable(self) -> nn.Module:
        return self.supervised.deployable()
