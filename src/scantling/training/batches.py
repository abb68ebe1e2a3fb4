"""From a step's number to its samples: the same ones in any process, with any number of workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch.utils.data import DataLoader, Dataset

from scantling.data.sample import Sample


@runtime_checkable
class SampleSource(Protocol):
    """What training needs of a data set: the sample of an epoch and a position in it."""

    def sample(self, epoch: int, position: int) -> Sample: ...


@dataclass(frozen=True)
class StepSamples(Dataset[list[Sample]]):
    """Item `step` is the list of samples of that step."""

    source: SampleSource
    batch_size: int
    steps_per_epoch: int

    def __getitem__(self, step: int) -> list[Sample]:
        epoch, within = divmod(step, self.steps_per_epoch)
        first = within * self.batch_size
        return [self.source.sample(epoch, first + i) for i in range(self.batch_size)]


def batches(samples: StepSamples, *, start: int, workers: int) -> Iterator[list[Sample]]:
    """The samples of steps `start`, `start + 1`, ... without end; read ahead by `workers` processes, or here for 0."""
    steps = itertools.count(start)
    if workers == 0:
        return (samples[step] for step in steps)
    loader: DataLoader[list[Sample]] = DataLoader(
        samples, batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=2, timeout=600
    )
    return iter(loader)
