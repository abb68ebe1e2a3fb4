"""What stands around the loop for one purpose: what is gathered before it, and what is made of its network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from scantling.config import Config
from scantling.data.splits import Split
from scantling.processes import process_count, process_rank
from scantling.recipes.recipe import Recipe
from scantling.training.batches import SampleSource, StepSamples
from scantling.training.config import RunConfig
from scantling.training.interruption import StopSignals
from scantling.training.loop import Loop
from scantling.training.loop_state import LoopConfig
from scantling.training.needs import Later
from scantling.training.progress import Display
from scantling.training.run_folder import RunFolder


class Road(ABC):
    """A run but for its loop; the loop, its checkpoints and budgets are the same on every road.

    Whatever a road decides is in the run folder before the first step, and found there by a resumed run.

    Attributes:
        plan_type: of what stands in `plan.json`.
    """

    plan_type: ClassVar[type[Config]]

    def __init__(self, run: RunFolder, config: RunConfig, *, device: torch.device, display: Display) -> None:
        self.run, self.config, self.device, self.display = run, config, device, display

    @abstractmethod
    def gather(self) -> None:
        """Everything up to the first step; comes before all else.

        Raises:
            DataError: nothing to learn from.
            PlanMismatch: the data changed since the run was started.
        """

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Samples in a step of all processes."""

    @property
    @abstractmethod
    def sentence(self) -> str:
        """Who is learnt from, who chooses the checkpoint, who is held out."""

    @abstractmethod
    def loop(self, stop: StopSignals) -> Loop:
        """The loop at its first step."""

    def loop_over(
        self,
        recipe: Recipe,
        source: SampleSource,
        *,
        patch_size: tuple[int, ...],
        patch_divisor: tuple[int, ...],
        stop: StopSignals,
    ) -> Loop:
        """The loop of a recipe over this process's share of the samples."""
        config = self.config
        samples = StepSamples(
            source, self.batch_size, config.training.steps_per_epoch, rank=process_rank(), processes=process_count()
        )
        return Loop(
            recipe,
            samples,
            loop_config(self.run, config),
            patch_size=patch_size,
            run=self.run,
            seed=config.seed,
            device=self.device,
            patch_divisor=patch_divisor,
            workers=config.workers,
            display=self.display,
            stop=stop,
            breakable=stop.breakable,
        )

    def facts_of(self, loop: Loop, dataset: str, split: Split, *, score: str) -> dict[str, Any]:
        """What a model folder says of its training.

        Args:
            score: name of what chose the checkpoint.
        """
        best = loop.state.best_score
        start = self.run.status().get("started_from")
        return {
            "recipe": self.config.recipe,
            "seed": self.config.seed,
            "dataset": dataset,
            "n_training_cases": len(split.train),
            "n_validation_cases": len(split.validation),
            "n_held_out_cases": len(split.heldout),
            "validation": split.sentence,
            "steps": loop.state.step,
            "training_seconds": round(loop.state.elapsed, 1),
            "selected_on": None if best is None else {score: best},
            **({"started_from": start} if start else {}),
        }

    @abstractmethod
    def later(self, loop: Loop) -> Later:
        """What validations, and the work after training, will need."""

    @abstractmethod
    def reserve_seconds(self, loop: Loop) -> float:
        """Time to keep for the work after training."""

    @abstractmethod
    def finish(self, loop: Loop, network: nn.Module, *, stop: StopSignals) -> None:
        """Save the model, and measure it on what was held out; only the first process comes here.

        Args:
            network: what the loop trained, in evaluation mode.
        """


def loop_config(run: RunFolder, config: RunConfig) -> LoopConfig:
    """The loop's settings; a run limited by time keeps, when resumed, the seconds it was given at its start."""
    if config.training.steps is not None:
        return config.training
    promised = run.status().get("budget_seconds") or config.training.seconds or config.time_seconds or 1200.0
    return config.training.model_copy(update={"seconds": promised})
