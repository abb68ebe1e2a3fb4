from __future__ import annotations

import getpass
import json
import platform
import sys
from pathlib import Path

import pytest

from scantling.errors import ConfigError
from scantling.training.environment import command_line, environment
from scantling.training.run_folder import RunFolder, now


def test_facts_are_laid_over_the_status_file(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.update(status="training", seed=3)
    run.update(status="finished")
    assert run.status() == {"schema_version": 1, "status": "finished", "seed": 3}
    assert RunFolder.open(run.path) == run
    with pytest.raises(ConfigError, match="not empty"):
        RunFolder.create(run.path)


def test_a_log_line_cut_by_a_crash_is_passed_over(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert list(run.read_log()) == []
    run.append_log("epoch", step=1)
    with run.log.open("a") as stream:
        stream.write('{"event": "epo')
    assert [event["step"] for event in run.read_log()] == [1]


def test_neither_host_nor_user_nor_folders_are_written_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        sys, "argv", [str(tmp_path / "bin" / "scantling"), "train", str(tmp_path / "data"), "--seed", "1"]
    )
    assert command_line() == "scantling train data --seed 1"
    text = json.dumps(environment())
    assert platform.node() == "" or platform.node() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert json.loads(text)["versions"]["torch"]
    assert now().endswith("+00:00")
