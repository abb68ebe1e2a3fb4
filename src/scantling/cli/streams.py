"""Standard streams that outlive their reader, and never fail at a letter they cannot show."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, Final, final

from scantling.errors import ResourceError

_GONE: Final = {errno.EPIPE, errno.EIO, errno.ESHUTDOWN, *([errno.EINVAL] if os.name == "nt" else [])}
"""Nobody reads any more: `| head` has seen enough, the terminal was closed."""


@final
class _Patient(io.FileIO):
    """A file descriptor that falls silent where writing fails, so that hours of work do not end with their log.

    Raises:
        ResourceError: what is lost is a result (`keep`), and somebody waits for it: the disk is full.
    """

    def __init__(self, descriptor: int, *, keep: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._keep = keep

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self._keep and error.errno not in _GONE:
                raise ResourceError(
                    f"the output: cannot be written ({error.strerror}); free some space, or send it elsewhere",
                    code="E-RES-06",
                ) from None
            return len(content)


def prepare_streams() -> None:
    """Open closed streams on nothing, let the others outlive their reader, and escape letters they cannot show.

    A closed one would otherwise lend its number to the next file that is opened. Streams that somebody has
    replaced (a notebook, a test) stay as they are.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif mode == "w" and _is_own(stream):
            stream.flush()
            patient = io.TextIOWrapper(
                io.BufferedWriter(_Patient(stream.fileno(), keep=name == "stdout")),
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering or stream.write_through,
            )
            setattr(sys, name, patient)


def _is_own(stream: Any) -> bool:
    """Whether a stream writes straight to the process's standard output or error."""
    raw = getattr(getattr(stream, "buffer", None), "raw", getattr(stream, "buffer", None))  # no layer between with -u
    return type(raw) is io.FileIO and raw.fileno() in (1, 2)
