"""Predicting and scoring the cases that chose nothing, at their own resolution."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from scantling.errors import Interrupted
from scantling.evaluation.evaluate import Evaluation, evaluate_folders
from scantling.inference.model_folder import LoadedModel
from scantling.inference.predict import predict_cases
from scantling.inference.predictor import Predictor
from scantling.training.loop import Loop
from scantling.training.materials import Materials
from scantling.training.progress import Display
from scantling.training.run_folder import RunFolder
from scantling.training.validation import inner_validation
from scantling.training.watchdog import Watchdog


def score_held_out(
    run: RunFolder,
    materials: Materials,
    network: nn.Module,
    meta: Mapping[str, Any],
    *,
    device: torch.device,
    seed: int,
    display: Display,
    stop: Callable[[], bool],
) -> Evaluation | None:
    """Predict and score the held-out cases; None if nothing was held out.

    Raises:
        Interrupted: `stop` said so between two cases; `resume` predicts them again.
    """
    if not materials.split.heldout:
        return None
    predictor = Predictor(LoadedModel(network=network, plan=materials.plan, meta=meta), device)
    cases = [materials.manifest.case(c) for c in materials.split.heldout]

    def halt(sentence: str) -> None:
        dog.at(sentence)
        if stop():
            raise Interrupted(
                f"stopped while predicting held-out cases; {run.how_to_resume}",
                code="E-INT-01",
            )

    with Watchdog(display.say) as dog:
        done = predict_cases(predictor, cases, run.predictions, progress=halt)
    for case, sentence in done.failures.items():
        display.say(f"held-out case {case} could not be predicted: {sentence}")
    evaluation = evaluate_folders(
        run.predictions,
        materials.manifest,
        cases=materials.split.heldout,
        label_kinds=materials.plan.label_kinds,
        seed=seed,
    )
    evaluation.save(run.metrics, run.evaluation)
    return evaluation


def held_out_seconds(loop: Loop, materials: Materials, device: torch.device) -> float:
    """Time to keep for predicting the held-out cases: one training case, predicted, times their number."""
    case = materials.train.cases[0]
    validate = inner_validation([case], materials.plan, device=device, precision=loop.precision)
    network = loop.recipe.deployable().eval()
    validate(network)  # the first pass also pays for memory that later ones find there
    began = time.monotonic()
    validate(network)
    network.train()
    return 2.0 * (time.monotonic() - began) * len(materials.split.heldout) + 2.0
