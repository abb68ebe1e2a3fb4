"""One loop for every recipe: it asks for named losses, moves the weights, validates, and can always be resumed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from scantling.config import Config
from scantling.data.sample import Sample
from scantling.errors import IntegrityError, Interrupted, ResourceError
from scantling.inference.device import autocast, mixed_precision
from scantling.recipes.recipe import Recipe
from scantling.seeding import global_torch_seed, torch_generator
from scantling.targets.teacher import AveragedCopy
from scantling.training.batches import StepSamples, batches
from scantling.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimiser_state,
    restore_optimiser,
    save_checkpoint,
)
from scantling.training.optimisation import (
    OptimisationConfig,
    build_optimiser,
    gradient_norm,
    learning_rate,
    set_learning_rate,
)
from scantling.training.progress import Display, Moment, Silent
from scantling.training.run_folder import RunFolder
from scantling.training.tensorboard import TensorBoard
from scantling.views.maker import make_views

MOST_BATCH_SPLITS = 3
_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoopConfig(Config):
    """How long, how often, how exact.

    Attributes:
        steps: length of the run in optimiser steps; with it a run is repeatable to the bit.
        seconds: length in seconds of training, if `steps` is None: the schedule then follows the clock, so the
            run ends on time on any machine, and two runs differ.
        validate_share: largest share of the time spent on validation when the length is in seconds.
        patience: stop after this many validations without a better score; 0 never stops early.
        precision: "auto" takes the half precision in which the device is faster, if it has one.
        skipped_share: more steps than this share with a loss or gradient that is not finite end the run.
        tensorboard: also write the epochs to `RUN/tensorboard` (extra `tensorboard`).
    """

    steps: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    steps_per_epoch: int = Field(default=100, ge=1)
    validate_every: int = Field(default=1, ge=1)
    validate_share: float = Field(default=0.08, gt=0, lt=1)
    patience: int = Field(default=0, ge=0)
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    skipped_share: float = Field(default=0.01, ge=0, le=1)
    tensorboard: bool = False
    optimisation: OptimisationConfig = OptimisationConfig()


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Score of a network on the inner validation patients: mean Dice and the Dice of each class."""

    mean_dice: float
    per_class: Mapping[str, float]


Validate = Callable[[nn.Module], Validation]


@dataclass(kw_only=True)
class _State:
    """What changes from step to step besides weights; all of it is saved."""

    step: int = 0
    elapsed: float = 0.0
    validation_seconds: float = 0.0
    splits: int = 0
    skipped: int = 0
    best_score: float | None = None
    validations_since_best: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0


@final
class Loop:
    """Trains a recipe on samples until its steps or its time are used up.

    Args:
        validate: scores a network on held-back training patients; None where there are too few.
        stop: asked after each step; True means save and raise `Interrupted`.
    """

    def __init__(
        self,
        recipe: Recipe,
        samples: StepSamples,
        config: LoopConfig,
        *,
        patch_size: tuple[int, ...],
        run: RunFolder,
        seed: int,
        device: torch.device,
        workers: int = 0,
        validate: Validate | None = None,
        display: Display | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.recipe = recipe.to(device).train()
        self.samples, self.config, self.patch_size = samples, config, patch_size
        self.run_folder, self.seed, self.device, self.workers = run, seed, device, workers
        self.validate, self.display, self.stop = validate, display or Silent(), stop
        self.optimiser = build_optimiser(self.recipe, config.optimisation)
        decay = config.optimisation.average_decay
        self.average = AveragedCopy(recipe.deployable(), decay=decay) if decay > 0 else None
        named = config.precision
        self.precision = mixed_precision(device) if named == "auto" else _PRECISIONS[named]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self.board = TensorBoard(run.path / "tensorboard") if config.tensorboard else None
        self.state = _State()
        self._recent_loss, self._rate = math.nan, math.nan

    def run(self) -> nn.Module:
        """Train to the end; the network to deploy: the best validated one, else the averaged or last weights.

        Raises:
            Interrupted: `stop` said so; a checkpoint is on disk.
            ResourceError: a part of the batch still does not fit in memory after halving it three times.
            IntegrityError: more than the allowed share of steps had a loss or gradient that is not finite.
        """
        stream = batches(self.samples, start=self.state.step, workers=self.workers)
        saved_at = started = time.monotonic()
        before = self.state.elapsed
        while (progress := self.progress()) < 1:
            self._step(next(stream), progress)
            self.state.elapsed = before + time.monotonic() - started
            self._show()
            at_epoch_end = self.state.step % self.samples.steps_per_epoch == 0
            if at_epoch_end and self._end_epoch():
                break
            if self.stop():
                self.save()
                raise Interrupted(
                    f"stopped at step {self.state.step}; continue with: scantling resume {self.run_folder.path.name}",
                    code="E-INT-01",
                )
            if time.monotonic() - saved_at >= self.config.checkpoint_seconds:
                self.save()
                saved_at = time.monotonic()
            self.state.elapsed = before + time.monotonic() - started
        if self.state.counted:
            self._end_epoch(final=True)
        self.save()
        return self.deployable(best=True)

    def progress(self) -> float:
        """Share of the run that is over, in [0, 1]."""
        if self.config.steps is not None:
            return min(self.state.step / self.config.steps, 1.0)
        if self.config.seconds is None:
            raise ValueError("a run needs steps or seconds")
        return min(self.state.elapsed / self.config.seconds, 1.0)

    def deployable(self, *, best: bool = False) -> nn.Module:
        """The averaged network (or the live one without averaging); with `best` the best validated weights."""
        network = self.average.module if self.average is not None else self.recipe.deployable()
        if best and self.state.best_score is not None:
            checkpoint, _ = load_checkpoint(self.run_folder.checkpoints, tag="best")
            network.load_state_dict(dict(checkpoint.tensors))
        return network

    def trial(self) -> float:
        """Seconds a step takes, by two steps on a copy of the recipe; the run itself is untouched."""
        twin = copy.deepcopy(self.recipe)
        seconds = math.nan
        for _ in range(2):
            began = time.perf_counter()
            self._backward(twin, self.samples[0])
            seconds = time.perf_counter() - began
        return seconds

    def save(self) -> None:
        """Write a checkpoint of everything a resumed run needs."""
        optimiser_tensors, optimiser_scalars = optimiser_state(self.optimiser)
        tensors: dict[str, Tensor] = {f"recipe/{k}": v for k, v in self.recipe.state_dict().items()}
        tensors |= {f"optimiser/{k}": v for k, v in optimiser_tensors.items()}
        if self.average is not None:
            tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        scalars: dict[str, Any] = {
            "state": vars(self.state),
            "optimiser": optimiser_scalars,
            "scaler": self.scaler.state_dict(),
        }
        save_checkpoint(self.run_folder.checkpoints, Checkpoint(step=self.state.step, tensors=tensors, scalars=scalars))

    def restore(self) -> list[str]:
        """Continue from the newest whole checkpoint; one sentence for each damaged one that was passed over.

        Raises:
            IntegrityError: there is no usable checkpoint.
        """
        checkpoint, complaints = load_checkpoint(self.run_folder.checkpoints)
        parts: dict[str, dict[str, Tensor]] = {"recipe": {}, "optimiser": {}, "average": {}}
        for name, tensor in checkpoint.tensors.items():
            part, key = name.split("/", 1)
            parts[part][key] = tensor
        self.recipe.load_state_dict(parts["recipe"])
        restore_optimiser(self.optimiser, parts["optimiser"], checkpoint.scalars["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint.scalars["scaler"])
        self.state = _State(**checkpoint.scalars["state"])
        return complaints

    def _step(self, samples: list[Sample], progress: float) -> None:
        set_learning_rate(self.optimiser, learning_rate(progress, self.config.optimisation))
        began = time.perf_counter()
        while True:
            try:
                terms = self._backward(self.recipe, samples)
                break
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._split_batch(error)
        self.scaler.unscale_(self.optimiser)
        norm = gradient_norm(self.recipe, clip=self.config.optimisation.gradient_clip)
        if math.isfinite(norm) and all(map(math.isfinite, terms.values())):
            self.scaler.step(self.optimiser)
            if self.average is not None:
                self.average.update(self.recipe.deployable())
            self.recipe.after_step()
            for name, value in terms.items():
                self.state.sums[name] = self.state.sums.get(name, 0.0) + value
            self.state.counted += 1
        else:
            self._skip(norm, terms)
        self.scaler.update()
        self.state.step += 1
        rate = len(samples) / max(time.perf_counter() - began, 1e-9)
        self._rate = rate if math.isnan(self._rate) else 0.95 * self._rate + 0.05 * rate
        total = sum(terms.values())
        self._recent_loss = total if math.isnan(self._recent_loss) else 0.95 * self._recent_loss + 0.05 * total

    def _backward(self, recipe: Recipe, samples: list[Sample]) -> dict[str, float]:
        """Gradients of one step, the batch cut into equal parts where it does not fit; terms as plain numbers."""
        recipe.zero_grad(set_to_none=True)
        step = self.state.step
        parts = min(2**self.state.splits, len(samples))
        totals: dict[str, Tensor] = {}
        with global_torch_seed(self.seed, "layers", step):
            for index in range(parts):
                chunk = samples[index::parts]
                batch = make_views(
                    chunk, recipe.views(), self.patch_size, seed=self.seed, train=True, device=self.device
                )
                with autocast(self.device, self.precision):
                    terms = recipe.losses(batch, torch_generator(self.seed, "recipe", step, index))
                share = len(chunk) / len(samples)
                loss = self.scaler.scale(torch.stack(list(terms.values())).sum() * share)
                torch.autograd.backward(loss)
                for name, term in terms.items():
                    totals[name] = totals.get(name, torch.zeros((), device=self.device)) + term.detach() * share
        return {name: float(value) for name, value in totals.items()}

    def _split_batch(self, error: BaseException) -> None:
        size = len(self.samples[self.state.step])
        if self.state.splits == MOST_BATCH_SPLITS or 2**self.state.splits >= size:
            raise ResourceError(
                f"training: a batch part of {max(size // 2**self.state.splits, 1)} of {size} samples does not fit in "
                f"memory; make plan.patch_size smaller or use a device with more memory",
                code="E-RES-02",
            ) from error
        self.state.splits += 1
        self.recipe.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.display.say(
            f"Out of memory: the batch of {size} is now computed in {min(2**self.state.splits, size)} parts with "
            f"accumulated gradients; the result is that of the same batch size."
        )
        self.run_folder.append_log("out_of_memory", step=self.state.step, parts=min(2**self.state.splits, size))

    def _skip(self, norm: float, terms: dict[str, float]) -> None:
        self.state.skipped += 1
        self.optimiser.zero_grad(set_to_none=True)
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        self.run_folder.append_log("skipped_step", step=self.state.step, terms=bad, gradient=str(norm))
        if self.scaler.is_enabled() and not bad:
            return  # the scaler backs off by itself; that is not divergence
        if self.state.skipped > max(3, self.config.skipped_share * (self.state.step + 1)):
            self.save()
            raise IntegrityError(
                f"training: {self.state.skipped} of {self.state.step + 1} steps had a loss or gradient that is not "
                f"finite ({', '.join(bad) or 'gradient'}); lower training.optimisation.learning_rate, or look at "
                "the data",
                code="E-CHK-10",
            )

    def _end_epoch(self, *, final: bool = False) -> bool:
        """Log the epoch, validate if it is time to; True if the run should stop early."""
        state = self.state
        epoch = max(state.step - 1, 0) // self.samples.steps_per_epoch
        score = None
        if self.validate is not None and (final or self._validation_is_due(epoch)):
            score = self._validate()
        facts = {
            "epoch": epoch,
            "step": state.step,
            "seconds": round(state.elapsed, 2),
            "progress": round(self.progress(), 5),
            "losses": {name: value / max(state.counted, 1) for name, value in state.sums.items()},
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "samples_per_second": None if math.isnan(self._rate) else round(self._rate, 2),
            "skipped": state.skipped,
            "validation": None if score is None else {"mean_dice": score.mean_dice, "per_class": dict(score.per_class)},
        }
        self.run_folder.append_log("epoch", **facts)
        if self.board is not None:
            self.board.epoch(facts)
        state.sums, state.counted = {}, 0
        return bool(self.config.patience) and state.validations_since_best >= self.config.patience

    def _validation_is_due(self, epoch: int) -> bool:
        if self.progress() >= 1:
            return True
        if self.config.steps is None:
            return self.state.validation_seconds <= self.config.validate_share * self.state.elapsed
        return (epoch + 1) % self.config.validate_every == 0

    def _validate(self) -> Validation:
        assert self.validate is not None
        began = time.monotonic()
        network = self.deployable()
        was_training = network.training
        network.eval()
        score = self.validate(network)
        network.train(was_training)
        if self.state.best_score is None or score.mean_dice > self.state.best_score:
            self.state.best_score, self.state.validations_since_best = score.mean_dice, 0
            save_checkpoint(
                self.run_folder.checkpoints,
                Checkpoint(step=self.state.step, tensors=network.state_dict(), scalars={"score": score.mean_dice}),
                tag="best",
            )
        else:
            self.state.validations_since_best += 1
        self.state.validation_seconds += time.monotonic() - began
        return score

    def _show(self) -> None:
        progress = self.progress()
        left = self.state.elapsed * (1 - progress) / max(progress, 1e-6)
        self.display.show(
            Moment(
                progress=progress,
                step=self.state.step,
                loss=self._recent_loss,
                samples_per_second=self._rate,
                seconds_left=left,
                score=self.state.best_score,
            )
        )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
