"""One worker process: it reads the steps it is told, and says before each sample which one it is on.

Arrays travel through the worker's pipe, not through shared memory: a full, tiny or read-only /dev/shm does not
matter, and a worker that is killed leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch

from scantling.errors import ScantlingError

_CHUNK: Final = 1 << 18
"""Bytes sent at a time: `Connection` copies a message twice, which is cheap while it stays in the cache."""
_SMALL: Final = 1 << 12
"""Arrays below this many bytes travel inside the pickle; each of the others is a message of its own."""
_FOR_THE_PARENT: Final = ("SIGINT", "SIGTERM", "SIGUSR1")


@runtime_checkable
class Steps(Protocol):
    """Numbered lists of samples."""

    def size(self, step: int) -> int: ...

    def read(self, step: int, index: int) -> Any: ...

    def case_names(self, step: int) -> list[str]: ...


@dataclass(frozen=True)
class Ready:
    """The worker is up and waits for its first step."""


@dataclass(frozen=True)
class At:
    """The worker begins to read a sample of a step."""

    step: int
    index: int


@dataclass(frozen=True)
class Done:
    """A step's samples."""

    step: int
    samples: list[Any]


@dataclass(frozen=True)
class Failed:
    """Reading a step raised an error; without a step, it was the start that failed."""

    step: int | None
    error: Exception


Message = Ready | At | Done | Failed


def serve(steps: Steps | bytes, connection: Connection, inherited: Sequence[Connection]) -> None:
    """The worker's life: ends when the pipe is closed or the parent is dead, whatever it is doing then.

    Args:
        steps: to be read; pickled, or as it is in a forked process.
        inherited: ends of pipes that a forked process must let go of, so that their other ends notice a death.
    """
    for other in inherited:
        other.close()
    for name in _FOR_THE_PARENT:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        _answer(steps, connection)
    os._exit(0)  # nothing of the parent's that a forked process holds may be torn down here


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _answer(steps: Steps | bytes, connection: Connection) -> None:
    try:
        source: Steps = pickle.loads(steps) if isinstance(steps, bytes) else steps
    except Exception as error:  # noqa: BLE001 - unpickling runs foreign code
        return send(connection, Failed(None, _portable(error)))
    send(connection, Ready())
    while True:
        step = connection.recv()
        try:
            samples = []
            for index in range(source.size(step)):
                send(connection, At(step, index))
                samples.append(source.read(step, index))
            frames = _encoded(Done(step, samples))
        except Exception as error:  # noqa: BLE001 - whatever reading raised is the caller's to see
            frames = _encoded(Failed(step, _portable(error)))
        _send_frames(connection, *frames)


def _portable(error: Exception) -> Exception:
    """The error if it survives pickling, else a RuntimeError with the text of its traceback."""
    text = "".join(traceback.format_exception(error))
    try:
        if not isinstance(error, ScantlingError):
            error.add_note(f"raised in a worker process:\n{text}")
        copy = pickle.loads(pickle.dumps(error))
        return error if type(copy) is type(error) and str(copy) == str(error) else RuntimeError(text)
    except Exception:  # noqa: BLE001 - an exception class may do anything in its constructor
        return RuntimeError(text)


class _Pickler(pickle.Pickler):
    """Pickles tensors as NumPy arrays: torch's own ways go through shared memory or copy the bytes twice."""

    def reducer_override(self, thing: Any) -> Any:
        plain = type(thing) is torch.Tensor and thing.device.type == "cpu" and thing.layout == torch.strided
        if not plain or thing.requires_grad or thing.dtype == torch.bfloat16:
            return NotImplemented
        return torch.from_numpy, (thing.numpy(),)


def send(connection: Connection, message: Message) -> None:
    """Send a message; what is large in it is not copied on the way to the pipe."""
    _send_frames(connection, *_encoded(message))


def receive(connection: Connection) -> Message:
    """The next message, its arrays writable and in memory of their own.

    Raises:
        EOFError, OSError: the other end is gone.
    """
    body, sizes = pickle.loads(connection.recv_bytes())
    buffers = []
    for size in sizes:
        buffer = np.empty(size, dtype=np.uint8)
        for first in range(0, size, _CHUNK):
            connection.recv_bytes_into(buffer[first : first + _CHUNK])
        buffers.append(buffer)
    message: Message = pickle.loads(body, buffers=buffers)
    return message


def _encoded(message: Message) -> tuple[bytes, list[memoryview]]:
    large: list[memoryview] = []

    def stays_inside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= _SMALL:
            large.append(raw)
        return raw.nbytes < _SMALL

    callback: Callable[[pickle.PickleBuffer], Any] = stays_inside
    body = io.BytesIO()
    _Pickler(body, protocol=5, buffer_callback=callback).dump(message)
    return pickle.dumps((body.getvalue(), [raw.nbytes for raw in large])), large


def _send_frames(connection: Connection, head: bytes, large: list[memoryview]) -> None:
    connection.send_bytes(head)
    for raw in large:
        for first in range(0, raw.nbytes, _CHUNK):
            connection.send_bytes(raw[first : first + _CHUNK])
