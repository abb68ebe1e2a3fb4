"""Predict an image patch by patch, holding only the part of it that is not finished yet.

Patches are weighted by a Gaussian and summed in float32. The window advances along one axis; what lies behind
it is finished, is handed out as a slab and its memory is used again. So labels of a large volume need classes
x patch length x two axes of memory, not classes x volume.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scantling.errors import PlanMismatch
from scantling.inference.accumulator import Accumulator, Slab
from scantling.inference.canvas import Canvas, StoredImage
from scantling.inference.device import autocast
from scantling.inference.tiling import Tiling, box, tile


def iterate_slabs(
    network: nn.Module,
    image: Float[Tensor, "channel *spatial"] | StoredImage,
    *,
    patch_size: tuple[int, ...],
    n_classes: int,
    overlap: float = 0.5,
    batch_size: int = 1,
    mirror_axes: tuple[int, ...] = (),
    amp: torch.dtype | None = None,
    slices: bool = False,
    device: torch.device | None = None,
) -> Iterator[Slab]:
    """Logits of an image as finished slabs, in order along one axis; together they are `predict_logits`.

    Args:
        network: maps `[B, C, *patch]` to logits `[B, n_classes, *patch]`; it is put in evaluation mode for as
            long as the iteration lasts.
        image: counts as 0 around it where it is smaller than the patch.
        overlap: least share of a patch that two neighbours have in common, in [0, 1).
        batch_size: patches in one forward pass.
        mirror_axes: axes of the patch whose mirrored images are predicted too, in all combinations.
        amp: precision of the network; sums are float32 whatever it is.
        slices: the network is 2D, the image a volume: each slice of its first axis is predicted by itself,
            `batch_size` slices together.
        device: where to compute; None is where the network is.

    Raises:
        ValueError: patch and image differ in axes, `overlap` or `batch_size` is out of range.
        PlanMismatch: the network gives other than `n_classes` maps of the patch's size.
        IntegrityError: the network gave a value that is not finite (raised after the last slab).
    """
    window = _window(image, patch_size, overlap, batch_size, slices)
    predict = _Forward(network, n_classes, tuple(patch_size), mirror_axes, amp)
    buffer = torch.zeros((n_classes, *window.unfinished), device=device or _device_of(network, image))
    with _evaluation_mode(network):
        yield from _sweep(predict, image, window, buffer)


def predict_logits(
    network: nn.Module,
    image: Float[Tensor, "channel *spatial"] | StoredImage,
    *,
    patch_size: tuple[int, ...],
    n_classes: int,
    overlap: float = 0.5,
    batch_size: int = 1,
    mirror_axes: tuple[int, ...] = (),
    amp: torch.dtype | None = None,
    slices: bool = False,
    device: torch.device | None = None,
) -> Float[Tensor, "klass *spatial"]:
    """Logits of an image on the CPU: the weighted mean over all patches; arguments as `iterate_slabs`."""
    window = _window(image, patch_size, overlap, batch_size, slices)
    predict = _Forward(network, n_classes, tuple(patch_size), mirror_axes, amp)
    device = device or _device_of(network, image)
    whole = device.type == "cpu"  # the sum is the result: no copy of it
    buffer = torch.zeros((n_classes, *(window.canvas if whole else window.unfinished)), device=device)
    result = buffer[:, *box(window.before, window.shape)] if whole else torch.empty((n_classes, *window.shape))
    with _evaluation_mode(network):
        for slab in _sweep(predict, image, window, buffer):
            if not whole:
                result[:, *slab.place].copy_(slab.logits)
    return result.contiguous()


def predict_labels(
    network: nn.Module,
    image: Float[Tensor, "channel *spatial"] | StoredImage,
    *,
    patch_size: tuple[int, ...],
    n_classes: int,
    overlap: float = 0.5,
    batch_size: int = 1,
    mirror_axes: tuple[int, ...] = (),
    amp: torch.dtype | None = None,
    slices: bool = False,
    device: torch.device | None = None,
) -> Int[Tensor, "*spatial"]:
    """Class index of each voxel on the CPU, the argmax of `predict_logits` without ever holding all logits.

    int8 up to 127 classes, else int16; of equal logits the first class wins. Arguments as `iterate_slabs`.
    """
    slabs = iterate_slabs(
        network, image, patch_size=patch_size, n_classes=n_classes, overlap=overlap, batch_size=batch_size,
        mirror_axes=mirror_axes, amp=amp, slices=slices, device=device,
    )  # fmt: skip
    labels = torch.empty(image.shape[1:], dtype=label_dtype(n_classes))
    for slab in slabs:
        labels[slab.place] = running_argmax(slab.logits).to(labels.device)
    return labels


def running_argmax(logits: Float[Tensor, "klass *spatial"]) -> Int[Tensor, "*spatial"]:
    """Argmax over the first axis by a running maximum; the first of equals wins.

    Many times faster than `argmax(0)`, which walks memory across the classes. Later classes have larger
    indices, so the maximum of index and `index * mask` writes without a branch where the mask is set.
    """
    best = logits[0].clone()
    labels = torch.zeros_like(best, dtype=label_dtype(len(logits)))
    for k in range(1, len(logits)):
        larger = (logits[k] > best).view(torch.int8).to(labels.dtype)
        torch.maximum(labels, larger.mul_(k), out=labels)
        torch.maximum(best, logits[k], out=best)
    return labels


def label_dtype(n_classes: int) -> torch.dtype:
    """The smallest signed type that holds every class index."""
    return torch.int8 if n_classes < 128 else torch.int16


class _Forward:
    """The network with its mirrored copies averaged, in its precision, and its output checked."""

    def __init__(
        self,
        network: nn.Module,
        n_classes: int,
        patch: tuple[int, ...],
        mirror: tuple[int, ...],
        amp: torch.dtype | None,
    ) -> None:
        if not set(mirror) <= set(range(len(patch))):
            raise ValueError(f"mirror axes {mirror}: a patch has axes 0 to {len(patch) - 1}")
        self.network, self.n_classes, self.patch, self.amp = network, n_classes, patch, amp
        axes = [axis + 2 for axis in mirror]
        self.flips = [c for n in range(1, len(axes) + 1) for c in itertools.combinations(axes, n)]

    def __call__(self, patches: Float[Tensor, "batch channel *patch"]) -> Float[Tensor, "batch klass *patch"]:
        logits = self._logits(patches)
        for flip in self.flips:
            logits = logits + self._logits(patches.flip(flip)).flip(flip)
        return logits / (len(self.flips) + 1) if self.flips else logits

    def _logits(self, patches: Float[Tensor, "batch channel *patch"]) -> Float[Tensor, "batch klass *patch"]:
        with autocast(patches.device, self.amp):
            logits: Tensor = self.network(patches)
        wanted = (len(patches), self.n_classes, *self.patch)
        if tuple(logits.shape) != wanted:
            raise PlanMismatch(
                f"network: patches of {tuple(patches.shape)} gave logits of {tuple(logits.shape)}, "
                f"wanted {wanted}; the plan and the weights are not of one model",
                code="E-PLN-10",
            )
        return logits.float()


def _sweep(
    predict: _Forward,
    image: Float[Tensor, "channel *spatial"] | StoredImage,
    window: Tiling,
    buffer: Float[Tensor, "klass *extent"],
) -> Iterator[Slab]:
    """Predict batch after batch into `buffer`; rows that no later batch touches are handed out."""
    sums = Accumulator(buffer, window)
    canvas = Canvas(image, window, buffer.device)
    for batch in window.batches:
        yield from sums.finish(batch[0][window.sweep])
        _add_batch(predict, canvas, batch, sums)
    yield from sums.finish(window.canvas[window.sweep])
    sums.check()


@torch.inference_mode()
def _add_batch(
    predict: _Forward,
    canvas: Canvas,
    corners: tuple[tuple[int, ...], ...],
    sums: Accumulator,
) -> None:
    """One forward pass; a 2D network gets the tiles of a volume, which are one slice thick, as pictures."""
    flat = len(predict.patch) < len(sums.window.patch)
    tiles = [canvas.cut(corner) for corner in corners]
    tiles = [each.squeeze(1) for each in tiles] if flat else tiles
    logits = predict(torch.stack(tiles) if len(tiles) > 1 else tiles[0].unsqueeze(0))
    for corner, each in zip(corners, logits.unsqueeze(2) if flat else logits, strict=True):
        sums.add(each, corner)


def _window(
    image: Float[Tensor, "channel *spatial"] | StoredImage,
    patch_size: tuple[int, ...],
    overlap: float,
    batch_size: int,
    slices: bool,
) -> Tiling:
    patch = (1, *patch_size) if slices else tuple(patch_size)
    return tile(tuple(image.shape[1:]), patch, overlap=overlap, batch_size=batch_size)


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Within the block every module is in evaluation mode; afterwards each is as it was."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _device_of(network: nn.Module, image: Tensor | StoredImage) -> torch.device:
    parameter = next(network.parameters(), None)
    return image.device if parameter is None else parameter.device
