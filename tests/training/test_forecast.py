"""What is foretold, and how a budget of memory is kept, with a machine whose memory is a formula."""

from __future__ import annotations

import contextlib
import math
import mmap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipes.contract import BATCH, build, loop_for
from scantling.errors import ResourceError
from scantling.inference.memory import PeakGauge, resident_bytes
from scantling.training import forecast as forecast_module
from scantling.training import memory_budget as budget_module
from scantling.training import needs as needs_module
from scantling.training.batches import StepSamples
from scantling.training.forecast import Forecast, forecast
from scantling.training.loop import Loop
from scantling.training.memory_budget import MARGIN, FitDecision, fit_budget
from scantling.training.needs import Later, Trial, module_bytes, worker_bytes

MIB = 2**20
BASE, FIXED, EACH, WORKER = 300 * MIB, 20 * MIB, 50 * MIB, 100 * MIB


def little_later(_: Loop) -> Later:
    """Nothing to validate but a little, nothing held out."""
    return Later(memory=BASE + 10 * MIB, stage="validating", validation_seconds=0.0, held_out_seconds=0.0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A step takes a base, something fixed and something for each sample of a part; lists the parts that were tried."""
    tried: list[int] = []

    def try_step(loop: Loop) -> Trial:
        tried.append(math.ceil(loop.samples.batch_size / loop.parts))
        return Trial(seconds=0.1, memory=BASE + FIXED + EACH * tried[-1])

    monkeypatch.setattr(budget_module, "try_step", try_step)
    monkeypatch.setattr(budget_module, "resident_bytes", lambda: BASE)
    monkeypatch.setattr(budget_module, "highest_resident_bytes", lambda: BASE)
    monkeypatch.setattr(budget_module, "worker_bytes", lambda _, workers: workers * WORKER)
    return tried


def loop_of(folder: Path, *, batch: int = 8, workers: int = 0) -> Loop:
    loop = loop_for(build("supervised"), folder, steps=12)
    loop.samples = StepSamples(loop.samples.source, batch, 5)
    loop.workers = workers
    return loop


@pytest.mark.parametrize("batch", [1, 2, 5, 8, 12])
@pytest.mark.parametrize("budget", range(380, 1201, 60))
def test_parts_are_as_large_as_the_budget_allows_and_none_above_it_is_ever_tried(
    tmp_path: Path, machine: list[int], batch: int, budget: int
) -> None:
    loop = loop_of(tmp_path, batch=batch)
    decision = fit_budget(loop, little_later, budget=budget * MIB)
    part = math.ceil(batch / 2**decision.splits)
    takes = [BASE + FIXED + EACH * tried for tried in machine]
    assert decision.splits == loop.state.splits
    assert machine[0] == 1
    assert max(takes) <= budget * MIB
    assert part == 1 or BASE + FIXED + EACH * part <= MARGIN * budget * MIB
    # in one part more, what is fixed counted as if it grew too, the budget would not hold
    if decision.splits:
        larger = math.ceil(batch / 2 ** (decision.splits - 1))
        assert (FIXED / part + EACH) * larger + BASE > MARGIN * budget * MIB


def test_what_was_changed_is_said_and_that_nothing_had_to_be(tmp_path: Path, machine: list[int]) -> None:
    loop = loop_of(tmp_path, workers=2)
    unchanged = "The run keeps to 4.0 GiB of memory as it is."
    assert fit_budget(loop, little_later, budget=4096 * MIB) == FitDecision(splits=0, workers=2, sentence=unchanged)
    loop = loop_of(tmp_path)
    said = fit_budget(loop, little_later, budget=600 * MIB).sentence
    assert said == "To keep to 600 MiB of memory, the batch of 8 is computed in 2 parts with accumulated gradients."


def test_workers_are_given_up_once_the_parts_cannot_be_smaller(tmp_path: Path, machine: list[int]) -> None:
    loop = loop_of(tmp_path, workers=3)
    decision = fit_budget(loop, little_later, budget=500 * MIB)
    assert (decision.splits, decision.workers, loop.workers) == (3, 1, 1)
    assert "8 parts with accumulated gradients, and 1 instead of 3 worker processes read ahead" in decision.sentence


def test_a_budget_that_cannot_be_kept_is_refused_by_the_first_stage_that_breaks_it(
    tmp_path: Path, machine: list[int]
) -> None:
    for budget, stage in ((299, "preparing"), (309, "validating"), (369, "training on 1 samples at once")):
        with pytest.raises(ResourceError, match=f"while {stage}.*the budget is {budget} MiB") as caught:
            fit_budget(loop_of(tmp_path), little_later, budget=budget * MIB)
        assert caught.value.exit_code == 4


def test_a_resumed_run_keeps_its_parts_because_others_would_change_its_bits(tmp_path: Path, machine: list[int]) -> None:
    loop = loop_of(tmp_path, workers=1)
    loop.state.splits = 1
    decision = fit_budget(loop, little_later, budget=540 * MIB, resumed=True)
    assert (decision.splits, decision.workers) == (1, 0)
    assert machine == [4]


def test_a_forecast_adds_up_steps_validations_memory_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = loop_of(tmp_path, batch=BATCH)  # 12 steps are 3 epochs of 5, 5 and 2
    loop.config = loop.config.model_copy(update={"validate_every": 2})
    (tmp_path / "there.bin").write_bytes(bytes(5000))
    later = Later(memory=900 * MIB, stage="validating", validation_seconds=7.0, held_out_seconds=3.0)
    monkeypatch.setattr(forecast_module, "try_step", lambda _: Trial(seconds=2.0, memory=500 * MIB))
    monkeypatch.setattr(forecast_module, "highest_resident_bytes", lambda: 400 * MIB)
    found = forecast(loop, lambda _: later, folder=tmp_path)
    weights = module_bytes(loop.recipe)
    assert found.seconds == pytest.approx(12 * 2.0 + 2 * 7.0, abs=0.5)
    assert found.held_out_seconds == 3.0
    assert (found.memory, found.stage) == (900 * MIB + 2 * weights, "validating")  # two moments of AdamW
    checkpoint = weights + 2 * weights + module_bytes(loop.deployable())
    assert found.present_disk == 5000
    assert found.disk == 5000 + 2 * checkpoint + module_bytes(loop.deployable()) + needs_module.REPORT_BYTES
    assert "while validating" in found.sentence()


def test_more_disk_than_there_is_or_may_be_used_is_refused() -> None:
    facts: dict[str, Any] = {
        "seconds": 1.0, "steps": 1, "step_seconds": 1.0, "held_out_seconds": 0.0, "memory": 1, "stage": "training",
        "device_memory": None, "disk": 3 * 2**30, "present_disk": 2 * 2**30, "free_disk": 2**30,
    }  # fmt: skip
    Forecast(**facts).require(disk_gib=3.0)
    with pytest.raises(ResourceError, match=r"needs about 3.00 GiB of disk, 2.50 GiB may be used"):
        Forecast(**facts).require(disk_gib=2.5)
    with pytest.raises(ResourceError, match=r"needs about 3.00 GiB of disk, 2.25 GiB may be used"):
        Forecast(**(facts | {"free_disk": 2**28})).require(disk_gib=None)


def test_a_run_fitted_to_its_budget_may_pass_it_by_a_tenth_and_no_more() -> None:
    facts: dict[str, Any] = {
        "seconds": 1.0, "steps": 1, "step_seconds": 1.0, "held_out_seconds": 0.0, "stage": "training",
        "device_memory": None, "disk": 1, "present_disk": 1, "free_disk": 1,
    }  # fmt: skip
    Forecast(**facts, memory=int(2.19 * 2**30)).require(ram_gib=2.0, disk_gib=None)
    with pytest.raises(ResourceError, match=r"needs about 2.2 GiB of memory \(while training\), the budget is 2.0 GiB"):
        Forecast(**facts, memory=int(2.21 * 2**30)).require(ram_gib=2.0, disk_gib=None)


def test_the_memory_of_workers_grows_with_their_number_and_with_what_they_read(tmp_path: Path) -> None:
    loop = loop_of(tmp_path)
    none, one, two = (worker_bytes(loop, workers) for workers in (0, 1, 2))
    assert none == 0
    step = sum(part.nbytes for each in loop.samples[0] for part in (each.image, each.label_map, each.weight))
    assert one == needs_module.WORKER_BYTES + 4 * step  # two steps ahead, in the worker and waiting here
    assert two == 2 * one


@contextlib.contextmanager
def memory_of(size: int) -> Iterator[None]:
    """So many bytes, in use; past the allocator, which keeps what it may need again."""
    with mmap.mmap(-1, size) as block:
        for start in range(0, size, mmap.PAGESIZE):
            block[start] = 1
        yield


def test_the_gauge_sees_a_peak_that_is_gone_again_whether_or_not_it_was_a_record() -> None:
    with PeakGauge() as record, memory_of(150 * MIB):
        highest = resident_bytes()
        time.sleep(0.2)
    assert record.bytes > highest - 4 * MIB  # the kernel counts in batches
    start = resident_bytes()
    with PeakGauge() as smaller, memory_of(80 * MIB):
        time.sleep(0.2)
    assert start + 60 * MIB < smaller.bytes < record.bytes
