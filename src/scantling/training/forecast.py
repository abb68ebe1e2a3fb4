"""What a run will need, said before it starts: measured on a trial step, not guessed from tables."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from scantling.errors import ResourceError
from scantling.training.loop import Loop
from scantling.training.progress import duration


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Seconds and steps of training, peak memory of the process in bytes, bytes the run folder will take."""

    seconds: float
    steps: int
    step_seconds: float
    memory: int
    disk: int
    free_disk: int

    def require(self, *, ram_gib: float | None, disk_gib: float | None) -> None:
        """Refuse a run that will not fit.

        Raises:
            ResourceError: more memory than `ram_gib`, more disk than `disk_gib`, or more than is free.
        """
        memory, disk, free = (size / 2**30 for size in (self.memory, self.disk, self.free_disk))
        if ram_gib is not None and memory > ram_gib:
            raise ResourceError(
                f"training: needs about {memory:.1f} GiB of memory, the budget is {ram_gib:g} GiB; lower "
                "plan.batch_size or plan.patch_size",
                code="E-RES-03",
            )
        if disk > min(free, disk_gib if disk_gib is not None else free):
            raise ResourceError(
                f"training: needs about {disk:.2f} GiB of disk, {min(free, disk_gib or free):.2f} GiB may be used; "
                "free some, raise --budget-disk, or choose another --out",
                code="E-RES-04",
            )

    def sentence(self) -> str:
        """The forecast for people."""
        return (
            f"Needs about: {duration(self.seconds)} of training ({self.steps} steps of {1000 * self.step_seconds:.0f} "
            f"ms), {self.memory / 2**30:.1f} GiB of memory, {self.disk / 2**20:.0f} MiB of disk"
        )


def forecast(loop: Loop, *, prepared_bytes: int, folder: Path) -> Forecast:
    """Time and memory of a run by two trial steps on a copy of the recipe.

    Memory on a CPU is the resident size after the trial plus what the trial did not have yet (optimiser state,
    averaged weights); on a GPU it is the peak that torch allocated.
    """
    step_seconds = loop.trial()
    parameters = sum(p.numel() * p.element_size() for p in loop.recipe.parameters())
    if loop.device.type == "cuda":
        memory = int(torch.cuda.max_memory_allocated(loop.device)) + 2 * parameters
    else:
        memory = psutil.Process().memory_info().rss + 2 * parameters
    config = loop.config
    if config.steps is not None:
        steps, seconds = config.steps, config.steps * step_seconds
    else:
        seconds = config.seconds or 0.0
        steps = int(seconds / step_seconds)
    return Forecast(
        seconds=seconds,
        steps=steps,
        step_seconds=step_seconds,
        memory=memory,
        disk=prepared_bytes + 10 * parameters,
        free_disk=shutil.disk_usage(folder).free,
    )
