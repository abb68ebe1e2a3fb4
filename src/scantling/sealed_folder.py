"""A folder of files that belong together: written as a whole, with a checksum of each, and believed only if all fit."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from scantling.errors import DataError, IntegrityError
from scantling.files import disk_errors, sha256_bytes, sync_folder, write_atomic

CHECKSUMS: Final = "SHA256SUMS"
MODEL: Final = "model"
"""The name of the model folder inside a run folder."""
DESCRIPTION: Final = "model.json"
"""What a model of any kind says of itself."""
_LINE: Final = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")


def write_sealed(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write the files and `SHA256SUMS`; an older folder at the same place is replaced as a whole.

    Raises:
        ResourceError: the disk is full; the older folder is intact.
    """
    sums = "".join(f"{sha256_bytes(data)}  {name}\n" for name, data in content.items())
    fresh = _beside(folder, "partial")
    with disk_errors(folder):
        try:
            fresh.mkdir(parents=True)
            for name, data in {**content, CHECKSUMS: sums.encode()}.items():
                write_atomic(fresh / name, data)
            _replace(folder, fresh)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def read_sealed(folder: Path, *, required: Collection[str], what: str) -> dict[str, bytes]:
    """The files, each read once and equal to its checksum.

    Args:
        required: names that must be among them.
        what: the folder is, for messages, as in "model folder".

    Raises:
        DataError: there is no such folder, or it cannot be read.
        IntegrityError: a file is missing or damaged.
    """
    listed = folder / CHECKSUMS
    if not folder.is_dir():
        raise DataError(f"{folder}: no such {what}", code="E-MOD-01")
    if not listed.is_file():
        raise IntegrityError(f"{listed}: the file is missing, so nothing here can be trusted", code="E-CHK-01")
    content = {}
    for name, checksum in _checksums(listed, required).items():
        path = folder / name
        if not path.is_file():
            raise IntegrityError(f"{path}: the file is missing", code="E-CHK-01")
        content[name] = _bytes(path)
        actual = sha256_bytes(content[name])
        if actual != checksum:
            raise IntegrityError(
                f"{path}: the file is damaged (SHA-256 {actual[:12]}..., recorded {checksum[:12]}...); copy the "
                f"{what} again",
                code="E-CHK-01",
            )
    return content


def find_model_folder(run_or_model: Path) -> Path:
    """The model folder of a run folder, or the folder itself if it is one.

    Raises:
        DataError: there is no model.
    """
    for folder in (run_or_model, run_or_model / MODEL):
        if (folder / CHECKSUMS).is_file() or (folder / DESCRIPTION).is_file():
            return folder
    if (run_or_model / "run.json").is_file():
        raise DataError(
            f"{run_or_model}: this run has no model yet; finish it with 'scantling resume {run_or_model}'",
            code="E-MOD-02",
        )
    raise DataError(
        f"{run_or_model}: no model here; wanted a folder written by 'scantling train', or its model folder",
        code="E-MOD-01",
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})", code="E-DAT-01") from None


def _checksums(path: Path, required: Collection[str]) -> dict[str, str]:
    lines = _bytes(path).decode("ascii", errors="replace").split("\n")
    matches = [_LINE.fullmatch(line) for line in lines[:-1]]
    found = {match[2]: match[1] for match in matches if match}
    if lines[-1] or len(found) != len(matches) or not set(required) <= set(found):
        raise IntegrityError(
            f"{path}: the file is damaged; wanted a checksum and a name a line, for {', '.join(required)} at least",
            code="E-CHK-01",
        )
    return found


def _replace(folder: Path, fresh: Path) -> None:
    """Put `fresh` in the place of `folder`; only between the two renames is there no folder."""
    old = _beside(folder, "old")
    replaces = folder.exists()
    if replaces:
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if replaces:
            old.rename(folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{kind}-{folder.name}-{uuid.uuid4().hex[:12]}")
