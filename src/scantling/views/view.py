"""What a recipe sees: a batch of views whose every pixel can be traced back to its source image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ViewBatch:
    """V views of each of B samples.

    Attributes:
        source_from_view: leads from mm in the view to mm in the prepared case; both measure from the centre
            of their first voxel.
        label_maps: class index, IGNORE where unknown or outside the source.
        weights: trust in the label, 0 outside the source.
        annotated: classes that were looked for (background included).
        spacing_mm: of the views' axes; one for the whole batch.
    """

    images: Float[Tensor, "batch view channel *spatial"]
    label_maps: Int[Tensor, "batch view *spatial"]
    weights: Float[Tensor, "batch view *spatial"]
    annotated: Bool[Tensor, "batch klass"]
    source_from_view: Float[Tensor, "batch view row column"]
    spacing_mm: tuple[float, ...]
    case_indices: Int[Tensor, "batch"]
    patient_indices: Int[Tensor, "batch"]
    slice_positions: Float[Tensor, "batch"]

    def to(self, device: torch.device) -> ViewBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return ViewBatch(**moved)
