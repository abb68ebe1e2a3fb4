"""What a loop is told, and what it remembers from step to step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field
from torch import nn

from scantling.config import Config
from scantling.training.optimisation import OptimisationConfig


class LoopConfig(Config):
    """How long, how often, how exact.

    Attributes:
        steps: length of the run in optimiser steps; with it a run is repeatable to the bit.
        seconds: length in seconds of training, if `steps` is None: the schedule then follows the clock, so the
            run ends on time on any machine, and two runs differ.
        fewest_steps: a run by the clock that foresees fewer steps ends before the first one, with the status "too
            short"; 0 never does.
        validate_share: largest share of the time spent on validation when the length is in seconds.
        patience: stop after this many validations without a better score; 0 never stops early.
        checkpoint_seconds: at most so much work is lost when the process is killed.
        precision: "auto" takes the half precision in which the device is faster, if it has one.
        skipped_share: more steps than this share with a loss or gradient that is not finite end the run.
        tensorboard: also write the epochs to `RUN/tensorboard` (extra `tensorboard`).
    """

    steps: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    fewest_steps: int = Field(default=0, ge=0)
    steps_per_epoch: int = Field(default=100, ge=1)
    validate_every: int = Field(default=1, ge=1)
    validate_share: float = Field(default=0.08, gt=0, lt=1)
    patience: int = Field(default=0, ge=0)
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    skipped_share: float = Field(default=0.01, ge=0, le=1)
    tensorboard: bool = False
    optimisation: OptimisationConfig = Field(default_factory=OptimisationConfig)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Score of a network on the inner validation patients; the highest chooses the checkpoint.

    Attributes:
        score: None where nothing chooses: the last weights are kept, and no run ends early.
        measure: what `score` is, under which it is logged.
        per_class: the same of each class, where there are classes.
        figures: the health of the network's features (`feature_validation.Health`), where it was measured: logged as
            an event of its own and watched; what is not finite is logged as null.
    """

    score: float | None
    measure: str = "mean_dice"
    per_class: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


Validate = Callable[[nn.Module], Validation]


@dataclass(kw_only=True)
class LoopState:
    """What changes from step to step besides weights; all of it is saved.

    Attributes:
        splits: the batch is computed in 2^splits parts.
        patch_size: of the views, once memory did not suffice for the plan's.
        retries: how often the run became smaller for want of memory.
        logged_step: step of the last epoch's end.
        measure: what `best_score` is.
        extended: progress and learning rate where the run was made longer.
        sums, counted: of the terms, over the steps since the last epoch's end.
        observed: sums and counts of what the diagnostics saw since then.
        watched: since when the contrast has been found wanting in what, and the warnings that hold.
    """

    step: int = 0
    elapsed: float = 0.0
    validation_seconds: float = 0.0
    splits: int = 0
    patch_size: list[int] | None = None
    retries: int = 0
    skipped: int = 0
    logged_step: int = 0
    stopped_early: bool = False
    extended: list[float] | None = None
    learning_rate: float = 0.0
    best_score: float | None = None
    measure: str = "mean_dice"
    validations_since_best: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    observed: dict[str, Any] = field(default_factory=dict)
    watched: dict[str, Any] = field(default_factory=dict)
