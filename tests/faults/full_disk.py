"""Finds by itself every place where a program writes below a folder, and makes the disk full from there on.

Python announces each opening of a file and each new or changed name to audit hooks; that is where sites are counted.
Three kinds of fullness, as real disks have them: no room for a name (ENOSPC where a file is opened or renamed), no
room for bytes (a limit on file size set at that moment, so that writers in C and Rust fail for real, with EFBIG), and
a quota that is noticed when the bytes are flushed (EDQUOT from fsync).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Kind = Literal["names", "bytes", "sync"]
KINDS: tuple[Kind, ...] = ("names", "bytes", "sync")
ROOM_FOR_BYTES = 100
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_watched: FullDisk | None = None
_hooked = False


class FullDisk:
    """A disk that is full, in one way, from the site numbered `site` on; never, if that is None."""

    def __init__(self, root: Path, kind: Kind, site: int | None) -> None:
        self.root, self.kind, self.site = str(root) + os.sep, kind, site
        self.sites: dict[Kind, list[str]] = {kind: [] for kind in KINDS}

    @property
    def is_full(self) -> bool:
        """Whether the site was reached."""
        return self.site is not None and len(self.sites[self.kind]) > self.site

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        """What the audit hook passes on."""
        if event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and bool(flags & _WRITING)
        else:
            path, writes = args[1 if event == "os.rename" else 0], not (event == "os.mkdir" and os.path.isdir(args[0]))
        if not writes or not isinstance(path, str | os.PathLike) or not str(path).startswith(self.root):
            return
        site = f"{event} {str(path).removeprefix(self.root)}"
        self.sites["names"].append(site)
        if self.kind == "names" and self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if event == "open":
            self.sites["bytes"].append(site)
            if self.kind == "bytes" and self.is_full:
                limit_file_size(ROOM_FOR_BYTES)

    def fsync(self, descriptor: Any) -> None:
        """In the place of `os.fsync`."""
        _real_fsync(descriptor)
        self.sites["sync"].append("fsync")
        if self.kind == "sync" and self.is_full:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


_real_fsync = os.fsync


def limit_file_size(size: int | None) -> None:
    """Let no file grow beyond `size` bytes; None takes the limit away."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


@contextlib.contextmanager
def full_disk(root: Path, kind: Kind, site: int | None) -> Iterator[FullDisk]:
    """Within the block the disk below `root` is full from a site on; afterwards there is room again."""
    global _watched, _hooked
    if resource is None and kind == "bytes":
        pytest.skip("this system has no limit on file size")
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    _watched = disk = FullDisk(root, kind, site)
    os.fsync = disk.fsync
    try:
        yield disk
    finally:
        _watched, os.fsync = None, _real_fsync
        if kind == "bytes":
            limit_file_size(None)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watched is not None and event in ("open", "os.mkdir", "os.rename"):
        _watched.heard(event, args)
