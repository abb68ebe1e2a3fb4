"""Where counterfactual images come from: an image model, a map of appearances, ready-made files, or any function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, final, runtime_checkable

import numpy as np
from jaxtyping import Float, Num

from scantling.counterfactuals.appearance import AppearanceSource
from scantling.counterfactuals.ready_made import FolderSource
from scantling.counterfactuals.source_image import SourceImage, as_stored
from scantling.counterfactuals.table import Row
from scantling.errors import DataError

__all__ = ["AppearanceSource", "CallableSource", "CounterfactualSource", "FolderSource", "ImageFunction"]

ImageFunction: TypeAlias = Callable[
    [Float[np.ndarray, "channel *source"], Row, Row], Num[np.ndarray, "channel *source"]
]
"""(channels in stored units as float32, attributes before, attributes after) -> channels in stored units."""


@runtime_checkable
class CounterfactualSource(Protocol):
    """Whatever makes the same patient's image under other attributes, on its own grid and in its own type."""

    @property
    def name(self) -> str:
        """For records and reports."""

    def __call__(self, images: Sequence[SourceImage], after: Sequence[Row]) -> Sequence[SourceImage]:
        """Each image as it would be, had it these attributes; its own attributes are its `row`.

        Returns:
            Images with the same case, grid and stored type, and `row` as it is after the intervention.
        """


@final
@dataclass(frozen=True)
class CallableSource:
    """A function of yours, one image at a time; what it gives is rounded and clipped to the stored type.

    Raises:
        DataError: it gives another shape, or values that are not finite where the image's are.
    """

    function: ImageFunction
    name: str = "function"

    def __call__(self, images: Sequence[SourceImage], after: Sequence[Row]) -> tuple[SourceImage, ...]:
        return tuple(self._one(image, row) for image, row in zip(images, after, strict=True))

    def _one(self, image: SourceImage, after: Row) -> SourceImage:
        given = np.stack([channel.astype(np.float32) for channel in image.channels])
        made = np.asarray(self.function(given.copy(), image.row, after))
        if made.shape != given.shape or made.dtype.kind not in "iuf":
            raise DataError(
                f"case {image.case_id}: {self.name} gave {made.dtype} of {made.shape}; wanted numbers of "
                f"{given.shape}, as it was given",
                code="E-CF-01",
            )
        if not np.isfinite(made[np.isfinite(given)]).all():
            raise DataError(
                f"case {image.case_id}: {self.name} gave NaN or infinities; wanted finite values in stored units",
                code="E-CF-01",
            )
        channels = tuple(as_stored(stored, values) for stored, values in zip(image.channels, made, strict=True))
        return replace(image, channels=channels, row=after)
