"""A run that is killed at any moment is carried on to the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import scantling
from scantling.data.catalog.phantom import write_chest_phantom

SCRIPT = Path(__file__).with_name("killed_runs.py")


def killed(tmp_path: Path, kills: int, *, seed: int, seconds: float) -> dict[str, Any]:
    """Runs on a small phantom, killed so many times altogether."""
    data = write_chest_phantom(tmp_path / "data", n_labelled=12, n_unlabelled=0, n_test=4, seed=0, size=48)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(scantling.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(SCRIPT), str(data), str(tmp_path), str(kills), str(seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


def check(found: dict[str, Any], kills: int) -> None:
    assert found["wrong"] == []
    assert sum(found["kills"].values()) == kills
    assert found["lost_seconds"] <= 60


def test_eight_kills_at_random_moments_cost_no_file_and_change_no_byte(tmp_path: Path) -> None:
    check(killed(tmp_path, 8, seed=0, seconds=300), 8)


@pytest.mark.slow
def test_two_hundred_kills_over_every_stage_cost_no_file_and_change_no_byte(tmp_path: Path) -> None:
    found = killed(tmp_path, 200, seed=1, seconds=3000)
    print(found)  # noqa: T201
    check(found, 200)
    assert found["kills"].keys() >= {"preparing", "training", "predicting"}
