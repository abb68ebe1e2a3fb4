"""Plain supervision: Dice and cross-entropy on annotated pixels, partial labels respected."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from scantling.config import Config
from scantling.contrast.diagnostics import Diagnostics
from scantling.data.plan import Plan
from scantling.losses.segmentation import deep_supervision, dice_and_cross_entropy
from scantling.networks import build_network
from scantling.processes import sum_over_processes
from scantling.recipes.recipe import Recipe
from scantling.views.maker import ViewConfig
from scantling.views.view import ViewBatch


class SupervisedConfig(Config):
    """Weights of the two terms, and the augmentation."""

    views: ViewConfig = Field(default_factory=ViewConfig)
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0


@final
class Supervised(Recipe):
    """One view of each sample, its annotation, Dice + cross-entropy (the baseline everything is measured against).

    Source: Isensee et al. 2021, "nnU-Net", Methods (loss). Differs: pixels nobody looked at and classes that
    were not looked for are left out of both terms.
    """

    config_type: ClassVar[type[SupervisedConfig]] = SupervisedConfig

    def __init__(self, config: SupervisedConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        self.config = config
        self._views = config.views.model_copy(update={"flip_axes": config.views.flip_axes or plan.mirror_axes})
        self.network = build_network(
            plan.network,
            dimensions=plan.dimensions,
            in_channels=len(plan.channels),
            out_channels=len(plan.classes.names),
            generator=generator,
        )
        self.diagnostics = Diagnostics(plan.classes.names)

    def views(self) -> ViewConfig:
        return self._views

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        logits = self.network(batch.images[:, 0])
        terms = partial(dice_and_cross_entropy, sum_over_processes=sum_over_processes)
        dice, cross_entropy = deep_supervision(
            terms, logits, batch.label_maps[:, 0], batch.weights[:, 0], batch.annotated
        )
        if self.diagnostics is not None:
            finest = logits if isinstance(logits, Tensor) else logits[0]
            self.diagnostics.observe_prediction(finest, batch.label_maps[:, 0])
        return {
            "dice": self.config.dice_weight * dice,
            "cross_entropy": self.config.cross_entropy_weight * cross_entropy,
        }

    def deployable(self) -> nn.Module:
        return self.network
