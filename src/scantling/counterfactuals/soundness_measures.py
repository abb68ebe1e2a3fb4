"""What a counterfactual must keep, measured on one pair of images at a time; ranges are those of the image model.

An undefined measure is NaN. Images are channels in stored units or in [-1, 1], with the range that belongs to either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float64, Integer, Num
from scipy.ndimage import uniform_filter

from scantling.counterfactuals.table import Row
from scantling.evaluation.overlap import dice
from scantling.shapes import IGNORE

Channels: TypeAlias = Sequence[Num[np.ndarray, "..."]]
Ranges: TypeAlias = Sequence[tuple[float, float]]
"""The lowest and the highest value of each channel."""

WINDOW: Final = 7  # pixels an axis, as in the usual SSIM
_STEADY: Final = 0.03**2 / 2  # of the range squared: SSIM's second constant, halved as in its structure term


@runtime_checkable
class Pictured(Protocol):
    """An image with its attributes."""

    @property
    def channels(self) -> tuple[Num[np.ndarray, "..."], ...]: ...

    @property
    def row(self) -> Row: ...


P = TypeVar("P", bound=Pictured)


def change(first: Channels, second: Channels, ranges: Ranges) -> float:
    """Mean absolute difference, as a share of each channel's range; 0 where nothing changes.

    NaN where a range is empty.

    Raises:
        ValueError: the images, or the ranges, do not have the same channels and shape.
    """
    shares = [float(np.abs(b - a).mean()) for a, b in _scaled(first, second, ranges)]
    return float(np.mean(shares))


def composition(
    source: Callable[[Sequence[P], Sequence[Row]], Sequence[P]], images: Sequence[P], ranges: Sequence[Ranges]
) -> Float64[np.ndarray, "image"]:
    """`change` from each image to what a source makes of it where nothing is asked to change.

    Args:
        ranges: of each image.

    Source: Monteiro et al. 2023, "Measuring axiomatic soundness of counterfactual image models".
    """
    untouched = source(images, [image.row for image in images])
    return _changes(images, untouched, ranges)


def reversibility(
    source: Callable[[Sequence[P], Sequence[Row]], Sequence[P]],
    images: Sequence[P],
    counterfactuals: Sequence[P],
    ranges: Sequence[Ranges],
) -> Float64[np.ndarray, "image"]:
    """`change` from each image to its counterfactual asked back to the image's own attributes.

    Args:
        counterfactuals: what the same source made of the images.
        ranges: of each image.

    Source: Monteiro et al. 2023, "Measuring axiomatic soundness of counterfactual image models".
    """
    back = source(counterfactuals, [image.row for image in images])
    return _changes(images, back, ranges)


def identity_dice(first: Integer[np.ndarray, "*spatial"], second: Integer[np.ndarray, "*spatial"]) -> float:
    """Mean Dice of two label maps over the classes that either has, in [0, 1]; NaN where there is background only.

    Pixels that are `IGNORE` in either do not count.

    Args:
        first, second: predicted by one network on an image and on its counterfactual; or one of them stored.
    """
    known = (first != IGNORE) & (second != IGNORE)
    one, other = first[known], second[known]
    classes = sorted({*np.unique(one).tolist(), *np.unique(other).tolist()} - {0})
    if not classes:
        return float("nan")
    counts = [(one == klass, other == klass) for klass in classes]
    shared = [int((a & b).sum()) for a, b in counts]
    return float(
        np.mean(dice(shared, [int((~a & b).sum()) for a, b in counts], [int((a & ~b).sum()) for a, b in counts]))
    )


def structure(first: Channels, second: Channels, ranges: Ranges) -> float:
    """Mean over windows of the local correlation: 1 where each window keeps its pattern, whatever its contrast.

    In [-1, 1]; NaN where a range is empty. A constant keeps flat windows at 1. An axis shorter than the window of 7
    is one window.

    Raises:
        ValueError: the images, or the ranges, do not have the same channels and shape.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", Eq. 10, with
    flat windows and population moments.
    """
    return float(np.mean([_correlation(a, b) for a, b in _scaled(first, second, ranges)]))


def _correlation(first: Float64[np.ndarray, "*spatial"], second: Float64[np.ndarray, "*spatial"]) -> float:
    sizes = tuple(min(WINDOW, length) for length in first.shape)
    inside = tuple(
        slice(size // 2, size // 2 + length - size + 1) for size, length in zip(sizes, first.shape, strict=True)
    )

    def local(values: Float64[np.ndarray, "*spatial"]) -> Float64[np.ndarray, "*window"]:
        return np.asarray(uniform_filter(values, sizes)[inside], dtype=np.float64)

    mean_first, mean_second = local(first), local(second)
    first_variance = (local(first * first) - mean_first**2).clip(min=0)
    second_variance = (local(second * second) - mean_second**2).clip(min=0)
    covariance = local(first * second) - mean_first * mean_second
    return float(((covariance + _STEADY) / (np.sqrt(first_variance * second_variance) + _STEADY)).mean())


def _changes(first: Sequence[P], second: Sequence[P], ranges: Sequence[Ranges]) -> Float64[np.ndarray, "image"]:
    pairs = zip(first, second, ranges, strict=True)
    return np.array([change(a.channels, b.channels, own) for a, b, own in pairs], dtype=np.float64)


def _scaled(
    first: Channels, second: Channels, ranges: Ranges
) -> list[tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]]:
    """Pairs of channels in shares of their range."""
    shapes = [channel.shape for channel in first], [channel.shape for channel in second]
    if not first or shapes[0] != shapes[1] or len(ranges) != len(first):
        raise ValueError(f"images of shapes {shapes[0]} and {shapes[1]} with {len(ranges)} ranges cannot be compared")
    widths = [high - low if high > low else float("nan") for low, high in ranges]
    return [
        (np.asarray(a, dtype=np.float64) / width, np.asarray(b, dtype=np.float64) / width)
        for a, b, width in zip(first, second, widths, strict=True)
    ]
