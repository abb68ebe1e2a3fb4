from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scantling import files
from scantling.errors import ConfigError, DataError, IntegrityError, ResourceError


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    files.write_atomic(target, b"old")

    def fail(stream: object) -> None:
        stream.write(b"new, but not all")  # type: ignore[attr-defined]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        files.write_atomic(target, fail)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_is_a_resource_error_and_the_old_file_is_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.bin"
    files.write_atomic(target, b"old")

    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(ResourceError, match="disk is full") as caught:
        files.write_atomic(target, b"new")
    assert caught.value.exit_code == 4
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_place_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "content").touch()
    with pytest.raises(ResourceError, match=r"folder: cannot be written \(.*choose another place") as caught:
        files.write_atomic(tmp_path / "folder", b"x")
    assert (caught.value.exit_code, caught.value.code) == (4, "E-RES-05")
    assert sorted(os.listdir(tmp_path)) == ["folder"]
    with pytest.raises(ResourceError, match="cannot be written"):
        files.new_folder(tmp_path / "folder" / "content" / "below")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EDQUOT, "x"), "the disk quota is used up"),
        (OSError(errno.EFBIG, "x"), "the file is larger than this disk"),
        (OSError("7 requested and 3 written"), "the disk is full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EACCES, "x"), ""),
        (RuntimeError("I/O error: Permission denied (os error 13)"), ""),
        (ValueError("7 requested and 3 written"), ""),
    ],
)
def test_a_lack_of_space_is_told_from_other_errors(tmp_path: Path, error: Exception, reason: str) -> None:
    assert files.lack_of_space(error).startswith(reason)
    assert bool(files.lack_of_space(error)) == bool(reason)
    with pytest.raises(ResourceError if reason else type(error)), files.disk_errors(tmp_path):
        raise error


def test_an_error_of_ours_keeps_its_words_within_a_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mine"), files.disk_errors(tmp_path), files.write_errors(tmp_path):
        raise ConfigError("mine")
    with pytest.raises(ZeroDivisionError):
        files.write_atomic(tmp_path / "a", lambda _: 1 // 0)


def test_the_name_of_a_target_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    for name in ("x" * 247 + ".nii.gz", "a." + "x" * 249 + ".png"):
        files.write_atomic(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"


def test_a_temporary_file_ends_as_its_target_and_is_gone_unless_it_was_settled(tmp_path: Path) -> None:
    with files.temporary_file(tmp_path / "a" / "case.nii.gz") as path:
        assert path.name.endswith(".nii.gz")
        path.write_bytes(b"x")
    assert list((tmp_path / "a").iterdir()) == []
    with files.temporary_file(tmp_path / "b") as path:
        files.settle(path, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b""


def test_json_round_trip_and_refusal_of_what_json_has_not(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": [1, "ü"]})
    assert files.read_json(tmp_path / "a.json") == {"b": [1, "ü"]}
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "b.json", float("nan"))


@pytest.mark.parametrize("content", [b'{"a": 1', b"\xff\x00", b"[" * 200_000, b"9" * 5000])
def test_a_cut_or_hostile_json_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"a\.json: not valid JSON"):
        files.read_json(tmp_path / "a.json")


def test_a_json_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            files.read_json(path)


def test_the_checksum_is_sha256_and_one_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = bytearray(os.urandom(300_000))
    path.write_bytes(content)
    recorded = files.sha256_file(path)
    assert recorded == hashlib.sha256(content).hexdigest() == files.sha256_bytes(bytes(content))
    files.require_sha256(path, recorded)
    content[123_456] ^= 4
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="is damaged"):
        files.require_sha256(path, recorded)
    path.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        files.require_sha256(path, recorded)


def test_a_used_folder_is_refused_or_moved_aside_but_never_deleted(tmp_path: Path) -> None:
    used = tmp_path / "run"
    used.mkdir()
    (used / "result").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        files.new_folder(used)
    for _ in range(2):
        assert not any(files.new_folder(used, overwrite=True).iterdir())
        (used / "result").write_text("precious")
    assert sorted(p.read_text() for p in tmp_path.glob("run*/result")) == ["precious"] * 3


def test_one_at_a_time_keeps_threads_apart_and_goes_on_without_a_lock(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        with files.one_at_a_time(tmp_path):
            inside += 1
            most = max(most, inside)
            time.sleep(0.005)
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(12)))
    assert most == 1
    with files.one_at_a_time(tmp_path / "not there"):
        pass


def test_one_at_a_time_waits_for_another_process_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "win32":
        pytest.skip("a folder cannot be locked there")
    monkeypatch.setattr(files, "_PATIENCE_SECONDS", 0.3)
    script = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
input()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline()
        began = time.monotonic()
        with files.one_at_a_time(tmp_path):
            assert time.monotonic() - began >= 0.3
    finally:
        other.communicate(b"\n", timeout=60)
