"""Asked to stop, a run saves what it has, says how to go on, and ends with exit code 5."""

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

SCRIPT = Path(__file__).with_name("signalled_runs.py")
Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("signals")
    data = write_chest_phantom(folder / "data", n_labelled=4, n_unlabelled=0, n_test=2, seed=0, size=48)
    environment = {**os.environ, "PYTHONPATH": str(Path(scantling.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(data), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    result: Found = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "in a long step"])
def test_a_signal_saves_the_run_within_ten_seconds_and_exits_with_five(found: Found, name: str) -> None:
    of = found[name]
    assert of["code"] == 5, of["printed"]
    assert of["seconds"] < 10
    assert of["status"] == "interrupted"
    assert int(of["saved"][-1].split("-")[1].split(".")[0]) >= 12
    assert "continue with: scantling resume" in of["printed"]
    assert "Traceback" not in of["printed"]


def test_a_second_interrupt_ends_the_run_at_once_with_the_same_exit_code(found: Found) -> None:
    of = found["twice"]
    assert of["code"] == 5, of["printed"]
    assert of["seconds"] < 10
    assert "Traceback" not in of["printed"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "in a long step", "twice"])
def test_what_was_stopped_is_resumed_to_the_same_bytes(found: Found, name: str) -> None:
    assert found[name]["resumed"] == 0, found[name]["printed"]
    assert found[name]["same"]
