from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from scantling import files
from scantling.errors import ConfigError, IntegrityError, ResourceError


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


def test_other_file_errors_pass_unchanged(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "content").touch()
    with pytest.raises(OSError):  # noqa: PT011 - the kind differs between systems
        files.write_atomic(tmp_path / "folder", b"x")


def test_json_round_trip_and_refusal_of_what_json_has_not(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": [1, "ü"]})
    assert files.read_json(tmp_path / "a.json") == {"b": [1, "ü"]}
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "b.json", float("nan"))


@pytest.mark.parametrize("content", [b'{"a": 1', b"\xff\x00", b"[" * 200_000])
def test_a_cut_or_hostile_json_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"a\.json: not valid JSON"):
        files.read_json(tmp_path / "a.json")


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
