"""A fitted CHRO-map: from feature vectors to places in a colour disk; a value that can be kept and turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float64, UInt8

from scantling.errors import IntegrityError
from scantling.figures.colour_disk import disk_colours, within_disk
from scantling.figures.enclosing_ellipse import Ellipse, enclosing_ellipse
from scantling.figures.principal_axes import COMPONENTS, PrincipalAxes, fit_principal_axes
from scantling.seeding import numpy_generator

FIT_POINTS: Final = 20_000
"""Points that the principal axes are fitted on; the ellipse is fitted on all."""
GAP: Final = 1e-4
"""Relative excess of area over the least ellipse, at most."""
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class ChroMap:
    """Principal axes, the ellipse around what was fitted, and how far the disk is turned.

    Attributes:
        rotation: orthogonal, a reflection included; the identity until `align_to` turns the map.
    """

    axes: PrincipalAxes
    ellipse: Ellipse
    rotation: Float64[np.ndarray, "2 2"]

    @classmethod
    def fit(
        cls,
        sets: Sequence[Float[np.ndarray, "feature _"]],
        *,
        unit_length: bool = True,
        each_feature: bool = False,
        share: float = 1.0,
        n_components: int = COMPONENTS,
        seed: int = 0,
    ) -> ChroMap:
        """One map of all sets together: axes on a sample of their points, the ellipse around every one of them.

        Args:
            sets: points as columns; the views of a case, or pixels of several cases.
            unit_length, each_feature: see `PrincipalAxes` and `fit_principal_axes`.
            share: of the points that the ellipse holds; the others get the colour of the rim.
            seed: draws the sample.

        Raises:
            ValueError: there is no point, or one is not finite.
        """
        axes = fit_principal_axes(
            _sample(sets, seed), n_components=n_components, unit_length=unit_length, each_feature=each_feature
        )
        points = np.concatenate([_flat(axes, points) for points in sets])
        return cls(axes=axes, ellipse=enclosing_ellipse(points, gap=GAP, share=share), rotation=np.eye(2))

    def places(self, features: Float[np.ndarray, "feature *place"]) -> Float[np.ndarray, "*place 2"]:
        """Where each vector lies in the unit disk, in float32; what lies beyond is moved onto the rim."""
        placed = within_disk(self.ellipse.place(_flat(self.axes, features)) @ self.rotation)
        return placed.astype(np.float32).reshape(*features.shape[1:], 2)

    def colours(self, features: Float[np.ndarray, "feature *place"]) -> UInt8[np.ndarray, "*place 3"]:
        """The colour of each vector."""
        return disk_colours(self.places(features))

    def align_to(
        self,
        reference: ChroMap,
        own_anchors: Float[np.ndarray, "feature point"],
        reference_anchors: Float[np.ndarray, "other_feature point"],
    ) -> ChroMap:
        """This map turned so that shared points get the colours that another map gives them, as far as turning goes.

        Args:
            own_anchors, reference_anchors: the same points, in the features of either map.

        Raises:
            ValueError: the numbers of points differ, or there is none.
        """
        return self.turned_to(self.places(own_anchors), reference.places(reference_anchors))

    def turned_to(
        self, own_places: Float[np.ndarray, "point 2"], wanted_places: Float[np.ndarray, "point 2"]
    ) -> ChroMap:
        """This map turned or mirrored about the disk's centre so that places come nearest to wanted ones.

        Which pixels look alike is not changed, only what colour they have.

        Raises:
            ValueError: the numbers of places differ, or there is none.
        """
        return replace(self, rotation=self.rotation @ nearest_rotation(own_places, wanted_places))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, exact to the bit."""
        return {
            "schema_version": SCHEMA_VERSION,
            "unit_length": self.axes.unit_length,
            "mean": self.axes.mean.tolist(),
            "scale": self.axes.scale.tolist(),
            "components": self.axes.components.tolist(),
            "explained": self.axes.explained.tolist(),
            "centre": self.ellipse.centre.tolist(),
            "to_disk": self.ellipse.to_disk.tolist(),
            "gap": self.ellipse.gap,
            "rotation": self.rotation.tolist(),
        }

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> ChroMap:
        """The inverse of `to_json`.

        Args:
            where: for messages, the file.

        Raises:
            IntegrityError: it is none, or of a newer release.
        """
        try:
            if value["schema_version"] != SCHEMA_VERSION:
                raise IntegrityError(
                    f"{where}: its map has schema {value['schema_version']}, this release reads {SCHEMA_VERSION}; "
                    "update scantling, or draw it again",
                    code="E-FIG-09",
                )
            arrays = {
                name: np.array(value[name], dtype=np.float64)
                for name in ("mean", "scale", "components", "explained", "centre", "to_disk", "rotation")
            }
            n_components, n_features = arrays["components"].shape
            wanted = {
                "mean": (n_features,), "scale": (n_features,), "components": (n_components, n_features),
                "explained": (n_components,), "centre": (2,), "to_disk": (2, 2), "rotation": (2, 2),
            }  # fmt: skip
            if all(np.isfinite(array).all() and array.shape == wanted[name] for name, array in arrays.items()):
                axes = PrincipalAxes(
                    unit_length=bool(value["unit_length"]),
                    mean=arrays["mean"], scale=arrays["scale"],
                    components=arrays["components"], explained=arrays["explained"],
                )  # fmt: skip
                ellipse = Ellipse(centre=arrays["centre"], to_disk=arrays["to_disk"], gap=float(value["gap"]))
                return cls(axes=axes, ellipse=ellipse, rotation=arrays["rotation"])
        except (KeyError, TypeError, ValueError):
            pass
        raise IntegrityError(f"{where}: its map is damaged; draw it again", code="E-FIG-09")


def nearest_rotation(
    own: Float[np.ndarray, "point 2"], wanted: Float[np.ndarray, "point 2"]
) -> Float64[np.ndarray, "2 2"]:
    """The orthogonal matrix R, a reflection allowed, for which `own @ R` is nearest to `wanted` in squares.

    Raises:
        ValueError: the numbers of points differ, or there is none.

    Source: Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem".
    """
    if len(own) != len(wanted) or not len(own):
        raise ValueError(f"aligning maps: wanted the same points in both, got {len(own)} and {len(wanted)}")
    left, _, right = np.linalg.svd(own.astype(np.float64).T @ wanted.astype(np.float64))
    rotation: Float64[np.ndarray, "2 2"] = left @ right
    return rotation


def mean_hue_change(own: Float[np.ndarray, "point 2"], other: Float[np.ndarray, "point 2"]) -> float:
    """Mean angle between the hues of the same points in two maps, in degrees from 0 to 180.

    A point counts by the product of its radii, because the hue of a grey says nothing; NaN where all are grey.
    """
    own, other = own.astype(np.float64), other.astype(np.float64)
    weights = np.hypot(*own.T) * np.hypot(*other.T)
    across = own[:, 0] * other[:, 1] - own[:, 1] * other[:, 0]
    angles = np.degrees(np.abs(np.arctan2(across, np.einsum("ij,ij->i", own, other))))
    return float((weights * angles).sum() / weights.sum()) if weights.sum() > 0 else float("nan")


def _flat(axes: PrincipalAxes, features: Float[np.ndarray, "feature *place"]) -> Float64[np.ndarray, "point 2"]:
    """The first two scores of every vector; 0 for a second one where there is a single feature."""
    scores = axes.scores(features, 2).reshape(min(2, len(axes.components)), -1)
    points = np.zeros((scores.shape[1], 2))
    points[:, : len(scores)] = scores.T
    return points


def _sample(sets: Sequence[Float[np.ndarray, "feature _"]], seed: int) -> Float[np.ndarray, "point feature"]:
    """Points drawn from all sets alike, as rows."""
    ends = np.cumsum([points.shape[1] for points in sets])
    total = int(ends[-1]) if len(ends) else 0
    drawn = np.arange(total)
    if total > FIT_POINTS:
        drawn = np.sort(numpy_generator(seed, "points of a chromap").choice(total, FIT_POINTS, replace=False))
    parts = []
    for points, end in zip(sets, ends, strict=True):
        first = end - points.shape[1]
        own = drawn[(drawn >= first) & (drawn < end)] - first
        parts.append(points[:, own].T)
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)
