"""Another scanner's look without training: grey values mapped from one group's quantile curve to another's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
from jaxtyping import Float, Num

from scantling.config import nearest
from scantling.counterfactuals.source_image import SourceImage, plus
from scantling.counterfactuals.table import Row
from scantling.data.normalising import MAX_STATISTIC_VOXELS, finite
from scantling.errors import ConfigError, DataError

_LEVELS: Final = 513


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class AppearanceSource:
    """One monotone map of stored values a channel, for each pair of values of one attribute.

    It is the map between the mean quantile curves of all images with either value, so that what one patient shows is
    not taken for the scanner's doing. It knows no anatomy: noise, sharpness and whatever lies in a place stay.

    Stored values must mean the same in all images, as in radiographs or in CT; the scale of most MR does not.

    Attributes:
        curves: by value of the attribute, the mean over its images of each channel's quantiles, in stored units.
    """

    attribute: str
    curves: Mapping[str, Float[np.ndarray, "channel level"]]
    name: str = "appearance"

    @classmethod
    def fit(cls, images: Iterable[SourceImage], *, attribute: str) -> AppearanceSource:
        """Measure real images, one after the other; those without a value of the attribute do not count.

        Raises:
            ConfigError: fewer than two values of the attribute.
            DataError: images have different numbers of channels.
        """
        totals: dict[str, Float[np.ndarray, "channel level"]] = {}
        counts: dict[str, int] = {}
        n_channels = 0
        for image in images:
            value = image.row.get(attribute, "").strip()
            if not value:
                continue
            n_channels = n_channels or len(image.channels)
            if len(image.channels) != n_channels:
                raise DataError(
                    f"case {image.case_id}: image has {len(image.channels)} channels and others have {n_channels}; "
                    "give images of one kind",
                    code="E-DAT-22",
                )
            curve = np.stack([_quantiles(channel) for channel in image.channels])
            totals[value] = totals[value] + curve if value in totals else curve
            counts[value] = counts.get(value, 0) + 1
        if len(totals) < 2:
            found = f"only {next(iter(totals))!r}" if totals else "no value"
            raise ConfigError(
                f"attribute {attribute!r}: the images have {found}; an appearance can be mapped between two values "
                "or more",
                code="E-CFG-54",
            )
        return cls(attribute=attribute, curves={value: total / counts[value] for value, total in totals.items()})

    def __call__(self, images: Sequence[SourceImage], after: Sequence[Row]) -> tuple[SourceImage, ...]:
        """Each image with the appearance that `after` asks for.

        Raises:
            ConfigError: another attribute changes too, or a value was in no image it learnt from.
            DataError: an image's own value is missing, or was in no image; or it has another number of channels.
        """
        return tuple(self._one(image, row) for image, row in zip(images, after, strict=True))

    def _one(self, image: SourceImage, after: Row) -> SourceImage:
        changed = _changed(image.row, after)
        for name in changed:
            if name != self.attribute:
                raise ConfigError(
                    f"case {image.case_id}: {name!r} changes from {image.row.get(name, '')!r} to "
                    f"{after.get(name, '')!r}, but the appearance map knows {self.attribute!r} alone; ask for that "
                    "only, or train an image model",
                    code="E-CF-02",
                )
        if not changed:
            return replace(image, row=after)
        wanted = after.get(self.attribute, "").strip()
        if wanted not in self.curves:
            hint = nearest(wanted, self.curves)
            raise ConfigError(
                f"case {image.case_id}: no image it learnt from has {self.attribute} = {wanted!r}{hint}", code="E-CF-02"
            )
        own = image.row.get(self.attribute, "").strip()
        if own not in self.curves or len(image.channels) != len(self.curves[own]):
            raise DataError(
                f"case {image.case_id}: has {len(image.channels)} channels and {self.attribute} = {own!r}; wanted "
                f"{len(self.curves[wanted])} and one of {', '.join(self.curves)}, as the images it learnt from",
                code="E-CF-03",
            )
        pairs = zip(image.channels, self.curves[own], self.curves[wanted], strict=True)
        return replace(image, channels=tuple(_mapped(*each) for each in pairs), row=after)


def _changed(before: Row, after: Row) -> list[str]:
    names = dict.fromkeys((*before, *after))
    return [name for name in names if before.get(name, "").strip() != after.get(name, "").strip()]


def _quantiles(channel: Num[np.ndarray, "*source"]) -> Float[np.ndarray, "level"]:
    values = finite(channel).reshape(-1)
    values = values[:: -(-values.size // MAX_STATISTIC_VOXELS)].astype(np.float64)
    quantiles: Float[np.ndarray, "level"] = np.quantile(values, np.linspace(0.0, 1.0, _LEVELS))
    return quantiles


def _mapped(
    stored: Num[np.ndarray, "*source"], own: Float[np.ndarray, "level"], wanted: Float[np.ndarray, "level"]
) -> Num[np.ndarray, "*source"]:
    """Values at a level of one curve take the other's at that level; beyond the ends they keep their distance."""
    steps, first, counts = np.unique(own, return_index=True, return_counts=True)
    reached = np.add.reduceat(wanted, first) / counts  # of a value that spans several levels, the mean
    values = finite(stored).astype(np.float64)
    inside = values.clip(steps[0], steps[-1])
    return plus(stored, np.interp(inside, steps, reached) - inside)
