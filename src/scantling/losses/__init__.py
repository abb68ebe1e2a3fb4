"""Pure functions from tensors to scalar losses; they own nothing and draw nothing."""

from __future__ import annotations

from scantling.losses.segmentation import (
    cross_entropy,
    deep_supervision,
    dice_and_cross_entropy,
    dice_loss,
    weight_sum,
)

__all__ = ["cross_entropy", "deep_supervision", "dice_and_cross_entropy", "dice_loss", "weight_sum"]
