"""Sends signals to runs of the command line: `signalled_runs.py DATA FOLDER`.

One process loads the package and forks a child for every run. Prints one JSON object: for each situation the
exit code, the seconds from signal to end, what the child printed, and whether the resumed weights are those of
a run that was left alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scantling.cli.main import main as command_line
from scantling.files import read_json
from scantling.training.step import Stepper

OPTIONS = [
    *("--steps", "40", "--seed", "0", "--set", "plan.patch_size=[32, 32]", "--set", "plan.batch_size=2"),
    *("--set", "training.precision=float32", "--set", "training.steps_per_epoch=10", "--quiet"),
]


def fork(arguments: list[str], printed: Path, prepare: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            handle = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.argv = ["scantling", *arguments]
            prepare()
            command_line()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child


def wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def take_slowly(after: int, seconds: float) -> Callable[[], None]:
    """From this step on a step takes so many seconds."""

    def prepare() -> None:
        original = Stepper._accumulate

        def slow(self: Stepper, terms: Any, samples: Any, step: int, *rest: Any) -> Any:
            if step >= after:
                (Path(os.environ["MARK"])).touch()
                time.sleep(seconds)
            return original(self, terms, samples, step, *rest)

        Stepper._accumulate = slow  # type: ignore[method-assign]

    return prepare


def run_and_signal(data: Path, run: Path, signals: list[int], *, step_seconds: float) -> dict[str, Any]:
    """Train, send the signals once step 12 has begun, then resume."""
    mark, printed = run.with_suffix(".mark"), run.with_suffix(".txt")
    os.environ["MARK"] = str(mark)
    child = fork(["train", str(data), "-o", str(run), *OPTIONS], printed, take_slowly(12, step_seconds))
    while not mark.exists():
        time.sleep(0.005)
    sent = time.monotonic()
    for number in signals:
        os.kill(child, number)
        time.sleep(0.01)
    code = wait(child)
    seconds = time.monotonic() - sent
    status = read_json(run / "run.json")["status"]
    saved = sorted(path.name for path in (run / "checkpoints").glob("*.safetensors"))
    resumed = wait(fork(["resume", str(run), "--quiet"], printed, lambda: None))
    return {
        "code": code,
        "seconds": seconds,
        "status": status,
        "saved": saved,
        "printed": printed.read_text(),
        "resumed": resumed,
    }


def main(data: Path, folder: Path) -> dict[str, Any]:
    whole = folder / "whole"
    code = wait(fork(["train", str(data), "-o", str(whole), *OPTIONS], folder / "whole.txt", lambda: None))
    assert code == 0, (folder / "whole.txt").read_text()
    expected = (whole / "model" / "model.safetensors").read_bytes()
    situations: dict[str, tuple[list[int], float]] = {
        "SIGINT": ([signal.SIGINT], 0.05),
        "SIGTERM": ([signal.SIGTERM], 0.05),
        "SIGUSR1": ([signal.SIGUSR1], 0.05),
        "in a long step": ([signal.SIGTERM], 120.0),
        "twice": ([signal.SIGINT, signal.SIGINT], 120.0),
    }
    found = {}
    for name, (signals, step_seconds) in situations.items():
        run = folder / name.replace(" ", "-")
        found[name] = run_and_signal(data, run, signals, step_seconds=step_seconds)
        found[name]["same"] = (run / "model" / "model.safetensors").read_bytes() == expected
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))  # noqa: T201
