"""Obey a plan: an image and its label map on the plan's axes, grid and intensities, and results taken back.

Volumes are turned to the closest RAS orientation, their axes permuted by `Plan.axis_order`, resampled to
`Plan.spacing_mm` and normalised. Every step is undone exactly by the `restore_*` functions, except what a
coarser grid has lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Integer, Num, Shaped

from scantling.data.case import Annotation, ClassTable
from scantling.data.geometry_check import closest_ras, compare
from scantling.data.image import ImageGeometry, MedicalImage
from scantling.data.image_io import read_label
from scantling.data.normalising import LinearChannel, LinearMap, common_type, normalise, quantise, small_integers
from scantling.data.plan import ClassPlan, Plan
from scantling.data.resampling import axis_matrices, multiply_axes, resample, resample_labels
from scantling.errors import GeometryError, PlanMismatch

PREPARATION_VERSION: Final = 2
"""Raised whenever the same input would be prepared differently; part of every key of the store."""
_SAME_GRID: Final = 0.01
"""A spacing within 1 % of the target is kept: resampling would only blur."""


@dataclass(frozen=True, kw_only=True)
class PreparedGrid:
    """Where a prepared image lies on its source.

    Attributes:
        permutation: axis k of the prepared image was axis `permutation[k]` of the source.
        flips: whether prepared axis k runs against its source axis.
        shape, spacing_mm: of the prepared image, after resampling.
    """

    source: ImageGeometry
    permutation: tuple[int, ...]
    flips: tuple[bool, ...]
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]

    @property
    def turned_shape(self) -> tuple[int, ...]:
        """The source's shape in prepared axis order, before resampling."""
        return tuple(self.source.shape[axis] for axis in self.permutation)


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """An image as a network wants it: channel c has the values `array[c] * scale[c] + offset[c]`."""

    array: Num[np.ndarray, "channel *spatial"]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    grid: PreparedGrid

    def values(self) -> Float[np.ndarray, "channel *spatial"]:
        """The normalised values, float32."""
        return normalised_values(self.array, self.scale, self.offset)


def normalised_values(
    array: Num[np.ndarray, "channel *spatial"], scale: tuple[float, ...], offset: tuple[float, ...]
) -> Float[np.ndarray, "channel *spatial"]:
    """Stored integers -> normalised float32, channel by channel; training and prediction both call this."""
    result = array.astype(np.float32)
    for channel, factor, shift in zip(result, scale, offset, strict=True):
        channel *= np.float32(factor)
        channel += np.float32(shift)
    return result


def class_table(classes: ClassPlan) -> ClassTable:
    """The plan's class table as the type that maps values."""
    return ClassTable(names=classes.names, stored=classes.stored)


def prepared_grid(geometry: ImageGeometry, plan: Plan) -> PreparedGrid:
    """The grid that the plan gives an image of this geometry.

    Raises:
        PlanMismatch: the image has another number of axes than the plan is for.
    """
    if len(geometry.shape) != plan.image_axes:
        raise PlanMismatch(
            f"image has {len(geometry.shape)} spatial axes {geometry.shape}, the plan is for "
            f"{plan.image_axes}; use images of the kind the plan was made from, or make a new plan",
            code="E-PLN-01",
        )
    turned = turned_grid(geometry, plan.axis_order)
    shape = tuple(
        n if wanted is None or abs(own / wanted - 1.0) <= _SAME_GRID else max(1, round(n * own / wanted))
        for n, own, wanted in zip(turned.shape, turned.spacing_mm, plan.spacing_mm, strict=True)
    )
    return on_shape(turned, shape)


def turned_grid(geometry: ImageGeometry, axis_order: tuple[int, ...]) -> PreparedGrid:
    """The grid after turning to closest RAS and permuting, at the image's own resolution."""
    axes = len(geometry.shape)
    permutation, flips = closest_ras(geometry.world_from_index) if axes == 3 else (range(axes), (False,) * axes)
    permutation = tuple(permutation[axis] for axis in axis_order)
    return PreparedGrid(
        source=geometry,
        permutation=permutation,
        flips=tuple(bool(flips[axis]) for axis in axis_order),
        shape=tuple(geometry.shape[axis] for axis in permutation),
        spacing_mm=tuple(float(geometry.spacing_mm[axis]) for axis in permutation),
    )


def on_shape(turned: PreparedGrid, shape: tuple[int, ...]) -> PreparedGrid:
    """The same extent in another number of samples; the spacing follows."""
    spacing_mm = tuple(
        own if n == target else own * n / target
        for own, n, target in zip(turned.spacing_mm, turned.turned_shape, shape, strict=True)
    )
    return replace(turned, shape=shape, spacing_mm=spacing_mm)


def intensity_maps(channels: Sequence[MedicalImage], plan: Plan) -> tuple[LinearMap, ...]:
    """The linear map by which `prepare_image` normalises each channel of an image.

    Raises:
        PlanMismatch: number of axes or channels differs from the plan's.
        GeometryError: the channels do not share one grid.
    """
    grid = prepared_grid(channels[0].geometry, plan)
    maps = []
    for array, intensity in zip(channel_arrays(channels, len(plan.intensities)), plan.intensities, strict=True):
        channel = normalise(turn(array, grid), intensity)
        maps.append(LinearMap(scale=channel.scale, offset=channel.offset))
    return tuple(maps)


def prepare_image(
    channels: Sequence[MedicalImage], plan: Plan, *, maps: Sequence[LinearMap] | None = None
) -> PreparedImage:
    """One image on the plan's grid with the plan's intensities, as integers of at most 16 bits.

    Integers that need no new grid are kept as they are; everything else is quantised to int16 after
    normalising (error below 1e-5 of the image's range).

    Args:
        maps: of each channel, in place of the image's own: those of the real image for another image of its
            anatomy, so that a difference in brightness or contrast stays one. Outliers are still clipped by the
            image's own percentiles.

    Raises:
        PlanMismatch: number of axes or channels differs from the plan's.
        GeometryError: the channels do not share one grid.
    """
    grid = prepared_grid(channels[0].geometry, plan)
    arrays = channel_arrays(channels, len(plan.intensities))
    prepared: list[LinearChannel] = []
    to_grid = axis_matrices(grid.turned_shape, grid.shape, "cubic")
    given: Sequence[LinearMap | None] = maps or (None,) * len(arrays)
    for array, intensity, own in zip(arrays, plan.intensities, given, strict=True):
        channel = normalise(turn(array, grid), intensity).under(own)
        if grid.shape != grid.turned_shape:
            channel = quantise(multiply_axes(channel.values(), to_grid))
        prepared.append(channel)
    dtype = common_type(prepared)
    if dtype is None:
        prepared = [channel if small_integers(channel) else quantise(channel.values()) for channel in prepared]
        dtype = common_type(prepared)
    if dtype is None:  # uint16 beside int16
        prepared = [quantise(channel.values()) for channel in prepared]
        dtype = np.dtype(np.int16)
    array = np.empty((len(prepared), *grid.shape), dtype=dtype)
    for result, channel in zip(array, prepared, strict=True):
        result[...] = channel.stored
    return PreparedImage(
        array=array,
        scale=tuple(channel.scale for channel in prepared),
        offset=tuple(channel.offset for channel in prepared),
        grid=grid,
    )


def prepare_label(
    stored: Integer[np.ndarray, "*source"], annotation: Annotation, grid: PreparedGrid, plan: Plan
) -> Int[np.ndarray, "*prepared"]:
    """Stored label values -> class indices on the prepared grid; IGNORE where nobody looked.

    A class that the annotation does not count among its `annotated` ones becomes background, which in a
    partial annotation means "background or a class nobody looked for".

    Raises:
        GeometryError: the label map has another shape than the image.
    """
    if stored.shape != grid.source.shape:
        raise GeometryError(
            f"label map {annotation.path.name} is {stored.shape} but its image is {grid.source.shape}; "
            "they must share one grid",
            code="E-GEO-01",
        )
    label_map = class_table(plan.classes).to_index(stored, ignore=annotation.ignore)
    for k, looked_for in enumerate(annotated_classes(annotation, plan)):
        if not looked_for:
            label_map[label_map == k] = 0
    return np.ascontiguousarray(resample_labels(turn(label_map, grid), grid.shape))


def read_matching_label(annotation: Annotation, image: ImageGeometry) -> Integer[np.ndarray, "*source"]:
    """The stored values of an annotation that lies on the image's grid.

    Raises:
        DataError: the file is unreadable or holds no whole numbers.
        GeometryError: it lies on another grid.
    """
    stored, geometry = read_label(annotation.path)
    agreement = compare(image, geometry)
    if agreement.verdict == "refuse":
        raise GeometryError(agreement.message, code="E-GEO-01")
    return stored


def annotated_classes(annotation: Annotation | None, plan: Plan) -> tuple[bool, ...]:
    """Per class of the plan, whether it was looked for; background always was, in any annotation at all."""
    names = plan.classes.names
    if annotation is None:
        return (False,) * len(names)
    if annotation.annotated is None:
        return (True,) * len(names)
    return tuple(name == "background" or name in annotation.annotated for name in names)


def restore_label_map(
    label_map: Integer[np.ndarray, "*prepared"], grid: PreparedGrid
) -> Integer[np.ndarray, "*source"]:
    """Class indices from the prepared grid back on the source's own grid."""
    return unturn(resample_labels(label_map, grid.turned_shape), grid)


def restore_probs(
    probs: Float[np.ndarray, "klass *prepared"], grid: PreparedGrid
) -> Float[np.ndarray, "klass *source"]:
    """Class probabilities (or any maps) back on the source's own grid, linearly interpolated."""
    return np.stack([unturn(resample(scores, grid.turned_shape, "linear"), grid) for scores in probs])


def turn(array: Shaped[np.ndarray, "*source"], grid: PreparedGrid) -> Shaped[np.ndarray, "*turned"]:
    """A source array in prepared axis order and direction (a view, not resampled)."""
    turned = np.transpose(array, grid.permutation)
    return turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in grid.flips)]


def unturn(array: Shaped[np.ndarray, "*turned"], grid: PreparedGrid) -> Shaped[np.ndarray, "*source"]:
    """The exact inverse of `turn`, contiguous."""
    turned = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in grid.flips)]
    return np.ascontiguousarray(np.transpose(turned, np.argsort(grid.permutation)))


def channel_arrays(channels: Sequence[MedicalImage], wanted: int) -> list[Num[np.ndarray, "*spatial"]]:
    """Every channel of every file; a grey picture saved as RGB counts as one channel where one is wanted.

    Raises:
        PlanMismatch: there are more or fewer channels than wanted.
        GeometryError: the files have different shapes.
    """
    first = channels[0].geometry.shape
    for channel in channels[1:]:
        if channel.geometry.shape != first:
            raise GeometryError(
                f"image channels are {first} and {channel.geometry.shape}; all channels of a case must share one grid",
                code="E-GEO-02",
            )
    arrays = [_numbers(array) for channel in channels for array in channel.array]
    if len(arrays) != wanted:
        arrays = [array for channel in channels for array in without_grey_copies(channel)]
    if len(arrays) != wanted:
        raise PlanMismatch(
            f"image has {len(arrays)} channels, the plan is for {wanted}; "
            "convert it (colour and grey pictures cannot be mixed), or make a new plan",
            code="E-PLN-02",
        )
    return arrays


def without_grey_copies(image: MedicalImage) -> list[Num[np.ndarray, "*spatial"]]:
    """The channels of one file, or only the first where a colour picture's channels are all equal."""
    arrays = [_numbers(array) for array in image.array]
    grey = image.geometry.file_type != "nifti" and len(arrays) > 1
    return arrays[:1] if grey and all(np.array_equal(arrays[0], other) for other in arrays[1:]) else arrays


def _numbers(array: Shaped[np.ndarray, "*spatial"]) -> Num[np.ndarray, "*spatial"]:
    return array.astype(np.uint8) if array.dtype.kind == "b" else array
