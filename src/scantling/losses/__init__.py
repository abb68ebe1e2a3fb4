"""Pure functions from tensors to scalar losses; they own nothing and draw nothing."""

from __future__ import annotations

from scantling.losses.contrastive import info_nce
from scantling.losses.pairs import Groups, PairBlock, Pairs
from scantling.losses.segmentation import (
    cross_entropy,
    deep_supervision,
    dice_and_cross_entropy,
    dice_loss,
    weight_sum,
)

__all__ = [
    "Groups",
    "PairBlock",
    "Pairs",
    "cross_entropy",
    "deep_supervision",
    "dice_and_cross_entropy",
    "dice_loss",
    "info_nce",
    "weight_sum",
]
