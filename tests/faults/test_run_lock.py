from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from faults.full_disk import full_disk
from scantling.errors import ConfigError, ResourceError
from scantling.training import run_lock as module
from scantling.training.run_folder import RunFolder
from scantling.training.run_lock import LOCK, refuse_if_training, run_lock

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="forks and SIGKILL are of POSIX")


@contextlib.contextmanager
def holder(run: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    run.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "faults.lock_holder", str(run), *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def wait_for(process: subprocess.Popen[str]) -> list[str]:
    """Lines up to the one that says the lock is held."""
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or lines[-1] != "held":
        line = process.stdout.readline()
        assert line, "the holder died"
        lines.append(line.strip())
    return lines


def take_within(run: Path, seconds: float) -> None:
    """Take the lock; the system needs a moment to bury a killed process."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with run_lock(run) as sentence:
                assert sentence == ""
                return
        except ConfigError:
            assert time.monotonic() < deadline, "the lock of a dead process is still held"
            time.sleep(0.05)


def test_a_second_process_is_refused_with_a_sentence_and_the_lock_is_free_afterwards(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with holder(run) as process:
        wait_for(process)
        with pytest.raises(ConfigError) as caught, run_lock(run):
            pytest.fail("two processes train in one folder")
        sentence = rf"process {process.pid} \(since \d\d:\d\d\) is training in this folder; wait for it or stop it"
        assert re.fullmatch(rf"{re.escape(str(run))}: {sentence}", caught.value.message)
        assert (caught.value.code, caught.value.exit_code) == ("E-RUN-03", 2)
        assert process.stdin is not None
        process.stdin.write("enough\n")
        process.stdin.flush()
        process.wait(timeout=60)
        assert (run / LOCK).is_file()
        take_within(run, 0)


@needs_posix
def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as process:
        wait_for(process)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        assert (tmp_path / "run" / LOCK).stat().st_size > 0
        take_within(tmp_path / "run", 5)


@needs_posix
def test_forked_children_that_outlive_a_killed_run_do_not_hold_its_lock(tmp_path: Path) -> None:
    with holder(tmp_path / "run", "fork") as process:
        child = int(wait_for(process)[0])
        try:
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
            os.kill(child, 0)  # it is alive
            take_within(tmp_path / "run", 5)
        finally:
            os.kill(child, signal.SIGKILL)


def test_one_process_cannot_train_twice_in_one_folder_but_in_two(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with run_lock(tmp_path / "a"), run_lock(tmp_path / "b"):
        for name in ("a", "b/../a"):
            with pytest.raises(ConfigError, match="this process itself is training"), run_lock(tmp_path / name):
                pytest.fail("taken twice")
        with pytest.raises(ConfigError, match="is training"):
            RunFolder.create(tmp_path / "a", overwrite=True)
    with run_lock(tmp_path / "a"):
        pass


def test_the_lock_is_given_up_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        _ = 1 / 0
    with run_lock(tmp_path) as sentence:
        assert sentence == ""


def test_a_folder_where_somebody_trains_is_not_moved_aside(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with holder(run) as process:
        wait_for(process)
        with pytest.raises(ConfigError, match=rf"process {process.pid} .* is training"):
            RunFolder.create(run, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_looking_whether_somebody_trains_takes_nothing_and_makes_nothing(tmp_path: Path) -> None:
    refuse_if_training(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / LOCK).write_text("left over")
    refuse_if_training(tmp_path)
    with run_lock(tmp_path), pytest.raises(ConfigError):
        refuse_if_training(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"pid": "x"}', '{"pid": 1, "since": "yesterday"}', "\ufffd", "[" * 99_999])
def test_a_lock_file_that_says_nothing_useful_still_gives_a_sentence(tmp_path: Path, text: str) -> None:
    with holder(tmp_path) as process:
        wait_for(process)
        (tmp_path / LOCK).write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="another process is training in this folder"), run_lock(tmp_path):
            pytest.fail("two processes train in one folder")


def test_a_lock_of_another_day_says_which(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        wait_for(process)
        (tmp_path / LOCK).write_text('{"pid": 7, "since": "2020-02-03T04:05:06"}')
        with pytest.raises(ConfigError, match=r"process 7 \(since 2020-02-03 04:05\)"), run_lock(tmp_path):
            pytest.fail("two processes train in one folder")


def refusing(number: int) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_on_a_read_only_disk_a_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(module.os, "open", refusing(number))
    with run_lock(tmp_path) as sentence:
        assert sentence.startswith(f"{tmp_path}: cannot be locked here ({os.strerror(number)})")
        assert "no second process" in sentence


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_on_a_disk_that_knows_no_locks_a_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(module, "_lock", refusing(number))
    with run_lock(tmp_path) as sentence:
        assert "cannot be locked here" in sentence
        with pytest.raises(ConfigError), run_lock(tmp_path):
            pytest.fail("the same process could still be told")


def test_a_full_disk_is_no_reason_to_train_without_a_lock(tmp_path: Path) -> None:
    with full_disk(tmp_path, "names", 0), pytest.raises(ResourceError, match="disk is full"), run_lock(tmp_path):
        pytest.fail("went on")
    with full_disk(tmp_path, "bytes", 0), run_lock(tmp_path) as sentence:
        assert sentence == ""


def test_the_time_a_lock_was_taken_is_written_with_its_zone(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        pass
    text = (tmp_path / LOCK).read_text()
    since = re.search(r'"since": "([^"]+)"', text)
    assert since is not None
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(since[1])).total_seconds()) < 60
