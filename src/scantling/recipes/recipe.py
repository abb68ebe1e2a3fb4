"""The contract between a method and the training loop: a recipe answers five questions and nothing else.

Which views (`views`), which pixels and pairs (inside `losses`), which losses (`losses`), where targets come
from (`losses`, `after_step`). The loop never asks which recipe it runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from scantling.config import Config
from scantling.contrast.diagnostics import Diagnostics
from scantling.views.maker import ViewConfig
from scantling.views.view import ViewBatch


class Recipe(nn.Module, ABC):
    """A method: a module whose parameters are trained and whose `state_dict` is all that must survive a restart.

    Attributes:
        learns: "segmentation" from images and label maps; "images" themselves, given what is known of them; or
            "features" of every pixel, from images with or without labels, for a network to be fine-tuned.
        run_defaults: settings of a run that suit the method; weaker than any that is given.
        published: settings of the published run, where ours differ; for the protocol that stands beside its table.
        from_labels: whether one that learns features compares pixels by their labels; another one sees none.
        diagnostics: what looks on, for a recipe that contrasts or predicts: `losses` shows it what it compares
            (`observe`), training asks it after each step. It is no part of the recipe's state.
    """

    config_type: ClassVar[type[Config]]
    learns: ClassVar[Literal["segmentation", "images", "features"]] = "segmentation"
    run_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    published: ClassVar[tuple[str, ...]] = ()
    uses_unlabelled: ClassVar[bool] = False
    from_labels: ClassVar[bool] = False
    diagnostics: Diagnostics | None = None

    @abstractmethod
    def __init__(self, config: Config, plan: Config, generator: torch.Generator) -> None:
        """Build every network and head; all initial weights are drawn from `generator`.

        Args:
            plan: `data.plan.Plan`, or `counterfactuals.image_plan.ImagePlan` for a recipe that learns images.
        """
        super().__init__()

    @abstractmethod
    def views(self) -> ViewConfig:
        """Which views of each sample the recipe wants to see."""

    @abstractmethod
    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Named, weighted scalar terms of one step; their sum is minimised, each is logged under its name.

        A term is that of the whole batch: where several processes share it, sums and counts go through
        `scantling.processes.sum_over_processes`. Nothing but gradients and buffers may change here: a step that
        is broken off or not finite is undone.

        Args:
            rng: keyed by the step; every random choice of the recipe is drawn from it.
        """

    def after_step(self) -> None:
        """Called once after each optimiser step: move the teacher, fill the bank."""

    @abstractmethod
    def deployable(self) -> nn.Module:
        """The network that is averaged, validated and saved.

        One that learns segmentation takes an image batch to the logits of all classes. One that learns features is
        the same kind of network (`networks.UNet` of the plan), whose heads mean nothing yet.
        """
