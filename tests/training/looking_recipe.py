"""A small method that contrasts and predicts under the eyes of its diagnostics, with faults that can be switched on."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from scantling.config import Config
from scantling.contrast.diagnostics import Diagnostics
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.relations import SameClass
from scantling.data.plan import Plan
from scantling.losses.contrastive import info_nce
from scantling.losses.segmentation import cross_entropy
from scantling.networks import build_network
from scantling.recipes.recipe import Recipe
from scantling.views.maker import ViewConfig
from scantling.views.view import ViewBatch


class LookingConfig(Config):
    """Which fault, and how often it is looked for."""

    fault: Literal["none", "background_anchors", "one_point"] = "none"
    every: int = 10


@final
class Looking(Recipe):
    """Cross-entropy, and a contrast of the pixels of every fourth row and column, same class against others."""

    config_type: ClassVar[type[LookingConfig]] = LookingConfig

    def __init__(self, config: LookingConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        self.config = config
        self.network = build_network(
            plan.network, dimensions=2, in_channels=1, out_channels=len(plan.classes.names), generator=generator
        )
        self.head = nn.Conv2d(1, 8, 5, padding=2)
        nn.init.normal_(self.head.weight, generator=generator)
        nn.init.constant_(self.head.bias, 0.1)
        self.diagnostics = Diagnostics(plan.classes.names, every=config.every)

    def views(self) -> ViewConfig:
        return ViewConfig()

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        images, label_maps, weights = batch.images[:, 0], batch.label_maps[:, 0], batch.weights[:, 0]
        logits = self.network(images)
        klass = label_maps[:, ::4, ::4].flatten()
        usable = (weights[:, ::4, ::4] > 0).flatten()
        if self.config.fault == "background_anchors":
            usable = usable & (klass == 0)
        pixels = Pixels(
            embeddings=self.head(images)[:, :, ::4, ::4].movedim(1, -1).flatten(0, 2),
            tags=Tags(klass=klass, usable=usable),
        )
        rule = PairRule(SameClass())
        assert self.diagnostics is not None
        self.diagnostics.observe("pixel_contrast", pixels, rule, labels=label_maps)
        self.diagnostics.observe_prediction(logits, label_maps)
        contrast = info_nce(pixels.embeddings, None, rule.pairs(pixels.tags), temperature=0.5)
        return {
            "cross_entropy": cross_entropy(logits, label_maps, weights, batch.annotated),
            "pixel_contrast": 0.1 * contrast,
        }

    @torch.no_grad()
    def after_step(self) -> None:
        if self.config.fault == "one_point":
            self.head.weight.mul_(0.1)  # what is left is the bias

    def deployable(self) -> nn.Module:
        return self.network
