"""What the recipes of dual- and multi-view contrast share: settings, a network up to a tap, its pixels projected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from scantling.contrast.class_sampling import balanced_points
from scantling.contrast.diagnostics import Diagnostics
from scantling.contrast.pairing import PairRule
from scantling.contrast.points import Points, gather
from scantling.contrast.relations import SameClass
from scantling.data.plan import Plan
from scantling.errors import ConfigError
from scantling.networks.projection import QUARTER, PixelProjection, chosen_tap, dense_features, freeze_beyond
from scantling.recipes.pretraining import PretrainingConfig, network_of, require_classes, views_of
from scantling.recipes.recipe import Recipe
from scantling.shapes import IGNORE
from scantling.views.maker import ViewConfig
from scantling.views.published import lay_over, published_views
from scantling.views.view import ViewBatch

BACKGROUND: Final = 0
PUBLISHED_POINTS: Final = 1000
PUBLISHED_PIXELS: Final = 224 * 224
PUBLISHED_TEMPERATURE: Final = 0.7


class PixelContrastConfig(PretrainingConfig):
    """Views, network and pixels.

    The published run is of 224 pixels a side and 150,000 steps. For images and budgets a hundred times smaller three
    things differ by default, chosen on radiographs of patients nobody was scored on (`docs/lab-notes.md`): boxes of at
    least half of the image, the tap, and the temperature. `compat = "released"` brings all three back.

    Attributes:
        views: what differs from the published four, with larger boxes; with `views.image_of_view = "own"` all of them
            show the real image: the control at an equal number of views.
        tap: the feature map that is contrasted, such as "decoder.2"; "1/4" is the decoder level of a quarter of the
            image side, "" the finest, as published. What lies beyond is not computed, not learnt and not kept.
        points: places of each view, or of each pair of views; None: as dense as published, 1,000 on 224 x 224 pixels
            (2 %), and never more, so that the pairs of small views do not cost more than the network.
        temperature: divides the cosines; published 0.7.
        compat: "released" computes what the released code does, where it differs from the method. It knows no trust
            in labels and no partly labelled images.
    """

    views: ViewConfig = published_views().model_copy(update={"crop_area": (0.5, 1.0)})
    tap: str = QUARTER
    points: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    compat: Literal["intended", "released"] = "intended"

    unreleased: ClassVar[Mapping[str, Any]] = {}
    """Settings that the released code does not have, and what they are there."""

    @model_validator(mode="before")
    @classmethod
    def _released_means_as_published(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("compat") != "released":
            return values
        given = {"tap": "", "temperature": PUBLISHED_TEMPERATURE, **cls.unreleased, **values}
        if given.get("transforms") == "plan":
            return given
        return {**given, "views": lay_over(published_views(), given.get("views", {}))}

    @model_validator(mode="after")
    def _is_as_released(self) -> PixelContrastConfig:
        for name, value in self.unreleased.items() if self.compat == "released" else ():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"recipe.{name} = {getattr(self, name)!r}: the released code has no such thing; leave it out, or "
                    "set recipe.compat to 'intended'",
                    code="E-CFG-63",
                )
        return self


class PixelContrast(Recipe):
    """A network up to a tap, and the projection of its pixels."""

    learns: ClassVar = "features"
    published: ClassVar = ("settings.compat=released",)
    uses_unlabelled: ClassVar[bool] = True
    run_defaults: ClassVar = {
        "training": {
            "optimisation": {
                "learning_rate": 3e-3,
                "final_share": 1 / 3000,
                "weight_decay": 0.01,
                "warmup_fraction": 0.25,
                "gradient_clip": 1.0,
                "average_decay": 0.0,
            }
        }
    }
    """The published ones: 5 of 20 epochs of a rising rate, then a cosine to 1e-6; no averaged weights."""

    def __init__(self, config: PixelContrastConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        if self.from_labels:
            require_classes("this recipe", plan)
        self._views, self.points = views_of(config, plan), points_of(config, plan)
        self.network = network_of(plan, generator)
        self.tap = chosen_tap(self.network, config.tap)
        freeze_beyond(self.network, self.tap)
        self.projection = PixelProjection(
            self.network.taps[self.tap].channels, config.hidden, config.embedding, generator=generator
        )
        self.diagnostics = Diagnostics(plan.classes.names)

    def views(self) -> ViewConfig:
        return self._views

    def deployable(self) -> nn.Module:
        return self.network

    def embedded(
        self, batch: ViewBatch, points: Points, *, interpolation: Literal["linear", "nearest"] = "linear"
    ) -> Float[Tensor, "batch viewed point embedding"]:
        """The projected features of some places; only these are projected."""
        features = dense_features(self.network, batch.images, self.tap)
        result: Tensor = self.projection(gather(features, points, batch.view_shape, interpolation=interpolation))
        return result


def points_of(config: PixelContrastConfig, plan: Plan) -> int:
    """Places of a view: those asked for, or as dense as published; the released code always draws 1,000."""
    if config.points is not None:
        return config.points
    if config.compat == "released":
        return PUBLISHED_POINTS
    return min(PUBLISHED_POINTS, max(1, round(PUBLISHED_POINTS * math.prod(plan.patch_size) / PUBLISHED_PIXELS)))


def one_length(values: Any, share: str, mm: str) -> Any:
    """Settings in which a length in mm takes the place of a default share of the image side."""
    if isinstance(values, Mapping) and values.get(mm) is not None and share not in values:
        return {**values, share: None}
    return values


def require_one_length(share: float | None, mm: float | None, *, name: str) -> None:
    """Refuse a length that is given twice, or not at all.

    Raises:
        ConfigError: naming both settings.
    """
    if share is not None and mm is not None:
        raise ConfigError(
            f"recipe.{name} = {share:g} and recipe.{name}_mm = {mm:g}: one length in two ways; give it as a share of "
            "the image side or in mm",
            code="E-CFG-62",
        )
    if share is None and mm is None:
        raise ConfigError(
            f"recipe.{name}: no length; give it as a share of the image side, or as {name}_mm", code="E-CFG-62"
        )


def length_mm(share: float | None, mm: float | None, batch: ViewBatch) -> float:
    """A length in mm; as a share, of the shorter side of a view at its own size, in the slice for volumes.

    A view at its own size is the patch of the plan: the image, where images are not larger than that.
    """
    if mm is not None:
        return mm
    assert share is not None  # one of the two is given
    sides = [n * spacing for n, spacing in zip(batch.view_shape, batch.spacing_mm, strict=True)]
    return share * min(sides[-2:])


def inside_image(batch: ViewBatch) -> Bool[Tensor, "batch view *spatial"]:
    """Pixels of the image, whatever is known of them: a label that is not trusted says nothing against its pixel."""
    return (batch.weights > 0) | (batch.label_maps != IGNORE)


def labelled(batch: ViewBatch) -> Bool[Tensor, "batch view *spatial"]:
    """Pixels with a label that is trusted."""
    return (batch.weights > 0) & (batch.label_maps != IGNORE)


def class_rule(*, background_anchors: bool) -> PairRule:
    """Pixels of one class, as far as their labels are trusted; background is a class among others only if it is asked
    for, and otherwise a negative of the others."""
    return PairRule(SameClass() if background_anchors else SameClass(without=(BACKGROUND,)), trust=True)


def quota_points(
    batch: ViewBatch,
    n: int,
    rng: torch.Generator,
    *,
    n_classes: int,
    among: Bool[Tensor, "batch view *spatial"],
    views: Sequence[int],
) -> Points:
    """`n` pixels of each of some views, on average in equal numbers from the classes that the view shows."""
    labels, eligible = (torch.stack([maps[:, view] for view in views], dim=1) for maps in (batch.label_maps, among))
    points = balanced_points(labels, n, rng, classes=range(n_classes), among=eligible)
    return replace(points, views=tuple(views))


def anchor_labels(batch: ViewBatch, *, background_anchors: bool) -> Int[Tensor, "batch view *spatial"]:
    """The labels that anchors are drawn from, for the diagnostics; IGNORE elsewhere."""
    labels = torch.where(labelled(batch), batch.label_maps, IGNORE)
    return labels if background_anchors else labels.masked_fill(labels == BACKGROUND, IGNORE)
