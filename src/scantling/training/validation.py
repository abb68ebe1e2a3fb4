"""The score that chooses a checkpoint: mean Dice on held-back training patients, on the prepared grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from scantling.data.plan import Plan
from scantling.data.store import PreparedCase
from scantling.inference.canvas import StoredImage
from scantling.inference.memory import prediction_batch
from scantling.inference.sliding_window import predict_labels
from scantling.processes import process_count, process_rank, sum_over_processes
from scantling.training.loop_state import Validate, Validation

VALIDATION_OVERLAP: Final = 0.25
_BLOCK: Final = 2**20


def inner_validation(
    cases: Sequence[PreparedCase],
    plan: Plan,
    *,
    device: torch.device,
    precision: torch.dtype | None,
    as_in_training: bool = False,
) -> Validate:
    """A function that scores a network on these cases: mean over classes of the Dice pooled over cases.

    Pooling voxels over cases keeps a class that is absent from some of them defined; a class absent from all is
    NaN and left out of the mean. Several processes share the cases; each gets the score of all.

    Args:
        as_in_training: normalise by the statistics of what is predicted, which also move the running ones, as
            published tables did (there of 64 images at once, here of one).
    """
    own = cases[process_rank() :: process_count()]

    def validate(network: nn.Module) -> Validation:
        n_classes = len(plan.classes.names)
        scored = _AsInTraining(network) if as_in_training else network
        totals = np.zeros((3, n_classes))
        for case in own:
            labels = case.labels
            if labels is None:
                continue
            image = StoredImage(array=torch.from_numpy(np.array(case.image)), scale=case.scale, offset=case.offset)
            predicted = predict_labels(
                scored, image, patch_size=plan.patch_size, n_classes=n_classes, overlap=VALIDATION_OVERLAP,
                batch_size=validation_batch(plan, device), slices=plan.dimensions < plan.image_axes, amp=precision,
                device=device,
            ).numpy()  # fmt: skip
            totals += overlap_counts(predicted, np.asarray(labels), case.annotated)
        both, predicted_size, reference_size = sum_over_processes(torch.from_numpy(totals)).numpy()
        present = reference_size > 0
        dice = np.where(present, 2 * both / np.maximum(predicted_size + reference_size, 1), np.nan)
        per_class = {name: float(dice[k]) for k, name in enumerate(plan.classes.names) if k and present[k]}
        return Validation(score=float(np.mean(list(per_class.values()))) if per_class else 0.0, per_class=per_class)

    return validate


class _AsInTraining(nn.Module):
    """A network that stays in training mode whoever evaluates it; of several logits the finest are its answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._held = (network,)  # not as a part of this module, whose mode its parts follow

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor | list[Tensor] = self._held[0].train()(images)
        return logits if isinstance(logits, Tensor) else logits[0]


def validation_batch(plan: Plan, device: torch.device) -> int:
    """Patches in one forward pass of a validation: no more than training has, nor than prediction."""
    return min(plan.batch_size, prediction_batch(plan, device=device.type))


def overlap_counts(
    predicted: np.ndarray, reference: np.ndarray, annotated: np.ndarray
) -> Float[np.ndarray, "three klass"]:
    """Voxels of each class in both maps, in the prediction, in the reference; unknown voxels and classes that
    were not looked for count nowhere."""
    n_classes = len(annotated)
    confusion = np.zeros(n_classes**2, dtype=np.int64)
    predicted, reference = predicted.reshape(-1), reference.reshape(-1)
    for start in range(0, reference.size, _BLOCK):  # counting takes many bytes a voxel
        part = slice(start, start + _BLOCK)
        known = reference[part] >= 0
        pairs = predicted[part][known].astype(np.int64) * n_classes + reference[part][known]
        confusion += np.bincount(pairs, minlength=n_classes**2)
    table = confusion.reshape(n_classes, n_classes).astype(np.float64)
    counts = np.stack([np.diag(table), table.sum(axis=1), table.sum(axis=0)])
    kept: np.ndarray = counts * annotated
    return kept
