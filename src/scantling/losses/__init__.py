"""Pure functions from tensors to scalar losses; they own nothing, draw nothing, and are imported when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scantling.losses.alignment import align as align
    from scantling.losses.alignment import dice_distances as dice_distances
    from scantling.losses.alignment import energy_distance as energy_distance
    from scantling.losses.alignment import window_alignment as window_alignment
    from scantling.losses.consistency import hard_cross_entropy as hard_cross_entropy
    from scantling.losses.consistency import hard_targets as hard_targets
    from scantling.losses.consistency import kl_divergence as kl_divergence
    from scantling.losses.consistency import logit_mse as logit_mse
    from scantling.losses.consistency import prediction_entropy as prediction_entropy
    from scantling.losses.consistency import probability_mse as probability_mse
    from scantling.losses.consistency import soft_cross_entropy as soft_cross_entropy
    from scantling.losses.contrastive import info_nce as info_nce
    from scantling.losses.pairs import Groups as Groups
    from scantling.losses.pairs import PairBlock as PairBlock
    from scantling.losses.pairs import Pairs as Pairs
    from scantling.losses.prototypes import gaussian_prototype_cross_entropy as gaussian_prototype_cross_entropy
    from scantling.losses.prototypes import local_contrast as local_contrast
    from scantling.losses.prototypes import prototype_cross_entropy as prototype_cross_entropy
    from scantling.losses.segmentation import cross_entropy as cross_entropy
    from scantling.losses.segmentation import deep_supervision as deep_supervision
    from scantling.losses.segmentation import dice_and_cross_entropy as dice_and_cross_entropy
    from scantling.losses.segmentation import dice_loss as dice_loss
    from scantling.losses.segmentation import weight_sum as weight_sum

_PUBLIC = {
    "Groups": "pairs",
    "PairBlock": "pairs",
    "Pairs": "pairs",
    "align": "alignment",
    "cross_entropy": "segmentation",
    "deep_supervision": "segmentation",
    "dice_and_cross_entropy": "segmentation",
    "dice_distances": "alignment",
    "dice_loss": "segmentation",
    "energy_distance": "alignment",
    "gaussian_prototype_cross_entropy": "prototypes",
    "hard_cross_entropy": "consistency",
    "hard_targets": "consistency",
    "info_nce": "contrastive",
    "kl_divergence": "consistency",
    "local_contrast": "prototypes",
    "logit_mse": "consistency",
    "prediction_entropy": "consistency",
    "probability_mse": "consistency",
    "prototype_cross_entropy": "prototypes",
    "soft_cross_entropy": "consistency",
    "weight_sum": "segmentation",
    "window_alignment": "alignment",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"scantling.losses.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'scantling.losses' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
