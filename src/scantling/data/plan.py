"""Decisions derived from measured facts: grid, intensities, patch, batch, network. Data, not code.

A plan is JSON that a person can read and edit; it travels with the model, so that prediction repeats the
preparation of training.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from scantling.config import Config


class ClassPlan(Config):
    """The class table as data: names (background first) and the stored values of each."""

    names: tuple[str, ...]
    stored: tuple[tuple[int, ...], ...]


class IntensityPlan(Config):
    """How one channel's values become numbers near [-3, 3].

    `zscore`: minus mean, over standard deviation of the image's own voxels (of the non-zero ones if
    `nonzero_only`). `percentile`: clip to the image's own percentiles `low_percentile..high_percentile`, then
    z-score. `window`: clip to `low..high` (Hounsfield units, from foreground statistics of the training set),
    then minus `mean`, over `std`. `range`: divide by `high` (8-bit and 16-bit photographs), then z-score.
    """

    scheme: Literal["zscore", "percentile", "window", "range"]
    nonzero_only: bool = False
    low_percentile: float = 0.5
    high_percentile: float = 99.5
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None


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

    schema_version: int = 1
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
