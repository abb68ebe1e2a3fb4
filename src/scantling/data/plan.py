"""Decisions derived from measured facts: grid, intensities, patch, batch, network. Data, not code.

A plan is JSON that a person can read and edit; it travels with the model, so that prediction repeats the
preparation of training.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from scantling.config import Config, at_most_version
from scantling.data.case import ClassTable
from scantling.errors import ConfigError

SCHEMA_VERSION: Final = 1


class ClassPlan(Config):
    """The class table as data: names (background first) and the stored values of each."""

    names: tuple[str, ...]
    stored: tuple[tuple[int, ...], ...]

    @field_validator("stored")
    @classmethod
    def _is_a_class_table(cls, value: tuple[tuple[int, ...], ...], info: Any) -> tuple[tuple[int, ...], ...]:
        try:
            ClassTable(names=info.data.get("names", ()), stored=value)
        except ConfigError as error:
            raise ValueError(error.message) from None
        return value


class IntensityPlan(Config):
    """How one channel's values become numbers near [-3, 3].

    `zscore`: minus mean, over standard deviation of the image's own voxels (of the non-zero ones if
    `nonzero_only`). `percentile`: clip to the image's own percentiles `low_percentile..high_percentile`, then
    z-score. `window`: clip to `low..high` (Hounsfield units, from foreground statistics of the training set),
    then minus `mean`, over `std`. `range`: divide by `high` (photographs), then minus `mean`, over `std` where
    the plan names them, else z-score.
    """

    scheme: Literal["zscore", "percentile", "window", "range"]
    nonzero_only: bool = False
    low_percentile: float = Field(default=0.5, ge=0, le=100)
    high_percentile: float = Field(default=99.5, ge=0, le=100)
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = Field(default=None, gt=0)


class NetworkPlan(Config):
    """The network as decisions; `networks.build` obeys it.

    Attributes:
        features: width of each resolution stage, finest first.
        strides: per stage and axis; the first is all ones.
        kernels: per stage and axis; 1 along an axis still too coarse to convolve.
    """

    kind: Literal["plain_unet", "residual_unet", "scribble_unet", "resnet50_unet"] = "plain_unet"
    features: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[tuple[int, ...], ...] = ((1, 1), (2, 2), (2, 2), (2, 2))
    kernels: tuple[tuple[int, ...], ...] = ((3, 3), (3, 3), (3, 3), (3, 3))
    convs_per_stage: int = 2
    norm: Literal["instance", "batch"] = "instance"
    deep_supervision: bool = False


class Plan(Config):
    """Everything that must be the same for training and prediction.

    Axes: the image's array axes `(z, y, x)` (or `(y, x)`), after turning volumes to the closest RAS
    orientation, are permuted by `axis_order`, so that the coarsest axis comes first. `spacing_mm` and
    `patch_size` are in that order. A 2D plan (`dimensions == 2`) for volumes (`image_axes == 3`) cuts slices
    along the first of these axes and has a `patch_size` of two.

    Attributes:
        spacing_mm: target grid, one per image axis; pixels count as 1 mm where the file names no spacing;
            None along an axis keeps each image's own spacing (the slice axis of a 2D plan).
        label_kinds: which annotation of a case is used, first match first.
        reasons: one sentence for each decision, for people.
    """

    schema_version: Annotated[int, at_most_version(SCHEMA_VERSION)] = SCHEMA_VERSION
    dataset: str
    modality: str = ""
    image_axes: Literal[2, 3]
    dimensions: Literal[2, 3]
    channels: tuple[str, ...] = ("image",)
    classes: ClassPlan
    label_kinds: tuple[Literal["full", "slices", "scribble", "silver", "pseudo", "none"], ...] = ("full",)
    axis_order: tuple[int, ...]
    spacing_mm: tuple[float | None, ...]
    patch_size: tuple[int, ...]
    batch_size: int = Field(ge=1)
    intensities: tuple[IntensityPlan, ...]
    network: NetworkPlan
    mirror_axes: tuple[int, ...] = ()
    reasons: dict[str, str] = Field(default_factory=dict)

    @field_validator("dimensions")
    @classmethod
    def _has_as_many_axes(cls, value: int, info: Any) -> int:
        if value > info.data.get("image_axes", value):
            raise ValueError("the images are pictures of 2 axes")
        return value

    @field_validator("axis_order")
    @classmethod
    def _names_each_axis_once(cls, value: tuple[int, ...], info: Any) -> tuple[int, ...]:
        axes = info.data.get("image_axes", len(value))
        if sorted(value) != list(range(axes)):
            raise ValueError(f"wanted each axis from 0 to {axes - 1} once")
        return value

    @field_validator("spacing_mm")
    @classmethod
    def _is_a_length_per_axis(cls, value: tuple[float | None, ...], info: Any) -> tuple[float | None, ...]:
        axes = info.data.get("image_axes", len(value))
        if len(value) != axes or not all(mm is None or 0 < mm < math.inf for mm in value):
            raise ValueError(f"wanted {axes} lengths above 0 mm, or null to keep each image's own")
        return value

    @field_validator("patch_size")
    @classmethod
    def _is_a_size_per_axis(cls, value: tuple[int, ...], info: Any) -> tuple[int, ...]:
        dimensions = info.data.get("dimensions", len(value))
        if len(value) != dimensions or min(value, default=0) < 1:
            raise ValueError(f"wanted {dimensions} whole numbers above 0")
        return value

    @field_validator("intensities")
    @classmethod
    def _is_one_per_channel(cls, value: tuple[IntensityPlan, ...], info: Any) -> tuple[IntensityPlan, ...]:
        channels = info.data.get("channels", value)
        if len(value) != len(channels):
            raise ValueError(f"wanted one for each of the {len(channels)} channels")
        return value

    @field_validator("mirror_axes")
    @classmethod
    def _are_axes_of_the_patch(cls, value: tuple[int, ...], info: Any) -> tuple[int, ...]:
        dimensions = info.data.get("dimensions", 3)
        if not set(value) <= set(range(dimensions)):
            raise ValueError(f"wanted axes of the patch, from 0 to {dimensions - 1}")
        return value
