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
            of their first voxel. Of a bent view it is the straight part, after the displacement: use
            `correspondence` for points.
        label_maps: class index, IGNORE where unknown or outside the source.
        weights: trust in the label, 0 outside the source.
        annotated: classes that were looked for (background included).
        spacing_mm: of the views' axes; one for the whole batch.
        displacements: control points of each view's elastic field, in mm along its axes (`elastic`); None: no
            view is bent.
        image_numbers: which image of the anatomy a view shows: 0 the case's own, k its k-th alternative; None: its
            own.
        contexts: each sample's attributes as numbers; None where the samples bring none.
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
    displacements: Float[Tensor, "batch view axis *control"] | None = None
    image_numbers: Int[Tensor, "batch view"] | None = None
    contexts: Float[Tensor, "batch context"] | None = None

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Pixels of a view per axis."""
        return tuple(self.label_maps.shape[2:])

    def to(self, device: torch.device) -> ViewBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return ViewBatch(**moved)
