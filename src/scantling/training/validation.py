"""The score that chooses a checkpoint: mean Dice on held-back training patients, on the prepared grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from scantling.data.plan import Plan
from scantling.data.store import PreparedCase
from scantling.inference.sliding_window import predict_labels
from scantling.training.loop import Validate, Validation


def inner_validation(
    cases: Sequence[PreparedCase], plan: Plan, *, device: torch.device, precision: torch.dtype | None
) -> Validate:
    """A function that scores a network on these cases: mean over classes of the Dice pooled over cases.

    Pooling voxels over cases keeps a class that is absent from some of them defined; a class absent from all is
    NaN and left out of the mean.
    """

    def validate(network: nn.Module) -> Validation:
        n_classes = len(plan.classes.names)
        totals = np.zeros((3, n_classes))
        for case in cases:
            labels = case.labels
            if labels is None:
                continue
            image = torch.from_numpy(case.normalised())
            predicted = predict_labels(
                network, image, patch_size=plan.patch_size, n_classes=n_classes, overlap=0.25, amp=precision,
                batch_size=plan.batch_size, slices=plan.dimensions < plan.image_axes, device=device,
            ).numpy()  # fmt: skip
            totals += overlap_counts(predicted, np.asarray(labels), case.annotated)
        both, predicted_size, reference_size = totals
        present = reference_size > 0
        dice = np.where(present, 2 * both / np.maximum(predicted_size + reference_size, 1), np.nan)
        per_class = {name: float(dice[k]) for k, name in enumerate(plan.classes.names) if k and present[k]}
        return Validation(mean_dice=float(np.mean(list(per_class.values()))) if per_class else 0.0, per_class=per_class)

    return validate


def overlap_counts(
    predicted: np.ndarray, reference: np.ndarray, annotated: np.ndarray
) -> Float[np.ndarray, "three klass"]:
    """Voxels of each class in both maps, in the prediction, in the reference; unknown voxels and classes that
    were not looked for count nowhere."""
    n_classes = len(annotated)
    known = reference >= 0
    pairs = predicted[known].astype(np.int64) * n_classes + reference[known]
    confusion = np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes).astype(np.float64)
    counts = np.stack([np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)])
    kept: np.ndarray = counts * annotated
    return kept
