"""What a run needs, stage by stage: counted where it can be counted, tried out where it cannot.

Memory is the resident size of the process and its workers, pages that they share counted once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from scantling.data.image_io import ImageGeometry, read_geometry
from scantling.errors import ResourceError, ScantlingError
from scantling.inference.device import autocast
from scantling.inference.memory import (
    EVALUATION_BYTES,
    PeakGauge,
    gib,
    prediction_batch,
    prediction_bytes,
    prediction_window,
    resident_bytes,
    window_of,
)
from scantling.training.batches import DEFAULT_LIMITS
from scantling.training.loop import Loop
from scantling.training.materials import Materials
from scantling.training.validation import VALIDATION_OVERLAP, validation_batch

WORKER_BYTES: Final = 158 * 2**20
"""What a worker has for itself, interpreter and imports, beside the samples it reads ahead (measured)."""
CASE_SECONDS: Final = 0.05
VOXEL_SECONDS: Final = 3e-7
"""Reading, writing and scoring a held-out case, on its own and per voxel of its image (measured)."""
LABEL_BYTES: Final = 0.02
"""Per voxel of a packed label map (measured)."""
REPORT_BYTES: Final = 1_500_000


@dataclass(frozen=True, kw_only=True)
class Later:
    """What comes beside and after training.

    Attributes:
        memory: bytes with what is held already, though not the state; `stage` says when.
        disk: bytes of what is written after training beside the model.
    """

    memory: int
    stage: str
    validation_seconds: float
    held_out_seconds: float
    disk: int = 0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Seconds of a step without the reading of its samples; the most memory of training, without workers."""

    seconds: float
    memory: int


def try_step(loop: Loop) -> Trial:
    """Trial steps as the loop is set now, on a copy of the recipe."""
    with PeakGauge() as gauge:
        seconds = loop.trial()
    # the copy is gone in the run itself, the optimiser has its state
    return Trial(seconds=seconds, memory=gauge.bytes + state_bytes(loop) - module_bytes(loop.recipe))


def later_needs(loop: Loop, materials: Materials) -> Later:
    """Validation and held-out prediction: their largest arrays are counted, the network's are tried out."""
    plan, device = materials.plan, loop.device
    before = resident_bytes()
    needs: dict[str, int] = {"holding weights": before}
    validation_seconds, held_out = 0.0, 0.0
    n_classes, n_channels = len(plan.classes.names), len(plan.intensities)
    if materials.validation.cases:
        batch_size = validation_batch(plan, device)
        with PeakGauge() as gauge:
            pass_seconds = _pass_seconds(loop, materials, batch_size)
        for case in materials.validation.cases:
            window = window_of(case.grid.shape, plan, overlap=VALIDATION_OVERLAP, batch_size=batch_size)
            voxels = math.prod(case.grid.shape)
            arrays = voxels * (2 * n_channels + 2) + 4 * n_classes * math.prod(window.unfinished)
            _raise(needs, "validating", gauge.bytes + arrays + worker_bytes(loop, loop.workers))
            validation_seconds += len(window.batches) * pass_seconds
    if materials.split.heldout:
        with PeakGauge() as gauge:
            pass_seconds = _pass_seconds(loop, materials, prediction_batch(plan, device=device.type))
        for geometry in _held_out_geometries(materials):
            voxels = math.prod(geometry.shape)
            arrays = prediction_bytes(geometry, plan, device=device.type)
            shape = " x ".join(map(str, geometry.shape))
            _raise(needs, f"predicting a held-out image of {shape}", gauge.bytes + arrays)
            _raise(needs, f"scoring a held-out image of {shape}", before + EVALUATION_BYTES * voxels)
            batches = len(prediction_window(geometry, plan, device=device.type).batches)
            held_out += batches * pass_seconds + CASE_SECONDS + VOXEL_SECONDS * voxels
    stage = max(needs, key=lambda name: needs[name])
    voxels = sum(math.prod(geometry.shape) for geometry in _held_out_geometries(materials))
    return Later(
        memory=needs[stage],
        stage=stage,
        validation_seconds=validation_seconds,
        held_out_seconds=held_out,
        disk=int(LABEL_BYTES * voxels),
    )


def _raise(needs: dict[str, int], stage: str, count: int) -> None:
    needs[stage] = max(count, needs.get(stage, 0))


def _held_out_geometries(materials: Materials) -> Iterator[ImageGeometry]:
    for case_id in materials.split.heldout:
        try:
            yield read_geometry(materials.manifest.case(case_id).images[0])
        except ScantlingError:
            continue  # predicting it will fail, and say so


@torch.inference_mode()
def _pass_seconds(loop: Loop, materials: Materials, batch_size: int) -> float:
    """Seconds of a forward pass of so many patches, the second of two."""
    plan = materials.plan
    patches = torch.zeros((batch_size, len(plan.intensities), *plan.patch_size), device=loop.device)
    network: nn.Module = loop.deployable()
    was_training = network.training
    network.eval()
    seconds = math.nan
    for _ in range(2):
        began = time.perf_counter()
        with autocast(loop.device, loop.precision):
            float(network(patches).sum())  # waits for the device
        seconds = time.perf_counter() - began
    network.train(was_training)
    return seconds


def state_bytes(loop: Loop) -> int:
    """What training holds after its first step and validation and not before: optimiser, best weights."""
    optimisation = loop.config.optimisation
    moments = 2 if optimisation.optimiser == "adamw" else int(optimisation.momentum > 0)
    best = module_bytes(loop.deployable()) if loop.validate is not None else 0
    return moments * module_bytes(loop.recipe) + best


def module_bytes(module: nn.Module) -> int:
    tensors: Mapping[str, torch.Tensor] = module.state_dict()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def worker_bytes(loop: Loop, workers: int) -> int:
    """Of so many processes that read ahead, and of the steps that they have read."""
    if workers == 0:
        return 0
    samples = loop.samples[0]
    step = sum(part.nbytes for sample in samples for part in (sample.image, sample.label_map, sample.weight))
    return workers * (WORKER_BYTES + 2 * DEFAULT_LIMITS.ahead * step)  # here and there


def device_bytes(loop: Loop, state: int) -> int | None:
    if loop.device.type != "cuda":
        return None
    return int(torch.cuda.max_memory_allocated(loop.device)) + state - module_bytes(loop.recipe)


def disk_bytes(loop: Loop, later: Later, *, checkpoints: int) -> int:
    """What is still to be written: checkpoints, the model, what comes after training, the report."""
    weights = module_bytes(loop.deployable())
    average = weights if loop.config.optimisation.average_decay > 0 else 0
    checkpoint = module_bytes(loop.recipe) + state_bytes(loop) + average
    return checkpoints * checkpoint + weights + later.disk + REPORT_BYTES


def too_little_memory(needed: float, stage: str, budget: float) -> ResourceError:
    if stage.startswith(("predicting", "scoring", "preparing")):
        cure = "crop or resample the images, choose a smaller network, or raise --budget-ram"
    else:
        cure = "lower plan.patch_size (--set plan.patch_size=...), or raise --budget-ram"
    return ResourceError(
        f"training: needs about {gib(needed)} of memory (while {stage}), the budget is {gib(budget)}; {cure}",
        code="E-RES-03",
    )
