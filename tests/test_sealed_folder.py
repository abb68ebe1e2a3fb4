from __future__ import annotations

from pathlib import Path

import pytest

from scantling.errors import DataError, IntegrityError, ResourceError
from scantling.files import sha256_bytes
from scantling.sealed_folder import CHECKSUMS, read_sealed, write_sealed

CONTENT = {"a.bin": b"first", "b.json": b"{}"}


def read(folder: Path) -> dict[str, bytes]:
    return read_sealed(folder, required=("a.bin",), what="model folder")


def test_what_was_written_comes_back_and_its_sums_are_those_of_the_usual_tool(tmp_path: Path) -> None:
    write_sealed(tmp_path / "model", CONTENT)
    assert read(tmp_path / "model") == CONTENT
    lines = (tmp_path / "model" / CHECKSUMS).read_text().splitlines()
    assert lines == [f"{sha256_bytes(data)}  {name}" for name, data in CONTENT.items()]


def test_an_older_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    write_sealed(folder, {**CONTENT, "old.txt": b"old"})
    write_sealed(folder, CONTENT)
    assert read(folder) == CONTENT

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scantling.sealed_folder.write_atomic", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        write_sealed(folder, {"a.bin": b"new"})
    assert read(folder) == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_damage_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(DataError, match="no such model folder"):
        read(folder)
    write_sealed(folder, CONTENT)
    (folder / "b.json").write_bytes(b"[]")
    with pytest.raises(IntegrityError, match=r"b.json: the file is damaged .*copy the model folder again"):
        read(folder)
    (folder / "b.json").unlink()
    with pytest.raises(IntegrityError, match=r"b\.json: the file is missing"):
        read(folder)
    (folder / CHECKSUMS).write_text(f"{sha256_bytes(b'{}')}  ../b.json\n")
    with pytest.raises(IntegrityError, match=r"the file is damaged; wanted a checksum and a name a line, for a.bin"):
        read(folder)
    (folder / CHECKSUMS).unlink()
    with pytest.raises(IntegrityError, match="nothing here can be trusted"):
        read(folder)
