"""Decisions of a run that learns images: their size, their intensities, what is known of each. Data, not code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from scantling.config import Config, at_most_version
from scantling.counterfactuals.attributes import Attribute
from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.counterfactuals.hvae_layout import HVAEConfig
from scantling.data.case import Case
from scantling.data.fingerprint import ChannelFacts, Fingerprint, fingerprint
from scantling.data.manifest import Manifest
from scantling.data.planning import channel_names
from scantling.errors import ConfigError

SCHEMA_VERSION: Final = 1
MOST_VOXELS: Final = 2**17
"""A volume is stretched to at most this many voxels by default: 32 x 64 x 64."""
_STEP_PIXELS: Final = 2**18
"""Pixels of a step of default batch size, between 4 and 16 images."""


class ChannelScaling(Config):
    """How one channel's stored values become numbers in [-1, 1]; what lies outside `low..high` is clamped.

    Clamping is for the model alone: a counterfactual is a change of the stored values, which keep their excess.

    Attributes:
        scheme: "fixed" takes `low..high` for every image; "own" each image's own percentiles.
        low, high: in stored units.
        low_percentile, high_percentile: in [0, 100].
    """

    scheme: Literal["fixed", "own"]
    low: float | None = None
    high: float | None = None
    low_percentile: float = Field(default=0.5, ge=0, le=100)
    high_percentile: float = Field(default=99.5, ge=0, le=100)

    @model_validator(mode="after")
    def _has_a_range(self) -> ChannelScaling:
        if self.scheme == "fixed":
            if self.low is None or self.high is None or not -math.inf < self.low < self.high < math.inf:
                raise ValueError(f"fixed range {self.low}..{self.high}: wanted two finite numbers, low below high")
        elif self.low is not None or self.high is not None:
            raise ValueError("scheme 'own' takes the range from each image; leave low and high out")
        if not self.low_percentile < self.high_percentile:
            raise ValueError(f"percentiles {self.low_percentile}..{self.high_percentile}: wanted the low one first")
        return self


class ImagePlan(Config):
    """Everything that must be the same for learning images and for changing new ones.

    Every image is stretched to one `size`, whatever its own: volumes are first turned to the closest RAS orientation,
    then their axes are permuted by `axis_order`; pictures stay as they lie. `size` is in that order.

    Attributes:
        attributes: of the causal graph, in the order of the context's columns.
        reasons: one sentence for each decision, for people.
    """

    schema_version: Annotated[int, at_most_version(SCHEMA_VERSION)] = SCHEMA_VERSION
    kind: Literal["image_model"] = "image_model"
    dataset: str
    modality: str = ""
    image_axes: Literal[2, 3]
    channels: tuple[str, ...] = Field(default=("image",), min_length=1)
    axis_order: tuple[int, ...]
    size: tuple[int, ...]
    batch_size: int = Field(ge=1)
    scaling: tuple[ChannelScaling, ...]
    attributes: tuple[Attribute, ...] = Field(min_length=1)
    reasons: dict[str, str] = Field(default_factory=dict)

    @field_validator("axis_order")
    @classmethod
    def _names_each_axis_once(cls, value: tuple[int, ...], info: Any) -> tuple[int, ...]:
        axes = info.data.get("image_axes", len(value))
        if sorted(value) != list(range(axes)) or (axes == 2 and value != (0, 1)):
            raise ValueError(f"wanted each axis from 0 to {axes - 1} once, those of a picture in their order")
        return value

    @field_validator("size")
    @classmethod
    def _is_a_length_per_axis(cls, value: tuple[int, ...], info: Any) -> tuple[int, ...]:
        axes = info.data.get("image_axes", len(value))
        if len(value) != axes or min(value, default=0) < 1:
            raise ValueError(f"wanted {axes} whole numbers above 0")
        return value

    @field_validator("scaling")
    @classmethod
    def _is_one_per_channel(cls, value: tuple[ChannelScaling, ...], info: Any) -> tuple[ChannelScaling, ...]:
        channels = info.data.get("channels", value)
        if len(value) != len(channels):
            raise ValueError(f"wanted one for each of the {len(channels)} channels")
        return value

    @property
    def dimensions(self) -> Literal[2, 3]:
        """Spatial axes of the network: those of the images, which are seen whole."""
        return self.image_axes

    @property
    def patch_size(self) -> tuple[int, ...]:
        """The whole image."""
        return self.size

    @property
    def context(self) -> tuple[str, ...]:
        """Names of the context's columns, as `FittedGraph.encode` orders them."""
        return tuple(name for attribute in self.attributes for name in attribute.column_names)


def derive_image_plan(
    manifest: Manifest,
    cases: Sequence[Case],
    graph: FittedGraph,
    network: HVAEConfig,
    *,
    size: tuple[int, ...] | None = None,
    batch_size: int | None = None,
) -> ImagePlan:
    """The plan for learning these images with this network.

    Args:
        cases: for training; up to 40 of them are measured.
        size: by default the network's own resolution for pictures; for volumes close to their median shape, of at
            most 2^17 voxels.

    Raises:
        ConfigError: the network cannot divide the size, the size has another number of axes than the images, or an
            impossible batch size.
        DataError: no case, an unreadable one, or pictures and volumes (or grey and colour) mixed.
    """
    facts = fingerprint(manifest, cases, ())
    axes: Literal[2, 3] = 2 if facts.image_axes == 2 else 3
    reasons: dict[str, str] = {}
    if size is None:
        size = _own_size(network) if axes == 2 else _volume_size(network, facts)
        median = " x ".join(f"{n:g}" for n in facts.median_shape)
        of = "the network's own resolution" if axes == 2 else f"near the median shape, at most {MOST_VOXELS} voxels"
        reasons["size"] = f"{_by(size)}: {of} (images are {median} in the median)"
    else:
        reasons["size"] = f"{_by(size)}, as asked"
    if len(size) != axes:
        raise ConfigError(
            f"image size {_by(size)}: the images have {axes} axes; give one length for each", code="E-CFG-12"
        )
    network.stage_sizes(size)
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size = {batch_size}: wanted a whole number > 0", code="E-CFG-12")
    reasons["batch_size"] = "by the size of the images" if batch_size is None else "as asked"
    return ImagePlan(
        dataset=manifest.name,
        modality=facts.modality,
        image_axes=axes,
        channels=channel_names(manifest, len(facts.channels)),
        axis_order=facts.axis_order,
        size=size,
        batch_size=batch_size or min(max(_STEP_PIXELS // math.prod(size), 4), 16),
        scaling=tuple(_scaling(channel, facts, reasons) for channel in facts.channels),
        attributes=graph.attributes,
        reasons=reasons,
    )


def _own_size(network: HVAEConfig) -> tuple[int, int]:
    side = network.encoder_stages[0].resolution * network.patch
    return side, side


def _volume_size(network: HVAEConfig, facts: Fingerprint) -> tuple[int, ...]:
    """Multiples of the coarsest stride: the median shape, whose relatively longest axis shrinks until it is enough."""
    finest = network.encoder_stages[0].resolution
    coarsest = min((stage.resolution for stage in network.encoder_stages if stage.resolution > 1), default=finest)
    step = network.patch * (finest // coarsest)
    size = [max(1, round(n / step)) * step for n in facts.median_shape]
    while math.prod(size) > MOST_VOXELS and max(size) > step:
        shares = [n / own if n > step else 0.0 for n, own in zip(size, facts.median_shape, strict=True)]
        size[shares.index(max(shares))] -= step
    return tuple(size)


def _scaling(channel: ChannelFacts, facts: Fingerprint, reasons: dict[str, str]) -> ChannelScaling:
    if "nifti" not in facts.file_types and channel.integer and channel.minimum >= 0 and channel.maximum <= 255:
        reasons["scaling"] = "8-bit pictures: 0..255 for every image"
        return ChannelScaling(scheme="fixed", low=0.0, high=255.0)
    low, high = channel.percentile_00_5, channel.percentile_99_5
    if facts.modality.upper() == "CT" and low < high:
        reasons["scaling"] = "CT: one range for every image, the 0.5-99.5 percentiles of the training images"
        return ChannelScaling(scheme="fixed", low=low, high=high)
    reasons["scaling"] = "no fixed scale: each image's own 0.5-99.5 percentiles"
    return ChannelScaling(scheme="own")


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
