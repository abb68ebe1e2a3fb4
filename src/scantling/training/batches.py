"""From a step's number to its samples: the same ones in any process, with any number of workers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from scantling.data.sample import Sample
from scantling.training.workers import Reader, WorkerLimits

DEFAULT_LIMITS = WorkerLimits()


@runtime_checkable
class SampleSource(Protocol):
    """What training needs of a data set: the sample of an epoch and a position in it."""

    def sample(self, epoch: int, position: int) -> Sample: ...


@runtime_checkable
class NamedSource(SampleSource, Protocol):
    """A data set that can say, without reading it, which case a sample comes from."""

    def case_name(self, epoch: int, position: int) -> str: ...


@dataclass(frozen=True)
class StepSamples:
    """Item `step` is the list of samples of that step: this process's share of the step's batch.

    Attributes:
        batch_size: of all processes together.
        rank, processes: this process takes every `processes`-th sample, beginning with the `rank`-th; it may be
            none.
    """

    source: SampleSource
    batch_size: int
    steps_per_epoch: int
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.processes:
            raise ValueError(f"wanted 0 <= rank < processes, got {self.rank} and {self.processes}")

    def __getitem__(self, step: int) -> list[Sample]:
        return [self.read(step, index) for index in range(self.size(step))]

    def size(self, step: int) -> int:
        """How many samples a step has in this process; the same for every step."""
        return len(range(self.rank, self.batch_size, self.processes))

    def read(self, step: int, index: int) -> Sample:
        """One sample of a step."""
        return self.source.sample(*self.key(step, index))

    def key(self, step: int, index: int) -> tuple[int, int]:
        """Epoch and position of a sample of a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return epoch, within * self.batch_size + self.rank + index * self.processes

    def case_names(self, step: int) -> list[str]:
        """The cases that a step's samples come from; `#5 of epoch 0` where the source has no names."""
        source, keys = self.source, [self.key(step, index) for index in range(self.size(step))]
        if isinstance(source, NamedSource):
            return [source.case_name(epoch, position) for epoch, position in keys]
        return [f"#{position} of epoch {epoch}" for epoch, position in keys]


def batches(
    samples: StepSamples,
    *,
    start: int,
    workers: int,
    say: Callable[[str], object] = lambda sentence: None,
    limits: WorkerLimits = DEFAULT_LIMITS,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[list[Sample], None, None]:
    """The samples of steps `start`, `start + 1`, ... without end; read ahead by `workers` processes, or here for 0.

    The samples do not depend on the workers, nor on what happens to them. Closing the generator ends them.

    Args:
        say: told in one sentence of a worker that died, and of anything that takes long; called in the reading
            thread, or by the watchdog of what is read in this process.
        stop: asked while waiting for a worker; True ends the generator.

    Raises:
        ScantlingError: as the source raised it, in whichever process; any other error of the source likewise.
    """
    with Reader(samples, start=start, workers=workers, say=say, limits=limits, stop=stop) as reader:
        for step in itertools.count(start):
            read = reader.take(step)
            if read is None:
                return
            yield read
