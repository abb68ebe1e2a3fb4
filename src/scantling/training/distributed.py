"""Several processes of one run, started by `torchrun`: they begin, agree and stop together; the first one writes."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from typing import Final

import torch
import torch.distributed as dist

from scantling.errors import Interrupted
from scantling.processes import launched, process_count

DEADLINE: Final = datetime.timedelta(minutes=30)
"""Longest wait for another process: it may be preparing data or validating, but not for ever."""

_PARTING: Final = 0.5
"""Seconds in which the threads of a left group drop their last tensors, see `leave_processes`."""

_SIGNS: Final = ("connection closed by peer", "connection reset", "broken pipe", "gloo", "timed out")


@contextlib.contextmanager
def joined_processes(device: torch.device) -> Iterator[torch.device]:
    """Within the block this process is one of those that `torchrun` started; the device that is its own.

    Started without `torchrun`, it is alone, and nothing changes; within such a block it is joined already.

    Raises:
        Interrupted: another process ended; the run goes on from its last checkpoint with `resume`.
    """
    _, world, local = launched()
    if world == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield device
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        with lost_process_named():
            dist.init_process_group(backend, timeout=DEADLINE)
            yield device
    finally:
        leave_processes()


def leave_processes() -> None:
    """Leaves the group of processes, if this process is in one, so that it may end at once.

    `DistributedDataParallel` keeps a group of gloo alive (torch 2.13), and its threads give their last tensors back
    a moment after whoever waited has gone on; where Python is being torn down by then, they abort the whole process
    ("terminate called without an active exception"), and `torchrun` calls a finished run failed.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(_PARTING)


@contextlib.contextmanager
def lost_process_named() -> Iterator[None]:
    """Within the block the errors of a lost connection become one sentence.

    Raises:
        Interrupted: another process ended.
    """
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        if process_count() == 1 or not _is_lost_process(error):
            raise
        raise Interrupted(
            "another process of this run ended or does not answer; start all of them again with 'scantling resume' "
            "under torchrun, with as many processes as there are now",
            code="E-INT-02",
        ) from error


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if process_count() > 1:
        dist.barrier()


def agree(stop: bool, elapsed: float) -> tuple[bool, float]:
    """Whether any process wants to stop, and the longest of their times, so that all do the same number of steps."""
    if process_count() == 1:
        return stop, elapsed
    facts = torch.tensor([float(stop), elapsed], dtype=torch.float64)
    dist.all_reduce(facts, op=dist.ReduceOp.MAX)
    return bool(facts[0]), float(facts[1])


def _is_lost_process(error: BaseException) -> bool:
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return any(
        sign in text for sign in ("connection closed by peer", "connection reset", "broken pipe", "gloo", "timed out")
    )
