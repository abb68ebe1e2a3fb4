"""Multi-view contrast: all views of all images in one pool, by distance in the image, or by class of silver labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from scantling.contrast.contrasting import contrast
from scantling.contrast.overlap import overlap_points
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels
from scantling.contrast.points import Points, tags_of
from scantling.contrast.relations import SameClass, Within
from scantling.contrast.released import in_image_sides, released_tags, same_grid_points
from scantling.contrast.sampling import random_points
from scantling.data.plan import Plan
from scantling.recipes.pixel_contrast import (
    PixelContrast,
    PixelContrastConfig,
    anchor_labels,
    class_rule,
    inside_image,
    labelled,
    length_mm,
    one_length,
    quota_points,
    require_one_length,
)
from scantling.views.view import ViewBatch


class MVDCLConfig(PixelContrastConfig):
    """Views, network, pixels and pairs.

    Attributes:
        radius, radius_mm: pixels of an image that are nearer than this are positives of each other, as a share of the
            image side or in mm.
        sampling: "overlap" draws pixels of each view that another view shows too, as the published settings ask for;
            "random" draws them anywhere in the image. The released code draws at random whatever is set.
    """

    radius: float | None = Field(default=0.1, gt=0)
    radius_mm: float | None = Field(default=None, gt=0)
    sampling: Literal["overlap", "random"] = "overlap"

    unreleased: ClassVar = {"radius_mm": None}

    @model_validator(mode="before")
    @classmethod
    def _mm_takes_the_place_of_the_share(cls, values: Any) -> Any:
        return one_length(values, "radius", "radius_mm")

    @model_validator(mode="after")
    def _has_one_radius(self) -> MVDCLConfig:
        require_one_length(self.radius, self.radius_mm, name="radius")
        return self


class SMVDCLConfig(PixelContrastConfig):
    """Views, network, pixels and pairs.

    Attributes:
        background_anchors: whether background pixels are anchors of each other; they are negatives of the classes in
            any case. In the released code the choice has no effect: they are.
        sampling: "random" draws labelled pixels anywhere in a view; "overlap" prefers those that another view shows
            too; "class_balanced" draws from the classes of a view alike, on average in equal numbers.
    """

    background_anchors: bool = False
    sampling: Literal["random", "overlap", "class_balanced"] = "random"

    unreleased: ClassVar = {"sampling": "random"}


@final
class MVDCL(PixelContrast):
    """MVD-CL: pixels of all views in one pool, positive where they are near in the source image.

    Views: the real image and counterfactuals of it, each cropped, turned and recoloured. Pixels: of each view, drawn
    for each view anew, where another view shows the place too. Pairs: nearer than a radius in the same image, in
    whichever view; all other pixels, of all images, are negatives. Loss: SupCon.

    Source: Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning for medical image
        segmentation", MVD-CL.
    Differs: the distance is in mm, so that it is the same along all axes; places are exact. `compat = "released"`
        takes the same random pixels of the grid in all views, and measures in image sides, half a pixel off.
    """

    config_type: ClassVar[type[MVDCLConfig]] = MVDCLConfig

    def __init__(self, config: MVDCLConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        self.config = config

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        c = self.config
        released = c.compat == "released"
        if released:
            points = same_grid_points(batch, self.points, rng)
            assert c.radius is not None  # in mm it is refused
            tags = in_image_sides(released_tags(points, batch), points, batch)
            rule = PairRule(Within(c.radius))
        else:
            among = inside_image(batch)
            draw = overlap_points if c.sampling == "overlap" else random_points
            points = draw(batch, self.points, rng, among=among)
            tags = tags_of(points, batch)
            radius = length_mm(c.radius, c.radius_mm, batch)
            rule = PairRule(Within(radius))
        embeddings = self.embedded(batch, points, interpolation="nearest" if released else "linear")
        pixels = Pixels(embeddings=embeddings.flatten(0, 2), tags=tags)
        if self.diagnostics is not None:
            self.diagnostics.observe("pixel_contrast", pixels, rule)
        return {"pixel_contrast": contrast(pixels, None, rule, temperature=c.temperature)}


@final
class SMVDCL(PixelContrast):
    """S-MVD-CL: MVD-CL with pixels of the same class, of any view and image, as positives.

    Targets: label maps, such as silver ones, each as far as it is trusted; a class that was not looked for in an image
    is not held against its background. A batch without labels gives a loss of 0.

    Source: Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning for medical image
        segmentation", S-MVD-CL.
    Differs: pixels are drawn anywhere, since classes need no second view of a place; anchors and positives are weighed
        by trust; background is no anchor. `compat = "released"` takes the same random pixels of the grid in all views,
        and background as anchors.
    """

    config_type: ClassVar[type[SMVDCLConfig]] = SMVDCLConfig
    uses_unlabelled: ClassVar[bool] = False
    from_labels: ClassVar[bool] = True

    def __init__(self, config: SMVDCLConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        self.config = config
        self.n_classes = len(plan.classes.names)

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        c = self.config
        released = c.compat == "released"
        with_background = c.background_anchors or released
        if released:
            points = same_grid_points(batch, self.points, rng)
            tags, rule = released_tags(points, batch), PairRule(SameClass())
        else:
            points = self._points(batch, rng)
            tags, rule = tags_of(points, batch), class_rule(background_anchors=with_background)
        embeddings = self.embedded(batch, points, interpolation="nearest" if released else "linear")
        pixels = Pixels(embeddings=embeddings.flatten(0, 2), tags=tags)
        if self.diagnostics is not None:
            labels = anchor_labels(batch, background_anchors=with_background)
            self.diagnostics.observe("pixel_contrast", pixels, rule, labels=labels)
        return {"pixel_contrast": contrast(pixels, None, rule, temperature=c.temperature)}

    def _points(self, batch: ViewBatch, rng: torch.Generator) -> Points:
        c, among = self.config, labelled(batch)
        if c.sampling == "class_balanced":
            views = range(c.views.n_views)
            points = quota_points(batch, self.points, rng, n_classes=self.n_classes, among=among, views=views)
            return replace(points, views=None)
        draw = overlap_points if c.sampling == "overlap" else random_points
        return draw(batch, self.points, rng, among=among)
