"""One loop for every recipe: it asks for named losses, moves the weights, validates, and can always be resumed."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from scantling.data.sample import Sample
from scantling.errors import IntegrityError, Interrupted, ResourceError
from scantling.processes import process_count
from scantling.recipes.recipe import Recipe
from scantling.training.batches import StepSamples, batches
from scantling.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from scantling.training.distributed import agree
from scantling.training.interruption import BrokenOff
from scantling.training.loop_state import LoopConfig, LoopState, Validate, Validation
from scantling.training.observations import epoch_means, record, record_health
from scantling.training.optimisation import learning_rate, risen_rate, set_learning_rate
from scantling.training.progress import Display, Moment, Silent
from scantling.training.run_folder import RunFolder
from scantling.training.skipped import dump_skipped
from scantling.training.step import Outcome, Stepper, is_out_of_memory
from scantling.training.tensorboard import TensorBoard

MOST_RETRIES: Final = 3
"""Times a run may become smaller because memory did not suffice."""
MOST_DUMPS: Final = 3


@final
class Loop:
    """Trains a recipe on samples until its steps or its time are used up.

    Args:
        patch_divisor: what each length of a patch must be a multiple of, for the network's strides.
        validate: scores a network on held-back training patients; None where there are too few.
        stop: asked after each step; True means save and raise `Interrupted`.
        breakable: entered around work that may be broken off by `BrokenOff`.
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
        patch_divisor: tuple[int, ...] | None = None,
        workers: int = 0,
        validate: Validate | None = None,
        display: Display | None = None,
        stop: Callable[[], bool] = lambda: False,
        breakable: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self.stepper = Stepper(recipe, config.optimisation, precision=config.precision, seed=seed, device=device)
        self.samples, self.config = samples, config
        self._plan_patch, self._divisor = patch_size, patch_divisor or (1,) * len(patch_size)
        self.run_folder, self.device, self.workers = run, device, workers
        self.validate, self.display = validate, display or Silent()
        # several processes stop together, between two steps
        self.stop, self.breakable = stop, breakable if process_count() == 1 else contextlib.nullcontext
        self.board = TensorBoard(run.path / "tensorboard") if config.tensorboard else None
        self.state = LoopState()
        self._best: dict[str, Tensor] = {}
        self._recent_loss, self._rate = math.nan, math.nan

    @property
    def recipe(self) -> Recipe:
        """What is trained."""
        return self.stepper.recipe

    @property
    def precision(self) -> torch.dtype | None:
        """Of the network's computations; None is float32."""
        return self.stepper.precision

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Size of the views: the plan's, or smaller where memory did not suffice."""
        return tuple(self.state.patch_size or self._plan_patch)

    def run(self) -> nn.Module:
        """Train to the end; the network to deploy: the best validated one, else the averaged or last weights.

        Raises:
            Interrupted: `stop` said so; a checkpoint is on disk.
            ResourceError: memory does not suffice after the run has become smaller three times.
            IntegrityError: more than the allowed share of steps had a loss or gradient that is not finite.
        """
        stream = batches(self.samples, start=self.state.step, workers=self.workers, say=self.display.say)
        with contextlib.closing(stream):
            try:
                self._train(stream)
            except BrokenOff:
                self.stepper.undo()
                self.save()
                raise Interrupted(
                    f"stopped at step {self.state.step}; {self.run_folder.how_to_resume}",
                    code="E-INT-01",
                ) from None
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
        network = self.stepper.deployable()
        if best and self._best:
            network.load_state_dict(self._best)
        return network

    def trial(self) -> float:
        """Seconds a step takes, by two on a copy of the recipe; the run becomes smaller if they do not fit.

        Raises:
            ResourceError: as `run`.
        """
        while True:
            try:
                return self.stepper.trial(
                    self.samples[0], patch_size=self.patch_size, batch_size=self.samples.batch_size, parts=self.parts
                )
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._become_smaller(error)

    @property
    def parts(self) -> int:
        """Pieces in which a batch is computed."""
        return int(2**self.state.splits)

    def extend(self, config: LoopConfig) -> str:
        """Go on for longer (or shorter) than was set; the sentence says what changes.

        The learning rate goes on from where it is: it never jumps up to the longer run's schedule.
        """
        before, rate = self.config, self.state.learning_rate
        self.config, self.state.stopped_early = config, False
        progress = self.progress()
        wanted = learning_rate(progress, config.optimisation)
        self.state.extended = [progress, rate]
        sentence = f"The run's length changes from {_length(before)} to {_length(config)}, {100 * progress:.0f} % of "
        sentence += f"which is done. The learning rate, now {rate:.2g}, "
        if wanted > rate:
            return sentence + f"rises no faster than in warm-up to the new schedule's {wanted:.2g} and follows it."
        return sentence + f"follows the new schedule, which now asks for {wanted:.2g}."

    def save(self) -> None:
        """Write a checkpoint of everything a resumed run needs."""
        tensors, scalars = self.stepper.state()
        tensors |= {f"best/{k}": v for k, v in self._best.items()}
        scalars["state"] = vars(self.state)
        if self.run_folder.writable:
            checkpoint = Checkpoint(step=self.state.step, tensors=tensors, scalars=scalars)
            save_checkpoint(self.run_folder.checkpoints, checkpoint)

    def restore(self) -> list[str]:
        """Continue from the newest whole checkpoint; one sentence for each damaged one that was passed over.

        Raises:
            IntegrityError: there is no usable checkpoint.
        """
        checkpoint, complaints = load_checkpoint(self.run_folder.checkpoints)
        tensors = dict(checkpoint.tensors)
        self._best = {k.removeprefix("best/"): tensors.pop(k) for k in list(tensors) if k.startswith("best/")}
        self.stepper.restore(tensors, checkpoint.scalars)
        self.state = LoopState(**checkpoint.scalars["state"])
        self.run_folder.append_log("resumed", step=self.state.step)
        return complaints

    def _train(self, stream: Iterator[list[Sample]]) -> None:
        saved_at = time.monotonic()
        origin = saved_at - self.state.elapsed
        while not self.state.stopped_early:
            progress = self.progress()
            at_epoch_end = self.state.step % self.samples.steps_per_epoch == 0
            if self.state.step > self.state.logged_step and (at_epoch_end or progress >= 1):
                self._end_epoch(last=progress >= 1)
                continue
            if progress >= 1:
                break
            rate = self._learning_rate(progress)
            set_learning_rate(self.stepper.optimiser, rate)
            with self.breakable():
                outcome = self._backward(next(stream))
            self._take(outcome)
            self.state.learning_rate = rate
            stop, self.state.elapsed = agree(self.stop(), time.monotonic() - origin)
            self._show(outcome)
            if stop:
                raise BrokenOff
            if time.monotonic() - saved_at >= self.config.checkpoint_seconds:
                self.save()
                saved_at = time.monotonic()

    def _learning_rate(self, progress: float) -> float:
        if self.state.extended is None:
            return learning_rate(progress, self.config.optimisation)
        since, before = self.state.extended
        return risen_rate(progress, self.config.optimisation, since=since, before=before)

    def _backward(self, samples: list[Sample]) -> Outcome:
        while True:
            try:
                return self.stepper.backward(
                    samples,
                    self.state.step,
                    patch_size=self.patch_size,
                    batch_size=self.samples.batch_size,
                    parts=self.parts,
                )
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or process_count() > 1:
                    raise
                self.stepper.undo()
                self._become_smaller(error)

    def _take(self, outcome: Outcome) -> None:
        if outcome.finite:
            self.stepper.take()
            for name, value in outcome.terms.items():
                self.state.sums[name] = self.state.sums.get(name, 0.0) + value
            self.state.counted += 1
            record(outcome.observations, self.state, self.run_folder, self.display)
        else:
            self._skip(outcome)
        self.state.step += 1

    def _become_smaller(self, error: BaseException) -> None:
        """First the batch in more parts, then a smaller patch; said, logged, and not for ever."""
        batch, patch = self.samples.batch_size, self.patch_size
        smaller = _halved(patch, self._divisor)
        if self.state.retries == MOST_RETRIES or (self.parts >= batch and smaller is None):
            raise ResourceError(
                f"training: {max(batch // self.parts, 1)} of {batch} samples of {_by(patch)} do not fit in memory "
                f"after {self.state.retries} retries; make plan.patch_size smaller or use a device with more memory",
                code="E-RES-02",
            ) from error
        self.state.retries += 1
        if self.parts < batch:
            self.state.splits += 1
            change = (
                f"the batch of {batch} is now computed in {min(self.parts, batch)} parts with accumulated gradients"
            )
        else:
            self.state.patch_size = list(smaller or patch)
            change = f"patches are now {_by(self.patch_size)} instead of {_by(patch)}"
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.display.say(f"Out of memory: {change} (retry {self.state.retries} of {MOST_RETRIES}).")
        self.run_folder.append_log(
            "out_of_memory", step=self.state.step, parts=min(self.parts, batch), patch_size=list(self.patch_size)
        )

    def _skip(self, outcome: Outcome) -> None:
        """Count, log and dump a step that is not finite; too many of them end the run."""
        state, bad = self.state, outcome.bad_terms
        overflow = self.stepper.scaler.is_enabled() and not bad  # the scaler backs off; that is not divergence
        self.stepper.skip()
        state.skipped += not overflow
        self.run_folder.append_log("skipped_step", step=state.step, terms=bad, gradient=str(outcome.gradient_norm))
        if overflow:
            return
        if state.skipped <= MOST_DUMPS:
            dump_skipped(self.run_folder, self.stepper, self.samples[state.step], state.step, self.patch_size, outcome)
        if state.skipped > max(3, self.config.skipped_share * (state.step + 1)):
            self.save()
            raise IntegrityError(
                f"training: {state.skipped} of {state.step + 1} steps had a loss or gradient that is not finite "
                f"({', '.join(bad) or 'gradient'}); lower training.optimisation.learning_rate, or look at the batches "
                f"in {self.run_folder.path.name}/skipped",
                code="E-CHK-10",
            )

    def _end_epoch(self, *, last: bool) -> None:
        """Log the epoch; validate before if it is time to, which may end the run early."""
        state = self.state
        epoch = (state.step - 1) // self.samples.steps_per_epoch
        score = None
        if self.validate is not None and (last or self._validation_is_due(epoch)):
            score = self._validate()
        facts = {
            "epoch": epoch,
            "step": state.step,
            "seconds": round(state.elapsed, 2),
            "progress": round(self.progress(), 5),
            "losses": {name: value / max(state.counted, 1) for name, value in state.sums.items()},
            "learning_rate": state.learning_rate,
            "samples_per_second": None if math.isnan(self._rate) else round(self._rate, 2),
            "skipped": state.skipped,
            "validation": _logged(score),
            **({"contrast": epoch_means(state)} if state.observed else {}),
        }
        self.run_folder.append_log("epoch", **facts)
        if self.board is not None:
            self.board.epoch({**facts, "health": {} if score is None else score.figures})
        state.sums, state.counted, state.observed, state.logged_step = {}, 0, {}, state.step
        state.stopped_early = bool(self.config.patience) and state.validations_since_best >= self.config.patience

    def _validation_is_due(self, epoch: int) -> bool:
        if self.config.steps is None:
            return self.state.validation_seconds <= self.config.validate_share * self.state.elapsed
        return (epoch + 1) % self.config.validate_every == 0

    def _validate(self) -> Validation:
        assert self.validate is not None
        began = time.monotonic()
        self.save()  # the validation may take long
        network = self.deployable()
        was_training = network.training
        try:
            with self.breakable():
                score = self.validate(network.eval())
        finally:
            network.train(was_training)
        best = self.state.best_score
        if score.score is not None and (best is None or score.score > best):
            self.state.best_score, self.state.validations_since_best = score.score, 0
            self.state.measure = score.measure
            self._best = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        elif score.score is not None:
            self.state.validations_since_best += 1
        seconds = time.monotonic() - began
        self.state.validation_seconds += seconds
        if score.figures:
            record_health(score, self.state, self.run_folder, self.display, seconds=seconds)
        return score

    def _show(self, outcome: Outcome) -> None:
        rate = outcome.n_samples * process_count() / max(outcome.seconds, 1e-9)
        total = sum(outcome.terms.values())
        first = math.isnan(self._rate)
        self._rate = rate if first else 0.95 * self._rate + 0.05 * rate
        self._recent_loss = total if math.isnan(self._recent_loss) else 0.95 * self._recent_loss + 0.05 * total
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
                measure=self.state.measure,
            )
        )


def _logged(score: Validation | None) -> dict[str, Any] | None:
    """The epoch's entry on a validation; none where it chose nothing."""
    if score is None or score.score is None:
        return None
    return {score.measure: score.score, "per_class": dict(score.per_class)}


def _halved(patch: tuple[int, ...], divisor: tuple[int, ...]) -> tuple[int, ...] | None:
    """The patch with its longest axis about halved, still a multiple of `divisor`; None where it cannot be."""
    axis = max(range(len(patch)), key=lambda a: patch[a])
    length = patch[axis] // 2 // divisor[axis] * divisor[axis]
    return None if length < 2 * divisor[axis] else (*patch[:axis], length, *patch[axis + 1 :])


def _by(lengths: tuple[int, ...]) -> str:
    return " x ".join(map(str, lengths))


def _length(config: LoopConfig) -> str:
    return f"{config.steps} steps" if config.steps is not None else f"{config.seconds or 0:.0f} s"
