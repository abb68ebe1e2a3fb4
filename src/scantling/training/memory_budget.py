"""Make a run keep to a budget of memory, or say before its first step that it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from scantling.inference.memory import gib, highest_resident_bytes, resident_bytes
from scantling.training.loop import Loop
from scantling.training.needs import Later, state_bytes, too_little_memory, try_step, worker_bytes

MARGIN: Final = 0.95
"""Share of a budget that larger parts of a batch may use: two trials of the same step differ by a few per cent."""


@dataclass(frozen=True, kw_only=True)
class FitDecision:
    """What was changed so that a run keeps to its memory: 2**splits parts of a batch, and worker processes."""

    splits: int
    workers: int
    sentence: str


def fit_budget(loop: Loop, later_needs: Callable[[Loop], Later], *, budget: int, resumed: bool = False) -> FitDecision:
    """Make a run keep to `budget` bytes of memory, the least change first; the loop is left so.

    A batch is computed in parts whose gradients are added, then workers are given up. Trial steps begin with the
    smallest parts, and larger ones are tried only where they must fit, so finding out does not break the budget.

    Args:
        later_needs: finds out what comes beside and after training.
        resumed: the parts are those of the run so far, whatever they take: others would change its bits.

    Raises:
        ResourceError: it cannot be kept; the sentence says what needs the memory and what would help.
    """
    wanted_workers, batch = loop.workers, loop.samples.size(0)
    if (held := highest_resident_bytes()) > budget:
        raise too_little_memory(held, "preparing", budget)
    state, later = state_bytes(loop), later_needs(loop)
    if later.memory + state > budget:
        raise too_little_memory(later.memory + state, later.stage, budget)
    before = resident_bytes()
    if not resumed and loop.device.type == "cpu":
        loop.state.splits = max(loop.state.splits, math.ceil(math.log2(max(batch, 1))))
    need = try_step(loop).memory
    if need > budget:
        raise too_little_memory(need, f"training on {_largest_part(batch, loop.state.splits)} samples at once", budget)
    while loop.workers and need + worker_bytes(loop, loop.workers) > budget:
        loop.workers -= 1
    room = int(MARGIN * budget) - worker_bytes(loop, loop.workers)
    while not resumed:
        splits = _fewest_splits(batch, loop.state.splits, used=need - before, room=room - before)
        if splits == loop.state.splits:
            break
        known, loop.state.splits = loop.state.splits, splits
        need = max(need, try_step(loop).memory)
        if need > room:  # more than the smaller part foretold
            loop.state.splits = known
            break
    return FitDecision(
        splits=loop.state.splits,
        workers=loop.workers,
        sentence=_fit_sentence(batch, loop.state.splits, loop.workers, wanted_workers, budget),
    )


def _fewest_splits(batch: int, splits: int, *, used: int, room: int) -> int:
    """The fewest splits that fit if memory grows with the samples in a part, of which `splits` use `used`."""
    each = max(used, 1) / _largest_part(batch, splits)
    return next((fewer for fewer in range(splits) if each * _largest_part(batch, fewer) <= room), splits)


def _fit_sentence(batch: int, splits: int, workers: int, wanted_workers: int, budget: int) -> str:
    changes = []
    if splits:
        parts = min(1 << splits, batch)
        changes.append(f"the batch of {batch} is computed in {parts} parts with accumulated gradients")
    if workers < wanted_workers:
        changes.append(f"{workers} instead of {wanted_workers} worker processes read ahead")
    if not changes:
        return f"The run keeps to {gib(budget)} of memory as it is."
    return f"To keep to {gib(budget)} of memory, {', and '.join(changes)}."


def _largest_part(batch: int, splits: int) -> int:
    return -(-batch // min(1 << splits, batch))
