from __future__ import annotations

import getpass
import itertools
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


def test_what_a_killed_run_did_again_is_read_once(tmp_path: Path) -> None:
    run, lines = RunFolder(tmp_path), itertools.count()

    def log(*events: tuple[str, int]) -> None:
        for event, step in events:
            run.append_log(event, step=step, line=next(lines))

    log(("epoch", 5), ("epoch", 10), ("contrast_warning", 11), ("out_of_memory", 13), ("epoch", 15), ("epoch", 20))
    log(("resumed", 10), ("epoch", 10), ("contrast_warning", 11), ("epoch", 15), ("contrast_recovered", 16))
    log(("resumed", 15), ("contrast_recovered", 16), ("epoch", 20))
    found = [(event["event"], event["step"], event["line"]) for event in run.read_log()]
    assert [each for each in found if each[0] == "epoch"] == [
        ("epoch", 5, 0),
        ("epoch", 10, 7),  # the checkpoint was of step 10 but from before its line
        ("epoch", 15, 9),
        ("epoch", 20, 13),
    ]
    assert [each for each in found if each[0].startswith("contrast")] == [
        ("contrast_warning", 11, 8),
        ("contrast_recovered", 16, 12),
    ]
    assert [each[:2] for each in found if each[0] in ("resumed", "out_of_memory")] == [
        ("out_of_memory", 13), ("resumed", 10), ("resumed", 15),
    ]  # fmt: skip


def test_a_run_made_longer_keeps_the_last_epoch_of_before(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for event, step in (("epoch", 5), ("epoch", 8), ("resumed", 8), ("epoch", 10)):
        run.append_log(event, step=step)
    assert [event["step"] for event in run.read_log() if event["event"] == "epoch"] == [5, 8, 10]


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
