"""What an image file says once it is read: voxels, and the grid they lie on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Shaped

FileType = Literal["nifti", "png", "jpeg", "tiff"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageGeometry:
    """Where the voxels of a file lie.

    Attributes:
        shape: spatial axes only, in array order: `(z, y, x)` or `(y, x)`.
        spacing_mm: per array axis; 1.0 where the file names none.
        spacing_known: whether the file gave the spacing.
        world_from_index: array index (pixel centres are whole numbers) -> RAS mm. A picture knows no patient:
            its world is its own axes in pixels, an identity.
        header: the NIfTI header as it stands in the file, so that an export repeats its geometry bit by bit.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    spacing_known: bool
    world_from_index: Float64[np.ndarray, "side side"]
    file_type: FileType
    header: bytes | None = None

    def __eq__(self, other: object) -> bool:
        """Same grid, same file type, same header bytes."""
        if not isinstance(other, ImageGeometry):
            return NotImplemented
        return self._plain() == other._plain() and np.array_equal(self.world_from_index, other.world_from_index)

    def __hash__(self) -> int:
        return hash(self._plain())

    def _plain(self) -> tuple[object, ...]:
        return (self.shape, self.spacing_mm, self.spacing_known, self.file_type, self.header)


@dataclass(frozen=True, kw_only=True, eq=False)
class MedicalImage:
    """Voxels in the type the file stores (float32 where the file scales them), channel first.

    Attributes:
        notes: what was repaired, assumed or looks odd, one sentence each.
    """

    array: Shaped[np.ndarray, "channel *spatial"]
    geometry: ImageGeometry
    notes: tuple[str, ...] = ()


def not_finite_note(array: Shaped[np.ndarray, "channel *spatial"]) -> tuple[str, ...]:
    """A sentence if voxels are NaN or infinite."""
    bad = int(array.size - np.isfinite(array).sum()) if array.dtype.kind == "f" else 0
    return (f"{bad} of its {array.size} voxels are NaN or infinite",) if bad else ()


def picture_geometry(shape: tuple[int, ...], file_type: FileType) -> ImageGeometry:
    """The grid of a file that knows neither spacing nor patient: 1 mm a pixel, spacing unknown."""
    return ImageGeometry(
        shape=shape,
        spacing_mm=(1.0,) * len(shape),
        spacing_known=False,
        world_from_index=np.eye(len(shape) + 1),
        file_type=file_type,
    )
