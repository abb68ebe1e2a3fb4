"""Two processes: a script whose processes meet in a folder (`script RANK 2 FOLDER`), or the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import scantling


def run_two(script: Path, folder: Path) -> None:
    """Both to their end; the test fails with what they printed if one of them fails, and is skipped without gloo."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(scantling.__file__).parents[1]), str(Path(__file__).parent)]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), "2", str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ends = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), "\n".join(ends)


def scantling_in_two(words: Sequence[str]) -> str:
    """What the command line prints when `torchrun` starts it as two processes; the test fails if one of them fails."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    environment = {
        **os.environ, "PYTHONPATH": str(Path(scantling.__file__).parents[1]), "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }  # fmt: skip
    two = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--local-addr", "127.0.0.1"]
    done = subprocess.run(
        [sys.executable, *two, "-m", "scantling", *words],
        capture_output=True, text=True, env=environment, timeout=480,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
