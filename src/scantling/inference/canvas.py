"""An image as the sliding window sees it: integers until a tile is cut out of it, 0 around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Num
from torch import Tensor

from scantling.inference.tiling import Tiling, box


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredImage:
    """An image as it is stored: channel c has the values `array[c] * scale[c] + offset[c]`."""

    array: Num[Tensor, "channel *spatial"]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def shape(self) -> torch.Size:
        """Of the array, channels first."""
        return self.array.shape

    @property
    def device(self) -> torch.device:
        """Where the array is."""
        return self.array.device


@final
class Canvas:
    """Tiles of an image as float32, wherever they lie; no padded or normalised copy of the image is held."""

    def __init__(self, image: Float[Tensor, "channel *spatial"] | StoredImage, window: Tiling, device: torch.device):
        stored = image.array if isinstance(image, StoredImage) else image
        self.window, self.array = window, stored.to(device)
        self.linear: tuple[Tensor, Tensor] | None = None
        if isinstance(image, StoredImage):
            one_each = (-1, *[1] * (stored.ndim - 1))
            scale, offset = torch.tensor(image.scale), torch.tensor(image.offset)
            self.linear = scale.reshape(one_each).to(device), offset.reshape(one_each).to(device)

    def cut(self, corner: tuple[int, ...]) -> Float[Tensor, "channel *patch"]:
        """The tile at a corner of the padded image."""
        window = self.window
        start = tuple(first - before for first, before in zip(corner, window.before, strict=True))
        if window.shape == window.canvas:
            return self._values(box(start, window.patch))
        low = [max(first, 0) for first in start]
        high = [min(s + n, total) for s, n, total in zip(start, window.patch, window.shape, strict=True)]
        tile = torch.zeros((len(self.array), *window.patch), device=self.array.device)
        inside = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        tile[:, *inside] = self._values(tuple(map(slice, low, high)))
        return tile

    def _values(self, place: tuple[slice, ...]) -> Float[Tensor, "channel *part"]:
        part = self.array[:, *place]
        if self.linear is None:
            return part
        scale, offset = self.linear
        return part.contiguous().to(torch.float32, copy=True).mul_(scale).add_(offset)
