"""What a fresh process took to predict, to train, or to predict again and again; one JSON object on stdout.

python memory_process.py predict FOLDER own|coarse 2x2x2
python memory_process.py train FOLDER RUN [BUDGET_BYTES]
python memory_process.py repeat FOLDER TIMES
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import torch
from torch import Tensor, nn

from scantling.data.case import Case
from scantling.data.catalog.chest_anatomy import CHEST_CLASSES
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.data.image_io import read_geometry
from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan
from scantling.files import write_json
from scantling.inference.memory import prediction_bytes
from scantling.inference.model_folder import LoadedModel
from scantling.inference.predict import predict_cases
from scantling.inference.predictor import Predictor
from scantling.training.config import DataConfig, RunConfig
from scantling.training.loop_state import LoopConfig
from scantling.training.train import start


class Threshold(nn.Module):
    """Nearly free: logits 0 and the value itself."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), x * self.one], dim=1)


def highest() -> int:
    """The most this process ever held, by the kernel's own count (`ru_maxrss` would be that of whoever started it)."""
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) * 1024


def plan_of(grid: str) -> Plan:
    """A plan for CT; a coarse grid of 1.5 mm means resampling."""
    return Plan(
        dataset="ct", modality="CT", image_axes=3, dimensions=3, channels=("ct",), label_kinds=("full",),
        classes=ClassPlan(names=("background", "bright"), stored=((0,), (1,))), axis_order=(0, 1, 2),
        spacing_mm=(None,) * 3 if grid == "own" else (1.5,) * 3, patch_size=(96, 96, 96), batch_size=1,
        intensities=(IntensityPlan(scheme="window", low=-900, high=1000, mean=0.0, std=500.0),),
        network=NetworkPlan(features=(4, 8), strides=((1,) * 3, (2,) * 3), kernels=((3,) * 3,) * 2),
        mirror_axes=(),
    )  # fmt: skip


def write_ct(path: Path, shape: tuple[int, ...]) -> None:
    """Random blocks of 8 x 8 x 8 voxels, 0.8 x 0.8 x 1 mm each."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(-1000, 2000, [-(-n // 8) for n in shape], dtype=np.int16)
    voxels = np.empty(shape, dtype=np.int16, order="F")
    for z in range(shape[2]):
        voxels[:, :, z] = blocks[:, :, z // 8].repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]]
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.8, 0.8, 1.0, 1.0])), path)


def predictor_of(plan: Plan) -> Predictor:
    return Predictor(LoadedModel(network=Threshold(), plan=plan, meta={}), torch.device("cpu"))


def predict(folder: Path, grid: str) -> dict[str, Any]:
    """Growth of the process while it predicts `ct.nii.gz`, after a small image has warmed it up."""
    plan = plan_of(grid)
    predictor = predictor_of(plan)
    predict_cases(predictor, [Case(case_id="small", images=(folder / "small.nii.gz",))], folder / "warm")
    before, began = max(psutil.Process().memory_info().rss, highest()), time.monotonic()
    run = predict_cases(predictor, [Case(case_id="ct", images=(folder / "ct.nii.gz",))], folder / "out")
    return {
        "failures": dict(run.failures),
        "growth": highest() - before,
        "highest": highest(),
        "foretold": prediction_bytes(read_geometry(folder / "ct.nii.gz"), plan),
        "seconds": time.monotonic() - began,
    }


def write_chest(folder: Path) -> None:
    """Radiographs, and beside them a plan that takes memory but little time."""
    write_chest_phantom(folder, n_labelled=4, n_unlabelled=0, n_test=1, seed=3, size=192)
    plan = Plan(
        dataset="chest", modality="CR", image_axes=2, dimensions=2, axis_order=(0, 1), batch_size=16,
        patch_size=(192, 192),
        classes=ClassPlan(names=CHEST_CLASSES.names, stored=CHEST_CLASSES.stored), spacing_mm=(None, None),
        intensities=(IntensityPlan(scheme="zscore"),),
        network=NetworkPlan(features=(12, 8), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3))),
    )  # fmt: skip
    write_json(folder.with_suffix(".plan.json"), plan.model_dump(mode="json"))


def train(folder: Path, run: Path, budget: int | None) -> dict[str, Any]:
    """A short run of a small network on large patches."""
    before = psutil.Process().memory_info().rss
    done = start(
        RunConfig(
            data=DataConfig(path=str(folder)), training=LoopConfig(steps=2, steps_per_epoch=2, precision="float32"),
            budget_ram_gib=budget / 2**30 if budget else None,
        ),
        run,
        plan=folder.with_suffix(".plan.json"),
    )  # fmt: skip
    events = list(done.read_log())
    return {"before": before, "highest": highest(), "status": done.status(), "events": events}


def repeat(folder: Path, times: int) -> dict[str, Any]:
    """Resident bytes and open files after each of many predictions, files and folders included."""
    process, predictor = psutil.Process(), predictor_of(plan_of("coarse"))
    resident, files = [], []
    for _ in range(times):
        predict_cases(predictor, [Case(case_id="ct", images=(folder / "small.nii.gz",))], folder / "out")
        resident.append(process.memory_info().rss)
        files.append(process.num_fds())
    return {"resident": resident, "files": files}


def main(verb: str, folder: str, *rest: str) -> None:
    torch.set_num_threads(1)  # no waiting for cores that are busy
    if verb == "predict":
        answer = predict(Path(folder), rest[0])
    elif verb == "train":
        answer = train(Path(folder), Path(rest[0]), int(rest[1]) if rest[1:] else None)
    else:
        answer = repeat(Path(folder), int(rest[0]))
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
