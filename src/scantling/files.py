"""Files that are either whole or not there: atomic writes, checksums, folders that are never overwritten."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

if sys.platform != "win32":
    import fcntl

from scantling.errors import ConfigError, DataError, IntegrityError, ResourceError, ScantlingError

NOT_A_FILE: Final = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""What reading raises where no file is, or is no longer: another process may remove it at any moment."""
_LACK: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this disk, or a limit of the shell ('ulimit -f'), allows",
}
_RUST_ERROR: Final = re.compile(r"\(os error (\d+)\)")
_NUMPY_ERROR: Final = re.compile(r"\d+ requested and \d+ written")
_WINDOWS_DISK_FULL: Final = 112
_LONGEST_SUFFIX: Final = 20
"""Characters of a target's suffix that its temporary name repeats; a name may have 255 in all."""
_PATIENCE_SECONDS: Final = 10.0
_ONE_THREAD: Final = threading.Lock()


def lack_of_space(error: BaseException) -> str:
    """Why the disk did not take what was written, in words; "" where the error is none of that kind.

    Writers in C and Rust lose the error number: NumPy says how much was written, safetensors quotes the system.
    """
    number = _error_number(error)
    if number is None and isinstance(error, OSError) and _NUMPY_ERROR.search(str(error)):
        number = errno.ENOSPC
    return _LACK.get(number or 0, "")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Within the block, what fails because the disk is full is a `ResourceError` that names `path`.

    Raises:
        ResourceError: the disk is full, a quota is used up, or the file is too large.
    """
    try:
        yield
    except ScantlingError:
        raise
    except Exception as error:
        if reason := lack_of_space(error):
            raise ResourceError(f"{path}: {reason}; free some space and resume", code="E-RES-01") from error
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is fsynced and renamed over it, on failure removed.

    The temporary name ends as the target does, for writers that look at the suffix.

    Raises:
        ResourceError: the disk is full, or the file cannot be written; the old file, if any, is untouched.
    """
    with temporary_file(path) as temporary:
        yield temporary
        settle(temporary, path)


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path` that is gone after the block, unless `settle` gave it its name.

    Raises:
        ResourceError: the disk is full, or the file cannot be written.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = "".join(path.suffixes[-2:])
        suffix = suffix if len(suffix) <= _LONGEST_SUFFIX else path.suffix[-_LONGEST_SUFFIX:]
        handle, name = tempfile.mkstemp(prefix=".partial-", suffix=suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def settle(temporary: Path, path: Path) -> None:
    """Give a temporary file its name once its bytes are safely on the disk."""
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    with contextlib.suppress(OSError):  # file systems without permissions refuse this
        os.chmod(temporary, 0o666 & ~_UMASK)
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write bytes, or let a function write them, so that `path` is at any moment the old or the new whole."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        if callable(content):
            content(stream)
        else:
            stream.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused, because JSON has none."""
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        IntegrityError: the file is not JSON (cut short, or edited by hand).
        DataError: there is no such file, or it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not valid JSON ({error})", code="E-CHK-02") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})", code="E-DAT-01") from None


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
    try:
        actual = sha256_file(path)
    except NOT_A_FILE:
        raise IntegrityError(f"{path}: the file is missing", code="E-CHK-01") from None
    if actual != expected:
        raise IntegrityError(
            f"{path}: the file is damaged (SHA-256 {actual[:12]}..., recorded {expected[:12]}...)",
            code="E-CHK-01",
        )


def new_folder(path: Path, *, overwrite: bool = False) -> Path:
    """An empty folder at `path`; with `overwrite` an old one is moved aside, never deleted.

    Raises:
        ConfigError: the folder has content and `overwrite` is off.
        ResourceError: the disk is full, or the folder cannot be made.
    """
    with write_errors(path):
        return _emptied(path, overwrite=overwrite)


def require_new_folder(path: Path) -> None:
    """Refuse a folder with content.

    Raises:
        ConfigError: naming it.
    """
    if _has_content(path):
        raise ConfigError(
            f"{path}: already exists and is not empty; choose another folder, or --overwrite to move it aside",
            code="E-CFG-04",
        )


def _has_content(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _emptied(path: Path, *, overwrite: bool) -> Path:
    if not overwrite:
        require_new_folder(path)
    elif _has_content(path):
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        aside = path.with_name(f"{path.name}.old-{stamp}")
        counter = 1
        while aside.exists():
            counter += 1
            aside = path.with_name(f"{path.name}.old-{stamp}-{counter}")
        path.rename(aside)
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Within the block nobody else is in such a block of the same folder, as far as the system can lock folders.

    For work that is short and merely better done once: after ten seconds of waiting it goes on all the same.
    """
    with contextlib.ExitStack() as stack:
        if _ONE_THREAD.acquire(timeout=_PATIENCE_SECONDS):
            stack.callback(_ONE_THREAD.release)
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not _locked(descriptor) and time.monotonic() < deadline:
                time.sleep(0.01)
        yield


def sync_folder(folder: Path) -> None:
    """Make the names in a folder safe, where the file system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Within the block nothing but writing happens, so whatever the system refuses is said of `path`."""
    try:
        with disk_errors(path):
            yield
    except ScantlingError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        said = f"{path}: cannot be written ({os.strerror(number)}); choose another place, or make this one writable"
        raise ResourceError(said, code="E-RES-05") from error


def _error_number(error: BaseException) -> int | None:
    """The system's number of an error that it caused."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    quoted = None if isinstance(error, OSError) else _RUST_ERROR.search(str(error))
    if quoted is None:
        return None
    number = int(quoted[1])
    return errno.ENOSPC if sys.platform == "win32" and number == _WINDOWS_DISK_FULL else number


if sys.platform == "win32":

    def _locked(descriptor: int) -> bool:
        return True  # a folder cannot be locked there

else:

    def _locked(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()
