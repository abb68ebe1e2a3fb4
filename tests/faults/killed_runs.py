"""Kills runs at random moments and carries them on: `killed_runs.py DATA FOLDER KILLS SEED`.

One process loads the package and forks a child for every attempt, so that an attempt costs a second. A run is
killed (SIGKILL) again and again until it ends by itself; then the next begins, until enough kills have met a
living child. Prints one JSON object: the kills by stage, the longest work lost in seconds, and what was wrong.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import safe_open

from scantling.errors import ScantlingError
from scantling.files import read_json
from scantling.training.checkpoint import load_checkpoint
from scantling.training.config import DataConfig, PlanConfig, RunConfig
from scantling.training.loop_state import LoopConfig
from scantling.training.progress import Moment, Silent
from scantling.training.run_folder import RunFolder
from scantling.training.train import resume, start

STEPS = 30


class Steps(Silent):
    """Notes in a file when each step was done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def show(self, moment: Moment) -> None:
        with self.path.open("a") as stream:
            stream.write(f"{moment.step} {time.monotonic()}\n")


def settings(data: Path, workers: int) -> RunConfig:
    loop = LoopConfig(steps=STEPS, steps_per_epoch=7, precision="float32", checkpoint_seconds=0.1)
    plan = PlanConfig(patch_size=(32, 32), batch_size=2)
    return RunConfig(data=DataConfig(path=str(data)), plan=plan, training=loop, workers=workers)


def attempt(data: Path, run: Path, workers: int) -> None:
    """What the child does: go on with the run if there is one, else begin it."""
    display = Steps(run.parent / f"{run.name}.steps")
    if (run / "run.json").is_file():
        resume(run, display=display)
    else:
        start(settings(data, workers), run, overwrite=True, display=display)


def fork(data: Path, run: Path, workers: int) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            attempt(data, run, workers)
            code = 0
        except BaseException:  # noqa: BLE001 - the parent must see whatever it was
            (run.parent / f"{run.name}.error").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return child


def ended(child: int, seconds: float) -> bool | None:
    """Whether the child ended well (True) or badly (False) within the time; None if it was killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else status == 0


def unreadable(run: Path) -> list[str]:
    """Files that carry a final name and cannot be read, or are not what was written."""
    wrong = []
    for path in sorted(run.rglob("*")):
        if not path.is_file() or any(part.startswith(".partial-") for part in path.relative_to(run).parts):
            continue
        try:
            if path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="np") as stream:
                    stream.keys()
            elif path.stat().st_size == 0 and path.name not in (".lock", "log.jsonl"):
                wrong.append(f"{path.name}: empty")
        except Exception as error:  # noqa: BLE001
            wrong.append(f"{path.relative_to(run)}: {error}")
    if (run / "checkpoints" / "index.json").is_file():
        try:
            _, complaints = load_checkpoint(run / "checkpoints")
            wrong += complaints
        except ScantlingError as error:
            wrong.append(str(error))
    return wrong


def lost_seconds(steps: Path, killed: float, resumed_step: int) -> float:
    """Time between the last step that survived and the kill."""
    reached = [line.split() for line in steps.read_text().splitlines()] if steps.is_file() else []
    times = [float(when) for step, when in reached if int(step) == resumed_step and float(when) <= killed]
    return killed - times[-1] if times else 0.0


def main(data: Path, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    began = time.monotonic()
    whole = folder / "whole"
    assert ended(fork(data, whole, 0), 300), (folder / "whole.error").read_text()
    length = time.monotonic() - began
    expected = (whole / "model" / "model.safetensors").read_bytes()
    stages: Counter[str] = Counter()
    wrong: list[str] = []
    lost = 0.0
    number = 0
    while sum(stages.values()) < kills:
        number += 1
        run = folder / f"run{number}"
        while (end := ended(fork(data, run, 2 * (number % 2)), draw.uniform(0.0, length))) is None:
            killed = time.monotonic()
            stages[str(RunFolder.open(run).status()["status"]) if (run / "run.json").is_file() else "starting"] += 1
            wrong += [f"{run.name}: {sentence}" for sentence in unreadable(run)]
            if (run / "checkpoints" / "index.json").is_file():
                checkpoint, _ = load_checkpoint(run / "checkpoints")
                lost = max(lost, lost_seconds(folder / f"{run.name}.steps", killed, checkpoint.step))
            if sum(stages.values()) >= kills:
                end = ended(fork(data, run, 0), 300)
                break
        if not end:
            wrong.append((folder / f"{run.name}.error").read_text()[-2000:])
        elif (run / "model" / "model.safetensors").read_bytes() != expected:
            wrong.append(f"{run.name}: other weights than the run that was left alone")
    return {"kills": dict(stages), "runs": number, "lost_seconds": lost, "wrong": wrong, "run_seconds": length}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))  # noqa: T201
