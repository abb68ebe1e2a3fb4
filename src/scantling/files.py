"""Files that are either whole or not there: atomic writes, checksums, folders that are never overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from scantling.errors import ConfigError, IntegrityError, ResourceError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is fsynced and renamed over it, on failure removed.

    The temporary name ends as the target does, for writers that look at the suffix.

    Raises:
        ResourceError: the disk is full; the old file, if any, is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix="".join(path.suffixes[-2:]), dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            raise ResourceError(f"{path}: the disk is full; free some space and resume", code="E-RES-01") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write bytes, or let a function write them, so that `path` is at any moment the old or the new whole."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        if callable(content):
            content(stream)
        else:
            stream.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused, because JSON has none."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        IntegrityError: the file is not JSON (cut short, or edited by hand).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path}: not valid JSON ({error})", code="E-CHK-02") from None


def sha256_bytes(content: bytes | memoryview) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_sha256(path: Path, expected: str) -> None:
    """Refuse a file whose content is not what was written.

    Raises:
        IntegrityError: the file is missing or its SHA-256 differs.
    """
    if not path.is_file():
        raise IntegrityError(f"{path}: the file is missing", code="E-CHK-01")
    actual = sha256_file(path)
    if actual != expected:
        raise IntegrityError(
            f"{path}: the file is damaged (SHA-256 {actual[:12]}..., recorded {expected[:12]}...)",
            code="E-CHK-01",
        )


def new_folder(path: Path, *, overwrite: bool = False) -> Path:
    """An empty folder at `path`; with `overwrite` an old one is moved aside, never deleted.

    Raises:
        ConfigError: the folder has content and `overwrite` is off.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if not overwrite:
            raise ConfigError(
                f"{path}: already exists and is not empty; choose another folder, or --overwrite to move it aside",
                code="E-CFG-04",
            )
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        aside = path.with_name(f"{path.name}.old-{stamp}")
        counter = 1
        while aside.exists():
            counter += 1
            aside = path.with_name(f"{path.name}.old-{stamp}-{counter}")
        path.rename(aside)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()
