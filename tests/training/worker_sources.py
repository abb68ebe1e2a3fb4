"""Sample sources that do in a worker process, and only there, what a test asks for by a file in their folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from scantling.data.sample import Sample
from scantling.errors import DataError
from scantling.seeding import numpy_generator

SIDE = 48
"""Image and label map are large enough to travel outside the pickle, the rest is not."""


def sample_of(epoch: int, position: int) -> Sample:
    rng = numpy_generator(0, "sample", epoch, position)
    return Sample(
        image=torch.from_numpy(rng.normal(size=(2, SIDE, SIDE)).astype(np.float32)),
        label_map=torch.from_numpy(rng.integers(-1, 3, (SIDE, SIDE))),
        weight=torch.from_numpy(rng.random((SIDE, SIDE), dtype=np.float32)).T,
        annotated=torch.tensor([True, False, True]),
        spacing_mm=(1.0, 0.5),
        source_from_sample=torch.eye(3, dtype=torch.float64),
        case_index=position,
        patient_index=position,
        slice_position=0.25,
        key=(epoch, position),
    )


def equal(first: list[Sample], second: list[Sample]) -> bool:
    def same(one: Any, other: Any) -> bool:
        if isinstance(one, torch.Tensor):
            return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
        return bool(one == other)

    pairs = list(zip(first, second, strict=True))
    return all(same(value, vars(other)[name]) for one, other in pairs for name, value in vars(one).items())


class Odd(Exception):
    """Cannot be pickled back: its constructor wants two arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Loud(Exception):
    """Comes back from a pickle with another text."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text}!")


@dataclass(frozen=True)
class Source:
    """Keyed samples; in a worker each leaves a file `up-PID`.

    A file `always-TROUBLE` meets every worker, `at-EPOCH-POSITION-TROUBLE` whoever reads that sample, and
    `once-EPOCH-POSITION-TROUBLE` only the first that does; the case is then named in a file `case-PID`.
    """

    folder: Path
    delay: float = 0.0
    inner: Any = None

    def sample(self, epoch: int, position: int) -> Sample:
        if multiprocessing.parent_process() is not None:
            (self.folder / f"up-{os.getpid()}").touch()
            self._meet(epoch, position)
        else:
            time.sleep(self.delay)
        return sample_of(epoch, position) if self.inner is None else self.inner.sample(epoch, position)

    def case_name(self, epoch: int, position: int) -> str:
        return f"E{epoch}P{position}"

    def _meet(self, epoch: int, position: int) -> None:
        for file in [*self.folder.glob("always-*"), *self.folder.glob(f"*-{epoch}-{position}-*")]:
            if file.name.startswith("once-"):
                file.unlink()
            (self.folder / f"case-{os.getpid()}").write_text(self.case_name(epoch, position))
            trouble(file.name.rsplit("-", 1)[1])


def trouble(kind: str) -> None:
    match kind:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "hang":
            time.sleep(600)
        case "data":
            raise DataError("case P017: the file ends early; copy it again", code="E-DAT-07")
        case "value":
            raise ValueError("no such axis", 3)
        case "odd":
            raise Odd("one", "other")
        case "loud":
            raise Loud("what")
        case "memory":
            raise MemoryError


@dataclass(frozen=True)
class Unnamed:
    def sample(self, epoch: int, position: int) -> Sample:
        return sample_of(epoch, position)


class Unwelcome(Unnamed):
    """Can be sent, but does not arrive."""

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse, ()


def refuse() -> NoReturn:
    raise ImportError("no module of that name here")


@dataclass(frozen=True)
class Threads(Source):
    """The sample says how many threads torch would use."""

    def sample(self, epoch: int, position: int) -> Sample:
        sample = super().sample(epoch, position)
        return Sample(**{**vars(sample), "patient_index": torch.get_num_threads()})
