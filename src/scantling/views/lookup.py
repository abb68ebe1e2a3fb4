"""One view on the CPU: axes that stay apart are interpolated alone, volumes that turn freely looked up by slabs.

The result is that of `grid_sample` on the full grid, to rounding, in a fraction of the time. The place of a view's
pixels in the source is one tensor of voxel positions per source axis, of length 1 along each view axis that it
does not depend on: a turn within the slices costs the positions of one slice, a shift those of one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from scantling.views import elastic, geometry

_SLAB: Final = 2**17  # pixels looked up together: their positions and values stay in the cache of a core
_WHOLE_IN_FLOAT32: Final = 2**24  # whole numbers up to here are exact


class Place(NamedTuple):
    """Where a view's pixels lie along one axis of the source, in voxels, and between which two they all do."""

    at: Tensor
    low: float
    high: float


def resample_view(
    image: Float[Tensor, "channel *source"],
    marks: Sequence[Shaped[Tensor, "*source"]],
    source_index_from_view_index: Float[Tensor, "row row"],
    *,
    outside: Sequence[float],
    into: tuple[Float[Tensor, "channel *patch"], Sequence[Shaped[Tensor, "*patch"]]],
    control_voxels: Float[Tensor, "axis *control"] | None = None,
) -> None:
    """The image by linear interpolation, 0 outside the source; each mark by nearest.

    Args:
        source_index_from_view_index: float64, in pixel indices (`geometry.index_matrix`).
        outside: what each mark is outside the source.
        into: where the view's image and marks are written: one copy less of a volume. A mark may be of another type
            than its source.
        control_voxels: control points of the displacement, in voxels of the view (`elastic.field`).
    """
    shown, found = into
    patch_size = shown.shape[1:]
    places = _places(source_index_from_view_index, patch_size, control_voxels)
    apart = [axis for axis in range(len(places)) if _stays_apart(places, axis)]
    if len(places) - len(apart) < 3:
        _look_up_marks(marks, places, outside, found)
        shown.copy_(_linear(image, places, apart, patch_size))
        return
    rows = max(1, _SLAB // (patch_size[1] * patch_size[2]))
    for first in range(0, patch_size[0], rows):
        count = min(rows, patch_size[0] - first)
        there = [p if p.at.shape[0] == 1 else p._replace(at=p.at.narrow(0, first, count)) for p in places]
        _look_up_marks(marks, there, outside, [mark.narrow(0, first, count) for mark in found])
        _look_up_neighbours(image, there, shown.narrow(1, first, count))


def _places(matrix: Tensor, patch_size: Sequence[int], control_voxels: Tensor | None) -> list[Place]:
    """Per source axis; float64 where it depends on one axis of the view, float32 where several come together."""
    dimensions = len(patch_size)
    linear, origin = matrix[:-1, :-1], matrix[:-1, -1].tolist()
    bent: Tensor | None = None
    if control_voxels is not None:
        control = torch.tensordot(linear, control_voxels.to(linear.dtype), dims=1)
        bent = elastic.field(control[None].to(torch.float32), patch_size)[0]
    places = []
    for row in range(dimensions):
        terms = []
        for axis, factor in enumerate(linear[row].tolist()):
            if factor:
                shape = [patch_size[axis] if i == axis else 1 for i in range(dimensions)]
                terms.append((torch.arange(patch_size[axis], dtype=torch.float64) * factor).view(shape))
        terms[-1] += origin[row]
        if bent is not None and bool(bent[row].any()):
            terms.append(bent[row])
        if len(terms) == 1:
            whole = terms[0].round()
            at = torch.where((terms[0] - whole).abs() < geometry.WHOLE_TOLERANCE, whole, terms[0])
        else:
            at = terms[0].to(torch.float32)
            for term in terms[1:]:
                at = at + term.to(torch.float32)
        places.append(Place(at, float(at.amin()), float(at.amax())))
    return places


def _stays_apart(places: Sequence[Place], axis: int) -> bool:
    """Whether a source axis depends on its own view axis alone, and no other source axis does."""
    alone = all(n == 1 for i, n in enumerate(places[axis].at.shape) if i != axis)
    return alone and all(place.at.shape[axis] == 1 for i, place in enumerate(places) if i != axis)


def _look_up_marks(
    marks: Sequence[Tensor], places: Sequence[Place], outside: Sequence[float], found: Sequence[Tensor]
) -> None:
    """Each mark where the pixels fall, its value for outside where they fall beside the source."""
    if not marks:
        return
    rows, beyond, shape = [], None, marks[0].shape
    for place, size in zip(places, shape, strict=True):
        row = place.at.round()
        if round(place.low) < 0 or round(place.high) > size - 1:
            inner = row.clamp(0, size - 1)
            out = inner != row
            beyond = out if beyond is None else beyond | out
            row = inner
        rows.append(row)
    entries = _entries(rows, shape, found[0].shape)
    for mark, target, value in zip(marks, found, outside, strict=True):
        target.copy_(mark.reshape(-1).index_select(0, entries.view(-1)).view(target.shape))
        if beyond is not None:
            target.masked_fill_(beyond, value)


def _linear(image: Tensor, places: Sequence[Place], apart: Sequence[int], patch_size: Sequence[int]) -> Tensor:
    """The axes that stay apart one after the other, within the box that the other two look at; then these."""
    others = [axis for axis in range(len(places)) if axis not in apart]
    extent, grid = [patch_size[axis] for axis in others], []
    for axis in others:
        at, low, high = places[axis]
        size = image.shape[axis + 1]
        first = min(max(int(low), 0), size - 1)
        length = min(max(int(high) + 2, first + 1), size) - first
        image = image.narrow(axis + 1, first, length)
        scaled = (at * (2 / length)).add_((1 - 2 * first) / length - 1).to(torch.float32)
        grid.append(scaled.expand(*_only(others, patch_size)).reshape(extent))
    for axis in apart:
        image = _blend_along(image, axis + 1, places[axis].at)
    if not others:
        return image
    # two axes that turn are those of a picture, all that comes before its channels
    picture = image.movedim([axis + 1 for axis in others], [-2, -1])
    sampled = F.grid_sample(
        picture.reshape(1, -1, *picture.shape[-2:]),
        torch.stack(grid[::-1], dim=-1)[None],  # it wants x first
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return sampled.view(*picture.shape[:-2], *extent).movedim([-2, -1], [axis + 1 for axis in others])


def _only(axes: Sequence[int], patch_size: Sequence[int]) -> list[int]:
    return [n if axis in axes else 1 for axis, n in enumerate(patch_size)]


def _blend_along(image: Tensor, axis: int, place: Tensor) -> Tensor:
    """Linear interpolation along one axis, times the share of each position's reach that the source covers."""
    size = image.shape[axis]
    inner = place.clamp(0, size - 1)
    lower = inner.floor().clamp_(max=max(size - 2, 0))
    share, rows = (inner - lower).to(image.dtype), lower.flatten().long()
    if axis == 1 and bool(share.any()):  # slice by slice: nothing but the result is written
        taken = image.new_empty((image.shape[0], len(rows), *image.shape[2:]))
        for number, (row, weight) in enumerate(zip(rows.tolist(), share.flatten().tolist(), strict=True)):
            torch.lerp(image[:, row], image[:, min(row + 1, size - 1)], weight, out=taken[:, number])
    else:
        taken = image.index_select(axis, rows)
        if bool(share.any()):
            taken.lerp_(image.index_select(axis, (rows + 1).clamp_(max=size - 1)), share)
    if bool((inner != place).any()):
        taken.mul_(_covered(place, size).to(image.dtype))
    return taken


def _look_up_neighbours(image: Tensor, places: Sequence[Place], shown: Tensor) -> None:
    """Each pixel's lower neighbour is looked up; the others lie at fixed distances from it in memory."""
    shape, patch_size = image.shape[1:], shown.shape[1:]
    lowers, steps, coverage = [], [], None
    stride = shape.numel()
    for place, size in zip(places, shape, strict=True):
        stride //= size
        at = place.at
        if place.low < 0 or place.high > size - 1:
            covered = _covered(at, size).to(image.dtype)
            coverage = covered if coverage is None else coverage * covered
            at = at.clamp(0, size - 1)
        lower = at.floor().clamp_(max=max(size - 2, 0))
        lowers.append(lower)
        steps.append((stride if size > 1 else 0, (at - lower).to(image.dtype)))
    entries = _entries(lowers, shape, patch_size)
    for source, target in zip(image, shown, strict=True):
        blended = _blend(source.reshape(-1), entries, steps)
        target.copy_(blended if coverage is None else blended.mul_(coverage))


def _blend(flat: Tensor, entries: Tensor, steps: Sequence[tuple[int, Tensor]]) -> Tensor:
    """What lies at `entries` joined with what lies one step on, along one axis after the other."""
    if not steps:
        return flat.index_select(0, entries.view(-1)).view(entries.shape)
    (step, share), others = steps[0], steps[1:]
    return _blend(flat, entries, others).lerp_(_blend(flat[step:], entries, others), share)


def _covered(place: Tensor, size: int) -> Tensor:
    """1 inside, falling to 0 one voxel outside: linear interpolation towards zeros."""
    return (place + 1).clamp_(0, 1).mul_((size - place).clamp_(0, 1))


def _entries(rows: Sequence[Tensor], shape: Sequence[int], patch_size: Sequence[int]) -> Int[Tensor, "*pixel"]:
    """Positions in the flattened source of the voxels with these rows."""
    voxels = torch.Size(shape).numel()
    exact = torch.float32 if voxels <= _WHOLE_IN_FLOAT32 else torch.int64
    entries = rows[-1].to(exact)
    stride = 1
    for row, size in zip(reversed(rows[:-1]), reversed(shape[1:]), strict=True):
        stride *= size
        entries = torch.add(entries, row.to(exact), alpha=stride)
    whole = entries.to(torch.int32) if exact == torch.float32 else entries
    return whole.expand(*patch_size).contiguous()
