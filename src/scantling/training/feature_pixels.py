"""Which parts of a case are looked at, which of their pixels are drawn, and what a network makes of them.

A picture or a slice that is not large is looked at whole, padded to what the network's strides ask for; of anything
larger some patches are. What is drawn depends on the seed and the case alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from scantling.contrast.points import Points, gather
from scantling.data.plan import Plan
from scantling.data.prepare import normalised_values
from scantling.data.store import PreparedCase
from scantling.evaluation.embedding import balanced_pixels
from scantling.evaluation.linear_probe import LinearProbe
from scantling.inference.device import autocast
from scantling.inference.tiling import tile
from scantling.networks.unet import UNet
from scantling.seeding import numpy_generator
from scantling.shapes import IGNORE

WHOLE_VOXELS: Final = 2**18
"""A picture, slice or volume of at most so many is looked at in one piece: 512 x 512, or 64 x 64 x 64."""
CASE_VOXELS: Final = 2**18
"""Of a larger case, or one of many slices, about so many are looked at."""

Place = tuple[int | slice, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Pixels of one piece of a case.

    Attributes:
        place: of the piece in the prepared image.
        indices: of the pixels, within the piece.
        labels: class of each.
        weights: how many pixels of its class and case each stands for.
    """

    place: Place
    indices: Int64[np.ndarray, "pixel axis"]
    labels: Int64[np.ndarray, "pixel"]
    weights: Float64[np.ndarray, "pixel"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Looked:
    """A labelled case, the pieces of it that are looked at, and the pixels drawn in them."""

    case: PreparedCase
    pieces: tuple[Drawn, ...]

    @property
    def labels(self) -> Int64[np.ndarray, "pixel"]:
        """Of all drawn pixels, piece after piece."""
        return np.concatenate([piece.labels for piece in self.pieces])

    @property
    def weights(self) -> Float64[np.ndarray, "pixel"]:
        """Of all drawn pixels, piece after piece."""
        return np.concatenate([piece.weights for piece in self.pieces])


def draw_pixels(case: PreparedCase, plan: Plan, *, per_class: int, seed: int) -> Looked:
    """Up to `per_class` pixels of each class of a labelled case, in the pieces that are looked at.

    Background of a case in which not every class was looked for may be anything, and is not drawn.
    """
    assert case.labels is not None
    labels = np.asarray(case.labels)
    known = labels if case.annotated.all() else np.where(labels == 0, IGNORE, labels)
    places = _places(labels, plan, numpy_generator(seed, "pieces looked at", case.case_id))
    flat = [known[place].ravel().astype(np.int64) for place in places]
    together = np.concatenate(flat)
    drawn = balanced_pixels(together, per_class, numpy_generator(seed, "pixels looked at", case.case_id))
    sizes = np.bincount(together[together >= 0], minlength=len(plan.classes.names))
    taken = np.bincount(together[drawn], minlength=len(plan.classes.names))
    pieces, ends = [], np.cumsum([len(part) for part in flat])
    for place, part, end in zip(places, flat, ends, strict=True):
        own = drawn[(drawn >= end - len(part)) & (drawn < end)] - (end - len(part))
        klass = part[own]
        shape = known[place].shape
        pieces.append(
            Drawn(
                place=place,
                indices=np.stack(np.unravel_index(own, shape), axis=1).astype(np.int64),
                labels=klass,
                weights=sizes[klass] / np.maximum(taken[klass], 1),
            )
        )
    return Looked(case=case, pieces=tuple(pieces))


@torch.inference_mode()
def piece_features(
    network: UNet, case: PreparedCase, place: Place, *, tap: str, device: torch.device, precision: torch.dtype | None
) -> tuple[Float[Tensor, "1 feature *map"], tuple[int, ...]]:
    """A piece's feature map, in float32, and the size that it covers: the piece's, padded behind with 0 to a multiple
    of the network's strides."""
    values = normalised_values(case.image[(slice(None), *place)], case.scale, case.offset)
    image = torch.from_numpy(values).to(device)
    padding = [-n % step for n, step in zip(image.shape[1:], network.divisor, strict=True)]
    image = F.pad(image, [length for after in reversed(padding) for length in (0, after)])
    with autocast(device, precision):
        found = network.features(image[None], stop_at=tap)[tap]
    return found.float(), tuple(image.shape[1:])


def features_at(
    feature_map: Float[Tensor, "1 feature *map"], covered: tuple[int, ...], indices: Int64[np.ndarray, "pixel axis"]
) -> Float[Tensor, "pixel feature"]:
    """Features of pixels, on the CPU; linear between those of a map that is coarser than the image."""
    at = torch.from_numpy(indices).to(feature_map.device, torch.float32)[None, None]
    there = torch.ones(at.shape[:3], dtype=torch.bool, device=at.device)
    return gather(feature_map[:, None], Points(indices=at, usable=there), covered)[0, 0].cpu()


@torch.inference_mode()
def probed_labels(
    probe: LinearProbe, feature_map: Float[Tensor, "1 feature *map"], covered: tuple[int, ...], shape: tuple[int, ...]
) -> Int64[np.ndarray, "*spatial"]:
    """The class that a linear probe gives each pixel of a piece of this shape.

    Logits are interpolated, which is the same as interpolating features: the probe is linear.
    """
    device = feature_map.device
    weight = torch.from_numpy(probe.weight).to(device, torch.float32)
    bias = torch.from_numpy(probe.bias).to(device, torch.float32)
    logits = torch.einsum("kf,bf...->bk...", weight, feature_map) + bias.reshape(-1, *[1] * len(covered))
    if tuple(logits.shape[2:]) != covered:
        logits = F.interpolate(logits, covered, mode="bilinear" if len(covered) == 2 else "trilinear")
    inside = logits[0][:, *(slice(n) for n in shape)]
    labels: Int64[np.ndarray, "*spatial"] = probe.classes.astype(np.int64)[inside.argmax(dim=0).cpu().numpy()]
    return labels


def _places(labels: np.ndarray, plan: Plan, rng: np.random.Generator) -> list[Place]:
    """Pieces in random order, one with foreground and one without in turn, as many as the voxels of a case allow."""
    by_slice = plan.dimensions < plan.image_axes
    shape = labels.shape[1:] if by_slice else labels.shape
    windows = _windows(shape, plan.patch_size)
    frames: Sequence[tuple[int, ...]] = [(int(k),) for k in _known_slices(labels)] if by_slice else [()]
    places: list[Place] = [(*frame, *window) for frame in frames for window in windows]
    places = [places[k] for k in rng.permutation(len(places))]
    with_foreground = [place for place in places if (labels[place] > 0).any()]
    without = [place for place in places if not (labels[place] > 0).any()]
    turns = [place for pair in itertools.zip_longest(with_foreground, without) for place in pair if place is not None]
    voxels = math.prod(part.stop - part.start for part in windows[0])
    return turns[: max(1, CASE_VOXELS // voxels)]


def _known_slices(labels: np.ndarray) -> Int64[np.ndarray, "known"]:
    known: Int64[np.ndarray, "known"] = np.flatnonzero((labels != IGNORE).any(axis=tuple(range(1, labels.ndim))))
    return known if len(known) else np.arange(len(labels))


def _windows(shape: tuple[int, ...], patch: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """All of it where it is small, else patches that cover it, each within it."""
    if math.prod(shape) <= max(WHOLE_VOXELS, math.prod(patch)):
        return [tuple(slice(0, n) for n in shape)]
    tiling = tile(shape, patch, overlap=0.0, batch_size=1)
    corners = [corner for batch in tiling.batches for corner in batch]
    return [
        tuple(
            slice(max(at - before, 0), min(at - before + length, n))
            for at, before, length, n in zip(corner, tiling.before, patch, shape, strict=True)
        )
        for corner in corners
    ]
