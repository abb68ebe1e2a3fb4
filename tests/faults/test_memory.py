"""Memory, by the kernel's count in fresh processes: large images, budgets, and a process that never ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import scantling
from faults.memory_process import write_chest, write_ct
from scantling.inference.memory import gib

if sys.platform != "linux":
    pytest.skip("memory is read from /proc", allow_module_level=True)

SCRIPT = Path(__file__).with_name("memory_process.py")
MIB = 2**20


PLAIN_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""What is freed goes back to the kernel at once: its count then follows what is held, not what glibc keeps by."""


def run(command: list[str], *, timeout: float, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(scantling.__file__).parents[1]), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def in_a_fresh_process(*arguments: object, timeout: float = 300, **environment: str) -> dict[str, Any]:
    """What the script says."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = run(command, timeout=timeout, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def predicted(folder: Path, grid: str, shape: tuple[int, int, int], *, timeout: float = 300) -> dict[str, Any]:
    write_ct(folder / "ct.nii.gz", shape)
    write_ct(folder / "small.nii.gz", (40, 40, 40))
    answer = in_a_fresh_process("predict", folder, grid, timeout=timeout)
    assert answer["failures"] == {}
    return answer


# bytes a voxel: stored and prepared voxels of 2 each, label map and its stored values of 1 each; a coarse grid needs
# a clipped copy of 2 and float32 copies, which shrink, instead
@pytest.mark.parametrize(("grid", "bytes_a_voxel"), [("own", 7.0), ("coarse", 11.5)])
def test_predicting_takes_a_few_bytes_a_voxel_as_foretold(tmp_path: Path, grid: str, bytes_a_voxel: float) -> None:
    shape = (224, 224, 256)
    answer = predicted(tmp_path, grid, shape)
    voxels = shape[0] * shape[1] * shape[2]
    unfinished = 2 * 96 * 224 * 224 * 4  # logits of two classes, as deep as a patch
    assert answer["growth"] <= bytes_a_voxel * voxels + unfinished + 32 * MIB
    assert 0.75 * answer["growth"] - 32 * MIB <= answer["foretold"] <= 1.25 * answer["growth"]


@pytest.mark.slow
@pytest.mark.parametrize("grid", ["own", "coarse"])
def test_a_ct_of_512_x_512_x_900_is_predicted_in_well_below_8_gb(tmp_path: Path, grid: str) -> None:
    answer = predicted(tmp_path, grid, (512, 512, 900), timeout=3600)
    assert answer["highest"] < (2.2e9 if grid == "own" else 3.5e9)
    assert 0.75 * answer["growth"] <= answer["foretold"] <= 1.25 * answer["growth"]


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budget") / "chest"
    write_chest(folder)
    return folder


@pytest.fixture(scope="module")
def natural(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that may take what it likes."""
    return in_a_fresh_process("train", chest, tmp_path_factory.mktemp("natural") / "run")


def test_the_memory_that_is_foretold_is_within_a_quarter_of_what_a_whole_run_takes(natural: dict[str, Any]) -> None:
    assert natural["status"]["status"] == "finished"
    assert natural["status"]["forecast"]["memory_bytes"] == pytest.approx(natural["highest"], rel=0.25)


def test_a_budget_is_kept_by_computing_the_batch_in_parts_and_that_is_said(
    chest: Path, natural: dict[str, Any], tmp_path: Path
) -> None:
    budget = (natural["before"] + natural["highest"]) // 2
    answer = in_a_fresh_process("train", chest, tmp_path / "run", budget)
    assert answer["status"]["status"] == "finished"
    assert answer["highest"] <= 1.1 * budget
    fitted = [event for event in answer["events"] if event["event"] == "fitted"]
    assert len(fitted) == 1
    assert fitted[0]["parts"] > 1
    assert f"To keep to {gib(budget)} of memory, the batch of 16 is computed in" in fitted[0]["sentence"]
    assert [event for event in answer["events"] if event["event"] == "out_of_memory"] == []


def test_a_budget_that_cannot_be_kept_is_refused_with_exit_code_4_before_any_step(chest: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "scantling", "train", str(chest), "-o", str(tmp_path / "run"), "--steps", "2",
        "--plan", str(chest.with_suffix(".plan.json")), "--budget-ram", "100M", "--quiet",
    ]  # fmt: skip
    done = run(command, timeout=300)
    assert done.returncode == 4, done.stderr
    assert "needs about" in done.stderr
    assert "the budget is 100 MiB" in done.stderr
    assert "raise --budget-ram" in done.stderr
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def require_no_growth(folder: Path, times: int, *, timeout: float) -> None:
    """Neither memory nor open files grow once 20 predictions are over."""
    write_ct(folder / "small.nii.gz", (40, 40, 40))
    answer = in_a_fresh_process("repeat", folder, times, timeout=timeout, **PLAIN_ALLOCATOR)
    assert len(answer["resident"]) == times
    assert max(answer["resident"][20:]) < 1.01 * answer["resident"][19]
    assert set(answer["files"]) == {answer["files"][0]}


def test_sixty_predictions_one_after_another_leave_memory_and_open_files_as_they_were(tmp_path: Path) -> None:
    require_no_growth(tmp_path, 60, timeout=300)


@pytest.mark.slow
def test_a_thousand_predictions_one_after_another_leave_memory_and_open_files_as_they_were(tmp_path: Path) -> None:
    require_no_growth(tmp_path, 1000, timeout=3600)
