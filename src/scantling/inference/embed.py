"""Dense features of an image by a trained or pretrained network, on the grid of one of its levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from scantling.config import nearest
from scantling.data.image_io import MedicalImage
from scantling.data.normalising import LinearMap
from scantling.data.prepare import PreparedGrid, PreparedImage, prepare_image, unturn
from scantling.data.resampling import resample, resample_nearest
from scantling.errors import ConfigError, ResourceError
from scantling.inference.accumulator import Accumulator
from scantling.inference.canvas import Canvas, StoredImage
from scantling.inference.device import resolve_device
from scantling.inference.memory import gib, prediction_batch
from scantling.inference.model_folder import FEATURES, SEGMENTATION, LoadedModel, load_model
from scantling.inference.tiling import Tiling, tile
from scantling.networks.unet import UNet
from scantling.sealed_folder import find_model_folder

_OVERLAP = 0.5  # of neighbouring tiles, as in prediction


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """Features of an image.

    Attributes:
        features: a map that covers the prepared image, and where its length is no multiple of the stride a little more
            at the end of an axis.
        stride: prepared pixels per feature pixel, one per axis.
    """

    features: Float[np.ndarray, "feature *own"]
    grid: PreparedGrid
    stride: tuple[int, ...]

    def in_image_axes(
        self, maps: Float[np.ndarray, "map *own"], *, nearest: bool = False
    ) -> Float[np.ndarray, "map *turned"]:
        """Maps on this grid at the prepared resolution, axes in the image's order and direction, over its extent.

        Args:
            nearest: where the level is coarser than the prepared image, the nearest value, not one in between.
        """
        covered = tuple(n * step for n, step in zip(maps.shape[1:], self.stride, strict=True))
        inside = tuple(slice(0, n) for n in self.grid.shape)
        change = resample_nearest if nearest else _linear
        return np.stack([unturn(change(one, covered)[inside], self.grid) for one in maps])


@final
class Embedder:
    """Features of one image after another, by one level of one network.

    Args:
        tap: the level, as `UNet.taps` names it; "" is the one that was pretrained, or the finest of the decoder.
    """

    def __init__(self, model: LoadedModel, device: torch.device, *, tap: str = "") -> None:
        network = model.network.to(device).eval()
        assert isinstance(network, UNet)  # all that `build_network` builds
        self.model, self.device, self.network, self.plan = model, device, network, model.plan
        self.tap = tap or str(model.meta.get("tap") or network.head_taps[0])
        if self.tap not in network.taps:
            raise ConfigError(
                f"--tap {self.tap}: no level of this network{nearest(self.tap, network.taps)}", code="E-FIG-04"
            )
        level = network.taps[self.tap]
        by_slice = self.plan.dimensions < self.plan.image_axes
        self.n_features, self.stride = level.channels, (1, *level.stride) if by_slice else level.stride
        self.patch = (1, *self.plan.patch_size) if by_slice else self.plan.patch_size

    @classmethod
    def load(cls, run_or_model: Path, *, device: str = "auto", tap: str = "") -> Embedder:
        """From a run folder or a model folder, of a network that segments or was pretrained; verified.

        Raises:
            DataError: there is no such model.
            IntegrityError: it is damaged.
            ConfigError, ResourceError: the device or the tap is none, or the device is not here.
        """
        where = resolve_device(device)
        model = load_model(find_model_folder(Path(run_or_model)), where, kinds=(SEGMENTATION, FEATURES))
        return cls(model, where, tap=tap)

    def embed(self, channels: Sequence[MedicalImage], *, maps: Sequence[LinearMap] | None = None) -> Embedding:
        """Features of one image, given as the files of its channels, prepared and tiled as for prediction.

        Args:
            maps: of intensities, those of the real image for another image of its anatomy; see `prepare_image`.

        Raises:
            PlanMismatch: channels or axes are not those of the plan.
            GeometryError: the channels do not share one grid.
            IntegrityError: the network gave values that are not finite.
            ResourceError: memory does not suffice.
        """
        prepared = prepare_image(channels, self.plan, maps=maps)
        window = self._window(prepared)
        needed = 4 * self.n_features * (math.prod(window.shape) + math.prod(window.unfinished))
        size = " x ".join(map(str, channels[0].geometry.shape))
        free = int(psutil.virtual_memory().available)
        if needed > free:
            raise ResourceError(
                f"image of {size}: its features at {self.tap} take {gib(needed)} of memory and {gib(free)} are free; "
                f"choose a coarser level with --tap ({', '.join(self.network.taps)})",
                code="E-FIG-05",
            )
        try:
            features = self._features(prepared, window)
        except (torch.OutOfMemoryError, MemoryError):
            raise ResourceError(
                f"image of {size}: the memory of {self.device} does not suffice; free some, or use --device cpu",
                code="E-FIG-05",
            ) from None
        return Embedding(features=features, grid=prepared.grid, stride=self.stride)

    def _window(self, prepared: PreparedImage) -> Tiling:
        """Tiles on the grid of the features: each lies on whole feature pixels."""
        shape = tuple(-(-n // step) for n, step in zip(prepared.grid.shape, self.stride, strict=True))
        patch = tuple(n // step for n, step in zip(self.patch, self.stride, strict=True))
        return tile(shape, patch, overlap=_OVERLAP, batch_size=prediction_batch(self.plan, device=self.device.type))

    @torch.inference_mode()
    def _features(self, prepared: PreparedImage, window: Tiling) -> Float[np.ndarray, "feature *own"]:
        """The weighted mean over tiles, as the sliding window makes it of logits."""
        image = StoredImage(array=torch.from_numpy(prepared.array), scale=prepared.scale, offset=prepared.offset)
        on_image = replace(
            window,
            shape=prepared.grid.shape,
            canvas=self._pixels(window.canvas),
            before=self._pixels(window.before),
            patch=self.patch,
        )
        canvas = Canvas(image, on_image, self.device)
        sums = Accumulator(torch.zeros((self.n_features, *window.unfinished), device=self.device), window)
        result = np.empty((self.n_features, *window.shape), dtype=np.float32)
        last = window.canvas[window.sweep]
        for corners in window.batches:
            for slab in sums.finish(corners[0][window.sweep]):
                result[:, *slab.place] = slab.logits.cpu().numpy()
            tiles = torch.stack([canvas.cut(self._pixels(corner)) for corner in corners])
            for corner, features in zip(corners, self._level(tiles), strict=True):
                sums.add(features, corner)
        for slab in sums.finish(last):
            result[:, *slab.place] = slab.logits.cpu().numpy()
        sums.check()
        return result

    def _level(self, tiles: Float[Tensor, "batch channel *patch"]) -> Float[Tensor, "batch feature *own"]:
        """Features of tiles in full precision; a 2D network gets those of a volume, one slice thick, as pictures."""
        flat = self.plan.dimensions < self.plan.image_axes
        found = self.network.features(tiles.squeeze(2) if flat else tiles, stop_at=self.tap)[self.tap]
        return found.unsqueeze(2) if flat else found

    def _pixels(self, cells: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n * step for n, step in zip(cells, self.stride, strict=True))


def _linear(array: Float[np.ndarray, "*own"], shape: tuple[int, ...]) -> Float[np.ndarray, "*wanted"]:
    return resample(array, shape, "linear")
