"""Several processes of one run: the same step as one process, one writer, and an end that all share."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import scantling
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.errors import ConfigError
from scantling.files import read_json
from scantling.processes import launched, sum_over_processes
from scantling.training.distributed import agree
from scantling.training.run_folder import RunFolder
from training.shared_step import gradients

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")

SCRIPT = Path(__file__).with_name("shared_step.py")
OPTIONS = [
    *("--steps", "12", "--seed", "0", "--set", "plan.patch_size=[32, 32]", "--set", "plan.batch_size=3"),
    *("--set", "training.precision=float32", "--set", "training.steps_per_epoch=6", "--quiet"),
    *("--set", "training.checkpoint_seconds=0", "--device", "cpu"),
]


def environment(**more: str) -> dict[str, str]:
    source = Path(scantling.__file__).parents[1]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(source), str(Path(__file__).parents[1])]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        **more,
    }


def together(command: Sequence[str], count: int = 2) -> list[subprocess.Popen[str]]:
    """The command in several processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(count),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ends(running: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    try:
        return [(p.wait(), out, err) for p in running for out, err in [p.communicate(timeout=240)]]
    finally:
        for process in running:
            process.kill()


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together") / "chest"
    return write_chest_phantom(folder, n_labelled=12, n_unlabelled=0, n_test=2, seed=3, size=48)


@pytest.fixture(scope="module")
def alone(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, "-m", "scantling", "train", str(chest), "-o", str(run), *OPTIONS]
    subprocess.run(command, check=True, capture_output=True, env=environment(), timeout=240)
    return run


def test_two_processes_give_the_loss_and_gradient_of_one_with_the_same_batch(tmp_path: Path) -> None:
    found = ends(together([str(SCRIPT), str(tmp_path)]))
    assert [code for code, _, _ in found] == [0, 0], found
    shared = torch.load(tmp_path / "shared.pt")
    whole = gradients(0, 1, 1)
    for name, expected in whole.items():
        torch.testing.assert_close(shared[f"1 {name}"], expected, rtol=1e-5, atol=1e-6)
    largest = max(float(t.abs().max()) for name, t in whole.items() if not name.startswith("term"))
    assert largest > 1e-2
    assert shared["2 term dice"].isfinite()
    assert shared["agreed"].tolist() == [1.0, 11.0]  # one wants to stop, the slower clock counts


def test_a_process_ends_well_right_after_a_collective_of_many_tensors() -> None:
    found = ends(together([str(SCRIPT.with_name("many_tensors.py"))]))
    assert [code for code, _, _ in found] == [0, 0], found


def weights_agree(run: Path, other: Path) -> None:
    ours, theirs = (load_file(path / "model" / "model.safetensors") for path in (run, other))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=2e-3, atol=2e-4, msg=name)


def test_torchrun_trains_what_one_process_trains_and_only_the_first_writes(
    chest: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        "--local-addr", "127.0.0.1", "-m", "scantling", "train", str(chest), "-o", str(run), *OPTIONS, "--workers", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    status = RunFolder.open(run).status()
    assert (status["status"], status["processes"]) == ("finished", 2)
    assert [e["epoch"] for e in RunFolder(run).read_log() if e["event"] == "epoch"] == [0, 1]
    assert done.stdout.count("model:") == 1
    weights_agree(run, alone)
    scores = [read_json(path / "evaluation.json")["summary"] for path in (run, alone)]
    assert len(scores[0]) == len(scores[1])


def test_a_killed_process_ends_the_others_with_exit_code_five_and_another_number_goes_on(
    chest: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    running = together(["-m", "scantling", "train", str(chest), "-o", str(run), *OPTIONS, "--steps", "4000"])
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running[1].send_signal(signal.SIGKILL)
    (first, _, printed), _ = ends(running)
    assert first == 5, printed
    assert "another process of this run ended" in printed
    assert "Traceback" not in printed
    assert RunFolder.open(run).status()["status"] == "interrupted"
    step = int(max((run / "checkpoints").glob("step-*")).name.split("-")[1])
    resume = [sys.executable, "-m", "scantling", "resume", str(run), "--quiet", "--steps", str(step + 2)]
    done = subprocess.run(resume, capture_output=True, text=True, env=environment(), timeout=240)
    assert done.returncode == 0, done.stderr
    assert RunFolder.open(run).status()["processes"] == 1


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert launched() == (0, 1, 0)
    x = torch.ones(3, requires_grad=True)
    assert sum_over_processes(x) is x
    assert agree(True, 2.0) == (True, 2.0)


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("one", "2")])
def test_variables_that_contradict_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, rank: str, world: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="RANK"):
        launched()
