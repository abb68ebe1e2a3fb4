"""For each pixel of one feature map the sum of its cosines to the near pixels of another: O(N w), never N x N.

Where a pixel lies in the other map is exact: a matrix leads from indices to indices, and nearness is measured in mm
of the source. Both directions look only into a window that surely contains what is near, and ask for each pair the
same question in the same arithmetic, so the backward pass finds the pairs of the forward pass. The sums are
`embedding_bag`s: no pair's vector is ever held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

_PAIRS_CPU: Final = 2**14  # 256 KiB for each number of a pair in float64: it stays in the cache
_PAIRS_CUDA: Final = 2**21
_SHORTEST: Final = 1e-12  # a shorter vector has no direction


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """When a pixel of a second map is near to one of a first: closer than a radius in the source.

    Attributes:
        second_from_first: indices to indices, not rounded; float64, on the device of the maps.
        first_from_second: its inverse.
        mm_from_second: from steps of the second map's index to mm of the source; float64.
        first_shape, second_shape: of the maps.
        first_places, second_places: the index of each pixel of a map, one tensor an axis.
        first_steps, second_steps: the same of a window: how far, in whole steps, a near pixel can be from the pixel of
            the map that is nearest to the exact place.
    """

    second_from_first: Float[Tensor, "batch row column"]
    first_from_second: Float[Tensor, "batch row column"]
    mm_from_second: Float[Tensor, "batch axis axis"]
    radius_mm: float
    first_shape: tuple[int, ...]
    second_shape: tuple[int, ...]
    first_places: tuple[Float[Tensor, "first"], ...]
    second_places: tuple[Float[Tensor, "second"], ...]
    first_steps: tuple[Float[Tensor, "first_window"], ...]
    second_steps: tuple[Float[Tensor, "second_window"], ...]


def nearness(
    second_index_from_first_index: Float[Tensor, "batch row row"],
    source_from_second_index: Float[Tensor, "batch row row"],
    radius_mm: float,
    *,
    first_shape: Sequence[int],
    second_shape: Sequence[int],
    device: torch.device,
) -> Nearness:
    """What is near, and how large the windows must be.

    They follow from the radius: a step d with |A d| < r has |d_k| < r times the length of row k of the inverse of A,
    which is at most r over the smallest singular value. Matrices that are on the CPU make nothing wait.

    Raises:
        ValueError: a radius that is not positive, or a matrix without an inverse.
    """
    if not 0 < radius_mm < math.inf:
        raise ValueError(f"radius_mm must be > 0 and finite, got {radius_mm}")
    index = second_index_from_first_index.to("cpu", torch.float64)
    mm_from_second = source_from_second_index[:, :-1, :-1].to("cpu", torch.float64)
    try:
        inverse: Tensor = torch.linalg.inv(index)
        second_reach = _reach(mm_from_second, radius_mm, second_shape)
        first_reach = _reach(mm_from_second @ index[:, :-1, :-1], radius_mm, first_shape)
    except RuntimeError as error:  # torch's LinAlgError
        raise ValueError(f"the matrices between the maps must have an inverse ({error})") from None
    return Nearness(
        second_from_first=index.to(device, non_blocking=True),
        first_from_second=inverse.to(device, non_blocking=True),
        mm_from_second=mm_from_second.to(device, non_blocking=True),
        radius_mm=radius_mm,
        first_shape=tuple(first_shape),
        second_shape=tuple(second_shape),
        first_places=_grid([range(size) for size in first_shape], device),
        second_places=_grid([range(size) for size in second_shape], device),
        first_steps=_grid([range(-reach, reach + 1) for reach in first_reach], device),
        second_steps=_grid([range(-reach, reach + 1) for reach in second_reach], device),
    )


def near_sums(
    first: Float[Tensor, "batch feature *first"],
    second: Float[Tensor, "batch feature *second"],
    near: Nearness,
    *,
    first_usable: Bool[Tensor, "batch *first"] | None = None,
    second_usable: Bool[Tensor, "batch *second"] | None = None,
) -> tuple[Float[Tensor, "batch *first"], Float[Tensor, "batch *first"]]:
    """For each pixel of the first map the sum of its cosines to the near pixels of the second, and their number.

    Unusable pixels have no near ones and are near to none. A vector of length 0 has cosine 0 and no gradient.

    Raises:
        ValueError: not as many matrices as samples.
    """
    if not len(first) == len(second) == len(near.second_from_first):
        raise ValueError(
            f"the maps are of {len(first)} and {len(second)} samples, the matrices of {len(near.second_from_first)}; "
            "wanted one of each a sample"
        )
    sums, counts = cast(
        "tuple[Tensor, Tensor]",
        _NearSums.apply(first, second, near, first_usable, second_usable),  # type: ignore[no-untyped-call]
    )
    shape = (first.shape[0], *first.shape[2:])
    return sums.reshape(shape), counts.reshape(shape)


class _NearSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor,
        near: Nearness,
        first_usable: Tensor | None,
        second_usable: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        dtype = _precision(first, second)
        sums, counts = torch.zeros(
            (2, len(first), math.prod(near.first_shape)), dtype=dtype, device=first.device
        ).unbind()
        for samples in _groups(near, first.device):
            anchors, _ = _unit_rows(first, first_usable, samples, dtype)
            keys, _ = _unit_rows(second, second_usable, samples, dtype)
            of_anchor, n_near = sums[samples].view(-1), counts[samples].view(-1)
            for rows, index, weights in _windows(near, samples, dtype, second_usable, of_second=False):
                n_near[rows] = weights.sum(dim=1)
                of_anchor[rows] = torch.linalg.vecdot(_bags(index, weights, keys), anchors[rows])
        if first_usable is not None:
            counts *= first_usable.flatten(1)
        ctx.near = near
        ctx.save_for_backward(first, second, first_usable, second_usable)
        ctx.mark_non_differentiable(counts)
        return sums, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, at_sums: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        near: Nearness = ctx.near
        first, second, first_usable, second_usable = ctx.saved_tensors
        needed, dtype = ctx.needs_input_grad, _precision(first, second)
        at_first, at_second = (
            torch.empty_like(maps, memory_format=torch.contiguous_format) if need else None
            for maps, need in ((first, needed[0]), (second, needed[1]))
        )
        for samples in _groups(near, first.device):
            anchors, anchor_scales = _unit_rows(first, first_usable, samples, dtype)
            keys, key_scales = _unit_rows(second, second_usable, samples, dtype)
            pull = at_sums[samples].reshape(-1)
            if at_first is not None:
                gradient = torch.empty_like(anchors)
                for rows, index, weights in _windows(near, samples, dtype, second_usable, of_second=False):
                    pulled = _bags(index, weights, keys).mul_(pull[rows, None])
                    gradient[rows] = _through_unit_(pulled, anchors[rows], anchor_scales[rows])
                _put(at_first, samples, gradient)
                del gradient
            if at_second is not None:
                for rows, index, weights in _windows(near, samples, dtype, first_usable, of_second=True):
                    pulled = _bags(index, weights.mul_(pull[index]), anchors)
                    keys[rows] = _through_unit_(pulled, keys[rows], key_scales[rows])  # needed no more as keys
                _put(at_second, samples, keys)
        return at_first, at_second, None, None, None


def _reach(mm_from_index: Tensor, radius_mm: float, shape: Sequence[int]) -> tuple[int, ...]:
    lengths = torch.linalg.vector_norm(torch.linalg.inv(mm_from_index), dim=2).amax(dim=0)
    # a pixel less than m steps from the exact place is less than m + 1/2 from the pixel nearest to that
    return tuple(
        min(math.ceil(radius_mm * length + 0.5) - 1, size - 1)
        for length, size in zip(lengths.tolist(), shape, strict=True)
    )


def _groups(near: Nearness, device: torch.device) -> Iterator[slice]:
    """Samples that are worked on together: as many as fill a tile, at least one."""
    batch = len(near.second_from_first)
    pairs = max(
        len(places[0]) * len(steps[0])
        for places, steps in ((near.first_places, near.second_steps), (near.second_places, near.first_steps))
    )
    at_once = max(1, _tile(device) // pairs)
    return (slice(start, min(start + at_once, batch)) for start in range(0, batch, at_once))


def _windows(
    near: Nearness, samples: slice, dtype: torch.dtype, usable: Tensor | None, *, of_second: bool
) -> Iterator[tuple[slice, Int[Tensor, "pixel window"], Float[Tensor, "pixel window"]]]:
    """Some samples' pixels of one map in slices, the rows of the other in their windows, and 1 where these are near.

    Args:
        usable: of the other map, all samples.
        of_second: the slices are of the second map, the windows in the first.
    """
    search = _Search(near, samples, of_second=of_second)
    batch, size, window = samples.stop - samples.start, len(search.places[0]), len(search.steps[0])
    length = size if batch > 1 else _even(size, max(1, _tile(search.places[0].device) // window))
    usable_rows = None if usable is None else usable[samples].flatten()
    for start in range(0, size, length):
        index, related = search.around(slice(start, min(start + length, size)))
        if usable_rows is not None:
            related &= usable_rows[index]
        yield slice(start, start + len(index)), index, related.to(dtype)


class _Search:
    """What is near to pixels of one map among those of the other, for a few samples."""

    def __init__(self, near: Nearness, samples: slice, *, of_second: bool) -> None:
        self.of_second, self.radius_mm = of_second, near.radius_mm
        self.places, self.steps, self.other_shape = near.first_places, near.second_steps, near.second_shape
        self.second_from_first = _entries(near.second_from_first[samples])
        self.other_from_own = self.second_from_first
        if of_second:
            self.places, self.steps, self.other_shape = near.second_places, near.first_steps, near.first_shape
            self.other_from_own = _entries(near.first_from_second[samples])
        self.mm_from_second = _entries(near.mm_from_second[samples])
        number = torch.arange(samples.stop - samples.start, dtype=torch.float64, device=self.places[0].device)
        self.first_row = number[:, None, None] * math.prod(self.other_shape)

    def around(self, pixels: slice) -> tuple[Tensor, Tensor]:
        """Rows of the other map in the window of each pixel, `[pixel, window]`, and whether they are near."""
        own = [place[pixels, None] for place in self.places]
        other = [
            place.round_().clamp_(0, size - 1) + step
            for place, size, step in zip(_mapped(self.other_from_own, own), self.other_shape, self.steps, strict=True)
        ]
        related = self._squared_mm(*((other, own) if self.of_second else (own, other))) < self.radius_mm**2
        index: Tensor | None = None  # in float64, which holds any number of pixels exactly
        for place, size in zip(other, self.other_shape, strict=True):
            inside = place.clamp(0, size - 1)
            related &= inside == place
            index = inside if index is None else index.mul_(size).add_(inside)
        assert index is not None  # there is at least one axis
        return index.add_(self.first_row).long().flatten(0, 1), related.flatten(0, 1)

    def _squared_mm(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """Squared distances in the source of places in the two maps; the same to the bit from either side."""
        steps = [there - here for there, here in zip(_mapped(self.second_from_first, first), second, strict=True)]
        squares: Tensor | None = None
        for row in self.mm_from_second:
            along = row[0] * steps[0]
            for entry, step in zip(row[1:], steps[1:], strict=True):
                along += entry * step
            squares = along.square_() if squares is None else squares.add_(along.square_())
        assert squares is not None  # there is at least one axis
        return squares


def _entries(matrix: Tensor) -> list[list[Tensor]]:
    """The entries of matrices `[batch, row, column]`, each `[batch, 1, 1]`."""
    return [[entry[:, None, None] for entry in row.unbind(1)] for row in matrix.unbind(1)]


def _mapped(matrix: list[list[Tensor]], places: Sequence[Tensor]) -> list[Tensor]:
    """Where homogeneous matrices take places, one tensor `[batch, pixel, window]` an axis."""
    mapped = []
    for row in matrix[:-1]:
        to = row[0] * places[0]
        for entry, place in zip(row[1:-1], places[1:], strict=True):
            to += entry * place
        mapped.append(to.add_(row[-1]))
    return mapped


def _even(size: int, most: int) -> int:
    """The length of equal pieces of at most `most`."""
    return math.ceil(size / math.ceil(size / most))


def _grid(ranges: Sequence[range], device: torch.device) -> tuple[Tensor, ...]:
    """The coordinates of all places of a grid, last axis fastest, one tensor an axis."""
    along = (torch.arange(each.start, each.stop, dtype=torch.float64, device=device) for each in ranges)
    return tuple(axis.flatten() for axis in torch.meshgrid(*along, indexing="ij"))


def _tile(device: torch.device) -> int:
    return _PAIRS_CPU if device.type == "cpu" else _PAIRS_CUDA


def _bags(index: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    """The weighted sum of the rows of each window."""
    return F.embedding_bag(index, rows, per_sample_weights=weights, mode="sum")


def _precision(first: Tensor, second: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (first.dtype, second.dtype) else torch.float32


def _unit_rows(maps: Tensor, usable: Tensor | None, samples: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Vectors as new rows of length 1 (0 where unusable or without direction), and what they were multiplied by."""
    part = maps[samples].flatten(2).transpose(1, 2)
    rows = torch.empty(part.shape, dtype=dtype, device=maps.device).copy_(part).flatten(0, 1)
    norms = torch.linalg.vector_norm(rows, dim=1)
    scales = torch.where(norms > _SHORTEST, norms.reciprocal(), 0)
    if usable is not None:
        unusable = ~usable[samples].flatten()
        scales.masked_fill_(unusable, 0)
        rows.masked_fill_(unusable[:, None], 0)
    return rows.mul_(scales[:, None]), scales


def _put(maps: Tensor, samples: slice, rows: Tensor) -> None:
    part = maps[samples].flatten(2)
    part.copy_(rows.view(part.shape[0], part.shape[2], part.shape[1]).transpose(1, 2))


def _through_unit_(gradient: Tensor, unit: Tensor, scales: Tensor) -> Tensor:
    """The gradient at vectors from that at their unit form, in its place."""
    along = torch.linalg.vecdot(gradient, unit)[:, None]
    return gradient.addcmul_(unit, along, value=-1).mul_(scales[:, None])
