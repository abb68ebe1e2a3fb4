"""An image on its own grid and in its own type, as the image model sees it, and a change of it taken back there.

What is written is the stored image plus a change: detail that the model's size cannot show, the grid, and values
outside the model's range all survive, and where nothing changes every bit stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Num

from scantling.counterfactuals.image_plan import ChannelScaling, ImagePlan
from scantling.counterfactuals.table import Row, row_of
from scantling.data.case import Case
from scantling.data.image import ImageGeometry
from scantling.data.image_io import read_image
from scantling.data.normalising import finite, percentiles
from scantling.data.prepare import PreparedGrid, channel_arrays, on_shape, turn, turned_grid, unturn
from scantling.data.resampling import resample
from scantling.errors import IntegrityError, PlanMismatch, ScantlingError

_MOST_OUTSIDE: Final = 0.5
"""Share of the values that may lie outside a fixed range; beyond it the image is in another unit or bit depth."""
_BLOCK: Final = 2**20
"""Values that are float64 at one time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceImage:
    """An image with its attributes.

    Attributes:
        channels: in the type that the file stores.
        row: attributes by name; of a counterfactual, those after the intervention.
    """

    case_id: str
    channels: tuple[Num[np.ndarray, "*source"], ...]
    geometry: ImageGeometry
    row: Row


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelImage:
    """An image as the model sees it.

    Attributes:
        values: in [-1, 1], float32.
        ranges: of each channel, the stored values that became -1 and 1.
    """

    values: Float[np.ndarray, "channel *spatial"]
    ranges: tuple[tuple[float, float], ...]


def read_source(case: Case, n_channels: int) -> SourceImage:
    """An image of a data set with its attributes.

    Args:
        n_channels: as many as the plan names.

    Raises:
        DataError: unreadable, or another number of channels; the message names the case.
        GeometryError: its channels do not share one grid.
    """
    try:
        images = [read_image(path) for path in case.images]
        channels = tuple(channel_arrays(images, n_channels))
    except ScantlingError as error:
        raise type(error)(f"case {case.case_id}: {error.message}", code=error.code) from error
    return SourceImage(case_id=case.case_id, channels=channels, geometry=images[0].geometry, row=row_of(case))


def to_model(source: SourceImage, plan: ImagePlan) -> ModelImage:
    """Turned, stretched to the plan's size by cubic interpolation (widened where it shrinks), scaled and clamped.

    NaN and infinities count as the smallest value.

    Raises:
        PlanMismatch: another number of axes or channels than the plan's; or more than half of the values lie outside
            the plan's fixed range.
    """
    if len(source.channels) != len(plan.scaling):
        raise PlanMismatch(
            f"case {source.case_id}: image has {len(source.channels)} channels, the plan is for {len(plan.scaling)}",
            code="E-PLN-02",
        )
    grid = _model_grid(source, plan)
    values, ranges = np.empty((len(source.channels), *grid.shape), dtype=np.float32), []
    for result, stored, scaling in zip(values, source.channels, plan.scaling, strict=True):
        channel = finite(turn(stored, grid))
        low, high = _range(channel, scaling, source.case_id)
        stretched = (resample(channel, grid.shape, "cubic") - low) * (2.0 / (high - low)) - 1.0
        np.clip(stretched, -1.0, 1.0, out=result)
        ranges.append((low, high))
    return ModelImage(values=values, ranges=tuple(ranges))


def onto_source(
    source: SourceImage, model: ModelImage, change: Float[np.ndarray, "channel *spatial"], plan: ImagePlan
) -> SourceImage:
    """The stored image plus a change that the model made: stretched linearly, turned back, in stored units.

    Whole numbers are rounded, halves to even, and clipped to their type. Where the change is 0, every bit stays.

    Args:
        model: what `to_model` made of `source`.
        change: in the units of [-1, 1].

    Raises:
        IntegrityError: the change holds NaN or infinities.
    """
    if change.shape != model.values.shape:
        raise ValueError(f"change of {change.shape} for a model image of {model.values.shape}; wanted one shape")
    if not np.isfinite(change).all():
        raise IntegrityError(
            f"case {source.case_id}: the image model gave values that are not finite; its training may have diverged, "
            "so train it again",
            code="E-CHK-06",
        )
    grid = _model_grid(source, plan)
    channels = []
    for stored, part, (low, high) in zip(source.channels, change, model.ranges, strict=True):
        on_grid = unturn(resample(part, grid.turned_shape, "linear"), grid)
        channels.append(plus(stored, on_grid, unit=(high - low) / 2.0))
    return replace(source, channels=tuple(channels))


def plus(
    stored: Num[np.ndarray, "*source"], change: Float[np.ndarray, "*source"], *, unit: float = 1.0
) -> Num[np.ndarray, "*source"]:
    """`stored + change * unit` in the type of `stored`: rounded, halves to even, and clipped where it is integer.

    Where the change is 0, every bit stays, NaN included.
    """
    result = stored.copy()
    for rows in _blocks(stored.shape):
        part = change[rows]
        moved = stored[rows].astype(np.float64) + part.astype(np.float64) * unit
        np.copyto(result[rows], _in_type(moved, stored.dtype), where=part != 0)
    return result


def as_stored(stored: Num[np.ndarray, "*source"], values: Num[np.ndarray, "*source"]) -> Num[np.ndarray, "*source"]:
    """Values in stored units in the type of `stored`; where they equal it in float32, every bit of it stays."""
    result = stored.copy()
    for rows in _blocks(stored.shape):
        changed = values[rows].astype(np.float32) != stored[rows].astype(np.float32)
        np.copyto(result[rows], _in_type(values[rows].astype(np.float64), stored.dtype), where=changed)
    return result


def _model_grid(source: SourceImage, plan: ImagePlan) -> PreparedGrid:
    axes = len(source.geometry.shape)
    if axes != plan.image_axes:
        raise PlanMismatch(
            f"case {source.case_id}: image has {axes} spatial axes {source.geometry.shape}, the plan is for "
            f"{plan.image_axes}; use images of the kind the plan was made from",
            code="E-PLN-01",
        )
    return on_shape(turned_grid(source.geometry, plan.axis_order), plan.size)


def _range(channel: Num[np.ndarray, "*spatial"], scaling: ChannelScaling, case_id: str) -> tuple[float, float]:
    """The stored values that become -1 and 1; those of a constant channel have it in the middle."""
    if scaling.low is not None and scaling.high is not None:
        low, high = scaling.low, scaling.high
        outside = float(((channel < low) | (channel > high)).mean())
        if outside > _MOST_OUTSIDE:
            raise PlanMismatch(
                f"case {case_id}: {outside:.0%} of its values lie outside {low:g}..{high:g}, the range of the plan "
                f"(they are {float(channel.min()):g} to {float(channel.max()):g}); save it in the unit and bit depth "
                "of the images that the plan was made from",
                code="E-PLN-07",
            )
        return low, high
    low, high = percentiles(channel, (scaling.low_percentile, scaling.high_percentile))
    if low == high:
        low, high = float(channel.min()), float(channel.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _in_type(values: Float[np.ndarray, "*block"], dtype: np.dtype[Any]) -> Num[np.ndarray, "*block"]:
    """Rounded, halves to even, and clipped for an integer type; as they are for floats."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low, high = float(info.min), float(info.max)
        values = np.rint(values).clip(low, high if int(high) <= info.max else np.nextafter(high, 0.0))
    return values.astype(dtype)


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Ranges of the first axis of about `_BLOCK` values each."""
    step = max(1, _BLOCK // max(1, int(np.prod(shape[1:]))))
    return (slice(start, start + step) for start in range(0, shape[0], step))
