"""P19 and P20: how long the command line takes to answer `--help`, and what importing costs.

Processes are started in turn, the files are in the page cache. P19 is wall time (CPU time beside it, because a busy
machine only shows there); imports are CPU time: that of a process that imports, less that of one that does not.
The training part is the loop with what it trains (recipes, networks, losses, views); the whole road (`train`, with
readers, planning and evaluation) is told beside it, and so is `import monai`.
"""

from measuring import Row, peer, record  # isort: skip  (sets the number of threads first)

import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

ROUNDS = 7


def wall_and_cpu(command: list[str]) -> tuple[float, float]:
    """Seconds a command takes; its output goes nowhere."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return wall, used.ru_utime + used.ru_stime


def starts(commands: dict[str, list[str]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of commands that take turns, after one start of each."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            seconds = wall_and_cpu(command)
            if turn:
                found[name].append(seconds)
    return {name: tuple(map(statistics.median, zip(*each, strict=True))) for name, each in found.items()}


def help_rows() -> list[Row]:
    ours, theirs = Path(sys.executable).with_name("scantling"), Path(sys.executable).with_name("nnUNetv2_train")
    commands = {"ours": [str(ours), "--help"] if ours.is_file() else [sys.executable, "-m", "scantling", "--help"]}
    if theirs.is_file() and peer("nnunetv2.run.run_training") is not None:
        commands["nnUNetv2_train -h"] = [str(theirs), "-h"]
    else:
        print("nnUNetv2_train: left out (not installed beside this Python)")
    found = starts(commands, ROUNDS)
    wall, cpu = found.pop("ours")
    rows = [
        Row(
            bar="P19",
            what="scantling --help, wall",
            peer="(absolute)",
            ours=wall,
            theirs=wall,
            unit="s",
            ratio=wall,
            floor="<= 0.3",
            target="<= 0.1",
            check=f"exit code 0; {cpu:.3f} s of CPU time",
            equal=True,
        )
    ]
    for name, (their_wall, their_cpu) in found.items():
        rows.append(
            Row(
                bar="P19",
                what="help of the command line, wall",
                peer=name,
                ours=wall,
                theirs=their_wall,
                unit="s",
                ratio=their_wall / wall,
                floor="15",
                target="50",
                equal=True,
                check=f"exit code 0 of both; by CPU time {their_cpu / cpu:.0f} ({their_cpu:.2f} s)",
            )
        )
    return rows


def import_rows() -> list[Row]:
    modules = ["", "scantling", "torch", "scantling.training.loop", "scantling.training.train"]
    modules += [name for name in ("monai",) if find_spec(name) is not None]
    found = starts({name: [sys.executable, "-c", f"import {name}" if name else ""] for name in modules}, ROUNDS)
    bare = found[""][1]
    cpu = {name: seconds - bare for name, (_, seconds) in found.items()}
    package, torch = cpu["scantling"], cpu["torch"]
    light = "neither torch nor NumPy"
    loaded = subprocess.run(
        [sys.executable, "-c", "import scantling, sys; print('torch' in sys.modules or 'numpy' in sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    rows = [
        Row(
            bar="P20",
            what="import scantling",
            peer="(absolute)",
            ours=package,
            theirs=package,
            unit="s",
            ratio=package,
            floor="<= 0.1",
            target="<= 0.05",
            equal=loaded == "False",
            check=f"loads {light}" if loaded == "False" else f"does not leave out {light}",
        )
    ]
    for name, what, floor, target in (
        ("scantling.training.loop", "import of the training loop", "<= 1.15", "<= 1.05"),
        ("scantling.training.train", "import of the whole road of `train`", "", ""),
    ):
        rows.append(
            Row(
                bar="P20",
                what=what,
                peer="import torch",
                ours=cpu[name],
                theirs=torch,
                unit="s",
                ratio=cpu[name] / torch,
                floor=floor,
                target=target,
                check="imports torch itself",
                equal=True,
            )
        )
    if "monai" in cpu:
        rows.append(
            Row(
                bar="P20",
                what="import of the training loop",
                peer="import monai",
                ours=cpu["scantling.training.loop"],
                theirs=cpu["monai"],
                unit="s",
                ratio=cpu["monai"] / cpu["scantling.training.loop"],
                floor="",
                target="",
                check="both import torch",
                equal=True,
            )
        )
    return rows


if __name__ == "__main__":
    sys.exit(record([*help_rows(), *import_rows()]))
