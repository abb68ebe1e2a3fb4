"""Worker processes under supervision: no wait without a deadline, no death unnoticed, no sample lost.

A worker that dies, hangs or runs out of memory is named together with its case; what it had to read is given
to the others, and at last read in this process. A step whose reading ended two workers is read here at once.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import pickle
import queue
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Final, Literal, final

from scantling.training.watchdog import NOTICE_AFTER, Watchdog
from scantling.training.worker_process import At, Done, Failed, Message, Ready, Steps, receive, serve

_STRIKES: Final = 2
"""Workers that the reading of one step may cost."""
_PRELOADED: Final = ["scantling.training.batches", "scantling.data.dataset"]
"""Imported once by a fork server, for all its workers."""


@dataclass(frozen=True, kw_only=True)
class WorkerLimits:
    """How long to wait, and how workers are made.

    Attributes:
        notice_after: seconds without a sign of a worker that is waited for until that is said; repeated.
        kill_after: seconds without a sign of it until it is killed and counts as dead.
        ahead: steps each worker reads ahead.
        start_method: "spawn" is the same on every system and safe beside threads; a worker takes seconds (and some
            150 MiB) to import torch, while this process goes on reading. "forkserver" shares the imports, but its
            start is waited for. "fork" is up at once, but copies a process whose other threads (progress bar,
            OpenMP, CUDA) may hold locks that nobody will ever release.
    """

    notice_after: float = NOTICE_AFTER
    kill_after: float = 600.0
    ahead: int = 2
    start_method: Literal["fork", "forkserver", "spawn"] = "spawn"

    def __post_init__(self) -> None:
        if not 0 < self.notice_after <= self.kill_after or self.ahead < 1:
            raise ValueError(f"wanted 0 < notice_after <= kill_after and ahead >= 1, got {self}")

    @property
    def look_every(self) -> float:
        """Seconds between two looks at the processes while waiting."""
        return min(1.0, self.notice_after / 2)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


@dataclass(frozen=True)
class _Gone:
    """The worker's pipe ended."""


@dataclass(eq=False)
class _Worker:
    """What is known of a worker: the steps it has to read, the first of them from the sample `at` on.

    Attributes:
        silent: seconds that were spent waiting since its last sign.
        sign: time of day of its last sign.
    """

    number: int
    process: BaseProcess
    connection: Connection
    thread: threading.Thread | None = None
    ready: bool = False
    steps: list[int] = field(default_factory=list)
    at: At | None = None
    began: float = field(default_factory=time.monotonic)
    silent: float = 0.0
    sign: str = field(default_factory=_clock)
    notices: int = 0
    dead_looks: int = 0


@final
class Reader:
    """Reads steps in rising order, ahead of the caller, by `workers` processes; in this process for 0.

    Until the first worker is up, and once the last is gone, steps are read here.

    Args:
        start: the first step that will be asked for.
        stop: asked while waiting; True ends the wait with nothing.
    """

    def __init__(
        self,
        steps: Steps,
        *,
        start: int,
        workers: int,
        say: Callable[[str], object],
        limits: WorkerLimits,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._steps, self._say, self._limits, self._stop = steps, say, limits, stop
        self._next = start
        self._redo: set[int] = set()
        self._strikes: Counter[int] = Counter()
        self._back: dict[int, Done | Failed] = {}
        self._events: queue.SimpleQueue[tuple[int, Message | _Gone]] = queue.SimpleQueue()
        self._workers: dict[int, _Worker] = {}
        self._looked = time.monotonic()
        self._dog = Watchdog(say, notice_after=limits.notice_after)
        atexit.register(self._end_workers)  # before multiprocessing's own, which would wait for them
        try:
            self._start(workers)
        except BaseException:
            self._end_workers()
            raise
        self._dog.__enter__()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers at once, whatever they are doing."""
        self._dog.__exit__(None, None, None)
        self._end_workers()
        atexit.unregister(self._end_workers)

    def take(self, step: int) -> list[Any] | None:
        """The samples of a step, or None if `stop` said so; raises what reading it raised."""
        self._looked = time.monotonic()
        self._hear_all()
        self._look_at_starts()
        while step not in self._back:
            self._hand_out(step)
            if not any(step in worker.steps for worker in self._workers.values()):
                return self._read_here(step)
            if self._stop():
                return None
            self._hear(timeout=self._limits.look_every)
            self._hear_all()
            self._look()
        answer = self._back.pop(step)
        self._hand_out(step + 1)
        if isinstance(answer, Failed):
            raise answer.error
        return answer.samples

    def _start(self, number: int) -> None:
        method = self._limits.start_method
        load: Steps | bytes = self._steps
        if number and method != "fork":
            try:
                load = pickle.dumps(self._steps)
            except Exception as error:  # noqa: BLE001 - pickling runs foreign code
                self._say(f"The samples cannot be sent to workers ({error}); going on in this process.")
                return
        if number and multiprocessing.current_process().daemon:
            self._say("This is a daemon process, which may have no workers; going on without.")
            return
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(_PRELOADED)
        for one in range(1, number + 1):
            try:
                self._workers[one] = self._started(one, context, load)
            except OSError as error:
                self._say(f"Worker {one} could not be started ({error}); {_going_on(one - 1)}.")
                break
        for worker in self._workers.values():
            worker.thread = threading.Thread(
                target=_listen, args=(worker.number, worker.connection, self._events), daemon=True
            )
            worker.thread.start()

    def _started(self, number: int, context: BaseContext, load: Steps | bytes) -> _Worker:
        ours, theirs = context.Pipe()
        inherited = () if isinstance(load, bytes) else (ours, *(w.connection for w in self._workers.values()))
        process = context.Process(  # type: ignore[attr-defined]
            target=serve, args=(load, theirs, inherited), name=f"scantling worker {number}", daemon=True
        )
        try:
            with _hidden_script() if isinstance(load, bytes) and b"__main__" not in load else contextlib.nullcontext():
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return _Worker(number, process, ours)

    def _hand_out(self, first: int) -> None:
        """Give work to the workers that are up: what must be done again, then the next steps from `first` on."""
        self._next = max(self._next, first)
        up = [worker for worker in self._workers.values() if worker.ready]
        if not up:
            return
        for step in sorted(self._redo):
            if self._strikes[step] < _STRIKES:
                self._redo.discard(step)
                self._give(min(up, key=lambda worker: len(worker.steps)), step)
        while self._next < first + self._limits.ahead * len(up):
            worker = min(up, key=lambda worker: len(worker.steps))
            if len(worker.steps) >= self._limits.ahead:
                break
            self._give(worker, self._next)
            self._next += 1

    def _give(self, worker: _Worker, step: int) -> None:
        if not worker.steps:
            worker.silent, worker.notices, worker.sign = 0.0, 0, _clock()
        worker.steps.append(step)
        with contextlib.suppress(OSError):  # it is dead, which its pipe will say
            worker.connection.send(step)

    def _read_here(self, step: int) -> list[Any]:
        self._redo.discard(step)
        samples = []
        try:
            for index in range(self._steps.size(step)):
                self._dog.at(functools.partial(self._reading, step, index))
                samples.append(self._steps.read(step, index))
        finally:
            self._dog.at(None)
        return samples

    def _hear_all(self) -> None:
        while self._hear(timeout=0.0):
            pass

    def _hear(self, *, timeout: float) -> bool:
        """Take note of the next message; False if none came in time."""
        try:
            number, message = self._events.get(timeout=timeout) if timeout else self._events.get_nowait()
        except queue.Empty:
            return False
        worker = self._workers.get(number)
        if worker is None:
            return True  # of a worker that was given up
        worker.silent, worker.notices, worker.sign = 0.0, 0, _clock()
        match message:
            case Ready():
                worker.ready = True
            case At():
                worker.at = message
            case Failed(None, error):
                self._give_up(worker, f"could not start ({type(error).__name__}: {error})")
            case Failed(_, MemoryError()):
                self._give_up(worker, "ran out of memory")
            case Failed(int(step)) | Done(step):
                worker.steps.remove(step)
                worker.at = None
                self._back[step] = message
            case _Gone():
                self._give_up(worker, None)
        return True

    def _look_at_starts(self) -> None:
        """Workers that are not up yet cost no waiting, but must not stay unnoticed either."""
        for worker in [worker for worker in self._workers.values() if not worker.ready]:
            worker.silent = time.monotonic() - worker.began
            self._complain(worker)

    def _look(self) -> None:
        """Look at every worker, and count the time waited; a pause of this whole process is not the workers'."""
        now = time.monotonic()
        waited, self._looked = min(now - self._looked, 2 * self._limits.look_every), now
        self._look_at_starts()
        for worker in list(self._workers.values()):
            if worker.process.exitcode is not None:
                worker.dead_looks += 1
            if worker.dead_looks > 1:  # its pipe stays open, held by a process of its own
                self._give_up(worker, None)
            elif worker.ready and worker.steps:
                worker.silent += waited
                self._complain(worker)

    def _complain(self, worker: _Worker) -> None:
        limits = self._limits
        if worker.silent >= limits.kill_after:
            self._give_up(worker, f"made no progress for {worker.silent:.0f} s (killed)")
        elif worker.silent >= limits.notice_after * (worker.notices + 1):
            worker.notices += 1
            self._say(f"Still waiting for worker {worker.number}, {self._place(worker)}, since {worker.sign}.")

    def _give_up(self, worker: _Worker, how: str | None) -> None:
        """Do without a worker: say so, and have its steps read by others."""
        place = self._place(worker)
        code = _end(worker, wait=1.0 if how is None else 0.0)
        del self._workers[worker.number]
        self._redo.update(worker.steps)
        if worker.at is not None:
            self._strikes[worker.at.step] += 1
        if how is None:
            how = f"died (signal {-code})" if code is not None and code < 0 else f"ended (exit code {code})"
        self._say(f"Worker {worker.number} {how} while {place}; {_going_on(len(self._workers))}.")

    def _place(self, worker: _Worker) -> str:
        if not worker.ready:
            return "starting"
        return "between two cases" if worker.at is None else self._reading(worker.at.step, worker.at.index)

    def _reading(self, step: int, index: int) -> str:
        return f"reading case {self._steps.case_names(step)[index]}"

    def _end_workers(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            _end(worker, wait=0.0)
        self._workers.clear()


def _listen(number: int, connection: Connection, events: queue.SimpleQueue[tuple[int, Message | _Gone]]) -> None:
    """A thread's life: pass on what a worker sends until its pipe ends. It alone may block on the pipe."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            events.put((number, receive(connection)))
    events.put((number, _Gone()))


def _end(worker: _Worker, *, wait: float) -> int | None:
    """Make sure that a worker is dead; its exit code, negative for a signal."""
    worker.process.join(wait)
    if worker.process.exitcode is None:
        worker.process.kill()
        worker.process.join(5.0)
    if worker.thread is not None:
        worker.thread.join(1.0)
    if worker.thread is None or not worker.thread.is_alive():
        worker.connection.close()
    return worker.process.exitcode


def _going_on(workers: int) -> str:
    if workers == 0:
        return "going on in this process"
    return f"going on with {workers} worker" + ("s" if workers > 1 else "")


@contextlib.contextmanager
def _hidden_script() -> Iterator[None]:
    """Within the block a new process does not import the main script, which without a `__name__` guard would begin
    its own training again; nothing that the worker unpickles comes from there."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
