"""Make a channel's values numbers near [-3, 3].

Normalising is a linear map of the (clipped) stored values, so that integers can stay integers on disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from scantling.data.plan import IntensityPlan

MAX_STATISTIC_VOXELS: Final = 4_000_000
"""Percentiles are taken over about this many evenly strided voxels at most: the error is far below noise."""
_SPIKE: Final = 1e6
"""A value this many times the 1-99 % range away from it is damage (an unset float), not tissue."""
_SMALLEST_STD: Final = 1e-30
"""Below it the scale would leave float32; such an image counts as constant."""
_STEPS: Final = 65_534
"""Levels of the int16 quantisation; half a step is 8e-6 of the range."""
_BLOCK_VOXELS: Final = 2**19
"""Voxels that are float64 at one time."""


class LinearMap(NamedTuple):
    """A stored value becomes `value * scale + offset`."""

    scale: float
    offset: float


@dataclass(frozen=True, kw_only=True)
class LinearChannel:
    """One channel whose normalised value is `stored * scale + offset`; both are 0 for a constant image."""

    stored: Num[np.ndarray, "*spatial"]
    scale: float
    offset: float

    def under(self, given: LinearMap | None) -> LinearChannel:
        """The same stored values under another map; None leaves them their own."""
        return self if given is None else replace(self, scale=given.scale, offset=given.offset)

    def values(self) -> Float[np.ndarray, "*spatial"]:
        """The normalised values, float32."""
        result = np.empty(self.stored.shape, dtype=np.float32)
        for rows in _blocks(self.stored.shape):
            result[rows] = self.stored[rows].astype(np.float64) * self.scale + self.offset
        return result


def normalise(channel: Num[np.ndarray, "*spatial"], plan: IntensityPlan) -> LinearChannel:
    """One channel under its intensity plan; the stored values are clipped but keep their type.

    NaN and infinities become the smallest finite value. A channel of one value is 0 everywhere, unless the
    plan brings its own mean and standard deviation.
    """
    channel = finite(channel)
    if plan.scheme == "percentile":
        low, high = percentiles(_counted(channel, plan), (plan.low_percentile, plan.high_percentile))
        if low < high:  # otherwise all but a few voxels are one value, and the few are what there is to see
            channel = _clip(channel, low, high)
    elif plan.scheme == "window":
        channel = _clip(channel, plan.low, plan.high)
    if plan.mean is not None and plan.std is not None:
        divisor = plan.high if plan.scheme == "range" and plan.high else 1.0
        return LinearChannel(stored=channel, scale=1.0 / (divisor * plan.std), offset=-plan.mean / plan.std)
    counted = _counted(channel, plan)
    if counted.size == 0 or counted.min() == counted.max():
        return LinearChannel(stored=channel, scale=0.0, offset=0.0)
    mean, std = _mean_and_std(counted)
    if std < _SMALLEST_STD:
        return LinearChannel(stored=channel, scale=0.0, offset=0.0)
    return LinearChannel(stored=channel, scale=1.0 / std, offset=-mean / std)


def quantise(values: Float[np.ndarray, "*spatial"]) -> LinearChannel:
    """Float values as int16 with scale and offset; the error is below 1e-5 of their range."""
    low, high = float(values.min()), float(values.max())
    middle, step = (low + high) / 2.0, (high - low) / _STEPS
    if step == 0.0:
        return LinearChannel(stored=np.zeros(values.shape, dtype=np.int16), scale=0.0, offset=low)
    stored = np.empty(values.shape, dtype=np.int16)
    for rows in _blocks(values.shape):
        stored[rows] = np.clip(np.rint((values[rows].astype(np.float64) - middle) / step), -32_767, 32_767)
    return LinearChannel(stored=stored, scale=step, offset=middle)


def small_integers(channel: LinearChannel) -> LinearChannel | None:
    """The same channel in an integer type of at most 16 bits, or None where its values do not fit one."""
    stored = channel.stored
    if stored.dtype.kind not in "iu":
        return None
    if stored.dtype.itemsize > 2:
        smallest = np.result_type(np.min_scalar_type(int(stored.min())), np.min_scalar_type(int(stored.max())))
        if smallest.itemsize > 2:
            return None
        stored = stored.astype(smallest)
    return LinearChannel(stored=stored, scale=channel.scale, offset=channel.offset)


def finite(channel: Num[np.ndarray, "*spatial"]) -> Num[np.ndarray, "*spatial"]:
    """Without NaN, infinities and absurd outliers: what is not finite becomes the smallest finite value."""
    if channel.dtype.kind in "iu":
        return channel
    good = np.isfinite(channel)
    if not good.all():
        lowest = channel[good].min() if good.any() else 0.0
        channel = np.where(good, channel, channel.dtype.type(lowest))
    if channel.dtype != np.float32:
        limit = float(np.finfo(np.float32).max)
        channel = np.clip(channel.astype(np.float64), -limit, limit).astype(np.float32)
    low, high = percentiles(channel, (1.0, 99.0))
    span = high - low
    if span > 0 and (float(channel.max()) - high > _SPIKE * span or low - float(channel.min()) > _SPIKE * span):
        channel = np.clip(channel, low - span, high + span)
    return channel


def percentiles(values: Num[np.ndarray, "*voxel"], percents: tuple[float, ...]) -> tuple[float, ...]:
    """Percentiles over at most `MAX_STATISTIC_VOXELS` voxels; whole for integers, 0 where there are none."""
    flat = values.reshape(-1)
    if flat.size == 0:
        return (0.0,) * len(percents)
    step = -(-flat.size // MAX_STATISTIC_VOXELS)
    flat = flat[::step]
    if flat.dtype.kind in "iu":
        return tuple(float(v) for v in np.percentile(flat, percents, method="nearest"))
    return tuple(float(v) for v in np.percentile(flat.astype(np.float64), percents))


def common_type(channels: list[LinearChannel]) -> np.dtype[np.generic] | None:
    """The one integer type of at most 16 bits that holds every channel unchanged, or None."""
    kept = [small_integers(channel) for channel in channels]
    if any(channel is None for channel in kept):
        return None
    dtype: np.dtype[np.generic] = np.result_type(*(channel.stored.dtype for channel in kept if channel is not None))
    return dtype if dtype.itemsize <= 2 else None


def _counted(channel: Num[np.ndarray, "*spatial"], plan: IntensityPlan) -> Num[np.ndarray, "*voxel"]:
    return channel[channel != 0] if plan.nonzero_only else channel


def _mean_and_std(values: Num[np.ndarray, "*voxel"]) -> tuple[float, float]:
    """Over all voxels, in float64, block by block."""
    mean = sum(float(values[rows].sum(dtype=np.float64)) for rows in _blocks(values.shape)) / values.size
    squares = (np.square(np.subtract(values[rows], mean, dtype=np.float64)) for rows in _blocks(values.shape))
    return mean, math.sqrt(sum(float(block.sum()) for block in squares) / values.size)


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Ranges of the first axis that hold about `_BLOCK_VOXELS` each."""
    step = max(1, _BLOCK_VOXELS // max(1, math.prod(shape[1:])))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def _clip(channel: Num[np.ndarray, "*spatial"], low: float | None, high: float | None) -> Num[np.ndarray, "*spatial"]:
    if low is None and high is None:
        return channel
    if channel.dtype.kind in "iu":
        limits = np.iinfo(channel.dtype)
        low = limits.min if low is None else min(max(round(low), limits.min), limits.max)
        high = limits.max if high is None else min(max(round(high), limits.min), limits.max)
    clipped: Num[np.ndarray, "*spatial"] = np.clip(channel, low, high).astype(channel.dtype, copy=False)
    return clipped
