"""A run of four steps on phantom radiographs, and how it goes on after whatever befell it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from scantling.data.catalog.chest_anatomy import CHEST_CLASSES
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan
from scantling.files import write_json
from scantling.inference.model_folder import load_model
from scantling.training.checkpoint import has_checkpoint, load_checkpoint
from scantling.training.config import DataConfig, RunConfig
from scantling.training.loop_state import LoopConfig
from scantling.training.run_folder import RunFolder
from scantling.training.train import resume, start


def tiny_data(folder: Path) -> Path:
    """Two radiographs to train on and one held out; beside the folder a plan with a small network."""
    plan = Plan(
        dataset="chest", modality="CR", image_axes=2, dimensions=2, axis_order=(0, 1), batch_size=1,
        patch_size=(16, 16),
        classes=ClassPlan(names=CHEST_CLASSES.names, stored=CHEST_CLASSES.stored), spacing_mm=(1.0, 1.0),
        intensities=(IntensityPlan(scheme="zscore"),),
        network=NetworkPlan(features=(2, 4), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3))),
    )  # fmt: skip
    write_json(folder.with_suffix(".plan.json"), plan.model_dump(mode="json"))
    return write_chest_phantom(folder, n_labelled=2, n_unlabelled=0, n_test=1, seed=3, size=48)


def begin(run: Path, data: Path, *, overwrite: bool = False) -> RunFolder:
    """Four steps, a checkpoint after each."""
    loop = LoopConfig(steps=4, steps_per_epoch=2, precision="float32", checkpoint_seconds=0)
    config = RunConfig(training=loop, data=DataConfig(path=str(data)))
    with one_thread():
        return start(config, run, plan=data.with_suffix(".plan.json"), overwrite=overwrite)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread, above all where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def results(run: Path) -> dict[str, bytes]:
    """What must be the same bytes, whatever happened on the way."""
    files = [run / "model" / "model.safetensors", *sorted((run / "predictions").glob("*.png"))]
    return {path.name: path.read_bytes() for path in [*files, run / "metrics.csv", run / "splits.json"]}


def go_on(run: Path, data: Path) -> RunFolder:
    """What a user does once the trouble is over: resume, or start again where the run never got to its status file."""
    if not (run / "run.json").is_file():
        return begin(run, data, overwrite=True)
    RunFolder.open(run).verify()
    with one_thread():
        return resume(run)


def require_whole(run: Path) -> None:
    """Every file with a final name is what its writer meant, and no temporary one is left behind."""
    files = [path for path in run.rglob("*") if path.is_file()]
    assert not [path for path in files if ".partial" in str(path)]
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as stream:
                assert list(stream.keys())
        elif path.suffix == ".jsonl":
            assert all(json.loads(line)["event"] for line in path.read_text().splitlines())
    if (run / "model").is_dir():
        load_model(run / "model", torch.device("cpu"))
    if has_checkpoint(run / "checkpoints"):
        checkpoint, complaints = load_checkpoint(run / "checkpoints")
        assert (checkpoint.step >= 1, complaints) == (True, [])
