"""The lock of a data set: what was there, byte for byte, and what has changed since."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from data.case_folders import mask, picture, save_png
from scantling.data.layouts import open_dataset
from scantling.data.lock import check_lock, write_lock
from scantling.errors import DataError, IntegrityError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(3):
        save_png(tmp_path / f"set/images/c{k}.png", picture(k))
        save_png(tmp_path / f"set/labels/c{k}.png", mask(1))
    (tmp_path / "set/dataset.toml").write_text("[classes]\nlung = 1\n")
    return tmp_path / "set"


def test_the_lock_names_size_and_sha256_of_every_file_relative_to_the_set(folder: Path) -> None:
    content = json.loads(write_lock(open_dataset(folder), folder.parent / "data.lock.json").read_text())
    on_disk = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert content["files"] == {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in on_disk.items()
    }
    assert content["cases"] == 3


def test_an_untouched_set_passes_also_after_it_has_moved(folder: Path) -> None:
    lock = write_lock(open_dataset(folder), folder.parent / "data.lock.json")
    moved = shutil.move(folder, folder.parent / "elsewhere")
    assert check_lock(lock, open_dataset(Path(moved))) == ()


def test_changed_new_and_missing_files_are_each_named(folder: Path) -> None:
    manifest = open_dataset(folder)
    lock = write_lock(manifest, folder.parent / "data.lock.json")
    content = bytearray((folder / "images/c0.png").read_bytes())
    content[30] ^= 1
    (folder / "images/c0.png").write_bytes(content)
    (folder / "images/c1.png").unlink()
    assert check_lock(lock, manifest) == (
        "images/c0.png: has changed since the lock was written",
        "images/c1.png: the file is missing",
    )
    (folder / "labels/c1.png").unlink()
    save_png(folder / "images/c9.png", picture(9))
    assert set(check_lock(lock, open_dataset(folder))) == {
        "images/c0.png: has changed since the lock was written",
        "images/c1.png: is in the lock but no longer in the data set",
        "labels/c1.png: is in the lock but no longer in the data set",
        "images/c9.png: is new since the lock was written",
    }


def test_a_file_that_cannot_be_read_is_an_error_with_its_name(folder: Path) -> None:
    manifest = open_dataset(folder)
    (folder / "images/c1.png").unlink()
    with pytest.raises(DataError, match=r"c1\.png: cannot be read"):
        write_lock(manifest, folder.parent / "data.lock.json")
    assert not (folder.parent / "data.lock.json").exists()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"schema_version": 2, "files": {}}', '{"schema_version": 1, "files": {"a": 1}}'],
)
def test_a_damaged_or_newer_lock_is_refused(folder: Path, content: str) -> None:
    lock = folder.parent / "data.lock.json"
    lock.write_text(content)
    with pytest.raises(IntegrityError):
        check_lock(lock, open_dataset(folder))
