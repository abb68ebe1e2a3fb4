"""One process at a time may train in a run folder; the operating system forgets the lock when that process dies.

The lock is a record lock on `RUN/.lock` and not the file itself, so a file left over by a killed process means
nothing. What the file says (process and time) is only for the message. A forked child does not hold the lock of
its parent, so workers that outlive a killed run do not block it. The other side of such locks: the process that
trains must not open `RUN/.lock` itself, for closing it again would give up the lock.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from scantling.errors import ConfigError
from scantling.files import disk_errors

LOCK: Final = ".lock"
_LOCKED_BYTE: Final = 2**30
"""Far behind the text: Windows forbids others to read what is locked."""
_HELD_BY_OTHER: Final = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_NOT_WRITABLE: Final = (errno.EROFS, errno.EACCES, errno.EPERM)

_mine: set[tuple[int, str]] = set()
"""Process and folder of the locks held here: the system's locks do not keep a process from its own."""
_mine_guard = threading.Lock()


@contextlib.contextmanager
def run_lock(run: Path) -> Iterator[str]:
    """Within the block no other process may train in the folder `run`, which must exist.

    Yields a sentence where the file system cannot lock or be written: then nothing keeps a second process away,
    and it is the user who must; "" where the lock is held.

    Raises:
        ConfigError: another process, or this one already, trains in the folder.
        ResourceError: the disk is full.
    """
    key = (os.getpid(), str(run.resolve()))
    with _mine_guard:
        if key in _mine:
            raise _refusal(run, "this process itself")
        _mine.add(key)
    try:
        with contextlib.ExitStack() as stack:
            descriptor, sentence = _acquire(run)
            if descriptor is not None:
                stack.callback(os.close, descriptor)  # which also gives up the lock
            yield sentence
    finally:
        with _mine_guard:
            _mine.discard(key)


def refuse_if_training(run: Path) -> None:
    """Nothing, unless a process trains in `run` at this moment.

    Raises:
        ConfigError: one does.
    """
    if (run / LOCK).is_file():
        with run_lock(run):
            pass


def _acquire(run: Path) -> tuple[int | None, str]:
    """The open, locked file; or None, and why there is no lock."""
    path = run / LOCK
    try:
        with disk_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        return None, _unlocked(run, error)
    try:
        _lock(descriptor)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _HELD_BY_OTHER:
            raise _refusal(run, _holder(run / LOCK)) from None
        return None, _unlocked(run, error)
    _introduce(descriptor)
    return descriptor, ""


def _introduce(descriptor: int) -> None:
    """Write down who holds the lock; on a full disk it is held all the same."""
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "since": started}).encode())


def _refusal(run: Path, holder: str) -> ConfigError:
    said = f"{run}: {holder} is training in this folder; wait for it or stop it"
    return ConfigError(said, code="E-RUN-03")


def _holder(path: Path) -> str:
    """The process that says in the file that it holds the lock; not to be asked by that process itself."""
    try:
        facts: Any = json.loads(path.read_bytes())
        since = datetime.fromisoformat(facts["since"]).astimezone()
        today = since.date() == datetime.now().astimezone().date()
        return f"process {int(facts['pid'])} (since {since.strftime('%H:%M' if today else '%Y-%m-%d %H:%M')})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _unlocked(run: Path, error: OSError) -> str:
    reason = os.strerror(error.errno or 0)
    return f"{run}: cannot be locked here ({reason}), so see to it yourself that no second process trains in it."


if sys.platform == "win32":

    def _lock(descriptor: int) -> None:
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)

else:

    def _lock(descriptor: int) -> None:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKED_BYTE)
