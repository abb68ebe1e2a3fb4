"""What every recipe must keep: used by one test per recipe, on a small task drawn in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scantling.config import Config
from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan
from scantling.data.sample import Sample
from scantling.errors import Interrupted
from scantling.recipes import build_recipe
from scantling.recipes.recipe import Recipe
from scantling.seeding import numpy_generator, torch_generator
from scantling.shapes import IGNORE
from scantling.training.batches import SampleSource, StepSamples
from scantling.training.loop import Loop
from scantling.training.loop_state import LoopConfig
from scantling.training.optimisation import OptimisationConfig
from scantling.training.run_folder import RunFolder
from scantling.views.maker import make_views

PATCH, CROP, CLASSES, BATCH = (32, 32), 40, ("background", "disc", "square"), 4
SOLID_PATCH, SOLID_CROP, SOLID_SPACING = (8, 16, 16), (10, 20, 20), (2.0, 1.0, 1.0)


def small_plan(**changes: Any) -> Plan:
    """A plan for the discs and squares below."""
    return Plan(
        dataset="shapes", image_axes=2, dimensions=2, classes=ClassPlan(names=CLASSES, stored=((0,), (1,), (2,))),
        axis_order=(0, 1), spacing_mm=(1.0, 1.0), patch_size=PATCH, batch_size=BATCH,
        intensities=(IntensityPlan(scheme="zscore"),),
        network=NetworkPlan(features=(8, 16), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3))),
    ).model_copy(update=changes)  # fmt: skip


def solid_plan(**changes: Any) -> Plan:
    """A plan for the balls and boxes below."""
    return Plan(
        dataset="solids", image_axes=3, dimensions=3, classes=ClassPlan(names=CLASSES, stored=((0,), (1,), (2,))),
        axis_order=(0, 1, 2), spacing_mm=SOLID_SPACING, patch_size=SOLID_PATCH, batch_size=BATCH,
        intensities=(IntensityPlan(scheme="zscore"),),
        network=NetworkPlan(features=(6, 12), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3),) * 2),
    ).model_copy(update=changes)  # fmt: skip


@dataclass(frozen=True)
class Shapes:
    """Bright discs and dark squares on noise; keyed like a real data set.

    Attributes:
        alternatives: other images of each anatomy, each with a contrast and a noise of its own.
    """

    seed: int = 0
    annotated: tuple[bool, ...] = (True, True, True)
    unknown_left_half: bool = False
    alternatives: int = 0

    def sample(self, epoch: int, position: int) -> Sample:
        rng = numpy_generator(self.seed, "shapes", epoch, position)
        rows, columns = np.mgrid[:CROP, :CROP]
        image = rng.normal(0, 0.3, (CROP, CROP))
        label_map = np.zeros((CROP, CROP), dtype=np.int64)
        y, x = rng.integers(10, CROP - 10, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < 36
        top, left = rng.integers(5, CROP - 15, 2)
        square = (rows >= top) & (rows < top + 9) & (columns >= left) & (columns < left + 9) & ~disc
        image[disc] += 2
        image[square] -= 2
        label_map[disc], label_map[square] = 1, 2
        if self.unknown_left_half:
            label_map[:, : CROP // 2] = IGNORE
        others = [(0.6 - 0.5 * k) * image + rng.normal(0, 0.2, image.shape) for k in range(self.alternatives)]
        return Sample(
            image=torch.from_numpy(image[None]).float(), label_map=torch.from_numpy(label_map),
            weight=torch.ones(CROP, CROP), annotated=torch.tensor(self.annotated), spacing_mm=(1.0, 1.0),
            source_from_sample=torch.eye(3, dtype=torch.float64), case_index=position, patient_index=position,
            slice_position=0.0, key=(epoch, position),
            alternatives=torch.from_numpy(np.stack(others)[:, None]).float() if others else None,
        )  # fmt: skip


@dataclass(frozen=True)
class Solids:
    """Bright balls and dark boxes on noise in volumes whose slices are twice as thick as their pixels are wide."""

    seed: int = 0
    alternatives: int = 0

    def sample(self, epoch: int, position: int) -> Sample:
        rng = numpy_generator(self.seed, "solids", epoch, position)
        places = np.indices(SOLID_CROP) * np.reshape(SOLID_SPACING, (3, 1, 1, 1))
        image = rng.normal(0, 0.3, SOLID_CROP)
        label_map = np.zeros(SOLID_CROP, dtype=np.int64)
        ball = sum((axis - at) ** 2 for axis, at in zip(places, rng.uniform(6, 13, 3), strict=True)) < 20
        box = (
            np.all([abs(axis - at) < 4 for axis, at in zip(places, rng.uniform(5, 14, 3), strict=True)], axis=0) & ~ball
        )
        image[ball] += 2
        image[box] -= 2
        label_map[ball], label_map[box] = 1, 2
        others = [(0.6 - 0.5 * k) * image + rng.normal(0, 0.2, image.shape) for k in range(self.alternatives)]
        return Sample(
            image=torch.from_numpy(image[None]).float(), label_map=torch.from_numpy(label_map),
            weight=torch.ones(SOLID_CROP), annotated=torch.ones(3, dtype=torch.bool), spacing_mm=SOLID_SPACING,
            source_from_sample=torch.eye(4, dtype=torch.float64), case_index=position, patient_index=position,
            slice_position=0.5, key=(epoch, position),
            alternatives=torch.from_numpy(np.stack(others)[:, None]).float() if others else None,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a recipe is tried on: a plan of its kind, and samples that fit it.

    Attributes:
        falls_to: share of the first epoch's loss that the last one must not exceed.
        watched: the terms of that loss; () all of them. Terms that pull against each other need not fall.
    """

    plan: Config
    source: SampleSource
    patch: tuple[int, ...]
    falls_to: float = 0.7
    watched: tuple[str, ...] = ()


SHAPES = Task(plan=small_plan(), source=Shapes(), patch=PATCH)
SOLIDS = Task(plan=solid_plan(), source=Solids(), patch=SOLID_PATCH)


def build(name: str, settings: dict[str, Any] | None = None, *, seed: int = 0, task: Task = SHAPES) -> Recipe:
    """The recipe on the task's plan, weights drawn from the seed."""
    return build_recipe(name, settings or {}, task.plan, torch_generator(seed, "weights"))


def loop_for(recipe: Recipe, folder: Path, *, steps: int, seed: int = 0, task: Task = SHAPES, **config: Any) -> Loop:
    """A loop over the task's samples, in a run folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "steps": steps,
        "steps_per_epoch": 5,
        "precision": "float32",
        "checkpoint_seconds": 1e9,
        **config,
    }
    settings.setdefault("optimisation", OptimisationConfig(learning_rate=5e-3))
    samples = StepSamples(task.source, BATCH, settings["steps_per_epoch"])
    return Loop(
        recipe, samples, LoopConfig(**settings), patch_size=task.patch, run=RunFolder(folder), seed=seed,
        device=torch.device("cpu"),
    )  # fmt: skip


def weights_of(loop: Loop) -> dict[str, Tensor]:
    """Everything trained and averaged."""
    state = {f"recipe/{k}": v.clone() for k, v in loop.recipe.state_dict().items()}
    if loop.stepper.average is not None:
        state |= {f"average/{k}": v.clone() for k, v in loop.stepper.average.state_dict().items()}
    return state


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Equal to the bit."""
    assert first.keys() == second.keys()
    unequal = [name for name in first if not torch.equal(first[name], second[name])]
    assert not unequal, f"{len(unequal)} of {len(first)} tensors differ: {unequal[:3]}"


def assert_contract(
    name: str, folder: Path, settings: dict[str, Any] | None = None, *, task: Task = SHAPES, from_labels: bool = True
) -> None:
    """All four promises, one after the other; the last only of a recipe that learns from labels."""
    assert_loss_falls(name, folder / "falls", settings, task)
    assert_same_seed_same_bits(name, folder / "seed", settings, task)
    assert_resumed_equals_uninterrupted(name, folder / "resume", settings, task)
    if from_labels:
        assert_no_gradient_from_weight_zero(name, settings, task)


def assert_loss_falls(name: str, folder: Path, settings: dict[str, Any] | None, task: Task = SHAPES) -> None:
    loop = loop_for(build(name, settings, task=task), folder, steps=40, task=task)
    loop.run()
    epochs = [e["losses"] for e in loop.run_folder.read_log() if e["event"] == "epoch"]
    losses = [sum(value for name, value in e.items() if name in (task.watched or e)) for e in epochs]
    assert losses[-1] < task.falls_to * losses[0], losses


def assert_same_seed_same_bits(name: str, folder: Path, settings: dict[str, Any] | None, task: Task = SHAPES) -> None:
    runs = [
        loop_for(build(name, settings, seed=seed, task=task), folder / str(i), steps=6, seed=seed, task=task)
        for i, seed in enumerate((0, 0, 1))
    ]
    for loop in runs:
        loop.run()
    first, again, other = map(weights_of, runs)
    assert_equal(first, again)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def assert_resumed_equals_uninterrupted(
    name: str, folder: Path, settings: dict[str, Any] | None, task: Task = SHAPES
) -> None:
    whole = loop_for(build(name, settings, task=task), folder / "whole", steps=8, task=task)
    whole.run()
    for stop_after in (3, 5):
        interrupted = loop_for(build(name, settings, task=task), folder / f"part{stop_after}", steps=8, task=task)
        interrupted.stop = lambda loop=interrupted, n=stop_after: loop.state.step == n
        with pytest.raises(Interrupted):
            interrupted.run()
        resumed = loop_for(build(name, settings, seed=99, task=task), folder / f"part{stop_after}", steps=8, task=task)
        assert resumed.restore() == []
        assert resumed.state.step == stop_after
        resumed.run()
        assert_equal(weights_of(whole), weights_of(resumed))


def assert_no_gradient_from_weight_zero(name: str, settings: dict[str, Any] | None, task: Task = SHAPES) -> None:
    recipe = build(name, settings, task=task).train()
    samples = [task.source.sample(0, i) for i in range(BATCH)]
    batch = make_views(samples, recipe.views(), task.patch, seed=0)
    silent = type(batch)(**{**vars(batch), "weights": torch.zeros_like(batch.weights)})
    torch.stack(list(recipe.losses(silent, torch_generator(0, "recipe")).values())).sum().backward()
    gradients = [p.grad for p in recipe.parameters() if p.grad is not None]
    assert all(not g.any() for g in gradients)
