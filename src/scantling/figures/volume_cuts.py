"""Cuts through a volume: three planes through its middle, and a strip of slices as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Shaped

from scantling.data.image import ImageGeometry
from scantling.figures.hanging import oriented_slices, reading_axis, world_axes

STRIP: Final = 8
"""Slices of a strip."""
_PLANES: Final = ("sagittal", "coronal", "axial")
"""What a cut across each of the patient's axes is called."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One slice of a volume.

    Attributes:
        axis: of the array, cut across.
        at: where on that axis, as a share of its length, so that it means the same on a coarser grid.
    """

    name: str
    axis: int
    at: float

    def of(
        self, array: Shaped[np.ndarray, "*stack z y x"], geometry: ImageGeometry
    ) -> tuple[Shaped[np.ndarray, "*stack row column"], tuple[float, float]]:
        """The slice of a volume on any grid of the image's extent, hung as readers hang it, and the spacing of rows and
        columns on the image's own grid."""
        slices, spacing = oriented_slices(array, geometry, across=self.axis)
        n_slices = slices.shape[-3]
        return slices[..., min(int(self.at * n_slices), n_slices - 1), :, :], spacing


def three_planes(geometry: ImageGeometry) -> tuple[Cut, ...]:
    """Through the middle across each axis, the one in which slices are read first."""
    first = reading_axis(geometry)
    axes = [first, *(axis for axis in (0, 1, 2) if axis != first)]
    return tuple(Cut(name=_plane_name(geometry, axis), axis=axis, at=0.5) for axis in axes)


def slice_strip(geometry: ImageGeometry, n_slices: int = STRIP) -> tuple[Cut, ...]:
    """Slices evenly spread along the axis in which they are read; all of them where there are no more."""
    axis = reading_axis(geometry)
    length = geometry.shape[axis]
    n_slices = min(n_slices, length)
    chosen = [int((k + 0.5) * length / n_slices) for k in range(n_slices)]
    return tuple(Cut(name=f"slice {k + 1}", axis=axis, at=(k + 0.5) / length) for k in chosen)


def _plane_name(geometry: ImageGeometry, axis: int) -> str:
    """What readers call it; a picture stack knows no patient."""
    return _PLANES[world_axes(geometry)[axis]] if geometry.file_type == "nifti" else f"across axis {axis + 1}"
