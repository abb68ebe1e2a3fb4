from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from data.prepared_cases import plan_of, volume_set
from scantling.data.dataset import PatchDataset
from scantling.data.sample import Sample
from scantling.data.store import Store
from scantling.errors import DataError, GeometryError, ScantlingError
from scantling.training.batches import StepSamples, batches
from scantling.training.worker_process import Done, receive, send
from scantling.training.workers import WorkerLimits
from training.worker_sources import Source, Threads, Unnamed, Unwelcome, equal

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")

FORK = WorkerLimits(start_method="fork", notice_after=30.0, kill_after=30.0)
QUICK = WorkerLimits(start_method="fork", notice_after=0.5, kill_after=1.6)


class Run:
    """A stream over a folder's source, each of its lists compared with the one read here."""

    def __init__(
        self, folder: Path, workers: int, *, start: int = 0, limits: WorkerLimits = FORK, source: Any = None
    ) -> None:
        self.folder, self.said, self.step = folder, [], start
        self.samples = StepSamples(source or Source(folder), 3, steps_per_epoch=4)
        deadline = time.monotonic() + 90  # a wait that should have ended fails a test instead of blocking it
        self.stream = batches(
            self.samples, start=start, workers=workers, say=self._say, limits=limits,
            stop=lambda: time.monotonic() > deadline,
        )  # fmt: skip
        self.said_at: list[float] = []

    def _say(self, sentence: str) -> None:
        self.said.append(sentence)
        self.said_at.append(time.monotonic())

    def next(self) -> list[Sample]:
        got = next(self.stream)
        assert equal(got, self.samples[self.step]), self.step
        self.step += 1
        return got

    def until(self, condition: Callable[[], object], *, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.step, self.said, os.listdir(self.folder))
            self.next()
            time.sleep(0.002)

    def pids(self) -> list[int]:
        return [int(path.name.split("-")[1]) for path in self.folder.glob("up-*")]

    def until_up(self, workers: int) -> None:
        self.until(lambda: len(self.pids()) == workers)

    def meet(self, kind: str, *, workers: int) -> int:
        """Let one worker meet a trouble in the next step that will be handed out; its process."""
        epoch, within = divmod(self.step + FORK.ahead * workers, 4)
        (self.folder / f"once-{epoch}-{3 * within + 1}-{kind}").touch()
        self.next()
        end = time.monotonic() + 20
        while (victim := self.victim()) is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        return victim

    def victim(self) -> int | None:
        """The process that met a trouble, once it is known which case it was on."""
        return next((int(path.name.split("-")[1]) for path in self.folder.glob("case-*") if path.read_text()), None)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    streams: list[Generator[list[Sample], None, None]] = []

    def begin(workers: int, **options: Any) -> Run:
        made = Run(tmp_path, workers, **options)
        streams.append(made.stream)
        return made

    yield begin
    for stream in streams:
        stream.close()


def patches(folder: Path) -> PatchDataset:
    manifest = volume_set(folder / "raw", 3)
    plan = plan_of(manifest)
    return PatchDataset(Store(folder / "cache").prepare(manifest.cases, manifest, plan), plan, seed=0)


def alive(pids: list[int]) -> list[int]:
    def lives(pid: int) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return False

    return [pid for pid in pids if lives(pid)]


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_samples_are_the_same_for_any_number_of_workers_and_from_any_step(
    run: Any, workers: int, start: int
) -> None:
    begun = run(workers, start=start)
    begun.until_up(workers)
    for _ in range(9):
        begun.next()
    assert begun.said == []
    assert len(begun.pids()) == workers


def test_samples_come_without_shared_memory_and_can_be_written_to(run: Any) -> None:
    begun = run(1)
    begun.until_up(1)
    for _ in range(4):
        [first, *_] = begun.next()
        assert not first.image.is_shared()
        first.image.add_(1.0)
        first.annotated[:] = True


def test_what_is_larger_than_one_piece_of_a_message_arrives_whole() -> None:
    ours, theirs = multiprocessing.Pipe()
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, size, dtype=np.uint8) for size in (0, 1, 4096, 1 << 18, (1 << 18) + 1, 10**6)]
    things = [*arrays, *map(torch.from_numpy, arrays), torch.ones(9999, dtype=torch.bfloat16), np.ones((99, 99))[::2]]
    thread = threading.Thread(target=send, args=(theirs, Done(3, things)), daemon=True)
    thread.start()
    assert ours.poll(30)
    got = receive(ours)
    thread.join()
    assert isinstance(got, Done)
    assert len(got.samples) == len(things)
    for one, other in zip(got.samples, things, strict=True):
        assert type(one) is type(other)
        assert one.dtype == other.dtype
        assert bool((one == other).all())


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_share_nothing_with_their_parent_read_the_same_patches(
    run: Any, tmp_path: Path, method: Any
) -> None:
    source = Source(tmp_path, inner=patches(tmp_path))
    begun = run(1, limits=WorkerLimits(start_method=method), source=source)
    begun.until_up(1)
    for _ in range(5):
        begun.next()
    assert begun.said == []


def test_a_killed_worker_is_noticed_in_time_its_case_named_and_its_steps_read_by_the_other(
    run: Any, tmp_path: Path
) -> None:
    begun = run(2)
    begun.until_up(2)
    victim = begun.meet("hang", workers=2)
    case = (tmp_path / f"case-{victim}").read_text()
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    begun.until(lambda: begun.said)
    assert begun.said_at[0] - killed < 5
    number = begun.said[0].split()[1]
    assert number in "12"
    assert begun.said == [f"Worker {number} died (signal 9) while reading case {case}; going on with 1 worker."]
    for _ in range(9):
        begun.next()
    assert len(begun.said) == 1


@pytest.mark.parametrize(
    ("kind", "how"), [("kill", "died (signal 9)"), ("exit", "ended (exit code 3)"), ("memory", "ran out of memory")]
)
def test_where_every_worker_dies_the_reading_goes_on_in_this_process(
    run: Any, tmp_path: Path, kind: str, how: str
) -> None:
    begun = run(2)
    begun.until_up(2)
    (tmp_path / f"always-{kind}").touch()
    begun.until(lambda: len(begun.said) == 2)
    assert all(f" {how} while reading case E" in sentence for sentence in begun.said)
    assert begun.said[0].endswith("; going on with 1 worker.")
    assert begun.said[1].endswith("; going on in this process.")
    for _ in range(9):
        begun.next()
    assert len(begun.said) == 2


def test_a_step_that_ended_two_workers_is_read_here_and_the_third_lives_on(run: Any, tmp_path: Path) -> None:
    begun = run(3)
    begun.until_up(3)
    epoch = begun.step // 4 + 3
    (tmp_path / f"at-{epoch}-4-kill").touch()
    begun.until(lambda: begun.step == 4 * (epoch + 3))
    assert len(begun.said) == 2
    assert all(f"reading case E{epoch}P4; going on with" in sentence for sentence in begun.said)
    assert len(alive(begun.pids())) == 1


@pytest.mark.parametrize("stopped", [False, True])
def test_a_hanging_worker_is_named_then_killed_and_its_step_read_by_another(
    run: Any, tmp_path: Path, stopped: bool
) -> None:
    begun = run(2, limits=QUICK)
    begun.until_up(2)
    if stopped:  # at any moment, perhaps in the middle of a message
        victim = begun.pids()[0]
        os.kill(victim, signal.SIGSTOP)
    else:
        victim = begun.meet("hang", workers=2)
    began = time.monotonic()
    begun.until(lambda: any("killed" in sentence for sentence in begun.said))
    assert time.monotonic() - began > 1.5
    notices = [sentence for sentence in begun.said if sentence.startswith("Still waiting for worker ")]
    assert begun.said[: len(notices)] == notices
    assert len(notices) in (2, 3)
    if not stopped:
        case = (tmp_path / f"case-{victim}").read_text()
        assert f", reading case {case}, since " in notices[0]
        assert f"s (killed) while reading case {case}; going on with 1 worker." in begun.said[-1]
    assert victim not in alive([victim])
    for _ in range(5):
        begun.next()


def test_reading_in_this_process_is_watched_too(run: Any, tmp_path: Path) -> None:
    begun = run(0, limits=WorkerLimits(notice_after=0.1), source=Source(tmp_path, delay=0.15))
    next(begun.stream)
    assert begun.said[0].startswith("Still reading case E0P0, since ")


@pytest.mark.parametrize("kind", ["data", "value", "odd", "loud"])
def test_an_error_in_a_worker_reaches_the_caller_as_it_was_at_its_own_step(run: Any, tmp_path: Path, kind: str) -> None:
    begun = run(2)
    begun.until_up(2)
    epoch = begun.step // 4 + 2
    (tmp_path / f"at-{epoch}-4-{kind}").touch()
    while begun.step < 4 * epoch + 1:
        begun.next()
    with pytest.raises((DataError, ValueError, RuntimeError)) as caught:
        next(begun.stream)
    error: Any = caught.value
    if kind == "data":
        assert (type(error), error.code) == (DataError, "E-DAT-07")
        assert str(error) == "case P017: the file ends early; copy it again [E-DAT-07]"
    elif kind == "value":
        assert (type(error), error.args) == (ValueError, ("no such axis", 3))
        assert "worker_sources.py" in error.__notes__[0]
    else:
        assert type(error) is RuntimeError
        assert str(error).rstrip().endswith("Odd: one and other" if kind == "odd" else "Loud: what!")
    assert alive(begun.pids()) == []


def test_every_error_of_ours_comes_through_a_pickle_with_its_code() -> None:
    for kind in (ScantlingError, DataError, GeometryError):
        for code in ("E-DAT-07", None):
            error = kind("case P017: no", code=code)
            copy = pickle.loads(pickle.dumps(error))
            assert (type(copy), str(copy), copy.code, copy.message) == (kind, str(error), error.code, error.message)


@pytest.mark.parametrize("hung", [False, True])
def test_closing_ends_every_worker_at_once_whatever_it_does(run: Any, tmp_path: Path, hung: bool) -> None:
    begun = run(2)
    begun.until_up(2)
    if hung:
        begun.meet("hang", workers=2)
    pids = begun.pids()
    assert len(alive(pids)) == 2
    began = time.monotonic()
    begun.stream.close()
    assert time.monotonic() - began < 5
    assert alive(pids) == []
    assert multiprocessing.active_children() == []


def test_signals_for_the_whole_group_are_left_to_the_parent_and_torch_uses_one_thread(run: Any, tmp_path: Path) -> None:
    threads_here = torch.get_num_threads()
    begun = run(1, source=Threads(tmp_path))
    step = 0
    while not begun.pids():
        next(begun.stream)
        step += 1
        time.sleep(0.01)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(begun.pids()[0], number)
    time.sleep(0.1)
    for _ in range(5):
        last = next(begun.stream)
    assert begun.said == []
    assert len(alive(begun.pids())) == 1
    assert {sample.patient_index for sample in last} == {1}
    assert torch.get_num_threads() == threads_here


def test_asked_to_stop_the_stream_ends_instead_of_waiting_for_a_hung_worker(tmp_path: Path) -> None:
    stop: list[bool] = []
    samples = StepSamples(Source(tmp_path), 3, steps_per_epoch=4)
    stream = batches(samples, start=0, workers=1, limits=FORK, stop=lambda: bool(stop))
    with contextlib.closing(stream):
        while not list(tmp_path.glob("up-*")):
            next(stream)
            time.sleep(0.01)
        (tmp_path / "always-hang").touch()
        stop.append(True)
        began = time.monotonic()
        assert len(list(stream)) <= 3  # what was already read
        assert time.monotonic() - began < 5


ORPHAN = """
import sys, time
from pathlib import Path
from training.worker_sources import Source
from scantling.training.batches import StepSamples, batches
from scantling.training.worker_process import Done, receive, send
from scantling.training.workers import WorkerLimits

folder = Path(sys.argv[1])
(folder / f"script-{time.monotonic_ns()}").touch()
limits = WorkerLimits(start_method=sys.argv[2])
stream = batches(StepSamples(Source(folder, delay=0.01), 3, 4), start=0, workers=2, limits=limits, say=print)
while True:
    next(stream)
    time.sleep(0.01)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_no_worker_survives_a_killed_parent_and_a_script_without_guard_runs_once(tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(ORPHAN)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), method], env=os.environ | {"PYTHONPATH": paths}
    )
    try:
        end = time.monotonic() + 60
        while len(list(tmp_path.glob("up-*"))) < 2:
            assert time.monotonic() < end
            assert parent.poll() is None
            time.sleep(0.05)
        (tmp_path / "always-hang").touch()
        while not list(tmp_path.glob("case-*")):
            assert time.monotonic() < end
            time.sleep(0.05)
        family = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    finally:
        parent.kill()
        parent.wait()
    assert len(family) >= 2
    end = time.monotonic() + 10
    while left := alive(family):
        assert time.monotonic() < end, left
        time.sleep(0.05)
    assert len(list(tmp_path.glob("script-*"))) == 1


def test_what_cannot_be_sent_to_workers_or_does_not_arrive_is_read_here(tmp_path: Path) -> None:
    said: list[str] = []
    local = type("Local", (Unnamed,), {})
    samples = StepSamples(local(), 2, steps_per_epoch=3)
    with contextlib.closing(batches(samples, start=0, workers=2, say=said.append)) as stream:
        assert equal(next(stream), samples[0])
    assert len(said) == 1
    assert said[0].startswith("The samples cannot be sent to workers (")
    said.clear()
    samples = StepSamples(Unwelcome(), 2, steps_per_epoch=3)
    with contextlib.closing(batches(samples, start=0, workers=1, say=said.append)) as stream:
        end = time.monotonic() + 30
        for step in range(10**6):
            assert equal(next(stream), samples[step])
            if said or time.monotonic() > end:
                break
            time.sleep(0.01)
    reason = "could not start (ImportError: no module of that name here)"
    assert said == [f"Worker 1 {reason} while starting; going on in this process."]


def test_a_step_names_the_cases_it_reads_and_numbers_those_without_name(tmp_path: Path) -> None:
    dataset = patches(tmp_path)
    samples = StepSamples(dataset, 2, steps_per_epoch=2)
    for step in range(4):
        assert samples.case_names(step) == [dataset.cases[sample.case_index].case_id for sample in samples[step]]
    assert StepSamples(Unnamed(), 2, steps_per_epoch=2).case_names(3) == ["#2 of epoch 1", "#3 of epoch 1"]


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_the_shares_of_all_processes_are_together_the_batch(processes: int) -> None:
    shares = [StepSamples(Unnamed(), 5, 2, rank=rank, processes=processes) for rank in range(processes)]
    for step in range(3):
        whole = StepSamples(Unnamed(), 5, 2)[step]
        for rank, share in enumerate(shares):
            assert equal(share[step], whole[rank::processes])
            assert share.size(step) == len(share[step]) == len(share.case_names(step))
    with pytest.raises(ValueError, match="0 <= rank < processes"):
        StepSamples(Unnamed(), 5, 2, rank=processes, processes=processes)


@pytest.mark.parametrize("wrong", [{"notice_after": 0.0}, {"kill_after": 1.0}, {"ahead": 0}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted 0 < notice_after <= kill_after and ahead >= 1"):
        WorkerLimits(**wrong)
