"""A run folder as training leaves it: phantom radiographs, with spoilt silver masks as predictions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from scantling.data.catalog.chest_anatomy import CHEST_CLASSES, chest_label_map, draw_chest_anatomy
from scantling.data.catalog.chest_silver import silver_chest_label_map
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.data.image_io import read_geometry, write_label_map
from scantling.data.inspect import inspect_dataset, write_lock
from scantling.data.layouts import open_dataset
from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan
from scantling.data.splits import make_split
from scantling.evaluation.evaluate import evaluate_folders
from scantling.files import write_atomic, write_json
from scantling.reports.pictures import draw_worst_cases
from scantling.training.run_folder import RunFolder

SIZE = 64
N_TEST = 9


@pytest.fixture(scope="session")
def finished_run_made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original: tests copy it."""
    folder = tmp_path_factory.mktemp("report")
    return build_run(folder / "run", folder / "hospital data")


@pytest.fixture
def finished_run(finished_run_made_once: Path, tmp_path: Path) -> Path:
    """A run folder of one's own."""
    return Path(shutil.copytree(finished_run_made_once, tmp_path / "run"))


def build_run(path: Path, data: Path) -> Path:
    """A finished run with a missing prediction, a missed heart and an invented piece of lung."""
    write_chest_phantom(data, n_labelled=2, n_unlabelled=4, n_test=N_TEST, seed=3, size=SIZE)
    manifest = open_dataset(data)
    run = RunFolder.create(path)
    split = make_split(manifest, train_on={"split": "train"}, test_on={"split": "test"}, fold=None)
    split.save(run.split)
    write_json(run.data_sheet, inspect_dataset(manifest).to_json())
    write_lock(manifest, run.lock)
    write_json(run.plan, plan().model_dump(mode="json"))
    write_atomic(run.config, f'recipe = "supervised"\nseed = 3\n\n[data]\npath = "{data}"\n'.encode())
    predict(manifest.root, run, split.heldout)
    evaluation = evaluate_folders(run.predictions, manifest, cases=split.heldout, seed=3)
    evaluation.save(run.metrics, run.evaluation)
    for epoch in range(1, 13):
        score = 0.3 + 0.5 * (1 - 0.7**epoch)
        run.append_log(
            "epoch", epoch=epoch, step=epoch * 50, seconds=epoch * 4.2, progress=epoch / 12,
            losses={"dice": 0.8 * 0.8**epoch + 0.1, "cross_entropy": 1.2 * 0.7**epoch + 0.05},
            learning_rate=0.01 * (1 - epoch / 13) ** 0.9, samples_per_second=91.5, skipped=0,
            validation={"mean_dice": score, "per_class": {"heart": score - 0.1}} if epoch % 3 == 0 else None,
        )  # fmt: skip
    run.append_log("out_of_memory", step=7, parts=2)
    run.update(
        status="finished", recipe="supervised", seed=3, steps=600, skipped_steps=1, seconds=72.4,
        command=f"scantling train {data} -o {path}",
        started="2026-01-05T09:00:00+00:00", finished="2026-01-05T09:01:12+00:00",
        training_seconds=50.4, device="cpu", precision="torch.float32", threads=2,
        environment={"python": "3.11.7", "platform": "Linux x86_64", "cores": 2, "memory_gib": 15.6,
                     "versions": {"scantling": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"}},
    )  # fmt: skip
    (run.model).mkdir()
    (run.model / "model.safetensors").write_bytes(b"weights")
    draw_worst_cases(path, n_worst=4, height_px=120)
    return path


def plan() -> Plan:
    """What planning might say of the phantom."""
    return Plan(
        dataset="chest-phantom", modality="CR", image_axes=2, dimensions=2, axis_order=(0, 1), batch_size=8,
        classes=ClassPlan(names=CHEST_CLASSES.names, stored=CHEST_CLASSES.stored), spacing_mm=(1.0, 1.0),
        patch_size=(64, 64), intensities=(IntensityPlan(scheme="zscore"),), network=NetworkPlan(),
        reasons={"patch": "the whole picture fits"},
    )  # fmt: skip


def predict(data: Path, run: RunFolder, cases: tuple[str, ...]) -> None:
    """Silver masks as predictions, three of them spoilt."""
    for position, case in enumerate(cases[:-1]):  # the last case has none
        anatomy = draw_chest_anatomy(3, case)
        mask, _ = silver_chest_label_map(anatomy, finding="effusion", key=case, size=SIZE)
        if position == 0:
            mask[mask == 3] = 0
        if position == 1:
            mask = chest_label_map(anatomy, size=SIZE)
            mask[2:8, 2:8] = 1
        geometry = read_geometry(data / "images" / f"{case}.png")
        write_label_map(run.predictions / f"{case}.png", mask.astype(np.uint8), geometry)
