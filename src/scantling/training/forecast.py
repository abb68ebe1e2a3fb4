"""What a run will need, said before it starts: measured on trial steps, counted where it can be counted.

Memory is the resident size of the process and its workers, pages that they share counted once. The most a run takes
is the largest of: what reading and preparing took; a trial step with the optimiser's state; a validation; the
prediction and the scoring of the largest held-out case.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scantling.errors import ResourceError
from scantling.inference.memory import gib, highest_resident_bytes
from scantling.training.checkpoint import KEPT
from scantling.training.loop import Loop
from scantling.training.needs import (
    Later,
    device_bytes,
    disk_bytes,
    state_bytes,
    too_little_memory,
    try_step,
    worker_bytes,
)
from scantling.training.progress import duration

TOLERANCE: Final = 1.1
"""A budget is kept within 10 %: a run that was fitted to it is not refused because its next trial took a bit more."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will need.

    Attributes:
        seconds: of training with its validations.
        held_out_seconds: of predicting and scoring afterwards.
        step_seconds: of one step with the reading of its samples.
        memory: bytes, at the worst moment; `stage` says when that is.
        device_memory: bytes on a GPU, None elsewhere.
        disk: bytes of the finished run folder.
        present_disk: bytes that are in it already.
    """

    seconds: float
    steps: int
    step_seconds: float
    held_out_seconds: float
    memory: int
    stage: str
    device_memory: int | None
    disk: int
    present_disk: int
    free_disk: int

    def require(self, *, ram_gib: float | None = None, disk_gib: float | None) -> None:
        """Refuse a run that will not fit.

        Raises:
            ResourceError: more memory than `ram_gib`, more disk than `disk_gib`, or more than is free.
        """
        if ram_gib is not None and self.memory > TOLERANCE * ram_gib * 2**30:
            raise too_little_memory(self.memory, self.stage, ram_gib * 2**30)
        allowed = self.disk if disk_gib is None else disk_gib * 2**30
        if self.disk > allowed or self.disk - self.present_disk > self.free_disk:
            usable = min(allowed, self.present_disk + self.free_disk)
            raise ResourceError(
                f"training: needs about {self.disk / 2**30:.2f} GiB of disk, {usable / 2**30:.2f} GiB may be used; "
                "free some, raise --budget-disk, or choose another --out",
                code="E-RES-04",
            )

    def sentence(self) -> str:
        """The forecast for people."""
        scoring = f" and {duration(self.held_out_seconds)} of scoring held-out cases" if self.held_out_seconds else ""
        on_device = "" if self.device_memory is None else f" ({gib(self.device_memory)} on the GPU)"
        return (
            f"Needs about: {duration(self.seconds)} of training ({self.steps} steps of {1000 * self.step_seconds:.0f} "
            f"ms){scoring}, {gib(self.memory)} of memory{on_device}, most of it while {self.stage}, "
            f"{self.disk / 2**20:.0f} MiB of disk"
        )


def forecast(loop: Loop, later_needs: Callable[[Loop], Later], *, folder: Path) -> Forecast:
    """Time, memory and disk of a run, by trial steps on a copy of the recipe and trial passes of the network.

    Args:
        later_needs: finds out what comes beside and after training.
    """
    held = highest_resident_bytes()
    began = time.perf_counter()
    for step in range(2):
        loop.samples[step]
    reading = (time.perf_counter() - began) / 2 if loop.workers == 0 else 0.0
    trial = try_step(loop)
    step_seconds = trial.seconds + reading
    later = later_needs(loop)
    state = state_bytes(loop)
    needs = [
        (held, "preparing"),
        (trial.memory + worker_bytes(loop, loop.workers), "training"),
        (later.memory + state, later.stage),
    ]
    memory, stage = max(needs, key=lambda need: need[0])
    config = loop.config
    validations = 0
    if config.steps is not None:
        steps = config.steps
        epochs = math.ceil(steps / config.steps_per_epoch)
        validations = math.ceil(epochs / config.validate_every)
        seconds = steps * step_seconds + validations * later.validation_seconds
    else:
        seconds = config.seconds or 0.0
        steps = int(seconds / step_seconds)
    saved_more_than_once = validations > 1 or seconds > config.checkpoint_seconds
    checkpoints = KEPT if saved_more_than_once else 1
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Forecast(
        seconds=seconds,
        steps=steps,
        step_seconds=step_seconds,
        held_out_seconds=later.held_out_seconds,
        memory=memory,
        stage=stage,
        device_memory=device_bytes(loop, state),
        disk=present + disk_bytes(loop, later, checkpoints=checkpoints),
        present_disk=present,
        free_disk=shutil.disk_usage(folder).free,
    )
